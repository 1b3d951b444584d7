from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from allocation_models import YOLOV3_TINY, YOLOV3_TINY_PARAMETERS, convs, numel
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_det.allocation import allocate, read_ratios
from slr_det.allocation.table import shorten
from slr_det.errors import ConfigError
from slr_det.groups import build_groups
from slr_det.layers import Layer, make_layer
from slr_det.projections import Projection

HEADS = 2 * (4096 + 20480)
FREE = numel(YOLOV3_TINY) - HEADS - 432
DENSE = YOLOV3_TINY_PARAMETERS - FREE
# A scan in which every layer loses the same per weight, so that sensitivity is feasible wherever uniform is.
CURVES = {layer.name: [(0.5, 0.1), (0.001, 0.3)] for layer in YOLOV3_TINY}


def tiny(**options: Any) -> Any:
    return allocate(YOLOV3_TINY, model_parameters=YOLOV3_TINY_PARAMETERS, **options)


def random_weights(layers: list[Layer]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {layer.name: torch.randn(layer.shape, generator=generator) for layer in layers}


@pytest.mark.parametrize("method", ["uniform", "erk", "global", "sensitivity", "layerwise"])
@pytest.mark.parametrize("rate", ["1.19x", 2, 3.33, "10x", "60x"])
def test_target_compression_is_met_within_a_weight_per_layer(method: str, rate: float | str) -> None:
    ratios = {"*": 0.5, "model.13.conv": 0.1} if method == "layerwise" else None
    allocation = tiny(method=method, target_compression=rate, ratios=ratios, sensitivity=CURVES)
    number = float(str(rate).removesuffix("x"))
    allowed = math.floor(YOLOV3_TINY_PARAMETERS / number)
    kept = allocation.compression()["model"]["kept"]
    assert allowed - len(allocation.groups) < kept <= allowed
    assert allocation.compression()["model"]["rate"] >= number
    assert kept == YOLOV3_TINY_PARAMETERS - FREE + sum(allocation.counts)
    assert sum(row.kept for row in allocation.layers) == numel(YOLOV3_TINY) - FREE + sum(allocation.counts)


def test_uniform_at_3_33_over_yolov3_tiny() -> None:
    allocation = tiny(target_compression="3.33x")
    assert FREE == 12_114_432
    assert allocation.compression() == {
        "groups": {"weights": 12_114_432, "kept": 3_596_814, "rate": 12_114_432 / 3_596_814},
        "model": {"weights": 12_173_248, "kept": 3_655_630, "rate": 12_173_248 / 3_655_630},
    }
    assert allocation.keep == pytest.approx(3_596_814 / 12_114_432, abs=1e-6)
    assert {spec.keep for spec in allocation.specs()} == {allocation.keep}
    dense = {row.layer.name: row.reason for row in allocation.layers if row.keep is None}
    assert dense == {
        "model.0.conv.weight": "first layer",
        **{f"model.20.cv{a}.{b}.2.weight": "detection head" for a in (2, 3) for b in (0, 1)},
    }


def test_target_over_the_groups_counts_the_pruned_layers_alone() -> None:
    allocation = tiny(target_compression=4, compression_over="groups")
    assert math.floor(FREE / 4) - 18 < sum(allocation.counts) <= FREE / 4
    assert allocation.compression()["model"]["rate"] < 4


def test_erk_meets_the_global_budget_up_to_rounding_and_caps_small_layers() -> None:
    allocation = tiny(method="erk", keep=0.3)
    assert sum(allocation.counts) == pytest.approx(0.3 * FREE, abs=len(allocation.groups) / 2)
    keeps = {row.layer.name: row.keep for row in allocation.layers}
    assert keeps["model.2.conv.weight"] == 1.0
    # Two layers below the cap stay in the ratio of their densities, sum(shape) / prod(shape).
    density = {
        name: sum(shape) / math.prod(shape) for name, shape in ((x.name, x.shape) for x in YOLOV3_TINY)
    }
    a, b = "model.13.conv.weight", "model.10.conv.weight"
    assert keeps[a] / keeps[b] == pytest.approx(density[a] / density[b])


def test_global_is_one_group_whose_shares_follow_the_weights() -> None:
    layers = convs((4, 4), (10, 10), (2, 2, 3, 3))
    weights = {
        "a.weight": torch.full((4, 4), 3.0),
        "b.weight": torch.full((10, 10), 1.0),
        "c.weight": torch.full((2, 2, 3, 3), 2.0),
    }
    allocation = allocate(layers, method="global", keep=0.25, weights=weights)
    (spec,) = allocation.specs()
    assert spec.params == ("a.weight", "b.weight", "c.weight") and spec.keep == 0.25
    assert [row.kept for row in allocation.layers] == [16, 0, 22]  # 38 of 152: the largest magnitudes first
    assert [row.keep for row in allocation.layers] == pytest.approx([1.0, 0.0, 22 / 36])
    assert "'global' is one budget over 3 layers" in allocation.table()


@pytest.mark.parametrize(
    "projection", ["unstructured", "filter", "channel", "block:4x4", "2:4", "kernel_pattern"]
)
def test_counts_are_those_of_the_engines_groups(projection: str) -> None:
    layers = convs((16, 8, 3, 3), (12, 16, 3, 3), (20, 12, 3, 3))
    weights = random_weights(layers)
    keep = None if projection == "2:4" else 0.3
    allocation = allocate(layers, projection=projection, keep=keep, weights=weights)
    groups = build_groups(weights, allocation.specs())
    masks = [
        int(mask.sum()) for group in groups for mask in group.projection.support(group.tensors, group.keep)
    ]
    assert masks == list(allocation.counts)


def test_layerwise_names_some_layers_and_keep_covers_the_rest() -> None:
    layers = convs((10, 10), (10, 10), (10, 10))
    ratios = {"?.weight": 0.5, "b": 0.2}
    assert [row.keep for row in allocate(layers, method="layerwise", ratios=ratios).layers] == [0.5, 0.2, 0.5]
    alone = allocate(layers, method="layerwise", ratios={"b": 0.2})
    assert [(row.keep, row.reason) for row in alone.layers] == [
        (None, "no ratio given"),
        (0.2, None),
        (None, "no ratio given"),
    ]
    both = allocate(layers, ratios={"b": 0.2}, keep=0.7)
    assert [row.keep for row in both.layers] == [0.7, 0.2, 0.7]


def test_layerwise_scales_its_ratios_to_a_target() -> None:
    layers = convs((10, 10), (10, 10), (10, 10))
    allocation = allocate(
        layers, method="layerwise", ratios={"a": 0.2, "b": 0.4, "c": 0.1}, target_compression=3
    )
    # 100 of 300 weights at 2 : 4 : 1, so 28.57, 57.14 and 14.29.
    assert [row.kept for row in allocation.layers] == [29, 57, 14]


def test_declared_groups_share_a_mask_and_the_rest_is_free() -> None:
    layers = convs((8, 4, 3, 3), (8, 6, 3, 3), (10, 10))
    groups = [
        {"name": "sum", "params": ["[ab].weight"], "keep": 0.5, "projection": "filter", "coupled": True}
    ]
    allocation = allocate(layers, keep=0.2, groups=groups, weights=random_weights(layers))
    shared, alone = allocation.specs()
    assert shared.projection == Projection("filter", {"coupled": True})
    assert (shared.name, shared.params, shared.keep) == ("sum", ("a.weight", "b.weight"), 0.5)
    assert (alone.params, alone.keep) == (("c.weight",), 0.2)
    assert [(row.kept, row.group) for row in allocation.layers] == [(144, "sum"), (216, "sum"), (20, None)]
    only = allocate(layers, groups=groups)
    assert [row.reason for row in only.layers] == [None, None, "no ratio given"]


def test_a_group_without_a_ratio_takes_the_solved_one() -> None:
    layers = convs((10, 10), (10, 10), (10, 20))
    allocation = allocate(layers, target_compression=2, groups=[{"name": "pair", "params": "[ab].weight"}])
    assert [(spec.name, round(spec.keep, 6)) for spec in allocation.specs()] == [
        ("pair", 0.5),
        ("c.weight", 0.5),
    ]
    assert allocation.counts == (100, 100)


def test_reasons() -> None:
    layers = [
        make_layer("stem.weight", (8, 3, 3, 3), role="first"),
        make_layer("depth.weight", (8, 1, 3, 3), depthwise=True),
        make_layer("point.weight", (8, 8, 1, 1)),
        make_layer("body.weight", (8, 8, 3, 3)),
        make_layer("table.weight", (8, 8), kind="other"),
        make_layer("skip.weight", (8, 8, 3, 3)),
        make_layer("out.weight", (8, 8, 3, 3), role="head"),
    ]
    allocation = allocate(layers, keep=0.4, projection="kernel_pattern", exclude=["skip*"])
    assert [row.reason for row in allocation.layers] == [
        "first layer",
        "depthwise",
        "kernel is 1x1, kernel_pattern needs 3x3",
        None,
        "not a conv or linear weight",
        "excluded by 'skip*'",
        "detection head",
    ]
    opened = allocate(layers, keep=0.4, dense_first=False, dense_head=False, include=["*t.weight", "stem*"])
    assert [row.layer.name for row in opened.layers if row.keep] == [
        "stem.weight",
        "point.weight",
        "out.weight",
    ]
    assert opened.layers[3].reason == "not included"
    named = allocate(layers, ratios={"stem": 0.5, "depth": 0.5, "table": 0.5, "*": 0.2, "skip": 1.0})
    assert [row.keep for row in named.layers] == [0.5, 0.5, 0.2, 0.2, 0.5, None, None]
    assert named.layers[5].reason == "its ratio keeps everything"


@pytest.mark.parametrize(
    ("projection", "pruned"), [("unstructured", True), ("filter", False), ("2:4", False)]
)
def test_a_transposed_convolution_is_pruned_where_filters_do_not_matter(
    projection: str, pruned: bool
) -> None:
    layers = [make_layer("a.weight", (8, 8, 4, 4)), make_layer("up.weight", (8, 8, 4, 4), kind="deconv")]
    keep = None if projection == "2:4" else 0.5
    chosen = allocate(layers, keep=keep, projection=projection, dense_first=False)
    row = {row["name"]: row for row in chosen.rows()}["up.weight"]
    assert (row["keep"], row.get("reason")) == ((0.5, None) if pruned else (None, "transposed convolution"))
    named = allocate(
        layers, keep=keep, projection=projection, include=["a.weight", "up.weight"], dense_first=False
    )
    assert {row["name"]: row for row in named.rows()}["up.weight"]["keep"] == 0.5


def test_n_m_needs_no_ratio_and_refuses_another() -> None:
    layers = convs((8, 8, 3, 3), (8, 16, 1, 1))
    allocation = allocate(layers, projection="2:4")
    assert [row.kept for row in allocation.layers] == [288, 64]
    with pytest.raises(ConfigError, match=r"keep is 0\.3, but projection 2:4 always keeps 0\.5"):
        allocate(layers, projection="2:4", keep=0.3)
    with pytest.raises(ConfigError, match=r"the highest rate is 2x.*choose a projection that can keep less"):
        allocate(layers, projection="2:4", target_compression=3)
    easy = allocate(layers, projection="2:4", target_compression=1.5)
    assert "already removes more than the 1.5x asked for" in easy.notes[0]


def test_unreachable_target_names_the_highest_rate_and_the_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(target_compression="500x")
    (problem,) = caught.value.problems
    highest = (
        math.floor(1000 * YOLOV3_TINY_PARAMETERS / (DENSE + 18)) / 1000
    )  # one weight stays in each layer
    assert f"the highest rate is {highest:g}x" in problem
    assert "model.20.cv3.0.2.weight (20,480 weights, detection head)" in problem
    assert "prune the detection head (prune.dense_head=false)" in problem
    assert tiny(target_compression=highest).compression()["model"]["rate"] >= highest


def test_the_head_has_the_name_that_the_task_gives_it() -> None:
    layers = [make_layer("a", (8, 8)), make_layer("b", (8, 8)), make_layer("out", (90, 8), "linear", "head")]
    allocation = allocate(layers, keep=0.5, head="output layer")
    assert allocation.layers[-1].reason == "output layer" and "output layer" in allocation.table()
    with pytest.raises(ConfigError) as caught:
        allocate(layers, target_compression="20x", head="output layer")
    (problem,) = caught.value.problems
    assert "the highest rate is 1.174x" in problem and "out (720 weights, output layer)" in problem
    assert "prune the output layer (prune.dense_head=false)" in problem and "detection" not in problem


def test_sensitivity_below_what_was_scanned_is_refused() -> None:
    layers = convs((10, 10), (10, 10))
    curves = {"a.weight": [(0.5, 0.1)], "b.weight": [(0.4, 0.2)]}
    with pytest.raises(ConfigError, match=r"the highest rate is 2\.222x"):
        allocate(layers, method="sensitivity", sensitivity=curves, target_compression=3)
    with pytest.raises(ConfigError, match="below what was scanned"):
        allocate(layers, method="sensitivity", sensitivity=curves, keep=0.3)
    allocation = allocate(layers, method="sensitivity", sensitivity={"a.weight": [(0.5, 0.1)]}, keep=0.6)
    assert [(row.keep, row.reason) for row in allocation.layers] == [
        (pytest.approx(0.6), None),
        (None, "not in the sensitivity scan"),
    ]


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(
            method="erkk",
            keep=1.5,
            target_compression="0.5x",
            compression_over="layers",
            projection="filtr",
            include=["model.99.*"],
            exclude=["model.13.cnv.weight"],
            ratios={"model.2.conv": 0.0, "nowhere": 0.5},
            groups=[{"name": "g", "params": ["nothing*"], "keeps": 1}, {"name": "g", "params": ["*"]}],
        )
    text = "\n".join(caught.value.problems)
    for expected in (
        "allocation is 'erkk' (did you mean 'erk'?)",
        "keep is 1.5, expected a ratio in (0, 1]",
        "keep and target_compression are both given",
        "target_compression is '0.5x', expected a rate of at least 1",
        "compression_over is 'layers'",
        "unknown projection 'filtr' (did you mean 'filter'?)",
        "include: 'model.99.*' matches no layer",
        "exclude: 'model.13.cnv.weight' matches no layer (did you mean 'model.13.conv.weight'?)",
        "'model.2.conv' is 0.0, expected a keep ratio in (0, 1]",
        "'nowhere' matches no layer",
        "group 'g': unknown key 'keeps' (did you mean 'keep'?)",
        "group 'g': 'nothing*' matches no layer",
        "group 'g' is declared twice",
    ):
        assert expected in text
    assert len(caught.value.problems) == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing says how much to prune"),
        ({"method": "layerwise"}, "needs ratios"),
        ({"method": "sensitivity", "keep": 0.5}, "prune.sensitivity"),
        ({"keep": 0.5, "exclude": ["*"]}, "no layer is left to prune"),
        ({"keep": 0.5, "target_compression": 2}, "both given"),
        ({"groups": [{"name": "g", "params": ["model.0.*"], "keep": 0.5}]}, "has no layer left"),
        (
            {
                "groups": [
                    {"params": ["model.?.conv.weight"], "projection": "filter", "coupled": True, "keep": 0.5}
                ]
            },
            "coupled tensors need the same number of filters",
        ),
        (
            {"keep": 0.5, "groups": [{"name": "g", "params": "*"}, {"name": "h", "params": "*"}]},
            "already in group 'g'",
        ),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_table_fits_the_terminal_and_adds_up() -> None:
    long = make_layer("backbone.stages.3.blocks.17.attention.projection.output.dense.weight", (64, 64, 3, 3))
    layers = [*YOLOV3_TINY, long]
    table = allocate(
        layers, projection="kernel_pattern", keep=0.4, groups=[{"name": "g", "params": "*19*"}]
    ).table()
    lines = table.splitlines()
    assert max(map(len, lines)) <= 110
    (cut,) = [line.split()[0] for line in lines if line.startswith("backbone")]
    assert cut.startswith("backbone.stages.3.") and ".." in cut and cut.endswith("output.dense")
    rules = [i for i, line in enumerate(lines) if line.startswith("---")]
    assert len({line.split()[0] for line in lines[rules[0] + 1 : rules[1]]}) == len(layers)
    groups_line, model_line, note = lines[rules[1] + 1 :]
    assert note == "note: kernel is 1x1, kernel_pattern needs 3x3"
    assert groups_line.startswith("pruned groups  17 of 24 layers") and model_line.startswith("whole model")
    assert shorten("abcdefghij", 6) == "ab..ij" and shorten("abc", 3) == "abc"


def test_rows_are_plain_and_complete() -> None:
    rows = tiny(keep=0.25).rows()
    assert rows[1] == {
        "name": "model.2.conv.weight",
        "shape": [32, 16, 3, 3],
        "weights": 4608,
        "keep": 0.25,
        "kept": 1152,
        "projection": "unstructured",
        "reason": None,
        "group": None,
    }
    assert rows[0]["keep"] is None and rows[0]["kept"] == 432 and rows[0]["reason"] == "first layer"
    assert len(rows) == len(YOLOV3_TINY)


def test_imported_ratios_prune_a_first_layer_they_name() -> None:
    ratios = read_ratios({"prune_ratios": {"module.model.0.conv": 0.9, "model.13.conv.weight": 0.75}})
    allocation = tiny(method="layerwise", ratios=ratios)
    kept = {row.layer.name: row.kept for row in allocation.layers if row.keep is not None}
    assert kept == {"model.0.conv.weight": 43, "model.13.conv.weight": 1_179_648}


shape_lists = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(shape_lists, st.floats(1.0, 30.0), st.integers(0, 500), st.sampled_from(["uniform", "erk", "global"]))
def test_achieved_rate_is_within_rounding_or_the_target_is_unreachable(
    shapes: list[tuple[int, ...]], rate: float, others: int, method: str
) -> None:
    layers = convs(*shapes)
    total = numel(layers) + others
    allowed = math.floor(total / rate * (1 + 1e-12))
    least = others + (1 if method == "global" else len(layers))
    if least > allowed:
        with pytest.raises(ConfigError, match="cannot be reached"):
            allocate(layers, method=method, target_compression=rate, model_parameters=total)
        return
    allocation = allocate(layers, method=method, target_compression=rate, model_parameters=total)
    kept = allocation.compression()["model"]["kept"]
    assert allowed - len(layers) < kept <= allowed
    for spec, count in zip(allocation.specs(), allocation.counts, strict=True):
        assert 0.0 < spec.keep <= 1.0
        size = sum(layer.numel for layer in layers if layer.name in spec.params)
        assert count == max(1, round(spec.keep * size))
