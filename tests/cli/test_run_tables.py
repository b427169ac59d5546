"""What a finished run shows: a table for each label, and a line to try next, with the plug-ins that it needs."""

import re
from io import StringIO

from rich.console import Console

from bifocal.cli.console import ConsoleReporter, say
from bifocal.cli.run_tables import _plugins_of, print_results
from bifocal.workspace import Workspace, write_json


def test_a_plugin_that_was_only_tried_needs_not_be_allowed(tmp_path):
    space = Workspace(tmp_path, "r")
    fusion = {"strategy": "auto", "options": {"candidates": ["mine.product:Product", "mean"]}}
    config = {"modalities": ["text", "mine.sound:Sound"], "experts": {"text": {"encoder": "auto"}}, "fusion": fusion}
    write_json(space.record, {"config": config})
    assert _plugins_of(space) == {"mine.sound:Sound"}
    write_json(space.expert("text_expert") / "bifocal.json", {"encoder": "mine.reader:Reader"})
    write_json(space.expert("vision_expert") / "bifocal.json", {"encoder": "hf_image"})
    write_json(space.fusion / "config.json", {"strategy": "mean", "state": {}})
    assert _plugins_of(space) == {"mine.sound:Sound", "mine.reader:Reader"}
    members = {"mine.product:Product": {}, "mean": {}}
    write_json(space.fusion / "config.json", {"strategy": "ensemble", "state": {"members": members}})
    assert _plugins_of(space) == {"mine.sound:Sound", "mine.reader:Reader", "mine.product:Product"}


def test_each_label_has_its_table_and_gains(labels_run, capsys):
    print_results(labels_run, as_json=False)
    told = capsys.readouterr().out
    tables = told.split("labels: ")[1:]
    assert [table.partition(",")[0] for table in tables] == ["urgent", "paid", "kind"]
    for table in tables:
        assert "mm_fusion" in table and "gain of mm_fusion over tabular_expert (" in table
    assert "mm_fusion at" in tables[1] and "mm_fusion at" not in tables[2]  # of three classes
    assert told.count("report: ") == told.count("try it:") == told.count("next:") == 1
    assert f"`bifocal score {labels_run} NEW.csv" in told and "in words: AUROC: how often" in told


def test_sentences_end_their_lines_between_words_on_a_terminal_and_stay_whole_elsewhere():
    sentence = "a sentence of some " + " ".join(f"word{i}" for i in range(30)) + " and averylongname" + "x" * 90
    for is_terminal in (True, False):
        out = StringIO()
        console = Console(file=out, width=80, force_terminal=is_terminal, no_color=True, highlight=False)
        say(console, sentence, "  ")
        lines = out.getvalue().splitlines()
        assert " ".join(line.strip() for line in lines) == sentence
        assert len(lines) == 1 if not is_terminal else max(len(line) for line in lines[:-1]) <= 80


def test_a_step_that_took_a_while_says_how_long(monkeypatch):
    now = iter([0.0, 65.5, 65.5, 66.0])
    monkeypatch.setattr("bifocal.cli.console.perf_counter", lambda: next(now))
    reporter = ConsoleReporter(silent=False)
    reporter.console = Console(file=StringIO(), width=80, force_terminal=True, no_color=True)
    with reporter:
        reporter.step("ocr", skipped=False)
        reporter.step("splits", skipped=False)
    told = re.sub(r"\x1b\[[\d;?]*\w", "", reporter.console.file.getvalue())
    assert [line.strip() for line in told.splitlines()] == ["ocr", "ocr took 65.5 s", "splits"]
