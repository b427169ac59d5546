import csv
import json
import shutil

import pandas
import pytest

import bifocal
from bifocal.errors import DataError, RunError
from bifocal.score import score_file
from bifocal.workspace import read_jsonl


@pytest.fixture(scope="module")
def system(small_run):
    return bifocal.load(small_run)


@pytest.fixture
def posts(tmp_path, small_run):
    shutil.copy(next((small_run / "report").glob("example.png")), tmp_path / "a.png")
    path = tmp_path / "posts.csv"
    rows = [
        ("one", "a quiet morning", "a.png"),
        ("two", "", "missing.png"),
        ("three", "só, é “ok”", ""),
        ("four", "", ""),
    ]
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("id", "text", "image_path"), *rows])
    return path


def read(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    table = pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
    return table.to_dict("records")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_every_row_comes_out_in_order_and_a_bad_one_stops_nothing(system, posts, tmp_path, ending):
    output = tmp_path / f"out.{ending}"
    counts = score_file(system, posts, output, batch_size=2)
    assert counts == {"rows": 4, "decided": 2, "failed": 2, "resumed": 0, "output": str(output)}
    rows = read(output)
    assert [row["id"] for row in rows] == ["one", "two", "three", "four"]
    assert rows[0]["prob_hate"] == pytest.approx(
        system.predict("a quiet morning", tmp_path / "a.png").probability, abs=1e-5
    )
    assert "missing.png" in rows[1]["error"] and "text or image_path; none was given" in rows[3]["error"]
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_the_input_may_be_jsonl_or_parquet(system, tmp_path):
    rows = [{"id": i, "text": f"words number {i}"} for i in range(3)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    pandas.DataFrame(rows).to_parquet(tmp_path / "in.parquet")
    a = score_file(system, tmp_path / "in.jsonl", tmp_path / "a.jsonl")
    b = score_file(system, tmp_path / "in.parquet", tmp_path / "b.jsonl")
    assert a["decided"] == b["decided"] == 3
    assert read(tmp_path / "a.jsonl") == read(tmp_path / "b.jsonl")


class Killed(BaseException):
    """Stands for a SIGKILL between two batches."""


def interrupt(system, monkeypatch, after):
    """Let `predict_batch` answer some calls and then die; gives the rows it was asked for."""
    asked = []
    real = system.predict_batch

    def predict_batch(rows):
        if len(asked) == after:
            raise Killed
        asked.extend(rows)
        return real(rows)

    monkeypatch.setattr(system, "predict_batch", predict_batch)
    return asked


def test_bad_rows_of_every_kind_stop_nothing(system, tmp_path):
    lines = ['{"id": "a", "text": "words"}', "{broken", "[1]", '{"id": "b", "image_path": 5}']
    lines += [json.dumps({"id": "c", "image_path": "x" * 300}), r'{"id": "\ud800", "text": "more words"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    output = tmp_path / "out.jsonl"
    assert score_file(system, tmp_path / "in.jsonl", output)["failed"] == 4
    errors = [row["error"] for row in map(json.loads, output.read_text().splitlines())]
    assert errors[0] is None and errors[5] is None
    assert errors[1] == "in.jsonl:2: not valid JSON" and "in.jsonl:3: a JSON list" in errors[2]
    assert "found int" in errors[3] and "cannot be read" in errors[4]


def test_labels_keep_their_type_in_parquet(system, posts, tmp_path):
    score_file(system, posts, tmp_path / "out.parquet")
    assert set(pandas.read_parquet(tmp_path / "out.parquet")["label"].dropna()) <= {0, 1}


def test_a_killed_scoring_goes_on_after_its_last_whole_row(system, posts, tmp_path, monkeypatch):
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    score_file(system, posts, whole, batch_size=1)
    interrupt(system, monkeypatch, after=2)
    with pytest.raises(Killed):
        score_file(system, posts, output, batch_size=1)
    partial = tmp_path / ".out.jsonl.partial.jsonl"
    partial.write_bytes(partial.read_bytes() + b'{"id": "three", "pro')
    monkeypatch.undo()
    asked = interrupt(system, monkeypatch, after=99)
    assert score_file(system, posts, output, batch_size=1)["resumed"] == 2
    assert len(asked) == 2
    assert output.read_text(encoding="utf-8") == whole.read_text(encoding="utf-8")


def test_a_changed_input_is_scored_from_its_first_row(system, posts, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    interrupt(system, monkeypatch, after=2)
    with pytest.raises(Killed):
        score_file(system, posts, output, batch_size=1)
    monkeypatch.undo()
    posts.write_text("id,text\nnew,other words\n")
    assert score_file(system, posts, output)["resumed"] == 0
    assert [row["id"] for row in read(output)] == ["new"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.txt", "x", r"should end in one of \.csv"),
        ("in.csv", "id,comment\n1,x\n", "has the columns id, comment"),
        ("in.parquet", "PAR0", r"in\.parquet is no Parquet file"),
    ],
)
def test_an_unusable_input_is_named(system, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        score_file(system, tmp_path / name, tmp_path / "out.csv")


def test_an_input_that_is_not_utf8_is_named(system, tmp_path):
    (tmp_path / "in.csv").write_bytes("id,text\n1,café\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"in\.csv is not UTF-8 at byte 13 \(0xe9, line 2\)"):
        score_file(system, tmp_path / "in.csv", tmp_path / "out.csv")


def test_a_missing_input_is_named(system, tmp_path):
    with pytest.raises(DataError, match=r"there is no input file"):
        score_file(system, tmp_path / "nothing.csv", tmp_path / "out.csv")


def test_columns_of_the_record_are_read_and_others_left_alone(records_run, tmp_path):
    table = tmp_path / "houses.csv"
    table.write_text(
        "id,text,price,room,colour\na,a marble house,90,whole,red\nb,,10,,\nc,a plain house,,,\nd,,much,,\n"
    )
    counts = score_file(bifocal.load(records_run), table, tmp_path / "out.jsonl")
    assert (counts["decided"], counts["failed"]) == (3, 1)
    rows = {row["id"]: row for row in read_jsonl(tmp_path / "out.jsonl")}
    assert rows["b"]["present"] == {"text": False, "tabular": True}
    assert "price" in rows["d"]["error"]


def test_a_table_with_nothing_to_read_names_what_it_may_hold(records_run, tmp_path):
    table = tmp_path / "houses.csv"
    table.write_text("colour\nred\n")
    with pytest.raises(DataError, match="at least one of text, image_path, opened, price, room is needed"):
        score_file(bifocal.load(records_run), table, tmp_path / "out.jsonl")


def test_a_second_process_on_the_same_output_stops(system, posts, tmp_path):
    import fcntl

    with open(tmp_path / ".out.csv.partial.jsonl", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="out.csv is being written by another process"):
            score_file(system, posts, tmp_path / "out.csv")
    assert score_file(system, posts, tmp_path / "out.csv")["rows"] == 4
