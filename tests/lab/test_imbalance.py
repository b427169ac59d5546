"""Fusions refitted on what was weakened: levels of train and val, who stands beside F, the remedy, known outcomes."""

import json
from types import SimpleNamespace

import pytest
import torch

from bifocal.config import FusionConfig, ImbalanceRule
from bifocal.errors import DataError
from bifocal.evaluate.compare import Resampling
from bifocal.example import Evidence
from bifocal.lab import imbalance as weakness
from bifocal.lab.imbalance import compare_dropout, pinned, truncate, weaken
from bifocal.lab.trials import fit_head_trial, fit_trial, hear_expert, score
from bifocal.modalities.text import Text

EXPERTS = {"text": {"total": 100, "trained": 10}, "image": {"total": 100, "trained": 10}}
QUICK = {"learning_rates": [1e-2, 2e-2], "weight_decays": [0.01], "widths": [8], "epochs": 8, "batch_size": 16}
RESAMPLING = Resampling("auroc", 60)
WEAKENED = {"resampling": RESAMPLING, "rule": ImbalanceRule(), "kept": (1.0, 0.1), "deviations": (0.0, 4.0)}


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


def trials(splits, strategy="concat"):
    """F, and the best model of each modality: a head, but for the image the expert."""
    fused = fit_trial(strategy, "fusion", config(strategy), splits, seed=0, experts=EXPERTS)
    head = fit_head_trial("text", config(), splits, seed=0, experts=EXPERTS)
    expert = hear_expert("vision_expert", "expert", "image", splits, parameters=EXPERTS["image"], seconds=None)
    return fused, {"text": head, "image": expert}


UNIQUE = generated()


@pytest.fixture(scope="module")
def unique():
    """Splits of which the text tells all, F and its rivals, what `weaken` finds, and the progress it told."""
    told = []
    fused, alone = trials(UNIQUE)
    weak = weaken(fused, alone, UNIQUE, config(), progress=lambda *at: told.append(at), **WEAKENED)
    return fused, alone, weak, told


def test_what_says_nothing_may_starve_and_the_fusion_adapts(unique):
    _, _, weak, _ = unique
    for way in ("starved", "corrupted"):
        found = weak[way]["image"]
        assert found["stronger"] == "text" and found["beside"] == "text: MLP head"
        assert [row["outcome"] for row in found["levels"]] == [None, "adapts"]
        assert found["expert"]["intact"]["value"] > 0.99 and found["expert"]["loss"]["value"] > 0
    assert [row["level"] for row in weak["starved"]["image"]["levels"]] == [1.0, 0.1]
    assert [row["rows"] for row in weak["starved"]["image"]["levels"]] == [160, 16]
    assert [row["level"] for row in weak["corrupted"]["text"]["levels"]] == [0.0, 4.0]


def test_the_model_beside_is_the_expert_by_its_logits_where_it_is_the_best(unique):
    found = unique[2]["starved"]["text"]
    assert found["beside"] == "vision_expert" and found["expert"]["intact"]["value"] == pytest.approx(0.5, abs=0.1)


def test_the_reference_is_the_fusion_itself_and_the_rest_is_told(unique):
    fused, _, weak, told = unique
    of_test = [part["levels"][0]["intact"]["value"] for way in weak.values() for part in way.values()]
    own = score(fused, "test", UNIQUE["test"]["text"].labels.numpy(), "auroc")
    assert of_test == pytest.approx([own] * 4)
    assert told == [(i, 4) for i in range(1, 5)]  # neither reference is fitted again
    json.dumps(weak, allow_nan=False)


def test_only_the_grid_point_that_won_is_fitted_again(unique):
    fused, _, _, _ = unique
    options = pinned(fused, config(dropout=0.1)).options
    assert options["learning_rates"] == [fused.fusion.trained.grid_point[0]] and options["widths"] == [8]
    assert options["dropout"] == 0.1 and options["epochs"] == 8
    late, _ = trials(UNIQUE, "mean")
    assert pinned(late, config()).options == {}


def test_val_is_weakened_as_train_is(unique, monkeypatch):
    fused, alone, _, _ = unique
    seen, fit = [], weakness.fit_fusion

    def watched(settings, train, *, val, seed):
        seen.append({name: (int(train[name].present.sum()), int(val[name].present.sum())) for name in train})
        return fit(settings, train, val=val, seed=seed)

    monkeypatch.setattr(weakness, "fit_fusion", watched)
    weaken(fused, alone, UNIQUE, config(), **WEAKENED | {"deviations": (0.0,)})
    assert seen == [{"text": (16, 16), "image": (160, 160)}, {"text": (160, 160), "image": (16, 16)}]


def test_a_rival_with_inputs_of_its_own_is_replaced_by_the_expert_and_said_so(unique):
    fused, alone, _, _ = unique
    trees = hear_expert("image: trees", "encoder", "image", UNIQUE, parameters=EXPERTS["image"], seconds=1.0)
    found = weaken(fused, {**alone, "image": trees}, UNIQUE, config(), **WEAKENED | {"deviations": (0.0,)})
    part = found["starved"]["text"]
    assert part["beside"] == "image: the run's expert"
    assert any(line.startswith("image: trees reads inputs") for line in part["findings"])


def test_of_several_others_the_best_on_val_stands_beside():
    splits = generated("redundant", n=60, names=("text", "image", "tabular"))
    splits["val"]["image"].logits[:] = 0.0
    fused = fit_trial("mean", "fusion", config("mean"), splits, seed=0, experts={**EXPERTS, "tabular": EXPERTS["text"]})
    alone = {m: hear_expert(m, "expert", m, splits, parameters=EXPERTS["text"], seconds=None) for m in splits["train"]}
    found = weaken(fused, alone, splits, config("mean"), **WEAKENED)
    assert found["starved"]["text"]["stronger"] == "tabular" and found["starved"]["image"]["stronger"] == "text"


def test_a_part_that_is_never_there_is_none():
    splits = generated(n=60)
    for parts in splits.values():
        parts["image"] = parts["image"].without()
    fused, alone = trials(splits, "mean")
    found = weaken(fused, alone, splits, config("mean"), **WEAKENED)
    nothing = {"text": None, "image": None}  # neither it, nor what no other could stand beside
    assert found == {"starved": nothing, "corrupted": nothing}
    assert compare_dropout(fused, splits, config("mean"), RESAMPLING) == []


# ------------------------------------------------------------------ the remedy


def test_modality_dropout_is_compared_with_none_of_it_under_every_condition(unique):
    fused, _, _, _ = unique
    rows = compare_dropout(fused, UNIQUE, config(), RESAMPLING, kept=0.1, rates=(0.0, 0.3))
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
    fused, _, _, _ = unique

    def known(settings, train, *, val, seed):
        learned = settings.options["modality_dropout"] > 0
        image = 0.0 if learned else 5.0
        return lambda parts: (
            parts["text"].logits * parts["text"].present[:, None] * learned
            + parts["image"].logits * parts["image"].present[:, None] * image
        )

    monkeypatch.setattr(weakness, "fit_fusion", known)
    rows = compare_dropout(fused, UNIQUE, config(), RESAMPLING, rates=(0.0, 0.3))
    of_text = [row for row in rows if row["weakened"] == "text"]
    assert all(row["helps"] and row["gain"]["value"] == pytest.approx(0.5, abs=0.1) for row in of_text)


def test_one_group_of_near_duplicates_shows_no_help(unique):
    fused, _, _, _ = unique
    one = {
        name: Evidence(e.ids, ("g",) * len(e), e.features, e.logits, e.present, e.labels, e.seen)
        for name, e in UNIQUE["test"].items()
    }
    rows = compare_dropout(fused, {**UNIQUE, "test": one}, config(epochs=1), RESAMPLING, kept=0.1, rates=(0.0, 0.3))
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
    fused, alone = trials(splits)
    reader = Reader()
    found = truncate(
        fused, alone, splits, config(), {"text": reader, "image": None},
        {"text": Text(), "image": SimpleNamespace(corruptions=("blur",))}, shuffled,
        rule=ImbalanceRule(), severities=(1, 5), rows=80, resampling=RESAMPLING,
    )  # fmt: skip
    assert list(found) == ["text"] and [len(values) for values in reader.passes] == [80] * 3 + [20] * 3
    assert ["good" in values[0] or "bad" in values[0] for values in reader.passes] == [True, True, False] * 2
    part = found["text"]
    assert (part["kind"], part["stronger"], part["beside"]) == ("truncation", "image", "image: MLP head")
    assert [row["level"] for row in part["levels"]] == [0.0, 1.0, 5.0]
    assert [row["outcome"] for row in part["levels"]] == [None, "adapts", "adapts"]
    json.dumps(found, allow_nan=False)


def test_rows_that_the_packed_split_lacks_are_an_error():
    splits = generated("redundant", n=40)
    fused, alone = trials(splits, "mean")
    with pytest.raises(
        DataError, match=r"40 of 40 rows of the Evidence of text are not in the packed split, 'train-0'"
    ):
        truncate(
            fused, alone, splits, config("mean"), {"text": Reader()}, {"text": Text()},
            {"train": Texts((), []), "val": Texts((), [])}, rule=ImbalanceRule(), resampling=RESAMPLING,
        )  # fmt: skip
