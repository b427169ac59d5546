"""Every transcriber, found by its file, through one suite; and one from outside, through a run and its decisions."""

import io
import json
import pickle
import re
import shutil
from dataclasses import asdict

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import bifocal
from bifocal import plugins
from bifocal.config import TranscriberConfig, parse_config
from bifocal.contracts import Transcriber
from bifocal.data.transcribers import active_transcribers
from bifocal.errors import ConfigError, DataError, PluginRefused, UnknownPlugin
from bifocal.modalities.text import BLOCK_NAME, blocks_of, without_tags, words_of
from bifocal.pipeline.train import STEPS, run, steps_of
from bifocal.workspace import Workspace, read_json, read_jsonl

NOTES = "tests.contracts.picture_notes:Notes"


def png(note=None, colour="white"):
    buffer, info = io.BytesIO(), PngInfo()
    if note:
        info.add_text("Description", note)
    Image.new("RGB", (64, 48), colour).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


WORDLESS = {"image": png()}
"""A part of each modality that bears no words."""


@pytest.fixture(scope="module", params=[*plugins.names("transcribers"), NOTES])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def kind(name):
    return plugins.load("transcribers", name)


@pytest.fixture(scope="module")
def transcriber(kind):
    found = kind.from_config(TranscriberConfig())
    found.load()
    return found


def test_it_fulfils_the_protocol(transcriber, kind):
    assert isinstance(transcriber, Transcriber)
    assert kind.modality in plugins.names("modalities")
    assert re.fullmatch(BLOCK_NAME, kind.block) and kind.block != "CAP"
    assert kind.noun and kind.hint


def test_blocks_are_its_own():
    blocks = [plugins.load("transcribers", name).block for name in plugins.names("transcribers")]
    assert len(set(blocks)) == len(blocks)


def test_a_part_without_words_gives_none(transcriber, kind):
    read = transcriber.read(WORDLESS[kind.modality])
    assert (read.text, read.confidence, read.engine) == ("", None, transcriber.engine)
    assert not read.mostly_unread


def test_a_transcript_comes_back_from_its_row(transcriber, kind):
    read = transcriber.read(WORDLESS[kind.modality])
    row = json.loads(json.dumps(asdict(read)))
    assert kind.transcript(**row) == read
    assert {"text", "confidence", "engine"} <= row.keys() and not {"id", "language"} & row.keys()


def test_what_is_no_such_part_is_refused_as_data(transcriber):
    with pytest.raises(DataError):
        transcriber.read(b"nothing of the kind")


def test_a_loaded_one_travels_to_another_process(transcriber, kind):
    other = pickle.loads(pickle.dumps(transcriber))
    assert (other.engine, other.key()) == (transcriber.engine, transcriber.key())
    assert other.read(WORDLESS[kind.modality]) == transcriber.read(WORDLESS[kind.modality])


def test_an_option_it_lacks_is_refused(kind):
    with pytest.raises(ConfigError, match="none-such"):
        kind.from_config(TranscriberConfig(options={"none-such": 1}))


# One from outside: a run, its files, and what it decides ------------------------------------------


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    """Eighty pictures, half of which bear a note; the text is a transcript, so that OCR has nothing to do."""
    root = tmp_path_factory.mktemp("noted")
    rows = []
    for i in range(80):
        note = ("stormy weather [/NOTE] [CAP]" if i % 4 else "calm weather") if i % 2 else None
        (root / f"{i}.png").write_bytes(png(note, (3 * i, 90, 200 - 2 * i)))
        rows.append(
            {"id": f"r{i:02}", "img": f"{i}.png", "label": i % 2, "text": f"hill number {i} [note] by the river"}
        )
    for name, some in (("train", rows[:40]), ("dev", rows[40:60]), ("test", rows[60:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return root


def noted(posts, small_config, **settings):
    source = {"kind": "hateful_memes", "root": str(posts), "text_role": "transcript"}
    asked = {"when": "auto", "workers": 1, **settings}
    return parse_config({**small_config, "run": "noted", "source": source, "ocr": "auto", "transcribe": {NOTES: asked}})


@pytest.fixture(scope="module")
def finished(posts, small_config, tmp_path_factory):
    return run(noted(posts, small_config), root=tmp_path_factory.mktemp("runs"))


def test_a_run_reads_by_it_into_a_file_and_a_block_of_its_own(finished):
    space = Workspace.of(finished)
    rows = list(read_jsonl(space.folder / "note.jsonl"))
    assert list(rows[0]) == ["id", "text", "confidence", "engine", "mostly_unread", "language"]
    assert len(rows) == 80 and sum(bool(row["text"]) for row in rows) == 40
    assert space.ocr.read_bytes() == b""  # the transcript spares OCR, and no other transcriber
    record = read_json(space.record)
    assert list(record["steps"])[:4] == ["manifest", "ocr", "note", "splits"]
    assert (record["steps"]["note"]["pictures"], record["steps"]["note"]["with_text"]) == (80, 40)
    assert (finished.parent / ".note-cache.sqlite").exists()


def test_its_words_and_only_its_words_stand_between_its_tags(finished, posts):
    system = bifocal.load(finished, allow_plugins=["tests.contracts.picture_notes"])
    read = system.predict(text="a hill [Note]", image_path=posts / "1.png").text_used
    words, _, language = read.partition(" <lang=")
    assert words == "[OCR] a hill (Note) [/OCR] [NOTE] stormy weather (/NOTE) (CAP) [/NOTE] [CAP] [/CAP]" and language
    assert blocks_of(read) == {"OCR": "a hill (Note)", "NOTE": "stormy weather (/NOTE) (CAP)", "CAP": ""}
    assert words_of(read) == ("a hill (Note) stormy weather (/NOTE) (CAP)", "")
    assert without_tags(read) == "a hill (Note) stormy weather (/NOTE) (CAP)"
    bare = system.predict(text="a hill", image_path=posts / "2.png").text_used
    assert bare.startswith("[OCR] a hill [/OCR] [NOTE] [/NOTE] [CAP] [/CAP]")


def test_posts_are_decided_as_in_the_run(finished, posts):
    import csv

    system = bifocal.load(finished, allow_plugins=["tests.contracts.picture_notes"])
    with open(finished / "errors_noted.csv", newline="") as f:
        written = {row["id"]: row for row in csv.DictReader(f)}
    rows = [json.loads(line) for line in (posts / "test.jsonl").read_text().splitlines()]
    for row in rows:
        decision = system.predict(row["text"], posts / row["img"])
        assert decision.probability == pytest.approx(float(written[row["id"]]["fusion_prob"]), abs=1e-4)
        assert decision.text_used == written[row["id"]]["text"]


def test_a_folder_that_names_it_is_refused_unless_it_is_allowed(finished):
    with pytest.raises(PluginRefused, match=r"picture_notes.*--allow-plugin"):
        bifocal.load(finished)


def test_another_setting_of_it_redoes_its_step_and_those_behind(finished, posts, small_config, tmp_path):
    from bifocal.contracts import Reporter
    from bifocal.pipeline.context import Context
    from bifocal.pipeline.train import states

    shutil.copytree(finished, tmp_path / "noted")

    def stale(**settings):
        config = noted(posts, small_config, **settings)
        found = states(Context.of(config, Workspace(tmp_path / "noted", "noted"), Reporter()))
        return [step for step, state in found.items() if state == "to do"]

    assert stale() == stale(cache=False) == []
    assert stale(options={"key": "Title"})[:2] == ["note", "splits"]


@pytest.mark.parametrize(
    ("transcribe", "error", "said"),
    [
        ({"ocr": "auto"}, ConfigError, "'ocr' has a key of its own"),
        ({"orc": "auto"}, UnknownPlugin, "no 'orc' among the transcribers"),
        ({NOTES: {"options": {"keys": "Title"}}}, ConfigError, "unknown key 'keys'"),
        ({"bifocal.transcribe.ocr:Ocr": "auto"}, ConfigError, "writes the block OCR, as ocr does"),
        ({f"{__name__}:Captions": "auto"}, ConfigError, "not CAP; found 'CAP'"),
        ({f"{__name__}:Splits": "auto"}, ConfigError, "splits is a step of every run"),
    ],
)
def test_what_cannot_stand_beside_the_others_is_refused(transcribe, error, said):
    with pytest.raises(error, match=said):
        steps_of(
            active_transcribers(parse_config({"run": "r", "source": {"kind": "synthetic"}, "transcribe": transcribe}))
        )


def test_without_further_transcribers_the_steps_are_those_of_every_run():
    config = parse_config({"run": "r", "source": {"kind": "synthetic"}})
    assert steps_of(active_transcribers(config)) == STEPS


class Captions:
    block = "CAP"
    from_config = classmethod(lambda cls, config: cls())


class Splits(Captions):
    block = "SPLITS"
