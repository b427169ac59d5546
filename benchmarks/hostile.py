"""What three strangers without a key cost a client that has one, and what a post of the worst signs costs at most.

Usage: python benchmarks/hostile.py [--run FOLDER] [--seconds 6] [--rounds 3]

Without --run, the run of benchmarks/serving.py is made first. The client asks as soon as it is answered: alone, and
while three strangers send 12 MiB of JSON, or of `&` to the sign-in, as fast as they can, each in a process of its own;
in rounds that alternate, told as ratios within a round.
"""

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from pathlib import Path

import httpx
from serving import make_run

import bifocal
from bifocal.serve.api.keys import add_key

SIZE = 12 * 2**20 - 2000
HOSTILE = {
    "JSON": ("/v1/predict/batch", b'{"items":[' + b"1e5," * (SIZE // 4 - 10) + b"1]}", "application/json"),
    "&": ("/moderate/login", b"&" * SIZE, "application/x-www-form-urlencoded"),
}
CHARACTERS = 20_000


def stranger(url: str, kind: str) -> None:
    path, body, content_type = HOSTILE[kind]
    while True:
        try:
            httpx.post(url + path, content=body, headers={"content-type": content_type}, timeout=60)
        except httpx.HTTPError:
            time.sleep(0.01)


def rate(url: str, key: str, seconds: float) -> float:
    answered, start = 0, time.monotonic()
    with httpx.Client(base_url=url, timeout=60, headers={"authorization": f"Bearer {key}"}) as client:
        while time.monotonic() - start < seconds:
            client.post("/v1/predict", json={"text": "the lantern waits"}).raise_for_status()
            answered += 1
    return answered / (time.monotonic() - start)


def strangers(run: Path, place: Path, seconds: float, rounds: int) -> None:
    key = add_key(place / "keys.json", "client", ["decide"], None)
    command = [sys.executable, "-m", "bifocal", "serve", str(run), "--port", "0", "--state", str(place)]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout
        url = service.stdout.readline().split(" at ")[1].strip()
        rate(url, key, 2)
        for kind in HOSTILE:
            found = []
            for _ in range(rounds):
                alone = rate(url, key, seconds)
                three = [multiprocessing.Process(target=stranger, args=(url, kind), daemon=True) for _ in range(3)]
                for process in three:
                    process.start()
                time.sleep(1.5)
                found.append((alone, rate(url, key, seconds)))
                for process in three:
                    process.terminate()
                    process.join()
            told = ", ".join(f"{with_them:.0f} of {alone:.0f}" for alone, with_them in found)
            ratio = statistics.median(with_them / alone for alone, with_them in found)
            print(f"three strangers send {kind}: {ratio:.2f} of the rate alone (answers a second: {told})", flush=True)
    finally:
        service.terminate()
        service.wait()


def expansions(run: Path) -> None:
    system = bifocal.load(run)
    signs = (chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i <= 0xDFFF)
    worst = sorted(signs, key=lambda sign: -len(unicodedata.normalize("NFKC", sign)))[:12]
    texts = {f"U+{ord(sign):04X}": sign * CHARACTERS for sign in worst}
    texts |= {"&#xfdfa;": "&#xfdfa;" * (CHARACTERS // 8), "\u0430a": "\u0430a " * (CHARACTERS // 3)}
    texts |= {"a + mark": "a\u0301" * (CHARACTERS // 2), "plain": "the quiet harbour " * (CHARACTERS // 18)}
    system.preprocessor.max_text = CHARACTERS  # as in the service
    system.predict(text="words")
    for name, text in texts.items():
        start = time.process_time()
        used = len(system.predict(text=text).text_used)
        print(
            f"{CHARACTERS:,} characters of {name}: {time.process_time() - start:.2f} s of CPU, {used:,} used",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        run = given.run or make_run(Path(place))
        expansions(run)
        strangers(run, Path(place) / "state", given.seconds, given.rounds)


if __name__ == "__main__":
    main()
