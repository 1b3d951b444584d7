"""What adapters rely on in their checkouts, where those are present; a seam that moved is named in one line."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slr_det.adapter import load_adapter
from slr_det.errors import ConfigError
from slr_det.toolbox import main
from slr_det.upstream.project import Upstream, upstreams
from slr_det.upstream.results import same_commit
from slr_det.upstream.seams import moved, require_at_start
from slr_det.upstream.suite import run_contracts

ROOT = Path(__file__).resolve().parents[2]
UPSTREAMS = upstreams()


def present(upstream: Upstream) -> Path:
    path = upstream.locate("").resolve()
    if not upstream.is_at(path):
        pytest.skip(
            f"no checkout of {upstream.title} is at {path}; set {upstream.variable}, or run: {upstream.fetch}"
        )
    return path


@pytest.fixture(params=UPSTREAMS, ids=lambda upstream: upstream.name)
def upstream(request: pytest.FixtureRequest) -> Upstream:
    found: Upstream = request.param
    return found


def test_the_commit_is_the_one_that_third_party_pins(upstream: Upstream) -> None:
    command = ["git", "ls-files", "-s", "--", upstream.default]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        pytest.skip(f"not a git checkout: {run.stderr.strip()}")
    mode, commit = run.stdout.split()[:2]
    assert mode == "160000" and same_commit(commit, upstream.commit)
    assert upstream.commit in (ROOT / "third_party" / "README.md").read_text(encoding="utf-8")


def test_what_is_declared_can_be_read(upstream: Upstream) -> None:
    assert len(upstream.seams) > 10 and len({seam.title for seam in upstream.seams}) == len(upstream.seams)
    assert len({contract.name for contract in upstream.contracts}) == len(upstream.contracts) >= 3
    uses = [*(seam.use for seam in upstream.seams), *(file.use for file in upstream.files)]
    for text in (*uses, *(contract.says for contract in upstream.contracts)):
        assert text == text.strip() and text and "\n" not in text and not text.endswith(".")


def test_nothing_has_moved_in_the_checkout(upstream: Upstream) -> None:
    assert moved(present(upstream), upstream) == {}


CONTRACTS = [
    pytest.param(upstream, id=upstream.name, marks=pytest.mark.slow)
    for upstream in UPSTREAMS
    if upstream.contracts
]


@pytest.mark.parametrize("upstream", CONTRACTS)
def test_every_contract_holds(upstream: Upstream) -> None:
    path = present(upstream)
    before = _files(path)
    lines = list(run_contracts(upstream, path))
    assert [line.name for line in lines] == [contract.name for contract in upstream.contracts]
    assert [str(line) for line in lines if line.verdict != "ok"] == []
    assert _files(path) == before, "nothing in a checkout is changed"


def _files(folder: Path) -> dict[str, int]:
    git = folder / ".git"
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and git not in p.parents}


# -- broken on purpose ------------------------------------------------------------------------------------


def copied(name: str, folder: Path) -> tuple[Upstream, Path]:
    """A copy of a checkout that may be broken: its sources and small files, without its history."""
    (upstream,) = upstreams([name])
    path = present(upstream)
    skipped = shutil.ignore_patterns(".git", "docs", "*.jpg", "*.png", "*.ipynb")
    shutil.copytree(path, folder / "copy", ignore=skipped)
    return upstream, folder / "copy"


def rewritten(file: Path, pattern: str, by: str) -> None:
    text = file.read_text(encoding="utf-8")
    changed = re.sub(pattern, by, text)
    assert changed != text, f"{file.name} has no {pattern}"
    file.write_text(changed, encoding="utf-8")


# Adapter, file, what is changed in it (nothing: the file is deleted), and what the line says.
BROKEN = [
    (
        "ufld",
        "utils/factory.py",
        ("def get_loss_dict", "def get_losses"),
        r"has no 'get_loss_dict' \(did you mean",
    ),
    (
        "ufld",
        "train.py",
        (r"def train\(net, data_loader", "def train(data_loader, net"),
        "takes 'net' in another place",
    ),
    (
        "ufld",
        "train.py",
        (r"use_aux\):\n    net\.train", "use_aux, amp):\n    net.train"),
        "wants 'amp' as well",
    ),
    (
        "ufld",
        "train.py",
        (r"dist_tqdm\(train_loader\)", "dist_tqdm(data_loader)"),
        "does not use 'train_loader'",
    ),
    ("ufld", "model/model.py", ("use_aux=False", "auxiliary=False"), "takes no 'use_aux' any more"),
    ("ufld", "evaluation/eval_wrapper.py", None, "there is no module evaluation.eval_wrapper"),
    (
        "openpcdet",
        "pcdet/models/__init__.py",
        ("def model_fn_decorator", "def model_function"),
        "'model_fn_decorator'",
    ),
    (
        "openpcdet",
        "tools/train_utils/train_utils.py",
        ("model_func", "function"),
        "takes no 'model_func' any more",
    ),
    ("openpcdet", "tools/train_utils/optimization/fastai_optim.py", None, "OptimWrapper|fastai_optim"),
    (
        "openpcdet",
        "pcdet/datasets/kitti/kitti_dataset.py",
        ("def get_infos", "def infos"),
        "has no 'get_infos'",
    ),
    ("yolov3", "utils/loss.py", ("class ComputeLoss", "class Loss"), "has no 'ComputeLoss'"),
    ("yolov3", "train.py", (r"ComputeLoss\(model\)", "make_loss(model)"), "does not use 'ComputeLoss'"),
    ("yolov3", "models/yolo.py", ("Model = DetectionModel", "Detector = DetectionModel"), "has no 'Model'"),
    ("yolov3", "utils/torch_utils.py", ("decay=1e-5", "decay=1e-5, *, fused"), "wants 'fused' as well"),
]


@pytest.mark.parametrize(("name", "file", "change", "said"), BROKEN)
def test_a_seam_that_moved_is_one_line(
    name: str,
    file: str,
    change: tuple[str, str] | None,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, copy = copied(name, tmp_path)
    if change is None:
        (copy / file).unlink()
    else:
        rewritten(copy / file, *change)
    assert main(["upstream", "check", name, "--checkout", f"{name}={copy}", "--seams"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  MOVED")]
    assert any(re.search(said, line) for line in lines), lines
    with pytest.raises(ConfigError) as caught:
        require_at_start(load_adapter(name), "model", {"upstream": str(copy)})
    assert re.search(said, str(caught.value)) and "\n" not in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, copy = copied("ufld", tmp_path)
    (copy / "configs" / "tusimple.py").unlink()
    assert main(["upstream", "check", "ufld", "--checkout", f"ufld={copy}", "--seams"]) == 1
    assert "configs/tusimple.py is missing" in capsys.readouterr().out
    require_at_start(load_adapter("ufld"), "parsingnet18", {"upstream": str(copy)})  # a run may have another


@pytest.mark.slow
def test_a_run_in_a_moved_checkout_ends_at_its_start(tmp_path: Path) -> None:
    """Before the data are looked at, which do not even exist."""
    _, copy = copied("ufld", tmp_path)
    rewritten(copy / "utils" / "factory.py", "def get_optimizer", "def make_optimizer")
    words = [
        "--backend",
        "ufld",
        f"upstream={copy}",
        "model=parsingnet18",
        "data=nowhere",
        f"project={tmp_path}/runs",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "slr_det.lane", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.count("\n") == 1 and "utils/factory.py: has no 'get_optimizer'" in run.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_checkout_that_does_something_else_fails_its_contract(tmp_path: Path) -> None:
    """Every name is where it was, and the penalty is left out of the sum: only training shows it."""
    upstream, copy = copied("ufld", tmp_path)
    rewritten(
        copy / "train.py",
        r"loss \+= loss_cur \* loss_dict\['weight'\]\[i\]",
        "loss += loss_cur * loss_dict['weight'][i] * (1 if data_src else 0)",
    )
    assert moved(copy, upstream) == {}
    contracts = importlib.import_module("slr_det_adapters.ufld.contracts")
    (training,) = (contract for contract in contracts.UPSTREAM.contracts if contract.name == "training")
    with pytest.raises(Exception, match="the penalty does not reach the optimizer"):
        training.run(copy, tmp_path)


# -- an outsider's adapter, whose contracts end in every way ------------------------------------------------

OUTSIDER = """
import os, time
from pathlib import Path
from slr_det.upstream.project import Contract, ContractError, Seam, Upstream

def good(checkout, folder):
    (folder / "left").touch()
    return "found"

def wrong(checkout, folder):
    raise ContractError("it is something else")

def raising(checkout, folder):
    values = {}
    exec(compile((checkout / "code.py").read_text(), str(checkout / "code.py"), "exec"), values)
    values["go"]()

def hanging(checkout, folder):
    print("noise of upstream")
    time.sleep(600)

def dying(checkout, folder):
    os.write(2, b"Fatal: it is over\\n")
    os._exit(7)

class Adapter:
    name = "outsider"
    def upstream(self):
        runs = (good, wrong, raising, hanging, dying, good)
        return Upstream("outsider", "Outside", "abc1234", "OUTSIDE", "third_party/Outside", Path,
            (Seam("code", "go", "is called", ""),),
            contracts=tuple(Contract(f"{f.__name__}{n}", "it is so", f) for n, f in enumerate(runs)))

adapter = Adapter()
"""


@pytest.fixture
def outsider(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A package that registers an adapter by its entry point; the environment in which it is installed."""
    site, checkout = tmp_path / "site", tmp_path / "checkout"
    (site / "outsider-1.0.dist-info").mkdir(parents=True)
    (site / "outsider-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n"
    )
    (site / "outsider-1.0.dist-info" / "entry_points.txt").write_text(
        "[slr_det.adapters]\noutsider = outsider_adapter:adapter\n"
    )
    (site / "outsider_adapter.py").write_text(OUTSIDER)
    checkout.mkdir()
    (checkout / "code.py").write_text("def go():\n    raise ValueError('a reason\\nof two lines')\n")
    yield {**os.environ, "PYTHONPATH": str(site), "CHECKOUT": str(checkout)}


@pytest.mark.slow
def test_contracts_that_fail_hang_or_kill_their_process(outsider: dict[str, str]) -> None:
    place = f"outsider={outsider['CHECKOUT']}"
    words = ["upstream", "check", "outsider", "--checkout", place, "--limit", "2", "--json"]
    command = [sys.executable, "-m", "slr_det", *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=outsider)
    assert (run.returncode, run.stderr) == (1, "")
    (found,) = json.loads(run.stdout)["checkouts"]
    lines: dict[str, Any] = {line["name"]: (line["verdict"], line["says"]) for line in found["lines"]}
    assert lines["code.go()"] == ("ok", "is called")
    assert lines["good0"] == lines["good5"] == ("ok", "it is so; found")
    assert lines["wrong1"] == ("failed", "it is something else")
    assert lines["raising2"] == ("failed", "ValueError: a reason of two lines, at code.py:2")
    assert lines["hanging3"][0] == "failed" and re.match(r"was not done after \d s", lines["hanging3"][1])
    assert lines["dying4"] == (
        "failed",
        "its process ended with code 7 before it was done (Fatal: it is over)",
    )
