"""The command line: thin commands over the public functions, with progress for people and JSON for machines."""

from __future__ import annotations

import io
import os
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

# Before anything imports torch: idle threads that spin make two of them slower than one on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from ..errors import BifocalError, ConfigError, extras_named
from .log import feedback_app, log_app
from .serve import AllowPlugin, StrictParity, keys_app, lists_app
from .serve import serve as serve_command

if TYPE_CHECKING:
    from .console import ConsoleReporter

app = typer.Typer(
    help="Train, fuse, calibrate and serve multimodal abuse classifiers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, see configs/.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one option; repeatable.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that was not written by this command.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only, no progress.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/demo.")]


@app.command()
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
    _perform(config, overrides, start, until, dry_run, strict, runs, as_json, quiet)


@app.command()
def pack(
    config: ConfigPath,
    overrides: Overrides = None,
    strict: Strict = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Steps 2 and 3 only: manifest, OCR, groups, splits, shards."""
    _perform(config, overrides, None, "shards", False, strict, runs, as_json, quiet)


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Steps 4 and 5: experts, Evidence, fusion (and the steps before them where they are not done)."""
    _perform(config, overrides, None, "fusion", False, False, runs, as_json, quiet)


@app.command()
def evaluate(
    config: ConfigPath,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Steps 6 and 7 anew: calibration, thresholds, evaluation, errors, report; from the cached Evidence."""
    _perform(config, overrides, "calibrate", None, False, False, runs, as_json, quiet)


def _perform(
    config_path: Path,
    overrides: list[str] | None,
    start: str | None,
    until: str | None,
    dry_run: bool,
    strict: bool,
    runs: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    from ..config import load_config
    from .console import print_plan, print_results

    config = load_config(config_path, overrides or [])
    if strict:
        config = config.model_copy(update={"strict": True})
    if dry_run:
        from ..pipeline.plan import plan

        print_plan(plan(config, root=runs), as_json)
        return
    from ..pipeline.train import run as run_steps

    with _reporter(as_json or quiet) as reporter:
        folder = run_steps(config, root=runs, start=start, until=until, reporter=reporter)
    print_results(folder, as_json)


@app.command()
def predict(
    run_folder: RunFolder,
    text: Annotated[str | None, typer.Option("--text", "-t", help="The post's text.")] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="The post's picture.")] = None,
    tabular: Annotated[
        str | None, typer.Option("--tabular", metavar="{COLUMN: VALUE}", help="The post's record, as JSON or YAML.")
    ] = None,
    strict_parity: StrictParity = False,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
) -> None:
    """Decide on one post: its text, its picture, its record, or several of them."""
    from .. import load
    from ..config import read_mapping
    from .console import print_decision

    record = None if tabular is None else read_mapping(tabular, "--tabular")
    system = load(run_folder, strict_parity=strict_parity, allow_plugins=allow_plugin or ())
    print_decision(system.predict(text=text, image_path=image, tabular=record), as_json)


@app.command()
def explain(
    run_folder: RunFolder,
    text: Annotated[str | None, typer.Option("--text", "-t", help="The post's text.")] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="The post's picture.")] = None,
    tabular: Annotated[
        str | None, typer.Option("--tabular", metavar="{COLUMN: VALUE}", help="The post's record, as JSON or YAML.")
    ] = None,
    grid: Annotated[int, typer.Option(help="Regions along each side of the picture.")] = 7,
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
    from .console import print_explanation

    record = None if tabular is None else read_mapping(tabular, "--tabular")
    system = load(run_folder, strict_parity=strict_parity, allow_plugins=allow_plugin or ())
    explanation = system.explain(text=text, image_path=image, tabular=record, grid=grid)
    written = {}
    if output is not None:
        from ..report.explanation import write_explanation

        written = write_explanation(explanation, output, force=force)
    print_explanation(explanation, written, as_json)


@app.command()
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
    from ..system.score import Scorer, refuse_undecided, score_file
    from .console import print_counts

    if len(places) != (2 if server is None else 1):
        asked = "bifocal score RUN INPUT -o OUTPUT, or bifocal score INPUT -o OUTPUT --server URL"
        raise ConfigError(f"found {len(places)} places ({', '.join(map(str, places))}): the forms are {asked}")
    *run_folder, rows = places
    with _reporter(as_json or quiet) as reporter, ExitStack() as open_ones:
        system: Scorer
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
            images=images,
            raw=raw,
            force=force,
            progress=reporter.progress,
            note=reporter.note,
        )
    print_counts(counts, as_json)
    refuse_undecided(counts)


@app.command()
def unguard(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV that Bifocal wrote, such as errors_<run>.csv.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV.")],
    as_json: Json = False,
) -> None:
    """Words as they were, without the ' before those that a spreadsheet would run: for programs, not for people."""
    from ..spreadsheet import unguard as undo
    from .console import print_counts

    print_counts({"output": str(output), "cells": undo(table, output)}, as_json)


@app.command()
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
    """Do new posts look like those the run was tuned on; and, estimated without labels, how good is it on them."""
    from ..monitor.drift import watch
    from .console import print_drift

    with _reporter(as_json or quiet) as reporter:
        found = watch(
            run_folder,
            new,
            output=output,
            force=force,
            psi=psi,
            alpha=alpha,
            batch_size=batch_size,
            progress=reporter.progress,
            note=reporter.note,
            allow_plugins=allow_plugin or (),
        )
    print_drift(found, as_json)
    if fail_on_alarm and found["alarms"]:
        raise typer.Exit(1)


@app.command()
def robustness(
    run_folder: RunFolder,
    rows: Annotated[int | None, typer.Option(min=1, help="Posts that are attacked, at most; 500 by default.")] = None,
    attacks: Annotated[
        str | None, typer.Option(metavar="A,B", help="Those attacks alone, such as homoglyphs,jpeg.")
    ] = None,
    functional: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV: functionality, text, label; or HateCheck's own.")
    ] = None,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attack the tested posts, from homoglyphs to screenshots, and see which decisions turn over."""
    from ..assess.robustness import robustness as attack
    from .console import print_robustness

    named = None if attacks is None else [name.strip() for name in attacks.split(",") if name.strip()]
    with _reporter(as_json or quiet) as reporter:
        path = attack(
            run_folder,
            rows=rows,
            attacks=named,
            functional=functional,
            reporter=reporter,
            allow_plugins=allow_plugin or (),
        )
    print_robustness(path, as_json)


@app.command()
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
    from .console import print_counts

    given = {"size": size, "structure": structure, "cue": cue, "overlay": overlay, "seed": seed}
    source = plugins.options("source", "synthetic", given, plugins.load("sources", "synthetic"))
    with _reporter(as_json or quiet) as reporter:
        counts = source.write_folder(out, progress=reporter.progress)
    print_counts({"folder": str(out), **counts}, as_json)


@app.command()
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
    from .console import print_inspection

    with _reporter(as_json or quiet) as reporter:
        found = examine(source_of(source), limit=limit, progress=reporter.progress)
    print_inspection(found, as_json)


@app.command()
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
    from .console import print_counts, print_lab

    if config is None and not write:
        raise ConfigError("bifocal lab takes a configuration, or --write to rewrite the documents from kept results")
    if write:
        from ..lab.documents.documents import check_documents

        check_documents(force=force)
    if config is not None:
        settings = load_config(config, overrides or [])
        with _reporter(as_json or quiet) as reporter:
            folder = experiment_on(settings, root=runs, reporter=reporter)
        if write:
            keep(folder, results / settings.run, force=force)
        print_lab(folder, as_json)
    if write:
        from ..lab.documents.documents import write_documents

        written = write_documents(results, force=force)
        if config is None or not as_json:
            print_counts({"written": [str(path) for path in written]}, as_json)


policy_app = typer.Typer(help="Compare policies, and set a threshold by hand.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")


@policy_app.command("diff")
def policy_diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run folder, or a policy file in one.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another policy for the same models.")],
    on: Annotated[str, typer.Option(metavar="SPLIT", help="Posts to decide on: test, val or train.")] = "test",
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
) -> None:
    """Which decisions policy B would change: counts and examples, from the cached Evidence."""
    from ..deploy.policies import compare
    from .console import print_policy_diff

    print_policy_diff(compare(a, b, on=on, allow_plugins=allow_plugin or ()), as_json)


@policy_app.command("set")
def policy_set(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or an exported bundle.")],
    threshold: Annotated[float, typer.Option(help="The new threshold, on calibrated probabilities.")],
    by: Annotated[str, typer.Option(help="Who sets it.")],
    why: Annotated[str, typer.Option(help="The reason, for those who come after.")],
    model: Annotated[str | None, typer.Option(help="The model that decides, unless another is named.")] = None,
    pattern: Annotated[
        str, typer.Option(help="Posts that bring these parts only, such as text; pooled = all that have no own one.")
    ] = "pooled",
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
) -> None:
    """Set a threshold by hand; the policy records who and why, and the old one is kept under policies/.

    A bundle has a policy of its own: that of its run does not reach it.
    """
    from ..deploy.policies import set_threshold
    from .console import print_policy_set

    allowed = allow_plugin or ()
    found = set_threshold(run_folder, model, threshold, pattern=pattern, by=by, why=why, allow_plugins=allowed)
    print_policy_set(run_folder, found, as_json)


app.add_typer(feedback_app, name="feedback")
app.add_typer(log_app, name="log")


@app.command()
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
    from .console import print_export

    with _reporter(as_json or quiet) as reporter:
        report = export_run(
            run_folder, engine, output=output, accept=accept, reporter=reporter, allow_plugins=allow_plugin or ()
        )
    print_export(report, as_json)


app.command("serve")(serve_command)
app.add_typer(keys_app, name="keys")
app.add_typer(lists_app, name="lists")


@app.command()
def doctor(runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """What is installed, which accelerator, which models are cached, free disk."""
    from .console import print_counts
    from .doctor import examine

    print_counts(examine(runs), as_json)


def _reporter(silent: bool) -> ConsoleReporter:
    from .console import ConsoleReporter

    return ConsoleReporter(silent)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """A warning of ours as one line, as errors are told; others as Python shows them."""
    ours = category.__module__.startswith("bifocal.")
    told = f"warning: {message}" if ours else warnings.formatwarning(message, category, filename, lineno, line).rstrip()
    typer.echo(told, err=True)


def main() -> None:
    """Entry point: an error of ours is one line and exit status 2; ``--debug`` anywhere shows the traceback."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # workers, too, import nothing from the current folder
    for stream in (sys.stdout, sys.stderr):  # a terminal may not have our signs, nor a name of a file be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow's own word on what we refuse by name
    warnings.showwarning = _show_warning
    try:
        with extras_named():
            app()
    except BifocalError as error:
        if debug:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if debug:
            raise
        typer.echo(f"error: {error.filename or ''}: {error.strerror or error}", err=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # Ctrl-C, as typer reports it
            typer.echo("stopped: the same command goes on from the last finished step", err=True)
        raise


if __name__ == "__main__":
    main()
