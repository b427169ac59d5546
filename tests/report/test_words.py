"""Findings are what the artifacts say, and the words made of them are complete, careful and free of verdicts."""

import csv

import pytest

from bifocal.errors import RunError
from bifocal.evaluate.curves import reliability
from bifocal.report.findings import TEXT_LENGTH, findings
from bifocal.report.markdown import to_markdown
from bifocal.report.model_card import write_model_card
from bifocal.report.words import answer, asked, limitations, number, signed
from bifocal.workspace import Workspace, read_json, write_json

VERDICTS = ("worth", "undecided", "significant", "outperform", "beats", "wins over", "better than")


def edit(path, change):
    content = read_json(path)
    change(content)
    write_json(path, content)


def test_findings_hold_the_headline_the_gain_and_the_counts(fake_run):
    facts = findings(fake_run())
    assert facts["headline"] == {
        "model": "mm_fusion", "metric": "auroc", "split": "test", "value": pytest.approx(0.65),
        "low": pytest.approx(0.60), "high": pytest.approx(0.70), "n": 200, "positives": 100,
    }  # fmt: skip
    assert facts["gain"]["over"] == "text_expert"
    assert list(facts["models"]) == ["text_expert", "vision_expert", "mm_fusion"]
    assert facts["models"]["mm_fusion"]["formula"] == "softmax(logits / 1.250)"
    assert facts["data"]["rows"] == {"train": 700, "val": 60, "test": 200}
    assert facts["made"]["kept_for_fusion"] == {"share": 0.2, "n": 140}
    marks = facts["marks"]
    assert marks["approximate"] and marks["ece_is_chance"] and not marks["in_sample"]
    assert (marks["tuned_on"], marks["tuned_rows"], marks["tuned_rarest"]) == ("val", 60, 30)


def test_the_worst_errors_come_first_and_short(fake_run):
    errors = findings(fake_run())["errors"]
    assert errors["n"] == 2
    assert [(e["id"], e["type"], round(e["confidence"], 2)) for e in errors["worst"]] == [
        ("p0", "FP", 0.95),
        ("p2", "FN", 0.9),
    ]
    assert len(errors["worst"][1]["text"]) == TEXT_LENGTH
    assert "vision" not in errors["worst"][1]["said"]  # it had no opinion
    assert errors["worst"][0]["said"]["text"] == {"pred": "1", "prob": 0.9}


def test_a_multiclass_run_counts_by_class(fake_run):
    facts = findings(fake_run(multiclass=True))
    assert facts["classes"] == [
        {"class": "none", "rows": 1, "named": 2, "right": 1},
        {"class": "one", "rows": 1, "named": 0, "right": 0},
        {"class": "two", "rows": 1, "named": 1, "right": 1},
    ]
    assert [e["id"] for e in facts["errors"]["worst"]] == ["p1"]
    assert facts["curve"] == []
    assert facts["marks"]["tuned_rarest"] == 15


def test_reliability_counts_every_row_once():
    bins = reliability([0.05, 0.1, 0.11, 0.95, 1.0], [False, True, True, True, True])
    assert [b["n"] for b in bins] == [2, 1, 2]
    assert bins[0]["predicted"] == pytest.approx(0.075)
    assert bins[0]["observed"] == 0.5
    assert bins[2]["low"] < 1 == bins[2]["observed"] <= bins[2]["high"]
    assert reliability([], []) == []


def test_a_missing_artifact_is_named(fake_run):
    folder = fake_run()
    Workspace.of(folder).errors.unlink()
    with pytest.raises(RunError, match=r"errors_made-up\.csv is missing"):
        findings(folder)
    Workspace.of(folder).results.unlink()
    with pytest.raises(RunError, match=r"results_made-up\.json is missing"):
        findings(folder)


def test_a_post_longer_than_csv_expects_does_not_cost_the_report(fake_run):
    worst = findings(fake_run(text="x" * 300_000))["errors"]["worst"]
    assert worst[0]["text"] == "x" * (TEXT_LENGTH - 1) + "…"
    assert csv.field_size_limit() > 300_000


@pytest.mark.parametrize("kind", [{}, {"multiclass": True}, {"single": True}, {"in_sample": True}])
def test_the_answer_is_short_has_numbers_and_gives_no_verdict(fake_run, kind):
    facts = findings(fake_run(**kind))
    sentences = answer(facts)
    assert 3 <= len(sentences) <= 5
    assert all(any(c.isdigit() for c in s) or "one modality" in s for s in sentences)
    said = to_markdown(facts).lower()
    assert not [word for word in VERDICTS if word in said]


def test_the_answer_of_a_binary_run(fake_run):
    ranks, gain, decision, calibration = answer(findings(fake_run()))
    assert ranks == (
        "On 200 test posts (100 positive), mm_fusion ranks a positive post above a negative one 65% of the time: "
        "AUROC 0.650 (95% interval 0.600 to 0.700)."
    )
    assert (
        "Its gain is −0.012 AUROC over text_expert (95% interval −0.051 to +0.031) and +0.020 AUROC over vision_"
        in gain
    )
    assert "The least of them, which is what reading text and image together adds, lies between −0.051 and" in gain
    assert "a gain of 0.058 or more had an 80% chance of showing" in gain
    assert "flags 100 posts, 70 of them rightly (70%), and misses 25 of the 95 positive ones (26%)" in decision
    assert "threshold of 0.45, chosen on val by the best F1 (posts that lack a part have their own)" in decision
    assert "commonest class of train would be right on 50%" in decision
    assert "Brier from 0.640 to 0.650" in calibration


def test_the_rule_of_the_threshold_and_what_to_expect_of_it_are_told(fake_run):
    facts = findings(fake_run())
    facts["marks"]["rule"] = "precision at least 0.9"
    facts["marks"]["expected"] = {
        "precision": {"value": 0.88, "low": 0.812, "high": 0.94},
        "recall": {"value": 0.5, "low": 0.4, "high": 0.6},
    }
    decision = answer(facts)[2]
    assert "threshold of 0.45, chosen on val by precision at least 0.9 (posts" in decision
    assert decision.endswith("precision of 0.81 to 0.94 and recall of 0.40 to 0.60 are expected (90% intervals).")


def test_the_figure_that_was_asked_for_stands_beside_the_one_expected(fake_run):
    facts = findings(fake_run())
    asked = {"of": "threshold", "figure": "fpr", "at_least": None, "at_most": 0.02, "expected": None}
    found = {**asked, "value": 0.031, "low": 0.018, "high": 0.047}
    facts["rule_figures"] = [found]
    told = "false-positive rate on test 0.031 [0.018, 0.047], asked at most 0.02"
    assert f"The figure that its threshold was chosen for: {told}." in answer(facts)[2]
    found["expected"] = {"value": 0.022, "low": 0.011, "high": 0.036}
    assert f"{told}, expected 0.022 [90%: 0.011, 0.036]." in answer(facts)[2]
    found["rows"] = 1200
    assert "on test (1,200 posts without a threshold of their own) 0.031 [0.018" in answer(facts)[2]
    del found["rows"]
    facts["actions"] = {action: {"negative": 5, "positive": 5, "none": 0} for action in ("allow", "review", "block")}
    facts["rule_figures"] = [{**found, "of": "review", "figure": "fnr", "at_most": 0.1, "expected": None}]
    told = "Share of positive posts allowed without a person on test 0.031 [0.018, 0.047], asked at most 0.1."
    assert answer(facts)[2].endswith(told)


def test_of_a_threshold_by_hand_nothing_is_expected_but_where_a_rule_found_it(fake_run):
    folder = fake_run()
    who = {"date": "2026-11-30", "by": "A", "why": "B", "version": "of before"}
    change = {**who, "model": "mm_fusion", "pattern": "pooled", "before": 0.45, "after": 0.6}

    def by_hand(*changes):
        def change_policy(policy):
            policy |= {"changes": changes, "expected": {"f1": {"value": 0.6, "low": 0.5, "high": 0.7}}}

        edit(Workspace.of(folder).policy, change_policy)
        return findings(folder)

    facts = by_hand(change, {**change, "pattern": "text", "rule": {"by": "recall", "bound": 0.9}})
    assert facts["marks"]["rule"] is None and facts["marks"]["expected"] == {}
    assert "threshold of 0.45, set by hand (posts" in answer(facts)[2]
    by_rule = {**change, "rule": {"by": "fpr", "bound": 0.02}}
    facts = by_hand(change, by_rule, {**change, "review": {"fnr": 0.1}}, {**by_rule, "pattern": "text"})
    assert facts["marks"]["rule"] == "false-positive rate at most 0.02" and facts["marks"]["expected"]
    for others in ((), ({**change, "pattern": "text"},)):  # posts of text alone are decided by another rule, by hand
        facts = by_hand(by_rule, *others)
        assert facts["marks"]["rule"] == "false-positive rate at most 0.02" and facts["marks"]["expected"] == {}


def test_the_review_band_tells_whom_it_asks(fake_run):
    facts = findings(fake_run())
    facts["actions"] = {
        "allow": {"negative": 80, "positive": 5, "none": 0},
        "review": {"negative": 15, "positive": 45, "none": 0},
        "block": {"negative": 5, "positive": 50, "none": 0},
    }
    decision = answer(facts)[2]
    assert "By its review band 30% of the posts go to a person" in decision
    assert decision.endswith("positive ones 5% are allowed and of the negative ones 5% blocked without one.")


def test_one_modality_has_no_gain(fake_run):
    facts = findings(fake_run(single=True))
    assert facts["gain"] is None
    assert "no gain to report" in answer(facts)[1]
    assert len(asked(facts)) == 1
    assert not any("verdict" in s for s in limitations(facts))


def test_in_sample_comes_first(fake_run):
    facts = findings(fake_run(in_sample=True))
    assert limitations(facts)[0].startswith("In-sample: there is no val split")
    assert "On 200 training posts" in answer(facts)[0]
    assert to_markdown(facts).index("In-sample") < to_markdown(facts).index("## Answer")


def test_a_tested_run_tuned_on_train_is_marked_too(fake_run):
    folder = fake_run()
    edit(Workspace.of(folder).results, lambda r: r.update(in_sample=True, tuned_on="train"))
    first = limitations(findings(folder))[0]
    assert "tuned on the rows the models learned from" in first
    assert "say nothing" not in first


def test_limits_are_named_where_they_are_and_only_there(fake_run):
    said = " ".join(limitations(findings(fake_run())))
    assert "One val split of 60 rows (30 of its rarest class)" in said
    assert "ECE is no target under 2,000 rows, and here are 200" in said
    assert "near-duplicates in an earlier split: 4 in test; they were kept" in said
    assert "2 rows could not be read and 1 bear no label" in said
    assert "Over 5 seeds the AUROC of mm_fusion is 0.631 ± 0.012" in said
    assert "class shares" not in said

    large = fake_run("large", n=2000)
    space = Workspace.of(large)
    edit(space.policy, lambda p: p.update(approximate=False))
    shares = {"val": [0.1667, 0.8333], "test": [0.5, 0.5]}
    edit(space.results, lambda r: r.update(class_shares={"shares": shares, "p": 0.00001, "differ": True}))
    edit(space.record, lambda r: r["steps"]["splits"]["leakage"].update(action="drop"))
    edit(space.record, lambda r: r["steps"]["manifest"].update(quarantined=0, unlabelled=0, reasons={}))
    said = " ".join(limitations(findings(large)))
    assert "ECE" not in said
    assert "approximate" not in said
    assert "could not be read" not in said
    told = (
        "by more than chance (p < 0.001): val 83% positive, test 50% positive. Temperature and threshold were tuned on"
    )
    assert told in said
    assert "they were dropped" in said


def test_without_a_test_split_the_figures_are_said_to_flatter(fake_run):
    folder = fake_run()
    edit(Workspace.of(folder).results, lambda r: r.update(tested_on="val"))
    assert any("There is no test split" in s for s in limitations(findings(folder)))


def test_what_the_rows_cannot_define_is_said(fake_run):
    folder = fake_run()

    def undefined(results):
        nothing = {"value": None, "low": None, "high": None}
        for model in results["models"].values():
            for stage in ("metrics", "calibrated"):
                if stage in model["test"]:
                    model["test"][stage] = dict.fromkeys(model["test"][stage], nothing)
        results["gain"].update(value=None, low=None, high=None, detectable=None)

    edit(Workspace.of(folder).results, undefined)
    facts = findings(folder)
    assert "one class only" in answer(facts)[0]
    assert "cannot be measured" in answer(facts)[1]
    assert "| mm_fusion | n/a |" in to_markdown(facts)


def test_numbers_for_people():
    assert (number(None), number(-0.0104), signed(0.5), signed(-0.5)) == ("n/a", "−0.010", "+0.500", "−0.500")


def test_a_choice_between_encoders_is_told_with_its_figures(fake_run):
    folder = fake_run()
    tried = {"tabular_expert": {"boosted_trees": 0.9151, "mlp_tabular": 0.9}}
    edit(folder / "run.json", lambda record: record["steps"]["experts"].update(tried=tried))
    page = to_markdown(findings(folder))
    assert "The encoder of tabular_expert is the best of 2 on val" in page
    assert "boosted_trees 0.915, mlp_tabular 0.900" in page


def test_a_choice_by_cross_fitted_loss_is_told_as_such(fake_run):
    folder = fake_run()
    tried = {"tabular_expert": {"mlp_tabular": 0.3102, "boosted_trees": 0.3155}}
    steps = {"tried": tried, "tried_on": {"tabular_expert": "train"}}
    edit(folder / "run.json", lambda record: record["steps"]["experts"].update(steps))
    page = to_markdown(findings(folder))
    assert "the smallest of 2 that tie with the best, by loss on training rows, cross-fitted" in page
    assert "mlp_tabular 0.310, boosted_trees 0.316" in page


def test_an_empty_line_in_a_name_ends_no_sentence(fake_run):
    facts = findings(fake_run())
    facts["label"]["description"] = "So it\n\nis."
    assert "abuse_hate (“So it is”) apply?" in asked(facts)[0]


def chosen_from(folder, **changes):
    """The page of a run whose fusion `auto` took from two."""
    candidates = [
        {"name": "linear", "loss": 0.5312, "behind": 0.0, "error": 0.0, "trained": 400},
        {"name": "alone", "loss": 0.5334, "behind": 0.0022, "error": 0.003, "trained": 0},
    ]
    shares = {"loss": 0.6931, "behind": 0.1597, "error": 0.01, "beaten": True}
    choice = {"asked": "auto", "strategy": "alone", "alone": "text", "members": {}, "candidates": candidates}
    choice |= {"class_shares": shares, **changes}
    edit(folder / "run.json", lambda r: r["steps"].update(fusion={"seconds": 1.0, "choice": choice}))
    return to_markdown(findings(folder)), write_model_card(folder, "mm_fusion").read_text()


def test_a_choice_between_fusions_is_told_with_how_close_it_was(fake_run):
    for text in chosen_from(fake_run()):
        assert "Text alone is enough: of 2 strategies none that learns was better" in text
        assert "linear 0.5312, alone 0.5334 (0.0022 ± 0.0030); the class shares of train alone have 0.6931." in text


def test_where_nothing_beats_the_class_shares_no_part_is_called_enough(fake_run):
    for text in chosen_from(fake_run(), class_shares={"loss": 0.69, "behind": 0.001, "error": 0.004, "beaten": False}):
        assert "The fusion is not shown to tell the classes apart" in text and "is enough" not in text


def test_a_choice_of_an_earlier_version_has_no_class_shares(fake_run):
    folder = fake_run()
    chosen_from(folder)
    edit(folder / "run.json", lambda r: r["steps"]["fusion"]["choice"].pop("class_shares"))
    assert "Text alone is enough" in to_markdown(findings(folder))
