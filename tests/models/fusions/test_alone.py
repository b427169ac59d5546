"""One expert decides, and where its part is absent the next best."""

from dataclasses import replace

import pytest
import torch

from bifocal.errors import ConfigError
from bifocal.models.exportable import FusionModule
from bifocal.models.fusions.alone import Alone


def fit(rows, **options):
    return Alone(**options).fit(rows, rows["text"].labels, seeds=[0])


def partly(rows):
    """Every third row has no text, every third no picture."""
    kept = {"text": torch.arange(len(rows["text"])) % 3 != 0, "image": torch.arange(len(rows["text"])) % 3 != 1}
    return {name: replace(e, present=kept[name]) for name, e in rows.items()}


def test_the_expert_with_the_least_loss_decides(evidence):
    rows = evidence("first")
    fusion = fit(rows)
    assert fusion.order == ["text", "image"] and fusion.decides_alone == "text"
    assert torch.equal(fusion(rows), rows["text"].logits)
    turned = fit({"text": rows["text"], "image": replace(rows["text"], logits=rows["text"].logits * 1.01)})
    assert fusion.read == turned.read


def test_a_loud_expert_is_judged_at_its_own_temperature(evidence):
    rows = evidence("first")
    loud = {**rows, "text": replace(rows["text"], logits=rows["text"].logits * 50)}
    assert fit(loud).decides_alone == "text"


def test_posts_without_its_part_go_to_the_next_best(evidence):
    fusion, new = fit(evidence("first")), partly(evidence("first", seed=1))
    logits = fusion(new)
    text = new["text"].present
    assert torch.equal(logits[text], new["text"].logits[text])
    assert torch.equal(logits[~text], new["image"].logits[~text])
    nothing = fusion({name: e.without() for name, e in new.items()})
    assert torch.equal(nothing, fusion.prior.expand_as(nothing))
    assert torch.equal(fusion.explain(new)["image"], (~text).float())


def test_who_decides_can_be_asked_for(evidence):
    rows = evidence("first")
    assert fit(rows, modality="image").order == ["image", "text"]
    with pytest.raises(ConfigError, match=r"modality = 'txet'.*did you mean 'text'"):
        fit(rows, modality="txet")


def test_it_learns_no_parameter_and_is_exported_as_it_decides(evidence):
    fusion, new = fit(evidence("first")), partly(evidence("first", seed=1))
    assert Alone.restore(*fusion.state()).order == fusion.order
    assert all(name.startswith("statistics.") for name in fusion.state()[1])
    present = torch.stack([e.present for e in new.values()], dim=1)
    torch.testing.assert_close(FusionModule(fusion)(*(e.logits for e in new.values()), present), fusion(new))
