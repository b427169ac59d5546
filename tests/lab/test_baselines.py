"""Which encoders are set beside an expert, and that they learn from the training rows and are heard on the others."""

import pytest

from bifocal.assess.run_data import RunData
from bifocal.config import ExpertConfig, parse_config
from bifocal.errors import ModelError
from bifocal.fit.expert import ExpertData
from bifocal.lab.baselines import fit_rivals, rivals
from bifocal.workspace import Workspace, read_json


@pytest.fixture(scope="module")
def work(records_run):
    config = parse_config(read_json(records_run / "run.json")["config"])
    return RunData.configured(config, Workspace(records_run, config.run))


def data_of(work, name):
    return ExpertData(name, work.modalities[name], work.packed, work.config.label, work.label)


def test_only_encoders_without_a_pretrained_model_are_rivals(work):
    from bifocal import plugins

    image = plugins.load("modalities", "image").from_config(work.config)
    assert rivals("image", image, "hf_image") == []
    assert [c.encoder for c in rivals("text", work.modalities["text"], "hf_text")] == ["tfidf_text"]
    assert rivals("text", work.modalities["text"], "tfidf_text") == []
    tabular = rivals("tabular", work.modalities["tabular"], "none of them")
    assert [c.encoder for c in tabular] == ["boosted_trees", "linear_tabular", "mlp_tabular"]
    assert all(isinstance(c, ExpertConfig) and c.tune for c in tabular)


def test_a_rival_is_fitted_and_heard_and_leaves_nothing(work, tmp_path):
    evidence = {split: work.evidence_of(split) for split in ("train", "val", "test")}
    [trees, columns], findings = fit_rivals(data_of(work, "tabular"), "mlp_tabular", evidence, seed=0, folder=tmp_path)
    assert (trees.name, trees.kind, trees.reads) == ("tabular: boosted_trees", "encoder", ("tabular",))
    assert columns.name == "tabular: linear_tabular"
    assert trees.logits["test"].shape == (len(evidence["test"]["tabular"]), 2) and trees.seconds > 0
    labels = evidence["test"]["tabular"].labels.numpy()
    assert (trees.probabilities("test").argmax(axis=1) == labels).mean() > 0.6
    assert trees.parameters["own"] == trees.parameters["trained"] > 0
    assert findings == [] and not any(tmp_path.iterdir())


def test_one_that_cannot_be_fitted_is_a_finding(work, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ModelError("the 300 training texts hold no term")

    monkeypatch.setattr("bifocal.lab.baselines.fit_expert", refuse)
    trials, findings = fit_rivals(data_of(work, "text"), "hf_text", {}, seed=0, folder=tmp_path)
    assert trials == [] and findings == [
        "text: tfidf_text is not among the baselines: the 300 training texts hold no term"
    ]
    assert not any(tmp_path.iterdir())
