"""The point cloud bench measures the sizes that the targets are about, and runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from slr_det.bench import __main__ as command
from slr_det.bench import pointcloud
from slr_det.bench.rows import Settings
from slr_det.pointcloud import iou_bev, voxelize

QUICK = Settings(threads=1, quick=True)


def test_the_scan_fills_the_grid_as_a_real_one_does() -> None:
    scan = pointcloud.spinning_scan(120_000)
    assert scan.shape == (120_000, 4) and scan.dtype == torch.float32
    low, high = torch.tensor(pointcloud.RANGE).split(3)
    assert ((scan[:, :3] >= low) & (scan[:, :3] < high)).all(1).sum() > 90_000
    pillars = voxelize(scan, pointcloud.PILLAR, pointcloud.RANGE, 1, 40_000).counts.numel()
    assert 5_000 < pillars < 16_000  # KITTI's frames fill 5 to 10 thousand
    assert torch.equal(scan, pointcloud.spinning_scan(120_000))


def test_boxes_of_a_street_rarely_meet_and_those_of_a_pile_do() -> None:
    street, pile = (
        pointcloud.street_boxes(300, 0, extent) for extent in (pointcloud.STREET, pointcloud.PILE)
    )
    assert (iou_bev(street, street) > 0).float().mean() < 0.03
    assert (iou_bev(pile, pile) > 0).float().mean() > 0.95


def test_voxels_are_measured_without_spconv_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, pointcloud.SPCONV, None)
    rows = pointcloud.voxels(QUICK)
    assert [row.setting.split(", ")[1] for row in rows] == ["at most 16000 pillars", "at most 40000 pillars"]
    assert all(row.target == 20 and row.unit == "ms" and ", torch, " in row.setting for row in rows)
    assert all(row.details["pillars"] > 1000 and 0 < row.details["ms"][0] < 1000 for row in rows)


def test_only_the_promised_size_of_overlaps_has_a_time_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointcloud, "_memory", lambda count, extent, settings: None)
    rows = pointcloud.overlap(QUICK)[:4]
    assert [row.target for row in rows] == [0.5, 0.5, None, None]
    assert rows[0].setting.startswith("60 x 60") and rows[3].setting.startswith("400 x 400 boxes in a pile")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory account that Linux keeps")
def test_memory_holds_at_least_the_matrix() -> None:
    row = pointcloud._memory(2000, pointcloud.STREET, QUICK)
    assert row.measured is not None and 0.014 < row.measured < 0.2  # the matrix itself is 16 MB
    assert row.target == 0.512


def test_the_command_writes_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "bench.json"
    assert command.main(["pointcloud", "--only", "nms", "--quick", "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert found["threads"] == 1 and [row["name"] for row in found["rows"]] == ["rotated NMS"] * 6
    assert "not judged" in capsys.readouterr().out


def test_a_measure_of_the_engine_is_not_one_of_point_clouds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["pointcloud", "--only", "projection"])
    assert "invalid choice: 'projection'" in capsys.readouterr().err
