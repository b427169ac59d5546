"""Trees over all parts cross them, say AND and XOR, fall back on what is there, and are saved as text in a tensor."""

import json
from dataclasses import replace

import pytest
import torch

from bifocal.config import FusionConfig
from bifocal.fit.fusion import fit_fusion, fusion_parameters, load_fusion, save_fusion
from bifocal.models.fusions.boosted import TREES, Boosted


@pytest.fixture
def kind():
    return Boosted


@pytest.fixture
def grown():
    """Fits the trees on rows with all or some of their columns to a tree."""

    def fit(rows, val=None, seeds=(0,), **options):
        labels = next(iter(rows.values())).labels
        return Boosted(**{"columns_per_tree": 1.0} | options).fit(rows, labels, seeds=seeds, val=val)

    return fit


@pytest.mark.parametrize("names", [("text", "image"), ("text", "image", "tabular")])
def test_it_says_and(evidence, names, grown, accuracy):
    fusion = grown(evidence("and", names=names), val=evidence("and", 300, 1, names))
    assert accuracy(fusion, evidence("and", 1000, 2, names)) > 0.95


def test_it_says_xor_where_a_tree_may_look_at_both_parts(evidence, grown, accuracy):
    """No single column tells of XOR, so that the first split is a guess: more rows than the heads need."""
    fusion = grown(evidence("xor", 4000), val=evidence("xor", 500, 1))
    assert accuracy(fusion, evidence("xor", 1000, 2)) > 0.95


def test_it_falls_back_on_the_part_that_is_there(evidence, grown, accuracy):
    new = evidence("first", 1000, 2)
    fusion = grown(evidence("first"))
    assert accuracy(fusion, {**new, "image": new["image"].without()}) > 0.95
    guess = fusion({**new, "text": new["text"].without()}).softmax(dim=1)
    assert bool(guess.isfinite().all()) and 0.3 < guess[:, 1].mean() < 0.7


def test_the_round_that_val_likes_best_is_the_last(evidence, grown):
    rows, val = evidence("first", 300, 3, spread=1.0), evidence("first", 300, 4, spread=1.0)
    stopped, whole = grown(rows, val), grown(rows, rounds_without_val=200)
    loss = torch.nn.functional.cross_entropy
    assert stopped.trees[0].rounds < whole.trees[0].rounds == 200
    assert loss(stopped(val), val["text"].labels) < loss(whole(val), val["text"].labels)


def test_a_class_without_training_rows_gets_logits_that_a_temperature_survives(evidence):
    rows = {m: replace(e, logits=torch.cat([e.logits, e.logits[:, :1]], dim=1)) for m, e in evidence("and").items()}
    logits = Boosted().fit(rows, rows["text"].labels, seeds=[0])(rows)
    assert logits.shape[1] == 3 and logits.min() >= -20
    assert logits.softmax(dim=1)[:, 2].max() < 0.01


def test_every_seed_is_an_ensemble_of_its_own(evidence, grown):
    rows, new = evidence("and", spread=0.6), evidence("and", 300, 1, spread=0.6)
    both = grown(rows, seeds=(3, 4), columns_per_tree=0.5)
    three, four = (grown(rows, seeds=(seed,), columns_per_tree=0.5)(new) for seed in (3, 4))
    assert not torch.equal(three, four)
    members = both.member_logits(new).softmax(dim=2)
    torch.testing.assert_close(members, torch.stack([three, four]).softmax(dim=2))
    torch.testing.assert_close(both(new).softmax(dim=1), members.mean(dim=0))


def test_copies_without_a_part_stand_beside_the_rows(evidence):
    present = {m: e.present.clone() for m, e in evidence("and", 100).items()}
    present["image"][:20] = False
    rows, parts, weights = Boosted()._copied(present, 0)
    assert rows[:100].tolist() == list(range(100)) and rows[100:].tolist() == list(range(20, 100))
    assert all(torch.equal(parts[m][:100], present[m]) for m in present)
    left = torch.stack([parts[m][100:] for m in present])
    assert (left.sum(dim=0) == 1).all() and 20 < left[0].sum() < 60
    assert weights == [1.0] * 100 + [0.15] * 80
    assert len(Boosted(modality_dropout=0.0)._copied(present, 0)[0]) == 100


def test_its_card_counts_leaves_and_splits_and_its_file_holds_text(evidence, tmp_path):
    config = FusionConfig(strategy="boosted", options={"rounds_without_val": 3}, seeds=2)
    rows = evidence("and")
    fusion = fit_fusion(config, rows, val=None, seed=0)
    save_fusion(fusion, config, tmp_path)
    leaves = sum(len(leaves) for trees in fusion.trees for leaves in trees.leaves)
    expected = dict.fromkeys(("total", "trained"), leaves + 2 * (leaves - 6))
    assert fusion_parameters(fusion) == expected
    assert json.loads((tmp_path / "config.json").read_text())["parameters"] == expected
    state = torch.load(tmp_path / "fusion_model.pt", weights_only=True)
    assert state[f"{TREES}1"].numpy().tobytes().decode() == fusion.trees[1].text
    assert torch.equal(load_fusion(tmp_path)(rows), fusion(rows))
