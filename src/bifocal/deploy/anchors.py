"""Thresholds of a new model by what an old one does: the same share of posts flagged, or the same precision kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

import numpy as np

from ..assess.compared_models import BundleModel, RunModel, open_model
from ..assess.compared_rows import ComparedRows, not_seen
from ..assess.comparison import rows_for, scores_of, shared_labels
from ..assess.label_comparison import judged_figures
from ..assess.score_table import ScoreTable
from ..assess.scored_posts import ModelLabel, Scored
from ..decide.policy import POOLED, Policy, require_names
from ..errors import DataError, RunError, nearest
from ..evaluate.anchoring import Anchored, threshold_of_rate, threshold_of_share
from ..evaluate.paired import Answers, PairedFigure, PairedSettings, compare_answers
from ..example import UNLABELLED
from .policies import change_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..config import SourceConfig

    Rows = NDArray[np.intp]

Keep = Literal["flag_rate", "precision", "fpr"]
KEEPS: tuple[Keep, ...] = ("flag_rate", "precision", "fpr")
POSTS = 1000
"""Recent posts that a share of flags is read off, at least: of 1,000, 5% is known to 1.4 points."""
POSTS_OF_PATTERN = 200
"""Of them, posts that bring the same parts, for a threshold of their own to be set."""
FLAGGED, NEGATIVES = 50, 100
"""Labelled rows under which precision, and false-positive rate, are not known well enough to be kept."""


class AnchoredThreshold(TypedDict):
    """What became of the threshold of one presence pattern."""

    pattern: str
    posts: int
    before: float
    after: float
    wanted: float
    """The old model's figure on these posts."""
    reached: float
    """The nearest that the new one's scores can reach."""
    tied: int
    """Posts whose scores are that of the threshold: none of them can be flagged without the others."""
    band: tuple[float, float] | None
    """Ends of the review band: allowed below, blocked from."""


class AnchorResult(TypedDict):
    """What `anchor` did."""

    label: str
    keep: Keep
    to: str
    on: int
    left_out: dict[str, int]
    thresholds: list[AnchoredThreshold]
    figures: dict[str, PairedFigure]
    """Of labelled posts: both models at their thresholds, the new one at its new ones; empty without labels."""
    policy: str
    bundles: dict[str, str]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class AnchorSettings:
    """How the old model's scores are read, where it is a table.

    Attributes
    ----------
    threshold : float
        From which on it flags, where the table names no decision.
    score : str, optional
        Its column of scores.
    label : str, optional
        Of several; None = the first that both answer.
    """

    threshold: float = 0.5
    score: str | None = None
    label: str | None = None


class _Sides(NamedTuple):
    """Both models on the posts that count."""

    rows: ComparedRows
    old: Scored
    new: Scored
    truth: NDArray[np.int64]


def anchor(
    folder: str | Path,
    to: str | Path,
    keep: Keep,
    *,
    on: SourceConfig | None = None,
    by: str,
    why: str,
    settings: AnchorSettings | None = None,
    allow_plugins: Collection[str] = (),
) -> AnchorResult:
    """Set the thresholds of a run or bundle so that they keep a figure of an older model, and keep record.

    ``flag_rate``: the same share of recent posts, which need no labels. ``precision``, ``fpr``: of labelled posts, read
    off isotonic curves of both models' scores, so that the order of a few posts does not decide. Each presence pattern
    with a threshold of its own is anchored on the posts that bring it; one with too few keeps what it has, and is told
    of. Both ends of a review band follow the old model's actions.

    Parameters
    ----------
    folder : path
        Of the run or bundle whose policy is changed.
    to : path
        A run, a bundle, or a table of scores.
    on : SourceConfig, optional
        The posts. None = the test rows of the run, or of both runs; never for ``flag_rate``.
    by, why : as `Policy.with_threshold`

    Raises
    ------
    DataError
        Where there are too few posts, labels or flags; where the label has several classes.
    RunError
        As `set_threshold`.
    """
    require_names(by, why)
    if keep not in KEEPS:
        raise RunError(f"--keep {keep!r} is unknown; {nearest(keep, KEEPS)}")
    settings = settings or AnchorSettings()
    if keep == "flag_rate" and on is None:
        raise DataError(
            f"a share of posts flagged is kept on recent posts: name {POSTS:,} or more by --on, labelled or not; test "
            "rows are chosen otherwise than traffic"
        )
    new = open_model(Path(folder), allow_plugins)
    if isinstance(new, ScoreTable):
        raise RunError(
            f"{folder} is a table of scores, and has no policy: name the run or bundle whose thresholds are set"
        )
    old = open_model(Path(to), allow_plugins, score=settings.score, threshold=settings.threshold)
    if old.name == new.name:
        raise RunError(f"{folder} cannot be anchored to itself: name the older model, or its scores, by --to")
    labels = shared_labels([new, old])
    name = settings.label or next(iter(labels))
    if name not in labels:
        raise DataError(f"the models do not both answer {name!r}; {nearest(name, labels)}")
    if labels[name].classes != (0, 1):
        raise DataError(f"{name} has several classes, and a threshold is for a label of 0 and 1")
    sides, left_out = _sides(new, old, name, labels[name], on)
    _check(sides, keep)
    policy = new.policy.of_label(name)
    found = list(_anchored(policy, sides, keep))
    notes = _notes(policy, sides, keep, {one["pattern"] for one in found})
    if not found:
        raise DataError(f"no threshold could be anchored: {'; '.join(notes)}; give more posts by --on")

    def changed(before: Policy) -> Policy:
        model = list(before.models)[-1]
        for one in found:
            before = before.with_threshold(
                model, one["after"], pattern=one["pattern"], by=by, why=f"{why} ({keep} of {to})", band=one["band"]
            )
        return before

    told = change_label(Path(folder), name, changed, allow_plugins)
    return {
        "label": name,
        "keep": keep,
        "to": str(to),
        "on": len(sides.rows),
        "left_out": left_out,
        "thresholds": found,
        "figures": _figures(sides, found, labels[name], policy),
        "policy": told["policy"],
        "bundles": told["bundles"],
        "notes": notes,
    }


def _sides(
    new: RunModel | BundleModel, old: RunModel | BundleModel | ScoreTable, name: str, label: ModelLabel,
    on: SourceConfig | None,
) -> tuple[_Sides, dict[str, int]]:  # fmt: skip
    """What both say of the posts that neither learned from."""
    models = [new, old]
    rows = rows_for(models, {name: label}, on)
    if rows.weights is not None and len(set(rows.weights.tolist())) > 1:
        raise DataError(
            "the posts bear sampling weights, as those of an export of feedback do, and each would count as one: give "
            "posts as they come in, such as a table of recent traffic"
        )
    scored, rows, left_out = scores_of(models, rows, {name: label})
    kept, seen = not_seen(rows, models)
    both = kept[(scored[new.name][name].predicted[kept] >= 0) & (scored[old.name][name].predicted[kept] >= 0)]
    left_out += seen
    if lost := len(kept) - len(both):
        left_out["one of the models says nothing of"] = lost
    rows, before, after = rows.take(both), *(scored[model.name][name].take(both) for model in (old, new))
    truth = rows.labels.get(name, np.full(len(rows), UNLABELLED))
    return _Sides(rows, before, after, truth), dict(left_out)


def _check(sides: _Sides, keep: Keep) -> None:
    n, left = len(sides.rows), "posts that a model learned from do not count"
    if keep == "flag_rate":
        if n < POSTS:
            raise DataError(
                f"{n:,} posts are left to count flags on, and {POSTS:,} are needed ({left}): give more by --on"
            )
        return
    flagged = int(((sides.old.predicted == 1) & (sides.truth != UNLABELLED)).sum())
    negatives = int((sides.truth == 0).sum())
    if flagged < FLAGGED or negatives < NEGATIVES:
        raise DataError(
            f"{flagged:,} labelled posts that the old model flags and {negatives:,} negative ones are left, and "
            f"{FLAGGED} and {NEGATIVES} are needed to keep its {keep} ({left}): give more labelled posts by --on, or "
            "keep flag_rate on posts without labels"
        )


def _anchored(policy: Policy, sides: _Sides, keep: Keep) -> Iterator[AnchoredThreshold]:
    """The threshold of each pattern that has posts enough, and the band with it."""
    model = list(policy.models)[-1]
    for pattern, rows in _by_pattern(policy, sides).items():
        if not _enough(sides, rows, keep):
            continue
        fit = policy.own_fit(model, pattern)
        flags, p = sides.old.predicted[rows] == 1, _p(sides.new)[rows]
        chosen = _chosen(keep, p, flags, sides, rows)
        band = None
        if fit.band is not None and (sides.old.actions[rows] == "review").any():
            blocked, allowed = sides.old.actions[rows] == "block", sides.old.actions[rows] == "allow"
            # Of few that are blocked a precision is not known: their share is kept then.
            sure = keep != "flag_rate" and int((blocked & (sides.truth[rows] != UNLABELLED)).sum()) >= FLAGGED
            upper = _chosen(keep if sure else "flag_rate", p, blocked, sides, rows)
            lower = threshold_of_share(p, ~allowed)
            band = min(lower.threshold, chosen.threshold), max(chosen.threshold, upper.threshold)
        yield {
            "pattern": pattern,
            "posts": len(rows),
            "before": float(fit.threshold or 0.0),
            "after": chosen.threshold,
            "wanted": chosen.wanted,
            "reached": chosen.reached,
            "tied": chosen.tied,
            "band": band,
        }


def _chosen(keep: Keep, p: NDArray[np.float64], flags: NDArray[np.bool_], sides: _Sides, rows: Rows) -> Anchored:
    if keep == "flag_rate":
        return threshold_of_share(p, flags)
    known = sides.truth[rows] != UNLABELLED
    y, old = sides.truth[rows][known], _p(sides.old)[rows][known]
    found = threshold_of_rate(y, old, flags[known], p[known], keep)
    if (flagged := int((p[known] >= found.threshold).sum())) < FLAGGED:
        raise DataError(
            f"the new model would flag {flagged:,} of {len(y):,} labelled posts at the same {keep}, and {FLAGGED} are "
            "needed to know it: give more labelled posts by --on, or keep flag_rate"
        )
    return found


def _p(scored: Scored) -> NDArray[np.float64]:
    assert scored.probabilities is not None  # of a binary label
    return scored.probabilities[:, 1]


def _by_pattern(policy: Policy, sides: _Sides) -> dict[str, Rows]:
    """The posts that each threshold decides."""
    own = policy.models[list(policy.models)[-1]].patterns
    of = np.array([pattern if pattern in own else POOLED for pattern in sides.new.patterns.tolist()], dtype=object)
    return {name: np.flatnonzero(of == name) for name in sorted(set(of.tolist()))}


def _enough(sides: _Sides, rows: Rows, keep: Keep) -> bool:
    if keep == "flag_rate":
        return len(rows) >= POSTS_OF_PATTERN
    known = rows[sides.truth[rows] != UNLABELLED]
    return int((sides.old.predicted[known] == 1).sum()) >= FLAGGED and int((sides.truth[known] == 0).sum()) >= NEGATIVES


def _notes(policy: Policy, sides: _Sides, keep: Keep, done: Collection[str]) -> list[str]:
    model, notes = list(policy.models)[-1], []
    for pattern, rows in _by_pattern(policy, sides).items():
        if pattern not in done:
            notes.append(f"posts that bring {pattern} are too few ({len(rows):,}): their threshold stays")
    for pattern in policy.models[model].patterns:
        if pattern not in set(sides.new.patterns.tolist()):
            notes.append(f"no post brings {pattern} alone: its threshold stays")
    reviewed = float((sides.old.actions == "review").mean())
    if policy.review is None and reviewed:
        notes.append(
            f"the old model sends {reviewed:.1%} of the posts to review, and this policy has no review band: set "
            "decide.review and run the step calibrate again for one"
        )
    if policy.review is not None and not reviewed:
        notes.append(
            "the old model sends nothing to review: the ends of the review band with a rate stay where they are"
        )
    if policy.models[model].languages:
        notes.append("bands of single languages stay where they are: set them anew by `bifocal policy set --review`")
    if keep != "flag_rate":
        notes.append("the posts that a threshold was chosen on say too much of it: judge it on others")
    return notes


def _figures(
    sides: _Sides, found: Collection[AnchoredThreshold], label: ModelLabel, policy: Policy
) -> dict[str, PairedFigure]:
    """Both models on the labelled posts, the new one at its new thresholds."""
    known = np.flatnonzero(sides.truth != UNLABELLED)
    if not len(known):
        return {}
    named = sides.new.predicted.copy()
    places = _by_pattern(policy, sides)
    for one in found:
        rows = places[one["pattern"]]
        named[rows] = _p(sides.new)[rows] >= one["after"]
    answers = [
        Answers(predicted[known], None if side.probabilities is None else side.probabilities[known])
        for side, predicted in ((sides.old, sides.old.predicted), (sides.new, named))
    ]
    groups = [sides.rows.groups[i] for i in known.tolist()]
    figures = [f for f in judged_figures(label, []) if f.of is not None]
    return compare_answers(sides.truth[known], answers[0], answers[1], groups, figures, PairedSettings())
