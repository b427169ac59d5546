"""Two tiny runs, an exported bundle, and what the code of commit 331eb97 says of a few posts by each of them.

This script ran once, with that commit's code, and what it made lies beside it; `test_old_runs.py` asks today's code of
the same posts. It is kept to tell where these files come from, and is run again only at that commit::

    git worktree add ../old 331eb97
    PYTHONPATH=../old/src python tests/compatibility/old/make.py
"""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

COMMIT = "331eb97"
HERE = Path(__file__).resolve().parent

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

LEFT_OUT = {"shards", "evidence", "checkpoints", "report", ".lock", "ocr.jsonl", "serve", "bundles"}
"""Of a run's folder: neither loading nor deciding reads it, and it is large, or made anew."""

MEMES = {
    "run": "memes",
    "source": {"kind": "synthetic", "size": 160, "missing_text": 0.1, "missing_image": 0.1},
    "ocr": "never",
    "splits": {"val": 0.25, "test": 0.25},
    "experts": {
        "text": {
            "model": "./tiny_text", "epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "options": {"max_length": 64},
        },
        "image": {"model": "./tiny_image", "tune": "head", "pooling": "mean"},
    },
    "fusion": {"strategy": "concat", "seeds": 2, "options": {"epochs": 5, "widths": [8]}},
    "decide": {"review": {"fnr": 0.2, "fpr": 0.2}},
    "bootstrap": 100,
}  # fmt: skip

HOUSES = {
    "run": "houses",
    "label": "dear",
    "source": {
        "kind": "table", "root": "./houses.csv", "id": "id", "text": "words", "tabular": "rest", "group": "host",
        "labels": {"dear": {"column": "dear", "above": "median"}},
    },
    "splits": {"val": 0.2, "test": 0.2},
    "modalities": ["text", "tabular"],
    "experts": {
        "text": {"encoder": "tfidf_text", "options": {"components": 8}},
        "tabular": {"encoder": "mlp_tabular", "options": {"hidden_size": 8, "epochs": 3}},
    },
    "fusion": {"strategy": "stacking"},
    "decide": {"calibration": "vector"},
    "bootstrap": 100,
}  # fmt: skip


def tiny_models(place: Path) -> None:
    """Two-layer encoders of random weights, so small that they can be kept beside a test."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessor,
    )

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    pieces = special + letters + ["##" + letter for letter in letters if letter.islower() or letter.isdigit()]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(
        place / "tiny_text"
    )
    text = BertConfig(vocab_size=len(pieces), max_position_embeddings=64, initializer_range=0.3, **size)
    BertForSequenceClassification(text).save_pretrained(place / "tiny_text")

    side = {"height": 32, "width": 32}
    ViTImageProcessor(size=side).save_pretrained(place / "tiny_image")
    image = ViTConfig(image_size=32, patch_size=8, initializer_range=0.3, **size)
    ViTForImageClassification(image).save_pretrained(place / "tiny_image")


def houses(place: Path) -> None:
    rng = random.Random(0)
    lines = ["id,words,price,room,opened,host,dear"]
    for i in range(200):
        dear = rng.random() < 0.5
        stone = "marble" if dear ^ (rng.random() < 0.25) else "plain"
        words = f"{stone} house {i} near the {rng.choice(['bay', 'hill'])}"
        price = "" if rng.random() < 0.1 else round(rng.gauss(40 + 30 * dear, 20), 1)
        room = rng.choice(["shared", "private", "whole"])
        lines.append(f"{i},{words},{price},{room},2019-0{rng.randrange(1, 10)}-11,h{i // 2},{rng.gauss(dear, 0.3):.3f}")
    (place / "houses.csv").write_text("\n".join(lines) + "\n")


def inputs(folder: Path) -> dict[str, list[dict]]:
    """Posts of each run, pictures by their names in ``inputs/``, and the tables that `bifocal score` reads."""
    from PIL import Image

    from bifocal import plugins

    folder.mkdir(exist_ok=True)
    source = plugins.options("source", "synthetic", {"size": 8, "seed": 7}, plugins.load("sources", "synthetic"))
    posts = []
    for i, example in enumerate(source):
        post = {}
        if i not in (3, 6):
            post["text"] = example.parts["text"]
        if i not in (2, 5):
            post["image_path"] = f"{i}.png"
            picture = Image.open(io.BytesIO(source.open(example.parts["image"])))
            picture.convert("RGB").resize((48, 48)).quantize(32).save(folder / post["image_path"], optimize=True)
        posts.append(post)
    rows = ["id,text,image_path"]
    rows += [f"m{i},{post.get('text', '')},{post.get('image_path', '')}" for i, post in enumerate(posts)]
    (folder / "memes.csv").write_text("\n".join([*rows, "empty,,", "lost,words,gone.png"]) + "\n")

    records = [
        {"price": 95.0, "room": "whole", "opened": "2019-03-11"},
        {"price": 12.5, "room": "shared", "opened": "2019-07-11"},
        {"price": 50.0},
        {"room": "castle", "opened": "2019-01-11"},
    ]
    words = ["marble house 3 near the bay", "plain house 4 near the hill", "a house", ""]
    table = [{"text": w, "tabular": r} for w, r in zip(words, records, strict=True)]
    table = [*table[:3], {"tabular": records[3]}, {"text": words[0]}, {"text": words[1]}, {"tabular": records[0]}]
    table += [{"text": words[1], "tabular": records[0]}]
    rows = ["id,words,price,room,opened"]
    for i, post in enumerate(table):
        record = post.get("tabular", {})
        cells = (str(record.get(name, "")) for name in ("price", "room", "opened"))
        rows.append(",".join([f"h{i}", post.get("text", ""), *cells]))
    (folder / "houses.csv").write_text("\n".join(rows) + "\n")
    return {"memes": posts, "houses": table}


def packed(folder: Path, archive: Path) -> None:
    """One archive, the same bytes for the same files."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if set(Path(info.name).parts) & LEFT_OUT:
            return None
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(archive, "w:xz", preset=9) as tar:
        tar.add(folder, folder.name, filter=plain)


def main() -> None:
    import bifocal

    source = Path(bifocal.__file__).resolve().parents[2]
    found = subprocess.run(
        ["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not found.startswith(COMMIT):
        sys.exit(f"this is to be run with the code of {COMMIT}; bifocal is imported from {source}, which is at {found}")
    posts = inputs(HERE / "inputs")
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        os.chdir(place)  # the recorded configurations name relative paths
        tiny_models(place)
        houses(place)
        memes = bifocal.run(bifocal.RunConfig.model_validate(MEMES), root="runs")
        records = bifocal.run(bifocal.RunConfig.model_validate(HOUSES), root="runs")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "bifocal",
                "export",
                memes,
                "--engine",
                "onnx",
                "--output",
                "memes-onnx",
                "--accept",
            ],
            check=True,
        )
        folders = {"memes": memes, "houses": records, "memes-onnx": place / "memes-onnx"}
        expected = {}
        for name, folder in folders.items():
            system = bifocal.load(folder)
            key = name.removesuffix("-onnx")
            pictures = HERE / "inputs"
            decided = [
                system.predict(
                    **(post | ({"image_path": pictures / post["image_path"]} if "image_path" in post else {}))
                ).to_dict()
                for post in posts[key]
            ]
            output = place / f"{name}.jsonl"
            table = pictures / f"{key}.csv"
            subprocess.run(
                [sys.executable, "-m", "bifocal", "score", folder, table, "-o", output, "--quiet"], check=True
            )
            expected[name] = {
                "policy": system.policy_version,
                "decisions": [
                    {"post": post, "decision": found} for post, found in zip(posts[key], decided, strict=True)
                ],
                "scored": [json.loads(line) for line in output.read_text().splitlines()],
            }
            packed(Path(folder), HERE / f"{name}.tar.xz")
        shutil.rmtree("runs")
    content = json.dumps({"commit": COMMIT, **expected}, indent=1, ensure_ascii=False)
    (HERE / "expected.json").write_text(content.replace(str(HERE / "inputs"), "INPUTS") + "\n")


if __name__ == "__main__":
    main()
