"""What `small_val.py` found: tables of its cells, and of each criterion whether it holds.

Intervals are Student's t over draws, 95%, of differences within cells. Cross-fitting is to be better than val in the
mean in NLL and macro-F1 on every set (without 0 in the interval on most), and never worse than untuned by more than
0.005 NLL; `auto` within 0.005 AUROC of the strategy with the best mean of a set and size; `ensemble` no worse than the
best single one; the deployed model's NLL within 0.005 (0.01 of 300 rows) of that at the temperature that its test rows
would choose. What does not hold is told as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

VALS = (50, 150)
"""Rows of val."""
SIMPLE = ("alone", "mean", "stacking", "linear")
"""Strategies that are fitted in a moment, and so have more draws."""
CHOOSING = ("auto", "ensemble")
Row = dict[str, Any]
"""A cell: see `small_val.measure_cell`."""


def summarise(cells: Iterable[Row]) -> None:
    """Print all of it."""
    rows = sorted(cells, key=lambda r: (r["set"], r["size"], r["strategy"] in CHOOSING, r["strategy"], r["draw"]))
    print_tables(rows)
    compare_tunings(rows)
    compare_untuned(rows)
    compare_choices(rows)
    compare_gains(rows)


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean of independent draws and the ends of its 95% interval by Student's t; of one draw the ends are nan."""
    from scipy.stats import t

    found = np.array([value for value in values if not np.isnan(value)])
    half = t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.nan
    return float(found.mean()), float(found.mean() - half), float(found.mean() + half)


def told(values: Iterable[float]) -> str:
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*interval(values))


def by(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows under each value of some keys, in the order in which these come."""
    found = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return dict(found)


def mean(rows: Iterable[Row], decision: str, metric: str) -> float:
    return float(
        np.mean([abs(row[decision][metric]) if metric == "gain_error" else row[decision][metric] for row in rows])
    )


def print_tables(rows: Sequence[Row]) -> None:
    """A table for each set, size and number of val rows."""
    for (name, size), own in by(rows, "set", "size").items():
        for n in VALS:
            decided = {"untuned": "untuned", "val": f"val{n}", "val only": f"val_only{n}", "cross-fit": f"cross_fit{n}"}
            print(f"\n{name}, {size} train rows, {n} val rows; " + ", ".join(decided) + "; CPU seconds")
            print(f"{'':10} draws  AUROC  {'macro-F1':27} {'NLL':27} {'debiased ECE':27} gain's error (val, cross-fit)")
            for (strategy,), cells in by(own, "strategy").items():
                columns = [
                    " ".join(f"{mean(cells, d, m):6.3f}" for d in decided.values()) for m in ("macro_f1", "nll", "ece")
                ]
                errors = " ".join(f"{mean(cells, d, 'gain_error'):.3f}" for d in (f"val{n}", f"cross_fit{n}"))
                took = np.mean([cell["seconds"]["cross_fit"] + cell["seconds"]["fit"] for cell in cells])
                scored = np.mean([cell["auroc"] for cell in cells])
                print(f"{strategy:10} {len(cells):5}  {scored:.3f} " + "  ".join(columns) + f"  {errors}  {took:6.1f}")


def differences(cells: Iterable[Row], metric: str, other: str) -> list[float]:
    """Cross-fitted less another decision, a mean of both numbers of val rows for each cell."""
    pairs = [(f"cross_fit{n}", other if other == "untuned" else f"{other}{n}") for n in VALS]
    return [float(np.mean([cell[a][metric] - cell[b][metric] for a, b in pairs])) for cell in cells]


def per_draw(cells: Iterable[Row], difference: Callable[[list[Row]], list[float]]) -> list[float]:
    """The mean over the cells of each draw."""
    return [float(np.mean(difference(own))) for own in by(cells, "draw").values()]


def compare_tunings(rows: Sequence[Row]) -> None:
    families = {
        "all": lambda row: True,
        "simple": lambda row: row["strategy"] in SIMPLE,
        "learned": lambda row: row["strategy"] not in SIMPLE,
    }
    for other in ("val", "val_only"):
        print(f"\nCross-fitted less {other}, the mean of a draw's cells, 95% over draws: NLL | macro-F1")
        better, sure = defaultdict(list), defaultdict(list)
        for (name,), own in by(rows, "set").items():
            for family, belongs in families.items():
                if not (cells := [row for row in own if belongs(row)]):
                    continue
                shown = []
                for metric, sign in (("nll", -1), ("macro_f1", 1)):
                    values = per_draw(cells, partial(differences, metric=metric, other=other))
                    centre, low, high = interval(values)
                    shown.append(told(values))
                    if family == "all":
                        better[metric].append(sign * centre > 0)
                        sure[metric].append(min(sign * low, sign * high) > 0)
                print(f"  {name:22} {family:9} " + " | ".join(shown))
            for (size,), cells in by(own, "size").items():
                shown = [
                    told(per_draw(cells, partial(differences, metric=m, other=other))) for m in ("nll", "macro_f1")
                ]
                print(f"  {name:22} {size!s:9} " + " | ".join(shown))
        for metric, found in better.items():
            verdict(
                all(found) and sum(sure[metric]) > len(found) / 2,
                f"cross-fitted better than {other} in {metric}: in the mean on {sum(found)} of {len(found)} sets, "
                f"interval without 0 on {sum(sure[metric])}",
            )


def compare_untuned(rows: Sequence[Row], allowed: float = 0.005) -> None:
    print("\nCross-fitted less untuned, of the same model: NLL | macro-F1")
    for (name,), own in by(rows, "set").items():
        shown = [told(per_draw(own, partial(differences, metric=m, other="untuned"))) for m in ("nll", "macro_f1")]
        print(f"  {name:22} " + " | ".join(shown))
    worse = []
    for key, cells in by(rows, "set", "size", "strategy").items():
        values = differences(cells, "nll", "untuned")
        if np.mean(values) > allowed:
            worse.append(f"{' '.join(map(str, key))} {told(values)}")
    verdict(not worse, f"NLL never above untuned by {allowed}: above by more in {len(worse)} means" + _listed(worse))
    for (size,), cells in by(rows, "size").items():
        bound = 0.01 if size < 1000 else 0.005
        found = per_draw(
            cells, lambda own: [np.mean([cell[f"cross_fit{n}"]["excess_nll"] for n in VALS]) for cell in own]
        )
        verdict(
            bool(np.mean(found) <= bound),
            f"NLL less that at the temperature of the test rows, {size} rows: {told(found)}, at most {bound}",
        )


def compare_choices(rows: Sequence[Row], allowed: float = 0.005) -> None:
    """`auto` and `ensemble` beside the single strategy with the best mean, on the draws that all have."""
    print("\nauto and ensemble less the best single strategy of a set and size, AUROC; and NLL, cross-fitted")
    found: dict[str, list[str]] = {"auto": [], "ensemble": []}
    count = 0
    for (name, size), own in by(rows, "set", "size").items():
        each = {s: {cell["draw"]: cell for cell in cells} for (s,), cells in by(own, "strategy").items()}
        if not set(CHOOSING) <= set(each):
            continue
        count += 1
        draws = sorted(set.intersection(*(set(cells) for cells in each.values())))
        scores = {s: np.array([cells[d]["auroc"] for d in draws]) for s, cells in each.items()}
        losses = {
            s: np.array([mean([cells[d] for n in VALS], f"cross_fit{VALS[-1]}", "nll") for d in draws])
            for s, cells in each.items()
        }
        singles = [s for s in each if s not in CHOOSING]
        best, least = max(singles, key=lambda s: scores[s].mean()), min(singles, key=lambda s: losses[s].mean())
        gains = {s: scores[s] - scores[best] for s in CHOOSING}
        lost = losses["ensemble"] - losses[least]
        taken = ", ".join(str(each["auto"][d]["taken"]) for d in draws)
        line = f"{name} {size} ({len(draws)} draws), best {best} {scores[best].mean():.4f}"
        print(
            f"  {line}: auto {told(gains['auto'])} ({taken}), "
            f"ensemble {told(gains['ensemble'])}; NLL over {least} {told(lost)}"
        )
        if gains["auto"].mean() < -allowed:
            found["auto"].append(f"{line}: {told(gains['auto'])}")
        if interval(gains["ensemble"])[2] < 0 or interval(lost)[1] > 0:
            found["ensemble"].append(f"{line}: AUROC {told(gains['ensemble'])}, NLL {told(lost)}")
    if not count:
        return
    verdict(
        not found["auto"],
        f"auto within {allowed} AUROC of the best: not in {len(found['auto'])} of {count}" + _listed(found["auto"]),
    )
    verdict(
        not found["ensemble"],
        f"ensemble no worse than the best (no interval of AUROC or NLL wholly on the worse side): worse in "
        f"{len(found['ensemble'])} of {count}" + _listed(found["ensemble"]),
    )


def compare_gains(rows: Sequence[Row]) -> None:
    print("\nError of the stated gain, AUROC: mean of the absolute, by train rows | mean")
    for (size,), cells in by(rows, "size").items():
        for decision in (f"{d}{n}" for n in VALS for d in ("val", "cross_fit")):
            signed = [cell[decision]["gain_error"] for cell in cells]
            print(f"  {size:5} {decision:12} {np.nanmean(np.abs(signed)):.4f} | {np.nanmean(signed):+.4f}")


def verdict(holds: bool, what: str) -> None:
    print(f"{'HOLDS' if holds else 'DOES NOT HOLD'}: {what}")


def _listed(lines: Sequence[str]) -> str:
    return "".join(f"\n    {line}" for line in lines)
