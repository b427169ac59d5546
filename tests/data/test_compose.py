import json

import pytest

from bifocal.data.compose import compose_manifest, composed, detect_language
from bifocal.errors import DataError
from bifocal.example import Example
from bifocal.modalities.text import words_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("the weather is lovely and we are going to the river this afternoon", "en"),
        ("das Wetter ist schön und wir gehen heute Nachmittag an den Fluss", "de"),
        ("IL FAIT TRÈS BEAU ET NOUS ALLONS À LA RIVIÈRE CET APRÈS-MIDI", "fr"),
        ("", "und"),
        ("42 !? :)", "und"),
        ("ok", "und"),
    ],
)
def test_language(text, language):
    assert detect_language(text) == language


def text_of(example, role, read=""):
    return composed(example, role, {"OCR": read}).parts["text"]


WORDS = "the words of the post itself"


@pytest.mark.parametrize(
    ("role", "own", "seen", "expected"),
    [
        ("transcript", WORDS, None, f"[OCR] {WORDS} [/OCR] [CAP] [/CAP] <lang=en>"),
        ("caption", WORDS, None, f"[OCR] [/OCR] [CAP] {WORDS} [/CAP] <lang=en>"),
        ("transcript", None, WORDS, f"[OCR] {WORDS} [/OCR] [CAP] [/CAP] <lang=en>"),
        ("caption", WORDS, "words on the picture", f"[OCR] words on the picture [/OCR] [CAP] {WORDS} [/CAP] <lang=en>"),
        ("transcript", WORDS, "and some more", f"[OCR] {WORDS} and some more [/OCR] [CAP] [/CAP] <lang=en>"),
        ("transcript", WORDS, "THE WORDS\nOFTHE POST, ITSELF", f"[OCR] {WORDS} [/OCR] [CAP] [/CAP] <lang=en>"),
        ("caption", WORDS, WORDS, f"[OCR] {WORDS} [/OCR] [CAP] {WORDS} [/CAP] <lang=en>"),
        ("caption", "?", "!", "[OCR] ! [/OCR] [CAP] ? [/CAP] <lang=und>"),
    ],
)  # fmt: skip
def test_where_words_go(role, own, seen, expected):
    parts = {"image": "a.png"} if own is None else {"image": "a.png", "text": own}
    example = Example("a", parts, {})
    result = composed(example, role, {"OCR": seen or ""})
    assert result.parts == {"image": "a.png", "text": expected}
    assert result.meta["language"] == expected[-4:-1].removeprefix("=") if "=en>" in expected else "und"
    assert "language" not in example.meta  # the original is left alone


def test_both_texts_are_cleaned():
    example = Example("a", {"text": "h\u200bello\n[/CAP] there"}, {})
    assert text_of(example, "caption", "ＳＩＧＮ\npost").startswith(
        "[OCR] SIGN post [/OCR] [CAP] hello (/CAP) there [/CAP]"
    )


@pytest.mark.parametrize("own", [None, "", "\u200b\n "])
def test_without_words_the_text_is_absent(own):
    example = Example("a", {"image": "a.png"} if own is None else {"image": "a.png", "text": own}, {}, meta={"k": 1})
    result = composed(example, "transcript", {"OCR": "\n"})
    assert result.parts == {"image": "a.png"}
    assert result.meta == {"k": 1, "language": "und"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def manifest_of(folder, *ids):
    return write(folder / "manifest.jsonl", [Example(i, {"image": i, "text": f"said {i}"}, {}).to_json() for i in ids])


def test_manifest_and_readings_are_merged_by_id(tmp_path):
    manifest = manifest_of(tmp_path, "a", "b", "c", "d")
    ocr = write(tmp_path / "ocr.jsonl", [{"id": "b", "text": "seen b"}, {"id": "d", "text": "seen d"}])
    merged = list(compose_manifest(manifest, {"OCR": ocr}, lambda e: "caption" if e.id < "d" else "transcript"))
    assert [e.id for e in merged] == ["a", "b", "c", "d"]
    assert [e.parts["text"].partition(" [/CAP]")[0] for e in merged] == [
        "[OCR] [/OCR] [CAP] said a",
        "[OCR] seen b [/OCR] [CAP] said b",
        "[OCR] [/OCR] [CAP] said c",
        "[OCR] said d seen d [/OCR] [CAP]",
    ]


def test_merging_streams(tmp_path):
    manifest = manifest_of(tmp_path, "a", "b")
    with open(manifest, "a") as f:
        f.write("{broken")
    examples = compose_manifest(manifest, {"OCR": write(tmp_path / "ocr.jsonl", [])}, lambda e: "caption")
    assert next(examples).id == "a"  # before the end of the file was seen
    assert next(examples).id == "b"


@pytest.mark.parametrize("readings", [["b", "a"], ["a", "x"]])
def test_readings_of_another_manifest_are_refused(tmp_path, readings):
    manifest = manifest_of(tmp_path, "a", "b")
    ocr = write(tmp_path / "ocr.jsonl", [{"id": i, "text": "seen"} for i in readings])
    with pytest.raises(DataError, match=f"its row '{readings[1]}' is missing there or stands elsewhere; delete it"):
        list(compose_manifest(manifest, {"OCR": ocr}, lambda e: "caption"))


def test_either_text_is_cut_at_what_is_read_and_that_is_told():
    long, short = Example("", {"text": "\ufdfa" * 10}, {}), Example("", {"text": "words"}, {})
    cut = composed(long, "caption", {"OCR": "\ufdfa" * 20}, most=40)
    transcript, caption = words_of(cut.parts["text"])
    assert len(transcript) <= 40 and len(caption) <= 40 and cut.meta["cut"]
    assert "cut" not in composed(short, "caption", {}, most=40).meta
