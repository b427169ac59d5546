"""The weighted pool finds out what each expert is worth, and says it in one number each."""

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bifocal.errors import ConfigError
from bifocal.example import Evidence
from bifocal.models.fusions.weighted import Weighted


def experts(worth, n=2000, seed=0):
    """Experts whose logits say the same bit, each with a strength of its own and a unit of its own."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=g)
    ids, there = tuple(f"r{i}" for i in range(n)), torch.ones(n, dtype=torch.bool)
    result = {}
    for name, strength in worth.items():
        z = strength * (2 * labels - 1) + torch.randn(n, generator=g)
        result[name] = Evidence(ids, ids, torch.zeros(n, 1), torch.stack([-z, z], dim=1), there, labels, ~there)
    return result


def fit(rows):
    return Weighted().fit(rows, next(iter(rows.values())).labels, seeds=[0])


def auc(fusion, rows):
    return roc_auc_score(next(iter(rows.values())).labels, fusion(rows).softmax(dim=1)[:, 1])


def nll(fusion, rows):
    return torch.nn.functional.cross_entropy(fusion(rows), next(iter(rows.values())).labels).item()


def test_it_is_logistic_regression_where_no_weight_would_be_negative():
    rows = experts({"text": 1.0, "image": 0.5})
    margins = torch.stack([e.logits[:, 1] - e.logits[:, 0] for e in rows.values()], dim=1).numpy()
    model = LogisticRegression(C=1e6).fit(margins, rows["text"].labels)
    fusion = fit(rows)
    assert abs(fusion(rows).softmax(dim=1).numpy() - model.predict_proba(margins)).max() < 0.01
    # The weights are the coefficients per standard deviation, as shares of one.
    coefficients = torch.tensor(model.coef_[0] * margins.std(axis=0)).float()
    shares = [w[0] for w in fusion.explain(rows).values()]
    torch.testing.assert_close(torch.stack(shares), coefficients / coefficients.sum(), atol=0.01, rtol=0)


def test_weights_compare_experts_not_their_units():
    rows = experts({"text": 1.0, "image": 1.0})
    rows["image"] = replace(rows["image"], logits=rows["image"].logits * 1000 + torch.randn(2000, 1))
    weights = fit(rows).explain(rows)
    assert weights["image"][0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("worth", [0.0, -1.0])
def test_an_expert_that_knows_nothing_or_is_always_wrong_is_turned_down(worth):
    rows, new = experts({"text": 1.5, "image": worth}), experts({"text": 1.5, "image": worth}, seed=1)
    fusion = fit(rows)
    weights = fusion.explain(new)
    assert bool((weights["image"] < 0.06).all()) and bool((weights["text"] > 0.94).all())
    assert auc(fusion, new) > roc_auc_score(new["text"].labels, new["text"].logits[:, 1]) - 0.005


def test_two_experts_are_better_than_one_and_sure_enough():
    worth = {"text": 0.7, "image": 0.7}
    rows, new = experts(worth), experts(worth, seed=1)
    fusion, labels = fit(rows), new["text"].labels
    assert auc(fusion, new) > max(roc_auc_score(labels, e.logits[:, 1]) for e in new.values()) + 0.03
    alone = {"text": rows["text"]}
    assert nll(fusion, new) < nll(fit(alone), {"text": new["text"]}) - 0.05


def test_weights_are_renormalised_over_the_present_parts():
    rows = experts({"text": 2.0, "image": 1.0, "tabular": 0.5})
    fusion = fit(rows)
    text, image, tabular = (w[0] for w in fusion.explain(rows).values())
    assert text > image > tabular
    left = fusion.explain({**rows, "text": rows["text"].without()})
    assert bool((left["text"] == 0).all()) and left["image"][0] == pytest.approx(float(image / (image + tabular)))
    nothing = fusion.explain({name: e.without() for name, e in rows.items()})
    assert all(bool((w == 0).all()) for w in nothing.values())


def test_a_part_alone_counts_in_full_although_training_had_both():
    worth = {"text": 1.0, "image": 1.0}
    rows, new = experts(worth), experts(worth, seed=1)
    left = {**new, "image": new["image"].without()}
    assert nll(fit(rows), left) == pytest.approx(nll(fit({"text": rows["text"]}), {"text": new["text"]}), abs=0.002)


def test_few_rows_stay_near_equal_weights():
    rows = experts({"text": 2.0, "image": 0.0}, n=6)
    few = fit(rows)
    assert 0.5 < few.explain(rows)["text"][0] < 0.8 and bool(few(rows).isfinite().all())


def test_and_is_within_its_reach_and_xor_is_not(evidence):
    assert auc(fit(evidence("and")), evidence("and", 1000, 2)) > 0.97
    xor = auc(fit(evidence("xor")), evidence("xor", 1000, 2))
    assert 0.4 < xor < 0.6


def test_seeds_change_nothing():
    rows = experts({"text": 1.0, "image": 0.5}, n=100)
    first, second = (Weighted().fit(rows, rows["text"].labels, seeds=seeds)(rows) for seeds in ([0], [1, 2, 3]))
    assert torch.equal(first, second)


def test_it_reads_logits_and_has_no_options(evidence):
    rows = evidence("and", 200)
    with pytest.raises(ConfigError, match="weighted reads logits"):
        Weighted().fit(rows, rows["text"].labels, seeds=[0], read={"text": "features"})
    with pytest.raises(ConfigError, match="fusion 'weighted'"):
        Weighted(width=3)
