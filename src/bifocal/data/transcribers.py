"""The transcribers of a run: which parts they read, and when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import plugins
from ..config import RunConfig, TranscriberConfig
from ..contracts import TextRole, Transcriber
from ..errors import ConfigError
from ..modalities import TEXT
from ..modalities.text import BLOCK_NAME, clean
from .compose import CAPTION, TRANSCRIPT

When = Literal["auto", "always", "never"]


def wanted(when: When, transcript: str | None, role: TextRole) -> bool:
    """Whether a picture is to be read, given the text that came with it.

    ``auto`` reads where there is no transcript of the picture: no text at all, or the post's own words.
    """
    return when == "always" or (when == "auto" and (role == "caption" or not clean(transcript or "")))


@dataclass(frozen=True, slots=True)
class ActiveTranscriber:
    """A transcriber, and what a configuration says of it.

    Attributes
    ----------
    setting : str
        Where its settings stand in the configuration: ``ocr``.
    config : TranscriberConfig
        Its settings; ``when`` is ``never`` where no expert reads text.
    """

    setting: str
    transcriber: Transcriber
    config: TranscriberConfig

    @property
    def name(self) -> str:
        """Of its step, and of its file."""
        return self.transcriber.block.lower()

    @property
    def reads(self) -> bool:
        """Whether it ever reads."""
        return self.config.when != "never"

    def wants(self, parts: Mapping[str, Any], role: TextRole) -> bool:
        """Whether it reads a post of these parts, whose text is a transcript or the post's own words."""
        transcribed = parts.get(TEXT) if self.transcriber.block == TRANSCRIPT else None
        return self.transcriber.modality in parts and wanted(self.config.when, transcribed, role)


def active_transcribers(config: RunConfig) -> list[ActiveTranscriber]:
    """The transcribers of a run, in the order of their blocks.

    Raises
    ------
    ConfigError
        Where a transcriber lacks an option, or the block of one cannot stand beside the others.
    UnknownPlugin
        Where there is no such transcriber.
    """
    found: dict[str, ActiveTranscriber] = {}
    for name, settings in config.transcribers.items():
        setting = f"transcribe.{name}" if name in config.transcribe else name
        used = settings if TEXT in config.parts else settings.model_copy(update={"when": "never"})
        transcriber: Transcriber = plugins.load("transcribers", name).from_config(settings)
        block = transcriber.block
        if not re.fullmatch(BLOCK_NAME, block) or block == CAPTION:
            raise ConfigError(
                f"{setting}: a block is named by capital letters, digits and _, and not {CAPTION}; found {block!r}"
            )
        if block in found:
            raise ConfigError(f"{setting} writes the block {block}, as {found[block].setting} does: leave one out")
        found[block] = ActiveTranscriber(setting, transcriber, used)
    return list(found.values())


def transcripts(folder: Path, transcribers: list[ActiveTranscriber]) -> dict[str, Path]:
    """Block -> the file in a run's folder of what was read for it."""
    return {active.transcriber.block: folder / f"{active.name}.jsonl" for active in transcribers}
