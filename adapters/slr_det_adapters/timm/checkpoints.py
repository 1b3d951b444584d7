"""The file that a classifier lives in.

A checkpoint is ``{"state_dict": ..., "meta": {"classifier": {...}}}``: the parameters under their upstream names, so
that timm's own loaders read it, and the card that builds the model again. It loads with plain ``torch.load``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slr_det import __version__
from slr_det.errors import CheckpointError
from slr_det.files import atomic_open
from slr_det.models.weights import load_into, read_state_dict
from slr_det.shrink import resize_to
from slr_det_adapters.prefix import without_prefix
from slr_det_adapters.timm.cards import Card
from slr_det_adapters.timm.models import build

SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".safetensors")
META = "classifier"


def is_checkpoint(model: str) -> bool:
    """Whether a model word is a file rather than a name."""
    return model.endswith(SUFFIXES)


def write(target: Path, model: nn.Module, card: Card, phase: str) -> None:
    """Write a checkpoint, as a whole or not at all."""
    content = {
        "state_dict": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "meta": {META: card.to_dict(), "phase": phase, "slr_det": __version__},
    }
    with atomic_open(target) as file:
        torch.save(content, file)


def read(path: str) -> tuple[nn.Module, Card]:
    """The classifier in a checkpoint written by :func:`write`, or under way in the trainer's own.

    Raises:
        CheckpointError: It is missing, damaged, or does not say which architecture its weights are of.
    """
    content = _content(path)
    found = content["meta"].get(META) if isinstance(content.get("meta"), Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise CheckpointError(
            f"{path}: holds weights, but not which architecture they are of; give its name and the file: "
            f"model=NAME weights={path}"
        )
    card = Card.from_dict(found, path)
    model = build(card.model, len(card.classes), card.channels)
    state = without_prefix(content["state_dict"])
    if card.shrunk:
        resize_to(model, state)
    load_into(model, state, path)
    return model, card


def _content(path: str) -> dict[str, Any]:
    """What is in the file. Mapped, not read: a training checkpoint is several times as large as its model."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        content = None
    if not isinstance(content, dict):
        # The reader of weights says in one line what is wrong with the file, or that nothing is.
        return {"state_dict": read_state_dict(path)}
    return content
