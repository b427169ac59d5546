"""Reads texts with a transformers sequence classifier: mDeBERTa, MiniLM, or a tiny DeBERTa trained from scratch."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DebertaV2Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ...config import ExpertConfig, Strict
from ...errors import ConfigError, ModelError
from ...modalities.text import tags_of
from ..exportable import Exportable
from ..hf import HfTokenEncoder, Traced, keep_tokens
from ..saved_encoder import OnBatch
from ..window_rows import with_windows
from ..windows import INPUTS, OVERLAP, Splitter, Windows, is_highest, join_windows

if TYPE_CHECKING:
    from tokenizers import Encoding

Columns = dict[str, list[list[int]]]
"""Name of an input -> the numbers of each text."""

SPECIAL = {
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}


class Options(Strict):
    """Options under ``experts.text.options``."""

    max_length: Annotated[int, Field(ge=8)] = 128
    """Tokens of a window; a longer text is read in several of them, which overlap."""
    windows: Annotated[int, Field(ge=1, le=64)] = 8
    """Windows of a text that are read, at most; what is beyond the last one is cut off."""
    vocabulary: Annotated[int, Field(ge=100)] = 2000
    """Pieces of the tokenizer that ``model: tiny`` trains on the training texts."""
    word_drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance of each word to be left out of a training text. The model then learns what a text without its telling word
    is worth, which an explanation by leaving words out asks."""


class HfText(HfTokenEncoder):
    """A text expert on any transformers model with a sequence classification head.

    Raises
    ------
    ModelError
        Where the tokenizer has no vocabulary (a folder without tokenizer files).
    ConfigError
        Where ``max_length`` exceeds what the model's positions reach.
    """

    plugin = "hf_text"
    modality = "text"
    auto = AutoModelForSequenceClassification
    base = "microsoft/mdeberta-v3-base"
    settings = Options

    def __init__(self, expert: ExpertConfig, classes: Sequence[Any], seed: int, model: PreTrainedModel, processor: Any):
        super().__init__(expert, classes, seed, model, processor)
        if not self.processor.is_fast:
            raise ModelError(
                f"model {self.expert.model!r} has no fast tokenizer (tokenizer.json): take a model that has"
            )
        length = self.options.max_length
        config = self.classifier.auto.config
        reach = min(getattr(config, "max_position_embeddings", None) or length, self.processor.model_max_length)
        if length > reach:
            raise ConfigError(
                f"options.max_length = {length} exceeds the {reach} tokens that {self.expert.model!r} reads"
            )
        if set(self.processor.get_vocab()) <= set(self.processor.all_special_tokens):
            raise ModelError(f"model {self.expert.model!r} brings no tokenizer: add its tokenizer.json to the folder")

        self.processor.model_max_length = length  # outside readers cut texts where we do
        self.most_windows: int = self.options.windows
        self.window_offsets: list[float] = []

    @staticmethod
    def load_processor(where: str) -> Any:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False)

    @classmethod
    def known_configuration(cls, model: str, options: Options) -> DebertaV2Config:
        if model == "tiny":
            return DebertaV2Config(
                vocab_size=options.vocabulary,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=128,
                max_position_embeddings=max(512, options.max_length),
            )
        return DebertaV2Config(
            vocab_size=251000,
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
            relative_attention=True,
            position_buckets=256,
            pos_att_type="p2c|c2p",
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            position_biased_input=False,
        )

    @classmethod
    def tiny_processor(cls, options: Options, values: Sequence[str]) -> PreTrainedTokenizerFast:
        return train_tokenizer(values, options.vocabulary)

    @classmethod
    def largest_input(cls, model: PreTrainedModel, options: Options) -> dict[str, Tensor]:
        # Embeddings instead of token ids: transformers looks for padding among the latter, which needs values.
        return {"inputs_embeds": torch.zeros(1, options.max_length, model.get_input_embeddings().embedding_dim)}

    @classmethod
    def read(cls, folder: Path, card: Mapping[str, Any], expert: ExpertConfig) -> Self:
        encoder = super().read(folder, card, expert)
        encoder.most_windows = card.get("windows", 1)  # those saved before there were windows read the first one
        encoder.window_offsets = card.get("window_offsets", [])
        return encoder

    def card(self) -> dict[str, Any]:
        """As of every encoder, how many ``windows`` of a text it reads at most, and their ``window_offsets``."""
        return {**super().card(), "windows": self.most_windows, "window_offsets": self.window_offsets}

    # Windows of long texts ------------------------------------------------------------------------

    def _encoded(self, values: Sequence[str]) -> Sequence[Encoding]:
        # Truncation is a state of the tokenizer, which other threads use too: all calls ask for the same.
        return self.processor(list(values), truncation=True, max_length=self.options.max_length).encodings or []

    @property
    def _splitter(self) -> Splitter:
        room = self.options.max_length - self.processor.num_special_tokens_to_add()
        return Splitter(self._encoded, room, self.most_windows)

    def windows(self, value: str) -> Windows:
        """The windows that are read of a text."""
        return self._splitter.split(value)

    def _windowed_tokens(self, values: Sequence[str]) -> tuple[Columns, list[int]]:
        """The tokens of every window of these texts, and how many windows each has."""
        encodings, counts = self._splitter.read(values)
        names = [name for name in INPUTS if name == "input_ids" or name in self.processor.model_input_names]
        return {name: [getattr(encoding, INPUTS[name]) for encoding in encodings] for name in names}, counts

    def _first_windows(self, values: Sequence[str]) -> Columns:
        tokens, counts = self._windowed_tokens(values)
        starts = np.cumsum(counts) - counts
        return {name: [column[start] for start in starts] for name, column in tokens.items()}

    def run(
        self, values: Sequence[str], progress: Callable[[int], None] | None = None, on_batch: OnBatch | None = None
    ) -> dict[str, Tensor]:
        """As of every encoder, by windows: of a long text what `join_windows` makes of them; ``on_batch`` sees windows.

        Where a label's head chooses among the windows, they come along (`with_windows`): another may be put on them.
        """
        if not len(values):
            return super().run(values, progress, on_batch)
        return self._run_windows(*self._windowed_tokens(values), progress, on_batch)

    def encode_tokens(
        self, values: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """As of every encoder; the tokens of a long text are those of its windows, one after another."""
        if not len(values):
            return super().encode_tokens(values, progress)
        tokens, counts = self._windowed_tokens(values)
        states = [torch.empty(0)] * sum(counts)
        encoded = self._run_windows(tokens, counts, progress, keep_tokens(states))
        left = iter(states)
        return encoded, [torch.cat([next(left) for _ in range(count)]) for count in counts]

    def _run_windows(
        self,
        tokens: Columns,
        counts: Sequence[int],
        progress: Callable[[int], None] | None,
        on_batch: OnBatch | None,
    ) -> dict[str, Tensor]:
        total = sum(counts)
        tell = (lambda done: progress(done * len(counts) // total)) if progress else None
        self.classifier.eval()
        found = self.run_batches(self._padded(tokens), total, tell, on_batch)
        if total == len(counts):
            return found
        highest = is_highest(self.classes)
        arrays = {name: tensor.numpy() for name, tensor in found.items()}
        joined = join_windows(arrays, counts, highest=highest, offsets=self.window_offsets)
        rows = {name: torch.from_numpy(array) for name, array in joined.items()}
        return with_windows(rows, found, counts) if self._some_head_chooses else rows

    @property
    def _some_head_chooses(self) -> bool:
        """Whether the head of a label chooses among the windows of a text."""
        encoder = self.added_to or self
        return any(is_highest(head.classes) for head in (encoder, *encoder.heads.values()))

    def inputs(self, values: Sequence[str]) -> dict[str, Tensor]:
        """What the model is trained on: of a long text the first window."""
        return dict(self.processor.pad(self._first_windows(values), return_tensors="pt"))

    def batches(self, values: Sequence[str]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """As `inputs`; texts of like length share a batch, so that little padding is computed."""
        if len(values):
            yield from self._padded(self._first_windows(values))

    def _padded(self, tokens: Columns) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        order = sorted(range(len(tokens["input_ids"])), key=lambda i: -len(tokens["input_ids"][i]))
        for start in range(0, len(order), self.expert.encode_batch_size):
            rows = order[start : start + self.expert.encode_batch_size]
            batch = {name: [column[i] for i in rows] for name, column in tokens.items()}
            yield rows, dict(self.processor.pad(batch, return_tensors="pt"))

    def exportable(self) -> Exportable:
        inputs = self.inputs(["two words", "and a text that has some more of them"])
        settings = {
            "tokenizer": self._tokenizer_as_made().to_str(),
            "max_length": self.options.max_length,
            "windows": self.most_windows,
            "highest": is_highest(self.classes),
            "offsets": self.window_offsets,
            "inputs": list(inputs),
            "padding": {"input_ids": self.processor.pad_token_id, "token_type_ids": self.processor.pad_token_type_id},
        }
        axes = dict.fromkeys(inputs, ("batch", "tokens"))
        module = Traced(self.classifier, list(inputs), self.head)
        return Exportable(module, inputs, axes, "tokens", settings, self.head)

    def augment(self, value: str, seed: Sequence[int]) -> str:
        """The text with words left out at random, its tags kept."""
        if not self.options.word_drop:
            return value
        rng = np.random.default_rng(seed)
        tag = tags_of(value)
        return " ".join(w for w in value.split() if tag.fullmatch(w) or rng.random() >= self.options.word_drop)

    def save(self, folder: Path) -> None:
        self._tokenizer_as_made()
        super().save(folder)

    def preprocessing(self) -> Any:
        reads = (self._tokenizer_as_made().to_str(), self.options.max_length)
        if self.most_windows == 1:
            return reads
        # Windows come along for another label's head only: of the first label alone the cache holds none.
        kept = ("windows kept",) if self._some_head_chooses and not is_highest(self.classes) else ()
        return (*reads, self.most_windows, OVERLAP, *kept)

    def _tokenizer_as_made(self) -> Tokenizer:
        """Without the settings that calls leave behind: a training taken up at its end has made none."""
        backend: Tokenizer = self.processor.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return backend


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer (Kudo 2018, arXiv:1804.10959) trained on these texts; the same texts give the same one.

    SentencePiece finds the pieces: the trainer of `tokenizers` orders and scores them anew at each call. Both look for
    pieces that several distinct words share, so that a frequent word is cut up; half of the vocabulary is therefore
    given to the commonest words, with the log of their share as score.

    Raises
    ------
    ModelError
        Where the texts have no words.
    """
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    clean = [backend.normalizer.normalize_str(text) for text in texts]
    if not any(text.strip() for text in clean):
        raise ModelError(f"model: tiny trains its tokenizer on the training texts, and all {len(clean)} are empty")
    pieces = _unigram_pieces(clean, vocabulary // 2)
    counts = Counter(word for text in clean for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    for word, n in counts.most_common(vocabulary - len(pieces)):
        if n > 1:
            pieces[word] = math.log(n / counts.total())
    backend.model = models.Unigram(list(pieces.items()), unk_id=list(pieces).index(SPECIAL["unk_token"]))
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    # Not `DebertaV2Tokenizer`, which would load it back with a normaliser of its own.
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


def _unigram_pieces(texts: Iterable[str], most: int) -> dict[str, float]:
    """Piece -> log-probability, special tokens first; at most ``most``, and every letter."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="unigram",
        vocab_size=most,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        max_sentence_length=2**20,
        num_threads=1,
        minloglevel=2,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        pad_piece=SPECIAL["pad_token"],
        unk_piece=SPECIAL["unk_token"],
        control_symbols=[token for token in SPECIAL.values() if token not in ("[PAD]", "[UNK]")],
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return {trained.id_to_piece(i): trained.get_score(i) for i in range(trained.get_piece_size())}
