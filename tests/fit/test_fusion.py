"""A fusion never learns where experts cheat (rule 3), and what is saved is what is loaded, or an error."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from bifocal.config import FusionConfig
from bifocal.errors import ConfigError, DataError, ModelError, UnknownPlugin
from bifocal.example import UNLABELLED, Evidence
from bifocal.fit.fusion import fit_fusion, fusion_parameters, load_fusion, save_fusion
from bifocal.models.linear import cross_fit, fit_linear
from bifocal.workspace import file_sha256, read_json, write_json

FAST = {"epochs": 2, "widths": [8]}


def evidence(n=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    ids, nothing = tuple(f"{seed}-{i}" for i in range(n)), torch.zeros(n, dtype=torch.bool)
    result = {}
    for name in ("text", "image"):
        logits = torch.randn(n, 2, generator=g) + functional.one_hot(labels, 2)
        result[name] = Evidence(ids, ids, torch.randn(n, 4, generator=g), logits, ~nothing, labels, nothing)
    return result


def config(**settings):
    return FusionConfig(**{"strategy": "concat", "seeds": 2, "options": FAST} | settings)


def fitted(**settings):
    return fit_fusion(config(**settings), evidence(), val=None, seed=0)


# ---------------------------------------------------------------------------------------------- rule 3


def noise(n, seed):
    """Features that say nothing of the labels, in more columns than any head can resist."""
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, 200, generator=g) for m in ("text", "image")}, torch.randint(0, 2, (n,), generator=g)


def said(features, logits, labels, seen):
    ids = tuple(f"r{i}" for i in range(len(labels)))
    there = torch.ones(len(labels), dtype=torch.bool)
    return {m: Evidence(ids, ids, features[m], logits[m], there, labels, there & seen) for m in features}


def auc(logits, labels):
    return roc_auc_score(labels, (logits[:, 1] - logits[:, 0]).numpy())


def test_a_fusion_must_not_learn_where_experts_cheat():
    """Rule 3: stacking on in-sample logits believes in noise, on cross-fitted ones it does not."""
    features, labels = noise(300, seed=0)
    groups = tuple(f"r{i}" for i in range(300))
    experts = {m: fit_linear(x, labels, groups, classes=2, penalties=[1.0]) for m, x in features.items()}
    new, truth = noise(1000, seed=1)
    unseen = said(new, {m: experts[m](x) for m, x in new.items()}, truth, False)
    cheating = said(features, {m: experts[m](x) for m, x in features.items()}, labels, True)
    clean_logits = {
        m: cross_fit(x, labels, groups, classes=2, folds=5, seed=0, penalty=1.0) for m, x in features.items()
    }
    clean = said(features, clean_logits, labels, False)
    settings = config(strategy="stacking", options={})

    with pytest.raises(DataError, match=r"text on 300, image on 300 of 300.*in_sample"):
        fit_fusion(settings, cheating, val=None, seed=0)

    fooled = fit_fusion(settings, cheating, val=None, seed=0, in_sample=True)
    assert auc(fooled(cheating), labels) > 0.99
    assert functional.cross_entropy(fooled(unseen), truth) > 1.5

    honest = fit_fusion(settings, clean, val=None, seed=0)
    assert auc(honest(clean), labels) < 0.65
    assert 0.42 < auc(honest(unseen), truth) < 0.58
    assert functional.cross_entropy(honest(unseen), truth) < 0.75


def test_one_seen_row_of_one_expert_is_enough_to_refuse():
    rows = evidence()
    seen = torch.arange(60) == 4
    tainted = {**rows, "image": replace(rows["image"], seen=seen)}
    with pytest.raises(DataError, match="image on 1 of 60.*fusion.holdout"):
        fit_fusion(config(), tainted, val=None, seed=0)
    with pytest.raises(DataError, match="image on 1 of 60"):
        fit_fusion(config(), rows, val=tainted, seed=0)
    fit_fusion(config(), tainted, val=None, seed=0, in_sample=True)


# ---------------------------------------------------------------------------------------------- fitting


def test_rows_without_annotation_are_left_out_of_train_and_val():
    rows, val = evidence(), evidence(seed=1)
    labels = rows["text"].labels.clone()
    labels[:20] = UNLABELLED
    marked = {m: replace(e, labels=labels) for m, e in rows.items()}
    kept = {m: e.take(range(20, 60)) for m, e in rows.items()}
    val_marked = {m: replace(e, labels=labels) for m, e in val.items()}
    val_kept = {m: e.take(range(20, 60)) for m, e in val.items()}
    first = fit_fusion(config(), marked, val=val_marked, seed=0)
    second = fit_fusion(config(), kept, val=val_kept, seed=0)
    assert torch.equal(first(rows), second(rows))


def test_seeds_count_up_from_the_runs_seed():
    rows = evidence()
    members = {seed: fit_fusion(config(), rows, val=None, seed=seed).member_logits(rows) for seed in (0, 1)}
    torch.testing.assert_close(members[0][1], members[1][0])
    assert members[0].shape == (2, 60, 2) and not torch.allclose(members[0][0], members[1][1])


def test_what_cannot_be_fitted_is_refused():
    rows = evidence()
    unlabelled = {m: replace(e, labels=torch.full((60,), UNLABELLED)) for m, e in rows.items()}
    with pytest.raises(DataError, match="none of 60 is"):
        fit_fusion(config(), unlabelled, val=None, seed=0)
    with pytest.raises(DataError, match="bear different labels"):
        fit_fusion(config(), {**rows, "image": unlabelled["image"]}, val=None, seed=0)
    with pytest.raises(DataError, match="at least one modality"):
        fit_fusion(config(), {}, val=None, seed=0)
    with pytest.raises(UnknownPlugin, match="did you mean 'concat'"):
        fit_fusion(config(strategy="conact"), rows, val=None, seed=0)
    with pytest.raises(ConfigError, match="did you mean 'widths'"):
        fit_fusion(config(options={"widht": 3}), rows, val=None, seed=0)


# ---------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize(("strategy", "options"), [("concat", FAST), ("mean", {}), ("stacking", {})])
def test_what_is_saved_is_what_is_loaded(tmp_path, strategy, options):
    settings = config(strategy=strategy, options=options)
    fusion = fit_fusion(settings, evidence(), val=None, seed=0)
    save_fusion(fusion, settings, tmp_path)
    assert torch.equal(load_fusion(tmp_path)(evidence(seed=1)), fusion(evidence(seed=1)))


def test_the_card_says_what_the_fusion_is(tmp_path):
    settings = config(read={"image": "logits"})
    fusion = fit_fusion(settings, evidence(), val=None, seed=0)
    save_fusion(fusion, settings, tmp_path)
    card = read_json(tmp_path / "config.json")
    assert card["strategy"] == "concat" and card["seeds"] == 2 and card["classes"] == 2 and card["format"] == 1
    assert card["modalities"] == ["text", "image"] and card["read"] == {"text": "features", "image": "logits"}
    assert card["sha256"] == file_sha256(tmp_path / "fusion_model.pt")
    learned = 2 * ((5 + 3) * 8 + 8 + 8 * 2 + 2)
    counted = 2 * (4 + 2) + 2 + 1  # mean and scale of each column, the class shares, the width that was chosen
    assert card["parameters"] == fusion_parameters(fusion) == {"total": learned + counted, "trained": learned}


def test_the_weights_open_without_bifocal(tmp_path):
    save_fusion(fitted(), config(), tmp_path)
    code = (
        "import sys, torch\n"
        f"state = torch.load({str(tmp_path / 'fusion_model.pt')!r}, weights_only=True)\n"
        "assert state and all(isinstance(t, torch.Tensor) for t in state.values())\n"
        "assert not any(m.startswith('bifocal') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_later_fusion_replaces_an_earlier_one(tmp_path):
    save_fusion(fitted(), config(), tmp_path)
    later = fitted(strategy="mean", options={})
    save_fusion(later, config(strategy="mean", options={}), tmp_path)
    assert torch.equal(load_fusion(tmp_path)(evidence()), later(evidence()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "fusion_model.pt"]


def test_a_missing_or_altered_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="there is no fusion in"):
        load_fusion(tmp_path)
    save_fusion(fitted(), config(), tmp_path)
    weights, card = tmp_path / "fusion_model.pt", read_json(tmp_path / "config.json")
    content = weights.read_bytes()
    weights.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    with pytest.raises(ModelError, match="is not the one that config.json describes"):
        load_fusion(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="is missing"):
        load_fusion(tmp_path)
    weights.write_bytes(content)
    write_json(tmp_path / "config.json", card | {"format": 2})
    with pytest.raises(ModelError, match="format 2; this Bifocal reads 1"):
        load_fusion(tmp_path)
    write_json(tmp_path / "config.json", card | {"state": {}})
    with pytest.raises(ModelError, match="no usable fusion"):
        load_fusion(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(card)[:-20])
    with pytest.raises(ModelError, match="not valid JSON"):
        load_fusion(tmp_path)


class Malicious:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_a_file_that_would_run_code_is_refused_even_under_its_own_hash(tmp_path, capsys):
    save_fusion(fitted(), config(), tmp_path)
    torch.save({"weights": Malicious()}, tmp_path / "fusion_model.pt")
    card = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", card | {"sha256": file_sha256(tmp_path / "fusion_model.pt")})
    with pytest.raises(ModelError, match="no usable fusion"):
        load_fusion(tmp_path)
    assert "unpickled" not in capsys.readouterr().out
