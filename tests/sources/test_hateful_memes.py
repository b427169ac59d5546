import json
import os
import shutil
from pathlib import Path

import pytest

from bifocal import plugins
from bifocal.errors import ConfigError, DataError
from bifocal.example import Example, Rejected
from bifocal.sources.hateful_memes import FILES, HatefulMemes


def write(folder: Path, **files: list) -> HatefulMemes:
    """One line per entry; bytes and text stand as they are."""
    for name, rows in files.items():
        lines = [r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in rows]
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return HatefulMemes(root=folder)


def meme(name, label=0, **fields):
    return {"id": name, "img": f"img/{name}.png", "label": label, "text": f"the garden waits for {name}"} | fields


def test_reads_the_named_files_in_order_with_their_splits(tmp_path):
    source = write(tmp_path, **{Path(name).stem: [meme(i)] for i, name in enumerate(FILES)}, extra=[meme(99)])
    found = [(row.id, row.split) for row in source]
    assert found == [(str(i), split) for i, split in enumerate(FILES.values())]
    assert [split for _, split in found] == ["train", "val", "val", "val", "test", "test", "test"]


def test_a_row_becomes_an_example(tmp_path):
    row = meme(12, 1, techniques=["Smears"], source={"year": 2021})
    (example,) = write(tmp_path, train=[row])
    assert example == Example(
        id="12",
        parts={"text": "the garden waits for 12", "image": "img/12.png"},
        labels={"abuse_hate": 1},
        split="train",
        meta={"techniques": ["Smears"], "source": {"year": 2021}},
    )


@pytest.mark.parametrize("fields", [{"text": None}, {"text": ""}, {"text": " \n"}])
def test_no_words_mean_no_text_part(tmp_path, fields):
    (example,) = write(tmp_path, train=[meme(1, **fields)])
    assert example.parts == {"image": "img/1.png"}


def test_a_file_without_labels_is_for_scoring(tmp_path):
    unlabelled = meme(2)
    del unlabelled["label"]
    rows = list(write(tmp_path, test=[unlabelled, meme(3, None)]))
    assert [row.labels for row in rows] == [{"abuse_hate": None}] * 2


def test_the_label_takes_the_name_it_is_given(tmp_path):
    write(tmp_path, train=[meme(1, 1)])
    source = HatefulMemes(root=tmp_path, label="sarcasm")
    assert [row.labels for row in source] == [{"sarcasm": 1}]
    assert source.labels()["sarcasm"].probability == "prob_sarcasm"
    assert HatefulMemes(root=tmp_path).labels()["abuse_hate"].probability == "prob_hate"


def test_a_multiclass_name_for_a_binary_label_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"'target_type' has the classes .* labels are 0 and 1"):
        plugins.options("source", "hateful_memes", {"root": tmp_path, "label": "target_type"}, HatefulMemes)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": 1, "img": ', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"id": ' + "1" * 5000 + "}", "not valid JSON"),
        (b'{"id": 1, "text": "\xff\xfe"}', "not UTF-8"),
        ("[1, 2]", "a JSON list where an object is expected"),
        ({"img": "img/1.png"}, "no id"),
        ({"id": None, "img": "img/1.png"}, "no id"),
        ({"id": True, "img": "img/1.png"}, "no id"),
        ({"id": 7}, "no img"),
        ({"id": 7, "img": ""}, "no img"),
        ({"id": 7, "img": ["img/1.png"]}, "no img"),
        (meme(7, 2), "label value 2 is not in the taxonomy; allowed: 0, 1, or null"),
        (meme(7, "1"), "label value '1' is not in the taxonomy"),
        (meme(7, True), "label value True is not in the taxonomy"),
    ],
)
def test_a_bad_line_is_rejected_with_its_place_and_the_rest_is_read(tmp_path, line, reason):
    good, bad, last = write(tmp_path, train=[meme(5), "", line, meme(6)])
    assert isinstance(bad, Rejected)
    assert bad.where == "train.jsonl:3"
    assert bad.reason.startswith(reason)
    assert bad.id == ("7" if isinstance(line, dict) and line.get("id") == 7 else None)
    assert (good.id, last.id) == ("5", "6")


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(tmp_path):
    line = json.dumps(meme("ä"), ensure_ascii=False).encode()
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + json.dumps(meme(2)).encode())
    assert [row.id for row in HatefulMemes(root=tmp_path)] == ["ä", "2"]


def test_a_row_in_two_files_of_a_split_is_taken_once(tmp_path):
    source = write(tmp_path, dev_seen=[meme(1), meme(2)], dev_unseen=[meme(2), meme(3)], dev=[meme(1, None), meme(3)])
    assert [row.id for row in source] == ["1", "2", "3"]
    assert all(row.labels["abuse_hate"] == 0 for row in source)


def test_the_labelled_release_of_a_test_file_wins(tmp_path):
    source = write(tmp_path, test=[meme(1, None)], test_seen=[meme(1, 1)])
    assert [row.labels["abuse_hate"] for row in source] == [1]


@pytest.mark.parametrize(
    "files",
    [
        {"dev_seen": [meme(1)], "dev_unseen": [meme(1, img="img/other.png")]},
        {"dev_seen": [meme(1)], "test_seen": [meme(1)]},
        {"dev_seen": [meme(1, 0)], "dev_unseen": [meme(1, 1)]},
        {"dev_seen": [meme(1), meme(1)]},
    ],
    ids=["another picture", "another split", "another label", "same file"],
)
def test_a_clash_of_ids_is_left_for_the_manifest_to_reject(tmp_path, files):
    assert [row.id for row in write(tmp_path, **files)] == ["1", "1"]


def test_a_missing_root_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist; expected at least one of train.jsonl, .*test.jsonl"):
        iter(HatefulMemes(root=tmp_path / "nowhere"))


def test_a_root_without_the_files_says_what_was_found(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        iter(HatefulMemes(root=tmp_path))
    (tmp_path / "training.jsonl").touch()
    with pytest.raises(DataError, match=r"holds training.jsonl; expected"):
        iter(HatefulMemes(root=tmp_path))
    with pytest.raises(DataError, match="is not a folder"):
        iter(HatefulMemes(root=tmp_path / "training.jsonl"))


def test_opens_a_picture_and_names_a_missing_one(tmp_path):
    source = write(tmp_path, train=[meme(1)])
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "1.png").write_bytes(b"picture")
    assert source.open("img/1.png") == b"picture"
    for reference in ("img/2.png", "img"):
        with pytest.raises(DataError, match=rf"{reference} is missing or not a file"):
            source.open(reference)


def test_nothing_outside_the_root_is_opened(tmp_path):
    root = tmp_path / "root"
    (root / "img").mkdir(parents=True)
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (root / "img" / "out.png").symlink_to(secret)
    (root / "away").symlink_to(tmp_path)
    (root / "img" / "loop.png").symlink_to(root / "img" / "loop.png")
    (root / "img" / "in.png").write_bytes(b"fine")
    (root / "img" / "link.png").symlink_to(root / "img" / "in.png")
    source = HatefulMemes(root=root)
    for reference in (str(secret), "../secret.png", "img/../../secret.png", "img/out.png", "away/secret.png"):
        with pytest.raises(DataError, match="leads out of"):
            source.open(reference)
    with pytest.raises(DataError, match="leads out of"):  # inside, but written in a way that hides where it leads
        source.open("img/../img/in.png")
    assert source.open(str(root / "img" / "in.png")) == b"fine"
    with pytest.raises(DataError):
        source.open("img/loop.png")
    assert source.open("img/link.png") == b"fine"


def test_a_pipe_is_refused_instead_of_waited_on(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a file"):
        HatefulMemes(root=tmp_path).open("pipe.png")


def test_the_fingerprint_changes_with_a_file_that_is_read_and_no_other(tmp_path):
    source = write(tmp_path, train=[meme(1)])
    before = source.fingerprint()
    (tmp_path / "notes.txt").write_text("nothing")
    assert source.fingerprint() == before
    write(tmp_path, train=[meme(1), meme(2)])
    assert source.fingerprint() != before


def test_the_fingerprint_of_a_folder_that_is_not_there_is_no_error(tmp_path):
    assert HatefulMemes(root=tmp_path / "nowhere").fingerprint()


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_is_read_in_place(tmp_path, kind):
    root = tmp_path / "memes"
    (root / "img").mkdir(parents=True)
    (root / "img" / "1.png").write_bytes(b"picture")
    rows = list(write(root, train=[meme(1), "{broken"], test=[meme(2, 1)]))
    shutil.make_archive(str(tmp_path / "a"), kind, tmp_path, "memes")
    source = HatefulMemes(root=tmp_path / f"a.{kind}" / "memes")
    assert list(source) == rows
    assert source.open("img/1.png") == b"picture"
    with pytest.raises(DataError, match="leads out of"):
        source.open("../memes/img/1.png")
    with pytest.raises(DataError, match=rf"a.{kind} holds memes; expected at least one of train.jsonl"):
        iter(HatefulMemes(root=tmp_path / f"a.{kind}"))


def test_real_memes_are_read_whole():
    root = Path(os.environ.get("BIFOCAL_DATA", "../shared")) / "data" / "smear_memes"
    if not root.is_dir():
        pytest.skip("smear_memes is not here; BIFOCAL_DATA names the folder that holds data/")
    source = HatefulMemes(root=root)
    rows = list(source)
    assert all(isinstance(row, Example) for row in rows)
    assert [sum(row.split == split for row in rows) for split in ("train", "val", "test")] == [687, 63, 200]
    assert sum(row.labels["abuse_hate"] for row in rows if row.split == "test") == 125
    assert source.open(rows[0].parts["image"])
