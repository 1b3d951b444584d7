"""From a network to a file that was checked: ONNX or OpenVINO, float32 or INT8, dense or sparse weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from slr_det.errors import ConfigError, DataError
from slr_det.export.exportable import Exportable, Network, Tensors
from slr_det.export.extras import load
from slr_det.export.folding import Folded, count_batchnorms
from slr_det.export.int8 import Quantised, quantise
from slr_det.export.onnxfile import to_onnx
from slr_det.export.runtime import Difference, OnnxNetwork, OpenVinoNetwork, batches, compare
from slr_det.export.sparse import Sparsified, sparsify
from slr_det.files import atomic_write

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
#: Greatest difference of an exported float32 file from torch.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ExportSettings:
    """What is to be written.

    Attributes:
        format: ``onnx`` or ``openvino``.
        batch: The batch that the file takes; 0 for any.
        int8: Whether it is quantised.
        sparse: Whether weights that are mostly zero are kept as their nonzeros.
        samples: Validation samples that the file is checked on.
        calibration: Training samples that the ranges of INT8 are taken from.
        keep_float: Globs of weights that stay in float32, besides those that have to.
        reduce_range: Whether INT8 weights have 7 bits, for x86 processors without VNNI.
    """

    format: str = "onnx"
    batch: int = 1
    int8: bool = False
    sparse: bool = False
    samples: int = 8
    calibration: int = 128
    keep_float: tuple[str, ...] = ()
    reduce_range: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was checked.

    Attributes:
        file: The file; of OpenVINO the ``.xml``, with the weights in a ``.bin`` beside it.
        bytes: Of all that was written.
        dense_bytes: Of the same network as ONNX in float32 with dense weights.
        folded: What became of the batch norms.
        batchnorms: How many are left in the graph.
        check: The float32 network against torch, in the runtime of the format.
        int8_check: The INT8 network against torch, where there is one.
        quantised: What INT8 did to the weights.
        sparsified: Which weights are sparse.
        metrics: The task's metrics of the ONNX networks by kind, ``float32`` and ``int8``; empty without INT8.
    """

    file: str
    bytes: int
    dense_bytes: int
    folded: Folded
    batchnorms: int
    check: Difference
    int8_check: Difference | None
    quantised: Quantised | None
    sparsified: Sparsified | None
    metrics: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def check_settings(target: Path, settings: ExportSettings) -> None:
    """Refuse what cannot be written, before anything is computed.

    Raises:
        ConfigError: A wrong name for the file, a count below one, or sparse weights where the format has none.
        MissingExtraError: A package is missing.
    """
    problems = []
    suffix = FORMATS[settings.format]
    if target.suffix != suffix:
        problems.append(
            f"-o {target}: a file of {settings.format} ends in {suffix}; write -o {target.with_suffix(suffix)}"
        )
    if settings.sparse and settings.format != "onnx":
        problems.append(
            "--sparse: OpenVINO's files have no sparse weights; leave it out, or use --format onnx"
        )
    for name in ("samples", "calibration"):
        if getattr(settings, name) < 1:
            problems.append(f"--{name} {getattr(settings, name)}: expected at least 1")
    for name in ("keep_float", "reduce_range"):
        if getattr(settings, name) and not settings.int8:
            problems.append(f"--{name.replace('_', '-')} is about INT8; add --int8, or leave it out")
    if problems:
        raise ConfigError(problems)
    for package in ("onnx", "onnxruntime", *(["openvino"] if settings.format == "openvino" else [])):
        load(package)


def export_network(
    exportable: Exportable,
    target: Path,
    settings: ExportSettings,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write a network to a file whose answers were compared with torch's.

    Args:
        exportable: The network.
        target: The file; a file that is there is replaced when all checks are passed.
        settings: What is wanted.
        say: Told what goes on, in a few words each time.

    Raises:
        ConfigError: The settings do not fit (see :func:`check_settings`), the network cannot be written, or the file's
            answers are not torch's; then nothing is written.
        DataError: The data have no sample.
    """
    check_settings(target, settings)
    with tempfile.TemporaryDirectory(prefix="slr-det-export-") as scratch:
        return _Export(exportable, settings, Path(scratch), say).write(target)


class _Export:
    """One export: what its steps share."""

    def __init__(
        self, exportable: Exportable, settings: ExportSettings, scratch: Path, say: Callable[[str], None]
    ) -> None:
        self.exportable = exportable
        self.settings = settings
        self.scratch = scratch
        self.say = say
        self.onnx = load("onnx")

    def write(self, target: Path) -> Exported:
        """Do the steps and write the file."""
        example = next(self._samples("val"), None)
        if example is None:
            raise DataError("the validation data have no sample to export the network with")
        self.say("tracing the network")
        model, folded = to_onnx(self.exportable, example, dynamic=not self.settings.batch)
        dense = self._saved(model, "float32")
        plain = self._network(dense)
        check = self._checked(plain)
        left = count_batchnorms(model)
        result, quantised, int8_check, metrics = dense, None, None, {}
        if self.settings.int8:
            model, quantised = self._quantised(model)
            result = self._saved(model, "int8")
            network = self._network(result)
            int8_check = self._compare(network)
            metrics = {"float32": self._evaluated(plain), "int8": self._evaluated(network)}
        sparsified = None
        if self.settings.sparse:
            sparsified, result = self._sparse(model, result)
        files = {target: result}
        if self.settings.format == "openvino":
            files = self._openvino(result, target)
            converted = OpenVinoNetwork(files[target], self.settings.batch)
            if quantised is None:
                check = self._checked(converted)
            else:
                int8_check = self._compare(converted)
        for name, file in files.items():
            atomic_write(name, file.read_bytes())
        written = sum(file.stat().st_size for file in files.values())
        return Exported(
            str(target),
            written,
            dense.stat().st_size,
            folded,
            left,
            check,
            int8_check,
            quantised,
            sparsified,
            metrics,
        )

    def _samples(self, split: str) -> Iterator[Tensors]:
        count = self.settings.samples if split == "val" else self.settings.calibration
        return batches(self.exportable.samples(split, count), self.settings.batch or 1)

    def _saved(self, model: Any, name: str) -> Path:
        path = self.scratch / f"{name}.onnx"
        self.onnx.save(model, path)
        return path

    def _network(self, path: Path) -> OnnxNetwork:
        return OnnxNetwork(path, self.settings.batch)

    def _compare(self, network: Network) -> Difference:
        self.say("comparing with torch")
        return compare(self.exportable.module, network, self._samples("val"), self.exportable.outputs)

    def _checked(self, network: Network) -> Difference:
        found = self._compare(network)
        if not found.relative <= TOLERANCE:
            raise ConfigError(
                f"the exported network differs from torch by {found.relative:.2g} in '{found.worst}', more than "
                f"{TOLERANCE:g}, on {found.samples} samples, so nothing was written; does it make random choices, or "
                "depend on the size of its input in a way that tracing does not see?"
            )
        return found

    def _quantised(self, model: Any) -> tuple[Any, Quantised]:
        self.say("calibrating INT8")
        keep = (*self.exportable.keep_float, *self.settings.keep_float)
        return quantise(
            model, self._samples("train"), keep_float=keep, reduce_range=self.settings.reduce_range
        )

    def _evaluated(self, network: Network) -> dict[str, Any]:
        self.say("evaluating")
        return self.exportable.evaluate(network)

    def _sparse(self, model: Any, dense: Path) -> tuple[Sparsified, Path]:
        """Make a file's weights sparse; ConfigError where the runtime then answers otherwise."""
        found = sparsify(model)
        result = self._saved(model, f"{dense.stem}-sparse")
        self.say("comparing dense and sparse weights")
        one, other = self._network(dense), self._network(result)
        for sample in self._samples("val"):
            if not all(map(torch.equal, one(*sample), other(*sample))):
                raise ConfigError(
                    "--sparse: ONNX Runtime's answers are not the same bits as with dense weights; leave it out"
                )
        return found, result

    def _openvino(self, source: Path, target: Path) -> dict[Path, Path]:
        openvino = load("openvino")
        self.say("converting to OpenVINO")
        made = self.scratch / target.name
        # Not by `convert_model`, which reports to its makers that it was used.
        model = openvino.Core().read_model(str(source))
        for key, value in self.exportable.metadata.items():
            model.set_rt_info(value, ["slr_det", key])
        openvino.save_model(model, str(made), compress_to_fp16=False)
        weights = made.with_suffix(".bin")
        return {target.with_suffix(".bin"): weights, target: made}
