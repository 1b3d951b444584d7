"""Compress YOLO detectors: ``python -m slr_det.yolo VERB ...``; ``--help`` on any verb teaches the rest."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slr_det import __version__
from slr_det.adapter import Adapter, EvalJob, ModelInfo, load_adapter
from slr_det.cli import BELOW_MINIMUM, OK, complain, run, with_default_verb
from slr_det.config import RunConfig, load_config, parse_pairs
from slr_det.errors import CheckpointError, ConfigError
from slr_det.metrics.coco import check_minimum, score
from slr_det.pipeline import Pipeline
from slr_det.presets import PRESET, SETTINGS
from slr_det.report import load_report, refresh_report, summary_table
from slr_det.runstate import CONFIG_FILE, RunState, new_folder
from slr_det.sensitivity import SensitivityTable
from slr_det.sensitivity_scan import scan_checkpoint

MODULE = "python -m slr_det.yolo"
VERBS = ("compress", "train", "analyze", "retrain", "eval", "report", "score")
# What may differ between a run and its continuation without changing what it computes.
FREE_ON_RESUME = frozenset({"device", "min", "paper"})

EPILOG = f"""examples:
  {MODULE}
      everything on a data set that is drawn on the spot: train, compress 3.33x with SLR, report
  {MODULE} analyze model=best.pt --compression 3.33x
      what would be kept of which layer, before anything is trained
  {MODULE} model=best.pt data=coco.yaml --compression 3.33x --epochs 25 imgsz=640 batch=16
  {MODULE} model=best.pt data=coco.yaml --method slr,admm --compression 2x
      two methods at the same budget in one report
  {MODULE} --resume runs/NAME
  {MODULE} eval model=runs/NAME/pruned.pt data=coco.yaml --min map50=0.35
      exit code 1 below the threshold: all that a CI job needs

Settings are key=value; what is not ours goes to the trainer (imgsz, batch, lr0, optimizer, mosaic, ...).
exit codes: 0 fine, 1 a metric is below --min, 2 something is wrong (one line on stderr says what)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = Command(_parse(with_default_verb(given, VERBS, "compress")), given)
    return run(command.run, on_interrupt=command.interrupted)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=MODULE, description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"slr_det {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    compress = _verb(
        verbs, "compress", "train under a method, prune, evaluate, retrain, report (the default verb)"
    )
    train = _verb(verbs, "train", "train a dense model; nothing is pruned")
    analyze = _verb(verbs, "analyze", "print what would be kept of which layer, before anything is trained")
    retrain = _verb(verbs, "retrain", "go on training a pruned model; its zeros stay zero")
    evaluate = _verb(verbs, "eval", "COCO AP of a checkpoint; with --min a pass or fail for CI")
    report = verbs.add_parser("report", help="print a run's table and write its report.md and plots again")
    report.add_argument("run", help="folder of a run, such as runs/NAME, or its report.json")
    report.add_argument("--json", action="store_true", help="print report.json instead of the table")
    scorer = verbs.add_parser("score", help="score any COCO result file with pycocotools")
    scorer.add_argument("--annotations", required=True, metavar="GT.json", help="COCO ground truth")
    scorer.add_argument("--predictions", required=True, metavar="DT.json", help="COCO result file")
    scorer.add_argument(
        "--iou", choices=("bbox", "segm"), default="bbox", help="overlap of boxes or of masks"
    )
    scorer.add_argument("--json", action="store_true", help="print full precision as JSON, with every class")

    for verb in (compress, train, analyze, retrain, evaluate):
        verb.add_argument(
            "--config", metavar="FILE.yaml", help="settings file; key=value on the command line wins"
        )
        verb.add_argument("--device", help="cpu, 0, 0,1 (several GPUs); default: a GPU if there is one")
        verb.add_argument("--verbose", action="store_true", help="show the trainer's own log too")
        verb.add_argument(
            "settings", nargs="*", metavar="key=value", help="settings, such as model=... data=..."
        )
    for verb in (compress, analyze):
        verb.add_argument(
            "--method", help="slr, admm, penalty, gradual, oneshot; several with commas: slr,admm"
        )
        verb.add_argument("--compression", help="target over the whole model, such as 3.33x")
    for verb in (compress, train, retrain):
        verb.add_argument("--epochs", type=int, help="epochs of this verb's main training")
        verb.add_argument("--name", help="name of the run's folder")
        verb.add_argument(
            "--resume",
            metavar="RUN",
            help="continue the run in this folder where it stopped; no other settings needed",
        )
    compress.add_argument(
        "--retrain-epochs", type=int, help="epochs of masked retraining after pruning (0: none)"
    )
    analyze.add_argument("--json", action="store_true", help="print the table as JSON")
    analyze.add_argument(
        "--sensitivity",
        metavar="DIR",
        help="scan: prune each layer alone at several ratios, evaluate each (needs data=...), plot into DIR",
    )
    evaluate.add_argument("--json", action="store_true", help="print the metrics as JSON")
    evaluate.add_argument(
        "--min",
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help="fail below it: map50=0.35 (repeatable)",
    )
    options, rest = parser.parse_known_args(arguments)
    stray = [word for word in rest if word.startswith("-") or "=" not in word]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)} (settings are written key=value)")
    if rest:
        options.settings = [*options.settings, *rest]
    return options


def _verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=text,
        epilog=SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


class Command:
    """One invocation of the command line."""

    def __init__(self, options: argparse.Namespace, given: Sequence[str]) -> None:
        self.options = options
        self.line = shlex.join(["python", "-m", "slr_det.yolo", *given])
        self.pipeline: Pipeline | None = None
        self._adapter: Adapter | None = None

    @property
    def adapter(self) -> Adapter:
        """The ultralytics adapter, loaded when first needed: `score` and `report` do without."""
        if self._adapter is None:
            self._adapter = load_adapter("ultralytics")
        return self._adapter

    def run(self) -> int:
        """Do what the verb says."""
        action = {name: getattr(self, f"_{name}") for name in VERBS}[self.options.verb]
        code: int = action()
        return code

    def interrupted(self) -> str:
        """The line that says what is saved and how to go on."""
        if self.pipeline is None:
            return "interrupted; nothing was started"
        folder = self.pipeline.folder
        return (
            f"interrupted during {self.pipeline.current}; every finished epoch is saved in {folder}; "
            f"continue with: {MODULE} {self.options.verb} --resume {shlex.quote(str(folder))}"
        )

    # -- verbs --------------------------------------------------------------------------------------------

    def _compress(self) -> int:
        report = self._open_pipeline().compress()
        print(summary_table(report))
        print(f"report: {self._folder() / 'report.md'}")
        return self._check(report["phases"][report["final_phase"]]["metrics"])

    def _train(self) -> int:
        result = self._open_pipeline().train_dense()
        print(f"model: {self._folder() / 'dense.pt'}")
        return self._check(result["metrics"])

    def _retrain(self) -> int:
        before, after = self._open_pipeline().retrain()
        print(f"AP50 {before['metrics']['AP50']:.4f} -> {after['metrics']['AP50']:.4f}")
        print(f"model: {self._folder() / 'retrained.pt'}")
        return self._check(after["metrics"])

    def _analyze(self) -> int:
        config = self._config()
        classes = None
        if config.model.endswith((".yaml", ".yml")) and self._data_given():
            classes = self.adapter.classes(
                self.adapter.prepare_data(config.data, Path(config.project) / "data")
            )
        info = self.adapter.inspect(config.model, classes)
        if self.options.sensitivity:
            print(self._scan(config, info))
        allocation = Pipeline.allocate_for(config, info)
        print(json.dumps(allocation.rows(), indent=1) if self.options.json else allocation.table())
        return OK

    def _eval(self) -> int:
        config = self._config()
        minimum = {**config.minimum, **parse_pairs(self.options.min, "--min")}
        data = self.adapter.prepare_data(config.data, Path(config.project) / "data")
        metrics = self.adapter.evaluate(
            EvalJob(config.model, str(data), config.train, config.device, self.options.verbose)
        )
        if self.options.json:
            print(json.dumps(metrics, indent=1))
        else:
            for name, value in metrics.items():
                if isinstance(value, float):
                    print(f"{name:14s} {value:.4f}")
        return self._check(metrics, minimum)

    def _report(self) -> int:
        report = load_report(self.options.run)
        if self.options.json:
            print(json.dumps(report, indent=1))
            return OK
        path = refresh_report(self.options.run)
        print(summary_table(report))
        print(f"report: {path}")
        return OK

    def _score(self) -> int:
        score(self.options.annotations, self.options.predictions, self.options.iou, self.options.json)
        return OK

    def _scan(self, config: RunConfig, info: ModelInfo) -> SensitivityTable:
        if not config.model.endswith(".pt") or not config.data:
            raise ConfigError("--sensitivity evaluates a trained model: give model=FILE.pt and data=...")
        folder = Path(self.options.sensitivity)
        data = self.adapter.prepare_data(config.data, folder / "data")
        return scan_checkpoint(config, self.adapter, info, config.model, data, folder / "sensitivity.json")

    # -- parts --------------------------------------------------------------------------------------------

    def _check(self, metrics: dict[str, Any], minimum: dict[str, float] | None = None) -> int:
        if minimum is None:
            minimum = dict(self.pipeline.config.minimum) if self.pipeline else {}
        failures = check_minimum(metrics, minimum)
        for failure in failures:
            complain(failure)
        return BELOW_MINIMUM if failures else OK

    def _open_pipeline(self) -> Pipeline:
        verb = self.options.verb
        if self.options.resume:
            folder = Path(self.options.resume)
            state = RunState.open(folder)
            config = self._config(folder / CONFIG_FILE)
            self._refuse_changes(folder, config)
            if state.verb != verb:
                raise CheckpointError(
                    f"{folder} is a run of '{state.verb}'; continue it with: {MODULE} {state.verb} --resume {folder}"
                )
            state.check_model(config.model)
        else:
            config = self._config()
            folder = new_folder(config.project, config.name)
            state = RunState.create(folder, config, verb)
        self.pipeline = Pipeline(config, self.adapter, state, command=self.line, verbose=self.options.verbose)
        return self.pipeline

    def _refuse_changes(self, folder: Path, config: RunConfig) -> None:
        """A run continues as it was begun: anything else would mix two experiments in one set of weights."""
        saved = load_config(
            folder / CONFIG_FILE, [], defaults={}, trainer_keys=self.adapter.trainer_keys()
        ).to_dict()
        changed = [
            key
            for key, value in config.to_dict().items()
            if value != saved[key] and key not in FREE_ON_RESUME
        ]
        if changed:
            key = changed[0]
            raise CheckpointError(
                f"{folder}: the run was started with {key}={saved[key]!r}, not {config.to_dict()[key]!r}; "
                "leave it out to continue, or start a new run"
            )

    def _config(self, path: Path | None = None) -> RunConfig:
        """Settings of this invocation: those of ``path`` (or --config, or the defaults), then the command line's."""
        options = self.options
        file = path or options.config
        named = {
            "method": "method",
            "compression": "prune.target_compression",
            "device": "device",
            "name": "name",
        }
        named["epochs"] = {"train": "dense_epochs", "retrain": "retrain_epochs"}.get(options.verb, "epochs")
        named["retrain_epochs"] = "retrain_epochs"
        extra = [
            f"{key}={getattr(options, option)}"
            for option, key in named.items()
            if getattr(options, option, None) is not None
        ]
        settings = [*options.settings, *extra]
        embedded = file is None and not any(s.startswith(("data=", "model=")) for s in settings)
        return load_config(
            file,
            settings,
            defaults=PRESET if embedded else {},
            trainer_keys=self.adapter.trainer_keys(),
            required=("model",) if options.verb == "analyze" else ("model", "data"),
        )

    def _data_given(self) -> bool:
        return bool(self.options.config) or any(s.startswith("data=") for s in self.options.settings)

    def _folder(self) -> Path:
        if self.pipeline is None:
            raise ConfigError("no run was started")
        return self.pipeline.folder


if __name__ == "__main__":
    sys.exit(main())
