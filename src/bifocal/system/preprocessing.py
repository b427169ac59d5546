"""From the parts of a post as they come to what the experts read; loads no model, so that any process can do it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..config import RunConfig
from ..contracts import Convertible, Sequential
from ..data.compose import UNREAD, composed
from ..data.row_checks import is_empty
from ..data.transcribers import active_transcribers
from ..decide.policy import pattern_of
from ..errors import DataError
from ..example import Example
from ..files.folders import Picture
from ..modalities import PARTS, TEXT, argument_of, build_modalities, given_parts, inputs_of
from ..modalities.text import MAX_CHARACTERS

if TYPE_CHECKING:
    from ..contracts import Input, TextRole


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
class PackedPost:
    """A post on its way between processes: what has to be known of it on the way, and the rest unopened.

    Attributes
    ----------
    parts : dict
        All but those that came as files; its text as the text expert reads it.
    pattern : str
        What it brings.
    views, pictures : int
        How many views it has, and how many of them have a part that came as a file.
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
        pictures = sum(not view.keys() <= parts.keys() for view in views)
        return cls(parts, pattern_of(views[0]), len(views), pictures, pickle.dumps(post, pickle.HIGHEST_PROTOCOL))

    def open(self) -> Post:
        """The post."""
        post: Post = pickle.loads(self.blob)
        return post


class Preprocessor:
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
        self.inputs = inputs_of(self.modalities)
        self.transcribers = active_transcribers(config)
        self.text_role = text_role
        self.max_text = max_text

    @property
    def reads(self) -> frozenset[str]:
        """The parts that a post may bring: the run's modalities, and those whose words are read (``ocr``)."""
        return frozenset(self.modalities) | {used.transcriber.modality for used in self.transcribers if used.reads}

    def open_files(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Part -> what `post` takes, of a row of `System.predict_batch`: files are read from their paths.

        Those of parts that the run does not read stay closed. Raises `DataError` where a file is missing or too large,
        or a part is given twice.
        """
        return {
            name: read_file(part, self.inputs[name]) if name in self.reads and self.inputs[name].is_file else part
            for name, part in given_parts(row).items()
        }

    def post(self, parts: Mapping[str, Any]) -> Post:
        """One post.

        Parameters
        ----------
        parts : mapping
            Modality -> what comes: words, the content of a file, a record; None = absent.

        Raises
        ------
        DataError
            Where all are missing, or a part cannot be used or is none that the run reads.
        PictureError
            As `bifocal.modalities.image.decode`.
        """
        if all(part is None for part in parts.values()):
            raise DataError(f"a post needs {' or '.join(map(argument_of, self.modalities))}; none was given")
        for name, part in parts.items():
            if name not in self.reads and part is not None and not is_empty(part):
                raise DataError(f"this run reads {', '.join(self.modalities)}; leave {argument_of(name)} out")
        raw: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
        raw |= {name: dict(part) for name, part in raw.items() if isinstance(part, Mapping)}
        raw = {name: part for name, part in raw.items() if name == TEXT or not is_empty(part)}
        values = {name: self._values(name, raw[name]) for name in self.modalities if name in raw}
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
        return Post(
            Example("", self._without_files(example.parts), {}, meta=example.meta),
            tuple(dict(zip(values, view, strict=True)) for view in product(*values.values())),
        )

    def keep(self, post: Post) -> dict[str, Any]:
        """What is kept of a post: column of the decision log -> the part, or all that have no column of their own."""
        columns: dict[str, Any] = {}
        for name, one in self.inputs.items():
            value = post.views[0].get(name)  # of an animation it is the first view
            modality = self.modalities.get(name)
            if value is not None and isinstance(modality, Convertible):
                part: Any = modality.keep(value)
            elif (part := post.example.parts.get(name)) is None:
                continue
            if one.kept_as == PARTS:
                columns.setdefault(PARTS, {})[name] = part
            else:
                columns[one.kept_as] = part
        return columns

    def restore(self, columns: Mapping[str, Any]) -> Post:
        """A post of what `keep` kept of one: its parts as the experts saw them, or nearly so."""
        given = {
            name: (columns.get(PARTS) or {}).get(name) if one.kept_as == PARTS else columns.get(one.kept_as)
            for name, one in self.inputs.items()
        }
        parts = {name: given[name] for name in self.modalities if given.get(name) is not None}
        if not parts:
            raise DataError("nothing is kept of this post that the run reads")
        view = {}
        for name, part in parts.items():
            modality = self.modalities[name]
            view[name] = modality.restore(part) if isinstance(modality, Convertible) else modality.read(part)
        return Post(Example("", self._without_files(parts), {}), (view,))

    def _without_files(self, parts: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part for name, part in parts.items() if name not in self.inputs or not self.inputs[name].is_file}

    def _values(self, name: str, raw: Any) -> Sequence[Any]:
        """The canonical values of one part, in its order; more than one where it shows several things in turn."""
        modality = self.modalities[name]
        if not modality.input.is_file:
            modality.facts(raw)  # the manifest's limits hold here; reading a file checks its own
        values = modality.moments(raw) if isinstance(modality, Sequential) else [modality.read(raw)]
        if not modality.lossless:  # the experts learned from what came back from a shard
            values = [modality.unpack(modality.pack(value)) for value in values]
        return values


def _capped(size: int, path: object, kind: Input) -> None:
    if kind.limit is not None and size > kind.limit:
        raise DataError(
            f"{path} is {size / 2**20:.0f} MiB; {kind.title.lower()}s up to {kind.limit // 2**20} MiB are read"
        )


def read_file(path: str | Path | Picture, kind: Input) -> bytes:
    """A file's bytes. Raises `DataError` where it is missing, no plain file, or larger than its kind may be."""
    what = kind.title.lower()
    if isinstance(path, Picture):
        try:
            blob = path.read()
            _capped(len(blob), path, kind)
            return blob
        except DataError as error:
            raise DataError(f"{what} {error}") from None
    if not isinstance(path, str | Path):
        raise DataError(f"{kind.argument or what} must be a path, found {type(path).__name__}")
    path = Path(path)
    try:
        if not path.is_file():
            raise DataError(f"there is no {what} file {str(path)!r}")
        _capped(path.stat().st_size, path, kind)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, no permission
        raise DataError(f"the {what} {str(path)[:100]!r} cannot be read: {error.__class__.__name__}") from None
