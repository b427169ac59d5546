"""The ticket of entry for every fusion: any number of modalities, any part absent, saved to the bit."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from bifocal import plugins
from bifocal.contracts import EncoderTuner, Fusion
from bifocal.errors import ConfigError
from bifocal.example import Evidence
from bifocal.models.composite_fusion import CompositeFusion

NAMES = plugins.names("fusions")
SEEDS = (0, 1)
N = 40


def evidence(modalities=2, classes=2, seed=0):
    """A few informative rows under names that no fusion can know; every fifth row of a modality is absent."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % classes
    ids = tuple(f"{seed}-{i}" for i in range(N))
    result = {}
    for i in range(modalities):
        logits = torch.randn(N, classes, generator=g) + torch.nn.functional.one_hot(labels, classes)
        features = torch.cat([logits, torch.randn(N, 2 + i, generator=g)], dim=1)
        present = torch.arange(N) % 5 != i
        result[f"part-{i}.x"] = Evidence(ids, ids, features, logits, present, labels, torch.zeros(N, dtype=torch.bool))
    return result


def attached(fusion, rows):
    """A fusion that tunes encoders gets some, of which none has tokens; `test_joint` is about those that have."""
    if isinstance(fusion, EncoderTuner):
        fusion.attach(dict.fromkeys(rows, object()))
    return fusion


def fit(name, rows, val=None, **options):
    """For two epochs, where it has epochs and nothing else is asked for."""
    labels = next(iter(rows.values())).labels
    found = plugins.load("fusions", name)
    quick = {"epochs": 2} | ({"width": 16, "learning_rate": 1e-2} if found.reads == "tokens" else {}) | options
    if issubclass(found, CompositeFusion):  # which would try all others
        quick = {"candidates": ["stacking", "linear"]}
    known = {key: value for key, value in quick.items() if key in found.Options.model_fields}
    return attached(found(**known), rows).fit(rows, labels, seeds=SEEDS, val=val)


@cache
def fitted(name, modalities=2, classes=2):
    """One that was fitted, for tests that only ask it."""
    return fit(name, evidence(modalities, classes))


def garbled(rows):
    """The same Evidence with nan and other rubbish wherever the part is absent."""
    result = {}
    for name, e in rows.items():
        features, logits = e.features.clone(), e.logits.clone()
        features[~e.present], logits[~e.present] = torch.nan, 1e30
        result[name] = replace(e, features=features, logits=logits)
    return result


pytestmark = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("classes", [2, 3])
def test_logits_are_finite_for_every_set_of_present_parts(name, modalities, classes):
    fusion, new = fitted(name, modalities, classes), evidence(modalities, classes, seed=1)
    assert isinstance(fusion, Fusion) and fusion.reads in ("features", "logits", "tokens")
    for blank in [(), *((m,) for m in new), tuple(new)]:
        logits = fusion({m: e.without() if m in blank else e for m, e in new.items()})
        assert logits.shape == (N, classes) and logits.dtype == torch.float32
        assert bool(logits.isfinite().all()) and not logits.requires_grad


def test_it_learns_something(name):
    """Also from val, where it looks at val."""
    rows, new = evidence(3), evidence(3, seed=1)
    epochs = 15 if plugins.load("fusions", name).reads == "tokens" else 30
    for val in (None, evidence(3, seed=2)):
        logits = fit(name, rows, val=val, epochs=epochs)(new)
        assert (logits.argmax(dim=1) == new["part-0.x"].labels).float().mean() > 0.6


def test_absent_rows_are_never_read(name):
    clean, new = fitted(name), evidence(seed=1)
    dirty = fit(name, garbled(evidence()))
    assert torch.equal(clean(new), dirty(new))
    assert torch.equal(clean(new), clean(garbled(new)))
    for modality, weights in clean.explain(garbled(new)).items():
        assert torch.equal(weights, clean.explain(new)[modality])


def test_a_modality_may_be_absent_everywhere(name):
    rows, new = evidence(), evidence(seed=1)
    *_, last = rows
    assert bool(fit(name, {**rows, last: rows[last].without()})(new).isfinite().all())
    fusion = fitted(name)
    blanked = fusion({**new, last: new[last].without()})
    assert bool(blanked.isfinite().all()) and not torch.allclose(blanked, fusion(new))


def test_it_is_restored_to_the_bit(name, tmp_path):
    rows, new = evidence(3, 3), evidence(3, 3, seed=1)
    fusion = fitted(name, 3, 3)
    config, tensors = fusion.state()
    torch.save(tensors, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.manual_seed(123)
    restored = attached(plugins.load("fusions", name).restore(json.loads(json.dumps(config)), loaded), rows)
    assert torch.equal(restored(new), fusion(new))
    shown, again = fusion.explain(new), restored.explain(new)
    assert shown.keys() == again.keys() and all(torch.equal(shown[m], again[m]) for m in shown)


def test_the_same_seeds_give_the_same_numbers(name):
    rows, new = evidence(), evidence(seed=1)
    torch.manual_seed(2)
    assert torch.equal(fit(name, rows)(new), fitted(name)(new))


def test_rows_are_judged_one_by_one(name):
    """In any order, alone or together."""
    fusion, new = fitted(name), evidence(seed=1)
    logits = fusion(new)
    order = list(range(N))[::-1]
    torch.testing.assert_close(fusion({m: e.take(order) for m, e in new.items()}), logits[order])
    torch.testing.assert_close(fusion({m: e.take([7]) for m, e in new.items()}), logits[7:8])
    assert fusion({m: e.take([]) for m, e in new.items()}).shape == (0, 2)


@pytest.mark.parametrize("modalities", [2, 3])
def test_pairs_are_scored_as_if_they_were_rows(name, modalities):
    """Where a fusion has a quick way to score all pairs (EMAP), it says what it says of rows put together so."""
    fusion, new = fitted(name, modalities), evidence(modalities, seed=1)
    if not hasattr(fusion, "pairs"):
        pytest.skip("it has none")
    for one in new:
        logits = fusion.pairs(new, one)(slice(3, 10), slice(20, 32))
        paired = {
            m: e.take([i for i in range(3, 10) for _ in range(12)] if m == one else list(range(20, 32)) * 7)
            for m, e in new.items()
        }
        ids = tuple(map(str, range(84)))
        expected = fusion({m: replace(e, ids=ids, groups=ids) for m, e in paired.items()})
        torch.testing.assert_close(logits, expected.unflatten(0, (7, 12)), atol=1e-5, rtol=1e-5)


def test_weights_are_shares_of_one_among_the_present_parts(name):
    fusion, new = fitted(name), evidence(seed=1)
    weights = fusion.explain(new)
    assert not weights or weights.keys() == new.keys()
    for modality, share in weights.items():
        assert share.shape == (N,) and bool((share >= 0).all())
        assert bool((share[~new[modality].present] == 0).all())
    if weights:
        torch.testing.assert_close(sum(weights.values()), torch.ones(N))


def test_an_unknown_option_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}.*no_such_option"):
        plugins.load("fusions", name)(no_such_option=1)
