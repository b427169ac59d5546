"""Trees come back from their text, count what they learned, and are the same whatever the number of threads."""

import lightgbm
import numpy as np
import pytest
import torch

from bifocal.models.trees import FLOOR, Growing, Trees, grow, least_rows, logits_of


def table(n=300, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    return x, ((x[:, 0] > 0).astype(int) + (x[:, 1] > 0)) % classes


SETTINGS = {"rounds": 40, "patience": 5, "settings": {"seed": 0, "num_leaves": 8}}


@pytest.mark.parametrize("classes", [2, 3])
def test_the_logits_are_lightgbms(classes):
    x, y = table(classes=classes)
    trees = Trees(grow((x, y), None, classes=classes, **SETTINGS), classes)
    said = trees.logits(x).softmax(dim=1).numpy()
    told = lightgbm.Booster(model_str=trees.text).predict(x)
    np.testing.assert_allclose(said[:, 1] if classes == 2 else said, told, atol=1e-6)
    assert trees.rounds == 40 and len(trees.leaves) == 40 * trees.scores
    leaves = sum(map(len, trees.leaves))
    assert trees.parameters()["total"] == leaves + 2 * (leaves - len(trees.leaves))


def test_val_ends_the_training():
    x, _ = table()
    noise = np.random.default_rng(1).integers(0, 2, 300)
    assert Trees(grow((x, noise), table(seed=2), classes=2, **SETTINGS), 2).rounds < 40


def test_few_rows_are_grown_without_a_word(capfd):
    few = table(n=8)
    growing = Growing(few, few, classes=2, settings={"max_bin": 63})
    growing.grow()
    Trees(growing.text(1), 2)
    assert capfd.readouterr() == ("", "")


def test_threads_change_nothing():
    x, y = table()
    threads = [SETTINGS["settings"] | {"num_threads": n} for n in (1, 2)]
    one, two = (Trees(grow((x, y), None, classes=2, **SETTINGS | {"settings": s}), 2) for s in threads)
    assert torch.equal(one.logits(x), two.logits(x, threads=1))


def test_no_rows_have_no_logits():
    x, y = table()
    assert Trees(grow((x, y), None, classes=2, **SETTINGS), 2).logits(x[:0]).shape == (0, 2)


def test_a_class_without_rows_stays_within_the_floor():
    x, y = table()
    assert Trees(grow((x, y), None, classes=3, **SETTINGS), 3).logits(x)[:, 2].min() >= FLOOR


def test_one_score_is_two_logits():
    torch.testing.assert_close(logits_of(torch.tensor([[2.0]])).softmax(1)[0, 1], torch.tensor(2.0).sigmoid())


def test_small_tables_get_small_leaves():
    assert [least_rows(n) for n in (10, 500, 10**6)] == [2, 10, 20]
