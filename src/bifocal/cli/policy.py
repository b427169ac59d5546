"""The commands on policies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import AllowPlugin, Json, RunOrBundle

policy_app = typer.Typer(help="Compare policies, and set a threshold by hand.", no_args_is_help=True)


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
    from .decision_tables import print_policy_diff

    print_policy_diff(compare(a, b, on=on, allow_plugins=allow_plugin or ()), as_json)


@policy_app.command("set")
def policy_set(
    run_folder: RunOrBundle,
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
    from .decision_tables import print_policy_set

    allowed = allow_plugin or ()
    found = set_threshold(run_folder, model, threshold, pattern=pattern, by=by, why=why, allow_plugins=allowed)
    print_policy_set(run_folder, found, as_json)
