"""Letters that look like those of another script, and letters spaced out: undone where no honest writer means them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

# Letters of other scripts, and the Latin letter that each looks like: the single letters of these scripts which
# Unicode's confusables.txt (UTS #39, version 15.1, as in the package confusable_homoglyphs 3.3.1) traces back to an
# ASCII letter. Capitals that it traces back to "l" stand here for "I".
LOOKALIKES = {
    "CYRILLIC": ("ЅІЈАВЕКМНОРСТУХЬагеорсухѕіјѡѴѵҮүһҽӀӏԁԌԛԜԝꙇ", "SIJABEKMHOPCTYXbareopcyxsijwVvYyheIidGqWwi"),
    "GREEK": ("ͿΑΒΕΖΗΙΚΜΝΟΡΤΥΧαγινορσυϜϳϺᴦ", "JABEZHIKMNOPTYXayivopouFjMr"),
    "COPTIC": ("ⲅⲎⲒⲔⲘⲚⲞⲟⲢⲣⲤⲥⲦⲨⲬⳐ", "rHIKMNOoPpCcTYXL"),
    "ARMENIAN": ("ՍՏՕագզհոռսցքօ", "USOwqqhnnugfo"),
    "CHEROKEE": ("ᎠᎡᎢᎥᎩᎪᎫᎬᎳᎷᎻᎽᏀᏂᏃᏏᏒᏔᏕᏙᏚᏞᏟᏢᏦᏧᏳᏴꭵꮁꮃꮓꮩꮪꮯ", "DRTiYAJEWMHYGhZbRWSVSLCPKdGBirwzvsc"),
    "LISU": ("ꓐꓑꓒꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ", "BPdDTGKJCZFMNLSRVHWXYAElOU"),
    "CANADIAN": ("ᐯᑌᑭᑯᑲᒍᒪᕁᕼᕽᖇᖯᖴᗅᗞᗪᗰᗷ", "VUPdbJLxHxRbFADDMB"),
}
LATIN = "LATIN"
_SCRIPTS = {LATIN, *LOOKALIKES}
_PROTOTYPES = {letter: latin for pairs in LOOKALIKES.values() for letter, latin in zip(*pairs, strict=True)}
_TWINS = {script: dict(zip(latin[::-1], own[::-1], strict=True)) for script, (own, latin) in LOOKALIKES.items()}
"""Script -> Latin letter -> its look-alike there: of several the first, which is the commonest."""

_WORD = re.compile(r"[^\W\d_]+")
_SPACED = re.compile(r"(?<!\w)[^\W\d_](?: [^\W\d_]){3,}(?!\w)")
_DIVIDED = re.compile(r"(?<!\w)(?<!\w[.\-_*])[^\W\d_]([.\-_*])[^\W\d_](?:\1[^\W\d_]){2,}(?!\w|\1\w)")


def one_script(text: str) -> str:
    """Words of several scripts in one of them, where their letters have look-alikes in it (UTS #39, section 5).

    A word is written in the script in which letters stand that none of its other scripts could show; where there are
    none, or as many in several, the whole text decides likewise, and in doubt it is Latin. A word of one script is
    never touched, whatever it looks like: Cyrillic and Greek texts stay as they are, and so does a word of which every
    letter was replaced. Letters without a look-alike stay too (the ``k`` of ``kΩ``).

    >>> one_script("fr\u0435e \u0440\u0430\u0443")
    'free рау'
    """
    if text.isascii():
        return text
    words = _WORD.findall(text)
    if not any(len(_scripts(word)) > 1 for word in words if not word.isascii()):
        return text
    present = set().union(*map(_scripts, words))
    home = Counter(_script(letter) for word in words for letter in word if _tells(letter, present))
    return _WORD.sub(lambda match: _resolved(match[0], home), text)


def _resolved(word: str, home: Counter[str]) -> str:
    scripts = set() if word.isascii() else _scripts(word)
    if len(scripts) < 2:
        return word
    told = Counter(_script(letter) for letter in word if _tells(letter, scripts))
    best = max(scripts, key=lambda script: (told[script], home[script], script == LATIN, script))
    return "".join(_shown(letter, best) or letter for letter in word)


def _tells(letter: str, scripts: set[str]) -> bool:
    """Whether a letter's own script is the only one of these that can show it."""
    own = _script(letter)
    return own in scripts and not any(_shown(letter, script) for script in scripts - {own})


def _shown(letter: str, script: str) -> str | None:
    """A letter of one of the scripts as another can show it; None where it cannot."""
    latin = _PROTOTYPES.get(letter, letter)
    if script == LATIN:
        return latin if letter in _PROTOTYPES else None
    return _TWINS[script].get(latin)


@lru_cache(4096)
def _script(letter: str) -> str:
    """First word of a letter's name in Unicode, which for the scripts at hand is the script's."""
    return unicodedata.name(letter, "").partition(" ")[0]


def _scripts(word: str) -> set[str]:
    return {script for letter in set(word) if (script := _script(letter)) in _SCRIPTS}


def unspaced(text: str) -> str:
    """Four or more single letters in a row, one space or one of ``. - _ *`` between them, as the word they spell.

    Only letters that have a case: in Chinese, Japanese or Thai a single letter may be a word. Dotted capitals
    (``U.S.S.R.``) are an abbreviation and stay. A wider gap divides words, so this goes before white space is folded.

    >>> unspaced("so f r e e  h-a-t-s of the U.S.S.R.")
    'so free  hats of the U.S.S.R.'
    """
    return _DIVIDED.sub(_joined, _SPACED.sub(_joined, text))


def _joined(match: re.Match[str]) -> str:
    letters = match[0][::2]
    cased = all(letter.lower() != letter.upper() for letter in letters)
    return match[0] if not cased or (match[0][1] == "." and letters.isupper()) else letters
