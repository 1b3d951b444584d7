"""Run one engine alone in this process and print how much memory it took: ``python -m slr_det.engines.child``.

Each engine imports what it needs itself: a process that answers by ONNX Runtime has no torch in it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Files in the folder that the parent prepares.
ONNX_FILE, PROGRAM_FILE, INPUT_FILE = "network.onnx", "network.pt2", "input{}.npy"
RUNS = 3

_Answer = Callable[[], object]


def main(arguments: list[str]) -> int:
    """Run the engine that is named, on the files of a folder, and print bytes as JSON."""
    engine, folder, threads = arguments[0], Path(arguments[1]), int(arguments[2])
    start = _ENGINES[engine]
    make = start(folder, threads)
    _settle()
    before = _memory("VmRSS")
    answer = make()
    peak = _memory("VmHWM")
    answer()
    _settle()
    reset = _reset_peak()
    for _ in range(RUNS):
        answer()
    running = _memory("VmHWM") if reset else None
    peak = max(found for found in (peak, _memory("VmHWM"), 0) if found is not None)
    print(json.dumps({"before": before, "running": running, "peak": peak or None}))
    return 0


def _onnxruntime(folder: Path, threads: int) -> Callable[[], _Answer]:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    inputs = _inputs(folder)

    def make() -> _Answer:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        path = str(folder / ONNX_FILE)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {value.name: array for value, array in zip(session.get_inputs(), inputs, strict=True)}
        return lambda: session.run(None, feed)

    return make


def _openvino(folder: Path, threads: int) -> Callable[[], _Answer]:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it reports to its makers
    openvino: Any = importlib.import_module("openvino")
    inputs = _inputs(folder)

    def make() -> _Answer:
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        model: Any = openvino.Core().compile_model(str(folder / ONNX_FILE), "CPU", hints)
        return lambda: model(inputs)

    return make


def _torch(folder: Path, threads: int) -> Callable[[], _Answer]:
    import torch

    torch.set_num_threads(threads)
    inputs = [torch.from_numpy(array) for array in _inputs(folder)]
    _warm(torch)

    def make() -> _Answer:
        module = torch.export.load(folder / PROGRAM_FILE).module()

        def answer() -> object:
            with torch.inference_mode():
                return module(*inputs)

        return answer

    return make


def _slr_det(folder: Path, threads: int) -> Callable[[], _Answer]:
    import torch
    from torch import nn

    from slr_det.runtime.compiled import compile

    torch.set_num_threads(threads)
    inputs = [torch.from_numpy(array) for array in _inputs(folder)]
    _warm(torch)
    compile(nn.Conv2d(1, 1, 1).eval(), torch.zeros(1, 1, 1, 1), choose="sparse")

    class Loaded(nn.Module):
        """The exported program, whose own module refuses to be asked for evaluation mode, which it is in."""

        def __init__(self) -> None:
            super().__init__()
            self.program = torch.export.load(folder / PROGRAM_FILE).module()
            self.training = False

        def forward(self, *tensors: torch.Tensor) -> Any:
            return self.program(*tensors)

        def train(self, mode: bool = True) -> Loaded:
            return self

    def make() -> _Answer:
        compiled = compile(Loaded(), *inputs, threads=threads, verify=False)
        return lambda: compiled(*inputs)

    return make


def _warm(torch: Any) -> None:
    """Let torch import what it imports late, so that it does not count for the network."""
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(1),), strict=False), buffer)
    buffer.seek(0)
    torch.export.load(buffer).module()


_ENGINES: dict[str, Callable[[Path, int], Callable[[], _Answer]]] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "slr_det": _slr_det,
}


def _inputs(folder: Path) -> list[Any]:
    import numpy as np

    count = len(list(folder.glob(INPUT_FILE.format("*"))))
    return [np.load(folder / INPUT_FILE.format(index)) for index in range(count)]


def _settle() -> None:
    """Give freed memory back to the system, as far as it can be."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _memory(field: str) -> int | None:
    """Bytes of this process that are in memory now (VmRSS), or were at most (VmHWM); None where nobody tells."""
    account = Path("/proc/self/status")
    match = re.search(field + r":\s+(\d+) kB", account.read_text()) if account.exists() else None
    return 1024 * int(match[1]) if match else None


def _reset_peak() -> bool:
    """Let the system forget the peak so far; whether it did."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
