"""The commands that test a finished run: on new posts, and on attacked ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AllowPlugin, Force, Json, Quiet, RunFolder


def drift(
    run_folder: RunFolder,
    new: Annotated[
        Path, typer.Argument(metavar="NEW", help="Posts as `score` reads them, or its output (no encoder runs then).")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON; by default drift_<run>.json in the run's folder.")
    ] = None,
    force: Force = False,
    psi: Annotated[
        float | None, typer.Option(help="Movement that is an alarm; by default drift.psi of the run.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Chance of a false alarm, at most; by default drift.alpha of the run.")
    ] = None,
    fail_on_alarm: Annotated[bool, typer.Option("--fail-on-alarm", help="Exit status 1 on any alarm.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Posts per pass.")] = 32,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do new posts look like those of the run's val split; and, estimated without labels, how good is it on them."""
    from ..monitor.drift import measure_drift
    from .console import ConsoleReporter
    from .decision_tables import print_drift

    with ConsoleReporter(as_json or quiet) as reporter:
        found = measure_drift(
            run_folder,
            new,
            output=output,
            force=force,
            psi=psi,
            alpha=alpha,
            batch_size=batch_size,
            reporter=reporter,
            allow_plugins=allow_plugin or (),
        )
    print_drift(found, as_json)
    if fail_on_alarm and found["alarms"]:
        raise typer.Exit(1)


def robustness(
    run_folder: RunFolder,
    rows: Annotated[int | None, typer.Option(min=1, help="Posts that are attacked, at most; 500 by default.")] = None,
    attacks: Annotated[
        str | None, typer.Option(metavar="A,B", help="Those attacks alone, such as homoglyphs,jpeg.")
    ] = None,
    functional: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV: functionality, text, label; or HateCheck's own.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Of several labels; the first, unless another is named.")] = None,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attack the tested posts, from homoglyphs to screenshots, and see which decisions turn over."""
    from ..assess.robustness import robustness as attack
    from .console import ConsoleReporter
    from .decision_tables import print_robustness

    named = None if attacks is None else [name.strip() for name in attacks.split(",") if name.strip()]
    with ConsoleReporter(as_json or quiet) as reporter:
        path = attack(
            run_folder,
            rows=rows,
            attacks=named,
            functional=functional,
            label=label,
            reporter=reporter,
            allow_plugins=allow_plugin or (),
        )
    print_robustness(path, as_json)
