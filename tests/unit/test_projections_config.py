"""Naming, options, counts and refusals of projections."""

from __future__ import annotations

import copy
import json
import pickle
import re
import textwrap
from pathlib import Path

import pytest
import torch

from slr_det.errors import ConfigError
from slr_det.projections import Projection, get, keep_entries, names, projection
from slr_det.projections.registry import REGISTRY

SPELLINGS = {
    "unstructured": ("unstructured", {}),
    "n:m": ("n:m", {"n": 2, "m": 4}),
    "2:4": ("n:m", {"n": 2, "m": 4}),
    "1:16": ("n:m", {"n": 1, "m": 16}),
    "filter": ("filter", {"coupled": False}),
    "filter:coupled": ("filter", {"coupled": True}),
    "channel": ("channel", {"coupled": False}),
    "channel:coupled": ("channel", {"coupled": True}),
    "block": ("block", {"rows": 4, "cols": 4}),
    "block:1x8": ("block", {"rows": 1, "cols": 8}),
    "kernel_pattern": ("kernel_pattern", {"patterns": "default"}),
    "kernel_pattern:centre": ("kernel_pattern", {"patterns": "centre"}),
    "kernel_pattern:110/110/000,010/111/000": (
        "kernel_pattern",
        {"patterns": [[1, 1, 0, 1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 1, 1, 0, 0, 0]]},
    ),
}


def test_the_six_sets_are_there() -> None:
    assert {"unstructured", "n:m", "filter", "channel", "block", "kernel_pattern"} <= set(names())


@pytest.mark.parametrize("text", SPELLINGS)
def test_spellings_parse_to_name_and_options(text: str) -> None:
    name, options = SPELLINGS[text]
    parsed = Projection.parse(text)
    assert (parsed.name, dict(parsed.options)) == (name, options)
    assert parsed == get(name, **options) and hash(parsed) == hash(get(name, **options))
    assert Projection.parse(str(parsed)) == parsed
    assert Projection.parse(parsed) is parsed


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_projection_survives_json_pickle_and_copy(text: str) -> None:
    parsed = Projection.parse(text)
    assert Projection.from_dict(json.loads(json.dumps(parsed.to_dict()))) == parsed
    assert pickle.loads(pickle.dumps(parsed)) == parsed
    assert copy.deepcopy(parsed) == parsed


@pytest.mark.parametrize(
    "pattern", ["110/110/000", "110 110 000", [[1, 1, 0], [1, 1, 0], [0, 0, 0]], [1, 1, 0, 1, 1, 0, 0, 0, 0]]
)
def test_an_own_pattern_is_read_in_every_form(pattern: object) -> None:
    own = Projection("kernel_pattern", {"patterns": [pattern]})
    assert own.options["patterns"] == [[1, 1, 0, 1, 1, 0, 0, 0, 0]]
    assert Projection.from_dict(json.loads(json.dumps(own.to_dict()))) == own


REFUSED = {
    "unstructred": "did you mean 'unstructured'",
    "5:4": "5:4, expected 1 <= n <= m",
    "block:0x4": "0x4, expected at least 1x1",
    "kernel_pattern:cross": "'cross', expected default, centre, all",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_wrong_spelling_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[text]):
        Projection.parse(text)


@pytest.mark.parametrize(
    "spec, reason",
    [
        ({"rows": 4}, "has no 'name'"),
        ({"name": "block", "row": 4}, "no option 'row' \\(did you mean 'rows'\\?\\)"),
        ({"name": "block", "rows": 2.5}, "'rows' is 2.5, expected a whole number"),
        ({"name": "block", "rows": True}, "'rows' is True, expected a whole number"),
        ({"name": "filter", "coupled": "yes"}, "'coupled' is 'yes', expected true or false"),
        ({"name": "kernel_pattern", "patterns": []}, "or a list of masks"),
        ({"name": "kernel_pattern", "patterns": ["111/110/000"]}, "with 4 ones"),
        ({"name": "kernel_pattern", "patterns": ["11/110/000"]}, "is not a 3x3 mask"),
        ({"name": "kernel_pattern", "patterns": [7]}, "is not a 3x3 mask"),
        (7, "expected a name or a mapping"),
    ],
)
def test_a_wrong_mapping_is_refused_with_the_reason(spec: object, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Projection.parse(spec)  # type: ignore[arg-type]


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Projection("block", {"rows": "a", "cols": None, "depth": 3})
    assert len(error.value.problems) == 3


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.0001, float("nan")])
def test_a_keep_ratio_out_of_range_is_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match="expected a number in \\(0, 1\\]"):
        Projection("unstructured").support([torch.ones(4)], keep)
    with pytest.raises(ConfigError, match="expected a number in \\(0, 1\\]"):
        Projection("unstructured").count([(4,)], keep)


@pytest.mark.parametrize(
    "text, shapes, reason",
    [
        ("kernel_pattern", [(8, 4, 1, 1)], "kernel is 1x1, kernel_pattern needs 3x3"),
        ("kernel_pattern", [(8, 4)], "is no convolution"),
        ("2:4", [(8,)], "no input-channel dimension"),
        ("filter", [(8,)], "fewer than 2 dimensions"),
        ("block:4x4", [(8,)], "fewer than 2 dimensions"),
        ("filter:coupled", [(8, 4), (6, 4)], "the same number of filters, these have 8, 6"),
        ("channel:coupled", [(8, 4), (8, 2)], "the same number of channels, these have 4, 2"),
        ("unstructured", [(8, 0)], "has no entries"),
        ("unstructured", [], "no tensors"),
    ],
)
def test_a_group_that_cannot_be_projected_says_why(
    text: str, shapes: list[tuple[int, ...]], reason: str
) -> None:
    parsed = Projection.parse(text)
    problem = parsed.check(*shapes)
    assert problem is not None and reason in problem
    with pytest.raises(ConfigError, match=reason):
        parsed.support([torch.ones(shape) for shape in shapes], 0.5)


def test_check_passes_what_can_be_projected() -> None:
    for text in SPELLINGS:
        assert Projection.parse(text).check((8, 4, 3, 3)) is None
        assert Projection.parse(text).check((8, 4, 3, 3), (8, 4, 3, 3)) is None


@pytest.mark.parametrize(
    "text, shapes, keep, count",
    [
        ("unstructured", [(3, 5)], 0.5, 8),  # round(7.5), to even
        ("unstructured", [(3, 5), (2,)], 0.01, 1),
        ("2:4", [(3, 10, 2, 2)], 0.9, 3 * 4 * 6),
        ("2:4", [(3, 5), (2, 1)], 0.9, 3 * 3 + 2),
        ("filter", [(10, 3, 3, 3)], 0.3, 3 * 27),
        ("filter", [(10, 3), (6, 3)], 0.5, 8 * 3),
        ("filter", [(10, 3), (6, 4)], 0.5, None),
        ("filter:coupled", [(10, 3), (10, 4)], 0.5, 5 * 7),
        ("channel", [(10, 4, 3, 3)], 0.5, 2 * 90),
        ("block:4x4", [(8, 8)], 0.5, 32),
        ("block:4x4", [(8, 9)], 0.5, None),
        ("kernel_pattern", [(8, 5, 3, 3)], 0.9, 160),
        ("kernel_pattern", [(8, 5, 3, 3)], 0.1, 4 * 9),
    ],
)
def test_counts(text: str, shapes: list[tuple[int, ...]], keep: float, count: int | None) -> None:
    parsed = Projection.parse(text)
    assert parsed.count(shapes, keep) == count
    if count is not None:
        masks = parsed.support([torch.randn(shape) for shape in shapes], keep)
        assert sum(int(mask.sum()) for mask in masks) == count


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_pruned_entries_are_plus_zero(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[-1.0, torch.inf, -torch.inf, 2.0]], dtype=dtype)
    mask = torch.tensor([[False, False, True, True]])
    for source in (tensor, tensor.expand(1, 4).t().contiguous().t()):
        out = torch.full_like(tensor, 9.0)
        assert keep_entries(source, mask, out) is out
        assert out.tolist() == [[0.0, 0.0, -torch.inf, 2.0]]
        assert not torch.signbit(out[0, :2]).any()


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="registered already"):
        projection("filter")(lambda tensors, keep: [])
    with pytest.raises(ConfigError, match="needs a default"):

        def incomplete(tensors: list[torch.Tensor], keep: float, *, size: int) -> list[torch.Tensor]:
            return [torch.ones_like(tensor, dtype=torch.bool) for tensor in tensors]

        projection("incomplete")(incomplete)
    assert "incomplete" not in REGISTRY


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "projections.md").read_text(encoding="utf-8")


def test_the_example_of_the_documentation_is_a_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    from slr_det.projections import registry

    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    code = re.search(r"(?m)^    import torch\n(?:(?:    .*)?\n)*", PAGE)
    assert code is not None
    exec(textwrap.dedent(code[0]), {})
    projected = Projection("lower_rows", {"first": 2}).project([torch.arange(1.0, 5.0)], 0.5)[0]
    assert projected.tolist() == [0.0, 0.0, 3.0, 4.0]


def test_every_spelling_of_the_documentation_parses() -> None:
    spellings = re.findall(r"`((?:filter|channel|block|kernel_pattern|\d+):[^`]*)`", PAGE)
    assert len(spellings) >= 8
    for text in spellings:
        if text != "block:RxC":
            assert str(Projection.parse(text)) == text
