"""The comparison with what is kept, and the runs and the bundle of an earlier commit."""

import json
import tarfile

import pytest
from tests.compatibility import snapshots
from tests.compatibility.snapshots import OLD


@pytest.fixture
def snapshot(request):
    """``snapshot("cli.json", found)``: the same as the file of that name in the test's folder of snapshots."""
    folder = request.path.with_name(request.path.stem.removeprefix("test_"))

    def check(name, found, *, apart=0.0):
        snapshots.check(folder / name, found if isinstance(found, str) else snapshots.as_text(found), apart=apart)

    return check


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
