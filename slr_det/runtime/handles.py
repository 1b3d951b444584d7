"""What the runtime's library makes and Python holds: threads, packed convolutions and linear layers.

Each frees what it holds when Python lets go of it.
"""

from __future__ import annotations

import weakref
from ctypes import c_void_p
from typing import Any, ClassVar

import torch
from torch import Tensor

from slr_det.errors import ConfigError, RuntimeRefusedError
from slr_det.runtime.structs import ConvInfo

_NO_MEMORY, _TOO_LARGE = 1, 3


def check(status: int, what: str) -> None:
    """Turn a status of the library into an error: MemoryError, or RuntimeRefusedError with ``what`` in its line."""
    if status == 0:
        return
    if status == _NO_MEMORY:
        raise MemoryError(f"no memory for a {what} of the sparse runtime")
    reason = "is too large" if status == _TOO_LARGE else "has sizes or layouts that it cannot take"
    raise RuntimeRefusedError(f"the sparse runtime refuses a {what}: it {reason}")


def weights_address(tensor: Tensor | None, shape: tuple[int, ...]) -> tuple[Tensor | None, int | None]:
    """A contiguous float32 tensor on the CPU, which has to be kept, and its address; None of None.

    Raises:
        RuntimeRefusedError: The shape is another than the layouts say: the library would read what is not there.
    """
    if tensor is None:
        return None, None
    if tuple(tensor.shape) != shape:
        raise RuntimeRefusedError(
            f"the sparse runtime refuses weights of {tuple(tensor.shape)} where the layouts mean {shape}"
        )
    held = tensor.detach().to("cpu", torch.float32).contiguous()
    return held, held.data_ptr()


def _freed(owner: object, free: Any, handle: int | None) -> None:
    """Free what an object holds when it goes; not when Python ends, for threads may still be at it then."""
    weakref.finalize(owner, free, handle).atexit = False


class Pool:
    """Threads that runs share, the caller's own among them; one run at a time may use a pool.

    Attributes:
        threads: How many.
        handle: For the library.
    """

    def __init__(self, c: Any, threads: int) -> None:
        if threads < 1:
            raise ConfigError(f"threads is {threads}, expected 1 or more")
        self.handle: int | None = c.slr_pool_new(threads)
        if self.handle is None:
            raise MemoryError(f"no memory for {threads} threads of the sparse runtime")
        self.threads = int(c.slr_pool_threads(self.handle))
        _freed(self, c.slr_pool_free, self.handle)


class _Packed:
    """A layer that the library has packed."""

    _kind: ClassVar[str]
    _what: ClassVar[str]

    def __init__(self, c: Any, handle: c_void_p) -> None:
        self.handle = handle.value
        self.info = ConvInfo()
        getattr(c, f"slr_{self._kind}_describe")(self.handle, self.info)
        self._run = getattr(c, f"slr_{self._kind}_run")
        _freed(self, getattr(c, f"slr_{self._kind}_free"), self.handle)

    def run(self, data: int, out: int, workspace: int | None = None, pool: Pool | None = None) -> None:
        """Run from one address to another, which must not overlap; ``workspace`` has ``info.workspace`` floats."""
        status = self._run(self.handle, data, out, workspace, pool and pool.handle)
        if status:
            check(status, self._what)


class Conv(_Packed):
    """A packed convolution for one pair of layouts; the margins of its output have to be zero before each run.

    Attributes:
        info: Its size.
        handle: For the library.
    """

    _kind, _what = "conv", "convolution"


class Linear(_Packed):
    """A packed linear layer for one number of rows, which are contiguous.

    Attributes:
        info: Its size.
        handle: For the library.
    """

    _kind, _what = "linear", "linear layer"
