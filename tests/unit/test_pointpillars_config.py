"""The description of a PointPillars: reading it, refusing what does not fit, OpenPCDet's YAML."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from pointpillars_frames import TINY, tiny

from slr_det.errors import ConfigError
from slr_det.models.pointpillars import PRESETS, PointPillars, PointPillarsConfig, from_openpcdet

# Written after the keys of OpenPCDet's kitti_models/pointpillar.yaml, which a test under tests/integration reads.
UPSTREAM = """
CLASS_NAMES: [Car, Pedestrian]
DATA_CONFIG:
  _BASE_CONFIG_: cfgs/dataset_configs/kitti_dataset.yaml
  POINT_CLOUD_RANGE: [0, -6.4, -3, 12.8, 6.4, 1]
  DATA_PROCESSOR:
    - {NAME: shuffle_points}
    - NAME: transform_points_to_voxels
      VOXEL_SIZE: [0.4, 0.4, 4]
      MAX_POINTS_PER_VOXEL: 4
      MAX_NUMBER_OF_VOXELS: {train: 300, test: 500}
MODEL:
  NAME: PointPillar
  VFE: {NAME: PillarVFE, WITH_DISTANCE: False, USE_ABSLOTE_XYZ: True, USE_NORM: True, NUM_FILTERS: [8]}
  MAP_TO_BEV: {NAME: PointPillarScatter, NUM_BEV_FEATURES: 8}
  BACKBONE_2D:
    NAME: BaseBEVBackbone
    LAYER_NUMS: [1, 1]
    LAYER_STRIDES: [2, 2]
    NUM_FILTERS: [8, 12]
    UPSAMPLE_STRIDES: [1, 2]
    NUM_UPSAMPLE_FILTERS: [8, 8]
  DENSE_HEAD:
    NAME: AnchorHeadSingle
    CLASS_AGNOSTIC: False
    USE_DIRECTION_CLASSIFIER: True
    DIR_OFFSET: 0.78539
    DIR_LIMIT_OFFSET: 0.0
    NUM_DIR_BINS: 2
    ANCHOR_GENERATOR_CONFIG:
      - {class_name: Car, anchor_sizes: [[3.9, 1.6, 1.56], [5, 2, 2]], anchor_rotations: [0, 1.57],
         anchor_bottom_heights: [-1.78], align_center: False, feature_map_stride: 2,
         matched_threshold: 0.6, unmatched_threshold: 0.45}
      - {class_name: Pedestrian, anchor_sizes: [[0.8, 0.6, 1.73]], anchor_rotations: [0, 0.8, 1.57],
         anchor_bottom_heights: [-0.6], align_center: False, feature_map_stride: 2,
         matched_threshold: 0.5, unmatched_threshold: 0.35}
    TARGET_ASSIGNER_CONFIG:
      {NAME: AxisAlignedTargetAssigner, POS_FRACTION: -1.0, SAMPLE_SIZE: 512, NORM_BY_NUM_EXAMPLES: False,
       MATCH_HEIGHT: False, BOX_CODER: ResidualCoder}
    LOSS_CONFIG:
      LOSS_WEIGHTS: {cls_weight: 1.0, loc_weight: 2.0, dir_weight: 0.2, code_weights: [1, 1, 1, 1, 1, 1, 1]}
  POST_PROCESSING:
    SCORE_THRESH: 0.1
    OUTPUT_RAW_SCORE: False
    NMS_CONFIG: {MULTI_CLASSES_NMS: False, NMS_TYPE: nms_gpu, NMS_THRESH: 0.01, NMS_PRE_MAXSIZE: 4096,
                 NMS_POST_MAXSIZE: 500}
"""


def upstream(**changes: Any) -> dict[str, Any]:
    """The document with values replaced by their dotted keys; None takes a key out."""
    document: dict[str, Any] = yaml.safe_load(UPSTREAM)
    for key, value in changes.items():
        *parents, last = key.split("__")
        place: Any = document
        for part in parents:
            place = place[int(part) if part.isdigit() else part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return document


def test_the_network_for_kitti_has_the_known_number_of_parameters() -> None:
    model = PointPillars(PRESETS["pointpillars"])
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_834_888
    assert PRESETS["pointpillars"].grid == (432, 496)
    assert PRESETS["pointpillars"].head_grid == (216, 248)


@pytest.mark.parametrize("name", PRESETS)
def test_a_description_survives_json(name: str) -> None:
    config = PRESETS[name]
    assert PointPillarsConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_everything_wrong_in_a_description_is_said_at_once() -> None:
    data = TINY.to_dict()
    data["layer"] = data.pop("layers")
    data |= {"max_points": 2.5, "point_range": [0, 1], "classes": "Car", "voxel_size": [0.4, float("nan"), 4]}
    data["anchors"][0]["size"] = data["anchors"][0].pop("sizes")
    del data["anchors"][1]["bottom"]
    with pytest.raises(ConfigError) as error:
        PointPillarsConfig.from_dict(data, "net.yaml")
    text = str(error.value)
    for part in (
        "net.yaml: unknown key 'layer' (did you mean 'layers'?)",
        "net.yaml: max_points is 2.5, expected a whole number",
        "net.yaml: point_range is [0, 1], expected a list of 6 numbers",
        "net.yaml: classes is 'Car', expected a list of names",
        "net.yaml: voxel_size is [0.4, nan, 4], expected a list of 3 numbers",
        "net.yaml: anchors: unknown key 'size' (did you mean 'sizes'?)",
        "net.yaml: anchors: sizes is missing",
        "net.yaml: anchors: bottom is missing",
    ):
        assert part in text
    with pytest.raises(ConfigError, match="expected keys and values"):
        PointPillarsConfig.from_dict([1], "net.yaml")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="anchors is 3, expected a list"):
        PointPillarsConfig.from_dict(TINY.to_dict() | {"anchors": 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voxel_size": (0.3, 0.4, 4.0)}, "along x is 42.67 voxels of 0.3 m, expected a whole number"),
        ({"voxel_size": (0.4, 0.4, 2.0)}, "voxel_size: 2 m along z, expected the height of the range, 4 m"),
        ({"voxel_size": (0.0, 0.4, 4.0)}, "a size above 0"),
        ({"point_range": (12.8, -6.4, -3.0, 0.0, 6.4, 1.0)}, "an end behind the start"),
        (
            {"point_range": (0.0, -6.4, -3.0, 13.2, 6.4, 1.0)},
            "grid of 33 pillars along x, expected a multiple of 4",
        ),
        ({"strides": (2,)}, "strides: 1 numbers for 2 blocks"),
        ({"up_strides": (1, 1)}, "come out at strides 2, 4, expected one whole number"),
        ({"filters": (8, 0)}, "filters: 0, expected at least 1"),
        ({"nms_pre": 0}, "nms_pre: 0, expected at least 1"),
        ({"pillar_filters": ()}, "layers and pillar_filters: expected at least one number in each"),
        ({"pillar_filters": (7, 8)}, "expected even widths"),
        ({"code_weights": (1.0,)}, "code_weights: 1 numbers, expected 7"),
        ({"classes": ()}, "classes: none"),
        ({"classes": ("Car", "Car")}, "expected each name once"),
        ({"classes": ("Car", "Person", "Pedestrian")}, "class 'Person' has no anchors"),
        ({"classes": ("Car", "Pedestrians")}, "'Pedestrian' (did you mean 'Pedestrians'?)"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        tiny(**changes)
    assert message in str(error.value)
    assert str(error.value).startswith("pointpillars: ")


def test_a_file_whose_numbers_do_not_fit_together_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^net\.yaml: grid of 33 pillars along x"):
        PointPillarsConfig.from_dict(
            TINY.to_dict() | {"point_range": [0, -6.4, -3, 13.2, 6.4, 1]}, "net.yaml"
        )


def test_openpcdets_keys_become_ours() -> None:
    assert from_openpcdet(upstream()) == TINY
    changed = upstream(
        MODEL__DENSE_HEAD__DIR_OFFSET=0.5,
        MODEL__DENSE_HEAD__NUM_DIR_BINS=4,
        MODEL__POST_PROCESSING__SCORE_THRESH=0.3,
        MODEL__DENSE_HEAD__ANCHOR_GENERATOR_CONFIG__1__align_center=True,
        MODEL__DENSE_HEAD__LOSS_CONFIG__LOSS_WEIGHTS__dir_weight=0.4,
    )
    config = from_openpcdet(changed)
    assert (config.direction_offset, config.direction_bins, config.score_threshold) == (0.5, 4, 0.3)
    assert [anchor.centred for anchor in config.anchors] == [False, True]
    assert config.direction_weight == 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL__VFE__NAME": "DynPillarVFE"}, "MODEL.VFE.NAME is 'DynPillarVFE', expected 'PillarVFE'"),
        ({"MODEL__VFE__WITH_DISTANCE": True}, "MODEL.VFE.WITH_DISTANCE is True, expected False"),
        ({"MODEL__DENSE_HEAD__NAME": "AnchorHeadMulti"}, "expected 'AnchorHeadSingle'"),
        ({"MODEL__DENSE_HEAD__USE_MULTIHEAD": True}, "USE_MULTIHEAD is True, expected False"),
        ({"MODEL__ROI_HEAD": {"NAME": "x"}}, "MODEL.ROI_HEAD is given, expected none"),
        ({"MODEL__DENSE_HEAD__TARGET_ASSIGNER_CONFIG__NAME": "ATSS"}, "is 'ATSS', expected"),
        ({"MODEL__POST_PROCESSING__NMS_CONFIG__MULTI_CLASSES_NMS": True}, "MULTI_CLASSES_NMS is True"),
        (
            {"DATA_CONFIG__POINT_CLOUD_RANGE": None},
            "POINT_CLOUD_RANGE is missing; write it in the file itself",
        ),
        ({"DATA_CONFIG__DATA_PROCESSOR": []}, "has no complete entry transform_points_to_voxels"),
        ({"MODEL__DENSE_HEAD__USE_DIRECTION_CLASSIFIER": None}, "USE_DIRECTION_CLASSIFIER is missing"),
        ({"MODEL__MAP_TO_BEV__NUM_BEV_FEATURES": 16}, "NUM_BEV_FEATURES is 16, expected 8"),
        (
            {"MODEL__BACKBONE_2D__UPSAMPLE_STRIDES": [2, 4]},
            "feature_map_stride of the anchors is 2, expected 1",
        ),
        (
            {"MODEL__BACKBONE_2D__UPSAMPLE_STRIDES": [0.5, 1]},
            "up_strides is [0.5, 1], expected a list of whole",
        ),
    ],
)
def test_what_the_network_lacks_is_refused_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_openpcdet(upstream(**changes), "x.yaml")
    assert [
        problem for problem in error.value.problems if message in problem and problem.startswith("x.yaml: ")
    ]
    assert "\n" not in str(error.value)


def test_every_refusal_is_said_at_once_and_the_document_stays_as_it_was() -> None:
    document = upstream(MODEL__VFE__NAME="A", MODEL__DENSE_HEAD__NAME="B", MODEL__PFE={})
    document["MODEL"]["DENSE_HEAD"]["ANCHOR_GENERATOR_CONFIG"][0]["anchor_bottom_heights"] = [-1.8, -0.6]
    before = copy.deepcopy(document)
    with pytest.raises(ConfigError) as error:
        from_openpcdet(document)
    assert len(error.value.problems) == 4
    assert document == before
    with pytest.raises(ConfigError, match="CLASS_NAMES is missing"):
        from_openpcdet({})
