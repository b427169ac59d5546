"""The moderator's page: try a post, work through the queue, an item's history, the last day."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from PIL import Image
from starlette.datastructures import FormData, UploadFile

from ...decide.policy import pattern_of
from ...diagnose.drift import Column, compare
from ...errors import BifocalError
from ...explanation import Explanation
from ...modalities.text import words_of
from ...report.explanation import heat_map, marked
from ...report.html import environment
from ..api import as_refused, service_of
from ..errors import Refused
from ..service import Incoming, Service
from ..store import Conflict, Item, Kept, Original, Store, Unknown
from .session import COOKIE, NotSignedIn, from_our_page, moderator, name_of, sign_in

HERE = Path(__file__).parent
STATIC = {"style.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data: blob:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
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
ACTIONS = {"allow": "allowed", "none": "no action", "review": "to review", "block": "blocked"}
PARTS = {"text": "Text", "image": "Picture", "tabular": "Record"}
FILTERS = ("reason", "pattern", "client", "sort")
STRONGEST = 5
"""Pieces of a part that are named."""
STEPS = 4
"""Shades in which words are marked."""
_NUMBER = re.compile(r" [0-9a-f]{32}\b")
"""A decision's number, as messages for machines name it."""

Moderator = Annotated[str, Depends(moderator)]
router = APIRouter(prefix="/moderate", include_in_schema=False)


@lru_cache(maxsize=1)
def _templates() -> Any:
    made = environment(HERE)
    made.filters["time"] = lambda at: at.strftime("%d %b %Y, %H:%M:%S UTC")
    made.filters["of_100"] = lambda value: "-" if value is None else f"{int(round(100 * value, 6))}"  # 49.9 is not 50
    made.filters["limit"] = lambda value: f"{100 * value:.3g}"
    made.filters["number"] = lambda value: "-" if value is None else f"{value:.3f}"
    return made


def _page(name: str, request: Request, status: int = 200, **given: Any) -> HTMLResponse:
    service = service_of(request)
    content = (
        _templates()
        .get_template(name)
        .render(run=service.about.config.run, keys=bool(service.door.clients), path=request.url.path, **given)
    )
    return HTMLResponse(content, status, HEADERS)


def not_signed_in(request: Request) -> Response:
    """To the page that asks who is there."""
    return RedirectResponse("/moderate/login", 303)


def error_page(request: Request, refused: Refused) -> Response:
    """An error as people read it, with the ways on."""
    who = None
    with suppress(NotSignedIn, Refused):
        who = moderator(request)
    told = _NUMBER.sub("", str(refused))
    start = getattr(request.state, "onward", urlencode(_filters(request.query_params)))
    return _page("error.html", request, refused.status, who=who, told=told, start=start)


@router.get("/static/{name}")
async def static(name: str) -> Response:
    if name not in STATIC:
        raise Refused("not_found", f"there is no {name[:40]!r} here")
    return Response((HERE / name).read_bytes(), media_type=STATIC[name], headers={"Cache-Control": "max-age=300"})


# ------------------------------------------------------------------------------------------------ who is there


@router.get("/login")
async def login(request: Request) -> Response:
    return _page("login.html", request, who=None, wrong=None)


@router.post("/login")
async def signing_in(request: Request) -> Response:
    from_our_page(request)
    service, form = service_of(request), await request.form(max_files=0, max_fields=5)
    try:
        name = name_of(service, _text(form, "name"), _text(form, "key"))
    except Refused as refused:
        return _page("login.html", request, refused.status, who=None, wrong=str(refused))
    response = RedirectResponse("/moderate", 303)
    sign_in(service, response, name, secure=request.url.scheme == "https")
    return response


@router.post("/logout")
async def logout(who: Moderator) -> Response:
    response = RedirectResponse("/moderate/login", 303)
    response.delete_cookie(COOKIE, path="/moderate")
    return response


# ------------------------------------------------------------------------------------------------ try a post


@router.get("")
async def trying(request: Request, who: Moderator) -> Response:
    return _try_page(request, who)


@router.post("")
async def tried(request: Request, who: Moderator) -> Response:
    """Nothing of what is tried is logged."""
    service = service_of(request)
    form = await request.form(max_files=1, max_fields=5, max_part_size=2**22)
    text, given = _text(form, "text"), form.get("image")
    picture = await given.read() if isinstance(given, UploadFile) and given.filename else None
    try:
        if not text.strip() and picture is None:
            raise Refused("unusable", "Write a text or choose a picture")
        said = await service.explain(Incoming(text or None, picture), grid=GRID)
    except BifocalError as error:
        refused = as_refused(error)
        return _try_page(request, who, refused.status, text=text, wrong=str(refused))
    return _try_page(request, who, text=text, said=_shown(said, service))


def _try_page(
    request: Request, who: str, status: int = 200, *, text: str = "", wrong: str | None = None, said: Any = None
) -> Response:
    settings = service_of(request).settings
    return _page(
        "try.html", request, status, who=who, text=text, wrong=wrong, said=said, max_text=settings.max_text,
        cut=len(text) > settings.max_text, most=settings.max_body - FORM,
    )  # fmt: skip


def _shown(said: Explanation, service: Service) -> dict[str, Any]:
    """An explanation as the template draws it."""
    decision = said.decision
    pattern = pattern_of(name for name, there in decision.present.items() if there)
    parts = []
    for name, value in said.values.items():
        pieces, expert = said.pieces[name], service.expert_names.get(name)
        alone = decision.models.get(expert or "")
        part: dict[str, Any] = {"name": PARTS.get(name, name), "share": said.contributions[name], "expert": expert}
        part |= {"alone": alone, "of": None if alone is None else _sense(service, alone.label)}
        part["strongest"] = [(w.piece.name, w.effect) for w in pieces[:STRONGEST] if w.effect]
        if isinstance(value, str):
            part["words"] = [(run, w, _shade(colour)) for run, w, colour in marked(value, pieces)]
        elif isinstance(value, Image.Image):
            part["picture"] = _data(value)
            part["map"] = _data(heat_map(value, pieces)) if pieces else None
        parts.append(part)
    return {
        "decision": decision,
        "parts": parts,
        "band": service.band(pattern),
        "sense": _sense(service, decision.label),
    }


def _sense(service: Service, label: Any) -> dict[str, Any]:
    """What a probability is of, as people call it: the label itself where it has two classes, else the class."""
    binary = service.about.classes == (0, 1)
    return {"binary": binary, "name": str(service.about.policy["label"] if binary else label).replace("_", " ")}


def _shade(percentage: int) -> int:
    return min(STEPS, 1 + percentage * STEPS // 71)


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


def _skip(given: Mapping[str, Any]) -> str:
    """The numbers of the items that were skipped, the latest."""
    return ",".join([number for number in str(given.get("skip") or "").split(",") if number][-SKIPPED:])


@router.get("/queue")
async def queue(request: Request, who: Moderator) -> Response:
    service, asked = service_of(request), _filters(request.query_params)
    sort = asked.get("sort", "uncertainty")
    after = _after(request.query_params, sort)
    items = await asyncio.to_thread(service.store.queue, **asked, limit=PAGE + 1, after=after)  # type: ignore[arg-type]
    counts = await asyncio.to_thread(service.store.counts)
    more = None
    if len(items) > PAGE:
        last = items[PAGE - 1]
        key = last.distance if sort == "uncertainty" else last.since.isoformat()
        more = urlencode({**asked, "key": key, "id": last.id})
    return _page(
        "queue.html", request, who=who, items=items[:PAGE], counts=counts, asked=asked, more=more,
        start=urlencode(asked), patterns=service.patterns,
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
    store, asked, skip = service_of(request).store, _filters(request.query_params), _skip(request.query_params)
    skipped = skip.split(",") if skip else []
    item = await asyncio.to_thread(store.claim, who, **asked, exclude=skipped)  # type: ignore[arg-type]
    last = None
    with suppress(BifocalError):
        last = await asyncio.to_thread(store.item, request.query_params.get("undo", ""))
    if last is not None and (last.state != "done" or last.judged_by != who):
        last = None
    if item is None:
        return _page(
            "empty.html", request, who=who, asked=asked, last=last, skip=skip, skipped=len(skipped),
            start=urlencode(asked),
        )  # fmt: skip
    return await _item_page(request, who, item.decision, item, last)


@router.get("/items/{number}")
async def one(request: Request, number: str, who: Moderator) -> Response:
    """A decision, and all that happened to it."""
    store = service_of(request).store
    kept = await asyncio.to_thread(store.decision, number)
    item = None
    with suppress(Unknown):
        item = await asyncio.to_thread(store.item, number)
    return await _item_page(request, who, kept, item, None)


async def _item_page(request: Request, who: str, decision: Kept, item: Item | None, last: Item | None) -> Response:
    """``last`` is the item that was judged before this one, whose verdict can be taken back."""
    service, asked = service_of(request), _filters(request.query_params)
    history = await asyncio.to_thread(service.store.history, decision.id)
    original = await asyncio.to_thread(service.store.original, decision.id)
    held = None if item is None or item.state == "done" else _held(item, service.store)
    return _page(
        "item.html", request, who=who, item=item, decision=decision, history=history, original=original,
        words=_words(original), held=held, mine=held is not None and item is not None and item.claimed_by == who,
        asked=asked, skip=_skip(request.query_params), last=last, start=urlencode(asked),
        band=service.band(decision.pattern), sense=_sense(service, decision.label), alone=_alone(decision, service),
    )  # fmt: skip


def _held(item: Item, store: Store) -> datetime | None:
    """Until when an item is in somebody's hands; None where it is free."""
    return None if store.left_s(item) is None else item.claimed_until


def _alone(decision: Kept, service: Service) -> list[tuple[str, float, dict[str, Any]]]:
    """What each part says on its own: its name, the probability, and what it is of."""
    models, found = decision.body.get("models", {}), []
    for part, expert in service.expert_names.items():
        if said := models.get(expert):
            (value,) = (value for key, value in said.items() if key != "label")
            found.append((PARTS.get(part, part), value, _sense(service, said["label"])))
    return found


def _words(original: Original | None) -> list[tuple[str, str]]:
    """What a post says and where, without the marks that the model reads it with."""
    if original is None or not original.text:
        return []
    transcript, caption = words_of(original.text)
    return [(name, said) for name, said in (("Text", caption), ("Words on the picture", transcript)) if said]


@router.post("/items/{number}")
async def judged(request: Request, number: str, who: Moderator) -> Response:
    """Approve, block, skip, undo or claim an item, and go on."""
    store, form = service_of(request).store, await request.form(max_files=0, max_fields=12)
    done, onward = _text(form, "do"), _filters(form)
    skip = _skip(form)
    onward |= {"skip": skip} if skip else {}
    request.state.onward = urlencode(onward)  # where an error leads on to
    if done in ("approve", "block"):
        action = "allow" if done == "approve" else "block"
        await asyncio.to_thread(store.verdict, number, who, action, _text(form, "why"))
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
        await asyncio.to_thread(store.claim, who, number)
        return RedirectResponse(f"/moderate/items/{number}?{urlencode(onward)}", 303)
    raise Refused("unusable", f"an item is approved, blocked, skipped, undone or claimed, found {done[:20]!r}")


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
    service = service_of(request)
    now = service.store.clock()
    said = await asyncio.to_thread(service.store.summary, now - timedelta(days=1))
    counts = await asyncio.to_thread(service.store.counts)
    differ = await asyncio.to_thread(service.store.disagreements, 10)
    return _page(
        "day.html", request, who=who, said=said, counts=counts, differ=differ, hours=_hours(said["hours"], now),
        drift=await asyncio.to_thread(_drift, said["probability"], service), rule=service.about.config.drift,
        load=service.load(), actions=ACTIONS, sense=_sense(service, "the class that was named"),
        shadow=None if service.settings.shadow is None else str(service.settings.shadow.name),
    )  # fmt: skip


def _hours(rows: list[list[Any]], now: datetime) -> list[dict[str, Any]]:
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
        for action in ACTIONS:
            height = 100 * by.get(action, 0) / most
            top -= height
            stack.append((action, top, height))
        told = ", ".join(f"{by[action]} {name}" for action, name in ACTIONS.items() if action in by)
        bars.append(
            {"hour": hour[11:13], "n": sum(by.values()), "by": by, "stack": stack, "told": f"{hour[11:13]} h: {told}"}
        )
    return bars


def _drift(histogram: list[int], service: Service) -> dict[str, Any] | None:
    """How the day's probabilities differ from those that the policy was tuned on; None where not known.

    By the rule of `bifocal drift`, on the cells that the log counts; which posts are copies it does not know.
    """
    if service.reference is None or not sum(histogram):
        return None
    cells, rule = len(histogram), service.about.config.drift
    before = np.minimum((np.array(service.reference) * cells).astype(int), cells - 1)
    sides = [{"score": Column(x, np.arange(len(x)))} for x in (before, np.repeat(np.arange(cells), histogram))]
    shares = 100 * np.bincount(before, minlength=cells) / len(before), 100 * np.array(histogram) / sum(histogram)
    found = compare(*sides, psi=rule.psi, alpha=rule.alpha)["score"]
    return found | {"bars": list(zip(*(side.tolist() for side in shares), strict=True))}


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""
