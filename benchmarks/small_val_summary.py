"""What `small_val.py` found: tables of its cells, and of each criterion whether it holds.

Strategies have different numbers of draws. A mean is of each strategy's mean over its own draws, so that each counts
alike. Intervals are Student's t over draws, 95%, of differences within cells; those of several strategies are over the
draws that hold a cell of each. Cross-fitting is to be better than val in the mean in NLL and macro-F1 on every set
(without 0 in the interval on most), and never worse than untuned by more than 0.005 NLL; `auto` within 0.005 AUROC of
the strategy with the best mean of a set and size; `ensemble` no worse than the best single one; the deployed model's
NLL within 0.005 (0.01 of 300 rows) of that at the temperature that its test rows would choose. What does not hold is
told as it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

VALS = (50, 150)
"""Rows of val."""
SIMPLE = ("alone", "mean", "stacking", "linear")
"""Strategies that are fitted in a moment, and so have more draws."""
CHOOSING = ("auto", "ensemble")
METRICS = ("nll", "macro_f1")
Row = dict[str, Any]
"""A cell: see `small_val.measure_cell`."""
Value = Callable[[Row], float]
"""A figure of a cell."""
Told = tuple[float, float, float]
"""A mean and the ends of its interval; nan where there is none."""


def summarise(cells: Iterable[Row], *, tables: bool = False) -> None:
    """Print all of it; with ``tables`` those of each strategy too."""
    rows = sorted(cells, key=lambda r: (r["set"], r["size"], r["strategy"] in CHOOSING, r["strategy"], r["draw"]))
    draws = [len(own) for own in by(rows, "set", "size", "strategy").values()]
    print(f"{len(rows)} cells, {min(draws, default=0)} to {max(draws, default=0)} draws of a set, size and strategy")
    if tables:
        print_tables(rows)
    print_means(rows)
    compare_tunings(rows)
    compare_untuned(rows)
    compare_choices(rows)
    compare_gains(rows)


def interval(values: Iterable[float]) -> Told:
    """Mean of independent draws and the ends of its 95% interval by Student's t; of one draw the ends are nan."""
    from scipy.stats import t

    found = np.array([value for value in values if not np.isnan(value)])
    if len(found) < 2:
        return (float(found[0]) if len(found) else np.nan), np.nan, np.nan
    half = t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
    return float(found.mean()), float(found.mean() - half), float(found.mean() + half)


def told(found: Told) -> str:
    centre, low, high = found
    return f"{centre:+.4f} " + ("[-, -]" if np.isnan(low) else f"[{low:+.4f}, {high:+.4f}]")


def by(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows under each value of some keys, in the order in which these come."""
    found = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return dict(found)


def mean(cells: Iterable[Row], value: Value) -> float:
    """Over sets, sizes and strategies, of the mean of each over its draws."""
    each = [
        [v for cell in own if not np.isnan(v := value(cell))] for own in by(cells, "set", "size", "strategy").values()
    ]
    means = [np.mean(known) for known in each if known]
    return float(np.mean(means)) if means else np.nan


def complete(cells: Sequence[Row]) -> list[list[Row]]:
    """The cells of each draw that holds every set, size and strategy that is among them."""
    wanted = len(by(cells, "set", "size", "strategy"))
    return [own for own in by(cells, "draw").values() if len(own) == wanted]


def paired(cells: Sequence[Row], value: Value) -> Told:
    """`mean`, and the ends of the interval over the draws that are `complete`."""
    return (mean(cells, value), *interval(float(np.mean([value(cell) for cell in own])) for own in complete(cells))[1:])


def figure(decision: str, metric: str) -> Value:
    return lambda cell: float(abs(cell[decision][metric]) if metric == "gain_error" else cell[decision][metric])


def cross_fitted_less(other: str, metric: str) -> Value:
    """Cross-fitted less another decision, the mean of both numbers of val rows."""
    pairs = [(f"cross_fit{n}", other if other == "untuned" else f"{other}{n}") for n in VALS]
    return lambda cell: float(np.mean([cell[a][metric] - cell[b][metric] for a, b in pairs]))


def decisions(n: int) -> dict[str, str]:
    return {"untuned": "untuned", "val": f"val{n}", "val only": f"val_only{n}", "cross-fit": f"cross_fit{n}"}


def columns(cells: Sequence[Row], n: int) -> str:
    return "  ".join(
        " ".join(f"{mean(cells, figure(d, m)):6.3f}" for d in decisions(n).values()) for m in ("macro_f1", "nll", "ece")
    )


COLUMNS = f"{'macro-F1':29}{'NLL':29}debiased ECE"


def print_tables(rows: Sequence[Row]) -> None:
    """A table for each set, size and number of val rows."""
    for (name, size), own in by(rows, "set", "size").items():
        for n in VALS:
            print(f"\n{name}, {size} train rows, {n} val rows; " + ", ".join(decisions(n)) + "; CPU seconds")
            print(f"{'':10} draws  AUROC  {COLUMNS:85} gain's error (val, cross-fit)")
            for (strategy,), cells in by(own, "strategy").items():
                errors = " ".join(f"{mean(cells, figure(d, 'gain_error')):.3f}" for d in (f"val{n}", f"cross_fit{n}"))
                took = mean(cells, lambda cell: cell["seconds"]["cross_fit"] + cell["seconds"]["fit"])
                scored = mean(cells, lambda cell: cell["auroc"])
                print(f"{strategy:10} {len(cells):5}  {scored:.3f}  {columns(cells, n)}  {errors}  {took:6.1f}")


def print_means(rows: Sequence[Row]) -> None:
    """A line for each set, size and number of val rows."""
    print("\nMeans over strategies, train and val rows; " + ", ".join(decisions(0)))
    print(f"{'':34}{COLUMNS}")
    for (name, size), own in by(rows, "set", "size").items():
        for n in VALS:
            print(f"  {name:22}{size:5}{n:4} {columns(own, n)}")


def compare_tunings(rows: Sequence[Row]) -> None:
    for other in ("val", "val_only"):
        print(f"\nCross-fitted less {other}: NLL | macro-F1 (draws of the interval)")
        better, sure = defaultdict(list), defaultdict(list)
        for (name,), own in by(rows, "set").items():
            kinds = {
                "all": own,
                "simple": [row for row in own if row["strategy"] in SIMPLE],
                "learned": [row for row in own if row["strategy"] not in SIMPLE],
                **{str(size): cells for (size,), cells in by(own, "size").items()},
            }
            for kind, cells in kinds.items():
                if cells:
                    print(f"  {name:22} {kind:9} {_both(cells, other)}")
            for metric, sign in zip(METRICS, (-1, 1), strict=True):
                centre, low, high = paired(own, cross_fitted_less(other, metric))
                better[metric].append(sign * centre > 0)
                sure[metric].append(min(sign * low, sign * high) > 0)
        for metric, found in better.items():
            verdict(
                all(found) and sum(sure[metric]) > len(found) / 2,
                f"cross-fitted better than {other} in {metric}: in the mean on {sum(found)} of {len(found)} sets, "
                f"interval without 0 on {sum(sure[metric])}",
            )
    print("\nOf each strategy, over sets and sizes, cross-fitted less val | val_only | untuned: NLL (draws)")
    for (strategy,), cells in sorted(by(rows, "strategy").items()):
        shown = [told(paired(cells, cross_fitted_less(other, "nll"))) for other in ("val", "val_only", "untuned")]
        print(f"  {strategy:10} " + " | ".join(shown) + f" ({len(complete(cells))})")


def _both(cells: Sequence[Row], other: str) -> str:
    shown = [told(paired(cells, cross_fitted_less(other, metric))) for metric in METRICS]
    return " | ".join(shown) + f" ({len(complete(cells))})"


def compare_untuned(rows: Sequence[Row], allowed: float = 0.005) -> None:
    print("\nCross-fitted less untuned, of the same model: NLL | macro-F1 (draws of the interval)")
    for (name,), own in by(rows, "set").items():
        print(f"  {name:22} {_both(own, 'untuned')}")
    worse = []
    for key, cells in by(rows, "set", "size", "strategy").items():
        found = paired(cells, cross_fitted_less("untuned", "nll"))
        if found[0] > allowed:
            worse.append(f"{' '.join(map(str, key))} {told(found)}")
    verdict(not worse, f"NLL never above untuned by {allowed}: above by more in {len(worse)} means" + _listed(worse))
    for (size,), cells in sorted(by(rows, "size").items()):
        bound = 0.01 if size < 1000 else 0.005
        found = paired(cells, lambda cell: float(np.mean([cell[f"cross_fit{n}"]["excess_nll"] for n in VALS])))
        verdict(
            found[0] <= bound,
            f"NLL less that at the temperature of the test rows, {size} rows: {told(found)}, at most {bound}",
        )


def compare_choices(rows: Sequence[Row], allowed: float = 0.005) -> None:
    """`auto` and `ensemble` beside the single strategy with the best mean, on the draws that all have."""
    print("\nauto and ensemble less the best single strategy of a set and size, AUROC; and NLL, cross-fitted")
    found: dict[str, list[str]] = {"auto": [], "ensemble": []}
    count = known = 0
    for (name, size), own in by(rows, "set", "size").items():
        each = {s: {cell["draw"]: cell for cell in cells} for (s,), cells in by(own, "strategy").items()}
        if not set(CHOOSING) <= set(each):
            continue
        if not (draws := sorted(set.intersection(*(set(cells) for cells in each.values())))):
            continue
        count += 1
        scores = {s: np.array([cells[d]["auroc"] for d in draws]) for s, cells in each.items()}
        losses = {
            s: np.array([np.mean([cells[d][f"cross_fit{n}"]["nll"] for n in VALS]) for d in draws])
            for s, cells in each.items()
        }
        singles = [s for s in each if s not in CHOOSING]
        best, least = max(singles, key=lambda s: scores[s].mean()), min(singles, key=lambda s: losses[s].mean())
        gains = {s: scores[s] - scores[best] for s in CHOOSING}
        lost = losses["ensemble"] - losses[least]
        counts = Counter(str(each["auto"][d]["taken"]) for d in draws)
        taken = ", ".join(f"{name} {n}" for name, n in counts.most_common())
        line = f"{name} {size} ({len(draws)} draws), best {best} {scores[best].mean():.4f}"
        print(
            f"  {line}: auto {told(interval(gains['auto']))} ({taken}), "
            f"ensemble {told(interval(gains['ensemble']))}; NLL over {least} {told(interval(lost))}"
        )
        if gains["auto"].mean() < -allowed:
            found["auto"].append(f"{line}: {told(interval(gains['auto']))}")
        known += len(draws) > 1
        if interval(gains["ensemble"])[2] < 0 or interval(lost)[1] > 0:
            found["ensemble"].append(f"{line}: AUROC {told(interval(gains['ensemble']))}, NLL {told(interval(lost))}")
    if not count:
        return
    verdict(
        not found["auto"],
        f"auto within {allowed} AUROC of the best: not in {len(found['auto'])} of {count}" + _listed(found["auto"]),
    )
    verdict(
        not found["ensemble"] if known else None,
        f"ensemble no worse than the best (no interval of AUROC or NLL wholly on the worse side): worse in "
        f"{len(found['ensemble'])} of {known} with an interval" + _listed(found["ensemble"]),
    )


def compare_gains(rows: Sequence[Row]) -> None:
    print("\nError of the stated gain, AUROC: mean of the absolute, by train rows | mean")
    for (size,), cells in sorted(by(rows, "size").items()):
        for decision in (f"{d}{n}" for n in VALS for d in ("val", "cross_fit")):
            absolute, signed = figure(decision, "gain_error"), lambda cell, d=decision: cell[d]["gain_error"]
            print(f"  {size:5} {decision:12} {mean(cells, absolute):.4f} | {mean(cells, signed):+.4f}")


def verdict(holds: bool | None, what: str) -> None:
    """None: there is no interval yet to judge by."""
    print(f"{'NOT KNOWN' if holds is None else 'HOLDS' if holds else 'DOES NOT HOLD'}: {what}")


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"\n    {line}" for line in lines)
