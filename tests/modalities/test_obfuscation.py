import unicodedata
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifocal.modalities._obfuscation import LOOKALIKES, as_displayed, join_spaced_letters, unify_scripts
from bifocal.modalities.text import clean

SENTENCES = {
    "ru": "Сегодня утром мы долго шли вдоль реки, а потом я и он сели у окна. Рост цен — тема для споров!",
    "uk": "Її дім стоїть біля річки; сьогодні в Києві йде дощ, і ми п'ємо чай з медом.",
    "el": "Η Ελλάδα είναι μια όμορφη χώρα· σήμερα ο καιρός είναι καλός και ο ήλιος λάμπει.",
    "ar": "ذهبت اليوم إلى السوق، واشتريت كتابا جديدا و تفاحتين.",
    "hi": "आज सुबह हम नदी के किनारे टहलने गए और फिर चाय पी।",
    "zh": "今天早上我们沿着河边散步,然后一起喝茶。我 和 你 都 很 高 兴",
    "ja": "今日は新しいTシャツとUSBケーブルを買いました。とても嬉しいです!",
    "tr": "Iğdır'da kışın hava çok soğuk olur; İstanbul'da ise ılık geçer. Şu ağaç yaşlı.",
    "vi": "Hôm nay trời đẹp, chúng tôi đi dạo bên bờ sông. Ở đó có ý kiến gì à? Ừ, ổn.",
    "de": "Übermäßig große Äpfel kosten z. B. 5 €, d. h. u. U. mehr als üblich; i. d. R. 3 kΩ bei 10 μm.",
    "en": "I am a fan of the U.S.S.R. and M.A.S.H., e.g. on Wi-Fi, 24/7; it's a B-side by R.E.M. and AC/DC.",
    "he": "היום בבוקר הלכנו לאורך הנהר ושתינו תה עם דבש.",
}  # fmt: skip


@pytest.mark.parametrize("language", SENTENCES)
def test_honest_text_is_left_alone(language):
    sentence = SENTENCES[language]
    assert clean(sentence) == unicodedata.normalize("NFKC", sentence)


@pytest.mark.parametrize(
    ("disguised", "meant"),
    [
        ("fr\u0435e", "free"),  # Cyrillic е
        ("раураl", "paypal"),  # one Latin letter left, and nothing tells: Latin
        ("g\u03bf\u03bfd w\u043erds", "good words"),  # Greek and Cyrillic о
        ("Kαλημέρα", "Καλημέρα"),  # Latin K in a Greek word
        ("пoгoда", "погода"),  # Latin o in a Russian word
        ("вся сoсна шумит", "вся сосна шумит"),  # н tells, though о and с do not
        ("там рoсa и гроза", "там роса и гроза"),  # nothing in the word tells, the text does
        ("hᎪte ꓐad", "hAte Bad"),  # Cherokee, Lisu
        ("D\u041eN'\u0422 \u0406'm U.\u0405. he'\u0455", "DON'T I'm U.S. he's"),
        ("АLL CAРS НЕRE", "ALL CAPS HERE"),
        ("&#1072;pple", "apple"),
        ("f\u200br\u0435\u200be", "free"),
        ("\u202eе\u0435rf", "free"),
    ],
)
def test_words_of_several_scripts_are_written_in_one(disguised, meant):
    assert clean(disguised) == meant


@pytest.mark.parametrize(
    "word",
    ["рау", "сосо", "ХОР", "οινος", "ITшный-кабинет", "Tシャツ", "kΩ", "ışık", "naïve", "Wi-Fi-роутер", "сайт.com"],
)
def test_a_word_of_one_script_and_a_letter_without_a_twin_stay(word):
    assert unify_scripts(word).translate(str.maketrans("ІТ", "IT")) == word


@pytest.mark.parametrize(
    ("spaced", "joined"),
    [
        ("so f r e e", "so free"),
        ("f r e e  s t u f f", "free stuff"),  # the wider gap divides
        ("F R E E!", "FREE!"),
        ("f.r.e.e", "free"),
        ("k-i-l-l k_i_l_l k*i*l*l", "kill kill kill"),
        ("с л о в о", "слово"),
        ("f\u200b r e e", "free"),
        ("l a n g", "lang"),
    ],
)
def test_spaced_out_letters_are_joined(spaced, joined):
    assert clean(spaced) == joined


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("so \u202eeerf\u202c now", "so free now"),
        ("\u202e(eerf)!", "!(free)"),  # to the end of the line, brackets mirrored
        ("\u202ee\u0301te\u0301\u202c", "été"),  # a mark stays on its letter
        ("\u202eשלום\u202c", "שלום"),  # runs that way anyway
        ("e\u202err\u202ce", "erre"),
        ("&#8238;eerf&#8236;", "free"),
        ("\u2067free\u2069 \u202afree\u202c fr\u200eee", "free free free"),  # no override: shown as it is
    ],
)
def test_what_is_shown_in_reverse_is_turned_round(written, seen):
    assert clean(written) == seen


@pytest.mark.parametrize(
    "text",
    [
        "a b c",  # three may be anything
        "我 是 学 生 吗",
        "ก ข ค ง",
        "1 2 3 4 5",
        "x-y z",
        "U.S.S.R.",
        "www.a.b.c.example.org",
        "to-a-b-c-d",
        "vitamins A, B, C, D",
        "a - b - c - d",
    ],
)
def test_what_is_not_spelled_out_stays(text):
    assert clean(text) == text


def test_a_tag_cannot_be_forged_by_spacing_or_look_alikes():
    assert clean("[О\u0421R] <l a n g=en> [ОCR]") == "(OCR) (lang=en> (OCR)"


LETTERS = "".join(own + latin for own, latin in LOOKALIKES.values()) + "пкяθΩßéğтшабвabcdefghijklmnopqrstuvwxyz"


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(LETTERS + " .-_*1&")))
def test_cleaning_mixed_scripts_again_changes_nothing(text):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert len(unify_scripts(text)) == len(text)


def test_every_look_alike_is_a_letter_of_its_script_and_stands_once():
    for script, (own, latin) in LOOKALIKES.items():
        assert len(own) == len(latin) == len(set(own))
        assert all(unicodedata.name(letter).startswith(script) for letter in own)
        assert latin.isascii() and latin.isalpha()
        assert unicodedata.normalize("NFKC", own) == own


def test_the_time_grows_with_the_length_alone():
    begun = process_time()
    for hostile in (
        "a " * 50_000,
        "a.b-" * 25_000,
        "fr\u0435e " * 20_000,
        "\u0430b" * 50_000,
        "a." * 50_000,
        "\u202ea" * 50_000,
        "\u202e" + "a" * 99_999,
    ):
        unify_scripts(join_spaced_letters(as_displayed(hostile)))
    assert process_time() - begun < 3
