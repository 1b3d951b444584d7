"""What a parsingNet is made of, as plain data; the shapes of every weight follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from slr_det.errors import ConfigError, nearest
from slr_det.models.parsingnet.resnet import DEPTHS, widths
from slr_det.models.reading import plain, read

#: Row anchors are heights in a picture of that many rows, whatever the size of the network's input is.
ANCHOR_HEIGHT = 288
#: TuSimple's row anchors: the benchmark's heights 160, 170, ... 710 of 720.
TUSIMPLE_ROWS = tuple(range(64, 288, 4))
#: The network sees every part of its input by cells of that many pixels.
STRIDE = 32
#: Rows that the shape loss needs: it compares a lane's direction between the rows of the upper half.
_LEAST_ROWS = 4


@dataclass(frozen=True)
class ParsingNetConfig:
    """A parsingNet: its backbone, its grid, its layers and its losses.

    The defaults are those of Ultra-Fast-Lane-Detection's ``configs/tusimple.py``.

    Attributes:
        backbone: Depth of the ResNet, one of ``DEPTHS``.
        griding: Cells that a row is divided into; one class more says that the lane has no point in the row.
        row_anchors: Heights at which lanes are looked for, in a picture of ``ANCHOR_HEIGHT`` rows, from top to bottom.
        lanes: Lanes that are told apart.
        size: Height and width of the network's input in pixels.
        aux: Whether it has the auxiliary segmentation head, which takes part in training alone.
        width: Multiplies the number of channels of the backbone and the auxiliary head.
        hidden: Width of the hidden layer of ``cls``.
        pool: Channels that the backbone's features are reduced to before ``cls``.
        similarity_weight: Weight of the loss on differences between neighbouring rows (upstream's ``sim_loss_w``).
        shape_weight: Weight of the loss on bends of lanes (upstream's ``shp_loss_w``).
        aux_weight: Weight of the auxiliary head's loss.

    Raises:
        ConfigError: The numbers do not fit together; all problems at once.
    """

    backbone: str = "18"
    griding: int = 100
    row_anchors: tuple[int, ...] = TUSIMPLE_ROWS
    lanes: int = 4
    size: tuple[int, int] = (288, 800)
    aux: bool = True
    width: float = 1.0
    hidden: int = 2048
    pool: int = 8
    similarity_weight: float = 1.0
    shape_weight: float = 0.0
    aux_weight: float = 1.0

    def __post_init__(self) -> None:
        problems = [*self._of_layers(), *self._of_grid()]
        if problems:
            raise ConfigError([f"parsingnet: {problem}" for problem in problems])

    @property
    def classes(self) -> tuple[int, int, int]:
        """Shape of the answer for an image: griding + 1, rows, lanes (upstream's ``cls_dim``)."""
        return self.griding + 1, len(self.row_anchors), self.lanes

    @property
    def features(self) -> int:
        """Numbers that ``cls`` reads: the channels of ``pool`` at every cell of the input."""
        rows, columns = (-(-side // STRIDE) for side in self.size)
        return self.pool * rows * columns

    @property
    def fits_upstream(self) -> bool:
        """Whether upstream's parsingNet has weights of the same shapes, so that checkpoints can be exchanged."""
        usual = ParsingNetConfig()
        own = (self.width, self.hidden, self.pool, self.features)
        return own == (usual.width, usual.hidden, usual.pool, usual.features)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (lists and numbers, as YAML and JSON have them) that :meth:`from_dict` reads back."""
        found: dict[str, Any] = plain(asdict(self))
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "parsingnet") -> ParsingNetConfig:
        """Read what :meth:`to_dict` wrote, or a user did.

        Args:
            data: Values by attribute name; any may be missing. ``backbone`` may be a number.
            source: File or key that the data come from, for the messages.

        Raises:
            ConfigError: Unknown keys, values of the wrong kind, numbers that do not fit together.
        """
        if isinstance(data, Mapping) and type(data.get("backbone")) is int:
            data = {**data, "backbone": str(data["backbone"])}
        problems: list[str] = []
        values = read(cls, data, source, problems)
        if problems:
            raise ConfigError(problems)
        return cls(**values)

    def _of_layers(self) -> list[str]:
        problems = []
        if self.backbone not in DEPTHS:
            problems.append(
                f"backbone is '{self.backbone}', expected one of {', '.join(DEPTHS)}{nearest(self.backbone, DEPTHS)}"
            )
        elif min(widths(self.backbone, self.width)) < 1:
            problems.append(f"width is {self.width:g}: some layers of ResNet {self.backbone} have no channel")
        return problems + [
            f"{name} is {value}, expected at least 1"
            for name, value in (("hidden", self.hidden), ("pool", self.pool), ("lanes", self.lanes))
            if value < 1
        ]

    def _of_grid(self) -> list[str]:
        problems = []
        if self.griding < 2:
            problems.append(f"griding is {self.griding}, expected at least 2 cells in a row")
        if min(self.size) < STRIDE:
            problems.append(f"size is {list(self.size)}, expected at least {STRIDE} pixels each way")
        rows = self.row_anchors
        if len(rows) < _LEAST_ROWS:
            problems.append(f"row_anchors: {len(rows)} rows, expected at least {_LEAST_ROWS}")
        elif list(rows) != sorted(set(rows)) or rows[0] < 0 or rows[-1] >= ANCHOR_HEIGHT:
            problems.append(
                f"row_anchors: {rows[0]} to {rows[-1]}, expected growing heights from 0 to {ANCHOR_HEIGHT - 1}"
            )
        return problems + [
            f"{name} is {value:g}, expected at least 0"
            for name, value in (
                ("similarity_weight", self.similarity_weight),
                ("shape_weight", self.shape_weight),
                ("aux_weight", self.aux_weight),
            )
            if value < 0
        ]
