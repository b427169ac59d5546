"""What each step of a run does: it reads the artifacts of the steps before it, and writes its own."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .. import __version__, plugins
from ..assess.predictions import (
    ECE,
    Opinions,
    draw_curves,
    example_row,
    gain_over_best,
    measure_actions,
    measure_models,
    pattern_opinions,
    prior,
    seed_spread,
    write_error_table,
)
from ..assess.reference import Reference, text_facts
from ..assess.robustness import attack_run, check_attacks
from ..assess.slices import check_slices, measure_parts, read_columns
from ..config import FusionConfig, RunConfig, recorded_config
from ..contracts import Reporter
from ..data.classes import foresee
from ..data.compose import TEXT
from ..data.manifest import write_manifest
from ..data.ocr import read_pictures
from ..data.prepare import write_shards, write_splits
from ..data.shards import Split, open_split
from ..data.splits import holdout_rows
from ..decide.fitting import calibration_file, fit_policy, thresholds_file
from ..decide.policy import POOLED, Policy
from ..decide.thresholds import threshold_curve, write_curve
from ..decide.tuning import PolicySettings, TuningRows
from ..errors import ConfigError, DataError, ModelError, RunError, nearest
from ..evaluate.metrics import macro_f1
from ..evaluate.slices import write_slices
from ..example import LABELS, UNLABELLED, Evidence, Label, Taxonomy
from ..files.columns import Columns
from ..fit.evidence import evidence_of
from ..fit.expert import candidates, fit_expert, load_expert
from ..fit.fusion import MODEL, fit_fusion, fusion_parameters, load_fusion, save_fusion
from ..models.saved import read_card
from ..report.example import write_example
from ..report.findings import findings
from ..report.gallery import write_gallery
from ..report.html import write_report
from ..report.model_card import write_model_card
from ..system.posts import build_modalities
from ..system.system import System, load_policy, model_versions
from ..system.torch_engine import TorchEngine
from ..transcribe.ocr_cache import NAME as OCR_CACHE
from ..transcribe.ocr_models import recognisers
from ..workspace import Record, Workspace, read_json, write_json

if TYPE_CHECKING:
    from ..contracts import Encoder, Fusion, Modality, Source
    from ..data.ocr import When

REPEATS_OF = 10
"""Pictures with words and a text of the post's own, from which on it is judged whether those say the same."""

SHOWN_COLUMNS = 40
"""Columns of records that are told on the screen, those with something to say first; the report has all."""


class Run:
    """One run, step by step. Each step reads the artifacts of those before it and writes its own.

    Parameters
    ----------
    config : RunConfig
    space : Workspace
    reporter : Reporter
    allow_plugins : collection of str, optional
        What the models in its folder may bring from outside, see `plugins.only`; None = what the configuration names.
    """

    def __init__(
        self, config: RunConfig, space: Workspace, reporter: Reporter, allow_plugins: Collection[str] | None = None
    ):
        self.config = config
        self.space = space
        self.reporter = reporter
        self.modalities: dict[str, Modality] = build_modalities(config)
        if allow_plugins is None:
            theirs = [modality.encoder for modality in self.modalities.values()]
            allow_plugins = plugins.outside([config.model_dump(), theirs])
        self.allowed = frozenset(allow_plugins)
        source_class = plugins.load("sources", config.source.kind)
        self.source: Source = plugins.options("source", config.source.kind, config.source.options, source_class)
        self.taxonomy = Taxonomy({**LABELS, **self.source.labels()})
        self.label: Label = self._label()
        self.record = Record(space.record)
        self._check_decide()
        self._check_plugins()
        check_slices(config.slices, self.label, config.modalities)

    @classmethod
    def of(cls, folder: str | Path, allow_plugins: Collection[str] = ()) -> Self:
        """The run in a folder, configured as it was: for whoever reads its shards, Evidence and opinions again.

        Raises
        ------
        RunError
            Where there is no ``run.json``; names the runs beside it.
        PluginRefused
            Where its configuration names an outside plug-in that is not among ``allow_plugins``.
        """
        space = Workspace.of(folder)
        config = recorded_config(read_json(space.record)["config"], where=str(space.record))
        # Its terms lie elsewhere, and are read where slices are measured: by who runs a configuration of his own.
        config = config.model_copy(update={"slices": config.slices.model_copy(update={"terms": None})})
        with plugins.installed_first(folder), plugins.only(space.record, allow_plugins):
            return cls(config, space, Reporter(), allow_plugins)

    def _label(self) -> Label:
        name = self.config.label
        if name not in self.taxonomy.labels and isinstance(self.source, Columns):
            known = nearest(name, self.taxonomy.labels)
            raise ConfigError(f"label {name!r} is not in the taxonomy: add it under source.labels; {known}")
        return self.taxonomy[name]

    def _check_decide(self) -> None:
        """Raises `ConfigError` where a line between two classes is asked for, and there are more; or the reverse."""
        rule, review = self.config.decide.threshold, self.config.decide.review
        name, classes = self.config.label, len(self.label.classes)
        if not self.label.binary:
            for setting, asked in (("threshold.by", rule.by != "f1"), ("review", review and review.alpha is None)):
                if asked:
                    raise ConfigError(
                        f"decide.{setting} draws a line between two classes, and {name} has {classes}: leave it out, "
                        "and the likeliest class is taken; or ask for threshold.per_class, or review.alpha"
                    )
        elif rule.per_class or (review and review.alpha is not None):
            setting = "threshold.per_class" if rule.per_class else "review.alpha"
            raise ConfigError(f"decide.{setting} is for several classes, and {name} has two: see docs/decisions.md")
        self._base_rate()

    def _base_rate(self) -> list[float] | None:
        """Share of each class where the run will be used. Raises `ConfigError` where it does not fit the label."""
        asked, classes = self.config.decide.base_rate, [str(c) for c in self.label.classes]
        if asked is None:
            return None
        if isinstance(asked, float):
            if self.label.binary:
                return [1 - asked, asked]
            raise ConfigError(
                f"decide.base_rate of {self.config.label} names the share of each class ({', '.join(classes)}), "
                f"found {asked:g}"
            )
        shares = [asked.get(c, 0.0) for c in classes]
        if set(asked) != set(classes) or abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(
                f"decide.base_rate names {', '.join(sorted(asked))}, {sum(asked.values()):g} in all; the classes of "
                f"{self.config.label} are {', '.join(classes)}: give each its share, 1 in all"
            )
        return shares

    def _check_plugins(self) -> None:
        """Refuse now what would otherwise be refused after hours of training."""
        plugins.load("fusions", self.config.fusion.strategy)(**self.config.fusion.options)
        check_attacks(self.config.robustness, self.modalities)
        self.candidates = {name: candidates(self.config.expert(name), name, m) for name, m in self.modalities.items()}
        """Modality -> the settings of each encoder that its expert may turn out to be."""

    def reach_models(self) -> None:
        """Refuse now what would be found after hours of OCR and packing.

        Raises `ConfigError` on a setting that no encoder of a modality reads, then `ModelError` on a missing model.
        """
        missing: list[ModelError] = []
        for rivals in self.candidates.values():
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

    def reach_ocr(self) -> None:
        """Refuse now a language that nothing on this machine reads. Raises `ConfigError`."""
        if self.config.ocr.languages and self._reads_words != "never":
            recognisers(self.config.ocr.languages)

    # ------------------------------------------------------------------ step 2: manifest and OCR

    def manifest(self) -> dict[str, Any]:
        counts = write_manifest(
            self.source,
            # Every modality, not only the run's: a text run too reads pictures (OCR) and groups their near-duplicates.
            {name: plugins.load("modalities", name).from_config(self.config) for name in plugins.names("modalities")},
            self.space.manifest,
            self.space.quarantine,
            self.space.stamps,
            taxonomy=self.taxonomy,
            label=self.config.label,
            limit=self.config.limit,
            strict=self.config.strict,
            progress=self.reporter.progress,
        )
        if counts["quarantined"]:
            reasons = "; ".join(f"{n} x {reason}" for reason, n in counts["reasons"].items())
            self.reporter.note(f"{counts['quarantined']} rows quarantined ({reasons}): see {self.space.quarantine}")
        if counts["unlabelled"]:
            self.reporter.note(
                f"{counts['unlabelled']} rows bear no {self.config.label}: for scoring, not for training"
            )
        for text in counts["notes"]:
            self.reporter.note(text)
        if spelled := counts["spelled_otherwise"]["files"]:
            ((named, found),) = counts["spelled_otherwise"]["for_example"].items()
            self.reporter.note(
                f"{spelled} files are spelled otherwise than the rows have them, as {named!r}: {found!r}"
            )
        if counts["animated"]:
            self.reporter.note(f"{counts['animated']} animated pictures: only their first frame is read")
        found = {split: Counter(classes) for split, classes in counts["by_class"].items()}
        for told in foresee(found, self.config.label, self.config.splits):
            self.reporter.note(told)
        return counts

    @property
    def _reads_words(self) -> When:
        return self.config.ocr.when if TEXT in self.modalities else "never"

    def ocr(self) -> dict[str, Any]:
        counts = read_pictures(
            self.space.manifest,
            self.source,
            self.space.ocr,
            when=self._reads_words,
            languages=self.config.ocr.languages,
            cache=self.space.folder.parent / OCR_CACHE if self.config.ocr.cache else None,
            workers=self.config.ocr.workers,
            progress=self.reporter.progress,
            note=self.reporter.note,
        )
        self.record.rewritten("manifest", self.space.manifest)  # rows with unread words are marked in it
        if counts["unread"]:
            self.reporter.note(
                f"on {counts['unread']:,} of {counts['read']:,} pictures half or more of the lines could not be read "
                "(another script? `ocr.languages`; docs/ocr.md says which are read): marked `unread`"
            )
        if counts["captions"] >= REPEATS_OF and counts["repeated"] > counts["captions"] / 2:
            self.reporter.note(
                f"the texts of {counts['repeated']:,} of {counts['captions']:,} pictures with words say what stands on "
                "the picture: they look like transcripts; if they are, set `source.text_role: transcript`, and such "
                "pictures need not be read"
            )
        return counts

    # ------------------------------------------------------------------ step 3: splits and shards

    def splits(self) -> dict[str, Any]:
        counts = write_splits(self.space, self.source, self.taxonomy, self.config, self._holdout)
        for told in counts["few"]:
            self.reporter.note(told)
        if leaks := counts["leakage"]["rows"]:
            found = ", ".join(f"{n} in {split}" for split, n in sorted(leaks.items()))
            action = "dropped" if self.config.leakage == "drop" else "kept (leakage: drop removes them)"
            self.reporter.note(f"near-duplicates of earlier splits: {found}; {action}")
        if counts["unread"]:
            parts = " or ".join(self.modalities)
            self.reporter.note(f"{counts['unread']} rows bring no {parts} (or no words) and are left out")
        for source, rows in counts["untested"].items():
            self.reporter.note(f"all {rows} rows of {source} are train: it brings no splits, and those of others stand")
        self.record.update(in_sample="val" not in counts["rows"])
        if self.in_sample:
            self.reporter.note("no val split: temperatures and thresholds are tuned on train, marked in_sample")
        return counts

    def shards(self) -> dict[str, Any]:
        return write_shards(self.space, self.source, self.modalities, self.settled, self.config, self.reporter.progress)

    @cached_property
    def settled(self) -> Taxonomy:
        """The taxonomy as the step `splits` left it: numbers have become classes."""
        return Taxonomy.from_json(read_json(self.space.taxonomy))

    @property
    def in_sample(self) -> bool:
        return bool(self.record.content["in_sample"])

    @cached_property
    def packed(self) -> dict[str, Split]:
        """The packed splits, verified against their hashes once."""
        names = self.space.packed_splits()
        if "train" not in names:
            raise RunError(f"{self.space.folder} has no train shards: let the step `shards` run first")
        return {name: open_split(self.space.shards(name), self.modalities, self.settled) for name in names}

    # ------------------------------------------------------------------ step 4: experts and Evidence

    def experts(self) -> dict[str, Any]:
        if self.config.slices.columns or self.config.slices.groups:
            read_columns(self.packed[self.tested_on], self.settled, self.config.slices)  # an unknown one is refused now
        self._tell_majority()
        for folder in (*self.space.models.glob("*"), *self.space.evidence_folder.glob("*")):
            if folder.is_dir() and folder.name not in self.models:  # of a run with other modalities
                shutil.rmtree(folder)
        done, columns = {}, {}
        # Records first: a column that nothing settles is refused before another expert trains for hours.
        for name in sorted(self.modalities, key=lambda name: not isinstance(self.modalities[name].blank(), Mapping)):
            modality = self.modalities[name]
            expert = modality.expert_name
            fitted = fit_expert(
                self.config.expert(name),
                name,
                modality,
                self.packed,
                self.config.label,
                self.label,
                seed=self.config.seed,
                rows=self.learned,
                folder=self.space.expert(expert),
                checkpoints=self.space.checkpoints / expert,
                evidence_path=partial(self.space.evidence, expert),
                on_epoch=partial(self._tell_epoch, name),
                progress=self.reporter.progress,
            )
            done[expert] = fitted
            if fitted.tried:
                metric = "AUROC" if self.label.binary else "macro-F1"
                figures = ", ".join(f"{encoder} {value:.4f}" for encoder, value in fitted.tried.items())
                self.reporter.note(f"{expert}: val {metric} {figures}; the best is taken")
            if told := self._told_columns(fitted.encoder, name, expert):
                columns[expert] = told
                for line in told[:SHOWN_COLUMNS]:
                    self.reporter.note(line)
                if (left := len(told) - SHOWN_COLUMNS) > 0:
                    self.reporter.note(f"and {left:,} more columns, which the report names")
        return {
            "history": {name: fitted.history for name, fitted in done.items()},
            "rows": {name: fitted.counts for name, fitted in done.items()},
            "tried": {name: fitted.tried for name, fitted in done.items() if fitted.tried},
            "columns": columns,
            "seconds_each": {name: fitted.seconds for name, fitted in done.items()},
        }

    def _told_columns(self, encoder: Encoder, modality: str, expert: str) -> list[str]:
        """Each column of a record in a line, as training read it, and what other splits hold that it did not."""
        lines = list(read_card(self.space.expert(expert)).get("columns_told", []))
        for split in self.packed if lines else ():
            refused = []
            for value, there in zip(
                self.packed[split].values(modality), self.packed[split].present[modality], strict=True
            ):
                try:
                    if there:
                        encoder.check(value)
                except DataError as error:
                    refused.append(str(error))
            if refused:
                rows = f"{len(refused):,} of {len(self.packed[split]):,} rows"
                lines.insert(
                    0, f"{split}: in {rows} a cell is not as training had it, and taken as missing; {refused[0]}"
                )
        return lines

    def _tell_epoch(self, name: str, encoder: str, figures: dict[str, float]) -> None:
        """Under the expert's name, or where encoders compete for it under theirs."""
        self.reporter.epoch(encoder if len(self.candidates[name]) > 1 else self.expert_names[name], figures)

    def _tell_majority(self) -> None:
        """The baseline beside which an epoch's figures are read."""
        classes = {name: np.array(split.classes(self.config.label, self.label)) for name, split in self.packed.items()}
        shares = prior(classes["train"], len(self.label.classes))
        judged = classes[self.tuned_on]
        predictions = np.full(len(judged), shares.argmax())
        score = macro_f1(judged, np.tile(shares, (len(judged), 1)), predictions=predictions)
        right = np.mean(judged == predictions)
        self.reporter.note(f"majority baseline on {self.tuned_on}: accuracy {right:.3f}, macro-F1 {score:.3f}")

    @property
    def _holdout(self) -> float:
        """Share of train that is the fusion's alone, where there is a val split; 0 where no expert is fine-tuned."""
        tuned = any(rival.tune != "head" for rivals in self.candidates.values() for rival in rivals)
        return self.config.fusion.holdout if tuned and len(self.modalities) > 1 else 0.0

    @cached_property
    def learned(self) -> list[int]:
        """Train rows that experts learn from. The others are the fusion's, clean of fine-tuning (rule 3)."""
        train = self.packed["train"]
        share = self._holdout
        if not share or self.in_sample:
            self.record.update(fuse=None)
            return list(range(len(train)))
        classes = train.classes(self.config.label, self.label)
        aside = holdout_rows(train.groups, classes, share, self.config.seed)
        found = set(classes) - {UNLABELLED}
        if len({classes[i] for i, keep in enumerate(aside) if keep} & found) < 2 <= len(found):
            raise DataError(
                f"the {sum(aside)} train rows kept aside for the fusion bear fewer than two classes of "
                f"{self.config.label}: give more rows, raise `fusion.holdout`, or take `tune: head`, which needs none"
            )
        kept = [train.ids[i] for i, keep in enumerate(aside) if keep]
        self.record.update(fuse={"share": share, "n": len(kept), "ids": kept})
        return [i for i, keep in enumerate(aside) if not keep]

    def evidence(self) -> dict[str, Any]:
        """Each encoder runs once per example here, or has done so already; all that follows reads arrays."""
        for path in self.space.evidence_folder.glob("*/*.safetensors"):
            if path.stem not in self.packed:  # of a run with other splits
                path.unlink()
        return {"present": {f"{e}/{s}": n for s in self.packed for e, n in self._present(s).items()}}

    def _present(self, split: str) -> dict[str, int]:
        return {self.modalities[m].expert_name: int(e.present.sum()) for m, e in self.evidence_of(split).items()}

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        return {
            name: load_expert(self.space.expert(m.expert_name), self.allowed) for name, m in self.modalities.items()
        }

    @cache  # noqa: B019 - a Run lives as long as its command
    def evidence_of(self, split: str) -> dict[str, Evidence]:
        """What each expert says of a split, from the cache where its fingerprints match; modality -> Evidence."""
        return {
            name: evidence_of(
                encoder,
                self.packed[split],
                name,
                self.config.label,
                self.label,
                self.space.evidence(self.modalities[name].expert_name, split),
                folds=self.config.fusion.folds,
                seed=self.config.seed,
                progress=self.reporter.progress,
            )
            for name, encoder in self.encoders.items()
        }

    # ------------------------------------------------------------------ step 5: fusion

    @property
    def expert_names(self) -> dict[str, str]:
        """Modality -> name of its expert."""
        return {name: modality.expert_name for name, modality in self.modalities.items()}

    @property
    def models(self) -> list[str]:
        """Every model with an opinion, the one whose word counts last."""
        return [*self.expert_names.values(), *([MODEL] if len(self.modalities) > 1 else [])]

    def fusion(self) -> dict[str, Any]:
        if len(self.modalities) == 1:
            return {"skipped": "one modality: the expert decides alone"}
        save_fusion(self.fit_fusion(self.config.fusion), self.config.fusion, self.space.fusion)
        return {"rows": len(next(iter(self.lessons.values())))}

    @cached_property
    def lessons(self) -> dict[str, Evidence]:
        """Evidence of the train rows that a fusion learns from: those that no expert saw, or in-sample all of them."""
        train = self.evidence_of("train")
        if self.in_sample:
            return train
        clean = np.flatnonzero(~np.any([e.seen.numpy() for e in train.values()], axis=0)).tolist()
        return {name: e.take(clean) for name, e in train.items()}

    def fit_fusion(self, config: FusionConfig) -> Fusion:
        """A fusion fitted on this run's Evidence, be it the run's own or another; nothing is written.

        Raises
        ------
        BifocalError
            As `fusion.fit_fusion`.
        """
        val = None if self.in_sample else self.evidence_of("val")
        return fit_fusion(config, self.lessons, val=val, seed=self.config.seed, in_sample=self.in_sample)

    @cached_property
    def fused(self) -> Fusion | None:
        return load_fusion(self.space.fusion, self.allowed) if len(self.modalities) > 1 else None

    # ------------------------------------------------------------------ steps 6 and 7: decide, then measure

    @property
    def tuned_on(self) -> str:
        return "train" if self.in_sample else "val"

    @property
    def tested_on(self) -> str:
        return "test" if "test" in self.packed else self.tuned_on

    @cache  # noqa: B019
    def opinions(self, split: str) -> Opinions:
        said = Opinions.gather(self.evidence_of(split), self.expert_names, self.fused, MODEL)
        return replace(said, languages=[text_facts(text)[0] for text in self._texts(split)])

    def policy(self) -> Policy:
        """The policy as it lies in the folder, set by hand or not."""
        return load_policy(self.space, self.config)

    def calibrate(self) -> dict[str, Any]:
        """Calibrations and thresholds, from the tuning split alone."""
        said = self.opinions(self.tuned_on)
        tuning = {m: {POOLED: (said.logits[m][said.has[m]], said.labels[said.has[m]])} for m in self.models}
        if self.fused is not None:
            tuning[MODEL] |= pattern_opinions(self.evidence_of(self.tuned_on), self.expert_names, self.fused, MODEL)
        last = said.has[self.models[-1]]
        rows = TuningRows(
            tuning,
            groups=None if self.in_sample else list(np.array(said.groups)[last]),
            languages=np.array(said.languages, dtype=object)[last].tolist(),
        )
        settings = PolicySettings(
            run=self.config.run,
            label=self.config.label,
            classes=self.label.classes,
            probability_key=self.label.probability,
            in_sample=self.in_sample,
            versions={
                "bifocal": __version__,
                "run": self.config.run,
                **model_versions(self.space, list(self.expert_names.values())),
            },
            data={self.tuned_on: self.packed[self.tuned_on].fingerprint},
            method=self.config.decide.calibration,
            base_rate=self._base_rate(),
            rule=self.config.decide.threshold,
            review=self.config.decide.review,
            unread=self.config.decide.unread,
            truncated=self.config.decide.truncated,
            seed=self.config.seed,
        )
        fitted = fit_policy(rows, settings)
        policy = fitted.policy
        if kept := sorted(self.space.policies.glob("*.json")):
            self.reporter.note(f"{len(kept)} policies changed by hand are kept in {self.space.policies}, and not used")
        for finding in fitted.findings:
            self.reporter.note(finding)
        write_json(self.space.calibration, calibration_file(policy))
        write_json(self.space.thresholds, thresholds_file(fitted))
        for model in self.models:
            if self.label.binary:
                has = said.has[model]
                probabilities = policy.probabilities(model, said.logits[model][has], POOLED)
                weights = policy.weights(model, said.labels[has])
                write_curve(self.space.curve(model), threshold_curve(said.labels[has], probabilities[:, 1], weights))
        policy.save(self.space.policy)
        texts = self._texts(self.tuned_on)
        Reference.gather(said, texts, policy, self.models[-1], split=self.tuned_on, seed=self.config.seed).save(
            self.space.reference
        )
        return {"tuned_on": self.tuned_on, "rows": len(said.ids), "findings": fitted.findings}

    def evaluate(self) -> dict[str, Any]:
        """Measure every model on every split; the test split is read here, once."""
        policy = self.policy()
        said = {split: self.opinions(split) for split in self.packed}
        settings = {"resamples": self.config.bootstrap, "seed": self.config.seed}
        shares = prior(said["train"].labels, len(self.label.classes))
        parameters, tested_on = self._parameters(), self.tested_on
        models = measure_models(said, policy, self.label, parameters, shares, tested_on=tested_on, **settings)
        results: dict[str, Any] = {
            "run": self.config.run,
            "label": self.config.label,
            "in_sample": self.in_sample,
            "tuned_on": self.tuned_on,
            "tested_on": self.tested_on,
            "main": self.models[-1],
            "ece": ECE,
            "models": models,
        }
        tested = said[self.tested_on]
        if policy.review is not None:
            results["actions"] = measure_actions(tested, policy, self.models[-1])
        if self.fused is not None:
            results["gain"] = gain_over_best(
                said[self.tuned_on], tested, policy, self.label, fusion=MODEL, shares=shares, **settings
            )
            evidence = self.evidence_of(self.tested_on)
            models[MODEL]["seeds"] = seed_spread(self.fused, evidence, tested.labels, self.label)
        tuned, texts = said[self.tuned_on], self._texts(self.tested_on)
        results |= measure_parts(
            self.packed[self.tested_on],
            tested,
            texts,
            policy,
            self.models,
            self.label,
            self.settled,
            self.config.slices,
            ocr=self.space.ocr,
            clusters=Counter(group for split in self.packed.values() for group in split.groups),
            **settings,
        )
        write_json(self.space.results, results)
        write_slices(self.space.slices, results["slices"])
        write_json(self.space.curves, draw_curves(tested, tuned, policy, self.models, tuned_on=self.tuned_on))
        write_error_table(self.space.errors, tested, texts, policy, self.label, self.tested_on, self.models)
        return {"tested_on": self.tested_on, "rows": len(tested.ids)}

    @cache  # noqa: B019
    def _texts(self, split: str) -> list[str]:
        """The composed text of each row of a split, empty where there is none."""
        packed = self.packed[split]
        if TEXT not in self.modalities:
            return [""] * len(packed)
        parts = zip(packed.values(TEXT), packed.present[TEXT], strict=True)
        return [text if there else "" for text, there in parts]

    def _parameters(self) -> dict[str, dict[str, int]]:
        """Total and trained weights, by model."""
        found = {self.expert_names[name]: encoder.parameters() for name, encoder in self.encoders.items()}
        return found | ({MODEL: fusion_parameters(self.fused)} if self.fused is not None else {})

    def robustness(self) -> dict[str, Any]:
        if not self.config.robustness.attacks:
            return {"skipped": "no attacks are named (robustness.attacks)"}
        policy, label = self.policy(), self.settled[self.config.label]
        engine = TorchEngine(self.encoders, self.expert_names, self.fused)
        system = System(self.config, engine, policy, label, self.record.content["text_role"])
        found = attack_run(system, self.space, self.config.robustness, self.reporter.progress)
        for finding in found["findings"]:
            self.reporter.note(finding)
        write_json(self.space.robustness, found)
        return {"attacked": found["rows"]}

    # ------------------------------------------------------------------ the page a person reads

    def report(self) -> dict[str, Any]:
        facts = findings(self.space.folder)
        for model in self.models:
            write_model_card(self.space.folder, model, facts)
        row = example_row(self.opinions(self.tested_on), self.policy(), self.models[-1])
        self.record.update(example=write_example(self.space, self.packed[self.tested_on], self.modalities, row))
        worst = [error["id"] for error in facts["errors"]["worst"]]
        write_gallery(self.space, self.packed[self.tested_on], self.modalities, worst)
        write_report(self.space.folder, facts)
        return {}
