"""The command that closes the loop: a run again with what people have judged since, judged and promoted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError
from .options import AllowPlugin, Json, Margin, Quiet
from .promote import Back, Link
from .promote import promote as swing

if TYPE_CHECKING:
    from ..assess.comparison import ModelComparison
    from ..serve.retrain import Retraining


def retrain(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="The run in service, or the link to it, such as runs/current.")
    ],
    feedback: Annotated[
        Path | None, typer.Option(metavar="EXPORT", help="The folder that `bifocal feedback export` wrote.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the new run; by default the old one's, numbered.")] = None,
    with_reports: Annotated[
        bool, typer.Option("--with-reports", help="Learn from clients' reports, too, where no moderator has judged.")
    ] = False,
    recent: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the audited posts that is kept aside to judge by.")
    ] = 0.2,
    margin: Margin = 0.01,
    flag_change: Annotated[
        float, typer.Option(min=0, help="How much the share of test posts flagged may move, of the old share.")
    ] = 0.2,
    promote: Annotated[
        bool, typer.Option("--promote", help="Put the new run into service where the gate passes.")
    ] = False,
    link: Link = None,
    back: Back = False,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a run again with moderators' verdicts, on the same splits, and compare both on posts new to them.

    Exit status 0 = better or no worse (with --promote: in service), 1 = worse, 3 = cannot tell, 2 = an error.
    With --back nothing is trained, as by `bifocal promote LINK --back`.
    """
    if back:
        swing(run_folder, link, back=True, as_json=as_json)
        return
    if feedback is None:
        raise ConfigError("name what people have judged since by --feedback: `bifocal feedback export` writes it")
    from ..assess.label_comparison import CompareSettings
    from ..serve.retrain import RetrainSettings
    from ..serve.retrain import retrain as again
    from .console import ConsoleReporter, emit_json

    asked = RetrainSettings(
        name=name,
        with_reports=with_reports,
        recent=recent,
        compare=CompareSettings(margin, flag_change, latency=False),
        promote=promote,
        link=link,
    )
    with ConsoleReporter(as_json or quiet) as reporter:
        done = again(run_folder, feedback, asked, allow_plugins=allow_plugin or (), reporter=reporter)
    if as_json:
        emit_json(done.to_dict())
    else:
        _print(done)
    if done.gate or (promote and done.promoted is None):
        raise typer.Exit(done.gate or 2)


def _print(done: Retraining) -> None:
    from .console import plain

    console = plain()
    kept, new = sum(done.rows["matched"].values()), done.rows["new"]
    console.print(f"{done.new}: {kept:,} rows of {done.old} with their splits, {_counts(new)} new", soft_wrap=True)
    if done.rows["recent"]:
        console.print(f"kept aside to judge by: {done.rows['recent']:,} audited posts", soft_wrap=True)
    for why, n in done.rows["left_out"].items():
        console.print(f"left out: {n:,} {why}", soft_wrap=True)
    for sentence in done.by_hand:
        console.print(f"set by hand: {sentence}", soft_wrap=True)
    _print_comparison("the test of before", done.frozen)
    if done.recent is not None:
        _print_comparison("recent posts", done.recent)
    for note in done.notes:
        console.print(f"note: {note}", style="yellow", soft_wrap=True)
    told = {0: "better or no worse", 1: "worse", 3: "cannot tell"}[done.gate]
    console.print(f"gate: {told}", style="bold")
    if done.promoted is not None:
        console.print(f"in service: {done.promoted.link} leads to {done.promoted.now}, before {done.promoted.before}")
    else:
        console.print(f"look closer: bifocal compare {done.old} {done.new}", soft_wrap=True)


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {split}" for split, n in found.items()) or "none"


def _print_comparison(title: str, found: ModelComparison) -> None:
    from ..report import comparison
    from .console import drawn, plain

    console = plain()
    console.print(f"{title}: {found.compared:,} posts", style="bold")
    for pair in found.pairs:
        for label, of in pair["labels"].items():
            console.print(f"{label}: {comparison.verdict_words(of['verdict'])}")
            if of["figures"]:
                console.print(drawn(comparison.figures_table(of)))
    for note in found.notes:
        console.print(f"note: {note}", style="yellow", soft_wrap=True)
