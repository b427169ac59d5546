import asyncio
import csv
import json
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import bifocal
from bifocal.client import Client, Remote, ServerError
from bifocal.errors import ConfigError, DataError, RunError
from bifocal.system.score import score_file
from bifocal.workspace import read_jsonl


@pytest.fixture(scope="module")
def client(server):
    with bifocal.Client(server.url, key="bf_ignored-on-loopback") as made:
        yield made


@pytest.fixture
def file(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(picture())
    return tmp_path / "a.png"


def test_a_client_is_answered_what_the_system_says(client, small_bundle, file):
    here = bifocal.load(small_bundle).predict("a quiet morning", file)
    there = client.predict(text="a quiet morning", image_path=file, subject="ann", external_id="p-1")
    assert there.probability == pytest.approx(here.probability, abs=1e-6)
    assert (there.action, there.label, there.why) == (here.action, here.label, here.why)
    assert there.to_dict()["models"].keys() == here.models.keys()
    assert client.policy()["version"] == here.versions["policy"]
    assert client.feedback(there.id, 1, "reported")["label"] == "1"
    assert client.forget("ann")["deleted"]["decisions"] == 1
    assert client.forget("an/odd name?#")["deleted"]["decisions"] == 0


@pytest.mark.parametrize("author", [".", "..", "a/../b", "a.b", "a\ud800"])
def test_an_author_of_any_name_can_be_forgotten(client, author):
    client.predict("words", subject=author)
    assert client.forget(author)["deleted"]["decisions"] == 1


def test_a_decision_can_be_appealed(client):
    said = client.appeal(client.predict("words").id, "it is satire")
    assert said["state"] == "open"
    with pytest.raises(ServerError, match="there is no decision 'zzz'"):
        client.appeal("zzz")


@pytest.mark.parametrize("url", ["127.0.0.1:8731", "localhost:8731", "ftp://host", "http://", "http://host:port", ""])
def test_an_address_that_is_none_is_told(url):
    with pytest.raises(ConfigError, match=f"is http:// or https:// with a host, .* found '{url}'"):
        Client(url)


def noise(path, side):
    """A picture that no format makes smaller than its pixels: 3 * side ** 2 bytes."""
    Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return {"image_path": path}


def test_photos_that_pass_the_limit_of_a_request_go_in_several(client, tmp_path):
    """The service takes 3 MB: one of these photos fits, three do not, and the large one never does."""
    rows = [noise(tmp_path / f"{side}.png", side) for side in (600, 601, 900, 602)]
    said = client.predict_batch([{"text": "first"}, *rows])
    assert [isinstance(s, DataError) for s in said] == [False, False, False, True, False]
    assert "a request has 3,000,000 bytes at most" in str(said[3]) and "picture or text smaller" in str(said[3])
    assert [s.to_dict()["present"]["text"] for s in said if not isinstance(s, DataError)] == [True, False, False, False]


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
    """Gives the answers it is told, the last one for ever; one may be a function of the body."""

    answers: ClassVar[list] = []

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        status, body = answer(sent) if callable(answer) else answer
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


@pytest.fixture
def narrow(busy, monkeypatch):
    """A service that takes so many posts and bytes at most; gives the client, and the posts of each request."""
    monkeypatch.setattr("bifocal.client.time.sleep", lambda _: pytest.fail("there is nothing to wait for"))
    asked = []

    def start(most, size):
        def answer(sent):
            items = json.loads(sent)["items"]
            asked.append(len(items))
            if len(items) > most or len(sent) > size:
                return 413, {"error": {"kind": "too_large", "message": f"{most} posts a minute"}}
            return 200, {"results": [ANSWER | {"id": item["text"]} for item in items]}

        Busy.answers = [answer]
        return Client(busy), asked

    return start


def test_more_posts_than_a_service_takes_are_halved_until_it_takes_them(narrow):
    client, asked = narrow(5, 10**6)
    assert [said.id for said in client.predict_batch([{"text": str(i)} for i in range(8)])] == list("01234567")
    assert asked == [8, 4, 4]


def test_a_post_that_is_too_large_alone_harms_no_other(narrow):
    client, _ = narrow(64, 2000)
    rows = [{"text": str(i)} for i in range(7)] + [{"text": "x" * 3000}, {"txt": "odd"}, {"text": "9"}]
    said = client.predict_batch(rows)
    assert [s.id if not isinstance(s, DataError) else None for s in said] == [*"0123456", None, None, "9"]
    assert "the post is too large" in str(said[7]) and "found also txt" in str(said[8])


def test_many_posts_go_by_64_and_large_ones_by_their_bytes(narrow, monkeypatch):
    client, asked = narrow(64, 10**6)
    assert [said.id for said in client.predict_batch([{"text": str(i)} for i in range(100)])] == [*map(str, range(100))]
    assert asked == [64, 36]
    asked.clear()
    monkeypatch.setattr("bifocal.client.MOST_BYTES", 1000)
    texts = [str(i) * size for i, size in enumerate((400, 400, 400, 3000, 1))]
    assert [said.id for said in client.predict_batch([{"text": text} for text in texts])] == texts
    assert asked == [2, 1, 1, 1]


def test_any_other_refusal_is_of_the_whole_call(busy):
    Busy.answers = [(403, {"error": {"kind": "forbidden", "message": "not for decide"}})]
    with pytest.raises(ServerError, match="not for decide"):
        Client(busy).predict_batch([{"text": "a"}, {"text": "b"}])


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


def test_a_table_is_scored_by_a_service_as_at_home(server, small_bundle, file, tmp_path):
    from bifocal.cli import app as command

    (tmp_path / "in.csv").write_text("id,text,image_path\na,a quiet morning,a.png\nb,,none.png\nc,another,\n")
    for name, where in (("there", ["--server", server.url]), ("here", [])):
        places = [str(tmp_path / "in.csv")] if where else [str(small_bundle), str(tmp_path / "in.csv")]
        with pytest.raises(DataError, match="over 5% could not be decided: 1 of 3 rows"):  # and the table is whole
            command.app(["score", *places, "-o", str(tmp_path / f"{name}.csv"), "-q", *where], standalone_mode=False)
    rows = {}
    for name in ("there", "here"):
        with open(tmp_path / f"{name}.csv", newline="") as f:
            rows[name] = list(csv.DictReader(f))
    for there, here in zip(rows["there"], rows["here"], strict=True):
        assert there["id"] == here["id"] and bool(there["decision_id"]) == (not there["error"])
        assert there["error"] == here["error"] and there["label"] == here["label"]
        if not here["error"]:
            assert float(there["prob_hate"]) == pytest.approx(float(here["prob_hate"]), abs=1e-6)


def logged(server, decision):
    with closing(sqlite3.connect(server.state / "decisions.sqlite")) as database:
        return database.execute("SELECT external_id FROM decisions WHERE id = ?", [decision]).fetchone()[0]


@pytest.mark.parametrize("own", [False, True])
def test_a_service_is_told_whose_the_rows_are_and_which(server, client, tmp_path, own):
    rows = [
        {"id": "r1", "text": "one", "subject": 17, "external_id": "p1"},
        {"id": "r" * 201, "text": "two", "subject": 17.0, "external_id": ""},
        {"text": "three", "subject": "17"},
        {"id": "r4", "text": "four", "subject": "x" * 201},
        {"id": "r5", "text": "five", "subject": ["17"]},
    ]
    if not own:
        rows = [{name: cell for name, cell in row.items() if name != "external_id"} for row in rows]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts = score_file(Remote(client), tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (counts["failed"], counts["unread"]) == (2, [])
    said = list(read_jsonl(tmp_path / "out.jsonl"))
    assert [row["id"] for row in said] == ["r1", "r" * 201, "2", "r4", "r5"]
    named = [logged(server, row["decision_id"]) for row in said[:3]]
    assert named == (["p1", None, None] if own else ["r1", None, None])
    assert "200" in said[3]["error"] and "column 'subject' holds a list" in said[4]["error"]
    assert client.forget("17")["deleted"]["decisions"] == 3


def test_one_asks_a_run_or_a_service(tmp_path):
    from bifocal.cli import app as command

    with pytest.raises(ConfigError, match="the forms are"):
        command.app(["score", "in.csv", "-o", "out.csv"], standalone_mode=False)
    with pytest.raises((ServerError, RunError)):
        command.app(["score", "in.csv", "-o", "out.csv", "--server", "http://127.0.0.1:1"], standalone_mode=False)
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:8080; found '127\.0\.0\.1:8731'"):
        command.app(["score", "in.csv", "-o", "out.csv", "--server", "127.0.0.1:8731"], standalone_mode=False)
