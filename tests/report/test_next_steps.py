import copy

import pytest

from bifocal.assess.predictions import MAJORITY
from bifocal.report.findings import findings
from bifocal.report.markdown import to_markdown
from bifocal.report.next_steps import next_steps


@pytest.fixture
def facts(fake_run):
    return copy.deepcopy(findings(fake_run()))


def said(facts, word):
    """The one step that tells of something; none where nothing does."""
    found = [step for step in next_steps(facts) if word in step]
    assert len(found) <= 1
    return found[0] if found else None


def headline(facts, low, high, n=200, positives=100):
    facts["headline"] |= {"value": (low + high) / 2, "low": low, "high": high, "n": n, "positives": positives}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((0.80, 0.86, 2000, 600), "Enough tested posts to say how good it is: AUROC 0.830 [0.800, 0.860] on 2,000."),
        ((0.65, 0.95, 60, 18), "Within ±0.05 takes about 600 of them."),
        ((1.0, 1.0, 60, 18), "Within ±0.05 takes about 200 of them."),  # without an error nothing is sure yet
        ((0.80, 0.86, 2000, 7), "Too few tested posts"),
    ],
)
def test_whether_the_tested_posts_are_enough(facts, given, told):
    headline(facts, *given)
    assert told in next_steps(facts)[0]


def test_nothing_is_known_of_a_run_in_sample(fake_run):
    first, *others = next_steps(findings(fake_run(in_sample=True)))
    assert not any("At its threshold" in step or "bifocal lab" in step for step in others)
    assert "not known: nothing was kept aside" in first and "set splits: {val: 0.2, test: 0.2}" in first


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (-0.05, 0.004, "below 0.01 with its whole interval"),
        (-0.02, 0.06, "whether there is one is open. About"),
        (0.02, 0.06, None),
    ],
)
def test_whether_a_part_pays_is_told_by_the_interval_and_left_to_the_lab(facts, low, high, told):
    facts["gain"] |= {"value": (low + high) / 2, "low": low, "high": high, "detectable": 0.1, "n": 200}
    step = said(facts, "bifocal lab")
    assert (step is None) if told is None else told in step


def test_an_expert_at_chance_is_named_with_what_to_set(facts):
    facts["models"]["vision_expert"]["calibrated"]["auroc"] |= {"value": 0.52, "low": 0.44, "high": 0.6}
    assert "leave the part out of modalities" in said(facts, "vision_expert is not shown")
    facts["made"]["config"]["experts"] = {"image": {"model": "tiny"}}
    assert "name a pretrained model (experts.image.model) for tiny" in said(facts, "vision_expert is not shown")


def test_rows_that_could_not_be_read_are_told_where_they_are_many(facts):
    facts["data"] |= {"examples": 1000, "quarantined": 5}
    assert said(facts, "could not be read") is None
    facts["data"]["quarantined"] = 100
    assert "100 of 1,100 rows could not be read (9%): `bifocal inspect CONFIG`" in said(facts, "could not be read")


def test_too_few_rows_for_calibration_and_a_wide_threshold(facts):
    main = facts["models"][facts["headline"]["model"]]
    main["few_rows"] = {"1": 3}
    facts["marks"]["expected"] = {"precision": {"value": 0.7, "low": 0.5, "high": 0.9}}
    assert "holds 3 of class 1" in said(facts, "probabilities that mean")
    assert "anything from 0.50 to 0.90" in said(facts, "The threshold rests on")


def test_commands_are_code_in_markdown(facts):
    text = to_markdown(facts).partition("## What to do next")[2].partition("##")[0]
    assert "posts: `bifocal score runs/made-up NEW.csv -o decisions.csv`" in text and "\\`" not in text


def test_commands_name_the_run_s_folder(facts):
    steps = next_steps(facts, "elsewhere/made-up")
    assert any("`bifocal score elsewhere/made-up NEW.csv -o decisions.csv`" in step for step in steps)
    assert all("runs/" not in step for step in steps)


def test_several_classes_and_one_modality(fake_run):
    for kind in ({"multiclass": True}, {"single": True}):
        steps = next_steps(findings(fake_run(**kind)))
        assert steps and all(step.endswith(".") for step in steps)
        assert MAJORITY not in " ".join(steps)
