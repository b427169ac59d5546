"""Pictures are found under the name that is meant, in folders and archives alike; where that is not one, it is told."""

import io
import json
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pytest

from bifocal.errors import DataError
from bifocal.files.folders import Files
from bifocal.files.post_table import Posts
from bifocal.sources.harmeme import Harmeme
from bifocal.sources.hateful_memes import HatefulMemes
from bifocal.sources.image_folder import ImageFolder
from bifocal.sources.mami import Mami
from bifocal.sources.table import Table
from bifocal.sources.webdataset import Webdataset

KINDS = ("folder", "zip", "tar")


def made(kind: str, place: Path, *names: str) -> Path:
    """Files that hold their own names."""
    place.mkdir(exist_ok=True)
    if kind == "zip":
        with zipfile.ZipFile(place / "a.zip", "w") as archive:
            for name in names:
                archive.writestr(name, name)
        return place / "a.zip"
    if kind == "tar":
        with tarfile.open(place / "a.tar", "w") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(name.encode())
                archive.addfile(info, io.BytesIO(name.encode()))
        return place / "a.tar"
    for name in names:
        (place / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "root" / name).write_text(name)
    return place / "root"


class Unmarked(zipfile.ZipInfo):
    raw = b""

    def _encodeFilenameFlags(self):
        return self.raw, 0


def unmarked(path: Path, names: list[str], encoding: str) -> Path:
    """A zip without the mark of UTF-8, its names in some encoding."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = Unmarked(f"x{number}")
            info.raw = name.encode(encoding)
            archive.writestr(info, name)
    return path


def nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("img/café 1.png", nfd("img/café 1.png")),
        (nfd("img/café 1.png"), "img/café 1.png"),
        ("img\\1.png", "img/1.png"),
        (".\\img\\1.png", "img/1.png"),
        ("./img//1.png", "img/1.png"),
        ("img/1.jpg", "img/1.JPG"),
        ("IMG/1.jpg", "img/1.JPG"),
        ("img/a%20b.png", "img/a b.png"),
        ("img%2Fa%20b.png", "img/a b.png"),
        ("img/a b.png", "img/a%20b.png"),
        ("img/1.png ", "img/1.png"),
        ("img/1.png", "img/1.png "),
        ("img/1.jpg", "img/1.png"),
        ("img/1", "img/1.jpeg"),
        ("img\\CAFE\u0301%201.JPG", "img/café 1.jpeg"),
        ("img/café.png", "img/caf├⌐.png"),
        ("img/cafÃ©.png", "img/café.png"),
    ],
)
def test_a_picture_is_found_under_the_name_that_is_meant(kind, written, there, tmp_path):
    files = Files(made(kind, tmp_path, there, "img/other.png", "img/1.txt"))
    assert files.read_matching(written).decode() == there


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("img/A.jpg", ["img/a.jpg", "img/A.JPG"]),
        ("img/1.gif", ["img/1.png", "img/1.jpg"]),
        ("a/1.png", ["A/1.png", "A/1.PNG"]),
    ],
)
def test_a_name_that_may_mean_several_is_refused(kind, written, there, tmp_path):
    if kind == "folder" and made(kind, tmp_path, *there) and len(Files(tmp_path / "root").names()) < 2:
        pytest.skip("this file system does not tell cases apart")
    with pytest.raises(DataError, match="not there as written, and may be '.+', '.+': write the name as the file"):
        Files(made(kind, tmp_path, *there)).read_matching(written)


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_as_written_comes_first(kind, tmp_path):
    files = Files(made(kind, tmp_path, "img/a.jpg", "img/A.jpg", "img/a.png", nfd("img/é.png"), "img/é.png"))
    for name in ("img/a.jpg", "img/A.jpg", "img/é.png", nfd("img/é.png")):
        assert files.read_matching(name).decode() == name


@pytest.mark.parametrize("kind", KINDS)
def test_else_the_nearest_file_is_named(kind, tmp_path):
    files = Files(made(kind, tmp_path, "img/cat and dog.png", "shots/00012.png"))
    for name, nearest in (
        ("img/cat and dgo.png", "img/cat and dog.png"),
        ("img/00012.png", "shots/00012.png"),
        ("/content/drive/img/00012.png", "shots/00012.png"),
        ("C:\\Users\\me\\00012.JPG", "shots/00012.png"),
        ("../00012.png", "shots/00012.png"),
    ):
        with pytest.raises(DataError, match=f"the nearest below .* is '{nearest}'"):
            files.read_matching(name)
    with pytest.raises(DataError, match="is missing or not a file$"):
        files.read_matching("shots/00013.png")


@pytest.mark.parametrize("encoding", ["utf-8", "cp437", "cp850", "cp1252"])
def test_a_zip_whose_names_bear_no_encoding(encoding, tmp_path):
    names = ["img/café 1.png", "img/über 2.png"]
    files = Files(unmarked(tmp_path / "a.zip", names, encoding))
    assert [files.read_matching(name).decode() for name in names] == names
    if encoding == "utf-8":
        assert files.names() == names


def test_a_zip_whose_folders_are_parted_by_backslashes(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("img\\1.png", "..\\up.png", "img\\"):
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, name)
    files = Files(tmp_path / "a.zip")
    assert files.names() == ["img/1.png"] and files.read("img/1.png") == b"img\\1.png"


def test_no_link_leads_out_by_another_spelling(tmp_path):
    (tmp_path / "secret.png").write_text("secret")
    root = made("folder", tmp_path, "img/1.png")
    (root / "img" / "OUT.PNG").symlink_to(tmp_path / "secret.png")
    (root / "Out").symlink_to(tmp_path)
    for name in ("img/out.png", "out/secret.png", "img/..\\..\\secret.png", "%2e%2e/secret.png"):
        with pytest.raises(DataError):
            Files(root).read_matching(name)


def test_every_layout_looks_names_up(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("hm/train.jsonl", json.dumps({"id": 1, "img": "img\\1.png", "label": 1, "text": "a"}))
    write("hm/img/1.PNG", "hm")
    write("table/posts.csv", "id,file,words\n1,Café.jpg,a\n")
    write(f"table/pics/{nfd('café')}.JPG", "table")
    write(
        "mami/training.csv",
        "file_name\tmisogynous\tshaming\tstereotype\tobjectification\tviolence\tText Transcription\n"
        "1.jpg\t1\t0\t0\t0\t0\tx\n",
    )
    write("mami/TRAINING/1.JPG", "mami")
    write(
        "harm/annotations/train.jsonl",
        json.dumps({"id": "a", "image": "a 1.png", "labels": ["not harmful"], "text": "a"}),
    )
    write("harm/pics/A 1.PNG", "harm")
    for source, content in (
        (HatefulMemes(root=tmp_path / "hm"), b"hm"),
        (Table(root=tmp_path / "table", images="pics", id="id", image="file", text="words"), b"table"),
        (Mami(root=tmp_path / "mami"), b"mami"),
        (Harmeme(root=tmp_path / "harm"), b"harm"),
    ):
        (row,) = source
        assert source.open(row.parts["image"]) == content


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_beside_a_picture_is_found_whatever_its_case(kind, tmp_path):
    names = ("0/12.JPG", "0/12.TXT", "1/a.jpg", "1/A.txt", "1/é.jpg", nfd("1/é.txt"), "1/alone.TXT")
    rows = {row.id: row.parts for row in ImageFolder(root=made(kind, tmp_path, *names))}
    assert rows == {
        "0/12.JPG": {"image": "0/12.JPG", "text": "0/12.TXT"},
        "1/a.jpg": {"image": "1/a.jpg", "text": "1/A.txt"},
        "1/é.jpg": {"image": "1/é.jpg", "text": nfd("1/é.txt")},
        "1/alone.TXT": {"text": "1/alone.TXT"},
    }


@pytest.mark.parametrize("kind", ("zip", "tar"))
def test_a_text_that_may_be_that_of_several_is_refused(kind, tmp_path):
    names = ("0/a.jpg", "0/a.txt", "0/a.TXT", "1/Bb.jpg", "1/bB.jpg", "1/bb.TXT", "1/C.jpg", "1/c.jpg", "1/c.txt")
    rows = {row.id: getattr(row, "reason", None) for row in ImageFolder(root=made(kind, tmp_path, *names))}
    assert "its text may be '0/a.txt' or '0/a.TXT'" in rows.pop("0/a.jpg")
    assert "'1/bb.TXT' may be its text, or another picture's" in rows.pop("1/Bb.jpg")
    assert "another picture's" in rows.pop("1/bB.jpg")
    assert rows == {"1/C.jpg": None, "1/c.jpg": None}


def test_the_case_of_endings_in_a_webdataset_decides_nothing(tmp_path):
    made("tar", tmp_path, "1.JPG", "1.TXT", "2.Png", "2.txt")
    source = Webdataset(root=tmp_path / "a.tar")
    rows = list(source)
    assert [row.parts["text"] for row in rows] == ["1.TXT", "2.txt"]
    assert [source.open(row.parts["image"]) for row in rows] == [b"1.JPG", b"2.Png"]


def test_the_pictures_of_a_table_to_be_scored_are_looked_up_alike(tmp_path):
    names = ["img\\1.jpg", "img/CAFÉ.png", "img/none.png", "img/A.png"]
    (tmp_path / "posts.csv").write_text("id,image_path\n" + "".join(f"{i},{n}\n" for i, n in enumerate(names)))
    for name in ("img/1.JPG", nfd("img/café.PNG"), "img/a.png", "img/a.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    posts = dict(Posts({"image"}, (), {}).read(tmp_path / "posts.csv"))
    assert posts["0"]["image_path"].read().decode() == "img/1.JPG"
    assert posts["1"]["image_path"].read().decode() == nfd("img/café.PNG")
    with pytest.raises(DataError, match="img/none.png"):
        posts["2"]["image_path"].read()
    with pytest.raises(DataError, match="may be"):
        posts["3"]["image_path"].read()


def test_a_name_in_a_table_to_be_scored_that_climbs_leads_into_the_folder_that_is_named(tmp_path):
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "1.png").write_text("one")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "posts.csv").write_text("id,image_path\n1,../pics/1.png\n2,../secret.txt\n")
    posts = dict(Posts({"image"}, (), {}, images=tmp_path / "pics").read(tmp_path / "data" / "posts.csv"))
    assert posts["1"]["image_path"].read() == b"one"
    with pytest.raises(DataError, match="only paths inside are read"):
        posts["2"]["image_path"].read()
    unnamed = dict(Posts({"image"}, (), {}).read(tmp_path / "data" / "posts.csv"))
    with pytest.raises(DataError, match="only paths inside are read"):
        unnamed["1"]["image_path"].read()
