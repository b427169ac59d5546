"""How training went: a recipe that diverges is counted, and heads grow with their inputs as their formulas say."""

import json
from math import log, nan
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bifocal.config import FusionConfig
from bifocal.decide.calibration import softmax
from bifocal.evaluate.compare import Resampling
from bifocal.evaluate.metrics import auroc
from bifocal.example import Evidence
from bifocal.lab.stability import COLUMNS, RISE, as_fitted, compare_stability, growth, steadiness
from bifocal.lab.trials import ExpertFacts, Study, fit_head_trial, fit_trial
from bifocal.models.evidence_fusion import LearnedFusion

EXPERTS = {m: ExpertFacts(f"{m}_expert", {"total": 100, "trained": 10}) for m in ("text", "image")}
OPTIONS = {"learning_rates": [1e-2, 3e-3], "weight_decays": [0.01], "widths": [4, 8], "epochs": 8, "patience": 2}


def generated(n=160):
    """Each modality says the label, in noise of its own."""
    splits = {}
    for number, split in enumerate(("train", "val", "test")):
        g = torch.Generator().manual_seed(number)
        labels, there = torch.arange(n) % 2, torch.ones(n, dtype=torch.bool)
        ids, splits[split] = tuple(f"{split}-{i}" for i in range(n)), {}
        for name in EXPERTS:
            x = torch.randn(n, 3, generator=g) + labels[:, None]
            logits = torch.stack([-x[:, 0], x[:, 0]], dim=1)
            splits[split][name] = Evidence(ids, ids, x, logits, there, labels, ~there)
    return splits


SPLITS = generated()


def fitted(strategy="concat", kind="fusion", keep=None, **options):
    study = Study(SPLITS, FusionConfig(strategy=strategy, seeds=3, options=options), EXPERTS, Resampling("auroc"))
    return fit_trial(study, strategy, kind, strategy, keep=keep)


@pytest.fixture(scope="module")
def steady():
    trial = fitted(**OPTIONS)
    return trial, steadiness(trial, SPLITS, metric="auroc")


def test_a_sound_recipe_tells_its_grid_point_its_epochs_and_its_curves(steady):
    trial, found = steady
    trained = trial.fusion.trained
    assert found["kind"] == "fusion" and found["diverged"] == 0 and found["models"] == 2 * 3
    assert found["grid_point"] == {
        "learning_rate": trained.grid_point[0], "weight_decay": 0.01, "width": trial.fusion.width
    }  # fmt: skip
    assert found["epochs_to_best"] == trained.epochs and len(trained.epochs) == 3
    curves = found["curves"]
    assert set(curves) == {"train_loss", "val_loss", "gradient_norm"}
    first = trained.history["train_loss"][0, trained.chosen].mean()
    assert curves["train_loss"][0] == pytest.approx(float(first)) and curves["train_loss"][2] < curves["train_loss"][0]
    for epoch, loss in enumerate(curves["val_loss"]):  # of the seeds that still ran, patience 2
        still = [s for s, best in enumerate(trained.epochs) if epoch < best + 2]
        own = trained.history["val_loss"][epoch, trained.chosen, still]
        assert loss == (pytest.approx(float(own.mean())) if still else None)


def test_spread_and_gap_are_those_of_the_metric(steady):
    trial, found = steady
    labels = {split: parts["text"].labels.numpy() for split, parts in SPLITS.items()}
    values = [auroc(labels["test"], softmax(z)) for z in trial.members["test"]]
    assert found["spread"]["test"] == pytest.approx(np.std(values, ddof=1))
    train = auroc(labels["train"], softmax(trial.fusion(SPLITS["train"]).double().numpy()))
    assert found["gap"]["train"] == pytest.approx(train)
    assert found["gap"]["test"] == found["test"] == pytest.approx(auroc(labels["test"], trial.probabilities("test")))
    assert found["gap"]["gap"] == pytest.approx(train - found["test"])
    assert found["parameters"] == trial.parameters["own"]
    json.dumps(found, allow_nan=False)


def test_a_learning_rate_that_diverges_is_counted_for_its_models_alone():
    trial = fitted(**OPTIONS | {"learning_rates": [1e-2, 1e3], "widths": [8]})
    found = steadiness(trial, SPLITS, metric="auroc")
    assert (found["diverged"], found["models"]) == (3, 6) and found["grid_point"]["learning_rate"] == 1e-2
    json.dumps(found, allow_nan=False)


def counted(train, val, patience=1, classes=2):
    """Models lost of one seed and grid point with these losses by epoch."""
    history = {name: torch.tensor(x)[:, None, None] for name, x in (("train_loss", train), ("val_loss", val))}
    trained = SimpleNamespace(
        grid_point=(0.1, 0.1), chosen=0, epochs=[1], history={**history, "gradient_norm": history["train_loss"]}
    )
    fusion = SimpleNamespace(trained=trained, options=SimpleNamespace(patience=patience), width=4)
    labels = np.array([0, 1])
    trial = SimpleNamespace(
        kind="fusion", fusion=fusion, logits={"test": np.zeros((2, classes))}, members={}, temperature=1.0,
        parameters={"own": 1}, probabilities=lambda split: np.full((2, classes), 1 / classes), reads=(),
    )  # fmt: skip
    nothing = torch.zeros(2, 1)
    rows = Evidence(
        ("a", "b"), ("a", "b"), nothing, nothing, nothing[:, 0] == 0, torch.tensor(labels), nothing[:, 0] > 0
    )
    trial.fusion = type(
        "Fusion",
        (LearnedFusion,),
        {
            "__init__": lambda self: vars(self).update(vars(fusion)),
            "__call__": lambda self, parts: torch.zeros(2, classes),
        },
    )()
    return steadiness(trial, {s: {"m": rows} for s in ("train", "val", "test")}, metric="accuracy")["diverged"]


@pytest.mark.parametrize(
    ("train", "val", "lost"),
    [
        ([0.7, 0.6, 0.5], [0.7, 0.6, 0.5], 0),
        ([0.7, 0.6, nan], [0.6, 0.7, nan], 0),  # stopped after its patience
        ([0.7, nan, nan], [0.6, nan, nan], 1),  # no number one epoch early
        ([nan, nan, nan], [nan, nan, nan], 1),
        ([0.7, 0.6, 0.5], [nan, nan, nan], 0),  # there was no val
        ([0.7, 0.6, nan], [nan, nan, nan], 1),
        ([0.69, 0.70, 0.69 + 0.9 * RISE], [0.7, 0.69, 0.68], 0),  # found nothing
        ([0.69, 0.70, 0.69 + 1.1 * RISE], [0.7, 0.69, 0.68], 1),
        ([9.0, 8.0, 2.1 * log(2)], [9.0, 8.0, 7.0], 1),  # comes down from where it was thrown to
    ],
)
def test_what_counts_as_diverged(train, val, lost):
    assert counted(train, val) == lost


def test_models_without_gradients_or_without_a_fusion_tell_what_they_can():
    found = steadiness(fitted("mean"), SPLITS, metric="auroc")
    assert found["grid_point"] is None and found["curves"] is None and found["diverged"] is None
    assert found["spread"] == {"val": None, "test": None} and found["parameters"] == 0
    assert found["gap"]["gap"] == pytest.approx(found["gap"]["train"] - found["test"])


def test_a_head_hears_its_modality_and_a_control_none_but_its_own():
    quick = OPTIONS | {"learning_rates": [1e-2], "widths": [4], "epochs": 2}
    head = fit_head_trial(Study(SPLITS, FusionConfig(seeds=2, options=quick), EXPERTS, Resampling("auroc")), "image")
    assert list(as_fitted(head, SPLITS["test"])) == ["image"]
    assert steadiness(head, SPLITS, metric="auroc")["kind"] == "head"
    control = fitted(kind="control", keep="text", **quick)
    there = {name: bool(e.present.any()) for name, e in as_fitted(control, SPLITS["test"]).items()}
    assert there == {"text": True, "image": False}
    assert steadiness(control, SPLITS, metric="auroc")["gap"]["train"] > 0.5


def test_heads_are_compared_with_fusions_by_medians():
    def model(kind, spread, gap, epochs, diverged=0, models=2):
        return {
            "kind": kind, "spread": {"test": spread}, "gap": {"gap": gap}, "epochs_to_best": epochs,
            "diverged": diverged, "models": models,
        }  # fmt: skip

    found = compare_stability(
        {
            "a": model("head", 0.01, 0.1, [1, 2, 9]),
            "b": model("fusion", 0.02, 0.3, [4, 6], 1),
            "c": model("fusion", 0.04, 0.1, [7], 2),
            "d": model("fusion", None, None, None, None, None),
            "e": model("control", 9.0, 9.0, [9], 9, 9),
        }
    )
    assert found == {
        "heads": {"n": 1, "spread": 0.01, "gap": 0.1, "epochs_to_best": 2, "diverged": 0, "models": 2},
        "fusions": {
            "n": 3, "spread": pytest.approx(0.03), "gap": pytest.approx(0.2), "epochs_to_best": 6, "diverged": 3,
            "models": 4,
        },
    }  # fmt: skip
    assert compare_stability({})["heads"]["spread"] is None


# ------------------------------------------------------------------ growth


class Outer(LearnedFusion):
    """Weighs every product of two columns, which nobody can afford."""

    def head(self, dims, classes, width):
        return nn.Bilinear(*dims.values(), classes)


def test_parameters_grow_as_the_formulas_say(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "outer_product", SimpleNamespace(Outer=Outer))
    found = growth(["concat", "mean", "stacking", "outer_product:Outer"], columns=(64, 128, 256), classes=3)
    assert found["concat"]["parameters"] == [(2 * (d + 1) + 1) * 128 + 129 * 3 for d in (64, 128, 256)]
    assert found["concat"]["word"] == "linear" and 0.9 < found["concat"]["exponent"] < 1.1
    assert (found["mean"]["parameters"], found["mean"]["exponent"]) == ([0, 0, 0], 0.0)
    assert found["stacking"]["parameters"] == [3 * 6 + 3 + 2 * (3 * 3 + 3)] * 3
    assert found["mean"]["word"] == found["stacking"]["word"] == "constant"
    outer = found["outer_product:Outer"]
    assert outer["word"] == "explosive" and outer["exponent"] == pytest.approx(2, abs=0.05)
    json.dumps(found, allow_nan=False)


def test_what_does_not_depend_on_the_inputs_pulls_the_exponent_down():
    found = growth(["attention", "hadamard"])
    assert found["attention"]["columns"] == list(COLUMNS) and found["attention"]["word"] == "less than linear"
    wide = growth(["attention"], columns=(4096, 8192))["attention"]
    assert wide["word"] == "linear"


def test_trees_are_no_matter_of_columns_and_the_draw_of_others_is_left_alone():
    torch.manual_seed(0)
    assert growth(["boosted"]) == {} and growth(["concat"], columns=(8, 16))
    again = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), again)
