"""A private PostgreSQL and real services, for all tests of one session that need them."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from PIL import Image

from bifocal.serve.api.keys import ROLES, add_key

PUBLIC = "https://mod.example/bifocal"
LONG_S = 300
"""How long a test waits for what has to come: ten times what the slowest machine needs, for no test measures time."""

PATIENT = ("--set", f"deadline_s={LONG_S}", "--set", f"decode_timeout_s={LONG_S}", "--set", f"model_timeout_s={LONG_S}")
"""Settings of a service for whose limits of time a busy machine is no reason."""


def wait_until(true, told=lambda: ""):
    """Wait for what has to come, however slow the machine is; ``told`` says what is there instead."""
    limit = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < limit, told()
        time.sleep(0.02)


@pytest.fixture(name="wait_until")
def _wait_until():
    return wait_until


class Cluster:
    """A PostgreSQL of its own, on a socket in a folder of its own; it can be stopped and started."""

    def __init__(self, folder: Path, binaries: Path):
        self.folder, self.binaries = folder, binaries
        folder.chmod(0o755)
        self.data = folder / "data"
        self.data.mkdir()
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(self.data, "postgres", "postgres")
            shutil.chown(folder, "postgres", "postgres")
        self.run("initdb", "--pgdata", self.data, "--auth", "trust", "--username", "tester", "--no-sync", "-E", "UTF8")

    def run(self, program, *arguments):
        command = [str(self.binaries / program), *map(str, arguments)]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=300, cwd=self.folder
        )

    def start(self):
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c max_connections=60"
        self.run("pg_ctl", "--pgdata", self.data, "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self, how="immediate"):
        self.run("pg_ctl", "--pgdata", self.data, "-m", how, "stop")

    def url(self, database):
        return f"postgresql+psycopg://tester@/{database}?host={self.folder}"

    def create(self, database):
        with psycopg.connect(f"host={self.folder} user=tester dbname=postgres", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)


@pytest.fixture(scope="session")
def cluster(service):
    binaries = Path(service("postgresql")).parent
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a short path: a socket's name has 107 characters at most
    made = Cluster(folder, binaries)
    made.start()
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'decisions.sqlite'}"
    return request.getfixturevalue("cluster").create("test")


class Server:
    """A real service, a process of its own."""

    def __init__(self, folder, state, *options):
        self.state = state
        self.options = [str(folder), "--state", str(state), "--port", "0", *map(str, options)]
        self.errors = Path(f"{state}.errors")
        self.start()

    def start(self):
        command = [sys.executable, "-m", "bifocal", "serve", *self.options]
        with open(self.errors, "ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        line = self.process.stdout.readline()
        if " at http" not in line:
            raise AssertionError(f"the service did not start: {line}{self.errors.read_text()[-2000:]}")
        self.url = line.split(" at ")[1].strip()
        self.http = httpx.Client(base_url=self.url, timeout=LONG_S)

    def post(self, path="/v1/predict", **content):
        return self.http.post(path, **content)

    def predict(self, text=None, image=None, **more):
        files = [("image", ("x", image, "application/octet-stream"))] if image is not None else []
        files += [(name, (None, value)) for name, value in ({"text": text} | more).items() if value is not None]
        return self.http.post("/v1/predict", files=files)

    def tree(self):
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def rss(self):
        return sum(p.memory_info().rss for p in self.tree())

    def named(self, name):
        """Its processes of one kind."""
        return [p for p in self.tree()[1:] if p.is_running() and p.name() == f"bifocal-{name}"]

    def model(self):
        """A process that holds the models."""
        return self.named("model")[0]

    def decoders(self):
        return self.named("decoder")

    def ready(self):
        return self.http.get("/v2/health/ready")

    def wait_ready(self):
        wait_until(lambda: self.ready().status_code == 200, self.ready)

    def metric(self, name):
        """What `/metrics` says of one figure, once it says something of it."""
        wait_until(lambda: f"\n{name} " in self.http.get("/metrics").text, lambda: f"no {name}")
        return float(self.http.get("/metrics").text.split(f"\n{name} ")[1].split("\n")[0])

    def stop(self, how=signal.SIGTERM, seconds=LONG_S):
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(seconds)
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """``serve(folder, *options)`` starts a service; all are ended with the file."""
    started = []

    def start(folder, *options, state=None):
        one = ("--set", "models=1")  # half the memory
        server = Server(folder, state or tmp_path_factory.mktemp("state"), *one, *PATIENT, *options)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def server(tmp_path_factory, small_bundle):
    """One service that many tests ask; none stops it, or leaves it busy."""
    limits = ("--set", "max_body=3000000", "--set", "body_timeout_s=4")
    started = Server(small_bundle, tmp_path_factory.mktemp("state"), *PATIENT, *limits)
    yield started
    started.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def guarded(tmp_path_factory, small_bundle):
    """A service with keys behind a public address, which many tests ask; none stops it, or leaves it busy."""
    state = tmp_path_factory.mktemp("state")
    keys = {role: add_key(state / "keys.json", role, [role], None) for role in ROLES}
    limits = ("max_body=3000000", "body_timeout_s=1", "models=1", f"public_url={PUBLIC}")
    started = Server(small_bundle, state, *(option for limit in limits for option in ("--set", limit)))
    started.keys = keys
    started.port = int(started.url.rpartition(":")[2])
    yield started
    started.stop(signal.SIGKILL)


def picture(colour="red", size=(60, 40), kind="PNG", **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(name="picture")
def _picture():
    return picture
