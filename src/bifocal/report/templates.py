"""The templates that documents and pages are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import extras_named

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(
    folder: Path = Path(__file__).parent, *, escape: bool = True, finalize: Callable[[object], object] | None = None
) -> Environment:
    """The templates of a folder; what they are given is escaped for HTML.

    ``finalize`` is applied to every value that is printed. Raises `MissingExtra` without ``bifocal[report]``.
    """
    with extras_named():
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
