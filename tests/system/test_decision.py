"""A Decision as the dictionary that it reads like."""

from dataclasses import replace

from bifocal.system.decision import Decision, LabelDecision


def test_a_decision_equals_the_dictionary_that_it_reads_like():
    answer = LabelDecision(0.7, 1, 0.5, "block", "so", {})
    decision = Decision(
        0.7, 1, 0.5, "block", "so", {}, {"text": True}, "words", "en", {}, "prob_hate", labels={"hate": answer}
    )  # fmt: skip
    assert dict(decision) == decision.to_dict() == decision == decision.to_dict()
    assert decision == replace(decision) and decision["prob_hate"] == 0.7 and "prob" not in decision
    others = [
        replace(decision, labels={"hate": None}),
        replace(decision, text_used=""),
        {},
        {**decision, "label": 0},
        1,
    ]
    assert all(decision != other for other in others)
