"""What Bifocal says: help, what a run prints, its report and its model cards; numbers as #, as they are no words."""

import pytest
from tests.compatibility.snapshots import on_a_quiet_terminal, visible_text, without_fractions, without_numbers

WIDTH = 100


def test_help_of_every_command(snapshot):
    import typer

    from bifocal.__main__ import app

    texts = []

    def walk(command, name, parent):
        context = command.context_class(command, info_name=name, parent=parent, terminal_width=WIDTH)
        texts.append(f"$ {context.command_path} --help\n{command.get_help(context)}")
        for inner, sub in sorted(getattr(command, "commands", {}).items()):
            walk(sub, inner, context)

    walk(typer.main.get_command(app), "bifocal", None)
    snapshot("help.txt", "\n\n\n".join(texts))


def test_help_is_printed_so(tmp_path, snapshot):
    done = on_a_quiet_terminal("policy", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    snapshot("help_printed.txt", done.stdout)


def test_what_a_run_prints(pilot, snapshot):
    for name in ("output", "errors"):
        snapshot(f"pilot_{name}.txt", without_fractions((pilot / f"{name}.txt").read_text(), {str(pilot): "FOLDER"}))


def test_what_a_run_that_is_done_prints(pilot, snapshot, tmp_path):
    done = on_a_quiet_terminal(
        "run", pilot / "pilot.yaml", "--runs", pilot / "runs", "--dry-run", "--set", "bootstrap=200", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    snapshot("dry_run.txt", without_numbers(without_fractions(done.stdout, {str(pilot): "FOLDER"})))


@pytest.mark.parametrize("name", ["report.md", "index.html"])
def test_the_report(name, pilot, snapshot):
    text = (pilot / "runs" / "pilot" / "report" / name).read_text(encoding="utf-8")
    snapshot(f"{name}.txt", without_numbers(visible_text(text) if name.endswith(".html") else text))


@pytest.mark.parametrize("model", ["text_expert", "vision_expert", "mm_fusion"])
def test_model_cards(model, pilot, snapshot):
    text = (pilot / "runs" / "pilot" / "models" / model / "README.md").read_text(encoding="utf-8")
    snapshot(f"card_of_{model}.md", without_numbers(text))
