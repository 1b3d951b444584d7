"""What the penalty adds to a training step of yolov3-tiny."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slr_det.adapter import load_adapter
from slr_det.bench.rows import Row, Settings
from slr_det.bench.shapes import specs
from slr_det.engine import Engine
from slr_det.groups import build_groups
from slr_det.timing import interleaved, median, quartiles, threads

TARGET = 3.0
MODEL = "yolov3-tiny.yaml"
CLASSES = 80
BOXES = 7  # per image, as in COCO


def measure(settings: Settings) -> list[Row]:
    """One row for the CPU, one for the GPU where there is one; needs the yolo extra (MissingExtraError)."""
    with threads(settings.threads):
        rows = [_row("cpu", 64 if settings.quick else 320, 2 if settings.quick else 8, settings)]
    if torch.cuda.is_available():
        rows.append(_row("cuda", 64 if settings.quick else 640, 2 if settings.quick else 16, settings))
    return rows


@dataclass(frozen=True)
class Step:
    """A training step of a real detector: forward, loss, backward, SGD.

    Attributes:
        run: Takes one step, with the penalty in the loss or without.
        engine: SLR over every weight that is pruned by default; None for a step that never has the penalty.
    """

    run: Callable[[bool], None]
    engine: Engine | None


def training_step(device: str, pixels: int, batch: int, penalised: bool = True) -> Step:
    """A step of yolov3-tiny on one random batch, with mixed precision on a GPU as the trainer has it.

    Raises:
        MissingExtraError: ultralytics is not installed.
    """
    info = load_adapter("ultralytics").inspect(MODEL, CLASSES)  # also keeps ultralytics off the network
    model: Any = importlib.import_module("ultralytics.nn.tasks").DetectionModel(
        MODEL, nc=CLASSES, verbose=False
    )
    model.args = importlib.import_module("ultralytics.cfg").get_cfg()
    model.to(device).train()
    names = [layer.name for layer in info.layers if layer.role == "body"]
    named = dict(model.named_parameters())
    engine = Engine(build_groups(named, specs(names, 0.3)), "slr", iterations=1) if penalised else None
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    images = _batch(device, pixels, batch)

    def run(with_penalty: bool) -> None:
        with torch.autocast(device, enabled=device == "cuda"):
            loss, _ = model(images)
            loss = loss.sum()
            if with_penalty and engine is not None:
                engine.observe(loss / batch, batch)
                loss = loss + engine.penalty(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Step(run, engine)


def _batch(device: str, pixels: int, images: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = images * BOXES
    batch = {
        "img": torch.rand(images, 3, pixels, pixels, generator=generator),
        "cls": torch.randint(0, CLASSES, (count, 1), generator=generator).float(),
        "bboxes": torch.rand(count, 4, generator=generator) * 0.4 + 0.3,
        "batch_idx": torch.arange(images).repeat_interleave(BOXES).float(),
    }
    return {key: value.to(device) for key, value in batch.items()}


def _row(device: str, pixels: int, batch: int, settings: Settings) -> Row:
    rounds = 2 if settings.quick else 20
    settings.say(f"penalty: {rounds} + {rounds} training steps on {device}")
    step = training_step(device, pixels, batch)
    seconds = interleaved({"plain": lambda: step.run(False), "penalty": lambda: step.run(True)}, rounds)
    plain = median(seconds["plain"])
    extra = [under - alone for under, alone in zip(seconds["penalty"], seconds["plain"], strict=True)]
    where = (
        f"{settings.threads} threads"
        if device == "cpu"
        else f"{torch.cuda.get_device_name()}, mixed precision"
    )
    low, high = (100.0 * quartile / plain for quartile in quartiles(extra))
    note = f"{1e3 * median(extra):.1f} ms on a step of {1e3 * plain:.0f} ms (median of {rounds} differences)"
    if high - low > TARGET:
        note += (
            "; the steps differ by more than the target: measure again on a machine that does nothing else"
        )
    return Row(
        "penalty / training step",
        f"yolov3-tiny, {pixels} px, batch {batch}, {where}",
        100.0 * median(extra) / plain,
        "%",
        TARGET,
        (low, high),
        note,
        {"plain_seconds": seconds["plain"], "penalty_seconds": seconds["penalty"]},
    )
