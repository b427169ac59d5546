"""The document of a set says what its results hold, and what they lack."""

import json
import re
from pathlib import Path

import pytest

from bifocal.lab.documents.set_document import set_document
from bifocal.lab.results import LabResults

EXAMPLE = json.loads((Path(__file__).parent / "lab_results.json").read_text(encoding="utf-8"))


def written(name, **changes):
    return set_document(LabResults(**{**EXAMPLE[name], "name": name, **changes}), "../../experiments.md", {})


@pytest.mark.parametrize("name", EXAMPLE)
def test_nothing_of_the_machine_shows(name):
    text = written(name)
    assert not re.search(r"\bNone\b|\bnan\b|[{}]|\[\]|  \.| ,", text)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_what_was_thought_before_stands_before_the_results():
    text = written("and")
    order = ["The text carries one hidden bit", "Why fusion might help", "## Pipelines", "## One modality at a time",
             "## Fusions", "## Dominance", "## Ablation", "## A modality weakened", "## Stability",
             "## Joint training", "## Verdict"]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_the_figures_are_those_of_the_results():
    found, text = EXAMPLE["and"], written("and")
    for figure in (found["gain"], found["over_control"]):
        assert f"+{figure['value']:.3f} [+{figure['low']:.3f}, +{figure['high']:.3f}]" in text
    head = next(b for b in found["baselines"] if b["model"] == "text: MLP head")
    line = next(line for line in text.splitlines() if line.startswith("| **text: MLP head**"))
    assert f"{head['val']['auroc']:.3f}" in line and f"{head['test']['nll']['value']:.3f}" in line
    assert "**Worth it, additive.** `mean` over `text: MLP head` (AUROC, 300 test rows)" in text
    assert "The known answer is *worth it, additive*: met." in text


def test_every_gain_is_told_and_the_least_of_them_judged():
    gains = {
        "text": {"value": 0.2, "low": 0.144, "high": 0.2694},
        "image": {"value": 0.02, "low": 0.004, "high": 0.036, "detectable": 0.023},
    }
    least = {**EXAMPLE["and"]["gain"], **gains["image"], "high": 0.038, "over": "image"}
    verdict = {"word": "gain shown", "kind": None, "reason": "both lie above 0", "more_rows": 600, "sentence": ""}
    text = written("and", gains=gains, gain=least, verdict=verdict)
    assert "**Gain shown.** `mean` over `vision_expert` (AUROC, 300 test rows): both lie above 0." in text
    assert "| `text: MLP head`, text alone | +0.200 [+0.144, +0.269] |" in text
    assert "| `vision_expert`, image alone | +0.020 [+0.004, +0.036] |" in text
    assert "| every modality alone: the least of these | +0.020 [+0.004, +0.038] |" in text
    assert "A gain of 0.023 or more over `vision_expert` had an 80% chance" in text  # that over text has another
    assert "more than `vision_expert`" in text and "earlier rule" not in text


def test_a_verdict_of_the_earlier_rule_is_told_to_be_one():
    text = written("and")
    assert "This is the verdict of an earlier rule, by the gain over `text: MLP head` alone" in text
    assert "| `vision_expert`, image alone | +0.179 |" in text and "the least of these" not in text
    assert "would not be *worth it*" not in text
    short = written("and", gain={**EXAMPLE["and"]["gain"], "low": 0.004})
    assert "it would not be *worth it*: the lower end of that gain is below the margin of 0.01" in short


def test_a_part_that_was_not_run_is_named_with_its_reason():
    text = written("colours")
    assert "- Not run for this set: joint training (encoders of this run keep no tokens)." in text
    assert "## Joint training" not in text
    assert "Not run for this set: pipelines, corruption of inputs, weakening" in written("three")


def test_fusions_stand_in_the_order_of_val():
    text = written("xor")
    rows = text[text.index("## Fusions") :].splitlines()[4 : 4 + len(EXAMPLE["xor"]["fusions"])]
    values = [float(row.split("|")[2]) for row in rows]
    assert values == sorted(values, reverse=True)


def test_a_tie_that_is_no_smaller_is_none():
    least = next(row for row in EXAMPLE["and"]["fusions"] if row["model"] == "mean")
    fusions = [*EXAMPLE["and"]["fusions"], {**least, "model": "alone"}]
    assert "No smaller fusion ties" in written("and", fusions=fusions, smallest_tie="alone")


def test_the_ensemble_stands_below_the_fusions():
    lines = written("xor", ensemble={**EXAMPLE["xor"]["fusions"][0], "model": "ensemble"}).splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("| ensemble |"))
    assert lines[place + 1] == "" and "The last line stands beside them" in "".join(lines[place + 1 : place + 6])


def test_a_missed_answer_is_told():
    about = {**EXAMPLE["and"]["about"], "expected": "not worth it"}
    assert "The known answer is *not worth it*: not met." in written("and", about=about)


def test_titles_are_no_markup():
    assert "Shop \\| &lt;colours&gt;" in written("colours")


def test_without_a_gain_there_is_no_price_of_a_point():
    assert "there is no gain to set this against" in written("three")
