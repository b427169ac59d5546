"""The line to try next allows the outside plug-ins that the models are made of, and no other."""

from bifocal.cli.run_tables import _plugins_of
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
