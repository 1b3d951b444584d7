"""Every file in configs/ is loaded as its own launch command would load it."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest

from slr_det import classify, yolo
from slr_det.adapter import Adapter, load_adapter
from slr_det.allocation import allocate
from slr_det.config import RunConfig, load_config
from slr_det.errors import ConfigError, MissingExtraError
from slr_det.layers import make_layer

ROOT = Path(__file__).parents[2]
TASKS = {"yolo": yolo.TASK, "classify": classify.TASK}
# Studies are files of another kind, see test_study_files.py.
FILES = sorted(set((ROOT / "configs").rglob("*.yaml")) - set((ROOT / "configs" / "studies").iterdir()))
# Zhou et al., Table 5: rate, epochs, AP50 x100 of the dense model, of ADMM and of SLR.
TABLE_5 = {
    "yolov3-tiny_1.19x": (1.19, 15, 37.1, 35.2, 36.1),
    "yolov3-tiny_2x": (2.0, 20, 37.1, 32.2, 36.0),
    "yolov3-tiny_3.33x": (3.33, 25, 37.1, 25.3, 35.4),
    "yolov3-spp_2x": (2.0, 15, 64.4, 41.2, 53.2),
}


def launch_command(path: Path) -> list[str]:
    """The words of the command that the file opens with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        lines.append(text.removesuffix("\\"))
        if not text.endswith("\\"):
            break
    return shlex.split(" ".join(lines))


@functools.cache
def adapter_named(name: str) -> Adapter:
    try:
        return load_adapter(name)
    except (ConfigError, MissingExtraError, ImportError) as error:
        pytest.skip(f"the {name} adapter is not installed ({error})")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_launch_command_loads_the_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder in configs/ is the task: its command line, its adapter."""
    task = TASKS[path.relative_to(ROOT / "configs").parts[0]]
    adapter = adapter_named(task.adapter)
    words = launch_command(path)
    assert words[:4] == [*task.module.split(), "--config"]
    assert words[4] == str(path.relative_to(ROOT))
    settings = [word for word in words[5:] if re.match(r"\w+=", word)]
    monkeypatch.chdir(tmp_path)
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in ("model", "weights") and Path(value).suffix:
            Path(value).write_bytes(b"")
    config = load_config(
        path,
        settings,
        trainer_keys=adapter.trainer_keys(),
        required=("model", "data"),
        task=task.name,
        unsupported=adapter.unsupported(),
    )
    assert config.name == path.stem and config.method[0] == "slr"
    assert config.dense_epochs > 0 or config.weights or adapter.is_checkpoint(config.model)
    layers = [make_layer("a", (64, 64, 3, 3)), make_layer("b", (128, 64, 1, 1))]
    allocation = allocate(
        layers, projection=config.prune.projection, target_compression=config.prune.target_compression
    )
    assert allocation.compression()["model"]["rate"] == pytest.approx(
        config.prune.target_compression, rel=1e-3
    )


@pytest.mark.parametrize(("name", "row"), TABLE_5.items())
def test_the_rows_of_the_paper_are_the_papers(name: str, row: tuple[float, ...]) -> None:
    config: RunConfig = load_config(ROOT / "configs" / "yolo" / f"{name}.yaml", ["model=m.yaml"])
    assert config.paper is not None
    paper = (config.paper["dense"], config.paper["admm"], config.paper["slr"])
    assert (config.prune.target_compression, config.epochs, *paper) == row
    assert (config.slr.rho, config.slr.M, config.slr.r, config.slr.s0) == (0.1, 300.0, 0.1, 0.01)
    assert config.train["imgsz"] == 640 and config.retrain_epochs == 0
    assert config.paper["metric"] == "AP50 x100"
    title = name.partition("_")[0].replace("yolov3", "YOLOv3").replace("spp", "SPP")
    assert f"Table 5, {title}, {row[0]:g}x, {row[1]} epochs" in config.paper["source"]
