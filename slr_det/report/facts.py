"""The facts a report states beside its scores: versions, commit, and compression counted on the tensors."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slr_det import __version__
from slr_det.errors import nearest
from slr_det.layers import matches_any

_DISTRIBUTIONS = (
    "torch",
    "numpy",
    "torchvision",
    "matplotlib",
    "ultralytics",
    "ultralytics-opencv-headless",
    "pycocotools",
    "timm",
    "mmengine",
    "spconv",
)


def collect_versions() -> dict[str, str]:
    """Versions of Python, slr_det and those of torch, numpy and the known trainers that are installed.

    Read from the packages' metadata: no trainer is imported.
    """
    versions = {"python": platform.python_version(), "slr_det": __version__}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions["torch"] = str(torch.__version__)  # unlike the metadata, always tells the CPU build from CUDA's
    return versions


def git_commit(path: str | Path | None = None) -> str | None:
    """The commit checked out in the repository that holds ``path``, by default slr_det's own source.

    The files under ``.git`` are read directly: no git program, no wait, no refusal over who owns the folder.

    Returns:
        40 (or 64) hexadecimal digits, or None outside a checkout. A package that is installed inside a
        virtual environment of some other checkout has no commit either.
    """
    start = Path(__file__) if path is None else Path(path)
    try:
        start = start.resolve()
        for folder in (start, *start.parents):
            if folder.name in ("site-packages", "dist-packages"):
                return None
            if (folder / ".git").exists():
                return _head(folder / ".git")
    except (OSError, UnicodeDecodeError):
        pass
    return None


def _head(git: Path) -> str | None:
    if git.is_file():  # a submodule or a linked worktree: "gitdir: <path>"
        git = (git.parent / git.read_text(encoding="utf-8").partition(":")[2].strip()).resolve()
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return _digits(head)
    reference = head.removeprefix("ref:").strip()
    folders = [git]
    if (git / "commondir").is_file():  # branches of a linked worktree live in the main repository
        folders.append((git / (git / "commondir").read_text(encoding="utf-8").strip()).resolve())
    for folder in folders:
        if (folder / reference).is_file():
            return _digits((folder / reference).read_text(encoding="utf-8").strip())
    for folder in folders:
        if (folder / "packed-refs").is_file():
            for line in (folder / "packed-refs").read_text(encoding="utf-8").splitlines():
                commit, _, name = line.partition(" ")
                if name == reference:
                    return _digits(commit)
    return None


def _digits(text: str) -> str | None:
    return text if len(text) in (40, 64) and set(text) <= set("0123456789abcdef") else None


def compression(
    named: Mapping[str, Tensor],
    layers: Iterable[Mapping[str, Any]],
    total_parameters: int | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Count the nonzero weights of a pruned checkpoint: the ``compression`` block of a report.

    The rate is all weights / nonzero weights, over the pruned groups and over the whole model.

    Args:
        named: Parameters of the pruned model by name, any shapes, dtypes and devices.
        layers: What was meant to happen to each layer, such as ``Allocation.rows()``: mappings with ``name`` and
            ``keep`` (the planned share of weights that stay in (0, 1], None for a dense layer) and, where known,
            ``projection``, ``reason`` (why it is dense) and ``group`` (the budget it shares).
        total_parameters: Every parameter of the model, where ``named`` leaves some out; those count as
            nonzero. Default: ``named`` is the whole model.
        parts: Parts of the model to count one by one: globs of parameters by the part's name.

    Returns:
        ``{"groups": {"weights", "nonzero", "rate"}, "model": {...}, "layers": [...]}``, one row per layer of
        ``layers``; with ``parts`` also ``{"parts": {NAME: {"weights", "nonzero", "rate", "pruned_layers",
        "dense_layers"}}}``. Weights are counted on the tensors, whatever was meant; biases and norms count in ``model``
        only. A rate is None where nothing is left.

    Raises:
        ValueError: ``layers`` names a parameter that ``named`` lacks, or ``total_parameters`` is smaller than
            the number of weights in ``named``.
    """
    counts = _count_nonzero(named)
    rows: list[dict[str, Any]] = []
    for layer in layers:
        name = layer["name"]
        if name not in named:
            raise ValueError(f"the model has no parameter '{name}'{nearest(name, named)}")
        keep, projection = layer["keep"], layer.get("projection")
        dense = keep is None
        rows.append(
            {
                "name": name,
                "shape": list(named[name].shape),
                "weights": named[name].numel(),
                "nonzero": counts[name],
                "keep": None if dense else float(keep),
                "projection": None
                if dense
                else projection
                if isinstance(projection, Mapping)
                else str(projection),
                "reason": layer.get("reason") or "not selected" if dense else None,
                "group": layer.get("group"),
            }
        )
    weights = sum(tensor.numel() for tensor in named.values())
    total = weights if total_parameters is None else int(total_parameters)
    if total < weights:
        raise ValueError(f"total_parameters is {total}, but the parameters given hold {weights} weights")
    pruned = [row for row in rows if row["keep"] is not None]
    found: dict[str, Any] = {
        "groups": _tally(sum(row["weights"] for row in pruned), sum(row["nonzero"] for row in pruned)),
        "model": _tally(total, sum(counts.values()) + total - weights),
    }
    if parts:
        sizes = {name: tensor.numel() for name, tensor in named.items()}
        found["parts"] = {part: _part(globs, sizes, counts, rows) for part, globs in parts.items()}
    return {**found, "layers": rows}


def _part(
    globs: Sequence[str],
    sizes: Mapping[str, int],
    counts: Mapping[str, int],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    names = [name for name in sizes if matches_any(name, globs)]
    keeps = [row["keep"] for row in rows if matches_any(row["name"], globs)]
    return {
        **_tally(sum(sizes[name] for name in names), sum(counts[name] for name in names)),
        "pruned_layers": sum(keep is not None for keep in keeps),
        "dense_layers": sum(keep is None for keep in keeps),
    }


def _count_nonzero(named: Mapping[str, Tensor]) -> dict[str, int]:
    """Nonzero entries per tensor, with one transfer per device instead of one per tensor."""
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in named.items():
        by_device.setdefault(tensor.device, []).append(name)
    counts: dict[str, int] = {}
    for names in by_device.values():
        stacked = torch.stack([torch.count_nonzero(named[name].detach()) for name in names])
        counts.update(zip(names, stacked.tolist(), strict=True))
    return counts


def _tally(weights: int, nonzero: int) -> dict[str, Any]:
    return {"weights": weights, "nonzero": nonzero, "rate": weights / nonzero if nonzero else None}
