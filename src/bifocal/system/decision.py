"""The answer for one post."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

ACTIONS = (None, "allow", "review", "block")
"""What may be done with a post, the mildest first; None = its labels name no action."""


NOT_READ = "not all of the post's words were read, so a person decides"


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one model makes of a post: calibrated probability (of its label, where multiclass) and label."""

    probability: float
    label: int | str


@dataclass(frozen=True, slots=True)
class LabelDecision:
    """The answer for one post by one of several labels; see `Decision` for what each field means."""

    probability: float
    label: int | str
    threshold: float | None
    action: str | None
    why: str
    models: Mapping[str, Opinion]
    candidates: tuple[int | str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "prob": self.probability,
            "label": self.label,
            "threshold": self.threshold,
            "action": self.action,
            "why": self.why,
            **({} if self.candidates is None else {"candidates": list(self.candidates)}),
            "models": {m: {"prob": o.probability, "label": o.label} for m, o in self.models.items()},
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> LabelDecision:
        """What `to_dict` told."""
        models = {name: Opinion(one["prob"], one["label"]) for name, one in told["models"].items()}
        candidates = tuple(told["candidates"]) if "candidates" in told else None
        of = {name: told[name] for name in ("label", "threshold", "action", "why")}
        return cls(probability=told["prob"], models=models, candidates=candidates, **of)


def for_truncated(answer: LabelDecision, rule: Literal["review"] | None) -> LabelDecision:
    """The answer on a post whose words were not all read, by the rule for those (`Policy.truncation`)."""
    if rule is None or answer.action == rule:
        return answer
    return replace(answer, action=rule, why=f"{answer.why}; {NOT_READ}")


def severity(answer: LabelDecision) -> tuple[int, float]:
    """What the answers on the views of one post are ordered by: the action, then the probability."""
    return ACTIONS.index(answer.action), answer.probability


def strictest(answers: Mapping[str, LabelDecision | None]) -> tuple[str | None, str]:
    """The strictest action of several labels, and why, beginning with the label that it is of."""
    asked = {label: answer for label, answer in answers.items() if answer is not None}
    label = max(asked, key=lambda label: ACTIONS.index(asked[label].action))
    return asked[label].action, f"{label}: {asked[label].why}"


@dataclass(frozen=True, slots=True, eq=False)  # equal as mappings are, to another or to what `to_dict` gives
class Decision(Mapping[str, Any]):
    """The answer for one post; it reads like the dictionary of `to_dict`, too: ``decision["prob_hate"]``.

    Of several labels ``probability``, ``label``, ``threshold`` and ``models`` are those of the first, and ``action`` is
    the strictest of all.

    Attributes
    ----------
    probability : float
        Calibrated; of the positive class (binary) or of ``label`` (multiclass).
    label : int or str
        0 or 1 by the threshold (binary), or the name of the likeliest class.
    threshold : float or None
        None = the likeliest class wins.
    action : str or None
        ``allow`` or ``block``, following the label, or ``review`` inside the policy's band. Multiclass labels name no
        action: ``review`` where the policy has prediction sets and the label does not stand alone in its own, or None.
    why : str
        The rule that decided, with its numbers.
    candidates : tuple or None
        Of a multiclass label, the classes that cannot be ruled out (`ReviewConfig.alpha`); None without such sets.
    models : dict
        Model name -> `Opinion` of every model that could read a part of the post.
    present : dict
        Modality -> whether the post brought it.
    text_used : str
        The composed text that the text expert was given (with the OCR text where only a picture came).
    truncated : bool
        Whether an expert did not read all that it was given: a text has more tokens than its encoder takes, or more
        characters, once it is cleaned, than are read.
    unread : bool
        Whether half or more of the lines seen on the picture could not be read: other than a picture without words.
    labels : dict
        Of several labels, each with its own answer, the first included; None = it is not asked, as the label that it
        requires is not flagged. Empty where there is one.
    """

    probability: float
    label: int | str
    threshold: float | None
    action: str | None
    why: str
    models: dict[str, Opinion]
    present: dict[str, bool]
    text_used: str
    language: str
    versions: dict[str, str]
    probability_key: str = "prob"
    candidates: tuple[int | str, ...] | None = None
    truncated: bool = False
    unread: bool = False
    labels: Mapping[str, LabelDecision | None] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the probability stands under the key that the taxonomy gives the label (``prob_hate``)."""
        key = self.probability_key
        return {
            key: self.probability,
            "label": self.label,
            "threshold": self.threshold,
            "action": self.action,
            "why": self.why,
            **({} if self.candidates is None else {"candidates": list(self.candidates)}),
            "models": {m: {key: o.probability, "label": o.label} for m, o in self.models.items()},
            "present": self.present,
            "text_used": self.text_used,
            "truncated": self.truncated,
            "unread": self.unread,
            "language": self.language,
            "versions": self.versions,
            **({"labels": {name: of and of.to_dict() for name, of in self.labels.items()}} if self.labels else {}),
        }


def mark_truncated(decision: Decision, rules: Mapping[str, Literal["review"] | None]) -> Decision:
    """A decision on a post whose words were not all read, by each label's rule for those (`Policy.truncation`)."""
    if decision.labels:
        labels = {name: one and for_truncated(one, rules[name]) for name, one in decision.labels.items()}
        action, why = strictest(labels)
        return replace(decision, truncated=True, labels=labels, action=action, why=why)
    (rule,) = rules.values()
    if rule is None or decision.action == rule:
        return replace(decision, truncated=True)
    return replace(decision, truncated=True, action=rule, why=f"{decision.why}; {NOT_READ}")
