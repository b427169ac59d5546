"""How a fusion came about is told: from what it was chosen, how close that was, and whether anything was learned."""

from types import SimpleNamespace

import pytest
import torch

from bifocal import plugins
from bifocal.config import parse_config
from bifocal.contracts import Reporter
from bifocal.errors import ConfigError
from bifocal.example import Evidence
from bifocal.models.evidence_fusion import EvidenceFusion
from bifocal.pipeline.context import Context
from bifocal.pipeline.steps.fusion import _told_export, train_fusion
from bifocal.workspace import Workspace, read_json

N = 240
QUICK = {"candidates": ["alone", "mean", "stacking"]}


class Notes(Reporter):
    def __init__(self):
        self.notes, self.done = [], []

    def note(self, message):
        self.notes.append(message)

    def progress(self, done, total=None):
        self.done.append((done, total))


def rows(strength):
    """Modality -> Evidence of rows whose label the text alone knows, as far as its logits are strong."""
    g = torch.Generator().manual_seed(0)
    ids, there = tuple(map(str, range(N))), torch.ones(N, dtype=torch.bool)
    labels = torch.arange(N) % 2
    found = {}
    for name, known in (("text", strength), ("image", 0.0)):
        features = torch.randn(N, 4, generator=g)
        features[:, 0] += known * (2.0 * labels - 1)
        logits = torch.stack([-features[:, 0], features[:, 0]], dim=1)
        found[name] = Evidence(ids, ids, features, logits, there, labels, ~there)
    return found


def begun(folder, **fusion):
    """A run that stands before its fusion."""
    settings = {"strategy": "auto", "folds": 3, "seeds": 1, "options": QUICK, **fusion}
    config = parse_config(
        {"run": "r", "source": {"kind": "synthetic", "size": 40}, "fusion": settings, "decide": {"on": "cross_fit"}}
    )
    return Context.of(config, Workspace(folder / "r", "r"), Notes())


def learned(context, strength):
    """What the step gives where the rows are of some strength; its notes are on the context's reporter."""
    labels = [0, 1] * 10
    context.__dict__["data"] = SimpleNamespace(
        config=context.config,
        label=context.label,
        space=context.space,
        strategy=plugins.load("fusions", context.config.fusion.strategy),
        fusion_rows=rows(strength),
        in_sample=False,
        tuned_on="val",
        encoders={},
        split=lambda name: SimpleNamespace(fingerprint=name, classes=lambda *_: labels),
        evidence_of=lambda split: rows(strength),
    )
    return train_fusion(context)


def test_where_one_expert_knows_all_it_is_told_with_what_it_was_compared_to(tmp_path):
    context = begun(tmp_path)
    found = learned(context, 1.5)
    choice, notes = found["choice"], context.reporter.notes
    assert choice["alone"] == "text" and choice["class_shares"] == found["class_shares"]
    assert found["class_shares"]["beaten"] and found["class_shares"]["loss"] == pytest.approx(0.693, abs=0.01)
    assert notes[-1] == "text alone is enough" and any(n.startswith("class shares of train: ") for n in notes)
    assert context.reporter.done == [(1, 3), (2, 3), (3, 3)]
    assert read_json(context.space.fusion / "config.json")["choice"] == choice


@pytest.mark.parametrize("strategy", ["auto", "ensemble", "mean"])
def test_where_nothing_beats_the_class_shares_it_is_said(tmp_path, strategy):
    context = begun(tmp_path, strategy=strategy, **({"options": {}} if strategy == "mean" else {}))
    found = learned(context, 0.0)
    notes = "\n".join(context.reporter.notes)
    assert not found["class_shares"]["beaten"]
    assert "the fusion is not shown to tell the classes apart" in notes and "alone is enough" not in notes
    assert [c["name"] for c in found["choice"]["candidates"]] if strategy != "mean" else "choice" not in found


def test_a_fusion_that_cannot_be_exported_says_so_at_once(tmp_path):
    context = begun(tmp_path, options={"candidates": ["boosted"], "options": {"boosted": {"rounds": 5}}})
    learned(context, 1.5)
    assert "fusion boosted cannot be exported to ONNX" in context.reporter.notes[-1]


def test_a_strategy_that_fails_at_being_traced_costs_no_run():
    class Untraceable(EvidenceFusion):
        names, read, known, dims = ["a"], {"a": "logits"}, ["a"], {"a": 2}

        def traced(self, inputs, present):
            raise NotImplementedError("no tensors")

    fusion = Untraceable.__new__(Untraceable)
    (note,) = _told_export(fusion)
    assert "cannot be exported to ONNX" in note and "no tensors" in note


def test_what_only_some_candidates_read_is_told_and_what_none_reads_is_refused(tmp_path):
    context = begun(tmp_path, read={"text": "features"}, options={"candidates": ["alone", "linear"]})
    learned(context, 1.5)
    assert (
        "fusion.read.text = features: not read by alone, which read what they do by default" in context.reporter.notes
    )
    for strategy in ("auto", "ensemble"):
        with pytest.raises(ConfigError, match=r"read\.text = 'tokens': .* none reads it.*cross_attention"):
            begun(tmp_path, strategy=strategy, read={"text": "tokens"})
    with pytest.raises(ConfigError, match="auto takes one strategy"):
        begun(tmp_path, options={"members": {"linear": 3, "mean": 1}})
