"""Who moderates: a cookie that holds a random token, and a session in the log's database that says whose it is."""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta
from urllib.parse import urlsplit

from fastapi import Request, Response

from ..api.routes import service_of
from ..errors import Refused
from ..log.sessions import Session
from ..service import Service

COOKIE = "moderator"
HOURS = 12
_LONGEST = 60
_TOKEN = 200
"""Characters; no token of ours has so many."""


class NotSignedIn(Exception):
    """Nobody is signed in; the page asks who is there."""


async def sign_in(service: Service, response: Response, who: Session, *, secure: bool) -> None:
    """Begin a session, remembered in the browser for `HOURS`; it ends with that, by signing out, or with the key."""
    token = secrets.token_urlsafe(32)
    await asyncio.to_thread(service.store.begin_session, token, who, timedelta(hours=HOURS))
    # Strict: no other site's page can make this browser decide anything.
    response.set_cookie(
        COOKIE, token, max_age=HOURS * 3600, httponly=True, samesite="strict", secure=secure, path=cookie_path(service)
    )


def cookie_path(service: Service) -> str:
    """Where the browser sends the cookie."""
    return f"{service.settings.prefix}/moderate"


async def sign_out(request: Request, response: Response) -> None:
    """End the session on the server: a copy of the cookie opens nothing any more."""
    service = service_of(request)
    await asyncio.to_thread(service.store.end_session, request.cookies.get(COOKIE, "")[:_TOKEN])
    response.delete_cookie(COOKIE, path=cookie_path(service))


def name_of(service: Service, given: str, key: str) -> Session:
    """Who signs in: by a key under its name, or where none is needed under the one that is given.

    Raises
    ------
    Refused
        On a key that is wrong or not for moderators, and on no name, or one that cannot be read.
    """
    client = service.auth.who(key or None)
    service.auth.allow(client, "review")
    if service.auth.clients:
        return Session(client.name, client.key_hash)
    name = " ".join(given.split())[:_LONGEST]
    if not name:
        raise Refused("unusable", "say who you are: verdicts bear a name")
    if not name.isprintable():
        raise Refused("unusable", "a name has letters that can be seen, and none that turn or hide others")
    return Session(name, "")


async def moderator(request: Request) -> str:
    """The name of who asks.

    Raises
    ------
    NotSignedIn
        Without a session that goes on, or where the key that it began with was taken away.
    Refused
        Where another site's page sent the browser here.
    """
    service = service_of(request)
    from_our_page(request)
    token = request.cookies.get(COOKIE, "")
    known = await asyncio.to_thread(service.store.session, token) if 0 < len(token) < _TOKEN else None
    if known is None:
        raise NotSignedIn
    clients = service.auth.clients
    live = [c.key_hash for c in clients if c.name == known.name and c.revoked is None and c.may("review")]
    if known.key_hash not in (live if clients else [""]):
        raise NotSignedIn
    if request.method != "GET" or request.url.path.endswith("/next"):  # which claims an item
        service.auth.spend(known.name)
    request.state.who = known.name
    return known.name


def from_our_page(request: Request) -> None:
    """Refuse what another site's page, or another service of this site, has the browser send. Raises `Refused`."""
    origin, kind = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    public = service_of(request).settings.origin
    here = origin == public if public else urlsplit(origin or "").netloc == request.headers.get("host")
    ours = origin is None or here
    if request.method != "GET" and not (ours and kind in ("same-origin", "none")):
        raise Refused("forbidden", "this came from another site's page")
