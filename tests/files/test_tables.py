import datetime
import json
import os
from pathlib import Path

import pytest

from bifocal.errors import ConfigError, DataError
from bifocal.example import Rejected
from bifocal.files import tables as _tables
from bifocal.files.folders import Files
from bifocal.files.tables import read_rows


def read(folder: Path, name: str, content: str | bytes, **options) -> list:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(Files(folder), name, **options))


ROWS = [{"id": "1", "text": "a lamp"}, {"id": "2", "text": None}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,text\n1,a lamp\n2,\n"),
        ("a.CSV", "id,text\n1,a lamp\n2,\n"),
        ("a.csv", "\ufeffid,text\r\n1,a lamp\r\n\r\n2,"),
        ("a.csv", '"id", text \n"1","a lamp"\n2,""\n'),
        ("a.tsv", "id\ttext\n1\ta lamp\n2\t\n"),
        ("a.jsonl", '{"id": "1", "text": "a lamp"}\n\n{"id": "2", "text": null}'),
        ("a.ndjson", '\ufeff{"id": "1", "text": "a lamp"}\r\n{"id": "2", "text": NaN}\r\n'),
        ("a.json", json.dumps(ROWS)),
    ],
)
def test_every_kind_gives_the_same_rows(tmp_path, name, content):
    assert [row for _, row in read(tmp_path, name, content)] == ROWS


def test_places_are_lines(tmp_path):
    found = read(tmp_path, "a.csv", 'id,text\n1,"two\nlines"\n2,x\n')
    assert found == [("a.csv:2", {"id": "1", "text": "two\nlines"}), ("a.csv:4", {"id": "2", "text": "x"})]
    assert [where for where, _ in read(tmp_path, "a.jsonl", '{"id": 1}\n\n{"id": 2}\n')] == ["a.jsonl:1", "a.jsonl:3"]
    assert [where for where, _ in read(tmp_path, "a.json", '[{"id": 1}]')] == ["a.json:1"]


def test_json_by_key_tells_the_key(tmp_path):
    found = read(tmp_path, "a.json", '{"x": {"text": "a lamp"}, "y": {"key": 5}, "z": 3}')
    assert found[:2] == [("a.json:x", {"key": "x", "text": "a lamp"}), ("a.json:y", {"key": 5})]
    assert found[2][1] == Rejected(None, "a.json:z", "a JSON int where an object is expected", 3)


def test_parquet_keeps_its_types(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"id": [1, 2], "when": [datetime.date(2020, 1, 2), None], "x": [0.5, float("nan")], "b": [True, None]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert list(read_rows(Files(tmp_path), "a.parquet")) == [
        ("a.parquet:1", {"id": 1, "when": datetime.date(2020, 1, 2), "x": 0.5, "b": True}),
        ("a.parquet:2", {"id": 2, "when": None, "x": None, "b": None}),
    ]


def test_a_broken_parquet_is_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"id": list(range(1000))}), tmp_path / "a.parquet")
    blob = (tmp_path / "a.parquet").read_bytes()
    for broken in (b"", b"no parquet", blob[: len(blob) // 2], b"\xff" * 400 + blob[400:]):
        with pytest.raises(DataError, match="a.parquet is no Parquet file that can be read") as raised:
            read(tmp_path, "a.parquet", broken)
        assert "\n" not in str(raised.value)


def test_a_table_in_an_archive_streams(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("posts.csv", "id\n" + "".join(f"{i}\n" for i in range(200_000)))
    rows = read_rows(Files(tmp_path / "a.zip"), "posts.csv")
    assert [next(rows)[1] for _ in range(3)] == [{"id": "0"}, {"id": "1"}, {"id": "2"}]


def test_memory_does_not_grow_with_the_file(tmp_path):
    import tracemalloc

    with open(tmp_path / "a.csv", "w") as file:
        file.write("id,text\n" + "12345,a lamp on a table\n" * 20_000)
    tracemalloc.start()
    assert sum(1 for _ in read_rows(Files(tmp_path), "a.csv")) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000


def test_a_cell_that_is_too_long_is_called_so(tmp_path):
    found = read(tmp_path, "a.csv", "id,text\n1," + "x" * 200_000 + "\n2,fine\n")
    assert [where for where, _ in found] == ["a.csv:2", "a.csv:3"]
    assert found[0][1].reason == ("the line holds a cell of over 131,072 characters, the most that is read: shorten it")
    assert found[1][1] == {"id": "2", "text": "fine"}
    content = 'id,text\n1,"open\n' + "2,fine and long\n" * 9000
    reasons = {row.reason for _, row in read(tmp_path, "b.csv", content, quotes="standard")[:2]}
    assert len(reasons) == 1 and "shorten it, or close its quote" in reasons.pop()


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", b"id,text\n1,caf\xe9\n", {}, r"a.csv is not UTF-8 at byte 13 \(0xe9, line 2\): .* latin-1"),
        ("a.csv", b"id,text\n" + b"1,x\n" * 500 + b"2,\xff\n" * 500, {}, r"byte 2010 \(0xff, line 502\)"),
        (
            "a.tsv",
            "id\ttext\n1\ta\n".encode("utf-16"),
            {},
            r"a.tsv is not UTF-8 at byte 0 \(0xff, line 1\).*encoding: utf-16",
        ),
        ("a.json", b'[{"text": "caf\xe9"}]', {}, r"a.json is not UTF-8 at byte 14"),
        ("a.csv", "id;text\n1;a\n", {}, "a.csv has the one column 'id;text': set the option delimiter: \";\""),
        ("a.csv", "id\ttext\n1\ta\n", {}, r'delimiter: "\\t"'),
        ("a.tsv", "id,text\n1,a\n", {}, 'delimiter: ","'),
        ("a.csv", "id,text,id\n1,a,2\n", {}, "a.csv has two columns of the name 'id': rename one"),
        ("a.csv", "1,0.5,7\n2,0.5,8\n", {}, r"a.csv begins with \['1', '0.5', '7'\], not with the names"),
        ("a.csv", "", {}, "a.csv is empty; expected a line with the names of the columns"),
        ("a.csv", "\n\n", {}, "a.csv is empty"),
        ("a.xlsx", b"", {}, "a.xlsx is no table that can be read; known endings: .csv, .tsv"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', {}, r"a.json is not valid JSON: .* name it .jsonl"),
        ("a.json", "[" * 100_000, {}, "a.json is not valid JSON"),
        ("a.json", '{"a": 1}', {}, r"a.json holds a JSON dict; expected a list of rows, or \{key: row\}"),
        ("a.json", "3", {}, "a.json holds a JSON int"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole(tmp_path, name, content, options, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, name, content, **options)


def test_a_missing_file_and_an_unknown_encoding(tmp_path):
    with pytest.raises(DataError, match="missing.csv is missing"):
        list(read_rows(Files(tmp_path), "missing.csv"))
    with pytest.raises(ConfigError, match="encoding: 'utf8mb4' is unknown; utf-8, utf-16, latin-1"):
        read_rows(Files(tmp_path), "a.csv", encoding="utf8mb4")


def test_another_encoding_or_delimiter_is_an_option(tmp_path):
    assert read(tmp_path, "a.csv", b"id;text\n1;caf\xe9\n", delimiter=";", encoding="latin-1") == [
        ("a.csv:2", {"id": "1", "text": "café"})
    ]
    assert read(tmp_path, "a.jsonl", b'{"text": "caf\xe9"}', encoding="latin-1")[0][1] == {"text": "café"}
    assert read(tmp_path, "a.csv", "id,text\n1,x\n".encode("utf-16"), encoding="utf-16")[0][1]["text"] == "x"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2,a lamp, a table", r"3 cells where the header has 2 \(a ',' without quotes\?\)"),
        ("2", "1 cells where the header has 2"),
    ],
)
def test_a_bad_line_of_csv_is_rejected_and_the_rest_is_read(tmp_path, line, reason):
    (_, first), (where, bad), (_, last) = read(tmp_path, "a.csv", f"id,text\n1,x\n{line}\n3,y\n")
    assert (first["id"], last["id"]) == ("1", "3")
    assert isinstance(bad, Rejected)
    assert where == bad.where == "a.csv:3"
    import re

    assert re.match(reason, bad.reason)


def test_an_open_quote_swallows_no_rows(tmp_path):
    rows = [f"{i},text {i}" for i in range(20_000)]
    rows[10] = '10,"a lamp'
    content = "\n".join(["id,text", *rows])
    found = [row for _, row in read(tmp_path, "a.csv", content)]
    assert len(found) == 20_000 and found[10] == {"id": "10", "text": '"a lamp'} and found[11]["text"] == "text 11"
    found = [row for _, row in read(tmp_path, "a.csv", content, quotes="standard")]
    bad = [row for row in found if isinstance(row, Rejected)]
    assert bad[0].where == "a.csv:12" and bad[0].row == '10,"a lamp\n'
    assert bad[0].reason.startswith("lines 12 to ")
    assert len(found) == 20_000  # each line that was swallowed counts: most of them, and the run stops


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": 2, "text": ', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"id": 2, "text": "caf\xe9"}', "not UTF-8"),
        (b'"a lamp"', "a JSON str where an object is expected"),
        (b'{"id": ' + b"[" * 51 + b"]" * 51 + b"}", "lists or objects within one another, more than 50 deep"),
    ],
)
def test_a_bad_line_of_json_is_rejected_and_the_rest_is_read(tmp_path, line, reason):
    (_, first), (_, bad), (_, last) = read(tmp_path, "a.jsonl", b'{"id": 1}\n' + line + b'\n{"id": 3}\n')
    assert (first["id"], last["id"]) == (1, 3)
    assert (bad.where, bad.reason) == ("a.jsonl:2", reason)
    json.dumps(bad.to_json())


def test_a_line_without_end_is_not_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(_tables, "MAX_LINE", 2**20)
    content = b'{"id": "' + b"x" * 5 * 2**20 + b'"}\n{"id": 2}\n'
    (_, bad), (where, row) = read(tmp_path, "a.jsonl", content)
    assert bad.reason == "a line of over 1 MiB"
    assert len(bad.row) == 200
    assert (where, row) == ("a.jsonl:2", {"id": 2})


def test_columns_without_a_name_get_their_place(tmp_path):
    assert read(tmp_path, "a.csv", ",text,\n0,a lamp,\n")[0][1] == {"column 1": "0", "text": "a lamp", "column 3": None}


def test_real_tables_are_read_whole():
    data = Path(os.environ.get("BIFOCAL_DATA", "../shared")) / "data"
    if not data.is_dir():
        pytest.skip("no data here; BIFOCAL_DATA names the folder that holds data/")
    counts = {"airbnb_nyc": 48_895, "womens_clothing": 23_486, "fashion_small": 20_000, "edos": 20_000}
    for folder, expected in counts.items():
        (name,) = (p.name for p in (data / folder).glob("*.csv"))
        rows = [row for _, row in read_rows(Files(data / folder), name)]
        assert len(rows) == expected
        assert not any(isinstance(row, Rejected) for row in rows)


def odd_parquet(path):
    """Thirty rows: of one the text is no UTF-8, of one the day lies beyond the year 9999."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = [f"text {i}".encode() for i in range(30)]
    texts[7] = b"caf\xe9"
    days = pa.array([10_000_000 if i == 9 else i for i in range(30)], pa.int32()).cast(pa.date32())
    table = pa.table({"id": list(range(30)), "text": pa.array(texts, pa.binary()).view(pa.string()), "day": days})
    parquet.write_table(table, path)
    return table


def test_a_cell_of_parquet_that_cannot_be_read_costs_its_row(tmp_path):
    odd_parquet(tmp_path / "a.parquet")
    found = [row for _, row in read_rows(Files(tmp_path), "a.parquet")]
    bad = {i: row for i, row in enumerate(found) if isinstance(row, Rejected)}
    assert len(found) == 30 and list(bad) == [7, 9]
    assert bad[7].reason == "column 'text' (string) holds what cannot be read: not UTF-8"
    assert bad[9].reason.startswith("column 'day' (date32[day]) holds what cannot be read: ") and found[8]["id"] == 8
    assert bad[9].where == "a.parquet:10"


def test_two_columns_of_one_name_in_parquet_and_in_json(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="a.parquet has two columns of the name 'a': rename one"):
        list(read_rows(Files(tmp_path), "a.parquet"))
    found = read(tmp_path, "a.jsonl", '{"id": 1}\n{"id": 2, "a": 1, "a": 2}\n')
    assert found[0][1] == {"id": 1} and found[1][1].reason == "two values under the one name 'a': keep one"


@pytest.mark.parametrize("orient", ["records", "columns", "list", "index"])
def test_json_as_pandas_writes_it(tmp_path, orient):
    rows = [{"id": f"p{i}", "text": f"text {i}"} for i in range(12)]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    content = {
        "records": rows,
        "list": columns,
        "columns": {key: {str(i): cell for i, cell in enumerate(cells)} for key, cells in columns.items()},
        "index": {str(i): row for i, row in enumerate(rows)},
    }[orient]
    found = [row for _, row in read(tmp_path, "a.json", json.dumps(content))]
    assert [{"id": row["id"], "text": row["text"]} for row in found] == rows
