"""The pilot, whose every file is compared, and the comparison itself."""

import json
import tarfile
from pathlib import Path

import pytest
import yaml
from tests.compatibility import snapshots
from tests.compatibility.snapshots import OLD

PILOT = {
    "run": "pilot",
    "limit": 50,
    "source": {"kind": "synthetic", "size": 50, "structure": "and", "cue": "colour"},
    "ocr": "never",
    "splits": {"val": 0, "test": 0},
    "shard_size": 30,
    "experts": {
        "text": {"encoder": "tfidf_text", "options": {"components": 8}},
        "image": {"model": "tiny", "tune": "head"},
    },
    "fusion": {
        "strategy": "concat", "read": {"text": "features", "image": "logits"}, "seeds": 1, "options": {"epochs": 5},
    },
    "bootstrap": 100,
}  # fmt: skip
"""As configs/pilot.yaml, but that no words are read off pictures (which takes longest), and that both experts are
fitted heads, which come out alike on every processor."""


@pytest.fixture
def snapshot(request):
    """``snapshot("cli.json", found)``: the same as the file of that name in the test's folder of snapshots."""
    folder = request.path.with_name(request.path.stem.removeprefix("test_"))

    def check(name, found, *, apart=0.0):
        snapshots.check(folder / name, found if isinstance(found, str) else snapshots.as_text(found), apart=apart)

    return check


@pytest.fixture(scope="session")
def pilot(made_once) -> Path:
    """A folder: ``runs/pilot``, made by the command line, and what that printed as ``output.txt``, ``errors.txt``."""

    def make(place):
        (place / "pilot.yaml").write_text(yaml.safe_dump(PILOT, sort_keys=False))
        done = snapshots.on_a_quiet_terminal("run", "pilot.yaml", cwd=place)
        assert done.returncode == 0, done.stderr

    return made_once("pilot", make)


@pytest.fixture(scope="session")
def old(made_once):
    """``old("memes")``: the folder of a run or bundle that an earlier commit made (`old/make.py`); read it only."""

    def make(place):
        for archive in sorted(OLD.glob("*.tar.xz")):
            with tarfile.open(archive) as tar:
                tar.extractall(place, filter="data")

    return made_once("old", make).joinpath


@pytest.fixture(scope="session")
def expected():
    """What that commit's code said: ``policy``, ``decisions``, ``scored`` of each."""
    return json.loads((OLD / "expected.json").read_text(encoding="utf-8"))
