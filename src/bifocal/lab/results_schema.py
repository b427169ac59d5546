"""The schema of a lab's ``results.json``, part by part, as far as documents, figures and the command line read it."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, model_validator

from ..config import ImbalanceRule


class Part(BaseModel):
    """A part of the results: null means not measured, as if the key were missing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, found: Any) -> Any:
        return {key: value for key, value in found.items() if value is not None} if isinstance(found, dict) else found


class Figure(Part):
    """A figure with its 95% interval; None where the rows cannot define it."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int | None:
        """1 where a difference lies above 0 with its interval, -1 where below, 0 where it includes 0; None: unknown."""
        if self.low is None or self.high is None:
            return None
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


class Counted(Figure):
    """A figure of ``n`` rows or pairs; of a difference, the smallest that they would have shown with 80% power."""

    n: int = Field(default=0, validation_alias=AliasChoices("n", "pairs"))
    detectable: float | None = None


class LeastGain(Counted):
    """The least of the gains over the modalities; ``over`` which of them, unknown in results of an earlier version."""

    over: str | None = None


class Disturbed(Figure):
    """A figure under a disturbance, which is one of ``rate``, ``deviations`` or ``severity``, and its change."""

    change: Figure = Figure()
    rate: float = 0
    deviations: float = 0
    severity: int = 0


class About(Part):
    """What a person wrote of a set before its results."""

    title: str = ""
    order: float = float("inf")
    contributes: dict[str, str] = {}
    hypothesis: str = ""
    expected: str | None = None


class Parameters(Part):
    """``total``: to score one row, encoders included; ``trained`` of them; ``own``: beside those of the experts."""

    total: int | None = None
    trained: int | None = None
    own: int = 0


class Expert(Part):
    """How a modality became features."""

    encoder: str = ""
    base_model: str = ""
    tune: str = ""
    pooling: str = ""
    columns: int = 0
    parameters: Parameters = Parameters()
    seconds: float | None = None


class Trial(Part):
    """A model that was fitted: a baseline, a fusion, or a joint fusion with its ``gain`` over F on the same rows."""

    model: str
    kind: str = ""
    reads: list[str] = []
    parameters: Parameters = Parameters()
    seconds: float | None = None
    seeds: int = Field(default=1, validation_alias=AliasPath("seeds", "n"))
    spread: float | None = Field(default=None, validation_alias=AliasPath("seeds", "test", "std"))
    """Standard deviation over seeds of the set's metric on test."""
    val: dict[str, float | None] = {}
    test: dict[str, Figure] = {}
    gain: Figure | None = None


class Verdict(Part):
    """Its word, the kind of what is worth it, why, and all of it in a sentence."""

    word: str
    kind: str | None = None
    reason: str = ""
    sentence: str = ""

    @property
    def full(self) -> str:
        """``worth it, interacting``, ``gain shown``, ``not worth it``, ``undecided``."""
        return self.word if self.kind is None else f"{self.word}, {self.kind}"


class Price(Part):
    """What F costs more than the model of its least gain, and that per point (0.01) of gain."""

    parameters: int
    seconds: float | None = None
    per_point: dict[str, float | None] = {}


class Coalition(Part):
    """What F achieves with these modalities alone."""

    modalities: frozenset[str]
    value: float | None = None


class Dominance(Part):
    """Shares of the modalities in what F achieves, by one metric."""

    values: list[Coalition] = []
    shapley: dict[str, Figure]
    conditional_utilization: dict[str, Figure]
    cooperation: Figure


class Information(Part):
    """The partial information decomposition of the label, in bits."""

    first: str
    second: str
    redundancy: Figure
    unique_1: Figure
    unique_2: Figure
    synergy: Figure


class Ablated(Part):
    """F with one modality taken away, in every way."""

    present: float | None = None
    removed: dict[str, Disturbed]
    permuted: Disturbed
    noise: list[Disturbed] = []
    dropped: list[Disturbed] = Field(default=[], validation_alias=AliasPath("dropped", "curve"))
    """From more and more rows."""
    area: Disturbed = Field(default=Disturbed(), validation_alias=AliasPath("dropped", "area"))


class Ablation(Part):
    """By modality."""

    intact: Figure
    modalities: dict[str, Ablated]
    findings: list[str] = []


class Corruption(Part):
    """F on one modality's inputs corrupted and encoded again: kind -> severities."""

    n: int = 0
    intact: Figure = Figure()
    kinds: dict[str, list[Disturbed]] = {}
    findings: list[str] = []


class WeakenedFit(Part):
    """A fusion trained with a modality weakened to a level: the figures of `bifocal.diagnose.imbalance.outcome_of`."""

    level: float
    intact: Figure
    gain: Figure = Figure()
    excess: Figure = Figure()
    left: Figure = Figure()
    moved: Figure | None = None


class Weakened(Part):
    """One modality weakened in training, level by level."""

    stronger: str = ""
    beside: str | None = None
    intact: Figure = Field(default=Figure(), validation_alias=AliasPath("expert", "intact"))
    """That of the model beside it."""
    levels: list[WeakenedFit] = []
    """The first is not weakened."""
    rule: ImbalanceRule = ImbalanceRule()
    findings: list[str] = []


class DropoutRemedy(Part):
    """Modality dropout against a starved modality."""

    remedy: str
    weakened: str
    level: float
    condition: str
    gain: Figure | None = None


class Imbalance(Part):
    """A modality weakened in training, by each way and modality, and what helps."""

    starved: dict[str, Weakened | None] = {}
    corrupted: dict[str, Weakened | None] = {}
    truncated: dict[str, Weakened | None] = {}
    remedies: list[DropoutRemedy] = []

    @property
    def ways(self) -> dict[str, dict[str, Weakened]]:
        """Way -> modality -> what was measured; ways in which nothing was are left out."""
        ways = {"starved": self.starved, "corrupted": self.corrupted, "truncated": self.truncated}
        known = {way: {name: part for name, part in parts.items() if part} for way, parts in ways.items()}
        return {way: parts for way, parts in known.items() if parts}


class Training(Part):
    """How a head or fusion trained: its grid point, epochs and divergences (of ``models``), spread and gap."""

    kind: str
    grid_point: dict[str, float | None] = {}
    epochs_to_best: list[int | None] = []
    diverged: int = 0
    models: int = 0
    train_loss: list[float | None] = Field(default=[], validation_alias=AliasPath("curves", "train_loss"))
    val_loss: list[float | None] = Field(default=[], validation_alias=AliasPath("curves", "val_loss"))
    gradient_norm: list[float | None] = Field(default=[], validation_alias=AliasPath("curves", "gradient_norm"))
    spread: float | None = Field(default=None, validation_alias=AliasPath("spread", "test"))
    gap: float | None = Field(default=None, validation_alias=AliasPath("gap", "gap"))
    """Train minus test."""


class Growth(Part):
    """Parameters against the columns of features, and the exponent of that."""

    columns: list[int] = []
    parameters: list[int] = []
    exponent: float | None = None
    word: str


class Stability(Part):
    """Training of each model, growth of each fusion."""

    models: dict[str, Training] = {}
    growth: dict[str, Growth] = {}


class JointRemedy(Part):
    """A remedy in joint training, on all posts and on those where a modality is ``absent``."""

    name: str = ""
    gain: Figure | None = None
    absent: dict[str, JointRemedy | None] = {}


class Joint(Part):
    """Fusions trained together with their encoders."""

    rows: dict[str, int] = {}
    trials: list[Trial] = []
    strategy: str = Field(default="", validation_alias=AliasPath("remedies", "strategy"))
    """The one that remedies were tried on."""
    remedies: list[JointRemedy] = Field(default=[], validation_alias=AliasPath("remedies", "remedies"))


class AutoGluon(Part):
    """What AutoGluon's tabular predictor reaches on the same split, by metric."""

    version: str = "?"
    seconds: float | None = None
    test: dict[str, Figure] = {}

    @model_validator(mode="before")
    @classmethod
    def _metrics_together(cls, found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "test": {metric: figure for metric, figure in found.items() if isinstance(figure, dict)}}
