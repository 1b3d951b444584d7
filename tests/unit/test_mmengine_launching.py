"""Several training processes: what they are told, and that one failure ends all of them in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slr_det.adapter import TrainJob
from slr_det.errors import ConfigError, NumericsError, SlrDetError
from slr_det_adapters.mmengine.launching import launch, processes_of

# Stands in for the training: importing torch in each process would take longer than all that is tested here.
OPENING = """\
import json, os, pathlib, sys, time
folder, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
content = json.loads((folder / "job.json").read_text())
out = pathlib.Path(content["job"]["folder"])
out.mkdir(exist_ok=True, parents=True)
"""
WAIT_FOR_EVER = "(out / f'alive-{rank}').write_text(str(os.getpid()))\ntime.sleep(60)\n"


def worker(script: str) -> list[str]:
    return [sys.executable, "-S", "-c", OPENING + script]


def job(folder: Path, device: str = "") -> TrainJob:
    return TrainJob("m.pt", "digits", str(folder), 3, {"batch": 8}, device=device)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_number_of_processes_follows_the_devices() -> None:
    assert processes_of(job(Path("x")), 1) == 1
    assert processes_of(job(Path("x"), "cpu"), 3) == 3
    assert processes_of(job(Path("x"), "0"), 1) == 1
    assert processes_of(job(Path("x"), "0, 2"), 1) == 2
    with pytest.raises(ConfigError, match="processes is 2, which is for the CPU, and device is '0'"):
        processes_of(job(Path("x"), "0"), 2)


def test_each_process_knows_its_place_and_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    keys = "['RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'OMP_NUM_THREADS']"
    script = (
        f"content['env'] = {{key: os.environ[key] for key in {keys}}}\n"
        "(out / rank).write_text(json.dumps(content))\n"
    )
    launch(job(tmp_path / "out"), 2, True, "training", worker(script))
    told = [json.loads((tmp_path / "out" / str(rank)).read_text()) for rank in range(2)]
    for rank, one in enumerate(told):
        assert one["resume"] is True
        assert TrainJob.from_dict(one["job"]) == job(tmp_path / "out", "cpu")
        assert one["env"]["RANK"] == one["env"]["LOCAL_RANK"] == str(rank)
        assert one["env"]["WORLD_SIZE"] == "2"
        assert one["env"]["OMP_NUM_THREADS"] == str(max((os.cpu_count() or 1) // 2, 1))
    assert told[0]["env"]["MASTER_PORT"] == told[1]["env"]["MASTER_PORT"]


@pytest.mark.parametrize(("visible", "wanted"), [(None, "1,3"), ("4,5,6,7", "5,7")])
def test_processes_see_the_gpus_that_were_named(
    visible: str | None, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    script = "(out / rank).write_text(os.environ['CUDA_VISIBLE_DEVICES'] + ' ' + content['job']['device'])\n"
    launch(job(tmp_path, "1,3"), 2, False, "training", worker(script))
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [f"{wanted} 1,3"] * 2


def failing(error: str) -> str:
    return (
        f"if rank == '1':\n    (folder / 'error-1.json').write_text(json.dumps({error}))\n    sys.exit(2)\n"
        + WAIT_FOR_EVER
    )


def test_an_error_of_one_process_keeps_its_class_and_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slr_det_adapters.supervising._PATIENCE", 0.5)
    error = {"kind": "NumericsError", "text": "parameter 'a' holds a NaN", "problems": None}
    with pytest.raises(NumericsError, match="^parameter 'a' holds a NaN$"):
        launch(job(tmp_path), 2, False, "training", worker(failing(repr(error))))
    alive = tmp_path / "alive-0"
    assert not alive.exists() or not is_running(int(alive.read_text()))


def test_several_problems_stay_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slr_det_adapters.supervising._PATIENCE", 0.2)
    error = {"kind": "ConfigError", "text": "a; b", "problems": ["a", "b"]}
    with pytest.raises(ConfigError) as caught:
        launch(job(tmp_path), 2, False, "training", worker(failing(repr(error))))
    assert caught.value.problems == ("a", "b")


def test_a_process_that_the_system_killed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slr_det_adapters.supervising._PATIENCE", 0.2)
    script = "if rank == '0':\n    os.kill(os.getpid(), 9)\n" + WAIT_FOR_EVER
    with pytest.raises(SlrDetError, match="ended by signal 9 .*lower batch"):
        launch(job(tmp_path), 2, False, "training", worker(script))


def test_a_crash_shows_its_traceback(tmp_path: Path) -> None:
    script = (
        "(folder / f'error-{rank}.json').write_text(json.dumps({'text': 'Traceback: boom'}))\nsys.exit(1)\n"
    )
    with pytest.raises(RuntimeError, match="Traceback: boom"):
        launch(job(tmp_path), 2, False, "training", worker(script))


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_processes(which: signal.Signals, tmp_path: Path) -> None:
    """By the command line's own handling of both signals."""
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from slr_det.adapter import TrainJob\nfrom slr_det.cli import run\n"
        "from slr_det_adapters.mmengine.launching import launch\n"
        f"job = TrainJob('m', 'd', {str(tmp_path)!r}, 1)\n"
        f"wait = {worker(WAIT_FOR_EVER)!r}\n"
        "sys.exit(run(lambda: launch(job, 2, False, 'training', wait) or 0, on_interrupt=lambda: 'saved'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    files = [tmp_path / f"alive-{rank}" for rank in range(2)]
    while not all(file.exists() and file.read_text() for file in files):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(which)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said == "error: saved\n"
    assert not any(is_running(int(file.read_text())) for file in files)
