"""What every encoder gets from its base, tried on one that says the length of a text."""

from pathlib import Path

import pytest
import torch

from bifocal.config import ExpertConfig
from bifocal.contracts import MultiLabelEncoder
from bifocal.errors import ModelError
from bifocal.example import Rows
from bifocal.models.linear import LinearHead
from bifocal.models.saved_encoder import LinearEncoder, SavedEncoder
from bifocal.workspace import read_json, write_json

WORDS = ["a", "lamp", "tables", "chairs and more"] * 5
LABELS, GROUPS = torch.tensor([0, 0, 1, 1] * 5), [str(i) for i in range(20)]


class Length(LinearEncoder):
    plugin, modality = "length", "text"

    def rows_at_once(self):
        return 8

    def widths(self):
        return {"features": 1}

    def inputs(self, values):
        return [len(value) for value in values]

    def compute(self, inputs):
        return {"features": torch.tensor(inputs).float().unsqueeze(1)}

    def fingerprint_below(self):
        self.hashed = getattr(self, "hashed", 0) + 1
        return self.plugin

    def parameters(self):
        return {"total": 4, "trained": 4}

    def write(self, folder: Path):
        write_json(folder / "head.json", [self.head.weight.tolist(), self.head.bias.tolist()])

    @classmethod
    def read(cls, folder, card, expert):
        encoder = cls(expert, card["classes"], card["seed"], 1)
        weight, bias = map(torch.tensor, read_json(folder / "head.json"))
        encoder.head = LinearHead(weight, bias, card["penalty"])
        return encoder


@pytest.fixture
def encoder():
    return Length(ExpertConfig(), [0, 1], 0, 1)


def test_values_are_encoded_batch_by_batch_each_once(encoder):
    told = []
    encoded = encoder.encode(WORDS, told.append)
    assert told == [8, 16, 20] and encoder.examples_encoded == 20
    assert encoded["features"].flatten().tolist() == [len(word) for word in WORDS]
    assert encoded["logits"].shape == (20, 2) and not encoded["logits"].any()
    assert not encoded["features"].is_inference()
    assert encoder.encode([])["features"].shape == (0, 1)


def test_the_head_is_fitted_and_cross_fitted_on_what_was_encoded(encoder):
    encoded = encoder.encode(WORDS)
    with pytest.raises(ModelError, match="the head of this length was not fitted by fit_head"):
        encoder.cross_fit(encoded, LABELS, GROUPS, folds=3, seed=0)
    (row,) = encoder.fit_head(encoded, LABELS, GROUPS)
    assert row["train_accuracy"] == 1 and row["penalty"] == encoder.penalty
    assert encoder.cross_fit(encoded, LABELS, GROUPS, folds=3, seed=0).shape == (20, 2)


def test_a_saved_encoder_says_the_same(encoder, tmp_path):
    encoder.fit_head(encoder.encode(WORDS), LABELS, GROUPS)
    encoder.learned_from = frozenset({"b", "a"})
    encoder.save(tmp_path / "expert")
    assert sorted(p.name for p in (tmp_path / "expert").iterdir()) == ["bifocal.json", "head.json", "learned_from.json"]
    again = Length.load(tmp_path / "expert")
    assert (again.learned_from, again.penalty, again.frozen) == ({"a", "b"}, encoder.penalty, True)
    assert torch.equal(again.encode(WORDS)["logits"], encoder.encode(WORDS)["logits"])
    (tmp_path / "expert" / "head.json").write_text("[]")
    with pytest.raises(ModelError, match=r"head\.json was altered"):
        Length.load(tmp_path / "expert")


def test_a_further_head_equals_that_of_an_encoder_of_its_own(encoder):
    head, other = encoder.add_head("more", ["few", "many"]), Length(ExpertConfig(), ["few", "many"], 0, 1)
    encoded = encoder.encode(WORDS)
    assert not head.head_logits(encoded).any()
    labels = torch.where(torch.arange(20) < 16, LABELS.flip(0), -1)
    assert head.fit_head(encoded, labels, GROUPS) == other.fit_head(other.encode(WORDS), labels, GROUPS)
    assert torch.equal(head.encode(WORDS)["logits"], other.encode(WORDS)["logits"])
    held_out = (e.cross_fit(encoded, labels, GROUPS, folds=3, seed=0) for e in (head, other))
    assert torch.equal(*held_out)
    assert (encoder.penalty, encoder.examples_encoded) == (None, 40) and not encoder.head_logits(encoded).any()


def test_further_heads_take_the_fingerprint_that_was_found(encoder):
    heads = [encoder.add_head(label, [0, 1]) for label in ("a", "b")]
    assert [head.fingerprint() for head in heads] == ["length", "length"] and encoder.hashed == 1


def test_damaged_heads_are_refused(encoder, tmp_path):
    encoder.add_head("more", [0, 1])
    encoder.save(tmp_path / "expert")
    (tmp_path / "expert" / "heads.safetensors").unlink()
    with pytest.raises(ModelError, match=r"heads\.safetensors is missing"):
        Length.load(tmp_path / "expert")


def test_heads_of_what_has_none_are_refused(encoder, tmp_path):
    class Alone(Length):
        add_head = None

    encoder.add_head("more", [0, 1])
    encoder.save(tmp_path / "expert")
    assert isinstance(encoder, MultiLabelEncoder) and not isinstance(
        Alone(ExpertConfig(), [0, 1], 0, 1), MultiLabelEncoder
    )
    with pytest.raises(ModelError, match="length has none: train it again"):
        Alone.load(tmp_path / "expert")


def test_what_learns_as_a_whole_has_no_head_and_what_is_frozen_nothing_to_tune(encoder, tmp_path):
    class Whole(SavedEncoder):
        plugin, tunes = "whole", ("full",)

    with pytest.raises(ModelError, match="whole learns as a whole: call fit"):
        Whole(ExpertConfig(), [0, 1], 0).fit_head({}, LABELS, GROUPS)
    with pytest.raises(ModelError, match="length has nothing to fine-tune"):
        encoder.fit(Rows(WORDS, LABELS.tolist()), None, tmp_path)
