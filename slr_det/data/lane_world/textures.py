"""Random fields that every frame samples at its own places: made once in a process, the same in every one."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]

_SIDE = 1024


@cache
def clouds(octaves: int, smoothest: float = 6.0) -> Field:
    """Return fractal noise, (1024, 1024), mean 0 and deviation 1, that goes on over its borders.

    Args:
        octaves: The more, the finer its detail.
        smoothest: Waves of its coarsest octave along a side.
    """
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None]) * _SIDE
    finest = smoothest * 2**octaves
    with np.errstate(divide="ignore"):
        amplitude = np.where(frequency > 0, np.maximum(frequency, smoothest) ** -1.5, 0)
    amplitude *= np.exp(-((frequency / finest) ** 2))
    white = np.fft.rfft2(np.random.default_rng(1).standard_normal((_SIDE, _SIDE)))
    field = np.fft.irfft2(white * amplitude, (_SIDE, _SIDE))
    return _fixed(field / field.std())


@cache
def grain() -> Field:
    """Return noise without any order between pixels, (1024, 1024), mean 0 and deviation 1."""
    return _fixed(np.random.default_rng(2).standard_normal((_SIDE, _SIDE)))


def crop(field: Field, rng: np.random.Generator, height: int, width: int) -> Field:
    """Return a window of a field at a random place, which goes on over the field's borders."""
    top, left = (int(start) for start in rng.integers(_SIDE, size=2))
    rows = np.take(field, np.arange(top, top + height), axis=0, mode="wrap")
    return np.take(rows, np.arange(left, left + width), axis=1, mode="wrap")


def profile(field: Field, rng: np.random.Generator, stretch: float, count: int) -> npt.NDArray[np.float64]:
    """Return a line through a field, (count,): one value for every ``stretch`` samples, and straight lines between."""
    row = field[int(rng.integers(field.shape[0]))]
    at = int(rng.integers(field.shape[1])) + np.arange(count) / stretch
    return np.asarray(np.interp(at, np.arange(3 * len(row)), np.tile(row, 3)))


def _fixed(values: npt.NDArray[np.float64]) -> Field:
    """Shared by every frame, so nobody may write into it."""
    field = values.astype(np.float32)
    field.setflags(write=False)
    return field
