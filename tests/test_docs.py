"""What the documents promise in code does run: the fusion of docs/extending.md is taken as it is written."""

import re
from pathlib import Path

import torch

from bifocal.config import FusionConfig
from bifocal.evaluate.metrics import auroc
from bifocal.example import Evidence
from bifocal.fit.fusion import fit_fusion, load_fusion, save_fusion

EXTENDING = Path(__file__).parent.parent / "docs" / "extending.md"


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
