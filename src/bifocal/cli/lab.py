"""The command of the lab."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from .options import Force, Json, Overrides, Quiet, Runs


def lab(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="A YAML file; see configs/.")] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    write: Annotated[
        bool, typer.Option("--write", help="Keep the results under --results and rewrite the two documents.")
    ] = False,
    results: Annotated[Path, typer.Option(help="Where the results of all sets are kept.")] = Path("lab"),
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Is the second modality worth it, and why: baselines, every fusion, the verdict and what is behind it.

    With --write, experiments.md and postmortem.md are written anew from the results of all sets; without CONFIG,
    that is all that is done. A file of such a name that bears not the mark of these documents stays, unless --force is
    said.
    """
    from ..config import load_config
    from ..lab.study import keep
    from ..lab.study import lab as experiment_on
    from .console import ConsoleReporter, print_counts
    from .run_tables import print_lab

    if config is None and not write:
        raise ConfigError("bifocal lab takes a configuration, or --write to rewrite the documents from kept results")
    if write:
        from ..lab.documents.writer import check_documents

        check_documents(force=force)
    if config is not None:
        settings = load_config(config, overrides or [])
        with ConsoleReporter(as_json or quiet) as reporter:
            folder = experiment_on(settings, root=runs, reporter=reporter)
        if write:
            keep(folder, results / settings.run, force=force)
        print_lab(folder, as_json)
    if write:
        from ..lab.documents.writer import write_documents

        written = write_documents(results, force=force)
        if config is None or not as_json:
            print_counts({"written": [str(path) for path in written]}, as_json)
