"""`postmortem.md` answers its six questions for any sets, in the right number."""

import json
import re
from pathlib import Path

import pytest

from bifocal.lab.documents.postmortem import postmortem
from bifocal.lab.results import LabResults

EXAMPLE = json.loads((Path(__file__).parent / "lab_results.json").read_text(encoding="utf-8"))
SETS = {name: LabResults(**found, name=name) for name, found in EXAMPLE.items()}
QUESTIONS = (
    "Did fusion meaningfully outperform?", "Which strategy was best?", "Were fusions robust to missing modalities?",
    "Was training less stable than that of one modality?", "Did parameters scale linearly or explosively?",
    "When is multimodal modelling worth it?",
)  # fmt: skip


def written(*names):
    return postmortem([SETS[name] for name in names], "lab")


@pytest.mark.parametrize("names", [("and",), ("colours",), ("three",), ("and", "xor"), ("xor", "three"), tuple(SETS)])
def test_every_question_has_an_answer_for_any_sets(names):
    text = written(*names)
    for i, question in enumerate(QUESTIONS, 1):
        answer = text.split(f"## {i}. {question}\n\n")[1].split("\n## ")[0]
        assert answer.split("\n")[0].endswith((".", ".**")), answer
    assert not re.search(r"\bNone\b(?! of the)|\bnan\b|[{}]|\[\]", text)
    assert not re.search(r"\b1 (sets|fusions|fits|trials|strategies)\b|\b[2-9] (set|fusion|fit|trial|strategy)\b", text)


def test_verdicts_are_counted_apart_where_the_answer_was_known():
    text = written(*SETS)
    assert "**Fusion is worth it on none of the 2 sets whose answer was open (2 undecided).**" in text
    assert "**Fusion is worth it on both sets whose right verdict is known beforehand.**" in text
    assert "The lab gives the right verdict on both sets" in text


def test_the_best_strategy_is_the_one_that_ties_most_often():
    text = written("and", "xor")
    # Late fusion is at chance on XOR, and as good as any on AND.
    assert re.search(r"\*\*`(concat|attention)`: within 0.01 of the best fusion on both sets", text)
    assert "The largest shortfall on one set is that of `mean`" in text


def test_a_growth_that_explodes_is_named():
    assert "**Explosive growth: 1 of 3 strategies.**" in written("and")
    assert "The growth with feature width was not measured" in written("three")


def test_a_verdict_that_misses_the_known_answer_is_named():
    about = {**EXAMPLE["and"]["about"], "expected": "not worth it"}
    missed = LabResults(**{**EXAMPLE["and"], "name": "and", "about": about})
    text = postmortem([missed, SETS["xor"]], "lab")
    assert "on 1 of the 2 sets" in text and "Not on Generated, AND." in text
