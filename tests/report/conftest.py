"""Run folders written by hand: what a finished run leaves behind, without training anything."""

import csv
from pathlib import Path

import pytest

from bifocal.config import parse_config
from bifocal.example import BINARY, Label, Taxonomy
from bifocal.workspace import Workspace, write_json

METRICS = (
    "auroc", "macro_f1", "accuracy", "auprc", "brier", "nll",
    "ece_top_label", "ece_top_label_debiased", "ece_positive", "ece_positive_debiased",
)  # fmt: skip
HOSTILE = "<script>alert('post')</script> & | `code` [link](http://evil.example) _x_"
BINARY_ROWS = [
    # id, text, truth, text_prob, vision_prob, fusion_prob
    ("p0", HOSTILE, 0, 0.90, 0.40, 0.95),
    ("p1", "a plain caption", 1, 0.80, 0.70, 0.85),
    ("p2", "word " * 60, 1, 0.20, None, 0.10),
    ("p3", "", 0, 0.10, 0.20, 0.05),
    ("p4", "another caption", 1, 0.60, 0.60, 0.65),
]
CLASS_ROWS = [
    ("p0", "first", "none", ("none", 0.9), ("none", 0.8), ("none", 0.9)),
    ("p1", "second", "one", ("none", 0.6), ("one", 0.5), ("none", 0.7)),
    ("p2", "third", "two", ("two", 0.5), ("one", 0.5), ("two", 0.8)),
]


def figures(value: float, spread: float = 0.05) -> dict:
    return {name: {"value": value, "low": value - spread, "high": value + spread} for name in METRICS}


@pytest.fixture
def fake_run(tmp_path):
    """A factory of run folders: binary or multiclass, one modality or two, with a val split or without."""

    def make(
        name: str = "made-up",
        *,
        multiclass: bool = False,
        single: bool = False,
        in_sample: bool = False,
        n: int = 200,
        text: str | None = None,
        source: str = "hateful_memes",
    ) -> Path:
        space = Workspace(tmp_path / name, name)
        label_name = "kind" if multiclass else "abuse_hate"
        label = Label(("none", "one", "two") if multiclass else BINARY, description="What is <meant>.")
        experts = ["text_expert"] if single else ["text_expert", "vision_expert"]
        models = experts if single else [*experts, "mm_fusion"]
        tested = "train" if in_sample else "test"
        tuned = "train" if in_sample else "val"
        sizes = {"train": n} if in_sample else {"train": 700, "val": 60, "test": n}
        write_json(space.taxonomy, Taxonomy({label_name: label}).to_json())
        write_json(space.results, _results(name, label_name, models, sizes, tested, tuned, in_sample, multiclass))
        policies = {m: _model_policy(multiclass, m == "mm_fusion" and not in_sample) for m in models}
        common = {"run": name, "label": label_name, "classes": label.classes, "probability_key": "prob_hate"}
        marks = {"in_sample": in_sample, "approximate": True, "versions": {}, "review": None}
        made = {"version": "0123456789abcdef", "date": "2026-01-02T03:04:05+00:00"}
        write_json(space.policy, {**made, **common, **marks, "models": policies})
        write_json(space.curves, _curves(models, multiclass, tuned, tested))
        space.robustness.unlink(missing_ok=True)  # of another kind of run, made by the same test
        if not multiclass and not single:
            write_json(space.robustness, ROBUSTNESS)
        write_json(space.record, _record(name, label_name, source, sizes, experts, single, in_sample))
        _write_errors(space.errors, label_name, multiclass, single, tested, text)
        if not multiclass:
            for model in models:
                _write_curve(space.curve(model))
        for expert in experts:
            write_json(space.expert(expert) / "bifocal.json", _expert_card(expert, label.classes))
        if not single:
            write_json(space.fusion / "config.json", FUSION_CARD)
        return space.folder

    return make


FUSION_CARD = {
    "format": 1,
    "strategy": "concat",
    "modalities": ["text", "image"],
    "read": {"text": "features", "image": "logits"},
    "seeds": 5,
    "parameters": {"total": 4096, "trained": 4096},
    "sha256": "0" * 64,
}


def _results(name, label_name, models, sizes, tested, tuned, in_sample, multiclass):
    def positives(n):
        return [n - 2 * (n // 4), n // 4, n // 4] if multiclass else n // 2

    def measured(k, value):
        row = {"n": k, "positives": positives(k), "metrics": figures(value), "calibrated": figures(value + 0.01)}
        return row if multiclass else {**row, "confusion": {"tp": 70, "fp": 30, "fn": 25, "tn": 75}}

    found = {
        model: {
            "parameters": {"total": 1234567, "trained": 770},
            "threshold": None if multiclass else 0.45,
            **{split: measured(k, 0.6 + 0.02 * i) for split, k in sizes.items()},
        }
        for i, model in enumerate(models)
    }
    found["majority"] = {
        "parameters": {"total": 0, "trained": 0},
        **{s: {"n": k, "positives": positives(k), "metrics": figures(0.5, 0)} for s, k in sizes.items()},
    }
    results = {
        "run": name, "label": label_name, "in_sample": in_sample, "tuned_on": tuned, "tested_on": tested,
        "main": models[-1], "ece": {"bins": 15, "kind": "equal width"}, "models": found,
        "class_shares": {"shares": {s: [0.5, 0.5] for s in sizes}, "p": 0.7, "differ": False},
    }  # fmt: skip
    if not multiclass:
        results |= {"slices": SLICES, "fairness": FAIRNESS}
    if len(models) > 1:
        metric = "macro_f1" if multiclass else "auroc"
        found["mm_fusion"]["seeds"] = {"n": 5, metric: {"mean": 0.631, "std": 0.012}}
        gain = {"value": -0.012, "low": -0.051, "high": 0.031, "n": sizes[tested], "positives": 1, "detectable": 0.058}
        gain = {"metric": metric, **gain}
        results["gain"] = {"over": "text_expert", "chosen_on": {"text_expert": 0.6}, **gain}
        results["gains"] = {"text_expert": gain, "vision_expert": {**gain, "value": 0.02, "low": 0.01, "high": 0.03}}
    return results


def _gap(value: float, p: float) -> dict:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "rest": 0.6, "p": p / 10, "p_adjusted": p}


def _slice(column: str, name: str, n: int, gap: dict | None) -> dict:
    figures_here = {"auroc": {"value": 0.4, "low": 0.3, "high": 0.5}, "fpr": None} if gap else {"auroc": None}
    return {"column": column, "slice": name, "n": n, "figures": figures_here, "differences": {"auroc": gap}}


SLICES = {
    "min_rows": 30, "comparisons": 3,
    "worst": {
        "column": "language", "slice": "<de>", "figure": "auroc", "n": 40, "here": 0.4, "value": -0.2, "low": -0.3,
        "high": -0.1, "rest": 0.6, "significant": True,
    },
    "slices": [
        _slice("language", "<de>", 40, _gap(-0.2, 0.001)), _slice("text length", "1 to 9", 90, _gap(0.05, 0.4)),
        _slice("language", "fr", 3, None),
    ],
}  # fmt: skip
FAIRNESS = {
    "by": "terms", "comparisons": 1, "largest": None,
    "reference": {"n": 150, "negatives": 80, "figures": {"fpr": {"value": 0.1, "low": 0.05, "high": 0.2}, "fnr": None}},
    "groups": [{
        "group": "<women>", "n": 50, "negatives": 20, "differences": {"fpr": _gap(0.1, 0.2)},
        "figures": {"fpr": {"value": 0.2, "low": 0.1, "high": 0.4}, "fnr": None},
    }],
}  # fmt: skip


def _attack(name: str, severity: int, flips: float, normaliser: bool | None) -> dict:
    change = {"before": 0.7, "after": 0.6, "change": {"value": -0.1, "low": -0.2, "high": 0.0}}
    return {
        "modality": "text", "attack": name, "severity": severity, "normaliser": normaliser, "auroc": change,
        "macro_f1": change, "review": None, "flips": {"value": flips, "low": flips / 2, "high": flips * 2, "n": 3},
    }  # fmt: skip


ROBUSTNESS = {
    "model": "mm_fusion", "split": "test", "rows": 100, "of": 200, "functional": None,
    "attacks": [
        _attack("homoglyphs", 1, 0.01, True), _attack("homoglyphs", 5, 0.02, True),
        _attack("homoglyphs", 5, 0.3, False), _attack("word_drop", 5, 0.1, None),
    ],
}  # fmt: skip


def _curves(models, multiclass, tuned, tested):
    line = [[0.0, 0.0], [0.3, 0.6], [1.0, 1.0]]
    bins = [{"n": 3, "predicted": 0.2, "observed": 0.3, "low": 0.1, "high": 0.6}]
    rows = [
        {"threshold": step / 100, "tp": 100 - step, "fp": 100 - step, "fn": step, "tn": step, "review": step}
        for step in range(101)
    ]
    drawn = {
        "roc": [] if multiclass else line, "precision_recall": [] if multiclass else line,
        "reliability": {"before": bins, "after": bins}, "risk_coverage": line, "aurc": 0.2,
    }  # fmt: skip
    explorer = None if multiclass else {"split": tuned, "model": models[-1], "rows": rows}
    if explorer and tested != tuned:
        explorer["tested"] = {"split": tested, "rows": [{**row, "tp": 2 * row["tp"]} for row in rows]}
    return {"models": dict.fromkeys(models, drawn), "explorer": explorer}


def _model_policy(multiclass, patterns):
    threshold = None if multiclass else 0.45
    own = (
        {"text": {"calibration": {"method": "temperature", "temperature": 1.7}, "threshold": threshold, "n": 250}}
        if patterns
        else {}
    )
    return {"calibration": {"method": "temperature", "temperature": 1.25}, "threshold": threshold, "patterns": own}


def _record(name, label_name, source, sizes, experts, single, in_sample):
    modalities = ["text"] if single else ["text", "image"]
    config = {"run": name, "label": label_name, "source": {"kind": source}, "modalities": modalities}
    epochs = [
        {"epoch": e, "train_loss": 0.7 / e, "train_macro_f1": 0.5 + e / 20, "val_loss": 0.8 / e, "val_macro_f1": 0.5}
        for e in (1, 2, 3)
    ]
    counts = {"examples": 962, "quarantined": 2, "unlabelled": 1, "by_split": sizes}
    leaks = {} if in_sample else {"test": 4}
    history = {experts[0]: epochs, experts[-1]: epochs[:1] if single else epochs}
    return {
        "run": name,
        "config": parse_config(config).model_dump(mode="json"),
        "seed": 7,
        "versions": {"bifocal": "0.1.0", "torch": "2.13.0"},
        "in_sample": in_sample,
        "text_role": "transcript",
        "fuse": None if in_sample or single else {"share": 0.2, "n": 140, "ids": ["p9"]},
        "steps": {
            "manifest": {"seconds": 1.5, **counts, "reasons": {"picture is <broken>": 2}},
            "ocr": {"seconds": 0.2, "pictures": 962, "read": 0, "with_text": 0},
            "splits": {
                "seconds": 0.4, "rows": sizes, "by_class": {"0": 500, "1": 459},
                "groups": 950, "near_duplicates": 12,
                "leakage": {"action": "report", "rows": leaks},
            },
            "experts": {"seconds": 12.0, "history": history},
        },
    }  # fmt: skip


def _write_errors(path, label_name, multiclass, single, split, text):
    models = ["text"] if single else ["text", "vision", "fusion"]
    said = [f"{model}_{column}" for model in models for column in ("prob", "pred")]
    with open(path, "w", encoding="utf-8", newline="") as f:
        out = csv.writer(f)
        out.writerow(
            ["index", "id", "split", "text", label_name, *said, "error_type", "all_agree", "fusion_only_right"]
        )
        for i, (row_id, words, truth, *opinions) in enumerate(CLASS_ROWS if multiclass else BINARY_ROWS):
            cells = []
            for opinion in opinions[-len(models) :]:
                if opinion is None:
                    cells += ["", ""]
                elif multiclass:
                    cells += [opinion[1], opinion[0]]
                else:
                    cells += [opinion, int(opinion >= 0.45)]
            guess = cells[-1]
            if multiclass:
                kind = "right" if guess == truth else "wrong"
            else:
                kind = ("T" if guess == truth else "F") + ("P" if guess else "N")
            out.writerow([i, row_id, split, text if text and i == 0 else words, truth, *cells, kind, 0, 0])


def _write_curve(path):
    with open(path, "w", encoding="utf-8", newline="") as f:
        out = csv.writer(f)
        out.writerow(["threshold", "precision", "recall", "f1", "fpr", "flagged"])
        for step in range(2, 19):
            flagged = 50 - 3 * step if step < 16 else 0
            out.writerow([f"{step / 20:.2f}", 0.7 if flagged else 0.0, 1 - step / 20, 0.6, 0.2, flagged])


def _expert_card(expert, classes):
    text = expert == "text_expert"
    return {
        "encoder": "hf_text" if text else "hf_image",
        "base_model": "microsoft/mdeberta-v3-base" if text else "../somewhere/models/mobilenet",
        "auto_class": "AutoModelForSequenceClassification" if text else "AutoModelForImageClassification",
        "classes": list(classes),
        "expert": {"tune": "head", "pooling": "mean" if text else "cls"},
    }
