"""Stacking finds out what each expert is worth, alone and beside the others."""

import subprocess
import sys
from dataclasses import replace

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bifocal.example import Evidence
from bifocal.models.fusions.stacking import MIN_ROWS, Stacking


def evidence(n=600, worth=None, structure=None, seed=0):
    """Experts whose logits tell their bit with a given strength; the label is the first bit unless a structure says."""
    g = torch.Generator().manual_seed(seed)
    worth = worth or {"text": 2.0, "image": 0.0}
    shared = torch.randint(0, 2, (n,), generator=g)
    bits = {m: torch.randint(0, 2, (n,), generator=g) if structure else shared for m in worth}
    labels = structure(*bits.values()).long() if structure else shared
    ids, there = tuple(f"r{i}" for i in range(n)), torch.ones(n, dtype=torch.bool)
    result = {}
    for name, strength in worth.items():
        z = strength * (2 * bits[name] - 1) + torch.randn(n, generator=g)
        logits = torch.stack([-z, z], dim=1) + torch.randn(n, 1, generator=g) * 50
        result[name] = Evidence(ids, ids, torch.zeros(n, 1), logits, there, labels, ~there)
    return result


def fit(rows):
    return Stacking().fit(rows, next(iter(rows.values())).labels, seeds=[0])


def auc(logits, labels):
    return roc_auc_score(labels, (logits[:, 1] - logits[:, 0]).numpy())


def only(rows, *names):
    return {name: e if name in names else e.without() for name, e in rows.items()}


def test_it_is_logistic_regression_on_the_margins():
    rows = evidence(worth={"text": 1.0, "image": 0.5})
    margins = torch.stack([e.logits[:, 1] - e.logits[:, 0] for e in rows.values()], dim=1).numpy()
    labels = rows["text"].labels
    reference = LogisticRegression(C=1e6).fit(margins, labels).predict_proba(margins)
    assert abs(fit(rows)(rows).softmax(dim=1).numpy() - reference).max() < 0.03


def test_an_expert_that_knows_nothing_gets_no_weight():
    weights = fit(evidence())
    shares = weights.explain(evidence(seed=1))
    assert shares["text"].mean() > 0.9
    assert torch.allclose(shares["text"] + shares["image"], torch.ones(600))


def test_two_experts_are_better_than_one():
    new = evidence(worth={"text": 0.7, "image": 0.7}, seed=1)
    fusion, labels = fit(evidence(worth={"text": 0.7, "image": 0.7})), new["text"].labels
    assert auc(fusion(new), labels) > max(auc(e.logits, labels) for e in new.values()) + 0.03


def test_an_absent_part_is_no_surprise_although_training_had_none():
    """A word that repeats another is worth less beside it: alone, an expert must count in full again."""
    rows = evidence(worth={"text": 1.0, "image": 1.0})
    rows["image"] = replace(rows["image"], logits=rows["text"].logits.clone())
    new = evidence(worth={"text": 1.0, "image": 1.0}, seed=1)
    fusion, labels = fit(rows), new["text"].labels
    alone = fusion(only(new, "text"))
    assert auc(alone, labels) == auc(new["text"].logits, labels)
    loss = torch.nn.functional.cross_entropy
    single = fit({"text": rows["text"]})({"text": new["text"]})
    assert abs(loss(alone, labels) - loss(single, labels)) < 0.01


def test_it_cannot_say_xor():
    worth = {"text": 3.0, "image": 3.0}
    fusion = fit(evidence(worth=worth, structure=torch.bitwise_xor))
    new = evidence(worth=worth, structure=torch.bitwise_xor, seed=1)
    assert 0.4 < auc(fusion(new), new["text"].labels) < 0.6


def test_parts_that_hardly_ever_met_fall_back_to_those_that_did():
    rows = evidence(n=100, worth={"text": 2.0, "image": 1.0})
    there = torch.arange(100) < 50
    met = there.clone()
    met[50 : 50 + MIN_ROWS - 1] = True
    rows = {"text": replace(rows["text"], present=met), "image": replace(rows["image"], present=~there)}
    fusion = fit(rows)
    new = evidence(n=100, worth={"text": 2.0, "image": 1.0}, seed=1)
    assert torch.equal(fusion(new), fusion(only(new, "text")))
    shares = fusion.explain(new)
    assert bool((shares["text"] == 1).all()) and bool((shares["image"] == 0).all())


def test_it_is_restored_without_scikit_learn(tmp_path):
    rows = evidence(n=60)
    config, tensors = fit(rows).state()
    torch.save((tensors, config, rows["text"].logits, fit(rows)(only(rows, "text"))), tmp_path / "state.pt")
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import torch; from bifocal.example import Evidence\n"
        "from bifocal.models.fusions.stacking import Stacking\n"
        f"tensors, config, logits, expected = torch.load({str(tmp_path / 'state.pt')!r})\n"
        "ids, there = tuple(map(str, range(60))), torch.ones(60, dtype=torch.bool)\n"
        "text = Evidence(ids, ids, torch.zeros(60, 1), logits, there, torch.zeros(60).long(), ~there)\n"
        "assert torch.equal(Stacking.restore(config, tensors)({'text': text, 'image': text.without()}), expected)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_where_few_rows_bear_both_the_one_that_many_bear_is_trusted():
    rng = torch.Generator().manual_seed(0)
    n, both = 300, 12
    labels = torch.randint(2, (n,), generator=rng)
    ids = tuple(map(str, range(n)))
    none = torch.zeros(n, dtype=torch.bool)

    def expert(present):
        logits = torch.stack([-(2.0 * labels - 1), 2.0 * labels - 1], dim=1) + torch.randn(n, 2, generator=rng)
        return Evidence(ids, ids, torch.zeros(n, 1), logits * present[:, None], present, labels, none)

    rows = torch.arange(n)
    evidence = {"a": expert(rows < 30), "b": expert(rows >= 30 - both)}
    fusion = Stacking().fit(evidence, labels, seeds=[0])
    weights = fusion.explain({name: e.take(range(30 - both, 30)) for name, e in evidence.items()})
    assert (weights["b"] == 1).all() and (weights["a"] == 0).all()
    again = Stacking.restore(*fusion.state())
    torch.testing.assert_close(again(evidence), fusion(evidence))
