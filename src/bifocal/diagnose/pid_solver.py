"""The convex programme behind the BROJA decomposition, solved by a barrier method with a bound on its error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

EXACT = 1e-13
"""How far the marginals of an answer may be from those asked for."""
STAGES, STEPS, REPAIRS, GROWTH, LEAST_GROWTH = 24, 60, 6, 20.0, 1.2
"""Of the barrier method: values of its weight t, Newton steps at each, steps of a repair, how fast t grows."""


class MarginalProgram:
    """min ``sum q ln(q / sum_y q)`` over q >= 0 with given marginals, by a log barrier and Newton's method.

    With t times the objective less ``sum ln q`` (Boyd and Vandenberghe 2004, chapter 11), all in q-relative units: the
    Hessian is then ``I + t (diag q - q qᵀ / sum_y q)`` in each pair (x1, x2), inverted in closed form, and only the
    multipliers of the marginals need a linear system, of (x1 + x2) y unknowns. Divided by t they are a point of the
    dual, max ``<P1, a> + <P2, b>`` with ``sum_y exp(a + b) <= 1`` in each pair: a lower bound of the answer.
    """

    def __init__(self, first: Floats, second: Floats):
        self.first, self.second = first, second
        self.allowed = (first[:, None] > 0) & (second[None] > 0)
        self.shape = self.allowed.shape
        self.size = first.size
        self._wanted = np.concatenate([first.ravel(), second.ravel()])
        bound = self._wanted > 0
        for y, x2 in enumerate(second.argmax(axis=0)):  # both marginals hold P(y): one equation of each y is idle
            bound[self.size + x2 * second.shape[1] + y] = False
        self.kept = np.flatnonzero(bound)

    def solve(self, gap: float) -> tuple[float, float]:
        """The least value found and how far it is from the answer at most, in nats."""
        q = np.where(self.allowed, self.first[:, None] * self.second[None] / self.first.sum(axis=0), 0)
        t, growth = float(self.allowed.sum()), GROWTH
        best = (np.inf, np.inf)
        for _ in range(STAGES):
            try:
                centre, multipliers = self._centre(q, t)
            except np.linalg.LinAlgError:  # t has outgrown the precision of the numbers
                t, growth = t / growth**0.5, growth**0.5
                if growth < LEAST_GROWTH:
                    break
                continue
            value = self._value(centre)
            best = min(best, (value - self._bound(-multipliers / t), value))
            if best[0] <= gap:
                break
            q, t = centre, t * growth
        return best[1], best[0]

    def _centre(self, q: Floats, t: float) -> tuple[Floats, Floats]:
        for _ in range(STEPS):
            step, multipliers, decrement = self._newton(q, t)
            size = min(1.0, 0.95 / max(-step.min(), 1e-300))
            while size > 1e-9 and self._climb(q, step, size, t) > decrement / 3:
                size /= 2
            q = q * (1 + size * step)
            if decrement < 1e-2:
                break
        return self._repaired(q), multipliers

    def _repaired(self, q: Floats) -> Floats:
        """q with its marginals made exact again: the larger t, the more do rounding errors in the steps move them.

        Newton's method for the joint nearest to q in relative entropy. Raises `LinAlgError` where it fails.
        """
        for _ in range(REPAIRS):
            drift = self._marginals(q) - self._wanted
            if np.abs(drift).max() < EXACT:
                return q
            cells = np.zeros((*self.shape, self.shape[2]))
            cells[..., np.arange(self.shape[2]), np.arange(self.shape[2])] = q
            a, b = self._split(self._solved(cells, drift))
            q = q * (1 - a[:, None] - b[None])
            if q.min() < 0:
                break
        raise np.linalg.LinAlgError("rounding errors have moved the marginals")

    def _slope(self, q: Floats, t: float) -> Floats:
        """Derivative of the barrier function along each ln q."""
        sums = q.sum(axis=2, keepdims=True)
        ratio = np.divide(q, sums, out=np.ones_like(q), where=self.allowed)
        return np.where(self.allowed, t * q * np.log(ratio) - 1, 0)

    def _climb(self, q: Floats, step: Floats, size: float, t: float) -> float:
        """How steeply the barrier function rises again at the end of a step: by it one sees that it was too long."""
        reached = 1 + size * step
        return float((self._slope(q * reached, t) * step / reached).sum())

    def _newton(self, q: Floats, t: float) -> tuple[Floats, Floats, float]:
        """Newton's step in units of q, the multipliers ``[(x1 + x2) y]``, and the decrease it promises (twice)."""
        slope = self._slope(q, t)
        shrunk = self.allowed / (1 + t * q)
        u = shrunk * q
        sums = u.sum(axis=2, keepdims=True)
        sums[sums == 0] = 1  # pairs in which no y is possible
        lean = np.sqrt(t / sums) * u  # Sherman and Morrison

        def inverse(v: Floats) -> Floats:
            return shrunk * v + lean * (lean * v).sum(axis=2, keepdims=True)

        blocks = (q * lean)[..., :, None] * (q * lean)[..., None, :]
        blocks[..., np.arange(q.shape[2]), np.arange(q.shape[2])] += q * u
        drift = self._marginals(q) - self._wanted
        multipliers = self._solved(blocks, drift - self._marginals(q * inverse(slope)))
        a, b = self._split(multipliers)
        step = -inverse(slope + q * (a[:, None] + b[None]))
        return step, multipliers, -float((slope * step).sum())

    def _solved(self, blocks: Floats, target: Floats) -> Floats:
        """Multipliers of the marginals that answer ``target``, from what each pair says of them, ``[x1, x2, y, y]``."""
        x1, x2, c = self.shape
        system = np.zeros((x1 + x2, c, x1 + x2, c))
        system[np.arange(x1), :, np.arange(x1)] = blocks.sum(axis=1)
        system[np.arange(x1, x1 + x2), :, np.arange(x1, x1 + x2)] = blocks.sum(axis=0)
        system[:x1, :, x1:] = blocks.transpose(0, 2, 1, 3)
        system[x1:, :, :x1] = blocks.transpose(1, 3, 0, 2)
        system = system.reshape(2 * ((x1 + x2) * c,))[np.ix_(self.kept, self.kept)]
        scale = 1 / np.sqrt(np.diag(system))
        multipliers = np.zeros(len(target))
        multipliers[self.kept] = scale * np.linalg.solve(system * scale * scale[:, None], scale * target[self.kept])
        return multipliers

    def _marginals(self, q: Floats) -> Floats:
        return np.concatenate([q.sum(axis=1).ravel(), q.sum(axis=0).ravel()])

    def _split(self, multipliers: Floats) -> tuple[Floats, Floats]:
        return multipliers[: self.size].reshape(self.first.shape), multipliers[self.size :].reshape(self.second.shape)

    def _value(self, q: Floats) -> float:
        sums = np.broadcast_to(q.sum(axis=2, keepdims=True), q.shape)
        seen = q > 0
        return float((q[seen] * np.log(q[seen] / sums[seen])).sum())

    def _bound(self, multipliers: Floats) -> float:
        """Value of the dual at these multipliers, moved until they are feasible and touch the border."""
        a, b = self._split(multipliers)
        for axis in (1, 0):
            with np.errstate(divide="ignore"):
                excess = np.logaddexp.reduce(np.where(self.allowed, a[:, None] + b[None], -np.inf), axis=2)
            shift = excess.max(axis=axis)[:, None]
            a, b = (a - shift, b) if axis == 1 else (a, b - shift)
        return float((self.first * a).sum() + (self.second * b).sum())
