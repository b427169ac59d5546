"""The policy applies the fit of a post's own presence pattern, survives the disk, and refuses what it does not know."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bifocal.config import ReviewConfig, ThresholdConfig
from bifocal.decide.calibration import fit_temperature, softmax
from bifocal.decide.policy import POOLED, Policy
from bifocal.decide.policy_fit import MIN_PATTERN_ROWS, calibration_file, find_threshold, fit_policy, thresholds_file
from bifocal.decide.thresholds import best_f1_threshold, choose_threshold
from bifocal.decide.tuning_rows import PolicySettings, TuningRows
from bifocal.errors import DataError, RunError
from bifocal.evaluate.metrics import macro_f1, nll


def scored(n: int, classes: int = 2, sharpening: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (n, classes))
    return (z * sharpening).astype(np.float32), np.array([rng.choice(classes, p=p) for p in softmax(z)])


def one(policy, model, p, label):
    """The action on one row."""
    return policy.actions(model, np.array([[1 - p, p]]), np.array([label]), POOLED)[0]


def fitted(scores, classes=(0, 1), groups=None, languages=None, **changed):
    settings = {
        "run": "demo",
        "label": "offensive",
        "classes": classes,
        "probability_key": "prob_offensive",
        "in_sample": False,
        "versions": {"bifocal": "0.1.0"},
    }
    return fit_policy(TuningRows(scores, groups, languages), PolicySettings(**{**settings, **changed}))


@pytest.fixture(scope="module")
def three_models():
    both, text_only = scored(400, sharpening=2.0), scored(300, sharpening=0.5, seed=1)
    return {
        "text_expert": {POOLED: both},
        "vision_expert": {POOLED: scored(150, sharpening=1.5, seed=2)},
        "mm_fusion": {POOLED: both, "image+text": both, "text": text_only, "image": scored(199, seed=3)},
    }


def test_each_model_gets_its_pooled_temperature_and_threshold(three_models):
    policy = fitted(three_models).policy
    logits, labels = three_models["text_expert"][POOLED]
    temperature = fit_temperature(logits, labels)
    assert policy.models["text_expert"].calibration.temperature == temperature
    assert policy.threshold("text_expert", "text") == best_f1_threshold(labels, softmax(logits, temperature))
    assert policy.models["text_expert"].patterns == {}


def test_patterns_need_200_rows_of_their_own_and_fall_back_to_pooled(three_models):
    policy = fitted(three_models).policy
    fusion = policy.models["mm_fusion"]
    assert set(fusion.patterns) == {"text"}  # image+text is the pooled set itself, image has a row too few
    assert fusion.patterns["text"].n == 300
    logits = np.array([[0.0, 1.0]])
    assert (
        policy.probabilities("mm_fusion", logits, "text")[0, 1]
        > policy.probabilities("mm_fusion", logits, "image")[0, 1]
    )
    for pattern in ("image", "image+text", "never seen"):
        assert (
            policy.probabilities("mm_fusion", logits, pattern) == softmax(logits, fusion.calibration.temperature)
        ).all()


def test_rows_that_stand_for_others_count_as_often_and_it_is_said():
    logits, labels = scored(600)
    heavy = (labels == 1) & (logits[:, 1] < logits[:, 0])  # positives that were taken for negatives
    scores = {"only": {POOLED: (logits, labels)}}
    rule = {"rule": ThresholdConfig(by="recall", bound=0.8)}
    weights = {"only": {POOLED: np.where(heavy, 8.0, 1.0)}}
    settings = {
        "run": "r", "label": "hate", "classes": (0, 1), "probability_key": "p", "in_sample": False, "versions": {},
    }  # fmt: skip
    plain, weighed = (
        fit_policy(TuningRows(scores, weights=w), PolicySettings(**settings, **rule)) for w in (None, weights)
    )
    lower = weighed.policy.models["only"].threshold
    assert lower < plain.policy.models["only"].threshold
    p = weighed.policy.probabilities("only", logits, POOLED)[:, 1]
    w = weights["only"][POOLED] * (labels == 1)
    assert (w * (p >= lower)).sum() / w.sum() >= 0.8
    assert any("stand for" in finding and "600 rows that tell as much as" in finding for finding in weighed.findings)
    assert not any("stand for" in finding for finding in plain.findings)
    again = TuningRows(scores, weights=weights)
    assert find_threshold(weighed.policy, again, rule["rule"], model="only")[0].threshold == lower


def test_rows_without_a_label_do_not_count():
    logits, labels = scored(MIN_PATTERN_ROWS)
    enough = fitted({"mm_fusion": {POOLED: scored(300, seed=1), "text": (logits, labels)}}).policy
    assert enough.models["mm_fusion"].patterns["text"].n == MIN_PATTERN_ROWS
    labels = np.append(labels[1:], -1)
    too_few = fitted({"mm_fusion": {POOLED: scored(300, seed=1), "text": (logits, labels)}}).policy
    assert too_few.models["mm_fusion"].patterns == {}


def test_a_pattern_of_one_class_falls_back_to_pooled():
    logits, labels = scored(500)
    policy = fitted({"mm_fusion": {POOLED: (logits, labels), "text": (logits, np.zeros_like(labels))}}).policy
    assert policy.models["mm_fusion"].patterns == {}


def short_of(n: int, rows: int, classes: int = 2, **settings):
    """Rows of which only so many bear the last class."""
    logits, labels = scored(n, classes, **settings)
    return logits, np.where((labels == classes - 1) & (np.cumsum(labels == classes - 1) > rows), 0, labels)


@pytest.mark.parametrize("method", ["temperature", "beta", "auto"])
@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_rows_of_a_class_leave_the_temperature_at_1_and_it_is_said(classes, method):
    names = tuple(range(classes))
    fit = fitted({"mm_fusion": {POOLED: short_of(300, 19, classes, sharpening=3)}}, classes=names, method=method)
    assert fit.policy.models["mm_fusion"].calibration.model_dump() == {"method": "temperature", "temperature": 1.0}
    assert fit.policy.models["mm_fusion"].few_rows == {str(classes - 1): 19}
    assert any("20 tuning rows of each class, found 19 of class" in finding for finding in fit.findings)
    enough = fitted({"mm_fusion": {POOLED: short_of(300, 20, classes, sharpening=3)}}, classes=names, method=method)
    assert enough.policy.models["mm_fusion"].calibration.model_dump() != {"method": "temperature", "temperature": 1.0}
    assert enough.policy.models["mm_fusion"].few_rows == {} and not any("20 tuning rows" in f for f in enough.findings)


def test_in_sample_the_temperature_is_fitted_whatever_the_rows():
    policy = fitted({"mm_fusion": {POOLED: short_of(300, 5, sharpening=3)}}, in_sample=True).policy
    assert policy.models["mm_fusion"].calibration.temperature > 1.2 and policy.models["mm_fusion"].few_rows == {}


def test_a_pattern_with_too_few_rows_of_a_class_falls_back_to_pooled_and_it_is_said():
    fit = fitted({"mm_fusion": {POOLED: scored(300, sharpening=2), "text": short_of(300, 19, seed=1)}})
    assert fit.policy.models["mm_fusion"].patterns == {}
    assert any(finding.startswith("mm_fusion on text:") and "19 of class 1" in finding for finding in fit.findings)


@pytest.mark.parametrize("method", ["temperature", "temperature_bias"])
def test_rows_sorted_without_fault_give_no_tiny_temperature_pooled_or_in_a_pattern(method):
    labels = np.array([0, 1] * 20)
    pooled = (4 * np.eye(2)[labels]).astype(np.float32), labels
    text = np.repeat(pooled[0], 5, axis=0), np.repeat(labels, 5)
    model = fitted({"mm_fusion": {POOLED: pooled, "text": text}}, method=method).policy.models["mm_fusion"]
    assert 0.3 <= model.calibration.temperature < 1 and 0.3 <= model.patterns["text"].calibration.temperature < 1


def test_binary_rows_are_flagged_at_the_threshold():
    policy = fitted({"text_expert": {POOLED: scored(300)}}).policy
    t = policy.threshold("text_expert", "text")
    p = np.array([[1 - t, t], [1 - t + 1e-6, t - 1e-6], [0.0, 1.0]])
    assert policy.predictions("text_expert", p, "text").tolist() == [1, 0, 1]


def test_multiclass_goes_to_the_likeliest_class(tmp_path):
    fit = fitted({"text_expert": {POOLED: scored(300, classes=3)}}, classes=("none", "individual", "society"))
    assert fit.policy.threshold("text_expert", "text") is None
    p = np.array([[0.4, 0.35, 0.25], [0.1, 0.1, 0.8]])
    assert fit.policy.predictions("text_expert", p, "text").tolist() == [0, 2]
    assert thresholds_file(fit) == {"text_expert": {"offensive": None}}
    fit.policy.save(tmp_path / "policy.json")
    assert Policy.load(tmp_path / "policy.json").classes == ("none", "individual", "society")


def test_a_model_without_rows_is_left_as_it_is():
    policy = fitted({"vision_expert": {POOLED: (np.empty((0, 2)), np.empty(0, int))}}).policy
    assert policy.models["vision_expert"].calibration.temperature == 1.0
    assert policy.threshold("vision_expert", "image") == 0.5


def test_the_two_files_have_the_form_of_the_contract(three_models):
    fit = fitted(three_models)
    models = fit.policy.models
    assert thresholds_file(fit) == {name: {"offensive": m.threshold} for name, m in models.items()}
    assert calibration_file(fit.policy)["text_expert"] == {
        "offensive": {
            "method": "temperature",
            "temperature": models["text_expert"].calibration.temperature,
            "patterns": {},
        }
    }
    text = models["mm_fusion"].patterns["text"]
    assert calibration_file(fit.policy)["mm_fusion"]["offensive"]["patterns"] == {
        "text": {"method": "temperature", "temperature": text.calibration.temperature, "n": 300}
    }
    assert json.loads(json.dumps([calibration_file(fit.policy), thresholds_file(fit)])) == [
        calibration_file(fit.policy),
        thresholds_file(fit),
    ]


def test_a_rule_sets_the_thresholds_of_the_policy_and_not_those_of_the_thresholds_file(three_models):
    rule = ThresholdConfig(by="recall", bound=0.9)
    by_rule = fitted(three_models, rule=rule, groups=range(400))
    assert thresholds_file(by_rule) == thresholds_file(fitted(three_models))
    assert by_rule.policy.rule == rule
    logits, labels = three_models["mm_fusion"][POOLED]
    probabilities = by_rule.policy.probabilities("mm_fusion", logits, POOLED)
    chosen = choose_threshold(labels, probabilities, rule)
    assert by_rule.policy.threshold("mm_fusion", "image") == chosen.threshold
    expected = by_rule.policy.expected["recall"]
    assert expected.low <= chosen.figures["recall"] <= expected.high


def test_a_bound_that_the_deciding_model_cannot_keep_to_is_an_error_and_others_take_the_nearest(three_models):
    rule = ThresholdConfig(by="fpr", bound=0.004)
    flat = (np.zeros((300, 2)), np.arange(300) % 2)
    others = fitted({**three_models, "vision_expert": {POOLED: flat}, "mm_fusion": {POOLED: scored(4000)}}, rule=rule)
    assert others.findings[0].startswith("vision_expert: no threshold keeps false-positive rate at most 0.004")
    assert others.findings[0].endswith("the nearest is 1.000, at 0.500, which is taken")
    assert "vision_expert: the threshold 0.500 flags 100% of posts" not in others.findings
    with pytest.raises(DataError, match=r"the nearest is 1\.000, at 0\.500: ask for less in `decide.threshold.bound`"):
        fitted({**three_models, "mm_fusion": {POOLED: flat}}, rule=rule)


def test_a_threshold_that_flags_nearly_everything_is_told_of():
    logits = np.stack([np.zeros(100), np.linspace(-2, 2, 100)], axis=1)
    labels = np.arange(100) % 2 == 0  # the least likely row among them
    found = fitted({"mm_fusion": {POOLED: (logits, labels.astype(int))}}, rule=ThresholdConfig(by="recall", bound=0.99))
    few, nearly_all = found.findings
    assert "takes 100 positive rows, found 50: 50 are missing" in few
    assert nearly_all.endswith("flags 100% of posts")


def test_the_review_band_bounds_each_error_and_disagreement_is_reviewed(three_models):
    policy = fitted(three_models, review=ReviewConfig(fnr=0.1, fpr=0.05)).policy
    logits, labels = three_models["mm_fusion"][POOLED]
    probabilities = policy.probabilities("mm_fusion", logits, POOLED)
    predictions = policy.predictions("mm_fusion", probabilities, POOLED)
    actions = policy.actions("mm_fusion", probabilities, predictions, POOLED)
    assert (actions[labels == 1] == "allow").mean() <= 0.1 and (actions[labels == 0] == "block").mean() <= 0.05
    assert set(actions[predictions == 1]) == {"block", "review"} and set(actions[predictions == 0]) == {
        "allow",
        "review",
    }
    band = policy.models["mm_fusion"].band
    assert (band.positives, band.negatives) == tuple(np.bincount(labels)[::-1])
    assert policy.models["mm_fusion"].patterns["text"].band != band
    assert "band" not in json.dumps(calibration_file(fitted(three_models, review=ReviewConfig(fnr=0.1)).policy))


def test_one_limit_leaves_the_other_to_the_threshold(three_models):
    policy = fitted(three_models, review=ReviewConfig(fnr=0.05)).policy
    band, threshold = policy.models["mm_fusion"].band, policy.models["mm_fusion"].threshold
    assert band.block_from == threshold
    low = band.allow_below
    assert one(policy, "mm_fusion", low - 1e-6, 0) == "allow"
    assert one(policy, "mm_fusion", (low + threshold) / 2, 0) == "review"
    assert one(policy, "mm_fusion", threshold, 1) == "block"
    assert one(fitted(three_models).policy, "mm_fusion", threshold, 1) == "block"


def test_too_few_rows_promise_nothing_and_nothing_is_done_alone(three_models):
    found = fitted(three_models, review=ReviewConfig(fpr=0.001))
    line = "vision_expert: no guarantee of fpr 0.001: it takes 999 negative rows, found"
    assert next(f for f in found.findings if f.startswith(line)).endswith("; nothing is blocked")
    assert one(found.policy, "vision_expert", 1.0, 1) == "review"


def test_a_policy_survives_the_disk(three_models, tmp_path):
    policy = fitted(three_models, in_sample=True, review=ReviewConfig(fnr=0.1)).policy
    policy.save(tmp_path / "policy_demo.json")
    again = Policy.load(tmp_path / "policy_demo.json")
    assert again == policy and again.in_sample and again.classes == (0, 1)
    content = json.loads((tmp_path / "policy_demo.json").read_text())
    assert list(content) == [
        "version", "run", "label", "classes", "probability_key", "in_sample", "approximate", "versions", "models",
        "base_rate", "rule", "expected", "review", "truncated", "unread", "data", "tuned_on", "date", "changes",
    ]  # fmt: skip
    assert content["review"] == {"fnr": 0.1, "fpr": None, "alpha": None, "per_language": False}


def damaged(content, **changed):
    return json.dumps({**content, **changed})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: "{", "is not valid JSON"),
        (lambda c: "[]", "expected an object, found list"),
        (lambda c: damaged(c, reviews=None), "unknown key 'reviews'; did you mean 'review'"),
        (
            lambda c: damaged(
                c, models={"m": {"calibration": {"method": "temperature", "temperature": 0}, "threshold": 0.5}}
            ),
            r"models\.m\.calibration\.temperature\.temperature = 0",
        ),
        (lambda c: damaged(c, models={"m": {"calibration": {"method": "temperature"}, "threshold": 1.5}}), "threshold"),
        (lambda c: damaged(c, models={"m": {"threshold": 0.5}}), r"'models\.m\.calibration' is required"),
        (lambda c: damaged(c, review={"fnr": 2}), "review"),
    ],
)
def test_a_damaged_policy_is_refused_with_the_name_of_its_file(three_models, tmp_path, damage, message):
    path = tmp_path / "policy_demo.json"
    fitted(three_models).policy.save(path)
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(RunError, match=message) as raised:
        Policy.load(path)
    assert "policy_demo.json" in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_policy_is_named(tmp_path):
    with pytest.raises(RunError, match=r"policy_demo\.json is missing"):
        Policy.load(tmp_path / "policy_demo.json")


def test_an_unknown_model_is_answered_with_the_known_ones(three_models):
    with pytest.raises(RunError, match="no model 'mm_fusoin'; did you mean 'mm_fusion'"):
        fitted(three_models).policy.threshold("mm_fusoin", "text")


def test_deciding_needs_neither_torch_nor_scikit_learn():
    program = (
        "import sys, bifocal.decide.policy, bifocal.evaluate.compare, bifocal.evaluate.error_table; "
        "print(*{'torch', 'sklearn', 'scipy', 'pandas'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.strip() == b""


def at_rate(rate: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Honest logits of two normal classes, of which the share ``rate`` is positive: Bayes' rule at one half."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < rate).astype(int)
    x = rng.normal(2.0 * y - 1, 1.5)
    margin = 4 * x / (2 * 1.5**2)
    return np.stack([-margin / 2, margin / 2], axis=1), y


def test_a_base_rate_adjusts_probabilities_to_where_they_are_used():
    tuned, (logits, labels) = at_rate(0.5, 6000, 0), at_rate(0.05, 60_000, 1)
    policy = fitted({"mm_fusion": {POOLED: tuned}}, base_rate=(0.95, 0.05)).policy
    as_val, there = (policy.probabilities("mm_fusion", logits, POOLED, adjusted=a)[:, 1] for a in (False, True))
    assert there.mean() == pytest.approx(labels.mean(), abs=0.005) and as_val.mean() > 0.15
    assert nll(labels, there) < nll(labels, as_val) - 0.05
    assert (np.argsort(there, kind="stable") == np.argsort(as_val, kind="stable")).all()
    assert fitted({"mm_fusion": {POOLED: tuned}}).policy.models["mm_fusion"].shares is None


@pytest.mark.parametrize(
    ("rule", "figure"),
    [({"by": "precision", "bound": 0.4}, "precision"), ({"by": "capacity", "bound": 0.03}, "flagged"), ({}, "f1")],
)
def test_thresholds_are_chosen_for_the_base_rate(rule, figure):
    rule = ThresholdConfig(**rule)
    tuned, (logits, labels) = at_rate(0.5, 20_000, 0), at_rate(0.05, 100_000, 1)
    adjusted = fitted({"mm_fusion": {POOLED: tuned}}, rule=rule, base_rate=(0.95, 0.05), groups=range(20_000)).policy
    p = adjusted.probabilities("mm_fusion", logits, POOLED)
    flags = p[:, 1] >= adjusted.threshold("mm_fusion", POOLED)
    hits = (flags & (labels == 1)).sum()
    found = {"precision": hits / flags.sum(), "flagged": flags.mean(), "f1": 2 * hits / (flags.sum() + labels.sum())}
    expected = adjusted.expected[figure]
    assert expected.low <= found[figure] <= expected.high and expected.high - expected.low < 0.25
    if rule.bound:
        assert found[figure] == pytest.approx(rule.bound, abs=0.05)


def test_figures_of_one_class_are_counted_as_before_at_another_base_rate():
    rule = ThresholdConfig(by="fpr", bound=0.05, confidence=0.9)
    scores = {"mm_fusion": {POOLED: at_rate(0.5, 2000, 0)}}
    plain, adjusted = (fitted(scores, rule=rule, base_rate=rate).policy for rate in (None, (0.9, 0.1)))
    logits = scores["mm_fusion"][POOLED][0]
    flags = [
        p.predictions("mm_fusion", p.probabilities("mm_fusion", logits, POOLED), POOLED) for p in (plain, adjusted)
    ]
    assert (flags[0] == flags[1]).all()


def test_several_classes_are_adjusted_too():
    logits, labels = scored(3000, classes=3)
    policy = fitted({"m": {POOLED: (logits, labels)}}, classes=("a", "b", "c"), base_rate=(0.8, 0.1, 0.1)).policy
    assert policy.probabilities("m", logits, POOLED)[:, 0].mean() > 0.6
    rare = fitted(
        {"m": {POOLED: (logits[labels < 2], labels[labels < 2])}}, classes=("a", "b", "c"), base_rate=(0.8, 0.1, 0.1)
    )
    assert np.isfinite(rare.policy.probabilities("m", logits, POOLED)).all()


NAMES = ("a", "b", "c")


def test_prediction_sets_leave_out_the_right_class_as_seldom_as_promised():
    """Over 500 splits of a pool: of each class at most alpha on average, whatever the probabilities are worth."""
    logits, labels = scored(3000, classes=3, sharpening=3.0)
    rng = np.random.default_rng(0)
    missed = {c: [] for c in range(3)}
    alone = []
    for _ in range(500):
        tuned, new = np.split(rng.permutation(3000), [600])
        policy = fitted(
            {"m": {POOLED: (logits[tuned], labels[tuned])}}, classes=NAMES, review=ReviewConfig(alpha=0.1)
        ).policy
        p = policy.probabilities("m", logits[new], POOLED)
        sets = policy.candidates("m", p, POOLED)
        for c in range(3):
            missed[c].append(1 - sets[labels[new] == c, c].mean())
        alone.append((policy.actions("m", p, policy.predictions("m", p, POOLED), POOLED) == "").mean())
    for rates in missed.values():
        assert 0.09 < np.mean(rates) <= 0.1 + 2 * np.std(rates) / np.sqrt(500)
    assert 0.1 < np.mean(alone) < 0.9


def test_a_class_with_few_rows_is_always_in_the_set():
    logits, labels = scored(400, classes=3)
    keep = (labels < 2) | (np.arange(400) < 20)
    found = fitted({"m": {POOLED: (logits[keep], labels[keep])}}, classes=NAMES, review=ReviewConfig(alpha=0.05))
    assert (labels[keep] == 2).sum() < 19
    assert found.policy.models["m"].least[2] is None
    assert "m: no guarantee of alpha 0.05 for c: it takes 19 rows of a class; always in the set" in found.findings
    p = np.array([[1.0, 0.0, 0.0]])
    assert found.policy.candidates("m", p, POOLED).tolist() == [[True, False, True]]
    assert found.policy.actions("m", p, np.array([0]), POOLED).tolist() == ["review"]


def test_without_sets_several_classes_name_no_action():
    policy = fitted({"m": {POOLED: scored(300, classes=3)}}, classes=NAMES).policy
    p = np.array([[0.4, 0.3, 0.3]])
    assert policy.candidates("m", p, POOLED) is None
    assert policy.actions("m", p, np.array([0]), POOLED).tolist() == [""]


def test_thresholds_per_class_find_rare_classes(tmp_path):
    """A rare class that is seldom likeliest: its best F1 against the rest lies under the likeliest's."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.5]])
    y = rng.choice(3, 6000, p=[0.8, 0.15, 0.05])
    x = centres[y] + rng.normal(0, 1, (6000, 2))
    logits = -((x[:, None] - centres) ** 2).sum(axis=2) / 2 + np.log([0.8, 0.15, 0.05])
    tuned, new = slice(0, 3000), slice(3000, None)
    f1 = {}
    for per_class in (False, True):
        found = fitted(
            {"m": {POOLED: (logits[tuned], y[tuned])}}, classes=NAMES, rule=ThresholdConfig(per_class=per_class)
        )
        p = found.policy.probabilities("m", logits[new], POOLED)
        f1[per_class] = macro_f1(y[new], p, predictions=found.policy.predictions("m", p, POOLED))
    assert f1[True] > f1[False] + 0.02
    lines = thresholds_file(found)["m"]["offensive"]
    assert list(lines) == list(NAMES) and lines["c"] < lines["a"]
    assert found.policy.threshold("m", POOLED, 2) == lines["c"]
    found.policy.save(tmp_path / "policy.json")
    assert Policy.load(tmp_path / "policy.json") == found.policy


def test_bands_within_a_language_bound_errors_there_too():
    """Scores of one language lie lower: the common band allows too many of its positives."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 6000)
    language = np.where(rng.random(6000) < 0.3, "de", "en").astype(object)
    margin = rng.normal(1.2 * (2 * y - 1) + 2.0 * (language == "en"), 1.0)
    logits = np.stack([-margin / 2, margin / 2], axis=1)
    tuned, new = slice(0, 3000), slice(3000, None)
    rates = {}
    for per_language in (False, True):
        policy = fitted(
            {"m": {POOLED: (logits[tuned], y[tuned])}},
            review=ReviewConfig(fnr=0.1, per_language=per_language),
            languages=language[tuned],
        ).policy
        p = policy.probabilities("m", logits[new], POOLED)
        done = policy.actions("m", p, policy.predictions("m", p, POOLED), POOLED, language[new])
        rates[per_language] = (done[(y[new] == 1) & (language[new] == "de")] == "allow").mean()
    assert rates[False] > 0.2 and rates[True] <= 0.12
    assert set(policy.models["m"].languages) == {"de", "en"}
    few = fitted(
        {"m": {POOLED: (logits[:600], y[:600])}},
        review=ReviewConfig(fnr=0.001, per_language=True),
        languages=language[:600],
    )
    assert set(few.policy.models["m"].languages) == {"en"}
    assert any(f.startswith("m: posts in en: no guarantee of fnr 0.001") for f in few.findings)


@pytest.mark.parametrize("unread", [None, "review"])
def test_the_policy_holds_what_is_done_with_unread_pictures(three_models, unread):
    assert fitted(three_models, unread=unread).policy.unread == unread
