"""``POST /v1/moderations`` in the shape of OpenAI's moderation API: its clients change their address and no more."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from ...errors import BifocalError
from ...modalities import PICTURE, TEXT, inputs
from ..api.bodies import CheckedBodyRoute
from ..api.routes import POSTING, Asking, cancel_on_disconnect, decide_all, decoded, service_of
from ..errors import Refused
from ..posts import Answer, IncomingPost
from ..settings import CATEGORIES
from .author_header import Author
from .schemas import ImagePart, ModerationIn, ModerationOut, TextPart

PATH = "/v1/moderations"
_DATA = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)


router = APIRouter(route_class=CheckedBodyRoute)


@router.post(PATH, response_model=ModerationOut, responses=POSTING, tags=["other shapes"])
async def moderate(request: Request, asked: ModerationIn, client: Asking, author: Author) -> Any:
    """Decide on texts, or on one post of text and picture, as OpenAI's moderation API is asked."""
    service = service_of(request)
    about = service.served.about
    if len(about.classes) != 2:
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
        results.append(_result(answer, post, service.settings.moderations))
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


def _result(answer: Answer, post: IncomingPost, settings: Any) -> dict[str, Any]:
    probability = answer.decision.probability if answer.decision else float(answer.action != "allow")
    flagged = answer.action == "block" or (answer.action == "review" and settings.flag_review)
    ours = set(settings.categories)
    there = list(post.parts)
    return {
        "flagged": flagged,
        "categories": {name: flagged and name in ours for name in CATEGORIES},
        "category_scores": {name: probability if name in ours else 0.0 for name in CATEGORIES},
        "category_applied_input_types": {name: there if name in ours else [] for name in CATEGORIES},
        "bifocal": {
            "id": answer.id,
            "action": answer.action,
            "why": answer.why,
            "truncated": answer.truncated,
            "versions": answer.versions,
        },
    }


def error_body(refused: Refused) -> tuple[int, dict[str, Any]]:
    """The status and body of an error, as its clients read it."""
    kind = "invalid_request_error" if refused.status < 500 else "server_error"
    error = {"message": str(refused), "type": kind, "param": None, "code": refused.kind, "kind": refused.kind}
    return refused.status, {"error": error}
