"""The commands of a run: all its steps, or some of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ConfigPath, Json, Overrides, Quiet, Runs, Strict

if TYPE_CHECKING:
    from ..config import RunConfig


def run(
    config: ConfigPath,
    overrides: Overrides = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="Redo this step and all after it.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STEP", help="Stop after this step.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it costs.")] = False,
    strict: Strict = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """From a folder of memes to a calibrated decision: every step, finished ones skipped."""
    settings = _settings(config, overrides, strict)
    if dry_run:
        from ..pipeline.plan import plan
        from .run_tables import print_plan

        print_plan(plan(settings, root=runs), as_json)
        return
    _perform(settings, runs, start=start, until=until, as_json=as_json, quiet=quiet)


def pack(
    config: ConfigPath,
    overrides: Overrides = None,
    strict: Strict = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Steps 2 and 3 only: manifest, OCR, groups, splits, shards."""
    _perform(_settings(config, overrides, strict), runs, until="shards", as_json=as_json, quiet=quiet)


def train(
    config: ConfigPath,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Steps 4 and 5: experts, Evidence, fusion (and the steps before them where they are not done)."""
    _perform(_settings(config, overrides), runs, until="fusion", as_json=as_json, quiet=quiet)


def evaluate(
    config: ConfigPath,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Steps 6 and 7 anew: calibration, thresholds, evaluation, errors, report; from the cached Evidence."""
    _perform(_settings(config, overrides), runs, start="calibrate", as_json=as_json, quiet=quiet)


def _settings(path: Path, overrides: list[str] | None, strict: bool = False) -> RunConfig:
    from ..config import load_config

    config = load_config(path, overrides or [])
    return config.model_copy(update={"strict": True}) if strict else config


def _perform(
    config: RunConfig, runs: Path, *, start: str | None = None, until: str | None = None, as_json: bool, quiet: bool
) -> None:
    from ..pipeline.train import run as run_steps
    from .console import ConsoleReporter
    from .run_tables import print_results

    with ConsoleReporter(as_json or quiet) as reporter:
        folder = run_steps(config, root=runs, start=start, until=until, reporter=reporter)
    print_results(folder, as_json)
