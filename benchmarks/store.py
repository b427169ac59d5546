"""How long the decision log takes to answer when it holds 100,000 decisions, on SQLite and on PostgreSQL side by side.

Both are filled with the same generated decisions, all of the last day: half of them in the review queue, 300 items in
as many hands, one client and one combination of parts rare. Every question is then asked of both in turns; what they
answer has to be the same. PostgreSQL is started from the system's packages in a folder of its own, with its defaults
(every commit on disk), unless a URL of an empty database is given.

    python benchmarks/store.py                                    # a few minutes
    python benchmarks/store.py --rows 10000 --calls 20            # a quick look
    python benchmarks/store.py --postgresql postgresql://someone@host/empty
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import numpy as np

from bifocal.serve.log.decision_store import DecisionStore
from bifocal.serve.log.records import KeptPost, LogEntry

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
AT_ONCE = 64
"""Decisions of one transaction, as a busy service gathers them."""
AUTHORS = 1000
HANDS = 300
LIMIT_MS = 200
SEED = 0
TEXT = "[OCR] one does not simply walk into the archive [/OCR] [CAP] look what I found [/CAP] <lang=en>"
PICTURE = Random(1).randbytes(2000)


def decisions(rows: int) -> Iterator[LogEntry]:
    """Generated decisions; the same ones each time."""
    rng = Random(SEED)
    for i in range(rows):
        probability, audit = round(rng.random(), 6), rng.random() < 0.01
        action = "review" if 0.25 < probability < 0.75 else "block" if probability > 0.5 else "allow"
        client = "rare" if rng.random() < 0.0005 else rng.choice(["shop", "forum", "mail", "app"])
        pattern = "tabular" if rng.random() < 0.0005 else rng.choice(["image+text", "text", "image"])
        opinion = {"prob_hate": probability, "label": int(probability > 0.5)}
        body = {
            "id": "", "action": action, "source": "model", **opinion, "threshold": 0.5, "why": "0.51 above 0.50",
            "models": dict.fromkeys(("text_expert", "vision_expert", "mm_fusion"), opinion), "language": "en",
            "present": {"image": True, "text": True}, "versions": {"policy": "a" * 16, "model": "b" * 16},
            "match": None,
        }  # fmt: skip
        yield LogEntry(
            id=f"{rng.getrandbits(128):032x}", at=NOW - timedelta(seconds=86_000 * (1 - i / rows)), client=client,
            subject=f"author-{rng.randrange(AUTHORS)}", external_id=f"post-{i}", text_hash="t" * 64,
            image_hash="i" * 64, decision=body, action=action,
            label=str(opinion["label"]), probability=probability, threshold=0.5,
            pattern=pattern, run="demo", policy_version="a" * 16, source="model", match=None,
            audit=audit and action == "allow", weight=100.0 if audit else 1.0,
            shadow={"action": "allow"} if i % 3 == 0 else None,
            original=KeptPost(TEXT, PICTURE) if i % 10 == 0 else None,
        )  # fmt: skip


@contextmanager
def private_postgresql() -> Iterator[str]:
    """A cluster as the tests start it, but one that brings every commit to disk."""
    sys.path.append(str(Path(__file__).parents[1]))
    from tests.serve.conftest import Cluster

    class Durable(Cluster):
        def start(self) -> None:
            options = f"-k {self.folder} -c listen_addresses=''"
            self.run("pg_ctl", "--pgdata", self.data, "-w", "-l", self.folder / "log", "-o", options, "start")

    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        sys.exit("no PostgreSQL under /usr/lib/postgresql: `make postgres` installs Debian's")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    cluster = Durable(folder, found[-1].parent)
    cluster.start()
    try:
        yield cluster.create("log")
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def fill(store: DecisionStore, rows: int) -> float:
    """Seconds that it takes to write all decisions."""
    store.migrate()
    batch, start = [], perf_counter()
    for row in decisions(rows):
        batch.append(row)
        if len(batch) == AT_ONCE:
            store.record(batch)
            batch = []
    store.record(batch)
    return perf_counter() - start


Question = Callable[[DecisionStore, int], Any]


def questions(rows: int) -> dict[str, Question]:
    """What is asked: the store and the number of the call -> an answer that is to be the same on both databases."""
    rng = Random(2)
    sample = rng.sample([row.id for row in decisions(rows)], 1000)
    fresh = list(decisions(rows + 20_000))[rows:]
    middle = (0.12, "8" * 32), (NOW - timedelta(hours=11), "8" * 32)
    seen: dict[str, list[str]] = {}

    def page(**given: Any) -> Question:
        return lambda store, _: [item.id for item in store.queue(**given)]

    def claim(**given: Any) -> Question:
        def ask(store: DecisionStore, call: int) -> Any:
            item = store.claim(f"moderator {call}", **given)
            return item and item.id

        return ask

    def judge(store: DecisionStore, call: int) -> Any:
        item = store.claim("judge")
        assert item is not None
        seen.setdefault(store.name, []).append(item.id)
        return store.verdict(item.id, "judge", "block", "seen").what

    def batch(store: DecisionStore, call: int) -> None:
        store.record(fresh[10_000 + AT_ONCE * call :][:AT_ONCE])

    return {
        "record, one decision": lambda store, call: store.record([fresh[call]]),
        f"record, {AT_ONCE} at once": batch,
        "queue page, nearest first": page(),
        "queue page, from the middle": page(after=middle[0]),
        "queue page, oldest first": page(sort="age"),
        "queue page, oldest, from the middle": page(sort="age", after=middle[1]),
        "queue page of one client of four": page(client="forum"),
        "queue page of the audited": page(reason="audit"),
        "queue page of a rare client": page(client="rare", limit=20),
        "queue page of rare parts, oldest": page(pattern="tabular", sort="age"),
        "queue page of nobody": page(client="nobody"),
        "queue page of the judged": page(state="done"),
        "claim": claim(),
        "claim, of a rare client": claim(client="rare"),
        "claim and verdict": judge,
        "history": lambda store, call: [(e.kind, e.who, e.what) for e in store.history(sample[call])],
        "decision": lambda store, call: asdict(store.decision(sample[call])),
        "counts": lambda store, _: {k: v for k, v in store.counts().items() if k != "claimed"},
        "summary of a day with all rows": lambda store, _: store.summary(NOW - timedelta(days=1)),
        "shadow's disagreements": lambda store, _: [kept.id for kept in store.disagreements()],
        "feedback": lambda store, call: store.feedback(sample[call], None, "1", "reported"),
        "forget an author of 100 posts": lambda store, call: store.forget(f"author-{call}").counts,
    }


def ask(stores: dict[str, DecisionStore], question: Question, calls: int) -> tuple[dict[str, list[float]], bool]:
    """Milliseconds of every call on every database, in turns; and whether all answered alike."""
    took: dict[str, list[float]] = {name: [] for name in stores}
    same = True
    for call in range(calls):
        answers = []
        for name, store in stores.items():
            start = perf_counter()
            answers.append(question(store, call))
            took[name].append(1000 * (perf_counter() - start))
        same &= all(answer == answers[0] for answer in answers)
    return took, same


def once(stores: dict[str, DecisionStore], name: str, work: Callable[[DecisionStore], Any]) -> None:
    """Time what is done once: seconds, and the answer where it is a number."""
    told, answers = [], []
    for store in stores.values():
        start = perf_counter()
        answers.append(work(store))
        told.append(f"{perf_counter() - start:8.2f} s")
    print(f"{name:38}" + "".join(f"{one:>27}" for one in told) + f"   {answers[0] == answers[-1]}  ({answers[0]})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--postgresql", metavar="URL", help="of an empty database")
    given = parser.parse_args()
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="log")))
        url = given.postgresql or ends.enter_context(private_postgresql())
        urls = {"SQLite": f"sqlite:///{folder / 'decisions.sqlite'}", "PostgreSQL": url}
        stores = {name: DecisionStore(url, secret=b"s" * 32) for name, url in urls.items()}
        for store in stores.values():
            ends.callback(store.close)
        print(f"{given.rows:,} decisions; milliseconds, p50 / p95 / most of {given.calls} calls\n")
        print(f"{'':38}" + "".join(f"{name:>27}" for name in stores) + "   same answer")
        once(stores, "fill", lambda store: fill(store, given.rows) and given.rows)
        for store in stores.values():
            for hand in range(HANDS):
                store.claim(f"hand {hand}")
        worst, alike = {}, True
        for name, question in questions(given.rows).items():
            took, same = ask(stores, question, given.calls)
            told = [f"{np.median(ms):7.1f} /{np.quantile(ms, 0.95):7.1f} /{max(ms):7.1f}" for ms in took.values()]
            print(f"{name:38}" + "".join(f"{one:>27}" for one in told) + f"   {same}", flush=True)
            if name.startswith(("queue", "history")):
                worst[name] = max(np.quantile(ms, 0.95) for ms in took.values())
            alike &= same
        once(stores, "all that was said, for retraining", lambda store: sum(1 for _ in store.labelled("demo")))
        once(stores, "purge of all originals", lambda store: store.purge(NOW + timedelta(days=1)))
    slowest = max(worst, key=lambda name: worst[name])
    print(f"\nqueue pages and history: p95 at most {worst[slowest]:.0f} ms ({slowest}); to be under {LIMIT_MS} ms")
    print(f"the databases gave the same answers: {alike}")
    if worst[slowest] >= LIMIT_MS or not alike:
        sys.exit(1)


if __name__ == "__main__":
    main()
