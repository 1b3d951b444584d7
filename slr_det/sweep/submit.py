"""Cells as jobs of a scheduler, handed over by submitit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slr_det.errors import ConfigError, MissingExtraError, SlrDetError
from slr_det.sweep.cells import Job, fail, prepare
from slr_det.sweep.grid import Cell
from slr_det.sweep.local import run_one
from slr_det.yamlio import parse_value

SCHEDULERS = ("slurm", "local")
#: submitit's local jobs end after two minutes unless they are told otherwise.
_DEFAULTS = {"local": {"timeout_min": 7 * 24 * 60}, "slurm": {}}


class CellJob:
    """What a job does: it continues the run of one cell. submitit pickles it.

    Args:
        task: Name of the command line.
        folder: The run's folder, absolute, on a disk that all machines see.
        threads: CPU threads; None leaves them to the job's environment.
    """

    def __init__(self, task: str, folder: str, threads: int | None) -> None:
        self.task = task
        self.folder = folder
        self.threads = threads

    def __call__(self) -> str:
        """Run it; SlrDetError, which makes the job a failed one, where it does not come to its end."""
        error = run_one(self.task, Path(self.folder), self.threads)
        if error:
            fail(Path(self.folder), error)
            raise SlrDetError(error)
        return self.folder

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Called by submitit before a job is preempted or out of time: the next one continues the run."""
        import submitit

        return submitit.helpers.DelayedSubmission(CellJob(self.task, self.folder, self.threads))


def read_parameters(scheduler: str, words: Sequence[str]) -> dict[str, Any]:
    """``partition=gpu timeout_min=240`` as submitit's parameters; those of the scheduler alone get its prefix.

    Raises:
        ConfigError: An unknown scheduler, or words that are no settings.
    """
    if scheduler not in SCHEDULERS:
        raise ConfigError(f"--submitit {scheduler}: expected one of {', '.join(SCHEDULERS)}")
    found: dict[str, Any] = dict(_DEFAULTS[scheduler])
    problems = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            problems.append(
                f"--submitit: '{word}' is not a parameter; write name=value, such as partition=gpu"
            )
        else:
            found[key] = parse_value(value)
    if problems:
        raise ConfigError(problems)
    return found


def hand_over(
    cells: Sequence[Cell], scheduler: str, parameters: Mapping[str, Any], logs: Path, threads: int | None
) -> list[tuple[Cell, Any]]:
    """Submit a job for each cell, all in one array; returns the cells with submitit's jobs.

    Args:
        cells: Those that are left to run.
        scheduler: One of :data:`SCHEDULERS`.
        parameters: From :func:`read_parameters`.
        logs: Where submitit keeps its files.
        threads: CPU threads of each.

    Raises:
        MissingExtraError: submitit is not installed.
        ConfigError: The scheduler is not here, refuses the jobs, or has no such parameter.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "--submitit needs the package 'submitit', which is not installed; run: "
            'uv pip install "slr-det[sweep]" (from a checkout: uv pip install -e ".[sweep]")'
        ) from error
    try:
        executor = submitit.AutoExecutor(folder=str(logs.absolute()), cluster=scheduler)
        known = executor._typed_parameters()
        executor.update_parameters(
            **{
                key if key in known or key.startswith(f"{scheduler}_") else f"slurm_{key}": value
                for key, value in parameters.items()
            }
        )
        for cell in cells:
            prepare(cell)
        with executor.batch():
            jobs = [
                executor.submit(CellJob(cell.config.task, str(cell.folder.absolute()), threads))
                for cell in cells
            ]
    except Exception as error:  # what submitit and the scheduler raise is of every kind
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"--submitit {scheduler}: the jobs were not taken ({said})") from error
    for cell, job in zip(cells, jobs, strict=True):
        Job(scheduler, str(job.job_id), str(logs.absolute())).write(cell.folder)
    return list(zip(cells, jobs, strict=True))
