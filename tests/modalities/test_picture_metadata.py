"""Whole pixels make a picture usable, whatever stands beside them; pixels that are cut are found all the same."""

import io
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms, PngImagePlugin

from bifocal.errors import PictureError
from bifocal.modalities.image import Image, decode

SCENE = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(form, picture=SCENE, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def exif(orientation=None):
    written = Pillow.Exif()
    written[0x0110], written[0x011A] = "Some camera", 72.0
    if orientation:
        written[0x0112] = orientation
    return written.tobytes()


PNG, JPEG, GIF, WEBP = (encoded(form) for form in ("PNG", "JPEG", "GIF", "WEBP"))
TO_PIXELS = 33  # bytes of a PNG before its second chunk


def chunk(name, content, sound=True):
    checksum = struct.pack(">I", zlib.crc32(name + content)) if sound else b"\0\0\0\0"
    return struct.pack(">I", len(content)) + name + content + checksum


def segment(marker, content, size=None):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2 if size is None else size) + content


def in_png(*chunks, at=TO_PIXELS):
    return PNG[:at] + b"".join(chunks) + PNG[at:]


def in_jpeg(added, at=2):
    return JPEG[:at] + added + JPEG[at:]


BROKEN = {
    "png, a text of 2 MB, packed": (in_png(chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"a" * 2_000_000))), PNG),
    "png, a text of 2 MB, plain": (in_png(chunk(b"tEXt", b"prompt\0" + b"a" * 2_000_000)), PNG),
    "png, a profile of 2 MB": (in_png(chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"p" * 2_000_000))), PNG),
    "png, a comment whose checksum is wrong": (in_png(chunk(b"tEXt", b"Comment\0hello", sound=False)), PNG),
    "png, such a comment at its end": (in_png(chunk(b"tEXt", b"Comment\0hello", sound=False), at=-12), PNG),
    "png, a comment at its end that is cut": (PNG[:-12] + chunk(b"tEXt", b"Comment\0" + b"a" * 500)[:100], PNG),
    "png, EXIF that is none": (in_png(chunk(b"eXIf", b"\0\x08\0\2\1\x12\0\3")), PNG),
    "png, EXIF in a text that is no hex": (
        in_png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 10\nzzzz\n"))),
        PNG,
    ),
    **{
        f"png, {name} of a wrong length": (in_png(chunk(name.encode(), b"\1")), PNG)
        for name in ("gAMA", "pHYs", "cHRM", "tRNS", "sBIT", "tIME", "acTL")
    },
    "png, what follows its end": (PNG + b"<html>" * 100, PNG),
    "png, a byte order mark before it": (b"\xef\xbb\xbf" + PNG, PNG),
    "jpeg, a line break before it": (b"\r\n" + JPEG, JPEG),
    "jpeg, without the mark of its end": (JPEG[:-2], JPEG),
    "progressive jpeg, without it": (encoded("JPEG", progressive=True)[:-2], encoded("JPEG", progressive=True)),
    "jpeg, EXIF of noise": (in_jpeg(segment(0xE1, b"Exif\0\0" + b"\xde\xad\xbe\xef" * 20)), JPEG),
    "jpeg, a profile in pieces that do not fit": (in_jpeg(segment(0xE2, b"ICC_PROFILE\0\1\5x")), JPEG),
    "jpeg, previews that are not there": (in_jpeg(segment(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0")), JPEG),
    "jpeg, JFIF cut short": (in_jpeg(segment(0xE0, b"JFIF"), at=20), JPEG),
    "jpeg, a comment of no length": (in_jpeg(segment(0xFE, b"", size=0), at=20), JPEG),
    "jpeg, Adobe cut short": (in_jpeg(segment(0xEE, b"Adobe"), at=20), JPEG),
    "jpeg, garbage between segments": (in_jpeg(b"garbage", at=20), JPEG),
    "gif, a comment that is cut": (GIF[:-1] + b"\x21\xfe\xff" + b"a" * 30, GIF),
    "gif, what follows its end": (GIF + b"<html>", GIF),
    "webp, EXIF that is cut": (encoded("WEBP", exif=exif())[:-30], WEBP),
    "webp, a length that is wrong": (WEBP[:4] + b"\xff\xff\xff\x0f" + WEBP[8:], WEBP),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on odd EXIF
def test_what_stands_beside_whole_pixels_decides_nothing(name):
    blob, plain = BROKEN[name]
    assert decode(blob).tobytes() == decode(plain).tobytes()
    facts, expected = Image().facts(blob), Image().facts(plain)
    assert {**facts, "sha256": ""} == {**expected, "sha256": ""}
    assert [m.tobytes() for m in Image().moments(blob)] == [m.tobytes() for m in Image().moments(plain)]


TEXTS = PngImagePlugin.PngInfo()
TEXTS.add_text("prompt", "a" * 300)
TEXTS.add_text("packed", "b" * 3000, zip=True)
RICH = {
    "PNG": encoded("PNG", pnginfo=TEXTS, icc_profile=PROFILE, exif=exif(), dpi=(72, 72)),
    "JPEG": encoded("JPEG", icc_profile=PROFILE, exif=exif(), comment=b"a comment", xmp=b"<x:xmpmeta/>"),
    "WEBP": encoded("WEBP", icc_profile=PROFILE, exif=exif(), xmp=b"<x:xmpmeta/>"),
    "TIFF": encoded("TIFF", icc_profile=PROFILE, description="a scene", dpi=(72, 72)),
    "packed TIFF": encoded("TIFF", compression="tiff_lzw", icc_profile=PROFILE, description="a scene", dpi=(72, 72)),
}


def beside_pixels(form, blob):
    """Stretches of the file that hold metadata, found without the code under test."""
    if form == "PNG":
        at = 8
        while at < len(blob):
            (size,) = struct.unpack_from(">I", blob, at)
            if blob[at + 4 : at + 8] not in (b"IHDR", b"IDAT", b"IEND"):
                yield at + 8, at + 12 + size
            at += 12 + size
    elif form == "JPEG":
        at = 20  # JFIF first
        while blob[at + 1] != 0xDA:
            (size,) = struct.unpack_from(">H", blob, at + 2)
            if blob[at + 1] in (0xE1, 0xE2, 0xFE):
                yield at + 4, at + 2 + size
            at += 2 + size
    elif form == "WEBP":
        at = 12
        while at < len(blob):
            name, size = struct.unpack_from("<4sI", blob, at)
            if name in (b"ICCP", b"EXIF", b"XMP "):
                yield at + 8, at + 8 + size
            at += 8 + size + size % 2
    else:
        (at,) = struct.unpack_from("<I", blob, 4)
        for start in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", blob, at)[0], 12):
            if struct.unpack_from("<H", blob, start)[0] in (270, 282, 283, 296, 34675):
                yield start + 2, start + 12


@pytest.mark.parametrize("form", RICH)
@pytest.mark.filterwarnings("ignore")
def test_metadata_of_any_bytes_leave_the_picture_as_it_is(form):
    blob, rng = RICH[form], random.Random(0)
    whole, places = decode(blob).tobytes(), list(beside_pixels(form.split()[-1], blob))
    assert len(places) >= 3
    for _ in range(40):
        bad = bytearray(blob)
        for _ in range(rng.choice((1, 5, 30))):
            bad[rng.randrange(*rng.choice(places))] = rng.randrange(256)
        assert decode(bytes(bad)).tobytes() == whole
        Image().facts(bytes(bad))


@pytest.mark.parametrize("form", [*RICH, "progressive JPEG"])
@pytest.mark.filterwarnings("ignore")
def test_pixels_that_are_cut_are_never_taken_for_whole(form):
    blob = RICH.get(form) or encoded("JPEG", progressive=True)
    whole, refused = decode(blob).tobytes(), 0
    for end in {*range(200, len(blob), 101), *range(len(blob) - 30, len(blob))}:
        try:
            assert decode(blob[:end]).tobytes() == whole, end
        except PictureError:
            refused += 1
    assert refused


def test_a_still_picture_whose_animation_is_broken_is_the_still_one():
    frames = encoded("PNG", save_all=True, append_images=[SCENE.rotate(90)])
    at = frames.index(b"acTL") - 4
    broken = frames[: at + 16] + b"\0\0\0\0" + frames[at + 20 :]
    assert Image().facts(broken)["frames"] == 1
    assert decode(broken).tobytes() == SCENE.tobytes()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_the_orientation_holds_beside_other_metadata_that_are_broken(form):
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    turned = encoded(form, exif=exif(orientation=6), **options)
    broken = {
        "PNG": turned[:TO_PIXELS] + chunk(b"gAMA", b"") + turned[TO_PIXELS:],
        "JPEG": turned[:2] + segment(0xE0, b"JFIF") + turned[2:],
        "WEBP": turned[:4] + b"\xff\xff\xff\x0f" + turned[8:] + b"XMP \xff\xff\xff\0cut",
    }[form]
    with pytest.raises(Exception):  # noqa: B017 - as it comes, Pillow refuses it
        Pillow.open(io.BytesIO(broken)).load()
    assert decode(broken).size == (48, 64)
    assert decode(broken).tobytes() == decode(turned).tobytes()


def test_metadata_are_never_unpacked():
    bomb = in_png(chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"a" * 100_000_000)))
    tracemalloc.start()
    try:
        assert decode(bomb).tobytes() == SCENE.tobytes()
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_the_cap_on_pixels_holds_whatever_stands_beside_them():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    blob = PNG[:8] + chunk(b"IHDR", header) + chunk(b"tEXt", b"k\0v", sound=False) + PNG[TO_PIXELS:]
    with pytest.raises(PictureError):
        decode(blob)
