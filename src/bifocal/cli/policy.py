"""The commands on policies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from ..errors import ConfigError
from .options import AllowPlugin, Json, RunOrBundle

if TYPE_CHECKING:
    from pydantic import BaseModel

Keep = Literal["flag_rate", "precision", "fpr"]

Settings = TypeVar("Settings", bound="BaseModel")


policy_app = typer.Typer(
    help="Compare policies, and set thresholds by hand or by an older model.", no_args_is_help=True
)

Label = Annotated[str | None, typer.Option(help="Of several labels; the first, unless another is named.")]


@policy_app.command("show")
def policy_show(run_folder: RunOrBundle, as_json: Json = False) -> None:
    """What decides: the thresholds of every label, and what each may do."""
    from ..deploy.policies import thresholds_of
    from .decision_tables import print_policy

    print_policy(thresholds_of(run_folder), as_json)


@policy_app.command("diff")
def policy_diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run folder, or a policy file in one.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another policy for the same models.")],
    on: Annotated[str, typer.Option(metavar="SPLIT", help="Posts to decide on: test, val or train.")] = "test",
    label: Label = None,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
) -> None:
    """Which decisions policy B would change: counts and examples, from the cached Evidence."""
    from ..deploy.policies import compare
    from .decision_tables import print_policy_diff

    print_policy_diff(compare(a, b, on=on, label=label, allow_plugins=allow_plugin or ()), as_json)


@policy_app.command("set")
def policy_set(
    run_folder: RunOrBundle,
    by: Annotated[str, typer.Option(help="Who sets it.")],
    why: Annotated[str, typer.Option(help="The reason, for those who come after.")],
    threshold: Annotated[float | None, typer.Option(help="The new threshold, on calibrated probabilities.")] = None,
    fpr: Annotated[float | None, typer.Option(help="Find it: this false-positive rate at most.")] = None,
    precision: Annotated[float | None, typer.Option(help="Find it: this precision at least.")] = None,
    recall: Annotated[float | None, typer.Option(help="Find it: this recall at least.")] = None,
    review: Annotated[
        str | None,
        typer.Option(metavar="NAME=RATE,…", help="Fit the review bands anew: fnr=0.1,fpr=0.02; several classes alpha."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model that decides, unless another is named.")] = None,
    pattern: Annotated[
        str, typer.Option(help="Posts that bring these parts only, such as text; pooled = all that have no own one.")
    ] = "pooled",
    label: Label = None,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
) -> None:
    """Set a threshold by hand; the policy records who and why, and the old one is kept under policies/.

    It is given, or found by a bound on the rows that the run was tuned on; the review bands can be fitted anew there,
    too. A bundle has a policy of its own: that of its run does not reach it.
    """
    from ..config import ReviewConfig, ThresholdConfig
    from ..deploy.policies import set_review, set_threshold
    from .decision_tables import print_policy_set

    allowed = allow_plugin or ()
    rules = {"fpr": fpr, "precision": precision, "recall": recall}
    given = [name for name, value in {"threshold": threshold, **rules, "review": review}.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(f"--{name}" for name in given) or "none"
        raise ConfigError(f"give one of --threshold, --fpr, --precision, --recall and --review, found {found}")
    if review is not None:
        if model is not None or pattern != "pooled":
            raise ConfigError("review bands are fitted for all models and posts: leave out --model and --pattern")
        parts = [part.strip().partition("=")[::2] for part in review.split(",")]
        rates = dict(parts)
        if len(rates) < len(parts):
            raise ConfigError(f"--review takes each name once, found {review}")
        band = _checked(ReviewConfig, rates, "--review")
        change = set_review(run_folder, band, label=label, by=by, why=why, allow_plugins=allowed)
    else:
        asked: float | ThresholdConfig
        if threshold is not None:
            asked = threshold
        else:
            asked = _checked(ThresholdConfig, {"by": given[0], "bound": rules[given[0]]}, f"--{given[0]}")
        change = set_threshold(
            run_folder, model, asked, label=label, pattern=pattern, by=by, why=why, allow_plugins=allowed
        )
    print_policy_set(run_folder, change, as_json)
    if label is None and "label" in change and not as_json:
        from .console import plain

        plain().print(f"set for {change['label']}, the first of several labels: --label names another")


@policy_app.command("anchor")
def policy_anchor(
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The run or bundle whose thresholds are set.")],
    to: Annotated[
        Path, typer.Option(metavar="OLD", help="The model in use: a run, a bundle, or a table of its scores.")
    ],
    keep: Annotated[Keep, typer.Option(help="flag_rate, precision or fpr: what stays as it is under OLD.")],
    by: Annotated[str, typer.Option(help="Who sets it.")],
    why: Annotated[str, typer.Option(help="The reason, for those who come after.")],
    on: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Recent posts, 1,000 or more for flag_rate; labelled ones for the others."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="From which score on OLD flags, where its table names no decision.")
    ] = 0.5,
    score: Annotated[str | None, typer.Option(metavar="COLUMN", help="OLD's scores in its table.")] = None,
    label: Label = None,
    allow_plugin: AllowPlugin = None,
    as_json: Json = False,
) -> None:
    """Set the thresholds of a new model so that it flags as the old one does: as much, or as precisely.

    Each presence pattern with a threshold of its own is set by the posts that bring it, and both ends of a review band
    with it; the policy records who and why.
    """
    from ..deploy.anchors import AnchorSettings, anchor
    from ..pipeline.inspect import posts_of
    from .decision_tables import print_anchor

    found = anchor(
        new,
        to,
        keep,
        on=None if on is None else posts_of(on, [new, to]),
        by=by,
        why=why,
        settings=AnchorSettings(threshold, score, label),
        allow_plugins=allow_plugin or (),
    )
    print_anchor(found, as_json)


def _checked(model: type[Settings], content: Mapping[str, object], option: str) -> Settings:
    from pydantic import ValidationError

    from ..config import explain

    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{option}: {explain(error, model)}") from None
