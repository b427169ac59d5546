"""The CrisisHateMM layout of the CASE shared tasks: pictures in folders named by their label, their OCR text in CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from ..contracts import TextRole
from ..example import LABELS, Example, Label, LabelValue, Rejected
from ..files.folders import is_clutter
from ..files.tables import DelimitedTables

FOLDERS: dict[str, dict[str, dict[str, LabelValue]]] = {
    "A": {
        "hate speech": {"abuse_hate": 1, "target_type": None},
        "no hate speech": {"abuse_hate": 0, "target_type": "none"},
    },
    "B": {target: {"abuse_hate": 1, "target_type": target} for target in ("individual", "community", "organization")},
}
"""Sub-task -> folder, in lower case -> labels."""
UNLABELLED: dict[str, dict[str, LabelValue]] = {
    "A": {"abuse_hate": None, "target_type": None},
    "B": {"abuse_hate": 1, "target_type": None},
}
"""What is known of pictures outside such a folder: sub-task B has hateful ones only."""
SPLITS = {"train": "train", "eval": "val", "test": "test"}
_PLACE = re.compile(
    r"(?:.*/)?(?P<path>[^/]*(?P<split>train|eval|test)[^/]*/subtask(?P<subtask>[ab])/(?:(?P<folder>[^/]+)/)?"
    r"(?P<index>[^/]+)\.(?:jpe?g|png))",
    re.IGNORECASE,
)


class CrisisHateMm(DelimitedTables):
    """Pictures with text on Russia's war against Ukraine, as published by Bhandari et al. 2023 (CrisisHateMM, CVPR
    Workshops) for the shared tasks of CASE 2023 and 2024, with their official splits.

    Below the root lie ``…TrainData/subTaskA/{Hate Speech,No Hate Speech}/``, ``…TrainData/subTaskB/{Individual,
    Community,Organization}/``, ``…EvalData/subtaskA/`` (val) and the like, with pictures ``<index>.jpg``; also any CSV
    with ``filename,text`` (the authors' ``Extracted Text/``), where ``filename`` ends in such a path. A line of it
    without its picture is a row all the same. Folders and CSV are as the authors' repository has them; that it names
    test data and the labels of eval and test likewise is not verified: a picture outside a folder of a label has none.

    ``abuse_hate`` and ``target_type`` follow the folder. Sub-task A says nothing of the targets of hate.

    Attributes
    ----------
    root : Path
        The folder or archive that holds all of it.
    subtask : "A" or "B"
        ``A``: hate or not. ``B``: hateful pictures and their targets. Both hold the same pictures under other indices
        and in other splits, which is why only one of them is read.
    text_role : "transcript" or "caption"
        ``transcript``: what stands in the picture.
    """

    expected: ClassVar[str] = (
        "CASE2023_TASK4_TrainData/subTaskA/Hate Speech/<index>.jpg and the like (the folder named Train, Eval or Test, "
        "then subTaskA or subTaskB as the option subtask says)"
    )

    subtask: Literal["A", "B"] = "A"
    text_role: TextRole = "transcript"

    def labels(self) -> Mapping[str, Label]:
        return {name: LABELS[name] for name in ("abuse_hate", "target_type")}

    def listed(self) -> list[str]:
        """Here the pictures list the rows; with them the CSV files of their text."""
        names = [name for name in self.files.names() if not is_clutter(name)]
        places = [name for name in names if (place := _place(name)) and place.subtask == self.subtask]
        return places + [name for name in names if places and _is_csv(name)]

    def listing(self) -> Any:
        listed = self.listed()
        return listed, self.files.contents(name for name in listed if _is_csv(name))

    def rows(self) -> Iterator[Example | Rejected]:
        listed = self.listed()
        texts: dict[tuple[str, str], tuple[str, _Place, str | None]] = {}
        for name in (name for name in listed if _is_csv(name)):
            for where, row in self.read(name):
                if isinstance(row, Rejected):
                    yield row
                elif "filename" not in row:
                    break  # a table of something else
                elif (place := _place(row["filename"] or "")) is None:
                    reason = f"filename = {row['filename']!r} is not of this layout: …TrainData/subTaskA/…/<index>.jpg"
                    yield Rejected(None, where, reason, row)
                elif place.subtask == self.subtask:
                    texts[place.split, place.number] = (where, place, row.get("text"))
        for name in listed:
            if place := _place(name):
                _, _, text = texts.pop((place.split, place.number), (None, None, None))
                yield _example(place, name, name, text)
        for where, place, text in texts.values():
            yield _example(place, place.path, where, text)


class _Place(NamedTuple):
    """What a picture's path says of it."""

    path: str
    split: str
    subtask: str
    folder: str | None
    number: str


def _is_csv(name: str) -> bool:
    return name.lower().endswith(".csv")


def _place(name: str) -> _Place | None:
    found = _PLACE.fullmatch(name)
    if not found:
        return None
    split, subtask = SPLITS[found["split"].lower()], found["subtask"].upper()
    return _Place(found["path"], split, subtask, found["folder"], found["index"])


def _example(place: _Place, reference: str, where: str, text: str | None) -> Example | Rejected:
    key = f"{place.subtask}-{place.split}-{place.number}"
    folders = FOLDERS[place.subtask]
    if place.folder is not None and place.folder.lower() not in folders:
        allowed = ", ".join(repr(folder) for folder in folders)
        return Rejected(key, where, f"the folder {place.folder!r} is no label; allowed: {allowed}, or none at all")
    return Example(
        id=key,
        parts={"text": text, "image": reference} if text else {"image": reference},
        labels=dict(folders[place.folder.lower()] if place.folder else UNLABELLED[place.subtask]),
        split=place.split,
    )
