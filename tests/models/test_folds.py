"""A row's Prediction owes nothing to its own fold: neither weights nor the epoch and grid point behind it."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from bifocal import plugins
from bifocal.decide.policy import patterns
from bifocal.errors import DataError
from bifocal.example import Evidence
from bifocal.models.folds import CrossFittable, FoldCurves, FoldRows, fold_heads
from bifocal.models.heads import Parts, Recipe, Scaling, fit_heads

CHEAP = [
    "alone",
    "attention",
    "bilinear",
    "boosted",
    "concat",
    "gated",
    "hadamard",
    "linear",
    "mean",
    "stacking",
    "weighted",
]
FAST = {"epochs": 6, "patience": 2, "learning_rates": [1e-2, 1e-3], "weight_decays": [0.01], "widths": [4, 8]}
TREES = {"rounds": 12, "patient_rounds": 3}


def evidence(n=90, seed=0, missing=0.2):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    ids = tuple(f"r{i}" for i in range(n))
    result = {}
    for name, width in (("text", 5), ("image", 3)):
        logits = torch.randn(n, 2, generator=g) + nn.functional.one_hot(labels, 2)
        features = torch.cat([logits, torch.randn(n, width, generator=g)], dim=1)
        there = torch.rand(n, generator=g) > (missing if name == "image" else 0)
        result[name] = Evidence(ids, ids, features, logits, there, labels, torch.zeros(n, dtype=torch.bool))
    return result


def rows(n=90, folds=3, **settings):
    found = evidence(n, **settings)
    return FoldRows(found, found["text"].labels, torch.arange(n) // 2 % folds, patterns(found))


def options(name, **settings):
    if name == "boosted":
        return TREES | {"rounds": settings.get("epochs", TREES["rounds"])}
    return FAST | settings if hasattr(plugins.load("fusions", name), "head") else {}


def fit_folds(name, given, seeds=(0, 1), **settings):
    return plugins.load("fusions", name)(**options(name, **settings)).fit_folds(given, seeds=seeds, read={})


# ---------------------------------------------------------------------------------------------- the choice


def test_every_cheap_fusion_can_be_cross_fitted_and_no_joint_one():
    found = [name for name in plugins.names("fusions") if issubclass(plugins.load("fusions", name), CrossFittable)]
    assert sorted(found) == sorted([*CHEAP, "auto", "ensemble"])  # the last two cross-fit the others


def test_a_fold_is_chosen_for_by_the_losses_of_the_others():
    curves = FoldCurves([10, 10], candidates=1, patience=5)
    means = torch.tensor([[3.0, 5.0], [2.0, 6.0], [1.0, 7.0]])  # fold 0 gets better, fold 1 worse
    better = [curves.add(epoch, 10 * found.unsqueeze(1)).flatten().tolist() for epoch, found in enumerate(means, 1)]
    assert better == [[True, True], [False, True], [False, True]]
    assert curves.epochs.flatten().tolist() == [1, 3, 1]  # of all: 4, 4, 4
    torch.testing.assert_close(curves.best.flatten(), torch.tensor([5.0, 1.0, 4.0], dtype=torch.double))


def test_folds_weigh_by_their_rows_and_a_curve_ends_without_patience():
    curves = FoldCurves([30, 10, 10], candidates=2, patience=2)
    sums = [[30.0, 10, 10], [60, 20, 20], [60, 20, 20], [3, 1, 1]]
    for epoch, found in enumerate(sums, 1):
        assert not curves.done
        curves.add(epoch, torch.tensor(found).unsqueeze(1) * torch.tensor([[1.0, 1 / epoch]]))
    assert curves.epochs.tolist() == [[1, 4]] * 4  # the first candidate's later, lower loss comes too late
    curves = FoldCurves([30, 10], candidates=1, patience=3)
    curves.add(1, torch.tensor([[30.0], [40.0]]))
    torch.testing.assert_close(curves.best.flatten(), torch.tensor([4.0, 1.0, 70 / 40], dtype=torch.double))


def test_a_loss_that_is_no_number_is_never_the_best():
    curves = FoldCurves([10, 10], candidates=2, patience=2)
    curves.add(1, torch.tensor([[torch.nan, 5.0], [torch.nan, 5.0]]))
    assert curves.best[:, 0].isinf().all() and curves.best.argmin(dim=1).tolist() == [1, 1, 1]


# ---------------------------------------------------------------------------------------------- heads


class Head(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.first, self.last = nn.Linear(sum(dims.values()), 6), nn.Linear(6, 2)
        self.dropout = nn.Dropout(0.2)

    def forward(self, inputs, present):
        return self.last(self.dropout(torch.tanh(self.first(torch.cat(list(inputs.values()), dim=-1)))))


def test_the_program_of_all_folds_gives_the_numbers_of_each_fold_alone():
    """As deployed heads of the same seeds, trained without the fold for the epochs that the others chose."""
    found = evidence(missing=0.3)
    labels = found["text"].labels
    train = Parts({m: e.features for m, e in found.items()}, {m: e.present for m, e in found.items()}, labels)
    fold = torch.arange(90) % 3  # folds of one size: an epoch takes all rows of each
    recipe = Recipe(epochs=5, patience=3, learning_rates=(1e-2, 3e-2), weight_decays=(0.1,), batch_size=16)

    def build(scaling):
        return Head({m: scaling.width(m) for m in train.inputs})

    keep = [("text",), ("image", "text")]
    scalings = FoldRows(found, labels, fold, keep).scalings(train, fold, {}, recipe.columns)
    heads = fold_heads(build, train, fold, scalings, seeds=[3, 4], recipe=recipe, patterns=keep)
    for k in range(3):
        some = train.take((fold != k).nonzero().flatten())
        out = train.take((fold == k).nonzero().flatten())
        scaling = Scaling.of(some)
        for g, (rate, decay) in enumerate(recipe.grid()):
            alone = recipe.model_copy(
                update={"learning_rates": (rate,), "weight_decays": (decay,), "epochs": int(heads.epochs[k, g])}
            )
            fitted = fit_heads(partial(build, scaling), some, None, seeds=[3, 4], recipe=alone, scaling=scaling).heads
            blanked = {**out.present, "image": torch.zeros_like(out.present["image"])}
            for p, there in enumerate((blanked, out.present)):
                expected = fitted(out.inputs, there).softmax(dim=-1).mean(dim=0)
                torch.testing.assert_close(heads.logits[g, p, fold == k].exp(), expected, atol=1e-4, rtol=1e-3)


def test_each_row_gets_the_grid_point_that_the_other_folds_chose():
    found = evidence()
    train = Parts(
        {m: e.features for m, e in found.items()}, {m: e.present for m, e in found.items()}, found["text"].labels
    )
    fold = torch.arange(90) % 3
    recipe = Recipe(epochs=4, patience=4, learning_rates=(1e-2, 3e-3, 1e-4), weight_decays=(0.1,))
    scalings = FoldRows(found, train.labels, fold, [("text", "image")]).scalings(train, fold, {}, recipe.columns)
    heads = fold_heads(
        lambda scaling: Head({m: scaling.width(m) for m in train.inputs}),
        train, fold, scalings, seeds=[0], recipe=recipe, patterns=[("text", "image")],
    )  # fmt: skip
    said = heads.predictions(fold)
    for k in range(3):
        assert torch.equal(said[0, fold == k], heads.logits[int(heads.best[k].argmin()), 0, fold == k])
    point, epoch = heads.chosen
    assert epoch == heads.epochs[-1, point] and heads.best[-1, point] == heads.best[-1].min()


# ---------------------------------------------------------------------------------------------- strategies


@pytest.mark.parametrize("name", CHEAP)
def test_what_is_said_of_a_row_does_not_depend_on_its_label(name):
    """With other labels of a fold its logits stay, of rows without parts too; its own losses choose nothing either."""
    given = rows()
    for part in given.evidence.values():
        part.present[:12] = False
    turned = given.labels.clone()
    turned[given.fold == 1] = 1
    other = FoldRows(given.evidence, turned, given.fold, given.patterns)
    # One epoch of one grid point: the losses of other folds, whose models heard these labels, have nothing to choose.
    one = {"epochs": 1, "widths": [4], "learning_rates": [1e-2]}
    first, second = (fit_folds(name, some, **one) for some in (given, other))
    own = given.fold == 1
    torch.testing.assert_close(first.logits[:, own], second.logits[:, own], atol=1e-5, rtol=1e-4)
    if name not in ("alone", "mean"):  # of rows with parts these know no labels
        assert not torch.allclose(first.logits[:, ~own], second.logits[:, ~own], atol=1e-4)


@pytest.mark.parametrize("name", CHEAP)
def test_the_settings_are_those_of_a_plain_fit(name):
    """What is deployed is one fit on all rows without val, and the settings say all that has to be known for it."""
    given, new = rows(), evidence(50, seed=7)
    found = fit_folds(name, given)
    assert found.logits.shape == (3, 90, 2) and bool(found.logits.isfinite().all())
    fusion = plugins.load("fusions", name)(**found.settings.model_dump(mode="json"))
    fusion.fit(given.evidence, given.labels, seeds=(0, 1))
    assert (fusion(new).argmax(dim=1) == new["text"].labels).float().mean() > 0.6
    if name == "boosted":
        assert fusion.trees[0].rounds == found.settings.rounds_without_val < TREES["rounds"] + 1
    if "grid" in dir(found.settings):
        assert len(found.settings.grid()) == len(found.settings.widths) == 1
        assert len(fusion.trained.history["train_loss"]) == found.settings.epochs <= FAST["epochs"]


@pytest.mark.parametrize("name", ["concat", "boosted", "stacking", "mean"])
def test_with_parts_blanked_each_row_is_heard_as_it_would_be_served(name):
    given = rows(missing=0)
    found = fit_folds(name, given)
    gone = {m: e if m == "text" else e.without() for m, e in given.evidence.items()}
    alone = FoldRows(gone, given.labels, given.fold, given.patterns)
    assert given.patterns[1] == ("text",)
    assert not torch.allclose(found.logits[1], found.logits[2], atol=1e-3)
    said = fit_folds(name, alone).logits  # learned without the picture: another model, that hears the same parts
    torch.testing.assert_close(said[1], said[2])
    if name == "mean":
        torch.testing.assert_close(said[1], found.logits[1])


@pytest.mark.parametrize("name", CHEAP)
def test_a_part_that_the_other_folds_never_had_is_absent(name):
    """As it would be for the model that is served: what stands there is not read."""
    given = rows(missing=0)
    there = given.fold == 0
    only = {**given.evidence, "image": given.evidence["image"].without((~there).nonzero().flatten().tolist())}
    wild = torch.where(there[:, None], given.evidence["image"].features * 1e6, 0)
    found = [
        fit_folds(name, FoldRows(rows_of, given.labels, given.fold, given.patterns)).logits[-1, there]
        for rows_of in (only, {**only, "image": replace(only["image"], features=wild, logits=wild[:, :2])})
    ]
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-3)


def test_a_class_of_one_fold_is_refused():
    given = rows()
    labels = (given.fold == 1).long()
    with pytest.raises(DataError, match="without fold 1 of 3 the 60 rows that are left bear one class"):
        fit_folds("stacking", FoldRows(given.evidence, labels, given.fold, given.patterns))
    with pytest.raises(DataError, match="without fold 1 of 3"):
        fit_folds("concat", FoldRows(given.evidence, labels, given.fold, given.patterns))
