"""What every fusion on Evidence shares, and the fusion that is given as one nn.Module.

A strategy that learns by gradient is one `LearnedFusion` with a ``head``; any other is an `EvidenceFusion` with
``learn`` and ``combine``. Neither names a modality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .. import plugins
from ..config import Reads, Strict
from ..errors import ConfigError, DataError, nearest
from ..example import Evidence
from .folds import FoldedHeads, FoldPredictions, FoldRows, fold_heads, fold_logits
from .heads import Heads, Parts, Recipe, Scaling, Trained, fit_heads, mean_of
from .threads import in_threads

STATISTICS = "statistics."
"""Tensors of a state dict under this prefix were counted, not learned."""
PRIOR = STATISTICS + "prior"
MEAN, SCALE, BASIS = STATISTICS + "mean.", STATISTICS + "scale.", STATISTICS + "basis."
WIDTH = STATISTICS + "width"
BOTH: Any = "features+logits"
"""In the place of one of `Reads`, for a fusion that hands them on to others."""
WEIGHTS = "weights."
Pairs = Callable[[slice, slice], Tensor]
"""Rows of one modality, columns of the others -> logits ``[r, c, C]`` of all their pairs."""


class EvidenceFusion:
    """Reads the chosen part of every Evidence, checks it, and leaves to a strategy how to learn and to combine.

    A part that no training row had counts as absent ever after: nothing was learned of it. A row without any part
    gets the class shares of train.

    A strategy sets ``reads`` and ``Options``, and fills in `learn`, `combine`, `tensors` and `adopt`.

    Raises
    ------
    ConfigError
        On an option that the strategy does not know.
    """

    reads: Reads = "logits"
    readable: tuple[Reads, ...] = ("features", "logits")
    """What the configuration may choose from."""
    Options: type[Strict] = Strict
    most_columns: int | None = None
    """Inputs side by side beyond which a choice between strategies does not try this one unless it is named."""

    def __init__(self, **options: Any):
        self.options: Any = plugins.options("fusion", self.strategy(), options, self.Options)

    @classmethod
    def strategy(cls) -> str:
        """The name of its file."""
        return cls.__module__.rpartition(".")[2]

    # ------------------------------------------------------------------ for a strategy to fill in

    def learn(self, train: Parts, val: Parts | None, seeds: Sequence[int]) -> None:
        """Learn from rows that have at least one part each; nothing, by default."""

    def combine(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[n, C]`` of inputs ``[n, d]``, zero where absent."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """What was learned, as a flat dict."""
        return {}

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weight given to each modality, ``[n]``; empty where the strategy has none."""
        return {}

    def traced(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[n, C]`` as `__call__` gives them, of inputs that are zero where absent: tensor operations only.

        For export: no step may depend on what the tensors hold. Raises `ModelError` where a strategy has no such form.
        """
        return self._or_prior(self.combine(inputs, present), present)

    # ------------------------------------------------------------------ the contract

    def fit(
        self,
        evidence: Mapping[str, Evidence],
        labels: Tensor,
        *,
        seeds: Sequence[int],
        read: Mapping[str, Reads] | None = None,
        val: Mapping[str, Evidence] | None = None,
    ) -> Self:
        """Learn from rows ``[n]`` with class indices ``labels [n]``.

        Parameters
        ----------
        evidence : mapping
            Modality -> Evidence, all of the same rows in the same order.
        labels : Tensor, [n]
            Class indices, all annotated.
        seeds : sequence of int
            One model each, for strategies that start from random weights; their probabilities are averaged.
        read : mapping, optional
            Modality -> ``features`` or ``logits``, where it differs from `reads`.
        val : mapping, optional
            Evidence for early stopping and the choice of settings; its ``labels`` are the truth.

        Raises
        ------
        DataError
            Where rows or shapes do not match, values are not finite, or the labels are of one class only.
        ConfigError
            Where ``read`` names an unknown modality, or what the strategy cannot read.
        """
        train = self._train_parts(evidence, labels, read)
        judged = next(iter(val.values())).labels if val else labels
        self.learn(train, self._parts(val, judged, self._usable(val, judged)) if val else None, seeds)
        return self

    def __call__(self, evidence: Mapping[str, Evidence]) -> Tensor:
        """Logits ``[n, C]``: log-probabilities up to a constant per row. Raises `DataError` as `fit` does."""
        inputs, present = self._inputs(evidence)
        return self._or_prior(self.combine(inputs, present), present)

    def explain(self, evidence: Mapping[str, Evidence]) -> Mapping[str, Tensor]:
        """Weight given to each modality, name -> ``[n]``: shares of 1, zero where absent; empty without any."""
        return self.weigh(*self._inputs(evidence))

    def parameters(self) -> dict[str, int]:
        """``total`` and ``trained``; see `count_parameters`."""
        return count_parameters(self.state()[1])

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """``(config, tensors)``: JSON-able settings, and a flat state dict."""
        config = {
            "options": self.options.model_dump(mode="json"),
            "read": self.read,
            "dims": self.dims,
            "classes": self.classes,
            "known": self.known,
        }
        return config, {PRIOR: self.prior, **self.tensors()}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The fusion that `state` described, to the bit."""
        fusion = cls(**config["options"])
        fusion.read, fusion.dims = dict(config["read"]), dict(config["dims"])
        fusion.classes, fusion.known = config["classes"], list(config["known"])
        fusion.prior = tensors[PRIOR]
        fusion.adopt({name: tensor for name, tensor in tensors.items() if name != PRIOR})
        return fusion

    # ------------------------------------------------------------------ reading Evidence

    def _begin(self, evidence: Mapping[str, Evidence], labels: Tensor, read: Mapping[str, Reads] | None) -> Tensor:
        """Settle what is read, which parts there are and the class shares; the rows that can be learned from."""
        self.read = self._choose(evidence, dict(read or {}))
        _check_rows(evidence)
        self.classes = _common_classes(evidence)
        self.known = [name for name, e in evidence.items() if bool(e.present.any())]
        rows = self._usable(evidence, labels)
        counts = torch.bincount(labels[rows], minlength=self.classes)
        if (counts > 0).sum() < 2:
            raise DataError(
                f"a fusion learns to tell at least two classes apart; its {len(rows)} rows with a part show "
                f"{int((counts > 0).sum())}: give more rows, or check how the label is mapped"
            )
        self.prior = log_shares(labels[rows], self.classes)
        return rows

    def _train_parts(self, evidence: Mapping[str, Evidence], labels: Tensor, read: Mapping[str, Reads] | None) -> Parts:
        """What there is to learn from, after `_begin`."""
        rows = self._begin(evidence, labels, read)
        self.dims = {name: getattr(e, self.read[name]).shape[1] for name, e in evidence.items()}
        return self._parts(evidence, labels, rows)

    def _choose(self, evidence: Mapping[str, Evidence], read: dict[str, Reads]) -> dict[str, Reads]:
        for name, what in read.items():
            if name not in evidence:
                raise ConfigError(f"fusion.read names {name!r}, which brings no Evidence; {nearest(name, evidence)}")
            if what not in self.readable:
                allowed = " or ".join(self.readable)
                raise ConfigError(f"fusion.read.{name} = {what!r}: {self.strategy()} reads {allowed}")
        return {name: read.get(name, self.reads) for name in evidence}

    def _usable(self, evidence: Mapping[str, Evidence], labels: Tensor) -> Tensor:
        """The rows that have a part of which something is known. Raises `DataError` where one is not annotated."""
        rows = _any(self._there(evidence)).nonzero().flatten()
        kept = labels[rows]
        if bool(((kept < 0) | (kept >= self.classes)).any()):
            raise DataError(
                f"a fusion learns from class indices 0..{self.classes - 1}, found {kept.unique().tolist()}: "
                "leave out rows that are not annotated"
            )
        return rows

    def _there(self, evidence: Mapping[str, Evidence]) -> dict[str, Tensor]:
        """Modality -> present ``[n]``; a part of which nothing was learned is absent."""
        if set(evidence) != set(self.read):
            raise DataError(
                f"this fusion reads {', '.join(self.read)}; it was given {', '.join(evidence) or 'nothing'} "
                "(a modality that no row has is given as Evidence with no row present)"
            )
        _check_rows(evidence)
        there = {name: evidence[name].present for name in self.read}
        return {name: p if name in self.known else torch.zeros_like(p) for name, p in there.items()}

    def _parts(self, evidence: Mapping[str, Evidence], labels: Tensor, rows: Tensor) -> Parts:
        """Some of the rows, with their labels."""
        return Parts(*self._inputs(evidence), labels, next(iter(evidence.values())).groups).take(rows)

    def _inputs(self, evidence: Mapping[str, Evidence]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Modality -> inputs ``[n, d]``, zero where absent, and modality -> present ``[n]``."""
        known, inputs = self._there(evidence), {}
        for name, what in self.read.items():
            x, there = _columns(evidence[name], what), evidence[name].present
            if x.shape[1] != self.dims[name]:
                raise DataError(
                    f"{what} of {name} have {x.shape[1]} columns; the fusion was fitted on {self.dims[name]}"
                )
            # Whatever stands at an absent row, even nan, ends here.
            x = torch.where(there.unsqueeze(1), x, 0.0).float()
            if bad := int((~x.isfinite()).any(dim=1).sum()):
                raise DataError(f"{what} of {name} are not finite in {bad} of {len(x)} rows: encode them again")
            inputs[name] = x
        return inputs, known

    def _or_prior(self, logits: Tensor, present: Mapping[str, Tensor]) -> Tensor:
        return torch.where(_any(present).unsqueeze(-1), logits, self.prior)


class RefittedFusion(EvidenceFusion):
    """A strategy that learns all it is in one plain fit, and chooses nothing by held-out loss."""

    def fit_folds(self, rows: FoldRows, *, seeds: Sequence[int], read: Mapping[str, Reads]) -> FoldPredictions:
        """As `CrossFittable` has it, by one fit without each fold."""
        members = []
        for number in range(rows.folds):
            evidence, labels = rows.without_fold(number)
            member = type(self)(**self.options.model_dump())
            members.append(member.fit(evidence, labels, seeds=seeds, read=read))
        return FoldPredictions(fold_logits(members, rows), self.options, members[-1].parameters()["trained"])


class LearnedFusion(EvidenceFusion):
    """A fusion given as one ``nn.Module``: the whole of a new strategy is its ``head``.

    Every modality is standardised, an absent part is learned as a flag (`Scaling`), in training parts are left out at
    random, and seeds and grid points train together (`bifocal.models.heads`). ``fusions/concat.py`` is a whole one.
    """

    reads: Reads = "features"
    Options: type[Strict] = Recipe
    trained: Trained | None = None
    """How the training went; None after `restore`."""

    def head(self, dims: Mapping[str, int], classes: int, width: int) -> nn.Module:
        """A new head with random weights, as `fit_heads` takes it.

        Its layers should broadcast over all but the last dimension, for `pairs` hands in ``[r, 1, d]`` of one modality
        and ``[1, c, d]`` of the others; where they do not, EMAP takes longer.

        One that weighs its modalities has a second method, ``weigh(inputs, present)``: the shares ``[B, M]``, columns
        in the order of ``dims``, that `explain` gives (`shares` makes them of scores).

        Parameters
        ----------
        dims : mapping
            Modality -> columns of its input, the flag of absence included.
        classes, width : int
            Width is one of ``options.widths``.
        """
        raise NotImplementedError

    def learn(self, train: Parts, val: Parts | None, seeds: Sequence[int]) -> None:
        scaling = Scaling.of(train, self.options.columns)
        fitted = {
            width: fit_heads(
                partial(self._build, scaling, width), train, val, seeds=seeds, recipe=self.options, scaling=scaling
            )
            for width in (self.options.widths if val else self.options.widths[:1])
        }
        self.width = min(fitted, key=lambda width: min(fitted[width].grid_loss, default=0.0))
        self.trained = fitted[self.width]
        self.heads = self.trained.heads

    def fit_folds(self, rows: FoldRows, *, seeds: Sequence[int], read: Mapping[str, Reads]) -> FoldPredictions:
        """As `CrossFittable` has it: all folds and seeds of a grid point in one program."""
        for number in range(rows.folds):
            rows.others(number)
        train = self._train_parts(rows.evidence, rows.labels, read)
        usable = self._usable(rows.evidence, rows.labels)
        fold = rows.fold[usable]
        scalings = rows.scalings(train, fold, self.read, self.options.columns)
        points = [
            (width, {"learning_rates": (rate,), "weight_decays": (decay,)})
            for width in self.options.widths
            for rate, decay in self.options.grid()
        ]

        def fold_point(point: tuple[int, dict[str, tuple[float]]]) -> FoldedHeads:
            width, settings = point
            return fold_heads(
                partial(self._build, width=width),
                train,
                fold,
                scalings,
                seeds=seeds,
                recipe=self.options.model_copy(update=settings),
                patterns=rows.patterns,
            )

        heads = FoldedHeads.of_points(in_threads(fold_point, points))
        logits = torch.empty(len(rows.patterns), len(rows.labels), self.classes)
        for number in range(rows.folds):  # a row without a part has the class shares of the other folds
            logits[:, rows.fold == number] = log_shares(rows.labels[usable[fold != number]], self.classes)
        logits[:, usable] = heads.predictions(fold)
        chosen, epochs = heads.chosen
        width, point = points[chosen]
        settings = {"widths": (width,), **point, "epochs": epochs}
        return FoldPredictions(logits, self.options.model_copy(update=settings), heads.trained[chosen])

    def _build(self, scaling: Scaling, width: int) -> nn.Module:
        return self.head({name: scaling.width(name) for name in self.dims}, self.classes, width)

    def combine(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """The log of the mean over seeds of the probabilities."""
        return mean_of(self.heads(inputs, present))

    def traced(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        scaled = self.heads.scaling(inputs, present)
        seeds = [{name: w[s] for name, w in self.heads.weights.items()} for s in range(self._seeds())]
        members = [functional_call(self.heads.module, weights, (scaled, present)) for weights in seeds]
        return self._or_prior(mean_of(torch.stack(members)), present)

    def _seeds(self) -> int:
        return len(next(iter(self.heads.weights.values())))

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean over seeds of the shares that the head gives."""
        if not isinstance(self.heads.module, Weighing):
            return {}
        weights = {f"head.{name}": w for name, w in self.heads.weights.items()}
        members = Heads(_Weigher(self.heads.module), weights, self.heads.scaling)(inputs, present)
        return dict(zip(self.dims, members.mean(dim=0).unbind(dim=-1), strict=True))

    def pairs(self, evidence: Mapping[str, Evidence], first: str) -> Pairs:
        """Scores rows paired anew, ``first`` of any row with the other parts of any other (EMAP reads all pairs).

        A layer that reads one part runs once per row and not once per pair, if the head's layers broadcast.
        """
        inputs, present = self._inputs(evidence)
        scaled = self.heads.scaling(inputs, present)

        def score(rows: slice, columns: slice) -> Tensor:
            def cut(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
                return {m: t[rows].unsqueeze(1) if m == first else t[columns].unsqueeze(0) for m, t in parts.items()}

            there = cut(present)
            return self._or_prior(mean_of(self.heads.score(cut(scaled), there)), there)

        return score

    def member_logits(self, evidence: Mapping[str, Evidence]) -> Tensor:
        """Logits of the single seeds ``[S, n, C]``: the spread over seeds."""
        inputs, present = self._inputs(evidence)
        return self._or_prior(self.heads(inputs, present), present)

    def tensors(self) -> dict[str, Tensor]:
        return {
            **{WEIGHTS + name: w for name, w in self.heads.weights.items()},
            **scaling_tensors(self.heads.scaling),
            WIDTH: torch.tensor(self.width),
        }

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        scaling, self.width = scaling_of(tensors), int(tensors[WIDTH])
        with torch.random.fork_rng(devices=[]):  # building draws weights, which are then not used
            module = self._build(scaling, self.width).eval()
        self.heads = Heads(module, _under(WEIGHTS, tensors), scaling)


def count_parameters(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """``total`` and ``trained``: numbers in a state dict (of all seeds), and those of them that were learned."""
    sizes = {name: tensor.numel() for name, tensor in tensors.items()}
    learned = sum(n for name, n in sizes.items() if not name.startswith(STATISTICS))
    return {"total": sum(sizes.values()), "trained": learned}


def scaling_tensors(scaling: Scaling) -> dict[str, Tensor]:
    """A scaling as part of a state dict: counted, not learned."""
    found = ((MEAN, scaling.mean), (SCALE, scaling.scale), (BASIS, scaling.basis))
    return {prefix + name: tensor for prefix, of_parts in found for name, tensor in of_parts.items()}


def scaling_of(tensors: Mapping[str, Tensor]) -> Scaling:
    """What `scaling_tensors` gave, out of a state dict."""
    return Scaling(_under(MEAN, tensors), _under(SCALE, tensors), _under(BASIS, tensors))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


class PartsLinear(nn.Module):
    """A linear layer over all parts side by side, ``W [x_1; ...; x_M] + b = sum_m W_m x_m + b``.

    Summed part by part, so that no copy is made of them beside each other, and parts of different leading dimensions
    broadcast.
    """

    def __init__(self, dims: Mapping[str, int], width: int):
        super().__init__()
        self.dims = dict(dims)
        self.layer = nn.Linear(sum(dims.values()), width)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """``[..., width]`` of inputs ``[..., d]`` by modality."""
        blocks = self.layer.weight.split(list(self.dims.values()), dim=1)
        terms = (inputs[name] @ block.T for name, block in zip(self.dims, blocks, strict=True))
        return reduce(torch.add, terms) + self.layer.bias


@runtime_checkable
class Weighing(Protocol):
    """A head that weighs its modalities."""

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """The shares ``[B, M]``, columns in the order of ``dims``."""


class _Weigher(nn.Module):
    """Calls a head's ``weigh`` where others call it for its logits."""

    def __init__(self, head: Weighing):
        super().__init__()
        self.head = head

    def forward(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        return self.head.weigh(inputs, present)


def shares(scores: Tensor, there: Tensor, dim: int = -1) -> Tensor:
    """Softmax of scores over the modalities in ``dim`` that are ``there`` (bool); zeros where a row has none."""
    # The least float rather than -inf, whose softmax over nothing is nan, also in the gradient.
    least = torch.finfo(scores.dtype).min
    return torch.where(there, scores, least).softmax(dim=dim) * there


def shares_by_length(contributions: Sequence[Tensor], there: Tensor) -> Tensor:
    """Shares ``[n, M]`` of the length of what is said, ``[n, C]`` by each modality, among those that are ``there``.

    Where all of them say nothing, they share evenly.
    """
    length = torch.stack([centred(x).norm(dim=1) for x in contributions], dim=1)
    length = (length + torch.finfo(torch.float32).tiny) * there
    return length / length.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def side_by_side(present: Mapping[str, Tensor]) -> Tensor:
    """What is present, ``[n, M]``."""
    return torch.stack(list(present.values()), dim=1)


def _columns(evidence: Evidence, what: str) -> Tensor:
    """Features, logits, or both side by side."""
    parts: list[Tensor] = [getattr(evidence, name) for name in what.split("+")]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _any(present: Mapping[str, Tensor]) -> Tensor:
    """Rows ``[n]`` that have any part."""
    return reduce(torch.logical_or, present.values())


def log_shares(labels: Tensor, classes: int) -> Tensor:
    """The log of the class shares ``[C]``; a class without rows is rare, not impossible."""
    counts = torch.bincount(labels, minlength=classes) + 1
    return (counts / counts.sum()).log()


def _check_rows(evidence: Mapping[str, Evidence]) -> None:
    """Every Evidence must speak of the same rows in the same order."""
    if not evidence:
        raise DataError("a fusion needs the Evidence of at least one modality, found none")
    (first, reference), *others = evidence.items()
    for name, other in others:
        if other.ids != reference.ids:
            differing = sum(a != b for a, b in zip(reference.ids, other.ids, strict=False))
            raise DataError(
                f"the Evidence of {first} and {name} must have the same rows in the same order; they have "
                f"{len(reference)} and {len(other)} rows, and {differing} ids differ: encode the same split with both"
            )


def _common_classes(evidence: Mapping[str, Evidence]) -> int:
    widths = {name: e.logits.shape[1] for name, e in evidence.items()}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise DataError(f"all experts must give logits of the same classes; found {found}: train them on one label")
    return next(iter(widths.values()))


def centred(logits: Tensor) -> Tensor:
    """A constant on all logits of a row says nothing; it is taken away."""
    return logits - logits.mean(dim=-1, keepdim=True)
