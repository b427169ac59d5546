import json
import multiprocessing
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from bifocal.errors import RunError
from bifocal.serve.log import database
from bifocal.serve.log.decision_store import DecisionStore, check_entry, read_secret
from bifocal.serve.log.records import (
    Conflict,
    KeptPost,
    LogEntry,
    NotStorable,
    StoreError,
    StoreGone,
    UnknownDecision,
    WrongClient,
    audited,
)
from bifocal.serve.log.review_queue import item_of
from bifocal.serve.log.sessions import Session
from bifocal.serve.log.tables import decisions, feedback, forgotten, items, receipts

START = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def logged(number, action="review", probability=0.5, **given):
    identity = number if isinstance(number, str) else f"{number:032x}"
    at = START + timedelta(seconds=number if isinstance(number, int) else 0)
    row = LogEntry(
        id=identity, at=at, client="shop", subject="ann", external_id=f"post-{number}", text_hash="t" * 64,
        image_hash=None, decision={"action": action}, action=action, label="1", probability=probability,
        threshold=0.4, pattern="image+text", run="demo", policy_version="v1", source="model", match=None, audit=False,
        weight=1.0, shadow=None, original=None,
    )  # fmt: skip
    return replace(row, **given)


@pytest.fixture
def store(url):
    made = DecisionStore(url, secret=b"s" * 32)
    made.migrate()
    yield made
    made.close()


def ids(items):
    return [int(item.id, 16) for item in items]


def test_a_decision_is_kept_as_it_was_and_its_subject_is_not(store):
    row = logged(1, shadow={"action": "allow"}, match={"list": "known", "entry": "7"})
    store.record([row])
    kept = store.decision(row.id)
    assert (kept.at, kept.client, kept.body, kept.probability) == (row.at, "shop", row.decision, 0.5)
    assert kept.shadow == row.shadow and kept.match == row.match
    with store.engine.connect() as connection:
        everything = str(connection.execute(sa.text("SELECT * FROM decisions")).all())
    assert "ann" not in everything.replace("channel", "")
    assert [e.kind for e in store.history(row.id)] == ["decided"]
    with pytest.raises(UnknownDecision, match="no decision 'zzz'"):
        store.decision("zzz")


def test_what_is_written_twice_is_there_once(store):
    store.record([logged(1), logged(2)])
    store.record([logged(2, probability=0.9), logged(3)])
    assert store.decision(logged(2).id).probability == 0.5
    assert ids(store.queue(sort="age")) == [1, 2, 3]
    assert len(store.history(logged(2).id)) == 1


def test_rows_are_written_all_or_none(store):
    with pytest.raises(StoreError, match=r"refuses: (?i:.*null)"):
        store.record([logged(1), logged(2, run=None)])
    assert store.queue() == []
    with pytest.raises(UnknownDecision):
        store.decision(logged(1).id)


@pytest.mark.parametrize("table", ["decisions", "events"])
def test_the_database_itself_refuses_to_change_the_log(store, table):
    store.record([logged(1)])
    column = {"decisions": "action", "events": "who"}[table]
    with pytest.raises(sa.exc.DBAPIError, match="are never changed"), store.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {table} SET {column} = 'x'"))
    assert store.decision(logged(1).id).action == "review"


def test_migrating_twice_changes_nothing(store):
    store.record([logged(1)])
    store.migrate()
    assert ids(store.queue()) == [1]


def test_tables_are_those_that_the_code_knows(store):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from bifocal.serve.log.tables import metadata

    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


# ---------------------------------------------------------------------------------------------------- the queue


def test_review_and_audit_join_the_queue_and_the_doubtful_come_first(store):
    store.record(
        [logged(1, probability=0.9), logged(2, "allow"), logged(3, "allow", audit=True, probability=0.1), logged(4)]
    )
    assert ids(store.queue()) == [4, 3, 1]
    assert ids(store.queue(sort="age")) == [1, 3, 4]
    assert ids(store.queue(reason="audit")) == [3]
    assert store.counts() == {"open.review": 2, "open.audit": 1, "claimed": 0}


def test_pages_follow_each_other_without_a_gap(store):
    store.record([logged(i, probability=0.4 + (i % 7) / 20, client=f"c{i % 2}") for i in range(1, 60)])
    for sort, key in (("uncertainty", "distance"), ("age", "since")):
        seen, after = [], None
        while page := store.queue(sort=sort, limit=8, after=after, client="c1"):
            seen += ids(page)
            after = getattr(page[-1], key), page[-1].id
        assert sorted(seen) == [i for i in range(1, 60) if i % 2] and len(seen) == len(set(seen))
        assert seen == ids(store.queue(sort=sort, limit=100, client="c1"))


def test_an_item_is_in_one_hand(store):
    store.record([logged(1), logged(2, probability=0.9)])
    first = store.claim("ann")
    assert (ids([first]), first.claimed_by) == ([1], "ann")
    assert ids([store.claim("bob")]) == [2]
    assert store.claim("eve") is None
    with pytest.raises(Conflict, match="claimed by ann"):
        store.claim("bob", first.id)
    assert store.claim("ann", first.id).claimed_by == "ann"  # once more, for longer
    store.release(first.id, "ann")
    assert store.claim("eve", exclude=[first.id]) is None
    assert store.claim("eve").id == first.id
    with pytest.raises(Conflict, match="claimed by eve"):
        store.release(first.id, "ann")
    with pytest.raises(UnknownDecision):
        store.claim("ann", "zzz")


def test_a_lease_runs_out(store):
    store.record([logged(1)])
    number = store.claim("ann", lease_s=-1).id
    with pytest.raises(Conflict, match="claim has run out"):
        store.verdict(number, "ann", "allow")
    assert store.claim("bob").id == number


def test_an_item_is_kept_in_its_hand_without_an_event(store):
    store.record([logged(1), logged(2)])
    number = store.claim("ann", logged(1).id, lease_s=-1).id
    before = store.item(number).claimed_until
    assert store.keep(number, "ann") == store.item(number).claimed_until > before  # nobody else took it meanwhile
    assert [e.kind for e in store.history(number)] == ["decided", "claimed"]
    store.verdict(number, "ann", "allow")
    for who, one, told in (("ann", 1, "decided already"), ("bob", 2, "claimed by nobody")):
        with pytest.raises(Conflict, match=told):
            store.keep(logged(one).id, who)
    with pytest.raises(UnknownDecision):
        store.keep("zzz", "ann")


def test_what_one_could_be_handed_is_counted(store):
    store.record([logged(i, client=f"c{i % 2}") for i in range(7)])
    store.claim("bob", logged(1).id)
    store.claim("ann", logged(2).id)
    assert (store.waiting("ann"), store.waiting("bob"), store.waiting("eve")) == (6, 6, 5)
    assert store.waiting("ann", client="c1") == 2 and store.waiting("ann", exclude=[logged(2).id]) == 5
    assert store.waiting("ann", most=3) == 3 and store.waiting("ann", reason="appeal") == 0


def test_the_newest_of_a_history_come_first_and_in_pages(store):
    store.record([logged(1)])
    number = logged(1).id
    for _ in range(4):
        store.claim("ann", number)
    first = store.history(number, newest=3)
    rest = store.history(number, newest=3, before=first[-1].number)
    assert [e.kind for e in (*first, *rest)] == ["claimed"] * 4 + ["decided"]
    assert [*first, *rest] == store.history(number)[::-1]
    assert [e.kind for e in store.history(number, newest=1, kind="decided")] == ["decided"]


def test_a_session_is_for_its_token_until_it_ends(store, url):
    ada = Session("ada", "k" * 64)
    later = timedelta(hours=1)
    store.begin_session("one", ada, later)
    store.begin_session("two", ada, later)
    store.begin_session("over", ada, timedelta(seconds=-1))
    assert (store.session("one"), store.session("over"), store.session("none\0")) == (ada, None, None)
    other = DecisionStore(url, secret=b"t" * 32)  # another service of the same log
    other.end_session("one")
    other.close()
    assert (store.session("one"), store.session("two")) == (None, ada)
    store.begin_session("three", ada, later)  # clears away what is over
    with store.engine.connect() as connection:
        held = str(connection.execute(sa.text("SELECT * FROM sessions")).all())
    assert held.count("ada") == 2 and "two" not in held


def test_a_verdict_its_undoing_and_an_appeal(store):
    store.record([logged(1)])
    number = logged(1).id
    with pytest.raises(Conflict, match="claimed by nobody"):
        store.verdict(number, "ann", "block")
    store.claim("ann")
    store.verdict(number, "ann", "block", "a slur in the picture")
    assert store.queue() == [] and store.queue(state="done")[0].verdict == "block"
    with pytest.raises(Conflict, match="was decided by ann: only bob"):
        store.undo(number, "bob")
    store.undo(number, "ann")
    assert store.item(number).claimed_by == "ann" and store.item(number).verdict is None
    store.verdict(number, "ann", "allow", "satire")
    with pytest.raises(WrongClient):
        store.appeal(number, "forum", "it is not", client="forum")
    store.appeal(number, "shop", "the author says it is no satire", client="shop")
    with pytest.raises(Conflict, match="waits in the queue already"):
        store.appeal(number, "shop", "again")
    (item,) = store.queue()
    assert (item.reason, item.state, item.claimed_by) == ("appeal", "open", None)
    kinds = [e.kind for e in store.history(number)]
    assert kinds == ["decided", "claimed", "verdict", "undone", "verdict", "appealed"]
    assert store.history(number)[2].what == {
        "action": "block", "reason": "a slur in the picture", "label": None, "decided": "review"
    }  # fmt: skip
    with pytest.raises(StoreError, match="a verdict is allow or block"):
        store.verdict(number, "ann", "perhaps")


def test_a_verdict_on_an_appeal_that_is_undone_leaves_the_one_before(store):
    store.record([logged(1)])
    number = logged(1).id
    store.claim("ada")
    store.verdict(number, "ada", "block")
    store.appeal(number, "shop", "it is not")
    store.claim("bob")
    store.verdict(number, "bob", "allow")
    assert [row["action"] for row in store.labelled()] == ["allow"]
    store.undo(number, "bob")
    assert [(row["action"], row["by"]) for row in store.labelled()] == [("block", "ada")]
    item = store.item(number)
    assert (item.state, item.claimed_by, item.verdict, item.judged_by) == ("open", "bob", "block", "ada")


def test_a_decision_that_nobody_queued_can_be_appealed(store):
    store.record([logged(1, "block", probability=0.95)])
    store.appeal(logged(1).id, "shop", "harmless")
    (item,) = store.queue()
    assert (item.reason, item.distance) == ("appeal", pytest.approx(0.55))


def grab(store, who, found):
    while (item := store.claim(who)) is not None:
        found.append((item.id, who))
        store.verdict(item.id, who, "allow")


def test_no_item_is_handed_to_two_of_many_threads(store):
    store.record([logged(i) for i in range(1, 81)])
    found = []
    threads = [threading.Thread(target=grab, args=(store, f"m{i}", found)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80 == len({number for number, _ in found})


def grab_alone(url, who, pipe):
    store, found = DecisionStore(url, secret=b"s" * 32), []
    grab(store, who, found)
    pipe.send(found)


def test_no_item_is_handed_to_two_of_many_processes(store, url):
    store.record([logged(i) for i in range(1, 61)])
    context = multiprocessing.get_context("spawn")
    pipes = []
    for i in range(3):
        here, there = context.Pipe()
        process = context.Process(target=grab_alone, args=(url, f"m{i}", there))
        process.start()
        pipes.append((here, process))
    found = [row for here, _ in pipes for row in here.recv()]
    for _, process in pipes:
        process.join()
    assert len(found) == 60 == len({number for number, _ in found})
    assert {e.who for number, _ in found for e in store.history(number)[1:]} <= {"m0", "m1", "m2"}


def test_of_several_classes_the_least_sure_come_first_and_what_a_list_decided_last(store):
    store.record(
        [
            logged(1, probability=0.9, threshold=None),
            logged(2, probability=0.35, threshold=None),
            logged(3, probability=None, threshold=None, source="list"),
            logged(4, probability=0.5, threshold=0.3),
        ]
    )
    assert ids(store.queue()) == [4, 2, 1, 3]


@pytest.mark.parametrize("number", ["a\0b", "a\ud800b", "", "x" * 5000, "é"])
def test_what_cannot_be_an_id_is_unknown(store, number):
    for ask in (
        store.decision,
        store.history,
        store.item,
        lambda n: store.claim("ann", n),
        lambda n: store.appeal(n, "shop", ""),
        lambda n: store.feedback(n, "shop", "1"),
    ):
        with pytest.raises(UnknownDecision):
            ask(number)


# ---------------------------------------------------------------------------------------- what becomes known later


def test_feedback_is_of_ones_own_decisions(store):
    store.record([logged(1, "allow")])
    store.feedback(logged(1).id, "shop", "1", "reported")
    with pytest.raises(WrongClient):
        store.feedback(logged(1).id, "forum", "1")
    with pytest.raises(UnknownDecision):
        store.feedback("zzz", "shop", "1")
    (row,) = store.labelled("demo")
    assert (row["label"], row["from"], row["by"], row["said"]) == ("1", "feedback", "shop", "reported")
    assert list(store.labelled("another")) == []


def test_the_last_verdict_counts_more_than_feedback(store):
    store.record([logged(1, original=KeptPost("words", b"png")), logged(2), logged(3)])
    for number in (1, 2):
        store.claim("ann", logged(number).id)
        store.verdict(logged(number).id, "ann", "block")
    store.feedback(logged(1).id, "shop", "0")
    store.undo(logged(2).id, "ann")
    store.feedback(logged(3).id, "shop", "0")
    store.feedback(logged(3).id, "shop", "1")
    first, third = store.labelled()
    assert (first["from"], first["action"], first["text"], first["picture"]) == ("verdict", "block", "words", b"png")
    assert (third["from"], third["label"]) == ("feedback", "1")


def test_a_subject_is_forgotten_whole(store):
    store.record(
        [
            logged(1, original=KeptPost("words", b"p")),
            logged(2, subject="bob"),
            logged(3, client="forum"),
            logged(4, subject=None),
        ]
    )
    store.claim("m", logged(1).id)
    store.feedback(logged(1).id, "shop", "1")
    receipt = store.forget("ann", "shop")
    assert receipt.counts == {"originals": 1, "feedback": 1, "items": 1, "events": 3, "decisions": 1}
    assert ids(store.queue(sort="age")) == [2, 3, 4] and store.original(logged(1).id) is None
    assert store.forget("ann").counts["decisions"] == 1  # an admin: what the forum sent too
    assert store.forget("ann").counts["decisions"] == 0
    with store.engine.connect() as connection:
        assert "ann" not in str(connection.execute(sa.text("SELECT * FROM receipts")).all())


def test_who_was_forgotten_after_a_decision_does_not_come_back_with_it(store):
    store.record([logged(1)])
    store.forget("bea", "shop")  # of whom nothing was held
    store.sync()
    before = store.last_forgotten
    store.forget("ann", "shop")
    late = [
        logged(1, last_forgotten=before),
        logged(2, last_forgotten=before),
        logged(3, client="forum", last_forgotten=before),
        logged(4, subject="bob", last_forgotten=before),
        logged(5, subject=None, last_forgotten=before),
        logged(6, last_forgotten=store.last_forgotten),  # ann was forgotten before it was made
        logged(7),  # it did not wait
        logged(8, subject="bea", last_forgotten=0),
    ]
    store.record(late)
    assert ids(store.queue(sort="age")) == [3, 4, 5, 6, 7]
    with store.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM receipts")) == 1


def test_nothing_of_the_forgotten_is_left_in_the_file(tmp_path):
    store = DecisionStore(f"sqlite:///{tmp_path / 'decisions.sqlite'}", secret=b"s" * 32)
    store.migrate()
    store.record([logged(i, original=KeptPost(f"peculiar words {i} " * 200, b"peculiar" * 9000)) for i in range(1, 30)])

    def left():
        return any(b"peculiar" in path.read_bytes() for path in tmp_path.iterdir())

    assert left()
    store.forget("ann")
    assert not left()
    store.record([logged(i, at=datetime.now(UTC), original=KeptPost("peculiar words", None)) for i in range(1, 30)])
    assert store.purge(datetime.now(UTC)) == 29
    assert not left()
    store.close()


def test_originals_are_purged_and_the_decisions_stay(store):
    store.record([logged(i, original=KeptPost(f"words {i}", None)) for i in range(1, 4)])
    assert store.purge(START + timedelta(seconds=2)) == 1
    assert store.original(logged(1).id) is None and store.original(logged(2).id).text == "words 2"
    assert [e.kind for e in store.history(logged(1).id)] == ["decided", "purged"]


def test_the_summary_counts_what_happened_since(store):
    store.record(
        [
            logged(1, "allow", 0.1, shadow={"action": "block"}),
            logged(2, "allow", 0.99, shadow={"action": "allow"}),
            logged(3, "block", 1.0, audit=True),
            logged(4, None, None, at=START + timedelta(hours=1)),
            logged(5, "block", at=START - timedelta(days=2)),
        ]
    )
    store.claim("m")
    store.verdict(logged(3).id, "m", "block")
    store.undo(logged(3).id, "m")
    store.verdict(logged(3).id, "m", "allow")
    said = store.summary(START)
    assert said["clients"] == {"shop": 4} and said["policies"] == {"v1": 4} and said["feedback"] == 0
    assert said["decisions"] == {"allow": 2, "block": 1, "none": 1}
    assert said["shadow"] == {"scored": 2, "disagree": 1}
    assert said["verdicts"] == {"allow": 1, "block": 0, "overturned": 1}
    assert said["probability"][2] == 1 and said["probability"][19] == 2 and sum(said["probability"]) == 3
    assert said["hours"] == [
        ["2026-03-01T12:00", "allow", 2],
        ["2026-03-01T12:00", "block", 1],
        ["2026-03-01T13:00", "none", 1],
    ]
    assert [int(kept.id, 16) for kept in store.disagreements()] == [1]


def test_the_summary_of_one_label_counts_what_it_answered(store):
    def answer(prob, label, action):
        return {"prob": prob, "label": label, "threshold": 0.5, "action": action, "why": "so", "models": {}}

    def shadow(**disagrees):
        labels = {n: {"action": "allow", "label": 0, "probability": 0.1, "disagrees": d} for n, d in disagrees.items()}
        return {"action": "allow", "label": 0, "probability": 0.1, "versions": {}, "labels": labels}

    later, rude, odd = START + timedelta(hours=1), answer(0.7, 1, "review"), "whom.it's about: target"
    told = answer(0.6, "b", None)
    store.record(
        [
            logged(1, "review", 0.1, labels={"toxic": answer(0.1, 0, "allow"), "rude": rude, odd: None},
                   shadow=shadow(toxic=False, rude=True)),
            logged(2, "block", 0.9, labels={"toxic": answer(0.9, 1, "block"), "rude": None, odd: told},
                   shadow=shadow(toxic=True)),
            logged(3, "block", 0.8, at=later, labels={"toxic": answer(1.0, 1, "block"), "rude": rude, odd: told}),
            logged(4, "block", None, source="list", label=None),
            logged(5, "block", 0.9),  # of before the run had several
        ]
    )  # fmt: skip
    whole, toxic, rude, strange = (store.summary(START, name) for name in (None, "toxic", "rude", odd))
    assert whole["decisions"] == {"block": 4, "review": 1} and whole["classes"] == {"1": 4}
    assert whole["shadow"] == {"scored": 2, "disagree": 2}  # by the actions
    assert toxic["decisions"] == {"block": 2, "allow": 1} and toxic["classes"] == {"1": 2, "0": 1}
    assert toxic["shadow"] == {"scored": 2, "disagree": 1} and sum(toxic["probability"]) == 3
    assert (toxic["probability"][2], toxic["probability"][18], toxic["probability"][19]) == (1, 1, 1)
    assert rude["decisions"] == {"review": 2, "not asked": 1} and rude["classes"] == {"1": 2}
    assert rude["shadow"] == {"scored": 1, "disagree": 1} and rude["probability"][14] == 2
    assert strange["decisions"] == {"none": 2, "not asked": 1} and strange["classes"] == {"b": 2}
    assert strange["shadow"] == {"scored": 0, "disagree": 0}
    assert rude["hours"] == [
        ["2026-03-01T12:00", "not asked", 1],
        ["2026-03-01T12:00", "review", 1],
        ["2026-03-01T13:00", "review", 1],
    ]
    assert store.summary(START, "unknown")["classes"] == {}
    differ = {name: [int(kept.id, 16) for kept in store.disagreements(label=name)] for name in ("toxic", "rude")}
    assert differ == {"toxic": [2], "rude": [1]}


# ------------------------------------------------------------------------------------------------ being away


def test_a_database_that_went_away_is_told_and_found_again(cluster):
    store = DecisionStore(cluster.create("away"), secret=b"s" * 32)
    store.migrate()
    store.record([logged(1)])
    cluster.stop()
    try:
        with pytest.raises(StoreGone, match="cannot be reached"):
            store.record([logged(2)])
        assert store.gone
    finally:
        cluster.start()
    store.record([logged(2)])
    assert not store.gone and ids(store.queue(sort="age")) == [1, 2]
    store.close()


def test_what_is_no_database_is_told():
    with pytest.raises(RunError, match="the decision log is a database such as"):
        DecisionStore("decisions.sqlite", secret=b"s" * 32)
    with pytest.raises(RunError):
        DecisionStore("mystery://x/y", secret=b"s" * 32)


def test_a_password_is_never_told(tmp_path):
    store = DecisionStore("postgresql://someone:hunter2@127.0.0.1:1/nothing", secret=b"s" * 32)
    with pytest.raises(StoreGone) as gone:
        store.migrate()
    assert "hunter2" not in str(gone.value)


def test_the_secret_is_made_once_and_for_its_owner(tmp_path):
    secret = read_secret(tmp_path / "state")
    assert read_secret(tmp_path / "state") == secret and len(secret) == 32
    assert (tmp_path / "state" / "secret").stat().st_mode & 0o777 == 0o600
    (tmp_path / "state" / "secret").write_bytes(b"short")
    with pytest.raises(RunError, match="holds no key of 32 bytes"):
        read_secret(tmp_path / "state")


def test_services_that_start_at_once_share_a_secret(tmp_path):
    found, gate = [], threading.Barrier(8)

    def read():
        gate.wait()
        found.append(read_secret(tmp_path / "state"))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["secret"]


def test_the_share_that_is_audited_stands_for_the_rest():
    import random

    rng = random.Random(0)
    drawn = [audited(f"{rng.getrandbits(128):032x}", "allow", 0.05) for _ in range(20_000)]
    assert 0.045 < sum(audit for audit, _ in drawn) / len(drawn) < 0.055
    assert sum(weight for _, weight in drawn) == pytest.approx(20_000, rel=0.1)
    assert audited("0" * 32, "review", 0.05) == (False, 1.0)
    assert audited("0" * 32, "allow", 0.0) == audited("0" * 32, "block", 0.5) == (False, 0.0)


def test_what_no_database_takes_is_written_otherwise(store):
    odd = "a\0b\ud800c"
    record = {"age": 3, "words": odd}
    store.record([logged(1, external_id=odd, subject=odd, decision={"why": odd}, original=KeptPost(odd, None, record))])
    plain = "ab\ufffdc"
    assert store.decision(logged(1).id).body == {"why": plain}
    assert store.original(logged(1).id).tabular == {"age": 3, "words": plain}
    store.claim("m")
    store.verdict(logged(1).id, "m", "block", odd)
    store.feedback(logged(1).id, "shop", "1", odd)
    store.appeal(logged(1).id, "shop", odd)
    assert store.decision(logged(1).id).external_id == store.original(logged(1).id).text == "ab\ufffdc"
    assert store.forget(odd).counts["decisions"] == 1


ODD = [float("nan"), -float("inf"), 10**400, 2**80, "\0", "\ud800", "x\udfff\0y", [[["\0"]]], {"\ud900": [1e999]}]


def test_no_value_of_one_row_costs_another(store):
    for i, odd in enumerate(ODD):
        assert_costs_no_other(store, 10 * i, odd)


def assert_costs_no_other(store, start, odd):
    body = {"why": odd, "models": {"text_expert": {"prob_hate": odd}}}
    number = odd if isinstance(odd, float | int) else 0.5
    word = odd if isinstance(odd, str) else "word"
    strange = logged(
        start + 2, "allow", number, audit=True, threshold=number, decision=body, match={"entry": odd}, label=word,
        shadow={"action": "allow", "error": odd}, external_id=word * 300, pattern=word * 300, subject=word,
        original=KeptPost(word, b"png", {"age": odd, "place": "a"}),
    )  # fmt: skip
    store.record([logged(start + 1), strange, logged(start + 3)])
    assert {start + 1, start + 2, start + 3} <= set(ids(store.queue(limit=200)))
    kept = store.decision(strange.id)
    json.dumps([kept.body, store.original(strange.id).tabular], allow_nan=False, ensure_ascii=False).encode()
    store.claim(f"m{word}", strange.id)
    store.verdict(strange.id, f"m{word}", "block", word, label=word)
    store.appeal(strange.id, f"shop{word}", word)
    store.feedback(strange.id, None, word, word, who=f"shop{word}")
    assert store.queue(client=f"other{word}", pattern=word, after=(0.5, word)) == []
    assert len(list(store.labelled())) == 1
    assert store.forget(word).counts["decisions"] == 1


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def test_what_no_row_can_be_is_refused_before_the_database_is_asked(store):
    for given in (
        {"decision": {"deep": nested(10_000)}}, {"run": None}, {"id": "x" * 65}, {"id": "a\0b"}, {"id": ""},
        {"decision": None}, {"decision": {"set": {1}}}, {"audit": "perhaps"}, {"weight": float("nan")}, {"at": None},
        {"probability": "half"}, {"original": KeptPost(3, None)}, {"at": datetime.max}, {"subject": 4},
    ):  # fmt: skip
        with pytest.raises(NotStorable):
            store.record([logged(1), replace(logged(2), **given)])
    store.record([logged(1)])
    assert ids(store.queue()) == [1]


def test_what_the_database_itself_refuses_is_told_from_a_database_that_is_away(store):
    with pytest.raises(NotStorable), store._writing() as connection:
        connection.execute(
            sa.insert(feedback), [{"decision_id": "1", "at": START, "client": "", "label": "", "reason": ""}]
        )
    with pytest.raises(NotStorable), store._writing() as connection:
        connection.execute(sa.text("SELECT :a"), {"a": "\ud800"})
    assert not store.gone


# ------------------------------------------------------------------------------------------------ clocks


@pytest.fixture
def shifted(monkeypatch):
    """``with shifted(hours):`` the clock of this host is so far off."""

    @contextmanager
    def shift(hours):
        class Wrong(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + timedelta(hours=hours)

        with monkeypatch.context() as patched:
            patched.setattr(database, "datetime", Wrong)
            yield

    return shift


@pytest.mark.parametrize("hours", [1, -1])
def test_whoever_posts_after_being_forgotten_by_a_host_of_another_clock_is_logged(store, url, shifted, hours):
    store.record([logged(1)])
    other = DecisionStore(url, secret=b"s" * 32)
    with shifted(hours):
        assert other.forget("ann").counts["decisions"] == 1
    store.record([logged(2)])
    with shifted(-hours):
        other.record([logged(3, at=other.clock())])
    store.sync()
    store.record([logged(4, last_forgotten=store.last_forgotten)])  # it waited, and was made after that
    store.record([logged(5, last_forgotten=store.last_forgotten - 1)])  # and before
    assert sorted(ids(store.queue())) == [2, 3, 4]
    other.close()


@pytest.mark.parametrize("hours", [1, -1])
def test_an_item_in_hand_is_handed_to_nobody_by_a_host_of_another_clock(store, url, shifted, hours):
    store.record([logged(1)])
    other = DecisionStore(url, secret=b"s" * 32)
    item = store.claim("ann")
    with shifted(hours):
        assert other.claim("bob") is None and other.counts()["claimed"] == 1
        with pytest.raises(Conflict, match="claimed by ann"):
            other.claim("bob", item.id)
        assert 0 < other.left_s(other.item(item.id)) <= 300
        other.verdict(item.id, "ann", "block")
        other.undo(item.id, "ann")
    assert store.claim("bob") is None
    store.verdict(item.id, "ann", "allow")
    other.close()


def test_a_claim_ends_with_the_machine_that_it_was_made_on(store, monkeypatch):
    store.record([logged(1)])
    item = store.claim("ann")
    monkeypatch.setattr(database, "_boot", lambda: "another start")
    if store.engine.dialect.name == "sqlite":
        assert store.left_s(item) is None and store.claim("bob").claimed_by == "bob"
    else:
        assert store.left_s(item) > 0 and store.claim("bob") is None


def test_the_times_that_people_read_are_of_the_databases_clock(store, shifted):
    with shifted(5):
        store.record([logged(1)])
        at = store.claim("ann").claimed_until
    off = at - datetime.now(UTC) > timedelta(hours=1)
    assert off == (store.engine.dialect.name == "sqlite")


# ------------------------------------------------------------------------------------------------ one standing feedback


def test_of_a_client_one_feedback_stands_and_what_it_said_before_is_in_the_history(store):
    store.record([logged(1, "allow")])
    number = logged(1).id
    for label, reason in (("1", "a"), ("1", "a"), ("0", "b"), ("0", "b")):
        store.feedback(number, "shop", label, reason)
    store.feedback(number, None, "1", "looked at it", who="chief")
    with store.engine.connect() as connection:
        standing = connection.execute(sa.text("SELECT client, label, reason FROM feedback ORDER BY client")).all()
    assert [tuple(row) for row in standing] == [("chief", "1", "looked at it"), ("shop", "0", "b")]
    assert [e.what["label"] for e in store.history(number) if e.kind == "feedback"] == ["1", "0", "1"]
    assert [(row["label"], row["by"]) for row in store.labelled()] == [("1", "chief")]


def test_of_nothing_there_is_no_receipt_and_what_is_noted_goes_in_time(store):
    for i in range(3):
        receipt = store.forget(f"nobody {i}")
        assert receipt.id is None and receipt.to_dict()["deleted"]["decisions"] == 0
        store.forget(f"nobody {i}")
    store.record([logged(1)])
    assert store.forget("ann", "shop").id

    def rows(table):
        with store.engine.connect() as connection:
            return connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))

    assert (rows("receipts"), rows("forgotten")) == (1, 4)
    with store.engine.begin() as connection:
        connection.execute(sa.update(forgotten).values(at=START - timedelta(days=100)))
    store.purge(START)
    assert (rows("receipts"), rows("forgotten")) == (1, 1)


# ------------------------------------------------------------------------------------------------ several labels


def by(action, prob=0.5, threshold=0.4):
    return {"prob": prob, "label": 1, "threshold": threshold, "action": action, "why": "so", "models": {}}


def test_the_queue_of_a_label_is_what_it_puts_under_review_and_the_doubtful_by_it_come_first(store):
    store.record(
        [
            logged(1, labels={"toxic": by("review", 0.6), "rude": by("allow")}),
            logged(2, labels={"toxic": by("allow"), "rude": by("review", 0.3)}),
            logged(3, labels={"toxic": by("review", 0.41), "rude": by("review", 0.1)}),
            logged(4, labels={"toxic": by("review"), "rude": None}),
            logged(5),
        ]
    )
    assert ids(store.queue(label="toxic")) == [3, 4, 1]
    assert ids(store.queue(label="rude")) == [3, 2]
    assert store.waiting("ann", label="rude", exclude=[logged(3).id]) == 1
    assert store.claim("ann", label="rude", exclude=[logged(3).id]).decision.labels["rude"]["prob"] == 0.3
    assert store.queue(label='"toxic') == store.queue(label="ru}de") == []


def test_what_is_said_of_each_label_comes_back(store):
    store.record([logged(1), logged(2)])
    store.claim("ann", logged(1).id)
    store.verdict(logged(1).id, "ann", "block", labels={"rude": "1"})
    for labels in ({"rude": "1", "kind": "b"}, {"kind": "b", "rude": "1"}, {"kind": "a"}, None):
        store.feedback(logged(2).id, "shop", "", labels=labels)
    said = [event.what.get("labels") for event in store.history(logged(2).id) if event.kind == "feedback"]
    assert said == [{"rude": "1", "kind": "b"}, {"kind": "a"}, None]
    store.feedback(logged(2).id, "shop", "0", labels={"kind": "a"})
    assert [(row["label"], row["labels"]) for row in store.labelled()] == [(None, {"rude": "1"}), ("0", {"kind": "a"})]


# ------------------------------------------------------------------------------------------------ a log of before


def test_a_log_of_the_first_form_is_brought_up_to_date(url):
    store = DecisionStore(url, secret=b"s" * 32)
    store.migrate("0001")
    old = {c.name: c for c in items.c if c.name not in ("lease", "lease_clock")}
    rows = [store._row(check_entry(logged(i))) for i in (1, 2)]
    for row in rows:
        del row["labels"]
    at = {"at": START}
    said = {"decision_id": rows[0]["id"], "client": "shop", "reason": "r", **at}
    with store.engine.begin() as connection:
        connection.execute(sa.insert(decisions), rows)
        for row in rows:
            waiting = item_of(row["id"], "review", START, logged(1)) | {"claimed_by": "ann", "claimed_until": START}
            connection.execute(sa.insert(sa.table("items", *map(sa.column, old))), [waiting])
        connection.execute(sa.insert(feedback), [{**said, "label": label} for label in ("0", "1")])
        connection.execute(
            sa.insert(receipts),
            [
                {"id": f"{i}", "at": START + timedelta(hours=h), "subject": s, "client": None, "counts": {}}
                for i, (s, h) in enumerate([("x", 2), ("y", 1), ("x", 0)])
            ],
        )
    store.migrate()
    with store.engine.connect() as connection:
        assert connection.scalars(sa.select(feedback.c.label)).all() == ["1"]
        assert connection.scalars(sa.select(forgotten.c.subject).order_by(forgotten.c.number)).all() == ["y", "x"]
    assert store.claim("bob").claimed_by == "bob"
    assert store.decision(rows[0]["id"]).labels is None and store.decision(rows[0]["id"]).body == rows[0]["body"]
    store.feedback(rows[0]["id"], "shop", "0")
    store.record([logged(3, labels={"rude": None})])
    assert store.decision(logged(3).id).labels == {"rude": None}
    store.sync()
    assert store.last_forgotten == 2
    store.close()
