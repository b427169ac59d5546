"""A transcriber from outside: what somebody wrote into a PNG's metadata, as screenshot tools and generators do."""

import io
from dataclasses import dataclass

from PIL import Image

from bifocal.config import Strict
from bifocal.errors import DataError
from bifocal.plugins import options


class Options(Strict):
    key: str = "Description"


@dataclass(frozen=True)
class Note:
    text: str
    confidence: float | None
    engine: str
    mostly_unread: bool = False


class Notes:
    modality = "image"
    block = "NOTE"
    noun = "picture"
    hint = "look at them by hand"
    transcript = Note
    engine = "pillow metadata"

    def __init__(self, key):
        self.field = key

    @classmethod
    def from_config(cls, config):
        return cls(options("transcriber", "notes", config.options, Options).key)

    def reach(self):
        """Nothing is needed."""

    def key(self):
        return f"notes 1 {self.field}"

    def load(self):
        """Nothing is needed."""

    def read(self, blob):
        try:
            text = Image.open(io.BytesIO(blob)).info.get(self.field, "")
        except OSError as error:
            raise DataError(f"no picture: {error}") from None
        return Note(text, 1.0 if text else None, self.engine)
