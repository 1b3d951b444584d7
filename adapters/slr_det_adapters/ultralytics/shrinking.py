"""A YOLO checkpoint without its dead filters, with an architecture description that builds it again.

Ultralytics builds a model anew from the description in its checkpoint when it trains on, and copies those weights whose
shapes fit. A smaller model with the description of the large one would train as a large one with random weights. So
the description is rewritten, dead filters stay where it can only say multiples of eight or where the detection head's
widths follow from others, and whether it really builds the smaller model is tried. Where it does not, as with blocks
that compute widths of their own, the model is marked, and the trainer of slr_det trains it as it is.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slr_det.errors import CheckpointError
from slr_det.shrink import Channel, Plan, Shrinkage, channels_of, find_dead, shrink, sums
from slr_det_adapters.ultralytics import models

#: Attribute of a shrunk model whose description does not build it again.
UNDESCRIBED = "slr_det_shrunk"
_DIVISOR = 8  # parse_model rounds widths to multiples of it
_SIZE = 128
_SEED = 20


def shrink_checkpoint(source: str, target: Path) -> Shrinkage:
    """Write the (averaged) model of ``source`` without its dead filters; see :func:`slr_det.shrink.shrink`.

    Raises:
        CheckpointError: ``source`` cannot be read.
        ConfigError: Nothing in it is dead, or it cannot be made smaller with the same outputs.
    """
    model, args = models.averaged_model(source)
    if getattr(model, "yaml", None) is None:
        raise CheckpointError(
            f"{source}: holds no description of its architecture; train it with ultralytics 8.4"
        )
    channels, example = _channels(model)
    plan = find_dead(model, channels, lambda name, alive: _row_width(model, name, alive))
    plan = find_dead(model, channels, _Towers(model).widths_after(plan))
    small: Any
    small, result = shrink(model, example, plan, _undecoded)
    small.yaml = _description(small)
    if not _builds(small):
        # No width has to be one that can be said, then.
        small, result = shrink(model, example, find_dead(model, channels), _undecoded)
        setattr(small, UNDESCRIBED, True)
    models.write_native(target, small, {**args, "model": source}, phase="shrunk")
    return result


def sums_of(model: str) -> list[tuple[str, ...]]:
    """Layers of a checkpoint or an architecture whose filters are added up; see :func:`slr_det.shrink.sums`."""
    checkpoint = model.endswith(".pt")
    return sums(
        _channels(models.load_native(model)[0] if checkpoint else models.build_architecture(model, None))[0]
    )


def _channels(model: Any) -> tuple[list[Channel], torch.Tensor]:
    """The channels of a model, and the images that they were found on."""
    generator = torch.Generator().manual_seed(_SEED)
    example = torch.rand(1, int(model.yaml.get("channels", 3)), _SIZE, _SIZE, generator=generator)
    heads = [name.removesuffix(".weight") for name in models.outputs(model)]
    return channels_of(model, example, heads, _undecoded), example


def is_undescribed(model: Any) -> bool:
    """Whether a model is a shrunk one that ultralytics would build again at its full size."""
    return bool(getattr(model, UNDESCRIBED, False))


def _undecoded(model: Any, images: torch.Tensor) -> Any:
    """What the head predicts, as in training: decoding it mixes coordinates, which has nothing to do with filters."""
    head = model.model[-1]
    head.training = True
    try:
        return _without_features(model(images))
    finally:
        head.training = False


def _without_features(predicted: Any) -> Any:
    """The head hands its inputs back for the loss; nobody reads them at inference."""
    if not isinstance(predicted, dict):
        return predicted
    return {key: _without_features(value) for key, value in predicted.items() if key != "feats"}


class _Towers:
    """The widths of a detection head, which ultralytics computes from the channels of its first input."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.head = model.model[-1]
        self.place = f"model.{len(model.model) - 1}"

    def widths_after(self, plan: Plan) -> Any:
        """Least widths of every layer: rows of the description in multiples of eight, towers as the head has them."""
        reader = self._first_reader()
        width = _kept(self.model, plan, reader)
        floors = {
            "cv2": max(16, 4 * int(getattr(self.head, "reg_max", 0))),
            "cv3": min(int(getattr(self.head, "nc", 0)), 100),
        }
        shares = {"cv2": 4, "cv3": 1}  # a tower has the first input's channels over this, or its floor
        for branch, share in shares.items():
            width = max(width, *(share * n for n in self._alive(plan, branch) if n > floors[branch]), 0)
        width = -(-width // _DIVISOR) * _DIVISOR
        least = {branch: max(floors[branch], width // share) for branch, share in shares.items()}

        def widths(name: str, alive: int) -> int:
            branch = name.removeprefix(f"{self.place}.").partition(".")[0]
            if name.startswith(f"{self.place}.") and branch in least:
                return least[branch]
            return max(width, alive) if name == reader else _row_width(self.model, name, alive)

        return widths

    def _first_reader(self) -> str:
        """The convolution that writes the head's first input; empty where it is not one."""
        row = self.model.model[self.head.f[0]] if isinstance(self.head.f, list) else None
        return f"model.{self.head.f[0]}.conv" if isinstance(getattr(row, "conv", None), nn.Conv2d) else ""

    def _alive(self, plan: Plan, branch: str) -> list[int]:
        start = f"{self.place}.{branch}."
        towers = [
            name
            for name, module in self.model.named_modules()
            if name.startswith(start) and isinstance(module, nn.Conv2d) and name.endswith(".conv")
        ]
        return [_kept(self.model, plan, name) for name in towers]


def _kept(model: Any, plan: Plan, name: str) -> int:
    return int(model.get_submodule(name).out_channels) - len(plan.outputs.get(name, ())) if name else 0


def _row_width(model: Any, name: str, alive: int) -> int:
    """The width that a row of the description can say: the next multiple of eight."""
    words = name.split(".")
    row = len(words) == 3 and words[0] == "model" and words[2] == "conv"
    return -(-alive // _DIVISOR) * _DIVISOR if row else alive


def _description(small: Any) -> dict[str, Any]:
    """The description of a model with the widths that its convolutions have."""
    found = deepcopy(small.yaml)
    scales, scale = found.pop("scales", None), found.pop("scale", None)
    if scales:
        found["depth_multiple"] = scales[scale or next(iter(scales))][0]
    found["width_multiple"] = 1.0
    for row, layer in zip([*found["backbone"], *found["head"]], small.model, strict=True):
        inner = getattr(layer, "conv", None)
        if isinstance(inner, nn.Conv2d) and isinstance(row[3][0], int):
            row[3][0] = int(inner.out_channels)
    return dict(found)


def _builds(small: Any) -> bool:
    """Whether ultralytics builds a model of the same shapes from the description."""
    try:
        again = type(small)(deepcopy(small.yaml), nc=int(small.model[-1].nc), verbose=False)
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return False
    shapes = [{name: t.shape for name, t in m.state_dict().items()} for m in (small, again)]
    return shapes[0] == shapes[1]
