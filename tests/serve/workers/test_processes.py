import asyncio
import io
import os
import random
import signal
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from PIL import Image

import bifocal
from bifocal.errors import BifocalError, DataError, PictureError, RunError
from bifocal.serve.workers import processes as workers
from bifocal.serve.workers.processes import Decoders, DecoderSettings, Model, ModelSource, Workers, WorkersDied
from bifocal.system.preprocessing import PackedPost


def picture(colour="red", size=(60, 40), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def system(small_run):
    return bifocal.load(small_run)


@pytest.fixture
def preparation(system):
    return DecoderSettings(system.config.model_dump_json(), system.text_role)


@pytest.fixture
def decoders(preparation):
    found = Decoders(preparation, 2, timeout=300, memory=2**30)
    yield found
    found.close()


def pids(pool):
    return sorted(process.process.pid for process in pool._processes.values())


def test_a_decoder_makes_the_post_that_the_system_would(decoders, system, tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    prepared = asyncio.run(decoders.prepare({"text": "a quiet morning", "image": picture()}))
    here = system.preprocessor.post({"text": "a quiet morning", "image": picture()})
    assert prepared.post.open().example == here.example
    assert prepared.post.open().views[0]["image"].tobytes() == here.views[0]["image"].tobytes()
    assert (
        system.decide([prepared.post.open()])[0].probability
        == system.predict("a quiet morning", tmp_path / "a.png").probability
    )
    assert len(prepared.text_hash) == len(prepared.image_hash) == 64 and prepared.kept == {}


def test_what_cannot_be_read_is_told_by_its_own_error(decoders):
    for given, error, told in (
        ({}, DataError, "a post needs text or image_path"),
        ({"image": b"nonsense"}, PictureError, "no picture of an allowed format"),
        ({"text": "words", "tabular": {"price": 3}}, DataError, "leave tabular out"),
        ({"text": "words", "link": "example.org"}, DataError, "leave link out"),
    ):
        with pytest.raises(error, match=told):
            asyncio.run(decoders.prepare(given))


def test_originals_are_encoded_anew(preparation, system):
    found = Decoders(
        DecoderSettings(preparation.config, preparation.text_role, originals=True), 1, timeout=300, memory=2**30
    )
    try:
        sent = picture() + b"PK\x03\x04 an archive behind the picture"
        kept = asyncio.run(found.prepare({"text": "words", "image": sent})).kept["picture"]
        assert kept != sent and b"archive" not in kept
        assert Image.open(io.BytesIO(kept)).size == (384, 384)
    finally:
        found.close()


def nap(seconds):
    time.sleep(seconds)
    return os.getpid()


def suicide(marker):
    """Kills its process the first time."""
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def half_an_answer(marker):
    """Dies amid its answer the first time."""
    if not marker.exists():
        marker.touch()
        (pipe,) = (fd for fd in list(Path("/proc/self/fd").iterdir()) if fd.is_socket())
        os.write(int(pipe.name), struct.pack("!i", 1_000) + b"half")
        os._exit(1)
    return "done"


def always():
    os.kill(os.getpid(), signal.SIGKILL)


def eat(mebibytes):
    return len(bytearray(mebibytes * 2**20))


@pytest.fixture
def pool():
    found = Workers(2, print)
    yield found
    found.close()


def test_a_task_whose_process_is_killed_is_done_by_another(pool, tmp_path):
    assert asyncio.run(pool.run(suicide, str(tmp_path / "once"), timeout=300)) == "done"
    assert pool.deaths == 1


def test_one_that_dies_amid_its_answer_is_dead_and_no_failed_task(pool, tmp_path):
    assert asyncio.run(pool.run(half_an_answer, tmp_path / "marker", timeout=300)) == "done"
    assert pool.deaths == 1


def test_a_task_that_kills_two_processes_is_given_up_and_harms_no_other(pool):
    async def both():
        return await asyncio.gather(
            pool.run(always, timeout=300), *(pool.run(nap, 0.2, timeout=300) for _ in range(6)), return_exceptions=True
        )

    deadly, *others = asyncio.run(both())
    assert isinstance(deadly, WorkersDied)
    assert all(isinstance(pid, int) for pid in others)


def test_processes_killed_at_random_moments_lose_no_task(pool):
    async def hunted():
        tasks = [asyncio.ensure_future(pool.run(nap, 0.1, timeout=300)) for _ in range(80)]
        rng = random.Random(0)
        for deaths in range(2):
            await asyncio.sleep(rng.uniform(0.5, 1.5))
            while pool.deaths < deaths or pool.starting:  # far enough apart that no task is hit twice
                await asyncio.sleep(0.05)
            os.kill(rng.choice(pids(pool)), signal.SIGKILL)
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(hunted())
    assert sum(isinstance(pid, int) for pid in found) == 80, [f for f in found if not isinstance(f, int)]


def test_a_task_that_takes_too_long_is_ended_and_its_process_with_it(pool):
    with pytest.raises(TimeoutError):
        asyncio.run(pool.run(nap, 60, timeout=0.5))
    assert isinstance(asyncio.run(pool.run(nap, 0.01, timeout=300)), int)


def test_who_stops_waiting_kills_no_process(pool):
    async def pids():
        return set(await asyncio.gather(*(pool.run(nap, 0.2, timeout=300) for _ in range(4))))

    async def leaving():
        before = await pids()
        task = asyncio.ensure_future(pool.run(nap, 0.5, timeout=300))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.sleep(0.6)
        return before, await pids()

    before, after = asyncio.run(leaving())
    assert before == after and len(before) == 2 and pool.deaths == 0


def test_a_decoder_has_so_much_memory_and_no_more(preparation):
    found = Decoders(preparation, 1, timeout=300, memory=200 * 2**20)
    try:
        with pytest.raises(MemoryError):
            asyncio.run(found.run(eat, 300, timeout=300))
        assert asyncio.run(found.run(eat, 20, timeout=300)) == 20 * 2**20
        with pytest.raises(PictureError, match="takes too much to decode|takes more than"):
            asyncio.run(found.prepare({"image": picture(size=(7_000, 7_000))}))  # 147 MB of pixels, and copies of them
        assert asyncio.run(found.prepare({"text": "words"})).post
    finally:
        found.close()


def test_models_that_are_killed_are_started_anew(small_run, system):
    model = Model(ModelSource(small_run), timeout=300, count=1)
    try:
        about = asyncio.run(model.load())
        assert (
            about.policy_version == system.policy_version
            and about.main == "mm_fusion"
            and about.reads == ("image", "text")
        )
        posts = [system.preprocessor.post({"text": "a quiet morning"}), system.preprocessor.post({"image": picture()})]
        packed = [PackedPost.of(post) for post in posts]
        here = [d.probability for d in system.decide(posts)]
        assert [d.probability for d in asyncio.run(model.decide(packed))] == pytest.approx(here, abs=1e-6)
        os.kill(model._processes[0].process.pid, signal.SIGKILL)
        assert [d.probability for d in asyncio.run(model.decide(packed))] == pytest.approx(here, abs=1e-6)
        assert model.deaths == 1 and model.ready
    finally:
        model.close()


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_one_that_dies_idle_is_loaded_again_and_ready_says_whether_another_is_there(small_run, wait_until, count):
    model = Model(ModelSource(small_run), timeout=300, count=count)
    try:
        asyncio.run(model.load())
        os.kill(model._processes[0].process.pid, signal.SIGKILL)
        wait_until(lambda: model.deaths == 1)
        assert model.ready or count == 1
        wait_until(lambda: model._processes[0].state == "well")
        assert model.ready
    finally:
        model.close()


def test_one_post_that_the_models_cannot_take_spoils_no_other(records_run):
    model = Model(ModelSource(records_run), timeout=300, count=1)
    try:
        preprocessor = bifocal.load(records_run).preprocessor
        posts = [
            preprocessor.post({"text": "a marble house"}),
            preprocessor.post({"tabular": {"colour": 3}}),
            preprocessor.post({"text": "plain house"}),
        ]
        one, other, third = asyncio.run(model.decide([PackedPost.of(post) for post in posts]))
        assert isinstance(other, BifocalError) and "colour" in str(other)
        assert one.label in (0, 1) and third.label in (0, 1)
    finally:
        model.close()


def test_a_folder_that_is_no_run_is_told_at_the_start(tmp_path):
    model = Model(ModelSource(tmp_path), timeout=300, count=1)
    try:
        with pytest.raises(RunError, match="is not a run folder"):
            asyncio.run(model.load())
    finally:
        model.close()


def test_processes_end_with_their_parent(tmp_path, wait_until):
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, os, time\n"
        "from bifocal.serve.workers import processes as workers\n"
        "if __name__ == '__main__':\n"
        "    pool = workers.Workers(2, os.getpid)\n"
        "    print(asyncio.run(pool.run(os.getpid, timeout=300)), flush=True)\n"
        "    time.sleep(60)\n"
    )
    import subprocess
    import sys

    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()

    def gone():
        try:
            return psutil.Process(child).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(gone)


def test_an_explanation_lets_posts_that_wait_go_first():
    """It is made in small tasks, each of them handed over only while no post waits; decisions are asked for as ever."""
    from bifocal.serve.explanations import Explanations
    from bifocal.serve.log.records import KeptPost

    model, tasks, waiting = Model.__new__(Model), [], [1]

    async def ask(task, *arguments, lost):
        tasks.append(task.__name__)
        if task is not workers._encode_some:
            return "said"
        assert not waiting
        waiting.append(1)  # another post comes meanwhile
        return 2 * workers.EXPLAIN_AT_ONCE + 1, b""

    async def kept(*post):
        return post

    async def run():
        loaded = SimpleNamespace(model=model, decoders=SimpleNamespace(restore=kept))
        model._ask = ask
        going = asyncio.create_task(Explanations(lambda: loaded, waiting).explain(KeptPost("words", None), grid=2))
        await asyncio.sleep(0.05)
        assert tasks == []
        while not going.done():
            waiting.clear()  # they are decided
            await asyncio.sleep(0.02)
        return going.result()

    assert asyncio.run(run()) == "said"
    assert tasks == ["_encode_some"] * 3 + ["_explain"]


def test_where_posts_keep_coming_an_explanation_has_a_tenth_of_the_time():
    from bifocal.serve import explanations as serving

    async def run(busy):
        explanations = serving.Explanations(lambda: None, [])
        await explanations.idle()
        explanations.lot_began -= 1.0  # the passes took a second
        waiting = asyncio.create_task(explanations.idle())
        for _ in range(20):
            if busy:
                explanations.posts_were_decided()
            await asyncio.sleep(0.01)
        rest = explanations.rest_until - serving.monotonic()
        waiting.cancel()
        return waiting.done(), rest

    assert asyncio.run(run(busy=False))[0]
    done, rest = asyncio.run(run(busy=True))
    assert not done and 0 < rest <= serving.REST * 2
