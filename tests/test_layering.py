"""Imports go down the layers of the house, also those inside functions; only TYPE_CHECKING may look up."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bifocal

ROOT = Path(bifocal.__file__).parent
LAYERS = [
    {"errors", "example", "contracts", "plugins", "config", "workspace", "spreadsheet"},
    {"evaluate"},
    {"decide"},
    {"modalities"},
    {"transcribe"},
    {"files"},
    {"sources"},
    {"data"},
    {"models"},
    {"fit", "evidence", "expert", "fusion"},
    {"diagnose"},
    {
        "system",
        "posts",
        "readers",
        "engine",
        "torch_engine",
        "onnx_engine",
        "onnx_weights",
        "parity_probe",
        "bundle",
        "explanation",
        "score",
    },
    {"assess", "results", "reference", "slicing", "functional", "robustness"},
    {"report"},
    {"pipeline", "steps", "train", "plan", "inspection"},
    {"deploy", "monitor", "policies", "export", "decisions", "drift_watch"},
    {"lab", "experiment", "encoded_again"},
    {"client", "serve"},
    {"cli", "doctor", "console", "__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a file imports, TYPE_CHECKING blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    package = ["bifocal", *path.relative_to(ROOT).parts[:-1]]
    rooms = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        rooms |= {name[1] for name in names if name[0] == "bifocal" and len(name) > 1}
    return rooms & set(FLOOR)


def test_every_file_has_a_floor():
    assert {room_of(p) for p in FILES} <= set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    floor = FLOOR[room_of(path)]
    upward = {room for room in imported_rooms(path) if FLOOR[room] > floor}
    assert not upward, f"{path.name} on floor {floor} imports {upward} from above"


def test_the_light_rooms_do_not_import_torch():
    code = (
        "import sys, bifocal, bifocal.config, bifocal.workspace, bifocal.evaluate.metrics, bifocal.decide.policy, "
        "bifocal.modalities.text, bifocal.modalities.image, bifocal.modalities.tabular, "
        "bifocal.sources.hateful_memes, bifocal.sources.table, bifocal.pipeline.inspect, bifocal.data.compose, "
        "bifocal.data.manifest, bifocal.data.shards, bifocal.cli.app\n"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
