"""Nothing alarms where nothing has moved; every planted drift alarms under its own name, and under no other."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from bifocal.diagnose.drift import (
    Property,
    bin_of,
    by_chance,
    compare,
    independent_rows,
    quantile_edges,
    stability_index,
)

RULE = {"psi": 0.2, "alpha": 0.01}


def posts(n, seed, *, score=(2, 5), german=0.1, without_text=0.1, words=12.0):
    """Properties of n generated posts, all of them independent."""
    rng = np.random.default_rng(seed)
    rows = np.arange(n)
    texts = rng.random(n) >= without_text
    languages = np.where(rng.random(n) < german, "de", np.where(rng.random(n) < 0.02, "fr", "en"))
    return {
        "score": Property(rng.beta(*score, n), rows),
        "presence pattern": Property(np.where(texts, "image+text", "image"), rows),
        "language": Property(languages[texts], rows[texts]),
        "text length": Property(rng.poisson(words, n)[texts] * 5, rows[texts]),
    }


def states(reference, new, **rule):
    return {name: entry["state"] for name, entry in compare(reference, new, **{**RULE, **rule}).items()}


@pytest.mark.parametrize("looks", [60, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("n", "m"), [(200, 100), (1000, 3000)])
def test_where_nothing_has_moved_anything_is_found_in_at_most_alpha_of_all_looks(n, m, looks):
    alpha = 0.05
    found = 0
    for seed in range(looks):
        compared = compare(posts(n, 2 * seed), posts(m, 2 * seed + 1), psi=0.2, alpha=alpha, seed=seed)
        found += any(entry["state"] in ("moved", "alarm") for entry in compared.values())
    assert found / looks <= alpha + 2 * np.sqrt(alpha * (1 - alpha) / looks)


@pytest.mark.parametrize(
    ("name", "drift"),
    [
        ("score", {"score": (4, 4)}),
        ("presence pattern", {"without_text": 0.5}),
        ("language", {"german": 0.5}),
        ("text length", {"words": 20.0}),
    ],
)
def test_a_planted_drift_alarms_under_its_name(name, drift):
    found = states(posts(1000, 0), posts(800, 1, **drift))
    assert found == {**dict.fromkeys(found, "steady"), name: "alarm"}


def test_of_very_many_posts_a_small_movement_is_no_alarm():
    found = compare(posts(10_000, 0), posts(100_000, 1, score=(2.2, 5)), **RULE)["score"]
    assert found["state"] == "moved" and found["p_holm"] < 1e-4 and found["psi_beyond_chance"] < 0.05


@pytest.mark.parametrize("m", [1, 20])
def test_of_few_posts_nothing_can_be_told(m):
    assert set(states(posts(500, 0), posts(m, 1)).values()) == {"too few rows"}


def test_what_one_side_has_none_of_is_not_compared():
    found = compare(posts(500, 0), posts(500, 1, without_text=1.0), **RULE)
    assert found["language"]["state"] == found["text length"]["state"] == "not compared"
    assert found["language"]["p_holm"] is None and found["presence pattern"]["state"] == "alarm"


def test_a_language_never_seen_is_an_alarm_and_no_infinity():
    new = posts(500, 1)
    new["language"].values[::3] = "ja"
    found = compare(posts(500, 0), new, **RULE)["language"]
    assert found["state"] == "alarm" and np.isfinite(found["psi"])
    assert {"value": "ja", "reference": 0, "new": pytest.approx(1 / 3, abs=0.01)} in found["bins"]


def test_many_languages_are_lumped_for_the_psi_and_tested_one_by_one():
    rng, rows = np.random.default_rng(0), np.arange(2000)
    names = np.array([f"l{i:02}" for i in range(40)])
    sides = [Property(names[rng.integers(40, size=2000)], rows) for _ in range(2)]
    found = compare({"language": sides[0]}, {"language": sides[1]}, **RULE)["language"]
    assert len(found["bins"]) == 10 and found["bins"][-1]["value"] == "(other)" and found["state"] == "steady"
    assert sum(entry["new"] for entry in found["bins"]) == pytest.approx(1)


@pytest.mark.parametrize("value", [0.5, 0.0, 1.0])
def test_scores_that_are_all_equal(value):
    rows = np.arange(300)
    flat = {"score": Property(np.full(300, value), rows)}
    assert states(flat, flat) == {"score": "steady"}
    for other in (0.3, 0.7):
        assert states(flat, {"score": Property(np.full(300, other), rows)}) == {"score": "alarm"}


def test_copies_of_one_post_are_no_crowd():
    """400 rows that are 8 posts, 50 times each: what they happen to be like says little of the rest."""
    alarms = {True: 0, False: 0}
    for seed in range(60):
        few = posts(8, 2 * seed, without_text=0)
        for known in alarms:
            copies = np.repeat(np.arange(8), 50) if known else np.arange(400)
            new = {name: Property(np.repeat(column.values, 50), copies) for name, column in few.items()}
            alarms[known] += "alarm" in states(posts(1000, 2 * seed + 1, without_text=0), new).values()
    assert alarms[True] <= 2 and alarms[False] >= 50


def test_independent_rows():
    assert independent_rows(np.arange(7)) == 7
    assert independent_rows(np.repeat(np.arange(7), 3)) == 7
    assert independent_rows(np.zeros(9)) == 1


def test_p_values_are_those_of_scipy():
    a, b = posts(400, 0), posts(300, 1, score=(2.3, 5), german=0.13)
    found = compare(a, b, **RULE)
    ks = ks_2samp(a["score"].values, b["score"].values, method="asymp")
    assert found["score"]["statistic"] == pytest.approx(ks.statistic)
    assert found["score"]["p"] == pytest.approx(ks.pvalue, rel=1e-6)
    names = np.unique(a["language"].values)
    table = [[np.sum(side["language"].values == name) for name in names] for side in (a, b)]
    g = chi2_contingency(table, lambda_="log-likelihood", correction=False)
    assert found["language"]["statistic"] == pytest.approx(g.statistic)
    assert found["language"]["p"] == pytest.approx(g.pvalue, abs=0.03)


def test_psi_of_equal_samples_is_what_it_comes_to_by_chance():
    rng, shares = np.random.default_rng(0), np.full(10, 0.1)
    found = [stability_index(rng.multinomial(800, shares), rng.multinomial(500, shares)) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(by_chance(10, 800, 500), rel=0.05)


def test_psi_of_known_shares():
    by_hand = (0.6 - 0.5) * np.log(0.6 / 0.5) + (0.4 - 0.5) * np.log(0.4 / 0.5)
    assert stability_index([500_000, 500_000], [600_000, 400_000]) == pytest.approx(by_hand, rel=1e-4)
    assert stability_index([5, 5], [5, 5]) == 0


def test_a_detectable_psi_is_detected_four_times_in_five():
    n = m = 400
    wanted = compare(posts(n, 0), posts(m, 1), **RULE)["language"]["detectable"]
    rng, rows = np.random.default_rng(0), np.arange(n)
    # de, fr, en of the reference, and so far towards de that the PSI is what is wanted
    base = np.array([0.1, 0.018, 0.882])
    grid = [base + d * np.array([1, 0, -1]) for d in np.linspace(0, 0.5, 501)]
    moved = next(q for q in grid if np.sum((q - base) * np.log(q / base)) >= wanted)
    sides = [
        {
            name: Property(rng.choice(["de", "fr", "en"], n, p=shares), rows)
            for name, shares in (("language", q), ("b", base), ("c", base), ("d", base))
        }
        for q in [base, moved] * 100
    ]
    found = sum(
        compare(a, b, **RULE)["language"]["p"] <= 0.01 / 4 for a, b in zip(sides[::2], sides[1::2], strict=True)
    )
    assert 70 <= found <= 90


def test_bins_hold_as_many_rows_each_and_fewer_where_rows_are_few():
    x = np.random.default_rng(0).normal(size=1000)
    edges = quantile_edges(x)
    assert len(edges) == 9 and set(np.bincount(bin_of(x, edges))) == {100}
    assert len(quantile_edges(x[:70])) == 2 and len(quantile_edges(x[:3])) == 1
    assert np.bincount(bin_of([0, 0, 0, 0, 1], quantile_edges([0, 0, 0, 0, 1]))).tolist() == [4, 1]
