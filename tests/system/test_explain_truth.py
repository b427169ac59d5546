"""On generated memes the explanation finds the hidden cues, whose places are known."""

import numpy as np
import pytest

import bifocal
from bifocal.config import parse_config
from bifocal.pipeline.train import run
from bifocal.sources.synthetic import Synthetic

MEMES = {
    "run": "memes",
    # Both bits decide about each post. Under `abuse_hate`, their AND, a post of t = 0 is 0 whatever its picture, and an
    # expert need not know the words of t = 1 to say 1: that none of t = 0 stands there does as well.
    "label": "cue_pair",
    "source": {"kind": "synthetic", "structure": "and", "cue": "colour", "overlay": False},
    "ocr": "never",
    "splits": {"val": 0.1, "test": 0.05},
    "experts": {
        "text": {
            "model": "tiny", "epochs": 8, "batch_size": 16, "learning_rate": 2e-3, "patience": 8,
            "options": {"word_drop": 0.3},
        },
        "image": {"model": "tiny", "epochs": 4, "batch_size": 16, "learning_rate": 1e-3, "options": {"flip": False}},
    },
    "fusion": {"strategy": "concat", "seeds": 1, "read": {"text": "features", "image": "features"}},
    "decide": {"on": "val"},
    "bootstrap": 100,
}  # fmt: skip


def ranked_first(system, source, posts, path):
    """Of posts that no model has seen: whether the cue word is first, and whether the first region holds the cue.

    A region holds the cue where at least half of the cue's pixels lie in it: by chance 6% of regions do.
    """
    found = []
    for i in posts:
        post = source.example(i)
        path.write_bytes(source.open(post.parts["image"]))
        pieces = system.explain(post.parts["text"], path).pieces
        left, top, right, bottom = pieces["image"][0].piece.place
        mask = source.cue_mask(i)
        found.append(
            (pieces["text"][0].piece.name == source.cue_word(i), mask[top:bottom, left:right].sum() >= mask.sum() / 2)
        )
    return np.mean(found, axis=0)


def test_the_cue_word_comes_first(tmp_path):
    words = MEMES | {
        "label": "cue_text", "modalities": ["text"], "experts": {"text": {"encoder": "tfidf_text"}},
        "source": MEMES["source"] | {"size": 1000, "missing_image": 1.0}, "fusion": {},
    }  # fmt: skip
    system, source = bifocal.load(run(parse_config(words), root=tmp_path)), Synthetic(size=40, seed=77)
    first = [system.explain(source.example(i).parts["text"]).pieces["text"][0].piece.name for i in range(40)]
    assert np.mean([word == source.cue_word(i) for i, word in enumerate(first)]) >= 0.9


@pytest.mark.slow
def test_the_cue_word_and_the_place_of_the_cue_come_first(tmp_path):
    options = MEMES["source"] | {"size": 1700, "missing_image": 0.65}
    system = bifocal.load(run(parse_config(MEMES | {"source": options}), root=tmp_path))
    word, region = ranked_first(system, Synthetic(size=40, seed=77), range(40), tmp_path / "post.png")
    assert word >= 0.9 and region >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_they_do_so_whatever_the_seed(seed, tmp_path):
    options = MEMES["source"] | {"size": 3000, "missing_image": 0.5, "seed": seed}
    loaded = bifocal.load(run(parse_config(MEMES | {"source": options, "seed": seed}), root=tmp_path))
    word, region = ranked_first(loaded, Synthetic(size=300, seed=100 + seed), range(300), tmp_path / "post.png")
    print(f"seed {seed}: cue word first in {word:.1%}, region in {region:.1%} of 300 posts")
    assert word >= 0.9 and region >= 0.9


@pytest.mark.slow
def test_under_and_the_cue_that_alone_keeps_a_post_at_0_comes_first(tmp_path):
    """There the cue of the other part is on: hide this one, and nothing speaks against any more."""
    options = MEMES["source"] | {"size": 3000, "missing_image": 0.5, "seed": 1}
    loaded = bifocal.load(run(parse_config(MEMES | {"source": options, "label": "abuse_hate"}), root=tmp_path))
    source = Synthetic(size=600, seed=101)
    bits = [(e.labels["cue_text"], e.labels["cue_image"]) for e in source]
    decided_by = {
        part: [i for i, b in enumerate(bits) if b == off] for part, off in (("text", (0, 1)), ("image", (1, 0)))
    }
    word, _ = ranked_first(loaded, source, decided_by["text"], tmp_path / "post.png")
    _, region = ranked_first(loaded, source, decided_by["image"], tmp_path / "post.png")
    counted = {part: len(posts) for part, posts in decided_by.items()}
    print(f"cue word first in {word:.1%}, region in {region:.1%} of {counted}")
    assert word >= 0.9 and region >= 0.9
