"""Which run is in service: a link that a running service follows, swung to a run and back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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


def check_link(link: Path) -> None:
    """Raises `RunError` where the place of a link is taken by something else."""
    if link.exists() and not link.is_symlink():
        raise RunError(f"{link} is no link, and is not replaced: name another place by --link, such as runs/{CURRENT}")


def check_policy(space: Workspace) -> None:
    """Raises `RunError` where a run cannot decide yet."""
    if not space.policy.is_file():
        raise RunError(f"the run in {space.folder} has no policy yet: let `bifocal run CONFIG` end")


def promote(run: str | Path, link: str | Path, *, instead_of: Path | None = None) -> Promotion:
    """Put a run, or a bundle, into service: ``link`` leads to it from now on, and a service of the link takes it up.

    With ``instead_of`` only where the link leads to that run, or to nothing yet.

    Decision log and keys of such a service lie beside the link (``current.serve/``), whichever run it leads to.

    Raises
    ------
    RunError
        Where the folder holds neither, the link's place is taken by something else, or the run before is served by a
        bundle of an engine that this one lacks.
    """
    folder, link = run_or_bundle(Path(run)).resolve(), Path(link)
    check_link(link)
    if not is_bundle(folder):
        check_policy(Workspace.of(folder))
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
    if instead_of is not None and before not in (None, instead_of.resolve()):
        raise RunError(
            f"{link} leads to {before} by now, and {folder} was held against {instead_of}: compare it with what is in "
            "service, and promote it then"
        )
    return _swing(link, folder, before, back=False)


def put_back(link: str | Path) -> Promotion:
    """Undo the last `promote` that was not undone yet. Raises `RunError` where there is none."""
    link = Path(link)
    before: list[str | None] = []
    rows = _history(state_beside(link) / HISTORY)
    for row in rows:
        if not row["back"]:
            before.append(row["before"])
        elif before:
            before.pop()
    if not before or before[-1] is None:
        raise RunError(f"{link} was not promoted over another run, so there is nothing to go back to")
    now_at, noted = link.resolve(), (link.parent / str(rows[-1]["now"])).resolve()
    if now_at != noted:
        raise RunError(
            f"{link} leads to {now_at}, and was last promoted to {noted}: somebody swung it otherwise; `bifocal "
            "promote` the run that you want"
        )
    earlier = run_or_bundle(link.parent / before[-1]).resolve()
    return _swing(link, earlier, now_at, back=True)


def _history(path: Path) -> list[dict[str, Any]]:
    try:
        return list(read_jsonl(path)) if path.is_file() else []
    except ValueError as error:
        raise RunError(
            f"{path} cannot be read ({error}), so that nobody knows what was in service before: `bifocal promote` the "
            "run that you want, once its last line is mended or gone"
        ) from None


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
        if (link.resolve() if link.is_symlink() else None) != before:
            raise RunError(f"{link} was swung by another command just now: look where it leads, and say it again")
        os.symlink(named, new)
        done = Promotion(now(), str(link), named, earlier, back)
        with open(state / HISTORY, "a", encoding="utf-8") as file:  # first: a link that leads elsewhere is noticed
            file.write(json.dumps(done.to_dict(), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, link)  # at once: whoever looks finds the old run or the new one
    return done
