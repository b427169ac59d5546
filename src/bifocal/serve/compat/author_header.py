"""Names the author of a post where a shape has no place for it: by a header, so that the author can be forgotten."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Header

from ...files.post_table import MAX_NAME
from ..errors import Refused

_ESCAPED = "UTF-8''"
"""Before a name in percent escapes (RFC 8187), for clients that send ASCII alone in a header."""
HEADER = "X-Bifocal-Subject"


def _author(
    subject: Annotated[str | None, Header(alias=HEADER, description="The author; kept as a keyed hash only.")] = None,
) -> str | None:
    """The author as the platform calls it. Raises `Refused` on a name that is too long."""
    if not subject:
        return None
    if subject.startswith(_ESCAPED):
        subject = unquote(subject.removeprefix(_ESCAPED))
    with suppress(UnicodeError):  # headers are read as Latin-1, and names are in UTF-8 everywhere else
        subject = subject.encode("latin-1").decode("utf-8")
    if len(subject) > MAX_NAME:
        raise Refused("unusable", f"{HEADER} has {len(subject)} characters; at most {MAX_NAME} are allowed")
    return subject


Author = Annotated[str | None, Depends(_author)]
