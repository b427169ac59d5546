"""The story of one expert: learn from the rows that may be learned from, and save; of several, keep the best."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import plugins
from ..config import ExpertConfig
from ..decide.calibration import softmax
from ..errors import ConfigError, DataError, ModelError, RunError, nearest
from ..evaluate.metrics import auroc, macro_f1
from ..example import UNLABELLED, Label, Rows
from ..models.classifier import figures
from ..models.saved import CARD, read_card
from ..workspace import file_sha256, fingerprint, read_json, write_json
from .evidence import Progress, features_of

if TYPE_CHECKING:
    from ..contracts import Encoder, Modality
    from ..data.shards import Split

AUTO = "auto"
"""In the place of an encoder's name: all that read the modality are fitted, and the best on val is taken."""
FINISHED = "finished.json"
"""Beside its checkpoints, the note that an expert is trained; it goes when its step is to be done again."""
Row = dict[str, float]


@dataclass(frozen=True, slots=True)
class FittedExpert:
    """A trained and saved expert.

    Attributes
    ----------
    encoder : Encoder
    history : list of dict
        Per epoch, loss, accuracy and macro-F1 on train and val; one row for a head alone.
    counts : dict
        Split -> how many rows were ``used`` (train: learned from, val: judged by), and how many not because the
        part was ``absent``, they were ``unlabelled``, or kept ``aside``.
    tried : dict
        Encoder -> what it reached on val (AUROC of a binary label, else macro-F1), the best one taken; empty where
        there was nothing to choose.
    seconds : float
        What training took, encoding of a frozen encoder's rows included; since it was last taken up.
    """

    encoder: Encoder
    history: list[Row]
    counts: dict[str, dict[str, int]]
    tried: dict[str, float]
    seconds: float


def fit_expert(
    config: ExpertConfig,
    modality_name: str,
    modality: Modality,
    splits: Mapping[str, Split],
    label_name: str,
    label: Label,
    *,
    seed: int,
    folder: Path,
    checkpoints: Path,
    evidence_path: Callable[[str], Path],
    rows: Collection[int] | None = None,
    on_epoch: Callable[[str, Row], None] | None = None,
    progress: Progress | None = None,
) -> FittedExpert:
    """Train the expert of one modality and save it.

    A frozen encoder runs once over train and val, and its head is fitted on what it gave; any other is fine-tuned.
    Rows without the part, or without the label, are not learned from. Of several encoders (``encoder: auto``) each is
    fitted, and the one with the best val AUROC (macro-F1 for more than two classes) is kept; without a val split the
    first is taken untried.

    Parameters
    ----------
    splits : mapping
        ``train`` and, where there is one, ``val``.
    folder : Path
        Where the expert goes.
    checkpoints : Path
        A folder of its own; an interrupted training with the same inputs is taken up, and it is emptied at the end.
    evidence_path : callable
        Split -> cache file of its Evidence, which a frozen encoder begins.
    rows : collection of int, optional
        Rows of train that may be learned from (rule 3: a fusion needs others); None = all.
    on_epoch, progress : callable, optional
        Take the encoder's name and an epoch's row; the examples encoded and their number.

    Raises
    ------
    DataError
        Where the usable rows of train or val bear fewer than two classes.
    ConfigError
        Where the configured encoder reads another modality.
    ModelError
        Where the model is not to be had.
    """
    start = perf_counter()
    lessons = {
        name: _lesson(name, splits[name], modality_name, label_name, label, rows if name == "train" else None)
        for name in ("train", "val")
        if name in splits
    }
    values = lessons["train"].usable.values(modality_name)
    rivals = candidates(config, modality_name, modality)
    if "val" not in lessons:
        rivals = rivals[:1]
    encoders = [plugins.load("encoders", str(c.encoder)).create(c, label.classes, seed, values) for c in rivals]
    inputs = [(name, lesson.usable.fingerprint, lesson.classes) for name, lesson in lessons.items()]
    key = fingerprint(config.model_dump(mode="json"), seed, [e.fingerprint() for e in encoders], inputs)
    if finished := _finished(folder, checkpoints, key, [str(c.encoder) for c in rivals]):
        _clear(checkpoints)
        return finished
    _claim(checkpoints, key)
    several = len(rivals) > 1
    fitted: dict[str, tuple[Encoder, list[Row]]] = {}
    for rival, encoder in zip(rivals, encoders, strict=True):
        name = str(rival.encoder)
        tell = partial(on_epoch, name) if on_epoch else None
        place, begun = (checkpoints / name, _begun_by(name, evidence_path)) if several else (checkpoints, evidence_path)
        if encoder.frozen:
            history = _fit_head(encoder, lessons, modality_name, begun, progress)
            if tell:
                tell(history[-1])
        else:
            history = encoder.fit(*_data(lessons, modality_name), place, tell)
        fitted[name] = encoder, history
    tried = {
        name: _reached(encoder, lessons["val"], modality_name, _begun_by(name, evidence_path)("val"))
        for name, (encoder, _) in fitted.items()
        if several
    }
    taken = max(tried, key=tried.__getitem__) if several else next(iter(fitted))
    encoder, history = fitted[taken]
    for split in lessons if several else ():
        for name in fitted:
            begun = _begun_by(name, evidence_path)
            if name == taken and begun(split).exists():
                os.replace(begun(split), evidence_path(split))
            begun(split).unlink(missing_ok=True)
    encoder.learned_from = frozenset(lessons["train"].usable.ids)
    encoder.save(folder)
    counts = {name: lesson.counts for name, lesson in lessons.items()}
    found: dict[str, Any] = {"history": history, "counts": counts, "tried": tried, "seconds": perf_counter() - start}
    write_json(checkpoints / FINISHED, {"key": key, "card": file_sha256(folder / CARD), **found})
    _clear(checkpoints)
    return FittedExpert(encoder, **found)


def candidates(config: ExpertConfig, modality_name: str, modality: Modality) -> list[ExpertConfig]:
    """The expert's settings with the encoder named and ``tune`` settled: one, or for ``auto`` one per encoder.

    Raises
    ------
    UnknownPlugin
        Where there is no encoder of that name.
    ConfigError
        Where it reads another modality, or lacks an option or ``tune``.
    """
    name = config.encoder or modality.encoder
    if name != AUTO:
        found: type[Encoder] = plugins.load("encoders", name)
        if found.modality != modality_name:
            raise ConfigError(
                f"experts.{modality_name}.encoder = {name!r} reads {found.modality}, not {modality_name}; "
                f"leave it out for {modality.encoder!r}"
            )
        plugins.options("encoder", name, config.options, found.settings)
        return [config.model_copy(update={"encoder": name}).settled(found.tunes)]
    known = {n: plugins.load("encoders", n) for n in plugins.names("encoders")}
    known = {n: found for n, found in known.items() if found.modality == modality_name}
    common = {
        option for option in config.options if all(option in found.settings.model_fields for found in known.values())
    }
    for unknown in config.options.keys() - known.keys() - common:
        raise ConfigError(
            f"experts.{modality_name}.options with encoder: auto holds what all encoders know, and the options of each "
            f"by its name, found {unknown!r}; {nearest(unknown, known)}"
        )
    if config.tune and not any(config.tune in found.tunes for found in known.values()):
        taken = ", ".join(sorted({tune for found in known.values() for tune in found.tunes}))
        raise ConfigError(f"no encoder of {modality_name} has tune: {config.tune}; they take {taken}: leave it out")
    rivals = []
    for n, found in known.items():
        own = {**{option: config.options[option] for option in common}, **config.options.get(n, {})}
        plugins.options("encoder", n, own, found.settings)
        tune = config.tune if config.tune in found.tunes else None
        rivals.append(config.model_copy(update={"encoder": n, "options": own, "tune": tune}).settled(found.tunes))
    return rivals


def _begun_by(name: str, evidence_path: Callable[[str], Path]) -> Callable[[str], Path]:
    """Split -> where one of several encoders begins its Evidence; only the taken one's becomes the expert's."""
    return lambda split: evidence_path(split).with_name(f"{name}.{split}.safetensors")


def _reached(encoder: Encoder, lesson: _Lesson, modality_name: str, path: Path) -> float:
    """The verdict's metric of the expert alone on rows it is judged by; a frozen one has encoded them before."""
    every = features_of(encoder, lesson.split, modality_name, path)
    logits = encoder.head_logits({key: tensor[lesson.rows] for key, tensor in every.items()})
    probabilities = softmax(logits.double().numpy())
    measure = auroc if probabilities.shape[1] == 2 else macro_f1
    return float(measure(np.array(lesson.classes), probabilities))


def _finished(folder: Path, checkpoints: Path, key: str, encoders: Collection[str]) -> FittedExpert | None:
    """The expert of this very training, where the run was stopped after it and before its next one."""
    note = checkpoints / FINISHED
    if not note.is_file() or not (folder / CARD).is_file():
        return None
    found = read_json(note)
    if found["key"] != key or found["card"] != file_sha256(folder / CARD):
        return None
    try:
        encoder = load_expert(folder, encoders)
    except ModelError:  # altered since: train it again
        return None
    return FittedExpert(encoder, found["history"], found["counts"], found["tried"], found["seconds"])


def load_expert(folder: Path, allow_plugins: Collection[str] | None = None) -> Encoder:
    """The expert saved in a folder, by whichever plug-in wrote it; `plugins.only` says which may come from outside.

    Raises
    ------
    PluginRefused
        Where it was written by one that is not allowed.
    ModelError
        Where the folder holds no expert, or a file in it is missing or altered.
    """
    with plugins.only(folder / CARD, allow_plugins):
        encoder: Encoder = plugins.load("encoders", read_card(folder).get("encoder", "")).load(folder)
    return encoder


@dataclass(frozen=True, slots=True)
class _Lesson:
    """The rows of a split that an expert learns from, or is judged by: those with the part and the label."""

    split: Split
    rows: list[int]
    usable: Split
    classes: list[int]
    counts: dict[str, int]


def _lesson(
    name: str, split: Split, modality_name: str, label_name: str, label: Label, allowed: Collection[int] | None
) -> _Lesson:
    chosen = set(range(len(split)) if allowed is None else allowed)
    classes = split.classes(label_name, label)
    rows = []
    counts = Counter({"used": 0, "absent": 0, "unlabelled": 0, "aside": 0})
    for i, here in enumerate(split.present[modality_name]):
        reason = "absent" if not here else "unlabelled" if classes[i] == UNLABELLED else "aside"
        if reason == "aside" and i in chosen:
            reason = "used"
            rows.append(i)
        counts[reason] += 1
    found = Counter(label.classes[classes[i]] for i in rows)
    if len(found) < 2:
        what = f"all of class {next(iter(found))!r}" if found else "none at all"
        raise DataError(
            f"split {name!r} has {len(rows)} usable rows with {modality_name} and the label {label_name}, {what}; "
            "an expert needs at least two classes there: take more rows (`limit`), or other splits"
        )
    return _Lesson(split, rows, split.take(rows), [classes[i] for i in rows], dict(counts))


def _data(lessons: Mapping[str, _Lesson], modality_name: str) -> tuple[Rows, Rows | None]:
    """Train and val as an encoder learns from them."""
    rows = {name: Rows(lesson.usable.values(modality_name), lesson.classes) for name, lesson in lessons.items()}
    return rows["train"], rows.get("val")


def _fit_head(
    encoder: Encoder,
    lessons: Mapping[str, _Lesson],
    modality_name: str,
    evidence_path: Callable[[str], Path],
    progress: Progress | None,
) -> list[Row]:
    """Run a frozen encoder over whole splits, so that their Evidence is begun, and fit its head on the usable rows."""
    encoded = {}
    for name, lesson in lessons.items():
        every = features_of(encoder, lesson.split, modality_name, evidence_path(name), progress)
        whole = len(lesson.rows) == len(lesson.split)  # then no copy is made
        encoded[name] = every if whole else {key: tensor[lesson.rows] for key, tensor in every.items()}
    labels = {name: torch.tensor(lesson.classes) for name, lesson in lessons.items()}
    history = encoder.fit_head(encoded["train"], labels["train"], lessons["train"].usable.groups)
    if "val" in lessons:
        measured = figures(encoder.head_logits(encoded["val"]), labels["val"])
        history[-1].update({f"val_{name}": value for name, value in measured.items()})
    return history


def _claim(checkpoints: Path, key: str) -> None:
    """Empty the folder unless what lies in it is of this very training: resuming another one would mix the two."""
    owner = checkpoints / "training.json"
    try:
        mine = read_json(owner)["key"] == key
    except (RunError, KeyError, TypeError):
        mine = False
    if not mine:
        shutil.rmtree(checkpoints, ignore_errors=True)
        write_json(owner, {"key": key})


def _clear(checkpoints: Path) -> None:
    """Remove checkpoints, which are three times a model's size; TensorBoard's events stay."""
    for path in checkpoints.glob("**/checkpoint-*"):
        shutil.rmtree(path)
    (checkpoints / "training.json").unlink(missing_ok=True)
