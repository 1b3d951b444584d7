"""How much more memory a run under SLR needs than the same run without: the difference of two processes' peaks."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch

from slr_det.bench.iteration import build, random_weights
from slr_det.bench.rows import Row, Settings
from slr_det.bench.training import training_step
from slr_det.errors import MissingExtraError, SlrDetError

TARGET = 2.1
STEPS = 2
# Without a fixed threshold glibc keeps freed blocks of up to 32 MB, and the peak would measure its habits.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


def measure(settings: Settings) -> list[Row]:
    """The weights of yolov3-spp without activations, and a real training step of yolov3-tiny (needs the yolo extra)."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [_row(case, device, settings) for device in devices for case in CASES]


def _row(case: str, device: str, settings: Settings) -> Row:
    label = case.format(*SIZES[settings.quick])
    settings.say(f"memory: {label} on {device}, with the engine and without")
    plain, under = (_child(case, method, device, settings) for method in ("plain", "slr"))
    pruned, extra = under["pruned_bytes"], under["peak_bytes"] - plain["peak_bytes"]
    return Row(
        "extra memory / pruned weights",
        f"{label}, {device}",
        extra / pruned,
        "x",
        TARGET,
        note=(
            f"peak {extra / 1e6:.0f} MB above the {plain['peak_bytes'] / 1e6:.0f} MB of the run without; "
            f"{pruned / 1e6:.0f} MB of weights pruned"
        ),
        details={"plain": plain, "slr": under},
    )


def _child(case: str, method: str, device: str, settings: Settings) -> dict[str, int]:
    arguments = [case, method, device, str(int(settings.quick)), str(settings.threads)]
    command = [sys.executable, "-m", "slr_det.bench.memory", *arguments]
    done = subprocess.run(command, env={**os.environ, **MALLOC}, capture_output=True, text=True, check=False)
    lines = (done.stderr or done.stdout).strip().splitlines()
    if done.returncode == 3:
        raise MissingExtraError(lines[-1])
    if done.returncode != 0:
        raise SlrDetError(
            f"the process that measures memory failed: {lines[-1] if lines else done.returncode}"
        )
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _weights_alone(method: str, device: str, quick: bool) -> int:
    """Gradients, momentum and the engine of a model, one iteration and hard pruning; no activations."""
    weights = random_weights("yolov3-tiny" if quick else "yolov3-spp", device)
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.SGD(weights.values(), lr=1e-3, momentum=0.9)
    engine = build(weights, 1) if method == "slr" else None
    for _ in range(STEPS):
        loss = torch.stack([weight.sum() for weight in weights.values()]).sum()
        if engine is not None:
            engine.observe(loss)
            loss = loss + engine.penalty()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    if engine is None:
        return 0
    engine.end_iteration()
    return sum(tensor.numel() * tensor.element_size() for tensor in engine.state.z.values())


def _training(method: str, device: str, quick: bool) -> int:
    """Real training steps and the end of an iteration."""
    _, pixels, batch = SIZES[quick]
    step = training_step(device, pixels, batch, penalised=method == "slr")
    for _ in range(STEPS):
        step.run(method == "slr")
    if step.engine is None:
        return 0
    step.engine.end_iteration()
    return sum(tensor.numel() * tensor.element_size() for tensor in step.engine.state.z.values())


CASES = {
    "weights of {0}, no activations": _weights_alone,
    "training step of yolov3-tiny, {1} px, batch {2}": _training,
}
SIZES = {False: ("yolov3-spp", 320, 8), True: ("yolov3-tiny", 64, 2)}


def _peak(device: str) -> int:
    """The most memory this process has held, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    account = Path("/proc/self/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", account.read_text()) if account.exists() else None
    if match:
        return 1024 * int(match[1])
    # On Linux this other account would include the peak of the parent process.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: list[str]) -> int:
    """Run one case in this process and print its peak."""
    case, method, device, quick, threads = arguments
    torch.set_num_threads(int(threads))
    try:
        pruned = CASES[case](method, device, quick == "1")
    except MissingExtraError as error:
        print(error, file=sys.stderr)
        return 3
    print(json.dumps({"peak_bytes": _peak(device), "pruned_bytes": pruned}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
