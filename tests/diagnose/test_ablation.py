"""Ablation on rows whose bits are known: what each removal, drop, shuffle and noise must cost; and users' mistakes."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from bifocal.decide.calibration import softmax
from bifocal.diagnose.ablation import (
    Corrupting,
    ablate,
    averaged,
    corrupt_inputs,
    dropped,
    noisy,
    permuted,
    zeroed,
)
from bifocal.diagnose.scored_rows import ScoredRows
from bifocal.errors import ConfigError, DataError
from bifocal.evaluate.compare import Resampling, paired_gain
from bifocal.example import Evidence
from bifocal.modalities.tabular import Tabular
from bifocal.modalities.text import Text

LABELS = {
    "redundant": lambda t, v: t,
    "unique_text": lambda t, v: t,
    "and": lambda t, v: t & v,
    "xor": lambda t, v: t ^ v,
}
OFFSET = 3.0  # a zero is no middle of the data
FAST = Resampling("auroc", 200)


def generated(structure, n=400, *, seed=0, width=3, missing=0.0, groups=None):
    """Evidence of text and image: column 0 says the bit, the others nothing; logits say the bit too."""
    g = torch.Generator().manual_seed(seed)
    t, v = torch.arange(n) % 2, torch.arange(n) // 2 % 2
    labels = LABELS[structure](t, v)
    v = t if structure == "redundant" else v
    ids = tuple(f"{seed}-{i}" for i in range(n))
    made = {}
    for name, bit in {"text": t, "image": v}.items():
        features = OFFSET + 0.1 * torch.randn(n, width, generator=g)
        features[:, 0] = OFFSET + 2 * bit - 1 + 0.01 * torch.randn(n, generator=g)
        logits = torch.stack([-features[:, 0], features[:, 0]], dim=1) - torch.tensor([-OFFSET, OFFSET])
        there = torch.rand(n, generator=g) >= missing
        made[name] = Evidence(ids, tuple(groups or ids), features, logits, there, labels, torch.zeros(n) > 0)
    return made


def knowing(structure):
    """The scorer that knows the structure: P(y = 1) of what each part's column 0 says of its bit; absent says 1/2."""

    def score(evidence):
        p = {
            name: torch.where(e.present, torch.sigmoid(20 * (e.features[:, 0] - OFFSET)), 0.5)
            for name, e in evidence.items()
        }
        said = torch.zeros(len(evidence["text"]))
        for t in (0, 1):
            for v in (0, 1):
                if LABELS[structure](t, v):
                    said += (p["text"] if t else 1 - p["text"]) * (p["image"] if v else 1 - p["image"])
        said = said.clamp(1e-6, 1 - 1e-6)
        return torch.stack([1 - said, said], dim=1).log()

    return score


def ablated(structure, **changes):
    test, train = generated(structure), generated(structure, seed=1)
    return ablate(knowing(structure), test, train, FAST, **changes)


@pytest.mark.parametrize(
    ("structure", "text", "image"),
    [("unique_text", -0.5, 0), ("and", -1 / 6, -1 / 6), ("xor", -0.5, -0.5)],
)
def test_removing_a_modality_costs_what_it_was_worth(structure, text, image):
    found = ablated(structure)
    assert found["metric"] == "auroc" and found["intact"]["value"] == 1 and found["findings"] == []
    for name, cost in {"text": text, "image": image}.items():
        change = found["modalities"][name]["removed"]["absent"]["change"]
        assert change["value"] == pytest.approx(cost, abs=1e-6)
        assert change["low"] - 1e-6 <= cost <= change["high"] + 1e-6
        assert found["modalities"][name]["present"] == 1


def test_the_three_removals_differ_and_are_reported_apart():
    removed = ablated("and")["modalities"]["text"]["removed"]
    assert set(removed) == {"absent", "mean", "zeros"}
    assert removed["absent"]["value"] == pytest.approx(5 / 6) == removed["mean"]["value"]
    assert removed["zeros"]["value"] < 0.75  # a zero says "no" for sure, and AND believes it


def test_shuffling_and_noise_under_xor_end_at_chance_and_noise_costs_more_the_more_there_is():
    found = ablated("xor")["modalities"]["image"]
    assert found["permuted"]["low"] < 0.5 < found["permuted"]["high"]
    values = [row["value"] for row in found["noise"]]
    assert [row["deviations"] for row in found["noise"]] == [0.25, 0.5, 1, 2, 4]
    assert values == sorted(values, reverse=True) and values[0] > 0.99 and values[-1] < 0.7


def test_the_curve_of_drops_runs_from_intact_to_absent_along_its_known_values():
    found = ablated("unique_text", rates=(0, 0.25, 0.5, 0.75, 1))
    text = found["modalities"]["text"]
    curve = text["dropped"]["curve"]
    assert curve[0]["change"] == {"value": 0, "low": 0, "high": 0}
    assert {k: curve[-1][k] for k in ("value", "low", "high")} == {
        k: text["removed"]["absent"][k] for k in ("value", "low", "high")
    }
    for row in curve:  # two rows are told apart unless both lost their text, and then by chance
        known = 1 - row["rate"] ** 2 / 2
        assert row["low"] - 1e-9 <= known <= row["high"] + 1e-9
    area, values = text["dropped"]["area"], [row["value"] for row in curve]
    assert area["value"] == pytest.approx(np.mean([(a + b) / 2 for a, b in pairwise(values)]))
    assert area["change"]["high"] < 0 and area["change"]["value"] == pytest.approx(area["value"] - 1)
    assert found["modalities"]["image"]["dropped"]["area"]["change"]["value"] == 0


def test_a_change_is_the_paired_gain_on_the_same_resamples_of_groups():
    groups = [f"g{i // 8}" for i in range(120)]
    test, train = generated("and", 120, groups=groups), generated("and", seed=1)
    score = knowing("and")
    found = ablate(score, test, train, Resampling("accuracy", 50, 3))
    said = [softmax(score(e).numpy()) for e in (test, {**test, "text": test["text"].without()})]
    paired = paired_gain(test["text"].labels.numpy(), *said, groups, metric="accuracy", resamples=50, seed=3)
    change = found["modalities"]["text"]["removed"]["absent"]["change"]
    assert change == pytest.approx({k: paired[k] for k in ("value", "low", "high")})


def test_of_many_classes_macro_f1_is_measured_and_positives_are_a_list():
    n, classes = 90, 3
    labels = torch.arange(n) % classes
    ids = tuple(map(str, range(n)))
    logits = 4.0 * torch.nn.functional.one_hot(labels, classes)
    part = Evidence(ids, ids, logits, logits, torch.ones(n) > 0, labels, torch.zeros(n) > 0)

    def score(evidence):
        return torch.where(evidence["text"].present.unsqueeze(1), evidence["text"].logits, torch.tensor([1.0, 0, 0]))

    found = ablate(score, {"text": part}, {"text": part}, Resampling("macro_f1", 200))
    assert found["metric"] == "macro_f1" and found["positives"] == [30, 30, 30]
    absent = found["modalities"]["text"]["removed"]["absent"]
    assert absent["value"] == pytest.approx((0.5 + 0 + 0) / 3)  # all go to class 0: precision 1/3, recall 1


def test_scores_that_read_logits_are_disturbed_too():
    test, train = generated("unique_text"), generated("unique_text", seed=1)
    own = ablate(lambda evidence: evidence["text"].logits, test, train, FAST)["modalities"]["text"]
    assert own["noise"][-1]["change"]["high"] < 0 and own["removed"]["zeros"]["value"] == 0.5


def test_disturbances_leave_absent_rows_absent_and_everything_else_alone():
    part, train = (generated("and", seed=s, missing=0.3)["text"] for s in (0, 1))
    part.features[~part.present] = float("nan")  # whatever stands there is never read
    there = part.present
    made = [averaged(part, train), zeroed(part), noisy(part, train, 1.0, seed=0), permuted(part, seed=0)]
    for changed in made:
        assert torch.equal(changed.present, there) and changed.ids == part.ids
        assert torch.isfinite(changed.features[there]).all()
    assert torch.equal(made[0].features[there][0], train.features[train.present].mean(dim=0))
    shuffled = made[3].features[there]
    assert torch.equal(shuffled.sort(dim=0).values, part.features[there].sort(dim=0).values)
    assert not (shuffled == part.features[there]).all(dim=1).any()  # no row keeps its own
    one = permuted(part.take(there.nonzero().flatten().tolist()[:1]), seed=0)
    assert torch.equal(one.features[0], part.features[there][0])


def test_drops_are_nested_and_seeded_and_noise_is_scaled_to_each_feature():
    part = generated("and", 1000)["text"]
    lower, higher = (dropped(part, rate, seed=5) for rate in (0.3, 0.6))
    assert not (higher.present & ~lower.present).any()
    assert 0.6 < lower.present.float().mean() < 0.8
    assert not torch.equal(lower.present, dropped(part, 0.3, seed=6).present)
    assert dropped(part, 0, seed=5).present.all() and not dropped(part, 1, seed=5).present.any()
    added = noisy(part, part, 0.5, seed=0).features - part.features
    assert added.std(dim=0) == pytest.approx(0.5 * part.features.std(dim=0), rel=0.1)
    assert noisy(part, part, 1.0, seed=0).features - part.features == pytest.approx(2 * added, abs=1e-5)


def test_the_same_seed_gives_the_same_tables_and_they_are_json_without_nan():
    test, train = (generated("xor", 80, seed=s, missing=0.2) for s in (0, 1))
    first, second = (ablate(knowing("xor"), test, train, Resampling("auroc", 20)) for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)


def test_rows_without_a_label_are_left_out():
    test, train = generated("and", 80), generated("and", seed=1)
    labels = test["text"].labels.clone()
    labels[:20] = -1
    test = {name: Evidence(*(getattr(e, f) for f in ("ids", "groups", "features", "logits", "present")), labels, e.seen)
            for name, e in test.items()}  # fmt: skip
    assert ablate(knowing("and"), test, train, Resampling("auroc", 20))["n"] == 60


def test_what_the_rows_cannot_tell_is_a_finding():
    test, train = generated("and", 60, groups=["g"] * 60), generated("and", seed=1)
    test["image"] = test["image"].without()
    train["text"].features[:] = 7.0
    found = ablate(knowing("and"), test, train, Resampling("auroc", 20))
    said = " | ".join(found["findings"])
    assert "class 1 has 15, under 30" in said and "no test row has image" in said
    assert "one group" in said and "text is the same in every training row" in said
    change = found["modalities"]["image"]["removed"]["absent"]["change"]
    assert change == {"value": 0, "low": None, "high": None}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evidence": {}}, "found none"),
        ({"evidence": generated("and", 40) | {"image": generated("and", 40, seed=2)["image"]}}, "same split"),
        ({"evidence": {m: e.take(range(0, 40, 2)) for m, e in generated("unique_text", 40).items()}}, "all of class 0"),
        ({"train": {"text": generated("and")["text"]}}, "no Evidence of 'image'; known: text"),
        ({"train": {m: e.without() for m, e in generated("and").items()}}, "no training row has text"),
        ({"resampling": Resampling("nll", 10)}, "more is better, found 'nll'"),
        ({"rates": (0.5, 1)}, "ascend from 0 to 1"),
        ({"rates": (0, 1, 0.5)}, "ascend from 0 to 1"),
        ({"deviations": (0, 1)}, "above 0"),
        ({"score": lambda e: torch.zeros(3, 2)}, r"finite logits \[40, C\], found shape \[3, 2\]"),
        ({"score": lambda e: torch.full((40, 2), torch.nan)}, "with 80 not finite"),
    ],
)
def test_mistakes_are_named_in_one_line(change, message):
    asked = {"score": knowing("and"), "evidence": generated("and", 40), "train": generated("and", 40, seed=1)}
    with pytest.raises(DataError, match=message) as error:
        ablate(**asked | {"resampling": Resampling("auroc", 10)} | change)
    assert "\n" not in str(error.value)


def test_one_modality_alone_is_ablated_to_chance():
    test, train = ({"text": generated("unique_text", seed=s)["text"]} for s in (0, 1))
    found = ablate(lambda e: torch.where(e["text"].present.unsqueeze(1), e["text"].logits, 0.0), test, train, FAST)
    assert found["modalities"]["text"]["removed"]["absent"]["value"] == 0.5


# ------------------------------------------------------------------ inputs


WORDS = {0: "rain", 1: "snow"}


def encode(values):
    """Reads the cue word of a text."""
    said = [("snow" in text.split()) - ("rain" in text.split()) for text in (values[i] for i in range(len(values)))]
    features = torch.tensor(said, dtype=torch.float32).unsqueeze(1) + OFFSET
    return {"features": features, "logits": torch.cat([OFFSET - features, features - OFFSET], dim=1)}


class Counting(list):
    """Values that remember which of them were read."""

    def __init__(self, values):
        super().__init__(values)
        self.read = set()

    def __getitem__(self, i):
        self.read.add(i)
        return super().__getitem__(i)


def texts(n=300):
    evidence = generated("unique_text", n)
    values = Counting(f"one {WORDS[int(y)]} two three four" for y in evidence["text"].labels)
    encoded = encode(values)
    part = evidence["text"]
    flags = part.present.clone()
    flags[::10] = False
    evidence["text"] = Evidence(part.ids, part.groups, *encoded.values(), flags, part.labels, part.seen)
    values.read.clear()
    return evidence, values


def corrupt(evidence, values, **changes):
    corrupting = Corrupting(**{"corrupt": Text().corrupt, "kinds": Text.corruptions, "encode": encode} | changes)
    return corrupt_inputs(lambda e: e["text"].logits, evidence, "text", values, corrupting, Resampling("auroc", 100))


def test_dropped_words_cost_what_the_cue_among_them_was_worth():
    found = corrupt(*texts())
    assert found["n"] == 270 and found["intact"]["value"] == 1 and found["modality"] == "text"
    rows = found["kinds"]["word_drop"]
    assert [row["severity"] for row in rows] == [1, 2, 3, 4, 5] and all(row["changed"] == 1 for row in rows)
    for row, gone in zip(rows, (1, 1, 2, 2, 3), strict=True):  # of five words
        assert row["value"] == pytest.approx(1 - (gone / 5) ** 2 / 2, abs=0.03)
    assert rows[4]["change"]["high"] < rows[0]["change"]["low"]
    assert found["kinds"]["truncation"][-1]["value"] == 1  # the cue is the second word of two that are left
    json.dumps(found, allow_nan=False)


def test_only_the_drawn_rows_are_read_and_the_draw_is_seeded():
    evidence, values = texts()
    first = corrupt(evidence, values, rows=40, kinds=["typos"], severities=[3])
    assert first["n"] == 40 == len(values.read) and all(bool(evidence["text"].present[i]) for i in values.read)
    assert first == corrupt(evidence, values, rows=40, kinds=["typos"], severities=[3])


def test_a_corruption_that_alters_nothing_is_a_finding():
    evidence, values = texts(60)
    found = corrupt(evidence, values, corrupt=lambda value, *_: value, kinds=["typos"])
    assert found["kinds"]["typos"][4]["changed"] == 0 and "typos alters no text of these rows" in found["findings"]
    record = {"size": 3}
    assert Tabular().corrupt(record, "unseen", 5, np.random.default_rng(0)) == record  # why this can happen


def test_wrong_values_or_a_wrong_encoder_are_found_before_anything_is_measured():
    evidence, values = texts(60)
    with pytest.raises(DataError, match="encoding the first 16 values of text again does not give their Evidence"):
        corrupt(evidence, list(reversed(values)))
    with pytest.raises(DataError, match="one per row, found 59 for 60"):
        corrupt(evidence, list(values)[:-1])
    with pytest.raises(DataError, match="no Evidence of 'tabular' to corrupt; known: image, text"):
        corrupt_inputs(lambda e: 0, evidence, "tabular", values, Corrupting(None, [], encode), FAST)
    with pytest.raises(ConfigError, match="no corruption 'typo'; did you mean 'typos'"):
        corrupt(evidence, values, kinds=["typo"])
    with pytest.raises(DataError, match="at least two classes; the 0 annotated"):
        corrupt(evidence | {"text": evidence["text"].without()}, values)


def test_means_over_some_rows_are_those_of_the_rows():
    bench = ScoredRows.of(generated("and", 40), Resampling("auroc", 20))
    values, rows = np.arange(40.0), np.arange(40) < 10
    drawn = bench.means({"x": values}, rows)["x"]
    assert drawn.shape == (21,) and drawn[0] == 4.5 and 2 < np.nanmean(drawn[1:]) < 7
