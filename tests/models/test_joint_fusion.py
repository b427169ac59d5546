"""Fusions on tokens with encoders that have none, of any number of modalities, and what they say when things fail."""

import random

import pytest
import torch

from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, ModelError
from bifocal.example import Evidence, Rows
from bifocal.fit.fusion import with_tokens
from bifocal.models.encoders.hf_text import HfText
from bifocal.models.encoders.mlp_tabular import MlpTabular
from bifocal.models.encoders.tfidf_text import TfidfText
from bifocal.models.fusions.last_layers import LastLayers
from bifocal.models.joint_tokens import Backbone, PooledToken

N = 48
QUICK = {"width": 16, "epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "encoder_learning_rate": 1e-3, "layers": 1}


def posts(seed):
    """The label is in the text and, less surely, in the record."""
    rng = random.Random(seed)
    labels = [i % 2 for i in range(N)]
    texts = [f"{rng.choice(['old', 'new', 'grey'])} {('river', 'copper')[y]}" for y in labels]
    records = [{"length": rng.gauss(y, 1.0), "wood": rng.choice(["oak", "elm"])} for y in labels]
    return {"text": texts, "tabular": records}, torch.tensor(labels)


def evidence(encoders, seed):
    """As a run makes it for a fusion that tunes; rows 1, 9, ... lack the text, rows 4, 12, ... the record."""
    values, labels = posts(seed)
    ids, found = tuple(f"{seed}-{i}" for i in range(N)), {}
    for m, k in (("text", 1), ("tabular", 4)):
        if m in encoders:
            here, encoded = torch.arange(N) % 8 != k, encoders[m].encode(values[m])
            found[m] = Evidence(
                ids, ids, encoded["features"], encoded["logits"], here, labels, here & False, values=values[m]
            )
    return found


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    values, labels = posts(0)
    table = MlpTabular.create(ExpertConfig(options={"epochs": 1}), (0, 1), 0, values["tabular"])
    table.fit(Rows(values["tabular"], labels.tolist()), None, tmp_path_factory.mktemp("table"))
    return {"text": HfText.create(ExpertConfig(model="tiny"), (0, 1), 0, values["text"]), "tabular": table}


def fit(encoders, seed=0, val=True, **options):
    fusion, rows = LastLayers(**{**QUICK, **options}), evidence(encoders, 0)
    fusion.attach(encoders)
    labels = next(iter(rows.values())).labels
    return fusion.fit(rows, labels, seeds=[seed], val=evidence(encoders, 1) if val else None)


@pytest.fixture(scope="module")
def fitted(encoders):
    return fit(encoders)


def test_an_encoder_without_tokens_is_one_frozen_token(fitted, encoders):
    text, table = fitted.sources
    assert isinstance(text, Backbone) and isinstance(table, PooledToken)
    assert list(table.parameters()) == []
    part = evidence(encoders, 0)["tabular"]
    x = (part.features[part.present] - table.mean) / table.scale
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(x.shape[1]), atol=1e-5, rtol=0)
    new = evidence(encoders, 2)
    assert (fitted(with_tokens(fitted, new)).argmax(dim=1) == new["text"].labels).float().mean() > 0.8
    assert fitted.history[0]["grad_norm.tabular"] > 0  # its projection


def test_what_learned_is_counted(fitted):
    block = sum(p.numel() for p in fitted.sources[0].model.encoder.layer[-1].parameters())
    head = sum(p.numel() for p in fitted.model.head.parameters())
    assert fitted.parameters() == {"total": block + head, "trained": block + head}


def test_the_best_epoch_on_val_is_kept(encoders):
    """Far too high a rate: the last epochs are worse than the best."""
    fusion = fit(encoders, seed=1, epochs=4, learning_rate=0.1, patience=4)
    val = evidence(encoders, 1)
    said = torch.nn.functional.cross_entropy(fusion(with_tokens(fusion, val)), val["text"].labels)
    assert float(said) == pytest.approx(min(row["val_loss"] for row in fusion.history), abs=1e-3)


def test_one_modality_and_encoders_of_another_kind_will_do():
    values, labels = posts(0)
    encoder = TfidfText.create(ExpertConfig(options={"components": 4}), (0, 1), 0, values["text"])
    encoder.fit_head(encoder.encode(values["text"]), labels, [str(i) for i in range(N)])
    fusion, new = fit({"text": encoder}, val=False), evidence({"text": encoder}, 2)
    assert (fusion(with_tokens(fusion, new)).argmax(dim=1) == labels)[new["text"].present].float().mean() > 0.9


def test_remedies_tell_of_themselves(encoders):
    (row,) = fit(encoders, val=False, epochs=1, modulation=0.5, auxiliary=0.5).history
    assert 0 < row["coefficient.text"] <= 1 and 0 < row["coefficient.tabular"] <= 1
    assert min(row["coefficient.text"], row["coefficient.tabular"]) < 1
    assert "val_loss" not in row


def test_a_diverging_training_says_so(encoders):
    with pytest.raises(ModelError, match=r"diverged in epoch 1 .* lower learning_rate \(now 1e\+30\) and encoder_l"):
        fit(encoders, val=False, learning_rate=1e30, warmup=0.0)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="width 10 must be a multiple of heads 4"):
        LastLayers(width=10)


def test_it_says_that_it_cannot_be_exported_and_what_to_do(fitted):
    with pytest.raises(ModelError, match="last_layers reads tokens.* export for the engine torch.* such as concat"):
        fitted.traced({}, {})
