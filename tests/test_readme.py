"""The README's commands are run as they are written, in order, in an empty folder beside the configurations."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line[2:].split("   #")[0].strip() for line in README.splitlines() if line.startswith("$ ")]
LONG = next(command for command in COMMANDS if command.startswith("bifocal lab "))
"""Trains every fusion, joint ones too: for the long suites."""
NEEDS_A_HUB = "bifocal run full --set source.root=memes"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    rows = [(i, "yes" if i % 3 == 0 else "no") for i in range(60)]
    texts = [f"{i},the {'scum' if y == 'yes' else 'guests'} at number {i} are late again,{y}" for i, y in rows]
    (folder / "posts.csv").write_text("\n".join(["id,body,hateful", *texts]), encoding="utf-8")
    return folder


def test_the_readme_opens_with_two_commands_for_own_posts_then_make_demo_and_make_test():
    assert COMMANDS[1:5] == ["bifocal init posts.csv", "bifocal run posts.yaml", "make demo", "make test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for command in COMMANDS:
        if command.startswith("make "):
            assert command.split()[1] in targets


def test_the_commands_of_the_readme_run_as_written(place, command, request):
    ours = [command for command in COMMANDS if command.startswith("bifocal ")]
    assert len(ours) >= 5 and NEEDS_A_HUB in ours and LONG in ours
    if "not slow" in request.config.getoption("-m"):
        ours.remove(LONG)
    for line in ours:
        answer = command(*shlex.split(line)[1:], *(["--dry-run"] if line == NEEDS_A_HUB else []), cwd=place)
        assert answer.returncode == 0, f"{line}\n{answer.stderr}"
    assert (place / "decisions.csv").read_text().count("\n") > 1


def test_the_python_of_the_readme_runs_after_its_commands(place, monkeypatch):
    monkeypatch.chdir(place)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_every_file_that_the_documents_link_to_is_there():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
