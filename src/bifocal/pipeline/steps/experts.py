"""Step `experts`: of each modality an expert is trained and saved, on the rows that are not the fusion's alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from ...assess.predictions import prior
from ...assess.slices import read_columns
from ...config import expand_home
from ...data.splits import holdout_rows
from ...errors import DataError
from ...evaluate.metrics import macro_f1
from ...example import UNLABELLED
from ...fit.expert import (
    FINISHED,
    ExpertData,
    ExpertFiles,
    FittedExpert,
    FittedHead,
    FurtherLabel,
    fit_expert,
)
from ...models.saved import read_card
from ..context import Context, Step

if TYPE_CHECKING:
    from ...contracts import Encoder

SHOWN_COLUMNS = 40
"""Columns of records that are told on the screen, those with something to say first; the report has all."""


class ExpertCounts(TypedDict):
    """By the expert's name."""

    history: dict[str, list[dict[str, float]]]
    """A row per epoch."""
    rows: dict[str, dict[str, dict[str, int]]]
    tried: dict[str, dict[str, float]]
    """Of several encoders: the loss of each on rows that it had not seen."""
    tried_on: dict[str, str]
    """Which rows those were: ``train``, cross-fitted, or ``val``."""
    columns: dict[str, list[str]]
    """A line per column of records."""
    seconds_each: dict[str, float]
    heads: NotRequired[dict[str, dict[str, FittedHead]]]
    """By the expert's name and the further label."""


def fit_experts(run: Context) -> ExpertCounts:
    """Train what is not trained yet. Raises as `fit_expert`, and `DataError` where the fusion would learn nothing."""
    slices = run.config.slices
    if slices.columns or slices.groups:
        read_columns(run.data.split(run.data.tested_on), run.data.taxonomy, slices)  # an unknown one is refused now
    _tell_majority(run)
    known = {space.own_expert(model).name for space in run.spaces for model in run.data.models}
    for folder in (*run.space.models.glob("*"), *run.space.evidence_folder.glob("*")):
        if folder.is_dir() and folder.name not in known:  # of a run with other modalities, or labels
            shutil.rmtree(folder)
    rows = _training_rows(run)
    done: dict[str, FittedExpert] = {}
    columns: dict[str, list[str]] = {}
    # Records first: a column that nothing settles is refused before another expert trains for hours.
    for name in sorted(run.modalities, key=lambda name: not isinstance(run.modalities[name].blank(), Mapping)):
        expert = run.modalities[name].expert_name
        done[expert] = fitted = _fit(run, name, rows)
        if fitted.tried:
            kind = "cross-fitted" if fitted.tried_on == "train" else "val"
            figures = ", ".join(f"{encoder} {value:.4f}" for encoder, value in fitted.tried.items())
            run.reporter.note(f"{expert}: {kind} loss {figures}; the smallest that ties with the best is taken")
        if told := _told_columns(run, fitted.encoder, name):
            columns[expert] = told
            for line in told[:SHOWN_COLUMNS]:
                run.reporter.note(line)
            if (left := len(told) - SHOWN_COLUMNS) > 0:
                run.reporter.note(f"and {left:,} more columns, which the report names")
    counts: ExpertCounts = {
        "history": {name: fitted.history for name, fitted in done.items()},
        "rows": {name: fitted.counts for name, fitted in done.items()},
        "tried": {name: fitted.tried for name, fitted in done.items() if fitted.tried},
        "tried_on": {name: fitted.tried_on for name, fitted in done.items() if fitted.tried},
        "columns": columns,
        "seconds_each": {name: fitted.seconds for name, fitted in done.items()},
    }
    if run.further:
        counts["heads"] = {name: fitted.heads for name, fitted in done.items()}
    return counts


def _fit(run: Context, name: str, rows: list[int]) -> FittedExpert:
    expert = run.modalities[name].expert_name

    def tell(encoder: str, figures: dict[str, float]) -> None:
        """Under the expert's name, or where encoders compete for it under theirs."""
        run.reporter.epoch(encoder if len(run.candidates[name]) > 1 else expert, figures)

    further = [
        FurtherLabel(
            label,
            of.label,
            run.config.labels[label].weight,
            of.space.own_expert(expert),
            partial(of.space.evidence, expert),
        )
        for label, of in run.further.items()
    ]
    weight = run.config.labels[run.config.label].weight if further else 1.0
    return fit_expert(
        run.config.expert(name),
        ExpertData(name, run.modalities[name], run.data.packed, run.config.label, run.label, rows, further, weight),
        ExpertFiles(
            run.space.expert(expert),
            run.space.checkpoints / expert,
            partial(run.space.evidence, expert),
            run.data.reads_tokens(name),
        ),
        seed=run.config.seed,
        on_epoch=tell,
        progress=run.reporter.progress,
    )


def _training_rows(run: Context) -> list[int]:
    """Train rows that experts learn from. The others are the fusion's, clean of fine-tuning (rule 3): on record."""
    train = run.data.packed["train"]
    share = run.holdout
    if not share or run.data.in_sample:
        run.record.update(fuse=None)
        return list(range(len(train)))
    classes = train.classes(run.config.label, run.label)
    aside = holdout_rows(train.groups, classes, share, run.config.seed)
    found = set(classes) - {UNLABELLED}
    if len({classes[i] for i, keep in enumerate(aside) if keep} & found) < 2 <= len(found):
        raise DataError(
            f"the {sum(aside)} train rows kept aside for the fusion bear fewer than two classes of "
            f"{run.config.label}: give more rows, raise `fusion.holdout`, or take `tune: head`, which needs none"
        )
    kept = [train.ids[i] for i, keep in enumerate(aside) if keep]
    run.record.update(fuse={"share": share, "n": len(kept), "ids": kept})
    return [i for i, keep in enumerate(aside) if not keep]


def _told_columns(run: Context, encoder: Encoder, modality: str) -> list[str]:
    """Each column of a record in a line, as training read it, and what other splits hold that it did not."""
    card = read_card(run.space.expert(run.modalities[modality].expert_name))
    lines = list(card.get("columns_told", []))
    for name, split in run.data.packed.items() if lines else ():
        refused = []
        for value, there in zip(split.values(modality), split.present[modality], strict=True):
            try:
                if there:
                    encoder.check(value)
            except DataError as error:
                refused.append(str(error))
        if refused:
            rows = f"{len(refused):,} of {len(split):,} rows"
            lines.insert(0, f"{name}: in {rows} a cell is not as training had it, and taken as missing; {refused[0]}")
    return lines


def _tell_majority(run: Context) -> None:
    """The baseline beside which an epoch's figures are read."""
    classes = {name: np.array(split.classes(run.config.label, run.label)) for name, split in run.data.packed.items()}
    shares = prior(classes["train"], len(run.label.classes))
    judged = classes[run.data.tuned_on]
    judged = judged[judged != UNLABELLED]
    predictions = np.full(len(judged), shares.argmax())
    score = macro_f1(judged, np.tile(shares, (len(judged), 1)), predictions=predictions)
    right = np.mean(judged == predictions)
    run.reporter.note(f"majority baseline on {run.data.tuned_on}: accuracy {right:.3f}, macro-F1 {score:.3f}")


def _model_files(run: Context) -> list[tuple[str, int, int]]:
    """Name, size and time of the files behind each expert's local model folder."""
    folders = [expand_home(run.config.expert(name).model) for name in run.modalities]
    files = [p for folder in folders if folder.is_dir() for p in sorted(folder.iterdir()) if p.is_file()]
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def _files(run: Context) -> list[Path]:
    folders = [space.own_expert(expert) for space in run.spaces for expert in run.data.expert_names.values()]
    notes = [run.space.checkpoints / expert / FINISHED for expert in run.data.expert_names.values()]
    written = [path for folder in folders for path in folder.glob("*")]
    return [*(path for path in written if path.name != "README.md"), *notes]  # the model card is the report's


STEP = Step(
    "experts", fit_experts, settings=("experts", "fusion.holdout", "label_rules"), outputs=_files, outside=_model_files
)
