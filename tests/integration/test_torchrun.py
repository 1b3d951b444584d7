"""A whole command line under torchrun: one writer, the same masks everywhere, and an end for all where one is lost."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import lane_runs
import pointpillars_runs
import psutil
import pytest

pytest.importorskip("timm", reason='needs the classify extra: uv pip install "slr-det[classify]"')

from classify_runs import SMALL, assert_same
from rank_runs import end_all, ended, kill_rank_when, rank_of, torchrun

from slr_det.classify import main

CHECKPOINTS = ["dense.pt", "slr/hard_pruned.pt", "slr/recalibrated.pt", "slr/retrained.pt", "pruned.pt"]
SETTINGS = [*SMALL, "threads=1", "dense_epochs=1", "epochs=4", "retrain_epochs=1", "prune.keep=0.2"]
# Layer norms, no batch norm: then ranks with a part of the batch each compute what one does with all of it.
NORM_FREE = [
    "model=test_convnext",
    "data=digits",
    "device=cpu",
    "size=32",
    "augment=none",
    "batch=40",
    "lr=0.02",
]
NORM_FREE += [
    "train_images=200",
    "val_images=50",
    "threads=1",
    "dense_epochs=1",
    "epochs=2",
    "retrain_epochs=1",
]
NORM_FREE += ["prune.keep=0.2", "bn_recalibrate=false", "ema=0", "optimizer=sgd"]


def digests(run: Path, ranks: int) -> list[str]:
    """The hashes of the masks that all ranks had, at the end of the phases that have masks."""
    found = []
    for phase in ("train", "retrain"):
        text = (run / "slr" / phase / "train.log").read_text()
        found += re.findall(rf"masks of all {ranks} ranks: sha256 ([0-9a-f]{{64}})", text)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_rank_ends_all_and_the_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = ended(torchrun(2, "classify", *SETTINGS, f"project={tmp_path}", "name=whole"))
    assert whole.code == 0 and whole.errors == [], whole.said[-2000:]
    assert whole.out.count("report: ") == 1  # one rank speaks
    assert len(set(digests(tmp_path / "whole", 2))) == 1
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert report["command"].startswith("torchrun --nproc-per-node 2 -m slr_det.classify model=digits_cnn")
    assert not (tmp_path / ".dist_test").exists()

    run = tmp_path / "killed"
    process = torchrun(2, "classify", *SETTINGS, f"project={tmp_path}", "name=killed")
    killed = kill_rank_when(process, 1, (run / "slr" / "train" / "epoch_1.pth").is_file)
    assert killed.code != 0 and killed.seconds < 60
    (line,) = killed.errors
    assert "rank 1 was killed or lost" in line and "during slr/train" in line
    again = re.search(
        r"continue with: torchrun --nproc-per-node 2 -m slr_det\.classify (compress --resume .*)", line
    )
    assert again is not None and not (run / "report.json").exists()
    resumed = ended(torchrun(2, "classify", *again[1].split()))
    assert resumed.code == 0, resumed.said[-2000:]
    assert_same(tmp_path / "whole", run, CHECKPOINTS)
    assert digests(run, 2)[-1] == digests(tmp_path / "whole", 2)[-1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_ranks_compute_what_one_does_and_end_with_the_first(tmp_path: Path) -> None:
    """Then, once more, rank 0 is killed: the other three end, each with one line, and a single process resumes."""
    four = ended(torchrun(4, "classify", *NORM_FREE, f"project={tmp_path}", "name=four"))
    assert four.code == 0, four.said[-2000:]
    assert main([*NORM_FREE, f"project={tmp_path}", "name=one"]) == 0
    found = [json.loads((tmp_path / name / "report.json").read_text())["history"] for name in ("one", "four")]
    assert len(found[0]) == 8  # four iterations in each of two epochs
    for one, together in zip(*found, strict=True):
        assert together["objective"] == pytest.approx(one["objective"], rel=1e-4)
        assert together["distance"] == pytest.approx(one["distance"], rel=1e-4)
        assert (together["condition_6"], together["condition_11"]) == (
            one["condition_6"],
            one["condition_11"],
        )
    assert len(digests(tmp_path / "four", 4)) == 2

    run = tmp_path / "killed"
    process = torchrun(4, "classify", *NORM_FREE, f"project={tmp_path}", "name=killed")
    killed = kill_rank_when(process, 0, (run / "dense" / "epoch_1.pth").is_file)
    assert killed.code != 0 and killed.seconds < 60
    assert sorted(line[:7] for line in killed.errors) == ["rank 1:", "rank 2:", "rank 3:"]
    for line in killed.errors:
        assert "rank 0 was killed or lost" in line
        assert f"torchrun --nproc-per-node 4 -m slr_det.classify compress --resume {run}" in line
    assert main(["compress", "--resume", str(run)]) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupt_of_torchrun_says_how_to_go_on(tmp_path: Path) -> None:
    settings = [*SETTINGS, "epochs=200", f"project={tmp_path}", "name=run"]
    process = torchrun(2, "classify", *settings)
    try:
        stopped = kill_rank_when(
            process,
            1,
            (tmp_path / "run" / "slr" / "train" / "epoch_1.pth").is_file,
            lambda _: process.send_signal(signal.SIGINT),
        )
    finally:
        end_all(process)
    assert stopped.seconds < 60
    (first,) = [line for line in stopped.errors if not line.startswith("rank 1:")]
    assert first.startswith("interrupted during slr/train; every finished epoch is saved in")
    assert [line for line in stopped.errors if line != first] == [
        "rank 1: ends with rank 0, whose own line says why"
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_that_hangs_is_noticed(tmp_path: Path) -> None:
    """Stopped, not killed: nothing closes its connections, as when a machine loses its power."""
    run = tmp_path / "run"
    process = torchrun(2, "classify", *SETTINGS, "epochs=200", f"project={tmp_path}", "name=run")

    def hang(rank: psutil.Process) -> None:
        rank.suspend()

    try:
        hung = kill_rank_when(process, 1, (run / "slr" / "train" / "epoch_1.pth").is_file, hang)
    finally:
        end_all(process)
    # torchrun gives a stopped process 30 s before it kills it; the line was there before.
    assert hung.seconds < 90
    (line,) = hung.errors
    assert "rank 1 was killed or lost" in line


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_wrong_with_a_command_is_said_once(tmp_path: Path) -> None:
    for module, arguments, wanted in [
        ("classify", [*SETTINGS, "batch=33"], "batch is 33, which 2 processes cannot share"),
        ("classify", [*SETTINGS, "learning=1"], "learning"),
        (
            "classify",
            [*SETTINGS, "device=0,1"],
            "device is '0,1', but each of the 2 ranks has a device of its own",
        ),
        ("yolo", ["model=yolov3-tiny.yaml"], "does not run under torchrun"),
    ]:
        found = ended(torchrun(2, module, *arguments, f"project={tmp_path}", "name=run"))
        assert found.code != 0 and found.seconds < 60
        (own,) = [line for line in found.errors if not line.startswith("rank 1:")]
        assert wanted in own
        assert len(found.errors) == 2 and "ends with rank 0" in "".join(found.errors)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_that_meets_an_error_alone_ends_all_with_it(tmp_path: Path) -> None:
    """The learning rate lets the weights of all explode; all say so, or end with the one that did."""
    settings = [*SETTINGS, "lr=1e9", "dense_epochs=2", f"project={tmp_path}", "name=run"]
    process = torchrun(2, "classify", *settings)
    found = ended(process)
    assert found.code != 0 and found.seconds < 120
    assert 1 <= len(found.errors) <= 2
    assert any("learning rate" in line for line in found.errors)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", ["lane", "pointpillars"])
def test_detectors_of_lanes_and_boxes_run_the_same_way(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLR_DET_CACHE", str(tmp_path / "cache"))
    runs = lane_runs if task == "lane" else pointpillars_runs
    data = lane_runs.make_road(tmp_path) if task == "lane" else pointpillars_runs.make_world(tmp_path)
    (tmp_path / "tiny.yaml").write_text(runs.NETWORK)
    settings = [*runs.words({**runs.PLAIN, "batch": 4}), "device=cpu", f"data={data}", "model=tiny.yaml"]
    settings += ["dense_epochs=1", "epochs=1", "retrain_epochs=1", "prune.keep=0.5", "recipe=paper"]
    found = ended(torchrun(2, task, *settings, "project=runs", "name=run", cwd=tmp_path))
    assert found.code == 0 and found.errors == [], found.said[-2000:]
    run = tmp_path / "runs" / "run"
    assert (run / "report.md").is_file() and len(digests(run, 2)) == 2


def test_the_rank_of_a_process_is_found_by_its_environment() -> None:
    """The tests above kill by it: it must not find a process of somebody else."""
    with pytest.raises(AssertionError, match="no process of rank 1"):
        rank_of(type("Started", (), {"pid": psutil.Process().pid})(), 1)
