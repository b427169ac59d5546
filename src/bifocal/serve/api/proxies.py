"""Behind a reverse proxy: by which address the service is known outside, and what its proxies say of a request."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import ServeConfig
from .connection import HOST

_AUTHORITY = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


class PublicUrlMiddleware:
    """Lets a request stand as it was sent to the public address, and every redirect lead to a path of ours there.

    With ``public_url`` set, scheme, host and prefix are its own, whatever a request says of itself. Without it, a
    proxy of ``trusted_proxies`` says scheme and host (``X-Forwarded-Proto``, ``X-Forwarded-Host``); of anybody else
    these headers are not looked at.
    """

    def __init__(self, app: ASGIApp, settings: ServeConfig):
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        prefix = self.settings.prefix

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and any(n == b"location" for n, _ in message["headers"]):
                headers = MutableHeaders(raw=list(message["headers"]))
                headers["location"] = prefix + own_path(headers["location"])
                message = {**message, "headers": headers.raw}
            await send(message)

        await self.app(self._as_sent(scope), receive, answer)

    def _as_sent(self, scope: Scope) -> Scope:
        settings, headers = self.settings, Headers(raw=scope["headers"])
        if settings.public_url:
            scheme, host = urlsplit(settings.origin)[:2]
        elif self._trusted(scope):
            scheme = _last(headers, "x-forwarded-proto").lower()
            host = _last(headers, "x-forwarded-host")
            host = host if HOST.fullmatch(host.encode("latin-1", "replace")) else ""
        else:
            return scope
        changed = dict(scope)
        if scheme in ("http", "https"):
            changed["scheme"] = scheme
        if host:
            kept = [(name, value) for name, value in scope["headers"] if name != b"host"]
            changed["headers"] = [(b"host", host.encode("latin-1", "replace")), *kept]
        path = scope["path"]
        if settings.prefix and path.startswith(f"{settings.prefix}/"):  # the proxy left it where it was
            changed["path"] = path[len(settings.prefix) :]
            changed["raw_path"] = scope["raw_path"][len(settings.prefix) :]
        return changed

    def _trusted(self, scope: Scope) -> bool:
        try:
            peer = ip_address(scope["client"][0])
        except (TypeError, ValueError):  # a socket of this machine has no address
            return False
        return any(peer in network for network in self.settings.proxy_networks)


def own_path(location: str) -> str:
    """The path, query and fragment of an address: where a redirect leads does not depend on what a client calls us.

    >>> own_path("http://evil.example/moderate?a=b")
    '/moderate?a=b'
    """
    return "/" + _AUTHORITY.sub("", location, count=1).lstrip("/\\")


def _last(headers: Headers, name: str) -> str:
    """What the nearest proxy says, which is the last of several."""
    return headers.get(name, "").rpartition(",")[2].strip()
