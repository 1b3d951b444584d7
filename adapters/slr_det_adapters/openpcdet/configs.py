"""OpenPCDet's configuration: read from its YAML or from a checkpoint, with single settings replaced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from slr_det.errors import ConfigError, nearest
from slr_det_adapters.openpcdet.arguments import Arguments
from slr_det_adapters.openpcdet.inject import Checkout

_BASE = "_BASE_CONFIG_"
_SECTIONS = ("CLASS_NAMES", "DATA_CONFIG", "MODEL", "OPTIMIZATION")
_DATASET = "KittiDataset"


def is_config(model: str) -> bool:
    """Whether a model word names a configuration."""
    return model.endswith((".yaml", ".yml"))


def around(model: str) -> Path | None:
    """The checkout that a configuration lies in, if it lies in one."""
    for folder in Path(model).expanduser().absolute().parents:
        if (folder / "pcdet" / "__init__.py").is_file():
            return folder
    return None


def read(model: str, checkout: Checkout) -> dict[str, Any]:
    """The configuration as plain data, its base configurations merged in.

    Args:
        model: Path of a YAML, absolute, or relative to the current folder or to ``tools`` of the checkout.
        checkout: Where relative paths inside it start: in ``tools``.

    Raises:
        ConfigError: It is missing, no YAML, or no configuration of a model on KITTI.
    """
    path = _found(model, checkout)
    content = _with_absolute_bases(_yaml(path), checkout.tools, path)
    make = checkout.seam("pcdet.config", "EasyDict")
    merged = checkout.seam("pcdet.config", "merge_new_config")(make(), make(content))
    config: dict[str, Any] = _plain(merged)
    _require(config, str(path))
    return config


def with_arguments(config: Mapping[str, Any], arguments: Arguments) -> dict[str, Any]:
    """The configuration with what the user set; ConfigError for a setting that it does not have."""
    changed: dict[str, Any] = _plain(config)
    problems: list[str] = []
    for name, value in arguments.set.items():
        try:
            _replace(changed, name, value)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    _require(changed, "set")
    if arguments.batch:
        changed["OPTIMIZATION"]["BATCH_SIZE_PER_GPU"] = arguments.batch
    if arguments.lr:
        changed["OPTIMIZATION"]["LR"] = arguments.lr
    return changed


def live(config: Mapping[str, Any], checkout: Checkout) -> Any:
    """The configuration in the form in which OpenPCDet uses it."""
    made = checkout.seam("pcdet.config", "EasyDict")(_plain(config))
    made.ROOT_DIR, made.LOCAL_RANK = checkout.root, 0
    return made


def _found(model: str, checkout: Checkout) -> Path:
    path = Path(model).expanduser()
    for candidate in (path, checkout.tools / path):
        if candidate.is_file():
            return candidate
    folder = checkout.tools / path.parent
    near = [f"{path.parent}/{other.name}" for other in folder.glob("*.y*ml")] if folder.is_dir() else []
    raise ConfigError(
        f"model={model}: no such configuration, neither here nor in {checkout.tools}{nearest(str(path), near)}"
    )


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as YAML ({reason:.160})") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: is no configuration of OpenPCDet, expected sections {', '.join(_SECTIONS)}"
        )
    return content


def _with_absolute_bases(content: Any, tools: Path, where: Path) -> Any:
    """OpenPCDet looks for base configurations from the current folder, which is not `tools` here."""
    if not isinstance(content, dict):
        return content
    found = {key: _with_absolute_bases(value, tools, where) for key, value in content.items()}
    if _BASE in found:
        base = tools / str(found[_BASE])
        if not base.is_file():
            raise ConfigError(f"{where}: {_BASE} is {found[_BASE]}, which is not in {tools}")
        found[_BASE] = str(base)
    return found


def _plain(value: Any) -> Any:
    """Dictionaries, lists, text and numbers alone, which a checkpoint can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _require(config: Mapping[str, Any], where: str) -> None:
    missing = [name for name in _SECTIONS if name not in config]
    if missing:
        raise ConfigError(
            f"{where}: has no section {missing[0]}, expected the configuration of a model, such as "
            "cfgs/kitti_models/pointpillar.yaml"
        )
    dataset = config["DATA_CONFIG"].get("DATASET")
    if dataset != _DATASET:
        raise ConfigError(
            f"{where}: DATA_CONFIG.DATASET is {dataset}, expected {_DATASET}: data=DIR is in KITTI's layout"
        )


def _replace(config: dict[str, Any], name: str, value: Any) -> None:
    """Set one dotted name in place. A new value has the type of the old one; a whole number may become a fraction."""
    *path, last = name.split(".")
    place: Any = config
    for at, part in enumerate(path):
        place = place[_key(place, part, ".".join(path[: at + 1]))]
    key = _key(place, last, name)
    before = place[key]
    if isinstance(before, bool) != isinstance(value, bool) or not (
        isinstance(value, type(before))
        or (isinstance(before, int | float) and isinstance(value, int | float))
    ):
        raise ConfigError(
            f"set: {name} is {value!r}, expected a {type(before).__name__} as {before!r:.80} is"
        )
    place[key] = value


def _key(place: Any, part: str, name: str) -> Any:
    if isinstance(place, list):
        if part.isdecimal() and int(part) < len(place):
            return int(part)
        raise ConfigError(f"set: {name}: expected the number of an entry, below {len(place)}")
    if not isinstance(place, dict) or part not in place:
        known = place if isinstance(place, dict) else {}
        raise ConfigError(f"set: the configuration has no '{name}'{nearest(part, known)}")
    return part
