"""A transformers classifier that hands out its features beside its logits, from one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import LoraConfig, Tune
from ..decide.calibration import softmax
from ..errors import ConfigError, ModelError
from ..evaluate.metrics import accuracy, macro_f1, nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = ("query", "value", "query_proj", "value_proj", "q_proj", "v_proj", "q_lin", "v_lin")
"""Names that transformers gives the two projections LoRA adapts (Hu et al. 2022, section 4.2)."""

FURTHER_LOGITS = "further_logits"


def figures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss (cross-entropy), accuracy and macro-F1 of logits ``[n, C]`` against class indices ``[n]``."""
    truth, probabilities = labels.numpy(), softmax(logits.double().numpy())
    return {
        "loss": float(nll(truth, probabilities)),
        "accuracy": float(accuracy(truth, probabilities)),
        "macro_f1": float(macro_f1(truth, probabilities)),
    }


def mean_states(states: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of hidden states: ``[n, L, d]`` over the positions that ``mask [n, L]`` keeps (zeros where none), or of
    ``[n, d, H, W]``."""
    if states.dim() == 4:
        return states.mean(dim=(2, 3))
    if mask is None:
        return states.mean(dim=1)
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def token_states(states: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Tokens ``[n, L, d]`` of hidden states (a map ``[n, d, H, W]`` as ``H W`` tokens, a vector as one), and which of
    them count ``[n, L]`` bool."""
    tokens = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states
    tokens = tokens.unsqueeze(1) if tokens.dim() == 2 else tokens
    return tokens, tokens.new_ones(tokens.shape[:2]).bool() if mask is None else mask.bool()


class Classifier(nn.Module):
    """An Auto classifier whose features are caught on their way into its head.

    Parameters
    ----------
    auto : PreTrainedModel
        What ``AutoModelFor…Classification`` loads.
    pooling : "cls" or "mean"
        ``cls``: features are the input of the Auto model's last linear layer, whose logits are ours.
        ``mean``: features are the mean of the encoder's last hidden states, and a linear layer of our own
        makes the logits.

    Raises
    ------
    ModelError
        Where the model is no encoder with a linear head on one vector per example.
    """

    def __init__(self, auto: PreTrainedModel, pooling: str):
        super().__init__()
        self.auto = auto
        from transformers import PreTrainedModel  # takes as long to import as torch, and TF-IDF runs do without

        encoders = [m for m in auto.children() if isinstance(m, PreTrainedModel)]
        below = set(encoders[0].modules()) if encoders else set()
        classes = auto.config.num_labels
        last = [m for m in auto.modules() if isinstance(m, nn.Linear) and m.out_features == classes and m not in below]
        if not encoders or not last:
            raise ModelError(
                f"{type(auto).__name__} has no encoder below a linear head: take a BERT- or ViT-like model"
            )
        # Inside a tuple they are not registered a second time: both are parts of `auto`.
        self._parts = (encoders[0], last[-1])
        self._caught: dict[tuple[int, str], Tensor] = {}
        self.auto_head.register_forward_pre_hook(self._catch_features)
        self.encoder.register_forward_hook(self._catch_states)
        self.own_head: nn.Linear | None = None
        if pooling == "mean":
            self.own_head = nn.Linear(getattr(self.encoder.config, "hidden_size", self.auto_head.in_features), classes)
        self.further_heads = nn.ModuleList()

    @property
    def encoder(self) -> PreTrainedModel:
        """The Auto model without its head."""
        return self._parts[0]

    @property
    def auto_head(self) -> nn.Linear:
        """The Auto model's last linear layer."""
        return self._parts[1]

    @property
    def head(self) -> nn.Linear:
        """The layer that makes our logits from our features."""
        return self.auto_head if self.own_head is None else self.own_head

    def add_head(self, classes: int, seed: int) -> nn.Linear:
        """One more linear layer on our features, for a further label.

        Its weights are drawn as large as those of the head there is: where one label's are larger, the encoder learns
        that label first, and others late (a tiny model, three labels, six epochs: macro-F1 of the first 0.49 to 0.73
        on three seeds, 0.62 to 1.00 at one scale).
        """
        weight = self.head.weight.detach()
        generator = torch.Generator().manual_seed(seed + len(self.further_heads) + 1)
        head = nn.utils.skip_init(nn.Linear, weight.shape[1], classes)
        with torch.no_grad():
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * weight.std().cpu())
            head.bias.zero_()
        self.further_heads.append(head.to(weight.device))
        return head

    def _catch_features(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._caught[get_ident(), "features"] = inputs[0]  # by thread: a server answers several requests at once

    def _catch_states(self, _: nn.Module, __: Any, output: Any) -> None:
        self._caught[get_ident(), "states"] = output[0]

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``features [n, d]``, ``logits [n, C]``, ``states`` (the encoder's last hidden ones) and, for mean pooling,
        ``auto_features``: what the Auto head read. Further heads add ``further_logits``, side by side."""
        logits = self.auto(**inputs).logits
        features, states = (self._caught.pop((get_ident(), name)) for name in ("features", "states"))
        if features.dim() != 2:
            raise ModelError(f"{type(self.auto).__name__} puts its head on every token: take a BERT- or ViT-like model")
        output = {"features": features, "logits": logits, "states": states}
        if self.own_head is not None:
            pooled = mean_states(states, inputs.get("attention_mask"))
            output |= {"features": pooled, "logits": self.own_head(pooled), "auto_features": features}
        if len(self.further_heads):
            further = [head(output["features"]) for head in self.further_heads]
            output[FURTHER_LOGITS] = torch.cat(further, dim=1)
        return output

    def train(self, mode: bool = True) -> Self:
        """As usual, but BatchNorm keeps its statistics: small, skewed batches must not rewrite those of pretraining."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def first_heads(self) -> list[nn.Linear]:
        """Those of the first label."""
        return [self.auto_head] if self.own_head is None else [self.own_head, self.auto_head]

    def heads(self) -> list[nn.Linear]:
        """Every linear layer that maps features to logits."""
        return [*self.first_heads(), *(head for head in self.further_heads if isinstance(head, nn.Linear))]

    def parameter_counts(self) -> dict[str, int]:
        """``total`` weights without adapters, and ``trained`` ones: those that may learn."""
        named = dict(self.named_parameters())
        return {
            "total": sum(p.numel() for name, p in named.items() if "lora_" not in name),
            "trained": sum(p.numel() for p in named.values() if p.requires_grad),
        }

    def limit(self, tune: Tune | None, lora: LoraConfig) -> Any:
        """Let only that learn which ``tune`` names: everything, adapters and what is above the encoder, or the heads.

        Returns
        -------
        PeftModel or None
            For ``lora``; its ``merge_and_unload()`` folds the adapters into the weights, in place.

        Raises
        ------
        ConfigError
            Where ``lora`` finds no attention projections to adapt.
        """
        if tune == "head":
            self.requires_grad_(False)
            for layer in self.heads():
                layer.requires_grad_(True)
        return self._adapt(lora) if tune == "lora" else None

    def _adapt(self, lora: LoraConfig) -> Any:
        import peft

        linear = {name.rpartition(".")[2] for name, m in self.encoder.named_modules() if isinstance(m, nn.Linear)}
        targets = sorted(linear.intersection(ATTENTION))
        if not targets:
            raise ConfigError(
                f"tune: lora adapts attention projections, and a {type(self.encoder).__name__} has none: "
                "use tune: full or tune: head"
            )
        settings = peft.LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
        adapter = peft.get_peft_model(self.encoder, settings)
        self.train(self.training)  # new layers come in training mode
        return adapter

    def weights_below(self) -> list[tuple[str, Tensor]]:
        """Every parameter and buffer but those of the heads: what decides the features."""
        heads = {id(p) for layer in self.heads() for p in layer.parameters()}
        named: list[tuple[str, Tensor]] = [*self.named_parameters(), *self.named_buffers()]
        return [(name, tensor) for name, tensor in named if id(tensor) not in heads]
