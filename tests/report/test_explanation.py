"""The page of an explanation is inert and shows hostile posts as text; the heat map lies where the effects are."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from bifocal.contracts import Piece
from bifocal.report.explanation import (
    DOWN,
    FAINTEST,
    UP,
    framed,
    heat_map,
    marked,
    scale_of,
    to_html,
    write_explanation,
)
from bifocal.system.decision import Decision, Opinion
from bifocal.system.explain import Explanation, Weighed

TEXT = '[OCR] [/OCR] [CAP] <script>alert(1)</script> & "quoted" [/CAP] <lang=en>'
SIDE = 80


def weighed(name, place, effect):
    return Weighed(Piece(name, place), effect, 0.5)


def quarters(*effects):
    half = SIDE // 2
    boxes = [(x, y, x + half, y + half) for y in (0, half) for x in (0, half)]
    found = [weighed(f"quarter {i}", box, effect) for i, (box, effect) in enumerate(zip(boxes, effects, strict=True))]
    return tuple(sorted(found, key=lambda w: -abs(w.effect)))


@pytest.fixture
def explanation():
    words = [(m[0], m.span()) for m in re.finditer(r"\S+", TEXT)][3:6]
    values = {
        "text": TEXT,
        "image": Image.new("RGB", (SIDE, SIDE), (120, 200, 40)),
        "<b>record</b>": {"<i>price</i>": 3},
    }
    names = ["text", "image", "<b>record</b>"]
    subsets = {frozenset(): -0.5, **{frozenset({n}): 0.1 for n in names}, frozenset(names): 1.5}
    return Explanation(
        decision=Decision(
            probability=0.82, label=1, threshold=0.5, action="block", why="mm_fusion gives <0.82>",
            models={"mm_fusion": Opinion(0.82, 1)}, present=dict.fromkeys(names, True), text_used=TEXT, language="en",
            versions={},
        ),
        explains=1,
        score=1.5,
        baseline=-0.5,
        threshold=0.0,
        contributions={"text": 1.5, "image": 1.0, "<b>record</b>": -0.5},
        subsets=subsets,
        pieces={
            "text": tuple(weighed(w, p, e) for (w, p), e in zip(words, (2.0, -1.0, 0.01), strict=True)),
            "image": quarters(0.0, 1.0, -0.5, 0.0),
            "<b>record</b>": (weighed("<i>price</i>", (), -0.5), weighed("town", (), 0.1)),
        },
        values=values,
    )  # fmt: skip


def test_nothing_of_the_post_becomes_markup_and_nothing_is_asked_of_a_server(explanation):
    page = to_html(explanation)
    for hostile in ("<script", "<b>", "<i>price", "<0.82>", '"quoted"'):
        assert hostile not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "&lt;i&gt;price&lt;/i&gt;" in page
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:https?:)?//[a-z]|url\(| on[a-z]+=", re.sub(r'src="data:[^"]*"', "", page))
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))


def test_in_a_frame_the_page_stays_whole_and_cannot_leave_it(explanation):
    frame = ElementTree.fromstring(framed(explanation, height=300).replace("<iframe sandbox", '<iframe sandbox=""'))
    assert (frame.tag, frame.get("height"), frame.get("sandbox")) == ("iframe", "300", "")
    assert frame.text is None and " ".join(frame.get("srcdoc").split()) == " ".join(to_html(explanation).split())


def test_the_page_says_every_number_that_a_reader_needs(explanation):
    words = " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", to_html(explanation), flags=re.DOTALL).split())
    numbers = ("the post +1.50 0.818", "threshold +0.00 0.500", "quarter 1 +1.00", "quarter 2 -0.50", "town +0.10")
    for said in ("block", "baseline: nothing known -0.50", "text +1.50", "image +1.00", "against, -2.00", *numbers):
        assert said in words


def test_the_marked_text_is_the_whole_text_with_each_word_as_strong_as_its_effect(explanation):
    runs = list(marked(TEXT, explanation.pieces["text"]))
    assert "".join(run for run, _, _ in runs) == TEXT
    strong = {run: (w.effect, colour) for run, w, colour in runs if w is not None}
    assert strong == {"<script>alert(1)</script>": (2.0, 70), "&": (-1.0, 35), '"quoted"': (0.01, 0)}


def test_the_heat_map_is_vermilion_where_regions_speak_for_and_blue_where_against(explanation):
    shown = np.asarray(heat_map(explanation.values["image"], explanation.pieces["image"]), dtype=float)
    plain, up, down = shown[20, 20], shown[20, 60], shown[60, 20]
    assert np.ptp(plain) == 0  # grey, though the picture is green
    assert up[0] > up[1] > up[2] and down[2] > down[1] > down[0]
    assert np.abs(up - UP).sum() < np.abs(plain - UP).sum() and np.abs(down - DOWN).sum() < np.abs(plain - DOWN).sum()
    assert np.abs(up - plain).sum() > np.abs(down - plain).sum()  # twice the effect
    assert (shown[0, 40:] == 0).all() and (shown[39, 40:] == 0).all()  # the strongest is framed
    assert (shown[0, :39] != 0).all()


def test_noise_is_not_painted_as_a_reason():
    assert scale_of(quarters(0.001, 0.0, -0.002, 0.0)) == FAINTEST == scale_of(())
    faint = np.asarray(heat_map(Image.new("RGB", (SIDE, SIDE), "white"), quarters(0.001, 0.0, -0.002, 0.0)))
    assert np.ptp(faint[45:75, 5:35].astype(int), axis=2).max() <= 4


def test_what_is_written_is_a_page_a_picture_and_json(explanation, tmp_path):
    written = write_explanation(explanation, tmp_path / "new" / "folder")
    assert {name: path.name for name, path in written.items()} == {
        "page": "explanation.html", "json": "explanation.json", "image": "explanation_image.png",
    }  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(p.name for p in written.values())
    assert json.loads(written["json"].read_text()) == json.loads(json.dumps(explanation.to_dict()))
    with Image.open(written["image"]) as picture:
        assert picture.width == SIDE and picture.height > SIDE  # a legend below


def test_a_part_without_pieces_is_shown_as_it_is(explanation, tmp_path):
    for name in explanation.pieces:
        explanation.pieces[name] = ()
    assert to_html(explanation).count("There is no second piece to compare with.") == 3
    assert "image" not in write_explanation(explanation, tmp_path)
