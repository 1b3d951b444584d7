"""What an adapter gives for export: the network as plain tensors in and out, real samples, and how to judge a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

#: Tensors that go into a network at once, or that come out of it.
Tensors = tuple[Tensor, ...]


class Network(Protocol):
    """A deployed network: a file, and what it answers."""

    @property
    def path(self) -> Path:
        """The file."""

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Answer a batch of any size; float32 tensors on the CPU, in the order of the exported inputs and outputs."""


@dataclass(frozen=True)
class Exportable:
    """A trained network on the CPU, ready to be written in another format.

    The first dimension of every input and output is the batch. All else is of fixed size.

    Attributes:
        module: In evaluation mode, float32; takes tensors by place and returns a tensor or a tuple of tensors.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        samples: ``samples(split, count)`` gives up to ``count`` real inputs of a split, ``train`` or ``val``, one by
            one (batches of 1), prepared as for evaluation and spread over the split.
        evaluate: The task's metrics of a deployed network on the validation data, as
            :meth:`slr_det.adapter.Adapter.evaluate` gives them.
        metadata: What whoever runs the file has to know, by name: classes, how inputs are prepared.
        keep_float: Globs of weights that must not be quantised, such as a fixed ramp that turns bins into pixels.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    samples: Callable[[str, int], Iterator[Tensors]]
    evaluate: Callable[[Network], dict[str, Any]]
    metadata: Mapping[str, str]
    keep_float: tuple[str, ...] = field(default=())
