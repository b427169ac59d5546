"""A run that is killed, stopped, begun twice or out of room loses nothing: every step, real signals, real processes.

A process that is to be killed is forked from a server that holds the heavy imports, so that a trial costs the step and
no more. What may differ from an undisturbed run is listed in `snapshot`; everything else is compared by SHA-256.
"""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from bifocal.config import parse_config
from bifocal.contracts import Reporter
from bifocal.data.file_stamps import SETTLED
from bifocal.decide.policy import Policy
from bifocal.fit.expert import FINISHED
from bifocal.pipeline.context import Context
from bifocal.pipeline.train import STEPS, execute, run
from bifocal.workspace import Workspace, file_sha256, fingerprint, read_json, read_jsonl, write_json

SEED = 3

CONFIG = {
    "run": "r",
    "ocr": {"when": "auto", "workers": 2, "cache": False},  # killed while it reads, and to read again
    "splits": {"val": 0.25, "test": 0.25},
    "shard_size": 7,
    "experts": {
        "text": {"model": "tiny", "tune": "full", "epochs": 4, "batch_size": 8, "learning_rate": 2e-3},
        "image": {"model": "tiny", "tune": "full", "epochs": 3, "batch_size": 8, "learning_rate": 1e-3},
    },
    "fusion": {"strategy": "concat", "seeds": 2, "options": {"epochs": 20}},
    "decide": {"on": "val"},
    "bootstrap": 100,
}

FORKSERVER = multiprocessing.get_context("forkserver")

CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}
"""What Python tells its auditors of when it changes a folder."""


def command(arguments, log, kill_before=None):
    """The command line, in a forked process and a session of its own; what it says goes to ``log``."""
    os.setsid()
    with open(log, "w") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    changes = 0

    def audit(event, details):
        nonlocal changes
        if event in CHANGES and (event != "open" or "w" in str(details[1]) or "a" in str(details[1])):
            if changes == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            changes += 1

    sys.addaudithook(audit)
    from bifocal.cli.app import main

    sys.argv = ["bifocal", *map(str, arguments)]
    try:
        main()
    finally:
        Path(f"{log}.changes").write_text(str(changes))


class Runs:
    """A folder of runs, and the state of an undisturbed one before each step and at the end."""

    def __init__(self, root):
        self.root = root
        self.folder = root / "runs" / "r"
        self.states = root / "states"
        self.log = root / "log"
        self.config = root / "r.yaml"
        self.seconds, self.changes = {}, {}
        self.states.mkdir()
        self.folder.mkdir(parents=True)
        self.config.write_text(
            yaml.safe_dump({**CONFIG, "source": {"kind": "hateful_memes", "root": str(memes(root))}})
        )
        time.sleep(SETTLED + 0.1)  # younger files are noted without their times, older ones with: every run the same
        self.start("--help").join()  # the server has its modules now, and the first step's time is its own
        for step in STEPS:
            self.keep(step)
            begun = time.monotonic()
            assert self.run(step) == 0, self.log.read_text()
            self.seconds[step] = time.monotonic() - begun
            self.changes[step] = int(Path(f"{self.log}.changes").read_text())
        self.keep("end")

    def keep(self, name):
        shutil.copytree(self.folder, self.states / name)

    def restore(self, name):
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.states / name, self.folder)

    def after(self, step):
        return self.states / [*STEPS, "end"][list(STEPS).index(step) + 1]

    def start(self, *arguments, kill_before=None):
        process = FORKSERVER.Process(target=command, args=(arguments, str(self.log), kill_before))
        process.start()
        return process

    def start_run(self, until, **options):
        return self.start("run", self.config, "--runs", self.folder.parent, "--until", until, "--quiet", **options)

    def run(self, until):
        process = self.start_run(until)
        process.join()
        return process.exitcode


def memes(root):
    """Posts with a caption each, but for a few whose caption is in the picture, where OCR has to find it."""
    from bifocal.sources.synthetic import Synthetic

    Synthetic(size=60, seed=1).write_folder(root / "memes")
    Synthetic(size=6, seed=2, overlay=True).write_folder(root / "overlay")
    for path in (root / "overlay").glob("*.jsonl"):
        with open(root / "memes" / path.name, "a") as f:
            for row in read_jsonl(path):
                name = f"img/overlay-{row['id']}.png"
                shutil.copy(root / "overlay" / row["img"], root / "memes" / name)
                f.write(json.dumps({**row, "id": f"overlay-{row['id']}", "img": name}) + "\n")
    return root / "memes"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("recovery"))


def snapshot(folder):
    """Path -> SHA-256 of every file; ``run.json`` as its content. Left out is what is of the wall clock:

    TensorBoard's events (a file per start, of that time), in ``run.json`` the seconds of each step, expert and picture
    and how many pictures an interrupted call had read, and the seconds that an expert has noted: with them the size of
    that note, which has as many bytes as the figure has digits; and the date of a policy.
    """
    files = [p for p in folder.rglob("*") if p.is_file() and "tensorboard" not in p.relative_to(folder).parts]
    found = {str(p.relative_to(folder)): file_sha256(p) for p in files}
    if "run.json" in found:
        record = read_json(folder / "run.json")
        for entry in record["steps"].values():
            for field in ("seconds", "seconds_each", "seconds_per_picture", "resumed"):
                entry.pop(field, None)
            for name in [name for name in entry["outputs"] if Path(name).name == FINISHED]:
                entry["outputs"][name] = "of any size"
        found["run.json"] = record
    for name in [name for name in found if Path(name).name == FINISHED]:
        noted = {key: value for key, value in read_json(folder / name).items() if key != "seconds"}
        found[name] = fingerprint(noted)
    for name in [name for name in found if name.startswith("policy_")]:
        found[name] = Policy.load(folder / name).version
    return found


def differences(found, expected):
    return {name: (found.get(name), expected.get(name)) for name in found.keys() | expected.keys()
            if found.get(name) != expected.get(name)}  # fmt: skip


def assert_nothing_is_half_written(folder, before, after):
    """Every file under a final name is the old one or the new one; the caches of Evidence grow in two whole steps."""
    old, new = snapshot(before), snapshot(after)
    for name, found in snapshot(folder).items():
        if name.startswith("checkpoints/") or any(part.startswith(".") for part in Path(name).parts):
            continue
        if name.startswith("evidence/"):
            load_file(folder / name)
        elif name != "run.json":
            assert found in (old.get(name), new.get(name)), name


def assert_nobody_is_left(session):
    """Nobody of a session lives: its leader was killed, and whoever it had started has to notice by itself."""
    deadline = time.monotonic() + 10
    while alive := [pid for pid in filter(str.isdigit, os.listdir("/proc")) if _session(pid) == session]:
        assert time.monotonic() < deadline, f"processes {alive} outlive the run"
        time.sleep(0.02)


def _session(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[3]) if fields[0] != "Z" else None


# ------------------------------------------------------------------ SIGKILL


def trials(moments, changes):
    """Step, seed and how the time to kill is chosen: by the clock, or just before one of the changes to the folder."""
    kinds = [("moment", SEED + i) for i in range(moments)] + [("change", SEED + i) for i in range(changes)]
    return [(step, seed, kind) for kind, seed in kinds for step in STEPS]


SAMPLE = [trial for i, trial in enumerate(trials(1, 1)) if i % 2]
"""One of each step: as there are eleven, killed at a moment and before a change by turns."""
REST = [trial for trial in trials(20, 10) if trial not in SAMPLE]


def kill_and_run_again(runs, step, seed, kind):
    rng = random.Random(f"{step} {seed} {kind}")
    runs.restore(step)
    if kind == "moment":
        process = runs.start_run(step)
        time.sleep(rng.uniform(0, runs.seconds[step]))
    else:
        process = runs.start_run(step, kill_before=rng.randrange(runs.changes[step]))
        process.join(60)
    process.kill()
    process.join()
    assert_nobody_is_left(process.pid)
    assert_nothing_is_half_written(runs.folder, runs.states / step, runs.after(step))
    assert runs.run(step) == 0, runs.log.read_text()
    assert differences(snapshot(runs.folder), snapshot(runs.after(step))) == {}


@pytest.mark.parametrize(("step", "seed", "kind"), SAMPLE)
def test_a_killed_step_ends_as_if_it_had_not_been(runs, step, seed, kind):
    kill_and_run_again(runs, step, seed, kind)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "seed", "kind"), REST)
def test_a_step_killed_at_any_moment_ends_as_if_it_had_not_been(runs, step, seed, kind):
    kill_and_run_again(runs, step, seed, kind)


def test_an_undisturbed_run_leaves_nothing_that_it_needed_on_its_way(runs):
    names = {p.name for p in (runs.states / "end").rglob("*")}
    assert not [n for n in names if n.endswith((".part", ".partial", ".old")) or n.startswith("checkpoint-")]
    assert (runs.states / "end" / ".lock").read_bytes() == b""


@pytest.mark.parametrize("step", ["ocr", "experts"])
def test_what_took_long_is_not_done_again_where_only_its_note_is_missing(runs, step):
    """Killed, or out of room, between the last file of a step and ``run.json``."""
    runs.restore(runs.after(step).name)
    record = read_json(runs.folder / "run.json")
    del record["steps"][step]
    write_json(runs.folder / "run.json", record)
    trainings = sorted(runs.folder.rglob("events.out.*"))
    assert runs.run(step) == 0, runs.log.read_text()
    assert differences(snapshot(runs.folder), snapshot(runs.after(step))) == {}
    counts = read_json(runs.folder / "run.json")["steps"][step]
    assert step != "ocr" or counts["resumed"] == counts["read"] > 0
    assert sorted(runs.folder.rglob("events.out.*")) == trainings


# ------------------------------------------------------------------ two at once


def test_the_second_run_in_a_folder_stops_and_names_the_first(runs):
    runs.restore("ocr")
    first = runs.start_run("ocr")
    deadline = time.monotonic() + 30
    while not (lock := (runs.folder / ".lock").read_text()).strip():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert lock == f"process {first.pid} on {socket.gethostname()}\n"
    first_log, runs.log = runs.log, runs.root / "second"
    assert runs.run("ocr") == 2
    assert f"is in use by {lock.strip()}: wait for it" in runs.log.read_text()
    runs.log = first_log
    first.join()
    assert first.exitcode == 0
    assert differences(snapshot(runs.folder), snapshot(runs.after("ocr"))) == {}


def test_a_run_reads_the_record_only_once_the_folder_is_its_own(small_config, tmp_path):
    config = parse_config({**small_config, "source": {"kind": "synthetic", "size": 40}})
    waiting = Context.of(config, Workspace(tmp_path / "small", "small"), Reporter())
    run(config, root=tmp_path, until="ocr")
    noted = read_json(tmp_path / "small" / "run.json")
    execute(waiting, None, "manifest")
    assert read_json(tmp_path / "small" / "run.json") == noted


# ------------------------------------------------------------------ Ctrl-C


LONGER = {
    "experts": ["experts.text.epochs=900", "experts.text.patience=900", "experts.image.epochs=900"],
    "fusion": ["fusion.options.epochs=200000", "fusion.options.patience=200000"],
}
"""Settings that give a step the time to be interrupted in."""


def interrupt(runs, step, seconds):
    """SIGINT to the process group of the real command, as a terminal sends it, so many seconds into the step."""
    runs.restore(step)
    overrides = [part for setting in LONGER.get(step, ()) for part in ("--set", setting)]
    arguments = ["run", str(runs.config), "--runs", str(runs.folder.parent), "--until", step, *overrides]
    process = subprocess.Popen(
        [sys.executable, "-m", "bifocal", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A shell has what it starts in the background ignore SIGINT, and that is inherited; a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        text=True,
    )
    with process.stderr:
        while not (line := process.stderr.readline()).startswith(step):
            assert line, "the run ended before its step"
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        said = process.stderr.read()
    assert process.wait() == 130, said
    assert said.splitlines()[-1] == "stopped: the same command goes on from the last finished step"
    assert "Traceback" not in said and "Error" not in said
    assert_nobody_is_left(process.pid)
    assert_nothing_is_half_written(runs.folder, runs.states / step, runs.after(step))
    assert runs.run(step) == 0, runs.log.read_text()
    assert differences(snapshot(runs.folder), snapshot(runs.after(step))) == {}


@pytest.mark.parametrize(("step", "seconds"), [("ocr", 0.5), ("experts", 1)])
def test_ctrl_c_stops_at_once_and_says_how_to_go_on(runs, step, seconds):
    interrupt(runs, step, seconds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "seconds"),
    [
        *(("manifest", seconds) for seconds in (0, 0.05, 0.1)),
        *(("ocr", seconds) for seconds in (0, 0.1, 0.3, 1, 2)),
        *(("experts", seconds) for seconds in (0, 0.1, 0.3, 3)),
        *(("evidence", seconds) for seconds in (0, 0.05, 0.1)),
        *(("fusion", seconds) for seconds in (0, 0.1, 1)),
    ],
)
def test_ctrl_c_stops_every_long_step_at_any_moment(runs, step, seconds):
    interrupt(runs, step, seconds)


# ------------------------------------------------------------------ a full disk


class Disk:
    """A small file system in memory, in the place of the folder of runs."""

    def __init__(self, runs):
        self.folder = runs.folder.parent
        self.filler = self.folder / "filler"

    def free(self):
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def leave(self, room):
        self.filler.unlink(missing_ok=True)
        with open(self.filler, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, self.free() - room)


@pytest.fixture(scope="module")
def disk(runs):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(runs.folder.parent)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield Disk(runs)
    subprocess.run(["umount", "--lazy", str(runs.folder.parent)], check=True)


def needed(runs, disk, step):
    """The most room that a step takes on its way."""
    disk.filler.unlink(missing_ok=True)
    runs.restore(step)
    free = least = disk.free()
    process = runs.start_run(step)
    while process.is_alive():
        least = min(least, disk.free())
        time.sleep(0.001)
    assert process.exitcode == 0
    return free - least


def fill_and_run_again(runs, disk, step, shares):
    need = needed(runs, disk, step)
    for share in shares:
        runs.restore(step)
        disk.leave(int(share * need))
        assert runs.run(step) == 2, runs.log.read_text()
        (said,) = runs.log.read_text().splitlines()
        assert re.fullmatch(
            rf"error: no room to write {re.escape(str(runs.folder))}/\S+: [\d,]+ bytes of it were written and it needs "
            r"more, [\d,]+ bytes are free there: free some space and run the same command again; .*",
            said,
        )
        assert_nothing_is_half_written(runs.folder, runs.states / step, runs.after(step))
        before, now = snapshot(runs.states / step), snapshot(runs.folder)
        done, noted = (found.pop("run.json", {}).get("steps", {}) for found in (before, now))
        assert done == noted
        assert not {name: (was, now.get(name)) for name, was in before.items() if now.get(name) != was}
        disk.filler.unlink()
        assert runs.run(step) == 0, runs.log.read_text()
        assert differences(snapshot(runs.folder), snapshot(runs.after(step))) == {}


SAMPLED = ("shards", "experts", "fusion", "report")


@pytest.mark.parametrize("step", [s if s in SAMPLED else pytest.param(s, marks=pytest.mark.slow) for s in STEPS])
def test_a_full_disk_is_named_and_the_step_ends_once_there_is_room(runs, disk, step):
    fill_and_run_again(runs, disk, step, [random.Random(f"{step} {SEED}").uniform(0.3, 0.9)])


def test_a_disk_that_may_not_be_written_is_named(runs, disk):
    disk.filler.unlink(missing_ok=True)
    runs.restore("end")
    mode = ["mount", "-o"]
    subprocess.run([*mode, "remount,ro", str(disk.folder)], check=True)
    try:
        assert runs.run("report") == 2
    finally:
        subprocess.run([*mode, "remount,rw", str(disk.folder)], check=True)
    (said,) = runs.log.read_text().splitlines()
    assert said.startswith(f"error: {runs.folder}/.lock cannot be written (Read-only file system)")


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_may_be_full_at_any_moment_of_a_step(runs, disk, step):
    fill_and_run_again(runs, disk, step, [0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])


# ------------------------------------------------------------------ scoring


@pytest.fixture(scope="module")
def posts(runs):
    """A table to score, and what an undisturbed command makes of it, per kind of file."""
    folder = runs.root / "posts"
    folder.mkdir()
    pictures = sorted((runs.root / "memes" / "img").iterdir())
    rows = [f"{i},words number {i}{' and more' * (i % 7)},{pictures[i] if i % 3 else ''}" for i in range(50)]
    (folder / "posts.csv").write_text("\n".join(["id,text,image_path", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def scored(runs, posts):
    """Ending -> the table's bytes, the seconds it took, and how often the folder was changed on the way."""
    runs.restore("end")
    found = {}
    for ending in ("csv", "jsonl", "parquet"):
        out, begun = posts / f"calm.{ending}", time.monotonic()
        process = start_score(runs, posts, out)
        process.join()
        assert process.exitcode == 0, runs.log.read_text()
        changes = int(Path(f"{runs.log}.changes").read_text())
        found[ending] = out.read_bytes(), time.monotonic() - begun, changes
        out.unlink()
    return found


def start_score(runs, posts, out, **options):
    words = ("--images", runs.root / "memes", "--batch-size", 8, "--quiet")
    return runs.start("score", runs.folder, posts / "posts.csv", "-o", out, *words, **options)


def kill_score_and_run_again(runs, posts, scored, ending, seed, kind):
    rng = random.Random(f"{ending} {seed} {kind}")
    expected, seconds, changes = scored[ending]
    runs.restore("end")
    out = posts / f"out.{ending}"
    if kind == "moment":
        process = start_score(runs, posts, out)
        time.sleep(rng.uniform(0.2, 1) * seconds)
    else:
        process = start_score(runs, posts, out, kill_before=rng.randrange(changes))
        process.join(60)
    process.kill()
    process.join()
    assert not out.exists() or out.read_bytes() == expected
    process = start_score(runs, posts, out)
    process.join()
    assert process.exitcode == 0, runs.log.read_text()
    assert out.read_bytes() == expected
    out.unlink()
    assert [p.name for p in posts.iterdir()] == ["posts.csv"]
    assert differences(snapshot(runs.folder), snapshot(runs.states / "end")) == {}


@pytest.mark.parametrize(("ending", "kind"), [("csv", "moment"), ("parquet", "change")])
def test_a_killed_scoring_goes_on_and_gives_the_same_table(runs, posts, scored, ending, kind):
    kill_score_and_run_again(runs, posts, scored, ending, SEED, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["moment", "change"])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("seed", range(SEED + 1, SEED + 5))
def test_a_scoring_killed_at_any_moment_gives_the_same_table(runs, posts, scored, ending, seed, kind):
    kill_score_and_run_again(runs, posts, scored, ending, seed, kind)
