import json
import pickle

import numpy as np
import pytest
from PIL import Image

import bifocal
from bifocal.diagnose.explanation import probability
from bifocal.errors import DataError
from bifocal.system.explain import joined
from bifocal.system.torch_engine import TorchEngine

WORDS = "a quiet lantern waits by the river"


@pytest.fixture(scope="module")
def system(small_run):
    return bifocal.load(small_run)


@pytest.fixture(scope="module")
def records(records_run):
    return bifocal.load(records_run)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    drawn = Image.new("RGB", (300, 200), (230, 230, 230))
    drawn.paste((200, 60, 20), (40, 50, 120, 130))
    drawn.save(path)
    return path


def test_the_contributions_sum_to_the_score_less_the_baseline(system, records, picture):
    for found in (
        system.explain(WORDS, picture),
        system.explain(WORDS),
        system.explain(image_path=picture),
        records.explain("a marble house", tabular={"price": 95.5, "room": "whole"}),
    ):
        assert sum(found.contributions.values()) == pytest.approx(found.score - found.baseline, abs=1e-9)
        assert set(found.contributions) == {name for name, there in found.decision.present.items() if there}


def test_what_is_explained_is_the_decision_that_predict_gives(system, records, picture):
    for bundle, post in (
        (system, {"text": WORDS, "image_path": picture}),
        (system, {"text": WORDS}),
        (records, {"text": "a marble house", "tabular": {"price": 95.5}}),
    ):
        found, decision = bundle.explain(**post), bundle.predict(**post)
        assert probability(found.score) == pytest.approx(decision.probability, abs=1e-5)
        assert found.decision.label == decision.label and found.decision.present == decision.present
        assert found.explains == 1 and probability(found.threshold) == pytest.approx(decision.threshold)


def test_the_baseline_is_the_class_shares_that_the_fusion_counted(system, picture):
    shares = system.engine.fusion.prior.exp().numpy()
    for post in ({"text": WORDS}, {"text": WORDS, "image_path": picture}):
        assert probability(system.explain(**post).baseline) == pytest.approx(shares[1], abs=1e-6)


def test_a_subset_scores_as_the_post_that_brought_only_these_parts(system, picture):
    found = system.explain(WORDS, picture)
    assert set(found.subsets) == {frozenset(s) for s in ((), ("text",), ("image",), ("text", "image"))}
    for names, post in (({"text"}, {"text": WORDS}), ({"image"}, {"image_path": picture})):
        alone = system.predict(**post).probability
        assert probability(found.subsets[frozenset(names)]) == pytest.approx(alone, abs=1e-5)


def test_a_piece_is_worth_what_the_post_loses_without_it(system, picture):
    found = system.explain(WORDS, picture)
    words = {w.piece.name: w for w in found.pieces["text"]}
    assert sorted(words) == sorted(WORDS.split())
    without = system.predict("a quiet waits by the river", picture)  # same language, so the same composed text but one
    assert without.language == found.decision.language
    assert words["lantern"].probability == pytest.approx(without.probability, abs=1e-5)
    assert probability(found.score - words["lantern"].effect) == pytest.approx(without.probability, abs=1e-5)
    for weighed in found.pieces.values():
        strength = [abs(w.effect) for w in weighed]
        assert strength == sorted(strength, reverse=True)


def test_one_call_of_each_encoder_reads_all_versions_of_its_part(system, picture, monkeypatch):
    calls = []
    for name, encoder in system.engine.experts.items():
        encode = encoder.encode
        monkeypatch.setattr(encoder, "encode", lambda v, *a, n=name, f=encode: calls.append((n, len(v))) or f(v, *a))
    system.explain(WORDS, picture, grid=3)
    assert calls == [("text", 1 + len(WORDS.split())), ("image", 1 + 3 * 3)]


def test_columns_are_explained_by_their_names(records):
    found = records.explain("a marble house", tabular={"price": 95.5, "room": "whole", "opened": None})
    assert {w.piece.name for w in found.pieces["tabular"]} == {"price", "room"}
    assert found.pieces["tabular"][0].piece.name == "price"  # the rooms are drawn by chance
    assert found.pieces["tabular"][0].effect > 0
    assert next(w for w in found.pieces["text"] if w.piece.name == "marble").effect > 0


def test_it_is_json_and_says_which_scale_it_is_on(system, picture):
    said = system.explain(WORDS, picture, grid=2).to_dict()
    assert set(said) == {
        "decision", "explains", "scale", "score", "baseline", "threshold", "contributions", "subsets", "pieces",
    }  # fmt: skip
    assert said["scale"] == "log-odds"
    assert said == json.loads(json.dumps(said, allow_nan=False))
    assert {p["name"] for p in said["pieces"]["image"]} == {f"row {r}, column {c}" for r in (1, 2) for c in (1, 2)}
    assert all(set(p) == {"name", "place", "effect", "probability"} for p in said["pieces"]["text"])


def test_a_run_of_one_modality_owes_all_to_it(system, monkeypatch):
    engine = system.engine
    monkeypatch.setattr(system, "engine", TorchEngine({"text": engine.experts["text"]}, {"text": "text_expert"}, None))
    for held in (system, system.preprocessor):
        monkeypatch.setattr(held, "modalities", {"text": held.modalities["text"]})
    found = system.explain(WORDS)
    assert found.baseline == 0.0 and found.contributions == {"text": pytest.approx(found.score)}
    assert probability(found.score) == pytest.approx(system.predict(WORDS).probability, abs=1e-5)


def test_of_several_classes_the_decided_one_is_explained(system, picture, monkeypatch):
    """The binary run passed off as one of two named classes without a threshold."""
    label = system.label.__class__(("calm", "loud"))
    pooled = {
        name: model.model_copy(update={"threshold": None, "patterns": {}})
        for name, model in system.policy.models.items()
    }
    monkeypatch.setattr(system, "label", label)
    monkeypatch.setattr(system, "labels", {system.policy.label: label})
    monkeypatch.setattr(system, "policy", system.policy.model_copy(update={"models": pooled}))
    found = system.explain(WORDS, picture)
    assert found.explains == found.decision.label in ("calm", "loud")
    assert found.threshold is None and probability(found.score) == pytest.approx(found.decision.probability, abs=1e-5)
    assert found.score >= 0  # the likelier of two


@pytest.mark.parametrize("grid", [0, 1, 17, 2.5])
def test_another_grid_is_refused(system, picture, grid):
    with pytest.raises(DataError, match="has 2 to 16 regions along each side, found"):
        system.explain(WORDS, picture, grid=grid)


def test_a_post_that_cannot_be_decided_cannot_be_explained(system, tmp_path):
    with pytest.raises(DataError, match="none was given"):
        system.explain()
    with pytest.raises(DataError, match="there is no picture file"):
        system.explain(WORDS, tmp_path / "missing.png")


def test_a_blank_picture_explains_nothing_by_its_regions(system, tmp_path):
    path = tmp_path / "white.png"
    Image.new("RGB", (50, 50), "white").save(path)
    effects = [w.effect for w in system.explain(WORDS, path).pieces["image"]]
    assert np.abs(effects).max() < 1e-4


def test_an_explanation_made_a_few_passes_at_a_time_is_the_same(system, picture):
    from bifocal.system.explain import Covered, explain, explained, joined
    from bifocal.system.preprocessing import Preprocessor

    preprocessor = Preprocessor(system.config, system.text_role)
    post = preprocessor.post({"text": WORDS, "image": picture.read_bytes()})
    covered = Covered.of(system, post, 3)
    assert len(covered) == 10
    lots = [pickle.loads(pickle.dumps(system.engine.evidence(covered.versions(i, i + 4)))) for i in range(0, 10, 4)]
    found, whole = explained(system, covered, joined(lots)), explain(system, post, 3)
    for name in ("text", "image"):
        assert {w.piece: w.effect for w in found.pieces[name]} == pytest.approx(
            {w.piece: w.effect for w in whole.pieces[name]}, abs=1e-5
        )


def test_a_post_that_was_kept_is_explained_as_it_was_decided(system, picture):
    from bifocal.system.explain import explain
    from bifocal.system.preprocessing import Preprocessor

    preprocessor = Preprocessor(system.config, system.text_role)
    post = preprocessor.post({"text": WORDS, "image": picture.read_bytes()})
    columns = preprocessor.keep(post)
    assert columns.keys() == {"text", "picture"} and columns["text"] == post.example.parts["text"]
    kept = preprocessor.restore(columns)
    assert explain(system, kept, 2).score == pytest.approx(explain(system, post, 2).score, abs=1e-5)
    with pytest.raises(DataError, match="nothing is kept"):
        preprocessor.restore({"text": None, "picture": None, "tabular": {"a": 1}})


def test_the_window_that_speaks_most_is_told_and_a_short_text_has_none(system, picture):
    assert system.explain(WORDS, picture).windows == {} and "windows" not in system.explain(WORDS).to_dict()
    long = " ".join(f"{WORDS} {i}" for i in range(40))
    found = system.explain(long, picture)
    windows = system.engine.windows("text", found.values["text"])
    assert found.decision.truncated is not windows.whole
    read = found.windows["text"]
    assert [window.place for window in read] == list(windows.places) and len(read) > 2
    assert found.deciding_window("text").score == max(window.score for window in read)
    told = json.loads(json.dumps(found.to_dict()))["windows"]["text"]
    assert told["read"][told["deciding"]]["score"] == found.deciding_window("text").score
    # The expert judges the text by that window.
    assert told["read"][told["deciding"]]["probability"] == pytest.approx(
        found.decision.models["text_expert"].probability, abs=1e-4
    )


def test_the_answer_by_each_of_several_labels_is_explained(labels_run):
    system = bifocal.load(labels_run)
    post = {"text": "quickly note about fire here", "tabular": {"price": 120, "room": "hall"}}
    first = system.explain(**post)
    assert first.label is None and "label" not in first.to_dict() and system.explain(**post, label="urgent") == first
    for label in ("paid", "kind"):
        found = system.explain(**post, label=label)
        answer = found.decision.labels[label]
        assert found.answer is answer and found.to_dict()["label"] == label
        assert probability(found.score) == pytest.approx(answer.probability, abs=1e-5)
        assert sum(found.contributions.values()) == pytest.approx(found.score - found.baseline, abs=1e-9)
    paid = system.explain(**post, label="paid").contributions
    assert abs(paid["tabular"]) > abs(paid["text"]), "it is of the record alone"
    with pytest.raises(DataError, match="no label 'pald'.*paid"):
        system.explain(**post, label="pald")
    with pytest.raises(DataError, match="'kind' is not asked of this post, as 'urgent' is not flagged"):
        system.explain("sometime note about matters", tabular={"price": 20, "room": "cellar"}, label="kind")


def test_evidence_of_several_labels_is_joined_with_that_of_each(labels_run):
    system = bifocal.load(labels_run)
    parts = [system.engine.evidence([{"text": text}]) for text in ("quickly note", "sometime note")]
    whole = joined(parts)
    for label in (None, "paid", "kind"):
        apart = [system.engine.logits(part, label)["mm_fusion"] for part in parts]
        np.testing.assert_allclose(system.engine.logits(whole, label)["mm_fusion"], np.concatenate(apart), atol=1e-6)
