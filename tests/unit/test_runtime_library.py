"""The runtime's library: the Python side agrees with the header, and a file that is no such library is one line."""

from __future__ import annotations

import re
import shutil
import struct
import sys
from ctypes import POINTER, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slr_det.errors import RuntimeRefusedError, RuntimeUnavailableError
from slr_det.runtime import __main__ as command
from slr_det.runtime import library as module
from slr_det.runtime.binary import problem_of, this_machine
from slr_det.runtime.build import CSRC, LIBRARY, build, find_compiler, sources_hash, stamp_of
from slr_det.runtime.functions import SIGNATURES
from slr_det.runtime.library import (
    ABI,
    ISA_VARIABLE,
    LIBRARY_VARIABLE,
    SLACK,
    Activation,
    ConvInfo,
    ConvSpec,
    Isa,
    Layout,
    Library,
    load,
    unavailable,
)

HEADER = re.sub(r"/\*.*?\*/", "", (CSRC / "slr_runtime.h").read_text(encoding="utf-8"), flags=re.DOTALL)
SCALARS: dict[str, Any] = {
    "int": c_int,
    "int32_t": c_int32,
    "int64_t": c_int64,
    "float": c_float,
    "double": c_double,
}
STRUCTS = {"slr_layout": Layout, "slr_conv_spec": ConvSpec, "slr_conv_info": ConvInfo}
elf = pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="the headers of ELF files are read")


# -- the header -----------------------------------------------------------------------------------------------


def python_type(declaration: str) -> Any:
    """The type of ctypes for a parameter or a result, such as ``const slr_layout *in``."""
    words = re.sub(r"\b(const|void)\b|\*", " ", declaration).split()
    stars = declaration.count("*")
    if stars == 0:
        return SCALARS[words[0]] if words else None
    if stars == 2:
        return POINTER(c_void_p)
    return POINTER(STRUCTS[words[0]]) if words[0] in STRUCTS else c_void_p


def test_every_function_of_the_header_is_bound_with_its_types() -> None:
    found = {}
    for result, name, arguments in re.findall(r"SLR_API ([\w ]+?[ *]+)(slr_\w+)\(([^)]*)\)", HEADER):
        types = tuple(python_type(argument) for argument in arguments.split(",") if argument != "void")
        found[name] = (python_type(result), types)
    assert found == SIGNATURES


@pytest.mark.parametrize("name", STRUCTS)
def test_every_struct_has_the_fields_of_the_header(name: str) -> None:
    (body,) = re.findall(r"typedef struct \{([^}]*)\} " + name + ";", HEADER)
    wanted = [
        (field.strip(), SCALARS[kind])
        for kind, fields in re.findall(r"(\w+) ([^;]+);", body)
        for field in fields.split(",")
    ]
    assert list(STRUCTS[name]._fields_) == wanted


def test_the_numbers_are_those_of_the_header() -> None:
    defined = dict(re.findall(r"#define (SLR_\w+) (\d+)", HEADER))
    assert (defined["SLR_ABI"], defined["SLR_SLACK"]) == (str(ABI), str(SLACK))
    numbers = {name: int(value) for name, value in re.findall(r"SLR_(\w+) = (\d+)", HEADER)}
    for enum in (Isa, Activation):
        assert {member.name: numbers[member.name] for member in enum} == dict(enum.__members__)


# -- files that are no library of this machine ----------------------------------------------------------------


@pytest.fixture
def copied(runtime: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the library, without a stamp, which is the one that is asked for."""
    path = tmp_path / LIBRARY
    shutil.copy(runtime.path, path)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(path))
    return path


def refusal() -> str:
    """Why the library is not available: one line that says how to go on."""
    reason = unavailable()
    assert reason is not None and "\n" not in reason
    assert f"unset {LIBRARY_VARIABLE}" in reason
    with pytest.raises(RuntimeUnavailableError):
        load()
    return reason


def test_a_named_library_is_used(copied: Path) -> None:
    assert unavailable() is None
    assert load().path == copied


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    assert f"{tmp_path / 'none.so'} does not exist" in refusal()


@elf
def test_a_library_of_another_machine_is_refused(copied: Path) -> None:
    others = {183: "aarch64", 62: "x86_64", 999: "machine number 999"}
    content = bytearray(copied.read_bytes())
    (here,) = struct.unpack_from("<H", content, 18)
    for number, machine in others.items():
        struct.pack_into("<H", content, 18, number)
        copied.write_bytes(content)
        wanted = f"was built for {machine}, and this machine is {this_machine()}"
        assert problem_of(copied) == (None if number == here else wanted)
    assert "was built for machine number 999" in refusal()


@elf
def test_a_library_that_is_cut_off_anywhere_is_refused_before_it_is_loaded(copied: Path) -> None:
    content = copied.read_bytes()
    lengths = [0, 1, 3, 4, 17, 19, 63, 64, 100, 4096, len(content) // 2, len(content) - 65, len(content) - 1]
    for length in lengths:
        copied.write_bytes(content[:length])
        assert problem_of(copied) is not None, length
    assert f"is cut off: {len(content) - 1:,} bytes of {len(content):,}" in refusal()


@elf
@pytest.mark.parametrize("content", [b"not a library\n", b"\x7fELF", b"MZ" + bytes(200)])
def test_a_file_that_is_no_library_is_refused(copied: Path, content: bytes) -> None:
    copied.write_bytes(content)
    assert "is not a shared library" in refusal() or "is cut off" in refusal()


def test_a_folder_is_refused(copied: Path) -> None:
    copied.unlink()
    copied.mkdir()
    assert "cannot be read" in refusal()


def test_the_bytes_have_to_be_those_that_were_built(copied: Path, runtime: Library) -> None:
    shutil.copy(stamp_of(runtime.path), stamp_of(copied))
    assert problem_of(copied) is None
    content = bytearray(copied.read_bytes())
    content[len(content) // 2] ^= 1
    copied.write_bytes(content)
    assert "is damaged: not the bytes that were built" in refusal()
    copied.write_bytes(bytes(content) + b"x")
    assert f"is damaged: {len(content) + 1:,} bytes, of {len(content):,}" in refusal()
    stamp_of(copied).write_text("{", encoding="utf-8")
    assert "has a damaged stamp" in refusal()


def compiled(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library from a source of the test's own."""
    find_compiler()
    sources = folder / "csrc"
    sources.mkdir()
    (sources / "one.c").write_text(source, encoding="utf-8")
    monkeypatch.setattr("slr_det.runtime.build.CSRC", sources)
    return build(folder / "built")


def test_a_library_with_another_interface_is_refused(
    runtime: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "".join(
        f'__attribute__((visibility("default"))) int {name}(void) {{ return 999; }}\n' for name in SIGNATURES
    )
    monkeypatch.setenv(LIBRARY_VARIABLE, str(compiled(source, tmp_path, monkeypatch)))
    assert f"has interface 999, and this version needs {ABI}" in refusal()


def test_some_other_library_is_refused(
    runtime: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(compiled("int unrelated;\n", tmp_path, monkeypatch)))
    assert "is not a library of this version" in refusal() and "slr_abi" in refusal()


# -- where it is looked for -----------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither beside the package nor in the cache is a library; the folder that stands for the package's."""
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    monkeypatch.setenv("SLR_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "INSTALLED", tmp_path / "package")
    monkeypatch.setattr(module, "_loaded", module._Loaded())
    (tmp_path / "package").mkdir()
    return tmp_path / "package"


def test_without_a_library_the_line_says_how_to_build_one(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = unavailable()
    assert reason is not None and "is not built" in reason and "python -m slr_det.runtime build" in reason
    assert command.main(["info"]) == 2
    said = capsys.readouterr()
    assert said.out.count("does not exist") == 2
    assert said.err == f"error: {reason}; until then models run dense\n"


def test_one_of_other_sources_is_passed_over_for_the_cache(nowhere: Path, runtime: Library) -> None:
    stamp = '{"size": %d, "sha256": "%s", "sources": "%s"}'
    sources = sources_hash()
    places = {nowhere: "0" * 64, module.cache_folder(sources): sources}
    for folder, origin in places.items():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(runtime.path, folder / LIBRARY)
        text = stamp % (runtime.path.stat().st_size, runtime.sha256, origin)
        stamp_of(folder / LIBRARY).write_text(text, encoding="utf-8")
    assert load().path == module.cache_folder(sources) / LIBRARY
    (module.cache_folder(sources) / LIBRARY).unlink()
    module._loaded.__init__()  # type: ignore[misc]  # as a new process
    reason = unavailable()
    assert reason is not None and "was built from other sources than this version's; build it with" in reason


# -- instructions ---------------------------------------------------------------------------------------------


def test_the_best_instructions_are_used_unless_others_are_asked_for(
    runtime: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    assert load().isa == runtime.best_isa
    monkeypatch.setenv(ISA_VARIABLE, "Portable")
    assert load().isa == Isa.PORTABLE
    monkeypatch.delenv(ISA_VARIABLE)
    assert load().isa == runtime.best_isa


def test_unknown_and_missing_instructions_are_one_line(
    runtime: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ISA_VARIABLE, "sse")
    assert unavailable() == f"{ISA_VARIABLE} is 'sse', expected one of portable, avx2, avx512, neon"
    missing = next(isa for isa in reversed(Isa) if not runtime.has_isa(isa))
    monkeypatch.setenv(ISA_VARIABLE, missing.name.lower())
    reason = unavailable()
    assert reason is not None and f"no {missing.name.lower()} instructions; it has: portable" in reason


def test_info_says_what_is_used(runtime: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["info"]) == 0
    said = capsys.readouterr().out
    assert str(runtime.path) in said and f"with {runtime.isa.name.lower()}, of: portable" in said


# -- what its functions do ------------------------------------------------------------------------------------


def address(tensor: torch.Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def test_a_convolution_gives_what_torch_gives(runtime: Library) -> None:
    torch.manual_seed(0)
    weight, bias, data = torch.randn(6, 5, 3, 3), torch.randn(6), torch.randn(2, 5, 9, 7)
    weight *= torch.rand_like(weight) < 0.3
    source, target = Layout.contiguous(2, 5, 9, 7), Layout.contiguous(2, 6, 5, 4)
    spec = ConvSpec(3, 3, 2, 2, 1, 1, 1, 1, 1, 0, Activation.LEAKY_RELU, 0.1, 0)
    conv = runtime.conv(spec, weight, bias, source, target)
    assert conv.info.nonzeros == weight.count_nonzero()
    workspace, out = torch.empty(conv.info.workspace), torch.zeros(2 * 6 * 5 * 4 + SLACK)
    for threads in (1, 2):
        out.zero_()
        conv.run(address(data), address(out), address(workspace), runtime.pool(threads))
        wanted = nn.functional.leaky_relu(nn.functional.conv2d(data, weight, bias, 2, 1), 0.1)
        torch.testing.assert_close(out[: wanted.numel()].view_as(wanted), wanted, rtol=1e-5, atol=1e-5)


def test_a_linear_layer_gives_what_torch_gives(runtime: Library) -> None:
    torch.manual_seed(0)
    weight, bias, data = torch.randn(11, 17), torch.randn(11), torch.randn(3, 17)
    weight *= torch.rand_like(weight) < 0.2
    linear = runtime.linear(weight, bias, 3, Activation.RELU)
    workspace, out = torch.empty(linear.info.workspace + 1), torch.zeros(3, 11)
    linear.run(address(data), address(out), address(workspace))
    wanted = nn.functional.linear(data, weight, bias).relu()
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def test_copies_sums_maxima_and_enlargements_give_what_torch_gives(runtime: Library) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)
    plain, half, twice = (Layout.contiguous(2, 3, *size) for size in ((6, 4), (3, 2), (12, 8)))
    out = torch.zeros(2, 3, 6, 4)
    runtime.copy(plain, address(a), plain, address(out), Activation.SILU)
    torch.testing.assert_close(out, nn.functional.silu(a), rtol=1e-5, atol=1e-6)
    runtime.add(plain, address(a), plain, address(b), plain, address(out), Activation.RELU)
    assert torch.equal(out, (a + b).relu())
    pooled = torch.zeros(2, 3, 3, 2)
    runtime.max_pool(plain, address(a), half, address(pooled), (2, 2), (2, 2), (0, 0))
    assert torch.equal(pooled, nn.functional.max_pool2d(a, 2))
    large = torch.zeros(2, 3, 12, 8)
    runtime.upsample(plain, address(a), twice, address(large))
    assert torch.equal(large, nn.functional.interpolate(a, scale_factor=2))


def test_weights_of_another_shape_are_refused_before_they_are_read(runtime: Library) -> None:
    layout = Layout.contiguous(1, 4, 8, 8)
    spec = ConvSpec(3, 3, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0.0, 0)
    with pytest.raises(RuntimeRefusedError, match=r"\(4, 3, 3, 3\) where the layouts mean \(4, 4, 3, 3\)"):
        runtime.conv(spec, torch.randn(4, 3, 3, 3), None, layout, layout)
    with pytest.raises(RuntimeRefusedError, match=r"\(5,\) where the layouts mean \(4,\)"):
        runtime.conv(spec, torch.randn(4, 4, 3, 3), torch.randn(5), layout, layout)


def test_what_the_library_refuses_is_an_error(runtime: Library) -> None:
    layout = Layout.contiguous(1, 4, 8, 8)
    spec = ConvSpec(3, 3, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0.0, 0)
    with pytest.raises(RuntimeRefusedError, match="refuses a convolution: it has sizes or layouts"):
        runtime.conv(spec, torch.randn(4, 4, 3, 3), None, layout, layout)
    data = torch.zeros(256)
    with pytest.raises(RuntimeRefusedError, match="refuses a sum"):
        runtime.add(
            layout, address(data), Layout.contiguous(1, 3, 8, 8), address(data), layout, address(data)
        )


def test_weights_of_half_precision_are_packed_as_float32(runtime: Library) -> None:
    weight = torch.eye(3).half()
    data, out = torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 3)
    linear = runtime.linear(weight.t(), None, 1)
    workspace = torch.empty(linear.info.workspace + 1)
    del weight
    linear.run(address(data), address(out), address(workspace))
    assert torch.equal(out, data)


def test_the_machine_is_measured(runtime: Library) -> None:
    assert runtime.peak_fma(0.02) > 1e8
    assert runtime.bandwidth(1 << 15, 0.02) > 1e8
