"""What each column of somebody's table is most likely for, told by its name and its cells, with the reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from statistics import median
from typing import Any, Literal

from ..errors import DataError, nearest
from ..example import LABELS, NOTHING, is_nothing
from ..files.columns import SPLIT_NAMES, to_json_value
from ..files.labels import MAX_CLASSES
from ..files.names import PICTURES
from ..files.tables import NAMELESS
from ..modalities import PICTURE, TEXT
from ..models.column_types import CellCounts, ColumnSummary, parse_number
from .leaking_columns import LEAK, label_given_away
from .personal_data import personal_kind, words_of

Role = str
"""The name of a part (text, image), or ``record``, ``label``, ``id``, ``group``, ``time``, ``split``, ``not read``."""

FILE = "a file inside the table"
"""What `find_roles` is given in the place of the bytes of a picture."""
MOST_CLASSES = 20
_TEXTS = (
    *("title", "headline", "subject", TEXT, "body", "comment", "message", "content", "caption", "post", "tweet"),
    *("description", "sentence", "utterance", "question", "review", "words", "transcript", "reply", "prompt"),
)
_PICTURES = {PICTURE, "img", "picture", "photo", "pic", "thumbnail", "meme", "screenshot", "media"}
_TIMES = {"date", "time", "datetime", "timestamp", "created", "posted", "published", "updated"}
_AUTHORS = ("author", "user", "username", "account", "poster", "sender", "profile", "handle", "owner", "uploader")
_THREADS = ("thread", "conversation", "channel", "host", "parent", "reply", "community", "subreddit", "forum", "page")
_IDS = {"id", "uuid", "guid", "uid", "key", "pk", "index"}
_LABELS = {"label", "labels", "class", "target", "y", "gold", "groundtruth", *LABELS}
_LABELS |= {"hate", "hateful", "hatespeech", "toxic", "toxicity", "severetoxic", "obscene", "threat", "insult"}
_LABELS |= {"identityhate", "abuse", "abusive", "offensive", "spam", "sexist", "sexism", "racist", "racism", "nsfw"}
_LABELS |= {"misogynous", "harassment", "violent", "violence", "harmful", "bullying", "profanity", "aggressive"}
_OUTCOMES = {"category", "verdict", "decision", "outcome", "annotation", "judgement", "judgment", "moderation"}
_OUTCOMES |= {"action", "removed", "flag", "flagged", "blocked", "violation", "violates", "sentiment", "severity"}
_NEGATIVE = re.compile(
    r"(?:not?|non|un|no)[\W_].*|non\w+|none|no|n|f|off|false|neutral|normal|benign|clean|ok|okay|safe|ham|negative|neither|"
    r"allow(?:ed)?|approved?|legit(?:imate)?|harmless|acceptable|0"
)
_UNANSWERED = re.compile(
    r"unsure|not[\W_]sure|unknown|unclear|undecided|undetermined|uncertain|ambiguous|maybe|skip(?:ped)?|pending|disputed|"
    r"can(?:no|')?t[\W_](?:tell|say|decide)|(?:un|not[\W_])(?:label+ed|annotated|rated|judged|reviewed)|to[\W_]?do|tbd|\?+"
)
"""Values beside two others that are no third class: whoever was asked did not answer."""
_YES_NO = ({"yes", "no"}, {"true", "false"}, {"y", "n"}, {"t", "f"}, {"0", "1"}, {"on", "off"})


@dataclass(frozen=True, slots=True)
class LabelFound:
    """How a column becomes a label: the options of `bifocal.files.labels.LabelMap`.

    Attributes
    ----------
    name : str
        Of the label: the column's, or another where that is taken by a label of other classes.
    counts : dict
        Value of the column -> rows, the most frequent first.
    map : dict
        Value -> class, or None of one that is no answer; empty = the values are the classes.
    above : float or "median", optional
        The column is a number that is cut in two.
    """

    name: str
    counts: Mapping[str, int]
    map: Mapping[str, int | None] = field(default_factory=dict)
    above: float | Literal["median"] | None = None
    min_rows: int | None = None

    @property
    def binary(self) -> bool:
        return bool(self.map) or self.above is not None

    def classes_of(self, cells: Sequence[Hashable | None]) -> list[Hashable | None]:
        """The class of each cell, as far as it is known before training; None of an empty one."""
        if self.above is None:
            written = [None if cell is None else _written(cell) for cell in cells]
            return [None if one is None else self.map.get(one, one) for one in written]
        numbers = [None if cell is None else as_number(cell) for cell in cells]
        known = [number for number in numbers if number is not None]
        cut = median(known) if self.above == "median" else self.above
        return [None if number is None else int(number > cut) for number in numbers]


@dataclass(frozen=True, slots=True)
class ColumnRole:
    """One column.

    Attributes
    ----------
    role : str
    why : str
        A phrase for people.
    warning : str
        What they should know before they train: it looks personal, or gives the label away.
    """

    name: str
    role: Role
    why: str
    warning: str = ""
    label: LabelFound | None = None


@dataclass(frozen=True, slots=True)
class AskedRoles:
    """What a person said of the columns; everything else is found out."""

    labels: Sequence[str] = ()
    texts: Sequence[str] = ()
    drop: Collection[str] = ()


def as_number(cell: Hashable) -> float | None:
    """A plain number; None of anything else."""
    try:
        return None if isinstance(cell, bool) else float(str(cell))
    except ValueError:
        return None


def find_roles(columns: Mapping[str, Sequence[Any]], asked: AskedRoles = AskedRoles()) -> list[ColumnRole]:
    """The role of every column, in the table's order.

    Parameters
    ----------
    columns : dict
        Column -> its cells, ``[n]`` each, as a reader gives them; `FILE` for a picture that lies in the table.

    Raises
    ------
    DataError
        Where a column is asked for that is not there, no column can be the label, or its rows are all of one class.
    """
    for option, names in (("--label", asked.labels), ("--text", asked.texts), ("--drop", asked.drop)):
        if absent := next((name for name in names if name not in columns), None):
            raise DataError(f"{option} {absent!r}: there is no such column; {nearest(absent, columns)}")
    looked = {name: _Column(name, cells) for name, cells in columns.items()}
    found: dict[str, ColumnRole] = {name: ColumnRole(name, "not read", "as asked") for name in asked.drop}
    open_ = {name: column for name, column in looked.items() if name not in found}
    for take in (_labels, _files, _empty, _splits, _ids, _personal, _groups, _times, _texts, _records):
        found |= take({name: column for name, column in open_.items() if name not in found}, asked)
    return _without_leaks([found[name] for name in columns], looked)


class _Column:
    """A column as the rules ask of it."""

    def __init__(self, name: str, cells: Sequence[Any]):
        self.name = name
        self.cells = [_cell(value) for value in cells]
        self.words = words_of(name)
        self.plain = "".join(self.words)
        self.present = [cell for cell in self.cells if cell is not None]
        self.counts = Counter(self.present)

    @property
    def n(self) -> int:
        return len(self.present)

    @property
    def distinct(self) -> int:
        return len(self.counts)

    @property
    def is_unique(self) -> bool:
        return self.n == len(self.cells) == self.distinct

    @cached_property
    def texts(self) -> list[str]:
        return [str(cell) for cell in self.present]

    @cached_property
    def summary(self) -> ColumnSummary:
        counts = CellCounts()
        for cell in self.cells:
            counts.add(cell)
        return counts.summarize()

    @cached_property
    def n_words(self) -> float:
        """At the median."""
        return median(len(text.split()) for text in self.texts) if self.texts else 0

    def share(self, is_so: Callable[[str], bool]) -> float:
        return sum(map(is_so, self.texts)) / max(self.n, 1)

    @property
    def named(self) -> str:
        """What of it is shown of a category or a number."""
        return f"{self.distinct:,} values"


def _cell(value: Any) -> Hashable | None:
    if isinstance(value, bytes):
        return FILE
    value = to_json_value(value)
    if isinstance(value, dict) and value.keys() & {"bytes", "path"}:
        return FILE
    if isinstance(value, dict | list):
        return str(value)
    if value is None or is_nothing(value, NOTHING):
        return None
    return value.strip() if isinstance(value, str) else value


Found = dict[str, ColumnRole]
Open = Mapping[str, _Column]

# The rules, in the order in which they take columns ---------------------------------------------------------------


def _labels(open_: Open, asked: AskedRoles) -> Found:
    if asked.labels:
        return {name: _as_label(open_[name], "as asked", must=True) for name in asked.labels}
    for names, why in ((_LABELS, "by its name"), (_OUTCOMES, "by its name")):
        by_name = [column for column in open_.values() if _is_called(column, names) and _can_be_label(column)]
        by_name = by_name if names is _LABELS else by_name[:1]
        if by_name:
            found = {column.name: _as_label(column, why) for column in by_name}
            rest = [c for c in open_.values() if c.name not in found and _is_called(c, _OUTCOMES) and _can_be_label(c)]
            told = "looks like what somebody decided on a post, which is not known when it comes in"
            return found | {column.name: ColumnRole(column.name, "not read", told) for column in rest}
    alone = [column for column in open_.values() if _yes_no(column) and column.distinct == 2]
    if len(alone) == 1:
        return {alone[0].name: _as_label(alone[0], "the only column of yes and no")}
    some = f" (of yes and no are {', '.join(column.name for column in alone)})" if alone else ""
    raise DataError(
        f"no column is known for a label by its name{some}: say which it is with --label COLUMN; "
        f"{nearest('label', open_)}. Without labels nothing can be learned"
    )


def _is_called(column: _Column, names: Collection[str]) -> bool:
    words = column.words[1:] if column.words[:1] in (["is"], ["has"]) else column.words
    return (
        "".join(words) in names
        or column.name.lower() in names
        or (column.words[:1] == ["label"] and all(word.isdecimal() for word in column.words[1:]))
        or (column.words[-1:] == ["label"])
    )


def _can_be_label(column: _Column) -> bool:
    few = 1 <= column.distinct <= min(MOST_CLASSES, max(2, column.n // 5))
    return few or (column.distinct > 1 and column.summary.kind == "number" and _is_called(column, _LABELS))


def _yes_no(column: _Column) -> bool:
    return 1 <= column.distinct <= 2 and any({text.lower() for text in map(str, column.counts)} <= s for s in _YES_NO)


def _as_label(column: _Column, why: str, must: bool = False) -> ColumnRole:
    counts = {_written(value): n for value, n in column.counts.most_common()}
    if len(counts) < 2:
        held = f"all {column.n:,} rows are {next(iter(counts))!r}" if counts else "it is empty"
        raise DataError(f"column {column.name!r} cannot be the label, {held}: it takes rows of two classes at least")
    name = re.sub(r"\W+", "_", column.name).strip("_") or "label"
    known = LABELS.get(name)
    if known and not known.binary and not set(counts) <= set(map(str, known.classes)):
        name, known = f"{name}_class", None
    if len(counts) > MOST_CLASSES:
        if column.summary.kind == "number":
            numbers = [number for value in column.counts if (number := as_number(value)) is not None]
            is_share = min(numbers) >= 0 and max(numbers) <= 1
            label = LabelFound(name, counts, above=0.5 if is_share else "median")
            return ColumnRole(
                column.name, "label", f"{why}; a number, {column.named}: above {label.above} is 1", label=label
            )
        if len(counts) > MAX_CLASSES or 2 * len(counts) > column.n:
            raise DataError(
                f"column {column.name!r} has {len(counts):,} values on {column.n:,} rows, which are no "
                "classes: name another with --label COLUMN"
            )
    rare = min(counts.values())
    mapped, doubt = _binary_map(counts)
    label = LabelFound(name, counts, map=mapped, min_rows=10 if not mapped and rare < 10 else None)
    shown = ", ".join(f"{value} {n:,}" for value, n in list(counts.items())[:5]) + (", …" if len(counts) > 5 else "")
    empty = len(column.cells) - column.n
    why += f"; {shown}" + (f"; {empty:,} rows without" if empty else "")
    if no_answer := sum(counts[value] for value, one in mapped.items() if one is None):
        why += f"; {no_answer:,} rows say neither, and are not annotated"
    return ColumnRole(column.name, "label", why, doubt, label)


def _binary_map(counts: Mapping[str, int]) -> tuple[dict[str, int | None], str]:
    """Which of two values, however spelled, is the positive one: the one that does not say no, else the rarer.

    Values beside them by which nobody answered are of no class. And what a person should look at, where that may well
    be wrong.
    """
    spelled: dict[str, list[str]] = {}
    for value in counts:
        spelled.setdefault(value.strip().lower(), []).append(value)
    open_ = [value for value in spelled if _UNANSWERED.fullmatch(value)] if len(spelled) > 2 else []
    if len(spelled) - len(open_) != 2:
        two = next((sorted(two, reverse=True) for two in _YES_NO if two < spelled.keys()), [])
        more = [value for value in spelled if value not in two]
        if not two or (two == ["1", "0"] and all(map(str.isdecimal, more))):  # classes by number
            return {}, ""
        return {}, f"has {', '.join(more)} beside {' and '.join(two)}: each is a class, until a `map` says more"
    one, other = (value for value in spelled if value not in open_)
    negative = [value for value, beside in ((one, other), (other, one)) if _says_no(value, beside)]
    doubt = ""
    if len(negative) != 1:
        negative = [max((one, other), key=lambda value: sum(counts[each] for each in spelled[value]))]
        positive = other if negative == [one] else one
        doubt = f"does not say which of {one} and {other} is positive: the rarer is taken, {positive}; see its `map`"
    classes: dict[str, int | None] = {value: int(value not in negative) for value in (*negative, one, other)}
    classes |= dict.fromkeys(open_)
    return {each: of for value, of in classes.items() for each in spelled[value]}, doubt


def _says_no(value: str, other: str) -> bool:
    return bool(_NEGATIVE.fullmatch(value) or re.fullmatch(rf"(?:not|non|un)[\W_]*{re.escape(other)}", value))


def _written(value: Hashable) -> str:
    """A cell as a key of ``map`` has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _empty(open_: Open, asked: AskedRoles) -> Found:
    found = {}
    for column in open_.values():
        if column.distinct < 2 and column.name not in asked.texts:
            same = column.distinct == 1 and column.n == len(column.cells)
            if column.distinct and not same:
                continue  # whether it is filled in may say something
            found[column.name] = ColumnRole(column.name, "not read", "the same in every row" if same else "empty")
    return found


def _files(open_: Open, asked: AskedRoles) -> Found:
    found: Found = {}
    for column in open_.values():
        if column.n and column.counts.get(FILE, 0) == column.n:
            found[column.name] = ColumnRole(column.name, PICTURE, "pictures inside the table")
            continue
        addresses = column.share(lambda cell: cell.lower().startswith(("http://", "https://", "www.")))
        pictures = column.share(lambda cell: cell.lower().partition("?")[0].endswith(PICTURES) and " " not in cell[-5:])
        called = bool(set(column.words) & _PICTURES)
        if addresses > 0.5:
            more = ": pictures are not fetched; download them, and name the folder with --images" if called else ""
            found[column.name] = ColumnRole(column.name, "not read", f"web addresses{more}")
        elif pictures > 0.5:
            found[column.name] = ColumnRole(column.name, PICTURE, f"names of pictures, such as {column.texts[0]!r:.60}")
    images = [role for role in found.values() if role.role == PICTURE]
    for second in images[1:]:
        told = f"pictures, as {images[0].name} has: a post has one"
        found[second.name] = replace(second, role="not read", why=told)
    return found


def _splits(open_: Open, asked: AskedRoles) -> Found:
    found: Found = {}
    for column in open_.values():
        values = {text.lower() for text in column.texts}
        if column.n and values <= set(SPLIT_NAMES) and len(values) > 1 and not found:
            shown = ", ".join(f"{value} {n:,}" for value, n in column.counts.most_common())
            found[column.name] = ColumnRole(column.name, "split", f"an official split: {shown}")
    return found


def _ids(open_: Open, asked: AskedRoles) -> Found:
    found: Found = {}
    named = [c for c in open_.values() if (c.words and c.words[-1] in _IDS) or NAMELESS.fullmatch(c.name)]
    named.sort(key=lambda column: (bool(NAMELESS.fullmatch(column.name)), len(column.words) > 1))
    for column in named:
        if column.is_unique and all(role.role != "id" for role in found.values()):
            found[column.name] = ColumnRole(column.name, "id", "by its name; different in every row")
        elif column.is_unique or NAMELESS.fullmatch(column.name):
            found[column.name] = ColumnRole(column.name, "not read", "a number of the row")
    return found


def _personal(open_: Open, asked: AskedRoles) -> Found:
    """Columns that are never fed; one that says who wrote a post may still keep posts of one author together."""
    found: Found = {}
    for column in open_.values():
        if column.name in asked.texts or _is_author(column):
            continue
        if kind := personal_kind(column.name, column.texts):
            found[column.name] = ColumnRole(
                column.name, "not read", "looks personal", warning=f"looks personal: {kind}"
            )
    return found


def _is_author(column: _Column) -> bool:
    return _named_group(column, _AUTHORS) and 2 * column.distinct < 2 * column.n


def _named_group(column: _Column, names: Collection[str]) -> bool:
    return any(word in names for word in column.words) and column.words[-1] in (*names, *_IDS, "name", "hash", "handle")


def _groups(open_: Open, asked: AskedRoles) -> Found:
    found: Found = {}
    for names, what in ((_AUTHORS, "author"), (_THREADS, "thread")):
        for column in open_.values():
            if column.name in found or column.name in asked.texts or not _named_group(column, names):
                continue
            taken = next((role.name for role in found.values() if role.role == "group"), None)
            if column.distinct == column.n:
                why = "different in every row: it groups nothing"
            elif max(column.counts.values()) > 0.3 * len(column.cells):
                continue
            elif taken:
                why = f"an {what}" if what == "author" else f"a {what}"
                why += f", and posts are kept together by {taken} already"
            else:
                personal = personal_kind(column.name, column.texts)
                told = f"looks personal: {personal}; used to keep posts together, never fed" if personal else ""
                why = f"by its name; {column.distinct:,} {what}s of {column.n:,} posts, whose posts share a split"
                found[column.name] = ColumnRole(column.name, "group", why, warning=told)
                continue
            found[column.name] = ColumnRole(column.name, "not read", why)
    return found


def _times(open_: Open, asked: AskedRoles) -> Found:
    found: Found = {}
    for column in open_.values():
        is_date = column.summary.kind == "date" and column.n > 0
        numbers = column.summary.kind == "number" and all((as_number(cell) or 0) > 1e8 for cell in column.present[:100])
        called = bool(set(column.words) & _TIMES) and (column.distinct > 0.5 * column.n or is_date or numbers)
        if is_date or (called and (numbers or column.summary.kind == "category")):
            ends = (
                f", {min(column.texts)} to {max(column.texts)}" if is_date and column.texts[0][:4].isdecimal() else ""
            )
            found[column.name] = ColumnRole(column.name, "time", f"dates{ends}"[:80])
    return found


def _texts(open_: Open, asked: AskedRoles) -> Found:
    if asked.texts:
        return {name: ColumnRole(name, TEXT, "as asked") for name in asked.texts}
    free = [column for column in open_.values() if _is_free_text(column)]
    named = [column for column in free if set(column.words) & set(_TEXTS) or column.plain in _TEXTS]
    chosen = named or sorted(free, key=lambda column: -column.n_words)[:1]
    chosen.sort(key=lambda column: min((_TEXTS.index(w) for w in column.words if w in _TEXTS), default=0))
    found: Found = {}
    for column in free:
        if column in chosen:
            why = "by its name; " if column in named else "the longest texts; "
            found[column.name] = ColumnRole(column.name, TEXT, f"{why}{column.n_words:g} words at the median")
        else:
            told = "free text; list it under `text` if it is part of the post"
            found[column.name] = ColumnRole(column.name, "not read", told)
    return {column.name: found[column.name] for column in chosen} | found  # in the order in which they are joined


def _is_free_text(column: _Column) -> bool:
    if column.summary.kind != "category" or column.summary.form.boolean or not column.n:
        return False
    called = bool(set(column.words) & set(_TEXTS)) and "name" not in column.words
    varied = column.distinct > 0.3 * column.n
    return (
        (called and varied and column.n_words > 1)
        or (varied and column.n_words >= 4)
        or (column.n_words >= 8 and column.distinct > MOST_CLASSES)
    )


def _records(open_: Open, asked: AskedRoles) -> Found:
    found = {}
    for column in open_.values():
        summary = column.summary
        role: Role = "record"
        if summary.two_readings:
            role, why = "not read", f"reads two ways ({summary.two_readings.partition(':')[0]})"
        elif summary.kind == "number":
            counts_up = any(remark.startswith("counts up") for remark in summary.remarks)
            role, why = ("not read", "counts up, as an id does") if counts_up else ("record", "numbers")
        elif column.words and column.words[-1] in _IDS:
            role, why = "not read", "an id of something else"
        elif column.distinct > max(MOST_CLASSES, 0.2 * column.n):
            role, why = "not read", f"{column.distinct:,} values on {column.n:,} rows, too many for a category"
        else:
            why = f"a category of {column.named}"
        missing = len(column.cells) - column.n
        why += f"; {missing:,} rows without" if missing and role == "record" else ""
        found[column.name] = ColumnRole(column.name, role, why)
    return found


def _without_leaks(roles: list[ColumnRole], looked: Open) -> list[ColumnRole]:
    """Columns that would be fed and give a label away are not; a text that does stays, as it may be all there is."""
    labels = {role.name: role.label for role in roles if role.label}
    classes = {name: label.classes_of(looked[name].cells) for name, label in labels.items()}
    found = []
    for role in roles:
        if role.role in ("record", TEXT):
            summary = looked[role.name].summary
            number = partial(parse_number, form=summary.form) if summary.kind == "number" else lambda cell: None
            for name, values in classes.items():
                area = label_given_away(looked[role.name].cells, values, number)
                if area > LEAK:
                    told = f"gives {name} away: its AUROC alone is {area:.3f}"
                    role = replace(role, warning=told)
                    if role.role == "record":
                        role = replace(role, role="not read", why=f"gives {name} away (AUROC {area:.3f})")
                    break
        found.append(role)
    return found
