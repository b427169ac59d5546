import math
import random

import numpy as np
import pytest

from bifocal.diagnose.column_roles import as_number
from bifocal.diagnose.leaking_columns import LEAK, label_given_away
from bifocal.evaluate.metrics import auroc

rng = random.Random(1)
LABELS = [int(rng.random() < 0.3) for _ in range(400)]


def area(cells, labels=LABELS):
    return label_given_away(cells, labels, as_number)


@pytest.mark.parametrize(
    "cells",
    [
        [f"id{i}" for i in range(400)],
        list(range(400)),
        [rng.random() for _ in range(400)],
        [rng.choice("abc") for _ in range(400)],
        [rng.choice([f"v{i}" for i in range(200)]) for _ in range(400)],
        ["same"] * 400,
    ],
)
def test_an_id_and_chance_give_nothing_away(cells):
    assert area(cells) < 0.65


@pytest.mark.parametrize(
    "cells",
    [
        [{0: "fine", 1: "hate"}[y] for y in LABELS],
        [y + rng.random() / 2 for y in LABELS],
        [-y for y in LABELS],
        [None if y else f"free text {i}" for i, y in enumerate(LABELS)],  # told by what is filled in
        [float(abs(y * 5 - 2) == 3) for y in LABELS],
    ],
)
def test_the_label_in_other_words_does(cells):
    assert area(cells) > LEAK


def test_of_several_classes_one_is_enough():
    labels = [rng.choice("abc") for _ in range(400)]
    assert area([label == "a" for label in labels], labels) == 1.0


def test_of_few_rows_nothing_is_said():
    assert math.isnan(area([1] * 5 + [0] * 95, [1] * 5 + [0] * 95))


def test_rows_without_a_label_are_left_out():
    cells = [str(y) for y in LABELS] + ["1", "0"] * 100
    assert area(cells, [*LABELS, *[None] * 200]) == 1.0


def test_a_number_counts_by_its_ranks_as_elsewhere():
    numbers = [y + 2.5 * rng.gauss(0, 1) for y in LABELS]
    scaled = np.array(numbers)
    scaled = (scaled - scaled.min()) / (scaled.max() - scaled.min())
    assert area(numbers) == pytest.approx(max(auroc(LABELS, scaled), area(numbers)))
    assert area(numbers) >= auroc(LABELS, scaled) - 1e-9
