"""Near-duplicates are found by picture AND text, all of them, and large templates cost little."""

import io
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageDraw

from bifocal.data.dedup import NEAR_BITS, duplicate_groups
from bifocal.errors import DataError
from bifocal.modalities.image import Image
from bifocal.modalities.text import compose


def flipped(pdq, bits):
    """The hash with some of its bits turned over."""
    value = int(pdq, 16)
    for bit in bits:
        value ^= 1 << int(bit)
    return f"{value:064x}"


def random_hashes(n, seed=0):
    return [row.tobytes().hex() for row in np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)]


def groups(texts, hashes=None, own=None):
    n = len(texts)
    return duplicate_groups([str(i) for i in range(n)], texts, hashes or [None] * n, own or [None] * n)


A, B = random_hashes(2)
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa"


def test_same_picture_and_same_words_are_one_group_named_after_its_first_row():
    assert groups(["cat", "so true", "so true", "dog"], [A, B, flipped(B, range(9)), A]) == ["0", "1", "1", "3"]


def test_one_template_with_different_captions_is_not_one_post():
    assert groups(["so true", "very wrong", "a b c d", ""], [A] * 4) == list("0123")


def test_near_pictures_without_words_are_one_post():
    texts = [compose("", "", "und"), "", compose("", "?!", "und")]
    assert groups(texts, [A, flipped(A, range(20)), A]) == ["0", "0", "0"]


def test_rows_without_pictures_and_words_are_not_alike():
    assert groups(["", "", compose("", "", "und")]) == ["0", "1", "2"]


@pytest.mark.parametrize(("bits", "together"), [(NEAR_BITS, True), (NEAR_BITS + 1, False)])
@pytest.mark.parametrize("spread", ["in a row", "over all bands"])
def test_pictures_are_near_up_to_31_bits(bits, together, spread):
    places = range(bits) if spread == "in a row" else [(i * 16 + i // 16) % 256 for i in range(bits)]
    assert len(set(places)) == bits
    assert (len(set(groups(["so true"] * 2, [A, flipped(A, places)]))) == 1) == together


@pytest.mark.parametrize(
    ("other", "together"),
    [
        (WORDS + " lambda", True),  # 20 / 21
        (WORDS.replace("zeta", "zulu"), True),  # 18 / 20, just so
        (WORDS.replace("zeta eta", "zulu echo"), False),  # 16 / 20
        ("kappa " + WORDS.removesuffix(" kappa"), True),  # moved: nine of ten still match in order
        (" ".join(sorted(WORDS.split(), key=len)), False),  # the same words in another order
        (WORDS.upper().replace(" ", ", "), True),
    ],
)
def test_texts_are_near_equal_from_nine_tenths_of_their_words(other, together):
    assert (len(set(groups([WORDS, other], [A, flipped(A, range(10))]))) == 1) == together


def test_near_equal_texts_with_unlike_pictures_are_two_posts():
    assert groups([WORDS, WORDS + " lambda"], [A, B]) == ["0", "1"]


def test_identical_texts_join_from_three_words_on_whatever_the_picture_block_or_language():
    texts = [compose("so very true", "", "en"), compose("", "So, VERY true!", "nl"), "so true", "so true"]
    assert groups(texts, [A, None, A, B]) == ["0", "0", "2", "3"]


def test_scripts_without_spaces_and_with_vowel_signs_are_told_apart():
    assert groups(["今天天气很好", "今天天气很好", "今天天气很坏"]) == ["0", "0", "2"]
    assert groups(["की की की", "का का का"]) == ["0", "1"]


def test_own_groups_join_and_duplicates_chain():
    texts = ["cat", "so true", "so true", "dog", "x y z", "x y z"]
    hashes = [A, A, flipped(A, range(25)), None, None, None]
    assert groups(texts, hashes, ["q", None, "w", "w", "q", None]) == ["0", "1", "1", "1", "0", "0"]
    chain = [flipped(A, range(20 * step)) for step in range(5)]  # the ends are 80 bits apart
    assert groups([""] * 5, chain) == ["0"] * 5


def test_a_recompressed_meme_joins_its_original_and_another_caption_on_it_does_not():
    def meme(caption):
        generator = np.random.default_rng(3)
        picture = Pillow.fromarray(generator.integers(0, 255, (9, 9, 3), dtype=np.uint8)).resize((500, 460))
        ImageDraw.Draw(picture).text((20, 20), caption, fill="white")
        return picture

    def pdq(picture, **options):
        buffer = io.BytesIO()
        picture.save(buffer, **options)
        return Image().facts(buffer.getvalue())["pdq"]

    captions = [
        "when the code compiles at once",
        "when the code compiles at once",
        "nobody expects this in the morning",
    ]
    hashes = [
        pdq(meme(captions[0]), format="PNG"),
        pdq(meme(captions[1]).resize((311, 290)), format="JPEG", quality=60),
        pdq(meme(captions[2]), format="PNG"),
    ]
    assert groups(captions, hashes) == ["0", "0", "2"]
    assert groups(["", "", "some"], hashes) == ["0", "0", "2"]


words = st.lists(st.sampled_from(list("abcdef")), max_size=14).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(words, st.lists(st.integers(0, 255), max_size=24)), min_size=2, max_size=25))
def test_no_pair_is_missed_and_none_invented(rows):
    """Against the definition, pair by pair."""
    from difflib import SequenceMatcher

    texts, hashes = [text for text, _ in rows], [flipped(A, bits) for _, bits in rows]
    labels = list(range(len(rows)))
    for i in range(len(rows)):
        for j in range(i):
            a, b = sorted((texts[i].split(), texts[j].split()))
            near = (int(hashes[i], 16) ^ int(hashes[j], 16)).bit_count() <= NEAR_BITS
            if (a == b and len(a) >= 3) or (near and SequenceMatcher(None, a, b, autojunk=False).ratio() >= 0.9):
                old, new = max(labels[i], labels[j]), min(labels[i], labels[j])
                labels = [new if label == old else label for label in labels]
    assert groups(texts, hashes) == [str(label) for label in labels]


def test_planted_pairs_among_twenty_thousand_pictures_are_all_found():
    n, planted = 20_000, 200
    generator = np.random.default_rng(1)
    hashes = random_hashes(n)
    for k in range(planted):
        hashes[n - 1 - k] = flipped(
            hashes[k], generator.choice(256, generator.integers(0, NEAR_BITS + 1), replace=False)
        )
    found = groups([""] * n, hashes)
    assert all(found[n - 1 - k] == str(k) for k in range(planted))
    assert len(set(found)) == n - planted


@pytest.mark.parametrize("noise", [0, 10])
def test_five_thousand_captions_on_one_template_take_seconds_and_stay_apart(noise):
    generator = np.random.default_rng(2)
    n = 5_000
    vocabulary = [f"word{i}" for i in range(300)]
    texts = [" ".join(generator.choice(vocabulary, generator.integers(5, 10))) for _ in range(n)]
    hashes = [flipped(A, generator.choice(256, noise, replace=False)) for _ in range(n)]
    texts[-1], hashes[-1] = texts[0], flipped(hashes[0], [7])
    start = time.process_time()
    found = groups(texts, hashes)
    assert time.process_time() - start < 15  # 1 s; comparing all pairs of captions takes minutes
    assert found[-1] == "0" and len(set(found)) == len(set(texts))


def test_thousands_of_variants_of_one_post_take_seconds_and_become_one_group():
    generator = np.random.default_rng(3)
    hashes = [flipped(A, generator.choice(256, 8, replace=False)) for _ in range(1500)]
    texts = [f"{WORDS} {WORDS} misread{n}" for n in range(1500)]
    start = time.process_time()
    assert set(groups(texts, hashes)) == {"0"}
    assert set(groups([""] * 1500, hashes)) == {"0"}
    assert time.process_time() - start < 10  # 1 s; every pair by difflib takes minutes


def test_a_broken_hash_is_named():
    with pytest.raises(DataError, match="row '1': a PDQ hash has 64 hex digits, found 'xyz'"):
        groups(["a", "b"], [A, "xyz"])


def test_nothing_gives_nothing():
    assert duplicate_groups([], [], [], []) == []


def test_texts_are_held_as_numbers():
    generator = np.random.default_rng(4)
    n = 5_000
    texts = [" ".join(f"word{w}" for w in generator.integers(0, 3_000, 15)) for _ in range(n)]
    hashes = random_hashes(n)
    tracemalloc.start()
    assert len(set(groups(texts, hashes))) == n
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000 * n  # bytes; as strings they take more than 4,000 each


def test_the_order_of_rows_does_not_change_what_is_alike():
    generator = np.random.default_rng(5)
    texts = [" ".join(generator.choice(list("abcdefghijk"), generator.integers(8, 14))) for _ in range(200)]
    texts += [text.replace("a", "b", 1) for text in texts]
    found = groups(texts, [A] * 400)
    order = generator.permutation(400)
    again = groups([texts[i] for i in order], [A] * 400)
    pairs = {frozenset(i for i in range(400) if found[i] == name) for name in set(found)}
    assert pairs == {frozenset(int(order[i]) for i in range(400) if again[i] == name) for name in set(again)}
    assert 1 < len(pairs) < 400
