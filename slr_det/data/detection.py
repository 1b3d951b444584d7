"""What a user names as data, turned into an ultralytics data YAML; and the COCO ground truth behind it.

Understood are ``shapes`` (generated), a data YAML, a COCO JSON, and folders in COCO layout (images and
``annotations/*.json``) or YOLO layout (``images/`` and ``labels/``). Nothing is written into the user's folders:
folders and JSONs get a mirror of links and label files in the work folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from slr_det.data import shapes
from slr_det.data.names import COCO_NAMES
from slr_det.errors import DataError, nearest
from slr_det.files import atomic_write

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SPLITS = ("train", "val")
_MIRROR_VERSION = 1


@dataclass(frozen=True)
class GroundTruth:
    """COCO ground truth of one split, and how a trainer's image files and class indices map to it.

    Attributes:
        coco: ``images``, ``annotations`` and ``categories`` as in COCO's JSON.
        images: Image id by file: by absolute path, or by file name for a mirror of a COCO JSON.
        categories: Category id by class index.
    """

    coco: dict[str, Any]
    images: Mapping[str, int]
    categories: tuple[int, ...]

    def image_id(self, file: str | Path) -> int:
        """The image id of a file that the trainer read; DataError where the ground truth does not have it."""
        path = str(Path(file).absolute())
        found = self.images.get(path, self.images.get(Path(path).name))
        if found is None:
            raise DataError(
                f"{file}: is evaluated but is not in the ground truth; the data changed during the run"
            )
        return found

    def category_id(self, label: int) -> int:
        """The category id of a class index of the model."""
        return self.categories[label]


def resolve(data: str | Path, *, workdir: str | Path) -> Path:
    """Return an ultralytics data YAML with absolute paths for what the user named.

    Args:
        data: ``shapes``, a data YAML, a COCO JSON, or a folder in COCO or YOLO layout. A set with one split only is
            used for training and evaluation both.
        workdir: Where a mirror or a rewritten YAML goes. An existing one of the same data is used again.

    Raises:
        DataError: Nothing is there, or what is there is no data set; the message names file and reason.
    """
    if str(data) == "shapes":
        return shapes.build()
    path, work = Path(data).expanduser(), Path(workdir).absolute()
    if path.is_dir():
        return _from_folder(path.absolute(), work)
    if not path.is_file():
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"data '{data}' does not exist{nearest(path.name, [*names, 'shapes'])}; give a data YAML, a COCO JSON, a "
            "folder in COCO or YOLO layout, or 'shapes'"
        )
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path.absolute(), work)
    if path.suffix == ".json":
        return _from_coco({"train": path.absolute(), "val": path.absolute()}, path.absolute().parent, work)
    raise DataError(f"data '{data}': expected a .yaml, a .json or a folder")


def ground_truth(data: str | Path, split: str = "val") -> GroundTruth:
    """COCO ground truth of a data YAML that :func:`resolve` returned.

    Sets that came with a COCO JSON keep its ids, areas and crowd flags; YOLO labels become boxes whose area is width
    times height.

    Raises:
        DataError: The split does not exist, or an image or label cannot be read.
    """
    content = _read_yaml(Path(data))
    names = _names(content, Path(data))
    mirrored = content.get("coco", {}).get(split)
    if mirrored:
        coco = _read_coco(Path(mirrored["annotations"]))
        images = json.loads(Path(mirrored["images"]).read_text(encoding="utf-8"))
        return GroundTruth(coco, images, tuple(content["category_ids"]))
    root = Path(content.get("path") or Path(data).parent)
    if not content.get(split):
        raise DataError(
            f"{data}: has no split '{split}'{nearest(split, [k for k in content if k in ('train', 'val', 'test')])}"
        )
    return _from_labels(list(_images(root, content[split], Path(data))), names)


# -- data YAMLs -------------------------------------------------------------------------------------------


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: is not readable as YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: is not a data YAML; expected keys path, train, val and names")
    return content


def _names(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or sorted(names) != list(range(len(names))):
        raise DataError(f"{path}: 'names' must list the classes, or map 0, 1, 2, ... to their names")
    return {int(key): str(value) for key, value in sorted(names.items())}


def _from_yaml(path: Path, work: Path) -> Path:
    content = _read_yaml(path)
    names = _names(content, path)
    root = Path(str(content.get("path") or "."))
    root = root if root.is_absolute() else path.parent / root
    val_key = "val" if content.get("val") else "validation"
    splits = {"train": content.get("train"), "val": content.get(val_key), "test": content.get("test")}
    if not splits["train"] or not splits["val"]:
        missing = "train" if not splits["train"] else "val"
        raise DataError(
            f"{path}: has no '{missing}'; expected a folder or list of images for train and for val"
        )
    resolved: dict[str, Any] = {}
    for split, entries in splits.items():
        if not entries:
            continue
        found = [_located(root, str(entry), path, split) for entry in _listed(entries)]
        if next(_images(root, found, path), None) is None:
            raise DataError(f"{path}: {split}: '{entries}' holds no images")
        resolved[split] = found[0] if len(found) == 1 else found
    document = {"path": str(root), **resolved, "names": names}
    return atomic_write(work / "data.yaml", yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def _located(root: Path, entry: str, path: Path, split: str) -> str:
    for candidate in (root / entry, path.parent / entry):
        if candidate.exists():
            return str(candidate.absolute())
    raise DataError(f"{path}: {split}: '{entry}' does not exist in {root}; correct 'path' or '{split}'")


def _listed(entries: Any) -> list[Any]:
    return list(entries) if isinstance(entries, list) else [entries]


def _images(root: Path, entries: Any, origin: Path) -> Iterator[Path]:
    """Every image of a split: folders are searched, .txt files list paths."""
    for entry in _listed(entries):
        path = Path(entry) if Path(entry).is_absolute() else root / entry
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip():
                    listed = line.strip()
                    yield path.parent / listed[2:] if listed.startswith("./") else Path(listed)
        else:
            raise DataError(f"{origin}: '{entry}' does not exist")


# -- folders ----------------------------------------------------------------------------------------------


def _from_folder(folder: Path, work: Path) -> Path:
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        if {"train", "names"} <= _read_yaml(file).keys():
            return _from_yaml(file, work)
    annotations = sorted(folder.glob("annotations/*.json"))
    if annotations:
        return _from_coco(_assign(annotations, folder), folder, work)
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return _from_yolo(folder, work)
    raise DataError(
        f"{folder}: is no data set that slr_det knows; expected a data YAML, annotations/*.json, or images/ with labels/"
    )


def _assign(files: list[Path], folder: Path) -> dict[str, Path]:
    """Which JSON is which split, by its name; a lone one serves as both."""
    boxes = [f for f in files if f.stem.startswith("instances")] or files
    found = {split: [f for f in boxes if split in f.stem] for split in SPLITS}
    if len(boxes) == 1:
        return dict.fromkeys(SPLITS, boxes[0])
    for split, matches in found.items():
        if len(matches) != 1:
            raise DataError(
                f"{folder}/annotations: {len(matches)} files for '{split}' among {', '.join(f.name for f in boxes)}; "
                "keep one instances_train*.json and one instances_val*.json, or give one JSON"
            )
    return {split: matches[0] for split, matches in found.items()}


def _from_yolo(folder: Path, work: Path) -> Path:
    parts = sorted(p for p in (folder / "images").iterdir() if p.is_dir()) or [folder / "images"]
    chosen = {split: [p for p in parts if p.name.startswith(split)] for split in SPLITS}
    single = parts[:1] if len(parts) == 1 else []
    target = work / f"yolo-{_key(str(folder))}"
    if (target / "data.yaml").is_file():
        return target / "data.yaml"
    found: dict[str, list[Path]] = {}
    for split in SPLITS:
        source = chosen[split] or single or chosen[SPLITS[1 - SPLITS.index(split)]]
        if not source:
            raise DataError(f"{folder}/images: has no folder for '{split}'; expected train* and val*")
        found[split] = [
            p for part in source for p in sorted(part.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not found[split]:
            raise DataError(f"{source[0]}: holds no images")
    classes = 0
    with _built(target) as building:
        for split, images in found.items():
            for image, name in zip(images, _link_names([str(p) for p in images]), strict=True):
                _link(image, building / "images" / split / name)
                label = _label_of(image)
                if label.is_file():
                    copy = (building / "labels" / split / name).with_suffix(".txt")
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(label.read_bytes())
                    classes = max([classes, *(row[0] + 1 for row in _rows(label))])
        names = _folder_names(folder, classes)
        document = {"path": str(target), "train": "images/train", "val": "images/val", "names": names}
        (building / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return target / "data.yaml"


def _folder_names(folder: Path, classes: int) -> dict[int, str]:
    listed = folder / "classes.txt"
    if listed.is_file():
        names = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(names) < classes:
            raise DataError(
                f"{listed}: names {len(names)} classes, but the labels go up to class {classes - 1}"
            )
        return dict(enumerate(names))
    if classes > len(COCO_NAMES):
        raise DataError(
            f"{folder}: labels go up to class {classes - 1}; add a data YAML or classes.txt with the names"
        )
    # Class numbers without names are COCO's in every YOLO sample set.
    return dict(enumerate(COCO_NAMES))


# -- COCO JSON --------------------------------------------------------------------------------------------


def _read_coco(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not readable as JSON ({str(error).splitlines()[0]})") from error
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        raise DataError(f"{path}: is no COCO ground truth; it has no list '{missing[0]}'")
    if not content["images"] or not content["categories"]:
        raise DataError(f"{path}: has no images or no categories")
    return content


def _from_coco(files: Mapping[str, Path], root: Path, work: Path) -> Path:
    stamp = "".join(f"{f}{f.stat().st_size}{f.stat().st_mtime_ns}" for f in files.values())
    target = work / f"coco-{_key(stamp)}"
    if (target / "data.yaml").is_file():
        return target / "data.yaml"
    contents = {split: _read_coco(file) for split, file in files.items()}
    categories = {c["id"]: str(c.get("name", c["id"])) for c in contents["train"]["categories"]}
    if {c["id"] for c in contents["val"]["categories"]} != categories.keys():
        raise DataError(f"{files['val']}: has other categories than {files['train']}")
    index = {category: number for number, category in enumerate(sorted(categories))}
    coco: dict[str, Any] = {}
    with _built(target) as building:
        for split, content in contents.items():
            ids = _mirror_split(content, files[split], root, building, split, index)
            (building / f"images_{split}.json").write_text(json.dumps(ids), encoding="utf-8")
            coco[split] = {"annotations": str(files[split]), "images": str(target / f"images_{split}.json")}
        document = {
            "path": str(target),
            "train": "images/train",
            "val": "images/val",
            "names": {number: categories[category] for category, number in index.items()},
            "category_ids": sorted(categories),
            "coco": coco,
        }
        (building / "data.yaml").write_text(
            yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
    return target / "data.yaml"


def _mirror_split(
    content: Mapping[str, Any], file: Path, root: Path, building: Path, split: str, index: Mapping[int, int]
) -> dict[str, int]:
    """Link the images and write the labels of one split; returns the image id by link name."""
    base = root if root != file.parent or file.parent.name != "annotations" else root.parent
    available: dict[str, list[Path]] = {}
    for path in sorted(base.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            available.setdefault(path.name, []).append(path)
    lines: dict[Any, list[str]] = {image["id"]: [] for image in content["images"]}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for number, annotation in enumerate(content["annotations"]):
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if image not in lines or category not in index:
            raise DataError(
                f"{file}: annotation {number} is of image {image!r} and category {category!r}, not both known"
            )
        row = None if annotation.get("iscrowd") else _yolo_row(annotation.get("bbox"), sizes[image])
        if row is not None:
            lines[image].append(f"{index[category]} {row}")
    names = _link_names([image["file_name"] for image in content["images"]])
    ids = {}
    for image, name in zip(content["images"], names, strict=True):
        wanted = Path(image["file_name"])
        matches = available.get(wanted.name, [])
        exact = [p for p in matches if p.parts[-len(wanted.parts) :] == wanted.parts]
        hinted = [p for p in exact if split in str(p.relative_to(base))] or exact
        if not hinted:
            raise DataError(f"{file}: image '{image['file_name']}' is nowhere under {base}")
        _link(hinted[0], building / "images" / split / name)
        label = (building / "labels" / split / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("".join(f"{line}\n" for line in lines[image["id"]]), encoding="utf-8")
        ids[name] = image["id"]
    return ids


def _yolo_row(box: Any, size: tuple[int, int]) -> str | None:
    """Centre, width and height as fractions of the image, clipped to it; None where nothing is left."""
    x, y, w, h = box
    x1, y1 = max(float(x), 0.0), max(float(y), 0.0)
    x2, y2 = min(float(x) + float(w), float(size[0])), min(float(y) + float(h), float(size[1]))
    if x2 <= x1 or y2 <= y1:
        return None
    values = ((x1 + x2) / 2 / size[0], (y1 + y2) / 2 / size[1], (x2 - x1) / size[0], (y2 - y1) / size[1])
    return " ".join(f"{value:.9f}" for value in values)


# -- YOLO labels ------------------------------------------------------------------------------------------


def _label_of(image: Path) -> Path:
    """Ultralytics' rule: the last ``images`` folder becomes ``labels``, the suffix ``.txt``."""
    head, found, tail = str(image).rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{head}{os.sep}labels{os.sep}{tail}" if found else str(image)).with_suffix(".txt")


def _rows(label: Path) -> list[tuple[int, list[float]]]:
    rows = []
    for number, line in enumerate(label.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise DataError(f"{label}: line {number} is not 'class x y width height'") from error
        if len(values) < 5 or values[0] < 0 or values[0] != int(values[0]):
            raise DataError(f"{label}: line {number} is not 'class x y width height'")
        rows.append((int(values[0]), values[1:]))
    return rows


def _from_labels(images: list[Path], names: Mapping[int, str]) -> GroundTruth:
    entries, annotations, ids = [], [], {}
    for number, image in enumerate(images, 1):
        try:
            with Image.open(image) as opened:  # reads the header only
                width, height = opened.size
        except OSError as error:
            raise DataError(f"{image}: is not a readable image ({error})") from error
        ids[str(image.absolute())] = number
        entries.append({"id": number, "file_name": image.name, "width": width, "height": height})
        label = _label_of(image)
        for category, values in _rows(label) if label.is_file() else ():
            if category not in names:
                raise DataError(
                    f"{label}: class {category} is not among the {len(names)} names of the data YAML"
                )
            x, y, w, h = values if len(values) == 4 else _hull(values)
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": key, "name": name} for key, name in names.items()]
    return GroundTruth(
        {"images": entries, "annotations": annotations, "categories": categories}, ids, tuple(names)
    )


def _hull(polygon: list[float]) -> tuple[float, float, float, float]:
    xs, ys = polygon[0::2], polygon[1::2]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)


# -- mirrors ----------------------------------------------------------------------------------------------


class _built:
    """A folder that takes its name only when it is complete; one that another process finished first wins."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.building = Path(tempfile.mkdtemp(prefix=f".{self.target.name}-", dir=self.target.parent))
        return self.building

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and not self.target.exists():
            self.building.replace(self.target)
        else:
            shutil.rmtree(self.building, ignore_errors=True)


def _key(text: str) -> str:
    return hashlib.sha256(f"{_MIRROR_VERSION}{text}".encode()).hexdigest()[:10]


def _link_names(files: list[str]) -> list[str]:
    """File names, made unique by a number where two images (or two suffixes of one stem) would collide."""
    stems = Counter(Path(file).stem for file in files)
    return [
        Path(file).name if stems[Path(file).stem] == 1 else f"{number:08d}_{Path(file).name}"
        for number, file in enumerate(files)
    ]


def _link(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, link)
