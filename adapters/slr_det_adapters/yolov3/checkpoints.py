"""Checkpoints of ultralytics/yolov3, which pickle the model, read without running code of theirs and without upstream.

A file is ``{"model": ..., "ema": ..., "optimizer": ..., "opt": ...}``, as upstream's own. Those of ours hold
``slr_det`` beside it, which upstream ignores. The classes that a file names are stood in for by empty modules, so that
layers, weights and classes can be looked at; whatever else it names is refused. What has been read so is safe for
upstream, which unpickles it.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slr_det import __version__
from slr_det.adapter import ModelInfo
from slr_det.errors import CheckpointError
from slr_det.files import atomic_open
from slr_det.layers import layers_of
from slr_det.models.weights import numpy_numbers

KEY = "slr_det"
VERSION = 1
SUFFIX = ".pt"
_UPSTREAM = "ultralytics/yolov3"
#: What upstream's options and scores are made of beside Python's own: arrays of numbers, and paths.
_PLAIN: list[Any] = [
    *numpy_numbers(),
    (np.ndarray, "numpy.ndarray"),
    *(
        (np.zeros(1).__reduce__()[0], f"{place}.multiarray._reconstruct")
        for place in ("numpy.core", "numpy._core")
    ),
    *((PurePosixPath, f"{place}.PosixPath") for place in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{place}.WindowsPath") for place in ("pathlib", "pathlib._local")),
]
_PLAIN_NAMES = {
    entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}" for entry in _PLAIN
}


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: The file.
        model: The (averaged) model, float32 on the CPU, of empty classes in place of upstream's: it has the weights,
            and cannot be called.
        content: Everything in the file.
        card: What we wrote beside it; empty for a file of upstream's own.
    """

    path: str
    model: nn.Module
    content: Mapping[str, Any]
    card: Mapping[str, Any]

    @property
    def head(self) -> Any:
        """The detection layer."""
        return _head(self.model)

    def parameters(self) -> dict[str, Tensor]:
        """Parameters by name, float32."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def info(self) -> ModelInfo:
        """The model as the pruner sees it."""
        return describe(self.model)


def describe(model: nn.Module) -> ModelInfo:
    """Layers and weights of a model; the head, dense by default, is the convolution that writes each scale's boxes."""
    layers: Any = model.model
    weights = {name: p.detach().float().cpu().clone() for name, p in model.named_parameters()}
    found = layers_of(model, heads=[f"model.{len(layers) - 1}.m.*"])
    return ModelInfo(found, weights, int(_head(model).nc))


def is_checkpoint(model: str) -> bool:
    """Whether a model word is a checkpoint rather than an architecture."""
    return model.endswith(SUFFIX)


def card(**more: Any) -> dict[str, Any]:
    """What a file of ours says beside its weights."""
    return {"version": VERSION, "slr_det": __version__, **more}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, as a whole or not at all."""
    with atomic_open(path) as file:
        torch.save(dict(content), file)


def for_inference(model: nn.Module, options: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """The content of a file with one copy of a model in half precision, as upstream leaves one after training."""
    model = model.cpu().half()
    for parameter in model.parameters():
        parameter.requires_grad = False
    empty: dict[str, Any] = dict.fromkeys(("best_fitness", "ema", "updates", "optimizer", "git"))
    return {
        **empty,
        "epoch": -1,
        "model": model,
        "opt": dict(options),
        "date": datetime.now(UTC).isoformat(),
        KEY: card(phase=phase),
    }


def read(path: str) -> Checkpoint:
    """Read a checkpoint of upstream's or of ours; no code of its runs.

    Raises:
        CheckpointError: It is missing, damaged, no detector of ultralytics/yolov3, or names what is not plain data,
            a layer of torch or one of upstream's classes.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such checkpoint; check the path (slr_det never downloads)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception as error:
            raise CheckpointError(
                f"{path}: truncated or damaged, or no checkpoint ({_first(error)}); copy it again"
            ) from error
        allowed = [*_PLAIN, *(_allowed(name, path) for name in named if name not in _PLAIN_NAMES)]
        try:
            with torch.serialization.safe_globals(allowed):
                content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{path}: truncated or damaged, or no checkpoint of {_UPSTREAM} ({_first(error)})"
            ) from error
    model = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
    if not isinstance(model, nn.Module) or not hasattr(_head(model), "anchors"):
        raise CheckpointError(
            f"{path}: is no checkpoint of {_UPSTREAM}; an anchor-based detector is expected under 'model'"
        )
    said = content.get(KEY) or {}
    if said and said.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: written by another version of slr_det (state {said.get('version')}, this one reads {VERSION})"
        )
    model = model.float()
    if "ema" in said:  # at full precision
        model.load_state_dict(said["ema"])
    return Checkpoint(path, model, content, said)


def _head(model: nn.Module) -> Any:
    layers = getattr(model, "model", None)
    return layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else None


_stand_ins: dict[str, type[nn.Module]] = {}


def _allowed(name: str, path: str) -> Any:
    """What the name of a class in a file may mean while it is read."""
    module, _, attribute = name.rpartition(".")
    if module.startswith("torch.nn.modules."):
        found = getattr(importlib.import_module(module), attribute, None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found
    if module.partition(".")[0] == "models":
        if name not in _stand_ins:
            _stand_ins[name] = type(attribute, (nn.Module,), {"__doc__": f"In place of {name}."})
        return _stand_ins[name], name
    if module.partition(".")[0] == "ultralytics":
        raise CheckpointError(
            f"{path}: is a checkpoint of the package ultralytics, not of {_UPSTREAM}; leave --backend out"
        )
    raise CheckpointError(
        f"{path}: holds '{name}', which is neither data nor a layer of torch or {_UPSTREAM}, and was not opened "
        "further because that could run code; save it again from upstream with its own classes alone"
    )


def _first(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."
