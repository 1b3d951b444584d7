"""The page and the terminal's table say the report's own numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from report_example import make_classifier_report, make_lidar_report, make_report

from slr_det.report import markdown, summary_table
from slr_det.report.table import duration, size


def cells(page: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first Markdown table below a heading, by column title."""
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    table: list[list[str]] = []
    for line in lines:
        row = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if table and len(row) != len(table[0]):
            break
        table.append(row)
    titles = table[0]
    return [dict(zip(titles, row, strict=True)) for row in table[2:]]


def published(page: str) -> list[list[str]]:
    """The cells of the table of published numbers, titles first."""
    after = page.split("Beside the published numbers", 1)[1].split("\n\n", 2)[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in after.splitlines()]
    return [rows[0], *rows[2:]]


def test_the_first_sentence_holds_the_result() -> None:
    report = make_report()
    compression, phases = report["compression"], report["phases"]
    rate = compression["model"]["weights"] / compression["model"]["nonzero"]
    group_rate = compression["groups"]["weights"] / compression["groups"]["nonzero"]
    ap50 = {name: phase["metrics"]["AP50"] for name, phase in phases.items()}
    title, blank, sentence = markdown(report).splitlines()[:3]
    assert (title, blank) == ("# shapes-tiny", "")
    assert sentence == (
        f"**slr** made the model **{rate:.2f}x smaller** in nonzero weights, counted over the whole model "
        f"({group_rate:.2f}x over the pruned groups); AP50 {ap50['dense']:.3f} dense "
        f"-> **{ap50['hard_prune']:.3f}** after hard pruning "
        f"-> **{ap50['bn_recalibrated']:.3f}** with the batch norms recalibrated "
        f"-> **{ap50['retrain']:.3f}** after 5 epochs of masked retraining."
    )


def test_the_table_of_scores_has_one_row_per_method_and_phase() -> None:
    report = make_report(("slr", "admm"))
    rows = cells(markdown(report), "Scores")
    assert [(row["method"], row["phase"]) for row in rows] == [
        ("-", "dense"),
        *[(m, p) for m in ("slr", "admm") for p in ("hard-pruned", "BN recalibrated", "retrained")],
    ]
    dense = report["phases"]["dense"]["metrics"]
    hard = report["others"]["admm"]["phases"]["hard_prune"]["metrics"]
    assert (
        rows[0]["AP50"] == f"{dense['AP50']:.3f}" and rows[0]["vs dense"] == "" and rows[0]["epochs"] == "40"
    )
    assert rows[4]["AP50"] == f"{hard['AP50']:.3f}"
    assert rows[4]["AP"] == f"{hard['AP']:.3f}"
    assert rows[4]["trainer's mAP50"] == f"{hard['trainer_map50']:.3f}"
    assert rows[4]["vs dense"] == f"{hard['AP50'] - dense['AP50']:+.3f}"


def test_the_papers_numbers_stand_beside_the_runs_times_a_hundred() -> None:
    report = make_report()
    slr = report["phases"]
    page = markdown(report)
    hard, end = (100 * slr[phase]["metrics"]["AP50"] for phase in ("hard_prune", "retrain"))
    assert "Beside the published numbers (Table 5, yolov3-tiny at 3.33x), AP50 x100:" in page
    assert published(page)[:4] == [
        ["method", "phase", "paper", "here"],
        ["-", "dense", "37.1", "87.1"],
        ["admm", "hard-pruned", "25.3", "80.4"],
        ["admm", "retrained", "", "85.4"],
    ]
    assert published(page)[4:] == [
        ["slr", "hard-pruned", "35.4", f"{hard:.1f}"],
        ["slr", "retrained", "", f"{end:.1f}"],
    ]
    report["paper"] = {"slr": 0.81, "metric": "AP", "source": "a table", "note": "not a number"}
    hard, end = (slr[phase]["metrics"]["AP"] for phase in ("hard_prune", "retrain"))
    # As many decimals as the published numbers have.
    assert published(markdown(report))[1:] == [
        ["slr", "hard-pruned", "0.81", f"{hard:.2f}"],
        ["slr", "retrained", "", f"{end:.2f}"],
    ]
    for nothing in (None, {}, {"dense": None, "slr": {"retrain": {"AP": None}}, "source": "a table"}):
        report["paper"] = nothing
        assert "published" not in markdown(report) and "published" not in summary_table(report)


def test_numbers_published_per_phase_and_metric_stand_beside_the_runs() -> None:
    report = make_lidar_report(("slr", "admm"))
    page, summary = markdown(report), summary_table(report)
    assert "Beside the published numbers (Table 7, 9.449x), x100:" in page
    rows = published(page)
    titles = [f"{w}: {m}" for m in ("easy", "moderate", "hard") for w in ("paper", "here")]
    assert rows[0] == ["method", "phase", *titles]
    assert [row[:2] for row in rows[1:]] == [
        ["-", "dense"],
        *[[m, p] for m in ("admm", "slr") for p in ("hard-pruned", "retrained")],
    ]
    assert [row[2::2] for row in rows[1:]] == [
        ["80.7", "78.5", "60.7"],
        ["58.6", "54.1", "30.8"],
        ["70.9", "66.8", "35.6"],
        ["68.0", "65.6", "46.1"],
        ["79.9", "75.8", "51.4"],
    ]
    blocks = [report["others"]["admm"]] * 2 + [report] * 2
    for row, run, phase in zip(rows[2:], blocks, ["hard_prune", "retrain"] * 2, strict=True):
        own = run["phases"][phase]["metrics"]
        assert row[3::2] == [f"{100 * own[metric]:.1f}" for metric in ("easy", "moderate", "hard")]
    assert "beside the published numbers, x100:" in summary.splitlines()
    assert max(map(len, summary.splitlines())) <= 110
    for row in rows:
        assert re.search("^" + " +".join(map(re.escape, row)) + "$", summary, flags=re.M)


def test_a_published_number_without_a_run_and_a_run_without_a_published_number_leave_cells_empty() -> None:
    report = make_lidar_report(("slr", "admm"))
    report["paper"]["gradual"] = {"retrain": 71.5}  # of the metric that the section names
    del report["paper"]["slr"]["hard_prune"], report["paper"]["admm"]
    report["paper"]["slr"]["retrain"] = {"hard": 51.4, "bev": None}
    report["phases"]["retrain"]["metrics"]["hard"] = None
    rows = published(markdown(report))
    dense, hard = (report["phases"][phase]["metrics"] for phase in ("dense", "hard_prune"))
    assert rows[1][:4] == ["-", "dense", "80.7", f"{100 * dense['easy']:.1f}"]
    assert [row[:2] for row in rows[2:]] == [
        ["slr", "hard-pruned"],
        ["slr", "retrained"],
        ["gradual", "retrained"],
    ]
    assert rows[2][2::2] == ["", "", ""] and rows[2][3] == f"{100 * hard['easy']:.1f}"
    assert rows[3][-2:] == ["51.4", "n/a"]
    assert rows[4][2:] == ["", "", "71.5", "", "", ""]


def test_the_terminals_table_gives_up_published_metrics_before_it_gets_too_wide() -> None:
    report = make_lidar_report(("slr",))
    names = [f"a rather long metric {i}" for i in range(6)]
    report["paper"] = {"slr": {"retrain": dict.fromkeys(names, 50.0)}}
    lines = summary_table(report).splitlines()
    assert max(map(len, lines)) <= 110
    header = lines[lines.index("beside the published numbers, x100:") + 1]
    assert header.split()[:2] == ["method", "phase"] and 2 <= header.count("paper:") < 6


def test_pictures_of_results_come_first_with_their_captions() -> None:
    report = make_report()
    assert "## Pictures" not in markdown(report)
    report["pictures"] = {
        "scan": {"file": "pictures/scan 1.png", "title": "Frame\n000001", "caption": "True boxes\nin green."},
        "other": {"file": "pictures/other.png", "title": "Another frame"},
    }
    alone = markdown(report)
    section = alone.split("\n## Pictures\n", 1)[1].split("\n## ", 1)[0]
    assert section.strip() == (
        "### Frame 000001\n\nTrue boxes in green.\n\n![Frame 000001](pictures/scan%201.png)\n\n"
        "### Another frame\n\n![Another frame](pictures/other.png)"
    )
    report["plots"] = {"sparsity": "plots/sparsity.png"}
    page = markdown(report)
    assert page.index("pictures/other.png") < page.index("### Sparsity per layer") < page.index("plots/")
    del report["pictures"]  # a report written before there were any
    assert "## Pictures\n\n### Sparsity per layer" in markdown(report)


def test_a_classifiers_report_speaks_of_accuracy() -> None:
    report = make_classifier_report(("slr", "admm"))
    phases = report["phases"]
    top1 = {name: phase["metrics"]["top1"] for name, phase in phases.items()}
    page, summary = markdown(report), summary_table(report)
    assert f"; top-1 accuracy {top1['dense']:.3f} dense -> **{top1['hard_prune']:.3f}** after" in page
    titles = "method phase top-1 accuracy vs dense top-5 accuracy compression epochs time"
    assert " ".join(summary.splitlines()[2].split()) == titles
    assert max(map(len, summary.splitlines())) <= 110
    rows = cells(page, "Scores")
    assert [row["method"] for row in rows] == ["-", "slr", "slr", "slr", "admm", "admm", "admm"]
    assert rows[1]["top-5 accuracy"] == f"{phases['hard_prune']['metrics']['top5']:.3f}"
    assert "top-1 accuracy per class:" in page and "AP" not in page + summary
    assert "Beside the published numbers (Table 3), top-1 accuracy x100:" in page
    assert "beside the published numbers, top-1 accuracy x100:" in summary.splitlines()
    for method, block, paper in (("slr", report, "93.21"), ("admm", report["others"]["admm"], "91.00")):
        hard, end = (100 * block["phases"][p]["metrics"]["top1"] for p in ("hard_prune", "retrain"))
        assert [method, "hard-pruned", paper, f"{hard:.2f}"] in published(page)
        assert [method, "retrained", "", f"{end:.2f}"] in published(page)
        assert re.search(rf"^{method} +hard-pruned +{paper} +{hard:.2f}$", summary, flags=re.M)
        assert re.search(rf"^{method} +retrained +{end:.2f}$", summary, flags=re.M)
    del report["metric"], report["paper"]["metric"]  # both follow from what was measured
    assert markdown(report) == page and summary_table(report) == summary


def test_compression_bytes_and_layers_are_the_reports_own() -> None:
    report = make_report()
    page = markdown(report)
    groups, model = cells(page, "Compression")
    for row, block in ((groups, report["compression"]["groups"]), (model, report["compression"]["model"])):
        assert int(row["weights"].replace(",", "")) == block["weights"]
        assert int(row["nonzero"].replace(",", "")) == block["nonzero"]
        assert row["zeros"] == f"{1 - block['nonzero'] / block['weights']:.1%}"
        assert row["compression rate"] == f"{block['weights'] / block['nonzero']:.2f}x"
    assert "| dense checkpoint | 24.81 MB (24,812,345 bytes) | 1.00x |" in page
    rows = cells(page, "Layers")
    layers = report["compression"]["layers"]
    assert [row["layer"].strip("`") for row in rows] == [layer["name"] for layer in layers]
    assert rows[0]["projection"] == "dense: first layer" and rows[0]["zeros"] == "0.0%"
    assert rows[3]["zeros"] == f"{1 - layers[3]['nonzero'] / layers[3]['weights']:.1%}"
    assert rows[3]["planned keep"] == "0.256"


def test_the_course_of_the_method_is_counted() -> None:
    report = make_report()
    history = report["history"]
    slr, admm = cells(markdown(report), "How the method went")
    assert slr["(6) held"] == f"{sum(r['condition_6'] for r in history)} of {len(history)}"
    assert slr["(11) held"] == f"{sum(r['condition_11'] for r in history)} of {len(history)}"
    assert slr["W - Z, last"] == f"{history[-1]['distance']:.4g}"
    assert slr["step size, last"] == f"{history[-1]['step_size']:.4g}"
    assert admm["(6) held"] == admm["step size, last"] == ""
    history[0]["condition_6"] = None
    (slr, _) = cells(markdown(report), "How the method went")
    assert slr["(6) held"].endswith(f"of {len(history) - 1}")


def test_the_budget_lists_epochs_and_time_per_phase() -> None:
    report = make_report(iterations=12)
    slr, admm = cells(markdown(report), "Budget")
    assert (slr["method"], slr["iterations"], slr["dense training"]) == ("slr", "12", "40 epochs, 6m11s")
    assert slr["under the method"] == "12 epochs, 2m24s"
    assert slr["masked retraining"] == "5 epochs, 58.8s"
    assert slr["ends of iterations"] == duration(sum(r["seconds"] for r in report["history"]))
    assert admm["iterations"] == "12"


def test_classes_are_sorted_by_what_they_lost() -> None:
    page = markdown(make_report())
    section = page.split("AP50 per class:", 1)[1]
    assert section.index("| star |") < section.index("| circle |")
    report = make_report()
    for phase in report["phases"].values():
        phase["metrics"]["per_class"] = {f"c{i:02d}": {"AP50": 0.5 + 0.01 * i} for i in range(80)}
    report["phases"]["retrain"]["metrics"]["per_class"]["c40"]["AP50"] = 0.2
    page = markdown(report)
    assert "AP50 per class, the 12 of 80 that lost most:" in page
    assert "| c40 | 0.900 | 0.200 | -0.700 |" in page


def test_how_to_make_it_again_and_warnings_are_there() -> None:
    report = make_report()
    report["warnings"] = ["two\nlines | one"]
    page = markdown(report)
    assert f"```sh\n{report['command']}\n```" in page
    assert "> **Warning:** two lines | one" in page
    for text in (report["commit"], "2.13.0+cpu", "8.4.190", "target_compression: 3.33", "| seed | 0 |"):
        assert text in page


def test_missing_scores_and_phases_do_not_break_the_page() -> None:
    report = make_report(("slr",))
    report["phases"] = {"hard_prune": {"metrics": {"AP50": None}}}
    report["final_phase"] = "hard_prune"
    report["history"], report["plots"], report["commit"], report["command"] = [], {}, None, None
    report["compression"] = {
        "groups": {"weights": 0, "nonzero": 0, "rate": None},
        "model": {"weights": 10, "nonzero": 10, "rate": 1.0},
        "layers": [],
    }
    report["bytes"] = {"dense": 10, "pruned": None}
    page = markdown(report)
    assert "packed file" not in page + summary_table(report)
    assert "AP50 -> **n/a** after hard pruning" in page
    assert "## Layers" not in page and "## Pictures" not in page
    assert "| pruned checkpoint | n/a |" in page
    assert "n/a" in summary_table(report)


def test_the_files_are_stated_with_their_sizes_and_ratios() -> None:
    report = make_report()
    page = markdown(report)
    assert "| file | size | dense checkpoint / this |" in page
    assert "| pruned checkpoint | 24.81 MB (24,812,345 bytes) | 1.00x |" in page
    assert "| packed file | 3.25 MB (3,254,001 bytes) | 7.63x |" in page
    line = "dense file 24.81 MB, packed file 3.25 MB: 7.63x smaller"
    assert line in page and line in summary_table(report).splitlines()


def test_a_dense_run_is_no_pruning_result() -> None:
    report = make_report(("slr",))
    report["phases"] = {"dense": report["phases"]["dense"]}
    report["final_phase"] = "dense"
    assert markdown(report).splitlines()[2] == "The dense model, before any pruning; AP50 0.871 dense."


@pytest.mark.parametrize("methods", [("slr",), ("slr", "admm", "penalty", "gradual", "oneshot")])
def test_the_terminals_table_is_aligned_and_narrow(methods: tuple[str, ...]) -> None:
    report = make_report(methods)
    text = summary_table(report)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    assert not text.endswith("\n")
    header = next(line for line in lines if line.startswith("method"))
    at = lines.index(header)
    table = lines[at : at + 3 + 3 * len(methods)]
    end = header.index("AP50") + len("AP50")
    values = [line[end - 5 : end] for line in table[2:]]
    expected = [report["phases"]["dense"]["metrics"]["AP50"]]
    for block in [report, *report["others"].values()]:
        expected += [
            block["phases"][p]["metrics"]["AP50"] for p in ("hard_prune", "bn_recalibrated", "retrain")
        ]
    assert values == [f"{value:.3f}" for value in expected]
    assert lines[-1].startswith("warning: the learning rate")


def test_the_terminals_table_gives_up_metrics_before_it_gets_too_wide() -> None:
    report = make_report(("slr", "admm"))
    report["others"]["a label that is much too long for a table"] = report["others"].pop("admm")
    report["warnings"] = ["word " * 60]
    for block in [report, *report["others"].values()]:
        for phase in block["phases"].values():
            phase["metrics"] = {f"a rather long metric {i}": 0.5 + i / 10 for i in range(6)}
    text = summary_table(report)
    assert max(map(len, text.splitlines())) <= 110
    assert "a label that is..." in text and "a rather long m..." in text
    assert "retrained" in text and "compression" in text


def test_the_headline_metric_can_be_chosen() -> None:
    report: dict[str, Any] = make_report(("slr",))
    report["metric"] = "AP"
    assert "; AP 0.540 dense" in markdown(report)
    assert summary_table(report).splitlines()[2].split()[:3] == ["method", "phase", "AP"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "0.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (372, "6m12s"),
        (3599.6, "1h00m"),
        (7500, "2h05m"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "n/a"),
        (999, "999 bytes"),
        (1500, "1.50 kB (1,500 bytes)"),
        (24_700_123, "24.70 MB (24,700,123 bytes)"),
        (2 * 10**9, "2.00 GB (2,000,000,000 bytes)"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text
