import json
import re

import pytest

from bifocal import plugins
from bifocal.errors import ConfigError, DataError
from bifocal.example import Rejected
from bifocal.files.folders import Files
from bifocal.files.tables import read_rows
from bifocal.sources.table import Table

N = 30
TEXTS = [f"café number {i}, ёж \N{SNOWMAN}" for i in range(N)]


def content(name, texts=TEXTS):
    if name.endswith(".json"):
        return json.dumps([{"id": i, "text": text} for i, text in enumerate(texts)], ensure_ascii=False)
    if name.endswith(("jsonl", "ndjson")):
        lines = (json.dumps({"id": i, "text": text}, ensure_ascii=False) for i, text in enumerate(texts))
        return "\n".join([*lines, ""])
    d = "\t" if name.endswith(".tsv") else ";" if "semi" in name else ","
    return "\r\n".join([f"id{d}text", *(f'{i}{d}"{text}"' for i, text in enumerate(texts)), ""])


def texts_of(folder, name, blob, **options):
    (folder / name).write_bytes(blob)
    return [row for _, row in read_rows(Files(folder), name, **options)]


NAMES = ("a.csv", "a.tsv", "a.jsonl", "a.ndjson", "a.json")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [16, 32])
def test_wide_encodings_with_a_mark_and_without(tmp_path, name, width):
    text = content(name)
    blobs = [text.encode(f"utf-{width}"), ("\ufeff" + text).encode(f"utf-{width}-be"), text.encode(f"utf-{width}-be")]
    for blob in [*blobs, text.encode(f"utf-{width}-le")]:
        found = texts_of(tmp_path, name, blob, encoding=f"utf-{width}")
        assert [row["text"] for row in found] == TEXTS
    found = texts_of(tmp_path, name, blobs[0], encoding=f"utf-{width}-le")
    assert list(found[0]) == ["id", "text"]


WESTERN = [f"caf\xe9 number {i}" for i in range(N)]
CURLY = [f"\u201ccaf\xe9\u201d number {i}" for i in range(N)]
ADVISED = {
    "UTF-16": ("a.csv", content("a.csv").encode("utf-16"), TEXTS),
    "UTF-16 without a mark": ("a.csv", content("a.csv").encode("utf-16-le"), TEXTS),
    "UTF-16 lines": ("a.jsonl", content("a.jsonl").encode("utf-16"), TEXTS),
    "UTF-16 lines, BE": ("a.jsonl", content("a.jsonl").encode("utf-16-be"), TEXTS),
    "UTF-16 JSON": ("a.json", content("a.json").encode("utf-16"), TEXTS),
    "UTF-32": ("a.tsv", content("a.tsv").encode("utf-32"), TEXTS),
    "UTF-32 lines": ("a.jsonl", content("a.jsonl").encode("utf-32-le"), TEXTS),
    "latin-1": ("a.csv", content("a.csv", WESTERN).encode("latin-1"), WESTERN),
    "latin-1 lines": ("a.jsonl", content("a.jsonl", WESTERN).encode("latin-1"), WESTERN),
    "cp1252": ("a.csv", content("a.csv", CURLY).encode("cp1252"), CURLY),
    "cp1252 JSON": ("a.json", content("a.json", CURLY).encode("cp1252"), CURLY),
    "semicolons": ("semi.csv", content("semi.csv").encode(), TEXTS),
    "tabs": ("a.csv", content("a.tsv").encode(), TEXTS),
    "commas": ("a.tsv", content("a.csv").encode(), TEXTS),
    "UTF-16 and semicolons": ("semi.csv", content("semi.csv").encode("utf-16"), TEXTS),
}


@pytest.mark.parametrize("kind", ADVISED)
def test_the_advice_leads_to_every_row(tmp_path, kind):
    name, blob, texts = ADVISED[kind]
    (tmp_path / name).write_bytes(blob)
    options, source = {}, {"root": tmp_path / name, "id": "id", "text": "text"}
    for _ in range(len(kind.split(" and "))):
        with pytest.raises(DataError) as caught:
            list(plugins.options("source", "table", {**source, **options}, Table))
        option, value = re.search(r'set the option (\w+): "?([^", ]+|,)', str(caught.value)).groups()
        options[option] = value.replace("\\t", "\t")
    rows = list(plugins.options("source", "table", {**source, **options}, Table))
    assert [row.parts.get("text") for row in rows] == texts


def test_of_another_script_no_false_advice_is_given(tmp_path):
    blob = content("a.csv", ["ёж и лиса"] * N).encode("cp1251")
    with pytest.raises(
        DataError, match=r"a.csv is not UTF-8 at byte .*: set the option encoding to that of its script"
    ):
        texts_of(tmp_path, "a.csv", blob)
    assert texts_of(tmp_path, "a.csv", blob, encoding="cp1251")[0]["text"] == "ёж и лиса"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("texts", [TEXTS, [f"plain {i}" for i in range(N)]])
@pytest.mark.parametrize("bad", [b"\xe9", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f"])
def test_one_bad_byte_costs_one_row(tmp_path, name, texts, bad):
    blob = content(name, [*texts[:12], "xxHERExx", *texts[13:]]).encode().replace(b"HERE", bad)
    found = texts_of(tmp_path, name, blob)
    assert [i for i, row in enumerate(found) if isinstance(row, Rejected)] == [12]
    assert found[12].reason == "not UTF-8" and "xx\ufffd" in found[12].row
    assert [row["text"] for row in found if isinstance(row, dict)] == texts[:12] + texts[13:]


def test_bad_bytes_in_a_few_lines_of_a_wide_file_cost_those_lines(tmp_path):
    blob = content("a.csv").encode("utf-16-le").replace("number 7".encode("utf-16-le"), b"\x00\xd8" + b"x\0" * 7)
    found = texts_of(tmp_path, "a.csv", blob, encoding="utf-16")
    assert [i for i, row in enumerate(found) if isinstance(row, Rejected)] == [7] and len(found) == N


def test_a_header_that_is_damaged_in_a_file_that_is_utf8_is_to_be_mended(tmp_path):
    with pytest.raises(DataError, match=r"not UTF-8 at byte 2 \(0xff, line 1\), and elsewhere it is: mend that line"):
        texts_of(tmp_path, "a.csv", content("a.csv").encode().replace(b"id,", b"id\xff,", 1))


def test_what_is_no_text_at_all_is_named(tmp_path):
    for blob in (b"PK\x03\x04" + bytes(range(256)) * 40, b"\x89PNG\r\n\x1a\n\0\0", b"id,te\0xt\n1,a\n"):
        with pytest.raises(DataError, match=r"a\.csv (is not UTF-8|holds zero bytes)"):
            texts_of(tmp_path, "a.csv", blob)
    with pytest.raises(DataError, match="a.csv is not UTF-16, which has many zero bytes"):
        texts_of(tmp_path, "a.csv", b"id,text\n1,a\n", encoding="utf-16")


@pytest.mark.parametrize("encoding", ["base64", "rot13", "idna", "undefined", "a\0b", "nope", ""])
def test_what_is_no_encoding_of_text_is_refused(tmp_path, encoding):
    with pytest.raises(ConfigError, match="unknown"):
        texts_of(tmp_path, "a.csv", b"id,text\n", encoding=encoding)
    with pytest.raises(ConfigError, match="encoding"):
        plugins.options("source", "table", {"root": tmp_path, "encoding": encoding}, Table)


def test_a_mark_of_utf8_wins_over_an_encoding_of_one_byte(tmp_path):
    found = texts_of(tmp_path, "a.csv", content("a.csv").encode("utf-8-sig"), encoding="cp1252")
    assert found[0] == {"id": "0", "text": TEXTS[0]}
