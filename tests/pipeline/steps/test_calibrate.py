"""Which rows calibration and thresholds rest on, said once, and what may be done by a label."""

import pytest

from bifocal.config import parse_config
from bifocal.example import Label
from bifocal.pipeline.steps.calibrate import _act, told_rows


def test_models_of_the_same_rows_are_named_together():
    both, few = {"val": 45, "train": 1180}, {"val": 45}
    told = told_rows({"text_expert": both, "vision_expert": few, "mm_fusion": both})
    assert told == (
        "45 rows of val and 1,180 rows of train, each predicted by a model that had not seen it "
        "(text_expert, mm_fusion); 45 rows of val (vision_expert)"
    )


@pytest.mark.parametrize(
    ("asked", "classes", "act", "told"),
    [
        ({"label": "y"}, (0, 1), "block", None),
        ({"label": "y"}, ("no", "yes"), "block", "blocked where y is 'yes', its second class"),
        ({"label": "y"}, ("a", "b", "c"), "block", None),
        ({"labels": ["x", "y"]}, ("no", "yes"), "none", "`y: {act: block}` blocks where it is 'yes'"),
        ({"labels": ["x", {"y": {"act": "block"}}]}, ("no", "yes"), "block", None),
        ({"labels": ["x", {"y": {"act": "review"}}]}, (0, 1), "review", None),
        ({"labels": ["x", "y"]}, (0, 1), "block", None),
        ({"labels": [{"y": {"act": "none"}}]}, ("no", "yes"), "none", None),
    ],
)
def test_of_two_named_classes_none_blocks_unless_it_is_said(asked, classes, act, told):
    config = parse_config({"run": "r", "source": {"kind": "synthetic"}, **asked}).for_label("y")
    found, finding = _act(config, Label(classes))
    assert found == act and (told is None) == (finding is None)
    assert told is None or told in finding
