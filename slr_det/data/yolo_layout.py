"""Data sets in YOLO layout: folders of images beside folders of label files, with or without a list of names."""

from __future__ import annotations

from pathlib import Path

from slr_det.data.coco_layout import split_of
from slr_det.data.labels import label_file, read_labels
from slr_det.data.mirror import building, fingerprint, image_files, link, link_names, reuse, write_data_file
from slr_det.data.names import COCO_NAMES
from slr_det.data.reading import read_text
from slr_det.errors import DataError

_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt")


def image_folders(folder: Path) -> dict[str, list[Path]]:
    """Find which image folder is which split; empty where the folder is not in YOLO layout.

    Understood are ``images/SPLIT*`` with ``labels/SPLIT*``, ``SPLIT*/images`` with ``SPLIT*/labels``, and ``images``
    with ``labels`` without splits, which becomes "train".
    """
    images, labels = folder / "images", folder / "labels"
    if images.is_dir() and labels.is_dir():
        parts = sorted(p for p in images.iterdir() if p.is_dir() and not p.name.startswith(".")) or [images]
    else:
        parts = [p for p in sorted(folder.glob("*/images")) if (p.parent / "labels").is_dir()]
    found: dict[str, list[Path]] = {}
    for part in parts:
        split = split_of(part if part.parent == images else part.parent)
        if part == images or (split is None and len(parts) == 1):
            split = "train"
        if split is not None:
            found.setdefault(split, []).append(part)
    return found


def mirror(splits: dict[str, list[Path]], folder: Path, work: Path) -> Path:
    """Build, or find again, a mirror of links to the images and labels; every label line is checked.

    Args:
        splits: Image folders by split ("train" and "val"), as of :func:`image_folders`.
        folder: The data set.
        work: Folder that takes the mirror.

    Returns:
        The mirror's data YAML.

    Raises:
        DataError: a split without images, a malformed label, more classes than there are names for.
        StorageError: the mirror cannot be written.
    """
    images = {
        split: [file for part in parts for file in image_files(part)] for split, parts in splits.items()
    }
    for split, found in images.items():
        if not found:
            raise DataError(f"{splits[split][0]}: no images for '{split}'")
    labels = {file: label_file(file) for found in images.values() for file in found}
    labels = {file: label for file, label in labels.items() if label.is_file()}
    if not labels:
        raise DataError(f"{folder}: no label file (.txt) belongs to any of its images")
    name_file = next((folder / name for name in _NAME_FILES if (folder / name).is_file()), None)
    # The one split that serves as both is told from two splits of the same files by the key.
    inputs = [
        *(file for found in images.values() for file in found),
        *labels.values(),
        *([name_file] if name_file else []),
    ]
    target = work / f"yolo-{fingerprint(f'{folder} {sorted(splits)}', inputs)}"
    finished = reuse(target)
    if finished is not None:
        return finished
    classes = 1 + max((label.index for file in labels.values() for label in read_labels(file)), default=-1)
    names, note = _names(folder, name_file, classes)
    with building(target) as scratch:
        for split, found in images.items():
            (scratch / "labels" / split).mkdir(parents=True)
            for file, name in zip(found, link_names([str(file) for file in found]), strict=True):
                link(file, scratch / "images" / split / name)
                if file in labels:
                    link(labels[file], (scratch / "labels" / split / name).with_suffix(".txt"))
        content = {"names": dict(enumerate(names)), "notes": [note] if note else []}
        write_data_file(scratch, target, content)
    return target / "data.yaml"


def _names(folder: Path, file: Path | None, classes: int) -> tuple[list[str], str | None]:
    if file is not None:
        names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        if len(names) < classes:
            raise DataError(f"{file}: {len(names)} names, but the labels go up to class {classes - 1}")
        return names, None
    if classes > len(COCO_NAMES):
        raise DataError(
            f"{folder}: the labels go up to class {classes - 1} and nothing names the classes; add classes.txt, one "
            "name a line, or a data YAML with 'names'"
        )
    return list(COCO_NAMES), f"{folder}: nothing names the classes, so they are taken for COCO's 80"
