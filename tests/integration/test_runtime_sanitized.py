"""The sparse runtime under sanitizers, by other compilers, and with NEON: against loops in C, without Python.

The driver (runtime_driver/driver.c) draws layers of all kinds, runs each with all instructions that there are, and
compares numbers, margins and what lies around with plain loops in double precision.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from slr_det.runtime.build import CSRC, build

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).with_name("runtime_driver") / "driver.c"
CROSS = "aarch64-linux-gnu-gcc"
# Without the loops' full unrolling, which takes a minute to compile with a check at every access.
ADDRESS = (
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)
THREAD = ("-O1", "-g", "-fsanitize=thread")


@dataclass(frozen=True)
class Driver:
    """The compiled driver, and what starts it."""

    command: tuple[str, ...]

    def run(self, what: str, seed: int, count: int) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
        return subprocess.run(
            [*self.command, what, str(seed), str(count)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )

    def passes(self, what: str, seed: int, count: int) -> str:
        """Run, and return the line that tells with which instructions."""
        done = self.run(what, seed, count)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


def compiled(folder: Path, compiler: str, flags: tuple[str, ...], starter: tuple[str, ...] = ()) -> Driver:
    """Build the library and the driver."""
    library = build(folder, compiler=compiler, sanitize=flags == ADDRESS, flags=flags)
    program = folder / "driver"
    command = [compiler, "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", *flags, f"-I{CSRC}", str(DRIVER)]
    command += [str(library), f"-Wl,-rpath,{folder}", "-pthread", "-lm", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Driver((*starter, str(program)))


def a_compiler(name: str | None = None) -> str:
    """A compiler by name, or the first there is; skips without."""
    for found in (name,) if name else ("cc", "gcc", "clang"):
        if shutil.which(found):
            return found
    pytest.skip(f"no {name or 'C compiler'} is on the PATH")


def works(folder: Path, compiler: str, flags: tuple[str, ...]) -> None:
    """Skips where the smallest program with these flags cannot be built or run."""
    source, program = folder / "probe.c", folder / "probe"
    source.write_text("int main(void) { return 0; }\n")
    for command in ([compiler, *flags, str(source), "-o", str(program)], [str(program)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            pytest.skip(f"{compiler} {flags[-1] if flags else ''} does not work here: {said}")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    compiler, folder = a_compiler(), tmp_path_factory.mktemp("address")
    works(folder, compiler, ADDRESS)
    return compiled(folder, compiler, ADDRESS)


@pytest.fixture(scope="module")
def thread(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    compiler, folder = a_compiler(), tmp_path_factory.mktemp("thread")
    works(folder, compiler, THREAD)
    return compiled(folder, compiler, THREAD)


@pytest.fixture(scope="module")
def neon(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """For 64-bit ARM, run by qemu. Debian, Ubuntu: apt install gcc-aarch64-linux-gnu qemu-user-static."""
    compiler = a_compiler(CROSS)
    qemu = next((name for name in ("qemu-aarch64-static", "qemu-aarch64") if shutil.which(name)), None)
    if qemu is None:
        pytest.skip("no qemu-aarch64-static is on the PATH (Debian, Ubuntu: apt install qemu-user-static)")
    ask = [compiler, "-print-file-name=libc.so.6"]
    found = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()).resolve()
    return compiled(tmp_path_factory.mktemp("neon"), compiler, (), (qemu, "-L", str(found.parents[1])))


@pytest.mark.parametrize("seed", [1, 2])
def test_no_kernel_leaves_its_memory(address: Driver, seed: int) -> None:
    address.passes("kernels", seed, 400)


def test_no_number_makes_a_refusal_overflow(address: Driver) -> None:
    address.passes("refusals", 3, 5000)


def test_pools_leave_no_memory_behind(address: Driver) -> None:
    address.passes("threads", 4, 300)


def test_an_overrun_of_the_library_would_be_found(address: Driver) -> None:
    done = address.run("overrun", 0, 0)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr and "in slr_copy" in done.stderr


def test_threads_share_nothing_unordered(thread: Driver) -> None:
    thread.passes("threads", 5, 500)
    thread.passes("kernels", 6, 150)


def test_a_race_in_the_library_would_be_found(thread: Driver) -> None:
    done = thread.run("race", 0, 0)
    assert done.returncode != 0
    assert "data race" in done.stderr


@pytest.mark.parametrize("seed", [7, 8])
def test_the_neon_kernels_are_right(neon: Driver, seed: int) -> None:
    assert neon.passes("kernels", seed, 200).endswith(" portable neon\n")


def test_the_pool_works_with_the_weaker_ordering_of_arm(neon: Driver) -> None:
    neon.passes("threads", 9, 100)


def test_clang_builds_the_same_kernels(tmp_path: Path) -> None:
    compiler = next(
        (name for name in ("clang", "clang-14", "clang-16", "clang-19") if shutil.which(name)), "clang"
    )
    driver = compiled(tmp_path, a_compiler(compiler), ())
    driver.passes("kernels", 10, 300)
    driver.passes("threads", 11, 100)
