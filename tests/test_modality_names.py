"""A kind of part is known to its own file: no other names it, but for the places here, each with its reason.

What counts is a string that equals the name, suffix or expert of a modality, and a parameter, keyword or field of that
name. The list only gets shorter: a new place fails the test, and so does one that is gone and still stands in it.
"""

import ast
from collections import Counter
from pathlib import Path

import bifocal
from bifocal import plugins
from bifocal.config import parse_config
from bifocal.modalities import every_modality

PACKAGE = Path(bifocal.__file__).parent
THEIR_OWN = ("modalities/", "transcribe/", "models/encoders/", "sources/", "config.py")
"""Where kinds of parts, what reads them and what is configured of them are at home."""
MOST = 10
"""Places at most that may name one."""
PLACES = {
    "system/system.py": (8, "the signatures of predict and explain"),
    "client.py": (4, "the signatures of predict, of both clients"),
    "cli/decide.py": (10, "the options of predict and explain"),
    "files/columns.py": (12, "the options of a table's source"),
    "evaluate/error_table.py": (1, "a column of errors_<run>.csv; no modality is known to arrays and figures"),
    "serve/log/records.py": (2, "fields named as the log's columns are"),
    "serve/log/migrations/versions/0001_the_decision_log_and_the_review_queue.py": (
        2,
        "the log's columns as they were",
    ),
    "serve/compat/schemas.py": (5, "the bodies of other services' APIs, whose names these are"),
    "pipeline/inspect.py": (1, "the English word: a cell that is no number"),
    "report/figures.py": (2, "the file format of a drawing"),
}
"""File -> how often at most it names a part, and why."""


def names():
    found = set()
    for image_format in ("png", "webp", "jpeg"):
        config = parse_config({"run": "x", "source": {"kind": "none"}, "image_format": image_format})
        for name, modality in every_modality(config).items():
            found |= {name, modality.suffix, modality.expert_name}
    assert found >= set(plugins.names("modalities"))
    return found


def named(tree, known):
    """Lines of a module that name a part."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            found = [node] if isinstance(node.value, str) and node.value in known else []
        elif isinstance(node, ast.ClassDef):
            fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
            found = [field for field in fields if isinstance(field.target, ast.Name) and field.target.id in known]
        else:
            found = [node] if isinstance(node, ast.arg | ast.keyword) and node.arg in known else []
        yield from (one.lineno for one in found)


def test_no_other_file_names_a_kind_of_part():
    known, found, lines = names(), Counter(), {}
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if not file.startswith(THEIR_OWN):
            lines[file] = sorted(named(ast.parse(path.read_text(encoding="utf-8")), known))
            found[file] = len(lines[file])
    more = {file: lines[file] for file, n in found.items() if n > PLACES.get(file, (0, ""))[0]}
    assert not more, f"these lines name a part that its own file is to say all of: {more}"
    gone = sorted(file for file in PLACES if not found[file])
    assert not gone, f"these name none any more: take them off the list {gone}"
    assert len(PLACES) <= MOST


def test_what_counts_is_seen():
    source = "def f(text): g(image=1)\nclass A:\n    tabular: int\n    def m(self): return 'vision_expert', 'a text'\n"
    assert sorted(named(ast.parse(source), names())) == [1, 1, 3, 4]
