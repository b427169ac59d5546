import hashlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms, ImageFile, ImageFilter

from bifocal.config import parse_config
from bifocal.errors import ConfigError, PictureError
from bifocal.modalities import image
from bifocal.modalities.image import FORMATS, FRAMES, SIDE, Image, decode, square, with_word_boxes


def encoded(picture, form, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def scene(seed=0, size=(160, 120)):
    """A smooth random picture: survives JPEG, has structure for PDQ."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Pillow.fromarray(noise).resize(size, Pillow.Resampling.BICUBIC)


def png(width, height, depth, colour_type, data, *chunks):
    """A PNG written by hand: what Pillow cannot write, or would not."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    body = b"".join(chunk(name, content) for name, content in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def difference(a, b):
    return np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).mean()


# ------------------------------------------------------------------ what is let in


@pytest.mark.parametrize("form", FORMATS)
def test_allowed_formats_are_decoded(form):
    decoded = decode(encoded(scene(), form))
    assert decoded.mode == "RGB"
    assert decoded.size == (160, 120)
    assert difference(decoded, scene()) < (20 if form == "GIF" else 4)


@pytest.mark.parametrize("form", ["EPS", "PPM", "ICO", "TGA", "JPEG2000", "PDF", "PCX"])
def test_other_formats_are_refused_though_pillow_knows_them(form):
    try:
        blob = encoded(scene(size=(32, 32)), form)
    except OSError:
        pytest.skip(f"this Pillow cannot write {form}")
    with pytest.raises(PictureError, match="PNG, JPEG, WEBP, GIF, BMP, TIFF") as error:
        decode(blob)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("blob", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"PK\x03\x04" + bytes(50)])
def test_what_is_no_picture_is_refused(blob):
    with pytest.raises(PictureError, match="no picture of an allowed format"):
        Image().facts(blob)
    with pytest.raises(PictureError, match="no picture of an allowed format"):
        Image().read(blob)


def test_a_path_in_place_of_bytes_is_named():
    with pytest.raises(PictureError, match="found str"):
        Image().read("meme.png")


@pytest.mark.parametrize("side", [7_100, 10_000, 20_000, 60_000])  # below, at and above Pillow's own warning and error
def test_the_pixel_cap_holds_before_decoding(side, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(PictureError, match="pixels"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decode(png(side, side, 8, 2, b""))


def test_the_cap_holds_where_warnings_are_errors():
    with pytest.raises(PictureError), warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(png(10_000, 10_000, 8, 2, b""))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
def test_truncated_files_are_found(form, kept):
    noisy = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    blob = encoded(noisy, form)
    for use in (Image().facts, Image().read):
        with pytest.raises(PictureError) as error:
            use(blob[: int(kept * len(blob))])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", FORMATS)
def test_damage_never_raises_anything_else(form):
    rng = np.random.default_rng(1)
    blob = encoded(scene(size=(40, 30)), form, **({"exif": _orientation(6)} if form != "BMP" else {}))
    broken = 0
    for _ in range(60):
        bad = bytearray(blob)
        for place in rng.integers(0, len(bad), 6):
            bad[place] = rng.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd EXIF
            try:
                assert decode(bytes(bad)).mode == "RGB"
            except PictureError:
                broken += 1
    assert broken


# ------------------------------------------------------------------ as a viewer shows it


def _orientation(value):
    exif = Pillow.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(form, orientation):
    upright = scene()
    stored_as = {
        2: Pillow.Transpose.FLIP_LEFT_RIGHT,
        3: Pillow.Transpose.ROTATE_180,
        4: Pillow.Transpose.FLIP_TOP_BOTTOM,
        5: Pillow.Transpose.TRANSPOSE,
        6: Pillow.Transpose.ROTATE_90,
        7: Pillow.Transpose.TRANSVERSE,
        8: Pillow.Transpose.ROTATE_270,
    }
    stored = upright.transpose(stored_as[orientation]) if orientation in stored_as else upright
    blob = encoded(stored, form, exif=_orientation(orientation))
    assert difference(decode(blob), upright) < 3
    facts = Image().facts(blob)
    assert (facts["width"], facts["height"]) == upright.size


def _hidden_colour_files():
    """A red picture whose left half is declared transparent, in every way a file can."""
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[:, 4:, 3] = 255
    picture = Pillow.fromarray(rgba)
    yield "RGBA PNG", encoded(picture, "PNG"), (255, 0, 0)
    yield "RGBA WEBP", encoded(picture, "WEBP", lossless=True, exact=True), (255, 0, 0)
    yield "RGBA TIFF", encoded(picture, "TIFF"), (255, 0, 0)
    grey = Pillow.fromarray(np.dstack([np.full((8, 8), 60, np.uint8), rgba[..., 3]]), "LA")
    yield "LA PNG", encoded(grey, "PNG"), (60, 60, 60)
    index = Pillow.fromarray((rgba[..., 3] > 0).astype(np.uint8), "P")
    index.putpalette([0, 255, 0, 255, 0, 0])
    yield "P PNG", encoded(index, "PNG", transparency=0), (255, 0, 0)
    yield "P PNG, alpha per entry", encoded(index, "PNG", transparency=b"\x00\xff"), (255, 0, 0)
    yield "P GIF", encoded(index, "GIF", transparency=0), (255, 0, 0)
    halves = np.where(rgba[..., 3] > 0, 200, 60).astype(np.uint8)
    yield "L PNG with a transparent value", encoded(Pillow.fromarray(halves), "PNG", transparency=60), (200,) * 3
    rgb = Pillow.fromarray(np.where(rgba[..., 3:] > 0, (9, 8, 7), (255, 0, 0)).astype(np.uint8))
    yield "RGB PNG with a transparent colour", encoded(rgb, "PNG", transparency=(255, 0, 0)), (9, 8, 7)
    deep = Pillow.fromarray(np.where(rgba[..., 3] > 0, 51_400, 4_660).astype(np.uint16))
    yield "16-bit PNG with a transparent value", encoded(deep, "PNG", transparency=4_660), (200,) * 3
    rows = b"".join(b"\x00" + b"\x3c\x00\x00\x00" * 4 + b"\x3c\x00\xff\xff" * 4 for _ in range(8))
    rgb_rows = b"".join(b"\x00" + b"\xff\xff\x12\x34\x00\x00" * 4 + b"\x09\x00\x08\x00\x07\x00" * 4 for _ in range(8))
    key = b"tRNS", b"\xff\xff\x12\x34\x00\x00"
    yield "16-bit RGB PNG with a transparent colour", png(8, 8, 16, 2, rgb_rows, key), (9, 8, 7)
    yield "16-bit LA PNG", png(8, 8, 16, 4, rows), (60, 60, 60)


HIDDEN = {name: (blob, colour) for name, blob, colour in _hidden_colour_files()}


@pytest.mark.parametrize("name", HIDDEN)
def test_colours_under_transparent_pixels_do_not_show(name):
    blob, colour = HIDDEN[name]
    values = np.asarray(decode(blob))
    assert (values[:, :4] == 255).all()
    assert (values[:, 4:] == colour).all()


def test_half_transparent_is_mixed_with_white():
    assert decode(encoded(Pillow.new("RGBA", (2, 2), (0, 0, 0, 51)), "PNG")).getpixel((0, 0)) == (204, 204, 204)


RAMP = np.tile(np.arange(256, dtype=np.uint16) * 257, (4, 1))


@pytest.mark.parametrize(
    ("name", "blob"),
    [
        ("16-bit PNG", encoded(Pillow.fromarray(RAMP), "PNG")),
        ("16-bit TIFF", encoded(Pillow.fromarray(RAMP), "TIFF")),
        ("16-bit LZW TIFF", encoded(Pillow.fromarray(RAMP), "TIFF", compression="tiff_lzw")),
        ("32-bit TIFF of 16-bit values", encoded(Pillow.fromarray(RAMP.astype(np.int32)), "TIFF")),
        ("32-bit TIFF of 8-bit values", encoded(Pillow.fromarray((RAMP // 257).astype(np.int32)), "TIFF")),
        ("32-bit TIFF of any range", encoded(Pillow.fromarray(RAMP.astype(np.int32) * 1000 - 10**6), "TIFF")),
        ("float TIFF of 0..1", encoded(Pillow.fromarray((RAMP / 65535).astype(np.float32)), "TIFF")),
        ("float TIFF of any range", encoded(Pillow.fromarray(RAMP.astype(np.float32) - 7), "TIFF")),
        ("16-bit RGB PNG", png(256, 4, 16, 2, b"".join(b"\0" + r.repeat(3).astype(">u2").tobytes() for r in RAMP))),
    ],
)  # fmt: skip
def test_deep_pictures_are_scaled_not_clipped(name, blob):
    values = np.asarray(decode(blob)).astype(int)
    assert np.abs(values - np.arange(256)[None, :, None]).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 7.0])
def test_floats_without_a_range_do_no_harm(value):
    values = np.asarray(decode(encoded(Pillow.fromarray(np.full((4, 4), value, np.float32)), "TIFF")))
    assert (values == 0).all()


def _lab(picture):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")


@pytest.mark.parametrize(
    ("mode", "form", "tolerance"),
    [
        ("CMYK", "JPEG", 3),
        ("CMYK", "TIFF", 1),
        ("YCbCr", "TIFF", 2),
        ("LAB", "TIFF", 3),
        ("P", "PNG", 20),
        ("RGBX", "TIFF", 1),
    ],
)
def test_colour_modes_are_converted(mode, form, tolerance):
    converted = _lab(scene()) if mode == "LAB" else scene().convert(mode)
    blob = encoded(converted, form)
    assert Pillow.open(io.BytesIO(blob)).mode in (mode, "RGB")
    assert difference(decode(blob), scene()) < tolerance


def test_black_and_white_is_converted():
    bits = np.random.default_rng(0).random((9, 9)) < 0.5
    assert (np.asarray(decode(encoded(Pillow.fromarray(bits), "PNG"))) == bits[..., None] * 255).all()


PLAIN = {colour: Pillow.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")}


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_counts_and_the_others_are_told(form):
    blob = encoded(PLAIN["red"], form, save_all=True, append_images=[PLAIN["blue"]])
    assert Image().facts(blob)["frames"] == 2
    assert difference(Image().read(blob), Pillow.new("RGB", (SIDE, SIDE), "red")) < 3


def test_what_a_phone_keeps_behind_its_picture_is_no_animation():
    blob = encoded(PLAIN["red"], "MPO", save_all=True, append_images=[PLAIN["blue"]])
    assert Pillow.open(io.BytesIO(blob)).n_frames == 2
    assert Image().facts(blob)["frames"] == 1
    assert difference(decode(blob), PLAIN["red"]) < 3


def test_the_picture_that_an_animated_png_hides_from_browsers_is_not_the_one_that_is_judged():
    """Programs that know no animation show the default image; every browser shows the frames alone."""
    others = [PLAIN["blue"], PLAIN["green"]]
    blob = encoded(PLAIN["red"], "PNG", save_all=True, append_images=others, default_image=True)
    assert decode(blob).getpixel((8, 8)) == (0, 0, 255)
    assert Image().facts(blob)["pdq"] == Image().facts(encoded(PLAIN["blue"], "PNG"))["pdq"]
    assert Image().facts(blob)["frames"] > 1
    with pytest.raises(PictureError):
        decode(blob[: len(blob) // 2])


# ------------------------------------------------------------------ the square


def test_fits():
    tall = Pillow.new("RGB", (100, 200), "red")
    tall.paste("blue", (0, 0, 100, 50))  # the top quarter, outside the central square
    padded, stretched, cropped = (np.asarray(square(tall, fit)) for fit in ("pad", "stretch", "crop"))
    for values in (padded, stretched, cropped):
        assert values.shape == (SIDE, SIDE, 3)
    assert (padded[:, :96] == 255).all()
    assert (padded[:, -96:] == 255).all()
    assert (padded[10, 96:-96] == (0, 0, 255)).all()
    assert (stretched[10] == (0, 0, 255)).all()
    assert (cropped[4:] == (255, 0, 0)).all()  # resizing mixes the edge
    with pytest.raises(ConfigError, match="'stretched' is not known; did you mean 'stretch'"):
        square(tall, "stretched")


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 1), (2, 3)])
def test_absurd_shapes_show_their_content(size, fit):
    blob = encoded(Pillow.new("RGB", size, "red"), "PNG")
    values = np.asarray(Image(fit).read(blob))
    assert values.shape == (SIDE, SIDE, 3)
    assert (values == (255, 0, 0)).all(axis=2).any()
    assert len(Image(fit).facts(blob)["pdq"]) == 64


def test_a_large_jpeg_is_decoded_smaller_to_the_same_effect():
    large = scene(size=(3200, 2400)).filter(ImageFilter.GaussianBlur(2))
    blob = encoded(large, "JPEG", quality=90)
    small = decode(blob, at_least=2 * SIDE)
    assert small.size == (1600, 1200)  # a quarter would have under 768 rows
    assert difference(Image().read(blob), square(decode(blob), "pad")) < 1
    assert Image().read(blob).tobytes() == Image().read(blob).tobytes()


def test_a_packed_picture_is_a_plain_384_png():
    value = Image().read(encoded(scene(), "JPEG"))
    blob = Image().pack(value)
    plain = Pillow.open(io.BytesIO(blob))
    assert (plain.format, plain.mode, plain.size) == ("PNG", "RGB", (SIDE, SIDE))
    assert plain.tobytes() == value.tobytes() == Image().unpack(blob).tobytes()
    with pytest.raises(PictureError):
        Image().unpack(blob[:-2000])


# ------------------------------------------------------------------ facts


def _distance(a, b):
    return (int(a, 16) ^ int(b, 16)).bit_count()


def test_facts():
    blob = encoded(scene(), "JPEG")
    facts = Image().facts(blob)
    assert facts.pop("pdq") == Image("crop").facts(blob)["pdq"]
    assert facts == {
        "format": "JPEG",
        "width": 160,
        "height": 120,
        "frames": 1,
        "sha256": hashlib.sha256(blob).hexdigest(),
    }


def _photo(seed):
    """Noise of every scale, as strong as it is coarse: the spectrum of a photograph, on which hashes rely."""
    rng = np.random.default_rng(seed)
    layers = [
        Pillow.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((256, 256)) for n in (4, 8, 16, 32, 64)
    ]
    weights = np.array([16, 8, 4, 2, 1]) / 31
    return Pillow.fromarray(np.tensordot(weights, np.stack(layers), 1).astype(np.uint8))


def test_the_hash_sees_through_recompression_and_tells_pictures_apart():
    hashes = [Image().facts(encoded(_photo(seed), "PNG"))["pdq"] for seed in range(4)]
    for seed, original in enumerate(hashes):
        again = _photo(seed).resize((150, 150))
        assert _distance(original, Image().facts(encoded(again, "JPEG", quality=60))["pdq"]) <= 31
    assert min(_distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 31


# ------------------------------------------------------------------ corruptions


@pytest.mark.parametrize("kind", Image.corruptions)
def test_corruptions_grow_with_severity(kind):
    value = Image().read(encoded(scene(), "PNG"))
    harm = [difference(Image().corrupt(value, kind, s, np.random.default_rng(0)), value) for s in range(1, 6)]
    assert harm[0] > 0
    assert harm == sorted(harm)


def test_unknown_corruptions_are_named():
    with pytest.raises(ConfigError, match="'blurr'; did you mean 'blur'"):
        Image().corrupt(Image().blank(), "blurr", 1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="severity 0"):
        Image().corrupt(Image().blank(), "blur", 0, np.random.default_rng(0))


@pytest.mark.parametrize("kind", [k for k, severities in Image.attacks.items() if len(severities) > 1])
def test_attacks_grow_with_severity(kind):
    boxes = [[(x, y), (x + 60, y), (x + 60, y + 20), (x, y + 20)] for y in (90, 150, 210) for x in (20, 160, 300)]
    value = with_word_boxes(Image().read(encoded(scene(), "PNG")), boxes, (160, 120), "pad")
    harm = [
        np.mean([difference(Image().corrupt(value, kind, s, np.random.default_rng(i)), value) for i in range(6)])
        for s in range(1, 6)
    ]
    assert harm[0] > 0 and harm[-1] > harm[0]


def test_captions_are_removed_and_moved_where_they_are_known_to_stand():
    plain = Pillow.new("RGB", (SIDE, SIDE), (10, 200, 30))
    written = plain.copy()
    written.paste("black", (100, 300, 200, 320))
    value = with_word_boxes(written, [[(100, 300), (200, 300), (200, 320), (100, 320)]], (640, 640), "pad")
    for severity in range(1, 6):
        bare = Image().corrupt(value, "caption_removed", severity, np.random.default_rng(0))
        assert bare.tobytes() == plain.tobytes()
        moved = np.asarray(Image().corrupt(value, "caption_moved", severity, np.random.default_rng(0)))
        rows = np.flatnonzero((moved == 0).all(axis=2).any(axis=1))
        assert len(rows) == 20 and rows[0] != 300
    for kind in ("caption_removed", "caption_moved"):  # nothing is known of words
        assert Image().corrupt(written, kind, 5, np.random.default_rng(0)).tobytes() == written.tobytes()


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_words_are_found_however_a_picture_was_made_to_fit(fit):
    large = Pillow.new("RGB", (768, 576), "white")
    large.paste("black", (300, 200, 500, 300))
    box = [(150, 148), (250, 148), (250, 198), (150, 198)]  # as OCR sees it: halved, and 48 pixels of padding on top
    value = with_word_boxes(Image(fit).read(encoded(large, "PNG")), [box], large.size, fit)
    assert np.asarray(value).min() == 0
    assert np.asarray(Image().corrupt(value, "caption_removed", 5, np.random.default_rng(0))).min() > 200


def test_blank_is_a_white_square():
    assert image.PADDING == "white"
    assert Image().blank().getcolors() == [(SIDE * SIDE, (255, 255, 255))]


# ------------------------------------------------------------------ how pictures lie in shards


@pytest.mark.parametrize("form", ["png", "webp"])
def test_png_and_webp_keep_every_pixel(form):
    modality = Image(image_format=form)
    value = modality.read(encoded(_photo(0), "PNG"))
    blob = modality.pack(value)
    assert modality.suffix == form and modality.lossless
    assert Pillow.open(io.BytesIO(blob)).format == form.upper()
    assert modality.unpack(blob).tobytes() == value.tobytes()


def test_jpeg_is_small_and_nearly_the_picture():
    modality = Image(image_format="jpeg")
    value = modality.read(encoded(_photo(0), "PNG"))
    blob = modality.pack(value)
    assert modality.suffix == "jpg" and not modality.lossless
    assert len(blob) < len(Image().pack(value)) / 3
    again = modality.unpack(blob)
    assert again.size == value.size and 0 < difference(again, value) < 2
    assert modality.unpack(modality.pack(modality.blank())).tobytes() == modality.blank().tobytes()


def test_the_configuration_names_the_format():
    config = parse_config({"run": "r", "source": {"kind": "synthetic"}, "image_format": "webp", "fit": "crop"})
    assert (Image.from_config(config).suffix, Image.from_config(config).fit) == ("webp", "crop")
    assert Image().suffix == "png"


@pytest.mark.parametrize(("pieces", "side"), [(4, 2), (8, 2), (9, 3), (None, 7)])
def test_the_regions_of_a_grid_are_hidden_one_by_one_and_overlap_by_half(pieces, side):
    picture = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8))
    values = np.asarray(picture)
    hidden = Image().occlusions(picture, pieces)
    assert len(hidden) == side**2 and hidden[0][0].name == "row 1, column 1"
    counted = np.zeros(values.shape[:2], dtype=int)
    for piece, covered in hidden:
        left, top, right, bottom = piece.place
        box = np.zeros(values.shape[:2], dtype=bool)
        box[top:bottom, left:right] = True
        counted += box
        found = np.asarray(covered)
        assert (found[~box] == values[~box]).all()
        assert np.abs(found[box] - values.mean((0, 1))).max() <= 0.5  # the picture's mean colour
        assert (right - left) / 130 == pytest.approx(2 / (side + 1), abs=0.02)
    assert counted.min() == 1 and counted.max() == 4 and counted[50, 65] > 1


def test_a_grid_of_one_region_hides_nothing():
    assert Image().occlusions(Image().blank(), 3) == []


def animation(colours, kind="GIF", size=(40, 30), **settings):
    frames = [Pillow.new("RGB", size, colour) for colour in colours]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], **settings)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_moments_of_an_animation_are_frames_of_it_the_first_and_the_last_among_them(kind):
    colours = [(10 * i, 0, 255 - 10 * i) for i in range(20)]
    moments = Image().moments(animation(colours, kind))
    assert len(moments) == FRAMES and all(moment.size == (SIDE, SIDE) for moment in moments)
    middles = [moment.getpixel((SIDE // 2, SIDE // 2)) for moment in moments]
    for at, colour in ((0, colours[0]), (-1, colours[-1])):
        assert max(abs(a - b) for a, b in zip(middles[at], colour, strict=True)) < 12
    assert [m[0] for m in middles] == sorted(m[0] for m in middles)


def test_a_picture_that_stands_still_has_one_moment():
    still = animation(["red"], "PNG")
    assert [m.tobytes() for m in Image().moments(still)] == [Image().read(still).tobytes()]
    assert len(Image().moments(animation([(255, 0, 0), (255, 0, 0), (255, 0, 1)], "TIFF"))) == 2


def test_an_animation_is_as_large_as_its_frames_together(monkeypatch):
    monkeypatch.setattr(image, "MAX_ANIMATION_PIXELS", 5_000)
    with pytest.raises(PictureError, match="5 frames of 40 x 30 pixels, 6,000 in all; at most 5,000"):
        Image().moments(animation([(i, 0, 0) for i in range(0, 250, 50)]))


def test_an_animation_cut_in_its_middle_is_damaged():
    whole = animation([(i, 255 - i, 7 * i % 255) for i in range(0, 250, 10)], "PNG")
    with pytest.raises(PictureError, match="truncated or damaged"):
        Image().moments(whole[: len(whole) * 2 // 3])
