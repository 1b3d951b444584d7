"""Two ranks that each see half of every batch end with the masks and multipliers of one that sees it whole."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from slr_det.engine import Engine, Hyper
from slr_det.errors import ConfigError
from slr_det.groups import GroupSpec, build_groups
from slr_det.projections import Projection

METHODS = ["slr", "admm", "gradual"]
BATCH = 8


def train(method: str, rank: int, ranks: int) -> dict[str, Any]:
    """Train a small model on this rank's share of every batch; return what must agree."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 3))
    named = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    groups = build_groups(named, [GroupSpec("all", tuple(named), 0.25, Projection("unstructured"))])
    engine = Engine(groups, method, iterations=6, hyper=Hyper(rho=0.2, s0=0.3, M=20.0))
    wrapped = DistributedDataParallel(model) if ranks > 1 else model
    momenta = [torch.zeros_like(p) for p in model.parameters()]
    generator = torch.Generator().manual_seed(1)
    for step in range(30):
        x, y = torch.randn(BATCH, 10, generator=generator), torch.randn(BATCH, 3, generator=generator)
        share = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
        loss = ((wrapped(x[share]) - y[share]) ** 2).mean()
        # Ranks differ in their objective until it is reduced: unequal weights make that visible.
        engine.observe(loss, float(BATCH // ranks))
        model.zero_grad()
        (loss + 0.5 * engine.penalty() + engine.penalty(0.5)).backward()
        with torch.no_grad():  # SGD by hand: torch.optim takes seconds to import what it needs
            for p, momentum in zip(model.parameters(), momenta, strict=True):
                p.sub_(momentum.mul_(0.9).add_(p.grad), alpha=0.1)
        engine.after_step()
        if step % 5 == 4:
            engine.end_iteration()
    state = {key: dict(getattr(engine.state, key)) for key in ("z", "multipliers", "masks")}
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in engine.history]
    return {"state": state, "history": history, "pruned": engine.hard_prune()}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", rendezvous, timeout=timedelta(seconds=120), rank=rank, world_size=2)
    try:
        torch.save({method: train(method, rank, 2) for method in METHODS}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")
def test_two_ranks_end_as_one_rank_on_the_joined_batch(tmp_path: Path) -> None:
    other = mp.get_context("spawn").Process(target=work, args=(1, str(tmp_path)))
    other.start()
    work(0, str(tmp_path))
    other.join(timeout=60)
    assert other.exitcode == 0
    ranks: list[dict[str, Any]] = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for method in METHODS:
        one = train(method, 0, 1)
        first, second = ranks[0][method], ranks[1][method]
        assert first["history"] == second["history"]
        for name in ("0.weight", "2.weight"):
            assert torch.equal(first["pruned"][name], one["pruned"][name]), f"{method}: masks of {name}"
        for key, tensors in one["state"].items():
            for name, tensor in tensors.items():
                found: Tensor = first["state"][key][name]
                assert torch.equal(found, second["state"][key][name])
                if tensor.dtype == torch.bool:
                    assert torch.equal(found, tensor)
                else:
                    assert tensor.any()
                    torch.testing.assert_close(found, tensor, rtol=1e-4, atol=1e-6)
        for found_record, record in zip(first["history"], one["history"], strict=True):
            assert found_record["condition_6"] == record["condition_6"]
            assert found_record["objective"] == pytest.approx(record["objective"], rel=1e-5)


def test_distributed_without_a_process_group_says_so() -> None:
    group = build_groups({"w": torch.randn(4, 4)}, [GroupSpec("w", ("w",), 0.5, Projection("unstructured"))])
    engine = Engine(group, iterations=1, distributed=True)
    engine.observe(torch.tensor(1.0))
    with pytest.raises(ConfigError, match="torch.distributed is not initialised"):
        engine.end_iteration()
