"""A label asked where another is flagged, end to end; rows on which a label is not annotated."""

import numpy as np
import pytest

from bifocal.assess.predictions import Predictions, calibrated
from bifocal.assess.related_labels import (
    asked_rows,
    measure_annotation_gap,
    measure_contradiction,
    measure_end_to_end,
    named_classes,
    told_annotation_gap,
)
from bifocal.assess.run_data import RunData
from bifocal.evaluate.metrics import macro_f1
from bifocal.example import UNLABELLED
from bifocal.workspace import read_json


@pytest.fixture(scope="module")
def data(labels_run):
    return RunData.of(labels_run)


def test_end_to_end_not_being_asked_is_a_class(data, labels_run):
    kind = data.for_label("kind")
    truth, named = named_classes(kind, "test")
    urgent = data.predictions("test").labels
    flagged = calibrated(data.predictions("test"), data.policy(), "mm_fusion")[1]
    assert (truth[urgent == 0] == 3).all() and (truth[urgent == 1] < 3).all()
    assert (named[flagged == 0] == 3).all() and (named[flagged == 1] < 3).all()
    found = measure_end_to_end(kind)
    assert found["n"] == len(truth) == 120
    assert found["accuracy"]["value"] == pytest.approx(np.mean(truth == named))
    expected = macro_f1(truth, np.eye(4)[named], predictions=named)
    assert found["macro_f1"]["value"] == pytest.approx(expected)
    assert found["macro_f1"]["low"] < expected < found["macro_f1"]["high"]
    given = read_json(labels_run / "results_labels.json")["labels"]["kind"]
    assert given["end_to_end"] == found
    assert given["models"]["mm_fusion"]["test"]["n"] == int((urgent == 1).sum())
    assert (asked_rows(kind, "test") == (urgent == 1)).all()


def test_a_label_that_requires_none_has_no_such_figures(data):
    assert measure_end_to_end(data) is None and measure_contradiction(data.for_label("paid")) is None
    assert measure_contradiction(data.for_label("kind")) is None, "of three classes none is `not flagged`"
    assert asked_rows(data, "test").all()


def gap_of(policy, missing_of_class, rows=800):
    """Rows whose class the model knows, of which shares by class are not annotated."""
    rng = np.random.default_rng(0)
    classes = rng.integers(2, size=rows)
    labels = np.where(rng.random(rows) < np.array(missing_of_class)[classes], UNLABELLED, classes)
    logits = {"mm_fusion": np.stack([-8.0 * (2 * classes - 1), 8.0 * (2 * classes - 1)], axis=1)}
    ids = tuple(map(str, range(rows)))
    has = {"mm_fusion": np.ones(rows, bool)}
    predictions = Predictions(ids, ids, labels, logits, has, ["tabular+text"] * rows)
    return measure_annotation_gap(predictions, policy, np.ones(rows, bool))


def test_a_label_that_is_missing_more_often_in_one_class_is_told_of(data):
    policy = data.for_label("paid").policy()
    gap = gap_of(policy, [0.2, 0.6])
    assert gap["differ"] and gap["shares"]["unannotated"][1] > 0.65 > 0.4 > gap["shares"]["annotated"][1]
    told = told_annotation_gap(gap, "paid", policy)
    assert told.startswith("paid seems to be annotated more often") and "the model finds 1 " in told
    assert not gap_of(policy, [0.5, 0.5])["differ"]
    assert gap_of(policy, [0.0, 0.0]) is None
