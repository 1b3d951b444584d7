"""Each function of the runtime's shared library, typed.

Everything that runs takes plain addresses (``tensor.data_ptr()``) and structs that were made before, so that a call
costs about a microsecond; whoever calls keeps the tensors alive and their layouts right. What is made from weights
takes tensors, and checks them.
"""

from __future__ import annotations

import ctypes
import hashlib
from ctypes import POINTER, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from slr_det.errors import RuntimeUnavailableError
from slr_det.runtime.handles import Conv, Linear, Pool, check, weights_address
from slr_det.runtime.structs import ABI, Activation, ConvInfo, ConvSpec, Isa, Layout

_LAYOUT = POINTER(Layout)
_INT32 = c_int32
#: Result and arguments of every function of csrc/slr_runtime.h.
SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "slr_abi": (c_int, ()),
    "slr_isa_available": (c_int, (c_int,)),
    "slr_best_isa": (c_int, ()),
    "slr_set_isa": (c_int, (c_int,)),
    "slr_get_isa": (c_int, ()),
    "slr_pool_new": (c_void_p, (c_int,)),
    "slr_pool_threads": (c_int, (c_void_p,)),
    "slr_pool_free": (None, (c_void_p,)),
    "slr_conv_new": (c_int, (POINTER(ConvSpec), c_void_p, c_void_p, _LAYOUT, _LAYOUT, POINTER(c_void_p))),
    "slr_conv_describe": (None, (c_void_p, POINTER(ConvInfo))),
    "slr_conv_run": (c_int, (c_void_p,) * 5),
    "slr_conv_free": (None, (c_void_p,)),
    "slr_linear_new": (
        c_int,
        (_INT32, _INT32, c_int64, c_void_p, c_void_p, _INT32, c_float, POINTER(c_void_p)),
    ),
    "slr_linear_describe": (None, (c_void_p, POINTER(ConvInfo))),
    "slr_linear_run": (c_int, (c_void_p,) * 5),
    "slr_linear_free": (None, (c_void_p,)),
    "slr_copy": (c_int, (_LAYOUT, c_void_p, _LAYOUT, c_void_p, _INT32, c_float, c_void_p)),
    "slr_add": (
        c_int,
        (_LAYOUT, c_void_p, _LAYOUT, c_void_p, _LAYOUT, c_void_p, _INT32, c_float, c_void_p),
    ),
    "slr_max_pool": (c_int, (_LAYOUT, c_void_p, _LAYOUT, c_void_p, *(_INT32,) * 6, c_void_p)),
    "slr_upsample": (c_int, (_LAYOUT, c_void_p, _LAYOUT, c_void_p, c_void_p)),
    "slr_peak_fma": (c_double, (c_double,)),
    "slr_bandwidth": (c_double, (c_int64, _INT32, c_double)),
}


class Library:
    """The loaded library; :func:`load` gives it.

    Args:
        path: The file, already checked.

    Raises:
        RuntimeUnavailableError: The system's loader refuses the file, or it has other functions than these.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._c: Any = ctypes.CDLL(str(path))
            for name, (result, arguments) in SIGNATURES.items():
                function = getattr(self._c, name)
                function.restype, function.argtypes = result, arguments
        except OSError as error:
            said = " ".join(str(error).split())
            raise RuntimeUnavailableError(f"{path} cannot be loaded ({said})") from error
        except AttributeError as error:
            raise RuntimeUnavailableError(
                f"{path} is not a library of this version ({' '.join(str(error).split())})"
            ) from error
        abi = self._c.slr_abi()
        if abi != ABI:
            raise RuntimeUnavailableError(f"{path} has interface {abi}, and this version needs {ABI}")

    # -- instructions -------------------------------------------------------------------------------------

    @property
    def isa(self) -> Isa:
        """The instructions that are in use."""
        return Isa(self._c.slr_get_isa())

    @property
    def best_isa(self) -> Isa:
        """The best instructions that this processor and this library have."""
        return Isa(self._c.slr_best_isa())

    def has_isa(self, isa: Isa) -> bool:
        """Whether this processor and this library have some instructions."""
        return bool(self._c.slr_isa_available(isa))

    def use_isa(self, isa: Isa) -> None:
        """Use some instructions for all that is made or run from now on; RuntimeUnavailableError without them."""
        if self._c.slr_set_isa(isa) != 0:
            able = ", ".join(other.name.lower() for other in Isa if self.has_isa(other))
            raise RuntimeUnavailableError(
                f"this processor or library has no {isa.name.lower()} instructions; it has: {able}"
            )

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, by which measured times of one library are not taken for another's."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    # -- what is made once --------------------------------------------------------------------------------

    def pool(self, threads: int) -> Pool:
        """Threads for runs, the caller's own among them; MemoryError where they cannot be started."""
        return Pool(self._c, threads)

    def conv(
        self, spec: ConvSpec, weight: Tensor, bias: Tensor | None, source: Layout, target: Layout
    ) -> Conv:
        """Pack a convolution for two layouts; the weights are copied.

        Args:
            spec: Kernel, strides, padding, groups, activation, pooling.
            weight: Float32 on the CPU, (out, in / groups, kernel_h, kernel_w); transposed: (in, out / groups, ...).
            bias: (out,) or None.
            source: Layout of the input.
            target: Layout of the output, its size after the pooling.

        Raises:
            RuntimeRefusedError: The library cannot do this layer in these layouts.
            MemoryError: No memory.
        """
        inputs, outputs = source.channels, target.channels
        rows, columns = (inputs, outputs) if spec.transposed else (outputs, inputs)
        shape = (rows, columns // max(spec.groups, 1), spec.kernel_h, spec.kernel_w)
        held_weight, address = weights_address(weight, shape)
        held_bias, bias_address = weights_address(bias, (outputs,))
        handle = c_void_p()
        check(self._c.slr_conv_new(spec, address, bias_address, source, target, handle), "convolution")
        del held_weight, held_bias  # alive until here
        return Conv(self._c, handle)

    def linear(
        self,
        weight: Tensor,
        bias: Tensor | None,
        rows: int,
        activation: int = Activation.NONE,
        slope: float = 0.0,
    ) -> Linear:
        """Pack a linear layer with weights (out, in) for ``rows`` inputs at once. Copies and raises as :meth:`conv`."""
        outputs, inputs = weight.shape
        held_weight, address = weights_address(weight, (outputs, inputs))
        held_bias, bias_address = weights_address(bias, (outputs,))
        handle = c_void_p()
        status = self._c.slr_linear_new(
            inputs, outputs, rows, address, bias_address, activation, slope, handle
        )
        check(status, "linear layer")
        del held_weight, held_bias
        return Linear(self._c, handle)

    # -- what is run often --------------------------------------------------------------------------------

    def copy(
        self,
        source: Layout,
        data: int,
        target: Layout,
        out: int,
        activation: int = Activation.NONE,
        slope: float = 0.0,
        pool: Pool | None = None,
    ) -> None:
        """Copy into another layout, through an activation; the margins of ``out`` become zero."""
        status = self._c.slr_copy(source, data, target, out, activation, slope, pool and pool.handle)
        if status:
            check(status, "copy")

    def add(
        self,
        first: Layout,
        a: int,
        second: Layout,
        b: int,
        target: Layout,
        out: int,
        activation: int = Activation.NONE,
        slope: float = 0.0,
        pool: Pool | None = None,
    ) -> None:
        """``out = activation(a + b)``; ``out`` may be one of the two."""
        status = self._c.slr_add(first, a, second, b, target, out, activation, slope, pool and pool.handle)
        if status:
            check(status, "sum")

    def max_pool(
        self,
        source: Layout,
        data: int,
        target: Layout,
        out: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        pool: Pool | None = None,
    ) -> None:
        """Maximum over windows; heights come first, ``padding`` is that above and at the left."""
        status = self._c.slr_max_pool(
            source, data, target, out, *kernel, *stride, *padding, pool and pool.handle
        )
        if status:
            check(status, "maximum")

    def upsample(self, source: Layout, data: int, target: Layout, out: int, pool: Pool | None = None) -> None:
        """Enlarge by whole factors, which follow from the sizes."""
        status = self._c.slr_upsample(source, data, target, out, pool and pool.handle)
        if status:
            check(status, "enlargement")

    # -- the machine --------------------------------------------------------------------------------------

    def peak_fma(self, seconds: float) -> float:
        """Floating-point operations per second of one thread that only multiplies and adds, in registers.

        Measured with the instructions in use, for about so many seconds.
        """
        return float(self._c.slr_peak_fma(seconds))

    def bandwidth(self, size: int, seconds: float, shift: int = 0) -> float:
        """Bytes per second that one thread reads from a buffer of ``size`` bytes, over and over.

        With a ``shift`` of 1 to 15 floats the loads do not begin where a cache line does.
        """
        return float(self._c.slr_bandwidth(size, shift, seconds))
