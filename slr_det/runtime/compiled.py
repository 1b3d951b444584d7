"""A model that runs in the sparse runtime where that is faster, with the same outputs."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from slr_det.errors import ConfigError, RuntimeRefusedError, RuntimeUnavailableError, nearest
from slr_det.runtime import checking, choosing, conditions, table
from slr_det.runtime.capture import Captured, capture
from slr_det.runtime.choosing import Choices
from slr_det.runtime.handles import Pool
from slr_det.runtime.library import Library, load
from slr_det.runtime.plan import make_plan
from slr_det.runtime.program import Program
from slr_det.runtime.table import Row
from slr_det.runtime.tuning import race

CHOICES = ("measure", "sparse", "dense")
#: Programs for so many shapes of inputs are kept; the one not used for longest goes first.
SHAPES = 4
#: More than any machine has, and few enough to be started.
MOST_THREADS = 1024

_Key = tuple[tuple[torch.Size, torch.dtype], ...]
_Pair = tuple[Captured, Program]


def compile(
    model: nn.Module,
    *inputs: Tensor,
    threads: int | None = None,
    choose: str = "measure",
    verify: bool = True,
) -> CompiledModule:
    """Make a pruned model fast on this CPU.

    The model is traced on the inputs; each convolution and linear layer then runs in the sparse runtime or in torch,
    whichever is faster here. Its weights are copied: what is done to the model afterwards is not seen. Inputs of other
    shapes are traced and verified when they first come.

    Args:
        model: In evaluation mode, float32, on the CPU; takes tensors by place and returns tensors in any nesting of
            tuples, lists and dicts.
        *inputs: Inputs as they will come, batch included. Real ones: the outputs are compared on them.
        threads: CPU threads of the runtime; by default as many as torch has.
        choose: ``measure`` times each layer both ways (remembered in the user's cache), ``sparse`` runs all layers in
            the runtime, ``dense`` leaves the model as it is.
        verify: Compare with the model's own outputs, on the inputs and on random ones, to 1e-4 (relative to the
            largest output where that exceeds 1). Where they differ, the model runs as it is.

    Returns:
        The module. Where the runtime cannot run the model, or would not gain, it runs the model itself, and
        ``reason`` says why.

    Raises:
        ConfigError: The model is in training mode, an input is no tensor, or a word or number is not one of these.
    """
    _check(model, inputs, threads, choose)
    compiled = CompiledModule(model, threads or torch.get_num_threads(), choose, verify)
    compiled.prepare(inputs)
    return compiled


def _check(model: nn.Module, inputs: tuple[Any, ...], threads: int | None, choose: str) -> None:
    if choose not in CHOICES:
        raise ConfigError(
            f"choose is '{choose}', expected one of {', '.join(CHOICES)}{nearest(choose, CHOICES)}"
        )
    whole = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (whole and 1 <= threads <= MOST_THREADS):
        raise ConfigError(f"threads is {threads}, expected a whole number from 1 to {MOST_THREADS:,}")
    if not inputs:
        raise ConfigError(
            "no inputs are given; give tensors as the model will get them: compile(model, images)"
        )
    for index, item in enumerate(inputs, start=1):
        if not isinstance(item, Tensor):
            raise ConfigError(f"input {index} is {type(item).__name__}, expected a tensor")
    if model.training:
        raise ConfigError(
            "the model is in training mode; call model.eval() first: a compiled one is for inference"
        )


class CompiledModule(nn.Module):
    """A model and its programs; :func:`compile` makes it. Many threads may call it; their runs wait for each other.

    Attributes:
        model: The model as it was given.
        threads: CPU threads of the runtime.
        table: What became of each layer.
        reason: Why the whole model runs as it is, in torch; an empty string where it does not.
    """

    _programs: OrderedDict[_Key, _Pair | None]
    _pool: Pool | None
    _lock: threading.Lock
    _making: threading.Lock
    _process: int

    def __init__(self, model: nn.Module, threads: int, choose: str, verify: bool) -> None:
        super().__init__()
        self.model = model
        self.threads = threads
        self.table: list[Row] = []
        self.reason = ""
        self._choose, self._verify = choose, verify
        self._choices: dict[choosing.Key, bool] | None = None
        self._forget()
        self.training = False  # of this module alone: the model's parts stay as they are

    def forward(self, *inputs: Tensor) -> Any:
        """The model's outputs, as new tensors without gradients."""
        program = None if self.reason else self._program(inputs)
        if program is None:
            with torch.no_grad():
                return self.model(*inputs)
        return _run(program, inputs)

    def train(self, mode: bool = True) -> CompiledModule:
        """Stay in evaluation mode: a compiled model cannot be trained."""
        return super().train(False)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights into the model; programs are made anew, with the choices that were made."""
        try:
            return super().load_state_dict(*args, **kwargs)
        finally:
            self._programs.clear()

    def _apply(self, *args: Any, **kwargs: Any) -> CompiledModule:
        """What ``to``, ``double`` and their like do to weights; programs are made anew."""
        try:
            return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call,no-any-return]
        finally:
            self._programs.clear()

    def report(self) -> str:
        """The table as text, its first line the result."""
        return table.report(self.table, self.reason, self.threads)

    @property
    def bytes(self) -> int:
        """Memory of the packed weights, of what lies between layers and of the workspaces, for all kept shapes."""
        return sum(program.bytes for _, program in self._kept())

    @property
    def weight_bytes(self) -> int:
        """Memory of the packed sparse weights for the shape that was used last; 0 where the model runs in torch."""
        kept = self._kept()
        return kept[-1][1].packed_bytes if kept else 0

    # -- programs -----------------------------------------------------------------------------------------

    def prepare(self, inputs: tuple[Tensor, ...]) -> None:
        """Choose how each layer runs, by these inputs, and make the program for their shapes."""
        try:
            with torch.inference_mode(False):  # what lies between layers is written in every run, in any mode
                self._prepare(inputs)
        except (RuntimeUnavailableError, RuntimeRefusedError, MemoryError) as error:
            self._stay_dense(str(error))

    def _prepare(self, inputs: tuple[Tensor, ...]) -> None:
        if self._choose == "dense":
            self._stay_dense("choose is 'dense'")
            return
        library = load()
        found = conditions.obstacle(inputs)
        if found is not None:
            raise RuntimeRefusedError(found)
        conditions.check_numbers(self.model)
        captured = capture(self.model, inputs)
        choices, program = self._best(captured, library)
        others = table.unsupported(captured.graph)
        self.table = [*choices.rows, *others]
        if program is None:
            self._stay_dense(_too_dense(choices))
            return
        pair = (captured, program)
        if self._verify:
            said = checking.verify(self.model, lambda tensors: _run(pair, tensors), inputs)
            if said is not None:
                self._stay_dense(f"the runtime's result is not the model's: {said}")
                return
        if self._choose == "measure":
            theirs, ours = self._race(inputs, pair)
            if ours >= theirs:
                self._stay_dense(
                    f"the whole model takes {ours * 1000:.2f} ms in the runtime and {theirs * 1000:.2f} ms in torch"
                )
                return
        self._choices = choices.dense
        choosing.release(captured.graph, program.plan)
        self._programs[_key(inputs)] = pair

    def _best(self, captured: Captured, library: Library) -> tuple[Choices, Program | None]:
        """The choices, and the program for them; None where no layer gains."""
        graph = captured.graph
        if self._choose == "sparse":
            choices = choosing.all_alike(graph, dense=False, reason="choose is 'sparse'")
            return choices, self._make(captured, choices.dense, library) if choices.rows else None
        choices = choosing.measured(graph, library, self._threads(library))
        if not choices.any_sparse:
            return choices, None
        return choices, self._make(captured, choices.dense, library)

    def _make(self, captured: Captured, dense: dict[choosing.Key, bool], library: Library) -> Program:
        graph = captured.graph
        plan = make_plan(graph, choosing.by_output(graph, dense))
        return Program(graph, plan, library, self._threads(library), self._lock)

    def _race(self, inputs: tuple[Tensor, ...], pair: _Pair) -> tuple[float, float]:
        def dense() -> None:
            with torch.no_grad():
                self.model(*inputs)

        return race(dense, lambda: _run(pair, inputs), budget=1.0)

    def _stay_dense(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        self._programs.clear()

    def _program(self, inputs: tuple[Any, ...]) -> _Pair | None:
        """The program for inputs of these shapes, made where there is none; None where the model itself has to run."""
        if conditions.obstacle(inputs) is not None:
            return None
        if self._process != os.getpid():
            self._forget()  # threads do not survive a fork
        key = _key(inputs)
        with self._making:
            if key not in self._programs:
                self._programs[key] = self._for_shapes(inputs)
                while len(self._programs) > SHAPES:
                    self._programs.popitem(last=False)
            self._programs.move_to_end(key)
            return self._programs[key]

    @torch.inference_mode(False)
    def _for_shapes(self, inputs: tuple[Tensor, ...]) -> _Pair | None:
        try:
            library = load()
            captured = capture(self.model, inputs)
            pair = (captured, self._make(captured, self._choices or {}, library))
        except (RuntimeUnavailableError, RuntimeRefusedError, MemoryError):
            return None
        if (
            self._verify
            and checking.verify(self.model, lambda tensors: _run(pair, tensors), inputs) is not None
        ):
            return None
        choosing.release(captured.graph, pair[1].plan)
        return pair

    def _threads(self, library: Library) -> Pool | None:
        if self.threads > 1 and self._pool is None:
            self._pool = library.pool(self.threads)
        return self._pool

    def _kept(self) -> list[_Pair]:
        return [pair for pair in self._programs.values() if pair is not None]

    def _forget(self) -> None:
        self._programs = OrderedDict()
        self._pool = None
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Without programs and threads: a copy, or another process, makes its own when it is first called."""
        own = ("_programs", "_pool", "_lock", "_making", "_process")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._forget()


def _run(pair: _Pair, inputs: tuple[Tensor, ...]) -> Any:
    captured, program = pair
    return captured.rebuild(program.run(tuple(tensor.detach().contiguous() for tensor in inputs)))


def _key(inputs: tuple[Tensor, ...]) -> _Key:
    return tuple([(tensor.shape, tensor.dtype) for tensor in inputs])


def _too_dense(choices: Choices) -> str:
    if not choices.rows:
        return "it has no convolution in two dimensions and no linear layer"
    if all(row.sparse_seconds is None for row in choices.rows):
        return (
            f"sparsity is too low to gain: every layer keeps more than {choosing.DENSEST:.0%} of its weights"
        )
    return "sparsity is too low to gain: no layer is faster in the runtime"
