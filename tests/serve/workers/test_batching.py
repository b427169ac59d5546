import asyncio

import pytest

from bifocal.errors import DataError
from bifocal.serve.errors import Refused
from bifocal.serve.workers.batching import AdmissionControl, Batcher
from bifocal.system.preprocessing import PackedPost


def post(text="some words", pictures=0):
    return PackedPost({"text": text}, "text", max(1, pictures), pictures, b"")


class Models:
    """Stands in for the models: answers with the text, remembers its batches, and can be held up."""

    def __init__(self):
        self.batches = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, posts):
        self.batches.append([p.parts["text"] for p in posts])
        await self.go.wait()
        return [DataError("spoiled") if "bad" in t else f"decided {t}" for t in self.batches[-1]]


def served(test, *, tokens=4096, pictures=16, max_wait_ms=20.0, **more):
    """Run a test coroutine beside a batcher."""

    async def whole():
        model = Models()
        batcher = Batcher(model, tokens=tokens, pictures=pictures, max_wait_ms=max_wait_ms, **more)
        loop = asyncio.create_task(batcher.run())
        try:
            return await asyncio.wait_for(test(batcher, model), 20)
        finally:
            loop.cancel()

    return asyncio.run(whole())


def test_posts_that_come_at_once_share_a_batch_and_each_has_its_own_answer():
    async def test(batcher, model):
        said = await asyncio.gather(*(batcher.decide(post(f"post {i}")) for i in range(10)))
        assert said == [f"decided post {i}" for i in range(10)]
        assert len(model.batches) == 1

    served(test)


def test_a_lonely_post_waits_no_longer_than_it_is_told():
    async def test(batcher, model):
        start = asyncio.get_running_loop().time()
        await batcher.decide(post())
        assert asyncio.get_running_loop().time() - start < 1.0

    served(test, max_wait_ms=30.0)


def test_where_no_other_is_on_the_way_nobody_is_waited_for():
    async def test(batcher, model):
        await batcher.decide(post())
        assert model.batches == [["some words"]]

    served(test, max_wait_ms=1e9, on_the_way=lambda: False)


def test_so_many_batches_run_at_once():
    async def test(batcher, model):
        model.go.clear()
        tasks = [asyncio.create_task(batcher.decide(post(f"{i}", pictures=9))) for i in range(5)]
        await asyncio.sleep(0.05)
        assert len(model.batches) == 2 and len(batcher) == 3
        model.go.set()
        await asyncio.gather(*tasks)
        assert len(model.batches) == 5

    served(test, at_once=2)


def test_while_a_batch_is_computed_the_next_gathers():
    async def test(batcher, model):
        model.go.clear()
        first = asyncio.create_task(batcher.decide(post("first")))
        while not model.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.decide(post(f"later {i}"))) for i in range(5)]
        await asyncio.sleep(0.05)
        assert len(batcher) == 5 and not first.done()
        model.go.set()
        await asyncio.gather(first, *others)
        assert [len(b) for b in model.batches] == [1, 5]

    served(test)


def test_a_batch_costs_its_longest_text_times_its_size():
    async def test(batcher, model):
        texts = ["x" * 30] * 6 + ["y" * 900] * 3
        await asyncio.gather(*(batcher.decide(post(t)) for t in texts))
        # 30 characters are 12 tokens, 900 are 302: a long one fills a batch of 400 by itself, the short ones share one.
        assert sorted(len(b) for b in model.batches) == [1, 1, 1, 6]
        assert all(len({len(t) for t in b}) == 1 for b in model.batches)

    served(test, tokens=400)


def test_pictures_have_a_budget_of_their_own_and_every_frame_counts():
    async def test(batcher, model):
        await asyncio.gather(*(batcher.decide(post(f"a {i}", pictures=3)) for i in range(4)))
        assert [len(b) for b in model.batches] == [2, 2]

    served(test, pictures=7)


def test_a_post_larger_than_the_budget_still_runs():
    async def test(batcher, model):
        assert (await batcher.decide(post("z" * 9_000))).startswith("decided z")
        assert (await batcher.decide(post("frames", pictures=40))) == "decided frames"

    served(test, tokens=100, pictures=4)


def test_the_oldest_is_never_passed_over_for_good():
    async def test(batcher, model):
        model.go.clear()
        running = asyncio.create_task(batcher.decide(post("now")))
        while not model.batches:
            await asyncio.sleep(0.001)
        long = asyncio.create_task(batcher.decide(post("l" * 800)))
        await asyncio.sleep(0)
        short = [asyncio.create_task(batcher.decide(post(f"s{i}"))) for i in range(20)]
        await asyncio.sleep(0.01)
        model.go.set()
        await asyncio.gather(running, long, *short)
        assert model.batches[1] == ["l" * 800]

    served(test, tokens=300)


def test_a_bad_post_spoils_no_other():
    async def test(batcher, model):
        said = await asyncio.gather(*(batcher.decide(post(t)) for t in ("fine", "bad", "good")), return_exceptions=True)
        assert said[0] == "decided fine" and said[2] == "decided good"
        assert isinstance(said[1], DataError)

    served(test)


def test_who_gives_up_frees_the_place_and_is_not_computed():
    async def test(batcher, model):
        model.go.clear()
        running = asyncio.create_task(batcher.decide(post("now")))
        while not model.batches:
            await asyncio.sleep(0.001)
        leaving = asyncio.create_task(batcher.decide(post("leaving")))
        staying = asyncio.create_task(batcher.decide(post("staying")))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.sleep(0.01)
        assert len(batcher) == 1
        model.go.set()
        await asyncio.gather(running, staying)
        assert model.batches == [["now"], ["staying"]]

    served(test)


def test_models_that_fail_fail_the_posts_they_had_and_no_later_ones():
    async def test(batcher, model):
        async def broken(posts):
            raise RuntimeError("out of order")

        batcher.decide_on = broken
        with pytest.raises(Refused, match="the models failed"):
            await batcher.decide(post())
        batcher.decide_on = model
        assert await batcher.decide(post("again")) == "decided again"

    served(test)


def test_who_finds_no_place_is_told_when_to_come_again():
    places = AdmissionControl(2)
    with places.take(), places.take():
        with pytest.raises(Refused, match="2 posts are waiting, at most 2 may") as refused, places.take():
            pass
        assert refused.value.status == 429 and refused.value.retry_after >= 1
    assert places.taken == 0
    with pytest.raises(ValueError), places.take():
        raise ValueError
    assert places.taken == 0
