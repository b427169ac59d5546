"""The lab's documents with their figures, from the results of every set that was examined.

``experiments.md`` is an index of the sets, ``postmortem.md`` what follows from all of them; each set has a document of
its own beside its results.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...workspace import atomic, check_replaceable
from ..results import LabResults, read_sets
from .figures import draw, gains
from .postmortem import postmortem
from .set_document import DOCUMENT, set_document
from .words import NOTE, render

DOCUMENTS = ("experiments.md", "postmortem.md")
_HEAD = 1000
_FIGURE = '<svg role="img" aria-label='


def write_documents(results: str | Path = "lab", root: str | Path = ".", *, force: bool = False) -> list[Path]:
    """Write both documents below ``root``, and beside the results each set's with its figures.

    Equal numbers give equal bytes.

    Parameters
    ----------
    force : bool
        Overwrite what does not bear the mark of such a document too.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    RunError
        As `render_documents`; where a file of that name was written by somebody else. Nothing is written then.
    """
    rendered = render_documents(results, root)
    for path in rendered:
        check_replaceable(path, _is_ours, force=force)
    for path, text in rendered.items():
        with atomic(path) as f:
            f.write(text)
    return list(rendered)


def check_documents(root: str | Path = ".", *, force: bool = False) -> None:
    """See, before hours of work, that both documents may be written. Raises `RunError`."""
    for name in DOCUMENTS:
        check_replaceable(Path(root) / name, _is_ours, force=force)


def _is_ours(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        head = file.read(_HEAD)
    return head.startswith(_FIGURE) if path.suffix == ".svg" else NOTE in head


def render_documents(results: str | Path = "lab", root: str | Path = ".") -> dict[Path, str]:
    """All documents and figures as they should stand on disk.

    Parameters
    ----------
    results : path
        Holds a folder per set with its ``results.json``; sets stand in the order of ``about.order``, then of names.
    root : path
        Where the two documents over all sets go; links between documents are relative.

    Raises
    ------
    RunError
        Where there is no set, or a file is broken or lacks what the documents take for granted.
    """
    results, root = Path(results), Path(root)
    sets = read_sets(results)
    folder = _relative(results, root)
    rendered = {
        root / DOCUMENTS[0]: experiments(sets, folder),
        root / DOCUMENTS[1]: postmortem(sets, folder),
        results / "gains.svg": gains(sets),
    }
    for s in sets:
        home, figures = results / s.name, draw(s)
        rendered[home / DOCUMENT] = set_document(s, _relative(root / DOCUMENTS[0], home), figures)
        rendered |= {home / file: svg for file, svg in figures.items()}
    return rendered


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()


def experiments(sets: Sequence[LabResults], folder: str) -> str:
    """``experiments.md``: the rules, and a row per set; ``folder`` is where the results lie, as seen from it."""
    known = sum(s.as_expected is not None for s in sets)
    return render("experiments.md.j2", sets=sets, folder=folder, document=DOCUMENT, known=known)
