"""Predictions that tell nothing, or lie, from calibration to page and drift: a clear error or finding, never a NaN."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch

import bifocal
from bifocal.assess.run_data import RunData
from bifocal.config import ReviewConfig, parse_config
from bifocal.contracts import Reporter
from bifocal.decide.policy import POOLED, Policy
from bifocal.decide.policy_fit import fit_policy
from bifocal.decide.tuning_rows import PolicySettings, TuningRows
from bifocal.deploy.policies import compare, set_threshold
from bifocal.errors import DataError, RunError
from bifocal.evaluate.intervals import measure
from bifocal.evaluate.metrics import METRICS
from bifocal.evaluate.row_metrics import RowMetrics
from bifocal.evaluate.slices import SliceSettings, measure_gaps, measure_slices
from bifocal.monitor.drift import measure_drift
from bifocal.pipeline.context import Context
from bifocal.pipeline.steps.calibrate import calibrate
from bifocal.pipeline.steps.evaluate import evaluate
from bifocal.pipeline.steps.report import write_pages
from bifocal.pipeline.train import run
from bifocal.workspace import Workspace, read_json, write_json

NULL = -1
LOUD = 1e4
"""Logits under which a float64 softmax is 0 and 1, with nothing between."""


class Notes(Reporter):
    """Keeps what a run says."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


class Doctored(RunData):
    """A finished run whose cached predictions say something else from now on; no encoder runs, and no fusion."""

    doctor = None

    def evidence_of(self, split):
        said = {}
        for name, e in super().evidence_of(split).items():
            logits, labels = self.doctor(split, e.logits.numpy().copy(), e.labels.numpy().copy())
            said[name] = dataclasses.replace(e, logits=torch.tensor(logits), labels=torch.tensor(labels))
        return said

    @property
    def fused(self):
        return lambda evidence: sum(e.logits for e in evidence.values())

    def parameters(self):
        return {model: {"total": 0, "trained": 0} for model in self.models}


def doctored(space, doctor, **decide):
    """A run on such data."""
    config = read_json(space.record)["config"]
    config = parse_config({**config, "decide": {**config["decide"], **decide}})
    run = Context.of(config, space, Notes())
    run.data = Doctored.configured(config, space)
    vars(run.data)["doctor"] = doctor
    return run


def judged(run):
    """Policy, results, page and drift of these predictions, and everything that was noted."""
    calibrate(run)
    evaluate(run)
    write_pages(run)
    found = measure_drift(run.space.folder, scored(run.data))
    return run.reporter.lines + found["findings"]


def scored(run):
    """The tested posts as `bifocal score` would have written them."""
    policy, model = Policy.load(run.space.policy), run.models[-1]
    said, path = run.predictions(run.tested_on), run.space.folder / "new.jsonl"
    with open(path, "w") as f:
        for i, text in enumerate(run.texts(run.tested_on)):
            p = policy.probabilities(model, said.logits[model][[i]], said.patterns[i])
            row = {
                "id": said.ids[i],
                policy.probability_key: float(p[0, 1]),
                "label": int(policy.predictions(model, p, said.patterns[i])[0]),
                "present": {name: name in said.patterns[i].split("+") for name in run.modalities},
                "text_used": text,
                "versions": {**policy.versions, "policy": policy.version},
            }
            f.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def space(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "small")
    return Workspace.of(tmp_path / "small")


def no_nan(folder):
    """No file that a person or a program reads holds what is no number."""

    def refuse(constant):
        raise AssertionError(f"{path} holds {constant}")

    paths = [p for p in folder.rglob("*") if p.suffix in (".json", ".csv", ".md", ".html") and "models" not in p.parts]
    assert {p.suffix for p in paths} == {".json", ".csv", ".md", ".html"}
    for path in paths:
        text = path.read_text()
        if path.suffix == ".json":
            json.loads(text, parse_constant=refuse)
        else:
            words = re.sub(r"(?s)<script.*?</script>|<[^>]*>|base64,\S*", " ", text)
            assert not re.search(r"(?i)(?<![\w-])[+−-]?(nan|inf|infinity)(?![\w-])", words), path


def of(split, change):
    """What ``change`` does to logits and labels of one split, and nothing to the others."""
    return lambda found, logits, labels: change(logits, labels) if found == split else (logits, labels)


def no_positive(logits, labels):
    return logits, np.zeros_like(labels)


CASES = {
    "val without positives": (of("val", no_positive), [], {}),
    "val without positives, review band": (
        of("val", no_positive),
        [r"no guarantee of fnr 0.2: it takes 4 positive rows, found 0; nothing is allowed"],
        {"review": {"fnr": 0.2, "fpr": 0.2}},
    ),
    "test without positives": (of("test", no_positive), [], {}),
    "all scores equal": (lambda split, logits, labels: (np.zeros_like(logits), labels), [r"flags 100% of posts"], {}),
    "probabilities of exactly 0 and 1": (
        lambda split, logits, labels: (np.sign(logits[:, :1]) * np.array([[LOUD, -LOUD]], dtype="f4"), labels),
        [],
        {"calibration": "auto", "review": {"fnr": 0.2}},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_predictions_that_tell_nothing_are_measured_as_such(space, name):
    doctor, findings, decide = CASES[name]
    told = judged(doctored(space, doctor, **decide))
    for finding in findings:
        assert any(re.search(finding, line) for line in told), told
    no_nan(space.folder)
    before = Policy.load(space.policy)
    set_threshold(space.folder, None, 0.999, by="Ada", why="complaints")
    assert compare(space.policies / f"{before.version}.json", space.folder)["n"]


def posts(tmp_path, unlabelled):
    """A run of a table of texts, all of whose rows in some splits bear no label."""
    lines = ["words,part,label"]
    for i in range(120):
        part, label = ("train", "val", "test")[i % 3], i // 3 % 2
        words = f"{'marble' if label else 'plain'} house {i} near the {('bay', 'hill')[i % 2]}"
        lines.append(f"{words},{part},{'' if part in unlabelled else label}")
    (tmp_path / "posts.csv").write_text("\n".join(lines) + "\n")
    return parse_config(
        {
            "run": "posts",
            "source": {
                "kind": "table", "root": str(tmp_path / "posts.csv"), "text": "words", "split": "part",
                "labels": {"abuse_hate": "label"},
            },
            "modalities": ["text"],
            "experts": {"text": {"encoder": "tfidf_text", "options": {"components": 4}}},
            "bootstrap": 100,
        }
    )  # fmt: skip


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_split_whose_labels_are_all_null_is_cut_from_what_bears_some(tmp_path, part):
    notes = Notes()
    space = Workspace.of(run(posts(tmp_path, {part}), root=tmp_path, reporter=notes))
    assert "40 rows bear no abuse_hate: for scoring, not for training" in notes.lines
    results = read_json(space.results)
    assert (results["in_sample"], results["tuned_on"], results["tested_on"]) == (False, "val", "test")
    assert all(results["models"]["text_expert"][split]["positives"] for split in ("val", "test"))
    no_nan(space.folder)


def test_a_run_whose_labels_are_all_null_is_refused(tmp_path):
    with pytest.raises(DataError, match="no row of the source bears both a abuse_hate label and one of text") as told:
        run(posts(tmp_path, {"train", "val", "test"}), root=tmp_path)
    assert "\n" not in str(told.value)


# ------------------------------------------------------------------ a bound that nothing keeps


def test_a_bound_that_nothing_keeps_names_the_nearest(space):
    work = doctored(
        space,
        lambda split, logits, labels: (np.zeros_like(logits), labels),
        threshold={"by": "precision", "bound": 0.99},
    )
    with pytest.raises(DataError, match=r"no threshold keeps precision at least 0.99 .* the nearest is 0\.\d+") as told:
        calibrate(work)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("by", ["precision", "recall", "fpr"])
def test_a_bound_on_a_class_without_rows_is_refused(space, by):
    def one_class(logits, labels):
        return logits, np.full_like(labels, 1 if by == "fpr" else 0)

    work = doctored(space, of("val", one_class), threshold={"by": by, "bound": 0.5})
    with pytest.raises(DataError, match=f"a threshold by {by} needs rows of class [01], found none"):
        calibrate(work)


# ------------------------------------------------------------------ a policy of another run


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({"run": "other"}, "is for run other, here is run small: it is of another run or of other models"),
        ({"mm_fusion": "0" * 16}, "is for mm_fusion 0000000000000000, here is mm_fusion"),
        ({"text_expert": None}, "is for text_expert none, here is text_expert"),
    ],
)
def test_a_policy_of_another_run_decides_nothing(space, versions, told):
    policy = Policy.load(space.policy)
    named = {k: v for k, v in {**policy.versions, **versions}.items() if v}
    policy.model_copy(update={"versions": named}).save(space.policy)
    work = doctored(space, lambda split, logits, labels: (logits, labels))
    for use in (
        lambda: bifocal.load(space.folder),
        lambda: set_threshold(space.folder, None, 0.4, by="Ada", why="complaints"),
        lambda: evaluate(work),
    ):
        with pytest.raises(RunError, match=re.escape(told)) as error:
            use()
        assert str(space.policy) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["policy", "reference"])
def test_drift_is_not_measured_from_another_runs_files(space, name):
    work = doctored(space, lambda split, logits, labels: (logits, labels))
    new, path = scored(work.data), getattr(space, name)
    if name == "policy":
        Policy.load(path).model_copy(update={"run": "other"}).save(path)
    else:
        write_json(path, {**read_json(path), "run": "other"})
    with pytest.raises(RunError, match=f"{path.name} is of the run 'other', and lies in the folder of 'small'"):
        measure_drift(space.folder, new)


# ------------------------------------------------------------------ arrays alone


def fitted(logits, labels, **asked):
    settings = PolicySettings(
        run="demo",
        label="offensive",
        classes=(0, 1),
        probability_key="prob_offensive",
        in_sample=False,
        versions={},
        **asked,
    )
    return fit_policy(TuningRows({"text_expert": {POOLED: (logits, labels)}}, list(range(len(labels)))), settings)


NOTHING = {
    "no rows": (np.empty((0, 2)), np.empty(0, dtype=int)),
    "one row": (np.array([[0.0, 1.0]]), np.array([1])),
    "all null": (np.zeros((40, 2)), np.full(40, NULL)),
    "no positives": (np.random.default_rng(0).normal(size=(40, 2)), np.zeros(40, dtype=int)),
    "all equal": (np.ones((40, 2)), np.arange(40) % 2),
    "0 and 1, all wrong": (LOUD * np.eye(2)[np.arange(40) % 2], 1 - np.arange(40) % 2),
    "0 and 1, all right": (LOUD * np.eye(2)[np.arange(40) % 2], np.arange(40) % 2),
}


@pytest.mark.parametrize("method", ["temperature", "temperature_bias", "vector", "beta", "isotonic", "auto"])
@pytest.mark.parametrize("name", NOTHING)
def test_whatever_is_fitted_gives_probabilities(name, method):
    policy = fitted(*NOTHING[name], method=method, review=ReviewConfig(fnr=0.1)).policy
    p = policy.probabilities("text_expert", np.array([[-LOUD, LOUD], [0.0, 0.0], [1.0, 0.0]]), "text")
    assert np.isfinite(p).all() and np.allclose(p.sum(axis=1), 1)
    text = json.dumps(policy.model_dump(mode="json"), allow_nan=False)
    assert Policy.model_validate_json(text) == policy


@pytest.mark.parametrize("logits", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(logits):
    with pytest.raises(DataError, match="logits must be finite, found nan or infinity"):
        fitted(np.full((40, 2), logits), np.arange(40) % 2)


@pytest.mark.parametrize("name", ["one row", "no positives", "0 and 1, all wrong", "0 and 1, all right"])
def test_measures_of_such_rows_are_written_as_numbers_or_null(name, tmp_path):
    z, y = NOTHING[name]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    groups = list(range(len(y)))
    found = measure(y, p, groups, resamples=50)
    slices = {("row", "the first"): np.arange(len(y)) == 0, ("row", "none"): np.zeros(len(y), dtype=bool)}
    found["slices"] = measure_slices(RowMetrics(y, p, None, groups), slices, SliceSettings(resamples=50)).to_dict()
    found["gaps"] = measure_gaps(
        RowMetrics(y, p, None, groups), {"first": slices["row", "the first"]}, SliceSettings(resamples=50)
    ).to_dict()
    write_json(tmp_path / "found.json", found)
    written = read_json(tmp_path / "found.json")
    assert written["metrics"].keys() == METRICS.keys()
    assert written["metrics"]["nll"]["value"] is not None and written["metrics"]["nll"]["value"] < 40
    (first, none) = written["slices"]["slices"]
    assert (first["n"], first["note"]) == (1, "too few rows") and (none["n"], none["note"]) == (0, "no rows")
    assert written["slices"]["worst"] is None and written["gaps"]["largest"] is None
