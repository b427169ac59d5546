"""What a source holds, said before anything is trained: counts, labels, languages, sizes, duplicates, bad rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .. import plugins
from ..config import RunConfig, SourceConfig, load_config, packaged_configs, parse_config, read_mapping, recorded_config
from ..contracts import Modality
from ..data.compose import compose_manifest
from ..data.dedup import duplicate_groups, picture_hash, rows_in_shared_groups, rows_with_near_duplicates
from ..data.manifest import read_manifest, temporary_manifest
from ..data.splits import leaking_rows
from ..errors import ConfigError
from ..example import SPLITS, Example, Rejected, Taxonomy
from ..files.folders import Files, from_folder
from ..files.post_table import is_below, picture_places
from ..files.tables import is_table, read_rows
from ..modalities import PICTURE, TEXT, every_modality, inputs
from ..modalities.text import clean
from ..models.column_types import CellCounts, described
from ..models.tabular import TabularOptions, summary_of
from ..sources import build_source, taxonomy_of
from ..sources.feedback import ROWS as FEEDBACK
from ..system.bundle import CARD, is_bundle
from ..workspace import RECORD, read_json, read_jsonl

NUMBER, WORDS = "number", "text"
"""What a cell of a column holds, as the findings name it."""
SHOWN = 10
"""Languages, formats and quarantined rows that are named."""
LOOKED_AT = 50
"""Rows whose pictures are looked up to tell where those of a table lie."""
MOST_VALUES = 1000
"""Distinct values of a column that are told apart; more are counted as this many."""


def source_of(given: str) -> RunConfig:
    """The configuration around a source named on the command line.

    Parameters
    ----------
    text : str
        A configuration file, or a source as in one: ``{kind: table, root: posts.csv, text: body}``.

    Raises
    ------
    ConfigError
        Where it is neither.
    """
    if Path(given).suffix in (".yaml", ".yml") or given in packaged_configs():
        return load_config(given)
    if given.lstrip().startswith(("{", "[")):
        content = read_mapping(f"{{source: {given}}}", "SOURCE")
        return parse_config({"run": "inspect", **content})
    raise ConfigError(
        f"SOURCE is a configuration file (.yaml) or a source such as '{{kind: table, root: posts.csv, text: body}}', "
        f"found {given!r}; kinds: {', '.join(plugins.names('sources'))}"
    )


def posts_of(given: str, models: Sequence[Path]) -> SourceConfig:
    """Posts named on the command line for models that are there: labelled as their own, or not at all.

    Parameters
    ----------
    given : str
        What `source_of` takes; a folder that ``bifocal feedback export`` wrote, of which the sampled rows are taken; or
        a table, in whose columns the run's own source finds what it does in its own, or ``id``, ``text``, ``image`` and
        the labels by their names.
    models : sequence of path
        The first run or bundle among them is asked for its source.

    Raises
    ------
    ConfigError, DataError
        As `source_of`, and where the table cannot be read.
    """
    path = Path(given)
    if (path / FEEDBACK).is_file():
        return SourceConfig.model_validate({"kind": "feedback", "root": given, "sampled": True})
    run = next((found for folder in models if (found := _config_in(folder)) is not None), None)
    if run is None or not (path.is_file() and is_table(path.name)):
        return source_of(given).source
    own: Mapping[str, Any] = next((one for one in run.source.members if one["kind"] == "table"), {})
    place = path.resolve()
    rows = (row for _, row in read_rows(Files(place.parent), place.name) if not isinstance(row, Rejected))
    first = list(islice(rows, LOOKED_AT))
    columns = set(first[0] if first else {})
    how = ("delimiter", "encoding", "quotes", "missing", "missing_text", "images", "drop")
    kept: dict[str, Any] = {"kind": "table", "root": given, **{name: own[name] for name in how if name in own}}
    for option in ("id", *inputs(), "group"):
        for named in (own.get(option), option):  # the run's column, else one that is called as the option
            there = [name for name in ([named] if isinstance(named, str) else named or []) if name in columns]
            if there or named == "rest":
                kept[option] = named if isinstance(named, str) else there
                break
    if isinstance(column := kept.get(PICTURE), str):  # looked up as `bifocal score` does
        names = [from_folder(str(row[column]), place.parent) for row in first if row.get(column)]
        places = picture_places(place, own if is_below(place, own) else None, own, None)
        kept["images"] = str(max(places, key=lambda files: sum(map(files.has, names))).root.absolute())
    asked = own.get("labels") or {}
    labels = {name: asked[name] for name in asked if _column_of(asked[name]) in columns}
    labels |= {name: name for name in run.label_names if name in columns and name not in labels}
    return SourceConfig.model_validate({**kept, "labels": labels})


def _config_in(folder: Path) -> RunConfig | None:
    """That of a run or bundle."""
    record = folder / (CARD if is_bundle(folder) else RECORD)
    return recorded_config(read_json(record)["config"], where=str(record)) if record.is_file() else None


def _column_of(label: Any) -> Any:
    return label.get("column") if isinstance(label, Mapping) else label


def inspect(
    config: RunConfig, *, limit: int | None = None, progress: Callable[[int, int | None], None] | None = None
) -> dict[str, Any]:
    """Read every row of a configuration's source as a run would, and keep nothing but figures.

    Returns
    -------
    dict
        ``source``; ``rows, usable, quarantined``; ``reasons`` (of what would be quarantined) and ``quarantine`` (its
        first rows); ``splits`` (official); ``parts`` (which come together); ``labels`` (name -> class -> rows);
        ``notes`` (what had to be guessed, and texts that may stand for nothing); ``languages``; ``words`` and
        ``pictures`` (quantiles), ``columns`` and ``records`` (the cells of records, and how a run over all rows would
        read each column: ``kind``, ``missing``, ``odd``, ``told``); ``duplicates``.

    Raises
    ------
    DataError
        Where the source as a whole cannot be read.
    """
    source = build_source(config.source)
    taxonomy = taxonomy_of(source)
    modalities = every_modality(config)
    read = temporary_manifest(source, modalities, taxonomy, limit=limit or config.limit, progress=progress)
    with read as (manifest, quarantine, counts):
        rejected = [
            {"id": row["id"], "where": row["where"], "reason": row["reason"]}
            for row in islice(read_jsonl(quarantine), SHOWN)
        ]
        return {
            "source": config.source.model_dump(mode="json"),
            "rows": counts["examples"] + counts["quarantined"],
            "usable": counts["examples"],
            "quarantined": counts["quarantined"],
            "reasons": counts["reasons"],
            "quarantine": rejected,
            "notes": counts["notes"],
            "splits": counts["by_split"],
            **_figures(lambda: read_manifest(manifest), taxonomy, modalities, config),
            **_duplicates(compose_manifest(manifest, {}, source.role_of)),
        }


def _figures(
    rows: Callable[[], Iterator[Example]], taxonomy: Taxonomy, modalities: Mapping[str, Modality], config: RunConfig
) -> dict[str, Any]:
    parts: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    values: dict[str, Counter[str]] = {name: Counter() for name in taxonomy.labels}
    numbers: dict[str, list[float]] = {name: [] for name, label in taxonomy.labels.items() if label.above is not None}
    words: list[int] = []
    widths: list[int] = []
    heights: list[int] = []
    animated = 0
    columns: dict[str, _Column] = {}
    records, options = 0, TabularOptions()
    for example in rows():
        parts[" + ".join(sorted(example.parts))] += 1
        for name, value in example.labels.items():
            if name in numbers and isinstance(value, int | float):
                numbers[name].append(value)
            elif value is not None:
                values[name][str(value)] += 1
        if TEXT in example.parts:
            words.append(len(clean(example.parts[TEXT]).split()))
        for name, facts in example.meta["facts"].items():
            if "width" in facts:
                widths.append(facts["width"])
                heights.append(facts["height"])
                formats[facts["format"]] += 1
                animated += facts["frames"] > 1
            if isinstance(record := example.parts[name], Mapping):
                records, options = records + 1, _options(config, name)
                for column, value in modalities[name].read(record).items():
                    columns.setdefault(column, _Column()).add(value)
    total = parts.total()
    labels: dict[str, Any] = {}
    for name, counted in values.items():
        if counted:
            labels[name] = {**dict(sorted(counted.items())), "not annotated": total - counted.total()}
    for name, found in numbers.items():
        if found:
            labels[name] = {
                "number": _quantiles(found),
                "above": taxonomy[name].above,
                "not annotated": total - len(found),
            }
    return {
        "parts": dict(parts.most_common()),
        "labels": labels,
        "words": _quantiles(words),
        "pictures": {
            "width": _quantiles(widths),
            "height": _quantiles(heights),
            "formats": dict(formats.most_common(SHOWN)),
            "animated": animated,
        }
        if widths
        else {},
        "columns": {name: column.figures(total) for name, column in columns.items()},
        "records": {name: column.reading(name, records, options) for name, column in columns.items()},
    }


def _options(config: RunConfig, modality: str) -> TabularOptions:
    """What a configuration says of the columns of its records."""
    given = config.expert(modality).options
    return TabularOptions(**{option: given[option] for option in given.keys() & TabularOptions.model_fields.keys()})


class _Column:
    """What the cells of one column are like, in constant memory."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.values: Counter[str] = Counter()
        self.cells = CellCounts()

    def add(self, value: Any) -> None:
        self.cells.add(value)
        if value is None or value == "":
            return
        self.kinds[NUMBER if _is_number(value) else WORDS] += 1
        if len(self.values) < MOST_VALUES or str(value) in self.values:
            self.values[str(value)] += 1

    def figures(self, total: int) -> dict[str, Any]:
        return {
            **dict(self.kinds),
            "missing": total - self.kinds.total(),
            "distinct": f"{MOST_VALUES} or more" if len(self.values) == MOST_VALUES else len(self.values),
        }

    def reading(self, name: str, records: int, options: TabularOptions) -> dict[str, Any]:
        """How a run that trained on all ``records`` would read it."""
        for _ in range(records - self.cells.counts["rows"]):  # records that lack the column
            self.cells.add(None)
        column = summary_of(self.cells, name, options)
        refused = column.two_readings.replace("NAME", name)
        frequent = max(self.values.values(), default=0)
        dropped = ""
        if frequent == records:
            dropped = "the same in every row"
        elif not frequent or (column.kind == "category" and frequent < options.min_count):
            dropped = f"no value stands in {options.min_count} rows" if frequent else "empty in every row"
        return {
            "kind": None if refused or dropped else column.kind,
            "missing": column.missing,
            "odd": column.odd,
            "told": f"column {name}: {refused}" if refused else described(name, column, dropped),
        }


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and bool(np.isfinite(float(value)))
    except (TypeError, ValueError):
        return False


def _duplicates(examples: Iterator[Example]) -> dict[str, Any]:
    ids, texts, hashes, own, official = [], [], [], [], []
    languages: Counter[str] = Counter()
    for example in examples:
        ids.append(example.id)
        texts.append(example.parts.get(TEXT, ""))
        hashes.append(picture_hash(example))
        own.append(example.group)
        official.append(example.split)
        if TEXT in example.parts:
            languages[example.meta["language"]] += 1
    groups = duplicate_groups(ids, texts, hashes, own)
    sizes = Counter(groups)
    leaks: Counter[str] = Counter()
    rows = [i for i, split in enumerate(official) if split is not None]
    for i, leak in zip(rows, leaking_rows([groups[i] for i in rows], [str(official[i]) for i in rows]), strict=True):
        leaks[str(official[i])] += leak
    return {
        "languages": dict(languages.most_common(SHOWN)),
        "duplicates": {
            "groups": len(sizes),
            "near": rows_with_near_duplicates(ids, texts, hashes, own, groups),
            "rows_in_shared_groups": rows_in_shared_groups(groups),
            "largest_group": max(sizes.values(), default=0),
            "leaking": {split: leaks[split] for split in SPLITS if leaks[split]},
        },
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    """Least, median, 95% and most; empty where there is none."""
    if not len(values):
        return {}
    found = np.quantile(np.asarray(values, dtype=float), [0, 0.5, 0.95, 1])
    return dict(zip(("min", "median", "p95", "max"), (round(float(v), 4) for v in found), strict=True))
