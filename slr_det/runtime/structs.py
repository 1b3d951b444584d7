"""The structs and numbers of the runtime's C interface (csrc/slr_runtime.h), field by field."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64
from enum import IntEnum

#: Version of the interface; a library with another one is refused.
ABI = 1
#: Floats that must be readable behind the last plane of a padded tensor.
SLACK = 32


class Isa(IntEnum):
    """Instructions that the kernels are written in."""

    PORTABLE = 0
    AVX2 = 1
    AVX512 = 2
    NEON = 3


class Activation(IntEnum):
    """What is done to a sum at the end."""

    NONE = 0
    RELU = 1
    LEAKY_RELU = 2
    SILU = 3


class Layout(ctypes.Structure):
    """Where the numbers of a float32 tensor lie; distances in floats.

    Attributes:
        images: Batch.
        channels: Channels.
        height: Rows of the picture.
        width: Columns of the picture.
        origin: From the address that is passed to image 0, channel 0, row 0, column 0.
        image: From an image to the next.
        plane: From a channel to the next.
        row: From a row to the next.
        above: Rows of zeros above the picture, and as many below it.
        left: Columns of zeros to the left; those to the right of a row are the next row's.
    """

    _fields_ = (
        ("images", c_int32),
        ("channels", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("origin", c_int64),
        ("image", c_int64),
        ("plane", c_int64),
        ("row", c_int32),
        ("above", c_int32),
        ("left", c_int32),
    )
    images: int
    channels: int
    height: int
    width: int
    origin: int
    image: int
    plane: int
    row: int
    above: int
    left: int

    @classmethod
    def contiguous(cls, images: int, channels: int, height: int, width: int) -> Layout:
        """The layout of a plain contiguous tensor, without margins."""
        plane = height * width
        return cls(images, channels, height, width, 0, channels * plane, plane, width, 0, 0)


class ConvSpec(ctypes.Structure):
    """A convolution; heights before widths.

    Attributes:
        kernel_h: Height of the kernel; ``kernel_w`` its width, and so on.
        pad_top: Rows of zeros above the input; those below follow from the output's size.
        groups: Groups.
        transposed: 1 for a transposed convolution whose kernel equals its stride, without padding.
        activation: An :class:`Activation`.
        slope: Of a leaky ReLU, below zero.
        pool: 2 where a maximum over 2 x 2 with stride 2 follows the activation, else 0.
    """

    _fields_ = (
        ("kernel_h", c_int32),
        ("kernel_w", c_int32),
        ("stride_h", c_int32),
        ("stride_w", c_int32),
        ("dilation_h", c_int32),
        ("dilation_w", c_int32),
        ("pad_top", c_int32),
        ("pad_left", c_int32),
        ("groups", c_int32),
        ("transposed", c_int32),
        ("activation", c_int32),
        ("slope", c_float),
        ("pool", c_int32),
    )
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    pad_top: int
    pad_left: int
    groups: int
    transposed: int
    activation: int
    slope: float
    pool: int


class ConvInfo(ctypes.Structure):
    """What became of a convolution.

    Attributes:
        nonzeros: Weights kept.
        macs: Multiply-adds for all images, without those of the margins.
        bytes: That the packed weights take.
        workspace: Floats that a run needs; 0 where the input's margins suffice.
    """

    _fields_ = (
        ("nonzeros", c_int64),
        ("macs", c_int64),
        ("bytes", c_int64),
        ("workspace", c_int64),
    )
    nonzeros: int
    macs: int
    bytes: int
    workspace: int
