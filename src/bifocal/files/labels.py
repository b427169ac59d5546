"""How a column of somebody's table becomes a label: by a map, by its own values, or as a number to be cut in two."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..config import Strict
from ..errors import DataError
from ..example import BINARY, LABELS, Label, LabelValue

MAX_CLASSES = 1000
"""More values than these are a number or a text, and no label."""
MAX_NUMBERS = 20
"""More numbers than these, most of them in one row only, are a quantity and no classes."""
_LISTED = 10
_WHOLE = re.compile(r"[-+]?\d+\.0+")
_SPELLINGS = dict.fromkeys(("yes", "true", "on", "y", "t", "1"), 1)
_SPELLINGS |= dict.fromkeys(("no", "false", "off", "n", "f", "0"), 0)
"""Ways to write yes and no, in lower case; YAML reads some of them as booleans before we see the word."""


_WORDS = {"true": "yes", "false": "no"}
"""What YAML's booleans were most likely written as."""


def _written(value: Any) -> str:
    """A key of YAML or a cell, as text; ``yes: 1`` reaches us as ``True: 1``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _whole(str(value)) if isinstance(value, float) else str(value).strip()


def _whole(cell: str) -> str:
    return cell.partition(".")[0] if _WHOLE.fullmatch(cell) else cell


def _shown(key: str) -> str:
    return _WORDS.get(key, key)


def keys_as_written(value: Any) -> Any:
    """A mapping of an option with its keys as texts, as cells are compared. Raises `ValueError` on two of one text."""
    if not isinstance(value, Mapping):
        return value
    if None in value:
        raise ValueError("the key null is nothing, and no value of a column: quote it ('null') if it is written there")
    found: dict[str, Any] = {}
    for key in value:
        if (twin := found.setdefault(_written(key), key)) is not key:
            raise ValueError(f"the keys {twin!r} and {key!r} mean the same: keep one")
    return {_written(key): one for key, one in value.items()}


ClassMap = Annotated[dict[str, int | str | None], BeforeValidator(keys_as_written)]
"""Raw value -> class; null = not annotated."""


class LabelMap(Strict):
    """Where a label comes from and what its values mean.

    Attributes
    ----------
    column : str
    map : dict, optional
        Raw value -> class; null = not annotated. Values are compared as stripped strings, and failing that, whole
        numbers as such (``1.0`` is ``1``) and all spellings of yes and no (``True`` is ``yes`` is ``1``).
    above : number or "median", optional
        The column holds a number, and the class is whether it lies above this; ``median`` is train's.
    min_rows : int, optional
        Values with fewer rows are no classes; their rows are not annotated. The classes 0 and 1 both stay.
    classes : list, optional
        The classes in their order, where they are not to be found in the map or the column.
    """

    column: str
    map: ClassMap | None = None
    above: float | Literal["median"] | None = None
    min_rows: Annotated[int, Field(ge=2)] | None = None
    classes: Annotated[list[int | str], Field(min_length=2)] | None = None

    @field_validator("map", "classes")
    @classmethod
    def _one_kind_of_class(cls, value: Any) -> Any:
        """0 and 1 are numbers, everything else is a name."""
        if isinstance(value, list):
            if len(classes := _classes(value)) != len(set(classes)):
                raise ValueError(f"{value} names a class twice")
            return list(BINARY) if set(classes) == set(BINARY) else list(classes)
        kinds = dict(zip(found, _classes(found), strict=True)) if (found := _given(value)) else {}
        return None if value is None else {raw: kinds.get(one) for raw, one in value.items()}

    @field_validator("above", mode="before")
    @classmethod
    def _number_or_median(cls, value: Any) -> Any:
        if value is None or value == "median":
            return value
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{value!r} is neither a number nor `median`, the two that it takes")
        return number

    @model_validator(mode="after")
    def _one_meaning(self) -> LabelMap:
        others = [name for name in ("map", "min_rows", "classes") if getattr(self, name) is not None]
        if self.above is not None and others:
            raise ValueError(f"above makes the classes 0 and 1 out of a number, so {others[0]} has no place beside it")
        if self.map is not None and not _given(self.map):
            raise ValueError("the map names no class; give at least one value another meaning than null")
        self._refuse_rival_spellings()
        return self

    def _refuse_rival_spellings(self) -> None:
        """Of ``{yes: 1, "1": 0}`` nobody can tell what ``True`` is."""
        spelled: dict[int, str] = {}
        if self.map is None or not self._is_spelled:
            return
        for key, one in self.map.items():
            if (meaning := _SPELLINGS.get(key.lower())) is None:
                continue
            first = spelled.setdefault(meaning, key)
            if self.map[first] != one:
                twins = f"{_shown(first)!r} and {_shown(key)!r}"
                raise ValueError(f"the keys {twins} mean the same, and lead to {self.map[first]!r} and {one!r}")

    @property
    def _is_spelled(self) -> bool:
        """Whether all that the map gives a class are ways to write yes and no."""
        return all(key.lower() in _SPELLINGS for key, one in (self.map or {}).items() if one is not None)

    def check_name(self, name: str) -> None:
        """Raise `ValueError` where the name is that of a unified label, and the options lead to other classes."""
        if name not in LABELS:
            return
        classes = LABELS[name].classes
        if LABELS[name].binary and {str(one) for one in _given(self.map)} <= {"yes", "no", "on", "off"}:
            self.map = self.map and {raw: _SPELLINGS.get(str(one)) for raw, one in self.map.items()}
        allowed = f"{name} has the classes {', '.join(map(str, classes))}; other classes want a label of another name"
        if self.classes is not None and set(self.classes) != set(classes):
            raise ValueError(f"{name}.classes is {self.classes}, but {allowed}")
        if self.above is not None and not LABELS[name].binary:
            raise ValueError(f"{name}.above makes 0 and 1, but {allowed}")
        if strange := [one for one in _given(self.map) if one not in classes]:
            raise ValueError(f"{name}.map leads to {strange[0]!r}, but {allowed}")

    def has_all_classes(self, name: str) -> bool:
        """Whether the classes are known without reading the column."""
        known = self.map is not None or self.classes is not None or self.above is not None or name in LABELS
        return known and self.min_rows is None

    def declared_label(self, name: str) -> Label | None:
        """The label as far as the options tell it; None where its classes stand in the column."""
        if name in LABELS:
            return self._label(name, LABELS[name].classes)
        if self.above is not None:
            return self._label(name, BINARY)
        if self.classes is not None:
            return self._label(name, tuple(self.classes))
        if self.map is not None:
            return self._label(name, BINARY if set(_given(self.map)) <= set(BINARY) else tuple(_given(self.map)))
        return None

    def infer_classes(self, name: str, values: Iterable[LabelValue]) -> Label:
        """The label with the classes that stand in the column, rare ones left out.

        Raises
        ------
        DataError
            Where fewer than two classes are left, or the values are too many for classes.
        """
        counts: Counter[Any] = Counter()
        for value in values:
            counts[value] += 1
            if len(counts) > MAX_CLASSES and not self.min_rows:
                raise DataError(
                    f"column {self.column!r} has over {MAX_CLASSES} values, too many for the classes of {name}: name "
                    "another column, or say `above: median` if it is a number"
                )
        fixed = self.declared_label(name)
        if fixed is None and not self.min_rows:
            self._refuse_quantity(name, counts)
        if fixed is None and {_SPELLINGS.get(str(value).lower(), value) for value in counts} == {0, 1}:
            fixed = self._label(name, BINARY)
        if fixed and (fixed.binary or not self.min_rows):
            return fixed
        possible = fixed.classes if fixed else tuple(sorted(counts, key=_in_order))
        rare = {value: counts[value] for value in possible if counts[value] < (self.min_rows or 1)}
        classes = tuple(value for value in possible if value not in rare)
        if len(classes) < 2:
            least = f" with {self.min_rows} rows or more" if self.min_rows else ""
            raise DataError(
                f"column {self.column!r} has {len(classes)} values{least}, and {name} needs two classes; "
                f"found: {_listed(counts) or 'nothing'}"
            )
        return self._label(name, classes, rare)

    def _refuse_quantity(self, name: str, counts: Counter[Any]) -> None:
        alone = sum(n == 1 for n in counts.values())
        if len(counts) > MAX_NUMBERS and 2 * alone > len(counts) and all(_in_order(value)[0] == 0 for value in counts):
            raise DataError(
                f"column {self.column!r} has {len(counts)} values, numbers and most with one row, which are no classes "
                f"for {name}: set `above: median` (or a number), or `min_rows` for the frequent ones alone"
            )

    def _label(self, name: str, classes: tuple[Any, ...], rare: Mapping[Any, int] | None = None) -> Label:
        binary = classes == BINARY
        known = LABELS.get(name)
        told = [known.description] if known else []
        told.append(f"Column {self.column!r}." if self.above is None else f"Whether {self.column!r} > {self.above}.")
        if rare:
            told.append(
                f"Left out for fewer than {self.min_rows} rows: {_listed(Counter(rare))} ({len(rare)} values, "
                f"{sum(rare.values())} rows in all)."
            )
        probability = known.probability if known else f"prob_{name}" if binary else "prob"
        return Label(classes, probability, " ".join(told), self.above, names=self._names(classes) if binary else ())

    def _names(self, classes: tuple[Any, ...]) -> tuple[str, ...]:
        """The words that the map turns into 0 and 1, where one word stands for each, and they are no numbers."""
        words = {one: [raw for raw, to in (self.map or {}).items() if to == one] for one in classes}
        if any(len(found) != 1 or found[0].lstrip("-").isdecimal() for found in words.values()):
            return ()
        return tuple(_shown(found[0]) if found[0] in _WORDS else found[0] for found in words.values())

    def knows_word(self, word: str, label: Label | None = None) -> bool:
        """Whether the options, or the classes of a label, say what a word means."""
        named = [*(self.map or {}), *(self.classes or ()), *(label.classes if label else ())]
        return word.strip() in map(str, named)

    def parse_cell(self, raw: Any) -> LabelValue:
        """A cell as far as the options tell it: mapped, a number (``above``), or the text itself (``1.0`` as ``1``).

        Raises `DataError` on a value that the map does not know, and on what is no number, text or boolean.
        """
        if raw is None or (isinstance(raw, float) and math.isnan(raw)):
            return None
        if not isinstance(raw, str | int | float):
            raise DataError(
                f"column {self.column!r} holds a {type(raw).__name__}; a label is a text, number or boolean"
            )
        text = _written(raw)
        if not text:
            return None
        if self.above is not None:
            return self._number(raw, text)
        return _whole(text) if self.map is None else self.map[self._key(raw, text)]

    def _number(self, raw: Any, cell: str) -> float:
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if isinstance(raw, bool) or not math.isfinite(number):
            raise DataError(f"{raw!r} in column {self.column!r} is no number, and the label is whether it is above one")
        return int(number) if number.is_integer() else number

    def _key(self, raw: Any, cell: str) -> str:
        assert self.map is not None
        if cell in self.map:
            return cell
        whole = next((key for key in self.map if _whole(key) == _whole(cell)), None)
        if whole is not None:
            return whole
        meaning = _SPELLINGS.get(_whole(cell).lower())
        for key in self.map if meaning is not None else ():
            # A boolean of YAML was a word, which stays itself beside other words ({yes: …, no: …, unsure: …}).
            word = (key in _WORDS or key in _WORDS.values()) and _whole(cell) not in ("0", "1")
            if (self._is_spelled or word) and _SPELLINGS.get(key.lower()) == meaning:
                return key
        allowed = ", ".join(map(_shown, self.map))
        raise DataError(f"{raw!r} in column {self.column!r} is not in the map; allowed: {allowed}, or empty")

    def encode(self, name: str, value: LabelValue, label: Label) -> LabelValue:
        """What `parse_cell` gave as a class of the label; None where the value is rare. Any other is a `DataError`."""
        if value is None or self.above is not None:
            return value
        if isinstance(value, str):
            value = _SPELLINGS.get(_whole(value).lower(), value) if label.binary else self._class(value, label)
        if value in label.classes:
            return value
        fixed = self.declared_label(name)
        if self.min_rows and not label.binary and (fixed is None or value in fixed.classes):
            return None
        allowed = ", ".join(map(str, label.classes))
        raise DataError(
            f"{value!r} in column {self.column!r} is no class; allowed: {allowed}, or empty; else give a `map`"
        )

    def _class(self, value: str, label: Label) -> int | str:
        if value in label.classes:
            return value
        return next((one for one in label.classes if _whole(str(one)) == _whole(value)), value)


def _given(value: Mapping[str, Any] | None) -> list[Any]:
    """The classes a map names, each once, in its order."""
    return list(dict.fromkeys(one for one in (value or {}).values() if one is not None))


def _classes(found: list[Any]) -> tuple[int | str, ...]:
    if {str(one) for one in found} <= {"0", "1"}:
        return tuple(int(one) for one in found)
    return tuple(str(one).strip() for one in found)


def _in_order(value: Any) -> tuple[int, float, str]:
    try:
        return 0, float(value), str(value)
    except ValueError:
        return 1, 0.0, str(value)


def _listed(counts: Counter[Any]) -> str:
    most = ", ".join(f"{value} ({n})" for value, n in counts.most_common(_LISTED))
    return f"{most}, …" if len(counts) > _LISTED else most
