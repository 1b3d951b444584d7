"""Is one encoded image whole, how large is it, and what are its pixels?"""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from slr_det.errors import DataError

#: Pillow knows formats that call other programs to decode; data sets are made of these. MPO, which some cameras write
#: as .jpg, is found as a JPEG.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
#: What whole files of a format have near their end; cameras and editors may write a little behind it.
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 1024

# ultralytics replaces Image.open by one that, for an unreadable image, imports a decoder that may be missing.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    ImportError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def inspect(path: str, encoded: bytes | None = None) -> tuple[int, int] | str:
    """Look at the header and the end of an image, without decoding it.

    Args:
        path: The file.
        encoded: Its bytes where they are in memory already.

    Returns:
        (height, width) in pixels, or in a few words what is wrong: a missing or empty file, no image, or a JPEG or PNG
        that was cut off.
    """
    try:
        with _stream(path, encoded) as stream:
            length = stream.seek(0, io.SEEK_END)
            if length == 0:
                return "empty file"
            stream.seek(max(0, length - _TAIL))
            tail = stream.read()
            stream.seek(0)
            with Image.open(stream, formats=_FORMATS) as image:
                width, height = image.size
                end = _ENDS.get(image.format or "")
    except _UNREADABLE as error:
        return _reason(error)
    return (height, width) if end is None or end in tail else "cut off: its end marker is missing"


def decode(path: str, encoded: bytes | None = None) -> Image.Image:
    """Decode an image in RGB, its pixels as stored.

    Raises:
        DataError: it cannot be decoded.
    """
    try:
        with _stream(path, encoded) as stream, Image.open(stream, formats=_FORMATS) as image:
            return image.convert("RGB")
    except _UNREADABLE as error:
        raise DataError(
            f"{path}: cannot be decoded ({_reason(error)}); replace or delete this image"
        ) from error


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as uint8 (3, height, width)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def _stream(path: str, encoded: bytes | None) -> BinaryIO:
    return open(path, "rb") if encoded is None else io.BytesIO(encoded)  # noqa: PTH123


def _reason(error: BaseException) -> str:
    # Pillow names the stream, which says nothing, instead of the file.
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]
