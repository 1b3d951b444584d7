"""What a user names as data, turned into an ultralytics data YAML.

Understood are ``shapes`` (generated), a data YAML, a COCO JSON, and folders in COCO layout (images and
``annotations/*.json``) or YOLO layout (``images/`` and ``labels/``). Nothing is written into the user's folders: JSONs
and folders get a mirror of links and labels in the work folder, a data YAML gets a copy with absolute paths.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from slr_det.data import coco_layout, shapes, yolo_layout
from slr_det.data.mirror import DATA_FILE
from slr_det.data.reading import load_yaml
from slr_det.data.truth import GroundTruth, class_names, data_root, ground_truth, split_images
from slr_det.errors import DataError, nearest
from slr_det.files import atomic_write

__all__ = ["GroundTruth", "ground_truth", "resolve"]

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


def resolve(data: str | Path, *, workdir: str | Path, say: Callable[[str], object] | None = None) -> Path:
    """Return an ultralytics data YAML with absolute paths for what the user named.

    Args:
        data: ``shapes``, a data YAML, a COCO JSON, or a folder in COCO or YOLO layout. A data YAML may also name COCO
            JSONs under ``annotations`` by split: beside ``train`` and ``val`` for the official ground truth, or alone.
        workdir: Where a mirror or a rewritten YAML goes. A mirror of the same, unchanged data is used again.
        say: Takes each note about a choice that was made (one split that serves as train and val, boxes dropped,
            assumed class names), default a warning of the logger ``slr_det.data.detection``. The YAML holds them
            under ``notes``.

    Raises:
        DataError: nothing is there, or what is there is no data set; the message names file and reason.
        StorageError: the work folder cannot be written.
    """
    if str(data) == "shapes":
        return shapes.build()
    path, work = Path(data).expanduser().absolute(), Path(workdir).expanduser().absolute()
    if path.is_dir():
        result = _from_folder(path, work)
    elif not path.is_file():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"data '{data}': no such file or folder{nearest(path.name, [*siblings, 'shapes'])}; expected a data YAML, "
            "a COCO JSON, a folder in COCO or YOLO layout, or 'shapes'"
        )
    elif path.suffix.lower() in (".yaml", ".yml"):
        result = _from_yaml(path, work)
    elif path.suffix.lower() == ".json":
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        result = _from_coco({"train": path}, root, work)
    else:
        raise DataError(f"data '{data}': a file '{path.suffix}', expected a .yaml, a .json or a folder")
    for note in load_yaml(result).get("notes") or ():
        (say or _LOG.warning)(str(note))
    return result


def _from_folder(folder: Path, work: Path) -> Path:
    described = [file for file in sorted(folder.glob("*.y*ml")) if _is_data_file(file)]
    preferred = [file for file in described if file.stem in ("data", "dataset", folder.name)]
    if len(described) > 1 and len(preferred) != 1:
        raise DataError(
            f"{folder}: {len(described)} data YAMLs: {', '.join(f.name for f in described)}; give one of them"
        )
    if described:
        return _from_yaml((preferred or described)[0], work)
    annotations = coco_layout.annotation_files(folder)
    if annotations:
        return _from_coco(annotations, folder, work)
    parts = yolo_layout.image_folders(folder)
    if parts:
        splits, note = _train_and_val(parts, str(folder))
        return _with_note(yolo_layout.mirror(splits, folder, work), note)
    raise DataError(
        f"{folder}: no data set; expected a data YAML, annotations/*.json with images, or images/ beside labels/"
    )


def _is_data_file(file: Path) -> bool:
    try:
        content = load_yaml(file)
    except DataError:
        return False
    return bool(content.keys() & {"names", "nc", "annotations"}) and bool(
        content.keys() & {"train", "val", "annotations"}
    )


def _from_coco(files: Mapping[str, Path], root: Path, work: Path) -> Path:
    splits, note = _train_and_val(dict(files), ", ".join(file.name for file in files.values()))
    return _with_note(coco_layout.mirror(splits, root, work), note)


def _from_yaml(file: Path, work: Path) -> Path:
    content = load_yaml(file)
    root = data_root(content, file)
    if "validation" in content:
        content.setdefault("val", content.pop("validation"))
    entries = {split: content[split] for split in coco_layout.SPLITS if content.get(split)}
    annotations = _annotations(content.get("annotations"), root, file)
    if not entries and annotations:
        return _from_coco(annotations, root, work)
    if not entries:
        raise DataError(f"{file}: no 'train' and no 'val'; expected folders or lists of images")
    names = class_names(content, file)
    located = {
        split: [
            _locate(str(entry), root, file, split)
            for entry in (value if isinstance(value, list) else [value])
        ]
        for split, value in entries.items()
    }
    for split, found in located.items():
        if next(split_images(root, found, f"{file}: {split}"), None) is None:
            raise DataError(f"{file}: {split}: no images in {entries[split]!r}")
    splits, note = _train_and_val(located, str(file))
    if "test" in located:
        splits["test"] = located["test"]
    # ultralytics runs what 'download' holds, and a run reads nothing but what is here.
    kept = {
        key: value
        for key, value in content.items()
        if key not in ("download", "notes", "nc", *coco_layout.SPLITS)
    }
    document = {
        **kept,
        "path": str(root),
        **{split: found[0] if len(found) == 1 else found for split, found in splits.items()},
        "names": dict(enumerate(names)),
        "notes": [note] if note else [],
    }
    if annotations:
        document["annotations"] = {split: str(annotations[split]) for split in splits if split in annotations}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return atomic_write(work / DATA_FILE, text)


def _annotations(value: Any, root: Path, file: Path) -> dict[str, Path]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not value or not set(value) <= set(coco_layout.SPLITS):
        raise DataError(
            f"{file}: annotations: {value!r:.80}, expected COCO JSONs by split: {{train: FILE, val: FILE}}"
        )
    found = {str(split): root / str(name) for split, name in value.items()}
    for split, path in found.items():
        if not path.is_file():
            raise DataError(f"{file}: annotations: {split}: '{path}' does not exist")
    return found


def _locate(entry: str, root: Path, file: Path, split: str) -> str:
    """Find an entry of a data YAML below its ``path``, else beside the YAML (sets that were moved)."""
    for base in (root, file.parent):
        # Some exports write ../train/images for train/images; ultralytics reads those the same way.
        for name in dict.fromkeys((entry, entry.removeprefix("../"))):
            if (base / name).exists():
                return str((base / name).resolve())
    raise DataError(f"{file}: {split}: '{entry}' does not exist in {root}; correct 'path' or '{split}'")


def _train_and_val(found: dict[str, _T], what: str) -> tuple[dict[str, _T], str | None]:
    """Fill in the split that is missing; returns train and val, and a note where a choice was made."""
    order = {"train": ("train", "val", "test"), "val": ("val", "test", "train")}
    chosen = {split: next(other for other in others if other in found) for split, others in order.items()}
    note = None
    if chosen["train"] == chosen["val"]:
        only = chosen["train"]
        note = f"{what}: only one split ({only}), which serves as train and val: accuracy is measured on seen images"
    elif chosen["val"] == "test":
        note = f"{what}: no split 'val', so 'test' is evaluated on"
    elif chosen["train"] == "val":
        note = f"{what}: no split 'train', so 'val' is trained on"
    return {split: found[other] for split, other in chosen.items()}, note


def _with_note(file: Path, note: str | None) -> Path:
    """Add a note to a data YAML unless it holds it already."""
    content = load_yaml(file)
    notes = content.get("notes") or []
    if note and note not in notes:
        text = yaml.safe_dump({**content, "notes": [*notes, note]}, sort_keys=False, allow_unicode=True)
        atomic_write(file, text)
    return file
