import copy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, DebertaV2Config, DebertaV2ForSequenceClassification

from bifocal.models.deberta_positions import remember_positions

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 200}
MDEBERTA = {
    "relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm",
    "position_biased_input": False, "share_att_key": True,
}  # fmt: skip


def deberta(**changed):
    torch.manual_seed(0)
    return DebertaV2ForSequenceClassification(DebertaV2Config(**SIZE, **(MDEBERTA | changed))).eval()


@pytest.mark.parametrize("changed", [{}, {"share_att_key": False}, {"norm_rel_ebd": "none"}, {"position_buckets": -1}])
@torch.inference_mode()
def test_what_is_remembered_changes_no_answer(changed):
    plain = deberta(**changed)
    remembering = copy.deepcopy(plain)
    assert remember_positions(remembering) == 4
    names = list(plain.state_dict())
    for shape in ((1, 7), (3, 20), (1, 32), (2, 5)):  # (1, 32) is the shape of the positions themselves
        ids = torch.randint(0, 200, shape)
        for _ in range(2):
            assert torch.equal(plain(ids).logits, remembering(ids).logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(ids).logits, remembering(ids).logits)
    assert torch.equal(plain(ids).logits, remembering(ids).logits)
    assert list(remembering.state_dict()) == names


@torch.inference_mode()
def test_the_projections_are_computed_once():
    model = deberta()
    calls = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            forward = module.forward
            module.forward = lambda x, forward=forward: (calls.append(tuple(x.shape)), forward(x))[1]
    remember_positions(model)
    for _ in range(3):
        model(torch.randint(0, 200, (2, 9)))
    assert calls.count((1, 32, 32)) == 4


def test_other_models_are_left_alone():
    assert remember_positions(BertForSequenceClassification(BertConfig(**SIZE))) == 0
    assert remember_positions(deberta(relative_attention=False)) == 0
