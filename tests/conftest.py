"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from slr_det.errors import RuntimeBuildError
from slr_det.runtime.build import build
from slr_det.runtime.library import LIBRARY_VARIABLE, Library, load, unavailable


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real sample data: $SLR_DET_SAMPLES, or ../shared/data beside the repository."""
    named = os.environ.get("SLR_DET_SAMPLES")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the sample data are not at {folder}; set SLR_DET_SAMPLES to their folder")
    return folder


@pytest.fixture(scope="session")
def openpcdet() -> Path:
    """The checkout of OpenPCDet to compare with: $SLR_DET_OPENPCDET, or third_party/OpenPCDet."""
    named = os.environ.get("SLR_DET_OPENPCDET")
    folder = Path(named) if named else Path(__file__).resolve().parents[1] / "third_party" / "OpenPCDet"
    if not (folder / "pcdet").is_dir():
        pytest.skip(
            f"no checkout of OpenPCDet is at {folder}; set SLR_DET_OPENPCDET to one, or run: "
            "git submodule update --init third_party/OpenPCDet"
        )
    return folder.resolve()


@pytest.fixture(scope="session")
def ufld() -> Path:
    """The checkout to compare with: $SLR_DET_UFLD, or third_party/Ultra-Fast-Lane-Detection."""
    place = "third_party/Ultra-Fast-Lane-Detection"
    named = os.environ.get("SLR_DET_UFLD")
    folder = Path(named) if named else Path(__file__).resolve().parents[1] / place
    if not (folder / "model" / "model.py").is_file():
        pytest.skip(
            f"no checkout of Ultra-Fast-Lane-Detection is at {folder}; set SLR_DET_UFLD to one, or run: "
            f"git submodule update --init {place}"
        )
    return folder.resolve()


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """The sparse runtime's library: the one that is installed, or one that is compiled for these tests."""
    with pytest.MonkeyPatch.context() as patch:
        if unavailable() is not None:
            try:
                built = build(tmp_path_factory.mktemp("runtime"))
            except RuntimeBuildError as error:
                pytest.skip(str(error))
            patch.setenv(LIBRARY_VARIABLE, str(built))
        yield load()


@pytest.fixture(scope="session")
def yolov3() -> Path:
    """The checkout of ultralytics/yolov3 to run: $SLR_DET_YOLOV3, or third_party/yolov3."""
    place = "third_party/yolov3"
    named = os.environ.get("SLR_DET_YOLOV3")
    folder = Path(named) if named else Path(__file__).resolve().parents[1] / place
    if not (folder / "models" / "yolo.py").is_file():
        pytest.skip(
            f"no checkout of ultralytics/yolov3 is at {folder}; set SLR_DET_YOLOV3 to one, or run: "
            f"git submodule update --init {place}"
        )
    return folder.resolve()


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small tensors are slower on several threads, and much slower where those have to wait for a busy machine."""
    threads = torch.get_num_threads()
    if "integration" not in request.path.parts:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
