"""The handwritten digits that scikit-learn carries: 1,797 images of 8 x 8 pixels, no download."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

from slr_det.data.splits import ClassificationData, MemorySplit
from slr_det.data.subset import stratified
from slr_det.errors import MissingExtraError

VAL_IMAGES = 500
#: Of the 1,297 training images, pixels in [0, 1]; a test computes them anew.
MEAN = (0.305688,)
STD = (0.375799,)

#: Fixed: which images validate does not depend on the seed of a run.
_SPLIT_SEED = (1797,)
_BRIGHTEST = 16


def load() -> ClassificationData:
    """Return the digits, grey, as 1,297 images for training and 500 (50 a class) for validation.

    The source's pixels are counts from 0 to 16 and become 0 to 255, rounded.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    bunch = _sklearn_datasets().load_digits()
    pixels = np.rint(np.asarray(bunch.images) * (255 / _BRIGHTEST)).astype(np.uint8)
    labels = np.asarray(bunch.target).astype(np.int64)
    chosen = stratified(labels, 10, VAL_IMAGES, _SPLIT_SEED)
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    every = MemorySplit(torch.from_numpy(pixels[:, None]), torch.from_numpy(labels))
    return ClassificationData(
        tuple(str(digit) for digit in range(10)),
        every.take(rest),
        every.take(chosen),
        channels=1,
        size=(8, 8),
        mean=MEAN,
        std=STD,
    )


def _sklearn_datasets() -> Any:
    try:
        return importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise MissingExtraError(
            'the digits come with scikit-learn, which is not installed: uv pip install "slr-det[classify]"'
        ) from error
