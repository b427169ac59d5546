"""Small untrained experts and generated posts for the joint fusions."""

import random

import pytest
import torch
import transformers
from PIL import Image

from bifocal.config import ExpertConfig
from bifocal.models.encoders.hf_image import HfImage
from bifocal.models.encoders.hf_text import HfText
from bifocal.models.joint_tokens import JointRows

WORDS = ["river", "copper", "old", "new", "grey", "small", "stone", "lantern"]


def posts(n=12, seed=0, keep=False):
    """Texts of 1 to 5 words and plain pictures; rows 1, 7, ... lack the text, rows 4, 10, ... the picture."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=1 + i % 5)) for i in range(n)]
    pictures = [Image.new("RGB", (64, 64), tuple(rng.randrange(256) for _ in range(3))) for _ in range(n)]
    here = {m: torch.arange(n) % 6 != k for m, k in (("text", 1), ("image", 4))}
    return JointRows({"text": texts, "image": pictures}, here, torch.arange(n) % 2, keep=keep)


@pytest.fixture(scope="session")
def make_posts():
    return posts


@pytest.fixture(scope="session")
def text():
    return HfText.create(ExpertConfig(model="tiny", pooling="mean"), (0, 1), 0, posts().values["text"])


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
