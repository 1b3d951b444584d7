"""The COCO ground truth of a split, and how a trainer's image files and class indices map to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slr_det.data.labels import label_file, read_labels, to_pixels
from slr_det.data.mirror import IMAGE_SUFFIXES, image_files, image_size
from slr_det.data.reading import load_coco, load_json, load_yaml, read_text
from slr_det.errors import DataError, nearest

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroundTruth:
    """COCO ground truth of one split.

    Attributes:
        coco: ``images``, ``annotations`` and ``categories`` as in COCO's JSON.
        images: Image id by file: absolute path, its folder's links resolved, the file itself as it is named.
        categories: Category id by class index.
    """

    coco: dict[str, Any]
    images: Mapping[str, Any]
    categories: tuple[Any, ...]

    def image_id(self, file: str | Path) -> Any:
        """Return the image id of a file that the trainer read; DataError where the ground truth does not have it."""
        try:
            return self.images[_place(Path(file))]
        except KeyError:
            raise DataError(
                f"{file}: not in the ground truth of {len(self.images)} images; were the data changed since?"
            ) from None

    def category_id(self, index: int) -> Any:
        """Return the category id of a class index of the model; DataError where the data have no such class."""
        if not 0 <= index < len(self.categories):
            raise DataError(
                f"class {index}: the data have {len(self.categories)} classes; was the model trained on other data?"
            )
        return self.categories[index]


def ground_truth(data: str | Path, split: str = "val") -> GroundTruth:
    """Return the ground truth of a split of a data YAML.

    Where the YAML names a COCO JSON for the split (``annotations: {val: FILE}``), its ids, areas and crowd flags are
    used, for those of its images that the split holds. Otherwise the YOLO labels are: image ids from 1 in the order of
    the files, category ids from 1, areas of boxes (of polygons where the labels are polygons).

    Args:
        data: An ultralytics data YAML, such as :func:`slr_det.data.detection.resolve` returns.
        split: "train", "val" or "test".

    Raises:
        DataError: the split is missing; an image, label or annotation cannot be read or does not fit.
    """
    file = Path(data)
    content = load_yaml(file)
    names = class_names(content, file)
    if not content.get(split):
        present = [key for key in ("train", "val", "test") if content.get(key)]
        raise DataError(
            f"{file}: no split '{split}'{nearest(split, present)}; there are {', '.join(present) or 'none'}"
        )
    root = data_root(content, file)
    images = list(dict.fromkeys(split_images(root, content[split], f"{file}: {split}")))
    if not images:
        raise DataError(f"{file}: {split}: no images in '{content[split]}'")
    annotations = (content.get("annotations") or {}).get(split)
    if not annotations:
        return _from_labels(images, names)
    index = (content.get("image_ids") or {}).get(split)
    ids = load_json(root / index) if index else None
    return _from_coco(images, root / annotations, names, content.get("category_ids"), ids)


def class_names(content: Mapping[str, Any], file: Path) -> list[str]:
    """Return the class names of a data YAML in the order of their indices; DataError where they are not complete."""
    names, count = content.get("names"), content.get("nc")
    if names is None and isinstance(count, int) and count > 0:
        return [f"class_{i}" for i in range(count)]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(
            f"{file}: names: {names!r:.60}, expected the list of classes, or 'nc' with their number"
        )
    if set(names) != set(range(len(names))):
        raise DataError(f"{file}: names: keys {list(names)!r:.80}, expected 0 to {len(names) - 1}")
    if count is not None and count != len(names):
        raise DataError(f"{file}: nc: {count}, but names lists {len(names)} classes")
    return [str(names[i]) for i in range(len(names))]


def data_root(content: Mapping[str, Any], file: Path) -> Path:
    """Return the folder that a data YAML's entries are relative to: ``path``, else the YAML's own folder."""
    own = file.absolute().parent
    named = content.get("path")
    if not named:
        return own
    path = Path(str(named)).expanduser()
    return path if path.is_absolute() else own / path


def split_images(root: Path, entries: Any, origin: str) -> Iterator[Path]:
    """Yield the images of a split by ultralytics' rules: folders are searched, text files list images.

    Raises:
        DataError: an entry does not exist; the message begins with ``origin``.
    """
    for entry in entries if isinstance(entries, list) else [entries]:
        path = root / str(entry)
        if path.is_dir():
            yield from image_files(path.resolve())
        elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path
        elif path.is_file():
            for line in read_text(path).split("\n"):
                listed = line.strip()
                if listed:
                    yield path.parent / listed[2:] if listed.startswith("./") else Path(listed).absolute()
        else:
            raise DataError(f"{origin}: '{path}' does not exist")


def _place(file: Path) -> str:
    """Name a file by its real folder, but by its own name: in a mirror the files themselves are links."""
    return str(file.parent.resolve() / file.name)


def _from_coco(
    images: list[Path], file: Path, names: list[str], category_ids: Any, ids: Mapping[str, Any] | None
) -> GroundTruth:
    coco = load_coco(file)
    if category_ids is None:
        by_name = {str(category.get("name")): category["id"] for category in coco["categories"]}
        missing = [name for name in names if name not in by_name]
        if missing:
            raise DataError(
                f"{file}: no category '{missing[0]}', which the data YAML names{nearest(missing[0], by_name)}"
            )
        category_ids = [by_name[name] for name in names]
    if ids is None:
        ids = {Path(str(image["file_name"])).name: image["id"] for image in coco["images"]}
        if len(ids) < len(coco["images"]):
            raise DataError(f"{file}: images of one name in several folders; give the JSON itself as data")
    unknown = next((image for image in images if image.name not in ids), None)
    if unknown is not None:
        raise DataError(f"{file}: image '{unknown.name}' of the data is not in it")
    places = {_place(image): ids[image.name] for image in images}
    wanted = set(places.values())
    kept = {
        **coco,
        "images": [image for image in coco["images"] if image["id"] in wanted],
        "annotations": [
            annotation for annotation in coco["annotations"] if annotation.get("image_id") in wanted
        ],
    }
    return GroundTruth(kept, places, tuple(category_ids))


def _from_labels(images: list[Path], names: list[str]) -> GroundTruth:
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    empty = 0
    for number, image in enumerate(images, start=1):
        width, height = image_size(image)
        entries.append({"id": number, "file_name": image.name, "width": width, "height": height})
        labels = label_file(image)
        for label in read_labels(labels, len(names)) if labels.is_file() else ():
            box = to_pixels(label.box, width, height)
            if box[2] <= 0 or box[3] <= 0:
                empty += 1
                continue
            points = [v * (height if i % 2 else width) for i, v in enumerate(label.polygon)]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": label.index + 1,
                "bbox": list(box),
                "area": _area(points) if points else box[2] * box[3],
                "iscrowd": 0,
            }
            annotations.append({**annotation, "segmentation": [points]} if points else annotation)
    if empty:
        _LOG.warning(
            "%s: %d boxes without area are left out of the ground truth", label_file(images[0]).parent, empty
        )
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    coco = {"info": {}, "images": entries, "annotations": annotations, "categories": categories}
    places = {_place(image): number for number, image in enumerate(images, start=1)}
    return GroundTruth(coco, places, tuple(range(1, len(names) + 1)))


def _area(points: list[float]) -> float:
    """Area of a closed polygon x1, y1, x2, y2, ... (shoelace formula)."""
    xs, ys = points[0::2], points[1::2]
    twice = sum(
        x * y2 - x2 * y for x, y, x2, y2 in zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    )
    return abs(twice) / 2
