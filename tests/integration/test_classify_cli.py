"""The classifiers' command line as a user meets it: a whole run, every verb, and one clear line for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import junitparser
import pytest
import torch

from slr_det.classify import VERBS, main
from slr_det.report import validate

pytest.importorskip("timm", reason='needs the classify extra: uv pip install "slr-det[classify]"')

from classify_runs import SMALL, lines, make_photographs, run, weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two methods on digits."""
    options = ["--method", "slr,gradual", "--compression", "5x", "--epochs", "2", "--retrain-epochs", "1"]
    return run(tmp_path_factory.mktemp("runs"), *SMALL, *options, "dense_epochs=8", "dense.lr=0.1")


@pytest.fixture(scope="module")
def pruned(finished: Path) -> Path:
    return finished / "slr" / "hard_pruned.pt"


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def test_the_report_follows_its_schema_and_its_files(finished: Path) -> None:
    report = report_of(finished)
    validate(report)
    assert report["task"] == "classify" and report["metric"] == "top1"
    assert report["phases"].keys() == {"dense", "hard_prune", "bn_recalibrated", "retrain"}
    assert report["others"].keys() == {"gradual"}
    assert report["phases"]["dense"]["metrics"]["top1"] > 0.6
    for result in (report, *report["others"].values()):
        state = weights(finished / result["method"] / "pruned.pt")
        parameters = {k: v for k, v in state.items() if "running" not in k and "num_batches" not in k}
        total = sum(p.numel() for p in parameters.values())
        nonzero = sum(int(torch.count_nonzero(p)) for p in parameters.values())
        assert result["compression"]["model"] == {
            "weights": total,
            "nonzero": nonzero,
            "rate": total / nonzero,
        }
        assert 5.0 <= total / nonzero < 5.01
        # The recommended recipe ends four iterations in an epoch; the score is that of the epoch's end.
        assert [record["iteration"] for record in result["history"]] == [1, 2, 3, 4, 5, 6, 7, 8]
        scored = [record["iteration"] for record in result["history"] if record.get("metric")]
        assert scored == [4, 8]
        for phase in result["phases"].values():
            assert (finished / phase["checkpoint"]).is_file()
            assert phase["metrics"]["images"] == 100 and set(phase["metrics"]["per_class"]) == set(
                "0123456789"
            )
    for picture in report["plots"].values():
        assert (finished / picture).stat().st_size > 5_000
    assert (finished / "pruned.pt").read_bytes() == (finished / "slr" / "pruned.pt").read_bytes()


def test_a_run_leaves_neither_temporary_nor_foreign_files(finished: Path) -> None:
    names = {path.name for path in finished.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith(".tmp")]
    assert {path.name for path in finished.iterdir()} == {
        *("dense", "slr", "gradual", "plots", "config.yaml", "state.json", "report.json", "report.md"),
        *("dense.pt", "pruned.pt", "pruned.slr"),
    }


def test_eval_gives_the_reported_number_and_an_exit_code(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = report_of(finished)["phases"]["retrain"]["metrics"]
    settings = [f"model={finished / 'pruned.pt'}", "data=digits", "val_images=100", "--device", "cpu"]
    command = ["eval", *settings]
    assert main([*command, "--json", "--min", "accuracy=0.1", "--min", "top5=0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == reported
    assert main([*command, "--min", "top1=1.01"]) == 1
    assert "below the minimum of 1.01" in lines(capsys)[0]
    assert main([*command, "--min", "topp1=0.1"]) == 2
    assert "top1" in lines(capsys)[0]


def test_eval_is_a_ci_job(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"model={finished / 'pruned.pt'}", "data=digits", "val_images=100", "device=cpu"]
    saved, xml = tmp_path / "out" / "eval.json", tmp_path / "out" / "eval.xml"
    kept = [
        "--max",
        "bytes=1MB",
        "--max",
        "latency=10s",
        "--min",
        "compression=1.5x",
        "--max",
        "packed_bytes=1MB",
    ]
    files = ["--json", str(saved), "--junit", str(xml), "--baseline", str(finished), "--tolerance", "bytes=0"]
    assert main(["eval", *settings, *kept, *files]) == 0
    out = capsys.readouterr().out
    assert "at most 1 MB" in out and "baseline" in out and "FAILED" not in out
    document = json.loads(saved.read_text())
    assert document["passed"] is True and len(document["checks"]) == 4 + 2 + 1
    report = report_of(finished)
    assert document["measures"]["bytes"] == report["bytes"]["pruned"]
    assert document["measures"]["packed_bytes"] == report["bytes"]["packed"]
    assert document["measures"]["compression"] == pytest.approx(report["compression"]["model"]["rate"])
    (suite,) = junitparser.JUnitXml.fromfile(str(xml))
    assert (suite.tests, suite.failures, suite.errors) == (8, 0, 0) and suite.time > 0
    # What was saved is the next one's baseline; the dense model is larger in its packed form, and that alone.
    worse = [f"model={finished / 'dense.pt'}", *settings[1:], "--junit", str(xml)]
    assert (
        main(["eval", *worse, "--baseline", str(saved), "--tolerance", "1", "--tolerance", "packed_bytes=1%"])
        == 1
    )
    (line,) = lines(capsys)
    assert "packed_bytes is" in line and "worse than the baseline's" in line
    (suite,) = junitparser.JUnitXml.fromfile(str(xml))
    assert (suite.tests, suite.failures, suite.errors) == (4, 1, 0)
    assert main(["eval", f"model={tmp_path / 'none.pt'}", *settings[1:], "--junit", str(xml)]) == 2
    (line,) = lines(capsys)
    (suite,) = junitparser.JUnitXml.fromfile(str(xml))
    assert (suite.tests, suite.errors) == (1, 1)
    assert next(iter(suite)).result[0].message == line.removeprefix("error: ")


def test_report_is_written_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "report.md").unlink()
    assert main(["report", str(finished)]) == 0
    out = capsys.readouterr().out
    assert "hard-pruned" in out and "top-1 accuracy" in out
    assert "Scores" in (finished / "report.md").read_text()


def test_retrain_keeps_the_zeros(pruned: Path, tmp_path: Path) -> None:
    settings = [f"model={pruned}", *SMALL[1:], f"project={tmp_path}", "name=on"]
    assert main(["retrain", *settings, "--epochs", "1"]) == 0
    before, after = weights(pruned), weights(tmp_path / "on" / "retrained.pt")
    moved = 0
    for name, weight in before.items():
        if weight.ndim > 1:
            assert not after[name][weight == 0].any(), name
            moved += int((after[name] != weight).sum())
    assert moved > 1000


def test_train_makes_a_dense_model_that_others_start_from(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*SMALL, f"project={tmp_path}", "name=dense", "lr=0.1"]
    assert main(["train", *settings, "--epochs", "8"]) == 0
    assert f"model: {tmp_path / 'dense' / 'dense.pt'}" in capsys.readouterr().out
    # The very training that `compress` begins with.
    one, other = weights(tmp_path / "dense" / "dense.pt"), weights(finished / "dense.pt")
    assert [name for name in other if not torch.equal(one[name], other[name])] == []


def test_analyze_prints_the_table_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["analyze", "model=cifar_resnet20", "--compression", "5x"]) == 0
    out = capsys.readouterr().out
    assert "first layer" in out and "output layer" in out and "compression 5.00" in out
    assert main(["analyze", "model=test_efficientnet", "data=digits", "prune.keep=0.5", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[-1]["shape"][0] == 10 and rows[-1]["reason"] == "output layer"
    assert "depthwise" in {row["reason"] for row in rows}
    assert list(tmp_path.iterdir()) == []


def test_sensitivity_scan(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [
        f"model={finished / 'dense.pt'}",
        "data=digits",
        "val_images=50",
        "prune.scan_ratios=[0.5, 0.1]",
    ]
    command = ["analyze", *settings, "--compression", "2x", "--sensitivity", str(tmp_path), "--device", "cpu"]
    assert main(command) == 0
    assert (tmp_path / "sensitivity.png").stat().st_size > 5_000
    assert "conv2.weight" in capsys.readouterr().out


def test_photographs_of_many_sizes_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mixed precision, workers, an image that the scan passes and the decoder does not, and the size that was asked."""
    data = make_photographs(tmp_path / "data", train=40, val=120)
    broken = sorted((data / "val" / "lying").iterdir())[3]
    content = bytearray(broken.read_bytes())
    at = content.index(b"IDAT") + 4
    content[at : at + 40] = bytes(40)
    broken.write_bytes(content)
    settings = ["model=test_resnet", f"data={data}", "size=48", "batch=8", "lr=0.05", "workers=1", "amp=bf16"]
    options = ["--epochs", "1", "--retrain-epochs", "1", "--device", "cpu"]
    folder = run(tmp_path, *settings, *options, "dense_epochs=1", "prune.keep=0.5", "recalibration_images=16")
    report = report_of(folder)
    assert {phase["metrics"]["images"] for phase in report["phases"].values()} == {119}
    assert "top5" not in report["phases"]["dense"]["metrics"]
    assert str(broken) in capsys.readouterr().err
    card = torch.load(folder / "pruned.pt")["meta"]["classifier"]
    assert card["size"] == [48, 48] and card["classes"] == ["lying", "standing"]
    # What the card says is what `eval` does without being told; a size given beside it wins.
    same = report["phases"]["retrain"]["metrics"]["loss"]
    for extra, equal in (([], True), (["size=32"], False)):
        command = [
            "eval",
            f"model={folder / 'pruned.pt'}",
            f"data={data}",
            "amp=bf16",
            "batch=8",
            "--json",
            *extra,
        ]
        assert main([*command, "--device", "cpu"]) == 0
        loss = json.loads(capsys.readouterr().out)["metrics"]["loss"]
        assert (abs(loss - same) < 1e-6) is equal


def test_weights_for_other_classes_need_training(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_photographs(tmp_path / "data", 12, 4)
    torch.save(weights(finished / "dense.pt"), tmp_path / "digits.th")
    settings = [
        "model=digits_cnn",
        f"data={data}",
        f"weights={tmp_path / 'digits.th'}",
        f"project={tmp_path}",
    ]
    assert main([*settings, "prune.keep=0.5"]) == 2
    # Two classes for ten, and three channels for one: the first thing that does not fit is said.
    assert "digits.th" in lines(capsys)[0]
    same = ["model=digits_cnn", "data=digits", f"weights={tmp_path / 'digits.th'}", f"project={tmp_path}"]
    assert main(["train", *same, *SMALL[2:], "name=on", "--epochs", "1"]) == 0
    assert main(["compress", *same, *SMALL[2:], "name=given", "prune.keep=0.5", "--epochs", "1"]) == 0
    assert not (tmp_path / "given" / "start.pt").exists()
    given, dense = weights(tmp_path / "given" / "dense.pt"), weights(finished / "dense.pt")
    assert all(torch.equal(given[name], dense[name]) for name in dense)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=digits", "model=nowhere.pt"], "nowhere.pt"),
        (["data=nowhere", "model=digits_cnn", "dense_epochs=1", "prune.keep=0.5"], "no such file or folder"),
        (
            ["data=digits", "model=digit_cnn", "dense_epochs=1", "prune.keep=0.5"],
            "did you mean 'digits_cnn'?",
        ),
        (["data=digits", "model=digits_cnn", "prune.keep=0.5"], "architecture without weights"),
        (["data=digits", "model=digits_cnn", "dense_epochs=1"], "how much to prune"),
        (["data=digits", "model=digits_cnn", "weights=none.th", "prune.keep=0.5"], "weights is 'none.th'"),
        (["data=digits", "model=digits_cnn", "weights=pretrained", "prune.keep=0.5"], "no published weights"),
        (["data=digits", "model=MODEL", "weights=MODEL", "prune.keep=0.5"], "brings its own weights"),
        (["data=digits", "model=TRUNCATED", "prune.keep=0.5"], "truncated or damaged"),
        (["data=digits", "model=WEIGHTS", "prune.keep=0.5"], "model=NAME weights="),
        (
            ["data=digits", "model=cifar_resnet20", "weights=WEIGHTS", "prune.keep=0.5"],
            "another architecture",
        ),
        (["data=digits", "model=cifar_vgg16", "dense_epochs=1", "prune.keep=0.5"], "8 x 8 pixels"),
        (
            ["data=digits", "model=MODEL", "prune.keep=0.5", "batch=2000", "train_images=300"],
            "batch is 2000, more",
        ),
        (
            ["data=digits", "model=MODEL", "prune.keep=0.5", "train_images=5"],
            "train_images: 5, expected at least 10",
        ),
        (["data=digits", "model=MODEL", "prune.keep=0.5", "amp=fp16", "device=cpu"], "use amp=bf16"),
        (
            ["data=digits", "model=MODEL", "prune.keep=0.5", "processes=3", "batch=50"],
            "3 processes cannot share",
        ),
        (["data=digits", "model=MODEL", "prune.keep=0.5", "device=gpu"], "device is 'gpu'"),
        (["data=digits", "model=MODEL", "prune.keep=0.5", "lerning_rate=1"], "lerning_rate"),
        (["data=digits", "model=MODEL", "prune.keep=0.5", "imgsz=64"], "imgsz"),
        (["data=digits", "model=MODEL", "prune.keep=0.5", "task=yolo"], "python -m slr_det.yolo"),
        (["data=digits", "model=MODEL", "--compression", "1000x"], "the highest rate is"),
        (["data=digits", "model=MODEL", "prune.keep=0.5", "prune.exclude=[nothing.*]"], "nothing.*"),
        (["retrain", "data=digits", "model=MODEL", "--epochs", "1"], "no pruned weights"),
        (
            ["retrain", "data=digits", "model=PRUNED", "--epochs", "1", "distill=0.5"],
            "no dense model to learn from",
        ),
        (["eval", "model=MODEL", "data=FOLDER"], "predicts 10 classes but data="),
        (["eval", "model=MODEL", "data=EMPTY"], "no classification data"),
        (["--resume", "nowhere"], "not the folder of a run"),
    ],
    ids=lambda value: "-".join(value)[:60] if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    expected: str,
    finished: Path,
    pruned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    dense = finished / "dense.pt"
    (tmp_path / "TRUNCATED.pt").write_bytes(dense.read_bytes()[:20_000])
    torch.save(weights(dense), tmp_path / "WEIGHTS.pt")
    (tmp_path / "EMPTY").mkdir()
    if "data=FOLDER" in arguments:
        make_photographs(tmp_path / "FOLDER", 4, 4)
    places = {"MODEL": dense, "PRUNED": pruned}
    places |= {name: tmp_path / f"{name}.pt" for name in ("TRUNCATED", "WEIGHTS")}
    filled = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        filled.append(f"{key}={places[value]}" if value in places else argument)
    assert main(filled) == 2
    found = lines(capsys)
    assert len(found) == 1 and expected in found[0], found


def test_arguments_out_of_range_come_all_at_once(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["lr=-1", "batch=0", "ema=1", "optimizer=adan", "momentum=2", "label_smoothing=1.5"]
    assert main(["eval", f"model={finished / 'dense.pt'}", "data=digits", *wrong]) == 2
    found = lines(capsys)
    assert [line.split()[1] for line in found] == [
        "lr",
        "batch",
        "ema",
        "optimizer",
        "momentum",
        "label_smoothing",
    ]


def test_resume_refuses_another_model_or_ratio(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--resume", str(finished), "--compression", "6x"]) == 2
    assert "prune" in lines(capsys)[0]
    assert main(["train", "--resume", str(finished)]) == 2
    assert "compress --resume" in lines(capsys)[0]


def test_a_finished_run_can_be_resumed_and_changes_nothing(finished: Path) -> None:
    before = (finished / "pruned.pt").read_bytes()
    assert main(["--resume", str(finished)]) == 0
    assert (finished / "pruned.pt").read_bytes() == before


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 200


@pytest.mark.slow
def test_no_network_at_any_moment(tmp_path: Path) -> None:
    """A run with every socket forbidden: nothing even tries."""
    script = (
        "import socket, sys\n"
        "def no(*a, **k): sys.exit('NETWORK ' + repr(a))\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = no\n"
        "import urllib.request; urllib.request.urlopen = no\n"
        "from slr_det.classify import main\n"
        f"sys.exit(main({[*SMALL, f'project={tmp_path}', 'dense_epochs=1', 'epochs=1', 'retrain_epochs=0']!r}"
        " + ['prune.keep=0.5']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "NETWORK" not in done.stderr + done.stdout, done.stderr[-1500:]
