"""Expected positives instead of those of few rows: what a threshold is chosen by where single rows would decide it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .calibration_methods import LOOSE, STEEP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEAST_PROBABILITY = 1e-12


def expected_positives(probabilities: Floats, positives: Floats, rows: Floats) -> Floats:
    """How many positives a logistic regression of the labels on the log-odds of the probabilities expects.

    Its slope and bias have the normal priors of `calibration_methods`; found by Newton's method, steps halved where
    they overshoot. A temperature alone would leave a bias, under which plain probabilities misplace the threshold.

    Parameters
    ----------
    probabilities : [k]
        Calibrated, of class 1.
    positives, rows : [k]
        How many positives, and rows, there are of each probability; they may be weighted.

    Returns
    -------
    array, [k]
    """
    p = probabilities.clip(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    x = np.stack([np.log(p / (1 - p)), np.ones(len(p))])
    mean, precision = np.array([1.0, 0.0]), np.array([STEEP, LOOSE]) ** -2.0

    def loss(theta: Floats) -> float:
        z = theta @ x
        return float(rows @ np.logaddexp(0, z) - positives @ z + precision @ (theta - mean) ** 2 / 2)

    theta = mean
    for _ in range(50):
        q = np.exp(-np.logaddexp(0, -(theta @ x)))
        slope = x @ (rows * q - positives) + precision * (theta - mean)
        step = np.linalg.solve((x * (rows * q * (1 - q))) @ x.T + np.diag(precision), slope)
        if np.abs(step).max() < 1e-7:
            break
        before = loss(theta)
        while loss(theta - step) > before + 1e-9 * abs(before):
            step = step / 2
        theta = theta - step
    return np.asarray(rows * np.exp(-np.logaddexp(0, -(theta @ x))))
