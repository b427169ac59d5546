"""The explanation of one decision: which part carried it, and which words, regions and columns within each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from ..contracts import Occludable
from ..decide.calibration import softmax
from ..decide.policy import pattern_of
from ..diagnose.explanation import ABSENT, Effects, log_odds, measure_effects, probability
from ..errors import DataError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..contracts import Modality, Piece
    from ..decide.policy import Policy
    from ..example import Evidence, Example, Label
    from ..models.windows import Windows
    from .decision import Decision, LabelDecision
    from .engine import Engine
    from .preprocessing import Post

GRIDS = range(2, 17)
"""Regions along each side of a picture; each takes an encoder pass."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A piece of a part, and what hiding it does.

    Attributes
    ----------
    effect : float
        Log-odds that the piece adds: above 0 it speaks for the explained class, below 0 against.
    probability : float
        Of the explained class without the piece.
    """

    piece: Piece
    effect: float
    probability: float


@dataclass(frozen=True, slots=True)
class ReadWindow:
    """One of the windows in which a long text was read.

    Attributes
    ----------
    place : (int, int)
        Where its words begin and end in the text.
    score : float
        Log-odds of the explained class by the text's own expert, calibrated, of this window alone.
    """

    place: tuple[int, int]
    score: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a post was decided as it was; scores are log-odds of calibrated probabilities (natural logarithm).

    Attributes
    ----------
    decision : Decision
    explains : int or str
        The class whose score is explained: 1 (binary), or the decided label.
    score, baseline : float
        Of the post as it is, and of one of which nothing is known: the class shares of the rows that the fusion learned
        from (what it answers to a post without any part), uncalibrated. A run of one modality has no fusion, and its
        baseline is equal shares.
    threshold : float or None
        On the same scale; None = the likeliest class wins.
    contributions : dict
        Modality -> its Shapley share, of the parts that the post has; ``score - baseline`` in sum.
    subsets : dict
        Modalities that alone are there -> score, from none to all.
    pieces : dict
        Modality -> every `Weighed` piece, the strongest effect first, whatever its sign.
    values : dict
        Modality -> what its expert read; for drawing, not in `to_dict`.
    windows : dict
        Modality -> the windows in which it was read, in their order, where there were several.
    label : str or None
        Of several labels, a further one whose answer this explains; None = the first one's.
    """

    decision: Decision
    explains: int | str
    score: float
    baseline: float
    threshold: float | None
    contributions: dict[str, float]
    subsets: dict[frozenset[str], float]
    pieces: dict[str, tuple[Weighed, ...]]
    values: dict[str, Any] = field(repr=False, compare=False)
    windows: dict[str, tuple[ReadWindow, ...]] = field(default_factory=dict)
    label: str | None = None

    @property
    def answer(self) -> Decision | LabelDecision:
        """What is explained: the Decision, or of a further label its part in it."""
        found = self.decision if self.label is None else self.decision.labels[self.label]
        assert found is not None  # what is not asked is not explained
        return found

    def alone(self, name: str) -> float:
        """The score of a post that brought this part only."""
        return self.subsets[frozenset({name})]

    def deciding_window(self, name: str) -> ReadWindow:
        """The window that speaks most for the explained class. Raises `KeyError` where the part was read in one."""
        return max(self.windows[name], key=lambda window: window.score)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: numbers in log-odds, with the probabilities behind them; ``windows`` where a text had several."""
        return {
            "decision": self.decision.to_dict(),
            **({} if self.label is None else {"label": self.label}),
            "explains": self.explains,
            "scale": "log-odds",
            "score": self.score,
            "baseline": {"score": self.baseline, "probability": float(probability(self.baseline))},
            "threshold": self.threshold,
            "contributions": dict(self.contributions),
            "subsets": [
                {"modalities": sorted(names), "score": score, "probability": float(probability(score))}
                for names, score in self.subsets.items()
            ],
            "pieces": {
                name: [
                    {
                        **w.piece._asdict(),
                        "place": list(w.piece.place),
                        "effect": w.effect,
                        "probability": w.probability,
                    }
                    for w in weighed
                ]
                for name, weighed in self.pieces.items()
            },
            **({"windows": {name: self._windows_of(name) for name in self.windows}} if self.windows else {}),
        }

    def _windows_of(self, name: str) -> dict[str, Any]:
        return {
            "deciding": self.windows[name].index(self.deciding_window(name)),
            "read": [
                {"place": list(w.place), "score": w.score, "probability": float(probability(w.score))}
                for w in self.windows[name]
            ],
        }


class ExplainedSystem(Protocol):
    """What an explanation asks of a `System`: posts decided, and the models and policy that do it."""

    @property
    def engine(self) -> Engine: ...
    @property
    def main(self) -> str: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def labels(self) -> Mapping[str, Label]: ...
    @property
    def modalities(self) -> Mapping[str, Modality]: ...

    def deciding_view(self, post: Post, label: str | None = None) -> dict[str, Any]:
        """The values of the view that decides about a post, by a label; None = the first."""

    def decisions(
        self, posts: Sequence[tuple[Example, Mapping[str, Any]]], evidence: Mapping[str, Evidence]
    ) -> list[Decision]:
        """What follows from the Evidence of composed posts, a Decision each."""


def explain(scorer: ExplainedSystem, post: Post, grid: int, label: str | None = None) -> Explanation:
    """Explain the decision on one post; what `System.explain` returns and raises.

    Of several views the one that decides is explained. Each encoder runs once, over its part as posted and with every
    piece of it hidden; the fusion then joins these with the other parts' Evidence as it was.
    """
    if grid not in GRIDS:
        raise DataError(
            f"the grid over a picture has {GRIDS[0]} to {GRIDS[-1]} regions along each side, found {grid!r}"
        )
    _check_label(scorer, label)  # before anything is encoded
    covered = Covered.of(scorer, post, grid, label)
    return explained(scorer, covered, scorer.engine.evidence(covered.versions(0, len(covered))), label)


def _check_label(scorer: ExplainedSystem, label: str | None) -> None:
    if label is not None and label not in scorer.labels:
        raise DataError(f"there is no label {label!r} to be explained; {nearest(label, list(scorer.labels))}")


@dataclass(frozen=True, slots=True)
class Covered:
    """A post as it is, with each piece of each part hidden, and, of a long text, each window alone."""

    example: Example
    values: dict[str, Any]
    hidden: dict[str, list[tuple[Piece, Any]]]
    windows: dict[str, Windows]
    """Of the parts that are read in several."""

    @classmethod
    def of(cls, scorer: ExplainedSystem, post: Post, grid: int, label: str | None = None) -> Self:
        view = scorer.deciding_view(post, label)
        values = {name: view[name] for name in scorer.modalities if name in view}
        hidden = {name: _hidden(scorer.modalities[name], value, grid) for name, value in values.items()}
        found = {name: scorer.engine.windows(name, value) for name, value in values.items()}
        several = {name: windows for name, windows in found.items() if windows and len(windows.texts) > 1}
        return cls(post.example, values, hidden, several)

    def __len__(self) -> int:
        """Versions: as many encoder passes, or more where a text has several windows."""
        return max(len(self._of(name)) for name in self.values)

    def _of(self, name: str) -> list[Any]:
        """The versions of a part: as it is, with each piece hidden, each window alone."""
        windows = self.windows[name].texts if name in self.windows else ()
        return [self.values[name], *(value for _, value in self.hidden[name]), *windows]

    def versions(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Some of them, each with one version of every part that has so many; the first has none hidden."""
        every = {name: self._of(name) for name in self.values}
        return [
            {name: versions[i] for name, versions in every.items() if i < len(versions)}
            for i in range(start, min(stop, len(self)))
        ]


def _hidden(modality: Modality, value: Any, grid: int) -> list[tuple[Piece, Any]]:
    if not isinstance(modality, Occludable):
        return []
    return modality.occlusions(value, grid**2 if modality.input.is_file else None)  # words and columns are pieces


def joined(parts: Sequence[Mapping[str, Evidence]]) -> dict[str, Evidence]:
    """The Evidence of rows that were encoded one lot after another."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[Evidence]) -> Evidence:
    whole: dict[str, Any] = {}
    for one in fields(parts[0]):
        rows = [getattr(part, one.name) for part in parts]
        if rows[0] is None:
            continue
        if isinstance(rows[0], Mapping):
            whole[one.name] = {label: _joined([row[label] for row in rows]) for label in rows[0]}
            continue
        if isinstance(rows[0], tuple):
            whole[one.name] = tuple(chain.from_iterable(rows))
        else:
            found = np.concatenate([np.asarray(row) for row in rows])
            whole[one.name] = found if isinstance(rows[0], np.ndarray) else rows[0].new_tensor(found)
    return replace(parts[0], **whole)


@dataclass(frozen=True, slots=True)
class _Scorer:
    """What scores posts by one label: ``meaning``, its classes, and ``further``, its name unless it is the first."""

    system: ExplainedSystem
    meaning: Label
    policy: Policy
    further: str | None

    @classmethod
    def of(cls, system: ExplainedSystem, label: str | None) -> Self:
        _check_label(system, label)
        first = system.policy.label
        name = label or first
        return cls(system, system.labels[name], system.policy.of_label(name), None if name == first else name)

    def answer(self, decision: Decision) -> Decision | LabelDecision:
        """Raises `DataError` where the label is not asked of the post."""
        if self.further is None:
            return decision
        answer = decision.labels[self.further]
        if answer is None:
            raise DataError(
                f"{self.further!r} is not asked of this post, as {self.policy.requires!r} is not flagged: there is no "
                "answer by it to be explained"
            )
        return answer

    def evidence(self, whole: Evidence) -> Evidence:
        """That of the label itself."""
        return whole if self.further is None else whole.further[self.further]


def explained(
    system: ExplainedSystem, covered: Covered, evidence: Mapping[str, Evidence], label: str | None = None
) -> Explanation:
    """What `explain` gives, of the Evidence of all versions; no encoder runs."""
    values, hidden, scorer = covered.values, covered.hidden, _Scorer.of(system, label)
    decision = system.decisions([(covered.example, values)], {name: e.take([0]) for name, e in evidence.items()})[0]
    answer, classes = scorer.answer(decision), scorer.meaning.classes
    index = 1 if scorer.meaning.binary else classes.index(answer.label)
    effects = measure_effects(
        partial(_scores, scorer, evidence, index), {name: len(pieces) for name, pieces in hidden.items()}
    )
    line = answer.threshold
    return Explanation(
        decision=decision,
        label=scorer.further,
        explains=classes[index],
        score=effects.score,
        baseline=effects.baseline,
        threshold=None if line is None else float(log_odds([[1 - line, line]], 1)[0]),
        contributions=effects.contributions,
        subsets=effects.subsets,
        pieces={name: _weighed([piece for piece, _ in pieces], name, effects) for name, pieces in hidden.items()},
        values=values,
        windows={name: _read_windows(scorer, covered, evidence[name], name, index) for name in covered.windows},
    )


def _read_windows(
    scorer: _Scorer, covered: Covered, evidence: Evidence, name: str, index: int
) -> tuple[ReadWindow, ...]:
    """What the expert of a long text says of each window alone; its versions stand behind those with pieces hidden."""
    places, start = covered.windows[name].places, 1 + len(covered.hidden[name])
    logits = np.asarray(scorer.evidence(evidence).logits)[start : start + len(places)]
    expert = scorer.system.modalities[name].expert_name
    scores = log_odds(scorer.policy.probabilities(expert, logits, name), index)
    return tuple(ReadWindow(place, float(score)) for place, score in zip(places, scores, strict=True))


def _scores(
    scorer: _Scorer, evidence: Mapping[str, Evidence], index: int, versions: Mapping[str, NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Log-odds ``[r]`` of versions of a post, calibrated as posts that have these parts are."""
    n = len(next(iter(versions.values())))
    absent = np.full(n, ABSENT)
    rows = {name: versions.get(name, absent) for name in evidence}
    said = {
        name: e.take(np.maximum(rows[name], 0).tolist()).without(np.flatnonzero(rows[name] == ABSENT).tolist())
        for name, e in evidence.items()
    }
    system, of_label = scorer.system, () if scorer.further is None else (scorer.further,)
    logits = system.engine.logits(said, *of_label)[system.main]
    patterns = np.array([pattern_of(name for name in rows if rows[name][i] != ABSENT) for i in range(n)])
    scores = np.empty(n)
    for pattern in np.unique(patterns).tolist():
        there = patterns == pattern
        if pattern:
            found = scorer.policy.probabilities(system.main, logits[there], pattern)
        elif len(system.modalities) > 1:
            found = softmax(logits[there])  # class shares: no temperature belongs to them
        else:
            found = np.full(logits[there].shape, 1 / logits.shape[1])
        scores[there] = log_odds(found, index)
    return scores


def _weighed(pieces: list[Piece], name: str, effects: Effects) -> tuple[Weighed, ...]:
    of_part = effects.pieces[name]
    left = probability(effects.score - of_part)
    order = np.argsort(-np.abs(of_part), kind="stable")
    return tuple(Weighed(pieces[i], float(of_part[i]), float(left[i])) for i in order)
