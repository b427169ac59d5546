"""Every modality, found by its file, through one suite; a new one needs no entry here, but a raw sample helps."""

import io
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image as Pillow

from bifocal import plugins
from bifocal.config import RunConfig, parse_config
from bifocal.contracts import Attackable, Convertible, Input, Modality, Occludable, Piece, Sequential
from bifocal.errors import ConfigError, DataError
from bifocal.modalities.image import with_word_boxes

sys.path.append(str(Path(__file__).parents[2] / "examples" / "link"))
NAMES = (*plugins.names("modalities"), "bifocal_link:Link")
"""Those that come with Bifocal, and the one of the examples."""


def _png():
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(noise).resize((320, 240)).save(buffer, "PNG")
    return buffer.getvalue()


RAW = {
    "text": "[OCR] one two three four five [/OCR] [CAP] six seven eight [/CAP] <lang=en>",
    "image": _png(),
    "bifocal_link:Link": "https://www.Example.org/some/old/pages?who=me",
    "tabular": {
        " rooms": 3,
        "size": 52.5,
        "floor": "4",
        "town": "Bree ",
        "lift": True,
        "pets": "",
        "day": "2019-05-21",
    },
}
"""A raw part for each modality that cannot be tested by its blank value alone."""


ATTACKED = {
    "image": lambda value: with_word_boxes(value, [[(40, 40), (200, 40), (200, 80), (40, 80)]], (320, 240), "pad")
}
"""What makes a value one that every attack of its modality does something to."""


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def modality(name):
    return plugins.load("modalities", name).from_config(parse_config({"run": "test", "source": {"kind": "none"}}))


@pytest.fixture
def value(name, modality):
    return modality.read(RAW[name]) if name in RAW else modality.blank()


def same(a, b):
    return type(a) is type(b) and np.array_equal(np.asarray(a), np.asarray(b))


def test_the_protocol_is_fulfilled(modality):
    assert isinstance(modality, Modality)
    for attribute in (modality.suffix, modality.expert_name, modality.encoder):
        assert isinstance(attribute, str)
        assert attribute
    assert isinstance(modality.input, Input)
    assert isinstance(modality.lossless, bool)
    assert modality.expert_name.endswith("_expert")
    assert len(set(modality.corruptions)) == len(modality.corruptions) > 0


@pytest.mark.parametrize("image_format", get_args(RunConfig.model_fields["image_format"].annotation))
def test_suffixes_and_experts_are_unique(image_format):
    config = parse_config({"run": "test", "source": {"kind": "none"}, "image_format": image_format})
    modalities = [plugins.load("modalities", name).from_config(config) for name in NAMES]
    for attribute in ("suffix", "expert_name"):
        found = [getattr(modality, attribute) for modality in modalities]
        assert len(set(found)) == len(found)
    assert "json" not in [modality.suffix for modality in modalities]  # the sample's own member


def test_packing_loses_nothing(modality, value):
    for original in (value, modality.blank()):
        blob = modality.pack(original)
        assert isinstance(blob, bytes)
        assert same(modality.unpack(blob), original)
        assert modality.pack(modality.unpack(blob)) == blob


def test_reading_and_blanking_are_deterministic(name, modality, value):
    assert same(modality.blank(), modality.blank())
    if name in RAW:
        assert same(modality.read(RAW[name]), value)


def test_reading_what_was_packed_changes_nothing(name, modality, value):
    if name not in RAW:
        pytest.skip("no raw sample")
    blob = modality.pack(value)
    assert same(modality.read(blob if modality.input.is_file else modality.unpack(blob)), value)


def test_facts_are_json_and_repeatable(name, modality):
    if name not in RAW:
        pytest.skip("no raw sample")
    facts = modality.facts(RAW[name])
    assert facts == modality.facts(RAW[name])
    assert all(isinstance(key, str) and isinstance(fact, str | int | float) for key, fact in facts.items())


@pytest.mark.parametrize("raw", [None, 3.5, ["a", "list"]])
def test_facts_refuse_what_is_no_such_part(modality, raw):
    with pytest.raises(DataError) as error:
        modality.facts(raw)
    assert "\n" not in str(error.value)


def test_corruptions(name, modality, value):
    for kind in modality.corruptions:
        for severity in range(1, 6):
            before = modality.pack(value)
            once, again = (modality.corrupt(value, kind, severity, np.random.default_rng(7)) for _ in range(2))
            assert same(once, again), (kind, severity)
            assert type(once) is type(value)
            assert modality.pack(value) == before, "the original was altered"
            assert same(modality.unpack(modality.pack(once)), once)
            if name in RAW:
                assert not same(once, value), (kind, severity)


def test_attacks(name, modality, value):
    if not isinstance(modality, Attackable):
        pytest.skip("cannot be attacked")
    value = ATTACKED.get(name, lambda value: value)(value)
    for kind, severities in modality.attacks.items():
        assert severities and set(severities) <= set(range(1, 6))
        for severity in severities:
            before = modality.pack(value)
            once, again = (modality.corrupt(value, kind, severity, np.random.default_rng(7)) for _ in range(2))
            assert same(once, again), (kind, severity)
            assert type(once) is type(value)
            assert modality.pack(value) == before, "the original was altered"
            assert same(modality.unpack(modality.pack(once)), once)
            assert not same(once, value), (kind, severity)
            with pytest.raises(ConfigError):
                modality.corrupt(value, kind, max(severities) + 1, np.random.default_rng(7))


def test_unknown_corruptions_are_refused(modality, value):
    for kind, severity in (("none-such", 1), (modality.corruptions[0], 0), (modality.corruptions[0], 6)):
        with pytest.raises(ConfigError):
            modality.corrupt(value, kind, severity, np.random.default_rng(0))


@pytest.mark.parametrize("pieces", [None, 4])
def test_occlusions_hide_one_piece_each_and_leave_the_value_alone(name, modality, value, pieces):
    if not isinstance(modality, Occludable):
        pytest.skip("has no pieces")
    before = modality.pack(value)
    hidden = modality.occlusions(value, pieces)
    assert modality.pack(value) == before, "the original was altered"
    assert all(isinstance(piece, Piece) and piece.name for piece, _ in hidden)
    assert len({piece for piece, _ in hidden}) == len(hidden) != 1
    for piece, covered in hidden:
        assert type(covered) is type(value)
        assert all(isinstance(number, int) for number in piece.place)
        assert same(modality.unpack(modality.pack(covered)), covered)
        if name in RAW:
            assert not same(covered, value), piece
    again = modality.occlusions(value, pieces)
    assert [piece for piece, _ in again] == [piece for piece, _ in hidden]
    assert all(same(a, b) for (_, a), (_, b) in zip(again, hidden, strict=True))
    if name in RAW:
        assert len(hidden) > 1


def test_what_has_no_second_piece_has_no_occlusions(modality):
    if not isinstance(modality, Occludable):
        pytest.skip("has no pieces")
    for _, covered in modality.occlusions(modality.blank()):
        assert same(covered, modality.blank())  # a blank picture has regions, and they hide nothing
    assert modality.occlusions(modality.blank(), 1) == []


def test_what_shows_one_thing_is_one_moment(name, modality, value):
    if not isinstance(modality, Sequential) or name not in RAW:
        pytest.skip("shows one thing")
    assert [same(moment, value) for moment in modality.moments(RAW[name])] == [True]


def test_what_is_kept_gives_the_value_back(modality, value):
    if not isinstance(modality, Convertible):
        pytest.skip("is kept as it came")
    assert same(modality.restore(modality.keep(value)), value)


def test_inputs_name_arguments_and_columns_of_their_own():
    inputs = [plugins.load("modalities", name).input for name in NAMES]
    for attribute in ("argument", "title"):
        found = [given for one in inputs if (given := getattr(one, attribute))]
        assert len(set(found)) == len(found)
    own = [one.kept_as for one in inputs if one.kept_as != "parts"]
    assert len(set(own)) == len(own)
