"""Decisions on their way into the log: together, each for itself where one is refused, and none that was given up."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

from bifocal.serve.errors import Refused
from bifocal.serve.log.batch_writer import BatchWriter
from bifocal.serve.log.records import NotStorable, StoreFull, StoreGone


class Log:
    """Takes rows; refuses those that are named, and waits where it is told to."""

    def __init__(self):
        self.rows, self.batches, self.refused, self.error = [], [], set(), NotStorable
        self.before, self.after = threading.Event(), threading.Event()
        self.before.set()
        self.after.set()
        self.sealing = threading.Event()

    def write(self, rows, seal):
        self.before.wait(10)
        self.batches.append(list(rows))
        if self.refused & set(rows):
            raise self.error("refuses")
        seal()
        self.sealing.set()
        self.after.wait(10)
        self.rows += rows


@asynccontextmanager
async def running(log):
    writer = BatchWriter(log.write)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        log.before.set()
        log.after.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def outcomes(writer, rows):
    return await asyncio.gather(*map(writer.record, rows), return_exceptions=True)


def test_a_row_that_is_refused_costs_no_other():
    async def story():
        log = Log()
        log.refused = {7, 31}
        async with running(log) as writer:
            told = await outcomes(writer, range(60))
        assert [i for i, one in enumerate(told) if one is not None] == [7, 31]
        assert {one.kind for one in told if one is not None} == {"unusable"}
        assert sorted(log.rows) == sorted(set(range(60)) - {7, 31})

    asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "kind"), [(StoreGone, "unavailable"), (StoreFull, "storage_full"), (ValueError, "internal")]
)
def test_a_log_that_is_away_is_not_asked_for_each(error, kind):
    async def story():
        log = Log()
        log.refused, log.error = {0}, error
        async with running(log) as writer:
            told = await outcomes(writer, range(9))
        assert {one.kind for one in told} == {kind} and len(log.batches) == 1 and log.rows == []

    asyncio.run(story())


def test_what_was_given_up_is_not_written_and_the_rest_is():
    async def story():
        log = Log()
        log.before.clear()  # the database is locked
        async with running(log) as writer:
            tasks = [asyncio.create_task(writer.record(i)) for i in range(4)]
            await asyncio.sleep(0.05)
            tasks.append(asyncio.create_task(writer.record(4)))  # waits for the next transaction
            await asyncio.sleep(0.05)
            for i in (1, 4):
                tasks[i].cancel()
            await asyncio.wait([tasks[1], tasks[4]])
            log.before.set()
            await asyncio.gather(tasks[0], tasks[2], tasks[3])
            await writer.record(5)
        assert tasks[1].cancelled() and tasks[4].cancelled() and sorted(log.rows) == [0, 2, 3, 5]

    asyncio.run(story())


def test_a_deadline_in_the_midst_of_a_commit_waits_for_its_end():
    async def story():
        log = Log()
        log.after.clear()
        async with running(log) as writer:

            async def within():
                async with asyncio.timeout(0.05):
                    await writer.record(1)
                return "told"

            task = asyncio.create_task(within())
            await asyncio.to_thread(log.sealing.wait, 10)
            await asyncio.sleep(0.2)
            assert not task.done()
            log.after.set()
            assert await task == "told" and log.rows == [1]
            log.refused = {2}
            with pytest.raises(Refused):
                await writer.record(2)

    asyncio.run(story())
