"""The loss and the figures of several labels: each of the rows that bear it."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from bifocal.errors import DataError
from bifocal.example import UNLABELLED, Rows
from bifocal.models.classifier import figures
from bifocal.models.label_losses import LabelColumns

LOGITS = torch.randn(6, 5, generator=torch.manual_seed(0))
LABELS = torch.tensor([[0, 2], [1, UNLABELLED], [1, 0], [UNLABELLED, 1], [0, UNLABELLED], [1, 1]])


def columns(weight=1.0):
    first, other = SimpleNamespace(classes=[0, 1], loss_weight=1.0), SimpleNamespace(classes="abc", loss_weight=weight)
    return LabelColumns.of(first, {"kind": other})


ALONE = LabelColumns((), (2,), (1.0,))


def of_each_label():
    for logits, labels in ((LOGITS[:, :2], LABELS[:, 0]), (LOGITS[:, 2:], LABELS[:, 1])):
        known = labels != UNLABELLED
        yield logits[known], labels[known]


def test_rows_bear_a_class_for_each_label():
    rows = Rows(["x", "y"], [0, 1], {"more": [1, 1], "kind": [2, UNLABELLED]})
    assert columns().rows(rows) == [(0, 2), (1, UNLABELLED)]
    assert ALONE.rows(rows) == [0, 1]
    with pytest.raises(DataError, match="heads for kind were added, and the rows bear no such labels"):
        columns().rows(Rows(["x"], [0], {"more": [1]}))


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_loss_is_the_weighted_mean_over_the_labels_of_their_annotated_rows(weight):
    first, other = (cross_entropy(*pair) for pair in of_each_label())
    torch.testing.assert_close(columns(weight).loss(LOGITS, LABELS), (first + weight * other) / (1 + weight))


def test_one_label_has_the_plain_loss_to_the_digit():
    logits, labels = LOGITS[:, :2].clone().requires_grad_(), torch.tensor([0, 1, 1, 0, 0, 1])
    plain = cross_entropy(logits, labels)
    loss = ALONE.loss(logits, labels)
    assert torch.equal(loss, plain)
    assert torch.equal(*(torch.autograd.grad(found, logits)[0] for found in (loss, plain)))


@pytest.mark.parametrize("annotated", [[True, False], [False, False]])
def test_a_label_that_no_row_bears_adds_nothing(annotated):
    logits = LOGITS.clone().requires_grad_()
    labels = torch.where(torch.tensor(annotated), LABELS, UNLABELLED)
    loss = columns().loss(logits, labels)
    expected = cross_entropy(*next(of_each_label())) / 2 if any(annotated) else torch.tensor(0.0)
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert logits.grad.isfinite().all() and not logits.grad[:, 2:].any() and not logits.grad[LABELS[:, 0] < 0].any()


def test_figures_are_of_each_label_and_their_mean_chooses():
    found = columns().figures(LOGITS, LABELS)
    first, other = (figures(*pair) for pair in of_each_label())
    means = {f"mean_{name}": (first[name] + other[name]) / 2 for name in first}
    assert found == first | {f"label.kind.{name}": value for name, value in other.items()} | means
    assert columns().judged_by("macro_f1") == "mean_macro_f1"


def test_figures_of_one_label_have_no_mean():
    known = LABELS[:, 0] != UNLABELLED
    assert ALONE.figures(LOGITS[known, :2], LABELS[known, 0]) == figures(LOGITS[known, :2], LABELS[known, 0])
    assert ALONE.judged_by("loss") == "loss"


def test_a_label_that_no_row_bears_has_no_figures():
    labels = torch.where(torch.tensor([True, False]), LABELS, UNLABELLED)
    first = figures(*next(of_each_label()))
    assert columns().figures(LOGITS, labels) == first | {f"mean_{name}": value for name, value in first.items()}
