"""The people of `examples/loop.sh`: they write generated posts, send them to a service, and judge what it decided.

python examples/loop_posts.py write posts.csv 3000         posts as a platform has them, a column `abuse` of yes and no
python examples/loop_posts.py ask URL asked.jsonl 200      posts of a month later: half of the abuse has a new word
python examples/loop_posts.py judge URL asked.jsonl 60     as a moderator would: what was allowed, one after another
python examples/loop_posts.py wait URL runs/posts-2        until the service decides by the policy of that run
python examples/loop_posts.py flip judged flipped          an export with every verdict turned round

The service's keys stand in DECIDE_KEY and REVIEW_KEY.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

import httpx

_BEGINNINGS = ("ka", "lo", "mi", "ru", "se", "to", "va", "ne", "po", "du")
_ENDS = ("ban", "der", "fin", "gol", "hat", "jun", "lim", "mor", "pel", "rit", "sun", "tam", "vel", "wen", "zor")
WORDS = [first + second for first in _BEGINNINGS for second in _ENDS]
"""A neutral, invented vocabulary."""
ABUSIVE = ["grubble", "snark", "vexil"]
"""What marks abuse from the first day."""
NEW = "mirukavel"
"""What marks it from the second month on."""


def text(rng: random.Random, cue: str | None) -> str:
    """Nine words, one of them the cue."""
    words = [rng.choice(WORDS) for _ in range(9)]
    if cue is not None:
        words[rng.randrange(9)] = cue
    return " ".join(words)


def write(path: str, count: str) -> None:
    """A table of posts, a third of them abusive."""
    rng = random.Random(1)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "text", "abuse", "posted"])
        for number in range(int(count)):
            bad = rng.random() < 1 / 3
            day = f"2026-{number * 12 // int(count) + 1:02d}-{rng.randint(1, 28):02d}"
            table.writerow([f"p{number}", text(rng, rng.choice(ABUSIVE) if bad else None), "yes" if bad else "no", day])


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {os.environ['DECIDE_KEY']}"})


def ask(url: str, path: str, count: str) -> None:
    """Have posts decided, a quarter of which are abusive in the old words and a quarter in the new one."""
    rng = random.Random(path)
    with _client(url) as client, open(path, "w", encoding="utf-8") as file:
        for number in range(int(count)):
            cue = (rng.choice(ABUSIVE), NEW, None, None)[number % 4]
            words = text(rng, cue)
            answer = client.post("/v1/predict", json={"text": words})
            answer.raise_for_status()
            said = answer.json()
            row = {"id": said["id"], "text": words, "cue": cue, "action": said["action"], "versions": said["versions"]}
            file.write(json.dumps(row) + "\n")


def judge(url: str, path: str, count: str) -> None:
    """Claim posts that were allowed, and block or approve them."""
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    allowed = [row for row in rows if row["action"] == "allow"][: int(count)]
    with httpx.Client(base_url=url, timeout=60, headers={"Origin": url}) as client:
        client.post("/moderate/login", data={"key": os.environ["REVIEW_KEY"]})
        for row in allowed:
            for done in ("claim", "block" if row["cue"] else "approve"):
                answer = client.post(f"/moderate/items/{row['id']}", data={"do": done})
                if answer.status_code not in (200, 303):
                    raise SystemExit(f"{done} of {row['id']}: {answer.status_code} {answer.text[:300]}")


def wait(url: str, run: str) -> None:
    """Ask until a decision names the policy of a run."""
    (policy,) = (json.loads(path.read_text(encoding="utf-8")) for path in Path(run).glob("policy_*.json"))
    with _client(url) as client:
        for _ in range(600):
            if client.post("/v1/predict", json={"text": "kaban"}).json()["versions"]["policy"] == policy["version"]:
                return
            time.sleep(0.5)
    raise SystemExit(f"{url} does not decide by the policy of {run}")


def flip(export: str, to: str) -> None:
    """Copy an export with verdicts turned round."""
    shutil.copytree(export, to)
    rows = [json.loads(line) for line in (Path(export) / "feedback.jsonl").read_text(encoding="utf-8").splitlines()]
    turned = [{**row, "labels": {name: 1 - value for name, value in row["labels"].items()}} for row in rows]
    lines = "".join(json.dumps(row) + "\n" for row in turned)
    (Path(to) / "feedback.jsonl").write_text(lines, encoding="utf-8")


PEOPLE = {"write": write, "ask": ask, "judge": judge, "wait": wait, "flip": flip}

if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in PEOPLE:
        sys.exit(__doc__)
    PEOPLE[sys.argv[1]](*sys.argv[2:])
