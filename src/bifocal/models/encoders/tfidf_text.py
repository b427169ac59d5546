"""Reads texts without a pretrained model: TF-IDF of words and of letters under a linear head."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import PositiveInt
from safetensors.numpy import load_file, save_file
from torch import Tensor

from ... import plugins
from ...config import ExpertConfig, Tune
from ...modalities.text import TAG
from ...workspace import fingerprint, read_json, write_json
from ..linear import LinearHead
from ..linear_expert import LinearExpert
from ..saved import check_seal, read_card, sealed
from ..tabular import refuse_transformer_settings
from ..tfidf import TermOptions, Terms, from_heaviest, heaviest

WEIGHTS = "tfidf.safetensors"
VOCABULARY = "vocabulary.json"
LEARNED = "learned_from.json"

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""scikit-learn's C; on rows of norm 1 the best one lies about 1 to 3, whatever the number of terms."""
FOLDS = 3
SAMPLE = 10_000
"""Training texts that the components are learned from, at most: more of them change little and cost time and memory."""
TEXTS_AT_ONCE = 1000


class Options(TermOptions):
    """Options under ``experts.text.options``."""

    components: PositiveInt = 256
    """Width of the features."""
    terms_kept: PositiveInt = 512
    """Terms of a text that the head reads, the heaviest ones; no more than the longest training text has."""


class TfidfText(LinearExpert):
    """A text expert made of the training texts alone.

    The head reads the terms of a text (Wang & Manning 2012, aclanthology.org/P12-2018, on how hard that is to beat);
    ``features`` for a fusion are its projection on the leading singular vectors of the training texts (latent semantic
    analysis, Deerwester et al. 1990). Of ``experts.text`` only ``options`` matter here.

    Parameters
    ----------
    terms : Terms
    components : np.ndarray, [V, d]
        Right singular vectors of the training texts' TF-IDF, one per column.
    width : int
        L: terms of a text that the head reads.
    """

    plugin: ClassVar[str] = "tfidf_text"
    modality: ClassVar[str] = "text"
    tunes: ClassVar[tuple[Tune, ...]] = ("head",)
    settings: ClassVar[type[Options]] = Options
    penalties, folds = PENALTIES, FOLDS

    def __init__(
        self, expert: ExpertConfig, classes: Sequence[Any], seed: int, terms: Terms, components: np.ndarray, width: int
    ):
        self.expert = expert
        self.classes = list(classes)
        self.seed = seed
        self.terms = terms
        self.components = components
        self.width = width
        self.columns = None
        self.begin(len(terms))

    # Create, save, load ---------------------------------------------------------------------------

    @classmethod
    def reach(cls, expert: ExpertConfig) -> None:
        """It starts from nothing. Raises `ConfigError` on a setting that is for pretrained encoders."""
        refuse_transformer_settings(expert, Options.model_fields, cls.modality)

    @classmethod
    def create(cls, expert: ExpertConfig, classes: Sequence[Any], seed: int, values: Sequence[str]) -> Self:
        """A new expert: vocabulary, inverse document frequencies and components of the training texts, no labels.

        Raises
        ------
        ModelError
            Where the texts hold no terms.
        ConfigError
            On an unknown option.
        """
        from sklearn.utils.extmath import randomized_svd

        options = plugins.options("encoder", cls.plugin, expert.options, Options)
        texts = _words(values)
        terms = Terms.of(texts, options)
        spread = np.linspace(0, len(texts) - 1, min(SAMPLE, len(texts))).astype(int)
        sample = terms([texts[i] for i in spread])
        most = max(1, int(np.diff(sample.indptr).max()))
        size = min(options.components, *sample.shape)
        _, _, directions = randomized_svd(sample, size, n_iter=5, random_state=seed)
        components = np.ascontiguousarray(directions.T)  # as scipy multiplies it, without a copy per call
        return cls(expert, classes, seed, terms, components, min(options.terms_kept, most))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises
        ------
        ModelError
            Where the folder is missing, was not written by `save`, or a file in it is missing or altered.
        """
        card = read_card(folder)
        check_seal(folder, card)
        weights = load_file(folder / WEIGHTS)
        # The options of its making, should a default have changed since.
        terms = Terms(read_json(folder / VOCABULARY), weights["idf"], Options(**card["options"]))
        expert, components = ExpertConfig(**card["expert"]), weights["components"]
        encoder = cls(expert, card["classes"], card["seed"], terms, components, card["width"])
        weight, bias = (torch.from_numpy(weights[name]) for name in ("weight", "bias"))
        encoder.head, encoder.penalty = LinearHead(weight, bias, card["penalty"]), card["penalty"]
        encoder.learned_from = frozenset(read_json(folder / LEARNED))
        return encoder

    def save(self, folder: Path) -> None:
        """Write the expert, whole or not at all; it is loaded through Bifocal.

        ``vocabulary.json`` holds the terms in the order of the columns of ``tfidf.safetensors`` (``idf [V]``,
        ``components [V, d]``, ``weight [C, V]``, ``bias [C]``), ``bifocal.json`` is `card` with the SHA-256 of every
        other file, ``learned_from.json`` the ids.
        """
        head = {"weight": self.head.weight.numpy(), "bias": self.head.bias.numpy()}
        with sealed(folder, self.card()) as part:
            write_json(part / VOCABULARY, self.terms.vocabulary)
            save_file({"idf": self.terms.idf, "components": self.components, **head}, part / WEIGHTS)
            write_json(part / LEARNED, sorted(self.learned_from))

    def card(self) -> dict[str, Any]:
        """What this expert is, for ``bifocal.json`` and the model card."""
        return {
            "encoder": self.plugin,
            "base_model": "n-grams of the training texts",
            "classes": self.classes,
            "seed": self.seed,
            "parameters": self.parameters(),
            "penalty": self.penalty,
            "options": self.terms.options.model_dump(),
            "width": self.width,
            "expert": self.expert.model_dump(mode="json"),
        }

    def check(self, value: str) -> None:
        """Every text can be read; one without a known term gets the head's prior."""

    # Encode ---------------------------------------------------------------------------------------

    def encode(self, values: Sequence[str], progress: Callable[[int], None] | None = None) -> dict[str, Tensor]:
        """One pass over every value.

        Parameters
        ----------
        values : sequence of str
            Composed texts; each is read once.
        progress : callable, optional
            Called with the number of examples done.

        Returns
        -------
        dict of Tensor
            ``features [n, d]``, ``logits [n, C]``, and what the head reads: ``terms [n, L]``, the numbers of a text's
            heaviest terms, and their ``weights [n, L]``, both 0 where it has fewer; float32, on the CPU, in the order
            given.
        """
        widths = {"features": self.components.shape[1], "terms": self.width, "weights": self.width}
        encoded = {name: torch.zeros(len(values), width) for name, width in widths.items()}
        for start in range(0, len(values), TEXTS_AT_ONCE):
            end = min(start + TEXTS_AT_ONCE, len(values))
            rows = self.terms(_words(values[i] for i in range(start, end)))
            found = (rows @ self.components, *heaviest(rows, self.width))
            for tensor, array in zip(encoded.values(), found, strict=True):
                tensor[start:end] = torch.from_numpy(array)
            self.examples_encoded += end - start
            if progress:
                progress(end)
        return {**encoded, "logits": self.head_logits(encoded)}

    def head_rows(self, encoded: Mapping[str, Tensor]) -> Any:
        """The terms of every text, which say more than the components."""
        return from_heaviest(encoded["terms"].numpy(), encoded["weights"].numpy(), len(self.terms))

    # Identity -------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """Hash of terms, their weights, the components and all options."""
        digest = hashlib.sha256(np.ascontiguousarray(self.terms.idf).data)
        digest.update(self.components.data)
        return fingerprint(digest.hexdigest(), self.terms.vocabulary, self.terms.options.model_dump(), self.width)

    def parameters(self) -> dict[str, int]:
        """Numbers in all, and those of the head, which alone learn from labels."""
        head = self.head.weight.numel() + self.head.bias.numel()
        return {"total": head + self.terms.idf.size + self.components.size, "trained": head}

    @classmethod
    def cost(cls, expert: ExpertConfig, classes: int) -> dict[str, float]:
        """What a model costs at most: as if the training texts filled the vocabulary and a text all terms kept.

        Returns
        -------
        dict
            ``total`` and ``trained`` weights, and ``flops_per_example`` of head and features (a multiplication and an
            addition are two; counting n-grams is none).
        """
        options = plugins.options("encoder", cls.plugin, expert.options, Options)
        terms = 2 * options.max_terms
        head = classes * (terms + 1)
        return {
            "total": head + terms * (1 + options.components),
            "trained": head,
            "flops_per_example": 2 * options.terms_kept * (classes + options.components),
        }


def _words(values: Any) -> list[str]:
    """Texts without the tags of `bifocal.modalities.text.compose`."""
    return [TAG.sub(" ", value) for value in values]
