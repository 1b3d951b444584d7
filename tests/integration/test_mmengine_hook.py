"""SLRHook in real Runners: the gradient it adds, the zeros it holds, what validation sees, what it refuses."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmengine", reason='needs mmengine: uv pip install "slr-det[classify]"')

import mmengine_runs as runs
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from slr_det import methods
from slr_det.adapter import EngineSpec
from slr_det.errors import ConfigError, NumericsError
from slr_det.groups import GroupSpec
from slr_det.projections import Projection
from slr_det_adapters.mmengine import SLRHook

KEPT = round(0.3 * runs.BODY)
VALIDATION = {"val_dataloader": runs.loader(False), "val_evaluator": {"type": "Right"}}


def spec(method: str = "slr", iterations: int = 3, **hyper: Any) -> dict[str, Any]:
    group = GroupSpec("body", ("body.weight",), 0.3, Projection("unstructured"))
    return EngineSpec(method, iterations, (group,), hyper).to_dict()


# -- the gradient ---------------------------------------------------------------------------------------------


class Gradients(Hook):  # type: ignore[misc]
    """Gives the engine arbitrary multipliers, and notes batches and what the first optimizer step is given."""

    priority = "LOWEST"

    def __init__(self, hook: SLRHook) -> None:
        self.hook = hook
        self.batches: list[Any] = []
        self.found: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        assert self.hook.engine is not None
        generator = torch.Generator().manual_seed(11)
        for tensor in self.hook.engine.state.multipliers.values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        runner.optim_wrapper.optimizer.register_step_pre_hook(self._note(runner))

    def _note(self, runner: Runner) -> Any:
        def note(*args: Any) -> None:
            if not self.found:
                self.found = {n: p.grad.clone() for n, p in runner.model.named_parameters()}

        return note

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append(data_batch)


def reference(model: runs.Tiny, hook: SLRHook, batches: list[Any], scale: float = 1.0) -> dict[str, Tensor]:
    """Autograd on the mean loss of the batches plus the second part of equation (4), written out."""
    assert hook.engine is not None
    rho, state = hook.engine.hyper.rho, hook.engine.state
    loss: Any = sum(model(*batch, mode="loss")["loss"] for batch in batches) / len(batches)
    gap = model.body.weight - state.z["body.weight"]
    loss = loss + scale * ((state.multipliers["body.weight"] * gap).sum() + 0.5 * rho * (gap**2).sum())
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def one_epoch(folder: Path, optim_wrapper: Any, **changes: Any) -> tuple[Gradients, runs.Tiny, SLRHook]:
    """Train one epoch; the notes, the model as it was at the start, and the hook."""
    scale = changes.pop("loss_scale", 1.0)
    start = runs.tiny(drop=0.0, loss_scale=scale)
    hook = SLRHook(engine=spec(iterations=1, rho=0.4), loss_scale=scale, prune_at_end=False)
    notes = Gradients(hook)
    model = runs.tiny(drop=0.0, loss_scale=scale)
    if callable(optim_wrapper):
        optim_wrapper = optim_wrapper(model)
    runs.make(folder, hook, notes, model=model, optim_wrapper=optim_wrapper, epochs=1, **changes).train()
    start.train()
    return notes, start, hook


def first_state(hook: SLRHook, notes: Gradients, model: runs.Tiny) -> None:
    """Z and multipliers as they were in the first iteration: the hook's have moved on."""
    assert hook.engine is not None
    z = hook.engine.groups[0].projection.project([model.body.weight.detach()], 0.3)[0]
    hook.engine.state.z["body.weight"].copy_(z)
    generator = torch.Generator().manual_seed(11)
    lam = hook.engine.state.multipliers["body.weight"]
    lam.copy_(torch.randn(lam.shape, generator=generator))


@pytest.mark.parametrize(
    ("changes", "batches", "loss_scale"),
    [({}, 1, 1.0), ({"accumulative_counts": 2}, 2, 1.0), ({"accumulative_counts": 4}, 4, 8.0)],
    ids=["one batch", "two batches accumulated", "four batches, a loss that is scaled by 8"],
)
def test_the_gradient_is_that_of_the_lagrangian(
    changes: dict[str, Any], batches: int, loss_scale: float, tmp_path: Path
) -> None:
    notes, model, hook = one_epoch(tmp_path, runs.sgd(**changes), loss_scale=loss_scale)
    first_state(hook, notes, model)
    expected = reference(model, hook, notes.batches[:batches], loss_scale)
    for name, gradient in expected.items():
        torch.testing.assert_close(notes.found[name], gradient, rtol=1e-4, atol=1e-6)
    without = {**expected, "body.weight": expected["body.weight"] * 0}
    assert not torch.allclose(notes.found["body.weight"], without["body.weight"], atol=1e-3)


def test_clipping_counts_the_penalty(tmp_path: Path) -> None:
    notes, model, hook = one_epoch(tmp_path, runs.sgd(clip_grad={"max_norm": 0.5}))
    first_state(hook, notes, model)
    expected = reference(model, hook, notes.batches[:1])
    norm = torch.sqrt(sum((g**2).sum() for g in expected.values()))
    assert norm > 1.0
    for name, gradient in expected.items():
        torch.testing.assert_close(notes.found[name], gradient * 0.5 / norm, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("counts", [1, 2])
def test_a_gradient_scaler_scales_the_penalty_with_the_loss(
    counts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmengine's own wrapper for mixed precision, made to run here: it asks for a GPU."""
    module = "mmengine.optim.optimizer.amp_optimizer_wrapper"
    monkeypatch.setattr(f"{module}.is_cuda_available", lambda: True)
    monkeypatch.setattr(f"{module}.GradScaler", functools.partial(torch.amp.GradScaler, "cpu"))

    def scaled(model: nn.Module) -> OptimWrapper:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return AmpOptimWrapper(
            loss_scale=512.0,
            dtype="bfloat16",
            optimizer=optimizer,
            accumulative_counts=counts,
            clip_grad={"max_norm": 1e9},
        )

    notes, model, hook = one_epoch(tmp_path, scaled)
    first_state(hook, notes, model)
    expected = reference(model, hook, notes.batches[:counts])
    # The forward pass is in bfloat16 with three digits; the penalty, which is most of this gradient, is not.
    torch.testing.assert_close(notes.found["body.weight"], expected["body.weight"], rtol=2e-2, atol=5e-3)


def test_gradients_are_not_accumulated_over_the_end_of_an_iteration(tmp_path: Path) -> None:
    """Six batches, two iterations, windows of two: each iteration ends with a window of one batch."""
    at: list[int] = []

    class Steps(Hook):  # type: ignore[misc]
        def before_train(self, runner: Runner) -> None:
            runner.optim_wrapper.optimizer.register_step_pre_hook(lambda *args: at.append(runner.iter + 1))

    hook = SLRHook(engine=spec(iterations=4), iterations_per_epoch=2)
    runs.make(tmp_path, hook, Steps(), optim_wrapper=runs.sgd(accumulative_counts=2), epochs=2).train()
    assert [record["step"] for record in hook.history] == [3, 6, 9, 12]
    assert at == [2, 3, 5, 6, 8, 9, 11, 12]


# -- methods and zeros ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", methods.names())
def test_every_method_ends_at_the_exact_count(method: str, tmp_path: Path) -> None:
    hook = SLRHook(engine=spec(method))
    runner = runs.make(tmp_path, hook)
    runner.train()
    assert len(hook.history) == 3
    average = next(h.ema_model.module for h in runner.hooks if isinstance(h, EMAHook))
    pruned = torch.load(tmp_path / "pruned.pth")["state_dict"]
    for weight in (runner.model.body.weight, average.body.weight, pruned["body.weight"]):
        assert int(weight.count_nonzero()) == KEPT
    # With an average in the run, the file holds that, as mmengine's own checkpoints do.
    assert all(torch.equal(pruned[name], value) for name, value in average.state_dict().items())


class Revived(Hook):  # type: ignore[misc]
    """Counts, after every step, weights outside the masks that are not zero, in the model and in the average."""

    priority = 85

    def __init__(self, hook: SLRHook) -> None:
        self.hook = hook
        self.counts: list[int] = []
        self.masked: list[int] = []

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        masks = self.hook.masks.masks if self.hook.masks else self.hook.engine.state.masks  # type: ignore[union-attr]
        average = next(h.ema_model.module for h in runner.hooks if isinstance(h, EMAHook))
        named = (dict(runner.model.named_parameters()), dict(average.named_parameters()))
        self.counts.append(
            sum(int(n[name][~mask].count_nonzero()) for n in named for name, mask in masks.items())
        )
        self.masked.append(sum(int((~mask).sum()) for mask in masks.values()))


@pytest.mark.parametrize(
    "arguments", [{"engine": spec("gradual")}, {"engine": spec("oneshot")}, {"keep_zeros": True}]
)
def test_no_pruned_weight_comes_back(arguments: dict[str, Any], tmp_path: Path) -> None:
    """Momentum, weight decay and the average all would bring it back."""
    hook = SLRHook(**arguments)
    model = runs.tiny(zeros="keep_zeros" in arguments)
    revived = Revived(hook)
    runs.make(tmp_path, hook, revived, model=model).train()
    assert revived.counts == [0] * 3 * runs.STEPS
    assert revived.masked[-1] >= runs.BODY / 2


def test_zeros_are_masked_in_every_weight_that_has_some(tmp_path: Path) -> None:
    model = runs.tiny()
    with torch.no_grad():
        model.fc.weight[0, 0] = 0
        model.fc.bias.zero_()  # biases are not weights that were pruned
    hook = SLRHook(keep_zeros=True)
    runner = runs.make(tmp_path, hook, model=model)
    runner.train()
    assert hook.masks is not None and list(hook.masks.masks) == ["fc.weight"]
    assert runner.model.fc.weight[0, 0] == 0 and runner.model.fc.weight.count_nonzero() == 23
    assert runner.model.fc.bias.all()


# -- selection, iterations, configuration ---------------------------------------------------------------------


def test_a_target_over_the_whole_model_is_reached(tmp_path: Path) -> None:
    hook = SLRHook(compression=2.5, dense_first=False, method="admm", exclude=["fc.*"])
    runner = runs.make(tmp_path, hook)
    runner.train()
    parameters = list(runner.model.parameters())
    nonzero = sum(int(p.count_nonzero()) for p in parameters)
    total = sum(p.numel() for p in parameters)
    assert 2.5 <= total / nonzero < 2.53


def test_frozen_weights_stay_dense(tmp_path: Path) -> None:
    model = runs.tiny()
    model.body.weight.requires_grad_(False)
    hook = SLRHook(keep=0.5)
    runs.make(tmp_path, hook, model=model).train()
    assert hook.engine is not None
    assert [name for group in hook.engine.groups for name in group.names] == ["fc.weight"]


@pytest.mark.parametrize(
    ("loop", "arguments", "steps"),
    [
        ({"by_epoch": True, "max_epochs": 2}, {}, [6, 12]),
        ({"by_epoch": True, "max_epochs": 2}, {"iterations_per_epoch": 4}, [2, 3, 5, 6, 8, 9, 11, 12]),
        ({"by_epoch": True, "max_epochs": 2}, {"iterations": 5}, [2, 5, 7, 10, 12]),
        ({"by_epoch": False, "max_iters": 10}, {"iterations": 4}, [3, 5, 8, 10]),
    ],
)
def test_iterations_are_spread_evenly(
    loop: dict[str, Any], arguments: dict[str, Any], steps: list[int], tmp_path: Path
) -> None:
    hooks = [{"type": "SLRHook", "keep": 0.3, **arguments}]
    data = runs.loader(
        sampler={"type": "DefaultSampler" if loop["by_epoch"] else "InfiniteSampler", "shuffle": True}
    )
    runner = Runner.from_cfg(
        runs.config(tmp_path, train_cfg=loop, custom_hooks=hooks, param_scheduler=None, train_dataloader=data)
    )
    runner.train()
    history = next(hook for hook in runner.hooks if isinstance(hook, SLRHook)).history
    assert [record["step"] for record in history] == steps
    assert [record.get("epoch") for record in history] == [
        (step - 1) // 6 + 1 if loop["by_epoch"] else None for step in steps
    ]


def test_a_configuration_file_is_enough(tmp_path: Path) -> None:
    from mmengine.config import Config

    text = """
    custom_imports = dict(imports=['slr_det_adapters.mmengine'], allow_failed_imports=False)
    custom_hooks = [dict(type='SLRHook', keep=0.3, projection=dict(name='block', rows=2, cols=2), exclude=['fc.*'],
                         allocation='erk', hyper=dict(rho=0.2))]
    default_hooks = dict(checkpoint=dict(type='SafeCheckpointHook', interval=1))
    """
    file = tmp_path / "config.py"
    file.write_text("\n".join(line.strip() for line in text.splitlines()))
    base = runs.config(tmp_path / "run")
    del base["custom_hooks"]
    written = Config.fromfile(str(file))
    written.merge_from_dict(base)
    runner = Runner.from_cfg(written)
    runner.train()
    assert (tmp_path / "run" / "pruned.pth").is_file()


# -- validation -----------------------------------------------------------------------------------------------


class Look(Hook):  # type: ignore[misc]
    """Notes the model's weights before, during and after validation."""

    def __init__(self) -> None:
        self.before: list[Tensor] = []
        self.during: list[Tensor] = []
        self.after: list[Tensor] = []

    def after_train_epoch(self, runner: Runner) -> None:
        self.before.append(runner.model.body.weight.detach().clone())

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx == 0:
            self.during.append(runner.model.body.weight.detach().clone())

    def after_val(self, runner: Runner) -> None:
        self.after.append(runner.model.body.weight.detach().clone())


@pytest.fixture
def best(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Settings under which a checkpoint hook also writes the best weights, from within validation."""
    yield {
        "default_hooks": {
            "checkpoint": {"type": "CheckpointHook", "interval": 1, "save_best": "test/accuracy"}
        },
        "val_dataloader": runs.loader(False),
        "val_cfg": {},
        "val_evaluator": {"type": "Right"},
    }


@pytest.mark.parametrize("average", [True, False])
def test_validation_sees_the_pruned_model_and_training_does_not(
    average: bool, best: dict[str, Any], tmp_path: Path
) -> None:
    hooks = runs.config(tmp_path)["custom_hooks"][: 2 if average else 1]
    runner = Runner.from_cfg(runs.config(tmp_path, custom_hooks=hooks, **best))
    look = Look()
    runner.register_hook(look)
    runner.train()
    assert [int(w.count_nonzero()) for w in look.during] == [KEPT] * 3
    assert all(torch.equal(a, b) for a, b in zip(look.before, look.after, strict=True))
    assert [int(w.count_nonzero()) for w in look.before] == [runs.BODY] * 3
    if average:
        assert not torch.equal(look.during[0][look.during[0] != 0], look.before[0][look.during[0] != 0])
    hook = next(hook for hook in runner.hooks if isinstance(hook, SLRHook))
    assert all(record["metric"].keys() == {"test/accuracy"} for record in hook.history)
    # The checkpoints that are written from within validation hold the weights of training.
    saved = torch.load(tmp_path / "epoch_1.pth")
    weights = saved["ema_state_dict"]["module.body.weight"] if average else saved["state_dict"]["body.weight"]
    assert torch.equal(weights, look.before[0])
    kept = torch.load(next(tmp_path.glob("best_*.pth")))
    assert int(kept["state_dict"]["body.weight"].count_nonzero()) == runs.BODY
    assert "slr_det" not in kept


def test_validation_can_see_the_weights_as_they_are(tmp_path: Path) -> None:
    look = Look()
    runs.make(tmp_path, runs.slr(validate_pruned=False), look, **VALIDATION).train()
    assert [int(w.count_nonzero()) for w in look.during] == [runs.BODY] * 3


# -- bad numbers ----------------------------------------------------------------------------------------------


class Poison(Hook):  # type: ignore[misc]
    def __init__(self, step: int, infinite: bool = False) -> None:
        self.step = step
        self.infinite = infinite

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter + 1 == self.step:
            with torch.no_grad():
                runner.model.body.weight[0, 0, 0, 0] = float("inf" if self.infinite else "nan")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, r"'body.weight'.*iteration 2"),
        ({"keep_zeros": True}, r"'\w+.weight' holds a NaN or an infinity after step 12"),
        ({"method": None}, r"'\w+.weight' holds a NaN or an infinity after step 12"),
    ],
)
def test_a_bad_number_ends_the_run_before_it_is_saved(
    arguments: dict[str, Any], match: str, tmp_path: Path
) -> None:
    model = runs.tiny(zeros="keep_zeros" in arguments)
    with pytest.raises(NumericsError, match=match):
        runs.make(tmp_path, runs.slr(**arguments), Poison(8), model=model).train()
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["epoch_1.pth"]
    assert torch.load(tmp_path / "epoch_1.pth")["state_dict"]["body.weight"].isfinite().all()


def test_a_bad_number_is_not_saved_in_the_middle_of_an_iteration(tmp_path: Path) -> None:
    hooks = [{"type": "SLRHook", "keep": 0.3, "iterations": 1}]
    checkpoint = {"type": "CheckpointHook", "by_epoch": False, "interval": 2}
    runner = Runner.from_cfg(
        runs.config(
            tmp_path,
            train_cfg={"by_epoch": False, "max_iters": 8},
            custom_hooks=hooks,
            default_hooks={"checkpoint": checkpoint},
        )
    )
    runner.register_hook(Poison(6))
    with pytest.raises(NumericsError, match=r"'\w+.\w+' holds a NaN or an infinity after step 6"):
        runner.train()
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["iter_2.pth", "iter_4.pth"]


def test_a_loss_that_is_not_a_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        runs.Tiny, "forward", lambda self, *args, **kwargs: {"loss": 0.0 * self.fc.bias.sum() + float("inf")}
    )
    with pytest.raises(NumericsError, match="the training loss is inf in iteration 1"):
        runs.make(tmp_path / "a", runs.slr()).train()
    with pytest.raises(NumericsError, match="the training loss is inf after step 6"):
        runs.make(tmp_path / "b", runs.slr(method=None)).train()


# -- what is refused ------------------------------------------------------------------------------------------

SPEC = spec()


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        ({"compresion": 3, "keep": 0.3}, ["no argument 'compresion' (did you mean 'compression'?)"]),
        ({"method": "slrr", "keep": 0.3}, ["method is 'slrr'", "did you mean 'slr'"]),
        ({"keep": 0.3, "compression": 3}, ["compression and keep are both given"]),
        (
            {"keep": 0.3, "projection": "unstructred", "allocation": "unifrm", "hyper": {"roh": 1, "M": 0}},
            [
                "unknown projection 'unstructred'",
                "did you mean 'uniform'",
                "did you mean 'rho'",
                "hyper: M is 0",
            ],
        ),
        (
            {"keep": 0.3, "iterations_per_epoch": 0, "fixed_batches": 1.5},
            ["iterations_per_epoch is 0", "fixed_batch"],
        ),
        (
            {"keep": 0.3, "include": "a.*", "reseed": 1, "loss_scale": 0},
            ["include is 'a.*'", "reseed is 1", "loss_sc"],
        ),
        ({"keep": 0.3, "iterations": 3, "iterations_per_epoch": 2}, ["iterations and iterations_per_epoch"]),
        ({"engine": SPEC, "keep": 0.3}, ["engine decides the groups already; remove keep"]),
        ({"engine": {"method": "slr"}}, ["engine is not what EngineSpec.to_dict() returns"]),
        ({"engine": {**SPEC, "method": "slrr"}}, ["method is 'slrr'"]),
        ({"engine": {**SPEC, "hyper": {"roh": 1}}}, ["did you mean 'rho'"]),
        ({"keep_zeros": True, "keep": 0.3, "method": "admm"}, ["keep_zeros", "remove method, keep"]),
        ({"method": None, "compression": 2}, ["method is None", "remove compression"]),
    ],
)
def test_wrong_arguments_are_named_together(arguments: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        SLRHook(**arguments)
    message = str(raised.value)
    assert "\n" not in message
    for problem in problems:
        assert problem in message


@pytest.mark.parametrize(
    ("arguments", "changes", "match"),
    [
        ({}, {}, r"nothing says how much to prune; give compression \(such as 3.33x\), keep, ratios or"),
        (
            {"keep": 0.3, "heads": ["fc.wieght"]},
            {},
            r"heads: 'fc.wieght' matches no layer of the model .did you mean 'fc.weight'",
        ),
        ({"keep": 0.3, "include": ["boby*"]}, {}, r"'boby\*'"),
        ({"compression": 100}, {}, r"100"),
        ({"keep": 0.3, "iterations_per_epoch": 7}, {}, r"21 iterations do not fit into 18 steps"),
        ({"engine": spec(iterations=5)}, {}, r"engine has 5 iterations and the training loop gives 3"),
        ({"keep_zeros": True}, {}, r"keep_zeros is set, but no weight of the model is zero"),
        ({"keep": 0.3}, {"train_cfg": {"by_epoch": False, "max_iters": 9}}, r"no epochs .* iterations=N"),
    ],
)
def test_what_the_model_or_the_loop_rules_out_is_said_before_training(
    arguments: dict[str, Any], changes: dict[str, Any], match: str, tmp_path: Path
) -> None:
    runner = Runner.from_cfg(
        runs.config(tmp_path, custom_hooks=[{"type": "SLRHook", **arguments}], **changes)
    )
    with pytest.raises(ConfigError, match=match) as raised:
        runner.train()
    assert "\n" not in str(raised.value)
    assert runner.iter == 0


def test_hooks_in_an_order_that_breaks_masks_or_checkpoints_are_refused(tmp_path: Path) -> None:
    hooks = runs.config(tmp_path)["custom_hooks"]
    early, late = [{**hooks[0], "priority": "HIGH"}, hooks[1]], [{**hooks[0], "priority": "LOWEST"}]
    for given, match in (
        (early, "EMAHook runs after SLRHook"),
        (late, "CheckpointHook runs before SLRHook"),
        ([hooks[0], hooks[0]], "more than one SLRHook"),
    ):
        with pytest.raises(ConfigError, match=match):
            Runner.from_cfg(runs.config(tmp_path, custom_hooks=given)).train()


def test_several_optimizers_are_refused(tmp_path: Path) -> None:
    model = runs.tiny()
    parts = OptimWrapperDict(
        body=OptimWrapper(torch.optim.SGD(model.body.parameters(), lr=0.1)),
        fc=OptimWrapper(torch.optim.SGD(model.fc.parameters(), lr=0.1)),
    )
    arguments = runs.config(tmp_path, model=model, optim_wrapper=parts, param_scheduler=None)
    with pytest.raises(ConfigError, match=r"the run has 2 optimizers \(body, fc\); SLRHook needs one"):
        Runner(**arguments).train()


def test_a_pruned_weight_that_is_not_trained_is_refused(tmp_path: Path) -> None:
    model = runs.tiny()
    model.body.weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"'body.weight' would be pruned, but is frozen"):
        runs.make(tmp_path, SLRHook(engine=spec()), model=model).train()


def test_the_optimizer_is_left_as_it_was(tmp_path: Path) -> None:
    runner = runs.make(tmp_path, runs.slr())
    runner.train()
    assert "update_params" not in vars(runner.optim_wrapper)
