"""Shards are read lazily, and refused by name when anything is wrong with them."""

import hashlib
import io
import json
import pickle
import subprocess
import sys
import tarfile
import textwrap
import tracemalloc
from types import SimpleNamespace

import pytest
from PIL import Image as Pillow

from bifocal.data.packing import pack
from bifocal.data.shards import INDEX, Split, open_split
from bifocal.errors import ShardError
from bifocal.example import LABELS, UNLABELLED, Example, Label, Taxonomy
from bifocal.modalities.image import Image
from bifocal.modalities.text import Text

TAXONOMY = Taxonomy({"abuse_hate": LABELS["abuse_hate"]})
# Stand-ins made of built-in functions alone: they can be sent to other processes.
MODALITIES = {
    "text": SimpleNamespace(
        suffix="txt", input=SimpleNamespace(is_file=False), read=str, pack=str.encode, unpack=bytes.decode, blank=str
    ),
    "image": SimpleNamespace(
        suffix="png", input=SimpleNamespace(is_file=True), read=bytes, pack=bytes, unpack=bytes, blank=bytes
    ),
}
SOURCE = SimpleNamespace(open=str.encode)
ODD_IDS = ["img/01.png", "a.b.c", "../up", "😀 meme", "x" * 300, "%2E", "UPPER", "upper", " ", "é"]


def example(id, split="train", parts=None, label=1, **meta):
    parts = {"text": f"words of {id}", "image": f"picture of {id}"} if parts is None else parts
    return Example(id, parts, {"abuse_hate": label}, f"group of {id}", split, meta)


def examples(n, split="train"):
    return [example(f"row{i}", split, label=i % 2, likes=i) for i in range(n)]


def packed(folder, rows, shard_size=4, modalities=MODALITIES, source=SOURCE, **options):
    return pack(rows, source, modalities, folder=folder.joinpath, taxonomy=TAXONOMY, shard_size=shard_size, **options)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def train(tmp_path):
    """A packed train split of ten rows in three shards."""
    packed(tmp_path, examples(10))
    return tmp_path / "train"


def test_what_is_packed_can_be_read(tmp_path):
    rows = [
        example("a", likes=3),
        example("b", "val", {"text": "only words"}, label=None),
        example("c", parts={"image": "only a picture"}, label=0),
        example("d", parts={}),
    ]
    seen = []
    assert packed(tmp_path, rows, progress=seen.append) == {"train": 3, "val": 1}
    assert seen == [1, 2, 3, 4]
    split = open_split(tmp_path / "train", MODALITIES, TAXONOMY)
    assert len(split) == 3 and split.ids == ("a", "c", "d")
    assert split.groups == ("group of a", "group of c", "group of d")
    assert split.present == {"text": [True, False, False], "image": [True, True, False]}
    assert list(split.values("text")) == ["words of a", "", ""]
    assert list(split.values("image")) == [b"picture of a", b"only a picture", b""]
    assert split.classes("abuse_hate", LABELS["abuse_hate"]) == [1, 0, 1]
    assert split.meta(0) == {"likes": 3}
    val = open_split(tmp_path / "val", MODALITIES)
    assert val.classes("abuse_hate", LABELS["abuse_hate"]) == [UNLABELLED]
    assert val.classes("offensive", LABELS["offensive"]) == [UNLABELLED]
    assert not (tmp_path / "test").exists()


def test_real_modalities_round_trip(tmp_path):
    buffer = io.BytesIO()
    Pillow.new("RGB", (300, 200), "red").save(buffer, "JPEG")
    source = SimpleNamespace(open=lambda reference: buffer.getvalue())
    modalities = {"text": Text(), "image": Image()}
    packed(tmp_path, [example("a"), example("b", parts={"text": "é 日本"})], modalities=modalities, source=source)
    split = open_split(tmp_path / "train", modalities)
    picture, blank = split.values("image")
    assert picture.size == blank.size == (384, 384) and picture.getpixel((200, 200))[0] > 250
    assert picture.tobytes() == modalities["image"].read(buffer.getvalue()).tobytes()
    assert blank.tobytes() == modalities["image"].blank().tobytes()
    assert split.values("text")[1] == "é 日本"


def python(script, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, **options
    )


# ------------------------------------------------------------------------------------- refusals


def rewrite(train, change):
    """Rewrite the first shard member by member and bring its hash in the index up to date, as a forger would."""
    path = train / "shard-000000.tar"
    with tarfile.open(path) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(path, "w") as tar:
        for member, blob in change(members):
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))
    sign(train)


def sign(train, **fields):
    index = json.loads((train / INDEX).read_text())
    for shard in index["shards"]:
        shard["sha256"] = hashlib.sha256((train / shard["name"]).read_bytes()).hexdigest()
    (train / INDEX).write_text(json.dumps({**index, **fields}))


def member(name, blob=b"", kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info, blob


def cut(train, size):
    path = train / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:size])


def boundary(train):
    """Where the third sample of the first shard begins."""
    with tarfile.open(train / "shard-000000.tar") as tar:
        return tar.getmembers()[6].offset


def refused(train, match):
    with pytest.raises(ShardError, match=match) as caught:
        open_split(train, MODALITIES, TAXONOMY)
    assert "run the step `shards`" in str(caught.value) and "\n" not in str(caught.value)


def test_a_shard_cut_inside_a_member_is_refused(train):
    cut(train, boundary(train) + 520)
    refused(train, "shard-000000.tar was cut or altered")
    sign(train)
    refused(train, "shard-000000.tar is not a whole tar")


def test_a_shard_cut_between_samples_is_refused(train):
    cut(train, boundary(train))
    refused(train, "shard-000000.tar was cut or altered")
    sign(train)
    refused(train, "shard-000000.tar holds 2 samples, index.json says 4")


def test_a_flipped_byte_is_refused(train):
    path = train / "shard-000001.tar"
    blob = bytearray(path.read_bytes())
    blob[blob.index(b"picture of row5")] ^= 1
    path.write_bytes(blob)
    refused(train, "shard-000001.tar was cut or altered")


def doubled(members):
    return [*members, members[0]]


def shortened(members):
    return members[1:]


def poisoned(members):
    return [*members, member("row0.pyd", pickle.dumps("executed by webdataset's decoder"))]


def linked(members):
    return [*members[:-1], member("row3.txt", kind=tarfile.SYMTYPE)]


def nameless(members):
    return [*members, member("README", b"hello")]


def foreign(members):
    return [*members[:-3], *((member(m.name.replace("row3", "row9"), blob)) for m, blob in members[-3:])]


def unreadable(members):
    return [(m, b"{" if m.name.endswith(".json") else blob) for m, blob in members]


def unlike(members):
    return [(m, b'{"id": 4}' if m.name.endswith(".json") else blob) for m, blob in members]


def partial(members):
    return [(m, blob.replace(b'"image": true', b'"audio": true')) for m, blob in members]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (doubled, "member 'row0.json' is there twice"),
        (shortened, "sample 'row0' lacks its member json"),
        (poisoned, r"member 'row0.pyd' is none of <key>.txt, <key>.png, <key>.json"),
        (linked, "member 'row3.txt' is none of"),
        (nameless, "member 'README' is none of"),
        (foreign, "row9.json belongs to another sample"),
        (unreadable, "row0.json is not the record of a sample"),
        (unlike, "row0.json is not the record of a sample"),
        (partial, "row0.json belongs to another sample or other modalities"),
    ],
)
def test_a_forged_shard_is_refused_by_name_even_if_its_hash_is_right(train, change, match):
    rewrite(train, change)
    refused(train, match)


def test_a_sample_in_two_shards_is_refused(train):
    (train / "shard-000001.tar").write_bytes((train / "shard-000000.tar").read_bytes())
    sign(train)
    refused(train, "'row0' stands in an earlier shard")


def test_the_index_has_to_describe_the_folder(train):
    (train / "extra.tar").write_bytes(b"")
    refused(train, "extra.tar is not in it")
    (train / "extra.tar").unlink()
    (train / "shard-000002.tar").rename(train / "away")
    refused(train, "shard-000002.tar is missing")
    (train / "away").rename(train / "shard-000002.tar")
    sign(train, count=11)
    refused(train, "holds 10 samples, index.json says 11")
    sign(train, count="ten")
    refused(train, "index.json is not an index of shards")
    shards = json.loads((train / INDEX).read_text())["shards"]
    sign(train, count=14, shards=[*shards, shards[0]])
    refused(train, "a shard is named twice")
    sign(train, shards=[{**shards[0], "name": "../train/shard-000000.tar"}, *shards[1:]], count=10)
    refused(train, "index.json does not describe its folder")
    (train / INDEX).unlink()
    refused(train, "is not packed")


def test_another_taxonomy_or_other_modalities_are_refused(train):
    other = Taxonomy({"abuse_hate": Label((0, 1, 2))})
    with pytest.raises(ShardError, match="another taxonomy"):
        open_split(train, MODALITIES, other)
    assert len(open_split(train, MODALITIES)) == 10
    with pytest.raises(ShardError, match="packed with image as png, text as txt, asked for text as txt; run the step"):
        open_split(train, {"text": MODALITIES["text"]})


# ------------------------------------------------------------------------------------- reading


def test_pictures_of_another_format_are_refused(tmp_path):
    source = SimpleNamespace(open=lambda reference: Image().pack(Image().blank()))
    packed(tmp_path, [example("a")], modalities={"image": Image(image_format="jpeg")}, source=source)
    assert len(open_split(tmp_path / "train", {"image": Image(image_format="jpeg")})) == 1
    with pytest.raises(ShardError, match=r"packed with image as jpg, asked for image as png; run the step `shards`"):
        open_split(tmp_path / "train", {"image": Image()})


def test_some_rows_can_be_taken(train):
    split = open_split(train, MODALITIES)
    some = split.take([7, 2, 7])
    assert isinstance(some, Split) and some.ids == ("row7", "row2", "row7")
    assert list(some.values("text")) == ["words of row7", "words of row2", "words of row7"]
    assert some.groups[1] == "group of row2" and some.present["image"] == [True] * 3
    assert some.classes("abuse_hate", LABELS["abuse_hate"]) == [1, 0, 1] and some.meta(1) == {"likes": 2}
    assert len(split.take([])) == 0 and list(split.take([]).values("text")) == []
    assert list(split.values("text")[8:]) == ["words of row8", "words of row9"]
    assert split.values("text")[-1] == "words of row9"
    with pytest.raises(IndexError):
        split.values("text")[10]


def test_the_fingerprint_follows_content_and_rows(tmp_path):
    packed(tmp_path / "a", examples(5))
    packed(tmp_path / "b", examples(5))
    packed(tmp_path / "c", [*examples(4), example("row4", label=0, likes=5)])
    a, b, c = (open_split(tmp_path / name / "train", MODALITIES) for name in "abc")
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert len({a.fingerprint, a.take([0, 1]).fingerprint, a.take([1, 0]).fingerprint}) == 3


def test_reading_is_lazy(tmp_path):
    size = 400_000
    modalities = {**MODALITIES, "image": SimpleNamespace(**{**vars(MODALITIES["image"]), "read": lambda b: b * size})}
    packed(tmp_path, [example(f"row{i}", parts={"image": "x"}) for i in range(100)], 50, modalities)
    tracemalloc.start()
    split = open_split(tmp_path / "train", MODALITIES)
    assert sum(len(value) for value in split.values("image")) == 100 * size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_a_shard_that_vanishes_or_shrinks_while_it_is_read_is_named(train):
    split = open_split(train, MODALITIES)
    cut(train, 600)
    with pytest.raises(ShardError, match=r"shard-000000\.tar was removed or cut while it was read"):
        split.values("text")[3]
    (train / "shard-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"shard-000000\.tar was removed or cut while it was read"):
        split.values("text")[3]
    assert split.values("text")[4] == "words of row4"


@pytest.mark.parametrize(("way", "workers"), [("fork", 2), ("spawn", 1)])
def test_values_serve_data_loader_workers(train, way, workers):
    from torch.utils.data import DataLoader

    values = open_split(train, MODALITIES).values("text")
    assert values[0] == "words of row0"  # read here first, then in the workers
    loader = DataLoader(values, batch_size=3, num_workers=workers, collate_fn=list, multiprocessing_context=way)
    assert [value for batch in loader for value in batch] == [f"words of row{i}" for i in range(10)]


def test_other_tools_read_the_shards_without_bifocal(train):
    script = """
        import glob, json, sys, tarfile
        import webdataset
        paths = sorted(glob.glob(sys.argv[1] + "/*.tar"))
        samples = list(webdataset.WebDataset(paths, shardshuffle=False))
        assert [s["__key__"] for s in samples] == [f"row{i}" for i in range(10)], samples
        assert samples[7]["txt"] == b"words of row7" and samples[7]["png"] == b"picture of row7"
        record = json.loads(samples[7]["json"])
        assert record == {"id": "row7", "labels": {"abuse_hate": 1}, "group": "group of row7",
                          "present": {"text": True, "image": True}, "meta": {"likes": 7}}, record
        names = [m.name for path in paths for m in tarfile.open(path)]
        assert names[:3] == ["row0.json", "row0.png", "row0.txt"] and len(names) == 30, names
        assert "bifocal" not in sys.modules
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(train)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "fine\n", done.stderr


def test_reading_needs_neither_torch_nor_webdataset(train):
    script = f"""
        import sys
        from pathlib import Path
        from bifocal.data.shards import open_split
        from bifocal.modalities.text import Text
        from bifocal.modalities.image import Image
        assert len(open_split(Path({str(train)!r}), {{"text": Text(), "image": Image()}})) == 10
        print(sorted({{"torch", "webdataset"}} & set(sys.modules)))
    """
    assert python(script).stdout == "[]\n"
