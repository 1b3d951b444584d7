"""Whether a program answers as the model does: on the user's inputs, and on random ones in their range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

#: Largest difference that counts as the same; relative to the largest output where that exceeds 1.
TOLERANCE = 1e-4


def difference(expected: Any, found: Any) -> str | None:
    """What differs between two nestings of outputs, in a few words; None where they agree to 1e-4.

    Floating-point outputs are compared by the largest difference, all others exactly. Infinities and NaN have to stand
    in the same places.
    """
    (one, structure), (other, other_structure) = pytree.tree_flatten(expected), pytree.tree_flatten(found)
    if structure != other_structure:
        return "it returns another structure of outputs"
    for index, (a, b) in enumerate(zip(one, other, strict=True)):
        said = _tensors(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else _others(a, b)
        if said is not None:
            return f"output {index + 1} of {len(one)} {said}"
    return None


def _others(a: Any, b: Any) -> str | None:
    same = type(a) is type(b) and not isinstance(a, Tensor) and a == b
    return None if same else "is another one"


def _tensors(a: Tensor, b: Tensor) -> str | None:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"is {b.dtype} {tuple(b.shape)} and should be {a.dtype} {tuple(a.shape)}"
    if not a.is_floating_point():
        return None if torch.equal(a, b) else "has other numbers"
    if a.numel() == 0:
        return None
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)) or not torch.equal(_marks(a), _marks(b)):
        return "has infinities or NaN at other places"
    a, b = torch.where(finite, a, 0.0).double(), torch.where(finite, b, 0.0).double()
    most = float((a - b).abs().max())
    allowed = TOLERANCE * max(1.0, float(a.abs().max()))
    return None if most <= allowed else f"differs by {most:.2g}, more than {allowed:.2g}"


def _marks(tensor: Tensor) -> Tensor:
    """1 and -1 at infinities, 2 at NaN, 0 elsewhere."""
    return torch.isposinf(tensor).int() - torch.isneginf(tensor).int() + 2 * torch.isnan(tensor).int()


def random_like(inputs: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Floating-point inputs in the range of given ones; all others as they are."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = []
    for tensor in inputs:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            drawn.append(tensor)
            continue
        low, high = float(tensor.min()), float(tensor.max())
        if not low < high:
            low, high = low - 1.0, low + 1.0
        numbers = torch.rand(tensor.shape, generator=generator, dtype=torch.float32, device="cpu")
        drawn.append((low + (high - low) * numbers).to(tensor.dtype))
    return tuple(drawn)


def verify(
    model: nn.Module, run: Callable[[tuple[Tensor, ...]], Any], inputs: tuple[Tensor, ...]
) -> str | None:
    """What differs between a model and its program on given inputs and on random ones; None where nothing does."""
    for which, tried in (("the given inputs", inputs), ("random inputs", random_like(inputs, 0))):
        with torch.no_grad():
            expected = model(*(tensor.clone() for tensor in tried))
        said = difference(expected, run(tried))
        if said is not None:
            return f"on {which}, {said}"
    return None
