"""Running an exported file on the CPU, and comparing its answers with torch's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slr_det.errors import DataError
from slr_det.export.exportable import Network, Tensors
from slr_det.export.extras import load


class OnnxNetwork:
    """An ONNX file in ONNX Runtime.

    Args:
        path: The file.
        batch: The batch that the file takes; 0 for any. Other ones are cut into such, the last one filled up.
    """

    def __init__(self, path: Path, batch: int) -> None:
        runtime = load("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        # As many threads as torch has, so that OMP_NUM_THREADS holds for both.
        options.intra_op_num_threads = torch.get_num_threads()
        self.path = path
        self._batch = batch
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [value.name for value in self._session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Answer a batch of any size."""
        return in_batches(self._answer, inputs, self._batch)

    def _answer(self, *inputs: Tensor) -> Tensors:
        feed = {name: tensor.numpy() for name, tensor in zip(self._names, inputs, strict=True)}
        return tuple(torch.from_numpy(found) for found in self._session.run(None, feed))


class OpenVinoNetwork:
    """An OpenVINO model (``.xml`` and ``.bin``) on the CPU, computed in float32.

    Args:
        path: The ``.xml`` file.
        batch: As for :class:`OnnxNetwork`.
    """

    def __init__(self, path: Path, batch: int) -> None:
        openvino = load("openvino")
        self.path = path
        self._batch = batch
        # By default it computes in bfloat16 on processors that can.
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self._model: Any = openvino.Core().compile_model(str(path), "CPU", hints)

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Answer a batch of any size."""
        return in_batches(self._answer, inputs, self._batch)

    def _answer(self, *inputs: Tensor) -> Tensors:
        found = self._model([tensor.numpy() for tensor in inputs])
        return tuple(torch.from_numpy(found[output].copy()) for output in self._model.outputs)


def in_batches(answer: Any, inputs: Tensors, batch: int) -> Tensors:
    """Answer inputs of any number by a network that takes ``batch`` at a time (0: any)."""
    inputs = tuple(tensor.detach().float().contiguous() for tensor in inputs)
    count = inputs[0].shape[0]
    if not batch or count == batch:
        return tuple(answer(*inputs))
    parts = []
    for at in range(0, count, batch):
        part = tuple(tensor[at : at + batch] for tensor in inputs)
        short = batch - part[0].shape[0]
        if short:
            part = tuple(torch.cat([t, t[-1:].expand(short, *t.shape[1:])]) for t in part)
        parts.append(tuple(found[: batch - short] for found in answer(*part)))
    return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))


def batches(samples: Iterable[Tensors], size: int) -> Iterator[Tensors]:
    """Put samples together into batches of a size; what is left over is left out, unless it is all there is."""
    stream = iter(samples)
    first = True
    while chunk := list(islice(stream, size)):
        if len(chunk) < size:
            if not first:
                return
            chunk = [chunk[number % len(chunk)] for number in range(size)]
        first = False
        yield tuple(torch.cat(tensors) for tensors in zip(*chunk, strict=True))


@dataclass(frozen=True)
class Difference:
    """How far two networks are apart on some samples.

    Attributes:
        samples: How many.
        absolute: Greatest difference of two numbers.
        relative: Greatest difference as a part of the number, of numbers above 1; else as it is. A box at pixel 600 has
            in float32 no digit behind the fourth.
        worst: The output where ``relative`` was found.
    """

    samples: int
    absolute: float
    relative: float
    worst: str


@torch.no_grad()
def compare(
    module: nn.Module, network: Network, samples: Iterable[Tensors], outputs: tuple[str, ...]
) -> Difference:
    """Compare a module's answers with those of an exported file; NaN where one has them and the other does not.

    Raises:
        DataError: There is no sample.
    """
    count, absolute, relative, worst = 0, 0.0, 0.0, outputs[0]
    for sample in samples:
        count += sample[0].shape[0]
        wanted = answers_of(module, sample)
        for name, ours, theirs in zip(outputs, wanted, network(*sample), strict=True):
            gap = (ours - theirs).abs()
            gap = torch.where(ours == theirs, 0, gap)  # infinities of one sign are equal
            part = gap / ours.abs().clamp(min=1)
            absolute = max(absolute, _greatest(gap))
            if _greatest(part) >= relative:
                relative, worst = _greatest(part), name
    if not count:
        raise DataError("the validation data have no sample to check the exported file on")
    return Difference(count, absolute, relative, worst)


def answers_of(module: nn.Module, sample: Tensors) -> Tensors:
    """A module's answers as a tuple."""
    found = module(*sample)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def _greatest(values: Tensor) -> float:
    """The greatest entry, infinite where one is NaN; 0 of none."""
    if not values.numel():
        return 0.0
    return float(values.nan_to_num(nan=float("inf")).max())
