"""A long text is cut into windows that fit, overlap and hold all of its words; what they say is joined."""

from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bifocal.modalities.text import compose, without_tags
from bifocal.models.windows import LEAST, Splitter, Windows, fit_offsets, is_highest, join_windows

MOST_TOKENS = 64


def tokenizer():
    """Words are single tokens; of other scripts every sign is one."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(pattern("[一-龥]"), "isolated")]
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.enable_truncation(MOST_TOKENS)
    return made


def pattern(text):
    from tokenizers import Regex

    return Regex(text)


TOKENIZER = tokenizer()


def split(value, most=8) -> Windows:
    return Splitter(TOKENIZER.encode_batch, MOST_TOKENS - 2, most).split(value)


def words(n, name="w"):
    return " ".join(f"{name}{i}" for i in range(n))


def test_a_text_that_fits_is_one_window():
    value = compose("", words(57), "en")  # five tags and two special tokens fill it up
    assert len(TOKENIZER.encode(value).ids) == MOST_TOKENS
    assert split(value) == Windows((value,), ((0, len(value)),), True)


@pytest.mark.parametrize("n", [58, 100, 170, 250])
def test_windows_fit_hold_every_word_and_overlap(n):
    value = compose(words(20, "seen"), words(n - 20), "en")
    found = split(value)
    assert found.whole and 2 <= len(found.texts) <= 8
    held = [without_tags(text).split() for text in found.texts]
    assert list(dict.fromkeys(word for window in held for word in window)) == without_tags(value).split()
    assert all(set(one) & set(other) for one, other in pairwise(held))
    for text, (start, end) in zip(found.texts, found.places, strict=True):
        assert len(TOKENIZER.encode(text).ids) <= MOST_TOKENS and not TOKENIZER.encode(text).overflowing
        assert [t for t in text.split() if t[0] in "[<"] == ["[OCR]", "[/OCR]", "[CAP]", "[/CAP]", "<lang=en>"]
        assert without_tags(text) == without_tags(value[start:end])
    assert {len(window) for window in held} == {len(held[0])} and len(held[0]) >= LEAST


def test_what_is_beyond_the_last_window_is_told():
    value = compose("", words(1000), "en")
    found = split(value)
    assert len(found.texts) == 8 and not found.whole
    assert not split(value, most=1).whole and split(value, most=1).texts == (value,)
    assert not split(compose("", words(200), "en"), most=2).whole


def test_cuts_fall_between_words_or_between_signs_or_else_within():
    long = "一" * 300
    found = split(compose("", long, "zh"))
    assert found.whole is False or sum(len(without_tags(text)) for text in found.texts) >= 300
    assert all(len(TOKENIZER.encode(text).ids) <= MOST_TOKENS for text in found.texts)
    plain = split(words(100))
    assert plain.whole and all(word in words(100).split() for text in plain.texts for word in text.split())


def word_pieces():
    """Signs that stand alone, and pairs of them: a word that is cut apart is read in other pairs."""
    signs = "abcdefghij./"
    vocabulary = ["[UNK]", "[CLS]", "[SEP]", *signs]
    vocabulary += [f"##{piece}" for piece in (*signs, *(a + b for a in signs for b in signs))]
    made = Tokenizer(
        models.WordPiece({p: i for i, p in enumerate(vocabulary)}, unk_token="[UNK]", max_input_chars_per_word=10_000)
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = TOKENIZER.post_processor
    made.enable_truncation(MOST_TOKENS)
    return made


def test_windows_whose_cut_words_need_more_tokens_still_hold_every_sign():
    made, rng = word_pieces(), np.random.default_rng(0)
    values = ["".join(rng.choice(list("abcdefghij./"), 200 + 10 * i)) for i in range(20)]
    splitter = Splitter(made.encode_batch, MOST_TOKENS - 2, 8)
    encodings, counts = splitter.read(values)
    assert sum(counts) == len(encodings) and not any(encoding.overflowing for encoding in encodings)
    for value, count in zip(values, counts, strict=True):
        found = splitter.split(value)
        assert found.whole and count == len(found.texts) > 1
        held = {i for start, end in found.places for i in range(start, end)}
        assert held == set(range(len(value))) and all(
            value[a:b] == t for (a, b), t in zip(found.places, found.texts, strict=True)
        )
    without_end = Splitter(made.encode_batch, MOST_TOKENS - 2, 2).split(values[-1])
    assert not without_end.whole


def test_only_a_label_with_a_positive_class_has_a_highest_window():
    assert is_highest((0, 1)) and not is_highest((1, 0)) and not is_highest(("a", "b")) and not is_highest((0, 1, 2))


LOGITS = np.array([[0.0, 1.0], [1.0, -1.0], [0.5, 2.5], [0.0, 0.0]], np.float32)
FEATURES = np.arange(8, dtype=np.float32).reshape(4, 2)


def test_texts_of_one_window_are_left_to_the_bit():
    for highest in (True, False):
        found = join_windows({"features": FEATURES, "logits": LOGITS}, [1, 1, 1, 1], highest=highest)
        assert np.array_equal(found["features"], FEATURES) and np.array_equal(found["logits"], LOGITS)
        mixed = join_windows({"features": FEATURES, "logits": LOGITS}, [1, 2, 1], highest=highest)
        assert np.array_equal(mixed["features"][[0, 2]], FEATURES[[0, 3]])
        assert np.array_equal(mixed["logits"][[0, 2]], LOGITS[[0, 3]])
    assert join_windows({"logits": LOGITS[:0]}, [], highest=True)["logits"].shape == (0, 2)


def test_the_highest_window_speaks_for_a_text():
    found = join_windows({"features": FEATURES, "logits": LOGITS}, [3, 1], highest=True)
    assert np.array_equal(found["features"], FEATURES[[2, 3]]) and np.array_equal(found["logits"], LOGITS[[2, 3]])


def test_of_several_classes_the_mean_log_probability_counts():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = join_windows({"features": logits * 2, "logits": logits}, [3, 2], highest=False)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for row, part in ((0, logs[:3]), (1, logs[3:])):
        mean = np.exp(part.mean(axis=0))
        told = np.exp(found["logits"][row])
        assert np.allclose(told / told.sum(), mean / mean.sum(), atol=1e-6)
    assert np.allclose(found["features"], found["logits"] * 2, atol=1e-6)


def test_offsets_lower_several_windows_by_what_they_exceed_one():
    rng = np.random.default_rng(0)
    n = 40_000
    counts = rng.choice([1, 2, 3, 4, 8], n)
    labels = (rng.random(n) < 0.3).astype(int)
    # Every window of an innocent text, and all but one of an abusive one, are alike.
    odds = rng.normal(-1.5, 1, (n, 8))
    odds[labels == 1, 0] += 1.5
    odds[np.arange(8) >= counts[:, None]] = -np.inf
    highest = odds.max(axis=1)
    offsets = fit_offsets(highest, counts, labels, 8)
    assert len(offsets) == 8 and offsets[0] == 0 and offsets == sorted(offsets)
    assert offsets[2] == offsets[3] and offsets[4] == offsets[7] and 0 < offsets[1] < offsets[3] < offsets[7]
    lowered = highest - np.array(offsets)[counts - 1]
    flagged = {count: (lowered[(counts == count) & (labels == 0)] > 0).mean() for count in (1, 8)}
    before = (highest[(counts == 8) & (labels == 0)] > 0).mean()
    assert flagged[8] < 1.5 * flagged[1] < before
    columns = {"logits": np.array([[0, 1], [0, 2], [0, 3]], np.float32)}
    found = join_windows(columns, [1, 2], highest=True, offsets=offsets)["logits"]
    assert np.array_equal(found[0], [0, 1])
    assert found[1, 1] - found[1, 0] == pytest.approx(3 - offsets[1], abs=1e-6) and found[1].sum() == pytest.approx(3)


def test_offsets_need_texts_of_one_window_and_of_several():
    labels = np.array([0, 1] * 100)
    assert fit_offsets(np.zeros(200), np.ones(200, int), labels, 8) == []
    assert fit_offsets(np.zeros(200), np.full(200, 3), labels, 8) == []
    few = np.where(np.arange(200) < 30, 4, 1)
    assert fit_offsets(np.zeros(200), few, labels, 8) == []
    two = fit_offsets(np.where(np.arange(200) < 100, 1.0, 0.0), np.where(np.arange(200) < 100, 2, 1), labels, 4)
    assert two == pytest.approx([0, 1, 1, 1], abs=1e-6)  # of 3 and 4 windows as of 2
    unknown = np.where(np.arange(200) < 190, labels, -1)
    assert len(fit_offsets(np.zeros(200), np.arange(200) % 2 + 1, unknown, 2)) in (0, 2)
