"""`bifocal drift` on runs and decisions made by hand, whose drift is known; and once on a run that was trained."""

import csv
import json
import shutil

import numpy as np
import pytest

import bifocal
from bifocal.assess.drift_reference import Reference
from bifocal.assess.predictions import Predictions
from bifocal.config import parse_config
from bifocal.decide.policy import POOLED
from bifocal.decide.policy_fit import fit_policy
from bifocal.decide.tuning_rows import PolicySettings, TuningRows
from bifocal.errors import ConfigError, DataError, RunError
from bifocal.modalities.text import compose
from bifocal.monitor.drift import measure_drift
from bifocal.system.decision import Decision, Opinion
from bifocal.system.score import _write_parquet, score_file
from bifocal.system.score_units import flat
from bifocal.workspace import Workspace, read_json, write_json

VERSIONS = {"bifocal": "0.1.0", "run": "hand", "mm_fusion": "abc"}


def drawn(n, seed, *, share=0.3, distance=2.0, without_image=0.2, german=0.1, words=8.0, classes=2):
    """Logits, labels, patterns and composed texts of n generated posts."""
    rng = np.random.default_rng(seed)
    shares = [1 - share, *[share / (classes - 1)] * (classes - 1)]
    labels = rng.choice(classes, n, p=shares)
    x = rng.normal(distance * labels)
    logits = -0.5 * (x[:, None] - 2.0 * np.arange(classes)) ** 2 + np.log([0.7, *[0.3 / (classes - 1)] * (classes - 1)])
    patterns = np.where(rng.random(n) < without_image, "text", "image+text").tolist()
    texts = [
        compose("", f"{i} {'word ' * length}".strip(), language)
        for i, length, language in zip(
            range(n), rng.poisson(words, n), np.where(rng.random(n) < german, "de", "en"), strict=True
        )
    ]
    return logits, labels, patterns, texts


def make_run(folder, *, classes=2, n=1500, in_sample=False, labels=None):
    """A run's folder as far as drift reads it."""
    logits, truth, patterns, texts = drawn(n, 0, classes=classes)
    truth = truth if labels is None else np.full(n, labels)
    names = (0, 1) if classes == 2 else ("none", "some", "much")
    settings = PolicySettings(
        run="hand",
        label="abuse_hate",
        classes=names,
        probability_key="prob_hate" if classes == 2 else "prob",
        in_sample=in_sample,
        versions=VERSIONS,
    )
    policy = fit_policy(TuningRows({"mm_fusion": {POOLED: (logits, truth)}}), settings).policy
    ids = tuple(map(str, range(n)))
    has = {"mm_fusion": np.ones(n, dtype=bool)}
    said = Predictions(ids, ids, truth, {"mm_fusion": logits}, has, patterns)
    space = Workspace(folder, "hand")
    config = parse_config({"run": "hand", "source": {"kind": "synthetic"}})
    write_json(space.record, {"run": "hand", "config": config.model_dump(mode="json"), "steps": {"calibrate": {}}})
    policy.save(space.policy)
    split = "train" if in_sample else "val"
    Reference.gather(said, texts, policy, "mm_fusion", split=split).save(space.reference)
    return space, policy


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "hand")


def decisions(policy, n, seed, *, versions=VERSIONS, **drift):
    """What `score` would have written of n generated posts, a dict each; and their labels."""
    logits, labels, patterns, texts = drawn(n, seed, classes=len(policy.classes), **drift)
    probabilities = policy.probabilities("mm_fusion", logits, POOLED)
    predicted = policy.predictions("mm_fusion", probabilities, POOLED)
    binary = policy.classes == (0, 1)
    rows = []
    for i, (p, y, pattern, text) in enumerate(zip(probabilities, predicted, patterns, texts, strict=True)):
        value, label = float(p[1] if binary else p[y]), policy.classes[y]
        present = {name: name in pattern.split("+") for name in ("text", "image")}
        opinions = {"mm_fusion": Opinion(value, label)}
        decision = Decision(
            value,
            label,
            0.5,
            "allow",
            "",
            opinions,
            present,
            text,
            text[-3:-1],
            {**versions, "policy": policy.version},
            policy.probability_key,
        )
        rows.append({"id": str(i), **decision.to_dict(), "error": None})
    return rows, labels


def write(path, rows):
    columns = list(dict.fromkeys(column for row in rows for column in flat(row)))
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as f:
            table = csv.DictWriter(f, columns, restval="")
            table.writeheader()
            table.writerows(map(flat, rows))
    else:
        _write_parquet(path, columns, iter(rows), True)
    return path


def compared(space, tmp_path, rows, ending="jsonl", **settings):
    new = write(tmp_path / f"decisions.{ending}", rows)
    return measure_drift(space.folder, new, output=tmp_path / "drift.json", **settings)


@pytest.mark.parametrize(
    ("name", "drift"),
    [
        ("score", {"share": 0.8}),
        ("presence pattern", {"without_image": 0.7}),
        ("language", {"german": 0.6}),
        ("text length", {"words": 14.0}),
    ],
)
def test_a_planted_drift_is_alarmed_and_named(space, tmp_path, name, drift):
    found = compared(space[0], tmp_path, decisions(space[1], 1500, 1, **drift)[0])
    assert found["alarms"] == [name]
    assert found["findings"][0].startswith(f"alarm: {name} (")
    written = read_json(tmp_path / "drift.json")
    assert written == {key: value for key, value in json.loads(json.dumps(found)).items() if key != "output"}


def test_without_drift_there_is_no_alarm_and_the_estimates_hold(space, tmp_path):
    rows, labels = decisions(space[1], 1500, 2)
    found = compared(space[0], tmp_path, rows)
    assert found["alarms"] == [] and found["findings"] == []
    many, truth = decisions(space[1], 20_000, 3)
    right = np.mean([row["label"] == label for row, label in zip(many, truth, strict=True)])
    for name, estimate in found["estimated_accuracy"].items():
        assert name == "reference" or estimate["low"] <= right <= estimate["high"]
        assert name == "reference" or estimate["assumes"]
    assert set(found["estimated_accuracy"]) == {"reference", "confidence", "thresholded_confidence", "label_shift"}
    share = found["estimated_base_rate"]["1"]
    assert share["low"] <= labels.mean() <= share["high"]
    assert found["decisions"]["1"]["new"] == pytest.approx(np.mean([row["label"] for row in rows]))


def test_a_new_base_rate_is_found_and_one_that_the_scores_do_not_bear_out_is_marked(space, tmp_path):
    rows, labels = decisions(space[1], 1500, 3, share=0.6)
    found = compared(space[0], tmp_path, rows)
    share = found["estimated_base_rate"]["1"]
    assert share["low"] <= labels.mean() <= share["high"] and found["label_shift"]["holds"] is True
    assert found["findings"][1].startswith("base rate of 1: estimated at")
    assert found["findings"][2].startswith("scores that were calibrated at the old base rate are not at the new one")
    strange = compared(space[0], tmp_path, decisions(space[1], 1500, 3, distance=1.0, share=0.9)[0])
    assert strange["label_shift"]["holds"] is False
    assert any("do not rely on its estimate" in told for told in strange["findings"])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_decisions_are_read_alike_from_every_format(space, tmp_path, ending):
    rows, _ = decisions(space[1], 300, 4)
    rows.insert(2, {"id": "bad", "error": "there is no picture file"})
    same = ("alarms", "compared", "estimated_accuracy", "estimated_base_rate", "decisions", "findings")
    first, second = (compared(space[0], tmp_path, rows, kind) for kind in ("jsonl", ending))
    assert {key: first[key] for key in same} == {key: second[key] for key in same}
    assert second["new"]["rows"] == 301 and second["new"]["failed"] == 1 and second["new"]["compared"] == 300


def test_several_classes(tmp_path):
    space, policy = make_run(tmp_path / "hand", classes=3)
    steady = compared(space, tmp_path, decisions(policy, 1500, 5)[0])
    assert steady["alarms"] == [] and set(steady["estimated_base_rate"]) == {"none", "some", "much"}
    rows, labels = decisions(policy, 1500, 6, share=0.8)
    found = compared(space, tmp_path, rows, "csv")
    assert "predicted class" in found["alarms"]
    for y, share in enumerate(found["estimated_base_rate"].values()):
        assert share["value"] == pytest.approx(np.mean(labels == y), abs=0.06)
        assert share["low"] < share["value"] < share["high"]


def test_a_run_without_val_is_compared_with_train_and_marked(tmp_path):
    space, policy = make_run(tmp_path / "hand", in_sample=True)
    found = compared(space, tmp_path, decisions(policy, 500, 1)[0])
    assert found["reference"]["in_sample"] and found["reference"]["split"] == "train"
    assert any("no val split" in told for told in found["findings"])


@pytest.mark.parametrize(("labels", "told"), [(-1, "no post of the reference bears a label"), (0, "one only")])
def test_a_reference_without_labels_or_with_one_class_is_a_finding(tmp_path, labels, told):
    space, policy = make_run(tmp_path / "hand", labels=labels)
    found = compared(space, tmp_path, decisions(policy, 300, 1)[0])
    assert found["estimated_base_rate"] is None and any(told in finding for finding in found["findings"])
    assert "NaN" not in (tmp_path / "drift.json").read_text()


def test_one_row_says_that_it_is_too_few(space, tmp_path):
    found = compared(space[0], tmp_path, decisions(space[1], 1, 1)[0])
    assert found["alarms"] == [] and found["findings"][0].startswith("too few rows")
    assert "null" not in json.dumps(found["estimated_accuracy"])


def test_all_scores_equal(space, tmp_path):
    rows, _ = decisions(space[1], 300, 1)
    found = compared(space[0], tmp_path, [{**row, "prob_hate": 0.5, "label": 1} for row in rows])
    assert found["alarms"] == ["score"] and found["label_shift"]["holds"] is False


def test_copies_are_counted_and_told(space, tmp_path):
    rows, _ = decisions(space[1], 10, 1)
    found = compared(space[0], tmp_path, rows * 40)
    assert found["new"]["distinct"] == 10 and found["alarms"] == []
    assert any("copies to a large part" in told for told in found["findings"])


def test_scores_that_are_no_number_are_left_out_and_told(space, tmp_path):
    rows, _ = decisions(space[1], 300, 1)
    for row, value in zip(rows, (float("nan"), None, "x", 1.5, -0.1, float("inf")), strict=False):
        row["prob_hate"] = value
    found = compared(space[0], tmp_path, rows)
    assert found["new"]["without_score"] == 6 and found["new"]["compared"] == 294
    assert any("6 rows have no probability" in told for told in found["findings"])
    with pytest.raises(DataError, match="no row has a 'prob_hate' between 0 and 1"):
        compared(space[0], tmp_path, [{**row, "prob_hate": float("nan")} for row in rows])


def test_many_failed_rows_are_told(space, tmp_path):
    rows, _ = decisions(space[1], 100, 1)
    found = compared(space[0], tmp_path, rows + [{"id": "x", "error": "broken"}] * 10)
    assert any("10 of 110 rows could not be decided on" in told for told in found["findings"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"versions": {**VERSIONS, "mm_fusion": "xyz"}}, "scored by another run or policy .mm_fusion xyz, here abc"),
        ({"versions": {"bifocal": "0.1.0"}}, "scored by another run or policy .run missing"),
        ({"label": "much"}, "the label 'much' is none of this run's 0, 1"),
    ],
)
def test_decisions_of_another_run_are_refused(space, tmp_path, change, message):
    rows, _ = decisions(space[1], 20, 1)
    with pytest.raises(DataError, match=message):
        compared(space[0], tmp_path, [*rows[:10], *({**row, **change} for row in rows[10:])])


def test_decisions_without_versions_are_taken_as_this_runs_and_told(space, tmp_path):
    rows, _ = decisions(space[1], 50, 1)
    for row in rows:
        del row["versions"]
    for ending in ("csv", "jsonl"):
        assert "do not say which run" in compared(space[0], tmp_path, rows, ending)["findings"][0]


@pytest.mark.parametrize("column", ["prob_hate", "label", "present", "text_used"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_missing_column_is_named(space, tmp_path, column, ending):
    rows, _ = decisions(space[1], 5, 1)
    for row in rows:
        del row[column]
    with pytest.raises(DataError, match=rf"lacks {column}"):
        compared(space[0], tmp_path, rows, ending)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("new.csv", "", "is empty"),
        ("new.csv", "prob_hate,label,present.text,text_used\n", "has no rows"),
        ("new.jsonl", "", "has no rows"),
        ("new.jsonl", '{"id": "1", "error": "broken"}\n', "holds no decision: 1 of its 1 rows have an error"),
        ("new.txt", "x", "should end in one of .csv"),
        ("new.parquet", None, "there is no input file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(space, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        measure_drift(space[0].folder, tmp_path / name, output=tmp_path / "drift.json")
    assert not (tmp_path / "drift.json").exists()


def test_the_output_is_never_a_table_of_posts(space, tmp_path):
    new = write(tmp_path / "decisions.jsonl", decisions(space[1], 5, 1)[0])
    with pytest.raises(DataError, match=r"should end in \.json"):
        measure_drift(space[0].folder, new, output=new)


def test_thresholds_come_from_the_run_or_the_call(space, tmp_path):
    rows, _ = decisions(space[1], 1500, 1, share=0.45)
    assert compared(space[0], tmp_path, rows)["rule"] == {"psi": 0.2, "alpha": 0.01}
    assert compared(space[0], tmp_path, rows, psi=0.02)["alarms"] == ["score"]
    with pytest.raises(ConfigError, match="alpha"):
        compared(space[0], tmp_path, rows, alpha=1e-6)


def test_a_run_that_is_not_finished_or_has_no_reference_is_refused(tmp_path):
    space, policy = make_run(tmp_path / "hand")
    new = write(tmp_path / "decisions.jsonl", decisions(policy, 5, 1)[0])
    for content, message in (('{"run": 1}', "is not a reference of this version"), (None, "is missing, which drift")):
        space.reference.unlink()
        if content:
            space.reference.write_text(content)
        with pytest.raises(RunError, match=message):
            measure_drift(space.folder, new)
        if not content:
            break
    write_json(space.record, {**read_json(space.record), "steps": {}})
    with pytest.raises(RunError, match="has not reached its policy"):
        measure_drift(space.folder, new)


# ------------------------------------------------------------------ a run that was trained


@pytest.fixture(scope="module")
def posts(tmp_path_factory, small_config):
    """A folder of generated memes like those of the run."""
    from bifocal.sources.synthetic import Synthetic

    folder = tmp_path_factory.mktemp("posts") / "memes"
    Synthetic(size=40, seed=9).write_folder(folder)
    return folder / "train.jsonl"


def test_posts_are_decided_on_first_and_the_decisions_kept(small_run, posts, tmp_path):
    output = tmp_path / "drift.json"
    found = measure_drift(small_run, posts, output=output)
    kept = tmp_path / "drift_decisions.jsonl"
    assert found["new"]["decisions"] == str(kept) and found["new"]["compared"] == len(posts.read_text().splitlines())
    score_file(bifocal.load(small_run), posts, tmp_path / "scored.csv")
    again = measure_drift(small_run, tmp_path / "scored.csv", output=output)
    for key in ("alarms", "compared", "estimated_accuracy", "estimated_base_rate", "label_shift"):
        assert found[key] == again[key]


def test_the_reference_is_val(small_run, tmp_path):
    """Row by row, in the order of the shards."""
    from bifocal.data.shards import open_split
    from bifocal.modalities import build_modalities

    space = Workspace.of(small_run)
    modalities = build_modalities(parse_config(read_json(space.record)["config"]))
    val = open_split(space.shards("val"), modalities)
    reference = Reference.load(space.reference)
    assert reference.rows == len(val) == len(reference.scores)
    patterns = ["+".join(sorted(m for m in modalities if val.present[m][i])) for i in range(len(val))]
    assert reference.patterns == patterns
    assert [length < 0 for length in reference.lengths] == [not there for there in val.present["text"]]


def test_the_command(space, tmp_path):
    from typer.testing import CliRunner

    from bifocal.cli.app import app

    run = tmp_path / "hand"
    shutil.copytree(space[0].folder, run)
    moved = write(tmp_path / "moved.csv", decisions(space[1], 800, 1, german=0.7)[0])
    steady = write(tmp_path / "steady.csv", decisions(space[1], 800, 1)[0])

    def drift(new, *options):
        return CliRunner().invoke(app, ["drift", str(run), str(new), *options])

    shown = drift(moved)
    assert shown.exit_code == 0 and "language" in shown.stdout and "alarm" in shown.stdout
    assert "estimated" in shown.stdout and "drift_hand.json" in shown.stdout
    assert read_json(run / "drift_hand.json")["alarms"] == ["language"]
    assert drift(moved, "--fail-on-alarm").exit_code == 1
    assert drift(steady, "--fail-on-alarm").exit_code == 0
    answer = drift(steady, "--json", "-o", str(tmp_path / "x.json"))
    assert json.loads(answer.stdout)["alarms"] == [] and (tmp_path / "x.json").is_file()


def test_each_of_several_labels_is_held_against_what_it_was_tuned_on(labels_run, tmp_path):
    """Of new notes the prices alone have moved: ``paid`` is of those, and ``kind`` is asked of urgent notes."""
    rows = (labels_run.parents[1] / "notes.csv").read_text().splitlines()
    head, *notes = (row.split(",")[:4] for row in rows)
    dear = [[identity, words, "120", room] for identity, words, _, room in notes]
    (tmp_path / "dear.csv").write_text("\n".join(map(",".join, [head, *dear])) + "\n")
    scored = {}
    for ending in ("jsonl", "csv", "parquet"):
        score_file(bifocal.load(labels_run), tmp_path / "dear.csv", tmp_path / f"scored.{ending}")
        scored[ending] = measure_drift(labels_run, tmp_path / f"scored.{ending}", output=tmp_path / f"{ending}.json")
    found = scored["jsonl"]
    assert found["labels"]["paid"]["compared"]["score"]["state"] == "alarm" and "paid: score" in found["alarms"]
    assert any(finding.startswith("paid: alarm: score") for finding in found["findings"])
    asked, flagged = found["labels"]["kind"]["new"], round(found["decisions"]["1"]["new"] * len(notes))
    assert asked["compared"] == flagged and asked["not_asked"] == len(notes) - flagged
    assert list(found["labels"]["paid"]["compared"]) == ["score"], "the posts themselves are told of once"
    for ending in ("csv", "parquet"):
        assert scored[ending]["labels"] == found["labels"], ending
    assert found["rule"] == {"psi": 0.2, "alpha": 0.01, "alpha_of_each": pytest.approx(0.01 / 3)}
    assert found["labels"]["paid"]["rule"] == {"psi": 0.2, "alpha": pytest.approx(0.01 / 3)}
    assert not any("any alarm at all" in finding for finding in found["findings"])
    least = measure_drift(labels_run, tmp_path / "scored.csv", output=tmp_path / "least.json", alpha=0.001)
    assert least["rule"]["alpha_of_each"] == 0.001
    assert any("comes up by chance in at most 0.003 of looks, and not 0.001" in told for told in least["findings"])
