"""Finds plug-ins by file name: the file name IS the registration.

``load("fusions", "concat")`` gives the class ``Concat`` of ``bifocal/models/fusions/concat.py``. A plug-in from
outside is named ``package.module:Class`` and needs no registration either: by who writes a configuration, or calls a
function. A folder that is loaded is data, and what it names is imported only where the caller allows it (`restrict`).
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import ConfigError, PluginRefused, UnknownPlugin, nearest

KINDS = {
    "modalities": "bifocal.modalities",
    "sources": "bifocal.sources",
    "transcribers": "bifocal.transcribe",
    "encoders": "bifocal.models.encoders",
    "fusions": "bifocal.models.fusions",
}
_OUTSIDE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class _Data:
    """Names come from a file that nobody vouches for."""

    where: str
    allowed: frozenset[str]


_reading: ContextVar[_Data | None] = ContextVar("reading", default=None)


@contextmanager
def restrict(where: str | Path, allowed: Collection[str] | None = None) -> Iterator[None]:
    """What is named within comes from a folder: outside plug-ins are refused, but for those that the caller allows.

    Parameters
    ----------
    where : str or Path
        The file that names them, for the error.
    allowed : collection of str, optional
        ``package.module``, or ``package.module:Class`` for one class of it; None = what is allowed already.
    """
    now = _reading.get()
    if isinstance(allowed, str):
        raise ConfigError(f"allow_plugins takes a list of modules, such as ['package.module'], found {allowed!r}")
    held = frozenset(allowed) if allowed is not None else now.allowed if now else frozenset[str]()
    token = _reading.set(_Data(str(where), held))
    try:
        yield
    finally:
        _reading.reset(token)


def outside_names(settings: Any) -> frozenset[str]:
    """The outside plug-ins that settings name, at any depth: a source may be made of several."""
    if isinstance(settings, str):
        return frozenset([settings] if _OUTSIDE.fullmatch(settings) else [])
    if isinstance(settings, Mapping):
        settings = [*settings, *settings.values()]
    return frozenset[str]().union(*map(outside_names, settings)) if isinstance(settings, list | tuple) else frozenset()


@cache
def names(kind: str) -> tuple[str, ...]:
    """The plug-ins of a kind that come with Bifocal, without importing any of them."""
    package = importlib.import_module(KINDS[kind])
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


def load(kind: str, name: str) -> Any:
    """The class behind a name.

    Raises
    ------
    UnknownPlugin
        With what is known and the nearest name, or with why an outside plug-in cannot be imported.
    PluginRefused
        Where a folder names an outside plug-in that is not allowed.
    """
    if not isinstance(name, str):
        raise UnknownPlugin(f"{name!r} is no name of one of the {kind}; known: {', '.join(names(kind))}")
    if ":" in name:
        return _from_outside(kind, name)
    if name not in names(kind):
        raise UnknownPlugin(f"there is no {name!r} among the {kind}; {nearest(name, names(kind))}")
    module = importlib.import_module(f"{KINDS[kind]}.{name}")
    return getattr(module, "".join(word.capitalize() for word in name.split("_")))


def _from_outside(kind: str, name: str) -> Any:
    module, _, class_name = name.partition(":")
    data = _reading.get()
    if data is not None and not data.allowed & {module, name}:
        raise PluginRefused(
            f"{data.where} names {name!r} among the {kind}: the module {module!r} is not Bifocal's, and a folder that "
            f"is loaded runs no code, so it was not imported. Where you trust it: allow_plugins=[{module!r}] in "
            f"Python, --allow-plugin {module} on the command line"
        )
    try:
        return getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownPlugin(f"outside plug-in {name!r} cannot be imported: {error}") from error


def _real(path: str | Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except FileNotFoundError:  # the current folder was taken away, and nothing is found in it
        return Path(path)


@contextmanager
def installed_first(folder: str | Path) -> Iterator[None]:
    """What lies in a folder that is loaded, or in the current one, takes the place of no installed module.

    Python looks in the current folder first, in a notebook and after ``python -c``: a ``torch.py`` there would be run
    in the place of torch, by whatever imports it first. Within, the current folder is not looked in at all, and
    afterwards last; the loaded folder never again.
    """
    here, whole = _real(os.curdir), _real(folder)
    own = [_real(Path(__file__).parents[1]), _real(sys.prefix), _real(sys.base_prefix)]

    def within(entry: str, outer: Path) -> bool:
        return _real(entry).is_relative_to(outer)

    others = [p for p in sys.path if not any(within(p, prefix) for prefix in own)]
    moved = [p for p in others if _real(p) == here or within(p, whole)]
    sys.path[:] = [p for p in sys.path if p not in moved]
    try:
        yield
    finally:
        sys.path.extend(p for p in moved if not within(p, whole) and p not in sys.path)


def options(kind: str, name: str, given: dict[str, Any], known: Any) -> Any:
    """Build a plug-in's pydantic options model, naming the plug-in in the error.

    Raises `ConfigError` on an unknown option (with the nearest name) or a wrong type.
    """
    from pydantic import ValidationError

    from .config import explain

    try:
        return known(**given)
    except ValidationError as error:
        raise ConfigError(f"{kind} {name!r}: {explain(error, known)}") from None
