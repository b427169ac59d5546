"""Trains heads on Evidence: the only hand-written gradient loop, every seed and grid point in one batched program.

Whatever is random belongs to a seed: its initial weights, the order of its rows, the parts it leaves out and its
dropout masks are drawn from the seed's own generator, and are the same for all grid points. A model therefore comes
out the same, up to float rounding, however many others are trained beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Annotated, Any, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Generator, Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ..config import Strict
from ..errors import DataError
from .linear import FLAT
from .threads import GLOBAL_RANDOM

RANK_TOLERANCE = 1e-10
"""Share of the largest eigenvalue below which an axis is rounding."""
ROWS_AT_ONCE = 4096
"""Rows scored at a time: bounds the memory of many models on a large split."""


class Recipe(Strict):
    """How heads are trained: plain cross-entropy, AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    learning_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1e-3, 3e-4, 3e-3)
    weight_decays: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (0.01, 1.0)
    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (128,)
    """Hidden units. Every width with every learning rate and weight decay is a grid point, chosen on val; without val
    it is the first of each."""
    columns: Annotated[int, Field(ge=0)] | None = None
    """Inputs wider than this are reduced to so many principal components of train; None = as many as the rows bear
    (`bearable_columns`), 0 = all are read as they are."""
    epochs: Annotated[int, Field(ge=1)] = 30
    patience: Annotated[int, Field(ge=1)] = 5
    """Epochs without a better val NLL before a model stops; its best epoch is kept. Without val: all epochs."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """None = a 16th of the rows, between 16 and 256."""
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Chance that a part is left out of a training row; the last part of a row never is."""

    def grid(self) -> list[tuple[float, float]]:
        """``(learning rate, weight decay)`` of every grid point of one width."""
        return list(product(self.learning_rates, self.weight_decays))


class DropoutRecipe(Recipe):
    """Also how much of what a head gathered is left out in training."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3


@dataclass(frozen=True, slots=True)
class Parts:
    """What a head reads of some rows.

    Attributes
    ----------
    inputs : dict
        Modality -> Tensor ``[n, d]`` float32, finite; meaningless where absent.
    present : dict
        Modality -> Tensor ``[n]`` bool.
    labels : Tensor, [n] int64
        Class indices.
    groups : tuple of str, [n]
    """

    inputs: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: Tensor
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Parts:
        """The same for some rows ``[r]``."""
        return Parts(
            {name: x[rows] for name, x in self.inputs.items()},
            {name: p[rows] for name, p in self.present.items()},
            self.labels[rows],
            tuple(self.groups[i] for i in rows.tolist()) if self.groups else (),
        )


@dataclass(frozen=True, slots=True)
class Scaling:
    """What is done to inputs before a head reads them; fitted on the present rows of train.

    Every column is standardised, but for wide modalities: these are centred and reduced to principal components of the
    columns as they are. Standardised columns that do not go together (the components of a latent semantic analysis)
    have no principal axes: those taken turn on chance, and what the texts say is left out (`concat` on 1,000 dress
    reviews: AUROC 0.76, as they are 0.90). The components keep their unequal variances: whitened, the last ones, mostly
    noise, speak as loudly as the first (an XOR that frozen encoders carry fell from 0.990 to 0.878 by it). One number
    per modality brings their mean variance to 1.

    Attributes
    ----------
    mean, scale : dict
        Modality -> Tensor ``[d]``.
    basis : dict
        Modality -> Tensor ``[d, columns]``, where it is reduced.
    """

    mean: dict[str, Tensor]
    scale: dict[str, Tensor]
    basis: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Parts, columns: int | None = 0) -> Self:
        """Of ``columns`` as `Recipe` has them; as they are, by default."""
        mean, scale, basis = {}, {}, {}
        for name, x in parts.inputs.items():
            rows = x[parts.present[name]].double()
            if not len(rows):  # nothing is known of this part
                rows = x.new_zeros(1, x.shape[1])
            std = rows.std(dim=0, correction=0)
            mean[name] = rows.mean(dim=0).float()
            scale[name] = torch.where(std < FLAT, 1.0, std).float()
            most = bearable_columns(len(rows)) if columns is None else columns
            if most and x.shape[1] > most:
                scale[name] = torch.ones_like(scale[name])
                basis[name] = _principal(rows, most)
        return cls(mean, scale, basis)

    def width(self, name: str) -> int:
        """Columns of a modality as a head reads it, the flag of absence included."""
        return self.basis.get(name, self.mean[name].unsqueeze(0)).shape[1] + 1

    def prepared(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Standardised or reduced, ``[..., columns]``; of rows without the part it means nothing."""
        scaled = {name: (x - self.mean[name]) / self.scale[name] for name, x in inputs.items()}
        return {name: x @ self.basis[name] if name in self.basis else x for name, x in scaled.items()}

    def __call__(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`prepared` inputs, `flagged`: ``[..., columns + 1]``."""
        return flagged(self.prepared(inputs), present)


def flagged(prepared: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``[..., d + 1]``: the prepared input and a 0 where present, zeros and a 1 where absent.

    Under any head that begins with a linear layer the weights of the last column are a learned vector that stands
    for the absent part. As a column of the data it is shared by all models in training, where a vector of each
    model's own would cost a copy of the batch per model and its gradient (twice the time at 1,664 columns).
    """
    result = {}
    for name, x in prepared.items():
        there = present[name].unsqueeze(-1)
        result[name] = torch.cat([torch.where(there, x, 0.0), (~there).to(x.dtype)], dim=-1)
    return result


def bearable_columns(rows: int) -> int:
    """Principal components that so many rows of a modality bear: 64, and a 64th of the rows where that is more.

    NLL of `concat` on held-out rows, frozen MiniLM and MobileNetV2 (384 + 1,280 columns), means of two seeds: 3,200
    generated XOR memes 0.184 with 16 components, 0.049 with 64, 0.030 with 128, 0.021 with 256, 0.048 with all columns.
    Dress reviews, 256 columns of TF-IDF beside a record: 300 of them 0.404 with 64, 0.360 with 128; 1,000 of them
    0.312, 0.316 and 0.288 with 255; 2,900 of them 0.307 and 0.285.
    """
    return max(64, rows // 64)


def _principal(rows: Tensor, columns: int) -> Tensor:
    """``[d, columns]``: the first principal axes of ``rows [n, d]``, scaled so that their mean variance is 1.

    By the eigenvectors of the smaller of the two products with itself, in torch: an eighth of the time of
    scikit-learn's PCA on 2,800 rows of 1,280 columns. The largest entry of an axis is positive, as there.
    """
    n, d = rows.shape
    if n < 2:  # one row has no axes
        return torch.zeros(d, 1)
    centred = rows - rows.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred @ centred.T if n < d else centred.T @ centred)
    kept = min(columns, max(1, int((values > values[-1] * RANK_TOLERANCE).sum())))
    values, vectors = values[-kept:].flip(0).clamp(min=FLAT**2), vectors[:, -kept:].flip(1)
    axes = centred.T @ vectors / values.sqrt() if n < d else vectors
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    loudness = max(float(values.mean() / (n - 1)) ** 0.5, FLAT)
    return (axes * largest.sign() / loudness).float().contiguous()


@dataclass(frozen=True, slots=True)
class Heads:
    """Models of one architecture, scored together.

    Attributes
    ----------
    module : nn.Module
        Takes ``(inputs, present)``; it lends its code, not its weights.
    weights : dict
        Name in ``module`` -> Tensor ``[M, ...]``.
    scaling : Scaling
    """

    module: nn.Module
    weights: dict[str, Tensor]
    scaling: Scaling

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[M, n, C]`` of raw inputs ``[n, d]``."""
        pieces = []
        for start in range(0, max(1, len(next(iter(present.values())))), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            there = {name: p[rows] for name, p in present.items()}
            scaled = self.scaling({name: x[rows] for name, x in inputs.items()}, there)
            pieces.append(self.score(scaled, there))
        return torch.cat(pieces, dim=1)

    @torch.no_grad()
    def score(self, scaled: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[M, ..., C]`` of inputs ``[..., d + 1]`` as `Scaling` gives them."""
        return vmap(partial(_score, self.module), in_dims=(0, None, None))(self.weights, scaled, present)


def mean_of(members: Tensor, dim: int = 0) -> Tensor:
    """The log of the mean probabilities of members, which lie along a dimension of logits ``[..., C]``."""
    return members.log_softmax(dim=-1).logsumexp(dim=dim) - math.log(members.shape[dim])


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood ``[..., n]`` of logits ``[..., n, C]`` and class indices ``[..., n]``."""
    truth = labels.expand(logits.shape[:-1])
    return nn.functional.cross_entropy(logits.flatten(0, -2), truth.flatten(), reduction="none").view_as(truth)


def _score(module: nn.Module, weights: dict[str, Tensor], inputs: Any, present: Any) -> Tensor:
    # torch's fused attention for evaluation knows neither vmap nor gradients.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return functional_call(module, weights, (inputs, present))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@dataclass(frozen=True, slots=True)
class Trained:
    """What `fit_heads` gives.

    Attributes
    ----------
    heads : Heads
        The S seeds of the grid point that won.
    grid_point : tuple of float
        Its learning rate and weight decay.
    chosen : int
        Its place in the grid.
    epochs : list of int
        The epoch kept of each seed.
    grid_loss : list of float
        Per grid point, the mean over seeds of the best val NLL; empty without val.
    history : dict
        ``train_loss``, ``val_loss``, ``gradient_norm`` -> Tensor ``[epochs, G, S]``: the first and the last are means
        over the steps of the epoch, with dropout; nan once a model has stopped, and for ``val_loss`` without val.
    """

    heads: Heads
    grid_point: tuple[float, float]
    chosen: int
    epochs: list[int]
    grid_loss: list[float]
    history: dict[str, Tensor]


def fit_heads(
    build: Callable[[], nn.Module],
    train: Parts,
    val: Parts | None,
    *,
    seeds: Sequence[int],
    recipe: Recipe,
    scaling: Scaling | None = None,
) -> Trained:
    """Train S seeds x G grid points of a head together, and keep the seeds of the best grid point.

    Of ``recipe`` it reads all but ``widths`` and ``columns``, which ``build`` and ``scaling`` know.

    Parameters
    ----------
    build : callable
        Gives a new head: an ``nn.Module`` whose ``forward(inputs, present)`` takes, by modality, Tensors ``[B, d]``
        (as `Scaling` gives them) and ``[B]`` bool, and returns logits ``[B, C]``. It runs in evaluation mode with the
        masks of its ``nn.Dropout`` layers handed in: other layers are not random, and none gathers statistics of the
        batch.
    train, val : Parts
        Every model keeps its epoch of least val NLL, and the grid point with the least mean over seeds wins. Without
        val (None, or no rows) the first grid point is trained for all epochs.
    seeds : sequence of int
    recipe : Recipe
    scaling : Scaling, optional
        Fitted on train; None = standardised, not reduced.

    Raises
    ------
    DataError
        Where there are no training rows.
    """
    if not len(train):
        raise DataError("a head needs labelled rows to learn from, found none")
    grid = recipe.grid() if val else recipe.grid()[:1]
    scaling = scaling or Scaling.of(train)
    train, val = prepare(train, scaling), prepare(val, scaling) if val else None
    program = Program(build, train, seeds, grid, recipe)
    shape = (len(grid), len(seeds))
    kept = {name: w.detach().clone() for name, w in program.weights.items()}
    best, epoch_of = torch.full(shape, torch.inf), torch.zeros(shape, dtype=torch.long)
    running = torch.ones(shape, dtype=torch.bool)
    history: dict[str, list[Tensor]] = {"train_loss": [], "val_loss": [], "gradient_norm": []}
    for epoch in range(1, recipe.epochs + 1):
        train_loss, norm = program.train(train)
        val_loss = program.loss(val) if val else torch.full(shape, torch.nan)
        for figures, figure in zip(history.values(), (train_loss, val_loss, norm), strict=True):
            figures.append(torch.where(running, figure, torch.nan))
        better = running & (val_loss < best) if val else running
        best, epoch_of = torch.where(better, val_loss, best), torch.where(better, epoch, epoch_of)
        for name, weight in program.weights.items():
            kept[name][better] = weight.detach()[better]
        # A stopped model trains on beside the others, but what becomes of it is no longer looked at.
        running = running & (epoch - epoch_of < recipe.patience)
        if not running.any():
            break
    grid_loss = best.mean(dim=1)
    chosen = int(grid_loss.argmin()) if val else 0
    return Trained(
        Heads(program.module, {name: w[chosen].clone() for name, w in kept.items()}, scaling),
        grid[chosen],
        chosen,
        epoch_of[chosen].tolist(),
        grid_loss.tolist() if val else [],
        {name: torch.stack(figures) for name, figures in history.items()},
    )


def prepare(parts: Parts, scaling: Scaling) -> Parts:
    """Inputs as `Scaling.prepared` gives them: once, and not batch by batch in every epoch."""
    return replace(parts, inputs=scaling.prepared(parts.inputs))


class Program:
    """The models in training: every weight is one Tensor ``[G, S, ...]``.

    Parameters
    ----------
    build : callable
        As `fit_heads` takes it.
    train : Parts
        Prepared, see `prepare`.
    seeds : sequence of int
    grid : sequence of (learning rate, weight decay)
    recipe : Recipe
    rows : sequence of Tensor, optional
        For each seed the rows of ``train`` that its models learn from; None = all. An epoch takes as many of each as
        the shortest has.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        train: Parts,
        seeds: Sequence[int],
        grid: Sequence[tuple[float, float]],
        recipe: Recipe,
        rows: Sequence[Tensor] | None = None,
    ):
        self.recipe = recipe
        self.rows = [torch.arange(len(train))] * len(seeds) if rows is None else rows
        modules, self.generators = [], []
        for seed in seeds:
            with GLOBAL_RANDOM, torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                modules.append(build().eval())
                self.generators.append(Generator().manual_seed(int(torch.randint(2**62, ()))))
        self.module = modules[0]
        probe = {name: p[:1] for name, p in train.present.items()}
        scaled = flagged({name: x[:1] for name, x in train.inputs.items()}, probe)
        self.masks = _Masks(self.module, scaled, probe)
        learned, fixed = stack_module_state(modules)
        self.weights = {name: w.detach().repeat(len(grid), *(1,) * w.dim()) for name, w in {**learned, **fixed}.items()}
        self.learned = [self.weights[name].requires_grad_() for name, w in learned.items() if w.requires_grad]
        # The groups hold views of the stacked weights, one group per grid point, so that torch's own fused AdamW
        # steps all models in one call.
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [w.detach()[g] for w in self.learned], "lr": rate, "weight_decay": decay}
                for g, (rate, decay) in enumerate(grid)
            ],
            fused=True,
        )

    def train(self, parts: Parts) -> tuple[Tensor, Tensor]:
        """One epoch on prepared parts; mean loss and mean gradient norm of every model, ``[G, S]``."""
        n = min(map(len, self.rows))
        size = self.recipe.batch_size or min(256, max(16, n // 16))
        drawn = [
            own[torch.randperm(len(own), generator=g)[:n]] for own, g in zip(self.rows, self.generators, strict=True)
        ]
        steps = torch.stack(drawn).split(size, dim=1)
        done = [self._step(parts, rows) for rows in steps]
        loss = sum(loss * rows.shape[1] for rows, (loss, _) in zip(steps, done, strict=True)) / n
        return loss, torch.stack([norm for _, norm in done]).mean(dim=0)

    @torch.no_grad()
    def logits(self, parts: Parts, seeds: slice = slice(None)) -> Tensor:
        """Logits ``[G, S, n, C]`` of some of the seeds on prepared parts."""
        some = {name: w.detach()[:, seeds] for name, w in self.weights.items()}
        flat, grid = {name: w.flatten(0, 1) for name, w in some.items()}, len(next(iter(some.values())))
        pieces = []
        for start in range(0, max(1, len(parts)), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            there = {name: p[rows] for name, p in parts.present.items()}
            inputs = flagged({name: x[rows] for name, x in parts.inputs.items()}, there)
            pieces.append(vmap(partial(_score, self.module), in_dims=(0, None, None))(flat, inputs, there))
        return torch.cat(pieces, dim=1).unflatten(0, (grid, -1))

    def loss(self, parts: Parts) -> Tensor:
        """Mean negative log-likelihood of every model on prepared parts, ``[G, S]``."""
        return losses(self.logits(parts), parts.labels).mean(dim=-1)

    def _step(self, parts: Parts, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One step on ``rows [S, B]``: every seed has its own batch, shared by its grid points."""
        present = self._leave_out({name: p[rows] for name, p in parts.present.items()})
        inputs = flagged({name: x[rows] for name, x in parts.inputs.items()}, present)
        masks = self.masks.draw(self.generators, rows.shape[1])
        over_seeds = vmap(self._score_masked, in_dims=(0, 0, 0, 0))
        logits = vmap(over_seeds, in_dims=(0, None, None, None))(self.weights, inputs, present, masks)
        loss = losses(logits, parts.labels[rows]).mean(dim=-1)
        # The models share no weight: the gradient of their sum is the gradient of each.
        gradients = torch.autograd.grad(loss.sum(), self.learned, materialize_grads=True)
        # The fused kernel takes the memory as it lies, whatever the strides.
        gradients = tuple(gradient.contiguous() for gradient in gradients)
        for g, group in enumerate(self.optimiser.param_groups):
            for view, gradient in zip(group["params"], gradients, strict=True):
                view.grad = gradient[g]
        self.optimiser.step()
        norms = [gradient.flatten(2).norm(dim=2) for gradient in gradients]
        return loss.detach(), torch.stack(norms).norm(dim=0)

    def _score_masked(self, weights: dict[str, Tensor], inputs: Any, present: Any, masks: list[Tensor]) -> Tensor:
        self.masks.pending = list(masks)
        return _score(self.module, weights, inputs, present)

    def _leave_out(self, present: dict[str, Tensor]) -> dict[str, Tensor]:
        """Modality dropout on ``[S, B]``: of the parts that a row has, the one with the highest draw always stays."""
        there = torch.stack(list(present.values()), dim=-1)
        draws = torch.stack([torch.rand(there.shape[1:], generator=g) for g in self.generators])
        draws = draws.masked_fill(~there, -1.0)
        stays = (draws >= self.recipe.modality_dropout) | (draws == draws.amax(dim=-1, keepdim=True))
        return dict(zip(present, (there & stays).unbind(dim=-1), strict=True))


class _Masks:
    """Hands drawn masks to the ``nn.Dropout`` layers of a module, in the order of their calls.

    ``vmap`` can draw by itself, but then a model's masks depend on how many others there are.
    """

    def __init__(self, module: nn.Module, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]):
        self.calls: list[tuple[float, torch.Size]] = []
        self.pending: list[Tensor] = []
        layers = [m for m in module.modules() if isinstance(m, nn.Dropout) and m.p > 0]
        probes = [layer.register_forward_hook(self._note) for layer in layers]
        with torch.no_grad():
            module(inputs, present)
        for probe in probes:
            probe.remove()
        for layer in layers:
            layer.register_forward_hook(self._hand_in)

    def _note(self, layer: nn.Module, _: Any, output: Tensor) -> None:
        self.calls.append((float(layer.p), output.shape[1:]))  # type: ignore[arg-type]

    def _hand_in(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output * self.pending.pop(0) if self.pending else output

    def draw(self, generators: Iterable[Generator], rows: int) -> list[Tensor]:
        """One mask per call, ``[S, rows, ...]``, scaled so that the mean stays."""
        drawn = [[_mask(p, (rows, *shape), g) for p, shape in self.calls] for g in generators]
        return [torch.stack(of_seeds) for of_seeds in zip(*drawn, strict=True)]


def _mask(p: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) >= p) / (1 - p) if p < 1 else torch.zeros(shape)
