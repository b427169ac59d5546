"""Fusions made of other fusions: which of them, and in what shares, is found by cross-fitting them all.

A strategy's predictions of rows that it has not seen are all there is to choose by. Every strategy that comes with
Bifocal and can be cross-fitted is a candidate, by no list: one that is added is tried from then on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from .. import plugins
from ..config import Options as Given
from ..config import Reads, Strict
from ..data.splits import fold_of
from ..errors import ConfigError, nearest
from ..example import Evidence
from .comparison import Candidate, compare
from .evidence_fusion import BOTH, STATISTICS, EvidenceFusion
from .folds import CrossFittable, FoldPredictions, FoldRows
from .heads import Recipe
from .threads import in_threads

COMPARED_SEEDS = 1
"""Models of each strategy where strategies are compared; those picked are then fitted with all seeds."""
NARROW = {"learning_rates": [1e-3, 3e-3], "weight_decays": [0.01]}
"""The grid of every head that is trained by gradient, where its own options do not say otherwise: a third of the six
points, and of the time."""
FOLDS = 5
"""Of a composite that is fitted by itself, without `bifocal.fit.cross_fit`."""


Picks = dict[str, int]
"""Strategy -> how often it counts."""


class CompositeOptions(Strict):
    """What ``fusion.options`` may hold."""

    candidates: Annotated[list[str], Field(min_length=1)] | None = None
    """Strategies to choose from; None = all that come with Bifocal and can be cross-fitted in seconds on inputs of
    this width (`CompositeFusion.left_out`)."""
    options: Given = Field(default_factory=dict)
    """Strategy -> its own options."""
    members: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Strategy -> picks, where they are not to be chosen."""


class CompositeFusion(EvidenceFusion):
    """The mean of the members' probabilities, each counted as often as it was picked.

    A strategy fills in `pick`. Members read what they read by default, or what ``read`` asks for where they can.

    Attributes
    ----------
    members : dict
        Strategy -> its fitted fusion.
    """

    reads: Reads = "features"
    Options: type[Strict] = CompositeOptions
    members: dict[str, EvidenceFusion]
    progress: Callable[[int, int], None] | None = None
    """Takes how many strategies are cross-fitted, and of how many."""

    @abstractmethod
    def pick(
        self, found: Mapping[str, FoldPredictions], candidates: Sequence[Candidate], rows: FoldRows
    ) -> list[Picks]:
        """For each fold, and last for the model to deploy: strategy -> how often it counts."""

    def settle(self, picks: Picks, found: Mapping[str, FoldPredictions]) -> FoldPredictions:
        """The settings of the model to deploy; its logits are left to `fit_folds`."""
        options = {name: found[name].settings.model_dump(mode="json") for name in picks}
        settings = self.options.model_copy(update={"members": picks, "options": options})
        return replace(next(iter(found.values())), settings=settings, trained=sum(found[n].trained for n in picks))

    def fit_folds(self, rows: FoldRows, *, seeds: Sequence[int], read: Mapping[str, Reads]) -> FoldPredictions:
        """As `CrossFittable` has it: every candidate is cross-fitted on the same folds.

        They are compared by one seed each. Those that were picked are then cross-fitted with all seeds, as what tunes
        a temperature has to be as sure as what is deployed.
        """
        left_out = self.left_out(rows.evidence, read)
        names = [name for name in self.check(read) if name not in left_out]
        first = seeds if self.options.members else seeds[:COMPARED_SEEDS]
        return self.compose(self._cross_fit(names, rows, first, read), rows, seeds=seeds, read=read)

    def compose(
        self,
        found: Mapping[str, FoldPredictions],
        rows: FoldRows,
        *,
        seeds: Sequence[int],
        read: Mapping[str, Reads],
    ) -> FoldPredictions:
        """What it makes of candidates that were cross-fitted with the first of the seeds, or of given members."""
        trained = {name: one.trained for name, one in found.items()}
        groups = next(iter(rows.evidence.values())).groups
        candidates = compare({name: one.logits[-1] for name, one in found.items()}, rows.labels, groups, trained)
        picks = self.pick(found, candidates, rows)
        if len(seeds) > COMPARED_SEEDS and not self.options.members:
            found = self._cross_fit([name for name in found if any(name in p for p in picks)], rows, seeds, read)
        logits = torch.empty_like(next(iter(found.values())).logits)
        for number, own in enumerate(picks[:-1]):
            held = rows.fold == number
            logits[:, held] = mean_of_picks(torch.stack([found[n].logits[:, held] for n in own]), list(own.values()))
        return replace(self.settle(picks[-1], found), logits=logits, candidates=tuple(candidates))

    def _cross_fit(
        self, names: Sequence[str], rows: FoldRows, seeds: Sequence[int], read: Mapping[str, Reads]
    ) -> dict[str, FoldPredictions]:
        members = [self._member(name) for name in names]

        def cross_fitted(member: Any) -> FoldPredictions:
            found: FoldPredictions = member.fit_folds(rows, seeds=seeds, read=readable_of(member, read))
            return found

        return dict(zip(names, in_threads(cross_fitted, members, self.progress), strict=True))

    def fit(
        self,
        evidence: Mapping[str, Evidence],
        labels: Tensor,
        *,
        seeds: Sequence[int],
        read: Mapping[str, Reads] | None = None,
        val: Mapping[str, Evidence] | None = None,
    ) -> Self:
        """As `EvidenceFusion.fit`. Without ``members`` they are chosen by cross-fitting first."""
        read = dict(read or {})
        if not self.options.members:
            groups = next(iter(evidence.values())).groups
            fold = torch.tensor(fold_of(groups, labels.tolist(), FOLDS, seeds[0]))
            found = self.fit_folds(FoldRows(evidence, labels, fold, [list(evidence)]), seeds=seeds, read=read)
            self.options = self.options.model_copy(update=_members_of(found))
        self._begin(evidence, labels, read)
        self.read = dict.fromkeys(evidence, BOTH)
        self.dims = {name: e.features.shape[1] + e.logits.shape[1] for name, e in evidence.items()}
        self.members = {}
        for name in self.options.members:
            member = self._member(name)
            self.members[name] = member.fit(evidence, labels, seeds=seeds, read=readable_of(member, read), val=val)
        return self

    def check(self, read: Mapping[str, Reads]) -> list[str]:
        """The candidates. Raises `ConfigError` where one cannot be, or none reads what is asked for."""
        names = self._candidates()
        for part, what in read.items():
            if not any(what in plugins.load("fusions", name).readable for name in names):
                able = [n for n in plugins.names("fusions") if what in plugins.load("fusions", n).readable]
                raise ConfigError(
                    f"fusion.read.{part} = {what!r}: of the strategies that {self.strategy()} compares "
                    f"({', '.join(names)}) none reads it; leave it out, or name one that does as fusion.strategy: "
                    f"{', '.join(able)}"
                )
        return names

    def left_out(self, evidence: Mapping[str, Evidence], read: Mapping[str, Reads]) -> list[str]:
        """Strategies that nobody named and that would take long on inputs as wide as these."""
        if self.options.members or self.options.candidates:
            return []
        found = []
        for name in self._candidates():
            member = self._member(name)
            reads = {modality: readable_of(member, read).get(modality, member.reads) for modality in evidence}
            columns = sum(getattr(e, reads[modality]).shape[1] for modality, e in evidence.items())
            if member.most_columns is not None and columns > member.most_columns:
                found.append(name)
        return found

    def _candidates(self) -> list[str]:
        """What is compared: named, or all that can be. Raises `ConfigError` where one of those named cannot be."""
        options = self.options
        named = {"members": list(options.members), "candidates": options.candidates or []}
        for where, names in named.items():
            for name in names:
                if not _can_be_member(plugins.load("fusions", name)):
                    raise ConfigError(
                        f"fusion.options.{where} names {name}, which cannot be cross-fitted in seconds, or is made of "
                        f"others itself; leave it out"
                    )
        known = named["members"] or named["candidates"] or plugins.names("fusions")
        found = [name for name in known if _can_be_member(plugins.load("fusions", name))]
        if strange := [name for name in options.options if name not in found]:
            raise ConfigError(
                f"fusion.options.options names {strange[0]!r}, which is not compared; {nearest(strange[0], found)}"
            )
        return found

    def _member(self, name: str) -> Any:
        kind, own = plugins.load("fusions", name), self.options.options.get(name, {})
        return kind(**({**NARROW, **own} if issubclass(kind.Options, Recipe) else own))

    # ------------------------------------------------------------------ decide

    def combine(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """The log of the mean probabilities."""
        return self._mean(m._or_prior(m.combine(self._own(m, inputs), present), present) for m in self.members.values())

    def traced(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Raises `ModelError` where a member has no such form."""
        logits = self._mean(m.traced(self._own(m, inputs), present) for m in self.members.values())
        return self._or_prior(logits, present)

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean of the weights of those members that have any."""
        found = {name: member.weigh(self._own(member, inputs), present) for name, member in self.members.items()}
        found = {name: weights for name, weights in found.items() if weights}
        picks = sum(self.options.members[name] for name in found)
        return {
            modality: sum(self.options.members[name] / picks * weights[modality] for name, weights in found.items())
            for modality in (self.read if found else ())
        }

    def _own(self, member: EvidenceFusion, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What one member reads of features and logits side by side."""
        parts = {name: x.tensor_split([x.shape[-1] - self.classes], dim=-1) for name, x in inputs.items()}
        return {name: parts[name][what == "logits"] for name, what in member.read.items()}

    def _mean(self, logits: Iterable[Tensor]) -> Tensor:
        return mean_of_picks(torch.stack(list(logits)), list(self.options.members.values()))

    # ------------------------------------------------------------------ keep

    def parameters(self) -> dict[str, int]:
        counts = [member.parameters() for member in self.members.values()]
        return {kind: sum(count[kind] for count in counts) for kind in ("total", "trained")}

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config, tensors = super().state()
        config["members"] = {}
        for i, (name, member) in enumerate(self.members.items()):
            config["members"][name], own = member.state()
            tensors |= {_place(i, key) + key: tensor for key, tensor in own.items()}
        return config, tensors

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        fusion = super().restore(config, tensors)
        fusion.members = {}
        for i, (name, own) in enumerate(config["members"].items()):
            places = (_place(i, STATISTICS), _place(i, ""))
            found = {key.removeprefix(p): t for p in places for key, t in tensors.items() if key.startswith(p)}
            fusion.members[name] = plugins.load("fusions", name).restore(own, found)
        return fusion


def mean_of_picks(members: Tensor, picks: Sequence[int]) -> Tensor:
    """The log of the mean probabilities of members ``[M, ..., C]``, each counted as often as it was picked."""
    shares = torch.tensor(picks, dtype=members.dtype) / sum(picks)
    weights = shares.log().view(-1, *(1,) * (members.dim() - 1))
    return (members.log_softmax(dim=-1) + weights).logsumexp(dim=0)


def _members_of(found: FoldPredictions) -> dict[str, Any]:
    """The options ``members`` and ``options`` of what `CompositeFusion.fit_folds` gave."""
    settings = found.settings.model_dump()
    if found.strategy is None:
        return {"members": settings["members"], "options": settings["options"]}
    return {"members": {found.strategy: 1}, "options": {found.strategy: settings}}


def _can_be_member(found: Any) -> bool:
    return (
        issubclass(found, EvidenceFusion)
        and issubclass(found, CrossFittable)
        and not issubclass(found, CompositeFusion)
    )


def readable_of(member: EvidenceFusion | type[EvidenceFusion], read: Mapping[str, Reads]) -> dict[str, Reads]:
    """What a member can read of what was asked for."""
    return {name: what for name, what in read.items() if what in member.readable}


def _place(i: int, key: str) -> str:
    """The prefix of a member's tensors: what it counted stays told from what it learned."""
    return f"{STATISTICS if key.startswith(STATISTICS) else ''}members.{i}."
