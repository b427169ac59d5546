"""What the command line prints of decisions."""

import bifocal
from bifocal.cli.decision_tables import print_decision


def test_a_decision_has_a_line_for_each_further_label(labels_run, capsys):
    urgent, quiet = bifocal.load(labels_run).predict_batch(
        [
            {"text": "quickly note about fire here", "tabular": {"price": 120, "room": "hall"}},
            {"text": "sometime note about matters", "tabular": {"price": 20, "room": "cellar"}},
        ]
    )
    print_decision(urgent, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    paid = urgent.labels["paid"]
    assert f"paid: review, 1 with {paid.probability:.3f} (threshold {paid.threshold:.2f})" in lines
    assert any(line.startswith("kind: no action, fire with") and "the likeliest class" in line for line in lines)
    assert not any(line.startswith("urgent: 1") for line in lines)
    print_decision(quiet, as_json=False)
    assert "kind: not asked, as the label that it requires is not flagged" in capsys.readouterr().out
