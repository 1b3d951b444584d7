"""What is relied on in OpenPCDet; every run starts by looking whether it is all there."""

from __future__ import annotations

from slr_det.upstream.project import NeededFile, Seam

_DATASET = "pcdet.datasets.kitti.kitti_dataset"
_SAMPLER = "pcdet.datasets.augmentor.database_sampler"
#: Where its modules are imported from.
ROOTS = ("", "tools")
SEAMS = (
    Seam("pcdet.config", "EasyDict", "is the form of a configuration"),
    Seam("pcdet.config", "merge_new_config", "merges base configurations", "config, new_config"),
    Seam("pcdet.models", "build_network", "builds the model", "*, model_cfg, num_class, dataset"),
    Seam(
        "pcdet.models", "model_fn_decorator", "makes what gives the loss, which the penalty is added to", ""
    ),
    Seam("pcdet.models", "load_data_to_gpu", "puts a batch on the device", "batch_dict"),
    Seam(
        "pcdet.datasets",
        "DatasetTemplate",
        "describes a data set to a model without any data",
        "dataset_cfg, class_names, *, training, root_path",
    ),
    Seam(
        "pcdet.datasets",
        "build_dataloader",
        "makes loader and data set",
        "*, dataset_cfg, class_names, batch_size, dist, root_path, workers, seed?, logger?, training",
    ),
    Seam(
        "pcdet.datasets",
        "DatasetTemplate.prepare_data",
        "is watched for frames without points",
        "*, data_dict",
    ),
    Seam("pcdet.datasets", "DatasetTemplate.collate_batch", "puts held frames together", "batch_list"),
    Seam("pcdet.datasets", "DatasetTemplate.training", "says whether frames are augmented"),
    Seam(
        _DATASET, "KittiDataset", "reads KITTI's frames", "dataset_cfg, class_names, *, training, root_path"
    ),
    Seam(_DATASET, "KittiDataset.set_split", "chooses the frames whose info files are made", "split"),
    Seam(_DATASET, "KittiDataset.sample_id_list", "are the names of a split's frames"),
    Seam(
        _DATASET,
        "KittiDataset.get_infos",
        "makes the info files",
        "*, num_workers, has_label, count_inside_pts, sample_id_list",
    ),
    Seam(_DATASET, "KittiDataset.get_image_shape", "is replaced by one that needs no pictures", "idx"),
    Seam(
        _DATASET,
        "KittiDataset.create_groundtruth_database",
        "makes the database of objects",
        "info_path, *, split",
    ),
    Seam(
        _DATASET,
        "KittiDataset.evaluation",
        "is replaced by one that keeps the scores",
        "det_annos, class_names",
    ),
    Seam(_DATASET, "KittiDataset.kitti_infos", "are the labels that predictions are scored against"),
    Seam(_SAMPLER, "DataBaseSampler", "samples objects of other frames"),
    Seam(_SAMPLER, "DataBaseSampler.sample_groups", "is started afresh with every epoch"),
    Seam(_SAMPLER, "DataBaseSampler.db_infos", "are the objects that are sampled"),
    Seam(
        "pcdet.datasets.augmentor.data_augmentor",
        "DataAugmentor.data_augmentor_queue",
        "holds the sampler of objects",
    ),
    Seam("train_utils.optimization", "build_optimizer", "makes the optimizer", "model, optim_cfg"),
    Seam(
        "train_utils.optimization",
        "build_scheduler",
        "makes the learning-rate cycle",
        "*, optimizer, total_iters_each_epoch, total_epochs, last_epoch, optim_cfg",
    ),
    Seam(
        "train_utils.optimization.fastai_optim", "OptimWrapper.opt", "is the optimizer of torch inside theirs"
    ),
    Seam(
        "train_utils.train_utils",
        "train_model",
        "trains, and saves and shows progress by names of its module",
        "*, model, optimizer, train_loader, model_func, lr_scheduler, optim_cfg, start_epoch, total_epochs, "
        "start_iter, rank, tb_log, ckpt_save_dir, train_sampler, lr_warmup_scheduler, ckpt_save_interval, "
        "max_ckpt_save_num, logger?, logger_iter_interval?, ckpt_save_time_interval?, use_logger_to_record?, "
        "show_gpu_stat?, use_amp?, cfg?",
        reads=("save_checkpoint", "tqdm"),
    ),
    Seam(
        "train_utils.train_utils",
        "save_checkpoint",
        "is replaced by one that ends an iteration and writes everything as one file",
        "state, *, filename",
    ),
    Seam("train_utils.train_utils", "tqdm", "is replaced by the progress bar of the run"),
    Seam(
        "train_utils.train_utils",
        "checkpoint_state",
        "is what a checkpoint is made of",
        "model, optimizer, epoch, it",
    ),
    Seam(
        "eval_utils.eval_utils",
        "eval_one_epoch",
        "finds the boxes of the validation frames",
        "*, cfg, args, model, dataloader, epoch_id, logger, dist_test?, result_dir",
        reads=("tqdm",),
    ),
    Seam(
        "pcdet.datasets.kitti.kitti_object_eval_python.eval",
        "do_eval",
        "scores at other overlaps than KITTI's",
        "gt_annos, dt_annos, current_classes, min_overlaps, *, compute_aos",
    ),
)
FILES = (
    NeededFile("tools/cfgs/kitti_models/pointpillar.yaml", "is the configuration of PointPillars"),
    NeededFile("tools/cfgs/dataset_configs/kitti_dataset.yaml", "is the configuration of KITTI"),
)
