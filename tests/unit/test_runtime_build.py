"""Building the runtime: which flags go where, what a wheel holds, and an install that succeeds without a compiler."""

from __future__ import annotations

import json
import os
import pkgutil
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from slr_det.errors import RuntimeBuildError
from slr_det.runtime import __main__ as command
from slr_det.runtime import build as module
from slr_det.runtime.build import (
    CSRC,
    INSTALLED,
    LIBRARY,
    build,
    find_compiler,
    sources,
    sources_hash,
    stamp_of,
)
from slr_det.runtime.functions import Library

ROOT = Path(__file__).resolve().parents[2]
SMALL = '__attribute__((visibility("default"))) int slr_abi(void) { return 1; }\n'


@pytest.fixture
def compiler() -> str:
    try:
        return shlex.join(find_compiler())
    except RuntimeBuildError as error:
        pytest.skip(str(error))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one short source, in the place of the real ones, so that a build takes no time."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "one.c").write_text(SMALL, encoding="utf-8")
    monkeypatch.setattr(module, "CSRC", folder)
    return folder


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A PATH without any program."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    return str(folder)


# -- compiling ------------------------------------------------------------------------------------------------


def test_the_real_sources_compile_without_a_warning_and_load(compiler: str, tmp_path: Path) -> None:
    """Hardly optimised, which is quicker; what every other test uses is."""
    library = build(tmp_path, flags=["-O1", "-Werror"])
    assert Library(library).best_isa >= 0


def test_instructions_are_switched_on_in_their_own_files_only(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor without them has to be able to load the library, and to run everything else of it."""
    log = tmp_path / "log"
    wrapper = tmp_path / "logging-cc"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {compiler} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    folder = tmp_path / "csrc"
    folder.mkdir()
    monkeypatch.setattr(module, "CSRC", folder)
    for path in CSRC.glob("*.c"):
        (folder / path.name).write_text(f"int {path.stem}_is_here;\n", encoding="utf-8")
    build(tmp_path / "out", compiler=str(wrapper))
    lines = [line.split() for line in log.read_text().splitlines() if " -c " in line]
    flags = {
        Path(words[words.index("-c") + 1]).name: {w for w in words if w.startswith("-m")} for words in lines
    }
    machine = module.target_machine([str(wrapper)])
    x86, arm = machine in ("x86_64", "amd64"), machine in ("aarch64", "arm64")
    assert ("kernels_avx2.c" in flags, "kernels_neon.c" in flags) == (x86, arm)
    assert {"kernels_portable.c", "conv.c", "pool.c"} <= set(flags)
    if x86:
        assert flags.pop("kernels_avx2.c") == {"-mavx2", "-mfma"}
        wide = {"-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"}
        assert flags.pop("kernels_avx512.c") == wide
    assert set().union(*flags.values()) == set()


def test_what_is_for_one_processor_is_a_file_that_exists() -> None:
    assert set(module._SPECIAL) <= {path.name for path in sources()}


def test_a_stamp_tells_what_was_built(compiler: str, small: Path, tmp_path: Path) -> None:
    library = build(tmp_path / "out")
    stamp = json.loads(stamp_of(library).read_text())
    assert stamp["size"] == library.stat().st_size and stamp["sources"] == sources_hash()
    assert stamp["machine"] and stamp["compiler"]
    assert sorted(path.name for path in library.parent.iterdir()) == [LIBRARY, stamp_of(library).name]


def test_any_change_of_a_source_changes_the_hash(small: Path) -> None:
    seen = {sources_hash()}
    (small / "one.c").write_text(SMALL + "\n", encoding="utf-8")
    seen.add(sources_hash())
    (small / "one.h").write_text("", encoding="utf-8")
    seen.add(sources_hash())
    (small / "one.h").rename(small / "two.inc")
    seen.add(sources_hash())
    assert len(seen) == 4


def test_a_library_in_use_is_replaced_not_overwritten(compiler: str, small: Path, tmp_path: Path) -> None:
    """Its pages would change under whoever runs it."""
    library = build(tmp_path / "out")
    held = library.open("rb")
    before = library.read_bytes()
    (small / "one.c").write_text(SMALL + "int more = 7;\n", encoding="utf-8")
    build(tmp_path / "out")
    with held:
        assert held.read() == before != library.read_bytes()


# -- what goes wrong ------------------------------------------------------------------------------------------


def test_no_compiler_is_one_line(no_compiler: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["build", "-o", no_compiler]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(
        "error: no C compiler is on the PATH (looked for cc, gcc, clang)"
    )
    assert said.err.count("\n") == 1 and "apt install gcc" in said.err


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-cc -m64")
    with pytest.raises(RuntimeBuildError, match="'no-such-cc -m64' is not on the PATH"):
        build(tmp_path)
    with pytest.raises(RuntimeBuildError, match="'other-cc' is not on the PATH"):
        build(tmp_path, compiler="other-cc")


def test_a_program_that_is_no_compiler_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeBuildError, match="the C compiler false could not build the runtime: exit code 1"
    ):
        build(tmp_path, compiler="false")


def test_a_source_that_does_not_compile_is_one_line(compiler: str, small: Path, tmp_path: Path) -> None:
    (small / "one.c").write_text("int broken(void) { return nothing; }\n", encoding="utf-8")
    with pytest.raises(RuntimeBuildError) as caught:
        build(tmp_path / "out")
    assert "one.c" in str(caught.value) and "nothing" in str(caught.value) and "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(compiler: str, small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeBuildError, match="the runtime's library cannot be written"):
        build(tmp_path / "file" / "deeper")


def test_missing_sources_are_one_line(compiler: str, small: Path, tmp_path: Path) -> None:
    (small / "one.c").unlink()
    with pytest.raises(RuntimeBuildError, match="has no C sources; reinstall slr-det"):
        build(tmp_path / "out")


def test_the_command_builds_into_the_cache_and_into_a_folder(
    compiler: str,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SLR_DET_CACHE", str(tmp_path / "cache"))
    assert command.main(["build", "-o", str(tmp_path / "own")]) == 0
    assert (tmp_path / "own" / LIBRARY).is_file()
    assert "set SLR_DET_RUNTIME_LIBRARY" in capsys.readouterr().out
    command.main(["build"])
    (built,) = (tmp_path / "cache" / "runtime").rglob(LIBRARY)
    assert f"library   {built}" in capsys.readouterr().out


# -- installs -------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """As much of the repository as a wheel is built from, with one short source."""
    pytest.importorskip("hatchling", reason="needs the dev extra")
    folder = tmp_path / "tree"
    (folder / "slr_det" / "runtime" / "csrc").mkdir(parents=True)
    (folder / "adapters" / "slr_det_adapters").mkdir(parents=True)
    (folder / "adapters" / "slr_det_adapters" / "__init__.py").write_text("")
    names = ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py", ".gitignore")
    for name in (*names, "slr_det/__init__.py", "slr_det/errors.py", "slr_det/runtime/build.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "slr_det" / "runtime" / "csrc" / "one.c").write_text(SMALL, encoding="utf-8")
    return folder


def packed(tree: Path, function: str, path: str | None = None) -> tuple[Path, str]:
    """Let the build backend make something, as pip and uv do; the file, and what was said."""
    out = tree.parent / "dist"
    out.mkdir(exist_ok=True)
    program = f"import hatchling.build as b; print(b.{function}({str(out)!r}))"
    environment = {key: value for key, value in os.environ.items() if key != "CC"}
    if path is not None:
        environment["PATH"] = path
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return out / run.stdout.strip().splitlines()[-1], run.stdout + run.stderr


def names_in(file: Path) -> list[str]:
    """Names of the files in a wheel or a source distribution."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            return wheel.namelist()
    with tarfile.open(file) as archive:
        return archive.getnames()


def test_a_wheel_holds_the_library_its_stamp_and_the_sources(compiler: str, tree: Path) -> None:
    wheel, _ = packed(tree, "build_wheel")
    names = set(names_in(wheel))
    wanted = (f"built/{LIBRARY}", f"built/{stamp_of(Path(LIBRARY)).name}", "csrc/one.c", "build.py")
    assert {f"slr_det/runtime/{name}" for name in wanted} <= names
    assert "-py3-none-" in wheel.name and not wheel.name.endswith("-any.whl")
    assert "manylinux" not in wheel.name
    assert not (tree / "slr_det" / "runtime" / "built" / LIBRARY).exists()  # nothing is left in the sources


def test_without_a_compiler_the_wheel_is_pure_and_a_line_says_so(tree: Path, no_compiler: str) -> None:
    wheel, said = packed(tree, "build_wheel", no_compiler)
    names = set(names_in(wheel))
    assert "slr_det/runtime/csrc/one.c" in names
    assert not [name for name in names if "slr_runtime." in name]
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "installed without its sparse runtime: no C compiler is on the PATH" in said


def test_a_library_that_lies_in_the_sources_is_not_taken_for_one_of_the_wheel(
    tree: Path, no_compiler: str
) -> None:
    (tree / "slr_det" / "runtime" / "built").mkdir()
    for name in (LIBRARY, stamp_of(Path(LIBRARY)).name):
        (tree / "slr_det" / "runtime" / "built" / name).write_text("of another machine, perhaps")
    (tree / ".gitignore").unlink()
    for function in ("build_wheel", "build_sdist"):
        file, _ = packed(tree, function, no_compiler)
        assert not [name for name in names_in(file) if "slr_runtime." in name]


def test_an_editable_install_gets_the_library_in_place(compiler: str, tree: Path) -> None:
    pytest.importorskip("editables", reason="needs the dev extra")
    packed(tree, "build_editable")
    assert (tree / "slr_det" / "runtime" / "built" / LIBRARY).is_file()
    assert stamp_of(tree / "slr_det" / "runtime" / "built" / LIBRARY).is_file()


def test_an_editable_install_without_a_compiler_succeeds(tree: Path, no_compiler: str) -> None:
    pytest.importorskip("editables", reason="needs the dev extra")
    _, said = packed(tree, "build_editable", no_compiler)
    assert not (tree / "slr_det" / "runtime" / "built" / LIBRARY).exists()
    assert "installed without its sparse runtime" in said


@pytest.mark.parametrize("content", [None, "syntax error here"])
def test_a_broken_build_file_fails_no_install(tree: Path, content: str | None) -> None:
    file = tree / "slr_det" / "runtime" / "build.py"
    file.unlink()
    if content is not None:
        file.write_text(content)
    wheel, said = packed(tree, "build_wheel")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "installed without its sparse runtime" in said


def test_a_source_distribution_holds_what_a_wheel_is_built_from(tree: Path) -> None:
    file, _ = packed(tree, "build_sdist")
    names = {name.partition("/")[2] for name in names_in(file)}
    assert {"hatch_build.py", "slr_det/runtime/csrc/one.c", "slr_det/runtime/build.py"} <= names


def test_python_does_not_take_the_library_for_a_module(tree: Path) -> None:
    """It would be imported by whoever walks the package, and is none."""
    (tree / "slr_det" / "runtime" / "__init__.py").write_text("")
    assert INSTALLED.relative_to(CSRC.parent) == Path("built")
    (tree / "slr_det" / "runtime" / "built").mkdir()
    (tree / "slr_det" / "runtime" / "built" / LIBRARY).write_text("")
    names = [found.name for found in pkgutil.walk_packages([str(tree / "slr_det" / "runtime")])]
    assert names == ["build"]


def test_git_ignores_a_library_in_place() -> None:
    run = subprocess.run(
        ["git", "check-ignore", f"slr_det/runtime/built/{LIBRARY}", f"slr_det/runtime/built/{LIBRARY}.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 128:
        pytest.skip("not a git checkout")
    assert len(run.stdout.splitlines()) == 2
