"""The images keep their promises: a target for each command line, pinned, without a compiler, not run as root."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import slr_det

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
TARGETS = ("yolo", "lane", "pointpillars", "classify")


@dataclass
class Stage:
    name: str
    source: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, word: str) -> list[str]:
        return [rest for step, rest in self.steps if step == word]


def parse() -> tuple[dict[str, str], dict[str, Stage]]:
    """Arguments in front of the first stage with their defaults, and the stages by name."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for line in lines:
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            source, _, name = rest.split()
            current = stages[name] = Stage(name, source)
        elif current is None:
            assert word == "ARG"
            name, _, default = rest.partition("=")
            arguments[name] = default
        else:
            current.steps.append((word, rest))
    return arguments, stages


ARGUMENTS, STAGES = parse()


def whole(target: str) -> list[tuple[str, str]]:
    """Every step that an image is made of, those of the stages below it included."""
    stage = STAGES[target]
    return [*(whole(stage.source) if stage.source in STAGES else []), *stage.steps]


def test_every_command_line_has_a_target_over_one_base() -> None:
    assert {name: STAGES[name].source for name in TARGETS} == dict.fromkeys(TARGETS, "base")
    assert {stage.source for name, stage in STAGES.items() if name not in TARGETS} == {
        "${BASE_IMAGE}",
        "tools",
    }


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_starts_its_command_line_and_checks_its_own_extra(target: str) -> None:
    (entry,), (health,) = STAGES[target].of("ENTRYPOINT"), STAGES[target].of("HEALTHCHECK")
    assert json.loads(entry) == ["python", "-m", f"slr_det.{target}"]
    assert json.loads(health.split("CMD", 1)[1]) == ["slr-det", "doctor", "--need", target]
    assert STAGES[target].of("CMD") == []
    installed = re.findall(r"--extra (\w+)", " ".join(STAGES[target].of("RUN")))
    assert target in installed and "export" in installed
    assert set(installed) <= set(PROJECT["optional-dependencies"])
    assert f"slr_det.{target}" in {f"slr_det.{path.stem}" for path in (ROOT / "slr_det").glob("*.py")}


def test_what_is_not_a_python_package_is_pinned_by_an_argument() -> None:
    assert all(ARGUMENTS.values()), ARGUMENTS
    assert re.fullmatch(r"3\.\d+\.\d+", ARGUMENTS["PYTHON_VERSION"])
    major = ARGUMENTS["PYTHON_VERSION"].rsplit(".", 1)[0]
    assert f"Programming Language :: Python :: {major}" in PROJECT["classifiers"]
    assert ARGUMENTS["BASE_IMAGE"].endswith("python:${PYTHON_VERSION}-slim-${DEBIAN_RELEASE}")
    assert "latest" not in DOCKERFILE.read_text(encoding="utf-8")
    versions = [rest for rest in STAGES["base"].of("ARG") if rest.startswith("VERSION=")]
    assert versions == [f"VERSION={slr_det.__version__}"]


def test_spconv_for_cuda_has_the_version_of_spconv() -> None:
    cuda = ARGUMENTS["SPCONV_CUDA"]
    assert (PINS[f"spconv-{cuda}"], PINS[f"cumm-{cuda}"]) == (PINS["spconv"], PINS["cumm"])
    (installs,) = STAGES["pointpillars"].of("RUN")
    assert '"spconv-${SPCONV_CUDA} ; ' in installs and "--override without-cpu-spconv.txt" in installs


def test_every_install_follows_the_constraints() -> None:
    installs = [
        command
        for stage in STAGES.values()
        for step in stage.of("RUN")
        for command in step.split("&&")
        if re.search(r"\bpip +install\b", command)
    ]
    assert len(installs) == 2 + 2 * len(TARGETS)
    for command in installs:
        assert "-c constraints.txt" in command or "--no-deps /dist/*.whl" in command, command
    for copied in ("constraints.txt", "pyproject.toml"):  # the latter rules out opencv-python
        assert copied in STAGES["tools"].of("COPY")[0]
    assert all("--directory /build" in command for command in installs if "pyproject.toml" in command)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_no_compiler_and_no_root(target: str) -> None:
    steps = whole(target)
    system = [
        rest
        for word, rest in steps
        if word == "RUN" and re.search(r"\b(apt|apt-get|gcc|g\+\+|build-essential)\b", rest)
    ]
    assert system == []
    assert "gcc" in " ".join(STAGES["wheel"].of("RUN"))  # which no image is made from
    users = [rest for word, rest in steps if word == "USER"]
    assert users[-1:] == ["${USER_ID}"] and int(ARGUMENTS["USER_ID"]) > 0
    copied = [rest for word, rest in steps if word == "COPY"]
    assert copied == ["configs /usr/share/slr-det/configs"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_what_it_is_and_where_it_writes(target: str) -> None:
    steps = whole(target)
    labels = " ".join(rest for word, rest in steps if word == "LABEL")
    for key in ("title", "description", "version", "revision", "source", "licenses", "base.name"):
        assert f"org.opencontainers.image.{key}=" in labels
    assert ("AGPL-3.0-only" in labels) is (target == "yolo")
    assert [json.loads(rest) for word, rest in steps if word == "VOLUME"] == [["/data", "/runs"]]
    assert [rest for word, rest in steps if word == "WORKDIR"][-1] == "/runs"
    settings = " ".join(rest for word, rest in steps if word == "ENV")
    for setting in ("SLR_DET_RUNS=/runs", "SLR_DET_CACHE=/runs/.cache", "HOME=/var/lib/slr-det"):
        assert setting in settings.split()
    assert "chmod 1777 /var/lib/slr-det /data /runs" in " ".join(
        rest for word, rest in steps if word == "RUN"
    )


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source for stage in STAGES.values() for rest in stage.of("COPY") for source in rest.split()[:-1]
    }
    assert let_in == copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed; it comes with the extra dev on Linux")
    done = subprocess.run([program, str(DOCKERFILE)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_check_of_images_explains_itself_and_refuses_what_it_does_not_know() -> None:
    script = str(ROOT / "scripts" / "check-image")
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0 and all(name in shown.stdout for name in TARGETS)
    for named, words in (
        ("yol", ["--target", "yol"]),
        ("--taget", ["--taget", "yolo"]),
        ("--target", ["--target"]),
    ):
        refused = subprocess.run([script, *words], capture_output=True, text=True, timeout=60)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert named in refused.stderr


def test_the_page_lists_every_target_and_every_argument() -> None:
    page = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
    declared = {rest.partition("=")[0] for stage in STAGES.values() for rest in stage.of("ARG")}
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", page, flags=re.MULTILINE)) == declared | set(ARGUMENTS)
    assert set(re.findall(r"^\| `([a-z]+)` \|", page, flags=re.MULTILINE)) == set(TARGETS)
