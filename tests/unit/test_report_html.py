"""The page that compares runs: well-formed, alone, safe with any name, and right in its numbers."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from report_example import make_classifier_report, make_lidar_report, make_report

from slr_det.errors import ConfigError
from slr_det.report import write_report
from slr_det.report.html import page, read_runs
from slr_det.report.html.charts import Line, chart, short
from slr_det.runstate import RunState
from slr_det.toolbox import main

VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}


class Reader(HTMLParser):
    """Elements as (tag, attributes, text so far), and whatever is not well-formed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.problems: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if len(dict(attrs)) != len(attrs):
            self.problems.append(f"{tag} says an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.problems.append(f"<{tag}/> closes itself")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    assert reader.problems == []
    return reader


def results(html: str) -> list[dict[str, tuple[str, float | None]]]:
    """The rows of the first table: (text, value that it is sorted by) by column title."""
    table = html.split("<table>", 1)[1].split("</table>", 1)[0]
    titles = re.findall(r'class="sort">([^<]*)<', table)
    rows = []
    for row in table.split("<tbody>")[1].split("</tr>")[:-1]:
        cells = re.findall(r"<t[hd]([^>]*)>(.*?)</t[hd]>", row)
        texts = [re.sub(r"<[^>]*>", "", inside) for _, inside in cells]
        values = [re.search(r'data-value="([^"]+)"', attributes) for attributes, _ in cells]
        numbers = [float(found.group(1)) if found else None for found in values]
        rows.append(dict(zip(titles, zip(texts, numbers, strict=True), strict=True)))
    return rows


def write(folder: Path, **changes: Any) -> Path:
    """A run's folder with report.json alone: plots take a second and the page draws its own."""
    folder.mkdir(parents=True)
    report = make_report() | {"name": folder.name} | changes
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


def begun(
    folder: Path, phases: dict[str, Any], methods: tuple[str, ...] = ("slr",), verb: str = "compress"
) -> Path:
    """The folder of a run that was stopped after ``phases``."""
    folder.mkdir()
    RunState(folder, phases, "", verb).save()
    config = {"task": "yolo", "method": list(methods), "seed": 3, "device": ""}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def test_a_page_of_three_tasks_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    lidar, classifier = make_lidar_report(), make_classifier_report()
    folders = [
        write(tmp_path / "shapes"),
        write(tmp_path / "world", **{key: lidar[key] for key in lidar if key != "name"}),
        write(tmp_path / "digits", **{key: classifier[key] for key in classifier if key != "name"}),
    ]
    html = page(read_runs(folders))
    reader = read(html)
    for tag, attributes in reader.elements:
        for name in LOADING & set(attributes):
            assert str(attributes[name]).startswith(("data:", "#")), (tag, name, attributes[name])
    assert "@import" not in html and "url(" not in html
    policies = [a["content"] for t, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and "default-src 'none'" in str(policies[0])
    headings = [text for tag, text in reader.texts if tag == "h2"]
    assert headings == ["Detection", "Point clouds", "Classification", "How it was made"]


def test_names_from_anywhere_stay_text(tmp_path: Path) -> None:
    evil = "\"><script>alert(1)</script><img src=x onerror=alert(1)>&'</title></style>\u2028"
    report = make_report()
    report["compression"]["layers"][2]["name"] = evil
    report["others"]["admm"]["compression"] = report["compression"]
    report["phases"]["dense"]["metrics"]["per_class"][evil] = {"AP50": 0.5}
    report["phases"]["retrain"]["metrics"]["per_class"][evil] = {"AP50": 0.5}
    report["others"] = {evil: report["others"]["admm"]}
    report |= {
        "warnings": [evil],
        "command": evil,
        "metric": "AP50",
        "pictures": {"x": {"file": "x.png", "title": evil, "caption": evil}},
    }
    folder = write(tmp_path / "run", **report)
    Image.new("RGB", (4, 4)).save(folder / "x.png")
    json_file = folder / "report.json"
    json_file.write_text(json.dumps(json.loads(json_file.read_text()) | {"name": evil}), encoding="utf-8")
    harmless = read(page(read_runs([write(tmp_path / "plain")])))
    reader = read(page(read_runs([folder]), title=evil))
    scripts = [text for tag, text in reader.texts if tag == "script"]
    assert not any(
        "alert(1)" in text and text.lstrip()[:1] != "[" for text in scripts
    )  # in the curves' data alone
    assert len(scripts) == sum(tag == "script" for tag, _ in harmless.elements)
    assert all(not name.startswith("on") for _, attributes in reader.elements for name in attributes)
    assert next(text for tag, text in reader.texts if tag == "h1") == evil
    labels = [line["l"] for text in scripts if text.startswith("[") for line in json.loads(text)]
    assert evil in labels


def test_the_table_has_the_numbers_of_the_report(tmp_path: Path) -> None:
    slr, admm = results(page(read_runs([write(tmp_path / "shapes")])))
    report = make_report()
    assert slr["run"][0] == "shapes" and slr["method"][0] == "slr" and admm["method"][0] == "admm"
    for row, block in ((slr, report), (admm, report["others"]["admm"])):
        phases = block["phases"]
        scores = {phase: phases[phase]["metrics"]["AP50"] for phase in phases}
        assert row["dense"] == (f"{scores['dense']:.3f}", scores["dense"])
        assert row["hard-pruned"] == (f"{scores['hard_prune']:.3f}", scores["hard_prune"])
        change = scores["retrain"] - scores["dense"]
        assert row["change"] == (f"{change:+.3f}", pytest.approx(change))
        model = block["compression"]["model"]
        assert row["compression, model"][1] == model["rate"]
        assert row["parameters"] == (f"{model['weights']:,}", model["weights"])
        assert row["packed file"] == ("3.25 MB", 3_254_001)
        assert row["dense / packed"][1] == pytest.approx(24_812_345 / 3_254_001)
        assert row["time"][1] == pytest.approx(12 * 12 + 3.2 + 58.8)
        assert row["state"][0] == "done"


def test_each_layer_has_a_bar_of_what_it_keeps(tmp_path: Path) -> None:
    html = page(read_runs([write(tmp_path / "shapes")]))
    table = html.split("<h3>Layers</h3>")[1]
    widths = [float(width) for width in re.findall(r'style="width:([\d.]+)%"', table)]
    report = make_report()
    expected = []
    for slr, admm in zip(
        report["compression"]["layers"], report["others"]["admm"]["compression"]["layers"], strict=True
    ):
        expected += [100 * layer["nonzero"] / layer["weights"] for layer in (slr, admm)]
    whole = [report["compression"]["model"], report["others"]["admm"]["compression"]["model"]]
    expected += [100 * block["nonzero"] / block["weights"] for block in whole]
    assert widths == pytest.approx(expected, abs=0.005)


def test_curves_stand_where_the_numbers_are() -> None:
    line = Line(0, "a", [(1, 2.0), (2, 4.0), (3, math.nan), (5, 3.0)])
    svg = chart("y", "", [line], "x")
    path = re.search(r'<path d="([^"]+)"', svg).group(1)  # type: ignore[union-attr]
    assert path.count("M") == 2 and path.count("L") == 1  # nothing is drawn across what was not measured
    points = json.loads(re.search(r"<script[^>]*>(.*)</script>", svg).group(1))[0]["p"]  # type: ignore[union-attr]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    assert xs[0] == 52 and xs[-1] == 388  # the ends of the axis
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(1 / 4, abs=1e-3)
    assert (ys[0] - ys[2]) / (ys[0] - ys[1]) == pytest.approx(1 / 2, abs=1e-2)  # 3 lies half way from 2 to 4
    assert [p[2:] for p in points] == [["1", "2"], ["2", "4"], ["5", "3"]]


def test_a_wide_range_of_positive_numbers_gets_a_logarithmic_axis() -> None:
    svg = chart("y", "", [Line(0, "a", [(1, 1.0), (2, 10.0), (3, 100.0)])], "x")
    points = json.loads(re.search(r"<script[^>]*>(.*)</script>", svg).group(1))[0]["p"]  # type: ignore[union-attr]
    assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.11)
    assert "logarithmic" in svg
    assert "logarithmic" not in chart("y", "", [Line(0, "a", [(1, 0.0), (2, 100.0)])], "x")
    assert chart("y", "", [Line(0, "a", [(1, math.nan)])], "x") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.85268, "0.8527"),
        (1234567.0, "1.23e+06"),
        (12345.0, "12,345"),
        (1e-5, "1.00e-05"),
        (-3.0, "-3"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_a_run_that_was_stopped_is_shown_with_what_it_has(tmp_path: Path) -> None:
    done = make_report()["phases"]
    history = make_report()["history"]
    training = begun(
        tmp_path / "training", {"dense/train": {"seconds": 9.0}, "dense": done["dense"]}, ("slr", "admm")
    )
    (training / "slr" / "train").mkdir(parents=True)
    (training / "slr" / "train" / "slr_history.json").write_text(json.dumps(history[:3]), encoding="utf-8")
    pruned = begun(
        tmp_path / "pruned",
        {
            "dense": done["dense"],
            "slr/train": {"seconds": 1.0, "history": history},
            "slr/hard_prune": done["hard_prune"],
        },
    )
    nothing = begun(tmp_path / "nothing", {})
    html = page(read_runs([training, pruned, nothing]))
    read(html)
    first, second, third = results(html)
    assert first["state"][0] == "unfinished: the last finished phase is dense"
    assert (first["method"][0], first["dense"][1], first["hard-pruned"][1]) == ("slr", 0.8712, None)
    assert second["hard-pruned"][1] == done["hard_prune"]["metrics"]["AP50"]
    assert third["state"][0] == "unfinished: no phase has finished"
    assert "iteration 3" in html and "iteration 12" in html


def test_a_method_that_the_report_lacks_is_taken_from_the_state(tmp_path: Path) -> None:
    report = make_report(methods=("slr",)) | {"config": {"method": ["slr", "admm"]}}
    other = make_report(methods=("admm",))
    folder = begun(
        tmp_path / "both",
        {"dense": other["phases"]["dense"], "admm/hard_prune": other["phases"]["hard_prune"]},
    )
    (folder / "report.json").write_text(json.dumps(report | {"name": "both"}), encoding="utf-8")
    slr, admm = results(page(read_runs([folder])))
    assert slr["state"][0] == admm["state"][0] == "unfinished: admm not done"
    assert admm["hard-pruned"][1] == other["phases"]["hard_prune"]["metrics"]["AP50"]
    assert admm["retrained"][1] is None


def test_runs_of_one_name_are_told_apart_and_one_run_counts_once(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a" / "seed0"), write(tmp_path / "b" / "seed0")
    runs = read_runs([one, two / "report.json", one])
    assert [run.label for run in runs] == ["a/seed0", "b/seed0"]
    assert all(series.run == run.label for run in runs for series in run.series)


def test_pictures_travel_inside_the_page_and_none_from_elsewhere(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    pictures = {
        "own": {"file": "own.png", "title": "Own"},
        "outside": {"file": "../secret.png", "title": "Outside"},
        "gone": {"file": "gone.png", "title": "Gone"},
    }
    folder = write(tmp_path / "run", pictures=pictures)
    Image.new("RGB", (8, 8), "blue").save(folder / "own.png")
    html = page(read_runs([folder]))
    assert html.count("data:image/png;base64,") == 1
    assert "Outside" not in html and "gone.png is not there" in html
    assert "data:image/png" not in page(read_runs([folder]), pictures=False)


def test_bad_runs_are_named_together_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "good")
    newer = write(tmp_path / "newer", schema="slr_det.report/2")
    torn = write(tmp_path / "torn")
    (torn / "report.json").write_text('{"schema": ', encoding="utf-8")
    state = begun(tmp_path / "state", {})
    (state / "state.json").write_text("[]", encoding="utf-8")
    empty = tmp_path / "empty"
    (empty / "below").mkdir(parents=True)
    (empty / "below" / "state.json").write_text("{}", encoding="utf-8")
    page_file = tmp_path / "out.html"
    bad = [newer, torn, state, empty, tmp_path / "god"]
    assert main(["report", str(good), *map(str, bad), "--html", str(page_file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(bad)
    assert "slr_det.report/2" in lines[0] and "another version" in lines[0]
    assert "not a readable report" in lines[1]
    assert "damaged" in lines[2]
    assert "not the folder of a run" in lines[3] and "below" in lines[3]
    assert "did you mean 'good'?" in lines[4]
    assert not page_file.exists()


def test_the_verb_writes_the_page_or_prints_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    write_report(folder, make_report(iterations=3, layer_count=4) | {"name": "run"})
    assert main(["report", str(folder), "--html", str(tmp_path / "page.html"), "--title", "Mine"]) == 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>Mine</h1>" in html
    capsys.readouterr()
    assert main(["report", str(folder), str(begun(tmp_path / "begun", {}))]) == 0
    shown = capsys.readouterr().out
    assert "hard-pruned" in shown and "begun: unfinished: no phase has finished" in shown
    assert main(["report", str(folder), "--html", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_no_path_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run"):
        read_runs([tmp_path / "nowhere" / "run"])


def test_a_page_replaces_a_page_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "shapes")
    before = (folder / "report.json").read_bytes()
    assert main(["report", str(folder), "--html", str(folder / "report.json")]) == 2
    assert "is no HTML page" in capsys.readouterr().err
    assert (folder / "report.json").read_bytes() == before
    for _ in range(2):
        assert main(["report", str(folder), "--html", str(tmp_path / "page.html")]) == 0
    assert main(["report", str(folder), "--html", ""]) == 2


def test_a_run_with_nonsense_in_its_files_is_shown_without_it(tmp_path: Path) -> None:
    dense = {"metrics": {"AP50": 0.8, "AP": "high", "per_class": [1]}, "epochs": "three"}
    folder = begun(tmp_path / "run", {"dense": dense, "slr/hard_prune": [1], "slr/train": [1]})
    records = [
        {"iteration": "x"},
        {"iteration": 1, "objective": "a", "metric": [1]},
        {"iteration": 2, "objective": 2},
    ]
    (folder / "slr" / "train").mkdir(parents=True)
    (folder / "slr" / "train" / "slr_history.json").write_text(json.dumps(records), encoding="utf-8")
    (run,) = read_runs([folder])
    assert [record["iteration"] for record in run.series[0].history] == [1, 2]
    assert run.series[0].history[0]["objective"] is None
    assert run.series[0].phases["dense"]["metrics"] == {"AP50": 0.8, "AP": None}
    assert "0.800" in page([run])
    RunState(folder, [1], "", "compress").save()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"state\.json: phases is list, expected a mapping"):
        read_runs([folder])


def test_pictures_are_pictures_and_not_too_large(tmp_path: Path) -> None:
    names = {"pipe.png", "text.png", "large.png"}
    folder = write(tmp_path / "run", pictures={n: {"file": n, "title": n} for n in sorted(names)})
    os.mkfifo(folder / "pipe.png")
    (folder / "text.png").write_text("no picture", encoding="utf-8")
    Image.effect_noise((2400, 1600), 90).save(folder / "large.png")
    html = page(read_runs([folder]))
    read(html)
    assert "pipe.png is no picture" in html and "text.png is no picture" in html
    (source,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", html)
    with Image.open(io.BytesIO(base64.b64decode(source))) as picture:
        assert picture.size == (2000, 1333)


def test_a_terminal_does_not_obey_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "run", warnings=["red \x1b[31m and \x9b31m"])
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x9b" not in said and "red" in said


def test_no_tick_stands_between_two_iterations() -> None:
    html = chart("Loss", "", [Line(0, "slr", [(1.0, 3.0), (2.0, 2.0)])], "iteration")
    assert re.findall(r'text-anchor="middle">([^<]*)<', html) == ["1", "2", "iteration"]


def test_a_warning_of_many_runs_stands_once(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, warnings=["too few steps", f"only {name}"]) for name in "abcde"]
    html = page(read_runs(folders))
    assert html.count("too few steps") == 1
    assert "<li>a, b, c and 2 more: too few steps</li>" in html and "<li>e: only e</li>" in html


def test_no_character_turns_a_name_around(tmp_path: Path) -> None:
    html = page(read_runs([write(tmp_path / "run", warnings=["a\u202eb\x1bc\x00d"])]))
    assert "a\ufffdb\ufffdc\ufffdd" in html
