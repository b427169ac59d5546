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
COLUMNS = "options of a source and columns of files that others write: a contract"
ANOTHERS = "the shape of another service's API, whose names these are"
WORD = "the English word, or a file format, and no part"
PLACES = {
    "system/system.py": (8, "the signatures of predict and explain"),
    "client.py": (4, "the signatures of predict, of both clients"),
    "cli/decide.py": (10, "the options of predict and explain"),
    "files/columns.py": (14, COLUMNS),
    "files/layouts.py": (3, COLUMNS),
    "data/transcribe.py": (4, COLUMNS),
    "evaluate/error_table.py": (1, COLUMNS),
    "report/findings.py": (2, COLUMNS),
    "cli/decision_tables.py": (2, COLUMNS),
    "serve/log/records.py": (2, "fields named as the log's columns are"),
    "serve/log/migrations/versions/0001_the_decision_log_and_the_review_queue.py": (
        2,
        "the log's columns as they were",
    ),
    "serve/compat/discovery.py": (1, ANOTHERS),
    "serve/compat/moderations.py": (2, ANOTHERS),
    "serve/compat/perspective.py": (3, ANOTHERS),
    "data/compose.py": (3, "the part that is composed, and the one whose words are read: named once for all others"),
    "models/tabular_expert.py": (1, "what the encoders of records have in common"),
    "cli/run_tables.py": (1, WORD),
    "pipeline/inspect.py": (1, WORD),
    "report/explanation.py": (1, WORD),
    "report/figures.py": (2, WORD),
    "report/tables.py": (1, WORD),
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


def test_what_counts_is_seen():
    source = "def f(text): g(image=1)\nclass A:\n    tabular: int\n    def m(self): return 'vision_expert', 'a text'\n"
    assert sorted(named(ast.parse(source), names())) == [1, 1, 3, 4]
