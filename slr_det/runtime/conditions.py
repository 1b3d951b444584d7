"""Under which conditions a program can answer for a model: plain tensors, and torch doing what it does by default."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slr_det.errors import RuntimeRefusedError


def obstacle(inputs: tuple[object, ...]) -> str | None:
    """Why the model itself has to answer, in a few words; None where a program may.

    A program reads its inputs by their addresses. What has none (sparse tensors, those of another device, of
    subclasses, of a trace or of torch.func), or has other numbers there than it shows, is torch's.
    """
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on, and the sparse runtime works in float32"
    if torch._C._get_tracing_state() is not None:
        return "it is being traced"
    for index, item in enumerate(inputs, start=1):
        if not isinstance(item, Tensor):
            return f"input {index} is no tensor"
        if item.device.type != "cpu":
            return f"input {index} is on {item.device}, and the sparse runtime works on the CPU"
        plain = (
            type(item) in (Tensor, nn.Parameter) and item.layout == torch.strided and not item.is_quantized
        )
        if not plain or item.is_neg() or item.is_conj() or not _has_address(item):
            return f"input {index} is no plain tensor"
    return None


def _has_address(tensor: Tensor) -> bool:
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


def check_numbers(model: nn.Module) -> None:
    """Refuse what the runtime has no numbers for, before anything is traced."""
    weights = list(model.named_parameters())
    for name, tensor in (*weights, *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise RuntimeRefusedError(
                f"{name} is on {tensor.device}, and the sparse runtime works on the CPU"
            )
    if weights and all(tensor.dtype != torch.float32 for _, tensor in weights):
        name, tensor = weights[0]
        kind = str(tensor.dtype).removeprefix("torch.")
        raise RuntimeRefusedError(f"{name} is {kind}, and the sparse runtime works in float32")
