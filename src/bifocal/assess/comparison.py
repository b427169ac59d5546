"""Models compared on posts that none of them has seen: figures, decisions that turn over, and a verdict on each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from ..config import SourceConfig
from ..contracts import Reporter
from ..decide.policy import now
from ..decide.thresholds import described
from ..errors import DataError, RunError, listed
from ..evaluate.paired import GATE, Verdict
from ..example import UNLABELLED
from ..workspace import read_json, write_json
from .compared_models import BundleModel, RunModel, milliseconds_per_post, open_model, score_posts
from .compared_rows import ComparedRows, not_seen, rows_of_runs, rows_of_source, rows_of_tables, with_texts
from .label_comparison import CompareSettings, LabelComparison, compare_by_label, judged_figures
from .score_table import ScoreTable
from .scored_posts import ModelLabel, Scored

if TYPE_CHECKING:
    Model = RunModel | BundleModel | ScoreTable

MANY_READINGS = 10
"""Readings of one test split from which on they are told: a model chosen by so many looks is fitted to it."""
READINGS = "test_readings.json"


class PairComparison(TypedDict):
    """A model beside the first one."""

    old: str
    new: str
    labels: dict[str, LabelComparison]
    verdict: Verdict | None
    gate: int
    """Exit status: 0, 1 or 3."""


class ModelFacts(TypedDict):
    name: str
    kind: Literal["run", "bundle", "scores"]
    policy: str | None
    vouched: bool
    size_bytes: int | None
    ms_per_post: float | None


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """What `compare_models` found.

    Attributes
    ----------
    rules : list of str
        What was to be judged, and how, before any figure was known.
    on : str
    compared : int
        Posts.
    left_out : dict
        Reason -> posts.
    gate : int
        Of all pairs and labels: 0 = better or no worse, 1 = worse or flags moved, 3 = cannot tell.
    readings : int or None
        How often this test split was compared on, this time included; None = other posts.
    """

    date: str
    rules: list[str]
    on: str
    compared: int
    left_out: dict[str, int]
    models: list[ModelFacts]
    pairs: list[PairComparison]
    verdict: Verdict | None
    gate: int
    readings: int | None
    notes: list[str]
    settings: CompareSettings

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def compare_models(
    models: Sequence[str | Path],
    *,
    on: SourceConfig | None = None,
    only: Collection[str] | None = None,
    truth: str | None = None,
    settings: CompareSettings | None = None,
    need_labels: bool = False,
    allow_plugins: Collection[str] = (),
    reporter: Reporter | None = None,
) -> ModelComparison:
    """Compare models with the first of them, on posts that none of them was trained or tuned on.

    Parameters
    ----------
    models : sequence of path
        Two or more: run folders, bundles, tables of scores. The first is the one in use.
    on : SourceConfig, optional
        Posts, labelled or not; a row's ``meta["weight"]`` is the number of posts that it stands for. None = the test
        rows that all run folders have, or of tables of scores alone their own rows.
    only : collection of str, optional
        Of ``on`` the posts of these ids.
    truth : str, optional
        The column of true labels in tables of scores; by default the label's name.
    need_labels : bool
        Refuse posts without labels, as a gate does.
    allow_plugins : as `System.load`

    Raises
    ------
    RunError
        Where a path holds no model, or runs have no test rows in common.
    DataError
        Where the models answer different labels, or all posts were seen by one of them; with ``need_labels`` where
        posts bear none.
    """
    settings, reporter = settings or CompareSettings(), reporter or Reporter()
    if len(models) < 2:
        raise DataError("a comparison is of two models or more: name another")
    opened = [open_model(Path(path), allow_plugins, truth=truth) for path in models]
    if len({model.name for model in opened}) < len(opened):
        raise DataError(f"a model is named twice among {listed([model.name for model in opened])}")
    labels = shared_labels(opened)
    reporter.step("rows", False)
    rows = rows_for(opened, labels, on, only)
    if need_labels and not rows.labels:
        raise DataError(
            f"no row bears {listed(sorted(labels))}, and a gate needs labels: name their column by --truth, or give "
            "labelled posts by --on"
        )
    reporter.step("scores", False)
    # The base rate of test rows is that of val, whatever the one that a policy is for.
    scored, rows, left_out = scores_of(opened, rows, labels, reporter, adjusted=on is not None)
    kept, seen = not_seen(rows, opened)
    left_out = left_out + seen
    if not len(kept):
        raise DataError(
            f"all {len(rows):,} posts are among those that a model was trained or tuned on, or near-duplicates of them "
            f"({'; '.join(f'{n:,} {why}' for why, n in seen.items())}): give others by --on"
        )
    facts = _facts(opened, rows, settings, reporter)
    rows, taken = rows.take(kept), {m: {n: s.take(kept) for n, s in of.items()} for m, of in scored.items()}
    reporter.step("compare", False)
    pairs: list[PairComparison] = []
    for model in opened[1:]:
        reporter.progress(len(pairs), len(opened) - 1)
        pairs.append(_pair(opened[0], model, labels, rows, taken, settings))
    readings = _count_reading(opened, len(rows)) if on is None else None
    verdicts = [pair["verdict"] for pair in pairs]
    return ModelComparison(
        date=now(),
        rules=rules_of(opened, labels, settings),
        on=_told_on(opened, on),
        compared=len(rows),
        left_out=dict(left_out),
        models=facts,
        pairs=pairs,
        verdict=None if None in verdicts else _worst(verdicts),
        gate=gate_of([pair["gate"] for pair in pairs]),
        readings=readings,
        notes=[*rows.notes, *_notes(opened, rows, labels, readings)],
        settings=settings,
    )


def gate_of(codes: Collection[int]) -> int:
    """The exit status of several: worse before cannot tell before better or no worse.

    >>> gate_of([0, 3]), gate_of([3, 1, 0]), gate_of([0, 0])
    (3, 1, 0)
    """
    return 1 if 1 in codes else 3 if 3 in codes else 0


_ORDER: tuple[Verdict, ...] = ("worse", "cannot tell", "no worse", "better")


def _worst(verdicts: Collection[Verdict | None]) -> Verdict:
    return next(verdict for verdict in _ORDER if verdict in verdicts)


def shared_labels(models: Sequence[Model]) -> dict[str, ModelLabel]:
    """The labels that all models answer, with what is known of each from the first that knows.

    A table of scores that names no label answers whatever the others do. Raises `DataError` where there is none, or
    classes differ.
    """
    known = {name: label for model in reversed(models) for name, label in model.labels.items() if name}
    named = [set(model.labels) - {""} for model in models]
    first = next((next(iter(model.labels)) for model in models if not isinstance(model, ScoreTable)), None)
    common: set[str] = set(known)
    of_one = [isinstance(model, ScoreTable) and len(model.labels) == 1 for model in models]
    common = common.intersection(*(own for own, one in zip(named, of_one, strict=True) if not one))
    if all(of_one):
        common = {next(iter(known), "label")}
        known = dict.fromkeys(common, ModelLabel((0, 1), None, None))
    elif first is not None and any(of_one):
        common &= {first}  # a table without names is of the first label
    if not common:
        told = "; ".join(f"{m.name}: {listed(sorted(own))}" for m, own in zip(models, named, strict=True))
        raise DataError(f"the models answer no label in common ({told}): compare models of one question")
    found = {}
    for name in (name for name in known if name in common):
        every = {model.name: one.classes for model in models if (one := model.labels.get(name)) and one.classes}
        if len(set(every.values())) > 1:
            told = "; ".join(f"{model}: {listed(list(map(str, of)))}" for model, of in every.items())
            raise DataError(f"the models know other classes of {name} ({told}): compare models of one question")
        found[name] = known[name]._replace(classes=next(iter(every.values()), (0, 1)))
    return found


def rows_for(
    models: Sequence[Model],
    labels: Mapping[str, ModelLabel],
    on: SourceConfig | None,
    only: Collection[str] | None = None,
) -> ComparedRows:
    """The posts that `compare_models` says, before any is left out. Raises `RunError` and `DataError` as it does."""
    if on is not None:
        return rows_of_source(on, models, labels, only)
    runs = [model for model in models if isinstance(model, RunModel)]
    if runs:
        return rows_of_runs(runs, list(labels))
    tables = [model for model in models if isinstance(model, ScoreTable)]
    if len(tables) == len(models):
        return rows_of_tables(tables, labels)
    raise RunError("bundles keep no rows to compare on: give labelled posts by --on, or a run folder beside them")


def scores_of(
    models: Sequence[Model],
    rows: ComparedRows,
    labels: Mapping[str, ModelLabel],
    reporter: Reporter | None = None,
    *,
    adjusted: bool = True,
) -> tuple[dict[str, dict[str, Scored]], ComparedRows, Counter[str]]:
    """Model -> label -> what it says of all rows; the rows with their texts; and why some do not count."""
    reporter = reporter or Reporter()
    found: dict[str, dict[str, Scored]] = {}
    failed = Counter[str]()
    for model in models:
        if isinstance(model, ScoreTable):
            found[model.name] = {name: model.answers(rows.ids, name, label) for name, label in labels.items()}
        elif isinstance(model, RunModel) and model.name in rows.places:
            tested = rows.places[model.name]
            found[model.name] = {name: model.tested(name, tested, adjusted=adjusted) for name in labels}
        else:
            assert rows.posts is not None  # rows of tables alone are compared by tables alone
            every, lost = score_posts(model.system, rows.posts, reporter.progress, adjusted=adjusted)
            found[model.name] = {name: every[name] for name in labels}
            failed[f"{model.name} can make nothing of"] += lost
    return found, with_texts(rows), rows.left_out + failed


def _facts(
    models: Sequence[Model], rows: ComparedRows, settings: CompareSettings, reporter: Reporter
) -> list[ModelFacts]:
    reporter.step("latency", not settings.latency)
    facts: list[ModelFacts] = []
    for model in models:
        took = None
        if settings.latency and rows.posts is not None and not isinstance(model, ScoreTable):
            took = milliseconds_per_post(model.system, rows.posts)
        facts.append(
            {
                "name": model.name,
                "kind": model.kind,
                "policy": model.version,
                "vouched": model.vouched(),
                "size_bytes": model.size_bytes,
                "ms_per_post": took,
            }
        )
    return facts


def _pair(
    first: Model,
    other: Model,
    labels: Mapping[str, ModelLabel],
    rows: ComparedRows,
    scored: Mapping[str, Mapping[str, Scored]],
    settings: CompareSettings,
) -> PairComparison:
    found = {}
    for name, label in labels.items():
        rules = [of.rule for model in (first, other) if (of := model.labels.get(name)) and of.rule is not None]
        old, new = scored[first.name][name], scored[other.name][name]
        found[name] = compare_by_label(name, label, judged_figures(label, rules), rows, old, new, settings)
    verdicts = [of["verdict"] for of in found.values() if of["verdict"] is not None]
    codes = [GATE[verdict] for verdict in verdicts]
    if not verdicts or (settings.every_label and len(verdicts) < len(found)):
        codes.append(3)
    codes += [1 for of in found.values() if of["flagged"] and of["flagged"]["moved"]]
    return {
        "old": first.name,
        "new": other.name,
        "labels": found,
        "verdict": _worst(verdicts) if verdicts else None,
        "gate": gate_of(codes),
    }


def rules_of(models: Sequence[Model], labels: Mapping[str, ModelLabel], settings: CompareSettings) -> list[str]:
    """How a verdict is reached, in sentences, before any figure is known."""

    def judged_by(name: str, label: ModelLabel) -> str:
        if label.classes != (0, 1):
            return "macro-F1"
        rules = [model.labels[name].rule for model in models if name in model.labels]
        return " and ".join(dict.fromkeys(described(rule) for rule in rules if rule)) or "F1"

    asked = "; ".join(f"{name}: {judged_by(name, label)}" for name, label in labels.items())
    most = settings.flag_change
    moves = "as much as it likes" if most is None else f"by at most {most:.0%} of the old share"
    return [
        f"Judged are the figure that each policy's thresholds are chosen by ({asked}; of a bound also what it is kept "
        f"at the cost of) and NLL; the margin is {settings.margin:g}, of NLL in nats.",
        "No worse: of every figure the 95% interval of new less old (the same resamples of groups of near-duplicates "
        f"for both) lies above -{settings.margin:g} in what is good. Better: no worse, and that of one of the "
        "policies' figures lies above 0. Worse: that of one figure lies below 0, and not within the margin. "
        "Else: cannot tell.",
        "The gate passes (0) where every label is better or no worse, and the share of posts flagged moves "
        f"{moves}; it fails (1) where one is worse or the share moves by more; "
        "else it cannot tell (3).",
    ]


def _told_on(models: Sequence[Model], on: SourceConfig | None) -> str:
    if on is not None:
        return f"posts of a source of kind {on.kind}" + (f", {on.options['root']}" if "root" in on.options else "")
    runs = [model.name for model in models if isinstance(model, RunModel)]
    return f"the test rows of {' and '.join(runs)}" if runs else "the rows that the tables of scores share"


def _count_reading(models: Sequence[Model], rows: int) -> int | None:
    """Note this reading beside every test split that was read; how many there were."""
    runs = [model for model in models if isinstance(model, RunModel)]
    if not runs:
        return None
    every: list[list[dict[str, Any]]] = []
    for run in runs:
        path = run.folder / READINGS
        content = read_json(path) if path.is_file() else {"readings": []}
        if not isinstance(content, dict) or not isinstance(content.get("readings"), list):
            raise RunError(f"{path} is no list of readings of the test rows: it was altered; put it back, or away")
        every.append(content["readings"])
    # A reading of several runs stands in each of them once.
    known = reduce(or_, (Counter(json.dumps(one, sort_keys=True) for one in before) for before in every))
    before = sorted(map(json.loads, known.elements()), key=lambda one: str(one.get("date")))
    reading = {"date": now(), "models": [model.name for model in models], "rows": rows}
    for run in runs:
        with suppress(RunError):  # a run that may only be read
            write_json(run.folder / READINGS, {"readings": [*before, reading]})
    return len(before) + 1


def _notes(models: Sequence[Model], rows: ComparedRows, labels: Collection[str], readings: int | None) -> list[str]:
    notes = [
        f"{model.name}: what it learned from is not known, so that nothing vouches for these posts being new to it"
        for model in models
        if not model.vouched()
    ]
    if not rows.labels:
        notes.append("no post bears a label: only what is flagged, and what turns over, can be told")
    elif without := [name for name in labels if not (rows.labels.get(name, np.array([])) != UNLABELLED).any()]:
        notes.append(f"no post bears {listed(without)}: nothing is judged by it")
    if readings is not None and readings >= MANY_READINGS:
        notes.append(
            f"this test split was compared on {readings} times: a model that is chosen by so many looks is fitted to "
            "it; take newer labelled posts by --on"
        )
    return notes
