"""A better model next month: a run again with what people have judged since, and whether it may replace the old one."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import plugins
from ..assess.comparison import ModelComparison, compare_models, gate_of
from ..assess.label_comparison import CompareSettings
from ..config import RunConfig, SourceConfig, parse_config, recorded_config
from ..contracts import Reporter
from ..decide.policy import Change
from ..deploy.policies import set_review, set_threshold
from ..deploy.promotion import Promotion, check_link, check_policy, link_beside, promote
from ..errors import ConfigError, DataError, RunError, listed
from ..evaluate.differences import jeffreys
from ..example import Example, Taxonomy
from ..pipeline.train import run as run_steps
from ..sources import build_source
from ..sources.feedback import AUDITED, ROWS, Feedback
from ..system.bundle import is_bundle
from ..system.system import load_policy
from ..workspace import RECORD, Workspace, file_lock, read_json

RECENT = 0.2
"""Share of what was audited since that is kept aside to judge by."""
SAMPLE_OF_ALLOWED = (
    "recent posts are a sample of what was allowed: what a model finds among them the one in service had missed, and "
    "what it flags wrongly there counts against it"
)
LOCK = ".retrain.lock"
_NUMBERED = re.compile(r"(?P<name>.*?)-(?P<number>\d{1,6})")


@dataclass(frozen=True, slots=True)
class RetrainSettings:
    """How a run is retrained and judged.

    Attributes
    ----------
    name : str, optional
        Of the new run; None = the old one's, numbered.
    with_reports : bool
        Learn from clients' reports, too, where no moderator has judged.
    recent : float
        Share of what was audited since that is kept aside.
    compare : CompareSettings
        How both models are compared.
    promote : bool
        Put the new run into service where the gate passes.
    link : Path, optional
        That a service follows; None = the one that was given as the run, or ``current`` beside it.
    """

    name: str | None = None
    with_reports: bool = False
    recent: float = RECENT
    compare: CompareSettings = field(default_factory=lambda: CompareSettings(latency=False))
    promote: bool = False
    link: Path | None = None


@dataclass(frozen=True, slots=True)
class Retraining:
    """What came of it.

    Attributes
    ----------
    old, new : str
        Folders of the runs.
    rows : dict
        What taking over the splits came to (`data.earlier_splits.EarlierCounts`).
    frozen : ModelComparison
        Both models on the old run's test rows.
    recent : ModelComparison or None
        Both on the audited rows that were kept aside, by their sampling weights; None where there are none.
    gate : int
        0 = better or no worse on both, 1 = worse, 3 = cannot tell.
    by_hand : list of str
        What became of each rule and threshold that was set by hand on the old policy.
    promoted : Promotion or None
        None, too, where the gate passed and the link could not be swung; a note says why.
    notes : list of str
    """

    old: str
    new: str
    rows: Mapping[str, Any]
    frozen: ModelComparison
    recent: ModelComparison | None
    gate: int
    by_hand: list[str]
    promoted: Promotion | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def retrain(
    run: str | Path,
    feedback: str | Path,
    settings: RetrainSettings | None = None,
    *,
    allow_plugins: Collection[str] = (),
    reporter: Reporter | None = None,
) -> Retraining:
    """Train a run again, with what people have judged since, and compare both on posts that neither has seen.

    The new run has the old one's configuration, its sources and the export beside them, and the old one's splits
    (``splits: {from: …}``): judged posts are train or kept aside, never val or test. Kept aside are whole groups of
    what was audited since, by the keyed hash. A rule or threshold that was set by hand on the old policy is set on the
    new one, a rule being found anew for the new model.

    Parameters
    ----------
    run : path
        The run in service, or the link to it.
    feedback : path
        What ``bifocal feedback export`` wrote.
    settings : RetrainSettings, optional
    allow_plugins : collection of str
        Modules from outside that the old run's configuration may name.

    Raises
    ------
    RunError
        Where the run is a bundle, or not finished; where another retraining is under way.
    DataError, ConfigError
        Where the export is of other labels, holds no verdict, or calls most of what was allowed positive.
    BifocalError
        As `pipeline.train.run`, `compare_models`, `set_threshold` and `promote`.
    """
    settings, reporter = settings or RetrainSettings(), reporter or Reporter()
    given = Path(run)
    if is_bundle(given):
        raise RunError(f"{run} is a bundle, which keeps no rows to train on: name the run that it was exported from")
    old = Workspace.of(given.parent / os.readlink(given) if given.is_symlink() else given)
    link = settings.link or link_beside(given)
    if settings.promote and link.is_symlink() and link.resolve() != old.folder.resolve():
        raise RunError(
            f"{link} leads to {link.resolve()}, which is in service, and not to {old.folder}: retrain what is in "
            f"service (`bifocal retrain {link} …`), or name another link"
        )
    _check_place(old, settings, link)
    lock = file_lock(old.folder.parent / LOCK, "another retraining is under way,", "wait for it to end")
    with lock, plugins.restrict(old.folder, allow_plugins):
        config = recorded_config(read_json(old.record)["config"], where=str(old.record))
        export = _export(Path(feedback), config, old, settings)
        new_config = _new_config(config, old, export, settings)
        reporter.note(f"the new run is {new_config.run}: {old.folder.parent / new_config.run}")
        new = Workspace.of(run_steps(new_config, root=old.folder.parent, reporter=reporter))
        by_hand = _set_again(old, config, new, allow_plugins)
        if by_hand:
            run_steps(new_config, root=old.folder.parent, reporter=reporter)
        frozen, recent, notes = _judged(old, new, new_config, export, settings, allow_plugins, reporter)
        gate = gate_of([frozen.gate, *([recent.gate] if recent else [])])
        promoted = None
        if settings.promote and gate == 0:
            try:
                promoted = promote(new.folder, link, instead_of=old.folder)
            except RunError as error:  # what was found in hours is told all the same
                notes = [*notes, f"not in service: {error}"]
        rows = read_json(new.record)["steps"]["splits"]["from"]
        return Retraining(str(old.folder), str(new.folder), rows, frozen, recent, gate, by_hand, promoted, notes)


def _check_place(old: Workspace, settings: RetrainSettings, link: Path) -> None:
    """What would be refused after hours of training is refused before it."""
    if settings.name and (record := old.folder.parent / settings.name / RECORD).exists():
        before = recorded_config(read_json(record)["config"], where=str(record)).splits.from_run
        if before is None or Path(before).resolve() != old.folder.resolve():  # none that this command left unfinished
            raise RunError(f"{record.parent} is another run: --name takes the name of a new one, or leave it out")
    check_policy(old)
    if "test" not in old.packed_splits():
        raise RunError(f"the run in {old.folder} has no test rows to judge the next model by: set splits.test first")
    if settings.promote:
        check_link(link)
    if settings.promote and (bundles := sorted(old.folder.glob("bundles/*"))):
        raise RunError(
            f"{old.folder} has bundles ({listed([path.name for path in bundles])}), which a new run lacks until it is "
            "exported: leave --promote out, `bifocal export` the new run, and `bifocal promote` it"
        )


def _export(folder: Path, config: RunConfig, old: Workspace, settings: RetrainSettings) -> SourceConfig:
    """The export as a source of what is learned from. Raises `BifocalError` where it cannot be."""
    labels = Taxonomy.from_json(read_json(old.taxonomy)).labels
    if cut := [name for name in config.label_names if labels[name].above is not None]:
        raise ConfigError(
            f"run {config.run} makes {', '.join(cut)} out of a number (`above`), and a verdict is a class and no "
            "number: write the classes into a column of their own, map the label to it, and run that first"
        )
    if not (folder / ROWS).is_file():
        raise DataError(
            f"{folder} holds no export of feedback (no {ROWS}): `bifocal feedback export RUN -o {folder}` writes it"
        )
    asked = {"kind": "feedback", "root": str(folder), "split": "train", "verdicts": not settings.with_reports}
    made = SourceConfig.model_validate(asked)
    source = build_source(made)
    assert isinstance(source, Feedback)
    if absent := [name for name in config.label_names if name not in source.labels()]:
        raise ConfigError(
            f"{folder} says nothing of {', '.join(absent)}, which run {config.run} answers, but of "
            f"{', '.join(source.labels()) or 'nothing'}: it was exported from another run; name this run's export"
        )
    rows = [row for row in source if isinstance(row, Example)]
    judged = {name: [row for row in rows if row.labels.get(name) is not None] for name in config.label_names}
    if not any(judged.values()):
        only = "" if settings.with_reports else " of a moderator (clients' reports count by --with-reports)"
        raise DataError(
            f"{folder} holds no verdict{only} on {' or '.join(judged)}: judge posts first, and export again"
        )
    for name, labelled in judged.items():
        # One that only tells flags nothing, so that what was allowed may well be positive by it.
        if source.labels()[name].binary and config.label_actions.get(name, "block") == "block":
            _check_direction(labelled, name, folder)
    _check_others(folder, {row.id for row in rows}, config)
    return made


def _check_others(folder: Path, ids: Collection[str], config: RunConfig) -> None:
    """Refuse judged posts that the run has from another export already: it would learn them twice."""
    for one in config.source.members:
        root = Path(str(one.get("root")))
        if one["kind"] != "feedback" or root.resolve() == folder.resolve():
            continue
        source = build_source(SourceConfig.model_validate({key: one[key] for key in one if key != "name"}))
        if n := sum(isinstance(row, Example) and row.id in ids for row in source):
            raise DataError(
                f"{n:,} judged posts of {folder} stand in {root}, too, which run {config.run} learns from already: "
                f"export into {root}, whose posts it keeps, and name that"
            )


def _check_direction(rows: list[Example], label: str, folder: Path) -> None:
    """Refuse verdicts by which most of what the service allowed is positive: block and allow are likely swapped.

    By the audited posts, which are drawn evenly from what was allowed: the 95% interval of the share would have to lie
    above a half. How verdicts go with probabilities tells nothing here, as a new kind of abuse may score lowest of all.
    """
    said = [row.labels[label] == 1 for row in rows if row.meta["sample"] == AUDITED]
    if not said:
        return
    share = jeffreys(sum(said) / len(said), len(said))
    if share.low > 0.5:
        raise DataError(
            f"by the verdicts on {label} in {folder} most of what was allowed should not have been: {sum(said)} of "
            f"{len(said)} audited posts. See whether block and allow were swapped, mend the verdicts and export again; "
            "if they are right, train on them by `bifocal run`, the export being one of its sources"
        )


def _new_config(config: RunConfig, old: Workspace, export: SourceConfig, settings: RetrainSettings) -> RunConfig:
    if config.limit is not None:
        raise ConfigError(
            f"run {config.run} took the first {config.limit} rows of its source alone (limit), as a pilot: retrain a "
            "run of all rows"
        )
    sources = config.source.members
    place = Path(str(export.options["root"])).resolve()
    kept = [one for one in sources if one["kind"] != "feedback" or Path(str(one.get("root"))).resolve() != place]
    taken = {str(one.get("name") or one["kind"]) for one in kept}
    before = next((one for one in sources if one not in kept), None)
    name = str(before["name"]) if before and before.get("name") else _free("judged", taken)
    judged = {"kind": export.kind, **export.options, "name": name}
    content = config.model_dump(mode="json")
    content["source"] = {"kind": "several", "sources": [*kept, judged]}
    if config.source.kind == "several" and config.source.options.get("text_role"):
        content["source"]["text_role"] = config.source.options["text_role"]
    content["splits"] = {
        "val": config.splits.val, "test": config.splits.test, "from": str(old.folder), "recent": settings.recent,
    }  # fmt: skip
    content["run"] = settings.name or _next_name(old)
    return parse_config(content, where=str(old.record))


def _free(name: str, taken: Collection[str]) -> str:
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(one for one in numbered if one not in taken)


def _next_name(old: Workspace) -> str:
    """The old run's, numbered on: posts, posts-2, posts-3."""
    found = _NUMBERED.fullmatch(old.run)
    stem, number = (found["name"], int(found["number"])) if found else (old.run, 1)
    while (old.folder.parent / f"{stem}-{number + 1}").exists():
        number += 1
    return f"{stem}-{number + 1}"


def _set_again(old: Workspace, config: RunConfig, new: Workspace, allow_plugins: Collection[str]) -> list[str]:
    """Set on the new policy what was set by hand on the old one, the last of each; what became of it, in sentences."""
    told = []
    policy = load_policy(old, config)
    for label in policy.label_names:
        last: dict[tuple[str, str], Change] = {}
        for change in policy.of_label(label).changes:
            place = ("", "review") if change.review is not None else (change.model, change.pattern)
            last.pop(place, None)
            last[place] = change
        for change in last.values():
            why = f"{change.why} (from run {old.run}, {change.date})"
            named = label if policy.labels else None
            whose = f"{label}: " if policy.labels else ""
            if change.review is not None:
                set_review(new.folder, change.review, label=named, by=change.by, why=why, allow_plugins=allow_plugins)
                told.append(f"{whose}the review bands that {change.by} asked for are fitted to the new model")
                continue
            threshold = change.rule if change.rule is not None else change.after
            if threshold is None:
                continue
            done = set_threshold(
                new.folder, change.model, threshold, label=named, pattern=change.pattern, by=change.by, why=why,
                allow_plugins=allow_plugins,
            )  # fmt: skip
            if change.band is not None:
                told.append(
                    f"{whose}{change.model}, {change.pattern}: the review band that {change.by} set with the threshold "
                    "is that of the old model's scores and does not hold for the new one: `bifocal policy anchor` again"
                )
            if change.rule is None:
                told.append(
                    f"{whose}{change.model}, {change.pattern}: the threshold {change.after:g} that {change.by} gave "
                    "holds for the new model, too: see whether it flags what it should"
                )
            else:
                told.append(
                    f"{whose}{change.model}, {change.pattern}: {done['rule']} by {change.by}: {change.after:g} became "
                    f"{done['after']:g}"
                )
    return told


def _judged(
    old: Workspace,
    new: Workspace,
    config: RunConfig,
    export: SourceConfig,
    settings: RetrainSettings,
    allow_plugins: Collection[str],
    reporter: Reporter,
) -> tuple[ModelComparison, ModelComparison | None, list[str]]:
    """Both models on the frozen test, and on what was audited since and kept aside; and what is to be said of it."""
    models = [old.folder, new.folder]
    frozen = compare_models(
        models, settings=settings.compare, need_labels=True, allow_plugins=allow_plugins, reporter=reporter
    )
    aside: Mapping[str, str] = read_json(new.split_record).get("recent", {})
    prefix = f"{config.source.options['sources'][-1]['name']}:"
    only = [name.removeprefix(prefix) for name in aside if name.startswith(prefix)]
    if not only:
        return frozen, None, ["nothing audited of this export was kept aside, so that recent posts are not judged by"]
    recent = compare_models(
        models,
        on=export,
        only=only,
        # To flag what was missed is what a retraining is for.
        settings=replace(settings.compare, flag_change=None, every_label=False),
        need_labels=True,
        allow_plugins=allow_plugins,
        reporter=reporter,
    )
    return frozen, recent, [SAMPLE_OF_ALLOWED]
