"""Fine-tunes an encoder and its head through the Hugging Face Trainer, and takes up an interrupted training."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState

from ..errors import ConfigError, ModelError, extras_named, nearest
from ..example import Rows
from .classifier import FURTHER_LOGITS
from .label_losses import MEAN, PREFIX, LabelColumns, LabelHead

if TYPE_CHECKING:
    from ..config import ExpertConfig
    from .classifier import Classifier

Row = dict[str, float]
FIGURES = ("loss", "accuracy", "macro_f1")
SPLITS = (("", "train"), ("eval_", "val"))
"""As the Trainer's log says it, and the history."""
HISTORY = {
    f"{theirs}{of}{figure}": f"{ours}_{of}{figure}"
    for of in ("", MEAN)
    for figure in FIGURES
    for theirs, ours in SPLITS
}
"""Figures by their names in the Trainer's log -> their names in the history."""
WEIGHTS, STATE = "model.safetensors", "trainer_state.json"


class Tunable(Protocol):
    """What of an encoder its training needs."""

    expert: ExpertConfig
    classes: list[Any]
    loss_weight: float
    classifier: Classifier
    seed: int
    judged_by: ClassVar[Literal["macro_f1", "loss"]]
    """The val figure that chooses the epoch."""

    @property
    def heads(self) -> Mapping[str, LabelHead]:
        """Those of further labels, in the order of the classifier's."""

    def inputs(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """The model's inputs for one batch of values."""

    def augment(self, value: Any, seed: Sequence[int]) -> Any:
        """A value as it is seen in training; ``seed`` names run, epoch and row."""


def finetune(
    encoder: Tunable,
    train: Rows,
    val: Rows | None,
    checkpoints: Path,
    on_epoch: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Train the encoder in place, by its configuration and seed.

    Parameters
    ----------
    encoder : Tunable
    train, val : Rows
        A row teaches those labels that it bears. With ``val``, the epoch that is best on it is kept (by
        ``encoder.judged_by``; of several labels by the mean over them), and training stops once ``patience`` epochs
        brought no better one. Without, the last epoch is kept.
    checkpoints : Path
        The folder of this one training: a checkpoint after every epoch (the last and the best are kept), and
        TensorBoard's events in ``tensorboard/`` unless ``TENSORBOARD_LOGGING_DIR`` names another place.
        A whole checkpoint found there is taken up: weights, optimizer, order and random numbers go on as if nothing
        had happened (to the bit on a CPU).
    on_epoch : callable, optional
        Called with each finished epoch's row.

    Returns
    -------
    list of dict
        Per epoch ``epoch``, ``train_loss``, ``train_accuracy``, ``train_macro_f1`` (running, over the batches as
        they were learned from) and, with ``val``, the same for it; of further labels ``<label>_train_loss``,
        ``<label>_val_macro_f1``, ..., and the means ``train_mean_loss``, ``val_mean_macro_f1``, ...

    Raises
    ------
    ConfigError
        Where ``report_to`` names what transformers does not know.
    ModelError
        Where the training diverges.
    """
    checkpoint = last_checkpoint(checkpoints)
    state = TrainerState.load_from_json(str(checkpoint / STATE)) if checkpoint else None
    judged_by = LabelColumns.of(encoder, encoder.heads).judged_by(encoder.judged_by)
    if state and _exhausted(state.log_history, encoder.expert.patience, judged_by):
        # Killed between its early stop and the saving of the expert: nothing is left to train.
        encoder.classifier.load_state_dict(load_file(Path(state.best_model_checkpoint or str(checkpoint)) / WEIGHTS))
    else:
        trainer = Tuner(encoder, train, val, checkpoints.resolve(), on_epoch)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # Takes off the bf16 wrapper of training: `encode` works in float32.
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        state = trainer.state
    encoder.classifier.eval()
    return history(state.log_history, further=encoder.heads)


class Tuner(Trainer):
    """The Trainer with our loss, running figures of the training batches, and no output of its own."""

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        encoder: Tunable,
        train: Rows,
        val: Rows | None,
        checkpoints: Path,
        on_epoch: Callable[[Row], None] | None,
    ):
        self.encoder = encoder
        self.columns = LabelColumns.of(encoder, encoder.heads)
        self.judged_by = self.columns.judged_by(encoder.judged_by)
        self.on_epoch = on_epoch
        self.last_of_epoch = "eval_loss" if val is not None else "loss"
        self.running: list[tuple[Tensor, Tensor]] = []
        expert = encoder.expert
        callbacks: list[TrainerCallback] = [Patience(expert.patience, self.judged_by)] if val is not None else []
        if "tensorboard" in expert.report_to:
            callbacks.append(_tensorboard(checkpoints / "tensorboard"))
        super().__init__(
            model=encoder.classifier,
            args=_arguments(encoder, self.judged_by if val is not None else None, checkpoints),
            data_collator=Collator(encoder.inputs),
            train_dataset=Examples(train.values, self.columns.rows(train), encoder.augment, encoder.seed),
            eval_dataset=Examples(val.values, self.columns.rows(val)) if val is not None else None,
            compute_metrics=self.metrics,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Cross-entropy of the logits, which are kept for the epoch's running figures."""
        labels = inputs["labels"]
        output = model({name: tensor for name, tensor in inputs.items() if name != "labels"})
        found = [output[name] for name in ("logits", FURTHER_LOGITS) if name in output]
        logits = torch.cat(found, dim=1).float()
        loss = self.columns.loss(logits, labels)
        if model.training:
            self.running.append((logits.detach(), labels))
        return (loss, {"logits": logits}) if return_outputs else loss

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Figures of val; their loss replaces the Trainer's, which weighs a short last batch like a full one."""
        return self._measured(torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids))

    def _measured(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        if not logits.isfinite().all():
            expert = self.encoder.expert
            raise ModelError(
                f"training {expert.model!r} diverged in epoch {math.ceil(self.state.epoch or 0)} (its logits are not "
                f"finite): lower learning_rate (now {expert.learning_rate:g}), or raise warmup (now {expert.warmup:g})"
            )
        return self.columns.figures(logits, labels)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Put the epoch's running figures in place of the Trainer's loss, and tell of the finished epoch."""
        if "loss" in logs:
            logits, labels = (torch.cat(parts).cpu() for parts in zip(*self.running, strict=True))
            self.running.clear()
            logs.update(self._measured(logits, labels))
        super().log(logs, start_time)
        if self.on_epoch and self.last_of_epoch in logs:
            self.on_epoch(history(self.state.log_history, further=self.columns.further)[-1])


class Patience(TrainerCallback):
    """Stops training by what the log says, so that a resumed training stops where the uninterrupted one would."""

    def __init__(self, epochs: int, figure: str):
        self.epochs = epochs
        self.figure = figure

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_training_stop = _exhausted(state.log_history, self.epochs, self.figure)


class Examples(Dataset[tuple[Any, Any]]):
    """Rows for the Trainer's loader: values are read when they are asked for, and augmented anew each epoch."""

    def __init__(
        self,
        values: Sequence[Any],
        labels: Sequence[Any],
        augment: Callable[[Any, Sequence[int]], Any] | None = None,
        seed: int = 0,
    ):
        self.values = values
        self.labels = labels
        self.augment = augment
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        """Called by the loader as an epoch begins, also a resumed one."""
        self.epoch = epoch

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        value = self.values[i]
        if self.augment:
            value = self.augment(value, (self.seed, self.epoch, i))
        return value, self.labels[i]


class Collator:
    """Turns a list of (value, label) into the model's inputs and ``labels [n]``, or ``[n, k]`` of several labels."""

    def __init__(self, inputs: Callable[[Sequence[Any]], dict[str, Tensor]]):
        self.inputs = inputs

    def __call__(self, items: Sequence[tuple[Any, Any]]) -> dict[str, Tensor]:
        values, labels = zip(*items, strict=True)
        return {**self.inputs(values), "labels": torch.tensor(labels)}


def history(log: Iterable[Mapping[str, Any]], own: Collection[str] = (), further: Iterable[str] = ()) -> list[Row]:
    """One row per epoch from the Trainer's log: figures of train and val, also of ``further`` labels, and ``own``, also
    as ``<own>.<modality>``."""
    rows: dict[int, Row] = {}
    names = HISTORY | {
        f"{theirs}{PREFIX}{label}.{figure}": f"{label}_{ours}_{figure}"
        for label in further
        for figure in FIGURES
        for theirs, ours in SPLITS
    }
    for entry in log:
        for key, value in entry.items():
            if name := names.get(key, key if key.partition(".")[0] in own else ""):
                epoch = round(entry["epoch"])
                rows.setdefault(epoch, {"epoch": epoch})[name] = value
    return [rows[epoch] for epoch in sorted(rows)]


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that was written to its end; those that a kill cut short are deleted.

    The Trainer writes ``trainer_state.json`` last, so a state that reads stands beside whole weights, optimizer
    and random numbers.
    """
    found = {int(p.name.rpartition("-")[2]): p for p in folder.glob("checkpoint-*") if p.name[11:].isdigit()}
    for step in sorted(found, reverse=True):
        try:
            json.loads((found[step] / STATE).read_text(encoding="utf-8"))
            with safe_open(found[step] / WEIGHTS, "pt"):
                return found[step]
        except (OSError, ValueError, SafetensorError):
            shutil.rmtree(found[step])
    return None


def bf16_here() -> bool:
    """Whether training can run in bfloat16: on a CUDA device that has it."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _arguments(encoder: Tunable, judged_by: str | None, checkpoints: Path) -> TrainingArguments:
    expert, has_val = encoder.expert, judged_by is not None
    known = {*INTEGRATION_TO_CALLBACK, "tensorboard"}
    for name in expert.report_to:
        if name not in known:
            raise ConfigError(f"report_to names {name!r}; {nearest(name, known)}")
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=expert.epochs,
        per_device_train_batch_size=expert.batch_size,
        per_device_eval_batch_size=expert.encode_batch_size,
        gradient_accumulation_steps=expert.accumulation,
        learning_rate=expert.learning_rate,
        weight_decay=expert.weight_decay,
        warmup_steps=expert.warmup,  # below 1 it is a share of all steps
        use_cpu=not torch.cuda.is_available(),
        bf16=bf16_here(),
        seed=encoder.seed,
        data_seed=encoder.seed,
        eval_strategy="epoch" if has_val else "no",
        metric_for_best_model=judged_by,
        greater_is_better=not judged_by.endswith("loss") if judged_by else None,
        load_best_model_at_end=has_val,
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="epoch",
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[name for name in expert.report_to if name != "tensorboard"],
        disable_tqdm=True,
        log_level="error",
    )


def _tensorboard(folder: Path) -> TensorBoardCallback:
    with extras_named():
        from torch.utils.tensorboard import SummaryWriter
    return TensorBoardCallback(SummaryWriter(os.environ.get("TENSORBOARD_LOGGING_DIR") or str(folder)))


def _exhausted(log: Iterable[Mapping[str, Any]], patience: int, figure: str) -> bool:
    """Whether the best val figure (the least loss, or the highest macro-F1) lies ``patience`` evaluations back."""
    scores = [entry[f"eval_{figure}"] for entry in log if f"eval_{figure}" in entry]
    best = min if figure.endswith("loss") else max
    return bool(scores) and len(scores) - 1 - scores.index(best(scores)) >= patience
