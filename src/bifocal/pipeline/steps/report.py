"""Step `report`: the page a person reads, and a card for every model."""

from __future__ import annotations

from collections.abc import Mapping

from ...assess.predictions import example_row
from ...report.example import write_example
from ...report.findings import findings
from ...report.gallery import write_gallery
from ...report.html import write_report
from ...report.model_card import write_model_card
from ..context import Context, Step


def write_pages(run: Context) -> Mapping[str, object]:
    """Counts nothing; records the example that the report shows."""
    data, folder, label = run.data, run.space.folder, run.space.label
    facts = findings(folder, label)
    for model in data.models:
        if not label or run.space.own_expert(model).is_dir():  # the card of an expert that labels share is the first's
            write_model_card(folder, model, facts, label)
    tested = data.split(data.tested_on)
    row = example_row(data.predictions(data.tested_on), data.policy(), data.models[-1])
    example = write_example(run.space, tested, run.modalities, row)
    if not label:
        run.record.update(example=example)
    worst = [error["id"] for error in facts["errors"]["worst"]]
    write_gallery(run.space, tested, run.modalities, worst)
    write_report(folder, facts, label)
    return {}


STEP = Step("report", write_pages, settings=(), outputs=lambda run: [run.space.report / "index.html"], per_label=True)
