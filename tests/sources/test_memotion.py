import csv
import shutil

import pytest

from bifocal.errors import DataError
from bifocal.example import Example, Rejected
from bifocal.sources.memotion import Memotion

COLUMNS = ["", "image_name", "text_ocr", "text_corrected"]
COLUMNS += ["humour", "sarcasm", "offensive", "motivational", "overall_sentiment"]
TEST_COLUMNS = ["Image_name", "Image_URL", "OCR_extracted_text", "corrected_text"]


def table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def meme(number, offensive="not_offensive", ocr="THE RlVER", text="THE RIVER"):
    words = ["funny", "general", offensive, "not_motivational", "very_positive"]
    return [number, f"image_{number}.jpg", ocr, text, *words]


def write(folder, *rows, header=COLUMNS):
    table(folder / "labels.csv", header, rows)
    for row in rows:
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / row[1]).write_bytes(f"picture {row[1]}".encode())
    return Memotion(root=folder)


def write_test(folder, truth, *, name="Meme_groundTruth .csv", pictures="2000_data"):
    rows = [[picture, "http://example.invalid", "A LAMF", "A LAMP"] for picture in ("first.png", "second.jpg")]
    table(folder / "2000_testdata.csv", TEST_COLUMNS, rows)
    (folder / pictures).mkdir(parents=True)
    for row in rows:
        (folder / pictures / row[0]).write_bytes(f"picture {row[0]}".encode())
    if truth:
        table(folder / name, ["Image_name", "Labels"], truth)


def test_a_row_becomes_an_example(tmp_path):
    (example,) = write(tmp_path, meme(1, "slight"))
    assert example == Example(
        id="image_1.jpg",
        parts={"text": "THE RIVER", "image": "images/image_1.jpg"},
        labels={"abuse_hate": 0, "offensive": 1, "offense": "slight"},
        split="train",
        meta={
            "humour": "funny",
            "sarcasm": "general",
            "motivational": "not_motivational",
            "overall_sentiment": "very_positive",
        },
    )


@pytest.mark.parametrize(
    ("degree", "offensive", "hate"),
    [("not_offensive", 0, 0), ("slight", 1, 0), ("very_offensive", 1, 0), ("hateful_offensive", 1, 1)],
)
def test_only_hateful_is_hate_and_all_but_one_offensive(tmp_path, degree, offensive, hate):
    (example,) = write(tmp_path, meme(1, degree))
    assert example.labels == {"abuse_hate": hate, "offensive": offensive, "offense": degree}


def test_an_empty_label_is_not_annotated(tmp_path):
    (example,) = write(tmp_path, meme(1, ""))
    assert example.labels == {"abuse_hate": None, "offensive": None, "offense": None}


def test_a_name_that_is_no_degree_is_rejected_with_what_is_allowed(tmp_path):
    bad, good = write(tmp_path, meme(1, "mildly"), meme(2))
    assert isinstance(bad, Rejected)
    assert (bad.id, bad.where) == ("image_1.jpg", "labels.csv:2")
    assert "offensive: label value 'mildly'" in bad.reason
    assert "'not_offensive', 'slight', 'very_offensive', 'hateful_offensive'" in bad.reason
    assert good.id == "image_2.jpg"


def test_a_row_without_a_picture_name_is_rejected(tmp_path):
    source = write(tmp_path, meme(2))
    nameless = meme(1)
    nameless[1] = ""
    table(tmp_path / "labels.csv", COLUMNS, [nameless, meme(2)])
    bad, good = source
    assert bad.reason.startswith("no image_name")
    assert good.id == "image_2.jpg"


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    (bad,) = write(tmp_path, meme(1)[:6], header=COLUMNS[:6])
    assert bad.reason == (
        "no column offensive; columns: column 1, image_name, text_ocr, text_corrected, humour, sarcasm"
    )


def test_the_uncorrected_text_stands_in(tmp_path):
    source = write(tmp_path, meme(1, text=""), meme(2, ocr="", text=""))
    assert [row.parts.get("text") for row in source] == ["THE RlVER", None]
    assert source.role_of(next(iter(source))) == "transcript"


@pytest.mark.parametrize("pictures", ["2000_data", "2000_data/2000_data"])
@pytest.mark.parametrize("name", ["Meme_groundTruth .csv", "Meme_groundTruth.csv"])
def test_the_test_set_is_read_from_its_own_folder(tmp_path, name, pictures):
    write(tmp_path / "memotion_dataset_7k", meme(1))
    truth = [["second.jpg", "-1_1110_1230"], ["first.png", "1_0000_3300"]]
    write_test(tmp_path / "memotion_test_data" / "test_data", truth, name=name, pictures=pictures)
    source = Memotion(root=tmp_path)
    train, first, second = source
    assert (train.split, first.split, second.split) == ("train", "test", "test")
    assert (first.id, first.parts["text"]) == ("first.png", "A LAMP")
    assert first.labels == {"abuse_hate": 0, "offensive": 0, "offense": "not_offensive"}
    assert second.labels == {"abuse_hate": 1, "offensive": 1, "offense": "hateful_offensive"}
    assert source.open(train.parts["image"]) == b"picture image_1.jpg"
    assert source.open(second.parts["image"]) == b"picture second.jpg"


def test_a_test_set_without_its_labels_is_for_scoring(tmp_path):
    write_test(tmp_path, [])
    assert [row.labels["offensive"] for row in Memotion(root=tmp_path)] == [None, None]


def test_a_test_label_that_cannot_be_read_is_rejected(tmp_path):
    write_test(tmp_path, [["first.png", "1_0000_0040"], ["second.jpg", "0_0010_0010"]])
    bad, good = Memotion(root=tmp_path)
    assert bad.reason.startswith("offensive: label value '1_0000_0040' is not in the taxonomy")
    assert good.labels["offense"] == "slight"


def test_another_ground_truth_is_an_error(tmp_path):
    write_test(tmp_path, [])
    table(tmp_path / "Meme_groundTruth.csv", ["image", "label"], [["first.png", "1_0000_0040"]])
    with pytest.raises(DataError, match=r"found the columns image, label; expected Image_name and Labels"):
        list(Memotion(root=tmp_path))


def test_a_root_without_the_files_says_what_was_expected_and_found(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "label.csv").touch()
    with pytest.raises(DataError, match=r"holds images, label.csv; expected labels.csv with images/ beside it, or"):
        iter(Memotion(root=tmp_path))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_reads_like_its_folder(tmp_path, kind):
    folder = tmp_path / "work" / "memotion_dataset_7k"
    folder.mkdir(parents=True)
    write(folder, meme(1), meme(2, "hateful_offensive"))
    shutil.make_archive(str(tmp_path / "memotion"), kind, tmp_path / "work")
    packed = Memotion(root=tmp_path / f"memotion.{kind}")
    assert list(packed) == list(Memotion(root=tmp_path / "work"))
    assert packed.open(next(iter(packed)).parts["image"]) == b"picture image_1.jpg"
