"""Trains a fusion on tokens through the Hugging Face Trainer: its loss, its rates, the balance of its modalities."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ..config import Strict
from ..errors import ModelError
from .classifier import figures
from .finetune import Patience, bf16_here, history
from .joint_head import CoAttention, HeadOutput
from .joint_tokens import Inputs, Kept, TokenSource

if TYPE_CHECKING:
    from ..example import Evidence

Row = dict[str, float]
OWN = ("grad_norm", "coefficient")
"""What the log holds of an epoch beside the figures of train and val; of single modalities as ``grad_norm.<name>``."""


class JointOptions(Strict):
    """What every fusion on tokens may be told."""

    width: Annotated[int, Field(ge=1)] = 128
    """Columns of a token in the head."""
    heads: Annotated[int, Field(ge=1)] = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Chance that a part is left out of a training row; the last part of a row never is."""
    auxiliary: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean loss of a linear head on each modality alone."""
    modulation: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of OGM-GE; 0 = off."""
    noise: bool = True
    """GE, the noise of OGM-GE; without it gradients are scaled only."""
    epochs: Annotated[int, Field(ge=1)] = 4
    patience: Annotated[int, Field(ge=1)] = 2
    """Epochs without a smaller val loss before training stops; the best epoch is kept."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of the head."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps with a rising learning rate; it then falls linearly."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self

    def rates(self) -> dict[str, float]:
        """Learning rates by option; the head's first, the encoders' last."""
        return {"learning_rate": self.learning_rate}


class TuningOptions(JointOptions):
    """What every fusion that tunes encoders may be told."""

    encoder_learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Of what learns of the encoders."""

    def rates(self) -> dict[str, float]:
        return {**super().rates(), "encoder_learning_rate": self.encoder_learning_rate}


class JointModel(nn.Module):
    """Token sources of all modalities under one head; its state dict holds what learns or was counted."""

    _keys_to_ignore_on_save = None  # asked for by the Trainer as it takes back a state that lacks keys

    def __init__(self, names: Sequence[str], sources: Sequence[TokenSource], head: CoAttention, *, detach: bool):
        super().__init__()
        self.names = list(names)
        self.sources = nn.ModuleList(sources)
        self.head = head
        self.detach = detach
        self.register_state_dict_post_hook(_drop_frozen)

    def forward(self, parts: Mapping[str, Inputs], present: Tensor) -> HeadOutput:
        """What is said of B rows: inputs of the rows that have each part, and ``present [B, M]`` bool."""
        read = [
            s(parts[name]) if name in parts else (None, None) for s, name in zip(self.sources, self.names, strict=True)
        ]
        return self.head([tokens for tokens, _ in read], [there for _, there in read], present, detach=self.detach)

    def below(self, m: int) -> list[nn.Parameter]:
        """What learns of the encoder of one modality and of its projection."""
        modules = (self.sources[m], self.head.projections[m])
        return [p for module in modules for p in module.parameters() if p.requires_grad]


def _drop_frozen(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Checkpoints of a few megabytes: what is frozen is in the experts."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            state.pop(prefix + name, None)


class JointTrainer(Trainer):
    """The Trainer with our loss, two learning rates, gradient norms, and no output of its own.

    The loss is ``CE(logits) + auxiliary * mean_m CE(alone_m)``, each over the rows that have the part. With modulation
    alone the heads of single modalities learn too, but nothing below them does by their loss.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: JointModel,
        options: JointOptions,
        train: JointBatches,
        val: JointBatches | None,
        *,
        seed: int,
        checkpoints: Path,
        on_epoch: Callable[[Row], None] | None = None,
    ):
        self.options = options
        self.on_epoch = on_epoch
        self.last_of_epoch = "eval_loss" if val is not None else "loss"
        self.running: list[tuple[Tensor, Tensor]] = []
        self.norms: list[dict[str, float]] = []
        self.scores: Tensor | None = None
        self.checkpoints = checkpoints
        super().__init__(
            model=model,
            args=_arguments(options, val is not None, seed, checkpoints),
            data_collator=lambda items: items[0][0]([row for _, row in items]),
            train_dataset=[(train, row) for row in range(len(train))],
            eval_dataset=[(val, row) for row in range(len(val))] if val is not None else None,
            compute_metrics=self.metrics,
            callbacks=[Patience(options.patience, "loss")] if val is not None else [],
        )
        self.remove_callback(PrinterCallback)

    def learn(self) -> list[Row]:
        """Train; the epoch with the least val loss is kept, without val the last one. The history by epoch."""
        _clear(self.checkpoints)
        self.train()
        self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)
        _clear(self.checkpoints)
        return history(self.state.log_history, OWN)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW, the encoders at a rate of their own; biases and scales do not decay."""
        made: torch.optim.Optimizer | None = getattr(self, "optimizer", None)
        if made is None:
            options, chosen = self.options, self.model
            *_, encoders = options.rates().values()
            groups: dict[tuple[float, float], list[nn.Parameter]] = {}
            for name, p in chosen.named_parameters():
                if p.requires_grad:
                    rate = encoders if name.startswith("sources.") else options.learning_rate
                    groups.setdefault((rate, options.weight_decay if p.dim() > 1 else 0.0), []).append(p)
            made = self.optimizer = torch.optim.AdamW(
                [{"params": ps, "lr": rate, "weight_decay": decay} for (rate, decay), ps in groups.items()]
            )
        return made

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels, present = inputs["labels"], inputs["present"]
        said: HeadOutput = model(inputs["parts"], present)
        logits = said.logits.float()
        loss = cross_entropy(logits, labels)
        if model.training:
            self.running.append((logits.detach(), labels))
            if said.alone is not None:
                self.scores = mean_scores(said.alone.detach().float(), labels, present)
                loss = loss + (self.options.auxiliary or 1.0) * alone_loss(said.alone.float(), labels, present)
        return (loss, {"logits": logits}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One step's gradients, measured, and then modulated where that is asked for."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        joint: JointModel = self.model
        norms = {"grad_norm": norm_of(joint.parameters())}
        norms |= {f"grad_norm.{name}": norm_of(joint.below(m)) for m, name in enumerate(joint.names)}
        if self.options.modulation and self.scores is not None:
            k = coefficients(self.scores, self.options.modulation)
            for m, name in enumerate(joint.names):
                modulate(joint.below(m), float(k[m]), noise=self.options.noise)
                norms[f"coefficient.{name}"] = float(k[m])
        self.norms.append(norms)
        return loss

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Figures of val; their loss replaces the Trainer's, which weighs a short last batch like a full one."""
        return self._measured(torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids))

    def _measured(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        if not logits.isfinite().all():
            rates = " and ".join(f"{name} (now {rate:g})" for name, rate in self.options.rates().items())
            raise ModelError(
                f"the fusion diverged in epoch {math.ceil(self.state.epoch or 0)} (its logits are not finite): "
                f"lower {rates}, or raise warmup (now {self.options.warmup:g})"
            )
        return figures(logits, labels)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Put the epoch's running figures and mean gradient norms in place of the Trainer's, and tell of the epoch."""
        if "loss" in logs:
            logits, labels = (torch.cat(parts).cpu() for parts in zip(*self.running, strict=True))
            logs.update(self._measured(logits, labels))
            logs.update({key: sum(n[key] for n in self.norms) / len(self.norms) for key in self.norms[0]})
            logs["grad_norm.largest"] = max(n["grad_norm"] for n in self.norms)
            self.running.clear()
            self.norms.clear()
        super().log(logs, start_time)
        if self.on_epoch and self.last_of_epoch in logs:
            self.on_epoch(history(self.state.log_history, OWN)[-1])


class JointBatches:
    """Makes the inputs of a batch from row numbers; absent parts are never read.

    Parameters
    ----------
    parts : mapping
        Modality -> Evidence of the rows, in the order of the model's sources.
    sources : sequence of TokenSource
    kept : sequence
        What each source prepared of the rows.
    labels : Tensor, [n], optional
        Class indices.
    """

    def __init__(
        self,
        parts: Mapping[str, Evidence],
        sources: Sequence[TokenSource],
        kept: Sequence[Kept | None],
        labels: Tensor | None = None,
    ):
        self.parts = parts
        self.sources = sources
        self.kept = kept
        self.labels = labels
        self.present = torch.stack([part.present for part in parts.values()], dim=1)

    def __len__(self) -> int:
        return len(self.present)

    def __call__(self, rows: Sequence[int]) -> dict[str, Any]:
        """``labels [B]`` where there are any, ``present [B, M]``, and ``parts``: modality -> inputs of its rows."""
        batch: dict[str, Any] = {}
        if self.labels is not None:
            batch["labels"] = self.labels[list(rows)]  # first: by it the Trainer counts rows
        batch["present"] = self.present[list(rows)]
        batch["parts"] = {}
        for m, (name, source) in enumerate(zip(self.parts, self.sources, strict=True)):
            if some := [row for row in rows if self.present[row, m]]:
                batch["parts"][name] = source.batch(self.parts[name], some, self.kept[m])
        return batch


def alone_loss(alone: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Mean over modalities of the cross-entropy of what each says alone ``[B, M, C]``, on the rows that have it."""
    losses = cross_entropy(alone.transpose(1, 2), labels[:, None].expand(present.shape), reduction="none")
    rows = present.sum(dim=0)
    means = (losses * present).sum(dim=0) / rows.clamp(min=1)
    return means.sum() / (rows > 0).sum().clamp(min=1)


def mean_scores(alone: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Mean probability that each modality alone gives to the truth ``[M]``; nan where no row has it."""
    truth = labels[:, None, None].expand(*present.shape, 1)
    p = alone.softmax(dim=-1).gather(-1, truth).squeeze(-1)
    return torch.where(present, p, torch.nan).nanmean(dim=0)


def coefficients(scores: Tensor, alpha: float) -> Tensor:
    """OGM: by how much the gradients of each modality are scaled, ``[M]`` (Peng et al. 2022, eq. 8-10).

    ``rho_m = s_m / mean of the other scores``, the discrepancy ratio, of `mean_scores` (the paper sums over the batch,
    which is the same where no part is absent); ``k_m = 1 - tanh(alpha relu(rho_m))`` where ``rho_m > 1``, else 1. For
    two modalities this is the paper's; with more each is held against the mean of the others, as they come to be.
    """
    k = torch.ones_like(scores)
    for m in range(len(scores)):
        others = torch.cat([scores[:m], scores[m + 1 :]])
        ratio = scores[m] / others[~others.isnan()].mean()
        if ratio > 1:  # false for nan: nothing to be compared with
            k[m] = 1 - torch.tanh(alpha * ratio)
    return k


def modulate(parameters: Iterable[nn.Parameter], k: float, *, noise: bool) -> None:
    """Scale gradients by k and, where k is below 1, add GE: normal noise of each gradient's standard deviation.

    Smaller steps have less of the noise by which gradient descent generalises; GE gives it back (Peng et al. 2022,
    eq. 12). Their code adds it to the weaker modality too, which lost none; here it is left as it is.
    """
    if k == 1:
        return
    for p in parameters:
        if p.grad is not None:
            spread = p.grad.std() if p.grad.numel() > 1 else 0.0
            p.grad.mul_(k)
            if noise:
                p.grad.add_(torch.randn_like(p.grad) * spread)


def norm_of(parameters: Iterable[nn.Parameter]) -> float:
    """Euclidean norm of all gradients."""
    found = [p.grad.norm() for p in parameters if p.grad is not None]
    return float(torch.stack(found).norm()) if found else 0.0


def _clear(folder: Path) -> None:
    for place in folder.glob("checkpoint-*"):
        shutil.rmtree(place)


def _arguments(options: JointOptions, has_val: bool, seed: int, checkpoints: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=2 * options.batch_size,
        warmup_steps=options.warmup,  # below 1 it is a share of all steps
        use_cpu=not torch.cuda.is_available(),
        bf16=bf16_here(),
        seed=seed,
        data_seed=seed,
        eval_strategy="epoch" if has_val else "no",
        metric_for_best_model="loss" if has_val else None,
        greater_is_better=False if has_val else None,
        load_best_model_at_end=has_val,
        save_strategy="epoch" if has_val else "no",
        save_total_limit=2,
        save_only_model=True,
        logging_strategy="epoch",
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )
