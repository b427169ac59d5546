import json
import shutil

import pytest

from bifocal import plugins
from bifocal.errors import ConfigError, DataError
from bifocal.example import Example, Rejected
from bifocal.sources.mmhs150k import ANNOTATIONS, KINDS, Mmhs150k


def tweet(*votes, **fields):
    return {
        "img_url": "http://example.invalid/picture.jpg",
        "labels": list(votes),
        "tweet_url": "https://example.invalid/1",
        "tweet_text": "a quiet morning by the river",
        "labels_str": [KINDS[vote] if vote in range(6) else "?" for vote in votes],
    } | fields


def write(folder, tweets, *, train=(), val=(), test=()):
    (folder / ANNOTATIONS).write_text(json.dumps(tweets))
    (folder / "splits").mkdir()
    for split, ids in (("train", train), ("val", val), ("test", test)):
        (folder / "splits" / f"{split}_ids.txt").write_text("".join(f"{name}\n" for name in ids))
    (folder / "img_resized").mkdir()
    for name in tweets:
        (folder / "img_resized" / f"{name}.jpg").write_bytes(f"picture {name}".encode())
    return Mmhs150k(root=folder)


def test_a_tweet_becomes_an_example(tmp_path):
    (example,) = write(tmp_path, {"1100": tweet(4, 1, 4)}, train=["1100"])
    assert example == Example(
        id="1100",
        parts={"text": "a quiet morning by the river", "image": "img_resized/1100.jpg"},
        labels={"abuse_hate": 1, "hate_kind": "Religion"},
        split="train",
        meta={"votes": ["Religion", "Racist", "Religion"]},
    )


@pytest.mark.parametrize(
    ("votes", "hate", "kind"),
    [
        ((0, 0, 0), 0, "NotHate"),
        ((0, 5, 0), 0, "NotHate"),
        ((0, 2, 2), 1, "Sexist"),
        ((3, 3, 3), 1, "Homophobe"),
        ((0, 1, 2), 1, None),  # two say hate, and not of what kind
        ((1, 2, 3), 1, None),
        ((0, 1), None, None),
        ((5,), 1, "OtherHate"),
        ((), None, None),
    ],
)
def test_the_label_is_what_most_annotators_say(tmp_path, votes, hate, kind):
    (example,) = write(tmp_path, {"1": tweet(*votes)}, train=["1"])
    assert example.labels == {"abuse_hate": hate, "hate_kind": kind}


def test_a_tweet_without_labels_is_for_scoring(tmp_path):
    unlabelled = tweet(0, 0, 0)
    del unlabelled["labels"]
    (example,) = write(tmp_path, {"1": unlabelled}, test=["1"])
    assert example.labels == {"abuse_hate": None, "hate_kind": None}


@pytest.mark.parametrize("labels", [[0, 6, 0], [-1, 0, 0], ["Racist", 0, 0], [True, 0, 0], "000", 1])
def test_a_vote_that_is_none_is_rejected_with_what_is_allowed(tmp_path, labels):
    bad, good = write(tmp_path, {"1": tweet(labels=labels), "2": tweet(0, 0, 0)}, train=["1", "2"])
    assert isinstance(bad, Rejected)
    assert (bad.id, bad.where) == ("1", f"{ANNOTATIONS}:1")
    assert f"labels = {labels!r}" in bad.reason
    assert "allowed: 0 (NotHate), 1 (Racist), 2 (Sexist), 3 (Homophobe), 4 (Religion), 5 (OtherHate)" in bad.reason
    assert good.id == "2"


def test_the_official_splits_are_kept_and_a_tweet_in_none_has_none(tmp_path):
    tweets = {name: tweet(0, 0, 0) for name in "abcd"}
    source = write(tmp_path, tweets, train=["a"], val=["b"], test=["c"])
    assert [row.split for row in source] == ["train", "val", "test", None]


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(tmp_path):
    source = write(tmp_path, {"1": tweet(0, 0, 0), "2": tweet(0, 0, 0)})
    (tmp_path / "splits" / "val_ids.txt").write_bytes(b"\xef\xbb\xbf1\r\n2\r\n")
    assert [row.split for row in source] == ["val", "val"]


def test_a_tweet_in_two_splits_is_rejected(tmp_path):
    first, second = write(tmp_path, {"1": tweet(0, 0, 0), "2": tweet(0, 0, 0)}, train=["1", "2"], test=["2", "2"])
    assert first.split == "train"
    assert second.reason == "stands in two splits: train and test"


def test_an_id_without_a_tweet_is_rejected_and_not_lost(tmp_path):
    good, bad = write(tmp_path, {"1": tweet(0, 0, 0)}, train=["1"], val=["77"])
    assert good.id == "1"
    assert (bad.id, bad.where) == ("77", "splits/val_ids.txt")
    assert f"not in {ANNOTATIONS}" in bad.reason


@pytest.mark.parametrize("text", [None, ""])
def test_no_words_mean_no_text_part(tmp_path, text):
    (example,) = write(tmp_path, {"1": tweet(0, 0, 0, tweet_text=text)}, train=["1"])
    assert example.parts == {"image": "img_resized/1.jpg"}


def test_the_text_is_the_posts_own(tmp_path):
    source = write(tmp_path, {"1": tweet(0, 0, 0)}, train=["1"])
    (example,) = source
    assert source.role_of(example) == "caption"


def test_a_list_has_no_tweet_ids(tmp_path):
    source = write(tmp_path, {"1": tweet(0, 0, 0)})
    (tmp_path / ANNOTATIONS).write_text(json.dumps([tweet(0, 0, 0)]))
    (bad,) = source
    assert "object {tweet id: tweet}" in bad.reason


def test_a_missing_split_file_says_what_was_expected_and_found(tmp_path):
    source = write(tmp_path, {"1": tweet(0, 0, 0)}, train=["1"])
    (tmp_path / "splits" / "test_ids.txt").unlink()
    with pytest.raises(DataError, match=r"holds MMHS150K_GT.json, img_resized, splits; expected .*splits/test_ids.txt"):
        iter(source)
    with pytest.raises(DataError, match=r"nowhere does not exist; expected MMHS150K_GT.json"):
        iter(Mmhs150k(root=tmp_path / "nowhere"))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_reads_like_its_folder(tmp_path, kind):
    folder = tmp_path / "work" / "MMHS150K"
    folder.mkdir(parents=True)
    source = write(folder, {"1": tweet(0, 0, 0), "2": tweet(1, 1, 0)}, train=["1"], test=["2"])
    shutil.make_archive(str(tmp_path / "MMHS150K"), kind, tmp_path / "work")
    packed = Mmhs150k(root=tmp_path / f"MMHS150K.{kind}" / "MMHS150K")
    assert list(packed) == list(source)
    assert packed.open("img_resized/2.jpg") == b"picture 2"
    with pytest.raises(DataError, match=rf"MMHS150K.{kind} holds MMHS150K; expected MMHS150K_GT.json"):
        iter(Mmhs150k(root=tmp_path / f"MMHS150K.{kind}"))


def test_a_picture_that_is_not_there_is_still_a_row(tmp_path):
    source = write(tmp_path, {"1": tweet(0, 0, 0)}, train=["1"])
    (tmp_path / "img_resized" / "1.jpg").unlink()
    (example,) = source
    with pytest.raises(DataError, match="1.jpg is missing"):
        source.open(example.parts["image"])


def test_there_is_no_option_to_fetch(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'download'"):
        plugins.options("source", "mmhs150k", {"root": tmp_path, "download": True}, Mmhs150k)
