"""OpenPCDet's YAML as our configuration, or a sentence for each thing in it that this network does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slr_det.errors import ConfigError
from slr_det.models.pointpillars.config import PointPillarsConfig

# What has to have one value, where a file says it at all; the text behind it says what else there would be.
_FIXED: dict[str, tuple[Any, ...]] = {
    "MODEL.NAME": ("PointPillar",),
    "MODEL.VFE.NAME": ("PillarVFE",),
    "MODEL.VFE.WITH_DISTANCE": (False,),
    "MODEL.VFE.USE_ABSLOTE_XYZ": (True,),
    "MODEL.VFE.USE_NORM": (True,),
    "MODEL.MAP_TO_BEV.NAME": ("PointPillarScatter",),
    "MODEL.BACKBONE_2D.NAME": ("BaseBEVBackbone",),
    "MODEL.BACKBONE_2D.USE_CONV_FOR_NO_STRIDE": (False,),
    "MODEL.DENSE_HEAD.NAME": ("AnchorHeadSingle",),
    "MODEL.DENSE_HEAD.CLASS_AGNOSTIC": (False,),
    "MODEL.DENSE_HEAD.USE_MULTIHEAD": (False,),
    "MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.NAME": ("AxisAlignedTargetAssigner",),
    "MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.POS_FRACTION": (-1, -1.0),
    "MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.MATCH_HEIGHT": (False,),
    "MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.BOX_CODER": ("ResidualCoder",),
    "MODEL.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.BOX_CODER_CONFIG": ({},),
    "MODEL.DENSE_HEAD.LOSS_CONFIG.REG_LOSS_TYPE": ("WeightedSmoothL1Loss",),
    "MODEL.POST_PROCESSING.OUTPUT_RAW_SCORE": (False,),
    "MODEL.POST_PROCESSING.NMS_CONFIG.MULTI_CLASSES_NMS": (False,),
    "MODEL.POST_PROCESSING.NMS_CONFIG.NMS_TYPE": ("nms_gpu",),
}
_ABSENT = ("BACKBONE_3D", "PFE", "POINT_HEAD", "ROI_HEAD")
_FEATURES = "DATA_CONFIG.POINT_FEATURE_ENCODING.used_feature_list"

# Our names for what may have any value.
_TAKEN = {
    "classes": "CLASS_NAMES",
    "point_range": "DATA_CONFIG.POINT_CLOUD_RANGE",
    "pillar_filters": "MODEL.VFE.NUM_FILTERS",
    "layers": "MODEL.BACKBONE_2D.LAYER_NUMS",
    "strides": "MODEL.BACKBONE_2D.LAYER_STRIDES",
    "filters": "MODEL.BACKBONE_2D.NUM_FILTERS",
    "up_strides": "MODEL.BACKBONE_2D.UPSAMPLE_STRIDES",
    "up_filters": "MODEL.BACKBONE_2D.NUM_UPSAMPLE_FILTERS",
    "direction_bins": "MODEL.DENSE_HEAD.NUM_DIR_BINS",
    "direction_offset": "MODEL.DENSE_HEAD.DIR_OFFSET",
    "direction_limit": "MODEL.DENSE_HEAD.DIR_LIMIT_OFFSET",
    "class_weight": "MODEL.DENSE_HEAD.LOSS_CONFIG.LOSS_WEIGHTS.cls_weight",
    "box_weight": "MODEL.DENSE_HEAD.LOSS_CONFIG.LOSS_WEIGHTS.loc_weight",
    "direction_weight": "MODEL.DENSE_HEAD.LOSS_CONFIG.LOSS_WEIGHTS.dir_weight",
    "code_weights": "MODEL.DENSE_HEAD.LOSS_CONFIG.LOSS_WEIGHTS.code_weights",
    "score_threshold": "MODEL.POST_PROCESSING.SCORE_THRESH",
    "nms_threshold": "MODEL.POST_PROCESSING.NMS_CONFIG.NMS_THRESH",
    "nms_pre": "MODEL.POST_PROCESSING.NMS_CONFIG.NMS_PRE_MAXSIZE",
    "nms_post": "MODEL.POST_PROCESSING.NMS_CONFIG.NMS_POST_MAXSIZE",
}
_VOXELS = "transform_points_to_voxels"


def from_openpcdet(document: Mapping[str, Any], source: str = "OpenPCDet's config") -> PointPillarsConfig:
    """Read a model of OpenPCDet.

    Args:
        document: What its YAML holds, e.g. ``tools/cfgs/kitti_models/pointpillar.yaml``. ``_BASE_CONFIG_`` is not
            followed: classes, range and voxels have to be in the document itself, or merged into it.
        source: The file, for the messages.

    Raises:
        ConfigError: One sentence for every key that is missing, malformed, or asks for something this network lacks.
    """
    problems = [
        f"{source}: {key} is {found!r}, expected {allowed[0]!r} (the embedded PointPillars has no "
        "other); use the openpcdet backend for this model"
        for key, allowed in _FIXED.items()
        if (found := _at(document, key)) is not None and found not in allowed
    ]
    problems += [
        f"{source}: MODEL.{key} is given, expected none in a PointPillars; use the openpcdet backend for this model"
        for key in _ABSENT
        if _at(document, f"MODEL.{key}") is not None
    ]
    values: dict[str, Any] = {}
    for name, key in _TAKEN.items():
        values[name] = _at(document, key)
        if values[name] is None:
            problems.append(f"{source}: {key} is missing; {_hint(document)}")
    if _at(document, "MODEL.DENSE_HEAD.USE_DIRECTION_CLASSIFIER") is None:
        problems.append(f"{source}: MODEL.DENSE_HEAD.USE_DIRECTION_CLASSIFIER is missing, expected true")
    features = _at(document, _FEATURES)
    values["point_features"] = len(features) if isinstance(features, list) else 4
    values |= _voxels(document, source, problems)
    values["anchors"] = _anchors(document, source, problems)
    if problems:
        raise ConfigError(problems)
    config = PointPillarsConfig.from_dict(values, source)
    stated = {
        int(entry.get("feature_map_stride", config.head_stride))
        for entry in document["MODEL"]["DENSE_HEAD"]["ANCHOR_GENERATOR_CONFIG"]
    }
    width = _at(document, "MODEL.MAP_TO_BEV.NUM_BEV_FEATURES")
    if stated != {config.head_stride}:
        problems.append(
            f"{source}: feature_map_stride of the anchors is {', '.join(map(str, sorted(stated)))}, expected "
            f"{config.head_stride}, which the strides of BACKBONE_2D give"
        )
    if width not in (None, config.pillar_filters[-1]):
        problems.append(
            f"{source}: MODEL.MAP_TO_BEV.NUM_BEV_FEATURES is {width!r}, expected {config.pillar_filters[-1]}, the last "
            "of MODEL.VFE.NUM_FILTERS"
        )
    if problems:
        raise ConfigError(problems)
    return config


def _voxels(document: Mapping[str, Any], source: str, problems: list[str]) -> dict[str, Any]:
    steps = _at(document, "DATA_CONFIG.DATA_PROCESSOR")
    entries = [
        step
        for step in (steps if isinstance(steps, list) else [])
        if isinstance(step, Mapping) and step.get("NAME") == _VOXELS
    ]
    most = _at(entries[0], "MAX_NUMBER_OF_VOXELS") if entries else None
    if not entries or not isinstance(most, Mapping):
        problems.append(
            f"{source}: DATA_CONFIG.DATA_PROCESSOR has no complete entry {_VOXELS}; {_hint(document)}"
        )
        return {}
    return {
        "voxel_size": entries[0].get("VOXEL_SIZE"),
        "max_points": entries[0].get("MAX_POINTS_PER_VOXEL"),
        "max_voxels": [most.get("train"), most.get("test")],
    }


def _anchors(document: Mapping[str, Any], source: str, problems: list[str]) -> list[dict[str, Any]]:
    key = "MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG"
    found = _at(document, key)
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        problems.append(f"{source}: {key} is {found!r}, expected a list of anchors with keys and values")
        return []
    anchors = []
    for entry in found:
        bottoms = entry.get("anchor_bottom_heights")
        if not isinstance(bottoms, list) or len(bottoms) != 1:
            problems.append(
                f"{source}: anchor_bottom_heights of '{entry.get('class_name')}' is {bottoms!r}, expected a list of "
                "one height"
            )
            continue
        anchors.append(
            {
                "name": entry.get("class_name"),
                "sizes": entry.get("anchor_sizes"),
                "bottom": bottoms[0],
                "rotations": entry.get("anchor_rotations"),
                "matched": entry.get("matched_threshold"),
                "unmatched": entry.get("unmatched_threshold"),
                "centred": entry.get("align_center", False),
            }
        )
    return anchors


def _at(document: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(document, Mapping):
            return None
        document = document.get(part)
    return document


def _hint(document: Mapping[str, Any]) -> str:
    base = _at(document, "DATA_CONFIG._BASE_CONFIG_")
    return f"write it in the file itself ({base} is not read)" if base else "OpenPCDet needs it too"
