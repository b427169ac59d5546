"""The error table has the columns of the contract and brings every text back byte for byte."""

import csv

import numpy as np
import pandas as pd
import pytest

from bifocal.errors import DataError
from bifocal.evaluate.error_table import write_errors
from bifocal.example import Label
from bifocal.files.folders import Files
from bifocal.files.tables import read_rows

LABEL = Label((0, 1))
NO = [np.nan, np.nan]
TEXTS = ['a "quoted", word', "=1+1", "two\nlines\r\nthree", "carriage\rreturn", "", "naïve 😀 ;\t'x'"]
TRUTH = [1, 0, 1, 0, 1, 0]
MODELS = {
    "text": (np.array([[0.8, 0.2], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7], NO, NO]), np.array([0, 0, 1, 1, 0, 0])),
    "vision": (np.array([[0.7, 0.3], NO, [0.4, 0.6], [0.2, 0.8], [0.6, 0.4], NO]), np.array([0, 0, 1, 1, 0, 0])),
    "fusion": (
        np.array([[0.45, 0.55], [0.4, 0.6], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9], NO]),
        np.array([1, 1, 0, 1, 1, 0]),
    ),
}


def write(path, models=MODELS, labels=TRUTH, label=LABEL, fused="fusion", **changed):
    n = len(labels)
    rows = {"ids": [f"post/{i}" for i in range(n)], "splits": ["test"] * n, "texts": TEXTS[:n], **changed}
    write_errors(path, labels=labels, label_name="offensive", label=label, models=models, fused=fused, **rows)


def test_columns_are_those_of_the_contract(tmp_path):
    write(tmp_path / "errors.csv")
    assert (tmp_path / "errors.csv").read_text(encoding="utf-8").splitlines()[0] == (
        "index,id,split,text,offensive,text_prob,text_pred,vision_prob,vision_pred,fusion_prob,fusion_pred,"
        "error_type,all_agree,fusion_only_right"
    )


def test_texts_come_back_byte_for_byte(tmp_path):
    write(tmp_path / "errors.csv", raw=True)
    with open(tmp_path / "errors.csv", newline="", encoding="utf-8") as f:
        assert [row["text"] for row in csv.DictReader(f)] == TEXTS
    table = pd.read_csv(tmp_path / "errors.csv", keep_default_na=False)
    assert table["text"].tolist() == TEXTS
    assert table["id"].tolist() == [f"post/{i}" for i in range(6)]


def test_what_a_spreadsheet_runs_is_guarded_and_read_as_it_was(tmp_path):
    texts = ["=1+1", "'=1+1", " \uff1dHYPERLINK(1)", "-", "\tx", "fine", ""]
    rows = {"ids": [f"@{i}" for i in range(7)], "splits": ["test"] * 7, "texts": texts}
    write_errors(
        tmp_path / "errors.csv", labels=[0] * 7, label_name="=x", label=LABEL, fused="text",
        models={"text": (np.full((7, 2), 0.5), np.zeros(7, int))}, **rows,
    )  # fmt: skip
    with open(tmp_path / "errors.csv", newline="", encoding="utf-8") as f:
        head, *found = csv.reader(f)
    assert head[4] == "'=x" and [row[3] for row in found] == [*("'" + text for text in texts[:5]), "fine", ""]
    assert [row[1] for row in found] == [f"'@{i}" for i in range(7)]
    read = [row for _, row in read_rows(Files(tmp_path), "errors.csv")]
    assert [row["text"] or "" for row in read] == texts and [row["id"] for row in read] == rows["ids"]
    assert {row["=x"] for row in read} == {"0"}


def test_verdicts(tmp_path):
    write(tmp_path / "errors.csv")
    table = pd.read_csv(tmp_path / "errors.csv")
    assert table["index"].tolist() == [0, 1, 2, 3, 4, 5]
    assert table["offensive"].tolist() == TRUTH
    assert table["fusion_prob"].tolist()[:5] == [0.55, 0.6, 0.1, 0.9, 0.9]
    assert table["error_type"].tolist()[:5] == ["TP", "FP", "FN", "FP", "TP"]
    assert table["all_agree"].tolist()[:5] == [0, 0, 0, 1, 0]
    assert table["fusion_only_right"].tolist() == [1, 0, 0, 0, 1, 0]


def test_a_model_without_its_part_has_no_opinion(tmp_path):
    write(tmp_path / "errors.csv")
    table = pd.read_csv(tmp_path / "errors.csv")
    assert table["text_prob"].isna().tolist() == table["text_pred"].isna().tolist() == [False] * 4 + [True] * 2
    assert table.loc[5, ["vision_prob", "fusion_prob", "fusion_pred", "error_type"]].isna().all()


def test_multiclass_names_the_class_and_gives_its_probability(tmp_path):
    label = Label(("none", "individual", "society"))
    models = {
        "audio": (np.array([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3]]), np.array([1, 1])),
        "joint": (np.array([[0.1, 0.2, 0.7], [0.6, 0.2, 0.2]]), np.array([2, 0])),
    }
    write(tmp_path / "errors.csv", models=models, labels=[2, 1], label=label, fused="joint")
    table = pd.read_csv(tmp_path / "errors.csv", keep_default_na=False)
    assert table["offensive"].tolist() == ["society", "individual"]
    assert table["audio_prob"].tolist() == [0.5, 0.5] and table["audio_pred"].tolist() == ["individual"] * 2
    assert table["joint_prob"].tolist() == [0.7, 0.6] and table["joint_pred"].tolist() == ["society", "none"]
    assert table["error_type"].tolist() == ["right", "wrong"]
    assert table["fusion_only_right"].tolist() == [1, 0]


def test_a_single_model_is_never_the_only_one_right(tmp_path):
    write(tmp_path / "errors.csv", models={"text": MODELS["fusion"]}, fused="text")
    table = pd.read_csv(tmp_path / "errors.csv")
    assert table["all_agree"].tolist() == [1] * 6 and table["fusion_only_right"].tolist() == [0] * 6


def test_texts_are_read_one_at_a_time(tmp_path):
    class Lazy:
        open = 0

        def __len__(self):
            return 6

        def __getitem__(self, i):
            if i >= 6:
                raise IndexError(i)
            type(self).open += 1
            return TEXTS[i]

    write(tmp_path / "errors.csv", texts=Lazy())
    assert Lazy.open == 6


def test_senseless_input_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="'fusoin' is not among the models; did you mean 'fusion'"):
        write(tmp_path / "errors.csv", fused="fusoin")
    with pytest.raises(DataError, match="6 labels but 5 texts"):
        write(tmp_path / "errors.csv", texts=TEXTS[1:])
    with pytest.raises(DataError, match="leave out unlabelled rows"):
        write(tmp_path / "errors.csv", labels=[*TRUTH[:5], -1])
    with pytest.raises(DataError, match="6 labels but 2 predictions of text"):
        write(tmp_path / "errors.csv", models={**MODELS, "text": (MODELS["text"][0], [0, 1])})
    assert list(tmp_path.iterdir()) == []
