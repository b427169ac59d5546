"""Setting a threshold by hand keeps record and has figures measured again; comparing says which decisions change."""

import json
import shutil

import pytest
from typer.testing import CliRunner

import bifocal
from bifocal.assess.drift_reference import Reference
from bifocal.cli.app import app
from bifocal.config import ReviewConfig, ThresholdConfig, parse_config
from bifocal.contracts import Reporter
from bifocal.decide.policy import PatternPolicy, Policy
from bifocal.deploy.policies import compare, set_review, set_threshold
from bifocal.errors import DataError, RunError
from bifocal.pipeline.train import run
from bifocal.workspace import Workspace, read_json


@pytest.fixture
def space(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "runs" / small_run.name)
    return Workspace.of(tmp_path / "runs" / small_run.name)


def test_a_threshold_by_hand_holds_for_predict_and_for_the_next_report(space, small_config):
    before = Policy.load(space.policy)
    said = set_threshold(space.folder, None, 0.999, by="Ada", why="complaints")
    policy = Policy.load(space.policy)
    assert said["policy"] == policy.version and policy.changes[0].why == "complaints"
    assert Policy.load(space.policies / f"{before.version}.json") == before
    assert Policy.load(space.policies / f"{policy.version}.json") == policy
    decision = bifocal.load(space.folder).predict(text="a quiet morning")
    assert (decision.threshold, decision.label, decision.versions["policy"]) == (0.999, 0, policy.version)

    run(parse_config(small_config), root=space.folder.parent)  # measures, and fits nothing
    assert Policy.load(space.policy) == policy
    results = read_json(space.results)
    assert results["models"]["mm_fusion"]["threshold"] == 0.999
    assert results["models"]["mm_fusion"]["test"]["confusion"]["tp"] == 0


def test_a_new_fit_says_that_it_replaces_what_was_set_by_hand(space, small_config):
    said = set_threshold(space.folder, None, 0.999, by="Ada", why="complaints")

    notes: list[str] = []
    reporter = Reporter()
    reporter.note = notes.append
    run(parse_config(small_config), root=space.folder.parent, start="calibrate", reporter=reporter)
    assert any(note.startswith("kept in") and note.endswith("changed by hand, 1 in all") for note in notes)
    assert not Policy.load(space.policy).changes
    assert (space.policies / f"{said['policy']}.json").is_file()


def test_a_comparison_counts_what_would_change(space):
    old = Policy.load(space.policy)
    set_threshold(space.folder, None, 0.999, by="Ada", why="complaints")
    found = compare(space.policies / f"{old.version}.json", space.folder, on="test")
    flagged = read_json(space.results)["models"]["mm_fusion"]["test"]["confusion"]  # as it was before
    assert found["changed"] == flagged["tp"] + flagged["fp"] > 0
    assert found["moves"] == {"block": {"allow": found["changed"]}}
    assert found["by_class"] == {k: v for k, v in (("1", flagged["tp"]), ("0", flagged["fp"])) if v}
    assert found["settings"] == {"models.mm_fusion.threshold": [old.threshold("mm_fusion", "pooled"), 0.999]}
    assert found["right"]["a"] - found["right"]["b"] == flagged["tp"] - flagged["fp"]
    assert 0 < len(found["examples"]) <= 10 and any(post["text"] for post in found["examples"])
    same = compare(space.folder, space.folder, on="val")
    assert same["changed"] == 0 and same["settings"] == {} and same["moves"] == {} and same["examples"] == []


def test_other_models_other_splits_and_stray_files_are_refused(space, tmp_path):
    policy = Policy.load(space.policy)
    other = policy.model_copy(update={"versions": {**policy.versions, "mm_fusion": "0" * 16}})
    other.save(space.folder / "other.json")
    with pytest.raises(RunError, match="the policies are for other models"):
        compare(space.folder, space.folder / "other.json")
    with pytest.raises(RunError, match="has no split 'tset'; did you mean 'test'"):
        compare(space.folder, space.folder, on="tset")
    policy.save(tmp_path / "stray" / "deep" / "policy.json")
    with pytest.raises(RunError, match="lies in no run folder"):
        compare(tmp_path / "stray" / "deep" / "policy.json", space.folder)


def test_from_the_command_line(space):
    call = CliRunner().invoke
    old = Policy.load(space.policy).version
    done = call(app, ["policy", "set", str(space.folder), "--threshold", "0.999", "--by", "Ada", "--why", "complaints"])
    assert done.exit_code == 0 and "complaints" in done.output
    shown = call(app, ["policy", "diff", str(space.policies / f"{old}.json"), str(space.folder), "--on", "val"])
    assert shown.exit_code == 0 and "decisions change" in shown.output and "block to allow" in shown.output
    told = call(app, ["policy", "diff", str(space.folder), str(space.folder), "--json"])
    assert json.loads(told.output)["changed"] == 0
    again = call(app, ["policy", "diff", str(space.folder), str(space.folder)])
    assert "no setting differs" in again.output


def test_the_reference_of_drift_is_decided_by_the_policy_as_it_is_now(space):
    before = Reference.load(space.reference)
    set_threshold(space.folder, None, 0.999, by="Ada", why="complaints")
    assert before.with_policy(Policy.load(space.policy)).predicted == [0] * len(before.scores)
    assert sum(before.predicted) > 0


def test_a_bound_finds_the_threshold_as_the_run_does(space, small_config):
    rule = ThresholdConfig(by="fpr", bound=0.2)
    told = set_threshold(space.folder, None, rule, by="Ada", why="complaints")
    found = Policy.load(space.policy)
    assert found.changes[0].rule == rule and told["rule"] == "false-positive rate at most 0.2"
    assert told["reached"]["fpr"] <= 0.2 and told["expected"] == {"fpr": found.expected["fpr"].value}

    config = parse_config({**small_config, "decide": {**small_config["decide"], "threshold": rule.model_dump()}})
    run(config, root=space.folder.parent, start="calibrate")
    fitted = Policy.load(space.policy)
    assert fitted.threshold("mm_fusion", "pooled") == found.threshold("mm_fusion", "pooled") == told["after"]
    assert fitted.expected == found.expected
    (figure,) = read_json(space.results)["rule_figures"]
    assert (figure["figure"], figure["at_most"]) == ("fpr", 0.2) and figure["low"] <= figure["value"] <= figure["high"]


def test_a_bound_that_lacks_rows_says_how_many_and_nothing_is_changed(space):
    before = Policy.load(space.policy)
    impossible = ThresholdConfig(by="precision", bound=0.999, confidence=0.9)
    with pytest.raises(DataError, match=r"takes [\d,]+ positive rows, found [\d,]+: [\d,]+ are missing"):
        set_threshold(space.folder, None, impossible, by="Ada", why="complaints")
    assert Policy.load(space.policy) == before
    told = set_threshold(space.folder, None, ThresholdConfig(by="fpr", bound=0.0001), by="Ada", why="complaints")
    assert "negative rows, found" in told["findings"][0]


def test_the_confidence_is_that_of_the_runs_rule_where_it_bounds_the_same_figure(space):
    rule = ThresholdConfig(by="fpr", bound=0.3, confidence=0.9)
    Policy.load(space.policy).model_copy(update={"rule": rule}).save(space.policy)
    same, other = ThresholdConfig(by="fpr", bound=0.2), ThresholdConfig(by="recall", bound=0.5)
    told = set_threshold(space.folder, None, same, by="Ada", why="complaints")
    assert told["rule"] == "false-positive rate at most 0.2, with confidence 0.9"
    assert set_threshold(space.folder, None, other, by="Ada", why="complaints")["rule"] == "recall at least 0.5"


def test_a_pooled_threshold_that_decides_no_post_is_told_of(space):
    policy = Policy.load(space.policy)
    fit = policy.models["mm_fusion"]
    own = PatternPolicy(calibration=fit.calibration, threshold=0.5, n=200)
    patterns = dict.fromkeys(("image", "text", "image+text"), own)
    for kept, told in ((patterns, True), ({"image": own}, False)):
        models = {**policy.models, "mm_fusion": fit.model_copy(update={"patterns": kept})}
        policy.model_copy(update={"models": models}).save(space.policy)
        found = set_threshold(space.folder, None, ThresholdConfig(by="fpr", bound=0.2), by="Ada", why="complaints")
        assert told == any("is decided by it: name --pattern" in finding for finding in found["findings"])


def test_who_and_why_are_asked_for_before_anything_is_fitted(tmp_path):
    with pytest.raises(RunError, match="say who changes the policy"):
        set_review(tmp_path / "none", ReviewConfig(fnr=0.2), by=" ", why="a new team")
    with pytest.raises(RunError, match="say who changes the policy"):
        set_threshold(tmp_path / "none", None, ThresholdConfig(by="fpr", bound=0.2), by="Ada", why="")


def test_review_bands_are_fitted_anew_and_thresholds_stay(space, small_config):
    before = Policy.load(space.policy)
    review = ReviewConfig(fnr=0.2, fpr=0.1)
    told = set_review(space.folder, review, by="Ada", why="a new team")
    after = Policy.load(space.policy)
    assert after.review == review and after.changes[0].review == review and told["others"] == {}
    assert after.threshold("mm_fusion", "pooled") == before.threshold("mm_fusion", "pooled")
    assert after.rule_of("mm_fusion") == before.rule and after.expected == before.expected

    run(parse_config(small_config), root=space.folder.parent)  # measures, and fits nothing
    assert Policy.load(space.policy) == after
    results = read_json(space.results)
    assert [(found["of"], found["figure"]) for found in results["rule_figures"]][1:] == [
        ("review", "fnr"),
        ("review", "fpr"),
    ]
    assert results["actions"]["review"]
    config = parse_config({**small_config, "decide": {**small_config["decide"], "review": {"fnr": 0.2, "fpr": 0.1}}})
    run(config, root=space.folder.parent, start="calibrate")
    assert Policy.load(space.policy).models == after.models
    with pytest.raises(RunError, match="its review is by fnr, fpr or both"):
        set_review(space.folder, ReviewConfig(alpha=0.1), by="Ada", why="a new team")


def test_a_bundle_exported_before_the_bands_were_fitted_is_to_be_exported_again(space, small_bundle):
    shutil.copytree(small_bundle, space.folder / "bundles" / "onnx")
    for _ in range(2):
        set_review(space.folder, ReviewConfig(fnr=0.2, fpr=0.1), by="Ada", why="a new team")
    (mends,) = set_threshold(space.folder, None, 0.7, by="Ada", why="complaints")["bundles"].values()
    assert mends == f"bifocal export {space.folder} --engine onnx"


def test_bands_within_languages_stay_unless_it_is_said(space):
    set_review(space.folder, ReviewConfig(fnr=0.2, per_language=True), by="Ada", why="a new team")
    told = set_review(space.folder, ReviewConfig(fnr=0.3), by="Ada", why="a smaller team")
    assert told["review"]["per_language"] and Policy.load(space.policy).review.per_language
    set_review(space.folder, ReviewConfig(fnr=0.3, per_language=False), by="Ada", why="one team")
    assert not Policy.load(space.policy).review.per_language


def test_a_bundle_keeps_no_rows_to_find_anything_on(small_bundle, tmp_path):
    shutil.copytree(small_bundle, tmp_path / "bundle")
    with pytest.raises(RunError, match="keeps no rows"):
        set_threshold(tmp_path / "bundle", None, ThresholdConfig(by="fpr", bound=0.2), by="Ada", why="complaints")
    with pytest.raises(RunError, match="keeps no rows"):
        set_review(tmp_path / "bundle", ReviewConfig(fnr=0.2), by="Ada", why="complaints")


def test_bounds_and_rates_from_the_command_line(space):
    def call(*options):
        return CliRunner().invoke(
            app, ["policy", "set", str(space.folder), "--by", "Ada", "--why", "complaints", *options]
        )

    assert "false-positive rate at most 0.2" in call("--fpr", "0.2").output
    assert "recall at least 0.5" in call("--recall", "0.5").output
    reviewed = call("--review", "fnr=0.2,fpr=0.1").output
    assert "fnr: 0.2, fpr: 0.1" in reviewed and "pattern" not in reviewed and "after" not in reviewed
    for options, refused in {
        (): "found none",
        ("--fpr", "0.1", "--recall", "0.5"): "found --fpr and --recall",
        ("--precision", "90"): "--precision: bound",
        ("--review", "frn=0.1"): "--review: ",
        ("--review", "fnr=0.1, fnr=0.3"): "--review takes each name once",
        ("--review", "fnr=0.1", "--model", "mm_fusion"): "leave out --model",
    }.items():
        done = call(*options)
        assert done.exit_code and refused in str(done.exception), options


def test_a_threshold_is_set_for_one_of_several_labels(labels_run, tmp_path, capsys):
    folder = tmp_path / "labels"
    shutil.copytree(labels_run, folder)
    before = Policy.load(folder / "policy_labels.json")
    said = set_threshold(folder, None, 0.999, label="paid", by="Ada", why="complaints")
    after = Policy.load(folder / "policy_labels.json")
    assert said["label"] == "paid" and said["policy"] == after.version != before.version
    assert after.labels["paid"].changes[0].version == before.version and not after.changes
    assert after.models == before.models and after.labels["kind"] == before.labels["kind"]
    post = {"text": "sometime note", "tabular": {"price": 120, "room": "cellar"}}
    decided = bifocal.load(folder).predict(**post).labels["paid"]
    assert (decided.threshold, decided.label) == (0.999, 0)
    changed = compare(labels_run, folder, label="paid")
    assert changed["label"] == "paid" and changed["moves"].keys() == {"review"} and changed["changed"] > 0
    assert compare(labels_run, folder)["changed"] == 0
    with pytest.raises(RunError, match="has no label 'pald'.*paid"):
        set_threshold(folder, None, 0.5, label="pald", by="Ada", why="complaints")

    def told(*arguments):
        result = CliRunner().invoke(app, ["policy", *arguments], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    found = told("set", str(folder), "--recall", "0.7", "--by", "Ada", "--why", "misses")
    assert "set for urgent, the first of several labels" in found
    assert "kind: act none, asked where urgent is flagged" in (shown := told("show", str(folder)))
    assert "0.999" in shown
    set_review(folder, ReviewConfig(alpha=0.1), label="kind", by="Ada", why="doubts")
    assert Policy.load(folder / "policy_labels.json").labels["kind"].review.alpha == 0.1


def test_a_policy_for_a_label_that_the_run_lacks_is_refused(labels_run, tmp_path):
    folder = tmp_path / "labels"
    shutil.copytree(labels_run, folder)
    policy = Policy.load(folder / "policy_labels.json")
    policy.with_label(policy.labels["paid"].model_copy(update={"label": "pald"})).save(folder / "policy_labels.json")
    with pytest.raises(RunError, match="decides by 'pald', which this run does not answer.*paid"):
        bifocal.load(folder)
