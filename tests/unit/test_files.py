"""Atomic writing: all or nothing, whatever goes wrong."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slr_det.errors import StorageError
from slr_det.files import atomic_open, atomic_write


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_bytes_and_text_arrive_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.txt"
    assert atomic_write(target, "pruned \u00e9\n") == target
    assert target.read_bytes() == b"pruned \xc3\xa9\n"
    atomic_write(str(target), b"\x00\xff")
    assert target.read_bytes() == b"\x00\xff"
    assert names(target.parent) == ["file.txt"]


def test_a_full_disk_leaves_the_old_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = atomic_write(tmp_path / "state.bin", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as raised:
        atomic_write(target, b"new" * 1000)
    message = str(raised.value)
    assert str(target) in message and "No space left on device" in message and "\n" not in message
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["state.bin"]


def test_a_file_that_outgrows_its_limit_is_the_users_error_also_inside_torch_save(tmp_path: Path) -> None:
    """The real thing: the kernel refuses the write, and torch.save wraps the error into one of its own."""
    target = atomic_write(tmp_path / "weights.pt", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError) as raised, atomic_open(target) as file:
            torch.save({"w": torch.ones(1_000_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(raised.value)
    assert message.startswith(f"{target}: cannot be written (File too large)") and "\n" not in message
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["weights.pt"]


def test_an_error_of_the_caller_passes_through_and_an_interruption_too(tmp_path: Path) -> None:
    target = atomic_write(tmp_path / "file", b"old")
    for kind in (KeyError, KeyboardInterrupt, RuntimeError):
        with pytest.raises(kind), atomic_open(target) as file:
            file.write(b"half")
            raise kind("stop")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    atomic_write(tmp_path / "file", b"in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        atomic_write(tmp_path / "file" / "below", b"")


def test_permissions_follow_the_umask_then_the_old_file(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        target = atomic_write(tmp_path / "file", b"1")
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        target.chmod(0o604)
        atomic_write(target, b"2")
        assert stat.S_IMODE(target.stat().st_mode) == 0o604
    finally:
        os.umask(mask)


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    target = atomic_write(tmp_path / "file", b"old")
    program = """
import os, signal, sys
from slr_det.files import atomic_open
with atomic_open(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", program, str(target)], check=False, timeout=120)
    assert run.returncode == -9
    assert target.read_bytes() == b"old"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_or_device_is_refused_and_stays(tmp_path: Path) -> None:
    target = tmp_path / "pipe"
    os.mkfifo(target)
    with pytest.raises(StorageError, match="is a device or a pipe"):
        atomic_write(target, b"new")
    assert stat.S_ISFIFO(target.stat().st_mode)
    assert names(tmp_path) == ["pipe"]
