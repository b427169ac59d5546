"""What the outside of Bifocal is compared with: files beside the tests, written anew by BIFOCAL_WRITE_SNAPSHOTS=1.

Text is compared to the letter, but for numbers with a fraction: what trained weights yield differs in its last digits
from processor to processor, and where a test says so they may be apart by `APART`.
"""

from __future__ import annotations

import difflib
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from textwrap import indent
from typing import Any

OLD = Path(__file__).with_name("old")
"""What an earlier commit made."""
WRITE = "BIFOCAL_WRITE_SNAPSHOTS"
APART = 2e-4
"""Absolute below 1, relative above; with and without AVX-512 the pilot's figures were apart by 1e-5 at most."""
SHOWN = 80
"""Lines of a difference that are shown."""
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.])")
QUIET_TERMINAL = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}


def check(path: Path, found: str, *, apart: float = 0.0) -> None:
    """Compare a text with the snapshot of it, or write the snapshot where that is asked for."""
    found = found.rstrip("\n") + "\n"
    expected = path.read_text(encoding="utf-8") if path.exists() else ""
    shown = _with_numbers_of(expected, found, apart) if apart else found
    if shown == expected:
        return
    if os.environ.get(WRITE) == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
        return
    name = f"{path.parent.name}/{path.name}"
    lines = list(difflib.unified_diff(expected.splitlines(), shown.splitlines(), name, "now", lineterm="", n=2))
    more = [f"... and {len(lines) - SHOWN} lines more"] if len(lines) > SHOWN else []
    raise AssertionError(
        "\n".join(
            [
                "the outside changed; if that is meant, say so in CHANGELOG.md and write the snapshots anew: "
                f"{WRITE}=1 pytest tests/compatibility",
                *lines[:SHOWN],
                *more,
            ]
        )
    )


def _with_numbers_of(expected: str, found: str, apart: float) -> str:
    """The found text, with the expected numbers in the place of those that are near them."""
    before, now = NUMBER.findall(expected), NUMBER.findall(found)
    if len(before) != len(now):
        return found
    pairs = iter(zip(before, now, strict=True))

    def one(_: re.Match[str]) -> str:
        was, there = next(pairs)
        return was if was != there and _near(was, there, apart) else there

    return NUMBER.sub(one, found)


def _near(was: str, there: str, apart: float) -> bool:
    if not set(was + there) & set(".eE"):  # counts are counts
        return False
    a, b = (float(number.replace("−", "-")) for number in (was, there))
    return math.isclose(a, b, rel_tol=apart, abs_tol=apart)


def as_text(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False)


# What differs from run to run ---------------------------------------------------------------------


def without_hashes(text: str) -> str:
    """Fingerprints of what was trained, and dates, as signs that stand for them."""
    text = re.sub(r'"(?:[0-9a-f]{16}|[0-9a-f]{64})"', '"<hash>"', text)
    return re.sub(r'"\d{4}-\d\d-\d\dT[^"]*"', '"<date>"', text)


def without_numbers(text: str) -> str:
    """Every number, and every version, as ``#``."""
    text = re.sub(r"\b[0-9a-f]{16}\b", "#", text)
    return re.sub(r"[-+−]?(?<![A-Za-z_#])\d[\d.,]*(?:[-+]\w+)?(?<![.,])", "#", text)


def without_fractions(text: str, places: dict[str, str]) -> str:
    """Fractions and times as ``#``, folders by names, tables without their widths."""
    for place, name in places.items():
        text = text.replace(place, name)
    text = re.sub(r"[-+−]?\d+\.\d+", "#", text)
    text = re.sub(r"about \d+ (s|min)\b", r"about # \1", text)
    return "\n".join(re.sub(r"─+", "─", re.sub(r" +", " ", line)).strip() for line in text.splitlines())


def file_names(folder: Path) -> str:
    """Every file under a folder, those that are numbered or timed by one name."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    timed = {re.sub(r"events\.out\.tfevents\..*", "events.out.tfevents.<time>", name) for name in names}
    return "\n".join(sorted({re.sub(r"pictures/\d+\.", "pictures/<number>.", name) for name in timed}))


# The form of a file -------------------------------------------------------------------------------

MANY = 12
"""Keys of one object from which on they are taken for data, where all their values are of one form."""
IDS = re.compile(r"syn-\d+|[0-9a-f]{16,64}")
"""Keys that are data however few they are."""


@dataclass
class Form:
    """The types that a value has at one place of a file; of objects and lists, the forms within."""

    types: set[str] = field(default_factory=set)
    keys: dict[str, Form] = field(default_factory=dict)
    items: Form | None = None

    @classmethod
    def of(cls, content: Any, many: int = MANY) -> Form:
        if isinstance(content, dict):
            keys = {str(key): cls.of(value, many) for key, value in content.items()}
            alike = len(keys) > many and len({str(value) for value in keys.values()}) == 1
            if keys and (alike or all(IDS.fullmatch(key) for key in keys)):
                keys = {"<any>": cls.merged(keys.values())}
            return cls({"object"}, keys)
        if isinstance(content, list):
            return cls({"list"}, items=cls.merged(cls.of(item, many) for item in content))
        kinds = {bool: "bool", int: "number", float: "number", str: "text", type(None): "null"}
        return cls({kinds[type(content)]})

    @classmethod
    def merged(cls, forms: Iterable[Form]) -> Form:
        whole = cls()
        for form in forms:
            whole.types |= form.types
            for key, inner in form.keys.items():
                whole.keys[key] = cls.merged([whole.keys[key], inner]) if key in whole.keys else inner
            if form.items is not None:
                whole.items = form.items if whole.items is None else cls.merged([whole.items, form.items])
        return whole

    def __str__(self) -> str:
        """Lines, what lies within indented; keys of the same form share a line, in the order of the alphabet."""
        shared: dict[str, list[str]] = {}
        for key, inner in sorted(self.keys.items()):
            shared.setdefault(str(inner), []).append(key)
        within = [f"{', '.join(keys)}: {inner}" for inner, keys in shared.items()]
        if self.items is not None and self.items.types:
            within.append(f"- {self.items}")
        return "\n".join([" | ".join(sorted(self.types)), *(indent(text, "  ") for text in within)])


def form_of(path: Path) -> str | None:
    """The form of a JSON, JSONL, CSV or safetensors file as lines of text; None = it has none that is read here."""
    if path.suffix == ".json":
        return str(Form.of(json.loads(path.read_text(encoding="utf-8"))))
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return str(Form.of(rows))
    if path.suffix == ".csv":
        return path.read_text(encoding="utf-8").partition("\n")[0]
    if path.suffix == ".safetensors":
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        extra = [f"metadata: {', '.join(sorted(header.pop('__metadata__', {})))}"]
        return "\n".join(
            extra + [f"{name}: {facts['dtype']} {facts['shape']}" for name, facts in sorted(header.items())]
        )
    return None


class _Visible(HTMLParser):
    """The words of a page that a reader sees, a line a piece."""

    HIDDEN = ("script", "style", "title")

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden += tag in self.HIDDEN

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in self.HIDDEN

    def handle_data(self, data: str) -> None:
        if not self.hidden and (line := " ".join(data.split())):
            self.lines.append(line)


def visible_text(page: str) -> str:
    parser = _Visible()
    parser.feed(page)
    return "\n".join(parser.lines)


# The command line ---------------------------------------------------------------------------------


def _on_a_quiet_terminal(words: list[str], folder: str, output: str, errors: str) -> None:
    os.environ.update(QUIET_TERMINAL)
    os.chdir(folder)
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output, 0o1101), (2, errors, 0o1101)):
        os.dup2(os.open(path, flags, 0o644), number)
    sys.argv = ["bifocal", *words]
    from bifocal.__main__ import main

    main()


def on_a_quiet_terminal(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line as the fixture `command` runs it, where lines have 100 columns and no colours."""
    words = [str(word) for word in words]
    output, errors = cwd / "output.txt", cwd / "errors.txt"
    make = multiprocessing.get_context("forkserver").Process
    process = make(target=_on_a_quiet_terminal, args=(words, str(cwd), str(output), str(errors)))
    process.start()
    process.join()
    return subprocess.CompletedProcess(words, process.exitcode, output.read_text(), errors.read_text())
