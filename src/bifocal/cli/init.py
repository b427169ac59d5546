"""The command that begins: it looks at posts and writes a configuration for them, or lists those that come along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json

if TYPE_CHECKING:
    from ..pipeline.propose import Proposal


def init(
    posts: Annotated[
        str | None,
        typer.Argument(
            metavar="POSTS",
            help="A table (CSV, TSV, JSON lines, Parquet), a folder or archive of posts, or a dataset of the hub as "
            "OWNER/NAME; none = list the configurations that come with Bifocal.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The configuration to write; default: the posts' name, .yaml.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="What is to be learned; repeatable.")
    ] = None,
    words: Annotated[
        list[str] | None, typer.Option("--text", metavar="COLUMN", help="A post's words; repeatable.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where the pictures lie that the table names, or an archive.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A column that is not to be read; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a configuration that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Look at your posts and write a configuration for them: the first step."""
    if posts is None:
        _list_packaged(as_json)
        return
    from ..diagnose.column_roles import AskedRoles
    from ..errors import ConfigError
    from ..pipeline.propose import Asked, propose, run_name
    from ..workspace import atomic

    output = output or Path(f"{run_name(posts)}.yaml")
    if output.exists() and not force:
        raise ConfigError(f"{output} is there already: name another file with -o, or overwrite it with --force")
    asked = Asked(AskedRoles(label or (), words or (), drop or ()), images, run_name(str(output)))
    proposal = propose(posts, asked)
    with atomic(output) as file:
        file.write(proposal.content)
    _print(proposal, output, as_json)


def _print(proposal: Proposal, output: Path, as_json: bool) -> None:
    from ..report.tables import Table
    from .console import drawn, emit_json, plain

    if as_json:
        emit_json(
            {
                "config": str(output),
                "run": proposal.run,
                "rows": proposal.rows,
                "columns": {column.name: {"role": column.role, "why": column.why} for column in proposal.columns},
                "assumed": proposal.assumed,
                "warnings": proposal.warnings,
                "cost": proposal.cost,
                "minutes": proposal.minutes,
            }
        )
        return
    console = plain()
    if proposal.columns:
        rows = [[c.name, c.role, c.why] for c in proposal.columns]
        console.print(drawn(Table(("column", "read as", "why"), rows, texts=3)))
    for assumed in proposal.assumed:
        console.print(f"assumed: {assumed}")
    for warning in proposal.warnings:
        console.print(f"warning: {warning}", style="yellow")
    console.print(f"cost: {proposal.cost}")
    console.print(f"\nwrote {output}. Read it, then train:  bifocal run {output}", soft_wrap=True)


def _list_packaged(as_json: bool) -> None:
    from ..config import packaged_configs
    from .console import emit_json, plain

    told = {name: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for name, path in
            packaged_configs().items()}  # fmt: skip
    if as_json:
        emit_json(told)
        return
    from rich.table import Table as Grid

    console, grid = plain(), Grid.grid(padding=(0, 2))
    for name, sentence in told.items():
        grid.add_row(name, sentence)
    console.print("Your own posts: bifocal init posts.csv\nComing with Bifocal, and run by name (bifocal run pilot):\n")
    console.print(grid)
