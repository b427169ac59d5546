import csv
import shutil

import pytest

from bifocal.errors import DataError
from bifocal.example import Example, Rejected
from bifocal.sources.mami import COLUMNS, KINDS, Mami

HEADER = ["file_name", *COLUMNS, "Text Transcription"]
NONE = ["0"] * len(COLUMNS)


def meme(name, labels=NONE, text="A QUIET EVENING, AT HOME"):
    return [name, *labels, text]


def write(folder, *rows, file="training.csv", header=HEADER, pictures="", delimiter="\t"):
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    with (folder / file).open("w", newline="") as out:
        csv.writer(out, delimiter=delimiter).writerows([header, *rows])
    for row in rows:
        if row[0]:
            (folder / pictures / row[0]).write_bytes(f"picture {file} {row[0]}".encode())
    return Mami(root=folder)


def test_a_row_becomes_an_example(tmp_path):
    (example,) = write(tmp_path, meme("10.jpg", ["1", "0", "1", "0", "1"]))
    assert example == Example(
        id="10.jpg",
        parts={"text": "A QUIET EVENING, AT HOME", "image": "10.jpg"},
        labels={"abuse_hate": 1, "shaming": 0, "stereotype": 1, "objectification": 0, "violence": 1},
        split="train",
    )


def test_a_byte_order_mark_and_a_text_of_two_lines_are_no_matter(tmp_path):
    source = write(tmp_path, meme("1.jpg", text='one line\nand "another"\twith a tab'))
    table = tmp_path / "training.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    (example,) = source
    assert example.parts["text"] == 'one line\nand "another"\twith a tab'
    assert source.role_of(example) == "transcript"


def test_an_empty_label_is_not_annotated(tmp_path):
    (example,) = write(tmp_path, meme("1.jpg", ["", "0", "", "0", "0"]))
    assert example.labels == {"abuse_hate": None, "shaming": 0, "stereotype": None, "objectification": 0, "violence": 0}


@pytest.mark.parametrize("place", range(len(COLUMNS)))
def test_a_label_that_is_no_digit_is_rejected_with_its_column(tmp_path, place):
    labels = list(NONE)
    labels[place] = "yes"
    bad, good = write(tmp_path, meme("1.jpg", labels), meme("2.jpg"))
    assert isinstance(bad, Rejected)
    assert (bad.id, bad.where) == ("1.jpg", "training.csv:2")
    assert bad.reason == (f"{COLUMNS[place]}: label value 'yes' is not in the taxonomy; allowed: '0', '1', or null")
    assert good.id == "2.jpg"


def test_a_row_without_a_file_name_or_a_text(tmp_path):
    bad, wordless = write(tmp_path, meme(""), meme("2.jpg", text=""))
    assert bad.reason.startswith("no file_name")
    assert wordless.parts == {"image": "2.jpg"}


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    (bad,) = write(tmp_path, ["1.jpg", "0", "text"], header=["file_name", "misogynous", "Text Transcription"])
    assert bad.reason == "no column shaming; columns: file_name, misogynous, Text Transcription"


def published(root):
    """The three archives, unpacked beside each other, and the labels of the test set."""
    write(root / "training" / "TRAINING", meme("10.jpg"), meme("28.jpg"))
    trial = root / "trial" / "Users" / "someone" / "Desktop" / "TRIAL DATASET"
    write(trial, meme("28.jpg", ["1", "1", "0", "0", "0"]), file="trial.csv")
    rows = [["15001.jpg", "A LAMP"], ["15002.jpg", "A TABLE"]]
    write(root / "test" / "test", *rows, file="Test.csv", header=["file_name", "Text Transcription"])
    return Mami(root=root)


def test_the_published_folders_are_read_with_their_splits(tmp_path):
    source = published(tmp_path)
    labels = b"\xef\xbb\xbf15002.jpg\t1\t0\t0\t1\t0\r\n15001.jpg\t0\t0\t0\t0\t0\r\n"
    (tmp_path / "test_labels.txt").write_bytes(labels)
    rows = list(source)
    assert [(row.id, row.split, row.labels["abuse_hate"]) for row in rows] == [
        ("10.jpg", "train", 0),
        ("28.jpg", "train", 0),
        ("trial-28.jpg", "train", 1),
        ("15001.jpg", "test", 0),
        ("15002.jpg", "test", 1),
    ]
    assert rows[-1].labels["objectification"] == 1
    assert [source.open(row.parts["image"]) for row in rows[1:4]] == [
        b"picture training.csv 28.jpg",
        b"picture trial.csv 28.jpg",
        b"picture Test.csv 15001.jpg",
    ]


def test_a_test_set_without_its_labels_is_for_scoring(tmp_path):
    rows = [row for row in published(tmp_path) if row.split == "test"]
    assert [row.labels for row in rows] == [dict.fromkeys(("abuse_hate", *KINDS))] * 2


def test_a_test_row_without_a_line_of_labels_is_for_scoring(tmp_path):
    source = published(tmp_path)
    (tmp_path / "test_labels.txt").write_text("15002.jpg\t1\t0\t0\t1\t0\n")
    assert [row.labels["abuse_hate"] for row in source][-2:] == [None, 1]


def test_a_test_label_that_is_no_digit_is_rejected_with_its_row(tmp_path):
    source = published(tmp_path)
    (tmp_path / "test_labels.txt").write_text("15001.jpg\tmaybe\t0\t0\t0\t0\n")
    bad = list(source)[-2]
    assert (bad.id, bad.reason[:31]) == ("15001.jpg", "misogynous: label value 'maybe'")


def test_a_test_label_of_too_few_cells_is_an_error_with_its_line(tmp_path):
    source = published(tmp_path)
    (tmp_path / "test_labels.txt").write_text("15001.jpg\t0\t0\t0\t0\t0\n15002.jpg 1 0 0 0 0\n")
    with pytest.raises(DataError, match=r"test_labels.txt:2 has 1 cells; expected a file name and misogynous, .* tabs"):
        list(source)


@pytest.mark.parametrize("pictures", ["", "training", "TRAINING"])
def test_pictures_lie_beside_their_file_or_in_a_folder_of_its_name(tmp_path, pictures):
    source = write(tmp_path, meme("10.jpg"), pictures=pictures)
    (example,) = source
    assert source.open(example.parts["image"]) == b"picture training.csv 10.jpg"


def test_a_picture_that_is_not_there_is_still_a_row(tmp_path):
    source = write(tmp_path, meme("10.jpg"))
    (tmp_path / "10.jpg").unlink()
    (example,) = source
    with pytest.raises(DataError, match="10.jpg is missing"):
        source.open(example.parts["image"])


def test_commas_for_tabs_are_an_error(tmp_path):
    with pytest.raises(DataError, match="training.csv has the one column 'file_name,misogynous"):
        list(write(tmp_path, meme("10.jpg"), delimiter=","))


def test_a_root_without_the_files_says_what_was_expected_and_found(tmp_path):
    (tmp_path / "test_labels.txt").write_text("15002.jpg\t1\t0\t0\t1\t0\n")
    with pytest.raises(DataError, match=r"holds test_labels.txt; expected at least one of training.csv, trial.csv, te"):
        iter(Mami(root=tmp_path))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_reads_like_its_folder(tmp_path, kind):
    source = published(tmp_path / "work")
    (tmp_path / "work" / "test_labels.txt").write_text("15002.jpg\t1\t0\t0\t1\t0\n")
    shutil.make_archive(str(tmp_path / "mami"), kind, tmp_path / "work")
    packed = Mami(root=tmp_path / f"mami.{kind}")
    assert list(packed) == list(source)
    assert packed.open(next(iter(packed)).parts["image"]) == b"picture training.csv 10.jpg"


def test_a_row_that_begins_with_a_quoted_phrase_is_read_as_pandas_does(tmp_path):
    (tmp_path / "training.csv").write_text(
        "\t".join(HEADER)
        + "\n"
        + "".join(f"{i}.jpg\t0\t0\t0\t0\t0\t{t}\n" for i, t in enumerate(("a", '"B." said c', "d")))
    )
    found = list(Mami(root=tmp_path))
    assert [row.parts["text"] for row in found] == ["a", "B. said c", "d"]
    (tmp_path / "training.csv").write_bytes(
        (tmp_path / "training.csv").read_text().replace("said", "s\xe9d").encode("cp1252")
    )
    assert next(iter(Mami(root=tmp_path, encoding="cp1252", quotes="none", delimiter="tab"))).id == "0.jpg"
