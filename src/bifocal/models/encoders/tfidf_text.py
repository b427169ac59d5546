"""Reads texts without a pretrained model: TF-IDF of words and of letters under a linear head."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import PositiveInt
from safetensors.numpy import load_file, save_file
from torch import Tensor

from ... import plugins
from ...config import ExpertConfig
from ...modalities.text import tags_of
from ...workspace import fingerprint, read_json, write_json
from ..linear import LinearHead
from ..saved_encoder import LinearEncoder
from ..tabular import refuse_transformer_settings
from ..tfidf import TermOptions, Terms, from_heaviest, top_terms
from ..windows import Windows, one_window

if TYPE_CHECKING:
    from scipy.sparse import csr_array

WEIGHTS = "tfidf.safetensors"
VOCABULARY = "vocabulary.json"

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""scikit-learn's C; on rows of norm 1 the best one lies about 1 to 3, whatever the number of terms."""
FOLDS = 3
LEAST_STRENGTH = 0.03
"""Singular value of a component, as a share of the largest: a fusion standardises features, which makes of weaker ones,
that few texts have too many of, nothing but loud noise."""
LIGHT = 0.2
"""Share of the squared weights of a text up to which terms that are not read do not matter: of 1,500 reviews of dresses
none has more (69% have unread terms), of reviews joined by four 97% have."""
SAMPLE = 10_000
"""Training texts that the components are learned from, at most: more of them change little and cost time and memory."""


class Options(TermOptions):
    """Options under ``experts.text.options``."""

    components: PositiveInt = 256
    """Width of the features."""
    terms_kept: PositiveInt = 512
    """Terms of a text that the head reads, the heaviest ones; no more than the longest training text has. Where the
    others weigh more than `LIGHT`, a Decision says that the text is ``truncated``."""


class TfidfText(LinearEncoder):
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
    settings: ClassVar[type[Options]] = Options
    penalties, folds = PENALTIES, FOLDS

    def __init__(
        self, expert: ExpertConfig, classes: Sequence[Any], seed: int, terms: Terms, components: np.ndarray, width: int
    ):
        super().__init__(expert, classes, seed, len(terms))
        self.terms = terms
        self.components = components
        self.width = width
        self._whole: dict[str, bool] = {}

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
        _, strengths, directions = randomized_svd(sample, size, n_iter=5, random_state=seed)
        kept = directions[strengths >= LEAST_STRENGTH * strengths[0]]
        components = np.ascontiguousarray(kept.T)  # as scipy multiplies it, without a copy per call
        return cls(expert, classes, seed, terms, components, min(options.terms_kept, most))

    @classmethod
    def read(cls, folder: Path, card: Mapping[str, Any], expert: ExpertConfig) -> Self:
        weights = load_file(folder / WEIGHTS)
        # The options of its making, should a default have changed since.
        terms = Terms(read_json(folder / VOCABULARY), weights["idf"], Options(**card["options"]))
        encoder = cls(expert, card["classes"], card["seed"], terms, weights["components"], card["width"])
        weight, bias = (torch.from_numpy(weights[name]) for name in ("weight", "bias"))
        encoder.head = LinearHead(weight, bias, card["penalty"])
        return encoder

    def write(self, folder: Path) -> None:
        """Write ``vocabulary.json``, the terms in the order of the columns of ``tfidf.safetensors``.

        The latter holds ``idf [V]``, ``components [V, d]``, ``weight [C, V]`` and ``bias [C]``.
        """
        head = {"weight": self.head.weight.numpy(), "bias": self.head.bias.numpy()}
        write_json(folder / VOCABULARY, self.terms.vocabulary)
        save_file({"idf": self.terms.idf, "components": self.components, **head}, folder / WEIGHTS)

    @property
    def base_model(self) -> str:
        return "n-grams of the training texts"

    def card(self) -> dict[str, Any]:
        """As of every encoder, and the options of its terms."""
        return {**super().card(), "options": self.terms.options.model_dump(), "width": self.width}

    def check(self, value: str) -> None:
        """Every text can be read; one without a known term gets the head's prior."""

    def windows(self, value: str) -> Windows:
        """The text, whole where the known terms that the head does not read are light."""
        whole = self._whole  # of the batch that was encoded last, which a Decision asks about right after
        if value not in whole:
            whole = dict(zip([value], self._read_whole(self.terms(_words([value]))), strict=True))
        return one_window(value, whole=whole[value])

    def _read_whole(self, rows: csr_array) -> list[bool]:
        """Of each text, whether the terms of it that the head does not read are light."""
        whole = (np.diff(rows.indptr) <= self.width).tolist()
        for i in (i for i, is_short in enumerate(whole) if not is_short):
            weights = np.sort(np.square(rows.data[rows.indptr[i] : rows.indptr[i + 1]]))
            whole[i] = bool(weights[: -self.width].sum() <= LIGHT * weights.sum())
        return whole

    # Encode ---------------------------------------------------------------------------------------

    def widths(self) -> dict[str, int]:
        """Beside the features what the head reads: ``terms``, the numbers of a text's heaviest terms, and their
        ``weights``, both 0 where it has fewer."""
        return {"features": self.components.shape[1], "terms": self.width, "weights": self.width}

    def rows_at_once(self) -> int:
        return 1000

    def inputs(self, values: Sequence[str]) -> csr_array:
        rows = self.terms(_words(values))
        self._whole = dict(zip(values, self._read_whole(rows), strict=True))
        return rows

    def compute(self, inputs: csr_array) -> dict[str, Tensor]:
        found = (inputs @ self.components, *top_terms(inputs, self.width))
        return {name: torch.from_numpy(array) for name, array in zip(self.widths(), found, strict=True)}

    def head_rows(self, encoded: Mapping[str, Tensor]) -> Any:
        """The terms of every text, which say more than the components."""
        return from_heaviest(encoded["terms"].numpy(), encoded["weights"].numpy(), len(self.terms))

    # Identity -------------------------------------------------------------------------------------

    def fingerprint_below(self) -> str:
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
    return [tags_of(value).sub(" ", value) for value in values]
