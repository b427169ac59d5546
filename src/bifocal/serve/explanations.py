"""Explanations, made one at a time in the time that posts leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from time import monotonic
from typing import TYPE_CHECKING

from .errors import Refused
from .log.records import KeptPost
from .posts import IncomingPost
from .served_models import ServedModels
from .workers.batching import AdmissionControl

if TYPE_CHECKING:
    from ..system.explain import Explanation

EXPLANATIONS = 8
"""Explanations that are made or wait to be made; more are refused."""
EXPLAIN_S = 60.0
"""Seconds after which an explanation is given up."""
REST = 9
"""Times as long as encoder passes for an explanation took no others are made, where posts keep coming."""
BUSY_S = 1.0
"""Seconds since posts were decided within which more are expected."""


class Explanations:
    """Why posts are decided as they are.

    One explanation is made at a time, a few encoder passes after another, while no post waits for the models; and
    where posts keep coming, these passes have a tenth of the models' time: to be told what was decided goes before
    to be told why.

    Parameters
    ----------
    served : callable
        What decides now.
    waiting : sized
        The posts that wait for the models.
    """

    def __init__(self, served: Callable[[], ServedModels], waiting: Sized):
        self.served = served
        self.waiting = waiting
        self.admission = AdmissionControl(EXPLANATIONS)
        self.making = asyncio.Lock()
        self.lot_began: float | None = None
        self.rest_until = 0.0
        self.last_batch = -BUSY_S

    async def explain(self, post: IncomingPost | KeptPost, *, grid: int, label: str | None = None) -> Explanation:
        """Of a post that comes, its text no longer than the service reads, or of one that was kept; nothing is logged.

        ``label`` is the one of several whose answer is explained; None = the first.

        Raises
        ------
        Refused
            ``overloaded`` where others wait for explanations, or posts leave no time for one.
        BifocalError
            Where the post cannot be used, or the label is not asked of it.
        """
        with self.admission.take():
            decoders = self.served().decoders
            if isinstance(post, KeptPost):
                packed = await decoders.restore(post.columns)
            else:
                packed = (await decoders.prepare(post.parts)).post
            try:
                async with asyncio.timeout(EXPLAIN_S), self.making:
                    try:
                        return await self.served().model.explain(packed, grid, label, self.idle)
                    finally:
                        self._rest()
            except TimeoutError:
                raise Refused(
                    "overloaded",
                    f"the models had no time for an explanation within {EXPLAIN_S:g} s: posts go first; try again",
                    retry_after=10,
                ) from None

    def posts_were_decided(self) -> None:
        """More are expected now, for a while."""
        self.last_batch = monotonic()

    async def idle(self) -> None:
        """Until no post waits for the models, and, where posts keep coming, they have had their share of the time."""
        self._rest()
        while len(self.waiting) or (monotonic() < self.rest_until and monotonic() - self.last_batch < BUSY_S):
            await asyncio.sleep(0.005)
        self.lot_began = monotonic()

    def _rest(self) -> None:
        """The passes that were made are paid for with nine times their time."""
        now = monotonic()
        if self.lot_began is not None:
            self.rest_until = now + REST * (now - self.lot_began)
        self.lot_began = None
