"""What the pipeline asks of a trainer, and how an adapter that answers is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from slr_det.engine import Engine, Hyper
from slr_det.errors import ConfigError, MissingExtraError, nearest
from slr_det.export.exportable import Exportable
from slr_det.groups import GroupSpec, build_groups
from slr_det.layers import Layer
from slr_det.projections import Projection

ENTRY_POINT_GROUP = "slr_det.adapters"


@dataclass(frozen=True)
class EngineSpec:
    """Everything an engine is built from but the weights; plain data, so that it crosses process borders as JSON.

    Attributes:
        method: Name of a registered method, e.g. ``slr``.
        iterations: Number of iterations the method will be given: epochs times iterations per epoch.
        groups: The parameter groups by name, with keep ratio and projection.
        hyper: Fields of :class:`slr_det.engine.Hyper` that differ from the defaults.
    """

    method: str
    iterations: int
    groups: tuple[GroupSpec, ...]
    hyper: Mapping[str, Any] = field(default_factory=dict)

    def build(self, named: Mapping[str, Tensor]) -> Engine:
        """Bind the groups to live tensors and return the engine; ConfigError where names or shapes do not fit."""
        return Engine(
            build_groups(named, self.groups),
            self.method,
            iterations=self.iterations,
            hyper=Hyper(**self.hyper),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that :meth:`from_dict` reads back."""
        groups = [
            {"name": g.name, "params": list(g.params), "keep": g.keep, "projection": g.projection.to_dict()}
            for g in self.groups
        ]
        return {
            "method": self.method,
            "iterations": self.iterations,
            "groups": groups,
            "hyper": dict(self.hyper),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineSpec:
        """Inverse of :meth:`to_dict`."""
        groups = tuple(
            GroupSpec(g["name"], tuple(g["params"]), float(g["keep"]), Projection.from_dict(g["projection"]))
            for g in data["groups"]
        )
        return cls(data["method"], int(data["iterations"]), groups, dict(data["hyper"]))


@dataclass(frozen=True)
class TrainJob:
    """One training phase, as plain data.

    Attributes:
        model: Checkpoint to start from, or an architecture.
        data: Data set file in the trainer's own format.
        folder: Where the phase keeps its files; :meth:`Adapter.last` says which is the resumable checkpoint.
        epochs: Passes over the training set.
        args: Arguments of the trainer itself, passed through.
        engine: Method to train under; None for plain or masked training.
        keep_zeros: Masked (re)training: weights that are zero at the start stay zero.
        title: What the progress bar calls this phase.
        seed: Seed of everything random.
        device: Device in the trainer's own notation; empty lets it choose.
        verbose: Show the trainer's own log.
        weights: Weights that the architecture ``model`` starts from: a local file, ``pretrained`` for those that the
            trainer publishes, or empty for random ones (or where ``model`` is a checkpoint).
        iterations_per_epoch: Iterations of the method in each epoch, evenly spaced; ``engine.iterations`` is
            ``epochs`` times this. 1 without an engine.
        schedule: Which part of the learning-rate schedule this phase covers, as fractions (from, to) of the whole
            budget: (0, 1) for a schedule of its own. With (0.5, 1) the first step has the learning rate that the
            middle of a schedule of ``epochs / 0.5`` epochs has; its warm-up belongs to the part that starts at 0.
        teacher: Dense checkpoint whose predictions the model is also trained towards; empty for none.
        distill: Share of the loss that the distillation takes, in [0, 1]; 0 without a teacher.
        temperature: Temperature of the distillation's softmax.
    """

    model: str
    data: str
    folder: str
    epochs: int
    args: Mapping[str, Any] = field(default_factory=dict)
    engine: EngineSpec | None = None
    keep_zeros: bool = False
    title: str = "train"
    seed: int = 0
    device: str = ""
    verbose: bool = False
    weights: str = ""
    iterations_per_epoch: int = 1
    schedule: tuple[float, float] = (0.0, 1.0)
    teacher: str = ""
    distill: float = 0.0
    temperature: float = 2.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that :meth:`from_dict` reads back."""
        return {
            **asdict(self),
            "args": dict(self.args),
            "schedule": list(self.schedule),
            "engine": None if self.engine is None else self.engine.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainJob:
        """Inverse of :meth:`to_dict`."""
        engine = None if data["engine"] is None else EngineSpec.from_dict(data["engine"])
        begin, end = data["schedule"]
        return cls(**{**data, "engine": engine, "schedule": (float(begin), float(end))})


@dataclass(frozen=True)
class EvalJob:
    """One evaluation of a checkpoint: ``model`` on ``data`` with the trainer's arguments ``args``."""

    model: str
    data: str
    args: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    verbose: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture of what models make of a sample, for the report.

    Attributes:
        name: Short name, unique among a report's pictures.
        file: Name of the file, in the folder it was asked to be drawn in.
        title: What is seen, in a few words.
        caption: How to read it, in a sentence or two.
    """

    name: str
    file: str
    title: str
    caption: str


@dataclass(frozen=True)
class ModelInfo:
    """A model as the pruner sees it.

    Attributes:
        layers: Weights in forward order.
        weights: Every parameter by name, float32, on the CPU.
        classes: Number of classes the model predicts.
    """

    layers: list[Layer]
    weights: dict[str, Tensor]
    classes: int

    @property
    def parameters(self) -> int:
        """Number of parameters of the whole model, biases and norms included."""
        return sum(weight.numel() for weight in self.weights.values())


class Adapter(Protocol):
    """A trainer that models can be compressed in. Checkpoints are always the trainer's own files.

    A *model word* is what a user gives as ``model=``: a checkpoint or an architecture, each as this trainer names
    them. ``weights`` is what a user gives as ``weights=``, see :class:`TrainJob`.
    """

    name: str

    def trainer_keys(self) -> frozenset[str]:
        """Names of the arguments that the trainer takes, for pass-through and for error messages."""

    def check_arguments(self, given: Mapping[str, Any]) -> None:
        """Look at the arguments of a phase before anything of a run is done; ConfigError for values that do not fit.

        Args:
            given: By names of :meth:`trainer_keys`.
        """

    def unsupported(self) -> Mapping[str, str]:
        """Keys of a run's configuration that this trainer cannot serve, each with what to do instead.

        Such a key at any value but its default is refused before anything starts: "KEY is VALUE, but SENTENCE".
        """

    def prepare_data(self, data: str, workdir: Path) -> Path:
        """Turn what the user named into a data file of the trainer; DataError where it cannot."""

    def is_checkpoint(self, model: str) -> bool:
        """Whether a model word names a checkpoint, which brings weights and classes, or an architecture.

        Decided by the word alone where that is possible: the file may be missing.
        """

    def inspect(self, model: str, classes: int | None = None, weights: str = "") -> ModelInfo:
        """Read a checkpoint or build an architecture; CheckpointError or ConfigError where it cannot.

        ``classes`` replaces the number of classes of an architecture, as training on that data would; ``weights``
        go into an architecture.
        """

    def given(self, model: str, weights: str, data: Path, target: Path) -> str:
        """The native checkpoint that holds the weights a user starts from, with nothing trained.

        Where ``model`` is such a file already, that is its path. Else ``weights`` are put into the architecture
        ``model``, written to ``target``, and its path is returned. The caller compares the number of classes with
        the data's.

        Raises:
            ConfigError: An architecture without weights (train it first with dense_epochs=N), or a checkpoint
                together with ``weights``.
            CheckpointError: The weights cannot be read, or are not of this architecture.
        """

    def classes(self, data: Path) -> int:
        """Number of classes of a data file that :meth:`prepare_data` returned."""

    def train(self, job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
        """Run or continue a phase to its end and return the engine's history (empty without an engine).

        A history's record holds under ``metric`` the scores of the model if it were hard-pruned then, where they
        were measured. Raises ConfigError for a field of the job that this trainer cannot serve.
        """

    def last(self, folder: str) -> str:
        """Path of the checkpoint that :meth:`train` keeps in a job's folder, is resumed from and ends in."""

    def export(
        self, source: str, target: Path, job: TrainJob, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write a native checkpoint for inference: ``source``'s model, with ``weights`` in place of its own.

        A training checkpoint gives its averaged (EMA) model. No optimizer, no second copy of the weights.
        """

    def averaged(self, source: str) -> dict[str, Tensor]:
        """Parameters by name, float32, of the model that :meth:`export` would write from ``source``."""

    def evaluate(self, job: EvalJob) -> dict[str, Any]:
        """Metrics of a checkpoint: floats by name, and ``per_class``: such floats by class name."""

    def exportable(self, job: EvalJob) -> Exportable:
        """The network of a checkpoint as tensors in and out, with samples of the data, for the verb ``export``.

        Raises ConfigError, in one line, where this trainer's networks cannot be exported.
        """

    def recalibrate(self, source: str, target: Path, job: TrainJob) -> None:
        """Write ``source`` with batch-norm statistics re-estimated by forward passes over the training set."""

    def illustrate(self, models: Mapping[str, str], job: EvalJob, folder: Path) -> list[Picture]:
        """Draw what models make of a few samples of the validation data into ``folder``; empty for a task without.

        ``models`` are checkpoints by the name they have in the pictures, the dense one first; ``job`` says on what
        data and how they are evaluated (its own ``model`` is one of them).
        """


def load_adapter(name: str) -> Adapter:
    """Find the adapter registered under ``name`` in the entry-point group ``slr_det.adapters``.

    Raises ConfigError for an unknown name and MissingExtraError where the adapter's trainer is not installed.
    """
    found: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise ConfigError(
            f"no adapter '{name}' is registered{nearest(name, found)}; "
            f"installed adapters: {', '.join(sorted(found)) or 'none'}; reinstall slr-det if it should be here"
        )
    try:
        adapter: Adapter = found[name].load()
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"adapter '{name}' needs the package '{error.name}', which is not installed"
        ) from error
    return adapter
