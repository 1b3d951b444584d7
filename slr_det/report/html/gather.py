"""What the page shows of each run: its report, or what an unfinished run has so far."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from slr_det.errors import CheckpointError, ConfigError, DataError, SlrDetError, nearest
from slr_det.report.document import REPORT_JSON, load_report
from slr_det.report.html.sound import sound_phase, sound_records
from slr_det.report.schema import PHASES
from slr_det.report.table import headline
from slr_det.report.table import runs as methods_of
from slr_det.runstate import CONFIG_FILE, STATE_FILE, RunState

# What configurations call a task, and what reports call it.
_TASKS = {"yolo": "detect", "classify": "classify", "pointpillars": "pointcloud", "lane": "lane"}
_HEATMAP = "One layer as a matrix, filters by inputs: dense, and in the pruned checkpoint. Zeros are grey."
_HISTORY_SO_FAR = "train/slr_history.json"


@dataclass(frozen=True)
class Series:
    """One method of one run: a row of the tables, a line of the curves.

    Attributes:
        run: Label of the run, unique on the page.
        method: The method's name; empty for a run that only trained a dense model.
        phases: As ``phases`` of a report.
        history: As ``history`` of a report.
        compression: As ``compression`` of a report; None where nothing was pruned yet.
        bytes: As ``bytes`` of a report; empty where there is no pruned file yet.
    """

    run: str
    method: str
    phases: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    compression: Mapping[str, Any] | None = None
    bytes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def final(self) -> str | None:
        """The last phase that has scores, None before the first."""
        return next((phase for phase in reversed(PHASES) if phase in self.phases), None)

    def score(self, phase: str | None, metric: str) -> float | None:
        """A phase's score, None where it did not run or is not defined."""
        value = self.phases.get(phase or "", {}).get("metrics", {}).get(metric)
        return value if isinstance(value, int | float) else None


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        label: Its name on the page, unique there.
        folder: Where it is.
        task: ``detect``, ``lane``, ``pointcloud``, ``classify``, or what a configuration says.
        metric: The headline metric; empty where nothing was measured.
        series: Its methods, in the order in which they ran.
        status: What is missing, in a few words; empty where the run has ended.
        facts: Seed, device, versions and so on, as shown.
        pictures: Title, caption and file of each picture.
        warnings: Sentences of the report.
        command: The command line that made it, None where it is not known.
    """

    label: str
    folder: Path
    task: str
    metric: str
    series: tuple[Series, ...]
    status: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    pictures: tuple[tuple[str, str, Path], ...] = ()
    warnings: tuple[str, ...] = ()
    command: str | None = None


def read_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Read every run; the same one given twice counts once, equal names are told apart by their folders.

    Raises:
        ConfigError: One line for each path that is no run, or whose files cannot be read.
    """
    found: dict[Path, Run] = {}
    problems: list[str] = []
    for path in paths:
        try:
            run = read_run(path)
            found.setdefault(run.folder.resolve(), run)
        except SlrDetError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    names = _labels([run.label for run in found.values()], list(found))
    return [_renamed(run, name) for run, name in zip(found.values(), names, strict=True)]


def read_run(path: str | Path) -> Run:
    """Read one run from its folder or its ``report.json``.

    Raises:
        DataError: No run is there, or its report is damaged or of another version: one line.
        CheckpointError: Its ``state.json`` is damaged: one line.
    """
    given = Path(path)
    folder = given.parent if given.name == REPORT_JSON else given
    if (folder / REPORT_JSON).is_file() or given.is_file():
        return _from_report(load_report(given), folder if folder.is_dir() else folder.parent)
    if not folder.is_dir():
        hint = nearest(folder.name, _siblings(folder))
        raise DataError(f"{folder}: no such run{hint}; give the folder of a run, such as runs/NAME")
    if not (folder / STATE_FILE).is_file() or not (folder / CONFIG_FILE).is_file():
        below = sorted(entry.parent.name for entry in folder.glob(f"*/{STATE_FILE}"))
        hint = f"; it holds {len(below)} runs, such as {folder / below[0]}" if below else ""
        raise DataError(
            f"{folder}: is not the folder of a run (neither {REPORT_JSON} nor {STATE_FILE} is there){hint}"
        )
    return _unfinished(folder)


def _from_report(report: Mapping[str, Any], folder: Path) -> Run:
    name = str(report["name"])
    series = tuple(
        Series(name, label, block["phases"], block["history"], block["compression"], block["bytes"])
        for label, block in methods_of(report)
    )
    wanted = report["config"].get("method") or []
    left = [method for method in _names(wanted) if method not in {item.method for item in series}]
    if left:
        series += tuple(item for item in _states(folder, name, left) if item.phases or item.history)
    drawn = [(p["title"], p.get("caption", ""), p["file"]) for p in report.get("pictures", {}).values()]
    if "heatmap" in report["plots"]:
        drawn.append(("Weights before and after", _HEATMAP, report["plots"]["heatmap"]))
    # A report comes from anywhere: what it names outside its own folder is not put into a page that may be passed on.
    inside = folder.resolve()
    pictures = [
        (title, caption, folder / file)
        for title, caption, file in drawn
        if (folder / file).resolve().is_relative_to(inside)
    ]
    facts = {
        "written": str(report["created"]),
        "seed": "not set" if report["seed"] is None else str(report["seed"]),
        "device": str(report["device"]),
        "slr_det commit": report["commit"] or "installed package",
        **{f"{package} version": version for package, version in report["versions"].items()},
    }
    return Run(
        label=name,
        folder=folder,
        task=report["task"],
        metric=headline(report),
        series=series,
        status=f"unfinished: {', '.join(left)} not done" if left else "",
        facts=facts,
        pictures=tuple(pictures),
        warnings=tuple(report["warnings"]),
        command=report["command"],
    )


def _unfinished(folder: Path) -> Run:
    """A run without a report: the phases that ``state.json`` holds, and the records of the one that was running."""
    state = RunState.open(folder)
    if not isinstance(state.phases, dict):
        raise DataError(f"{folder / STATE_FILE}: phases is {type(state.phases).__name__}, expected a mapping")
    config = _config(folder)
    series = _states(folder, folder.name, _names(config.get("method") or []), state)
    begun = tuple(item for item in series if item.history or set(item.phases) - {"dense"})
    if not begun:  # of a run that has not reached a method, the dense model is all there is
        dense = sound_phase(state.phases.get("dense"))
        begun = (Series(folder.name, "", {} if dense is None else {"dense": dense}, ()),)
    done = [phase for phase in state.phases if phase != "dense/train"]
    last = f"the last finished phase is {done[-1]}" if done else "no phase has finished"
    ended = state.verb == "train" and "dense" in state.phases
    task = str(config.get("task", "unknown"))
    return Run(
        label=folder.name,
        folder=folder,
        task=_TASKS.get(task, task),
        metric=_first_metric(begun),
        series=begun,
        status="dense training only" if ended else f"unfinished: {last}",
        facts={"seed": str(config.get("seed", "not set")), "device": str(config.get("device") or "auto")},
    )


def _states(
    folder: Path, name: str, methods: Sequence[str], state: RunState | None = None
) -> tuple[Series, ...]:
    """What the run's state holds of each method, and the records of the method that was training."""
    if state is None:
        try:
            state = RunState.open(folder)
        except CheckpointError:
            return ()  # the report stands alone: copied without the rest of its folder
    found = []
    for method in methods:
        shared = {"dense": state.phases.get("dense")}
        own = {phase: state.phases.get(f"{method}/{phase}") for phase in PHASES[1:]}
        read = {phase: sound_phase(block) for phase, block in (shared | own).items()}
        phases = {phase: block for phase, block in read.items() if block is not None}
        trained = state.phases.get(f"{method}/train")
        history = sound_records(trained.get("history")) if isinstance(trained, dict) else []
        found.append(Series(name, method, phases, history or _so_far(folder / method)))
    return tuple(found)


def _so_far(folder: Path) -> list[Mapping[str, Any]]:
    """The records that a method has written while it trains, where its trainer writes them."""
    try:
        records = json.loads((folder / _HISTORY_SO_FAR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return sound_records(records)


def _config(folder: Path) -> Mapping[str, Any]:
    file = folder / CONFIG_FILE
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{file}: is not a readable configuration ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected a mapping, found {type(content).__name__}")
    return content


def _names(wanted: Any) -> list[str]:
    return [str(name) for name in (wanted if isinstance(wanted, list | tuple) else [wanted])]


def _first_metric(series: Sequence[Series]) -> str:
    report = {
        "method": series[0].method,
        "phases": series[0].phases,
        "others": {},
    }
    return headline(report) if series[0].phases else ""


def _siblings(folder: Path) -> list[str]:
    return [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []


def _labels(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Names, each with as many of its parent folders as it takes to tell it from the others."""
    labels = list(names)
    for depth in range(1, max((len(folder.parts) for folder in folders), default=0)):
        again = {label for label in labels if labels.count(label) > 1}
        if not again:
            break
        labels = [
            "/".join(folder.parts[-depth - 1 :]) if label in again else label
            for label, folder in zip(labels, folders, strict=True)
        ]
    return labels


def _renamed(run: Run, label: str) -> Run:
    return replace(run, label=label, series=tuple(replace(item, run=label) for item in run.series))
