"""The command that compares models: is the new one better, and may it replace the old one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AllowPlugin, Force, Json, Margin, Quiet

if TYPE_CHECKING:
    from ..assess.comparison import ModelComparison


def compare(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="OLD NEW…", help="Run folders, bundles, or tables of scores; the first is in use."),
    ],
    on: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Other posts than the runs' test rows: a table, an export of feedback, a configuration or a source.",
        ),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit status 0 = better or no worse, 1 = worse, 3 = cannot tell.")
    ] = False,
    margin: Margin = 0.01,
    flag_change: Annotated[
        float, typer.Option(min=0, help="How much the share of posts flagged may move, of the old share.")
    ] = 0.2,
    truth: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="True labels in tables of scores; default: the label's name.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder: index.html and comparison.json.")] = Path(
        "comparison"
    ),
    force: Force = False,
    seed: int = 0,
    latency: Annotated[bool, typer.Option(help="Time every model on a few posts.")] = True,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Is a new model better than the old one: on posts that neither has seen, by a rule set before.

    Compared are AUROC, the policies' own figures, NLL and Brier, decisions that turn over, slices, speed and size.
    """
    from ..assess.comparison import compare_models
    from ..assess.label_comparison import CompareSettings
    from ..pipeline.inspect import posts_of
    from ..report.comparison import write_comparison
    from ..workspace import read_json
    from .console import ConsoleReporter, emit_json

    settings = CompareSettings(margin, flag_change, seed=seed, latency=latency)
    with ConsoleReporter(as_json or quiet) as reporter:
        found = compare_models(
            models,
            on=None if on is None else posts_of(on, models),
            truth=truth,
            settings=settings,
            need_labels=gate,
            allow_plugins=allow_plugin or (),
            reporter=reporter,
        )
    written = write_comparison(found, output, force=force)
    if as_json:
        emit_json({**read_json(written["json"]), "files": {name: str(path) for name, path in written.items()}})
    else:
        _print(found, written["page"])
    if gate and found.gate:
        raise typer.Exit(found.gate)


def _print(found: ModelComparison, page: Path) -> None:
    """Verdicts first, then figures; the rest is on the page."""
    from ..report import comparison
    from .console import drawn, plain

    console = plain()
    for rule in found.rules:
        console.print(rule, style="dim")
    console.print(f"{found.compared:,} posts: {found.on}", soft_wrap=True)
    for why, n in found.left_out.items():
        console.print(f"  left out {n:,}: {why}", soft_wrap=True)
    console.print(drawn(comparison.models_table(found)))
    for pair in found.pairs:
        console.print(f"{pair['new']} beside {pair['old']}", style="bold", soft_wrap=True)
        for label, of in pair["labels"].items():
            console.print(f"{label}: {comparison.verdict_words(of['verdict'])}", style="bold")
            for sentence in comparison.sentences(label, of):
                console.print(f"  {sentence}", soft_wrap=True)
            if of["figures"]:
                console.print(drawn(comparison.figures_table(of)))
    for note in found.notes:
        console.print(f"note: {note}", style="yellow", soft_wrap=True)
    console.print(f"gate: {found.gate} (0 better or no worse, 1 worse, 3 cannot tell); page: {page}", soft_wrap=True)
