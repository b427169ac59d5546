import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from bifocal import workspace
from bifocal.errors import DataError, RunError
from bifocal.workspace import (
    RunRecord,
    Workspace,
    atomic,
    disk_errors,
    file_sha256,
    fingerprint,
    read_json,
    remove_leftovers,
    write_json,
)


def test_names_are_the_contract(tmp_path):
    space = Workspace(tmp_path / "demo", "demo")
    assert space.results.name == "results_demo.json"
    assert space.policy.name == "policy_demo.json"
    assert space.reference.name == "reference_demo.json" and space.drift.name == "drift_demo.json"
    assert space.curve("mm_fusion").name == "thresholds_curve_mm_fusion_demo.csv"
    assert (
        space.evidence("text_expert", "val").relative_to(space.folder).as_posix()
        == "evidence/text_expert/val.safetensors"
    )
    with pytest.raises(AttributeError):
        _ = space.reslts


def test_a_failing_writer_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError), atomic(path) as f:
        f.write("half")
        raise ValueError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nan_becomes_null_and_text_stays_readable(tmp_path):
    write_json(tmp_path / "a.json", {"x": math.nan, "y": [math.inf, 1.5], "ü": "é"})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [None, 1.5], "ü": "é"}
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_missing_or_broken_artifact_is_named(tmp_path):
    with pytest.raises(RunError, match=r"a\.json is missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RunError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


def test_fingerprint_depends_on_content_and_not_on_key_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


HOLDER = """
import sys, time
from pathlib import Path
from bifocal.workspace import Workspace
with Workspace(Path(sys.argv[1]), "x").lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_owner_and_dies_with_it(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    space = Workspace(tmp_path, "x")
    with pytest.raises(RunError, match=rf"process {process.pid} "), space.lock():
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with space.lock():
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_step_is_done_only_with_its_fingerprint_and_its_outputs(tmp_path):
    record = RunRecord(tmp_path / "run.json")
    output = tmp_path / "out.txt"

    def work():
        output.write_text("result")
        return {"rows": 3}

    record.perform("pack", "key1", work, lambda: [output])
    again = RunRecord(tmp_path / "run.json")
    assert again.done("pack", "key1")
    assert not again.done("pack", "key2")
    assert not again.done("train", "key1")
    assert again.content["steps"]["pack"]["rows"] == 3
    output.write_text("cut")
    assert not again.done("pack", "key1")
    output.unlink()
    assert not again.done("pack", "key1")


def test_sha256_is_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_on_disk_is_plain(tmp_path):
    write_json(tmp_path / "a.json", {"p": tmp_path})
    assert json.loads((tmp_path / "a.json").read_text()) == {"p": str(tmp_path)}


def test_a_step_that_is_forgotten_takes_its_outputs_along_unless_they_are_kept(tmp_path):
    record = RunRecord(tmp_path / "run.json")
    for name in ("early", "cache", "late"):
        path = tmp_path / name
        record.perform(name, "key", lambda path=path: path.write_text("x") and {}, lambda path=path: [path])
    record.forget(["cache", "late"], keep=["cache"])
    assert list(RunRecord(tmp_path / "run.json").steps()) == ["early"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "early", "run.json"]


def test_a_run_that_was_moved_or_linked_keeps_its_names(tmp_path):
    (tmp_path / "moved").mkdir()
    write_json(tmp_path / "moved" / "run.json", {"run": "demo"})
    (tmp_path / "latest").symlink_to("moved")
    for name in ("moved", "latest"):
        assert Workspace.of(tmp_path / name).policy == tmp_path / name / "policy_demo.json"
    with pytest.raises(RunError, match="runs beside it: latest, moved"):
        Workspace.of(tmp_path / "nothing")


def caused(error, cause):
    error.__cause__ = cause
    return error


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    caused(ValueError("not written"), OSError(errno.ENOSPC, "No space left on device")),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 521600 vs 521488"),
    RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed"),
    RuntimeError("basic_ios::clear: iostream error"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_is_one_line_whoever_found_out(tmp_path, monkeypatch, error):
    monkeypatch.setattr(workspace, "free_bytes", lambda path: 0)
    (tmp_path / "old").write_bytes(b"x")
    os.utime(tmp_path / "old", (1, 1))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "new").write_bytes(b"x" * 1234)
    message = "no room to write .*/deep/new: 1,234 bytes of it were written and it needs more, 0 bytes are free there: "
    with pytest.raises(RunError, match=message) as told, disk_errors(tmp_path):
        raise error
    assert told.value.__cause__ is error and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "error", [DataError("a bad row"), KeyError("x"), FULL[-1], OSError(errno.EIO, "broken")], ids=str
)
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as told, disk_errors(tmp_path):
        raise error
    assert told.value is error


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_place_that_may_not_be_written_is_named(tmp_path, monkeypatch, number):
    def refuse(path, *_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(RunError, match=rf"/\.lock cannot be written \({os.strerror(number)}\)"),
        Workspace(tmp_path, "x").lock(),
    ):
        pass


def test_what_killed_writers_left_goes_and_what_was_put_aside_comes_back(tmp_path):
    models = tmp_path / "models"
    for folder in (".gone.part", ".gone.old", ".replaced.old", "replaced"):
        (models / folder).mkdir(parents=True)
        (models / folder / "weights").write_text(folder)
    for name in (".run.json.12.part", ".ocr.jsonl.partial", "kept.part"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".ocr.jsonl.partial", "kept.part", "models"]
    assert {p.parent.name: p.read_text() for p in models.glob("*/*")} == {"gone": ".gone.old", "replaced": "replaced"}


def test_only_what_is_left_of_the_name_asked_for_goes(tmp_path):
    for name in (".out[1].csv.12.part", ".other.csv.12.part", "out[1].csv"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path, "out[1].csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.csv.12.part", "out[1].csv"]


def test_an_error_leaves_no_owner_in_the_lock(tmp_path):
    with pytest.raises(ValueError), Workspace(tmp_path, "x").lock():
        raise ValueError
    assert (tmp_path / ".lock").read_bytes() == b""
