"""Limits before anything is read: who asks, and how large, how slow and how many the bodies are that come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..compat import moderations
from ..errors import KINDS, Refused
from ..log.records import StoreGone
from ..pages.session import NotSignedIn, moderator
from ..service import Service
from ..settings import LOOPBACK, ServeConfig
from .connection import brings_body
from .keys import ApiClient

SMALL = 2**15
"""Bytes of a body that brings no post: feedback, a verdict, a sign-in, whatever is sent to a page without a session."""
_POSTS = ("/v1/predict", "/v1/predict/batch", moderations.PATH)
_OTHERS_POSTS = "/v1alpha1/"
_PAGES = "/moderate"
_SAFE_HEAD = ("/v1/policy", "/v2/health/live", "/v2/health/ready", "/metrics", "/openapi.json", "/moderate/login")


class Limits:
    """Refuses, before a byte of a body is read: a body of somebody without a key or of one whose role posts nothing,
    and one that says that it is too large; while they come: bodies that are too large, too slow, or too many.

    The endpoints ask for the key again: this one keeps strangers from being listened to, and knows of one no more than
    that. Counts every request.
    """

    def __init__(self, app: ASGIApp, service: Service, refuse: Callable[[Refused, Request], Response]):
        self.app = app
        self.service = service
        self.settings: ServeConfig = service.settings
        self.refuse = refuse
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD" and scope["path"] in _SAFE_HEAD:
            scope = {**scope, "method": "GET"}  # the server sends no body to who asks for none
        start, request = monotonic(), Request(scope)
        body = _Body(self, receive, start + self.settings.body_timeout_s, scope)
        status, seconds = 499, 0.0

        async def answer(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], monotonic() - start
                headers = [(b"x-content-type-options", b"nosniff"), *message.get("headers", [])]
                # Nobody is to send another request behind a body that nobody reads.
                message = {**message, "headers": headers if body.whole else [*headers, (b"connection", b"close")]}
            await send(message)

        try:
            try:
                body.most = await self._admitted(request)
            except Refused as refused:
                await self.refuse(refused, request)(scope, receive, answer)
            else:
                await self.app(scope, body.receive, answer)
        finally:
            self.held -= body.bytes
            route = scope.get("route")
            endpoint = getattr(route, "path", "other")
            self.service.metrics.requests.labels(endpoint, str(status)).inc()
            self.service.metrics.latency.labels(endpoint).observe(seconds or monotonic() - start)

    async def _admitted(self, request: Request) -> int:
        """How many bytes who asks may send here. Raises `Refused`, with nothing of the body read."""
        headers, path = request.headers, request.scope["path"]
        auth, settings = self.service.auth, self.settings
        if not auth.clients and settings.loopback and not settings.open and _elsewhere(request):
            raise Refused(
                "forbidden",
                "without API keys only this machine is answered, and this was asked of "
                f"{headers['host'][:60]!r}: make keys (`bifocal keys add RUN NAME`), or say that anybody "
                "may ask (--open)",
            )
        if not brings_body(request.scope["headers"]):
            return 0
        if (packed := headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
            raise Refused(
                "unsupported_type", f"bodies are read as they are: send it without Content-Encoding, found {packed!r}"
            )
        if path == _PAGES or path.startswith(f"{_PAGES}/"):
            whole = path == _PAGES and await _signed_in(request)
            return settings.max_body if whole else min(SMALL, settings.max_body)
        auth.allow(self._client(request), "decide")
        whole = path in _POSTS or path.startswith(_OTHERS_POSTS)
        return settings.max_body if whole else min(SMALL, settings.max_body)

    def _client(self, request: Request) -> ApiClient:
        """Whose key comes with a request, in whatever way an endpoint takes it. Raises `Refused`."""
        headers = request.headers
        given = [headers.get("authorization", "").partition(" ")[2].strip(), headers.get("x-api-key")]
        if request.scope["path"].startswith(_OTHERS_POSTS):
            given += [request.query_params.get("key"), headers.get("x-goog-api-key")]
        keys = [key for key in given if key]
        for key in keys[:-1]:
            with suppress(Refused):
                return self.service.auth.who(key)
        return self.service.auth.who(keys[-1] if keys else None)


async def _signed_in(request: Request) -> bool:
    with suppress(NotSignedIn, Refused, StoreGone):
        return bool(await moderator(request))
    return False


def _elsewhere(request: Request) -> bool:
    """Whether a name of another machine was asked for, as by a page from there whose name was turned to point here."""
    host = request.headers.get("host")
    try:
        return host is not None and urlsplit(f"//{host}").hostname not in LOOPBACK
    except ValueError:
        return True


class _Body:
    """A request's body as it comes, under the limits."""

    def __init__(self, limits: Limits, receive: Receive, until: float, scope: Scope):
        self.limits = limits
        self.source = receive
        self.until = until
        lengths = (int(v) for name, v in scope["headers"] if name == b"content-length" and v.isdigit())
        self.length = next(lengths, 0)
        self.whole = not brings_body(scope["headers"])
        self.most = 0
        self.bytes = 0

    async def receive(self) -> Message:
        settings = self.limits.settings
        if self.whole:
            return await self.source()
        if self.length > self.most:
            raise self._refusal(
                "too_large", f"a request has {self.most:,} bytes at most here, this one {self.length:,}"
            )
        if self.limits.held + self.length > settings.max_bodies:
            raise self._refusal("overloaded", "too many bytes are being read: try again in a second")
        try:
            async with asyncio.timeout(max(0.0, self.until - asyncio.get_running_loop().time())):
                message = await self.source()
        except TimeoutError:
            told = f"the request did not come within {settings.body_timeout_s:g} s"
            raise self._refusal("slow_body", told) from None
        if message["type"] == "http.request":
            came = len(message.get("body", b""))
            self.bytes += came
            self.limits.held += came
            self.whole = not message.get("more_body", False)
            if self.bytes > self.most:
                self.whole = False
                raise self._refusal("too_large", f"a request has {self.most:,} bytes at most here")
        return message

    def _refusal(self, kind: str, told: str) -> HTTPException:
        # Of the kind that the framework lets pass while it reads a body.
        return HTTPException(KINDS[kind], told, {"Retry-After": "1"} if kind == "overloaded" else None)
