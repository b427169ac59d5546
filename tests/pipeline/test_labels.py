"""A run of several labels: what it says of each is what a run of that label alone says, and each encoder runs once."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from tests.conftest import LABELS, labels_config

import bifocal
from bifocal.assess.run_data import RunData
from bifocal.contracts import Reporter
from bifocal.decide.policy import Policy
from bifocal.deploy.export import export
from bifocal.deploy.policies import set_threshold
from bifocal.errors import RunError
from bifocal.example import Example
from bifocal.models.encoders.tfidf_text import TfidfText
from bifocal.pipeline.train import run
from bifocal.system.decision import mark_truncated
from bifocal.workspace import Workspace, read_json, write_json

NAMES = ["urgent", "paid", "kind"]


@pytest.fixture(scope="module")
def alone(labels_run, tmp_path_factory):
    """Label -> the workspace of a run of it alone, on the same rows; ``kind`` is null elsewhere of its own accord."""
    root = tmp_path_factory.mktemp("alone")
    notes = labels_run.parents[1]
    return {name: Workspace.of(run(labels_config(notes, [name], name), root=root)) for name in NAMES}


@pytest.mark.parametrize("name", ["urgent", "paid"])
def test_each_label_is_measured_as_in_a_run_of_its_own(labels_run, alone, name):
    space, own = Workspace.of(labels_run), alone[name]
    ours = space.for_label("" if name == "urgent" else name).read_section(space.results)
    theirs = read_json(own.results)
    assert ours["label"] == theirs["label"] == name
    for model in theirs["models"]:
        assert ours["models"][model]["test"] == theirs["models"][model]["test"], model
    assert ours["gains"] == theirs["gains"]
    for path in ("calibration", "thresholds"):
        found, single = (read_json(getattr(of, path)) for of in (space, own))
        assert {model: of[name] for model, of in found.items()} == {model: of[name] for model, of in single.items()}


def test_a_child_is_learned_and_measured_on_rows_whose_parent_is_positive(labels_run, alone):
    """Terms and columns are those of all rows here, so that figures are near those of its own run, not equal."""
    space = Workspace.of(labels_run)
    ours, theirs = space.for_label("kind").read_section(space.results), read_json(alone["kind"].results)
    for split in ("train", "val", "test"):
        ours_of, theirs_of = (of["models"]["text_expert"][split] for of in (ours, theirs))
        assert ours_of["n"] == theirs_of["n"] < 0.6 * read_json(space.results)["models"]["text_expert"][split]["n"]
    found, single = (of["models"]["mm_fusion"]["test"]["metrics"]["macro_f1"]["value"] for of in (ours, theirs))
    assert found == pytest.approx(single, abs=0.1) and found > 0.6


def test_the_files_of_further_labels_stand_beside_the_first_ones(labels_run, alone):
    first = {str(path.relative_to(alone["urgent"].folder)) for path in alone["urgent"].folder.rglob("*.*")}
    ours = {str(path.relative_to(labels_run)) for path in labels_run.rglob("*.*")}
    renamed = {name.replace("_urgent.", "_labels.").replace("_urgent.", "_labels.") for name in first}
    assert {name for name in renamed - ours if "/checkpoints/" not in name} == set()
    further = {name for name in ours - renamed if ".kind" in name}
    assert {"errors_labels.kind.csv", "slices_labels.kind.csv", "report.kind/index.html"} <= further
    assert list(read_json(labels_run / "results_labels.json")["labels"]) == ["paid", "kind"]
    assert Policy.load(labels_run / "policy_labels.json").label_names == NAMES


def test_a_run_of_one_label_has_no_word_of_several(alone):
    space = alone["paid"]
    assert "labels" not in read_json(space.results)
    policy = read_json(space.policy)
    assert {"labels", "requires", "act"}.isdisjoint(policy)


def test_each_text_is_encoded_once(labels_run, tmp_path, monkeypatch):
    encoded = []
    encode = TfidfText.encode
    monkeypatch.setattr(
        TfidfText, "encode", lambda self, values, *more: encoded.extend(values) or encode(self, values, *more)
    )
    run(labels_config(labels_run.parents[1]), root=tmp_path)
    data = RunData.of(tmp_path / "labels")
    assert len(encoded) == sum(len(split) for split in data.packed.values())


def test_a_decision_answers_each_label_and_the_strictest_action_counts(labels_run):
    system = bifocal.load(labels_run)
    posts = [
        {"text": "quickly note about fire here", "tabular": {"price": 120, "room": "hall"}},
        {"text": "sometime note about matters", "tabular": {"price": 120, "room": "cellar"}},
        {"text": "sometime note about matters", "tabular": {"price": 20, "room": "cellar"}},
    ]
    urgent, paid, neither = system.predict_batch(posts)
    assert list(urgent.labels) == NAMES
    assert (urgent.action, urgent.labels["paid"].action) == ("block", "review")
    assert urgent.why.startswith("urgent: ") and urgent.label == urgent.labels["urgent"].label == 1
    assert urgent.labels["kind"].label == "fire" and urgent.labels["kind"].action is None
    assert paid.action == "review" and paid.why.startswith("paid: ") and paid.labels["kind"] is None
    assert neither.action == "allow" and neither["labels"]["paid"]["label"] == 0
    assert urgent["labels"]["urgent"]["prob"] == urgent["prob_urgent"] and dict(urgent) == urgent.to_dict()


def test_a_decision_is_that_of_a_run_of_its_label(labels_run, alone):
    post = {"text": "quickly note about water there", "tabular": {"price": 50, "room": "yard"}}
    whole = bifocal.load(labels_run).predict(**post)
    for name in NAMES[:2]:
        single = bifocal.load(alone[name].folder).predict(**post)
        np.testing.assert_allclose(whole.labels[name].probability, single.probability, atol=1e-7)
        assert whole.labels[name].label == single.label


def test_an_encoder_that_learns_as_a_whole_is_fitted_for_each_label(labels_run, tmp_path):
    trees = {"text": {"encoder": "tfidf_text", "options": {"components": 16}}, "tabular": {"encoder": "boosted_trees"}}
    notes = labels_run.parents[1]
    whole = Workspace.of(run(labels_config(notes, experts=trees), root=tmp_path))
    assert (whole.models / "tabular_expert.paid").is_dir() and not (whole.models / "text_expert.paid").exists()
    paid = read_json(whole.results)["labels"]["paid"]["models"]
    assert paid["tabular_expert"]["test"]["metrics"]["auroc"]["value"] > 0.7
    assert paid["text_expert"]["test"]["metrics"]["auroc"]["value"] < 0.7
    decision = bifocal.load(whole.folder).predict(text="note", tabular={"price": 120, "room": "hall"})
    assert decision.labels["paid"].label == 1
    bundle = bifocal.load(export(whole.folder, "torch")["bundle"])
    exported = bundle.predict(text="note", tabular={"price": 120, "room": "hall"}).labels["paid"]
    assert exported.probability == pytest.approx(decision.labels["paid"].probability, abs=1e-6)
    write_json(whole.for_label("paid").drift, {}), write_json(whole.for_label("paid").lab_results, {})
    left = {str(path.relative_to(whole.folder)) for path in whole.folder.rglob("*.paid*")}
    assert {"report.paid", "models/mm_fusion.paid", "models/tabular_expert.paid", "drift_labels.paid.json"} <= left
    assert "evidence/text_expert/train.paid.safetensors" in left
    assert run(labels_config(notes, [LABELS[0], LABELS[2]], experts=trees), root=tmp_path) == whole.folder
    left = {str(path.relative_to(whole.folder)) for path in whole.folder.rglob("*.paid*")}
    assert {path for path in left if not path.startswith("bundles/")} == {"lab/results.paid.json"}, (
        "of a label that the run no longer answers"
    )
    assert (whole.folder / "report.kind").is_dir() and bifocal.load(whole.folder).policy.label_names == [
        "urgent",
        "kind",
    ]


def test_of_several_views_each_label_is_answered_by_the_one_that_is_worst_by_it(labels_run):
    system = bifocal.load(labels_run)
    example, views = (
        Example("a", {}, {}),
        [
            {"text": "quickly note about fire here", "tabular": {"price": 20, "room": "hall"}},
            {"text": "sometime note about matters", "tabular": {"price": 120, "room": "cellar"}},
        ],
    )
    alone = [system.predict(**view) for view in views]
    (both,) = system.decide([SimpleNamespace(example=example, views=views)])
    assert (both.labels["urgent"].label, both.labels["paid"].label) == (1, 1)
    assert both.labels["urgent"].probability == pytest.approx(alone[0].labels["urgent"].probability, abs=1e-6)
    assert both.labels["paid"].probability == pytest.approx(alone[1].labels["paid"].probability, abs=1e-6)
    assert both.labels["kind"] is not None and both.action == "block"


def test_a_label_that_takes_posts_not_read_whole_to_review_leaves_the_others_as_they_are(labels_run):
    decided = bifocal.load(labels_run).predict(
        text="quickly note about fire here", tabular={"price": 120, "room": "hall"}
    )
    marked = mark_truncated(decided, {"urgent": None, "paid": "review", "kind": None})
    assert marked.truncated and (marked.action, marked.why) == (decided.action, decided.why) == ("block", decided.why)
    marked = mark_truncated(decided, {"urgent": "review", "paid": None, "kind": None})
    assert (marked.action, marked.labels["urgent"].action) == ("review", "review")
    assert marked.why.startswith("urgent: ") and marked.why.endswith("so a person decides")


def test_each_label_is_attacked_with_the_features_of_the_one_pass(labels_run, tmp_path):
    attacked = {"attacks": ["homoglyphs"], "severities": [3], "rows": 40}
    text = {"text": {"encoder": "tfidf_text", "options": {"components": 16}}}
    config = labels_config(labels_run.parents[1], robustness=attacked, modalities=["text"], experts=text)
    folder = run(config, root=tmp_path)
    for space in (Workspace.of(folder), Workspace.of(folder).for_label("kind")):
        found = read_json(space.robustness)
        assert found["label"] == (space.label or "urgent") and found["attacks"]


def test_a_threshold_set_by_hand_for_a_further_label_is_told_of_where_the_policy_is_fitted_again(labels_run, tmp_path):
    told = []

    class Notes(Reporter):
        def note(self, message):
            told.append(message)

    config = labels_config(labels_run.parents[1])
    folder = run(config, root=tmp_path)
    set_threshold(folder, None, 0.42, by="me", why="test", label="paid")
    assert RunData.of(folder).for_label("paid").policy().threshold("mm_fusion", "tabular+text") == 0.42
    run(config, root=tmp_path, start="calibrate", reporter=Notes())
    assert sum("policies changed by hand" in note for note in told) == 1


def test_a_child_may_stand_before_labels_that_are_calibrated_after_it(labels_run, tmp_path):
    labels = ["urgent", {"kind": {"requires": "urgent"}}, "paid"]
    config = labels_config(labels_run.parents[1], labels, fusion={"strategy": "stacking"})
    space = Workspace.of(run(config, root=tmp_path, until="evaluate"))
    assert Policy.load(space.policy).label_names == ["urgent", "kind", "paid"]


def test_a_policy_that_says_nothing_of_a_label_is_not_loaded(labels_run, tmp_path):
    folder = tmp_path / "labels"
    shutil.copytree(labels_run, folder)
    policy = Policy.load(folder / "policy_labels.json")
    policy.model_copy(update={"labels": {"paid": policy.labels["paid"]}}).save(folder / "policy_labels.json")
    with pytest.raises(RunError, match="says nothing of kind, which the run answers"):
        bifocal.load(folder)
