"""How long point clouds and boxes in space take: voxels, rotated overlaps, non-maximum suppression."""

from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slr_det.bench.rows import Row, Settings
from slr_det.errors import SlrDetError
from slr_det.pointcloud import Voxels, iou_bev, rotated_nms, voxelize
from slr_det.timing import interleaved, median, quartiles, threads

VOXELS_TARGET = 20.0
IOU_TARGET = 0.5
MEMORY_TARGET = 0.512
NMS_TARGET = 1.0

#: PointPillars on KITTI: pillars, range, points of a pillar, most pillars while training and while testing.
PILLAR = (0.16, 0.16, 4.0)
RANGE = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)
PILLAR_POINTS = 32
PILLARS = (16_000, 40_000)

#: What voxelises by spconv, where it is installed.
SPCONV = "slr_det_adapters.pointpillars.voxels"

Voxelize = Callable[..., Voxels]


def voxels(settings: Settings) -> list[Row]:
    """A scan cut into pillars, by torch alone and by spconv."""
    count = 12_000 if settings.quick else 120_000
    rows = []
    for device in _devices():
        scan = spinning_scan(count).to(device)
        ways: dict[str, Voxelize] = {"torch": voxelize, **_by_spconv(scan.device)}
        for most in PILLARS:
            settings.say(f"voxels: {count} points, {most} pillars, {device}")
            arguments = (scan, PILLAR, RANGE, PILLAR_POINTS, most)
            work = {name: partial(way, *arguments) for name, way in ways.items()}
            with threads(1):
                seconds = interleaved(work, 3 if settings.quick else 25)
            found = voxelize(*arguments).counts.numel()
            for name in ways:
                times = [1e3 * second for second in seconds[name]]
                setting = f"{count} points, at most {most} pillars, {name}, {_where(device)}"
                note = f"{found} pillars"
                details = {"ms": times, "pillars": found}
                middle, spread = median(times), quartiles(times)
                rows.append(Row("voxels", setting, middle, "ms", VOXELS_TARGET, spread, note, details))
    return rows


def overlap(settings: Settings) -> list[Row]:
    """Rotated IoU of a few and of many boxes, and the memory that many need."""
    few, many = (60, 400) if settings.quick else (600, 4096)
    rows = []
    for device in _devices():
        for count, extent in ((few, STREET), (few, PILE), (many, STREET), (many, PILE)):
            boxes = [street_boxes(count, seed, extent).to(device) for seed in (0, 1)]
            setting = f"{count} x {count} boxes {PLACES[extent]}, {_where(device)}"
            target = IOU_TARGET if count == few else None
            rows.append(_seconds("rotated IoU", setting, partial(iou_bev, *boxes), target, settings))
    return rows + [_memory(many, extent, settings) for extent in (STREET, PILE)]


def suppression(settings: Settings) -> list[Row]:
    """Rotated NMS where hardly any boxes meet, where many surround few objects, and where all meet."""
    count = 400 if settings.quick else 4096
    generator = torch.Generator().manual_seed(2)
    objects = street_boxes(40, 0, STREET)[torch.randint(40, (count,), generator=generator)]
    cases = {
        PLACES[STREET]: street_boxes(count, 0, STREET),
        "around 40 objects": objects + 0.05 * torch.randn(count, 7, generator=generator),
        PLACES[PILE]: street_boxes(count, 0, PILE),
    }
    scores = torch.rand(count, generator=generator)
    rows = []
    for device in _devices():
        for where, boxes in cases.items():
            for threshold in (0.01, 0.7):
                work = partial(rotated_nms, boxes.to(device), scores.to(device), threshold, post=count)
                setting = f"{count} boxes {where}, threshold {threshold:g}, {_where(device)}"
                rows.append(_seconds("rotated NMS", setting, work, NMS_TARGET, settings))
    return rows


#: Metres that random boxes are spread over.
STREET, PILE = 70.0, 1.0
PLACES = {STREET: "on a street", PILE: "in a pile"}


def street_boxes(count: int, seed: int, extent: float) -> Tensor:
    """(N, 7) random boxes of the sizes of pedestrians to vans, within a square."""
    u = torch.rand(count, 7, generator=torch.Generator().manual_seed(seed))
    low = torch.tensor([0.0, -extent / 2, -1.5, 0.6, 0.5, 1.4, -math.pi])
    span = torch.tensor([extent, extent, 1.0, 4.4, 1.5, 0.6, 2 * math.pi])
    return low + span * u


def spinning_scan(count: int, seed: int = 0) -> Tensor:
    """(count, 4) points of 64 beams on a flat ground and on upright obstacles ahead, in the order of a sensor."""
    random = np.random.default_rng(seed)
    columns = -(-count // 64)
    azimuth = np.linspace(-math.pi / 4, math.pi / 4, columns)
    elevation = np.radians(np.linspace(2.0, -24.8, 64))[:, None]
    obstacle = np.repeat(random.uniform(5, 68, columns // 40 + 1), 40)[:columns]
    ground = 1.73 / np.maximum(np.sin(-elevation), 1e-3)
    reach = np.minimum(ground, obstacle / np.cos(elevation)) + random.normal(0, 0.02, (64, columns))
    flat = reach * np.cos(elevation)
    height = np.broadcast_to(reach * np.sin(elevation), flat.shape)
    columns_of_points = [flat * np.cos(azimuth), flat * np.sin(azimuth), height, random.random(flat.shape)]
    points = np.stack(columns_of_points, axis=-1).reshape(-1, 4)[:count]
    return torch.from_numpy(points.astype(np.float32))


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _where(device: str) -> str:
    return "1 thread" if device == "cpu" else "GPU"


def _by_spconv(device: torch.device) -> dict[str, Voxelize]:
    try:
        module = importlib.import_module(SPCONV)
    except ImportError:
        return {}
    return {"spconv": module.voxelize} if module.has_spconv(device) else {}


def _seconds(
    name: str, setting: str, work: Callable[[], object], target: float | None, settings: Settings
) -> Row:
    settings.say(f"{name}: {setting}")
    with threads(1):
        times = interleaved({name: work}, 3 if settings.quick else 5)[name]
    return Row(name, setting, median(times), "s", target, quartiles(times), details={"seconds": times})


def _memory(count: int, extent: float, settings: Settings) -> Row:
    setting = f"{count} x {count} boxes {PLACES[extent]}, 1 thread"
    settings.say(f"memory of rotated IoU: {setting}")
    command = [sys.executable, "-m", "slr_det.bench.pointcloud", str(count), str(extent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [str(done.returncode)])[-1]
        raise SlrDetError(f"the process that measures memory failed: {last}")
    peak = int(done.stdout)
    note = f"the matrix itself is {4 * count**2 / 1e6:.0f} MB" if peak else "needs Linux's /proc"
    return Row("memory of rotated IoU", setting, peak / 1e9 if peak else None, "GB", MEMORY_TARGET, note=note)


def _account(line: str) -> int:
    """A number of bytes that Linux keeps about this process; 0 where it does not."""
    status = Path("/proc/self/status")
    found = re.search(rf"{line}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


def main(arguments: list[str]) -> int:
    """Print how many bytes this process needed at most for one IoU matrix, beyond what it held before."""
    count, extent = int(arguments[0]), float(arguments[1])
    torch.set_num_threads(1)
    a, b = street_boxes(count, 0, extent), street_boxes(count, 1, extent)
    iou_bev(a[:8], b[:8])
    before = _account("VmRSS")
    iou_bev(a, b)
    print(max(0, _account("VmHWM") - before))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
