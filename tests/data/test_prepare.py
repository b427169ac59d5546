"""From manifest to shards: who is left out is counted, near-duplicates stay together, nothing old lies about."""

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bifocal.config import parse_config
from bifocal.data.manifest import write_manifest
from bifocal.data.prepare import labelled, write_shards, write_splits
from bifocal.data.shards import open_split
from bifocal.errors import DataError
from bifocal.example import LABELS, Example, Label, Taxonomy
from bifocal.modalities.image import Image as ImageModality
from bifocal.modalities.text import Text
from bifocal.sources.hateful_memes import HatefulMemes
from bifocal.sources.several import Several
from bifocal.sources.synthetic import Synthetic
from bifocal.sources.table import Table
from bifocal.workspace import Workspace, file_sha256, read_json

MODALITIES = {"text": Text, "image": ImageModality}


class Prepared:
    """A source with its manifest written, ready to be split and packed under any configuration."""

    def __init__(self, folder, source, **changes):
        self.space, self.source = Workspace(folder, "p"), source
        self.configure(**changes)
        self.taxonomy = Taxonomy({**LABELS, **source.labels()})
        for name, own in self.config.labels.items():
            self.taxonomy.labels[name] = replace(self.taxonomy[name], requires=own.requires)
        write_manifest(
            source,
            {name: modality.from_config(self.config) for name, modality in MODALITIES.items()},
            self.space.manifest,
            self.space.quarantine,
            taxonomy=self.taxonomy,
            label=self.config.label,
            further=self.config.label_names[1:],
            limit=None,
            strict=True,
        )
        self.space.ocr.touch()

    def configure(self, **changes):
        self.config = parse_config({"run": "p", "source": {"kind": "synthetic"}, **changes})
        self.modalities = {name: MODALITIES[name].from_config(self.config) for name in self.config.modalities}

    def split(self):
        return write_splits(self.space, self.source, self.taxonomy, self.config)

    def pack(self):
        done = []
        counts = write_shards(
            self.space, self.source, self.modalities, self.taxonomy, self.config, lambda *at: done.append(at)
        )
        assert done[-1] == (len(read_json(self.space.splits)),) * 2
        return counts

    def open(self, split):
        return open_split(self.space.shards(split), self.modalities, self.taxonomy)


def straddling(space):
    """Groups with rows in more than one split."""
    groups, splits = read_json(space.groups), read_json(space.splits)
    found = {}
    for row, split in splits.items():
        found.setdefault(groups[row], set()).add(split)
    return [group for group, members in found.items() if len(members) > 1]


@pytest.mark.parametrize("part", ["text", "image"])
def test_rows_without_a_part_that_the_run_reads_are_left_out_and_counted(tmp_path, part):
    source = Synthetic(size=40, missing_text=0.2, missing_image=0.2)
    lacking = {example.id for example in source if part not in example.parts}
    prepared = Prepared(tmp_path, source, modalities=[part], splits={"val": 0.2, "test": 0.2})
    counts = prepared.split()
    assert counts["unread"] == len(lacking) > 0
    assert set(read_json(prepared.space.splits)) == {example.id for example in source} - lacking
    assert sum(counts["rows"].values()) == 40 - len(lacking)
    packed = prepared.pack()
    assert packed["rows"] == counts["rows"]
    assert not lacking & {i for split in packed["rows"] for i in prepared.open(split).ids}


def test_a_run_that_reads_every_part_leaves_nobody_out(tmp_path):
    prepared = Prepared(tmp_path, Synthetic(size=80, missing_text=0.3, missing_image=0.3))
    assert prepared.split()["unread"] == 0
    assert len(read_json(prepared.space.splits)) == 80


def test_shards_hold_the_rows_of_their_split_under_their_groups(tmp_path):
    prepared = Prepared(tmp_path, Synthetic(size=24, structure="xor"), splits={"val": 0.2, "test": 0.2})
    prepared.split()
    counts = prepared.pack()
    splits, groups = read_json(prepared.space.splits), read_json(prepared.space.groups)
    for split in ("train", "val", "test"):
        packed = prepared.open(split)
        assert list(packed.ids) == [i for i, name in splits.items() if name == split]
        assert list(packed.groups) == [groups[i] for i in packed.ids]
    assert {path.split("/")[1] for path in counts["sha256"]} == {"train", "val", "test"}
    for path, digest in counts["sha256"].items():
        assert file_sha256(prepared.space.folder / path) == digest


def test_a_split_that_is_no_more_leaves_no_shards_behind(tmp_path):
    prepared = Prepared(tmp_path, Synthetic(size=24), splits={"val": 0.25, "test": 0.25})
    prepared.split()
    assert set(prepared.pack()["rows"]) == {"train", "val", "test"}
    assert prepared.space.shards("test").is_dir()
    prepared.configure(splits={"val": 0.25, "test": 0})
    prepared.split()
    counts = prepared.pack()
    assert counts["rows"] == {"train": 18, "val": 6}
    assert not prepared.space.shards("test").exists()
    assert prepared.space.packed_splits() == ["train", "val"]
    assert not any("/test/" in path for path in counts["sha256"])


def test_the_groups_of_the_source_never_straddle_carved_splits(tmp_path):
    prepared = Prepared(tmp_path, Synthetic(size=64, structure="xor"), splits={"val": 0.25, "test": 0.25})
    counts = prepared.split()
    assert set(counts["rows"]) == {"train", "val", "test"}
    assert straddling(prepared.space) == [] and counts["leakage"] == {"action": "report", "rows": {}}
    assert counts["groups"] <= 16 and counts["rows_in_shared_groups"] == 64
    splits = read_json(prepared.space.splits)
    for example in prepared.source:
        first = f"syn-{int(example.id[4:]) // 4 * 4:06d}"
        assert splits[example.id] == splits[first]


def write_posts(root, posts):
    """``posts``: (id, picture number, text) of a train file."""
    (root / "img").mkdir(parents=True)
    for _, number, _ in posts:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(root / "img" / f"{number}.png")
    rows = [
        {"id": name, "img": f"img/{number}.png", "label": i % 2, "text": text}
        for i, (name, number, text) in enumerate(posts)
    ]
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_near_duplicates_that_the_source_does_not_know_of_never_straddle_carved_splits(tmp_path):
    """Three posts of each text, two of them on other pictures; and one picture without words in two posts."""
    texts = [" ".join(f"{word}{k}" for word in ("alpha", "beta", "gamma", "delta")) for k in range(12)]
    posts = [(f"{k}-{copy}", 3 * k + copy, texts[k]) for copy in range(3) for k in range(12)]
    posts += [("bare-0", 99, ""), ("bare-1", 99, "")]
    write_posts(tmp_path / "memes", posts)
    prepared = Prepared(tmp_path / "p", HatefulMemes(root=tmp_path / "memes"), splits={"val": 0.25, "test": 0.25})
    counts = prepared.split()
    assert counts["groups"] == 13 and counts["rows_in_shared_groups"] == 38
    assert set(counts["rows"]) == {"train", "val", "test"} and straddling(prepared.space) == []
    splits, groups = read_json(prepared.space.splits), read_json(prepared.space.groups)
    for name in splits:
        first = f"{name.split('-')[0]}-0"
        assert splits[name] == splits[first] and groups[name] == first


def test_only_labelled_rows_are_assigned_and_none_at_all_is_an_error(tmp_path):
    posts = [(f"row{k}", k, f"alpha{k} beta{k} gamma{k}") for k in range(40)]
    write_posts(tmp_path / "memes", posts)
    path = tmp_path / "memes" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["label"] = None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = Prepared(tmp_path / "p", HatefulMemes(root=tmp_path / "memes"))
    assert prepared.split()["unread"] == 0
    assert set(read_json(prepared.space.splits)) == {f"row{k}" for k in range(40) if k != 2}
    shown = next(labelled(prepared.space, prepared.source, prepared.config))
    assert shown.parts["text"].startswith("[OCR] alpha0 beta0 gamma0 [/OCR]")
    prepared.configure(label="offensive")
    with pytest.raises(DataError, match="offensive label"):
        prepared.split()


THREE = {"abuse_hate": "unique_text", "offensive": "unique_text", "target_type": "unique_image"}
SEVERAL = {
    "label": "abuse_hate",
    "labels": {"abuse_hate": {}, "offensive": {}, "target_type": {"requires": "abuse_hate"}},
    "splits": {"val": 0.2, "test": 0.2},
}


def test_of_several_labels_every_row_that_bears_one_is_kept_and_the_first_is_balanced(tmp_path):
    gaps = {"abuse_hate": 0.3, "offensive": 0.4, "target_type": 0.5}
    source = Synthetic(size=400, structures=THREE, unlabelled=gaps)
    prepared = Prepared(tmp_path, source, **SEVERAL)
    counts = prepared.split()
    rows = {e.id: e.labels for e in source}
    bare = {i for i, row in rows.items() if all(row[name] is None for name in THREE)}
    splits = read_json(prepared.space.splits)
    assert set(splits) == set(rows) - bare and 10 < len(bare) < 60
    shares = {
        kind: np.mean([splits[i] == "test" for i in splits if rows[i]["abuse_hate"] == kind]) for kind in (0, 1, None)
    }
    assert shares == pytest.approx({0: 0.2, 1: 0.2, None: 0.2}, abs=0.03)
    assert counts["by_class"] == {str(c): sum(row["abuse_hate"] == c for row in rows.values()) for c in (0, 1)}
    offensive, target = counts["labels"]["offensive"], counts["labels"]["target_type"]
    assert sum(offensive["by_class"].values()) == sum(offensive["rows"].values())
    assert offensive["by_class"] == {str(c): sum(row["offensive"] == c for row in rows.values()) for c in (0, 1)}
    asked = Counter(row["target_type"] for row in rows.values() if row["abuse_hate"] == 1)
    assert target["by_class"] == {c: asked[c] for c in LABELS["target_type"].classes}
    (pair,) = counts["pairs"]
    assert pair["labels"] == ["abuse_hate", "offensive"]
    assert pair["both"] > 50 < pair["neither"] and pair["first"] == pair["second"] == 0
    odd = counts["contradictions"]["target_type"]
    refused = Counter(row["target_type"] for row in rows.values() if row["abuse_hate"] == 0)
    assert odd["requires"] == "abuse_hate" and odd["negative"] == {c: refused[c] for c in ("community", "none")}
    assert counts["gaps"] == []
    packed = prepared.pack()
    assert sum(packed["rows"].values()) == len(splits)
    train = prepared.open("train")
    assert [train.record(i).labels for i in range(len(train))] == [
        prepared.taxonomy.classes_of({name: rows[i].get(name) for name in prepared.taxonomy.labels}) for i in train.ids
    ]


def test_several_labels_of_which_each_row_bears_the_first_split_as_that_alone(tmp_path):
    source = Synthetic(size=200, structures=THREE)
    alone = Prepared(tmp_path / "one", source, splits=SEVERAL["splits"])
    together = Prepared(tmp_path / "three", source, **SEVERAL)
    one, three = alone.split(), together.split()
    assert one.items() <= three.items() and set(three) - set(one) == {"labels", "pairs", "contradictions", "gaps"}
    for name in ("splits", "groups", "taxonomy"):
        assert getattr(alone.space, name).read_bytes() == getattr(together.space, name).read_bytes()
    assert alone.pack()["sha256"] == together.pack()["sha256"]


def test_sources_that_each_know_some_of_the_labels(tmp_path):
    """What a source does not know is not annotated, and counted as no class."""
    (tmp_path / "hate.csv").write_text(
        "words,bad\n" + "".join(f"stone bridge number {i} {'x' * i},{i % 2}\n" for i in range(40))
    )
    (tmp_path / "spam.csv").write_text(
        "words,ads\n" + "".join(f"copper kettle {i} {'y' * i},{('yes', 'no', '')[i % 3]}\n" for i in range(60))
    )
    tables = [("hate", "bad"), ("spam", "ads")]
    source = Several(
        sources=[
            {"kind": "table", "name": n, "root": str(tmp_path / f"{n}.csv"), "text": "words", "labels": {n: column}}
            for n, column in tables
        ]
    )
    config = {"label": "hate", "labels": {"hate": {}, "spam": {}}, "modalities": ["text"]}
    prepared = Prepared(tmp_path / "p", source, **config, splits={"val": 0.2, "test": 0.2})
    counts = prepared.split()
    assert sum(counts["rows"].values()) == 80 and counts["by_class"] == {"0": 20, "1": 20}
    assert counts["labels"]["spam"]["by_class"] == {"0": 20, "1": 20}
    assert counts["pairs"] == [{"labels": ["hate", "spam"], "both": 0, "first": 0, "second": 0, "neither": 0}]
    prepared.pack()
    classes = Counter()
    for split in counts["rows"]:
        packed = prepared.open(split)
        found = [packed.classes(name, prepared.taxonomy[name]) for name in ("hate", "spam")]
        classes.update(zip(packed.ids, *found, strict=True))
    assert all((hate, spam)[i.startswith("hate")] == -1 for i, hate, spam in classes)


class Sparse(Synthetic):
    """Of the second label the first few rows alone."""

    annotated: int = 0

    def example(self, i):
        row = super().example(i)
        return row if i < self.annotated else replace(row, labels={**row.labels, "offensive": None})


@pytest.mark.parametrize(
    ("annotated", "told"),
    [
        (10, "offensive is annotated on 10 rows (train: 3 x '0', 3 x '1'; val: 1 x '1'; test: "),
        (0, "no row of the source bears both a offensive label and one of text, image: leave it out of"),
    ],
)
def test_a_label_that_too_few_rows_bear_is_refused_with_what_there_is(tmp_path, annotated, told):
    source = Sparse(size=200, structures=THREE, annotated=annotated)
    prepared = Prepared(tmp_path, source, **SEVERAL)
    with pytest.raises(DataError, match=re.escape(told)):
        write_splits(prepared.space, source, prepared.taxonomy, prepared.config, 0.0)


class Prices:
    """Rows that bear a number, of which the class is made once train is known."""

    text_role = "caption"

    def __init__(self, prices, above="median", split=None):
        self.prices, self.above, self.official = prices, above, split or (lambda i: None)

    def role_of(self, example):
        return self.text_role

    def labels(self):
        return {"dear": Label((0, 1), above=self.above)}

    def __iter__(self):
        for i, price in enumerate(self.prices):
            parts = {"text": f"number {i} of the quiet street"}
            yield Example(str(i), parts, {"dear": price}, split=self.official(i))


def test_each_label_has_its_own_median_of_the_train_rows_that_bear_it(tmp_path):
    prices = [None if i % 3 == 0 else float(i) for i in range(60)]
    lines = [f"number {i} of the quiet street,{'' if p is None else p},{i % 7},{i % 2}" for i, p in enumerate(prices)]
    (tmp_path / "homes.csv").write_text("\n".join(["words,price,rooms,bad", *lines]))
    columns = {"dear": "price", "large": "rooms"}
    source = Table(
        root=tmp_path / "homes.csv",
        text="words",
        labels={"bad": "bad", **{name: {"column": column, "above": "median"} for name, column in columns.items()}},
    )
    config = {"label": "dear", "labels": {"dear": {}, "large": {}, "bad": {}}, "modalities": ["text"]}
    prepared = Prepared(tmp_path / "p", source, **config, splits={"val": 0.2, "test": 0.2})
    counts = prepared.split()
    train = [int(i) - 1 for i, split in read_json(prepared.space.splits).items() if split == "train"]
    assert counts["medians"] == {
        "dear": np.median([prices[i] for i in train if prices[i] is not None]),
        "large": np.median([i % 7 for i in train]),
    }
    assert sum(counts["by_class"].values()) == 40 and sum(counts["labels"]["large"]["by_class"].values()) == 60
    assert [pair["labels"] for pair in counts["pairs"]] == [["dear", "large"], ["dear", "bad"], ["large", "bad"]]
    assert all(sum(n for key, n in p.items() if key != "labels") == 40 for p in counts["pairs"][:2])


def labels_of(prepared, split):
    taxonomy = Taxonomy.from_json(read_json(prepared.space.taxonomy))
    packed = open_split(prepared.space.shards(split), prepared.modalities, taxonomy)
    return dict(zip(packed.ids, packed.classes("dear", taxonomy["dear"]), strict=True))


def test_a_class_is_whether_a_number_lies_above_the_median_of_train_alone(tmp_path):
    prices = [float(i) for i in range(60)] + [1000.0] * 40
    source = Prices(prices, split=lambda i: "train" if i < 60 else "test")
    prepared = Prepared(tmp_path, source, label="dear", modalities=["text"], splits={"val": 0, "test": 0.4})
    counts = prepared.split()
    assert counts["medians"] == {"dear": 29.5}  # 49.5 with test's
    assert read_json(prepared.space.taxonomy)["dear"]["above"] == 29.5
    prepared.taxonomy = Taxonomy.from_json(read_json(prepared.space.taxonomy))
    prepared.pack()
    assert labels_of(prepared, "train") == {str(i): int(i > 29.5) for i in range(60)}
    assert set(labels_of(prepared, "test").values()) == {1}


def test_carved_splits_are_balanced_before_the_median_is_known(tmp_path):
    rng = np.random.default_rng(0)
    prices = rng.permutation(200).astype(float).tolist()
    prepared = Prepared(tmp_path, Prices(prices), label="dear", modalities=["text"], splits={"val": 0.2, "test": 0.3})
    counts = prepared.split()
    splits = read_json(prepared.space.splits)
    train = [price for i, price in enumerate(prices) if splits[str(i)] == "train"]
    assert counts["medians"] == {"dear": float(np.median(train))}
    prepared.taxonomy = Taxonomy.from_json(read_json(prepared.space.taxonomy))
    prepared.pack()
    for split in ("train", "val", "test"):
        assert np.mean(list(labels_of(prepared, split).values())) == pytest.approx(0.5, abs=0.03)


def test_a_fixed_bound_needs_no_median_and_a_row_without_a_number_is_not_annotated(tmp_path):
    source = Prices([1.0, 5.0, None, 7.0, 2.0], above=4)
    prepared = Prepared(tmp_path, source, label="dear", modalities=["text"], splits={"val": 0, "test": 0})
    assert prepared.split()["medians"] == {}
    prepared.pack()
    assert labels_of(prepared, "train") == {"0": 0, "1": 1, "3": 1, "4": 0}


@pytest.mark.parametrize("price", ["12", True, float("nan")])
def test_what_is_no_number_cannot_be_compared(tmp_path, price):
    with pytest.raises(DataError, match="is no number, and the class is whether it lies above"):
        Prepared(tmp_path, Prices([1.0, price]), label="dear", modalities=["text"])


def test_texts_are_composed_once_for_both_steps_and_anew_where_the_manifest_is_another(tmp_path, monkeypatch):
    texts = ["first post é", "", "&lt;b&gt; third post, longer than a few words", "fourth of the posts"]
    (tmp_path / "posts.jsonl").write_text(
        "".join(json.dumps({"text": text, "price": i, "y": i % 2}) + "\n" for i, text in enumerate(texts))
    )
    source = Table(root=tmp_path / "posts.jsonl", text="text", tabular=["price"], labels={"abuse_hate": "y"})
    made = Prepared(tmp_path / "run", source, modalities=["text"])
    composed = list(labelled(made.space, made.source, made.config))
    kept = list(labelled(made.space, made.source, made.config, keep=True))
    assert kept == composed and made.space.composed.is_file()
    with monkeypatch.context() as patched:
        patched.setattr("bifocal.data.split_rows.compose_manifest", None)
        taken = list(labelled(made.space, made.source, made.config))
    assert taken == composed and [list(row.parts) for row in taken] == [list(row.parts) for row in composed]
    lines = made.space.manifest.read_text().replace("fourth", "another")
    made.space.manifest.write_text(lines)
    assert "another of the posts" in list(labelled(made.space, made.source, made.config))[-1].parts["text"]
