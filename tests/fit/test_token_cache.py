"""Tokens are written as they come, mapped when they are read, and made anew where of another key or damaged."""

import pytest
import torch
from safetensors import safe_open

from bifocal.fit.token_cache import read_tokens, written_tokens

KEY = {"encoder": "a", "split": "b"}
ROWS = [0, 2, 3]


@pytest.fixture
def written(tmp_path):
    tokens = [torch.randn(length, 4) for length in (3, 1, 5)]
    path = tmp_path / "val.tokens.safetensors"
    with written_tokens(path, KEY, ROWS, 5) as add:
        add(tokens[:1])
        add(tokens[1:])
    return path, tokens


def test_what_is_read_is_what_was_written(written):
    path, tokens = written
    found = read_tokens(path, KEY)
    assert [len(t) for t in found] == [3, 0, 1, 5, 0]
    assert all(torch.equal(found[row], t) for row, t in zip(ROWS, tokens, strict=True))
    with safe_open(path, "pt") as f:  # for outside readers too
        assert f.get_tensor("lengths").tolist() == [3, 0, 1, 5, 0] and f.get_tensor("tokens").shape == (9, 4)


def test_another_key_or_a_damaged_file_is_not_read(written):
    path, _ = written
    assert read_tokens(path, {**KEY, "encoder": "c"}) is None
    blob = bytearray(path.read_bytes())
    blob[5000 - 900] ^= 1
    path.write_bytes(blob)
    assert read_tokens(path, KEY) is None
    path.write_bytes(blob[:100])
    assert read_tokens(path, KEY) is None and read_tokens(path.with_name("none"), KEY) is None


def test_a_stopped_writer_leaves_nothing(tmp_path):
    path = tmp_path / "val.tokens.safetensors"
    with pytest.raises(KeyboardInterrupt), written_tokens(path, KEY, ROWS, 5) as add:
        add([torch.zeros(2, 4)])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_split_without_the_part_has_no_tokens(tmp_path):
    path = tmp_path / "val.tokens.safetensors"
    with written_tokens(path, KEY, [], 2):
        pass
    assert [len(t) for t in read_tokens(path, KEY)] == [0, 0]
