import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import bifocal

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """90 posts as a team may have them: yes and no, dates, countries, and pictures in another place on the disk."""
    place = tmp_path_factory.mktemp("team")
    pictures = place / "elsewhere" / "pictures"
    pictures.mkdir(parents=True)
    rng = random.Random(0)
    (place / "work").mkdir()
    with (place / "work" / "posts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["post_id", "author", "email", "body", "photo", "posted", "country", "hateful"])
        for i in range(90):
            y = rng.random() < 0.4
            word = rng.choice(["scum", "vermin"] if y else ["friends", "guests"])
            Image.new("RGB", (24, 24), (200 if y else 40, i, 80)).save(pictures / f"{i}.jpg")
            text = f"the {word} at number {i} are {rng.choice(['late', 'here', 'gone'])} again"
            row = [f"p{i}", f"u{i % 30}", f"u{i}@example.com", text, f"{i}.jpg", f"2026-03-{1 + i % 28:02}"]
            writer.writerow([*row, rng.choice(["DE", "US"]), "yes" if y else "no"])
    return place


def test_two_commands_lead_to_a_model(place, command):
    here = place / "work"
    answer = command("init", "posts.csv", "--images", "../elsewhere/pictures", cwd=here)
    assert answer.returncode == 0, answer.stderr
    assert "bifocal run posts.yaml" in answer.stdout and "looks personal: an e-mail address" in answer.stdout
    quick = ["--set", "ocr=never", "--set", "experts.image.epochs=1", "--set", "bootstrap=200"]
    answer = command("run", "posts.yaml", "-q", *quick, "--set", "fusion.strategy=mean", cwd=here)
    assert answer.returncode == 0, answer.stderr
    answer = command("predict", "runs/posts", "--text", "the scum at number 7 are late again", "--json", cwd=here)
    assert json.loads(answer.stdout)["prob_hateful"] > 0.5
    answer = command("score", "runs/posts", "posts.csv", "-o", "decisions.csv", cwd=here)
    assert answer.returncode == 0, answer.stderr
    (place / "next").mkdir()
    shutil.copy(here / "posts.csv", place / "next" / "april.csv")  # another table, in another folder: the same pictures
    answer = command("score", "runs/posts", "../next/april.csv", "-o", "april.csv", cwd=here)
    assert answer.returncode == 0, answer.stderr
    for name in ("decisions.csv", "april.csv"):
        with (here / name).open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 90 and all(row["present.image"] == "True" for row in rows)


def test_a_configuration_that_is_there_is_kept_unless_forced(place, command, tmp_path):
    shutil.copytree(place / "work", tmp_path / "copy", ignore=shutil.ignore_patterns("runs"))
    path = tmp_path / "copy" / "mine.yaml"
    path.write_text("mine")
    words = ["init", "posts.csv", "--drop", "photo", "-o", "mine.yaml"]
    answer = command(*words, cwd=path.parent)
    assert answer.returncode == 2 and "mine.yaml is there already: name another file with -o" in answer.stderr
    assert path.read_text() == "mine"
    answer = command(*words, "--force", "--json", cwd=path.parent)
    assert answer.returncode == 0 and path.read_text() != "mine"
    told = json.loads(answer.stdout)
    assert (told["run"], told["rows"], told["columns"]["hateful"]["role"]) == ("mine", 90, "label")


def test_without_posts_the_configurations_that_come_along_are_listed(command, tmp_path):
    answer = command("init", cwd=tmp_path)
    names = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert answer.returncode == 0 and names
    assert all(re.search(rf"^{name} ", answer.stdout, re.MULTILINE) for name in names)
    assert set(json.loads(command("init", "--json", cwd=tmp_path).stdout)) == names


def test_a_configuration_runs_by_name_once_the_package_is_installed(tmp_path):
    installed = tmp_path / "site-packages"
    shutil.copytree(ROOT / "src" / "bifocal", installed / "bifocal", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", installed / "bifocal" / "configs")  # as the wheel has them: pyproject.toml
    assert '"configs" = "bifocal/configs"' in (ROOT / "pyproject.toml").read_text()
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "bifocal", "run", "pilot", "--dry-run", "--json"],
        cwd=tmp_path / "empty",
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "pilot"


def test_an_unknown_name_is_answered_with_the_nearest_and_with_init(command, tmp_path):
    answer = command("run", "pilto", cwd=tmp_path)
    assert answer.returncode == 2 and "did you mean 'pilot'?" in answer.stderr and "bifocal init POSTS" in answer.stderr


def test_the_version(command, tmp_path):
    assert command("--version", cwd=tmp_path).stdout == f"bifocal {bifocal.__version__}\n"


@pytest.mark.parametrize("words", [[], ["policy"], ["run"], ["init"]])
def test_help_is_whole_at_80_columns(words):
    done = subprocess.run(
        [sys.executable, "-m", "bifocal", *words, "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "..." not in done.stdout.replace("[ARGS]...", "")
    assert max(map(len, done.stdout.splitlines())) <= 80
