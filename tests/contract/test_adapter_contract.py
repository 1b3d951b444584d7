"""What every adapter answers, checked on all that are registered: the protocol, and refusals of one line."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from slr_det import classify, lane, pointpillars, yolo
from slr_det.adapter import ENTRY_POINT_GROUP, Adapter, EvalJob, TrainJob, load_adapter
from slr_det.errors import MissingExtraError, SlrDetError
from slr_det.task import Task
from slr_det.upstream.project import DrivesUpstream

NAMES = sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)})
TASKS = (yolo.TASK, classify.TASK, lane.TASK, pointpillars.TASK)
MAINS = {"yolo": yolo.main, "classify": classify.main, "lane": lane.main, "pointpillars": pointpillars.main}
BACKENDS = [(task, name) for task in TASKS for name in (task.backends or {"": task.adapter})]


def _loaded(name: str) -> Adapter | None:
    try:
        return load_adapter(name)
    except MissingExtraError:
        return None


@pytest.fixture(params=NAMES)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    try:
        return load_adapter(request.param)
    except MissingExtraError as error:
        pytest.skip(str(error))


def one_line(error: SlrDetError) -> str:
    problems = getattr(error, "problems", (str(error),))
    assert problems and all(text and "\n" not in text for text in problems)
    return str(error)


def test_every_adapter_is_reached_by_a_command_line() -> None:
    reached = {task.adapter_of(backend) for task, backend in BACKENDS}
    assert reached == set(NAMES)


def test_every_method_of_the_protocol_is_there(adapter: Adapter) -> None:
    wanted = {name for name in vars(Adapter) if not name.startswith("_")}
    assert wanted >= {"train", "evaluate", "inspect", "export", "illustrate"}
    assert {name for name in wanted if not callable(getattr(adapter, name, None))} == set()
    assert adapter.name in NAMES and load_adapter(adapter.name) is adapter


def test_settings_and_what_is_not_served_are_said(adapter: Adapter) -> None:
    keys = adapter.trainer_keys()
    assert keys and all(isinstance(key, str) and key.isidentifier() for key in keys)
    for key, sentence in adapter.unsupported().items():
        assert key not in keys
        assert sentence and "\n" not in sentence, key
    if isinstance(adapter, DrivesUpstream):
        assert "upstream" in keys, "the checkout can be named"
        assert adapter.upstream().name == adapter.name


def test_a_checkpoint_that_is_missing_or_damaged_is_one_line(adapter: Adapter, tmp_path: Path) -> None:
    suffixes = [
        suffix for suffix in (".pt", ".pth", ".safetensors") if adapter.is_checkpoint(f"model{suffix}")
    ]
    assert suffixes
    path = tmp_path / f"model{suffixes[0]}"
    for content in (None, b"", b"PK\x03\x04 no archive", b"\x80\x02."):
        if content is not None:
            path.write_bytes(content)
        for read in (adapter.inspect, adapter.averaged):
            with pytest.raises(SlrDetError) as caught:
                read(str(path))
            assert path.name in one_line(caught.value)


def test_data_that_are_not_there_are_one_line(adapter: Adapter, tmp_path: Path) -> None:
    for data in (str(tmp_path / "nowhere"), str(tmp_path / "nowhere.yaml")):
        with pytest.raises(SlrDetError) as caught:
            adapter.prepare_data(data, tmp_path / "work")
        assert "nowhere" in one_line(caught.value)


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(_loaded(name), DrivesUpstream)])
def test_an_argument_that_does_not_exist_is_one_line_and_trains_nothing(name: str, tmp_path: Path) -> None:
    adapter = load_adapter(name)
    job = TrainJob("model", str(tmp_path), str(tmp_path / "run"), 1, {"no_such_argument": 1}, device="cpu")
    with pytest.raises(SlrDetError, match="no argument 'no_such_argument'") as caught:
        adapter.train(job, resume=False)
    one_line(caught.value)
    with pytest.raises(SlrDetError, match="no argument 'no_such_argument'"):
        adapter.evaluate(EvalJob("model.pt", str(tmp_path), {"no_such_argument": 1}, device="cpu"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "backend"), BACKENDS, ids=[f"{task.name}-{name}" for task, name in BACKENDS]
)
def test_a_command_line_refuses_what_its_backend_does_not_know(
    task: Task, backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--backend={backend}"] if backend else []
    settings = ["model=model.pt", "data=nowhere.yaml", "no_such_argument=1", f"project={tmp_path}/runs"]
    assert MAINS[task.name](["compress", *words, *settings]) == 2
    said = capsys.readouterr()
    problems = said.err.splitlines()  # all of them at once, a line each
    assert len(problems) == 2 and all(line.startswith("error: ") for line in problems)
    assert "'model.pt', expected an existing file" in problems[0]
    assert "unknown key 'no_such_argument'" in problems[1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("task", [task for task in TASKS if task.backends], ids=lambda task: task.name)
def test_help_names_every_backend(task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    assert next(iter(task.backends.values())) == task.adapter, "the first is the usual one"
    with pytest.raises(SystemExit):
        MAINS[task.name](["compress", "--help"])
    said = capsys.readouterr().out
    assert [name for name in task.backends if name not in said] == []


@pytest.mark.parametrize("task", [task for task in TASKS if task.backends], ids=lambda task: task.name)
def test_a_backend_that_does_not_exist_is_one_line(task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    assert MAINS[task.name](["compress", "backend=nobodys", "model=x.pt", "data=x"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(name in said for name in task.backends)


def test_every_entry_point_is_an_adapter_by_its_name() -> None:
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        module = importlib.import_module(entry.module)
        assert getattr(module, entry.attr).name == entry.name
