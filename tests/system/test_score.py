import csv
import io
import json
import os
import shutil

import pandas
import pytest

import bifocal
from bifocal.errors import DataError, RunError
from bifocal.system import score_units
from bifocal.system.score import score_file
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
    assert counts == {
        "rows": 4, "decided": 2, "failed": 2, "resumed": 0, "output": str(output), "unread": [], "without": [],
        "missing": [], "reasons": counts["reasons"],
    }  # fmt: skip
    assert sum(counts["reasons"].values()) == 2
    rows = read(output)
    assert [row["id"] for row in rows] == ["one", "two", "three", "four"]
    assert rows[0]["prob_hate"] == pytest.approx(
        system.predict("a quiet morning", tmp_path / "a.png").probability, abs=1e-5
    )
    assert "missing.png" in rows[1]["error"] and "text or image_path; none was given" in rows[3]["error"]
    assert [p.name for p in tmp_path.iterdir() if "parts" in p.name] == []


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


def test_a_killed_scoring_goes_on_after_its_last_whole_unit(system, posts, tmp_path, monkeypatch):
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    score_file(system, posts, whole, batch_size=1)
    monkeypatch.setattr(score_units, "UNIT_FILES", 1)
    with monkeypatch.context() as killed:
        interrupt(system, killed, after=2)
        with pytest.raises(Killed):
            score_file(system, posts, output, batch_size=1)
    parts = tmp_path / ".out.jsonl.parts"
    (parts / ".0000000002.jsonl.1.part").write_bytes(b'{"id": "three", "pro')
    (parts / "0000000003.jsonl").write_bytes(b"of somebody else, without a receipt")
    asked = interrupt(system, monkeypatch, after=99)
    assert score_file(system, posts, output, batch_size=1)["resumed"] == 2
    assert len(asked) == 2
    assert output.read_bytes() == whole.read_bytes() and not parts.exists()


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_units_of_any_size_hold_every_row_once(system, posts, tmp_path, monkeypatch, size):
    score_file(system, posts, tmp_path / "whole.csv", batch_size=1)
    monkeypatch.setattr(score_units, "UNIT_FILES", size)
    counts = score_file(system, posts, tmp_path / "out.csv", batch_size=1)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (counts["rows"], counts["decided"], counts["failed"]) == (4, 2, 2)


def test_a_table_that_changes_while_it_is_read_is_named(system, posts, tmp_path, monkeypatch):
    monkeypatch.setattr(score_units, "UNIT_FILES", 1)
    real = system.predict_batch

    def predict_batch(rows):
        posts.write_text("id,text\n")
        return real(rows)

    monkeypatch.setattr(system, "predict_batch", predict_batch)
    worker = score_units.Scoring(lambda: system, system.identity, posts, None, 1)(1)
    worker({"rows": [0, 1]}, io.BytesIO())
    with pytest.raises(RunError, match=r"posts\.csv was changed while it was decided on"):
        worker({"rows": [0, 1]}, io.BytesIO())


def test_workers_do_not_decide_by_a_policy_that_came_later(system, posts):
    with pytest.raises(RunError, match="policy or models were replaced"):
        score_units.Scoring(lambda: system, "another", posts, None, 1)(1)


@pytest.mark.slow
def test_processes_give_what_one_gives_and_go_on_after_it(labels_run, tmp_path, monkeypatch):
    """Records and texts in units of 40; what one process finished before it was killed is not done again."""
    monkeypatch.setattr(score_units, "UNIT_ROWS", 40)
    system, table = bifocal.load(labels_run), labels_run.parents[1] / "notes.csv"
    one = score_file(system, table, tmp_path / "one.csv", batch_size=16)
    with monkeypatch.context() as killed:
        interrupt(system, killed, after=96)
        with pytest.raises(Killed):
            score_file(system, table, tmp_path / "two.csv", batch_size=16)
    two = score_file(system, table, tmp_path / "two.csv", batch_size=16, workers=2)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert two == {**one, "resumed": 96, "output": str(tmp_path / "two.csv")}


def test_large_tables_are_spread_over_the_cores_and_a_service_is_asked_by_one(system, posts, monkeypatch):
    from bifocal.system import score

    def processes(workers):
        return score._pool(system, score_units.posts_of(system, None), posts, None, 32, workers)[0].workers

    monkeypatch.setattr(score, "cores", lambda: 3)
    assert [processes(None), processes(2)] == [1, 2]
    monkeypatch.setattr(score, "LARGE", 4)
    assert processes(None) == 3
    monkeypatch.setattr(system, "loader", None)
    assert [processes(None), processes(2)] == [1, 1]


def test_a_changed_input_is_scored_from_its_first_row(system, posts, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    monkeypatch.setattr(score_units, "UNIT_FILES", 1)
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
    with pytest.raises(DataError, match="at least one of words, text, image_path, opened, price, room is needed"):
        score_file(bifocal.load(records_run), table, tmp_path / "out.jsonl")


def test_a_second_process_on_the_same_output_stops(system, posts, tmp_path):
    import fcntl

    theirs = tmp_path / ".out.csv.1.part"
    theirs.write_text("half an output")
    (tmp_path / ".out.csv.parts").mkdir()
    held = os.open(tmp_path / ".out.csv.parts", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(RunError, match="out.csv is being written by another process"):
        score_file(system, posts, tmp_path / "out.csv")
    assert theirs.exists()  # and what that process writes is left alone
    os.close(held)
    assert score_file(system, posts, tmp_path / "out.csv")["rows"] == 4
    assert not theirs.exists()


def test_the_output_is_held_until_it_is_whole(system, posts, tmp_path, monkeypatch):
    from bifocal.system import score

    finish, refused = score._finish, []

    def finish_beside_another(*arguments):
        with pytest.raises(RunError, match="being written by another process"):
            score_file(system, posts, tmp_path / "out.csv")
        refused.append(True)
        return finish(*arguments)

    monkeypatch.setattr(score, "_finish", finish_beside_another)
    assert score_file(system, posts, tmp_path / "out.csv")["rows"] == 4
    assert refused and [p.name for p in tmp_path.iterdir() if "parts" in p.name] == []


def test_a_folder_whose_owner_just_ended_is_not_written_to(system, posts, tmp_path, monkeypatch):
    """Opened before its owner removed it, locked after: what went into it would be lost."""
    import fcntl

    real, parts = fcntl.flock, tmp_path / ".out.csv.parts"

    def flock(*arguments):
        parts.rmdir()
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunError, match="being written by another process"):
        score_file(system, posts, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("link", [False, True])
def test_the_input_is_never_overwritten(system, posts, tmp_path, link):
    before, output = posts.read_bytes(), posts
    if link:
        output = tmp_path / "link.csv"
        output.symlink_to(posts)
    with pytest.raises(DataError, match=r"\.csv is the input itself, which would be overwritten: name another output"):
        score_file(system, posts, output)
    assert posts.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('id,text,"open\n1,words,x\n', "a quote that opens in line 1, the header, is never closed"),
        ("id,comment\n1,x\n", "at least one of"),
        ("", "in.csv is empty"),
    ],
)
def test_an_input_refused_at_once_leaves_nothing_behind(system, tmp_path, content, message):
    (tmp_path / "in.csv").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        score_file(system, tmp_path / "in.csv", tmp_path / "out.csv")
    assert "option" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]


@pytest.fixture(scope="module")
def records(records_run):
    return bifocal.load(records_run)


def scored(system, table, tmp_path):
    """What `score_file` counts, its rows by id, and its notes."""
    notes = []
    counts = score_file(system, table, tmp_path / "scored.jsonl", note=notes.append)
    return counts, {row["id"]: row for row in read_jsonl(tmp_path / "scored.jsonl")}, notes


def test_a_modality_without_a_column_is_told_of(records, tmp_path):
    table = tmp_path / "houses.csv"
    table.write_text("post_id,body,price,room,opened\n7,a marble house,90,whole,2019-03-11\n")
    counts, rows, notes = scored(records, table, tmp_path)
    assert (counts["unread"], counts["without"], counts["missing"]) == (["post_id", "body"], ["text"], [])
    assert notes == ["no column for text (words, text): posts decided by tabular alone; not read: post_id, body"]
    assert rows["0"]["present"] == {"text": False, "tabular": True}


def test_a_misspelt_column_of_the_record_is_told_of(records, tmp_path):
    table = tmp_path / "houses.csv"
    table.write_text("id,text,prize,room\na,a marble house,90,whole\n")
    counts, _, notes = scored(records, table, tmp_path)
    assert (counts["unread"], counts["without"], counts["missing"]) == (["prize"], [], ["opened", "price"])
    assert notes == ["no column opened, price of the record: taken as missing; not read: prize"]


def test_rows_of_json_may_differ_in_what_they_bring(records, tmp_path):
    table = tmp_path / "houses.jsonl"
    table.write_text('{"id": 1, "price": 3}\n{"id": 2, "text": "a house", "room": "whole", "opened": "2019-03-11"}\n')
    counts, _, notes = scored(records, table, tmp_path)
    assert counts["without"] == counts["missing"] == notes == []


def test_nothing_is_noted_where_all_is_there(system, posts, tmp_path):
    assert scored(system, posts, tmp_path)[2] == []


@pytest.mark.parametrize("column", ["image_path", "img", "image"])
def test_the_picture_goes_by_several_names(system, posts, tmp_path, column):
    posts.write_text(f"id,{column}\na,a.png\n")
    counts, rows, notes = scored(system, posts, tmp_path)
    assert rows["a"]["present"] == {"text": False, "image": True} and counts["unread"] == []
    assert notes == ["no column for text (text): posts decided by image alone"]


def test_a_record_may_stand_in_an_object_of_its_own(records, tmp_path):
    row = {"price": 90, "room": "whole"}
    lines = [{"id": "nested", "tabular": row}, {"id": "flat", **row}, {"id": "odd", "tabular": {"prize": 3}}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    counts, rows, _ = scored(records, tmp_path / "in.jsonl", tmp_path)
    assert rows["nested"]["prob_dear"] == pytest.approx(rows["flat"]["prob_dear"], abs=1e-6)
    assert "did you mean 'price'" in rows["odd"]["error"] and counts["unread"] == []


def test_the_table_of_the_run_can_be_scored_as_it_is(records, records_run, tmp_path):
    houses = records_run.parent.parent / "houses.csv"
    counts, rows, notes = scored(records, houses, tmp_path)
    assert (counts["failed"], counts["unread"], notes) == (0, ["host", "dear"], [])
    with open(records_run / "errors_records.csv", newline="") as f:
        for row in csv.DictReader(f):
            assert rows[row["id"]]["prob_dear"] == pytest.approx(float(row["fusion_prob"]), abs=1e-4)


def mapped(system, monkeypatch, **options):
    """The system, had its source had these options."""
    source = system.config.source.model_validate({"kind": "table", "root": "posts.csv", **options})
    monkeypatch.setattr(system, "config", system.config.model_copy(update={"source": source}))
    return system


def test_several_columns_are_joined_as_in_training(system, monkeypatch, tmp_path):
    mapped(system, monkeypatch, text=["title", "text"], id="post")
    table = tmp_path / "in.jsonl"
    rows = [
        {"post": 5.0, "title": "One", "text": "two"},
        {"post": "b", "title": "", "text": "two"},
        {"post": "c", "text": "two"},
        {"post": " ", "title": "One"},
    ]
    table.write_text("\n".join(map(json.dumps, rows)))
    _, found, _ = scored(system, table, tmp_path)
    said = {name: row["text_used"].partition("[CAP] ")[2].partition(" [/CAP]")[0] for name, row in found.items()}
    assert said == {"5": "One two", "b": "two", "c": "two", "3": "One"}


def test_the_columns_of_several_sources_are_known(system, monkeypatch, tmp_path):
    mapped(system, monkeypatch, sources=[{"kind": "table", "text": "body"}, {"kind": "table", "text": ["a", "b"]}])
    (tmp_path / "in.csv").write_text("a,b\none,two\n")
    assert "one two" in scored(system, tmp_path / "in.csv", tmp_path)[1]["0"]["text_used"]


def test_an_option_that_means_something_else_is_no_column(system, monkeypatch, tmp_path):
    mapped(system, monkeypatch, text=True, image={"folder": "img"})
    (tmp_path / "in.csv").write_text("text\nwords\n")
    assert scored(system, tmp_path / "in.csv", tmp_path)[0]["decided"] == 1


def test_a_column_of_the_record_is_not_taken_for_a_picture(records, monkeypatch, tmp_path):
    monkeypatch.setattr(type(records), "columns", frozenset({"price", "room", "opened", "image"}))
    from bifocal.files.post_table import Posts

    (tmp_path / "in.csv").write_text("text,image\nwords,3\n")
    ((_, post),) = Posts(records.reads, records.columns, {}).read(tmp_path / "in.csv")
    assert post == {"id": None, "text": "words", "image_path": None, "tabular": {"image": "3"}}


def test_authors_are_read_for_a_service_and_not_for_a_run(system, posts, tmp_path):
    from bifocal.files.post_table import NAMES, Posts

    posts.write_text("id,text,subject,external_id\na,words,17,\n")
    assert score_file(system, posts, tmp_path / "out.csv")["unread"] == ["subject", "external_id"]
    there = Posts({"text", *NAMES}, {"external_id"}, {})  # where a record has a column of that name, it is the record's
    ((_, post),) = there.read(posts)
    assert post["subject"] == "17" and "external_id" not in post and there.unread == []


def test_a_text_that_is_a_number_is_read_as_in_training(system, tmp_path):
    import datetime
    import decimal

    lines = [{"id": "a", "text": 12}, {"id": "b", "text": 12.0}, {"id": "c", "text": 0.5}, {"id": "d", "text": ["x"]}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = scored(system, tmp_path / "in.jsonl", tmp_path)[1]
    assert [rows[name]["text_used"].split()[3] for name in "abc"] == ["12", "12", "0.5"]
    assert rows["d"]["error"] == "column 'text' holds a list; expected a text or a number"
    for cell, said in ((decimal.Decimal("3.50"), "3.5"), (datetime.date(2019, 3, 11), "2019-03-11")):
        pandas.DataFrame({"text": [cell]}).to_parquet(tmp_path / "in.parquet")
        assert scored(system, tmp_path / "in.parquet", tmp_path)[1]["0"]["text_used"].split()[3] == said


def test_a_part_that_the_run_does_not_read_is_left_out_of_a_table(records, posts, tmp_path, monkeypatch):
    monkeypatch.setattr(records.preprocessor, "transcribers", [])
    counts, rows, _ = scored(records, posts, tmp_path)
    assert counts["unread"] == ["image_path"] and rows["one"]["error"] is None


def test_a_file_that_is_no_picture_is_not_shown(system, tmp_path):
    (tmp_path / "secret").write_text("root:x:0")
    (tmp_path / "in.csv").write_text("image_path\nsecret\n")
    error = scored(system, tmp_path / "in.csv", tmp_path)[1]["0"]["error"]
    assert "the file is no picture of an allowed format" in error and "root:" not in error


def test_the_command_tells_what_is_lacking(records_run, tmp_path, capsys):
    from bifocal.cli import app as command

    (tmp_path / "in.csv").write_text("body,price\na marble house,90\n")
    arguments = ["score", str(records_run), str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv")]
    command.app(arguments, standalone_mode=False)
    shown = capsys.readouterr()
    assert "no column for text (words, text): posts decided by tabular alone" in " ".join(shown.err.split())
    assert "no column opened, room of the record: taken as missing; not read: body" in " ".join(shown.err.split())
    assert "without  text\n" in shown.out and "unread   body\n" in shown.out


def pictures_and_table(folder, small_run, name="posts.csv", **columns):
    """A table in some dialect, whose pictures lie in a folder of their own."""
    (folder / "shots").mkdir(parents=True)
    shutil.copy(small_run / "report" / "example.png", folder / "shots" / "a.png")
    rows = [{"post": str(i), "body": f"words, number {i}", "file": "a.png", **columns} for i in range(4)]
    if name.endswith(".json"):
        (folder / name).write_text(json.dumps({key: [row[key] for row in rows] for key in rows[0]}))
    elif name.endswith(("jsonl", "ndjson")):
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    else:
        with open(folder / name, "w", newline="", encoding="cp1252") as f:
            delimiter = "\t" if name.endswith(".tsv") else ";" if "semi" in name else "|"
            writer = csv.DictWriter(f, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return folder / name


@pytest.mark.parametrize("name", ["a.tsv", "semi.csv", "pipe.csv", "a.json", "a.ndjson"])
def test_what_the_run_took_is_scored_with_no_further_words(system, small_run, monkeypatch, tmp_path, name):
    table = pictures_and_table(tmp_path / "data", small_run, name, note="caf\xe9 \u201cnoir\u201d")
    delimiter = {"semi.csv": ";", "pipe.csv": "|"}.get(name)
    options = {"root": str(table), "images": "shots", "delimiter": delimiter, "id": "post", "text": "body"}
    mapped(system, monkeypatch, image="file", encoding="utf-8" if "json" in name else "cp1252", **options)
    counts, rows, notes = scored(system, table, tmp_path)
    assert (counts["decided"], counts["failed"], notes) == (4, 0, [])
    assert all(row["present"] == {"text": True, "image": True} for row in rows.values())
    elsewhere = pictures_and_table(tmp_path / "new", small_run, name)  # the same layout, another folder
    assert scored(system, elsewhere, tmp_path)[0]["decided"] == 4


def test_pictures_in_an_archive_and_in_a_folder_that_is_named(system, small_run, monkeypatch, tmp_path):
    table = pictures_and_table(tmp_path / "data", small_run, "semi.csv")
    shutil.make_archive(str(tmp_path / "data" / "all"), "zip", tmp_path / "data" / "shots")
    mapped(system, monkeypatch, images="all.zip", root=str(tmp_path / "data"), id="post", text="body", image="file")
    counts, rows, _ = scored(system, table, tmp_path)
    assert counts["failed"] == 0 and rows["0"]["present"]["image"]
    moved = table.rename(tmp_path / "posts.csv")
    assert scored(system, moved, tmp_path)[0]["decided"] == 0
    counts = score_file(system, moved, tmp_path / "out.jsonl", images=tmp_path / "data" / "shots")
    assert counts["decided"] == 4
    with pytest.raises(DataError, match=r"images: .*nowhere does not exist"):
        score_file(system, moved, tmp_path / "out.jsonl", images=tmp_path / "nowhere")


def test_a_path_is_judged_in_scoring_as_in_training(system, small_run, monkeypatch, tmp_path):
    from bifocal.sources.table import Table

    table = pictures_and_table(tmp_path / "data", small_run, "a.jsonl")
    shutil.copy(tmp_path / "data" / "shots" / "a.png", tmp_path / "out.png")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "out.png")
    inside, outside = str(tmp_path / "data" / "shots" / "a.png"), str(tmp_path / "out.png")
    paths = ["shots/a.png", inside, outside, "../out.png", "link.png", "shots/../shots/a.png", "gone.png"]
    table.write_text("\n".join(json.dumps({"id": path, "text": "words", "image": path}) for path in paths))
    mapped(system, monkeypatch, root=str(table))
    _, rows, _ = scored(system, table, tmp_path)
    source = Table(root=table, text="text", image="image")
    for path in paths:
        try:
            source.open(path)
            error = None
        except DataError as refusal:
            error = str(refusal)
        assert (rows[path]["error"] is None) == (error is None) == (path in paths[:2])
        assert error is None or rows[path]["error"] in error
    assert "only paths inside are read" in rows[outside]["error"]


def test_a_table_in_an_archive_is_scored(system, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "posts.csv").write_text("id,text\na,words\n")
    shutil.make_archive(str(tmp_path / "posts"), "zip", tmp_path / "in")
    assert scored(system, tmp_path / "posts.zip" / "posts.csv", tmp_path)[0]["decided"] == 1


def test_words_for_nothing_are_nothing_in_paths_authors_and_records_and_words_in_texts(records, monkeypatch, tmp_path):
    from bifocal.files.post_table import NAMES, Posts

    (tmp_path / "in.csv").write_text("text,price,room,subject,image_path\nNone,NULL,n/a,nan,NaN\n")
    ((_, post),) = Posts({*records.reads, *NAMES}, records.columns, {}).read(tmp_path / "in.csv")
    assert post == {"id": None, "text": "None", "image_path": None, "tabular": None, "subject": None}
    ((_, post),) = Posts({"text"}, (), {"missing_text": ["none", "None"]}).read(tmp_path / "in.csv")
    assert post["text"] is None


@pytest.mark.parametrize(("bad", "status"), [(0, 0), (1, 0), (2, 2), (20, 2)])
def test_the_command_fails_where_much_could_not_be_decided(
    small_run, system, monkeypatch, tmp_path, capsys, bad, status
):
    from bifocal.cli import app as command

    rows = [{"id": i, "text": "" if i < bad else f"words {i}"} for i in range(20)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr("bifocal.load", lambda _, **options: system)
    arguments = ["bifocal", "score", str(small_run), str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.csv"), "-q"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert (stopped.value.code or 0) == status and len(read(tmp_path / "out.csv")) == 20
    said = capsys.readouterr().err
    assert (f"{bad} of 20 rows have an error and no decision ({bad} x" in said) == (status == 2)


def test_a_table_without_rows_is_no_success(small_run, system, monkeypatch, tmp_path, capsys):
    from bifocal.system.score import refuse_undecided

    (tmp_path / "in.csv").write_text("id,text\n")
    with pytest.raises(DataError, match="nothing could be decided: the table has no rows"):
        refuse_undecided(score_file(system, tmp_path / "in.csv", tmp_path / "out.csv"))


def test_rows_that_a_stray_quote_would_swallow_are_decided_and_told_of(system, tmp_path):
    lines = [f"{i},post number {i}" for i in range(60)]
    lines[10], lines[40] = '10,"I never said that', '40,they said no"'
    (tmp_path / "in.csv").write_text("\n".join(["id,text", *lines]))
    counts, rows, notes = scored(system, tmp_path / "in.csv", tmp_path)
    assert counts["decided"] == len(rows) == 60 and "with a quote that no other closes" in notes[-1]


def test_of_several_labels_each_has_columns_and_one_that_is_not_asked_empty_cells(labels_run, tmp_path):
    import pyarrow.parquet as parquet

    system, posts = bifocal.load(labels_run), tmp_path / "posts.csv"
    posts.write_text(
        "id,words,price,room\na,sometime note about matters,20,cellar\nb,quickly note about fire here,120,hall\n"
    )
    for ending in ("csv", "jsonl", "parquet"):
        score_file(system, posts, tmp_path / f"out.{ending}")
    table = parquet.read_table(tmp_path / "out.parquet")
    types = {name: str(table.schema.field(f"labels.{name}").type) for name in ("paid.prob", "paid.label", "kind.label")}
    assert types == {"paid.prob": "double", "paid.label": "int64", "kind.label": "string"}
    assert str(table.schema.field("labels.paid.threshold").type) == "double"
    assert table["labels.kind.label"].to_pylist() == [None, "fire"] and "labels.kind" not in table.column_names
    with open(tmp_path / "out.csv", newline="") as file:
        quiet, urgent = csv.DictReader(file)
    assert (quiet["labels.kind.label"], quiet["labels.kind.prob"], urgent["labels.kind.label"]) == ("", "", "fire")
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first["labels"]["kind"] is None and first["labels"]["paid"]["label"] == 0
