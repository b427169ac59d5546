import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import yaml


def bifocal(*words, **options):
    command = [sys.executable, "-m", "bifocal", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture
def config_path(tmp_path, small_config):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config))
    return path


def test_help_names_the_commands_and_imports_nothing_heavy():
    answer = bifocal("--help")
    assert answer.returncode == 0
    for command in (
        "run",
        "pack",
        "train",
        "evaluate",
        "predict",
        "explain",
        "score",
        "compare",
        "drift",
        "robustness",
        "policy",
        "synth",
        "doctor",
    ):
        assert f" {command} " in answer.stdout
    code = "import sys, bifocal.cli.app; assert not {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "configs/dmo.yaml"], "there is no configuration file"),
        (["predict", "runs/nothing", "--text", "x"], "not a run folder"),
        (["explain", "runs/nothing", "--text", "x"], "not a run folder"),
        (["score", "runs/nothing", "in.csv", "-o", "out.csv"], "not a run folder"),
        (["drift", "runs/nothing", "new.csv"], "not a run folder"),
        (["synth", "OUT", "--structure", "andd"], "did you mean 'and'"),
    ],
)
def test_an_error_is_one_line_and_exit_status_2(words, message, tmp_path, command):
    answer = command(*words, cwd=tmp_path)
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.startswith("error: ") and len(answer.stderr.splitlines()) == 1
    assert message in answer.stderr
    assert "Traceback" in command(*words, "--debug", cwd=tmp_path).stderr


def test_a_missing_argument_is_exit_status_2():
    answer = bifocal("predict")
    assert answer.returncode == 2 and "RUN" in answer.stderr


def test_pack_then_run_then_the_commands_on_its_result(config_path, small_run, tmp_path, command):
    runs = shutil.copytree(small_run, tmp_path / "runs" / "small").parent
    packed = command("pack", config_path, "--runs", tmp_path, "--json", "--set", "source.size=30")
    assert packed.returncode == 0, packed.stderr
    assert json.loads(packed.stdout)["steps"] == ["manifest", "ocr", "splits", "shards"] and packed.stderr == ""

    again = command("run", config_path, "--runs", runs)
    assert again.returncode == 0, again.stderr
    assert "done before, skipped" in again.stderr
    assert "mm_fusion" in again.stdout and "majority" in again.stdout
    line = next(line for line in again.stdout.splitlines() if line.strip().startswith("bifocal predict"))
    pasted = command(*shlex.split(line)[1:], "--json")
    assert pasted.returncode == 0, pasted.stderr
    assert json.loads(pasted.stdout)["label"] in (0, 1)

    results = command("run", config_path, "--runs", runs, "--json")
    assert json.loads(results.stdout)["run"] == "small" and results.stderr == ""


def test_explain_answers_people_machines_and_in_files(small_run, tmp_path, command):
    words = ["explain", small_run, "--text", "a quiet lantern waits", "--image", small_run / "report" / "example.png"]
    answer = command(*words, "--grid", 2, "--output", tmp_path / "why")
    assert answer.returncode == 0, answer.stderr
    assert "baseline" in answer.stdout and "lantern" in answer.stdout and "row 2, column 1" in answer.stdout
    assert {p.name for p in (tmp_path / "why").iterdir()} == {
        "explanation.html", "explanation.json", "explanation_image.png",
    }  # fmt: skip
    said = json.loads(command(*words, "--json").stdout)
    assert len(said["pieces"]["image"]) == 49 and said["files"] == {}
    assert sum(said["contributions"].values()) == pytest.approx(said["score"] - said["baseline"]["score"])


def test_a_dry_run_says_what_it_costs_and_writes_nothing(config_path, tmp_path, command):
    answer = command("run", config_path, "--runs", tmp_path / "runs", "--dry-run", "--json")
    assert answer.returncode == 0, answer.stderr
    plan = json.loads(answer.stdout)
    assert plan["rows"]["n"] == 160 and set(plan["steps"].values()) == {"to do"}
    for expert in ("text_expert", "vision_expert"):
        assert plan["experts"][expert]["parameters"] > 0 and plan["experts"][expert]["gflop_per_example"] > 0
    assert not (tmp_path / "runs").exists()


def test_synth_writes_a_folder_that_a_run_reads(tmp_path, command):
    out = tmp_path / "memes"
    answer = command("synth", out, "--size", 20, "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["folder"] == str(out)
    assert (out / "train.jsonl").is_file() and len(list((out / "img").iterdir())) == 20


def test_doctor_answers_for_machines(tmp_path):
    answer = bifocal("doctor", "--json", "--runs", tmp_path / "none", env={**os.environ, "HF_HUB_OFFLINE": "1"})
    found = json.loads(answer.stdout)
    assert found["offline"] is True and found["missing_extras"] == {} and found["disk_free_gib"] > 0


def test_runs_without_transformers_do_not_wait_for_it():
    code = "import sys, bifocal.pipeline.train, bifocal.system.system; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_a_terminal_that_cannot_show_every_sign_stops_nothing(tmp_path, encoding):
    (tmp_path / "posts.csv").write_text(
        "id,text,y\n" + "".join(f"{i},ёж … \N{SNOWMAN} {i},{i % 2}\n" for i in range(40)) + "x\n"
    )
    source = f"{{kind: table, root: {tmp_path / 'posts.csv'}, id: id, text: text, labels: {{y: y}}}}"
    for options in ((), ("--json",)):
        done = subprocess.run(
            [sys.executable, "-m", "bifocal", "inspect", source, *options],
            capture_output=True, timeout=300, env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert json.loads(done.stdout.decode(encoding))["usable"] == 40


CTRL_C = {
    "in a finaliser": "finaliser = Finaliser()\ndel finaliser",
    "under a bare except": "try:\n    ctrl_c()\nexcept:\n    pass",
    "in a string that is executed": "exec('ctrl_c()')",
    "anywhere": "ctrl_c()",
    "amid tidying up": "try:\n    ctrl_c()\nfinally:\n    time.sleep(0.5)\n    print('tidy')\n    sys.stdout.flush()",
    "in a library that then fails otherwise": "try:\n    ctrl_c()\nexcept KeyboardInterrupt:\n    raise TypeError",
}


@pytest.mark.parametrize("where", CTRL_C)
def test_ctrl_c_ends_a_command_wherever_it_comes(tmp_path, where):
    """Python drops an exception raised in a finaliser, a library may drop any: the command ends at once all the same,
    but whoever is tidying up is left to it."""
    code = f"""
import os, signal, sys, time
from bifocal.cli import app, doctor

def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(300)

class Finaliser:
    def __del__(self):
        ctrl_c()

def work(*_):
    exec({CTRL_C[where]!r}, globals())
    time.sleep(300)

doctor.examine = work
sys.argv = ["bifocal", "doctor"]
app.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=250,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )
    assert (done.returncode, done.stderr.strip()) == (130, "stopped")
    assert done.stdout == ("tidy\n" if where == "amid tidying up" else "")
