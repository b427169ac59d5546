"""The ASGI application: limits before anything is read, every door, and errors in one form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from ..errors import BifocalError
from .api import Gone, as_refused, fault_of
from .api import router as own_door
from .doors import moderations, perspective
from .errors import KINDS, Refused
from .pages.routes import error_page, not_signed_in
from .pages.routes import router as pages
from .pages.session import NotSignedIn
from .service import Service
from .settings import LOOPBACK, ServeConfig

_SHAPES = {
    moderations.PATH: moderations.told,
    perspective.PATH: perspective.told,
    perspective.SUGGEST: perspective.told,
}
"""Errors, and their statuses, are told as the clients of each door read them."""
LINGER_S = 1.0
"""How long a body that was refused is still taken off the line, and thrown away."""
_KIND_OF = {status: kind for kind, status in reversed(KINDS.items())}


def create_app(service: Service) -> FastAPI:
    """The application of a service, which it starts and ends with itself."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="Bifocal",
        version=__version__,
        summary="Calibrated decisions on posts of text, picture and record.",
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere; the document itself is at /openapi.json
        redoc_url=None,
    )
    app.state.service = service
    for router in (own_door, moderations.router, perspective.router, pages):
        app.include_router(router)
    app.add_middleware(Limits, service=service)
    app.add_exception_handler(BifocalError, _ours)
    app.add_exception_handler(RequestValidationError, _unusable)
    app.add_exception_handler(HTTPException, _theirs)
    app.add_exception_handler(Gone, _nobody)
    app.add_exception_handler(NotSignedIn, _stranger)
    app.add_exception_handler(Exception, _unforeseen)
    return app


def _answer(refused: Refused, request: Request) -> Response:
    service: Service = request.app.state.service
    service.metrics.refused.labels(refused.kind).inc()
    if request.url.path.startswith("/moderate"):
        return error_page(request, refused)
    headers = {}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(refused.retry_after)))
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    told = _SHAPES.get(request.url.path)
    status, body = told(refused) if told else (refused.status, refused.to_dict())
    return JSONResponse(body, status_code=status, headers=headers)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, BifocalError)
    return _answer(as_refused(error), request)


async def _unusable(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    kind = "bad_request" if faults[0]["type"] == "json_invalid" else "unusable"
    body = getattr(request.scope.get("route"), "body_field", None)
    known = getattr(body and body.field_info.annotation, "model_fields", ())
    return _answer(Refused(kind, fault_of(faults, known)), request)


async def _theirs(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _KIND_OF.get(error.status_code, "bad_request")
    answer = _answer(Refused(kind, str(error.detail)), request)
    answer.headers.update(error.headers or {})
    return answer


async def _stranger(request: Request, error: Exception) -> Response:
    return not_signed_in(request)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _unforeseen(request: Request, error: Exception) -> Response:
    return _answer(Refused("internal", "the service failed on this request; it is logged"), request)


class Limits:
    """Bodies that are too large, too slow, or too many are refused while they come; counts every request.

    A body that says its length is refused before a byte of it is read.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self.app = app
        self.service = service
        self.settings: ServeConfig = service.settings
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        if not self.service.door.clients and self.settings.loopback and not self.settings.open and _elsewhere(request):
            told = (
                "without API keys only this machine is answered, and this was asked of "
                f"{request.headers['host'][:60]!r}: make keys (`bifocal keys add RUN NAME`), or say that anybody "
                "may ask (--open)"
            )
            await _answer(Refused("forbidden", told), request)(scope, receive, send)
            return
        start = monotonic()
        body = _Body(self, receive, start + self.settings.body_timeout_s, _length(scope))
        status = 499

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(b"x-content-type-options", b"nosniff"), *message.get("headers", [])]
                if not body.whole:
                    await body.drain()
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self.app(scope, body.receive, answer)
        finally:
            self.held -= body.bytes
            route = scope.get("route")
            door = getattr(route, "path", "other")
            self.service.metrics.requests.labels(door, str(status)).inc()
            self.service.metrics.latency.labels(door).observe(monotonic() - start)


def _elsewhere(request: Request) -> bool:
    """Whether a name of another machine was asked for, as by a page from there whose name was turned to point here."""
    host = request.headers.get("host")
    try:
        return host is not None and urlsplit(f"//{host}").hostname not in LOOPBACK
    except ValueError:
        return True


def _length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


class _Body:
    def __init__(self, limits: Limits, receive: Receive, until: float, length: int | None):
        self.limits = limits
        self.source = receive
        self.until = until
        self.length = length
        self.bytes = 0
        self.whole = length in (None, 0)
        self.begun = False

    async def receive(self) -> Message:
        settings = self.limits.settings
        if self.whole and self.begun:
            return await self.source()
        self.begun, self.whole = True, False
        if (self.length or 0) > settings.max_body:
            raise self._refusal(
                "too_large", f"a request has {settings.max_body:,} bytes at most, this one {self.length:,}"
            )
        if self.limits.held + (self.length or 0) > settings.max_bodies:
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
            if self.bytes > settings.max_body:
                self.whole = False
                raise self._refusal("too_large", f"a request has {settings.max_body:,} bytes at most")
        return message

    async def drain(self) -> None:
        """Throw away what still comes, for a moment: one who is still sending would not hear why he is refused."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self.whole:
                    message = await self.source()
                    self.whole = message["type"] == "http.disconnect" or not message.get("more_body", False)

    def _refusal(self, kind: str, told: str) -> HTTPException:
        # Of the kind that the framework lets pass while it reads a body.
        return HTTPException(KINDS[kind], told, {"Retry-After": "1"} if kind == "overloaded" else None)
