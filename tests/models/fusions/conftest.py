"""Noisy bits, one to a modality, whose part in the label is known; small untrained experts and generated posts."""

import random
from functools import cache, reduce

import pytest
import torch
import transformers
from PIL import Image

from bifocal.config import ExpertConfig
from bifocal.example import Evidence
from bifocal.models.encoders.hf_image import HfImage
from bifocal.models.encoders.hf_text import HfText
from bifocal.models.linear import cross_fit, fit_linear

OPERATIONS = {"and": torch.bitwise_and, "xor": torch.bitwise_xor}


@cache
def draw(structure, n, seed, names, spread):
    g = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (len(names), n), generator=g)
    labels = bits[0] if structure == "first" else reduce(OPERATIONS[structure], bits)
    ids, there = tuple(f"{seed}-{i}" for i in range(n)), torch.ones(n, dtype=torch.bool)
    result = {}
    for name, bit in zip(names, bits, strict=True):
        features = torch.randn(n, 6, generator=g) * spread
        features[:, :2] += torch.stack([bit, 1 - bit], dim=1)
        penalty = fit_linear(features, labels, ids, classes=2, penalties=[0.1]).penalty
        logits = cross_fit(features, labels, ids, classes=2, folds=5, seed=0, penalty=penalty)
        result[name] = Evidence(ids, ids, features, logits, there, labels, ~there)
    return result


@pytest.fixture(scope="session")
def evidence():
    """Modality -> Evidence of ``n`` rows; the label is ``and``, ``xor``, or the ``first`` of the bits."""
    return lambda structure, n=1200, seed=0, names=("text", "image"), spread=0.25: dict(
        draw(structure, n, seed, names, spread)
    )


FAST = {"widths": [32], "learning_rates": [1e-2], "weight_decays": [0.01], "epochs": 15}


@pytest.fixture
def fitted(kind):
    """Fits the fusion that the test's own fixture ``kind`` gives."""

    def fit(rows, val=None, seeds=(0, 1), **options):
        return kind(**FAST | options).fit(rows, next(iter(rows.values())).labels, seeds=seeds, val=val)

    return fit


@pytest.fixture
def accuracy():
    """Share of rows that a fusion names rightly."""
    return lambda fusion, rows: (fusion(rows).argmax(dim=1) == rows["text"].labels).float().mean().item()


VOCABULARY = ["river", "copper", "old", "new", "grey", "small", "stone", "lantern"]


def posts(modality, n=12, seed=0):
    """Evidence of untrained experts, with values: texts of 1 to 5 words, and plain pictures."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(VOCABULARY, k=1 + i % 5)) for i in range(n)]
    pictures = [Image.new("RGB", (64, 64), tuple(rng.randrange(256) for _ in range(3))) for _ in range(n)]
    ids, nothing = tuple(f"{seed}-{i}" for i in range(n)), torch.zeros(n, dtype=torch.bool)
    values = {"text": texts, "image": pictures}[modality]
    some = torch.zeros(n, 2)
    return Evidence(ids, ids, some, some, ~nothing, torch.arange(n) % 2, nothing, values=values)


@pytest.fixture(scope="session")
def make_posts():
    return posts


@pytest.fixture(scope="session")
def text():
    return HfText.create(ExpertConfig(model="tiny", pooling="mean"), (0, 1), 0, posts("text").values)


@pytest.fixture(scope="session")
def image():
    return HfImage.create(ExpertConfig(model="tiny"), (0, 1), 0, [])


@pytest.fixture(scope="session")
def convolutional(image):
    """A MobileNetV2 of random weights, whose BatchNorm tells two runs in training mode from one another."""
    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(depth_multiplier=0.1, num_labels=2)
    model = transformers.MobileNetV2ForImageClassification(config)
    return HfImage(ExpertConfig(model="tiny"), (0, 1), 0, model, image.processor)
