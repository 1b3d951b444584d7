"""State files: written whole or not at all, read without running code, refused when they are of another run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slr_det.errors import CheckpointError
from slr_det.files import atomic_open
from slr_det.groups import ParamGroup
from slr_det.methods import MethodState

ENGINE_VERSION = 1
_MAGIC = "slr_det.state"


def save_state(path: str | Path, state: Mapping[str, Any], *, kind: str) -> Path:
    """Write a state dict to ``path``: to a temporary name, synced to the disk, then renamed.

    Args:
        path: The file.
        state: Tensors, numbers, strings, None, lists and dicts of these only.
        kind: What the state is, e.g. ``engine``; :func:`load_state` asks for the same kind.

    Returns:
        The path.

    Raises:
        StorageError: The file cannot be written (full disk, no permission); the old file is untouched and no
            temporary file is left.
    """
    with atomic_open(path) as file:
        torch.save({"format": _MAGIC, "kind": kind, "state": dict(state)}, file)
    return Path(path)


def load_state(path: str | Path, *, kind: str) -> dict[str, Any]:
    """Read a state dict written by :func:`save_state`, tensors on the CPU. Nothing in the file is executed.

    Raises:
        CheckpointError: The file is missing, truncated, a foreign pickle, or a state of another kind.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such state file; check the path, or start a new run")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch warns of foreign pickles; the error below says it in one line
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: not a state file of slr_det: it holds more than tensors and numbers, and was not opened "
            "further because that could run code; pass a file that slr_det wrote"
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        raise CheckpointError(
            f"{file}: truncated or damaged, or not a state file of slr_det ({_first_line(error)}); "
            "resume from an earlier checkpoint"
        ) from error
    if (
        not isinstance(loaded, dict)
        or loaded.get("format") != _MAGIC
        or not isinstance(loaded.get("state"), dict)
    ):
        raise CheckpointError(f"{file}: not a state file of slr_det; pass a file that slr_det wrote")
    if loaded.get("kind") != kind:
        raise CheckpointError(f"{file}: holds a state of kind '{loaded.get('kind')}', expected '{kind}'")
    state: dict[str, Any] = loaded["state"]
    return state


def require_engine_state(
    state: Mapping[str, Any], run: Mapping[str, Any], own: MethodState, weights: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Check that a saved engine state is of this run and complete, before anything is taken over.

    Args:
        state: What ``Engine.state_dict`` returned.
        run: What must agree: method, hyperparameters, iterations and groups.
        own: The state to be replaced; Z and multipliers must have its names and shapes.
        weights: The pruned weights by name; masks must have their names and shapes.

    Returns:
        The saved fields of the method state.

    Raises:
        CheckpointError: Naming the first difference.
    """
    keys = {"version", "run", "state", "kept", "history", "loss_sum", "loss_weight"}
    version = state.get("version") if isinstance(state, Mapping) else None
    if version != ENGINE_VERSION or not keys <= set(state):
        raise CheckpointError(
            f"the engine state has version {version!r}, expected a complete state of version {ENGINE_VERSION}; resume "
            "with the slr_det that wrote it, or start a new run"
        )
    difference = first_difference(state["run"], run)
    if difference:
        raise CheckpointError(
            f"the engine state is of another run: {difference}; resume with the settings it was saved with, "
            "or start a new run"
        )
    saved: dict[str, Any] = state["state"]
    masks = {"masks": saved["masks"], "kept": state["kept"] or {}}
    expected = {"z": own.z, "multipliers": own.multipliers}
    expected |= {key: {n: weights[n] for n in found if n in weights} for key, found in masks.items()}
    found = {"z": saved["z"], "multipliers": saved["multipliers"], **masks}
    difference = first_difference(_shapes(found), _shapes(expected))
    if difference:
        raise CheckpointError(f"the engine state is damaged: {difference}; resume from another checkpoint")
    return saved


def _shapes(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, list[int]]]:
    return {key: {name: list(t.shape) for name, t in by_name.items()} for key, by_name in tensors.items()}


def describe_groups(groups: Sequence[ParamGroup]) -> list[dict[str, Any]]:
    """The groups as plain data: names, keep ratios, projections, and the parameters with their shapes."""
    return [
        {
            "name": group.name,
            "keep": group.keep,
            "projection": group.projection.to_dict(),
            "params": [{"name": name, "shape": list(tensor.shape)} for name, tensor in group.params],
        }
        for group in groups
    ]


def first_difference(saved: Any, own: Any, what: str = "") -> str | None:
    """Where two structures of plain data differ first: ``"hyper.rho is 0.1 there and 0.2 here"``, or None.

    Entries of lists are called by their ``name`` where they have one.
    """
    if isinstance(saved, Mapping) and isinstance(own, Mapping):
        for key in [*own, *(key for key in saved if key not in own)]:
            if key not in saved or key not in own:
                return f"{_join(what, key)} exists only {'here' if key in own else 'there'}"
            found = first_difference(saved[key], own[key], _join(what, key))
            if found:
                return found
        return None
    if _is_list(saved) and _is_list(own) and any(isinstance(item, Mapping) for item in [*saved, *own]):
        return _first_difference_of_lists(saved, own, what)
    if saved != own:
        return f"{what} is {saved!r} there and {own!r} here"
    return None


def _first_difference_of_lists(saved: Sequence[Any], own: Sequence[Any], what: str) -> str | None:
    names = [{item.get("name"): item for item in items} for items in (saved, own)]
    for name in [*names[1], *names[0]]:
        if name not in names[0] or name not in names[1]:
            return f"{_join(what, repr(name))} exists only {'here' if name in names[1] else 'there'}"
    for mine in own:
        found = first_difference(names[0][mine["name"]], mine, _join(what, repr(mine["name"])))
        if found:
            return found
    order = ([item["name"] for item in saved], [item["name"] for item in own])
    return (
        None if order[0] == order[1] else f"{what} are in another order: {order[0]} there and {order[1]} here"
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _join(what: str, key: str) -> str:
    return f"{what}.{key}" if what and not key.startswith("'") else f"{what} {key}".strip()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
