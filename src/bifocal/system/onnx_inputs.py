"""Makes the inputs of exported encoders: what transformers does to texts and pictures, without transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from ..errors import ModelError
from ..models.windows import INPUTS, Splitter, Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Batch = tuple[list[int], dict[str, NDArray[Any]]]

TEXTS_AT_ONCE = 32
PICTURES_AT_ONCE = 4  # more fall out of a CPU's caches


class InputReader(Protocol):
    """Makes batches of inputs of values, or of the windows of those that are longer than an encoder reads."""

    highest: bool
    offsets: Sequence[float]
    """Both of `join_windows`."""

    def read(self, values: Sequence[Any]) -> tuple[list[int], Iterator[Batch]]:
        """How many windows each value has; rows and inputs of each batch, every window a row, once."""

    def windows(self, value: Any) -> Windows | None:
        """The windows that are read of a value; None where values have none."""


class Tokens:
    """Texts by a tokenizer of the ``tokenizers`` library, those of like length together.

    Settings: ``tokenizer`` (JSON), ``max_length``, ``windows``: at most (1 where it is missing), ``highest`` and
    ``offsets``: of `join_windows`, ``inputs``: names, ``padding``: name -> value.
    """

    def __init__(self, settings: Mapping[str, Any]):
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(settings["tokenizer"])
        self.tokenizer.enable_truncation(settings["max_length"])
        room = settings["max_length"] - self.tokenizer.num_special_tokens_to_add(False)
        self.splitter = Splitter(
            lambda texts: self.tokenizer.encode_batch(list(texts)), room, settings.get("windows", 1)
        )
        self.highest: bool = settings.get("highest", False)
        self.offsets: Sequence[float] = settings.get("offsets", ())
        self.names: list[str] = settings["inputs"]
        self.padding: Mapping[str, int] = settings["padding"]

    def read(self, values: Sequence[str]) -> tuple[list[int], Iterator[Batch]]:
        encodings, counts = self.splitter.read(values)
        return counts, self._batches(encodings)

    def _batches(self, encodings: Sequence[Any]) -> Iterator[Batch]:
        order = sorted(range(len(encodings)), key=lambda i: -len(encodings[i].ids))
        for start in range(0, len(order), TEXTS_AT_ONCE):
            rows = order[start : start + TEXTS_AT_ONCE]
            yield rows, {name: self._padded(name, [encodings[i] for i in rows]) for name in self.names}

    def windows(self, value: str) -> Windows:
        return self.splitter.split(value)

    def _padded(self, name: str, encodings: Sequence[Any]) -> NDArray[np.int64]:
        longest = max(len(e.ids) for e in encodings)
        table = np.full((len(encodings), longest), self.padding.get(name, 0), dtype=np.int64)
        for row, encoding in enumerate(encodings):
            ids = getattr(encoding, INPUTS[name])
            table[row, : len(ids)] = ids
        return table


_DONE = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
_SIZES = ({"shortest_edge"}, {"height", "width"})


class Pixels:
    """Pictures resized, cropped, scaled and normalised, as transformers' Pillow backend does with these settings.

    Settings: an image processor's own, ``to_dict()``.

    Raises
    ------
    ModelError
        Where they ask for a step that is not known here.
    """

    highest = False
    offsets: Sequence[float] = ()

    def __init__(self, settings: Mapping[str, Any]):
        self.settings = settings
        asked = [name for name, value in settings.items() if name.startswith("do_") and value and name not in _DONE]
        size = {name for name, value in (settings.get("size") or {}).items() if value}
        if asked or (settings.get("do_resize") and size not in _SIZES):
            what = ", ".join(asked) or f"a size by {', '.join(sorted(size))}"
            raise ModelError(f"the image processor does {what}, which an exported encoder cannot: serve the run itself")
        mean, deviation = (np.array(settings[name], dtype=np.float32) for name in ("image_mean", "image_std"))
        self.normal = (mean[:, None, None], deviation[:, None, None])

    def windows(self, value: Image.Image) -> None:
        return None

    def read(self, values: Sequence[Image.Image]) -> tuple[list[int], Iterator[Batch]]:
        return [1] * len(values), self._batches(values)

    def _batches(self, values: Sequence[Image.Image]) -> Iterator[Batch]:
        for start in range(0, len(values), PICTURES_AT_ONCE):
            rows = list(range(start, min(start + PICTURES_AT_ONCE, len(values))))
            yield rows, {"pixel_values": np.stack([self.pixels(values[i]) for i in rows])}

    def pixels(self, picture: Image.Image) -> NDArray[np.float32]:
        """``[3, height, width]``."""
        settings = self.settings
        picture = picture.convert("RGB")
        if settings.get("do_resize"):
            picture = picture.resize(self._size(picture), Image.Resampling(settings["resample"]))
        if settings.get("do_center_crop"):
            crop = settings["crop_size"]
            top, left = (picture.height - crop["height"]) // 2, (picture.width - crop["width"]) // 2
            picture = picture.crop((left, top, left + crop["width"], top + crop["height"]))
        values = np.moveaxis(np.asarray(picture), -1, 0)
        if settings.get("do_rescale"):
            values = (values.astype(np.float64) * settings["rescale_factor"]).astype(np.float32)
        if settings.get("do_normalize"):
            values = (values - self.normal[0]) / self.normal[1]
        return np.ascontiguousarray(values, dtype=np.float32)

    def _size(self, picture: Image.Image) -> tuple[int, int]:
        size = self.settings["size"]
        if "shortest_edge" not in size or not size["shortest_edge"]:
            return size["width"], size["height"]
        short, long = sorted(picture.size)
        edge = size["shortest_edge"]
        other = int(edge * long / short)
        return (edge, other) if picture.width <= picture.height else (other, edge)


READERS: dict[str, Callable[[Mapping[str, Any]], InputReader]] = {"tokens": Tokens, "pixels": Pixels}
