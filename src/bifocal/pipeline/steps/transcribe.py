"""Step `ocr`, and one like it for each further transcriber: the words that a part carries are read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ...data.compose import TRANSCRIPT
from ...data.transcribe import transcribe, unread_rows
from ...data.transcribers import ActiveTranscriber, transcripts
from ...data.transcript_cache import cache_beside
from ..context import Context, Step

REPEATS_OF = 10
"""Pictures with words and a text of the post's own, from which on it is judged whether those say the same."""


def read_words(run: Context, name: str) -> Mapping[str, object]:
    """Gives the counts of `transcribe`."""
    at = [used.name for used in run.transcribers].index(name)
    before, active = run.transcribers[:at], run.transcribers[at]
    block, noun, hint = active.transcriber.block, active.transcriber.noun, active.transcriber.hint
    files = transcripts(run.space.folder, run.transcribers)
    counts = transcribe(
        run.space.manifest,
        run.source,
        active,
        files[block],
        cache=cache_beside(run.space.folder, block) if active.config.cache else None,
        also_unread=set[str]().union(*(unread_rows(files[one.transcriber.block], one) for one in before)),
        progress=run.reporter.progress,
        note=run.reporter.note,
    )
    run.record.rewritten("manifest", run.space.manifest)  # rows with unread words are marked in it
    if counts["unread"]:
        run.reporter.note(
            f"on {counts['unread']:,} of {counts['read']:,} {noun}s half or more of the lines could not be read "
            f"({hint}): marked `unread`"
        )
    if block == TRANSCRIPT and counts["captions"] >= REPEATS_OF and counts["repeated"] > counts["captions"] / 2:
        run.reporter.note(
            f"the texts of {counts['repeated']:,} of {counts['captions']:,} pictures with words say what stands on "
            "the picture: they look like transcripts; if they are, set `source.text_role: transcript`, and such "
            "pictures need not be read"
        )
    return counts


def _output(run: Context, name: str) -> list[Path]:
    return [run.space.folder / f"{name}.jsonl"]


def step_of(active: ActiveTranscriber) -> Step:
    """The step of a transcriber other than OCR."""
    name, asked = active.name, active.config.model_dump(include={"when", "languages", "options"})
    return Step(
        name,
        partial(read_words, name=name),
        settings=("modalities",),
        outputs=partial(_output, name=name),
        outside=lambda run: [active.setting, asked],
    )


OCR = Step(
    "ocr",
    partial(read_words, name="ocr"),
    settings=("modalities", "ocr.when", "ocr.languages"),
    outputs=lambda run: [run.space.ocr],
)
