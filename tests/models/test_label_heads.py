"""Heads of further labels in a file that outside readers open; one that does not fit is refused in a line."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from bifocal.errors import ModelError
from bifocal.models.label_heads import HEADS, read_head, write_heads
from bifocal.models.linear import LinearHead

HEAD = LinearHead(torch.randn(3, 2, generator=torch.manual_seed(0)), torch.arange(3.0), 0.1)
EMPTY = LinearHead(torch.zeros(3, 2), torch.zeros(3), 0.0)


def test_heads_come_back_by_their_label(tmp_path):
    write_heads(tmp_path, {"a/b.weight": HEAD, "plain": EMPTY})
    assert set(load_file(tmp_path / HEADS)) >= {"a%2Fb.weight.weight", "plain.bias"}
    found = read_head(tmp_path, "a/b.weight", EMPTY, 0.1)
    assert torch.equal(found.weight, HEAD.weight) and torch.equal(found.bias, HEAD.bias) and found.penalty == 0.1


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"other.weight": torch.zeros(3, 2)}, r"label 'a' needs a weight \[3, 2\], found none: restore it, or train"),
        ({"a.weight": torch.zeros(3, 4), "a.bias": torch.zeros(3)}, r"needs a weight \[3, 2\], found \[3, 4\]"),
        (None, "cannot be read"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_in_one_line(tmp_path, tensors, told):
    if tensors is None:
        (tmp_path / HEADS).write_bytes(b"no tensors")
    else:
        save_file(tensors, tmp_path / HEADS)
    with pytest.raises(ModelError, match=told) as caught:
        read_head(tmp_path, "a", EMPTY, 0.1)
    assert "\n" not in str(caught.value)
