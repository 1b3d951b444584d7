"""The arguments of SLRHook: everything that is wrong with them, at once, and the engine that they describe."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from slr_det import methods
from slr_det.adapter import EngineSpec
from slr_det.allocation import METHODS, Allocation, allocate
from slr_det.engine import Hyper
from slr_det.errors import ConfigError, nearest
from slr_det.layers import layers_of, matches_any
from slr_det.projections import Projection

SELECTION = (
    "compression",
    "keep",
    "projection",
    "allocation",
    "ratios",
    "sensitivity",
    "include",
    "exclude",
    "dense_first",
    "heads",
)


@dataclass(frozen=True)
class Arguments:
    """The arguments of SLRHook, as its docstring lists them."""

    method: str | None = "slr"
    engine: Mapping[str, Any] | None = None
    compression: float | str | None = None
    keep: float | None = None
    projection: str | Mapping[str, Any] = "unstructured"
    allocation: str = "uniform"
    ratios: Mapping[str, float] | None = None
    sensitivity: str | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    dense_first: bool = True
    heads: Sequence[str] = ()
    hyper: Mapping[str, Any] | None = None
    iterations_per_epoch: int = 1
    iterations: int | None = None
    keep_zeros: bool = False
    prune_at_end: bool = True
    validate_pruned: bool = True
    reseed: bool = True
    loss_scale: float = 1.0
    fixed_batches: int = 4


DEFAULTS = {field.name: field.default for field in dataclasses.fields(Arguments)}


def read_arguments(given: Mapping[str, Any]) -> Arguments:
    """Check the arguments of an SLRHook.

    Raises:
        ConfigError: With every problem that shows without the model and the loop.
    """
    problems = [
        f"SLRHook has no argument '{name}'{nearest(name, DEFAULTS)}; remove it"
        for name in given
        if name not in DEFAULTS
    ]
    arguments = Arguments(**{name: plain(value) for name, value in given.items() if name in DEFAULTS})
    problems += _wrong_types(arguments)
    if arguments.keep_zeros or arguments.method is None:
        extra = [name for name in ("engine", *SELECTION, "hyper", "iterations") if _changed(arguments, name)]
        if arguments.keep_zeros and arguments.method not in (None, DEFAULTS["method"]):
            extra.insert(0, "method")
        if extra:
            what = (
                "keep_zeros retrains under the zeros that are there"
                if arguments.keep_zeros
                else "method is None"
            )
            problems.append(f"{what}, so nothing is left to choose; remove {', '.join(extra)}")
    elif arguments.engine is not None:
        extra = [name for name in ("method", *SELECTION, "hyper") if _changed(arguments, name)]
        if extra:
            problems.append(f"engine decides the groups already; remove {', '.join(extra)}, or engine")
        problems += _problems_of_engine(arguments.engine)
    else:
        problems += _problems_of_selection(arguments)
    if problems:
        raise ConfigError(problems)
    return arguments


def choose(arguments: Arguments, model: nn.Module, iterations: int) -> tuple[EngineSpec, Allocation | None]:
    """The engine's specification for a model, and the table behind it where the hook chose the groups itself.

    Args:
        arguments: Checked arguments without ``keep_zeros``.
        model: The model without its wrapper; weights on any device.
        iterations: How many iterations the loop will have.

    Raises:
        ConfigError: Globs that match nothing, a target out of reach, or an engine for another number of iterations.
    """
    if arguments.engine is not None:
        spec = EngineSpec.from_dict(arguments.engine)
        if spec.iterations != iterations:
            raise ConfigError(
                f"engine has {spec.iterations} iterations and the training loop gives {iterations}; change "
                "max_epochs, iterations_per_epoch or iterations, or the engine"
            )
        return spec, None
    named = dict(model.named_parameters())
    layers = layers_of(model, heads=arguments.heads)
    names = [layer.name for layer in layers]
    problems = [
        f"heads: '{glob}' matches no layer of the model{nearest(glob.strip('*'), names)}"
        for glob in arguments.heads
        if not any(matches_any(name, (glob,)) for name in names)
    ]
    if problems:
        raise ConfigError(problems)
    # The penalty cannot move a frozen weight towards its projection: pruning it would be a shock.
    frozen = [name for name in names if not named[name].requires_grad]
    try:
        allocation = allocate(
            layers,
            projection=arguments.projection,
            method=arguments.allocation,
            keep=arguments.keep,
            target_compression=arguments.compression,
            model_parameters=sum(parameter.numel() for parameter in named.values()),
            weights=named,
            ratios=arguments.ratios,
            sensitivity=arguments.sensitivity,
            include=tuple(arguments.include),
            exclude=(*arguments.exclude, *frozen),
            dense_first=arguments.dense_first,
        )
    except ConfigError as error:
        # The allocation calls its arguments as configuration files do.
        raise ConfigError([_own_words(problem) for problem in error.problems]) from error
    return EngineSpec(
        str(arguments.method), iterations, tuple(allocation.specs()), dict(arguments.hyper or {})
    ), allocation


def plain(value: Any) -> Any:
    """Configuration values as built-in types: mmengine's ConfigDict is a dict that invents missing attributes."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _changed(arguments: Arguments, name: str) -> bool:
    value, default = getattr(arguments, name), DEFAULTS[name]
    return (list(value) if isinstance(value, list | tuple) else value) != (
        list(default) if isinstance(default, tuple) else default
    )


def _wrong_types(arguments: Arguments) -> list[str]:
    problems = []
    for name in ("iterations_per_epoch", "fixed_batches", "iterations"):
        value = getattr(arguments, name)
        if (name != "iterations" or value is not None) and not (_whole(value) and value >= 1):
            problems.append(f"{name} is {value!r}, expected a whole number of at least 1")
    for name, default in DEFAULTS.items():
        if isinstance(default, bool) and not isinstance(getattr(arguments, name), bool):
            problems.append(f"{name} is {getattr(arguments, name)!r}, expected True or False")
    for name in ("include", "exclude", "heads"):
        value = getattr(arguments, name)
        if isinstance(value, str) or not all(isinstance(glob, str) for glob in value):
            problems.append(f"{name} is {value!r}, expected a list of parameter names or globs")
    if not isinstance(arguments.loss_scale, int | float) or not arguments.loss_scale > 0:
        problems.append(f"loss_scale is {arguments.loss_scale!r}, expected a number above 0")
    if arguments.iterations is not None and arguments.iterations_per_epoch != 1:
        problems.append("iterations and iterations_per_epoch are both given; remove one")
    return problems


def _problems_of_engine(engine: Mapping[str, Any]) -> list[str]:
    if not isinstance(engine, Mapping):
        return [f"engine is {engine!r}, expected what EngineSpec.to_dict() returns"]
    try:
        spec = EngineSpec.from_dict(engine)
        methods.get(spec.method)
    except ConfigError as error:
        return list(error.problems)
    except (KeyError, TypeError, ValueError) as error:
        return [
            f"engine is not what EngineSpec.to_dict() returns ({type(error).__name__}: {error}); build it with that"
        ]
    return _problems_of_hyper(spec.hyper)


def _problems_of_selection(arguments: Arguments) -> list[str]:
    problems: list[str] = []
    for read in (lambda: methods.get(str(arguments.method)), lambda: Projection.parse(arguments.projection)):
        try:
            read()
        except ConfigError as error:
            problems += error.problems
    if arguments.allocation not in METHODS:
        problems.append(
            f"allocation is '{arguments.allocation}'{nearest(str(arguments.allocation), METHODS)}, expected one of "
            f"{', '.join(METHODS)}"
        )
    if arguments.compression is not None and arguments.keep is not None:
        problems.append("compression and keep are both given; remove one")
    return problems + _problems_of_hyper(arguments.hyper or {})


def _problems_of_hyper(hyper: Mapping[str, Any]) -> list[str]:
    if not isinstance(hyper, Mapping):
        return [f"hyper is {hyper!r}, expected a dict such as dict(rho=0.1)"]
    valid = list(inspect.signature(Hyper).parameters)
    problems = [
        f"hyper has no '{name}'{nearest(name, valid)}; it takes {', '.join(valid)}"
        for name in hyper
        if name not in valid
    ]
    try:
        Hyper(**{name: value for name, value in hyper.items() if name in valid})
    except ConfigError as error:
        problems += [f"hyper: {problem}" for problem in error.problems]
    return problems


def _own_words(problem: str) -> str:
    return problem.replace("prune.target_compression", "compression").replace("prune.", "")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
