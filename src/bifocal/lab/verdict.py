"""The verdict rule, written before any number was seen: is a fusion worth it over each modality alone, and why?"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite, nan
from statistics import NormalDist
from typing import Literal, TypedDict

from ..config import LabConfig
from ..evaluate.compare import POWER_FACTOR, Gains
from ..evaluate.intervals import Figure, Interval

MARGIN = LabConfig().margin
"""That of a study which sets none."""
HALF = NormalDist().inv_cdf(0.975)
"""Standard errors from a value to the end of its 95% interval."""

Word = Literal["worth it", "gain shown", "not worth it", "undecided"]
Kind = Literal["interacting", "additive", "kind unknown"]


class VerdictResult(TypedDict):
    """A `Verdict` as files hold it, with all of it in a sentence."""

    word: Word
    kind: Kind | None
    reason: str
    more_rows: int | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rule says.

    Attributes
    ----------
    word : "worth it", "gain shown", "not worth it" or "undecided"
    kind : "interacting", "additive", "kind unknown" or None
        What a fusion that is worth it lives on; None for the other verdicts.
    reason : str
        Which clause matched, with its numbers.
    more_rows : int or None
        Undecided: test rows that would have to be added for a verdict with 80% power, if the figures stay where they
        are; of a gain shown, for whether it reaches the margin. None where nothing is open, or where no number of rows
        would do.
    """

    word: Word
    kind: Kind | None
    reason: str
    more_rows: int | None

    def to_dict(self, told: str) -> VerdictResult:
        word, kind, reason, more = self.word, self.kind, self.reason, self.more_rows
        return {"word": word, "kind": kind, "reason": reason, "more_rows": more, "sentence": told}


def judge(
    gain: Interval, over_control: Interval, over_additive: Interval, *, n: int, margin: float = MARGIN
) -> Verdict:
    """Apply the rule; the first clause that matches wins.

    - ``not worth it``: gain's interval ends below the margin, or that of the gain over the control at or below 0;
    - ``worth it``: both intervals lie above 0, and gain's lower end reaches the margin; ``interacting`` where the gain
      over the additive part lies above 0 too, ``additive`` where it lies inside ± the margin, else ``kind unknown``;
    - ``gain shown``: both lie above 0, and gain's lower end is below the margin;
    - ``undecided``: anything else, also where an interval is not known.

    Parameters
    ----------
    gain : Interval
        The least of m(F) - m(B) over the modalities, all chosen on val, on test (`least_gain`).
    over_control : Interval
        m(F) - m(Control): over its own architecture trained and tested with every modality but one blanked, that of
        the strongest B on val.
    over_additive : Interval
        m(F) - m(EMAP(F)): over its additive projection.
    n : int
        Test rows behind gain. An interval without width, of rows on which two models never differed, is unknown where
        these could differ on as many more as the margin: under 300 rows for 0.01 (`too_few`).
    """
    gain, over_control, over_additive = (_known(found, n, margin) for found in (gain, over_control, over_additive))
    if gain.high < margin:
        small = " (above 0, but under the margin)" if gain.low > 0 else ""
        return Verdict("not worth it", None, f"the gain {spell(gain)} ends below the margin of {margin:g}{small}", None)
    if over_control.high <= 0:
        return Verdict(
            "not worth it",
            None,
            f"the gain {spell(gain)} is that of the architecture: over the same one with the other modalities blanked "
            f"it is {spell(over_control)}",
            None,
        )
    gained = f"the gain {spell(gain)}"
    beside = f"that over the same architecture with the other modalities blanked {spell(over_control)}"
    if gain.low > 0 and over_control.low > 0:
        shown = f"{gained} and {beside} lie above 0"
        if gain.low >= margin:
            kind, why = _kind(over_additive, margin)
            return Verdict(
                "worth it", kind, f"{shown}, and the gain's lower end reaches the margin of {margin:g}; {why}", None
            )
        more = _more(n, _margin_factor(gain, margin))
        reason = f"{shown}; whether the gain reaches the margin of {margin:g} is open: {_outlook(more)}"
        return Verdict("gain shown", None, reason, more)
    more = rows_needed(gain, over_control, n, margin)
    known = all(map(isfinite, (*gain, *over_control)))
    outlook = _outlook(more) if known else "an interval is not known, so that nothing can be said"
    return Verdict("undecided", None, f"neither {gained} nor {beside} settles it; {outlook}", more)


def least_gain(gains: Gains, margin: float = MARGIN) -> Interval:
    """The least gain over several models; an end is unknown where it is that of a model from which F never differed on
    rows too few for it to mean that."""
    least = interval_of(gains.least)
    flat = {g["value"] for g in gains.each.values() if g["low"] == g["high"] and too_few(g["n"], margin)}
    low, high = (nan if end in flat else end for end in (least.low, least.high))
    return Interval(least.value, low, high)


def too_few(n: int, margin: float) -> bool:
    """Whether rows that show no difference may hide one of the margin.

    What was not seen in n rows happens in fewer than 3 / n of them, at 95% (the rule of three; Hanley and Lippman-Hand
    1983, JAMA 249).
    """
    return n * margin <= 3


def _known(found: Interval, n: int, margin: float) -> Interval:
    """The interval, or one with unknown ends where all resamples agree on too few rows."""
    return Interval(found.value, nan, nan) if found.low == found.high and too_few(n, margin) else found


def _kind(over_additive: Interval, margin: float) -> tuple[Kind, str]:
    found = f"over its own additive part it gains {spell(over_additive)}"
    if over_additive.low > 0:
        return "interacting", f"{found}: the modalities interact"
    if over_additive.low > -margin and over_additive.high < margin:
        return "additive", f"{found}, inside the margin: an additive score does as well, so take the smallest that ties"
    return "kind unknown", f"{found}: too unsure to say whether the modalities interact"


def _outlook(more: int | None) -> str:
    if more is None:
        return "no number of rows would decide it at these figures"
    return f"about {more:,} more test rows would decide it with 80% power at these figures"


def rows_needed(gain: Interval, over_control: Interval, n: int, margin: float = MARGIN) -> int | None:
    """Test rows to be added until another verdict than ``undecided`` has 80% power; None where no number would do.

    The ends of an interval near its value as 1 / sqrt(rows). Takes the figures as they are for the truth, and the upper
    end of the gain, which lies further out for several modalities, as that of one: a rough number for planning.
    """
    if not all(map(isfinite, (*gain, *over_control))):
        return None
    small = _factor(gain.high - gain.value, margin - gain.value)
    idle = _factor(over_control.high - over_control.value, -over_control.value)
    clear = max(
        _factor(i.value - i.low, i.value) for i in (gain, over_control)
    )  # both must lie above 0, with the same rows
    return _more(n, min(small, idle, clear))


def _margin_factor(gain: Interval, margin: float) -> float:
    """By how much the rows must multiply to tell with 80% power on which side of the margin a gain is."""
    above, below = gain.value - gain.low, gain.high - gain.value
    return min(_factor(above, gain.value - margin), _factor(below, margin - gain.value))


def _more(n: int, factor: float) -> int | None:
    return max(1, ceil(n * (factor - 1))) if isfinite(factor) else None


def _factor(half: float, room: float) -> float:
    """By how much the rows must multiply for 80% power to leave ``room``, of half a 95% interval; infinite where there
    is no room."""
    return (POWER_FACTOR / HALF * half / room) ** 2 if room > 0 else float("inf")


def sentence(verdict: Verdict, *, fusion: str, over: str, metric: str, n: int) -> str:
    """The verdict in one sentence for people.

    >>> sentence(Verdict("undecided", None, "because", None), fusion="concat", over="text_expert", metric="auroc", n=9)
    'undecided: concat over text_expert (auroc, 9 test rows): because'
    """
    word = verdict.word if verdict.kind is None else f"{verdict.word}, {verdict.kind}"
    return f"{word}: {fusion} over {over} ({metric}, {n:,} test rows): {verdict.reason}"


def spell(found: Interval) -> str:
    """A difference with its interval, ``+0.031 [+0.012, +0.049]``."""
    value, low, high = (f"{round(x, 3) + 0.0:+.3f}" if isfinite(x) else "unknown" for x in found)  # no -0.000
    return f"{value} [{low}, {high}]" if "unknown" not in (low, high) else value


def interval_of(found: Figure) -> Interval:
    """The interval in what `bifocal.evaluate.compare.paired_gain` gives."""
    return Interval(found["value"], found["low"], found["high"])
