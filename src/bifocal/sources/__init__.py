"""Dataset layouts: one file per format, each turning its rows into Examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import plugins
from ..example import LABELS, Taxonomy

if TYPE_CHECKING:
    from ..config import SourceConfig
    from ..contracts import Source


def build_source(config: SourceConfig) -> Source:
    """The source that a configuration names; reads no row. Raises `ConfigError` on an option that it does not know."""
    source: Source = plugins.options("source", config.kind, config.options, plugins.load("sources", config.kind))
    return source


def taxonomy_of(source: Source) -> Taxonomy:
    """The labels that every source may bear, and those that this one declares."""
    return Taxonomy({**LABELS, **source.labels()})
