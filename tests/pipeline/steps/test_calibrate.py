"""The step says once which rows calibration and thresholds rest on."""

from bifocal.pipeline.steps.calibrate import told_rows


def test_models_of_the_same_rows_are_named_together():
    both, few = {"val": 45, "train": 1180}, {"val": 45}
    told = told_rows({"text_expert": both, "vision_expert": few, "mm_fusion": both})
    assert told == (
        "45 rows of val and 1,180 rows of train, each predicted by a model that had not seen it "
        "(text_expert, mm_fusion); 45 rows of val (vision_expert)"
    )
