import pickle
import tarfile
from pathlib import Path

import pytest

from bifocal import plugins
from bifocal.errors import ConfigError, DataError
from bifocal.example import Example, Rejected
from bifocal.sources.image_folder import ImageFolder


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(f"words of {name}".encode() if name.endswith(".txt") else b"picture")
    return root


def folder(root: Path, **options) -> ImageFolder:
    return plugins.options("source", "image_folder", {"root": root} | options, ImageFolder)


def test_the_folder_is_the_label(tmp_path):
    make(tmp_path, "0/a.jpg", "1/b.PNG", "1/deep/er/c.webp", "d.gif")
    rows = list(folder(tmp_path))
    assert rows == [
        Example("0/a.jpg", {"image": "0/a.jpg"}, {"abuse_hate": 0}, meta={"folder": "0"}),
        Example("1/b.PNG", {"image": "1/b.PNG"}, {"abuse_hate": 1}, meta={"folder": "1"}),
        Example("1/deep/er/c.webp", {"image": "1/deep/er/c.webp"}, {"abuse_hate": 1}, meta={"folder": "1"}),
        Example("d.gif", {"image": "d.gif"}, {"abuse_hate": None}),
    ]


def test_splits_above_the_classes(tmp_path):
    make(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "Validation/dog/c.jpg", "test/d.jpg")
    source = folder(tmp_path, label="animal")
    assert source.labels()["animal"].classes == ("cat", "dog")
    found = {row.id: (row.split, row.labels["animal"]) for row in source}
    assert found == {
        "Validation/dog/c.jpg": ("val", "dog"),
        "test/d.jpg": ("test", None),
        "train/cat/a.jpg": ("train", "cat"),
        "train/dog/b.jpg": ("train", "dog"),
    }


def test_a_class_called_test_is_no_split_beside_other_classes(tmp_path):
    make(tmp_path, "test/a.jpg", "cat/b.jpg")
    assert [(row.split, row.labels["kind"]) for row in folder(tmp_path, label="kind")] == [
        (None, "cat"),
        (None, "test"),
    ]


def test_folders_are_mapped(tmp_path):
    make(tmp_path, "hateful/a.jpg", "fine/b.jpg", "unsure/c.jpg", "new/d.jpg")
    rows = list(folder(tmp_path, map={"hateful": 1, "fine": 0, "unsure": None}))
    assert [row.labels["abuse_hate"] for row in rows if isinstance(row, Example)] == [0, 1, None]
    (bad,) = [row for row in rows if isinstance(row, Rejected)]
    assert (bad.id, bad.where) == ("new/d.jpg", "new/d.jpg")
    assert bad.reason == "'new' in column 'folder' is not in the map; allowed: hateful, fine, unsure, or empty"


def test_yes_and_no_of_yaml_match_the_folders(tmp_path):
    make(tmp_path, "Yes/a.jpg", "no/b.jpg")
    assert [row.labels["abuse_hate"] for row in folder(tmp_path, map={True: 0, False: 1})] == [0, 1]


def test_folders_that_are_no_classes_of_a_unified_label_stop_at_once(tmp_path):
    make(tmp_path, "cat/a.jpg", "dog/b.jpg")
    with pytest.raises(
        DataError, match=r"folder 'cat' is no class of abuse_hate, which has 0, 1: give a map \(\{cat: 1"
    ):
        iter(folder(tmp_path))
    with pytest.raises(DataError, match="folder 'cat' is no class"):
        folder(tmp_path).labels()


def test_words_beside_a_picture_are_its_text(tmp_path):
    make(tmp_path, "0/a.jpg", "0/a.txt", "0/b.jpg", "1/c.txt", "1/d.jpg", "1/d.txt")
    (tmp_path / "1" / "d.txt").write_text("\ufeff \n")
    assert [(row.id, row.parts) for row in folder(tmp_path)] == [
        ("0/a.jpg", {"image": "0/a.jpg", "text": "words of 0/a.txt"}),
        ("0/b.jpg", {"image": "0/b.jpg"}),
        ("1/c.txt", {"text": "words of 1/c.txt"}),
        ("1/d.jpg", {"image": "1/d.jpg"}),
    ]


def test_clutter_is_passed_over_and_strangers_are_rejected(tmp_path):
    make(
        tmp_path,
        "0/a.jpg",
        "1/b.jpg",
        "0/.DS_Store",
        "1/Thumbs.db",
        "._a.jpg",
        ".git/c.jpg",
        "1/list.xlsx",
        "1/bad.txt",
    )
    (tmp_path / "1" / "bad.txt").write_bytes(b"caf\xe9")
    rows = list(folder(tmp_path))
    assert [row.id for row in rows if isinstance(row, Example)] == ["0/a.jpg", "1/b.jpg"]
    assert [(row.where, row.reason.partition(" (")[0]) for row in rows if isinstance(row, Rejected)] == [
        ("1/bad.txt", "1/bad.txt is not UTF-8"),
        ("1/list.xlsx", "no picture"),
    ]


def test_an_archive_is_read_alike(tmp_path):
    root = make(tmp_path / "root", "train/no/a.jpg", "train/yes/b.jpg", "train/yes/b.txt")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(root, ".")
    source = folder(tmp_path / "a.tar")
    assert list(source) == list(folder(root))
    assert [row.labels["abuse_hate"] for row in source] == [0, 1]
    assert pickle.loads(pickle.dumps(source)).open("train/no/a.jpg") == b"picture"


def test_no_pictures_stop_at_once(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist; expected folders of pictures"):
        iter(folder(tmp_path / "nowhere"))
    make(tmp_path, "list.csv", "0/a.txt")
    with pytest.raises(DataError, match=r"holds 0, list.csv; expected folders of pictures \(class/\*.jpg"):
        iter(folder(tmp_path))


def test_a_single_class_is_no_label(tmp_path):
    make(tmp_path, "cat/a.jpg", "cat/b.jpg")
    with pytest.raises(DataError, match=r"has 1 values, and kind needs two classes; found: cat \(1\)"):
        folder(tmp_path, label="kind").labels()


def test_a_map_out_of_a_unified_label_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="abuse_hate.map leads to 'bad', but abuse_hate has the classes 0, 1"):
        folder(tmp_path, map={"hateful": "bad"})


def test_the_fingerprint_follows_the_pictures(tmp_path):
    make(tmp_path, "0/a.jpg", "1/b.jpg")
    before = folder(tmp_path).fingerprint()
    assert folder(tmp_path).fingerprint() == before
    make(tmp_path, "1/c.jpg")
    assert folder(tmp_path).fingerprint() != before
