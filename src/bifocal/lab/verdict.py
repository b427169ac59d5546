"""The verdict rule, written before any number was seen: is a fusion worth it over the best single modality, and why?"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite, nan
from typing import Literal, TypedDict

from ..evaluate.intervals import Figure, Interval

MARGIN = 0.01
"""Of AUROC or macro-F1: a gain that is surely smaller is not worth a second encoder."""

Word = Literal["worth it", "not worth it", "undecided"]
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
    word : "worth it", "not worth it" or "undecided"
    kind : "interacting", "additive", "kind unknown" or None
        What a fusion that is worth it lives on; None for the other verdicts.
    reason : str
        Which clause matched, with its numbers.
    more_rows : int or None
        Undecided: test rows that would have to be added for a verdict, if the figures stay where they are. None where
        the verdict stands, or where no number of rows would do.
    """

    word: Word
    kind: Kind | None
    reason: str
    more_rows: int | None

    def to_dict(self, told: str) -> VerdictResult:
        word, kind, reason, more = self.word, self.kind, self.reason, self.more_rows
        return {"word": word, "kind": kind, "reason": reason, "more_rows": more, "sentence": told}


def judge(gain: Interval, over_control: Interval, over_additive: Interval, *, n: int) -> Verdict:
    """Apply the rule; the first clause that matches wins.

    - ``not worth it``: gain's interval ends below `MARGIN`, or that of the gain over the control at or below 0;
    - ``worth it``: both intervals lie above 0; ``interacting`` where that over the additive part lies above 0 too,
      ``additive`` where it lies inside ±`MARGIN`, else ``kind unknown``;
    - ``undecided``: anything else, also where an interval is not known.

    Parameters
    ----------
    gain : Interval
        m(F) - m(B): the fusion over the best single-modality model, both chosen on val, on test.
    over_control : Interval
        m(F) - m(Control): over its own architecture trained and tested with every modality but B's blanked.
    over_additive : Interval
        m(F) - m(EMAP(F)): over its additive projection.
    n : int
        Test rows behind gain. An interval without width, of rows on which two models never differed, is unknown where
        these could differ on as many more as the margin: under 300 rows (`_known`).
    """
    gain, over_control, over_additive = (_known(found, n) for found in (gain, over_control, over_additive))
    if gain.high < MARGIN:
        small = " (above 0, but under the margin)" if gain.low > 0 else ""
        return Verdict("not worth it", None, f"the gain {spell(gain)} ends below the margin of {MARGIN:g}{small}", None)
    if over_control.high <= 0:
        return Verdict(
            "not worth it",
            None,
            f"the gain {spell(gain)} is that of the architecture: over the same one with the other modalities blanked "
            f"it is {spell(over_control)}",
            None,
        )
    if gain.low > 0 and over_control.low > 0:
        kind, why = _kind(over_additive)
        reason = (
            f"the gain {spell(gain)} and that over the same architecture with the other modalities blanked "
            f"{spell(over_control)} lie above 0; {why}"
        )
        return Verdict("worth it", kind, reason, None)
    more = rows_needed(gain, over_control, n)
    if not all(map(isfinite, (*gain, *over_control))):
        outlook = "an interval is not known, so that nothing can be said"
    elif more is None:
        outlook = "no number of rows would decide it at these figures"
    else:
        outlook = f"about {more:,} more test rows would decide it at these figures"
    reason = (
        f"neither the gain {spell(gain)} nor that over the same architecture with the other modalities blanked "
        f"{spell(over_control)} settles it; {outlook}"
    )
    return Verdict("undecided", None, reason, more)


def _known(found: Interval, n: int) -> Interval:
    """The interval, or one with unknown ends where all resamples agree on rows that are too few for it to mean that.

    What was not seen in n rows happens in fewer than 3 / n of them, at 95% (the rule of three; Hanley and Lippman-Hand
    1983, JAMA 249).
    """
    return Interval(found.value, nan, nan) if found.low == found.high and n * MARGIN <= 3 else found


def _kind(over_additive: Interval) -> tuple[Kind, str]:
    found = f"over its own additive part it gains {spell(over_additive)}"
    if over_additive.low > 0:
        return "interacting", f"{found}: the modalities interact"
    if over_additive.low > -MARGIN and over_additive.high < MARGIN:
        return "additive", f"{found}, inside the margin: an additive score does as well, so take the smallest that ties"
    return "kind unknown", f"{found}: too unsure to say whether the modalities interact"


def rows_needed(gain: Interval, over_control: Interval, n: int) -> int | None:
    """Test rows to be added for a verdict: the ends of an interval near its value as 1 / sqrt(rows).

    Takes the figures as they are for the truth; a rough number for planning. None where no number would do.
    """
    if not all(map(isfinite, (*gain, *over_control))):
        return None
    small = _factor(gain.high - gain.value, MARGIN - gain.value)
    idle = _factor(over_control.high - over_control.value, -over_control.value)
    clear = max(
        _factor(i.value - i.low, i.value) for i in (gain, over_control)
    )  # both must lie above 0, with the same rows
    factor = min(small, idle, clear)
    return max(1, ceil(n * (factor - 1))) if isfinite(factor) else None


def _factor(half: float, room: float) -> float:
    """By how much the rows must multiply for half an interval to fit into ``room``; infinite where there is none."""
    return (half / room) ** 2 if room > 0 else float("inf")


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
