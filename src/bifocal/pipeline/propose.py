"""A configuration for somebody's posts, proposed: what each column is, how to learn from it, and what that costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path, PurePath
from typing import Any

from ..config import RunConfig, parse_config
from ..contracts import Reporter
from ..data.class_checks import FEW
from ..diagnose.column_roles import FILE, AskedRoles, ColumnRole, LabelFound, find_roles
from ..diagnose.personal_data import personal_in_texts
from ..errors import BifocalError, DataError, listed
from ..example import LABELS
from ..modalities import PICTURE, TEXT, inputs
from ..workspace import Workspace
from .commented_yaml import render
from .context import Context
from .plan import expert_costs, measured_gflops
from .sample_posts import PostsFound, find_pictures, find_posts

RECORD = next(name for name, one in inputs().items() if one.form == "record")
OCR_SECONDS = 0.4
"""Of one picture in one process (docs/ocr.md): real memes; a screenshot of a phone takes 3 s."""
PICTURE_SECONDS, TEXT_SECONDS = 0.03, 0.002
"""Of reading, checking and packing a post."""
FIXED_MINUTES = 0.5
"""Of a run however few its rows are: intervals, report."""
SMALL = 5000
"""Rows under which one linear encoder of records is taken, so that the fusion learns from all of train."""
_FROM_SCRATCH = "learned from scratch, which takes thousands of pictures"
_OTHERS = "or name a hub id or a local folder"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person said on the command line; everything else is found out."""

    roles: AskedRoles = field(default_factory=AskedRoles)
    images: str | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A configuration, and what it was made of.

    Attributes
    ----------
    content : str
        The YAML, with the reasons as comments.
    rows : int
        Read.
    assumed, warnings : list of str
        Sentences for people.
    minutes : float or None
        A rough guess; None = it cannot be guessed here.
    """

    run: str
    content: str
    config: RunConfig
    columns: list[ColumnRole]
    rows: int
    assumed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cost: str = ""
    minutes: float | None = None


def propose(given: str, asked: Asked | None = None) -> Proposal:
    """Look at posts and propose how to learn from them. Writes nothing and asks nothing.

    Parameters
    ----------
    given : str
        A table, a folder or archive in a known layout, or a dataset of the hub.

    Raises
    ------
    DataError
        Where there are no posts, no label, no part that can be read, or no pictures where the table names some.
    """
    found = find_posts(given)
    draft = _Draft(given, found, asked or Asked())
    if found.examples:
        draft.take_examples()
    else:
        draft.take_columns()
    return draft.proposal()


class _Draft:
    """Settings in the making, with the comment of each by its dotted name."""

    def __init__(self, given: str, found: PostsFound, asked: Asked):
        self.given, self.found, self.asked = given, found, asked
        self.run = asked.run or run_name(given)
        self.settings: dict[str, Any] = {"run": self.run}
        self.comments: dict[str, str] = {"run": f"results go to runs/{self.run}/"}
        self.assumed = list(found.notes)
        self.warnings: list[str] = []
        self.columns: list[ColumnRole] = []
        self.labels: list[LabelFound] = []
        self.parts: list[str] = []
        self.n_pictures = 0
        self.source: dict[str, Any] = {"kind": found.kind, **found.options}

    # What there is -----------------------------------------------------------------------------------

    def take_columns(self) -> None:
        """A table: its columns find their roles."""
        self.columns = find_roles(self.found.columns, self.asked.roles)
        by_role: dict[str, list[ColumnRole]] = {}
        for column in self.columns:
            by_role.setdefault(column.role, []).append(column)
            if column.warning:
                self.warnings.append(f"column {column.name} {column.warning}")
        for role in ("id", "group", "split"):
            if chosen := by_role.get(role):
                self._set(role, chosen[0].name, chosen[0].why)
        if texts := by_role.get(TEXT):
            names = [column.name for column in self._in_order(texts)]
            self._set(TEXT, names[0] if len(names) == 1 else names, "; ".join(dict.fromkeys(c.why for c in texts)))
            self.parts.append(TEXT)
            self._warn_of_texts(names)
        if images := by_role.get(PICTURE):
            self._take_pictures(images[0])
        if records := by_role.get("record"):
            self._set(RECORD, [column.name for column in records], "numbers and categories that come with a post")
            self.parts.append(RECORD)
        if not self.parts:
            there = listed([f"{column.name} ({column.why})" for column in self.columns])
            raise DataError(
                f"{self.given} has no text, picture or record to learn from; columns: {there}: name one with --text"
            )
        self._take_labels([column for column in self.columns if column.label])
        if personal := [c.name for c in self.columns if c.role == "not read" and "looks personal" in c.warning]:
            self.source["drop"] = personal
            self.comments["source.drop"] = "look personal: neither fed nor kept in the run's folder"
        kept = [
            column.name
            for column in self.columns
            if column.role in ("not read", "time") and column.name not in personal
        ]
        if kept:
            self.comments["source.kind"] = f"not fed, kept beside each post: {listed(kept)}"

    @staticmethod
    def _in_order(texts: Sequence[ColumnRole]) -> list[ColumnRole]:
        """A title before what stands below it."""
        return sorted(texts, key=lambda column: not re.search("title|headline|subject", column.name.lower()))

    def _set(self, option: str, value: Any, why: str) -> None:
        self.source[option] = value
        self.comments[f"source.{option}"] = why

    def _warn_of_texts(self, names: Sequence[str]) -> None:
        for name in names:
            for kind, n in personal_in_texts(str(cell) for cell in self.found.columns[name] if cell).items():
                self.warnings.append(f"column {name} holds {kind} in {n:,} posts, and is fed as it is")

    def _take_pictures(self, column: ColumnRole) -> None:
        cells = [cell for cell in self.found.columns[column.name] if cell]
        if FILE in cells:
            if self.found.kind == "table":
                self.warnings.append(f"column {column.name} holds pictures inside the table, which `kind: hub` reads "
                                     "from a folder of such files; they are left out here")  # fmt: skip
                return
        else:
            place = find_pictures([str(cell) for cell in cells], Path(self.given), self.asked.images)
            if place.images:
                self._set("images", place.images, place.why)
                self.assumed.append(f"pictures are looked up in {place.images}: {place.why}")
        self._set(PICTURE, column.name, column.why)
        self.parts.append(PICTURE)
        self.n_pictures = round(len(cells) / max(len(self.found.columns[column.name]), 1) * self.found.rows)

    def _take_labels(self, columns: Sequence[ColumnRole]) -> None:
        maps: dict[str, Any] = {}
        for column in columns:
            label = column.label
            assert label is not None
            self.labels.append(label)
            spec: dict[str, Any] = {"column": column.name}
            if label.map:
                spec["map"] = dict(label.map)
                positive = next(value for value, one in label.map.items() if one == 1)
                self.assumed.append(f"label {label.name}: {positive!r} is the positive class, {column.why}")
            else:
                self.assumed.append(f"label {label.name}: {column.why}")
            for option in ("above", "min_rows"):
                if (value := getattr(label, option)) is not None:
                    spec[option] = value
            if label.min_rows is None and not label.map and label.above is None and label.name not in LABELS:
                spec["classes"] = sorted(label.counts)
            maps[label.name] = spec
            self.comments[f"source.labels.{label.name}"] = column.why
        self.source["labels"] = maps

    def take_examples(self) -> None:
        """A layout whose columns are known: its parts and labels are read off the first posts."""
        examples = self.found.examples
        for part in (TEXT, PICTURE, RECORD):
            n = sum(part in example.parts for example in examples)
            if n:
                self.parts.append(part)
                self.n_pictures = n if part == PICTURE else self.n_pictures
        self.comments["source.kind"] = f"a published layout, which {len(examples):,} of {self.found.rows:,} rows fit"
        for name in dict.fromkeys(name for example in examples for name in example.labels):
            counts = _counted(example.labels.get(name) for example in examples)
            if len(counts) > 1:
                classes = {value: int(value) for value in counts} if set(counts) == {"0", "1"} else {}
                self.labels.append(LabelFound(name, counts, map=classes))
        if not self.labels:
            raise DataError(
                f"{self.given} ({self.found.kind}) has no label with rows of two classes: nothing can be learned"
            )
        del self.labels[1:]
        others = [name for name in examples[0].labels if name != self.labels[0].name]
        if others:
            self.assumed.append(
                f"label {self.labels[0].name} is learned; there are {', '.join(others)} too: `labels: [...]`"
            )

    # What to do with it --------------------------------------------------------------------------------

    def proposal(self) -> Proposal:
        self._name_labels()
        self.settings["seed"] = 0
        self.settings["limit"] = None
        self.comments["limit"] = "50 = a first try, on the first 50 rows"
        self.settings["source"] = self.source
        self._choose_splits()
        self.settings["modalities"] = self.parts
        self._choose_experts()
        if len(self.parts) > 1:
            self.settings["fusion"] = {"strategy": "auto"}
            self.comments["fusion"] = "compares every strategy that learns in seconds; `concat` is the plainest"
        self._choose_decision()
        config = parse_config(self.settings, f"the configuration proposed for {self.given}")
        cost, minutes = self._cost(config)
        return Proposal(
            self.run,
            render(self.settings, self.comments, self._head(cost)),
            config,
            self.columns,
            self.found.rows,
            self.assumed,
            self.warnings,
            cost,
            minutes,
        )

    def _name_labels(self) -> None:
        names = [label.name for label in self.labels]
        if len(names) == 1:
            self.settings["label"] = names[0]
        else:
            self.settings["labels"] = names
            self.comments["labels"] = "all from one pass of each encoder; the first one leads"

    def _choose_splits(self) -> None:
        """Shares of val and test by what the rarest class has: each should see `FEW` rows of it."""
        rarest = min((n for label in self.labels for n in _class_counts(label).values()), default=0)
        if self.found.bad:
            self.assumed.append(f"{self.found.bad:,} rows cannot be read: `bifocal inspect` says why")
        shares = {"val": 0.1, "test": 0.2} if rarest >= 10 * FEW else {"val": 0.2, "test": 0.2}
        splits: dict[str, Any] = dict(shares)
        why = "shares of groups that are kept aside to tune and to test on"
        if rarest < FEW:
            splits = {"val": 0.0, "test": 0.0}
            why = f"a class has {rarest} rows, too few to keep any aside: figures are of rows that were learned from"
            self.warnings.append(
                f"a class has {rarest} rows: too few to test on; some {10 * FEW} of each say something"
            )
        elif rarest * min(shares.values()) >= FEW / 2:
            splits = {"by": "hash", **splits}
            why += ", by their content: each stays where it is as posts are added"
        else:  # a hash does not balance classes, and may leave a split without one
            why += ", classes balanced; `by: hash` once there are more, and each stays where it is as posts are added"
        self.settings["splits"] = splits
        self.comments["splits"] = why

    def _choose_experts(self) -> None:
        experts: dict[str, Any] = {}
        for part in self.parts:
            if part == TEXT:
                experts[part] = {"encoder": "tfidf_text"}
                why = f"words counted: nothing to download. Pretrained: {{model: base}} is mDeBERTa-v3, {_OTHERS}"
            elif part == PICTURE:
                base = str(_base_model(PICTURE))
                if _is_cached(base):
                    experts[part] = {"model": "base", "tune": "head"}
                    why = f"{base}, which is on this machine, as it is; with a GPU `tune: full`"
                else:
                    experts[part] = {"model": "tiny", "epochs": 8, "learning_rate": 1e-3}
                    why = f"{_FROM_SCRATCH}. Pretrained: {{model: base, tune: head}} is SigLIP, {_OTHERS}"
            else:
                small = self.found.rows < SMALL
                experts[part] = {"encoder": "linear_tabular" if small else "auto"}
                why = "`auto` compares three encoders" if small else "three encoders are compared"
            self.comments[f"experts.{part}"] = why
        if PICTURE in self.parts:
            there = util.find_spec("rapidocr") is not None
            self.settings["ocr"] = "auto" if there else "never"
            self.comments["ocr"] = (
                "words on pictures are read; `never` skips that"
                if there
                else "pip install 'bifocal[ocr]', then `auto` reads the words on pictures"
            )
        self.settings["experts"] = experts

    def _choose_decision(self) -> None:
        binary = [label.name for label in self.labels if label.binary]
        rule = {"threshold": {"by": "macro_f1"}}
        if not binary:
            return
        why = "suits both classes; `{by: precision, bound: 0.9}` keeps false alarms low (docs/decisions.md)"
        mixed = len(binary) < len(self.labels)
        self.settings["decide"] = {**dict.fromkeys(binary, rule), "default": {}} if mixed else rule
        self.comments["decide"] = why

    # What it costs ---------------------------------------------------------------------------------------

    def _cost(self, config: RunConfig) -> tuple[str, float | None]:
        rows = self.found.rows
        about = f"{rows:,} rows" if self.found.whole else f"over {rows:,} rows; costs are of so many"
        read = self.n_pictures * PICTURE_SECONDS + rows * TEXT_SECONDS
        ocr = self.n_pictures * OCR_SECONDS if config.ocr.when != "never" and PICTURE in self.parts else 0.0
        try:
            work = Context.of(config, Workspace(Path("runs") / self.run, self.run), Reporter())
            gflops, device = measured_gflops()
            shares = config.splits
            experts, notes = expert_costs(work, rows, round(rows * (1 - shares.val - shares.test)), gflops)
        except (BifocalError, ModuleNotFoundError) as error:
            return f"{about}; the time cannot be told here: {error}", None
        hours = sum(one["train_hours"] + one["evidence_hours"] for one in experts.values())
        minutes = FIXED_MINUTES + (read + ocr) / 60 + hours * 60
        self.assumed += notes
        names = ", ".join(f"{name} {one['parameters']:,} parameters" for name, one in experts.items())
        told = f"{about}; {names}; about {_minutes(minutes)} on this machine ({device})"
        return told + (
            f", {_minutes(ocr / 60)} of it reading words on {self.n_pictures:,} pictures" if ocr else ""
        ), minutes

    def _head(self, cost: str) -> list[str]:
        name = f"{self.run}.yaml"
        found = [f"assumed: {one}" for one in self.assumed] + [f"WARNING: {one}" for one in self.warnings]
        return [
            f"Proposed by `bifocal init` for {self.given}. Change what you know better; `bifocal run {name}` trains,",
            f"and `bifocal inspect {name}` tells of every row that cannot be used. Cost, roughly: {cost}",
            *found,
        ]


def run_name(given: str) -> str:
    """What a run of these posts is called: as their file or folder."""
    stem = PurePath(given.rstrip("/")).name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "posts"


def _counted(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        if value is not None:
            counts[str(value)] = counts.get(str(value), 0) + 1
    return counts


def _class_counts(label: LabelFound) -> Mapping[str, int]:
    if label.above is not None:
        cells = [value for value, n in label.counts.items() for _ in range(n)]
        return _counted(label.classes_of(cells))
    counts: Counter[str] = Counter()
    for value, n in label.counts.items():
        if (of := label.map.get(value, value)) is not None and n >= (label.min_rows or 1):
            counts[str(of)] += n
    return counts


def _base_model(part: str) -> str:
    from ..models.encoders.hf_image import HfImage
    from ..models.encoders.hf_text import HfText

    return {TEXT: HfText.base, PICTURE: HfImage.base}[part]


def _is_cached(model: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(model, name), str) for name in ("config.json", "model.safetensors"))


def _minutes(minutes: float) -> str:
    if minutes >= 90:
        return f"{minutes / 60:.1f} hours"
    return f"{max(1, round(minutes))} minute{'s' if round(minutes) > 1 else ''}"
