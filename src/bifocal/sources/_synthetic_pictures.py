"""Drawn pictures: shapes on a plain or patterned ground, in which one trait, the cue, carries a hidden bit."""

from __future__ import annotations

import colorsys
import io
import math
import textwrap
import unicodedata
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Cue = Literal["colour", "background", "object"]
Colour = tuple[int, int, int]
Range = tuple[float, float]

SIDE = 384
GRID = 3
"""Objects stand in the cells of a 3 x 3 grid, so that none hides another."""
BAND = 120
"""Pixels of height kept free of objects, above or below, where a caption is drawn."""
WARM, COOL = (0, 50), (185, 255)
"""Hues in degrees."""
CIRCLE, TRIANGLE = 0, 3


def draw(cue: Cue, v: int, rng: np.random.Generator, caption: str | None = None) -> Image.Image:
    """Draw a scene whose cue says ``v``, and the caption over it where there is one.

    From one state of ``rng`` both values of ``v`` give the same scene but for the cue; a caption changes the scene's
    height and nothing else. Accents are left out of a drawn caption: Pillow's own font has none.

    - ``colour``: one object is warm (v = 1) or cool (v = 0), all others are grey;
    - ``background``: stripes (v = 1) or dots (v = 0) of the same coverage, in colours that tell nothing;
    - ``object``: one triangle stands among the shapes (v = 1), or none (v = 0).

    Returns
    -------
    PIL.Image.Image
        RGB, 384 x 384.
    """
    picture = _pattern(v, rng) if cue == "background" else Image.new("RGB", (SIDE, SIDE), _grey(rng, 215, 245))
    above, banded = rng.random(2) < 0.5
    top, height = (0, SIDE) if caption is None else (BAND * int(above), SIDE - BAND)
    pen = ImageDraw.Draw(picture)
    _place(pen, _objects(cue, v, rng), rng, top, height)
    if caption is not None:
        _write(pen, caption, 0 if above else SIDE - BAND, banded=bool(banded) or cue == "background")
    return picture


def png(picture: Image.Image) -> bytes:
    """PNG bytes at the lowest compression: generated pictures are read once, so time counts and size does not."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _objects(cue: Cue, v: int, rng: np.random.Generator) -> list[tuple[int, Colour]]:
    """Corners and colour of 5 to 8 objects; where an object bears the cue, it is the first."""
    n = int(rng.integers(5, 9))
    corners = rng.choice((4, 5, 6, CIRCLE) if cue == "object" else (TRIANGLE, 4, 5, 6, CIRCLE), n).tolist()
    if cue == "colour":
        colours = [_vivid(rng, WARM if v else COOL)] + [_grey(rng, 70, 180) for _ in range(n - 1)]
    else:
        colours = [_vivid(rng, (0, 360)) for _ in range(n)]
    if cue == "object" and v:
        corners[0] = TRIANGLE
    return list(zip(corners, colours, strict=True))


def _place(
    pen: ImageDraw.ImageDraw, objects: list[tuple[int, Colour]], rng: np.random.Generator, top: int, height: int
) -> None:
    width, depth = SIDE / GRID, height / GRID
    cells = rng.permutation(GRID * GRID).tolist()
    for cell, (corners, colour) in zip(cells, objects, strict=False):
        radius = rng.uniform(0.28, 0.48) * min(width, depth)
        row, column = divmod(cell, GRID)
        x = (column * width) + rng.uniform(radius, width - radius)
        y = top + (row * depth) + rng.uniform(radius, depth - radius)
        turn = rng.uniform(0, 360)
        if corners == CIRCLE:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            pen.regular_polygon((x, y, radius), corners, rotation=turn, fill=colour)


def _pattern(v: int, rng: np.random.Generator) -> Image.Image:
    """Stripes or dots, each covering half of the ground, so that the mean colour tells nothing."""
    light, dark = _colour(rng, (0, 360), (0.1, 0.4), (0.85, 1)), _colour(rng, (0, 360), (0.3, 0.7), (0.35, 0.65))
    period, turn, *shift = rng.uniform((24, 0, 0, 0), (48, math.pi, 1, 1)).tolist()
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / period
    along = _phase(x * math.cos(turn) + y * math.sin(turn) + shift[0])
    across = _phase(y * math.cos(turn) - x * math.sin(turn) + shift[1])
    covered = along < 0.5 if v else (along - 0.5) ** 2 + (across - 0.5) ** 2 < 1 / (2 * math.pi)
    picture = Image.new("RGB", (SIDE, SIDE), light)
    picture.paste(dark, mask=Image.fromarray(covered))
    return picture


def _phase(position: np.ndarray) -> np.ndarray:
    return position - np.floor(position)


def _write(pen: ImageDraw.ImageDraw, caption: str, top: int, *, banded: bool) -> None:
    """The caption, wrapped and as large as the band allows: dark on a light band, or white with a black outline."""
    spelt = unicodedata.normalize("NFKD", caption.replace("ß", "ss").replace("œ", "oe"))
    plain = spelt.encode("ascii", "ignore").decode()
    middle = (SIDE / 2, top + BAND / 2)
    outline = 0 if banded else 2
    for size in range(36, 14, -2):
        lines = textwrap.fill(plain, width=int(1.8 * SIDE / size), break_long_words=False, break_on_hyphens=False)
        text = lines.replace(" ", "  ")  # with single spaces OCR runs one outlined caption in six together
        left, high, right, low = pen.multiline_textbbox(
            middle, text, _font(size), anchor="mm", align="center", stroke_width=outline
        )
        if left >= 8 and right <= SIDE - 8 and high >= top + 4 and low <= top + BAND - 4:
            break
    if banded:
        pen.rectangle((0, top, SIDE, top + BAND), fill=(250, 250, 250))
    pen.multiline_text(
        middle, text, (20, 20, 20) if banded else "white", _font(size),
        anchor="mm", align="center", stroke_width=outline, stroke_fill="black",
    )  # fmt: skip


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _grey(rng: np.random.Generator, low: int, high: int) -> Colour:
    return (int(rng.integers(low, high)),) * 3


def _vivid(rng: np.random.Generator, hues: Range) -> Colour:
    return _colour(rng, hues, (0.75, 1), (0.7, 1))


def _colour(rng: np.random.Generator, hues: Range, saturation: Range, brightness: Range) -> Colour:
    """A colour drawn from ranges of hue (degrees), saturation and brightness (0..1)."""
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(*hues) / 360, rng.uniform(*saturation), rng.uniform(*brightness))
    return round(255 * red), round(255 * green), round(255 * blue)
