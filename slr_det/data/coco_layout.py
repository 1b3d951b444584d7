"""Data sets in COCO's JSON: finding the files and images, and a mirror of them with YOLO labels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slr_det.data.labels import label_line, to_fractions
from slr_det.data.mirror import (
    building,
    fingerprint,
    image_size,
    link,
    link_names,
    reuse,
    write_data_file,
    write_index,
)
from slr_det.data.reading import load_coco
from slr_det.errors import DataError

SPLITS = ("train", "val", "test")


def annotation_files(folder: Path) -> dict[str, Path]:
    """Find which JSON in a folder is which split; empty where there is none.

    Looked for are ``annotations/*.json`` and ``SPLIT/_annotations.coco.json``. Where some are called ``instances_*``,
    the others (captions, key points) are left out.

    Raises:
        DataError: two files for one split, or none whose name says train, val or test among several.
    """
    files = sorted(folder.glob("annotations/*.json")) or sorted(folder.glob("*/_annotations.coco.json"))
    files = [f for f in files if f.stem.startswith("instances")] or files
    if len(files) == 1:
        return {split_of(files[0]) or "train": files[0]}
    found: dict[str, list[Path]] = {}
    for file in files:
        split = split_of(file)
        if split is not None:
            found.setdefault(split, []).append(file)
    if files and not found:
        raise DataError(f"{folder}: none of {_names(files, folder)} says train, val or test in its name")
    for split, matches in found.items():
        if len(matches) > 1:
            raise DataError(
                f"{folder}: {len(matches)} files for '{split}': {_names(matches, folder)}; choose with a data YAML of "
                "'path: FOLDER' and 'annotations: {train: FILE, val: FILE}'"
            )
    return {split: matches[0] for split, matches in found.items()}


def split_of(file: Path) -> str | None:
    """Return the split that a file's name (or its folder's, for Roboflow exports) speaks of, or None."""
    name = file.parent.name if file.name.startswith("_annotations") else file.stem
    found = re.search("train|val|test", name.lower())
    return found.group() if found else None


def mirror(files: Mapping[str, Path], root: Path, work: Path) -> Path:
    """Build, or find again, a mirror with YOLO labels of the COCO data in one JSON per split.

    Class indices follow the category ids in order. Crowd regions and boxes without area inside their image get no
    label; the ground truth keeps the JSON's own annotations.

    Args:
        files: JSON by split ("train" and "val"); the same file may serve as both.
        root: Folder to look for images in.
        work: Folder that takes the mirror.

    Returns:
        The mirror's data YAML; under ``notes`` it says what was left out.

    Raises:
        DataError: a file is malformed, an image is missing or has another size than the JSON says.
        StorageError: the mirror cannot be written.
    """
    target = work / f"coco-{fingerprint(f'{root} {sorted(files)}', files.values())}"
    finished = reuse(target)
    if finished is not None:
        return finished
    contents = {file: load_coco(file) for file in dict.fromkeys(files.values())}
    categories = _categories(contents)
    index = {category: number for number, category in enumerate(categories)}
    notes: list[str] = []
    with building(target) as scratch:
        for split, file in files.items():
            job = _Split(file, contents[file], root, index)
            job.write(scratch, split)
            notes += [note for note in job.notes() if note not in notes]
        write_data_file(
            scratch,
            target,
            {
                "names": _unique_names(categories),
                "category_ids": list(categories),
                "annotations": {split: str(file) for split, file in files.items()},
                "image_ids": {split: f"image_ids_{split}.json" for split in files},
                "notes": notes,
            },
        )
    return target / "data.yaml"


def _categories(contents: Mapping[Path, Mapping[str, Any]]) -> dict[Any, str]:
    """Names by category id, ids in order, over all the files."""
    names: dict[Any, str] = {}
    for file, content in contents.items():
        for category in content["categories"]:
            key, name = category["id"], str(category.get("name", category["id"]))
            if not isinstance(key, int):
                raise DataError(f"{file}: categories: id {key!r}, expected a whole number")
            if names.setdefault(key, name) != name:
                raise DataError(f"{file}: category {key} is '{name}', but '{names[key]}' in the other JSON")
    return dict(sorted(names.items()))


def _unique_names(categories: Mapping[Any, str]) -> dict[int, str]:
    values = list(categories.values())
    return {
        number: name if values.count(name) == 1 else f"{name} ({key})"
        for number, (key, name) in enumerate(categories.items())
    }


@dataclass
class _Split:
    """One split on its way into a mirror; counts what does not become a label."""

    file: Path
    content: Mapping[str, Any]
    root: Path
    index: Mapping[Any, int]
    crowds: int = 0
    clipped: int = 0
    empty: int = 0
    folders: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        self.folders = _image_folders(self.file, self.root)

    def write(self, scratch: Path, split: str) -> None:
        images = self.content["images"]
        boxes = self._boxes()
        names = link_names([str(image["file_name"]) for image in images])
        for kind in ("images", "labels"):
            (scratch / kind / split).mkdir(parents=True)
        ids = {}
        for image, name in zip(
            tqdm(images, desc=f"reading {self.file.name}", unit="img", disable=None), names, strict=True
        ):
            source = self._find(str(image["file_name"]))
            size = self._size(image, source)
            link(source, scratch / "images" / split / name)
            lines = [self._line(label, box, size) for label, box in boxes.get(image["id"], ())]
            (scratch / "labels" / split / name).with_suffix(".txt").write_text(
                "".join(lines), encoding="ascii"
            )
            ids[name] = image["id"]
        write_index(scratch / f"image_ids_{split}.json", ids)

    def notes(self) -> list[str]:
        said = (
            (self.crowds, "crowd regions, which count in the evaluation only"),
            (self.clipped, "boxes clipped to their image"),
            (self.empty, "boxes dropped, which have no area inside their image"),
        )
        return [f"{self.file.name}: {count} {what}" for count, what in said if count]

    def _boxes(self) -> dict[Any, list[tuple[int, tuple[float, float, float, float]]]]:
        boxes: dict[Any, list[tuple[int, tuple[float, float, float, float]]]] = {
            image["id"]: [] for image in self.content["images"]
        }
        for number, annotation in enumerate(self.content["annotations"]):
            where = f"{self.file}: annotation {annotation.get('id', number)}"
            image, category, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
            if image not in boxes:
                raise DataError(f"{where}: image_id {image!r} is not among the images")
            if category not in self.index:
                raise DataError(f"{where}: category_id {category!r} is not among the categories")
            if annotation.get("iscrowd"):
                self.crowds += 1
                continue
            if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(v) for v in box):
                raise DataError(f"{where}: bbox {box!r}, expected four finite numbers [x, y, width, height]")
            boxes[image].append((self.index[category], (box[0], box[1], box[2], box[3])))
        return boxes

    def _line(self, label: int, box: tuple[float, float, float, float], size: tuple[int, int]) -> str:
        inside = to_fractions(box, *size)
        if inside is None:
            self.empty += 1
            return ""
        # JSONs round to a hundredth of a pixel: less is no news.
        over = max(-box[0], -box[1], box[0] + box[2] - size[0], box[1] + box[3] - size[1])
        self.clipped += over > 0.02
        return label_line(label, inside)

    def _find(self, name: str) -> Path:
        for folder in self.folders:
            for candidate in dict.fromkeys((folder / name, folder / Path(name).name)):
                if candidate.is_file():
                    # The next image most likely lies in the same folder.
                    self.folders.remove(folder)
                    self.folders.insert(0, folder)
                    return candidate
        looked = ", ".join(str(folder) for folder in sorted(self.folders))
        raise DataError(f"{self.file}: image '{name}' not found; looked in {looked or self.root}")

    def _size(self, image: Mapping[str, Any], source: Path) -> tuple[int, int]:
        real = image_size(source)
        told = (image.get("width", real[0]), image.get("height", real[1]))
        if told != real:
            raise DataError(
                f"{self.file}: image '{image['file_name']}' is {told[0]} x {told[1]} pixels there, but {source} is "
                f"{real[0]} x {real[1]}; the boxes would not fit"
            )
        return real


def _image_folders(file: Path, root: Path) -> list[Path]:
    """Folders that may hold a JSON's images, the likeliest first."""
    subset = file.stem.removeprefix("instances_")
    split = split_of(file) or ""
    named = [root / "images" / subset, root / subset]
    alike = [
        folder
        for parent in (root / "images", root)
        if parent.is_dir()
        for folder in sorted(parent.iterdir())
        if split and folder.is_dir() and folder.name.startswith(split)
    ]
    candidates: Iterable[Path] = (*named, *alike, root / "images", file.parent, root)
    return [folder for folder in dict.fromkeys(candidates) if folder.is_dir()]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _names(files: list[Path], folder: Path) -> str:
    return ", ".join(str(file.relative_to(folder)) for file in files)
