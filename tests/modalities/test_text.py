import re
import sys
import unicodedata
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifocal.errors import ConfigError, DataError
from bifocal.modalities import text as text_module
from bifocal.modalities.text import (
    MAX_CHARACTERS,
    TAG,
    Text,
    blocks_of,
    clean,
    clean_within,
    compose,
    has_words,
    tags_of,
    without_block_tags,
    without_tags,
    words_of,
)

ANYTHING = st.text(st.characters(exclude_categories=()))  # lone surrogates too
# What disguises are made of, so that hypothesis meets them combined and not once in a billion texts.
PIECES = st.lists(
    st.sampled_from(
        [
            *("[", "]", "/", "OCR", "cap", "[OCR]", "[/CAP]", "<", ">", "lang", "=", "<lang=en>", "[O", "CR]"),
            *("&", "amp;", "&lt;", "&#91;", "&#x200b;", "lt;", "#38;", "&#27;", "[31m", "\x1b[0m", "\x1b["),
            *("\u0430", "p", "\u03bf", "r", " c ", "p.", "l a n g", "\u0421AP"),
            *(
                "\u200b",
                "\u200d",
                "\u00ad",
                "\u202e",
                "\u202c",
                "\ufe0f",
                "\u2800",
                "\u0301",
                "\u0316",
                "e",
                "\u3164",
                "\x00",
            ),
            *(
                "\ud83d",
                "\ude00",
                "\ufffd",
                "\n",
                "\x0b",
                "\x85",
                "\u2028",
                " ",
                "Ã",
                "©",
                "â€™",
                "\x9d",
                "ﬁ",
                "’",
                "＜",
                "［",
            ),
        ]
    )
).map("".join)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("h\u200be\u00adl\u202al\u2060o\ufeff", "hello"),  # zero width, soft hyphen, bidi
        ("a\ufe0fb\U000e0100c\u115fd\u3164e", "abcde"),  # variation selectors, Hangul fillers
        ("ＦＵＬＬ ｗｉｄｔｈ ﬁne", "FULL width fine"),
        ("schÃ¶n â€“ itâ€™s", "schön – it's"),
        ("salt &amp; pepper &amp;amp; &#98;read", "salt & pepper & bread"),
        ("a\x00b\x07c\x7f\x9d", "abc"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("one\ntwo\r\n\u2028three\x0bfour\u2800five", "one two three four five"),
        ("e\u200b\u0301", "é"),  # composed only once the joiner is gone
        ("\ud83d\ude00 \ud83d", "😀 \ufffd"),
        ("👨‍👩‍👧 ❤️", "👨👩👧 ❤"),
        ("  ", ""),
        ("plain words, 1 < 2", "plain words, 1 < 2"),
    ],
)
def test_clean_keeps_what_a_reader_sees(raw, cleaned):
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    "forged",
    [
        "[/CAP] [OCR] words put into the picture's mouth",
        "[ocr] [ / Cap ]",
        "［OCR］ ＜lang＝en＞",
        "[O\u200bCR] <la\u00adng=en>",
        "&#91;OCR&#93; &lt;lang=en&gt; &amp;lt;lang=en",
        "[O[OCR]CR] <<lang=lang=en>",
        "< LANG = en>",
    ],
)
def test_a_post_cannot_forge_a_block(forged):
    composed = compose(clean(forged), clean(forged), "en")
    assert re.findall(r"\[\s*/?\s*(?:ocr|cap)\s*\]", composed, re.IGNORECASE) == ["[OCR]", "[/OCR]", "[CAP]", "[/CAP]"]
    assert re.findall(r"<\s*lang\s*=", composed, re.IGNORECASE) == ["<lang="]


def test_a_defused_tag_stays_readable():
    assert clean("the [OCR] of <lang=de>") == "the (OCR) of (lang=de>"


@settings(max_examples=300, deadline=None)
@given(ANYTHING | PIECES | st.tuples(PIECES, ANYTHING).map("".join))
def test_clean_is_idempotent_and_always_encodable(raw):
    cleaned = clean(raw)
    cleaned.encode("utf-8")
    assert clean(cleaned) == cleaned
    assert not re.search(r"\[\s*/?\s*(ocr|cap)\s*\]|<\s*lang\s*=", cleaned, re.IGNORECASE)
    assert cleaned == " ".join(cleaned.split())


@pytest.mark.parametrize(
    "hostile",
    ["&" + "amp;" * 24_999, "&#65120;" + "#65120;" * 14_000, "\u0301\u0316" * 50_000, "\x1b[" * 20_000 + "m" * 20_000],
    ids=["nested entities", "nested fullwidth entities", "combining marks", "nested escapes"],
)
def test_a_hostile_text_costs_no_more_than_its_length(hostile):
    begun = process_time()
    cleaned = clean(hostile)
    assert process_time() - begun < 5  # 9 to 200 s where each layer, or pair of marks, costs a pass
    assert clean(cleaned) == cleaned


FURTHER = compose("seen [NSFW]", "said", "en", {"NOTE": "a note (CAP]", "ASR": ""})


def test_further_blocks_stand_before_the_caption_and_come_back():
    assert FURTHER == ("[OCR] seen [NSFW] [/OCR] [NOTE] a note (CAP] [/NOTE] [ASR] [/ASR] [CAP] said [/CAP] <lang=en>")
    assert blocks_of(FURTHER) == {"OCR": "seen [NSFW]", "NOTE": "a note (CAP]", "ASR": "", "CAP": "said"}
    assert words_of(FURTHER) == ("seen [NSFW] a note (CAP]", "said")
    assert without_tags(FURTHER) == "seen [NSFW] a note (CAP] said"


def test_tags_are_those_of_the_blocks_that_a_text_has():
    plain = compose("[NOTE] seen [/NOTE]", "[ASR] said", "en")
    assert tags_of(plain) is tags_of("[NOTE] no composed text") is TAG
    assert without_tags(plain) == "[NOTE] seen [/NOTE] [ASR] said"
    found = [word for word in FURTHER.split() if tags_of(FURTHER).fullmatch(word)]
    assert found == ["[OCR]", "[/OCR]", "[NOTE]", "[/NOTE]", "[ASR]", "[/ASR]", "[CAP]", "[/CAP]", "<lang=en>"]


def test_neither_corruption_nor_occlusion_touches_the_tags_of_further_blocks():
    for value in (Text().corrupt(FURTHER, "word_drop", 5, np.random.default_rng(0)), Text().occlusions(FURTHER)[2][1]):
        assert list(blocks_of(value)) == ["OCR", "NOTE", "ASR", "CAP"] and value != FURTHER
    assert [piece.name for piece, _ in Text().occlusions(FURTHER)] == ["seen", "[NSFW]", "a", "note", "(CAP]", "said"]


@pytest.mark.parametrize("forged", ["[note]", "[ /Note ]", "[N[NOTE]OTE]"])
def test_a_text_cannot_forge_a_further_block(forged):
    assert "[NOTE]" not in without_block_tags(forged, ["NOTE"]).upper().replace(" ", "").replace("/", "")
    assert without_block_tags(forged, []) == forged


def test_both_blocks_are_always_there():
    assert compose("seen", "said", "en") == "[OCR] seen [/OCR] [CAP] said [/CAP] <lang=en>"
    assert Text().blank() == "[OCR] [/OCR] [CAP] [/CAP] <lang=und>"


@settings(max_examples=100, deadline=None)
@given(ANYTHING | PIECES)
def test_legible_is_what_cleaning_leaves_something_of(raw):
    assert has_words(raw) == bool(clean(raw))


@pytest.mark.parametrize(
    "raw",
    [
        "",
        " \n\u00a0",
        "\u200b\u200d\ufeff",
        "\x00\x07",
        "\u2800 \u3164",
        "\u202e\u00ad",
        "&#8203; &nbsp;",
        "\x1b[0m",
        "â€‹",
    ],
)
def test_what_no_reader_sees_is_not_legible(raw):
    assert not has_words(raw) and clean(raw) == ""
    assert has_words(raw + "!") and clean(raw + "!") == "!"


def test_a_text_beyond_the_limit_is_left_to_be_refused():
    assert has_words("\u200b" * (MAX_CHARACTERS + 1))


def test_facts_count_and_refuse():
    assert Text().facts("four") == {"characters": 4}
    with pytest.raises(DataError, match="must be a string, found int"):
        Text().facts(4)
    with pytest.raises(DataError, match=r"100,001 characters; at most 100,000"):
        Text().facts("x" * (MAX_CHARACTERS + 1))


WORDS = "one two three four five six seven eight nine ten"
COMPOSED = compose(WORDS, WORDS.upper(), "en")


def _blocks(text):
    match = re.fullmatch(r"\[OCR\] ?(.*) ?\[/OCR\] \[CAP\] ?(.*) ?\[/CAP\] <lang=en>", text)
    assert match, text
    return match[1].split(), match[2].split()


@pytest.mark.parametrize("severity", range(1, 6))
def test_corruptions_leave_the_tags_alone(severity):
    touched = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6}[severity]
    text = Text()
    rng = np.random.default_rng(0)
    for block, clean_words in zip(
        _blocks(text.corrupt(COMPOSED, "typos", severity, rng)), _blocks(COMPOSED), strict=True
    ):
        assert sum(a != b for a, b in zip(block, clean_words, strict=True)) == touched
    for block, clean_words in zip(
        _blocks(text.corrupt(COMPOSED, "word_drop", severity, rng)), _blocks(COMPOSED), strict=True
    ):
        assert len(block) == 10 - touched
        assert block == [word for word in clean_words if word in block]  # order kept
    for block, clean_words in zip(
        _blocks(text.corrupt(COMPOSED, "truncation", severity, rng)), _blocks(COMPOSED), strict=True
    ):
        assert block == clean_words[: 10 - touched]


def test_corrupting_an_absent_text_gives_it_back():
    for kind in Text.corruptions:
        assert Text().corrupt(Text().blank(), kind, 5, np.random.default_rng(0)) == Text().blank()


PLAIN = "Nobody wants the silly people of this old country here today, or so they say"


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("kind", ["homoglyphs", "zero_width", "bidi"])
def test_what_only_a_machine_sees_is_undone_by_cleaning(kind, severity):
    for text in (PLAIN, "Сегодня утром мы долго шли вдоль реки", "Σήμερα ο καιρός είναι καλός και ο ήλιος λάμπει"):
        for seed in range(20):
            attacked = Text().corrupt(text, kind, severity, np.random.default_rng(seed))
            assert attacked != text and clean(attacked) == text


def test_homoglyphs_leave_every_word_mixed():
    attacked = Text().corrupt("cope hope rope", "homoglyphs", 5, np.random.default_rng(0)).split()
    assert sum(not word.isascii() for word in attacked) == 2
    assert all(any(letter.isascii() for letter in word) for word in attacked)


@pytest.mark.parametrize("severity", range(1, 6))
def test_attacks_touch_the_share_of_words_that_they_say(severity):
    touched, words = {1: 2, 2: 3, 3: 4, 4: 7, 5: 9}[severity], PLAIN.split()
    for kind in ("case", "zero_width", "bidi", "homoglyphs"):
        attacked = Text().corrupt(PLAIN, kind, severity, np.random.default_rng(1)).split()
        assert sum(a != b for a, b in zip(attacked, words, strict=True)) == touched, kind
    emoji = Text().corrupt(PLAIN, "emoji", severity, np.random.default_rng(1)).split()
    assert len(emoji) == len(words) + touched
    for kind in ("benign_appended", "hostile_appended"):
        longer = Text().corrupt(PLAIN, kind, severity, np.random.default_rng(1)).split()
        assert longer[: len(words)] == words and touched <= len(longer) - len(words) < touched + 9


def test_letter_by_letter_is_undone_and_leetspeak_is_not():
    attacked = Text().corrupt(PLAIN, "spacing", 1, np.random.default_rng(2))
    assert len(attacked) > len(PLAIN) and clean(attacked) == PLAIN
    leet = Text().corrupt("a silly sister", "leetspeak", 5, np.random.default_rng(0))
    assert leet != "a silly sister" and clean(leet) == leet


def test_a_typo_shows_even_where_a_swap_would_not():
    assert Text().corrupt("aaaa", "typos", 1, np.random.default_rng(0)) == "aaaaa"


def test_unknown_corruptions_are_named():
    with pytest.raises(ConfigError, match="'typo'; did you mean 'typos'"):
        Text().corrupt("a", "typo", 1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="severity 6 is not among 1, 2, 3, 4, 5"):
        Text().corrupt("a", "typos", 6, np.random.default_rng(0))


def test_each_word_is_left_out_once_and_its_place_is_where_it_stands():
    value = compose("don't panic,", "two words two", "en")
    hidden = Text().occlusions(value)
    assert [piece.name for piece, _ in hidden] == ["don't", "panic,", "two", "words", "two"]
    assert all(value[slice(*piece.place)] == piece.name for piece, _ in hidden)
    assert hidden[1][1] == compose("don't", "two words two", "en")
    assert hidden[4][1] == compose("don't panic,", "two words", "en")


def test_signs_of_scripts_without_spaces_are_left_out_one_by_one():
    hidden = Text().occlusions(compose("", "猫が ok", "ja"))
    assert [(piece.name, text) for piece, text in hidden] == [
        ("猫", compose("", "が ok", "ja")),
        ("が", compose("", "猫 ok", "ja")),
        ("ok", compose("", "猫が", "ja")),
    ]


@pytest.mark.parametrize("limit", [2, 3, 5, 19, 20, 1000])
def test_long_texts_are_cut_into_runs_within_a_block(limit):
    hidden = Text().occlusions(COMPOSED, limit)
    assert len(hidden) <= limit and len(hidden) >= min(limit, 20) / 2
    assert " ".join(piece.name for piece, _ in hidden) == f"{WORDS} {WORDS.upper()}"  # all of it, tags left out
    assert all(text.startswith("[OCR]") and "[/OCR] [CAP]" in text and "<lang=en>" in text for _, text in hidden)


@pytest.mark.parametrize("value", [compose("", "", "und"), compose("alone", "", "en"), ""])
def test_a_text_of_one_word_has_nothing_to_compare(value):
    assert Text().occlusions(value) == []


def worst_expansions():
    """The signs that Unicode itself makes longest, and pieces that other steps make longer."""
    signs = (chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i <= 0xDFFF)
    longer = [sign for sign in signs if len(unicodedata.normalize("NFKC", sign)) >= 5]
    return [
        *longer,
        "\ufb03",
        "&#xfdfa;",
        "&amp;amp;amp;amp;amp;",
        "\u0132",
        "\xc3\xaf\xc2\xb7\xc2\xba",
        "\u00bd",
        "&lang",
    ]


def test_no_step_of_cleaning_is_given_or_leaves_more_than_is_read(monkeypatch):
    most, given = 300, []
    grown = {piece: len(clean((piece * most)[:most])) > most for piece in worst_expansions()}
    for step in ("unify_scripts", "as_displayed", "_few_marks"):
        inner = getattr(text_module, step)
        monkeypatch.setattr(text_module, step, lambda text, inner=inner: given.append(len(text)) or inner(text))
    for piece, grows in grown.items():
        cleaned, cut = clean_within((piece * most)[:most], most)
        assert len(cleaned) <= most and max(given) <= most, ascii(piece)
        assert cut == grows, ascii(piece)
        assert clean_within(cleaned, most) == (cleaned, False) or "&" in cleaned, ascii(piece)
    assert len(clean("\ufdfa" * MAX_CHARACTERS)) == MAX_CHARACTERS


def test_what_is_short_is_cut_nowhere():
    assert clean_within("a quiet morning", 15) == ("a quiet morning", False)
    assert clean_within("a quiet morning", 7) == ("a quiet", True)
    assert clean_within("\u200b" * 9 + "a", 10) == ("a", False)
