"""Layers with weights, as the runtime has them: from torch's operations, and batch norms folded into them.

A batch norm in evaluation is y = s x + t with s = scale / sqrt(variance + eps), t = shift - s mean; after a layer
y = W x + c that is W' = s W and c' = s c + t for the layer's outputs. Computed in float64. Zeros stay zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slr_det.runtime.graph import Conv, Linear, Node, Norm, Opaque, Value


def conv(
    opaque: Opaque,
    source: str,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    output_padding: tuple[int, ...],
    groups: int,
    transposed: bool,
) -> Node | None:
    """A convolution from ``aten.convolution``'s arguments; None, and a reason in ``opaque``, for one we lack."""
    if weight.ndim != 4 or weight.dtype != torch.float32:
        opaque.reason = (
            f"its weights have {weight.ndim} dimensions and type {str(weight.dtype).removeprefix('torch.')}"
        )
        return None
    if transposed:
        whole = stride == tuple(weight.shape[2:]) and not any(padding) and not any(output_padding)
        if not whole or set(dilation) != {1}:
            opaque.reason = "of transposed convolutions only those are known whose kernel equals their stride"
            return None
    return Conv(
        out=opaque.out,
        inputs=(source,),
        name=opaque.layer,
        weight=weight.detach().contiguous(),
        bias=None if bias is None else bias.detach().contiguous(),
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
        transposed=transposed,
    )


def linear(opaque: Opaque, source: str, matrix: Tensor, bias: Tensor | None, value: Value) -> Node | None:
    """A linear layer from ``x @ matrix + bias`` with matrix (in, out)."""
    if matrix.dtype != torch.float32 or value.dtype != torch.float32 or 0 in value.shape:
        opaque.reason = "it does not work on float32 rows"
        return None
    return Linear(
        out=opaque.out,
        inputs=(source,),
        name=opaque.layer,
        weight=matrix.detach().t().contiguous(),
        bias=None if bias is None else bias.detach().contiguous(),
    )


def norm(
    opaque: Opaque,
    source: str,
    name: str,
    parts: tuple[Tensor | None, Tensor | None, Tensor, Tensor],
    eps: float,
) -> Norm:
    """A batch norm from its scale, shift (or None), mean and variance."""
    scale, shift, mean, variance = (None if part is None else part.detach().double() for part in parts)
    assert mean is not None and variance is not None
    slope = torch.rsqrt(variance + eps)
    if scale is not None:
        slope = slope * scale
    offset = -slope * mean
    if shift is not None:
        offset = offset + shift
    return Norm(out=opaque.out, inputs=(source,), name=name, scale=slope, shift=offset, original=opaque)


def fold(layer: Conv | Linear, norm: Norm) -> None:
    """Put a batch norm into the layer that it follows, which gets its output."""
    scale = norm.scale
    shape = [-1] + [1] * (layer.weight.ndim - 1)
    if isinstance(layer, Conv) and layer.transposed:
        # (in, out / groups, ...): the rows of a group all lead to that group's outputs.
        per_row = scale.reshape(layer.groups, 1, -1).expand(-1, layer.weight.shape[0] // layer.groups, -1)
        factor = per_row.reshape(layer.weight.shape[0], layer.weight.shape[1], 1, 1)
    else:
        factor = scale.reshape(shape)
    layer.weight = (layer.weight.double() * factor).float().contiguous()
    bias = norm.shift if layer.bias is None else norm.shift + scale * layer.bias.double()
    layer.bias = bias.float().contiguous()
    layer.out = norm.out


def as_conv(norm: Norm) -> Conv:
    """A batch norm of its own, as a convolution of 1 x 1 with one weight for each channel."""
    channels = norm.scale.numel()
    return Conv(
        out=norm.out,
        inputs=norm.inputs,
        name=norm.name,
        weight=norm.scale.float().reshape(channels, 1, 1, 1),
        bias=norm.shift.float(),
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=channels,
    )
