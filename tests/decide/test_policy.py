"""A policy's version is its content's; it keeps record of what is changed by hand, and refuses what was edited."""

import json

import pytest

from bifocal.config import ReviewConfig
from bifocal.decide.calibration_methods import Temperature
from bifocal.decide.policy import Band, ModelPolicy, PatternPolicy, Policy
from bifocal.errors import RunError


def policy(**changed) -> Policy:
    own = PatternPolicy(calibration=Temperature(temperature=2), threshold=0.6, n=250)
    model = ModelPolicy(calibration=Temperature(temperature=1.3), threshold=0.4, patterns={"text": own})
    settings = {
        "run": "demo", "label": "abuse_hate", "classes": (0, 1), "probability_key": "prob_hate", "in_sample": False,
        "approximate": True, "versions": {"bifocal": "0.1.0"}, "models": {"text_expert": model, "mm_fusion": model},
        "data": {"val": "abc"}, "date": "2026-11-25T10:00:00+00:00",
    }  # fmt: skip
    return Policy(**{**settings, **changed})


def test_the_version_is_that_of_the_content_and_not_of_the_day(tmp_path):
    one = policy()
    assert one.version == policy(date="2027-01-01T00:00:00+00:00").version
    assert one.version != policy(data={"val": "abd"}).version
    one.save(tmp_path / "p.json")
    assert (
        json.loads((tmp_path / "p.json").read_text())["version"]
        == one.version
        == Policy.load(tmp_path / "p.json").version
    )


def test_the_version_is_the_same_next_year(tmp_path):
    """A policy lives longer than a Bifocal: a version that changed would have every old policy refused as edited."""
    assert policy().version == "fdc78c2943760b42"


@pytest.mark.parametrize("edit", [{"in_sample": True}, {"version": "0" * 16}, {"version": None}])
def test_an_edited_file_is_refused(tmp_path, edit):
    path = tmp_path / "p.json"
    policy().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(RunError, match=r"p\.json says that it is version .* edited or damaged.*bifocal policy set"):
        Policy.load(path)


@pytest.mark.parametrize(("pattern", "before"), [("pooled", 0.4), ("text", 0.6)])
def test_a_threshold_set_by_hand_is_recorded(tmp_path, pattern, before):
    one = policy()
    two = one.with_threshold("mm_fusion", 1, pattern=pattern, by="Ada", why="complaints")
    assert two.threshold("mm_fusion", pattern) == 1.0 and two.threshold("text_expert", pattern) == before
    other = "pooled" if pattern == "text" else "text"
    assert two.threshold("mm_fusion", other) == one.threshold("mm_fusion", other)
    change = two.changes[-1]
    assert (change.by, change.why, change.before, change.after) == ("Ada", "complaints", before, 1.0)
    assert change.version == one.version != two.version and change.date.endswith("+00:00")
    two.save(tmp_path / "p.json")
    assert Policy.load(tmp_path / "p.json") == two
    three = two.with_threshold("mm_fusion", 0.5, pattern=pattern, by="Bo", why="too much review")
    assert [c.by for c in three.changes] == ["Ada", "Bo"]


@pytest.mark.parametrize("pattern", ["pooled", "text"])
def test_a_side_of_the_band_without_a_rate_follows_the_threshold(pattern):
    band = Band(allow_below=0.4, block_from=0.9, positives=50, negatives=50)
    own = PatternPolicy(calibration=Temperature(), threshold=0.4, n=250, band=band)
    model = ModelPolicy(**own.model_dump(exclude={"n"}), languages={"de": band}, patterns={"text": own})
    one = policy(models={"m": model}, review=ReviewConfig(fpr=0.05))
    two = one.with_threshold("m", 0.8, pattern=pattern, by="Ada", why="trial")
    moved = band.model_copy(update={"allow_below": 0.8})
    other = "pooled" if pattern == "text" else "text"
    assert (two.band("m", pattern), two.band("m", other)) == (moved, band)
    assert two.models["m"].languages == {"de": moved if pattern == "pooled" else band}
    both = one.model_copy(update={"review": ReviewConfig(fnr=0.1, fpr=0.05)})
    assert both.with_threshold("m", 0.8, pattern=pattern, by="Ada", why="trial").band("m", pattern) == band


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"model": "mm_fuson"}, "did you mean 'mm_fusion'"),
        ({"pattern": "txt"}, "did you mean 'text'"),
        ({"threshold": 1.2}, "a probability of 0 to 1, found 1.2"),
        ({"threshold": float("nan")}, "a probability of 0 to 1"),
        ({"why": " "}, "say who changes the policy, and why"),
        ({"by": ""}, "say who changes the policy, and why"),
    ],
)
def test_what_cannot_be_set_is_refused(asked, message):
    given = {"model": "mm_fusion", "threshold": 0.7, "pattern": "pooled", "by": "Ada", "why": "trial", **asked}
    with pytest.raises(RunError, match=message):
        policy().with_threshold(given.pop("model"), given.pop("threshold"), **given)


def test_the_likeliest_class_has_no_threshold():
    several = policy(models={"m": ModelPolicy(calibration=Temperature(), threshold=None)}, classes=("a", "b", "c"))
    with pytest.raises(RunError, match="names the likeliest of 3 classes"):
        several.with_threshold("m", 0.5, by="Ada", why="trial")
    with pytest.raises(RunError, match="set pooled, which holds for them"):
        several.with_threshold("m", 0.5, pattern="text", by="Ada", why="trial")
