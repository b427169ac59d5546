import json

import pytest
from PIL import Image

from bifocal import plugins
from bifocal.config import parse_config
from bifocal.errors import ConfigError, DataError
from bifocal.example import Rejected, Taxonomy
from bifocal.pipeline.train import run
from bifocal.sources.several import Several
from bifocal.workspace import Workspace, read_json, read_jsonl

WORDS = ("old stone bridge", "quiet grey river", "tall glass tower", "small copper kettle", "broad wooden table")


def folder(place, colours, texts, **fields):
    (place / "img").mkdir(parents=True)
    rows = []
    for i, (colour, text) in enumerate(zip(colours, texts, strict=True)):
        Image.effect_noise((64, 64), 90).convert("RGB").save(place / "img" / f"{i}.png")
        picture = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
        picture.paste(colour, (8 * (i % 5), 8, 8 * (i % 5) + 20, 40))
        picture.save(place / "img" / f"{i}.png")
        rows.append({"id": i, "img": f"img/{i}.png", "label": i % 2, "text": text, **fields})
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "hateful_memes", "root": str(place)}


def several(*sources, **options):
    given = {"sources": list(sources), **options}
    return plugins.options("source", "several", given, plugins.load("sources", "several"))


@pytest.fixture
def two(tmp_path):
    one = folder(tmp_path / "one", ["red", "green"], WORDS[:2]) | {"name": "one"}
    other = folder(tmp_path / "other", ["red", "blue", "black"], WORDS[:3]) | {"name": "other"}
    return [one, other | {"text_role": "caption"}]


def test_rows_come_in_turns_and_say_where_they_are_from(two):
    rows = list(several(*two))
    assert [row.id for row in rows] == ["one:0", "other:0", "one:1", "other:1", "other:2"]
    assert [row.meta["source"] for row in rows] == ["one", "other", "one", "other", "other"]
    assert rows[0].parts["image"] == "one:img/0.png"


def test_references_lead_to_the_right_source(two):
    source = several(*two)
    blobs = {source.open(row.parts["image"]) for row in source}
    assert len(blobs) == 4  # other:0 is one:0 again
    with pytest.raises(DataError, match="names no source of this run; did you mean 'other'"):
        source.open("othr:img/0.png")
    with pytest.raises(DataError, match="leads out"):
        source.open("one:../other/img/0.png")


def test_each_row_keeps_the_text_role_of_its_source(two):
    source = several(*two)
    assert [source.role_of(row) for row in source][:2] == ["transcript", "caption"]
    assert source.text_role == "transcript"
    assert several(*two, text_role="caption").text_role == "caption"


def test_rejected_rows_name_their_source(two, tmp_path):
    with open(tmp_path / "other" / "train.jsonl", "a") as f:
        f.write("{broken\n")
    rejected = [row for row in several(*two) if isinstance(row, Rejected)]
    assert [(row.id, row.where) for row in rejected] == [(None, "other: train.jsonl:4")]


def test_two_of_a_kind_need_names(two):
    unnamed = [{k: v for k, v in source.items() if k != "name"} for source in two]
    with pytest.raises(ConfigError, match="two sources are called hateful_memes: give each a `name`"):
        several(*unnamed)


def test_an_option_of_one_of_them_that_is_unknown_is_named(two):
    with pytest.raises(ConfigError, match="'hateful_memes': unknown key 'rot'; did you mean 'root'"):
        several(two[0], {**two[1], "rot": "x"})


def test_labels_are_joined_and_may_not_contradict(two):
    other = {**two[1], "label": "rude"}
    assert set(several(two[0], other).labels()) == {"abuse_hate", "rude"}
    synthetic = {"kind": "synthetic", "size": 4}
    assert Taxonomy(dict(several(two[0], synthetic).labels()))["abuse_hate"].classes == (0, 1)
    table = {"kind": "hateful_memes", "root": two[0]["root"], "label": "cue_pair", "name": "odd"}
    with pytest.raises(ConfigError, match="label 'cue_pair' has the classes"):
        several(synthetic, table).labels()


def test_a_list_in_the_configuration_makes_one_run_and_groups_duplicates_across(two, tmp_path):
    config = parse_config({"run": "both", "source": two, "ocr": "never", "limit": 5, "splits": {"val": 0, "test": 0}})
    assert config.source.kind == "several"
    space = Workspace.of(run(config, root=tmp_path / "runs", until="shards"))
    assert [row["meta"]["source"] for row in read_jsonl(space.manifest)] == ["one", "other", "one", "other", "other"]
    groups = read_json(space.groups)
    assert groups["one:0"] == groups["other:0"] == "one:0"
    assert groups["one:1"] == groups["other:1"]  # the same three words
    assert groups["other:2"] == "other:2"


def test_it_needs_at_least_one():
    with pytest.raises(ConfigError, match="sources"):
        several()
    assert Several.model_fields["sources"].is_required()


def test_several_within_several_are_refused(two):
    with pytest.raises(ConfigError, match="`several` within `several` is refused: list all sources under one"):
        several({"kind": "several", "sources": two}, two[0])
