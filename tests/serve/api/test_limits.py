"""Who asks is looked at before a body is read, and what a body may cost, against the real service process."""

import json
import socket
import threading
import time

import httpx
import pytest

DOORS = (
    "/v1/predict",
    "/v1/predict/batch",
    "/v1/moderations",
    "/v1alpha1/comments:analyze",
    "/v1/feedback",
    "/v1/appeals",
    "/nowhere",
)
HEAD = "POST {} HTTP/1.1\r\nHost: mod.example\r\nContent-Type: {}\r\n"
JSON, FORM, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"


def told(server, path, kind, length, key=None):
    """What is answered to a head whose body never comes: its status, and whether the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        connection.sendall(f"{HEAD.format(path, kind)}{authorization}{length}\r\n\r\n".encode())
        answer = b""
        while more := connection.recv(65536):
            answer += more
    return int(answer.split()[1]), b"100 Continue" in answer


@pytest.mark.parametrize("kind", [JSON, FORM, MULTIPART])
def test_a_stranger_is_refused_before_his_body_is_read(guarded, kind):
    for path in DOORS:
        for length in (
            "Content-Length: 2900000",
            "Transfer-Encoding: chunked",
            "Content-Length: 9\r\nExpect: 100-continue",
        ):
            assert told(guarded, path, kind, length) == (401, False)
    assert told(guarded, "/v1/predict", kind, "Content-Length: 2900000", "bf_wrong") == (401, False)
    assert told(guarded, "/v1/predict/batch", kind, "Content-Length: 2900000", guarded.keys["review"]) == (403, False)


def test_a_sign_in_and_a_form_without_a_session_are_small(guarded):
    for path in ("/moderate/login", "/moderate/logout", "/moderate/items/x"):
        status, invited = told(guarded, path, FORM, "Content-Length: 100000\r\nExpect: 100-continue")
        assert status in (303, 413) and not invited
    assert told(guarded, "/moderate", MULTIPART, "Content-Length: 2900000")[0] in (303, 413)
    for size, status in ((10_000, 400), (30_000, 413)):
        form = {"content": "&" * size, "headers": {"content-type": FORM}}
        assert guarded.http.post("/moderate/login", **form).status_code == status
    assert guarded.http.post("/moderate/login", data={"key": guarded.keys["review"]}).status_code == 303


def test_what_is_told_is_small_too(guarded):
    for path in ("/v1/feedback", "/v1/appeals"):
        response = guarded.post(path, json={"reason": "r" * 100_000}, headers=bearer(guarded))
        assert response.status_code == 413


def test_too_large_a_body_is_refused_before_it_is_invited(guarded):
    length = "Content-Length: 50000000\r\nExpect: 100-continue"
    assert told(guarded, "/v1/predict", JSON, length, guarded.keys["decide"]) == (413, False)


def bearer(server, role="decide"):
    return {"authorization": f"Bearer {server.keys[role]}"}


BODIES = {
    "lists in one another": (JSON, b"[" * 2_900_000),
    "objects in one another": (JSON, b'{"a":' * 580_000),
    "numbers": (JSON, b'{"items":[' + b"1e5," * 720_000 + b"1]}"),
    "a number": (JSON, b'{"text":' + b"9" * 2_900_000 + b"}"),
    "strings": (JSON, b'{"items":[' + b'"",' * 960_000 + b'""]}'),
    "strings side by side": (JSON, b'""' * 1_450_000),
    "ampersands": (FORM, b"&" * 2_900_000),
    "percent signs": (FORM, b"text=" + b"%41" * 960_000),
    "parts": (MULTIPART, b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 50_000),
    "heads of a part": (MULTIPART, b"--x\r\n" + b"a: b\r\n" * 480_000),
    "half boundaries": (MULTIPART, b"--x\r\n" + b"\r\n--" * 720_000),
    "semicolons": ("multipart/form-data; " + '";' * 6000, b"x"),
}


@pytest.mark.parametrize("body", BODIES)
def test_what_is_costly_to_parse_is_refused_to_those_who_have_a_key(guarded, body):
    kind, content = BODIES[body]
    for path in ("/v1/predict", "/v1/predict/batch", "/v1/moderations", "/v1alpha1/comments:analyze"):
        response = guarded.post(path, content=content, headers={**bearer(guarded), "content-type": kind})
        assert response.status_code in (400, 413, 415, 422), path


def test_many_commas_in_a_text_are_no_members(guarded):
    response = guarded.post(json={"text": "a,[{" * 60_000}, headers=bearer(guarded))
    assert response.status_code == 200 and response.json()["truncated"]


def test_packed_bodies_other_encodings_and_keys_twice_are_refused_in_plain_words(guarded):
    def ask(content, kind=JSON, path="/v1/predict", **more):
        headers = {**bearer(guarded), "content-type": kind, **more}
        response = guarded.post(path, content=content, headers=headers)
        return response.status_code, response.json()["error"]["message"] if response.status_code != 200 else ""

    def unsupported(path):
        return 400 if path.startswith("/v1alpha1/") else 415  # Perspective answers so

    for path in DOORS[:4]:
        status, message = ask(b"\x1f\x8b\x08", path=path, **{"content-encoding": "gzip"})
        assert status == unsupported(path) and "without Content-Encoding" in message
        status, message = ask(b'{"text": "a", "text": "b"}', path=path)
        assert status == 400 and "'text' stands there twice" in message
        assert ask(json.dumps({"text": "a"}).encode("utf-16"), path=path) == (
            400,
            "JSON comes in UTF-8; this is in another encoding",
        )
        assert ask(b'{"text": "a"}', "application/json; charset=utf-16", path)[0] == unsupported(path)
    assert ask(json.dumps({"text": "a"}).encode("utf-16-le"))[0] == 400
    assert ask(b'{"text": "caf\xe9"}')[0] == 400
    assert ask(b'\xef\xbb\xbf{"text": "a"}', "application/json; charset=UTF-8")[0] == 200
    assert ask(b"text=caf%E9", FORM)[0] == 400
    assert ask(b"text=caf%C3%A9", f"{FORM}; charset=utf-8")[0] == 200
    part = (
        b'--x\r\nContent-Disposition: form-data; name="text"\r\nContent-Type: text/plain; charset=%s\r\n\r\na\r\n--x--'
    )
    assert ask(part % b"utf-8", MULTIPART)[0] == 200 and ask(part % b"shift_jis", MULTIPART)[0] == 415
    assert ask((part % b"utf-8").removesuffix(b"--x--"), MULTIPART)[0] == 400  # cut short on the way


def test_a_plain_form_is_a_post(guarded):
    response = guarded.post(data={"text": "a quiet morning", "external_id": "7"}, headers=bearer(guarded))
    like = guarded.post(json={"text": "a quiet morning"}, headers=bearer(guarded))
    assert response.json()["probability"] == like.json()["probability"]


def test_health_is_told_in_a_head_alone_and_nothing_is_done_by_one(guarded):
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
        head, full = guarded.http.head(path), guarded.http.get(path)
        assert head.status_code == full.status_code == 200 and head.content == b""
        assert head.headers["content-type"] == full.headers["content-type"]
    assert guarded.http.head("/moderate/next").status_code == 405


def test_strangers_do_not_slow_down_who_has_a_key(guarded):
    """Not how quickly: that each is answered while three strangers send what takes long to parse."""
    stop, refused = threading.Event(), []

    def stranger(path, kind, content):
        with httpx.Client(base_url=guarded.url, timeout=30) as http:
            while not stop.is_set():
                refused.append(http.post(path, content=content, headers={"content-type": kind}).status_code)

    bodies = [("/v1/predict/batch", *BODIES["numbers"]), ("/moderate/login", *BODIES["ampersands"])]
    threads = [threading.Thread(target=stranger, args=bodies[i % 2]) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        answers = {guarded.post(json={"text": "words"}, headers=bearer(guarded)).status_code for _ in range(10)}
        until = time.monotonic() + 60
        while not {401, 413} <= set(refused) and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert answers == {200} and set(refused) == {401, 413}


def test_the_loop_parses_nothing_large():
    """What a body costs to read, as what is read of it: the parsers make nothing of what is refused."""
    from starlette.exceptions import HTTPException

    from bifocal.serve.api.bodies import MEMBERS, read_json

    with pytest.raises(HTTPException) as refused:
        read_json(b"[" + b"1," * (MEMBERS + 2) + b"not json at all")
    assert refused.value.status_code == 413  # from its signs: the parser would have said that it is no JSON
