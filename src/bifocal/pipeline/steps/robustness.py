"""Step `robustness`: the tested posts are attacked, where attacks are named."""

from __future__ import annotations

from collections.abc import Mapping

from ...assess.robustness import attack_run, decides_by
from ...workspace import write_json
from ..context import Context, Step


def attack_posts(run: Context) -> Mapping[str, object]:
    """Gives ``attacked``, a number of rows, or ``skipped``: why none is."""
    if not run.config.robustness.attacks:
        return {"skipped": "no attacks are named (robustness.attacks)"}
    system = decides_by(run.data, run.record.content["text_role"])
    found = attack_run(system, run.space, run.config.robustness, run.reporter.progress)
    for finding in found["findings"]:
        run.reporter.note(finding)
    write_json(run.space.robustness, found)
    return {"attacked": found["rows"]}


STEP = Step(
    "robustness",
    attack_posts,
    settings=("robustness",),
    outputs=lambda run: [run.space.robustness] if run.config.robustness.attacks else [],
    per_label=True,
)
