"""One encoder pass per example against the notebook way, at true size, in one process.

Encoders have the size of mDeBERTa-v3-base (12 x 768, 64 tokens) and SigLIP-base (12 x 768, 384 px), with random weights
built from configuration. The task: fit a fusion head for 5 epochs and evaluate the three models on the same examples.
The notebook way runs both encoders again in each epoch, and once more for each of its two evaluations of experts and
fusion: 7 passes. Bifocal runs them once and works on Evidence. Then `predict` on one post against its two forwards.

    python benchmarks/one_pass.py [--examples 50]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipImageProcessorPil,
)

from bifocal import plugins
from bifocal.config import ExpertConfig, FusionConfig, parse_config
from bifocal.decide.calibration import softmax
from bifocal.decide.policy import POOLED
from bifocal.decide.policy_fit import fit_policy
from bifocal.decide.tuning_rows import PolicySettings, TuningRows
from bifocal.evaluate.metrics import accuracy
from bifocal.example import BINARY, LABELS, Evidence, Taxonomy
from bifocal.fit.fusion import MODEL, fit_fusion
from bifocal.modalities.text import compose
from bifocal.models.encoders.hf_text import train_tokenizer
from bifocal.sources.synthetic import Synthetic
from bifocal.system.preprocessing import build_modalities
from bifocal.system.system import System
from bifocal.system.torch_engine import TorchEngine

EPOCHS = 5
BATCH = 10
TOKENS = 64


def save_true_size(folder: Path, texts: list[str]) -> dict[str, Path]:
    """Both encoders from configuration, random weights, as local folders."""
    tokenizer = train_tokenizer(texts, 2000)
    text = DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=3072, relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"], max_relative_positions=-1, position_biased_input=False, type_vocab_size=0,
        pad_token_id=tokenizer.pad_token_id, layer_norm_eps=1e-7, pooler_hidden_size=768,
    )  # fmt: skip
    vision = SiglipConfig(
        vision_config={
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "image_size": 384, "patch_size": 16,
        },
    )  # fmt: skip
    DebertaV2ForSequenceClassification(text).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    SiglipForImageClassification(vision).save_pretrained(folder / "image")
    SiglipImageProcessorPil(size={"height": 384, "width": 384}).save_pretrained(folder / "image")
    return {"text": folder / "text", "image": folder / "image"}


class NotebookHead(nn.Module):
    """The head a notebook would write: one hidden layer over both features."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features)


def notebook_way(encoders: dict, values: dict[str, list], labels: torch.Tensor) -> dict[str, float]:
    """Encoders inside the training loop; three separate evaluations, as notebooks have them."""
    first = [encoders[m].encode(values[m][:1])["features"].shape[1] for m in encoders]
    head = NotebookHead(sum(first))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for start in range(0, len(labels), BATCH):
            rows = slice(start, start + BATCH)
            features = torch.cat([encoders[m].encode(values[m][rows])["features"] for m in encoders], dim=1)
            loss = nn.functional.cross_entropy(head(features), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    head.eval()
    experts = {m: accuracy(labels, softmax(encoders[m].encode(values[m])["logits"])) for m in encoders}
    with torch.inference_mode():
        features = torch.cat([encoders[m].encode(values[m])["features"] for m in encoders], dim=1)
        return {**experts, MODEL: accuracy(labels, softmax(head(features)))}


def evidence_way(encoders: dict, values: dict[str, list], labels: torch.Tensor) -> tuple[dict, dict, object]:
    """Each encoder once; fusion and evaluation on Evidence."""
    ids = tuple(map(str, range(len(labels))))
    unseen = torch.zeros(len(labels), dtype=torch.bool)
    evidence = {}
    for name, encoder in encoders.items():
        encoded = encoder.encode(values[name])
        evidence[name] = Evidence(ids, ids, encoded["features"], encoded["logits"], ~unseen, labels, unseen)
    config = FusionConfig(strategy="concat", seeds=1, options={"epochs": EPOCHS, "batch_size": BATCH})
    fusion = fit_fusion(config, evidence, val=None, seed=0)
    scores = {name: accuracy(labels, softmax(e.logits)) for name, e in evidence.items()}
    return {**scores, MODEL: accuracy(labels, softmax(fusion(evidence)))}, evidence, fusion


def time_predict(encoders: dict, evidence: dict, fusion: Any, labels: torch.Tensor, text: str, picture: bytes) -> None:
    """`predict` on one post with its text given, against the two encoder forwards in it."""
    config = parse_config({"run": "benchmark", "source": {"kind": "synthetic"}, "ocr": "never"})
    modalities = build_modalities(config)
    names = {name: m.expert_name for name, m in modalities.items()}
    logits = {names[n]: {POOLED: (e.logits.numpy(), labels.numpy())} for n, e in evidence.items()}
    logits[MODEL] = {POOLED: (fusion(evidence).numpy(), labels.numpy())}
    settings = PolicySettings(
        run="benchmark", label="abuse_hate", classes=BINARY, probability_key="prob", in_sample=True, versions={}
    )
    policy = fit_policy(TuningRows(logits), settings).policy
    label = Taxonomy(LABELS)["abuse_hate"]
    system = System(config, TorchEngine(encoders, names, fusion), policy, label, "transcript")
    with tempfile.NamedTemporaryFile(suffix=".png") as f:
        f.write(picture)
        f.flush()
        system.predict(text, f.name)
        rounds = []
        for _ in range(7):
            start = perf_counter()
            system.predict(text, f.name)
            whole = perf_counter() - start
            start = perf_counter()
            square = modalities["image"].read(picture)
            decoding = perf_counter() - start
            start = perf_counter()
            inputs = {
                "text": encoders["text"].inputs([compose(text, "", "en")]),
                "image": encoders["image"].inputs([square]),
            }
            preparing = perf_counter() - start
            start = perf_counter()
            with torch.inference_mode():
                for name, encoder in encoders.items():
                    encoder.classifier(inputs[name])
            rounds.append((whole, decoding, preparing, perf_counter() - start))
    whole, decoding, preparing, forwards = (sorted(column)[len(rounds) // 2] for column in zip(*rounds, strict=True))
    print(f"predict, one post: {whole * 1e3:.0f} ms, of it two forwards {forwards * 1e3:.0f} ms")
    print(f"  apart: decoding {decoding * 1e3:.1f} ms, tokenising and image processing {preparing * 1e3:.1f} ms")
    ratios = sorted((w - d - p) / f for w, d, p, f in rounds)
    print(
        f"  (predict - those) / forwards: {ratios[len(ratios) // 2]:.3f}x   predict / forwards: {whole / forwards:.3f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=50)
    n = parser.parse_args().examples
    source = Synthetic(size=n, seed=0)
    examples = list(source)
    captions = [e.parts["text"] for e in examples]
    # Long enough that every text fills its 64 tokens.
    texts = [compose("", " ".join((captions * 6)[i : i + 6]), "en") for i in range(n)]
    modality = plugins.load("modalities", "image")()
    values = {"text": texts, "image": [modality.read(source.open(e.parts["image"])) for e in examples]}
    labels = torch.tensor([e.labels["abuse_hate"] for e in examples])
    with tempfile.TemporaryDirectory() as folder:
        folders = save_true_size(Path(folder), texts)
        common: dict[str, Any] = {"tune": "head", "encode_batch_size": BATCH}
        encoders = {
            "text": plugins.load("encoders", "hf_text").create(
                ExpertConfig(model=str(folders["text"]), options={"max_length": TOKENS}, **common), BINARY, 0, texts
            ),
            "image": plugins.load("encoders", "hf_image").create(
                ExpertConfig(model=str(folders["image"]), **common), BINARY, 0, values["image"]
            ),
        }
    for name, encoder in encoders.items():
        encoder.encode(values[name][:BATCH])  # warm-up: the first pass of a process is slow
        encoder.examples_encoded = 0

    def timed(way: Callable[..., Any], rows: slice) -> tuple[float, dict[str, float], Any]:
        for encoder in encoders.values():
            encoder.examples_encoded = 0
        some = {m: v[rows] for m, v in values.items()}
        start = perf_counter()
        result = way(encoders, some, labels[rows])
        calls = {m: e.examples_encoded / len(labels[rows]) for m, e in encoders.items()}
        return perf_counter() - start, calls, result

    # In rounds, each way in turn on the same examples: these machines change speed within minutes.
    ratios, totals = [], {"Evidence": 0.0, "notebook": 0.0}
    for start in range(0, n, BATCH):
        rows = slice(start, start + BATCH)
        once, calls, (_, evidence, fusion) = timed(evidence_way, rows)
        often, passes, _ = timed(notebook_way, rows)
        assert set(calls.values()) == {1.0}, "an encoder ran more than once on an example"
        ratios.append(often / once)
        totals = {"Evidence": totals["Evidence"] + once, "notebook": totals["notebook"] + often}
    print(f"notebook way: {totals['notebook']:.1f} s; encoder calls per example: {passes}")
    print(f"Evidence way: {totals['Evidence']:.1f} s; encoder calls per example: {calls}")
    print("ratio, round by round: " + ", ".join(f"{ratio:.2f}" for ratio in ratios))
    print(f"median ratio: {statistics.median(ratios):.2f}x")
    time_predict(encoders, evidence, fusion, labels[rows], captions[0], source.open(examples[0].parts["image"]))


if __name__ == "__main__":
    main()
