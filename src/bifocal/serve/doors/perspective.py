"""``POST /v1alpha1/comments:analyze`` in the shape of Perspective's API, whose users need a new home.

Names and forms are those of its discovery document (commentanalyzer.googleapis.com, revision 20260504).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from ..api import POSTING, service_of, unless_gone
from ..bodies import Narrow
from ..errors import Refused
from ..keys import Client
from ..records import storable
from ..service import Incoming

PATH = "/v1alpha1/comments:analyze"
_STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


class CommentIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str
    type: Literal["PLAIN_TEXT", "HTML", "TEXT_TYPE_UNSPECIFIED"] = "PLAIN_TEXT"


class AttributeIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    scoreType: Literal["PROBABILITY", "SCORE_TYPE_UNSPECIFIED"] = "PROBABILITY"
    scoreThreshold: float | None = Field(None, ge=0, le=1, description="Scores under it are not told.")


class AnalyzeIn(BaseModel):
    """A comment, and what is asked of it."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [{"comment": {"text": "a quiet morning"}, "requestedAttributes": {"TOXICITY": {}}}]
        },
    )
    comment: CommentIn
    requestedAttributes: dict[str, AttributeIn] = Field(min_length=1)
    languages: list[str] = []
    doNotStore: bool = False
    spanAnnotations: bool = False
    clientToken: str | None = None
    sessionId: str | None = None
    communityId: str | None = None


class AnalyzeOut(BaseModel):
    model_config = ConfigDict(extra="allow")
    attributeScores: dict[str, Any] = {}
    languages: list[str]
    detectedLanguages: list[str]


async def _client(request: Request) -> Client:
    """Who asks: its clients put the key into the address, others into a header."""
    header = request.headers.get("authorization", "")
    key = request.query_params.get("key") or request.headers.get("x-goog-api-key") or header.removeprefix("Bearer ")
    return service_of(request).door.who(key or None)


router = APIRouter(route_class=Narrow)


@router.post(PATH, response_model=AnalyzeOut, responses=POSTING, tags=["other shapes"])
async def analyze(request: Request, asked: AnalyzeIn, client: Annotated[Client, Depends(_client)]) -> Any:
    """Score a comment as Perspective's API is asked; the decision is logged like any other."""
    service = service_of(request)
    service.door.allow(client, "decide", 1)
    ours = service.settings.perspective.attributes
    if len(service.about.classes) != 2:
        raise Refused("bad_request", "this run tells more than two classes apart, and an attribute has one score")
    for name in asked.requestedAttributes:
        if name not in ours:
            raise Refused(
                "bad_request", f"Unknown requested attribute: {storable(name[:60])}; this service has {', '.join(ours)}"
            )
    if not asked.comment.text.strip():
        raise Refused("bad_request", "Comment must be non-empty.")
    incoming = Incoming(text=asked.comment.text, external_id=None, keep=not asked.doNotStore)
    answer = await unless_gone(request, service.decide(incoming, client))
    assert answer.decision is not None  # lists know pictures only
    value = answer.decision.probability
    score = {"value": value, "type": "PROBABILITY"}
    span = {"begin": 0, "end": len(asked.comment.text), "score": score}
    scores = {
        name: {"summaryScore": score, **({"spanScores": [span]} if asked.spanAnnotations else {})}
        for name, wanted in asked.requestedAttributes.items()
        if wanted.scoreThreshold is None or value >= wanted.scoreThreshold
    }
    language = answer.decision.language
    told: dict[str, Any] = {
        "attributeScores": scores,
        "languages": [storable(name) for name in asked.languages] or [language],
        "detectedLanguages": [language],
    }
    return JSONResponse(told | ({} if asked.clientToken is None else {"clientToken": storable(asked.clientToken)}))


def told(refused: Refused) -> dict[str, Any]:
    """An error as its clients read it."""
    status = _STATUS.get(refused.status, "FAILED_PRECONDITION" if refused.status < 500 else "INTERNAL")
    return {"error": {"code": refused.status, "message": str(refused), "status": status, "kind": refused.kind}}
