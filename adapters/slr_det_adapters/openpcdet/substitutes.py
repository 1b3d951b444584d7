"""Stand-ins for packages that OpenPCDet imports at its start, and that a run of a detector on KITTI does not need.

Each is used where the package is missing only, and for OpenPCDet's modules only: see :mod:`.inject`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slr_det.errors import MissingExtraError
from slr_det_adapters.substitutes import module, unavailable


class EasyDict(dict[str, Any]):
    """A dictionary whose keys are attributes as well; dictionaries inside it, also in lists, become such ones."""

    def __init__(self, given: Mapping[str, Any] | None = None, **more: Any) -> None:
        super().__init__()
        self.update(given, **more)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _converted(value))

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    def __delattr__(self, key: str) -> None:
        try:
            del self[key]
        except KeyError:
            raise AttributeError(key) from None

    def update(self, given: Mapping[str, Any] | None = None, **more: Any) -> None:  # type: ignore[override]
        """Set every item of a mapping and of the keywords."""
        for key, value in {**(given or {}), **more}.items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, which becomes ``default`` where there is none."""
        if key not in self:
            self[key] = default
        return self[key]


def _converted(value: Any) -> Any:
    if isinstance(value, Mapping) and not isinstance(value, EasyDict):
        return EasyDict(value)
    if isinstance(value, list | tuple):
        return type(value)(_converted(item) for item in value)
    return value


def packages() -> dict[str, Callable[[], list[ModuleType]]]:
    """For every package that can be missing: what makes the modules that stand in for it."""
    return {
        "easydict": lambda: [module("easydict", EasyDict=EasyDict)],
        "SharedArray": lambda: [
            unavailable(
                "SharedArray",
                "USE_SHARED_MEMORY needs SharedArray; run: uv pip install SharedArray, or turn it off",
            )
        ],
        "pyquaternion": lambda: [
            unavailable("pyquaternion", "this data set needs pyquaternion; run: uv pip install pyquaternion")
        ],
        "cv2": lambda: [
            unavailable("cv2", "this data set needs cv2; run: uv pip install opencv-python-headless")
        ],
        "skimage": _skimage,
        "numba": lambda: [module("numba", jit=_jit, njit=_jit, prange=range)],
    }


def argo2() -> ModuleType:
    """The Argoverse 2 data set, whose packages (av2, kornia) are wanted as soon as any data set is imported."""
    sentence = "the Argoverse 2 data set needs av2 and kornia; run: uv pip install av2 kornia"

    class Argo2Dataset:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise MissingExtraError(sentence)

    return module("argo2_dataset", Argo2Dataset=Argo2Dataset)


def rotate_iou() -> ModuleType:
    """Rotated overlap of rectangles for OpenPCDet's KITTI evaluation, which has it for numba.cuda only."""
    return module("rotate_iou", rotate_iou_gpu_eval=_rotate_iou_eval)


def _rotate_iou_eval(
    boxes: NDArray[Any], query_boxes: NDArray[Any], criterion: int = -1, device_id: int = 0
) -> NDArray[Any]:
    """Overlap of rectangles (x, z, length, width, angle) in the camera's ground plane.

    Args:
        boxes: (N, 5).
        query_boxes: (K, 5).
        criterion: -1 for intersection over union, 0 and 1 for over the area of the box or the query box, 2 for the
            area of the intersection itself.
        device_id: Not used; the computation is on the CPU.

    Returns:
        (N, K), in the type of ``boxes``.
    """
    from slr_det.pointcloud.rotated import overlap_bev

    shape = len(boxes), len(query_boxes)
    if 0 in shape:
        return np.zeros(shape, dtype=boxes.dtype)
    area = overlap_bev(_upright(boxes), _upright(query_boxes)).numpy()
    first = (boxes[:, 2] * boxes[:, 3])[:, None]
    second = (query_boxes[:, 2] * query_boxes[:, 3])[None]
    whole = {-1: first + second - area, 0: first, 1: second}.get(criterion, np.ones(shape))
    return np.asarray(area / np.maximum(whole, np.finfo(np.float32).tiny), dtype=boxes.dtype)


def _upright(rectangles: NDArray[Any]) -> torch.Tensor:
    """(N, 5) rectangles as (N, 7) boxes. Its angles are clockwise, as rotation_y is in the (x, z) plane."""
    x, z, length, width, angle = np.asarray(rectangles, dtype=np.float64).T
    flat = np.zeros_like(x)
    return torch.from_numpy(np.stack([x, z, flat, length, width, flat + 1, -angle], axis=1))


def _jit(*args: Any, **_: Any) -> Any:
    """``numba.jit`` with and without arguments, compiling nothing."""
    if len(args) == 1 and callable(args[0]):
        return args[0]
    return lambda function: function


def _skimage() -> list[ModuleType]:
    sentence = "this data set needs scikit-image; run: uv pip install scikit-image"
    io = module("skimage.io", imread=_imread)
    transform = unavailable("skimage.transform", sentence)
    return [module("skimage", io=io, transform=transform), io, transform]


def _imread(path: str | Path) -> NDArray[Any]:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)
