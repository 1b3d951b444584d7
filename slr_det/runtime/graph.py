"""What the runtime makes of a model: values, and the few kinds of operations that it knows, the others left to torch.

A graph is functional: every value is written once, and no operation changes its inputs. Nodes stand in an order in
which they can be run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from slr_det.runtime.structs import Activation


@dataclass(frozen=True)
class Ref:
    """A value among the arguments of an :class:`Opaque` operation."""

    name: str


@dataclass(frozen=True)
class Value:
    """Shape and type of a tensor of the graph."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def is_image(self) -> bool:
        """Whether it is a float32 tensor (images, channels, height, width) with something in it."""
        return len(self.shape) == 4 and self.dtype == torch.float32 and 0 not in self.shape


@dataclass(kw_only=True)
class Node:
    """An operation: the value it writes and those it reads."""

    out: str
    inputs: tuple[str, ...]


@dataclass(kw_only=True)
class Conv(Node):
    """A convolution in two dimensions, with what follows it.

    Attributes:
        name: Of the model's parameter.
        weight: (out, in / groups, height, width); transposed: (in, out / groups, height, width). Float32.
        bias: (out,) or None.
        stride: Height before width, as in all pairs here.
        padding: Zeros above and at the left; below and at the right they follow from the sizes.
        dilation: Distance of the kernel's columns.
        groups: Groups of channels.
        transposed: A transposed convolution whose kernel equals its stride, without padding.
        activation: What is done to the sums.
        slope: Of a leaky ReLU.
        pool: Whether a maximum over 2 x 2 with stride 2 follows the activation.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool = False
    activation: Activation = Activation.NONE
    slope: float = 0.0
    pool: bool = False

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return (self.weight.shape[2], self.weight.shape[3])

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0]


@dataclass(kw_only=True)
class Linear(Node):
    """A linear layer on rows (n, in): ``name``, weight (out, in), bias (out,) or None, and an activation."""

    name: str
    weight: Tensor
    bias: Tensor | None
    activation: Activation = Activation.NONE
    slope: float = 0.0


@dataclass(kw_only=True)
class Norm(Node):
    """``scale * x + shift`` by channel (dimension 1), float64: a batch norm in evaluation."""

    name: str
    scale: Tensor
    shift: Tensor
    original: Opaque


@dataclass(kw_only=True)
class MaxPool(Node):
    """A maximum over windows; what is outside the picture never wins."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(kw_only=True)
class Upsample(Node):
    """Nearest-neighbour enlargement by whole factors."""


@dataclass(kw_only=True)
class Add(Node):
    """The sum of two images of one shape, through an activation."""

    activation: Activation = Activation.NONE
    slope: float = 0.0


@dataclass(kw_only=True)
class Activate(Node):
    """An activation that the runtime has."""

    activation: Activation
    slope: float
    original: Opaque


@dataclass(kw_only=True)
class Pointwise(Node):
    """Any other function of single numbers, done by torch in place: ``op(x, *arguments)`` changes and returns x."""

    op: Callable[..., Tensor]
    arguments: tuple[Any, ...]


@dataclass(kw_only=True)
class Concat(Node):
    """Images one after the other by channel."""

    original: Opaque


@dataclass(kw_only=True)
class Slice(Node):
    """Channels from ``start`` on, as many as the output has."""

    start: int
    original: Opaque


@dataclass(kw_only=True)
class Pad(Node):
    """Zeros around an image: columns at the left and right, rows above and below."""

    left: int
    right: int
    top: int
    bottom: int


@dataclass(kw_only=True)
class Opaque(Node):
    """Anything else, run by torch.

    Attributes:
        op: What is called.
        args: Its arguments, in which a :class:`Ref` stands for a value; may be nested in lists.
        kwargs: Its named arguments.
        layer: Name of the parameter it uses, empty where it uses none.
        reason: Why a layer with parameters is left to torch.
    """

    op: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    layer: str = ""
    reason: str = ""


@dataclass
class Graph:
    """A model for inputs of given shapes.

    Attributes:
        inputs: Values that the inputs become, in their order.
        outputs: The flat outputs in their order: a Ref to a value, or what else a model returns, such as None.
        nodes: Operations in an order in which they can run.
        values: Every value that is a tensor; those that are tuples are missing.
        constants: Tensors that are the same for all inputs.
    """

    inputs: tuple[str, ...]
    outputs: tuple[Any, ...]
    nodes: list[Node]
    values: dict[str, Value]
    constants: dict[str, Tensor]

    def readers(self) -> Counter[str]:
        """How often each value is read, the graph's outputs included."""
        counts = Counter(name for node in self.nodes for name in node.inputs)
        counts.update(item.name for item in self.outputs if isinstance(item, Ref))
        return counts

    def makers(self) -> dict[str, Node]:
        """The node that writes each value; inputs and constants have none."""
        return {node.out: node for node in self.nodes}

    def drop_unread(self) -> None:
        """Remove nodes whose results nobody reads, and those that only they need."""
        needed = {item.name for item in self.outputs if isinstance(item, Ref)}
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.out in needed:
                kept.append(node)
                needed.update(node.inputs)
                # Constants too that are folded into the node, for it may be given back to torch.
                needed.update(getattr(node, "original", node).inputs)
        self.nodes = kept[::-1]
        self.constants = {name: tensor for name, tensor in self.constants.items() if name in needed}
