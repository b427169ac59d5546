"""What the first step tells of several labels, and when it is done anew."""

import random

import pytest

from bifocal.config import parse_config
from bifocal.contracts import Reporter
from bifocal.errors import DataError
from bifocal.pipeline.train import run

WORDS = ["garden", "river", "lamp", "stone", "cloud", "paper", "winter", "summer", "market", "window"]


@pytest.fixture
def posts(tmp_path):
    """``posts(cells, labels)``: what a run up to its splits says of these ``bad,spam,target`` cells, and its steps."""

    def told(cells, labels=("bad", "spam")):
        rng = random.Random(0)
        lines = [f"{' '.join(rng.sample(WORDS, 6))} {i},{row}" for i, row in enumerate(cells)]
        (tmp_path / "posts.csv").write_text("\n".join(["words,bad,spam,target", *lines]))
        known = {"bad": [0, 1], "spam": [0, 1], "target": ["a", "b"]}
        columns = {name: {"column": name, "classes": classes} for name, classes in known.items()}
        source = {"kind": "table", "root": str(tmp_path / "posts.csv"), "text": "words", "labels": columns}
        config = {"run": "r", "labels": list(labels), "modalities": ["text"], "source": source, "ocr": "never"}
        reporter, notes, steps = Reporter(), [], []
        reporter.note, reporter.step = notes.append, lambda name, skipped: steps.append((name, skipped))
        run(parse_config(config), root=tmp_path / "runs", until="splits", reporter=reporter)
        return notes, dict(steps)

    return told


def cell(i, every):
    return "" if i % 7 == every else str(i // 7 % 2)


def test_rows_that_bear_no_label_are_told_of_for_each_and_for_all(posts):
    cells = [f"{cell(i, 0)},{cell(i, 0) if i % 2 else cell(i, 3)},a" for i in range(420)]
    notes, _ = posts(cells)
    assert "60 rows bear no bad: they teach and show nothing of it" in notes
    assert "60 rows bear no spam: they teach and show nothing of it" in notes
    assert "30 rows bear none of the labels: for scoring, not for training" in notes


def test_a_further_label_of_one_class_is_refused_with_what_there_is_of_it(posts):
    with pytest.raises(DataError) as refused:
        posts([f"{i % 2},{0 if i < 12 else ''},a" for i in range(100)])
    assert str(refused.value) == (
        "all 12 labelled rows are '0' by spam, and two classes at least are needed there: spam is annotated on 12 rows "
        "(unassigned: 12 x '0'): give more of them, or leave it out of `labels`"
    )


def test_another_label_or_requirement_begins_anew_and_the_same_does_not(posts):
    cells = [f"{i % 2},{i // 2 % 2},{'ab'[i // 4 % 2] if i % 2 else ''}" for i in range(200)]
    posts(cells)
    assert posts(cells)[1] == {"manifest": True, "ocr": True, "splits": True}
    assert not posts(cells, ["bad", "spam", "target"])[1]["manifest"]
    assert not posts(cells, ["bad", "spam", {"target": {"requires": "bad"}}])[1]["manifest"]
    assert posts(cells, ["bad", "spam", {"target": {"requires": "bad", "act": "none"}}])[1]["manifest"]


def test_a_label_is_told_of_where_it_contradicts_the_one_it_requires_or_is_missing_by_class(posts):
    cells = [
        f"{i % 2},{'' if i % 2 and i % 5 else i // 2 % 2},{'ab'[i // 4 % 2] if i != 7 else ''}" for i in range(400)
    ]
    notes, _ = posts(cells, ["bad", "spam", {"target": {"requires": "bad"}}])
    assert "1 rows that are positive by bad bear no target: they teach and show nothing of it" in notes
    assert any("200 where bad is 0 (100 x 'a', 100 x 'b'); they are kept" in note for note in notes)
    assert any("spam is annotated on 100% of '0', 20% of '1' by bad, which is not chance" in note for note in notes)
