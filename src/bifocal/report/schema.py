"""The schema of ``report/report.json``: what a report knows of a run, as `bifocal.report.findings` gathers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict

from ..assess.predictions import ClassShares, Explorer, MainGain, Reliability, SetActions
from ..assess.related_labels import Contradiction, EndToEnd
from ..assess.rule_figures import RuleFigure
from ..evaluate.compare import Gain
from ..evaluate.intervals import MeasuredRows, OptionalFigure
from ..fit.fusion import FusionChoice


class LabelFacts(TypedDict):
    """The question that the run answers."""

    name: str
    description: str
    classes: list[Any]
    names: list[str]
    """What people call the classes, in their order: the source's own words for 0 and 1 where they are known."""
    binary: bool
    requires: NotRequired[str]
    """The label whose positive posts alone this one is asked of."""


class Headline(OptionalFigure, MeasuredRows):
    """The figure of the model that decides."""

    model: str
    split: str


class LabelSummary(TypedDict):
    """One of several labels, in a row beside the others."""

    name: str
    folder: str
    """Of its report, as seen from that of any other."""
    headline: Headline
    gain: MainGain | None
    """None: one modality."""
    threshold: float | None
    class_thresholds: Any
    act: Literal["block", "review", "none"]
    """What a decision by it may come to."""
    requires: str | None
    rows: dict[str, int]
    """Split -> annotated rows."""
    end_to_end: EndToEnd | None
    contradictions: Contradiction | None


class LabelsFacts(TypedDict):
    """All labels of a run of several."""

    each: list[LabelSummary]
    """The first one first."""
    told: list[str]
    """How annotations contradict each other, or are, or seem to be, missing more often in some classes."""


class Caveats(TypedDict):
    """What limits the figures, and how thresholds were chosen."""

    in_sample: bool
    approximate: bool
    rule: str | None
    """None: the threshold was given by hand."""
    base_rate: list[float] | None
    expected: dict[str, Any]
    tuned_on: str
    tuned_rows: int
    cross_fitted: int
    """Training rows that the deciding model's calibration and threshold are fitted on beside those of ``tuned_on``."""
    tuned_rarest: int
    ece_is_chance: bool


class ModelFacts(TypedDict):
    """One model on the tested split."""

    parameters: dict[str, int]
    threshold: float | None
    class_thresholds: Any
    calibration: dict[str, Any]
    formula: str
    few_rows: dict[str, int]
    patterns: dict[str, Any]
    gains: dict[str, Gain]
    seeds: dict[str, Any]
    n: int
    positives: int | list[int]
    raw: dict[str, OptionalFigure]
    calibrated: dict[str, OptionalFigure]
    confusion: dict[str, int] | None


class DataFacts(TypedDict):
    """Where the rows came from, and what became of them."""

    examples: int
    quarantined: int
    unlabelled: int
    reasons: dict[str, int]
    rows: dict[str, int]
    by_class: dict[str, int]
    groups: int
    near_duplicates: int
    leakage: dict[str, Any]
    ocr: dict[str, int]
    columns: dict[str, list[str]]
    languages: dict[str, int]


class Provenance(TypedDict):
    """How the run was made."""

    date: str
    """When its policy was made, ISO 8601; "" = not known."""
    policy: str
    """Version of its policy."""
    versions: dict[str, str]
    seed: int
    seconds: dict[str, float]
    kept_for_fusion: dict[str, Any] | None
    text_role: Any
    config: dict[str, Any]


class ErrorFacts(TypedDict):
    """What the error table tells."""

    errors: dict[str, Any]
    classes: Sequence[dict[str, Any]]
    confusion: list[list[int]]


class CurveFacts(TypedDict):
    """Curves of every model, reliability of the main one, thresholds to explore."""

    roc: dict[str, list[tuple[float, float]]]
    precision_recall: dict[str, list[tuple[float, float]]]
    reliability: Reliability
    risk_coverage: dict[str, list[tuple[float, float]]]
    aurc: dict[str, float | None]
    explorer: Explorer | None


class RunFacts(ErrorFacts, CurveFacts):
    """Everything that the page shows; see `bifocal.report.findings.findings`."""

    run: str
    label: LabelFacts
    labels: NotRequired[LabelsFacts]
    """Of a run of several labels."""
    source: Any
    modalities: list[str]
    headline: Headline
    gain: MainGain | None
    """The least of the gains."""
    gains: dict[str, Gain]
    """Expert -> the gain of the model that decides over it."""
    class_shares: ClassShares
    verdict: str | None
    rule_figures: list[RuleFigure]
    actions: dict[str, dict[str, int]] | SetActions | None
    robustness: dict[str, Any] | None
    slices: dict[str, Any] | None
    fairness: dict[str, Any] | None
    marks: Caveats
    models: dict[str, ModelFacts]
    baseline: dict[str, dict[str, OptionalFigure]]
    splits: dict[str, dict[str, Any]]
    data: DataFacts
    curve: list[dict[str, float]]
    history: dict[str, Any]
    tried: dict[str, dict[str, float]]
    tried_on: dict[str, str]
    choice: FusionChoice | None
    made: Provenance
