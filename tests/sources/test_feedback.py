import json

import pytest

from bifocal import plugins
from bifocal.errors import ConfigError, DataError
from bifocal.example import Example, Rejected
from bifocal.sources.feedback import Feedback

LABEL = {"abuse_hate": {"classes": [0, 1], "probability": "prob_hate", "description": "", "above": None}}
GOOD = {"id": "a", "text": "a lamp", "labels": {"abuse_hate": 1}, "weight": 20.0, "sample": "audit", "by": "ann"}


def folder(root, *rows, **options):
    (root / "label_taxonomy.json").write_text(json.dumps(LABEL))
    (root / "feedback.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return plugins.options("source", "feedback", {"root": root} | options, Feedback)


def test_a_row_keeps_who_judged_it_and_what_it_stands_for(tmp_path):
    (row,) = folder(tmp_path, GOOD | {"tabular": {"age": 3}, "image": "pictures/a.png"})
    meta = {"weight": 20.0, "sample": "audit", "by": "ann", "text_role": "caption"}
    assert row == Example(
        "a", {"text": "a lamp", "image": "pictures/a.png", "tabular": {"age": 3}}, {"abuse_hate": 1}, meta=meta
    )


def test_words_off_a_picture_stay_a_transcript(tmp_path):
    source = folder(tmp_path, GOOD | {"text_role": "transcript"}, GOOD | {"id": "b"})
    assert [source.role_of(row) for row in source] == ["transcript", "caption"]


def test_all_rows_in_one_split_and_those_of_the_sample_alone(tmp_path):
    rows = GOOD, GOOD | {"id": "b", "sample": None}, GOOD | {"id": "c", "sample": "review"}
    assert {row.split for row in folder(tmp_path, *rows)} == {None}
    assert [(row.id, row.split) for row in folder(tmp_path, *rows, sampled=True, split="test")] == [
        ("a", "test"),
        ("c", "test"),
    ]
    with pytest.raises(ConfigError, match="split"):
        folder(tmp_path, *rows, split="dev")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": 3}, "no id"),
        ({"labels": {"abuse_hate": 2}}, "label value 2 is not in the taxonomy"),
        ({"labels": {"rude": 1}}, "label 'rude' is not in the taxonomy"),
        ({"labels": None}, "no labels"),
        ({"text": ""}, "no part"),
        ({"text": 5}, "text is no text"),
        ({"tabular": [1]}, "tabular is no object"),
        ({"weight": 0}, "weight is 0; expected a number above 0"),
        ({"weight": True}, "weight is True"),
        ({"weight": None}, "weight is None"),
        ({"sample": "luck"}, "sample is 'luck'; expected review, audit or null"),
        ({"text_role": "song"}, "text_role is 'song'"),
    ],
)
def test_a_row_that_was_tampered_with_is_rejected_and_the_rest_read(tmp_path, change, reason):
    first, second = folder(tmp_path, GOOD | change, GOOD | {"id": "b"})
    assert isinstance(first, Rejected) and reason in first.reason
    assert second.id == "b"


def test_a_folder_that_is_no_export_is_told(tmp_path):
    with pytest.raises(DataError, match=r"is empty; expected feedback.jsonl and label_taxonomy.json"):
        list(plugins.options("source", "feedback", {"root": tmp_path}, Feedback))
    source = folder(tmp_path, GOOD)
    (tmp_path / "label_taxonomy.json").write_text("[1]")
    with pytest.raises(DataError, match="holds no labels"):
        list(source)
    (tmp_path / "label_taxonomy.json").unlink()
    with pytest.raises(DataError, match="is missing or not a file; expected"):
        list(plugins.options("source", "feedback", {"root": tmp_path}, Feedback))
