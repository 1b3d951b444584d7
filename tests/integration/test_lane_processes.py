"""Lane networks trained in several processes, and one clear line where they meet a bad frame."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from slr_det.adapter import EngineSpec, TrainJob
from slr_det.allocation import allocate
from slr_det.errors import DataError

pytest.importorskip("mmengine", reason='needs the lane extra: uv pip install "slr-det[lane]"')

from lane_runs import NETWORK, PLAIN, copied, make_road

from slr_det_adapters.lane import LaneAdapter, checkpoints
from slr_det_adapters.mmengine.launching import launch

ADAPTER = LaneAdapter()

# The worker, which also writes down the masks that its own process would prune with. Its batch norms keep their
# statistics: then two processes with half a batch each compute what one does with all of it.
WORKER = """\
import os, sys
import torch
from torch.nn.modules.batchnorm import _BatchNorm
_BatchNorm.train = lambda norm, mode=True: torch.nn.Module.train(norm, False)
from slr_det_adapters.mmengine.hook import SLRHook
from slr_det_adapters.mmengine import worker
end = SLRHook.after_train
def after_train(hook, runner):
    masks = hook.engine.supports(dict(runner.model.module.named_parameters()))
    torch.save(masks, os.path.join(runner.work_dir, f"rank-{runner.rank}.pt"))
    end(hook, runner)
SLRHook.after_train = after_train
sys.exit(worker.main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_road(tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights: all runs begin with it."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "tiny.yaml").write_text(NETWORK)
    torch.manual_seed(4)
    checkpoints.write(folder / "start.pt", checkpoints.built(str(folder / "tiny.yaml"), ""), "start")
    return folder / "start.pt"


def method_job(start: Path, data: Path, folder: Path, epochs: int = 2, **args: Any) -> TrainJob:
    info = ADAPTER.inspect(str(start))
    chosen = allocate(info.layers, keep=0.3, model_parameters=info.parameters, dense_head=False)
    engine = EngineSpec("slr", epochs, tuple(chosen.specs()), {})
    given = {**PLAIN, "batch": 4, "optimizer": "sgd", "lr": 0.01, **args}
    return TrainJob(str(start), str(data), str(folder), epochs, given, engine, seed=3, device="cpu")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_agree_with_each_other_and_with_one(
    start: Path, road: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_BatchNorm, "train", lambda norm, mode=True: torch.nn.Module.train(norm, False))
    one, two = (
        method_job(start, road, tmp_path / name, processes=processes)
        for name, processes in (("one", 1), ("two", 2))
    )
    alone = ADAPTER.train(one, resume=False)
    launch(two, 2, False, "slr_det_adapters.lane.training", [sys.executable, "-c", WORKER])
    ranks = [torch.load(tmp_path / "two" / f"rank-{rank}.pt") for rank in range(2)]
    assert ranks[0].keys() == ranks[1].keys() and len(ranks[0]) >= 20
    for name, mask in ranks[0].items():
        assert torch.equal(mask, ranks[1][name]), name
    first, second = (ADAPTER.averaged(ADAPTER.last(job.folder)) for job in (one, two))
    begin = ADAPTER.averaged(str(start))
    for name, weight in first.items():
        moved = float((weight - begin[name]).abs().max())
        assert float((weight - second[name]).abs().max()) < 1e-3 * max(moved, 1e-3), name
    assert sum(not torch.equal(weight, begin[name]) for name, weight in first.items()) > 20
    # `train` itself, told that all is done, reads the history that the processes left.
    together = ADAPTER.train(two, resume=True)
    assert len(together) == len(alone) == 2
    for a, b in zip(alone, together, strict=True):
        assert b["objective"] == pytest.approx(a["objective"], rel=1e-3)
        assert b["distance"] == pytest.approx(a["distance"], rel=1e-3)
        # The same frames are scored, each once, however they are shared out.
        assert b["metric"] == pytest.approx(a["metric"], abs=0.02)
        assert b["metric"]["empty_accuracy"] == pytest.approx(a["metric"]["empty_accuracy"], abs=1e-12)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_bad_frame_of_two_processes_is_one_line(
    start: Path, road: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = copied(road, tmp_path / "data")
    frame = data / "clips" / "train" / "0005" / "20.jpg"
    frame.write_bytes(frame.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"0005/20\.jpg: cannot be decoded") as caught:
        ADAPTER.train(method_job(start, data, tmp_path / "run", processes=2, val_every=0), resume=False)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_in_bf16_end_in_finite_weights(start: Path, road: Path, tmp_path: Path) -> None:
    job = method_job(start, road, tmp_path, epochs=1, processes=2, amp="bf16")
    (record,) = ADAPTER.train(job, resume=False)
    assert record["metric"].keys() >= {"accuracy", "empty_accuracy", "fp", "fn"}
    net = checkpoints.read(ADAPTER.last(job.folder))
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())
    begin = ADAPTER.averaged(str(start))
    moved = [n for n, v in net.named_parameters() if n in begin and not torch.equal(v, begin[n])]
    assert len(moved) > 20
