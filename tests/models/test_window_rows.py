"""What is encoded of long texts keeps its windows until a head chooses among them."""

import pytest
import torch

from bifocal.config import ExpertConfig
from bifocal.models.encoders.hf_text import HfText
from bifocal.models.linear import LinearHead, cross_fit, fit_linear
from bifocal.models.window_rows import (
    by_head,
    by_held_out_heads,
    each_window,
    fit_head,
    learn_offsets,
    put_rows,
    take_rows,
    with_windows,
)

COUNTS = [1, 3, 1, 2] * 5
N, M = len(COUNTS), sum(COUNTS)
WINDOWS = {"features": torch.randn(M, 2, generator=torch.manual_seed(0)), "logits": torch.zeros(M, 2)}
FIRST = torch.tensor(COUNTS).cumsum(0) - torch.tensor(COUNTS)
ENCODED = with_windows({name: tensor[FIRST] for name, tensor in WINDOWS.items()}, WINDOWS, COUNTS)
LABELS, GROUPS = torch.tensor([0, 1] * (N // 2)), [f"g{i // 2}" for i in range(N)]


class Linear:
    """A frozen encoder's head over features."""

    penalty = 1.0
    head = LinearHead(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.zeros(2), 1.0)

    def head_logits(self, encoded):
        return self.head(encoded["features"])

    def fit_head(self, encoded, labels, groups):
        self.learned = encoded["features"], labels, groups
        return [{}]

    def cross_fit(self, encoded, labels, groups, *, folds, seed):
        return cross_fit(encoded["features"], labels, groups, classes=2, folds=folds, seed=seed, penalty=1.0)


def test_every_window_is_a_row_of_its_text():
    windows, texts = each_window(ENCODED)
    assert torch.equal(windows["features"], WINDOWS["features"])
    assert texts.bincount().tolist() == COUNTS
    plain, rows = each_window({"features": WINDOWS["features"]})
    assert torch.equal(plain["features"], WINDOWS["features"]) and rows.tolist() == list(range(M))


@pytest.mark.parametrize("rows", [[1], [3, 0, 1], [0, 2], list(range(N))])
def test_some_texts_keep_their_windows(rows):
    windows, texts = each_window(take_rows(ENCODED, rows))
    expected = torch.cat([WINDOWS["features"][FIRST[i] : FIRST[i] + COUNTS[i]] for i in rows])
    assert torch.equal(windows["features"], expected) and texts.bincount().tolist() == [COUNTS[i] for i in rows]


def test_lots_of_texts_are_put_together():
    whole = {}
    for some in ([0, 2], [3, 4], [5, 7]):  # row 1 and 6 are absent
        found = take_rows(ENCODED, some)
        if max(COUNTS[i] for i in some) == 1:
            found = {"features": found["features"]}
        put_rows(whole, {**found, "logits": torch.zeros(2, 2)}, some, 8)
    assert whole["windows"].tolist() == [1, 1, 1, 2, 1, 3, 1, 2] and not whole["features"][[1, 6]].any()
    windows, texts = each_window(whole)
    for i in (0, 2, 3, 4, 5, 7):
        assert torch.equal(windows["features"][texts == i], WINDOWS["features"][FIRST[i] : FIRST[i] + COUNTS[i]])


def test_the_head_chooses_the_window():
    found = by_head(Linear(), ENCODED)
    for i, start in enumerate(FIRST):
        windows = WINDOWS["features"][start : start + COUNTS[i]]
        assert torch.equal(found["features"][i], windows[windows[:, 0].argmax()])
        assert found["logits"][i, 1] == found["features"][i, 0]


def test_a_head_is_fitted_on_first_windows():
    encoder = Linear()
    fit_head(encoder, ENCODED, LABELS, GROUPS)
    assert torch.equal(encoder.learned[0], WINDOWS["features"][FIRST]) and encoder.learned[2] == GROUPS


def test_held_out_heads_choose_and_judge_windows_of_texts_that_they_have_not_seen():
    found = by_held_out_heads(Linear(), ENCODED, LABELS, GROUPS, folds=5, seed=0)
    for i, (start, count) in enumerate(zip(FIRST, COUNTS, strict=True)):
        windows = {"features": WINDOWS["features"][start : start + count]}
        assert any(torch.equal(found["features"][i], window) for window in windows["features"])
    # A head that has one text alone to judge: it learned from the first windows of all others.
    others = [i for i in range(N) if GROUPS[i] != "g0"]
    alone = [GROUPS[i] if i < 2 else "rest" for i in range(N)]
    held_out = by_held_out_heads(Linear(), ENCODED, LABELS, alone, folds=2, seed=0)
    rows, classes = WINDOWS["features"][FIRST][others], LABELS[others]
    head = fit_linear(rows, classes, GROUPS, classes=2, penalties=[1.0])
    odds = head(WINDOWS["features"][FIRST[1] : FIRST[1] + 3])
    best = (odds[:, 1] - odds[:, 0]).argmax()
    assert torch.equal(held_out["features"][1], WINDOWS["features"][FIRST[1] + best])
    torch.testing.assert_close(held_out["logits"][1], odds[best], atol=1e-5, rtol=1e-4)


def test_what_an_encoder_gives_of_long_texts_is_what_its_head_makes_of_their_windows():
    texts = ["old river wood new stone " * 20, "old stone", "new wood"]
    config = ExpertConfig(model="tiny", tune="head", options={"max_length": 64})
    encoder = HfText.create(config, (0, 1), 0, texts)
    encoded = encoder.encode(texts)
    again = by_head(encoder, encoded)
    for name in ("features", "logits"):
        torch.testing.assert_close(again[name], encoded[name], atol=1e-5, rtol=1e-5)


BINARY, KINDS = (0, 1), ("a", "b", "c")


@pytest.mark.parametrize(("first", "second"), [(BINARY, KINDS), (KINDS, BINARY)])
def test_heads_over_the_same_windows_are_as_of_encoders_of_their_own(first, second):
    """One chooses among the windows of a text, the other reads the mean of them."""
    words = ["stone", "river", "lamp", "chair"]
    texts = [" ".join(words[(i * k) % 4] for k in range(1, (3, 5, 40)[i % 3])) for i in range(24)]
    labels = {BINARY: torch.tensor([0, 1, -1, 1] * 6), KINDS: torch.tensor([0, 1, 2, 2, -1, 0] * 4)}
    groups = [str(i) for i in range(24)]
    options = {"max_length": 24, "vocabulary": 100, "windows": 3}
    config = ExpertConfig(model="tiny", tune="head", pooling="mean", encode_batch_size=7, options=options)
    encoder = HfText.create(config, first, 0, texts)
    head = encoder.add_head("second", second)
    encoded = encoder.encode(texts)
    for classes, found in ((first, encoder), (second, head)):
        alone = HfText.create(config, classes, 0, texts)
        own, y = alone.encode(texts), labels[classes]
        assert ("windows" in own) is (classes == BINARY)
        assert fit_head(found, encoded, y, groups) == fit_head(alone, own, y, groups)
        for e, rows in ((found, encoded), (alone, own)):
            learn_offsets(e, rows, y, groups, seed=0)
        assert found.window_offsets == alone.window_offsets
        held_out = [by_held_out_heads(e, x, y, groups, folds=3, seed=0) for e, x in ((found, encoded), (alone, own))]
        deployed = [by_head(found, encoded), by_head(alone, own)]
        again = [{name: e.encode(texts)[name] for name in ("features", "logits")} for e in (found, alone)]
        for ours, theirs in (held_out, deployed, again):
            assert all(torch.equal(ours[name], theirs[name]) for name in ("features", "logits"))
    assert (encoder.fingerprint() == HfText.create(config, first, 0, texts).fingerprint()) is (first == BINARY)
