"""Which of RapidOCR's models read which languages, and which lie on this machine; nothing is ever downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import ConfigError, extras_named

_GROUPS = {
    **dict.fromkeys(("ru", "uk", "be"), ("eslav", "cyrillic")),
    **dict.fromkeys(("bg", "sr", "mk", "kk", "ky", "mn", "tg"), ("cyrillic",)),
    **dict.fromkeys(("ar", "fa", "ur", "ug", "ps"), ("arabic",)),
    **dict.fromkeys(("hi", "mr", "ne", "sa"), ("devanagari",)),
    "ko": ("korean",),
    "el": ("el",),
    "zh": ("ch",),
    "zh-tw": ("chinese_cht",),
    "ja": ("japan",),
    "latin": ("en", "latin"),
}
"""Languages by their ISO 639 code -> RapidOCR's names of the models that read them, where they are not the same."""
_SERIES = (("PP-OCRv6", "small"), ("PP-OCRv5", "mobile"), ("PP-OCRv4", "mobile"))
"""Where a model is looked for, the best first."""
_DETECTOR = "PP-OCRv6_det_small"
_RIGHT_TO_LEFT = ("arabic",)


@dataclass(frozen=True, slots=True)
class OcrModel:
    """A model of RapidOCR that reads lines, wherever it may be.

    Attributes
    ----------
    name : str
        Of its file, without the ending.
    language : str
        What RapidOCR calls what it reads.
    address, sha256 : str
        Where RapidOCR's makers keep it, and its hash.
    """

    name: str
    language: str
    address: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where RapidOCR looks for it."""
        return folder() / f"{self.name}.onnx"


def engine_name() -> str:
    """What ``ocr.jsonl`` calls the engine. Raises `MissingExtra` where it is not installed."""
    with extras_named():
        return f"rapidocr {version('rapidocr')}"


def folder() -> Path:
    """Where RapidOCR keeps its models. Raises `MissingExtra` where it is not installed."""
    engine_name()
    with extras_named():
        import rapidocr
    return Path(rapidocr.__file__).parent / "models"


def detector() -> Path:
    """The model that finds lines, whatever is written in them."""
    return folder() / f"{_DETECTOR}.onnx"


def recognisers(languages: Sequence[str] | None) -> list[OcrModel]:
    """The models that read some languages, each once, in the order of the languages; None = the one of the package.

    Raises
    ------
    ConfigError
        Where RapidOCR has no model for a language, or has one that is not on this machine: it says where to get it.
    MissingExtra
        Where rapidocr is not installed.
    """
    chosen: dict[str, OcrModel] = {}
    for language in languages or ("en",):
        known = list(_models(language))
        if not known:
            there = ", ".join(_languages())
            raise ConfigError(f"ocr.languages: RapidOCR has no model that reads {language!r}; it has them for {there}")
        model = next((model for model in known if model.path.is_file()), None)
        if model is None:
            raise ConfigError(_absent(language, known[0]))
        chosen.setdefault(model.name, model)
    for model in chosen.values():
        if model.language in _RIGHT_TO_LEFT:
            _right_to_left(model)
    return list(chosen.values())


def _models(language: str) -> Iterator[OcrModel]:
    """The models that read a language, the best first."""
    with extras_named():
        from rapidocr import ModelType, OCRVersion
        from rapidocr.inference_engine.base import InferSession
        from rapidocr.utils.model_resolver import route_to_model_key
        from rapidocr.utils.typings import TaskType
    code = language.strip().lower().replace("_", "-")
    for series, size in _SERIES:
        for name in (*_GROUPS.get(code, ()), code, code.replace("-", "_")):
            try:
                key = route_to_model_key(TaskType.REC, OCRVersion(series), name, ModelType(size))
            except ValueError:  # not among the languages of this series
                continue
            if key is None:
                continue
            entry = InferSession.model_info["onnxruntime"][series]["rec"][key]
            address = str(entry["model_dir"])
            yield OcrModel(Path(address).stem, name, address, str(entry["SHA256"]))


def _languages() -> list[str]:
    """All that can be asked for."""
    from rapidocr import ModelType, OCRVersion
    from rapidocr.utils.model_resolver import list_supported_langs
    from rapidocr.utils.typings import TaskType

    listed = {
        name
        for series, size in _SERIES
        for name in list_supported_langs(TaskType.REC, OCRVersion(series), ModelType(size))
    }
    return sorted(listed | set(_GROUPS))


def _absent(language: str, model: OcrModel) -> str:
    here = ", ".join(sorted(path.stem for path in folder().glob("*rec*.onnx"))) or "none"
    return (
        f"ocr.languages: {language!r} is read by RapidOCR's {model.name}, which is not on this machine ({folder()} has "
        f"{here}). Get it once, where there is internet: curl -L -o '{model.path}' {model.address} (SHA-256 "
        f"{model.sha256}); or leave ocr.languages out: pictures in other scripts are then told as unread"
    )


def _right_to_left(model: OcrModel) -> None:
    """RapidOCR orders such lines by python-bidi. Raises `ConfigError` where it is missing."""
    from rapidocr.utils.utils import validate_rtl_dependency

    try:
        validate_rtl_dependency()
    except Exception as error:
        raise ConfigError(
            f"ocr.languages: {model.name} needs the package python-bidi: pip install python-bidi"
        ) from error


def settings(recogniser: OcrModel) -> tuple[Any, Any]:
    """RapidOCR's settings of its detector and a recogniser, as they lie here: one thread, no word on the console."""
    from rapidocr import RapidOCR

    made = RapidOCR(
        params={
            "Global.log_level": "error",  # it warns of every picture without words
            "Det.model_path": str(detector()),
            "Rec.model_path": str(recogniser.path),
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    ).cfg
    for part in (made.Det, made.Rec):
        part.engine_cfg = made.EngineConfig[part.engine_type.value]
        part.model_root_dir = made.Global.model_root_dir
    made.Rec.font_path = made.Global.font_path
    made.Rec.lang_type = recogniser.language
    return made.Det, made.Rec
