"""Templates escape for HTML where they are asked to, and never print what is missing as nothing."""

import pytest
from jinja2 import UndefinedError

from bifocal.report.templates import environment


@pytest.mark.parametrize(("escape", "shown"), [(True, "&lt;b&gt;"), (False, "<b>")])
def test_markup_is_escaped_for_html_alone(tmp_path, escape, shown):
    (tmp_path / "a.txt").write_text("{{ name }}")
    assert environment(tmp_path, escape=escape).get_template("a.txt").render(name="<b>") == shown


def test_what_is_missing_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("{{ name }}")
    with pytest.raises(UndefinedError, match="name"):
        environment(tmp_path).get_template("a.txt").render()
