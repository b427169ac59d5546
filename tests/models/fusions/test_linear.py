"""The linear fusion is logistic regression over all parts: it adds them up, and says nothing of how they interact."""

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bifocal.errors import ConfigError
from bifocal.models.exportable import FusionModule
from bifocal.models.fusions.linear import Linear


@pytest.fixture
def kind():
    return Linear


def fit(rows, **options):
    return Linear(**options).fit(rows, rows["text"].labels, seeds=[0])


def only(rows, *names):
    return {name: e if name in names else e.without() for name, e in rows.items()}


def test_it_is_logistic_regression_on_standardised_features(evidence):
    rows = evidence("and")
    x = torch.cat([e.features for e in rows.values()], dim=1)
    z = ((x - x.mean(dim=0)) / x.std(dim=0, correction=0)).numpy()
    reference = LogisticRegression(C=0.1).fit(z, rows["text"].labels).predict_proba(z)
    found = fit(rows, penalties=[0.1], modality_dropout=0)(rows).softmax(dim=1).numpy()
    assert abs(found - reference).max() < 1e-3


def test_it_says_and_but_no_xor(evidence, accuracy):
    assert accuracy(fit(evidence("and")), evidence("and", seed=1)) > 0.9
    assert accuracy(fit(evidence("xor")), evidence("xor", seed=1)) < 0.75


def test_a_part_that_is_left_out_is_learned_of_although_training_had_all(evidence):
    """Where the text says "on", the picture decides; a text that is not there is half of the time on."""
    rows, new = evidence("and"), evidence("and", seed=1)
    picture = only(new, "image")
    losses = {}
    for share in (0.0, 0.15):
        logits = fit(rows, modality_dropout=share)(picture)
        losses[share] = torch.nn.functional.cross_entropy(logits, new["text"].labels).item()
    prior = torch.nn.functional.cross_entropy(fit(rows).prior.expand(1200, 2), new["text"].labels).item()
    assert losses[0.15] < losses[0.0] and losses[0.15] < prior - 0.02


def test_weights_are_shares_of_what_the_parts_say(evidence):
    shares = fit(evidence("first")).explain(evidence("first", seed=1))
    assert shares["text"].mean() > 0.85
    alone = fit(evidence("first")).explain(only(evidence("first", seed=1), "image"))
    assert bool((alone["image"] == 1).all()) and bool((alone["text"] == 0).all())


def test_wide_parts_are_reduced_to_principal_components(evidence):
    fusion = fit(evidence("and"), columns=2)
    assert fusion.linear.weight.shape == (2, 6)
    again = Linear.restore(*fusion.state())
    new = evidence("and", seed=1)
    assert torch.equal(again(new), fusion(new))


def test_logits_may_be_read_too(evidence, accuracy):
    rows = evidence("and")
    fusion = Linear().fit(rows, rows["text"].labels, seeds=[0], read={"image": "logits"})
    assert fusion.read == {"text": "features", "image": "logits"}
    assert accuracy(fusion, evidence("and", seed=1)) > 0.85


def test_it_is_exported_as_it_decides(evidence):
    fusion, new = fit(evidence("and")), evidence("and", n=50, seed=1)
    there = torch.arange(50) % 3 != 0
    new["image"] = replace(new["image"], present=there)
    present = torch.stack([torch.ones(50, dtype=torch.bool), there], dim=1)
    traced = FusionModule(fusion)(*(e.features for e in new.values()), present)
    torch.testing.assert_close(traced, fusion(new))


def test_a_penalty_must_be_positive():
    with pytest.raises(ConfigError, match="penalties"):
        Linear(penalties=[0])
