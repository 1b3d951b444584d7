"""Checkpoints that ``torch.load`` opens without running code, and reading them back."""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import weights_to_cpu
from torch import Tensor

from slr_det.errors import CheckpointError

STATE_KEY = "slr_det"
STATE_VERSION = 1
#: The file that names the last checkpoint of a folder.
POINTER = "last_checkpoint"
_BUFFER = "slr_det.history_buffer"
_DROP = object()


def make_plain(value: Any) -> Any:
    """Turn what a checkpoint of mmengine holds into what ``torch.load(..., weights_only=True)`` accepts.

    Since torch 2.6 that is the default of torch.load, so that mmengine 0.10 cannot resume its own checkpoints: they
    hold HistoryBuffer and numpy objects. A HistoryBuffer becomes a dict of two tensors that :func:`revive` turns
    back; a numpy array becomes a list, a numpy number a number. Entries that have no plain form are left out.
    """
    found = _plain(value)
    return None if found is _DROP else found


def make_loadable(checkpoint: dict[str, Any]) -> None:
    """Make a checkpoint that mmengine is about to write loadable by plain ``torch.load``, on any machine."""
    for key, value in checkpoint.items():
        # These hold tensors only, and a state dict carries metadata in an attribute; under an EMA hook they are
        # still on the device.
        checkpoint[key] = weights_to_cpu(value) if isinstance(value, OrderedDict) else make_plain(value)


def _plain(value: Any) -> Any:
    if value is None or (
        isinstance(value, bool | int | float | complex) and not isinstance(value, np.generic)
    ):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, HistoryBuffer):
        log, count = (torch.from_numpy(np.array(part)) for part in value.data)
        return {"type": _BUFFER, "log": log, "count": count, "max_length": value.max_length}
    if isinstance(value, Mapping):
        pairs = ((_plain(key), _plain(item)) for key, item in value.items())
        return {key: item for key, item in pairs if key is not _DROP and item is not _DROP}
    if isinstance(value, list | tuple | set | frozenset):
        items = [item for item in map(_plain, value) if item is not _DROP]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, Path):
        return str(value)
    return _DROP


def revive(message_hub: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a message hub with its history buffers, from what :func:`make_plain` made of it."""
    state = {key: dict(value) for key, value in message_hub.items()}
    for name, value in state.get("log_scalars", {}).items():
        if isinstance(value, Mapping) and value.get("type") == _BUFFER:
            log, count = value["log"].cpu().numpy(), value["count"].cpu().numpy()
            state["log_scalars"][name] = HistoryBuffer(log, count, value["max_length"])
    known = {*state.get("log_scalars", {}), *state.get("runtime_info", {})}
    state["resumed_keys"] = {k: v for k, v in state.get("resumed_keys", {}).items() if k in known}
    return state


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code, tensors on the CPU.

    Raises:
        CheckpointError: It is missing, truncated, or holds more than plain data.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such checkpoint; check the path, or start a new run")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign pickles; the error below says it in one line
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: was written without SLRHook (it holds more than tensors and plain data, which torch does not "
            "open), so a method cannot be resumed from it; start a new run, in a work_dir of its own"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: truncated or damaged, or not a checkpoint; resume from an earlier one"
        ) from error
    if not isinstance(loaded, dict) or "state_dict" not in loaded:
        raise CheckpointError(f"{file}: is not a checkpoint of mmengine; pass a file that a Runner wrote")
    return loaded


def require_state(checkpoint: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The hook's own part of a checkpoint that a run resumes from.

    Raises:
        CheckpointError: There is none, or it is of another version.
    """
    state = checkpoint.get(STATE_KEY)
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{where}: holds no training state of SLRHook (it was written without the hook, or holds weights alone), "
            "so a method cannot be resumed from it; start a new run from its weights (load_from=..., resume=False)"
        )
    if state.get("version") != STATE_VERSION:
        raise CheckpointError(
            f"{where}: holds a state of version {state.get('version')!r}, this slr_det reads {STATE_VERSION}; resume "
            "with the slr_det that wrote it, or start a new run"
        )
    return state


def last_checkpoint(work_dir: str | Path) -> Path | None:
    """The checkpoint that a run in ``work_dir`` is resumed from, or None where it has written none.

    The file is looked for beside ``last_checkpoint``, whatever folder that names: a run may have been moved.
    """
    folder = Path(work_dir)
    pointer = folder / POINTER
    if not pointer.is_file():
        return None
    name = Path(pointer.read_text(encoding="utf-8").strip()).name
    path = folder / name
    if not name or not path.is_file():
        raise CheckpointError(f"{pointer}: names '{name}', which is not in that folder; start a new run")
    return path


def require_last(work_dir: str | Path) -> Path:
    """As :func:`last_checkpoint`; CheckpointError where there is none."""
    found = last_checkpoint(work_dir)
    if found is None:
        raise CheckpointError(f"{work_dir}: holds no checkpoint; start a new run")
    return found
