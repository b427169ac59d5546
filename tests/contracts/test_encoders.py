"""Every encoder, one suite: create, learn, encode, save, load; a new one is picked up by its file name.

Each is tried with every value of its ``tunes``: a frozen one fits its head on what it encoded, any other is fitted
whole.
"""

from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from PIL import Image

from bifocal import plugins
from bifocal.config import ExpertConfig, Strict, Tune
from bifocal.contracts import Encoder, MultiLabelEncoder, TokenEncoder
from bifocal.errors import ConfigError, ModelError
from bifocal.example import UNLABELLED, Rows

VALUES = {
    "text": [f"{a} {b} by the river" for a in ("old", "new", "grey") for b in ("stone", "wood", "copper", "glass")],
    "image": [Image.new("RGB", (96, 96), (20 * i, 90, 240 - 20 * i)) for i in range(12)],
    "tabular": [
        {"length": 1.5 * i, "wood": ("oak", "elm")[i % 2], "built": f"19{10 + i}-05-0{1 + i % 9}", "roof": bool(i % 3)}
        for i in range(12)
    ],
}
"""Twelve values of each modality."""
LABELS = torch.tensor([0, 1, 2] * 4)
GROUPS = [str(i // 2) for i in range(12)]
CLASSES = ("none", "some", "all")
FURTHER = torch.tensor([0, 1, UNLABELLED, 0, 1, 1] * 2)
"""Of a second, binary label."""


def pretrained(kind):
    """Whether the settings of transformers are read: such an encoder is tried with both poolings, and briefly."""
    return "lora" in kind.tunes


def cases():
    for name in plugins.names("encoders"):
        kind = plugins.load("encoders", name)
        for tune in kind.tunes:
            for pooling in ("cls", "mean") if pretrained(kind) and tune == "head" else ("cls",):
                yield pytest.param((kind, tune, pooling), id=f"{name}-{tune}-{pooling}")


@pytest.fixture(scope="module", params=cases())
def case(request):
    return request.param


@pytest.fixture(scope="module")
def kind(case):
    return case[0]


@pytest.fixture(scope="module")
def values(kind):
    return VALUES[kind.modality]


@pytest.fixture(scope="module")
def make(case, values):
    """Gives a new encoder."""
    kind, tune, pooling = case
    brief = {"epochs": 1, "batch_size": 4} if pretrained(kind) else {}
    config = ExpertConfig(model="tiny", tune=tune, pooling=pooling, encode_batch_size=5, report_to=[], **brief)
    return lambda: kind.create(config, CLASSES, 0, values)


@pytest.fixture(scope="module")
def learned(make, values, tmp_path_factory):
    """An encoder that has learned, its fingerprints before and after, and what learning told."""
    encoder = make()
    before = encoder.fingerprint()
    if encoder.frozen:
        history = encoder.fit_head(encoder.encode(values), LABELS, GROUPS)
    else:
        rows = Rows(values, LABELS.tolist())
        history = encoder.fit(rows, rows, tmp_path_factory.mktemp("checkpoints"))
    return SimpleNamespace(encoder=encoder, before=before, after=encoder.fingerprint(), history=history)


@pytest.fixture(scope="module")
def encoder(learned):
    return learned.encoder


def test_it_fulfils_the_protocol(make, kind, case):
    encoder = make()
    assert isinstance(encoder, Encoder)
    assert kind.modality in VALUES
    assert issubclass(kind.settings, Strict)
    assert len(set(kind.tunes)) == len(kind.tunes) > 0
    assert set(kind.tunes) <= set(get_args(Tune))
    assert encoder.frozen is (case[1] == "head")
    assert encoder.learned_from == frozenset()
    assert encoder.examples_encoded == 0


def test_columns_are_told_by_those_that_read_records(encoder, values):
    if isinstance(values[0], dict):
        assert set(encoder.columns) <= set().union(*values)
        assert len(encoder.columns) > 0
    else:
        assert encoder.columns is None


def test_its_first_tune_is_its_default(kind, values):
    encoder = kind.create(ExpertConfig(model="tiny"), CLASSES, 0, values)
    assert encoder.frozen is (kind.tunes[0] == "head")


def test_an_option_it_lacks_is_refused(kind, values):
    with pytest.raises(ConfigError, match="none-such"):
        kind.create(ExpertConfig(model="tiny", options={"none-such": 1}), CLASSES, 0, values)


def test_features_and_logits_come_in_order_as_float32(encoder, values):
    encoded = encoder.encode(values)
    assert encoded["logits"].shape == (12, 3)
    assert {(len(t), t.dtype, t.device.type) for t in encoded.values()} == {(12, torch.float32, "cpu")}
    order = [7, 0, 11, 3, 3]
    again = encoder.encode([values[i] for i in order])
    for name, tensor in encoded.items():
        torch.testing.assert_close(again[name], tensor[order], atol=1e-5, rtol=1e-4)


def test_no_values_give_empty_tensors(encoder, values):
    some = encoder.encode(values[:1])
    none = encoder.encode([])
    assert {name: t.shape[1] for name, t in none.items()} == {name: t.shape[1] for name, t in some.items()}
    assert all(len(t) == 0 for t in none.values())


class Lazy(list):
    """Counts how often a value is read."""

    reads = 0

    def __getitem__(self, i):
        self.reads += 1
        return super().__getitem__(i)

    def __iter__(self):
        for i in range(len(self)):
            yield self[i]


def test_every_value_is_read_and_encoded_once(encoder, values):
    lazy, told = Lazy(values), []
    before = encoder.examples_encoded
    encoder.encode(lazy, told.append)
    assert encoder.examples_encoded - before == lazy.reads == len(values)
    assert told[-1] == len(values)
    assert told == sorted(told)


def test_learning_tells_of_itself(learned):
    last = learned.history[-1]
    assert {"epoch", "train_loss", "train_accuracy", "train_macro_f1"} <= set(last)
    if not learned.encoder.frozen:
        assert {"val_loss", "val_accuracy", "val_macro_f1"} <= set(last)


def test_every_finished_epoch_is_told(make, values, tmp_path):
    encoder, told = make(), []
    if encoder.frozen:
        pytest.skip("its head is fitted in one go")
    rows = Rows(values, LABELS.tolist())
    assert encoder.fit(rows, rows, tmp_path, told.append) == told


def test_what_it_learned_shows_in_the_fingerprint_where_the_features_change(learned):
    assert (learned.after == learned.before) is learned.encoder.frozen


def test_the_same_seed_learns_the_same(make, learned, values, tmp_path):
    again = make()
    assert again.fingerprint() == learned.before
    if again.frozen:
        again.fit_head(again.encode(values), LABELS, GROUPS)
    else:
        again.fit(Rows(values, LABELS.tolist()), Rows(values, LABELS.tolist()), tmp_path)
    torch.testing.assert_close(again.encode(values)["logits"], learned.encoder.encode(values)["logits"])


def test_the_head_makes_the_logits_of_the_features(encoder, values):
    encoded = encoder.encode(values)
    torch.testing.assert_close(encoder.head_logits(encoded), encoded["logits"], atol=1e-4, rtol=1e-4)


def test_a_head_is_fitted_on_features_and_changes_nothing_below(make, values):
    encoder = make()
    if not encoder.frozen:
        pytest.skip("all of it learns")
    encoded = encoder.encode(values)
    encoder.fit_head(encoded, LABELS, GROUPS)
    again = encoder.encode(values)
    torch.testing.assert_close(again["features"], encoded["features"])
    assert not torch.allclose(again["logits"], encoded["logits"])
    held_out = encoder.cross_fit(encoded, LABELS, GROUPS, folds=3, seed=0)
    assert held_out.shape == (12, 3)
    assert not torch.allclose(held_out, again["logits"])


def test_what_never_has_a_head_of_its_own_refuses_to_fit_one(encoder, kind, values):
    if "head" in kind.tunes:
        pytest.skip("it can be frozen")
    encoded = encoder.encode(values)
    with pytest.raises(ModelError):
        encoder.fit_head(encoded, LABELS, GROUPS)
    with pytest.raises(ModelError):
        encoder.cross_fit(encoded, LABELS, GROUPS, folds=3, seed=0)


def test_it_survives_saving(encoder, kind, values, tmp_path):
    encoded = encoder.encode(values)
    encoder.learned_from = frozenset({"a", "b"})
    encoder.save(tmp_path / "expert")
    again = kind.load(tmp_path / "expert")
    assert again.fingerprint() == encoder.fingerprint()
    assert again.learned_from == {"a", "b"}
    assert again.parameters() == encoder.parameters()
    assert again.columns == encoder.columns
    assert (again.frozen, list(again.classes)) == (encoder.frozen, list(CLASSES))
    loaded = again.encode(values)
    assert loaded.keys() == encoded.keys()
    for name, tensor in encoded.items():
        torch.testing.assert_close(loaded[name], tensor, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def several(make, values, tmp_path_factory):
    """An encoder with a head for each of two labels that have learned, and what it encodes."""
    encoder = make()
    if not isinstance(encoder, MultiLabelEncoder):
        pytest.skip("it is fitted anew for each label")
    head = encoder.add_head("a.b", (0, 1))
    if encoder.frozen:
        encoded = encoder.encode(values)
        encoder.fit_head(encoded, LABELS, GROUPS)
        head.fit_head(encoded, FURTHER, GROUPS)
    else:
        rows = Rows(values, LABELS.tolist(), {"a.b": FURTHER.tolist()})
        history = encoder.fit(rows, rows, tmp_path_factory.mktemp("several"))
        assert {"val_macro_f1", "a.b_val_macro_f1", "val_mean_macro_f1"} <= set(history[-1])
        encoded = encoder.encode(values)
    return SimpleNamespace(encoder=encoder, head=head, encoded=encoded)


def test_a_further_head_on_a_frozen_encoder_leaves_the_first_as_it_is(several, learned, values):
    assert several.encoder.heads == {"a.b": several.head} and several.head.heads == {}
    if not several.encoder.frozen:
        pytest.skip("they learn together")
    assert several.encoder.encode(values).keys() == learned.encoder.encode(values).keys()
    assert torch.equal(several.encoder.encode(values)["logits"], learned.encoder.encode(values)["logits"])
    assert several.encoder.parameters() == learned.encoder.parameters()
    assert several.encoder.penalty == learned.encoder.penalty


def test_a_further_head_is_an_encoder_over_the_same_features(several, values):
    encoder, head = several.encoder, several.head
    assert isinstance(head, Encoder) and isinstance(head, TokenEncoder) is isinstance(encoder, TokenEncoder)
    assert (list(encoder.classes), list(head.classes), head.frozen) == (list(CLASSES), [0, 1], encoder.frozen)
    assert head.fingerprint() == encoder.fingerprint()
    assert 0 < head.parameters()["trained"] < encoder.parameters()["trained"]
    assert head.head_logits(several.encoded).shape == (12, 2)
    before = encoder.examples_encoded
    encoded = head.encode(values)
    assert (encoder.examples_encoded - before, head.examples_encoded) == (12, 0)
    assert torch.equal(encoded["features"], several.encoded["features"])
    torch.testing.assert_close(encoded["logits"], head.head_logits(several.encoded))
    if head.frozen:
        held_out = head.cross_fit(several.encoded, FURTHER, GROUPS, folds=3, seed=0)
        assert held_out.shape == (12, 2) and not torch.allclose(held_out, encoded["logits"])


def test_a_label_has_one_head(several):
    with pytest.raises(ModelError, match=r"has a head for 'a\.b'"):
        several.encoder.add_head("a.b", (0, 1))
    with pytest.raises(ModelError, match="is one itself"):
        several.head.add_head("c", (0, 1))


def test_further_heads_survive_saving(several, kind, values, tmp_path):
    several.encoder.learned_from, several.head.learned_from = frozenset({"a", "b"}), frozenset({"b"})
    several.encoder.save(tmp_path / "expert")
    again = kind.load(tmp_path / "expert")
    head = again.heads["a.b"]
    assert (list(head.classes), head.learned_from, head.penalty) == ([0, 1], {"b"}, several.head.penalty)
    assert (again.learned_from, head.parameters()) == ({"a", "b"}, several.head.parameters())
    assert again.fingerprint() == head.fingerprint() == several.encoder.fingerprint()
    for found, expected in ((again, several.encoder), (head, several.head)):
        torch.testing.assert_close(found.encode(values)["logits"], expected.encode(values)["logits"])
    with pytest.raises(ModelError, match="save that one"):
        several.head.save(tmp_path / "head")


def test_it_accepts_what_it_was_trained_on(encoder, values):
    for value in values:
        encoder.check(value)


def test_costs_are_told_without_a_model(kind, case):
    config = ExpertConfig(model="tiny", tune=case[1])
    cost = kind.cost(config, 3)
    assert 0 < cost["trained"] <= cost["total"]
    assert cost["flops_per_example"] > 0
