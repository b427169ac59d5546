"""A folder of pictures per class, with or without a folder per split above: ``train/hateful/12.jpg``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, ClassVar

from pydantic import model_validator

from ..errors import DataError
from ..example import Example, Label, Rejected
from ..files.columns import Split, split_named
from ..files.folders import FileSource, is_clutter
from ..files.labels import ClassMap, LabelMap
from ..files.names import PICTURES, folded, spellings


class ImageFolder(FileSource):
    """Pictures whose folder is their label, as torchvision's ``ImageFolder`` reads them.

    Every folder that holds files is a class, but for those above it whose names are splits. A text beside a picture
    (``12.txt`` beside ``12.jpg``) is its text; alone it is a post without a picture. The id is the path with its
    ending.

    Attributes
    ----------
    label : str
        The name that the folders' label gets in the taxonomy.
    map : dict, optional
        Folder -> class; null = not annotated. Folders named 0 and 1, or no and yes, need none.
    """

    expected: ClassVar[str] = "folders of pictures (class/*.jpg, or train/class/*.jpg)"

    label: str = "abuse_hate"
    map: ClassMap | None = None

    @model_validator(mode="after")
    def _classes_of_the_label(self) -> ImageFolder:
        self.spec.check_name(self.label)
        return self

    @cached_property
    def spec(self) -> LabelMap:
        return LabelMap(column="folder", map=self.map)

    @cached_property
    def names(self) -> list[str]:
        return [name for name in self.files.names() if not is_clutter(name)]

    def listed(self) -> list[str]:
        """All files that count: here the pictures are the rows."""
        return self.names if any(_is_picture(name) for name in self.names) else []

    def listing(self) -> Any:
        """The names of all, with the size and time of those that are no pictures."""
        return self.names, self.files.stamp(name for name in self.names if not _is_picture(name))

    @cached_property
    def has_splits(self) -> bool:
        tops = {name.partition("/")[0] for name in self.names if "/" in name}
        return bool(tops) and all(split_named(top) for top in tops)

    def _place(self, name: str) -> tuple[Split | None, str | None]:
        """The split and the class folder of a file; None where it lies in none."""
        *folders, _ = PurePosixPath(name).parts
        split = split_named(folders.pop(0)) if folders and self.has_splits else None
        return split, folders[0] if folders else None

    def labels(self) -> Mapping[str, Label]:
        return {self.label: self.taxonomy_entry}

    @cached_property
    def taxonomy_entry(self) -> Label:
        """The label, its classes being the folders where no map and no unified label tells them.

        Raises
        ------
        DataError
            Where a unified label is asked for, no map is given, and the folders are not its classes.
        """
        folders = {self._place(name)[1]: None for name in self.names}
        found = [folder for folder in folders if folder is not None]
        label = self.spec.declared_label(self.label) or self.spec.infer_classes(self.label, found)
        if self.map is None:
            for folder in found:
                try:
                    self.spec.encode(self.label, self.spec.parse_cell(folder), label)
                except DataError:
                    raise DataError(
                        f"{self.root}: folder {folder!r} is no class of {self.label}, which has "
                        f"{', '.join(map(str, label.classes))}: give a map ({{{folder}: {label.classes[-1]}, …}}), "
                        "or set `label` to a name of your own"
                    ) from None
        return label

    def rows(self) -> Iterator[Example | Rejected]:
        label = self.taxonomy_entry
        beside = self._texts_beside()
        taken = {text for texts in beside.values() for text in texts}
        return (self._row(name, beside, label) for name in self.names if name not in taken)

    def _texts_beside(self) -> dict[str, list[str]]:
        """Picture -> its text: of the very name, else of the nearest spelling; several where nothing tells which."""
        stems: dict[str, list[str]] = {}
        for name in filter(_is_picture, self.names):
            stems.setdefault(_stem(name), []).append(name)
        free = {name: _stem(name) for name in self.names if _is_text(name)}
        found: dict[str, list[str]] = {stem: [text] for stem in stems if free.pop(text := f"{stem}.txt", None)}
        for keys in (spellings, folded):
            texts: dict[str, set[str]] = {}
            for text, stem in free.items():
                for key in keys(stem):
                    texts.setdefault(key, set()).add(text)
            claims = {stem: {text for key in keys(stem) for text in texts.get(key, ())} for stem in stems}
            for stem, claimed in claims.items():
                if claimed and stem in found:
                    found[stem] = [*found[stem], *sorted(claimed)]  # a second text: it is nobody's post of its own
                elif claimed:
                    rivals = [other for other, theirs in claims.items() if other != stem and theirs & claimed]
                    found[stem] = sorted(claimed) if not rivals else [*sorted(claimed), ""]
            free = {
                text: stem for text, stem in free.items() if not any(text in claimed for claimed in claims.values())
            }
        return {name: found[stem] for stem, names in stems.items() if stem in found for name in names}

    def _row(self, name: str, beside: Mapping[str, list[str]], label: Label) -> Example | Rejected:
        if not _is_picture(name) and not _is_text(name):
            return Rejected(None, name, f"no picture ({', '.join(PICTURES)}) and no .txt: take it out of the folder")
        split, folder = self._place(name)
        parts = {"image": name} if _is_picture(name) else {}
        try:
            value = self.spec.encode(self.label, self.spec.parse_cell(folder), label)
            texts = beside.get(name, [name] if _is_text(name) else [])
            if len(texts) > 1:
                several = " or ".join(repr(text) for text in texts if text)
                told = f"its text may be {several}" if texts[-1] else f"{several} may be its text, or another picture's"
                raise DataError(f"{told}: name one text as the picture is named")
            if texts and (text := self._text(texts[0])).strip():
                parts["text"] = text
        except DataError as error:
            return Rejected(name, name, str(error))
        return Example(name, parts, {self.label: value}, split=split, meta={"folder": folder} if folder else {})

    def _text(self, name: str) -> str:
        try:
            return self.files.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{name} is not UTF-8 (byte {error.start}): convert it") from None


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURES


def _is_text(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() == ".txt"


def _stem(name: str) -> str:
    """The path without its last ending."""
    return str(PurePosixPath(name).with_suffix(""))
