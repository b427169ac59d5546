"""One file per kind of part: all that is known of it, from how it is given to how it is packed and corrupted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from .. import plugins
from ..errors import DataError

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..contracts import Input, Modality

TEXT = "text"
"""The part that is composed of a post's own words and those read off its other parts; see `bifocal.data.compose`."""
PICTURE = "image"
"""The part whose words a source may bring along as a transcript."""
PARTS = "parts"
"""The argument, field and column for parts that have none of their own: name -> part."""


@cache
def inputs() -> dict[str, Input]:
    """How the parts that come with Bifocal are given, by name, in the order in which they are listed."""
    found: dict[str, Input] = {name: plugins.load("modalities", name).input for name in plugins.names("modalities")}
    return dict(sorted(found.items(), key=lambda item: item[1].place))


def inputs_of(modalities: Mapping[str, Modality]) -> dict[str, Input]:
    """The same, with the parts that these modalities add."""
    return inputs() | {name: modality.input for name, modality in modalities.items()}


def build_modalities(config: RunConfig) -> dict[str, Modality]:
    """The modalities of a run, by name, configured."""
    return {name: plugins.load("modalities", plugin).from_config(config) for name, plugin in config.parts.items()}


def every_modality(config: RunConfig) -> dict[str, Modality]:
    """Those that come with Bifocal and those of the run, by name, configured."""
    come_with = {name: plugins.load("modalities", name).from_config(config) for name in plugins.names("modalities")}
    return come_with | build_modalities(config)


def arguments() -> tuple[str, ...]:
    """What `System.predict` and `bifocal.Client` take of a post; the last is `PARTS`."""
    return (*(one.argument for one in inputs().values() if one.argument), PARTS)


def argument_of(name: str) -> str:
    """What a part is called where it is given to `System.predict`."""
    known = inputs().get(name)
    return known.argument if known and known.argument else name


def given_parts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Part -> what is given for it, of the arguments of a post; nothing that is None.

    Raises
    ------
    DataError
        Where ``parts`` is no mapping of names, or names a part that has an argument of its own and is given there too.
    """
    others = row.get(PARTS)
    if others is not None and not (isinstance(others, Mapping) and all(isinstance(name, str) for name in others)):
        raise DataError(f"{PARTS} takes a mapping of names and parts, such as {{'link': …}}, found {others!r:.100}")
    named = {name: row.get(one.argument) for name, one in inputs().items() if one.argument}
    found = {name: part for name, part in named.items() if part is not None}
    for name, part in (others or {}).items():
        if part is not None:
            if name in found:
                raise DataError(f"{name} is given twice: as {argument_of(name)}, and in {PARTS}")
            found[name] = part
    return found
