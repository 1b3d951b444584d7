"""Two processes, each with a Runner of its own on half of the data, keep one method."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("mmengine", reason='needs mmengine: uv pip install "slr-det[classify]"')

RUNS: dict[str, dict[str, Any]] = {
    "slr": {"iterations_per_epoch": 2},
    "gradual": {"method": "gradual"},
    "zeros": {"keep_zeros": True},
}


def environment(rank: int, port: int) -> dict[str, str]:
    names = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return {name: str(value) for name, value in names.items()}


def never(*args: object) -> None:
    raise AssertionError(f"a rank that is not the first wrote {args}")


def work(rank: int, port: int, folder: Path) -> None:
    """Train every run on this rank, then resume one of them, and write down what it ended with."""
    import mmengine_runs as runs

    torch.set_num_threads(1)
    if rank > 0:
        from slr_det import files

        files.os.replace = never  # type: ignore[attr-defined]
    os.environ.update(environment(rank, port))
    accumulate = runs.sgd(accumulative_counts=2, clip_grad={"max_norm": 5.0})
    results = {}
    for name, arguments in RUNS.items():
        hook = runs.slr(**arguments)
        model = runs.tiny(seed=1 + rank, zeros="keep_zeros" in arguments)  # the wrapper makes them equal
        if "keep_zeros" in arguments:
            model = runs.tiny(zeros=True)
        runner = runs.make(folder / name, hook, model=model, optim_wrapper=accumulate, launcher="pytorch")
        runner.train()
        assert type(runner.model).__name__ == "MMDistributedDataParallel"
        results[name] = runs.everything(runner, hook)
    whole = results["slr"]
    with pytest.raises(runs.Stopped):
        runs.make(
            folder / "parts",
            runs.slr(**RUNS["slr"]),
            runs.StopAt(5),
            model=runs.tiny(seed=1 + rank),
            optim_wrapper=accumulate,
            launcher="pytorch",
        ).train()
    hook = runs.slr(**RUNS["slr"])
    runner = runs.make(
        folder / "parts",
        hook,
        model=runs.tiny(seed=7),
        optim_wrapper=accumulate,
        launcher="pytorch",
        resume=True,
    )
    runner.train()
    found = runs.everything(runner, hook)
    # Each rank has running statistics of its own, and a checkpoint holds those of the first one.
    different = [name for name in runs.different(whole, found) if "running_" not in name]
    results["different"] = different if rank == 0 else []
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")
def test_two_ranks_agree_and_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in environment(0, port).items():
        monkeypatch.setenv(name, value)
    other = multiprocessing.get_context("spawn").Process(target=work, args=(1, port, tmp_path))
    other.start()
    try:
        work(0, port, tmp_path)
        other.join(timeout=60)
        assert other.exitcode == 0
    finally:
        other.kill()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0].pop("different") == ranks[1].pop("different") == []
    for name in RUNS:
        first, second = (rank[name] for rank in ranks)
        assert first.keys() == second.keys()
        unequal = [
            key
            for key, value in first.items()
            if not (
                torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
            )
        ]
        assert all("running_" in key for key in unequal), unequal
        assert unequal, "the ranks saw the same data"
    assert ranks[0]["slr"]["multipliers.body.weight"].any()
    assert len(ranks[0]["slr"]["history"]) == 6
    assert (tmp_path / "slr" / "pruned.pth").is_file() and (tmp_path / "zeros" / "retrained.pth").is_file()
