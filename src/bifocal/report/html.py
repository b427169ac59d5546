"""The page a person reads: findings as one self-contained HTML file that asks nothing of any server."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ..errors import extras_named
from ..workspace import Workspace, atomic, inside, read_json, write_json
from . import tables, words
from .findings import findings
from .gallery import GALLERY
from .markdown import to_markdown
from .next_steps import next_steps
from .schema import RunFacts
from .templates import environment

if TYPE_CHECKING:
    from .drawings import Figure

TEMPLATE = "template.html"
SCRIPT = "page.js"


def write_report(folder: Path, facts: RunFacts | None = None, label: str = "") -> Path:
    """Draw the report of a run from its artifacts alone; draw it again whenever the report's code has changed.

    Parameters
    ----------
    folder : Path
        The run's folder. ``report/index.html``, ``report/report.json`` (the findings), ``report/report.md`` and of
        every figure ``report/figures/<name>.png`` and ``.csv`` are written there, each whole or not at all.
    facts : mapping, optional
        As `findings` gives them, for who has them already.
    label : str
        A label after the run's first, whose page lies in ``report.<label>/``; "" = the first.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    RunError
        Naming the artifact that is missing or broken.
    MissingExtra
        Without the packages of ``bifocal[report]``.
    """
    with extras_named():
        from .drawings import draw_figures, write_figures

    space = Workspace.of(folder).for_label(label)
    facts = findings(folder, label) if facts is None else facts
    figures = draw_figures(facts)
    page = to_html(facts, figures, pictures(space.report))
    write_json(space.report / "report.json", facts)
    write_figures(space.report / "figures", figures)
    for name, content in (("report.md", to_markdown(facts)), ("index.html", page)):
        with atomic(space.report / name) as f:
            f.write(content)
    return space.report / "index.html"


def to_html(facts: RunFacts, figures: Mapping[str, Figure], gallery: Mapping[str, str] | None = None) -> str:
    """The page of some findings; everything that comes from a run is escaped.

    Parameters
    ----------
    facts : mapping
        As `findings` gives them.
    figures : mapping
        As `draw_figures` gives them.
    gallery : mapping, optional
        Id of a post -> its picture as a data URI.

    Raises `MissingExtra` without the packages of ``bifocal[report]``.
    """
    env = environment()
    from markupsafe import Markup

    env.filters |= {"number": words.number, "signed": words.signed, "interval": words.interval}
    script = (Path(__file__).parent / SCRIPT).read_text(encoding="utf-8")
    return env.get_template(TEMPLATE).render(
        facts=facts,
        figures={name: {"svg": Markup(f.drawn.svg), "caption": f.caption} for name, f in figures.items()},
        gallery=gallery or {},
        words=words,
        next_steps=next_steps(facts),
        tables=tables,
        config=yaml.safe_dump(facts["made"]["config"], sort_keys=False, allow_unicode=True),
        script=Markup(script),
        # The page runs this one script and no other, whatever a post may hold.
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
    )


def pictures(report: Path) -> dict[str, str]:
    """Id of a post -> its picture as a data URI, of those that `write_gallery` left."""
    index = report / GALLERY / "index.json"
    if not index.is_file():
        return {}
    found = {id: inside(report / GALLERY, name) for id, name in read_json(index).items()}
    return {
        id: f"data:image/jpeg;base64,{b64encode(path.read_bytes()).decode()}"
        for id, path in found.items()
        if path.is_file()
    }
