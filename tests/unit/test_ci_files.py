"""The examples for CI systems: by the systems' own schemas, and with commands that the program understands."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slr_det import yolo
from slr_det.arguments import parse
from slr_det.gate.checks import parse_limits
from slr_det.yamlio import read_yaml

CI = Path(__file__).parents[2] / "ci"
GITHUB, GITLAB = CI / "github-actions.yml", CI / "gitlab-ci.yml"
SCHEMAS = {
    GITHUB: ["--builtin-schema", "vendor.github-workflows"],
    GITLAB: ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
}


def check(file: Path, options: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", *options, "--output-format", "json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_example_is_checked() -> None:
    assert sorted(CI.glob("*.yml")) == sorted(SCHEMAS)


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.name)
def test_an_example_follows_the_schema_of_its_system(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="needs the dev extra")
    found = check(file, SCHEMAS[file])
    assert found.returncode == 0, found.stdout + found.stderr
    # The schema is really looked at: a file with one key wrong does not pass.
    broken = tmp_path / file.name
    broken.write_text(
        re.sub(r"^  (  )?(timeout-minutes|stage): .*$", r"  \1\2: []", file.read_text(), flags=re.M)
    )
    assert broken.read_text() != file.read_text()
    found = check(broken, SCHEMAS[file])
    assert found.returncode == 1 and json.loads(found.stdout)["status"] == "fail"


def commands(content: dict[str, Any], file: Path) -> list[str]:
    """The words behind the image, or behind the module, of every command of an example."""
    if file == GITHUB:
        scripts = [step["run"] for job in content["jobs"].values() for step in job["steps"] if "run" in step]
        found = [script.replace("\\\n", " ") for script in scripts if "docker run" in script]
        return [re.split(r'"\$IMAGE" ', script)[1].partition("|")[0] for script in found]
    scripts = content["evaluate"]["script"]
    return [script.removeprefix("python -m slr_det.yolo ") for script in scripts]


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.name)
def test_the_command_of_an_example_is_understood(file: Path) -> None:
    (command,) = commands(read_yaml(file), file)
    options = parse(yolo.TASK, shlex.split(command))
    assert (
        options.verb == "eval" and options.json.endswith("eval.json") and options.junit.endswith("eval.xml")
    )
    found = parse_limits(options.min, options.max, options.tolerance, against=True, example="")
    assert found.named() == {"map50", "bytes"} and found.tolerance.number == 0.005


def test_the_results_are_what_the_jobs_keep() -> None:
    job = read_yaml(GITLAB)["evaluate"]
    assert job["artifacts"]["reports"]["junit"] in job["script"][0]
    steps = read_yaml(GITHUB)["jobs"]["evaluate"]["steps"]
    (kept,) = (step for step in steps if step.get("uses", "").startswith("actions/upload-artifact"))
    assert kept["if"] == "always()" and f'"$PWD/{kept["with"]["path"].rstrip("/")}:/runs"' in steps[1]["run"]
