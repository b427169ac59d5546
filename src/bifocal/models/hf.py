"""What every Hugging Face encoder shares: creation, one-pass encoding, its head, and the folder it is saved in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from .. import plugins
from ..config import ExpertConfig, Tune
from ..errors import ModelError
from ..example import Rows
from ..workspace import fingerprint
from .classifier import Classifier, token_states
from .deberta_positions import remember_positions
from .linear import LinearHead, fit_linear
from .pretrained import build, check_data, load_configuration, load_pretrained, locate, quiet
from .saved_encoder import OnBatch, SavedEncoder

HEAD = "head.safetensors"
MASK = "attention_mask"
STATES = "states"


class HfEncoder(SavedEncoder):
    """Encoder + head of one modality on top of transformers; a modality adds how its values become inputs.

    Attributes
    ----------
    classifier : Classifier
    """

    auto: ClassVar[Any]
    """The Auto class that loads what `save` writes."""
    base: ClassVar[str]
    """The hub id behind ``model: base``."""
    tunes: ClassVar[tuple[Tune, ...]] = ("full", "lora", "head")
    judged_by: ClassVar[Literal["macro_f1", "loss"]] = "macro_f1"
    """The val figure by which `fit` chooses its epoch and stops."""

    def __init__(self, expert: ExpertConfig, classes: Sequence[Any], seed: int, model: PreTrainedModel, processor: Any):
        super().__init__(expert, classes, seed)
        self.options: Any = plugins.options("encoder", self.plugin, expert.options, self.settings)
        self.processor = processor
        self.classifier = Classifier(model, expert.pooling).eval()
        self._parameters = self.classifier.parameter_counts()
        self._adapter: Any = None
        self._further_head: nn.Linear | None = None

    @property
    def head(self) -> nn.Linear:
        """The layer that makes the logits of this label; that of a further one lies beside the Auto model's."""
        return self.classifier.head if self._further_head is None else self._further_head

    @property
    def _fits_auto_head(self) -> bool:
        """Whether the Auto model's own head, which does not make our logits, is to be fitted too."""
        return self.classifier.own_head is not None and self._further_head is None

    # What a modality adds -------------------------------------------------------------------------

    @staticmethod
    def load_processor(where: str) -> Any:
        """The tokenizer or image processor of a model folder or hub id."""
        raise NotImplementedError

    @classmethod
    def known_configuration(cls, model: str, options: Any) -> PreTrainedConfig:
        """The model's shape for ``tiny`` and ``base``, known without a download."""
        raise NotImplementedError

    @classmethod
    def tiny_processor(cls, options: Any, values: Sequence[Any]) -> Any:
        """The tokenizer or image processor of the ``tiny`` model, made for the training values."""
        raise NotImplementedError

    @classmethod
    def largest_input(cls, model: PreTrainedModel, options: Any) -> dict[str, Tensor]:
        """One example of the largest size that the model reads, for counting what a pass costs."""
        raise NotImplementedError

    def preprocessing(self) -> Any:
        """JSON-able: all that decides how a value becomes inputs."""
        raise NotImplementedError

    def augment(self, value: Any, seed: Sequence[int]) -> Any:
        """The value as seen in training; ``seed`` names run, epoch and row, so that a resumed training repeats it."""
        return value

    def rows_at_once(self) -> int:
        return self.expert.encode_batch_size

    # Create, save, load ---------------------------------------------------------------------------

    @classmethod
    def reach(cls, expert: ExpertConfig) -> None:
        """Find the configuration of the model. Raises `ModelError` where it is not to be had."""
        if expert.model != "tiny":
            with quiet():
                load_configuration(cls.auto, locate(expert.model, cls.base))

    @classmethod
    def create(cls, expert: ExpertConfig, classes: Sequence[Any], seed: int, values: Sequence[Any]) -> Self:
        """A new expert.

        Parameters
        ----------
        expert : ExpertConfig
            ``model``: ``tiny`` (random, built here), ``base``, a local folder, or a hub id.
        classes : sequence
            In the order of the logits.
        seed : int
            Of new weights, dropout, order and augmentation.
        values : sequence
            The training values; ``tiny`` trains its tokenizer on texts.

        Raises
        ------
        ModelError
            Where the model is not to be had, or is of no use here.
        ConfigError
            On an unknown option, or ``tune: lora`` on a model without attention projections.
        """
        options = plugins.options("encoder", cls.plugin, expert.options, cls.settings)
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            if expert.model == "tiny":
                model = build(cls.auto, cls.known_configuration("tiny", options), classes)
                processor = cls.tiny_processor(options, values)
            else:
                where = locate(expert.model, cls.base)
                model, processor = load_pretrained(cls.auto, cls.load_processor, where, classes)
            encoder = cls(expert, classes, seed, model, processor)
            encoder._adapter = encoder.classifier.limit(encoder.expert.tune, expert.lora)
            encoder._parameters = encoder.classifier.parameter_counts()
        return encoder._placed()

    @classmethod
    def read(cls, folder: Path, card: Mapping[str, Any], expert: ExpertConfig) -> Self:
        check_data(folder)
        with quiet():
            model, processor = load_pretrained(cls.auto, cls.load_processor, str(folder), card["classes"])
            encoder = cls(expert, card["classes"], card["seed"], model, processor)
        if encoder.classifier.own_head is not None:
            encoder.classifier.own_head.load_state_dict(load_file(folder / HEAD))
        encoder._parameters = card["parameters"]
        return encoder._placed()

    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face folder, whole or not at all; its Auto class loads it without Bifocal.

        Beside weights and tokenizer or image processor lie ``bifocal.json`` (`card`, and the SHA-256 of every other
        file), ``learned_from.json`` (ids) and, for ``pooling: mean``, ``head.safetensors`` (``weight [C, d]``,
        ``bias [C]``).
        """
        self._merge()
        with quiet():
            super().save(folder)

    def write(self, folder: Path) -> None:
        self.classifier.auto.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        if self.classifier.own_head is not None:
            save_file(self.classifier.own_head.state_dict(), folder / HEAD)

    @property
    def base_model(self) -> str:
        return self.base if self.expert.model == "base" else self.expert.model

    def card(self) -> dict[str, Any]:
        """What this expert is, for ``bifocal.json`` and the model card.

        ``auto_logits_equal`` tells whether the Auto class gives our logits; with ``pooling: mean`` its head is
        another, fitted on what that class feeds it.
        """
        equal = self.classifier.own_head is None
        return {**super().card(), "auto_class": self.auto.__name__, "auto_logits_equal": equal, "penalty": self.penalty}

    def _placed(self) -> Self:
        self.classifier.to("cuda" if torch.cuda.is_available() else "cpu")
        return self

    def _merge(self) -> None:
        """Fold LoRA layers into the weights, so that the saved folder is one that needs no peft."""
        if self._adapter is not None:
            self._adapter.merge_and_unload()
            self._adapter = None

    def prepare_for_inference(self, *, bfloat16: bool = False) -> None:
        """Compute once what no input changes; from now on nothing is learned any more.

        With ``bfloat16`` the weights of matrix products and convolutions are turned into it once, which autocast
        would do at every pass; norms and embeddings stay in float32.
        """
        if bfloat16:
            heads = {id(layer) for layer in self.classifier.heads()}
            for module in self.classifier.modules():
                if isinstance(module, nn.Linear | nn.Conv2d) and id(module) not in heads:
                    module.to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            remember_positions(self.classifier.auto)
        self._fingerprint = None

    # Learn ----------------------------------------------------------------------------------------

    def fit(
        self,
        train: Rows,
        val: Rows | None,
        checkpoints: Path,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Fine-tune; a training interrupted in ``checkpoints`` is taken up at its last whole epoch.

        See `bifocal.models.finetune.finetune` for parameters and result; further heads learn along. For ``pooling:
        mean`` one more pass over train fits the Auto model's head, which learned nothing beside ours.

        Raises
        ------
        ModelError
            Where this is itself a further head; where the training diverges.
        DataError
            Where the rows lack the label of a further head.
        """
        if self.added_to is not None:
            raise ModelError(f"this head learns with the {self.plugin} that it was added to: call fit of that one")
        # The Trainer brings datasets, pandas and peft, a quarter of the seconds until a saved model can be used.
        from .finetune import finetune

        with quiet():
            history = finetune(self, train, val, checkpoints, on_epoch)
        self._merge()
        self._fingerprint = None
        if self.classifier.own_head is not None:
            rows = [str(i) for i in range(len(train.labels))]
            self._fit_auto_head(self.encode(train.values), torch.tensor(train.labels), rows)
        return history

    def fit_head(self, encoded: Mapping[str, Tensor], labels: Tensor, groups: Sequence[str]) -> list[dict[str, float]]:
        """Fit the head on what `encode` gave: a penalised linear classifier, its penalty chosen across groups.

        For ``pooling: mean`` the Auto model's head is fitted too, on ``auto_features``.

        Returns
        -------
        list of dict
            One row: in-sample loss, accuracy and macro-F1, and the penalty chosen.
        """
        history = super().fit_head(encoded, labels, groups)
        if self._fits_auto_head:
            self._fit_auto_head(encoded, labels, groups)
        return history

    def take_head(self, head: LinearHead) -> None:
        _copy(head, self.head)

    def linear_head(self) -> LinearHead:
        weights = {name: tensor.detach().cpu() for name, tensor in self.head.state_dict().items()}
        return LinearHead(weights["weight"], weights["bias"], self.penalty or 0.0)

    def _fit_auto_head(self, encoded: Mapping[str, Tensor], labels: Tensor, groups: Sequence[str]) -> None:
        fitted = fit_linear(encoded["auto_features"], labels, groups, classes=len(self.classes))
        _copy(fitted, self.classifier.auto_head)

    # Encode ---------------------------------------------------------------------------------------

    def widths(self) -> dict[str, int]:
        """For ``pooling: mean`` also ``auto_features``: what the Auto model's own head reads."""
        widths = {"features": self.head.in_features, "logits": len(self.classes)}
        if self.classifier.own_head is not None:
            widths["auto_features"] = self.classifier.auto_head.in_features
        return widths

    def run(
        self, values: Sequence[Any], progress: Callable[[int], None] | None = None, on_batch: OnBatch | None = None
    ) -> dict[str, Tensor]:
        self.classifier.eval()
        return super().run(values, progress, on_batch)

    def compute(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device = self.classifier.head.weight.device
        output = self.classifier({name: tensor.to(device) for name, tensor in inputs.items()})
        states = output.pop(STATES)  # wide, and seldom wanted: they stay where they are
        found = {name: tensor.float().cpu() for name, tensor in output.items()}
        logits = found["logits"] if self._further_head is None else self.head_logits(found)
        return {**found, "logits": logits, STATES: states}

    def head_logits(self, encoded: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[n, C]`` of the head over features already computed."""
        return self.linear_head()(encoded["features"])

    # Identity -------------------------------------------------------------------------------------

    def fingerprint_below(self) -> str:
        """Hash of every weight below the heads, of the pooling and of the preprocessing."""
        digest = hashlib.sha256()
        for name, tensor in self.classifier.weights_below():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return fingerprint(digest.hexdigest(), self.expert.pooling, self.preprocessing())

    def parameters(self) -> dict[str, int]:
        """Weights in all, and those that learn: all of them, adapters and head (``lora``), or the head."""
        return dict(self._parameters)

    @classmethod
    def cost(cls, expert: ExpertConfig, classes: int) -> dict[str, float]:
        """What a model costs, from its configuration alone: no weights are loaded, made or run.

        Returns
        -------
        dict
            ``total`` and ``trained`` weights, and ``flops_per_example`` of one forward pass at the largest input (a
            multiplication and an addition are two).

        Raises
        ------
        ModelError
            Where the configuration is not to be had.
        """
        expert = expert.with_tune(cls.tunes)
        options = plugins.options("encoder", cls.plugin, expert.options, cls.settings)
        with quiet():
            if expert.model in ("tiny", "base"):
                configuration = cls.known_configuration(expert.model, options)
            else:
                configuration = load_configuration(cls.auto, locate(expert.model, cls.base))
            with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
                classifier = Classifier(build(cls.auto, configuration, range(classes)), expert.pooling).eval()
                classifier(cls.largest_input(classifier.auto, options))
                classifier.limit(expert.tune, expert.lora)
        return {**classifier.parameter_counts(), "flops_per_example": counter.get_total_flops()}


class HfTokenEncoder(HfEncoder):
    """An `HfEncoder` whose hidden states are those of words or patches: a `bifocal.contracts.TokenEncoder`.

    It takes further labels (`bifocal.contracts.MultiLabelEncoder`); the Auto model's head stays that of the first.
    """

    def add_head(self, label: str, classes: Sequence[Any], weight: float = 1.0) -> Self:
        """As `bifocal.contracts.MultiLabelEncoder` has it; random until it learns."""
        further = self.with_head(label, classes, weight)
        further._further_head = self.classifier.add_head(len(further.classes), self.seed)
        change = _numbers([further.head]) - _numbers(self.classifier.first_heads())
        further._parameters = {name: n + change for name, n in self._parameters.items()}
        return further

    def encode_tokens(
        self, values: Sequence[Any], progress: Callable[[int], None] | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """What `encode` gives and, of the same pass, the last hidden states ``[L, d]`` of each value, not padded."""
        tokens = [torch.empty(0)] * len(values)
        return self.run(values, progress, keep_tokens(tokens)), tokens


def keep_tokens(tokens: list[Tensor]) -> OnBatch:
    """Puts the tokens of each row of a batch in their place."""

    def keep(rows: Sequence[int], inputs: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
        for row, states in zip(rows, unpadded(found[STATES], inputs.get(MASK)), strict=True):
            tokens[row] = states

    return keep


def unpadded(states: Tensor, mask: Tensor | None) -> list[Tensor]:
    """The tokens ``[L, d]`` of each row of hidden states, float32 on the CPU, each with memory of its own."""
    tokens, there = token_states(states.float().cpu(), None if mask is None else mask.cpu())
    return [row[counts].clone() for row, counts in zip(tokens, there, strict=True)]


def _numbers(layers: Sequence[nn.Module]) -> int:
    return sum(p.numel() for layer in layers for p in layer.parameters())


def _copy(fitted: LinearHead, layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.copy_(fitted.weight)
        layer.bias.copy_(fitted.bias)


class Traced(nn.Module):
    """A classifier as a module that takes inputs one by one and returns features, and logits of one of its heads."""

    def __init__(self, classifier: Classifier, names: Sequence[str], head: nn.Linear):
        super().__init__()
        self.classifier, self.names, self.head = classifier, list(names), head

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        output = self.classifier(dict(zip(self.names, inputs, strict=True)))
        logits = output["logits"] if self.head is self.classifier.head else self.head(output["features"])
        return output["features"], logits
