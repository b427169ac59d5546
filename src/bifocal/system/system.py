"""The deployable bundle of a run: load it, and turn posts into Decisions with one pass of each encoder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .. import plugins
from ..config import RunConfig, recorded_config
from ..data.compose import UNREAD
from ..decide.policy import Policy, pattern_of
from ..errors import BifocalError, DataError, PictureError, RunError, nearest
from ..example import Evidence, Example, Label, Taxonomy
from ..modalities import TEXT, arguments, build_modalities
from ..modalities.text import NO_LANGUAGE
from ..models.saved import CARD
from ..workspace import RECORD, Workspace, file_sha256, read_json
from .bundle import CARD as BUNDLE_CARD
from .bundle import folder_of, is_bundle, load_bundle
from .decision import Decision, LabelDecision, Opinion, for_truncated, severity, strictest
from .engine import logits_by_label
from .preprocessing import Post, Preprocessor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..contracts import TextRole
    from .engine import Engine
    from .explain import Explanation


class System:
    """Engine and policy of one run, ready to decide.

    Examples
    --------
    >>> import bifocal
    >>> system = bifocal.load("runs/demo")                                      # doctest: +SKIP
    >>> system.predict(text="a caption", image_path="meme.png").to_dict()      # doctest: +SKIP
    """

    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        policy: Policy,
        label: Label,
        text_role: TextRole,
        further: Mapping[str, Label] | None = None,
    ):
        self.config = config
        self.engine = engine
        self.policy = policy
        self.label = label
        self.labels = {config.label: label, **(further or {})}
        self.preprocessor = Preprocessor(config, text_role)
        self.modalities = self.preprocessor.modalities
        self.policy_version = policy.version
        self.loader: Callable[[], System] | None = None
        """Loads the same again, in another process; None of one that was put together by hand."""

    @classmethod
    def load(
        cls,
        folder: str | Path,
        engine: str | None = None,
        *,
        strict_parity: bool = False,
        allow_plugins: Collection[str] = (),
    ) -> Self:
        """Load what a run left in its folder, or what was exported of one.

        Parameters
        ----------
        folder : str or Path
            Of a run, or of a bundle.
        engine : str, optional
            ``torch``, or one that the run was exported for; None = as the folder has it.
        strict_parity : bool
            Refuse a bundle that decides otherwise here than where it was exported, instead of warning.
        allow_plugins : collection of str
            Modules from outside, such as ``package.module``, that the folder's files may name and that are imported
            then. What a folder names is code of whoever made it: without this, none of it runs.

        Raises
        ------
        RunError
            Where the folder is missing, its run has not reached its policy, the policy there is of other models, or the
            run was not exported for that engine.
        ModelError
            Where a model is damaged; where a bundle decides otherwise here and ``strict_parity``.
        PluginRefused
            Where the folder names an outside plug-in that is not allowed.
        """
        folder = folder_of(Path(folder), engine)
        system = cls._loaded(folder, engine, strict_parity, allow_plugins)
        # What the name leads to now: a link may be swung while others load it.
        again = partial(cls.load, folder.resolve(), engine)
        system.loader = partial(again, strict_parity=strict_parity, allow_plugins=tuple(allow_plugins))
        return system

    @classmethod
    def _loaded(cls, folder: Path, engine: str | None, strict_parity: bool, allow_plugins: Collection[str]) -> Self:
        with plugins.installed_first(folder):
            if is_bundle(folder):
                with plugins.restrict(folder / BUNDLE_CARD, allow_plugins):
                    bundle = load_bundle(folder, engine, strict_parity=strict_parity)
                    return cls(
                        bundle.config, bundle.engine, bundle.policy, bundle.label, bundle.text_role, bundle.further
                    )
            with plugins.restrict(folder / RECORD, allow_plugins):
                return cls._of_run(folder)

    @classmethod
    def _of_run(cls, folder: Path) -> Self:
        space = Workspace.of(folder)
        record = read_json(space.record)
        if "calibrate" not in record.get("steps", {}):
            raise RunError(
                f"the run in {folder} is not finished, or was changed since its policy was fitted: "
                "let `bifocal run CONFIG` end"
            )
        # After the checks above, so that a wrong folder is an error at once and not after seconds of imports.
        from .torch_engine import TorchEngine

        config = recorded_config(record["config"], where=str(space.record))
        taxonomy, further = Taxonomy.from_json(read_json(space.taxonomy)), config.label_names[1:]
        trained = TorchEngine.load(space, build_modalities(config), further=further)
        policy, others = load_policy(space, config), {name: taxonomy[name] for name in further}
        if missing := [name for name in config.label_names if name not in policy.label_names]:
            raise RunError(
                f"{space.policy} says nothing of {', '.join(missing)}, which the run answers: put this run's own back, "
                "or let `bifocal run CONFIG --from calibrate` fit it again"
            )
        return cls(config, trained, policy, taxonomy[config.label], record["text_role"], others)

    @property
    def main(self) -> str:
        """The model whose word counts: the fusion, or the only expert."""
        return self.engine.main

    @property
    def text_role(self) -> TextRole:
        """Whether a post's text is a transcript of its picture or the post's own words."""
        return self.preprocessor.text_role

    @property
    def reads(self) -> frozenset[str]:
        """The parts that a post may bring: the run's modalities, and a picture where its words are read (``ocr``)."""
        return self.preprocessor.reads

    @property
    def forms(self) -> Mapping[str, str]:
        """How each part is given: ``words``, ``file`` or ``record``."""
        return {name: one.form for name, one in self.preprocessor.inputs.items()}

    @property
    def source_options(self) -> Mapping[str, Any]:
        """Of the run's source, whose columns a table of posts may have."""
        return self.config.source.options

    @property
    def reads_words(self) -> bool:
        """Whether words on pictures are read, where no transcript of them comes."""
        return any(used.reads for used in self.preprocessor.transcribers)

    @property
    def identity(self) -> dict[str, Any]:
        """The policy, which names its models: another wherever decisions may be others."""
        return self.policy.model_dump(mode="json")

    @property
    def binary(self) -> bool:
        """Whether labels are 0 and 1."""
        return self.label.binary

    @property
    def columns(self) -> frozenset[str]:
        """The columns of a record that the experts read."""
        return self.engine.columns

    def predict(
        self,
        text: str | None = None,
        image_path: str | Path | None = None,
        tabular: Mapping[str, Any] | None = None,
        *,
        parts: Mapping[str, Any] | None = None,
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
        parts : mapping, optional
            Any other part by its name: words, a record, or the path of a file.

        Any part may be missing, not all.

        Raises
        ------
        DataError
            Where all are missing, a part cannot be used or is none that the run reads, or a column is unknown.
        """
        row = {"text": text, "image_path": image_path, "tabular": tabular, "parts": parts}
        return self.decide([self._post(row)])[0]

    def explain(
        self,
        text: str | None = None,
        image_path: str | Path | None = None,
        tabular: Mapping[str, Any] | None = None,
        *,
        parts: Mapping[str, Any] | None = None,
        grid: int = 7,
        label: str | None = None,
    ) -> Explanation:
        """Decide on one post and say what made the decision: parts, words, regions of the picture, columns.

        Parameters
        ----------
        text, image_path, tabular, parts
            As `predict` takes them.
        grid : int
            Regions along each side of the picture, 2 to 16, each overlapping its neighbours by half; each takes an
            encoder pass.
        label : str, optional
            Of several labels the one whose answer is explained; None = the first.

        Raises
        ------
        DataError
            As `predict`, on another grid, where there is no such label, and where it is not asked of the post.
        """
        from .explain import explain

        row = {"text": text, "image_path": image_path, "tabular": tabular, "parts": parts}
        return explain(self, self._post(row), grid, label)

    def predict_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Decision | BifocalError]:
        """Decide on many posts with one batched pass of each encoder.

        Parameters
        ----------
        rows : sequence of dict
            Each with ``text``, ``image_path``, ``tabular`` and/or ``parts``, as `predict` takes them.

        Returns
        -------
        list
            In the order of the rows; a row that cannot be used yields its `BifocalError` and harms no other.
        """
        results: list[Decision | BifocalError | None] = [None] * len(rows)
        usable: list[tuple[int, Post]] = []
        for i, row in enumerate(rows):
            try:
                if unknown := set(row) - {*arguments(), "id"}:
                    found = ", ".join(sorted(unknown))
                    raise DataError(f"a row takes {', '.join(arguments())}, found also {found}")
                usable.append((i, self._post(row)))
            except BifocalError as error:
                results[i] = error
        for (i, _), decision in zip(usable, self.decide([post for _, post in usable]), strict=True):
            results[i] = decision
        return [r for r in results if r is not None]

    def _post(self, row: Mapping[str, Any]) -> Post:
        try:
            post = self.preprocessor.post(self.preprocessor.open_files(row))
        except PictureError as error:
            raise PictureError(f"{row.get('image_path')}: {error}") from error
        self.check(post)
        return post

    def check(self, post: Post) -> None:
        """Refuse what no training can have meant (a column of an unknown name). Raises `DataError`."""
        for name, value in post.views[0].items():
            self.engine.check(name, value)

    def decide(self, posts: Sequence[Post]) -> list[Decision]:
        """Decide on posts that are prepared and checked, with one batched pass of each encoder."""
        if not posts:
            return []
        views = [(post.example, view) for post in posts for view in post.views]
        found = iter(self._answers(views, self.engine.evidence([view for _, view in views])))
        decided = []
        for post in posts:
            of_views = [next(found) for _ in post.views]
            worst = {label: max((of[label] for of, _ in of_views), key=severity) for label in self.labels}
            whole = all(whole for _, whole in of_views)
            decided.append(self._decision(post.example, post.views[0], worst, truncated=not whole))
        return decided

    def deciding_view(self, post: Post, label: str | None = None) -> dict[str, Any]:
        """The view that is worst by a label (None = the first), whose answer is the post's."""
        if len(post.views) == 1:
            return post.views[0]
        name = self.policy.label if label is None else label
        found = self._answers([(post.example, view) for view in post.views], self.engine.evidence(post.views))
        return post.views[max(range(len(found)), key=lambda i: severity(found[i][0][name]))]

    def decisions(
        self, posts: Sequence[tuple[Example, Mapping[str, Any]]], evidence: Mapping[str, Evidence]
    ) -> list[Decision]:
        """What follows from the Evidence of composed posts, a Decision each; no encoder runs."""
        found = self._answers(posts, evidence)
        return [
            self._decision(example, values, answers, truncated=not whole)
            for (example, values), (answers, whole) in zip(posts, found, strict=True)
        ]

    def _answers(
        self, posts: Sequence[tuple[Example, Mapping[str, Any]]], evidence: Mapping[str, Evidence]
    ) -> list[tuple[dict[str, LabelDecision], bool]]:
        """Of each post the answer by every label, were it asked, and whether all of its words were read."""
        logits, answered = logits_by_label(self.engine, evidence, self.labels), []
        for i, (example, values) in enumerate(posts):
            windows = [self.engine.windows(name, value) for name, value in values.items()]
            whole = "cut" not in example.meta and all(found is None or found.whole for found in windows)
            answers = {
                label: self._answer(label, example, list(values), {m: rows[i] for m, rows in of.items()})
                for label, of in logits.items()
            }
            if not whole:
                rules = {label: self.policy.of_label(label).truncation for label in answers}
                answers = {label: for_truncated(answer, rules[label]) for label, answer in answers.items()}
            answered.append((answers, whole))
        return answered

    def _decision(
        self,
        example: Example,
        values: Mapping[str, Any],
        answers: Mapping[str, LabelDecision],
        *,
        truncated: bool,
    ) -> Decision:
        first = answers[self.policy.label]
        asked = self._asked(answers)
        action, why = strictest(asked)
        return Decision(
            probability=first.probability,
            label=first.label,
            threshold=first.threshold,
            action=action,
            why=first.why if len(answers) == 1 else why,
            models=dict(first.models),
            present={name: name in values for name in self.modalities},
            text_used=example.parts.get(TEXT, ""),
            language=example.meta.get("language", NO_LANGUAGE),
            versions={**self.policy.versions, "policy": self.policy_version},
            probability_key=self.label.probability,
            candidates=first.candidates,
            truncated=truncated,
            unread=bool(example.meta.get(UNREAD)),
            labels={label: asked.get(label) for label in answers} if len(answers) > 1 else {},
        )

    def _asked(self, answers: Mapping[str, LabelDecision]) -> dict[str, LabelDecision]:
        """The answers by labels that require none, or one that is flagged and asked itself, which stands before."""
        asked: dict[str, LabelDecision] = {}
        for label, answer in answers.items():
            parent = self.policy.of_label(label).requires
            if parent is None or (parent in asked and asked[parent].label == 1):
                asked[label] = answer
        return asked

    def _answer(
        self, label: str, example: Example, present: Sequence[str], logits: Mapping[str, NDArray[np.float32]]
    ) -> LabelDecision:
        policy, meaning, pattern = self.policy.of_label(label), self.labels[label], pattern_of(present)
        experts = {one.expert_name: name for name, one in self.modalities.items() if name in present}
        asked = {**experts, self.main: pattern}  # an expert that decides alone is asked once
        found = {model: _calibrated(policy, model, logits, brought) for model, brought in asked.items()}
        opinions = {model: _opinion(meaning, *answer) for model, answer in found.items()}
        p, index = found[self.main]
        main = opinions[self.main]
        language = example.meta.get("language", NO_LANGUAGE)
        action = str(policy.actions(self.main, p, np.array([index]), pattern, [language])[0]) or None
        threshold = policy.threshold(self.main, pattern, index)
        why = self._why(meaning, main, threshold, pattern, action)
        if example.meta.get(UNREAD) and policy.unread is not None:
            action, why = policy.unread, f"{why}; words on the picture could not be read"
        sets = policy.candidates(self.main, p, pattern)
        return LabelDecision(
            probability=main.probability,
            label=main.label,
            threshold=threshold,
            action=policy.allowed(action),
            why=why,
            models=opinions,
            candidates=None if sets is None else tuple(meaning.classes[c] for c in sets[0].nonzero()[0]),
        )

    def _why(self, label: Label, main: Opinion, threshold: float | None, pattern: str, action: str | None) -> str:
        if not label.binary:
            rule = "likeliest" if threshold is None else f"furthest above its threshold {threshold:.2f}"
            doubt = ", and cannot rule others out" if action == "review" else ""
            return f"{self.main} finds {main.label!r} {rule} ({main.probability:.3f}) from {pattern}{doubt}"
        assert threshold is not None  # of two classes
        sign = ">=" if main.probability >= threshold else "<"
        band = ", inside the review band" if action == "review" else ""
        return f"{self.main} gives {main.probability:.3f} {sign} threshold {threshold:.2f} from {pattern}{band}"


def _calibrated(
    policy: Policy, model: str, logits: Mapping[str, NDArray[np.float32]], pattern: str
) -> tuple[NDArray[np.float64], int]:
    """Calibrated probabilities ``[1, C]`` of one post, and the class that they make it."""
    probabilities = policy.probabilities(model, logits[model][None], pattern)
    return probabilities, int(policy.predictions(model, probabilities, pattern)[0])


def _opinion(label: Label, probabilities: NDArray[np.float64], index: int) -> Opinion:
    shown = 1 if label.binary else index
    return Opinion(float(probabilities[0, shown]), label.classes[index])


def model_versions(space: Workspace, experts: Sequence[str]) -> dict[str, str]:
    """A short hash of each model's weights, so that a Decision says exactly what made it; several experts are fused."""
    cards = {expert: space.expert(expert) / CARD for expert in experts}
    if len(experts) > 1:
        cards[space.fusion.name.removesuffix(space.label_ending)] = space.fusion / "config.json"
    return {model: _card_version(card) for model, card in cards.items()}


def _card_version(card: Path) -> str:
    """A hash of a card, which holds the hashes of its model's files; made once for as long as it is the same file."""
    try:
        now = card.stat()
    except FileNotFoundError:
        raise RunError(f"{card} is missing: let `bifocal run CONFIG` make its model") from None
    return _hashed(card, now.st_ino, now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=256)
def _hashed(card: Path, *_: int) -> str:
    return file_sha256(card)[:16]


def load_policy(space: Workspace, config: RunConfig) -> Policy:
    """The policy in a run's folder, of all its labels.

    Raises `RunError` as `Policy.load`, and where it was fitted to other models, or is for a label that the run lacks.
    """
    policy = Policy.load(space.policy)
    if others := [label for label in policy.label_names if label not in config.label_names]:
        raise RunError(
            f"{space.policy} decides by {others[0]!r}, which this run does not answer; "
            f"{nearest(others[0], config.label_names)}: put this run's own back, or let `bifocal run CONFIG --from "
            "calibrate` fit it again"
        )
    experts = [modality.expert_name for modality in build_modalities(config).values()]
    for label in policy.label_names:
        place = space.for_label(label, policy.label)
        for name, version in {"run": config.run, **model_versions(place, experts)}.items():
            if (fitted := policy.of_label(label).versions.get(name, "none")) != version:
                raise RunError(
                    f"{space.policy} is for {name} {fitted}, here is {name} {version}: it is of another run or of "
                    "other models; put this run's own back, or let `bifocal run CONFIG --from calibrate` fit it again"
                )
    return policy
