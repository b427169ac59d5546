"""Reads texts with a transformers sequence classifier: mDeBERTa, MiniLM, or a tiny DeBERTa trained from scratch."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

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
from ..hf import HfTokenEncoder, Traced

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
    """Tokens of a text that are read; the rest is cut off."""
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

    def _tokens(self, values: Sequence[str]) -> dict[str, list[list[int]]]:
        return dict(self.processor(list(values), truncation=True, max_length=self.options.max_length))

    def whole(self, value: str) -> bool:
        """Whether a text has no more tokens than are read."""
        # Cut as `_tokens` cuts: truncation is a state of the tokenizer, which other threads use too.
        cut = self.processor(
            [value], truncation=True, max_length=self.options.max_length, return_overflowing_tokens=True
        )
        return len(cut["input_ids"]) == 1

    def inputs(self, values: Sequence[str]) -> dict[str, Tensor]:
        return dict(self.processor.pad(self._tokens(values), return_tensors="pt"))

    def batches(self, values: Sequence[str]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Texts of like length share a batch, so that little padding is computed."""
        if not len(values):
            return
        tokens = self._tokens(values)
        order = sorted(range(len(values)), key=lambda i: -len(tokens["input_ids"][i]))
        for start in range(0, len(order), self.expert.encode_batch_size):
            rows = order[start : start + self.expert.encode_batch_size]
            batch = {name: [column[i] for i in rows] for name, column in tokens.items()}
            yield rows, dict(self.processor.pad(batch, return_tensors="pt"))

    def exportable(self) -> Exportable:
        inputs = self.inputs(["two words", "and a text that has some more of them"])
        settings = {
            "tokenizer": self._tokenizer_as_made().to_str(),
            "max_length": self.options.max_length,
            "inputs": list(inputs),
            "padding": {"input_ids": self.processor.pad_token_id, "token_type_ids": self.processor.pad_token_type_id},
        }
        axes = dict.fromkeys(inputs, ("batch", "tokens"))
        return Exportable(Traced(self.classifier, list(inputs)), inputs, axes, "tokens", settings)

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
        return self._tokenizer_as_made().to_str(), self.options.max_length

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
