"""The log behind real services: odd values, poisoned lines, a locked database, rates of every endpoint, two keys."""

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime

import httpx
import pytest

from bifocal.serve.api.keys import add_key, revoke_key, rotate_key
from bifocal.serve.log.decision_store import DecisionStore, read_secret
from bifocal.serve.log.records import LogEntry
from bifocal.serve.log.spool import Spool

POISONED = b'{"id": 3}\n'
ROW = {f.name: None for f in fields(LogEntry)} | {
    "client": "shop", "decision": {}, "action": "review", "pattern": "text", "run": "demo", "policy_version": "v1",
    "source": "model", "audit": False, "weight": 1.0, "at": datetime(2026, 3, 1, tzinfo=UTC),
}  # fmt: skip


def logged(number):
    return LogEntry(**{**ROW, "id": f"{number:032x}"})


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def own(serve, small_bundle, keys, tmp_path_factory):
    """A service on SQLite that begins with a spool in which one line is poisoned, and asks for keys."""
    state = tmp_path_factory.mktemp("state")
    spool = Spool(state)
    spool.append([logged(1), logged(2)])
    first, second = spool.path.read_bytes().splitlines(keepends=True)
    spool.path.write_bytes(first + POISONED + second)
    key = add_key(keys, "shop", ["decide"], None)
    server = serve(small_bundle, "--keys", keys, "--set", "deadline_s=2", "--set", "reload_s=0.2", state=state)
    server.http.headers["X-API-Key"] = key
    return server


def client(server, key):
    return httpx.Client(base_url=server.url, headers={"X-API-Key": key}, timeout=60)


def known(server, key):
    with client(server, key) as http:
        return http.get("/v1/policy").status_code == 200


def test_a_poisoned_line_is_set_aside_counted_and_told_and_the_others_come_home(own):
    until(lambda: "spooled" not in own.ready().json())
    assert own.ready().json() == {"ready": True, "reasons": [], "trouble": None, "set_aside": 1}
    assert "bifocal_set_aside 1.0" in own.http.get("/metrics").text
    assert "spool.refused.jsonl" in own.errors.read_text()
    assert (own.state / "spool.refused.jsonl").read_bytes() == POISONED
    store = DecisionStore(f"sqlite:///{own.state / 'decisions.sqlite'}", secret=read_secret(own.state))
    assert {logged(1).id, logged(2).id} <= {item.id for item in store.queue()}
    store.close()


def test_what_was_answered_with_try_again_is_not_in_the_log(own):
    path = own.state / "decisions.sqlite"

    def rows():
        with sqlite3.connect(path) as connection:
            return connection.execute("SELECT count(*) FROM decisions").fetchone()[0]

    before, other = rows(), sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # another program holds the lock
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda i: own.predict(f"post {i}").status_code, range(4)))
    other.execute("ROLLBACK")
    other.close()
    assert set(told) <= {503, 504}
    assert own.predict("after it").status_code == 200
    assert rows() == before + 1


def test_every_door_that_writes_counts_and_a_feedback_stands_once(own, keys):
    number = own.predict("the lantern waits").json()["id"]
    said = {"decision_id": number, "label": "1"}
    for reason in ("a", "b", "b"):
        assert own.post("/v1/feedback", json=said | {"reason": reason}).status_code == 200
    slow = add_key(keys, "slow", ["decide"], 3)
    until(lambda: known(own, slow))
    with client(own, slow) as http:
        mine = http.post("/v1/predict", json={"text": "a quiet morning"}).json()["id"]
        assert http.post("/v1/feedback", json={"decision_id": mine, "label": "1"}).status_code == 200
        forgotten = http.delete("/v1/subjects/nobody").json()
        assert forgotten["id"] is None and forgotten["deleted"]["decisions"] == 0
        refused = [
            http.post("/v1/feedback", json={"decision_id": mine, "label": "0"}),
            http.post("/v1/appeals", json={"decision_id": mine}),
            http.delete("/v1/subjects/nobody-else"),
            http.post("/v1/predict", json={"text": "another"}),
        ]
        assert [(r.status_code, r.json()["error"]["kind"]) for r in refused] == [(429, "rate_limited")] * 4
        assert all(int(r.headers["retry-after"]) >= 1 for r in refused)
    with sqlite3.connect(own.state / "decisions.sqlite") as connection:
        standing = connection.execute("SELECT reason FROM feedback WHERE decision_id = ?", [number]).fetchall()
        assert standing == [("b",)]
        assert connection.execute("SELECT count(*) FROM receipts").fetchone() == (0,)


def test_a_client_sees_its_own_with_either_key_and_is_never_without_one(own, keys):
    first = add_key(keys, "forum", ["decide"], None)
    until(lambda: known(own, first))
    with client(own, first) as http:
        number = http.post("/v1/predict", json={"text": "a quiet morning"}).json()["id"]
    second = rotate_key(keys, "forum")
    while not known(own, second):
        assert known(own, first)
    assert known(own, first)
    with client(own, second) as http:
        assert http.post("/v1/feedback", json={"decision_id": number, "label": "0"}).status_code == 200
    revoke_key(keys, "forum", old=True)
    until(lambda: not known(own, first))
    assert known(own, second)


def test_records_that_no_database_takes_cost_no_other_post_and_all_that_was_answered_is_logged(
    serve, records_run, cluster
):
    url = cluster.create("odd")
    options = "--set", "keep_originals=true", "--set", "database_gone=spool", "--set", "max_wait_ms=20"
    server = serve(records_run, "--database", url, *options)
    odd = ["NaN", "1e999", "-Infinity", "1" + "0" * 400, '"\\u0000"', '"\\ud800"', '"x\\udc00\\u0000y"']

    def post(i):
        price = odd[i // 4 % len(odd)] if i % 4 == 0 else "3"
        body = f'{{"text": "house {i}", "subject": "s", "tabular": {{"price": {price}, "room": "shared"}}}}'
        answer = server.http.post("/v1/predict", content=body, headers={"content-type": "application/json"})
        return i, answer.status_code, answer.json().get("id")

    def posts(start):
        with ThreadPoolExecutor(28) as pool:
            return list(pool.map(post, range(start, start + 28)))

    told = posts(0)
    cluster.stop()
    try:
        told += posts(28)
        assert server.ready().json()["spooled"] >= 21
    finally:
        cluster.start()
    assert {status for i, status, _ in told if i % 4} == {200}
    assert {status for _, status, _ in told} <= {200, 400, 422}
    until(lambda: server.ready().json() == {"ready": True, "reasons": [], "trouble": None})
    store = DecisionStore(url, secret=read_secret(server.state))
    for _, status, number in told:
        if status == 200:
            json.dumps(store.original(number).tabular, allow_nan=False, ensure_ascii=False).encode()
            assert store.decision(number).id == number
    store.close()
    assert server.stop() == 0
