"""Policies side by side and by hand: which decisions another would change, and thresholds that a person sets."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plugins
from ..assess.predictions import actions, calibrated
from ..assess.related_labels import flagged_rows
from ..assess.run_data import RunData
from ..assess.tuning import tuning_predictions, tuning_rows
from ..config import ReviewConfig, ThresholdConfig, differing_settings, recorded_config
from ..decide.policy import POOLED, Change, Policy, require_names
from ..decide.policy_fit import find_threshold, with_review
from ..decide.thresholds import described, figure_of
from ..errors import BifocalError, RunError, nearest
from ..modalities import TEXT
from ..modalities.text import without_tags
from ..system.bundle import CARD, bundle_of, change_policy, is_bundle, policy_of, run_or_bundle
from ..system.system import load_policy
from ..workspace import RunRecord, Workspace, read_json

if TYPE_CHECKING:
    from ..assess.predictions import Predictions
    from ..data.shards import Split

EXAMPLES = 10
"""Posts that are named of those whose decision changes."""
SHOWN = 120
"""Characters of an example's text."""


def set_threshold(
    folder: str | Path,
    model: str | None,
    threshold: float | ThresholdConfig,
    *,
    label: str | None = None,
    pattern: str = POOLED,
    by: str,
    why: str,
    allow_plugins: Collection[str] = (),
) -> dict[str, Any]:
    """Set one threshold of a run's or a bundle's policy by hand, and keep record: who, when, why, the policy as it was.

    The policy before and after lie under ``policies/`` by their versions. What was measured by a run's old one is to be
    measured again: the run's next `bifocal run` does that, and fits nothing. A bundle is sealed anew, and a service of
    it takes the policy up; a run's bundles keep the policy that they have.

    Parameters
    ----------
    folder : path
        Of the run, or of the bundle.
    model : str or None
        None = the model that decides.
    threshold : float or ThresholdConfig
        A rule finds it on the rows that the run's policy was tuned on, as the run itself does (`find_threshold`); with
        the confidence of the run's rule where that bounds the same figure and none is given.
    label : str, optional
        Of several; None = the first.
    pattern, by, why : as `Policy.with_threshold`
    allow_plugins : as `System.load`

    Returns
    -------
    dict
        The change, as the policy records it; of several labels ``label``; ``policy``: the new version; ``others``:
        pattern -> threshold, of those of the model that stay; ``bundles``: of the run's bundles those that decide
        otherwise -> the command that mends it. With a rule ``reached``: its figure on the tuning rows; ``expected``:
        that on the next ones, of the model that decides; ``findings``: what is to be known of it.

    Raises
    ------
    RunError
        As `load_policy`, `change_policy` and `Policy.with_threshold`; where the run is not finished, or another process
        holds it; where a rule is to find it in a bundle, which keeps no rows.
    DataError
        Where the rule's bound cannot be kept to, with how many rows are missing.
    """
    require_names(by, why)
    folder = run_or_bundle(Path(folder))
    told: dict[str, Any] = {}

    def changed(policy: Policy) -> Policy:
        named = model or list(policy.models)[-1]
        if not isinstance(threshold, ThresholdConfig):
            return policy.with_threshold(named, threshold, pattern=pattern, by=by, why=why)
        data, figure = _tuned(folder, allow_plugins).for_label(policy.label), figure_of(threshold)
        predictions, rule = tuning_predictions(data), threshold
        if policy.rule.by == rule.by and "confidence" not in rule.model_fields_set:
            rule = rule.model_copy(update={"confidence": policy.rule.confidence})
        rows, seed = tuning_rows(data, predictions), data.config.seed
        chosen, expected, findings = find_threshold(policy, rows, rule, model=named, pattern=pattern, seed=seed)
        after = policy.with_threshold(named, chosen.threshold, pattern=pattern, by=by, why=why, rule=rule)
        told["reached"] = {figure: chosen.figures[figure]}
        told["findings"] = [*findings, *_deciding_nothing(policy, predictions, named, pattern)]
        if expected:
            told["expected"] = {figure: expected[figure].value}
            after = after.model_copy(update={"expected": expected})
        return after

    return {**change_label(folder, label, changed, allow_plugins), **told}


def _deciding_nothing(policy: Policy, predictions: Predictions, model: str, pattern: str) -> list[str]:
    """Where a pooled threshold decides no tuned row: all bring parts that have a threshold of their own."""
    brought = {found for found, has in zip(predictions.patterns, predictions.has[model], strict=True) if has}
    if pattern != POOLED or not brought or not brought <= policy.models[model].patterns.keys():
        return []
    own = " or ".join(f"--pattern {name}" for name in sorted(brought))
    return [f"{model}: no post that the run was tuned on is decided by it: name {own}"]


def set_review(
    folder: str | Path,
    review: ReviewConfig,
    *,
    label: str | None = None,
    by: str,
    why: str,
    allow_plugins: Collection[str] = (),
) -> dict[str, Any]:
    """Fit all review bands of a run's policy, or prediction sets, to other rates; thresholds stay.

    On the rows of val, as the run itself does (`with_review`); within languages, too, where the policy does so and
    ``per_language`` is not given. Record is kept as by `set_threshold`, which says what is given and raised.

    Raises
    ------
    RunError
        Also where the rates are for a label of another kind.
    """
    require_names(by, why)
    folder, found = run_or_bundle(Path(folder)), list[str]()

    def changed(policy: Policy) -> Policy:
        if (review.alpha is None) != (len(policy.classes) == 2):
            right = "fnr, fpr or both" if len(policy.classes) == 2 else "alpha"
            raise RunError(f"{policy.label} has {len(policy.classes)} classes: its review is by {right}")
        asked = review
        if policy.review is not None and "per_language" not in review.model_fields_set:
            asked = review.model_copy(update={"per_language": policy.review.per_language})
        data = _tuned(folder, allow_plugins).for_label(policy.label)
        after, findings = with_review(policy, tuning_rows(data, tuning_predictions(data)), asked)
        found.extend(findings)
        main = list(policy.models)[-1]
        threshold = policy.models[main].threshold
        change = policy.change(by, why, model=main, before=threshold, after=threshold)
        changes = (*policy.changes, change.model_copy(update={"review": asked}))
        return after.model_copy(update={"changes": changes})

    return {**change_label(folder, label, changed, allow_plugins), "findings": found}


def _tuned(folder: Path, allow_plugins: Collection[str]) -> RunData:
    if is_bundle(folder):
        raise RunError(
            f"the bundle {folder} keeps no rows to find a threshold or band on: set it on its run, which says how the "
            "bundle follows"
        )
    return RunData.of(folder, allow_plugins)


def change_label(
    folder: Path, label: str | None, changed: Callable[[Policy], Policy], allow_plugins: Collection[str]
) -> dict[str, Any]:
    """Change the policy of one label of a run or a bundle, and say what the change reaches, as `set_threshold` does."""

    def whole(policy: Policy) -> Policy:
        before = policy.of_label(label or policy.label)
        own, kept = changed(before), len(before.changes)
        new = [change.model_copy(update={"version": policy.version}) for change in own.changes[kept:]]
        return policy.with_label(own.model_copy(update={"changes": (*own.changes[:kept], *new)}))  # of all labels

    with plugins.restrict(folder, allow_plugins):
        after = change_policy(folder, whole) if is_bundle(folder) else _change_run(Workspace.of(folder), whole)
    own = after.of_label(label or after.label)
    change = own.changes[-1]
    thresholds = {} if change.review is not None else _thresholds(own)
    return {
        **({"label": own.label} if after.labels else {}),
        **change.model_dump(mode="json", exclude_none=True),
        **({"rule": described(change.rule)} if change.rule is not None else {}),
        "policy": after.version,
        "others": {name: t for (of, name), t in thresholds.items() if of == change.model and name != change.pattern},
        "bundles": {} if is_bundle(folder) else _otherwise(folder, after, own.label),
    }


def _change_run(space: Workspace, change: Callable[[Policy], Policy]) -> Policy:
    with space.lock():
        record = RunRecord(space.record)
        if "calibrate" not in record.steps():
            raise RunError(f"the run in {space.folder} has no policy yet: let `bifocal run CONFIG` end")
        before = load_policy(space, recorded_config(record.content["config"], where=str(space.record)))
        after = change(before)
        for policy in (before, after):
            policy.save(space.policies / f"{policy.version}.json")
        after.save(space.policy)
        record.rewritten("calibrate", space.policy)
        done = record.steps()
        record.update(steps={name: done[name] for name in list(done)[: list(done).index("calibrate") + 1]})
    return after


def _thresholds(policy: Policy) -> dict[tuple[str, str], float | None]:
    """Model and pattern -> threshold."""
    return {
        (model, pattern): part.threshold
        for model, fit in policy.models.items()
        for pattern, part in {POOLED: fit, **fit.patterns}.items()
    }


def _reviews(policy: Policy) -> tuple[ReviewConfig | None, list[Change]]:
    """What the review bands are fitted to, and by which changes."""
    return policy.review, [change for change in policy.changes if change.review is not None]


def _of_labels(policy: Policy) -> tuple[dict[tuple[str, str, str], float | None], list[Any]]:
    """Label, model and pattern -> threshold; and what the review bands of each label are fitted to."""
    own = {name: policy.of_label(name) for name in policy.label_names}
    thresholds = {(name, *at): value for name, of in own.items() for at, value in _thresholds(of).items()}
    return thresholds, [_reviews(of) for of in own.values()]


def _otherwise(run_folder: Path, policy: Policy, label: str) -> dict[str, str]:
    """Bundles of a run with thresholds or bands that are not the run's -> the command that brings each up to it."""
    change, found = policy.of_label(label).changes[-1], {}
    ours, our_reviews = _of_labels(policy)
    for folder in sorted(path for path in (run_folder / "bundles").glob("*") if is_bundle(path)):
        theirs: Mapping[tuple[str, str, str], float | None] = {}
        reviews: list[Any] | None = None
        try:
            theirs, reviews = _of_labels(policy_of(folder))
            engine = read_json(folder / CARD)["engine"]
        except BifocalError:  # it cannot be loaded either
            engine = folder.name
        differ = {name for name in ours if ours[name] != theirs.get(name)}
        refitted = reviews != our_reviews
        if differ == {(label, change.model, change.pattern)} and not refitted:
            arguments = {"threshold": change.after, "model": change.model, "pattern": change.pattern}
            arguments |= {**({"label": label} if policy.labels else {}), "by": change.by, "why": change.why}
            options = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
            found[str(folder)] = shlex.join(["bifocal", "policy", "set", str(folder), *options])
        elif differ or refitted:  # exported before others were set, of an earlier fit, or its bands
            place = [] if folder == bundle_of(run_folder, engine) else ["--output", str(folder)]
            found[str(folder)] = shlex.join(["bifocal", "export", str(run_folder), "--engine", engine, *place])
    return found


def thresholds_of(folder: str | Path) -> dict[str, Any]:
    """What the policy of a run or a bundle decides by, label by label.

    Returns
    -------
    dict
        ``policy``: its version; ``labels``: label -> ``act`` (what a decision by it may come to), ``requires`` (the
        label whose flagged posts alone it is asked of, or None), ``models``: model -> pattern -> threshold (None = the
        likeliest class), ``by_hand``: how many changes were made by hand.

    Raises
    ------
    RunError
        Where there is no policy, or it is of other models.
    """
    folder = run_or_bundle(Path(folder))
    policy = policy_of(folder) if is_bundle(folder) else Policy.load(Workspace.of(folder).policy)
    labels: dict[str, Any] = {}
    for name in policy.label_names:
        own, models = policy.of_label(name), dict[str, dict[str, float | None]]()
        for (model, pattern), threshold in _thresholds(own).items():
            models.setdefault(model, {})[pattern] = threshold
        labels[name] = {"act": own.act, "requires": own.requires, "models": models, "by_hand": len(own.changes)}
    return {"policy": policy.version, "labels": labels}


def compare(
    a: str | Path,
    b: str | Path,
    *,
    on: str = "test",
    label: str | None = None,
    allow_plugins: Collection[str] = (),
) -> dict[str, Any]:
    """Which decisions of a split would be others under policy b than under policy a.

    Parameters
    ----------
    a, b : path
        Of a run's folder, or of a policy file in one. Both policies are for the same models.
    on : str
        A split of the run of a, whose Evidence is read from the cache.
    label : str, optional
        Of several; None = the first.
    allow_plugins : as `System.load`

    Returns
    -------
    dict
        ``a``, ``b``: versions; of several labels ``label``, and ``others`` whose policies differ too; ``settings``:
        setting -> what it is in a and b, where they differ; ``n``; ``changed``: a count; ``moves``:
        from -> to -> count of actions (labels, where there are several classes); ``by_class``: class of the changed
        posts -> count; ``right``: posts whose label is right in a, in b; ``examples``: those whose
        probability differs most, the most uncertain first where probabilities are the same.

    Raises
    ------
    RunError
        As `Policy.load`; where the policies are for other models, or there is no such split or label.
    """
    (space, whole), (_, other) = _found(Path(a)), _found(Path(b))
    one, two = (policy.of_label(label or whole.label) for policy in (whole, other))
    _same_models(one, two)
    run = RunData.of(space.folder, allow_plugins).for_label(one.label)
    if not space.packed_splits():
        raise RunError(f"{space.folder} has no shards, whose posts are decided on: let the step `shards` run again")
    if on not in space.packed_splits():
        raise RunError(f"the run in {space.folder} has no split {on!r}; {nearest(on, space.packed_splits())}")
    predictions, model, split = run.predictions(on), run.models[-1], run.split(on)
    if run.label.requires is not None:  # it decides on posts that its parent flags
        flagged = np.flatnonzero(flagged_rows(run, on))
        predictions, split = predictions.take(flagged), split.take(flagged.tolist())
    others = [
        name
        for name in whole.label_names
        if name != one.label
        and name in other.label_names
        and whole.of_label(name).version != other.of_label(name).version
    ]
    dumped = [policy.model_dump(mode="json", exclude={"labels"}) for policy in (one, two)]
    settings = differing_settings(dumped[0], dumped[1])
    return {
        **({"label": one.label, "others": others} if whole.labels else {}),
        "a": whole.version,
        "b": other.version,
        "on": on,
        "settings": {name: values for name, values in settings.items() if not name.startswith(("date", "changes"))},
        **_moves(predictions, one, two, model, split),
    }


def _found(path: Path) -> tuple[Workspace, Policy]:
    """A policy and the run that it belongs to."""
    if is_bundle(path):
        raise RunError(f"what the models of the bundle {path} say is not kept: compare policies of its run")
    if path.is_dir():
        space = Workspace.of(path)
        return space, Policy.load(space.policy)
    policy = Policy.load(path)
    for folder in path.resolve().parents[:2]:
        if (folder / "run.json").is_file():
            return Workspace.of(folder), policy
    raise RunError(f"{path} lies in no run folder (no run.json beside it): the Evidence it decides on is not known")


def _same_models(one: Policy, two: Policy) -> None:
    models = [{k: v for k, v in policy.versions.items() if k in policy.models} for policy in (one, two)]
    if models[0] != models[1]:
        raise RunError(
            f"the policies are for other models ({_listed(models[0])} and {_listed(models[1])}): decisions can be "
            "compared where only the policy differs"
        )


def _listed(models: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in models.items())


def _moves(predictions: Predictions, one: Policy, two: Policy, model: str, split: Split) -> dict[str, Any]:
    rows = np.flatnonzero(predictions.has[model])
    (p, labels), (q, new_labels) = (
        [part[rows] for part in calibrated(predictions, policy, model)] for policy in (one, two)
    )
    done, new_done = (actions(predictions, policy, model)[rows] for policy in (one, two))
    changed = np.flatnonzero(done != new_done)
    moves: dict[str, Counter[str]] = {}
    for before, after in zip(done[changed], new_done[changed], strict=True):
        moves.setdefault(str(before), Counter())[str(after)] += 1
    truth = predictions.labels[rows]
    names = np.array([*map(str, one.classes), "none"], dtype=object)
    shown = np.abs(q - p).max(axis=1)[changed]
    order = changed[np.lexsort((np.abs(p.max(axis=1) - 0.5)[changed], -shown.round(6)))][:EXAMPLES]
    texts = split.values(TEXT) if TEXT in split.present else None
    return {
        "model": model,
        "n": len(rows),
        "changed": len(changed),
        "moves": {before: dict(after) for before, after in sorted(moves.items())},
        "by_class": dict(Counter(names[truth[changed]].tolist())),
        "right": {
            "a": int((labels == truth).sum()),
            "b": int((new_labels == truth).sum()),
            "of": int((truth >= 0).sum()),
        },
        "examples": [
            {
                "id": predictions.ids[rows[i]],
                "label": names[truth[i]],
                "a": {"probability": float(p[i, _shown(p, i)]), "action": str(done[i])},
                "b": {"probability": float(q[i, _shown(q, i)]), "action": str(new_done[i])},
                TEXT: "" if texts is None else without_tags(texts[rows[i]])[:SHOWN],
            }
            for i in order
        ],
    }


def _shown(p: np.ndarray, row: int) -> int:
    """The class whose probability is shown: 1 of a binary label, else the likeliest."""
    return 1 if p.shape[1] == 2 else int(p[row].argmax())
