"""A command that writes a named output replaces what it wrote itself, and nothing of anybody else's."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bifocal import load
from bifocal.errors import RunError
from bifocal.lab.documents.writer import check_documents, write_documents
from bifocal.lab.study import keep
from bifocal.report.explanation import write_explanation
from bifocal.serve.known_pictures import write_list
from bifocal.system.score import score_file

REFUSED = "nothing in it says that this command wrote it: .* --force"


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "lab" / "three").mkdir(parents=True)
    example = json.loads(
        (Path(__file__).parent / "lab" / "documents" / "lab_results.json").read_text(encoding="utf-8")
    )["three"]
    (tmp_path / "lab" / "three" / "results.json").write_text(json.dumps(example | {"stability": None}))
    return tmp_path / "lab"


@pytest.mark.parametrize("name", ["postmortem.md", "experiments.md", "lab/gains.svg"])
def test_the_documents_of_the_lab(lab, tmp_path, monkeypatch, name):
    monkeypatch.setattr("bifocal.lab.documents.writer.draw", lambda results: {})  # gains.svg stands for every figure
    (tmp_path / name).write_text("# What went wrong on Tuesday\n")
    with pytest.raises(RunError, match=f"{name} is there, and {REFUSED}"):
        write_documents(lab, tmp_path)
    assert (tmp_path / name).read_text() == "# What went wrong on Tuesday\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"lab", name.split("/")[0]})  # none was written
    if name.endswith(".md"):
        with pytest.raises(RunError, match=REFUSED):
            check_documents(tmp_path)  # and it is found before hours of work
    write_documents(lab, tmp_path, force=True)
    before = (tmp_path / name).read_text()
    write_documents(lab, tmp_path)
    assert (tmp_path / name).read_text() == before != "# What went wrong on Tuesday\n"


def test_the_results_that_a_lab_keeps(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text('{"verdict": "worth it"}')
    keep(tmp_path / "run", tmp_path / "kept")
    keep(tmp_path / "run", tmp_path / "kept")
    (tmp_path / "kept" / "results.json").write_text('{"mine": 1}')
    with pytest.raises(RunError, match=REFUSED):
        keep(tmp_path / "run", tmp_path / "kept")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_output_of_score(small_run, tmp_path, ending):
    system = load(small_run)
    (tmp_path / "posts.csv").write_text("id,text\n1,the garden waits\n")
    output = tmp_path / f"out.{ending}"
    output.write_text("name,salary\nada,1\n")
    with pytest.raises(RunError, match=REFUSED):
        score_file(system, tmp_path / "posts.csv", output)
    assert output.read_text() == "name,salary\nada,1\n"
    assert score_file(system, tmp_path / "posts.csv", output, force=True)["decided"] == 1
    assert score_file(system, tmp_path / "posts.csv", output)["decided"] == 1
    output.write_text("")
    assert score_file(system, tmp_path / "posts.csv", output)["decided"] == 1


def test_a_list_of_pictures(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "1.png")
    out = tmp_path / "list.csv"
    out.write_text("1.png,a note of mine\n")
    with pytest.raises(RunError, match=REFUSED):
        write_list([tmp_path / "1.png"], out)
    assert write_list([tmp_path / "1.png"], out, force=True)["written"] == 1
    assert write_list([tmp_path / "1.png"], out)["written"] == 1


def test_the_files_of_an_explanation(small_run, tmp_path):
    explanation = load(small_run).explain(text="the garden waits")
    write_explanation(explanation, tmp_path)
    write_explanation(explanation, tmp_path)
    (tmp_path / "explanation.json").write_text(json.dumps({"mine": 1}))
    with pytest.raises(RunError, match=REFUSED):
        write_explanation(explanation, tmp_path)
