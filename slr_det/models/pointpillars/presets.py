"""The networks that come with the package, by name."""

from __future__ import annotations

from slr_det.models.pointpillars.config import AnchorClass, PointPillarsConfig

_CLASSES = ("Car", "Pedestrian", "Cyclist")
# Mean sizes and heights of KITTI's objects, as in OpenPCDet.
_ANCHORS = (
    AnchorClass("Car", ((3.9, 1.6, 1.56),), -1.78),
    AnchorClass("Pedestrian", ((0.8, 0.6, 1.73),), -0.6, matched=0.5, unmatched=0.35),
    AnchorClass("Cyclist", ((1.76, 0.6, 1.73),), -0.6, matched=0.5, unmatched=0.35),
)

PRESETS = {
    # OpenPCDet's kitti_models/pointpillar.yaml.
    "pointpillars": PointPillarsConfig(
        _CLASSES, _ANCHORS, (0.0, -39.68, -3.0, 69.12, 39.68, 1.0), (0.16, 0.16, 4.0)
    ),
    # Half the range at a quarter of the width and fewer layers, for a laptop without a GPU.
    "pointpillars_small": PointPillarsConfig(
        _CLASSES,
        _ANCHORS,
        (0.0, -19.2, -3.0, 38.4, 19.2, 1.0),
        (0.2, 0.2, 4.0),
        max_points=16,
        max_voxels=(6000, 6000),
        pillar_filters=(32,),
        layers=(1, 2, 2),
        filters=(32, 32, 64),
        up_filters=(32, 32, 32),
    ),
}
