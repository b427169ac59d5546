"""Boosted trees learn a record, are saved as text, and their features sum up to LightGBM's own scores."""

import json

import lightgbm
import numpy as np
import pytest
import torch

from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, DataError, MissingExtra, ModelError
from bifocal.evaluate.metrics import auroc
from bifocal.example import Rows
from bifocal.models.encoders import boosted_trees
from bifocal.models.encoders.boosted_trees import BoostedTrees


def table(n=400, seed=0, classes=2):
    """The label follows a number and a category together; a share of the numbers is missing."""
    rng = np.random.default_rng(seed)
    sizes, towns = rng.integers(0, 100, n), rng.choice(["Bree", "Dale", "Esgaroth"], n)
    labels = (sizes // 25 + (towns == "Bree")) % classes
    values = [
        {"size": int(s), "town": str(t), "noise": float(rng.normal()) if rng.random() > 0.2 else None}
        for s, t in zip(sizes, towns, strict=True)
    ]
    return Rows(values, labels.tolist())


def create(train=None, options=None, seed=0, classes=(0, 1)):
    options = options or {}
    return BoostedTrees.create(ExpertConfig(options=options), classes, seed, (train or table()).values)


def grown(tmp_path, train=None, val=None, **changes):
    encoder = create(train, **changes)
    return encoder, encoder.fit(train or table(), val, tmp_path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return grown(tmp_path_factory.mktemp("none"), val=table(200, 1))


def test_it_learns_what_only_columns_together_say(fitted):
    encoder, history = fitted
    test = table(300, 2)
    logits = encoder.encode(test.values)["logits"]
    assert auroc(np.array(test.labels), logits.softmax(1).numpy()) > 0.95
    assert len(history) == 1
    assert {"epoch", "train_loss", "train_macro_f1", "val_loss", "val_accuracy", "val_macro_f1"} <= history[0].keys()
    assert 1 <= history[0]["rounds"] <= 1000


@pytest.mark.parametrize("classes", [2, 3])
def test_the_logits_are_lightgbms(tmp_path, classes):
    train = table(classes=classes)
    encoder, _ = grown(tmp_path, train, classes=tuple(range(classes)))
    inputs = np.concatenate(encoder.processor.transform(train.values), axis=1)
    scores = lightgbm.Booster(model_str=encoder.text).predict(inputs)
    probabilities = encoder.encode(train.values)["logits"].softmax(1).numpy()
    np.testing.assert_allclose(probabilities[:, 1] if classes == 2 else probabilities, scores, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_many_trees_share_few_columns_and_lose_nothing(tmp_path, classes, monkeypatch):
    train = table(classes=classes)
    options = {"rounds_without_val": 100}
    names = tuple(range(classes))
    wide, _ = grown(tmp_path, train, classes=names, options=options)
    monkeypatch.setattr(boosted_trees, "WIDTH", 24)
    narrow, _ = grown(tmp_path, train, classes=names, options=options)
    every, few = wide.encode(train.values), narrow.encode(train.values)
    assert few["features"].shape == (400, 24)
    assert every["features"].shape == (400, 100 if classes == 2 else 255)
    torch.testing.assert_close(few["logits"], every["logits"], atol=1e-4, rtol=1e-4)
    assert (few["features"].std(dim=0) > 0).all()


def test_early_stopping_keeps_the_best_round(tmp_path):
    val = Rows(table(100, 1).values, np.random.default_rng(0).integers(0, 2, 100).tolist())  # nothing to be learned
    _, history = grown(tmp_path, val=val, options={"patience": 5})
    assert history[0]["rounds"] < 50
    _, history = grown(tmp_path, options={"rounds_without_val": 7})
    assert history[0]["rounds"] == 7


def test_the_same_seed_gives_the_same_trees_on_any_number_of_threads(fitted, tmp_path):
    for threads in (1, 2):
        again, _ = grown(tmp_path, val=table(200, 1), options={"threads": threads})
        values = table(100, 5).values
        assert torch.equal(again.encode(values)["features"], fitted[0].encode(values)["features"])


def test_loading_gives_the_same_expert_to_the_bit(fitted, tmp_path):
    encoder, _ = fitted
    encoder.save(tmp_path / "expert")
    names = {"model.txt", "preprocessing.json", "learned_from.json", "bifocal.json"}
    assert {path.name for path in (tmp_path / "expert").iterdir()} == names
    assert (tmp_path / "expert" / "model.txt").read_text(encoding="utf-8").startswith("tree\n")
    again = BoostedTrees.load(tmp_path / "expert")
    assert again.fingerprint() == encoder.fingerprint()
    assert again.parameters() == encoder.parameters()
    assert again.frozen is False
    assert again.columns == encoder.columns == ["size", "town", "noise"]
    values = table(50, 3).values
    for name, tensor in encoder.encode(values).items():
        assert torch.equal(again.encode(values)[name], tensor)


@pytest.mark.parametrize("name", ["model.txt", "preprocessing.json"])
def test_an_altered_folder_is_refused(fitted, tmp_path, name):
    fitted[0].save(tmp_path / "expert")
    path = tmp_path / "expert" / name
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(ModelError, match=f"{name} was altered"):
        BoostedTrees.load(tmp_path / "expert")


def test_nothing_is_pickled(fitted, tmp_path):
    fitted[0].save(tmp_path / "expert")
    for path in (tmp_path / "expert").iterdir():
        text = path.read_text(encoding="utf-8")  # all of it is text
        if path.suffix == ".json":
            json.loads(text)


def test_absent_and_unseen_cells_are_read(fitted):
    for value in ({}, {"town": "Minas Tirith"}, {"size": None}, {"size": 10**300}):
        assert fitted[0].encode([value])["logits"].isfinite().all()


def test_a_category_column_is_split_as_categories(fitted):
    assert "cat_threshold" in fitted[0].text


def test_a_handful_of_rows_still_grows_a_tree(tmp_path):
    train = Rows([{"a": i, "b": "x" if i % 2 else "y"} for i in range(40)], [int(i >= 20) for i in range(40)])
    encoder, history = grown(tmp_path, train)
    assert history[0]["train_accuracy"] == 1
    assert encoder.encode(train.values)["features"].shape[1] > 1


def test_a_table_that_says_nothing_gives_the_share_of_each_class(tmp_path):
    rng = np.random.default_rng(0)
    train = Rows([{"a": float(x)} for x in rng.normal(size=60)], [0, 0, 1] * 20)
    encoder, _ = grown(tmp_path, train, options={"min_rows": 60})
    probabilities = encoder.encode([{}, {"a": 3}])["logits"].softmax(1)
    torch.testing.assert_close(probabilities[:, 1], torch.full((2,), 1 / 3))


def test_a_class_without_rows_is_improbable(tmp_path):
    train = table()
    encoder, _ = grown(tmp_path, train, classes=("a", "b", "never"))
    probabilities = encoder.encode(train.values)["logits"].softmax(1)
    assert (probabilities[:, 2] < 1e-3).all()


def test_a_class_without_rows_is_not_so_improbable_that_one_row_undoes_the_temperature(tmp_path):
    rows = table(classes=2)
    encoder, _ = grown(tmp_path, rows, classes=(0, 1, 2))
    assert encoder.encode(rows.values)["logits"].min() >= boosted_trees.FLOOR * 1.5


def test_parameters_are_counted_and_bounded_by_the_cost(fitted):
    counted = fitted[0].parameters()
    leaves = sum(int(line[11:]) for line in fitted[0].text.splitlines() if line.startswith("num_leaves="))
    trees = fitted[0].text.count("Tree=")
    assert counted == {"total": leaves + 2 * (leaves - trees), "trained": leaves + 2 * (leaves - trees)}
    cost = BoostedTrees.cost(ExpertConfig(), 2)
    assert counted["total"] <= cost["total"] == cost["trained"] == 1000 * (31 + 2 * 30)
    assert BoostedTrees.cost(ExpertConfig(), 3)["total"] == 3 * cost["total"]


def test_it_must_be_fitted_first(tmp_path):
    encoder = create()
    for use in (lambda: encoder.encode(table().values), lambda: encoder.save(tmp_path / "expert"), encoder.parameters):
        with pytest.raises(ModelError, match="not fitted yet: call fit first"):
            use()
    assert not (tmp_path / "expert").exists()


def test_what_a_user_gets_wrong(fitted, monkeypatch):
    with pytest.raises(ConfigError, match="unknown key 'leafs'; did you mean 'leaves'"):
        create(options={"leafs": 8})
    with pytest.raises(
        ConfigError, match=r"experts.tabular.learning_rate .* set experts.tabular.options.learning_rate"
    ):
        BoostedTrees.create(ExpertConfig(learning_rate=0.1), (0, 1), 0, table().values)
    with pytest.raises(ConfigError, match="takes full"):
        BoostedTrees.create(ExpertConfig(tune="lora"), (0, 1), 0, table().values)
    with pytest.raises(DataError, match="'twon' is none .* did you mean 'town'"):
        fitted[0].check({"twon": "Bree"})
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(MissingExtra, match=r"'lightgbm', which is not installed: pip install 'bifocal\[train\]'"):
        create()


def test_settings_of_transformers_are_refused_before_the_first_step():
    with pytest.raises(ConfigError, match="experts.tabular.learning_rate .* experts.tabular.options.learning_rate"):
        BoostedTrees.reach(ExpertConfig(learning_rate=1e-3))
    with pytest.raises(ConfigError, match="model = 'minilm': boosted_trees is made anew"):
        BoostedTrees.reach(ExpertConfig(model="minilm", encoder="boosted_trees"))
    BoostedTrees.reach(ExpertConfig(options={"learning_rate": 1e-3}))
