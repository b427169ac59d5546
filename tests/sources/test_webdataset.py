import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest

from bifocal import plugins
from bifocal.errors import ConfigError, DataError
from bifocal.example import Example, Rejected
from bifocal.sources import webdataset as webdataset_file
from bifocal.sources.webdataset import Webdataset

PNG = b"a picture"


def shard(path: Path, *members: tuple[str, bytes | dict | str] | tarfile.TarInfo, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            blob = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
    return path


def source(root: Path, **options) -> Webdataset:
    return plugins.options("source", "webdataset", {"root": root} | options, Webdataset)


LABELS = {"abuse_hate": {"column": "json.bad", "map": {"yes": 1, "no": 0}}}


def posts(n: int = 3, first: int = 0) -> list:
    members = []
    for i in range(first, first + n):
        members += [(f"{i:04}.png", PNG + bytes([i])), (f"{i:04}.txt", f"lamp {i}".encode())]
        members += [(f"{i:04}.json", {"bad": ["yes", "no"][i % 2], "user": {"age": i}, "tags": [i]})]
    return members


def test_a_sample_becomes_an_example(tmp_path):
    shard(tmp_path / "train-0.tar", *posts(2))
    data = source(tmp_path, labels=LABELS, tabular=["json.user.age"])
    first, second = data
    assert first == Example(
        id="0000",
        parts={"text": "lamp 0", "image": first.parts["image"], "tabular": {"json.user.age": 0}},
        labels={"abuse_hate": 1},
        meta={"json.tags": [0]},
    )
    assert [data.open(row.parts["image"]) for row in (second, first)] == [PNG + b"\1", PNG + b"\0"]
    assert first.parts["image"] == "train-0.tar/0000.png@512+10"


def test_what_the_library_itself_writes_is_read(tmp_path):
    writer = pytest.importorskip("webdataset").ShardWriter
    with writer(str(tmp_path / "x-%06d.tar"), maxcount=2, verbose=0) as out:
        for i in range(3):
            out.write({"__key__": f"a/{i}", "jpg": PNG, "txt": f"lamp {i}", "json": {"bad": "no"}, "cls": i % 2})
    data = source(tmp_path, labels=LABELS | {"offensive": "cls"})
    rows = list(data)
    assert [(row.id, row.parts["text"], row.labels) for row in rows] == [
        (f"a/{i}", f"lamp {i}", {"abuse_hate": 0, "offensive": i % 2}) for i in range(3)
    ]
    assert [data.open(row.parts["image"]) for row in rows] == [PNG] * 3


def test_a_key_ends_before_the_first_dot_of_the_name(tmp_path):
    shard(tmp_path / "a.tar", ("v1.2/post.0.png", PNG), ("v1.2/post.meta.json", {"x": 1}), ("v1.2/next.txt", b"words"))
    rows = list(source(tmp_path, image="0.png"))
    assert [row.id for row in rows] == ["v1.2/post", "v1.2/next"]
    assert rows[0].meta == {"meta.json.x": 1}
    assert rows[0].parts["image"].startswith("a.tar/v1.2/post.0.png@")


def test_parts_that_a_sample_lacks_are_no_mistake(tmp_path):
    shard(tmp_path / "a.tar", ("1.jpg", PNG), ("2.txt", b"words"), ("3.webp", PNG), ("3.txt", b" "), ("4.cls", b"1"))
    rows = list(source(tmp_path, labels={"abuse_hate": "cls"}))
    assert [sorted(row.parts) for row in rows] == [["image"], ["text"], ["image"], []]
    assert [row.labels["abuse_hate"] for row in rows] == [None, None, None, 1]


def test_the_caption_may_stand_in_the_json(tmp_path):
    shard(tmp_path / "a.tar", ("1.json", {"caption": {"en": "a lamp"}, "n": None}), ("2.json", {"caption": {}}))
    assert [row.parts for row in source(tmp_path, text="json.caption.en")] == [{"text": "a lamp"}, {}]


def test_shards_are_chosen_by_pattern_and_split(tmp_path):
    for i, name in enumerate(["train-0.tar", "train-1.tar", "eval/0.tar", "other.tar", ".hidden.tar", "notes.txt"]):
        shard(tmp_path / name, *posts(1, first=i))
    assert [row.id for row in source(tmp_path)] == ["0002", "0003", "0000", "0001"]
    assert [row.id for row in source(tmp_path, pattern="train-*.tar")] == ["0000", "0001"]
    found = [(row.id, row.split) for row in source(tmp_path, pattern={"train": "train-*.tar", "dev": "eval/*.tar"})]
    assert found == [("0000", "train"), ("0001", "train"), ("0002", "val")]
    assert [row.id for row in source(tmp_path / "train-1.tar")] == ["0001"]


def test_pickles_are_neither_opened_nor_a_fault(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    evil = pickle.dumps(Evil())
    shard(
        tmp_path / "a.tar", ("1.pyd", evil), ("1.txt", b"a lamp"), ("1.PKL", evil), ("1.pickle", evil), ("1.npy", evil)
    )
    opened = []
    read = webdataset_file._text
    monkeypatch.setattr(webdataset_file, "_text", lambda member, file: opened.append(member.name) or read(member, file))
    (row,) = source(tmp_path)
    assert row.parts == {"text": "a lamp"}
    assert row.meta == {"not_read": ["pyd", "PKL", "pickle", "npy"]}
    assert set(opened) == {"1.txt"}
    assert not (tmp_path / "ran").exists()


def test_members_that_are_no_plain_files_reject_their_sample(tmp_path):
    link = tarfile.TarInfo("1.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    shard(tmp_path / "a.tar", link, ("1.txt", b"a"), ("../2.png", PNG), ("/3.png", PNG), ("4.png", PNG))
    found = {row.id: row for row in source(tmp_path)}
    assert found["1"].reason == "member '1.png' is a link, which is not followed inside an archive"
    assert "leads out of the archive" in found["../2"].reason
    assert "leads out of the archive" in found["/3"].reason
    assert isinstance(found["4"], Example)


@pytest.mark.parametrize(
    ("members", "key", "reason"),
    [
        ([("1.json", b"{broken")], "1", "1.json is not valid JSON"),
        ([("1.json", b"[" * 100_000)], "1", "1.json is not valid JSON"),
        ([("1.json", b"[" * 60 + b"]" * 60)], "1", "1.json has lists or objects within one another, more than 50 deep"),
        ([("1.txt", b"caf\xe9")], "1", "1.txt is not UTF-8 (byte 3)"),
        ([("1.txt", b"x" * 2000)], "1", "1.txt has over 0 MiB, the most that is read of a text"),
        ([("1.txt", b"a"), ("1.txt", b"b")], "1", "member '1.txt' stands twice"),
        ([("1.json", {"bad": "perhaps"})], "1", "label abuse_hate: 'perhaps' in column 'json.bad' is not in the map"),
        (
            [("0000.txt", b"again")],
            "0000",
            "key '0000' stands in the shard before; the members of a sample stand together",
        ),
    ],
)
def test_a_bad_sample_is_rejected_and_the_others_are_read(tmp_path, monkeypatch, members, key, reason):
    monkeypatch.setattr(webdataset_file, "MAX_TEXT", 100_000 if "JSON" in reason else 1000)
    shard(tmp_path / "a.tar", *posts(2), *members, *posts(1, first=5))
    rows = list(source(tmp_path, labels=LABELS))
    assert [row.id for row in rows if isinstance(row, Example)] == ["0000", "0001", "0005"]
    (bad,) = [row for row in rows if isinstance(row, Rejected)]
    assert (bad.id, bad.where) == (key, f"a.tar:{key}")
    assert bad.reason.startswith(reason)
    json.dumps(bad.to_json())


def placed(path: Path) -> dict[str, int]:
    """Where the header of each member begins."""
    with tarfile.open(path) as tar:
        return {info.name: info.offset for info in tar}


@pytest.mark.parametrize(
    ("at", "ids", "lost", "reason"),
    [
        (("0002.txt", 514), ["0000", "0001"], "0002", "member '0002.txt' is cut"),
        (("0002.txt", 0), ["0000", "0001"], "0002", "without the mark of its end"),
        (("0002.png", 100), ["0000", "0001"], None, "is broken at byte"),
        (("0002.png", 0), ["0000", "0001"], None, "without the mark of its end"),
        (("0000.json", 0), [], "0000", "without the mark of its end"),
    ],
)
def test_of_a_cut_shard_the_whole_samples_are_read_and_one_line_tells_the_rest(tmp_path, at, ids, lost, reason):
    path = shard(tmp_path / "a.tar", *posts(3), format=tarfile.USTAR_FORMAT)
    shard(tmp_path / "b.tar", *posts(1, first=9))
    end = placed(path)[at[0]] + at[1]
    path.write_bytes(path.read_bytes()[:end])
    rows = list(source(tmp_path))
    (bad,) = [row for row in rows if isinstance(row, Rejected)]
    assert [row.id for row in rows if isinstance(row, Example)] == [*ids, "0009"]
    assert (bad.id, bad.where) == (lost, "a.tar")
    assert reason in bad.reason
    assert f"byte {end - at[1]}" in bad.reason
    assert ("may be incomplete and is left out" in bad.reason) == (lost is not None)


def test_a_bad_header_in_the_midst_is_told(tmp_path):
    path = shard(tmp_path / "a.tar", *posts(3), format=tarfile.USTAR_FORMAT)
    blob, at = bytearray(path.read_bytes()), placed(path)["0001.txt"]
    blob[at : at + 100] = b"\xff" * 100
    path.write_bytes(blob)
    good, bad = source(tmp_path)
    assert good.id == "0000"
    assert (bad.id, bad.where) == ("0001", "a.tar")
    assert f"a.tar is broken at byte {at}" in bad.reason


def test_a_file_that_is_no_tar_is_one_rejected_row(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    shard(tmp_path / "b.tar", *posts(1))
    bad, good = source(tmp_path)
    assert (bad.where, good.id) == ("a.tar", "0000")
    assert "is no plain .tar" in bad.reason


def test_long_names_and_strange_keys_are_read(tmp_path):
    keys = ["folder/" * 30 + "x" * 90, "ä 😀", "a@1+2", "b/../c"]
    shard(tmp_path / "a.tar", *((f"{key}.png", PNG) for key in keys), format=tarfile.PAX_FORMAT)
    data = source(tmp_path)
    *rows, bad = data
    assert [row.id for row in rows] == keys[:3]
    assert [data.open(row.parts["image"]) for row in rows] == [PNG] * 3
    assert isinstance(bad, Rejected)


@pytest.mark.parametrize(
    "reference",
    [
        "a.tar",
        "a.tar/0000.png",
        "a.tar/0000.png@512",
        "b.tar/0000.png@512+10",
        "a.tar/0000.png@513+10",
        "a.tar/0000.png@512+9",
        "a.tar/0000.png@0+10",
        "a.tar/0000.png@99999999999+10",
        "a.tar/0000.png@512+999999999999",
        "../a.tar/0000.png@512+10",
    ],
)
def test_a_reference_that_names_no_member_is_an_error(tmp_path, reference):
    shard(tmp_path / "root" / "a.tar", *posts(1))
    shard(tmp_path / "a.tar", *posts(1))
    with pytest.raises(DataError, match="^picture "):
        source(tmp_path / "root").open(reference)


def test_a_shard_that_changed_is_noticed(tmp_path):
    shard(tmp_path / "a.tar", *posts(1))
    data = source(tmp_path)
    (row,) = data
    shard(tmp_path / "a.tar", ("0000.txt", b"other words"), *posts(1, first=1))
    with pytest.raises(DataError, match=r"no such member begins there; was the shard changed\? run again"):
        data.open(row.parts["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "json.captoin"}, r"there is no column 'json.captoin' \(text\); did you mean 'json.caption'"),
        (
            {"labels": {"abuse_hate": "bad"}},
            r"there is no column 'bad' \(labels.abuse_hate\).*known: __key__, json.bad",
        ),
        ({"id": "json.id"}, r"there is no column 'json.id' \(id\)"),
        ({"pattern": "train-*.tar"}, r"holds a.tar; expected tars of samples, which `pattern` names"),
    ],
)
def test_what_is_not_there_stops_at_once(tmp_path, options, message):
    shard(tmp_path / "a.tar", ("1.json", {"caption": "a", "bad": "no"}), ("1.png", PNG))
    with pytest.raises(DataError, match=message):
        iter(source(tmp_path, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": {"holdout": "*.tar"}}, "pattern: 'holdout' is no split"),
        ({"text": "json.bad", "labels": {"abuse_hate": "json.bad"}}, "is the label abuse_hate, and would give it away"),
        ({"tabular": ["png"]}, "tabular: column 'png' is the image, which is never fed"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        source(tmp_path, **options)


def test_classes_are_found_over_all_shards(tmp_path):
    for i, tone in enumerate(["calm", "harsh", "calm"]):
        shard(tmp_path / f"{i}.tar", (f"{i}.txt", b"a"), (f"{i}.json", {"tone": tone}))
    data = source(tmp_path, labels={"tone": "json.tone"})
    assert data.labels()["tone"].classes == ("calm", "harsh")
    assert [row.labels["tone"] for row in data] == ["calm", "harsh", "calm"]


def test_a_copy_and_the_fingerprint(tmp_path):
    shard(tmp_path / "a.tar", *posts(2))
    data = source(tmp_path, labels=LABELS)
    rows = list(data)
    copy = pickle.loads(pickle.dumps(data))
    assert list(copy) == rows
    assert copy.open(rows[1].parts["image"]) == PNG + b"\1"
    before = copy.fingerprint()
    assert before == data.fingerprint() != source(tmp_path).fingerprint()
    shard(tmp_path / "b.tar", *posts(1, first=7))
    assert source(tmp_path, labels=LABELS).fingerprint() != before


def test_rows_stream(tmp_path):
    import tracemalloc

    shard(tmp_path / "a.tar", *((f"{i}.png", b"x" * 500_000) for i in range(40)))
    tracemalloc.start()
    assert sum(isinstance(row, Example) for row in source(tmp_path)) == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # no picture is read to list the rows


def test_the_key_is_never_fed(tmp_path):
    shard(tmp_path / "a.tar", ("7.json", {"id": "x", "age": 3}), ("7.txt", b"a lamp"))
    (row,) = source(tmp_path, id="json.id", tabular="rest")
    assert row.parts == {"text": "a lamp", "tabular": {"json.age": 3}}
