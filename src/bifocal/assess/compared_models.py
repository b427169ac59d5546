"""The models that are compared, each with what it says of posts: runs, bundles, and tables of scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import ValidationError

from ..config import RunConfig
from ..data.content import Content, ContentHashes, contents_of
from ..decide.policy import Policy, pattern_of
from ..errors import BifocalError, ModelError, RunError
from ..example import SPLITS, UNLABELLED
from ..files.tables import SUFFIXES
from ..modalities import TEXT
from ..system.bundle import CONTENT, is_bundle
from ..system.decision import ACTIONS
from ..system.engine import logits_by_label
from ..system.system import System
from ..workspace import Workspace, read_json
from .drift_reference import text_facts
from .predictions import Predictions, actions, calibrated
from .run_data import RunData
from .score_table import ScoreTable
from .scored_posts import ModelLabel, Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 64
TIMED = 8
"""Posts that a model is timed on, one by one."""


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
