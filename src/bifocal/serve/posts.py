"""A post as it comes to the service, and what is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..system.decision import Decision
from .known_pictures import Match


@dataclass(frozen=True, slots=True)
class IncomingPost:
    """A post as it comes, whatever endpoint it comes by."""

    parts: Mapping[str, Any]
    """Modality -> words, the content of a file, or a record; nothing that is None."""
    subject: str | None = None
    """The author, as the platform calls it; kept as a keyed hash only."""
    external_id: str | None = None
    """The post, as the platform calls it."""
    keep: bool = True
    """Whether its original may be kept."""
    check: Callable[[Answer], None] | None = None
    """Told the answer before it is logged; where it raises, the post was never decided."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is told of a post."""

    id: str
    decision: Decision | None
    """None where a list decided, and no model was asked."""
    action: str | None
    match: Match | None
    truncated: bool
    versions: dict[str, str]
    why: str
    shadow: dict[str, Any] | None = None
    """What the shadow says of it: for the log, not for who asked."""

    @property
    def source(self) -> str:
        return "list" if self.decision is None else "model"

    def to_dict(self) -> dict[str, Any]:
        """The body of the answer: the Decision's fields, ``probability`` beside its own name, and what is ours."""
        told: dict[str, Any] = {"id": self.id, "action": self.action, "source": self.source}
        if self.decision is None:
            told |= dict.fromkeys(("probability", "label", "threshold", "language"))
            told |= {"models": {}, "present": {}, "text_used": "", "unread": False}
        else:
            told |= {"probability": self.decision.probability, **self.decision.to_dict()}
        match = None if self.match is None else self.match.to_dict()
        return told | {"why": self.why, "match": match, "truncated": self.truncated, "versions": self.versions}
