"""A network made ready in each engine that is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import torch

from slr_det import __version__
from slr_det.engines.child import ONNX_FILE
from slr_det.errors import ConfigError, MissingExtraError
from slr_det.export.exportable import Exportable, Tensors
from slr_det.export.extras import load
from slr_det.export.onnxfile import to_onnx
from slr_det.export.runtime import OnnxNetwork, OpenVinoNetwork, answers_of
from slr_det.runtime.compiled import CompiledModule, compile

#: Engines by name, in the order of tables: what each is called there.
ENGINES = {
    "torch": "PyTorch, dense",
    "onnxruntime": "ONNX Runtime, dense",
    "openvino": "OpenVINO, dense",
    "slr_det": "slr_det, sparse",
}
OURS = "slr_det"


@dataclass(frozen=True)
class Ready:
    """A network in one engine.

    Attributes:
        answer: Answers the sample.
        weight_bytes: Bytes of the weights as this engine keeps them, before it rearranges them.
    """

    answer: Callable[[], Tensors]
    weight_bytes: int


@dataclass(frozen=True)
class Prepared:
    """A network in all engines.

    Attributes:
        engines: By name, those that can answer.
        missing: Why the others cannot, by name.
        compiled: The network in our runtime, where that was asked for.
    """

    engines: dict[str, Ready]
    missing: dict[str, str]
    compiled: CompiledModule | None


def check_engines(names: Sequence[str]) -> list[str]:
    """The engines that are named, in the order of tables; ConfigError for a name that is none."""
    wrong = [name for name in names if name not in ENGINES]
    if wrong:
        raise ConfigError(
            f"--engines: no engine is called '{wrong[0]}', expected some of {', '.join(ENGINES)}"
        )
    return [name for name in ENGINES if name in names]


def prepare(
    exportable: Exportable,
    sample: Tensors,
    names: Sequence[str],
    folder: Path,
    *,
    choose: str = "measure",
    say: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Make a network ready in engines, each with as many threads as torch has.

    Args:
        exportable: The network.
        sample: Inputs, batch included.
        names: Of engines.
        folder: For the ONNX file, which the other engines' processes read too.
        choose: As for :func:`slr_det.runtime.compiled.compile`.
        say: Told what goes on.
    """
    module = exportable.module.eval()
    engines: dict[str, Ready] = {}
    missing: dict[str, str] = {}
    if "torch" in names:
        engines["torch"] = Ready(partial(_torch_answer, module, sample), _weight_bytes(module))
    if {"onnxruntime", "openvino"} & set(names):
        say("writing the network as ONNX")
        try:
            model, _ = to_onnx(exportable, sample)
            load("onnx").save(model, str(folder / ONNX_FILE))
        except (ConfigError, MissingExtraError) as error:
            missing |= {name: str(error) for name in ("onnxruntime", "openvino") if name in names}
    networks: dict[str, Any] = {"onnxruntime": OnnxNetwork, "openvino": OpenVinoNetwork}
    for name, network in networks.items():
        if name not in names or name in missing:
            continue
        try:
            made = network(folder / ONNX_FILE, sample[0].shape[0])
        except MissingExtraError as error:
            missing[name] = str(error)
            continue
        except Exception as error:  # the engines raise errors of their own, which are no classes of Python's
            missing[name] = f"{ENGINES[name]} refuses the network: {' '.join(str(error).split())[:160]}"
            continue
        engines[name] = Ready(partial(made, *sample), (folder / ONNX_FILE).stat().st_size)
    compiled = None
    if OURS in names:
        say("choosing sparse or dense for each layer")
        compiled = compile(module, *sample, threads=torch.get_num_threads(), choose=choose)
        engines[OURS] = Ready(partial(_torch_answer, compiled, sample), our_weight_bytes(compiled))
    return Prepared(engines, missing, compiled)


def our_weight_bytes(compiled: CompiledModule) -> int:
    """Bytes of the weights that our runtime uses: packed ones, and those of layers that stay in torch."""
    if compiled.reason:
        return _weight_bytes(compiled.model)
    dense = sum(prod(row.shape) for row in compiled.table if row.choice == "dense")
    return compiled.weight_bytes + 4 * dense


def versions() -> dict[str, str]:
    """Versions of the engines that are installed."""
    found = {"slr_det": __version__, "torch": torch.__version__}
    for name in ("onnxruntime", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _torch_answer(module: torch.nn.Module, sample: Tensors) -> Tensors:
    with torch.inference_mode():
        return answers_of(module, sample)


def _weight_bytes(module: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
