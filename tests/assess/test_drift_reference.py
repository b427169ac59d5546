"""What is kept of the tuning split, on opinions made by hand."""

import numpy as np
import pytest

from bifocal.assess import drift_reference as module
from bifocal.assess.drift_reference import Reference, text_facts
from bifocal.assess.predictions import Predictions
from bifocal.decide.calibration_methods import Temperature
from bifocal.decide.policy import ModelPolicy, Policy
from bifocal.errors import RunError
from bifocal.modalities.text import Text, compose

TEXTS = [compose("on the picture", "said", "en"), compose("", "gesagt", "de"), ""]


def gathered(n=3, classes=(0, 1), has=None):
    policy = Policy(
        run="r", label="l", classes=classes, probability_key="prob", in_sample=False, approximate=True, versions={},
        models={"m": ModelPolicy(calibration=Temperature(temperature=2), threshold=0.5 if classes == (0, 1) else None)},
    )  # fmt: skip
    logits = np.tile(np.log([[4.0, 1, 1], [1, 4, 1], [1, 1, 4]])[:, : len(classes)], (n // 3, 1))
    ids = tuple(map(str, range(n)))
    groups = tuple(str(i // 2) for i in range(n))
    patterns = ["image+text", "text", "image"] * (n // 3)
    has = np.ones(n, dtype=bool) if has is None else np.array(has)
    said = Predictions(ids, groups, np.arange(n) % len(classes), {"m": logits}, {"m": has}, patterns)
    return Reference.gather(said, TEXTS * (n // 3), policy, "m", split="val")


def test_a_binary_label_keeps_the_probability_of_class_1():
    found = gathered()
    assert found.scores == pytest.approx([1 / 3, 2 / 3, 1 / 2], abs=1e-5)  # temperature 2: odds of 4 become 2
    assert found.predicted == [0, 1, 1] and found.labels == [0, 1, 0] and found.groups == [0, 0, 1]
    assert found.languages == ["en", "de", ""] and found.lengths == [19, 6, -1]
    assert found.decided_posts.confidence(binary=True) == pytest.approx([2 / 3, 2 / 3, 1 / 2], abs=1e-5)


def test_several_classes_keep_the_probability_of_the_likeliest():
    found = gathered(classes=("a", "b", "c"))
    assert found.predicted == [0, 1, 2] and found.scores == [0.5, 0.5, 0.5]
    properties = found.decided_posts.properties(["text", "image"], found.classes, binary=False)
    assert properties["predicted class"].values.tolist() == ["a", "b", "c"]
    assert properties["text length"].values.tolist() == [19, 6]


def test_of_one_modality_there_are_no_patterns_and_without_text_no_languages():
    decided = gathered().decided_posts
    assert set(decided.properties(["image"], (0, 1), binary=True)) == {"score"}
    assert set(decided.properties(["text"], (0, 1), binary=True)) == {"score", "language", "text length"}


def test_rows_without_an_opinion_are_left_out_and_many_are_sampled(monkeypatch):
    assert gathered(has=[True, False, True]).patterns == ["image+text", "image"]
    monkeypatch.setattr(module, "ROWS", 40)
    found = gathered(300)
    assert found.rows == 300 and len(found.scores) == len(found.groups) == 40
    assert 5 < found.languages.count("de") < 25 and gathered(300) == found


def test_text_facts():
    assert text_facts("") == ("", -1)
    assert text_facts(Text().blank()) == ("und", 0)
    assert text_facts("plain words") == ("und", 11)


def test_it_comes_back_as_it_was_saved(tmp_path):
    path = tmp_path / "reference.json"
    gathered().save(path)
    assert Reference.load(path) == gathered()
    content = path.read_text()
    for broken in ('{"run": "r"}', content.replace('"scores": [', '"scores": [1.0,'), "[]"):
        path.write_text(broken)
        with pytest.raises(RunError, match="is not a reference of this version"):
            Reference.load(path)
    path.unlink()
    with pytest.raises(RunError, match="bifocal evaluate"):
        Reference.load(path)
