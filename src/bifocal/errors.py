"""Everything Bifocal refuses, as one hierarchy: a caller catches one class, a command prints one line.

    BifocalError
    |-- ConfigError          a setting is unknown, of the wrong type, or contradicts another
    |-- DataError            a row, a file or a split cannot be used as asked
    |   |-- PictureError     a picture is of a refused format, too large, or broken
    |   `-- ShardError       a shard is cut, altered, duplicated or incomplete
    |-- ModelError           a model is missing, damaged, or not of the expected shape
    |-- RunError             a run folder is locked, unfinished, or of another configuration
    |-- UnknownPlugin        no modality, source, encoder or fusion bears that name
    |   `-- PluginRefused    a folder names code from outside that its loader did not allow
    `-- MissingExtra         an optional dependency is not installed

A message says what was asked, what was found, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class BifocalError(Exception):
    """Base of every error that Bifocal raises on purpose."""


class ConfigError(BifocalError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class DataError(BifocalError):
    """A row, a file or a split cannot be used as asked."""


class PictureError(DataError):
    """A picture is of a refused format, too large, or broken."""


class ShardError(DataError):
    """A shard is cut, altered, duplicated or incomplete."""


class ModelError(BifocalError):
    """A model is missing, damaged, or not of the expected shape."""


class RunError(BifocalError):
    """A run folder is locked, unfinished, or of another configuration."""


class UnknownPlugin(BifocalError):
    """No modality, source, encoder or fusion bears that name."""


class PluginRefused(UnknownPlugin):
    """A folder names code from outside that its loader did not allow."""


class MissingExtra(BifocalError):
    """An optional dependency is not installed."""


# Which extra brings which importable package; only the packages that Bifocal imports by itself.
EXTRA_OF = {
    **dict.fromkeys(
        (
            "accelerate", "lightgbm", "pandas", "pdqhash", "peft", "pyarrow", "safetensors",
            "scipy", "sklearn", "tensorboard", "torch", "transformers",
        ),
        "train",
    ),
    "rapidocr": "ocr",
    "datasets": "hub",
    **dict.fromkeys(("jinja2", "matplotlib"), "report"),
    **dict.fromkeys(("onnx", "onnxscript"), "export"),
    **dict.fromkeys(("alembic", "fastapi", "multipart", "prometheus_client"), "serve"),
    **dict.fromkeys(("sqlalchemy", "starlette", "uvicorn"), "serve"),
    "psycopg": "postgres",
}  # fmt: skip


@contextmanager
def extras_named() -> Iterator[None]:
    """Turn the import error of an optional package into the pip command that mends it.

    Raises
    ------
    MissingExtra
        Where the missing package belongs to an extra; any other import error passes unchanged.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        raise MissingExtra(
            f"this needs the package {package!r}, which is not installed: pip install 'bifocal[{EXTRA_OF[package]}]'"
        ) from error


NAMES_SHOWN = 10
"""Of what is known, the most that a message lists."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say what is known, and the nearest name to what was asked, as the tail of an error message.

    Of more names than `NAMES_SHOWN` only those closest to what was asked are listed, the closest first.

    >>> nearest("conact", ["concat", "mean"])
    "did you mean 'concat'? known: concat, mean"
    """
    names = sorted(known)
    same = [known for known in names if known.casefold() == name.casefold()]
    close = same or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if len(names) > NAMES_SHOWN:
        alike = difflib.get_close_matches(name, names, n=NAMES_SHOWN, cutoff=0)
        names = list(dict.fromkeys([*close, *alike, *names]))
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """The first `NAMES_SHOWN` names, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return (", ".join(names[:NAMES_SHOWN]) or "none") + (f", … and {more} more" if more > 0 else "")
