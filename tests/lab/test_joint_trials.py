"""Fusions on tokens become trials on a sample of whole groups; a remedy is told to help by its interval alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bifocal import plugins
from bifocal.config import FusionConfig
from bifocal.contracts import EncoderTuner
from bifocal.errors import ConfigError, DataError
from bifocal.evaluate.compare import Resampling
from bifocal.example import Evidence
from bifocal.lab import joint_trials
from bifocal.lab.corruption import PackedInputs
from bifocal.lab.joint_trials import compare_remedies, fit_joint_trials, joint_material, joint_strategies
from bifocal.lab.trials import ExpertFacts, Study
from bifocal.models.joint_trainer import JointOptions

N = 40
EXPERTS = {
    "a": ExpertFacts("a_expert", {"total": 100, "trained": 10}),
    "b": ExpertFacts("b_expert", {"total": 200, "trained": 20}),
}


class Encoder:
    """One that has tokens, each a number that tells which value it is of."""

    def __init__(self, total):
        self.total = total

    def parameters(self):
        return {"total": self.total, "trained": self.total // 10}

    def encode_tokens(self, values, progress=None):
        return {}, [torch.full((2, 3), float(value.rpartition("-")[2])) for value in values]


ENCODERS = {"a": Encoder(100), "b": Encoder(200)}


class Packed:
    """Rows in another order than the Evidence, whose values are their ids; the even ones of ``a`` are there."""

    def __init__(self, ids):
        self.ids = tuple(ids)
        self.present = {"a": [i % 2 == 0 for i in range(len(self.ids))], "b": [True] * len(self.ids)}

    def __len__(self):
        return len(self.ids)

    def take(self, rows):
        return Packed([self.ids[i] for i in rows])

    def values(self, modality):
        return [f"{modality} of {name}" for name in self.ids]


def evidence(n=N):
    """Groups of two rows; every fifth row of val and test lacks ``a``."""
    splits, packed = {}, {}
    for number, split in enumerate(("train", "val", "test")):
        g = torch.Generator().manual_seed(number)
        ids = tuple(f"{split}-{i}" for i in range(n))
        labels = torch.arange(n) // 2 % 2
        splits[split] = {}
        for name in ("a", "b"):
            here = torch.arange(n) % 5 != (0 if name == "a" and split != "train" else 9)
            logits = torch.randn(n, 2, generator=g)
            groups = tuple(f"{split}-{i // 2}" for i in range(n))
            splits[split][name] = Evidence(ids, groups, logits, logits, here, labels, torch.zeros(n, dtype=torch.bool))
        packed[split] = Packed(["elsewhere", *reversed(ids)])
    return splits, packed


def material_of(splits, packed, folder, encoders=ENCODERS, seed=0, **how):
    study = Study(splits, FusionConfig(), EXPERTS, Resampling("auroc", 200, seed))
    return joint_material(study, PackedInputs(encoders, {}, packed), folder, **how)


class Told:
    """A fusion that knows the label up to noise, less of it without ``a``; its options say how much noise."""

    reads = "tokens"

    class Options(JointOptions):
        noise_of_it: float = 1.0

    def __init__(self, **options):
        self.options = self.Options(**options)
        self.history, self.on_epoch, self.encoders = [], None, None

    def attach(self, encoders):
        self.encoders = encoders

    def tokens(self, modality, values, progress=None):
        return [torch.zeros(1, 1) for _ in values]

    def fit(self, evidence, labels, *, seeds, read=None, val=None):
        assert self.encoders == ENCODERS and list(seeds) == [0] and val is not None
        assert evidence["a"].values[0].startswith("a of train-")
        self.history = [
            {"epoch": 1, "train_loss": 0.5, "val_loss": 0.6, "modality_dropout": self.options.modality_dropout}
        ]
        return self

    def __call__(self, evidence):
        labels, here = evidence["b"].labels, evidence["a"].present
        noise = torch.randn(len(labels), generator=torch.Generator().manual_seed(7)) * self.options.noise_of_it
        z = (labels * 2.0 - 1) + noise
        z = torch.where(here, z, 0.3 * z * (1 + self.options.auxiliary) + torch.arange(len(labels)) % 3 - 1)
        return torch.stack([-z, z], dim=1)

    def explain(self, evidence):
        return {}

    def parameters(self):
        return {"total": 40, "trained": 40}


class Refusing(Told):
    def fit(self, *_, **__):
        raise ConfigError("nothing to adapt")


@pytest.fixture
def strategies(monkeypatch):
    known = {"told": Told, "refusing": Refusing}
    monkeypatch.setattr(plugins, "load", lambda kind, name: known[name])
    monkeypatch.setattr(plugins, "names", lambda kind: tuple(known))


def test_a_sample_is_of_whole_groups_and_finds_its_rows(tmp_path):
    splits, packed = evidence()

    def drawn(name, **how):
        return material_of(splits, packed, tmp_path / name, **how)

    material = drawn("one", rows=12, seed=3)
    for split, rows in material.rows.items():
        assert len(rows) == 12 and len({i // 2 for i in rows}) == 6
        e, with_gaps = material.study.evidence[split]["b"], material.study.evidence[split]["a"]
        assert e.ids == tuple(f"{split}-{i}" for i in rows)
        assert list(e.values) == [f"b of {name}" for name in e.ids]
        assert [t.tolist() for t in e.tokens] == [[[float(i)] * 3] * 2 for i in rows]
        assert [len(t) for t in with_gaps.tokens] == [2, 0] * 6
    assert material.rows == drawn("two", rows=12, seed=3).rows != drawn("three", rows=12, seed=4).rows
    assert drawn("four", rows=N).rows["train"] == list(range(N))


def test_rows_that_are_not_packed_are_named(tmp_path):
    splits, packed = evidence()
    packed["val"] = Packed(packed["val"].ids[:-1])
    with pytest.raises(DataError, match="row 'val-0' of the Evidence is not among the packed rows of val"):
        material_of(splits, packed, tmp_path)
    with pytest.raises(DataError, match="no group of train has 1 rows or fewer"):
        material_of(*evidence(), tmp_path, rows=1)


def test_features_alone_are_a_finding(strategies, tmp_path):
    splits, packed = evidence()
    plain = {name: type("Plain", (), {"parameters": encoder.parameters})() for name, encoder in ENCODERS.items()}
    material = material_of(splits, packed, tmp_path, plain, rows=30)
    assert material.study.evidence["train"]["a"].tokens is None
    found = fit_joint_trials(replace(material, encoders=ENCODERS))
    assert found.findings[0] == "told learned on features: no encoder here has hidden states of words or patches"


def test_trials_are_heard_on_the_sample(strategies, tmp_path):
    splits, packed = evidence()
    told = []
    material = material_of(splits, packed, tmp_path, rows=30)
    found = fit_joint_trials(
        material, options={"noise_of_it": 0.5, "of no strategy": 1}, progress=lambda *a: told.append(a)
    )
    (t,) = found.trials
    assert (t.name, t.kind, t.reads, t.members) == ("told", "joint", ("a", "b"), {})
    assert {split: z.shape for split, z in t.logits.items()} == {"val": (30, 2), "test": (30, 2)}
    assert t.parameters == {"total": 340, "trained": 70, "own": 40} and t.seconds >= 0
    np.testing.assert_array_equal(
        t.logits["test"], Told(noise_of_it=0.5)(material.study.evidence["test"]).double().numpy()
    )
    assert t.temperature != 1
    assert found.histories["told"][0]["val_loss"] == 0.6
    assert found.findings == ["refusing is not among the fusions: nothing to adapt"]
    assert told == [(1, 2)]


def remedies(tmp_path, **those):
    splits, packed = evidence(400)
    return compare_remedies(
        material_of(splits, packed, tmp_path, rows=400),
        "told",
        remedies={"plain": {}, **those},
        options={"noise_of_it": 1.5},
    )


def test_a_remedy_helps_or_harms_by_its_interval(strategies, tmp_path):
    table = remedies(tmp_path, good={"noise_of_it": 0.5}, bad={"noise_of_it": 9.0}, same={"modality_dropout": 0.5})
    json.dumps(table, allow_nan=False)
    plain, good, bad, same = table["remedies"]
    assert plain["gain"] is None and plain["helps"] is None
    assert (good["helps"], good["harms"]) == (True, False) and good["gain"]["low"] > 0
    assert (bad["helps"], bad["harms"]) == (False, True) and bad["gain"]["high"] < 0
    assert (same["helps"], same["harms"]) == (False, False) and same["gain"]["value"] == 0
    assert {"auroc", "nll"} <= set(same["val"]) and same["test"]["auroc"]["low"] < same["test"]["auroc"]["value"]
    assert table["rows"] == {"train": 400, "val": 400, "test": 400} and table["plain"] == "plain"
    assert plain["history"][0]["modality_dropout"] == 0  # the plain one has no remedy at all
    assert same["history"][0]["modality_dropout"] == 0.5 and same["options"] == {"modality_dropout": 0.5}


def test_what_a_remedy_does_without_a_part_is_told_apart(strategies, tmp_path):
    (_, steadier) = remedies(tmp_path, steadier={"auxiliary": 2.0})["remedies"]
    assert steadier["absent"]["a"]["helps"] is True
    assert steadier["absent"]["a"]["gain"]["value"] > steadier["absent"]["b"]["gain"]["value"]


def test_every_remedy_adds_something_that_strategies_know():
    assert next(iter(joint_trials.REMEDIES)) == joint_trials.PLAIN
    names = joint_strategies()
    assert any(issubclass(plugins.load("fusions", name), EncoderTuner) for name in names)
    for name in names:
        known = plugins.load("fusions", name).Options.model_fields
        assert all(set(added) <= set(known) for added in joint_trials.REMEDIES.values())
        assert set(joint_trials.NOTHING) <= set(known)
