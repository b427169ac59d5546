"""Reads the words on one picture by RapidOCR: at its own size, whichever way up, and tells what it could not read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt
from typing import TYPE_CHECKING, Any

from PIL import Image as Pillow

from ..modalities.image import PADDING, SIDE, decode
from ..workspace import file_sha256, fingerprint
from .ocr_models import detector, engine_name, recognisers, settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..modalities.image import Picture

METHOD = 1
"""Another wherever the same models may read other words: readings of another method are not taken from the cache."""

SHORT_SIDE = 640
"""Pixels of a picture's shorter side in which lines are looked for; what is larger is made so small first. Body text on
a phone's screenshot is then 16 to 23 pixels high, and the detector finds lines from about 10 on."""
_MOST_PIXELS = 2_500_000  # in which lines are looked for: 2 to 3 seconds; very long pictures are made smaller for it
_LONG_SIDE = 8192
_THIN = 96  # a strip is set on white of this width: at its very edge the detector finds nothing
_TILE = 1536  # longer pictures go through the detector in pieces, 300 MB of memory each
_OVERLAP = 256
_STEP = 32  # the detector takes multiples of it
_DETAIL = 2  # lines are read in so much more detail than they are found in
_LINES = 200  # of one picture, the largest ones
_WIDEST = 48  # times its height: a longer line is squeezed, as memory grows with it
_TRIED = 8  # lines that are turned upside down before the others are

SURE = 0.9
"""Confidence of a whole picture from which on it counts as read. Measured on 24 Latin languages, Chinese and Japanese:
0.97 and more; on real memes 0.93 in 95 of 100; on 23 languages in other scripts, and upside down: under 0.85."""
_PLAUSIBLE = 0.75  # of a line on a picture that counts as read
_CERTAIN = 0.95  # of a line on another
_UPRIGHT = 0.9  # under it a line is tried the other way up
_TURNED = 0.93  # and so read it is believed from here on
_TURNED_ALL = 0.8  # where all that are tried come to this together
_BETTER = 0.1  # by which a turned line has to be surer than as it stood
_SHARE = 1 / 3  # of all lines has to be certain on a picture that does not count as read, or nothing on it does
_WORD = 1.5  # times its height a line is wide, at least; smaller ones that cannot be read were hardly words
_CROWDED = 0.6  # signs for each height of a line's width: with fewer, most of it was passed over
_SPARSE = 0.3
_TWINS = frozenset("ABCEHIJKMOPSTXYaceijopsxy")
"""Letters that Cyrillic and Greek share with Latin by their shape: a line of nothing else may well be neither."""


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
        return mostly_unread(self.unread, len(self.boxes))


@dataclass(frozen=True, slots=True)
class _Line:
    """A line as it was found, in pixels of the page, and what was read of it."""

    box: NDArray[np.float32]
    text: str
    score: float
    turned: bool = False
    """Whether it was read upside down."""

    @property
    def sides(self) -> tuple[float, float]:
        top, left = self.box[1] - self.box[0], self.box[3] - self.box[0]
        return hypot(*top), hypot(*left)

    @property
    def tall(self) -> bool:
        width, height = self.sides
        return height >= 1.5 * width

    @property
    def length(self) -> float:
        """Times its height, 1 at least."""
        return max(self.sides) / max(min(self.sides), 1)

    @property
    def density(self) -> float:
        return len("".join(self.text.split())) / self.length

    @property
    def quality(self) -> float:
        """How sure it is read, and whole: what the recogniser cannot read it often passes over."""
        return self.score * min(1.0, self.density / _CROWDED)


class Reader:
    """RapidOCR on one thread, with models that lie on this machine; slow to make, so make it once.

    Parameters
    ----------
    languages : sequence of str, optional
        Whose models are asked, each for every line: the surest answer counts. None = the model of the package, which
        reads Latin, Chinese and Japanese.

    Raises
    ------
    ConfigError
        Where no model reads a language, or it is not here.
    MissingExtra
        Where rapidocr is not installed.
    """

    def __init__(self, languages: Sequence[str] | None = None) -> None:
        self.engine = engine_of(languages)
        chosen = recognisers(languages)
        from rapidocr.ch_ppocr_det import TextDetector
        from rapidocr.ch_ppocr_rec import TextRecognizer

        made = [settings(model) for model in chosen]
        self._detector = TextDetector(made[0][0])
        self._recognisers = [TextRecognizer(recogniser) for _, recogniser in made]

    def read(self, picture: Picture) -> Reading:
        """Read an RGB picture of any size; one without words costs the detector only."""
        page = _Page(picture)
        boxes = self._boxes(page)
        if not boxes:
            return Reading("", [], None, self.engine)
        lines = self._lines(page.pixels, boxes)
        read = _readable(lines)
        unread = sum(line.length >= _WORD for line in lines) - sum(line.length >= _WORD for line in read)
        if not read:
            return Reading("", [], None, self.engine, unread)
        confidence = sum(line.score for line in read) / len(read)
        text = "\n".join(" ".join(line.text.split()) for line in read)
        return Reading(text, [page.packed(line.box) for line in read], round(confidence, 4), self.engine, unread)

    def read_file(self, blob: bytes) -> Reading:
        """Read a picture file, the whole of it whatever the run's ``fit`` cuts off. Raises `PictureError`."""
        return self.read(decode(blob, at_least=_DETAIL * SHORT_SIDE))

    def _boxes(self, page: _Page) -> list[NDArray[np.float32]]:
        """The four corners of each line, in pixels of the page; the largest ones."""
        import numpy as np

        seen = self._text_map(page.reduced())
        height, width = page.pixels.shape[:2]
        found, _ = self._detector.postprocess_op(seen[None, None], (height, width))
        boxes = [np.asarray(box, dtype=np.float32) for box in found]
        return sorted(boxes, key=_area, reverse=True)[:_LINES]

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
            seen = self._detector.session(batch)[0, 0]
            margin = _OVERLAP // 2 if start else 0  # at its own end a tile lacks what lies beyond
            part = slice(start + margin, start + tile.shape[along])
            np.moveaxis(whole, along, 0)[part] = np.moveaxis(seen, along, 0)[margin:]
        return whole

    def _lines(self, pixels: NDArray[np.uint8], boxes: Sequence[NDArray[np.float32]]) -> list[_Line]:
        """What is read of each box, in reading order; what is read badly is tried the other way up."""
        unread = [_Line(box, "", 0.0) for box in boxes]
        upended = 2 * sum(line.length for line in unread if line.tall) > sum(line.length for line in unread)
        crops = [_crop(pixels, line, upended) for line in unread]
        lines = [
            replace(line, text=text, score=score)
            for line, (text, score) in zip(unread, self._recognise(crops), strict=True)
        ]
        doubtful = [i for i, line in enumerate(lines) if line.quality < _UPRIGHT and line.length >= _WORD]
        doubtful.sort(key=lambda i: lines[i].length, reverse=True)
        for some in (doubtful[:_TRIED], doubtful[_TRIED:]):
            answers = self._recognise([crops[i][::-1, ::-1] for i in some])
            turned = [replace(lines[i], text=t, score=s, turned=True) for i, (t, s) in zip(some, answers, strict=True)]
            if _confidence(turned) < _TURNED_ALL:  # one of several that looks like words turned is chance
                break
            for i, other in zip(some, turned, strict=True):
                if other.quality >= max(_TURNED, lines[i].quality + _BETTER):
                    lines[i] = other
        return _ordered(lines, upended)

    def _recognise(self, crops: Sequence[NDArray[np.uint8]]) -> list[tuple[str, float]]:
        """Text and confidence of each line, by the surest of the models; of equals by the first."""
        import numpy as np
        from rapidocr.ch_ppocr_rec import TextRecInput

        if not crops:
            return []
        images = [np.ascontiguousarray(crop) for crop in crops]
        answers = [model(TextRecInput(img=images, return_word_box=False)) for model in self._recognisers]
        lines = zip(*(zip(answer.txts, answer.scores, strict=True) for answer in answers), strict=True)
        return [max(of_one, key=lambda answer: (bool(answer[0].strip()), round(answer[1], 2))) for of_one in lines]


class _Page:
    """A picture as lines are read in it: no larger than needed, and a strip of it on white."""

    def __init__(self, picture: Picture):
        width, height = self.size = picture.size
        if max(self.size) < SIDE:
            self._found_at = SIDE / max(self.size)
        else:
            bound = sqrt(_MOST_PIXELS / (width * height))
            self._found_at = min(1.0, SHORT_SIDE / min(self.size), bound, _LONG_SIDE / max(self.size))
        self._scale = max(self._found_at, min(1.0, _DETAIL * self._found_at))
        shown = _resized(picture, self._scale)
        thin = round(_THIN * self._scale / self._found_at)
        canvas = Pillow.new("RGB", (max(shown.width, thin), max(shown.height, thin)), PADDING)
        self._left, self._top = (canvas.width - shown.width) // 2, (canvas.height - shown.height) // 2
        canvas.paste(shown, (self._left, self._top))
        self._canvas = canvas
        self.pixels: NDArray[np.uint8] = _bgr(canvas)

    def reduced(self) -> NDArray[np.uint8]:
        """As the detector takes it."""
        factor = self._found_at / self._scale
        width, height = (max(_STEP, round(side * factor / _STEP) * _STEP) for side in self._canvas.size)
        if (width, height) == self._canvas.size:
            return self.pixels
        return _bgr(self._canvas.resize((width, height), Pillow.Resampling.BICUBIC))

    def packed(self, box: NDArray[np.float32]) -> list[list[int]]:
        """A box in pixels of the picture padded to `SIDE`."""
        scale = SIDE / max(self.size)
        margins = [(SIDE - max(1, round(side * scale))) // 2 for side in self.size]
        return [
            [
                min(SIDE, max(0, round((float(at) - offset) / self._scale * scale + margin)))
                for at, offset, margin in zip(corner, (self._left, self._top), margins, strict=True)
            ]
            for corner in box
        ]


def mostly_unread(unread: int, read: int) -> bool:
    """Whether half or more of a picture's lines could not be read."""
    return unread > 0 and unread >= read


def engine_of(languages: Sequence[str] | None) -> str:
    """What a `Reader` of these languages calls itself. Raises as `Reader`."""
    models = recognisers(languages)
    others = f" ({', '.join(model.name for model in models)})" if languages and models != recognisers(None) else ""
    return engine_name() + others


def reading_key(languages: Sequence[str] | None) -> str:
    """Names all that a reading depends on beside the picture: engine, models by their content, and our method.

    Raises as `Reader`.
    """
    models = [detector(), *(model.path for model in recognisers(languages))]
    return fingerprint(METHOD, engine_name(), [(path.name, file_sha256(path)) for path in models])


def _resized(picture: Picture, scale: float) -> Picture:
    if scale == 1:
        return picture
    # Never to nothing: the short side of a line is a pixel still.
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    return picture.resize((size[0], size[1]), Pillow.Resampling.BICUBIC)


def _bgr(picture: Picture) -> NDArray[np.uint8]:
    """As OpenCV has it."""
    import numpy as np

    return np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])


def _area(box: NDArray[np.float32]) -> float:
    return float(hypot(*(box[1] - box[0])) * hypot(*(box[3] - box[0])))


def _crop(pixels: NDArray[np.uint8], line: _Line, upended: bool) -> NDArray[Any]:
    """A line cut out of its page, straight; on a page that stands on its side short words lie with the long ones."""
    import cv2
    import numpy as np
    from rapidocr.utils.process_img import get_rotate_crop_image

    crop = get_rotate_crop_image(pixels, line.box.copy())  # lays what is 1.5 times as high as wide on its side
    if upended and not line.tall and line.sides[1] > line.sides[0] / 1.5:
        crop = np.rot90(crop)
    height, width = crop.shape[:2]
    if width > _WIDEST * height:
        crop = cv2.resize(np.ascontiguousarray(crop), (_WIDEST * height, height), interpolation=cv2.INTER_AREA)
    return np.asarray(crop)


def _ordered(lines: Sequence[_Line], upended: bool) -> list[_Line]:
    """In reading order: row by row, each from its left, of the page as it stands upright."""
    turned = 2 * sum(line.length for line in lines if line.turned) > sum(line.length for line in lines)
    sign = -1 if turned else 1

    def place(line: _Line) -> tuple[float, float]:
        x, y = (float(at) for at in line.box.mean(axis=0))
        return (sign * -x, sign * y) if upended else (sign * y, sign * x)  # down, across

    rows: list[list[_Line]] = []
    last, depth = 0.0, 0.0
    for line in sorted(lines, key=lambda line: place(line)[0]):
        down = place(line)[0]
        if not rows or down - last > min(depth, min(line.sides)) / 2:
            rows.append([])
        rows[-1].append(line)
        last, depth = down, min(line.sides)
    return [line for row in rows for line in sorted(row, key=lambda line: place(line)[1])]


def _readable(lines: Sequence[_Line]) -> list[_Line]:
    """The lines that are words; what a recogniser makes of a script that it does not know is none.

    It is never at a loss: Hebrew becomes digits, Cyrillic the Latin letters that look like it. But it is unsure, and
    passes most over, of the picture as a whole; only on a picture that is sure is a line believed that is less so.
    """
    if _confidence(lines) >= SURE:
        return [line for line in lines if line.score >= _PLAUSIBLE and line.density >= _SPARSE]
    certain = [
        line
        for line in lines
        if line.score >= _CERTAIN
        and line.density >= 1.5 * _SPARSE
        and not _TWINS.issuperset(sign for sign in line.text if sign.isalpha())
    ]
    return certain if sum(line.length for line in certain) >= _SHARE * sum(line.length for line in lines) else []


def _confidence(lines: Sequence[_Line]) -> float:
    """Of all lines together, long ones counting for more; 0 where there are none."""
    return sum(line.length * line.quality for line in lines) / max(sum(line.length for line in lines), 1e-9)
