"""Finds pretrained models and loads them, with one error that says what to do where that fails."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..config import expand_home
from ..errors import BifocalError, ModelError, RunError, nearest
from ..workspace import read_json
from .saved import CARD, check_seal, read_card

_PICKLE = "is damaged, or would run code when opened (it was not): take the model in safetensors format"
_COPY_AGAIN = "copy the model's folder again, whole"


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back reports on new heads, progress bars and warnings to library authors: we say ourselves what is new."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def locate(name: str, base: str) -> str:
    """What to load for ``experts.<modality>.model``: a local folder where there is one, else a hub id.

    Parameters
    ----------
    name : str
        ``base``, a folder, or a hub id.
    base : str
        The hub id that ``base`` stands for.

    Raises
    ------
    ModelError
        Where the name can only be a path, and no folder is there; or where it is the folder of an expert of ours, and
        a file in it was altered since.
    """
    if name == "base":
        return base
    folder = expand_home(name)
    if folder.is_dir():
        if (folder / CARD).is_file():
            check_seal(folder, read_card(folder))
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        beside = [p.name for p in folder.parent.glob("*") if p.is_dir()]
        raise ModelError(f"there is no model folder {name!r}; in {folder.parent}: {nearest(folder.name, beside)}")
    return name


def check_data(folder: Path) -> None:
    """Refuse, in the folder of an expert, what would have transformers load another model, from elsewhere.

    That classes which a folder brings along (``auto_map``) are not run is seen to by ``trust_remote_code=False``; but
    the base of an adapter is taken from wherever it says without a question. `HfEncoder.save` writes none.

    Raises
    ------
    ModelError
        Naming the file.
    """
    if (adapter := folder / "adapter_config.json").exists():
        raise ModelError(f"{adapter} names another model to load, and an expert is whole: take the file away")


def _refuse_kernels(folder: Path) -> None:
    """Raise `ModelError` where a model's own configuration names code of the hub, which transformers would run."""
    path = folder / "config.json"
    try:
        named = _kernels(read_json(path)) if path.is_file() else []
    except RunError:  # damaged: the loader will say so
        return
    if named:
        raise ModelError(f"{path} names code to run for it ({named[0]!r}), and a model is data: it was not loaded")


def _kernels(settings: Any) -> list[str]:
    """Kernels of the hub that a configuration names, at any depth: ``owner/name``, where libraries have plain names."""
    if isinstance(settings, list):
        return [name for inner in settings for name in _kernels(inner)]
    if not isinstance(settings, dict):
        return []
    asked = [value for key, value in settings.items() if key.endswith("_implementation")]
    names = [v for value in asked for v in (value.values() if isinstance(value, dict) else [value])]
    return [name for name in names if isinstance(name, str) and "/" in name] + _kernels(list(settings.values()))


def load_pretrained(
    auto: Any, load_processor: Callable[[str], Any], where: str, classes: Sequence[Any]
) -> tuple[PreTrainedModel, Any]:
    """A classifier with a head for these classes, in float32, and its tokenizer or image processor.

    Parameters
    ----------
    auto : class
        ``AutoModelForSequenceClassification`` or ``AutoModelForImageClassification``.
    load_processor : callable
        ``where`` -> tokenizer or image processor.
    where : str
        A local folder or a hub id; code that a repository brings along is never run.
    classes : sequence
        In the order of the logits.

    Raises
    ------
    ModelError
        Where it is not to be had, is of another kind or damaged, would start from random weights, or holds a pickle
        that would run code.
    """
    with _explained(auto, where):
        _refuse_kernels(Path(where))
        model, report = auto.from_pretrained(
            where,
            **_names(classes),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        processor = load_processor(where)
    _refuse_random(where, model, report)
    return model, processor


def load_configuration(auto: Any, where: str) -> PreTrainedConfig:
    """The configuration of a model, without its weights. Raises `ModelError` where it is not to be had."""
    with _explained(auto, where):
        return AutoConfig.from_pretrained(where, trust_remote_code=False)


def build(auto: Any, configuration: PreTrainedConfig, classes: Sequence[Any]) -> PreTrainedModel:
    """A classifier with random weights and a head for these classes. Raises `ModelError` where there is none."""
    for name, value in _names(classes).items():
        setattr(configuration, name, value)
    with _explained(auto, configuration.model_type):
        return auto.from_config(configuration, dtype=torch.float32)


def _names(classes: Sequence[Any]) -> dict[str, Any]:
    names = {i: str(c) for i, c in enumerate(classes)}
    return {"num_labels": len(names), "id2label": names, "label2id": {name: i for i, name in names.items()}}


@contextmanager
def _explained(auto: Any, where: str) -> Iterator[None]:
    try:
        yield
    except (BifocalError, MemoryError):
        raise
    except Exception as error:  # in a damaged folder the loaders raise whatever their parsing runs into
        if damaged := _damaged_file(Path(where)):
            raise ModelError(f"model {where!r} cannot be used: {damaged}") from error
        if isinstance(error, pickle.UnpicklingError):  # torch's own words tell people how to run it all the same
            raise ModelError(f"model {where!r} cannot be used: its pickle of weights {_PICKLE}") from error
        if isinstance(error, OSError):
            raise ModelError(_not_found(where, error)) from error
        raise ModelError(
            f"model {where!r} cannot be used as {auto.__name__} ({_one_line(error)}): take a model of that kind, whole"
        ) from error


def _damaged_file(folder: Path) -> str | None:
    """Which file of a local model cannot even be opened, and what to do; the loaders' own errors name none."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix == ".bin":
                torch.load(path, weights_only=True, map_location="meta")
        except Exception as error:
            reason = f"is damaged ({_one_line(error)}): {_COPY_AGAIN}"
            return f"its {path.name} {_PICKLE if path.suffix == '.bin' else reason}"
    return None


def _not_found(where: str, error: OSError) -> str:
    if Path(where).is_dir():
        return (
            f"the folder {where!r} is no complete model: {_one_line(error)}; it needs config.json, "
            "model.safetensors and its tokenizer or image processor"
        )
    offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _one_line(error)
    return (
        f"model {where!r} is no local folder, is not in the cache {constants.HF_HUB_CACHE}, and cannot be downloaded "
        f"({offline}): unset HF_HUB_OFFLINE and connect, or copy the model's folder here and give its path as "
        "`model`, or take `model: tiny`, which needs no download"
    )


def _one_line(error: BaseException) -> str:
    return shorten(str(error) or type(error).__name__, 200, placeholder=" …").rstrip(".")


def _refuse_random(where: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """A new head is expected; an encoder whose weights are missing or of other shapes would be noise in silence.

    A part may be missing whole: a checkpoint often leaves the pooler out. Of a part that is there every tensor has to
    be, and each has to hold numbers: that finds some of the flipped bytes, which nothing else would tell.
    """
    heads = {name for name, child in model.named_children() if not isinstance(child, PreTrainedModel)}
    state = model.state_dict()
    below = [name for name in state if name.partition(".")[0] not in heads]
    strange = [name for name, *_ in report["mismatched_keys"] if name.partition(".")[0] not in heads]
    missing = set(report["missing_keys"]).intersection(below)
    broken = {_part(name) for name in below if name not in missing} & {_part(name) for name in missing}
    if strange or broken or len(missing) > len(below) / 2:
        found = f"{len(missing)} of {len(below)} encoder tensors missing, {len(strange)} of another shape"
        raise ModelError(f"the weights of {where!r} do not fit its config.json ({found}): take a complete model")
    if empty := [name for name, tensor in state.items() if not torch.isfinite(tensor.sum())]:
        raise ModelError(
            f"the weights of {where!r} are damaged: {empty[0]} holds infinity or no number at all; {_COPY_AGAIN}"
        )


def _part(name: str) -> str:
    """The part of a model that a tensor belongs to: ``bert.encoder`` of ``bert.encoder.layer.0.…``."""
    return ".".join(name.split(".")[:2])
