"""What the command line shows: progress while a run works, and results as text or JSON."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as Drawn

from ..contracts import Reporter
from ..report.tables import Table
from ..report.words import METRICS


def say(console: Console, sentence: str, indent: str = "") -> None:
    """A sentence: on a terminal its lines end between words, elsewhere it stays on one line for other programs."""
    if not console.is_terminal:
        console.print(f"{indent}{sentence}", soft_wrap=True)
        return
    console.print("\n".join(_wrapped(sentence, console.width, indent)), soft_wrap=True)


def _wrapped(sentence: str, width: int, indent: str, style: str = "  ") -> list[str]:
    return textwrap.wrap(
        sentence,
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent + style,
        break_long_words=False,
        break_on_hyphens=False,
    )


def plain(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that shows texts and paths as they are: a post may hold what looks like markup or an emoji code."""
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


WORTH_A_LINE = 10.0
"""Seconds from which on the end of a step is told."""


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.1f} s"


class ConsoleReporter(Reporter):
    """Draws steps, a progress bar and epochs on stderr, so that stdout holds the result alone."""

    def __init__(self, silent: bool):
        self.silent = silent
        self.console = plain(stderr=True, quiet=silent)
        self.bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=silent or not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.name = ""
        self.begun = (0, 0.0)
        self.since: float | None = None
        """When the step that is under way began; None = none is."""

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is None:
            self._ended()
        self.bar.stop()

    def _ended(self) -> None:
        """A line for the step that was under way, where its bar stood there for a while."""
        took = 0.0 if self.since is None else perf_counter() - self.since
        if self.console.is_terminal and took >= WORTH_A_LINE:
            self.console.print(f"  {self.name} took {_duration(took)}", style="dim")

    def step(self, name: str, skipped: bool) -> None:
        self._ended()
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task, self.name, self.since = None, name, None if skipped else perf_counter()
        self.console.print(name, "  done before, skipped" if skipped else "", style="dim" if skipped else "bold")

    def progress(self, done: int, total: int | None = None) -> None:
        now = perf_counter()
        if self.task is None:
            self.task = self.bar.add_task(self.name, total=total, rate="")
            self.begun = (done, now)
        elif done < self.begun[0]:  # another pass within the step
            self.begun = (done, now)
        rate = (done - self.begun[0]) / max(now - self.begun[1], 1e-9)
        self.bar.update(self.task, completed=done, total=total, rate=f"{rate:.1f}/s" if done > self.begun[0] else "")

    def epoch(self, model: str, figures: Mapping[str, float]) -> None:
        """One line: each figure on train and, where there is one, on val."""
        shown = []
        for name, title in (("loss", "loss"), ("accuracy", "accuracy"), ("macro_f1", METRICS["macro_f1"])):
            values = [figures[f"{split}_{name}"] for split in ("train", "val") if f"{split}_{name}" in figures]
            shown.append(f"{title} " + " / ".join(f"{value:.3f}" for value in values))
        self._say(f"{model} {figures['epoch']:g}  " + "  ".join(shown))

    def note(self, message: str) -> None:
        self._say(f"note: {message}", "yellow")

    def _say(self, sentence: str, style: str = "") -> None:
        lines = _wrapped(sentence, self.console.width, "  ", "    ")
        self.console.print("\n".join(lines), style=style, soft_wrap=True)


def drawn(table: Table) -> Drawn:
    """A table for the screen; figures are not broken over lines, nor are the names before them."""
    shown = Drawn(
        title=table.title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for i, name in enumerate(table.head):
        is_text = i < table.texts
        shown.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text or table.texts == 1)
    for row in table.cells:
        shown.add_row(*map(str, row), style="bold" if table.main and row[0].value == table.main else None)
    return shown


def emit_json(content: Any) -> None:
    """Print JSON for machines on stdout; escaped where stdout cannot hold every sign."""
    is_ascii = not (sys.stdout.encoding or "").lower().startswith("utf")
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=is_ascii, default=str) + "\n")


def print_counts(content: Mapping[str, Any], as_json: bool) -> None:
    """Any flat result, a line each."""
    if as_json:
        emit_json(content)
        return
    console = plain()
    width = max(map(len, content), default=0)
    for key, value in content.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) or "none"
        console.print(f"{key:<{width}}  {value}", soft_wrap=True)
