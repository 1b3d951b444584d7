"""The embedded default and its file in configs/ are one."""

from __future__ import annotations

from pathlib import Path

from slr_det.config import load_config
from slr_det.presets import PRESET, SETTINGS

FILE = Path(__file__).parents[2] / "configs" / "yolo" / "shapes.yaml"


def test_the_file_holds_the_embedded_settings() -> None:
    assert load_config(FILE) == load_config(None, defaults=PRESET)


def test_the_help_names_every_section_and_method() -> None:
    config = load_config(None, defaults=PRESET).to_dict()
    unnamed = {"task", "device", "paper", "bn_recalibrate", "train"}
    assert all(
        f"{key}=" in SETTINGS or f"{key}." in SETTINGS or key == "seed"
        for key in config
        if key not in unnamed
    )
