"""The command that puts a run into service, and takes it out again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, RunOrBundle

Link = Annotated[
    Path | None,
    typer.Option("--link", metavar="LINK", help="That a service follows; by default current, beside the run."),
]
Back = Annotated[bool, typer.Option("--back", help="Undo the last promotion: the run before it is in service again.")]


def promote(run_folder: RunOrBundle, link: Link = None, back: Back = False, as_json: Json = False) -> None:
    """Put a run into service: a link leads to it, and a running `bifocal serve LINK` takes it up without a restart.

    With --back RUN is the link, or the run that it leads to.
    """
    from ..deploy.promotion import link_beside, put_back
    from ..deploy.promotion import promote as swing
    from ..system.bundle import state_beside
    from .console import emit_json

    place = link or link_beside(run_folder)
    done = put_back(place) if back else swing(run_folder, place)
    if as_json:
        emit_json(done.to_dict())
        return
    before = f", before {done.before}" if done.before else ""
    typer.echo(f"{done.link} leads to {done.now}{before}")
    if done.before is None:
        typer.echo(f"serve it: bifocal serve {done.link} (its log and keys lie in {state_beside(place)})")
        if (own := run_folder / "serve").is_dir():
            typer.echo(f"{own} has log and keys of a service of this run alone: to go on with them, move them there")
