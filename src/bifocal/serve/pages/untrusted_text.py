"""Words of others as the page shows them: what cannot be seen is shown, and none of them passes for words of ours."""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape

_BREAK = "\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]"
_SIGNS = (
    "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f"  # controls
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # order, joins, annotations
    "\xad\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0"  # blanks that are none
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff"  # more of these, tags, and no characters at all
)
_JOINER = "(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
"""Joiners belong into emoji and many scripts; beside plain letters, or nothing, they hide."""
_IN_TEXT = re.compile(f"(?P<line>\r(?!\n)|[\v\f\x1c-\x1e\x85\u2028\u2029])|(?P<sign>[{_SIGNS}]|{_JOINER})")
_IN_LINE = re.compile(f"(?P<line>\\s*(?:{_BREAK})\\s*)|(?P<sign>[{_SIGNS}]|{_JOINER})|(?P<space>\\s+)")
BREAK = "\u23ce"
"""Stands for a line break."""


def shown(words: str) -> Markup:
    """Words over several lines: controls, and what turns or hides words, by their codes."""
    return Markup(_IN_TEXT.sub(_marked, str(escape(words.replace("\r\n", "\n")))))


def line(words: str) -> Markup:
    """Words in one line, isolated from those around them."""
    return Markup("<bdi>{}</bdi>").format(Markup(_IN_LINE.sub(_marked, str(escape(words.strip(" "))))))


def plain(words: str) -> str:
    """The same where no markup can stand: in a title or an attribute."""
    return _IN_LINE.sub(_told, words.strip(" "))


def _marked(found: re.Match[str]) -> str:
    if found["line"]:
        return f' <span class="sign" title="line break">{BREAK}</span> '
    if found["sign"]:
        name = unicodedata.name(found["sign"], "control character").lower()
        return f'<span class="sign" title="{name}">{_code(found["sign"])}</span>'
    return " "


def _told(found: re.Match[str]) -> str:
    return f" {BREAK} " if found["line"] else f"[{_code(found['sign'])}]" if found["sign"] else " "


def _code(sign: str) -> str:
    return f"U+{ord(sign):04X}"
