"""INT8 by ONNX Runtime's static quantisation: weights per channel and symmetric, so that zeros stay zeros.

A weight w becomes round(w / s) with s = max|w| / 127 of its output channel and no offset, hence 0 becomes 0. Inputs
and outputs of the layers get a scale and an offset from the least and the greatest value on the calibration samples.
Only layers with weights are quantised (Conv, ConvTranspose, Gemm, MatMul); what follows them, such as the decoding of
boxes, stays in float32.
"""

from __future__ import annotations

import fnmatch
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slr_det.errors import ConfigError, DataError
from slr_det.export.exportable import Tensors
from slr_det.export.extras import load

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SUFFIX = "_quantized"


@dataclass(frozen=True)
class Quantised:
    """What INT8 did to the weights.

    Attributes:
        weights: How many tensors are in INT8.
        kept_float: Names of those that stay in float32 because they have to or because the user wants it.
        entries: Entries of the quantised tensors.
        zeros_before: Zeros among them before.
        zeros_kept: How many of these are zero afterwards; all of them, or the quantisation is refused.
        zeros_after: Zeros afterwards, with those that were rounded to zero.
        samples: Calibration samples.
    """

    weights: int
    kept_float: tuple[str, ...]
    entries: int
    zeros_before: int
    zeros_kept: int
    zeros_after: int
    samples: int


def quantise(
    model: Any, samples: Iterable[Tensors], *, keep_float: Sequence[str] = (), reduce_range: bool = False
) -> tuple[Any, Quantised]:
    """Quantise an ONNX model; the given one is left as it is.

    Args:
        model: ``onnx.ModelProto`` in float32, without batch norms.
        samples: Calibration inputs, batches of the size that the model takes; looked at one at a time.
        keep_float: Globs of weights that stay in float32.
        reduce_range: Weights of 7 bits, for x86 processors without VNNI, where sums of products of 8 bits saturate.

    Returns:
        The quantised ``onnx.ModelProto`` and the counts.

    Raises:
        ConfigError: Nothing is left to quantise, or a glob of ``keep_float`` matches no weight.
        DataError: There is no sample.
    """
    onnx, quantization = load("onnx"), load("onnxruntime.quantization")
    floats = {t.name: t for t in model.graph.initializer}
    chosen, excluded, kept = _layers(model, floats, keep_float)
    if not chosen:
        raise ConfigError("--int8: the network has no layer left to quantise; keep fewer in float32")
    reader = _Reader(samples, [value.name for value in model.graph.input])
    with tempfile.TemporaryDirectory(prefix="slr-det-int8-") as scratch, _quiet():
        source, target = Path(scratch) / "float.onnx", Path(scratch) / "int8.onnx"
        onnx.save(model, source)
        quantization.quantize_static(
            str(source),
            str(target),
            _calibration_reader(quantization, reader),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(LAYERS),
            nodes_to_exclude=excluded,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": True, "MatMulConstBOnly": True},
        )
        made = onnx.load(target)
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    return made, _count(onnx, floats, made, kept, reader.seen)


class _Reader:
    """Hands out samples by the names of the inputs, and counts them."""

    def __init__(self, samples: Iterable[Tensors], names: Sequence[str]) -> None:
        self._samples = iter(samples)
        self._names = names
        self.seen = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample; None behind the last one."""
        sample = next(self._samples, None)
        if sample is None:
            if not self.seen:
                raise DataError("--int8 needs at least one sample of the training data for its calibration")
            return None
        self.seen += 1
        return {name: tensor.numpy() for name, tensor in zip(self._names, sample, strict=True)}


def _calibration_reader(quantization: Any, reader: _Reader) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            return reader.get_next()

    return Reader()


def _layers(
    model: Any, floats: dict[str, Any], keep_float: Sequence[str]
) -> tuple[int, list[str], tuple[str, ...]]:
    """How many layers are quantised, the nodes that are not, and the weights that the globs keep in float32."""
    chosen, excluded, kept = 0, [], []
    unused = set(keep_float)
    for number, node in enumerate(model.graph.node):
        if node.op_type not in LAYERS:
            continue
        node.name = node.name or f"{node.op_type}_{number}"
        weight = node.input[1]
        matching = {glob for glob in keep_float if fnmatch.fnmatchcase(weight, glob)}
        unused -= matching
        if matching:
            kept.append(weight)
        if matching or weight not in floats:
            excluded.append(node.name)
        else:
            chosen += 1
    if unused:
        raise ConfigError(
            f"--keep-float {sorted(unused)[0]}: the network has no such weight; names are those of the checkpoint, "
            "such as model.1.conv.weight or 'model.1.*'"
        )
    return chosen, excluded, tuple(kept)


def _count(onnx: Any, floats: dict[str, Any], made: Any, kept: tuple[str, ...], samples: int) -> Quantised:
    weights = entries = before = still = after = 0
    for tensor in made.graph.initializer:
        name = tensor.name.removesuffix(_SUFFIX)
        if tensor.data_type != onnx.TensorProto.INT8 or tensor.name == name or name not in floats:
            continue
        was, now = (onnx.numpy_helper.to_array(t) == 0 for t in (floats[name], tensor))
        if was.ndim < 2:
            continue
        weights, entries = weights + 1, entries + was.size
        before, still, after = before + int(was.sum()), still + int((was & now).sum()), after + int(now.sum())
    if still != before:
        raise ConfigError(
            f"--int8: {before - still} of {before} zero weights would not be zero any more; use another version of "
            "onnxruntime"
        )
    return Quantised(weights, kept, entries, before, still, after, samples)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice to run its own preprocessing, which would fold what is folded."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
