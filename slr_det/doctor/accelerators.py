"""Whether torch works here, and with which GPUs. No GPU is touched beyond being counted."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slr_det.doctor.findings import Finding, size

_BACKEND = "UV_TORCH_BACKEND=auto uv pip install --reinstall torch torchvision"
_QUERY = ("name", "memory.total", "memory.free", "compute_cap", "driver_version")


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it: memory in bytes, compute capability such as ``9.0``."""

    name: str
    memory: int
    free: int
    capability: str
    driver: str


def check(versions: Mapping[str, str], root: Path = Path("/")) -> Iterator[Finding]:
    """torch, whether torchvision belongs to it, and the GPUs.

    Args:
        versions: Installed packages by name.
        root: Where the system's files are.
    """
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch = importlib.import_module("torch")
            available = bool(torch.cuda.is_available())
    except Exception as error:  # a broken torch raises nearly anything: missing libraries, another numpy, ...
        reason = " ".join(str(error).split())[:160]
        yield Finding("torch", "problem", f"cannot be imported: {reason}", _BACKEND)
        return
    version, cuda, hip = str(torch.__version__), torch.version.cuda, torch.version.hip
    built = f"for CUDA {cuda}" if cuda else f"for ROCm {hip}" if hip else "for CPUs"
    facts: dict[str, Any] = {
        "version": version,
        "cuda": cuda,
        "rocm": hip,
        "threads": torch.get_num_threads(),
    }
    yield Finding("torch", "ok", f"{version}, built {built}", facts=facts)
    pair = torchvision_pair(version, versions.get("torchvision"), torchvision_build())
    if pair is not None:
        yield pair
    complaints = [str(warning.message) for warning in said if "CUDA" in str(warning.message)]
    yield gpus(
        available=available,
        count=int(torch.cuda.device_count()) if available else 0,
        built_for=cuda or hip,
        codes=list(torch.cuda.get_arch_list()) if available and cuda else [],
        found=query_driver(),
        present=bool([*root.glob("dev/nvidia[0-9]*"), *root.glob("proc/driver/nvidia/gpus/*")]),
        complaints=complaints,
        apple=bool(torch.backends.mps.is_available()),
    )


def torchvision_build() -> str | None:
    """The version that torchvision's files were built as, such as ``0.28.0+cpu``; None where it is not installed."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    named = re.search(r"^__version__\s*(?::\s*\w+\s*)?=\s*['\"]([^'\"]+)", text, flags=re.MULTILINE)
    return named.group(1) if named else None


def torchvision_pair(torch: str, torchvision: str | None, built: str | None) -> Finding | None:
    """Whether torch and torchvision come from one build; None without torchvision.

    Args:
        torch: torch's version with its local part, such as ``2.13.0+cu130``.
        torchvision: torchvision's version as its package says it.
        built: As of :func:`torchvision_build`.
    """
    if torchvision is None:
        return None
    ours, theirs = torch.partition("+")[2], (built or "").partition("+")[2]
    facts = {"version": built or torchvision}
    if not ours or not theirs or ours == theirs:
        return Finding("torchvision", "ok", built or torchvision, facts=facts)
    seen = f"{built} was built for another torch than {torch}: it fails at import, or has no operators"
    return Finding("torchvision", "problem", seen, _BACKEND, facts)


def query_driver() -> list[Gpu]:
    """What nvidia-smi says of the GPUs; empty without it. Asking torch would start a context on each."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_query(answer.stdout) if answer.returncode == 0 else []


def parse_query(text: str) -> list[Gpu]:
    """The GPUs in the answer of nvidia-smi, a line each; numbers that it does not know are 0."""
    found = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == len(_QUERY):
            total, free = (int(word) << 20 if word.isdigit() else 0 for word in words[1:3])
            found.append(Gpu(words[0], total, free, words[3], words[4]))
    return found


def gpus(
    *,
    available: bool,
    count: int,
    built_for: str | None,
    codes: list[str],
    found: list[Gpu],
    present: bool,
    complaints: list[str],
    apple: bool = False,
) -> Finding:
    """What to think of the GPUs.

    Args:
        available: torch can use at least one.
        count: How many it can use.
        built_for: The CUDA or ROCm that torch was built for, None for a CPU build.
        codes: Architectures that torch has code for, such as ``sm_90``.
        found: The driver's list.
        present: A GPU of NVIDIA is in the machine or container.
        complaints: What torch said when it looked for GPUs.
        apple: torch can use Apple's GPU.
    """
    facts: dict[str, Any] = {"usable": count, "gpus": [asdict(gpu) for gpu in found]}
    if available:
        named = ", ".join(f"{gpu.name} ({size(gpu.memory)}, {size(gpu.free)} free)" for gpu in found)
        driver = f", driver {found[0].driver}" if found else ""
        seen = f"{count}: {named}{driver}" if found else f"{count} that torch can use"
        old = sorted({gpu.capability for gpu in found if codes and not covered(gpu.capability, codes)})
        if old:
            wanted = f"this torch has no code for GPUs of compute capability {', '.join(old)}"
            return Finding(
                "gpu", "problem", f"{seen}; {wanted}", f"{_BACKEND} (an older CUDA), or device=cpu", facts
            )
        return Finding("gpu", "ok", seen, facts=facts)
    if apple:
        return Finding("gpu", "ok", "Apple's, by device=mps", facts=facts)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and (not hidden.strip() or hidden.strip().startswith("-")):
        return Finding(
            "gpu", "ok", f"none: CUDA_VISIBLE_DEVICES is '{hidden}'; runs use the CPU", facts=facts
        )
    if not present and not found:
        return Finding("gpu", "ok", "none; runs use the CPU", facts=facts)
    if built_for is None:
        return Finding("gpu", "note", "there is one, and this torch is built for CPUs", _BACKEND, facts)
    said = f": {complaints[0].split('(Triggered')[0].strip()[:160]}" if complaints else ""
    remedy = f"update the NVIDIA driver, or fit torch to it: {_BACKEND}"
    return Finding("gpu", "problem", f"there is one, and torch cannot use it{said}", remedy, facts)


def covered(capability: str, codes: list[str]) -> bool:
    """Whether code for ``codes`` runs on a GPU: the same major version and no newer, or PTX of any older one."""
    numbers = re.fullmatch(r"(\d+)\.(\d+)", capability)
    if numbers is None:
        return True  # the driver does not say
    wanted = (int(numbers[1]), int(numbers[2]))
    for code in codes:
        parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", code)
        if parts is None:
            continue
        has = (int(parts[2]), int(parts[3]))
        if has <= wanted and (parts[1] == "compute" or has[0] == wanted[0]):
            return True
    return False
