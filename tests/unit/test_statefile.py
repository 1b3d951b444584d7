"""State files: whole or not at all, nothing in them is executed, one clear line for every bad one."""

from __future__ import annotations

import errno
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from slr_det.errors import CheckpointError, StorageError
from slr_det.statefile import first_difference, load_state, save_state

STATE: dict[str, Any] = {
    "tensor": torch.arange(200_000, dtype=torch.float32),
    "mask": torch.tensor([True, False]),
    "number": 0.1,
    "nested": {"list": [1, None, "text", {"deep": 2.5}]},
}


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = save_state(tmp_path / "deep" / "state.pt", STATE, kind="engine")
    found = load_state(path, kind="engine")
    assert torch.equal(found.pop("tensor"), STATE["tensor"]) and torch.equal(found.pop("mask"), STATE["mask"])
    assert found == {"number": 0.1, "nested": STATE["nested"]}
    assert os.listdir(path.parent) == ["state.pt"]
    torch.load(path, weights_only=True)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_state(tmp_path / "none.pt", kind="engine")
    assert "none.pt: no such state file" in one_line(caught)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_a_truncated_file(share: float, tmp_path: Path) -> None:
    path = save_state(tmp_path / "state.pt", STATE, kind="engine")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError) as caught:
        load_state(path, kind="engine")
    assert "state.pt: truncated or damaged" in one_line(caught)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["torch", "torch legacy", "pickle"])
def test_a_foreign_pickle_is_refused_and_not_executed(writer: str, tmp_path: Path) -> None:
    path, target = tmp_path / "foreign.pt", tmp_path / "executed"
    content = {"state": {"tensor": torch.zeros(3)}, "bomb": Bomb(target)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(CheckpointError) as caught:
        load_state(path, kind="engine")
    assert "foreign.pt" in one_line(caught) and "not a state file of slr_det" in one_line(caught)
    assert not target.exists()
    # The control: opened without care it does run.
    torch.load(path, weights_only=False) if writer != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 almost a zip", bytes(1000)])
def test_a_file_of_something_else(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"other.pt: .*not a state file of slr_det"):
        load_state(path, kind="engine")


def test_a_checkpoint_of_tensors_that_is_not_ours(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(2)}}, tmp_path / "upstream.pt")
    with pytest.raises(CheckpointError, match="upstream.pt: not a state file of slr_det"):
        load_state(tmp_path / "upstream.pt", kind="engine")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="list.pt: not a state file of slr_det"):
        load_state(tmp_path / "list.pt", kind="engine")


def test_a_state_of_another_kind(tmp_path: Path) -> None:
    path = save_state(tmp_path / "state.pt", STATE, kind="masks")
    with pytest.raises(CheckpointError, match="holds a state of kind 'masks', expected 'engine'"):
        load_state(path, kind="engine")


def _no_space(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _FullDisk:
    """A file on a disk that fills up after ``room`` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(memoryview(data).cast("B"))
        if self.room < 0:
            _no_space()
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> _FullDisk:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 1000, 500_000])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_state(tmp_path / "state.pt", STATE, kind="engine")
    before = path.read_bytes()
    real = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda fd, *args, **kwargs: _FullDisk(real(fd, *args, **kwargs), room))
    with pytest.raises(StorageError) as caught:
        save_state(path, {**STATE, "number": 2}, kind="engine")
    monkeypatch.undo()
    assert "state.pt" in one_line(caught) and "No space left on device" in one_line(caught)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["state.pt"]


def test_a_disk_that_fills_up_at_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_state(tmp_path / "state.pt", STATE, kind="engine")
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(StorageError, match="No space left on device"):
        save_state(path, {"number": 2}, kind="engine")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["state.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_state(tmp_path / "state.pt", STATE, kind="engine")
    before = path.read_bytes()
    real = tempfile.mkstemp

    def mkstemp(**options: Any) -> tuple[int, str]:
        descriptor, name = real(**options)
        os.close(descriptor)
        return os.open("/dev/full", os.O_WRONLY), name

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    with pytest.raises(StorageError, match="No space left on device"):
        save_state(path, {**STATE, "number": 2}, kind="engine")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["state.pt"]


@pytest.mark.parametrize(
    ("saved", "own", "expected"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {"a": 1.0}, None),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "a.b is [1, 2] there and [1, 3] here"),
        ({"a": 1}, {"a": 1, "b": 2}, "b exists only here"),
        ({"a": 1, "b": 2}, {"a": 1}, "b exists only there"),
        ({"g": [{"name": "x", "k": 1}]}, {"g": [{"name": "x", "k": 2}]}, "g 'x'.k is 1 there and 2 here"),
        ({"g": []}, {"g": [{"name": "x"}]}, "g 'x' exists only here"),
        (
            {"g": [{"name": "x"}, {"name": "y"}]},
            {"g": [{"name": "y"}, {"name": "x"}]},
            "g are in another order: ['x', 'y'] there and ['y', 'x'] here",
        ),
    ],
)
def test_the_first_difference_is_named(saved: Any, own: Any, expected: str | None) -> None:
    assert first_difference(saved, own) == expected
