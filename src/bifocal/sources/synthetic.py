"""Generated memes whose answer is known: hidden bits in caption and picture, and a label that follows from them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL.Image import Image as Picture
from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..config import Strict
from ..contracts import TextRole
from ..errors import ConfigError, DataError, nearest
from ..example import BINARY, LABELS, Example, Label, LabelValue
from ..files.labels import keys_as_written
from ..workspace import atomic, fingerprint
from ._synthetic_pictures import Cue, draw, png
from ._synthetic_texts import VOCABULARIES

LABEL = "abuse_hate"
PAIRS = ("neither", "text", "image", "both")
"""Classes of ``cue_pair``, at index t + 2v."""
CLASSES = ("none", "community")
"""Classes of ``target_type`` where its structure says 0 and 1."""
BLOCK = 4
"""Rows that share a structure; under ``xor`` they are the four pairings of two captions and two pictures."""
MIXTURE, BITS, CAPTION, SCENE, SPLIT, NOISE, ANNOTATION = range(7)
"""Streams of random numbers: one each, so that no choice shifts another."""


@dataclass(frozen=True)
class Structure:
    """How t, v and the clean label y hang together.

    Attributes
    ----------
    bits : callable
        Share of positives -> P(t, v), ``[2, 2]``.
    label : callable
        (t, v) -> y.
    """

    bits: Callable[[float], np.ndarray]
    label: Callable[[int, int], int]


def _independent(t: float, v: float) -> np.ndarray:
    return np.outer((1 - t, t), (1 - v, v))


STRUCTURES = {
    "redundant": Structure(lambda p: np.diag((1 - p, p)), lambda t, v: t),
    "unique_text": Structure(lambda p: _independent(p, 0.5), lambda t, v: t),
    "unique_image": Structure(lambda p: _independent(0.5, p), lambda t, v: v),
    "and": Structure(lambda p: _independent(p**0.5, p**0.5), lambda t, v: t & v),
    "xor": Structure(lambda p: _independent(0.5, 0.5), lambda t, v: t ^ v),
}
"""``xor`` has benign confounders: each caption stands with both pictures, and each picture with both captions."""


@dataclass(frozen=True)
class _Row:
    """What was drawn for one row; ``unit`` keys its caption and scene, ``missing`` names the part left out.

    ``structure`` is what the first label follows, ``drawn`` that by which the bits were drawn.
    """

    structure: str
    drawn: str
    unit: int
    t: int
    v: int
    y: int
    language: str
    caption: str
    missing: str | None


Share = Annotated[float, Field(ge=0, le=1)]
ShareOfClass = Annotated[dict[str, Share], BeforeValidator(keys_as_written)]


class Synthetic(Strict):
    """Memes with a bit t in the caption (a cue word), a bit v in the picture (a cue), and a label made of the two.

    For a deployed classifier they prove that the pipe works; for the lab they are the yardstick, because what text
    alone, image alone and both can reach is known (`known_accuracy`). Row i depends on the options and on
    ``(seed, i)`` alone, never on what was read before it, and pictures are drawn when they are opened.

    Known answers want ``overlay: false`` and ``ocr: never``: of every fifth picture or so OCR makes ``::`` out of its
    shapes, which takes a trace of the picture into the text.

    Attributes
    ----------
    size : int
        Rows. Under ``xor`` a multiple of 4, or the last quadruple is not whole.
    structure : str or dict
        Of ``abuse_hate``: one of `STRUCTURES`, or a mixture such as ``{"and": 0.5, "xor": 0.5}``, drawn anew for every
        4 rows. It says how the bits are drawn.
    structures : dict
        Unified label -> its structure, for several labels of the same posts: what each makes of the bits that
        ``structure`` draws (``xor``'s, where one of them is ``xor``). ``target_type`` is ``community`` where its
        structure says 1, else ``none``. That of ``abuse_hate`` may stand here instead of under ``structure``.
    cue : "colour", "background" or "object"
        What in the picture bears v; see `draw`.
    overlay : bool
        Draw the caption into the picture and leave the text part out, for OCR to read. The picture then bears t too:
        no known answers are claimed.
    label_noise : float
        Share of labels turned over, after the structure, in each label by itself; the bits stay.
    unlabelled : dict
        Label -> share of its rows that are not annotated (null), or ``{class: share}``, where that depends on the
        class that the row would have: ``{offensive: {0: 0.2, 1: 0.6}}``. Known answers are those of all rows.
    positives : float
        P(y = 1) of ``structure``, before the noise. ``redundant``: P(t = v = 1); ``unique_*``: of the bit that counts,
        the other is a fair coin; ``and``: each bit is 1 with the square root of it. ``xor`` is balanced by its
        confounders: alone, or as that of any label, it takes 0.5 only, in a mixture it stays at 0.5.
    missing_text, missing_image : float
        Shares of rows without that part; no row lacks both. The missing part's bit stays as it was drawn.
    languages : list of str
        Of the captions, each as often: en, de, es, fr.
    """

    size: Annotated[int, Field(ge=1)] = 1000
    structure: dict[str, Share] = Field(default={"and": 1.0})
    structures: dict[str, str] = Field(default={})
    cue: Cue = "colour"
    overlay: bool = False
    label_noise: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    unlabelled: dict[str, ShareOfClass] = Field(default={})
    positives: Annotated[float, Field(gt=0, lt=1)] = 0.5
    missing_text: Share = 0.0
    missing_image: Share = 0.0
    languages: list[str] = Field(default=["en"], min_length=1)
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    text_role: TextRole = "caption"

    def role_of(self, example: Example) -> TextRole:
        return self.text_role

    @model_validator(mode="before")
    @classmethod
    def _first_structure(cls, value: Any) -> Any:
        """That of the first label, wherever it stands, becomes ``structure``."""
        further = value.get("structures") if isinstance(value, Mapping) else None
        if not isinstance(further, Mapping) or LABEL not in further:
            return value
        if "structure" in value:
            raise ValueError(f"structure and structures.{LABEL} say the same thing: leave one out")
        others = {name: one for name, one in further.items() if name != LABEL}
        return {**value, "structure": further[LABEL], "structures": others}

    @field_validator("structure", mode="before")
    @classmethod
    def _mixture(cls, value: Any) -> Any:
        return {value: 1.0} if isinstance(value, str) else value

    @field_validator("structure")
    @classmethod
    def _known_structures(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in STRUCTURES:
                raise ValueError(f"there is no structure {name!r}; {nearest(name, STRUCTURES)}")
        if abs(sum(value.values()) - 1) > 1e-6:
            raise ValueError(f"the shares of {value} sum to {sum(value.values()):g}; they must sum to 1")
        return {name: share / sum(value.values()) for name, share in sorted(value.items())}

    @field_validator("structures")
    @classmethod
    def _known_labels(cls, value: dict[str, str]) -> dict[str, str]:
        for name, structure in value.items():
            if name not in LABELS:
                raise ValueError(f"there is no label {name!r} to give a structure; {nearest(name, LABELS)}")
            if structure not in STRUCTURES:
                raise ValueError(f"{name}: there is no structure {structure!r}; {nearest(structure, STRUCTURES)}")
        return {name: value[name] for name in LABELS if name in value}

    @field_validator("unlabelled", mode="before")
    @classmethod
    def _of_every_class(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        known = {name: LABELS[name].classes if name in LABELS else () for name in value}
        return {
            name: dict.fromkeys(known[name], share) if isinstance(share, int | float) else share
            for name, share in value.items()
        }

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in VOCABULARIES:
                raise ValueError(f"there are no captions in {name!r}; {nearest(name, VOCABULARIES)}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Synthetic:
        if self.missing_text + self.missing_image > 1:
            raise ValueError("missing_text + missing_image is above 1, and no row may lack both; lower one")
        if self.overlay and self.missing_image:
            raise ValueError("overlay: true puts the caption into the picture, so missing_image must be 0")
        if self._is_xor and self.positives != 0.5:
            raise ValueError(f"positives = {self.positives:g}, but xor is balanced by its confounders; set 0.5")
        asked = {*self.structure, *self.structures.values()}
        if self.structures and "redundant" in asked and len(asked) > 1:
            raise ValueError("under redundant both bits are one, so that every label is; give it to all labels or none")
        self._check_unlabelled()
        return self

    @property
    def _is_xor(self) -> bool:
        """Whether the bits of all rows are those of ``xor``."""
        return self.structure.get("xor") == 1 or "xor" in self.structures.values()

    def _check_unlabelled(self) -> None:
        known = (LABEL, *self.structures)
        for name, shares in self.unlabelled.items():
            if name not in known:
                raise ValueError(f"unlabelled: {name!r} follows no structure; {nearest(name, known)}")
            classes = [str(kind) for kind in LABELS[name].classes]
            if strange := [kind for kind in shares if kind not in classes]:
                raise ValueError(f"unlabelled.{name}: {strange[0]!r} is no class of it; allowed: {', '.join(classes)}")

    def labels(self) -> Mapping[str, Label]:
        return {
            LABEL: LABELS[LABEL],
            **{name: LABELS[name] for name in self.structures},
            "cue_text": Label(BINARY, "prob_cue_text", "The caption bears the cue word."),
            "cue_image": Label(BINARY, "prob_cue_image", "The picture bears the cue."),
            "cue_pair": Label(PAIRS, "prob", "Which of the two parts bear their cue."),
        }

    def __iter__(self) -> Iterator[Example]:  # type: ignore[override]
        return map(self.example, range(self.size))

    def example(self, i: int) -> Example:
        """Row ``i``; its picture is a reference that `open` draws. The hidden bits are labels, the rest is ``meta``."""
        row = self._row(i)
        parts = {"text": row.caption, "image": f"synthetic:{i}"}
        if row.missing:
            del parts[row.missing]
        if self.overlay:
            parts.pop("text", None)
        meta: dict[str, Any] = {"structure": row.structure, "vocabulary": row.language}
        if row.drawn == "xor":
            meta["quadruple"] = i // BLOCK
        if self.overlay and row.missing != "text":
            meta["caption"] = row.caption
        return Example(
            id=f"syn-{i:06d}",
            parts=parts,
            labels={
                **self._answers(i, row),
                "cue_text": row.t,
                "cue_image": row.v,
                "cue_pair": PAIRS[row.t + 2 * row.v],
            },
            group=f"quadruple-{i // BLOCK}" if row.drawn == "xor" else None,
            meta=meta,
        )

    def _answers(self, i: int, row: _Row) -> dict[str, LabelValue]:
        """The labels that follow structures, each with noise and gaps of its own."""
        found: dict[str, LabelValue] = {LABEL: row.y}
        for name, structure in self.structures.items():
            turned = np.random.default_rng([self.seed, i, NOISE, _place(name)]).random()
            y = STRUCTURES[structure].label(row.t, row.v) ^ int(turned < self.label_noise)
            found[name] = y if LABELS[name].binary else CLASSES[y]
        for name, shares in self.unlabelled.items():
            drawn = np.random.default_rng([self.seed, i, ANNOTATION, _place(name)]).random()
            if drawn < shares.get(str(found[name]), 0.0):
                found[name] = None
        return found

    def fingerprint(self) -> str:
        """Changes with the options, and with what this version makes of the first row."""
        picture = hashlib.sha256(self.open("synthetic:0")).hexdigest()
        silent = {name for name in ("structures", "unlabelled") if not getattr(self, name)}  # as before there were such
        return fingerprint(self.model_dump(exclude=silent), self.example(0).to_json(), picture)

    def open(self, reference: str) -> bytes:
        """The picture as PNG; the same bytes each time (for one version of Pillow and its zlib).

        Raises
        ------
        DataError
            Where the reference is not one of this source.
        """
        match = re.fullmatch(r"synthetic:([0-9]{1,12})", reference)
        if not match or int(match[1]) >= self.size:
            last = self.size - 1
            raise DataError(f"picture {reference!r} is not of this source; it has synthetic:0 to synthetic:{last}")
        row = self._row(int(match[1]))
        return png(self._scene(row, row.v))

    def cue_word(self, i: int) -> str:
        """The word of row ``i``'s caption that says t, in lower case: what an explanation of its text should find."""
        row = self._row(i)
        (word,) = VOCABULARIES[row.language].cue_words(row.t).intersection(row.caption.lower().split())
        return word

    def cue_mask(self, i: int) -> np.ndarray:
        """Pixels ``[384, 384]`` bool that bear v in row ``i``'s picture: those that would differ, were it turned."""
        row = self._row(i)
        off, on = (np.asarray(self._scene(row, v)) for v in (0, 1))
        mask: np.ndarray = (off != on).any(axis=2)
        return mask

    def joint(self, label: str = LABEL) -> np.ndarray:
        """P(t, v, y) of a label with its noise, ``[2, 2, 2]``: what the known answers follow from.

        Of ``target_type`` y = 1 is ``community``. Raises `ConfigError` on a label that follows no structure.
        """
        if label not in (known := (LABEL, *self.structures)):
            raise ConfigError(f"label {label!r} follows no structure; {nearest(label, known)}")
        table = np.zeros((2, 2, 2))
        for name, share in self.structure.items():
            bits = STRUCTURES[self._drawn(name)].bits(self.positives)
            for t, v in np.ndindex(2, 2):
                table[t, v, STRUCTURES[self.structures.get(label, name)].label(t, v)] += share * bits[t, v]
        return (1 - self.label_noise) * table + self.label_noise * table[..., ::-1]

    def known_accuracy(self, label: str = LABEL) -> dict[str, float]:
        """Accuracy of the best possible classifier that sees ``text`` alone, ``image`` alone, or ``both``.

        The Bayes rule by enumeration of `joint`: for each thing seen, the likelier label. Rows without a part are
        part of it: there the classifier knows of that part only that it is absent.

        Raises
        ------
        ConfigError
            With ``overlay``: the picture then holds the text too. On a label that follows no structure.
        """
        if self.overlay:
            raise ConfigError("with overlay: true the picture holds the text too; known answers need overlay: false")
        joint, no_text, no_image = self.joint(label), self.missing_text, self.missing_image
        neither, text, image, both = (float(joint.sum(unseen).max(-1).sum()) for unseen in ((0, 1), 1, 0, ()))
        return {
            "text": no_text * neither + (1 - no_text) * text,
            "image": no_image * neither + (1 - no_image) * image,
            "both": no_text * image + no_image * text + (1 - no_text - no_image) * both,
        }

    def write_folder(self, out: Path, *, progress: Callable[[int, int], None] | None = None) -> dict[str, int]:
        """Write all rows as a folder in the Hateful Memes layout, 70/10/20 in ``train``, ``dev``, ``test``.

        The hidden bits and ``meta`` become extra fields; no quadruple is torn apart. The ``.jsonl`` files appear
        when all pictures are there.

        Parameters
        ----------
        out : Path
            A folder that does not exist yet, or an empty one.
        progress : callable
            Called with (rows written, rows in all).

        Returns
        -------
        dict
            Rows in all and per file: ``examples, train, dev, test``.

        Raises
        ------
        ConfigError
            With ``missing_image``: the layout has no rows without a picture.
        DataError
            Where ``out`` is not an empty folder.
        """
        if self.missing_image:
            raise ConfigError("this layout has no rows without a picture; set missing_image to 0")
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise DataError(f"{out} is not an empty folder; nothing was written: name a new one, or empty it")
        (out / "img").mkdir(parents=True, exist_ok=True)
        splits = self._folder_splits()
        with ExitStack() as stack:
            files = {name: stack.enter_context(atomic(out / f"{name}.jsonl")) for name in ("train", "dev", "test")}
            for i, (example, split) in enumerate(zip(self, splits, strict=True)):
                labels = dict(example.labels)
                picture = f"img/{example.id}.png"
                row = {"id": example.id, "img": picture, "label": labels.pop(LABEL)}
                if "text" in example.parts:
                    row["text"] = example.parts["text"]
                (out / picture).write_bytes(self.open(example.parts["image"]))
                files[split].write(json.dumps(row | labels | example.meta, ensure_ascii=False) + "\n")
                if progress:
                    progress(i + 1, self.size)
        return {"examples": self.size, **{name: splits.count(name) for name in files}}

    def _folder_splits(self) -> list[str]:
        units = [_unit(i, self._drawn(self._structure(i))) for i in range(self.size)]
        _, inverse, counts = np.unique(units, return_inverse=True, return_counts=True)
        order = np.random.default_rng([self.seed, 0, SPLIT]).permutation(len(counts))
        before = np.empty(len(counts))
        before[order] = (np.cumsum(counts[order]) - counts[order]) / self.size
        return [("train", "dev", "test")[k] for k in np.searchsorted((0.7, 0.8), before[inverse], side="right")]

    def _row(self, i: int) -> _Row:
        structure = self._structure(i)
        drawn = self._drawn(structure)
        unit = _unit(i, drawn)
        rng = np.random.default_rng([self.seed, i, BITS])
        cell = rng.choice(4, p=STRUCTURES[drawn].bits(self.positives).ravel())
        t, v = divmod(i % BLOCK if drawn == "xor" else int(cell), 2)
        turned, missing = rng.random(2)
        rng = np.random.default_rng([self.seed, unit, CAPTION])
        language = self.languages[int(rng.integers(len(self.languages)))]
        return _Row(
            structure=structure,
            drawn=drawn,
            unit=unit,
            t=t,
            v=v,
            y=STRUCTURES[structure].label(t, v) ^ int(turned < self.label_noise),
            language=language,
            caption=VOCABULARIES[language].caption(t, rng),
            missing=self._missing(missing),
        )

    def _scene(self, row: _Row, v: int) -> Picture:
        """A row's picture, its cue saying ``v``."""
        caption = row.caption if self.overlay and row.missing != "text" else None
        return draw(self.cue, v, np.random.default_rng([self.seed, row.unit, SCENE]), caption)

    def _missing(self, drawn: float) -> str | None:
        if drawn < self.missing_text:
            return "text"
        return "image" if drawn < self.missing_text + self.missing_image else None

    def _structure(self, i: int) -> str:
        if len(self.structure) == 1:
            return next(iter(self.structure))
        rng = np.random.default_rng([self.seed, i // BLOCK, MIXTURE])
        return str(rng.choice(list(self.structure), p=list(self.structure.values())))

    def _drawn(self, structure: str) -> str:
        """The structure by which the bits of a row are drawn, where the first label follows this one."""
        return "xor" if self._is_xor else structure


def _place(label: str) -> int:
    """Which of the unified labels it is: keys its random numbers, whatever other labels are asked for."""
    return list(LABELS).index(label)


def _unit(i: int, structure: str) -> int:
    """The row whose caption and scene row ``i`` has: the first of its quadruple under ``xor``, else its own."""
    return i - i % BLOCK if structure == "xor" else i
