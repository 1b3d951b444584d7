"""From layers and a method to an :class:`Allocation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from slr_det.allocation.ratios import Ratios, parse_rate
from slr_det.allocation.solve import Curves, Solver
from slr_det.allocation.table import Allocation, Row
from slr_det.allocation.units import Choice, Unit, choose_units
from slr_det.errors import ConfigError, nearest
from slr_det.groups import GroupSpec
from slr_det.layers import Layer
from slr_det.projections import Projection
from slr_det.sensitivity import SensitivityTable

METHODS = ("uniform", "layerwise", "erk", "global", "sensitivity")


def allocate(
    layers: Sequence[Layer],
    *,
    projection: Projection | str | Mapping[str, Any] = "unstructured",
    method: str = "uniform",
    keep: float | None = None,
    target_compression: float | str | None = None,
    compression_over: str = "model",
    model_parameters: int | None = None,
    weights: Mapping[str, Tensor] | None = None,
    ratios: Ratios | Mapping[str, float] | None = None,
    sensitivity: Curves | str | Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dense_first: bool = True,
    dense_head: bool = True,
    head: str = "detection head",
    groups: Sequence[Mapping[str, Any]] = (),
) -> Allocation:
    """Choose how much of each layer stays.

    The free layers are those that may be pruned and have no ratio written out. ``keep`` is the fraction of their
    weights that stays; ``target_compression`` solves for it instead. Layers of ``ratios`` and ``groups`` keep what
    is written there (under ``layerwise`` with a target the ratios are proportions that are scaled together).

    - ``uniform``: the same ratio for every free layer;
    - ``layerwise``: ``ratios`` decide; layers they do not name stay dense, or get ``keep`` where it is given;
    - ``erk``: Erdos-Renyi-Kernel densities (Evci et al. 2020), capped at 1;
    - ``global``: one ranking over all free layers, which form one group with one budget;
    - ``sensitivity``: the least summed predicted loss of a scan (``slr_det.sensitivity``).

    Args:
        layers: The model's layers in forward order.
        projection: The set each layer is projected onto; anything ``Projection.parse`` reads.
        method: One of the above.
        keep: Global keep ratio in (0, 1]. Not together with ``target_compression``.
        target_compression: All weights / nonzero weights to reach, e.g. ``3.33`` or ``"3.33x"``. The result is the
            largest keep ratio whose exact count reaches it.
        compression_over: What the target counts: ``model`` (every parameter; biases, norms and skipped layers count
            as kept) or ``groups`` (the pruned layers alone).
        model_parameters: Number of parameters of the whole model; the layers' own where None.
        weights: The current weights by name; only used to show what each layer of a shared budget would keep.
        ratios: Keep ratios by layer name or glob.
        sensitivity: For ``sensitivity``: (fraction kept, metric lost) points by layer name, as
            ``SensitivityTable.curves`` gives them, or the file of such a table.
        include: Globs; where given, other layers stay dense.
        exclude: Globs of layers that stay dense.
        dense_first: Leave layers of the role ``first`` dense unless they are named in full.
        dense_head: Leave layers of the role ``head`` dense unless they are named in full.
        head: What such a layer is called in tables and messages.
        groups: Layers that share a budget: mappings with ``name``, ``params`` (globs), ``keep`` (optional: the global
            ratio), ``projection`` and ``coupled``.

    Raises:
        ConfigError: Everything that is wrong, at once; or a target that cannot be reached, with the highest rate
            that can.
    """
    problems: list[str] = []
    chosen = _projection(projection, problems)
    target = _target(target_compression, keep, compression_over, problems)
    if method not in METHODS:
        problems.append(
            f"allocation is '{method}'{nearest(method, METHODS)}, expected one of {', '.join(METHODS)}"
        )
    if ratios is not None and not isinstance(ratios, Ratios):
        ratios = Ratios(dict(ratios))
    if ratios is not None:
        problems += [
            f"{ratios.source}: '{name}' is {value}, expected a keep ratio in (0, 1]"
            for name, value in ratios.keep.items()
            if not 0.0 < value <= 1.0
        ]
    elif method == "layerwise":
        problems.append("allocation 'layerwise' needs ratios; write them under prune.ratios")
    curves = _curves(sensitivity, problems) if method == "sensitivity" else {}
    fixed = _keeps_one_ratio(chosen)
    if keep is None and target is None and ratios is None and not groups and not fixed and not problems:
        problems.append(
            "nothing says how much to prune; give prune.target_compression (such as 3.33x), prune.keep, prune.ratios "
            "or prune.groups"
        )
    choice = choose_units(
        layers,
        chosen,
        ratios=ratios,
        include=include,
        exclude=exclude,
        dense_first=dense_first,
        dense_head=dense_head,
        head=head,
        groups=groups,
        default_keep=keep is not None
        or (target is not None and method != "layerwise")
        or chosen.name == "n:m",
    )
    problems += choice.problems
    if problems:
        raise ConfigError(problems)
    if method == "sensitivity":
        _drop_unscanned(choice, curves)
    if not choice.units:
        raise ConfigError(_nothing_left(layers, choice))
    total = sum(layer.numel for layer in layers) if model_parameters is None else model_parameters
    units, note = _shared(choice.units) if method == "global" else (choice.units, None)
    solver = Solver(units, method, curves, target, compression_over, total)
    solved = solver.solve(keep, choice, layers)
    keeps = solver.keeps(solved)
    splits = [_split(unit, value, weights) for unit, value in zip(units, keeps, strict=True)]
    notes = [*(ratios.notes if ratios is not None else ()), *solver.notes(solved), *([note] if note else [])]
    return Allocation(
        layers=tuple(_rows(layers, units, keeps, splits, choice.reasons)),
        groups=tuple(
            GroupSpec(unit.name, tuple(layer.name for layer in unit.layers), value, unit.projection)
            for unit, value in zip(units, keeps, strict=True)
        ),
        counts=tuple(sum(split) for split in splits),
        model_parameters=total,
        method=method,
        keep=solver.shown(solved),
        target=target,
        over=compression_over,
        notes=tuple(notes),
    )


def _rows(
    layers: Sequence[Layer],
    units: Sequence[Unit],
    keeps: Sequence[float],
    splits: Sequence[Sequence[int]],
    reasons: Mapping[str, str],
) -> list[Row]:
    rows: dict[str, Row] = {}
    for unit, keep, split in zip(units, keeps, splits, strict=True):
        for layer, kept in zip(unit.layers, split, strict=True):
            shown = kept / layer.numel if unit.declared else keep
            rows[layer.name] = Row(
                layer, shown, unit.projection, None, kept, unit.name if unit.declared else None
            )
    return [
        rows[layer.name] if layer.name in rows else Row(layer, None, None, reasons[layer.name], layer.numel)
        for layer in layers
    ]


def _split(unit: Unit, keep: float, weights: Mapping[str, Tensor] | None) -> list[int]:
    """How many weights each layer of a unit keeps.

    Where the layers share a budget, or blocks at the edges differ in size, the current weights decide. Without them
    the budget is shared out in proportion.
    """
    count = unit.projection.count(unit.shapes, keep)
    if len(unit.layers) == 1 and count is not None:
        return [count]
    if weights is not None:
        masks = unit.projection.support([weights[layer.name] for layer in unit.layers], keep)
        return [int(mask.sum()) for mask in masks]
    total = unit.count(keep)
    ends = [0]
    for layer in unit.layers:
        ends.append(ends[-1] + layer.numel)
    bounds = [round(total * end / ends[-1]) for end in ends]
    return [high - low for low, high in pairwise(bounds)]


def _shared(units: Sequence[Unit]) -> tuple[list[Unit], str | None]:
    """Merge the free units into one budget, at the place of the first."""
    free = [unit for unit in units if unit.keep is None and not unit.declared]
    if not free:
        return list(units), None
    name = "global"
    while any(unit.name == name for unit in units):
        name += "_"
    merged = replace(
        free[0], name=name, layers=tuple(layer for unit in free for layer in unit.layers), declared=True
    )
    problem = merged.projection.check(*merged.shapes)
    if problem is not None:
        raise ConfigError(f"allocation 'global': {problem}; choose another projection or allocation")
    rest = [unit for unit in units if unit not in free]
    return [
        merged,
        *rest,
    ], f"'{name}' is one budget over {len(free)} layers; each layer's share follows the weights"


def _drop_unscanned(choice: Choice, curves: Curves) -> None:
    for unit in list(choice.units):
        if unit.keep is None and unit.name not in curves:
            if unit.declared:
                raise ConfigError(
                    f"group '{unit.name}' needs a keep of its own: a scan knows single layers only"
                )
            choice.units.remove(unit)
            choice.reasons[unit.name] = "not in the sensitivity scan"


def _curves(source: Curves | str | Path | None, problems: list[str]) -> Curves:
    if source is None:
        problems.append(
            "allocation 'sensitivity' needs the table of a scan; give its file as prune.sensitivity"
        )
        return {}
    if isinstance(source, Mapping):
        return source
    try:
        return SensitivityTable.load(source).curves()
    except ConfigError as error:
        problems += error.problems
        return {}


def _keeps_one_ratio(projection: Projection) -> bool:
    """Whether the set fixes the ratio by itself, as 2:4 does."""
    shape = (1 << 10, 1 << 10)
    if projection.check(shape) is not None:
        return False
    least, most = (projection.count([shape], keep) for keep in (1e-6, 1.0))
    return least is not None and least == most


def _projection(value: Projection | str | Mapping[str, Any], problems: list[str]) -> Projection:
    try:
        return Projection.parse(value)
    except ConfigError as error:
        problems += error.problems
        return Projection("unstructured", {})


def _target(value: float | str | None, keep: float | None, over: str, problems: list[str]) -> float | None:
    if over not in ("model", "groups"):
        problems.append(
            f"compression_over is '{over}'{nearest(over, ('model', 'groups'))}, expected model or groups"
        )
    if keep is not None and not 0.0 < keep <= 1.0:
        problems.append(f"keep is {keep}, expected a ratio in (0, 1]")
    if value is None:
        return None
    if keep is not None:
        problems.append("keep and target_compression are both given; remove one")
    try:
        return parse_rate(value)
    except ConfigError as error:
        problems += error.problems
        return None


def _nothing_left(layers: Sequence[Layer], choice: Choice) -> str:
    if not layers:
        return "the model has no layer that could be pruned"
    reasons = sorted(set(choice.reasons.values()))
    return f"no layer is left to prune ({len(layers)} layers: {', '.join(reasons)}); widen include or narrow exclude"
