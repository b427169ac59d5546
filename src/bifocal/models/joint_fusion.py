"""Fusions on tokens: what all of them share, and what those share that tune encoders with themselves.

A strategy is a file in ``models/fusions/``: one on frozen tokens is a `TokenFusion` as it stands, one that tunes
encoders a `TunedFusion` that says how much of a backbone learns (`TunedFusion.limit`). Neither names a modality.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ..config import Reads, Strict
from ..errors import ConfigError, DataError, ModelError
from .evidence_fusion import PRIOR, EvidenceFusion
from .hf import HfTokenEncoder
from .joint_head import CoAttention, HeadOutput
from .joint_tokens import Backbone, FrozenTokens, Limit, PooledToken, TokenSource
from .joint_trainer import JointBatches, JointModel, JointOptions, JointTrainer, Row, TuningOptions
from .pretrained import quiet

if TYPE_CHECKING:
    from ..contracts import Encoder
    from ..example import Evidence

MODEL = "model."
"""What learned, or was counted, in a state dict."""
AT_ONCE = 32


class TokenFusion(EvidenceFusion):
    """A `CoAttention` head over the tokens of each modality, trained by AdamW.

    Tokens are the last hidden states of an encoder, ``[L, d]`` of words or patches, a map ``[d, h, w]`` of a
    convolutional one as ``h w`` tokens. Where an encoder has none (trees, TF-IDF, a network on records), or where
    ``fusion.read`` says so, features (or logits) are one token, standardised by train.

    ``auxiliary`` adds the mean loss of linear heads on each modality's tokens before they look at others.
    ``modulation`` is OGM-GE (Peng et al. 2022, Balanced Multimodal Learning via On-the-fly Gradient Modulation,
    arXiv:2203.15332): each step the gradients of the modality that says more of the truth by itself are scaled down and
    get noise, so that the weaker one can catch up; what each says by itself is told by the same linear heads, which
    with ``auxiliary: 0`` read detached tokens. The paper trains by plain SGD. AdamW divides a gradient by its running
    size, so that here a steady coefficient cancels out, and only its changes and the noise remain.

    Of several seeds the first is taken: one model is trained.

    Attributes
    ----------
    history : list of dict
        Per epoch ``train_`` and ``val_`` ``loss``, ``accuracy``, ``macro_f1`` (those of train running), and mean
        norms of the gradients before clipping: ``grad_norm``, ``grad_norm.<modality>`` (what learns of its encoder,
        and its projection), ``grad_norm.largest``; with modulation the mean ``coefficient.<modality>``.
    on_epoch : callable or None
        Takes each finished epoch's row of the history.
    """

    reads: Reads = "tokens"
    readable: tuple[Reads, ...] = ("tokens", "features", "logits")
    Options: type[Strict] = JointOptions

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.history: list[Row] = []
        self.on_epoch: Callable[[Row], None] | None = None

    def fit(
        self,
        evidence: Mapping[str, Evidence],
        labels: Tensor,
        *,
        seeds: Sequence[int],
        read: Mapping[str, Reads] | None = None,
        val: Mapping[str, Evidence] | None = None,
    ) -> Self:
        """Learn from rows ``[n]`` with class indices ``labels [n]``.

        Parameters
        ----------
        evidence, labels, read
            As `EvidenceFusion.fit`.
        seeds : sequence of int
            The first is that of new weights, order and dropout.
        val : mapping, optional
            With it the epoch with the least loss on it is kept; without, the last one.

        Raises
        ------
        DataError, ConfigError
            As `EvidenceFusion.fit`.
        ModelError
            Where the training diverges.
        """
        rows = self._begin(evidence, labels, read)
        train = {name: evidence[name].take(rows.tolist()) for name in self.known}
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(next(iter(seeds)))
            self._build({name: self._source(name, part) for name, part in train.items()})
            for source, part in zip(self.sources, train.values(), strict=True):
                source.fit_scale(part)
            learned = self._prepared(train, labels[rows])
            judged = None
            if val:
                truth = next(iter(val.values())).labels
                some = self._usable(val, truth)
                judged = self._prepared({name: val[name].take(some.tolist()) for name in self.known}, truth[some])
            with tempfile.TemporaryDirectory(prefix="bifocal-") as checkpoints:
                trainer = JointTrainer(
                    self.model,
                    self.options,
                    learned,
                    judged,
                    seed=next(iter(seeds)),
                    checkpoints=Path(checkpoints),
                    on_epoch=self.on_epoch,
                )
                self.history = trainer.learn()
        self.model.eval()
        return self

    def __call__(self, evidence: Mapping[str, Evidence]) -> Tensor:
        """Logits ``[n, C]``, float32 on the CPU; any part may be absent. Raises `DataError` as `fit` does."""
        there = self._there(evidence)
        said = [s.logits.float().cpu() for s in self._say(evidence)]
        return self._or_prior(torch.cat([self.prior.new_zeros(0, self.classes), *said]), there)

    def explain(self, evidence: Mapping[str, Evidence]) -> Mapping[str, Tensor]:
        """Attention that each modality receives from the tokens of the others, name -> ``[n]``.

        Mean over heads and over the tokens that look, summed over the tokens looked at; as shares of 1 among the
        present parts. A part that is alone has all of it.
        """
        there = self._there(evidence)
        weights = torch.cat([torch.zeros(0, len(self.known)), *(s.weights.float().cpu() for s in self._say(evidence))])
        received = dict(zip(self.known, weights.unbind(1), strict=True))
        return {name: received.get(name, torch.zeros(len(present))) for name, present in there.items()}

    def parameters(self) -> dict[str, int]:
        """Weights of its own, in all and those that learned: what it makes of experts' frozen weights is theirs."""
        learned = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return {"total": learned, "trained": learned}

    def traced(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Raises `ModelError`: an exported encoder gives its features and logits only."""
        raise ModelError(
            f"{self.strategy()} reads tokens, and an encoder exported to ONNX gives features and logits only: export "
            "for the engine torch, serve the run's folder itself, or train with a fusion.strategy that reads features "
            "or logits, such as concat"
        )

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config, _ = super().state()
        tensors = {MODEL + name: t.detach().cpu() for name, t in self.model.state_dict().items()}
        return {**config, "seeds": 1, "history": self.history}, {PRIOR: self.prior, **tensors}

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        self._adopt(tensors, {name: self._restored(name) for name in self.known})

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        fusion = super().restore(config, tensors)
        fusion.history = list(config["history"])
        return fusion

    # ------------------------------------------------------------------ inside

    @property
    def sources(self) -> list[TokenSource]:
        """Where the tokens of each known modality come from."""
        return list(self.model.sources)  # type: ignore[arg-type]

    def _choose(self, evidence: Mapping[str, Evidence], read: dict[str, Reads]) -> dict[str, Reads]:
        chosen = super()._choose(evidence, read)
        fallen = {
            name: "features" for name in chosen if name not in read and not self._has_tokens(name, evidence[name])
        }
        return {**chosen, **fallen}  # type: ignore[dict-item]

    def _has_tokens(self, name: str, part: Evidence) -> bool:
        return part.tokens is not None

    def _source(self, name: str, part: Evidence) -> TokenSource:
        """A new one, for these training rows."""
        what = self.read[name]
        if what != "tokens":
            return PooledToken(what, getattr(part, what).shape[1])
        if part.tokens is None:
            raise ConfigError(f"fusion.read.{name} = tokens: the encoder of {name} has none; leave it out")
        return FrozenTokens(name, part.tokens[int(part.present.nonzero()[0])].shape[1])

    def _restored(self, name: str) -> TokenSource:
        what, width = self.read[name], self.dims[name]
        return FrozenTokens(name, width) if what == "tokens" else PooledToken(what, width)

    def _build(self, sources: Mapping[str, TokenSource]) -> None:
        self.dims = {name: sources[name].width if name in sources else 0 for name in self.read}
        o = self.options
        head = CoAttention(
            [source.width for source in sources.values()],
            [source.normal for source in sources.values()],
            self.classes,
            width=o.width,
            heads=o.heads,
            dropout=o.dropout,
            modality_dropout=o.modality_dropout,
            alone=bool(o.auxiliary or o.modulation),
        )
        model = JointModel(list(sources), list(sources.values()), head, detach=not o.auxiliary)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")

    def _adopt(self, tensors: Mapping[str, Tensor], sources: Mapping[str, TokenSource]) -> None:
        """Build the model anew, and take back what learned in it."""
        self._build(sources)
        kept = {name.removeprefix(MODEL): t for name, t in tensors.items()}
        lacking = self.model.state_dict().keys() ^ kept.keys()
        if lacking:
            raise KeyError(f"{len(lacking)} tensors, such as {min(lacking)}, are missing or too many")
        self.model.load_state_dict(kept, strict=False)  # what is frozen stands in no state dict
        self.model.eval()

    def _prepared(self, parts: Mapping[str, Evidence], labels: Tensor) -> JointBatches:
        kept = [source.prepare(part) for source, part in zip(self.sources, parts.values(), strict=True)]
        return JointBatches(parts, self.sources, kept, labels)

    @torch.no_grad()
    def _say(self, evidence: Mapping[str, Evidence]) -> Iterator[HeadOutput]:
        batches = JointBatches({name: evidence[name] for name in self.known}, self.sources, [None] * len(self.known))
        self.model.eval()
        device = next(self.model.parameters()).device
        for start in range(0, len(batches), AT_ONCE):
            batch = batches(range(start, min(start + AT_ONCE, len(batches))))
            parts = {m: {name: t.to(device) for name, t in inputs.items()} for m, inputs in batch["parts"].items()}
            said: HeadOutput = self.model(parts, batch["present"].to(device))
            if not said.logits.isfinite().all():
                raise DataError(f"what {' and '.join(self.known)} bring is not finite in every row: encode them again")
            yield said


class TunedFusion(TokenFusion):
    """A `TokenFusion` that tunes encoders with its head, in copies of their backbones: an `EncoderTuner`.

    Its state dict holds what learned; the frozen weights are those of the experts that it was trained with.
    """

    Options: type[Strict] = TuningOptions

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.encoders: Mapping[str, Encoder] | None = None
        self._fingerprints: dict[str, str] = {}
        self._saved: Mapping[str, Tensor] | None = None

    def limit(self, backbone: nn.Module) -> Limit:
        """Freeze a backbone but for what learns. Raises `ConfigError` where the strategy has no hold on it."""
        raise NotImplementedError

    def attach(self, encoders: Mapping[str, Encoder]) -> None:
        """Take the experts by modality, which stay as they are: before `fit`, and after `restore`.

        Raises
        ------
        ModelError
            Where it learned on top of other experts.
        ConfigError
            Where the strategy has no hold on one of them.
        """
        self.encoders = dict(encoders)
        if self._saved is None:
            return
        for name, found in self._fingerprints.items():
            if name not in encoders or encoders[name].fingerprint() != found:
                raise ModelError(
                    f"this fusion was trained with another {name} expert than the one beside it: copy the whole folder "
                    "again, or run the steps from `experts` on"
                )
        with quiet(), torch.random.fork_rng():  # new adapters draw weights, which are then not used
            self._adopt(self._saved, {name: self._restored(name) for name in self.known})
        self._saved = None

    def fit(
        self,
        evidence: Mapping[str, Evidence],
        labels: Tensor,
        *,
        seeds: Sequence[int],
        read: Mapping[str, Reads] | None = None,
        val: Mapping[str, Evidence] | None = None,
    ) -> Self:
        """As `TokenFusion.fit`, from `Evidence.values`. Raises `ConfigError` where an encoder cannot be tuned."""

        def of_values(parts: Mapping[str, Evidence]) -> dict[str, Evidence]:
            return {name: replace(part, tokens=None) for name, part in parts.items()}  # tokens are those of the experts

        return super().fit(of_values(evidence), labels, seeds=seeds, read=read, val=of_values(val) if val else None)

    def tokens(
        self, modality: str, values: Sequence[Any], progress: Callable[[int], None] | None = None
    ) -> list[Tensor] | None:
        """The tokens ``[L, d]`` of each value by the fusion's own encoder; None where it reads features."""
        found = dict(zip(self.known, self.sources, strict=True)).get(modality)
        return found.tokens(values, progress) if isinstance(found, Backbone) else None

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config, tensors = super().state()
        return {**config, "encoders": self._fingerprints}, tensors

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        self._saved = dict(tensors)  # until `attach` brings the frozen weights

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        fusion = super().restore(config, tensors)
        fusion._fingerprints = dict(config["encoders"])
        return fusion

    # ------------------------------------------------------------------ inside

    def _encoder(self, name: str) -> Encoder:
        if self.encoders is None or name not in self.encoders:
            raise ModelError(f"{self.strategy()} tunes encoders, and was given none of {name}: call attach first")
        return self.encoders[name]

    def _has_tokens(self, name: str, part: Evidence) -> bool:
        return isinstance(self._encoder(name), HfTokenEncoder)

    def _source(self, name: str, part: Evidence) -> TokenSource:
        if self.read[name] != "tokens":
            return super()._source(name, part)
        encoder = self._encoder(name)
        if not isinstance(encoder, HfTokenEncoder) or part.values is None:
            raise ConfigError(f"fusion.read.{name} = tokens: the encoder of {name} has none to tune; leave it out")
        self._fingerprints[name] = encoder.fingerprint()
        return Backbone(name, encoder, self.limit, value=part.values[int(part.present.nonzero()[0])])

    def _restored(self, name: str) -> TokenSource:
        encoder = self._encoder(name)
        if self.read[name] != "tokens" or not isinstance(encoder, HfTokenEncoder):
            return super()._restored(name)
        return Backbone(name, encoder, self.limit, width=self.dims[name])


def deepest(backbone: nn.Module) -> Sequence[nn.Module]:
    """The blocks of a backbone: its longest list of modules that lies in no other list; empty where it has none."""
    lists = {name: m for name, m in backbone.named_modules() if isinstance(m, nn.ModuleList)}
    outer = [m for name, m in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    longest = max(outer, key=len, default=nn.ModuleList())
    return list(longest)
