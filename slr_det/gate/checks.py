"""Limits, and whether a model keeps them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slr_det.errors import ConfigError, nearest
from slr_det.gate.measures import MEASURES, kind_of
from slr_det.gate.quantities import SCORE, Quantity, exact, parse_quantity, shown
from slr_det.task import Task

MIN, MAX, BASELINE = "min", "max", "baseline"
_ROUNDING = 1e-9  # a limit of 0.495 is met by 0.5 - 0.005, whatever binary fractions make of it


@dataclass(frozen=True)
class Limits:
    """What a user asks for, by the names that they use.

    Attributes:
        least: From ``--min``.
        most: From ``--max``.
        tolerances: From ``--tolerance NAME=VALUE``; a ``%`` is a share of the baseline's value.
        tolerance: From ``--tolerance VALUE``: for the metrics that have none of their own.
    """

    least: Mapping[str, Quantity] = field(default_factory=dict)
    most: Mapping[str, Quantity] = field(default_factory=dict)
    tolerances: Mapping[str, Quantity] = field(default_factory=dict)
    tolerance: Quantity = field(default_factory=lambda: Quantity(0.0))

    def named(self) -> set[str]:
        """Every name, in lower case."""
        return {name.lower() for name in (*self.least, *self.most, *self.tolerances)}


@dataclass(frozen=True)
class Check:
    """One limit and what came of it; values in bytes, seconds, or as plain numbers.

    Attributes:
        metric: What is limited.
        name: What the user calls it.
        rule: ``min``, ``max`` or ``baseline``.
        value: What was measured; NaN where that is no number.
        limit: The least or the largest value that passes.
        lower: Whether less is better.
        baseline: The baseline's value, for that rule.
        tolerance: By how much it may be missed.
    """

    metric: str
    name: str
    rule: str
    value: float
    limit: float
    lower: bool
    baseline: float | None = None
    tolerance: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the limit is kept; a NaN never keeps one."""
        slack = _ROUNDING * max(1.0, abs(self.limit)) if self.rule == BASELINE else 0.0
        return self.value <= self.limit + slack if self.lower else self.value >= self.limit - slack

    @property
    def demand(self) -> str:
        """The limit in a few words, such as ``at least 0.35``."""
        kind = kind_of(self.metric)
        if self.rule != BASELINE:
            return f"{'at most' if self.lower else 'at least'} {exact(self.limit, kind)}"
        sign = "+" if self.lower else "-"
        spread = f" {sign} {exact(self.tolerance, kind)}" if self.tolerance else ""
        return f"baseline {shown(self.baseline, kind)}{spread}"

    @property
    def failure(self) -> str:
        """The sentence for a limit that is not kept."""
        kind = kind_of(self.metric)
        short, full = shown(self.value, kind), exact(self.value, kind)
        near = short == shown(self.limit, kind)  # 0.34999 is not the 0.3500 that was asked for
        said = f"{self.name} is {full if near else short}"
        if self.rule == MIN:
            percent = kind == SCORE and self.limit > 1 >= self.value >= 0
            hint = f"; scores are fractions of 1: {self.limit / 100:g}?" if percent else ""
            return f"{said}, below the minimum of {exact(self.limit, kind)}{hint}"
        if self.rule == MAX:
            return f"{said}, above the maximum of {exact(self.limit, kind)}"
        allowed = f" by more than {exact(self.tolerance, kind)}" if self.tolerance else ""
        return f"{said}, worse than the baseline's {shown(self.baseline, kind)}{allowed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without NaN and infinity."""
        plain = {
            "metric": self.metric,
            "rule": self.rule,
            "value": self.value,
            "limit": self.limit,
            "baseline": self.baseline,
            "tolerance": self.tolerance,
            "passed": self.passed,
        }
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in plain.items()
        }


def parse_limits(
    least: Sequence[str], most: Sequence[str], tolerance: Sequence[str], *, against: bool, example: str
) -> Limits:
    """Read ``--min``, ``--max`` and ``--tolerance``; ``against`` says whether there is a baseline.

    Raises:
        ConfigError: Everything that is wrong, one sentence each.
    """
    problems: list[str] = []
    everywhere: list[Quantity] = []
    own = []
    for word in tolerance:
        if "=" in word:
            own.append(word)
        elif (found := parse_quantity(word)) is None or found.number < 0:
            problems.append(f"--tolerance {word!r}: expected a number of 0 or more, or NAME=NUMBER")
        else:
            everywhere.append(found)
    if len(everywhere) > 1:
        problems.append(f"--tolerance is given twice, as {' and '.join(map(str, everywhere))}; leave one out")
    common = everywhere[-1] if everywhere else Quantity(0.0)
    if tolerance and not against:
        problems.append("--tolerance says how far a baseline may be missed; give --baseline FILE with it")
    limits = Limits(
        _pairs("--min", least, example, problems),
        _pairs("--max", most, "bytes=12MB", problems),
        _pairs("--tolerance", own, "bytes=1%", problems),
        common,
    )
    if common.unit not in ("", "%"):
        problems.append(f"--tolerance has the unit '{common.unit}'; name the metric: --tolerance bytes=100KB")
    for name, quantity in limits.tolerances.items():
        if quantity.number < 0:
            problems.append(f"--tolerance {name}: is {quantity.number:g}, expected 0 or more")
    for option, pairs in (("--min", limits.least), ("--max", limits.most)):
        for name, quantity in pairs.items():
            if name.lower() not in MEASURES:
                continue
            lower, measure = option == "--max", MEASURES[name.lower()]
            if lower is not measure.lower:
                problems.append(_wrong_way(option, name, measure.lower))
            try:
                quantity.of(measure.kind, f"{option} {name}={quantity}")
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    return limits


def judge(
    task: Task,
    values: Mapping[str, Any],
    limits: Limits,
    baseline: Mapping[str, float] | None,
) -> list[Check]:
    """Every limit with its verdict, in the order of the options; those against the baseline at the end.

    Args:
        task: Says which metric is the headline, what metrics may be called, and of which less is better.
        values: Metrics and measures by name; what is no number is passed over, None counts as NaN.
        limits: What is asked for.
        baseline: The baseline's numbers by name; the task's own metrics (``Task.shown``) and those with a tolerance of
            their own are compared. None for no baseline.

    Raises:
        ConfigError: Everything that cannot be judged, one sentence each: names that are no metric here, a minimum for
            what should be low or the other way round, units that do not fit, metrics that the baseline lacks.
    """
    book = _Book(task, values)
    checks = [book.limit(MIN, name, quantity) for name, quantity in limits.least.items()]
    checks += [book.limit(MAX, name, quantity) for name, quantity in limits.most.items()]
    if baseline is not None:
        own: dict[str, tuple[str, Quantity]] = {}
        for name, quantity in limits.tolerances.items():
            metric = book.find("--tolerance", name)
            if metric in own and metric:
                book.problems.append(
                    f"--tolerance: {own[metric][0]} and {name} are the same metric; leave one out"
                )
            own[metric] = (name, quantity)
        usual = {name: (name, limits.tolerance) for name in task.shown if name in book.numbers}
        for metric, (name, quantity) in (usual | {k: v for k, v in own.items() if k}).items():
            checks.append(book.against(metric, name, quantity, baseline, needed=metric in own))
    if book.problems:
        raise ConfigError(book.problems)
    return [check for check in checks if check is not None]


class _Book:
    """The numbers of an evaluation by every name that they have."""

    def __init__(self, task: Task, values: Mapping[str, Any]) -> None:
        self.numbers = {
            name: math.nan if value is None else float(value)
            for name, value in values.items()
            if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        }
        self.usable = {a: name for a, name in task.metric_aliases.items() if name in self.numbers}
        self.known = {name.lower(): name for name in self.numbers} | self.usable
        self.low: Collection[str] = {*task.lower_is_better, *(n for n, m in MEASURES.items() if m.lower)}
        self.problems: list[str] = []

    def find(self, option: str, name: str) -> str:
        """The metric that a user means; empty, with a problem noted, for none."""
        metric = self.known.get(name.lower(), "")
        if not metric and name.lower() in MEASURES:
            self.problems.append(f"{option}: {name} could not be measured: the model is no file of its own")
        elif not metric:
            names = ", ".join([*self.usable, *self.numbers])
            self.problems.append(
                f"{option}: no metric '{name}'{nearest(name.lower(), self.known)}; there are {names}"
            )
        return metric

    def limit(self, rule: str, name: str, quantity: Quantity) -> Check | None:
        option = f"--{rule}"
        metric = self.find(option, name)
        if not metric:
            return None
        lower = metric in self.low
        if lower is not (rule == MAX):
            self.problems.append(_wrong_way(option, name, lower))
            return None
        try:
            where = f"{option} {name}={quantity}"
            limit = quantity.of(kind_of(metric), where)
        except ConfigError as error:
            self.problems += error.problems
            return None
        return Check(metric, name, rule, self.numbers[metric], limit, lower)

    def against(
        self, metric: str, name: str, quantity: Quantity, baseline: Mapping[str, float], *, needed: bool
    ) -> Check | None:
        """Compare with the baseline; None, which is a problem only where it was asked for, where that lacks it."""
        before = baseline.get(metric)
        if before is None:
            if needed:
                self.problems.append(f"--tolerance: the baseline has no {name}; it has {', '.join(baseline)}")
            return None
        try:
            relative = quantity.unit == "%"
            where = f"--tolerance {name}={quantity}"
            tolerance = (
                abs(before) * quantity.number / 100 if relative else quantity.of(kind_of(metric), where)
            )
        except ConfigError as error:
            self.problems += error.problems
            return None
        lower = metric in self.low
        limit = before + tolerance if lower else before - tolerance
        return Check(metric, name, BASELINE, self.numbers[metric], limit, lower, before, tolerance)


def _pairs(option: str, words: Sequence[str], example: str, problems: list[str]) -> dict[str, Quantity]:
    found: dict[str, Quantity] = {}
    for word in words:
        name, _, text = word.partition("=")
        quantity = parse_quantity(text)
        if not name or quantity is None:
            problems.append(f"{option} {word!r}: expected name=number, such as {example}")
        elif name.lower() in {known.lower() for known in found}:
            problems.append(f"{option} {word}: {name} has a limit already; leave one of them out")
        else:
            found[name] = quantity
    return found


def _wrong_way(option: str, name: str, lower: bool) -> str:
    better, right, bound = ("fewer", "--max", "minimum") if lower else ("more", "--min", "maximum")
    return (
        f"{option}: of {name} {better} is better, so that it has no {bound}; write {right} {name}=... instead"
    )
