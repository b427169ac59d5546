"""Independent pieces of work in several threads; each result is the one that it would have alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

GLOBAL_RANDOM = threading.Lock()
"""Held by whoever seeds torch's global generator, which all threads share, and draws from it."""


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], progress: Callable[[int, int], None] | None = None
) -> list[Result]:
    """``[work(item) for item in items]``, as many side by side as torch may use threads.

    torch, numpy and LightGBM compute without Python's lock, and models as small as heads gain next to nothing from
    several threads each. A piece has one thread of torch, so that its sums do not depend on the number of cores; pieces
    of a piece run one after another. A single piece has all threads.

    Parameters
    ----------
    work : callable
        What is random in it belongs to generators of its own, or is drawn under `GLOBAL_RANDOM`.
    items : sequence
    progress : callable, optional
        Takes how many of the first items are done, and of how many.
    """
    threads, fused = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    if threads == 1 or len(items) <= 1:
        return _gathered(map(work, items), len(items), progress)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # a switch of the process, which heads turn off while they compute
    try:
        with ThreadPoolExecutor(min(threads, len(items)), "bifocal", torch.set_num_threads, (1,)) as pool:
            return _gathered(pool.map(work, items), len(items), progress)
    finally:
        torch.set_num_threads(threads)
        torch.backends.mha.set_fastpath_enabled(fused)


def _gathered(results: Iterator[Result], count: int, progress: Callable[[int, int], None] | None) -> list[Result]:
    found = []
    for result in results:
        found.append(result)
        if progress:
            progress(len(found), count)
    return found
