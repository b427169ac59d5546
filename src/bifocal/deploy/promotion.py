"""Which run is in service: a link that a running service follows, swung to a run and back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..decide.policy import now
from ..errors import RunError
from ..system.bundle import engine_of, is_bundle, run_or_bundle, state_beside
from ..workspace import Workspace, folder_lock, read_jsonl

CURRENT = "current"
"""The link's name, unless it is told another: beside the runs."""
HISTORY = "promotions.jsonl"


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a link was swung to, and from: folders as the link names them, relative to its own; ``before`` is None
    where the link was made."""

    date: str
    link: str
    now: str
    before: str | None
    back: bool = False

    def to_dict(self) -> dict[str, str | bool | None]:
        """JSON-able."""
        return asdict(self)


def link_beside(run: Path) -> Path:
    """Where the link to the run in service is, unless it is told another: the given path, or ``current`` beside it."""
    return run if run.is_symlink() else run.parent / CURRENT


def promote(run: str | Path, link: str | Path) -> Promotion:
    """Put a run, or a bundle, into service: ``link`` leads to it from now on, and a service of the link takes it up.

    Decision log and keys of such a service lie beside the link (``current.serve/``), whichever run it leads to.

    Raises
    ------
    RunError
        Where the folder holds neither, the link's place is taken by something else, or the run before is served by a
        bundle of an engine that this one lacks.
    """
    folder, link = run_or_bundle(Path(run)).resolve(), Path(link)
    if link.exists() and not link.is_symlink():
        raise RunError(f"{link} is no link, and is not replaced: name another place by --link, such as runs/{CURRENT}")
    if not is_bundle(folder) and not Workspace.of(folder).policy.is_file():
        raise RunError(f"the run in {folder} has no policy yet: let `bifocal run CONFIG` end")
    before = link.resolve() if link.is_symlink() else None
    if before == folder:
        raise RunError(f"{link} leads to {folder} already: it is in service")
    if before is not None and not is_bundle(folder):
        for engine in _engines(before):
            if engine not in set(_engines(folder)):
                raise RunError(
                    f"{before} has a bundle for {engine}, which may be what is served, and {folder} has none: "
                    f"`bifocal export {folder} --engine {engine}` first"
                )
    return _swing(link, folder, before, back=False)


def put_back(link: str | Path) -> Promotion:
    """Undo the last `promote` that was not undone yet. Raises `RunError` where there is none."""
    link = Path(link)
    before: list[str | None] = []
    path = state_beside(link) / HISTORY
    for row in read_jsonl(path) if path.is_file() else ():
        if row["back"]:
            before.pop()
        else:
            before.append(row["before"])
    if not before or before[-1] is None:
        raise RunError(f"{link} was not promoted over another run, so there is nothing to go back to")
    earlier = run_or_bundle(link.parent / before[-1]).resolve()
    return _swing(link, earlier, link.resolve(), back=True)


def _engines(folder: Path) -> Iterator[str]:
    return (engine_of(path) for path in sorted((folder / "bundles").glob("*")) if is_bundle(path))


def _swing(link: Path, folder: Path, before: Path | None, *, back: bool) -> Promotion:
    state = state_beside(link)
    state.mkdir(parents=True, exist_ok=True)
    with folder_lock(state):
        new = link.with_name(f".{link.name}.{os.getpid()}.part")
        new.unlink(missing_ok=True)
        place = link.parent.resolve()
        named, earlier = os.path.relpath(folder, place), None if before is None else os.path.relpath(before, place)
        os.symlink(named, new)
        os.replace(new, link)  # at once: whoever looks finds the old run or the new one
        done = Promotion(now(), str(link), named, earlier, back)
        with open(state / HISTORY, "a", encoding="utf-8") as file:
            file.write(json.dumps(done.to_dict(), ensure_ascii=False) + "\n")
    return done
