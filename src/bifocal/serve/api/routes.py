"""The service's own endpoints: ``/v1/*`` for posts, feedback and subjects, health and metrics."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, create_model
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import UploadFile

from ...contracts import Input
from ...errors import BifocalError, DataError
from ...files.post_table import MAX_NAME, NAMES
from ...modalities import PARTS, inputs
from ...modalities.text import Text
from ..errors import KINDS, WITHIN, Refused
from ..log.records import Conflict, NotStorable, StoreFull, StoreGone, UnknownDecision, WrongClient
from ..posts import Answer, IncomingPost
from ..service import Service
from .bodies import MULTIPART, URLENCODED, CheckedBodyRoute, content_type, read_json
from .keys import ApiClient
from .metrics import CONTENT_TYPE

Value = TypeVar("Value")
_LOG = logging.getLogger(__name__)
_OBJECTS = ("model_type", "model_attributes_type", "dict_type")
FIELDS = (*inputs(), PARTS, *NAMES)
Cell = str | int | float | bool | None


def _cells(record: Any) -> Any:
    for name, value in record.items() if isinstance(record, dict) else ():
        if not isinstance(value, Cell):  # the first is enough: a record may have very many
            raise ValueError(
                f"{name[:40]!r} is a {type(value).__name__}; a cell is text, a number, true, false or null"
            )
    return record


def _field_of(one: Input) -> tuple[Any, Any]:
    """Type and default of a part in JSON."""
    if one.form == "record":
        return Annotated[dict[str, Cell] | None, BeforeValidator(_cells)], Field(None, description=one.description)
    form: Any = {"format": "byte"} if one.is_file else None
    return str | None, Field(None, description=one.description, json_schema_extra=form)


_WORDS: dict[str, JsonValue] = {next(name for name, one in inputs().items() if one.form == "words"): "a quiet morning"}
_MORE_WORDS: dict[str, JsonValue] = dict.fromkeys(_WORDS, "a second post")


class _PostFields(BaseModel):
    """One post; any part may be missing, not all."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [_WORDS | {"subject": "author-17", "external_id": "post-4711"}]},
    )

    parts: dict[str, Any] | None = Field(None, description="Parts of further kinds that the run reads, by name.")
    subject: str | None = Field(None, max_length=MAX_NAME, description="The author; kept as a keyed hash only.")
    external_id: str | None = Field(None, max_length=MAX_NAME, description="The post, as the platform calls it.")

    def incoming(self, known: Mapping[str, Input], files: Mapping[str, bytes] | None = None) -> IncomingPost:
        """The post, whose files come in base64, or beside it. Raises `DataError`."""
        named = {name: part for name, part in self.model_dump(include={*inputs()}).items() if part is not None}
        others = self.parts or {}
        if twice := others.keys() & inputs().keys():
            raise DataError(f"{PARTS} holds {', '.join(sorted(twice))}, which has a field of its own")
        given = named | {name: part for name, part in others.items() if part is not None}
        for name, part in given.items():
            if name in known and known[name].is_file:
                given[name] = decoded(part, name, known[name])
        return IncomingPost(given | dict(files or {}), self.subject, self.external_id)


_PARTS: dict[str, Any] = {name: _field_of(one) for name, one in inputs().items()}
PostIn = create_model("PostIn", __base__=_PostFields, __doc__=_PostFields.__doc__, **_PARTS)


class BatchIn(BaseModel):
    """Several posts."""

    model_config = ConfigDict(extra="forbid")
    items: list[dict[str, Any]] = Field(
        min_length=1,
        fail_fast=True,
        description="Each as `/v1/predict` takes it in JSON; one that cannot be used harms no other.",
        json_schema_extra={"examples": [[_WORDS, _MORE_WORDS]]},
    )


class OpinionOut(BaseModel):
    """What one model makes of the post. Its probability also stands under the taxonomy's own name."""

    model_config = ConfigDict(extra="allow")
    label: int | str


class LabelOut(BaseModel):
    """The answer by one of several labels."""

    model_config = ConfigDict(extra="allow")
    prob: float
    label: int | str
    threshold: float | None
    action: Literal["allow", "review", "block"] | None
    why: str
    models: dict[str, OpinionOut]


class MatchOut(BaseModel):
    """The entry of a list that the picture is."""

    model_config = ConfigDict(extra="allow")
    list: str
    entry: str
    distance: int
    action: str


class AnswerOut(BaseModel):
    """The decision on one post. The probability also stands under the taxonomy's own name (``prob_hate``)."""

    model_config = ConfigDict(extra="allow")
    id: str = Field(description="Of the decision; for feedback and appeals.")
    action: Literal["allow", "review", "block"] | None
    source: Literal["model", "list"]
    probability: float | None
    label: int | str | None
    threshold: float | None
    why: str
    models: dict[str, OpinionOut]
    present: dict[str, bool]
    text_used: str
    language: str | None
    match: MatchOut | None
    truncated: bool = Field(
        description="Whether the text was longer than what the service, or the text expert, reads of it."
    )
    unread: bool = Field(
        description="Whether half or more of the lines seen on the picture could not be read (another script, say)."
    )
    versions: dict[str, str]
    labels: dict[str, LabelOut | None] = Field(
        {},
        description="Of a run of several labels the answer by each, the first included; null where the label that it "
        "requires is not flagged. Absent of a run of one label, and where a list decided.",
    )


class ErrorIs(BaseModel):
    kind: str = Field(description=f"One of {', '.join(KINDS)}.")
    message: str


class ErrorOut(BaseModel):
    """Why a request was not served."""

    error: ErrorIs


class BatchOut(BaseModel):
    """In the order of the items: a decision or an error each."""

    results: list[AnswerOut | ErrorOut]


class FeedbackIn(BaseModel):
    """What became known of a decided post."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"decision_id": "0" * 32, "label": "1", "reason": "reported by five readers"}]},
    )
    decision_id: str = Field(min_length=1, max_length=64)
    label: int | str = Field(description="The class that the post is of, by the run's first label.")
    labels: dict[str, int | str] = Field({}, description="Of a run of several labels the class by any of them.")
    reason: str = Field("", max_length=2000)


class AppealIn(BaseModel):
    """A decision that its author, or the platform, does not take for right."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"decision_id": "0" * 32, "reason": "the author says that it is satire"}]},
    )
    decision_id: str = Field(min_length=1, max_length=64)
    reason: str = Field("", max_length=2000)


class AppealOut(BaseModel):
    decision_id: str
    state: str


class FeedbackOut(BaseModel):
    decision_id: str
    label: str
    client: str
    labels: dict[str, str] = Field({}, description="Absent where none were named.")


class PolicyOut(BaseModel):
    """The policy that decides, as `policy_<run>.json` holds it."""

    model_config = ConfigDict(extra="allow")
    run: str
    version: str
    engine: str
    model: str
    reads: list[str]
    reads_words: bool
    modalities: list[str]
    columns: list[str]
    forms: dict[str, str] = Field(description="How each part is given: `words`, `file` or `record`.")


class ReceiptOut(BaseModel):
    """What was deleted of a subject."""

    model_config = ConfigDict(extra="allow")
    id: str | None = Field(description="Of the receipt; null where nothing was held, and none is kept.")


class HealthOut(BaseModel):
    live: bool | None = None
    ready: bool | None = None
    reasons: list[str] = []
    trouble: str | None = Field(None, description="Why the last change of models, keys or lists was refused.")
    spooled: int = Field(0, description="Decisions that wait for the database.")
    set_aside: int = Field(0, description="Decisions that waited, and that the database refuses: see stderr.")


def errors(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """The documented answers of these kinds."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        found.setdefault(KINDS[kind], {"model": ErrorOut, "description": kind.replace("_", " ")})
    return found


ASKING = errors("bad_request", "unauthorized", "forbidden", "overloaded", "internal", "unavailable")
POSTING = ASKING | errors("slow_body", "too_large", "unsupported_type", "unusable", "deadline", "storage_full")

_bearer = HTTPBearer(auto_error=False, description="An API key; not needed on loopback without keys.")


def service_of(request: Request) -> Service:
    """The service behind a request."""
    service: Service = request.app.state.service
    return service


def client_of(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
) -> ApiClient:
    """Who asks, by its key. Raises `Refused`."""
    key = credentials.credentials if credentials else request.headers.get("x-api-key")
    return service_of(request).auth.who(key)


def owner_of(client: ApiClient) -> str | None:
    """The client whose decisions one may touch; None = of all."""
    return None if client.may("admin") else client.name


class _Anything(Convertor[str]):
    regex = r"[\s\S]*"  # what the framework calls a path ends at a line break

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())
Asking = Annotated[ApiClient, Depends(client_of)]
router = APIRouter(route_class=CheckedBodyRoute)

_NOTED = {"type": "string", "maxLength": MAX_NAME}
_PLAIN: dict[str, Any] = {
    **{name: {"type": "string"} for name, one in inputs().items() if one.form == "words"},
    **{
        name: {"type": "string", "description": "The record, as a JSON object."}
        for name, one in inputs().items()
        if one.form == "record"
    },
    PARTS: {"type": "string", "description": "Parts of further kinds, as a JSON object."},
    **dict.fromkeys(NAMES, _NOTED),
}
_FILES = {name: {"type": "string", "format": "binary"} for name, one in inputs().items() if one.is_file}


def _form_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "additionalProperties": False, "properties": dict(fields)}}


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": PostIn.model_json_schema()},
            MULTIPART: _form_of(_PLAIN | _FILES),
            URLENCODED: _form_of(_PLAIN),
        },
    }
}
_EXAMPLE = {
    "id": "3f2a9c0e5d7b4c1e8a6f0b1d2c3e4f5a",
    "action": "review",
    "source": "model",
    "probability": 0.41,
    "prob_hate": 0.41,
    "label": 1,
    "threshold": 0.35,
    "why": "mm_fusion gives 0.410 >= threshold 0.35 from image+text, inside the review band",
    "models": {Text.expert_name: {"prob_hate": 0.3, "label": 0}, "mm_fusion": {"prob_hate": 0.41, "label": 1}},
    "present": {name: True for name, one in inputs().items() if one.form != "record"},
    "text_used": "[OCR] [/OCR] [CAP] a quiet morning [/CAP] <lang=en>",
    "language": "en",
    "match": None,
    "truncated": False,
    "unread": False,
    "versions": {"run": "full", "policy": "0123456789abcdef", "bifocal": "0.1.0"},
}


@router.post(
    "/v1/predict",
    response_model=AnswerOut,
    responses=POSTING | {200: {"content": {"application/json": {"example": _EXAMPLE}}}},
    openapi_extra=_BODY,
    tags=["posts"],
)
async def predict(request: Request, client: Asking) -> Any:
    """Decide on one post: JSON with the picture in base64, multipart fields `text` and `image`, or a form of words."""
    service = service_of(request)
    service.auth.allow(client, "decide", 1)
    incoming = await read_post(request)
    answer = await cancel_on_disconnect(request, service.decide(incoming, client))
    return JSONResponse(answer.to_dict())


@router.post("/v1/predict/batch", response_model=BatchOut, responses=POSTING, tags=["posts"])
async def predict_batch(request: Request, batch: BatchIn, client: Asking) -> Any:
    """Decide on several posts; each has a decision or an error of its own."""
    service = service_of(request)
    if len(batch.items) > service.settings.max_items:
        raise Refused(
            "too_large",
            f"a batch has {service.settings.max_items} posts at most, this one {len(batch.items)}: send several",
        )
    service.auth.allow(client, "decide", len(batch.items))
    answers = await cancel_on_disconnect(
        request, decide_all(service, [_read_item(item, service.served.inputs) for item in batch.items], client)
    )
    return JSONResponse({"results": [answer_to_dict(answer) for answer in answers]})


def _read_item(item: Mapping[str, Any], known: Mapping[str, Input]) -> IncomingPost | BifocalError:
    try:
        return PostIn.model_validate(item).incoming(known)
    except ValidationError as error:
        return Refused("unusable", first_fault(error))
    except BifocalError as error:
        return error


async def decide_all(
    service: Service, posts: Sequence[IncomingPost | BifocalError], client: ApiClient
) -> list[Answer | BifocalError]:
    """A decision or an error for each post; those that cannot be read stay what they are."""

    async def one(post: IncomingPost | BifocalError) -> Answer | BifocalError:
        if isinstance(post, BifocalError):
            return post
        try:
            return await service.decide(post, client)
        except BifocalError as error:
            return error

    return await asyncio.gather(*map(one, posts))


def answer_to_dict(answer: Answer | BifocalError) -> dict[str, Any]:
    """The body of an answer, or of an error."""
    return to_refused(answer).to_dict() if isinstance(answer, BifocalError) else answer.to_dict()


@router.get("/v1/policy", response_model=PolicyOut, responses=ASKING, tags=["posts"])
async def policy(request: Request, client: Asking) -> Any:
    """The policy that decides: calibration, thresholds and review band, with the versions of all models."""
    service = service_of(request)
    service.auth.allow(client, "decide")
    about = service.served.about
    return JSONResponse(
        about.policy
        | {"version": about.policy_version, "engine": about.engine, "model": about.main, "reads": list(about.reads)}
        | {"reads_words": about.config.ocr.when != "never"}
        | {"modalities": list(about.config.parts), "columns": list(about.columns)}
        | {"forms": {name: one.form for name, one in service.served.inputs.items()}}
    )


@router.post(
    "/v1/feedback",
    response_model=FeedbackOut,
    responses=ASKING | errors("not_found", "unusable", "slow_body", "too_large", "conflict", "storage_full"),
    tags=["feedback"],
)
async def feedback(request: Request, body: FeedbackIn, client: Asking) -> Any:
    """Say what a decided post turned out to be: only of decisions that this client asked for."""
    service = service_of(request)
    service.auth.allow(client, "decide", 1)
    classes = {str(name): name for name in service.served.about.classes}
    if str(body.label) not in classes:
        raise Refused("unusable", f"label {str(body.label)[:40]!r} is none of this run's: {', '.join(classes)}")
    label, labels = str(body.label), service.served.check_classes(body.labels)
    first = next(iter(service.served.about.labels))
    if labels.get(first, label) != label:
        raise Refused("unusable", f"label is {label}, and labels.{first} {labels[first]}: they are the same")
    keep = partial(service.store.feedback, who=client.name, labels=labels)
    await asyncio.to_thread(keep, body.decision_id, owner_of(client), label, body.reason)
    told = {"decision_id": body.decision_id, "label": label, "client": client.name}
    return JSONResponse(told | ({"labels": labels} if labels else {}))


@router.post(
    "/v1/appeals",
    response_model=AppealOut,
    responses=ASKING | errors("not_found", "unusable", "slow_body", "too_large", "conflict", "storage_full"),
    tags=["feedback"],
)
async def appeal(request: Request, body: AppealIn, client: Asking) -> Any:
    """Ask that a decision be looked at by a person; it joins the review queue."""
    service = service_of(request)
    service.auth.allow(client, "decide", 1)
    await asyncio.to_thread(service.store.appeal, body.decision_id, client.name, body.reason, owner_of(client))
    return JSONResponse({"decision_id": body.decision_id, "state": "open"})


@router.delete(
    "/v1/subjects/{subject:anything}",
    response_model=ReceiptOut,
    responses=ASKING | errors("unusable", "storage_full"),
    tags=["feedback"],
)
async def forget(request: Request, subject: str, client: Asking) -> Any:
    """Delete all that is held of an author, and give a receipt; an admin's key deletes what all clients sent."""
    service = service_of(request)
    service.auth.allow(client, "decide", 1)
    if not subject.strip():
        raise Refused("unusable", "name the author: /v1/subjects/AUTHOR")
    receipt = await asyncio.to_thread(service.store.forget, subject, owner_of(client))
    return JSONResponse(receipt.to_dict())


@router.get("/v2/health/live", response_model=HealthOut, tags=["health"])
async def live() -> Any:
    """Whether the process answers."""
    return JSONResponse({"live": True})


@router.get("/v2/health/ready", response_model=HealthOut, responses={503: {"model": HealthOut}}, tags=["health"])
async def ready(request: Request) -> Any:
    """Whether posts are decided; 503 with the reasons where not."""
    service = service_of(request)
    reasons = service.not_ready()
    body = {"ready": not reasons, "reasons": reasons, "trouble": service.reloads.trouble}
    waiting = {"spooled": service.spool.pending, "set_aside": service.spool.set_aside}
    body |= {name: count for name, count in waiting.items() if count}
    return JSONResponse(body, status_code=503 if reasons else 200)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    tags=["health"],
)
async def metrics(request: Request) -> Response:
    """Counters for Prometheus; no text, picture or name is among them."""
    return Response(service_of(request).metrics.page(), media_type=CONTENT_TYPE)


# ---------------------------------------------------------------------------------------------- reading requests


async def read_post(request: Request) -> IncomingPost:
    """The post in a request of an endpoint that is `CheckedBodyRoute`. Raises `Refused` where it is none."""
    kind = content_type(request).get_content_type()
    if kind == "application/json":
        try:
            return PostIn.model_validate(await request.json()).incoming(service_of(request).served.inputs)
        except ValidationError as error:
            raise Refused("unusable", first_fault(error)) from None
        except ValueError as error:
            raise Refused("bad_request", f"the body is not valid JSON: {str(error)[:100]}") from None
    if kind not in (MULTIPART, URLENCODED):
        found = request.headers.get("content-type", "")[:80]
        raise Refused(
            "unsupported_type", f"a post comes as application/json, {URLENCODED} or {MULTIPART}, found {found!r}"
        )
    form = await request.form(max_files=len(_FILES), max_fields=len(FIELDS))
    return _of_form(form.multi_items(), service_of(request).served.inputs)


def _of_form(items: list[tuple[str, UploadFile | str]], known: Mapping[str, Input]) -> IncomingPost:
    fields: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for name, value in items:
        if name not in FIELDS:
            raise Refused("unusable", f"a post has the fields {', '.join(FIELDS)}; found {name[:40]!r}")
        if name in fields or name in files:
            raise Refused("unusable", f"the field {name} stands there twice")
        if (name in _FILES) != isinstance(value, UploadFile):
            raise Refused("unusable", f"{name} comes as {'a file' if name in _FILES else 'plain text, not as a file'}")
        if isinstance(value, UploadFile):
            files[name] = value.file.read()
        else:
            is_object = name == PARTS or (name in inputs() and inputs()[name].form == "record")
            fields[name] = _object_of(name, value) if is_object else value
    try:
        return PostIn.model_validate(fields).incoming(known, files)
    except ValidationError as error:
        raise Refused("unusable", first_fault(error)) from None


def _object_of(name: str, value: str) -> Any:
    try:
        return read_json(value)
    except ValueError:
        of = "names and parts" if name == PARTS else "column names and values"
        raise Refused("unusable", f"{name} must be a JSON object of {of}") from None


def decoded(encoded: Any, name: str, kind: Input) -> bytes:
    """The bytes of a file in base64. Raises `DataError`."""
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise DataError(
            f"{name} must be a {kind.title.lower()} file in base64, without `data:` before it; a path or an address is "
            "not fetched: send the file itself"
        ) from None


def first_fault(error: ValidationError) -> str:
    """What is wrong with a post, in a line."""
    return fault_of(error.errors(include_url=False, include_context=False, include_input=False), FIELDS)


def fault_of(faults: Sequence[Mapping[str, Any]], known: Iterable[str]) -> str:
    """What pydantic finds wrong with a body of these fields, in a line: names first, then the first of all else."""
    by = {
        kind: [str(f["loc"][-1])[:40] for f in faults if f["type"] == kind] for kind in ("missing", "extra_forbidden")
    }
    if by["missing"] or by["extra_forbidden"]:
        lacks = [f"{', '.join(by['missing'])} is missing"] if by["missing"] else []
        extra = [f"{', '.join(by['extra_forbidden'][:5])} is no field here"] if by["extra_forbidden"] else []
        return f"{'; '.join(lacks + extra)}: the fields are {', '.join(known)}"
    fault = faults[0]
    where = ".".join(str(part)[:40] for part in fault["loc"] if part != "body") or "the body"
    told = "must be a JSON object" if fault["type"] in _OBJECTS else fault["msg"]
    return f"{where}: {told}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def to_refused(error: BifocalError) -> Refused:
    """What an error of ours is called outside; what failed within (hosts, users, paths) is told on stderr alone."""
    kinds = {DataError: "unusable", UnknownDecision: "not_found", WrongClient: "not_found", StoreGone: "unavailable"}
    kinds |= {StoreFull: "storage_full", Conflict: "conflict", NotStorable: "unusable"}
    kind = next((kind for known, kind in kinds.items() if isinstance(error, known)), "internal")
    refused = error if isinstance(error, Refused) else Refused(kind, str(error))
    if refused.kind not in WITHIN or str(refused) == WITHIN[refused.kind]:
        return refused
    _LOG.error(f"{refused.kind}: {error}", exc_info=error.__cause__)
    return Refused(refused.kind, WITHIN[refused.kind], retry_after=refused.retry_after)


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Value]) -> Value:
    """The result of work for a client that waits for it; where it goes away the work is dropped."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class ClientDisconnected(Exception):
    """The client went away; there is nobody to answer."""
