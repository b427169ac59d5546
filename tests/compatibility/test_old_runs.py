"""Runs and a bundle that an earlier commit made: they load, decide and score as they did, or it is told what to do."""

import json
import shutil

import pytest
from tests.compatibility.snapshots import OLD

import bifocal

APART = 1e-5
"""Of probabilities: encoders round otherwise from processor to processor."""
NEW = {"unread": False}
"""Fields of a decision that came since."""
NAMES = ("memes", "houses", "memes-onnx")


def assert_like(found, said):
    """The same decision; numbers within `APART`, and words that hold no probability to the letter."""
    assert found.keys() - said.keys() <= NEW.keys() and said.keys() <= found.keys()
    assert {name: found[name] for name in NEW if name in found} == {name: NEW[name] for name in NEW if name in found}
    for name, value in said.items():
        if isinstance(value, dict):
            assert_like(found[name], value)
        elif isinstance(value, float):
            assert found[name] == pytest.approx(value, abs=APART), name
        else:
            assert found[name] == value, name


@pytest.mark.parametrize("name", NAMES)
def test_it_decides_as_it_did(name, old, expected):
    system = bifocal.load(old(name))
    assert system.policy_version == expected[name]["policy"]
    for kept in expected[name]["decisions"]:
        post = dict(kept["post"])
        if "image_path" in post:
            post["image_path"] = OLD / "inputs" / post["image_path"]
        decision = system.predict(**post)
        assert decision.versions["policy"] == expected[name]["policy"]
        assert_like(decision.to_dict(), kept["decision"])
    assert {kept["decision"]["action"] for kept in expected[name]["decisions"]} > {"block"}


@pytest.mark.parametrize("name", NAMES)
def test_it_scores_as_it_did(name, old, expected, command, tmp_path):
    table = OLD / "inputs" / f"{name.removesuffix('-onnx')}.csv"
    done = command("score", old(name), table, "-o", tmp_path / "scored.jsonl", "--quiet", cwd=tmp_path)
    lacking = any(row["error"] for row in expected[name]["scored"])  # since then, over 5% of errors are exit status 2
    assert done.returncode == (2 if lacking else 0), done.stderr
    rows = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in expected[name]["scored"]]
    for row, said in zip(rows, expected[name]["scored"], strict=True):
        assert (row["error"] is None) == (said["error"] is None)
        if said["error"] is None:
            assert_like(row, said)
        else:
            assert "Traceback" not in row["error"]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_names_the_policy_that_it_had(name, old, expected, command):
    kept = expected[name]["decisions"][2]
    words = ["--text", kept["post"]["text"]]
    if record := kept["post"].get("tabular"):
        words += ["--tabular", json.dumps(record)]
    done = command("predict", old(name), *words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["versions"] == kept["decision"]["versions"]


WORKS, IS_TOLD = 0, 2
COMMANDS = [
    ("memes", ("explain", "RUN", "--text", "the ribbon"), WORKS, "mm_fusion gives"),
    ("houses", ("explain", "RUN", "--text", "the ribbon"), WORKS, "mm_fusion gives"),
    ("memes-onnx", ("explain", "RUN", "--text", "the ribbon"), WORKS, "mm_fusion gives"),
    ("memes", ("drift", "RUN", "INPUTS/memes.csv", "-o", "drift.json", "-q"), WORKS, "presence pattern"),
    ("houses", ("drift", "RUN", "INPUTS/houses.csv", "-o", "drift.json", "-q"), WORKS, "presence pattern"),
    ("memes-onnx", ("drift", "RUN", "INPUTS/memes.csv"), IS_TOLD, "is not a run folder"),
    ("memes", ("policy", "set", "RUN", "--threshold", "0.4", "--by", "a", "--why", "b"), WORKS, "before   0.35"),
    ("memes-onnx", ("policy", "set", "RUN", "--threshold", "0.4", "--by", "a", "--why", "b"), WORKS, "before   0.35"),
    ("houses", ("policy", "diff", "RUN", "RUN"), IS_TOLD, "step `shards`"),
    ("memes-onnx", ("policy", "diff", "RUN", "RUN"), IS_TOLD, "compare policies of its run"),
    ("memes", ("export", "RUN", "-o", "bundle", "-q"), IS_TOLD, "step `shards`"),
    ("houses", ("robustness", "RUN", "-q"), IS_TOLD, "step `shards`"),
    ("memes-onnx", ("robustness", "RUN"), IS_TOLD, "is not a run folder"),
    ("houses", ("keys", "add", "RUN", "me", "--state", "state"), WORKS, "bf_"),
]  # fmt: skip
"""The shards are not kept with these runs: what reads them says which step makes them."""


@pytest.mark.parametrize(
    ("name", "words", "status", "said"), COMMANDS, ids=lambda value: "" if value in (0, 2) else None
)
def test_a_command_works_or_says_what_to_do(name, words, status, said, old, command, tmp_path):
    folder = shutil.copytree(old(name), tmp_path / name)
    places = {"RUN": folder, "INPUTS": OLD / "inputs"}
    words = [str(places.get(word, word)).replace("INPUTS", str(OLD / "inputs")) for word in words]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert said in (done.stdout if status == WORKS else done.stderr)
    if status == IS_TOLD:
        assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_a_run_goes_on_from_what_is_there(old, command, tmp_path):
    """The manifest is as that commit's code made it; what rests on other settings by now is made again."""
    folder = shutil.copytree(old("memes"), tmp_path / "runs" / "memes")
    (tmp_path / "memes.json").write_text(json.dumps(json.loads((folder / "run.json").read_text())["config"]))
    done = command("pack", tmp_path / "memes.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "manifest   done before, skipped" in done.stderr and (folder / "shards" / "test" / "index.json").exists()
