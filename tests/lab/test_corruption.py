"""Inputs of a packed split disturbed and encoded again: which rows are read, and what a cut text no longer says."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bifocal.config import ExpertConfig
from bifocal.data.packing import pack
from bifocal.data.shards import open_split
from bifocal.errors import ConfigError, DataError
from bifocal.evaluate.compare import Resampling
from bifocal.example import LABELS, Evidence, Example, Taxonomy
from bifocal.lab.corruption import PackedInputs, Truncation, corrupt_parts, truncated_levels, values_of
from bifocal.modalities.text import Text
from bifocal.models.encoders.tfidf_text import TfidfText

N = 120
FILL = ("bridge", "river", "meadow", "tower", "garden", "market", "harbour", "valley", "forest", "quarry")
TAXONOMY = Taxonomy({"abuse_hate": LABELS["abuse_hate"]})


def texts(n=N, seed=0):
    """Six words, of which the third tells the label."""
    draw = random.Random(seed)
    words = [draw.sample(FILL, 5) for _ in range(n)]
    return [" ".join([*w[:2], ("lovely", "wretched")[i % 2], *w[2:]]) for i, w in enumerate(words)]


TEXTS = texts()
IDS = tuple(f"row{i}" for i in range(N))
CLASSES = torch.arange(N) % 2


@pytest.fixture(scope="module")
def encoder():
    """A text expert that learned from these rows."""
    made = TfidfText.create(ExpertConfig(options={"components": 8, "char_ngrams": (2, 3)}), (0, 1), 0, TEXTS)
    made.fit_head(made.encode(TEXTS), CLASSES, IDS)
    made.learned_from = frozenset(IDS)
    return made


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    rows = [
        Example(i, {"text": t}, {"abuse_hate": int(y)}, i, "test", {})
        for i, t, y in zip(IDS, TEXTS, CLASSES, strict=True)
    ]
    source = SimpleNamespace(open=str.encode)
    pack(rows, source, {"text": Text()}, folder=folder.joinpath, taxonomy=TAXONOMY, shard_size=50)
    return open_split(folder / "test", {"text": Text()})


def evidence_of(encoder, rows=range(N), absent=()):
    rows = list(rows)
    there = torch.tensor([i not in absent for i in rows])
    encoded = encoder.encode([TEXTS[i] for i in rows])
    ids = tuple(IDS[i] for i in rows)
    features, logits = (encoded[name] * there[:, None] for name in ("features", "logits"))
    return Evidence(ids, ids, features, logits, there, CLASSES[rows], torch.zeros(len(rows), dtype=torch.bool))


def accuracy(part):
    rows = part.present
    return float((part.logits[rows].argmax(dim=1) == part.labels[rows]).float().mean())


def text_logits(parts):
    return parts["text"].logits


class OnlyTruncated(Text):
    corruptions = ("truncation",)


def corrupted(encoder, split, evidence, modality=None, **changes):
    inputs = PackedInputs({"text": encoder}, {"text": modality or Text()}, {"test": split})
    return corrupt_parts(text_logits, inputs, evidence, Resampling("auroc", 20), **changes)


# ------------------------------------------------------------------ in the test


def test_values_are_found_by_id_and_not_by_place(encoder, split):
    rows = [7, 3, 100]
    assert list(values_of(split, "text", evidence_of(encoder, rows))) == [TEXTS[i] for i in rows]


def test_a_split_that_lacks_a_row_is_an_error(encoder, split):
    part = evidence_of(encoder)
    with pytest.raises(DataError, match="1 of 120 rows of the Evidence of text are not in the packed split, 'row5'"):
        values_of(split.take([i for i in range(N) if i != 5]), "text", part)


def test_cut_texts_cost_the_score_what_they_no_longer_say(encoder, split):
    told = []
    evidence = {"text": evidence_of(encoder, reversed(range(20, N)), absent=range(20, 30))}
    found = corrupted(encoder, split, evidence, OnlyTruncated(), rows=60, progress=lambda *at: told.append(at))["text"]
    first, *_, last = found["kinds"]["truncation"]
    assert found["n"] == 60 and found["intact"]["value"] == 1
    assert first["value"] == 1 and first["changed"] == last["changed"] == 1  # one word is cut, the cue still stands
    assert last["value"] == pytest.approx(0.5, abs=0.2) and last["change"]["high"] < 0  # four are cut
    assert told == [(i, 6) for i in range(1, 7)]
    json.dumps(found, allow_nan=False)


def test_all_kinds_of_a_modality_are_the_default(encoder, split):
    evidence = {"text": evidence_of(encoder)}
    found = corrupted(encoder, split, evidence, rows=40)
    assert list(found["text"]["kinds"]) == list(Text.corruptions) and found["text"]["n"] == 40


def test_rows_of_one_class_tell_nothing(encoder, split):
    evidence = {"text": evidence_of(encoder, absent=range(0, N, 2))}
    assert corrupted(encoder, split, evidence) == {"text": None}


def test_another_encoder_is_an_error(encoder, split):
    evidence = {"text": evidence_of(encoder)}
    evidence["text"].features[:] += 1
    with pytest.raises(DataError, match="does not give their Evidence"):
        corrupted(encoder, split, evidence)


# ------------------------------------------------------------------ in training


def test_the_strongest_truncation_weakens_a_text_and_the_weakest_does_not(encoder):
    train = evidence_of(encoder, absent=range(10))
    levels = truncated_levels(encoder, Text(), TEXTS, train, Truncation("truncation", (1, 5), rows=100))
    assert list(levels) == [0.0, 1.0, 5.0] and all(len(e) == 100 for e in levels.values())
    assert accuracy(levels[0.0]) > 0.95 and accuracy(levels[1.0]) > 0.95
    assert accuracy(levels[5.0]) == pytest.approx(0.5, abs=0.2)
    rows = [IDS.index(name) for name in levels[0.0].ids]
    assert rows == sorted(rows)
    for level in levels.values():
        assert level.ids == levels[0.0].ids and torch.equal(level.present, train.present[rows])
        assert not level.features[~level.present].any() and not level.logits[~level.present].any()
    torch.testing.assert_close(levels[0.0].features, train.features[rows])


def test_logits_of_rows_that_the_head_learned_from_are_cross_fitted(encoder):
    """A head that learned each of these labels by heart shows in its own logits, and not in cross-fitted ones."""
    noise = torch.randint(2, (N,), generator=torch.Generator().manual_seed(0))
    made = TfidfText.create(ExpertConfig(options={"components": 8}), (0, 1), 0, TEXTS)
    made.fit_head(made.encode(TEXTS), noise, IDS)
    train = evidence_of(encoder)
    train = Evidence(train.ids, train.groups, train.features, train.logits, train.present, noise, train.seen)
    asked = Truncation("truncation", (1,), rows=N)
    own = truncated_levels(made, Text(), TEXTS, train, asked)[0.0]
    made.learned_from = frozenset(IDS)
    fair = truncated_levels(made, Text(), TEXTS, train, asked)[0.0]
    torch.testing.assert_close(own.logits, made.encode(TEXTS)["logits"])
    assert not torch.allclose(own.logits, fair.logits) and accuracy(fair) < 0.65
    torch.testing.assert_close(own.features, fair.features)


def test_only_the_drawn_rows_are_read_and_the_draw_is_seeded(encoder):
    train, read = evidence_of(encoder, absent=range(60)), []
    lazy = type("Lazy", (list,), {"__getitem__": lambda self, i: read.append(i) or list.__getitem__(self, i)})(TEXTS)
    asked = Truncation("truncation", (5,), rows=50)
    levels = truncated_levels(encoder, Text(), lazy, train, asked)
    again, other = (truncated_levels(encoder, Text(), TEXTS, train, replace(asked, seed=s)) for s in (0, 1))
    assert set(read) == {IDS.index(name) for name in levels[0.0].ids} - set(range(60))
    assert torch.equal(again[5.0].features, levels[5.0].features) and other[0.0].ids != levels[0.0].ids


def test_an_unknown_kind_is_named(encoder):
    with pytest.raises(ConfigError, match="text has no corruption 'truncate'; did you mean 'truncation'"):
        truncated_levels(encoder, Text(), TEXTS, evidence_of(encoder), Truncation("truncate", rows=50))
