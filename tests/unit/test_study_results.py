"""What a study concludes: statistics by hand, verdicts, epochs to a target, tables and pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_example import make_classifier_report
from study_example import make_document

from slr_det import yolo
from slr_det.bench import __main__ as bench
from slr_det.bench.study import command
from slr_det.bench.study.cells import Cell
from slr_det.bench.study.findings import Findings, document
from slr_det.bench.study.model import Entry, Study
from slr_det.bench.study.results import Point, Result, epochs_to, read_result
from slr_det.bench.study.statistics import Summary, Verdict, compare, judge, summarise
from slr_det.bench.study.tables import markdown, only_one_has, points, text
from slr_det.classify import TASK
from slr_det.config import PruneConfig, RunConfig
from slr_det.methods import Hyper
from slr_det.plots.study import FILES, draw_study, epochs_figure, rates_figure, sweep_figure
from slr_det.report import build_report
from slr_det.runstate import RunState

# -- statistics -------------------------------------------------------------------------------------------


def test_mean_and_sample_deviation_by_hand() -> None:
    # mean 4; squares 4 + 0 + 4 = 8; divided by 2 = 4; root 2
    assert summarise([2.0, 4.0, 6.0]) == Summary(3, 4.0, 2.0)
    assert summarise([5.0]) == Summary(1, 5.0, None)
    assert summarise([]) == Summary(0, None, None)


def test_the_spread_is_the_standard_error_of_the_paired_difference() -> None:
    # Differences 0.01, 0.03, 0.02: mean 0.02, sample deviation 0.01, standard error 0.01 / sqrt(3).
    ours = {0: 0.91, 1: 0.83, 2: 0.72, 7: 0.1}
    theirs = {0: 0.90, 1: 0.80, 2: 0.70, 9: 0.9}
    verdict = compare(20.0, ("slr", ours), ("admm", theirs))
    assert verdict.n == 3
    assert verdict.difference == pytest.approx(0.02)
    assert verdict.spread == pytest.approx(0.01 / 3**0.5)
    assert verdict.outcome == "wins"
    assert verdict.text() == "20x: slr wins by 2.00 ± 0.58 points over admm (3 seeds)"
    back = compare(20.0, ("admm", theirs), ("slr", ours))
    assert back.outcome == "loses"
    assert back.text() == "20x: admm loses by 2.00 ± 0.58 points against slr (3 seeds)"


@pytest.mark.parametrize(
    ("difference", "spread", "outcome", "said"),
    [
        (
            0.004,
            0.005,
            "within the spread",
            "20x: a is within the spread of b: +0.40 ± 0.50 points (2 seeds)",
        ),
        (
            -0.004,
            0.005,
            "within the spread",
            "20x: a is within the spread of b: -0.40 ± 0.50 points (2 seeds)",
        ),
        (0.0, 0.0, "within the spread", "20x: a is within the spread of b: +0.00 ± 0.00 points (2 seeds)"),
        (0.01, 0.0, "wins", "20x: a wins by 1.00 ± 0.00 points over b (2 seeds)"),
    ],
)
def test_a_difference_no_larger_than_the_spread_decides_nothing(
    difference: float, spread: float, outcome: str, said: str
) -> None:
    verdict = Verdict(20.0, "a", "b", difference, spread, 2)
    assert (verdict.outcome, verdict.text()) == (outcome, said)


def test_beating_needs_more_than_spread_and_margin() -> None:
    verdict = Verdict(20.0, "a", "b", 0.02, 0.005, 3)
    assert verdict.beats(0.0) and verdict.beats(0.0149) and not verdict.beats(0.0151)
    assert not Verdict(20.0, "a", "b", 0.02, None, 1).beats(0.0)


def test_the_baseline_is_the_one_with_the_best_mean_over_the_shared_seeds() -> None:
    ours = {0: 0.9, 1: 0.9}
    baselines = {"weak": {0: 0.8, 1: 0.8, 2: 0.99}, "strong": {0: 0.85, 1: 0.85}, "absent": {5: 1.0}}
    verdict = judge(20.0, ("slr", ours), baselines)
    assert (verdict.baseline, verdict.n) == ("strong", 2)
    assert verdict.difference == pytest.approx(0.05)


def test_without_shared_seeds_or_with_one_nothing_is_judged() -> None:
    assert (
        judge(20.0, ("slr", {0: 0.9}), {"admm": {1: 0.8}})
        .text()
        .endswith("no seed has both it and a baseline yet")
    )
    one = judge(20.0, ("slr", {0: 0.9}), {"admm": {0: 0.8}})
    assert (one.outcome, one.spread) == ("not judged", None)
    assert one.text() == "20x: slr is +10.00 points from admm; one seed has no spread to judge it by"


# -- epochs to a target -----------------------------------------------------------------------------------


def curve(*scores: float) -> tuple[Point, ...]:
    return tuple(Point(i, "train", {"top1": score}) for i, score in enumerate(scores, start=1))


@pytest.mark.parametrize(
    ("scores", "epoch"), [((0.5, 0.95, 0.9, 0.96), 2), ((0.5, 0.9499), None), ((), None), ((0.99,), 1)]
)
def test_the_first_epoch_that_reaches_the_target_counts(scores: tuple[float, ...], epoch: int | None) -> None:
    assert epochs_to(curve(*scores), ("top1", 0.95)) == epoch
    assert epochs_to(curve(*scores), ("map50", 0.95)) is None
    assert epochs_to(curve(*scores), None) is None


def test_the_trainers_own_form_of_a_metric_counts_where_the_evaluations_is_not_measured() -> None:
    points = (Point(1, "train", {"map50": 0.2}), Point(2, "train", {"map50": 0.4, "AP50": 0.3}))
    assert epochs_to(points, ("AP50", 0.2)) == 1
    assert epochs_to(points, ("AP50", 0.35)) is None
    made = study(task=yolo.TASK, target=("AP50", 0.3))
    found = findings(made)
    found = replace(found, results=(replace(found.results[0], curve=points[:1]),))
    assert (found.epoch_metric(), found.epoch_target()) == ("map50", 0.3)
    other = replace(found, study=replace(made, target=("AP", 0.3)))
    assert (other.epoch_metric(), other.epoch_target()) == ("map50", None)


# -- what a cell found ------------------------------------------------------------------------------------


def test_a_cell_is_read_from_its_report_and_its_retraining(tmp_path: Path) -> None:
    made = make_classifier_report(iterations=3)
    for number, (epoch, metric) in enumerate(
        [(1, None), (1, {"top1": 0.4}), (2, {"top1": 0.5, "loss": float("nan")})]
    ):
        made["history"][number] |= {"epoch": epoch, "metric": metric}
    (tmp_path / "report.json").write_text(json.dumps(build_report(**made)), encoding="utf-8")
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    again = [{"epoch": 1, "metric": {"top1": 0.6}}, {"epoch": 2, "metric": {"top1": 0.7}}]
    RunState(tmp_path, {"slr/retrain_train": {"seconds": 1.0, "history": again}}, "", "compress").save()
    over = PruneConfig(compression_over="groups")
    found = read_result(Cell("slr", 4.0, 0, tmp_path, config(epochs=2, prune=over)), "top1")
    phases = made["phases"]
    assert found.scores == {
        "dense": phases["dense"]["metrics"]["top1"],
        "hard_prune": phases["hard_prune"]["metrics"]["top1"],
        "bn_recalibrated": phases["bn_recalibrated"]["metrics"]["top1"],
        "final": phases[made["final_phase"]]["metrics"]["top1"],
    }
    assert found.reached == made["compression"]["groups"]["rate"] != made["compression"]["model"]["rate"]
    timed = [
        phases[name].get("seconds", 0)
        for name in ("hard_prune", "bn_recalibrated", "retrain")
        if name in phases
    ]
    assert found.seconds == pytest.approx(sum(timed)) and found.seconds > 0
    # Retraining's epochs count on; an iteration within an epoch has no score, and a NaN is none.
    scores = [(point.epoch, point.phase, dict(point.metric)) for point in found.curve]
    assert scores == [
        (1, "train", {"top1": 0.4}),
        (2, "train", {"top1": 0.5}),
        (3, "retrain", {"top1": 0.6}),
        (4, "retrain", {"top1": 0.7}),
    ]


# -- findings and tables ----------------------------------------------------------------------------------


def config(**changes: Any) -> RunConfig:
    return replace(RunConfig(task="classify", model="m", data="d", epochs=3, retrain_epochs=1), **changes)


def study(**changes: Any) -> Study:
    entries = (
        Entry("slr", {"method": "slr"}, config(distill=0.5, prune=PruneConfig(allocation="global"))),
        Entry("admm", {"method": "admm"}, config(method=("admm",), epochs=2, retrain_epochs=2)),
        Entry(
            "gradual",
            {"method": "gradual"},
            config(method=("gradual",), train={"lr": 1}),
            unequal=("train.lr",),
        ),
    )
    made = Study(
        path="arena.yaml",
        words=(),
        name="arena",
        task=TASK,
        trainer_keys=frozenset(),
        unsupported={},
        base={"model": "m"},
        seeds=(0, 1, 2),
        rates=(20.0,),
        target=("top1", 0.9),
        shared_dense=False,
        entries=entries,
        baselines=("admm", "gradual"),
        sweep_of="",
        plots=("rates", "epochs", "sweep"),
    )
    return replace(made, **changes)


def result(
    made: Study, label: str, seed: int, final: float, scores: tuple[float, ...] = (), **changes: Any
) -> Result:
    entry = next(e for e in made.entries if e.label == label)
    dense = Cell("dense", None, seed, made.folder / f"dense-seed{seed}", entry.config)
    cell = Cell(label, 20.0, seed, made.folder / "cells" / label / "20x" / f"seed{seed}", entry.config, dense)
    found = {"dense": 0.97, "hard_prune": final - 0.5, "bn_recalibrated": final - 0.1, "final": final}
    whole = Result(cell, found, 20.0, 60.0 + seed, curve(*scores), (), "abc")
    return replace(whole, **changes)


def findings(made: Study | None = None, **changes: Any) -> Findings:
    made = made or study()
    results = [
        *(result(made, "slr", s, v, (0.5, 0.91), **changes) for s, v in enumerate((0.94, 0.95, 0.96))),
        *(
            result(made, "admm", s, v, (0.5, 0.8, 0.9) if s else (0.1, 0.2, 0.3))
            for s, v in enumerate((0.92, 0.93, 0.94))
        ),
        *(result(made, "gradual", s, v) for s, v in enumerate((0.90, 0.93))),
    ]
    waiting = Cell("gradual", 20.0, 2, made.folder / "none", config())
    states = [*((r.cell, "finished") for r in results), (waiting, "waiting")]
    return Findings(made, tuple(states), tuple(results))


def test_the_terminal_table_shows_everything_that_matters() -> None:
    shown = text(findings())
    lines = shown.splitlines()
    assert lines[0] == "compression 20x (dense 97.00 ± 0.00 (3))"
    titles = ["entry", "levers", "hard-pruned", "BN recalibrated", "final", "epochs to top1 0.9", "time"]
    assert [title for title in titles if title in lines[2]] == titles
    slr, more = lines[4], lines[5]
    assert slr.startswith("slr       3+1 epochs, global allocation,")
    assert more.strip() == "distillation 0.5"
    assert " ".join(slr.split()[-13:]) == "45.00 ± 1.00 85.00 ± 1.00 95.00 ± 1.00 (3) 2.0 (3/3) 1m01s"
    assert lines[6].split()[-5:] == ["1.00", "(3)", "3.0", "(2/3)", "1m01s"]
    gradual = next(line for line in lines if line.startswith("gradual*"))
    assert "91.50 ± 2.12 (2)" in gradual
    assert "-" in gradual.split() and "(0/2)" not in gradual  # nothing was scored during these runs
    verdict = "20x: slr wins by 2.00 ± 0.00 points over admm (3 seeds)"
    assert f"{verdict}; slr alone has global allocation, distillation 0.5" in lines
    assert "note: * gradual was trained with other arguments than the rest: train.lr=1" in lines
    assert "note: 1 of 9 cells are not finished" in lines


def test_a_stage_that_nothing_has_and_a_target_that_is_not_given_have_no_column() -> None:
    made = study(target=None)
    found = findings(made)
    bare = tuple(replace(r, scores={**r.scores, "bn_recalibrated": None}) for r in found.results)
    shown = text(replace(found, results=bare))
    assert "BN recalibrated" not in shown and "epochs to top1" not in shown and "hard-pruned" in shown


def test_a_run_that_missed_its_rate_or_warned_or_is_of_other_code_is_mentioned() -> None:
    shown = text(findings(reached=18.0, warnings=("too short",), commit="def"))
    assert "note: slr 20x seed 0 has a compression of 18.0, not 20" in shown
    assert "note: runs of slr carry warnings" in shown
    assert "2 different commits" in shown
    assert "compression of" not in text(findings(reached=20.1))


def test_a_verdict_between_entries_with_the_same_levers_names_none() -> None:
    made = study()
    verdict = Verdict(20.0, "admm", "gradual", 0.1, 0.01, 3)
    assert only_one_has(made, verdict) == "; gradual alone has train.lr differs*"
    assert only_one_has(made, replace(verdict, baseline="admm")) == ""
    assert only_one_has(made, replace(verdict, baseline="")) == ""


def test_a_cell_that_lacks_the_score_of_an_epoch_is_mentioned() -> None:
    found = findings()
    assert "was scored" not in text(replace(found, results=found.results[:3]))
    first = replace(found.results[0], curve=found.results[0].curve[:1])
    shown = text(replace(found, results=(first, *found.results[1:3])))
    assert (
        "note: slr 20x seed 0 was stopped before epoch 2 was scored" in shown
        and shown.count("was scored") == 1
    )


def test_levers_are_broken_between_and_not_within() -> None:
    made = study()
    first = replace(made.entries[0], config=config(slr=Hyper(rho=0.5, s0=0.25), one_schedule=True))
    made = replace(made, entries=(first, *made.entries[1:]), baselines=())
    lines = text(findings(made)).splitlines()
    assert lines[4].startswith("slr       3+1 epochs, one schedule,  ")
    assert lines[5].strip() == "rho 0.5, s0 0.25"


def test_points_of_a_summary() -> None:
    assert points(Summary(3, 0.9512, 0.0034)) == "95.12 ± 0.34"
    assert points(Summary(1, 0.9512, None), count=True) == "95.12 (1)"
    assert points(Summary(0, None, None)) == "-"


def test_the_page_has_the_command_the_table_the_verdict_and_the_pictures() -> None:
    page = markdown(findings(), "python -m slr_det.bench methods arena.yaml", {"rates": "plots/a.png"})
    assert page.startswith("# arena\n\n    python -m slr_det.bench methods arena.yaml\n")
    assert "| slr | 3+1 epochs, global allocation, distillation 0.5 | 45.00 ± 1.00 |" in page
    assert (
        "slr wins by 2.00" in page and "![rates](plots/a.png)" in page and "sample standard deviation" in page
    )


def test_nothing_finished_is_said_in_words() -> None:
    assert text(Findings(study(), (), ())).startswith("no cell is finished yet\n")


def test_the_document_holds_every_number_and_is_json() -> None:
    found = document(findings(), "command")
    assert json.loads(json.dumps(found)) == found
    assert (found["schema"], found["metric"], found["dense"]) == ("slr_det.study/1", "top1", "per_seed")
    first = found["table"][0]
    assert (first["label"], first["n"], first["epochs_to_target"], first["seeds_that_reached_it"]) == (
        "slr",
        3,
        2.0,
        3,
    )
    assert first["scores"]["final"]["mean"] == pytest.approx(0.95)
    assert found["verdicts"][0]["outcome"] == "wins"
    assert found["cells"][3]["folder"] == str(Path("cells/admm/20x/seed0"))
    assert found["cells"][4]["curve"][2] == {"epoch": 3, "phase": "train", "metric": {"top1": 0.9}}
    assert found["unfinished"] == [{"label": "gradual", "rate": 20.0, "seed": 2, "state": "waiting"}]
    assert found["entries"][0]["hyper"] == Hyper().to_dict()
    assert found["dense_score"]["n"] == 3


@pytest.mark.parametrize(
    ("margin", "seeds", "code", "said"),
    [
        ("0", 3, 0, ""),
        ("1.9", 3, 0, ""),
        ("2.1", 3, 1, "20x: slr wins by 2.00 ± 0.00 points over admm (3 seeds)"),
        ("0", 1, 1, "20x: slr is +2.00 points from admm; one seed has no spread to judge it by"),
    ],
)
def test_a_check_passes_only_ahead_of_every_baseline_by_more_than_the_margin(
    margin: str, seeds: int, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = study(baselines=("admm",))
    found = findings(made)
    found = replace(found, results=tuple(r for r in found.results if r.cell.seed < seeds))
    methods = command.Methods(bench._parse(["methods", "a.yaml", "--check", "--min-margin", margin]))
    methods.chosen = [r.cell for r in found.results]
    assert methods._check(found) == code
    shown = capsys.readouterr().err
    assert shown == (f"error: check: {said}\n" if said else "")


# -- pictures ---------------------------------------------------------------------------------------------


def test_the_pictures_of_a_real_document_are_drawn(tmp_path: Path) -> None:
    drawn = draw_study(tmp_path, document(findings(), "command"), ("rates", "epochs", "sweep"))
    assert drawn == {name: FILES[name] for name in ("rates", "epochs")}  # the study sweeps nothing
    assert all((tmp_path / path).read_bytes().startswith(b"\x89PNG") for path in drawn.values())


def test_the_rates_have_a_line_for_each_entry_and_the_means_of_the_table() -> None:
    made = make_document()
    figure = rates_figure(made)
    assert figure is not None
    final = figure.axes[1]
    labels = [container.get_label() for container in final.containers]
    assert labels == ["slr-new", "slr-paper", "admm", "gradual", "oneshot"]
    drawn = [float(y) for y in final.containers[0].lines[0].get_ydata()]
    rows = [row for row in made["table"] if row["label"] == "slr-new"]
    assert drawn == pytest.approx([100 * row["scores"]["final"]["mean"] for row in rows])


def test_many_rates_have_labels_that_do_not_run_into_each_other() -> None:
    rates = (1.82, 2.54, 4.21, 12.1, 16.85, 22.8, 35.25, 77.67)
    figure = rates_figure(make_document(rates=rates))
    assert figure is not None
    figure.draw_without_rendering()
    for axes in figure.axes:
        labels = axes.get_xticklabels()
        assert [label.get_text() for label in labels] == [f"{rate:g}x" for rate in rates]
        assert {label.get_rotation() for label in labels} == {60.0}
    few = rates_figure(make_document())
    assert few is not None and few.axes[0].get_xticklabels()[0].get_rotation() == 0.0


def test_the_epochs_have_a_panel_for_each_rate_and_a_mark_where_the_model_is_pruned() -> None:
    made = make_document(rates=(10.0, 50.0))
    figure = epochs_figure(made)
    assert figure is not None and [axes.get_title() for axes in figure.axes] == ["10x", "50x"]
    lines = figure.axes[0].get_lines()
    whole = next(line for line in lines if line.get_label() == "admm")
    curves = [cell["curve"] for cell in made["cells"] if cell["label"] == "admm" and cell["rate"] == 10.0]
    mean = sum(curve[0]["metric"]["top1"] for curve in curves) / 3
    assert float(whole.get_ydata()[0]) == pytest.approx(100 * mean)
    assert list(whole.get_xdata()) == [1, 2, 3, 4, 5, 6, 7]  # up to hard pruning; the rest is dotted
    assert [list(line.get_xdata()) for line in lines if line.get_markersize() == 9] == [[7]] * 5


def test_the_legend_names_an_entry_that_only_a_later_panel_has() -> None:
    made = make_document(rates=(10.0, 50.0))
    made["cells"] = [c for c in made["cells"] if (c["label"], c["rate"]) != ("oneshot", 10.0)]
    figure = epochs_figure(made)
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "oneshot"


def test_the_sweep_has_a_panel_for_each_hyperparameter_with_the_swept_entry_in_it() -> None:
    figure = sweep_figure(make_document(rates=(20.0,)))
    assert figure is not None
    first, second = figure.axes
    assert (first.get_xlabel(), second.get_xlabel()) == ("s0", "M")
    assert list(first.containers[0].lines[0].get_xdata()) == [0.001, 0.01, 0.1]
    assert list(second.containers[1].lines[0].get_xdata()) == [200.0, 300.0, 400.0]
    assert first.get_xscale() == "log" and second.get_xscale() == "linear"


def test_pictures_without_data_are_left_out() -> None:
    empty = {**make_document(sweep=False), "cells": [], "table": []}
    assert rates_figure(empty) is None and epochs_figure(empty) is None and sweep_figure(empty) is None
