"""`experiments.md` and `postmortem.md` with their figures, from the results of every set that was examined."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...errors import RunError
from ...workspace import atomic, check_replaceable, read_json
from .experiments import NOTE, experiments
from .figures import draw, gains
from .postmortem import postmortem
from .tables import Results

DOCUMENTS = ("experiments.md", "postmortem.md")
RESULTS = "results.json"
AUTOGLUON = "autogluon.json"
"""Beside them, where a benchmark left it: what AutoGluon reaches on the same split."""
_HEAD = 1000
_FIGURE = '<svg role="img" aria-label='
NEEDED = (
    "metric", "margin", "modalities", "rows", "classes", "baselines", "fusions", "best_baseline", "best_of_modality",
    "best_fusion", "smallest_tie", "gain", "over_control", "over_additive", "verdict", "price", "risk", "dominance",
)  # fmt: skip
"""Keys that every document takes for granted; all others may be missing or null."""


def write_documents(results: str | Path = "lab", root: str | Path = ".", *, force: bool = False) -> list[Path]:
    """Write both documents below ``root`` and their figures beside the results; equal numbers give equal bytes.

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
    """Both documents and every figure as they should stand on disk.

    Parameters
    ----------
    results : path
        Holds a folder per set with its ``results.json``; sets stand in the order of ``about.order``, then of names.
    root : path
        Where the documents go; they refer to the figures from there.

    Raises
    ------
    RunError
        Where there is no set, or a file is broken or lacks what the documents take for granted.
    """
    results, root = Path(results), Path(root)
    sets = read_sets(results)
    figures = {s["name"]: draw(s) for s in sets}
    folder = Path(os.path.relpath(results, root)).as_posix()
    rendered = {
        root / DOCUMENTS[0]: experiments(sets, folder, figures),
        root / DOCUMENTS[1]: postmortem(sets, folder),
        results / "gains.svg": gains(sets),
    }
    return rendered | {results / name / file: svg for name, drawn in figures.items() for file, svg in drawn.items()}


def read_sets(results: Path) -> list[Results]:
    """The results of every set below a folder, in order, each with ``name``, that of its folder. Raises `RunError`."""
    sets: list[dict[str, Any]] = []
    for path in sorted(results.glob(f"*/{RESULTS}")):
        found = read_json(path)
        if missing := [key for key in NEEDED if found.get(key) is None]:
            raise RunError(f"{path} lacks {', '.join(missing)}: run bifocal lab again on this set")
        other = path.parent / AUTOGLUON
        beside = {"autogluon": read_json(other)} if other.is_file() else {}
        sets.append({**found, **beside, "name": path.parent.name})
    if not sets:
        raise RunError(f"there is no {results / '*' / RESULTS} to write of: run bifocal lab on a configuration first")
    return sorted(sets, key=_place)


def _place(results: Results) -> tuple[float, str]:
    order = (results.get("about") or {}).get("order")
    return (float("inf") if order is None else order, results["name"])
