"""What a finished run shows: a table for each label, and a line to try next, with the plug-ins that it needs."""

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
    assert told.count("report: ") == told.count("try it:") == 1
