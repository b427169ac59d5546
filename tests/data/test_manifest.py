"""Every row of a source ends in the manifest or, with its reason, in the quarantine."""

import json
import threading
import time
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bifocal.data.manifest import read_manifest, write_manifest
from bifocal.errors import BifocalError, ConfigError, DataError, RunError
from bifocal.example import LABELS, Example, Label, Rejected, Taxonomy
from bifocal.scale.threads import in_order

TAXONOMY = Taxonomy({"abuse_hate": LABELS["abuse_hate"], "target_type": LABELS["target_type"]})


def text_facts(raw):
    if not isinstance(raw, str):
        raise DataError(f"text must be a string, found {raw!r}")
    return {"characters": len(raw)}


def picture_facts(blob):
    if blob.startswith(b"broken"):
        raise DataError(f"the picture of {len(blob)} bytes is truncated")
    return {"size": len(blob)}


MODALITIES = {
    "text": SimpleNamespace(input=SimpleNamespace(is_file=False), facts=text_facts),
    "image": SimpleNamespace(input=SimpleNamespace(is_file=True), facts=picture_facts),
}


class Rows:
    """A source made of a list, whose pictures are their own references."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)

    def open(self, reference):
        if reference == "gone.png":
            raise DataError(f"there is no picture {reference!r}")
        return reference.encode()


def row(number, *, id=None, parts=None, label=0, **fields):
    parts = {"text": f"words {number}", "image": f"{number}.png"} if parts is None else parts
    return Example(id or str(number), parts, {"abuse_hate": label}, **fields)


@pytest.fixture
def write(tmp_path):
    def write(rows, modalities=MODALITIES, label="abuse_hate", limit=None, strict=False, progress=None, **labels):
        return write_manifest(
            Rows(rows),
            modalities,
            tmp_path / "manifest.jsonl",
            tmp_path / "quarantine.jsonl",
            label=label,
            **{"taxonomy": TAXONOMY, **labels},
            limit=limit,
            strict=strict,
            progress=progress,
        )

    write.manifest = tmp_path / "manifest.jsonl"
    write.quarantine = tmp_path / "quarantine.jsonl"
    write.quarantined = lambda: [json.loads(line) for line in write.quarantine.read_text().splitlines()]
    return write


def test_every_row_arrives_in_order_with_its_facts_and_is_counted(write):
    rows = [row(0, split="train", group="g"), row(1, label=1), row(2, label=None, split="val", meta={"likes": 3})]
    counts = write(rows)
    assert counts == {
        "examples": 3,
        "quarantined": 0,
        "unlabelled": 1,
        "animated": 0,
        "spelled_otherwise": {"files": 0, "for_example": {}},
        "by_split": {"train": 1, "val": 1, "unassigned": 1},
        "by_class": {"train": {"0": 1}, "unassigned": {"1": 1}},
        "reasons": {},
        "notes": [],
    }
    first, _, last = read_manifest(write.manifest)
    labels = {"abuse_hate": 0, "target_type": None}  # what the source says nothing of is null, not missing
    facts = {"text": {"characters": 7}, "image": {"size": 5}}
    assert first == replace(row(0, split="train", group="g", meta={"facts": facts}), labels=labels)
    assert last.meta["likes"] == 3 and last.labels == {"abuse_hate": None, "target_type": None}
    assert write.quarantine.read_text() == ""


def test_of_several_labels_each_is_counted_where_it_is_borne_and_asked(write):
    price = Label((0, 1), above=10)
    child = replace(LABELS["target_type"], requires="dear")
    taxonomy = Taxonomy({"abuse_hate": LABELS["abuse_hate"], "dear": price, "target_type": child})
    borne = [(0, 20, "society"), (1, 5, "none"), (None, None, None), (None, 11, "society"), (None, None, "none")]
    rows = [
        replace(row(n), labels={"abuse_hate": hate, "dear": dear, "target_type": target})
        for n, (hate, dear, target) in enumerate(borne)
    ]
    counts = write(rows, taxonomy=taxonomy, further=["dear", "target_type"])
    assert counts["unlabelled"] == 3 and counts["by_class"] == {"unassigned": {"0": 1, "1": 1}}
    assert counts["without_labels"] == 1
    assert counts["labels"] == {
        "dear": {"unlabelled": 2, "by_class": {}},  # numbers, whose classes the splits will count
        "target_type": {"unlabelled": 0, "by_class": {"unassigned": {"society": 2}}},
    }
    median = Taxonomy({**taxonomy.labels, "dear": replace(price, above="median")})
    counts = write(rows, taxonomy=median, further=["target_type"])
    assert counts["labels"] == {
        "target_type": {"unlabelled": 0, "by_class": {}}
    }  # of whom it is asked is not known yet


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(9, id="3"), "id '3' stands in an earlier row"),
        (Example("", {"text": "a"}, {}), "id must be a non-empty string"),
        (Example(7, {"text": "a"}, {}), "id must be a non-empty string, found 7"),
        (Example("\ud800", {"text": "a"}, {}), "not valid Unicode"),
        (row(9, split="dev"), "split 'dev' is unknown; allowed: train, val, test, or null"),
        (row(9, group=4), "group must be a string or null, found 4"),
        (row(9, label=2), "label value 2 is not in the taxonomy; allowed: 0, 1, or null"),
        (Example("9", {"text": "a"}, {"abuse_hat": 1}), "did you mean 'abuse_hate'?"),
        (row(9, parts={"image": "broken.png"}), "image: the picture of 10 bytes is truncated"),
        (row(9, parts={"text": "a", "image": "gone.png"}), "image: there is no picture 'gone.png'"),
        (row(9, parts={"text": 5}), "text: text must be a string, found 5"),
        (row(9, parts={"text": " ", "image": None}), "the row brings nothing to read"),
        (row(9, meta={"price": float("nan")}), "the row is not JSON"),
        (row(9, meta={"when": object()}), "the row is not JSON"),
        (Rejected("9", "train.jsonl:4", "not valid JSON", "{"), "not valid JSON"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_reason(write, bad, reason):
    counts = write([*(row(n) for n in range(5)), bad])
    assert counts["examples"] == 5 and counts["quarantined"] == 1
    (found,) = write.quarantined()
    assert reason in found["reason"]
    assert found["where"] == ("train.jsonl:4" if isinstance(bad, Rejected) else "row 6 of the source")
    assert found["row"]
    assert [e.id for e in read_manifest(write.manifest)] == list("01234")


def test_an_empty_part_is_an_absent_part(write):
    write([row(0, parts={"text": "  ", "image": "a.png"}), row(1, parts={"text": "a", "image": None})])
    assert [set(e.parts) for e in read_manifest(write.manifest)] == [{"image"}, {"text"}]


def test_a_text_of_signs_that_no_reader_sees_is_an_absent_part(write):
    counts = write([row(0, parts={"text": "\u200b\u2060\ufeff", "image": "a.png"}), row(1, parts={"text": "\u200b"})])
    (example,) = read_manifest(write.manifest)
    assert set(example.parts) == {"image"} and set(example.meta["facts"]) == {"image"}
    assert counts["quarantined"] == 1 and "brings nothing to read" in write.quarantined()[0]["reason"]


def test_animated_pictures_are_counted(write):
    moving = SimpleNamespace(
        input=SimpleNamespace(is_file=True), facts=lambda blob: {"frames": 3 if blob == b"moving.gif" else 1}
    )
    rows = [row(0, parts={"image": "moving.gif"}), row(1, parts={"image": "still.gif"}), row(2, parts={"text": "a"})]
    assert write(rows, modalities={"image": moving})["animated"] == 1


def test_parts_outside_the_run_are_kept_unchecked(write):
    write([row(0, parts={"text": "a", "image": "gone.png"})], modalities={"text": MODALITIES["text"]})
    (example,) = read_manifest(write.manifest)
    assert example.parts["image"] == "gone.png" and set(example.meta["facts"]) == {"text"}


def test_text_that_utf8_cannot_hold_survives(write):
    write([row(0, parts={"text": "a\ud800b\u2028ü"}), row(1, parts={"text": "naïve 日本"})])
    assert [e.parts["text"] for e in read_manifest(write.manifest)] == ["a\ud800b\u2028ü", "naïve 日本"]
    assert "naïve 日本" in write.manifest.read_text()


def test_strict_stops_at_the_first_bad_row_and_names_it(write):
    with pytest.raises(DataError, match=r"row 3 of the source, id '2': label value 7 .*strict: true"):
        write([row(0), row(1), row(2, label=7), row(3, label=8)], strict=True)
    assert not write.manifest.exists()
    assert [r["id"] for r in write.quarantined()] == ["2"]


def test_more_than_five_percent_bad_stops_the_run_with_the_commonest_reasons(write):
    write.manifest.write_text("old\n")
    bad = [row(n, parts={"image": f"broken{n}.png"}) for n in range(3)]
    good = [row(n) for n in range(10, 40)]
    with pytest.raises(DataError) as caught:
        write([*bad, row(4, label=7), *good])
    message = str(caught.value)
    assert "4 of 34 rows" in message and "5%" in message and str(write.quarantine) in message
    assert "3 x image: the picture of … bytes is truncated; 1 x label value" in message
    assert "\n" not in message
    assert len(write.quarantined()) == 4
    assert write.manifest.read_text() == "old\n"  # a refused manifest replaces nothing


def test_exactly_five_percent_bad_is_tolerated(write):
    with pytest.raises(DataError, match="2 of 39 rows"):
        write([row(n, label=7 if n < 2 else 0) for n in range(39)])
    counts = write([row(0, label=7), *(row(n) for n in range(1, 20))])
    assert counts["quarantined"] == 1 and counts["reasons"] == {
        "label value … is not in the taxonomy; allowed: …, …, or null": 1
    }


def test_of_less_than_twenty_rows_only_all_bad_stop_the_run(write):
    assert write([row(0), row(1, label=7), row(2, label=7)])["quarantined"] == 2
    with pytest.raises(DataError, match="2 of 2 rows cannot be used"):
        write([row(1, label=7), row(2, label=7)])


def test_a_source_without_rows_is_an_error(write):
    with pytest.raises(DataError, match="brought no rows"):
        write([])


def test_an_unknown_label_is_refused_before_any_work(write):
    with pytest.raises(ConfigError, match="did you mean 'abuse_hate'"):
        write([row(0)], label="abuse_hat")
    assert not write.manifest.exists() and not write.quarantine.exists()


def test_limit_takes_the_first_rows_and_reads_no_further(write):
    def endless():
        number = 0
        while True:
            yield row(number)
            number += 1

    seen = []
    assert write(endless(), limit=3, progress=lambda done, total: seen.append((done, total)))["examples"] == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_failing_source_leaves_no_file(write):
    def failing():
        yield row(0)
        raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone"):
        write(failing())
    assert list(write.manifest.parent.iterdir()) == []


def test_rows_are_not_held_in_memory(write):
    def many():
        for number in range(3000):
            yield row(number, parts={"text": f"{number} " + "x" * 20_000})

    tracemalloc.start()
    assert write(many())["examples"] == 3000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert write.manifest.stat().st_size > 60e6 and peak < 15e6


def test_reading_names_what_is_wrong(tmp_path):
    with pytest.raises(RunError, match="is missing: run the step `manifest`"):
        next(read_manifest(tmp_path / "none.jsonl"))
    for line in ("{", '{"id": "a", "extra": 1}', "[1]"):
        (tmp_path / "m.jsonl").write_text(json.dumps(row(0).to_json()) + "\n" + line + "\n")
        with pytest.raises(BifocalError, match=r"m.jsonl, line 2 is not an example"):
            list(read_manifest(tmp_path / "m.jsonl"))


def test_in_order_keeps_the_order_runs_side_by_side_and_looks_ahead_a_little():
    taken = 0

    def items():
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    meeting = threading.Barrier(2, timeout=5)

    def work(number):
        if number < 2:
            meeting.wait()  # passes only where two are at work at once
        time.sleep(0.002 * (number % 3))
        return number

    results = in_order(work, items(), workers=2)
    assert next(results) == 0
    assert taken <= 6
    assert list(results) == list(range(1, 100))


@pytest.mark.parametrize(
    ("word", "n", "told"), [("nan", 2, True), ("None", 2, True), ("NaN", 1, False), ("none", 9, False)]
)
def test_texts_that_are_a_word_for_nothing_stay_and_are_told_of(write, word, n, told):
    rows = [row(i, parts={"text": word if i < n else f"words {i}"}) for i in range(100)]
    counts = write(rows)
    assert counts["examples"] == 100
    assert [note.startswith(f"{n} of 100 texts are {word!r}") for note in counts["notes"]] == [True] * told
    assert all(f"missing_text: [{word!r}]" in note for note in counts["notes"])
