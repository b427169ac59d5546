"""The story of the robustness suite: attack the tested posts, encode them again, decide anew, compare with before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch

from ..config import RobustnessConfig
from ..contracts import Attackable, Reporter
from ..data.compose import recomposed
from ..data.shards import Split, open_split
from ..diagnose.ablation import permuted
from ..diagnose.robustness import ComparedDecisions, Outcomes, compare_decisions
from ..diagnose.scored_rows import FEW
from ..errors import ConfigError, nearest
from ..fit.evidence import Evidence, features_of
from ..fit.token_cache import spread
from ..modalities import PICTURE, TEXT
from ..modalities.image import with_word_boxes
from ..models.window_rows import by_head
from ..system.system import System
from ..system.torch_engine import TorchEngine, torch_engine
from ..workspace import RunRecord, Workspace, fingerprint, read_json, read_jsonl, write_json
from .functional_suites import functional_suite
from .predictions import Predictions, actions, calibrated
from .run_data import RunData

if TYPE_CHECKING:
    from ..contracts import Modality, TextRole
    from ..fit.evidence import Progress

PART = ("part_swapped", "part_missing")
"""Attacks on a part of any kind, which no encoder need see: it is another post's, or is taken away."""
ROWS = RobustnessConfig().rows
AT_ONCE = 128
"""Rows whose attacked values are held at a time."""


class AttackResult(ComparedDecisions):
    """Decisions on the rows before and after an attack at a severity."""

    modality: str
    attack: str
    severity: int
    normaliser: bool | None
    """Whether words were cleaned after the attack; None where there is nothing to clean."""
    altered: float
    """Share of the rows with the part that the attack changed."""
    reached: float
    """Share where the encoder is given another value than before."""


class RobustnessResults(TypedDict):
    """What ``robustness_<run>.json`` holds."""

    run: str
    label: str
    model: str
    """Whose decisions these are."""
    split: str
    in_sample: bool
    rows: int
    """Attacked, ``of`` the split's."""
    of: int
    seed: int
    versions: Mapping[str, str]
    key: str
    """Of rows and models."""
    attacks: list[AttackResult]
    functional: dict[str, Any] | None
    findings: list[str]


def robustness(
    folder: str | Path,
    *,
    rows: int | None = None,
    attacks: Sequence[str] | None = None,
    functional: Path | None = None,
    label: str | None = None,
    reporter: Reporter | None = None,
    allow_plugins: Collection[str] = (),
) -> Path:
    """Attack the posts that a finished run was tested on: ``robustness_<run>.json``, of a further label its own.

    What was found before of the same rows and the same models stays in the file, but for what is measured anew.

    Parameters
    ----------
    folder : path
        The run's.
    rows : int, optional
        At most so many, drawn by the run's seed; None = 500.
    attacks : sequence of str, optional
        None = all that the run's modalities know, at all their severities.
    functional : Path, optional
        A functional suite, see `functional_suites.functional_suite`.
    label : str, optional
        Of several labels the one whose decisions are looked at; None = the first.
    allow_plugins : as `System.load`

    Raises
    ------
    RunError
        As `System.load`.
    ConfigError
        On an attack that no modality of the run knows, and on a label that the run does not answer.
    DataError
        Where the suite cannot be read.
    """
    reporter = reporter or Reporter()
    system, space = System.load(folder, allow_plugins=allow_plugins), Workspace.of(folder)
    if label is not None and label != system.policy.label:
        data = RunData.of(folder, allow_plugins).for_label(label)
        system, space = decides_by(data, read_json(space.record)["text_role"]), data.space
    settings = RobustnessConfig(attacks=list(attacks or known_attacks(system.modalities)), rows=rows or ROWS)
    check_attacks(settings, system.modalities)
    suite = functional_suite(system, functional) if functional else None
    with space.lock():
        found = attack_run(system, space, settings, reporter.progress)
        before = read_json(space.robustness) if space.robustness.is_file() else {}
        if before.get("key") == found["key"]:
            fresh = {(row["modality"], row["attack"]) for row in found["attacks"]}
            kept = [row for row in before["attacks"] if (row["modality"], row["attack"]) not in fresh]
            found["attacks"] = kept + found["attacks"]
            found["functional"] = before["functional"]
            found["findings"] = list(dict.fromkeys(before["findings"] + found["findings"]))
        write_json(space.robustness, {**found, "functional": suite or found["functional"]})
        RunRecord(space.record).rewritten("robustness", space.robustness)
    return space.robustness


def decides_by(run: RunData, text_role: TextRole) -> System:
    """A run that decides by one of its labels alone."""
    label = run.config.of_run(run.config.label, run.taxonomy[run.config.label])
    engine = TorchEngine(run.encoders, run.expert_names, run.fused)
    return System(run.config, engine, run.policy(), label, text_role)


def attacks_on(modality: Modality) -> Mapping[str, tuple[int, ...]]:
    """Kind -> its severities; none of a modality that is not `Attackable`."""
    return modality.attacks if isinstance(modality, Attackable) else {}


def known_attacks(modalities: Mapping[str, Modality]) -> list[str]:
    """The attacks that can be made on a run with these parts."""
    return list(dict.fromkeys([*(kind for m in modalities.values() for kind in attacks_on(m)), *PART]))


def check_attacks(settings: RobustnessConfig, modalities: Mapping[str, Modality]) -> None:
    """Raise `ConfigError` where an attack is asked for that none of these parts knows."""
    known = known_attacks(modalities)
    for kind in settings.attacks:
        if kind not in known:
            raise ConfigError(f"no part of this run can be attacked by {kind!r}; {nearest(kind, known)}")


def attack_run(
    system: System, space: Workspace, settings: RobustnessConfig, progress: Progress | None = None
) -> RobustnessResults:
    """Make attacks on rows of the split that a run was tested on, one part at a time.

    Attacks alter words before they are cleaned and pictures after they were made square. Of the attacked part the
    encoder runs again on what has changed; the Evidence of the other parts, and of unchanged rows, is that of the run.
    Words are attacked wherever they stand, in a transcript as in a caption, and the picture's own are not drawn anew.
    """
    split_name = read_json(space.results)["tested_on"]
    whole = open_split(space.shards(split_name), system.modalities)
    chosen = np.sort(np.random.default_rng(system.config.seed).permutation(len(whole))[: settings.rows]).tolist()
    posts = _Posts.take(system, space, whole, split_name, chosen)
    tried = list(_tried(system, settings))
    attacks: list[AttackResult] = []
    for done, (name, kind, severity) in enumerate(tried):
        attacks += posts.attack(name, kind, severity)
        if progress:
            progress(done + 1, len(tried))
    return {
        "run": system.config.run,
        "label": system.config.label,
        "model": system.main,
        "split": split_name,
        "in_sample": bool(read_json(space.record)["in_sample"]),
        "rows": len(chosen),
        "of": len(whole),
        "seed": system.config.seed,
        "versions": system.policy.versions,
        "key": fingerprint(whole.fingerprint, chosen, system.policy.model_dump(mode="json")),
        "attacks": attacks,
        "functional": None,
        "findings": posts.findings(attacks),
    }


def _tried(system: System, settings: RobustnessConfig) -> Iterator[tuple[str, str, int]]:
    for name, modality in system.modalities.items():
        for kind in dict.fromkeys(settings.attacks):
            severities = attacks_on(modality).get(kind, ())
            for severity in severities:
                # One that has no degrees is made whatever severities are asked for.
                if severity in settings.severities or len(severities) == 1:
                    yield name, kind, severity
            if kind in PART:
                yield name, kind, 1


@dataclass(frozen=True)
class _Posts:
    """The rows that are attacked: their parts, what the experts say of them, and what was decided."""

    system: System
    split: Split
    evidence: Mapping[str, Evidence]
    before: Outcomes
    boxes: Mapping[str, Any]
    """Id -> boxes of the words on its picture, where they were read."""

    @classmethod
    def take(cls, system: System, space: Workspace, whole: Split, split_name: str, chosen: list[int]) -> _Posts:
        classes = torch.tensor(whole.classes(system.config.label, system.label))
        evidence = {}
        engine = torch_engine(system.engine)
        for name, encoder in engine.experts.items():
            expert = system.modalities[name].expert_name
            own = space if space.own_expert(expert).is_dir() else space.for_label("")  # where its features lie
            path = own.evidence(expert, split_name)
            encoded = by_head(encoder, features_of(encoder, whole, name, path))
            present = torch.tensor(whole.present[name], dtype=torch.bool)
            # Those of the deployed head, also where the head has learned from the rows.
            logits = encoded["logits"] * present[:, None]
            every = Evidence(
                whole.ids, whole.groups, encoded["features"], logits, present, classes, torch.zeros_like(present)
            )
            part = every.take(chosen)
            if engine.reads_tokens:
                rows = part.present.nonzero().flatten().tolist()
                _, tokens = engine.encode(name, whole.take([chosen[i] for i in rows]).values(name))
                part = replace(part, tokens=None if tokens is None else spread(tokens, rows, len(part)))
            evidence[name] = part
        split = whole.take(chosen)
        ids = set(split.ids)
        read = (row for row in read_jsonl(space.ocr) if row["id"] in ids) if space.ocr.is_file() else ()
        boxes = {row["id"]: row["boxes"] for row in read}
        return cls(system, split, evidence, _outcomes(system, evidence), boxes)

    def attack(self, name: str, kind: str, severity: int) -> Iterator[AttackResult]:
        """Figures of one attack; twice where the part has a normaliser, with it and without."""
        part = self.evidence[name]
        if kind in PART:
            gone = kind == "part_missing"
            changed = part.without() if gone else permuted(part, seed=self.system.config.seed)
            yield self._figures(name, kind, severity, None, changed, part.present, part.present)
            return
        for normaliser, remake in _REMADE.get(name, {None: None}).items():
            changed, altered, reached = self._encoded(name, kind, severity, remake)
            yield self._figures(name, kind, severity, normaliser, changed, altered, reached)

    def _encoded(
        self, name: str, kind: str, severity: int, remake: Callable[[Any], Any] | None
    ) -> tuple[Evidence, torch.Tensor, torch.Tensor]:
        """Evidence of the attacked part; the rows that were altered, and those whose change reached the encoder."""
        modality, part = self.system.modalities[name], self.evidence[name]
        engine = torch_engine(self.system.engine)
        features, logits, present = part.features.clone(), part.logits.clone(), part.present.clone()
        tokens = None if part.tokens is None else list(part.tokens)
        altered, reached = torch.zeros_like(present), torch.zeros_like(present)
        rows = iter(part.present.nonzero().flatten().tolist())
        values = self.split.values(name)
        while batch := list(islice(rows, AT_ONCE)):
            again = []
            for i in batch:
                value = _KNOWING.get(name, _as_it_is)(self, i, values[i])
                attacked = modality.corrupt(value, kind, severity, np.random.default_rng((self.system.config.seed, i)))
                altered[i] = attacked != value
                served = remake(attacked) if remake else attacked
                if served is None:  # nothing is left of it
                    present[i], features[i], logits[i], reached[i] = False, 0, 0, True
                elif served != value:
                    reached[i] = True
                    again.append((i, served if modality.lossless else modality.unpack(modality.pack(served))))
            if again:
                places = [i for i, _ in again]
                encoded, made = engine.encode(name, [value for _, value in again])
                features[places], logits[places] = encoded["features"], encoded["logits"]
                for i, found in zip(places, made or (), strict=False):
                    assert tokens is not None  # as the fusion reads them
                    tokens[i] = found
        changed = replace(part, features=features, logits=logits, present=present)
        return changed if tokens is None else replace(changed, tokens=tuple(tokens)), altered, reached

    def _figures(
        self,
        name: str,
        kind: str,
        severity: int,
        normaliser: bool | None,
        changed: Evidence,
        altered: torch.Tensor,
        reached: torch.Tensor,
    ) -> AttackResult:
        after = _outcomes(self.system, {**self.evidence, name: changed})
        there = max(int(self.evidence[name].present.sum()), 1)
        config = self.system.config
        return {
            "modality": name,
            "attack": kind,
            "severity": severity,
            "normaliser": normaliser,
            "altered": int(altered.sum()) / there,
            "reached": int(reached.sum()) / there,
            **compare_decisions(
                changed.labels.numpy(),
                self.split.groups,
                self.before,
                after,
                resamples=config.bootstrap,
                seed=config.seed,
            ),
        }

    def findings(self, attacks: Sequence[AttackResult]) -> list[str]:
        """What these rows cannot tell, in sentences."""
        labels = next(iter(self.evidence.values())).labels
        counts = {str(label): int((labels == i).sum()) for i, label in enumerate(self.system.label.classes)}
        few = [f"class {label} has {n}" for label, n in counts.items() if n < FEW]
        found = [f"few rows ({', '.join(few)}, under {FEW}): intervals may be too narrow"] if few else []
        tried = {(row["modality"], row["attack"]): 0.0 for row in attacks}
        for row in attacks:
            tried[row["modality"], row["attack"]] += row["altered"]
        for (name, kind), altered in tried.items():
            if not altered:
                found.append(
                    f"{kind} alters no {name} of these rows: there is nothing (known) of them that it works on"
                )
        left = max((row["undecided"] for row in attacks), default=0)
        return found + ([f"up to {left} posts have nothing left to decide on, and are left out"] if left else [])


def _outcomes(system: System, evidence: Mapping[str, Evidence]) -> Outcomes:
    """What the policy decides on these rows."""
    experts = {name: modality.expert_name for name, modality in system.modalities.items()}
    predictions = Predictions.gather(evidence, experts, torch_engine(system.engine).fusion, system.main)
    probabilities, classes = calibrated(predictions, system.policy, system.main)
    if system.policy.review is None:
        return Outcomes(probabilities, classes)
    return Outcomes(probabilities, classes, actions(predictions, system.policy, system.main) == "review")


def _as_it_is(posts: _Posts, i: int, value: Any) -> Any:
    return value


def _worded(posts: _Posts, i: int, value: Any) -> Any:
    """The picture with the boxes of its words, where they were read."""
    boxes = posts.boxes.get(posts.split.ids[i])
    facts = posts.split.meta(i)["facts"][PICTURE]
    return with_word_boxes(value, boxes, (facts["width"], facts["height"]), posts.system.config.fit) if boxes else value


_KNOWING: dict[str, Callable[[_Posts, int, Any], Any]] = {PICTURE: _worded}
"""What is known of a part beside its value."""
_REMADE: dict[str, dict[bool | None, Callable[[Any], Any] | None]] = {
    TEXT: {True: recomposed, False: partial(recomposed, normalise=str)}
}
"""How a part is made anew once it was attacked, with its normaliser and without."""
