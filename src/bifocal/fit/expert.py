"""The story of one expert: learn from the rows that may be learned from, and save; of several, keep the best."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from .. import plugins
from ..config import ExpertConfig
from ..contracts import MultiLabelEncoder, QuickEncoder
from ..data.splits import fold_of
from ..errors import DataError, ModelError, RunError
from ..example import UNLABELLED, Label, Rows
from ..models.classifier import figures
from ..models.comparison import compare, smallest_near_best
from ..models.saved import CARD, RESTORE, read_card
from ..models.saved_encoder import WindowedEncoder
from ..models.window_rows import by_head, by_held_out_heads, fit_head, learn_offsets, take_rows
from ..workspace import Workspace, file_sha256, fingerprint, read_json, write_json
from .candidates import candidates
from .evidence import Progress, features_of, tokens_of

if TYPE_CHECKING:
    from ..contracts import Encoder, Modality
    from ..data.shards import Split

FINISHED = "finished.json"
"""Beside its checkpoints, the note that an expert is trained; it goes when its step is to be done again."""
FOLDS = 3
"""Of the choice between encoders, each of which is fitted so many times more."""
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
        Encoder -> its loss (`bifocal.models.comparison.Candidate`) on rows that it had not seen; empty where there was
        nothing to choose.
    tried_on : str
        Which rows those were: ``train``, cross-fitted, or ``val``.
    seconds : float
        What training took, encoding of a frozen encoder's rows included; since it was last taken up.
    heads : dict
        Further label -> ``history`` and ``counts`` of its head, or of an encoder of its own.
    """

    encoder: Encoder
    history: list[Row]
    counts: dict[str, dict[str, int]]
    tried: dict[str, float]
    tried_on: str
    seconds: float
    heads: dict[str, FittedHead]


class FittedHead(TypedDict):
    """What is told of the head of a further label, as `FittedExpert` has it of the first."""

    history: list[Row]
    counts: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class FurtherLabel:
    """A label that an expert answers beside its first.

    Attributes
    ----------
    weight : float
        Of its loss, where all labels are learned together.
    folder : Path
        Of the expert for it alone, where the encoder is not one for all.
    evidence_path : callable
        As `ExpertFiles` has it.
    """

    name: str
    label: Label
    weight: float
    folder: Path
    evidence_path: Callable[[str], Path]


@dataclass(frozen=True, slots=True)
class ExpertData:
    """What the expert of one modality may learn from.

    Attributes
    ----------
    splits : mapping
        ``train`` and, where there is one, ``val``.
    rows : collection of int, optional
        Rows of train that may be learned from (rule 3: a fusion needs others); None = all.
    further : sequence of FurtherLabel
        The encoder is chosen by the first label alone.
    weight : float
        Of the first label's loss among those of all.
    """

    modality_name: str
    modality: Modality
    splits: Mapping[str, Split]
    label_name: str
    label: Label
    rows: Collection[int] | None = None
    further: Sequence[FurtherLabel] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ExpertFiles:
    """Where an expert goes, and what its training leaves on the way.

    Attributes
    ----------
    folder : Path
        The saved expert's.
    checkpoints : Path
        A folder of its own; an interrupted training with the same inputs is taken up, and it is emptied at the end.
    evidence_path : callable
        Split -> cache file of its Evidence, which a frozen encoder begins.
    tokens : bool
        Whether the fusion will read tokens: the one pass of a frozen encoder keeps them then.
    """

    folder: Path
    checkpoints: Path
    evidence_path: Callable[[str], Path]
    tokens: bool = False


def fit_expert(
    config: ExpertConfig,
    data: ExpertData,
    files: ExpertFiles,
    *,
    seed: int,
    on_epoch: Callable[[str, Row], None] | None = None,
    progress: Progress | None = None,
) -> FittedExpert:
    """Train the expert of one modality and save it.

    A frozen encoder runs once over train and val, and its head is fitted on what it gave; any other is fine-tuned.
    Rows without the part, or without the label, are not learned from. Of several encoders (``encoder: auto``) each is
    fitted, and the smallest is kept that the training rows, cross-fitted, cannot tell from the best by loss; where one
    takes too long to be cross-fitted, val decides. Without a val split the first is taken untried.

    Parameters
    ----------
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
    splits = [name for name in ("train", "val") if name in data.splits]
    used = {name: _usable_rows(name, data) for name in splits}
    further = {one.name: {name: _usable_rows(name, _of(one, data)) for name in splits} for one in data.further}
    together = {name: _rows_of_all([used[name], *(found[name] for found in further.values())]) for name in splits}
    configs = candidates(config, data.modality_name, data.modality)
    if "val" not in used:
        configs = configs[:1]
    values = together["train"].usable.values(data.modality_name)
    encoders = [plugins.load("encoders", str(c.encoder)).create(c, data.label.classes, seed, values) for c in configs]
    inputs = [(name, rows.usable.fingerprint, rows.classes) for name, rows in used.items()]
    labels = [(one.name, one.label.classes, one.weight, further[one.name]["train"].classes) for one in data.further]
    key = fingerprint(config.model_dump(mode="json"), seed, [e.fingerprint() for e in encoders], inputs, *labels)
    names = [str(c.encoder) for c in configs]
    if finished := _finished(files, key, names, data.further):
        _clear(files.checkpoints)
        return finished
    _claim(files.checkpoints, key)
    tried = _candidates_of(configs, encoders, files)
    histories = {}
    for candidate in tried:
        _add_heads(candidate.encoder, data)
        if candidate.encoder.frozen or not isinstance(candidate.encoder, MultiLabelEncoder):
            histories[candidate.name] = _train(candidate, used, data.modality_name, on_epoch, progress)
            continue
        learned = {
            label: {name: [found[name].every[i] for i in together[name].rows] for name in splits}
            for label, found in further.items()
        }
        histories[candidate.name] = _train(candidate, together, data.modality_name, on_epoch, progress, learned)
    taken, reached, tried_on = _select(tried, used, data.modality_name, seed)
    _fit_offsets(taken, used, data.modality_name, seed)
    _keep_evidence(tried, taken, used, files)
    taken.encoder.learned_from = frozenset((used if taken.encoder.frozen else together)["train"].usable.ids)
    heads = {one.name: _fit_further(one, taken, further[one.name], data, files, seed, on_epoch) for one in data.further}
    taken.encoder.save(files.folder)
    counts = {name: rows.counts for name, rows in used.items()}
    seconds = perf_counter() - start
    fitted = FittedExpert(taken.encoder, histories[taken.name], counts, reached, tried_on, seconds, heads)
    _finish(fitted, files, key)
    return fitted


def _add_heads(encoder: Encoder, data: ExpertData) -> None:
    """Heads for the further labels, before anything is encoded: they say what is kept of it."""
    if not data.further or not isinstance(encoder, MultiLabelEncoder):
        return
    encoder.loss_weight = data.weight
    for one in data.further:
        encoder.add_head(one.name, one.label.classes, one.weight)


def _of(one: FurtherLabel, data: ExpertData) -> ExpertData:
    """What the head of a further label may learn from."""
    return replace(data, label_name=one.name, label=one.label, further=())


def _fit_further(
    one: FurtherLabel,
    taken: _Candidate,
    used: Mapping[str, _UsableRows],
    data: ExpertData,
    files: ExpertFiles,
    seed: int,
    on_epoch: Callable[[str, Row], None] | None,
) -> FittedHead:
    """The head of a further label on what was encoded for the first, or an expert of its own where there are none."""
    encoder = taken.encoder
    if not isinstance(encoder, MultiLabelEncoder):
        own = ExpertFiles(one.folder, files.checkpoints / one.folder.name, one.evidence_path, files.tokens)
        fitted = fit_expert(taken.config, _of(one, data), own, seed=seed, on_epoch=on_epoch)
        return {"history": fitted.history, "counts": fitted.counts}
    shutil.rmtree(one.folder, ignore_errors=True)  # of a run with another encoder
    history: list[Row] = []
    head = replace(taken, encoder=encoder.heads[one.name], evidence_path=files.evidence_path)
    head.encoder.learned_from = encoder.learned_from
    if encoder.frozen:
        history = _fit_head(head, used, data.modality_name, None)
        head.encoder.learned_from = frozenset(used["train"].usable.ids)
    _fit_offsets(head, used, data.modality_name, seed)
    return {"history": history, "counts": {name: rows.counts for name, rows in used.items()}}


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An encoder that may become the expert; one of several checkpoints and begins its Evidence under its own name."""

    name: str
    config: ExpertConfig
    encoder: Encoder
    checkpoints: Path
    evidence_path: Callable[[str], Path]
    tokens: bool = False


def _candidates_of(
    configs: Sequence[ExpertConfig], encoders: Sequence[Encoder], files: ExpertFiles
) -> list[_Candidate]:
    found = []
    for config, encoder in zip(configs, encoders, strict=True):
        name, folder, path = str(config.encoder), files.checkpoints, files.evidence_path
        if len(configs) > 1:
            folder, path = folder / name, partial(_own_path, path, name)
        found.append(_Candidate(name, config, encoder, folder, path, files.tokens and len(configs) == 1))
    return found


def _own_path(evidence_path: Callable[[str], Path], name: str, split: str) -> Path:
    return evidence_path(split).with_name(f"{name}.{split}.safetensors")


def _train(
    candidate: _Candidate,
    used: Mapping[str, _UsableRows],
    modality_name: str,
    on_epoch: Callable[[str, Row], None] | None,
    progress: Progress | None,
    further: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
) -> list[Row]:
    """Fine-tune the encoder, or fit the head of a frozen one: a row per epoch.

    ``further``: label -> split -> its classes of the rows ``used``, where all are learned together.
    """
    tell = partial(on_epoch, candidate.name) if on_epoch else None
    if candidate.encoder.frozen:
        history = _fit_head(candidate, used, modality_name, progress)
        if tell:
            tell(history[-1])
        return history
    rows = {
        name: Rows(
            found.usable.values(modality_name),
            found.classes,
            {label: of[name] for label, of in (further or {}).items()},
        )
        for name, found in used.items()
    }
    return candidate.encoder.fit(rows["train"], rows.get("val"), candidate.checkpoints, tell)


def _select(
    tried: Sequence[_Candidate], used: Mapping[str, _UsableRows], modality_name: str, seed: int
) -> tuple[_Candidate, dict[str, float], str]:
    """The smallest candidate that ties with the best, the loss of each, and on which rows it was measured."""
    if len(tried) == 1:
        return tried[0], {}, "val"
    groups = used["train"].usable.groups
    folds = fold_of(groups, used["train"].classes, FOLDS, seed) if len(set(groups)) > 1 else [0]
    quick = len(set(folds)) > 1 and all(c.encoder.frozen or isinstance(c.encoder, QuickEncoder) for c in tried)
    tried_on = "train" if quick else "val"
    rows = used[tried_on]
    logits = {
        c.name: _cross_fit(c, used, modality_name, folds) if quick else _said_of_val(c, rows, modality_name)
        for c in tried
    }
    trained = {c.name: c.encoder.parameters()["trained"] for c in tried}
    compared = compare(logits, torch.tensor(rows.classes), rows.usable.groups, trained)
    taken = smallest_near_best(compared).name
    return next(c for c in tried if c.name == taken), {c.name: c.loss for c in compared}, tried_on


def _cross_fit(
    candidate: _Candidate, used: Mapping[str, _UsableRows], modality_name: str, folds: Sequence[int]
) -> Tensor:
    """Logits ``[n, C]`` of the training rows, by encoders and heads that never saw the row's fold."""
    train, encoder = used["train"], candidate.encoder
    if encoder.frozen:
        every = features_of(encoder, train.split, modality_name, candidate.evidence_path("train"))
        labels, groups = torch.tensor(train.classes), [str(fold) for fold in folds]
        return by_held_out_heads(encoder, take_rows(every, train.rows), labels, groups, folds=FOLDS, seed=0)["logits"]
    assert isinstance(encoder, QuickEncoder)
    splits = {name: Rows(found.usable.values(modality_name), found.classes) for name, found in used.items()}
    return encoder.fit_folds(
        candidate.config, splits["train"], splits.get("val"), folds, candidate.checkpoints / "folds"
    )


def _keep_evidence(tried: Sequence[_Candidate], taken: _Candidate, splits: Iterable[str], files: ExpertFiles) -> None:
    """Of several candidates, the taken one's Evidence becomes the expert's; the others' goes."""
    if len(tried) == 1:
        return
    for split in splits:
        begun = taken.evidence_path(split)
        if begun.exists():
            os.replace(begun, files.evidence_path(split))
        for candidate in tried:
            candidate.evidence_path(split).unlink(missing_ok=True)


def _said_of_val(candidate: _Candidate, val: _UsableRows, modality_name: str) -> Tensor:
    """Logits ``[n, C]`` of the expert alone; a frozen one has encoded these rows before."""
    every = features_of(candidate.encoder, val.split, modality_name, candidate.evidence_path("val"))
    return by_head(candidate.encoder, take_rows(every, val.rows))["logits"]


def _finish(fitted: FittedExpert, files: ExpertFiles, key: str) -> None:
    """Note that the expert is trained, so that a run that is stopped before its next one takes it up; tidy up."""
    note = {"key": key, "card": file_sha256(files.folder / CARD), "history": fitted.history, "counts": fitted.counts}
    write_json(
        files.checkpoints / FINISHED,
        {**note, "tried": fitted.tried, "tried_on": fitted.tried_on, "seconds": fitted.seconds, "heads": fitted.heads},
    )
    _clear(files.checkpoints)


def _finished(
    files: ExpertFiles, key: str, encoders: Collection[str], further: Sequence[FurtherLabel]
) -> FittedExpert | None:
    """The expert of this very training, where the run was stopped after it and before its next one."""
    note = files.checkpoints / FINISHED
    if not note.is_file() or not (files.folder / CARD).is_file():
        return None
    found = read_json(note)
    if found["key"] != key or found["card"] != file_sha256(files.folder / CARD):
        return None
    if found["tried"] and "tried_on" not in found:  # an earlier version, which chose among encoders by another figure
        return None
    try:
        encoder = load_expert(files.folder, encoders)
    except ModelError:  # altered since: train it again
        return None
    if not isinstance(encoder, MultiLabelEncoder) and not all((one.folder / CARD).is_file() for one in further):
        return None
    history, counts, tried = (found[name] for name in ("history", "counts", "tried"))
    heads = found.get("heads", {})
    return FittedExpert(encoder, history, counts, tried, found.get("tried_on", "val"), found["seconds"], heads)


def load_expert(folder: Path, allow_plugins: Collection[str] | None = None) -> Encoder:
    """The expert saved in a folder, by whichever plug-in wrote it; `plugins.restrict` says which may come from outside.

    Raises
    ------
    PluginRefused
        Where it was written by one that is not allowed.
    ModelError
        Where the folder holds no expert, or a file in it is missing or altered.
    """
    with plugins.restrict(folder / CARD, allow_plugins):
        encoder: Encoder = plugins.load("encoders", read_card(folder).get("encoder", "")).load(folder)
    return encoder


def label_experts(
    experts: Mapping[str, Encoder],
    space: Workspace,
    names: Mapping[str, str],
    allow_plugins: Collection[str] | None = None,
) -> dict[str, Encoder]:
    """Modality -> the expert as a further label has it: the first label's under another head, or one of its own.

    Parameters
    ----------
    experts : mapping
        Modality -> the first label's.
    space : Workspace
        Of the further label.
    names : mapping
        Modality -> the name of its expert.

    Raises
    ------
    ModelError
        Where there is neither; else as `load_expert`.
    """
    found: dict[str, Encoder] = {}
    for name, encoder in experts.items():
        own = space.own_expert(names[name])
        if own.is_dir():
            found[name] = load_expert(own, allow_plugins)
        elif isinstance(encoder, MultiLabelEncoder) and space.label in encoder.heads:
            found[name] = encoder.heads[space.label]
        else:
            raise ModelError(f"{space.expert(names[name])} has no head for {space.label!r}: {RESTORE}")
    return found


@dataclass(frozen=True, slots=True)
class _UsableRows:
    """The rows of a split that an expert learns from, or is judged by: those with the part and the label.

    ``every`` holds the class of each row of the split, used or not.
    """

    split: Split
    rows: list[int]
    usable: Split
    classes: list[int]
    counts: dict[str, int]
    every: list[int]


def _rows_of_all(found: Sequence[_UsableRows]) -> _UsableRows:
    """The rows that are used for any label, as the first label has them: where it is not annotated, `UNLABELLED`."""
    first, *others = found
    rows = sorted(set(first.rows).union(*(of.rows for of in others)))
    if rows == first.rows:
        return first
    return replace(first, rows=rows, usable=first.split.take(rows), classes=[first.every[i] for i in rows])


def _usable_rows(name: str, data: ExpertData) -> _UsableRows:
    split, modality_name, label = data.splits[name], data.modality_name, data.label
    allowed = set(range(len(split)) if data.rows is None or name != "train" else data.rows)
    classes = split.classes(data.label_name, label)
    rows = []
    counts = Counter({"used": 0, "absent": 0, "unlabelled": 0, "aside": 0})
    for i, here in enumerate(split.present[modality_name]):
        reason = "absent" if not here else "unlabelled" if classes[i] == UNLABELLED else "aside"
        if reason == "aside" and i in allowed:
            reason = "used"
            rows.append(i)
        counts[reason] += 1
    found = Counter(label.classes[classes[i]] for i in rows)
    if len(found) < 2:
        what = f"all of class {next(iter(found))!r}" if found else "none at all"
        raise DataError(
            f"split {name!r} has {len(rows)} usable rows with {modality_name} and the label {data.label_name}, {what}; "
            "an expert needs at least two classes there: take more rows (`limit`), or other splits"
        )
    return _UsableRows(split, rows, split.take(rows), [classes[i] for i in rows], dict(counts), classes)


def _fit_head(
    candidate: _Candidate, used: Mapping[str, _UsableRows], modality_name: str, progress: Progress | None
) -> list[Row]:
    """Run a frozen encoder over whole splits, so that their Evidence is begun, and fit its head on the usable rows."""
    encoder, encoded = candidate.encoder, {}
    for name, found in used.items():
        if candidate.tokens:  # the same pass gives both
            tokens_of(encoder, found.split, modality_name, candidate.evidence_path(name), progress)
        every = features_of(encoder, found.split, modality_name, candidate.evidence_path(name), progress)
        whole = len(found.rows) == len(found.split)  # then no copy is made
        encoded[name] = every if whole else take_rows(every, found.rows)
    labels = {name: torch.tensor(found.classes) for name, found in used.items()}
    history = fit_head(encoder, encoded["train"], labels["train"], used["train"].usable.groups)
    if "val" in used:
        measured = figures(by_head(encoder, encoded["val"])["logits"], labels["val"])
        history[-1].update({f"val_{name}": value for name, value in measured.items()})
    return history


def _fit_offsets(candidate: _Candidate, used: Mapping[str, _UsableRows], modality_name: str, seed: int) -> None:
    """Have an encoder that chooses among windows know how high the highest of several is by chance.

    Learned from held-out heads on train where the encoder is frozen, else from val; nothing is where no text is long.
    """
    encoder, name = candidate.encoder, "train" if candidate.encoder.frozen else "val"
    if not isinstance(encoder, WindowedEncoder) or name not in used:
        return
    found = used[name]
    if not encoder.frozen and not any(len(encoder.windows(v).texts) > 1 for v in found.usable.values(modality_name)):
        return  # what fine-tuning took is encoded once the expert is saved
    every = features_of(encoder, found.split, modality_name, candidate.evidence_path(name))
    encoded, labels = take_rows(every, found.rows), torch.tensor(found.classes)
    learn_offsets(encoder, encoded, labels, found.usable.groups, seed=seed)


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
