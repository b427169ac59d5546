"""Finds plug-ins by file name: the file name IS the registration.

``load("fusions", "concat")`` gives the class ``Concat`` of ``bifocal/models/fusions/concat.py``. A plug-in from
outside is named ``package.module:Class`` and needs no registration either.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from .errors import ConfigError, UnknownPlugin, nearest

KINDS = {
    "modalities": "bifocal.modalities",
    "sources": "bifocal.sources",
    "encoders": "bifocal.models.encoders",
    "fusions": "bifocal.models.fusions",
    "joint": "bifocal.models.joint",
}


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
    """
    if ":" in name:
        module_name, _, class_name = name.partition(":")
        try:
            return getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise UnknownPlugin(f"outside plug-in {name!r} cannot be imported: {error}") from error
    if name not in names(kind):
        raise UnknownPlugin(f"there is no {name!r} among the {kind}; {nearest(name, names(kind))}")
    module = importlib.import_module(f"{KINDS[kind]}.{name}")
    return getattr(module, "".join(word.capitalize() for word in name.split("_")))


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
