"""Evaluation of a checkpoint: ultralytics' own validator for the predictions, pycocotools for COCO's numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slr_det.adapter import EvalJob
from slr_det.data.truth import ground_truth
from slr_det.metrics.coco import evaluate
from slr_det_adapters.ultralytics.models import load_native
from slr_det_adapters.ultralytics.offline import load_ultralytics

# What plain `YOLO(file).val()` takes from the checkpoint or from its defaults; the reported numbers are its numbers.
EVAL_KEYS = frozenset(
    {"batch", "conf", "iou", "max_det", "rect", "split", "agnostic_nms", "workers", "single_cls"}
)


def evaluate_checkpoint(job: EvalJob) -> dict[str, Any]:
    """COCO AP, AP50, AP75 and more, per class, and the trainer's own mAP under ``trainer_map50`` / ``trainer_map``."""
    load_native(job.model)
    ultralytics = load_ultralytics()
    yolo = ultralytics.YOLO(job.model)  # becomes an RTDETR by itself where the file holds one
    return _evaluated(yolo, job, imgsz=job.args.get("imgsz", yolo.overrides.get("imgsz", 640)))


def evaluate_file(path: str, job: EvalJob, size: int) -> dict[str, Any]:
    """The same of an exported file, on a CPU, whose images are squares of ``size`` pixels."""
    yolo = load_ultralytics().YOLO(path, task="detect")
    fixed = {key: value for key, value in job.args.items() if key not in ("rect", "batch")}
    return _evaluated(yolo, replace(job, args=fixed, device="cpu"), imgsz=size, rect=False, batch=1)


def _evaluated(yolo: Any, job: EvalJob, **fixed: Any) -> dict[str, Any]:
    split = str(job.args.get("split", "val"))
    truth = ground_truth(job.data, split)
    collected: list[Any] = []
    validator = _collecting_validator(yolo._smart_load("validator"), truth, collected)
    args = {key: value for key, value in job.args.items() if key in EVAL_KEYS}
    with tempfile.TemporaryDirectory(prefix="slr-det-val-") as scratch:
        metrics = yolo.val(
            validator=validator,
            data=job.data,
            device=job.device or None,
            project=scratch,
            name="val",
            plots=False,
            save_json=False,
            verbose=job.verbose,
            **args,
            **fixed,
        )
    result = evaluate(truth.coco, collected)
    return {
        **result.metrics,
        "trainer_map50": float(metrics.box.map50),
        "trainer_map": float(metrics.box.map),
        "images": len(truth.coco["images"]),
        "per_class": result.per_class,
    }


def _collecting_validator(base: Any, truth: Any, collected: list[Any]) -> Any:
    """A validator of the model's own kind that also hands out every detection in COCO form."""

    class CollectingValidator(base):
        def init_metrics(self, model: Any) -> None:
            super().init_metrics(model)
            # Asks update_metrics for the detections; every file that would come of it is suppressed below.
            self.args.save_json = True
            self.is_coco = self.is_lvis = self.is_custom_json = self.build_gdict = False

        def pred_to_json(self, predn: Mapping[str, Any], pbatch: Mapping[str, Any]) -> None:
            image = truth.image_id(pbatch["im_file"])
            boxes = predn["bboxes"].tolist()
            for (x1, y1, x2, y2), score, label in zip(
                boxes, predn["conf"].tolist(), predn["cls"].tolist(), strict=True
            ):
                collected.append(
                    {
                        "image_id": image,
                        "category_id": truth.category_id(int(label)),
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": score,
                    }
                )

        def get_stats(self) -> dict[str, Any]:
            self.args.save_json = False
            stats: dict[str, Any] = super().get_stats()
            return stats

    return CollectingValidator
