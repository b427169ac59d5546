import numpy as np
import pytest

from bifocal.diagnose.explanation import ABSENT, LEAST, POSTED, log_odds, measure_effects, probability
from bifocal.errors import DataError

WORTH = {"text": [3.0, -2.0, 0.0], "image": [1.0, 0.5], "tabular": [-4.0]}
"""What each piece adds where parts are sums of their pieces."""
PRIOR = -1.5


def worth(name, version):
    """Of a part at one of its versions."""
    if version == ABSENT:
        return 0.0
    return sum(WORTH[name]) - (WORTH[name][version - 1] if version > POSTED else 0.0)


def additive(versions):
    return [PRIOR + sum(worth(name, v[i]) for name, v in versions.items()) for i in range(len(versions["text"]))]


def both_or_nothing(versions):
    """Text and image are worth 4 together and nothing alone."""
    text, image = versions["text"] == POSTED, versions["image"] == POSTED
    return 4.0 * (text & image)


def pieces_of(*names):
    return {name: len(WORTH[name]) for name in names}


def test_where_parts_and_pieces_add_up_each_gets_what_it_adds():
    effects = measure_effects(additive, pieces_of("text", "image", "tabular"))
    assert effects.baseline == PRIOR and effects.score == pytest.approx(PRIOR + 1.0 + 1.5 - 4.0)
    assert effects.contributions == pytest.approx({"text": 1.0, "image": 1.5, "tabular": -4.0})
    assert {name: found.tolist() for name, found in effects.pieces.items()} == WORTH
    assert len(effects.subsets) == 8 and effects.subsets[frozenset({"image"})] == pytest.approx(PRIOR + 1.5)


def test_parts_that_only_work_together_share_what_they_bring_and_each_piece_is_missed_in_full():
    effects = measure_effects(both_or_nothing, {"text": 2, "image": 1})
    assert effects.contributions == {"text": 2.0, "image": 2.0}
    assert effects.pieces["text"].tolist() == [4.0, 4.0] and effects.pieces["image"].tolist() == [4.0]


@pytest.mark.parametrize("seed", range(5))
def test_contributions_sum_to_the_score_less_the_baseline(seed):
    rng = np.random.default_rng(seed)
    effects = measure_effects(lambda rows: rng.normal(0, 10, len(rows["a"])), {"a": 3, "b": 0, "c": 2, "d": 1})
    assert sum(effects.contributions.values()) == pytest.approx(effects.score - effects.baseline, abs=1e-9)
    assert list(effects.contributions) == list(effects.pieces) == ["a", "b", "c", "d"]


def test_everything_is_scored_in_one_call_that_hides_one_thing_at_a_time():
    calls = []

    def score(versions):
        calls.append({name: v.tolist() for name, v in versions.items()})
        return np.zeros(len(versions["text"]))

    measure_effects(score, {"text": 2, "image": 1})
    assert calls == [{"text": [-1, -1, 0, 0, 1, 2, 0], "image": [-1, 0, -1, 0, 0, 0, 1]}]


def test_a_post_of_one_part_without_pieces_owes_all_to_it():
    effects = measure_effects(lambda rows: [0.5, 2.0], {"text": 0})
    assert effects.contributions == {"text": 1.5} and effects.pieces["text"].tolist() == []


@pytest.mark.parametrize(
    ("score", "pieces", "message"),
    [
        (additive, {}, "at least one part"),
        (lambda rows: [0.0], {"text": 1}, r"needs 3 finite scores, .* found shape \[1\]"),
        (lambda rows: [0.0, np.nan, np.inf], {"text": 1}, "2 not finite"),
    ],
)
def test_what_cannot_be_explained_is_named(score, pieces, message):
    with pytest.raises(DataError, match=message) as error:
        measure_effects(score, pieces)
    assert "\n" not in str(error.value)


def test_log_odds_are_those_of_one_class_against_all_others():
    assert log_odds([[0.2, 0.8], [0.5, 0.5]], 1) == pytest.approx([np.log(4), 0.0])
    assert log_odds([[0.2, 0.5, 0.3]], 0) == pytest.approx([np.log(0.25)])


def test_log_odds_keep_what_is_left_of_a_probability_near_one_and_stay_finite():
    assert log_odds([[1e-11, 1.0]], 1) == pytest.approx([11 * np.log(10)])  # 1 - (1 - 1e-11) would not give it back
    assert log_odds([[0.0, 1.0], [1.0, 0.0]], 1) == pytest.approx([-np.log(LEAST), np.log(LEAST)])


def test_probabilities_come_back_from_log_odds():
    p = np.array([1e-9, 0.2, 0.5, 0.999])
    assert probability(log_odds(np.stack([1 - p, p], axis=1), 1)) == pytest.approx(p)
