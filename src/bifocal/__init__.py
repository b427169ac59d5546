"""Bifocal trains, fuses, calibrates and serves multimodal abuse classifiers, and proves whether fusion is worth it."""

from __future__ import annotations

import sys

# `python -m bifocal` looks for modules in the current folder first, where files lie that are not the user's own: a run
# from elsewhere, a `torch.py` beside it. The command `bifocal` does not look there. (Another package that is run by its
# name, and imports this one, keeps its folder.)
if (
    sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
    and sys.orig_argv[len(sys.orig_argv) - len(sys.argv)].removeprefix("-m").partition(".")[0] == __name__
    and sys.path[0] != __file__.rpartition(f"/{__name__}/")[0]  # Bifocal itself lies there: no stranger's folder
):
    del sys.path[0]

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import errors

if TYPE_CHECKING:
    from .client import AsyncClient, Client
    from .config import RunConfig
    from .system.decision import Decision
    from .system.system import System

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Decision", "RunConfig", "System", "__version__", "errors", "load", "run"]


def load(
    folder: str | Path,
    engine: str | None = None,
    *,
    strict_parity: bool = False,
    allow_plugins: Collection[str] = (),
) -> System:
    """Load the system that a run left in its folder: ``bifocal.load("runs/full").predict(text=…, image_path=…)``.

    An exported bundle is loaded the same way; ``engine`` takes the run's bundle for it. A folder is data: no module
    that it names is imported, but for those of ``allow_plugins``. See `System.load`.
    """
    from .plugins import installed_first

    with errors.extras_named(), installed_first(folder):
        from .system.system import System

        return System.load(folder, engine, strict_parity=strict_parity, allow_plugins=allow_plugins)


def run(
    config: RunConfig | str | Path, *, root: str | Path = "runs", start: str | None = None, until: str | None = None
) -> Path:
    """Run a configuration from source to report and give the run's folder; see `bifocal.pipeline.train.run`."""
    with errors.extras_named():
        from .pipeline import train

        return train.run(config, root=root, start=start, until=until)


def __getattr__(name: str) -> Any:
    # Heavy classes are imported when first asked for, so that `import bifocal` stays light.
    homes = {"System": "system.system", "Decision": "system.decision", "RunConfig": "config"}
    homes |= dict.fromkeys(("AsyncClient", "Client"), "client")
    if name not in homes:
        raise AttributeError(f"module 'bifocal' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{homes[name]}", __name__), name)
