"""The pages of the trainers on mmengine's Runner list every argument with its default, and every model."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from slr_det import models
from slr_det.models.parsingnet import PRESETS as PARSINGNETS
from slr_det.models.pointpillars import PRESETS as POINTPILLARS
from slr_det_adapters.lane.arguments import Arguments as LaneArguments
from slr_det_adapters.pointpillars.arguments import Arguments as PointPillarsArguments
from slr_det_adapters.settings import TrainerSettings
from slr_det_adapters.timm.arguments import Arguments as ClassifierArguments

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    "classify.md": ClassifierArguments,
    "pointpillars.md": PointPillarsArguments,
    "lane.md": LaneArguments,
}


def described(settings: type[TrainerSettings]) -> dict[str, str]:
    """What the docstrings of a class and of its bases say of each argument, on one line."""
    said: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        if "Attributes:\n" not in (base.__doc__ or ""):
            continue
        attributes = inspect.cleandoc(str(base.__doc__)).split("Attributes:\n", 1)[1]
        for name, text in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)$", attributes, flags=re.MULTILINE):
            said[name] = " ".join(text.replace("``", "`").split())
    return said


@pytest.mark.parametrize("page", PAGES)
def test_the_table_of_arguments_is_complete_and_right(page: str) -> None:
    section = (DOCS / page).read_text(encoding="utf-8").split("## Arguments of the trainer", 1)[1]
    rows = {
        name: (default.strip(), meaning)
        for name, default, meaning in re.findall(
            r"^\| `(\w+)` \| ([^|]+) \| (.+) \|$", section, flags=re.MULTILINE
        )
    }
    settings = PAGES[page]
    said = described(settings)
    wanted = {
        f.name: (f"`{f.default!r}`" if f.default != "" else "empty", said[f.name]) for f in fields(settings)
    }
    assert rows == wanted


@pytest.mark.parametrize(
    ("page", "names"),
    [("classify.md", models.names()), ("pointpillars.md", POINTPILLARS), ("lane.md", PARSINGNETS)],
)
def test_every_model_of_the_package_is_named(page: str, names: list[str]) -> None:
    section = (DOCS / page).read_text(encoding="utf-8").split("## Models", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert {
        name for name in names if name not in named and name.removeprefix("cifar_resnet") not in named
    } == set()
