"""A mapping as YAML that people read: short values in one line, and a comment behind what has a reason."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

WIDTH = 120
_BLOCKS = ("source", "source.labels", "experts", "decide")
"""Mappings that are written one key a line."""


def render(settings: Mapping[str, Any], comments: Mapping[str, str], head: Sequence[str] = ()) -> str:
    """YAML that holds exactly ``settings``.

    Parameters
    ----------
    comments : dict
        Dotted name -> what stands behind its value, or above it where the line would be too long.
    head : sequence of str
        Lines of comment above all.
    """
    wrapped = (line for one in head for line in textwrap.wrap(_plain(one), WIDTH - 4, subsequent_indent="  "))
    lines = [f"# {line}" for line in wrapped]
    lines += _lines(settings, comments, "", 0)
    return "\n".join(lines) + "\n"


def _lines(settings: Mapping[str, Any], comments: Mapping[str, str], above: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, value in settings.items():
        name = f"{above}{key}"
        said = _plain(comments.get(name, ""))
        is_block = isinstance(value, Mapping) and value and name in _BLOCKS
        line = f"{indent}{_scalar(key)}:" + ("" if is_block else f" {_scalar(value)}")
        if said and len(line) + len(said) + 4 > WIDTH:
            yield from textwrap.wrap(said, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
            yield line
        else:
            yield f"{line}  # {said}" if said else line
        if is_block:
            yield from _lines(value, comments, f"{name}.", depth + 1)


def _scalar(value: Any) -> str:
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(comment: str) -> str:
    """In one line, and nothing that ends it: what is quoted comes from somebody's table."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in comment).split())
