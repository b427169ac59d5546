"""From the parts of a post as they come to what the experts read; loads no model, so that any process can do it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .. import plugins
from ..config import RunConfig
from ..data.compose import PICTURE, TEXT, UNREAD, composed
from ..data.manifest import is_empty
from ..data.transcribers import active_transcribers
from ..decide.policy import pattern_of
from ..errors import DataError
from ..example import Example
from ..files.folders import Picture
from ..modalities.text import MAX_CHARACTERS

if TYPE_CHECKING:
    from ..contracts import Modality, TextRole

TABULAR = "tabular"
"""The part that is a record of columns."""
ARGUMENTS = {TEXT: "text", PICTURE: "image_path", TABULAR: "tabular"}
"""Modality -> what `System.predict` calls it."""
MAX_PICTURE_BYTES = 50 * 2**20
"""Pictures larger than this on disk are refused before they are read."""


@dataclass(frozen=True, slots=True)
class Post:
    """A composed post, ready for the experts.

    Attributes
    ----------
    example : Example
        Its text part as the text expert reads it.
    views : tuple of dict
        Modality -> canonical value. One, but where a part has several to show (the frames of an animation): the view
        that is worst decides.
    """

    example: Example
    views: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """A post on its way between processes: what has to be known of it on the way, and the rest unopened.

    Attributes
    ----------
    parts : dict
        Its text as the text expert reads it, and its record; no picture.
    pattern : str
        What it brings.
    views, pictures : int
        How many views it has, and how many of them show a picture.
    blob : bytes
        The whole post, in Python's own format; only ever made and opened by processes of ours.
    """

    parts: dict[str, Any]
    pattern: str
    views: int
    pictures: int
    blob: bytes

    @classmethod
    def of(cls, post: Post) -> Self:
        """Pack a post."""
        parts, views = dict(post.example.parts), post.views
        pictures = sum(PICTURE in view for view in views)
        return cls(parts, pattern_of(views[0]), len(views), pictures, pickle.dumps(post, pickle.HIGHEST_PROTOCOL))

    def open(self) -> Post:
        """The post."""
        post: Post = pickle.loads(self.blob)
        return post


def build_modalities(config: RunConfig) -> dict[str, Modality]:
    """The modalities of a run, by name, configured."""
    return {name: plugins.load("modalities", name).from_config(config) for name in config.modalities}


class Preparer:
    """Makes posts of their parts, by the very functions that packing uses.

    Parameters
    ----------
    config : RunConfig
    text_role : {"transcript", "caption"}
        What a post's text is, as in the run.
    max_text : int
        Characters of a text that are read, however many it has, or has when it is cleaned.
    """

    def __init__(self, config: RunConfig, text_role: TextRole, max_text: int = MAX_CHARACTERS):
        self.modalities = build_modalities(config)
        self.transcribers = active_transcribers(config)
        self.text_role = text_role
        self.max_text = max_text

    @property
    def reads(self) -> frozenset[str]:
        """The parts that a post may bring: the run's modalities, and those whose words are read (``ocr``)."""
        return frozenset(self.modalities) | {used.transcriber.modality for used in self.transcribers if used.reads}

    def post(
        self, text: str | None = None, picture: bytes | None = None, tabular: Mapping[str, Any] | None = None
    ) -> Post:
        """One post.

        Parameters
        ----------
        text : str, optional
        picture : bytes, optional
            The content of a picture file.
        tabular : mapping, optional

        Raises
        ------
        DataError
            Where all are missing, or a part cannot be used or is none that the run reads.
        PictureError
            As `bifocal.modalities.image.decode`.
        """
        given = {TEXT: text, PICTURE: picture, TABULAR: tabular}
        if all(part is None for part in given.values()):
            raise DataError(f"a post needs {' or '.join(ARGUMENTS[name] for name in self.modalities)}; none was given")
        for name, part in given.items():
            if name not in self.reads and part is not None and not is_empty(part):
                raise DataError(f"this run reads {', '.join(self.modalities)}; leave {ARGUMENTS[name]} out")
        raw: dict[str, Any] = {name: part for name, part in given.items() if part is not None}
        if TABULAR in raw and is_empty(raw[TABULAR]):  # an empty record is an absent one
            del raw[TABULAR]
        elif isinstance(raw.get(TABULAR), Mapping):
            raw[TABULAR] = dict(raw[TABULAR])
        values = {name: self._values(name, raw[name]) for name in raw if name in self.modalities}
        read = {used.transcriber.block: "" for used in self.transcribers}
        meta: dict[str, bool] = {}
        for used in self.transcribers:
            if used.wants(raw, self.text_role):
                transcript = used.transcriber.read(raw[used.transcriber.modality])
                read[used.transcriber.block] = transcript.text
                meta |= {UNREAD: True} if transcript.mostly_unread else {}
        example = composed(Example("", raw, {}, meta=meta), self.text_role, read, most=self.max_text)
        values = {name: value for name, value in values.items() if name in example.parts}
        if TEXT in example.parts and TEXT in self.modalities:
            values[TEXT] = [self.modalities[TEXT].read(example.parts[TEXT])]
        if not values:
            lacking = "only words that could not be read" if meta else "none of it (or no words)"
            raise DataError(f"this run reads {', '.join(self.modalities)}, and the post has {lacking}")
        kept = {name: part for name, part in example.parts.items() if name != PICTURE}
        return Post(
            Example("", kept, {}, meta=example.meta),
            tuple(dict(zip(values, view, strict=True)) for view in product(*values.values())),
        )

    def kept(self, text: str | None, picture: bytes | None, tabular: Mapping[str, Any] | None) -> Post:
        """A post of what was kept of one: its composed text, its picture as the expert saw it, and its record.

        Of an animation it is the first view, which is the one that is kept.
        """
        from ..modalities.image import decode

        given: dict[str, Any] = {TEXT: text, PICTURE: picture, TABULAR: tabular}
        parts = {name: given[name] for name in self.modalities if given.get(name) is not None}
        if not parts:
            raise DataError("nothing is kept of this post that the run reads")
        done: dict[str, Callable[[Any], Any]] = {PICTURE: decode}  # these are as an expert reads them, or nearly so
        if TEXT in parts:
            done[TEXT] = self.modalities[TEXT].read
        view = {name: done[name](part) if name in done else self._values(name, part)[0] for name, part in parts.items()}
        return Post(Example("", {name: part for name, part in parts.items() if name != PICTURE}, {}), (view,))

    def _values(self, name: str, raw: Any) -> Sequence[Any]:
        """The canonical values of one part, in its order; more than one where it shows several things in turn."""
        modality = self.modalities[name]
        if not modality.by_reference:
            modality.facts(raw)  # the manifest's limits hold here; reading a file checks its own
        values = modality.moments(raw)
        if not modality.lossless:  # the experts learned from what came back from a shard
            values = [modality.unpack(modality.pack(value)) for value in values]
        return values


def _capped(blob: bytes, path: Picture) -> bytes:
    if len(blob) > MAX_PICTURE_BYTES:
        raise DataError(
            f"{path} is {len(blob) / 2**20:.0f} MiB; pictures up to {MAX_PICTURE_BYTES // 2**20} MiB are read"
        )
    return blob


def read_file(path: str | Path | Picture) -> bytes:
    """A picture's bytes. Raises `DataError` where it is missing, no plain file, or larger than the cap."""
    if isinstance(path, Picture):
        try:
            return _capped(path.read(), path)
        except DataError as error:
            raise DataError(f"picture {error}") from None
    if not isinstance(path, str | Path):
        raise DataError(f"image_path must be a path, found {type(path).__name__}")
    path = Path(path)
    try:
        if not path.is_file():
            raise DataError(f"there is no picture file {str(path)!r}")
        size = path.stat().st_size
        if size > MAX_PICTURE_BYTES:
            raise DataError(
                f"{path} is {size / 2**20:.0f} MiB; pictures up to {MAX_PICTURE_BYTES // 2**20} MiB are read"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, no permission
        raise DataError(f"the picture {str(path)[:100]!r} cannot be read: {error.__class__.__name__}") from None
