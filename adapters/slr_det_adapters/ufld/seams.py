"""What is relied on in Ultra-Fast-Lane-Detection; every run starts by looking whether it is all there."""

from __future__ import annotations

from slr_det.upstream.project import NeededFile, Seam

SEAMS = (
    Seam(
        "train",
        "train",
        "trains an epoch, and takes its loader and its progress bar from its module",
        "net, data_loader, loss_dict, optimizer, scheduler, logger, epoch, metric_dict, use_aux",
        reads=("train_loader", "dist_tqdm", "inference", "calc_loss"),
    ),
    Seam("train", "dist_tqdm", "is replaced by the progress bar of the run", "t"),
    Seam("train", "inference", "gives the outputs that losses are measured on", "net, data_label, use_aux"),
    Seam(
        "train",
        "calc_loss",
        "sums the losses, among them the penalty",
        "loss_dict, results, logger, global_step",
    ),
    Seam("model.model", "parsingNet", "is the network", "*, pretrained, backbone, cls_dim, use_aux"),
    Seam("utils.factory", "get_optimizer", "makes the optimizer", "net, cfg"),
    Seam(
        "utils.factory",
        "get_scheduler",
        "makes the learning-rate schedule",
        "optimizer, cfg, iters_per_epoch",
    ),
    Seam("utils.factory", "get_loss_dict", "gives the losses that the penalty is put beside", "cfg"),
    Seam("utils.factory", "get_metric_dict", "gives the metrics that an epoch shows", "cfg"),
    Seam("utils.config", "Config", "holds a configuration", "cfg_dict"),
    Seam("utils.config", "Config.fromfile", "reads a configuration", "filename"),
    Seam("utils.dist_utils", "DistSummaryWriter", "writes scalars of the training"),
    Seam(
        "data.dataloader",
        "get_train_loader",
        "makes the training data and their augmentation",
        "batch_size, data_root, griding_num, dataset, use_aux, distributed, num_lanes",
    ),
    Seam("data.dataset", "loader_func", "is replaced by a reader that names damaged images", "path"),
    Seam(
        "data.dataset",
        "LaneClsDataset.__getitem__",
        "reads a training image",
        "index",
        reads=("loader_func",),
    ),
    Seam(
        "data.dataset", "LaneTestDataset.__getitem__", "reads a test image", "index", reads=("loader_func",)
    ),
    Seam(
        "evaluation.eval_wrapper",
        "eval_lane",
        "evaluates, and prints the scores",
        "net, dataset, data_root, work_dir, griding_num, use_aux, distributed",
        reads=("dist_print",),
    ),
    Seam(
        "evaluation.eval_wrapper",
        "run_test_tusimple",
        "predicts the lanes of the test images",
        reads=("get_test_loader", "dist_tqdm"),
    ),
    Seam(
        "evaluation.eval_wrapper",
        "get_test_loader",
        "gives the test images",
        "batch_size, data_root, dataset, distributed",
    ),
    Seam("evaluation.eval_wrapper", "dist_tqdm", "is replaced by the progress bar of the run", "t"),
    Seam("evaluation.eval_wrapper", "dist_print", "is listened to for the scores"),
)
FILES = (NeededFile("configs/tusimple.py", "is the configuration of a run that names none"),)
