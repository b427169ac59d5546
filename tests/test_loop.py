"""The loop of `examples/loop.sh` closes: from a table to a model in service, and to a better one in its place."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "examples" / "loop.sh"


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_loop_closes(tmp_path):
    """Of its own accord the script fails where a step does, where flipped verdicts are not refused with status 2, and
    where the running service does not decide by the run that was promoted, or put back."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=1500, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0 and "the loop is closed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    old, new = tmp_path / "runs" / "posts", tmp_path / "runs" / "posts-2"
    before, after = read(old / "splits.json"), read(new / "splits.json")
    with open(tmp_path / "posts.csv", newline="", encoding="utf-8") as file:
        assert {row["id"] for row in csv.DictReader(file)} == before.keys()
    kept = {name.removeprefix("table:"): split for name, split in after.items() if name.startswith("table:")}
    assert kept == before
    judged = {name: split for name, split in after.items() if name.startswith("judged:")}
    aside = read(new / "split_record.json")["recent"]
    assert set(judged.values()) == {"train"} and len(judged) + len(aside) == 60 and aside
    assert os.readlink(tmp_path / "runs" / "current") == "posts"
    history = [(row["now"], row["back"]) for row in rows_of(tmp_path / "runs" / "current.serve" / "promotions.jsonl")]
    assert history == [("posts", False), ("posts-2", False), ("posts", True)]
    new_word = [
        {row["action"] for row in rows_of(tmp_path / name) if row["cue"] == "mirukavel"}
        for name in ("asked.jsonl", "again.jsonl")
    ]
    assert "allow" in new_word[0] and new_word[1] == {"block"}
    (policy,) = new.glob("policy_*.json")
    assert {row["versions"]["policy"] for row in rows_of(tmp_path / "again.jsonl")} == {read(policy)["version"]}
    assert not (tmp_path / "runs" / "posts-3").exists()
    assert "swapped" in done.stderr and (tmp_path / "comparison" / "index.html").is_file()
