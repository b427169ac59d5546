"""Joint fusions with encoders that have no tokens, of any number of modalities, and what they say when things fail."""

import random

import pytest
import torch

from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, ModelError
from bifocal.example import Rows
from bifocal.models.encoders.hf_text import HfText
from bifocal.models.encoders.mlp_tabular import MlpTabular
from bifocal.models.encoders.tfidf_text import TfidfText
from bifocal.models.joint.last_layers import LastLayers
from bifocal.models.joint_tokens import Backbone, JointRows, PooledToken

N = 48
QUICK = {"width": 16, "epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "encoder_learning_rate": 1e-3, "layers": 1}


def rows(seed):
    """The label is in the text and, less surely, in the record."""
    rng = random.Random(seed)
    labels = [i % 2 for i in range(N)]
    texts = [f"{rng.choice(['old', 'new', 'grey'])} {('river', 'copper')[y]}" for y in labels]
    records = [{"length": rng.gauss(y, 1.0), "wood": rng.choice(["oak", "elm"])} for y in labels]
    here = {m: torch.arange(N) % 8 != k for m, k in (("text", 1), ("tabular", 4))}
    return JointRows({"text": texts, "tabular": records}, here, torch.tensor(labels))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    values, labels = rows(0).values, rows(0).labels.tolist()
    table = MlpTabular.create(ExpertConfig(options={"epochs": 1}), (0, 1), 0, values["tabular"])
    table.fit(Rows(values["tabular"], labels), None, tmp_path_factory.mktemp("table"))
    return {"text": HfText.create(ExpertConfig(model="tiny"), (0, 1), 0, values["text"]), "tabular": table}


@pytest.fixture(scope="module")
def fitted(encoders, tmp_path_factory):
    place = tmp_path_factory.mktemp("joint")
    fusion = LastLayers(**QUICK).fit(encoders, rows(0), classes=2, seed=0, checkpoints=place, val=rows(1))
    return fusion


def test_an_encoder_without_tokens_is_one_frozen_token(fitted, encoders):
    text, table = fitted.sources
    assert isinstance(text, Backbone) and isinstance(table, PooledToken)
    assert list(table.parameters()) == []
    here = rows(0).present["tabular"].nonzero().flatten().tolist()
    features = encoders["tabular"].encode([rows(0).values["tabular"][i] for i in here])
    x = (features["features"] - table.mean) / table.scale
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(x.shape[1]), atol=1e-5, rtol=0)
    new = rows(2)
    assert (fitted(new).argmax(dim=1) == new.labels).float().mean() > 0.8
    assert fitted.history[0]["grad_norm.tabular"] > 0  # its projection


def test_all_that_scores_a_row_is_counted(fitted, encoders):
    backbone = sum(p.numel() for p in encoders["text"].classifier.encoder.parameters())
    head = sum(p.numel() for p in fitted.model.head.parameters())
    assert fitted.parameters()["total"] == backbone + head + encoders["tabular"].parameters()["total"]


def test_the_best_epoch_on_val_is_kept(encoders, tmp_path):
    """Far too high a rate: the last epochs are worse than the best."""
    options = {**QUICK, "epochs": 4, "learning_rate": 0.1, "patience": 4}
    fusion = LastLayers(**options).fit(encoders, rows(0), classes=2, seed=1, checkpoints=tmp_path, val=rows(1))
    val = rows(1)
    loss = torch.nn.functional.cross_entropy(fusion(val)[val.present["text"]], val.labels[val.present["text"]])
    said = torch.nn.functional.cross_entropy(fusion(val), val.labels)
    assert float(said) == pytest.approx(min(row["val_loss"] for row in fusion.history), abs=1e-3)
    assert bool(loss.isfinite())


def test_one_modality_and_encoders_of_another_kind_will_do(tmp_path):
    values = rows(0)
    encoder = TfidfText.create(ExpertConfig(options={"components": 4}), (0, 1), 0, values.values["text"])
    labels = values.labels
    encoder.fit_head(encoder.encode(values.values["text"]), labels, [str(i) for i in range(N)])
    fusion = LastLayers(**QUICK).fit({"text": encoder}, values, classes=2, seed=0, checkpoints=tmp_path)
    assert (fusion(rows(2)).argmax(dim=1) == rows(2).labels)[rows(2).present["text"]].float().mean() > 0.9


def test_remedies_tell_of_themselves(encoders, tmp_path):
    options = {**QUICK, "epochs": 1, "modulation": 0.5, "auxiliary": 0.5}
    fusion = LastLayers(**options).fit(encoders, rows(0), classes=2, seed=0, checkpoints=tmp_path)
    (row,) = fusion.history
    assert 0 < row["coefficient.text"] <= 1 and 0 < row["coefficient.tabular"] <= 1
    assert min(row["coefficient.text"], row["coefficient.tabular"]) < 1
    assert "val_loss" not in row


def test_a_diverging_training_says_so(encoders, tmp_path):
    options = {**QUICK, "learning_rate": 1e30, "warmup": 0.0}
    with pytest.raises(ModelError, match=r"diverged in epoch 1 .* lower learning_rate \(now 1e\+30\)"):
        LastLayers(**options).fit(encoders, rows(0), classes=2, seed=0, checkpoints=tmp_path)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="width 10 must be a multiple of heads 4"):
        LastLayers(width=10)
