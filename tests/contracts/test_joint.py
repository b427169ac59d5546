"""The ticket of entry for every fusion that reads tokens, beside that for all: the experts stay as they are, what it
tunes is its own, and what is saved decides as what was trained."""

import random
from dataclasses import replace

import pytest
import torch
from PIL import Image

from bifocal import plugins
from bifocal.config import ExpertConfig, FusionConfig
from bifocal.contracts import EncoderTuner, EpochFusion, Fusion
from bifocal.errors import ConfigError, DataError, ModelError
from bifocal.example import Evidence
from bifocal.fit.fusion import fit_fusion, load_fusion, save_fusion, with_tokens
from bifocal.fit.token_cache import spread
from bifocal.models.joint_tokens import Backbone

NAMES = [name for name in plugins.names("fusions") if plugins.load("fusions", name).reads == "tokens"]
TUNERS = [name for name in NAMES if issubclass(plugins.load("fusions", name), EncoderTuner)]
N = 48
WORDS = (("river", "stone"), ("copper", "lantern"))
SHADES = ((40, 60, 200), (200, 60, 40))


def posts(seed, n=N):
    """The text bears one cue of the label and the picture another; every sixth row lacks one or the other."""
    rng = random.Random(seed)
    labels = [i % 2 for i in range(n)]
    values = {
        "text": [" ".join([rng.choice(["old", "new", "grey", "small"]), rng.choice(WORDS[y])]) for y in labels],
        "image": [Image.new("RGB", (64, 64), SHADES[y]) for y in labels],
    }
    here = {m: torch.tensor([i % 6 != k for i in range(n)]) for m, k in (("text", 1), ("image", 4))}
    return values, here, torch.tensor(labels)


@pytest.fixture(scope="module")
def encoders():
    """Untrained ones: what a fusion makes of them it has to learn itself."""
    config = ExpertConfig(model="tiny", report_to=[])
    kinds = {"text": "hf_text", "image": "hf_image"}
    return {m: plugins.load("encoders", k).create(config, (0, 1), 0, posts(0)[0][m]) for m, k in kinds.items()}


@pytest.fixture(scope="module")
def rows(encoders):
    """``rows(seed, n)``: modality -> Evidence as a run makes it, with tokens and values."""

    def make(seed, n=N):
        values, here, labels = posts(seed, n)
        ids, found = tuple(f"{seed}-{i}" for i in range(n)), {}
        for m, encoder in encoders.items():
            there = here[m].nonzero().flatten().tolist()
            encoded, tokens = encoder.encode_tokens([values[m][i] for i in there])
            full = {k: torch.zeros(n, encoded[k].shape[1]).index_copy(0, torch.tensor(there), encoded[k])
                    for k in ("features", "logits")}  # fmt: skip
            blanks = [v if i in there else None for i, v in enumerate(values[m])]  # what is absent is never read
            found[m] = Evidence(ids, ids, full["features"], full["logits"], here[m], labels, torch.zeros(n).bool(),
                                spread(tokens, there, n), blanks)  # fmt: skip
        return found

    return make


def settings(name, **options):
    chosen = {
        "width": 32,
        "epochs": 8,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "encoder_learning_rate": 1e-3,
        **options,
    }
    known = plugins.load("fusions", name).Options.model_fields
    return FusionConfig(strategy=name, options={k: v for k, v in chosen.items() if k in known})


def fit(name, encoders, train, val=None, seed=0, on_epoch=None, **options):
    config = settings(name, **options)
    return fit_fusion(config, train, val=val, seed=seed, encoders=encoders, on_epoch=on_epoch)


def said(fusion, parts):
    return fusion(with_tokens(fusion, parts))


def without(parts, *lacking):
    return {m: e.without() if m in lacking else e for m, e in parts.items()}


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(name, encoders, rows):
    """A fusion, what the encoders were before and after, and what it told while it learned."""
    told = []
    before = {m: e.fingerprint() for m, e in encoders.items()}
    fusion = fit(name, encoders, rows(0), val=rows(1), on_epoch=told.append)
    return fusion, before, {m: e.fingerprint() for m, e in encoders.items()}, told


def test_it_fulfils_the_protocol_and_tells_of_every_epoch(fitted):
    fusion, *_, told = fitted
    assert isinstance(fusion, Fusion) and isinstance(fusion, EpochFusion)
    assert fusion.history == told
    assert [row["epoch"] for row in told] == list(range(1, len(told) + 1))
    keys = {"train_loss", "train_macro_f1", "val_loss", "val_macro_f1", "grad_norm", "grad_norm.text"}
    assert all(keys <= set(row) for row in told)
    assert all(row["grad_norm"] > 0 and row["grad_norm.image"] > 0 for row in told)


def test_it_learns_the_cues(fitted, rows):
    fusion, new = fitted[0], rows(2)
    assert (said(fusion, new).argmax(dim=1) == new["text"].labels).float().mean() > 0.9


def test_the_encoders_stay_as_they_are(fitted, encoders):
    _, before, after, _ = fitted
    assert before == after
    assert all(p.requires_grad for e in encoders.values() for p in e.classifier.parameters())


def test_only_part_of_its_own_encoders_learns(fitted, encoders):
    """Of a fusion on frozen tokens none does, for it has none."""
    fusion = fitted[0]
    whole = sum(p.numel() for p in fusion.model.head.parameters())
    for m, source in zip(encoders, fusion.sources, strict=True):
        assert isinstance(source, Backbone) == isinstance(fusion, EncoderTuner)
        now = {n.replace(".base_layer", ""): p for n, p in source.named_parameters()}
        if not isinstance(source, Backbone):
            assert not now
            continue
        there = {f"model.{n}": p for n, p in encoders[m].classifier.encoder.named_parameters()}
        changed = {n for n, p in now.items() if n not in there or not torch.equal(p, there[n])}
        learning = {n for n, p in now.items() if p.requires_grad}
        assert changed and changed <= learning < set(now)
        whole += sum(now[n].numel() for n in learning)
    assert fusion.parameters()["trained"] == whole


def test_logits_are_finite_for_every_set_of_present_parts(fitted, rows):
    fusion, new = fitted[0], rows(2, n=12)
    for lacking in [(), ("text",), ("image",), ("text", "image")]:
        some = with_tokens(fusion, without(new, *lacking))
        logits = fusion(some)
        assert logits.shape == (12, 2) and logits.dtype == torch.float32
        assert bool(logits.isfinite().all()) and not logits.requires_grad
        weights = fusion.explain(some)
        assert weights.keys() == {"text", "image"}
        for m, share in weights.items():
            assert bool((share >= 0).all()) and bool((share[~some[m].present] == 0).all())
        total = torch.stack(list(weights.values())).sum(dim=0)
        torch.testing.assert_close(total, torch.stack([e.present for e in some.values()]).any(dim=0).float())
    torch.testing.assert_close(logits.softmax(dim=1), fusion.prior.softmax(dim=0).expand(12, 2))


def test_its_encoders_run_once_whatever_is_asked_of_their_tokens(fitted, rows):
    """Parts are left out of the Evidence after its tokens were made: it then says the same without another pass."""
    fusion, new = fitted[0], rows(2, n=12)
    made = with_tokens(fusion, new)
    torch.testing.assert_close(
        fusion(without(made, "image")), said(fusion, without(new, "image")), atol=1e-4, rtol=1e-4
    )


def test_rows_are_judged_one_by_one(fitted, rows):
    fusion, new = fitted[0], rows(2, n=12)
    logits, order = said(fusion, new), [7, 1, 4, 0, 11]
    for some in (order, [1]):
        taken = {m: e.take(some) for m, e in new.items()}
        torch.testing.assert_close(said(fusion, taken), logits[some], atol=1e-4, rtol=1e-4)
    assert said(fusion, {m: e.take([]) for m, e in new.items()}).shape == (0, 2)


def test_what_is_saved_is_what_was_trained(fitted, name, encoders, rows, tmp_path):
    fusion, new = fitted[0], rows(2, n=12)
    save_fusion(fusion, settings(name), tmp_path)
    loaded = load_fusion(tmp_path, encoders=encoders)
    assert torch.equal(said(loaded, new), said(fusion, new))
    assert loaded.history == fusion.history and loaded.parameters() == fusion.parameters()
    held = torch.load(tmp_path / "fusion_model.pt", weights_only=True)
    assert sum(t.numel() for t in held.values()) < sum(e.parameters()["total"] for e in encoders.values()) * 2


def test_the_same_seed_gives_the_same_logits(name, encoders, rows):
    heard = []
    for start, seed in ((1, 0), (2, 0), (3, 5)):
        torch.manual_seed(start)
        heard.append(said(fit(name, encoders, rows(0, n=16), seed=seed, auxiliary=0.5, epochs=2), rows(2, n=12)))
    assert torch.equal(heard[0], heard[1])
    assert not torch.allclose(heard[0], heard[2])


def test_a_modality_may_be_read_by_its_features(name, encoders, rows):
    config = settings(name, epochs=1).model_copy(update={"read": {"image": "features"}})
    fusion = fit_fusion(config, rows(0, n=16), val=None, seed=0, encoders=encoders)
    assert fusion.read == {"text": "tokens", "image": "features"}
    made = with_tokens(fusion, rows(2, n=12))
    assert bool(fusion(made).isfinite().all())
    assert not isinstance(fusion, EncoderTuner) or made["image"].tokens is None


def test_rows_it_cannot_learn_from_are_refused(name, encoders, rows):
    good = rows(0, n=8)
    with pytest.raises(DataError, match="at least two classes"):
        fit(name, encoders, {m: replace(e, labels=torch.zeros(8, dtype=torch.long)) for m, e in good.items()})
    with pytest.raises(DataError, match="was given text"):
        fit(name, encoders, good, epochs=1)({"text": good["text"]})


@pytest.mark.parametrize("name", TUNERS)
def test_a_fusion_that_tunes_needs_the_experts_it_was_trained_with(name, encoders, rows, tmp_path):
    with pytest.raises(ModelError, match=f"{name} tunes encoders, and was given none of text"):
        fit(name, None, rows(0, n=8))
    save_fusion(fit(name, encoders, rows(0, n=8), epochs=1), settings(name), tmp_path)
    config = ExpertConfig(model="tiny", report_to=[])
    other = plugins.load("encoders", "hf_text").create(config, (0, 1), 1, posts(0)[0]["text"])
    with pytest.raises(ModelError, match="trained with another text expert"):
        load_fusion(tmp_path, encoders={**encoders, "text": other})


def test_an_unknown_option_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}.*no_such_option"):
        plugins.load("fusions", name)(no_such_option=1)
