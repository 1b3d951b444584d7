"""Every command of the README, the quick starts and the how-tos: run where that takes seconds, else read to the end.

A command is *run* where it needs nothing but what :func:`place` prepares. What trains, installs or needs data and
checkpoints of the reader's own is *read*: its arguments by the command line's own parser, its settings by the trainer's
own list of them, make targets by ``make -n``, extras in pyproject.toml. A command that is neither fails: it needs a
line in :data:`CHECKS`.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from report_example import make_report

from slr_det import classify, command, lane, pack, pointpillars, toolbox, unpack, yolo
from slr_det.bench import __main__ as bench
from slr_det.cli import with_default_verb
from slr_det.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "quickstart").glob("*.md")),
    *sorted((ROOT / "docs" / "howto").glob("*.md")),
]
TASKS = {task.module: task for task in (yolo.TASK, classify.TASK, pointpillars.TASK, lane.TASK)}

# Blocks of the README that show files, not commands, by their first word.
LISTINGS = {"runs/NAME/"}
# Architectures that `analyze` builds by itself; everything else that it reads is a file of the reader's.
ARCHITECTURES = {"cifar_resnet20", "parsingnet18", "pointpillars"}


def blocks(text: str) -> list[str]:
    """The blocks of commands: fenced as sh, or indented by four spaces after an empty line."""
    fenced = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^|(?<=\n\n))((?: {4}.*\n(?:\n(?= {4}))*)+)", rest)
    return fenced + [block for block in indented if block.split()[0] not in LISTINGS]


def commands(text: str) -> list[str]:
    """One command per line; a line may go on after a backslash, and && joins two."""
    lines = "\n".join(blocks(text)).replace("\\\n", " ").splitlines()
    words = [shlex.join(shlex.split(line, comments=True)) for line in lines]
    return [part.strip() for line in words if line for part in line.split(" '&&' ")]


EVERY = sorted(
    {(line, path.relative_to(ROOT).as_posix()) for path in PAGES for line in commands(path.read_text())}
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the runs that the documents speak of, each with a report and a pruned checkpoint."""
    for name in ("NAME", "OTHER", "shapes", "digits", "road", "world"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(
            json.dumps(make_report(iterations=2, layer_count=3)), encoding="utf-8"
        )
    torch.manual_seed(0)
    torch.save(
        {"weight": torch.nn.functional.dropout(torch.randn(64, 64), 0.9)},
        tmp_path / "runs" / "NAME" / "pruned.pt",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(words: list[str], place: Path) -> None:
    ran = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0 and ran.stdout, ran.stderr


def install(words: list[str], place: Path) -> None:
    """``uv pip install`` and ``pip``: the extras and files that are named exist; nothing is installed."""
    assert words[0] in ("install", "uninstall")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    for word in words[1:]:
        if word.startswith("."):
            named = Requirement("slr-det" + word[1:]).extras
            assert named <= set(extras), f"pyproject.toml has no extra {named - set(extras)}"
        elif word.endswith(".txt"):
            assert (ROOT / word).is_file()


def task(module: str) -> Callable[[list[str], Path], None]:
    """A command line that compresses: `analyze` of an architecture and `report` are run, the others are read."""

    def check(words: list[str], place: Path) -> None:
        one = TASKS[module]
        given = with_default_verb(words, one.verbs, "compress")
        model = next((word.partition("=")[2] for word in words if word.startswith("model=")), "")
        if given[0] == "report" or (given[0] == "analyze" and model in ARCHITECTURES):
            assert command.start(one, given) == 0
            return
        for word in words:  # the reader's own files, which settings are refused without
            value = word.partition("=")[2]
            if Path(value).suffix in (".pt", ".pth", ".th", ".tar", ".yaml") and not Path(value).exists():
                (place / value).touch()
        line = command.Command(one, command.parse(one, given), given)
        if not getattr(line.options, "resume", None) and hasattr(line.options, "settings"):
            line._config()  # raises for a setting that neither slr-det nor the trainer knows

    return check


def toolbox_verb(words: list[str], place: Path) -> None:
    assert toolbox.main(words) in ((0, 1) if words[0] == "doctor" else (0,))


def packing(words: list[str], place: Path) -> None:
    assert pack.main(words) == 0


def unpacking(words: list[str], place: Path) -> None:
    assert pack.main(["runs/NAME/pruned.pt", "-o", "pruned.slr"]) == 0
    assert unpack.main(words) == 0
    assert (place / "pruned.pt").read_bytes() == (place / "runs" / "NAME" / "pruned.pt").read_bytes()


def benchmark(words: list[str], place: Path) -> None:
    """Only read: a study trains for minutes. Its configuration is there, and the verb has help."""
    studies(words, place)
    with pytest.raises(SystemExit) as ended:
        bench.main([words[0], "--help"])
    assert ended.value.code == 0


def studies(words: list[str], place: Path) -> None:
    """Only read: a grid trains for minutes. Its configuration is there."""
    assert all((ROOT / word).is_file() for word in words if word.startswith("configs/"))


def torchrun(words: list[str], place: Path) -> None:
    """Only read: several processes are started. What is after ``-m`` is a command line of ours."""
    at = words.index("-m")
    one = TASKS[f"python -m {words[at + 1]}"]
    command.parse(one, with_default_verb(words[at + 2 :], one.verbs, "compress"))


def docker(words: list[str], place: Path) -> None:
    """Only read: no engine runs here. The target is in the Dockerfile, what follows the image is a command line."""
    targets = re.findall(
        r"^FROM .* AS ([\w-]+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE | re.IGNORECASE
    )
    image = next(at for at, word in enumerate(words) if word.startswith("slr-det:"))
    target = words[image].partition(":")[2]
    assert target in targets, f"the Dockerfile has no target {target}"
    rest = words[image + 1 :]
    if words[0] == "run" and rest and rest[0] not in ("slr-det", "doctor"):
        one = TASKS[f"python -m slr_det.{target}"]
        command.parse(one, with_default_verb(rest, one.verbs, "compress"))


def submodule(words: list[str], place: Path) -> None:
    """Only read: it needs the network. The checkout is one of those that .gitmodules names."""
    modules = (ROOT / ".gitmodules").read_text(encoding="utf-8")
    assert all(f"path = {word}\n" in modules for word in words if word.startswith("third_party/"))


CHECKS: dict[str, Callable[[list[str], Path], None]] = {
    "make": make,
    "uv pip": install,
    "pip": install,
    **{module: task(module) for module in TASKS},
    "slr-det": toolbox_verb,
    "python -m slr_det.pack": packing,
    "python -m slr_det.unpack": unpacking,
    "python -m slr_det.bench": benchmark,
    "python -m slr_det.sweep": studies,
    "torchrun": torchrun,
    "docker": docker,
    "git submodule": submodule,
}


def test_the_pages_have_commands() -> None:
    assert len(EVERY) > 50
    assert {page for _, page in EVERY} >= {"README.md", "docs/quickstart/yolo.md", "docs/howto/deploy.md"}


@pytest.mark.parametrize(("line", "page"), EVERY, ids=[f"{page}: {line}" for line, page in EVERY])
def test_a_command_of_the_documents_is_one(line: str, page: str, place: Path) -> None:
    program = next(
        (name for name in sorted(CHECKS, key=len, reverse=True) if (line + " ").startswith(name + " ")), None
    )
    assert program is not None, f"{page}: no check knows {line!r}; see CHECKS"
    CHECKS[program](shlex.split(line.removeprefix(program)), place)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python -m slr_det.yolo compress model=best.pt data=mine.yaml imgszz=640", "did you mean 'imgsz'"),
        ("python -m slr_det.classify analyze model=cifar_resnet20 --compresion 20x", "--compresion"),
        (
            "python -m slr_det.lane model=tusimple_18.pth data=tusimple prune.scope=backbon",
            "did you mean 'backbone'",
        ),
        ("uv pip install -e '.[yoloo]'", "yoloo"),
        ("make demos", "demos"),
        ("torchrun --nproc-per-node 2 -m slr_det.lane --compresion 4x", "--compresion"),
        ("git submodule update --init third_party/OpenPCDett", ""),
        ("slr-det repport runs/shapes", "repport"),
    ],
)
def test_a_wrong_command_would_be_found(
    line: str, said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = next(name for name in sorted(CHECKS, key=len, reverse=True) if line.startswith(name + " "))
    with pytest.raises((SystemExit, ConfigError, AssertionError)) as found:
        CHECKS[program](shlex.split(line.removeprefix(program)), place)
    assert said in str(found.value) + capsys.readouterr().err
