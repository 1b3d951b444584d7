"""The run that needs nothing: settings of the embedded default, and the help text that lists every setting."""

from __future__ import annotations

from typing import Any

#: What ``python -m slr_det.yolo`` does without arguments; ``configs/yolo/shapes.yaml`` holds the same settings.
PRESET: dict[str, Any] = {
    "name": "shapes",
    "data": "shapes",
    "model": "yolov3-tiny-slim.yaml",
    "dense_epochs": 20,
    "epochs": 9,
    "retrain_epochs": 3,
    "prune": {"target_compression": "3.33x"},
    "train": {
        "imgsz": 128,
        "batch": 8,
        "nbs": 8,
        "optimizer": "SGD",
        "lr0": 0.01,
        "momentum": 0.9,
        "cos_lr": True,
        "warmup_epochs": 0.3,
        "cls": 1.0,
        "mosaic": 0,
        "close_mosaic": 0,
        "scale": 0.2,
        "hsv_h": 0,
        "hsv_s": 0.3,
        "hsv_v": 0.2,
        "workers": 0,
    },
    "dense": {"optimizer": "AdamW", "lr0": 0.0025, "warmup_epochs": 1},
    "retrain": {"lr0": 0.005},
}

SETTINGS = """settings (key=value, or a YAML file with the same keys):
  model=FILE.pt|FILE.yaml    a trained checkpoint, or an architecture together with dense_epochs=N
  data=...                   a data YAML, a COCO JSON, a folder in COCO or YOLO layout, or 'shapes' (generated)
  name=, project=            the run's folder is project/name; seed=0
  method=slr,admm            slr, admm, penalty, gradual, oneshot; each at the same budget
  epochs=, retrain_epochs=   training under the method; masked retraining after pruning
  dense_epochs=              dense training first, where the model is an architecture
  prune.target_compression=  3.33x over the whole model; or prune.keep=0.3 of the pruned layers
  prune.projection=          unstructured, n:m (as 2:4), filter, channel, block (as block:4x4), kernel_pattern
  prune.allocation=          uniform, erk, global, layerwise (with prune.ratios=FILE), sensitivity
  prune.include=, exclude=   globs of parameter names; prune.dense_first=, prune.dense_head=true
  slr.rho=0.1 slr.M=300 slr.r=0.1 slr.s0=0.01 slr.stepsize=contractive slr.objective=running
  min.map50=0.35             exit with 1 where the final model is below
  anything else              an argument of the trainer: imgsz=640 batch=16 lr0=0.01 optimizer=SGD ...
  dense.lr0=, retrain.lr0=   what differs in dense training and in masked retraining
"""
