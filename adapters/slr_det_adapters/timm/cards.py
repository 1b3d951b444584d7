"""What builds a classifier again, and how it sees images: the card that travels with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from slr_det.errors import CheckpointError


@dataclass(frozen=True)
class Card:
    """What builds a classifier again.

    Attributes:
        model: Name in the CIFAR family of slr_det, or in timm.
        classes: Class names, in the order of the outputs.
        channels: Channels of the images.
        size: Height and width in pixels that the model is trained and evaluated at.
        mean: Mean of each channel, subtracted from images scaled to [0, 1].
        std: Standard deviation of each channel.
        shrunk: Whether filters were removed: the layers are then as wide as the weights beside the card say.
    """

    model: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shrunk: bool = False

    def at(self, side: int) -> Card:
        """The card at another size of images, ``side`` x ``side`` pixels; 0 leaves it."""
        return replace(self, size=(side, side)) if side else self

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the ``meta`` of a checkpoint."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], path: str) -> Card:
        """Inverse of :meth:`to_dict`; CheckpointError that names ``path`` where a value is missing or wrong."""
        try:
            height, width = found["size"]
            return cls(
                str(found["model"]),
                tuple(map(str, found["classes"])),
                int(found["channels"]),
                (int(height), int(width)),
                tuple(map(float, found["mean"])),
                tuple(map(float, found["std"])),
                bool(found.get("shrunk", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: its description of the classifier is damaged ({error!r}); write it again"
            ) from error
