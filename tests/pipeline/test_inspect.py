import json

import pytest
from PIL import Image

from bifocal.config import parse_config
from bifocal.errors import ConfigError, DataError
from bifocal.pipeline.inspect import inspect, source_of


@pytest.fixture
def posts(tmp_path):
    """Ten rows: two are one meme, one picture is no picture, one line is broken, one has no picture, one no words."""
    (tmp_path / "img").mkdir()
    lines = []
    for i in range(9):
        Image.effect_noise((40 + i, 30), 80).convert("RGB").save(tmp_path / "img" / f"{i}.png")
        row = {"id": i, "img": f"img/{i}.png", "label": i % 2, "text": f"die alte Brücke am Fluss, Nummer {i}"}
        lines.append(json.dumps(row))
    (tmp_path / "img" / "8.png").write_text("<html>")
    (tmp_path / "img" / "1.png").write_bytes((tmp_path / "img" / "0.png").read_bytes())
    lines[1] = lines[1].replace("Nummer 1", "Nummer 0")
    lines[2] = lines[2].replace('"label": 0', '"label": null')
    (tmp_path / "train.jsonl").write_text("\n".join([*lines[:4], "{broken", *lines[5:]]))
    (tmp_path / "test.jsonl").write_text(json.dumps({**json.loads(lines[0]), "id": "again"}))
    return {"kind": "hateful_memes", "root": str(tmp_path)}


@pytest.fixture
def found(posts):
    return inspect(parse_config({"run": "inspect", "source": posts}))


def test_every_row_is_counted_once(found):
    assert (found["rows"], found["usable"], found["quarantined"]) == (10, 8, 2)
    assert sum(found["parts"].values()) == 8
    assert found["splits"] == {"train": 7, "test": 1}


def test_what_would_be_quarantined_is_named(found):
    assert sum(found["reasons"].values()) == 2
    assert [row["where"] for row in found["quarantine"]] == ["train.jsonl:5", "row 9 of the source"]
    assert found["quarantine"][1]["id"] == "8"
    assert "is no picture of an allowed format" in found["quarantine"][1]["reason"]


def test_labels_languages_lengths_and_sizes(found):
    assert found["labels"] == {"abuse_hate": {"0": 3, "1": 4, "not annotated": 1}}
    assert found["languages"] == {"de": 8}
    assert found["words"] == {"min": 7, "median": 7, "p95": 7, "max": 7}
    assert found["pictures"]["formats"] == {"PNG": 8}
    assert (found["pictures"]["width"]["min"], found["pictures"]["width"]["max"]) == (40, 47)


def test_duplicates_and_what_leaks(found):
    assert found["duplicates"]["near"] == found["duplicates"]["rows_in_shared_groups"] == 3
    assert found["duplicates"]["largest_group"] == 3
    assert found["duplicates"]["leaking"] == {"test": 1}


def test_more_bad_rows_than_a_run_would_take_are_still_told(tmp_path):
    rows = [{"id": i, "img": f"{i}.png", "label": 0} for i in range(30)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"kind": "hateful_memes", "root": str(tmp_path)}
    found = inspect(parse_config({"run": "inspect", "source": source}), limit=25)
    assert (found["rows"], found["usable"], found["quarantined"]) == (25, 0, 25)
    assert found["words"] == {} and found["pictures"] == {}


def test_records_have_their_columns_described(tmp_path):
    (tmp_path / "posts.csv").write_text(
        "body,price,room,rude\nold bridge,12,shared,0\nriver,,private,1\nsea,x,shared,1\n"
    )
    source = "{kind: table, root: %s, text: body, tabular: rest, labels: {abuse_hate: rude}}" % (tmp_path / "posts.csv")
    found = inspect(source_of(source))
    assert found["columns"] == {
        "price": {"number": 1, "text": 1, "missing": 1, "distinct": 2},
        "room": {"text": 3, "missing": 0, "distinct": 2},
    }
    assert found["records"]["price"] == {
        "kind": None,
        "missing": 1,
        "odd": 0,
        "told": "column price: categories; 1 missing; NOT READ: no value stands in 5 rows",
    }
    assert found["labels"] == {"abuse_hate": {"0": 1, "1": 2, "not annotated": 0}}


def test_how_a_run_would_read_each_column_is_told(tmp_path):
    rows = [f'{i},"{1000 + i},5","1,{100 + i}",only' for i in range(120)]
    rows[7] = '7,unknown,"1,107",only'
    (tmp_path / "posts.csv").write_text("\n".join(["rude,price,size,site", *rows]))
    source = {"kind": "table", "root": str(tmp_path / "posts.csv"), "tabular": "rest"}
    source["labels"] = {"rude": {"column": "rude", "above": "median"}}
    asked = {"run": "a", "label": "rude", "source": source, "modalities": ["tabular"]}
    found = inspect(parse_config(asked))["records"]
    assert found["price"]["kind"] == "number" and found["price"]["odd"] == 1
    assert "1 of 120 cells are none ('unknown'), taken as missing" in found["price"]["told"]
    assert found["size"]["kind"] is None and "options.decimal: {size:" in found["size"]["told"]
    assert "NOT READ: the same in every row" in found["site"]["told"]
    settled = {"tabular": {"options": {"decimal": {"size": "."}}}}
    found = inspect(parse_config({**asked, "experts": settled}))["records"]
    assert found["size"]["kind"] == "number"


def test_the_source_of_a_configuration_file(tmp_path, posts):
    (tmp_path / "a.yaml").write_text(json.dumps({"run": "a", "source": posts, "limit": 3}))
    assert inspect(source_of(str(tmp_path / "a.yaml")))["rows"] == 3


@pytest.mark.parametrize("text", ["posts.csv", "{kind: [}", "posts"])
def test_what_is_no_source_is_refused(text):
    with pytest.raises(ConfigError, match=r"SOURCE (is|takes)"):
        source_of(text)


def test_a_missing_root_is_one_line(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        inspect(source_of("{kind: hateful_memes, root: %s}" % (tmp_path / "nowhere")))


def test_groups_that_the_source_declares_are_no_duplicates(tmp_path):
    lines = [f"number {i} of the quiet street,{i % 2},author" for i in range(6)]
    (tmp_path / "posts.csv").write_text("\n".join(["body,rude,by", *lines]))
    source = "{kind: table, root: %s, text: body, group: by, labels: {abuse_hate: rude}}" % (tmp_path / "posts.csv")
    found = inspect(source_of(source))["duplicates"]
    assert (found["near"], found["groups"], found["rows_in_shared_groups"]) == (0, 1, 6)


def test_a_list_of_sources_is_one_too():
    found = inspect(source_of("[{kind: synthetic, size: 3}, {kind: synthetic, size: 4, name: more}]"))
    assert found["rows"] == 7
