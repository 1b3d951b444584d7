"""Versions, commit and compression as a report states them."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import slr_det
from slr_det.report import collect_versions, compression, git_commit


def git(folder: Path, *arguments: str) -> str:
    run = subprocess.run(
        [
            "git",
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b.c",
            "-c",
            "protocol.file.allow=always",
            *arguments,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "package").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "commit", "-q", "--allow-empty", "-m", "one")
    return folder


def test_versions_name_what_is_installed_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trainers = ("ultralytics", "torchvision", "pycocotools", "timm", "mmengine", "spconv", "matplotlib")
    for name in trainers:
        monkeypatch.delitem(sys.modules, name, raising=False)
    versions = collect_versions()
    assert [name for name in trainers if name in sys.modules] == []
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["slr_det"] == slr_det.__version__
    assert versions["torch"] == torch.__version__
    installed = {str(found.metadata["Name"]).lower(): found.version for found in metadata.distributions()}
    for name in (
        "numpy",
        "ultralytics",
        "ultralytics-opencv-headless",
        "pycocotools",
        "timm",
        "mmengine",
        "spconv",
    ):
        assert versions.get(name) == installed.get(name)


def test_the_commit_is_gits_own_answer(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert len(head) == 40
    assert git_commit(checkout) == head
    assert git_commit(checkout / "package") == head
    assert git_commit(checkout / "package" / "not_there_yet.py") == head
    git(checkout, "pack-refs", "--all")
    assert not (checkout / ".git" / "refs" / "heads" / "main").exists()
    assert git_commit(checkout) == head
    git(checkout, "checkout", "-q", "--detach")
    assert git_commit(checkout) == head


def test_the_commit_of_worktrees_and_submodules(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "worktree", "add", "-q", "-b", "side", "../side")
    side = tmp_path / "side"
    git(side, "commit", "-q", "--allow-empty", "-m", "two")
    assert git_commit(side) == git(side, "rev-parse", "HEAD") != git_commit(checkout)
    git(checkout, "pack-refs", "--all")
    assert git_commit(side) == git(side, "rev-parse", "HEAD")
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q", "-b", "main")
    git(outer, "submodule", "--quiet", "add", str(checkout), "inner")
    assert git_commit(outer / "inner") == git(checkout, "rev-parse", "HEAD")


def test_no_commit_outside_a_checkout_or_in_a_broken_one(checkout: Path, tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    installed = checkout / ".venv" / "lib" / "site-packages" / "slr_det"
    installed.mkdir(parents=True)
    assert git_commit(installed) is None
    for content in ("", "ref: refs/heads/unborn\n", "not a commit\n"):
        (checkout / ".git" / "HEAD").write_text(content, encoding="utf-8")
        assert git_commit(checkout) is None
    (checkout / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    assert git_commit(checkout) is None
    (checkout / ".git" / "HEAD").unlink()
    assert git_commit(checkout) is None


def pruned_model() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    named = {
        "first.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "a.weight": torch.randn(8, 4, 3, 3, generator=generator),
        "a.bias": torch.randn(8, generator=generator),
        "b.weight": torch.randn(6, 8, generator=generator).half(),
        "norm.weight": torch.ones(6),
    }
    named["a.weight"][torch.rand(8, 4, 3, 3, generator=generator) < 0.7] = 0
    named["b.weight"][:, ::2] = 0
    named["a.bias"][3] = -0.0
    return named


ROWS = [
    {"name": "first.weight", "keep": None, "projection": None, "reason": "first layer", "group": None},
    {"name": "a.weight", "keep": 0.3, "projection": "unstructured", "reason": None, "kept": 86},
    {
        "name": "b.weight",
        "keep": 0.5,
        "projection": {"name": "n:m", "n": 1, "m": 2},
        "reason": None,
        "group": "tail",
    },
]


def test_compression_counts_what_brute_force_counts() -> None:
    named = pruned_model()
    block = compression(named, ROWS)

    def brute(*names: str) -> tuple[int, int]:
        values = [value for name in names for value in named[name].flatten().tolist()]
        return len(values), sum(value != 0.0 for value in values)

    weights, nonzero = brute("a.weight", "b.weight")
    assert block["groups"] == {"weights": weights, "nonzero": nonzero, "rate": weights / nonzero}
    weights, nonzero = brute(*named)
    assert block["model"] == {"weights": weights, "nonzero": nonzero, "rate": weights / nonzero}
    assert [row["name"] for row in block["layers"]] == ["first.weight", "a.weight", "b.weight"]
    for row in block["layers"]:
        assert (row["weights"], row["nonzero"]) == brute(row["name"])
        assert row["shape"] == list(named[row["name"]].shape)
    first, second, third = block["layers"]
    assert (first["keep"], first["projection"], first["reason"]) == (None, None, "first layer")
    assert (second["keep"], second["projection"], second["reason"]) == (0.3, "unstructured", None)
    assert third["projection"] == {"name": "n:m", "n": 1, "m": 2} and third["group"] == "tail"
    assert third["nonzero"] == 24


def test_parameters_that_are_not_given_count_as_nonzero() -> None:
    named = pruned_model()
    whole = sum(tensor.numel() for tensor in named.values())
    block = compression(named, ROWS, total_parameters=whole + 100)
    plain = compression(named, ROWS)
    assert block["model"]["weights"] == whole + 100
    assert block["model"]["nonzero"] == plain["model"]["nonzero"] + 100
    assert block["groups"] == plain["groups"]
    with pytest.raises(ValueError, match=f"total_parameters is {whole - 1}"):
        compression(named, ROWS, total_parameters=whole - 1)


def test_nothing_left_and_nothing_pruned_have_no_rate() -> None:
    named = {"w": torch.zeros(2, 2)}
    block = compression(named, [{"name": "w", "keep": 0.25, "projection": "filter"}])
    assert block["groups"] == block["model"] == {"weights": 4, "nonzero": 0, "rate": None}
    block = compression(named, [{"name": "w", "keep": None}])
    assert block["groups"] == {"weights": 0, "nonzero": 0, "rate": None}
    assert block["layers"][0]["reason"] == "not selected"


def test_a_layer_that_the_model_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"no parameter 'a\.wieght' \(did you mean 'a\.weight'\?\)"):
        compression(pruned_model(), [{"name": "a.wieght", "keep": 0.5}])
