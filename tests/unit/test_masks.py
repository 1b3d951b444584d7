"""Zeros stay zero; batch norm is recalibrated by forward passes only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from engine_reference import one_group, top
from torch import Tensor, nn

from slr_det.errors import ConfigError, DataError
from slr_det.groups import GroupSpec, build_groups
from slr_det.masks import MaskKeeper, hard_prune, recalibrate_batchnorm, supports
from slr_det.methods.schedules import scheduled_keep
from slr_det.projections import Projection


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def two_groups(model: nn.Module) -> list[GroupSpec]:
    return [
        GroupSpec("first", ("0.weight", "2.weight"), 0.2, Projection("unstructured")),
        GroupSpec("last", ("4.weight",), 0.5, Projection("channel")),
    ]


def test_hard_pruning_projects_in_place_and_returns_the_masks() -> None:
    model = small_model()
    named = dict(model.named_parameters())
    before = {n: p.detach().clone() for n, p in named.items()}
    masks = hard_prune(build_groups(named, two_groups(model)))
    joined = torch.cat([before["0.weight"].flatten(), before["2.weight"].flatten()])
    expected = top(joined, round(0.2 * joined.numel()))
    found = torch.cat([named["0.weight"].detach().flatten(), named["2.weight"].detach().flatten()])
    assert torch.equal(found, expected)
    assert int(masks["4.weight"].sum()) == 12 and bool((masks["4.weight"].sum(0) % 3 == 0).all())
    for name, mask in masks.items():
        assert torch.equal(named[name].detach(), torch.where(mask, before[name], 0.0))
        assert not torch.signbit(named[name].detach()[~mask]).any()  # +0.0, so that files of zeros compress
    assert torch.equal(named["0.bias"], before["0.bias"])


def test_supports_of_a_copy_are_those_of_its_own_weights() -> None:
    model = small_model()
    groups = build_groups(dict(model.named_parameters()), two_groups(model))
    average = copy.deepcopy(model)
    with torch.no_grad():
        for p in average.parameters():
            p.copy_(torch.randn_like(p))
    found = supports(groups, dict(average.named_parameters()))
    own = supports(build_groups(dict(average.named_parameters()), two_groups(average)))
    assert all(torch.equal(found[n], own[n]) for n in own)
    assert any(not torch.equal(found[n], m) for n, m in supports(groups).items())
    with pytest.raises(
        ConfigError, match=r"parameter '4.weight', which these tensors do not have \(did you mean '4.wight'"
    ):
        supports(
            groups, {"0.weight": model[0].weight, "2.weight": model[2].weight, "4.wight": model[4].weight}
        )
    with pytest.raises(ConfigError, match=r"'0.weight' has shape \[2\], expected \[16, 12\]"):
        supports(groups, {"0.weight": torch.zeros(2)})


OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("who", ["keeper", "engine", "oneshot"])
def test_momentum_decay_and_averaging_never_revive_a_zero(optimizer: str, who: str) -> None:
    model = small_model()
    named = dict(model.named_parameters())
    opt = OPTIMIZERS[optimizer](model.parameters())
    x, y = torch.randn(32, 12), torch.randn(32, 3)
    average = copy.deepcopy(model)
    for _ in range(5):  # momentum that points away from zero before pruning
        opt.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        opt.step()
    groups = {n: p for n, p in named.items() if n.endswith("weight")}
    engine = one_group(groups, 0.2, method="oneshot" if who == "oneshot" else "slr")
    masks = dict(engine.state.masks) if who == "oneshot" else engine.hard_prune()
    keeper = MaskKeeper(masks)
    alive = 0
    for _ in range(20):
        opt.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        opt.step()
        alive += sum(keeper.revived(named).values())
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 0.3)
        copies = dict(average.named_parameters())
        if who == "keeper":
            keeper.apply(named, copies)
        else:
            engine.after_step(copies)
        assert keeper.revived(named) == {} and keeper.revived(copies) == {}
        assert not any(
            torch.signbit(t[n].detach()[~m]).any() for t in (named, copies) for n, m in masks.items()
        )
    assert alive > 0, "the optimizer never moved a pruned weight: nothing was tested"
    assert all((named[n].detach()[m] != 0).all() for n, m in masks.items())


def test_a_keeper_refuses_what_it_cannot_mask() -> None:
    keeper = MaskKeeper({"a.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(ConfigError, match="'a.weight'"):
        keeper.apply({"b.bias": torch.ones(2)})
    with pytest.raises(ConfigError, match=r"shape \[3\], expected \[2, 2\]"):
        keeper.apply({"a.weight": torch.ones(3)})


def test_revived_counts_by_name() -> None:
    keeper = MaskKeeper({"a": torch.tensor([True, False, False]), "b": torch.tensor([False])})
    assert keeper.revived({"a": torch.tensor([1.0, 2.0, -1.0]), "b": torch.zeros(1)}) == {"a": 2}


# -- the mask methods -------------------------------------------------------------------------------------


def test_the_gradual_schedule_is_the_cubic_of_zhu_and_gupta() -> None:
    # 20 iterations, ramp from 0.2 (k = 4) to 0.7 (k = 14), target sparsity 0.9: s = 0.9 (1 - (1 - t)^3).
    expected = {
        1: 0.0,
        4: 0.0,
        5: 0.9 * (1 - 0.9**3),
        9: 0.9 * (1 - 0.5**3),
        13: 0.9 * (1 - 0.1**3),
        14: 0.9,
        20: 0.9,
    }
    for k, sparsity in expected.items():
        assert 1 - scheduled_keep(0.1, k, 20, 0.2, 0.7) == pytest.approx(sparsity, abs=1e-12)
    assert scheduled_keep(0.1, 14, 20, 0.2, 0.7) == 0.1  # exactly: the masks are those of the target
    for iterations in range(1, 30):
        assert scheduled_keep(0.1, iterations, iterations, 0.0, 1.0) == 0.1


def test_gradual_masks_follow_the_schedule_and_nest() -> None:
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(40, 25))
    engine = one_group({"w": w}, 0.1, method="gradual", iterations=8, ramp_end=0.5)
    assert engine.state.masks == {}
    previous = torch.ones(40, 25, dtype=torch.bool)
    target = top(w.detach(), 100)
    for k in range(1, 9):
        whole = float(((w.detach() - top(w.detach(), 100)) ** 2).sum() ** 0.5)
        record = engine.end_iteration()
        kept = round(scheduled_keep(0.1, k, 8, 0.0, 0.5) * 1000)
        mask = engine.state.masks["w"]
        assert int(mask.sum()) == kept == int(torch.count_nonzero(w))
        assert not (mask & ~previous).any()
        assert record["keep"] == pytest.approx(kept / 1000)
        assert record["distance_before"] == pytest.approx(whole, rel=1e-5, abs=1e-6)
        assert record["distance"] == pytest.approx(float((w.detach() - target).norm()), rel=1e-5, abs=1e-6)
        previous = mask
    assert kept == 100
    assert torch.equal(w.detach(), target)


def test_gradual_keeps_sets_without_a_schedule_dense_until_the_ramp_ends() -> None:
    torch.manual_seed(0)
    named = {"free": nn.Parameter(torch.randn(8, 8)), "nm": nn.Parameter(torch.randn(8, 8))}
    from slr_det.engine import Engine, Hyper

    specs = [
        GroupSpec("free", ("free",), 0.25, Projection("unstructured")),
        GroupSpec("nm", ("nm",), 0.5, Projection("n:m", {"n": 2, "m": 4})),
    ]
    engine = Engine(build_groups(named, specs), "gradual", iterations=4, hyper=Hyper(ramp_end=0.75))
    for _ in range(2):
        engine.end_iteration()
        assert bool((named["nm"] != 0).all()) and not bool((named["free"] != 0).all())
    record = engine.end_iteration()
    assert int(torch.count_nonzero(named["nm"])) == 32 and int(torch.count_nonzero(named["free"])) == 16
    assert record["keep"] == 48 / 128 and record["distance"] == 0.0


def test_oneshot_masks_are_those_of_the_initial_weights() -> None:
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(20, 20))
    expected = top(w.detach(), 40)
    engine = one_group({"w": w}, 0.1, method="oneshot")
    assert torch.equal(w.detach(), expected)
    with torch.no_grad():
        w.add_(torch.randn(20, 20))
    engine.after_step()
    record = engine.end_iteration()
    assert torch.equal(w.detach() != 0, expected != 0)
    assert record["keep"] == 0.1 and record["distance"] == 0.0


def test_dense_training_reports_its_distance_and_changes_nothing() -> None:
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(20, 20))
    before = w.detach().clone()
    record = one_group({"w": w}, 0.1, method="none").end_iteration()
    assert torch.equal(w.detach(), before)
    assert record["distance"] == pytest.approx(float((before - top(before, 40)).norm()), rel=1e-6)
    assert record["keep"] == 1.0


# -- batch norm -------------------------------------------------------------------------------------------


def test_recalibration_averages_the_statistics_of_the_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5, momentum=0.03), nn.Dropout(0.5), nn.Flatten())
    model.train()
    model[2].eval()
    batches = [torch.randn(6, 3, 4, 4) * (i + 1) + i for i in range(3)]
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert recalibrate_batchnorm(model, batches) == 3
    activations = [model[0](b).detach() for b in batches]
    mean = torch.stack([a.mean((0, 2, 3)) for a in activations]).mean(0)
    variance = torch.stack([a.transpose(0, 1).flatten(1).var(1) for a in activations]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)
    assert model[1].momentum == 0.03
    assert [m.training for m in model] == [True, True, False, True]
    assert all(torch.equal(weights[n], p) for n, p in model.named_parameters())


def test_recalibration_runs_the_rest_in_evaluation_mode_and_may_be_given_a_forward() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.9), nn.BatchNorm1d(4, track_running_stats=False))
    seen: list[list[bool]] = []

    def forward(module: nn.Module, batch: dict[str, Tensor]) -> None:
        seen.append([m.training for m in model])
        module(batch["x"])

    assert recalibrate_batchnorm(model, [{"x": torch.randn(8, 4)}], forward) == 1
    assert seen == [[True, False, False]]
    assert model[2].running_mean is None


def test_recalibration_without_batches_changes_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    model(torch.randn(8, 4) + 3)
    before = model[0].running_mean.clone()
    with pytest.raises(DataError, match="no batches"):
        recalibrate_batchnorm(model, [])
    assert torch.equal(model[0].running_mean, before)
    assert model.training and model[0].training


def test_a_failing_batch_leaves_the_modes_as_they_were() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.2))
    model.eval()
    with pytest.raises(RuntimeError):
        recalibrate_batchnorm(model, [torch.randn(8, 5)])
    assert not model[0].training and model[0].momentum == 0.2


def test_a_model_without_batch_norm_is_left_alone() -> None:
    assert recalibrate_batchnorm(nn.Linear(3, 3), [torch.randn(2, 3)]) == 0
