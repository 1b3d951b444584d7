"""Ground-truth sampling: objects of other frames are pasted into a training frame (Yan et al., SECOND, 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from slr_det.data.kitti.augment import Augmentation, Scene
from slr_det.data.kitti.calibration import Calibration
from slr_det.data.kitti.database import ObjectDatabase
from slr_det.pointcloud.boxes import points_in_boxes
from slr_det.pointcloud.rotated import overlap_bev

#: Square metres, seen from above, that two boxes must share to count as overlapping: more than float32 rounds by.
_TOUCH = 1e-4


@dataclass(frozen=True, eq=False)
class Ground:
    """Where the road of a frame is.

    Attributes:
        plane: (a, b, c, d), a x + b y + c z + d = 0 in the rectified camera frame, b other than 0.
        calibration: Of the frame.
    """

    plane: npt.NDArray[np.float64]
    calibration: Calibration

    def heights(self, centres: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return z of the road in the lidar frame (N,) where the camera's vertical through each centre meets it."""
        a, b, c, d = self.plane
        camera = self.calibration.lidar_to_rect(centres)
        camera[:, 1] = -(d + a * camera[:, 0] + c * camera[:, 2]) / b
        return self.calibration.rect_to_lidar(camera)[:, 2].astype(np.float32)


class ObjectSampler:
    """Pastes objects of the database, class by class.

    Which objects a frame gets depends on the seed, the epoch and the frame's index alone: in each epoch the objects of
    a class are put into an order of their own, frame i takes the next ``objects[class]`` from place i objects[class]
    on, and the order is a ring. So all objects are used equally often, as by OpenPCDet's walk through a shuffled list,
    whatever the number of workers and processes. No frame gets an object twice: a class with too few gives all it has.

    Args:
        database: The objects.
        classes: The classes of the model.
        settings: How many of each class, which ones.
        seed: 0 or more.
    """

    def __init__(
        self, database: ObjectDatabase, classes: Sequence[str], settings: Augmentation, seed: int
    ) -> None:
        self.database = database
        self.settings = settings
        self.seed = seed
        self.pools = {
            name: database.usable(name, settings.min_points, settings.dropped_levels)
            for name, count in settings.objects.items()
            if name in classes and count > 0
        }
        self._orders: tuple[int, list[npt.NDArray[np.int64]]] = (-1, [])

    def draw(self, name: str, count: int, epoch: int, index: int) -> npt.NDArray[np.int64]:
        """Return up to ``count`` different objects of a class (indices into the database) for frame ``index``."""
        if self._orders[0] != epoch:
            orders = [
                np.random.default_rng([self.seed, epoch, number]).permutation(pool)
                for number, pool in enumerate(self.pools.values())
            ]
            self._orders = (epoch, orders)
        order = self._orders[1][list(self.pools).index(name)]
        if not len(order):
            return order
        start = index * self.settings.objects[name]
        return order[(start + np.arange(min(count, len(order)))) % len(order)]

    def paste(self, scene: Scene, epoch: int, index: int, ground: Ground | None = None) -> Scene:
        """Add objects where they overlap no box of the frame, and no other object, as seen from above.

        Two drawn objects of one class that overlap are both left out, as in OpenPCDet. The points of the frame inside
        the boxes that were added are removed; the objects' own points come first.

        Args:
            scene: Boxes of every class take up room, also of those that are not trained on.
            epoch: 0 or more.
            index: Index of the frame, 0 or more.
            ground: The road, if known: objects are moved up or down to stand on it.
        """
        boxes = scene.boxes
        added = [np.zeros(0, np.int64)]
        for name in self.pools:
            count = self.settings.objects[name]
            if self.settings.fill:
                count -= int(np.count_nonzero(scene.names == name))
            if count <= 0:
                continue
            drawn = self.draw(name, count, epoch, index)
            drawn = drawn[_free(self.database.boxes[drawn], boxes)]
            boxes = np.concatenate((boxes, self.database.boxes[drawn]))
            added.append(drawn)
        chosen = np.concatenate(added)
        return self._add(scene, chosen, ground) if len(chosen) else scene

    def _add(self, scene: Scene, chosen: npt.NDArray[np.int64], ground: Ground | None) -> Scene:
        database = self.database
        boxes = database.boxes[chosen]
        if ground is not None and self.settings.road_planes:
            boxes[:, 2] = ground.heights(boxes[:, :3]) + boxes[:, 5] / 2
        points = np.concatenate([database.points_of(i) for i in chosen])
        points[:, :3] += np.repeat(boxes[:, :3], database.counts[chosen], axis=0)
        cleared = boxes.copy()
        cleared[:, 3:6] += np.array(self.settings.clearance, np.float32)
        inside = points_in_boxes(torch.from_numpy(scene.points), torch.from_numpy(cleared)).any(0).numpy()
        return Scene(
            np.concatenate((points, scene.points[~inside])),
            np.concatenate((scene.boxes, boxes)),
            np.concatenate((scene.names, database.names[chosen])),
        )


def _free(drawn: npt.NDArray[np.float32], taken: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Tell which boxes (N, 7) overlap neither one of ``taken`` (M, 7) nor another of their own."""
    rows = torch.from_numpy(drawn)
    shared = overlap_bev(rows, torch.from_numpy(np.concatenate((drawn, taken))))
    shared[:, : len(drawn)].fill_diagonal_(0)
    return np.asarray((shared <= _TOUCH).all(1).numpy())
