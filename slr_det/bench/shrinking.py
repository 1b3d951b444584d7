"""What removing half of the filters gives: parameters, and latency in ONNX Runtime."""

from __future__ import annotations

import contextlib
import importlib
import io
import tempfile
import warnings
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from slr_det.adapter import load_adapter
from slr_det.bench.rows import Row, Settings
from slr_det.errors import MissingExtraError
from slr_det.models import build
from slr_det.projections import Projection
from slr_det.shrink import Shrinkage, channels_of, find_dead, shrink
from slr_det.shrink.verb import Shrinks
from slr_det.timing import interleaved, median, quartiles, threads

PARAMETERS_TARGET = 0.3
LATENCY_TARGET = 0.45
KEEP = 0.5
MODEL = "yolov3-tiny.yaml"
CLASSES = 80

#: What builds and writes a detector with random weights, where the yolo extra is installed.
DETECTORS = "slr_det_adapters.ultralytics.models"


def detector(settings: Settings) -> list[Row]:
    """Return the rows of yolov3-tiny with half of its filters; needs the extras yolo and shrink (MissingExtraError)."""
    adapter = cast(Shrinks, load_adapter("ultralytics"))
    adapter.inspect(MODEL, CLASSES)  # also keeps ultralytics off the network
    package: Any = importlib.import_module(DETECTORS)
    torch.manual_seed(0)
    model = package.build_architecture(MODEL, CLASSES)
    heads = {name.removesuffix(".weight") for name in package.outputs(model)}
    halve_filters(model, heads)
    pixels = 128 if settings.quick else 640
    settings.say(f"yolov3-tiny: half of its filters, {pixels} px")
    with tempfile.TemporaryDirectory(prefix="slr-det-bench-") as scratch:
        source, target = Path(scratch) / "pruned.pt", Path(scratch) / "small.pt"
        package.write_native(source, model, {}, phase="pruned")
        result = adapter.shrink(str(source), target)
        nets = {"pruned": package.load_native(str(source))[0], "shrunk": package.load_native(str(target))[0]}
    for net in nets.values():
        net.model[-1].export, net.model[-1].format = True, "onnx"
    image = torch.rand(1, 3, pixels, pixels)
    return [
        _parameters("yolov3-tiny", result, PARAMETERS_TARGET),
        _latency(f"yolov3-tiny, {pixels} px", nets, image, LATENCY_TARGET, settings),
    ]


def classifiers(settings: Settings) -> list[Row]:
    """Return the rows of two classifiers, a plain one and one whose sums keep their filters; needs the extra shrink."""
    rows = []
    for name in ("cifar_vgg16", "cifar_resnet20"):
        settings.say(f"{name}: half of its filters")
        torch.manual_seed(0)
        net = build(name, 10).eval()
        heads = {n for n, module in net.named_modules() if isinstance(module, nn.Linear)}
        halve_filters(net, heads)
        image = torch.randn(1, 3, 32, 32)
        small, result = shrink(net, image, find_dead(net, channels_of(net, image, heads)))
        rows.append(_parameters(name, result, None))
        rows.append(_latency(f"{name}, 32 px", {"pruned": net, "shrunk": small}, image, None, settings))
    return rows


@torch.no_grad()
def halve_filters(net: nn.Module, heads: Collection[str]) -> None:
    """Project every convolution but the heads onto half of its filters."""
    for name, module in net.named_modules():
        if isinstance(module, _ConvNd) and name not in heads:
            weight = module.weight.detach()
            weight.mul_(Projection("filter").support([weight], KEEP)[0])


def _parameters(name: str, result: Shrinkage, target: float | None) -> Row:
    before, after = result.parameters
    note = (
        f"{before:,} to {after:,}; filters {result.filters[0]:,} to {result.filters[1]:,}; "
        f"outputs differ by {result.difference:.1g}"
    )
    return Row("parameters, shrunk", name, after / before, "x", target, note=note)


def _latency(
    setting: str, nets: dict[str, nn.Module], image: Tensor, target: float | None, settings: Settings
) -> Row:
    with threads(1):
        runs = {name: _session(net, image) for name, net in nets.items()}
        seconds = interleaved(runs, 2 if settings.quick else 25)
    ratios = [small / large for small, large in zip(seconds["shrunk"], seconds["pruned"], strict=True)]
    large, small = (1e3 * median(seconds[name]) for name in ("pruned", "shrunk"))
    note = f"{large:.3g} ms to {small:.3g} ms (medians); quartiles of the ratios"
    details = {f"{name}_seconds": seconds[name] for name in seconds}
    return Row(
        "latency, shrunk",
        f"{setting}, batch 1, ONNX Runtime, 1 thread",
        median(ratios),
        "x",
        target,
        quartiles(ratios),
        note,
        details,
    )


def _session(net: nn.Module, image: Tensor) -> Callable[[], object]:
    """A network in ONNX Runtime, on one thread."""
    try:
        importlib.import_module("onnx")
        runtime: Any = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'latency is measured in ONNX Runtime, and {error.name} is not installed: uv pip install "slr-det[export]"'
        ) from error
    content: Any = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), (image,), content, dynamo=False)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {session.get_inputs()[0].name: image.numpy()})
