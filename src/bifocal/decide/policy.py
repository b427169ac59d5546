"""The Policy: calibration and threshold per model and per presence pattern, which turn logits into decisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import Field, ValidationError

from ..config import ReviewConfig, Strict, ThresholdConfig, explain
from ..errors import RunError, nearest
from ..evaluate.metrics import predicted_classes
from ..workspace import fingerprint, read_json, write_json
from .calibration_methods import Calibration
from .class_prior import adjust_prior

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

POOLED = "pooled"
"""A name of no pattern: what holds for all of them together."""

Shares = tuple[Annotated[float, Field(gt=0, lt=1)], ...]
Threshold = Annotated[float, Field(ge=0, le=1)] | None


def pattern_of(present: Iterable[str]) -> str:
    """Name of a presence pattern.

    >>> pattern_of(["text", "image"])
    'image+text'
    """
    return "+".join(sorted(present))


def patterns(modalities: Iterable[str]) -> list[tuple[str, ...]]:
    """Every non-empty set of modalities that a row may bring, small sets first.

    >>> patterns(["text", "image"])
    [('image',), ('text',), ('image', 'text')]
    """
    names = sorted(modalities)
    return [subset for size in range(1, len(names) + 1) for subset in combinations(names, size)]


class Band(Strict):
    """The limits of the review band, and the val rows behind them."""

    allow_below: float | None
    """A post under it that is labelled 0 is allowed; None = none is, for want of positive rows."""
    block_from: float | None
    """A post on or over it that is labelled 1 is blocked; None = none is, for want of negative rows."""
    positives: Annotated[int, Field(ge=0)]
    negatives: Annotated[int, Field(ge=0)]


class Fit(Strict):
    """What was fitted to some rows; ``threshold`` None = the likeliest class."""

    calibration: Calibration
    shares: Shares | None = None
    """Of the classes among the rows it was fitted on, where the policy is for another base rate; else None."""
    threshold: Threshold
    class_thresholds: tuple[float, ...] | None = None
    """Of several classes: the class is named that exceeds its threshold by the largest factor; None = the likeliest."""
    band: Band | None = None
    """None = no review band: actions follow labels."""
    least: tuple[float | None, ...] | None = None
    """Of several classes: the probability from which on each is in a post's prediction set (None = always, for want of
    rows); None = no sets."""

    def probabilities(self, logits: ArrayLike, base_rate: Sequence[float] | None) -> NDArray[np.float64]:
        """Calibrated ``[n, C]``, adjusted from the class shares it was fitted on to a base rate; None = as they are."""
        return at_base_rate(self.calibration(logits), self.shares, base_rate)


class PatternPolicy(Fit):
    """What holds for one presence pattern, and the labelled rows it was fitted on."""

    n: Annotated[int, Field(ge=0)]


class ModelPolicy(Fit):
    """What holds for one model."""

    few_rows: dict[str, int] = Field(default_factory=dict)
    """Class -> tuning rows, of the classes that had too few for a calibration: with any, the temperature is 1."""
    languages: dict[str, Band] = Field(default_factory=dict)
    """Bands that hold within a language, beside the one above."""
    patterns: dict[str, PatternPolicy] = Field(default_factory=dict)
    """By pattern: the names of the present modalities, sorted, joined by ``+``."""


class Expected(Strict):
    """What a figure comes to on the next rows."""

    value: float
    low: float
    high: float
    """Ends of the 90% prediction interval."""


class Change(Strict):
    """A threshold, or the review bands, set by hand: what it was and became, who did it and why."""

    date: str
    by: Annotated[str, Field(min_length=1)]
    why: Annotated[str, Field(min_length=1)]
    model: str
    pattern: str
    before: float | None
    after: float | None
    version: str
    """Of the policy that was changed."""
    rule: ThresholdConfig | None = None
    """What it was found by, on the rows that the policy was tuned on; None = it was given."""
    review: ReviewConfig | None = None
    """What all review bands were fitted to; None = a threshold was set."""
    band: Annotated[tuple[float, float] | None, Field(exclude_if=lambda band: band is None)] = None
    """The ends of the review band that were set with the threshold; None = it followed."""


class Policy(Strict):
    """What ``policy_<run>.json`` holds and ``predict`` loads.

    The file bears its own ``version``, a hash of all that it holds but the date: two policies of one version decide
    alike, and a file that was edited is known by it.
    """

    run: str
    label: str
    classes: tuple[int | str, ...]
    probability_key: str
    in_sample: bool
    """Tuned on the training rows, for want of a val split."""
    approximate: bool
    """One val served early stopping, temperature and threshold alike."""
    versions: dict[str, str]
    models: dict[str, ModelPolicy]
    base_rate: Shares | None = None
    """Share of each class where it is used, to which probabilities and thresholds are adjusted; None = as in val."""
    rule: ThresholdConfig = ThresholdConfig()
    """What the thresholds were chosen by."""
    expected: dict[str, Expected] = Field(default_factory=dict)
    """Figure -> what the model that decides comes to at its threshold, on as many rows to come."""
    review: ReviewConfig | None = None
    """What the review bands were fitted to."""
    truncated: Literal["review"] | None = None
    """What is done with a post whose words were not all read; None = what its beginning comes to."""
    unread: Literal["review"] | None = None
    """What is done with posts on whose picture half or more of the lines could not be read; None = as with others."""
    data: dict[str, str] = Field(default_factory=dict)
    """Split it was tuned on -> hash of its shards."""
    tuned_on: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Model -> split -> annotated rows behind its calibration and threshold, where those are not of val alone."""
    date: str = ""
    """When it was fitted, in UTC."""
    changes: tuple[Change, ...] = ()
    """Made by hand since it was fitted, the latest last."""
    requires: Annotated[str | None, Field(exclude_if=lambda name: name is None)] = None
    """The label whose flagged posts alone this one is about."""
    act: Annotated[Literal["block", "review", "none"], Field(exclude_if=lambda act: act == "block")] = "block"
    """What a decision by this label may come to; of ``review`` and ``none`` it never is more."""
    labels: Annotated[dict[str, Policy], Field(exclude_if=lambda labels: not labels)] = Field(default_factory=dict)
    """The policies of the run's further labels, in their order."""

    @property
    def version(self) -> str:
        """A hash of everything but the date, 16 hexadecimal digits.

        What stands at its default is left out, so that a Bifocal that knows one setting more gives the same version.
        """
        return fingerprint(self.model_dump(mode="json", exclude={"date"}, exclude_defaults=True))

    @property
    def label_names(self) -> list[str]:
        """Every label that is decided on, the first one first."""
        return [self.label, *self.labels]

    def of_label(self, name: str) -> Policy:
        """What holds for one label. Raises `RunError` where there is nothing for it."""
        if name == self.label:
            return self
        if name not in self.labels:
            raise RunError(f"the policy of run {self.run!r} has no label {name!r}; {nearest(name, self.label_names)}")
        return self.labels[name]

    def with_label(self, policy: Policy) -> Policy:
        """The same with another policy for one of its labels, or for one more."""
        if policy.label == self.label:
            return policy.model_copy(update={"labels": self.labels})
        return self.model_copy(update={"labels": {**self.labels, policy.label: policy}})

    def _of(self, model: str, pattern: str) -> Fit:
        if model not in self.models:
            raise RunError(f"the policy of run {self.run!r} has no model {model!r}; {nearest(model, self.models)}")
        pooled = self.models[model]
        return pooled.patterns.get(pattern, pooled)

    def threshold(self, model: str, pattern: str, label: int = 1) -> float | None:
        """The threshold of a class on calibrated probabilities; None = the likeliest. Raises `RunError`: no model."""
        fit = self._of(model, pattern)
        return fit.threshold if fit.class_thresholds is None else fit.class_thresholds[label]

    def rule_of(self, model: str, pattern: str = POOLED) -> ThresholdConfig | None:
        """What a threshold was chosen by; None = it was given by hand."""
        set_by_hand = [c for c in self.changes if (c.model, c.pattern) == (model, pattern) and c.review is None]
        return set_by_hand[-1].rule if set_by_hand else self.rule

    def has_one_rule(self, model: str) -> bool:
        """Whether the thresholds of all presence patterns were chosen by what the pooled one was chosen by."""
        rule = self.rule_of(model)
        return all(self.rule_of(model, pattern) == rule for pattern in self.models[model].patterns)

    def band(self, model: str, pattern: str) -> Band | None:
        """The review band; None = actions follow labels. Raises `RunError` on an unknown model."""
        return self._of(model, pattern).band

    def probabilities(
        self, model: str, logits: ArrayLike, pattern: str, *, adjusted: bool = True
    ) -> NDArray[np.float64]:
        """Calibrated probabilities ``[n, C]`` of logits ``[n, C]``; unless ``adjusted``, at the base rate of val.

        Raises `RunError` on an unknown model.
        """
        return self._of(model, pattern).probabilities(logits, self.base_rate if adjusted else None)

    def weights(
        self, model: str, labels: NDArray[np.int64], sampled: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64] | None:
        """What each labelled row ``[n]`` of val counts for at the base rate of the policy, ``sampled`` being what it
        counts for by itself; None = one."""
        return row_weights(labels, self._of(model, POOLED).shares, self.base_rate, sampled)

    def predictions(self, model: str, probabilities: NDArray[np.float64], pattern: str) -> NDArray[np.int64]:
        """Class index ``[n]``: binary where P(class 1) >= the threshold, else the likeliest class.

        Raises `RunError` on an unknown model.
        """
        fit = self._of(model, pattern)
        if fit.class_thresholds is not None:
            return np.asarray((probabilities / np.array(fit.class_thresholds)).argmax(axis=1))
        return predicted_classes(probabilities, 0.5 if fit.threshold is None else fit.threshold)

    def candidates(self, model: str, probabilities: NDArray[np.float64], pattern: str) -> NDArray[np.bool_] | None:
        """Which classes cannot be ruled out for each row, ``[n, C]``: its prediction set; None without one.

        Raises `RunError` on an unknown model.
        """
        least = self._of(model, pattern).least
        if least is None:
            return None
        limits = np.array([-np.inf if limit is None else limit for limit in least])
        return np.asarray(probabilities >= limits)

    def actions(
        self,
        model: str,
        probabilities: NDArray[np.float64],
        labels: NDArray[np.int64],
        pattern: str,
        languages: Sequence[str] | None = None,
    ) -> NDArray[np.object_]:
        """What is done with each row ``[n]``: where label and review band disagree, a person decides.

        Parameters
        ----------
        probabilities : [n, C]
            Calibrated.
        labels : [n]
            As `predictions` gives them.
        languages : [n], optional
            For bands of their own; None = those are not asked.

        Returns
        -------
        array, [n]
            ``allow``, ``review`` or ``block``; of several classes ``review``, or empty where the label stands alone in
            its prediction set, and where there are no sets. Raises `RunError` on an unknown model.
        """
        if len(self.classes) > 2:
            sets = self.candidates(model, probabilities, pattern)
            alone = True if sets is None else sets[np.arange(len(labels)), labels] & (sets.sum(axis=1) == 1)
            return np.where(alone, np.full(len(labels), "", dtype=object), "review")
        sure, p = np.ones(len(labels), dtype=bool), probabilities[:, 1]
        if (band := self.band(model, pattern)) is not None:
            sure &= _sure(band, p, labels)
        for language, own in self.models[model].languages.items() if languages is not None else ():
            sure &= (np.array(languages, dtype=object) != language) | _sure(own, p, labels)
        done = np.where(labels == 1, "block", "allow").astype(object)
        done[~sure] = "review"
        return done

    @property
    def truncation(self) -> Literal["review"] | None:
        """What is done by this label with a post whose words were not all read; None = nothing other."""
        return None if self.act == "none" else self.truncated

    def allowed(self, action: str | None) -> str | None:
        """An action, or what may be done in its place by this label."""
        if self.act == "none":
            return None
        return "review" if action == "block" and self.act == "review" else action

    def save(self, path: Path) -> None:
        """Write the policy, whole or not at all."""
        write_json(Path(path), {"version": self.version, **self.model_dump(mode="json")})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        RunError
            Naming the file, where it is missing, not JSON, not a policy (an unknown key, a wrong type), or not what
            was written: its version is another.
        """
        content = read_json(Path(path))
        if not isinstance(content, dict):
            raise RunError(f"{path} is not a policy: expected an object, found {type(content).__name__}; run again")
        written = content.pop("version", None)
        try:
            policy = cls.model_validate(content)
        except ValidationError as error:
            raise RunError(f"{path} is not a policy of this Bifocal: {explain(error, cls)}; run again") from None
        if written != policy.version:
            raise RunError(
                f"{path} says that it is version {written}, and its content is {policy.version}: it was edited or "
                "damaged; run again from `calibrate`, and set thresholds by `bifocal policy set`, which keeps record"
            )
        return policy

    def own_fit(self, model: str, pattern: str) -> Fit:
        """What was fitted to a pattern that has a threshold of its own, or to `POOLED`: all others.

        Raises `RunError` where there is no such model or pattern, or it has no threshold (several classes).
        """
        fit = self._of(model, POOLED)
        own = self.models[model].patterns
        if pattern != POOLED:
            if pattern not in own:
                raise RunError(
                    f"{model} has no threshold of its own for posts that bring {pattern!r}; "
                    + (nearest(pattern, own) if own else f"set {POOLED}, which holds for them")
                )
            fit = own[pattern]
        if fit.threshold is None:
            raise RunError(f"{model} names the likeliest of {len(self.classes)} classes: there is no threshold to set")
        return fit

    def with_threshold(
        self,
        model: str,
        threshold: float,
        *,
        pattern: str = POOLED,
        by: str,
        why: str,
        rule: ThresholdConfig | None = None,
        band: tuple[float, float] | None = None,
    ) -> Self:
        """The policy with one threshold set by hand, and the record of it.

        A side of a review band that no rate is given for follows the threshold, here as in `fit_policy`, unless both
        ends are set with it.

        Parameters
        ----------
        pattern : str
            A pattern that has a threshold of its own, or `POOLED`: all others.
        by, why : str
            A person, and the reason.
        rule : ThresholdConfig, optional
            What the threshold was found by.
        band : tuple, optional
            Allowed below, blocked from, of a policy with a review band.

        Raises
        ------
        RunError
            As `own_fit`; where the threshold is outside 0..1, or a name or reason is missing.
        """
        fit = self.own_fit(model, pattern)
        if not 0 <= threshold <= 1:
            raise RunError(f"a threshold is a probability of 0 to 1, found {threshold:g}")
        after = float(threshold)
        change = self.change(by, why, model=model, pattern=pattern, before=fit.threshold, after=after)
        moved = self._moved(fit.band, after)
        if band is not None and moved is not None:
            moved = moved.model_copy(update={"allow_below": band[0], "block_from": band[1]})
        changed = fit.model_copy(update={"threshold": after, "band": moved})
        if pattern != POOLED:
            own = self.models[model].patterns
            changed = self.models[model].model_copy(update={"patterns": {**own, pattern: changed}})
        elif bands := self.models[model].languages:
            own_bands = {language: self._moved(one, after) for language, one in bands.items()}
            changed = changed.model_copy(update={"languages": own_bands})
        models = {**self.models, model: changed}
        changes = (*self.changes, change.model_copy(update={"rule": rule, "band": band}))
        return self.model_copy(update={"models": models, "changes": changes})

    def _moved(self, band: Band | None, threshold: float) -> Band | None:
        """A review band at another threshold, which is the limit of a side without a rate."""
        if band is None or self.review is None:
            return band
        sides = {"allow_below": self.review.fnr, "block_from": self.review.fpr}
        return band.model_copy(update={side: threshold for side, rate in sides.items() if rate is None})

    def change(
        self, by: str, why: str, *, model: str, pattern: str = POOLED, before: float | None, after: float | None
    ) -> Change:
        """The record of a change of this policy. Raises `RunError` where a name or reason is missing."""
        require_names(by, why)
        return Change(
            date=now(), by=by, why=why, model=model, pattern=pattern, before=before, after=after, version=self.version
        )


def require_names(by: str, why: str) -> None:
    """Raises `RunError` where a change of a policy lacks a person's name or a reason."""
    if not by.strip() or not why.strip():
        raise RunError("say who changes the policy, and why")


def _sure(band: Band, p: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a band leaves a label as it is, ``[n]``; a side without a promise never does."""
    block = np.inf if band.block_from is None else band.block_from
    allow = -np.inf if band.allow_below is None else band.allow_below
    return np.where(labels == 1, p >= block, p < allow)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def at_base_rate(
    p: NDArray[np.float64], shares: Sequence[float] | None, base_rate: Sequence[float] | None
) -> NDArray[np.float64]:
    """Probabilities of a fit, whose rows had ``shares`` of the classes, at a base rate; None = as they are."""
    return p if shares is None or base_rate is None else adjust_prior(p, shares, base_rate)


def class_shares(
    labels: NDArray[np.int64], classes: int, weights: NDArray[np.float64] | None = None
) -> tuple[float, ...]:
    """Of each class, by Jeffreys' prior: a class without rows is rare, not impossible; ``weights [n]`` of mean 1."""
    counts = np.bincount(labels, weights, minlength=classes) + 0.5
    return tuple((counts / counts.sum()).tolist())


def row_weights(
    labels: NDArray[np.int64],
    shares: Sequence[float] | None,
    base_rate: Sequence[float] | None,
    sampled: NDArray[np.float64] | None = None,
) -> NDArray[np.float64] | None:
    """What each row counts for among as many rows of the base rate, and by how it was sampled; None = one."""
    if shares is None or base_rate is None:
        return sampled
    weights = (np.array(base_rate) / np.array(shares))[labels] * (1 if sampled is None else sampled)
    return np.asarray(weights / weights.mean())
