"""Each map undoes the distortion it is made for, is what a known library fits, and survives JSON; `auto` chooses."""

import numpy as np
import pytest
from pydantic import TypeAdapter

from bifocal.decide.calibration import HIGHEST, fit_temperature, softmax
from bifocal.decide.calibration_methods import METHODS, Calibration, Temperature, few_rows, fit_calibration, formula
from bifocal.errors import DataError
from bifocal.evaluate.metrics import nll


def drawn(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Honest logits, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (n, classes))
    return z, (softmax(z).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=classes - 1)


def skewed(p: np.ndarray) -> np.ndarray:
    """Logits of a classifier whose p is far too low, least so near 1: beyond any temperature and bias."""
    q = p[:, 1] ** 3
    return np.stack([np.log1p(-q), np.log(q)], axis=1)


DISTORTED = {
    "temperature": lambda z: 3 * z,
    "temperature_bias": lambda z: 3 * z + 2.0 * np.arange(z.shape[1]),
    "vector": lambda z: z * np.linspace(0.5, 3, z.shape[1]) + np.arange(z.shape[1]),
}


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("method", DISTORTED)
def test_each_map_undoes_the_distortion_it_is_made_for(method, classes):
    z, y = drawn(6000, classes)
    distort = DISTORTED[method] if classes > 2 or method != "vector" else DISTORTED["temperature_bias"]
    fitted = METHODS[method].fit(distort(z), y)
    new_z, new_y = drawn(20_000, classes, seed=1)
    assert nll(new_y, fitted(distort(new_z))) == pytest.approx(nll(new_y, softmax(new_z)), abs=0.002)


@pytest.mark.parametrize("method", ["beta", "isotonic"])
def test_beta_and_isotonic_undo_what_no_temperature_can(method):
    z, y = drawn(8000, 2)
    new_z, new_y = drawn(20_000, 2, seed=1)
    bent, new_bent = skewed(softmax(z)), skewed(softmax(new_z))
    best = nll(new_y, softmax(new_z))
    assert nll(new_y, METHODS["temperature_bias"].fit(bent, y)(new_bent)) > best + 0.003
    assert nll(new_y, METHODS[method].fit(bent, y)(new_bent)) == pytest.approx(best, abs=0.002)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("method", METHODS)
def test_every_map_gives_probabilities_and_survives_json(method, classes):
    z, y = drawn(400, classes)
    fitted = METHODS[method].fit(2 * z, y)
    extreme = np.concatenate([2 * z, 1e4 * np.eye(classes), -1e4 * np.eye(classes), np.zeros((1, classes))])
    p = fitted(extreme.astype(np.float32))
    assert p.shape == extreme.shape and (p >= 0).all() and p.sum(axis=1) == pytest.approx(np.ones(len(p)))
    adapter = TypeAdapter(Calibration)
    again = adapter.validate_json(adapter.dump_json(fitted))
    assert type(again) is METHODS[method] and (again(extreme) == fitted(extreme)).all()
    assert formula(fitted.model_dump(mode="json"))


def test_platt_is_scikit_learns_sigmoid():
    from sklearn.calibration import _SigmoidCalibration

    z, y = drawn(500, 2)
    margin = 2 * (z[:, 1] - z[:, 0]) + 1
    theirs = _SigmoidCalibration().fit(margin, y).predict(margin)
    ours = METHODS["vector"].fit(np.stack([-margin / 2, margin / 2], axis=1), y)
    assert ours(np.stack([-margin / 2, margin / 2], axis=1))[:, 1] == pytest.approx(theirs, abs=1e-4)


def test_isotonic_is_scikit_learns_but_for_its_ends():
    from sklearn.isotonic import IsotonicRegression

    z, y = drawn(500, 2)
    p = softmax(z)[:, 1]
    theirs = IsotonicRegression(out_of_bounds="clip").fit(p, y).predict(p)
    ours = METHODS["isotonic"].fit(z, y)(z)[:, 1]
    assert ours == pytest.approx(theirs.clip(1 / 502, 1 - 1 / 502), abs=1e-9)


def test_beta_is_a_logistic_regression_on_two_logs():
    from sklearn.linear_model import LogisticRegression

    z, y = drawn(5000, 2)
    bent = skewed(softmax(z))
    p = softmax(bent)[:, 1]
    logs = np.stack([np.log(p), -np.log1p(-p)], axis=1)
    theirs = LogisticRegression(C=np.inf).fit(logs, y)
    assert METHODS["beta"].fit(bent, y)(bent)[:, 1] == pytest.approx(theirs.predict_proba(logs)[:, 1], abs=0.01)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("classes", [2, 4])
def test_temperature_and_beta_are_netcals(classes):
    from netcal.scaling import BetaCalibration, TemperatureScaling

    z, y = drawn(2000, classes)
    p = softmax(2 * z)
    given = p[:, 1] if classes == 2 else p
    theirs = np.squeeze(TemperatureScaling().fit(given, y).transform(given))
    ours = softmax(2 * z, fit_temperature(2 * z, y, width=None))
    assert theirs == pytest.approx(ours[:, slice(None) if classes > 2 else 1], abs=1e-4)
    if classes == 2:
        theirs = np.squeeze(BetaCalibration().fit(given, y).transform(given))
        assert theirs == pytest.approx(METHODS["beta"].fit(2 * z, y)(2 * z)[:, 1], abs=0.01)


def test_one_step_down_is_never_taken_for_a_rising_curve():
    z, y = drawn(2000, 2)
    for method in ("isotonic", "beta"):
        upside_down = METHODS[method].fit(-z, y)(-z)[:, 1]
        assert upside_down == pytest.approx(np.full(len(y), y.mean()), abs=0.03)


def test_a_class_without_rows_keeps_a_finite_bias():
    z, y = drawn(500, 4)
    y[y == 3] = 0
    for method in METHODS:
        fitted = METHODS[method].fit(z, y)
        assert np.isfinite(fitted(z)).all() and (fitted(z)[:, 3] > 0).all()
    assert -10 < METHODS["temperature_bias"].fit(z, y).bias[3] < -1


def test_the_temperature_is_that_of_fit_temperature():
    z, y = drawn(500, 3)
    assert METHODS["temperature"].fit(2 * z, y).temperature == fit_temperature(2 * z, y)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_no_map_is_sure_of_rows_that_happen_to_be_sorted_without_fault(method, classes):
    """Their margins are sure to 1 in some hundreds; the greatest likelihood would be sure beyond all measure."""
    rng, y = np.random.default_rng(0), np.resize(np.arange(classes), 40)
    for margin in (0.2, 1.0, 5.0):
        z = margin * rng.uniform(0.5, 1.5, (len(y), 1)) * np.eye(classes)[y]
        fitted = METHODS[method].fit(z, y)
        assert fitted(z).min() > 1e-7
        if "temperature" in method:
            assert 0.3 <= fitted.temperature <= 1
            assert 1 <= METHODS[method].fit(-z, y).temperature < HIGHEST / 2


@pytest.mark.parametrize("offset", [-3.0, 3.0])
def test_a_bias_does_not_bring_the_temperature_down(offset):
    y = np.array([0, 1] * 20)
    for margin in np.geomspace(0.05, 20, 8):
        z = margin * np.eye(2)[y] + [0.0, offset * margin]
        assert 0.3 <= METHODS["temperature_bias"].fit(z, y).temperature < 20


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_nothing_is_fitted_to_under_20_rows_of_a_class_unless_it_is_asked_for(method):
    z, y = drawn(400, 3)
    y = np.where((y == 2) & (np.cumsum(y == 2) > 19), 0, y)
    assert few_rows(y, 4) == {2: 19, 3: 0}
    assert fit_calibration(3 * z, y, method) == (Temperature(), {})
    assert fit_calibration(3 * z, y, method, from_few=True).calibration != Temperature()
    z, y = np.concatenate([z, z[:1]]), np.append(y, 2)
    assert fit_calibration(3 * z, y, method).calibration != Temperature()


@pytest.mark.parametrize(
    ("bent", "expected"), [("temperature", {"temperature"}), ("temperature_bias", {"temperature_bias"})]
)
@pytest.mark.parametrize("classes", [2, 4])
def test_auto_takes_the_simplest_that_suffices(bent, expected, classes):
    z, y = drawn(3000, classes)
    found = fit_calibration(DISTORTED[bent](z), y, "auto")
    assert found.calibration.method in expected and set(found.tried) == set(METHODS)


def test_auto_takes_what_it_needs():
    z, y = drawn(20_000, 2)
    assert fit_calibration(skewed(softmax(z)), y, "auto").calibration.method == "beta"
    z, y = drawn(3000, 4)
    assert fit_calibration(DISTORTED["vector"](z), y, "auto").calibration.method == "vector"


def test_auto_keeps_groups_whole():
    """Rows that stand twice with the same label let a flexible map see what it is judged on."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 1, (150, 2))
    y = rng.integers(0, 2, 150)
    twice, labels, groups = np.repeat(z, 20, axis=0), np.repeat(y, 20), np.repeat(np.arange(150), 20)
    apart, together = (fit_calibration(twice, labels, "auto", groups=g).tried for g in (None, groups))
    assert apart["isotonic"] < together["isotonic"] - 0.01
    assert together["isotonic"] > together["temperature"]


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(np.empty((0, 2)), []), ([[1.0, 2.0], [0.0, 3.0]], [1, 1]), ([[1.0, 2.0], [0.0, 3.0]], [-1, 1])],
    ids=["no rows", "one class", "one labelled row"],
)
@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_nothing_to_learn_leaves_the_probabilities_as_they_are(logits, labels, method):
    assert fit_calibration(logits, labels, method) == (Temperature(temperature=1.0), {})


def test_auto_on_a_handful_of_rows_is_the_temperature():
    z, y = drawn(3, 2)
    y[:] = [0, 0, 1]
    found = fit_calibration(z, y, "auto", from_few=True).calibration
    assert found == Temperature(temperature=fit_temperature(z, y))


def test_senseless_logits_are_refused():
    with pytest.raises(DataError, match="must be finite"):
        fit_calibration([[0, np.inf], [1, 0]], [0, 1], "beta")


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_weight_3_is_three_rows(method, classes):
    z, y = drawn(300, classes)
    w = np.where(np.arange(300) % 3, 1.0, 3.0)
    many = np.repeat(np.arange(300), w.astype(int))
    weighted, repeated = METHODS[method].fit(z, y, w), METHODS[method].fit(z[many], y[many])
    assert np.abs(weighted(z) - repeated(z)).max() < 1e-4


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_equal_weights_are_none(method):
    z, y = drawn(200, 2)
    fitted = fit_calibration(z, y, method, weights=np.full(200, 7.0)).calibration
    assert np.abs(fitted(z) - fit_calibration(z, y, method).calibration(z)).max() < 1e-5


def test_a_few_heavy_rows_tell_no_more_than_effective_rows():
    """Sorted without fault, they bring the temperature no lower than as many rows of equal weight as they are worth."""
    z, y = np.tile([[3.0, 0.0], [0.0, 3.0]], (100, 1)), np.tile([0, 1], 100)
    heavy = np.where(np.arange(200) < 20, 1e6, 1.0)  # clipped at 20 times the mean
    told = fit_calibration(z, y, weights=heavy).calibration.temperature
    assert fit_calibration(z, y).calibration.temperature < told < 1
    assert told > fit_calibration(z[:60], y[:60]).calibration.temperature
