"""Who moderates: a signed cookie that says a name, and until when."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from urllib.parse import urlsplit

from fastapi import Request, Response

from ..api import service_of
from ..errors import Refused
from ..service import Service

COOKIE = "moderator"
HOURS = 12
_LONGEST = 60


class NotSignedIn(Exception):
    """Nobody is signed in; the page asks who is there."""


def sign_in(service: Service, response: Response, name: str, *, secure: bool) -> None:
    """Remember a name in the browser for `HOURS`, or until the key is taken away."""
    until = int(time.time()) + HOURS * 3600
    token = f"{base64.urlsafe_b64encode(name.encode()).decode()}.{until}"
    value = f"{token}.{_signature(service, name, token)}"
    # Strict: no other site's page can make this browser decide anything.
    response.set_cookie(
        COOKIE, value, max_age=HOURS * 3600, httponly=True, samesite="strict", secure=secure, path="/moderate"
    )


def name_of(service: Service, given: str, key: str) -> str:
    """The name that one signs in by: that of the key, or where none is needed the one that is given.

    Raises
    ------
    Refused
        On a key that is wrong or not for moderators, and on no name.
    """
    client = service.door.who(key or None)
    service.door.allow(client, "review")
    name = client.name if service.door.clients else given.strip()[:_LONGEST]
    if not name:
        raise Refused("unusable", "say who you are: verdicts bear a name")
    return name


def moderator(request: Request) -> str:
    """The name of who asks.

    Raises
    ------
    NotSignedIn
        Without a cookie of ours that is still good, or where the name's key was taken away.
    Refused
        Where another site's page sent the browser here.
    """
    service = service_of(request)
    from_our_page(request)
    token, _, signature = request.cookies.get(COOKIE, "").rpartition(".")
    name, _, until = token.partition(".")
    try:
        known = base64.urlsafe_b64decode(name).decode()
    except ValueError:
        raise NotSignedIn from None
    if not hmac.compare_digest(signature.encode(), _signature(service, known, token).encode()):
        raise NotSignedIn
    if not until.isdigit() or int(until) < time.time():
        raise NotSignedIn
    if request.method != "GET" or request.url.path.endswith("/next"):  # which claims an item
        service.door.spend(known)
    return known


def from_our_page(request: Request) -> None:
    """Refuse what another site's page, or another service of this site, has the browser send. Raises `Refused`."""
    origin, kind = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    ours = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if request.method != "GET" and not (ours and kind in ("same-origin", "none")):
        raise Refused("forbidden", "this came from another site's page")


def _signature(service: Service, name: str, token: str) -> str:
    """By a key of its own, and by the moderator's, so that it ends with that. Raises `NotSignedIn` without one."""
    clients = service.door.clients
    keys = [c.key_hash for c in clients if c.name == name and c.revoked is None and c.may("review")]
    if clients and not keys:
        raise NotSignedIn
    # Not by the log's secret itself: it signs what authors are called, which whoever posts may choose.
    secret = hashlib.sha256(b"sessions\0" + service.store.secret + "".join(keys).encode()).digest()
    return hmac.new(secret, token.encode(), hashlib.sha256).hexdigest()
