"""The commands that decide on posts: on one, with or without the reasons, or on a table of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from .options import AllowPlugin, Force, Json, Part, Quiet, RunFolder, StrictParity

Text = Annotated[str | None, typer.Option("--text", "-t", help="The post's text.")]
Image = Annotated[Path | None, typer.Option("--image", "-i", help="The post's picture.")]
Tabular = Annotated[
    str | None, typer.Option("--tabular", metavar="{COLUMN: VALUE}", help="The post's record, as JSON or YAML.")
]


def predict(
    run_folder: RunFolder,
    text: Text = None,
    image: Image = None,
    tabular: Tabular = None,
    part: Part = None,
    strict_parity: StrictParity = False,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
) -> None:
    """Decide on one post: its text, its picture, its record, or several of them."""
    from .. import load
    from ..config import read_mapping
    from .decision_tables import print_decision

    record = None if tabular is None else read_mapping(tabular, "--tabular")
    system = load(run_folder, strict_parity=strict_parity, allow_plugins=allow_plugin or ())
    parts = _parts(part, system.forms)
    print_decision(system.predict(text=text, image_path=image, tabular=record, parts=parts), as_json)


def explain(
    run_folder: RunFolder,
    text: Text = None,
    image: Image = None,
    tabular: Tabular = None,
    part: Part = None,
    grid: Annotated[int, typer.Option(help="Regions along each side of the picture.")] = 7,
    label: Annotated[str | None, typer.Option(help="Of several labels; the first, unless another is named.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Write the page, heat map and JSON there.")
    ] = None,
    strict_parity: StrictParity = False,
    allow_plugin: AllowPlugin = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Why a post is decided as it is: the share of each part, and the words, regions and columns within them."""
    from .. import load
    from ..config import read_mapping
    from .decision_tables import print_explanation

    record = None if tabular is None else read_mapping(tabular, "--tabular")
    system = load(run_folder, strict_parity=strict_parity, allow_plugins=allow_plugin or ())
    parts = _parts(part, system.forms)
    explanation = system.explain(text=text, image_path=image, tabular=record, parts=parts, grid=grid, label=label)
    written = {}
    if output is not None:
        from ..report.explanation import write_explanation

        written = write_explanation(explanation, output, force=force)
    print_explanation(explanation, written, as_json)


def _parts(given: list[str] | None, forms: Mapping[str, str]) -> dict[str, Any]:
    """What stands after ``--part``; records as JSON or YAML. Raises `ConfigError`."""
    from ..config import read_mapping

    parts: dict[str, Any] = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise ConfigError(f"--part takes NAME=VALUE, such as link=https://example.org, found {one!r}")
        if name in parts:
            raise ConfigError(f"--part {name} is given twice")
        parts[name] = read_mapping(value, f"--part {name}") if forms.get(name) == "record" else value
    return parts


def score(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] INPUT", help="INPUT is CSV, TSV, JSON (lines) or Parquet: id, text, image_path, columns."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV, JSONL or Parquet, by its ending.")],
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask this service, in the place of a RUN of one's own.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="BIFOCAL_KEY", help="API key of the service; better in BIFOCAL_KEY.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where pictures are looked up; by default as the run did.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Posts per pass.")] = 32,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes; one for tables of under 20,000 rows, else one a core."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="CSV with words as they are, also such as a spreadsheet runs as formulas.")
    ] = False,
    strict_parity: StrictParity = False,
    allow_plugin: AllowPlugin = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decide on a table of posts; streams, resumes where it was stopped, and one bad row stops nothing.

    Exit status 2 where nothing, or less than 95%, could be decided; the output is whole all the same.
    """
    from .. import load
    from ..system.score import refuse_undecided, score_file
    from ..system.score_units import Decider
    from .console import ConsoleReporter, print_counts

    if len(places) != (2 if server is None else 1):
        asked = "bifocal score RUN INPUT -o OUTPUT, or bifocal score INPUT -o OUTPUT --server URL"
        raise ConfigError(f"found {len(places)} places ({', '.join(map(str, places))}): the forms are {asked}")
    if server is not None and workers is not None:
        raise ConfigError("--workers is for a RUN of one's own: a service is asked by one process; leave it out")
    *run_folder, rows = places
    with ConsoleReporter(as_json or quiet) as reporter, ExitStack() as open_ones:
        system: Decider
        if server is None:
            system = load(run_folder[0], strict_parity=strict_parity, allow_plugins=allow_plugin or ())
        else:
            from ..client import Client, Remote

            system = Remote(open_ones.enter_context(Client(server, key=key)))
        counts = score_file(
            system,
            rows,
            output,
            batch_size=batch_size,
            workers=workers,
            images=images,
            raw=raw,
            force=force,
            progress=reporter.progress,
            note=reporter.note,
        )
    print_counts(counts, as_json)
    refuse_undecided(counts)
