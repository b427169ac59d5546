"""The words of a post: cleaned of what the eye does not see, and composed into one string that names their origin."""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..contracts import Input, Piece
from ..errors import ConfigError, DataError, nearest
from ._obfuscation import as_displayed, join_spaced_letters, unify_scripts
from ._text_attacks import ATTACKS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np

    from ..config import RunConfig

MAX_CHARACTERS = 100_000
"""A longer text is no post; it is refused before it costs anything."""
NO_LANGUAGE = "und"
"""ISO 639's code for "undetermined"."""

_ENTITY_LEVELS = 3
"""How often HTML may have been escaped on the way to us."""
_MOST_MARKS = 30
"""Combining marks in a row (Stream-Safe Text Format, UAX #15): far above any script, and NFKC is quadratic in them."""

# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties, 15.1): soft hyphen, joiners and other zero-width
# signs, bidi controls, Hangul fillers, variation selectors, tags. Then the interlinear marks, the object replacement
# sign, and the control characters that are not white space.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\ufff9-\ufffc\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN_SIGN = re.compile("[A-Za-z0-9]")
_TERMINAL_ESCAPE = re.compile(r"\x1b\[[\d;]*[A-Za-z]")
_BLANK_BRAILLE = "\u2800"  # a space to the eye, a symbol to Unicode
# What would open one of the tags of `compose`, in any case and spacing.
_FORGED_BLOCK = re.compile(r"\[(?P<inside>\s*/?\s*(?:ocr|cap)\s*)\]", re.IGNORECASE)
_FORGED_LANGUAGE = re.compile(r"<(?=\s*lang\s*=)", re.IGNORECASE)

TAG = re.compile(r"\[/?(?:OCR|CAP)\]|<lang=[^<>\s]*>")
"""What `compose` puts around the words of a post, where nothing but OCR transcribes: else see `tags_of`."""
ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Ranges, for a regular expression, of scripts written without spaces: each sign counts as a word."""
MOST_WORDS = 128
"""Pieces that a text is cut into by default, at most: as many encoder passes."""

_WORD = re.compile(rf"[{ALONE}]|[^\s{ALONE}]+")

_COMPOSED = re.compile(
    r"\[OCR\](?P<transcript>.*)\[/OCR\] (?P<further>(?:\[.*\] )?)\[CAP\](?P<caption>.*)\[/CAP\] <lang=[^<>\s]*>",
    re.DOTALL,
)
BLOCK_NAME = r"[A-Z][A-Z0-9_]*"
"""How a block of `compose` may be called."""
_FURTHER = re.compile(r"\[/OCR\] (?P<blocks>\[(?!CAP\]).*?\] )\[CAP\]", re.DOTALL)
_BLOCK = re.compile(rf"\[(?P<name>{BLOCK_NAME})\](?P<words>.*?)\[/(?P=name)\] ", re.DOTALL)


def without_tags(composed: str) -> str:
    """The words of a composed text alone, a space between them."""
    return " ".join(tags_of(composed).sub(" ", composed).split())


def tags_of(composed: str) -> re.Pattern[str]:
    """What `compose` put around the words of this text: `TAG`, and the tags of the further blocks that it has.

    No post can bring such a block: what stands between ``[/OCR]`` and ``[CAP]`` is `compose`'s alone.
    """
    match = _FURTHER.search(composed)
    if match is None:
        return TAG
    names = "|".join(block["name"] for block in _BLOCK.finditer(match["blocks"]))
    return re.compile(rf"{TAG.pattern}|\[/?(?:{names})\]")


def clean(text: str) -> str:
    """What a reader of the post sees, in one spelling; used alike for training and serving.

    Mojibake and HTML entities (social media exports escape them; the reader saw ``&``) are undone by ftfy,
    compatibility forms folded by NFKC. Invisible and control characters go: between letters they serve evasion. The
    price: an emoji sequence falls into its parts (a family into its members), and Persian or Indic joiners are lost.
    Look-alikes of other scripts within a word are written in the word's own (`unify_scripts`), letters spaced out one
    by one are joined (`join_spaced_letters`), runs that are shown in reverse are turned round (`as_displayed`). White
    space, line breaks included, becomes single spaces; a lone surrogate becomes U+FFFD.

    A tag of `compose` inside the text is defused, so that no post can forge a block: ``[OCR]`` is written ``(OCR)``
    and ``<lang=`` is written ``(lang=``, whatever its case, spacing or disguise.

    Returns
    -------
    str
        UTF-8 encodable, `MAX_CHARACTERS` long at most. Cleaning it again changes nothing.
    """
    return clean_within(text, MAX_CHARACTERS)[0]


def clean_within(text: str, most: int) -> tuple[str, bool]:
    """What `clean` makes of a text, no longer than ``most``, and whether something was cut off.

    One sign may become eighteen (U+FDFA), so the limit holds after every step: none is given more than that to work on.
    """
    cut = _Cut(most)
    text = _settled(cut(text), cut)
    if "&" not in text:
        return text, cut.happened
    from ftfy.fixes import unescape_html

    for _ in range(_ENTITY_LEVELS):
        if (plain := unescape_html(text)) == text:
            return text, cut.happened
        text = _settled(cut(plain), cut)
    while unescape_html(text) != text:  # nested on purpose, to cost us time: leave the rest, but powerless
        text = _settled(cut(text.replace("&", "& ")), cut)
    return text, cut.happened


class _Cut:
    """Cuts texts at a length, and remembers that it did."""

    def __init__(self, most: int):
        self.most = most
        self.happened = False

    def __call__(self, text: str) -> str:
        self.happened = self.happened or len(text) > self.most
        return text[: self.most]


def _settled(text: str, cut: _Cut) -> str:
    """`clean` but for HTML entities, repeated until nothing changes: one disguise may hide another."""
    before = None
    while text != before:
        before = text
        text = join_spaced_letters(as_displayed(_TERMINAL_ESCAPE.sub("", text)))
        text = cut(" ".join(text.split()))
        text = _INVISIBLE.sub("", text) if text.isascii() else _in_one_spelling(text, cut)
        text = " ".join(text.split())
        text = _FORGED_LANGUAGE.sub("(", _FORGED_BLOCK.sub(r"(\g<inside>)", text))
    return text


def _in_one_spelling(text: str, cut: _Cut) -> str:
    """What a text with other signs than ASCII needs; of one without, ftfy changes nothing but control characters."""
    import ftfy

    config = ftfy.TextFixerConfig(unescape_html=False, remove_terminal_escapes=False, normalization=None, explain=False)
    text = _SURROGATE.sub("\ufffd", _INVISIBLE.sub("", cut(ftfy.fix_text(text, config))))
    if text.isascii():
        return text
    text = cut(unicodedata.normalize("NFKC", _few_marks(text)))
    return unify_scripts(text.replace(_BLANK_BRAILLE, " "))


def _few_marks(text: str) -> str:
    kept, run = [], 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run <= _MOST_MARKS:
            kept.append(character)
    return "".join(kept)


def has_words(text: str) -> bool:
    """Whether `clean` leaves anything of a text; fifty times as fast where a plain letter or digit says so.

    A text too long to be cleaned counts as legible: it is `Text.facts` that refuses it.
    """
    plain = _PLAIN_SIGN.search(text) and "&" not in text and "\x1b" not in text  # entities and escapes may be nothing
    return len(text) > MAX_CHARACTERS or bool(plain) or bool(clean(text))


def compose(transcript: str, caption: str, language: str, further: Mapping[str, str] | None = None) -> str:
    """One string for the text expert; both blocks are always there, maybe empty.

    Parameters
    ----------
    transcript : str
        Cleaned words read off the picture.
    caption : str
        Cleaned words of the post itself.
    language : str
        ISO 639 code of all words, or `NO_LANGUAGE`.
    further : mapping, optional
        Name of a block -> cleaned words that another transcriber than OCR read; they stand before the caption.

    >>> compose("one does not simply", "", "en")
    '[OCR] one does not simply [/OCR] [CAP] [/CAP] <lang=en>'
    """
    blocks = {"OCR": transcript, **(further or {}), "CAP": caption}
    pieces = [piece for name, words in blocks.items() for piece in (f"[{name}]", words, f"[/{name}]")]
    return " ".join(piece for piece in (*pieces, f"<lang={language}>") if piece)


def blocks_of(composed: str) -> dict[str, str]:
    """Name of a block -> its words, in what `compose` made. Raises `DataError` where it did not.

    >>> blocks_of("[OCR] one does not simply [/OCR] [CAP] [/CAP] <lang=en>")
    {'OCR': 'one does not simply', 'CAP': ''}
    """
    match = _COMPOSED.fullmatch(composed)
    if match is None:
        raise DataError(f"no composed text: {composed[:100]!r}")
    further = {block["name"]: block["words"].strip() for block in _BLOCK.finditer(match["further"])}
    return {"OCR": match["transcript"].strip(), **further, "CAP": match["caption"].strip()}


def words_of(composed: str) -> tuple[str, str]:
    """What was read off the other parts of a post, and its own words, in what `compose` made.

    >>> words_of("[OCR] one does not simply [/OCR] [CAP] [/CAP] <lang=en>")
    ('one does not simply', '')
    """
    blocks = blocks_of(composed)
    caption = blocks.pop("CAP")
    return " ".join(filter(None, blocks.values())), caption


def without_block_tags(text: str, blocks: Collection[str]) -> str:
    """Cleaned words in which no tag of these further blocks stands, as `clean` leaves none of OCR and CAP."""
    if not blocks:
        return text
    tag = rf"\[(?P<inside>\s*/?\s*(?:{'|'.join(map(re.escape, blocks))})\s*)\]"
    return re.sub(tag, r"(\g<inside>)", text, flags=re.IGNORECASE)


class Text:
    """The text part; its value is the composed string."""

    input: ClassVar[Input] = Input(
        form="words",
        title="Text",
        description="As the run's texts were: the post's words, or a transcript.",
        argument="text",
        limit=MAX_CHARACTERS,
        kept_as="text",
        place=0,
    )
    suffix: ClassVar[str] = "txt"
    expert_name: ClassVar[str] = "text_expert"
    encoder: ClassVar[str] = "hf_text"
    lossless: ClassVar[bool] = True
    corruptions: ClassVar[tuple[str, ...]] = ("typos", "word_drop", "truncation")
    attacks: ClassVar[Mapping[str, tuple[int, ...]]] = dict.fromkeys((*ATTACKS, "typos", "truncation"), (1, 2, 3, 4, 5))

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        return cls()

    def facts(self, raw: Any) -> dict[str, Any]:
        """``{"characters": n}``. Raises `DataError` where it is no string, or longer than `MAX_CHARACTERS`."""
        if not isinstance(raw, str):
            raise DataError(f"text must be a string, found {type(raw).__name__}: quote it, or leave the part out")
        if len(raw) > MAX_CHARACTERS:
            raise DataError(f"the text has {len(raw):,} characters; at most {MAX_CHARACTERS:,} are allowed: shorten it")
        return {"characters": len(raw)}

    def read(self, raw: str) -> str:
        """The text as it is: composing needs the picture's words too, and has been done by ``data/compose.py``."""
        return raw

    def pack(self, value: str) -> bytes:
        return value.encode()

    def unpack(self, blob: bytes) -> str:
        return blob.decode()

    def blank(self) -> str:
        return compose("", "", NO_LANGUAGE)

    def corrupt(self, value: str, kind: str, severity: int, rng: np.random.Generator) -> str:
        """Disturb the words of a composed (or plain) text and leave its tags alone.

        ``typos`` swaps two neighbouring letters or doubles one, ``word_drop`` takes words out anywhere,
        ``truncation`` takes them from the end of each block. Attacks go on raw words, before `clean`: ``homoglyphs``
        (some letters of a word by look-alikes, so that it mixes scripts), ``leetspeak``, ``zero_width`` and ``bidi``
        characters, ``spacing`` (letter by letter), ``case``, ``emoji``, and English sentences behind the words,
        ``benign_appended`` or ``hostile_appended``. Severity 1..5 touches 10, 20, 30, 45, 60% of the words, at least
        one, or appends as many.
        """
        if kind not in _CORRUPTIONS:
            raise ConfigError(f"text has no corruption {kind!r}; {nearest(kind, _CORRUPTIONS)}")
        if severity not in _SHARES:
            raise ConfigError(f"severity {severity!r} is not among {', '.join(map(str, _SHARES))}")
        pieces: list[str] = []
        tag = tags_of(value)
        for is_tag, run in groupby(value.split(), key=lambda piece: bool(tag.fullmatch(piece))):
            words = list(run)
            pieces += words if is_tag else _CORRUPTIONS[kind](words, max(1, round(_SHARES[severity] * len(words))), rng)
        return " ".join(pieces)

    def occlusions(self, value: str, pieces: int | None = None) -> list[tuple[Piece, str]]:
        """Each word left out, tags kept; of long texts runs of words of one block, at most ``pieces`` (from 2).

        Left out rather than masked: not every encoder has a mask token, and none meets one when it serves.
        """
        limit = max(2, pieces or MOST_WORDS)
        words = list(_WORD.finditer(value))
        tag = tags_of(value)
        blocks = [list(run) for is_tag, run in groupby(words, key=lambda w: bool(tag.fullmatch(w[0]))) if not is_tag]
        n = sum(map(len, blocks))
        if n < 2:
            return []
        length = 1 if n <= limit else -(-n // max(1, limit + 1 - len(blocks)))  # the last run of a block may be short
        spans = [
            (block[i].start(), block[min(i + length, len(block)) - 1].end())
            for block in blocks
            for i in range(0, len(block), length)
        ]
        return [
            (Piece(value[start:end], (start, end)), " ".join((value[:start] + value[end:]).split()))
            for start, end in spans
        ]


_SHARES = {1: 0.10, 2: 0.20, 3: 0.30, 4: 0.45, 5: 0.60}


def _typos(words: list[str], n: int, rng: np.random.Generator) -> list[str]:
    chosen = set(rng.choice(len(words), n, replace=False).tolist())
    return [_misspelt(word, rng) if i in chosen else word for i, word in enumerate(words)]


def _misspelt(word: str, rng: np.random.Generator) -> str:
    swaps = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    if not swaps:  # a swap would not show
        return word + word[-1]
    i = swaps[rng.integers(len(swaps))]
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def _word_drop(words: list[str], n: int, rng: np.random.Generator) -> list[str]:
    dropped = set(rng.choice(len(words), n, replace=False).tolist())
    return [word for i, word in enumerate(words) if i not in dropped]


def _truncation(words: list[str], n: int, rng: np.random.Generator) -> list[str]:
    return words[: len(words) - n]


_CORRUPTIONS = {"typos": _typos, "word_drop": _word_drop, "truncation": _truncation, **ATTACKS}
