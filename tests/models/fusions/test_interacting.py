"""What every learned head of more than concatenation must do: say AND and XOR, and fall back on what is there."""

import pytest
import torch

from bifocal import plugins


@pytest.fixture(params=["attention", "bilinear", "gated", "hadamard"])
def kind(request):
    return plugins.load("fusions", request.param)


@pytest.mark.parametrize(
    ("structure", "least", "names"),
    [
        ("and", 0.97, ("text", "image")),
        ("xor", 0.95, ("text", "image", "tabular")),
        pytest.param("xor", 0.95, ("text", "image"), marks=pytest.mark.slow),
        pytest.param("and", 0.97, ("text", "image", "tabular"), marks=pytest.mark.slow),
    ],
)
def test_it_says_and_and_xor(evidence, structure, least, names, fitted, accuracy):
    fusion = fitted(evidence(structure, names=names), val=evidence(structure, 300, 1, names))
    assert accuracy(fusion, evidence(structure, 1000, 2, names)) > least


def test_one_modality_is_enough(evidence, fitted, accuracy):
    assert accuracy(fitted(evidence("first", names=("text",))), evidence("first", 1000, 2, ("text",))) > 0.97


def test_it_falls_back_on_the_part_that_is_there(evidence, fitted, accuracy):
    new = evidence("first", 1000, 2)
    fusion = fitted(evidence("first"))
    assert accuracy(fusion, {**new, "image": new["image"].without()}) > 0.97
    guess = fusion({**new, "text": new["text"].without()}).softmax(dim=1)
    assert bool(guess.isfinite().all()) and 0.35 < guess[:, 1].mean() < 0.65


def test_seeds_and_grid_points_together_are_those_one_by_one(evidence, fitted):
    rows, val = evidence("and", 200), evidence("and", 100, 1)
    few = {"epochs": 3, "weight_decays": [0.1]}
    many = fitted(rows, val, (3, 4), learning_rates=[1e-6, 1e-3], **few)
    assert many.trained.grid_point == (1e-3, 0.1)
    for seed, member in zip((3, 4), many.member_logits(val), strict=True):
        alone = fitted(rows, val, (seed,), learning_rates=[1e-3], **few)
        torch.testing.assert_close(alone.member_logits(val)[0], member, atol=1e-5, rtol=1e-5)
