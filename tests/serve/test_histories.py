"""Random histories of claim, verdict, undo, appeal, feedback, forget, skip, outage and kill against a small model."""

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bifocal.serve.log.decision_store import DecisionStore, read_secret
from bifocal.serve.log.records import Conflict, KeptPost, LogEntry, UnknownDecision
from bifocal.serve.log.spool import Spool
from bifocal.serve.log.tables import metadata

PEOPLE, AUTHORS, CLIENTS = ("ada", "bob", "cleo"), ("a1", "a2", None), ("shop", "forum")
ROW = {f.name: None for f in fields(LogEntry)} | {
    "decision": {}, "pattern": "text", "run": "demo", "policy_version": "v1", "source": "model", "audit": False,
    "weight": 1.0, "probability": 0.5, "threshold": 0.4, "original": KeptPost("words", None),
}  # fmt: skip


def decision(number, author, client, action="review"):
    given = {"id": f"{number:032x}", "subject": author, "client": client, "action": action}
    return LogEntry(**ROW | given | {"at": datetime.now(UTC)})


def write_until_killed(url, secret, rows, pipe):
    store = DecisionStore(url, secret=secret)
    for row in rows:
        store.record([row])
        pipe.send(row.id)
    pipe.recv()  # waits to be killed


class Post:
    """What the model knows of a decision."""

    def __init__(self, author, client, action):
        self.author, self.client = author, client
        self.queued = action == "review"
        self.holder = None
        self.verdicts = []
        self.said = {}


class Histories(RuleBasedStateMachine):
    """The log by its own methods, and what it has to say afterwards."""

    url = None

    def __init__(self):
        super().__init__()
        self.state = Path(tempfile.mkdtemp(prefix="state"))
        self.stores = [DecisionStore(self.url, secret=read_secret(self.state)) for _ in range(2)]  # two hosts
        self.spool = Spool(self.state)
        self.posts, self.waiting, self.number = {}, {}, 0

    def teardown(self):
        for store in self.stores:
            store.close()
        shutil.rmtree(self.state)

    def some(self, data):
        """One of the posts, or a number that none has. How many there are is up to when a process was killed, and
        Hypothesis draws from nothing that differs from run to run."""
        place = data.draw(st.integers(0, 2**16))
        return sorted(self.posts)[place % len(self.posts)] if self.posts else "0" * 32

    def made(self, author, client, action):
        self.number += 1
        return decision(self.number, author, client, action), Post(author, client, action)

    @rule(
        host=st.integers(0, 1), author=st.sampled_from(AUTHORS), client=st.sampled_from(CLIENTS),
        actions=st.lists(st.sampled_from(["review", "allow"]), min_size=1, max_size=3), away=st.booleans(),
    )  # fmt: skip
    def decide(self, host, author, client, actions, away):
        made = [self.made(author, client, action) for action in actions]
        if away:  # the database is, and the decisions are spooled
            self.spool.remember_forgotten(self.stores[0].last_forgotten or 0)
            self.spool.append([row for row, _ in made])
            self.waiting |= {row.id: post for row, post in made}
        else:
            self.stores[host].record([row for row, _ in made])
            self.posts |= {row.id: post for row, post in made}

    @rule()
    def come_home(self):
        assert self.spool.replay(self.stores[0].record) == len(self.waiting) + self.forgotten_on_the_way
        self.posts |= self.waiting
        self.waiting, self.forgotten_on_the_way = {}, 0

    forgotten_on_the_way = 0

    @rule(data=st.data(), host=st.integers(0, 1), who=st.sampled_from(PEOPLE), named=st.booleans(), skips=st.booleans())
    def claim(self, data, host, who, named, skips):
        free = {n for n, p in self.posts.items() if p.queued and p.holder in (None, who)}
        if named:
            number = self.some(data)
            if number in free:
                assert self.stores[host].claim(who, number).claimed_by == who
                self.posts[number].holder = who
            else:
                with pytest.raises((Conflict, UnknownDecision)):
                    self.stores[host].claim(who, number)
            return
        skipped = {self.some(data)} if skips else set()
        item = self.stores[host].claim(who, exclude=sorted(skipped))
        assert (item is None) == (not free - skipped)
        if item is not None:
            assert item.id in free - skipped
            self.posts[item.id].holder = who

    @rule(
        data=st.data(), host=st.integers(0, 1), who=st.sampled_from(PEOPLE), action=st.sampled_from(["allow", "block"])
    )
    def verdict(self, data, host, who, action):
        number = self.some(data)
        if (post := self.posts.get(number)) is None:
            return
        if post.holder == who:
            self.stores[host].verdict(number, who, action)
            post.verdicts.append((who, action))
            post.queued, post.holder = False, None
        else:
            with pytest.raises((Conflict, UnknownDecision)):
                self.stores[host].verdict(number, who, action)

    @rule(data=st.data(), host=st.integers(0, 1), who=st.sampled_from(PEOPLE))
    def skip(self, data, host, who):
        number = self.some(data)
        if number in self.posts and self.posts[number].holder == who:
            self.stores[host].release(number, who)
            self.posts[number].holder = None
        else:
            with pytest.raises((Conflict, UnknownDecision)):
                self.stores[host].release(number, who)

    @rule(data=st.data(), host=st.integers(0, 1), who=st.sampled_from(PEOPLE))
    def undo(self, data, host, who):
        number = self.some(data)
        if (post := self.posts.get(number)) is None:
            return
        if post.verdicts and not post.queued and post.verdicts[-1][0] == who:
            self.stores[host].undo(number, who)
            post.verdicts.pop()
            post.queued, post.holder = True, who
        else:
            with pytest.raises((Conflict, UnknownDecision)):
                self.stores[host].undo(number, who)

    @rule(data=st.data(), host=st.integers(0, 1))
    def appeal(self, data, host):
        number = self.some(data)
        if (post := self.posts.get(number)) is None:
            return
        if post.queued:
            with pytest.raises(Conflict):
                self.stores[host].appeal(number, post.client, "look again")
        else:
            self.stores[host].appeal(number, post.client, "look again")
            post.queued = True

    @rule(data=st.data(), host=st.integers(0, 1), label=st.sampled_from("01"))
    def feedback(self, data, host, label):
        number = self.some(data)
        if number not in self.posts:
            return
        self.stores[host].feedback(number, self.posts[number].client, label)
        self.posts[number].said[self.posts[number].client] = label

    @rule(author=st.sampled_from(AUTHORS[:2]), client=st.sampled_from([*CLIENTS, None]))
    def forget(self, author, client):
        def forgotten(post):
            return post.author == author and client in (None, post.client)

        gone = {number for number, post in self.posts.items() if forgotten(post)}
        receipt = self.stores[0].forget(author, client)
        assert receipt.counts["decisions"] == len(gone) and (receipt.id is None) == (not gone)
        for number in gone:
            del self.posts[number]
        late = {number for number, post in self.waiting.items() if forgotten(post)}
        self.forgotten_on_the_way += len(late)
        for number in late:
            del self.waiting[number]

    @precondition(lambda self: self.number < 40)
    @rule(author=st.sampled_from(AUTHORS), acknowledged=st.integers(0, 2))
    def kill(self, author, acknowledged):
        """A process that writes is killed after it has said so of some of its rows."""
        made = [self.made(author, "shop", "review") for _ in range(3)]
        for store in self.stores:
            store.close()  # no connection of this process goes into the other
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        rows = [row for row, _ in made]
        writer = context.Process(target=write_until_killed, args=(self.url, read_secret(self.state), rows, there))
        writer.start()
        told = {here.recv() for _ in range(acknowledged + 1)}
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        there.close()
        while here.poll():
            try:
                told.add(here.recv())
            except (EOFError, OSError):
                break
        here.close()
        self.wait_for_no_other()
        for row, post in made:
            try:
                self.stores[0].decision(row.id)
            except UnknownDecision:
                assert row.id not in told
            else:  # whole, with its event and its place in the queue
                assert [e.kind for e in self.stores[0].history(row.id)] == ["decided"]
                self.posts[row.id] = post

    def wait_for_no_other(self):
        """PostgreSQL finds out a little later that its client is dead, and may commit until then."""
        if self.url.startswith("sqlite"):
            return
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
        until = time.monotonic() + 60
        with self.stores[0].engine.connect() as connection:
            while connection.scalar(sa.text(others)):
                assert time.monotonic() < until
                connection.rollback()  # the view is that of a transaction's beginning
                time.sleep(0.01)

    @invariant()
    def the_log_says_what_happened(self):
        found = {item.id: item for item in self.stores[1].queue(limit=1000)}
        assert found.keys() == {number for number, post in self.posts.items() if post.queued}
        held = {number: item.claimed_by for number, item in found.items() if self.stores[1].left_s(item) is not None}
        assert held == {number: post.holder for number, post in self.posts.items() if post.holder}
        with self.stores[1].engine.connect() as connection:
            assert set(connection.scalars(metadata.tables["decisions"].select())) == set(self.posts)
            for table in ("events", "originals"):
                column = metadata.tables[table].c.decision_id
                assert set(connection.scalars(column.table.select().with_only_columns(column))) == set(self.posts)
            said = metadata.tables["feedback"]
            standing = Counter(connection.scalars(said.select().with_only_columns(said.c.decision_id)))
        assert standing == {number: 1 for number, post in self.posts.items() if post.said}
        rows = {row["id"]: row for row in self.stores[0].labelled()}
        assert rows.keys() == {number for number, post in self.posts.items() if post.verdicts or post.said}
        for number, row in rows.items():
            post = self.posts[number]
            if post.verdicts:
                assert (row["by"], row["action"]) == post.verdicts[-1]
            else:
                assert row["label"] == post.said[post.client]


def histories(url, examples, steps):
    store = DecisionStore(url, secret=b"s" * 32)
    store.migrate()

    class OfThisLog(Histories):
        def __init__(self):
            with store.engine.begin() as connection:  # an empty log again
                for table in reversed(metadata.sorted_tables):
                    connection.execute(table.delete())
            store.close()
            super().__init__()

    OfThisLog.url = url
    run_state_machine_as_test(
        OfThisLog,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    store.close()


def test_random_histories(url):
    histories(url, examples=6, steps=25)


@pytest.mark.slow
def test_many_random_histories(url):
    histories(url, examples=150, steps=50)
