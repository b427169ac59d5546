"""The service: takes posts, has them prepared, looked up, decided and logged, and holds all that this needs."""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from ..data.compose import TEXT
from ..decide.policy import Band, Policy, pattern_of, patterns
from ..errors import BifocalError, DataError, ModelError, RunError
from ..files.posts import MAX_NAME, NAMES
from ..system.bundle import REFERENCE, engine_of, folder_of, state_of
from ..system.decision import Decision
from ..system.posts import TABULAR, build_modalities
from ..system.system import cut_short
from ..workspace import read_json
from .api.keys import Client, Doorkeeper, read_keys
from .api.metrics import Metrics
from .errors import Refused
from .lists import KnownPictures, Match
from .log.journal import Journal
from .log.spool import Spool
from .log.store import Logged, Original, Store, StoreGone, audited, read_secret
from .settings import ServeConfig
from .workers.batching import Batcher, Places
from .workers.processes import Decoders, Description, Model, Preparation, Prepared, Source, import_beforehand

if TYPE_CHECKING:
    from ..system.explain import Explanation


@dataclass(frozen=True, slots=True)
class Incoming:
    """A post as it comes, whatever door it comes through."""

    text: str | None = None
    picture: bytes | None = None
    tabular: Mapping[str, Any] | None = None
    subject: str | None = None
    """The author, as the platform calls it; kept as a keyed hash only."""
    external_id: str | None = None
    """The post, as the platform calls it."""
    keep: bool = True
    """Whether its original may be kept."""
    check: Callable[[Answer], None] | None = None
    """Told the answer before it is logged; where it raises, the post was never decided."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is told of a post."""

    id: str
    decision: Decision | None
    """None where a list decided, and no model was asked."""
    action: str | None
    match: Match | None
    truncated: bool
    versions: dict[str, str]
    why: str

    @property
    def source(self) -> str:
        return "list" if self.decision is None else "model"

    def to_dict(self) -> dict[str, Any]:
        """The body of the answer: the Decision's fields, ``probability`` beside its own name, and what is ours."""
        told: dict[str, Any] = {"id": self.id, "action": self.action, "source": self.source}
        if self.decision is None:
            told |= dict.fromkeys(("probability", "label", "threshold", "language"))
            told |= {"models": {}, "present": {}, "text_used": "", "unread": False}
        else:
            told |= {"probability": self.decision.probability, **self.decision.to_dict()}
        match = None if self.match is None else self.match.to_dict()
        return told | {"why": self.why, "match": match, "truncated": self.truncated, "versions": self.versions}


EXPLANATIONS = 8
"""Explanations that are made or wait to be made; more are refused."""
EXPLAIN_S = 60.0
"""Seconds after which an explanation is given up."""
REST = 9
"""Times as long as encoder passes for an explanation took no others are made, where posts keep coming."""
BUSY_S = 1.0
"""Seconds since posts were decided within which more are expected."""
_LOG = logging.getLogger(__name__)  # what it says comes to stderr, unless the program decides otherwise


class Service:
    """Everything that `bifocal serve` keeps running; `running` starts and ends it.

    Parameters
    ----------
    folder : Path
        Of a run, or of an exported bundle.
    settings : ServeConfig
    """

    def __init__(self, folder: Path, settings: ServeConfig):
        self.folder = folder_of(Path(folder), settings.engine)
        self.settings = settings
        self.state = settings.state or state_of(Path(folder))
        self.keys = settings.keys or self.state / "keys.json"
        self.metrics = Metrics()
        self.places = Places(settings.waiting)
        self.explanations = Places(EXPLANATIONS)
        self.explaining = asyncio.Lock()
        self.lot_began: float | None = None
        self.rest_until = 0.0
        self.last_batch = -BUSY_S
        self.preparing = 0
        self.draining = False
        self.trouble: str | None = None
        """That the last reload was refused, if it was; why is said on stderr only, since anybody may ask for this."""

    # ------------------------------------------------------------------ from start to end

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Load, look after, and end all.

        Raises
        ------
        BifocalError
            What `bifocal.load` raises; where keys are needed and there are none; on a bad list or log.
        """
        settings = self.settings
        self.state.mkdir(parents=True, exist_ok=True)
        self.door = Doorkeeper(self._clients())
        self.lists = KnownPictures.load(settings.lists)
        url = settings.database or f"sqlite:///{(self.state / 'decisions.sqlite').resolve()}"
        self.store = Store(url, secret=read_secret(self.state))
        self.spool = Spool(self.state)
        self.journal = Journal(self._write)
        self.shadow: Model | None = None
        served = [folder for folder in (self.folder, settings.shadow) if folder is not None]
        import_beforehand(torch=any(engine_of(folder).startswith("torch") for folder in served))
        self.model, self.about = await self._loaded(self.folder, self.settings.engine)
        self.decoders = self._decoders(self.about)
        try:
            await asyncio.to_thread(self._open_store)
            if settings.shadow is not None:
                self.shadow, about = await self._loaded(settings.shadow, None)
                _same_posts(self.about, about)
            await self._try_decoders()
            self.batcher = Batcher(
                self._ask,
                tokens=settings.batch_tokens,
                pictures=settings.batch_pictures,
                max_wait_ms=settings.max_wait_ms,
                at_once=settings.models,
                on_the_way=lambda: self.preparing > 0,
                on_batch=self._count_batch,
            )
            self._gauges()
            self.stamp = self._seen()
            loops = [self.batcher.run(), self.journal.run(), self._watch(), self._look_after()]
            tasks = [asyncio.create_task(loop) for loop in loops]
            self.tasks = tasks
            self.closing: list[asyncio.Task[None]] = []
            try:
                yield self
            finally:
                for task in (*tasks, *self.closing):
                    task.cancel()
                await asyncio.gather(*tasks, *self.closing, return_exceptions=True)
        finally:
            for workers in (self.decoders, self.model, self.shadow):
                if workers is not None:
                    await asyncio.to_thread(workers.close)
            self.store.close()

    def _clients(self) -> tuple[Client, ...]:
        clients = read_keys(self.keys)
        if not clients and not self.settings.loopback and not self.settings.open:
            reached = self.settings.public_url or self.settings.host
            raise RunError(
                f"{reached} is reached by others, and {self.keys} holds no API key: make one "
                f"(`bifocal keys add {self.folder} NAME --keys {self.keys}`), listen on 127.0.0.1, or say that anybody "
                "may ask (--open)"
            )
        return clients

    async def _loaded(self, folder: Path, engine: str | None) -> tuple[Model, Description]:
        settings = self.settings
        source = Source(folder, engine, settings.strict_parity, settings.allow_plugins)
        model = Model(source, timeout=settings.model_timeout_s, count=settings.models)
        try:
            return model, await model.load()
        except BaseException:
            await asyncio.to_thread(model.close)
            raise

    def _decoders(self, about: Description) -> Decoders:
        settings = self.settings
        preparation = Preparation(
            about.config.model_dump_json(),
            about.text_role,
            hashes=bool(settings.lists),
            originals=settings.keep_originals,
            max_text=settings.max_text,
        )
        return Decoders(
            preparation,
            settings.decoders,
            timeout=settings.decode_timeout_s,
            memory=settings.decode_memory_mib * 2**20,
        )

    async def _try_decoders(self) -> None:
        """Prepare a post in every decoder, so that what they lack is told at the start."""
        tries = (self.decoders.prepare("words", None, None) for _ in range(self.settings.decoders))
        for found in await asyncio.gather(*tries, return_exceptions=True):
            if isinstance(found, BaseException) and not isinstance(found, DataError):
                raise found

    def _open_store(self) -> None:
        try:
            self.store.migrate()
            self.store.sync()
            self._tell_spool()
        except StoreGone:
            if self.settings.database_gone == "refuse":
                raise

    def _gauges(self) -> None:
        watch = self.metrics.watch
        watch("bifocal_posts_in_house", "Posts that are prepared, wait, or are decided.", lambda: self.places.taken)
        watch("bifocal_posts_waiting", "Posts that wait for the encoders.", lambda: len(self.batcher))
        watch("bifocal_spooled", "Decisions that wait for the database.", lambda: self.spool.pending)
        watch("bifocal_set_aside", "Decisions that waited, and that the log refuses.", lambda: self.spool.set_aside)
        watch("bifocal_ready", "1 where posts are decided.", lambda: not self.not_ready())

    # ------------------------------------------------------------------ one post

    async def decide(self, incoming: Incoming, client: Client) -> Answer:
        """Decide on one post, and log it.

        Raises
        ------
        Refused
            ``overloaded``, ``deadline``, ``unavailable``, ``storage_full``.
        BifocalError
            Where the post cannot be used.
        """
        with self.places.take():
            try:
                async with asyncio.timeout(self.settings.deadline_s):
                    return await self._decide(incoming, client)
            except TimeoutError:
                raise Refused(
                    "deadline",
                    f"the post was not decided within {self.settings.deadline_s:g} s: try again",
                    retry_after=1,
                ) from None

    async def _decide(self, incoming: Incoming, client: Client) -> Answer:
        about, (text, truncated) = self.about, self._cut(incoming.text)
        if text is None and incoming.picture is None and incoming.tabular is None:
            raise DataError(f"a post needs {' or '.join(about.config.modalities)}; none was given")
        for name in NAMES:
            if len(getattr(incoming, name) or "") > MAX_NAME:
                raise DataError(f"{name} has {len(getattr(incoming, name))} characters; at most {MAX_NAME} are allowed")
        start = monotonic()
        self.preparing += 1
        try:
            prepared = await self.decoders.prepare(text, incoming.picture, incoming.tabular)
        finally:
            self.preparing -= 1
        start = self._stage("prepare", start)
        number, pattern = uuid.uuid4().hex, prepared.post.pattern
        match = self.lists.match(*prepared.known) if prepared.known else None
        told: dict[str, Any] | None = None
        if match is not None:
            versions = {"policy": about.policy_version, "bifocal": _version()}
            why = f"the picture is known: {match.told()}"
            answer = Answer(number, None, match.action, match, truncated, versions, why)
        else:
            decision = await self.batcher.decide(prepared.post)
            if isinstance(decision, _WithShadow):
                decision, told = decision.decision, decision.shadow
            if not math.isfinite(decision.probability):
                raise ModelError("the models give no probability for this post")
            start = self._stage("model", start)
            versions = {**decision.versions, "bifocal": _version()}
            if truncated and not decision.truncated:
                decision = cut_short(decision, about.policy["truncated"])
            answer = Answer(number, decision, decision.action, None, decision.truncated, versions, decision.why)
        if incoming.check is not None:
            incoming.check(answer)
        await self.journal.record(self._logged(answer, about, incoming, prepared, client, pattern, told))
        self._stage("log", start)
        self._count(answer, pattern, told)
        return answer

    def _cut(self, text: str | None) -> tuple[str | None, bool]:
        if text is None or len(text) <= self.settings.max_text:
            return text, False
        return text[: self.settings.max_text], True

    async def _ask(self, posts: Sequence[Any]) -> list[Any]:
        """The models, and beside them the shadow."""
        if self.shadow is None:
            return list(await self.model.decide(posts))
        decided, shadowed = await asyncio.gather(self.model.decide(posts), self._shadowed(posts))
        return [
            one if isinstance(one, BifocalError) else _WithShadow(one, other)
            for one, other in zip(decided, shadowed, strict=True)
        ]

    async def _shadowed(self, posts: Sequence[Any]) -> list[dict[str, Any]]:
        assert self.shadow is not None
        try:
            said = await self.shadow.decide(posts)
        except Exception as error:  # it never stands in the way
            return [{"error": str(error)}] * len(posts)
        return [
            {"error": str(s)}
            if isinstance(s, BifocalError)
            else {"action": s.action, "label": s.label, "probability": s.probability, "versions": s.versions}
            for s in said
        ]

    def _logged(
        self,
        answer: Answer,
        about: Description,
        incoming: Incoming,
        prepared: Prepared,
        client: Client,
        pattern: str,
        shadow: dict[str, Any] | None,
    ) -> Logged:
        told = answer.to_dict()
        kept = None
        if self.settings.keep_originals and incoming.keep:
            parts = prepared.post.parts
            kept = Original(parts.get(TEXT), prepared.original, parts.get(TABULAR))
        told.pop("text_used")
        audit, weight = audited(answer.id, answer.action, self.settings.audit_share)
        return Logged(
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
            pattern=pattern,
            run=about.config.run,
            policy_version=answer.versions["policy"],
            source=answer.source,
            match=told["match"],
            audit=audit,
            weight=weight,
            shadow=shadow,
            original=kept,
        )

    # ------------------------------------------------------------------ the log

    def _write(self, rows: Sequence[Logged], seal: Callable[[], None]) -> None:
        try:
            self.store.record(rows, seal)
        except StoreGone:
            if self.settings.database_gone == "refuse":
                raise
            self._tell_spool()
            self.spool.append(rows, seal)

    def _tell_spool(self) -> None:
        if self.store.last_forgotten is not None:
            self.spool.heard(self.store.last_forgotten)

    def _keep_log(self) -> None:
        """What the log needs now and then; blocks. Raises `BifocalError`."""
        if self.store.gone:
            self.store.migrate()
        self.store.sync()
        self._tell_spool()
        if self.spool.pending:
            self.spool.replay(self.store.record)

    # ------------------------------------------------------------------ figures and health

    def _stage(self, name: str, start: float) -> float:
        now = monotonic()
        self.metrics.stages.labels(name).observe(now - start)
        return now

    def _count(self, answer: Answer, pattern: str, shadow: dict[str, Any] | None) -> None:
        self.metrics.actions.labels(answer.action or "none", answer.source).inc()
        self.metrics.patterns.labels(pattern).inc()
        if answer.decision is not None:
            self.metrics.scores.observe(answer.decision.probability)
        if shadow is not None and shadow.get("action") != answer.action:
            self.metrics.disagreements.inc()

    def _count_batch(self, size: int, seconds: float) -> None:
        self.metrics.batches.observe(size)
        self.last_batch = monotonic()

    def not_ready(self) -> list[str]:
        """Why posts are not decided; nothing where they are."""
        reasons = []
        if self.draining:
            reasons.append("the service is closing")
        if not self.model.loaded:
            reasons.append("the models are being started anew")
        if self.store.gone and self.settings.database_gone == "refuse":
            reasons.append("the decision log cannot be reached")
        if any(task.done() for task in self.tasks):
            reasons.append("a part of the service has ended")
        return reasons

    async def _look_after(self) -> None:
        """Start dead models anew, bring spooled decisions home, purge what is too old."""
        purged, told = 0.0, ""
        while True:
            await asyncio.sleep(0.5)
            for name, workers in (("decoder", self.decoders.workers), ("model", self.model.workers)):
                self.metrics.deaths.labels(name).set(workers.deaths)
            for model in (self.model, self.shadow):
                if model is not None and not model.loaded:
                    with suppress(BifocalError):
                        await model.load()
            try:
                await asyncio.to_thread(self._keep_log)
                if monotonic() - purged > 3600 or not purged:
                    before = self.store.clock() - timedelta(days=self.settings.keep_days)
                    await asyncio.to_thread(self.store.purge, before)
                    purged = monotonic()
                told = ""
            except Exception as error:  # a disk or a database, in a way not foreseen, is tried again; and told once
                if told != str(error):
                    told = str(error)
                    _LOG.warning("the decision log cannot be looked after, and will be tried again: %s", told)

    # ------------------------------------------------------------------ what changes while it runs

    def _seen(self) -> dict[str, Any]:
        """What tells that policy, bundle or keys are others."""
        files = {
            "models": [*sorted(self.folder.glob("policy_*.json")), self.folder / "manifest.json"],
            "keys": [self.keys],
        }
        return {
            name: [(p.name, s.st_mtime_ns, s.st_size, s.st_ino) for p in paths if (s := _status(p)) is not None]
            for name, paths in files.items()
        }

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.reload_s)
            seen = self._seen()
            changed = [name for name in seen if seen[name] != self.stamp[name]]
            if self.lists.changed():
                changed.append("lists")
            self.stamp = seen
            for name in changed:
                try:
                    await {"models": self._new_models, "keys": self._new_keys, "lists": self._new_lists}[name]()
                    self.trouble = None
                    _LOG.warning("the new %s serve", name)
                    self.metrics.reloads.labels("taken").inc()
                except Exception as error:  # a file that cannot be read, too: the watch goes on
                    self.trouble = f"the new {name} are refused, the old ones serve"
                    _LOG.warning(f"{self.trouble}: {error}")
                    self.metrics.reloads.labels("refused").inc()

    async def _new_models(self) -> None:
        model, about = await self._loaded(self.folder, self.settings.engine)
        decoders = self.decoders
        if about.config != self.about.config or about.text_role != self.about.text_role:
            decoders = self._decoders(about)
        old = [w for w, new in ((self.model, model), (self.decoders, decoders)) if w is not new]
        self.model, self.decoders, self.about = model, decoders, about
        self.__dict__.pop("reference", None)  # it came with the old ones
        self.closing.append(asyncio.create_task(self._close(old)))

    async def _close(self, old: Sequence[Model | Decoders]) -> None:
        await asyncio.sleep(self.settings.deadline_s)  # what they have begun, they end
        for workers in old:
            await asyncio.to_thread(workers.close)

    async def _new_keys(self) -> None:
        clients = self._clients()
        if self.door.clients and not clients:
            raise RunError(f"{self.keys} is gone: put it back, or start the service anew where nobody is to need a key")
        self.door.update(clients)

    async def _new_lists(self) -> None:
        self.lists = await asyncio.to_thread(KnownPictures.load, self.settings.lists)

    # ------------------------------------------------------------------ for people

    @property
    def expert_names(self) -> dict[str, str]:
        """Modality -> the name of its expert."""
        return {name: m.expert_name for name, m in build_modalities(self.about.config).items()}

    @property
    def patterns(self) -> list[str]:
        """What posts may bring."""
        return [pattern_of(names) for names in patterns(self.about.config.modalities)]

    def band(self, pattern: str) -> Band | None:
        """The review band for posts that bring these parts."""
        return Policy.model_validate(self.about.policy).band(self.about.main, pattern)

    @cached_property
    def reference(self) -> list[float] | None:
        """The probabilities that the policy was tuned on; None where they are not kept."""
        for path in (self.folder / REFERENCE, *self.folder.glob("reference_*.json")):
            if path.is_file():
                return list(read_json(path)["scores"])
        return None

    def load(self) -> dict[str, Any]:
        """How busy the service is."""
        return {
            "in_house": self.places.taken,
            "places": self.places.limit,
            "waiting": len(self.batcher),
            "spooled": self.spool.pending,
            "set_aside": self.spool.set_aside,
            "deaths": self.decoders.workers.deaths + self.model.workers.deaths,
            "engine": self.about.engine,
            "policy": self.about.policy_version,
        }

    async def explain(self, post: Incoming | Original, *, grid: int) -> Explanation:
        """Why a post is decided as it is, one that comes or one that was kept; nothing of it is logged.

        One explanation is made at a time, a few encoder passes after another, while no post waits for the models; and
        where posts keep coming, these passes have a tenth of the models' time: to be told what was decided goes before
        to be told why.

        Raises
        ------
        Refused
            ``overloaded`` where others wait for explanations, or posts leave no time for one.
        BifocalError
            Where the post cannot be used.
        """
        with self.explanations.take():
            if isinstance(post, Original):
                packed = await self.decoders.kept(post.text, post.picture, post.tabular)
            else:
                packed = (await self.decoders.prepare(self._cut(post.text)[0], post.picture, post.tabular)).post
            try:
                async with asyncio.timeout(EXPLAIN_S), self.explaining:
                    try:
                        return await self.model.explain(packed, grid, self._idle)
                    finally:
                        self._rest()
            except TimeoutError:
                raise Refused(
                    "overloaded",
                    f"the models had no time for an explanation within {EXPLAIN_S:g} s: posts go first; try again",
                    retry_after=10,
                ) from None

    async def _idle(self) -> None:
        """Until no post waits for the models, and, where posts keep coming, they have had their share of the time."""
        self._rest()
        while len(self.batcher) or (monotonic() < self.rest_until and monotonic() - self.last_batch < BUSY_S):
            await asyncio.sleep(0.005)
        self.lot_began = monotonic()

    def _rest(self) -> None:
        """The passes that were made are paid for with nine times their time."""
        now = monotonic()
        if self.lot_began is not None:
            self.rest_until = now + REST * (now - self.lot_began)
        self.lot_began = None


@dataclass(frozen=True, slots=True)
class _WithShadow:
    decision: Decision
    shadow: dict[str, Any]


def _same_posts(ours: Description, shadow: Description) -> None:
    for name in ("modalities", "fit", "image_format", "ocr"):
        one, other = getattr(ours.config, name), getattr(shadow.config, name)
        if one != other:
            raise RunError(
                f"the shadow {shadow.folder} has {name} = {other}, the run {one}: posts are prepared once for both, "
                "so these must be the same"
            )
    if ours.text_role != shadow.text_role:
        raise RunError(f"the shadow takes texts as {shadow.text_role}, the run as {ours.text_role}: they must agree")


def _version() -> str:
    from .. import __version__

    return __version__


def _status(path: Path) -> Any:
    try:
        return path.stat()
    except OSError:
        return None


__all__ = ["Answer", "Incoming", "Service", "replace"]
