import base64
import json
import signal
import socket
import time

import httpx
import pytest

import bifocal
from bifocal.serve.server import listen


@pytest.fixture(scope="module")
def system(small_bundle):
    return bifocal.load(small_bundle)


def test_the_service_says_what_the_system_says(server, system, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    here = system.predict("a quiet morning", tmp_path / "a.png")
    by_form = server.predict("a quiet morning", picture())
    body = {"text": "a quiet morning", "image": base64.b64encode(picture()).decode()}
    by_json = server.post(json=body)
    for response in (by_form, by_json):
        told = response.json()
        assert response.status_code == 200
        assert told["probability"] == pytest.approx(here.probability, abs=1e-6)
        assert (told["label"], told["action"], told["why"]) == (here.label, here.action, here.why)
        assert told["versions"] == {**here.versions, "bifocal": bifocal.__version__}
        assert (told["source"], told["match"], told["truncated"]) == ("model", None, False)
    assert by_form.json()["id"] != by_json.json()["id"] and len(by_form.json()["id"]) == 32


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        ({"json": {}}, 422, "a post needs text or image"),
        ({"json": {"text": None}}, 422, "none was given"),
        ({"json": {"text": 3}}, 422, "text: Input should be a valid string"),
        ({"json": {"txt": "words"}}, 422, "txt is no field here: the fields are text, image"),
        ({"json": ["words"]}, 422, "the body"),
        ({"json": {"text": "w", "tabular": {"price": 3}}}, 422, "leave tabular out"),
        ({"json": {"image": "no base64!"}}, 422, "image must be a picture file in base64"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "not valid JSON"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "not valid JSON"),
        ({"content": b"words"}, 415, "multipart/form-data, found ''"),
        ({"content": b"words", "headers": {"content-type": "text/plain"}}, 415, "found 'text/plain'"),
        ({"files": [("txt", (None, "words"))]}, 422, "a post has the fields"),
        ({"files": [("text", (None, "a")), ("text", (None, "b"))]}, 422, "text stands there twice"),
        ({"files": [("text", ("name", b"a"))]}, 422, "text comes as plain text"),
        ({"files": [("image", (None, "a"))]}, 422, "image comes as a file"),
        ({"files": [("tabular", (None, "{"))]}, 422, "tabular must be a JSON object"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, "the form cannot be read"),
        ({"json": {"text": "w", "subject": "s" * 201}}, 422, "subject: String should have at most 200"),
    ],
)
def test_what_cannot_be_read_is_told(server, given, status, told):
    response = server.post(**given)
    assert response.status_code == status and told in response.json()["error"]["message"]


def test_a_bad_item_fails_no_other(server, picture):
    items = [
        {"text": "a quiet morning"},
        {"image": base64.b64encode(b"no picture").decode()},
        {},
        {"txt": "words"},
        {"image": base64.b64encode(picture()).decode()},
    ]
    results = server.post("/v1/predict/batch", json={"items": items}).json()["results"]
    assert ["error" in r for r in results] == [False, True, True, True, False]
    alone = server.predict("a quiet morning").json()["probability"]
    assert results[0]["probability"] == pytest.approx(alone, abs=1e-6)
    assert [r["error"]["kind"] for r in results[1:4]] == ["unusable"] * 3
    assert server.post("/v1/predict/batch", json={"items": []}).status_code == 422
    assert server.post("/v1/predict/batch", json={"items": [{}] * 65}).status_code == 413


def test_the_policy_is_told(server, system):
    told = server.http.get("/v1/policy").json()
    assert told["version"] == system.policy_version and told["models"].keys() == system.policy.models.keys()
    assert (told["reads"], told["engine"], told["model"]) == (["image", "text"], "onnx", "mm_fusion")


def test_feedback_appeal_and_forgetting(server):
    told = server.predict("a quiet morning", subject="author-of-this-test", external_id="post-1").json()
    feedback = {"decision_id": told["id"], "label": 1, "reason": "reported"}
    assert server.post("/v1/feedback", json=feedback).json() == {
        "decision_id": told["id"],
        "label": "1",
        "client": "local",
    }
    assert server.post("/v1/feedback", json=feedback | {"label": "rude"}).status_code == 422
    assert server.post("/v1/feedback", json=feedback | {"decision_id": "zzz"}).status_code == 404
    appeal = {"decision_id": told["id"], "reason": "satire"}
    assert server.post("/v1/appeals", json=appeal).json() == {"decision_id": told["id"], "state": "open"}
    assert server.post("/v1/appeals", json=appeal).status_code == 409
    receipt = server.http.delete("/v1/subjects/author-of-this-test").json()
    assert receipt["deleted"]["decisions"] == 1 and receipt["deleted"]["feedback"] == 1
    assert server.post("/v1/feedback", json=feedback).status_code == 404
    assert server.http.delete("/v1/subjects/author-of-this-test").json()["deleted"]["decisions"] == 0
    assert server.http.delete("/v1/subjects/").status_code == 422
    server.predict("a quiet morning", subject="an author/of two\nlines")
    assert server.http.delete("/v1/subjects/an%20author/of%20two%0Alines").json()["deleted"]["decisions"] == 1


def test_health_and_metrics(server):
    assert server.http.get("/v2/health/live").json() == {"live": True}
    assert server.ready().json() == {"ready": True, "reasons": [], "trouble": None}
    server.predict("a quiet morning")
    server.post(json={})
    lines = server.http.get("/metrics").text.splitlines()
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    assert found['bifocal_requests_total{door="/v1/predict",status="200"}'] >= 1
    assert found['bifocal_requests_total{door="/v1/predict",status="422"}'] >= 1
    assert found['bifocal_parts_total{pattern="text"}'] >= 1 and found['bifocal_errors_total{kind="unusable"}'] >= 1
    assert found["bifocal_probability_count"] >= 1 and found["bifocal_batch_size_count"] >= 1
    assert found["bifocal_ready"] == 1 and found["bifocal_posts_in_house"] == 0
    assert "quiet" not in "".join(lines)


def test_what_is_not_there_and_what_is_not_done_that_way(server):
    assert server.http.get("/nothing").json()["error"]["kind"] == "not_found"
    assert server.http.get("/v1/predict").status_code == 405
    assert server.http.get("/docs").status_code == 404  # its page loads scripts from elsewhere


def test_no_other_page_may_ask_from_a_browser(server):
    response = server.http.options(
        "/v1/predict", headers={"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    )
    assert "access-control-allow-origin" not in response.headers


def test_the_document_has_every_door_and_examples(server):
    document = server.http.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/predict/batch", "/v1/feedback", "/v1/moderations", "/metrics"} <= document[
        "paths"
    ].keys()
    predict = document["paths"]["/v1/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {
        "application/json",
        "multipart/form-data",
        "application/x-www-form-urlencoded",
    }
    assert {"200", "401", "413", "422", "429", "503", "504", "507"} <= predict["responses"].keys()
    assert predict["responses"]["200"]["content"]["application/json"]["example"]["action"] == "review"
    assert predict["requestBody"]["content"]["application/json"]["schema"]["properties"]["image"]["format"] == "byte"


def test_a_key_is_needed_elsewhere_and_roles_hold(serve, small_bundle, tmp_path, wait_until):
    from bifocal.serve.api.keys import add_key, revoke_key

    keys = tmp_path / "keys.json"
    shop, forum, chief = (
        add_key(keys, name, [role], None)
        for name, role in (("shop", "decide"), ("forum", "decide"), ("chief", "admin"))
    )
    server = serve(small_bundle, "--keys", keys, "--set", "reload_s=0.2")

    def ask(method, path, key, **content):
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return server.http.request(method, path, headers=headers, **content)

    words = {"json": {"text": "a quiet morning", "subject": "ann"}}
    for key, status in ((None, 401), ("bf_wrong", 401), (shop, 200)):
        assert ask("POST", "/v1/predict", key, **words).status_code == status
    assert server.post(headers={"x-api-key": shop}, **words).status_code == 200
    number = ask("POST", "/v1/predict", shop, **words).json()["id"]
    said = {"json": {"decision_id": number, "label": 1}}
    assert ask("POST", "/v1/feedback", forum, **said).status_code == 404  # that it exists is none of theirs
    assert ask("POST", "/v1/feedback", shop, **said).status_code == 200
    assert ask("POST", "/v1/feedback", chief, **said).status_code == 200
    assert ask("DELETE", "/v1/subjects/ann", forum).json()["deleted"]["decisions"] == 0
    assert ask("DELETE", "/v1/subjects/ann", chief).json()["deleted"]["decisions"] == 3
    assert server.http.get("/v2/health/ready").status_code == 200 and server.http.get("/metrics").status_code == 200
    revoke_key(keys, "shop")
    wait_until(lambda: ask("POST", "/v1/predict", shop, **words).status_code != 200)
    assert "was revoked on" in ask("POST", "/v1/predict", shop, **words).json()["error"]["message"]

    def trouble():
        return server.ready().json()["trouble"]

    aside = keys.rename(tmp_path / "aside")  # a file that is gone, or cannot be read, opens nothing and ends nothing
    wait_until(lambda: trouble() == "the new keys are refused, the old ones serve")  # no path: anybody may ask for it
    assert "is gone: put it back" in server.errors.read_text()
    assert ask("POST", "/v1/predict", None, **words).status_code == 401
    keys.mkdir()
    wait_until(lambda: "cannot be read" in server.errors.read_text())
    keys.rmdir()
    aside.rename(keys)
    wait_until(lambda: trouble() is None)
    ada = add_key(keys, "ada", ["review"], None)
    wait_until(lambda: server.post("/moderate/login", data={"key": ada}).status_code == 303)
    assert server.http.get("/moderate/queue").status_code == 200
    revoke_key(keys, "ada")
    add_key(keys, "ada", ["review"], None)
    wait_until(lambda: server.http.get("/moderate/queue").status_code == 303)  # the key is another: so is she
    assert server.ready().json()["ready"] and server.stop() == 0
    assert "the new keys are refused" in server.errors.read_text()


def test_an_address_that_others_reach_needs_keys(small_run, tmp_path, capsys):
    import subprocess
    import sys

    command = [sys.executable, "-m", "bifocal", "serve", str(small_run), "--state", str(tmp_path), "--host", "0.0.0.0"]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "holds no API key: make one" in done.stderr and done.stderr.count("\n") == 1


def test_mistakes_at_the_start_are_told_in_a_line(small_run, tmp_path, server):
    import subprocess
    import sys

    def said(*options):
        command = [sys.executable, "-m", "bifocal", "serve", *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "is not a run folder" in said(tmp_path)
    assert "did you mean 'max_body'" in said(small_run, "--set", "max_bdy=3")
    port = server.url.rpartition(":")[2]
    assert "cannot be listened on" in said(small_run, "--state", tmp_path / "s", "--port", port)
    assert "there is no list" in said(small_run, "--state", tmp_path / "s", "--set", "lists=[{path: none.csv}]")


def test_told_to_end_it_is_not_ready_ends_what_it_has_begun_and_exits_0(serve, small_bundle, wait_until):
    from concurrent.futures import ThreadPoolExecutor

    server = serve(small_bundle, "--set", "drain_s=5")
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(server.predict, f"post number {i}") for i in range(40)]
        time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.ready().status_code == 503)
        ready = server.ready()
        assert ready.status_code == 503 and ready.json()["reasons"] == ["the service is closing"]
        assert [f.result().status_code for f in futures] == [200] * 40
    assert server.process.wait(300) == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(server.url + "/v2/health/live", timeout=2)


def test_a_new_policy_is_taken_up_and_a_bad_one_refused(serve, small_run, tmp_path, wait_until):
    import shutil

    from bifocal.deploy.policies import set_threshold

    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    server = serve(folder, "--set", "reload_s=0.2")
    before = server.predict("a quiet morning").json()
    policy = next(folder.glob("policy_*.json"))
    sound = policy.read_text()
    policy.write_text(json.dumps(json.loads(sound) | {"run": "another"}))

    def wait(true):
        wait_until(lambda: server.predict("a quiet morning").status_code == 200 and true())

    wait_until(lambda: server.ready().json()["trouble"] is not None)
    assert "the new models are refused, the old ones serve" in server.ready().json()["trouble"]
    assert server.predict("a quiet morning").json()["versions"] == before["versions"]
    policy.write_text(sound)
    changed = set_threshold(folder, None, 0.99, by="ann", why="a test")
    wait_until(lambda: server.predict("a quiet morning").json()["versions"]["policy"] == changed["policy"])
    assert server.predict("a quiet morning").json()["threshold"] == 0.99
    assert server.ready().json()["trouble"] is None


def test_a_known_picture_is_decided_before_the_model(serve, small_bundle, tmp_path, picture):
    import numpy as np
    from PIL import Image

    from bifocal.serve.known_pictures import write_list

    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((300, 200), Image.Resampling.BICUBIC).save(tmp_path / "known.png")
    write_list([tmp_path / "known.png"], tmp_path / "bad.csv")
    server = serve(small_bundle, "--set", f"lists=[{{path: {tmp_path}/bad.csv, action: block, distance: 8}}]")
    told = server.predict("a quiet morning", (tmp_path / "known.png").read_bytes()).json()
    assert (told["action"], told["source"], told["probability"]) == ("block", "list", None)
    assert told["match"] == {"list": "bad", "entry": "known.png", "distance": 0, "action": "block"}
    assert told["why"] == "the picture is known: it is entry known.png of the list bad, exactly"
    assert server.predict(None, picture()).json()["source"] == "model"


def test_a_shadow_scores_and_decides_nothing(serve, small_bundle, tmp_path):
    import shutil

    from bifocal.deploy.policies import set_threshold
    from bifocal.serve.log.decision_store import DecisionStore, read_secret

    other = tmp_path / "shadow"
    shutil.copytree(small_bundle, other)
    set_threshold(other, None, 1.0, by="ann", why="a shadow that allows all")
    folder = shutil.copytree(small_bundle, tmp_path / "bundle")
    set_threshold(folder, None, 0.0, by="ann", why="blocks all")
    server = serve(folder, "--shadow", other, state=tmp_path / "state")
    told = server.predict("a quiet morning").json()
    assert told["action"] == "block" and "shadow" not in told
    assert "bifocal_shadow_disagreements_total 1.0" in server.http.get("/metrics").text
    store = DecisionStore(f"sqlite:///{tmp_path}/state/decisions.sqlite", secret=read_secret(tmp_path / "state"))
    (kept,) = store.disagreements()
    assert kept.id == told["id"] and kept.shadow["action"] == "allow"


@pytest.mark.slow
def test_a_shadow_that_reads_posts_otherwise_is_refused(small_run, records_run, tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-m", "bifocal", "serve", str(small_run), "--state", str(tmp_path), "--port", "0"]
    done = subprocess.run([*command, "--shadow", str(records_run)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "these must be the same" in done.stderr


def test_no_answer_waits_for_the_acknowledgement_of_its_head():
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_after_what_was_not_foreseen_the_connection_closes_and_says_so():
    import asyncio
    from unittest.mock import MagicMock

    from starlette.requests import Request

    from bifocal.serve.app import _unforeseen

    asked = Request({"type": "http", "path": "/v2/predict", "headers": [], "app": MagicMock()})
    answer = asyncio.run(_unforeseen(asked, ValueError("a secret")))
    assert answer.status_code == 500 and answer.headers["connection"] == "close" and b"secret" not in answer.body


def test_what_failed_within_is_told_on_stderr_alone(caplog):
    from bifocal.errors import DataError, ModelError
    from bifocal.serve.api.routes import to_refused
    from bifocal.serve.errors import WITHIN, Refused
    from bifocal.serve.log.records import StoreFull, StoreGone

    secret = "db.example, user ann, /var/lib/bifocal"
    for error, kind in (
        (StoreGone(secret), "unavailable"),
        (StoreFull(secret), "storage_full"),
        (ModelError(secret), "internal"),
        (Refused("unavailable", secret, retry_after=5.0), "unavailable"),
    ):
        caplog.clear()
        refused = to_refused(error)
        assert (refused.kind, str(refused)) == (kind, WITHIN[kind]) and secret in caplog.text
        assert refused.retry_after == getattr(error, "retry_after", None)
    assert str(to_refused(DataError("no picture"))) == "no picture"  # of the post, not of us
