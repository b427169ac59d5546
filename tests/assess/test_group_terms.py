"""Words that name a group are read by group or one a line, and found whole."""

import pytest

from bifocal.assess.group_terms import mentions, read_terms
from bifocal.errors import ConfigError


@pytest.fixture
def words(tmp_path):
    def write(text):
        path = tmp_path / "terms.txt"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_terms_are_read_by_group_or_one_a_line(words):
    path = words("# whom a post speaks of\n\nWomen: woman, WOMEN ,ｇｉｒｌ\nStraße\nWomen: trans women\n")
    assert read_terms(path) == {"Women": ["woman", "women", "girl", "trans women"], "Straße": ["strasse"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\nwomen:\n", r"line 2 names no term"), (": woman", "line 1 names no term"), ("# none\n", "holds no terms")],
)
def test_terms_that_are_none_are_refused(words, text, message):
    with pytest.raises(ConfigError, match=message):
        read_terms(words(text))


def test_a_file_of_terms_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.txt' cannot be read \(No such file or directory\)"):
        read_terms(tmp_path / "nowhere.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        read_terms(tmp_path / "latin.txt")


def test_words_are_found_whole_in_any_case_and_not_in_tags():
    texts = [
        "[OCR] WOMEN drive [/OCR] [CAP] [/CAP] <lang=en>",
        "[OCR] womenfolk [/OCR] [CAP] a man [/CAP] <lang=en>",
        "[OCR] Trans-women, men [/OCR] [CAP] [/CAP] <lang=en>",
        "[OCR] [/OCR] [CAP] c++ in der STRASSE [/CAP] <lang=de>",
        "",
    ]
    terms = {"women": ["women"], "men": ["men", "man"], "tags": ["ocr", "lang", "de"], "odd": ["c++", "strasse"]}
    found = {group: rows.tolist() for group, rows in mentions(texts, terms).items()}
    assert found == {
        "women": [True, False, True, False, False],
        "men": [False, True, True, False, False],
        "tags": [False] * 5,
        "odd": [False, False, False, True, False],
    }
