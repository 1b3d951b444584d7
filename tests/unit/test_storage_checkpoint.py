"""Checkpoints come back byte for byte, whatever is in them, and nothing in them is run."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slr_det import pack as packing
from slr_det import unpack as unpacking
from slr_det.errors import CheckpointError
from slr_det.storage import load, pack, save, unpack
from slr_det.storage.checkpoint import REST
from slr_det.storage.container import read
from slr_det.storage.pickles import storage_dtypes


def pruned(*shape: int, keep: float = 0.1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).masked_fill(
        torch.rand(shape, generator=generator) > keep, 0.0
    )


def training_state() -> dict[str, Any]:
    """What trainers save: nested, with shared storages, views, half precision, numbers and None."""
    weight = pruned(64, 32, 3, 3)
    return {
        "state_dict": OrderedDict(
            [
                ("conv.weight", weight),
                ("tied", weight),
                ("view", weight[3:9, ::2]),
                ("half", pruned(500).half()),
            ]
        ),
        "optimizer": {"state": {0: {"step": torch.tensor(7), "momentum": torch.randn(64, 32)}}, "lr": 0.1},
        "meta": {"names": ("car", "lane"), "epoch": 3, "best": None, "amp": True},
        "brain": pruned(300).bfloat16(),
        "mask": pruned(1000) != 0,
        "wide": torch.arange(50, dtype=torch.float64),
        "complex": torch.randn(5, dtype=torch.complex64),
        "empty": torch.empty(0, 4),
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(training_state(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_a_checkpoint_comes_back_byte_for_byte(checkpoint: Path, tmp_path: Path) -> None:
    packed = pack(checkpoint, tmp_path / "model.slr")
    assert (packed.original, packed.packed) == (
        checkpoint.stat().st_size,
        (tmp_path / "model.slr").stat().st_size,
    )
    assert packed.ratio > 3
    again = unpack(tmp_path / "model.slr", tmp_path / "again.pt")
    assert again.read_bytes() == checkpoint.read_bytes()
    loaded = torch.load(again, weights_only=True)
    state = loaded["state_dict"]
    assert state["tied"].data_ptr() == state["conv.weight"].data_ptr()
    assert state["view"].untyped_storage().data_ptr() == state["conv.weight"].untyped_storage().data_ptr()


def test_every_storage_is_encoded_by_its_own_dtype(checkpoint: Path, tmp_path: Path) -> None:
    pack(checkpoint, tmp_path / "model.slr")
    entries = read(tmp_path / "model.slr").entries
    dtypes = [entry.dtype for entry in entries]
    assert sorted(dtypes) == sorted(["F32", "F16", "I64", "F32", "BF16", "BOOL", "F64", "C64", "F32", "U8"])
    assert entries[-1].name == REST and entries[-1].bytes < 12_000
    (weight,) = (entry for entry in entries if entry.words == 64 * 32 * 9)
    assert weight.encoded.encoding == "gaps"
    found, _ = load(tmp_path / "model.slr")
    assert torch.equal(found[weight.name].reshape(64, 32, 3, 3), pruned(64, 32, 3, 3))


class Dangerous:
    """Unpickled, it would raise."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('unpickled')",)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    torch.save({"weight": pruned(2000), "object": Dangerous()}, tmp_path / "model.pt")
    pack(tmp_path / "model.pt", tmp_path / "model.slr")
    again = unpack(tmp_path / "model.slr", tmp_path / "again.pt")
    assert again.read_bytes() == (tmp_path / "model.pt").read_bytes()
    with pytest.raises(SystemExit, match="unpickled"):
        torch.load(again, weights_only=False)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_models_of_every_protocol_are_understood(protocol: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40)).half()
    torch.save(
        {"model": model, "long": [torch.zeros(3) for _ in range(300)]},
        tmp_path / "m.pt",
        pickle_protocol=protocol,
    )
    pack(tmp_path / "m.pt", tmp_path / "m.slr")
    assert {entry.dtype for entry in read(tmp_path / "m.slr").entries} == {"F16", "F32", "I64", "U8"}
    unpack(tmp_path / "m.slr", tmp_path / "back.pt")
    assert (tmp_path / "back.pt").read_bytes() == (tmp_path / "m.pt").read_bytes()


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_a_pickle_that_is_no_pickle_only_costs_bytes() -> None:
    with io.BytesIO() as stream:
        torch.save(training_state(), stream)
        with zipfile.ZipFile(stream) as archive:
            data = archive.read("archive/data.pkl")
    whole = storage_dtypes(data)
    assert sorted(whole.values()) == sorted(["F32", "F16", "I64", "F32", "BF16", "BOOL", "F64", "C64", "F32"])
    rng = random.Random(0)
    for _ in range(200):
        mutant = bytearray(data)
        mutant[rng.randrange(len(data))] = rng.randrange(256)
        storage_dtypes(bytes(mutant[: rng.randrange(len(data))]))
    assert storage_dtypes(b"") == storage_dtypes(b"\x80\x04\x95") == storage_dtypes(pickle.dumps([1])) == {}


def test_archives_that_others_wrote_come_back_too(checkpoint: Path, tmp_path: Path) -> None:
    """Compressed records and records that lie about themselves stay as they are."""
    squeezed = tmp_path / "squeezed.pt"
    with (
        zipfile.ZipFile(checkpoint) as source,
        zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            stored = zipfile.ZIP_STORED if name.endswith(("data.pkl", "data/0")) else zipfile.ZIP_DEFLATED
            target.writestr(name, source.read(name), stored)
    pack(squeezed, tmp_path / "m.slr")
    assert len(read(tmp_path / "m.slr").entries) == 2
    assert unpack(tmp_path / "m.slr", tmp_path / "b.pt").read_bytes() == squeezed.read_bytes()


def test_mutants_of_a_checkpoint_are_refused_or_come_back(tmp_path: Path) -> None:
    torch.save({"w": pruned(200), "h": pruned(90).half()}, tmp_path / "m.pt")
    data = (tmp_path / "m.pt").read_bytes()
    rng, kept = random.Random(0), 0
    for _ in range(40):
        mutant = bytearray(data)
        for _ in range(rng.randint(1, 5)):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        (tmp_path / "mutant.pt").write_bytes(mutant)
        try:
            pack(tmp_path / "mutant.pt", tmp_path / "m.slr")
        except CheckpointError as error:
            assert "\n" not in str(error)
        else:
            kept += 1
            assert unpack(tmp_path / "m.slr", tmp_path / "back.pt").read_bytes() == mutant
    assert kept > 20


def test_tensors_without_a_checkpoint_unpack_to_a_state_dict(tmp_path: Path) -> None:
    tensors = {"a.weight": pruned(30, 4), "b": torch.tensor(3)}
    save(tensors, tmp_path / "m.slr", {"epoch": 1})
    unpack(tmp_path / "m.slr", tmp_path / "m.pt")
    found = torch.load(tmp_path / "m.pt", weights_only=True)
    assert list(found) == list(tensors) and all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no checkpoint, or damaged"),
        (b"no model at all", "is no checkpoint, or damaged"),
        (None, r"cannot be read \(No such file"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"m\.pt: {message}"):
        pack(tmp_path / "m.pt", tmp_path / "m.slr")
    assert not (tmp_path / "m.slr").exists()


def test_old_checkpoints_and_other_archives_say_what_to_do(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(
        CheckpointError, match=r"has the format of torch before 1\.6; load it and torch\.save it again"
    ):
        pack(tmp_path / "old.pt", tmp_path / "m.slr")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"zip archive without data\.pkl"):
        pack(tmp_path / "other.zip", tmp_path / "m.slr")


# -- the commands ---------------------------------------------------------------------------------------------


def test_the_commands_pack_and_unpack(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = checkpoint.read_bytes()
    assert packing.main([str(checkpoint)]) == 0
    size = (tmp_path / "model.slr").stat().st_size
    assert capsys.readouterr().out == (
        f"{tmp_path / 'model.slr'}: {size:,} bytes, {len(original) / size:.2f}x smaller than {checkpoint} "
        f"({len(original):,} bytes)\n"
    )
    assert unpacking.main([str(tmp_path / "model.slr"), "-o", str(tmp_path / "again.pt")]) == 0
    assert f"again.pt: {len(original):,} bytes, from" in capsys.readouterr().out
    assert (tmp_path / "again.pt").read_bytes() == original


def test_the_commands_show_progress_of_large_files(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_LARGE", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert packing.main([str(checkpoint)]) == 0
    shown = capsys.readouterr().err
    assert "encoding: 100%" in shown and "compressing: 100%" in shown


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (packing, ["none.pt"], "none.pt: cannot be read"),
        (packing, ["model.pt", "-o", "model.pt"], "model.pt is the file to read; name another one with -o"),
        (unpacking, ["model.pt", "-o", "other.pt"], "model.pt: is no packed model"),
        (unpacking, ["model.slr", "-o", "other.pt", "--limit", "1kB"], "more than the 1000 that are allowed"),
        (packing, ["model.pt", "-o", "model.pt/m.slr"], "cannot be written"),
    ],
)
def test_the_commands_fail_in_one_line(
    command: Any,
    arguments: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pack(checkpoint, tmp_path / "model.slr")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("size", ["8 TB", "many", "-1", "1.5GB"])
def test_a_limit_that_is_no_size_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        unpacking.main(["m.slr", "-o", "m.pt", f"--limit={size}"])
    assert "is no size, expected bytes such as 500MB or 8GB" in capsys.readouterr().err


@pytest.mark.parametrize("command", [packing, unpacking])
def test_the_help_shows_examples(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    shown = capsys.readouterr().out
    assert "examples:" in shown and "exit codes" in shown and max(map(len, shown.splitlines())) <= 120
