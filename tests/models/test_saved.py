"""An expert's folder appears whole or not at all, and tells when it was altered."""

import pytest

from bifocal.errors import ModelError
from bifocal.models.saved import check_seal, read_card, sealed


def write(folder, content):
    with sealed(folder, {"encoder": "any"}) as part:
        (part / "weights").write_text(content)


def test_a_sealed_folder_reads_back(tmp_path):
    write(tmp_path / "deep" / "expert", "first")
    card = read_card(tmp_path / "deep" / "expert")
    assert card["encoder"] == "any"
    check_seal(tmp_path / "deep" / "expert", card)


def test_saving_again_replaces_everything(tmp_path):
    write(tmp_path / "expert", "first")
    (tmp_path / "expert" / "left.over").write_text("x")
    write(tmp_path / "expert", "second")
    assert sorted(p.name for p in (tmp_path / "expert").iterdir()) == ["bifocal.json", "weights"]
    assert [p.name for p in tmp_path.iterdir()] == ["expert"]


def test_a_failing_write_leaves_the_old_folder(tmp_path):
    write(tmp_path / "expert", "first")
    with pytest.raises(KeyboardInterrupt), sealed(tmp_path / "expert", {}) as part:
        (part / "weights").write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "expert" / "weights").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["expert"]


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    (tmp_path / ".expert.part").mkdir()
    (tmp_path / ".expert.part" / "half").write_text("x")
    write(tmp_path / "expert", "first")
    assert sorted(p.name for p in (tmp_path / "expert").iterdir()) == ["bifocal.json", "weights"]


def test_a_folder_put_aside_by_a_killed_writer_stands_until_the_next_one_is_whole(tmp_path):
    write(tmp_path / "expert", "first")
    (tmp_path / "expert").rename(tmp_path / ".expert.old")  # killed between the two renames
    with pytest.raises(KeyboardInterrupt), sealed(tmp_path / "expert", {}):
        raise KeyboardInterrupt
    assert (tmp_path / "expert" / "weights").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["expert"]


def test_an_altered_file_is_named(tmp_path):
    write(tmp_path / "expert", "first")
    (tmp_path / "expert" / "weights").write_text("fjrst")
    with pytest.raises(ModelError, match=r"weights was altered"):
        check_seal(tmp_path / "expert", read_card(tmp_path / "expert"))


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path / "expert", "first")
    (tmp_path / "expert" / "weights").unlink()
    with pytest.raises(ModelError, match=r"weights is missing"):
        check_seal(tmp_path / "expert", read_card(tmp_path / "expert"))


@pytest.mark.parametrize("content", [None, "{"])
def test_another_folder_is_no_expert(tmp_path, content):
    if content:
        (tmp_path / "bifocal.json").write_text(content)
    with pytest.raises(ModelError, match=r"no expert saved by Bifocal"):
        read_card(tmp_path)
