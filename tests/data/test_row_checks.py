"""A manifest is the same whoever checks its rows, in how many pieces, and however often somebody is killed over it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.contracts.pool_workers import Stops

from bifocal.config import RunConfig
from bifocal.data import manifest, row_checks
from bifocal.data.file_stamps import SETTLED
from bifocal.data.manifest import Refusal, write_manifest
from bifocal.modalities import every_modality
from bifocal.scale.local import LocalPool
from bifocal.sources import build_source, taxonomy_of
from bifocal.sources.table import Table

FILES = ("manifest", "quarantine", "stamps")


def posts(folder, n=70):
    """A table of posts with pictures, some of which are broken, gone or said twice."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append({"id": str(i), "text": f"words {i}", "image": f"{i}.png", "abuse_hate": i % 2})
    (folder / "5.png").write_bytes(b"no picture")
    (folder / "40.png").unlink()
    rows[33]["id"] = "3"
    rows[50]["text"] = "a lone \ud800 surrogate"
    (folder / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    time.sleep(1.1 * SETTLED)  # stamps of younger files hold no times


def write(folder, out, pool=None, rows=16, **options):
    """Counts of a manifest of these posts, of which so many are checked at a time."""
    manifest.ROWS = row_checks.ROWS = rows
    columns = {"id": "id", "text": "text", "image": "image", "labels": {"abuse_hate": "abuse_hate"}}
    config = RunConfig.model_validate(
        {"run": "x", "label": "abuse_hate", "source": {"kind": "table", "root": str(folder), **columns}}
    )
    source = build_source(config.source)
    options = {"limit": None, "strict": False, "tolerate": 1.0, **options}
    paths = [out / name for name in FILES]
    taxonomy = taxonomy_of(source)
    return write_manifest(
        source, every_modality(config), *paths, taxonomy=taxonomy, label="abuse_hate", pool=pool, **options
    )


@pytest.fixture(autouse=True)
def rows_of_a_unit(monkeypatch):
    monkeypatch.setattr(manifest, "ROWS", manifest.ROWS)
    monkeypatch.setattr(row_checks, "ROWS", row_checks.ROWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    posts(folder := tmp_path_factory.mktemp("posts") / "posts")
    return folder


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".part"}  # a run clears those away


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_files_are_the_same_to_the_byte_and_nothing_else_is_left(folder, tmp_path, workers):
    counts = write(folder, tmp_path / "threads")
    assert counts["examples"] == 67 and counts["quarantined"] == 3
    assert write(folder, tmp_path / "pool", LocalPool(workers)) == counts
    assert contents(tmp_path / "pool") == contents(tmp_path / "threads") and set(contents(tmp_path / "pool")) == {
        *FILES
    }


def test_a_limit_holds_and_a_strict_source_stops_at_its_first_bad_row(folder, tmp_path):
    assert write(folder, tmp_path, LocalPool(1), limit=37)["examples"] == 35
    with pytest.raises(Refusal, match="row 6 of the source, id '5'"):
        write(folder, tmp_path, LocalPool(1), strict=True)
    assert not list(tmp_path.glob(".*"))


def test_rows_without_files_are_no_work_for_a_pool(tmp_path):
    class NoPool:
        def map(self, make_worker, units, folder):
            raise AssertionError

    (tmp_path / "posts").mkdir()
    rows = [{"id": i, "text": f"words {i}", "abuse_hate": i % 2} for i in range(60)]
    (tmp_path / "posts" / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"id": "id", "text": "text", "labels": {"abuse_hate": "abuse_hate"}}
    source = build_source(
        RunConfig.model_validate(
            {"run": "x", "source": {"kind": "table", "root": str(tmp_path / "posts"), **columns}}
        ).source
    )
    manifest.ROWS = 16
    paths = [tmp_path / name for name in FILES]
    options = {"taxonomy": taxonomy_of(source), "label": "abuse_hate", "limit": None, "strict": False}
    assert write_manifest(source, {}, *paths, pool=NoPool(), **options)["examples"] == 60


def test_pictures_that_came_or_were_replaced_after_a_stop_are_checked_again(tmp_path):
    posts(tmp_path / "posts")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "posts", tmp_path / "out", Stops(3))
    Image.new("RGB", (9, 9)).save(tmp_path / "posts" / "5.png")  # in the first unit; 20.png is in the second
    Image.new("RGB", (7, 7)).save(tmp_path / "posts" / "20.png")
    time.sleep(1.1 * SETTLED)
    counts = write(tmp_path / "posts", tmp_path / "out", LocalPool(1))
    assert counts == write(tmp_path / "posts", tmp_path / "anew")
    assert counts["examples"] == 68 and contents(tmp_path / "out") == contents(tmp_path / "anew")


def test_a_source_that_cannot_be_sent_to_another_process_is_read_by_threads(folder, tmp_path, monkeypatch):
    class Unsent(Table):
        def __reduce_ex__(self, _):
            raise TypeError("cannot pickle")

    monkeypatch.setattr("tests.data.test_row_checks.build_source", lambda config: Unsent(**config.options))
    assert write(folder, tmp_path, LocalPool(2))["examples"] == 67


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_kill_at_any_moment_changes_nothing(folder, tmp_path, seed):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.data.test_row_checks import LocalPool, Path, write\n"
        "if __name__ == '__main__':\n"
        f"    write(Path({str(folder)!r}), Path({str(tmp_path / 'out')!r}), LocalPool(2), rows=4)\n"
    )
    rng = random.Random(seed)
    for _ in range(3):
        driver = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.5, 4))
        workers = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
        children = workers.read_text().split() if workers.exists() else []
        victim = int(rng.choice([*children, driver.pid]))
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
        if victim == driver.pid:
            driver.wait(20)
        else:
            driver.wait(120)
    assert subprocess.run([sys.executable, script]).returncode == 0
    write(folder, tmp_path / "whole", rows=4)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
