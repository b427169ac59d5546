"""What posts looked like to a run when its policy was fitted (``reference_<run>.json``): drift is measured from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import ValidationError, model_validator

from ..config import Strict, explain
from ..decide.policy import Policy
from ..diagnose.drift import Property
from ..errors import RunError
from ..modalities import TEXT
from ..modalities.text import NO_LANGUAGE, without_tags
from ..workspace import read_json, write_json
from .predictions import Predictions, calibrated

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 10_000
"""Rows that are kept at most: more would tell a smaller movement than anyone acts on."""
DECIMALS = 5
"""Of a score. An encoder's last digits depend on what else is in the batch, and equal scores are to stay equal."""
_LANGUAGE = "<lang="


@dataclass(frozen=True)
class DecidedPosts:
    """What a run read and said of some posts, a row each.

    Attributes
    ----------
    scores : array, [n]
        Calibrated probability of the positive class; of a label of several classes, that of the predicted one.
    predicted : array, [n]
        Class indices.
    patterns : array of str, [n]
        Which parts a post brought.
    languages : array of str, [n]
        As they were detected; empty without text.
    lengths : array, [n]
        Characters of the words; -1 without text.
    copies : array, [n]
        Rows that share a value are near-duplicates.
    """

    scores: NDArray[np.float64]
    predicted: NDArray[np.int64]
    patterns: NDArray[np.str_]
    languages: NDArray[np.str_]
    lengths: NDArray[np.int64]
    copies: NDArray[Any]

    def __len__(self) -> int:
        return len(self.scores)

    def properties(
        self, modalities: Sequence[str], classes: Sequence[int | str], *, binary: bool
    ) -> dict[str, Property]:
        """What is compared, by name: of one modality there are no patterns, without text no languages and lengths."""
        found = {"score": Property(self.scores, self.copies)}
        if not binary:
            found["predicted class"] = Property(np.array(list(map(str, classes)))[self.predicted], self.copies)
        if len(modalities) > 1:
            found["presence pattern"] = Property(self.patterns, self.copies)
        if TEXT in modalities:
            read = self.lengths >= 0
            found["language"] = Property(self.languages[read], self.copies[read])
            found["text length"] = Property(self.lengths[read], self.copies[read])
        return found

    def confidence(self, *, binary: bool) -> NDArray[np.float64]:
        """Calibrated probability of the class that was decided for, ``[n]``."""
        return np.where(self.predicted == 1, self.scores, 1 - self.scores) if binary else self.scores


def text_facts(composed: str) -> tuple[str, int]:
    """Language and characters of the words of a composed text; ``("", -1)`` where there is none.

    >>> text_facts("[OCR] one does not simply [/OCR] [CAP] [/CAP] <lang=en>")
    ('en', 19)
    """
    if not composed:
        return "", -1
    _, tag, language = composed.rpartition(_LANGUAGE)
    words = without_tags(composed)
    return language.removesuffix(">") if tag else NO_LANGUAGE, len(words)


class Reference(Strict):
    """The content of the file: rows of the tuning split, a random `ROWS` of them where there are more.

    Rows and not histograms, so that bins, tests and resamples are chosen when new posts are there; in the run's folder
    and not read from its shards, so that it goes wherever the policy goes.
    """

    run: str
    label: str
    classes: tuple[int | str, ...]
    model: str
    """Whose scores these are: the model that decides."""
    split: str
    in_sample: bool
    rows: int
    """Rows of the split on which the model has an opinion."""
    scores: list[float]
    predicted: list[int]
    labels: list[int]
    """Class indices, -1 where not annotated."""
    patterns: list[str]
    languages: list[str]
    lengths: list[int]
    groups: list[int]

    @model_validator(mode="after")
    def _rows_agree(self) -> Reference:
        columns = (self.predicted, self.labels, self.patterns, self.languages, self.lengths, self.groups)
        if not self.scores or any(len(column) != len(self.scores) for column in columns):
            raise ValueError("columns of one length, and a row at least, are needed")
        return self

    def with_policy(self, policy: Policy) -> Self:
        """The same rows as a policy decides them whose thresholds were set by hand since."""
        if self.classes != (0, 1):
            return self
        limits = [policy.threshold(self.model, pattern) for pattern in self.patterns]
        predicted = [int(score >= (limit or 0.0)) for score, limit in zip(self.scores, limits, strict=True)]
        return self.model_copy(update={"predicted": predicted})

    @classmethod
    def gather(
        cls, predictions: Predictions, texts: Sequence[str], policy: Policy, model: str, *, split: str, seed: int = 0
    ) -> Self:
        """Of a split's opinions; ``texts``: as composed, empty where a row has none."""
        whole = np.flatnonzero(predictions.has[model])
        drawn = np.random.default_rng(seed).permutation(whole)[:ROWS]
        rows = np.sort(drawn).tolist()
        probabilities, predicted = (values[rows] for values in calibrated(predictions, policy, model))
        shown = np.ones(len(rows), dtype=int) if policy.classes == (0, 1) else predicted
        facts = [text_facts(texts[row]) for row in rows]
        _, groups = np.unique(np.array(predictions.groups)[rows], return_inverse=True)
        return cls(
            run=policy.run,
            label=policy.label,
            classes=policy.classes,
            model=model,
            split=split,
            in_sample=policy.in_sample,
            rows=len(whole),
            scores=probabilities[np.arange(len(rows)), shown].round(DECIMALS).tolist(),
            predicted=predicted.tolist(),
            labels=predictions.labels[rows].tolist(),
            patterns=[predictions.patterns[row] for row in rows],
            languages=[language for language, _ in facts],
            lengths=[length for _, length in facts],
            groups=groups.tolist(),
        )

    @property
    def decided_posts(self) -> DecidedPosts:
        return DecidedPosts(
            np.array(self.scores),
            np.array(self.predicted),
            np.array(self.patterns),
            np.array(self.languages),
            np.array(self.lengths),
            np.array(self.groups),
        )

    def save(self, path: Path) -> None:
        """Write the reference, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises `RunError` naming the file where it is missing or no reference."""
        if not path.is_file():
            raise RunError(f"{path} is missing, which drift is measured from: `bifocal evaluate CONFIG` writes it")
        content = read_json(path)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise RunError(
                f"{path} is not a reference of this version: {explain(error, cls)}; run `bifocal evaluate CONFIG`"
            ) from None
