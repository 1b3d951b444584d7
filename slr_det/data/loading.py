"""Batches of frames, read by other processes without their errors becoming pages of traceback."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from slr_det.errors import DataError


class FrameLoader(DataLoader[Any]):
    """A loader like PyTorch's, but a DataError of a worker is the one line that it is without workers.

    PyTorch puts the worker's whole traceback into the message; here it is the cause of the error.
    """

    def __iter__(self) -> Any:
        """Yield the batches of one pass; DataError names the file that is missing or malformed."""
        try:
            yield from super().__iter__()
        except DataError as error:
            lines = str(error).strip().splitlines()
            if len(lines) == 1:
                raise
            raise DataError(lines[-1].partition(f"{DataError.__name__}: ")[2]) from error
