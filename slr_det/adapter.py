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
from slr_det.groups import GroupSpec, build_groups
from slr_det.layers import Layer
from slr_det.projections import Projection

ENTRY_POINT_GROUP = "slr_det.adapters"


@dataclass(frozen=True)
class EngineSpec:
    """Everything an engine is built from but the weights; plain data, so that it crosses process borders as JSON.

    Attributes:
        method: Name of a registered method, e.g. ``slr``.
        iterations: Number of iterations the method will be given (epochs, for the adapters here).
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
        model: Checkpoint to start from, or an architecture file.
        data: Data set file in the trainer's own format.
        folder: Where the phase keeps its files; ``folder/weights/last.pt`` is the resumable checkpoint.
        epochs: Passes over the training set.
        args: Arguments of the trainer itself, passed through.
        engine: Method to train under; None for plain or masked training.
        keep_zeros: Masked (re)training: weights that are zero at the start stay zero.
        title: What the progress bar calls this phase.
        seed: Seed of everything random.
        device: Device in the trainer's own notation; empty lets it choose.
        verbose: Show the trainer's own log.
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that :meth:`from_dict` reads back."""
        return {
            **asdict(self),
            "args": dict(self.args),
            "engine": None if self.engine is None else self.engine.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainJob:
        """Inverse of :meth:`to_dict`."""
        engine = None if data["engine"] is None else EngineSpec.from_dict(data["engine"])
        return cls(**{**data, "engine": engine})


@dataclass(frozen=True)
class EvalJob:
    """One evaluation of a checkpoint: ``model`` on ``data`` with the trainer's arguments ``args``."""

    model: str
    data: str
    args: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    verbose: bool = False


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
    """A trainer that models can be compressed in. Checkpoints are always the trainer's own files."""

    name: str

    def trainer_keys(self) -> frozenset[str]:
        """Names of the arguments that the trainer takes, for pass-through and for error messages."""

    def prepare_data(self, data: str, workdir: Path) -> Path:
        """Turn what the user named into a data file of the trainer; DataError where it cannot."""

    def inspect(self, model: str, classes: int | None = None) -> ModelInfo:
        """Read a checkpoint or build an architecture; CheckpointError or ConfigError where it cannot.

        ``classes`` replaces the number of classes of an architecture file, as training on that data would.
        """

    def classes(self, data: Path) -> int:
        """Number of classes of a data file that :meth:`prepare_data` returned."""

    def train(self, job: TrainJob, *, resume: bool) -> list[dict[str, Any]]:
        """Run or continue a phase to its end and return the engine's history (empty without an engine)."""

    def export(
        self, source: str, target: Path, job: TrainJob, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write a native checkpoint for inference: ``source``'s model, with ``weights`` in place of its own.

        A training checkpoint gives its averaged (EMA) model. No optimizer, no second copy of the weights.
        """

    def averaged(self, source: str) -> dict[str, Tensor]:
        """Parameters by name, float32, of the model that :meth:`export` would write from ``source``."""

    def evaluate(self, job: EvalJob) -> dict[str, Any]:
        """Metrics of a checkpoint: floats by name, and ``per_class`` by class name."""

    def recalibrate(self, source: str, target: Path, job: TrainJob) -> None:
        """Write ``source`` with batch-norm statistics re-estimated by forward passes over the training set."""


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
