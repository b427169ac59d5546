"""One small finished run that many tests read, and the environment that all of them need."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

SMALL = {
    "run": "small",
    "source": {"kind": "synthetic", "size": 160, "missing_text": 0.05, "missing_image": 0.05},
    "ocr": "never",
    "splits": {"val": 0.25, "test": 0.25},
    "experts": {
        "text": {"model": "tiny", "epochs": 1, "batch_size": 8, "learning_rate": 2e-3},
        "image": {"model": "tiny", "epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
    },
    "fusion": {"strategy": "concat", "seeds": 2, "options": {"epochs": 5}},
    "bootstrap": 100,
}


def pytest_collection_modifyitems(items):
    """The file that takes longest begins, so that one process does not wait for the other at the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture(scope="session")
def small_config():
    return SMALL


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """The folder of a finished run on generated memes; read it, never write to it."""
    from bifocal.config import parse_config
    from bifocal.train import run

    return run(parse_config(SMALL), root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def records_run(tmp_path_factory) -> Path:
    """The folder of a finished run on a generated table of texts and records; read it, never write to it."""
    import random

    from bifocal.config import parse_config
    from bifocal.train import run

    place = tmp_path_factory.mktemp("records")
    rng = random.Random(0)
    lines = ["id,words,price,room,opened,host,dear"]
    for i in range(400):
        dear = rng.random() < 0.5
        words = (
            f"{'marble' if dear ^ (rng.random() < 0.25) else 'plain'} house {i} near the {rng.choice(['bay', 'hill'])}"
        )
        price = "" if rng.random() < 0.1 else round(rng.gauss(40 + 30 * dear, 20), 1)
        room = rng.choice(["shared", "private", "whole"])
        lines.append(f"{i},{words},{price},{room},2019-0{rng.randrange(1, 10)}-11,h{i // 2},{rng.gauss(dear, 0.3):.3f}")
    (place / "houses.csv").write_text("\n".join(lines) + "\n")
    config = {
        "run": "records",
        "label": "dear",
        "source": {
            "kind": "table", "root": str(place / "houses.csv"), "id": "id", "text": "words", "tabular": "rest",
            "group": "host", "labels": {"dear": {"column": "dear", "above": "median"}},
        },
        "splits": {"val": 0.2, "test": 0.2},
        "modalities": ["text", "tabular"],
        "experts": {
            "text": {"encoder": "tfidf_text", "options": {"components": 16}},
            "tabular": {"encoder": "auto", "options": {"mlp_tabular": {"epochs": 3}}},
        },
        "fusion": {"strategy": "stacking"},
        "bootstrap": 100,
    }  # fmt: skip
    return run(parse_config(config), root=place / "runs")
