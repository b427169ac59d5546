"""`bifocal policy anchor`: a new model that flags as the old one did."""

import csv
import json
import random
import shutil

import numpy as np
import pytest

from bifocal.config import SourceConfig
from bifocal.decide.policy import Policy
from bifocal.deploy.anchors import AnchorSettings, anchor
from bifocal.deploy.export import export
from bifocal.errors import BifocalError, DataError, RunError
from bifocal.system.system import System

WHO = {"by": "Ada", "why": "it replaces the old one"}


@pytest.fixture
def run(labels_run, tmp_path):
    """A run that may be changed."""
    return shutil.copytree(labels_run, tmp_path / "new")


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    """1,500 new posts with the old system's score and their labels: ``posts.csv``, ``old.csv``."""
    place, rng = tmp_path_factory.mktemp("posts"), random.Random(3)
    rows, scores = [], []
    for i in range(1500):
        urgent = rng.random() < 0.4
        cue = "perhaps" if i % 8 == 0 else "quickly" if urgent ^ (rng.random() < 0.2) else "sometime"
        room = rng.choice(["hall", "yard"]) if urgent ^ (rng.random() < 0.3) else "cellar"
        row = {
            "id": f"new{i}",
            "words": f"{cue} letter number {i} about {rng.choice(['fire', 'matters', 'noise'])} here",
            "price": 40 + i % 20,
            "room": room,
        }
        rows.append({**row, "urgent": int(urgent), "paid": i % 2, "kind": rng.choice(["fire", "water", "noise"])})
        scores.append({"id": f"new{i}", "TOXICITY": round(min(1, max(0, rng.gauss(0.3 + 0.2 * urgent, 0.2))), 3)})
    for name, content in (("posts", rows), ("old", scores)):
        with (place / f"{name}.csv").open("w", newline="") as f:
            writer = csv.DictWriter(f, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    return place


def source(run, path, *, labelled=False):
    config = json.loads((run / "run.json").read_text())["config"]["source"]
    labels = config["labels"] if labelled else {}
    return SourceConfig.model_validate({**config, "root": str(path), "split": None, "labels": labels})


def decided(run, path):
    """The label ``urgent`` of each post."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    system = System.load(run)
    given = [{"text": r["words"], "tabular": {"price": float(r["price"]), "room": r["room"]}} for r in rows]
    return np.array([decision.labels["urgent"].label for decision in system.predict_batch(given)])


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_the_same_share_of_recent_posts_is_flagged_as_by_the_old_scores(run, posts, threshold):
    old = [float(row["TOXICITY"]) for row in csv.DictReader((posts / "old.csv").read_text().splitlines())]
    wanted = np.mean(np.array(old) >= threshold)
    settings = AnchorSettings(threshold, score="TOXICITY")
    found = anchor(run, posts / "old.csv", "flag_rate", on=source(run, posts / "posts.csv"), settings=settings, **WHO)
    (one,) = found["thresholds"]
    assert one["wanted"] == pytest.approx(wanted) and found["on"] == 1500 and found["label"] == "urgent"
    assert decided(run, posts / "posts.csv").mean() == pytest.approx(one["reached"], abs=0.002)
    policy = Policy.load(next(run.glob("policy_*.json")))
    assert policy.version == found["policy"] and policy.changes[-1].by == "Ada"
    assert "flag_rate of" in policy.changes[-1].why and len(list((run / "policies").glob("*.json"))) == 2


@pytest.mark.parametrize("keep", ["precision", "fpr"])
def test_a_figure_is_kept_on_labelled_posts(run, posts, keep):
    on = source(run, posts / "posts.csv", labelled=True)
    found = anchor(run, posts / "old.csv", keep, on=on, settings=AnchorSettings(0.45, score="TOXICITY"), **WHO)
    figure = found["figures"][keep]
    assert abs(figure["difference"]["value"]) < 0.06 and figure["old"]["value"] > 0
    named, truth = decided(run, posts / "posts.csv"), np.array(
        [int(row["urgent"]) for row in csv.DictReader((posts / "posts.csv").read_text().splitlines())]
    )  # fmt: skip
    told = {"precision": truth[named == 1].mean(), "fpr": named[truth == 0].mean()}
    assert told[keep] == pytest.approx(figure["new"]["value"], abs=0.01)


def test_both_ends_of_a_review_band_follow_the_old_models_actions(labels_run, tmp_path, posts):
    from bifocal.config import ReviewConfig
    from bifocal.deploy.policies import set_review

    old, new = (shutil.copytree(labels_run, tmp_path / name) for name in ("old", "new"))
    for folder, rate in ((old, 0.03), (new, 0.08)):
        set_review(folder, ReviewConfig(fnr=rate, fpr=rate), label="urgent", by="Ada", why="a band")
    found = anchor(new, old, "flag_rate", on=source(new, posts / "posts.csv"), **WHO)
    policies = [Policy.load(next(folder.glob("policy_*.json"))) for folder in (old, new)]
    assert found["thresholds"] and all(one["band"] is not None for one in found["thresholds"])
    # The same models: what is anchored decides alike, up to the gap between two scores.
    rows = list(csv.DictReader((posts / "posts.csv").read_text().splitlines()))
    given = [{"text": r["words"], "tabular": {"price": float(r["price"]), "room": r["room"]}} for r in rows]
    done = [[d.labels["urgent"].action for d in System.load(f).predict_batch(given)] for f in (old, new)]
    assert done[0] == done[1] and "review" in done[0]
    assert policies[1].changes[-1].band is not None and policies[0].version != policies[1].version


def test_a_bundle_is_anchored_by_itself(run, posts, tmp_path):
    bundle = tmp_path / "bundle"
    export(run, "torch", output=bundle, accept=True)
    before = next(run.glob("policy_*.json")).read_text()
    settings = AnchorSettings(score="TOXICITY")
    found = anchor(
        bundle, posts / "old.csv", "flag_rate", on=source(run, posts / "posts.csv"), settings=settings, **WHO
    )
    (one,) = found["thresholds"]
    assert (
        System.load(bundle).policy_version == found["policy"] and next(run.glob("policy_*.json")).read_text() == before
    )
    assert decided(bundle, posts / "posts.csv").mean() == pytest.approx(one["reached"], abs=0.002)


def test_what_cannot_be_anchored_is_refused_in_a_line(run, posts, tmp_path, labels_run):
    few = tmp_path / "few.csv"
    few.write_text("\n".join((posts / "posts.csv").read_text().splitlines()[:21]))
    old, settings = posts / "old.csv", AnchorSettings(score="TOXICITY")
    before = next(run.glob("policy_*.json")).read_text()
    cases = [
        (DataError, "20 posts are left to count flags on, and 1,000", {"on": source(run, few)}, "flag_rate"),
        (DataError, "recent posts: name 1,000 or more by --on", {}, "flag_rate"),
        (DataError, "50 and 100 are needed", {"on": source(run, few, labelled=True)}, "precision"),
        (DataError, "50 and 100 are needed", {"on": source(run, posts / "posts.csv")}, "fpr"),
        (RunError, "is unknown", {}, "recall"),
    ]
    for error, told, given, keep in cases:
        with pytest.raises(error, match=told):
            anchor(run, old, keep, settings=settings, **WHO, **given)
    table = json.loads((run / "run.json").read_text())["config"]["source"]["root"]
    with pytest.raises(DataError, match="trained or tuned|are left to count"):  # never the training table
        anchor(run, labels_run, "flag_rate", on=source(run, table), **WHO)
    with pytest.raises(DataError, match="no threshold of the new one comes to it"):
        on = source(run, posts / "posts.csv", labelled=True)
        anchor(run, old, "precision", on=on, settings=AnchorSettings(0.75, score="TOXICITY"), **WHO)
    with pytest.raises(RunError, match="anchored to itself"):
        anchor(run, run, "fpr", **WHO)
    with pytest.raises(RunError, match="has no policy"):
        anchor(old, run, "fpr", **WHO)
    with pytest.raises(RunError, match="say who"):
        anchor(run, old, "fpr", by="", why="x")
    with pytest.raises(DataError, match="several classes"):
        anchor(run, labels_run, "fpr", settings=AnchorSettings(label="kind"), **WHO)
    with pytest.raises(BifocalError, match="no column 'TOXICTY'.*TOXICITY"):
        on = source(run, posts / "posts.csv")
        anchor(run, old, "flag_rate", on=on, settings=AnchorSettings(score="TOXICTY"), **WHO)
    assert next(run.glob("policy_*.json")).read_text() == before


def test_the_command_anchors_and_says_how_near_it_came(run, posts, command):
    done = command(
        "policy", "anchor", run, "--to", posts / "old.csv", "--score", "TOXICITY", "--keep", "flag_rate",
        "--on", posts / "posts.csv", "--by", "Ada", "--why", "goes live",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "flag_rate as of" in done.stdout and "pooled" in done.stdout and "policy " in done.stdout
