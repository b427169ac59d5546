"""An expert learns from the rows it may, says so, and its encoder runs once per example however often it is asked."""

import random
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bifocal.config import ExpertConfig
from bifocal.data.packing import pack
from bifocal.data.shards import open_split
from bifocal.errors import ConfigError, DataError, ModelError
from bifocal.example import Example, Label, Taxonomy
from bifocal.fit import evidence as evidence_room
from bifocal.fit.candidates import candidates
from bifocal.fit.evidence import evidence_of
from bifocal.fit.expert import FINISHED, ExpertData, ExpertFiles, fit_expert, load_expert
from bifocal.modalities.text import Text, compose
from bifocal.models.encoders.hf_text import HfText
from bifocal.workspace import read_json, write_json

LABEL = Label((0, 1))
TAXONOMY = Taxonomy({"kind": LABEL})
CUES = (("stone", "river"), ("copper", "lantern"))
FILLER = ["a", "the", "of", "under", "over", "near", "old", "small", "quiet", "green", "left", "right"]
SIZES = {"train": 60, "val": 24, "test": 12}
ABSENT, UNANNOTATED = 5, 9


def examples():
    rng = random.Random(0)
    for split, size in SIZES.items():
        for i in range(size):
            y = i % 2
            words = " ".join([*rng.choices(FILLER, k=4), rng.choice(CUES[y])])
            parts = {} if i == ABSENT else {"text": compose("", words, "en")}
            label = None if i == UNANNOTATED else y
            yield Example(f"{split}-{i}", parts, {"kind": label}, group=f"{split}-{i // 2}", split=split)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    pack(examples(), None, {"text": Text()}, folder=folder.joinpath, taxonomy=TAXONOMY, shard_size=50)
    return {name: open_split(folder / name, {"text": Text()}, TAXONOMY) for name in SIZES}


def config(**changes):
    return ExpertConfig(
        **{
            "model": "tiny",
            "tune": "head",
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "report_to": [],
            **changes,
        }
    )


def fit(splits, folder, settings, *, rows=None, **callbacks):
    data = ExpertData("text", Text(), splits, "kind", LABEL, rows)
    files = ExpertFiles(folder / "expert", folder / "checkpoints", partial(path_of, folder))
    return fit_expert(settings, data, files, seed=0, **callbacks)


def path_of(folder, split):
    return folder / "evidence" / f"{split}.safetensors"


def evidence(encoder, splits, name, folder, **changes):
    return evidence_of(encoder, splits[name], "text", "kind", LABEL, path_of(folder, name), **changes)


@pytest.fixture(scope="module")
def frozen(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen")
    return fit(splits, folder, config()), folder


@pytest.fixture(scope="module")
def tuned(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    rows = [i for i in range(SIZES["train"]) if i < 40]
    return fit(splits, folder, config(tune="full"), rows=rows), folder


def test_rows_without_part_or_label_or_leave_are_not_learned_from(frozen, tuned):
    assert frozen[0].counts["train"] == {"used": 58, "absent": 1, "unlabelled": 1, "aside": 0}
    assert tuned[0].counts["train"] == {"used": 38, "absent": 1, "unlabelled": 1, "aside": 20}
    assert tuned[0].counts["val"] == {"used": 22, "absent": 1, "unlabelled": 1, "aside": 0}
    learned = {f"train-{i}" for i in range(40)} - {f"train-{ABSENT}", f"train-{UNANNOTATED}"}
    assert tuned[0].encoder.learned_from == learned


def test_history_has_train_and_val_figures(frozen, tuned):
    keys = {f"{split}_{name}" for split in ("train", "val") for name in ("loss", "accuracy", "macro_f1")}
    for fitted, _ in (frozen, tuned):
        assert all(keys <= set(row) for row in fitted.history)
    assert len(tuned[0].history) == 2


def test_a_frozen_encoder_runs_once_per_example(splits, tmp_path):
    told, progress = [], []
    fitted = fit(
        splits,
        tmp_path,
        config(),
        on_epoch=lambda _, row: told.append(row),
        progress=lambda *step: progress.append(step),
    )
    present = {name: size - 1 for name, size in SIZES.items()}
    assert fitted.encoder.examples_encoded == present["train"] + present["val"]
    for _ in range(2):
        for name in SIZES:
            evidence(fitted.encoder, splits, name, tmp_path)
    assert fitted.encoder.examples_encoded == sum(present.values())
    assert told == fitted.history
    assert progress[-1] == (present["val"], present["val"])


def test_absent_parts_are_zero_and_marked(frozen, splits):
    fitted, folder = frozen
    said = evidence(fitted.encoder, splits, "test", folder)
    assert said.present.tolist() == [i != ABSENT for i in range(SIZES["test"])]
    assert said.ids == splits["test"].ids
    assert said.groups == splits["test"].groups
    assert said.labels.tolist() == splits["test"].classes("kind", LABEL)
    assert not said.features[ABSENT].any()
    assert not said.logits[ABSENT].any()
    present = [i for i in range(SIZES["test"]) if i != ABSENT]
    direct = fitted.encoder.encode(splits["test"].take(present).values("text"))
    torch.testing.assert_close(said.features[present], direct["features"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(said.logits[present], direct["logits"], atol=1e-4, rtol=1e-4)
    assert not said.seen.any()


def test_logits_a_frozen_expert_gives_of_its_training_rows_are_cross_fitted(frozen, splits):
    fitted, folder = frozen
    said = evidence(fitted.encoder, splits, "train", folder, folds=3, seed=1)
    learned = [i for i in range(SIZES["train"]) if i not in (ABSENT, UNANNOTATED)]
    encoded = {"features": said.features[learned]}
    groups = [said.groups[i] for i in learned]
    expected = fitted.encoder.cross_fit(encoded, said.labels[learned], groups, folds=3, seed=1)
    assert torch.equal(said.logits[learned], expected)
    deployed = fitted.encoder.head_logits({"features": said.features})
    assert not torch.allclose(said.logits[learned], deployed[learned], atol=1e-2)
    assert torch.equal(said.logits[UNANNOTATED], deployed[UNANNOTATED])
    assert not said.seen.any()
    again = evidence(load_expert(folder / "expert"), splits, "train", folder, folds=3, seed=1)
    assert torch.equal(again.logits, said.logits)


def test_rows_a_fine_tuned_expert_learned_from_are_marked(tuned, splits):
    fitted, folder = tuned
    for encoder in (fitted.encoder, load_expert(folder / "expert")):
        said = evidence(encoder, splits, "train", folder)
        assert {said.ids[i] for i in said.seen.nonzero().flatten().tolist()} == fitted.encoder.learned_from
        assert not evidence(encoder, splits, "val", folder).seen.any()


def test_the_cache_is_read_by_outsiders(frozen, splits):
    fitted, folder = frozen
    said = evidence(fitted.encoder, splits, "test", folder)
    tensors = load_file(path_of(folder, "test"))
    assert set(tensors) == {"features", "logits", "present", "labels", "seen"}
    assert torch.equal(tensors["features"], said.features)
    with safe_open(path_of(folder, "test"), "pt") as f:
        metadata = f.metadata()
    assert metadata["encoder"] == fitted.encoder.fingerprint()
    assert metadata["split"] == splits["test"].fingerprint
    assert '"test-0"' in metadata["ids"]


def test_a_new_head_needs_no_pass_and_new_weights_do(splits, tmp_path):
    encoder = fit(splits, tmp_path, config()).encoder
    before = evidence(encoder, splits, "test", tmp_path)
    count = encoder.examples_encoded
    with torch.no_grad():
        encoder.classifier.head.bias += 1
    shifted = evidence(encoder, splits, "test", tmp_path)
    assert encoder.examples_encoded == count
    torch.testing.assert_close(shifted.logits[0], before.logits[0] + 1, atol=1e-3, rtol=0)
    with torch.no_grad():
        next(encoder.classifier.encoder.parameters()).mul_(1.5)
    moved = evidence(encoder, splits, "test", tmp_path)
    assert encoder.examples_encoded == count + SIZES["test"] - 1
    assert not torch.allclose(moved.features, before.features)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other split"])
def test_a_damaged_or_foreign_cache_is_written_anew(splits, tmp_path, damage):
    encoder = HfText.create(config(), LABEL.classes, 0, splits["train"].take([0, 1, 2]).values("text"))
    good = evidence(encoder, splits, "test", tmp_path)
    path = path_of(tmp_path, "test")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-30])
    elif damage == "flipped":
        content[-30] ^= 1
        path.write_bytes(content)
    else:
        evidence_of(encoder, splits["val"], "text", "kind", LABEL, path)
    again = evidence(encoder, splits, "test", tmp_path)
    assert torch.equal(again.features, good.features)
    assert torch.equal(load_file(path)["features"], good.features)


def test_mean_pooling_keeps_what_the_auto_head_reads(splits, tmp_path):
    encoder = fit(splits, tmp_path, config(pooling="mean")).encoder
    evidence(encoder, splits, "train", tmp_path)
    assert "auto_features" in load_file(path_of(tmp_path, "train"))
    assert encoder.examples_encoded == SIZES["train"] + SIZES["val"] - 2


class Killed(Exception):
    pass


def kill(_, row):
    if row["epoch"] == 2:
        raise Killed


@pytest.mark.parametrize("changed", [False, True])
def test_only_a_training_of_the_same_inputs_is_taken_up(splits, tmp_path, changed):
    settings = config(tune="full")
    with pytest.raises(Killed):
        fit(splits, tmp_path, settings, on_epoch=kill)
    assert list((tmp_path / "checkpoints").glob("checkpoint-*"))
    told = []
    rows = range(50) if changed else None
    fit(splits, tmp_path, settings, on_epoch=lambda _, row: told.append(row), rows=rows)
    assert [row["epoch"] for row in told] == ([1, 2] if changed else [2])
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


def test_a_split_of_one_class_is_named(splits, tmp_path):
    with pytest.raises(DataError, match=r"split 'train' has 28 usable rows .* all of class 0; .* two classes"):
        fit(splits, tmp_path, config(), rows=range(0, 56, 2))
    with pytest.raises(DataError, match=r"split 'val' has 0 usable rows .* none at all"):
        fit({**splits, "val": splits["val"].take([ABSENT])}, tmp_path, config())


def test_without_val_an_expert_learns_all_the_same(splits, tmp_path):
    fitted = fit({"train": splits["train"]}, tmp_path, config())
    assert set(fitted.counts) == {"train"}
    assert "val_loss" not in fitted.history[-1]


def test_an_encoder_of_another_modality_is_refused(splits, tmp_path):
    with pytest.raises(ConfigError, match=r"experts\.text\.encoder = 'hf_image' reads image, not text"):
        fit(splits, tmp_path, config(encoder="hf_image"))


def test_a_folder_that_is_no_expert_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no expert saved by Bifocal"):
        load_expert(tmp_path)


def test_of_two_encoders_the_one_of_less_cross_fitted_loss_is_kept_and_ran_once(splits, tmp_path):
    options = {"tfidf_text": {"components": 8}}
    told = []
    fitted = fit(
        splits, tmp_path, config(encoder="auto", options=options), on_epoch=lambda name, row: told.append((name, row))
    )
    assert set(fitted.tried) == {"hf_text", "tfidf_text"} == {name for name, _ in told}
    assert fitted.tried_on == "train"
    taken = fitted.encoder.plugin
    assert fitted.tried[taken] < min(fitted.tried.values()) + 0.2
    assert dict(told)[taken] == fitted.history[-1]
    assert type(load_expert(tmp_path / "expert")) is type(fitted.encoder)
    assert sorted(p.name for p in (tmp_path / "evidence").iterdir()) == ["train.safetensors", "val.safetensors"]
    for name in ("train", "val"):
        evidence(fitted.encoder, splits, name, tmp_path)
    assert fitted.encoder.examples_encoded == SIZES["train"] + SIZES["val"] - 2  # one row of each lacks the part
    again = fit(splits, tmp_path, config(encoder="auto", options=options))  # stopped before the run noted it
    assert (again.tried, again.tried_on) == (fitted.tried, "train") and again.history == fitted.history


def test_a_note_of_an_earlier_version_is_taken_up_unless_it_chose_otherwise(splits, tmp_path):
    chosen = config(encoder="tfidf_text", options={"components": 8})
    fitted = fit(splits, tmp_path, chosen)
    (note,) = tmp_path.rglob(FINISHED)
    found = read_json(note)
    found.pop("tried_on")
    write_json(note, found)
    again = fit(splits, tmp_path, chosen)
    assert again.tried_on == "val" and again.seconds == fitted.seconds
    write_json(note, {**found, "tried": {"tfidf_text": 0.9, "hf_text": 0.8}})
    assert fit(splits, tmp_path, chosen).seconds != fitted.seconds


def test_without_a_val_split_the_first_encoder_is_taken_untried(splits, tmp_path):
    fitted = fit({"train": splits["train"]}, tmp_path, config(encoder="auto"))
    assert fitted.tried == {} and fitted.encoder.plugin == "hf_text"


def test_an_encoder_refuses_a_tune_that_it_lacks(splits, tmp_path):
    with pytest.raises(ConfigError, match="tfidf_text has no tune: lora; it takes head"):
        fit(splits, tmp_path, config(encoder="tfidf_text", tune="lora"))


def test_where_no_encoder_reads_a_modality_auto_says_so():
    with pytest.raises(ConfigError, match="no encoder that comes with Bifocal reads smell: name one in experts.smell"):
        candidates(ExpertConfig(encoder="auto"), "smell", Text())


def test_evidence_is_gathered_in_pieces_and_is_the_same(frozen, splits, tmp_path, monkeypatch):
    fitted, _ = frozen
    whole = evidence(fitted.encoder, splits, "train", tmp_path / "whole")
    monkeypatch.setattr(evidence_room, "ENCODED_AT_ONCE", 7)
    told = []
    pieces = evidence(
        fitted.encoder, splits, "train", tmp_path / "pieces", progress=lambda done, total: told.append((done, total))
    )
    torch.testing.assert_close(pieces.features, whole.features, atol=1e-5, rtol=1e-4)
    assert told == sorted(told) and told[-1] == (SIZES["train"] - 1, SIZES["train"] - 1)


def test_an_expert_that_was_altered_before_its_step_was_noted_is_trained_again(splits, tmp_path):
    fit(splits, tmp_path, config())
    weights = tmp_path / "expert" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    told = []
    fit(splits, tmp_path, config(), on_epoch=lambda _, row: told.append(row))
    assert told and weights.read_bytes() == whole


def test_a_long_text_runs_once_per_window_and_is_judged_by_a_window_that_its_head_chooses(tmp_path):
    rng = random.Random(1)

    def posts():
        for split, size in (("train", 120), ("val", 40), ("test", 20)):
            for i in range(size):
                y, k = i % 2, 1 if i % 4 < 2 else 8
                words = [rng.choices(FILLER, k=12) for _ in range(k)]
                words[rng.randrange(k)][3] = rng.choice(CUES[1] if y else CUES[0])
                text = compose("", " ".join(word for part in words for word in part), "en")
                yield Example(f"{split}-{i}", {"text": text}, {"kind": y}, group=f"{split}-{i}", split=split)

    pack(posts(), None, {"text": Text()}, folder=(tmp_path / "shards").joinpath, taxonomy=TAXONOMY, shard_size=50)
    splits = {name: open_split(tmp_path / "shards" / name, {"text": Text()}, TAXONOMY) for name in SIZES}
    fitted = fit(splits, tmp_path, config(options={"max_length": 48}))
    encoder = fitted.encoder
    windows = {name: [len(encoder.windows(v).texts) for v in split.values("text")] for name, split in splits.items()}
    assert {1, max(windows["test"])} == set(windows["test"]) and max(windows["test"]) > 2
    assert encoder.examples_encoded == sum(windows["train"]) + sum(windows["val"])
    assert encoder.window_offsets[0] == 0 and len(encoder.window_offsets) == 8
    said = {name: evidence(encoder, splits, name, tmp_path) for name in SIZES}
    once = encoder.examples_encoded
    assert once == sum(map(sum, windows.values()))
    test = splits["test"].values("text")
    direct = encoder.encode(list(test))
    for name in ("features", "logits"):
        torch.testing.assert_close(getattr(said["test"], name), direct[name], atol=1e-4, rtol=1e-4)
    for row, count in enumerate(windows["test"]):
        alone = encoder.encode(encoder.windows(test[row]).texts)
        odds = alone["logits"][:, 1] - alone["logits"][:, 0]
        best = odds.argmax()
        torch.testing.assert_close(said["test"].features[row], alone["features"][best], atol=1e-4, rtol=1e-4)
        found = said["test"].logits[row, 1] - said["test"].logits[row, 0]
        assert float(found) == pytest.approx(float(odds[best]) - encoder.window_offsets[count - 1], abs=1e-3)
    again = evidence(encoder, splits, "train", tmp_path)  # from the cache
    assert torch.equal(again.features, said["train"].features) and torch.equal(again.logits, said["train"].logits)
