"""Counts the rooms of the package and the imports between them, and draws the picture in architecture.md from these.

    python docs/architecture.py             # write the picture anew, and print the counts
    python docs/architecture.py --check     # print the counts; exit 1 where the picture is another than the imports

Every import counts: also those under TYPE_CHECKING and those inside functions.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

import networkx as nx

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src" / "bifocal"
LAYERS = (
    ("errors", "example", "contracts", "plugins", "config", "workspace", "spreadsheet"),
    ("evaluate",),
    ("decide",),
    ("modalities",),
    ("transcribe",),
    ("files",),
    ("sources",),
    ("scale",),
    ("data",),
    ("models",),
    ("fit",),
    ("diagnose",),
    ("system",),
    ("assess",),
    ("report",),
    ("deploy", "monitor", "pipeline"),
    ("lab",),
    ("client", "serve"),
    ("cli",),
)
"""Low to high. A file imports from its own room and from rooms of lower layers; those of the first are one room."""
FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}
ENTRANCES = ("__init__", "__main__")
"""The doors of the package: they open any room, and no room asks more of them than the version."""
START, END = "<!-- drawn by docs/architecture.py -->\n", "<!-- end -->\n"


def module_of(path: Path, package: Path = PACKAGE) -> str:
    """``system/bundle.py`` -> ``system.bundle``; a package is its own name."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def import_graph(package: Path = PACKAGE) -> nx.DiGraph:
    """Modules of the package, with an edge from each to those that it imports."""
    files = {module_of(path, package): path for path in sorted(package.rglob("*.py"))}
    graph = nx.DiGraph()
    graph.add_nodes_from(files)
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [name.name.split(".") for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = [package.name, *path.relative_to(package).parts[:-1]]
                start = above[: len(above) - node.level + 1] if node.level else []
                start = start + (node.module.split(".") if node.module else [])
                names = [[*start, name.name] for name in node.names]
            else:
                continue
            for name in names:
                if name[0] == package.name:
                    known = (".".join(name[1:end]) for end in range(len(name), 1, -1))
                    graph.add_edge(module, next((m for m in known if m in files), "__init__"))
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return graph


def room_of(module: str) -> str:
    return module.partition(".")[0]


def without_entrances(graph: nx.DiGraph) -> nx.DiGraph:
    return graph.subgraph(module for module in graph if room_of(module) not in ENTRANCES)


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Modules that import one another, directly or not."""
    found = nx.strongly_connected_components(without_entrances(graph))
    return sorted(sorted(group) for group in found if len(group) > 1)


def upward(graph: nx.DiGraph) -> list[tuple[str, str]]:
    """Imports from a higher layer, or from another room of the same one, but for the first."""
    return [
        (a, b)
        for a, b in without_entrances(graph).edges
        if FLOOR[room_of(a)] < FLOOR[room_of(b)]
        or (room_of(a) != room_of(b) and FLOOR[room_of(a)] == FLOOR[room_of(b)] > 0)
    ]


def private(graph: nx.DiGraph) -> list[tuple[str, str]]:
    """Imports of a ``_private`` module from outside the package that it lies in."""
    edges = without_entrances(graph).edges
    return [
        (a, b)
        for a, b in edges
        if (name := b.rpartition("."))[2].startswith("_") and not f"{a}.".startswith(f"{name[0]}.")
    ]


def boxes(graph: nx.DiGraph) -> dict[str, str]:
    """Module -> the room that it is drawn in; the files of the first layer are one, ``base``."""
    return {module: room_of(module) if FLOOR[room_of(module)] else "base" for module in without_entrances(graph)}


def rooms(graph: nx.DiGraph) -> nx.DiGraph:
    """Rooms with an edge from each to those that it imports from."""
    box = boxes(graph)
    found = nx.DiGraph()
    found.add_nodes_from(box.values())
    found.add_edges_from((box[a], box[b]) for a, b in without_entrances(graph).edges if box[a] != box[b])
    return found


def picture(graph: nx.DiGraph) -> str:
    """A Mermaid diagram of the rooms: an arrow to what is imported, left out where others lead there as well."""
    house, files = rooms(graph), Counter(boxes(graph).values())
    arrows = nx.transitive_reduction(house)
    order = sorted(house, key=lambda room: (-FLOOR.get(room, 0), room))
    lines = [f'    {room}["{room} ({files[room]})"]' for room in order]
    lines += [f"    {a} --> {b}" for a in order for b in sorted(arrows[a])]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"]) + "\n"


def counts(graph: nx.DiGraph, package: Path = PACKAGE) -> str:
    """What a reader of the package meets, in a line."""
    top = sum(path.suffix == ".py" for path in package.iterdir())
    floors = nx.dag_longest_path_length(nx.condensation(rooms(graph))) + 1
    return (
        f"{graph.number_of_nodes()} files, {top} of them at the top; {floors} floors, {len(circles(graph))} circles, "
        f"{len(upward(graph))} upward imports, {len(private(graph))} imports of private modules from outside"
    )


def main() -> int:
    document, graph = HERE / "architecture.md", import_graph()
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    drawn = before + START + picture(graph) + END + rest.partition(END)[2]
    print(counts(graph))
    if "--check" in sys.argv:
        return int(drawn != text)
    document.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
