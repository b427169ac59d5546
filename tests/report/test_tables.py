"""The tables of a run hold its figures, each with its interval."""

import pytest

from bifocal.report import tables
from bifocal.report.drawings import draw_figures
from bifocal.report.findings import findings
from bifocal.report.words import p_value


def test_a_figure_shows_what_calibration_changed():
    at = {"low": 0.1, "high": 0.3}
    assert tables.figure({"value": 0.2, **at}) == ("0.200", "[0.100, 0.300]")
    assert tables.figure({"value": 0.2, **at}, {"value": 0.20004, **at}).value == "0.200"
    unknown = {"low": None, "high": None}
    assert tables.figure({"value": 0.2, **unknown}, {"value": 0.3, **unknown}) == ("0.200 → 0.300", "")


@pytest.mark.parametrize("multiclass", [False, True])
def test_every_row_has_a_cell_for_every_column(fake_run, multiclass):
    facts = findings(fake_run(multiclass=multiclass))
    made = [tables.models(facts), tables.metrics(facts), tables.model(facts, "mm_fusion"), tables.decisions(facts)]
    for table in (*made, tables.patterns(facts), *tables.data(facts), *tables.making(facts)):
        assert all(len(row) == len(table.head) for row in table.cells)
    assert [row[0].value for row in tables.models(facts).cells] == [*facts["models"], "majority"]


def test_a_p_value_is_never_zero(fake_run):
    assert [p_value(p) for p in (0.0, 4e-9, 0.001, 0.25, 1.0)] == ["< 0.001", "< 0.001", "0.001", "0.250", "1.000"]
    facts = findings(fake_run())
    facts["slices"]["slices"][0]["differences"]["auroc"]["p_adjusted"] = 0.0
    facts["fairness"]["groups"][0]["differences"]["fpr"]["p_adjusted"] = 0.0
    assert tables.slices(facts["slices"]).rows[0][-1] == "< 0.001"
    assert str(tables.groups(facts["fairness"]).rows[1][4]).endswith("p < 0.001")
    (first, *others) = draw_figures(facts)["slices"].rows
    assert first["sure"] and not any(row["sure"] for row in others)
