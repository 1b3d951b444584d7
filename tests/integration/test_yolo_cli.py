"""The command line as a user meets it: a whole run, what is in its report, and one clear line for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from slr_det.report import validate
from slr_det.storage import unpack
from slr_det.yolo import VERBS, main

SETTINGS = ["imgsz=64", "batch=10", "nbs=20", "optimizer=SGD", "lr0=0.02", "workers=0", "--device", "cpu"]


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The error lines printed since the last look; there must be no traceback."""
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return [line for line in errors.splitlines() if line.startswith("error:")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """A finished run of two methods on the tiny model."""
    project = tmp_path_factory.mktemp("runs")
    arguments = [f"model={tiny_model}", f"data={tiny_data}", f"project={project}", "name=both", *SETTINGS]
    options = ["--method", "slr,gradual", "--compression", "2x", "--epochs", "2", "--retrain-epochs", "1"]
    assert main([*arguments, *options]) == 0
    return project / "both"


def report_of(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    return report


def test_the_report_follows_its_schema_and_its_files(run: Path) -> None:
    report = report_of(run)
    validate(report)
    assert report["phases"].keys() == {"dense", "hard_prune", "bn_recalibrated", "retrain"}
    assert report["others"].keys() == {"gradual"}
    for result in (report, *report["others"].values()):
        model = torch.load(run / result["method"] / "pruned.pt", weights_only=False)["model"]
        nonzero = sum(int(torch.count_nonzero(p)) for p in model.parameters())
        weights = sum(p.numel() for p in model.parameters())
        assert result["compression"]["model"]["nonzero"] == nonzero
        # Half precision may round a tiny weight to zero, so the rate may be a trifle above the target.
        rate = result["compression"]["model"]["rate"]
        assert rate == pytest.approx(weights / nonzero) and 2.0 <= rate < 2.01
        assert result["bytes"]["pruned"] == (run / result["method"] / "pruned.pt").stat().st_size
        assert result["bytes"]["packed"] == (run / result["method"] / "pruned.slr").stat().st_size
        assert [record["iteration"] for record in result["history"]] == [1, 2]
        for phase in result["phases"].values():
            assert (run / phase["checkpoint"]).is_file()
    for picture in report["plots"].values():
        assert (run / picture).stat().st_size > 5_000
    assert set(report["pictures"]) == {"boxes_1", "boxes_2"}
    for drawn in report["pictures"].values():
        assert (run / drawn["file"]).stat().st_size > 5_000
    assert (run / "pruned.pt").read_bytes() == (run / "slr" / "pruned.pt").read_bytes()


def test_the_packed_model_is_small_and_becomes_the_pruned_one(run: Path, tmp_path: Path) -> None:
    from ultralytics import YOLO

    again = unpack(run / "pruned.slr", tmp_path / "again.pt")
    assert again.read_bytes() == (run / "pruned.pt").read_bytes()
    report = json.loads((run / "report.json").read_text())
    assert report["bytes"]["packed"] < 0.65 * report["bytes"]["dense"]
    found, wanted = (YOLO(str(path)).model.state_dict() for path in (again, run / "pruned.pt"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_methods_start_from_the_same_weights_and_see_the_same_data(run: Path) -> None:
    """The first loss of two methods can only agree if weights, order and augmentation do."""
    args = [(run / method / "train" / "args.yaml").read_text().splitlines() for method in ("slr", "gradual")]
    differing = {line.split(":")[0] for line in set(args[0]) ^ set(args[1])}
    assert differing <= {"project", "save_dir"}


def test_eval_gives_the_reported_number_and_an_exit_code(
    run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = report_of(run)["phases"]["retrain"]["metrics"]
    command = ["eval", f"model={run / 'pruned.pt'}", f"data={tiny_data}", "imgsz=64", "--device", "cpu"]
    assert reported["AP50"] > 0.001
    assert main([*command, "--json", "--min", "map50=0.001"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert {key: metrics[key] for key in ("AP", "AP50")} == {key: reported[key] for key in ("AP", "AP50")}
    assert main([*command, "--min", "map50=1.01"]) == 1
    assert "below the minimum of 1.01" in lines(capsys)[0]
    assert main([*command, "--min", "mapp50=0.1"]) == 2
    assert "map50" in lines(capsys)[0]


def test_report_is_written_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.md").unlink()
    assert main(["report", str(run)]) == 0
    assert "hard-pruned" in capsys.readouterr().out
    assert "Scores" in (run / "report.md").read_text()


def test_retrain_keeps_the_zeros(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    pruned = run / "slr" / "hard_pruned.pt"
    arguments = [f"model={pruned}", f"data={tiny_data}", f"project={tmp_path}", "name=on", *SETTINGS]
    assert main(["retrain", *arguments, "--epochs", "1"]) == 0
    before = torch.load(pruned, weights_only=False)["model"].state_dict()
    after = torch.load(tmp_path / "on" / "retrained.pt", weights_only=False)["model"].state_dict()
    for name, weight in before.items():
        if weight.ndim > 1:
            assert not after[name][weight == 0].any(), name


def test_analyze_prints_the_table_before_anything_is_trained(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["analyze", f"model={tiny_model}", "--compression", "2x", f"project={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "first layer" in out and "detection head" in out and "compression 2.00" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sensitivity_scan(tiny_model: Path, tiny_data: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = [f"model={tiny_model}", f"data={tiny_data}", "imgsz=64", "prune.scan_ratios=[0.5, 0.1]"]
    assert (
        main(
            ["analyze", *arguments, "--compression", "2x", "--sensitivity", str(tmp_path), "--device", "cpu"]
        )
        == 0
    )
    assert (tmp_path / "sensitivity.png").stat().st_size > 5_000
    assert "model.4.conv" in capsys.readouterr().out


def test_score_matches_the_official_numbers(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = samples / "coco" / "golden"
    expected = json.loads((golden / "pycocotools_stats_all100.json").read_text())
    for iou in ("bbox", "segm"):
        files = ["--annotations", str(golden / "instances_val2014_100.json")]
        files += ["--predictions", str(golden / f"instances_val2014_fake{iou}100_results.json")]
        assert main(["score", *files, "--iou", iou]) == 0
        printed = [line.rsplit("=", 1)[1].strip() for line in capsys.readouterr().out.splitlines()[:12]]
        assert printed == [f"{value:.3f}" for value in expected[iou]]
        assert main(["score", *files, "--iou", iou, "--json"]) == 0
        scored = json.loads(capsys.readouterr().out)
        metrics = scored.get("metrics", scored)
        assert [metrics[name] for name in list(metrics)[:12]] == expected[iou]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=shapes", "model=nowhere.pt"], "nowhere.pt"),
        (["data=/nowhere/coco.yaml", "model=MODEL"], "/nowhere/coco.yaml"),
        (["data=DATA", "model=MODEL", "prune.keep=1.5"], "prune.keep"),
        (["data=DATA", "model=MODEL", "--compression", "0.5x"], "target_compression"),
        (["data=DATA", "model=MODEL", "prune.keeep=0.5"], "prune.keep"),
        (["data=DATA", "model=MODEL", "imgzs=64"], "imgsz"),
        (["data=DATA", "model=MODEL", "--method", "slrr"], "slr"),
        (["data=DATA", "model=MODEL", "prune.keep=0.5", "prune.exclude=[nothing.*]"], "nothing.*"),
        (["data=DATA", "model=MODEL", "--compression", "1000x"], "1000"),
        (["data=DATA", "model=MODEL"], "how much to prune"),
        (["model=MODEL", "prune.keep=0.5"], "data is not given"),
        (["data=DATA", "model=yolov3-tiny.yaml", "prune.keep=0.5"], "dense_epochs"),
        (
            ["data=DATA", "model=MODEL", "prune.keep=0.5", "iterations_per_epoch=2"],
            "ends an iteration with each",
        ),
        (["data=DATA", "model=MODEL", "prune.keep=0.5", "weights=pretrained"], "give it as model=FILE.pt"),
        (["data=DATA", "model=MODEL", "prune.keep=0.5", "distill=0.5"], "no distillation"),
        (["data=DATA", "model=MODEL", "prune.keep=0.5", "one_schedule=true"], "retrain.lr0"),
        (["data=DATA", "model=MODEL", "prune.keep=0.5", "task=classify"], "python -m slr_det.classify"),
        (["data=DATA", "model=TRUNCATED", "prune.keep=0.5"], "truncated"),
        (["data=DATA", "model=FOREIGN", "prune.keep=0.5"], "ultralytics"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--resume", "nowhere"], "not the folder of a run"),
        (["report", "nowhere"], "nowhere"),
        (["score", "--annotations", "a.json", "--predictions", "b.json"], "a.json"),
        (["retrain", "data=DATA", "model=MODEL", "--epochs", "1"], "no pruned weights"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    expected: str,
    tiny_model: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    truncated = tmp_path / "TRUNCATED.pt"
    truncated.write_bytes(tiny_model.read_bytes()[:20_000])
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "FOREIGN.pt")
    names = {"model=MODEL": f"model={tiny_model}", "data=DATA": f"data={tiny_data}"}
    names |= {"model=TRUNCATED": f"model={truncated}", "model=FOREIGN": f"model={tmp_path / 'FOREIGN.pt'}"}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    found = lines(capsys)
    assert len(found) == 1 and expected in found[0], found


def test_a_rate_out_of_reach_is_refused_before_the_dense_training(
    tiny_yaml: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"model={tiny_yaml}", f"data={tiny_data}", f"project={tmp_path}", "name=high", *SETTINGS]
    assert main([*arguments, "dense_epochs=1", "--compression", "1000x"]) == 2
    assert "the highest rate is" in lines(capsys)[0]
    assert not (tmp_path / "high" / "dense").exists()


def test_all_configuration_errors_come_at_once(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["prune.keep=2", "slr.rho=-1", "epochs=0", "imgzs=3", "prune.projection=unstructerd"]
    assert main([f"model={tiny_model}", "data=shapes", *wrong]) == 2
    found = lines(capsys)
    for key in ("prune.keep", "slr.rho", "epochs", "imgzs", "unstructerd"):
        assert any(key in line for line in found), (key, found)


def test_resume_refuses_another_model_or_ratio(
    run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--resume", str(run), "--compression", "5x"]) == 2
    assert "prune" in lines(capsys)[0]
    assert main(["--resume", str(run), "model=other.pt"]) == 2
    assert "model" in lines(capsys)[0]
    assert main(["train", "--resume", str(run)]) == 2
    assert "compress --resume" in lines(capsys)[0]
    config = run / "config.yaml"
    before = config.read_text()
    state = json.loads((run / "state.json").read_text())
    try:
        (run / "state.json").write_text(json.dumps({**state, "fingerprint": "0" * 64}))
        assert main(["--resume", str(run)]) == 2
        assert "content has changed" in lines(capsys)[0]
    finally:
        (run / "state.json").write_text(json.dumps(state))
    assert config.read_text() == before


def test_a_finished_run_can_be_resumed_and_changes_nothing(run: Path) -> None:
    before = (run / "pruned.pt").read_bytes()
    assert main(["--resume", str(run)]) == 0
    assert (run / "pruned.pt").read_bytes() == before


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_no_network_at_any_moment(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    """A run with every socket forbidden: nothing even tries."""
    script = (
        "import socket, sys\n"
        "def no(*a, **k): sys.exit('NETWORK ' + repr(a))\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = no\n"
        "import urllib.request; urllib.request.urlopen = no\n"
        "from slr_det.yolo import main\n"
        f"sys.exit(main(['model={tiny_model}', 'data={tiny_data}', 'project={tmp_path}', 'prune.keep=0.5', "
        "'--epochs', '1', '--retrain-epochs', '0', 'imgsz=64', 'batch=10', 'workers=0', '--device', 'cpu']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "NETWORK" not in done.stderr + done.stdout, done.stderr[-1500:]
