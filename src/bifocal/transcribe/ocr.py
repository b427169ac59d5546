"""Reads the words on one picture by RapidOCR: at its own size, whichever way up, and tells what it could not read."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

from ..config import Strict, TranscriberConfig
from ..modalities.image import decode
from ..plugins import options
from ..workspace import file_sha256, fingerprint
from ._ocr_lines import DETAIL, SHORT_SIDE, Line, Page, area, confidence, crop, ordered, readable
from ._ocr_models import detector, engine_name, recognisers, settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rapidocr.ch_ppocr_det import TextDetector
    from rapidocr.ch_ppocr_rec import TextRecognizer

    from ..contracts import Transcript
    from ..modalities.image import Picture

METHOD = 1
"""Another wherever the same models may read other words: readings of another method are not taken from the cache."""

_TILE = 1536  # longer pictures go through the detector in pieces, 300 MB of memory each
_OVERLAP = 256
_LINES = 200  # of one picture, the largest ones
_TRIED = 8  # lines that are turned upside down before the others are
_UPRIGHT = 0.9  # under it a line is tried the other way up
_TURNED = 0.93  # and so read it is believed from here on
_TURNED_ALL = 0.8  # where all that are tried come to this together
_BETTER = 0.1  # by which a turned line has to be surer than as it stood
_WORD = 1.5  # times its height a line is wide, at least; smaller ones that cannot be read were hardly words


@dataclass(frozen=True, slots=True)
class Reading:
    """What OCR made of one picture.

    Attributes
    ----------
    text : str
        One line per box that was read, in reading order.
    boxes : list
        Four corners ``[x, y]`` per line of ``text``, in pixels of the picture padded to 384x384.
    confidence : float or None
        Mean over the lines, 0..1; None where there is none.
    engine : str
        Name and version of the engine.
    unread : int
        Lines that were seen and could not be read, as in a script that no model knows.
    """

    text: str
    boxes: list[list[list[int]]]
    confidence: float | None
    engine: str
    unread: int = 0

    @property
    def mostly_unread(self) -> bool:
        """Whether half or more of its lines could not be read: not the same as a picture without words."""
        return self.unread > 0 and self.unread >= len(self.boxes)


class Ocr:
    """RapidOCR on one thread, with models that lie on this machine; they take a second to load.

    Parameters
    ----------
    languages : sequence of str, optional
        Whose models are asked, each for every line: the surest answer counts. None = the model of the package, which
        reads Latin, Chinese and Japanese.
    """

    modality: ClassVar[str] = "image"
    block: ClassVar[str] = "OCR"
    noun: ClassVar[str] = "picture"
    hint: ClassVar[str] = "another script? `ocr.languages`; docs/ocr.md says which are read"
    transcript: ClassVar[Callable[..., Transcript]] = Reading

    def __init__(self, languages: Sequence[str] | None = None) -> None:
        self.languages = languages

    @classmethod
    def from_config(cls, config: TranscriberConfig) -> Self:
        options("transcriber", "ocr", config.options, Strict)
        return cls(config.languages)

    def __reduce__(self) -> tuple[type[Self], tuple[Sequence[str] | None]]:
        """Without the models, which no other process can be given."""
        return type(self), (self.languages,)

    @cached_property
    def engine(self) -> str:
        models = recognisers(self.languages)
        others = self.languages and models != recognisers(None)
        return engine_name() + (f" ({', '.join(model.name for model in models)})" if others else "")

    def reach(self) -> None:
        if self.languages:
            recognisers(self.languages)

    def key(self) -> str:
        models = [detector(), *(model.path for model in recognisers(self.languages))]
        return fingerprint(METHOD, engine_name(), [(path.name, file_sha256(path)) for path in models])

    def load(self) -> None:
        self._models  # noqa: B018  # loads them
        if multiprocessing.parent_process() is not None:
            import cv2

            cv2.setNumThreads(1)  # RapidOCR crops with OpenCV, which takes a thread per core in every process

    @cached_property
    def _models(self) -> tuple[TextDetector, list[TextRecognizer]]:
        self.engine  # noqa: B018  # where nothing is installed, this names the extra
        chosen = recognisers(self.languages)
        from rapidocr.ch_ppocr_det import TextDetector
        from rapidocr.ch_ppocr_rec import TextRecognizer

        made = [settings(model) for model in chosen]
        return TextDetector(made[0][0]), [TextRecognizer(recogniser) for _, recogniser in made]

    def read(self, blob: bytes) -> Reading:
        """Read a picture file, the whole of it whatever the run's ``fit`` cuts off. Raises `PictureError`."""
        return self.read_picture(decode(blob, at_least=DETAIL * SHORT_SIDE))

    def read_picture(self, picture: Picture) -> Reading:
        """Read an RGB picture of any size; one without words costs the detector only."""
        page = Page(picture)
        boxes = self._boxes(page)
        if not boxes:
            return Reading("", [], None, self.engine)
        lines = self._lines(page.pixels, boxes)
        read = readable(lines)
        unread = sum(line.length >= _WORD for line in lines) - sum(line.length >= _WORD for line in read)
        if not read:
            return Reading("", [], None, self.engine, unread)
        sure = sum(line.score for line in read) / len(read)
        text = "\n".join(" ".join(line.text.split()) for line in read)
        return Reading(text, [page.packed(line.box) for line in read], round(sure, 4), self.engine, unread)

    def _boxes(self, page: Page) -> list[NDArray[np.float32]]:
        """The four corners of each line, in pixels of the page; the largest ones."""
        import numpy as np

        seen = self._text_map(page.reduced())
        height, width = page.pixels.shape[:2]
        found, _ = self._models[0].postprocess_op(seen[None, None], (height, width))
        boxes = [np.asarray(box, dtype=np.float32) for box in found]
        return sorted(boxes, key=area, reverse=True)[:_LINES]

    def _text_map(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """How likely each pixel lies in a line.

        A long picture goes through the detector in overlapping tiles. Their maps, not their boxes, are put together:
        a line on a border is then one line, neither cut nor found twice.
        """
        import numpy as np

        along = int(pixels.shape[1] > pixels.shape[0])
        length = pixels.shape[along]
        starts = [0]
        while starts[-1] + _TILE < length:
            starts.append(min(starts[-1] + _TILE - _OVERLAP, length - _TILE))
        whole = np.zeros(pixels.shape[:2], dtype=np.float32)
        for start in starts:
            tile = pixels.take(range(start, min(start + _TILE, length)), axis=along)
            batch = ((tile.astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]
            seen = self._models[0].session(batch)[0, 0]
            margin = _OVERLAP // 2 if start else 0  # at its own end a tile lacks what lies beyond
            part = slice(start + margin, start + tile.shape[along])
            np.moveaxis(whole, along, 0)[part] = np.moveaxis(seen, along, 0)[margin:]
        return whole

    def _lines(self, pixels: NDArray[np.uint8], boxes: Sequence[NDArray[np.float32]]) -> list[Line]:
        """What is read of each box, in reading order; what is read badly is tried the other way up."""
        unread = [Line(box, "", 0.0) for box in boxes]
        upended = 2 * sum(line.length for line in unread if line.tall) > sum(line.length for line in unread)
        crops = [crop(pixels, line, upended) for line in unread]
        lines = [
            replace(line, text=text, score=score)
            for line, (text, score) in zip(unread, self._recognise(crops), strict=True)
        ]
        doubtful = [i for i, line in enumerate(lines) if line.quality < _UPRIGHT and line.length >= _WORD]
        doubtful.sort(key=lambda i: lines[i].length, reverse=True)
        for some in (doubtful[:_TRIED], doubtful[_TRIED:]):
            answers = self._recognise([crops[i][::-1, ::-1] for i in some])
            turned = [replace(lines[i], text=t, score=s, turned=True) for i, (t, s) in zip(some, answers, strict=True)]
            if confidence(turned) < _TURNED_ALL:  # one of several that looks like words turned is chance
                break
            for i, other in zip(some, turned, strict=True):
                if other.quality >= max(_TURNED, lines[i].quality + _BETTER):
                    lines[i] = other
        return ordered(lines, upended)

    def _recognise(self, crops: Sequence[NDArray[np.uint8]]) -> list[tuple[str, float]]:
        """Text and confidence of each line, by the surest of the models; of equals by the first."""
        import numpy as np
        from rapidocr.ch_ppocr_rec import TextRecInput

        if not crops:
            return []
        images = [np.ascontiguousarray(crop) for crop in crops]
        answers = [model(TextRecInput(img=images, return_word_box=False)) for model in self._models[1]]
        lines = zip(*(zip(answer.txts, answer.scores, strict=True) for answer in answers), strict=True)
        return [max(of_one, key=lambda answer: (bool(answer[0].strip()), round(answer[1], 2))) for of_one in lines]
