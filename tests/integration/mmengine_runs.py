"""A tiny convolutional classifier on random tensors, Runners for it, and what two runs are compared by."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmengine", reason='needs mmengine: uv pip install "slr-det[classify]"')

from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from slr_det_adapters.mmengine import ScheduleHook, SLRHook, build_runner

SAMPLES, BATCH, CLASSES = 24, 4, 3
STEPS = SAMPLES // BATCH
_numbers = itertools.count()
BODY = 4 * 8 * 9  # weights of the one layer that is pruned by default: the stem reads, fc writes


@MODELS.register_module(force=True)
class Tiny(BaseModel):  # type: ignore[misc]
    """Two convolutions and a linear layer, with batch norm, and dropout so that training draws random numbers."""

    def __init__(self, drop: float = 0.2, loss_scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 8, 3, padding=1)
        self.drop = nn.Dropout(drop)
        self.fc = nn.Linear(8, CLASSES)
        self.loss_scale = loss_scale

    def forward(self, image: Tensor, label: Tensor, mode: str = "tensor") -> Any:
        hidden = torch.relu(self.norm(self.stem(image)))
        logits = self.fc(self.drop(torch.relu(self.body(hidden)).mean((2, 3))))
        if mode == "loss":
            return {"loss": self.loss_scale * nn.functional.cross_entropy(logits.float(), label)}
        return [{"right": right} for right in (logits.argmax(1) == label).tolist()]


@DATASETS.register_module(force=True)
class Noisy(Dataset[tuple[Tensor, int]]):
    """Random pictures whose brightness is the class, with augmentation by torch's generator."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator).tolist()
        self.images = [torch.randn(1, 6, 6, generator=generator) + 1.5 * label for label in self.labels]

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index] + 0.1 * torch.randn(1, 6, 6), self.labels[index]


@METRICS.register_module(force=True)
class Right(BaseMetric):  # type: ignore[misc]
    default_prefix = "test"

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [sample["right"] for sample in data_samples]

    def compute_metrics(self, results: list[bool]) -> dict[str, float]:
        return {"accuracy": sum(results) / len(results)}


class Stopped(KeyboardInterrupt):
    """What Ctrl-C raises, wherever a run is."""


class StopAt(Hook):  # type: ignore[misc]
    """Ends a run in the middle of whatever it is doing, after a number of steps."""

    priority = "LOWEST"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.step:
            raise Stopped


def loader(shuffle: bool = True, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"type": "Noisy"},
        "sampler": {"type": "DefaultSampler", "shuffle": shuffle},
        "batch_size": BATCH,
        "num_workers": 0,
        "collate_fn": {"type": "default_collate"},
        **changes,
    }


def sgd(**changes: Any) -> dict[str, Any]:
    return {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}, **changes}


def tiny(seed: int = 1, zeros: bool = False, **changes: Any) -> Tiny:
    """The model; with ``zeros``, two thirds of its body are zero."""
    torch.manual_seed(seed)
    model = Tiny(**changes)
    if zeros:
        with torch.no_grad():
            model.body.weight.mul_(torch.rand(model.body.weight.shape) < 0.33)
    return model


def slr(**arguments: Any) -> SLRHook:
    """A hook whose multipliers and step size move within a few steps."""
    if not arguments.keys() & {"engine", "keep_zeros", "method"} or arguments.get("method") is not None:
        hyper = {"rho": 0.2, "s0": 0.3, "M": 20.0}
        arguments = {"keep": 0.3, "heads": ["fc.*"], "hyper": hyper} | arguments
    return SLRHook(**arguments)


def make(folder: Path, hook: SLRHook, *more: Hook, model: nn.Module | None = None, **changes: Any) -> Runner:
    """A quiet Runner of three epochs on the CPU, with an average and a schedule."""
    settings: dict[str, Any] = {"epochs": 3, "optim_wrapper": sgd(), "device": "cpu", "seed": 3}
    settings |= {"train_dataloader": loader(), **changes}
    return build_runner(
        tiny() if model is None else model,
        work_dir=folder,
        hooks=[hook, EMAHook(momentum=0.2), ScheduleHook("cosine"), *more],
        **settings,
    )


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run as a user of the OpenMMLab family writes it: mmengine's own Runner with its default hooks."""
    return {
        "model": {"type": "Tiny"},
        "work_dir": str(folder),
        "train_dataloader": loader(),
        "train_cfg": {"by_epoch": True, "max_epochs": 3},
        "optim_wrapper": {"type": "OptimWrapper", **sgd()},
        "param_scheduler": {"type": "CosineAnnealingLR", "T_max": 3},
        "custom_hooks": [
            {"type": "SLRHook", "keep": 0.3, "heads": ["fc.*"], "hyper": {"rho": 0.2, "s0": 0.3, "M": 20.0}},
            {"type": "EMAHook", "momentum": 0.2},
        ],
        "randomness": {"seed": 3},
        "log_level": "ERROR",
        # mmengine finds message hubs by this name and a time in seconds, which tests share.
        "experiment_name": f"test-{next(_numbers)}",
        "visualizer": {"type": "Visualizer", "vis_backends": []},
        **changes,
    }


def everything(runner: Runner, hook: SLRHook) -> dict[str, Any]:
    """Every number that a run ends with, by name: weights, average, optimizer, method, history."""
    state: dict[str, Any] = {f"model.{k}": v for k, v in runner.model.state_dict().items()}
    for other in runner.hooks:
        if isinstance(other, EMAHook):
            state |= {f"ema.{k}": v for k, v in other.ema_model.state_dict().items()}
    for index, slots in runner.optim_wrapper.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{k}": v for k, v in slots.items()}
    if hook.engine is not None:
        method = hook.engine.state
        for key in ("z", "multipliers", "masks"):
            state |= {f"{key}.{k}": v for k, v in getattr(method, key).items()}
        state |= {f"scalars.{k}": v for k, v in method.scalars.items()}
        history = [{k: v for k, v in record.items() if k != "seconds"} for record in hook.history]
        state["history"] = history
    if hook.masks is not None:
        state |= {f"masks.{k}": v for k, v in hook.masks.masks.items()}
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def different(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names whose values are not equal bit for bit."""
    assert one.keys() == other.keys()
    return [
        name
        for name, value in one.items()
        if not (torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name])
    ]
