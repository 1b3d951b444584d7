from __future__ import annotations

import pytest
import torch

from slr_det.errors import ConfigError
from slr_det.groups import GroupSpec, ParamGroup, build_groups, select
from slr_det.projections import Projection

NAMES = [
    "model.0.conv.weight",
    "model.0.bn.weight",
    "model.1.conv.weight",
    "model.10.conv.weight",
    "head.weight",
]
ANY = Projection("unstructured")


def test_select_keeps_the_models_order() -> None:
    assert select(NAMES, ["head.*", "*.conv.weight"], []) == [NAMES[0], NAMES[2], NAMES[3], NAMES[4]]


def test_select_drops_what_is_excluded() -> None:
    assert select(NAMES, ["*"], ["*.bn.*", "model.1?.*"]) == [NAMES[0], NAMES[2], NAMES[4]]


def test_select_names_every_glob_without_a_match_and_the_nearest_parameter() -> None:
    with pytest.raises(ConfigError) as caught:
        select(NAMES, ["model.0.cov.weight", "*"], ["*.neck.*"])
    assert len(caught.value.problems) == 2
    assert "include: 'model.0.cov.weight' matches no parameter" in caught.value.problems[0]
    assert "did you mean 'model.0.conv.weight'?" in caught.value.problems[0]
    assert "exclude: '*.neck.*'" in caught.value.problems[1]


def test_build_groups_binds_live_tensors() -> None:
    named = {"a": torch.nn.Parameter(torch.ones(4, 4)), "b": torch.nn.Parameter(torch.ones(2, 2))}
    (group,) = build_groups(named, [GroupSpec("g", ("b", "a"), 0.5, ANY)])
    assert isinstance(group, ParamGroup)
    assert group.names == ("b", "a")
    assert group.numel == 20
    assert group.params[1][1] is named["a"]
    assert not group.tensors[0].requires_grad
    group.tensors[0].fill_(3.0)
    assert float(named["b"].detach().sum()) == 12.0


def test_build_groups_reports_every_problem_at_once() -> None:
    named = {
        "conv.weight": torch.zeros(4, 4, 1, 1),
        "ids": torch.zeros(3, dtype=torch.long),
        "b": torch.zeros(4),
    }
    specs = [
        GroupSpec("one", ("conv.wight", "ids"), 0.5, ANY),
        GroupSpec("two", ("conv.weight",), 0.0, Projection("kernel_pattern")),
        GroupSpec("three", ("b", "b"), 1.5, ANY),
        GroupSpec("three", (), 0.5, ANY),
    ]
    with pytest.raises(ConfigError) as caught:
        build_groups(named, specs)
    text = "\n".join(caught.value.problems)
    assert "no parameter 'conv.wight' (did you mean 'conv.weight'?)" in text
    assert "'ids' has dtype torch.int64" in text
    assert "group 'two': keep is 0.0, expected a ratio in (0, 1]" in text
    assert "'conv.weight' cannot be projected onto 'kernel_pattern': kernel is 1x1" in text
    assert "parameter 'b' is in group 'three' twice" in text
    assert "keep is 1.5" in text
    assert "group 'three' is defined twice" in text
    assert "group 'three' has no parameters" in text


def test_a_weight_belongs_to_one_group_only() -> None:
    named = {"a": torch.zeros(4, 4)}
    with pytest.raises(ConfigError, match="'a' is in group 'two' and in group 'one'"):
        build_groups(named, [GroupSpec("one", ("a",), 0.5, ANY), GroupSpec("two", ("a",), 0.5, ANY)])


def test_no_groups_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to prune"):
        build_groups({"a": torch.zeros(2)}, [])
