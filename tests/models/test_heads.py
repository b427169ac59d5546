"""Many heads in one program are the heads one would have trained one by one."""

from functools import partial

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from bifocal.errors import DataError
from bifocal.models.heads import Parts, Recipe, Scaling, bearable_columns, fit_heads


class Head(nn.Module):
    """A head as a stranger may write it: LayerNorm, a buffer, a frozen weight, one Dropout called twice."""

    def __init__(self, dims, classes=2, dropout=0.0):
        super().__init__()
        self.names = list(dims)
        self.first = nn.Linear(sum(dims.values()), 12)
        self.norm = nn.LayerNorm(12)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(12, classes)
        self.register_buffer("signs", torch.randn(12).sign())
        self.frozen = nn.Parameter(torch.full((12,), 2.0), requires_grad=False)

    def forward(self, inputs, present):
        x = self.dropout(torch.cat([inputs[name] for name in self.names], dim=-1))
        return self.last(self.dropout(torch.tanh(self.norm(self.first(x)) * self.signs * self.frozen)))


def parts(n=96, seed=0, noise=0.5, missing=0.2):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=g)
    inputs = {m: torch.randn(n, d, generator=g) * 3 + 7 for m, d in (("text", 5), ("image", 3))}
    inputs["text"][:, 0] += 6 * (labels - 0.5) / noise
    present = {m: torch.rand(n, generator=g) > missing for m in inputs}
    present["text"] |= ~present["image"]
    return Parts(inputs, present, labels)


DIMS = {"text": 6, "image": 4}
"""Columns of the inputs and the flag of absence."""


def recipe(**settings):
    return Recipe(**{"epochs": 4, "batch_size": 20, "learning_rates": [1e-2], "weight_decays": [0.1]} | settings)


def test_a_batched_program_gives_the_numbers_of_training_one_by_one():
    """With dropout, absent parts, and models that run out of patience at different epochs."""
    train, val = parts(noise=3), parts(40, seed=1, noise=3)
    build = partial(Head, DIMS, dropout=0.3)
    rates, decays, seeds = [3e-2, 3e-3], [0.0, 1.0], [3, 4, 5]
    grid = recipe(epochs=8, patience=1, learning_rates=rates, weight_decays=decays)
    many = fit_heads(build, train, val, seeds=seeds, recipe=grid)
    stopped = set()
    for g, (rate, decay) in enumerate(grid.grid()):
        alone = grid.model_copy(update={"learning_rates": (rate,), "weight_decays": (decay,)})
        for s, seed in enumerate(seeds):
            one = fit_heads(build, train, val, seeds=[seed], recipe=alone)
            trained = len(one.history["val_loss"])
            stopped.add(trained)
            for name, figures in one.history.items():
                torch.testing.assert_close(many.history[name][:trained, g, s], figures[:, 0, 0], atol=1e-4, rtol=1e-4)
                assert bool(many.history[name][trained:, g, s].isnan().all())
            if (rate, decay) == many.grid_point:
                assert one.epochs[0] == many.epochs[s]
                for name, weight in one.heads.weights.items():
                    torch.testing.assert_close(many.heads.weights[name][s], weight[0], atol=1e-4, rtol=1e-4)
    assert len(stopped) > 2 and many.history["train_loss"].shape[1:] == (4, 3)
    # A stopped model that would have improved later must not have been picked up again.
    best = many.history["val_loss"].nan_to_num(torch.inf).amin(dim=0).mean(dim=1)
    assert many.grid_loss == pytest.approx(best.tolist())


def test_the_steps_are_those_of_torchs_adamw():
    train = parts()
    settings = recipe(epochs=5, batch_size=96, modality_dropout=0.0)
    trained = fit_heads(partial(Head, DIMS), train, None, seeds=[11], recipe=settings)
    torch.manual_seed(11)
    head = Head(DIMS)
    optimiser = torch.optim.AdamW([p for p in head.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    inputs = Scaling.of(train)(train.inputs, train.present)
    losses, norms = [], []
    for _ in range(5):
        loss = nn.functional.cross_entropy(head(inputs, train.present), train.labels)
        optimiser.zero_grad()
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.stack([p.grad.norm() for p in head.parameters() if p.requires_grad]).norm().item())
        optimiser.step()
    for name, weight in head.state_dict().items():
        torch.testing.assert_close(trained.heads.weights[name][0], weight, atol=1e-5, rtol=1e-4)
    assert trained.history["train_loss"].flatten().tolist() == pytest.approx(losses, abs=1e-5)
    assert trained.history["gradient_norm"].flatten().tolist() == pytest.approx(norms, abs=1e-4)


def test_what_is_frozen_stays_and_what_is_random_differs_by_seed():
    trained = fit_heads(partial(Head, DIMS), parts(), None, seeds=[0, 1], recipe=recipe())
    weights = trained.heads.weights
    assert bool((weights["frozen"] == 2).all())
    assert not torch.equal(weights["signs"][0], weights["signs"][1])
    assert not torch.allclose(weights["first.weight"][0], weights["first.weight"][1])


def test_the_same_seeds_give_the_same_numbers_and_leave_torchs_own_alone():
    torch.manual_seed(99)
    state = torch.get_rng_state()
    build = partial(Head, DIMS, dropout=0.2)
    first, second = (fit_heads(build, parts(), parts(seed=1), seeds=[0, 1], recipe=recipe()) for _ in range(2))
    assert all(torch.equal(w, second.heads.weights[name]) for name, w in first.heads.weights.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_at_work_in_training_only():
    losses = {}
    for p in (0.0, 0.8):
        trained = fit_heads(partial(Head, DIMS, dropout=p), parts(noise=0.1), None, seeds=[0], recipe=recipe(epochs=20))
        losses[p] = trained.history["train_loss"][-1].item()
        scores = [trained.heads(parts().inputs, parts().present) for _ in range(2)]
        assert torch.equal(*scores)
    assert losses[0.8] > losses[0.0] + 0.1


def test_every_model_keeps_its_best_epoch_and_stops_without_patience():
    """On labels that say nothing the val loss soon rises."""
    train, val = parts(noise=1e9), parts(seed=1, noise=1e9)
    settings = recipe(epochs=40, patience=3, learning_rates=[3e-2, 1e-3])
    trained = fit_heads(partial(Head, DIMS), train, val, seeds=[0, 1, 2], recipe=settings)
    chosen = settings.grid().index(trained.grid_point)
    for s, epoch in enumerate(trained.epochs):
        losses = trained.history["val_loss"][:, chosen, s]
        seen = losses[~losses.isnan()]
        assert int(seen.argmin()) + 1 == epoch and len(seen) == min(epoch + 3, 40)
        logits = trained.heads(val.inputs, val.present)[s]
        assert nn.functional.cross_entropy(logits, val.labels).item() == pytest.approx(seen.min().item(), abs=1e-5)
    assert trained.history["val_loss"].isnan().any()


def test_the_grid_point_with_the_least_val_loss_over_seeds_wins():
    settings = recipe(learning_rates=[1e-6, 1e-2, 10.0], epochs=10)
    trained = fit_heads(partial(Head, DIMS), parts(), parts(seed=1), seeds=[0, 1], recipe=settings)
    assert trained.grid_point == (1e-2, 0.1)
    assert trained.grid_loss[1] == min(trained.grid_loss) and len(trained.grid_loss) == 3


def test_without_val_the_first_grid_point_is_trained_to_the_end():
    settings = recipe(learning_rates=[1e-3, 1e-2], patience=1)
    trained = fit_heads(partial(Head, DIMS), parts(), None, seeds=[0, 1], recipe=settings)
    assert trained.grid_point == (1e-3, 0.1) and trained.epochs == [4, 4] and trained.grid_loss == []
    assert trained.history["train_loss"].shape == (4, 1, 2)


def test_modality_dropout_leaves_every_row_a_part():
    """Where every row has one part only, nothing is left to drop."""
    train = parts()
    alone = Parts(train.inputs, {"text": train.present["text"], "image": ~train.present["text"]}, train.labels)
    runs = [
        fit_heads(partial(Head, DIMS), alone, None, seeds=[0], recipe=recipe(modality_dropout=p)) for p in (0.0, 0.9)
    ]
    assert torch.equal(runs[0].history["train_loss"], runs[1].history["train_loss"])
    both = [
        fit_heads(partial(Head, DIMS), parts(missing=0), None, seeds=[0], recipe=recipe(modality_dropout=p))
        for p in (0.0, 0.9)
    ]
    assert not torch.allclose(both[0].history["train_loss"], both[1].history["train_loss"])


def test_scaling_reads_present_rows_only():
    train = parts()
    train.inputs["image"][:, 2] = 0.1
    train.inputs["image"][~train.present["image"]] = 1e6
    scaled = Scaling.of(train)(train.inputs, train.present)["image"]
    there = train.present["image"]
    assert torch.allclose(scaled[there, :3].mean(dim=0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(scaled[there, :3].std(dim=0, correction=0), torch.tensor([1.0, 1, 0]), atol=1e-5)
    assert bool((scaled[~there] == torch.tensor([0.0, 0, 0, 1])).all()) and bool((scaled[there, 3] == 0).all())


def test_wide_inputs_are_reduced_to_principal_components_that_keep_their_variances():
    """Three directions that carry everything, mixed into 20 columns; some rows lack the part."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=g) * torch.tensor([3.0, 2.0, 1.0]) @ torch.randn(3, 20, generator=g)
    there = torch.arange(400) % 4 > 0
    rows = Parts({"wide": x * 1000 + 5, "narrow": x[:, :3]}, {"wide": there, "narrow": there}, torch.zeros(400).long())
    scaling = Scaling.of(rows, columns=3)
    assert (scaling.width("wide"), scaling.width("narrow")) == (4, 4) and set(scaling.basis) == {"wide"}
    reduced = scaling.prepared(rows.inputs)["wide"][there].double()
    covariance = reduced.T @ reduced / len(reduced)
    torch.testing.assert_close(covariance, covariance.diag().diag(), atol=1e-2, rtol=0)  # uncorrelated
    variances = covariance.diag()
    assert variances.mean().item() == pytest.approx(1, abs=0.01)
    centred = x[there] - x[there].mean(dim=0)
    expected = torch.linalg.eigvalsh(centred.T @ centred).flip(0)[:3]
    torch.testing.assert_close((variances / variances[0]).float(), expected / expected[0], atol=1e-3, rtol=0)
    # Nothing is lost: three components say all that twenty columns did.
    back = torch.linalg.lstsq(reduced, centred.double()).solution
    torch.testing.assert_close(reduced @ back, centred.double(), atol=1e-3, rtol=0)


def test_columns_that_do_not_go_together_are_reduced_to_the_loudest():
    """As the components of a latent semantic analysis are: standardised, any direction would be as good as another."""
    x = torch.randn(500, 40, generator=torch.Generator().manual_seed(0)) * 0.9 ** torch.arange(40)
    rows = Parts({"wide": x}, {"wide": torch.ones(500) > 0}, torch.zeros(500).long())
    reduced = Scaling.of(rows, columns=10).prepared(rows.inputs)["wide"]
    back = reduced @ torch.linalg.lstsq(reduced, x - x.mean(dim=0)).solution
    kept = 1 - (x - x.mean(dim=0) - back).square().mean(dim=0) / x.var(dim=0)
    assert float(kept[:6].min()) > 0.9 and float(kept[20:].max()) < 0.1


@pytest.mark.parametrize("n", [30, 300])
def test_components_are_those_of_scikit_learn(n):
    from sklearn.decomposition import PCA

    x = torch.randn(n, 60, dtype=torch.double, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 61)
    scaling = Scaling.of(Parts({"a": x.float()}, {"a": torch.ones(n) > 0}, torch.zeros(n).long()), columns=4)
    found = PCA(4, svd_solver="full").fit(x.numpy())
    axes = torch.from_numpy(found.components_.T / found.explained_variance_.mean() ** 0.5)
    torch.testing.assert_close(scaling.basis["a"].double(), axes, atol=1e-4, rtol=1e-4)


def test_by_default_a_part_is_as_wide_as_its_rows_bear():
    assert [bearable_columns(rows) for rows in (50, 300, 4096, 12800)] == [64, 64, 64, 200]
    rows = Parts({"a": torch.randn(300, 100), "b": torch.randn(300, 64)}, {}, torch.zeros(300).long())
    rows.present.update(dict.fromkeys(rows.inputs, torch.ones(300) > 0))
    by_rows = Scaling.of(rows, Recipe().columns)
    assert (by_rows.width("a"), by_rows.width("b")) == (65, 65) and set(by_rows.basis) == {"a"}
    assert Scaling.of(rows, Recipe(columns=0).columns).basis == {}


def test_a_part_with_fewer_rows_than_columns_is_reduced_to_what_they_span():
    rows = Parts({"a": torch.randn(5, 40)}, {"a": torch.ones(5) > 0}, torch.zeros(5).long())
    assert Scaling.of(rows, columns=10).width("a") == 4 + 1  # five points span four axes; one column is the flag
    nothing = Parts({"a": torch.randn(5, 40)}, {"a": torch.zeros(5) > 0}, torch.zeros(5).long())
    scaling = Scaling.of(nothing, columns=10)
    assert bool(scaling.basis["a"].isfinite().all())
    assert bool(scaling(nothing.inputs, nothing.present)["a"].isfinite().all())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_attention_layers_of_torch_can_be_heads():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.ModuleList(nn.Linear(d, 8) for d in DIMS.values())
            self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.1, batch_first=True)
            self.last = nn.Linear(8, 2)

        def forward(self, inputs, present):
            tokens = [layer(inputs[name]) for name, layer in zip(DIMS, self.project, strict=True)]
            return self.last(self.layer(torch.stack(tokens, dim=-2)).mean(dim=-2))

    trained = fit_heads(Attention, parts(), parts(seed=1), seeds=[0, 1], recipe=recipe(epochs=2))
    assert trained.heads(parts().inputs, parts().present).shape == (2, 96, 2)


def test_no_rows_are_refused():
    empty = Parts({"text": torch.zeros(0, 5)}, {"text": torch.zeros(0, dtype=torch.bool)}, torch.zeros(0).long())
    with pytest.raises(DataError, match="found none"):
        fit_heads(partial(Head, {"text": 6}), empty, None, seeds=[0], recipe=recipe())


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"modality_dropout": 1.0}, {"learning_rates": []}, {"epoch": 3}])
def test_a_recipe_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ValidationError):
        Recipe(**wrong)
