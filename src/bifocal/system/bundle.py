"""The folder of an exported System: what lies in it, sealed by a manifest that is checked before anything is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig, SourceConfig, recorded_config
from ..decide.policy import Policy
from ..errors import ModelError, RunError, nearest
from ..example import Label, Taxonomy
from ..files.folders import escapes_root
from ..modalities import build_modalities
from ..workspace import Workspace, file_sha256, folder_lock, read_json, remove_leftovers, replaced, write_json
from .parity_probe import check_probe

if TYPE_CHECKING:
    from ..contracts import TextRole
    from .engine import Engine

CARD, MANIFEST, POLICY, REFERENCE, PARITY = (
    "bundle.json",
    "manifest.json",
    "policy.json",
    "reference.json",
    "parity.json",
)

CONTENT = "content_hashes.json"
"""What tells whether a post is among those that the bundle's run learned from or was tuned on."""


def reference_of(label_ending: str) -> str:
    """The file of a further label in the place of `REFERENCE`."""
    return f"{Path(REFERENCE).stem}{label_ending}.json"


def policy_path(folder: Path) -> Path:
    """The policy of a run or a bundle."""
    return folder / POLICY if is_bundle(folder) else Workspace.of(folder).policy


def reference_path(folder: Path, label: str = "", first: str = "") -> Path:
    """What a label was tuned on, in the folder of a run or a bundle; arguments as `Workspace.for_label`."""
    if is_bundle(folder):
        return folder / reference_of(Workspace(folder, "").for_label(label, first).label_ending)
    return Workspace.of(folder).for_label(label, first).reference


POLICIES = "policies"
"""Policies before and after each threshold that was set in the bundle by hand."""
FORMAT = 1
ENGINES = ("torch", "torch-bf16", "onnx", "onnx-int8")
"""Whatever begins with ``torch`` needs the extra [train]; the others run on the base install."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a System is made of."""

    config: RunConfig
    engine: Engine
    policy: Policy
    label: Label
    text_role: TextRole
    further: dict[str, Label]
    """Its further labels."""


def is_bundle(folder: Path) -> bool:
    """Whether a folder was written by `bifocal export`."""
    return (folder / MANIFEST).is_file()


def engine_of(folder: Path) -> str:
    """The engine that a run's or bundle's folder decides by."""
    return str(read_json(folder / CARD)["engine"]) if is_bundle(folder) else "torch"


def run_or_bundle(folder: Path) -> Path:
    """The folder itself, if it is a run's or a bundle; asked before anything is made in it or beside it.

    Raises
    ------
    RunError
        Naming the runs beside it.
    """
    if not is_bundle(folder):
        try:
            Workspace.of(folder)
        except RunError as error:
            raise RunError(f"{error}; an exported bundle (with {MANIFEST}) will do too") from None
    return folder


def bundle_of(run_folder: Path, engine: str) -> Path:
    """Where the bundle of an engine lies beside its run, unless it was told another place."""
    return run_folder / "bundles" / engine


def state_beside(link: Path) -> Path:
    """The state folder of a service that follows a link."""
    return link.with_name(f"{link.name}.serve")


def default_state_folder(folder: Path) -> Path:
    """Where a service of this run or bundle keeps its decision log and keys, unless it is told another folder.

    That of a bundle lies beside it: nothing is written into a bundle, and another export replaces it whole. So does
    that of a link which `deploy.promotion` made: it leads to one run after another.
    """
    if folder.is_symlink() and (beside := state_beside(folder)).is_dir():
        return beside
    whole = folder.resolve()
    return whole.with_name(f"{whole.name}.serve") if is_bundle(folder) else folder / "serve"


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into; it takes its name, and its manifest, once the block ends well.

    Raises
    ------
    RunError
        Where what is there is no bundle.
    """
    if folder.exists() and not is_bundle(folder) and any(folder.iterdir()):
        raise RunError(f"{folder} is there and is no bundle, so it is not replaced: name another --output")
    with replaced(folder) as part:
        yield part
        write_json(part / MANIFEST, {"format": FORMAT, "files": _facts(part, _files(part))})


def change_policy(folder: Path, change: Callable[[Policy], Policy]) -> Policy:
    """Have a bundle decide by a changed policy, and keep the one before and the new one under ``policies/``.

    The manifest is written last, and is what a service looks at: it takes up a bundle that is whole. Who is killed on
    the way does it again: of the policies, what is found is sealed anew; of all else, what was.

    Returns
    -------
    Policy
        The new one.

    Raises
    ------
    RunError
        As `policy_of`, and what ``change`` raises.
    ModelError
        Where the manifest is none.
    """
    with folder_lock(folder):  # a lock file would be none of the bundle's files
        for path in folder.rglob("*"):
            _check_plain(path)  # nothing is read from elsewhere, or written there
        before, sealed = policy_of(folder), _manifest(folder)
        after = change(before)
        remove_leftovers(folder)
        for policy in (before, after):
            policy.save(folder / POLICIES / f"{policy.version}.json")
        after.save(folder / POLICY)
        kept = sorted((folder / POLICIES).glob("*.json"))
        for path in kept:
            Policy.load(path)  # nothing else is sealed with them
        sealed |= _facts(folder, [POLICY, *(str(path.relative_to(folder)) for path in kept)])
        write_json(folder / MANIFEST, {"format": FORMAT, "files": dict(sorted(sealed.items()))})
    return after


def _facts(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the manifest holds of files."""
    return {name: {"sha256": file_sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in names}


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """File -> what it was when it was sealed. Raises `ModelError`."""
    _check_plain(folder / MANIFEST)
    try:
        manifest = read_json(folder / MANIFEST)
        files, known = dict(manifest["files"]), manifest["format"]
    except (RunError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / MANIFEST} is no manifest of a bundle ({error}): export it again") from None
    if known != FORMAT:
        raise ModelError(f"{folder} is of format {known!r}; this Bifocal reads {FORMAT}: export it again")
    return files


def check_manifest(folder: Path) -> None:
    """Every file is there, is the one that was written, and there is no other; a link is none, wherever it leads.

    Raises
    ------
    ModelError
        Naming the file.
    """
    expected = _manifest(folder)
    found = set(_files(folder)) - {MANIFEST}
    for name, facts in expected.items():
        path = folder / name
        if name not in found:
            raise ModelError(f"{path} is missing: copy the whole bundle again, or export it again")
        _check_plain(path)
        if path.stat().st_size != facts["bytes"] or file_sha256(path) != facts["sha256"]:
            raise ModelError(f"{path} is not the file that was exported: copy the bundle again, or export it again")
    if others := sorted(found - set(expected)):
        raise ModelError(f"{folder / others[0]} is none of the bundle's files: take it away")


def _check_plain(path: Path) -> None:
    """Raise `ModelError` where a part of a bundle is a link, or what a read would wait for: a pipe, a device."""
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        kind = "a link" if path.is_symlink() else "no plain file"
        raise ModelError(f"{path} is {kind}, and a bundle holds what it is made of: copy the bundle again, whole")


def _files(folder: Path) -> list[str]:
    """The paths of all files under a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def load_bundle(folder: Path, engine: str | None = None, *, strict_parity: bool = False) -> Bundle:
    """Check a bundle, then open it, and ask it again of the posts that it keeps (`bifocal.system.parity_probe`).

    Raises
    ------
    ModelError
        As `check_manifest`; where a model cannot be opened; where it decides otherwise than where it was exported and
        ``strict_parity`` (else that is a `ParityWarning`).
    RunError
        Where it was exported for another engine than the one asked for, or its policy is for other models.
    """
    check_manifest(folder)
    card = read_json(folder / CARD)
    if engine not in (None, card["engine"]):
        raise RunError(f"{folder} was exported for {card['engine']}, asked for is {engine}: export the run for it")
    config = _without_places(recorded_config(card["config"], where=str(folder / CARD)))
    policy = policy_of(folder)
    label = Taxonomy.from_json({config.label: card["label"]})[config.label]
    further = Taxonomy.from_json(card.get("labels", {})).labels
    opened = _open(folder, card, config)
    check_probe(folder, opened, policy, build_modalities(config), strict=strict_parity)
    return Bundle(config, opened, policy, label, card["text_role"], further)


def _without_places(config: RunConfig) -> RunConfig:
    """The same without folders of pictures outside a table's own: a bundle may come from anywhere, and opens none."""
    source = config.source.model_dump()
    for one in [source, *(m for m in source.get("sources") or [] if isinstance(m, dict))]:
        if isinstance(images := one.get("images"), str) and escapes_root(images):
            del one["images"]
    return config.model_copy(update={"source": SourceConfig.model_validate(source)})


def policy_of(folder: Path) -> Policy:
    """The policy of a bundle. Raises `RunError` as `Policy.load`, and where it is for other models than these."""
    policy, card = Policy.load(folder / POLICY), read_json(folder / CARD)
    further = card.get("further", {})
    if others := [label for label in policy.labels if label not in further]:
        raise RunError(
            f"{folder / POLICY} decides by {others[0]!r} too, for which there is no model here: export again"
        )
    for label, of in {policy.label: card, **further}.items():
        found = policy.of_label(label).versions
        for name, version in of["versions"].items():
            if found.get(name) != version:
                raise RunError(f"{folder / POLICY} is for {name} {found.get(name)}, here is {name} {version}")
    return policy


def _open(folder: Path, card: Mapping[str, Any], config: RunConfig) -> Engine:
    if card["engine"].startswith("torch"):
        from .torch_engine import TorchEngine

        space, modalities = Workspace(folder, config.run), build_modalities(config)
        return TorchEngine.load(space, modalities, name=card["engine"], further=list(card.get("labels", {})))
    from .onnx_engine import OnnxEngine

    sealed, further = _manifest(folder), card.get("further", {})
    models = [model for of in (card, *further.values()) for model in (*of["experts"].values(), of["fusion"]) if model]
    for model in models:
        if "output" not in model and model["file"] not in sealed:
            raise ModelError(
                f"{folder / CARD} names the model {model['file']!r}, which is none of the bundle's files: a bundle "
                "holds what it is made of; export it again"
            )
    return OnnxEngine(card["engine"], folder, card["experts"], card["fusion"], further)


def folder_of(folder: Path, engine: str | None) -> Path:
    """The folder to load: a run's own, or that of its bundle for the engine asked for.

    Raises
    ------
    RunError
        Where there is no such engine, or no such bundle yet.
    """
    if engine is None or engine == "torch" or is_bundle(folder):
        return folder
    if engine not in ENGINES:
        raise RunError(f"there is no engine {engine!r}; {nearest(engine, ENGINES)}")
    if not is_bundle(bundle_of(folder, engine)):
        raise RunError(
            f"{folder} has no bundle for {engine} (sought at {bundle_of(folder, engine)}): "
            f"`bifocal export {folder} --engine {engine}` makes it"
        )
    return bundle_of(folder, engine)
