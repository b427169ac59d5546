import asyncio
import csv
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

import bifocal
from bifocal.client import Client, ServerError
from bifocal.errors import ConfigError, DataError, RunError


@pytest.fixture(scope="module")
def client(server):
    with bifocal.Client(server.url, key="bf_ignored-on-loopback") as made:
        yield made


@pytest.fixture
def file(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(picture())
    return tmp_path / "a.png"


def test_a_client_is_answered_what_the_system_says(client, small_run, file):
    here = bifocal.load(small_run).predict("a quiet morning", file)
    there = client.predict(text="a quiet morning", image_path=file, subject="ann", external_id="p-1")
    assert there.probability == pytest.approx(here.probability, abs=1e-6)
    assert (there.action, there.label, there.why) == (here.action, here.label, here.why)
    assert there.to_dict()["models"].keys() == here.models.keys()
    assert client.policy()["version"] == here.versions["policy"]
    assert client.feedback(there.id, 1, "reported")["label"] == "1"
    assert client.forget("ann")["deleted"]["decisions"] == 1
    assert client.forget("an/odd name?#")["deleted"]["decisions"] == 0


def test_rows_are_answered_in_their_order_and_a_bad_one_harms_no_other(client, file, tmp_path):
    rows = [
        {"text": "a"},
        {"image_path": tmp_path / "none.png"},
        {"txt": "b"},
        {},
        {"image_path": file},
        {"text": "\ud800"},
    ]
    said = client.predict_batch(rows)
    assert [isinstance(s, DataError) for s in said] == [False, True, True, True, False, False]
    assert "there is no picture file" in str(said[1]) and "found also txt" in str(said[2])
    assert client.predict_batch([]) == []


def test_what_cannot_be_used_is_an_error_as_at_home(client, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no picture of an allowed format"):
        client.predict(image_path=tmp_path / "x.png")
    with pytest.raises(DataError, match="none was given"):
        client.predict()
    with pytest.raises(ServerError, match="there is no decision 'zzz'") as refused:
        client.feedback("zzz", 1)
    assert (refused.value.status, refused.value.kind) == (404, "not_found")


def test_many_at_once_by_coroutines(server, file):
    async def ask():
        async with bifocal.AsyncClient(server.url) as client:
            return await asyncio.gather(*(client.predict(f"post {i}", file) for i in range(20)))

    said = asyncio.run(ask())
    assert len({s.id for s in said}) == 20 and all(s.match is None for s in said)


class Busy(BaseHTTPRequestHandler):
    """Turns the first requests away."""

    answers: ClassVar[list] = []

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        blob = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_header("Content-Length", str(len(blob)))
        self.end_headers()
        self.wfile.write(blob)

    def log_message(self, *_):
        pass


@pytest.fixture
def busy():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


FULL = (429, {"error": {"kind": "overloaded", "message": "128 posts are waiting"}})
ANSWER = dict.fromkeys(("label", "threshold", "match")) | {
    "id": "1", "action": "allow", "probability": 0.1, "why": "", "truncated": False, "versions": {}
}  # fmt: skip


def test_a_busy_service_is_asked_again_after_the_time_it_names(busy, monkeypatch):
    waits = []
    monkeypatch.setattr("bifocal.client.time.sleep", waits.append)
    Busy.answers = [FULL, FULL, (200, ANSWER)]
    assert Client(busy).predict("words").action == "allow"
    assert len(waits) == 2 and all(wait >= 1 for wait in waits)


def test_patience_ends(busy, monkeypatch):
    waits = []
    monkeypatch.setattr("bifocal.client.time.sleep", waits.append)
    Busy.answers = [FULL]
    with pytest.raises(ServerError, match="128 posts are waiting") as refused:
        Client(busy, patience_s=5).predict("words")
    assert refused.value.status == 429 and sum(waits) == pytest.approx(5)


def test_what_is_no_service_is_told(busy):
    Busy.answers = [(200, b"<html>")]
    with pytest.raises(ServerError, match="not as a Bifocal service does"):
        Client(busy).predict("words")
    with pytest.raises(ServerError, match="no service answers at http://127.0.0.1:1") as refused:
        Client("http://127.0.0.1:1").predict("words")
    assert refused.value.kind == "unreachable"


def test_a_table_is_scored_by_a_service_as_at_home(server, small_run, file, tmp_path):
    from bifocal import __main__ as command

    (tmp_path / "in.csv").write_text("id,text,image_path\na,a quiet morning,a.png\nb,,none.png\nc,another,\n")
    for name, where in (("there", ["--server", server.url]), ("here", [])):
        places = [str(tmp_path / "in.csv")] if where else [str(small_run), str(tmp_path / "in.csv")]
        command.app(["score", *places, "-o", str(tmp_path / f"{name}.csv"), "-q", *where], standalone_mode=False)
    rows = {}
    for name in ("there", "here"):
        with open(tmp_path / f"{name}.csv", newline="") as f:
            rows[name] = list(csv.DictReader(f))
    for there, here in zip(rows["there"], rows["here"], strict=True):
        assert there["error"] == here["error"] and there["label"] == here["label"]
        if not here["error"]:
            assert float(there["prob_hate"]) == pytest.approx(float(here["prob_hate"]), abs=1e-6)


def test_one_asks_a_run_or_a_service(tmp_path):
    from bifocal import __main__ as command

    with pytest.raises(ConfigError, match="the forms are"):
        command.app(["score", "in.csv", "-o", "out.csv"], standalone_mode=False)
    with pytest.raises((ServerError, RunError)):
        command.app(["score", "in.csv", "-o", "out.csv", "--server", "http://127.0.0.1:1"], standalone_mode=False)
