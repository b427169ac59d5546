"""What a run's labels are called in the shapes of other services, and what an answer says by each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..posts import Answer

if TYPE_CHECKING:
    from ..workers.processes import ModelDescription


def names_outside(
    about: ModelDescription,
    first: tuple[str, ...],
    further: Mapping[str, tuple[str, ...]],
    own: Callable[[str], str],
) -> dict[str, tuple[str, ...]]:
    """Label of two classes -> what its positive class is called; those that are not named, by their own name."""
    named = {**further, next(iter(about.labels)): first}
    return {name: named.get(name, (own(name),)) for name, of in about.labels.items() if len(of.classes) == 2}


def probability_of(answer: Answer, label: str) -> float:
    """That of a label's positive class; 0 where the label is not asked, as the one that it requires is not flagged."""
    assert answer.decision is not None
    if not answer.decision.labels:
        return answer.decision.probability
    of = answer.decision.labels.get(label)
    return 0.0 if of is None else of.probability
