import csv
import json
import random
import shutil

import pytest
import yaml
from PIL import Image

from bifocal.config import load_config, parse_config
from bifocal.diagnose.column_roles import AskedRoles
from bifocal.errors import DataError
from bifocal.pipeline.commented_yaml import render
from bifocal.pipeline.inspect import inspect
from bifocal.pipeline.propose import Asked, propose, run_name

WORDS = {1: ["scum", "vermin", "idiots"], 0: ["friends", "guests", "people"]}
CLASSES = {"yes/no": ("no", "yes"), "bool": (False, True), "0/1": (0, 1)}


def posts(n=120, classes="yes/no", **more):
    rng = random.Random(0)
    rows = []
    for i in range(n):
        y = int(rng.random() < 0.35)
        words = f"the {rng.choice(WORDS[y])} at number {i} are {rng.choice(['late', 'here', 'gone'])} again"
        row = {"post_id": f"p{i}", "author": f"u{i % 30}", "body": words, "country": rng.choice(["DE", "US"])}
        row |= {"posted": f"2026-03-{1 + i % 28:02}", "hateful": CLASSES[classes][y]}
        rows.append(row | {name: make(i, y) for name, make in more.items()})
    return rows


def write_csv(path, rows, delimiter=",", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def draw(folder, n=120):
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (20 + i % 9, 20), (i, 90, 30)).save(folder / f"{i}.png")
    return folder


def source_of(proposal):
    return yaml.safe_load(proposal.content)["source"]


def checked(proposal, tmp_path):
    """The proposal as a run would read it: the file is the configuration, and no row of the table is refused."""
    path = tmp_path / "proposed.yaml"
    path.write_text(proposal.content, encoding="utf-8")
    config = load_config(path)
    assert config == proposal.config
    assert inspect(config)["quarantined"] == 0
    return config


def test_a_csv_with_pictures_elsewhere_on_disk(tmp_path):
    draw(tmp_path / "far" / "away" / "pictures")
    table = write_csv(tmp_path / "data" / "posts.csv", posts(photo=lambda i, y: f"{i}.png"))
    proposal = propose(str(table), Asked(images=str(tmp_path / "far" / "away" / "pictures")))
    config = checked(proposal, tmp_path)
    source = source_of(proposal)
    assert source["images"] == str(tmp_path / "far" / "away" / "pictures")
    expected = {"kind": "table", "id": "post_id", "group": "author", "text": "body", "image": "photo"}
    assert {key: source[key] for key in expected} == expected
    assert source["tabular"] == ["country"] and "posted" not in source["tabular"]
    assert source["labels"] == {"hateful": {"column": "hateful", "map": {"no": 0, "yes": 1}}}
    assert config.modalities == ["text", "image", "tabular"] and config.fusion.strategy == "auto"
    assert config.decide.threshold.by == "macro_f1"
    assert (config.splits.by, config.splits.val, config.splits.test) == ("hash", 0.2, 0.2)
    assert proposal.minutes > 0 and "120 rows" in proposal.cost


@pytest.mark.parametrize("written", ["{}.png", "pictures/{}.png", "../away/pictures/{}.png", "ABSOLUTE/{}.png"])
def test_pictures_are_found_beside_and_below_the_table_and_by_absolute_paths(tmp_path, written):
    away = tmp_path / "away"
    folder = draw(away / "pictures" if written.startswith(("ABSOLUTE", "..")) else tmp_path / "data" / "pictures")
    written = written.replace("ABSOLUTE", str(folder))
    table = write_csv(tmp_path / "data" / "posts.csv", posts(photo=lambda i, y: written.format(i)))
    config = checked(propose(str(table)), tmp_path)
    assert "image" in config.modalities


def test_pictures_that_lie_nowhere_are_told_with_the_option(tmp_path):
    table = write_csv(tmp_path / "data" / "posts.csv", posts(photo=lambda i, y: f"lost-{i}.png"))
    with pytest.raises(
        DataError,
        match=rf"such as 'lost-0.png', 0 lie in {tmp_path}/data.*--images, or leave the column out with --drop",
    ):
        propose(str(table))
    dropped = propose(str(table), Asked(AskedRoles(drop=["photo"])))
    assert dropped.config.modalities == ["text", "tabular"]


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "tsv", "csv"])
def test_tables_of_every_kind(tmp_path, classes, suffix):
    rows, path = posts(classes=classes), tmp_path / f"posts.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        write_csv(path, rows, "\t" if suffix == "tsv" else ",")
    config = checked(propose(str(path)), tmp_path)
    assert (config.label, config.modalities) == ("hateful", ["text", "tabular"])
    assert set(inspect(config)["labels"]["hateful"]) == {"0", "1", "not annotated"}


def test_another_delimiter_and_encoding_are_found(tmp_path):
    rows = posts(note=lambda i, y: "café à côté" if i % 2 else "rue")
    table = write_csv(tmp_path / "posts.csv", rows, ";", "latin-1")
    proposal = propose(str(table))
    assert source_of(proposal)["delimiter"] == ";" and source_of(proposal)["encoding"] in ("latin-1", "cp1252")
    checked(proposal, tmp_path)


def test_a_folder_in_the_layout_of_hateful_memes(tmp_path):
    draw(tmp_path / "memes" / "img", 60)
    rows = [{"id": f"m{i}", "img": f"img/{i}.png", "label": i % 2, "text": f"words {i}"} for i in range(60)]
    (tmp_path / "memes" / "train.jsonl").write_text("\n".join(map(json.dumps, rows[:40])))
    (tmp_path / "memes" / "test.jsonl").write_text("\n".join(map(json.dumps, rows[40:])))
    config = checked(propose(str(tmp_path / "memes")), tmp_path)
    assert (config.source.kind, config.label) == ("hateful_memes", "abuse_hate")
    assert config.modalities == ["text", "image"]


def test_an_archive_with_its_pictures_in_a_folder(tmp_path):
    draw(tmp_path / "all" / "pictures")
    write_csv(tmp_path / "all" / "posts.csv", posts(photo=lambda i, y: f"{i}.png"))
    shutil.make_archive(str(tmp_path / "posts"), "zip", tmp_path / "all")
    proposal = propose(str(tmp_path / "posts.zip"))
    config = checked(proposal, tmp_path)
    assert source_of(proposal)["images"] == "pictures" and "image" in config.modalities


def test_folders_of_pictures_by_class(tmp_path):
    for kind in ("0", "1"):
        draw(tmp_path / "pictures" / kind, 30)
    config = checked(propose(str(tmp_path / "pictures")), tmp_path)
    assert (config.source.kind, config.modalities) == ("image_folder", ["image"])


@pytest.mark.parametrize(("n", "by", "val"), [(400, "hash", 0.1), (50, "shuffle", 0.2)])
def test_rows_are_split_by_their_content_where_no_class_may_be_lost_by_it(tmp_path, n, by, val):
    config = propose(str(write_csv(tmp_path / "posts.csv", posts(n=n)))).config
    assert (config.splits.by, config.splits.val, config.splits.test) == (by, val, 0.2)


def test_several_labels_and_classes(tmp_path):
    rows = posts(n=240, offensive=lambda i, y: i % 2, target_type=lambda i, y: ["none", "individual", "society"][i % 3])
    config = checked(propose(str(write_csv(tmp_path / "posts.csv", rows))), tmp_path)
    assert config.label_names == ["hateful", "offensive", "target_type"]
    assert config.for_label("offensive").decide.threshold.by == "macro_f1"
    assert config.for_label("target_type").decide.threshold.by == "f1"


def test_what_leaks_and_what_is_personal_is_warned_of_and_not_fed(tmp_path):
    rows = posts(
        email=lambda i, y: f"u{i}@example.com",
        note=lambda i, y: "an insult" if y else "",
        score=lambda i, y: y + i / 1000,
    )
    proposal = propose(str(write_csv(tmp_path / "posts.csv", rows)))
    checked(proposal, tmp_path)
    assert [one.split()[1] for one in proposal.warnings] == ["email", "note", "score"]
    assert source_of(proposal)["tabular"] == ["country"] and source_of(proposal)["drop"] == ["email"]
    assert proposal.content.count("WARNING") == 3


def test_columns_with_awkward_names_are_quoted_and_end_no_comment(tmp_path):
    rows = [{**row, "no": i % 3, "on: off # x": i % 2, "a\nb": row["country"]} for i, row in enumerate(posts())]
    checked(propose(str(write_csv(tmp_path / "posts.csv", rows))), tmp_path)


def test_few_rows_of_a_class_keep_nothing_aside(tmp_path):
    rows = posts(n=20)
    proposal = propose(str(write_csv(tmp_path / "posts.csv", rows)))
    assert (proposal.config.splits.val, proposal.config.splits.test) == (0, 0)
    assert any("too few to test on" in warning for warning in proposal.warnings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("posts.csv", b"", "posts.csv is empty; expected a line with the names of the columns"),
        ("posts.csv", b"body,hateful\n", "has no rows below the names of its columns"),
        ("posts.csv", bytes(range(256)) * 40, "posts.csv"),
        ("posts.parquet", b"no parquet", "is no Parquet file that can be read"),
        ("posts.xlsx", b"PK", "is no table that can be read: save the sheet as CSV"),
        ("posts.bin", b"\0", "is no table that can be read: known endings"),
        (
            "posts.csv",
            b"body,stars\nsome words here today,3\nother words there then,4\n",
            "say which it is with --label",
        ),
        ("posts.csv", b"hateful\nyes\nno\nyes\nno\n", "has no text, picture or record to learn from"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        propose(str(tmp_path / name))
    assert "\n" not in str(refused.value)


def test_what_is_not_there_and_what_is_no_layout(tmp_path):
    with pytest.raises(DataError, match="there is no file or folder .*nothing.csv"):
        propose(str(tmp_path / "nothing.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty; expected a table"):
        propose(str(tmp_path / "empty"))
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / "two" / name, posts(5))
    with pytest.raises(DataError, match=r"holds 2 tables \(a.csv, b.csv\): name one of them"):
        propose(str(tmp_path / "two"))


def test_a_large_table_is_looked_at_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr("bifocal.pipeline.sample_posts.READ", 100)
    monkeypatch.setattr("bifocal.pipeline.sample_posts.KEPT", 80)
    proposal = propose(str(write_csv(tmp_path / "posts.csv", posts())))
    assert "over 100 rows" in proposal.cost


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("posts.csv", "posts"),
        ("a/b/My Posts.v2.jsonl", "My-Posts"),
        ("memes/", "memes"),
        ("owner/set", "set"),
        ("é.csv", "posts"),
    ],
)
def test_the_name_of_a_run(given, name):
    assert run_name(given) == name


def test_yaml_with_comments_holds_exactly_the_settings():
    settings = {
        "run": "x",
        "source": {"kind": "table", "id": "no", "labels": {"y": {"column": "Batch #3", "above": 0.5}}},
    }
    text = render(settings, {"source.id": "a\nb: c", "run": "long " * 40}, ["head\nless"])
    assert yaml.safe_load(text) == settings and "\nb: c" not in text
    assert parse_config(yaml.safe_load(text)).run == "x"
