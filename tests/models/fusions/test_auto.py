"""The smallest strategy that rows it has not seen cannot tell from the best."""

import pytest
import torch

from bifocal.data.splits import fold_of
from bifocal.errors import ConfigError
from bifocal.models.folds import FoldRows
from bifocal.models.fusions.auto import Auto

FAST = {"widths": [16], "learning_rates": [1e-2], "weight_decays": [0.01], "epochs": 15}


def rows_of(evidence, folds=5):
    first = next(iter(evidence.values()))
    fold = torch.tensor(fold_of(first.groups, first.labels.tolist(), folds, 0))
    return FoldRows(evidence, first.labels, fold, [["text"], ["image"], list(evidence)])


def folded(kind, evidence, seeds=(0, 1)):
    return kind.fit_folds(rows_of(evidence), seeds=seeds, read={})


def test_every_strategy_that_takes_seconds_is_a_candidate_and_none_that_is_made_of_others():
    found = Auto()._candidates()
    assert {"alone", "mean", "stacking", "linear", "concat", "boosted"} <= set(found)
    assert not {"auto", "ensemble", "lora", "cross_attention"} & set(found)
    with pytest.raises(ConfigError, match="candidates names lora"):
        Auto(candidates=["mean", "lora"])._candidates()
    with pytest.raises(ConfigError, match="members names cross_attention"):
        Auto(members={"cross_attention": 3})._candidates()
    with pytest.raises(ConfigError, match="options names 'linaer', which is not compared; did you mean 'linear'"):
        Auto(options={"linaer": {"penalties": [1.0]}})._candidates()


def test_where_one_expert_knows_all_it_decides_alone(evidence):
    rows = evidence("first")
    found = folded(Auto(candidates=["alone", "stacking", "linear"]), rows)
    assert found.strategy == "alone"
    assert [c.name for c in found.candidates] != [] and found.candidates[0].behind == 0
    assert all(c.error >= 0 for c in found.candidates)


def test_where_parts_interact_a_head_is_taken(evidence):
    found = folded(Auto(candidates=["alone", "stacking", "hadamard"], options={"hadamard": FAST}), evidence("xor"))
    assert found.strategy == "hadamard" and found.settings.epochs <= 15
    best, *others = found.candidates
    assert best.name == "hadamard" and min(c.behind for c in others) > 0.2


def test_the_winner_speaks_with_all_seeds(evidence):
    kind = Auto(candidates=["hadamard"], options={"hadamard": FAST})
    three, two = folded(kind, evidence("xor"), seeds=(0, 1, 2)), folded(kind, evidence("xor"))
    assert not torch.equal(three.logits, two.logits) and three.candidates == two.candidates


def test_side_by_side_strategies_say_the_same_to_the_digit(evidence):
    """Heads draw their first weights from torch's one global generator, and turn off its one fast attention."""
    names = ["attention", "concat", "gated", "hadamard", "linear"]
    kind = Auto(candidates=names, options=dict.fromkeys(names[:-1], FAST))
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found.append(kind._cross_fit(names, rows_of(evidence("xor")), (0, 1), {}))
        finally:
            torch.set_num_threads(before)
    assert list(found[0]) == list(found[1]) == names
    assert all(torch.equal(found[0][name].logits, found[1][name].logits) for name in names)
