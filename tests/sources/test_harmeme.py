import json
import shutil

import pytest

from bifocal.errors import DataError
from bifocal.example import Example, Rejected
from bifocal.sources.harmeme import Harmeme


def meme(number, *labels, name="covid_memes", **fields):
    name = f"{name}_{number}"
    return {
        "id": name,
        "image": f"{name}.png",
        "labels": list(labels),
        "text": f"a quiet day\nnumber {number}\n",
    } | fields


def write(folder, *rows, annotations="annotations/train.jsonl", pictures="images"):
    path = folder / annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("image"), str):
            (folder / pictures / row["image"]).write_bytes(f"picture {row['id']}".encode())
    return Harmeme(root=folder)


def test_a_row_becomes_an_example(tmp_path):
    (example,) = write(tmp_path, meme(18, "somewhat harmful", "individual"))
    assert example == Example(
        id="covid_memes_18",
        parts={"text": "a quiet day\nnumber 18\n", "image": "images/covid_memes_18.png"},
        labels={"abuse_hate": 1, "target_type": "individual", "harm": "somewhat harmful"},
        split="train",
        meta={"labels": ["somewhat harmful", "individual"]},
    )


@pytest.mark.parametrize(
    ("labels", "hate", "target"),
    [
        (["not harmful"], 0, "none"),
        (["somewhat harmful", "organization"], 1, "organization"),
        (["very harmful", "community"], 1, "community"),
        (["very harmful", "society"], 1, "society"),
        (["very harmful"], 1, None),
        (["very harmful", "individual", "organization"], 1, None),
    ],
)
def test_degrees_and_targets_are_mapped(tmp_path, labels, hate, target):
    (example,) = write(tmp_path, meme(1, *labels))
    assert example.labels == {"abuse_hate": hate, "target_type": target, "harm": labels[0]}
    assert example.meta == {"labels": labels}


@pytest.mark.parametrize("labels", [None, []])
def test_a_row_without_labels_is_for_scoring(tmp_path, labels):
    (example,) = write(tmp_path, meme(1, labels=labels))
    assert example.labels == {"abuse_hate": None, "target_type": None, "harm": None}


@pytest.mark.parametrize(
    "labels",
    [
        ["partially harmful", "individual"],
        ["very harmful", "a neighbour"],
        ["individual"],
        ["not harmful", "very harmful"],
        ["not harmful", "individual"],
        ["very harmful", "none"],
        "very harmful",
        [["very harmful"]],
        7,
    ],
)
def test_labels_of_another_kind_are_rejected_with_what_is_allowed(tmp_path, labels):
    bad, good = write(tmp_path, meme(1, labels=labels), meme(2, "not harmful"))
    assert isinstance(bad, Rejected)
    assert (bad.id, bad.where) == ("covid_memes_1", "annotations/train.jsonl:1")
    assert bad.reason == (
        f"labels = {labels!r}; allowed: one of 'not harmful', 'somewhat harmful', 'very harmful', and with the latter "
        "two who is targeted: 'individual', 'organization', 'community', 'society'"
    )
    assert good.labels["abuse_hate"] == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"id": None}, "no id"), ({"id": 7}, "no id"), ({"image": None}, "no image"), ({"image": ["a.png"]}, "no image")],
)
def test_a_row_without_id_or_picture_is_rejected(tmp_path, fields, reason):
    (bad,) = write(tmp_path, meme(1, "not harmful") | fields)
    assert bad.reason.startswith(reason)


def test_a_broken_line_is_rejected_and_the_rest_is_read(tmp_path):
    bad, good = write(tmp_path, '{"id": ', meme(2, "not harmful"))
    assert bad.reason == "not valid JSON"
    assert good.id == "covid_memes_2"


@pytest.mark.parametrize("text", [None, "", "null"])
def test_no_words_mean_no_text_part(tmp_path, text):
    (example,) = write(tmp_path, meme(1, "not harmful", text=text))
    assert example.parts == {"image": "images/covid_memes_1.png"}


def test_both_sets_are_read_from_the_folders_of_the_later_release(tmp_path):
    covid, politics = "HarMeme_Images/harmeme_images_covid_19", "HarMeme_Images/harmeme_images_us_pol"
    for split, number in (("test", 3), ("train", 1), ("val", 2)):
        harmc = meme(number, "not harmful")
        harmp = meme(number, "very harmful", "community", name="memes")
        write(tmp_path, harmc, annotations=f"Annotations/Harm-C/{split}.jsonl", pictures=covid)
        write(tmp_path, harmp, annotations=f"Annotations/Harm-P/{split}_v1.jsonl", pictures=politics)
    source = Harmeme(root=tmp_path)
    assert [(row.id, row.split) for row in source] == [
        ("covid_memes_1", "train"),
        ("memes_1", "train"),
        ("covid_memes_2", "val"),
        ("memes_2", "val"),
        ("covid_memes_3", "test"),
        ("memes_3", "test"),
    ]
    for row in source:
        assert source.open(row.parts["image"]) == f"picture {row.id}".encode()
        assert source.role_of(row) == "transcript"


def test_a_picture_that_is_not_there_is_still_a_row(tmp_path):
    source = write(tmp_path, meme(1, "not harmful"))
    (tmp_path / "images" / "covid_memes_1.png").unlink()
    (example,) = source
    with pytest.raises(DataError, match="images/covid_memes_1.png is missing"):
        source.open(example.parts["image"])


def test_a_picture_outside_the_root_is_not_opened(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    source = write(tmp_path / "root", json.dumps(meme(1, "not harmful", image="../../secret.png")))
    (example,) = source
    with pytest.raises(DataError, match="leads out of"):
        source.open(example.parts["image"])


def test_a_root_without_the_files_says_what_was_expected_and_found(tmp_path):
    (tmp_path / "training.jsonl").touch()
    with pytest.raises(DataError, match=r"holds training.jsonl; expected train.jsonl, val.jsonl or test.jsonl"):
        iter(Harmeme(root=tmp_path))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_reads_like_its_folder(tmp_path, kind):
    source = write(tmp_path / "work", meme(1, "not harmful"), meme(2, "very harmful", "society"))
    shutil.make_archive(str(tmp_path / "harmeme"), kind, tmp_path, "work")
    packed = Harmeme(root=tmp_path / f"harmeme.{kind}")
    assert [(row.id, row.labels) for row in packed] == [(row.id, row.labels) for row in source]
    assert packed.open(next(iter(packed)).parts["image"]) == b"picture covid_memes_1"
