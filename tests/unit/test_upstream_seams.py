"""What has moved in somebody's sources is found by reading them, and said in one line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slr_det.errors import ConfigError
from slr_det.toolbox import main
from slr_det.upstream.commits import commit_of
from slr_det.upstream.project import NeededFile, Seam, Upstream, upstreams
from slr_det.upstream.results import same_commit
from slr_det.upstream.seams import moved, require, require_at_start

FILES = {
    "train.py": """\
import torch
from utils.factory import make_loss as loss, make_optimizer
from utils import *
def train(model, loader, *, epochs, verbose=False):
    def step(batch):
        return loss(model, batch)
    return show(step(loader))
show = print
if __name__ == "__main__":
    loader_of_main = 1
""",
    "utils/__init__.py": "from .metrics import accuracy\nimport os\n",
    "utils/metrics.py": "def accuracy(found, truth): ...\n",
    "utils/factory.py": """\
try:
    from fast import make_optimizer
except ImportError:
    def make_optimizer(net, cfg): ...
def make_loss(model, batch, weight=1.0): ...
class Base:
    def __init__(self, root, *, training=True): self.root = root
    def read(self, index): return decode(index)
    @staticmethod
    def collate(batch): ...
class Folder(Base):
    version = 3
    def __len__(self): ...
class Foreign(torch.nn.Module): ...
Set = Folder
def decode(index): ...
""",
    "tools/run/more.py": "def go(a, /, b, *rest, c, **options): ...\n",
    "configs/one.yaml": "x: 1\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def upstream(*seams: Seam, **more: Any) -> Upstream:
    return Upstream(
        "mine", "Mine", "abc1234", "MINE", "third_party/Mine", Path, seams, roots=("", "tools"), **more
    )


def problem(root: Path, module: str, name: str, takes: str | None = None, reads: tuple[str, ...] = ()) -> str:
    found = moved(root, upstream(Seam(module, name, "is used", takes, reads)))
    return next(iter(found.values()), "")


@pytest.mark.parametrize(
    ("module", "name", "takes"),
    [
        ("train", "train", "model, loader, *, epochs"),
        (
            "train",
            "train",
            "net, batches, *, epochs, verbose?, unknown?",
        ),  # by place: another name is no matter
        ("train", "loss", "model, batch"),  # imported under another name
        ("train", "make_optimizer", "net, cfg"),
        ("train", "accuracy", "found, truth"),  # by a star, from a module above
        ("train", "show", "anything"),  # a builtin: there, and no more is known
        ("train", "os", None),
        ("train", "torch", None),
        ("utils.factory", "Set", "root, *, training"),  # an alias, and a constructor of the class above
        ("utils.factory", "Folder.read", "index"),
        ("utils.factory", "Folder.collate", "batch"),
        ("utils.factory", "Folder.root", None),
        ("utils.factory", "Folder.version", None),
        ("utils.factory", "Foreign", "x"),  # by the constructor of an installed class
        ("run.more", "go", "x, b, d, e, *, c, anything"),
        ("utils", "metrics", None),
    ],
)
def test_what_is_there_is_found(checkout: Path, module: str, name: str, takes: str | None) -> None:
    assert problem(checkout, module, name, takes) == ""


@pytest.mark.parametrize(
    ("module", "name", "takes", "said"),
    [
        (
            "utils.factory",
            "make_los",
            None,
            "utils/factory.py: has no 'make_los' (did you mean 'make_loss'?), which is",
        ),
        ("utils.factori", "x", None, "there is no module utils.factori (did you mean 'utils.factory'?)"),
        ("utils.factory", "Folder.lenght", None, "utils/factory.py:11: Folder has no 'lenght'"),
        ("utils.factory", "Foreign.go", None, "Foreign has no 'go'"),  # nobody looks for it in torch
        ("train", "loader_of_main", None, "train.py: has no 'loader_of_main'"),
        ("train", "train", "loader, model, *, epochs", "train.py:4: takes 'loader' in another place"),
        ("train", "train", "model, loader", "wants 'epochs' as well"),
        ("train", "train", "model, loader, *, epochs, device", "takes no 'device' any more"),
        ("train", "train", "model, loader, extra, *, epochs", "takes no 'extra' any more"),
        ("train", "loss", "model, batch, weight, more", "utils/factory.py:5: takes no 'more' any more"),
        ("utils.factory", "Folder", "", "wants 'root' as well"),
        ("run.more", "go", "x, y", "wants 'c' as well"),
        ("run.more", "go", "*, a, b, c", "wants 'a' as well"),  # which is given by its place alone
    ],
)
def test_what_moved_is_one_line(checkout: Path, module: str, name: str, takes: str | None, said: str) -> None:
    line = problem(checkout, module, name, takes)
    assert said in line and "\n" not in line and line.endswith("which is used")
    if takes is not None:
        assert "now)" in line, "the signature as it is"


def test_names_that_a_function_takes_from_its_module(checkout: Path) -> None:
    assert problem(checkout, "train", "train", None, ("loss", "show")) == ""
    assert problem(checkout, "utils.factory", "Folder.read", None, ("decode",)) == ""
    line = problem(checkout, "train", "train", None, ("loss", "make_optimizer"))
    assert line == "train.py:4: train does not use 'make_optimizer' of its module any more, which is used"
    assert "'model'" in problem(checkout, "train", "train", None, ("model",)), (
        "its own parameter is no such name"
    )


def test_sources_that_broke(checkout: Path) -> None:
    """An import that leads nowhere is said where it is; so is a file that is no Python."""
    (checkout / "utils" / "factory.py").write_text("def make_los(model, batch): ...\n")
    assert "utils/factory.py: has no 'make_loss' (did you mean 'make_los'?)" in problem(
        checkout, "train", "loss"
    )
    (checkout / "utils" / "factory.py").unlink()
    line = problem(checkout, "train", "loss")
    assert "train.py: takes 'make_loss' from utils.factory, and there is no such module" in line
    (checkout / "train.py").write_bytes(b"def train(:\n")
    assert problem(checkout, "train", "train").startswith(
        "train.py: cannot be read as Python (invalid syntax"
    )
    (checkout / "train.py").write_bytes(b"\0")
    assert "cannot be read as Python" in problem(checkout, "train", "train")
    (checkout / "train.py").write_text("from train import x\nfrom utils.round import y\n")
    (checkout / "utils" / "round.py").write_text("from train import y\n")
    assert problem(checkout, "train", "y") == "", "in circles: nothing is known"


def test_files_and_the_line_that_ends_a_run(checkout: Path) -> None:
    files = (NeededFile("configs/one.yaml", "is read"), NeededFile("configs/two.yaml", "is read too"))
    good, bad = Seam("train", "train", "trains"), Seam("train", "trian", "trains")
    found = moved(checkout, upstream(good, files=files))
    assert list(found.values()) == [
        "configs/two.yaml is missing (did you mean 'configs/one.yaml'?), which is read too"
    ]
    require(checkout, upstream(good, files=files))  # a run may have files of its own
    with pytest.raises(ConfigError) as caught:
        require(checkout, upstream(good, bad, Seam("gone", "x", "is used")))
    assert str(caught.value) == (
        f"{checkout}: the seams of Mine have moved: train.py: has no 'trian' (did you mean 'train'?), which trains "
        "(and 1 more); check out commit abc1234, for which this adapter was written: "
        f"git -C {checkout} checkout abc1234; "
        "all of them: slr-det upstream check mine --seams"
    )

    with pytest.raises(ConfigError, match="is no checkout of Mine: nothing that this adapter uses is there"):
        require(checkout, upstream(bad, Seam("gone", "x", "is used")))

    class Driving:
        def upstream(self) -> Upstream:
            return upstream(bad, around=lambda model: checkout if model == "inside" else None)

    adapter: Any = Driving()
    for model, given in (("x", {"upstream": str(checkout)}), ("inside", {})):
        with pytest.raises(ConfigError, match="no 'trian'"):
            require_at_start(adapter, model, given)
    require_at_start(adapter, "x", {"upstream": str(checkout / "nowhere")})  # said when it is needed
    require_at_start(Any, "x", {})  # type: ignore[arg-type]  # drives none


def test_the_commit_of_a_checkout(checkout: Path, tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "one")
    assert commit_of(tmp_path) == (git("rev-parse", "HEAD"), "")
    assert commit_of(checkout) == (None, "it is no git checkout"), (
        "that of the repository around it is another's"
    )
    (checkout / ".git").write_text("gitdir: nowhere\n")
    found, why = commit_of(checkout)
    assert found is None and "not a git repository" in why
    assert same_commit("abc1234def", "abc1234") and not same_commit("abc1234def", "abc9")


# -- the verb ---------------------------------------------------------------------------------------------


def test_a_moved_checkout_on_the_command_line(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that has none of the seams: every one is a line, nothing is run, exit code 1."""
    assert main(["upstream", "check", "ufld", "--checkout", f"ufld={checkout}", "--json"]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    found = json.loads(said.out)
    (ufld,) = upstreams(["ufld"])
    (entry,) = found["checkouts"]
    assert found["ok"] is False and entry["present"] and entry["commit"] is None
    lines = {line["name"]: line for line in entry["lines"]}
    assert set(lines) == {
        *(seam.title for seam in ufld.seams),
        *(file.path for file in ufld.files),
        *(contract.name for contract in ufld.contracts),
    }
    assert lines["network"]["verdict"] == "skipped"
    assert lines["utils.factory.get_loss_dict(cfg)"]["verdict"] == "moved"


def test_an_absent_checkout_is_2_where_it_was_named_and_0_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for found in upstreams():
        monkeypatch.setenv(found.variable, str(tmp_path / "nowhere"))
    assert main(["upstream", "check"]) == 0
    said = capsys.readouterr()
    assert said.out.count("git submodule update --init third_party/") == len(upstreams()) >= 3
    assert "no checkout is present, so nothing was checked" in said.out and said.err == ""
    for words in (["ufld"], ["--checkout", f"ufld={tmp_path}/none"]):
        assert main(["upstream", "check", *words]) == 2
        assert "no checkout of Ultra-Fast-Lane-Detection is there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["openpcdt"], "no adapter 'openpcdt' drives a checkout (did you mean 'openpcdet'?)"),
        (["timm"], "no adapter 'timm' drives a checkout"),
        (["--checkout", "ufld"], "--checkout ufld: expected NAME=PATH"),
        (["--checkout", "ufdl=x"], "no adapter 'ufdl' drives a checkout (did you mean 'ufld'?)"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upstream", "check", *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "soon"])
def test_a_limit_is_a_time(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["upstream", "check", "--limit", limit])
    assert "expected seconds above 0" in capsys.readouterr().err
