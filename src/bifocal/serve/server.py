"""Runs the service until it is told to stop, and ends it in order."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from ..errors import RunError
from .api.connection import MAX_HEAD, Connection
from .app import create_app
from .service import Service
from .settings import ServeConfig

MAX_CONNECTIONS = 10_000
"""Idle ones too, which cost next to nothing; posts are bounded by `ServeConfig.waiting`."""
GRACE_S = 60
KEEP_ALIVE_S = 75
"""Longer than load balancers keep idle connections (60 s): who closes first must not be the one that is asked."""


def serve(folder: Path, settings: ServeConfig, *, started: Callable[[str], None] | None = None) -> None:
    """Serve a run or bundle until SIGTERM or Ctrl-C.

    Parameters
    ----------
    folder : Path
    settings : ServeConfig
        ``port: 0`` takes one that is free.
    started : callable, optional
        Told the address, once posts are decided.

    Raises
    ------
    BifocalError
        As `Service.running`; where the address cannot be listened on.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # of files; every connection is one
    files = MAX_CONNECTIONS + 1_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (files if most == resource.RLIM_INFINITY else min(files, most), most))
    if callable(signal.getsignal(signal.SIGINT)):  # asyncio handles Ctrl-C itself where nobody else does
        signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.run(_run(folder, settings, started))


async def _run(folder: Path, settings: ServeConfig, started: Callable[[str], None] | None) -> None:
    with listen(settings.host, settings.port) as listener:
        async with Service.running(folder, settings) as service:
            await _Server(service, started).serve(sockets=[listener])


def _configuration(service: Service) -> uvicorn.Config:
    settings = service.settings
    return uvicorn.Config(
        create_app(service),
        host=settings.host,
        port=settings.port,
        log_level="error",
        access_log=False,
        http=type("TimedConnection", (Connection,), {"limit_s": settings.body_timeout_s}),
        ws="none",
        lifespan="off",  # ours, so that an error at the start reaches the caller
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        h11_max_incomplete_event_size=MAX_HEAD,
        server_header=False,
        proxy_headers=False,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can come to. Raises `RunError` where there is none to be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise RunError(
            f"{host}:{port} cannot be listened on ({error.strerror}): is another service there? "
            "Take another --port or --host"
        ) from None
    # asyncio sets this only for sockets that name their protocol, which `create_server` does not; without it the body
    # of an answer waits 40 ms for the acknowledgement of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Server(uvicorn.Server):
    """Says that it is not ready for a while before it closes its sockets, and exits 0 when told to end."""

    def __init__(self, service: Service, started: Callable[[str], None] | None):
        super().__init__(_configuration(service))
        self.service = service
        self.on_started = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        if self.service.draining:  # told twice: at once
            self.force_exit = True
        self.service.draining = True
        asyncio.get_running_loop().call_later(self.service.settings.drain_s, setattr, self, "should_exit", True)

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        if self.on_started and sockets:
            host, port = sockets[0].getsockname()[:2]
            self.on_started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
