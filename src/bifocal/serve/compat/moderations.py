"""``POST /v1/moderations`` in the shape of OpenAI's moderation API: its clients change their address and no more."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from ...errors import BifocalError
from ...modalities import PICTURE, TEXT, inputs
from ..api.bodies import CheckedBodyRoute
from ..api.routes import POSTING, Asking, cancel_on_disconnect, decide_all, decoded, service_of
from ..errors import Refused
from ..posts import Answer, IncomingPost
from ..settings import CATEGORIES, Moderations
from .author_header import Author
from .label_names import names_outside, probability_of
from .schemas import ImagePart, ModerationIn, ModerationOut, TextPart

PATH = "/v1/moderations"
_DATA = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)


router = APIRouter(route_class=CheckedBodyRoute)


@router.post(PATH, response_model=ModerationOut, responses=POSTING, tags=["other shapes"])
async def moderate(request: Request, asked: ModerationIn, client: Asking, author: Author) -> Any:
    """Decide on texts, or on one post of text and picture, as OpenAI's moderation API is asked."""
    service = service_of(request)
    about, told = service.served.about, service.settings.moderations
    names = names_outside(about, told.categories, told.labels, own=str)
    if not names:
        raise Refused(
            "unusable",
            f"this run tells {len(about.classes)} classes apart, and this shape knows two: ask /v1/predict",
        )
    posts = [replace(post, subject=author) for post in read_input(asked)]
    if len(posts) > service.settings.max_items:
        raise Refused("too_large", f"a request has {service.settings.max_items} inputs at most, this one {len(posts)}")
    service.auth.allow(client, "decide", len(posts))
    answers = await cancel_on_disconnect(request, decide_all(service, posts, client))
    results = []
    for post, answer in zip(posts, answers, strict=True):
        if isinstance(answer, BifocalError):  # this shape knows no errors of single inputs
            raise answer
        results.append(_result(answer, post, names, told))
    about = service.served.about  # of now
    version = f"bifocal-{about.config.run}-{about.policy_version}"
    return JSONResponse({"id": f"modr-{uuid.uuid4().hex}", "model": version, "results": results})


def read_input(asked: ModerationIn) -> list[IncomingPost]:
    """The posts in a request. Raises `Refused` on an address that is no data: URI, and on several pictures."""
    if isinstance(asked.input, str):
        return [IncomingPost({TEXT: asked.input})]
    if isinstance(asked.input[0], str):
        return [IncomingPost({TEXT: str(words)}) for words in asked.input]
    texts = [part.text for part in asked.input if isinstance(part, TextPart)]
    pictures = [part.image_url.url for part in asked.input if isinstance(part, ImagePart)]
    if len(pictures) > 1:
        raise Refused("unusable", f"a post has one picture here, found {len(pictures)}: send a request for each")
    parts: dict[str, Any] = {TEXT: "\n".join(texts)} if texts else {}
    if pictures:
        head = _DATA.match(pictures[0])
        if head is None:
            raise Refused(
                "unusable",
                f"image_url must be a data: URI with the picture in base64, found {pictures[0][:40]!r}: "
                "nothing is fetched",
            )
        parts[PICTURE] = decoded(pictures[0][head.end() :], PICTURE, inputs()[PICTURE])
    return [IncomingPost(parts)]


class _Category(NamedTuple):
    flagged: bool = False
    score: float = 0.0
    applied: tuple[str, ...] = ()


def _result(
    answer: Answer, post: IncomingPost, names: Mapping[str, tuple[str, ...]], settings: Moderations
) -> dict[str, Any]:
    categories = dict.fromkeys(CATEGORIES, _Category())
    for label, one in _by_label(answer, post, names, settings).items():
        for name in names[label]:  # several labels may be one category
            there = categories.get(name, _Category())
            score, applied = max(there.score, one.score), there.applied or one.applied
            categories[name] = _Category(there.flagged or one.flagged, score, applied)
    return {
        "flagged": _flagged(answer.action, settings),
        "categories": {name: one.flagged for name, one in categories.items()},
        "category_scores": {name: one.score for name, one in categories.items()},
        "category_applied_input_types": {name: list(one.applied) for name, one in categories.items()},
        "bifocal": {
            "id": answer.id,
            "action": answer.action,
            "why": answer.why,
            "truncated": answer.truncated,
            "versions": answer.versions,
        },
    }


def _by_label(
    answer: Answer, post: IncomingPost, names: Mapping[str, tuple[str, ...]], settings: Moderations
) -> dict[str, _Category]:
    """What each label of two classes says; what is done with the post for no label's sake stands at the first one."""
    flagged, there = _flagged(answer.action, settings), tuple(post.parts)
    first = next(iter(names))
    if answer.decision is None or not answer.decision.labels:
        score = probability_of(answer, first) if answer.decision else float(answer.action != "allow")
        return dict.fromkeys(names, _Category()) | {first: _Category(flagged, score, there)}
    found = dict.fromkeys(names, _Category())
    for label in names:
        if (of := answer.decision.labels.get(label)) is not None:
            own = of.label == 1 if of.action is None else _flagged(of.action, settings)
            found[label] = _Category(own, of.probability, there)
    if flagged and not any(of is not None and _flagged(of.action, settings) for of in answer.decision.labels.values()):
        found[first] = found[first]._replace(flagged=True)
    return found


def _flagged(action: str | None, settings: Moderations) -> bool:
    return action == "block" or (action == "review" and settings.flag_review)


def error_body(refused: Refused) -> tuple[int, dict[str, Any]]:
    """The status and body of an error, as its clients read it."""
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    error = {"message": str(refused), "type": kind, "param": None, "code": refused.kind, "kind": refused.kind}
    return refused.status, {"error": error}
