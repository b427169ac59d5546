"""Several sources in one run: ids, groups and references carry their source's name, and `meta` keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, field_validator

from ..config import SourceConfig, Strict
from ..contracts import NotingSource, PromisesSplits, Source, Stamped, TextRole
from ..errors import ConfigError, DataError, nearest
from ..example import Example, Label, Rejected
from ..modalities import inputs
from ..workspace import fingerprint
from . import build_source


class NamedSource(SourceConfig):
    """One of the sources; every key but ``kind`` and ``name`` is an option of it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Marks its rows; None = its kind."""

    @field_validator("kind")
    @classmethod
    def _no_nesting(cls, value: str) -> str:
        if value == "several":
            raise ValueError("`several` within `several` is refused: list all sources under one")
        return value


class Several(Strict):
    """Other sources, taken in turns row by row, so that a small ``limit`` sees all of them.

    A label that several bear must have the same classes in all, but for classes found in the data, which are joined.
    Near-duplicates are grouped across sources like any others.

    Attributes
    ----------
    sources : list
        Each as ``source`` takes one alone; two of a kind need a ``name``.
    text_role : "transcript", "caption" or None
        How a post to be served is read; None = as the first source's texts. Each row keeps its own source's.
    """

    sources: Annotated[list[NamedSource], Field(min_length=1)]
    text_role: TextRole | None = None

    @field_validator("sources")
    @classmethod
    def _no_twins(cls, value: list[NamedSource]) -> list[NamedSource]:
        names = [source.name or source.kind for source in value]
        if twins := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two sources are called {', '.join(sorted(twins))}: give each a `name`")
        return value

    def model_post_init(self, _: object) -> None:
        self.text_role = self.text_role or next(iter(self.members.values())).text_role

    @cached_property
    def members(self) -> dict[str, Source]:
        """Name -> source. Raises `ConfigError` on an option that one of them does not know."""
        return {source.name or source.kind: build_source(source) for source in self.sources}

    def role_of(self, example: Example) -> TextRole:
        return self.members[example.meta["source"]].role_of(example)

    def promised_split(self, example: Example) -> str | None:
        member = self._promising.get(example.meta["source"])
        return member.promised_split(example) if member else None

    @cached_property
    def _promising(self) -> dict[str, PromisesSplits]:
        return {name: member for name, member in self.members.items() if isinstance(member, PromisesSplits)}

    def labels(self) -> Mapping[str, Label]:
        """The labels of all members.

        Raises
        ------
        ConfigError
            Where two mean different things by one name.
        """
        joined: dict[str, Label] = {}
        for name, source in self.members.items():
            for key, label in source.labels().items():
                joined[key] = _joined(joined[key], label, key, name) if key in joined else label
        return joined

    def __iter__(self) -> Iterator[Example | Rejected]:  # type: ignore[override]
        turns = {name: iter(source) for name, source in self.members.items()}
        while turns:
            for name in list(turns):
                row = next(turns[name], None)
                if row is None:
                    del turns[name]
                else:
                    yield self._marked(row, name)

    def notes(self) -> list[str]:
        """What the members had to guess."""
        told = {name: one.notes() for name, one in self.members.items() if isinstance(one, NotingSource)}
        return [f"{name}: {text}" for name, texts in told.items() for text in texts]

    def fingerprint(self) -> str:
        return fingerprint(self.text_role, [(name, source.fingerprint()) for name, source in self.members.items()])

    def stamp(self, reference: str) -> list[Any] | None:
        """As `bifocal.contracts.Stamped` has it; of a source that is none, nothing that could change."""
        name, _, inner = reference.partition(":")
        member = self.members.get(name)
        if not isinstance(member, Stamped):
            return []
        found = member.stamp(inner)
        return [f"{name}:{found[0]}", *found[1:]] if found and found[0] else found

    def open(self, reference: str) -> bytes:
        """The bytes behind ``<source name>:<its reference>``. Raises `DataError`."""
        name, _, inner = reference.partition(":")
        if name not in self.members:
            raise DataError(f"reference {reference[:200]!r} names no source of this run; {nearest(name, self.members)}")
        return self.members[name].open(inner)

    @staticmethod
    def _marked(row: Example | Rejected, name: str) -> Example | Rejected:
        if isinstance(row, Rejected):
            return replace(row, id=row.id and f"{name}:{row.id}", where=f"{name}: {row.where}")
        references = {part for part in row.parts if (known := inputs().get(part)) and known.is_file}
        return replace(
            row,
            id=f"{name}:{row.id}",
            parts={part: f"{name}:{raw}" if part in references else raw for part, raw in row.parts.items()},
            group=row.group and f"{name}:{row.group}",
            meta={**row.meta, "source": name},
        )


def _joined(one: Label, other: Label, key: str, source: str) -> Label:
    if one.classes == other.classes and one.above == other.above:
        return one
    if one.binary or other.binary or one.above is not None or other.above is not None:
        raise ConfigError(
            f"label {key!r} has the classes {one.classes} in one source and {other.classes} in {source!r}: map both to "
            "the same classes, or give one another name"
        )
    return replace(one, classes=tuple(dict.fromkeys([*one.classes, *other.classes])))
