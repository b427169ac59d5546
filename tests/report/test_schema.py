"""The facts of a run have the form that they are declared with."""

from typing import get_type_hints

import pytest

from bifocal.report.findings import findings
from bifocal.report.schema import (
    Caveats,
    DataFacts,
    Headline,
    LabelFacts,
    LabelsFacts,
    LabelSummary,
    ModelFacts,
    Provenance,
    RunFacts,
)


@pytest.mark.parametrize("multiclass", [False, True])
def test_findings_have_the_declared_keys(fake_run, multiclass):
    facts = findings(fake_run(multiclass=multiclass))
    declared = {"label": LabelFacts, "headline": Headline, "marks": Caveats, "data": DataFacts, "made": Provenance}
    assert set(facts) == set(get_type_hints(RunFacts)) - {"labels"}
    for key, form in declared.items():
        assert set(facts[key]) == set(get_type_hints(form)) - {"requires"}, key
    for model in facts["models"].values():
        assert set(model) == set(get_type_hints(ModelFacts))


def test_those_of_several_labels_have_the_rest_too(labels_run):
    facts = findings(labels_run, "kind")
    assert set(facts) == set(get_type_hints(RunFacts)) and set(facts["label"]) == set(get_type_hints(LabelFacts))
    assert set(facts["labels"]) == set(get_type_hints(LabelsFacts))
    for of in facts["labels"]["each"]:
        assert set(of) == set(get_type_hints(LabelSummary))
