"""Weights from a file into a model, or one line that says why they do not fit."""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slr_det.errors import CheckpointError, MissingExtraError

#: Where training scripts put the state dict in their checkpoints; the first that is there counts.
KEYS = ("state_dict", "model", "model_state", "net")
#: What wrappers (data parallel, torch.compile) put before every name.
PREFIXES = ("module.", "_orig_mod.")

_NAMED = 3
# Batch norm counts its batches under this name since torch 0.4.1; older files lack it, and nothing depends on it.
_COUNTER = "num_batches_tracked"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a checkpoint, on the CPU. Nothing in the file is executed.

    Args:
        path: What ``torch.save`` wrote: a state dict, or a mapping with one under a name of ``KEYS``; or a
            ``.safetensors`` file.

    Returns:
        Tensors by name. A prefix of ``PREFIXES`` that all names share is dropped.

    Raises:
        CheckpointError: the file is missing, truncated or foreign, or holds no weights.
        MissingExtraError: a ``.safetensors`` file without the package safetensors.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file of weights; check the path")
    loaded = _read_safetensors(file) if file.suffix.lower() == ".safetensors" else _read_torch(file)
    return _without_prefix(_state_dict(file, loaded))


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy weights into a model, all of them or, on an error, none.

    Args:
        model: The model; it keeps its device and dtypes.
        state: Tensors by name, as :func:`read_state_dict` returns them.
        source: Where they come from, for the message.

    Raises:
        CheckpointError: a name or a shape differs.
    """
    own = model.state_dict()
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    missing = [name for name in own if name not in state and name.rpartition(".")[2] != _COUNTER]
    unexpected = [name for name in state if name not in own]
    if not other and not missing and not unexpected:
        model.load_state_dict(dict(state), strict=False)
        return
    said = [f"{name}: file {tuple(state[name].shape)}, model {tuple(own[name].shape)}" for name in other]
    said += [f"{name}: file none, model {tuple(own[name].shape)}" for name in missing]
    said += [f"{name}: file {tuple(state[name].shape)}, model none" for name in unexpected]
    more = f"; and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    raise CheckpointError(
        f"{source}: does not fit the model: {'; '.join(said[:_NAMED])}{more} (of other shape {len(other)}, missing "
        f"{len(missing)}, unexpected {len(unexpected)}); these are probably weights of another architecture, or for "
        "another number of classes"
    )


@torch.no_grad()
def replace_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy named tensors into a model's parameters; it keeps its device and dtypes."""
    named = dict(model.named_parameters())
    for name, values in weights.items():
        named[name].copy_(values)


def numpy_numbers() -> list[Any]:
    """What a pickled number of numpy refers to, for ``torch.serialization.safe_globals``: data, no code.

    Its module has moved between numpy's versions, so it goes by the old name and by the new one.
    """
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32)}
    names = [(scalar, f"{place}.multiarray.scalar") for place in ("numpy.core", "numpy._core")]
    return [*names, np.dtype, *kinds]


def _read_torch(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles; the error says it in one line
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: not a file of weights alone: it is damaged, or holds more than tensors and numbers and was not "
            "opened further because that could run code; save the state dict of the model"
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
            f"{file}: truncated or damaged, or not written by torch.save ({_first_line(error)}); fetch it again"
        ) from error


def _read_safetensors(file: Path) -> Any:
    try:
        package = importlib.import_module("safetensors")
        reader = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise MissingExtraError(
            f'{file}: needs safetensors, which is not installed: uv pip install "slr-det[export]"'
        ) from error
    try:
        return reader.load_file(file)
    except (package.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: truncated or damaged, or no safetensors file ({_first_line(error)}); fetch it again"
        ) from error


def _state_dict(file: Path, loaded: Any) -> dict[str, Tensor]:
    found = loaded
    if isinstance(loaded, Mapping):
        found = next((loaded[key] for key in KEYS if isinstance(loaded.get(key), Mapping)), loaded)
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{file}: holds {_kind(found)}, expected a state dict (tensors by name)")
    wrong = [key for key, value in found.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        raise CheckpointError(
            f"{file}: no state dict: '{wrong[0]}' is {_kind(found[wrong[0]])}, expected a tensor; expected are tensors "
            f"by name, or a mapping with them under {', '.join(KEYS[:-1])} or {KEYS[-1]}"
        )
    return dict(found)


def _kind(value: Any) -> str:
    return "nothing" if isinstance(value, Mapping) and not value else f"a {type(value).__name__}"


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        shared = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in state)), None)
        if shared is None:
            return state
        state = {name.removeprefix(shared): tensor for name, tensor in state.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
