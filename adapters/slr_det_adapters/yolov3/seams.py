"""What is relied on in ultralytics/yolov3; every run starts by looking whether it is all there."""

from __future__ import annotations

from slr_det.upstream.project import NeededFile, Seam

_SEALED = "is switched off: nothing is fetched or installed"
SEAMS = (
    Seam(
        "train",
        "train",
        "trains, and takes its parts by names of its module",
        "hyp, opt, device, callbacks",
        reads=(
            *("ComputeLoss", "ModelEMA", "smart_optimizer", "create_dataloader", "validate", "TQDM"),
            *("check_amp", "strip_optimizer", "torch"),
        ),
    ),
    Seam("train", "parse_opt", "gives the options of a training", "known"),
    Seam("train", "ComputeLoss", "gives the loss that the penalty is added to", "model"),
    Seam("utils.loss", "ComputeLoss.__call__", "is called for every batch", "p, targets"),
    Seam("train", "ModelEMA", "averages the model", "model"),
    Seam(
        "train",
        "smart_optimizer",
        "makes the optimizer",
        "model, name, lr, momentum, decay",
    ),
    Seam("train", "create_dataloader", "makes the training data and their augmentation"),
    Seam("train", "validate", "scores the model after an epoch"),
    Seam("train", "TQDM", "is replaced by the progress bar of the run"),
    Seam("train", "check_amp", "is replaced: its own would fetch a model", "model"),
    Seam("train", "strip_optimizer", "is left out: the run prunes and exports what was saved"),
    Seam("models.yolo", "Model", "builds a network", "cfg, *, nc"),
    Seam("models.experimental", "attempt_load", "reads a checkpoint", "weights, *, fuse"),
    Seam("utils.callbacks", "Callbacks", "calls back at places of a training", ""),
    Seam("utils.callbacks", "Callbacks.register_action", "takes what is called", "hook, *, callback"),
    Seam(
        "val",
        "run",
        "evaluates, and takes its device and its progress bar from its module",
        "data, *, weights, batch_size, imgsz, conf_thres, iou_thres, max_det, task, workers, augment, half, project, "
        "plots, callbacks",
        reads=("select_device", "TQDM"),
    ),
    Seam("val", "select_device", "is replaced: its own hides GPUs from the process"),
    Seam("val", "TQDM", "is replaced by the progress bar of the run"),
    Seam("export", "export_formats", "says which files are checkpoints", ""),
    Seam(
        "utils.dataloaders",
        "create_dataloader",
        "makes a loader over images",
        "path, imgsz, batch_size, stride, *, workers",
        reads=("LoadImagesAndLabels",),
    ),
    Seam("utils.dataloaders", "LoadImagesAndLabels", "reads images and labels"),
    Seam(
        "utils.dataloaders",
        "LoadImagesAndLabels.cache_labels",
        "is replaced by one that writes into the run",
        "path, prefix",
        reads=("Pool",),
    ),
    Seam(
        "utils.dataloaders",
        "LoadImagesAndLabels.cache_version",
        "says whether kept labels are of this version",
    ),
    Seam("utils.dataloaders", "get_hash", "says whether kept labels are of these files", "paths"),
    Seam("utils.dataloaders", "Pool", "is replaced: other processes could not import the checkout"),
    Seam("utils.general", "check_dataset", "reads a data file", "data"),
    *(
        Seam("utils.general", name, _SEALED)
        for name in ("check_font", "check_online", "check_requirements", "download")
    ),
    *(Seam("utils.downloads", name, _SEALED) for name in ("curl_download", "requests", "safe_download")),
)
FILES = (
    NeededFile("models/yolov3-tiny.yaml", "is an architecture that runs may name"),
    NeededFile("models/yolov3.yaml", "is an architecture that runs may name"),
    NeededFile("models/yolov3-spp.yaml", "is an architecture that runs may name"),
    NeededFile("data/hyps/hyp.scratch-low.yaml", "holds the hyperparameters of a run that names none"),
)
