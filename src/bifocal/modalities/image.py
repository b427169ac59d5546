"""The picture of a post: decoded with suspicion, upright, on white, as one 384x384 RGB square."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from PIL import ExifTags, ImageEnhance, ImageFilter, ImageOps, ImageStat
from PIL import Image as Pillow

from ..contracts import Input, Piece
from ..errors import ConfigError, PictureError, extras_named, nearest
from ._picture_attacks import ATTACKS, WORDS
from ._picture_metadata import jpeg_closings, without_metadata

if TYPE_CHECKING:
    import numpy as np

    from ..config import RunConfig

Picture = Pillow.Image
T = TypeVar("T")
Fit = Literal["pad", "stretch", "crop"]
Packing = Literal["png", "webp", "jpeg"]

SIDE = 384
"""Pixels along each side of a packed picture."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What Pillow may try (EPS, for one, would reach Ghostscript). A phone's multi-picture JPEG opens as JPEG."""
MAX_PIXELS = 50_000_000
"""More than any phone takes by default; a few bytes may claim far more, so the header is asked before decoding."""
MAX_BYTES = 50 * 2**20
"""Of a file: a larger one is refused before it is read."""
FRAMES = 8
"""Frames of an animation that are looked at."""
MAX_ANIMATION_PIXELS = 1_000_000_000
"""Of all its frames: to reach the last, each before it has to be decoded (1 Gpx takes some 5 s)."""
PADDING = "white"
"""The colour behind transparent pixels too: a sticker gets no frame, and a white caption panel simply goes on."""
REGIONS = 49
"""Regions that are hidden one by one, by default: 7 x 7, each a quarter of the picture wide and high."""

_HASH_SIDE = 512  # what PDQ's authors scale to before hashing
_PACKINGS: dict[Packing, tuple[str, str, dict[str, Any]]] = {
    "png": ("png", "PNG", {"compress_level": 1}),  # 3% larger than the default level, 3 times as fast
    "webp": ("webp", "WEBP", {"lossless": True, "quality": 0, "method": 0}),  # quality is effort here: 2 times as fast
    "jpeg": ("jpg", "JPEG", {"quality": 95, "subsampling": 0}),
}
"""How pictures lie in shards: suffix, Pillow's name, its settings."""
_TURNS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""EXIF's orientation -> how a picture is turned to stand upright."""
_CEILINGS = {"I": (255, 65535), "F": (1,)}  # the ranges in which such pictures are written, by Pillow mode


def decode(blob: bytes, at_least: int = 0) -> Picture:
    """The picture as a viewer shows it: upright, RGB, transparent parts white, the first frame that is shown.

    16-bit grey is scaled, never clipped; integers and floats of 32 bits are scaled by the range they evidently use
    (0..255, 0..65535; 0..1), otherwise by their own minimum and maximum. Colour profiles are not applied.

    Parameters
    ----------
    blob : bytes
        A file's content.
    at_least : int
        Where set, a JPEG may come out at 1/2, 1/4 or 1/8 of its size (several times faster) as long as both sides
        keep this many pixels. 0 = full size.

    Raises
    ------
    PictureError
        Where the format is not among `FORMATS`, the header names more than `MAX_PIXELS` pixels, or the pixels are
        truncated or damaged. What stands beside them (texts, profiles, EXIF) decides nothing.
    """
    return _despite_metadata(blob, lambda whole: _decoded(whole, at_least))


def _decoded(blob: bytes, at_least: int = 0) -> Picture:
    opened = _open(blob)
    with _named(opened):
        if opened.info.get("default_image"):  # an animated PNG: browsers begin with the second, and never show this one
            opened.seek(1)
        if at_least:
            opened.draft(None, (at_least, at_least))
        return _upright(opened)


def _despite_metadata(blob: bytes, read: Callable[[bytes], T]) -> T:
    """What ``read`` makes of a file, or where it fails of the same pixels without their metadata.

    Pillow opens a picture with all that stands beside its pixels, and fails where that is broken or over its caps,
    which stay: metadata are then dropped, never unpacked.
    """
    try:
        return read(blob)
    except PictureError:
        for candidate in _mended(blob):
            with suppress(PictureError):
                return read(candidate)
        raise


def _mended(blob: Any) -> Iterator[bytes]:
    plain = without_metadata(blob) if isinstance(blob, bytes) else None
    if plain is None:
        return
    if plain != blob:
        yield plain
    if closings := jpeg_closings(plain):
        with suppress(PictureError):
            one, other = map(_decoded, closings)
            if one.tobytes() == other.tobytes():
                yield closings[0]


def _upright(opened: Picture) -> Picture:
    """The frame that stands open as a viewer shows it; an orientation that cannot be read is none."""
    opened.load()  # what is wrong with pixels is raised here
    turn = None
    with suppress(Exception):  # EXIF and XMP of strangers: the parsers raise whatever they run into
        turn = _TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
    return _rgb(opened if turn is None else opened.transpose(turn))


def square(picture: Picture, fit: Fit, side: int = SIDE) -> Picture:
    """A picture of any shape as a square: whole on white (``pad``), distorted (``stretch``) or its centre (``crop``).

    Raises
    ------
    ConfigError
        Where ``fit`` is none of the three.
    """
    if fit not in _FITS:
        raise ConfigError(f"fit = {fit!r} is not known; {nearest(fit, _FITS)}")
    return _FITS[fit](picture, side)


def picture_hash(picture: Picture) -> tuple[str, int]:
    """PDQ hash of a picture as 64 hex digits, and how much there is to tell it by, 0..100 (under 50: too little)."""
    import numpy as np

    with extras_named():
        import pdqhash

    bits, quality = pdqhash.compute(np.asarray(square(picture, "stretch", _HASH_SIDE)))
    return np.packbits(bits).tobytes().hex(), int(quality)


class Image:
    """The image part; its value is a 384x384 RGB picture."""

    input: ClassVar[Input] = Input(
        form="file",
        title="Picture",
        description="The picture file, in base64.",
        argument="image_path",
        columns=("image_path", "img", "image"),
        limit=MAX_BYTES,
        media_types=tuple(f"image/{form.lower()}" for form in FORMATS),
        kept_as="picture",
        place=1,
    )
    expert_name: ClassVar[str] = "vision_expert"
    encoder: ClassVar[str] = "hf_image"
    corruptions: ClassVar[tuple[str, ...]] = ("blur", "jpeg", "noise", "occlusion", "contrast")
    attacks: ClassVar[Mapping[str, tuple[int, ...]]] = {
        **dict.fromkeys(("jpeg", "blur", "noise"), (1, 2, 3, 4, 5)),
        **{kind: tuple(range(1, len(strengths) + 1)) for kind, (_, strengths) in ATTACKS.items()},
    }

    def __init__(self, fit: Fit = "pad", image_format: Packing = "png"):
        self.fit: Fit = fit
        self.suffix, self._pillow, self._settings = _PACKINGS[image_format]

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        return cls(config.fit, config.image_format)

    @property
    def lossless(self) -> bool:
        return self._pillow != "JPEG"

    def facts(self, raw: Any) -> dict[str, Any]:
        """Decode the whole file, so that a broken one is found here, and keep what identifies it.

        Returns
        -------
        dict
            ``format``, ``width`` and ``height`` (upright), ``frames`` (more than 1: an animation or several pages, of
            which `read` sees the first), ``sha256`` of the file, and ``pdq``: the perceptual hash as 64 hex digits
            (Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019), of the
            picture itself, whatever ``fit``.

        Raises
        ------
        PictureError
            As `decode`.
        """

        def looked_at(blob: bytes) -> tuple[str | None, int, Picture]:
            opened = _open(blob)
            with _named(opened):
                frames = _frames(opened)
            return opened.format, frames, _decoded(blob)

        form, frames, picture = _despite_metadata(raw, looked_at)
        return {
            "format": form,
            "width": picture.width,
            "height": picture.height,
            "frames": frames,
            "sha256": hashlib.sha256(raw).hexdigest(),
            "pdq": picture_hash(picture)[0],
        }

    def read(self, raw: bytes) -> Picture:
        """The 384x384 RGB square of a file's bytes. Raises `PictureError` as `decode` does."""
        return square(decode(raw, at_least=2 * SIDE), self.fit)  # twice the side: resizing still has detail to average

    def moments(self, raw: bytes) -> list[Picture]:
        """The squares of up to `FRAMES` frames of an animation (pages of a TIFF), first and last among them.

        Frames that look like the one before are left out; a picture that stands still is one square, as `read` has it.

        Raises
        ------
        PictureError
            As `decode`; where all frames together have more than `MAX_ANIMATION_PIXELS` pixels.
        """
        return _despite_metadata(raw, self._moments)

    def _moments(self, raw: bytes) -> list[Picture]:
        opened = _open(raw)
        with _named(opened):
            frames = _frames(opened)
            first = 1 if opened.info.get("default_image") else 0
            if frames - first < 2:
                return [square(_decoded(raw, 2 * SIDE), self.fit)]
            if (pixels := frames * opened.width * opened.height) > MAX_ANIMATION_PIXELS:
                raise PictureError(
                    f"the {opened.format} animation has {frames:,} frames of {opened.width} x {opened.height} pixels, "
                    f"{pixels:,} in all; at most {MAX_ANIMATION_PIXELS:,} are allowed: shorten it or scale it down"
                )
            steps = min(FRAMES, frames - first)
            shown: list[Picture] = []
            for step in range(steps):
                opened.seek(first + round(step * (frames - 1 - first) / (steps - 1)))
                frame = square(_upright(opened), self.fit)
                if not shown or frame.tobytes() != shown[-1].tobytes():
                    shown.append(frame)
            return shown

    def pack(self, value: Picture) -> bytes:
        buffer = io.BytesIO()
        value.save(buffer, self._pillow, **self._settings)
        return buffer.getvalue()

    def unpack(self, blob: bytes) -> Picture:
        return decode(blob)

    def keep(self, value: Picture) -> bytes:
        """A PNG of ours; never the bytes that came."""
        buffer = io.BytesIO()
        value.save(buffer, "PNG")
        return buffer.getvalue()

    def restore(self, kept: bytes) -> Picture:
        """As the expert saw it. Raises `PictureError` as `decode` does."""
        return decode(kept)

    def blank(self) -> Picture:
        """A white square; the presence mask, never the pixels, says that a picture is absent."""
        return Pillow.new("RGB", (SIDE, SIDE), "white")

    def corrupt(self, value: Picture, kind: str, severity: int, rng: np.random.Generator) -> Picture:
        """A corruption at severity 1..5, after ImageNet-C (Hendrycks & Dietterich 2019, arXiv:1903.12261), or attack.

        ``blur`` (Gaussian), ``jpeg``, ``noise`` (Gaussian), ``occlusion`` (a grey square over 10..60% of the area, at
        random), ``contrast``; ``brightness`` (either way), ``crop``, ``rotation``, ``overlay`` (a watermark),
        ``screenshot`` (smaller, in a frame), ``mirrored`` (severity 1 only). ``caption_removed`` and ``caption_moved``
        need to know where words stand (`with_word_boxes`); without, they leave the picture as it is.
        """
        if kind not in _CORRUPTIONS:
            raise ConfigError(f"image has no corruption {kind!r}; {nearest(kind, _CORRUPTIONS)}")
        corruption, strengths = _CORRUPTIONS[kind]
        if severity not in range(1, len(strengths) + 1):
            known = ", ".join(str(step + 1) for step in range(len(strengths)))
            raise ConfigError(f"severity {severity!r} of {kind} is not among {known}")
        return corruption(value, strengths[severity - 1], rng)

    def occlusions(self, value: Picture, pieces: int | None = None) -> list[tuple[Piece, Picture]]:
        """Each region of a square grid of at most ``pieces``, painted in the picture's mean colour, row by row.

        Regions overlap their neighbours by half, so that what lies on the border of one lies in the middle of another:
        a thing that is only half hidden is still seen. The mean colour is no edge and no object to the expert; a grey
        square, on a light picture, is one.
        """
        n = isqrt(max(1, pieces or REGIONS))
        if n < 2:
            return []
        across, down = ([round(i * length / (n + 1)) for i in range(n + 2)] for length in value.size)
        colour = tuple(round(mean) for mean in ImageStat.Stat(value).mean)
        hidden = []
        for row, column in product(range(n), repeat=2):
            box = (across[column], down[row], across[column + 2], down[row + 2])
            covered = value.copy()
            covered.paste(colour, box)
            hidden.append((Piece(f"row {row + 1}, column {column + 1}", box), covered))
        return hidden


def with_word_boxes(
    picture: Picture, boxes: Sequence[Sequence[Sequence[float]]], size: tuple[int, int], fit: Fit
) -> Picture:
    """A copy of a packed picture that knows where its words stand, for attacks on them.

    Parameters
    ----------
    boxes : list of four corners ``[x, y]``
        As ``ocr.jsonl`` has them: in pixels of the whole picture padded to `SIDE`.
    size : (width, height)
        Of the picture before it was made to fit.
    fit : str
        How it was.
    """
    width, height = size
    padded = SIDE / max(size)
    scales = {"pad": (padded,) * 2, "stretch": (SIDE / width, SIDE / height), "crop": (SIDE / min(size),) * 2}[fit]
    copy = picture.copy()
    copy.info[WORDS] = [
        [
            [(at - SIDE / 2) / padded * scale + SIDE / 2 for at, scale in zip(corner, scales, strict=True)]
            for corner in box
        ]
        for box in boxes
    ]
    return copy


def _frames(opened: Picture) -> int:
    """How many frames or pages a viewer may show; what a phone keeps behind its picture (MPO: previews) none does."""
    return 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)


def _open(blob: Any) -> Picture:
    """The picture behind a header that was found fit to be decoded; no pixel is decoded yet."""
    if not isinstance(blob, bytes):
        raise PictureError(
            f"a picture comes as the bytes of its file, found {type(blob).__name__}: read the file first"
        )
    allowed = ", ".join(FORMATS)
    try:
        # Pillow's own bomb warning starts at 89 Mpx, its error at 179: behind the cap below, which decides.
        picture = Pillow.open(io.BytesIO(blob), formats=FORMATS)
    except Pillow.DecompressionBombError as error:
        raise PictureError(f"{error}; at most {MAX_PIXELS:,} pixels are allowed: scale the picture down") from None
    except Exception as error:  # on a damaged header the decoders raise whatever their parsing runs into
        found = "the file" if blob else "an empty file"  # none of its bytes: a row may name anybody's file
        raise PictureError(
            f"{found} is no picture of an allowed format ({allowed}), or is damaged: convert it"
        ) from error
    if picture.width * picture.height > MAX_PIXELS:
        raise PictureError(
            f"the {picture.format} picture has {picture.width} x {picture.height} pixels; "
            f"at most {MAX_PIXELS:,} are allowed: scale it down"
        )
    return picture


@contextmanager
def _named(picture: Picture) -> Iterator[None]:
    """Whatever the decoder of a damaged file raises (OSError, SyntaxError, struct.error, ...) as a `PictureError`."""
    try:
        yield
    except (MemoryError, PictureError):  # no fault of the picture's, or named already
        raise
    except Exception as error:
        raise PictureError(
            f"the {picture.format} picture is truncated or damaged ({' '.join(str(error).split())}): replace the file"
        ) from error


def _rgb(picture: Picture) -> Picture:
    """RGB of any mode, composited on white."""
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(picture)
    elif picture.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        picture = ImageCms.buildTransform(*profiles, "LAB", "RGB").apply(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    hidden = picture.info.get("transparency")
    if isinstance(hidden, tuple) and max(hidden) > 255:  # Pillow cuts a 16-bit PNG to 8 bits, but not this colour
        picture.info["transparency"] = tuple(value >> 8 for value in hidden)
    layer = picture.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _eight_bits(picture: Picture) -> Picture:
    """Grey of 16 or 32 bits as 8 bits, scaled; the value declared transparent becomes white, as alpha would."""
    import numpy as np

    values = np.asarray(picture)
    if values.dtype.kind == "u":
        scaled = (values >> 8).astype(np.uint8)
    else:
        values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
        lowest, highest = float(values.min()), float(values.max())
        ceiling = next((c for c in _CEILINGS[picture.mode] if lowest >= 0 and highest <= c), None)
        low, span = (0.0, ceiling) if ceiling else (lowest, highest - lowest or 1.0)
        scaled = np.rint((values - low) * (255 / span)).astype(np.uint8)
    if isinstance(hidden := picture.info.get("transparency"), int):
        scaled[values == hidden] = 255
    return Pillow.fromarray(scaled)


def _pad(picture: Picture, side: int) -> Picture:
    scale = side / max(picture.size)
    # Pillow's own `ImageOps.pad` rounds the short side of a line to nothing, and shows padding only.
    width, height = (max(1, round(length * scale)) for length in picture.size)
    canvas = Pillow.new("RGB", (side, side), PADDING)
    canvas.paste(
        picture.resize((width, height), Pillow.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2)
    )
    return canvas


_FITS: dict[str, Callable[[Picture, int], Picture]] = {
    "pad": _pad,
    "stretch": lambda picture, side: picture.resize((side, side), Pillow.Resampling.BICUBIC),
    "crop": lambda picture, side: ImageOps.fit(picture, (side, side), Pillow.Resampling.BICUBIC),
}


def _jpeg(picture: Picture, quality: float, rng: np.random.Generator) -> Picture:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(quality))
    return decode(buffer.getvalue())


def _noise(picture: Picture, deviation: float, rng: np.random.Generator) -> Picture:
    import numpy as np

    values = np.asarray(picture, dtype=np.float32)
    noisy = values + rng.normal(0.0, 255 * deviation, values.shape).astype(np.float32)
    return Pillow.fromarray(np.rint(noisy.clip(0, 255)).astype(np.uint8))


def _occlusion(picture: Picture, share: float, rng: np.random.Generator) -> Picture:
    width, height = (round(length * share**0.5) for length in picture.size)
    left = int(rng.integers(picture.width - width + 1))
    top = int(rng.integers(picture.height - height + 1))
    covered = picture.copy()
    covered.paste("grey", (left, top, left + width, top + height))
    return covered


_Corruption = Callable[[Picture, float, "np.random.Generator"], Picture]
# The strengths of ImageNet-C; its blur is for 224 pixels a side, so ours is scaled to 384.
_CORRUPTIONS: dict[str, tuple[_Corruption, tuple[float, ...]]] = {
    "blur": (lambda picture, radius, _: picture.filter(ImageFilter.GaussianBlur(radius)), (1.7, 3.4, 5.1, 6.9, 10.3)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
    "noise": (_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "occlusion": (_occlusion, (0.1, 0.2, 0.3, 0.45, 0.6)),
    "contrast": (lambda picture, kept, _: ImageEnhance.Contrast(picture).enhance(kept), (0.4, 0.3, 0.2, 0.1, 0.05)),
    **ATTACKS,
}
