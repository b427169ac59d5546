import io
import os

import numpy as np
import pytest
from PIL import Image as Pillow

from bifocal.errors import DataError
from bifocal.modalities.image import decode, picture_hash
from bifocal.serve.known_pictures import KnownPictures, write_list
from bifocal.serve.settings import ListSettings


def scene(seed, size=(320, 240)):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Pillow.fromarray(noise).resize(size, Pillow.Resampling.BICUBIC)


def hexes(rng, n):
    return [rng.bytes(32).hex() for _ in range(n)]


def flipped(pdq, bits):
    return f"{int(pdq, 16) ^ sum(1 << 7 * b for b in range(bits)):064x}"


def known(tmp_path, rows, name="known", **settings):
    path = tmp_path / f"{name}.csv"
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    return KnownPictures([ListSettings(path=path, **settings)])


def test_an_entry_is_found_exactly_or_within_its_distance(tmp_path):
    hashes = hexes(np.random.default_rng(0), 1000)
    rows = [(pdq, f"e{i}", "2026-01-01", "tag") for i, pdq in enumerate(hashes)]
    near, exact = known(tmp_path, rows, distance=31), known(tmp_path, rows)
    assert exact.match(hashes[700], 100).to_dict() == {
        "list": "known",
        "entry": "e700",
        "distance": 0,
        "action": "block",
    }
    assert exact.match(flipped(hashes[700], 1), 100) is None
    assert (near.match(flipped(hashes[3], 31), 100).entry, near.match(flipped(hashes[3], 31), 100).distance) == (
        "e3",
        31,
    )
    assert near.match(flipped(hashes[3], 32), 100) is None
    assert near.match(hexes(np.random.default_rng(9), 1)[0], 100) is None


def test_the_same_picture_smaller_and_compressed_is_known_and_another_is_not(tmp_path):
    kept = picture_hash(scene(1))[0]
    lists = known(tmp_path, [(kept, "meme")], distance=31)
    buffer = io.BytesIO()
    scene(1).resize((280, 210)).save(buffer, "JPEG", quality=75)
    assert lists.match(*picture_hash(decode(buffer.getvalue()))).entry == "meme"
    assert lists.match(*picture_hash(scene(2))) is None


def test_a_picture_without_features_is_known_by_the_very_hash_only(tmp_path):
    pdq, quality = picture_hash(Pillow.new("RGB", (100, 100), "red"))
    assert quality < 50
    lists = known(tmp_path, [(pdq, "plain")], distance=31)
    assert lists.match(pdq, quality).entry == "plain"
    assert lists.match(flipped(pdq, 1), quality) is None and lists.match(flipped(pdq, 1), 80).entry == "plain"


def test_of_several_lists_the_strictest_wins_then_the_nearest(tmp_path):
    (pdq,) = hexes(np.random.default_rng(0), 1)
    paths = {}
    for name, far in (("fine", 0), ("look", 2), ("bad", 9), ("worse", 4)):
        paths[name] = tmp_path / f"{name}.csv"
        paths[name].write_text(f"{flipped(pdq, far)},{name}\n")
    actions = {"fine": "allow", "look": "review", "bad": "block", "worse": "block"}
    lists = KnownPictures([ListSettings(path=paths[n], action=a, distance=20) for n, a in actions.items()])
    assert lists.match(pdq, 100).entry == "worse" and len(lists) == 4
    assert lists.match(pdq, 100).description() == "it is entry worse of the list worse, but for 4 of 256 bits"


def test_no_lists_know_nothing():
    assert KnownPictures([]).match("0" * 64, 100) is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        ("abc,1\n" * 5, r"5 rows of .* \(lines 1, 2, 3, ...\) begin with no PDQ hash"),
        ("g" * 64 + ",1\n", "1 rows"),
    ],
)
def test_a_list_is_taken_whole_or_not_at_all(tmp_path, content, told):
    path = tmp_path / "bad.csv"
    path.write_text("" if not content else "0" * 64 + ",fine\n" + content)
    if content:
        told = told.replace("lines 1, 2, 3", "lines 2, 3, 4")
    with pytest.raises(DataError, match=told):
        KnownPictures([ListSettings(path=path)])


def test_a_missing_list_is_told_and_a_changed_one_noticed(tmp_path):
    with pytest.raises(DataError, match="there is no list of known pictures"):
        KnownPictures([ListSettings(path=tmp_path / "none.csv")])
    lists = known(tmp_path, [("0" * 64, "one")])
    assert not lists.changed()
    os.utime(tmp_path / "known.csv", ns=(1, 1))
    assert lists.changed()
    (tmp_path / "known.csv").unlink()
    assert lists.changed()


def test_a_list_made_of_pictures_knows_them(tmp_path):
    for i in range(3):
        scene(i).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "more").mkdir()
    counts = write_list([tmp_path], tmp_path / "list.csv")
    assert counts == {"written": 3, "poor": 0, "skipped": ["notes.txt"]}
    lists = KnownPictures([ListSettings(path=tmp_path / "list.csv")])
    assert lists.match(*picture_hash(scene(2))).entry == "2.png"


@pytest.mark.parametrize(
    ("places", "told"),
    [
        (["0.png", "nopics"], "there is no file or folder '.*nopics'"),
        (["notes.txt"], r"no picture in .*notes\.txt, where 1 files were looked at .* nothing was written"),
        (["empty"], r"no picture in .*empty, where 0 files"),
    ],
)
def test_a_list_of_nothing_is_not_written(tmp_path, places, told):
    scene(0).save(tmp_path / "0.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    write_list([tmp_path / "0.png"], tmp_path / "list.csv")
    before = (tmp_path / "list.csv").read_text()
    with pytest.raises(DataError, match=told):
        write_list([tmp_path / place for place in places], tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_text() == before


def test_the_command_names_what_it_skips(tmp_path, capsys):
    from bifocal.cli import app as command

    scene(0).save(tmp_path / "0.png")
    for i in range(12):
        (tmp_path / f"note{i:02}.txt").write_text("no picture")
    command.app(["lists", "hash", str(tmp_path), "-o", str(tmp_path / "out" / "list.csv")], standalone_mode=False)
    said = capsys.readouterr().out
    assert "1 pictures" in said and "12 files are no pictures: 'note00.txt', 'note01.txt'" in said
    assert "and 2 more" in said


def test_a_name_that_a_spreadsheet_runs_is_guarded_and_told_as_it_is(tmp_path):
    name = "=cmd|'x'!A0.png"
    scene(1).save(tmp_path / name)
    for raw in (False, True):
        write_list([tmp_path / name], tmp_path / "made.csv", as_they_are=raw)
        assert (f",'{name}," in (tmp_path / "made.csv").read_text()) is not raw
        found = KnownPictures([ListSettings(path=tmp_path / "made.csv")])
        assert found.match(*picture_hash(decode((tmp_path / name).read_bytes()))).entry == name
