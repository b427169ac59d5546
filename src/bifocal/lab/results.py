"""What a lab's ``results.json`` holds, as far as documents, figures and the command line read it.

Every part may be missing or null, as those of an earlier version or of a part that was not run are; only what all
readers take for granted is required.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasPath, Field, ValidationError, model_validator

from ..errors import RunError
from ..workspace import Workspace, read_json
from .results_schema import (
    Ablation,
    About,
    AutoGluon,
    Corruption,
    Counted,
    Dominance,
    Expert,
    Figure,
    Imbalance,
    Information,
    Joint,
    LeastGain,
    Part,
    Price,
    Stability,
    Trial,
    Verdict,
)

RESULTS = "results.json"
AUTOGLUON = "autogluon.json"
"""Beside them, where a benchmark left it: what AutoGluon reaches on the same split."""


class LabResults(Part):
    """All that the lab found on one set; ``name`` is that of its folder."""

    name: str = ""
    metric: str
    margin: float
    modalities: list[str]
    rows: dict[str, int]
    classes: dict[str, dict[str, int]]
    baselines: list[Trial]
    fusions: list[Trial]
    ensemble: Trial | None = None
    """The mean of several fusions, beside them."""
    best_baseline: str
    best_of_modality: dict[str, str]
    best_fusion: str
    smallest_tie: str
    gain: LeastGain
    over_control: Counted
    over_additive: Counted
    verdict: Verdict
    price: Price
    most_missed: str = Field(validation_alias=AliasPath("risk", "worst"))
    without: dict[str, Figure] = Field(validation_alias=AliasPath("risk", "drops"))
    """The change of F without each modality."""
    dominance: dict[str, Dominance]
    run: str = ""
    label: str = "label"
    about: About = About()
    resamples: int | None = Field(default=None, validation_alias=AliasPath("config", "bootstrap"))
    seeds: int | None = Field(default=None, validation_alias=AliasPath("settings", "seeds"))
    grid: dict[str, list[float]] = Field(default={}, validation_alias=AliasPath("settings", "grid"))
    columns: int | None = Field(default=None, validation_alias=AliasPath("settings", "columns"))
    modality_dropout: float = Field(default=0, validation_alias=AliasPath("settings", "modality_dropout"))
    seconds_lab: dict[str, float | None] = Field(default={})
    experts: dict[str, Expert] = Field(default={})
    gains: dict[str, Counted] = Field(default={})
    """Modality -> gain over its best model; see `each_gain`."""
    over_others: dict[str, Counted] = Field(default={})
    over_rest: dict[str, Counted] = Field(default={}, validation_alias=AliasPath("risk", "over_rest"))
    """F without each modality over the best model of the others."""
    change: dict[str, Figure] = Field(default={})
    perceptual: dict[str, Figure | None] = Field(default={})
    confounders: dict[str, Counted | None] = Field(default={})
    pid: Information | None = None
    ablation: Ablation | None = None
    corruption: dict[str, Corruption | None] = Field(default={})
    imbalance: Imbalance = Imbalance()
    stability: Stability = Stability()
    joint: Joint = Joint()
    probes: dict[str, dict[str, dict[str, Figure] | None]] = Field(default={})
    autogluon: AutoGluon | None = None
    findings: list[str] = Field(default=[])
    measured: frozenset[str] = Field(default=frozenset(), exclude=True)
    """Keys of the file that are neither null nor empty: parts that were run."""

    @model_validator(mode="before")
    @classmethod
    def _measured(cls, found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "measured": [key for key, value in found.items() if value]}

    @property
    def title(self) -> str:
        return self.about.title or self.name

    @property
    def as_expected(self) -> bool | None:
        """Whether the verdict is the known answer; None where none is known."""
        return None if self.about.expected is None else self.about.expected == self.verdict.full

    @property
    def earlier_rule(self) -> bool:
        """Whether the verdict goes by the gain over one model alone, the best on val, as earlier versions had it."""
        return not self.gains

    @property
    def short_of_margin(self) -> bool:
        """Whether it is called worth it although the gain's lower end is below the margin, as the earlier rule did."""
        low = self.gain.low
        return self.verdict.word == "worth it" and low is not None and low < self.margin

    @property
    def over(self) -> str:
        """The model that F gains least over, which the verdict goes by."""
        return self.best_of_modality[self.gain.over] if self.gain.over else self.best_baseline

    @property
    def detectable(self) -> float | None:
        """The smallest gain over that model which these rows would have shown with 80% power."""
        return self.gains.get(self.gain.over or "", self.gain).detectable

    @property
    def each_gain(self) -> dict[str, Counted]:
        """Modality -> gain of F over its best model. By the earlier rule only that of the verdict has an interval."""
        if self.gains:
            return self.gains
        found, reached = {}, self.tested(self.best_fusion).value
        for modality, name in self.best_of_modality.items():
            theirs = self.tested(name).value
            value = None if reached is None or theirs is None else reached - theirs
            found[modality] = self.gain if name == self.best_baseline else Counted(value=value, n=self.gain.n)
        return found

    @property
    def tie(self) -> Trial:
        """The smallest fusion that ties with F on val: F itself where that has no fewer parameters of its own."""
        found, f = self.model(self.smallest_tie), self.model(self.best_fusion)
        return found if found.parameters.own < f.parameters.own else f

    def model(self, name: str) -> Trial:
        """A baseline or fusion by its name."""
        return next(trial for trial in (*self.baselines, *self.fusions) if trial.model == name)

    def tested(self, name: str) -> Figure:
        """The set's metric of a model on test."""
        return self.model(name).test[self.metric]


def results_files(folder: Path) -> list[Path]:
    """The results in a run's ``lab/``, of each of its labels, the first one first. Raises `RunError` without any."""
    first = folder / RESULTS
    space, labels = Workspace(folder.parent, folder.parent.name), read_json(first).get("config", {}).get("labels", {})
    return [first, *(space.for_label(name).lab_results for name in list(labels)[1:])]


def read_results(path: Path, beside: Mapping[str, object] | None = None) -> LabResults:
    """The results in a file, and what is known ``beside`` it.

    Raises
    ------
    RunError
        Where the file is missing or broken, or lacks what every reader takes for granted.
    """
    try:
        return LabResults.model_validate({**read_json(path), **(beside or {})})
    except ValidationError as error:
        found = error.errors()
        missing = [".".join(map(str, e["loc"])) for e in found if e["type"] == "missing"]
        wrong = [f"{'.'.join(map(str, e['loc']))} ({e['msg']})" for e in found if e["type"] != "missing"]
        told = f"lacks {', '.join(missing)}" if missing else f"holds what this version cannot read: {', '.join(wrong)}"
        raise RunError(f"{path} {told}: run bifocal lab again on this set") from None


def read_set(folder: Path) -> LabResults:
    """The results kept in a set's folder, with AutoGluon's where a benchmark left them. Raises as `read_results`."""
    other = folder / AUTOGLUON
    beside = {"autogluon": read_json(other)} if other.is_file() else {}
    return read_results(folder / RESULTS, {**beside, "name": folder.name})


def read_sets(folder: Path) -> list[LabResults]:
    """The results of every set below a folder, by ``about.order``, then by name. Raises `RunError`."""
    sets = [read_set(path.parent) for path in sorted(folder.glob(f"*/{RESULTS}"))]
    if not sets:
        raise RunError(f"there is no {folder / '*' / RESULTS} to write of: run bifocal lab on a configuration first")
    return sorted(sets, key=lambda results: (results.about.order, results.name))
