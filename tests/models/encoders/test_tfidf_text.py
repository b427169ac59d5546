"""The text expert without a pretrained model: it learns words, forgets tags, and comes back from JSON and tensors."""

import json
import random

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline, make_union

from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, ModelError
from bifocal.example import Rows
from bifocal.modalities.text import compose
from bifocal.models.encoders.tfidf_text import TfidfText
from bifocal.models.saved_encoder import WindowedEncoder, WindowReader

NOUNS = ("bridge", "river", "meadow", "tower", "garden", "market", "harbour", "valley", "forest", "quarry")
TONES = (("lovely", "gracious", "splendid"), ("wretched", "dreadful", "hideous"))


def posts(n, seed=0, signal=0.8):
    """Composed texts whose tone tells their class, most of the time."""
    draw = random.Random(seed)
    labels = [i % 2 for i in range(n)]
    tones = [TONES[y if draw.random() < signal else draw.randrange(2)] for y in labels]
    texts = [f"the {draw.choice(tone)} {' '.join(draw.sample(NOUNS, 4))} again" for tone in tones]
    return [compose("", text, "en") for text in texts], labels


TRAIN, LABELS = posts(240)
GROUPS = [f"g{i}" for i in range(len(TRAIN))]


def create(values=TRAIN, classes=(0, 1), seed=0, **options):
    return TfidfText.create(ExpertConfig(options=options), classes, seed, values)


@pytest.fixture(scope="module")
def fitted():
    encoder = create(components=16)
    encoder.fit_head(encoder.encode(TRAIN), torch.tensor(LABELS), GROUPS)
    return encoder


def test_it_knows_the_tone_of_new_posts(fitted):
    texts, labels = posts(200, seed=1)
    logits = fitted.encode(texts)["logits"]
    assert roc_auc_score(labels, logits[:, 1] - logits[:, 0]) > 0.85
    misspelt = fitted.encode([compose("dreadfull", "", "en"), compose("lovelyy", "", "en")])["logits"]
    assert misspelt.argmax(dim=1).tolist() == [1, 0]


def test_components_that_hold_next_to_nothing_are_left_out():
    texts, _ = posts(40)
    copies = [texts[i % 5] for i in range(40)]  # of rank 5: a sixth component is rounding, standardised it is loud
    encoder = create(copies, components=30)
    assert encoder.components.shape[1] <= 5
    spread = encoder.encode(copies)["features"].square().mean(dim=0).sqrt()
    assert spread.min() > 0.02 * spread.max()


def test_its_logits_are_scikit_learns(fitted):
    plain = [text.removeprefix("[OCR] [/OCR] [CAP] ").removesuffix(" [/CAP] <lang=en>") for text in TRAIN]
    settings = {"min_df": 2, "sublinear_tf": True}
    reference = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), **settings),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **settings),
        ),
        LogisticRegression(C=fitted.penalty, max_iter=1000),
    ).fit(plain, LABELS)
    probabilities = fitted.encode(TRAIN)["logits"].softmax(dim=1)
    np.testing.assert_allclose(probabilities, reference.predict_proba(plain), atol=2e-3)


def test_tags_and_language_are_no_words(fitted):
    assert not {"ocr", "cap", "lang", "en", "lang en"} & set(fitted.terms.vocabulary["words"])
    assert not any(sign in term for term in fitted.terms.vocabulary["characters"] for sign in "[]<=>/")
    one, two, three = fitted.encode(
        [compose("lovely river", "", "en"), compose("", "lovely river", "de"), "lovely river"]
    )["logits"]
    assert torch.equal(one, two) and torch.equal(one, three)


def test_features_gather_texts_of_one_kind(fitted):
    """The projection keeps what the texts have in common: more words alike, nearer features."""
    texts = ["the lovely river meadow again", "the lovely river garden again", "a quarry", ""]
    features = fitted.encode(texts)["features"]
    assert features.shape == (4, 16) and not features[3].any()
    near, far = (torch.cosine_similarity(features[0], features[i], dim=0) for i in (1, 2))
    assert near > far + 0.2


def test_features_are_as_wide_as_the_texts_allow():
    assert create(TRAIN[:7], components=256).encode(["river"])["features"].shape == (1, 7)


def test_cross_fitted_logits_know_nothing_of_their_own_row():
    texts, labels = posts(240, signal=0.0)
    encoder = create(texts)
    encoded = encoder.encode(texts)
    encoder.fit_head(encoded, torch.tensor(labels), GROUPS)
    held_out = encoder.cross_fit(encoded, torch.tensor(labels), GROUPS, folds=5, seed=0)
    assert 0.35 < roc_auc_score(labels, held_out[:, 1]) < 0.65


def test_the_penalty_is_chosen_across_groups():
    """Copies of a post in another fold would make memorising look wise."""
    texts, labels = posts(80, signal=0.0)
    encoder = create(texts * 3)
    encoded, copied = encoder.encode(texts * 3), torch.tensor(labels * 3)
    encoder.fit_head(encoded, copied, GROUPS[:80] * 3)
    assert encoder.penalty <= 0.3
    encoder.fit_head(encoded, copied, GROUPS)
    assert encoder.penalty == 10.0


def test_the_folder_holds_json_and_tensors_alone(fitted, tmp_path):
    fitted.learned_from = frozenset({"b", "a"})
    fitted.save(tmp_path / "expert")
    names = {path.name for path in (tmp_path / "expert").iterdir()}
    assert names == {"bifocal.json", "learned_from.json", "tfidf.safetensors", "vocabulary.json"}
    vocabulary = json.loads((tmp_path / "expert" / "vocabulary.json").read_text())
    assert "river" in vocabulary["words"] and "riv" in vocabulary["characters"]
    again = TfidfText.load(tmp_path / "expert")
    texts, _ = posts(30, seed=2)
    for name, tensor in fitted.encode(texts).items():
        torch.testing.assert_close(again.encode(texts)[name], tensor, atol=1e-5, rtol=0)
    assert again.fingerprint() == fitted.fingerprint()
    assert again.penalty == fitted.penalty and again.learned_from == {"a", "b"}
    assert again.card() == fitted.card()


def test_a_loaded_expert_keeps_the_options_of_its_making(tmp_path):
    encoder = create(char_ngrams=(3, 3), sublinear=False)
    encoder.save(tmp_path / "expert")
    card = json.loads((tmp_path / "expert" / "bifocal.json").read_text())
    card["expert"]["options"] = {}  # as if these had been the defaults when it was made
    (tmp_path / "expert" / "bifocal.json").write_text(json.dumps(card))
    twice = ["river river bridge"]
    again = TfidfText.load(tmp_path / "expert").encode(twice)
    assert torch.equal(again["weights"], encoder.encode(twice)["weights"])


@pytest.mark.parametrize("name", ["tfidf.safetensors", "vocabulary.json"])
def test_an_altered_file_is_refused(fitted, tmp_path, name):
    fitted.save(tmp_path / "expert")
    path = tmp_path / "expert" / name
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"{name} was altered"):
        TfidfText.load(tmp_path / "expert")


def test_the_same_texts_give_the_same_expert():
    assert create().fingerprint() == create().fingerprint()
    others = [create(TRAIN[:-1]), create(components=8), create(terms_kept=10), create(min_count=3)]
    assert len({encoder.fingerprint() for encoder in (create(), *others)}) == 5


def test_a_text_of_unknown_words_gets_the_prior(fitted):
    logits = fitted.encode([compose("", "", "und"), "ЖЖЖ", "[OCR] ?? [/OCR]"])["logits"]
    assert torch.equal(logits, fitted.head.bias.expand(3, 2))


def test_an_absent_part_reads_as_an_empty_text(fitted):
    """Evidence of rows without the part is zeros."""
    encoded = fitted.encode(TRAIN[:3])
    zeros = {name: torch.zeros_like(tensor) for name, tensor in encoded.items() if name != "logits"}
    assert torch.equal(fitted.head_logits(zeros), fitted.head.bias.expand(3, 2))


def test_a_long_text_is_read_by_its_heaviest_terms():
    encoder = create(terms_kept=20)
    encoded = encoder.encode([" ".join(TRAIN), TRAIN[0]])
    assert encoded["terms"].shape == encoded["weights"].shape == (2, 20)
    whole = encoder.terms([TRAIN[0].replace("[", "").replace("]", "")]).data
    assert encoded["weights"][1].min() >= np.sort(whole)[-25]
    assert int(encoded["terms"].max()) < len(encoder.terms)
    assert isinstance(encoder, WindowReader) and not isinstance(encoder, WindowedEncoder)
    assert not encoder.windows(" ".join(TRAIN)).whole and encoder.windows("").whole
    assert create(terms_kept=100).windows(TRAIN[0]).whole  # of 149 terms the lightest are left out
    assert create().windows(TRAIN[0]).whole and create().windows(TRAIN[0]).texts == (TRAIN[0],)


def test_no_more_terms_are_cached_than_a_training_text_has():
    encoder = create(terms_kept=5000)
    assert int((encoder.encode(TRAIN)["weights"] > 0).sum(dim=1).max()) == encoder.width < 300


def test_a_class_without_rows_stays_possible_but_unlikely():
    encoder = create(classes=("none", "some", "all"))
    encoded = encoder.encode(TRAIN)
    encoder.fit_head(encoded, torch.tensor(LABELS) * 2, GROUPS)
    probabilities = encoder.head_logits(encoded).softmax(dim=1)
    assert bool((probabilities > 0).all()) and probabilities[:, 1].max() < 0.02


def test_it_says_what_it_cannot_do(fitted, tmp_path):
    with pytest.raises(ModelError, match="nothing to fine-tune"):
        fitted.fit(Rows(TRAIN, LABELS), None, tmp_path)
    encoder = create()
    with pytest.raises(ModelError, match="not fitted by fit_head"):
        encoder.cross_fit(encoder.encode(TRAIN), torch.tensor(LABELS), GROUPS, folds=3, seed=0)
    with pytest.raises(ModelError, match="give more rows, lower options.min_count"):
        create(["", ""])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_length": 64}, "max_length"),
        ({"char_ngrams": [5, 2]}, "char_ngrams.*shorter length first"),
        ({"components": 0}, "components"),
    ],
)
def test_wrong_options_are_named(options, said):
    with pytest.raises(ConfigError, match=f"tfidf_text.*{said}"):
        create(**options)


def test_the_cost_is_an_upper_bound(fitted):
    cost = TfidfText.cost(ExpertConfig(options={"components": 16}), 2)
    assert fitted.parameters()["total"] < cost["total"]
    assert fitted.parameters()["trained"] < cost["trained"]
    assert cost == TfidfText.cost(ExpertConfig(options={"components": 16, "max_terms": 20_000}), 2)
    filled = create(components=16, max_terms=50)
    small = TfidfText.cost(ExpertConfig(options={"components": 16, "max_terms": 50}), 2)
    assert filled.parameters() == {name: small[name] for name in ("total", "trained")}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 9}, "experts.text.epochs is for pretrained encoders and has no effect here: leave it out"),
        ({"lora": {"r": 2}}, "experts.text.lora "),
        ({"model": "xlm-roberta-base"}, "experts.text.model = 'xlm-roberta-base': a text encoder is made anew"),
    ],
)
def test_settings_of_transformers_are_refused_before_the_first_step(changes, said):
    with pytest.raises(ConfigError, match=said):
        TfidfText.reach(ExpertConfig(**changes))
    TfidfText.reach(ExpertConfig(options={"components": 8}))


def test_what_was_read_whole_is_known_of_the_batch_that_was_encoded_and_the_same_of_a_text_alone():
    encoder, alone = create(terms_kept=60), create(terms_kept=60)
    values = [*TRAIN[:6], " ".join(TRAIN), "", TRAIN[0] + " and more"]
    encoder.inputs(values)
    encoder.terms = None  # whatever is asked of it once more would fail
    assert [encoder.windows(value).whole for value in values] == [alone.windows(value).whole for value in values]
