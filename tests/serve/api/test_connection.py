"""Requests that can be read in two ways, and connections that would not end, against the real service process."""

import json
import socket
import time

import pytest

from bifocal.serve.api.connection import MAX_LINES, fault_of_head

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: mod.example\r\n"
POST = b"POST /v1/predict HTTP/1.1\r\nHost: mod.example\r\nContent-Type: application/json\r\n"
BODY = b'{"text":"the lantern waits"}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def key(server):
    return b"Authorization: Bearer " + server.keys["decide"].encode() + b"\r\n"


def talk(server, sent):
    """All that is answered until the connection is closed from there; None where it is not."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(sent)
        answer = b""
        try:
            while more := connection.recv(65536):
                answer += more
        except TimeoutError:
            return None
    return answer


SMUGGLED = {
    "length and chunks": POST + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + LIVE + b"\r\n",
    "chunks and length": POST + CHUNKED + b"Content-Length: 4\r\n" + b"\r\n0\r\n\r\n" + LIVE + b"\r\n",
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 28\r\n\r\n" + BODY,
    "a length twice": POST + b"Content-Length: 28\r\nContent-Length: 28\r\n\r\n" + BODY,
    "lengths in one": POST + b"Content-Length: 28, 28\r\n\r\n" + BODY,
    "a signed length": POST + b"Content-Length: +28\r\n\r\n" + BODY,
    "a hexadecimal length": POST + b"Content-Length: 0x1c\r\n\r\n" + BODY,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length of many digits": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY,
    "another coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + BODY,
    "two codings": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "codings twice": POST + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "a coding before a colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a coding with a tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks of HTTP/1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n0\r\n\r\n",
    "a folded header": LIVE + b"X-A: b\r\n c\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": LIVE.replace(b"\r\n", b"\n") + b"\n",
    "one bare line feed": LIVE + b"X-A: b\nTransfer-Encoding: chunked\r\n\r\n",
    "a bare line feed at the end": LIVE + b"\n",
    "a bare carriage return": LIVE + b"X-A: b\rContent-Length: 4\r\n\r\n",
    "a zero byte": LIVE + b"X-A: b\0c\r\n\r\n",
    "two hosts": LIVE + b"Host: other.example\r\n\r\n",
    "a host that is none": LIVE.replace(b"mod.example", b"[::1") + b"\r\n",
    "a host with a path": LIVE.replace(b"mod.example", b"mod.example/x?") + b"\r\n",
    "no host": b"GET /v2/health/live HTTP/1.1\r\n\r\n",
    "too many headers": LIVE + b"a:b\r\n" * 200 + b"\r\n",
    "too large a header": LIVE + b"X-A: " + b"a" * 40_000 + b"\r\n\r\n",
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("shape", SMUGGLED)
def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(guarded, shape):
    answer = talk(guarded, SMUGGLED[shape])
    assert answer is not None and answer.count(b"HTTP/1.1 4") == 1 and answer.startswith(b"HTTP/1.1 400 ")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["kind"] == "bad_request"


CHUNKS = {
    "a bare line feed after a size": b"1c\n" + BODY + b"\r\n0\r\n\r\n",
    "a bare line feed in an extension": b"1c;a\n" + BODY + b"\r\n0\r\n\r\n",
    "no end of a chunk": b"1c\r\n" + BODY + b"xx0\r\n\r\n",
    "a size with a sign": b"+1c\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a size that is none": b"0x1c\r\n" + BODY + b"\r\n0\r\n\r\n",
    "an endless size": b"0" * 20_000 + b"\r\n",
    "an endless extension": b"1c;" + b"a" * 40_000,
    "very many chunks": b"1\r\n \r\n" * 40_000 + b"0\r\n\r\n",
}


@pytest.mark.parametrize("shape", CHUNKS)
def test_bad_chunks_are_refused_and_the_connection_closed(guarded, shape):
    answer = talk(guarded, POST + key(guarded) + CHUNKED + b"\r\n" + CHUNKS[shape])
    assert answer is not None and answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1


def test_good_chunks_are_read_with_extensions_and_trailers_left_alone(guarded):
    sent = POST + key(guarded) + CHUNKED + b"Connection: close\r\n\r\n"
    sent += b"%x;a=b\r\n" % len(BODY) + BODY + b"\r\n0\r\nX-API-Key: evil\r\n\r\n"
    assert talk(guarded, sent).startswith(b"HTTP/1.1 200 ")
    piped = talk(guarded, LIVE + b"\r\n" + LIVE + b"Connection: close\r\n\r\n")
    assert piped.count(b"HTTP/1.1 200 ") == 2


def test_what_a_head_is_refused_for():
    good = POST + b"Content-Length: 28\r\n\r\n"
    assert fault_of_head(good) is None and fault_of_head(POST + CHUNKED + b"\r\n") is None
    assert "100 lines" in fault_of_head(LIVE + b"a:b\r\n" * MAX_LINES + b"\r\n")
    assert "once" in fault_of_head(POST + b"CONTENT-LENGTH:28\r\ntransfer-encoding:chunked\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2/health/live HTTP/1.1\r\nHost: mod.example\r\n",
        b"POST /nowhere HTTP/1.1\r\nHost: mod.example\r\n",
        POST,
        b"POST /moderate/login HTTP/1.1\r\nHost: mod.example\r\nContent-Type: application/x-www-form-urlencoded\r\n",
    ],
)
@pytest.mark.parametrize("keyed", [False, True])
def test_a_body_that_drips_on_ends_with_its_time(guarded, head, keyed):
    """body_timeout_s is 1 s here; a drip of 60 s is allowed for, on a busy machine."""
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=0.05) as connection:
        connection.sendall(head + (key(guarded) if keyed else b"") + CHUNKED + b"\r\n")
        answer, until = b"", time.monotonic() + 60
        while time.monotonic() < until:
            try:
                connection.sendall(b"1\r\na\r\n")
                more = connection.recv(65536)
                if not more:
                    break
                answer += more
            except TimeoutError:
                continue
            except OSError:  # closed from there, with some of the drip unread
                break
        else:
            raise AssertionError(f"still open, answered {answer[:80]!r}")
    assert answer.startswith(b"HTTP/1.1 ") and answer.count(b"HTTP/1.1 ") == 1


def test_one_who_takes_no_answer_is_left(guarded):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", guarded.port))
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: mod.example\r\n\r\n"
        with pytest.raises(OSError) as ended:
            while True:
                connection.sendall(asked)
        assert not isinstance(ended.value, TimeoutError)


def test_a_connection_serves_on_after_an_answer(guarded):
    before = None
    for _ in range(3):
        response = guarded.post(json={"text": "words"}, headers={"x-api-key": guarded.keys["decide"]})
        assert response.status_code == 200 and "connection" not in response.headers
        used = guarded.http._transport._pool.connections[0]
        assert before in (None, used)
        before = used
