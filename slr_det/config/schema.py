"""What a run is configured by: the settings, their defaults, and how each is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from slr_det import methods
from slr_det.allocation import METHODS as ALLOCATIONS
from slr_det.allocation import Ratios
from slr_det.config import readers as read
from slr_det.config.recipes import RECIPES
from slr_det.files import atomic_write
from slr_det.methods import Hyper
from slr_det.places import runs_folder
from slr_det.sensitivity import RATIOS
from slr_det.yamlio import dump_yaml

TASKS = ("yolo", "lane", "pointpillars", "classify")


@dataclass(frozen=True)
class PruneConfig:
    """How much is pruned, where, and onto which sets; see docs/allocation.md.

    Attributes:
        projection: Name or short form (``2:4``, ``block:4x4``), or a mapping with ``name`` and options.
        allocation: How ratios are chosen: ``uniform``, ``layerwise``, ``erk``, ``global`` or ``sensitivity``.
        keep: Fraction of the free layers' weights that stays, in (0, 1].
        target_compression: All weights / nonzero weights to reach. Not together with ``keep``.
        compression_over: What the target counts: ``model`` or ``groups``.
        ratios: Keep ratios by layer name or glob.
        include: Globs of the layers to prune; empty for all.
        exclude: Globs of layers that stay dense.
        dense_first: Leave the first layer dense.
        dense_head: Leave the detection head dense.
        scope: Name of one of the task's choices of what is pruned, which stands for some of these settings; empty for
            the first of them, where the task has any.
        groups: Layers that share a budget: mappings with name, params, keep, projection, coupled.
        sensitivity: File of a sensitivity scan, for that allocation; empty for none.
        scan_ratios: Keep ratios that a sensitivity scan tries, largest first.
    """

    projection: str | dict[str, Any] = "unstructured"
    allocation: str = "uniform"
    keep: float | None = None
    target_compression: float | None = None
    compression_over: str = "model"
    ratios: Ratios | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    dense_first: bool = True
    dense_head: bool = True
    scope: str = ""
    groups: tuple[dict[str, Any], ...] = ()
    sensitivity: str = ""
    scan_ratios: tuple[float, ...] = RATIOS

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML types that are read back to the same settings."""
        return {
            **{f.name: _plain(getattr(self, f.name)) for f in fields(self)},
            "ratios": None if self.ratios is None else self.ratios.to_dict(),
        }


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is made of. Built by :func:`slr_det.config.load_config`.

    Attributes:
        task: The command line this is for.
        backend: Which of the task's trainers, where it has several; empty for the usual one.
        model: Checkpoint, or architecture together with ``dense_epochs`` or ``weights``.
        weights: Weights that an architecture starts from: a local file, or ``pretrained`` for those that the trainer
            publishes; empty for none.
        data: Data set as the adapter names it; empty where none is needed.
        name: The run's folder in ``project``.
        project: Folder of the runs; see :func:`slr_det.places.runs_folder`.
        seed: Seed of everything random.
        device: In the trainer's notation; empty lets it choose.
        method: Pruning methods, each run at the same budget.
        recipe: Name of a set of settings in :mod:`slr_det.config.recipes`, used where the run says nothing else.
        epochs: Epochs of training under the method.
        retrain_epochs: Epochs of masked retraining after hard pruning; 0 for none.
        dense_epochs: Epochs of dense training first; 0 takes the weights of ``model`` as they are.
        iterations_per_epoch: Iterations of the method in each epoch.
        one_schedule: Training under the method and masked retraining share one learning-rate schedule.
        distill: Share of the loss that pulls towards the dense model's predictions, in [0, 1], under the method and
            in masked retraining.
        distill_temperature: Temperature of that part's softmax.
        bn_recalibrate: Re-estimate batch-norm statistics after hard pruning.
        prune: What is pruned.
        slr: Hyperparameters of the methods.
        train: Arguments passed through to the trainer.
        dense: Arguments of the trainer that differ in dense training, such as ``optimizer``.
        retrain: Arguments of the trainer that differ in masked retraining, such as ``lr0``.
        minimum: Metrics below which a command exits with 1; ``min:`` in a file.
        paper: Published numbers shown beside the run's, or None: ``dense`` and methods by name, each a number, or
            numbers by phase and metric; see :mod:`slr_det.config.published`.
    """

    task: str = "yolo"
    backend: str = ""
    model: str = ""
    weights: str = ""
    data: str = ""
    name: str = "run"
    project: str = field(default_factory=runs_folder)
    seed: int = 0
    device: str = ""
    method: tuple[str, ...] = ("slr",)
    recipe: str = "paper"
    epochs: int = 15
    retrain_epochs: int = 5
    dense_epochs: int = 0
    iterations_per_epoch: int = 1
    one_schedule: bool = False
    distill: float = 0.0
    distill_temperature: float = 2.0
    bn_recalibrate: bool = True
    prune: PruneConfig = field(default_factory=PruneConfig)
    slr: Hyper = field(default_factory=Hyper)
    train: Mapping[str, Any] = field(default_factory=dict)
    dense: Mapping[str, Any] = field(default_factory=dict)
    retrain: Mapping[str, Any] = field(default_factory=dict)
    minimum: Mapping[str, float] = field(default_factory=dict)
    paper: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML types, with the keys of a configuration file; ``load_config`` reads it back to an equal one."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "minimum"}
        return {**plain, "prune": self.prune.to_dict(), "slr": asdict(self.slr), "min": dict(self.minimum)}

    def dump(self, path: str | Path) -> Path:
        """Write the configuration as a YAML file that runs again; StorageError where it cannot be written."""
        return atomic_write(path, dump_yaml(self.to_dict()))


SECTIONS = ("prune", "slr", "train", "dense", "retrain", "min", "paper")
PASSED_THROUGH = ("train", "dense", "retrain")


def known_keys() -> dict[str, read.Reader]:
    """The reader of every key by its dotted name; free sections (train, dense, retrain, min, paper) are not in it."""
    keys: dict[str, read.Reader] = {
        "task": read.choice(TASKS),
        "backend": read.text,
        "model": read.model,
        "weights": read.weights,
        "data": read.text,
        "name": read.text,
        "project": read.text,
        "seed": read.whole(0),
        "device": read.device,
        "method": read.choices(methods.names()),
        "recipe": read.choice(RECIPES),
        "epochs": read.whole(1),
        "retrain_epochs": read.whole(0),
        "dense_epochs": read.whole(0),
        "iterations_per_epoch": read.whole(1),
        "one_schedule": read.flag,
        "distill": read.share,
        "distill_temperature": read.positive,
        "bn_recalibrate": read.flag,
        "prune.projection": read.projection,
        "prune.allocation": read.choice(ALLOCATIONS),
        "prune.keep": read.optional(read.ratio),
        "prune.target_compression": read.optional(read.rate),
        "prune.compression_over": read.choice(("model", "groups")),
        "prune.ratios": read.optional(read.layer_ratios),
        "prune.include": read.globs,
        "prune.exclude": read.globs,
        "prune.dense_first": read.flag,
        "prune.dense_head": read.flag,
        "prune.scope": read.text,
        "prune.groups": read.groups,
        "prune.sensitivity": read.sensitivity_file,
        "prune.scan_ratios": read.ratios_between_0_and_1,
    }
    # The methods say themselves which hyperparameters there are, and check their ranges.
    keys |= {f"slr.{f.name}": read.text if isinstance(f.default, str) else read.number for f in fields(Hyper)}
    return keys


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value
