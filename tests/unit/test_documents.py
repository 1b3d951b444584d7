"""The documents say what is so: their code runs, their commands and links exist, their tables are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from slr_det import classify, lane, methods, pointpillars, yolo
from slr_det.command import start
from slr_det.projections import Projection

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "third_party" / "README.md"]


def python_blocks() -> list[tuple[str, str]]:
    found = []
    for path in DOCUMENTS:
        blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        found += [
            (f"{path.relative_to(ROOT)}-{number}", block) for number, block in enumerate(blocks, start=1)
        ]
    return found


def first_column(heading: str) -> list[str]:
    """The code words that open the rows of the first table under a heading of the README."""
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([a-z]+)` \|", section, flags=re.MULTILINE)


def run_block(name: str) -> dict[str, object]:
    torch.manual_seed(0)
    scope: dict[str, object] = {"__name__": "document"}
    exec(compile(dict(python_blocks())[name], name, "exec"), scope)
    return scope


def test_the_loop_of_the_readme_prunes_what_it_says() -> None:
    model = run_block("README.md-1")["model"]
    assert isinstance(model, torch.nn.Sequential)
    kept = {
        name: int(weight.count_nonzero()) for name, weight in model.named_parameters() if weight.dim() > 1
    }
    assert kept == {
        "0.weight": 102,
        "2.weight": 410,
        "4.weight": 256,
    }  # a tenth of 1024 and of 4096; the last dense


def test_the_projection_of_the_contributing_guide_works_once_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from slr_det.projections import registry

    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    run_block("CONTRIBUTING.md-1")
    projected = Projection("even", {"offset": 1}).project([torch.arange(1.0, 6.0)], keep=0.5)
    assert projected[0].tolist() == [0.0, 2.0, 0.0, 4.0, 0.0]


# These have tests of their own above, which look at what the block has made.
LOOKED_AT = {"README.md", "CONTRIBUTING.md"}
PAGES = sorted({name.rpartition("-")[0] for name, _ in python_blocks()} - LOOKED_AT)


def test_the_pages_that_teach_have_code() -> None:
    assert {"docs/howto/own-model.md", "docs/howto/own-trainer.md", "docs/howto/own-projection.md"} <= set(
        PAGES
    )
    assert {name for name, _ in python_blocks() if name.rpartition("-")[0] in LOOKED_AT} == {
        "README.md-1",
        "CONTRIBUTING.md-1",
    }


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page belong together, and check themselves with assert."""
    from slr_det.projections import registry

    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope: dict[str, object] = {"__name__": "document"}
    for name, block in python_blocks():
        if name.rpartition("-")[0] == page:
            exec(compile(block, name, "exec"), scope)


def test_the_readme_lists_every_verb_and_every_method() -> None:
    assert first_column("Quick start on your own data") == list(yolo.VERBS)
    assert sorted(first_column("Methods")) == sorted(set(methods.names()) - {"none"})


@pytest.mark.parametrize("spelling", re.findall(r"\(`([a-z0-9]+:[a-z0-9]+|block:\w+)`\)", README))
def test_the_short_spellings_of_the_readme_are_projections(spelling: str) -> None:
    assert str(Projection.parse(spelling)) == spelling


def test_every_target_that_a_document_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert {"help", "install", "demo", "test", "lint", "bench", "clean"} <= targets
    for path in DOCUMENTS:
        named = set(
            re.findall(r"(?:`|^\s*)make ([a-z-]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        )
        assert named <= targets, f"{path.relative_to(ROOT)} names {sorted(named - targets)}"


def test_local_links_of_the_documents_lead_somewhere() -> None:
    broken = []
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


TASKS = {task.name: task for task in (yolo.TASK, classify.TASK, pointpillars.TASK, lane.TASK)}
COMMANDS = sorted(
    set(
        re.findall(
            rf"python -m slr_det\.({'|'.join(TASKS)}) ([^\n`#]+)", "".join(p.read_text() for p in DOCUMENTS)
        )
    )
)


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_of_the_documents_has_a_verb_and_options_that_exist(
    name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task, words = TASKS[name], shlex.split(command.removesuffix("\\"))  # it goes on in the next line
    verb = words[0] if words[0] in task.verbs else "compress"
    with pytest.raises(SystemExit) as ended:
        start(task, [verb, "--help"])
    assert ended.value.code == 0
    offered = set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} <= offered
