"""The temperature undoes over- and underconfidence, is never sure of few rows, and without prior is scikit-learn's."""

import numpy as np
import pytest

from bifocal.decide.calibration import HIGHEST, LOWEST, fit_temperature, softmax
from bifocal.errors import DataError
from bifocal.evaluate.metrics import nll


def drawn(n: int, classes: int, sharpening: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``sharpening`` times too large, and labels drawn from the honest ones."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (n, classes))
    y = np.array([rng.choice(classes, p=p) for p in softmax(z)])
    return z * sharpening, y


def test_softmax_is_stable_and_takes_a_temperature():
    assert softmax([[0, np.log(3)]]) == pytest.approx(np.array([[0.25, 0.75]]))
    assert softmax([[0, 2 * np.log(3)]], temperature=2.0) == pytest.approx(np.array([[0.25, 0.75]]))
    assert softmax(np.array([[1e4, 0, -1e4]], dtype=np.float32)) == pytest.approx(np.array([[1, 0, 0]]))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("sharpening", [0.4, 1.0, 2.5])
def test_the_temperature_undoes_what_sharpened_the_logits(classes, sharpening):
    logits, labels = drawn(4000, classes, sharpening)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(sharpening, rel=0.1)
    assert temperature == pytest.approx(fit_temperature(logits, labels, width=None), rel=0.02)
    best = nll(labels, softmax(logits, temperature))
    assert best < min(nll(labels, softmax(logits, temperature * f)) for f in (0.95, 1.05))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("sharpening", [0.5, 2.0])
def test_the_temperature_is_scikit_learns(classes, sharpening):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Logits(ClassifierMixin, BaseEstimator):
        """A fitted classifier whose features are its logits."""

        def fit(self, X, y):
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, X):
            return (X[:, 1] - X[:, 0]) / 2 if X.shape[1] == 2 else X  # scikit-learn takes a margin m as [-m, m]

        def predict(self, X):
            return X.argmax(axis=1)

    logits, labels = drawn(600, classes, sharpening)
    frozen = FrozenEstimator(Logits().fit(logits, labels))
    theirs = CalibratedClassifierCV(frozen, method="temperature").fit(logits, labels)
    ours = fit_temperature(logits, labels, width=None)
    assert softmax(logits, ours) == pytest.approx(theirs.predict_proba(logits), abs=1e-2)
    assert ours == pytest.approx(1 / theirs.calibrated_classifiers_[0].calibrators[0].beta_, abs=1e-2)


def test_unlabelled_rows_are_left_out():
    logits, labels = drawn(300, 2, 2.0)
    noise = np.full((50, 2), [9.0, -9.0])
    with_noise = fit_temperature(np.concatenate([logits, noise]), np.concatenate([labels, np.full(50, -1)]))
    assert with_noise == pytest.approx(fit_temperature(logits, labels))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.empty((0, 2)), []),
        (np.array([[1.0, 2.0], [0.0, 3.0]]), [1, 1]),
        (np.array([[1.0, 2.0], [0.0, 3.0]]), [-1, -1]),
        (np.zeros((4, 3)), [0, 1, 2, 0]),
    ],
    ids=["no rows", "one class", "no labels", "logits that say nothing"],
)
def test_the_temperature_is_one_where_there_is_nothing_to_learn(logits, labels):
    assert fit_temperature(logits, labels) == 1.0


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_rows_sorted_without_fault_give_no_tiny_temperature_whatever_their_margins(classes):
    rng, labels = np.random.default_rng(0), np.resize(np.arange(classes), 40)
    for margin in np.geomspace(0.01, 50, 12):
        drawn_margins = margin * rng.exponential(1, 40)
        for margins in (np.full(40, margin), drawn_margins):
            logits = margins[:, None] * np.eye(classes)[labels]
            assert 0.3 <= fit_temperature(logits, labels) <= 1
            assert 1 <= fit_temperature(logits, (labels + 1) % classes) < HIGHEST / 2


def test_without_a_prior_they_go_as_far_as_the_bounds_allow():
    perfect = np.array([[0.1, -0.1], [-0.1, 0.1]] * 20)
    assert LOWEST <= fit_temperature(perfect, [0, 1] * 20, width=None) < 0.01
    assert 100 < fit_temperature(perfect, [1, 0] * 20, width=None) <= HIGHEST


def test_torch_tensors_are_taken():
    torch = pytest.importorskip("torch")
    logits, labels = drawn(200, 2, 2.0)
    tensors = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)
    assert fit_temperature(*tensors) == pytest.approx(fit_temperature(logits, labels), abs=1e-4)


def test_senseless_input_is_refused():
    with pytest.raises(DataError, match=r"logits are \[n, C\]"):
        fit_temperature([0.1, 0.2], [0, 1])
    with pytest.raises(DataError, match=r"found shapes \[2, 2\] and \[3\]"):
        fit_temperature([[0, 1], [1, 0]], [0, 1, 1])
    with pytest.raises(DataError, match="must be finite"):
        fit_temperature([[0, np.nan], [1, 0]], [0, 1])
    with pytest.raises(DataError, match=r"class indices 0\.\.1"):
        fit_temperature([[0, 1], [1, 0]], [0, 2])
