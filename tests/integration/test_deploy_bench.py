"""``python -m slr_det.bench deploy``: packed, exported, evaluated and timed checkpoints of a small classifier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm", reason='needs the classify extra: uv pip install "slr-det[classify]"')
pytest.importorskip("onnxruntime", reason='needs the export extra: uv pip install "slr-det[export]"')

from classify_runs import SMALL, lines

from slr_det.bench.__main__ import main
from slr_det.classify import main as classify


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("deploy")
    assert classify(["train", *SMALL, "epochs=2", f"project={project}", "name=run"]) == 0
    return project / "run" / "dense.pt"


def test_every_variant_is_scored_weighed_and_timed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint)
    for name, weight in content["state_dict"].items():
        if weight.ndim > 1 and "fc" not in name:
            weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.9] = 0.0
    sparse = tmp_path / "sparse.pt"
    torch.save(content, sparse)
    out = tmp_path / "deploy"
    settings = [
        "data=digits",
        "train_images=600",
        "val_images=100",
        f"dense={checkpoint}",
        f"sparse={sparse}",
    ]
    assert (
        main(["deploy", "classify", *settings, "-o", str(out), "--rounds", "3", "--calibration", "16"]) == 0
    )
    printed = capsys.readouterr().out
    document = json.loads((out / "deploy.json").read_text())
    rows = {(row["name"], row["kind"]): row for row in document["rows"]}
    assert list(rows) == [("dense", "float32"), ("dense", "int8"), ("sparse", "float32"), ("sparse", "int8")]
    dense, pruned = rows["dense", "float32"], rows["sparse", "float32"]
    for row in rows.values():
        assert 0.0 <= row["score"] <= 1.0 and row["milliseconds"] > 0.0
        assert f"| {row['name']} | {row['kind']} | {row['score']:.3f} |" in printed
    assert dense["score"] > pruned["score"], "nine weights of ten are gone"
    assert pruned["zeros"] > 0.5 > dense["zeros"]
    assert pruned["packed_bytes"] == (out / "sparse.slr").stat().st_size < 0.6 * dense["packed_bytes"]
    for key, row in rows.items():
        assert row["onnx_bytes"] == (out / f"{key[0]}-{key[1]}.onnx").stat().st_size
    assert rows["dense", "int8"]["onnx_bytes"] < 0.7 * dense["onnx_bytes"]
    assert (out / "deploy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data=digits"], "no checkpoint is given; write NAME=FILE.pt for each"),
        (["data=digits", "dense=nowhere.pt"], "nowhere.pt"),
        (["dense=nowhere.pt"], "data is not given"),
    ],
)
def test_what_is_missing_is_said(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "classify", *words, "-o", str(tmp_path)]) == 2
    assert any(line in error for error in lines(capsys))
