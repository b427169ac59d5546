"""What breaks by itself: processes, databases, disks and files, a kind each, around the real service process."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from bifocal.serve.log.decision_store import DecisionStore, read_secret

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def kind_of(response):
    return response.status_code, response.json()["error"]["kind"]


# ------------------------------------------------------------------------------------------- what lies in the folder


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


def evil_fusion(folder):
    import pickle

    path = folder / "models/mm_fusion/fusion_model.pt"
    path.write_bytes(pickle.dumps(Evil()))
    card = folder / "models/mm_fusion/config.json"
    import hashlib

    settings = json.loads(card.read_text())
    card.write_text(json.dumps(settings | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))


def cut_weights(folder):
    path = folder / "models/text_expert/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def flipped_weights(folder):
    path = folder / "models/vision_expert/model.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-5000] ^= 4
    path.write_bytes(blob)


def policy_of_another(folder):
    path = next(folder.glob("policy_*.json"))
    from bifocal.decide.policy import Policy

    Policy.load(path).model_copy(update={"run": "another", "versions": {"run": "another"}}).save(path)


@pytest.mark.parametrize(
    "damage", [evil_fusion, pytest.param(cut_weights, marks=pytest.mark.slow), flipped_weights, policy_of_another]
)
def test_damaged_models_are_refused_at_the_start_and_nothing_is_executed(small_run, tmp_path, damage, command):
    folder = shutil.copytree(small_run, tmp_path / "run")
    damage(folder)
    done = command("serve", folder, "--state", tmp_path / "state", "--port", "0", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.rglob("owned"))


# ------------------------------------------------------------------------------------------------ load and deaths


def alive(server):
    return httpx.get(server.url + "/v2/health/live", timeout=300).status_code == 200


def test_a_burst_of_three_times_what_it_can_is_turned_away_in_part_and_the_rest_answered(
    serve, small_bundle, request, wait_until
):
    server = serve(small_bundle, "--set", "waiting=8")
    whole = "not slow" not in request.config.getoption("-m")
    statuses, done = [], threading.Event()

    def client(i):
        with httpx.Client(base_url=server.url, timeout=300) as http:
            while not done.is_set():
                response = http.post("/v1/predict", json={"text": f"post of {i}"})
                statuses.append(response.status_code)
                if response.status_code == 429:
                    assert int(response.headers["retry-after"]) >= 1
                    time.sleep(0.01)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    answers, most = (3_000, 300) if whole else (200, 20)
    try:
        wait_until(lambda: statuses.count(200) > answers and statuses.count(429) > most and alive(server))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200, 429}
    assert server.predict("after it").status_code == 200
    assert server.stop() == 0


@pytest.fixture(scope="module")
def sturdy(serve, small_bundle):
    """One service whose processes are killed."""
    return serve(small_bundle, "--set", "waiting=32")


def deaths(server, what):
    return server.metric(f'bifocal_process_deaths{{what="{what}"}}')


def busy(server, pool, blob, n=24):
    return [pool.submit(server.predict, f"post {i}", blob if i % 2 else None) for i in range(n)]


@pytest.mark.parametrize("whom", ["model", "decoder"])
def test_a_process_that_is_killed_amid_its_work_is_started_anew_and_others_do_not_notice(
    sturdy, picture, wait_until, whom
):
    before = deaths(sturdy, whom)
    with ThreadPoolExecutor(8) as pool:
        futures = busy(sturdy, pool, picture(size=(320, 240)))
        time.sleep(0.2)
        victim = sturdy.model() if whom == "model" else sturdy.decoders()[0]
        victim.kill()
        assert [f.result().status_code for f in futures] == [200] * len(futures)
    sturdy.wait_ready()
    assert sturdy.predict("after it").status_code == 200
    wait_until(lambda: deaths(sturdy, whom) == before + 1)


def test_while_the_models_are_away_the_service_says_so(sturdy, wait_until):
    os.kill(sturdy.model().pid, signal.SIGKILL)
    seen: set[int] = set()
    answer = ThreadPoolExecutor(1).submit(sturdy.predict, "in between")
    wait_until(lambda: seen.add(sturdy.ready().status_code) or {503, 200} <= seen)
    assert seen == {503, 200} and answer.result().status_code == 200
    sturdy.wait_ready()


def test_where_what_is_on_disk_is_refused_the_processes_that_have_the_old_one_go_on(
    serve, small_run, tmp_path, wait_until
):
    folder = shutil.copytree(small_run, tmp_path / "run")
    server = serve(folder, "--set", "models=2", "--set", "reload_s=0.2")
    policy = next(folder.glob("policy_*.json"))
    sound = policy.read_text()
    policy.write_text("{}")
    wait_until(lambda: server.ready().json()["trouble"])
    one, other = server.named("model")
    one.kill()
    assert [server.predict(f"post {i}").status_code for i in range(20)] == [200] * 20
    assert server.ready().json()["ready"]
    other.kill()
    told = server.predict("nobody is left")
    assert (told.status_code, told.json()["error"]["kind"]) == (503, "unavailable")
    policy.write_text(sound)
    server.wait_ready()
    assert server.predict("all is well").status_code == 200


def test_who_goes_away_is_not_computed_for(sturdy, wait_until):
    body = b'{"text": "nobody waits for this"}'
    request = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    host, port = sturdy.url.removeprefix("http://").split(":")
    for _ in range(80):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(request)
    wait_until(lambda: sturdy.metric("bifocal_posts_in_house") == 0)
    assert sturdy.predict("somebody waits for this").status_code == 200


# ----------------------------------------------------------------------------------------------------- the log


def logged_ids(url, state):
    store = DecisionStore(url, secret=read_secret(state))
    found = [item.decision.id for item in store.queue(limit=100_000)]
    store.close()
    return found


@pytest.mark.parametrize("way", [pytest.param("refuse", marks=pytest.mark.slow), "spool"])
def test_a_database_that_is_away_loses_and_doubles_no_decision(serve, small_bundle, cluster, tmp_path, wait_until, way):
    url = cluster.create(f"away_{way}")
    options = ("--database", url, "--set", f"database_gone={way}", "--set", "audit_share=1")
    policy = shutil.copytree(small_bundle, tmp_path / "run")
    from bifocal.deploy.policies import set_threshold

    set_threshold(policy, None, 1.0, by="ann", why="all are allowed, and so audited")
    server = serve(policy, *options, state=tmp_path / "state")
    answered, refused = [server.predict("before").json()["id"]], 0
    cluster.stop()
    try:
        for i in range(5):
            response = server.predict(f"while it is away {i}")
            if response.status_code == 200:
                answered.append(response.json()["id"])
            else:
                assert kind_of(response) == (503, "unavailable")
                refused += 1
        said = server.post("/v1/feedback", json={"decision_id": answered[0], "label": "1"})
        assert kind_of(said) == (503, "unavailable")
        assert cluster.folder.name not in said.text and cluster.folder.name in server.errors.read_text()
        if way == "refuse":
            assert refused == 5 and server.ready().status_code == 503
        else:
            assert refused == 0 and server.ready().status_code == 200
            assert "bifocal_spooled 5.0" in server.http.get("/metrics").text
            server.process.kill()  # and the service dies too
            server.process.wait()
    finally:
        cluster.start()
    if way == "spool":
        server.start()
    server.wait_ready()
    answered.append(server.predict("after").json()["id"])
    wait_until(lambda: server.metric("bifocal_spooled") == 0)
    assert sorted(logged_ids(url, tmp_path / "state")) == sorted(answered)
    assert server.stop() == 0


def test_a_full_disk_is_told_and_leaves_no_half_record(serve, small_bundle, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        server = serve(small_bundle, "--set", "keep_originals=true", state=small)
        noise = np.random.default_rng(0).integers(0, 256, (384, 384, 3), dtype=np.uint8)
        buffer, answered, statuses = io.BytesIO(), [], []
        Image.fromarray(noise).save(buffer, "PNG")
        for _ in range(12):
            response = server.predict("words", buffer.getvalue())
            statuses.append(response.status_code)
            if response.status_code == 200:
                answered.append(response.json()["id"])
        assert set(statuses) == {200, 507}
        assert server.http.get("/v2/health/live").status_code == 200
        server.stop(signal.SIGKILL)
        store = DecisionStore(f"sqlite:///{small}/decisions.sqlite", secret=read_secret(small))
        for number in answered:
            assert store.original(number).picture and store.history(number)[0].kind == "decided"
        with store.engine.connect() as connection:
            (n,) = connection.exec_driver_sql("SELECT count(*) FROM decisions").one()
        store.close()
        assert n == len(answered)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_killed_under_load_every_answered_decision_is_in_the_log(serve, small_bundle, tmp_path, wait_until):
    server = serve(small_bundle, state=tmp_path / "state")
    answered = []

    def client(i):
        try:
            with httpx.Client(base_url=server.url, timeout=300) as http:
                while True:
                    response = http.post("/v1/predict", json={"text": f"post of {i}"})
                    answered.append(response.json()["id"])
        except httpx.TransportError:
            pass

    threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) > 20)
    children = server.tree()[1:]
    server.process.kill()
    server.process.wait()
    for thread in threads:
        thread.join()
    _, alive = psutil.wait_procs(children, timeout=300)
    assert alive == []
    server.start()
    store = DecisionStore(f"sqlite:///{tmp_path}/state/decisions.sqlite", secret=read_secret(tmp_path / "state"))
    assert all(store.decision(number) for number in answered)
    store.close()
    assert server.stop() == 0
