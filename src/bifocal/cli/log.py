"""The commands of the decision log: what people said of decisions for retraining, counts, and deleting."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import RunOrBundle, State
from .serve import state_folder

if TYPE_CHECKING:
    from ..serve.log.decision_store import DecisionStore
    from ..serve.reference import UsualDecisions

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        envvar="BIFOCAL_DATABASE",
        help="The decision log, where it is not decisions.sqlite in the state folder; better in BIFOCAL_DATABASE.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]

feedback_app = typer.Typer(help="What became known of decided posts.", no_args_is_help=True)
log_app = typer.Typer(help="The decision log of a service, and its review queue.", no_args_is_help=True)


def _store(run_folder: Path, state: Path | None, database: str | None) -> DecisionStore:
    from ..errors import RunError
    from ..serve.log.decision_store import SECRET, DecisionStore, read_secret
    from ..serve.settings import DECISIONS

    state = state_folder(run_folder, state)
    file = state / DECISIONS
    if database is None and not file.exists():
        raise RunError(f"there is no decision log {file}: `bifocal serve` makes it; another is named by --database")
    if not (state / SECRET).exists():
        raise RunError(f"there is no key of the decision log in {state}: name the service's state folder by --state")
    store = DecisionStore(database or f"sqlite:///{file.resolve()}", secret=read_secret(state))
    store.migrate()
    store.sync()
    return store


@feedback_app.command("export")
def feedback_export(
    run_folder: RunOrBundle,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="A new folder, or that of an earlier export.")
    ],
    state: State = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Write posts with what people said of them; retrain on source: {kind: feedback, root: FOLDER}."""
    from ..serve.retraining import export, labels_of
    from .console import print_counts

    run, labels = labels_of(run_folder)
    store = _store(run_folder, state, database)
    # A link led to other runs before: what was said of their decisions is said of the same service's posts.
    rows = store.labelled(None if run_folder.is_symlink() else run)
    print_counts({"folder": str(output), **export(rows, labels, output)}, as_json)


@log_app.command("counts")
def log_counts(
    run_folder: RunOrBundle,
    hours: Annotated[float, typer.Option(min=0, help="Of decisions, those so many hours back.")] = 24,
    state: State = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """How many decisions there were of late, and what waits in the queue; of several labels, what each answered."""
    from ..decide.policy import Policy
    from ..serve.reference import usual_decisions
    from ..system.bundle import policy_path
    from .console import print_counts

    store = _store(run_folder, state, database)
    since = store.clock() - timedelta(hours=hours)
    recent = store.summary(since)
    told = {name: recent[name] for name in ("decisions", "sources", "clients", "policies", "shadow", "verdicts")}
    told |= {"feedback": recent["feedback"], "queue": store.counts()}
    policy = Policy.load(policy_path(run_folder))
    if len(policy.label_names) > 1:
        usual = usual_decisions(run_folder, policy)
        told["labels"] = {
            name: _counts_of_label(store.summary(since, name), usual[name]) for name in policy.label_names
        }
    if as_json or "labels" not in told:
        print_counts(told, as_json)
        return
    each = told.pop("labels")
    lines = {f"{name}: {what}": value for name, counts in each.items() for what, value in counts.items()}
    print_counts({**told, **lines}, as_json)


def _counts_of_label(recent: Mapping[str, Any], usual: UsualDecisions | None) -> dict[str, dict[str, Any]]:
    """What one of several labels answered; ``shares`` of its classes, and in ``reference`` those it was tuned on."""
    return {
        "decisions": recent["decisions"],
        "classes": recent["classes"],
        "shares": _shares(recent["classes"]),
        "reference": _shares(usual.classes) if usual else {},
        "shadow": recent["shadow"],
    }


def _shares(classes: Mapping[str, int]) -> dict[str, float]:
    whole = sum(classes.values())
    return {name: round(n / whole, 4) for name, n in classes.items()}


@log_app.command("purge")
def log_purge(
    run_folder: RunOrBundle,
    days: Annotated[float, typer.Option(min=0, help="Older originals are deleted; decisions stay.")],
    state: State = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Delete kept posts that are older than so many days; a running service does it by itself (keep_days)."""
    from .console import print_counts

    store = _store(run_folder, state, database)
    print_counts({"purged": store.purge(store.clock() - timedelta(days=days))}, as_json)


@log_app.command("forget")
def log_forget(
    run_folder: RunOrBundle,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="The author, as the platform calls it.")],
    client: Annotated[
        str | None, typer.Option(help="Of what this client sent alone; by default of all that is held.")
    ] = None,
    state: State = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Delete all that is held of an author, and print the receipt; exit status 1 where nothing was held.

    Then there is no receipt, and still what the log is told later of decisions made before, it does not write.
    """
    from ..errors import RunError
    from .console import print_counts

    if not subject.strip():
        raise RunError("SUBJECT is empty: name the author as the platform did when it sent the posts")
    store = _store(run_folder, state, database)
    receipt = store.forget(subject, client)
    if as_json or any(receipt.counts.values()):
        print_counts(receipt.to_dict(), as_json)
    if not any(receipt.counts.values()):
        whose = "this author" if client is None else f"this author among what {client} sent"
        typer.echo(f"nothing is held of {whose} in {store.name}", err=True)
        raise typer.Exit(1)
