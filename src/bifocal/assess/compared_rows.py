"""The labelled posts that models are compared on: where they come from, and which of them a model has seen before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import SlicesConfig, SourceConfig
from ..data.content import Content, kinds_of
from ..data.dedup import duplicate_groups, picture_hash
from ..data.manifest import read_manifest, temporary_manifest
from ..errors import DataError, RunError, listed
from ..example import UNLABELLED, Example, Taxonomy
from ..modalities import TEXT, every_modality
from ..sources import build_source, taxonomy_of
from ..system.preprocessing import Preprocessor
from .compared_models import BundleModel, RunModel
from .score_table import ScoreTable
from .slices import cut, evaluated_rows, slices_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..contracts import Modality, Source
    from ..data.shards import Split
    from ..system.system import System
    from .compared_models import Posts
    from .scored_posts import ModelLabel

    Rows = NDArray[np.bool_]
    Model = RunModel | BundleModel | ScoreTable


@dataclass(frozen=True, eq=False)
class ComparedRows:
    """Posts ``[n]``, and what is known of them.

    Attributes
    ----------
    labels : dict
        Label -> class indices ``[n]``, `UNLABELLED` where it is not annotated; empty where nothing is.
    weights : array, [n], or None
        How many posts each stands for; None = one.
    slices : dict
        Label, or "" for any -> column and value -> rows.
    posts : Posts or None
        For models that have to read them; None = scores are all there is.
    places : dict
        Name of a run -> the row of its test split that each post is.
    left_out : Counter
        Why posts were left out -> how many.
    """

    ids: list[str]
    contents: list[Content]
    groups: list[str]
    labels: Mapping[str, NDArray[np.int64]]
    weights: NDArray[np.float64] | None = None
    slices: Mapping[str, Mapping[tuple[str, str], Rows]] = field(default_factory=dict)
    posts: Posts | None = None
    places: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.intp]) -> ComparedRows:
        """Some of them; ``posts`` stay whole, since models have been asked by then."""
        index = rows.tolist()
        return replace(
            self,
            ids=[self.ids[i] for i in index],
            contents=[self.contents[i] for i in index],
            groups=[self.groups[i] for i in index],
            labels={name: classes[rows] for name, classes in self.labels.items()},
            weights=None if self.weights is None else self.weights[rows],
            slices={label: {at: inside[rows] for at, inside in of.items()} for label, of in self.slices.items()},
            places={name: place[rows] for name, place in self.places.items()},
        )


class PackedPosts:
    """Rows of a packed split, as the experts read them."""

    def __init__(self, split: Split, rows: Sequence[int]):
        self.split, self.rows = split, rows
        self.values = {name: split.values(name) for name in split.present}

    def __len__(self) -> int:
        return len(self.rows)

    def views(self, system: System, row: int) -> Sequence[Mapping[str, Any]]:
        """One view. Raises `DataError` where the split lacks a part that the model reads, or the post has none."""
        at = self.rows[row]
        if missing := [name for name in system.modalities if name not in self.values]:
            raise DataError(f"the rows have no {listed(missing)}")
        view = {name: self.values[name][at] for name in system.modalities if self.split.present[name][at]}
        if not view:
            raise DataError("nothing that the model reads")
        return (view,)


class SourcePosts:
    """Posts of a source, prepared by each model as it does in use; notes the composed text of each."""

    def __init__(self, source: Source, examples: Sequence[Example]):
        self.source, self.examples = source, examples
        self.texts: dict[int, tuple[str, str]] = {}
        self._preprocessors: dict[tuple[int, str], Preprocessor] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def views(self, system: System, row: int) -> Sequence[Mapping[str, Any]]:
        """As `Preprocessor.post` makes them, which says what is raised."""
        example = self.examples[row]
        role = self.source.role_of(example)
        made = self._preprocessors.setdefault((id(system), role), Preprocessor(system.config, role))
        parts = {
            name: self.source.open(part) if made.inputs[name].is_file else part
            for name, part in example.parts.items()
            if name in made.reads
        }
        post = made.post(parts)
        system.check(post)
        self.texts.setdefault(row, (post.example.parts.get(TEXT, ""), post.example.meta.get("language", "")))
        return post.views


def rows_of_runs(runs: Sequence[RunModel], labels: Collection[str]) -> ComparedRows:
    """The test rows that all runs have, matched by content; labels are the first run's.

    Raises `RunError` where a run has no test split, or there is no common row.
    """
    for run in runs:
        if "test" not in run.data.packed or run.data.in_sample:
            raise RunError(f"{run.name} keeps no test rows to compare on: give labelled posts by --on")
    first, both = runs[0], kinds_of(*(run.contents["test"] for run in runs))
    keys = [content.key(**both) for content in first.contents["test"]]
    place_of = {run.name: {c.key(**both): i for i, c in enumerate(run.contents["test"])} for run in runs[1:]}
    known = [any(both.values()) and all(key in of for of in place_of.values()) for key in keys]
    rows = np.flatnonzero(known)
    if not len(rows):
        raise RunError(
            f"no test row of {first.name} is one of {', '.join(place_of)}: give labelled posts by --on, or let the "
            "new run take over the splits of the old one"
        )
    places = {run: np.array([of[keys[i]] for i in rows.tolist()]) for run, of in place_of.items()}
    split = first.data.split("test")
    views = {name: first.data.for_label(name) for name in labels}
    notes = []
    for run in runs[1:]:
        theirs = {name: run.data.for_label(name).predictions("test").labels[places[run.name]] for name in labels}
        differ = np.any([views[n].predictions("test").labels[rows] != theirs[n] for n in labels], axis=0)
        if differ.any():
            notes.append(
                f"{int(differ.sum()):,} test rows bear other labels in {run.name}: those of {first.name} count"
            )
    slices = {
        name: {
            at: inside[rows]
            for at, inside in slices_of(
                evaluated_rows(view, "test"), view.policy(), view.models, view.config.slices
            ).items()
        }
        for name, view in views.items()
    }
    left_out = Counter({f"in {first.name} alone, of the runs compared": len(keys) - len(rows)})
    return ComparedRows(
        [split.ids[i] for i in rows.tolist()],
        [first.contents["test"][i] for i in rows.tolist()],
        [split.groups[i] for i in rows.tolist()],
        {name: view.predictions("test").labels[rows] for name, view in views.items()},
        slices=slices,
        posts=PackedPosts(split, rows.tolist()),
        places={first.name: rows, **places},
        left_out=+left_out,
        notes=tuple(notes),
    )


def rows_of_source(
    config: SourceConfig, models: Sequence[Model], labels: Mapping[str, ModelLabel], only: Collection[str] | None
) -> ComparedRows:
    """Posts of a source, labelled or not; ``only``: those of these ids."""
    reader = next((model for model in models if not isinstance(model, ScoreTable)), None)
    source = build_source(config)
    taxonomy = taxonomy_of(source)
    if reader is None:
        raise DataError("tables of scores are compared on their own rows: leave --on out, or name a run or a bundle")
    modalities = every_modality(reader.config)
    with temporary_manifest(source, modalities, taxonomy) as (manifest, _, counts):
        examples = [e for e in read_manifest(manifest) if only is None or e.id in only]
    if not examples:
        raise DataError(f"the source {config.kind} has no row that can be used: see `bifocal inspect`")
    groups = duplicate_groups(
        [e.id for e in examples],
        [e.parts.get(TEXT, "") for e in examples],
        [picture_hash(e) for e in examples],
        [e.group for e in examples],
    )
    weights = np.array([_weight(e) for e in examples])
    return ComparedRows(
        [e.id for e in examples],
        [Content(e.parts.get(TEXT, ""), picture_hash(e), _record(e, modalities)) for e in examples],
        groups,
        _true_classes(examples, taxonomy, labels),
        weights=weights if len(set(weights.tolist())) > 1 else None,
        slices={"": _columns({"source": [e.meta.get("source") for e in examples]})},
        posts=SourcePosts(source, examples),
        left_out=+Counter({"cannot be used (see `bifocal inspect`)": counts["quarantined"]}),
    )


def _weight(example: Example) -> float:
    """How many posts a row stands for; 1 where it does not say."""
    given = example.meta.get("weight")
    try:
        found = 1.0 if given in (None, "") else float(str(given))
    except ValueError:
        found = float("nan")
    if not 0 < found < float("inf"):
        raise DataError(f"row {example.id!r}: `weight` is {given!r}; it is the number of posts that a row stands for")
    return found


def _record(example: Example, modalities: Mapping[str, Modality]) -> str | None:
    """A hash of an example's record, as of a packed one."""
    blob = b"".join(
        modality.pack(modality.read(example.parts[name]))
        for name, modality in modalities.items()
        if modality.input.form == "record" and name in example.parts
    )
    return sha256(blob).hexdigest() if blob else None


def _true_classes(
    examples: Sequence[Example], taxonomy: Taxonomy, labels: Mapping[str, ModelLabel]
) -> dict[str, NDArray[np.int64]]:
    """Of the labels that any row bears."""
    found = {}
    for name, label in labels.items():
        if name not in taxonomy.labels:
            continue
        own, classes = taxonomy[name], label.classes or (0, 1)
        values = [own.class_of(example.labels.get(name)) for example in examples]
        for value in values:
            if value is not None and value not in classes:
                raise DataError(f"{name} is {value!r} in a row, and the models know {listed(list(map(str, classes)))}")
        indices = np.array([UNLABELLED if value is None else classes.index(value) for value in values], dtype=np.int64)
        if (indices != UNLABELLED).any():
            found[name] = indices
    return found


def with_texts(rows: ComparedRows) -> ComparedRows:
    """The same once models have read the posts: their composed texts, and slices by language."""
    if not isinstance(rows.posts, SourcePosts) or not rows.posts.texts:
        return rows
    read = [rows.posts.texts.get(i, (content.words, "")) for i, content in enumerate(rows.contents)]
    contents = [replace(c, words=words) for c, (words, _) in zip(rows.contents, read, strict=True)]
    slices = {"": {**rows.slices.get("", {}), **_columns({"language": [language or None for _, language in read]})}}
    return replace(rows, contents=contents, slices=slices)


def _columns(columns: Mapping[str, Sequence[Any]]) -> dict[tuple[str, str], Rows]:
    """The slices of columns that tell anything."""
    found: dict[tuple[str, str], Rows] = {}
    for name, values in columns.items():
        slices = cut(values, SlicesConfig().min_rows)
        found |= {(name, value): rows for value, rows in slices.items()} if len(slices) > 1 else {}
    return found


def rows_of_tables(tables: Sequence[ScoreTable], labels: Mapping[str, ModelLabel]) -> ComparedRows:
    """The rows that all tables of scores have, by id; labels are read from the first that has them."""
    ids = [one for one in tables[0].rows if all(one in table.rows for table in tables[1:])]
    if not ids:
        raise DataError(f"no id of {tables[0].name} stands in {', '.join(t.name for t in tables[1:])}: score one table")
    truth: dict[str, NDArray[np.int64]] = {}
    for name, label in labels.items():
        for table in tables:
            found = table.truth(ids, name, label.classes or (0, 1))
            if name not in truth or (found != UNLABELLED).sum() > (truth[name] != UNLABELLED).sum():
                truth[name] = found
    truth = {name: found for name, found in truth.items() if (found != UNLABELLED).any()}
    rows = [tables[0].rows[one] for one in ids]
    texts = [str(row.get("text_used") or row.get(TEXT) or "") for row in rows]
    groups = duplicate_groups(ids, texts, [None] * len(ids), [None] * len(ids)) if any(texts) else ids
    left_out = Counter({"in one table alone": max(len(table.rows) for table in tables) - len(ids)})
    left_out["have no score or an error"] = max(table.left_out for table in tables)
    return ComparedRows(
        ids,
        [Content(text) for text in texts],
        groups,
        truth,
        slices={"": _columns({"language": [row.get("language") or None for row in rows]})},
        left_out=+left_out,
    )


def not_seen(rows: ComparedRows, models: Sequence[Model]) -> tuple[NDArray[np.intp], Counter[str]]:
    """The rows that no model was trained or tuned on, nor a near-duplicate of; and why the others are left out.

    Runs know the posts they learned from; a bundle knows hashes of them, which tell those of the same words as well;
    a table of scores knows nothing.
    """
    reasons, kept = Counter[str](), np.ones(len(rows), dtype=bool)
    says = np.array([bool(c.words or c.picture or c.record) for c in rows.contents])
    for model in models:
        if isinstance(model, RunModel):
            kinds = kinds_of(rows.contents, model.seen)
            own = {content.key(**kinds) for content in model.seen} if any(kinds.values()) else set()
            hit = np.array([content.key(**kinds) in own for content in rows.contents]) & says
            hit |= _in_seen_groups(rows, model)
        elif isinstance(model, BundleModel) and model.hashes is not None:
            hit = np.array(model.hashes.holds(rows.contents)) & says
        else:
            continue
        reasons[f"{model.name} was trained or tuned on"] += int((hit & kept).sum())
        kept &= ~hit
    near = _near_seen(
        rows, kept, [content for model in models if isinstance(model, RunModel) for content in model.seen]
    )
    reasons["near-duplicates of posts that a model was trained or tuned on"] += int(near.sum())
    return np.flatnonzero(kept & ~near), +reasons


def _in_seen_groups(rows: ComparedRows, run: RunModel) -> Rows:
    """Of test rows of a run, those whose group has rows in train or val, too."""
    if run.name not in rows.places:
        return np.zeros(len(rows), dtype=bool)
    seen = {group for name, split in run.data.packed.items() if name != "test" for group in split.groups}
    groups = run.data.split("test").groups
    return np.array([groups[i] in seen for i in rows.places[run.name].tolist()])


def _near_seen(rows: ComparedRows, kept: Rows, seen: Sequence[Content]) -> Rows:
    """The rows that are near-duplicates of posts seen."""
    near = np.zeros(len(rows), dtype=bool)
    if not seen or not kept.any():
        return near
    known = list({content.key(): content for content in seen}.values())
    index = np.flatnonzero(kept)
    every = [rows.contents[i] for i in index.tolist()] + known
    names = [str(i) for i in range(len(every))]
    texts, pictures = [c.words for c in every], [c.picture for c in every]
    groups = duplicate_groups(names, texts, pictures, [None] * len(every))
    touched = set(groups[len(index) :])
    near[index] = [group in touched for group in groups[: len(index)]]
    return near
