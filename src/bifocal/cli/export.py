"""The command that makes bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AllowPlugin, Json, Quiet, RunFolder


def export(
    run_folder: RunFolder,
    engine: Annotated[str, typer.Option(help="onnx, onnx-int8, torch or torch-bf16.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="By default bundles/ENGINE in the run's.")
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take it even where more than 0.5% of decisions flip.")
    ] = False,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """A bundle for one engine, those of ONNX without torch; and how far it decides as the run does."""
    from ..deploy.export import export as export_run
    from .console import ConsoleReporter
    from .decision_tables import print_export

    with ConsoleReporter(as_json or quiet) as reporter:
        report = export_run(
            run_folder, engine, output=output, accept=accept, reporter=reporter, allow_plugins=allow_plugin or ()
        )
    print_export(report, as_json)
