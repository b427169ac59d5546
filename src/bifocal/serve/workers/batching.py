"""Micro-batching: posts that come at once share one forward pass of each encoder."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from ...errors import BifocalError
from ..errors import Refused

if TYPE_CHECKING:
    from ...system.decision import Decision
    from ...system.preprocessing import PackedPost
    from ..served_models import WithShadow

    Decide = Callable[[Sequence[PackedPost]], Awaitable[Sequence[Decision | WithShadow | BifocalError]]]

CHARACTERS_PER_TOKEN = 3
"""Fewer than tokenizers make of most languages: a batch is rather too small than too large."""


class AdmissionControl:
    """How many posts may be in the house at once; who finds none is told when to come again."""

    def __init__(self, limit: int):
        self.limit = limit
        self.taken = 0
        self.seconds_each = 0.1
        """A running mean of how far apart posts leave."""
        self._left: float | None = None

    @contextmanager
    def take(self) -> Iterator[None]:
        """A place for one post. Raises `Refused` (``overloaded``) where all are taken."""
        if self.taken >= self.limit:
            wait = max(1.0, self.taken * self.seconds_each)
            raise Refused(
                "overloaded",
                f"{self.taken} posts are waiting, at most {self.limit} may: try again in {wait:.0f} s",
                retry_after=wait,
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
            left, self._left = self._left, monotonic()
            if left is not None and self.taken:
                self.seconds_each = 0.9 * self.seconds_each + 0.1 * (self._left - left)


@dataclass(eq=False, slots=True)
class _Waiting:
    post: PackedPost
    tokens: int
    pictures: int
    future: asyncio.Future[Decision | WithShadow | BifocalError]
    since: float = field(default_factory=monotonic)


class Batcher:
    """Gathers posts, decides on them together, and gives each its own answer.

    The post that has waited longest goes first, and takes with it those whose texts are of like length, until a
    budget is spent: a batch costs what its longest text costs, times its size. While a batch is computed the next
    gathers; only where the models are idle and more posts are on the way does a post wait for company, and no longer
    than ``max_wait_ms``.

    Parameters
    ----------
    decide : coroutine function
        Posts -> a Decision or an error for each.
    tokens, pictures : int
        A batch has no more of either, padding counted; one post that has more goes alone.
    at_once : int
        Batches that are computed at the same time.
    on_the_way : callable, optional
        Whether more posts are soon to come.
    on_batch : callable, optional
        Told the size of each batch and the seconds that it took.
    """

    def __init__(
        self,
        decide: Decide,
        *,
        tokens: int,
        pictures: int,
        max_wait_ms: float,
        at_once: int = 1,
        on_the_way: Callable[[], bool] = lambda: True,
        on_batch: Callable[[int, float], None] | None = None,
    ):
        self.decide_on = decide
        self.tokens = tokens
        self.pictures = pictures
        self.max_wait_s = max_wait_ms / 1000
        self.at_once = at_once
        self.on_the_way = on_the_way
        self.on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._came = asyncio.Event()

    def __len__(self) -> int:
        """Posts that wait."""
        return len(self._waiting)

    async def decide(self, post: PackedPost) -> Decision | WithShadow:
        """The Decision on one post; who stops waiting (cancels) frees its place.

        Raises
        ------
        BifocalError
            What the models say of this post.
        Refused
            Where they cannot be asked.
        """
        characters = sum(len(part) for part in post.parts.values() if isinstance(part, str))
        mine = _Waiting(
            post,
            post.views * (characters // CHARACTERS_PER_TOKEN + 2),
            post.pictures,
            asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(mine)
        self._came.set()
        try:
            result = await mine.future
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if isinstance(result, BifocalError):
            raise result
        return result

    async def run(self) -> None:
        """Make batches for ever; cancel it to end."""
        running: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            self._came.set()

        try:
            while True:
                await self._came.wait()
                self._came.clear()
                while self._waiting and len(running) < self.at_once:
                    if not running:
                        await self._company()
                    if batch := self._take():
                        task = asyncio.create_task(self._answer(batch))
                        running.add(task)
                        task.add_done_callback(ended)
        finally:
            for task in list(running):
                task.cancel()

    async def _company(self) -> None:
        """Wait for more posts, unless none is on the way, they fill a batch, or the first has waited long enough."""
        while self._waiting and self.on_the_way() and not self._full():
            left = self._waiting[0].since + self.max_wait_s - monotonic()
            if left <= 0:
                return
            self._came.clear()
            try:
                async with asyncio.timeout(left):
                    await self._came.wait()
            except TimeoutError:
                return

    def _full(self) -> bool:
        return (
            sum(w.pictures for w in self._waiting) >= self.pictures
            or len(self._waiting) * max(w.tokens for w in self._waiting) >= self.tokens
        )

    def _take(self) -> list[_Waiting]:
        """The oldest, and those nearest to it in length that the budget allows; the older first among equals."""
        if not self._waiting:
            return []
        first = self._waiting[0]
        batch, longest, pictures = [first], first.tokens, first.pictures
        others = sorted(list(self._waiting)[1:], key=lambda w: abs(w.tokens.bit_length() - first.tokens.bit_length()))
        for other in others:
            padded = max(longest, other.tokens) * (len(batch) + 1)
            if padded <= self.tokens and pictures + other.pictures <= self.pictures:
                batch.append(other)
                longest, pictures = max(longest, other.tokens), pictures + other.pictures
        taken = set(map(id, batch))
        self._waiting = deque(w for w in self._waiting if id(w) not in taken)
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        start = monotonic()
        try:
            results = await self.decide_on([waiting.post for waiting in batch])
        except Exception as error:
            failed = error if isinstance(error, BifocalError) else Refused("internal", f"the models failed: {error!r}")
            results = [failed] * len(batch)
        if self.on_batch:
            self.on_batch(len(batch), monotonic() - start)
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():  # its client may be gone
                waiting.future.set_result(result)
