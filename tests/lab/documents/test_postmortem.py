"""`postmortem.md` answers its six questions for any sets, in the right number."""

import copy
import json
import re
from pathlib import Path

import pytest

from bifocal.lab.documents.postmortem import QUESTIONS, postmortem

EXAMPLE = json.loads((Path(__file__).parent / "lab_results.json").read_text(encoding="utf-8"))
SETS = {name: {**found, "name": name} for name, found in EXAMPLE.items()}


def written(*names):
    return postmortem([copy.deepcopy(SETS[name]) for name in names], "lab")


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
    assert "**Fusion is worth it on none of the 2 sets whose answer was open; 2 are undecided.**" in text
    assert "**Fusion is worth it on both sets whose right verdict is known beforehand.**" in text
    assert "The lab gives the right verdict on both sets" in text


def test_the_best_strategy_is_the_one_that_ties_most_often():
    text = written("and", "xor")
    # Late fusion is at chance on XOR, and as good as any on AND.
    assert re.search(r"\*\*`(concat|attention)`: within 0.01 of the best fusion on both sets", text)
    assert "The largest shortfall on one set is that of `mean`" in text


def test_a_growth_that_explodes_is_named():
    assert "**Of 3 strategies 1 grows explosively.**" in written("and")
    assert "The growth with feature width was not measured" in written("three")


def test_a_verdict_that_misses_the_known_answer_is_named():
    missed = copy.deepcopy(SETS["and"])
    missed["about"]["expected"] = "not worth it"
    text = postmortem([missed, SETS["xor"]], "lab")
    assert "on 1 of the 2 sets" in text and "It does not on Generated, AND." in text
