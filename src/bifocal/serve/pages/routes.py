"""The moderator's page: try a post, work through the queue, an item's history, the last day."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from markupsafe import Markup
from PIL import Image
from starlette.datastructures import FormData, UploadFile

from ...config import DriftConfig
from ...contracts import Input
from ...decide.policy import pattern_of
from ...diagnose.drift import Property, alpha_of_each, compare
from ...errors import BifocalError
from ...modalities.text import TAG, words_of
from ...report.explanation import heat_map, marked
from ...report.templates import environment
from ...system.explain import Explanation
from ..api.bodies import CheckedBodyRoute
from ..api.routes import cancel_on_disconnect, service_of, to_refused
from ..errors import Refused
from ..log.daily_statistics import NOT_ASKED
from ..log.decision_store import DecisionStore
from ..log.records import Conflict, Event, Item, KeptPost, LoggedDecision, UnknownDecision
from ..posts import IncomingPost
from ..reference import UsualDecisions
from ..service import Service
from . import untrusted_text as words
from .session import from_our_page, moderator, name_of, sign_in, sign_out

HERE = Path(__file__).parent
STATIC = {"style.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
FORM = 2**16
"""Bytes that are left for the rest of a form beside its picture."""
GRID = 5
"""Regions along each side of a picture that is tried: an explanation in a second or so."""
PAGE = 25
SKIPPED = 50
"""Items that are remembered as skipped, the latest."""
EVENTS = 20
"""Of a history, on one page of it."""
SMALL_FORM = 2**14
"""Bytes of a verdict and its reason; it is read before it is known who sends it, so that it is not lost."""
TYPED = ("do", "why", "undo", "seen", "skip")
"""Fields of a verdict that come back, beside the filters, where it could not be given."""
SAME = 0.005
"""Probabilities that are told as one."""
ACTIONS = {"allow": "allowed", "none": "no action", "review": "to review", "block": "blocked"}
FILTERS = ("reason", "pattern", "client", "label", "sort")
SAID = "label."
"""What the fields of a verdict begin with that say a post's class by a label."""
DONE = {"block": "Blocked", "review": "To review", "none": "Named"}
"""What a label that may do so much does with a post over its threshold."""
STRONGEST = 5
"""Pieces of a part that are named."""
STEPS = 4
"""Shades in which words are marked."""
_NUMBER = re.compile(r" [0-9a-f]{32}\b")
"""A decision's number, as messages for machines name it."""

Moderator = Annotated[str, Depends(moderator)]
router = APIRouter(prefix="/moderate", include_in_schema=False, route_class=CheckedBodyRoute)


@lru_cache(maxsize=1)
def _templates() -> Any:
    made = environment(HERE)
    made.filters |= {"shown": words.shown, "line": words.line, "plain": words.plain, "ago": _ago}
    made.filters["clock"] = lambda at: _moment(at, "clock", at.strftime("%H:%M UTC"))
    made.filters["of_100"] = lambda value: "-" if value is None else f"{int(round(100 * value, 6))}"  # 49.9 is not 50
    made.filters["limit"] = lambda value: f"{100 * value:.3g}"
    made.filters["number"] = lambda value: "-" if value is None else f"{value:.3f}"
    return made


def _page(name: str, request: Request, status: int = 200, **given: Any) -> HTMLResponse:
    service = service_of(request)
    content = (
        _templates()
        .get_template(name)
        .render(run=service.served.about.config.run, keys=bool(service.auth.clients), path=request.url.path, **given)
    )
    # Every link of a page begins so, and nothing that others wrote can: a quotation mark of theirs is escaped.
    return HTMLResponse(content.replace('="/moderate', f'="{service.settings.prefix}/moderate'), status, HEADERS)


def _ago(at: datetime) -> Markup:
    """How long ago a moment was, with the moment itself behind it; the script tells that in local time."""
    minutes = int((datetime.now(UTC) - at).total_seconds() // 60)
    told = at.strftime("%d %b %Y")
    if minutes < 1:
        told = "just now"
    elif minutes < 60:
        told = f"{minutes} min ago"
    elif minutes < 24 * 60:
        told = f"{minutes // 60} h ago"
    elif minutes < 14 * 24 * 60:
        told = f"{minutes // (24 * 60)} d ago"
    return _moment(at, "ago", told)


def _moment(at: datetime, kind: str, told: str) -> Markup:
    exact = at.strftime("%d %b %Y, %H:%M:%S UTC")
    return Markup('<time class="{}" datetime="{}" title="{}">{}</time>').format(kind, at.isoformat(), exact, told)


def not_signed_in(request: Request) -> Response:
    """To the page that asks who is there, and from there on to what was asked for.

    A verdict that was typed while the session ended waits in that page's form.
    """
    path = request.url.path
    if path.endswith(("/keep", "/marks")):  # asked by the script, which says it on the page
        return Response(status_code=401)
    if typed := getattr(request.state, "typed", None):
        return _page("login.html", request, 401, who=None, wrong=None, then=None, typed=typed)
    if request.method != "GET" or path == "/moderate":
        return RedirectResponse("/moderate/login", 303)
    return RedirectResponse(f"/moderate/login?{urlencode({'then': path})}", 303)


def error_page(request: Request, refused: Refused) -> Response:
    """An error as people read it, with the ways on."""
    told = _NUMBER.sub("", str(refused))
    start = getattr(request.state, "onward", urlencode(_filters(request.query_params)))
    return _page(
        "error.html", request, refused.status, who=getattr(request.state, "who", None), told=told, start=start,
        typed=getattr(request.state, "typed", None),
    )  # fmt: skip


@router.get("/static/{name}")
async def static(name: str) -> Response:
    if name not in STATIC:
        raise Refused("not_found", f"there is no {name[:40]!r} here")
    return Response((HERE / name).read_bytes(), media_type=STATIC[name], headers={"Cache-Control": "max-age=300"})


# ------------------------------------------------------------------------------------------------ who is there


@router.get("/login")
async def login(request: Request) -> Response:
    return _page("login.html", request, who=None, wrong=None, then=_then(request.query_params), typed=None)


@router.post("/login")
async def signing_in(request: Request) -> Response:
    from_our_page(request)
    service, form = service_of(request), await _small_form(request)
    typed, then = _typed(form, _text(form, "item")), _then(form)
    try:
        who = name_of(service, _text(form, "name"), _text(form, "key"))
    except Refused as refused:
        return _page("login.html", request, refused.status, who=None, wrong=str(refused), then=then, typed=typed)
    if typed is None:
        response: Response = RedirectResponse(then or "/moderate", 303)
    else:
        response = await _typed_again(request, who.name, typed)
    await sign_in(service, response, who, secure=request.url.scheme == "https")
    return response


def _then(given: Mapping[str, Any]) -> str | None:
    """The page of ours that was asked for before somebody signed in; never another site's."""
    then = str(given.get("then") or "")
    return then if re.fullmatch(r"/moderate(/[\w-]+)*", then, re.ASCII) and not then.endswith("/login") else None


@router.post("/logout")
async def logout(request: Request, who: Moderator) -> Response:
    response = RedirectResponse("/moderate/login", 303)
    await sign_out(request, response)
    return response


# ------------------------------------------------------------------------------------------------ try a post


@router.get("")
async def trying(request: Request, who: Moderator) -> Response:
    return _try_page(request, who)


@router.post("")
async def tried(request: Request, who: Moderator) -> Response:
    """Nothing of what is tried is logged."""
    service = service_of(request)
    fields = _fields(service)
    files = sum(one.is_file for one in fields.values())
    form = await request.form(max_files=files, max_fields=4 + len(fields), max_part_size=2**22)
    typed = {name: _text(form, name) for name, one in fields.items() if not one.is_file}
    parts: dict[str, Any] = {name: words for name, words in typed.items() if words.strip()}
    by = _text(form, "by") or None
    for name in fields.keys() - typed.keys():
        given = form.get(name)
        if isinstance(given, UploadFile) and given.filename:
            parts[name] = await given.read()
    try:
        if not parts:
            raise Refused("unusable", "Write a text or choose a picture")
        if by is not None:
            service.served.label(by)
        explanation = await cancel_on_disconnect(request, service.explain(IncomingPost(parts), grid=GRID, label=by))
    except BifocalError as error:
        refused = to_refused(error)
        return _try_page(request, who, refused.status, typed=typed, by=by, wrong=str(refused))
    return _try_page(request, who, typed=typed, by=by, explained=_shown(explanation, service))


def _fields(service: Service) -> dict[str, Input]:
    """The parts that can be tried: those that come with Bifocal and those of the run, but for records."""
    return {name: one for name, one in service.served.inputs.items() if one.form != "record"}


def _try_page(
    request: Request,
    who: str,
    status: int = 200,
    *,
    typed: Mapping[str, str] | None = None,
    by: str | None = None,
    wrong: str | None = None,
    explained: Any = None,
) -> Response:
    """``by`` is the one of several labels whose words are marked; None = the first."""
    service, words = service_of(request), typed or {}
    settings = service.settings
    return _page(
        "try.html", request, status, who=who, fields=_fields(service), typed=words, wrong=wrong, explained=explained,
        labels=list(service.served.about.labels), by=by, max_text=settings.max_text,
        cut=any(len(one) > settings.max_text for one in words.values()),
        most=settings.max_body - FORM,
    )  # fmt: skip


def _shown(explanation: Explanation, service: Service) -> dict[str, Any]:
    """An explanation as the template draws it; ``sense`` and ``band`` are of the first label."""
    decision, answer, label = explanation.decision, explanation.answer, explanation.label
    pattern = pattern_of(name for name, there in decision.present.items() if there)
    parts = []
    for name, value in explanation.values.items():
        pieces, expert = explanation.pieces[name], service.served.expert_names.get(name)
        alone = answer.models.get(expert or "")
        part: dict[str, Any] = {
            "name": service.served.inputs[name].title,
            "share": explanation.contributions[name],
            "expert": expert,
        }
        part |= {"alone": alone, "of": None if alone is None else _sense(service, alone.label, label)}
        part["strongest"] = [(w.piece.name, w.effect) for w in pieces[:STRONGEST] if w.effect]
        if isinstance(value, str):
            part["words"] = [(run, w, min(STEPS, 1 + colour * STEPS // 71)) for run, w, colour in marked(value, pieces)]
        elif isinstance(value, Image.Image):
            part["picture"] = _data(value)
            part["map"] = _data(heat_map(value, pieces)) if pieces else None
        parts.append(part)
    return {
        "decision": decision,
        "parts": parts,
        "band": service.served.band(pattern),
        "sense": _sense(service, decision.label),
        "categories": _categories(service, decision.to_dict().get("labels"), pattern),
        "probability": answer.probability,
        "label": label or service.served.about.policy["label"],
        **_towards(service, answer.label, label),
    }


def _towards(service: Service, value: Any, label: str | None) -> dict[str, Any]:
    """What marked words speak for: to block, where the label may, else the label itself or its class."""
    sense = _sense(service, value, label)
    return {"binary": sense["binary"], "towards": "block" if sense["done"] == DONE["block"] else sense["name"]}


def _sense(service: Service, value: Any, label: str | None = None) -> dict[str, Any]:
    """What a probability is of, as people call it: the label itself where it has two classes, else the class."""
    about = service.served.about
    label = label or about.policy["label"]
    known = about.labels.get(label)  # None: the models that decided were others
    binary = known.classes == (0, 1) if known else value in (0, 1)
    done = DONE[known.act if known else "none"] if binary else "Named"
    return {"binary": binary, "name": _plain(label if binary else value), "done": done}


def _plain(name: object) -> str:
    return str(name).replace("_", " ")


def _categories(service: Service, labels: Mapping[str, Any] | None, pattern: str) -> list[dict[str, Any]]:
    """What further labels than the first say of a post, as the template draws it."""
    found = []
    for name, of in list((labels or {}).items())[1:]:
        known = service.served.about.labels.get(name)
        band = service.served.band(pattern, name) if known else None
        sense = _sense(service, of and of["label"], name)
        requires = _plain(known.requires if known else "the label that it requires")
        found.append({"name": _plain(name), "of": of, "band": band, "sense": sense, "requires": requires})
    return found


def _data(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ------------------------------------------------------------------------------------------------ the queue


def _filters(given: Mapping[str, Any]) -> dict[str, str]:
    """What is asked of the queue, nothing empty, nothing unknown."""
    asked = {name: str(given[name]) for name in FILTERS if given.get(name)}
    if asked.get("reason") not in (None, "review", "audit", "appeal"):
        del asked["reason"]
    if asked.get("sort") not in ("uncertainty", "age"):
        asked.pop("sort", None)
    return asked


def _of_queue(request: Request) -> dict[str, str]:
    """What is asked of the queue. Raises `DataError` where a label is named that the run does not have."""
    asked, served = _filters(request.query_params), service_of(request).served
    if "label" in asked:
        served.label(asked["label"])
    if len(served.about.labels) == 1:
        asked.pop("label", None)  # posts of such runs are under review by no other
    return asked


def _seen(given: Mapping[str, Any]) -> int | None:
    """How many items went before this one in the pass through the queue; None outside of one."""
    seen = str(given.get("seen") or "")
    return min(int(seen), 99_999) if seen.isascii() and seen.isdecimal() and len(seen) < 9 else None


def _skip(given: Mapping[str, Any]) -> str:
    """The numbers of the items that were skipped, the latest."""
    return ",".join([number for number in str(given.get("skip") or "").split(",") if number][-SKIPPED:])


@router.get("/queue")
async def queue(request: Request, who: Moderator) -> Response:
    store, asked = service_of(request).store, _of_queue(request)
    sort = asked.get("sort", "uncertainty")
    after = _after(request.query_params, sort)
    items = await asyncio.to_thread(store.queue, **asked, limit=PAGE + 1, after=after)  # type: ignore[arg-type]
    counts = await asyncio.to_thread(store.counts)
    more = None
    if len(items) > PAGE:
        last = items[PAGE - 1]
        key = last.distance if sort == "uncertainty" else last.since.isoformat()
        more = urlencode({**asked, "key": key, "id": last.id})
    return _page(
        "queue.html", request, who=who, items=items[:PAGE], counts=counts, asked=asked, more=more,
        start=urlencode(asked), patterns=service_of(request).served.patterns,
        labels=list(service_of(request).served.about.labels),
        held={item.id for item in items if _held(item, store)},
    )  # fmt: skip


def _after(given: Mapping[str, str], sort: str) -> tuple[Any, str] | None:
    if not given.get("key") or not given.get("id"):
        return None
    try:
        if sort == "uncertainty":
            return float(given["key"]), given["id"]
        return datetime.fromisoformat(given["key"]).astimezone(UTC), given["id"]
    except (ValueError, OverflowError):  # no date, or one that is none in UTC
        return None


@router.get("/next")
async def following(request: Request, who: Moderator) -> Response:
    """Claim the next item and show it."""
    store, asked, skip = service_of(request).store, _of_queue(request), _skip(request.query_params)
    seen = _seen(request.query_params) or 0
    skipped = skip.split(",") if skip else []
    item = await asyncio.to_thread(store.claim, who, **asked, exclude=skipped)  # type: ignore[arg-type]
    last = None
    with suppress(BifocalError):
        last = await asyncio.to_thread(store.item, request.query_params.get("undo", ""))
    if last is not None and (last.state != "done" or last.judged_by != who):
        last = None
    if item is None:
        return _page(
            "empty.html", request, who=who, asked=asked, last=last, skip=skip, skipped=len(skipped), seen=seen,
            start=urlencode(asked),
        )  # fmt: skip
    return await _item_page(request, who, item.decision, item, request.query_params, last=last, seen=seen)


@router.get("/items/{number}")
async def one(request: Request, number: str, who: Moderator) -> Response:
    """A decision, and all that happened to it."""
    given = request.query_params
    decision, item = await _found(request, number)
    explained = None
    if given.get("marks"):
        original = await asyncio.to_thread(service_of(request).store.original, number)
        explained = await _marks(request, decision, original)
    return await _item_page(request, who, decision, item, given, seen=_seen(given), explained=explained)


@router.get("/items/{number}/marks")
async def marks(request: Request, number: str, who: Moderator) -> Response:
    """The post with the words and regions marked that made the decision; the script puts it in the place of the post.

    It takes many encoder passes, and is made after the page was answered, when no post waits for a decision.
    """
    decision, _ = await _found(request, number)
    original = await asyncio.to_thread(service_of(request).store.original, number)
    explained = await _marks(request, decision, original)
    ways = _ways_to_mark(service_of(request), decision, original, request.query_params)
    return _page("post.html", request, decision=decision, original=original, explained=explained, words=[], ways=ways)


async def _found(request: Request, number: str) -> tuple[LoggedDecision, Item | None]:
    store = service_of(request).store
    decision = await asyncio.to_thread(store.decision, number)
    with suppress(UnknownDecision):
        return decision, await asyncio.to_thread(store.item, number)
    return decision, None


async def _item_page(
    request: Request,
    who: str,
    decision: LoggedDecision,
    item: Item | None,
    given: Mapping[str, Any],
    *,
    last: Item | None = None,
    seen: int | None = None,
    explained: dict[str, Any] | None = None,
    why: str = "",
    note: str | None = None,
) -> Response:
    """The page of one decision.

    Parameters
    ----------
    given : mapping
        Filters, skipped items and the place in the history.
    last : Item, optional
        The one that was judged before, whose verdict can be taken back.
    seen : int, optional
        How many went before in this pass through the queue.
    explained : dict, optional
        What marks words and regions, as `_marks` gives it.
    why, note : str
        The reason that was typed, and what is said of it.
    """
    service, asked = service_of(request), _filters(given)
    store, skip, before = service.store, _skip(given), _before(given)
    events = await asyncio.to_thread(partial(store.history, decision.id, newest=EVENTS + 1, before=before))
    appeals = await asyncio.to_thread(partial(store.history, decision.id, newest=1, kind="appealed"))
    original = await asyncio.to_thread(store.original, decision.id)
    held = None if item is None or item.state == "done" else _held(item, store)
    mine = held is not None and item is not None and item.claimed_by == who
    place = None
    if mine and seen is not None:
        skipped = [number for number in skip.split(",") if number and number != decision.id]
        of_queue = {name: value for name, value in asked.items() if name != "sort"}
        left = await asyncio.to_thread(partial(store.waiting, who, **of_queue, exclude=skipped))  # type: ignore[arg-type]
        place = (seen + 1, seen + left, left >= 1000)
    older = urlencode({**asked, "before": events[EVENTS - 1].number}) if len(events) > EVENTS else None
    return _page(
        "item.html", request, who=who, item=item, decision=decision, original=original, words=_words(original, service),
        history=_collapsed(events[:EVENTS]), older=older, before=before, appeal=appeals[0] if appeals else None,
        held=held, left=None if item is None or held is None else round(store.left_s(item) or 0), mine=mine,
        asked=asked, skip=skip, seen=seen, place=place, last=last, start=urlencode(asked), explained=explained, why=why,
        note=note, ways=_ways_to_mark(service, decision, original, {**given, "seen": "" if seen is None else seen}),
        band=service.served.band(decision.pattern), sense=_sense(service, decision.label),
        alone=_alone(decision, service), categories=_categories(service, decision.labels, decision.pattern),
        asking=[_plain(name) for name, of in (decision.labels or {}).items() if of and of["action"] == "review"],
        labels=_sayable(service, given),
    )  # fmt: skip


def _sayable(service: Service, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each of several labels the field of a verdict, its classes, and what was chosen already."""
    labels = service.served.about.labels
    return [
        {"field": SAID + name, "name": _plain(name), "classes": of.classes, "chosen": given.get(SAID + name)}
        for name, of in labels.items()
        if len(labels) > 1
    ]


def _before(given: Mapping[str, Any]) -> int | None:
    """The event that a page of a history goes on after."""
    before = str(given.get("before") or "")
    return int(before) if before.isascii() and before.isdecimal() and len(before) < 16 else None


def _collapsed(events: Sequence[Event]) -> list[tuple[Event, int]]:
    """Events, the newest first; of one person's claims and releases in a row the last one, and how many claims."""
    found: list[tuple[Event, int]] = []
    for event in events:
        taking = event.kind in ("claimed", "released")
        if taking and found and (last := found[-1][0]).who == event.who and last.kind in ("claimed", "released"):
            found[-1] = last, found[-1][1] + (event.kind == "claimed")
        else:
            found.append((event, int(event.kind == "claimed")))
    return found


def _markable(service: Service, decision: LoggedDecision, original: KeptPost | None) -> list[str]:
    """The labels by which it can be said what made a decision, those that decided its action first; none where no model
    decided, or the post is not kept."""
    if decision.source != "model" or original is None:
        return []
    known, answers = service.served.about.labels, decision.labels
    if answers is None:  # of one label
        return list(known)[:1]
    asked = {name: answers[name]["action"] for name in known if answers.get(name)}
    return sorted(asked, key=lambda name: asked[name] != decision.action)


def _ways_to_mark(
    service: Service, decision: LoggedDecision, original: KeptPost | None, given: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Each label that a post can be marked by, and what is asked for it."""
    seen = _seen(given)
    asked = {**_filters(given), "skip": _skip(given), "seen": "" if seen is None else seen, "marks": 1}
    return [(name, urlencode({**asked, "by": name})) for name in _markable(service, decision, original)]


async def _marks(request: Request, decision: LoggedDecision, original: KeptPost | None) -> dict[str, Any]:
    """What the template marks a kept post with, by the models that serve now; ``by`` in the query names the label.

    Raises
    ------
    Refused
        Where there is nothing to mark, or no time for it now.
    DataError
        Where there is no such label, or it is not asked of the post.
    """
    service, by = service_of(request), request.query_params.get("by")
    ways = _markable(service, decision, original)
    if original is None or not ways:
        raise Refused("not_found", "this post is not kept, or no model decided on it: nothing can be marked")
    if by is not None:
        service.served.label(by)
    label = by or ways[0]
    explanation = await cancel_on_disconnect(request, service.explain(original, grid=GRID, label=label))
    explained = _shown(explanation, service)
    then = decision.probability if decision.labels is None else (decision.labels.get(label) or {}).get("prob")
    now = explained["probability"]
    explained["other"] = now if then is None or abs(now - then) > SAME else None
    for part in explained["parts"]:
        if "words" in part:
            part["blocks"] = _blocks(part["words"])
    return explained


def _blocks(runs: Sequence[tuple[str, Any, int]]) -> list[tuple[str, list[tuple[str, Any, int]]]]:
    """Marked runs of a composed text, the post's words and the picture's apart, without the tags between them."""
    found: dict[str, list[tuple[str, Any, int]]] = {"CAP": [], "OCR": []}
    name: str | None = None
    for run, weighed, shade in runs:
        for piece in re.split(f"({TAG.pattern})", run):
            if TAG.fullmatch(piece):
                name = piece[1:-1] if piece[1:-1] in found else None
            elif name and (piece := piece if found[name] else piece.lstrip()):  # a space stands beside each tag
                found[name].append((piece, weighed, shade))
    titles = {"CAP": "Text", "OCR": "Words on the picture"}
    return [(titles[name], block) for name, block in found.items() if block]


def _held(item: Item, store: DecisionStore) -> datetime | None:
    """Until when an item is in somebody's hands; None where it is free."""
    return None if store.left_s(item) is None else item.claimed_until


def _alone(decision: LoggedDecision, service: Service) -> list[tuple[str, float, dict[str, Any]]]:
    """What each part says on its own: its name, the probability, and what it is of."""
    models, found = decision.body.get("models", {}), []
    for part, expert in service.served.expert_names.items():
        if opinion := models.get(expert):
            (value,) = (value for key, value in opinion.items() if key != "label")
            found.append((service.served.inputs[part].title, value, _sense(service, opinion["label"])))
    return found


def _words(original: KeptPost | None, service: Service) -> list[tuple[str, str]]:
    """What a post says and where, without the marks that the model reads it with."""
    if original is None:
        return []
    transcript, caption = words_of(original.text) if original.text else ("", "")
    found = [(name, words) for name, words in (("Text", caption), ("Words on the picture", transcript)) if words]
    known = service.served.inputs
    others = original.parts or {}
    return found + [(known[name].title if name in known else name, str(part)) for name, part in others.items()]


@router.post("/items/{number}")
async def judged(request: Request, number: str) -> Response:
    """Approve, block, skip, undo or claim an item, and go on."""
    from_our_page(request)
    store, form = service_of(request).store, await _small_form(request)
    request.state.typed = _typed(form, number)  # whatever happens now, it comes back
    who = await moderator(request)
    done, onward, seen = _text(form, "do"), _filters(form), _seen(form)
    skip = _skip(form)
    onward |= {"skip": skip} if skip else {}
    if seen is not None:
        onward["seen"] = str(max(0, seen + {"approve": 1, "block": 1, "skip": 1, "undo": -1}.get(done, 0)))
    request.state.onward = urlencode(onward)  # where an error leads on to
    if done in ("approve", "block"):
        action = "allow" if done == "approve" else "block"
        said = {name.removeprefix(SAID): _text(form, name) for name in form if name.startswith(SAID)}
        labels = service_of(request).served.check_classes({name: value for name, value in said.items() if value})
        await asyncio.to_thread(_judge, store, number, who, (action, _text(form, "why"), None, labels))
        return RedirectResponse(f"/moderate/next?{urlencode({**onward, 'undo': number})}", 303)
    if done == "skip":
        with suppress(Conflict):  # the claim has run out meanwhile: it is free as it is
            await asyncio.to_thread(store.release, number, who)
        onward["skip"] = _skip({"skip": f"{skip},{number}"})
        if undo := _text(form, "undo"):
            onward["undo"] = undo
        return RedirectResponse(f"/moderate/next?{urlencode(onward)}", 303)
    if done == "undo":
        await asyncio.to_thread(store.undo, number, who)
        return RedirectResponse(f"/moderate/items/{number}?{urlencode(onward)}", 303)
    if done == "claim":
        item = await asyncio.to_thread(store.claim, who, number)
        why, chosen = _text(form, "why"), any(_text(form, name) for name in form if name.startswith(SAID))
        if item is not None and (why or chosen):  # more time was asked for in the middle of a verdict
            return await _item_page(request, who, item.decision, item, form, seen=seen, why=why)
        return RedirectResponse(f"/moderate/items/{number}?{urlencode(onward)}", 303)
    raise Refused("unusable", f"an item is approved, blocked, skipped, undone or claimed, found {done[:20]!r}")


def _judge(store: DecisionStore, number: str, who: str, told: tuple[str, str, str | None, Mapping[str, str]]) -> None:
    """A verdict; one that was typed for longer than the claim held counts where nobody else has the item."""
    try:
        store.verdict(number, who, *told)
    except Conflict:
        store.keep(number, who)
        store.verdict(number, who, *told)


@router.post("/items/{number}/keep")
async def keep(request: Request, number: str, who: Moderator) -> Response:
    """Keep an item for longer: its moderator is at work on it."""
    until = await asyncio.to_thread(service_of(request).store.keep, number, who)
    return JSONResponse({"left": round((until - datetime.now(UTC)).total_seconds())}, headers=HEADERS)


async def _small_form(request: Request) -> FormData:
    """A form of a few kB. Raises `Refused` on a larger one, before it is read."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > SMALL_FORM:
        raise Refused("too_large", f"a verdict with its reason has {SMALL_FORM:,} bytes at most, and says how many")
    return await request.form(max_files=0, max_fields=16 + len(service_of(request).served.about.labels))


def _typed(form: FormData, number: str) -> dict[str, str] | None:
    """What came with a verdict, for a form that gives it back; None where it was none."""
    if not number or _text(form, "do") not in ("approve", "block", "skip", "claim"):
        return None
    typed = [*TYPED, *(name for name in form if name.startswith(SAID))]
    return {"item": number, **_filters(form), **{name: _text(form, name) for name in typed if _text(form, name)}}


async def _typed_again(request: Request, who: str, typed: Mapping[str, str]) -> Response:
    """The item and what was typed for it, for one who had to sign in meanwhile; taken again, if it is free."""
    store, number = service_of(request).store, typed["item"]
    note = "You had been signed out: your verdict is not given yet. What you typed is here."
    try:
        with suppress(Conflict, UnknownDecision):
            await asyncio.to_thread(store.claim, who, number)
        decision, item = await _found(request, number)
    except BifocalError as error:
        request.state.who, request.state.typed = who, typed
        return error_page(request, to_refused(error))
    return await _item_page(request, who, decision, item, typed, seen=_seen(typed), why=typed.get("why", ""), note=note)


@router.get("/items/{number}/picture")
async def picture(request: Request, number: str, who: Moderator) -> Response:
    """The picture as it was encoded anew; never the bytes that came."""
    original = await asyncio.to_thread(service_of(request).store.original, number)
    if original is None or original.picture is None:
        raise Refused("not_found", "this picture is not kept")
    headers = {"Content-Security-Policy": "default-src 'none'", "Cache-Control": "no-store"}
    return Response(original.picture, media_type="image/png", headers=headers)


# ------------------------------------------------------------------------------------------------ the last day


@router.get("/day")
async def day(request: Request, who: Moderator) -> Response:
    """What was done of late, or what one of several labels answered."""
    service = service_of(request)
    now, served = service.store.clock(), service.served
    label = _of_queue(request).get("label")
    summary = await asyncio.to_thread(service.store.summary, now - timedelta(days=1), label)
    counts = await asyncio.to_thread(service.store.counts)
    differ = await asyncio.to_thread(service.store.disagreements, 10, label)
    rule = served.about.config.drift
    rule = rule.model_copy(update={"alpha": alpha_of_each(rule.alpha, len(served.about.labels))})
    actions = ACTIONS if label is None else {**ACTIONS, NOT_ASKED: NOT_ASKED}
    first = served.about.policy["label"]
    usual = (await asyncio.to_thread(lambda: served.references))[label or first]
    return _page(
        "day.html", request, who=who, summary=summary, counts=counts, label=label,
        differ=[_beside_shadow(one, label) for one in differ],
        labels=list(served.about.labels), hours=_hours(summary["hours"], now, actions),
        drift=await asyncio.to_thread(_drift, summary["probability"], usual, rule),
        rule=rule, load=service.load(), actions=actions,
        chosen=None if label is None else _chosen(summary["classes"], usual, served.about.labels[label].classes),
        sense=_sense(service, "the class that was named", label),
        shadow=None if service.settings.shadow is None else str(service.settings.shadow.name),
    )  # fmt: skip


def _beside_shadow(kept: LoggedDecision, label: str | None) -> dict[str, Any]:
    """What was decided of a post, and what the shadow says: by the whole decision, or by one label."""
    ours: Mapping[str, Any] = {"action": kept.action, "probability": kept.probability}
    theirs: Mapping[str, Any] = kept.shadow or {}
    if label is not None:
        answer = (kept.labels or {}).get(label) or {"action": NOT_ASKED, "prob": None}
        ours = {"action": answer["action"], "probability": answer["prob"]}
        theirs = theirs["labels"][label]
        theirs = theirs if theirs["label"] is not None else {"action": NOT_ASKED, "probability": None}
    return {"id": kept.id, "name": kept.external_id or kept.id[:8], "ours": ours, "theirs": theirs}


def _chosen(
    classes: Mapping[str, int], usual: UsualDecisions | None, named: Sequence[int | str]
) -> list[dict[str, Any]]:
    """How many of a label's posts came to each class (of two, to the second), and what share did when limits were set.

    Shares are of 100 and None where there is nothing that they are of.
    """
    asked, before = sum(classes.values()), sum(usual.classes.values()) if usual else 0
    rows = []
    for value in map(str, named[1:] if tuple(named) == (0, 1) else named):
        n = classes.get(value, 0)
        was = 100 * usual.classes.get(value, 0) / before if usual and before else None
        rows.append({"value": value, "n": n, "asked": asked, "share": 100 * n / asked if asked else None, "usual": was})
    return rows


def _hours(rows: list[list[Any]], now: datetime, actions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Of each of the last 24 hours the counts by action, and how high they stand."""
    found = [(now - timedelta(hours=23 - i)).strftime("%Y-%m-%dT%H:00") for i in range(24)]
    counts: dict[str, dict[str, int]] = {hour: {} for hour in found}
    for hour, action, n in rows:
        if hour in counts:
            counts[hour][action] = n
    most = max((sum(by.values()) for by in counts.values()), default=0) or 1
    bars = []
    for hour, by in counts.items():
        top, stack = 100.0, []
        for action in actions:
            height = 100 * by.get(action, 0) / most
            top -= height
            stack.append((action, top, height))
        told = ", ".join(f"{by[action]} {name}" for action, name in actions.items() if action in by)
        bars.append(
            {"hour": hour[11:13], "n": sum(by.values()), "by": by, "stack": stack, "told": f"{hour[11:13]} h: {told}"}
        )
    return bars


def _drift(histogram: list[int], usual: UsualDecisions | None, rule: DriftConfig) -> dict[str, Any] | None:
    """How the day's probabilities differ from those that the policy was tuned on; None where not known.

    By the rule of `bifocal drift`, on the cells that the log counts; which posts are copies it does not know.
    """
    if usual is None or not sum(histogram):
        return None
    cells = len(histogram)
    before = np.minimum((np.array(usual.scores) * cells).astype(int), cells - 1)
    sides = [{"score": Property(x, np.arange(len(x)))} for x in (before, np.repeat(np.arange(cells), histogram))]
    shares = 100 * np.bincount(before, minlength=cells) / len(before), 100 * np.array(histogram) / sum(histogram)
    found = compare(*sides, psi=rule.psi, alpha=rule.alpha)["score"]
    return found | {"bars": list(zip(*(side.tolist() for side in shares), strict=True))}


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""
