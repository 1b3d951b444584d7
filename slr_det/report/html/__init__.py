"""One page that compares runs: a single HTML file without a network, with tables to sort and curves to hover."""

from __future__ import annotations

from slr_det.report.html.gather import Run, Series, read_run, read_runs
from slr_det.report.html.page import page
from slr_det.report.html.verb import add_arguments, run

__all__ = ["Run", "Series", "add_arguments", "page", "read_run", "read_runs", "run"]
