import csv
import json
import re
import shutil
import tarfile

import pytest
import torch

import bifocal
from bifocal.assess.run_data import RunData
from bifocal.config import FusionConfig, parse_config
from bifocal.contracts import Reporter
from bifocal.decide.policy import Policy
from bifocal.errors import ConfigError, DataError, ModelError, RunError, UnknownPlugin
from bifocal.pipeline import train
from bifocal.pipeline.context import Context
from bifocal.pipeline.steps import experts
from bifocal.pipeline.steps.fusion import fusion_of
from bifocal.pipeline.train import STEPS, run
from bifocal.transcribe.ocr import Reading
from bifocal.workspace import Workspace, file_sha256, read_json, read_jsonl


class Diary(Reporter):
    def __init__(self):
        self.performed, self.skipped, self.notes, self.epochs = [], [], [], []

    def step(self, name, skipped):
        (self.skipped if skipped else self.performed).append(name)

    def note(self, text):
        self.notes.append(text)

    def epoch(self, model, figures):
        self.epochs.append((model, dict(figures)))


@pytest.fixture
def space(small_run):
    return Workspace.of(small_run)


def small(small_config, **changes):
    return parse_config({**small_config, **changes})


@pytest.fixture
def begun(small_run, tmp_path):
    """A folder of runs with a copy of the small one: another setting does again what it touches, and no more."""
    shutil.copytree(small_run, tmp_path / "small")
    return tmp_path


def test_every_artifact_of_the_contract_is_there(space):
    names = ["data_manifest.jsonl", "ocr.jsonl", "quarantine.jsonl", "label_taxonomy.json", "splits.json", "run.json"]
    names += ["results_small.json", "calibration_small.json", "thresholds_small.json", "errors_small.csv"]
    names += ["slices_small.csv"]
    names += [f"thresholds_curve_{m}_small.csv" for m in ("text_expert", "vision_expert", "mm_fusion")]
    names += [f"models/{m}/config.json" for m in ("text_expert", "vision_expert", "mm_fusion")]
    names += [
        f"evidence/{m}/{s}.safetensors" for m in ("text_expert", "vision_expert") for s in ("train", "val", "test")
    ]
    names += [f"shards/{s}/shard-000000.tar" for s in ("train", "val", "test")]
    names += ["policy_small.json", "reference_small.json", "models/mm_fusion/fusion_model.pt", "report/index.html"]
    assert [n for n in names if not (space.folder / n).is_file()] == []


def test_the_manifest_the_splits_and_the_shards_agree(space):
    manifest = {row["id"] for row in read_jsonl(space.manifest)}
    splits = read_json(space.splits)
    assert set(splits) == manifest and len(manifest) == 160
    counts = read_json(space.record)["steps"]["shards"]["rows"]
    assert counts == {s: sum(v == s for v in splits.values()) for s in ("train", "val", "test")}


def test_results_have_the_schema(space):
    results = read_json(space.results)
    assert results["run"] == "small" and results["label"] == "abuse_hate" and results["in_sample"] is False
    assert results["ece"] == {"bins": 15, "kind": "equal width"}
    assert list(results["models"]) == ["text_expert", "vision_expert", "mm_fusion", "majority"]
    names = {"auroc", "macro_f1", "accuracy", "auprc", "brier", "nll"}
    names |= {"ece_top_label", "ece_top_label_debiased", "ece_positive", "ece_positive_debiased"}
    for model, figures in results["models"].items():
        assert set(figures["parameters"]) == {"total", "trained"}
        for split in ("train", "val", "test"):
            measured = figures[split]
            assert set(measured["metrics"]) == names and measured["n"] > 0
            assert set(measured["metrics"]["auroc"]) == {"value", "low", "high"}
            if model != "majority":
                assert set(measured["calibrated"]) == names
                assert sum(measured["confusion"].values()) == measured["n"]
    assert set(results["gain"]) >= {"over", "metric", "value", "low", "high", "detectable"}
    assert results["models"]["mm_fusion"]["seeds"]["n"] == 2


def test_thresholds_and_calibration_have_exactly_their_form(space):
    models = {"text_expert", "vision_expert", "mm_fusion"}
    thresholds = read_json(space.thresholds)
    assert set(thresholds) == models
    for entry in thresholds.values():
        assert list(entry) == ["abuse_hate"] and 0.1 <= entry["abuse_hate"] <= 0.9
    for entry in read_json(space.calibration).values():
        assert entry["abuse_hate"]["method"] == "temperature" and entry["abuse_hate"]["temperature"] > 0
        assert "patterns" in entry["abuse_hate"]


def test_the_error_table_agrees_with_the_results(space):
    with open(space.errors, newline="") as f:
        rows = list(csv.DictReader(f))
    header = "index,id,split,text,abuse_hate,text_prob,text_pred,vision_prob,vision_pred,fusion_prob,fusion_pred"
    assert ",".join(rows[0]) == header + ",error_type,all_agree,fusion_only_right"
    confusion = read_json(space.results)["models"]["mm_fusion"]["test"]["confusion"]
    assert {k.lower(): sum(r["error_type"] == k for r in rows) for k in ("TP", "FP", "FN", "TN")} == confusion
    assert {r["split"] for r in rows} == {"test"}


def test_the_record_says_what_was_kept_aside_and_what_it_ran_with(space):
    record = read_json(space.record)
    splits = read_json(space.splits)
    assert record["fuse"]["n"] == len(record["fuse"]["ids"]) > 0
    assert {splits[i] for i in record["fuse"]["ids"]} == {"train"}
    assert record["config"]["label"] == "abuse_hate" and record["seed"] == 0
    assert "torch" in record["versions"]
    assert set(record["steps"]) == set(STEPS)
    for path, digest in record["steps"]["shards"]["sha256"].items():
        assert file_sha256(space.folder / path) == digest
    epoch = record["steps"]["experts"]["history"]["text_expert"][0]
    assert {"epoch", "train_loss", "train_accuracy", "train_macro_f1", "val_loss", "val_macro_f1"} <= set(epoch)


def test_the_fusion_learned_from_rows_that_no_expert_saw(space):
    """The rows kept aside are unseen in the Evidence, and they are all that the fusion was given."""
    from safetensors.numpy import load_file

    record = read_json(space.record)
    for expert in ("text_expert", "vision_expert"):
        seen = load_file(space.evidence(expert, "train"))["seen"]
        assert (~seen.astype(bool)).sum() > 0
    assert record["steps"]["fusion"]["rows"] == record["fuse"]["n"]


def test_a_run_opened_by_its_folder_fits_the_fusion_that_it_saved_and_writes_nothing(space):
    opened = RunData.of(space.folder)
    assert [len(e) for e in opened.fusion_rows.values()] == [read_json(space.record)["fuse"]["n"]] * 2
    before = {path: path.stat().st_mtime_ns for path in space.folder.rglob("*")}
    tested = opened.evidence_of("test")
    assert torch.equal(fusion_of(opened, opened.config.fusion)(tested), opened.fused(tested))
    other = fusion_of(opened, FusionConfig(strategy="stacking"))(tested)
    assert other.shape == opened.fused(tested).shape and not torch.equal(other, opened.fused(tested))
    assert {path: path.stat().st_mtime_ns for path in space.folder.rglob("*")} == before
    with pytest.raises(RunError, match="not a run folder"):
        RunData.of(space.folder / "models")


def test_a_second_run_skips_everything(small_config, small_run, tmp_path):
    diary = Diary()
    shutil.copytree(small_run, tmp_path / "small")
    run(small(small_config), root=tmp_path, reporter=diary)
    assert diary.performed == [] and diary.skipped == list(STEPS)


def test_a_change_redoes_what_depends_on_it(small_config, tmp_path):
    config = small(small_config, source={"kind": "synthetic", "size": 40})
    run(config, root=tmp_path, until="shards")
    diary = Diary()
    run(config.model_copy(update={"shard_size": 7}), root=tmp_path, until="shards", reporter=diary)
    assert diary.skipped == ["manifest", "ocr", "splits"] and diary.performed == ["shards"]
    assert len(list((tmp_path / "small/shards/train").glob("*.tar"))) > 1
    diary = Diary()
    run(config.model_copy(update={"shard_size": 7}), root=tmp_path, start="ocr", until="ocr", reporter=diary)
    assert diary.performed == ["ocr"]
    assert not (tmp_path / "small" / "results_small.json").exists()


def test_pictures_that_could_not_be_read_are_told_marked_and_the_run_stays_finished(
    small_config, tmp_path, monkeypatch
):
    unread = Reading("", [], None, "rapidocr", unread=3)  # OCR that sees lines on every picture, and reads none
    monkeypatch.setattr("bifocal.transcribe.ocr.Ocr.read", lambda ocr, picture: unread)
    config = small(small_config, source={"kind": "synthetic", "size": 40}, ocr={"when": "always", "workers": 1})
    diary = Diary()
    space = Workspace.of(run(config, root=tmp_path, until="shards", reporter=diary))
    assert any(
        note.startswith("on 40 of 40 pictures half or more of the lines could not be read") for note in diary.notes
    )
    assert read_json(space.record)["steps"]["ocr"]["unread"] == 40
    assert all(row["meta"]["unread"] is True for row in read_jsonl(space.manifest))
    assert all(row["meta"]["unread"] is True for row in _packed_rows(space))
    again = Diary()
    run(config, root=tmp_path, until="shards", reporter=again)
    assert again.performed == []
    (tmp_path / "other").mkdir()
    other = config.model_copy(update={"run": "other"})
    run(other, root=tmp_path, until="ocr", reporter=again)
    assert read_json(Workspace(tmp_path / "other", "other").record)["steps"]["ocr"]["cached"] == 40


def _packed_rows(space):
    for path in space.shards("train").glob("*.tar"):
        with tarfile.open(path) as tar:
            yield from (json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json"))


def test_a_language_that_nothing_here_reads_is_refused_before_the_work(small_config, tmp_path):
    config = small(small_config, ocr={"when": "auto", "languages": ["he"]})
    with pytest.raises(ConfigError, match="RapidOCR has no model that reads 'he'"):
        run(config, root=tmp_path, until="ocr")
    assert not (tmp_path / "small" / "data_manifest.jsonl").exists()


def test_a_policy_sends_unread_posts_to_review_and_older_ones_keep_their_version(space):
    policy = Policy.load(space.policy)
    assert policy.unread is None
    assert "unread" not in policy.model_dump(exclude_defaults=True)
    assert policy.model_copy(update={"unread": "review"}).version != policy.version


def test_evaluating_anew_never_makes_a_finished_run_anew(small_config, small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "small")
    before = (tmp_path / "small" / "run.json").read_bytes()
    changed = small(small_config, limit=12, seed=3)
    with pytest.raises(ConfigError, match=r"made otherwise \(limit = 12 .*seed = 3.*\): manifest, ") as error:
        run(changed, root=tmp_path, start="calibrate")
    assert "bifocal run" in str(error.value)
    assert (tmp_path / "small" / "run.json").read_bytes() == before
    run(small(small_config, bootstrap=150), root=tmp_path, start="calibrate", until="calibrate")
    run(small(small_config, run="another"), root=tmp_path, start="splits", until="splits")


def test_settings_are_compared_with_those_of_the_run_as_its_lock_finds_it(small_config, small_run, tmp_path):
    context = Context.of(small(small_config, limit=12), Workspace(tmp_path / "small", "small"), Reporter())
    shutil.copytree(small_run, tmp_path / "small")  # as another process made it meanwhile
    with pytest.raises(
        ConfigError, match="was made otherwise.*under another name, `bifocal run CONFIG --set run=small-2`"
    ):
        train.execute(context, "calibrate", None)
    with context.space.lock(), pytest.raises(RunError, match="is in use"):
        run(context.config, root=tmp_path, start="calibrate")


CHANGES = {
    "manifest": [{"label": "offensive"}, {"limit": 30}, {"source": {"kind": "synthetic", "size": 39}}],
    "ocr": [{"ocr": "always"}, {"modalities": ["text"]}, {"ocr": {"when": "never", "languages": ["en"]}}],
    "splits": [{"splits": {"val": 0.3}}, {"leakage": "drop"}, {"seed": 3}],
    "shards": [{"fit": "crop"}, {"shard_size": 5}],
    "experts": [{"experts": {"text": {"model": "tiny", "epochs": 9}}}, {"fusion": {"holdout": 0.3}}],
    "evidence": [{"fusion": {"folds": 7}}],
    "fusion": [{"fusion": {"strategy": "mean"}}, {"fusion": {"seeds": 3}}, {"fusion": {"read": {"text": "logits"}}}],
    "evaluate": [{"bootstrap": 200}],
    None: [{"strict": True}, {"ocr": {"when": "never", "workers": 1, "cache": False}}],
}


@pytest.mark.parametrize(
    ("step", "change"), [(step, change) for step, changes in CHANGES.items() for change in changes]
)
def test_a_setting_changes_the_keys_of_its_step_and_all_after_it(small_config, tmp_path, step, change):
    base = {**small_config, "fusion": {}, "experts": {}}

    def keys(content):
        config = parse_config(content)
        return train.keys(Context.of(config, Workspace(tmp_path, "small"), Reporter()))

    before, after = keys(base), keys({**base, **change})
    changed = [name for name in STEPS if before[name] != after[name]]
    assert changed == (list(STEPS)[list(STEPS).index(step) :] if step else [])


def test_other_weights_in_a_local_model_folder_are_noticed(small_config, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"one")
    config = small(small_config, experts={"text": {"model": str(folder)}})
    story = Context.of(config, Workspace(tmp_path, "small"), Reporter())
    before = train.keys(story)
    (folder / "model.safetensors").write_bytes(b"other")
    after = train.keys(story)
    assert after["shards"] == before["shards"] and after["experts"] != before["experts"]


def test_a_changed_run_leaves_nothing_of_the_old_one_and_is_not_served_half_done(small_config, small_run, tmp_path):
    import bifocal

    shutil.copytree(small_run, tmp_path / "small")
    config = small(small_config, modalities=["text"], experts={"text": small_config["experts"]["text"]})
    run(config, root=tmp_path, until="manifest")
    assert bifocal.load(tmp_path / "small").predict(text="words").models.keys() == {"text_expert", "mm_fusion"}
    config = config.model_copy(update={"label": "cue_pair"})
    run(config, root=tmp_path, until="splits")
    with pytest.raises(RunError, match="was changed since its policy was fitted"):
        bifocal.load(tmp_path / "small")
    assert not list((tmp_path / "small").glob("results_*")) and not list((tmp_path / "small").glob("policy_*"))
    folder = run(config, root=tmp_path)
    assert sorted(p.name for p in (folder / "models").iterdir()) == ["text_expert"]
    assert sorted(p.name for p in (folder / "evidence").iterdir()) == ["text_expert"]
    assert not list(folder.glob("thresholds_curve_*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fusion": {"strategy": "conact"}}, "did you mean 'concat'"),
        ({"fusion": {"options": {"epocs": 3}}}, "did you mean 'epochs'"),
        ({"experts": {"text": {"model": "tiny", "encoder": "hf_image"}}}, "reads image, not text"),
        ({"experts": {"text": {"model": "tiny", "options": {"max_lenght": 3}}}}, "did you mean 'max_length'"),
    ],
)
def test_what_would_fail_after_training_is_refused_before_it(small_config, tmp_path, change, message):
    with pytest.raises((ConfigError, UnknownPlugin), match=message):
        run(small(small_config, **change), root=tmp_path)
    assert not (tmp_path / "small" / "run.json").exists()


def test_strict_asks_again_only_where_rows_were_rejected(small_config, tmp_path):
    config = small(small_config, source={"kind": "synthetic", "size": 40})
    run(config, root=tmp_path, until="manifest")
    diary = Diary()
    run(config.model_copy(update={"strict": True}), root=tmp_path, until="manifest", reporter=diary)
    assert diary.skipped == ["manifest"]
    record = tmp_path / "small" / "run.json"
    content = json.loads(record.read_text())
    content["steps"]["manifest"]["quarantined"] = 1
    record.write_text(json.dumps(content))
    diary = Diary()
    run(config.model_copy(update={"strict": True}), root=tmp_path, until="manifest", reporter=diary)
    assert diary.performed == ["manifest"]


def test_an_expert_that_was_finished_before_a_kill_is_not_trained_again(small_config, tmp_path, monkeypatch):
    real = experts.fit_expert
    trained = []

    def killed_at_the_second(config, data, *rest, **options):
        if data.modality_name == "image" and "image" not in trained:
            trained.append(data.modality_name)
            raise KeyboardInterrupt
        return real(config, data, *rest, **options)

    monkeypatch.setattr(experts, "fit_expert", killed_at_the_second)
    config = small(small_config, source={"kind": "synthetic", "size": 60})
    with pytest.raises(KeyboardInterrupt):
        run(config, root=tmp_path)
    diary = Diary()
    run(config, root=tmp_path, reporter=diary)
    assert {model for model, _ in diary.epochs} == {"vision_expert"}
    history = read_json(tmp_path / "small" / "run.json")["steps"]["experts"]["history"]
    assert set(history) == {"text_expert", "vision_expert"}
    diary = Diary()
    run(config, root=tmp_path, start="experts", until="experts", reporter=diary)
    assert {model for model, _ in diary.epochs} == {"text_expert", "vision_expert"}


def test_a_run_without_val_is_marked_in_sample_everywhere(small_config, tmp_path):
    config = small(
        small_config, run="pilot", source={"kind": "synthetic", "size": 50}, splits={"val": 0, "test": 0}, limit=40
    )
    diary = Diary()
    folder = run(config, root=tmp_path, reporter=diary)
    assert any("in_sample" in note for note in diary.notes)
    for name in ("run.json", "results_pilot.json", "policy_pilot.json"):
        assert json.loads((folder / name).read_text())["in_sample"] is True
    assert "in_sample" not in (folder / "thresholds_pilot.json").read_text()
    assert sum(1 for _ in read_jsonl(folder / "data_manifest.jsonl")) == 40
    with open(folder / "errors_pilot.csv", newline="") as f:
        assert {row["split"] for row in csv.DictReader(f)} == {"train"}
    assert not (folder / "shards" / "val").exists()


def test_one_modality_needs_no_fusion(small_config, tmp_path):
    config = small(small_config, modalities=["text"], experts={"text": small_config["experts"]["text"]})
    folder = run(config, root=tmp_path)
    results = read_json(Workspace.of(folder).results)
    assert list(results["models"]) == ["text_expert", "majority"] and "gain" not in results
    assert not (folder / "models" / "mm_fusion").exists()
    import bifocal

    assert bifocal.load(folder).predict(text="a quiet morning").models.keys() == {"text_expert"}


def test_a_multiclass_label_goes_all_the_way(small_config, begun):
    folder = run(small(small_config, label="cue_pair"), root=begun)
    space = Workspace.of(folder)
    assert set(read_json(space.thresholds)["mm_fusion"].values()) == {None}
    assert read_json(space.results)["gain"]["metric"] == "macro_f1"
    with open(space.errors, newline="") as f:
        assert {row["error_type"] for row in csv.DictReader(f)} <= {"right", "wrong"}
    import bifocal

    decision = bifocal.load(folder).predict(text="a quiet morning").to_dict()
    assert decision["label"] in ("neither", "text", "image", "both") and 0 <= decision["prob"] <= 1


def test_a_line_between_two_classes_is_not_drawn_through_four(small_config, tmp_path):
    for rule in ({"threshold": {"per_class": True}}, {"review": {"alpha": 0.1}}):
        with pytest.raises(ConfigError, match="is for several classes, and abuse_hate has two"):
            run(small(small_config, decide=rule), root=tmp_path)
    for rule in ({"threshold": {"by": "precision", "bound": 0.9}}, {"review": {"fnr": 0.1}}):
        with pytest.raises(ConfigError, match="draws a line between two classes, and cue_pair has 4"):
            run(small(small_config, label="cue_pair", decide=rule), root=tmp_path)


def test_another_rule_moves_the_policy_and_not_the_thresholds_file(small_config, begun):
    best = read_json(Workspace.of(begun / "small").thresholds)
    rule = {"on": "val", "threshold": {"by": "capacity", "bound": 0.2}, "review": {"fnr": 0.3, "fpr": 0.3}}
    space = Workspace.of(run(small(small_config, decide=rule), root=begun))
    policy = read_json(space.policy)
    assert read_json(space.thresholds) == best
    assert policy["rule"]["by"] == "capacity" and policy["expected"]["flagged"]["value"] < 0.4
    threshold = policy["models"]["mm_fusion"]["threshold"]
    results = read_json(space.results)
    assert results["models"]["mm_fusion"]["threshold"] == threshold != best["mm_fusion"]
    assert set(results["actions"]) == {"allow", "review", "block"}
    assert (
        sum(sum(counts.values()) for counts in results["actions"].values())
        == results["models"]["mm_fusion"]["test"]["n"]
    )
    import bifocal

    band = policy["models"]["mm_fusion"]["band"]
    decision = bifocal.load(space.folder).predict(text="a quiet morning")
    limit = band["block_from"] if decision.label else band["allow_below"]
    sure = decision.probability >= limit if decision.label else decision.probability < limit
    assert (decision.action != "review") == sure == ("review band" not in decision.why)


def test_frozen_experts_are_cross_fitted_and_keep_nothing_aside(small_config, begun):
    experts = {m: {**e, "tune": "head"} for m, e in small_config["experts"].items()}
    space = Workspace.of(run(small(small_config, experts=experts, fusion={"strategy": "stacking"}), root=begun))
    record = read_json(space.record)
    assert record["fuse"] is None
    assert record["steps"]["fusion"]["rows"] == record["steps"]["shards"]["rows"]["train"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "expert"}, "did you mean 'experts'"),
        ({"until": "nothing"}, "there is no step"),
        ({"start": "fusion", "until": "ocr"}, "comes after"),
    ],
)
def test_a_step_that_is_not_there_is_refused(small_config, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        run(small(small_config), root=tmp_path, **options)


def test_an_unknown_label_is_refused_before_anything_is_written(small_config, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'abuse_hate'"):
        run(small(small_config, label="abuse_hat"), root=tmp_path)
    assert not (tmp_path / "small").exists()


def test_too_many_bad_rows_stop_the_run_and_are_kept(small_config, tmp_path):
    root = tmp_path / "memes"
    (root / "img").mkdir(parents=True)
    rows = [{"id": str(i), "img": f"img/{i}.png", "label": i % 2, "text": f"words number {i}"} for i in range(40)]
    (root / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = small(small_config, source={"kind": "hateful_memes", "root": str(root)})
    with pytest.raises(DataError, match="quarantine"):
        run(config, root=tmp_path)
    assert sum(1 for _ in read_jsonl(tmp_path / "small" / "quarantine.jsonl")) == 40


def test_a_second_process_in_the_same_folder_stops(small_config, tmp_path):
    config = small(small_config)
    with Workspace(tmp_path / "small", "small").lock(), pytest.raises(RunError, match="in use by process"):
        run(config, root=tmp_path)


def test_text_and_records_go_all_the_way(records_run):
    space = Workspace.of(records_run)
    record, results = read_json(space.record), read_json(space.results)
    assert list(results["models"]) == ["text_expert", "tabular_expert", "mm_fusion", "majority"]
    assert results["models"]["tabular_expert"]["test"]["metrics"]["auroc"]["value"] > 0.7
    tried = record["steps"]["experts"]["tried"]["tabular_expert"]
    assert set(tried) == {"boosted_trees", "linear_tabular", "mlp_tabular"}
    card = read_json(space.expert("tabular_expert") / "bifocal.json")
    assert tried[card["encoder"]] < min(tried.values()) + 0.1  # the smallest that ties with the best
    assert not list(space.checkpoints.glob("**/checkpoint-*"))
    assert (
        "is the smallest of 3 that tie with the best, by loss on training rows, cross-fitted"
        in (space.report / "report.md").read_text()
    )


def test_the_label_is_above_the_median_of_train_and_shards_hold_the_class(records_run):
    space = Workspace.of(records_run)
    splits, taxonomy = read_json(space.splits), read_json(space.taxonomy)
    numbers = {row["id"]: row["labels"]["dear"] for row in read_jsonl(space.manifest)}
    train = sorted(numbers[i] for i, split in splits.items() if split == "train")
    middle = len(train) // 2
    assert taxonomy["dear"]["above"] == (train[middle] if len(train) % 2 else (train[middle - 1] + train[middle]) / 2)
    with open(space.errors, newline="") as f:
        for row in csv.DictReader(f):
            assert int(row["dear"]) == int(numbers[row["id"]] > taxonomy["dear"]["above"])


def test_the_label_and_the_group_are_never_fed(records_run):
    for row in read_jsonl(records_run / "data_manifest.jsonl"):
        assert set(row["parts"]["tabular"]) == {"price", "room", "opened"}


def test_an_option_of_an_encoder_that_is_not_among_the_candidates_is_refused(records_run, tmp_path):
    content = read_json(records_run / "run.json")["config"]
    content["experts"]["tabular"]["options"] = {"boosted_tree": {}}
    with pytest.raises(ConfigError, match="found 'boosted_tree'; did you mean 'boosted_trees'"):
        run(parse_config(content), root=tmp_path)


def test_a_model_that_is_not_there_is_found_before_the_first_step(small_config, tmp_path):
    experts = {**small_config["experts"], "image": {"model": str(tmp_path / "nowhere")}}
    config = small(small_config, experts=experts)
    diary = Diary()
    with pytest.raises(ModelError, match="there is no model folder"):
        run(config, root=tmp_path, reporter=diary)
    assert diary.performed == []
    run(small(small_config, experts=experts, source={"kind": "synthetic", "size": 20}), root=tmp_path, until="shards")


def test_how_columns_were_read_is_told_and_predict_and_score_read_by_it(tmp_path):
    lines = ["id,price,paid,opened,country,note,rude"]
    for i in range(150):
        price = "ask" if i in (7, 70) else f"{1000 + 10 * i + 0.5:,.2f} €".translate(str.maketrans(",.", ".,"))
        opened = f"{1 + i % 28:02d}/{1 + i % 12:02d}/2019"
        lines.append(
            f'{i},"{price}",{"yes" if i % 3 else "No"},{opened},Eriador,free {i},{int(i > 75) ^ (i % 10 == 0)}'
        )
    (tmp_path / "posts.csv").write_text("\n".join(lines), encoding="utf-8")
    source = {
        "kind": "table", "root": str(tmp_path / "posts.csv"), "id": "id", "labels": {"rude": "rude"},
        "tabular": ["price", "paid", "opened", "country", "note"],
    }  # fmt: skip
    expert = {"encoder": "linear_tabular"}
    content = {"run": "a", "label": "rude", "source": source, "modalities": ["tabular"], "experts": {"tabular": expert}}
    diary = Diary()
    folder = run(parse_config({**content, "decide": {"on": "val"}, "bootstrap": 100}), root=tmp_path, reporter=diary)
    told = "\n".join(diary.notes)
    assert re.search(
        r"column price: numbers; [12] of \d+ cells are none, taken as missing; written with a decimal comma", told
    )
    assert "column paid: yes or no" in told and "column opened: dates; written with the day first" in told
    assert "column country: categories; NOT READ: the same in every training row" in told
    assert re.search(r"column note: categories; NOT READ: no value stands in 5 training rows", told)
    assert "a calibration takes 20 tuning rows of each class" in told  # val has some 15 rows
    report = folder / "report"
    for text in ((report / "report.md").read_text(), (report / "index.html").read_text()):
        assert "column price: numbers" in text and "NOT READ" in text and "Not calibrated, for want of rows" in text
    assert read_json(Workspace.of(folder).calibration)["tabular_expert"]["rude"]["temperature"] == 1
    system = bifocal.load(folder)
    dear, cheap = (system.predict(tabular={"price": price}).probability for price in ("2.400,00 €", "1.050,00"))
    assert dear > 0.5 > cheap and dear == system.predict(tabular={"price": 2400}).probability
    with pytest.raises(DataError, match="'price' holds numbers, found '12.5'"):
        system.predict(tabular={"price": "12.5"})


def test_a_column_that_reads_two_ways_stops_the_run_before_other_experts_train(tmp_path):
    lines = ["id,words,price,rude", *(f'{i},word {i} of {i % 7},"1,{100 + i}",{i % 2}' for i in range(80))]
    (tmp_path / "posts.csv").write_text("\n".join(lines), encoding="utf-8")
    source = {
        "kind": "table", "root": str(tmp_path / "posts.csv"), "id": "id", "text": "words", "tabular": ["price"],
        "labels": {"rude": "rude"},
    }  # fmt: skip
    content = {"run": "a", "label": "rude", "source": source, "modalities": ["text", "tabular"]}
    diary = Diary()
    experts = {"text": {"encoder": "tfidf_text"}, "tabular": {"encoder": "auto"}}
    with pytest.raises(
        ConfigError, match=r"'price': '1,1\d\d' reads two ways.*experts.tabular.options.decimal: \{price"
    ):
        run(parse_config({**content, "experts": experts}), root=tmp_path, reporter=diary)
    assert not diary.epochs
    experts["tabular"]["options"] = {"decimal": {"price": "."}}  # for whichever encoder is taken
    run(parse_config({**content, "experts": experts}), root=tmp_path, until="experts")
