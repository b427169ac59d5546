"""What every fusion reads of its Evidence, what it refuses, and how little a new one needs."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bifocal.errors import ConfigError, DataError
from bifocal.example import Evidence
from bifocal.models.evidence_fusion import EvidenceFusion, LearnedFusion, PartsLinear
from bifocal.models.heads import Recipe


class Bias(nn.Module):
    """A head of one layer, on inputs that it takes in any number."""

    def __init__(self, dims, classes):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(d, classes) for d in dims.values())

    def forward(self, inputs, present):
        return sum(layer(x) for layer, x in zip(self.layers, inputs.values(), strict=True))


class Narrow(nn.Module):
    """A hidden layer over the parts side by side."""

    def __init__(self, dims, classes, width):
        super().__init__()
        self.first, self.last = PartsLinear(dims, width), nn.Linear(width, classes)

    def forward(self, inputs, present):
        return self.last(torch.tanh(self.first(inputs)))


class Added(LearnedFusion):
    """A stranger's fusion: this and `Bias` are all of it."""

    def head(self, dims, classes, width):
        return Bias(dims, classes)


class Echo(EvidenceFusion):
    """Says what it was given."""

    def combine(self, inputs, present):
        self.given = inputs, present
        return sum(inputs.values())


def evidence(n=40, classes=2, names=("text", "image"), seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    result = {}
    for name in names:
        logits = torch.randn(n, classes, generator=g) + 2 * nn.functional.one_hot(labels, classes)
        features = torch.cat([logits, torch.randn(n, 3, generator=g)], dim=1)
        ids, there = tuple(f"row{i}" for i in range(n)), torch.ones(n, dtype=torch.bool)
        result[name] = Evidence(ids, ids, features, logits, there, labels, ~there)
    return result


def fit(kind, rows, read=None, val=None, **options):
    return kind(**options).fit(rows, next(iter(rows.values())).labels, seeds=[0, 1], read=read, val=val)


def without(rows, *names, where=slice(None)):
    """The same Evidence with parts blanked on some rows."""
    result = dict(rows)
    for name in names:
        present = rows[name].present.clone()
        present[where] = False
        result[name] = replace(rows[name], present=present)
    return result


def test_a_new_fusion_is_one_module_and_one_line():
    rows, new = evidence(200), evidence(100, seed=1)
    fusion = fit(Added, rows, val=evidence(60, seed=2), epochs=20)
    assert (fusion(new).argmax(dim=1) == new["text"].labels).float().mean() > 0.9
    assert fusion.trained.grid_point in Recipe().grid()
    restored = Added.restore(*fusion.state())
    assert torch.equal(restored(new), fusion(new))


class Hidden(LearnedFusion):
    """One that has a width."""

    def head(self, dims, classes, width):
        return Narrow(dims, classes, width)


def test_the_width_is_chosen_on_val_and_kept():
    rows, val, new = evidence(200), evidence(60, seed=2), evidence(100, seed=1)
    losses = {}
    for width in (1, 8):
        losses[width] = min(fit(Hidden, rows, val=val, epochs=3, widths=[width]).trained.grid_loss)
    fusion = fit(Hidden, rows, val=val, epochs=3, widths=[1, 8])
    assert fusion.width == min(losses, key=losses.get)
    assert min(fusion.trained.grid_loss) == pytest.approx(losses[fusion.width], abs=1e-5)
    assert Hidden.restore(*fusion.state()).width == fusion.width
    assert fit(Hidden, rows, epochs=1, widths=[8, 1]).width == 8  # without val there is nothing to choose by
    assert torch.equal(Hidden.restore(*fusion.state())(new), fusion(new))


def test_reduced_inputs_are_restored_to_the_bit():
    rows, new = evidence(), evidence(seed=1)
    fusion = fit(Added, rows, epochs=1, columns=2)
    config, tensors = fusion.state()
    assert {name: t.shape for name, t in tensors.items() if "basis" in name} == {
        "statistics.basis.text": (5, 2), "statistics.basis.image": (5, 2),
    }  # fmt: skip
    assert torch.equal(Added.restore(config, tensors)(new), fusion(new))


def test_probabilities_are_averaged_over_seeds():
    rows = evidence()
    fusion = fit(Added, rows, epochs=2)
    members = fusion.member_logits(rows)
    assert members.shape == (2, 40, 2) and not torch.allclose(members[0], members[1])
    torch.testing.assert_close(fusion(rows).exp(), members.softmax(dim=-1).mean(dim=0))


def test_modalities_are_read_as_configured_whatever_their_names():
    rows = evidence(names=("package.module:Sound", "keys"))
    fusion = fit(Echo, rows, read={"keys": "features"})
    with pytest.raises(RuntimeError):  # five columns and two do not add up: each was read as asked
        fusion(rows)
    assert {name: x.shape[1] for name, x in fusion.given[0].items()} == {"package.module:Sound": 2, "keys": 5}
    learned = fit(Added, rows, epochs=1)
    assert torch.equal(Added.restore(*learned.state())(rows), learned(rows))


def test_the_order_in_which_modalities_are_handed_over_does_not_matter():
    rows = evidence()
    fusion = fit(Added, rows, epochs=1)
    assert torch.equal(fusion(rows), fusion(dict(reversed(rows.items()))))


def test_what_stands_at_an_absent_row_is_never_read():
    rows = without(evidence(), "image", where=slice(0, 10))
    rows["image"].features[:10], rows["image"].logits[:10] = torch.nan, torch.inf
    fusion = fit(Echo, rows)
    fusion(rows)
    inputs, present = fusion.given
    assert bool((inputs["image"][:10] == 0).all()) and present["image"].sum() == 30


def test_a_row_without_any_part_gets_the_class_shares_of_train():
    rows = evidence(30, classes=3)
    labels = torch.tensor([0] * 20 + [1] * 9 + [2])
    rows = {name: replace(e, labels=labels) for name, e in rows.items()}
    for kind in (Echo, Added):
        nothing = fit(kind, rows)(without(rows, "text", "image"))
        shares = nothing.softmax(dim=1)[0].tolist()
        assert shares == pytest.approx([21 / 33, 10 / 33, 2 / 33], abs=1e-5)
    assert torch.allclose(fit(Added, rows, epochs=1).member_logits(without(rows, "text", "image")), nothing)


def test_a_part_that_training_never_had_counts_as_absent():
    rows = evidence()
    fusion = fit(Added, without(rows, "image"), epochs=2)
    torch.testing.assert_close(fusion(rows), fusion(without(rows, "image")))


def test_rows_without_any_part_teach_nothing():
    rows = evidence()
    garbled = without(rows, "text", "image", where=slice(0, 10))
    kept = {name: e.take(range(10, 40)) for name, e in rows.items()}
    first, second = fit(Added, garbled, epochs=2), fit(Added, kept, epochs=2)
    torch.testing.assert_close(first(rows), second(rows))


def test_val_may_be_all_blank():
    rows = evidence()
    fusion = fit(Added, rows, val=without(rows, "text", "image"), epochs=2)
    assert fusion.trained.grid_loss == []


def test_rows_in_another_order_are_refused():
    rows = evidence()
    rows["image"] = rows["image"].take([1, 0, *range(2, 40)])
    with pytest.raises(DataError, match="text and image must have the same rows.*2 ids differ"):
        fit(Echo, rows)
    rows["image"] = rows["image"].take(range(30))
    with pytest.raises(DataError, match="40 and 30 rows"):
        fit(Echo, rows)


def test_other_modalities_than_at_training_are_refused():
    rows = evidence()
    fusion = fit(Echo, rows)
    with pytest.raises(DataError, match="reads text, image; it was given text"):
        fusion({"text": rows["text"]})
    with pytest.raises(DataError, match="at least one modality"):
        fit(Echo, rows).fit({}, rows["text"].labels, seeds=[0])


def test_other_widths_and_classes_are_refused():
    rows = evidence()
    fusion = fit(Added, rows, epochs=1)
    wider = {**rows, "text": replace(rows["text"], features=torch.zeros(40, 9))}
    with pytest.raises(DataError, match="features of text have 9 columns; the fusion was fitted on 5"):
        fusion(wider)
    with pytest.raises(DataError, match="text 2, image 3"):
        fit(Echo, {"text": rows["text"], "image": evidence(40, 3)["image"]})


def test_numbers_that_are_not_finite_are_refused_where_the_part_is_there():
    rows = evidence()
    rows["text"].logits[3, 1] = torch.nan
    with pytest.raises(DataError, match="logits of text are not finite in 1 of 40 rows"):
        fit(Echo, rows)


def test_labels_of_one_class_or_out_of_range_are_refused():
    rows = evidence()
    with pytest.raises(DataError, match="its 40 rows with a part show 1"):
        Echo().fit(rows, torch.zeros(40).long(), seeds=[0])
    with pytest.raises(DataError, match=r"class indices 0..1, found \[-1, 0, 1\]"):
        Echo().fit(rows, torch.arange(40) % 3 - 1, seeds=[0])


def test_settings_that_do_not_fit_are_refused_with_the_nearest_name():
    rows = evidence()
    with pytest.raises(ConfigError, match="unknown key 'epoch'; did you mean 'epochs'"):
        Added(epoch=3)
    with pytest.raises(ConfigError, match="fusion.read names 'txt'.*did you mean 'text'"):
        fit(Echo, rows, read={"txt": "logits"})
    with pytest.raises(ConfigError, match=r"fusion.read.text = 'tokens'.*reads features or logits"):
        fit(Echo, rows, read={"text": "tokens"})


def test_a_linear_layer_over_parts_is_the_one_over_all_columns():
    layer = PartsLinear({"a": 3, "b": 2}, 4)
    a, b = torch.randn(5, 3), torch.randn(5, 2)
    torch.testing.assert_close(layer({"b": b, "a": a}), layer.layer(torch.cat([a, b], dim=1)))
    pairs = layer({"a": a.unsqueeze(1), "b": b.unsqueeze(0)})
    assert pairs.shape == (5, 5, 4)
    torch.testing.assert_close(pairs[1, 3], layer({"a": a[1], "b": b[3]}))
