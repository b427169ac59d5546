"""The ticket of entry for every joint fusion: parts may be absent, the experts stay as they are, the seed decides."""

import random

import pytest
import torch
from PIL import Image

from bifocal import plugins
from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, DataError
from bifocal.models.joint_tokens import JointFusion, JointRows

NAMES = plugins.names("joint")
N = 48
WORDS = (("river", "stone"), ("copper", "lantern"))
SHADES = ((40, 60, 200), (200, 60, 40))


def rows(seed, n=N, classes=2, absent=True, keep=False):
    """The text bears one cue of the label and the picture another; every sixth row lacks one or the other."""
    rng = random.Random(seed)
    labels = [i % classes for i in range(n)]
    values = {
        "text": [" ".join([rng.choice(["old", "new", "grey", "small"]), rng.choice(WORDS[y % 2])]) for y in labels],
        "image": [Image.new("RGB", (64, 64), SHADES[y // 2 if classes > 2 else y]) for y in labels],
    }
    here = {m: torch.tensor([not absent or i % 6 != k for i in range(n)]) for m, k in (("text", 1), ("image", 4))}
    return JointRows(values, here, torch.tensor(labels), keep=keep)


@pytest.fixture(scope="module")
def encoders():
    """Untrained ones: what a joint fusion makes of them it has to learn itself."""
    values = rows(0).values
    config = ExpertConfig(model="tiny", report_to=[])
    kinds = {"text": "hf_text", "image": "hf_image"}
    return {m: plugins.load("encoders", k).create(config, (0, 1), 0, values[m]) for m, k in kinds.items()}


def create(name, **options):
    settings = {"width": 32, "epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "encoder_learning_rate": 1e-3}
    return plugins.load("joint", name)(**settings, **options)


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(name, encoders, tmp_path_factory):
    """A fusion, what the encoders were before and after, and what it told while it learned."""
    told, place = [], tmp_path_factory.mktemp(name)
    before = {m: e.fingerprint() for m, e in encoders.items()}
    fusion = create(name)
    assert (
        fusion.fit(encoders, rows(0), classes=2, seed=0, checkpoints=place, val=rows(1), on_epoch=told.append) is fusion
    )
    assert not list(place.glob("checkpoint-*"))
    return fusion, before, {m: e.fingerprint() for m, e in encoders.items()}, told


def test_it_fulfils_the_protocol_and_tells_of_every_epoch(fitted):
    fusion, *_, told = fitted
    assert isinstance(fusion, JointFusion)
    assert fusion.history == told
    assert [row["epoch"] for row in told] == list(range(1, len(told) + 1))
    keys = {"train_loss", "train_macro_f1", "val_loss", "val_macro_f1", "grad_norm", "grad_norm.text"}
    assert all(keys <= set(row) for row in told)
    assert all(row["grad_norm"] > 0 and row["grad_norm.image"] > 0 for row in told)


def test_it_learns_the_cues(fitted):
    fusion, new = fitted[0], rows(2)
    assert (fusion(new).argmax(dim=1) == new.labels).float().mean() > 0.9


def test_the_encoders_stay_as_they_are(fitted, encoders):
    _, before, after, _ = fitted
    assert before == after
    assert all(p.requires_grad for e in encoders.values() for p in e.classifier.parameters())


def test_only_part_of_the_encoders_learns(fitted, encoders):
    fusion = fitted[0]
    whole = sum(p.numel() for p in fusion.model.head.parameters())
    for m, source in zip(encoders, fusion.sources, strict=True):
        there = dict(encoders[m].classifier.encoder.named_parameters())
        now = {n.replace(".base_layer", ""): p for n, p in source.model.named_parameters()}
        changed = {n for n, p in now.items() if n not in there or not torch.equal(p, there[n])}
        learning = {n for n, p in now.items() if p.requires_grad}
        assert changed and changed <= learning < set(now)
        assert all(p.grad is None for n, p in now.items() if n not in learning)
        whole += sum(now[n].numel() for n in learning)
    counted = fusion.parameters()
    assert counted["trained"] == whole < counted["total"]


def test_logits_are_finite_for_every_set_of_present_parts(fitted):
    fusion, new = fitted[0], rows(2, n=12)
    for lacking in [(), ("text",), ("image",), ("text", "image")]:
        some = new
        for m in lacking:
            some = some.without(m)
        logits = fusion(some)
        assert logits.shape == (12, 2) and logits.dtype == torch.float32
        assert bool(logits.isfinite().all()) and not logits.requires_grad
        weights = fusion.explain(some)
        assert weights.keys() == {"text", "image"}
        for m, share in weights.items():
            assert bool((share >= 0).all()) and bool((share[~some.present[m]] == 0).all())
        total = torch.stack(list(weights.values())).sum(dim=0)
        torch.testing.assert_close(total, torch.stack(list(some.present.values())).any(dim=0).float())
    prior = fusion.prior.softmax(dim=0)
    torch.testing.assert_close(logits.softmax(dim=1), prior.expand(12, 2))


def test_absent_parts_are_never_read(fitted):
    fusion, new = fitted[0], rows(2, n=12)
    blank = {m: [v if here else None for v, here in zip(new.values[m], new.present[m].tolist(), strict=True)]
             for m in new.values}  # fmt: skip
    assert torch.equal(fusion(JointRows(blank, new.present)), fusion(new))


def test_rows_are_judged_one_by_one(fitted):
    fusion, new = fitted[0], rows(2, n=12)
    logits, order = fusion(new), [7, 1, 4, 0, 11]

    def take(index):
        values = {m: [v[i] for i in index] for m, v in new.values.items()}
        return JointRows(values, {m: p[index] for m, p in new.present.items()})

    torch.testing.assert_close(fusion(take(order)), logits[order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fusion(take([1])), logits[1:2], atol=1e-4, rtol=1e-4)
    assert fusion(take([])).shape == (0, 2)


def test_what_is_kept_of_rows_gives_the_same_logits(fitted):
    fusion, new, kept = fitted[0], rows(2, n=12), rows(2, n=12, keep=True)
    for _ in range(2):  # the first call fills the memory, the second reads it
        torch.testing.assert_close(fusion(kept), fusion(new), atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_logits(name, encoders, tmp_path):
    said = []
    for start, seed in ((1, 0), (2, 0), (3, 5)):
        torch.manual_seed(start)
        fusion = create(name, auxiliary=0.5).fit(encoders, rows(0, n=16), classes=2, seed=seed, checkpoints=tmp_path)
        said.append(fusion(rows(2, n=12)))
    assert torch.equal(said[0], said[1])
    assert not torch.allclose(said[0], said[2])


def test_rows_it_cannot_learn_from_are_refused(name, encoders, tmp_path):
    def fit(some):
        create(name).fit(encoders, some, classes=2, seed=0, checkpoints=tmp_path)

    good = rows(0, n=8)
    with pytest.raises(DataError, match="no training row has text"):
        fit(good.without("text"))
    with pytest.raises(DataError, match="at least two classes"):
        fit(JointRows(good.values, good.present, torch.zeros(8, dtype=torch.long)))
    with pytest.raises(DataError, match="annotated rows only"):
        fit(JointRows(good.values, good.present))
    with pytest.raises(DataError, match="bring no 'image'"):
        fit(JointRows({"text": good.values["text"]}, good.present, good.labels))


def test_an_unknown_option_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}.*no_such_option"):
        plugins.load("joint", name)(no_such_option=1)
