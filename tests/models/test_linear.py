"""Linear heads agree with scikit-learn, and cross-fitted logits know nothing of their own row."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bifocal.errors import DataError
from bifocal.example import UNLABELLED
from bifocal.models.linear import cross_fit, fit_linear


def problem(n=200, d=6, classes=2, signal=1.0, seed=0):
    """Features of very different scales, labels that depend on them, and a group per row."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g)
    labels = (signal * z[:, :classes] + torch.randn(n, classes, generator=g)).argmax(dim=1)
    features = z * torch.logspace(-2, 2, d) + torch.arange(d) * 10
    return features, labels, [f"g{i}" for i in range(n)]


def noise(n=300, d=200, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), torch.randint(0, 2, (n,), generator=g), [f"g{i}" for i in range(n)]


def score(logits, labels):
    return roc_auc_score(labels, (logits[:, 1] - logits[:, 0]).numpy())


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_head_is_scikit_learns_on_standardised_features(classes):
    features, labels, groups = problem(classes=classes)
    features = torch.cat([features, torch.full((len(features), 1), 3.0)], dim=1)
    head = fit_linear(features, labels, groups, classes=classes, penalties=[0.1])
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(features, labels)
    np.testing.assert_allclose(head(features).softmax(1).numpy(), reference.predict_proba(features), atol=1e-4)
    assert head.weight.shape == (classes, 7) and head.bias.shape == (classes,) and head.weight.dtype == torch.float32


def sparse(features):
    """Mostly zeros, the larger features as they are."""
    return csr_array(torch.where(features.abs() > 1, features, 0.0).numpy())


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_of_sparse_features_is_scikit_learns(classes):
    features, labels, groups = noise(d=40)
    labels = labels if classes == 2 else torch.arange(len(labels)) % 3
    rows = sparse(features)
    head = fit_linear(rows, labels, groups, classes=classes, penalties=[0.1])
    reference = LogisticRegression(C=0.1, max_iter=1000).fit(rows, labels)
    assert head(rows).dtype == torch.float32
    np.testing.assert_allclose(head(rows).softmax(1).numpy(), reference.predict_proba(rows), atol=1e-5)
    torch.testing.assert_close(head(rows), head(torch.from_numpy(rows.toarray())), atol=1e-5, rtol=1e-5)


def test_sparse_features_are_held_out_by_group_too():
    features, labels, groups = (x[:100] for x in noise())
    rows, copied = sparse(features.repeat(3, 1)), labels.repeat(3)
    copied[::7] = UNLABELLED
    told = (copied != UNLABELLED).nonzero().flatten()
    alone = [f"g{i}" for i in range(300)]
    for shared, least, most in ((groups * 3, 0.3, 0.7), (alone, 0.9, 1.0)):
        logits = cross_fit(rows, copied, shared, classes=2, folds=5, seed=0, penalty=10.0)
        assert bool(logits.isfinite().all()) and least < score(logits[told], copied[told]) <= most
    strong, weak = (fit_linear(rows, copied, g, classes=2, folds=3).penalty for g in (groups * 3, alone))
    assert strong < weak


def test_a_class_without_rows_has_laplaces_odds_at_the_mean_of_sparse_features():
    features, labels, groups = noise(d=40)
    rows = sparse(features + 3)
    head = fit_linear(rows, labels * 2, groups, classes=3, penalties=[1.0])
    logits = head(csr_array(rows.mean(axis=0)[None]))
    assert (logits[0, 1] - logits[0, [0, 2]].logsumexp(0)).item() == pytest.approx(-np.log(301), abs=1e-3)


def test_binary_logits_are_opposite():
    features, labels, groups = problem()
    logits = fit_linear(features, labels, groups, classes=2)(features)
    assert torch.allclose(logits.sum(dim=1), torch.zeros(len(labels)), atol=1e-4)


def test_the_penalty_follows_the_signal():
    features, labels, groups = problem(n=1000, d=3, signal=5)
    assert fit_linear(*noise(), classes=2).penalty <= 1e-3
    assert fit_linear(features, labels, groups, classes=2).penalty >= 0.1


def test_the_penalty_is_chosen_across_groups():
    """Copies of a row in another fold would make memorising look wise."""
    features, labels, groups = (x[:60] for x in noise())
    copies, copied = features.repeat(4, 1), labels.repeat(4)
    assert fit_linear(copies, copied, groups * 4, classes=2).penalty <= 1e-3
    alone = [f"g{i}" for i in range(240)]
    assert fit_linear(copies, copied, alone, classes=2).penalty >= 0.1


def test_the_same_rows_give_the_same_head():
    first, second = (fit_linear(*problem(), classes=2) for _ in range(2))
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


def test_rows_without_annotation_are_left_out():
    features, labels, groups = problem()
    more = torch.cat([features, features[:5] + 100])
    marked = torch.cat([labels, torch.full((5,), UNLABELLED)])
    head = fit_linear(more, marked, groups + [f"x{i}" for i in range(5)], classes=2)
    assert torch.equal(head.weight, fit_linear(features, labels, groups, classes=2).weight)


@pytest.mark.parametrize("groups", [["a", "b", "c", "d"], ["a", "a", "b", "b"], ["a"] * 4])
def test_four_rows_are_enough_however_they_are_grouped(groups):
    features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.1, 0.9], [0.9, 0.2]])
    head = fit_linear(features, torch.tensor([0, 1, 0, 1]), groups, classes=2)
    assert head(features).argmax(dim=1).tolist() == [0, 1, 0, 1]


def test_a_class_without_rows_stays_possible_but_unlikely():
    features, labels, groups = problem()
    probabilities = fit_linear(features, labels * 3, groups, classes=5)(features).softmax(dim=1)
    assert probabilities.shape == (200, 5) and bool((probabilities > 0).all())
    assert probabilities[:, [1, 2, 4]].mean() < 0.01


def test_one_class_only_is_refused():
    features, labels, groups = problem()
    with pytest.raises(DataError, match="at least two classes apart; its 200 labelled rows show 1"):
        fit_linear(features, labels * 0, groups, classes=2)


def test_features_that_are_not_finite_are_refused():
    features, labels, groups = problem()
    features[7, 2] = torch.nan
    with pytest.raises(DataError, match="1 of 200 rows have features that are not finite"):
        fit_linear(features, labels, groups, classes=2)
    with pytest.raises(DataError, match="not finite"):
        cross_fit(features, labels, groups, classes=2, folds=5, seed=0, penalty=1.0)


def test_cross_fitted_logits_are_at_chance_where_there_is_nothing_to_know():
    features, labels, groups = noise()
    head = fit_linear(features, labels, groups, classes=2, penalties=[10.0])
    assert score(head(features), labels) > 0.99
    logits = cross_fit(features, labels, groups, classes=2, folds=5, seed=0, penalty=10.0)
    assert logits.shape == (300, 2) and 0.38 < score(logits, labels) < 0.62


def test_cross_fitted_logits_never_saw_a_copy_of_the_row():
    features, labels, groups = (x[:100] for x in noise())
    copies = features.repeat(3, 1), labels.repeat(3)
    held_out = cross_fit(*copies, groups * 3, classes=2, folds=5, seed=0, penalty=10.0)
    assert 0.3 < score(held_out, copies[1]) < 0.7
    leaking = cross_fit(*copies, [f"g{i}" for i in range(300)], classes=2, folds=5, seed=0, penalty=10.0)
    assert score(leaking, copies[1]) > 0.9


def test_cross_fitted_logits_are_as_good_as_the_signal():
    features, labels, groups = problem(n=600, signal=3)
    logits = cross_fit(features, labels, groups, classes=2, folds=5, seed=0, penalty=1.0)
    assert score(logits, labels) > 0.95


def test_rows_without_annotation_get_logits_but_teach_nothing():
    features, labels, groups = problem(n=100)
    labels[:10] = UNLABELLED
    logits = cross_fit(features, labels, groups, classes=2, folds=5, seed=0, penalty=1.0)
    assert bool(logits.isfinite().all())


def test_a_fold_may_be_left_with_one_class():
    features, labels, groups = problem(n=40)
    labels = (torch.arange(40) == 3).long()
    logits = cross_fit(features, labels, groups, classes=2, folds=5, seed=0, penalty=1.0)
    assert bool(logits.isfinite().all())


def test_cross_fitting_needs_two_groups():
    features, labels, _ = problem(n=40)
    with pytest.raises(DataError, match="two groups"):
        cross_fit(features, labels, ["same"] * 40, classes=2, folds=5, seed=0, penalty=1.0)
