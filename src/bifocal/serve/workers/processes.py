"""The processes behind the service: decoders that take pictures apart under limits, and those that hold the models.

Whatever a hostile file does to a decoder, or a crash to a model, happens in a process of its own, which is started
anew; the requests of others never notice.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import pickle
import queue
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ...config import RunConfig
from ...decide.policy import POOLED, Policy
from ...errors import BifocalError, ModelError, PictureError, RunError
from ...modalities import PICTURE, TEXT
from ...modalities.text import MAX_CHARACTERS
from ...scale.local import end_with_parent
from ...system.parity_probe import ParityWarning
from ...system.preprocessing import PackedPost, Preprocessor
from ..errors import Refused

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ...contracts import TextRole
    from ...system.decision import Decision
    from ...system.explain import Covered, Explanation
    from ...system.system import System

Result = TypeVar("Result")
_IDLE_LOOK_S = 0.5
_START_LIMIT_S = 600.0
_AGAIN_S = 1.0
_MISSES = 5
_CONTEXT = multiprocessing.get_context("forkserver")  # a fork of a process with threads may hang
EXPLAIN_AT_ONCE = 4
"""Encoder passes of an explanation that one task makes: as long as a post that is to be decided may wait for it."""


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """What a decoder has to know of a run."""

    config: str
    """The run's configuration, as JSON."""
    text_role: TextRole
    hashes: bool = False
    """Whether pictures are hashed, for the lists of known ones."""
    originals: bool = False
    """Whether what came is to be kept; pictures are encoded anew for it."""
    max_text: int = MAX_CHARACTERS
    """Characters of a text that are read."""


@dataclass(frozen=True, slots=True)
class PreparedPost:
    """A post as a decoder hands it back."""

    post: PackedPost
    text_hash: str | None
    """SHA-256 of the text as it came."""
    image_hash: str | None
    """SHA-256 of the picture's file."""
    known: tuple[str, int] | None
    """PDQ hash and quality of the picture."""
    kept: Mapping[str, Any]
    """What the log keeps of it, as `Preprocessor.keep` gives it; nothing where it is told to keep nothing."""


@dataclass(frozen=True, slots=True)
class LabelDescription:
    """What the service tells of one of a run's labels."""

    classes: tuple[int | str, ...]
    threshold: float | None
    """Of the model that decides, whatever parts are there; None = the likeliest class."""
    act: Literal["block", "review", "none"]
    requires: str | None
    """The label whose flagged posts alone it is about."""

    @classmethod
    def of(cls, policy: Policy, main: str) -> LabelDescription:
        return cls(policy.classes, policy.threshold(main, POOLED), policy.act, policy.requires)


@dataclass(frozen=True)
class ModelDescription:
    """What the service tells of the models that it runs."""

    folder: Path
    engine: str
    config: RunConfig
    text_role: TextRole
    policy: dict[str, Any]
    policy_version: str
    main: str
    classes: tuple[int | str, ...]
    probability_key: str
    reads: tuple[str, ...]
    columns: tuple[str, ...]
    labels: Mapping[str, LabelDescription]
    """Every label of the run, the first one first."""

    @property
    def truncation(self) -> dict[str, Literal["review"] | None]:
        """As `Policy.truncation` of each label."""
        policies = {name: self.policy_of(name) for name in self.labels}
        return {name: None if of.get("act") == "none" else of["truncated"] for name, of in policies.items()}

    def policy_of(self, label: str) -> dict[str, Any]:
        """What holds for one label."""
        further: Mapping[str, dict[str, Any]] = self.policy.get("labels", {})
        return further.get(label, self.policy)


def import_beforehand(torch: bool) -> None:
    """Have the processes to come forked from one that has imported what they need.

    Torch and transformers take seconds to import, far more on a slow or busy machine; a post whose only model process
    died would be given up (`ServeConfig.deadline_s`) before the next one could decide it. Forked, it can in a moment.

    Parameters
    ----------
    torch : bool
        Whether models are run by torch; exported ones need nothing of it.
    """
    engines = ["bifocal.system.torch_engine", "bifocal.models.hf"] if torch else ["bifocal.system.onnx_engine"]
    _CONTEXT.set_forkserver_preload([__name__, "bifocal.system.system", "bifocal.data.compose", *engines])


# ------------------------------------------------------------------------------------------------ in a decoder


@lru_cache(maxsize=2)
def _preprocessor(decoder_settings: DecoderSettings) -> Preprocessor:
    return Preprocessor(
        RunConfig.model_validate_json(decoder_settings.config), decoder_settings.text_role, decoder_settings.max_text
    )


def _start_decoder(decoder_settings: DecoderSettings, memory: int) -> None:
    """Load what is needed, so that the first post does not wait for it, and let this process have so much more."""
    from ...data.compose import detect_language

    detect_language("words")
    preprocessor = _preprocessor(decoder_settings)
    try:
        for used in preprocessor.transcribers:
            if used.reads:
                used.transcriber.load()
    except BifocalError:
        return  # `prepare` will say it
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _prepare(decoder_settings: DecoderSettings, parts: Mapping[str, Any]) -> PreparedPost:
    preprocessor = _preprocessor(decoder_settings)
    post = preprocessor.post(parts)
    words, picture = parts.get(TEXT), parts.get(PICTURE)
    return PreparedPost(
        PackedPost.of(post),
        None if words is None else hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest(),
        None if picture is None else hashlib.sha256(picture).hexdigest(),
        _hashed(picture) if decoder_settings.hashes and picture is not None else None,
        preprocessor.keep(post) if decoder_settings.originals else {},
    )


def _prepare_kept(decoder_settings: DecoderSettings, columns: Mapping[str, Any]) -> PackedPost:
    return PackedPost.of(_preprocessor(decoder_settings).restore(columns))


def _hashed(picture: bytes) -> tuple[str, int]:
    from ...modalities.image import decode, picture_hash

    return picture_hash(decode(picture))


# ------------------------------------------------------------------------------------------------ beside a model


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a model's processes load."""

    folder: Path
    engine: str | None = None
    strict_parity: bool = False
    allow_plugins: tuple[str, ...] = ()
    """See `System.load`."""


@lru_cache(maxsize=1)
def _system(source: ModelSource) -> System:
    from ... import load

    with warnings.catch_warnings(record=True) as told:
        system = load(
            source.folder, source.engine, strict_parity=source.strict_parity, allow_plugins=source.allow_plugins
        )
    for warning in told:
        if issubclass(warning.category, ParityWarning):
            print(f"warning: {warning.message}", file=sys.stderr, flush=True)  # noqa: T201
    return system


def _describe(source: ModelSource) -> ModelDescription:
    system = _system(source)
    return ModelDescription(
        source.folder,
        system.engine.name,
        system.config,
        system.text_role,
        system.policy.model_dump(mode="json"),
        system.policy_version,
        system.main,
        system.label.classes,
        system.label.probability,
        tuple(sorted(system.reads)),
        tuple(sorted(system.columns)),
        {name: LabelDescription.of(system.policy.of_label(name), system.main) for name in system.policy.label_names},
    )


def _decide(source: ModelSource, posts: Sequence[PackedPost]) -> list[Decision | BifocalError]:
    system, opened = _system(source), [post.open() for post in posts]
    results: list[Decision | BifocalError | None] = [None] * len(posts)
    fit = []
    for i, post in enumerate(opened):
        try:
            system.check(post)
            fit.append(i)
        except BifocalError as error:
            results[i] = error
    try:
        for i, decision in zip(fit, system.decide([opened[i] for i in fit]), strict=True):
            results[i] = decision
    except Exception as error:  # one post may spoil the pass of all: each by itself
        if len(fit) == 1:
            results[fit[0]] = ModelError(f"the models cannot decide on this post ({type(error).__name__})")
        else:
            for i in fit:
                results[i] = _decide(source, [posts[i]])[0]
    return [r for r in results if r is not None]


@lru_cache(maxsize=1)
def _covered(source: ModelSource, blob: bytes, grid: int, label: str | None) -> Covered:
    """The versions of a post that is being explained, a few at a time."""
    from ...system.explain import Covered

    system, post = _system(source), pickle.loads(blob)
    system.check(post)
    return Covered.of(system, post, grid, label)


def _encode_some(
    source: ModelSource, packed: PackedPost, grid: int, label: str | None, start: int
) -> tuple[int, bytes]:
    """How many versions of a post there are, and what the experts say of the next few of them.

    In Python's own format, which only a process that holds models opens: the service itself has no tensors.
    """
    covered = _covered(source, packed.blob, grid, label)
    evidence = _system(source).engine.evidence(covered.versions(start, start + EXPLAIN_AT_ONCE))
    return len(covered), pickle.dumps(evidence)


def _explain(
    source: ModelSource, packed: PackedPost, grid: int, label: str | None, encoded: Sequence[bytes]
) -> Explanation:
    from ...system.explain import explained, joined

    covered = _covered(source, packed.blob, grid, label)
    _covered.cache_clear()  # nothing of a post stays
    return explained(_system(source), covered, joined([pickle.loads(part) for part in encoded]), label)


def _start_model(source: ModelSource, threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:  # imported beforehand, when it read another number
        sys.modules["torch"].set_num_threads(threads)
    _system(source)


# ------------------------------------------------------------------------------------------------ in the service


class Workers:
    """Processes that do one thing at a time each; one that dies is started anew, and its task done once more.

    Each has a pipe and a thread of its own and shares no lock with the others, so that none can take another down with
    it: of the pools that are to be had, one breaks whole when a process is killed, and one waits a minute for a lock
    that a dead process held.

    Parameters
    ----------
    count : int
    start, arguments
        What each process runs first. One in which that raises is started anew after a while, and takes tasks, which may
        tell why, only where no other can.
    name : str
        What the processes are called, after ``bifocal-``, for who looks at those of a machine (``ps -o pid,comm``).
    """

    def __init__(self, count: int, start: Callable[..., None], *arguments: Any, name: str = "worker"):
        self.deaths = 0
        self._start = start, arguments, name
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._closed = threading.Event()
        self._processes: dict[int, _Process] = {}
        self._threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def starting(self) -> bool:
        """Whether one is not past its start."""
        return any(process.state == "starting" for process in list(self._processes.values()))

    @property
    def ready(self) -> bool:
        """Whether one is past its start and did not fail in it."""
        return any(process.state == "well" for process in list(self._processes.values()))

    async def run(self, task: Callable[..., Result], *arguments: Any, timeout: float) -> Result:
        """The result of a task; who is cancelled before it has begun takes it back.

        Raises
        ------
        TimeoutError
            Where it takes longer than ``timeout`` seconds, its wait for a process not counted; that process is ended.
        WorkersDied
            Where two processes died of it.
        Exception
            What the task raises.
        """
        made = _Task(task, arguments, timeout)
        self._tasks.put(made)
        result: Result = await asyncio.wrap_future(made.future)
        return result

    def close(self) -> None:
        """End the processes, whatever they do."""
        self._closed.set()
        for _ in self._threads:
            self._tasks.put(None)
        for process in list(self._processes.values()):
            process.kill()
        for thread in self._threads:
            thread.join()

    def _serve(self, number: int) -> None:
        process = self._begun(number)
        while True:
            if process.state == "ill" and self.ready and not self._closed.is_set():  # the others do its work meanwhile
                self._closed.wait(_AGAIN_S)
                process.reap()
                process = self._begun(number)
                continue
            try:
                task = self._tasks.get(timeout=_IDLE_LOOK_S)
            except queue.Empty:
                task = _NOTHING
            if task is None:
                break
            if not process.alive():  # died idle, or at its start
                self.deaths += 1
                if task is not _NOTHING:
                    task.misses += 1
                    self._again(task)
                process = self._anew(number, process)
                continue
            if task is _NOTHING or not task.begin():
                continue
            try:
                good, value = process.ask(task)
            except TimeoutError as error:
                good, value = False, error
                self.deaths += 1
                process = self._anew(number, process)
            except _Ended:
                task.deaths += 1
                self.deaths += 1  # before another process answers the task
                self._again(task)
                process = self._anew(number, process)
                continue
            except Exception as error:  # its arguments cannot be sent
                good, value = False, error
            if good:
                task.future.set_result(value)
            else:
                task.future.set_exception(value)
        process.reap()

    def _again(self, task: _Task) -> None:
        """Leave a task to whoever is free, since a new process is not for a while; or give it up."""
        if self._closed.is_set():
            task.give_up(Refused("unavailable", "the service is closing"))
        elif task.deaths == 2 or task.misses == _MISSES:
            task.give_up(WorkersDied())
        else:
            self._tasks.put(task)

    def _begun(self, number: int) -> _Process:
        with self._starting:
            process = self._processes[number] = _Process(self._start)
        if self._closed.is_set():
            process.kill()
        process.wait()
        return process

    def _anew(self, number: int, process: _Process) -> _Process:
        process.reap()
        return self._begun(number)


class _Task:
    def __init__(self, task: Callable[..., Any], arguments: tuple[Any, ...], timeout: float):
        self.asked = task, arguments
        self.timeout = timeout
        self.future: Future[Any] = Future()
        self.deaths = 0
        """Processes that died of it."""
        self.misses = 0
        """Processes that were dead when they should have begun it."""

    def give_up(self, error: Exception) -> None:
        if self.begin():
            self.future.set_exception(error)

    def begin(self) -> bool:
        """Whether it is still asked for."""
        return self.future.running() or self.future.set_running_or_notify_cancel()


_NOTHING = _Task(print, (), 0)
"""Stands for no task, while processes are looked after."""


_OTHER_END_GONE = (EOFError, OSError)
"""What a pipe raises whose other end has died: the latter where it did amid a message."""


class _Ended(Exception):
    """The process is gone."""


class _Process:
    state: Literal["starting", "well", "ill"] = "starting"

    def __init__(self, start: tuple[Callable[..., None], tuple[Any, ...], str]):
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_obey, args=(theirs, *start), daemon=True)
        self.process.start()
        theirs.close()

    def alive(self) -> bool:
        return self.process.is_alive()

    def wait(self) -> None:
        """Until it is past its start, or has ended in it."""
        try:
            if not self.pipe.poll(_START_LIMIT_S):
                self.kill()
            self.state = "well" if self.pipe.recv() else "ill"
        except _OTHER_END_GONE:
            self.state = "ill"

    def ask(self, task: _Task) -> tuple[bool, Any]:
        """Whether it went well, and the result or the error. Raises `_Ended`, `TimeoutError`."""
        try:
            self.pipe.send(task.asked)
            if not self.pipe.poll(task.timeout):
                raise TimeoutError(f"more than {task.timeout:g} s")
            answer: tuple[bool, Any] = self.pipe.recv()
            self.state = "well" if answer[0] else self.state
            return answer
        except TimeoutError:
            raise
        except _OTHER_END_GONE:
            raise _Ended from None

    def kill(self) -> None:
        """End it; any thread may, and whoever waits for its answer hears that it ended."""
        self.process.kill()

    def reap(self) -> None:
        """End it and let go of its pipe; for the thread that owns it."""
        self.kill()
        self.process.join()
        self.pipe.close()


def _obey(pipe: Connection, start: Callable[..., None], arguments: tuple[Any, ...], name: str) -> None:
    """The life of a process: do what is asked, one thing after another."""
    with suppress(OSError):  # Linux alone has it
        Path("/proc/self/comm").write_text(f"bifocal-{name}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the service ends us
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        start(*arguments)
        pipe.send(True)
    except Exception:
        pipe.send(False)
    while True:
        try:
            task, given = pipe.recv()
        except _OTHER_END_GONE:
            return
        try:
            answer = True, task(*given)
        except BaseException as error:
            answer = False, error
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return
        except Exception as error:  # what cannot be sent is told by its name
            pipe.send((False, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]} ({error})")))


class WorkersDied(Exception):
    """Two processes died of one task."""


class Decoders(Workers):
    """Prepares posts in processes of their own."""

    def __init__(self, decoder_settings: DecoderSettings, count: int, *, timeout: float, memory: int):
        self.decoder_settings = decoder_settings
        self.timeout = timeout
        super().__init__(count, _start_decoder, decoder_settings, memory, name="decoder")

    async def prepare(self, parts: Mapping[str, Any]) -> PreparedPost:
        """One post of these parts.

        Raises
        ------
        DataError
            As `Preprocessor.post`; where the picture takes too long, too much memory, or its decoder down.
        """
        return await self._ask(_prepare, parts)

    async def restore(self, columns: Mapping[str, Any]) -> PackedPost:
        """A post of what the log kept of one. Raises as `Preprocessor.restore`, and as `prepare`."""
        return await self._ask(_prepare_kept, columns)

    async def _ask(self, task: Callable[..., Result], *post: Any) -> Result:
        try:
            return await self.run(task, self.decoder_settings, *post, timeout=self.timeout)
        except TimeoutError:
            raise PictureError(
                f"the post takes more than {self.timeout:g} s to read: send a smaller picture or a shorter text"
            ) from None
        except (WorkersDied, MemoryError):
            raise PictureError("the picture takes too much to decode: scale it down, or convert it") from None


class Model(Workers):
    """The models of one run or bundle, in processes of their own."""

    def __init__(self, source: ModelSource, *, timeout: float, count: int):
        self.source = source
        self.timeout = timeout
        super().__init__(count, _start_model, source, max(1, (os.cpu_count() or 1) // count), name="model")

    async def load(self) -> ModelDescription:
        """What they are, once every process has them. Raises what `bifocal.load` raises."""
        try:
            about = await self.run(_describe, self.source, timeout=10 * self.timeout)
        except (TimeoutError, WorkersDied):
            raise ModelError(f"the models in {self.source.folder} cannot be loaded: their process ended") from None
        while self.starting:
            await asyncio.sleep(0.05)
        return about

    async def decide(self, posts: Sequence[PackedPost]) -> list[Decision | BifocalError]:
        """A Decision, or an error, for each post. Raises `Refused` where the process ended twice, or hangs."""
        return await self._ask(_decide, posts, lost="the models ended on these posts; they are started anew")

    async def explain(
        self, post: PackedPost, grid: int, label: str | None, between: Callable[[], Awaitable[None]]
    ) -> Explanation:
        """Why a post is decided as it is, by one of several labels or the first.

        Raises as `System.explain`, and as `decide`.

        It takes an encoder pass for every piece of the post: a few at a time, and ``between`` is awaited before each
        few, so that posts that wait for a decision go first.
        """
        lost = "this post cannot be explained: the models ended on it"
        encoded: list[bytes] = []
        versions = 1
        while len(encoded) * EXPLAIN_AT_ONCE < versions:
            await between()
            versions, part = await self._ask(_encode_some, post, grid, label, len(encoded) * EXPLAIN_AT_ONCE, lost=lost)
            encoded.append(part)
        return await self._ask(_explain, post, grid, label, encoded, lost=lost)

    async def _ask(self, task: Callable[..., Result], *arguments: Any, lost: str) -> Result:
        try:
            return await self.run(task, self.source, *arguments, timeout=self.timeout)
        except (TimeoutError, WorkersDied):
            raise Refused("unavailable", lost) from None
        except (ModelError, RunError) as error:  # what is on disk now is not what was loaded
            raise Refused("unavailable", f"the models cannot be loaded: {error}") from None
