import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from bifocal import plugins
from bifocal.errors import ConfigError, DataError
from bifocal.example import Example
from bifocal.sources._synthetic_pictures import BAND, SIDE
from bifocal.sources._synthetic_texts import VOCABULARIES
from bifocal.sources.hateful_memes import HatefulMemes
from bifocal.sources.synthetic import STRUCTURES, Synthetic

LANGUAGES = sorted(VOCABULARIES)


def synthetic(**options) -> Synthetic:
    return plugins.options("source", "synthetic", options, Synthetic)


def bits(rows) -> np.ndarray:
    """[n, 3]: t, v, y."""
    return np.array([[row.labels[name] for name in ("cue_text", "cue_image", "abuse_hate")] for row in rows])


def picture(source, row) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(source.open(row.parts["image"]))).convert("RGB")).astype(int)


def t_of_words(caption: str, language: str) -> set[int]:
    words = set(caption.lower().split())
    return {t for t in (0, 1) if words & VOCABULARIES[language].cue_words(t)}


# ---------------------------------------------------------------- the structures and what can be known of them


@pytest.mark.parametrize("structure", STRUCTURES)
def test_known_accuracy_is_what_4000_rows_show(structure):
    positives, noise = 0.5 if structure == "xor" else 0.3, 0.1
    source = synthetic(size=4000, structure=structure, positives=positives, label_noise=noise)
    found = bits(source)
    for name, seen in (("text", [0]), ("image", [1]), ("both", [0, 1])):
        cells = Counter(map(tuple, found[:, [*seen, 2]]))
        right = sum(max(cells[(*key, 0)], cells[(*key, 1)]) for key in {cell[:-1] for cell in cells})
        assert right / 4000 == pytest.approx(source.known_accuracy()[name], abs=0.025)
    shares = np.zeros((2, 2, 2))
    np.add.at(shares, tuple(found.T), 1 / 4000)
    assert np.abs(shares - source.joint()).max() < 0.025
    assert found[:, 2].mean() == pytest.approx(positives + noise * (1 - 2 * positives), abs=0.025)


@pytest.mark.parametrize(
    ("structure", "positives", "text", "image"),
    [
        ("redundant", 0.3, 1, 1),
        ("unique_text", 0.3, 1, 0.7),
        ("unique_image", 0.3, 0.7, 1),
        ("and", 0.16, 0.84, 0.84),  # t = 1 means y = 1 with probability sqrt(0.16) only: y = 0 is always the guess
        ("and", 0.36, 0.4 + 0.36, 0.4 + 0.36),  # t = 0 is certain; t = 1 means y = 1 with probability 0.6
        ("xor", 0.5, 0.5, 0.5),
    ],
)
def test_known_accuracy_has_closed_forms(structure, positives, text, image):
    clean = synthetic(structure=structure, positives=positives).known_accuracy()
    assert clean == pytest.approx({"text": text, "image": image, "both": 1})
    noisy = synthetic(structure=structure, positives=positives, label_noise=0.1).known_accuracy()
    assert noisy == pytest.approx({name: 0.9 * a + 0.1 * (1 - a) for name, a in clean.items()})


def test_known_accuracy_counts_absent_parts():
    source = synthetic(structure="unique_text", missing_text=0.4, missing_image=0.1)
    assert source.known_accuracy() == pytest.approx({"text": 0.6 + 0.4 * 0.5, "image": 0.5, "both": 0.6 + 0.4 * 0.5})


def test_known_accuracy_of_a_mixture():
    source = synthetic(structure={"unique_text": 0.5, "unique_image": 0.5})
    assert source.known_accuracy() == pytest.approx({"text": 0.75, "image": 0.75, "both": 0.75})
    assert source.joint().sum() == pytest.approx(1)


def test_known_accuracy_is_not_claimed_for_an_overlay():
    with pytest.raises(ConfigError, match="overlay"):
        synthetic(overlay=True).known_accuracy()


def test_the_label_follows_the_structure_without_noise():
    for name, structure in STRUCTURES.items():
        t, v, y = bits(synthetic(size=200, structure=name)).T
        assert y.tolist() == [structure.label(a, b) for a, b in zip(t.tolist(), v.tolist(), strict=True)]


def test_the_pair_of_cues_is_a_multiclass_label():
    names = {(0, 0): "neither", (1, 0): "text", (0, 1): "image", (1, 1): "both"}
    rows = list(synthetic(size=100, structure="xor"))
    assert [row.labels["cue_pair"] for row in rows] == [names[t, v] for t, v, _ in bits(rows).tolist()]


def test_noise_turns_labels_and_leaves_bits():
    clean, noisy = (bits(synthetic(size=2000, label_noise=noise)) for noise in (0, 0.1))
    assert (clean[:, :2] == noisy[:, :2]).all()
    assert (clean[:, 2] != noisy[:, 2]).mean() == pytest.approx(0.1, abs=0.02)


def test_a_mixture_has_its_shares_and_names_the_structure_of_each_row():
    rows = list(synthetic(size=2000, structure={"redundant": 0.25, "xor": 0.75}))
    of = {name: [row for row in rows if row.meta["structure"] == name] for name in ("redundant", "xor")}
    assert len(of["xor"]) / 2000 == pytest.approx(0.75, abs=0.06)
    for name, some in of.items():
        assert all(y == STRUCTURES[name].label(t, v) for t, v, y in bits(some).tolist())


def test_xor_pairs_each_caption_with_both_pictures_and_each_picture_with_both_captions():
    source = synthetic(size=12, structure="xor")
    rows = list(source)
    for block in range(3):
        four = rows[4 * block : 4 * block + 4]
        pictures = [source.open(row.parts["image"]) for row in four]
        captions = [row.parts["text"] for row in four]
        assert {(c, p) for c in set(captions) for p in set(pictures)} == set(zip(captions, pictures, strict=True))
        assert len(set(captions)) == len(set(pictures)) == 2
        assert len(set(captions[0].split()) ^ set(captions[2].split())) == 2  # they differ in the cue word alone
        assert {row.group for row in four} == {f"quadruple-{block}"}
        assert {row.meta["quadruple"] for row in four} == {block}
        assert sorted(map(tuple, bits(four)[:, :2].tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]


# ---------------------------------------------------------------- several labels of the same posts

THREE = {"abuse_hate": "and", "offensive": "unique_text", "target_type": "unique_image"}


@pytest.mark.parametrize("structures", [THREE, {**THREE, "offensive": "xor"}, {**THREE, "abuse_hate": "xor"}])
def test_each_label_follows_its_own_structure_over_the_same_bits(structures):
    for row in synthetic(size=80, structures=structures):
        t, v = row.labels["cue_text"], row.labels["cue_image"]
        for name, structure in structures.items():
            y = STRUCTURES[structure].label(t, v)
            assert row.labels[name] == (y if name != "target_type" else ("none", "community")[y])
        assert (row.group is not None) == ("xor" in structures.values())


def test_further_labels_leave_posts_and_first_label_as_they_are():
    alone, together = synthetic(size=80, label_noise=0.2), synthetic(size=80, label_noise=0.2, structures=THREE)
    assert together == synthetic(
        size=80,
        label_noise=0.2,
        structure="and",
        structures={name: THREE[name] for name in ("target_type", "offensive")},
    )
    for one, other in zip(alone, together, strict=True):
        assert (one.id, one.parts, one.meta, one.group) == (other.id, other.parts, other.meta, other.group)
        assert one.labels.items() <= other.labels.items()
    assert alone.open("synthetic:7") == together.open("synthetic:7")
    assert set(together.labels()) == {*alone.labels(), "offensive", "target_type"}
    assert alone.fingerprint() != together.fingerprint()


@pytest.mark.parametrize("structures", [THREE, {**THREE, "offensive": "xor"}])
def test_known_accuracy_of_each_label_is_what_4000_rows_show(structures):
    source = synthetic(size=4000, structures=structures, label_noise=0.1)
    rows = list(source)
    for label in structures:
        y = [row.labels[label] in (1, "community") for row in rows]
        shares = np.zeros((2, 2, 2))
        np.add.at(shares, (*bits(rows)[:, :2].T, np.array(y, int)), 1 / 4000)
        assert np.abs(shares - source.joint(label)).max() < 0.025
    known = source.known_accuracy("target_type")
    assert known["image"] == pytest.approx(0.9) == known["both"] > known["text"]
    with pytest.raises(
        ConfigError, match="label 'cue_text' follows no structure.*known: abuse_hate, offensive, target"
    ):
        source.joint("cue_text")


def test_the_noise_of_each_label_is_its_own():
    rows = list(
        synthetic(size=2000, structures={"abuse_hate": "unique_text", "offensive": "unique_text"}, label_noise=0.2)
    )
    turned = np.array(
        [[row.labels[name] != row.labels["cue_text"] for name in ("abuse_hate", "offensive")] for row in rows]
    )
    assert turned.mean(0) == pytest.approx([0.2, 0.2], abs=0.03)
    assert turned.all(1).mean() == pytest.approx(0.04, abs=0.015)


def test_a_label_is_annotated_on_a_share_of_the_rows_at_random_or_by_its_class():
    whole, gaps = (
        list(synthetic(size=2000, structures=THREE, unlabelled=unlabelled))
        for unlabelled in ({}, {"offensive": {0: 0.2, "1": 0.6}, "target_type": 0.5, "abuse_hate": {1: 0.1}})
    )
    for name, class_, share in (
        ("offensive", 0, 0.2),
        ("offensive", 1, 0.6),
        ("target_type", "none", 0.5),
        ("target_type", "community", 0.5),
        ("abuse_hate", 0, 0.0),
        ("abuse_hate", 1, 0.1),
    ):
        left = [b.labels[name] for a, b in zip(whole, gaps, strict=True) if a.labels[name] == class_]
        assert set(left) <= {class_, None}
        assert np.mean([value is None for value in left]) == pytest.approx(share, abs=0.04)
    absent = np.array([[row.labels[name] is None for name in ("offensive", "target_type")] for row in gaps])
    assert np.corrcoef(absent.T)[0, 1] == pytest.approx(0, abs=0.07)


# ---------------------------------------------------------------- the captions


def distractors(words):
    """The words that tell nothing of t, in lower case; articles are not among them."""
    nouns = (phrase.split()[1] for phrase in words.nouns)
    return {word.lower() for word in (*nouns, *words.verbs, *words.adverbs, *words.links)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_vocabulary_is_wide_and_its_cues_are_told_apart_by_the_word_alone(language):
    words = VOCABULARIES[language]
    cues = [words.cue_words(t) for t in (0, 1)]
    assert len(distractors(words)) >= 300
    assert len(cues[0]) == len(cues[1]) >= 6
    assert not cues[0] & cues[1]
    assert Counter(c.split()[0] for c in words.cues[0]) == Counter(c.split()[0] for c in words.cues[1])
    assert all(word.isascii() for word in cues[0] | cues[1])
    for other in VOCABULARIES.values():  # no language's cue misleads in another
        assert not cues[0] & (other.cue_words(1) | distractors(other))
        assert not cues[1] & (other.cue_words(0) | distractors(other))


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_tell_t_and_nothing_of_v(language):
    rows = list(synthetic(size=400, structure="unique_image", languages=[language]))
    captions = [row.parts["text"] for row in rows]
    assert [t_of_words(caption, language) for caption in captions] == [{row.labels["cue_text"]} for row in rows]
    assert {len(caption.split()) for caption in captions} == {5, 6, 7, 8, 9}
    assert len(set(captions)) >= 398
    lengths = np.array([len(caption.split()) for caption in captions])
    for bit in bits(rows).T[:2]:
        assert abs(lengths[bit == 1].mean() - lengths[bit == 0].mean()) < 0.5
    cue = [
        min(set(c.lower().split()) & (VOCABULARIES[language].cue_words(0) | VOCABULARIES[language].cue_words(1)))
        for c in captions
    ]
    for word, n in Counter(cue).items():
        of_word = [row.labels["cue_image"] for row, c in zip(rows, cue, strict=True) if c == word]
        assert abs(np.mean(of_word) - 0.5) < 4 * 0.5 / n**0.5


def test_languages_are_mixed_and_detectable():
    import py3langid

    rows = list(synthetic(size=1200, languages=LANGUAGES))
    for language in LANGUAGES:
        captions = [row.parts["text"] for row in rows if row.meta["vocabulary"] == language]
        assert len(captions) / 1200 == pytest.approx(1 / len(LANGUAGES), abs=0.05)
        assert np.mean([py3langid.classify(caption)[0] == language for caption in captions]) > 0.9


def test_identical_captions_are_rare_in_large_sets():
    captions = [row.parts["text"] for row in synthetic(size=3000)]
    assert len(set(captions)) > 2990


# ---------------------------------------------------------------- the pictures


def v_of_colour(pixels: np.ndarray) -> int:
    red, blue = pixels[..., 0], pixels[..., 2]
    vivid = pixels.max(-1) - pixels.min(-1) > 60
    return int((red - blue)[vivid].mean() > 0)


def v_of_ground(pixels: np.ndarray) -> int:
    """Stripes repeat along one direction only: the spectrum has one strong line where a lattice of dots has two."""
    grey = pixels.mean(-1)
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * np.outer(np.hanning(SIDE), np.hanning(SIDE))))
    power[np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]) < 1 / 60] = 0
    row, column = np.unravel_index(power.argmax(), power.shape)
    across = np.exp(-2j * np.pi * np.arange(SIDE) * -column / SIDE), np.exp(-2j * np.pi * np.arange(SIDE) * row / SIDE)
    turned = np.abs(across[0] @ (grey - grey.mean()) @ across[1])
    return int(turned < 0.4 * power.max())


def v_of_shapes(pixels: np.ndarray) -> int:
    """A triangle fills less of the circle around it (0.41) than any other shape does (0.64 and more)."""
    from scipy import ndimage

    parts, n = ndimage.label(pixels.max(-1) - pixels.min(-1) > 20)
    shapes = [np.argwhere(parts == k) for k in range(1, n + 1)]
    return int(min(len(s) / (np.pi * np.square(s - s.mean(0)).sum(1).max()) for s in shapes if len(s) > 50) < 0.53)


@pytest.mark.parametrize(
    ("cue", "read"), [("colour", v_of_colour), ("background", v_of_ground), ("object", v_of_shapes)]
)
def test_pixels_tell_v_and_nothing_of_t(cue, read):
    source = synthetic(size=60, structure="unique_text", cue=cue)
    rows = list(source)
    found = np.array([read(picture(source, row)) for row in rows])
    t, v, _ = bits(rows).T
    assert (found == v).mean() >= 0.95
    assert abs((found == t).mean() - 0.5) < 0.25


@pytest.mark.parametrize("cue", ["background", "object"])
def test_mean_colours_do_not_tell_v_where_colour_is_not_the_cue(cue):
    source = synthetic(size=60, structure="xor", cue=cue)
    rows = list(source)
    means = {
        v: np.mean([picture(source, r).mean((0, 1)) for r in rows if r.labels["cue_image"] == v], 0) for v in (0, 1)
    }
    assert np.abs(means[0] - means[1]).max() < 4


def test_both_values_of_v_show_the_same_scene_but_for_the_cue():
    for cue in ("colour", "object"):
        source = synthetic(size=4, structure="xor", cue=cue)
        pictures = [picture(source, row) for row in source]
        y, x = np.nonzero((pictures[0] != pictures[1]).any(-1))
        assert 0 < len(y) < SIDE * SIDE / 9
        assert y.max() - y.min() < SIDE / 3 and x.max() - x.min() < SIDE / 3


def test_an_overlay_is_drawn_and_leaves_the_text_part_out():
    source = synthetic(size=40, overlay=True)
    rows = list(source)
    plain = synthetic(size=40)
    for row, bare in zip(rows, plain, strict=True):
        assert set(row.parts) == {"image"}
        assert row.meta["caption"] == bare.parts["text"]
        assert row.labels == bare.labels
        pixels = picture(source, row)
        assert v_of_colour(pixels) == row.labels["cue_image"]
        bands = [pixels[:BAND], pixels[-BAND:]]
        lettering = [((band.max(-1) < 40).mean()) for band in bands]
        assert max(lettering) > 0.01 > min(lettering)
        assert all(
            (band.max(-1) - band.min(-1) < 10).all() for band, ink in zip(bands, lettering, strict=True) if ink > 0.01
        )


@pytest.mark.parametrize("cue", ["colour", "background", "object"])
def test_every_caption_fits_into_its_picture(cue):
    source = synthetic(size=40, overlay=True, cue=cue, languages=LANGUAGES)
    for row in source:
        pixels = picture(source, row)
        dark = pixels.max(-1) < 30
        assert not dark[:, :4].any() and not dark[:, -4:].any() and not dark[:3].any() and not dark[-3:].any()


def test_ocr_reads_the_cue_word_off_the_picture():
    pytest.importorskip("rapidocr")
    from bifocal.transcribe.ocr import Ocr

    reader = Ocr()
    source = synthetic(size=8, overlay=True, languages=LANGUAGES)
    read = [reader.read(source.open(row.parts["image"])).text for row in source]
    known = [(row.meta["vocabulary"], row.labels["cue_text"]) for row in source]
    found = [t_of_words(text, language) for text, (language, _) in zip(read, known, strict=True)]
    assert sum(bits == {t} for bits, (_, t) in zip(found, known, strict=True)) >= 7


def test_missing_text_in_an_overlay_means_a_picture_without_a_caption():
    source, bare = synthetic(size=30, overlay=True, missing_text=0.5), synthetic(size=30)
    without = [i for i, row in enumerate(source) if "caption" not in row.meta]
    assert 5 < len(without) < 25
    assert all(source.open(f"synthetic:{i}") == bare.open(f"synthetic:{i}") for i in without)


# ---------------------------------------------------------------- rows, splits, folder


def test_rows_and_pictures_depend_on_the_seed_and_their_index_alone():
    options = {"structure": {"and": 0.5, "xor": 0.5}, "overlay": True, "languages": LANGUAGES, "label_noise": 0.1}
    one, other = synthetic(size=40, **options), synthetic(size=4000, **options)
    forward, backward = list(one), [other.example(i) for i in reversed(range(40))]
    assert forward == backward[::-1]
    pictures = {row.id: one.open(row.parts["image"]) for row in forward}
    assert all(other.open(row.parts["image"]) == pictures[row.id] for row in backward)
    assert list(synthetic(size=40, seed=1, **options)) != forward
    assert forward[12].id == "syn-000012"
    assert len({row.id for row in forward}) == 40


def test_parts_go_missing_at_their_rates_and_never_both():
    rows = list(synthetic(size=2000, missing_text=0.3, missing_image=0.2))
    assert np.mean(["text" not in row.parts for row in rows]) == pytest.approx(0.3, abs=0.03)
    assert np.mean(["image" not in row.parts for row in rows]) == pytest.approx(0.2, abs=0.03)
    assert all(row.parts for row in rows)
    assert [row.labels for row in rows] == [row.labels for row in synthetic(size=2000)]


def test_streams_without_holding_the_rows():
    rows = iter(synthetic(size=10**9))
    assert isinstance(next(rows), Example)
    assert synthetic(size=10**9).example(999_999_999).id == "syn-999999999"


@pytest.mark.parametrize("reference", ["synthetic:12", "synthetic:-1", "synthetic:1.0", "12", "img/syn-000001.png"])
def test_a_picture_that_is_not_of_this_source_is_an_error(reference):
    with pytest.raises(DataError, match="it has synthetic:0 to synthetic:11"):
        synthetic(size=12).open(reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "adn"}, "there is no structure 'adn'; did you mean 'and'"),
        ({"structure": {"and": 0.5}}, "sum to 0.5; they must sum to 1"),
        ({"structure": {"and": 1.5, "xor": -0.5}}, "structure.and = 1.5"),
        ({"structure": "xor", "positives": 0.3}, "xor is balanced by its confounders"),
        ({"cue": "color"}, "cue = 'color'.*'colour', 'background' or 'object'"),
        ({"languages": ["it"]}, "no captions in 'it'; known: de, en, es, fr"),
        ({"languages": []}, "languages"),
        ({"missing_text": 0.6, "missing_image": 0.6}, "no row may lack both"),
        ({"overlay": True, "missing_image": 0.1}, "missing_image must be 0"),
        ({"label_noise": 0.6}, "label_noise = 0.6"),
        ({"structures": {"ofensive": "and"}}, "no label 'ofensive' to give a structure; did you mean 'offensive'"),
        ({"structures": {"offensive": "adn"}}, "offensive: there is no structure 'adn'; did you mean 'and'"),
        ({"structure": "and", "structures": {"abuse_hate": "xor"}}, "say the same thing: leave one out"),
        ({"structures": {"offensive": "redundant"}}, "both bits are one.*give it to all labels or none"),
        ({"structures": {"offensive": "xor"}, "positives": 0.3}, "xor is balanced by its confounders"),
        ({"unlabelled": {"offensive": 0.5}}, "'offensive' follows no structure; known: abuse_hate"),
        ({"unlabelled": {"abuse_hate": {2: 0.5}}}, "unlabelled.abuse_hate: '2' is no class of it; allowed: 0, 1"),
        ({"unlabelled": {"abuse_hate": 1.5}}, "unlabelled.abuse_hate.0 = 1.5"),
        ({"sise": 10}, "unknown key 'sise'; did you mean 'size'"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        synthetic(**options)


def test_a_folder_is_read_back_as_it_was(tmp_path):
    source = synthetic(size=40, structure={"and": 0.5, "xor": 0.5}, missing_text=0.2)
    told = []
    counts = source.write_folder(tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    back = HatefulMemes(root=tmp_path / "out", text_role="caption")
    rows = {row.id: row for row in back}
    assert len(rows) == counts["examples"] == counts["train"] + counts["dev"] + counts["test"] == 40
    assert told[-1] == (40, 40)
    for original in source:
        row = rows[original.id]
        assert row.labels["abuse_hate"] == original.labels["abuse_hate"]
        assert row.parts.get("text") == original.parts.get("text")
        assert back.open(row.parts["image"]) == source.open(original.parts["image"])
        assert row.meta == {k: original.labels[k] for k in ("cue_text", "cue_image", "cue_pair")} | original.meta
    splits = {}
    for row in rows.values():
        if "quadruple" in row.meta:
            splits.setdefault(row.meta["quadruple"], set()).add(row.split)
    assert splits and all(len(s) == 1 for s in splits.values())


def test_a_folder_is_the_same_each_time_and_split_70_10_20(tmp_path):
    counts = [synthetic(size=20).write_folder(tmp_path / name) for name in "ab"]
    assert counts[0] == counts[1] == {"examples": 20, "train": 14, "dev": 2, "test": 4}
    files = [sorted(p.relative_to(tmp_path / name) for p in (tmp_path / name).rglob("*")) for name in "ab"]
    assert files[0] == files[1]
    assert all((tmp_path / "a" / p).read_bytes() == (tmp_path / "b" / p).read_bytes() for p in files[0] if p.suffix)
    first = json.loads((tmp_path / "a" / "train.jsonl").read_text().splitlines()[0])
    assert list(first)[:4] == ["id", "img", "label", "text"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="not an empty folder; nothing was written"):
        synthetic(size=4).write_folder(tmp_path)
    with pytest.raises(DataError, match="not an empty folder"):
        synthetic(size=4).write_folder(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_cannot_hold_rows_without_a_picture(tmp_path):
    with pytest.raises(ConfigError, match="no rows without a picture"):
        synthetic(size=4, missing_image=0.5).write_folder(tmp_path / "out")


def test_the_fingerprint_follows_what_changes_the_rows():
    base = synthetic(size=8).fingerprint()
    assert base == synthetic(size=8).fingerprint()
    others = [{"seed": 1}, {"size": 9}, {"structure": "xor"}, {"overlay": True}, {"label_noise": 0.1}]
    assert len({base, *(synthetic(**({"size": 8} | change)).fingerprint() for change in others)}) == 6


@pytest.mark.parametrize("structure", ["and", "xor"])
def test_the_cue_word_is_the_one_that_says_t(structure):
    source = Synthetic(size=40, structure=structure, languages=["en", "de"])
    for i, example in enumerate(source):
        vocabulary = VOCABULARIES[example.meta["vocabulary"]]
        assert source.cue_word(i) in example.parts["text"].lower().split()
        assert source.cue_word(i) in vocabulary.cue_words(example.labels["cue_text"])


def test_the_cue_mask_is_the_coloured_object():
    source = Synthetic(size=12)
    for i, example in enumerate(source):
        pixels = np.asarray(Image.open(io.BytesIO(source.open(example.parts["image"]))), dtype=int)
        coloured = np.ptp(pixels, axis=2) > 40  # all else is grey
        assert coloured.any() and (source.cue_mask(i) == coloured).mean() > 0.999
