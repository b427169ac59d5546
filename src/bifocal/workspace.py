"""The name of every artifact of a run, and how it is written: whole or not at all, by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import platform
import re
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import IO, Any, Self
from urllib.parse import quote

from .errors import BifocalError, RunError, nearest
from .example import SPLITS


@contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears under its name only once it is complete and on disk.

    A killed or failing writer leaves the old file (or none), never half a file. Raises what `disk_errors` raises.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with disk_errors(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, mode, **text) as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_replaceable(path: Path, is_ours: Callable[[Path], bool], *, force: bool = False) -> None:
    """See that a file that a command is about to write replaces nothing that somebody else wrote.

    Parameters
    ----------
    is_ours : callable
        Whether a file bears the mark of what this command writes; what it raises on a strange file counts as no.

    Raises
    ------
    RunError
        Where the file is there, is not empty, and is not ours.
    """
    if force or not path.exists() or (path.is_file() and not path.stat().st_size):
        return
    try:
        ours = path.is_file() and is_ours(path)
    except Exception:  # whatever a reader of some format raises on another
        ours = False
    if not ours:
        raise RunError(
            f"{path} is there, and nothing in it says that this command wrote it: move it, name another output, or say "
            "--force to overwrite it"
        )


@contextmanager
def disk_errors(path: Path, written: Path | None = None) -> Iterator[None]:
    """Say in one line that a disk is full, or not to be written to, whichever library found out and however it put it.

    Parameters
    ----------
    path : Path
        What is to be written: a file, or a folder, of which the file written last is named.
    written : Path, optional
        Where it lies meanwhile; None = at ``path``.

    Raises
    ------
    RunError
        Naming the file, what was written of it, and the room there is.
    """
    try:
        yield
    except BifocalError:
        raise
    except Exception as error:
        if _is_full(error, path):
            raise RunError(_no_room(path, written or path)) from error
        refused = isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS
        if isinstance(error, OSError) and refused and str(error.filename) in map(str, (path, path.parent, written)):
            raise RunError(f"{path} cannot be written ({error.strerror}): see to its folder, and run again") from error
        raise


_WRITERS = ("os error 28", "PytorchStreamWriter", "inline_container", "iostream error")
"""How safetensors and torch put it; torch does not say why it could not write."""


def _is_full(error: BaseException | None, path: Path) -> bool:
    """Whether an error, or one behind it, is that of a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(sign in str(error) for sign in _WRITERS) and free_bytes(path) < 2**20:
            return True
        error = error.__cause__ or error.__context__
    return False


def _no_room(path: Path, written: Path) -> str:
    if written.is_dir():
        path = written = max((p for p in written.rglob("*") if p.is_file()), key=_time, default=path)
    size = written.stat().st_size if written.is_file() else 0
    return (
        f"no room to write {path}: {size:,} bytes of it were written and it needs more, {free_bytes(path):,} bytes are "
        "free there: free some space and run the same command again; finished steps are skipped"
    )


def _time(path: Path) -> int:
    return path.stat().st_mtime_ns


def free_bytes(path: Path) -> int:
    """Bytes free where a path lies, or will lie."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Clear away what killed writers of a name left beside it; without a name, all of it, in the folder and below.

    A folder that was put aside for its successor, which did not come, gets its name back.
    """
    left = f".{glob.escape(name)}" if name else "**/.*"
    for path in (*folder.glob(f"{left}.part"), *folder.glob(f"{left}.*.part")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in folder.glob(f"{left}.old"):
        successor = path.with_name(path.name.removeprefix(".").removesuffix(".old"))
        if not path.is_dir():  # somebody's own file
            continue
        if successor.exists():
            shutil.rmtree(path)
        else:
            os.replace(path, successor)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """No other thread or process that asks for a folder has it meanwhile; the kernel lets go when the process ends."""
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


@contextmanager
def file_lock(path: Path, held: str, remedy: str) -> Iterator[None]:
    """Hold a file; the kernel lets go when the process ends, however it ends, so no lock goes stale.

    Raises `RunError`, as ``held``, the owner and ``remedy`` have it, where another process holds it.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(file, 1000).decode().strip() or "another process"
            raise RunError(f"{held} {owner}: {remedy}") from None
        os.ftruncate(file, 0)
        with disk_errors(path):
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        finally:
            os.ftruncate(file, 0)
    finally:
        os.close(file)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into; it takes the place of the one that is there once the block ends well.

    Raises
    ------
    RunError
        Where the disk is full, or not to be written to.
    """
    part, old = (folder.with_name(f".{folder.name}.{ending}") for ending in ("part", "old"))
    remove_leftovers(folder.parent, folder.name)
    try:
        with disk_errors(part):
            part.mkdir(parents=True)
            yield part
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinities, which JSON does not know, are written as null."""
    with atomic(path) as f:
        dump_json(f, content)


def dump_json(file: IO[str], content: Any) -> None:
    """Write what `write_json` does into a file that is open."""
    json.dump(_finite(content), file, indent=2, ensure_ascii=False, allow_nan=False)
    file.write("\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a numpy or torch scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Read a JSON artifact. Raises `RunError` naming the file where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing: run the step that writes it (`bifocal run CONFIG`)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not valid JSON ({error}): delete it and run again") from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Stream the rows of a JSON Lines artifact."""
    with open(path, encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)


LIBRARIES = (
    *("torch", "transformers", "tokenizers", "scikit-learn", "scipy", "lightgbm", "numpy"),
    *("pillow", "rapidocr", "ftfy"),
)


def versions() -> dict[str, str]:
    """Bifocal, Python and the libraries that make the numbers, as installed."""
    return dict(_installed())


@cache
def _installed() -> dict[str, str]:
    """Read once per process: each step of a run records them, and a library's metadata are a parsed e-mail."""
    found = {"python": platform.python_version()}
    for library in ("bifocal", *LIBRARIES):
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fingerprint(*parts: Any) -> str:
    """A short stable hash of JSON-able values.

    >>> fingerprint({"a": 1}) == fingerprint({"a": 1}) != fingerprint({"a": 2})
    True
    """
    content = json.dumps(_finite(parts), sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


RECORD = "run.json"
RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


def inside(folder: Path, name: Any) -> Path:
    """The file of a folder that a file in it names. Raises `RunError` where the name leads out of the folder."""
    path = PurePosixPath(name) if isinstance(name, str) else None
    if path is None or path.is_absolute() or ".." in path.parts or not path.parts or "\0" in str(name):
        raise RunError(f"{folder} names {name!r}, which is no file in it: take the folder from where it was made again")
    return folder / path


class _Artifact:
    """A file or folder of a run: ``workspace.results`` is ``runs/<run>/results_<run>.json``.

    One with ``{label}`` in its name is there for each label; of the first one it stands for nothing.
    """

    def __init__(self, name: str):
        self._name = name

    def __get__(self, space: Workspace, of: type[Workspace]) -> Path:
        return space.folder / self._name.format(run=space.run, label=space.label_ending)


@dataclass(frozen=True)
class Workspace:
    """The folder of one run and the names in it, which outside tools may rely on."""

    folder: Path
    run: str
    """The run's name, which ends its file names; a copy of the folder may bear another."""
    label: str = ""
    """Of several labels, another than the first: what it has of its own stands beside the first one's, and what they
    share lies where it always does."""

    manifest = _Artifact("data_manifest.jsonl")
    ocr = _Artifact("ocr.jsonl")
    quarantine = _Artifact("quarantine.jsonl")
    stamps = _Artifact("files_read.jsonl")
    taxonomy = _Artifact("label_taxonomy.json")
    splits = _Artifact("splits.json")
    groups = _Artifact("groups.json")
    composed = _Artifact(".composed.jsonl")
    """What the step that splits composed, for the one that packs, which removes it."""
    split_record = _Artifact("split_record.json")
    split_changes = _Artifact("split_changes.jsonl")
    models = _Artifact("models")
    evidence_folder = _Artifact("evidence")
    fusion = _Artifact("models/mm_fusion{label}")
    checkpoints = _Artifact("checkpoints")
    results = _Artifact("results_{run}.json")
    calibration = _Artifact("calibration_{run}.json")
    thresholds = _Artifact("thresholds_{run}.json")
    errors = _Artifact("errors_{run}{label}.csv")
    curves = _Artifact("curves_{run}{label}.json")
    slices = _Artifact("slices_{run}{label}.csv")
    robustness = _Artifact("robustness_{run}{label}.json")
    policy = _Artifact("policy_{run}.json")
    policies = _Artifact("policies")
    reference = _Artifact("reference_{run}{label}.json")
    drift = _Artifact("drift_{run}{label}.json")
    record = _Artifact(RECORD)
    report = _Artifact("report{label}")
    lab_results = _Artifact("lab/results{label}.json")

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """The workspace of a run that exists, wherever its folder was moved or linked to.

        Raises
        ------
        RunError
            Where there is no ``run.json``; names the runs beside it. Where that has no name of a run.
        """
        folder = Path(folder)
        record = folder / RECORD
        if not record.is_file():
            known = sorted(p.parent.name for p in folder.parent.glob("*/run.json"))
            raise RunError(f"{folder} is not a run folder (no run.json); runs beside it: {', '.join(known) or 'none'}")
        content = read_json(record)
        name = content.get("run") if isinstance(content, dict) else None
        if not isinstance(name, str) or not re.fullmatch(RUN_NAME, name):
            raise RunError(f"{record} has no name of a run under 'run', found {name!r}: it was altered")
        return cls(folder, name)

    @property
    def label_ending(self) -> str:
        """``.offensive``; letters that file names had better not have are percent-escaped."""
        return f".{quote(self.label, safe='')}" if self.label else ""

    def for_label(self, name: str, first: str = "") -> Workspace:
        """The same for one label of the run; "" is the first, as is one that bears the name ``first``."""
        return replace(self, label="" if name == first else name)

    def remove_label(self, models: Collection[str]) -> None:
        """Delete what a further label has of its own, but for what the lab found of it; ``models`` are the run's."""
        first, names = self.for_label(""), [name for name, of in vars(Workspace).items() if isinstance(of, _Artifact)]
        own = [getattr(self, name) for name in names if name != "lab_results"]
        own = [path for path in own if path not in [getattr(first, name) for name in names]]  # what no label shares
        for model in models:
            own += [self.own_expert(model), self.curve(model), *(self.evidence(model, split) for split in SPLITS)]
        for path in own:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def read_section(self, path: Path) -> Any:
        """What a JSON artifact that holds all labels says of this one. Raises `RunError`, as where it says nothing."""
        content = read_json(path)
        if not self.label:
            return content
        labels = content.get("labels", {}) if isinstance(content, dict) else {}
        if self.label not in labels:
            raise RunError(f"{path} says nothing of {self.label!r}; {nearest(self.label, labels)}: run again")
        return labels[self.label]

    def write_section(self, path: Path, content: Mapping[str, Any]) -> None:
        """The file, or of a further label what stands in it under its name; the first label is written first."""
        if self.label:
            whole = read_json(path)
            content = {**whole, "labels": {**whole.get("labels", {}), self.label: content}}
        write_json(path, content)

    def shards(self, split: str) -> Path:
        return self.folder / "shards" / split

    def expert(self, expert_name: str) -> Path:
        """Of a further label a folder of its own, where the encoder is not one for all labels."""
        own = self.own_expert(expert_name)
        return own if self.label and own.is_dir() else self.models / expert_name

    def own_expert(self, expert_name: str) -> Path:
        return self.models / f"{expert_name}{self.label_ending}"

    def evidence(self, expert_name: str, split: str) -> Path:
        return self.evidence_folder / expert_name / f"{split}{self.label_ending}.safetensors"

    def curve(self, model: str) -> Path:
        return self.folder / f"thresholds_curve_{model}_{self.run}{self.label_ending}.csv"

    def packed_splits(self) -> list[str]:
        """The splits that have shards, in the order train, val, test."""
        return [s for s in SPLITS if (self.shards(s) / "index.json").is_file()]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder. Raises `RunError` naming the owner where another process holds it."""
        with file_lock(self.folder / ".lock", f"{self.folder} is in use by", "wait for it, or name another run"):
            yield


class RunRecord:
    """``run.json``: what was run, with what, how long it took; and which steps need not run again."""

    def __init__(self, path: Path):
        self.path = path
        self.content: dict[str, Any] = read_json(path) if path.exists() else {}

    def update(self, **entries: Any) -> None:
        """Merge entries and write the file."""
        self.content.update(entries)
        write_json(self.path, self.content)

    def done(self, step: str, key: str) -> bool:
        """Whether the step was finished with this fingerprint and its outputs are still there, unchanged in size."""
        entry = self.steps().get(step)
        return bool(
            entry
            and entry["fingerprint"] == key
            and all(
                (p := inside(self.path.parent, name)).is_file() and p.stat().st_size == size
                for name, size in entry["outputs"].items()
            )
        )

    def steps(self) -> dict[str, Any]:
        """Step -> what is noted of it, for the steps that are finished."""
        return dict(self.content.get("steps", {}))

    def forget(self, steps: Collection[str], keep: Collection[str]) -> None:
        """Steps that are to run again are not done until they are, should the run be killed on its way.

        Their outputs go too, lest results of another configuration pass for this one's; those of ``keep`` stay.
        """
        known = self.steps()
        for name in steps:
            for output in known.pop(name, {}).get("outputs", {}) if name not in keep else ():
                inside(self.path.parent, output).unlink(missing_ok=True)
            known.pop(name, None)
        self.update(steps=known)

    def rewritten(self, step: str, output: Path) -> None:
        """Another command wrote an output of a finished step, which stays finished and takes it along when it goes."""
        steps = self.steps()
        if step in steps:
            outputs = {**steps[step]["outputs"], str(output.relative_to(self.path.parent)): output.stat().st_size}
            self.update(steps={**steps, step: {**steps[step], "outputs": outputs}})

    def perform(
        self, step: str, key: str, work: Callable[[], Mapping[str, Any]], outputs: Callable[[], list[Path]]
    ) -> None:
        """Run a step and note its fingerprint, seconds, outputs and what it counted."""
        start = perf_counter()
        counts = dict(work())
        folder = self.path.parent
        sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(outputs())}
        entry = {"fingerprint": key, "seconds": round(perf_counter() - start, 3), "outputs": sizes, **counts}
        self.update(steps={**self.steps(), step: entry})
