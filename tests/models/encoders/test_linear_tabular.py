"""Records as plain columns: what each column of the features is, and that nothing but the head looks at labels."""

import numpy as np
import pytest
import torch

from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, ModelError
from bifocal.evaluate.metrics import auroc
from bifocal.models.encoders.linear_tabular import LinearTabular
from bifocal.models.tabular import KNOWN, MISSING, RARE, UNSEEN


def records(n=400, seed=0):
    rng = np.random.default_rng(seed)
    sizes, towns = rng.normal(50, 20, n), rng.choice(["Bree", "Dale", "Esgaroth"], n)
    labels = (sizes / 20 + 2 * (towns == "Bree") + rng.normal(0, 0.5, n) > 3).astype(int)
    rows = [{"size": float(s), "town": str(t)} for s, t in zip(sizes, towns, strict=True)]
    return rows, torch.tensor(labels)


@pytest.fixture(scope="module")
def encoder():
    rows, _ = records()
    return LinearTabular.create(ExpertConfig(encoder="linear_tabular"), (0, 1), 0, [*rows, {"town": "Hobbiton"}])


def test_the_columns_are_numbers_flags_and_indicators(encoder):
    known = encoder.processor.known["town"]
    rows = [
        {"size": 50.0, "town": known[1]},
        {"size": None, "town": None},
        {"size": 1e9, "town": "Hobbiton"},
        {"town": "Rivendell"},
    ]
    features = encoder.encode(rows)["features"]
    assert features.shape == (4, 2 + KNOWN + len(known))
    assert features[:, 1].tolist() == [0, 1, 0, 1] and features[1, 0] == features[3, 0] == 0
    assert features[2, 0] == pytest.approx(3.0)  # cut off at the limit of the scaling
    assert features[:, 2:].argmax(dim=1).tolist() == [KNOWN + 1, MISSING, RARE, UNSEEN]
    assert features[:, 2:].sum(dim=1).tolist() == [1, 1, 1, 1]


def test_features_know_nothing_of_labels_and_the_head_learns(encoder):
    rows, labels = records()
    before = encoder.encode(rows)["features"]
    groups = [str(i) for i in range(len(rows))]
    history = encoder.fit_head({"features": before}, labels, groups)
    assert torch.equal(encoder.encode(rows)["features"], before)
    assert history[0]["penalty"] == encoder.penalty and history[0]["train_accuracy"] > 0.85
    new, truth = records(300, 1)
    assert auroc(truth.numpy(), encoder.encode(new)["logits"].softmax(1).numpy()) > 0.95
    crossed = encoder.cross_fit({"features": before}, labels, groups, folds=5, seed=0)
    assert not torch.allclose(crossed, encoder.head_logits({"features": before}))
    assert auroc(labels.numpy(), crossed.softmax(1).numpy()) > 0.95


def test_a_head_that_was_not_fitted_is_not_cross_fitted():
    rows, labels = records(50)
    encoder = LinearTabular.create(ExpertConfig(encoder="linear_tabular"), (0, 1), 0, rows)
    with pytest.raises(ModelError, match="not fitted"):
        encoder.cross_fit(encoder.encode(rows), labels, [str(i) for i in range(50)], folds=5, seed=0)


def test_settings_of_transformers_are_refused():
    with pytest.raises(ConfigError, match=r"experts.tabular.learning_rate"):
        LinearTabular.reach(ExpertConfig(encoder="linear_tabular", learning_rate=1e-5))
