"""What is refused before the first step, so that nobody learns after hours that the configuration could not work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import plugins
from ..assess.robustness import check_attacks
from ..config import DecideConfig, ExpertConfig, RunConfig
from ..errors import ConfigError, ModelError, nearest
from ..example import Label, Taxonomy
from ..files.columns import Columns
from ..fit.candidates import candidates
from ..models.composite_fusion import CompositeFusion
from ..sources.feedback import Feedback

if TYPE_CHECKING:
    from ..contracts import Modality, Source


def label_of(config: RunConfig, name: str, taxonomy: Taxonomy, source: Source) -> Label:
    """A label that the run answers. Raises `ConfigError` where the taxonomy does not have it."""
    if name not in taxonomy.labels and isinstance(source, Columns):
        known = nearest(name, taxonomy.labels)
        raise ConfigError(f"label {name!r} is not in the taxonomy: add it under source.labels; {known}")
    if isinstance(source, Feedback) and name not in source.labels():
        raise ConfigError(
            f"label {name!r} is not in the feedback export {source.root}, which knows {', '.join(source.labels())}: "
            "export the feedback of a run of that label, name another, or put the export beside a source that has it"
        )
    return config.of_run(name, taxonomy[name])


def check_requires(labels: Mapping[str, Label]) -> None:
    """Raises `ConfigError` where a label requires another that has no positive class."""
    for name, label in labels.items():
        if label.requires is not None and not labels[label.requires].binary:
            raise ConfigError(
                f"labels.{name}.requires = {label.requires!r}, which has classes other than 0 and 1: only posts that "
                "are positive by a label of these two can be asked for"
            )


def check_decide(decide: DecideConfig, name: str, label: Label, *, several: bool = False) -> None:
    """Raises `ConfigError` where a line between two classes is asked for, and there are more; or the reverse.

    ``several``: there are other labels, for which it may be right.
    """
    rule, review = decide.threshold, decide.review
    own = f"; of this label alone it is set by decide: {{{name}: {{…}}, default: {{…}}}}" if several else ""
    if not label.binary:
        for setting, asked in (("threshold.by", rule.by != "f1"), ("review", review and review.alpha is None)):
            if asked:
                raise ConfigError(
                    f"decide.{setting} draws a line between two classes, and {name} has {len(label.classes)}: leave "
                    f"it out, and the likeliest class is taken; or ask for threshold.per_class, or review.alpha{own}"
                )
    elif rule.per_class or (review and review.alpha is not None):
        setting = "threshold.per_class" if rule.per_class else "review.alpha"
        raise ConfigError(f"decide.{setting} is for several classes, and {name} has two: see docs/decisions.md{own}")
    base_rate(decide, name, label)


def base_rate(decide: DecideConfig, name: str, label: Label) -> list[float] | None:
    """Share of each class where the run will be used. Raises `ConfigError` where it does not fit the label."""
    asked, classes = decide.base_rate, [str(c) for c in label.classes]
    if asked is None:
        return None
    if isinstance(asked, float):
        if label.binary:
            return [1 - asked, asked]
        raise ConfigError(
            f"decide.base_rate of {name} names the share of each class ({', '.join(classes)}), found {asked:g}"
        )
    shares = [asked.get(c, 0.0) for c in classes]
    if set(asked) != set(classes) or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(
            f"decide.base_rate names {', '.join(sorted(asked))}, {sum(asked.values()):g} in all; the classes of "
            f"{name} are {', '.join(classes)}: give each its share, 1 in all"
        )
    return shares


def check_plugins(config: RunConfig, modalities: Mapping[str, Modality]) -> dict[str, list[ExpertConfig]]:
    """Look up every plug-in with its options; modality -> the settings of each encoder that its expert may become.

    Raises `ConfigError` and `UnknownPlugin`.
    """
    fusion = plugins.load("fusions", config.fusion.strategy)(**config.fusion.options)
    if isinstance(fusion, CompositeFusion):
        fusion.check(config.fusion.read)
    check_attacks(config.robustness, modalities)
    return {name: candidates(config.expert(name), name, modality) for name, modality in modalities.items()}


def reach_models(rivals_of: Mapping[str, Sequence[ExpertConfig]]) -> None:
    """Reach for every model that an expert may start from; modality -> its candidates, as `check_plugins` found them.

    Raises `ConfigError` on a setting that no encoder of a modality reads, then `ModelError` on a missing model.
    """
    missing: list[ModelError] = []
    for rivals in rivals_of.values():
        refusals: list[ConfigError] = []
        for expert in rivals:
            try:
                plugins.load("encoders", str(expert.encoder)).reach(expert)
            except ModelError as error:
                missing.append(error)
            except ConfigError as error:  # of several encoders one may read what the others do not
                refusals.append(error)
        if len(refusals) == len(rivals):
            raise refusals[0]
    if missing:
        raise missing[0]
