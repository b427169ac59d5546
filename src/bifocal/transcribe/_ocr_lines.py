"""The page on which OCR looks for lines, and the lines themselves: cut out, in reading order, believed or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import TYPE_CHECKING, Any

from PIL import Image as Pillow

from ..modalities.image import PADDING, SIDE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..modalities.image import Picture

SHORT_SIDE = 640
"""Pixels of a picture's shorter side in which lines are looked for; what is larger is made so small first. Body text on
a phone's screenshot is then 16 to 23 pixels high, and the detector finds lines from about 10 on."""
_MOST_PIXELS = 2_500_000  # in which lines are looked for: 2 to 3 seconds; very long pictures are made smaller for it
_LONG_SIDE = 8192
_THIN = 96  # a strip is set on white of this width: at its very edge the detector finds nothing
_STEP = 32  # the detector takes multiples of it
DETAIL = 2
"""Lines are read in so much more detail than they are found in."""
_WIDEST = 48  # times its height: a longer line is squeezed, as memory grows with it

SURE = 0.9
"""Confidence of a whole picture from which on it counts as read. Measured on 24 Latin languages, Chinese and Japanese:
0.97 and more; on real memes 0.93 in 95 of 100; on 23 languages in other scripts, and upside down: under 0.85."""
_PLAUSIBLE = 0.75  # of a line on a picture that counts as read
_CERTAIN = 0.95  # of a line on another
_SHARE = 1 / 3  # of all lines has to be certain on a picture that does not count as read, or nothing on it does
_CROWDED = 0.6  # signs for each height of a line's width: with fewer, most of it was passed over
_SPARSE = 0.3
_TWINS = frozenset("ABCEHIJKMOPSTXYaceijopsxy")
"""Letters that Cyrillic and Greek share with Latin by their shape: a line of nothing else may well be neither."""


@dataclass(frozen=True, slots=True)
class Line:
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


class Page:
    """A picture as lines are read in it: no larger than needed, and a strip of it on white."""

    def __init__(self, picture: Picture):
        width, height = self.size = picture.size
        if max(self.size) < SIDE:
            self._found_at = SIDE / max(self.size)
        else:
            bound = sqrt(_MOST_PIXELS / (width * height))
            self._found_at = min(1.0, SHORT_SIDE / min(self.size), bound, _LONG_SIDE / max(self.size))
        self._scale = max(self._found_at, min(1.0, DETAIL * self._found_at))
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


def area(box: NDArray[np.float32]) -> float:
    return float(hypot(*(box[1] - box[0])) * hypot(*(box[3] - box[0])))


def crop(pixels: NDArray[np.uint8], line: Line, upended: bool) -> NDArray[Any]:
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


def ordered(lines: Sequence[Line], upended: bool) -> list[Line]:
    """In reading order: row by row, each from its left, of the page as it stands upright."""
    turned = 2 * sum(line.length for line in lines if line.turned) > sum(line.length for line in lines)
    sign = -1 if turned else 1

    def place(line: Line) -> tuple[float, float]:
        x, y = (float(at) for at in line.box.mean(axis=0))
        return (sign * -x, sign * y) if upended else (sign * y, sign * x)  # down, across

    rows: list[list[Line]] = []
    last, depth = 0.0, 0.0
    for line in sorted(lines, key=lambda line: place(line)[0]):
        down = place(line)[0]
        if not rows or down - last > min(depth, min(line.sides)) / 2:
            rows.append([])
        rows[-1].append(line)
        last, depth = down, min(line.sides)
    return [line for row in rows for line in sorted(row, key=lambda line: place(line)[1])]


def readable(lines: Sequence[Line]) -> list[Line]:
    """The lines that are words; what a recogniser makes of a script that it does not know is none.

    It is never at a loss: Hebrew becomes digits, Cyrillic the Latin letters that look like it. But it is unsure, and
    passes most over, of the picture as a whole; only on a picture that is sure is a line believed that is less so.
    """
    if confidence(lines) >= SURE:
        return [line for line in lines if line.score >= _PLAUSIBLE and line.density >= _SPARSE]
    certain = [
        line
        for line in lines
        if line.score >= _CERTAIN
        and line.density >= 1.5 * _SPARSE
        and not _TWINS.issuperset(sign for sign in line.text if sign.isalpha())
    ]
    return certain if sum(line.length for line in certain) >= _SHARE * sum(line.length for line in lines) else []


def confidence(lines: Sequence[Line]) -> float:
    """Of all lines together, long ones counting for more; 0 where there are none."""
    return sum(line.length * line.quality for line in lines) / max(sum(line.length for line in lines), 1e-9)
