"""A model becomes a graph: traced on real inputs into torch's basic operations, which are then read one by one.

The trace is that of :func:`torch.fx.experimental.proxy_tensor.make_fx` on a copy of the model: whatever Python does in
between is run, with these inputs, and only what happens to tensors stays. In-place operations become functional ones.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from slr_det.errors import RuntimeRefusedError
from slr_det.runtime.fusing import fuse
from slr_det.runtime.graph import Graph
from slr_det.runtime.lowering import lower

_TENSOR = object()


@dataclass(frozen=True)
class Captured:
    """A graph, and how its flat outputs make up what the model returns.

    Attributes:
        graph: The operations.
        structure: For :func:`rebuild`.
    """

    graph: Graph
    structure: Any

    def rebuild(self, flat: list[Any]) -> Any:
        """What the model returns, from its flat outputs."""
        return pytree.tree_unflatten(flat, self.structure)


def capture(model: nn.Module, inputs: tuple[Tensor, ...]) -> Captured:
    """Trace a model in evaluation mode on real inputs; it stays as it is.

    Args:
        model: Float32, on the CPU; takes tensors by place, returns tensors in any nesting of tuples, lists and dicts.
        inputs: Inputs as they will come.

    Returns:
        The graph, batch norms folded and what can be done in one pass fused.

    Raises:
        RuntimeRefusedError: The model cannot be traced, or changes its own state when it runs.
    """
    try:
        return _capture(model, inputs)
    except RuntimeRefusedError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise RuntimeRefusedError(
            f"the model cannot be traced ({type(error).__name__}: {said}); it runs as it is, in torch"
        ) from error


def _capture(model: nn.Module, inputs: tuple[Tensor, ...]) -> Captured:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = copy.deepcopy(model)
        _settle(traced, inputs)
        state = {**dict(traced.named_parameters()), **dict(traced.named_buffers())}
        names = list(state)
        structures: list[Any] = []
        leaves: list[Any] = []

        def run(tensors: list[Tensor], arguments: list[Tensor]) -> list[Tensor]:
            by_name = dict(zip(names, tensors, strict=True))
            with _FlatLinear():
                result = torch.func.functional_call(traced, by_name, tuple(arguments))
            flat, structure = pytree.tree_flatten(result)
            structures.append(structure)
            leaves[:] = [_TENSOR if isinstance(item, Tensor) else item for item in flat]
            return [item for item in flat if isinstance(item, Tensor)]

        functional: Callable[..., Any] = torch.func.functionalize(run)
        tensors = [state[name].detach() for name in names]
        module = make_fx(functional, tracing_mode="real")(tensors, [tensor.clone() for tensor in inputs])
    graph = lower(module, names, tensors)
    produced = iter(graph.outputs)
    graph.outputs = tuple(next(produced) if leaf is _TENSOR else leaf for leaf in leaves)
    fuse(graph)
    return Captured(graph, structures[-1])


def _settle(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Let a model remember what it does by its inputs' size, such as anchors, now and not while it is traced.

    Raises:
        RuntimeRefusedError: It changes its parameters or buffers every time: a trace would hold one moment of them.
    """
    for _ in range(2):
        before = _state(model)
        model(*(tensor.clone() for tensor in inputs))
        after = _state(model)
        if before.keys() == after.keys() and all(
            tensor is after[name][0] and version == after[name][1]
            for name, (tensor, version) in before.items()
        ):
            return
    raise RuntimeRefusedError("the model changes its own state when it runs; it runs in torch")


def _state(model: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """Parameters and buffers, and how often each was written; torch does not count that for inference tensors."""
    return {
        name: (tensor, 0 if is_lazy(tensor) or tensor.is_inference() else tensor._version)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


class _FlatLinear(TorchFunctionMode):
    """Linear layers always see rows: torch's own choice among three forms depends on strides."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.linear and args and isinstance(args[0], Tensor) and args[0].ndim > 2:
            first, *rest = args
            rows = func(first.reshape(-1, first.shape[-1]), *rest, **kwargs)
            return rows.reshape(*first.shape[:-1], rows.shape[-1])
        return func(*args, **kwargs)
