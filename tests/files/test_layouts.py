import json
from collections.abc import Mapping
from typing import ClassVar

import pytest

from bifocal.errors import DataError
from bifocal.example import LABELS, Example, Label, Rejected
from bifocal.files.layouts import LabelColumn, Layout, Row


class Lamps(Layout):
    expected: ClassVar[str] = "lamps.jsonl"
    taxonomy: ClassVar[Mapping[str, Label]] = {"offensive": LABELS["offensive"]}
    tables: ClassVar[Mapping[str, str | None]] = {"lamps.jsonl": "train", "tables.jsonl": "test"}
    beside = ("words.txt",)
    anywhere = True
    id_column = "name"
    required = ("kind",)
    text_columns = ("words", "more")
    label_columns: ClassVar[Mapping[str, LabelColumn]] = {"offensive": LabelColumn("kind", {"dim": 0, "glaring": 1})}

    def picture_of(self, row: Row, name: str) -> str:
        return f"{row['name']}.png"


def write(folder, name, *rows):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_tables_are_read_in_their_order_wherever_they_lie_with_the_split_of_each(tmp_path):
    write(tmp_path, "a/tables.jsonl", {"name": "t", "kind": "dim"})
    write(tmp_path, "b/lamps.jsonl", {"name": "l", "kind": "glaring", "words": "", "more": "a lamp"})
    (tmp_path / "words.txt").touch()
    source = Lamps(root=tmp_path)
    assert source.listed() == ["b/lamps.jsonl", "a/tables.jsonl", "words.txt"]
    assert list(source) == [
        Example("l", {"text": "a lamp", "image": "l.png"}, {"offensive": 1}, split="train"),
        Example("t", {"image": "t.png"}, {"offensive": 0}, split="test"),
    ]


@pytest.mark.parametrize(
    ("row", "identity", "reason"),
    [
        ({"kind": "dim"}, None, "no name (a text); columns: kind"),
        ({"name": 7, "kind": "dim"}, None, "no name (a text); columns: name, kind"),
        ({"name": "l"}, "l", "no column kind; columns: name"),
        (
            {"name": "l", "kind": "off"},
            "l",
            "kind: label value 'off' is not in the taxonomy; allowed: 'dim', 'glaring'",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_place(tmp_path, row, identity, reason):
    write(tmp_path, "lamps.jsonl", row, {"name": "good", "kind": None})
    bad, good = Lamps(root=tmp_path)
    assert isinstance(bad, Rejected)
    assert (bad.id, bad.where) == (identity, "lamps.jsonl:1")
    assert bad.reason.startswith(reason)
    assert good.labels == {"offensive": None}


def test_what_lies_beside_the_tables_is_no_table(tmp_path):
    (tmp_path / "words.txt").touch()
    with pytest.raises(DataError, match="holds words.txt; expected lamps.jsonl"):
        iter(Lamps(root=tmp_path))
