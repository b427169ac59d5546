"""Joins a post's own words and the words on its picture into the one string that the text expert reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ..contracts import TextRole
from ..errors import DataError
from ..example import Example
from ..modalities.text import MAX_CHARACTERS, NO_LANGUAGE, clean, clean_within, compose, words_of
from ..workspace import read_jsonl
from .manifest import read_manifest

TEXT = "text"
"""The part that is composed."""
UNREAD = "unread"
"""Key of an example's ``meta``: lines were seen on its picture, half or more of which could not be read."""
_FEWEST_LETTERS = 3


def detect_language(text: str) -> str:
    """ISO 639 code of a text's language by py3langid, of all it knows; "und" where there are under three letters.

    The model (0.5 s to load) is loaded at the first call. On a few words the answer is a guess, and no more than that.
    """
    import py3langid

    if sum(map(str.isalpha, text)) < _FEWEST_LETTERS:
        return NO_LANGUAGE
    return str(py3langid.classify(text)[0])


def composed(
    example: Example,
    role: TextRole,
    ocr_text: str | None,
    *,
    normalise: Callable[[str], str] = clean,
    most: int = MAX_CHARACTERS,
) -> Example:
    """A copy of an example whose text part is the composed string.

    Parameters
    ----------
    example : Example
        Its text part, if any, is as the source gave it.
    role : {"transcript", "caption"}
        Whether that text is what stands on the picture (OCR block) or what the post says (CAP block).
    ocr_text : str or None
        What OCR read off the picture; it follows a transcript, unless it says the same.
    normalise : callable
        Another than `clean` only to find out what it is good for.
    most : int
        Characters of either text that are read, before it is cleaned and after.

    Returns
    -------
    Example
        With ``meta["language"]``, and ``meta["cut"]`` where a text was longer. Where there is nothing to read at all,
        the text part is absent.
    """
    if normalise is clean:
        (own, own_cut), (seen, seen_cut) = (clean_within(t or "", most) for t in (example.parts.get(TEXT), ocr_text))
    else:
        own, seen = normalise(example.parts.get(TEXT) or ""), normalise(ocr_text or "")
        own_cut = seen_cut = False
    transcript, caption = (own, "") if role == "transcript" else ("", own)
    if _letters(seen) != _letters(transcript):
        transcript = f"{transcript} {seen}".strip()
    language = detect_language(f"{transcript} {caption}")
    parts = {name: part for name, part in example.parts.items() if name != TEXT}
    if transcript or caption:
        parts[TEXT] = compose(transcript, caption, language)
    cut = {"cut": True} if own_cut or seen_cut else {}
    return replace(example, parts=parts, meta={**example.meta, "language": language, **cut})


def recomposed(text: str, *, normalise: Callable[[str], str] = clean) -> str | None:
    """A composed text whose words were altered, made anew as those of a post are; None where no word is left."""
    transcript, caption = words_of(text)
    example = composed(Example("", {TEXT: caption}, {}), "caption", transcript, normalise=normalise)
    return example.parts.get(TEXT)


def _letters(text: str) -> str:
    """A text without what OCR often misses: case, spaces and punctuation."""
    return "".join(filter(str.isalnum, text.casefold())) or text


def compose_manifest(manifest: Path, ocr: Path, role_of: Callable[[Example], TextRole]) -> Iterator[Example]:
    """Stream the manifest's examples, composed with what ``ocr.jsonl`` read off their pictures; neither is held.

    Raises
    ------
    DataError
        Where ``ocr.jsonl`` has a row that the manifest lacks, or in another order.
    """
    readings = read_jsonl(ocr)
    reading = next(readings, None)
    for example in read_manifest(manifest):
        text = None
        if reading and reading["id"] == example.id:
            text, reading = reading["text"], next(readings, None)
        yield composed(example, role_of(example), text)
    if reading:
        raise DataError(
            f"{ocr} does not follow {manifest}: its row {reading['id']!r} is missing there or stands elsewhere; "
            "delete it and run again"
        )
