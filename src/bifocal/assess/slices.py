"""What a run knows of its tested rows beside their labels, cut into slices: columns, words, bins and clusters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import SlicesConfig, at_home
from ..data.compose import TEXT
from ..decide.policy import Policy
from ..errors import ConfigError, listed, nearest
from ..evaluate.slices import measure_gaps, measure_slices
from ..example import UNLABELLED, Label, Taxonomy
from ..modalities.text import TAG, clean
from ..workspace import read_jsonl
from .predictions import Opinions, calibrated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..data.shards import Split

    Rows = NDArray[np.bool_]

DISTINCT = 8
"""A column of more different numbers is cut into bins."""
MOST_BINS = 4
COMMONEST = 20
"""Of more values only these have a slice of their own; the others share one."""
UNKNOWN = "not given"
OTHERS = "others"
TARGET = "target_type"
"""The label of the taxonomy that says whom a post speaks of."""
NO_GROUP = ("", "none")
"""Values of such a column, beside a missing one, that say that it speaks of no group."""


def measure_parts(
    split: Split,
    said: Opinions,
    texts: Sequence[str],
    policy: Policy,
    models: Sequence[str],
    label: Label,
    taxonomy: Taxonomy,
    config: SlicesConfig,
    *,
    ocr: Path,
    clusters: Mapping[str, int],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The last model, calibrated and at the policy's thresholds, on parts of a split.

    Parameters
    ----------
    split, said, texts : of the same rows
        Texts are composed, empty where absent.
    ocr : Path
        ``ocr.jsonl``
    clusters : group -> rows of it in the whole run
    resamples, seed
        As `measure_slices`.

    Returns
    -------
    dict
        ``slices``: as `measure_slices`, or null where no row has a label; ``fairness``: as `measure_gaps`, with ``by``
        (where groups come from), or null where nothing says whom a post speaks of, or the label has no such rates.
        Values that only rows without a label bear are named, with no rows.

    Raises
    ------
    ConfigError
        As `read_columns` and `read_terms`.
    """
    model = models[-1]
    known = said.has[model] & (said.labels != UNLABELLED)
    if not known.any():
        return {"slices": None, "fairness": None}
    enough = math.ceil(config.min_rows / known.mean())
    columns = read_columns(split, taxonomy, config)
    common = {
        "language": columns["language"],
        "text_length": [len(" ".join(TAG.sub(" ", text).split())) or "no text" for text in texts],
        "ocr_confidence": _confidences(split.ids, ocr),
        "presence": [pattern or "nothing" for pattern in said.patterns],
        TARGET: columns.get(TARGET, []) if policy.label != TARGET else [],
        "agreement": _agreement(said, policy, models),
        "source": columns["source"],
        "near_duplicates": ["alone" if clusters[g] == 1 else "in a cluster" for g in said.groups],
    }
    asked = {name: columns[name] for name in config.columns}
    slices: dict[tuple[str, str], Rows] = {}
    for name, values in (common | asked).items():
        found = cut(values, enough)
        if name in asked or len(found) > 1:
            slices |= {(name, value): rows[known] for value, rows in found.items()}
    probabilities, predictions = (a[known] for a in calibrated(said, policy, model))
    judged = said.labels[known], probabilities, predictions, [g for g, k in zip(said.groups, known, strict=True) if k]
    settings: dict[str, Any] = {
        "rates_of": None if config.rates_of is None else label.index(config.rates_of),
        "min_rows": config.min_rows,
        "resamples": resamples,
        "seed": seed,
    }
    fairness = None
    by = config.terms or config.groups or (TARGET if policy.label != TARGET else None)
    if by is not None and (label.binary or config.rates_of is not None):
        speaks = mentions(texts, read_terms(by)) if config.terms else _spoken_of(columns.get(by, []), enough)
        if speaks:
            members = {group: rows[known] for group, rows in speaks.items()}
            fairness = {"by": by, **measure_gaps(*judged, members, **settings)}
    return {"slices": measure_slices(*judged, slices, **settings), "fairness": fairness}


def check_slices(config: SlicesConfig, label: Label, modalities: Sequence[str]) -> None:
    """Refuse at once what can be known before any row is read. Raises `ConfigError`."""
    if config.terms is not None:
        read_terms(config.terms)
        if TEXT not in modalities:
            raise ConfigError(f"slices.terms are looked for in the part {TEXT!r}, which is not among modalities")
    if (config.terms or config.groups) and not label.binary and config.rates_of is None:
        raise ConfigError(
            f"slices.{'terms' if config.terms else 'groups'} compares error rates, and a label of several classes has "
            f"them class by class: name one of {listed([*map(str, label.classes)])} in slices.rates_of"
        )
    if config.rates_of is not None and (label.binary or config.rates_of not in label.classes):
        classes = "a binary label has its two rates anyway" if label.binary else ""
        known = classes or nearest(str(config.rates_of), map(str, label.classes))
        raise ConfigError(f"slices.rates_of = {config.rates_of!r} is no class to hold against the rest; {known}")


def read_columns(split: Split, taxonomy: Taxonomy, config: SlicesConfig) -> dict[str, list[Any]]:
    """Column -> its value on each row of a split, None where it has none; reads every row's record once.

    Holds the columns asked for, ``language``, ``source`` and, where any row bears it, `TARGET`.

    Raises
    ------
    ConfigError
        Where a column asked for is neither a label nor borne by any row, with the nearest that is; or where it holds
        records.
    """
    asked = dict.fromkeys([*config.columns, *([config.groups] if config.groups else [])])
    columns: dict[str, list[Any]] = {name: [] for name in ("language", "source", TARGET, *asked)}
    known = set(taxonomy.labels)
    for row in range(len(split)):
        record = split.record(row)
        known |= record.meta.keys()
        for name, values in columns.items():
            values.append(record.labels.get(name) if name in taxonomy.labels else record.meta.get(name))
    for name in asked:
        if name not in known - {"facts"}:
            raise ConfigError(f"slices: no tested row bears a column {name!r}; {nearest(name, known - {'facts'})}")
        if any(isinstance(value, dict) for value in columns[name]):
            raise ConfigError(
                f"slices: column {name!r} holds records: name a column of texts, numbers or lists of them"
            )
    if TARGET not in asked and all(value is None for value in columns[TARGET]):
        del columns[TARGET]
    return columns


def read_terms(path: str | Path) -> dict[str, list[str]]:
    """Group -> its words, from a text file: ``group: term, term`` or one term a line, which names its group itself.

    Empty lines and those that begin with ``#`` are left out, and so is a byte-order mark. Raises `ConfigError` naming
    the file, or the line.
    """
    try:
        lines = at_home(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"slices.terms: {str(path)!r} cannot be read ({reason}): give a text file of words") from None
    found: dict[str, list[str]] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        group, colon, listed = line.partition(":")
        terms = [term for term in (_folded(term) for term in (listed.split(",") if colon else [line])) if term]
        if not terms or not group.strip():
            raise ConfigError(f"slices.terms: {path}, line {number} names no term: write `group: term, term`")
        found.setdefault(group.strip(), []).extend(terms)
    if not found:
        raise ConfigError(f"slices.terms: {path} holds no terms: write one a line, or `group: term, term`")
    return found


def mentions(texts: Sequence[str], terms: Mapping[str, Sequence[str]]) -> dict[str, Rows]:
    """Group -> whether each text ``[n]`` holds one of its words, as a whole word in any case; tags are no words."""
    found = {group: np.zeros(len(texts), dtype=bool) for group in terms}
    any_of = _whole_words(term for group in terms.values() for term in group)
    each = {group: _whole_words(words) for group, words in terms.items()}
    for row, text in enumerate(texts):
        folded = TAG.sub(" ", text).casefold()
        if any_of.search(folded):
            for group, words in each.items():
                found[group][row] = words.search(folded) is not None
    return found


def _folded(term: str) -> str:
    return clean(term).casefold()


def _whole_words(terms: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, terms))})(?!\w)")


def cut(values: Sequence[Any], min_rows: int) -> dict[str, Rows]:
    """The slices of a column, ``[n]`` each, by name; a list puts its row into several.

    More than `DISTINCT` different numbers are cut into bins with as many rows each, two to `MOST_BINS` of them so that
    each has twice ``min_rows`` where it can, named by the least and the greatest number in them.
    """
    members = [value if isinstance(value, list | tuple) else [value] for value in values]
    numbers = np.array([_number(row[0]) if len(row) == 1 else np.nan for row in members], dtype=float)
    there = ~np.isnan(numbers)
    if len(np.unique(numbers[there])) <= DISTINCT:
        there[:] = False
    found = _bins(numbers, there, min_rows) if there.any() else {}
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(~there).tolist():
        for name in {UNKNOWN if value is None else _spelt(value) for value in members[row] or [None]}:
            rows_of.setdefault(name, []).append(row)
    ranked = sorted(rows_of, key=lambda name: (-len(rows_of[name]), name))
    kept = ranked if len(ranked) <= COMMONEST + 1 else ranked[:COMMONEST]
    for name in ranked:
        found.setdefault(name if name in kept else OTHERS, np.zeros(len(values), dtype=bool))[rows_of[name]] = True
    return found


def _number(value: Any) -> float:
    """A number as such; nan for anything else, truth values included."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


def _spelt(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bins(numbers: NDArray[np.float64], there: Rows, min_rows: int) -> dict[str, Rows]:
    count = int(np.clip(there.sum() // (2 * min_rows), 2, MOST_BINS))
    values = np.unique(numbers[there])
    # Where many rows share the greatest number, the others still have a bin.
    edges = np.unique(np.quantile(numbers[there], np.arange(1, count) / count).clip(max=values[-2]))
    place = np.searchsorted(edges, numbers, side="left")
    bins = [rows for b in range(len(edges) + 1) if (rows := there & (place == b)).any()]
    for digits in (4, 17):  # the shorter where that tells the bins apart
        ends = [(_shown(numbers[rows].min(), digits), _shown(numbers[rows].max(), digits)) for rows in bins]
        if len(set(ends)) == len(bins):
            break
    return {f"{low} to {high}": rows for (low, high), rows in zip(ends, bins, strict=True)}


def _shown(number: float, digits: int) -> str:
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e15 else f"{number:.{digits}g}"


def _confidences(ids: Sequence[str], ocr: Path) -> list[Any]:
    """How sure OCR was of each row's picture."""
    wanted = set(ids)
    read = {row["id"]: row["confidence"] for row in read_jsonl(ocr) if row["id"] in wanted} if ocr.is_file() else {}
    told = {None: "no words found"}
    return [told.get(read[i], read[i]) if i in read else "not read" for i in ids]


def _agreement(said: Opinions, policy: Policy, models: Sequence[str]) -> list[str]:
    """Whether all models with an opinion predict the same of a row."""
    predictions = np.stack([calibrated(said, policy, model)[1] for model in models])
    has = np.stack([said.has[model] for model in models])
    low = np.where(has, predictions, np.iinfo(int).max).min(axis=0)
    high = np.where(has, predictions, -1).max(axis=0)
    return np.where(has.sum(axis=0) < 2, "one opinion", np.where(low == high, "agree", "differ")).tolist()


def _spoken_of(values: Sequence[Any], min_rows: int) -> dict[str, Rows]:
    """Group -> whether each row speaks of it, by a column."""
    found = cut(values, min_rows)
    return {name: rows for name, rows in found.items() if name != UNKNOWN and name.casefold() not in NO_GROUP}
