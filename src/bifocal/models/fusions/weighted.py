"""Late fusion by learned convex weights: the pool that says in one number what each expert's word is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from ..evidence_fusion import MEAN, SCALE, WEIGHTS, RefittedFusion, centred, shares, side_by_side
from ..heads import Parts
from ..linear import FLAT

STEPS = 100
"""L-BFGS steps at most."""
LEARNED = ("scores", "sharpness", "bias")


@dataclass(frozen=True, slots=True)
class Pool:
    """What is learned: M scores, and a sharpness and C biases for each of the ``2^M`` sets of present parts.

    ``scores [M]``, ``sharpness [2^M]`` (its logarithm), ``bias [2^M, C]``; all start at 0.
    """

    scores: Tensor
    sharpness: Tensor
    bias: Tensor

    def weights(self, there: Tensor) -> Tensor:
        """Shares ``[n, M]`` of one among the parts that are ``there [n, M]``."""
        return shares(self.scores, there)

    def __call__(self, words: Tensor, there: Tensor) -> Tensor:
        """What the pool adds to the log of the class shares, ``[n, C]``, of words ``[n, M, C]``."""
        pattern = (there * 2 ** torch.arange(there.shape[1])).sum(dim=1)
        pooled = (self.weights(there).unsqueeze(-1) * words).sum(dim=1)
        return self.sharpness[pattern].exp().unsqueeze(-1) * pooled + self.bias[pattern]


class Weighted(RefittedFusion):
    """The logarithmic opinion pool (Genest & Zidek 1986, Statistical Science 1:114) with learned weights.

    ``z = log prior + s_P * sum_m w_m u_m + b_P``: the sum is over the present parts P, ``w`` the softmax of their
    scores. ``u_m`` are the logits of expert m, less their mean over train and divided by one number, so that all
    experts speak equally loud there (score normalisation, Jain, Nandakumar & Ross 2005, Pattern Recognition
    38:2270): only then do weights compare the experts' worth and not their units, and an expert that knows nothing is
    noise to be turned down. Weights of sum 1 ration the evidence and know nothing of calibration: a sharpness ``s_P``
    and biases ``b_P [C]`` of each set of parts set that right.

    Logits rather than probabilities: a mean of probabilities is never surer than its surest expert, however many agree.
    `stacking` is the same with a free matrix per set of parts; here an expert has one weight, which is never negative.
    Learned is the posterior mode under unit normal priors, so that few rows stay near equal weights, and so does an
    expert that says the same of every row. Deterministic: seeds and val change nothing.
    """

    reads = "logits"
    readable = ("logits",)

    def learn(self, train: Parts, val: Parts | None, seeds: Sequence[int]) -> None:
        self.mean, self.scale = {}, {}
        for name, x in train.inputs.items():
            heard = centred(x[train.present[name]]) if name in self.known else torch.zeros(1, self.classes)
            self.mean[name] = heard.mean(dim=0)
            loudness = (heard - self.mean[name]).square().mean().sqrt()
            self.scale[name] = torch.where(loudness < FLAT, 1.0, loudness)
        self.pool = _fit(
            self._words(train.inputs).double(), side_by_side(train.present), train.labels, self.prior.double()
        )

    def combine(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        return self.prior + self.pool(self._words(inputs), side_by_side(present))

    def weigh(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights: the same for all rows with the same parts."""
        return dict(zip(present, self.pool.weights(side_by_side(present)).unbind(dim=1), strict=True))

    def _words(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Equally loud logits ``[n, M, C]``."""
        return torch.stack([(centred(x) - self.mean[m]) / self.scale[m] for m, x in inputs.items()], dim=1)

    def tensors(self) -> dict[str, Tensor]:
        return {
            **{WEIGHTS + name: getattr(self.pool, name) for name in LEARNED},
            **{MEAN + name: mean for name, mean in self.mean.items()},
            **{SCALE + name: scale for name, scale in self.scale.items()},
        }

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        self.pool = Pool(*(tensors[WEIGHTS + name] for name in LEARNED))
        self.mean = {name: tensors[MEAN + name] for name in self.read}
        self.scale = {name: tensors[SCALE + name] for name in self.read}


def _fit(words: Tensor, present: Tensor, labels: Tensor, prior: Tensor) -> Pool:
    """The posterior mode, from words ``[n, M, C]``, present ``[n, M]``, labels ``[n]`` and log class shares ``[C]``."""
    parts = words.shape[1]
    # As in stacking, each set of parts learns from all rows that have them, their other parts left out.
    sets = torch.tensor([p for p in product((False, True), repeat=parts) if any(p)])
    row, number = (present.unsqueeze(1) >= sets).all(dim=2).nonzero(as_tuple=True)
    words, there, labels = words[row], sets[number], labels[row]
    learned = [words.new_zeros(shape).requires_grad_() for shape in ((parts,), (2**parts,), (2**parts, len(prior)))]
    optimiser = torch.optim.LBFGS(learned, max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        nll = functional.cross_entropy(prior + Pool(*learned)(words, there), labels, reduction="sum")
        value = (nll + sum(x.square().sum() for x in learned) / 2) / len(labels)
        value.backward()
        return value

    optimiser.step(loss)
    return Pool(*(x.detach().float() for x in learned))
