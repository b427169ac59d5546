"""The models that are compared, each with what it says of posts: runs, bundles, and tables of scores."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import ValidationError

from ..config import RunConfig, ThresholdConfig
from ..data.content import Content, ContentHashes, contents_of
from ..decide.policy import Policy, pattern_of
from ..errors import BifocalError, DataError, ModelError, RunError, listed, nearest
from ..example import SPLITS, UNLABELLED, Rejected
from ..files.folders import Files
from ..files.tables import SUFFIXES, read_rows
from ..modalities import TEXT
from ..system.bundle import CONTENT, is_bundle
from ..system.decision import ACTIONS
from ..system.engine import logits_by_label
from ..system.system import System
from ..workspace import Workspace, read_json
from .drift_reference import text_facts
from .predictions import Predictions, actions, calibrated
from .run_data import RunData

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 64
TIMED = 8
"""Posts that a model is timed on, one by one."""
DECISION = "label"
"""The column in which `bifocal score` writes what was decided."""
SCORES = ("score", "prob", "probability")
"""Columns of a score, in tables that Bifocal did not write."""


class ModelLabel(NamedTuple):
    """One label as a model knows it; None = the table does not say."""

    classes: tuple[int | str, ...] | None
    probability: str | None
    rule: ThresholdConfig | None


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What a model says of posts ``[n]`` by one label.

    Attributes
    ----------
    predicted : array, [n]
        Class indices; `UNLABELLED` where the model says nothing.
    probabilities : array, [n, C], or None
        Calibrated; nan where it says nothing; None = only decisions are known.
    actions : array of str, [n]
        What is done; empty where the model says nothing.
    patterns : array of str, [n]
        Which modalities it read; empty where that is not known.
    """

    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None
    actions: NDArray[Any]
    patterns: NDArray[Any]

    def take(self, rows: NDArray[Any]) -> Scored:
        """The same for some rows."""
        p = None if self.probabilities is None else self.probabilities[rows]
        return Scored(self.predicted[rows], p, self.actions[rows], self.patterns[rows])


class Posts(Protocol):
    """Posts that models can be asked of."""

    def __len__(self) -> int: ...

    def views(self, system: System, row: int) -> Sequence[Mapping[str, Any]]:
        """What the experts of a model are given of one; raises `BifocalError` where it can make nothing of it."""


class ComparedModel(Protocol):
    """A model, by what it is and what it says."""

    name: str
    kind: Literal["run", "bundle", "scores"]

    @property
    def labels(self) -> Mapping[str, ModelLabel]: ...

    @property
    def version(self) -> str | None:
        """Of its policy; None = not known."""

    @property
    def size_bytes(self) -> int | None: ...

    def vouched(self) -> bool:
        """Whether the posts that it learned from are known, so that they can be left out."""


class RunModel:
    """A run in its folder."""

    kind: Literal["run", "bundle", "scores"] = "run"

    def __init__(self, folder: Path, allow_plugins: Collection[str] = ()):
        self.name = str(folder)
        self.folder = folder
        self.allowed = tuple(allow_plugins)
        self.data = RunData.of(folder, allow_plugins)

    @cached_property
    def labels(self) -> Mapping[str, ModelLabel]:
        of = {name: self.data.for_label(name) for name in self.data.config.label_names}
        main = self.data.models[-1]
        return {
            name: ModelLabel(one.label.classes, one.label.probability, one.policy().rule_of(main))
            for name, one in of.items()
        }

    @property
    def config(self) -> RunConfig:
        return self.data.config

    @property
    def policy(self) -> Policy:
        return self.data.policy()

    @property
    def version(self) -> str | None:
        return self.policy.version

    @cached_property
    def system(self) -> System:
        return System.load(self.folder, allow_plugins=self.allowed)

    @property
    def size_bytes(self) -> int | None:
        return folder_bytes(self.data.space.models)

    def vouched(self) -> bool:
        return True

    @cached_property
    def contents(self) -> dict[str, list[Content]]:
        """Split -> the content of its rows."""
        return {name: contents_of(self.data.split(name)) for name in SPLITS if name in self.data.packed}

    @cached_property
    def seen(self) -> list[Content]:
        """Of the posts that it was trained or tuned on."""
        return [content for name in self.contents if name != "test" for content in self.contents[name]]

    def tested(self, label: str, rows: NDArray[np.int64], *, adjusted: bool) -> Scored:
        """What it says of some rows of its test split, from cached Evidence; ``adjusted`` as in `scored_of`."""
        view = self.data.for_label(label)
        predictions = view.predictions("test").take(rows)
        return scored_of(predictions, view.policy(), view.models[-1], adjusted=adjusted)


def scored_of(predictions: Predictions, policy: Policy, model: str, *, adjusted: bool) -> Scored:
    """What a policy makes of Predictions; unless ``adjusted``, its probabilities are those at the base rate of val."""
    p, classes = calibrated(predictions, policy, model, adjusted=adjusted)
    named = np.where(predictions.has[model], classes, UNLABELLED).astype(np.int64)
    return Scored(named, p, actions(predictions, policy, model), np.array(predictions.patterns, dtype=object))


class BundleModel:
    """An exported bundle; what it learned from is known by keyed hashes, where it carries them."""

    kind: Literal["run", "bundle", "scores"] = "bundle"

    def __init__(self, folder: Path, allow_plugins: Collection[str] = ()):
        self.name = str(folder)
        self.folder = folder
        self.system = System.load(folder, allow_plugins=allow_plugins)

    @cached_property
    def labels(self) -> Mapping[str, ModelLabel]:
        policy, main = self.policy, self.system.main
        return {
            name: ModelLabel(label.classes, label.probability, policy.of_label(name).rule_of(main))
            for name, label in self.system.labels.items()
        }

    @property
    def config(self) -> RunConfig:
        return self.system.config

    @property
    def policy(self) -> Policy:
        return self.system.policy

    @property
    def version(self) -> str | None:
        return self.system.policy_version

    @property
    def size_bytes(self) -> int | None:
        return folder_bytes(self.folder)

    @cached_property
    def hashes(self) -> ContentHashes | None:
        path = self.folder / CONTENT
        if not path.is_file():
            return None
        try:
            return ContentHashes.model_validate(read_json(path))
        except ValidationError as error:
            raise ModelError(f"{path} holds no hashes ({error.error_count()} faults): export the run again") from None

    def vouched(self) -> bool:
        return self.hashes is not None


class ScoreTable:
    """A table of scores: what `bifocal score` wrote, or another system's, with an ``id`` and a score.

    Parameters
    ----------
    truth : str, optional
        The column of the true label, of one label; by default the label's name.
    score : str, optional
        The column of the score, of one label.
    threshold : float
        From which on a post is flagged, where the table says no decision.
    """

    kind: Literal["run", "bundle", "scores"] = "scores"

    def __init__(self, path: Path, *, truth: str | None = None, score: str | None = None, threshold: float = 0.5):
        self.name, self.path = str(path), path
        self.truth_column, self.score_column, self.threshold = truth, score, threshold
        self.rows: dict[str, Mapping[str, Any]] = {}
        self.left_out = 0
        for row in _table_rows(path):
            identity = None if row is None else row.get("id")
            if row is None or identity in (None, "") or row.get("error") not in (None, ""):
                self.left_out += 1
            elif str(identity) in self.rows:
                raise DataError(f"{path}: the id {identity!r} stands in two rows: a score each is wanted")
            else:
                self.rows[str(identity)] = row
        if not self.rows:
            raise DataError(f"{path} has no row with an `id` and a score: give what `bifocal score` wrote")
        self.first = next(iter(self.rows.values()))

    @cached_property
    def labels(self) -> Mapping[str, ModelLabel]:
        """Those named in it; without names, one that is called by its column of true labels, or "label"."""
        nested = self.first.get("labels")
        if isinstance(nested, Mapping):
            return dict.fromkeys(map(str, nested), ModelLabel(None, None, None))
        named = {c.split(".")[1]: None for row in self.rows.values() for c in row if c.startswith("labels.")}
        return dict.fromkeys(named or [self.truth_column or ""], ModelLabel(None, None, None))

    @property
    def version(self) -> str | None:
        found = field(self.first, "versions.policy")
        return None if found is None else str(found)

    @property
    def size_bytes(self) -> int | None:
        return None

    def vouched(self) -> bool:
        return False

    def answers(self, ids: Sequence[str], name: str, label: ModelLabel) -> Scored:
        """What it says of posts, by their ids.

        Raises `DataError` where it has no column of a score, or a class that the label lacks.
        """
        classes = label.classes or (0, 1)
        score, decided = self._columns(name, label)
        n, binary = len(ids), classes == (0, 1)
        predicted, p = np.full(n, UNLABELLED, dtype=np.int64), np.full((n, 2), np.nan)
        done = np.full(n, "", dtype=object)
        for i, identity in enumerate(ids):
            row = self.rows.get(identity, {})
            written, named = field(row, score), field(row, decided)
            given = number(written)
            if given is None and written not in (None, ""):
                raise DataError(
                    f"{self.path}: the score of {identity!r} is {written!r}; a probability between 0 and 1 is wanted "
                    "(one of 0 to 100: divide by 100)"
                )
            if given is None or (not binary and named in (None, "")):
                continue
            p[i] = 1 - given, given
            predicted[i] = given >= self.threshold if named in (None, "") else self._class(named, classes)
            acted = field(row, decided.removesuffix(DECISION) + "action")
            usual = ("allow", "block")[predicted[i]] if binary else str(classes[predicted[i]])
            done[i] = str(acted) if acted not in (None, "") else usual
        return Scored(predicted, p if binary else None, done, np.full(n, "", dtype=object))

    def _columns(self, name: str, label: ModelLabel) -> tuple[str, str]:
        """The columns of score and decision by a label; one that holds the truth is no decision."""
        decision = "" if self.truth_column == DECISION else DECISION
        if self.score_column is not None:
            if self.score_column not in self.first:
                known = nearest(self.score_column, list(self.first))
                raise DataError(f"{self.path} has no column {self.score_column!r} of scores; {known}")
            return self.score_column, decision
        if field(self.first, f"labels.{name}.prob") is not None or any(
            field(row, f"labels.{name}.prob") is not None for row in self.rows.values()
        ):
            return f"labels.{name}.prob", f"labels.{name}.label"
        own = [column for column in self.first if column.startswith("prob_")]
        for column in (label.probability, *own, *SCORES):
            if column and column in self.first:
                return column, decision
        raise DataError(
            f"{self.path} has the columns {listed(list(self.first))} and none of a score by {name or 'a label'} "
            f"({listed([c for c in (label.probability, *SCORES) if c])}): give what `bifocal score` wrote"
        )

    def _class(self, value: Any, classes: tuple[int | str, ...]) -> int:
        found = class_index(value, classes)
        if found is None:
            raise DataError(f"{self.path}: the label {value!r} is none of {listed(list(map(str, classes)))}")
        return found

    def truth(self, ids: Sequence[str], name: str, classes: tuple[int | str, ...]) -> NDArray[np.int64]:
        """The true class of each post, `UNLABELLED` where it has none: a decision is none, unless it is named so."""
        column = self.truth_column or name
        found = np.full(len(ids), UNLABELLED, dtype=np.int64)
        if self.truth_column is None and column == DECISION:
            return found
        for i, identity in enumerate(ids):
            value = self.rows.get(identity, {}).get(column)
            if value not in (None, ""):
                found[i] = self._class(value, classes)
        return found


def class_index(value: Any, classes: Sequence[int | str]) -> int | None:
    """The class that a cell names; None = none of them. pandas makes 1.0 of 1 where a cell is empty."""
    named = str(value).strip()
    names = [str(name) for name in classes]
    if named not in names:
        named = {"true": "1", "false": "0"}.get(named.lower(), named.removesuffix(".0"))
    return names.index(named) if named in names else None


def number(value: Any) -> float | None:
    """A cell as a probability, or None where it is none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if 0 <= found <= 1 else None


def field(row: Mapping[str, Any], name: str) -> Any:
    """A field by its dotted name, of a flat row or a nested one."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _table_rows(path: Path) -> Iterator[Mapping[str, Any] | None]:
    path = path.resolve()
    for _, row in read_rows(Files(path.parent), path.name, quotes="standard"):
        yield None if isinstance(row, Rejected) else row


def open_model(
    path: Path,
    allow_plugins: Collection[str] = (),
    *,
    truth: str | None = None,
    score: str | None = None,
    threshold: float = 0.5,
) -> RunModel | BundleModel | ScoreTable:
    """What a path holds; a table is read as `ScoreTable` says. Raises `RunError` where it is none of the three."""
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return ScoreTable(path, truth=truth, score=score, threshold=threshold)
    if path.is_dir() and is_bundle(path):
        return BundleModel(path, allow_plugins)
    if path.is_dir():
        Workspace.of(path)
        return RunModel(path, allow_plugins)
    raise RunError(
        f"{path} is no run folder, no bundle and no table of scores ({', '.join(SUFFIXES)}): name one of them"
    )


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def score_posts(
    system: System, posts: Posts, progress: Any = None, *, adjusted: bool = True
) -> tuple[dict[str, Scored], int]:
    """What a model says of posts by each label, the worst view of each; and how many it could make nothing of.

    ``adjusted`` as in `scored_of`.
    """
    views: list[Mapping[str, Any]] = []
    owner: list[int] = []
    pieces: dict[str, list[Scored]] = {label: [] for label in system.labels}
    owners: list[int] = []
    failed = 0

    def flush() -> None:
        for label, scored in _of_views(system, views, adjusted=adjusted).items():
            pieces[label].append(scored)
        owners.extend(owner)
        views.clear()
        owner.clear()

    for row in range(len(posts)):
        try:
            found = posts.views(system, row)
        except BifocalError:
            failed += 1
            continue
        views.extend(found)
        owner.extend([row] * len(found))
        if len(views) >= BATCH:
            flush()
        if progress:
            progress(row + 1, len(posts))
    if views:
        flush()
    n = len(posts)
    return {
        label: _worst(parts, owners, n, len(system.labels[label].classes)) for label, parts in pieces.items()
    }, failed


def _of_views(system: System, views: Sequence[Mapping[str, Any]], *, adjusted: bool = True) -> dict[str, Scored]:
    """What a model says of composed views, by label."""
    engine = system.engine
    experts = {name: modality.expert_name for name, modality in system.modalities.items()}
    logits = logits_by_label(engine, engine.evidence(views), system.labels)
    has = {expert: np.array([name in view for view in views]) for name, expert in experts.items()}
    has.setdefault(engine.main, np.ones(len(views), dtype=bool))
    names = tuple(map(str, range(len(views))))
    patterns, languages = [pattern_of(view) for view in views], [text_facts(view.get(TEXT, ""))[0] for view in views]
    found = {}
    for label, of in logits.items():
        unknown = np.full(len(views), UNLABELLED)
        said = Predictions(names, names, unknown, dict(of), has, patterns, languages)
        found[label] = scored_of(said, system.policy.of_label(label), engine.main, adjusted=adjusted)
    return found


def _worst(parts: Sequence[Scored], owners: Sequence[int], n: int, classes: int) -> Scored:
    """Of each post what is said of its worst view, as it is decided on in use."""
    predicted, done = np.full(n, UNLABELLED, dtype=np.int64), np.full(n, "", dtype=object)
    p, brought = np.full((n, classes), np.nan), np.full(n, "", dtype=object)
    worst: dict[int, tuple[int, float]] = {}
    place = 0
    for part in parts:
        for i in range(len(part.predicted)):
            row, action = owners[place], part.actions[i]
            place += 1
            said = part.probabilities[i] if part.probabilities is not None else p[row]
            severity = ACTIONS.index(action) if action in ACTIONS else 0, float(said[part.predicted[i]])
            if row not in worst or severity > worst[row]:
                worst[row] = severity
                predicted[row], p[row], done[row], brought[row] = part.predicted[i], said, action, part.patterns[i]
    return Scored(predicted, p, done, brought)


def milliseconds_per_post(system: System, posts: Posts) -> float | None:
    """Median time of encoders, fusion and policy for one post at a time; None where no post can be read."""
    found = []
    for row in range(len(posts)):
        try:
            found.append(posts.views(system, row)[:1])
        except BifocalError:
            continue
        if len(found) == TIMED:
            break
    if not found:
        return None
    _of_views(system, found[0])  # the first pass makes what later ones use
    took = []
    for views in found:
        began = perf_counter()
        _of_views(system, views)
        took.append(perf_counter() - began)
    return 1000 * median(took)
