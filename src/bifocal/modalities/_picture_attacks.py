"""What people and platforms do to a picture on its way: cropping, watermarks, screenshots, captions moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image as Pillow
from PIL import ImageDraw, ImageEnhance, ImageFont, ImageOps

if TYPE_CHECKING:
    import numpy as np

    Picture = Pillow.Image
    Attack = Callable[[Picture, float, np.random.Generator], Picture]
    Box = tuple[int, int, int, int]

WORDS = "words"
"""Key of ``Picture.info`` under which the boxes of its words lie where they are known: four corners ``(x, y)`` each."""
_MARGIN = 3
"""Pixels around a box of words, which OCR draws tightly."""


def _brightness(picture: Picture, change: float, rng: np.random.Generator) -> Picture:
    return ImageEnhance.Brightness(picture).enhance(1 + change if rng.random() < 0.5 else 1 - change)


def _crop(picture: Picture, lost: float, rng: np.random.Generator) -> Picture:
    width, height = (round(length * (1 - lost)) for length in picture.size)
    left, top = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
    return picture.resize(picture.size, Pillow.Resampling.BICUBIC, (left, top, left + width, top + height))


def _rotation(picture: Picture, degrees: float, rng: np.random.Generator) -> Picture:
    turn = degrees if rng.random() < 0.5 else -degrees
    return picture.rotate(turn, Pillow.Resampling.BICUBIC, fillcolor="white")


def _overlay(picture: Picture, opacity: float, rng: np.random.Generator) -> Picture:
    """A watermark all over, as accounts that repost put it."""
    layer = Pillow.new("RGBA", picture.size, (0, 0, 0, 0))
    pen, size = ImageDraw.Draw(layer), max(1, picture.height // 12)
    font = ImageFont.load_default(size)
    shift, ink = int(rng.integers(size * 4)), (*rng.integers(256, size=3).tolist(), round(255 * opacity))
    for line, top in enumerate(range(0, picture.height, size * 2)):
        for left in range(-shift - line * size, picture.width, size * 6):
            pen.text((left, top), "@repost", ink, font)
    return Pillow.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def _screenshot(picture: Picture, lost: float, rng: np.random.Generator) -> Picture:
    """The picture smaller, in an app's frame: bars above and below, light or dark."""
    paper, ink = ("white", "#444444") if rng.random() < 0.5 else ("#15202b", "#cccccc")
    frame = Pillow.new("RGB", picture.size, paper)
    size = width, height = [max(1, round(length * (1 - lost))) for length in picture.size]
    left, top = int(rng.integers(frame.width - width + 1)), int(rng.integers(frame.height - height + 1))
    pen, unit = ImageDraw.Draw(frame), max(2, frame.height // 64)
    pen.rectangle((unit, unit, frame.width // 3, 2 * unit), fill=ink)
    pen.ellipse((frame.width - 3 * unit, frame.height - 3 * unit, frame.width - unit, frame.height - unit), fill=ink)
    frame.paste(picture.resize(size, Pillow.Resampling.BICUBIC), (left, top))
    return frame


def _caption_removed(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    bare = picture.copy()
    for box in _some(_boxes(picture), share, rng):
        _paint_over(bare, box)
    return bare


def _caption_moved(picture: Picture, way: float, rng: np.random.Generator) -> Picture:
    """All lines of words up or down together by this share of the height, and out at one edge is in at the other."""
    boxes, moved = _boxes(picture), picture.copy()
    for box in boxes:
        _paint_over(moved, box)
    down = round(way * picture.height) * (1 if rng.random() < 0.5 else -1)
    for left, top, right, bottom in boxes:
        line = picture.crop((left, top, right, bottom))
        moved.paste(line, (left, (top + down) % max(1, picture.height - (bottom - top) + 1)))
    return moved


def _boxes(picture: Picture) -> list[Box]:
    """Upright boxes of the words that are known of, with a margin, inside the picture."""
    found = []
    for corners in picture.info.get(WORDS, ()):
        xs, ys = zip(*corners, strict=True)
        left, top = max(0, int(min(xs)) - _MARGIN), max(0, int(min(ys)) - _MARGIN)
        right, bottom = min(picture.width, int(max(xs)) + _MARGIN), min(picture.height, int(max(ys)) + _MARGIN)
        if left < right and top < bottom:
            found.append((left, top, right, bottom))
    return found


def _some(boxes: Sequence[Box], share: float, rng: np.random.Generator) -> list[Box]:
    chosen = rng.permutation(len(boxes))[: max(1, round(share * len(boxes)))]
    return [boxes[i] for i in sorted(chosen.tolist())]


def _paint_over(picture: Picture, box: Box) -> None:
    """Fill a box with the mean colour of the pixels around it."""
    import numpy as np

    left, top, right, bottom = box
    x, y = max(0, left - 1), max(0, top - 1)
    pixels = np.asarray(picture.crop((x, y, min(picture.width, right + 1), min(picture.height, bottom + 1))))
    ring = np.ones(pixels.shape[:2], dtype=bool)
    ring[top - y : bottom - y, left - x : right - x] = False
    colour = pixels[ring].mean(axis=0) if ring.any() else np.full(3, 255)
    picture.paste(tuple(np.rint(colour).astype(int).tolist()), box)


ATTACKS: dict[str, tuple[Attack, tuple[float, ...]]] = {
    "brightness": (_brightness, (0.15, 0.3, 0.45, 0.6, 0.75)),
    "crop": (_crop, (0.05, 0.1, 0.2, 0.3, 0.4)),
    "rotation": (_rotation, (3, 6, 10, 15, 25)),
    "overlay": (_overlay, (0.15, 0.3, 0.45, 0.6, 0.8)),
    "caption_removed": (_caption_removed, (0.2, 0.4, 0.6, 0.8, 1.0)),
    "caption_moved": (_caption_moved, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "screenshot": (_screenshot, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "mirrored": (lambda picture, *_: ImageOps.mirror(picture), (1.0,)),
}
"""Kind -> the attack, and its strength at each severity that it has."""
