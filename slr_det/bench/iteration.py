"""How long the end of an iteration takes on the weights of yolov3-spp."""

from __future__ import annotations

import torch
from torch import Tensor

from slr_det.bench.rows import Row, Settings
from slr_det.bench.shapes import prunable, specs, weight_shapes
from slr_det.engine import Engine
from slr_det.groups import build_groups
from slr_det.timing import median, quartiles, repeated, threads

KEEP = 0.5
TARGETS = {"cpu": (3.0, "s"), "cuda": (50.0, "ms")}


def measure(settings: Settings) -> list[Row]:
    """One row for the CPU, one for the GPU where there is one."""
    with threads(settings.threads):
        rows = [_row("cpu", settings)]
    if torch.cuda.is_available():
        rows.append(_row("cuda", settings))
    return rows


def random_weights(model: str, device: str) -> dict[str, Tensor]:
    """Weights of a model's shapes, scaled as at initialisation."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in weight_shapes(model).items():
        scale = (2.0 / (shape[1] * shape[2] * shape[3])) ** 0.5
        weights[name] = (torch.randn(shape, generator=generator) * scale).to(device)
    return weights


def build(weights: dict[str, Tensor], iterations: int) -> Engine:
    """SLR over a model's prunable weights, one group each."""
    return Engine(build_groups(weights, specs(prunable(weights), KEEP)), "slr", iterations=iterations)


def _row(device: str, settings: Settings) -> Row:
    model = "yolov3-tiny" if settings.quick else "yolov3-spp"
    settings.say(f"iteration: {model} on {device}")
    rounds = 2 if settings.quick else 7
    weights = random_weights(model, device)
    engine = build(weights, rounds + 1)
    objective = [1.0]

    def end() -> None:
        # A falling objective makes condition (6) hold, so that both multiplier updates are paid for.
        objective[0] *= 0.5
        engine.observe(torch.tensor(objective[0]))
        engine.end_iteration()

    def train() -> None:
        for name, z in engine.state.z.items():
            weights[name].lerp_(z, 0.05)

    target, unit = TARGETS[device]
    factor = 1e3 if unit == "ms" else 1.0
    times = [factor * second for second in repeated(end, rounds, before=train)]
    updates = [sum(bool(r[key]) for r in engine.history[1:]) for key in ("condition_6", "condition_11")]
    where = f"{settings.threads} threads" if device == "cpu" else torch.cuda.get_device_name()
    pruned = sum(tensor.numel() for tensor in engine.state.z.values())
    return Row(
        "end of an iteration",
        f"slr, {model}, {pruned / 1e6:.1f} M weights pruned, keep {KEEP:g}, {where}",
        median(times),
        unit,
        target,
        quartiles(times),
        f"multipliers moved {updates[0]} + {updates[1]} times in {rounds} rounds",
        {unit: times},
    )
