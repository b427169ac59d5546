"""A Hugging Face dataset, by its id on the hub or from a local folder; no code of its is ever run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config import expand_home
from ..contracts import TextRole
from ..errors import DataError, extras_named, nearest
from ..example import Example, Label, Rejected
from ..files.columns import Columns, Split, split_named
from ..files.folders import MAX_MEMBER
from ..files.tables import arrow_rows
from ..workspace import fingerprint

_BATCH = 100
_REFERENCE = re.compile(r"(?P<split>.+):(?P<row>\d{1,12})")


class Hub(Columns):
    """A dataset that the package ``datasets`` loads; `Columns` has the options that say what its columns mean.

    Rows are read from the Arrow files on disk, as they are stored: nothing is decoded by ``datasets``. Class labels
    come by their names. Downloads go into its cache (``HF_HOME``) once.

    Attributes
    ----------
    dataset : str
        ``owner/name`` on the hub, or a local folder: one written by ``save_to_disk``, or one of data files (Parquet,
        Arrow, …) as ``load_dataset`` takes it.
    config : str, optional
        The dataset's configuration, where it has several.
    splits : dict, optional
        The dataset's splits that are read -> train, val, test, or null where their rows are to be split here. By
        default all of them, whose names must then tell (``validation`` is val).
    revision : str, optional
        A commit, tag or branch on the hub; only a commit pins the data.
    """

    dataset: str
    config: str | None = None
    splits: dict[str, Split | None] | None = None
    revision: str | None = None
    text_role: TextRole = "caption"

    def __getstate__(self) -> dict[Any, Any]:
        """Without the open dataset, which a worker opens for itself."""
        state = super().__getstate__()
        return {**state, "__dict__": {k: v for k, v in state["__dict__"].items() if k != "data"}}

    @property
    def folder(self) -> Path:
        return expand_home(self.dataset)

    @cached_property
    def data(self) -> dict[str, Any]:
        """Split of the dataset -> its rows on disk.

        Raises
        ------
        MissingExtra
            Where ``datasets`` is not installed.
        DataError
            Where the dataset cannot be loaded, has not the splits asked for, or they do not say what they are.
        """
        with extras_named():
            import datasets
        try:
            with _no_bars():
                loaded = self._loaded()
        except Exception as error:  # whatever the builder of some format raises: there are dozens
            raise DataError(self._failure(error)) from None
        splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}
        wanted = self._wanted(splits)
        return {name: splits[name].with_format("arrow") for name in wanted}

    def _loaded(self) -> Any:
        import datasets

        if any((self.folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(str(self.folder))
        name = str(self.folder) if self.folder.is_dir() else self.dataset
        return datasets.load_dataset(name, name=self.config, revision=self.revision)

    def _failure(self, error: Exception) -> str:
        import datasets

        told = " ".join(str(error).split())[:300] or type(error).__name__
        if self.folder.is_dir():
            return f"the folder {self.folder} cannot be loaded as a dataset: {told}"
        if datasets.config.HF_HUB_OFFLINE:
            told += "; HF_HUB_OFFLINE=1 is set: load it once without, or name a local folder"
        return f"there is no folder {self.dataset!r}, and no such dataset can be had from the hub or its cache: {told}"

    def _wanted(self, splits: Mapping[str, Any]) -> list[str]:
        if self.splits is None:
            unclear = [name for name in splits if split_named(name) is None]
            if unclear:
                raise DataError(
                    f"{self.dataset} has the splits {', '.join(splits)}: say what {unclear[0]!r} is, and which are to "
                    "be read, under `splits` ({train: train, …}; null = to be split here)"
                )
            return list(splits)
        if absent := next((name for name in self.splits if name not in splits), None):
            raise DataError(f"{self.dataset} has no split {absent!r}; {nearest(absent, splits)}")
        return list(self.splits)

    def labels(self) -> Mapping[str, Label]:
        self._check()
        return super().labels()

    def readable_rows(self) -> Iterator[dict[str, Any]]:
        columns = sorted({spec.column for spec in self.label_maps.values()})
        return (row for name in self.data for row in self._read(name, columns) if not isinstance(row, Rejected))

    def stored_rows(self) -> Iterator[dict[str, Any] | Rejected]:
        """Every row as it is stored, pictures among its cells: to see what there is, before columns are named."""
        return (row for name in self.data for row in self._read(name))

    def _check(self) -> None:
        headers = ((name, [dict.fromkeys(data.column_names)]) for name, data in self.data.items())
        self.check_parts(self.check_columns(headers))

    def __iter__(self) -> Iterator[Example | Rejected]:  # type: ignore[override]
        """Every row, split by split. Raises `DataError` at once, where there is no such dataset or column."""
        self._check()
        return self._rows(self.labels())

    def _rows(self, labels: Mapping[str, Label]) -> Iterator[Example | Rejected]:
        for name in self.data:
            split = split_named(name) if self.splits is None else self.splits[name]
            for number, row in enumerate(self._read(name)):
                own = str(number) if len(self.data) == 1 else f"{name}:{number}"
                if isinstance(row, Rejected):
                    yield row
                else:
                    yield self.example(row, f"{name}:{number}", own, split, labels)

    def _read(self, name: str, columns: list[str] | None = None) -> Iterator[dict[str, Any] | Rejected]:
        """Rows of a split, class labels by name, and in the place of a picture the reference to it."""
        from datasets import ClassLabel

        data = self.data[name] if columns is None else self.data[name].select_columns(columns)
        named = {column: one for column, one in data.features.items() if isinstance(one, ClassLabel)}
        number = 0
        for table in data.iter(batch_size=_BATCH):
            present: list[bool | None] = [None] * len(table)
            if self.image in table.column_names:
                present = _presence(table.column(self.image))
                table = table.drop_columns([self.image])
            rows = list(arrow_rows(table)) or [{} for _ in present]
            for row, there in zip(rows, present, strict=True):
                if isinstance(row, str):
                    yield Rejected(None, f"{name}:{number}", row)
                    number += 1
                    continue
                for column, label in named.items():
                    row[column] = _class_name(row[column], label)
                yield row if there is None else {**row, str(self.image): f"{name}:{number}" if there else None}
                number += 1

    def role_of(self, example: Example) -> TextRole:
        return self.text_role

    def fingerprint(self) -> str:
        """Changes with the options, and with the size or time of the Arrow files on disk."""
        stamps = []
        for name, data in self.data.items():
            files = [Path(file["filename"]) for file in data.cache_files]
            stamps.append([name, len(data), [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]])
        return fingerprint(self.model_dump(mode="json"), stamps)

    def open(self, reference: str) -> bytes:
        """The bytes of a picture, stored in the row or in a file of the dataset.

        Raises
        ------
        DataError
            Where there is no such row or picture, it is too large, or its path leads out of the dataset.
        """
        match = _REFERENCE.fullmatch(reference)
        data = self.data.get(match["split"]) if match else None
        if self.image is None or match is None or data is None or int(match["row"]) >= len(data):
            raise DataError(f"there is no picture {reference[:100]!r} in {self.dataset}; references are split:row")
        row = int(match["row"])
        value = data.select_columns([self.image])[row : row + 1].column(self.image)[0].as_py()
        path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str) else None
        blob = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(blob, bytes):
            if len(blob) > MAX_MEMBER:
                raise DataError(f"picture {reference!r} has over {MAX_MEMBER >> 20} MiB, the most that is read")
            return blob
        if not isinstance(path, str):
            raise DataError(f"picture {reference!r} of {self.dataset} is missing: column {self.image!r} is empty there")
        return self._file(path)

    def _file(self, name: str) -> bytes:
        from datasets import config
        from huggingface_hub import constants

        caches = [Path(config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]
        homes = [self.folder] if self.folder.is_dir() else caches
        try:
            path = (homes[0] / name).resolve()
            if not any(path.is_relative_to(home.resolve()) for home in homes):
                raise DataError(f"picture {name!r} leads out of {self.dataset}; only files of the dataset are read")
            if not path.is_file():
                raise DataError(
                    f"picture {path} is missing or not a file: column {self.image!r} of {self.dataset} holds the path "
                    f"{name!r}, which is looked up in {homes[0]}; keep the pictures there, or in the rows themselves"
                )
            if path.stat().st_size > MAX_MEMBER:
                raise DataError(f"picture {path} has over {MAX_MEMBER >> 20} MiB, the most that is read")
            return path.read_bytes()
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"picture {name!r} of {self.dataset} cannot be read: {error}") from None


@contextmanager
def _no_bars() -> Iterator[None]:
    """The bars of ``datasets`` and of its downloads would stand in the midst of ours."""
    import datasets
    from huggingface_hub import utils

    shown = datasets.are_progress_bars_disabled(), utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if not shown[0]:
            datasets.enable_progress_bars()
        if not shown[1]:
            utils.enable_progress_bars()


def _presence(column: Any) -> list[bool | None]:
    """Which rows have a picture: bytes, a path, or a struct of both."""
    from pyarrow import compute, types

    if not types.is_struct(column.type):
        return list(compute.is_valid(column).to_pylist())
    fields = [compute.is_valid(compute.struct_field(column, field.name)) for field in column.type]
    found = fields[0]
    for field in fields[1:]:
        found = compute.or_(found, field)
    return list(found.to_pylist())


def _class_name(value: Any, label: Any) -> str | None:
    return label.names[value] if isinstance(value, int) and 0 <= value < len(label.names) else None
