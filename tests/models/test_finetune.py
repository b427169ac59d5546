"""Fine-tuning learns, keeps the best epoch, stops in time, and goes on after a kill as if nothing had happened."""

import random
import shutil

import pytest
import torch
from PIL import Image

from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, DataError, ModelError
from bifocal.example import UNLABELLED, Rows
from bifocal.models import finetune
from bifocal.models.classifier import figures
from bifocal.models.encoders.hf_image import HfImage
from bifocal.models.encoders.hf_text import HfText

CUES = (("stone", "river"), ("copper", "lantern"))
FILLER = ["a", "the", "of", "under", "over", "near", "old", "small", "quiet", "green", "left", "right"]


def texts(n, seed):
    rng = random.Random(seed)
    labels = [i % 2 for i in range(n)]
    return Rows([" ".join([*rng.choices(FILLER, k=4), rng.choice(CUES[y])]) for y in labels], labels)


def pictures(n, seed):
    rng = random.Random(seed)
    labels = [i % 2 for i in range(n)]
    shade = lambda y: (200, rng.randint(0, 90), 40) if y else (40, rng.randint(0, 90), 200)  # noqa: E731
    return Rows([Image.new("RGB", (72, 72), shade(y)) for y in labels], labels)


TRAIN, VAL = texts(64, 0), texts(32, 1)


def expert(**changes):
    settings = {"model": "tiny", "epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "report_to": [], **changes}
    return ExpertConfig(**settings)


def create(kind=HfText, train=TRAIN, **changes):
    return kind.create(expert(**changes), (0, 1), 0, train.values)


class Killed(Exception):
    pass


def kill_in_epoch(epoch):
    def on_epoch(row):
        if row["epoch"] == epoch:
            raise Killed

    return on_epoch


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.classifier.parameters(), b.classifier.parameters(), strict=True))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted training of three epochs: encoder, history, and what it told while it went."""
    told = []
    encoder = create()
    encoded_before = encoder.examples_encoded
    history = encoder.fit(TRAIN, VAL, tmp_path_factory.mktemp("straight"), told.append)
    assert encoder.examples_encoded == encoded_before
    return encoder, history, told


def test_it_learns_and_tells_of_every_epoch(straight):
    encoder, history, told = straight
    keys = {f"{split}_{name}" for split in ("train", "val") for name in ("loss", "accuracy", "macro_f1")} | {"epoch"}
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert all(set(row) == keys for row in history)
    assert told == history
    assert history[-1]["val_macro_f1"] > 0.9
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert not encoder.classifier.training


def test_the_best_epoch_is_kept(straight):
    encoder, history, _ = straight
    best = max(history, key=lambda row: row["val_macro_f1"])
    measured = figures(encoder.encode(VAL.values)["logits"], torch.tensor(VAL.labels))
    assert measured["macro_f1"] == pytest.approx(best["val_macro_f1"])
    assert measured["loss"] == pytest.approx(best["val_loss"], abs=1e-4)


def test_training_runs_each_row_once_per_epoch_and_prints_nothing(tmp_path, capfd):
    encoder = create(epochs=2)
    rows = []
    encoder.classifier.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0]["input_ids"])))
    encoder.fit(TRAIN, VAL, tmp_path)
    assert sum(rows) == 2 * (len(TRAIN.labels) + len(VAL.labels))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", ["none", "state cut", "weights cut"])
def test_a_killed_training_goes_on_to_the_same_weights(straight, tmp_path, fault):
    with pytest.raises(Killed):
        create().fit(TRAIN, VAL, tmp_path, kill_in_epoch(3))
    second = tmp_path / "checkpoint-16"
    assert second.is_dir()
    if fault != "none":
        path = second / {"state cut": "trainer_state.json", "weights cut": "model.safetensors"}[fault]
        path.write_bytes(path.read_bytes()[:-20])
    again = create()
    rows = []
    again.classifier.register_forward_pre_hook(lambda *_: rows.append(1))
    history = again.fit(TRAIN, VAL, tmp_path)
    encoder, expected, _ = straight
    assert same_weights(again, encoder)
    assert history == expected
    epochs_left = 1 if fault == "none" else 2
    assert len(rows) == epochs_left * (len(TRAIN.labels) // 8 + len(VAL.labels) // 32)


ROOMS = ("cellar", "attic", "garden")


def several(n, seed):
    """Texts of three labels: the cue of `texts`, who is there, and in which of three rooms; some are not annotated."""
    rng, rows = random.Random(seed), texts(n, seed)
    people, rooms = [rng.randrange(2) for _ in range(n)], [rng.randrange(3) for _ in range(n)]
    values = [
        f"{text} {('nobody', 'somebody')[p]} {ROOMS[r]}" for text, p, r in zip(rows.values, people, rooms, strict=True)
    ]
    first = [UNLABELLED if i % 16 == 5 else y for i, y in enumerate(rows.labels)]
    people = [UNLABELLED if i % 4 == 3 else p for i, p in enumerate(people)]
    return Rows(values, first, {"somebody": people, "ro.om": rooms})


def create_several(**changes):
    encoder = create(train=SEVERAL, **changes)
    heads = {"somebody": encoder.add_head("somebody", (0, 1)), "ro.om": encoder.add_head("ro.om", ROOMS, 0.5)}
    assert encoder.heads == heads
    return encoder


SEVERAL, SEVERAL_VAL = several(128, 0), several(64, 1)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A training of three labels: encoder, history, and what it told while it went."""
    told, encoder = [], create_several()
    history = encoder.fit(SEVERAL, SEVERAL_VAL, tmp_path_factory.mktemp("together"), told.append)
    return encoder, history, told


def annotated(rows, label=None):
    """The rows that bear a label, and its classes."""
    labels = rows.further[label] if label else rows.labels
    known = [i for i, y in enumerate(labels) if y != UNLABELLED]
    return Rows([rows.values[i] for i in known], [labels[i] for i in known])


def test_several_labels_are_told_of_each_by_itself_and_their_mean_chooses(together):
    encoder, history, told = together
    names = ["loss", "accuracy", "macro_f1"]
    keys = {f"{split}_{name}" for split in ("train", "val") for name in (*names, *(f"mean_{n}" for n in names))}
    keys |= {f"{label}_{split}_{n}" for label in encoder.heads for split in ("train", "val") for n in names}
    assert all(set(row) == keys | {"epoch"} for row in history) and told == history
    best = max(history, key=lambda row: row["val_mean_macro_f1"])
    encoded = encoder.encode(SEVERAL_VAL.values)
    found = []
    for label, head in {None: encoder, **encoder.heads}.items():
        rows = annotated(SEVERAL_VAL, label)
        logits = head.encode(rows.values)["logits"]
        assert torch.equal(head.head_logits(head.encode(rows.values)), logits)
        found.append(figures(logits, torch.tensor(rows.labels))["macro_f1"])
        assert found[-1] == pytest.approx(best[f"{label}_val_macro_f1" if label else "val_macro_f1"])
        assert head.fingerprint() == encoder.fingerprint()
    assert sum(found) / 3 == pytest.approx(best["val_mean_macro_f1"])
    assert torch.equal(encoder.heads["ro.om"].encode(SEVERAL_VAL.values)["features"], encoded["features"])


def test_together_labels_are_learned_as_well_as_alone(tmp_path):
    changes = {"epochs": 4, "pooling": "mean"}
    encoder = create_several(**changes)
    encoder.fit(SEVERAL, SEVERAL_VAL, tmp_path / "together")
    for label, head in {None: encoder, **encoder.heads}.items():
        rows = annotated(SEVERAL, label)
        alone = HfText.create(expert(**changes), head.classes, 0, SEVERAL.values)
        alone.fit(rows, annotated(SEVERAL_VAL, label), tmp_path / str(label))
        test = annotated(several(200, 2), label)
        said = [figures(e.encode(test.values)["logits"], torch.tensor(test.labels))["macro_f1"] for e in (head, alone)]
        assert said[1] > 0.9 and said[0] >= said[1] - 0.01


def test_a_killed_training_of_several_labels_goes_on_to_the_same_weights(together, tmp_path):
    with pytest.raises(Killed):
        create_several().fit(SEVERAL, SEVERAL_VAL, tmp_path, kill_in_epoch(3))
    again = create_several()
    assert again.fit(SEVERAL, SEVERAL_VAL, tmp_path) == together[1]
    assert same_weights(again, together[0])


def test_heads_that_learned_together_are_saved(together, tmp_path):
    encoder, _, _ = together
    encoder.save(tmp_path / "expert")
    again = HfText.load(tmp_path / "expert")
    for label, head in encoder.heads.items():
        assert torch.equal(again.heads[label].encode(TRAIN.values)["logits"], head.encode(TRAIN.values)["logits"])
    assert again.fingerprint() == encoder.fingerprint()


@pytest.mark.parametrize("changes", [{"tune": "lora", "learning_rate": 1e-2}, {"pooling": "mean"}])
def test_several_labels_with_adapters_and_with_mean_pooling(tmp_path, changes):
    encoder = create_several(**changes)
    history = encoder.fit(SEVERAL, None, tmp_path)
    assert history[-1]["train_mean_loss"] < history[0]["train_mean_loss"]
    encoder.save(tmp_path / "expert")
    expected = {label: head.encode(TRAIN.values)["logits"] for label, head in encoder.heads.items()}
    again = HfText.load(tmp_path / "expert").heads
    for label, logits in expected.items():
        torch.testing.assert_close(again[label].encode(TRAIN.values)["logits"], logits)


def test_a_head_needs_its_label_and_learns_with_its_encoder(tmp_path):
    encoder = create_several()
    with pytest.raises(DataError, match=r"heads for somebody, ro\.om were added, and the rows bear no such labels"):
        encoder.fit(TRAIN, VAL, tmp_path)
    with pytest.raises(ModelError, match="call fit of that one"):
        encoder.heads["somebody"].fit(SEVERAL, None, tmp_path)


def test_augmented_pictures_are_the_same_after_a_kill(tmp_path):
    train, val = pictures(32, 0), pictures(16, 1)
    encoder = create(HfImage, train, epochs=2)
    augment, epochs = encoder.augment, []
    encoder.augment = lambda value, seed: epochs.append(seed[1]) or augment(value, seed)
    encoder.fit(train, val, tmp_path / "straight")
    assert epochs == [0] * 32 + [1] * 32
    with pytest.raises(Killed):
        create(HfImage, train, epochs=2).fit(train, val, tmp_path / "killed", kill_in_epoch(2))
    again = create(HfImage, train, epochs=2)
    again.fit(train, val, tmp_path / "killed")
    assert same_weights(again, encoder)


def test_patience_ends_training_and_a_kill_after_it_trains_no_more(tmp_path):
    encoder = create(learning_rate=1e-12, epochs=9, patience=2)
    history = encoder.fit(TRAIN, VAL, tmp_path)
    assert len(history) == 3
    again = create(learning_rate=1e-12, epochs=9, patience=2)
    assert again.fit(TRAIN, VAL, tmp_path, kill_in_epoch(4)) == history
    assert same_weights(again, encoder)


def test_without_val_the_last_epoch_is_kept(tmp_path):
    history = create(epochs=2).fit(TRAIN, None, tmp_path)
    assert [set(row) for row in history] == [{"epoch", "train_loss", "train_accuracy", "train_macro_f1"}] * 2


def test_lora_learns_and_ends_as_plain_weights(tmp_path):
    encoder = create(tune="lora", epochs=1, learning_rate=1e-2)
    plain = create()
    frozen = {n: w.clone() for n, w in plain.classifier.encoder.state_dict().items()}
    encoder.fit(TRAIN, VAL, tmp_path)
    after = encoder.classifier.encoder.state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, frozen[name])}
    assert set(after) == set(frozen)
    assert changed
    assert all("query_proj" in name or "value_proj" in name for name in changed)


def test_mean_pooling_leaves_a_working_auto_head(tmp_path):
    encoder = create(pooling="mean")
    encoder.fit(TRAIN, VAL, tmp_path)
    encoded = encoder.encode(VAL.values)
    auto = encoder.classifier.auto_head(encoded["auto_features"]).detach()
    labels = torch.tensor(VAL.labels)
    assert figures(encoded["logits"], labels)["macro_f1"] > 0.9
    assert figures(auto, labels)["macro_f1"] > 0.9


def test_bfloat16_training_leaves_a_float32_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "bf16_here", lambda: True)
    encoder = create(epochs=1)
    encoder.fit(TRAIN, VAL, tmp_path)
    encoder.save(tmp_path / "expert")
    features = HfText.load(tmp_path / "expert").encode(VAL.values)["features"]
    assert torch.equal(encoder.encode(VAL.values)["features"], features)


def test_a_diverging_training_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"diverged in epoch 1 .* lower learning_rate \(now 1e\+30\)"):
        create(learning_rate=1e30, warmup=0).fit(TRAIN, VAL, tmp_path)


def test_accumulation_makes_one_step_of_several_batches(tmp_path):
    history = create(epochs=2, batch_size=4, accumulation=3).fit(TRAIN, VAL, tmp_path)
    assert [row["epoch"] for row in history] == [1, 2]
    steps_per_epoch = 6  # 16 batches of 4
    assert {p.name for p in tmp_path.glob("checkpoint-*")} == {f"checkpoint-{n * steps_per_epoch}" for n in (1, 2)}


def test_tensorboard_gets_every_epoch(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    history = create(epochs=2, report_to=["tensorboard"]).fit(TRAIN, VAL, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for tag, key in (
        ("train/loss", "train_loss"),
        ("train/macro_f1", "train_macro_f1"),
        ("eval/macro_f1", "val_macro_f1"),
    ):
        assert [e.value for e in events.Scalars(tag)] == pytest.approx([row[key] for row in history])


def test_an_unknown_report_is_named(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        create(report_to=["tensorbord"]).fit(TRAIN, VAL, tmp_path)


def test_checkpoints_are_the_last_and_the_best(tmp_path):
    create(epochs=3).fit(TRAIN, VAL, tmp_path)
    kept = {p.name for p in tmp_path.glob("checkpoint-*")}
    assert "checkpoint-24" in kept
    assert len(kept) <= 2
    assert finetune.last_checkpoint(tmp_path) == tmp_path / "checkpoint-24"
    shutil.rmtree(tmp_path / "checkpoint-24")
    (tmp_path / "checkpoint-x").mkdir()
    assert finetune.last_checkpoint(tmp_path) != tmp_path / "checkpoint-x"
