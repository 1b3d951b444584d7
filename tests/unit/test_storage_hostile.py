"""Damaged and hostile files are refused in one line, without memory that their size does not justify."""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import zstandard
from torch import Tensor

from slr_det.errors import CheckpointError
from slr_det.storage import load, pack, save, unpack
from slr_det.storage.container import TABLE, read_bytes, seal
from slr_det.storage.frames import compress, decompress
from slr_det.storage.tensors import tensors_of

HEAD = 72


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Tensor]]:
    """A small file with every encoding in it."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "dense": torch.randn(5, 7, generator=generator),
        "mask": torch.randn(64, generator=generator).masked_fill(torch.arange(64) % 2 == 0, 0.0),
        "gaps": torch.randn(400, generator=generator).masked_fill(torch.arange(400) % 90 > 0, 0.0).half(),
        "far": torch.zeros(1000).index_fill(0, torch.tensor([3, 700]), 1.5),
        "steps": torch.tensor(12),
    }
    path = save(tensors, tmp_path_factory.mktemp("storage") / "sample.slr", {"epoch": 3})
    data = path.read_bytes()
    encodings = [entry.encoded.encoding for entry in read_bytes(data, "sample").entries]
    assert encodings == ["dense", "mask", "gaps", "gaps", "dense"]
    return data, tensors


def decode(data: bytes) -> dict[str, Tensor]:
    return tensors_of(read_bytes(data, "mutant"), "mutant")


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return list(found) == list(wanted) and all(
        (a.dtype, a.shape) == (b.dtype, b.shape) and a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(found.values(), wanted.values(), strict=True)
    )


def content_of(data: bytes) -> bytes:
    return bytes(decompress(data[HEAD:], struct.unpack_from("<Q", data, 24)[0]))


def resealed(content: bytes, unpacked: int) -> bytes:
    """A file whose checksum is right: what only its author's ill will explains."""
    return seal(compress(content), len(content), unpacked)


def unpacked_of(data: bytes) -> int:
    return int(struct.unpack_from("<Q", data, 16)[0])


def rebuilt(
    data: bytes, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None], unpacked: int | None = None
) -> bytes:
    """The file with its table and parts changed, and sealed again."""
    parts = safetensors.numpy.load(content_of(data))
    table = json.loads(parts.pop(TABLE).tobytes())
    change(table, parts)
    parts[TABLE] = np.frombuffer(json.dumps(table).encode(), np.uint8)
    return resealed(safetensors.numpy.save(parts), unpacked_of(data) if unpacked is None else unpacked)


def refused(data: bytes, message: str, *, most: int = 3 << 20) -> None:
    """One line, quickly, and without memory."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(CheckpointError, match=message) as caught:
            decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert peak < len(data) + most
    assert time.perf_counter() - began < 5


# -- fuzzing --------------------------------------------------------------------------------------------------


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four random faults: flipped bits, bytes, cuts, insertions, repeats, zeroed and extreme numbers."""
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(mutant) + 1)
        kind = rng.randrange(8)
        if kind == 0 and at < len(mutant):
            mutant[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(mutant):
            mutant[at] = rng.randrange(256)
        elif kind == 2:
            del mutant[at:]
        elif kind == 3:
            del mutant[at : at + rng.randint(1, 40)]
        elif kind == 4:
            mutant[at:at] = rng.randbytes(rng.randint(1, 40))
        elif kind == 5:
            mutant[at:at] = mutant[at : at + rng.randint(1, 60)]
        elif kind == 6:
            mutant[at : at + 4] = bytes(4)
        else:
            number = rng.choice([0, 1, 255, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1])
            mutant[at : at + 8] = number.to_bytes(8, "little")
        if not mutant:
            break
    return bytes(mutant)


def fuzz(sample: tuple[bytes, dict[str, Tensor]], count: int, seed: int) -> dict[str, int]:
    """Mutants of the file, and of what is inside with the checksum made right again."""
    data, tensors = sample
    content, unpacked = content_of(data), unpacked_of(data)
    rng = random.Random(seed)
    seen = {"refused": 0, "same": 0, "resealed and read": 0}
    for number in range(count):
        kind = number % 4
        if kind < 2:
            mutant = mutate(data, rng)
        elif kind == 2:
            mutant = seal(mutate(data[HEAD:], rng), len(content), unpacked)
        else:
            changed = mutate(content, rng)
            mutant = seal(zstandard.compress(changed, 1), len(changed), unpacked)
        began = time.perf_counter()
        try:
            found = decode(mutant)
        except CheckpointError as error:
            assert "\n" not in str(error)
            seen["refused"] += 1
        else:
            if kind < 2:
                assert same(found, tensors), "a damaged file gave other tensors"
                seen["same"] += 1
            else:
                seen["resealed and read"] += 1
        assert time.perf_counter() - began < 10
    return seen


def test_a_few_thousand_mutants_are_refused_or_read_right(sample: tuple[bytes, dict[str, Tensor]]) -> None:
    seen = fuzz(sample, 4000, seed=0)
    assert seen["refused"] > 3000
    assert seen["resealed and read"] > 0, "no mutant got past the checksum: the parser was not tested"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_mutants_are_refused_or_read_right(
    sample: tuple[bytes, dict[str, Tensor]],
) -> None:
    tracemalloc.start()
    try:
        seen = fuzz(sample, 120_000, seed=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(seen.values()) == 120_000 and seen["refused"] > 90_000
    assert peak < 300 << 20


def test_every_single_byte_matters(sample: tuple[bytes, dict[str, Tensor]]) -> None:
    data, _ = sample
    for at in range(len(data)):
        with pytest.raises(CheckpointError):
            decode(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises(CheckpointError):
            decode(data[:at])


# -- one attack after the other -------------------------------------------------------------------------------


def test_another_file_is_no_packed_model(tmp_path: Path) -> None:
    for name, data in (("text", b"hello"), ("empty", b""), ("zip", b"PK\3\4" + bytes(100))):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"{name}: is no packed model; expected"):
            load(path)


def test_truncated_and_prolonged_files_say_so(sample: tuple[bytes, dict[str, Tensor]]) -> None:
    data, _ = sample
    refused(data[:40], r"is truncated \(40 bytes\)")
    refused(data[:-1], rf"is truncated \({len(data) - 1} bytes, expected {len(data)}\)")
    refused(data + b"x", "has something behind its end")


def test_another_version_says_so(sample: tuple[bytes, dict[str, Tensor]]) -> None:
    data, _ = sample
    content = content_of(data)
    refused(
        seal(data[HEAD:], len(content), unpacked_of(data), version=2),
        "has version 2 of the format, expected 1",
    )


def test_a_wrong_checksum_says_so(sample: tuple[bytes, dict[str, Tensor]]) -> None:
    data, _ = sample
    refused(data[:-1] + bytes([data[-1] ^ 1]), "is damaged")


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    narrow = zstandard.ZstdCompressionParameters.from_level(3, window_log=20)
    bomb = zstandard.ZstdCompressor(compression_params=narrow).compressobj()
    bomb = bomb.compress(bytes(200 << 20)) + bomb.flush()
    assert len(bomb) < 20_000
    refused(seal(bomb, 1000, 1000), "holds more than the 1000 bytes of content that it declares")
    refused(seal(bomb, 2**40, 1000), f"would unpack to {2**40} bytes")
    refused(seal(bomb, 2**64 - 1, 1000), "would unpack to")
    refused(seal(zstandard.compress(bytes(100)), 1000, 1000), "holds 100 bytes of content, expected 1000")
    wide = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    refused(seal(stream.compress(b"wide") + stream.flush(), 4, 4), "requires too much memory")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no safetensors file"),
        (b"\xff" * 8, "header of 18446744073709551615 bytes inside"),
        (struct.pack("<Q", 40) + b"{}", "header of 40 bytes inside"),
        (struct.pack("<Q", 2) + b"{}", "holds no part 'table'"),
        (struct.pack("<Q", 2) + b"[[", "no safetensors file"),
        (safetensors.numpy.save({TABLE: np.zeros(3, np.float32)}), "dtype F32, expected U8"),
        (safetensors.numpy.save({TABLE: np.frombuffer(b"[" * 100_000, np.uint8)}), "recursion"),
        (safetensors.numpy.save({TABLE: np.frombuffer(b"\xff\xfe", np.uint8)}), "utf-8"),
        (safetensors.numpy.save({TABLE: np.frombuffer(b"[]", np.uint8)}), "has a table without exactly"),
        (
            safetensors.numpy.save({TABLE: np.zeros(5 << 20, np.uint8)}),
            "has a table of 5242880 bytes, more than",
        ),
    ],
    ids=range(10),
)
def test_content_that_is_none_is_refused(content: bytes, message: str) -> None:
    refused(resealed(content, 0), message, most=30 << 20)


def put(number: int, **fields: Any) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    return lambda table, parts: table["tensors"][number].update(fields)


def part(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    return lambda table, parts: parts.update({name: change(parts[name].copy())})


def bit(at: int) -> Callable[[np.ndarray], np.ndarray]:
    def flip(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[at] ^= 1
        return array

    return flip


ATTACKS = {
    "name twice": (put(1, name="dense"), "names a tensor twice"),
    "overflow": (put(0, shape=[2**62, 2**62]), r"impossible shape \[4611686018427387904"),
    "zero times overflow": (put(0, shape=[2**70, 0]), "impossible shape"),
    "negative": (put(0, shape=[-5, -7]), "impossible shape"),
    "float": (put(0, shape=[5.0, 7]), "impossible shape"),
    "bool": (put(0, shape=[True, 35]), "impossible shape"),
    "axes": (put(0, shape=[1] * 100), "impossible shape"),
    "huge": (put(0, shape=[2**58]), "unpacks to 1152921504606852040 bytes, but its header says"),
    "another dtype": (put(0, dtype="F31"), "unknown dtype 'F31'"),
    "wider dtype": (put(0, dtype="F64"), "asks for 35 bytes of 'F64.0', of which 0 are left"),
    "another encoding": (put(0, encoding="sparse"), "unknown encoding 'sparse'"),
    "other index": (put(1, encoding="gaps", index=6), "asks for 5 bytes of 'gaps', of which 3 are left"),
    "fewer values": (put(1, nonzero=31), "1 bytes of 'F32.0' too many"),
    "negative values": (put(1, nonzero=-1), "asks for -1 bytes of 'F32.0'"),
    "values of another kind": (put(1, nonzero=None), "nonzero None"),
    "negative base": (put(0, base=-1), "a base that 32 bits do not hold"),
    "huge base": (put(0, base=10**4000), "a base that 32 bits do not hold"),
    "extra key": (put(0, more=1), "without exactly name, dtype"),
    "no list": (lambda table, parts: table.update(tensors={}), "tensors is of the wrong kind"),
    "no row": (lambda table, parts: table["tensors"].pop(), "holds 1 bytes of 'I64.0' too many"),
    "no values": (lambda table, parts: parts.pop("F32.0"), "35 bytes of 'F32.0', of which 0 are left"),
    "mask bit": (part("mask", bit(3)), "has a mask of 3[13] values, expected 32"),
    "mask behind the end": (put(1, shape=[63]), "unpacks to"),
    "short mask": (put(1, index=7), "holds 1 bytes of 'mask' too many"),
    "gap past the end": (part("gaps", lambda gaps: np.full_like(gaps, 254)), "lead to entry 1[0-9]+ of 400"),
    "gap without end": (part("gaps", lambda gaps: gaps | np.uint8(255)), "has gaps for 0 values, expected 5"),
    "other gaps": (put(2, index=6), "asks for 4 bytes of 'gaps', of which 3 are left"),
    "negative index": (put(1, index=-8), "asks for -8 bytes of 'mask'"),
    "an index without use": (put(0, index=8), "8 bytes of an index that its encoding lacks"),
    "short values": (part("F32.1", lambda values: values[:-1]), "2 bytes of 'F32.1', of which 1 are left"),
    "a part of nobody": (
        lambda table, parts: parts.update(x=np.zeros(3, np.uint8)),
        "3 bytes of 'x' too many",
    ),
    "infinity": (lambda table, parts: table["metadata"].update(x=float("inf")), "Infinity in its table"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_tables_and_parts_that_lie_are_refused(attack: str, sample: tuple[bytes, dict[str, Tensor]]) -> None:
    change, message = ATTACKS[attack]
    refused(rebuilt(sample[0], change), message)


def test_a_huge_tensor_needs_leave(sample: tuple[bytes, dict[str, Tensor]], tmp_path: Path) -> None:
    """A tensor of zeros is honest and takes 4 bytes for each of its entries: from 281 bytes of file."""
    entries = 100_000_000

    def zeros(table: dict[str, Any], parts: dict[str, np.ndarray]) -> None:
        row = {"name": "w", "dtype": "F32", "shape": [entries], "encoding": "gaps"}
        table["tensors"] = [{**row, "nonzero": 0, "base": 0, "index": 0}]
        parts.clear()

    data = rebuilt(sample[0], zeros, unpacked=4 * entries)
    refused(
        data, "would unpack to 400000000 bytes, more than the 2[0-9]+ that are allowed for a file of 2[0-9]+"
    )
    (tmp_path / "zeros.slr").write_bytes(data)
    found, _ = load(tmp_path / "zeros.slr", limit=4 * entries)
    assert found["w"].shape == (entries,)


CHECKPOINTS = {
    "kind": ("kind", "other"),
    "longer": ("bytes", 10**9),
    "starts": ("starts", [0]),
    "negative": ("starts", [-1]),
    "many": ("starts", [64, 128, 256]),
    "strings": ("starts", ["64"]),
    "digest": ("sha256", None),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_that_cannot_be_are_refused(case: str, tmp_path: Path) -> None:
    torch.save({"w": torch.eye(20)}, tmp_path / "m.pt")
    data = pack(tmp_path / "m.pt", tmp_path / "m.slr").path.read_bytes()
    key, value = CHECKPOINTS[case]
    (tmp_path / "m.slr").write_bytes(
        rebuilt(data, lambda table, parts: table["checkpoint"].update({key: value}))
    )
    with pytest.raises(
        CheckpointError, match=r"m\.slr: (describes a checkpoint that cannot be|does not give back)"
    ):
        unpack(tmp_path / "m.slr", tmp_path / "back.pt")
    assert not (tmp_path / "back.pt").exists()
