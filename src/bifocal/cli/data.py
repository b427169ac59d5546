"""The commands that read or write data without a run: generated memes, what a source holds, tables as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Quiet


def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, in the Hateful Memes layout.")],
    size: Annotated[int, typer.Option(min=1)] = 1000,
    structure: Annotated[str, typer.Option(help="redundant, unique_text, unique_image, and, xor")] = "and",
    cue: Annotated[str, typer.Option(help="colour, background or object")] = "colour",
    overlay: Annotated[bool, typer.Option(help="Draw the caption into the picture.")] = False,
    seed: int = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write generated memes whose information structure is known."""
    from .. import plugins
    from .console import ConsoleReporter, print_counts

    given = {"size": size, "structure": structure, "cue": cue, "overlay": overlay, "seed": seed}
    source = plugins.options("source", "synthetic", given, plugins.load("sources", "synthetic"))
    with ConsoleReporter(as_json or quiet) as reporter:
        counts = source.write_folder(out, progress=reporter.progress)
    print_counts({"folder": str(out), **counts}, as_json)


def inspect(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A configuration, or a source: '{kind: table, root: posts.csv, …}'.")
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Read the first rows only.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a source holds: counts, labels, languages, sizes, duplicates, and the rows that cannot be used."""
    from ..pipeline.inspect import inspect as examine
    from ..pipeline.inspect import source_of
    from .console import ConsoleReporter
    from .run_tables import print_inspection

    with ConsoleReporter(as_json or quiet) as reporter:
        found = examine(source_of(source), limit=limit, progress=reporter.progress)
    print_inspection(found, as_json)


def unguard(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV that Bifocal wrote, such as errors_<run>.csv.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV.")],
    as_json: Json = False,
) -> None:
    """Words as they were, without the ' before those that a spreadsheet would run: for programs, not for people."""
    from ..spreadsheet import unguard as undo
    from .console import print_counts

    print_counts({"output": str(output), "cells": undo(table, output)}, as_json)
