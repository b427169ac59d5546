"""Data that can train or tune nothing is told of before OCR, packing and training."""

import random
from collections import Counter

import pytest

from bifocal.config import SplitsConfig, parse_config
from bifocal.contracts import Reporter
from bifocal.data.class_checks import SplitRow, check_classes, check_splits, rows_aside
from bifocal.errors import DataError
from bifocal.pipeline.train import run


def write(path, labels, splits=None):
    rng = random.Random(0)
    words = ["garden", "river", "lamp", "stone", "cloud", "paper", "winter", "summer", "market", "window"]
    lines = ["words,bad,split"]
    for i, label in enumerate(labels):
        lines.append(f"{' '.join(rng.sample(words, 6))} {i},{label},{splits[i] if splits else ''}")
    path.write_text("\n".join(lines) + "\n")


def told(tmp_path, labels, official=None, **changes):
    """What a run says up to its splits, or why it stops, and after which step."""
    write(tmp_path / "posts.csv", labels, official)
    source = {"kind": "table", "root": str(tmp_path / "posts.csv"), "text": "words", "labels": {"bad": "bad"}}
    source |= {"split": "split"} if official else {}
    reporter, steps = Reporter(), []
    notes: list[str] = []
    reporter.note, reporter.step = notes.append, lambda name, skipped: steps.append(name)
    config = {"run": "r", "label": "bad", "modalities": ["text"], "source": source, "ocr": "never", **changes}
    try:
        run(parse_config(config), root=tmp_path / "runs", until="splits", reporter=reporter)
    except DataError as error:
        notes.append(str(error))
    return " | ".join(notes), steps[-1]


def test_four_positives_in_a_thousand_are_told_by_the_manifest(tmp_path):
    notes, _ = told(tmp_path, [int(i % 250 == 0) for i in range(1000)])
    assert "4 of 1,000 rows are '1' by bad, of which some 0.4 to val and 0.8 to test can be drawn: give more" in notes


def test_one_class_in_an_official_val_stops_the_manifest(tmp_path):
    splits = ["val" if i % 5 == 0 else "train" for i in range(100)]
    notes, last = told(tmp_path, [0 if splits[i] == "val" else i % 2 for i in range(100)], splits)
    assert "all 20 rows that are or may become val are '0' by bad, and two classes at least are needed" in notes
    assert last == "manifest"


def test_a_test_of_one_class_is_told(tmp_path):
    splits = [("train", "val", "test")[i % 3] for i in range(90)]
    notes, last = told(tmp_path, [0 if splits[i] == "test" else i // 3 % 2 for i in range(90)], splits)
    assert "test has 0 rows that are '1' by bad: figures of it say little" in notes and last == "splits"


def test_a_class_without_training_rows_is_told(tmp_path):
    splits = [("train", "val", "test")[i % 3] for i in range(90)]
    labels = ["a" if i % 2 else "c" if splits[i] == "val" else "b" for i in range(90)]
    notes, _ = told(tmp_path, labels, splits)
    assert "no train row is 'c' by bad, 15 others are: no model can learn it" in notes


def test_no_test_split_is_told(tmp_path):
    notes, _ = told(tmp_path, [i % 2 for i in range(60)])
    assert "no test split" not in notes
    notes, _ = told(tmp_path, [i % 2 for i in range(60)], splits={"val": 0.3, "test": 0})
    assert "no test split: figures will be of rows on which thresholds were chosen" in notes


def test_one_class_in_all_or_in_train_is_refused():
    shares = SplitsConfig(val=0.1, test=0.1)
    with pytest.raises(DataError, match="all 5 labelled rows are '0' by bad"):
        check_classes({"unassigned": Counter({"0": 5})}, "bad", shares)
    with pytest.raises(DataError, match="all 5 rows that are or may become train are '0'"):
        check_classes({"train": Counter({"0": 5}), "val": Counter({"0": 2, "1": 2})}, "bad", shares)
    assert check_classes({}, "bad", shares) == []
    assert check_classes({"train": Counter({"0": 50, "1": 50})}, "bad", shares) == []


def test_each_part_needs_two_classes_where_it_is_learned_from_or_tuned_on():
    rows = [SplitRow("train", "01"[i % 2], ["text", "image"]) for i in range(20)]
    rows += [SplitRow("val", "01"[i % 2], ["text"] if i % 2 else ["text", "image"]) for i in range(20)]
    with pytest.raises(DataError, match="all 10 val rows with image are '0' by bad"):
        check_splits(rows, [], "bad")


def test_what_is_kept_aside_for_the_fusion_needs_two_classes_as_well():
    rows = [SplitRow("train", "1" if i == 0 else "0", ["text"]) for i in range(20)]
    rows += [SplitRow("val", "01"[i % 2], ["text"]) for i in range(4)]
    groups = [str(i) for i in range(24)]
    assert rows_aside(rows, groups, 0.0, 0) == rows_aside(rows[:20], groups[:20], 0.3, 0) == []
    assert any("val has 2 rows" in told for told in check_splits(rows, [], "bad"))
    aside = rows_aside(rows, groups, 0.3, 0)
    assert sum(aside) == 6 and not any(aside[20:])
    with pytest.raises(DataError, match="all 6 train rows kept aside for the fusion .* are '0' by bad"):
        check_splits(rows, aside, "bad")
