from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from slr_det.allocation import Ratios
from slr_det.config import PruneConfig, RunConfig, load_config
from slr_det.errors import ConfigError
from slr_det.methods import Hyper
from slr_det.projections import Projection
from slr_det.sensitivity import SensitivityTable
from slr_det.yamlio import parse_value, parse_yaml

TRAINER = ("imgsz", "batch", "lr0", "optimizer", "mosaic", "freeze", "amp")


def load(*words: str, source: Any = None, **options: Any) -> RunConfig:
    return load_config(source, ["model=m.yaml", *words], **{"trainer_keys": TRAINER, **options})


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(*words: str, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*words, **options)
    return list(caught.value.problems)


def test_defaults_are_the_papers() -> None:
    config = load()
    assert config == RunConfig(model="m.yaml")
    assert config.slr == Hyper(rho=0.1, M=300.0, r=0.1, s0=0.01, stepsize="contractive", objective="running")
    assert config.method == ("slr",) and config.bn_recalibrate and config.prune == PruneConfig()


def test_layers_override_each_other_and_bare_trainer_keys_pass_through(tmp_path: Path) -> None:
    path = write(
        tmp_path / "row.yaml",
        """
epochs: 20
imgsz: 320
prune: {keep: 0.3, allocation: erk, exclude: ["*.dfl.*"]}
slr: {rho: 1e-2, M: 100}
train: {batch: 8, lr0: 1E-3}
retrain: {lr0: 1e-4}
min: {map50: 0.35}
paper: {dense: 37.1, metric: AP50 x100}
""",
    )
    config = load(
        "batch=16",
        "train.optimizer=SGD",
        "slr.rho=5e-3",
        "method=slr, admm",
        "freeze=[0, 1]",
        "min.map=0.2",
        "paper.slr=36.1",
        source=path,
        defaults={"epochs": 5, "retrain_epochs": 7, "train": {"mosaic": 0.0, "batch": 4}},
    )
    assert config == RunConfig(
        model="m.yaml",
        name="row",
        method=("slr", "admm"),
        epochs=20,
        retrain_epochs=7,
        prune=PruneConfig(keep=0.3, allocation="erk", exclude=("*.dfl.*",)),
        slr=Hyper(rho=0.005, M=100.0),
        train={"imgsz": 320, "batch": 16, "lr0": 0.001, "optimizer": "SGD", "mosaic": 0.0, "freeze": [0, 1]},
        retrain={"lr0": 0.0001},
        minimum={"map50": 0.35, "map": 0.2},
        paper={"dense": 37.1, "metric": "AP50 x100", "slr": 36.1},
    )


def test_a_dumped_configuration_runs_again(tmp_path: Path) -> None:
    config = load(
        "prune.projection=2:4",
        "prune.ratios={keep: {'a*': 0.25}}",
        "prune.include=a*,b*",
        "prune.groups=[{name: g, params: [c*], keep: 0.5, projection: filter, coupled: true}]",
        "name=1e3",
        "device=[0, 1]",
        "lr0=1e-5",
        "slr.s0=1e-6",
        "min.map50=0.1",
    )
    assert config.prune.ratios == Ratios({"a*": 0.25}, "prune.ratios")
    assert (config.name, config.device, config.train["lr0"]) == ("1e3", "0,1", 1e-5)
    path = config.dump(tmp_path / "config.yaml")
    again = load_config(path, trainer_keys=TRAINER)
    assert again == config
    assert load_config(yaml.safe_load(path.read_text(encoding="utf-8")), trainer_keys=TRAINER) == config
    assert (
        config.to_dict()["min"] == {"map50": 0.1} and config.to_dict()["prune"]["target_compression"] is None
    )


def test_published_numbers_are_given_per_method_phase_and_metric(tmp_path: Path) -> None:
    path = write(
        tmp_path / "row.yaml",
        """
paper:
  dense: {easy: 81, moderate: 78.5}
  slr: {hard_prune: 68.0, retrain: {easy: 7.99e1, hard: null}}
  admm: 58.6
  penalty:
  metric: easy x100
  note: a remark
""",
    )
    found = load("paper.admm={retrain: {easy: 70.9}}", "paper.gradual=60", source=path)
    assert found.paper == {
        "dense": {"easy": 81.0, "moderate": 78.5},
        "slr": {"hard_prune": 68.0, "retrain": {"easy": 79.9, "hard": None}},
        "admm": {"retrain": {"easy": 70.9}},
        "penalty": None,
        "metric": "easy x100",
        "note": "a remark",
        "gradual": 60.0,
    }
    again = load_config(found.dump(tmp_path / "config.yaml"), trainer_keys=TRAINER)
    assert again.paper == found.paper


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("35.4", "paper is 35.4, expected a section with keys of its own"),
        (
            "{slr: many}",
            "paper.slr is 'many', expected a number, or one for each phase such as {hard_prune: ",
        ),
        ("{slr: [1, 2]}", "paper.slr is [1, 2], expected a number, or one for each phase"),
        ("{slr: true}", "paper.slr is True, expected a number, or one for each phase"),
        ("{mine: .nan}", "paper.mine is nan, expected a number, or one for each phase"),
        ("{slr: {}}", "paper.slr is empty, expected a number, or one for each phase"),
        (
            "{slr: {retrained: 1}}",
            "paper.slr.retrained is not a known key, expected hard_prune or retrain (did you mean 'retrain'?)",
        ),
        ("{slr: {easy: 1}}", "paper.slr.easy is not a known key, expected hard_prune or retrain"),
        (
            "{slr: {retrain: x}}",
            "paper.slr.retrain is 'x', expected a number, or numbers by metric such as {easy",
        ),
        ("{slr: {retrain: {}}}", "paper.slr.retrain is empty, expected a number, or numbers by metric"),
        ("{slr: {retrain: {easy: x}}}", "paper.slr.retrain.easy is 'x', expected a number"),
        ("{dense: {hard: {x: 1}}}", "paper.dense.hard is {'x': 1}, expected a number"),
        ("{dense: n/a}", "paper.dense is 'n/a', expected a number, or numbers by metric"),
        ("{metric: 100}", "paper.metric is 100, expected a metric and its scale such as 'AP50 x100'"),
        ("{source: [7]}", "paper.source is [7], expected text"),
        ("{slr.retrain: 79.9}", "unknown key 'paper.slr.retrain'; write paper.slr={retrain: 79.9}"),
    ],
)
def test_published_numbers_of_a_wrong_shape_are_refused_by_key(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = write(tmp_path / "row.yaml", f"paper: {text}\n")
    (found,) = problems_of(source=path)
    assert found.startswith(f"{path}: {problem}") and "\n" not in found
    if "{" in text and "slr.retrain" not in text:  # the same from the command line, key by key
        key, value = text[1:-1].split(": ", 1)
        (found,) = problems_of(f"paper.{key}={value}")
        assert found.startswith(f"command line: {problem}")


def test_every_problem_is_reported_with_where_it_is(tmp_path: Path) -> None:
    path = write(
        tmp_path / "bad.yaml",
        """
modle: x.yaml
epochs: many
prune: {keeep: 0.3, keep: 1.5, projection: filtr, allocation: unifrom, dense_head: 1}
slr: {rho: -0.1, stepsize: contractiv, S0: 0.01}
train: {imgsize: 640, epochs: 3}
min: 0.35
""",
    )
    found = problems_of(
        "method=slr,admn",
        "rho=0.2",
        "keep=0.5",
        "foo",
        "prune.groups=[{name: g, prams: [x]}]",
        "prune.ratios=none.yaml",
        "seed=-1",
        "prune.scan_ratios=[0.5, 0]",
        "freeze=[0",
        source=path,
    )
    expected = [
        f"{path}: min is 0.35, expected a section with keys of its own",
        "command line: 'foo' is not a setting; write key=value",
        "command line: freeze: '[0' is not a YAML list or mapping; check the brackets and quotes",
        f"{path}: unknown key 'modle' (did you mean 'model'?)",
        f"{path}: epochs is 'many', expected a whole number of at least 1",
        f"{path}: unknown key 'prune.keeep' (did you mean 'prune.keep'?)",
        f"{path}: prune.keep is 1.5, expected a keep ratio in (0, 1]",
        f"{path}: prune.projection: unknown projection 'filtr' (did you mean 'filter'?)",
        f"{path}: prune.allocation is 'unifrom', expected one of uniform, layerwise, erk, global, sensitivity"
        " (did you mean 'uniform'?)",
        f"{path}: prune.dense_head is 1, expected true or false",
        f"{path}: unknown key 'slr.S0' (did you mean 'slr.s0'?)",
        f"{path}: train.imgsize: the trainer has no argument 'imgsize' that can be set (did you mean 'imgsz'?)",
        f"{path}: train.epochs: the trainer has no argument 'epochs' that can be set (did you mean 'epochs'?)",
        "command line: method is 'admn', expected one of admm, ",
        "command line: unknown key 'rho' (did you mean 'slr.rho'?)",
        "command line: unknown key 'keep' (did you mean 'prune.keep'?)",
        "command line: prune.groups: group 'g': unknown key 'prams' (did you mean 'params'?)",
        "command line: prune.groups: group 'g': params is None, expected a list of parameter names or globs",
        "command line: prune.ratios: none.yaml: no such file; check the path",
        "command line: seed is -1, expected a whole number of at least 0",
        "command line: prune.scan_ratios is [0.5, 0], expected a keep ratio in (0, 1]",
        f"{path}: slr.rho is -0.1, expected a finite number above 0",
        f"{path}: slr.stepsize is 'contractiv', expected contractive or as_printed (did you mean 'contractive'?)",
    ]
    missing = [line for line in expected if not any(problem.startswith(line) for problem in found)]
    assert missing == []
    assert len(found) == len(expected)


def test_contradictions_are_refused_but_the_command_line_replaces_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "prune: {keep: 0.3}\n")
    both = write(tmp_path / "b.yaml", "prune: {keep: 0.3, target_compression: 2x}\n")
    assert problems_of(source=both) == [
        f"{both}: prune.keep=0.3 and prune.target_compression=2 are both given; remove one"
    ]
    prune = load("prune.target_compression=5x", source=path).prune
    assert (prune.keep, prune.target_compression) == (None, 5.0)
    prune = load("prune.keep=0.5", source={"prune": {"target_compression": 2}}).prune
    assert (prune.keep, prune.target_compression) == (0.5, None)
    assert len(problems_of("prune.keep=0.5", "prune.target_compression=2")) == 1
    assert problems_of("prune.target_compression=0.5x") == [
        "command line: prune.target_compression is '0.5x', expected a rate of at least 1 such as 3.33x"
    ]


def test_ratios_come_from_a_file_beside_the_configuration_or_in_it(tmp_path: Path) -> None:
    write(tmp_path / "ratios.yaml", "prune_ratios: {conv1.weight: 0.9}\nrhos: {}\n")
    config = load(source=write(tmp_path / "run.yaml", "prune: {ratios: ratios.yaml}\n"))
    assert config.prune.ratios is not None and config.prune.ratios.keep == {"conv1.weight": 0.1}
    assert "rhos not used" in config.prune.ratios.notes[0]
    assert config.prune.allocation == "layerwise"
    solved = load("prune.target_compression=2", "prune.ratios={keep: {a: 0.5}}").prune
    assert solved.allocation == "uniform"
    (problem,) = problems_of("prune.ratios={a: 0.5}")
    assert problem.startswith(
        "command line: prune.ratios: the keys ['a'] found; write ratios under exactly one of"
    )
    (problem,) = problems_of("prune.ratios={keep: {a: 2}}")
    assert problem == "command line: prune.ratios: keep: 'a' is 2, expected a keep ratio in (0, 1]"


def test_allocations_that_need_a_file_say_so(tmp_path: Path) -> None:
    assert "needs a file in prune.ratios" in problems_of("prune.allocation=layerwise")[0]
    assert load("prune.allocation=sensitivity").prune.sensitivity == ""  # a run scans its own dense model
    assert problems_of("prune.sensitivity=none.json") == [
        "command line: prune.sensitivity: none.json: no such file; scan the model first"
    ]
    table = SensitivityTable(0.5, (0.5,), {"a": (0.5,)}, {"a": (0.4,)}, Projection("unstructured"))
    path = table.save(tmp_path / "scan.json")
    assert load("prune.allocation=sensitivity", f"prune.sensitivity={path}").prune.sensitivity == str(path)
    write(path, "{}")
    assert "is damaged" in problems_of(f"prune.sensitivity={path}")[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert problems_of(source=tmp_path / "none.yaml") == [
        f"{tmp_path / 'none.yaml'}: no such file; check the path"
    ]
    broken = write(tmp_path / "broken.yaml", "a: b: c\n")
    assert problems_of(source=broken) == [
        f"{broken}: line 1 is not YAML (mapping values are not allowed here); correct it"
    ]
    twice = write(tmp_path / "twice.yaml", "seed: 1\nepochs: 2\nseed: 2\n")
    assert problems_of(source=twice) == [f"{twice}: line 3: the key 'seed' is written twice; remove one"]
    assert (
        "expected settings as 'key: value', got list"
        in problems_of(source=write(tmp_path / "l.yaml", "[1]"))[0]
    )
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not a text file" in problems_of(source=tmp_path / "binary.yaml")[0]
    assert load(source=write(tmp_path / "empty.yaml", "# nothing\n")).name == "empty"


def test_a_model_is_needed_and_a_checkpoint_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^model is not given; add model=... to the command$"):
        load_config(None, [])
    with pytest.raises(ConfigError, match="^data is not given"):
        load(required=("model", "data"))
    (problem,) = problems_of("model=nowhere.pt")
    assert problem.startswith("command line: model is 'nowhere.pt', expected an existing file")
    (tmp_path / "there.pt").write_bytes(b"")
    assert load(f"model={tmp_path / 'there.pt'}").model.endswith("there.pt")


def test_without_the_trainers_keys_its_section_takes_any() -> None:
    assert load("train.anything=1", trainer_keys=()).train == {"anything": 1}
    assert "unknown key 'imgsz'" in problems_of("imgsz=640", trainer_keys=())[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-2.5e+1", -25.0),
        (".5", 0.5),
        ("2:4", "2:4"),
        ("010", "010"),
        ("0x10", 16),
        ("2024-01-02", "2024-01-02"),
        ("true", True),
        ("off", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("3.33x", "3.33x"),
        ("C:/data: mine", "C:/data: mine"),
        ("@home", "@home"),
        ("[1, 2e-1]", [1, 0.2]),
        ("{a: 1}", {"a": 1}),
        ("- a", "- a"),
        ("1.2.3", "1.2.3"),
        ("'12'", "12"),
    ],
)
def test_values_are_read_as_people_mean_them(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value and type(found) is type(value)


def test_yaml_documents_are_read_like_values() -> None:
    assert parse_yaml("projection: 2:4\nlr: 1e-3\n", "x") == {"projection": "2:4", "lr": 0.001}
