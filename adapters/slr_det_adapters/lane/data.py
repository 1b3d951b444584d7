"""The lane data of a run: the folder, and the frames that a phase asks for."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from slr_det.data.lane_world import road_dataset
from slr_det.data.loading import FrameLoader
from slr_det.data.tusimple import LaneItem, TuSimpleDataset, TuSimpleFolder
from slr_det.data.tusimple.anchors import SLOTS
from slr_det.data.tusimple.dataset import Cache
from slr_det.errors import CheckpointError, DataError, nearest
from slr_det.models.parsingnet import ParsingNetConfig
from slr_det_adapters.lane.arguments import Arguments

#: The data set that is generated on the spot.
ROAD = "road"
#: Lanes that TuSimple's labels are turned into.
LANES = SLOTS

#: A batch: ``images``, ``targets``, ``places`` (of the auxiliary head) and ``rows``, the numbers of the labels.
Batch = dict[str, Any]


class _Once(logging.Filter):
    """Lets each remark through once, from one of several processes: every phase of a run meets the same data."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message in self.said or os.environ.get("RANK", "0") != "0":
            return False
        self.said.add(message)
        return True


_ONCE = _Once()
# Every phase of a run, and every evaluation, sees the same frames.
_FRAMES: Cache = {}


def find_data(data: str) -> Path:
    """The folder that a user names; ``road`` is generated where it is not in the cache.

    A folder of that name counts as ``./road`` only: a run on it is in one, and may be where this is called.

    Raises:
        DataError: There is no such folder.
    """
    if data == ROAD:
        return road_dataset()
    path = Path(data).expanduser()
    if path.exists():
        return path
    raise DataError(
        f"data={data}: no such folder{nearest(data, [ROAD])}; expected TuSimple's, with clips/ and label files, or "
        f"'{ROAD}' (generated)"
    )


def open_data(data: str) -> TuSimpleFolder:
    """Find the label files of a folder in TuSimple's layout; DataError where there are none."""
    logging.getLogger(TuSimpleFolder.__module__).addFilter(_ONCE)
    return TuSimpleFolder.open(data)


def begin_run() -> None:
    """Forget the frames that are kept, and say again what is found in the data: the files may have changed."""
    _ONCE.said.clear()
    _FRAMES.clear()


def require_fit(config: ParsingNetConfig, model: str) -> None:
    """Refuse a network that tells another number of lanes apart than the labels do."""
    if config.lanes != LANES:
        raise CheckpointError(
            f"model={model} tells {config.lanes} lanes apart, but labels of TuSimple are turned into {LANES}; train a "
            "network for these with dense_epochs=N"
        )


def training_frames(
    folder: TuSimpleFolder, config: ParsingNetConfig, arguments: Arguments, seed: int
) -> TuSimpleDataset:
    """The training frames, varied as the arguments say."""
    return _frames(
        folder,
        "train",
        config,
        arguments,
        arguments.train_frames,
        training=True,
        augmentation=arguments.augmentation(),
        seed=seed,
    )


def plain_frames(
    folder: TuSimpleFolder, config: ParsingNetConfig, arguments: Arguments, most: int, split: str = "val"
) -> TuSimpleDataset:
    """Frames of a split as they were recorded, the first ``most`` of them; 0 for all."""
    return _frames(folder, split, config, arguments, most)


def _frames(
    folder: TuSimpleFolder,
    split: str,
    config: ParsingNetConfig,
    arguments: Arguments,
    most: int,
    **how: Any,
) -> TuSimpleDataset:
    frames = TuSimpleDataset(
        folder,
        split,
        config.size,
        row_anchors=config.row_anchors,
        griding=config.griding,
        cache=_FRAMES if arguments.cache else None,
        **how,
    )
    if most:
        frames.rows = frames.rows[:most]
    return frames


def collate(items: Sequence[LaneItem]) -> Batch:
    """Put frames into a batch; plain containers, which mmengine moves to the device."""
    return {
        "images": torch.stack([item.image for item in items]),
        "targets": torch.stack([item.target for item in items]),
        "places": torch.stack([item.segmentation for item in items]),
        "rows": [item.row for item in items],
    }


def loader(frames: Any, arguments: Arguments, *, sampler: Any = None, drop_last: bool = False) -> FrameLoader:
    """Batches of frames; a file that is malformed is one line, whatever process reads it."""
    return FrameLoader(
        frames,
        batch_size=arguments.batch,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=arguments.workers,
        collate_fn=collate,
        generator=torch.Generator(),
    )
