"""Arguments and options that several commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, or a name that `bifocal init` lists.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one option; repeatable.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that was not written by this command.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only, no progress.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/demo.")]
RunOrBundle = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or an exported bundle.")]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Folder of log, keys and spool; by default serve/ in the run's folder, BUNDLE.serve beside a bundle.",
    ),
]
StrictParity = Annotated[
    bool,
    typer.Option(
        "--strict-parity",
        help="Refuse a bundle that decides otherwise here than where it was exported; else a warning.",
    ),
]
Part = Annotated[
    list[str] | None,
    typer.Option("--part", metavar="NAME=VALUE", help="Any other part: words, a file's path, or JSON; repeatable."),
]
AllowPlugin = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-plugin",
        metavar="MODULE",
        help="A module from outside, such as package.module, that the folder may name and run; repeatable.",
    ),
]
Margin = Annotated[float, typer.Option(min=0, help="How much worse a policy's figure may be, and NLL in nats.")]
