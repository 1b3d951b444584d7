"""A torch module becomes an ONNX graph without batch norms."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from slr_det import __version__
from slr_det.errors import ConfigError
from slr_det.export.exportable import Exportable, Tensors
from slr_det.export.extras import load
from slr_det.export.folding import Folded, fold_batchnorms

#: Version of ONNX's operators: what torch 2.6 to 2.13 and ONNX Runtime 1.18 and later all know.
OPSET = 18
#: A protobuf message ends there.
_MOST_BYTES = 2**31 - 1


def to_onnx(exportable: Exportable, example: Tensors, *, dynamic: bool = False) -> tuple[Any, Folded]:
    """Trace a network on an example and fold its batch norms.

    Args:
        exportable: The network.
        example: Real inputs; their shapes are the file's.
        dynamic: Whether the batch may have any size; else it is the example's.

    Returns:
        The ``onnx.ModelProto``, its weights under their names in the checkpoint, and how the batch norms were folded.

    Raises:
        ConfigError: The network uses what ONNX has no word for, or is larger than 2 GB.
        MissingExtraError: onnx is not installed.
    """
    onnx = load("onnx")
    names = [*exportable.inputs, *exportable.outputs]
    buffer = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            # The tracer is the older of torch's two exporters: it keeps the checkpoint's names, needs no further
            # package and takes a tenth of the time. In the mode PRESERVE it leaves batch norms to us.
            torch.onnx.export(
                exportable.module.eval(),
                example,
                buffer,  # type: ignore[arg-type]
                input_names=list(exportable.inputs),
                output_names=list(exportable.outputs),
                opset_version=OPSET,
                dynamic_axes={name: {0: "batch"} for name in names} if dynamic else None,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=True,
                dynamo=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError) as error:
        if "out of memory" in str(error).lower():
            raise
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"this network cannot be written as ONNX: {reason}") from error
    model = onnx.load_from_string(buffer.getvalue())
    model.producer_name, model.producer_version = "slr_det", __version__
    folded = fold_batchnorms(model)
    describe(model, {**exportable.metadata, "batch": str(example[0].shape[0])})
    require_small(model)
    return model, folded


def describe(model: Any, metadata: Mapping[str, str]) -> None:
    """Put words into a file's ``metadata_props``, in place of those of the same names."""
    kept = [entry for entry in model.metadata_props if entry.key not in metadata]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)


def as_text(value: Any) -> str:
    """A value of the metadata: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def require_small(model: Any) -> None:
    """Refuse a model that does not fit into one file of ONNX."""
    if model.ByteSize() > _MOST_BYTES:
        raise ConfigError(
            f"this network takes {model.ByteSize() / 1e9:.1f} GB, and a file of ONNX holds 2 GB"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself and on shapes that are constant here on purpose."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
