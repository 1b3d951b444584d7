"""What a PointPillars is made of, as plain data; the shapes of every weight follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from slr_det.errors import ConfigError, nearest
from slr_det.models.reading import plain, read

#: A grid line may miss the end of the range by this share of a voxel: 69.12 / 0.16 is not exactly 432.
_SLACK = 1e-3
# What a message is about where no file is.
_OURS = "pointpillars"


@dataclass(frozen=True)
class AnchorClass:
    """The anchors of one class: every size in every rotation, at every cell of the head's grid.

    Attributes:
        name: The class, one of the configuration's ``classes``.
        sizes: Rows of dx, dy, dz in metres.
        bottom: Height of the anchors' lower faces in the lidar frame, metres.
        rotations: Headings in radians.
        matched: A ground truth takes every anchor that overlaps it by this IoU (of the boxes seen from above, turned
            to the nearest axis).
        unmatched: An anchor that overlaps no ground truth of its class by this IoU is background; between the two it
            takes no part in the loss.
        centred: Put anchors at the middle of each cell; otherwise they are spread from the first to the last metre of
            the range.
    """

    name: str
    sizes: tuple[tuple[float, float, float], ...]
    bottom: float
    rotations: tuple[float, ...] = (0.0, 1.57)
    matched: float = 0.6
    unmatched: float = 0.45
    centred: bool = False


@dataclass(frozen=True)
class PointPillarsConfig:
    """A PointPillars: its classes, its grid, its layers, its losses and what counts as a detection.

    The defaults are those of OpenPCDet's ``kitti_models/pointpillar.yaml``.

    Attributes:
        classes: Class names; a class's label is its position here, counted from 1.
        anchors: Anchors, in the order of the channels of the head's outputs.
        point_range: x, y, z where the grid begins and x, y, z where it ends, metres.
        voxel_size: Size of a pillar in x, y and z, metres; z is the whole height of the range.
        max_points: Points of a pillar that are looked at.
        max_voxels: Pillars of a frame that are looked at, in training and in evaluation.
        point_features: Numbers per point: x, y, z and what a scanner adds (reflectance).
        pillar_filters: Width of each layer of the pillar feature net.
        layers: 3x3 convolutions of each block of the backbone behind its first, strided one.
        strides: Stride of each block.
        filters: Width of each block.
        up_strides: By what each block's output is enlarged again; all must come out at one size.
        up_filters: Width of each enlarged output.
        direction_bins: Parts of the circle that the direction classifier tells apart.
        direction_offset: Where the first part begins, radians.
        direction_limit: Offset of the half turn that decoding takes a heading modulo, in periods.
        class_weight: Weight of the classification loss.
        box_weight: Weight of the box loss.
        direction_weight: Weight of the direction loss.
        code_weights: Weight of each of the seven numbers of a box in the box loss.
        score_threshold: Least score of a detection.
        nms_threshold: Of two detections that overlap by more than this IoU, seen from above, one is dropped.
        nms_pre: Detections that enter the suppression.
        nms_post: Detections that leave it.

    Raises:
        ConfigError: The numbers do not fit together; all problems at once.
    """

    classes: tuple[str, ...]
    anchors: tuple[AnchorClass, ...]
    point_range: tuple[float, float, float, float, float, float]
    voxel_size: tuple[float, float, float]
    max_points: int = 32
    max_voxels: tuple[int, int] = (16000, 40000)
    point_features: int = 4
    pillar_filters: tuple[int, ...] = (64,)
    layers: tuple[int, ...] = (3, 5, 5)
    strides: tuple[int, ...] = (2, 2, 2)
    filters: tuple[int, ...] = (64, 128, 256)
    up_strides: tuple[int, ...] = (1, 2, 4)
    up_filters: tuple[int, ...] = (128, 128, 128)
    direction_bins: int = 2
    direction_offset: float = 0.78539
    direction_limit: float = 0.0
    class_weight: float = 1.0
    box_weight: float = 2.0
    direction_weight: float = 0.2
    code_weights: tuple[float, ...] = (1.0,) * 7
    score_threshold: float = 0.1
    nms_threshold: float = 0.01
    nms_pre: int = 4096
    nms_post: int = 500

    def __post_init__(self) -> None:
        problems = [*self._of_grid(), *self._of_layers(), *self._of_anchors()]
        if problems:
            raise ConfigError([f"{_OURS}: {problem}" for problem in problems])

    @property
    def grid(self) -> tuple[int, int]:
        """Pillars along x and along y."""
        low, high = self.point_range[:2], self.point_range[3:5]
        nx, ny = (
            round((end - start) / size)
            for start, end, size in zip(low, high, self.voxel_size[:2], strict=True)
        )
        return nx, ny

    @property
    def head_stride(self) -> int:
        """Pillars per cell of the head's grid, along x and along y."""
        return self.strides[0] // self.up_strides[0]

    @property
    def head_grid(self) -> tuple[int, int]:
        """Cells of the head's grid along x and along y."""
        nx, ny = self.grid
        return nx // self.head_stride, ny // self.head_stride

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at each cell of the head's grid."""
        return sum(len(anchor.sizes) * len(anchor.rotations) for anchor in self.anchors)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (lists and numbers, as YAML and JSON have them) that :meth:`from_dict` reads back."""
        found: dict[str, Any] = plain(asdict(self))
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = _OURS) -> PointPillarsConfig:
        """Read what :meth:`to_dict` wrote, or a user did.

        Args:
            data: Values by attribute name; those with a default may be missing.
            source: File or key that the data come from, for the messages.

        Raises:
            ConfigError: Unknown or missing keys, values of the wrong kind, numbers that do not fit together.
        """
        problems: list[str] = []
        values = read(cls, data, source, problems, {"anchors": AnchorClass})
        if problems:
            raise ConfigError(problems)
        try:
            return cls(**values)
        except ConfigError as error:
            said = [f"{source}{problem.removeprefix(_OURS)}" for problem in error.problems]
            raise ConfigError(said) from None

    def _of_grid(self) -> list[str]:
        problems = []
        for axis in range(3):
            start, end, size = self.point_range[axis], self.point_range[axis + 3], self.voxel_size[axis]
            name = "xyz"[axis]
            if not start < end or size <= 0:
                problems.append(
                    f"range {start:g} to {end:g} with voxels of {size:g} m along {name}: expected an end behind the "
                    "start and a size above 0"
                )
                continue
            cells = (end - start) / size
            if abs(cells - round(cells)) > _SLACK or round(cells) < 1:
                problems.append(
                    f"range {start:g} to {end:g} along {name} is {cells:.4g} voxels of {size:g} m, expected a whole "
                    "number"
                )
            elif axis == 2 and round(cells) != 1:
                problems.append(
                    f"voxel_size: {size:g} m along z, expected the height of the range, {end - start:g} m"
                )
        return problems

    def _of_layers(self) -> list[str]:
        lists = {"strides": self.strides, "filters": self.filters, "up_strides": self.up_strides}
        lists["up_filters"] = self.up_filters
        problems = [
            f"{name}: {len(values)} numbers for {len(self.layers)} blocks (layers), expected as many"
            for name, values in lists.items()
            if len(values) != len(self.layers)
        ]
        if not self.layers or not self.pillar_filters:
            problems.append("layers and pillar_filters: expected at least one number in each")
        least = {"layers": (self.layers, 0), "pillar_filters": (self.pillar_filters, 1)}
        least |= {name: (values, 1) for name, values in lists.items()}
        least |= {"max_voxels": (self.max_voxels, 1), "max_points": ((self.max_points,), 1)}
        least |= {
            "point_features": ((self.point_features,), 3),
            "direction_bins": ((self.direction_bins,), 1),
        }
        least |= {"nms_pre": ((self.nms_pre,), 1), "nms_post": ((self.nms_post,), 1)}
        problems += [
            f"{name}: {min(values)}, expected at least {low}"
            for name, (values, low) in least.items()
            if values and min(values) < low
        ]
        if any(width % 2 for width in self.pillar_filters[:-1]):
            problems.append(
                f"pillar_filters: {list(self.pillar_filters)}, expected even widths but for the last"
            )
        if len(self.code_weights) != 7:
            problems.append(f"code_weights: {len(self.code_weights)} numbers, expected 7")
        if problems:
            return problems
        reached = [math.prod(self.strides[: i + 1]) / up for i, up in enumerate(self.up_strides)]
        if len(set(reached)) > 1 or reached[0] != int(reached[0]):
            problems.append(
                f"strides {list(self.strides)} with up_strides {list(self.up_strides)}: the blocks' outputs come out "
                f"at strides {', '.join(f'{stride:g}' for stride in reached)}, expected one whole number"
            )
        whole = math.prod(self.strides)
        problems += [
            f"grid of {cells} pillars along {name}, expected a multiple of {whole} (the product of the strides)"
            for name, cells, size in zip("xy", self._cells(), self.voxel_size[:2], strict=True)
            if size > 0 and cells % whole
        ]
        return problems

    def _cells(self) -> tuple[int, int]:
        return (0, 0) if min(self.voxel_size) <= 0 else self.grid

    def _of_anchors(self) -> list[str]:
        problems = []
        if not self.classes:
            problems.append("classes: none, expected at least one name")
        if len(set(self.classes)) != len(self.classes):
            problems.append(f"classes: {', '.join(self.classes)}, expected each name once")
        for anchor in self.anchors:
            if anchor.name not in self.classes:
                problems.append(
                    f"anchors of class '{anchor.name}'{nearest(anchor.name, self.classes)}, expected one of "
                    f"{', '.join(self.classes)}"
                )
            if (
                not anchor.sizes
                or not anchor.rotations
                or min((min(s) for s in anchor.sizes), default=0) <= 0
            ):
                problems.append(
                    f"anchors of '{anchor.name}': expected at least one size of three numbers above 0 and one rotation"
                )
            if not 0 <= anchor.unmatched <= anchor.matched <= 1:
                problems.append(
                    f"anchors of '{anchor.name}': unmatched {anchor.unmatched:g}, matched {anchor.matched:g}, expected "
                    "0 <= unmatched <= matched <= 1"
                )
        named = {anchor.name for anchor in self.anchors}
        problems += [f"class '{name}' has no anchors" for name in self.classes if name not in named]
        return problems
