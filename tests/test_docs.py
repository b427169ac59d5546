"""What the documents promise holds: the fusion of docs/extending.md runs as it is written, the glossary is whole."""

import re
from pathlib import Path

import torch

from bifocal.config import FusionConfig
from bifocal.evaluate.metrics import auroc
from bifocal.example import Evidence
from bifocal.fit.fusion import fit_fusion, load_fusion, save_fusion

ROOT = Path(__file__).parent.parent
EXTENDING = ROOT / "docs" / "extending.md"
GLOSSARY = ROOT / "docs" / "glossary.md"
ENTRY = re.compile(r"\| \*\*(?P<word>.+?)\*\* \| (?P<meaning>.+?) \| `(?P<place>.+?)` \|")
HOUSE = (
    "Example", "Modality", "Shard", "Expert", "Evidence", "Fusion", "Joint fusion", "Label", "Transcriber",
    "Predictions", "Policy", "Decision", "Report",
)  # fmt: skip
"""Words that the documents must define."""


def both(n, seed):
    """Evidence of two bits, and a label that needs both; names that no fusion can know."""
    g = torch.Generator().manual_seed(seed)
    bits = {name: torch.randint(2, (n,), generator=g) for name in ("left.part", "right part")}
    labels = torch.stack(list(bits.values())).prod(dim=0)
    ids = tuple(map(str, range(n)))
    there = torch.ones(n, dtype=torch.bool)
    return {
        name: Evidence(
            ids, ids, torch.randn(n, 6, generator=g) * 0.3 + bit[:, None], torch.zeros(n, 2), there, labels, ~there
        )
        for name, bit in bits.items()
    }


def test_the_fusion_of_the_walkthrough_trains_saves_and_says_and(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", EXTENDING.read_text(encoding="utf-8"), flags=re.DOTALL)[1]
    # Outside the package its relative imports become absolute, and it is named package.module:Class.
    (tmp_path / "product_of_the_docs.py").write_text(code.replace("from ..", "from bifocal.models."))
    monkeypatch.syspath_prepend(tmp_path)
    config = FusionConfig(strategy="product_of_the_docs:Product", seeds=2)
    fusion = fit_fusion(config, both(600, 0), val=both(200, 1), seed=0)
    test = both(400, 2)
    labels = test["left.part"].labels
    assert auroc(labels, fusion(test).softmax(dim=1)[:, 1]) > 0.97
    save_fusion(fusion, config, tmp_path / "saved")
    again = load_fusion(tmp_path / "saved", allow_plugins=["product_of_the_docs"])
    assert torch.equal(again(test), fusion(test))


def entries():
    """Word -> what the glossary says of it, and where."""
    rows = [line for line in GLOSSARY.read_text(encoding="utf-8").splitlines() if line.startswith("| **")]
    found = [ENTRY.fullmatch(row) for row in rows]
    assert all(found), [row for row, match in zip(rows, found, strict=True) if not match]
    return {match["word"]: (match["meaning"], match["place"]) for match in found}


def test_the_glossary_has_the_words_of_the_house_once_and_in_order():
    words = list(entries())
    assert words == sorted(words, key=str.casefold) and set(HOUSE) <= set(words)


def test_each_word_has_one_plain_sentence_and_a_place_that_is_there():
    for word, (meaning, place) in entries().items():
        assert re.fullmatch(r"[A-Z][^.!?]*(\.\d[^.!?]*)*\.", meaning), word
        assert (ROOT / "src" / "bifocal" / place).exists() or (ROOT / place).exists(), (word, place)


def test_each_word_is_one_that_is_used():
    pages = [ROOT / "README.md", *(page for page in (ROOT / "docs").glob("*.md") if page != GLOSSARY)]
    text = " ".join(page.read_text(encoding="utf-8") for page in pages).casefold()
    assert [word for word in entries() if word.casefold().removesuffix("ting") not in text] == []


def test_the_glossary_is_linked_where_words_are_met():
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    for page in ("architecture", "decisions", "extending", "honesty", "lab"):
        assert "(glossary.md)" in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), page
