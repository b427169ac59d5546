"""Fusions refitted on what was weakened: levels of train and val, who stands beside F, the remedy, known outcomes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bifocal.config import FusionConfig, ImbalanceRule
from bifocal.errors import DataError
from bifocal.evaluate.compare import Resampling
from bifocal.example import Evidence
from bifocal.lab import imbalance as weakness
from bifocal.lab.compare import PipelineComparison
from bifocal.lab.corruption import PackedInputs
from bifocal.lab.imbalance import compare_dropout, pinned, truncate, weaken
from bifocal.lab.trials import ExpertFacts, Study, fit_head_trial, fit_trial, hear_expert, score
from bifocal.modalities.text import Text

EXPERTS = {m: ExpertFacts(f"{m}_expert", {"total": 100, "trained": 10}) for m in ("text", "image", "tabular")}
QUICK = {"learning_rates": [1e-2, 2e-2], "weight_decays": [0.01], "widths": [8], "epochs": 8, "batch_size": 16}
RESAMPLING = Resampling("auroc", 60)
RULE = ImbalanceRule()
WEAKENED = {"kept": (1.0, 0.1), "deviations": (0.0, 4.0)}


def generated(structure="unique_text", n=160, names=("text", "image")):
    """A bit of each modality in little noise; logits say the bit."""
    splits = {}
    for number, split in enumerate(("train", "val", "test")):
        g = torch.Generator().manual_seed(number)
        bits = dict(zip(names, torch.randint(2, (len(names), n), generator=g), strict=True))
        if structure == "redundant":
            bits = dict.fromkeys(names, bits["text"])
        ids, there = tuple(f"{split}-{i}" for i in range(n)), torch.ones(n, dtype=torch.bool)
        splits[split] = {}
        for name, bit in bits.items():
            x = (2.0 * bit - 1)[:, None] + 0.2 * torch.randn(n, 3, generator=g)
            logits = torch.stack([-x[:, 0], x[:, 0]], dim=1)
            splits[split][name] = Evidence(ids, ids, x, logits, there.clone(), bits["text"], ~there)
    return splits


def config(strategy="concat", **options):
    return FusionConfig(strategy=strategy, seeds=2, options={**QUICK, **options} if strategy == "concat" else options)


def study(splits, strategy="concat"):
    return Study(splits, config(strategy), EXPERTS, RESAMPLING)


def heard(name, kind, modality, splits):
    return hear_expert(name, kind, modality, splits, parameters=EXPERTS["image"].parameters, seconds=None)


def compared(splits, strategy="concat"):
    """F, and the best model of each modality: a head, but for the image the expert."""
    fused = fit_trial(study(splits, strategy), strategy, "fusion", strategy)
    alone = {
        "text": fit_head_trial(study(splits), "text"),
        "image": heard("vision_expert", "expert", "image", splits),
    }
    return PipelineComparison(study(splits, strategy), [], [], alone, alone["text"], fused, fused, fused)


UNIQUE = generated()


@pytest.fixture(scope="module")
def unique():
    """F and its rivals where the text tells all, what `weaken` finds, and the progress it told."""
    told = []
    comparison = compared(UNIQUE)
    return comparison, weaken(comparison, RULE, progress=lambda *at: told.append(at), **WEAKENED), told


def test_what_says_nothing_may_starve_and_the_fusion_adapts(unique):
    _, weak, _ = unique
    for way in ("starved", "corrupted"):
        found = weak[way]["image"]
        assert found["stronger"] == "text" and found["beside"] == "text: MLP head"
        assert [row["outcome"] for row in found["levels"]] == [None, "adapts"]
        assert found["expert"]["intact"]["value"] > 0.99 and found["expert"]["loss"]["value"] > 0
    assert [row["level"] for row in weak["starved"]["image"]["levels"]] == [1.0, 0.1]
    assert [row["rows"] for row in weak["starved"]["image"]["levels"]] == [160, 16]
    assert [row["level"] for row in weak["corrupted"]["text"]["levels"]] == [0.0, 4.0]


def test_the_model_beside_is_the_expert_by_its_logits_where_it_is_the_best(unique):
    found = unique[1]["starved"]["text"]
    assert found["beside"] == "vision_expert" and found["expert"]["intact"]["value"] == pytest.approx(0.5, abs=0.1)


def test_the_reference_is_the_fusion_itself_and_the_rest_is_told(unique):
    comparison, weak, told = unique
    of_test = [part["levels"][0]["intact"]["value"] for way in weak.values() for part in way.values()]
    own = score(comparison.fused, "test", UNIQUE["test"]["text"].labels.numpy(), "auroc")
    assert of_test == pytest.approx([own] * 4)
    assert told == [(i, 4) for i in range(1, 5)]  # neither reference is fitted again
    json.dumps(weak, allow_nan=False)


def test_only_the_grid_point_that_won_is_fitted_again(unique):
    fused = unique[0].fused
    options = pinned(fused, config(dropout=0.1)).options
    assert options["learning_rates"] == [fused.fusion.trained.grid_point[0]] and options["widths"] == [8]
    assert options["dropout"] == 0.1 and options["epochs"] == 8
    assert pinned(compared(UNIQUE, "mean").fused, config()).options == {}


def test_val_is_weakened_as_train_is(unique, monkeypatch):
    seen, fit = [], weakness.fit_fusion

    def watched(settings, train, *, val, seed):
        seen.append({name: (int(train[name].present.sum()), int(val[name].present.sum())) for name in train})
        return fit(settings, train, val=val, seed=seed)

    monkeypatch.setattr(weakness, "fit_fusion", watched)
    weaken(unique[0], RULE, **WEAKENED | {"deviations": (0.0,)})
    assert seen == [{"text": (16, 16), "image": (160, 160)}, {"text": (160, 160), "image": (16, 16)}]


def test_a_rival_with_inputs_of_its_own_is_replaced_by_the_expert_and_said_so(unique):
    alone = {**unique[0].alone, "image": heard("image: trees", "encoder", "image", UNIQUE)}
    found = weaken(replace(unique[0], alone=alone), RULE, **WEAKENED | {"deviations": (0.0,)})
    part = found["starved"]["text"]
    assert part["beside"] == "image: the run's expert"
    assert any(line.startswith("image: trees reads inputs") for line in part["findings"])


def test_of_several_others_the_best_on_val_stands_beside():
    splits = generated("redundant", n=60, names=("text", "image", "tabular"))
    splits["val"]["image"].logits[:] = 0.0
    alone = {m: heard(m, "expert", m, splits) for m in splits["train"]}
    found = weaken(replace(compared(splits, "mean"), alone=alone), RULE, **WEAKENED)
    assert found["starved"]["text"]["stronger"] == "tabular" and found["starved"]["image"]["stronger"] == "text"


def test_a_part_that_is_never_there_is_none():
    splits = generated(n=60)
    for parts in splits.values():
        parts["image"] = parts["image"].without()
    comparison = compared(splits, "mean")
    found = weaken(comparison, RULE, **WEAKENED)
    nothing = {"text": None, "image": None}  # neither it, nor what no other could stand beside
    assert found == {"starved": nothing, "corrupted": nothing}
    assert compare_dropout(comparison) == []


# ------------------------------------------------------------------ the remedy


def test_modality_dropout_is_compared_with_none_of_it_under_every_condition(unique):
    rows = compare_dropout(unique[0], kept=0.1, rates=(0.0, 0.3))
    assert [(r["remedy"], r["weakened"], r["level"], r["condition"]) for r in rows] == [
        ("modality dropout 0.3", "text", 0.1, "all parts"),
        ("modality dropout 0.3", "text", 0.1, "image absent"),
        ("modality dropout 0.3", "image", 0.1, "all parts"),
        ("modality dropout 0.3", "image", 0.1, "text absent"),
    ]
    for row in rows:
        assert set(row["gain"]) == {"value", "low", "high"} and row["helps"] == (row["gain"]["low"] > 0)
    assert not rows[2]["helps"]  # the text alone told all before
    json.dumps(rows, allow_nan=False)


def test_a_remedy_that_teaches_the_starved_part_helps_where_it_stands_alone(unique, monkeypatch):
    """Fusions replaced by known ones: the one fitted with dropout has learned of the starved part what it tells."""

    def known(settings, train, *, val, seed):
        learned = settings.options["modality_dropout"] > 0
        image = 0.0 if learned else 5.0
        return lambda parts: (
            parts["text"].logits * parts["text"].present[:, None] * learned
            + parts["image"].logits * parts["image"].present[:, None] * image
        )

    monkeypatch.setattr(weakness, "fit_fusion", known)
    rows = compare_dropout(unique[0], rates=(0.0, 0.3))
    of_text = [row for row in rows if row["weakened"] == "text"]
    assert all(row["helps"] and row["gain"]["value"] == pytest.approx(0.5, abs=0.1) for row in of_text)


def test_one_group_of_near_duplicates_shows_no_help(unique):
    one = {
        name: Evidence(e.ids, ("g",) * len(e), e.features, e.logits, e.present, e.labels, e.seen)
        for name, e in UNIQUE["test"].items()
    }
    quick = Study({**UNIQUE, "test": one}, config(epochs=1), EXPERTS, RESAMPLING)
    rows = compare_dropout(replace(unique[0], study=quick), kept=0.1, rates=(0.0, 0.3))
    assert not any(row["helps"] for row in rows) and rows[0]["gain"]["low"] is None
    json.dumps(rows, allow_nan=False)


# ------------------------------------------------------------------ truncated sequences


class Texts:
    """A packed split of texts whose third word of six is the cue."""

    def __init__(self, ids, bits):
        self.ids, self.bits = ids, bits

    def take(self, rows):
        rows = list(rows)
        return Texts(tuple(self.ids[i] for i in rows), [self.bits[i] for i in rows])

    def values(self, name):
        return [f"the very {'good' if bit else 'bad'} old town here" for bit in self.bits]


class Reader:
    """Sees a cue where it still stands."""

    frozen, learned_from = False, frozenset()

    def __init__(self):
        self.passes = []

    def encode(self, values, progress=None):
        self.passes.append([values[i] for i in range(len(values))])
        said = torch.tensor([("good" in v) - ("bad" in v) for v in self.passes[-1]], dtype=torch.float32)
        features = torch.stack([said, said, said], dim=1)
        return {"features": features, "logits": torch.stack([-said, said], dim=1)}


def test_truncated_texts_are_encoded_again_in_train_and_val_and_the_fusion_adapts():
    splits = generated("redundant")
    shuffled = {
        split: Texts(parts["text"].ids[::-1], parts["text"].labels.tolist()[::-1]) for split, parts in splits.items()
    }
    reader, modalities = Reader(), {"text": Text(), "image": SimpleNamespace(corruptions=("blur",))}
    found = truncate(compared(splits), PackedInputs({"text": reader}, modalities, shuffled), RULE, rows=80)
    assert list(found) == ["text"] and [len(values) for values in reader.passes] == [80] * 4 + [20] * 4
    assert ["good" in values[0] or "bad" in values[0] for values in reader.passes] == [True, True, True, False] * 2
    part = found["text"]
    assert (part["kind"], part["stronger"], part["beside"]) == ("truncation", "image", "image: MLP head")
    assert [row["level"] for row in part["levels"]] == [0.0, 1.0, 3.0, 5.0]
    assert [row["outcome"] for row in part["levels"]] == [None, "adapts", "adapts", "adapts"]
    json.dumps(found, allow_nan=False)


def test_rows_that_the_packed_split_lacks_are_an_error():
    splits = generated("redundant", n=40)
    inputs = PackedInputs({"text": Reader()}, {"text": Text()}, {"train": Texts((), []), "val": Texts((), [])})
    with pytest.raises(
        DataError, match=r"40 of 40 rows of the Evidence of text are not in the packed split, 'train-0'"
    ):
        truncate(compared(splits, "mean"), inputs, RULE)
