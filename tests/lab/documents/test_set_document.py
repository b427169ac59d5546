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


def test_a_missed_answer_is_told():
    about = {**EXAMPLE["and"]["about"], "expected": "not worth it"}
    assert "The known answer is *not worth it*: not met." in written("and", about=about)


def test_titles_are_no_markup():
    assert "Shop \\| &lt;colours&gt;" in written("colours")


def test_without_a_gain_there_is_no_price_of_a_point():
    assert "there is no gain to set this against" in written("three")
