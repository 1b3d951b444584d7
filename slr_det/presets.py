"""The runs that need nothing: settings of the embedded defaults, and the help texts that list every setting."""

from __future__ import annotations

from typing import Any

#: What ``python -m slr_det.yolo`` does without arguments; ``configs/yolo/shapes.yaml`` holds the same settings.
YOLO: dict[str, Any] = {
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

#: What ``python -m slr_det.classify`` does without arguments; ``configs/classify/digits.yaml`` holds the same settings.
CLASSIFY: dict[str, Any] = {
    "name": "digits",
    "data": "digits",
    "model": "digits_cnn",
    "method": ["slr", "admm", "gradual", "oneshot"],
    "recipe": "recommended",
    "dense_epochs": 10,
    "epochs": 8,
    "retrain_epochs": 2,
    "prune": {"target_compression": "20x", "dense_head": False},
    "train": {
        "batch": 32,
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "schedule": "cosine",
        "pad": 1,
        "flip": False,
    },
    "dense": {"lr": 0.1, "warmup_epochs": 1},
}

#: What ``python -m slr_det.pointpillars`` does without arguments; ``configs/pointpillars/world.yaml`` holds the same.
POINTPILLARS: dict[str, Any] = {
    "name": "world",
    "data": "world",
    "model": "pointpillars_small",
    "method": ["slr", "admm"],
    "recipe": "recommended",
    "dense_epochs": 24,
    "epochs": 12,
    "retrain_epochs": 2,
    "prune": {"target_compression": "9.449x", "dense_head": False},
    "train": {
        "batch": 4,
        "optimizer": "adamw",
        "lr": 0.003,
        "schedule": "cosine",
        "overlap": "0.5",
        "paste": 6,
        "rotation": 20,
        "bn_momentum": 0.1,
        "epoch_val_frames": 20,
        "val_every": 2,
    },
    "dense": {"schedule": "onecycle"},
}

#: What ``python -m slr_det.lane`` does without arguments; ``configs/lane/road.yaml`` holds the same settings.
LANE: dict[str, Any] = {
    "name": "road",
    "data": "road",
    "model": "parsingnet_small",
    "method": ["slr", "admm"],
    "recipe": "recommended",
    "dense_epochs": 24,
    "epochs": 8,
    "retrain_epochs": 2,
    "prune": {"target_compression": "12x"},
    "train": {
        "batch": 8,
        "optimizer": "adamw",
        "lr": 0.0015,
        "weight_decay": 0.01,
        "schedule": "cosine",
        "rotation": 3,
        "up_down": 50,
        "left_right": 100,
        "cache": True,
        "epoch_val_frames": 50,
        "val_every": 2,
    },
    "dense": {"lr": 0.003, "schedule": "onecycle"},
}

_RUN = """\
  name=, project=            the run's folder is project/name (runs/run; or $SLR_DET_RUNS); seed=0
  method=slr,admm            slr, admm, penalty, gradual, oneshot; each at the same budget
  recipe={recipe:<20}a named set of settings, paper or recommended; what a file or the command line says wins
  epochs=, retrain_epochs=   training under the method; masked retraining after pruning
"""
_PRUNE = """\
  prune.target_compression=  {rate} over the whole model; or prune.keep=0.3 of the pruned layers
  prune.projection=          unstructured, n:m (as 2:4), filter, channel, block (as block:4x4), kernel_pattern
  prune.allocation=          uniform, erk, global, layerwise (with prune.ratios=FILE), sensitivity
  prune.include=, exclude=   globs of parameter names; prune.dense_first=, prune.dense_head=true
  slr.rho=0.1 slr.M=300 slr.r=0.1 slr.s0=0.01 slr.stepsize=contractive slr.objective=running
  slr.closing=0              rho that closes W - Z by this exponent over the run, in place of slr.rho (SGD)
  slr.rho_growth=1           what rho has grown by in the last iteration
  slr.continuation=0         share of the iterations over which what is kept shrinks to the target
  slr.survivors=pinned       free: the penalty leaves the weights that are kept alone
"""

YOLO_SETTINGS = f"""settings (key=value, or a YAML file with the same keys):
  model=FILE.pt|FILE.yaml    a trained checkpoint, or an architecture together with dense_epochs=N
  data=...                   a data YAML, a COCO JSON, a folder in COCO or YOLO layout, or 'shapes' (generated)
  backend=ultralytics        ultralytics: the package; yolov3: your checkout of ultralytics/yolov3 (anchor-based)
{_RUN.format(recipe="paper")}\
  dense_epochs=              dense training first, where the model is an architecture
{_PRUNE.format(rate="3.33x")}\
  min.map50=0.35             exit with 1 where the final model is below
  anything else              an argument of the trainer: imgsz=640 batch=16 lr0=0.01 optimizer=SGD ...
  dense.lr0=, retrain.lr0=   what differs in dense training and in masked retraining
"""

CLASSIFY_SETTINGS = f"""settings (key=value, or a YAML file with the same keys):
  model=NAME|FILE.pt         an architecture together with weights= or dense_epochs=N, or a checkpoint of slr_det
  weights=FILE|pretrained    weights for an architecture: a local file, or those that timm publishes for it
  data=...                   a folder with train/CLASS/ and val/CLASS/, CIFAR-10 in binary form, a .tar of either,
                             or 'digits' (comes with scikit-learn)
{_RUN.format(recipe="recommended")}\
  dense_epochs=              dense training first: from random weights, or from weights=
  iterations_per_epoch=1     iterations of the method in each epoch
  one_schedule=false         one learning-rate schedule over epochs and retrain_epochs together
  distill=0.0                share of the loss that learns from the dense model; distill_temperature=2.0
{_PRUNE.format(rate="20x")}\
  min.top1=0.9               exit with 1 where the final model is below
  anything else              an argument of the trainer: lr=0.01 batch=128 optimizer=sgd size=224 ...
  dense.lr=, retrain.lr=     what differs in dense training and in masked retraining
"""

POINTPILLARS_SETTINGS = f"""settings (key=value, or a YAML file with the same keys):
  model=NAME|FILE.yaml|FILE  pointpillars, pointpillars_small, a model YAML of OpenPCDet (together with weights= or
                             dense_epochs=N), or a checkpoint of slr_det or OpenPCDet
  weights=FILE               weights for a network: a checkpoint of OpenPCDet
  data=...                   a folder in KITTI's layout, a YAML file with path: and classes:, or 'world' (generated)
  backend=embedded           embedded: our own network and trainer; openpcdet: your checkout of OpenPCDet
{_RUN.format(recipe="recommended")}\
  dense_epochs=              dense training first: from random weights, or from weights=
  iterations_per_epoch=1     iterations of the method in each epoch
  one_schedule=false         one learning-rate schedule over epochs and retrain_epochs together
{_PRUNE.format(rate="9.45x")}\
  min.moderate=0.6           exit with 1 where the final model is below
  anything else              an argument of the trainer: lr=0.003 batch=4 overlap=standard|loose|0.5 paste=15 ...
  dense.lr=, retrain.lr=     what differs in dense training and in masked retraining
"""

LANE_SETTINGS = f"""settings (key=value, or a YAML file with the same keys):
  model=NAME|FILE.yaml|FILE  parsingnet18 to parsingnet152, parsingnet50next, parsingnet50wide, parsingnet_small, ... or
                             a YAML file of a network (together with weights= or dense_epochs=N), or a checkpoint of
                             slr_det or Ultra-Fast-Lane-Detection
  weights=FILE               weights for a network: such a checkpoint; or, for the backbone, torchvision's ResNet
  data=...                   a folder in TuSimple's layout, or 'road' (generated)
  backend=embedded           embedded: our own network and trainer; ufld: your Ultra-Fast-Lane-Detection checkout
{_RUN.format(recipe="recommended")}\
  dense_epochs=              dense training first: from random weights, or from weights=
  iterations_per_epoch=1     iterations of the method in each epoch
  one_schedule=false         one learning-rate schedule over epochs and retrain_epochs together
  prune.scope=everything     everything: cls, with four fifths of the weights, is pruned too, and a rate counts all of
                             the model; backbone: pool and cls stay dense, and a rate counts what is pruned
{_PRUNE.format(rate="12.10x")}\
  min.accuracy=0.9           exit with 1 where the final model is below
  anything else              an argument of the trainer: lr=0.0004 batch=32 cache=true rotation=6 predictions=FILE ...
  dense.lr=, retrain.lr=     what differs in dense training and in masked retraining
"""
