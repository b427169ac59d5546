"""No cell that Bifocal writes is run by a spreadsheet, and every word can be had as it was."""

import csv
import sys
import unicodedata

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import bifocal
from bifocal.cli.app import app
from bifocal.decide.policy import Policy
from bifocal.errors import DataError
from bifocal.files.folders import Files
from bifocal.files.tables import read_rows
from bifocal.monitor.decisions import Decisions
from bifocal.report.drawings import Figure, write_figures
from bifocal.spreadsheet import guarded, is_guarded, raw, unguard
from bifocal.system.score import score_file

HOSTILE = [
    "=cmd|' /C calc'!A0", "@SUM(1+1)*cmd|' /C calc'!A0", "+1", "-2+3+cmd|' /C calc'!A0", "\t=1", "\r=1", "\n=1", "\tx",
    "\rx", "  =1", "\xa0=1", "\u3000=1", "\ufeff=1", "\u200b=1", "\u202e=1", '"=1', "'=1", "''=1", "\u2019=1",
    "\u201c=1", " \"' =1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201", "\u22121", "\ufe661", "`=1", "\x00=1", "-",
]  # fmt: skip
HARMLESS = [
    "",
    "words",
    "a=b",
    "a-b",
    "'tis",
    '"quoted" words',
    "1-2",
    " x",
    "x\n=1",
    "e\u0301",
    "\u05d0-\u05d1",
    "(-1)",
]
SIGNS = st.sampled_from([*"=+-@\t\r\n '\"ab1,", "\uff1d", "\u200b", "\u2018"])


def test_what_is_run_is_guarded_and_nothing_else_is_touched():
    assert [guarded(cell) for cell in HOSTILE] == ["'" + cell for cell in HOSTILE]
    assert [guarded(cell) for cell in HARMLESS] == HARMLESS
    assert [guarded(cell) for cell in (-1, -0.5, None, True)] == [-1, -0.5, None, True]


def test_every_width_of_a_sign_is_known():
    for sign in map(chr, range(sys.maxunicode + 1)):
        plain = unicodedata.normalize("NFKC", sign)[:1] if not "\ud800" <= sign <= "\udfff" else ""
        if plain and plain in "=+-@\u2212":
            assert guarded(sign + "1") == "'" + sign + "1", hex(ord(sign))
        elif sign.isspace() or unicodedata.category(sign) in ("Zs", "Zl", "Zp"):
            assert guarded(sign + "=1").startswith("'"), hex(ord(sign))


@given(st.text(SIGNS) | st.text())
def test_a_guard_is_undone_exactly(cell):
    assert raw(guarded(cell)) == cell
    assert guarded(guarded(cell)) in (guarded(cell), "'" + guarded(cell))


@pytest.fixture(scope="module")
def scored(small_run, tmp_path_factory):
    """A table whose words are formulas, and what is made of it: guarded and raw."""
    folder = tmp_path_factory.mktemp("scored")
    rows = [(cell, f"{cell} quiet words", "") for cell in HOSTILE[:4]] + [("-9", "", "=missing.png")]
    with open(folder / "in.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("id", "text", "image_path"), *rows])
    system = bifocal.load(small_run)
    for name, as_they_are in (("out.csv", False), ("raw.csv", True)):
        score_file(system, folder / "in.csv", folder / name, raw=as_they_are)
    return folder


def test_decisions_are_guarded_unless_they_are_wanted_raw(scored):
    asked = [*HOSTILE[:4], "-9"]
    for name, ids in (("out.csv", ["'" + cell for cell in asked]), ("raw.csv", asked)):
        with open(scored / name, newline="", encoding="utf-8") as f:
            rows = list(csv.reader(f))
        assert [row[0] for row in rows[1:]] == ids
        numbers = [cell for row in rows for cell in row if cell[:1] == "-" and cell[1:2].isdigit()]
        starts = {cell[:1] for row in rows for cell in row if cell not in numbers}
        assert starts.isdisjoint("=+-@\t\r") is (name == "out.csv")


def test_what_is_guarded_is_read_by_bifocal_as_it_was(scored, small_run):
    tables = [[row for _, row in read_rows(Files(scored), name)] for name in ("out.csv", "raw.csv")]
    assert tables[0] == tables[1] and is_guarded(tables[0][0])
    policy = Policy.load(next(small_run.glob("policy_*.json")))
    sides = [Decisions(scored / name, policy, ["text", "image"]).read() for name in ("out.csv", "raw.csv")]
    assert (sides[0].lengths == sides[1].lengths).all() and (sides[0].copies == sides[1].copies).all()


def test_a_command_makes_a_table_raw(scored, tmp_path):
    said = CliRunner().invoke(app, ["unguard", str(scored / "out.csv"), "-o", str(tmp_path / "raw.csv")])
    assert said.exit_code == 0 and "raw.csv" in said.output
    tables = [pandas.read_csv(path, dtype=str) for path in (tmp_path / "raw.csv", scored / "raw.csv")]
    assert tables[0].equals(tables[1])
    for table, output, told in (
        (scored / "none.csv", tmp_path / "x.csv", "there is no table"),
        (scored / "out.csv", scored / "out.csv", "name another output"),
    ):
        with pytest.raises(DataError, match=told):
            unguard(table, output)


def test_a_table_of_others_is_read_as_it_is(tmp_path):
    (tmp_path / "posts.csv").write_text("id,text\n1,'@you: no\n2,'=1\n")
    assert [row["text"] for _, row in read_rows(Files(tmp_path), "posts.csv")] == ["'@you: no", "'=1"]


def test_the_numbers_behind_a_figure_are_guarded(tmp_path):
    from types import SimpleNamespace

    rows = [{"slice": "=1+1", "value": -0.5}, {"slice": "words"}]
    write_figures(tmp_path, {"slices": Figure(SimpleNamespace(png=b""), "", rows)})
    assert (tmp_path / "slices.csv").read_text() == "slice,value\n'=1+1,-0.5\nwords,\n"
