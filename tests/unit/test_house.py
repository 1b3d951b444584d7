"""The repository keeps its own promises: versions agree, configs launch, nothing of one machine is committed."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import slr_det

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SOURCES = sorted([*(ROOT / "slr_det").rglob("*.py"), *(ROOT / "adapters").rglob("*.py")])

# What names one person's machine, or the place where it gets its packages.
HOME_FOLDER = re.compile(r"(?<![\w.~-])/(?:home|Users|root|tmp)/[\w.-]+")
PACKAGE_INDEX = re.compile(
    r"--(?:extra-)?index-url|--find-links|https?://[^\s\"']*/simple\b|pythonhosted\.org"
)


def tracked() -> list[Path]:
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        pytest.skip(f"not a git checkout: {run.stderr.strip()}")
    return [ROOT / name for name in run.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_changelog_opens_with_the_version_of_the_package() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+[\w.]*)", changelog, flags=re.MULTILINE)
    assert versions, "CHANGELOG.md has no entry"
    assert versions[0] == slr_det.__version__


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_config_opens_with_its_own_launch_command(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    opening = text[: re.search(r"^[^#\n]", text, flags=re.MULTILINE).start()]  # type: ignore[union-attr]
    assert re.search(r"python -m slr_det\.\w+ ", opening), "no launch command in the opening comment"
    assert path.relative_to(ROOT).as_posix() in opening, "the launch command names another file"
    assert isinstance(yaml.safe_load(text), dict)


def test_no_tracked_file_names_a_home_folder_or_a_package_index() -> None:
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if HOME_FOLDER.search(line) or PACKAGE_INDEX.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("data: /home/alice/coco", True),
        ("weights: '/root/yolov3.pt'", True),
        ("pip install x --index-url https://host/simple", True),
        ("docker run -v DATA:/data", False),
        ("see https://example.org/home/page and ~/runs", False),
        ("uv pip install -e '.[yolo]'", False),
    ],
)
def test_the_patterns_tell_a_machine_from_a_document(line: str, bad: bool) -> None:
    assert bool(HOME_FOLDER.search(line) or PACKAGE_INDEX.search(line)) is bad


def test_no_lock_file_and_no_model_is_tracked() -> None:
    names = [path.name for path in tracked()]
    assert [name for name in names if name == "uv.lock" or name.endswith((".pt", ".pth", ".onnx"))] == []


def extras_of_make_install() -> list[str]:
    found = re.findall(r'-e "\.\[([a-z,]+)\]"', (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(found) == 1
    return str(found[0]).split(",")


def test_make_install_brings_every_part_that_the_default_suite_tests() -> None:
    wanted = {"yolo", "classify", "pointpillars", "lane", "export", "shrink", "sweep", "dev"}
    assert set(extras_of_make_install()) == wanted


def test_every_extra_with_mmengine_brings_the_opencv_that_needs_no_graphics_libraries() -> None:
    """mmengine asks for the other one, which is ruled out; mmengine still imports cv2."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (override,) = (Requirement(text) for text in content["tool"]["uv"]["override-dependencies"])
    assert override.name == "opencv-python"
    assert override.marker is not None and not override.marker.evaluate()
    for extra, texts in content["project"]["optional-dependencies"].items():
        names = {Requirement(text).name for text in texts}
        assert "opencv-python" not in names
        assert "mmengine" not in names or "opencv-python-headless" in names, extra


def test_every_pin_lies_in_the_supported_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    installed = [text for extra in extras_of_make_install() for text in extras[extra]]
    wanted = [Requirement(text) for text in project["dependencies"] + installed]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for requirement in wanted:
        assert requirement.name in pins, f"constraints.txt has no version for {requirement.name}"
        assert requirement.specifier.contains(pins[requirement.name]), f"{requirement} excludes its own pin"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for line in script.splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    bare = [f"{node.name} (line {node.lineno})" for node in public if not ast.get_docstring(node)]
    if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(tree):
        bare.insert(0, "the module itself")
    assert bare == []
