"""``device=0,1`` of ultralytics on CPUs: everything but the device is the real thing, from the launch to the resume."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from rank_runs import environment

from slr_det.adapter import TrainJob

# A trainer that takes two CPUs for two GPUs. It is imported by the process that launches and by those launched.
DEVICES = """\
import os
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from slr_det_adapters.ultralytics.offline import load_ultralytics
load_ultralytics()
from slr_det_adapters.ultralytics import trainer
from ultralytics.utils import LOCAL_RANK, RANK

class OnCPU(DistributedDataParallel):
    def __init__(self, model, device_ids=None, **kwargs):
        super().__init__(model, **kwargs)

class Trainer(trainer.SLRDetectionTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.world_size = 2
        self.ddp = LOCAL_RANK == -1

    def _on_train_epoch_end(self):
        if self.job.title == "poisoned":
            with torch.no_grad():
                self._named(self.model)["model.4.conv.weight"][0, 0, 0, 0] = float("nan")
        super()._on_train_epoch_end()

    def _setup_ddp(self):
        torch.nn.parallel.DistributedDataParallel = OnCPU
        dist.init_process_group("gloo", rank=RANK, world_size=2)
"""
# The command's own handling of errors around a phase.
COMMAND = """\
import json, sys
import devices
from slr_det.adapter import TrainJob, load_adapter
from slr_det.cli import run
devices.trainer.SLRDetectionTrainer = devices.Trainer
job = TrainJob.from_dict(json.load(open(sys.argv[1])))
sys.exit(run(lambda: load_adapter("ultralytics").train(job, resume=True) and 0, on_interrupt=lambda: "saved"))
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[[TrainJob], subprocess.Popen[str]]:
    (tmp_path / "devices.py").write_text(DEVICES)
    (tmp_path / "command.py").write_text(COMMAND)

    def begin(job: TrainJob) -> subprocess.Popen[str]:
        (tmp_path / "job.json").write_text(json.dumps(job.to_dict()))
        command = [sys.executable, str(tmp_path / "command.py"), str(tmp_path / "job.json")]
        return subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)

    return begin


def ranks_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        rank = child.environ().get("RANK")
        if rank is not None:
            found[int(rank)] = child
    return found


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    while not file.is_file():
        assert process.poll() is None, "the command ended early"
        time.sleep(0.02)


def state(folder: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(folder / "weights" / "last.pt", weights_only=False)["slr_det"]
    found: dict[str, torch.Tensor] = saved["ema"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_process_ends_all_in_one_line_and_the_run_goes_on(
    make_job: Callable[..., TrainJob], start: Callable[[TrainJob], subprocess.Popen[str]], tmp_path: Path
) -> None:
    last = tmp_path / "train" / "weights" / "last.pt"
    job = make_job(tmp_path / "train", "slr", epochs=4, args={"val": False})
    process = start(job)
    try:
        wait_for(last, process)
        ranks = ranks_of(process)
        assert sorted(ranks) == [0, 1]
        ranks[1].kill()
        begin = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - begin < 60
        errors = re.findall(r"^error: (.*)$", said.replace("\r", "\n"), flags=re.MULTILINE)
        assert process.returncode == 2 and len(errors) == 1
        assert (
            "ended by signal 9" in errors[0] and f"every finished epoch is saved in {job.folder}" in errors[0]
        )
        assert not ranks[0].is_running() or ranks[0].status() == psutil.STATUS_ZOMBIE

        again = start(job)
        _, said = again.communicate(timeout=240)
        assert again.returncode == 0, said[-2000:]
        whole = make_job(tmp_path / "whole", "slr", epochs=4, args={"val": False})
        process = start(whole)
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said[-2000:]
    finally:
        process.kill()
    first, second = state(tmp_path / "train"), state(tmp_path / "whole")
    # Each rank has running statistics of its own, and a checkpoint holds those of the first one.
    different = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert [name for name in different if "running_" not in name] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_end_when_the_command_is_killed_and_its_errors_are_one_line(
    make_job: Callable[..., TrainJob], start: Callable[[TrainJob], subprocess.Popen[str]], tmp_path: Path
) -> None:
    job = make_job(tmp_path / "killed", "slr", epochs=400, args={"val": False})
    process = start(job)
    wait_for(tmp_path / "killed" / "weights" / "last.pt", process)
    ranks = ranks_of(process)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(list(ranks.values()), timeout=20)
    assert len(ranks) == 2 and alive == []

    process = start(make_job(tmp_path / "nan", "slr", args={"val": False}, title="poisoned"))
    _, said = process.communicate(timeout=240)
    errors = re.findall(r"^error: (.*)$", said.replace("\r", "\n"), flags=re.MULTILINE)
    assert process.returncode == 2 and len(errors) == 1
    assert re.search(r"model\.4\.conv\.weight.*iteration 1", errors[0])
    assert "Traceback" not in said
