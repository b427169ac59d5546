"""``/v1alpha1/comments:analyze`` and ``:suggestscore`` in the shape of Perspective's API, whose users need a new home.

Names and forms are those of its discovery document (commentanalyzer.googleapis.com, revision 20260504); what is
refused, and in which words, is what its documentation lists under "Limits and errors".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from ...modalities import TEXT
from ...modalities.text import NO_LANGUAGE
from ..api.bodies import CheckedBodyRoute
from ..api.keys import ApiClient
from ..api.routes import POSTING, cancel_on_disconnect, owner_of, service_of
from ..errors import Refused
from ..log.records import storable
from ..posts import Answer, IncomingPost
from ..service import Service
from .author_header import Author
from .discovery import document
from .label_names import names_outside, probability_of
from .schemas import AnalyzeIn, AnalyzeOut, AttributeIn, CommentIn, CommentRequest, SuggestIn, SuggestOut

PATH = "/v1alpha1/comments:analyze"
SUGGEST = "/v1alpha1/comments:suggestscore"
MAX_BYTES = 20 * 2**10
"""Of a comment."""
_PLAIN = ("PLAIN_TEXT", "TEXT_TYPE_UNSPECIFIED")
_PROBABILITY = ("PROBABILITY", "SCORE_TYPE_UNSPECIFIED")
_INVALID = (400, 413, 415, 422)
"""Our statuses of what is wrong with a request; Google's has one for all."""
_STATUS = {
    401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 405: "UNIMPLEMENTED", 408: "DEADLINE_EXCEEDED",
    409: "ABORTED", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
    507: "RESOURCE_EXHAUSTED",
}  # fmt: skip
_NO_LANGUAGE = (NO_LANGUAGE, "zxx")
"""Too few letters to say, and by ISO 639 no language at all."""
_TYPE = "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"


class Invalid(Refused):
    """A request that Perspective's API refuses, with the type of error that it documents."""

    def __init__(self, error_type: str, message: str, **more: Mapping[str, Any]):
        super().__init__("bad_request", message)
        self.details = {"errorType": error_type, **more}


async def _client(request: Request) -> ApiClient:
    """Who asks: its clients put the key into the address, others into a header."""
    header = request.headers.get("authorization", "")
    key = request.query_params.get("key") or request.headers.get("x-goog-api-key") or header.removeprefix("Bearer ")
    return service_of(request).auth.who(key or None)


Asking = Annotated[ApiClient, Depends(_client)]
router = APIRouter(route_class=CheckedBodyRoute)


@router.get("/$discovery/rest", tags=["other shapes"])
async def discovery(request: Request) -> Any:
    """The document that clients of Google's APIs are built from; this service stands in it."""
    return JSONResponse(document(str(request.base_url)))


@router.post(PATH, response_model=AnalyzeOut, responses=POSTING, tags=["other shapes"])
async def analyze(request: Request, asked: AnalyzeIn, client: Asking, author: Author) -> Any:
    """Score a comment as Perspective's API is asked; the decision is logged like any other."""
    service = service_of(request)
    service.auth.allow(client, "decide", 1)
    wanted = {name: attribute or AttributeIn() for name, attribute in (asked.requestedAttributes or {}).items()}
    attributes = _attributes(service)
    text = _checked(service, asked, list(wanted), attributes)
    for name, attribute in wanted.items():
        if attribute.scoreType not in (None, *_PROBABILITY):
            kind = storable(attribute.scoreType[:60])
            raise Invalid("INVALID_REQUEST", f"Requested score type {kind} is not supported by attribute {name}")
    answer = await _decided(request, asked, text, client, author, keep=not asked.doNotStore)
    scores = {}
    for name, attribute in wanted.items():
        value = probability_of(answer, attributes[name])
        if attribute.scoreThreshold is None or value >= attribute.scoreThreshold:
            score = {"value": value, "type": "PROBABILITY"}
            span = {"begin": 0, "end": len(text), "score": score}
            scores[name] = {"summaryScore": score, **({"spanScores": [span]} if asked.spanAnnotations else {})}
    detected = _language(answer)
    languages = [storable(name) for name in asked.languages or [detected]]
    return _told(asked, {"attributeScores": scores, "languages": languages, "detectedLanguages": [detected]})


@router.post(SUGGEST, response_model=SuggestOut, responses=POSTING, tags=["other shapes"])
async def suggest(request: Request, asked: SuggestIn, client: Asking, author: Author) -> Any:
    """Say what the scores of a comment should have been: feedback on a decision, which is made of it anew."""
    service = service_of(request)
    service.auth.allow(client, "decide", 1)
    suggested = asked.attributeScores or {}
    attributes, labels = _attributes(service), service.served.about.labels
    text = _checked(service, asked, list(suggested), attributes)
    values = {name: s.summaryScore.value for name, s in suggested.items() if s is not None and s.summaryScore}
    if len(values) < len(suggested) or None in values.values():
        raise Invalid("INVALID_REQUEST", "attributeScores take a summaryScore with a value for each attribute")
    said: dict[str, str] = {}
    for name, value in values.items():
        label = attributes[name]
        side = str(labels[label].classes[int(value is not None and value >= 0.5)])
        if said.setdefault(label, side) != side:
            alike = [other for other in values if attributes[other] == label]
            raise Invalid("INVALID_REQUEST", f"{', '.join(alike)} are one score here, and these suggest two")
    answer = await _decided(request, asked, text, client, author, keep=True)
    reason = "suggested " + ", ".join(f"{name} = {value:g}" for name, value in values.items())
    first = said.pop(next(iter(labels)), "")
    keep = partial(service.store.feedback, labels=said)
    await asyncio.to_thread(keep, answer.id, owner_of(client), first, reason)
    told = {
        "requestedLanguages": [storable(name) for name in asked.languages or []],
        "detectedLanguages": [_language(answer)],
        "bifocal": {"decision_id": answer.id, "label": first, **({"labels": said} if said else {})},
    }
    return _told(asked, told)


def _attributes(service: Service) -> dict[str, str]:
    """Attribute -> the label whose positive class it scores; of two labels the earlier one."""
    settings = service.settings.perspective
    names = names_outside(service.served.about, settings.attributes, settings.labels, own=str.upper)
    return {name: label for label in reversed(names) for name in names[label]}


def _checked(service: Service, asked: CommentRequest, attributes: Sequence[str], ours: Mapping[str, str]) -> str:
    """The comment's text. Raises `Invalid` as the documented API does."""
    if not ours:
        raise Invalid(
            "INVALID_REQUEST", "this run tells more than two classes apart, and an attribute has one score: /v1/predict"
        )
    comment = asked.comment or CommentIn()
    text = comment.text or ""
    if not text.strip():
        raise Invalid("COMMENT_EMPTY", "Comment must be non-empty.")
    if comment.type not in (None, *_PLAIN):
        known = comment.type == "HTML"
        raise Invalid(
            "INVALID_REQUEST", "Currently, only 'PLAIN_TEXT' comments are supported" if known else "Unknown text type"
        )
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise Invalid("COMMENT_TOO_LONG", "Comment text too long.")
    if not attributes:
        raise Invalid("NO_REQUESTED_ATTRIBUTES", "Missing requested_attributes")
    for name in attributes:
        if name not in ours:
            told = f"Unknown requested attribute: {storable(name[:60])}; this service has {', '.join(ours)}"
            raise Invalid("INVALID_REQUEST", told)
    if asked.context and asked.context.get("entries") and asked.context.get("articleAndParentComment"):
        told = "Context can have either entries or article_and_parent_comment, but both fields were populated."
        raise Invalid("INVALID_REQUEST", told)
    if asked.languages and not any(_supported(service, language) for language in asked.languages):
        raise _unsupported(attributes[0], asked.languages, "requestedLanguages")
    return text


def _supported(service: Service, language: str) -> bool:
    """Whether comments of a language (ISO 639-1 or BCP 47) are scored."""
    code = language.replace("_", "-").partition("-")[0].lower()
    return code in service.settings.perspective.languages


def _unsupported(attribute: str, languages: Sequence[str], key: str) -> Invalid:
    names = [storable(language[:20]) for language in languages[:10]]
    return Invalid(
        "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
        f"Attribute {attribute} does not support request languages: {', '.join(names)}",
        languageNotSupportedByAttributeError={key: names, "attribute": attribute},
    )


async def _decided(
    request: Request, asked: AnalyzeIn | SuggestIn, comment: str, client: ApiClient, author: str | None, *, keep: bool
) -> Answer:
    """The answer for a comment that was read whole, in a language that is scored; any other is not logged."""
    service = service_of(request)
    attributes = asked.requestedAttributes if isinstance(asked, AnalyzeIn) else asked.attributeScores

    def check(answer: Answer) -> None:
        if answer.truncated:
            raise Invalid("COMMENT_TOO_LONG", "Comment text too long.")
        if asked.languages:
            return
        detected = _language(answer)
        if detected in _NO_LANGUAGE:
            raise Invalid("LANGUAGE_DETECTION_FAILED", "Unable to detect language")
        if not _supported(service, detected):
            raise _unsupported(next(iter(attributes or {})), [detected], "detectedLanguages")

    incoming = IncomingPost({TEXT: comment}, subject=author, keep=keep, check=check)
    return await cancel_on_disconnect(request, service.decide(incoming, client))


def _language(answer: Answer) -> str:
    assert answer.decision is not None  # lists know pictures only
    return answer.decision.language


def _told(asked: CommentRequest, body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(body | ({} if asked.clientToken is None else {"clientToken": storable(asked.clientToken)}))


def error_body(refused: Refused) -> tuple[int, dict[str, Any]]:
    """The status and body of an error, as its clients read it."""
    if refused.status not in _INVALID:
        status = _STATUS.get(refused.status, "FAILED_PRECONDITION" if refused.status < 500 else "INTERNAL")
        error = {"code": refused.status, "message": str(refused), "status": status, "kind": refused.kind}
        return refused.status, {"error": error}
    if isinstance(refused, Invalid):
        details = refused.details
    else:
        details = {"errorType": "COMMENT_TOO_LONG" if refused.kind == "too_large" else "INVALID_REQUEST"}
    error = {"code": 400, "message": str(refused), "status": "INVALID_ARGUMENT", "kind": refused.kind}
    return 400, {"error": {**error, "details": [{"@type": _TYPE, **details}]}}
