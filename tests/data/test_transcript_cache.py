from concurrent.futures import ThreadPoolExecutor

import pytest

from bifocal.data import transcript_cache
from bifocal.data.transcript_cache import TranscriptCache
from bifocal.transcribe.ocr import Ocr, Reading

READ = Reading("seen words", [[[1, 2], [3, 2], [3, 4], [1, 4]]], 0.98, "rapidocr 3.10.0", 1)


def cache_at(path, key, told):
    transcriber = Ocr()
    transcriber.key = lambda: key
    return TranscriptCache(path, transcriber, told.append)


@pytest.fixture
def told():
    return []


def test_a_reading_is_found_again_under_its_key_only(tmp_path, told):
    path = tmp_path / "runs" / "cache.sqlite"
    cache = cache_at(path, "key", told)
    assert cache.find("a" * 64) is None
    cache.keep("a" * 64, READ, 0.5)
    cache.close()
    again = cache_at(path, "key", told)
    assert again.find("a" * 64) == READ
    assert again.held(["a" * 64, "b" * 64, "a" * 64]) == 2
    assert cache_at(path, "other", told).find("a" * 64) is None
    assert not told


def test_what_a_picture_took_is_known_from_eight_on(tmp_path, told):
    cache = cache_at(tmp_path / "cache.sqlite", "key", told)
    for i in range(8):
        assert cache.seconds() is None
        cache.keep(str(i), READ, 0.5)
    assert cache.seconds() == 0.5


def test_many_may_write_at_once(tmp_path, told):
    def write(writer):
        cache = cache_at(tmp_path / "cache.sqlite", "key", told)
        for i in range(25):
            cache.keep(f"{writer}-{i}", READ, 0.1)
        cache.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    cache = cache_at(tmp_path / "cache.sqlite", "key", told)
    assert cache.held(f"{writer}-{i}" for writer in range(4) for i in range(25)) == 100
    assert not told


def test_the_longest_unused_go_first(tmp_path, told, monkeypatch):
    path = tmp_path / "cache.sqlite"
    cache = cache_at(path, "key", told)
    for i in range(4):
        cache.keep(str(i), READ, 0.1)
    cache._rows("UPDATE readings SET used = sha256 WHERE key = ?")  # no seconds have passed in the test
    assert cache.find("0") == READ
    cache.close()
    monkeypatch.setattr(transcript_cache, "MOST_ROWS", 2)
    again = cache_at(path, "key", told)
    assert [again.find(str(i)) is not None for i in range(4)] == [True, False, False, True]


@pytest.mark.parametrize("broken", ["file", "rows", "folder"])
def test_a_cache_that_cannot_be_used_is_told_once_and_stops_nothing(tmp_path, told, broken):
    path = tmp_path / "cache.sqlite"
    if broken == "file":
        path.write_bytes(b"no database" * 1000)
    elif broken == "folder":
        path.mkdir()
    cache = cache_at(path, "key", told)
    if broken == "rows":
        cache.keep("a", READ, 0.1)
        cache._rows("UPDATE readings SET reading = '{\"text\": 1}' WHERE key = ?")
    assert cache.find("a") is None
    cache.keep("a", READ, 0.1)
    assert cache.held(["a"]) == 0
    assert len(told) == 1
    assert "and pictures are read anew: delete it" in told[0]
    cache.close()


def test_without_a_path_nothing_is_kept(told):
    cache = cache_at(None, "key", told)
    cache.keep("a", READ, 0.1)
    assert cache.find("a") is None
    assert cache.seconds() is None
    assert not told
