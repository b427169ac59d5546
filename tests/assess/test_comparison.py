"""Models compared: which posts count, what the verdict is, and what is refused in a line."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bifocal.assess.compared_models import RunModel
from bifocal.assess.comparison import READINGS, compare_models, gate_of, rules_of, shared_labels
from bifocal.assess.label_comparison import CompareSettings, judged_figures
from bifocal.assess.scored_posts import ModelLabel
from bifocal.config import SourceConfig, ThresholdConfig, parse_config
from bifocal.deploy.export import export
from bifocal.errors import BifocalError, DataError, RunError
from bifocal.pipeline.inspect import posts_of
from bifocal.system.bundle import CONTENT
from bifocal.system.score import score_file
from bifocal.system.system import System
from bifocal.workspace import write_json

FAST = CompareSettings(resamples=100, latency=False)


@pytest.fixture(scope="module")
def pair(labels_run, tmp_path_factory):
    """The run and a copy of it, which may be written to."""
    place = tmp_path_factory.mktemp("pair")
    for name in ("old", "new"):
        shutil.copytree(labels_run, place / name)
    return place / "old", place / "new"


def scores(path, rows):
    """A table of scores: id, prob, truth and whatever else a row holds."""
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def table_of(path, n=3000, *, noise=0.2, seed=0, cut=0.5):
    """Scores that follow the truth with some noise; the same truth under every seed."""
    rng, noisy = np.random.default_rng(0), np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    logits = 3 * (truth - 0.5) + rng.normal(size=n) + noise * noisy.normal(size=n)
    p = 1 / (1 + np.exp(-logits))
    return scores(path, [{"id": f"p{i}", "prob": f"{p[i]:.6f}", "abuse": int(truth[i])} for i in range(n)])


def test_a_run_beside_its_copy_turns_no_decision_over_and_every_test_row_counts(pair):
    found = compare_models(pair, settings=FAST)
    labels = found.pairs[0]["labels"]
    assert set(labels) == {"urgent", "paid", "kind"} and found.compared == 120 and not found.left_out
    for of in labels.values():
        assert of["turned"]["n"] == 0 and all(f["difference"]["value"] == 0 for f in of["figures"].values())
    assert labels["urgent"]["labelled"] == 120 and labels["kind"]["labelled"] < 80
    # Of 120 posts nothing is shown within 0.01, even where none turned over.
    assert labels["urgent"]["verdict"] == "cannot tell" and labels["urgent"]["rows_needed"] > 120
    assert found.gate == 3


def test_every_reading_of_the_test_rows_is_counted_and_told_from_the_tenth_on(pair):
    before = compare_models(pair, settings=FAST).readings
    path = pair[0] / READINGS
    path.write_text(json.dumps({"readings": [{"date": "", "models": [], "rows": 1}] * 9}))
    (pair[1] / READINGS).unlink()
    found = compare_models(pair, settings=FAST)
    assert before >= 1 and found.readings == 10 and any("10 times" in note for note in found.notes)
    assert len(json.loads((pair[1] / READINGS).read_text())["readings"]) == 10


def test_tables_of_scores_give_a_verdict_and_say_that_nothing_vouches_for_them(tmp_path):
    old, same, worse = (
        table_of(tmp_path / "old.csv", noise=0.3),
        table_of(tmp_path / "same.csv", noise=0.3, seed=1),
        table_of(tmp_path / "worse.csv", noise=3, seed=2),
    )
    found = compare_models([old, same, worse], truth="abuse", settings=CompareSettings(margin=0.03, resamples=200))
    verdicts = [pair["labels"]["abuse"]["verdict"] for pair in found.pairs]
    assert verdicts[0] in ("no worse", "better") and verdicts[1] == "worse"
    assert [pair["gate"] for pair in found.pairs][1] == 1 and found.gate == 1
    assert sum("vouches" in note for note in found.notes) == 3
    turned = found.pairs[1]["labels"]["abuse"]["turned"]
    assert turned["n"] == sum(n for after in turned["moves"].values() for n in after.values())
    assert turned["put_wrong"] > turned["put_right"] and len(turned["examples"]) == 10


def test_a_share_of_flags_that_moves_fails_the_gate_whatever_the_figures_say(tmp_path):
    old = table_of(tmp_path / "old.csv")
    rows = list(csv.DictReader(old.open()))
    for row in rows:
        row["label"] = int(float(row["prob"]) > 0.9)
    new = scores(tmp_path / "new.csv", rows)
    found = compare_models([old, new], truth="abuse", settings=CompareSettings(margin=0.9, resamples=100))
    of = found.pairs[0]["labels"]["abuse"]
    assert of["verdict"] == "no worse" and of["flagged"]["moved"] and found.gate == 1


def test_without_labels_only_rates_are_told_and_a_gate_is_refused(tmp_path):
    old, new = table_of(tmp_path / "old.csv"), table_of(tmp_path / "new.csv", seed=1)
    found = compare_models([old, new], settings=FAST)
    (of,) = found.pairs[0]["labels"].values()
    assert of["figures"] == {} and of["flagged"]["old"] > 0 and of["turned"]["n"] > 0 and found.verdict is None
    with pytest.raises(DataError, match="a gate needs labels"):
        compare_models([old, new], settings=FAST, need_labels=True)


def test_labelled_posts_from_elsewhere_are_scored_and_those_learned_from_left_out(pair, tmp_path):
    notes = pair[0].parent / "notes.csv"
    config = json.loads((pair[0] / "run.json").read_text())["config"]["source"]
    rows = list(csv.DictReader(Path(config["root"]).read_text().splitlines()))
    known = [row for row in rows if row["part"] == "train"][:5]
    fresh = [{**row, "id": f"x{i}", "words": f"quickly another thing {i} of {row['words']}"}
             for i, row in enumerate(rows[:60])]  # fmt: skip
    scores(notes, [*known, *fresh])
    source = SourceConfig.model_validate({**config, "root": str(notes), "split": None})
    found = compare_models(pair, on=source, settings=FAST)
    assert found.compared == 60 and sum(found.left_out.values()) == 5 and found.readings is None
    assert found.pairs[0]["labels"]["urgent"]["labelled"] == 60
    some = compare_models(pair, on=source, only=["x1", "x2", "x3"], settings=FAST)
    assert some.compared == 3
    scores(notes, [row for row in rows if row["part"] == "train"][:40])
    with pytest.raises(DataError, match=r"all 40 posts .* give others by --on"):
        compare_models(pair, on=source, settings=FAST)


def test_models_of_other_questions_are_refused(pair, records_run, tmp_path):
    with pytest.raises(DataError, match="answer no label in common"):
        compare_models([pair[0], records_run], settings=FAST)
    with pytest.raises(DataError, match="named twice"):
        compare_models([pair[0], pair[0]], settings=FAST)
    with pytest.raises(RunError, match="no run folder, no bundle and no table"):
        compare_models([pair[0], tmp_path / "nothing"], settings=FAST)
    with pytest.raises(DataError, match="two models or more"):
        compare_models([pair[0]], settings=FAST)
    bare = scores(tmp_path / "bare.csv", [{"id": "p1", "words": "a"}])
    with pytest.raises(BifocalError, match="none of a score"):
        compare_models([bare, table_of(tmp_path / "some.csv", n=5)], settings=FAST)


def test_the_gate_of_several_is_the_worst():
    assert [gate_of(codes) for codes in ([0, 0], [0, 3], [3, 1])] == [0, 3, 1]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_what_score_wrote_of_a_run_decides_as_the_run_by_every_label(pair, tmp_path, ending):
    root = json.loads((pair[0] / "run.json").read_text())["config"]["source"]["root"]
    output = tmp_path / f"scored.{ending}"
    score_file(System.load(pair[0]), Path(root), output)
    found = compare_models([pair[0], output], settings=FAST)
    labels = found.pairs[0]["labels"]
    assert set(labels) == {"urgent", "paid", "kind"} and found.compared == 120
    assert all(of["turned"]["n"] == 0 for of in labels.values())
    assert "nll" in labels["urgent"]["figures"] and "nll" not in labels["kind"]["figures"]
    assert labels["kind"]["flagged"] is None and labels["kind"]["figures"]["macro_f1"]["difference"]["value"] == 0
    assert [model["vouched"] for model in found.models] == [True, False]


def test_near_duplicates_of_posts_that_were_learned_from_are_left_out_and_weights_count(pair, tmp_path):
    config = json.loads((pair[0] / "run.json").read_text())["config"]["source"]
    rows = list(csv.DictReader(Path(config["root"]).read_text().splitlines()))
    train = next(row for row in rows if row["part"] == "train")
    shouted = {**train, "id": "again", "words": train["words"].upper() + " !!!", "weight": 1}
    fresh = [
        {**row, "id": f"x{i}", "words": f"quickly another thing {i} of {row['words']}", "weight": 1 + 9 * (i % 2)}
        for i, row in enumerate(rows[:60])
    ]
    path = scores(tmp_path / "more.csv", [shouted, *fresh])
    source = SourceConfig.model_validate({**config, "root": str(path), "split": None})
    found = compare_models(pair, on=source, settings=FAST)
    of = found.pairs[0]["labels"]["urgent"]
    assert found.compared == 60 and sum(found.left_out.values()) == 1
    assert of["effective"] == pytest.approx((30 + 300) ** 2 / (30 + 3000)) and of["clipped"] == 0
    path = scores(tmp_path / "more.csv", [{**row, "weight": "many"} for row in fresh])
    with pytest.raises(DataError, match="`weight` is 'many'"):
        compare_models(pair, on=source, settings=FAST)


def test_a_bundle_knows_by_hashes_what_it_learned_from_and_one_without_them_is_not_vouched_for(pair, tmp_path):
    bundle = tmp_path / "bundle"
    export(pair[0], "torch", output=bundle, accept=True)
    hashes = json.loads((bundle / CONTENT).read_text())
    config = json.loads((pair[0] / "run.json").read_text())["config"]["source"]
    rows = list(csv.DictReader(Path(config["root"]).read_text().splitlines()))
    words = rows[0]["words"].split()[0]
    assert words not in (bundle / CONTENT).read_text() and set(hashes["hashes"]) == {"train", "val"}
    path = scores(
        tmp_path / "posts.csv", [*rows[2:42], *({**r, "words": f"new words {i} here"} for i, r in enumerate(rows))]
    )
    source = SourceConfig.model_validate({**config, "root": str(path), "split": None, "id": None})
    other = shutil.copytree(bundle, tmp_path / "other")
    found = compare_models([bundle, other], on=source, settings=FAST)
    learned = sum(row["part"] != "test" for row in rows[2:42])
    assert found.left_out == {f"{bundle} was trained or tuned on": learned}
    manifest = json.loads((other / "manifest.json").read_text())
    del manifest["files"][CONTENT]
    (other / CONTENT).unlink()
    (other / "manifest.json").write_text(json.dumps(manifest))
    found = compare_models([other, bundle], on=source, settings=FAST)
    assert [model["vouched"] for model in found.models] == [False, True]
    assert any("vouches" in note for note in found.notes)
    with pytest.raises(RunError, match="bundles keep no rows"):
        compare_models([other, bundle], settings=FAST)


def test_a_label_of_other_classes_is_no_shared_question(pair):
    old, new = (RunModel(folder) for folder in pair)
    new.labels = {**new.labels, "kind": new.labels["kind"]._replace(classes=("fire", "water"))}
    with pytest.raises(DataError, match=r"other classes of kind \(.*fire, noise, water; .*fire, water\)"):
        shared_labels([old, new])


def test_an_altered_record_of_readings_and_a_label_without_rows_are_told(pair, tmp_path):
    rows = [{"id": f"u{i}", "words": f"quickly word number {i}", "price": 3, "room": "hall", "urgent": i % 2}
            for i in range(40)]  # fmt: skip
    path = scores(tmp_path / "urgent.csv", rows)
    found = compare_models(pair, on=posts_of(str(path), pair), settings=FAST)
    assert found.compared == 40 and any("no post bears paid, kind" in note for note in found.notes)
    assert found.pairs[0]["labels"]["paid"]["verdict"] is None and found.pairs[0]["labels"]["urgent"]["labelled"] == 40
    (pair[0] / READINGS).write_text("[]")
    with pytest.raises(RunError, match="it was altered"):
        compare_models(pair, settings=FAST)
    (pair[0] / READINGS).unlink()


@pytest.mark.parametrize(
    ("rules", "judged"),
    [
        ([], ["f1"]),
        ([{"by": "f1"}, {"by": "macro_f1"}], ["f1", "macro_f1"]),  # each model's own
        ([{"by": "precision", "bound": 0.9}], ["precision", "recall"]),
        ([{"by": "fpr", "bound": 0.02}], ["fpr", "recall"]),
        ([{"by": "capacity", "bound": 0.1}], ["precision"]),
        ([{"by": "f_beta", "beta": 2}], ["f_beta"]),
        (
            [{"by": "f_beta", "beta": b} for b in (2, 3)],
            ["f_beta (the best F at beta 2)", "f_beta (the best F at beta 3)"],
        ),
    ],
)
def test_what_is_judged_is_each_policys_own_figure_and_what_a_bound_costs(rules, judged):
    asked = [ThresholdConfig.model_validate(rule) for rule in rules]
    figures = judged_figures(ModelLabel((0, 1), None, None), asked)
    assert [figure.name for figure in figures if figure.role == "policy"] == judged
    assert [figure.name for figure in figures if figure.role == "probabilities"] == ["nll"]
    assert {"auroc", "brier", "precision", "recall", "fpr"} <= {figure.name for figure in figures}


def test_the_rules_name_that_of_each_policy():
    class Model:
        def __init__(self, **rule):
            self.labels = {"abuse": ModelLabel((0, 1), None, ThresholdConfig.model_validate(rule))}

    old, new = Model(by="f1"), Model(by="fpr", bound=0.02)
    told = rules_of([old, new, old], old.labels, FAST)[0]
    assert "(abuse: the best F1 and false-positive rate at most 0.02; of a bound" in told, told


@pytest.mark.parametrize("kind", ["table", "several"])
def test_pictures_of_other_posts_are_looked_up_as_they_are_to_be_scored(tmp_path, kind):
    home, away = tmp_path / "home", tmp_path / "away"
    table = {"kind": "table", "root": str(home), "file": "old.csv", "text": "words", "image": "shot", "images": "pics",
             "labels": {"abuse": "bad"}}  # fmt: skip
    source = table if kind == "table" else {"kind": kind, "sources": [{**table, "name": "posts"}]}
    config = parse_config({"run": "r", "label": "abuse", "source": source, "modalities": ["text", "image"]})
    write_json(tmp_path / "run" / "run.json", {"config": config.model_dump(mode="json")})
    for folder in (home / "pics", away, home / "more"):
        folder.mkdir(parents=True)
    (home / "pics" / "1.png").touch()
    for folder, place in ((home / "more", home / "pics"), (away, away), (away, away / "pics")):
        if place != home / "pics":
            place.mkdir(exist_ok=True)
            (place / "1.png").touch()
        (folder / "new.csv").write_text("words,shot,bad\na post,1.png,1\n")
        found = posts_of(str(folder / "new.csv"), [tmp_path / "run"]).options
        assert (found["image"], found["text"], found["images"]) == ("shot", "words", str(place))
        assert found["labels"] == {"abuse": "bad"}


def test_what_a_table_decided_is_not_taken_for_the_truth(tmp_path):
    decided = [{"id": f"p{i}", "prob": i / 100, "label": int(i > 50)} for i in range(100)]
    old, new = scores(tmp_path / "old.csv", decided), scores(tmp_path / "new.csv", decided)
    with pytest.raises(DataError, match="a gate needs labels"):
        compare_models([old, new], settings=FAST, need_labels=True)
    judged = compare_models([old, new], truth="label", settings=FAST).pairs[0]["labels"]["label"]
    assert judged["labelled"] == 100 and judged["turned"]["n"] == 0
    assert (
        judged["figures"]["f1"]["old"]["value"] < 1
    )  # of scores at the threshold 0.5, and not of the judgements themselves


def test_scores_that_are_no_probabilities_are_refused_and_not_dropped(tmp_path):
    old, new = table_of(tmp_path / "old.csv", 50), scores(tmp_path / "new.csv", [{"id": "p1", "prob": 73}])
    with pytest.raises(DataError, match="'p1' is '?73.*between 0 and 1"):
        compare_models([old, new], truth="abuse", settings=FAST)


def test_rows_of_one_class_tell_nothing_of_a_binary_label(tmp_path):
    rows = [{"id": f"p{i}", "prob": 0.4 + i / 1000, "abuse": 1} for i in range(300)]
    old = scores(tmp_path / "old.csv", rows)
    new = scores(tmp_path / "new.csv", [row | {"prob": 0.9} for row in rows])
    found = compare_models([old, new], truth="abuse", settings=FAST)
    assert found.pairs[0]["verdict"] == "cannot tell" and found.gate != 0
