"""The ASGI application: every endpoint, and errors in one form."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .. import __version__
from ..errors import BifocalError
from .api.limits import Limits
from .api.proxies import PublicUrlMiddleware
from .api.routes import ClientDisconnected, fault_of, to_refused
from .api.routes import router as own_door
from .compat import moderations, perspective
from .errors import KINDS, WITHIN, Refused
from .pages.routes import error_page, not_signed_in
from .pages.routes import router as pages
from .pages.session import NotSignedIn
from .service import Service

_SHAPES = {
    moderations.PATH: moderations.error_body,
    perspective.PATH: perspective.error_body,
    perspective.SUGGEST: perspective.error_body,
}
"""Errors, and their statuses, are put as the clients of each endpoint read them."""
_KIND_OF = {status: kind for kind, status in reversed(KINDS.items())}


def create_app(service: Service) -> FastAPI:
    """The application of a service that runs."""
    public = service.settings.public_url
    app = FastAPI(
        title="Bifocal",
        version=__version__,
        summary="Calibrated decisions on posts of text, picture and record.",
        docs_url=None,  # they load scripts from elsewhere; the document itself is at /openapi.json
        redoc_url=None,
        servers=[{"url": public}] if public else None,
    )
    app.state.service = service
    for router in (own_door, moderations.router, perspective.router, pages):
        app.include_router(router)
    app.add_middleware(Limits, service=service, refuse=_answer)
    app.add_middleware(PublicUrlMiddleware, settings=service.settings)  # the outermost: it sees a request first
    app.add_exception_handler(BifocalError, _ours)
    app.add_exception_handler(RequestValidationError, _unusable)
    app.add_exception_handler(HTTPException, _theirs)
    app.add_exception_handler(ClientDisconnected, _nobody)
    app.add_exception_handler(NotSignedIn, _stranger)
    app.add_exception_handler(Exception, _unforeseen)
    return app


def _answer(refused: Refused, request: Request) -> Response:
    service: Service = request.app.state.service
    service.metrics.refused.labels(refused.kind).inc()
    if request.scope["path"].startswith("/moderate"):
        return error_page(request, refused)
    headers = {}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(refused.retry_after)))
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    error_body = _SHAPES.get(request.scope["path"])
    status, body = error_body(refused) if error_body else (refused.status, refused.to_dict())
    return JSONResponse(body, status_code=status, headers=headers)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, BifocalError)
    return _answer(to_refused(error), request)


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
    answer = _answer(Refused("internal", WITHIN["internal"]), request)  # the server tells it on stderr
    answer.headers["connection"] = "close"  # it will: who sent the next request on it would find it reset
    return answer
