"""The trainer on two processes. Upstream's launcher needs CUDA; here gloo stands in for it on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from slr_det.adapter import TrainJob

SCRIPT = """
import json, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from slr_det.adapter import TrainJob
from slr_det_adapters.ultralytics.offline import load_ultralytics
load_ultralytics()
from slr_det_adapters.ultralytics.trainer import SLRDetectionTrainer
from ultralytics.utils import RANK

class OnCPU(DistributedDataParallel):
    def __init__(self, model, device_ids=None, **kwargs):
        super().__init__(model, **kwargs)

torch.nn.parallel.DistributedDataParallel = OnCPU

class Trainer(SLRDetectionTrainer):
    def _setup_ddp(self):
        dist.init_process_group("gloo", rank=RANK, world_size=2)

job = TrainJob.from_dict(json.load(open(sys.argv[1])))
overrides = {**job.args, "task": "detect", "mode": "train", "model": job.model, "data": job.data,
             "epochs": job.epochs, "device": "cpu", "project": sys.argv[2], "name": "train", "exist_ok": True}
trainer = Trainer(overrides=overrides)
trainer.world_size = 2
trainer.train()
state = trainer.engine.state
torch.save({"z": state.z, "multipliers": state.multipliers, "scalars": state.scalars,
            "masks": trainer.engine.supports(), "history": trainer.engine.history}, f"{sys.argv[2]}/rank{RANK}.pt")
dist.destroy_process_group()
"""


def test_two_ranks_take_the_same_branches(make_job: Callable[..., TrainJob], tmp_path: Path) -> None:
    job = make_job(tmp_path / "train", "slr", epochs=3, args={"val": False})
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job.to_dict()))
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20_000 + os.getpid() % 10_000),
        "WORLD_SIZE": "2",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(file), str(tmp_path)],
            env={
                **os.environ,
                **common,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "OMP_NUM_THREADS": "1",
                "SLR_DET_TRAIN_JOB": str(file),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    a, b = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert len(a["history"]) == 3
    for key in ("z", "multipliers", "masks"):
        assert a[key].keys() == b[key].keys()
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key]), key
    assert any(bool(value.any()) for value in a["multipliers"].values())
    assert a["scalars"] == b["scalars"]
    drop = ("seconds", "metric")
    strip: Callable[[Any], Any] = lambda h: [{k: v for k, v in r.items() if k not in drop} for r in h]  # noqa: E731
    assert strip(a["history"]) == strip(b["history"])
    checkpoint = torch.load(tmp_path / "train" / "weights" / "last.pt", weights_only=False)
    assert checkpoint["slr_det"]["engine"]["state"]["iteration"] == 3
