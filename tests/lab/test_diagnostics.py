"""A fusion taken apart: its additive part is exact, pairs are of equal parts, samples are of whole groups."""

import numpy as np
import pytest
import torch

from bifocal import plugins
from bifocal.diagnose.interaction import emap
from bifocal.example import Evidence
from bifocal.lab.diagnostics import additive_part, rearranged, sample_rows, values_of, with_only


def evidence(n=23, seed=0, names=("a", "b")):
    g = torch.Generator().manual_seed(seed)
    ids, there = tuple(map(str, range(n))), torch.ones(n, dtype=torch.bool)
    labels = torch.arange(n) % 2
    return {
        m: Evidence(ids, ids, torch.randn(n, 3, generator=g), torch.randn(n, 2, generator=g), there, labels, ~there)
        for m in names
    }


def product(rows):
    """Logits ``[n, 2]`` of a product of the first features: nothing in it adds up; an absent part counts as 0."""
    z = torch.stack([e.features[:, 0] * e.present for e in rows.values()]).prod(dim=0)
    return torch.stack([torch.zeros_like(z), z], dim=1)


def total(rows):
    z = torch.stack([e.features[:, 0] * e.present for e in rows.values()]).sum(dim=0)
    return torch.stack([torch.zeros_like(z), z], dim=1)


def test_the_additive_part_is_that_of_all_pairs_held_whole():
    rows = evidence()
    a, b = (rows[m].features[:, 0].double().numpy() for m in ("a", "b"))
    whole = emap(np.stack([np.zeros((23, 23)), np.outer(a, b)], axis=2))
    for block in (5, 23, 100):
        np.testing.assert_allclose(additive_part(product, rows, "a", block=block), whole, atol=1e-6)


@pytest.mark.parametrize("broadcasts", [True, False])
def test_a_fusion_scores_pairs_in_its_own_way_where_that_gives_the_same(broadcasts, monkeypatch):
    rows = evidence()
    fusion = plugins.load("fusions", "hadamard")(epochs=2, widths=[8]).fit(rows, rows["a"].labels, seeds=[0, 1])
    asked, pairs = [], fusion.pairs

    def counted(*given):
        asked.append(given)
        found = pairs(*given)
        return found if broadcasts else lambda r, c: found(r, c) + 1

    monkeypatch.setattr(fusion, "pairs", counted)
    np.testing.assert_allclose(
        additive_part(fusion, rows, "a"), additive_part(lambda r: fusion(r), rows, "a"), atol=1e-4
    )
    assert asked


def test_an_additive_fusion_is_its_own_additive_part():
    rows = evidence(names=("a", "b", "c"))
    for first in rows:
        np.testing.assert_allclose(additive_part(total, rows, first), total(rows).numpy(), atol=1e-5)


def test_rows_are_put_together_from_the_rows_named():
    rows = evidence()
    mixed = rearranged(rows, {"a": np.array([3, 3, 0]), "b": np.array([1, 2, 0])})
    assert torch.equal(mixed["a"].features, rows["a"].features[[3, 3, 0]])
    assert torch.equal(mixed["b"].logits, rows["b"].logits[[1, 2, 0]])
    assert mixed["a"].ids == mixed["b"].ids and len(mixed["a"]) == 3


def test_with_only_some_parts_the_others_are_blanked():
    rows = evidence()
    np.testing.assert_array_equal(with_only(product, rows, frozenset({"a"})), 0.0)
    np.testing.assert_allclose(with_only(total, rows, frozenset({"a"}))[:, 1], rows["a"].features[:, 0])


def test_a_sample_is_of_whole_groups_and_within_the_limit():
    groups = [f"g{i // 3}" for i in range(300)]
    rows = sample_rows(groups, 100, seed=0)
    assert 97 <= len(rows) <= 100 and rows == sorted(set(rows))
    taken = {groups[i] for i in rows}
    assert len(rows) == 3 * len(taken)
    assert rows == sample_rows(groups, 100, seed=0) != sample_rows(groups, 100, seed=1)
    assert sample_rows(groups, 300, seed=0) == list(range(300))


@pytest.mark.parametrize("width", [1, 384])
def test_equal_parts_have_one_number_up_to_rounding(width):
    """Also where the encoder saw them in other batches."""
    g = torch.Generator().manual_seed(0)
    few = torch.randn(40, width, generator=g)
    of_row = torch.arange(200) % 40
    x = few[of_row] + 1e-6 * torch.randn(200, width, generator=g)
    there = torch.arange(200) != 17
    ids = tuple(map(str, range(200)))
    e = Evidence(ids, ids, x, torch.zeros(200, 2), there, torch.zeros(200, dtype=torch.long), ~there)
    numbers = values_of(e)
    assert numbers[17] is None
    found = [(number, int(value)) for number, value in zip(numbers, of_row, strict=True) if number is not None]
    assert len(set(found)) == len({number for number, _ in found}) == 40


def test_no_part_has_no_number():
    e = evidence()["a"].without()
    assert values_of(e) == [None] * 23
