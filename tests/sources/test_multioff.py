import csv
import shutil

import pytest

from bifocal import plugins
from bifocal.data.manifest import write_manifest
from bifocal.errors import DataError
from bifocal.example import Example, Rejected, Taxonomy
from bifocal.sources.multioff import COLUMNS, FILES, Multioff
from bifocal.workspace import read_jsonl


def write(folder, *rows, file="Training", header=COLUMNS):
    for place in ("Split Dataset", "Labelled Images"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    with (folder / "Split Dataset" / f"{file}_meme_dataset.csv").open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    for row in rows:
        if row[0]:
            (folder / "Labelled Images" / row[0]).write_bytes(f"picture {row[0]}".encode())
    return Multioff(root=folder)


def meme(name, label="offensive", text="VOTE FOR LAMPS, NOT TABLES"):
    return [name, text, label]


def test_a_row_becomes_an_example(tmp_path):
    (example,) = write(tmp_path, meme("0aBc.png"))
    assert example == Example(
        id="0aBc.png",
        parts={"text": "VOTE FOR LAMPS, NOT TABLES", "image": "Labelled Images/0aBc.png"},
        labels={"offensive": 1},
        split="train",
    )


@pytest.mark.parametrize(("label", "value"), [("offensive", 1), ("Non-offensiv", 0), ("Non-offensive", 0), ("", None)])
def test_label_names_are_mapped(tmp_path, label, value):
    source = write(tmp_path, meme("a.png", label))
    (example,) = source
    assert example.labels == {"offensive": value}
    assert set(source.labels()) == {"offensive"}


def test_a_name_that_is_no_label_is_rejected_with_what_is_allowed(tmp_path):
    bad, good = write(tmp_path, meme("a.png", "Offensiv"), meme("b.png"))
    assert isinstance(bad, Rejected)
    assert (bad.id, bad.where) == ("a.png", "Split Dataset/Training_meme_dataset.csv:2")
    assert bad.reason.startswith("label value 'Offensiv' is not in the taxonomy; allowed: 'Non-offensiv', ")
    assert good.id == "b.png"


def test_the_official_splits_are_kept(tmp_path):
    for file in ("Testing", "Validation", "Training"):
        write(tmp_path, meme(f"{file}.png"), file=file)
    source = Multioff(root=tmp_path)
    assert [(row.id, row.split) for row in source] == [
        ("Training.png", "train"),
        ("Validation.png", "val"),
        ("Testing.png", "test"),
    ]
    assert list(FILES.values()) == ["train", "val", "test"]
    assert source.role_of(next(iter(source))) == "transcript"


def test_a_row_without_a_picture_name_or_a_text(tmp_path):
    bad, wordless = write(tmp_path, meme(""), meme("a.png", text=""))
    assert bad.reason.startswith("no image_name")
    assert wordless.parts == {"image": "Labelled Images/a.png"}


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    (bad,) = write(tmp_path, ["a.png", "words"], header=["image_name", "sentence"])
    assert bad.reason == "no column label; columns: image_name, sentence"


def test_a_picture_that_is_not_there_is_a_row_that_the_manifest_puts_aside(tmp_path):
    source = write(tmp_path, *(meme(f"{i}.png") for i in range(3)))
    from PIL import Image

    for i in (0, 2):
        Image.new("RGB", (64, 64), (80 * i, 0, 0)).save(tmp_path / "Labelled Images" / f"{i}.png")
    (tmp_path / "Labelled Images" / "1.png").unlink()
    assert len(list(source)) == 3
    from bifocal.config import parse_config

    config = parse_config({"run": "x", "source": {"kind": "multioff", "root": str(tmp_path)}})
    modalities = {name: plugins.load("modalities", name).from_config(config) for name in ("text", "image")}
    counts = write_manifest(
        source,
        modalities,
        tmp_path / "good.jsonl",
        tmp_path / "bad.jsonl",
        taxonomy=Taxonomy(dict(source.labels())),
        label="offensive",
        limit=None,
        strict=False,
    )
    (bad,) = read_jsonl(tmp_path / "bad.jsonl")
    assert (counts["examples"], bad["id"]) == (2, "1.png")
    assert "Labelled Images/1.png is missing" in bad["reason"]


def test_a_root_without_the_files_says_what_was_expected_and_found(tmp_path):
    write(tmp_path / "MultiOFF_Dataset", meme("a.png"))
    with pytest.raises(DataError, match=r"holds MultiOFF_Dataset; expected at least one of Split Dataset/Training_mem"):
        iter(Multioff(root=tmp_path))
    with pytest.raises(DataError, match="does not exist"):
        iter(Multioff(root=tmp_path / "nowhere"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_reads_like_its_folder(tmp_path, kind):
    source = write(tmp_path / "work" / "MultiOFF_Dataset", meme("a.png"), meme("b.jpg", "Non-offensiv"))
    shutil.make_archive(str(tmp_path / "multioff"), kind, tmp_path / "work")
    packed = Multioff(root=tmp_path / f"multioff.{kind}" / "MultiOFF_Dataset")
    assert list(packed) == list(source)
    assert packed.open("Labelled Images/b.jpg") == b"picture b.jpg"
