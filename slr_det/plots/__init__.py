"""The pictures of a report: PNG files under ``plots/``, drawn from the report and two copies of one layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slr_det.files import atomic_write
from slr_det.plots.conditions import conditions_figure
from slr_det.plots.convergence import convergence_figure, metric_figure
from slr_det.plots.layers import heatmap_figure, sparsity_figure
from slr_det.plots.style import drawing, png

FILES = {
    "metric_vs_iteration": "plots/metric.png",
    "convergence": "plots/convergence.png",
    "conditions": "plots/conditions.png",
    "sparsity": "plots/sparsity.png",
    "heatmap": "plots/heatmap.png",
}
"""Pictures by their name in report.json, with their paths relative to the report's folder."""

__all__ = [
    "FILES",
    "conditions_figure",
    "convergence_figure",
    "draw_all",
    "heatmap_figure",
    "metric_figure",
    "sparsity_figure",
]


def draw_all(
    folder: str | Path,
    report: Mapping[str, Any],
    *,
    heatmap_layer: str | None = None,
    before: np.ndarray[Any, Any] | None = None,
    after: np.ndarray[Any, Any] | None = None,
) -> dict[str, str]:
    """Draw every picture that the report has data for.

    Args:
        folder: The report's folder; files go to ``folder/plots``.
        report: A valid report.
        heatmap_layer: Name of the layer that ``before`` and ``after`` hold.
        before: Its dense weight, any shape of two or more dimensions.
        after: The weight after pruning, same shape.

    Returns:
        Paths relative to ``folder``, by picture; a picture without data is absent.

    Raises:
        StorageError: A file could not be written.
    """
    drawn: dict[str, str] = {}
    with drawing():
        figures = {
            "metric_vs_iteration": metric_figure(report),
            "convergence": convergence_figure(report),
            "conditions": conditions_figure(report),
            "sparsity": sparsity_figure(report),
            "heatmap": None,
        }
        if heatmap_layer is not None and before is not None and after is not None:
            figures["heatmap"] = heatmap_figure(heatmap_layer, before, after)
        for name, figure in figures.items():
            if figure is not None:
                atomic_write(Path(folder) / FILES[name], png(figure))
                drawn[name] = FILES[name]
    return drawn
