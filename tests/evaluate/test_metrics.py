"""The figures agree with scikit-learn and with hand-worked cases, and refuse input that makes no sense."""

import numpy as np
import pytest
from sklearn import metrics as sk

from bifocal.errors import DataError
from bifocal.evaluate import metrics
from bifocal.evaluate.metrics import METRICS, accuracy, auprc, auroc, brier, ece, macro_f1, nll


def simplex(n: int, c: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities, each row twice so that there are ties."""
    rng = np.random.default_rng(0)
    p = np.repeat(rng.dirichlet(np.ones(c), n // 2), 2, axis=0)
    return np.array([rng.choice(c, p=row) for row in p]), p


def test_binary_figures_are_scikit_learns_in_both_shapes():
    y, p = simplex(300, 2)
    for given in (p, p[:, 1]):
        assert accuracy(y, given) == pytest.approx(sk.accuracy_score(y, p[:, 1] >= 0.5))
        assert macro_f1(y, given) == pytest.approx(sk.f1_score(y, p[:, 1] >= 0.5, average="macro"))
        assert auroc(y, given) == pytest.approx(sk.roc_auc_score(y, p[:, 1]))
        assert auprc(y, given) == pytest.approx(sk.average_precision_score(y, p[:, 1]))
        assert brier(y, given) == pytest.approx(((p[:, 1] - y) ** 2).mean())
        assert nll(y, given) == pytest.approx(sk.log_loss(y, p))


def test_multiclass_figures_are_scikit_learns():
    y, p = simplex(300, 4)
    assert accuracy(y, p) == pytest.approx(sk.accuracy_score(y, p.argmax(1)))
    assert macro_f1(y, p) == pytest.approx(sk.f1_score(y, p.argmax(1), average="macro"))
    assert auroc(y, p) == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", average="macro"))
    assert auprc(y, p) == pytest.approx(sk.average_precision_score(np.eye(4)[y], p, average="macro"))
    assert brier(y, p) == pytest.approx(((p - np.eye(4)[y]) ** 2).sum(axis=1).mean())
    assert nll(y, p) == pytest.approx(sk.log_loss(y, p))


def test_a_policys_predictions_replace_the_threshold():
    y, p = [0, 1, 1, 0], [0.2, 0.4, 0.6, 0.1]
    assert accuracy(y, p) == 0.75
    assert accuracy(y, p, predictions=[0, 1, 1, 0]) == 1.0
    assert macro_f1(y, p, predictions=[0, 1, 1, 0]) == 1.0
    with pytest.raises(DataError, match="predictions are 4 class indices"):
        accuracy(y, p, predictions=[0, 1])
    with pytest.raises(DataError, match=r"class indices 0\.\.1"):
        macro_f1(y, p, predictions=[0, 1, 2, 0])


def test_a_probability_on_the_threshold_is_flagged():
    assert accuracy([1], [0.5]) == 1.0
    assert accuracy([1], [[0.5, 0.5]]) == 1.0


def test_torch_tensors_and_float32_are_taken():
    torch = pytest.importorskip("torch")
    y, p = simplex(50, 3)
    tensors = torch.tensor(y), torch.tensor(p, dtype=torch.float32)
    for name, figure in METRICS.items():
        assert figure(*tensors, None) == pytest.approx(figure(y, p, None), abs=1e-5), name


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.filterwarnings("error")
def test_one_class_only_is_nan_where_undefined_and_never_an_exception(classes):
    _, p = simplex(20, classes)
    for c in range(classes):
        figures = {name: figure(np.full(20, c), p, None) for name, figure in METRICS.items()}
        assert {name for name, value in figures.items() if np.isnan(value)} == {"auroc", "auprc"}


def test_a_class_without_rows_is_left_out_of_the_macro_mean():
    y, p = simplex(200, 3)
    y[y == 2] = 0
    expected = np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in (0, 1)])
    assert auroc(y, p) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.1, 0.2, 0.3], r"found \[2\] and \[3\]"),
        ([[0], [1]], [0.1, 0.2], r"labels are \[n\]"),
        ([0, 1], [[0.5], [0.5]], "C >= 2"),
        ([0, 1], [0.1, 1.2], "found 1.2: give probabilities, not logits"),
        ([0, 1], [0.1, np.nan], "found nan"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.49]], "found 0.99 in row 1"),
        ([0, -1], [0.1, 0.2], "found -1: leave out rows without a label"),
        ([0, 2], [0.1, 0.2], r"class indices 0\.\.1, found 2"),
        ([0, 0.5], [0.1, 0.2], "found 0.5"),
        ([], [], "no rows"),
    ],
)
def test_senseless_input_is_refused_by_every_figure(labels, probabilities, message):
    for figure in METRICS.values():
        with pytest.raises(DataError, match=message):
            figure(np.array(labels), np.array(probabilities), None)


def test_rows_may_miss_a_sum_of_one_by_a_thousandth():
    assert accuracy([0, 1], [[0.6, 0.4005], [0.3, 0.7]]) == 1.0
    assert nll([0, 1], [[0.6, 0.4005], [0.3, 0.7]]) == pytest.approx(-(np.log(0.6 / 1.0005) + np.log(0.7)) / 2)


def test_ece_by_hand_in_both_conventions():
    # Two bins: rows at 0.2 (happens 1 of 4) and rows at 0.9 (happens 1 of 2).
    y, p = [1, 0, 0, 0, 1, 0], [0.2, 0.2, 0.2, 0.2, 0.9, 0.9]
    assert ece(y, p, kind="positive", bins=2) == pytest.approx((4 * 0.05 + 2 * 0.4) / 6)
    # As top labels: 0.8 sure and right 3 of 4; 0.9 sure and right 1 of 2: one bin of six, right 4 of 6.
    assert ece(y, p, bins=2) == pytest.approx(abs((4 * 0.8 + 2 * 0.9) / 6 - 4 / 6))
    three = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]
    assert ece([0, 2], three) == pytest.approx((0.3 + 0.8) / 2)
    by_class = [(0.3 + 0.1) / 2, (0.2 + 0.8) / 2, abs(0.1 + 0.1 - 1) / 2]  # the two rows of class 2 share a bin
    assert ece([0, 2], three, kind="positive") == pytest.approx(np.mean(by_class))


def test_bins_hold_their_upper_edge_and_the_first_holds_zero():
    assert metrics.bin_of(np.array([0, 0.01, 1 / 15, 2 / 15, 14 / 15, 1]), 15).tolist() == [0, 0, 0, 1, 13, 14]


def test_unknown_kinds_of_ece_and_senseless_bins_are_refused():
    with pytest.raises(DataError, match="no ECE of kind 'classwise'; known: positive, top_label"):
        ece([0, 1], [0.1, 0.2], kind="classwise")
    with pytest.raises(DataError, match="bins is a whole number from 1"):
        ece([0, 1], [0.1, 0.2], bins=0)


@pytest.mark.parametrize("kind", ["positive", "top_label"])
def test_debiasing_takes_most_of_what_chance_puts_into_the_ece_and_little_of_what_is_there(kind):
    rng = np.random.default_rng(1)

    def rows(n: int, sharpening: float) -> tuple[np.ndarray, np.ndarray]:
        z = rng.normal(0, 1.5, n)
        return (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int), 1 / (1 + np.exp(-z * sharpening))

    def averages(sharpening: float) -> tuple[float, float]:
        draws = [rows(200, sharpening) for _ in range(200)]
        return tuple(float(np.mean([ece(*d, kind=kind, debiased=b) for d in draws])) for b in (False, True))

    plain, debiased = averages(1.0)
    assert 0.05 < plain < 0.1  # a perfect model shows 0.07 at n = 200
    assert abs(debiased) < 0.3 * plain
    plain, debiased = averages(2.5)  # overconfident
    truth = ece(*rows(200_000, 2.5), kind=kind)
    assert truth > 0.1 and abs(debiased - truth) < min(0.012, abs(plain - truth))


def test_debiasing_is_the_simulated_bias_of_a_normal_gap():
    rng = np.random.default_rng(0)
    count, gap, variance = np.array([40.0, 10.0, 0.0]), np.array([6.0, -0.5, 0.0]), np.array([9.0, 1.2, 0.0])
    d, s = np.abs(gap[:2]) / count[:2], np.sqrt(variance[:2]) / count[:2]
    m = np.sqrt(np.maximum(d**2 - s**2, 0))
    bias = np.abs(rng.normal(m, s, (400_000, 2))).mean(axis=0) - m
    found = metrics.calibration_error(count, gap, variance, debiased=True)
    assert found == pytest.approx((count[:2] * (d - bias)).sum() / 50, abs=3e-4)
    assert metrics.calibration_error(count, gap, variance, debiased=False) == pytest.approx(6.5 / 50)


def test_certain_predictions_have_no_noise_to_debias():
    assert ece([0, 1, 1], [0.0, 1.0, 0.0], kind="positive", debiased=True) == pytest.approx(1 / 3)


def test_two_classes_are_judged_by_auroc_more_by_macro_f1():
    assert metrics.headline_metric(2) == "auroc" and metrics.headline_metric(3) == "macro_f1"
