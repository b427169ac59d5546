import csv
import shutil

import pytest

from bifocal import plugins
from bifocal.errors import ConfigError, DataError
from bifocal.example import Example, Rejected
from bifocal.sources.crisis_hate_mm import CrisisHateMm

TRAIN, EVAL = "CASE2023_TASK4_TrainData", "CASE2023_TASK4_EvalData"
DRIVE = "/content/drive/MyDrive/CASE2023_Task4"


def pictures(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"picture {name}".encode())


def texts(root, file, rows, header=("filename", "text")):
    path = root / "Extracted Text" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])


def published(root):
    hate, none = f"{TRAIN}/subTaskA/Hate Speech/10041.jpg", f"{TRAIN}/subTaskA/No Hate Speech/10050.jpg"
    target, val = f"{TRAIN}/subTaskB/Organization/10041.jpg", f"{EVAL}/subtaskA/10041.jpg"
    pictures(root, hate, none, target, val, f"{EVAL}/subtaskB/20000.jpg")
    texts(root, "hate_stA_train.csv", [(f"{DRIVE}/{hate}", "A BROKEN BRIDGE")])
    texts(root, "nohate_stA_train.csv", [(f"{DRIVE}/{none}", "THE TRACTOR, AGAIN")])
    texts(root, "org_stB_train.csv", [(f"{DRIVE}/{target}", "AN EMPTY SHELF")])
    texts(root, "stA_eval.csv", [(f"{DRIVE}/{val}", "A LONG QUEUE")])
    return CrisisHateMm(root=root)


def test_subtask_a_tells_hate_from_none(tmp_path):
    source = published(tmp_path)
    val, hate, none = source
    assert hate == Example(
        id="A-train-10041",
        parts={"text": "A BROKEN BRIDGE", "image": f"{TRAIN}/subTaskA/Hate Speech/10041.jpg"},
        labels={"abuse_hate": 1, "target_type": None},
        split="train",
    )
    assert (none.labels, none.parts["text"]) == ({"abuse_hate": 0, "target_type": "none"}, "THE TRACTOR, AGAIN")
    assert (val.id, val.split, val.parts["text"]) == ("A-val-10041", "val", "A LONG QUEUE")
    assert val.labels == {"abuse_hate": None, "target_type": None}
    assert source.open(val.parts["image"]) == f"picture {EVAL}/subtaskA/10041.jpg".encode()
    assert source.role_of(val) == "transcript"


def test_subtask_b_tells_the_targets_of_hate(tmp_path):
    published(tmp_path)
    pictures(tmp_path, *(f"{TRAIN}/subTaskB/{target}/{target}.png" for target in ("Individual", "Community")))
    rows = list(CrisisHateMm(root=tmp_path, subtask="B"))
    assert [(row.id, row.labels["target_type"]) for row in rows] == [
        ("B-val-20000", None),
        ("B-train-Community", "community"),
        ("B-train-Individual", "individual"),
        ("B-train-10041", "organization"),
    ]
    assert {row.labels["abuse_hate"] for row in rows} == {1}
    assert [row.parts.get("text") for row in rows] == [None, None, None, "AN EMPTY SHELF"]


def test_eval_and_test_pictures_in_folders_of_a_label_have_it(tmp_path):
    pictures(tmp_path, f"{EVAL}/subTaskA/Hate Speech/1.jpg", "CASE2024_TestData/subtaskA/No Hate Speech/2.JPEG")
    assert [(row.split, row.labels["abuse_hate"]) for row in CrisisHateMm(root=tmp_path)] == [("val", 1), ("test", 0)]


def test_a_folder_that_is_no_label_is_rejected_with_what_is_allowed(tmp_path):
    pictures(tmp_path, f"{TRAIN}/subTaskA/Hate Speech/1.jpg", f"{TRAIN}/subTaskA/Hateful/2.jpg")
    good, bad = CrisisHateMm(root=tmp_path)
    assert good.id == "A-train-1"
    assert isinstance(bad, Rejected)
    assert (bad.id, bad.where) == ("A-train-2", f"{TRAIN}/subTaskA/Hateful/2.jpg")
    assert bad.reason == "the folder 'Hateful' is no label; allowed: 'hate speech', 'no hate speech', or none at all"


def test_a_text_without_its_picture_is_still_a_row(tmp_path):
    source = published(tmp_path)
    gone = f"{TRAIN}/subTaskA/Hate Speech/10041.jpg"
    (tmp_path / gone).unlink()
    last = list(source)[-1]
    assert (last.id, last.labels["abuse_hate"], last.parts) == (
        "A-train-10041",
        1,
        {"text": "A BROKEN BRIDGE", "image": gone},
    )
    with pytest.raises(DataError, match="10041.jpg is missing"):
        source.open(last.parts["image"])


def test_a_path_of_another_layout_is_rejected_and_a_table_of_something_else_left_alone(tmp_path):
    pictures(tmp_path, f"{TRAIN}/subTaskA/Hate Speech/1.jpg")
    texts(tmp_path, "own.csv", [("1.jpg", "A LAMP"), ("", "A TABLE")])
    texts(tmp_path, "scores.csv", [("1", "0.5")], header=("index", "prediction"))
    first, second, good = CrisisHateMm(root=tmp_path)
    assert first.where == "Extracted Text/own.csv:2"
    assert first.reason == "filename = '1.jpg' is not of this layout: …TrainData/subTaskA/…/<index>.jpg"
    assert second.reason.startswith("filename = None")
    assert good.id == "A-train-1"


def test_the_fingerprint_follows_pictures_texts_and_subtask(tmp_path):
    source = published(tmp_path)
    seen = {source.fingerprint(), CrisisHateMm(root=tmp_path, subtask="B").fingerprint()}
    pictures(tmp_path, f"{TRAIN}/subTaskA/Hate Speech/3.jpg")
    seen.add(source.fingerprint())
    texts(tmp_path, "stA_eval.csv", [])
    assert len(seen | {source.fingerprint()}) == 4


def test_what_an_archive_of_a_mac_adds_is_no_picture(tmp_path):
    pictures(tmp_path, f"{TRAIN}/subTaskA/Hate Speech/1.jpg", f"__MACOSX/{TRAIN}/subTaskA/Hate Speech/._1.jpg")
    assert [row.id for row in CrisisHateMm(root=tmp_path)] == ["A-train-1"]


def test_a_subtask_there_is_not(tmp_path):
    with pytest.raises(ConfigError, match=r"source 'crisis_hate_mm': subtask = 'C'.*'A' or 'B'"):
        plugins.options("source", "crisis_hate_mm", {"root": tmp_path, "subtask": "C"}, CrisisHateMm)


def test_a_root_without_the_pictures_says_what_was_expected_and_found(tmp_path):
    pictures(tmp_path, "Hate Speech/1.jpg")
    with pytest.raises(
        DataError, match=r"holds Hate Speech; expected CASE2023_TASK4_TrainData/subTaskA/Hate Speech/<i"
    ):
        iter(CrisisHateMm(root=tmp_path))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_reads_like_its_folder(tmp_path, kind):
    source = published(tmp_path / "work")
    shutil.make_archive(str(tmp_path / "crisis"), kind, tmp_path / "work")
    packed = CrisisHateMm(root=tmp_path / f"crisis.{kind}")
    assert list(packed) == list(source)
    assert packed.open(next(iter(packed)).parts["image"])
