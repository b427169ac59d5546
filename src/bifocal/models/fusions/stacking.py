"""Late fusion by logistic regression on the experts' logits: each expert gets the weight that it has earned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from ..evidence_fusion import STATISTICS, WEIGHTS, RefittedFusion, centred, log_shares, shares_by_length, side_by_side
from ..heads import Parts
from ..linear import LinearHead, fit_linear

MIN_ROWS = 20
"""Training rows below which a set of several parts gets no weights of its own."""

ROWS = STATISTICS + "rows."
Pattern = tuple[bool, ...]
"""Which modalities are read, in the fusion's order."""


class Stacking(RefittedFusion):
    """Stacked generalisation (Wolpert 1992, Neural Networks 5), with weights for every set of present parts.

    What an expert's word is worth depends on who else speaks: the weights for the text alone are not those for text
    and picture with the picture at zero. Each set is fitted on all training rows that have its parts, their other
    parts left out, so that an absent part is no surprise at serving even where training had none. An expert that the
    weights would contradict is left out of its set (`_fit_agreeing`). A set with too few rows falls back to the
    largest set within it that has weights, of equals to the one that learned from more rows.

    Convex, its penalty chosen across groups of train: seeds and val change nothing.
    """

    reads = "logits"
    readable = ("logits",)

    def learn(self, train: Parts, val: Parts | None, seeds: Sequence[int]) -> None:
        self.heads: dict[Pattern, LinearHead] = {}
        self.rows: dict[Pattern, int] = {}
        there = side_by_side(train.present)
        for pattern in product((True, False), repeat=len(self.read)):
            rows = there[:, torch.tensor(pattern)].all(dim=1).nonzero().flatten()
            labels, groups = train.labels[rows], [train.groups[i] for i in rows.tolist()]
            enough = sum(pattern) == 1 or (any(pattern) and len(rows) >= MIN_ROWS)
            if enough and len(labels.unique()) > 1:
                columns = [x[rows] for x in _centred_logits(train.inputs, pattern)]
                self.heads[pattern] = _fit_agreeing(columns, labels, groups, self.classes)
                self.rows[pattern] = len(rows)

    def combine(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits of the head of each row's parts; the class shares of train where no head was fitted."""
        logits = self.prior.repeat(len(next(iter(present.values()))), 1)
        for rows, pattern in self._assign(present):
            logits[rows] = self.heads[pattern](torch.cat(_centred_logits(inputs, pattern), dim=1)[rows])
        return logits

    def traced(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Every head scores every row; each row then takes the last, in rising order, that is within its parts."""
        there = side_by_side(present)
        logits = self.prior * torch.ones_like(there[:, :1], dtype=torch.float)
        for pattern in sorted(self.heads, key=lambda p: (sum(p), self.rows[p])):
            reads = torch.tensor(pattern)
            within = (there | ~reads).all(dim=1) & bool(any(pattern))
            scored = self.heads[pattern](torch.cat(_centred_logits(inputs, pattern), dim=1))
            logits = torch.where(within.unsqueeze(1), scored, logits)
        return self._or_prior(logits, present)

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each modality's share of the length of all contributions to the logits; equal where no expert is heard."""
        names = list(self.read)
        shares = {name: torch.zeros(len(there)) for name, there in present.items()}
        for rows, pattern in self._assign(present):
            blocks = self.heads[pattern].weight.split(self.classes, dim=1)
            parts = [x[rows] for x in _centred_logits(inputs, pattern)]
            contributions = [x @ block.T for x, block in zip(parts, blocks, strict=True)]
            there = torch.ones(len(contributions[0]), len(contributions), dtype=torch.bool)
            for i, share in zip(_read(pattern), shares_by_length(contributions, there).unbind(dim=1), strict=True):
                shares[names[i]][rows] = share
        return shares

    def _assign(self, present: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Pattern]]:
        """Rows ``[n]`` bool of every pattern that occurs, and the largest pattern within it that has a head."""
        patterns, of_row = side_by_side(present).unique(dim=0, return_inverse=True)
        for number, there in enumerate(patterns.tolist()):
            within = [p for p in self.heads if all(has or not reads for has, reads in zip(there, p, strict=True))]
            if within:
                yield of_row == number, max(within, key=lambda p: (sum(p), self.rows[p]))

    def tensors(self) -> dict[str, Tensor]:
        named = {WEIGHTS + "+".join(map(str, _read(p))): head for p, head in self.heads.items()}
        weights = {f"{n}.{part}": getattr(head, part) for n, head in named.items() for part in ("weight", "bias")}
        return weights | {f"{ROWS}{'+'.join(map(str, _read(p)))}": torch.tensor(n) for p, n in self.rows.items()}

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        self.heads, self.rows = {}, {}
        for pattern in product((True, False), repeat=len(self.read)):
            name = WEIGHTS + "+".join(map(str, _read(pattern)))
            if f"{name}.weight" in tensors:
                self.heads[pattern] = LinearHead(tensors[f"{name}.weight"], tensors[f"{name}.bias"], float("nan"))
                self.rows[pattern] = int(tensors[name.replace(WEIGHTS, ROWS)])


def _fit_agreeing(columns: Sequence[Tensor], labels: Tensor, groups: Sequence[str], classes: int) -> LinearHead:
    """Weights for experts with centred logits ``[n, C]`` each; those that they would contradict get none.

    Cross-fitted logits lean against the labels a little: a fold with more positives leaves fewer to those who judge it.
    Where an expert knows nothing, free weights turn that lean round, and rows held out look predictable (labels that
    are permuted: AUROC 0.535). Breiman 1996 (Machine Learning 24, Stacked regressions) therefore forbids negative
    weights. Here an expert's weights are a matrix; negative is one with a negative trace, which on the whole takes
    from a class what the expert gives it. The worst of such experts goes, and the others are fitted again.
    """
    kept = list(range(len(columns)))
    weight = torch.zeros(classes, classes * len(columns))
    while kept:
        head = fit_linear(torch.cat([columns[i] for i in kept], dim=1), labels, groups, classes=classes)
        blocks = head.weight.split(classes, dim=1)
        # The logits of an expert, and those of the head, count up to a constant.
        agreement = [float(block.trace() - block.sum() / classes) for block in blocks]
        if min(agreement) >= 0:
            for i, block in zip(kept, blocks, strict=True):
                weight[:, i * classes : (i + 1) * classes] = block
            return LinearHead(weight, head.bias, head.penalty)
        del kept[agreement.index(min(agreement))]
    return LinearHead(weight, log_shares(labels, classes), float("nan"))


def _read(pattern: Pattern) -> list[int]:
    """Positions of the modalities that a pattern reads."""
    return [i for i, reads in enumerate(pattern) if reads]


def _centred_logits(inputs: Mapping[str, Tensor], pattern: Pattern) -> list[Tensor]:
    """Centred logits ``[n, C]`` of the modalities that a pattern reads."""
    return [centred(x) for x, reads in zip(inputs.values(), pattern, strict=True) if reads]
