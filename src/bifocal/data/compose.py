"""Joins a post's own words and those that its other parts carry into the one string that the text expert reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ..contracts import TextRole
from ..errors import DataError
from ..example import Example
from ..modalities import TEXT
from ..modalities.text import MAX_CHARACTERS, NO_LANGUAGE, blocks_of, clean, clean_within, compose, without_block_tags
from ..workspace import read_jsonl
from .manifest import read_manifest

UNREAD = "unread"
"""Key of an example's ``meta``: a part bears words, half or more of which could not be read."""
TRANSCRIPT, CAPTION = "OCR", "CAP"
"""The blocks of what stands on the picture, read or brought along by the source, and of the post's own words."""
_FEWEST_LETTERS = 3


def detect_language(words: str) -> str:
    """ISO 639 code of a text's language by py3langid, of all it knows; "und" where there are under three letters.

    The model (0.5 s to load) is loaded at the first call. On a few words the answer is a guess, and no more than that.
    """
    import py3langid

    if sum(map(str.isalpha, words)) < _FEWEST_LETTERS:
        return NO_LANGUAGE
    return str(py3langid.classify(words)[0])


def composed(
    example: Example,
    role: TextRole,
    read: Mapping[str, str],
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
    read : mapping
        Block -> what its transcriber read, maybe nothing; what OCR read follows a transcript, unless it says the same.
    normalise : callable
        Another than `clean` only to find out what it is good for.
    most : int
        Characters of each text that are read, before it is cleaned and after.

    Returns
    -------
    Example
        With ``meta["language"]``, and ``meta["cut"]`` where a text was longer. Where there is nothing to read at all,
        the text part is absent.
    """
    further = [block for block in read if block != TRANSCRIPT]
    given = {CAPTION: example.parts.get(TEXT) or "", TRANSCRIPT: "", **read}
    words, cut = {}, False
    for block, text in given.items():
        cleaned, shortened = clean_within(text, most) if normalise is clean else (normalise(text), False)
        words[block], cut = without_block_tags(cleaned, further), cut or shortened
    own, seen = words.pop(CAPTION), words.pop(TRANSCRIPT)
    transcript, caption = (own, "") if role == "transcript" else ("", own)
    if _letters(seen) != _letters(transcript):
        transcript = f"{transcript} {seen}".strip()
    said = [transcript, *words.values(), caption]
    language = detect_language(" ".join(said))
    return with_composed(example, compose(transcript, caption, language, words) if any(said) else None, language, cut)


def with_composed(example: Example, said: str | None, language: str, cut: bool) -> Example:
    """A copy of an example with a text that was composed of it, or without one; `composed` says what ``meta`` gets."""
    parts = {name: part for name, part in example.parts.items() if name != TEXT}
    if said is not None:
        parts[TEXT] = said
    meta = {**example.meta, "language": language, **({"cut": True} if cut else {})}
    return replace(example, parts=parts, meta=meta)


def recomposed(whole: str, *, normalise: Callable[[str], str] = clean) -> str | None:
    """A composed text whose words were altered, made anew as those of a post are; None where no word is left."""
    blocks = blocks_of(whole)
    caption = blocks.pop(CAPTION)
    return composed(Example("", {TEXT: caption}, {}), "caption", blocks, normalise=normalise).parts.get(TEXT)


def _letters(words: str) -> str:
    """A text without what a transcriber often misses: case, spaces and punctuation."""
    return "".join(filter(str.isalnum, words.casefold())) or words


def compose_manifest(
    manifest: Path, transcripts: Mapping[str, Path], role_of: Callable[[Example], TextRole]
) -> Iterator[Example]:
    """Stream the manifest's examples, composed with what was read off their parts (block -> file); nothing is held.

    Raises
    ------
    DataError
        Where a file of transcripts has a row that the manifest lacks, or in another order.
    """
    rows = {block: read_jsonl(path) for block, path in transcripts.items()}
    ahead = {block: next(rows[block], None) for block in transcripts}
    for example in read_manifest(manifest):
        read = dict.fromkeys(transcripts, "")
        for block, row in ahead.items():
            if row and row["id"] == example.id:
                read[block], ahead[block] = row[TEXT], next(rows[block], None)
        yield composed(example, role_of(example), read)
    for block, row in ahead.items():
        if row:
            raise DataError(
                f"{transcripts[block]} does not follow {manifest}: its row {row['id']!r} is missing there or stands "
                "elsewhere; delete it and run again"
            )
