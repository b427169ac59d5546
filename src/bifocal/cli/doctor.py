"""What is installed, which accelerator is there, which models are cached, and how much disk is free."""

from __future__ import annotations

import os
from importlib import metadata, util
from pathlib import Path
from typing import Any

from ..errors import EXTRA_OF
from .options import Json, Runs


def doctor(runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """What is installed, which accelerator, which models are cached, free disk."""
    from .console import print_counts

    print_counts(examine(runs), as_json)


def examine(runs: Path) -> dict[str, Any]:
    """Look at this machine. Reads only; never downloads.

    Returns
    -------
    dict
        ``versions``, ``missing_extras`` (extra -> pip command), ``accelerator``, ``models`` (hub ids in the cache),
        ``cache``, ``offline``, ``disk_free_gib``, ``runs`` (names below ``runs``).
    """
    from ..workspace import free_bytes, versions

    missing = sorted({extra for package, extra in EXTRA_OF.items() if util.find_spec(package) is None})
    cache = _cache()
    return {
        "versions": versions(),
        "missing_extras": {extra: f"pip install 'bifocal[{extra}]'" for extra in missing},
        "accelerator": _accelerator(),
        "cores": os.cpu_count(),
        "cache": str(cache),
        "models": sorted(p.name.removeprefix("models--").replace("--", "/") for p in cache.glob("models--*")),
        "offline": _offline(),
        "disk_free_gib": round(free_bytes(runs) / 2**30, 1),
        "runs": sorted(p.parent.name for p in runs.glob("*/run.json")),
    }


def _cache() -> Path:
    from ..config import expand_home

    if util.find_spec("huggingface_hub") is None:
        return expand_home(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _offline() -> bool:
    if util.find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return bool(HF_HUB_OFFLINE)


def _accelerator() -> str:
    if util.find_spec("torch") is None:
        return "unknown: torch is not installed"
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free, bf16 {torch.cuda.is_bf16_supported()}"
    if torch.backends.mps.is_available():
        return "Apple MPS"
    return f"none (CPU, {torch.get_num_threads()} threads, torch {metadata.version('torch')})"
