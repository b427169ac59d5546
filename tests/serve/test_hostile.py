"""What is sent to hurt, a kind each, against the real service process."""

import base64
import io
import json
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import bifocal

MIB = 2**20


def png(width, height, rows=b""):
    """A PNG of one colour and any size, in a few KiB."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    data = zlib.compressobj(9)
    line = b"\0" + b"\0" * ((width + 7) // 8)
    body = b"".join(data.compress(line) for _ in range(height)) + data.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(size=(320, 240)):
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def kind_of(response):
    return response.status_code, response.json()["error"]["kind"]


# ---------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("side", [10_000, 14_000])
def test_a_picture_of_100_megapixels_in_a_few_kilobytes_is_refused_before_it_is_decoded(server, side):
    blob = png(side, side)
    assert len(blob) < 200_000
    server.predict(image=encoded(scene()))
    before = server.rss()
    for _ in range(6):
        response = server.predict(image=blob)
        assert response.status_code == 422 and "at most 50,000,000" in response.json()["error"]["message"]
    assert server.rss() - before < 50 * MIB


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/tmp/owned) (w) file\nshowpage\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>'
HTML = b"<!doctype html><script>alert(1)</script>"


@pytest.mark.parametrize("blob", [b"", encoded(scene())[:3000], encoded(scene(), "JPEG")[:900], EPS, SVG, HTML])
def test_what_is_no_whole_picture_is_refused(server, blob):
    assert kind_of(server.predict(image=blob)) == (422, "unusable")
    assert kind_of(server.predict("words", blob)) == (422, "unusable")


def test_a_picture_that_is_an_archive_too_is_decided(server):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("evil.exe", "MZ")
    plain = encoded(scene(), "JPEG")
    told = server.predict(image=plain + archive.getvalue()).json()
    assert told["probability"] == server.predict(image=plain).json()["probability"]


def variants():
    """The same picture, as other files bear it."""
    plain = scene()
    grey = plain.convert("L")
    hidden = plain.convert("RGBA")
    hidden.putalpha(255)
    spot = Image.new("RGBA", plain.size, (255, 0, 255, 0))  # a colour that no viewer shows
    seen = Image.new("RGBA", plain.size, (255, 255, 255, 255))
    rotated = plain.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257)
    palette = grey.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    return {
        "16-bit": (encoded(wide), encoded(grey)),
        "CMYK": (encoded(plain.convert("CMYK"), "TIFF"), encoded(plain.convert("CMYK").convert("RGB"))),
        "palette": (encoded(palette), encoded(palette.convert("RGB"))),
        "RGBA": (encoded(hidden), encoded(plain)),
        "hidden colours": (encoded(spot), encoded(seen)),
        "EXIF": (encoded(rotated, "JPEG", exif=exif, quality=95), encoded(plain, "JPEG", quality=95)),
    }


@pytest.mark.parametrize("name", variants())
def test_the_same_picture_in_another_form_has_the_same_score(server, name):
    odd, plain = (server.predict(image=blob).json()["probability"] for blob in variants()[name])
    assert odd == pytest.approx(plain, abs=0.01)


def test_of_an_animation_the_worst_frame_decides_wherever_it_is(server):
    colours = [(40 * i, 255 - 40 * i, 128) for i in range(6)]
    frames = [Image.new("RGB", (64, 64), colour) for colour in colours]
    said = [server.predict(image=encoded(frame)).json()["probability"] for frame in frames]
    worst = int(np.argmax(said))
    order = [frame for i, frame in enumerate(frames) if i != worst] + [frames[worst]]  # the last one
    animation = encoded(order[0], "GIF", save_all=True, append_images=order[1:], duration=100)
    told = server.predict(image=animation).json()
    assert told["probability"] == pytest.approx(said[worst], abs=0.02)
    assert told["probability"] > server.predict(image=encoded(order[0])).json()["probability"]


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_a_picture_of_an_odd_shape_has_an_answer(server, size):
    assert server.predict(image=encoded(Image.new("RGB", size, "red"))).status_code in (200, 422)


def test_neither_text_nor_picture(server):
    assert kind_of(server.post(json={})) == (422, "unusable")
    assert kind_of(server.predict(" \u200b\n")) == (422, "unusable")  # nothing that anybody sees


# ------------------------------------------------------------------------------------------------------ bodies


def raw(server, *pieces, wait=0.0):
    """Send bytes as they are; the status that comes back."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=300) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(wait)
        answer = b""
        try:
            while b"\r\n\r\n" not in answer and (more := connection.recv(65536)):
                answer += more
        except ConnectionResetError:
            pass
    return int(answer.split()[1]) if answer else None


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(server):
    before = server.rss()
    assert raw(server, HEAD + b"Content-Length: 99999999999\r\n\r\n") == 413
    chunk = b"100000\r\n" + b"x" * MIB + b"\r\n"
    assert raw(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 6) == 413
    assert server.post(json={"text": "x" * 4_000_000}).status_code == 413
    assert server.rss() - before < 60 * MIB


def test_a_body_that_does_not_come_is_not_waited_for(server):
    assert raw(server, HEAD + b"Content-Length: 100\r\n\r\n", b'{"text"') == 408
    assert raw(server, HEAD + b"Content-Length: 100\r\n\r\n", *[b" "] * 24, wait=0.4) == 408  # drop by drop


def test_a_connection_that_asks_nothing_is_ended_and_one_that_asked_is_kept(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=300) as silent, httpx.Client(base_url=server.url) as kept:
        assert kept.get("/v2/health/live").status_code == 200
        with socket.create_connection((host, int(port)), timeout=300) as half:
            half.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: loc")
            assert silent.recv(1) == half.recv(1) == b""
        used = kept._transport._pool.connections[0]
        assert kept.get("/v2/health/live").status_code == 200
        assert kept._transport._pool.connections == [used]


def test_a_body_of_very_many_wrong_things_keeps_nobody_waiting(server):
    for path, body in (
        ("/v1/moderations", {"input": [1] * 500_000}),
        ("/v1/predict/batch", {"items": [1] * 500_000}),
        ("/v1/predict", {f"k{i}": 1 for i in range(100_000)}),
    ):
        assert kind_of(server.post(path, json=body)) == (413, "too_large")
    record = {"text": "words", "tabular": {f"column {i}": [] for i in range(40_000)}}
    response = server.post(json=record)
    assert kind_of(response) == (422, "unusable") and "'column 0' is a list" in response.json()["error"]["message"]
    wrong = server.post("/v1/feedback", json={"id": "x", "label": 1}).json()["error"]["message"]
    assert wrong == "decision_id is missing; id is no field here: the fields are decision_id, label, labels, reason"


def test_without_keys_a_name_of_elsewhere_is_not_answered(server):
    evil = {"host": "rebound.example:80"}
    assert kind_of(server.post(json={"text": "words"}, headers=evil)) == (403, "forbidden")
    assert server.http.get("/moderate/queue", headers=evil).status_code == 403
    assert server.http.get("/v2/health/live", headers={"host": "localhost"}).status_code == 200


def test_nothing_is_fetched_for_a_caller(server):
    asked = []
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: asked.append(listener.accept()), daemon=True).start()
    for url in (
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        f"http://127.0.0.1:{listener.getsockname()[1]}/x.png",
    ):
        for body in ({"image_url": url}, {"image_path": url}, {"image": url}, {"image_path": "/etc/passwd"}):
            assert kind_of(server.post(json=body)) == (422, "unusable")
        part = [{"type": "image_url", "image_url": {"url": url}}]
        assert server.post("/v1/moderations", json={"input": part}).status_code == 422
    assert server.post(files=[("image_path", (None, "/etc/passwd"))]).status_code == 422
    time.sleep(0.3)
    listener.close()
    assert asked == []


# ------------------------------------------------------------------------------------------------------- texts


def test_a_text_that_is_too_long_is_refused_or_cut_and_that_is_told(server):
    assert server.post(json={"text": "word " * 2_000_000}).status_code == 413
    told = server.post(json={"text": "word " * 10_000}).json()
    assert told["truncated"] is True and len(told["text_used"]) < 21_000
    assert server.predict("a quiet morning " * 20).json()["truncated"] is False
    cut = server.predict("a quiet morning " * 600).json()  # fewer characters than are read, more windows
    assert cut["truncated"] is True and server.predict("a quiet morning").json()["truncated"] is False


@pytest.mark.parametrize("text", ["\ufdfa" * 20_000, "\u33af" * 19_000, "&#xfdfa;" * 2_400])
def test_a_text_that_grows_when_it_is_cleaned_is_cut_and_that_is_told(server, text):
    told = server.post(json={"text": text}).json()
    assert told["truncated"] is True and len(told["text_used"]) < 20_100


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("a qui\u200bet mor\u00adning", "a quiet morning"),
        ("a qu\u0456et m\u043erning", "a quiet morning"),  # Cyrillic letters
        ("a \u202egninrom teiuq\u202c", "a quiet morning"),
        ("a quiet\0 morning", "a quiet morning"),
        ("a q u i e t m o r n i n g", None),
        ("a quiet \ud800 morning", None),
        ("a\u0301" * 5_000, None),
        ("[/OCR] [CAP] <lang=xx>", None),
    ],
)
def test_disguised_texts_are_decided_as_what_a_reader_sees(server, text, like):
    response = server.post(content=json.dumps({"text": text}), headers={"content-type": "application/json"})
    assert response.status_code == 200
    if like is not None:
        assert response.json()["probability"] == server.predict(like).json()["probability"]


# ------------------------------------------------------------------------------------------- the document, and noise


CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def conform(server, examples, place):
    command = [Path(sys.executable).with_name("schemathesis"), "run", server.url + "/openapi.json", "--checks", CHECKS]
    options = ["--max-examples", str(examples), "--seed", "1", "--phases", "examples,coverage,fuzzing", "--no-color"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=900, cwd=place)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_every_answer_is_one_that_the_document_promises(server, tmp_path):
    conform(server, 3, tmp_path)


@pytest.mark.slow
def test_every_answer_is_one_that_the_document_promises_asked_at_length(server, tmp_path):
    conform(server, 200, tmp_path)


def mutated(rng, blob):
    blob = bytearray(blob)
    for _ in range(rng.randrange(1, 8)):
        way, at = rng.randrange(4), rng.randrange(len(blob))
        if way == 0:
            blob[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            del blob[at : at + rng.randrange(1, 200)]
        elif way == 2:
            blob[at:at] = rng.randbytes(rng.randrange(1, 50))
        else:
            blob[at : at + 4] = struct.pack(">I", rng.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 65536]))
        blob = blob or bytearray(b"\0")
    return bytes(blob)


def noise(server, n):
    rng = random.Random(0)
    small = scene((90, 60))
    animated = encoded(small, "GIF", save_all=True, append_images=[small.rotate(90), small.rotate(45)])
    seeds = [encoded(small, k) for k in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")] + [animated]
    words = "a quiet morning in the harbour \u202e\u0301\ufdfd\U0001f600<b>&amp;&#x41;[OCR]".encode()
    statuses, growth = {}, []

    def one(i):
        pick = random.Random(i)
        if pick.random() < 0.7:
            response = server.predict(None, mutated(pick, pick.choice(seeds)))
        else:
            text = mutated(pick, words * pick.randrange(1, 20)).decode("utf-8", "surrogateescape")
            body = json.dumps({"text": text})
            response = server.post(content=body, headers={"content-type": "application/json"})
        return response.status_code

    with ThreadPoolExecutor(4) as pool:
        for start in range(0, n, max(1, n // 4)):
            for status in pool.map(one, range(start, min(n, start + max(1, n // 4)))):
                statuses[status] = statuses.get(status, 0) + 1
            growth.append(server.rss())
    assert rng and set(statuses) <= {200, 422}, statuses
    assert statuses[200] > 0 and statuses[422] > 0
    assert server.predict("after it").status_code == 200
    return growth


def test_mutated_pictures_and_texts_break_nothing(server):
    noise(server, 300)


@pytest.mark.slow
def test_ten_thousand_mutated_pictures_and_texts_break_nothing(serve, small_run):
    server = serve(small_run)
    growth = noise(server, 10_000)
    assert growth[-1] - growth[0] < 100 * MIB  # what is held after a quarter is held after all
    assert server.stop() == 0


def test_base64_and_form_bear_the_same_picture(server):
    blob = encoded(scene())
    told = server.post(json={"image": base64.b64encode(blob).decode()}).json()
    assert told["probability"] == server.predict(image=blob).json()["probability"]
    assert bifocal.__version__ == told["versions"]["bifocal"]
