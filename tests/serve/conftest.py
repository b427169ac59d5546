"""A private PostgreSQL, for all tests of one session that need it."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

SKIP = "BIFOCAL_SKIP_POSTGRES"


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
            command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=60, cwd=self.folder
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
def cluster():
    if os.environ.get(SKIP) == "1":
        pytest.skip(f"{SKIP}=1: not tested with PostgreSQL")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.fail(
            f"no PostgreSQL under /usr/lib/postgresql: `make postgres` installs Debian's; {SKIP}=1 leaves it out"
        )
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a short path: a socket's name has 107 characters at most
    made = Cluster(folder, found[-1].parent)
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
