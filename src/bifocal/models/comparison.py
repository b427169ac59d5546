"""Models compared on rows that none of them has seen, and the smallest that the rows cannot tell from the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..decide.calibration import fit_temperature


@dataclass(frozen=True, slots=True)
class Candidate:
    """How one model did.

    Attributes
    ----------
    loss : float
        Mean negative log-likelihood in nats, at the temperature that suits the model, as a policy brings it there.
    behind : float
        Its loss less that of the best one.
    error : float
        Standard error of ``behind``.
    trained : int
        Numbers that it learned.
    """

    name: str
    loss: float
    behind: float
    error: float
    trained: int


def compare(
    logits: Mapping[str, Tensor], labels: Tensor, groups: Sequence[str], trained: Mapping[str, int]
) -> list[Candidate]:
    """Every model beside the best one, the least loss first.

    Parameters
    ----------
    logits : mapping
        Name -> Tensor ``[n, C]`` of the same rows, which the model has not seen.
    labels : Tensor, [n]
        Class indices.
    groups : sequence of str, [n]
        Near-duplicates share one.
    trained : mapping
        Name -> numbers learned.
    """
    each = {name: calibrated_losses(own, labels) for name, own in logits.items()}
    best = min(each.values(), key=lambda losses: float(losses.mean()))
    found = []
    for name, losses in each.items():
        behind = losses - best
        error = standard_error(behind, groups)
        found.append(Candidate(name, float(losses.mean()), float(behind.mean()), error, trained[name]))
    return sorted(found, key=lambda candidate: candidate.loss)


def calibrated_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of each row ``[n]``, of logits ``[n, C]`` at the temperature that suits these rows."""
    z = logits.double()
    return functional.cross_entropy(z / fit_temperature(z.numpy(), labels.numpy()), labels, reduction="none")


def smallest_near_best(candidates: Sequence[Candidate]) -> Candidate:
    """The one with fewest learned numbers within one standard error of the best; of equally many the one of less loss.

    Breiman, Friedman, Olshen & Stone 1984, Classification and Regression Trees, section 3.4.3; the standard error is
    that of the paired difference.
    """
    near = [candidate for candidate in candidates if candidate.behind <= candidate.error]
    return min(near, key=lambda candidate: (candidate.trained, candidate.loss))


def standard_error(differences: Tensor, groups: Sequence[str]) -> float:
    """Of the mean of differences ``[n]``, summed by group: whole groups are what another sample would bring."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    group, count = torch.tensor([numbers[name] for name in groups]), len(numbers)
    off = torch.zeros(count, dtype=torch.double).index_add(0, group, differences - differences.mean())
    return float((off.square().sum() * count / max(1, count - 1)).sqrt() / len(differences))
