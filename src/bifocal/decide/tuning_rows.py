"""What a Policy is fitted to, and how: the rows that the models were not trained on, and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..config import ReviewConfig, ThresholdConfig
from ..evaluate.sampling_weights import SamplingWeights
from ..example import UNLABELLED

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Scores = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class TuningRows:
    """What the models say of the rows that a policy is fitted on, and what has to be known of those rows.

    Attributes
    ----------
    scores : model -> pattern -> (logits [n, C], labels [n])
        Of val, and of cross-fitted training rows; only rows on which the model has an opinion. The last model decides.
        `POOLED` names all of them as posted and must be there; a pattern names the rows that have its parts, the
        other parts blanked.
    groups : sequence, optional
        Of the last model's pooled rows: near-duplicates share one. None = no figures are expected.
    promised : as ``scores``, optional
        The rows that review bands and prediction sets rest on, val alone: a promise is of rows that choose nothing
        but it. None = those of ``scores``.
    weights : as ``scores``, of arrays [n], optional
        How many posts each row of ``scores`` stands for, where judged ones were sampled; None = one.
    languages : sequence of str, optional
        Of the last model's pooled ``promised`` rows, for bands ``per_language``.
    """

    scores: Mapping[str, Mapping[str, Scores]]
    groups: Sequence[Any] | None = None
    languages: Sequence[str] | None = None
    promised: Mapping[str, Mapping[str, Scores]] | None = None
    weights: Mapping[str, Mapping[str, NDArray[np.float64]]] | None = None

    def annotated_weights(self, model: str, pattern: str) -> NDArray[np.float64] | None:
        """Of the annotated rows; None = one each."""
        if self.weights is None:
            return None
        labels = np.asarray(self.scores[model][pattern][1])
        return self.weights[model][pattern][labels != UNLABELLED]

    def sampled(self, model: str, pattern: str) -> NDArray[np.float64] | None:
        """What each annotated row counts for, clipped, mean 1; None = one."""
        weights = self.annotated_weights(model, pattern)
        return None if weights is None else SamplingWeights.of(weights).values


@dataclass(frozen=True)
class PolicySettings:
    """How a policy is fitted, and what it says of itself.

    Attributes
    ----------
    run, label, classes, probability_key, in_sample, versions, data, tuned_on, truncated, requires, act
        What `Policy` says of them.
    method : str
        Of calibration: a name of `calibration_methods.METHODS`, or ``auto``, which chooses one per model; its
        patterns follow.
    base_rate : [C], optional
        Share of each class where the policy will be used. Probabilities are adjusted to it (`adjust_prior`), and
        thresholds chosen on rows weighted to it; None = both as in the rows tuned on.
    rule : ThresholdConfig
        How thresholds are chosen: by default the F1 maximum. Other rules are for binary labels.
    review : ReviewConfig, optional
        The review bands (several classes: prediction sets) to fit, class by class, on the rows that the thresholds are
        chosen on.
    unread : "review", optional
        What is done with posts whose picture could not be read.
    seed : int
        Of the resamples behind the expected figures.
    """

    run: str
    label: str
    classes: tuple[int | str, ...]
    probability_key: str
    in_sample: bool
    versions: Mapping[str, str]
    data: Mapping[str, str] = field(default_factory=dict)
    tuned_on: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    method: str = "temperature"
    base_rate: Sequence[float] | None = None
    rule: ThresholdConfig = field(default_factory=ThresholdConfig)
    review: ReviewConfig | None = None
    unread: Literal["review"] | None = None
    truncated: Literal["review"] | None = None
    requires: str | None = None
    act: Literal["block", "review", "none"] = "block"
    seed: int = 0
