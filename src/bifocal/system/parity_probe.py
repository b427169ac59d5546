"""A few posts kept in a bundle with what it said of them where it was exported: asked again wherever it is loaded.

Engines choose their instructions by the processor, and one that computes something else there decides otherwise in
silence. (Products of unsigned and signed 8-bit integers saturate on processors without VNNI; a bundle that was exported
on one with VNNI said 0.57 there where it had said 0.24.)
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..decide.policy import pattern_of
from ..errors import ModelError, RunError
from ..workspace import read_json, write_json
from .engine import logits_by_label

if TYPE_CHECKING:
    from ..contracts import Modality
    from ..data.shards import Split
    from ..decide.policy import Policy
    from .engine import Engine

FOLDER = "probe"
EXPECTED = "expected.json"
POSTS = 4
TOLERANCE = {"torch": 0.001, "torch-bf16": 0.05, "onnx": 0.001, "onnx-int8": 0.06}
"""Engine -> how far a probability may be from the one where it was exported: sums in another order differ in their last
digits, and in integers an activation at the edge between two may fall to the other side. Of 400 memes (MiniLM +
MobileNetV2, onnx-int8) with and without AVX-512 and VNNI: half differed by under 1e-8, one in 40 by more than 0.02,
none by more than 0.04, no decision: the tolerance is half as much again. Products that saturate moved some by 0.3."""
_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")


class ParityWarning(UserWarning):
    """A bundle does not say of its kept posts what it said where it was exported."""


def processor() -> dict[str, Any]:
    """What this processor is: ``machine``, ``name``, and of its instructions those that engines choose by."""
    told: dict[str, str] = {}
    with suppress(OSError):  # Linux alone has it
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip().lower(), value.strip())
    flags = set((told.get("flags") or told.get("features") or "").split())
    return {
        "machine": platform.machine(),
        "name": told.get("model name") or platform.processor(),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
    }


def keep_probe(
    part: Path, split: Split, probabilities: Sequence[float], engine: Engine, policy: Policy
) -> dict[str, Any]:
    """Write a few posts of a split into a bundle, and what the engine says of them here.

    Those that have every part, evenly spread from the least probable to the most; without their ids and labels.

    Parameters
    ----------
    part : Path
        The bundle's folder.
    split : Split
    probabilities : sequence of float
        What the posts are spread by, a row each.
    engine, policy

    Returns
    -------
    dict
        What the parity report tells of it: ``posts``, ``tolerance``, ``processor``.
    """
    folder = part / FOLDER
    folder.mkdir()
    most = max((sum(there) for there in zip(*split.present.values(), strict=True)), default=0)
    whole = [i for i, there in enumerate(zip(*split.present.values(), strict=True)) if sum(there) == most]
    whole.sort(key=lambda i: probabilities[i])
    rows = [whole[i] for i in sorted({round(i) for i in np.linspace(0, len(whole) - 1, POSTS)})] if whole else []
    posts: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        parts = {}
        for name, modality in split.modalities.items():
            if split.present[name][row]:
                parts[name] = f"{number}.{modality.suffix}"
                (folder / parts[name]).write_bytes(split.read(row, modality.suffix))
        posts.append({"parts": parts})
    for post, answer in zip(posts, _ask(folder, posts, engine, policy, split.modalities), strict=True):
        post["probabilities"] = answer.pop(policy.label)
        if answer:
            post["labels"] = answer
    facts = {"tolerance": TOLERANCE[engine.name], "processor": processor()}
    write_json(folder / EXPECTED, {**facts, "posts": posts})
    return {**facts, "posts": len(posts)}


def check_probe(
    folder: Path, engine: Engine, policy: Policy, modalities: Mapping[str, Modality], *, strict: bool = False
) -> None:
    """Ask a bundle of its kept posts and compare with what it said where it was exported.

    Warns with `ParityWarning` where a probability is further off than the bundle's tolerance. A bundle of an earlier
    Bifocal keeps no posts; nothing is said of it unless ``strict``.

    Raises
    ------
    ModelError
        Instead of the warning, where ``strict``; where the kept posts are damaged.
    """
    kept = folder / FOLDER
    if not (kept / EXPECTED).is_file():
        if strict:
            raise ModelError(
                f"{folder} keeps no posts to ask its engine again: export it anew, or leave strict parity out"
            )
        return
    try:
        expected = read_json(kept / EXPECTED)
        posts, tolerance, there = expected["posts"], float(expected["tolerance"]), expected["processor"]
        answers = _ask(kept, posts, engine, policy, modalities)
        furthest = max(
            (
                (float(np.abs(np.array(answers[i][label][model]) - np.array(before)).max()), model)
                for i, post in enumerate(posts)
                for label, models in {policy.label: post["probabilities"], **post.get("labels", {})}.items()
                for model, before in models.items()
            ),
            default=(0.0, ""),
        )
    except (RunError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{kept} holds no posts that can be asked again ({error}): export the bundle again") from None
    if not furthest[0] <= tolerance:
        here = processor()
        message = (
            f"{folder} ({engine.name}) decides otherwise here than where it was exported: of its {len(posts)} kept "
            f"posts a probability of {furthest[1]} differs by {furthest[0]:.3f} (up to {tolerance:g} is expected). It "
            f"was exported on {named(there)}; this is {named(here)}. Export it again, or on a processor like this one"
        )
        if strict:
            raise ModelError(message)
        warnings.warn(message, ParityWarning, stacklevel=2)


def _ask(
    folder: Path,
    posts: Sequence[Mapping[str, Any]],
    engine: Engine,
    policy: Policy,
    modalities: Mapping[str, Modality],
) -> list[dict[str, dict[str, list[float]]]]:
    """Label -> model -> calibrated probabilities of each class, of each post; one pass of each encoder."""
    if not posts:
        return []
    values = [
        {name: modalities[name].unpack((folder / file).read_bytes()) for name, file in post["parts"].items()}
        for post in posts
    ]
    logits = logits_by_label(engine, engine.evidence(values), policy.label_names)
    expert_of = {modality.expert_name: name for name, modality in modalities.items()}
    result: list[dict[str, dict[str, list[float]]]] = []
    for i, post in enumerate(values):
        answer: dict[str, dict[str, list[float]]] = {label: {} for label in logits}
        for label, model, rows in ((label, *of) for label, models in logits.items() for of in models.items()):
            if model in expert_of and expert_of[model] not in post and model != engine.main:
                continue  # it had nothing to read
            pattern = pattern_of(post) if model == engine.main else expert_of[model]
            # Not adjusted: a base rate that somebody sets later is no doing of the processor's.
            found = policy.of_label(label).probabilities(model, rows[i : i + 1], pattern, adjusted=False)
            answer[label][model] = found[0].tolist()
        result.append(answer)
    return result


def named(processor: Mapping[str, Any]) -> str:
    """What a `processor` is, in words."""
    instructions = ", ".join(processor["instructions"]) or "no instructions of note"
    return f"{processor['name'] or processor['machine']} with {instructions}"
