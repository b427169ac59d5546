import csv
import io

import pytest

from bifocal.example import Rejected
from bifocal.files.folders import Files
from bifocal.files.tables import read_rows

EMOJI = "\N{SNOWMAN}"


def read(folder, content, name="posts.csv", **options):
    """The rows, and what was told of them."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    told = []
    return [row for _, row in read_rows(Files(folder), name, note=told.append, **options)], told


def posts(n=60, d=","):
    return [f"p{i}{d}post number {i} about the weather{d}{('OFF', 'NOT')[i % 2]}" for i in range(n)]


def table(lines, header="id,text,label", d=",", end="\n"):
    return end.join([header.replace(",", d), *lines, ""])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("name", "d", "options"), [
    ("a.csv", ",", {}), ("a.tsv", "\t", {}), ("a.csv", ";", {"delimiter": ";"}), ("a.csv", "|", {"delimiter": "|"}),
])  # fmt: skip
def test_two_stray_quotes_swallow_no_rows(tmp_path, name, d, options, end):
    lines = posts(d=d)
    lines[10] = d.join(["p10", '"I never said that', "OFF"])
    lines[40] = d.join(["p40", 'they said no"', "NOT"])
    found, told = read(tmp_path, table(lines, d=d, end=end), name, **options)
    assert [row["id"] for row in found] == [f"p{i}" for i in range(60)]
    assert found[10] == {"id": "p10", "text": '"I never said that', "label": "OFF"}
    assert found[40]["text"] == 'they said no"' and found[20]["label"] == "OFF"
    assert len(told) == 1 and "1 cell (line 12) with a quote that no other closes" in told[0]


@pytest.mark.parametrize("last", ['40,they said no"', '40,they "said" no', '40,"they, too",'])
def test_two_columns_only(tmp_path, last):
    lines = [f"{i},post {i} of the day" for i in range(60)]
    lines[10], lines[40] = '10,"I never said that', last
    found, _ = read(tmp_path, table(lines, "id,text"))
    assert len(found) == 60 and sum(isinstance(row, Rejected) for row in found) == last.endswith(",")
    assert [row["id"] for row in found[11:40]] == [str(i) for i in range(11, 40)]


def test_a_stray_quote_at_the_first_row_at_the_last_and_in_neighbours(tmp_path):
    for strays in ([0], [59], [7, 8], [7, 9, 11], [58, 59], range(60)):
        lines = posts()
        for i in strays:
            lines[i] = f'p{i},"left open {i},OFF'
        found, told = read(tmp_path, table(lines))
        assert [row["id"] for row in found] == [f"p{i}" for i in range(60)]
        assert all(found[i]["text"] == f'"left open {i}' for i in strays) and told


def test_rows_with_quotes_of_their_own_between_two_strays_are_read_as_they_are(tmp_path):
    lines = posts()
    lines[10], lines[40] = 'p10,"open,OFF', 'p40,shut",NOT'
    lines[20] = 'p20,"hello, you ""there""",OFF'
    lines[21] = 'p21,"two\nlines, and more",NOT'
    found, _ = read(tmp_path, table(lines))
    assert len(found) == 60 and not any(isinstance(row, Rejected) for row in found)
    assert found[20]["text"] == 'hello, you "there"' and found[21]["text"] == "two\nlines, and more"


def test_cells_that_do_hold_line_breaks_stay_whole_and_are_told_of(tmp_path):
    texts = ["plain", "two\nlines", "Dear all,\n\nplease come, all of you\nthanks, Bob", 'a "word", and\nmore', "x,y"]
    rows = [{"id": str(i), "text": texts[i % 5], "label": str(i % 2)} for i in range(50)]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
        for quotes in ("auto", "standard"):
            found, told = read(tmp_path, out.getvalue(), quotes=quotes)
            assert found == rows
            assert len(told) == 1 and "20 quoted cells (lines " in told[0] and "set quotes: none" in told[0]


def test_a_letter_in_a_table_of_two_columns_stays_whole(tmp_path):
    lines = [f"{i},post {i}" for i in range(20)]
    lines[5] = '5,"Dear all\nplease come, all of you\nthanks, Bob"'
    found, told = read(tmp_path, table(lines, "id,text"))
    assert len(found) == 20 and found[5]["text"] == "Dear all\nplease come, all of you\nthanks, Bob" and told


def test_a_quoted_phrase_and_what_follows_is_one_cell_as_in_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    lines = [f"{i}.jpg\t0\ta text of the picture {i}" for i in range(10_000)]
    lines[17] = '17.jpg\t0\t"THE GARDEN WAITS." said the keeper'
    lines[9_000] = '9000.jpg\t1\t"WHO" is "SHE" and why'
    content = table(lines, "file_name,misogynous,Text Transcription", "\t")
    found, told = read(tmp_path, content, "training.tsv")
    expected = pandas.read_csv(io.StringIO(content), sep="\t", dtype=str)
    assert [row["Text Transcription"] for row in found] == list(expected["Text Transcription"])
    assert found[17]["Text Transcription"] == "THE GARDEN WAITS. said the keeper" and not told


def test_quotes_none_makes_each_line_a_row(tmp_path):
    lines = posts()
    lines[10], lines[11], lines[12] = 'p10,"open,OFF', 'p11,"whole",NOT', 'p12,"a, b",OFF'
    found, told = read(tmp_path, table(lines), quotes="none")
    assert [found[i]["text"] for i in (10, 11)] == ['"open', '"whole"'] and len(found) == 60 and not told
    assert found[12].reason.startswith("4 cells where the header has 3")


@pytest.mark.parametrize("quotes", ["auto", "backslash"])
def test_quotes_behind_backslashes(tmp_path, quotes):
    lines = [f'"p{i}","She said \\"no {i}\\", and left","OFF"' for i in range(30)]
    lines[3] = r'"p3","a path C:\\dir\\","NOT"'
    lines[4] = r'"p4",\N,"NOT"'
    lines[5] = r"p5,C:\new and \"so\",NOT"
    found, told = read(tmp_path, table(lines), quotes=quotes)
    assert len(found) == 30 and found[0] == {"id": "p0", "text": 'She said "no 0", and left', "label": "OFF"}
    assert [found[i]["text"] for i in (3, 4, 5)] == ["a path C:\\dir\\", None, 'C:\\new and "so"']
    assert told == ([] if quotes == "backslash" else [
        "posts.csv: its quotes are escaped by backslashes, and read so (quotes: backslash)"
    ])  # fmt: skip


def test_a_path_that_ends_in_a_backslash_is_no_escape(tmp_path):
    lines = [f'p{i},"C:\\dir, {i}\\",OFF' for i in range(30)]
    found, told = read(tmp_path, table(lines))
    assert [row["text"] for row in found] == [f"C:\\dir, {i}\\" for i in range(30)] and not told


@pytest.mark.parametrize("directive", ["sep=;", '"sep=;"', "SEP=;"])
@pytest.mark.parametrize("options", [{}, {"delimiter": ";"}])
def test_a_first_line_for_excel_names_the_delimiter(tmp_path, directive, options):
    content = table([directive.lower(), "id;text;label", *posts(30, ";")], header="x").partition("\n")[2]
    for mark in ("", "\ufeff"):
        found, _ = read(tmp_path, mark + content, **options)
        assert len(found) == 30 and found[0]["id"] == "p0" and list(found[0]) == ["id", "text", "label"]


def test_what_is_neither_one_nor_the_other_is_counted_by_name(tmp_path):
    lines = posts()
    lines[10] = 'p10,"she said, "go away", and, left",OFF'
    found, _ = read(tmp_path, table(lines))
    assert len(found) == 60 and [i for i, row in enumerate(found) if isinstance(row, Rejected)] == [10]


def test_every_text_that_is_written_comes_back(tmp_path):
    texts = ['"', '""', 'a"b', '"a', 'a"', ",", "\n", ' "x', "'", "\\", '\\"', "\\N", f'{EMOJI},"\r\n"', "sep=;", '","']
    rows = [{"id": str(i), "text": text, "more": "x"} for i, text in enumerate(texts * 3)]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    for quotes in ("standard", "auto"):
        found, _ = read(tmp_path, out.getvalue(), quotes=quotes)
        assert found == rows
