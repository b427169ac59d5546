"""Words on pictures: what reading costs and reads, beside RapidOCR on pictures shrunk to 384x384, in turns.

The old way is what Bifocal did before it read pictures at their own size. Processor seconds of one thread, so that a
busy machine does not matter; the pictures are the demo's, those of ``--pictures``, a phone's screenshot, and ones
without words. With ``--scripts`` a sentence in each script is drawn and read, where a font of it is installed (Debian:
fonts-noto-core, fonts-dejavu, fonts-wqy-zenhei, fonts-takao-gothic, fonts-unfonts-core).

    python benchmarks/words_on_pictures.py --pictures ../shared/data/smear_memes/img --scripts
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from time import process_time

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from bifocal.modalities.image import SIDE, decode, square
from bifocal.sources.synthetic import Synthetic
from bifocal.transcribe.ocr import Ocr

DEJAVU = f"{get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf"
DEBIAN = "/usr/share/fonts/truetype"
NOTO = f"{DEBIAN}/noto/NotoSans"
SCRIPTS = {
    "English": (DEJAVU, ["THE GARDEN WAITS\nFOR NOBODY", "When your boss says\nwe need to talk"]),
    "French": (DEJAVU, ["déjà reçu à l'été\ngarçon", "où est la forêt\nélève français"]),
    "German": (DEJAVU, ["Straße über Öl\nfür Mädchen", "Grüße aus Köln\nschönes Wetter"]),
    "Spanish": (DEJAVU, ["¿Qué pasó ayer\nen la mañana?", "El niño pequeño\ncorre mucho"]),
    "Polish": (DEJAVU, ["żółty źrebak śpi\nłąka", "Gdzie jest mój\npiękny pies"]),
    "Turkish": (DEJAVU, ["ışık ağaç şeker\nİstanbul", "bugün hava\nçok güzel"]),
    "Vietnamese": (DEJAVU, ["người đẹp ở đây\nđường", "hôm nay trời\nrất đẹp"]),
    "Chinese": (f"{DEBIAN}/wqy/wqy-zenhei.ttc", ["今天天气很好\n我们去公园", "老板说我们\n需要谈谈"]),
    "Japanese": (f"{DEBIAN}/fonts-japanese-gothic.ttf", ["今日はいい天気\nですね", "電車は駅で\n待っています"]),
    "Greek": (DEJAVU, ["ΤΟ ΔΕΝΤΡΟ\nπεριμένει", "καλημέρα κόσμε\nτι κάνεις"]),
    "Russian": (DEJAVU, ["ВЫБЕРИТЕ ПОЕЗД\nЦЕНА БИЛЕТА", "выберите поезд\nцена билета"]),
    "Ukrainian": (DEJAVU, ["ЯКИЙ ГАРНИЙ\nДЕНЬ СЬОГОДНІ", "добрий ранок\nяк справи"]),
    "Arabic": (f"{NOTO}Arabic-Bold.ttf", ["القطار ينتظر\nفي المحطة", "صباح الخير\nكيف حالك"]),
    "Hebrew": (f"{NOTO}Hebrew-Bold.ttf", ["הרכבת מחכה\nבתחנה", "בוקר טוב\nמה שלומך", "הילד הולך\nלבית הספר"]),
    "Korean": (f"{DEBIAN}/unfonts-core/UnDotumBold.ttf", ["오늘은 날씨가\n좋습니다", "안녕하세요\n여러분"]),
    "Hindi": (f"{NOTO}Devanagari-Bold.ttf", ["आज मौसम अच्छा\nहै", "आप कैसे हैं\nमेरे दोस्त"]),
    "Thai": (f"{NOTO}Thai-Bold.ttf", ["รถไฟรออยู่\nที่สถานี", "สวัสดีครับ\nทุกคน"]),
    "Bengali": (f"{NOTO}Bengali-Bold.ttf", ["আজ আবহাওয়া\nভালো", "আপনি কেমন\nআছেন"]),
    "Tamil": (f"{NOTO}Tamil-Bold.ttf", ["எப்படி\nஇருக்கிறீர்கள்", "ரயில் நிலையத்தில்\nகாத்திருக்கிறது"]),
    "Georgian": (f"{NOTO}Georgian-Bold.ttf", ["დღეს კარგი\nამინდია", "როგორ ხარ\nმეგობარო"]),
    "Armenian": (f"{NOTO}Armenian-Bold.ttf", ["այսօր եղանակը\nլավ է", "ինչպես ես\nընկերս"]),
}


class OldReader:
    """RapidOCR over the picture padded to 384x384, every line of confidence 0.5 or more."""

    def __init__(self) -> None:
        from rapidocr import RapidOCR

        self._read = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,
                "Det.limit_side_len": SIDE,
                "Det.limit_type": "max",
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def text(self, picture: Image.Image) -> str:
        found = self._read(np.ascontiguousarray(np.asarray(square(picture, "pad"))[:, :, ::-1]))
        return "\n".join(found.txts or ())


def drawn(text: str, font: str = DEJAVU, size: tuple[int, int] = (480, 160), high: int = 28) -> Image.Image:
    picture = Image.new("RGB", size, "white")
    face = ImageFont.truetype(font, high)
    ImageDraw.Draw(picture).multiline_text((20, 30), text, font=face, fill="black", spacing=high // 2)
    return picture


def similarity(text: str, other: str) -> float:
    return SequenceMatcher(None, "".join(text.split()), "".join(other.split()), autojunk=False).ratio()


def compare(name: str, pictures: Sequence[Image.Image], old: OldReader, new: Ocr) -> None:
    """Both ways in turns, after one picture each to warm up."""
    ways: dict[str, Callable[[Image.Image], object]] = {"before": old.text, "now": new.read_picture}
    spent = dict.fromkeys(ways, 0.0)
    for way in ways.values():
        way(pictures[0])
    for picture in pictures:
        for name_of_way, work in ways.items():
            begun = process_time()
            work(picture)
            spent[name_of_way] += process_time() - begun
    before, now = (1e3 * spent[way] / len(pictures) for way in ways)
    print(f"{name} ({len(pictures)}): {before:.0f} ms a picture before, {now:.0f} now: {now / before:.2f}x", flush=True)


def demo(size: int, overlay: bool) -> list[Image.Image]:
    source = Synthetic(size=size, structure={"and": 1.0}, cue="colour", overlay=overlay, seed=0)
    return [decode(source.open(row.parts["image"])) for row in source]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=40, help="pictures of each kind")
    parser.add_argument("--pictures", type=Path, help="a folder of more pictures")
    parser.add_argument("--scripts", action="store_true", help="read sentences in many scripts, too")
    chosen = parser.parse_args()
    old, new = OldReader(), Ocr()
    compare("the demo's pictures, 384x384", demo(chosen.size, True), old, new)
    compare("the same without words", demo(chosen.size, False), old, new)
    if chosen.pictures:
        files = sorted(chosen.pictures.iterdir())
        step = max(1, len(files) // chosen.size)
        compare(f"pictures of {chosen.pictures.name}", [decode(f.read_bytes()) for f in files[::step]], old, new)
    words = "\n".join(f"the garden waits for visitor {i}" for i in range(38))
    phone = drawn(words, size=(1170, 2532), high=42)
    compare("a phone's screenshot, 1170x2532, 38 lines", [phone] * 2, old, new)
    print(f"  as it stands there: {similarity(words, old.text(phone)):.3f} before, ", end="")
    print(f"{similarity(words, new.read_picture(phone).text):.3f} now")
    for script, (font, texts) in SCRIPTS.items() if chosen.scripts else ():
        if not Path(font).is_file():
            print(f"  {script}: {font} is not installed")
            continue
        pictures = [(text, drawn(text, font)) for text in texts]
        before = [old.text(picture) for _, picture in pictures]
        now = [new.read_picture(picture) for _, picture in pictures]
        alike = [
            np.mean([similarity(text, found) for (text, _), found in zip(pictures, read, strict=True)])
            for read in (before, [reading.text for reading in now])
        ]
        garbage = sum(bool(found) for found in before)
        print(
            f"  {script}: similarity {alike[0]:.2f} before, {alike[1]:.2f} now; text from {garbage} of {len(texts)} "
            f"before, {sum(bool(reading.text) for reading in now)} now; "
            f"unread lines {sum(reading.unread for reading in now)}"
        )


if __name__ == "__main__":
    main()
