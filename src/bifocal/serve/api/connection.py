"""One connection: requests that can be read in two ways are refused on it, no body is read before somebody asks for
it, and nothing on it lasts for ever."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import Refused

MAX_HEAD = 2**14
"""Bytes of a request's head."""
MAX_LINES = 100
"""Of a head: what each costs is paid before it is known who asks."""
LINGER_S = 1.0
"""How long a connection stays after an answer that was given before all was read."""
_PACE_S = 0.05
"""Between two looks at what still comes on such a connection: to throw it away must cost next to nothing."""
_LEAST_PIECES, _BYTES_PER_PIECE = 4096, 64
_LEAST_TAKEN = 4096
"""Bytes of an answer that a client takes within the time that a body has."""

_BLANK_LINE = re.compile(rb"\n\r?\n")
_LOOSE_LINE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_FOLDED_LINE = re.compile(rb"\n[ \t]")
_FRAMING = re.compile(rb"^(content-length|transfer-encoding)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_HOST = re.compile(rb"^host:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[\w.~-]*)(:[0-9]{0,5})?[ \t]*")
"""What a Host header may say; what cannot be an address is refused before anything makes one of it."""


def fault_of_head(head: bytes) -> str | None:
    """Why a head, its blank line included, is refused; None where it is not.

    A proxy in front may read another request out of what is refused here, and so pass on what it believes to have
    stopped (RFC 9112, section 11.2). h11 refuses most else of the kind, and takes these.
    """
    if len(head) > MAX_HEAD or head.count(b"\n") > MAX_LINES:
        return f"a head has {MAX_HEAD:,} bytes and {MAX_LINES} lines at most"
    if _LOOSE_LINE.search(head):
        return "every line of a head ends with CR LF"
    asked = head.partition(b"\r\n")[0]
    if not asked.endswith((b" HTTP/1.1", b" HTTP/1.0")):
        return "HTTP/1.1 is spoken here"
    if _FOLDED_LINE.search(head):
        return "a header is not folded over several lines"
    if any(HOST.fullmatch(host) is None for host in _HOST.findall(head)):
        return "Host is a name or an address, and a port"
    framing = _FRAMING.findall(head)
    if len(framing) > 1:
        return "a body has one length: Content-Length or Transfer-Encoding, once"
    for name, value in framing:
        if name.lower() == b"content-length" and not value.strip(b" \t").isdigit():
            return "Content-Length is a number"
        if name.lower() == b"transfer-encoding" and asked.endswith(b"HTTP/1.0"):
            return "HTTP/1.0 has no Transfer-Encoding"
    return None


def brings_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request says that a body follows its head."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")) for name, value in headers
    )


class Requests(h11.Connection):
    """What comes on a connection, as h11 reads it.

    Attributes
    ----------
    wanted : bool
        Whether the body that comes may be read; until then its bytes lie where they are.
    fault : str
        What is wrong with what came.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD)
        self.wanted = True
        self.fault = "this is no request that can be read"
        self._pieces = self._bytes = 0

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            came = self.trailing_data[0]
            if (blank := _BLANK_LINE.search(came)) and (fault := fault_of_head(came[: blank.end()])):
                self._refuse(fault)
        elif not self.wanted:
            return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.wanted = not brings_body(event.headers)
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > _LEAST_PIECES + self._bytes // _BYTES_PER_PIECE:
                self._refuse("the body comes in too small pieces")
        return event

    def _refuse(self, fault: str) -> None:
        self.fault = fault
        raise h11.RemoteProtocolError(fault)


class _Flow(FlowControl):
    """Says when the application asks for (more of) a body."""

    def __init__(self, transport: asyncio.Transport, asked: Callable[[], None]):
        super().__init__(transport)
        self._asked = asked

    def resume_reading(self) -> None:
        super().resume_reading()
        self._asked()


class _Line(asyncio.Transport):
    """A transport that is closed at leisure where something unread may lie or come on it.

    Closing a socket with unread bytes resets it, and who is still sending may then not hear what was answered.
    """

    def __init__(self, transport: asyncio.Transport, unread: Callable[[], bool]):
        super().__init__()
        self._transport = transport
        self._unread = unread
        self.lingering = False

    def close(self) -> None:
        if self.is_closing():
            return
        if self._unread():
            self.lingering = True
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        return self.lingering or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.lingering:
            self._transport.write(data)

    def abort(self) -> None:
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class Connection(H11Protocol):
    """As uvicorn's, which lets one stand for ever where a head, a body or the taking of an answer does not end.

    Attributes
    ----------
    limit_s : float
        Seconds from a connection to a request's head, and from there to its last byte.
    """

    limit_s: float

    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self.conn: Requests = Requests()
        self._phase: str | None = None
        self._until: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.set_write_buffer_limits(high=0)  # whatever is not taken at once is looked after by `pause_writing`
        self._line = _Line(transport, self._unread)
        super().connection_made(self._line)
        self.flow = _Flow(self._line, self._body_asked)
        self._time("head")

    def data_received(self, data: bytes) -> None:
        if self._line.lingering:  # what still comes is thrown away
            self.flow.pause_reading()
            self.loop.call_later(_PACE_S, self.flow.resume_reading)
            return
        super().data_received(data)
        if not self.conn.wanted:
            self.flow.pause_reading()
        self._keep_time()

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            self.transport.close()
        super().on_response_complete()
        self._keep_time()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, and close."""
        answerable = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        if self.cycle is not None and not self.cycle.response_complete:  # whoever is about to answer need not
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if answerable:
            body = json.dumps(Refused("bad_request", self.conn.fault).to_dict()).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._writing is None:
            self._look_at_writing(None)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_looking()

    def connection_lost(self, exc: Exception | None) -> None:
        self._time(None)
        self._stop_looking()
        super().connection_lost(exc)

    def _unread(self) -> bool:
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or bool(self.conn.trailing_data[0])

    def _body_asked(self) -> None:
        if not self.conn.wanted and not self.cycle.response_started:
            self.conn.wanted = True
            self.handle_events()
            self._keep_time()

    def _keep_time(self) -> None:
        state = self.conn.their_state
        if state is h11.IDLE:
            self._time("head" if self.conn.trailing_data[0] else None)
        else:
            self._time("body" if state is h11.SEND_BODY else None)

    def _time(self, phase: str | None) -> None:
        if phase == self._phase:
            return
        if self._until is not None:
            self._until.cancel()
        self._phase = phase
        if phase == "head":
            self._until = self.loop.call_later(self.limit_s, self.transport.close)
        elif phase == "body":  # the application refuses it when its time is over; this is for what nobody reads
            self._until = self.loop.call_later(self.limit_s + 2 * LINGER_S, self.transport.abort)

    def _stop_looking(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _look_at_writing(self, before: int | None) -> None:
        left = self.transport.get_write_buffer_size()
        if before is not None and before - left < _LEAST_TAKEN:
            self.transport.abort()
            return
        self._writing = self.loop.call_later(self.limit_s, self._look_at_writing, left)
