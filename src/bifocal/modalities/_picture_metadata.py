"""A picture's file without its metadata: what stands beside pixels is dropped, never read, and so never unpacked.

Comments, prompts, colour profiles, thumbnails and the like may be broken or huge while every pixel is whole, and a
viewer shows such a picture. Only the container is walked here. Kept is what pixels need, and the orientation, as it is.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

__all__ = ["jpeg_closings", "without_metadata"]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_STILL = (b"IHDR", b"PLTE", b"IDAT")
_PNG_FRAMES = (b"acTL", b"fcTL", b"fdAT")
_TRANSPARENT = {0: (2,), 2: (6,), 3: range(1, 257)}
"""Bytes of a PNG's ``tRNS`` by its colour type; libpng, and so a browser, passes over one of another length."""
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH")
_WEBP_FLAGS = 0x12
"""Alpha and animation; not profile, EXIF or XMP."""
_BEFORE = b"\xef\xbb\xbf\r\n\t \0"
"""What a badly configured server puts before a file."""
_TIFF_PIXELS = frozenset(
    (
        *(256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
        *(332, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
    )
)
"""Tags that say where pixels lie and how they are coded, after TIFF 6.0; 274 is the orientation."""
_ORIENTATION = 274


def without_metadata(blob: bytes) -> bytes | None:
    """The same picture without its metadata; None where its pixels are cut."""
    plain = blob.lstrip(_BEFORE)
    try:
        if plain.startswith(_PNG):
            return _png(plain)
        if plain.startswith(b"\xff\xd8\xff"):
            return _jpeg(plain)
        if plain[:4] == b"RIFF" and plain[8:12] == b"WEBP":
            return _webp(plain)
        if plain[:6] in (b"GIF87a", b"GIF89a"):
            return _gif(plain)
        if plain[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(plain)
    except (struct.error, IndexError):  # cut within a header
        return None
    return plain


def _png(blob: bytes) -> bytes | None:
    chunks = list(_png_chunks(blob))
    names = [name for name, _, _ in chunks]
    if b"IDAT" not in names or len(chunks[-1][1]) < 12 + int.from_bytes(chunks[-1][1][:4], "big"):
        return None
    control = [sound and len(chunk) == 20 for name, chunk, sound in chunks[: names.index(b"IDAT")] if name == b"acTL"]
    animated = control == [True]  # else a viewer shows the still picture
    kept, colour = [_PNG], -1
    for name, chunk, sound in chunks:
        if name == b"IHDR":
            colour = chunk[17]
        wanted = name in _PNG_STILL or (animated and name in _PNG_FRAMES)
        wanted |= name == b"tRNS" and sound and len(chunk) - 12 in _TRANSPARENT.get(colour, ())
        if wanted or (name == b"eXIf" and sound):
            kept.append(chunk)
    return b"".join((*kept, struct.pack(">I", 0), b"IEND", struct.pack(">I", zlib.crc32(b"IEND"))))


def _png_chunks(blob: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """``(name, chunk, whether its checksum holds)`` up to the end of the pixels; a chunk that is cut is the last."""
    at = len(_PNG)
    while at + 12 <= len(blob):
        (size,), name = struct.unpack_from(">I", blob, at), blob[at + 4 : at + 8]
        chunk = blob[at : at + 12 + size]
        if name == b"IEND":
            return
        cut = len(chunk) < 12 + size
        if cut and name not in (*_PNG_STILL, *_PNG_FRAMES):
            return
        yield name, chunk, not cut and struct.unpack(">I", chunk[-4:])[0] == zlib.crc32(memoryview(chunk)[4:-4])
        at += 12 + size


def _jpeg(blob: bytes) -> bytes | None:
    """Segments as libjpeg finds them: by their length, then whatever lies before the next marker passed over."""
    kept, at, upright = [blob[:2]], 2, False
    while True:
        at = blob.find(b"\xff", at)
        while at >= 0 and blob[at + 1] in (0x00, 0xFF):
            at = at + 1 if blob[at + 1] == 0xFF else blob.find(b"\xff", at + 2)
        if at < 0:
            return None
        marker = blob[at + 1]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # stands alone
            at += 2
            continue
        if marker == 0xD9:
            return None
        (size,) = struct.unpack_from(">H", blob, at + 2)
        segment = blob[at : at + 2 + size]
        if marker == 0xDA:
            return b"".join((*kept, blob[at:]))
        body = segment[4:]
        if marker == 0xE1 and body.startswith(b"Exif\0\0") and not upright:
            upright = True
            kept.append(segment)
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE) or _is_colour(marker, body):
            kept.append(segment)
        at += 2 + max(size, 2)


def _is_colour(marker: int, body: bytes) -> bool:
    """Whether an application's segment says how colours are coded, and is long enough for libjpeg to heed it."""
    return (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14) or (
        marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
    )


def jpeg_closings(blob: bytes) -> list[bytes]:
    """Of a JPEG without metadata that lacks only the mark of its end, two files that differ in what precedes it.

    A decoder that still lacks data takes them from what was added, and the pixels differ; where all data are there
    they are equal, and so the picture is whole. None where the mark is there, or a scan is missing.
    """
    if not blob.startswith(b"\xff\xd8") or b"\xff\xd9" in blob[blob.rfind(b"\xff\xda") :]:
        return []
    try:
        if not _has_all_scans(blob):
            return []
    except (struct.error, IndexError, ValueError):  # cut within a header
        return []
    body = blob.removesuffix(b"\xff")
    return [body + sign * 64 + b"\xff\xd9" for sign in (b"\x5a\xa5", b"\xe4\x1b")]


def _has_all_scans(blob: bytes) -> bool:
    """Whether each coefficient of each component comes, to its last bit, in a scan that at least begins."""
    at = 2
    while blob[at + 1] not in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive
        if blob[at + 1] == 0xDA:
            return False
        at += 2 + struct.unpack_from(">H", blob, at + 2)[0]
    progressive = blob[at + 1] == 0xC2
    lacking = {blob[at + 10 + 3 * i]: set(range(64)) for i in range(blob[at + 9])}
    while (at := blob.find(b"\xff\xda", at + 1)) >= 0:
        n = blob[at + 4]
        first, last, bits = blob[at + 5 + 2 * n : at + 8 + 2 * n] if progressive else (0, 63, 0)
        for i in range(n):
            if not bits & 15:
                lacking.get(blob[at + 5 + 2 * i], set()).difference_update(range(first, last + 1))
    return not any(lacking.values())


def _webp(blob: bytes) -> bytes | None:
    kept, at = [], 12
    while at + 8 <= len(blob):
        name, size = struct.unpack_from("<4sI", blob, at)
        body = blob[at + 8 : at + 8 + size]
        if name in _WEBP_PIXELS or name == b"EXIF":
            if len(body) == size:
                kept.append((name, body))
            elif name != b"EXIF":
                return None
        at += 8 + size + size % 2
    exif = any(name == b"EXIF" for name, _ in kept)
    chunks = []
    for name, body in kept:
        if name == b"VP8X":
            body = bytes([body[0] & _WEBP_FLAGS | (0x08 if exif else 0)]) + body[1:]
        chunks.append(struct.pack("<4sI", name, len(body)) + body + b"\0" * (len(body) % 2))
    content = b"".join((b"WEBP", *chunks))
    return struct.pack("<4sI", b"RIFF", len(content)) + content


def _gif(blob: bytes) -> bytes:
    """Without comments and what applications left; the blocks that say how a frame is shown stay."""
    at = 13 + (3 << (blob[10] & 7) + 1 if blob[10] & 0x80 else 0)
    kept = [blob[:at]]
    while at < len(blob) and blob[at] in (0x21, 0x2C):
        frame = blob[at] == 0x2C
        start, control = at, not frame and blob[at + 1] == 0xF9
        at += 11 + (3 << (blob[at + 9] & 7) + 1 if blob[at + 9] & 0x80 else 0) if frame else 2
        while at < len(blob) and blob[at]:
            at += 1 + blob[at]
        at += 1
        if frame or (control and blob[start + 2] == 4):
            kept.append(blob[start:at])
    return b"".join((*kept, b";" if at < len(blob) else b""))


def _tiff(blob: bytes) -> bytes | None:
    """The tags of each page that pixels need, in place of all of them: no other byte moves."""
    order = "<" if blob[:1] == b"I" else ">"
    big = 43 in (blob[2], blob[3])
    count, place, width, inline = ("Q", "Q", 20, 12) if big else ("H", "I", 12, 8)
    result, seen = bytearray(blob), set[int]()
    (at,) = struct.unpack_from(order + place, blob, 8 if big else 4)
    while at and at not in seen and len(seen) < 1000:
        seen.add(at)
        (entries,) = struct.unpack_from(order + count, blob, at)
        first = at + struct.calcsize(count)
        last = first + entries * width
        following = blob[last : last + struct.calcsize(place)]
        if len(following) < struct.calcsize(place):  # the directory is cut
            return None if len(seen) == 1 else bytes(result)
        kept = []
        for start in range(first, last, width):
            tag, kind = struct.unpack_from(order + "HH", blob, start)
            (value,) = struct.unpack_from(order + "H", blob, start + inline)
            if tag in _TIFF_PIXELS and (tag != _ORIENTATION or (kind == 3 and 1 <= value <= 8)):
                kept.append(blob[start : start + width])
        directory = struct.pack(order + count, len(kept)) + b"".join(kept) + following
        result[at : at + len(directory)] = directory
        (at,) = struct.unpack(order + place, following)
    return bytes(result)
