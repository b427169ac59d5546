"""What every joint fusion shares: experts' encoders under one co-attention head, trained together.

A strategy is a file in ``models/joint/`` that says how much of a backbone learns (`limit`); all else is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from .. import plugins
from ..errors import DataError, nearest
from .joint_head import CoAttention, HeadOutput
from .joint_tokens import JointRows, Kept, Limit, TokenSource, token_source
from .joint_trainer import JointBatches, JointModel, JointOptions, JointTrainer, Row
from .pretrained import quiet

if TYPE_CHECKING:
    from ..contracts import Encoder

JUDGED_AT_ONCE = 32


class CoAttentionFusion:
    """Encoders and a `CoAttention` head trained together, by AdamW.

    Each modality brings its tokens: the last hidden states of its encoder, ``[L, d]`` of words or patches, a map
    ``[d, h, w]`` of a convolutional one as ``h w`` tokens; an encoder that has none (trees, TF-IDF, a network on
    records) brings its features as one frozen token, standardised by train. The encoders that are passed in stay as
    they are: copies of their backbones learn.

    ``auxiliary`` adds the mean loss of linear heads on each modality's tokens before they look at others.
    ``modulation`` is OGM-GE (Peng et al. 2022, Balanced Multimodal Learning via On-the-fly Gradient Modulation,
    arXiv:2203.15332): each step the gradients of the modality that says more of the truth by itself are scaled down and
    get noise, so that the weaker one can catch up; what each says by itself is told by the same linear heads, which
    with ``auxiliary: 0`` read detached tokens. The paper trains by plain SGD. AdamW divides a gradient by its running
    size, so that here a steady coefficient cancels out, and only its changes and the noise remain.

    A row without any part gets the class shares of train. There is no saving: it serves the lab.

    A strategy sets ``Options`` and fills in `limit`.

    Attributes
    ----------
    history : list of dict
        Per epoch ``train_`` and ``val_`` ``loss``, ``accuracy``, ``macro_f1`` (those of train running), and mean
        norms of the gradients before clipping: ``grad_norm``, ``grad_norm.<modality>`` (what learns of its encoder,
        and its projection), ``grad_norm.largest``; with modulation the mean ``coefficient.<modality>``.

    Raises
    ------
    ConfigError
        On an option that the strategy does not know.
    """

    Options: type[JointOptions] = JointOptions

    def __init__(self, **options: Any):
        self.options: Any = plugins.options("joint fusion", self.strategy(), options, self.Options)
        self.history: list[Row] = []

    @classmethod
    def strategy(cls) -> str:
        """The name of its file."""
        return cls.__module__.rpartition(".")[2]

    def limit(self, backbone: nn.Module) -> Limit:
        """Freeze a backbone but for what learns. Raises `ConfigError` where the strategy has no hold on it."""
        raise NotImplementedError

    def fit(
        self,
        encoders: Mapping[str, Encoder],
        train: JointRows,
        *,
        classes: int,
        seed: int,
        checkpoints: Path,
        val: JointRows | None = None,
        on_epoch: Callable[[Row], None] | None = None,
    ) -> Self:
        """Learn from rows with class indices.

        Parameters
        ----------
        encoders : mapping
            Modality -> the run's expert.
        train, val : JointRows
            With labels. With ``val`` the epoch with the least loss on it is kept; without, the last one.
        classes : int
            C.
        seed : int
            Of new weights, order and dropout.
        checkpoints : Path
            A folder for the best epoch so far; emptied before and after.
        on_epoch : callable, optional
            Takes each finished epoch's row of the history.

        Raises
        ------
        DataError
            Where rows lack labels or a modality, no row has any part, or the labels are of one class.
        ConfigError
            Where the strategy cannot adapt an encoder.
        ModelError
            Where the training diverges.
        """
        self.names = list(encoders)
        train = self._usable(train)
        counts = torch.bincount(self._labels(train), minlength=classes)
        if (counts > 0).sum() < 2:
            raise DataError(
                f"a fusion learns to tell at least two classes apart; its {len(train)} rows with a part show "
                f"{int((counts > 0).sum())}: give more rows, or check how the label is mapped"
            )
        self.prior = ((counts + 1) / (counts + 1).sum()).log()
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = self._build(encoders, train, classes)
            learned = self._batches(train, prepare=True)
            for source, kept in zip(self.sources, learned.kept, strict=True):
                source.settle(kept)
            judged = self._batches(self._usable(val), prepare=True) if val is not None else None
            if judged is not None:
                self._labels(judged.rows)
            trainer = JointTrainer(
                self.model, self.options, learned, judged, seed=seed, checkpoints=checkpoints, on_epoch=on_epoch
            )
            self.history = trainer.learn()
        self.model.eval()
        return self

    def __call__(self, rows: JointRows) -> Tensor:
        """Logits ``[n, C]``, float32 on the CPU; any part may be absent. Raises `DataError` as `fit` does."""
        said = [s.logits.float().cpu() for s in self._say(rows)]
        logits = torch.cat([self.prior.new_zeros(0, len(self.prior)), *said])
        some = torch.stack([rows.present[name] for name in self.names]).any(dim=0)
        return torch.where(some[:, None], logits, self.prior)

    def explain(self, rows: JointRows) -> dict[str, Tensor]:
        """Attention that each modality receives from the tokens of the others, name -> ``[n]``.

        Mean over heads and over the tokens that look, summed over the tokens looked at; as shares of 1 among the
        present parts. A part that is alone has all of it.
        """
        weights = torch.cat([torch.zeros(0, len(self.names)), *(s.weights.cpu() for s in self._say(rows))])
        return dict(zip(self.names, weights.unbind(1), strict=True))

    def parameters(self) -> dict[str, int]:
        """``total`` (encoders included, without their own heads) and ``trained`` weights."""
        weights = list(self.model.parameters())
        below = sum(source.weights_below() for source in self.sources)
        return {
            "total": below + sum(p.numel() for p in weights),
            "trained": sum(p.numel() for p in weights if p.requires_grad),
        }

    # ------------------------------------------------------------------ inside

    @property
    def sources(self) -> list[TokenSource]:
        return list(self.model.sources)  # type: ignore[arg-type]

    def _build(self, encoders: Mapping[str, Encoder], train: JointRows, classes: int) -> JointModel:
        sources = []
        for name, encoder in encoders.items():
            rows = train.present[name].nonzero().flatten().tolist()
            if not rows:
                raise DataError(f"no training row has {name}: nothing can be learned of it; leave the modality out")
            sources.append(token_source(encoder, train.values[name][rows[0]], self.limit))
        o = self.options
        head = CoAttention(
            [source.width for source in sources],
            [source.normal for source in sources],
            classes,
            width=o.width,
            heads=o.heads,
            dropout=o.dropout,
            modality_dropout=o.modality_dropout,
            alone=bool(o.auxiliary or o.modulation),
        )
        model = JointModel(self.names, sources, head, detach=not o.auxiliary)
        return model.to("cuda" if torch.cuda.is_available() else "cpu")

    def _usable(self, rows: JointRows) -> JointRows:
        """The rows, refused where a modality is not among them."""
        for name in self.names:
            if name not in rows.values or name not in rows.present:
                raise DataError(f"the rows bring no {name!r}, which has an encoder; {nearest(name, rows.values)}")
        return rows

    def _labels(self, rows: JointRows) -> Tensor:
        if rows.labels is None or (len(rows.labels) and int(rows.labels.min()) < 0):
            raise DataError("a joint fusion learns from annotated rows only: give labels, and leave out rows without")
        return rows.labels

    def _batches(self, rows: JointRows, *, prepare: bool) -> JointBatches:
        kept = [self._kept(rows, name, s, prepare) for name, s in zip(self.names, self.sources, strict=True)]
        return JointBatches(rows, self.names, self.sources, kept)

    def _kept(self, rows: JointRows, name: str, source: TokenSource, prepare: bool) -> Kept | None:
        """What frozen layers made of the rows: remembered, or made now where they are met again."""
        key = name, source.key
        if key in rows.memory:
            return rows.memory[key]
        if not (prepare or rows.keep):
            return None
        present = rows.present[name].nonzero().flatten().tolist()
        kept = source.prepare(rows.values[name], present)
        if rows.keep:
            rows.memory[key] = kept
        return kept

    @torch.no_grad()
    def _say(self, rows: JointRows) -> Iterator[HeadOutput]:
        batches = self._batches(self._usable(rows), prepare=False)
        self.model.eval()
        device = next(self.model.parameters()).device
        for start in range(0, len(rows), JUDGED_AT_ONCE):
            batch = batches(range(start, min(start + JUDGED_AT_ONCE, len(rows))))
            parts = {m: {name: t.to(device) for name, t in inputs.items()} for m, inputs in batch["parts"].items()}
            yield self.model(parts, batch["present"].to(device))


def deepest(backbone: nn.Module) -> Sequence[nn.Module]:
    """The blocks of a backbone: its longest list of modules that lies in no other list; empty where it has none."""
    lists = {name: m for name, m in backbone.named_modules() if isinstance(m, nn.ModuleList)}
    outer = [m for name, m in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    longest = max(outer, key=len, default=nn.ModuleList())
    return list(longest)
