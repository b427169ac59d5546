"""The service: takes posts, has them prepared, looked up, decided and logged, and holds all that this needs."""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from .. import __version__
from ..errors import BifocalError, DataError, ModelError, RunError
from ..files.post_table import MAX_NAME, NAMES
from ..system.bundle import default_state_folder, engine_of, folder_of
from ..system.decision import mark_truncated
from .api.keys import ApiClient, KeyAuth, read_clients
from .api.metrics import Metrics
from .errors import Refused
from .explanations import Explanations
from .known_pictures import KnownPictures
from .log.decision_log import DecisionLog
from .log.records import KeptPost, LogEntry, audited
from .posts import Answer, IncomingPost
from .reload import Reloadable, Reloader, WatchedFiles
from .served_models import ServedModels, WithShadow
from .settings import KEYS, ServeConfig
from .workers.batching import AdmissionControl, Batcher
from .workers.processes import ModelDescription, PreparedPost, import_beforehand

if TYPE_CHECKING:
    from ..system.explain import Explanation
    from ..system.preprocessing import PackedPost

_LOG = logging.getLogger(__name__)  # what it says comes to stderr, unless the program decides otherwise


class Service:
    """Everything that `bifocal serve` keeps running; `running` makes it, and ends it.

    Parameters
    ----------
    settings : ServeConfig
    served : ServedModels
        What decides; another takes its place where the run's policy, or the bundle, becomes another.
    log : DecisionLog
    lists : KnownPictures
    keys : Path
        The file of API keys.
    auth : KeyAuth
        Of those in that file.
    given : Path, optional
        The run or bundle as it was named, maybe a link that will lead to another one; None = the folder of ``served``.
    """

    def __init__(
        self,
        settings: ServeConfig,
        served: ServedModels,
        log: DecisionLog,
        lists: KnownPictures,
        keys: Path,
        auth: KeyAuth,
        given: Path | None = None,
    ):
        self.settings, self.served, self.lists = settings, served, lists
        self.given = given or served.about.folder
        self.log, self.store, self.spool = log, log.store, log.spool
        self.keys, self.auth = keys, auth
        self.metrics = Metrics()
        self.admission = AdmissionControl(settings.waiting)
        self.batcher = Batcher(
            self._ask,
            tokens=settings.batch_tokens,
            pictures=settings.batch_pictures,
            max_wait_ms=settings.max_wait_ms,
            at_once=settings.models,
            on_the_way=lambda: self.preparing > 0,
            on_batch=self._count_batch,
        )
        self.explanations = Explanations(lambda: self.served, self.batcher)
        watched = (
            Reloadable("models", WatchedFiles(self._model_files).changed, self._new_models),
            Reloadable("keys", WatchedFiles(lambda: [self.keys]).changed, self._new_keys),
            Reloadable("lists", lambda: self.lists.changed(), self._new_lists),
        )
        self.reloads = Reloader(watched, self.metrics, every_s=settings.reload_s)
        self.preparing = 0
        self.draining = False
        self.tasks: list[asyncio.Task[None]] = []
        self.closing: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------------ from start to end

    @classmethod
    @asynccontextmanager
    async def running(cls, folder: Path, settings: ServeConfig) -> AsyncIterator[Self]:
        """Load a run, or an exported bundle, look after it, and end all.

        Raises
        ------
        BifocalError
            What `bifocal.load` raises; where keys are needed and there are none; on a bad list or log.
        """
        state = settings.state or default_state_folder(Path(folder))
        given, folder = Path(folder), _folder_now(Path(folder), settings)
        state.mkdir(parents=True, exist_ok=True)
        keys = settings.keys or state / KEYS
        auth = KeyAuth(read_clients(keys, given, settings))
        lists = KnownPictures(settings.lists)
        log = DecisionLog.of(settings, state)
        served = [one for one in (folder, settings.shadow) if one is not None]
        import_beforehand(torch=any(engine_of(one).startswith("torch") for one in served))
        service = cls(settings, await ServedModels.load(folder, settings), log, lists, keys, auth, given)
        try:
            service.served.check_settings(settings)
            await service._prepare()
            async with service._tasks():
                yield service
        finally:
            try:
                await asyncio.to_thread(service.served.close)
            finally:
                log.close()

    async def _prepare(self) -> None:
        await asyncio.to_thread(self.log.open)
        if self.settings.shadow is not None:
            self.served = await self.served.with_shadow(self.settings.shadow, self.settings)
        await self.served.try_decoders(self.settings.decoders)
        watch = self.metrics.watch
        watch("bifocal_posts_in_house", "Posts that are prepared, wait, or are decided.", lambda: self.admission.taken)
        watch("bifocal_posts_waiting", "Posts that wait for the encoders.", lambda: len(self.batcher))
        watch("bifocal_spooled", "Decisions that wait for the database.", lambda: self.spool.pending)
        watch("bifocal_set_aside", "Decisions that waited, and that the log refuses.", lambda: self.spool.set_aside)
        watch("bifocal_ready", "1 where posts are decided.", lambda: not self.not_ready())

    @asynccontextmanager
    async def _tasks(self) -> AsyncIterator[None]:
        loops = [self.batcher.run(), self.log.writer.run(), self.reloads.run(), self._look_after()]
        self.tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            yield
        finally:
            tasks = (*self.tasks, *self.closing)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_after(self) -> None:
        """Start dead models anew, bring spooled decisions home, purge what is too old."""
        purged, told = 0.0, ""
        while True:
            await asyncio.sleep(0.5)
            served = self.served
            for name, workers in (("decoder", served.decoders), ("model", served.model)):
                self.metrics.deaths.labels(name).set(workers.deaths)
            for model in (served.model, served.shadow):
                if model is not None and not model.ready:
                    with suppress(BifocalError):
                        await model.load()
            try:
                await asyncio.to_thread(self.log.maintain)
                if monotonic() - purged > 3600 or not purged:
                    before = self.store.clock() - timedelta(days=self.settings.keep_days)
                    await asyncio.to_thread(self.store.purge, before)
                    purged = monotonic()
                told = ""
            except Exception as error:  # a disk or a database, in a way not foreseen, is tried again; and told once
                if told != str(error):
                    told = str(error)
                    _LOG.warning("the decision log cannot be looked after, and will be tried again: %s", told)

    # ------------------------------------------------------------------ one post

    async def decide(self, incoming: IncomingPost, client: ApiClient) -> Answer:
        """Decide on one post, and log it.

        Raises
        ------
        Refused
            ``overloaded``, ``deadline``, ``unavailable``, ``storage_full``.
        BifocalError
            Where the post cannot be used.
        """
        with self.admission.take():
            try:
                async with asyncio.timeout(self.settings.deadline_s):
                    return await self._decide(incoming, client)
            except TimeoutError:
                raise Refused(
                    "deadline",
                    f"the post was not decided within {self.settings.deadline_s:g} s: try again",
                    retry_after=1,
                ) from None

    async def explain(self, post: IncomingPost | KeptPost, *, grid: int, label: str | None = None) -> Explanation:
        """Why a post is decided as it is, one that comes or one that was kept. Raises as `Explanations.explain`."""
        if isinstance(post, IncomingPost):
            post = replace(post, parts=self._cut(post.parts)[0])
        return await self.explanations.explain(post, grid=grid, label=label)

    async def _decide(self, incoming: IncomingPost, client: ApiClient) -> Answer:
        served, (parts, truncated) = self.served, self._cut(incoming.parts)
        if not parts:
            raise DataError(f"a post needs {' or '.join(served.about.config.parts)}; none was given")
        for name in NAMES:
            if len(getattr(incoming, name) or "") > MAX_NAME:
                raise DataError(f"{name} has {len(getattr(incoming, name))} characters; at most {MAX_NAME} are allowed")
        start = monotonic()
        self.preparing += 1
        try:
            prepared = await served.decoders.prepare(parts)
        finally:
            self.preparing -= 1
        start = self.metrics.stage("prepare", start)
        answer = self._known(prepared, served.about, truncated)
        if answer is None:
            answer = await self._judged(prepared, served.about, truncated)
            start = self.metrics.stage("model", start)
        if incoming.check is not None:
            incoming.check(answer)
        await self.log.writer.record(self._logged(answer, served.about, incoming, prepared, client))
        self.metrics.stage("log", start)
        self.metrics.count(answer, prepared.post.pattern)
        return answer

    def _cut(self, parts: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
        """The parts with words no longer than the service reads, and whether some were."""
        most = self.settings.max_text
        long = {name: part[:most] for name, part in parts.items() if isinstance(part, str) and len(part) > most}
        return {**parts, **long}, bool(long)

    def _known(self, prepared: PreparedPost, about: ModelDescription, truncated: bool) -> Answer | None:
        """The answer where a list has the picture."""
        match = self.lists.match(*prepared.known) if prepared.known else None
        if match is None:
            return None
        versions = {"policy": about.policy_version, "bifocal": __version__}
        why = f"the picture is known: {match.description()}"
        return Answer(uuid.uuid4().hex, None, match.action, match, truncated, versions, why)

    async def _judged(self, prepared: PreparedPost, about: ModelDescription, truncated: bool) -> Answer:
        """The answer of the models."""
        found = await self.batcher.decide(prepared.post)
        decision, shadow = (found.decision, found.shadow) if isinstance(found, WithShadow) else (found, None)
        probabilities = [one.probability for one in decision.labels.values() if one is not None]
        if not all(map(math.isfinite, (decision.probability, *probabilities))):
            raise ModelError("the models give no probability for this post")
        versions = {**decision.versions, "bifocal": __version__}
        if truncated and not decision.truncated:
            decision = mark_truncated(decision, about.truncation)
        number, why = uuid.uuid4().hex, decision.why
        return Answer(number, decision, decision.action, None, decision.truncated, versions, why, shadow)

    async def _ask(self, posts: Sequence[PackedPost]) -> list[Any]:
        """By what is loaded when the batch goes."""
        return await self.served.decide(posts)

    def _logged(
        self,
        answer: Answer,
        about: ModelDescription,
        incoming: IncomingPost,
        prepared: PreparedPost,
        client: ApiClient,
    ) -> LogEntry:
        told = answer.to_dict()
        kept = None
        if self.settings.keep_originals and incoming.keep:
            kept = KeptPost(**prepared.kept)
        told.pop("text_used")
        labels = told.pop("labels", None)  # which have a column of their own
        audit, weight = audited(answer.id, answer.action, self.settings.audit_share)
        return LogEntry(
            id=answer.id,
            at=self.store.clock(),
            client=client.name,
            subject=incoming.subject,
            external_id=incoming.external_id,
            text_hash=prepared.text_hash,
            image_hash=prepared.image_hash,
            decision=told,
            action=answer.action,
            label=None if told["label"] is None else str(told["label"]),
            probability=told["probability"],
            threshold=told["threshold"],
            pattern=prepared.post.pattern,
            run=about.config.run,
            policy_version=answer.versions["policy"],
            source=answer.source,
            match=told["match"],
            audit=audit,
            weight=weight,
            shadow=answer.shadow,
            labels=labels,
            original=kept,
        )

    # ------------------------------------------------------------------ figures and health

    def _count_batch(self, size: int, seconds: float) -> None:
        self.metrics.batches.observe(size)
        self.explanations.posts_were_decided()

    def not_ready(self) -> list[str]:
        """Why posts are not decided; nothing where they are."""
        reasons = []
        if self.draining:
            reasons.append("the service is closing")
        if not self.served.model.ready:
            reasons.append("the models are being started anew")
        if self.log.gone:
            reasons.append("the decision log cannot be reached")
        if any(task.done() for task in self.tasks):
            reasons.append("a part of the service has ended")
        return reasons

    def load(self) -> dict[str, Any]:
        """How busy the service is."""
        served = self.served
        return {
            "in_house": self.admission.taken,
            "places": self.admission.limit,
            "waiting": len(self.batcher),
            "spooled": self.spool.pending,
            "set_aside": self.spool.set_aside,
            "deaths": served.decoders.deaths + served.model.deaths,
            "engine": served.about.engine,
            "policy": served.about.policy_version,
        }

    # ------------------------------------------------------------------ what changes while it runs

    def _model_files(self) -> Iterable[Path]:
        try:
            folder = folder_of(self.given, self.settings.engine)
        except RunError:  # a link to a run without this engine's bundle, as taking it up will say
            return []
        return [*sorted(folder.glob("policy_*.json")), folder / "manifest.json"]

    async def _new_models(self) -> None:
        old = self.served
        self.served = new = await old.reload(_folder_now(self.given, self.settings), self.settings)
        self.closing.append(asyncio.create_task(self._close(old, new)))

    async def _close(self, old: ServedModels, new: ServedModels) -> None:
        await asyncio.sleep(self.settings.deadline_s)  # what they have begun, they end
        await asyncio.to_thread(old.close, but=new)

    async def _new_keys(self) -> None:
        clients = read_clients(self.keys, self.given, self.settings)
        if self.auth.clients and not clients:
            raise RunError(f"{self.keys} is gone: put it back, or start the service anew where nobody is to need a key")
        self.auth.update(clients)

    async def _new_lists(self) -> None:
        self.lists = await asyncio.to_thread(KnownPictures, self.settings.lists)


def _folder_now(given: Path, settings: ServeConfig) -> Path:
    """What is loaded of a run or bundle, a link followed: models are of one run even where it is swung meanwhile."""
    return folder_of(given.resolve() if given.is_symlink() else given, settings.engine)
