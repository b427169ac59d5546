"""An explanation as files: one self-contained page, a heat map over the picture, and the numbers as JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..diagnose.explanation import probability
from ..workspace import atomic, check_replaceable, read_json, write_json
from .templates import environment

if TYPE_CHECKING:
    from ..system.explain import Explanation, Weighed

TEMPLATE = "explanation.html"
UP, DOWN = (213, 94, 0), (0, 114, 178)
"""Vermilion and blue after Okabe and Ito: told apart with every kind of colour vision."""
FAINTEST = 0.1
"""Log-odds that the strongest colour stands for at least: noise is not to be painted as if it were a reason."""
STRONGEST = 0.7
"""Opacity of the strongest effect."""
LISTED = 10
"""Pieces of a part that are listed."""
STRIP = 44
"""Pixels of legend below a picture."""


def write_explanation(explanation: Explanation, folder: Path, *, force: bool = False) -> dict[str, Path]:
    """Write what a person reads and what a machine does, each whole or not at all.

    Parameters
    ----------
    force : bool
        Overwrite files of these names though no explanation lies beside them.

    Returns
    -------
    dict
        ``page``: ``explanation.html``, ``json``: ``explanation.json``; by modality the heat map over each part that is
        a picture: ``explanation_image.png``.

    Raises
    ------
    RunError
        Where the folder cannot be written, or holds files of these names that are none of an explanation.
    MissingExtra
        Without the packages of ``bifocal[report]``.
    """
    page = to_html(explanation)
    written = {"page": folder / "explanation.html", "json": folder / "explanation.json"}
    drawn = [n for n, value in explanation.values.items() if isinstance(value, Image.Image) and explanation.pieces[n]]
    for path in (*written.values(), *(folder / f"explanation_{name}.png" for name in drawn)):
        # One mark for all that was written together: the facts, which name their kind.
        check_replaceable(path, lambda _: "contributions" in read_json(written["json"]), force=force)
    for name, value in explanation.values.items():
        if isinstance(value, Image.Image) and name in drawn:
            written[name] = folder / f"explanation_{name}.png"
            with atomic(written[name], "wb") as f:
                with_legend(heat_map(value, explanation.pieces[name]), scale_of(explanation.pieces[name])).save(
                    f, "PNG"
                )
    with atomic(written["page"]) as f:
        f.write(page)
    write_json(written["json"], explanation.to_dict())
    return written


def to_html(explanation: Explanation) -> str:
    """The page; whatever comes from the post is escaped, and nothing is asked of any server. Raises `MissingExtra`."""
    shares = explanation.contributions
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            explanation=explanation,
            decision=explanation.answer,
            probability=lambda score: f"{float(probability(score)):.3f}",
            longest=max(map(abs, shares.values()), default=0) or 1,
            parts=[_part(explanation, name) for name in shares],
            up="#{:02x}{:02x}{:02x}".format(*UP),
            down="#{:02x}{:02x}{:02x}".format(*DOWN),
        )
    )


def framed(explanation: Explanation, *, height: int = 1000) -> str:
    """The page within a frame, for a notebook: neither's style touches the other. Raises `MissingExtra`.

    ``height`` is in pixels; a longer page scrolls.
    """
    page = escape(to_html(explanation))
    return (
        f'<iframe sandbox title="Explanation" srcdoc="{page}" width="100%" height="{height}" frameborder="0"></iframe>'
    )


def _part(explanation: Explanation, name: str) -> dict[str, Any]:
    """How one part is shown: by the kind of its value, whatever its name."""
    value, pieces = explanation.values[name], explanation.pieces[name]
    drawn: dict[str, Any] = {"name": name, "pieces": pieces[:LISTED], "more": max(0, len(pieces) - LISTED)}
    drawn["scale"] = scale_of(pieces)
    if name in explanation.windows:
        drawn |= {"windows": len(explanation.windows[name]), "decided": explanation.deciding_window(name)}
    if isinstance(value, str):
        drawn["words"] = list(marked(value, pieces))
    elif isinstance(value, Image.Image):
        blob = io.BytesIO()
        (heat_map(value, pieces) if pieces else value).save(blob, "PNG")
        drawn["picture"] = base64.b64encode(blob.getvalue()).decode()
    return drawn


def scale_of(pieces: Sequence[Weighed]) -> float:
    """Log-odds of the strongest colour of a part: its strongest effect, `FAINTEST` at least."""
    return max(FAINTEST, *(abs(w.effect) for w in pieces)) if pieces else FAINTEST


def marked(words: str, pieces: Sequence[Weighed]) -> Iterator[tuple[str, Weighed | None, int]]:
    """The text in runs: each with its piece, or None between pieces, and the percentage of its colour."""
    scale, end = scale_of(pieces), 0
    for w in sorted(pieces, key=lambda w: w.piece.place):
        start, stop = w.piece.place
        if start > end:
            yield words[end:start], None, 0
        yield words[start:stop], w, round(100 * STRONGEST * abs(w.effect) / scale)
        end = stop
    if end < len(words):
        yield words[end:], None, 0


def heat_map(picture: Image.Image, pieces: Sequence[Weighed]) -> Image.Image:
    """The picture in light grey, pixels coloured by the mean effect of the regions over them; the strongest is framed.

    Grey, since a colour of the picture would pass for one of the map; light, so that blue stays blue on it.
    """
    total, regions = np.zeros(picture.size[::-1]), np.zeros(picture.size[::-1])
    for w in pieces:
        left, top, right, bottom = w.piece.place
        total[top:bottom, left:right] += w.effect
        regions[top:bottom, left:right] += 1
    effect = total / np.maximum(regions, 1)
    opacity = (STRONGEST * np.abs(effect) / scale_of(pieces))[..., None]
    light = 0.65 * np.asarray(picture.convert("L"), dtype=np.float64)[..., None] + 0.35 * 255
    colour = np.where(effect[..., None] > 0, UP, DOWN)
    shown = Image.fromarray(np.rint((1 - opacity) * light + opacity * colour).astype(np.uint8))
    left, top, right, bottom = pieces[0].piece.place
    ImageDraw.Draw(shown).rectangle((left, top, right - 1, bottom - 1), outline="black", width=2)
    return shown


def with_legend(picture: Image.Image, scale: float) -> Image.Image:
    """The picture above a strip that says what its colours stand for."""
    whole = Image.new("RGB", (picture.width, picture.height + STRIP), "white")
    whole.paste(picture, (0, 0))
    pen, top, font = ImageDraw.Draw(whole), picture.height, ImageFont.load_default(13)
    middle = picture.width / 2
    for x in range(picture.width):
        share = x / middle - 1
        colour = UP if share > 0 else DOWN
        mixed = tuple(round(255 + STRONGEST * abs(share) * (c - 255)) for c in colour)
        pen.line((x, top + 6, x, top + 16), fill=mixed)
    labels = {"l": f"against, -{scale:.2f}", "m": "log-odds", "r": f"for, +{scale:.2f}"}
    for (anchor, label), place in zip(labels.items(), (4.0, middle, picture.width - 4.0), strict=True):
        pen.text((place, top + 22), label, fill="black", font=font, anchor=f"{anchor}t")
    return whole
