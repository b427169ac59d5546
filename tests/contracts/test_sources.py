"""Every source, present and to come, through the suite of its kind."""

import io
import json
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from bifocal import plugins
from bifocal.config import Strict
from bifocal.contracts import Source
from bifocal.errors import ConfigError, DataError
from bifocal.example import SPLITS, Example, Rejected, Taxonomy


def hateful_memes(folder: Path) -> dict:
    (folder / "img").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(folder / "img" / f"{i}.png")
    rows = [{"id": i, "img": f"img/{i}.png", "label": i % 2, "text": f"a quiet morning number {i}"} for i in range(4)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]) + "{broken\n")
    (folder / "test.jsonl").write_text(json.dumps(rows[3]) + "\n")
    return {"root": folder}


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "grey").save(folder / name, format="PNG")


def png() -> bytes:
    blob = io.BytesIO()
    Image.new("RGB", (8, 8), "grey").save(blob, format="PNG")
    return blob.getvalue()


def crisis_hate_mm(folder: Path) -> dict:
    train = "CASE2023_TASK4_TrainData/subTaskA"
    pictures(folder, f"{train}/Hate Speech/1.jpg", f"{train}/No Hate Speech/2.jpg", f"{train}/Other/3.jpg")
    (folder / "hate_stA_train.csv").write_text(f"filename,text\n/drive/{train}/Hate Speech/1.jpg,A LAMP\n")
    return {"root": folder}


def feedback(folder: Path) -> dict:
    pictures(folder, "pictures/a.png")
    label = {"abuse_hate": {"classes": [0, 1], "probability": "prob_hate", "description": "", "above": None}}
    (folder / "label_taxonomy.json").write_text(json.dumps(label))
    rows = [
        {"id": "a", "image": "pictures/a.png", "labels": {"abuse_hate": 1}, "weight": 1.0, "sample": "review"},
        {"id": "b", "text": "a lamp", "labels": {"abuse_hate": 0}, "weight": 100.0, "sample": "audit"},
        {"id": "c", "text": "a lamp", "labels": {"abuse_hate": 7}, "weight": 1.0},
    ]
    (folder / "feedback.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"root": folder}


def harmeme(folder: Path) -> dict:
    labels = [["not harmful"], ["very harmful", "society"], ["harmless"]]
    rows = [{"id": f"m{i}", "image": f"m{i}.png", "labels": own, "text": "A LAMP"} for i, own in enumerate(labels)]
    pictures(folder, *(f"images/{row['image']}" for row in rows))
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"root": folder}


def hub(folder: Path) -> dict:
    datasets = pytest.importorskip("datasets")
    picture = {"bytes": png(), "path": None}
    columns = {"text": ["a", "b", "c"], "image": [picture, None, picture], "label": [0, 1, -1]}
    features = datasets.Features(
        text=datasets.Value("string"), image=datasets.Image(), label=datasets.ClassLabel(names=["no", "yes"])
    )
    rows = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(folder)
    return {"dataset": str(folder), "text": "text", "image": "image", "labels": {"abuse_hate": "label"}}


def image_folder(folder: Path) -> dict:
    pictures(folder, "train/no/1.png", "train/yes/2.png", "test/yes/3.png")
    (folder / "train" / "yes" / "2.txt").write_text("a lamp")
    (folder / "train" / "yes" / "4.doc").write_text("a table")
    return {"root": folder}


def mami(folder: Path) -> dict:
    rows = ["file_name misogynous shaming stereotype objectification violence Text~Transcription"]
    rows += ["1.jpg 0 0 0 0 0 A~LAMP", "2.jpg 1 0 1 0 0 A~TABLE", "3.jpg yes 0 0 0 0 A~CHAIR"]
    (folder / "training.csv").write_text("".join(row.replace(" ", "\t").replace("~", " ") + "\n" for row in rows))
    pictures(folder, "1.jpg", "2.jpg", "3.jpg")
    return {"root": folder}


def memotion(folder: Path) -> dict:
    rows = ["image_name,text_ocr,text_corrected,offensive", "1.jpg,A LAMP,,slight", "2.jpg,,,hateful_offensive"]
    (folder / "labels.csv").write_text("\n".join([*rows, "3.jpg,,,mildly", ""]))
    pictures(folder, "images/1.jpg", "images/2.jpg", "images/3.jpg")
    return {"root": folder}


def mmhs150k(folder: Path) -> dict:
    votes = {"1": [0, 0, 1], "2": [1, 2, 0], "3": [9, 9, 9]}
    tweets = {name: {"labels": own, "tweet_text": f"tweet {name}"} for name, own in votes.items()}
    (folder / "MMHS150K_GT.json").write_text(json.dumps(tweets))
    (folder / "splits").mkdir()
    for split, ids in {"train": "1", "val": "2", "test": "3"}.items():
        (folder / "splits" / f"{split}_ids.txt").write_text(f"{ids}\n")
    pictures(folder, *(f"img_resized/{name}.jpg" for name in votes))
    return {"root": folder}


def multioff(folder: Path) -> dict:
    pictures(folder, "Labelled Images/a.png", "Labelled Images/b.png", "Labelled Images/c.png")
    (folder / "Split Dataset").mkdir()
    rows = ["image_name,sentence,label", "a.png,A LAMP,offensive", "b.png,A TABLE,Non-offensiv", "c.png,,rude", ""]
    (folder / "Split Dataset" / "Training_meme_dataset.csv").write_text("\n".join(rows))
    return {"root": folder}


def table(folder: Path) -> dict:
    pictures(folder, "images/1.png", "images/2.png")
    rows = [
        "id,words,file,age,kind,bad",
        "1,a lamp,1.png,3,x,yes",
        "2,,2.png,,y,no",
        "3,a table,,5,x,maybe",
        "4,too,few",
    ]
    (folder / "posts.csv").write_text("\n".join(rows) + "\n")
    labels = {"abuse_hate": {"column": "bad", "map": {True: 1, False: 0}}}
    return {"root": folder, "id": "id", "text": "words", "image": "file", "images": "images", "tabular": "rest"} | {
        "labels": labels
    }


def webdataset(folder: Path) -> dict:
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for name, blob in {"a/1.png": png(), "a/1.json": b'{"bad": 1}', "a/2.txt": b"a lamp", "3.json": b"{"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
    return {"root": folder, "labels": {"abuse_hate": "json.bad"}}


# A source that needs files adds a function here that writes a few into a folder and gives the options that name them.
OPTIONS = {
    "crisis_hate_mm": crisis_hate_mm,
    "feedback": feedback,
    "harmeme": harmeme,
    "hateful_memes": hateful_memes,
    "hub": hub,
    "image_folder": image_folder,
    "mami": mami,
    "memotion": memotion,
    "mmhs150k": mmhs150k,
    "multioff": multioff,
    "several": lambda folder: {
        "sources": [{"kind": "synthetic", "size": 3}, {"kind": "hateful_memes", **hateful_memes(folder)}],
    },
    "synthetic": lambda folder: {"size": 8, "structure": {"and": 0.5, "xor": 0.5}, "missing_text": 0.3},
    "table": table,
    "webdataset": webdataset,
}


@pytest.fixture(params=plugins.names("sources"))
def name(request):
    return request.param


@pytest.fixture
def options(name, tmp_path):
    assert name in OPTIONS, f"add a small instance of the source {name!r} to OPTIONS in {__file__}"
    return OPTIONS[name](tmp_path)


@pytest.fixture
def source(name, options):
    return plugins.options("source", name, options, plugins.load("sources", name))


def examples(source):
    return [row for row in source if isinstance(row, Example)]


def test_fulfils_the_protocol(source):
    assert isinstance(source, Source)
    assert isinstance(source, Strict)
    assert source.text_role in ("transcript", "caption")


def test_streams_the_same_rows_each_time(source):
    assert iter(source) is not iter(source)
    assert isinstance(iter(source), Iterator)
    first = list(source)
    assert first == list(source)
    assert examples(source)
    assert all(isinstance(row, Example | Rejected) for row in first)


def test_rows_are_what_the_manifest_can_hold(source):
    rows = examples(source)
    taxonomy = Taxonomy(dict(source.labels()))
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        taxonomy.check(row.labels)
        assert row.parts
        assert set(row.parts) <= set(plugins.names("modalities"))
        assert row.split in (None, *SPLITS)
        assert Example.from_json(json.loads(json.dumps(row.to_json()))) == row
    for row in source:
        json.dumps(row.to_json())


def test_labels_are_named_in_the_taxonomy(source):
    taxonomy = Taxonomy(dict(source.labels()))
    assert taxonomy.labels
    assert Taxonomy.from_json(json.loads(json.dumps(taxonomy.to_json()))) == taxonomy


def test_opens_every_reference_in_any_order_and_thread(source):
    references = [row.parts["image"] for row in examples(source) if "image" in row.parts]
    expected = [source.open(reference) for reference in references]
    assert all(isinstance(blob, bytes) and blob for blob in expected)
    found = {}
    threads = [threading.Thread(target=lambda r=r: found.update({r: source.open(r)})) for r in reversed(references)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[reference] for reference in references] == expected


@pytest.mark.parametrize("reference", ["", "no-such-thing", "/etc/passwd", "../../etc/passwd", "a\0b", "x" * 5000])
def test_an_unknown_reference_is_a_data_error(source, reference):
    with pytest.raises(DataError):
        source.open(reference)


def test_an_unknown_option_is_named_with_the_nearest(name, options):
    with pytest.raises(ConfigError, match=rf"source '{name}': unknown key 'text_rol'; did you mean 'text_role'"):
        plugins.options("source", name, options | {"text_rol": "caption"}, plugins.load("sources", name))


def test_a_copy_sent_to_a_worker_is_the_same_source(source):
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy) == list(source)
    for reference in [row.parts["image"] for row in examples(source) if "image" in row.parts][:1]:
        assert copy.open(reference) == source.open(reference)
    assert copy.fingerprint() == source.fingerprint()


def test_the_fingerprint_follows_the_options(name, options, source):
    other = {"caption": "transcript", "transcript": "caption"}[source.text_role]
    changed = plugins.options("source", name, options | {"text_role": other}, plugins.load("sources", name))
    assert changed.fingerprint() != source.fingerprint()
