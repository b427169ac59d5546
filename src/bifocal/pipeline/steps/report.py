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
    data, folder = run.data, run.space.folder
    facts = findings(folder)
    for model in data.models:
        write_model_card(folder, model, facts)
    tested = data.split(data.tested_on)
    row = example_row(data.predictions(data.tested_on), data.policy(), data.models[-1])
    run.record.update(example=write_example(run.space, tested, run.modalities, row))
    worst = [error["id"] for error in facts["errors"]["worst"]]
    write_gallery(run.space, tested, run.modalities, worst)
    write_report(folder, facts)
    return {}


STEP = Step("report", write_pages, settings=(), outputs=lambda run: [run.space.report / "index.html"])
