"""docs/classify.md lists every argument of the trainer with its default, and every model of the package."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from slr_det import models
from slr_det_adapters.timm.arguments import Arguments

PAGE = (Path(__file__).parents[2] / "docs" / "classify.md").read_text(encoding="utf-8")


def test_the_table_of_arguments_is_complete_and_right() -> None:
    section = PAGE.split("## Arguments of the trainer", 1)[1]
    rows = {
        name: (default.strip(), meaning)
        for name, default, meaning in re.findall(
            r"^\| `(\w+)` \| ([^|]+) \| (.+) \|$", section, flags=re.MULTILINE
        )
    }
    attributes = inspect.cleandoc(str(Arguments.__doc__)).split("Attributes:\n", 1)[1]
    said = dict(re.findall(r"^    (\w+): (.+)$", attributes.replace("``", "`"), flags=re.MULTILINE))
    wanted = {
        f.name: (f"`{f.default!r}`" if f.default != "" else "empty", said[f.name]) for f in fields(Arguments)
    }
    assert rows == wanted


def test_every_model_of_the_package_is_named() -> None:
    section = PAGE.split("## Models", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert {
        name
        for name in models.names()
        if name not in named and name.removeprefix("cifar_resnet") not in named
    } == set()
