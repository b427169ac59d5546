"""Disguises of words, undone where no honest writer means them: look-alike letters, spaced letters, reversed runs."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

# Letters of other scripts, and the Latin letter that each looks like: the single letters of these scripts which
# Unicode's confusables.txt (UTS #39; as the package confusable_homoglyphs 3.3.1 has it) traces back to an ASCII letter.
# Capitals that it traces back to "l" stand here for "I".
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

_OVERRIDDEN = re.compile("\u202e([^\u202a-\u202e\u2066-\u2069\n]*)(?:\u202c|$)", re.MULTILINE)
_MIRRORED = str.maketrans("()[]{}<>", ")(][}{><")
# Letters, around apostrophes too (don't), or single ones between full stops (U.S.). Hyphens join words of two scripts.
_WORD = re.compile(r"[^\W\d_](?:\.[^\W\d_])+(?![^\W\d_])|[^\W\d_]+(?:['’][^\W\d_]+)*")
_SPACED = re.compile(r"(?<!\w)[^\W\d_](?: [^\W\d_]){3,}(?!\w)")
_DIVIDED = re.compile(r"(?<!\w)(?<!\w[.\-_*])[^\W\d_]([.\-_*])[^\W\d_](?:\1[^\W\d_]){2,}(?!\w|\1\w)")


def unify_scripts(text: str) -> str:
    """Words of several scripts in one of them, where their letters have look-alikes in it (UTS #39, section 5).

    A word is written in the script in which letters stand that none of its other scripts could show; where there are
    none, or as many in several, the whole text decides likewise, and in doubt it is Latin. A word of one script is
    never touched, whatever it looks like: Cyrillic and Greek texts stay as they are, and so does a word of which every
    letter was replaced. Letters without a look-alike stay too (the ``k`` of ``kΩ``).

    >>> unify_scripts("fr\u0435e \u0440\u0430\u0443")
    'free рау'
    """
    if text.isascii():
        return text
    words = _WORD.findall(text)
    if not any(len(scripts_of(word)) > 1 for word in words if not word.isascii()):
        return text
    present = set().union(*map(scripts_of, words))
    home = Counter(_script(letter) for word in words for letter in word if _tells(letter, present))
    return _WORD.sub(lambda match: _resolved(match[0], home), text)


def _resolved(word: str, home: Counter[str]) -> str:
    scripts = set() if word.isascii() else scripts_of(word)
    if len(scripts) < 2:
        return word
    told = Counter(_script(letter) for letter in word if _tells(letter, scripts))
    best = max(scripts, key=lambda script: (told[script], home[script], script == LATIN, script))
    return "".join(shown(letter, best) or letter for letter in word)


def _tells(letter: str, scripts: set[str]) -> bool:
    """Whether a letter's own script is the only one of these that can show it."""
    own = _script(letter)
    return own in scripts and not any(shown(letter, script) for script in scripts - {own})


def shown(letter: str, script: str) -> str | None:
    """A letter of one of the scripts as another can show it; None where it cannot."""
    latin = _PROTOTYPES.get(letter, letter)
    if script == LATIN:
        return latin if letter in _PROTOTYPES else None
    return _TWINS[script].get(latin)


@lru_cache(4096)
def _script(letter: str) -> str:
    """First word of a letter's name in Unicode, which for the scripts at hand is the script's."""
    return unicodedata.name(letter, "").partition(" ")[0]


def scripts_of(word: str) -> set[str]:
    """The scripts in a word that have look-alikes in one another."""
    return {script for letter in set(word) if (script := _script(letter)) in _SCRIPTS}


def join_spaced_letters(text: str) -> str:
    """Four or more single letters in a row, one space or one of ``. - _ *`` between them, as the word they spell.

    Only letters that have a case: in Chinese, Japanese or Thai a single letter may be a word. Dotted capitals
    (``U.S.S.R.``) are an abbreviation and stay. A wider gap divides words, so this goes before white space is folded.

    >>> join_spaced_letters("so f r e e  h-a-t-s of the U.S.S.R.")
    'so free  hats of the U.S.S.R.'
    """
    return _DIVIDED.sub(_joined, _SPACED.sub(_joined, text))


def _joined(match: re.Match[str]) -> str:
    letters = match[0][::2]
    cased = all(letter.lower() != letter.upper() for letter in letters)
    return match[0] if not cased or (match[0][1] == "." and letters.isupper()) else letters


def as_displayed(text: str) -> str:
    """What stands under a right-to-left override in the order in which it is seen: ``\\u202eeerf\\u202c`` as ``free``.

    Letters that run from right to left anyway are left as they are, and so are overrides within one another.
    """
    return _OVERRIDDEN.sub(lambda match: _reversed(match[1]), text) if "\u202e" in text else text


def _reversed(run: str) -> str:
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in run):
        return run
    clusters: list[str] = []  # a mark stays on its letter
    for character in run:
        if clusters and unicodedata.combining(character):
            clusters[-1] += character
        else:
            clusters.append(character)
    return "".join(reversed(clusters)).translate(_MIRRORED)
