"""An ensemble: picked by rows that its members have not seen, saved and exported as one."""

import json
from dataclasses import replace

import pytest
import torch

from bifocal import plugins
from bifocal.data.splits import fold_of
from bifocal.errors import PluginRefused
from bifocal.models.composite_fusion import CompositeFusion, mean_of_picks
from bifocal.models.exportable import FusionModule
from bifocal.models.folds import FoldRows
from bifocal.models.fusions.auto import Auto
from bifocal.models.fusions.ensemble import Ensemble, greedy_picks
from bifocal.models.heads import losses

FAST = {"widths": [16], "learning_rates": [1e-2], "weight_decays": [0.01], "epochs": 15}


def rows_of(evidence, folds=5):
    first = next(iter(evidence.values()))
    fold = torch.tensor(fold_of(first.groups, first.labels.tolist(), folds, 0))
    return FoldRows(evidence, first.labels, fold, [["text"], ["image"], list(evidence)])


def test_picks_are_greedy_and_with_replacement():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    truth = torch.stack([1.0 - labels, labels.float()], dim=1)
    good, other, noise = (truth * s + torch.randn(400, 2, generator=g) for s in (1.5, 1.2, 0.0))
    picks = greedy_picks(torch.stack([good, other, noise]), labels)
    assert picks[0] > picks[1] > 0 and picks[2] == 0 and sum(picks) <= 20
    mixed = losses(mean_of_picks(torch.stack([good, other, noise]), picks), labels).mean()
    assert mixed < losses(good, labels).mean()
    assert greedy_picks(torch.stack([good, good]), labels) == [1, 0]


def test_an_ensemble_says_of_a_fold_what_the_others_chose(evidence):
    rows = rows_of(evidence("and"))
    kind = Ensemble(candidates=["stacking", "linear", "mean"])
    found = kind.fit_folds(rows, seeds=[0], read={})
    assert found.logits.shape == (3, 1200, 2) and found.strategy is None
    flipped = FoldRows(
        rows.evidence, torch.where(rows.fold == 0, 1 - rows.labels, rows.labels), rows.fold, rows.patterns
    )
    members = {
        n: plugins.load("fusions", n)().fit_folds(rows, seeds=[0], read={}) for n in ("stacking", "linear", "mean")
    }
    # Its labels alone are others: for its own picks the fold is not looked at, for those of the others it is.
    before, after = kind.pick(members, (), rows), kind.pick(members, (), flipped)
    assert before[0] == after[0] and before[1:] != after[1:]


def test_what_was_picked_is_predicted_with_all_seeds(evidence):
    rows, kind = rows_of(evidence("xor")), Ensemble(candidates=["hadamard", "mean"], options={"hadamard": FAST})
    found = kind.fit_folds(rows, seeds=[0, 1, 2], read={})
    assert list(found.settings.members) == ["hadamard"]
    assert {candidate.name for candidate in found.candidates} == {"hadamard", "mean"}
    alone = plugins.load("fusions", "hadamard")(**FAST).fit_folds(rows, seeds=[0, 1, 2], read={})
    torch.testing.assert_close(found.logits.softmax(-1), alone.logits.softmax(-1), atol=1e-5, rtol=1e-5)


def test_wide_inputs_are_not_for_trees_unless_they_are_named(evidence):
    rows = evidence("and")
    wide = {m: replace(e, features=torch.cat([e.features] * 60, dim=1)) for m, e in rows.items()}
    assert sum(e.features.shape[1] for e in wide.values()) > 512
    assert Auto().left_out(rows, {}) == [] and Auto().left_out(wide, {}) == ["boosted"]
    assert Auto(candidates=["boosted", "mean"]).left_out(wide, {}) == []
    assert Auto().left_out(wide, dict.fromkeys(wide, "logits")) == []


@pytest.mark.parametrize("kind", [Auto, Ensemble])
def test_it_is_kept_and_exported_as_one(kind, evidence):
    rows, new = evidence("and"), evidence("and", n=60, seed=1)
    options = {"members": {"hadamard": 2, "stacking": 1}, "options": {"hadamard": FAST}}
    fusion = kind(**options).fit(rows, rows["text"].labels, seeds=[0, 1])
    config, tensors = fusion.state()
    again = kind.restore(json.loads(json.dumps(config)), tensors)
    assert torch.equal(again(new), fusion(new))
    counts = [member.parameters() for member in fusion.members.values()]
    assert fusion.parameters() == {k: sum(c[k] for c in counts) for k in ("total", "trained")}
    inputs = [torch.cat([e.features, e.logits], dim=1) for e in new.values()]
    traced = FusionModule(fusion)(*inputs, torch.ones(60, 2, dtype=torch.bool))
    torch.testing.assert_close(traced, fusion(new), atol=1e-5, rtol=1e-5)
    by_hand = torch.stack([2 * fusion.members["hadamard"](new).softmax(1), fusion.members["stacking"](new).softmax(1)])
    torch.testing.assert_close(fusion(new).softmax(1), by_hand.sum(dim=0) / 3, atol=1e-5, rtol=1e-5)


def test_a_folder_cannot_name_a_member_from_outside(evidence):
    rows = evidence("first")
    config, tensors = Ensemble(members={"mean": 1}).fit(rows, rows["text"].labels, seeds=[0]).state()
    config["members"] = {"evil.module:Class": config["members"]["mean"]}
    with plugins.restrict("config.json"), pytest.raises(PluginRefused):
        Ensemble.restore(config, tensors)


def test_members_read_what_is_asked_for_where_they_can(evidence):
    rows = evidence("and")
    fusion = Ensemble(members={"linear": 1, "stacking": 1}).fit(
        rows, rows["text"].labels, seeds=[0], read={"text": "features", "image": "logits"}
    )
    assert isinstance(fusion, CompositeFusion)
    assert fusion.members["linear"].read == {"text": "features", "image": "logits"}
    assert set(fusion.members["stacking"].read.values()) == {"logits"}
