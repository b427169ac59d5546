"""Step `ocr`: the words on the pictures are read, where no transcript of them comes."""

from __future__ import annotations

from collections.abc import Mapping

from ...data.ocr import read_pictures
from ...transcribe.ocr_cache import NAME as OCR_CACHE
from ..checks import pictures_read
from ..context import Context, Step

REPEATS_OF = 10
"""Pictures with words and a text of the post's own, from which on it is judged whether those say the same."""


def read_words(run: Context) -> Mapping[str, object]:
    """Gives the counts of `read_pictures`."""
    counts = read_pictures(
        run.space.manifest,
        run.source,
        run.space.ocr,
        when=pictures_read(run.config),
        languages=run.config.ocr.languages,
        cache=run.space.folder.parent / OCR_CACHE if run.config.ocr.cache else None,
        workers=run.config.ocr.workers,
        progress=run.reporter.progress,
        note=run.reporter.note,
    )
    run.record.rewritten("manifest", run.space.manifest)  # rows with unread words are marked in it
    if counts["unread"]:
        run.reporter.note(
            f"on {counts['unread']:,} of {counts['read']:,} pictures half or more of the lines could not be read "
            "(another script? `ocr.languages`; docs/ocr.md says which are read): marked `unread`"
        )
    if counts["captions"] >= REPEATS_OF and counts["repeated"] > counts["captions"] / 2:
        run.reporter.note(
            f"the texts of {counts['repeated']:,} of {counts['captions']:,} pictures with words say what stands on "
            "the picture: they look like transcripts; if they are, set `source.text_role: transcript`, and such "
            "pictures need not be read"
        )
    return counts


STEP = Step(
    "ocr",
    read_words,
    settings=("modalities", "ocr.when", "ocr.languages"),
    outputs=lambda run: [run.space.ocr],
)
