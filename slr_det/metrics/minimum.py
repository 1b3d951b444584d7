"""Is a model good enough? Metrics against the minimum that a user asks for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from slr_det.errors import ConfigError, nearest


def check_minimum(
    metrics: Mapping[str, Any],
    minimum: Mapping[str, float],
    aliases: Mapping[str, str],
    lower_is_better: Collection[str] = (),
) -> list[str]:
    """Return one sentence for each metric that is below its minimum; empty when all are reached.

    Args:
        metrics: Numbers by name, as an evaluation gives them; other values are passed over.
        minimum: Least accepted values by name, in any case of letters.
        aliases: What users may call a metric (in lower case), and its name; those of metrics that were not measured
            do not count.
        lower_is_better: Metrics that have no minimum, because fewer is better.

    Raises:
        ConfigError: a name that is no metric here (with the nearest one); a metric that has no minimum; a minimum that
            is not a number.
    """
    numbers = {
        k: float(v) for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
    usable = {alias: name for alias, name in aliases.items() if name in numbers}
    known = {name.lower(): name for name in numbers} | usable
    problems = [
        f"--min: no metric '{name}'{nearest(name.lower(), known)}; there are {', '.join([*usable, *numbers])}"
        for name in minimum
        if name.lower() not in known
    ]
    problems += [
        f"--min: of {name} fewer is better, so that it has no minimum; leave it out"
        for name in minimum
        if known.get(name.lower()) in lower_is_better
    ]
    problems += [
        f"--min: {name}={value!r}, expected a number"
        for name, value in minimum.items()
        if not math.isfinite(value)
    ]
    if problems:
        raise ConfigError(problems)
    failures = []
    for name, least in minimum.items():
        value = numbers[known[name.lower()]]
        if not value >= least:  # a NaN fails too
            hint = f"; scores are fractions of 1: {least / 100:g}?" if least > 1 >= value >= 0 else ""
            failures.append(f"{name} is {value:.4f}, below the minimum of {least:g}{hint}")
    return failures
