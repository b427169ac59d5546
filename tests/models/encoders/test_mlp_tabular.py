"""A small network learns a record, is saved in Hugging Face form, and reads alike wherever it is loaded."""

import json

import numpy as np
import pytest
import torch

from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, DataError, ModelError
from bifocal.evaluate.metrics import auroc
from bifocal.example import Rows
from bifocal.models.encoders.mlp_tabular import MlpConfig, MlpForClassification, MlpTabular

OPTIONS = {"hidden_size": 32, "epochs": 8, "learning_rate": 0.01, "batch_size": 16}


def table(n=400, seed=0):
    """The label follows the product of two signs, a category among them, which no linear model of the cells says."""
    rng = np.random.default_rng(seed)
    signs, towns = rng.choice([-1, 1], n), rng.choice(["Bree", "Dale"], n)
    labels = ((signs > 0) == (towns == "Bree")).astype(int)
    values = [
        {
            "sign": float(s * np.exp(rng.normal())),
            "town": str(t),
            "noise": float(rng.normal()) if rng.random() > 0.2 else None,
            "day": f"2019-0{rng.integers(1, 10)}-01",
        }
        for s, t in zip(signs, towns, strict=True)
    ]
    return Rows(values, labels.tolist())


def create(train=None, options=OPTIONS, seed=0, classes=(0, 1)):
    config = ExpertConfig(report_to=[], options=options)
    return MlpTabular.create(config, classes, seed, (train or table()).values)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    encoder = create()
    history = encoder.fit(table(), table(200, 1), tmp_path_factory.mktemp("checkpoints"))
    return encoder, history


def test_it_learns_what_only_columns_together_say(fitted):
    encoder, history = fitted
    test = table(300, 2)
    logits = encoder.encode(test.values)["logits"]
    assert auroc(np.array(test.labels), logits.softmax(1).numpy()) > 0.95
    assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
    assert {"train_loss", "train_macro_f1", "val_loss", "val_accuracy", "val_macro_f1"} <= history[0].keys()


def test_the_same_seed_gives_the_same_network(fitted, tmp_path):
    again, other = create(), create(seed=1)
    again.fit(table(), table(200, 1), tmp_path / "again")
    other.fit(table(), table(200, 1), tmp_path / "other")
    assert again.fingerprint() == fitted[0].fingerprint() != other.fingerprint()


def test_the_folder_is_of_hugging_face_form(fitted, tmp_path):
    encoder, _ = fitted
    encoder.save(tmp_path / "expert")
    names = {"config.json", "model.safetensors", "preprocessing.json", "learned_from.json", "bifocal.json"}
    assert {path.name for path in (tmp_path / "expert").iterdir()} == names
    model = MlpForClassification.from_pretrained(tmp_path / "expert").eval()
    assert isinstance(model.config, MlpConfig)
    assert model.config.id2label == {0: "0", 1: "1"}
    values = table(50, 3).values
    numbers, categories = map(torch.from_numpy, encoder.processor.transform(values))
    with torch.no_grad():
        logits = model(numbers, categories).logits
    torch.testing.assert_close(logits, encoder.encode(values)["logits"])
    card = json.loads((tmp_path / "expert" / "bifocal.json").read_text(encoding="utf-8"))
    assert card["columns"] == {"sign": "number", "town": "category", "noise": "number", "day": "date"}
    assert card["expert"]["tune"] == "full"


def test_loading_gives_the_same_expert_to_the_bit(fitted, tmp_path):
    encoder, _ = fitted
    encoder.save(tmp_path / "expert")
    again = MlpTabular.load(tmp_path / "expert")
    assert again.fingerprint() == encoder.fingerprint()
    assert again.frozen is False
    values = table(50, 3).values
    for name, tensor in encoder.encode(values).items():
        assert torch.equal(again.encode(values)[name], tensor)
    again.check(values[0])
    assert set(again.columns) == {"sign", "town", "noise", "day"}


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessing.json"])
def test_an_altered_folder_is_refused(fitted, tmp_path, name):
    fitted[0].save(tmp_path / "expert")
    path = tmp_path / "expert" / name
    blob = bytearray(path.read_bytes())
    blob[-20] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ModelError, match=f"{name} was altered"):
        MlpTabular.load(tmp_path / "expert")


def test_absent_and_unseen_cells_are_read(fitted):
    encoder, _ = fitted
    for value in ({}, {"town": "Minas Tirith"}, {"sign": None}, {"sign": 1e300}):
        encoded = encoder.encode([value])
        assert all(tensor.isfinite().all() for tensor in encoded.values())


def test_a_flag_that_training_never_raised_says_nothing():
    encoder = create()
    first = encoder.classifier.auto.mlp.layers[0].weight
    numbers = encoder.classifier.auto.config.numbers
    assert (first[:, numbers : 2 * numbers] == 0).all()
    assert (first[:, :numbers] != 0).all()


def test_training_meets_unseen_categories(tmp_path):
    weights = {}
    for share in (0.0, 0.3):
        encoder = create(options={**OPTIONS, "epochs": 1, "unseen": share, "weight_decay": 0.0})
        before = encoder.classifier.auto.mlp.embeddings[0].weight[1].clone()
        encoder.fit(table(), None, tmp_path / str(share))
        weights[share] = not torch.equal(encoder.classifier.auto.mlp.embeddings[0].weight[1], before)
    assert weights == {0.0: False, 0.3: True}


def test_features_make_the_logits(fitted):
    encoded = fitted[0].encode(table(20, 4).values)
    assert encoded["features"].shape == (20, 32)
    torch.testing.assert_close(fitted[0].head_logits(encoded), encoded["logits"])


def test_an_interrupted_training_ends_as_an_undisturbed_one(fitted, tmp_path):
    class Killed(Exception):
        pass

    def kill(row):
        if row["epoch"] == 3:
            raise Killed

    first = create()
    with pytest.raises(Killed):
        first.fit(table(), table(200, 1), tmp_path, kill)
    second = create()
    history = second.fit(table(), table(200, 1), tmp_path)
    assert second.fingerprint() == fitted[0].fingerprint()
    assert history == fitted[1]


def test_the_epoch_of_least_val_loss_is_kept_on_a_skewed_label(tmp_path):
    rng = np.random.default_rng(0)

    def skewed(n):
        values = [{"a": float(x)} for x in rng.normal(size=n)]
        return Rows(values, [int(rng.random() < 0.3 / (1 + np.exp(-2 * value["a"]))) for value in values])

    train, val = skewed(600), skewed(300)
    encoder = create(train, {**OPTIONS, "epochs": 5, "learning_rate": 3e-4})
    history = encoder.fit(train, val, tmp_path)
    by_f1 = max(history, key=lambda row: row["val_macro_f1"])  # an early epoch, which still calls rows positive
    logits = encoder.encode(val.values)["logits"]
    kept = torch.nn.functional.cross_entropy(logits, torch.tensor(val.labels)).item()
    assert kept == pytest.approx(min(row["val_loss"] for row in history), abs=1e-6)
    assert kept < by_f1["val_loss"] - 0.01


def test_without_val_the_last_epoch_is_kept(tmp_path):
    history = create().fit(table(), None, tmp_path)
    assert len(history) == 8
    assert not any(name.startswith("val") for name in history[-1])


def test_a_small_table_gets_small_batches():
    assert create(table(50), {}).expert.batch_size == 16
    assert create(table(400), {}).expert.batch_size == 25
    assert create(table(400), {"batch_size": 7}).expert.batch_size == 7


def test_tables_without_numbers_or_without_categories(tmp_path):
    for column in ("sign", "town"):
        train = Rows([{column: value[column]} for value in table().values], table().labels)
        encoder = create(train, {**OPTIONS, "epochs": 1})
        encoder.fit(train, None, tmp_path / column)
        assert encoder.encode(train.values[:3])["features"].shape == (3, 32)
        encoder.save(tmp_path / "expert")
        assert MlpTabular.load(tmp_path / "expert").fingerprint() == encoder.fingerprint()


def test_costs_are_those_of_the_nominal_table():
    cost = MlpTabular.cost(ExpertConfig(options={"hidden_size": 32}), 2)
    widths = 2 * 20 + 5 * 14
    layers = widths * 32 + 32 + 32 * 32 + 32 + 32 * 2 + 2
    assert cost["total"] == cost["trained"] == 5 * 50 * 14 + layers
    assert cost["flops_per_example"] == 2 * (widths * 32 + 32 * 32 + 32 * 2)


def test_what_a_user_gets_wrong(fitted):
    with pytest.raises(ConfigError, match="unknown key 'hidden'; did you mean 'hidden_size'"):
        create(options={"hidden": 8})
    with pytest.raises(ConfigError, match=r"experts.tabular.epochs .* set experts.tabular.options.epochs"):
        MlpTabular.create(ExpertConfig(epochs=9), (0, 1), 0, table().values)
    with pytest.raises(ConfigError, match="takes full"):
        MlpTabular.create(ExpertConfig(tune="head"), (0, 1), 0, table().values)
    with pytest.raises(DataError, match="'twon' is none .* did you mean 'town'"):
        fitted[0].check({"twon": "Bree"})
    with pytest.raises(DataError, match="no tabular column tells"):
        create(Rows([{"a": 1}] * 9, [0, 1, 0] * 3))


def test_settings_of_transformers_are_refused_before_the_first_step():
    with pytest.raises(ConfigError, match="experts.tabular.learning_rate .* experts.tabular.options.learning_rate"):
        MlpTabular.reach(ExpertConfig(learning_rate=1e-3))
    with pytest.raises(ConfigError, match="model = 'minilm': mlp_tabular is made anew"):
        MlpTabular.reach(ExpertConfig(model="minilm", encoder="mlp_tabular"))
    MlpTabular.reach(ExpertConfig(options={"learning_rate": 1e-3}))
