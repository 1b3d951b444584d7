"""A folder in KITTI's layout: which frames it has, and what belongs to each."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slr_det.data.kitti.calibration import Calibration
from slr_det.data.kitti.labels import KittiObjects, read_objects
from slr_det.data.mirror import image_size
from slr_det.data.reading import read_text
from slr_det.errors import DataError, nearest

_LOG = logging.getLogger(__name__)

#: Folders of a frame's files and their suffixes; a frame needs all three.
PARTS = {"velodyne": ".bin", "calib": ".txt", "label_2": ".txt"}
#: Height and width of the pictures of most KITTI frames, taken where a frame has no picture.
USUAL_SHAPE = (375, 1242)

_IMAGES = "image_2"
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_BYTES_PER_POINT = 16
# What has been said of which folder: every phase of a run opens the same data anew.
_SAID: set[tuple[str, Path]] = set()


class KittiFolder:
    """Labelled frames in KITTI's layout. Nothing is ever written into them, and files are read when they are asked for.

    Args:
        frames: Folder that holds velodyne/, calib/ and label_2/, perhaps image_2/ and planes/.
        splits: Folder of the split files (ImageSets), or None where there is none.
    """

    def __init__(self, frames: Path, splits: Path | None = None) -> None:
        self.frames = frames
        self.splits = splits

    @classmethod
    def open(cls, root: str | Path) -> KittiFolder:
        """Find the frames of a data set.

        Args:
            root: Folder that holds ``training/`` and perhaps ``ImageSets/``, or the folder ``training/`` itself (its
                ``ImageSets`` may then lie inside it or beside it).

        Raises:
            DataError: there is no such folder, or it lacks velodyne/, calib/ or label_2/.
        """
        folder = Path(root).expanduser().absolute()
        if not folder.is_dir():
            siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
            raise DataError(
                f"{folder}: no such folder{nearest(folder.name, siblings)}; expected a KITTI data set"
            )
        inside = folder / "training"
        frames = inside if inside.is_dir() else folder
        missing = [name for name in PARTS if not (frames / name).is_dir()]
        if missing:
            seen = sorted(entry.name for entry in frames.iterdir())
            raise DataError(
                f"{frames}: no folder {missing[0]}/ ({_listed(seen)}), expected the KITTI layout: "
                f"training/ with {', '.join(f'{name}/' for name in PARTS)}"
            )
        beside = (
            [folder]
            if frames == inside
            else [folder, *([folder.parent] if folder.name == "training" else [])]
        )
        splits = [place / "ImageSets" for place in beside if (place / "ImageSets").is_dir()]
        return cls(frames, splits[0] if splits else None)

    def split(self, name: str) -> list[str]:
        """Return the frames that ``ImageSets/NAME.txt`` lists, in its order.

        Without ImageSets every split is all frames that have a scan, a calib file and labels, which a warning says once
        in a process.

        Raises:
            DataError: the split file is missing or empty, has a line that is no frame number or one twice, or names a
                frame without a scan, a calib file or labels (file and line are named); without ImageSets, no frame is
                complete.
        """
        have = {part: _numbered(self.frames / part, suffix) for part, suffix in PARTS.items()}
        if self.splits is None:
            return self._every_frame(name, have)
        file = self.splits / f"{name}.txt"
        if not file.is_file():
            others = sorted(path.stem for path in self.splits.glob("*.txt"))
            raise DataError(
                f"{file}: no such file{nearest(name, others)}; expected the numbers of the frames of the split "
                f"'{name}', one a line"
            )
        lines: dict[str, int] = {}
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            frame = line.strip()
            if not frame:
                continue
            if not _is_number(frame):
                raise DataError(
                    f"{file}:{number}: '{frame:.40}', expected the number of a frame, such as 000042"
                )
            if frame in lines:
                raise DataError(f"{file}:{number}: frame {frame} again, already in line {lines[frame]}")
            for part, suffix in PARTS.items():
                if frame not in have[part]:
                    raise DataError(
                        f"{file}:{number}: frame {frame} has no file {self.frames / part / (frame + suffix)}; add it, "
                        "or take the line out"
                    )
            lines[frame] = number
        if not lines:
            raise DataError(f"{file}: lists no frame, expected their numbers, one a line")
        return list(lines)

    def points(self, frame: str) -> npt.NDArray[np.float32]:
        """Return a frame's scan, (P, 4): x, y, z in metres (lidar frame) and reflectance in [0, 1].

        Points with a NaN or an infinity in any of the four are dropped. A scan may be empty.

        Raises:
            DataError: the file is missing, cannot be read, or its size is no multiple of 16 bytes.
        """
        file = self.file("velodyne", frame)
        try:
            data = file.read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{file}: no such file, expected the scan of frame {frame}") from error
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
        if len(data) % _BYTES_PER_POINT:
            raise DataError(
                f"{file}: {len(data)} bytes, expected a multiple of {_BYTES_PER_POINT} (four float32 a point); the "
                "file is truncated or no scan: copy it again"
            )
        points = np.frombuffer(data, "<f4").reshape(-1, 4)
        finite = np.isfinite(points).all(axis=1)
        return points[finite] if not finite.all() else points.copy()

    def objects(self, frame: str) -> KittiObjects:
        """Return a frame's labels, DontCare included; DataError as :func:`read_objects` says."""
        return read_objects(self.file("label_2", frame))

    def calibration(self, frame: str) -> Calibration:
        """Return a frame's calibration; DataError as :meth:`Calibration.read` says."""
        return Calibration.read(self.file("calib", frame))

    def image_shape(self, frame: str) -> tuple[int, int]:
        """Return height and width of a frame's picture, from its header alone.

        A frame without a picture is taken to have KITTI's usual 375 x 1242 pixels, which is said once in a process.

        Raises:
            DataError: the picture cannot be read.
        """
        for suffix in _IMAGE_SUFFIXES:
            file = self.frames / _IMAGES / f"{frame}{suffix}"
            if file.is_file():
                width, height = image_size(file)
                return height, width
        if self._unsaid(_IMAGES):
            height, width = USUAL_SHAPE
            _LOG.warning(
                "%s: no picture of frame %s; frames without one are taken to be %d pixels wide and %d high",
                self.frames / _IMAGES,
                frame,
                width,
                height,
            )
        return USUAL_SHAPE

    def road_plane(self, frame: str) -> npt.NDArray[np.float64] | None:
        """Return the ground (a, b, c, d), a x + b y + c z + d = 0 in the rectified camera frame, or None if unknown.

        It is the fourth line of ``planes/FRAME.txt``, scaled to a unit normal that points up (b < 0).

        Raises:
            DataError: the file is there, but has no such line, or its plane is upright.
        """
        file = self.frames / "planes" / f"{frame}.txt"
        if not file.is_file():
            return None
        line = (read_text(file).splitlines() + [""] * 4)[3]
        try:
            plane = np.array([float(word) for word in line.split()])
        except ValueError:
            plane = np.zeros(0)
        if plane.shape != (4,) or not np.isfinite(plane).all() or plane[1] == 0:
            raise DataError(f"{file}:4: '{line:.60}', expected four numbers a b c d with b other than 0")
        return np.asarray(-np.sign(plane[1]) * plane / np.linalg.norm(plane[:3]))

    def file(self, part: str, frame: str) -> Path:
        """Return where a frame's file of one of the PARTS lies."""
        return self.frames / part / f"{frame}{PARTS[part]}"

    def _every_frame(self, name: str, have: dict[str, set[str]]) -> list[str]:
        complete = sorted(set.intersection(*have.values()))
        if not complete:
            counts = ", ".join(f"{len(found)} in {part}/" for part, found in have.items())
            raise DataError(
                f"{self.frames}: no frame has a scan, a calib file and labels (numbered files: {counts}); expected "
                "velodyne/000000.bin, calib/000000.txt and label_2/000000.txt"
            )
        if self._unsaid("ImageSets"):
            partial = len(set.union(*have.values())) - len(complete)
            _LOG.warning(
                "%s: no ImageSets/%s.txt; every split is all %d frames, so scores are of frames trained on%s",
                self.frames.parent if self.frames.name == "training" else self.frames,
                name,
                len(complete),
                f" ({partial} more lack a scan, a calib file or labels)" if partial else "",
            )
        return complete

    def _unsaid(self, what: str) -> bool:
        """Whether this has not been said of the folder before; from now on it has."""
        unsaid = (what, self.frames) not in _SAID
        _SAID.add((what, self.frames))
        return unsaid


def _numbered(folder: Path, suffix: str) -> set[str]:
    return {path.stem for path in folder.iterdir() if path.suffix == suffix and _is_number(path.stem)}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _listed(names: list[str]) -> str:
    return f"it holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else "it is empty"
