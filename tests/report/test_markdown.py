"""The findings as Markdown: complete, and nothing of a run becomes markup."""

import pytest

from bifocal.report.findings import findings
from bifocal.report.markdown import plain, table_lines, to_markdown
from bifocal.report.tables import Cell, Table


def test_markdown_quotes_no_post_and_no_markup(fake_run):
    text = to_markdown(findings(fake_run()))
    assert "script" not in text and "plain caption" not in text
    assert "picture is &lt;broken&gt;" in text
    assert "0.640 → 0.650 \\[0.600, 0.700\\]" in text
    assert text == to_markdown(findings(fake_run()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("text_expert", "text_expert"),
        ("a | b\n# c", r"a \| b \# c"),
        ("__b__", r"\_\_b\_\_"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("[a](http://b)", r"\[a\](http\://b)"),
        ("`c` *d*", r"\`c\` \*d\*"),
    ],
)
def test_plain_text_stays_plain(text, shown):
    assert plain(text) == shown


def test_a_table_aligns_its_figures_and_quotes_its_cells():
    table = Table(["model", "a|b"], [["x|y", 1234], ["z", Cell("0.5", "[0.4, 0.6]")]])
    assert table_lines(table) == [
        "| model | a\\|b |",
        "| --- | ---: |",
        "| x\\|y | 1,234 |",
        "| z | 0.5 \\[0.4, 0.6\\] |",
        "",
    ]
    assert table_lines(Table(["a"], [])) == []
