"""The deployable bundle of a run: load it, and turn posts into Decisions with one pass of each encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from . import plugins
from .config import RunConfig, parse_config
from .data.compose import TEXT, composed
from .data.manifest import is_empty
from .data.ocr import PICTURE, wanted
from .decide.policy import Policy, pattern_of
from .errors import BifocalError, DataError, PictureError, RunError
from .example import UNLABELLED, Evidence, Example, Label, Taxonomy
from .modalities.text import NO_LANGUAGE
from .models.saved import CARD
from .workspace import Workspace, file_sha256, read_json

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from .contracts import Encoder, Fusion, Modality, TextRole
    from .data.ocr import Reader
    from .explanation import Explanation

TABULAR = "tabular"
"""The part that is a record of columns."""
ARGUMENTS = {TEXT: "text", PICTURE: "image_path", TABULAR: "tabular"}
"""Modality -> what `System.predict` calls it."""
MAX_PICTURE_BYTES = 50 * 2**20
"""Pictures larger than this on disk are refused before they are read."""


def build_modalities(config: RunConfig) -> dict[str, Modality]:
    """The modalities of a run, by name, configured."""
    return {name: plugins.load("modalities", name).from_config(config) for name in config.modalities}


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one model makes of a post: calibrated probability (of its label, where multiclass) and label."""

    probability: float
    label: int | str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer for one post.

    Attributes
    ----------
    probability : float
        Calibrated; of the positive class (binary) or of ``label`` (multiclass).
    label : int or str
        0 or 1 by the threshold (binary), or the name of the likeliest class.
    threshold : float or None
        None = the likeliest class wins.
    action : str or None
        ``allow`` or ``block``, following the label, or ``review`` inside the policy's band. Multiclass labels name no
        action: ``review`` where the policy has prediction sets and the label does not stand alone in its own, or None.
    why : str
        The rule that decided, with its numbers.
    candidates : tuple or None
        Of a multiclass label, the classes that cannot be ruled out (`ReviewConfig.alpha`); None without such sets.
    models : dict
        Model name -> `Opinion` of every model that could read a part of the post.
    present : dict
        Modality -> whether the post brought it.
    text_used : str
        The composed text that the text expert read (with the OCR text where only a picture came).
    """

    probability: float
    label: int | str
    threshold: float | None
    action: str | None
    why: str
    models: dict[str, Opinion]
    present: dict[str, bool]
    text_used: str
    language: str
    versions: dict[str, str]
    probability_key: str = "prob"
    candidates: tuple[int | str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the probability stands under the key that the taxonomy gives the label (``prob_hate``)."""
        key = self.probability_key
        return {
            key: self.probability,
            "label": self.label,
            "threshold": self.threshold,
            "action": self.action,
            "why": self.why,
            **({} if self.candidates is None else {"candidates": list(self.candidates)}),
            "models": {m: {key: o.probability, "label": o.label} for m, o in self.models.items()},
            "present": self.present,
            "text_used": self.text_used,
            "language": self.language,
            "versions": self.versions,
        }


class System:
    """Experts, fusion and policy of one run, ready to decide.

    Examples
    --------
    >>> import bifocal
    >>> system = bifocal.load("runs/demo")                                      # doctest: +SKIP
    >>> system.predict(text="a caption", image_path="meme.png").to_dict()      # doctest: +SKIP
    """

    def __init__(
        self,
        config: RunConfig,
        modalities: Mapping[str, Modality],
        experts: Mapping[str, Encoder],
        fusion: Fusion | None,
        fusion_name: str,
        policy: Policy,
        label: Label,
        text_role: TextRole,
    ):
        self.config = config
        self.modalities = dict(modalities)
        self.experts = dict(experts)
        self.fusion = fusion
        self.policy = policy
        self.label = label
        self.text_role = text_role
        self.main = fusion_name if fusion else next(iter(self.modalities.values())).expert_name
        """The model whose word counts: the fusion, or the only expert."""
        self.policy_version = policy.version

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load what a run left in its folder.

        Raises
        ------
        RunError
            Where the folder is missing, its run has not reached its policy, or the policy there is of other models.
        ModelError
            Where a model is damaged.
        """
        space = Workspace.of(folder)
        record = read_json(space.record)
        if "calibrate" not in record.get("steps", {}):
            raise RunError(
                f"the run in {folder} is not finished, or was changed since its policy was fitted: "
                "let `bifocal run CONFIG` end"
            )
        # After the checks above, so that a wrong folder is an error at once and not after seconds of imports.
        from .expert import load_expert
        from .fusion import MODEL, load_fusion

        config = parse_config(record["config"], where=str(space.record))
        modalities = build_modalities(config)
        experts = {name: load_expert(space.expert(m.expert_name)) for name, m in modalities.items()}
        return cls(
            config,
            modalities,
            experts,
            load_fusion(space.fusion) if len(modalities) > 1 else None,
            MODEL,
            load_policy(space, config),
            Taxonomy.from_json(read_json(space.taxonomy))[config.label],
            record["text_role"],
        )

    @cached_property
    def _reader(self) -> Reader:
        from .data.ocr import Reader

        return Reader()

    @property
    def reads(self) -> frozenset[str]:
        """The parts that a post may bring: the run's modalities, and a picture where its words are read (``ocr``)."""
        words = TEXT in self.modalities and self.config.ocr.when != "never"
        return frozenset(self.modalities) | ({PICTURE} if words else set())

    @property
    def columns(self) -> frozenset[str]:
        """The columns of a record that the experts read."""
        return frozenset(column for expert in self.experts.values() for column in expert.columns or ())

    def predict(
        self,
        text: str | None = None,
        image_path: str | Path | None = None,
        tabular: Mapping[str, Any] | None = None,
    ) -> Decision:
        """Decide on one post.

        Parameters
        ----------
        text : str, optional
            Taken as the run's texts were (``text_role``): a transcript of the picture, or the post's own words.
            Without a transcript the picture is read by OCR, as the run did (``ocr``).
        image_path : str or Path, optional
        tabular : mapping, optional
            Column -> value of the post's record; a column that is left out counts as missing.

        Any part may be missing, not all.

        Raises
        ------
        DataError
            Where all are missing, a part cannot be used or is none that the run reads, or a column is unknown.
        """
        return self._decide([self._parts(text, image_path, tabular)])[0]

    def explain(
        self,
        text: str | None = None,
        image_path: str | Path | None = None,
        tabular: Mapping[str, Any] | None = None,
        *,
        grid: int = 7,
    ) -> Explanation:
        """Decide on one post and say what made the decision: parts, words, regions of the picture, columns.

        Parameters
        ----------
        text, image_path, tabular
            As `predict` takes them.
        grid : int
            Regions along each side of the picture, 2 to 16, each overlapping its neighbours by half; each takes an
            encoder pass.

        Raises
        ------
        DataError
            As `predict`, and on another grid.
        """
        from .explanation import explain

        return explain(self, *self._parts(text, image_path, tabular), grid)

    def predict_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Decision | BifocalError]:
        """Decide on many posts with one batched pass of each encoder.

        Parameters
        ----------
        rows : sequence of dict
            Each with ``text``, ``image_path`` and/or ``tabular``, as `predict` takes them.

        Returns
        -------
        list
            In the order of the rows; a row that cannot be used yields its `BifocalError` and harms no other.
        """
        results: list[Decision | BifocalError | None] = [None] * len(rows)
        usable: list[tuple[int, Example, dict[str, Any]]] = []
        for i, row in enumerate(rows):
            try:
                unknown = set(row) - {"text", "image_path", "tabular", "id"}
                if unknown:
                    found = ", ".join(sorted(unknown))
                    raise DataError(f"a row takes text, image_path and tabular, found also {found}")
                usable.append((i, *self._parts(row.get("text"), row.get("image_path"), row.get("tabular"))))
            except BifocalError as error:
                results[i] = error
        for (i, *_), decision in zip(usable, self._decide([u[1:] for u in usable]) if usable else [], strict=True):
            results[i] = decision
        return [r for r in results if r is not None]

    def _parts(
        self, text: str | None, image_path: str | Path | None, tabular: Mapping[str, Any] | None
    ) -> tuple[Example, dict[str, Any]]:
        """One post as a composed Example and its canonical values, by the very functions that packing uses."""
        if text is None and image_path is None and tabular is None:
            needed = " or ".join(ARGUMENTS[name] for name in self.modalities)
            raise DataError(f"a post needs {needed}; none was given")
        for name, given in ((TEXT, text), (PICTURE, image_path), (TABULAR, tabular)):
            if name not in self.reads and given is not None and not is_empty(given):
                raise DataError(f"this run reads {', '.join(self.modalities)}; leave {ARGUMENTS[name]} out")
        raw: dict[str, Any] = {}
        if tabular is not None and not is_empty(tabular):  # an empty record is an absent one
            raw[TABULAR] = dict(tabular) if isinstance(tabular, Mapping) else tabular
        if text is not None:
            raw[TEXT] = text
        if image_path is not None:
            raw[PICTURE] = read_file(image_path)
        try:
            values = {name: self._value(name, raw[name]) for name in raw.keys() & self.modalities.keys()}
            read = None
            if PICTURE in raw and TEXT in self.modalities and wanted(self.config.ocr.when, text, self.text_role):
                read = self._reader.read_file(raw[PICTURE]).text
        except PictureError as error:
            raise PictureError(f"{image_path}: {error}") from error
        example = composed(Example("", raw, {}), self.text_role, read)
        values = {name: value for name, value in values.items() if name in example.parts}
        if TEXT in example.parts and TEXT in self.modalities:
            values[TEXT] = self.modalities[TEXT].read(example.parts[TEXT])
        if not values:
            raise DataError(f"this run reads {', '.join(self.modalities)}, and the post has none of it (or no words)")
        return example, values

    def _value(self, name: str, raw: Any) -> Any:
        """The canonical value of one part."""
        modality = self.modalities[name]
        if not modality.by_reference:
            modality.facts(raw)  # the manifest's limits hold here; reading a file checks its own
        value = modality.read(raw)
        if not modality.lossless:  # the experts learned from what came back from a shard
            value = modality.unpack(modality.pack(value))
        self.experts[name].check(value)
        return value

    def decisions(
        self, posts: Sequence[tuple[Example, Mapping[str, Any]]], evidence: Mapping[str, Evidence]
    ) -> list[Decision]:
        """What follows from the Evidence of composed posts, a Decision each; no encoder runs."""
        logits = {self.modalities[name].expert_name: e.logits for name, e in evidence.items()}
        if self.fusion is not None:
            logits[self.main] = self.fusion(evidence)
        return [
            self._decision(example, set(values), {model: rows[i] for model, rows in logits.items()})
            for i, (example, values) in enumerate(posts)
        ]

    def _decide(self, posts: Sequence[tuple[Example, dict[str, Any]]]) -> list[Decision]:
        return self.decisions(posts, self.evidence([values for _, values in posts]))

    def evidence(self, posts: Sequence[Mapping[str, Any]]) -> dict[str, Evidence]:
        """Run each encoder once over the parts that are there; modality -> Evidence of all rows."""
        import torch

        n = len(posts)
        blank = torch.zeros(n, dtype=torch.bool)
        result = {}
        for name, encoder in self.experts.items():
            rows = [i for i, values in enumerate(posts) if name in values]
            encoded = encoder.encode([posts[i][name] for i in rows])
            full = {}
            for key in ("features", "logits"):
                full[key] = torch.zeros(n, encoded[key].shape[1])
                full[key][rows] = encoded[key]
            present = blank.clone()
            present[rows] = True
            labels = torch.full((n,), UNLABELLED)
            result[name] = Evidence(("",) * n, ("",) * n, full["features"], full["logits"], present, labels, blank)
        return result

    def _decision(self, example: Example, present: set[str], logits: Mapping[str, Tensor]) -> Decision:
        pattern = pattern_of(present)
        opinions = {}
        for name, modality in self.modalities.items():
            if name in present:
                opinions[modality.expert_name] = self._opinion(*self._said(modality.expert_name, logits, name))
        p, index = self._said(self.main, logits, pattern)
        main = opinions[self.main] = self._opinion(p, index)
        language = example.meta.get("language", NO_LANGUAGE)
        action = str(self.policy.actions(self.main, p, np.array([index]), pattern, [language])[0]) or None
        sets = self.policy.candidates(self.main, p, pattern)
        threshold = self.policy.threshold(self.main, pattern, index)
        return Decision(
            probability=main.probability,
            label=main.label,
            threshold=threshold,
            action=action,
            why=self._why(main, threshold, pattern, action),
            models=opinions,
            present={name: name in present for name in self.modalities},
            text_used=example.parts.get(TEXT, ""),
            language=language,
            versions={**self.policy.versions, "policy": self.policy_version},
            probability_key=self.label.probability,
            candidates=None if sets is None else tuple(self.label.classes[c] for c in sets[0].nonzero()[0]),
        )

    def _said(self, model: str, logits: Mapping[str, Tensor], pattern: str) -> tuple[NDArray[np.float64], int]:
        """Calibrated probabilities ``[1, C]`` of one post, and the class that they make it."""
        probabilities = self.policy.probabilities(model, logits[model][None].numpy(), pattern)
        return probabilities, int(self.policy.predictions(model, probabilities, pattern)[0])

    def _opinion(self, probabilities: NDArray[np.float64], index: int) -> Opinion:
        shown = 1 if self.label.binary else index
        return Opinion(float(probabilities[0, shown]), self.label.classes[index])

    def _why(self, main: Opinion, threshold: float | None, pattern: str, action: str | None) -> str:
        if not self.label.binary:
            rule = "likeliest" if threshold is None else f"furthest above its threshold {threshold:.2f}"
            doubt = ", and cannot rule others out" if action == "review" else ""
            return f"{self.main} finds {main.label!r} {rule} ({main.probability:.3f}) from {pattern}{doubt}"
        assert threshold is not None  # of two classes
        sign = ">=" if main.probability >= threshold else "<"
        band = ", inside the review band" if action == "review" else ""
        return f"{self.main} gives {main.probability:.3f} {sign} threshold {threshold:.2f} from {pattern}{band}"


def model_versions(space: Workspace, experts: Sequence[str]) -> dict[str, str]:
    """A short hash of each model's weights, so that a Decision says exactly what made it; several experts are fused."""
    cards = {expert: space.expert(expert) / CARD for expert in experts}
    if len(experts) > 1:
        cards[space.fusion.name] = space.fusion / "config.json"
    return {model: file_sha256(card)[:16] for model, card in cards.items()}  # a card holds its files' hashes


def load_policy(space: Workspace, config: RunConfig) -> Policy:
    """The policy in a run's folder. Raises `RunError` as `Policy.load`, and where it was fitted to other models."""
    policy = Policy.load(space.policy)
    experts = [modality.expert_name for modality in build_modalities(config).values()]
    for name, version in {"run": config.run, **model_versions(space, experts)}.items():
        if (fitted := policy.versions.get(name, "none")) != version:
            raise RunError(
                f"{space.policy} is for {name} {fitted}, here is {name} {version}: it is of another run or of other "
                "models; put this run's own back, or let `bifocal run CONFIG --from calibrate` fit it again"
            )
    return policy


def read_file(path: str | Path) -> bytes:
    """A picture's bytes. Raises `DataError` where it is missing, no plain file, or larger than the cap."""
    if not isinstance(path, str | Path):
        raise DataError(f"image_path must be a path, found {type(path).__name__}")
    path = Path(path)
    try:
        if not path.is_file():
            raise DataError(f"there is no picture file {str(path)!r}")
        size = path.stat().st_size
        if size > MAX_PICTURE_BYTES:
            raise DataError(
                f"{path} is {size / 2**20:.0f} MiB; pictures up to {MAX_PICTURE_BYTES // 2**20} MiB are read"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, no permission
        raise DataError(f"the picture {str(path)[:100]!r} cannot be read: {error.__class__.__name__}") from None
