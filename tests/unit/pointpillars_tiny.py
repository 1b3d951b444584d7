"""A PointPillars of a few thousand weights, for tests that need any."""

from __future__ import annotations

from slr_det.models.pointpillars import AnchorClass, PointPillarsConfig

TINY = PointPillarsConfig(
    ("Car", "Cyclist"),
    (AnchorClass("Car", ((3.9, 1.6, 1.56),), -1.78), AnchorClass("Cyclist", ((1.76, 0.6, 1.73),), -0.6)),
    (0.0, -5.12, -3.0, 10.24, 5.12, 1.0),
    (0.32, 0.32, 4.0),
    max_points=8,
    max_voxels=(500, 500),
    pillar_filters=(8,),
    layers=(1, 1),
    strides=(2, 2),
    filters=(8, 8),
    up_strides=(1, 2),
    up_filters=(8, 8),
)
