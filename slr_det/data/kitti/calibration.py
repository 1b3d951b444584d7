"""The calibration of a KITTI frame: from the laser scanner to the rectified camera, and on to the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slr_det.data.reading import read_text
from slr_det.errors import DataError

Array = npt.NDArray[np.float64]

#: Lines of a calib file that are needed, and the shapes of their matrices.
_NEEDED = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Matrices of the left colour camera, float64, named as in KITTI's development kit.

    Attributes:
        P2: (3, 4), rectified camera frame to pixels, homogeneous.
        R0: (3, 3), rotation that rectifies the camera frame.
        V2C: (3, 4), lidar frame to camera frame: rotation and translation in metres.

    A point x of the lidar frame (x forward, y left, z up) is R0 V2C (x, 1) in the rectified camera frame (x right, y
    down, z forward).
    """

    P2: Array
    R0: Array
    V2C: Array

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Read a file of lines ``name: numbers``.

        Raises:
            DataError: the file is missing, lacks P2, R0_rect or Tr_velo_to_cam, one of them has the wrong number of
                values or one that is no finite number, or the map to the camera cannot be inverted.
        """
        found: dict[str, Array] = {}
        for number, name, words in _lines(path):
            if name not in _NEEDED:
                continue
            shape = _NEEDED[name]
            try:
                values = np.array([float(word) for word in words])
            except ValueError:
                values = np.full(len(words), np.nan)
            if values.size != shape[0] * shape[1] or not np.isfinite(values).all():
                raise DataError(
                    f"{path}:{number}: {name} has {len(words)} values ('{' '.join(words):.40}'), "
                    f"expected {shape[0] * shape[1]} finite numbers"
                )
            found[name] = values.reshape(shape)
        missing = [name for name in _NEEDED if name not in found]
        if missing:
            raise DataError(
                f"{path}: no line '{missing[0]}:', expected {', '.join(_NEEDED)}; is the calib file complete?"
            )
        calibration = cls(found["P2"], found["R0_rect"], found["Tr_velo_to_cam"])
        if abs(np.linalg.det(calibration.to_rect[:3, :3])) < 1e-6:
            raise DataError(
                f"{path}: R0_rect times Tr_velo_to_cam cannot be inverted, expected two rotations (determinant 1)"
            )
        return calibration

    @cached_property
    def to_rect(self) -> Array:
        """(4, 4), homogeneous lidar coordinates to the rectified camera frame: R0 V2C."""
        matrix = np.eye(4)
        matrix[:3] = self.R0 @ self.V2C
        return matrix

    @cached_property
    def to_lidar(self) -> Array:
        """(4, 4), the inverse of :attr:`to_rect`."""
        return np.linalg.inv(self.to_rect).astype(np.float64)

    def lidar_to_rect(self, xyz: npt.ArrayLike) -> Array:
        """Map points (N, 3) of the lidar frame to the rectified camera frame; metres."""
        return np.asarray(xyz, np.float64) @ self.to_rect[:3, :3].T + self.to_rect[:3, 3]

    def rect_to_lidar(self, xyz: npt.ArrayLike) -> Array:
        """Map points (N, 3) of the rectified camera frame to the lidar frame; metres."""
        return np.asarray(xyz, np.float64) @ self.to_lidar[:3, :3].T + self.to_lidar[:3, 3]

    def rect_to_image(self, xyz: npt.ArrayLike) -> tuple[Array, Array]:
        """Project points (N, 3) of the rectified camera frame.

        Returns:
            Pixels (N, 2), u to the right and v down, and depths (N,) in metres. Pixels of points with depth 0 or less
            mean nothing. As in OpenPCDet the pixels are P2's first two rows divided by z alone, without the few
            millimetres that P2's third row adds.
        """
        rect = np.asarray(xyz, np.float64)
        projected = rect @ self.P2[:, :3].T
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = (projected[:, :2] + self.P2[:2, 3]) / rect[:, 2:3]
        return pixels, projected[:, 2]

    def in_view(self, xyz: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Tell which points the camera sees.

        Args:
            xyz: (N, 3) or wider, lidar frame.
            shape: Height and width of the picture in pixels.

        Returns:
            (N,), True where the depth is above 0, 0 <= u < width and 0 <= v < height.
        """
        height, width = shape
        # u and v times the depth, and the depth: bounds on them need no division, and no points behind the camera.
        rows = np.vstack((self.P2[:2] @ self.to_rect, self.to_rect[2])).astype(np.float32)
        columns = np.ascontiguousarray(xyz[:, :3].T)
        u, v, depth = rows[:, :3] @ columns + rows[:, 3:]
        seen: npt.NDArray[np.bool_] = depth > 0
        for scaled, limit in ((u, width), (v, height)):
            seen &= (scaled >= 0) & (scaled < limit * depth)
        return seen


def _lines(path: str | Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield line number, name and values of each line that has a name."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name, colon, rest = line.partition(":")
        if colon:
            yield number, name.strip(), rest.split()
