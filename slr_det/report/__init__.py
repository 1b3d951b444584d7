"""The report of a run: one JSON file by a published schema, one page for people, and plots."""

from __future__ import annotations

from slr_det.report.document import (
    REPORT_JSON,
    REPORT_MARKDOWN,
    build_report,
    load_report,
    refresh_report,
    write_report,
)
from slr_det.report.facts import collect_versions, compression, git_commit
from slr_det.report.markdown import markdown
from slr_det.report.schema import PHASES, SCHEMA_PATH, SCHEMA_VERSION, load_schema, validate
from slr_det.report.summary import summary_table

__all__ = [
    "PHASES",
    "REPORT_JSON",
    "REPORT_MARKDOWN",
    "SCHEMA_PATH",
    "SCHEMA_VERSION",
    "build_report",
    "collect_versions",
    "compression",
    "git_commit",
    "load_report",
    "load_schema",
    "markdown",
    "refresh_report",
    "summary_table",
    "validate",
    "write_report",
]
