import csv
import json
import os
import pickle
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from bifocal import plugins
from bifocal.errors import ConfigError, DataError
from bifocal.example import Example, Rejected, Taxonomy
from bifocal.sources.table import Table

ROWS = [
    {"id": "1", "words": "a lamp", "file": "1.png", "age": "3", "bad": "yes"},
    {"id": "2", "words": "", "file": "2.png", "age": "", "bad": "no"},
    {"id": "3", "words": "a table", "file": "", "age": "5", "bad": ""},
]
OPTIONS = {"id": "id", "text": "words", "image": "file", "tabular": ["age"]} | {
    "labels": {"abuse_hate": {"column": "bad", "map": {True: 1, False: 0}}}
}
PARTS = [
    {"text": "a lamp", "image": "1.png", "tabular": {"age": "3"}},
    {"image": "2.png"},
    {"text": "a table", "tabular": {"age": "5"}},
]


def write(path: Path, rows: list[dict] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def pictures(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(name.encode())
    return folder


def packed(folder: Path, archive: Path) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, "w") as file:
            file.add(folder, ".")
    return archive


def table(**options) -> Table:
    return plugins.options("source", "table", options, Table)


@pytest.mark.parametrize("name", ["posts.csv", "posts.tsv", "posts.jsonl"])
def test_a_row_becomes_an_example_whatever_the_file(tmp_path, name):
    pictures(write(tmp_path / name).parent)
    source = table(root=tmp_path, **OPTIONS)
    rows = list(source)
    assert [row.id for row in rows] == ["1", "2", "3"]
    assert [row.parts for row in rows] == PARTS
    assert [row.labels["abuse_hate"] for row in rows] == [1, 0, None]
    assert [row.meta for row in rows] == [{}] * 3
    assert source.open("1.png") == b"1.png"
    assert source.text_role == "caption"


def test_parquet_too(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "posts.parquet")
    assert [row.parts for row in table(root=tmp_path, **OPTIONS)] == PARTS


@pytest.mark.parametrize(
    "where", ["folder", "file", "tar", "zip", "tar below", "zip below", "folder in zip", "table in zip"]
)
def test_table_and_pictures_lie_where_they_lie(tmp_path, where):
    data = tmp_path / "data"
    write(data / "posts.csv")
    images = pictures(data / "shots" / "all")
    options = {"root": data, "images": "shots/all"}
    if where == "file":
        options["root"] = data / "posts.csv"
    elif where in ("tar", "zip"):
        options["root"] = packed(data, tmp_path / f"a.{where}")
    elif where in ("tar below", "zip below"):
        options["images"] = packed(images, data / f"shots.{where[:3]}").name
    elif where == "folder in zip":
        options["root"] = packed(tmp_path, tmp_path.parent / f"{tmp_path.name}.zip") / "data"
    elif where == "table in zip":
        options["root"] = packed(data, tmp_path / "a.zip") / "posts.csv"
    source = table(**options, **OPTIONS)
    rows = list(source)
    assert [row.parts for row in rows] == PARTS
    assert [source.open(name) for name in ("1.png", "2.png")] == [b"1.png", b"2.png"]
    with pytest.raises(DataError, match="^picture .*only paths inside are read"):
        source.open("../all/1.png")
    with pytest.raises(DataError, match=r"^picture .*3.png is missing"):
        source.open("3.png")
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy) == rows
    assert copy.fingerprint() == source.fingerprint()


def test_one_file_per_split(tmp_path):
    for i, name in enumerate(["a/train.csv", "dev.csv", "late.csv"]):
        write(tmp_path / name, [ROWS[i] | {"day": "test" if i == 0 else ""}])
    files = {"train": "a/train.csv", "dev": "dev.csv", "test": "late.csv"}
    options = OPTIONS | {"id": None}
    found = [(row.id, row.split) for row in table(root=tmp_path, file=files, **options)]
    assert found == [("a/train.csv:1", "train"), ("dev.csv:1", "val"), ("late.csv:1", "test")]
    found = [row.split for row in table(root=tmp_path, file=files, split="day", **options)]
    assert found == ["test", "val", "test"]  # what the row says of itself counts
    found = [(row.id, row.split) for row in table(root=tmp_path, file=["late.csv", "dev.csv"], **options)]
    assert found == [("late.csv:1", None), ("dev.csv:1", None)]


def test_tables_named_after_splits_are_found(tmp_path):
    for i, name in enumerate(["test.csv", "valid.csv", "train.csv", ".hidden.csv"]):
        write(tmp_path / name, [ROWS[i % 3]])
    write(tmp_path / "notes" / "other.csv")
    assert [(row.id, row.split) for row in table(root=tmp_path, **OPTIONS)] == [
        ("3", "train"),
        ("2", "val"),
        ("1", "test"),
    ]


def test_a_lone_table_below_is_found(tmp_path):
    write(tmp_path / "data" / "train.csv")
    assert [row.split for row in table(root=tmp_path, **OPTIONS)] == ["train"] * 3
    write(tmp_path / "posts.csv")
    assert [row.split for row in table(root=tmp_path, **OPTIONS)] == [None] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"holds 2 tables \(one.csv, two.csv\): say which under `file`"),
        ({"file": "one.cvs"}, r"there is no file 'one.cvs' below .*; did you mean 'one.csv'\? known: one.csv, two.csv"),
        ({"file": "../one.csv"}, "there is no file '../one.csv'"),
        ({"file": {"train": "one.csv", "test": "x.csv"}}, "there is no file 'x.csv'"),
        ({"file": "one.csv", "images": "pics"}, r"images: .*pics does not exist; expected a folder, .tar or .zip"),
        ({"file": "one.csv", "text": "wrods"}, r"one.csv has no column 'wrods' \(text\); did you mean 'words'"),
    ],
)
def test_what_is_missing_stops_at_once_and_is_named(tmp_path, options, message):
    write(tmp_path / "one.csv")
    write(tmp_path / "two.csv")
    with pytest.raises(DataError, match=message):
        iter(table(root=tmp_path, **options))


def test_no_table_at_all(tmp_path):
    (tmp_path / "notes.xlsx").touch()
    with pytest.raises(DataError, match=r"holds notes.xlsx; expected a table \(.csv, .tsv, .jsonl"):
        iter(table(root=tmp_path))
    with pytest.raises(DataError, match="nowhere does not exist; expected a table"):
        iter(table(root=tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"there is no file 'posts.csv' below .*; known: none"):
        iter(table(root=tmp_path / "posts.csv"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": {"holdout": "a.csv"}}, "file: 'holdout' is no split"),
        ({"delimiter": ";;"}, "delimiter = ';;'"),
        ({"label": {"abuse_hate": "bad"}}, "unknown key 'label'"),
        ({}, "'root' is required"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        table(**({"root": "x"} if options else {}), **options)


def test_bad_rows_are_rejected_and_keep_their_number(tmp_path):
    (tmp_path / "posts.csv").write_text("words,bad\na lamp,1\ntoo,many,cells\na table,2\na chair,0\n")
    rows = list(table(root=tmp_path, text="words", labels={"abuse_hate": "bad"}))
    assert [row.id for row in rows] == ["1", None, "3", "4"]
    assert [type(row) for row in rows] == [Example, Rejected, Rejected, Example]
    assert rows[2].where == "posts.csv:4"
    assert rows[2].row == {"words": "a table", "bad": "2"}


def test_a_label_of_an_unlabelled_test_file_is_null(tmp_path):
    write(tmp_path / "train.csv")
    write(tmp_path / "test.csv", [{key: value for key, value in row.items() if key != "bad"} for row in ROWS])
    found = [row.labels["abuse_hate"] for row in table(root=tmp_path, **OPTIONS)]
    assert found == [1, 0, None, None, None, None]


def test_classes_are_sought_once(tmp_path, monkeypatch):
    write(tmp_path / "posts.csv", [{"words": "x", "tone": tone} for tone in "abab"])
    source = table(root=tmp_path, text="words", labels={"tone": "tone"})
    assert source.labels()["tone"].classes == ("a", "b")
    passes = []
    monkeypatch.setattr(
        Table, "_good_rows", lambda self, name: passes.append(name) or iter([{"words": "", "tone": ""}])
    )
    assert [row.labels["tone"] for row in source] == list("abab")
    assert passes == ["posts.csv"]  # to see that the columns are there, and not again for the classes


def test_the_fingerprint_follows_tables_and_options_and_no_picture(tmp_path):
    write(tmp_path / "posts.csv")
    pictures(tmp_path / "images")
    source = table(root=tmp_path, images="images", **OPTIONS)
    before = source.fingerprint()
    (tmp_path / "images" / "3.png").touch()
    assert table(root=tmp_path, images="images", **OPTIONS).fingerprint() == before
    assert table(root=tmp_path, images="images", **OPTIONS | {"tabular": []}).fingerprint() != before
    write(tmp_path / "posts.csv", ROWS[:2])
    assert table(root=tmp_path, images="images", **OPTIONS).fingerprint() != before


def test_options_without_a_part_stop_at_once_instead_of_rejecting_every_row(tmp_path):
    write(tmp_path / "posts.csv")
    with pytest.raises(DataError, match="no text, image or tabular column, .* columns: age, bad, file, id, words"):
        iter(table(root=tmp_path / "posts.csv", id="id"))


@pytest.mark.parametrize("delimiter", ["tab", "\\t", "\t"])
def test_a_tab_has_three_names(tmp_path, delimiter):
    write(tmp_path / "posts.tsv").rename(tmp_path / "posts.csv")
    assert [row.parts for row in table(root=tmp_path, delimiter=delimiter, **OPTIONS)] == PARTS


def test_a_missing_picture_says_where_it_was_sought_and_what_to_set(tmp_path):
    write(tmp_path / "posts.csv")
    pictures(tmp_path / "shots")
    with pytest.raises(
        DataError,
        match=rf"^picture {tmp_path}/1.png is missing .* looked up in {tmp_path}: set `images` to the folder or",
    ):
        table(root=tmp_path, **OPTIONS).open("1.png")
    source = table(root=tmp_path, images="shots", **OPTIONS)
    with pytest.raises(DataError, match=rf"^picture {tmp_path}/shots/3.png is missing or not a file$"):
        source.open("3.png")
    with pytest.raises(DataError, match=r"only paths inside are read.* set `images` to the folder or archive"):
        table(root=tmp_path, **OPTIONS).open("../1.png")


def test_a_link_to_pictures_outside_the_root_is_refused(tmp_path):
    write(tmp_path / "data" / "posts.csv")
    pictures(tmp_path / "private")
    (tmp_path / "data" / "pics").symlink_to(tmp_path / "private")
    source = table(root=tmp_path / "data", images="pics", **OPTIONS)
    for use in (lambda: source.open("1.png"), lambda: iter(source), source.fingerprint):
        with pytest.raises(DataError, match=r"pics is a link that leads out of .*data: name a higher root"):
            use()
    pictures(tmp_path / "data" / "shots" / "all")
    (tmp_path / "data" / "mine").symlink_to(tmp_path / "data" / "shots" / "all")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert table(root=tmp_path / "link", images="mine", **OPTIONS).open("1.png") == b"1.png"


@pytest.mark.parametrize("named", ["{}/pics", "../pics", "{}/pics.zip"])
def test_pictures_lie_where_the_configuration_says_be_it_outside_the_root(tmp_path, named):
    write(tmp_path / "data" / "posts.csv")
    packed(pictures(tmp_path / "pics"), tmp_path / "pics.zip")
    source = table(root=tmp_path / "data" / "posts.csv", images=named.format(tmp_path), **OPTIONS)
    assert source.open("1.png") == b"1.png"
    with pytest.raises(DataError, match="only paths inside are read"):
        source.open("../data/posts.csv")


def test_an_absolute_path_is_taken_inside_the_folder_of_the_pictures(tmp_path):
    write(tmp_path / "data" / "posts.csv")
    source = table(root=tmp_path / "data", images=str(pictures(tmp_path / "pics")), **OPTIONS)
    assert source.open(str(tmp_path / "pics" / "1.png")) == b"1.png"
    with pytest.raises(DataError, match="only paths inside are read"):
        source.open(str(tmp_path / "data" / "posts.csv"))


@pytest.mark.parametrize("name", ["../pics/1.png", "..\\pics\\1.png", "../data/../pics/1.png"])
def test_a_name_that_climbs_is_meant_from_the_folder_of_its_table(tmp_path, name):
    write(tmp_path / "data" / "posts.csv")
    (pictures(tmp_path / "pics") / "out.png").symlink_to(tmp_path / "data" / "posts.csv")
    source = table(root=tmp_path / "data" / "posts.csv", images="../pics", **OPTIONS)
    assert source.open(name) == b"1.png" and source.stamp(name)[0] == name
    for out in ("../data/posts.csv", "../pics/../data/posts.csv", "../pics/out.png", "../../etc/passwd"):
        with pytest.raises(DataError, match="only paths inside are read"):
            source.open(out)


def test_what_a_desktop_left_is_not_proposed_as_a_table(tmp_path):
    write(tmp_path / "posts.csv")
    write(tmp_path / ".cache" / "post.csv")
    with pytest.raises(DataError, match=r"did you mean 'posts.csv'\? known: posts.csv$"):
        iter(table(root=tmp_path, file="post.csv"))


def test_one_table_bears_several_labels_and_an_empty_cell_leaves_that_label_alone_open(tmp_path):
    cells = [
        ("yes", "12", "fun"),
        ("no", "", "fun"),
        ("", "9.5", "news"),
        ("no", "7", "news"),
        ("", "N/A", "rare"),
        ("yes", "8", ""),
    ]
    rows = [
        {"words": f"post {i}", "bad": bad, "price": price, "topic": topic}
        for i, (bad, price, topic) in enumerate(cells)
    ]
    labels = {
        "abuse_hate": {"column": "bad", "map": {"yes": 1, "no": 0}},
        "dear": {"column": "price", "above": "median"},
        "topic": {"column": "topic", "min_rows": 2},
    }
    source = table(root=write(tmp_path / "posts.csv", rows), text="words", tabular="rest", labels=labels)
    assert [tuple(row.labels[name] for name in labels) for row in source] == [
        (1, 12, "fun"),
        (0, None, "fun"),
        (None, 9.5, "news"),
        (0, 7, "news"),
        (None, None, None),
        (1, 8, None),
    ]
    assert {name: label.classes for name, label in source.labels().items()} == {
        "abuse_hate": (0, 1),
        "dear": (0, 1),
        "topic": ("fun", "news"),
    }
    assert all(set(row.parts) == {"text"} for row in source)  # no label's column is fed


REAL = {
    "airbnb_nyc": (
        {"id": "id", "text": "name", "tabular": "rest", "group": "host_id"}
        | {"labels": {"expensive": {"column": "price", "above": "median"}}},
        48_895,
    ),
    "womens_clothing": (
        {"text": ["Title", "Review Text"], "tabular": "rest", "labels": {"recommended": "Recommended IND"}}
        | {"drop": ["Rating"]},
        23_486,
    ),
    "fashion_small": (
        {"id": "id", "text": "title", "image": "image", "images": "images.tar"}
        | {"labels": {"colour": {"column": "baseColour", "min_rows": 200}}},
        20_000,
    ),
    "edos": (
        {"id": "rewire_id", "text": "text", "split": "split"}
        | {"labels": {"abuse_hate": {"column": "label_sexist", "map": {"sexist": 1, "not sexist": 0}}}},
        20_000,
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_tables_are_read_whole(name):
    root = Path(os.environ.get("BIFOCAL_DATA", "../shared")) / "data" / name
    if not root.is_dir():
        pytest.skip(f"{name} is not here; BIFOCAL_DATA names the folder that holds data/")
    options, n = REAL[name]
    source = table(root=root, **options)
    rows = list(source)
    taxonomy = Taxonomy(dict(source.labels()))
    assert len(rows) == len({row.id for row in rows}) == n
    for row in rows:
        taxonomy.check(row.labels)
    fed = {column for row in rows for column in row.parts.get("tabular", {})}
    assert not fed & {"price", "id", "host_id", "Rating", "Recommended IND", "column 1", "Title", "name"}
    if name == "fashion_small":
        assert len(source.labels()["colour"].classes) == 16
        assert source.open(rows[0].parts["image"]).startswith(b"\xff\xd8")
    if name == "edos":
        assert Counter(row.split for row in rows) == {"train": 14_000, "val": 2_000, "test": 4_000}


def test_the_stamp_of_a_picture_follows_its_archive(tmp_path):
    write(tmp_path / "posts.csv")
    archive = packed(pictures(tmp_path / "loose"), tmp_path / "pictures.tar")
    source = {"root": tmp_path, "file": "posts.csv", "images": "pictures.tar"}
    before, stamp = Table(**source).fingerprint(), Table(**source).stamp("1.png")
    os.utime(archive, ns=(1, 1))
    assert Table(**source).fingerprint() == before
    assert Table(**source).stamp("1.png") != stamp


def test_words_for_nothing_are_nothing_but_in_texts_and_where_they_are_named(tmp_path):
    words = ["", "nan", "NaN", "None", "NULL", "null", "N/A", "n/a"]
    rows = [{"t": word or "-", "g": word, "s": word, "x": word, "i": word, "y": word, "z": word} for word in words]
    rows += [{"t": "t", "g": "g", "s": "dev", "x": "3", "i": "a.png", "y": y, "z": y} for y in ("none", "other")]
    write(tmp_path / "posts.csv", rows)
    options = {"text": "t", "group": "g", "split": "s", "tabular": ["x"], "image": "i"}
    labels = {"y": "y", "z": {"column": "z", "map": {"nan": "other", "none": None, "other": "other", "null": "third"}}}
    found = list(table(root=tmp_path, labels=labels, **options))
    assert [row.parts for row in found[:8]] == [{"text": word or "-"} for word in words]
    assert {(row.group, row.split, row.labels["y"]) for row in found[:8]} == {(None, None, None)}
    assert [row.labels["z"] for row in found] == [None, "other", None, None, None, "third", None, None, None, "other"]
    assert [row.labels["y"] for row in found[8:]] == ["none", "other"] and found[8].split == "val"
    found = list(table(root=tmp_path, missing_text=["None"], text="t"))
    assert [row.parts for row in found if not row.parts] == [{}]
    source = table(root=tmp_path, text="t", missing=["g"], group="g")
    assert [row.group for row in source][7:] == ["n/a", None, None]


def test_what_had_to_be_guessed_is_told_by_the_source_and_by_several(tmp_path):
    lines = [f'{i},"open {i},0' if i == 3 else f"{i},words {i},0" for i in range(9)]
    (tmp_path / "posts.csv").write_text("\n".join(["id,words,bad", *lines]))
    one = {"kind": "table", "root": str(tmp_path), "text": "words"}
    source = table(root=tmp_path, text="words")
    assert len(list(source)) == 9 and "1 cell (line 5) with a quote" in source.notes()[0]
    several = plugins.options("source", "several", {"sources": [one]}, plugins.load("sources", "several"))
    assert len(list(several)) == 9 and several.notes()[0].startswith("table: posts.csv: 1 cell")
