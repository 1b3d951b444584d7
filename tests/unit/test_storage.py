"""Tensors come back from a packed file bit for bit, and the file is as small as was promised."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from slr_det.errors import CheckpointError, DataError, StorageError
from slr_det.storage import load, save
from slr_det.storage.container import TABLE, read
from slr_det.storage.frames import FRAME, compress, decompress
from slr_det.storage.sparse import FORMATS, Encoded, decode, encode
from slr_det.storage.tensors import DTYPES

MILLION = 1_000_000


def bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return b"" if not flat.numel() else flat.view(torch.uint8).numpy().tobytes()


def assert_same(found: Tensor, wanted: Tensor) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert bits(found) == bits(wanted)


def round_trip(tensors: dict[str, Tensor], tmp_path: Path) -> dict[str, Tensor]:
    found, metadata = load(save(tensors, tmp_path / "model.slr"))
    assert metadata == {} and list(found) == list(tensors)
    return found


def random_bits(dtype: torch.dtype, count: int, zeros: float) -> Tensor:
    """Every bit pattern of a dtype, NaNs with payloads among them; a bool is 0 or 1."""
    size = torch.empty(0, dtype=dtype).element_size()
    rng = np.random.default_rng(size + count)
    raw = rng.integers(0, 2 if dtype == torch.bool else 256, (count, size), dtype=np.uint8)
    raw[rng.random(count) < zeros] = 0
    return torch.from_numpy(raw.reshape(-1)).view(dtype)


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_pattern_of_every_dtype_survives(dtype: torch.dtype, zeros: float, tmp_path: Path) -> None:
    tensor = random_bits(dtype, 3003, zeros).reshape(3, 7, 11, 13)
    assert_same(round_trip({"w": tensor}, tmp_path)["w"], tensor)


def test_a_negative_zero_is_a_value_and_a_nan_keeps_its_payload(tmp_path: Path) -> None:
    patterns = [0x80000000, 0x7FC00001, 0xFFABCDEF, 0x7F800000, 0xFF800000, 1, 0x80000001]
    words = np.zeros(1000, np.uint32)
    words[10 : 10 + len(patterns)] = patterns
    tensor = torch.from_numpy(words.view(np.float32))
    found = round_trip({"w": tensor}, tmp_path)["w"]
    assert found.view(torch.int32)[10:17].tolist() == torch.from_numpy(words.view(np.int32))[10:17].tolist()
    (entry,) = read(tmp_path / "model.slr").entries
    assert (entry.encoded.encoding, entry.encoded.nonzero) == ("gaps", len(patterns))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.tensor(-0.0),
        torch.tensor(0, dtype=torch.int64),
        torch.empty(0),
        torch.empty(3, 0, 2, dtype=torch.bfloat16),
        torch.zeros(5, 5),
        torch.arange(24.0).reshape(4, 6).T,
        torch.arange(100.0)[::7],
        torch.ones(1).expand(50, 50),
        torch.randn(4, 4, dtype=torch.complex64).conj(),
        nn.Parameter(torch.randn(3, 3)),
    ],
    ids=lambda tensor: f"{str(tensor.dtype).partition('.')[2]}{list(tensor.shape)}",
)
def test_unusual_tensors_survive(tensor: Tensor, tmp_path: Path) -> None:
    found = round_trip({"": tensor, "other": torch.ones(2)}, tmp_path)
    assert_same(found[""], tensor.detach().resolve_conj())


def test_names_order_and_metadata_are_kept(tmp_path: Path) -> None:
    tensors = {name: torch.full((3,), i) for i, name in enumerate(["b.weight", "a", "F32.0", TABLE, "ß/…"])}
    metadata = {"names": ["car", "lane"], "nested": {"rate": 78.5, "none": None}, "ok": True}
    found, said = load(save(tensors, tmp_path / "m.slr", metadata))
    assert list(found) == list(tensors) and said == metadata
    for name, tensor in tensors.items():
        assert_same(found[name], tensor)
    assert load(save({}, tmp_path / "m.slr")) == ({}, {})


def test_the_same_tensors_make_the_same_file(tmp_path: Path) -> None:
    tensors = {"w": random_bits(torch.float32, 5000, 0.8)}
    first = save(tensors, tmp_path / "a.slr").read_bytes()
    assert save(tensors, tmp_path / "b.slr").read_bytes() == first


@given(
    hnp.arrays(np.uint16, st.integers(0, 3000), elements=st.integers(0, 65535), fill=st.just(np.uint16(0))),
    st.sampled_from(["F16", "I16"]),
)
def test_any_words_come_back(words: np.ndarray, dtype: str) -> None:
    encoded = encode(words, FORMATS[dtype])
    assert decode(encoded, words.size, FORMATS[dtype]).tobytes() == words.tobytes()
    assert encoded.encoding == "dense" or encoded.nonzero == np.count_nonzero(words)


@pytest.mark.parametrize("gap", [0, 1, 253, 254, 255, 256, 509, 510, 511, 100_000])
def test_gaps_around_the_escape_come_back(gap: int) -> None:
    words = np.zeros(400_000, np.uint32)
    words[[gap, 2 * gap + 1, 399_999]] = 7
    encoded = encode(words, FORMATS["F32"])
    assert encoded.encoding == "gaps"
    assert encoded.parts["gaps"][: gap // 255 + 1].tolist() == [255] * (gap // 255) + [gap % 255]
    assert np.array_equal(decode(encoded, words.size, FORMATS["F32"]), words)


@pytest.mark.parametrize(
    ("encoding", "nonzero", "index", "message"),
    [
        ("dense", 3, None, "3 stored values for 20 entries"),
        ("mask", 21, [255, 255, 240], "21 stored values for 20 entries"),
        ("mask", 3, [224, 0], "mask of 2 bytes for 20 entries"),
        ("mask", 3, [192, 0, 8], "bits behind entry 20"),
        ("mask", 3, [224, 1, 0], "mask of 4 values, expected 3"),
        ("gaps", 3, [0, 0, 0, 0], "4 bytes of gaps for 3 values among 20 entries"),
        ("gaps", 3, [0, 0, 255], "gaps for 2 values, expected 3"),
        ("gaps", 3, [0, 0, 18], "lead to entry 20 of 20"),
        ("gaps", 3, None, r"has the parts \['values'\], expected \['gaps', 'values'\]"),
        ("other", 3, None, "unknown encoding 'other'"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(
    encoding: str, nonzero: int, index: list[int] | None, message: str
) -> None:
    parts = {"values": np.zeros((4, nonzero), np.uint8)}
    if index is not None:
        parts[encoding] = np.array(index, np.uint8)
    with pytest.raises(ValueError, match=message):
        decode(Encoded(encoding, nonzero, 0, parts), 20, FORMATS["F32"])
    with pytest.raises(ValueError, match="values of shape"):
        decode(Encoded("dense", 20, 0, {"values": np.zeros((3, 20), np.uint8)}), 20, FORMATS["F32"])


def test_the_smallest_encoding_is_chosen() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(1, 1 << 32, 100_000, dtype=np.uint32)
    chosen = {}
    for zeros in (0.0, 0.01, 0.5, 0.97):
        chosen[zeros] = encode(np.where(rng.random(words.size) < zeros, np.uint32(0), words), FORMATS["F32"])
    assert [encoded.encoding for encoded in chosen.values()] == ["dense", "dense", "mask", "gaps"]
    text = np.frombuffer(b"half of \0\0\0\0\0\0\0\0" * 5000, np.uint8)
    assert encode(text, FORMATS["U8"]).encoding == "dense", "bytes with matches compress best as they are"


def magnitude_pruned(count: int, sparsity: float) -> Tensor:
    weights = torch.randn(count, generator=torch.Generator().manual_seed(0))
    threshold = weights.abs().kthvalue(round(sparsity * count)).values
    return weights.masked_fill(weights.abs() <= threshold, 0.0)


@pytest.mark.parametrize(
    ("sparsity", "megabytes"), [(0.5, 18.0), (0.8, 7.5), (0.9, 3.75), (0.97, 1.3), (0.987, 0.55)]
)
def test_pruned_weights_take_the_promised_bytes(sparsity: float, megabytes: float, tmp_path: Path) -> None:
    """Promised for 10 M; a tenth of them must do with a tenth."""
    tensor = magnitude_pruned(MILLION, sparsity)
    size = save({"w": tensor}, tmp_path / "w.slr").stat().st_size
    assert size <= megabytes * 1e5
    assert_same(load(tmp_path / "w.slr")[0]["w"], tensor)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.987])
def test_weights_that_stay_at_random_come_within_one_percent_of_the_entropy(
    sparsity: float, tmp_path: Path
) -> None:
    """A normal number has 26.46 bits in float32, its place H(sparsity): no lossless format takes less on average."""
    generator = torch.Generator().manual_seed(0)
    stays = torch.rand(MILLION, generator=generator) >= sparsity
    tensor = torch.randn(MILLION, generator=generator).masked_fill(~stays, 0.0)
    keep = float(stays.float().mean())
    place = -keep * math.log2(keep) - (1 - keep) * math.log2(1 - keep)
    bound = MILLION * (26.46 * keep + place) / 8
    size = save({"w": tensor}, tmp_path / "w.slr").stat().st_size
    assert size < 1.012 * bound + 2000


def test_structure_in_the_zeros_costs_nearly_nothing(tmp_path: Path) -> None:
    filters = torch.randn(256, 128, 3, 3) * (torch.arange(256) % 3 == 0).float().reshape(-1, 1, 1, 1)
    size = save({"w": filters.abs()}, tmp_path / "w.slr").stat().st_size
    assert size < 1.01 * 4 * int(filters.count_nonzero())


def test_the_file_is_zstd_around_safetensors(tmp_path: Path) -> None:
    data = save({"w": torch.eye(40)}, tmp_path / "w.slr").read_bytes()
    content = zstandard.ZstdDecompressor().stream_reader(data[72:], read_across_frames=True).read()
    parts = dict(safetensors.deserialize(content))
    assert set(parts) == {TABLE, "gaps", "F32.0", "F32.1", "F32.2", "F32.3"}
    assert parts["gaps"]["data"] == bytes([0] + 39 * [40]) and parts["F32.0"]["data"] == bytes(40)


@pytest.mark.parametrize("size", [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME])
def test_frames_hold_any_number_of_bytes(size: int) -> None:
    content = np.random.default_rng(0).integers(0, 4, size, dtype=np.uint8).tobytes()
    assert decompress(compress(content), size) == content


def test_progress_reaches_the_end_of_each_step(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    save(
        {"a": torch.ones(10), "b": torch.ones(30)},
        tmp_path / "m.slr",
        progress=lambda *step: seen.setdefault(step[0], []).append(step[1:]),
    )
    assert seen["encoding"] == [(40, 160), (160, 160)]
    assert seen["compressing"][-1][0] == seen["compressing"][-1][1]


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({3: torch.ones(1)}, {}, "name is 3, expected a string"),
        ({"w": torch.eye(3).to_sparse()}, {}, r"tensor 'w' is torch.float32 with layout torch.sparse_coo"),
        ({"w": torch.ones(2, device="meta")}, {}, "on meta; expected a dense tensor"),
        ({}, {"x": float("nan")}, "no plain JSON values"),
        ({}, {"x": torch.ones(1)}, "no plain JSON values"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    tensors: dict, metadata: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        save(tensors, tmp_path / "m.slr", metadata)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.slr: cannot be read \(No such file"):
        load(tmp_path / "none.slr")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        save({}, tmp_path / "file" / "m.slr")


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'x' is a list, expected a tensor"):
        save({"x": [1, 2]}, tmp_path / "x.slr")  # type: ignore[dict-item]
