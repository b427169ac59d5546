"""P-values by the ends of intervals, and what several comparisons show together."""

import pytest

from bifocal.lab.documents.significance import p_above, p_below, shown, signs
from bifocal.lab.results_schema import Figure


def test_p_values_are_those_of_the_interval():
    at = Figure(value=0.03, low=0.01, high=0.06)
    assert p_above(at, 0.01) == pytest.approx(0.05) and p_below(at, 0.06) == pytest.approx(0.05)
    assert p_above(at) < 0.05 < p_above(at, 0.02) < p_above(at, 0.05) == 1 == p_below(at)
    flat = Figure(value=0.0, low=0.0, high=0.0)
    assert (p_above(flat, -0.01), p_above(flat), p_above(Figure(value=1.0))) == (0, 1, 1)


def test_several_differences_must_each_show_more_than_one():
    just = Figure(value=0.02, low=0.001, high=0.04)
    assert signs([just]) == [1]
    assert signs([just, just, Figure(value=-0.5, low=-0.6, high=-0.4), None]) == [0, 0, -1, None]


def test_what_is_shown_of_a_family_is_by_holm():
    assert shown({"a": 0.02, "b": 0.03}) == {"a", "b"} and shown({"a": 0.03, "b": 0.03}) == set() == shown({})
