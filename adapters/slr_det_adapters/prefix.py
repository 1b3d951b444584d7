"""Parameter names while a model trains: its trainer's wrapper has it as the attribute ``net``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

#: What stands before every parameter's name in a training checkpoint.
PREFIX = "net."


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under their upstream names, where they are those of a training under way."""
    if not all(name.startswith(PREFIX) for name in state):
        return dict(state)
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
