"""The lab on Evidence whose answer is known, on a small run end to end, and on what cannot be judged."""

import json
import shutil

import numpy as np
import pytest
import torch
from tests.conftest import labels_config
from typer.testing import CliRunner

from bifocal import plugins
from bifocal.cli.app import app
from bifocal.cli.run_tables import print_lab
from bifocal.config import FusionConfig, parse_config
from bifocal.errors import ConfigError, DataError, RunError
from bifocal.evaluate.compare import Resampling
from bifocal.evaluate.metrics import headline_metric
from bifocal.example import BINARY, Evidence, Label
from bifocal.lab.experiment import experiment
from bifocal.lab.results import read_sets
from bifocal.lab.study import _about, keep, lab
from bifocal.lab.trials import ExpertFacts, Study, reads_evidence
from bifocal.lab.usable_rows import usable
from bifocal.models.linear import cross_fit, fit_linear
from bifocal.report.findings import findings
from bifocal.sources.synthetic import STRUCTURES
from bifocal.workspace import read_json, write_json

SIZES = {"train": 400, "val": 200, "test": 320}  # of 300 test rows or fewer, models that agree show nothing
QUICK = {"epochs": 8, "widths": [16], "batch_size": 32, "learning_rates": [1e-2], "weight_decays": [0.01]}
EXPERTS = {
    "text": ExpertFacts("text_expert", {"total": 1000, "trained": 20}),
    "image": ExpertFacts("vision_expert", {"total": 5000, "trained": 20}),
}
ABOUT = {"title": "A small one", "order": 1, "contributes": {}, "hypothesis": "", "expected": None}


def made(structure, seed=0, noise=0.2, width=5, sizes=SIZES):
    """Experts of a generated set: a bit of each modality in noise, with the logits that a linear head makes of it."""
    return made_of({"y": structure}, seed, noise, width, sizes)["y"]


def made_of(structures, seed=0, noise=0.2, width=5, sizes=SIZES):
    """The same for several labels of the same posts, each with heads of its own over the same features."""
    drawn = "xor" if "xor" in structures.values() else next(iter(structures.values()))
    rng, heads, found = np.random.default_rng(seed), {}, {label: {split: {} for split in sizes} for label in structures}
    for split, n in sizes.items():
        t, v = np.divmod(rng.choice(4, size=n, p=STRUCTURES[drawn].bits(0.5).ravel()), 2)
        ids, there = tuple(f"{split}-{i}" for i in range(n)), torch.ones(n, dtype=torch.bool)
        for name, bit in (("text", t), ("image", v)):
            told = 2 * bit[:, None] - 1 + rng.normal(0, noise, (n, 1))
            x = torch.tensor(np.concatenate([told, rng.normal(0, 1, (n, width - 1))], axis=1)).float()
            for label, structure in structures.items():
                y = torch.tensor(
                    [STRUCTURES[structure].label(*bits) for bits in zip(t.tolist(), v.tolist(), strict=True)]
                )
                if split == "train":
                    head = heads[label, name] = fit_linear(x, y, ids, classes=2, penalties=[0.1])
                    logits = cross_fit(x, y, ids, classes=2, folds=3, seed=0, penalty=head.penalty)
                else:
                    logits = heads[label, name](x)
                found[label][split][name] = Evidence(ids, ids, x, logits, there, y, ~there)
    return found


def examined(splits, *, strategies=("concat", "mean"), label=None, **options):
    label = label or Label(BINARY)
    resampling = Resampling(headline_metric(len(label.classes)), 100)
    study = Study(splits, FusionConfig(seeds=2, options=QUICK | options), EXPERTS, resampling)
    return experiment(study, label, strategies=strategies)[1]


@pytest.fixture(scope="module")
def results():
    """Structure -> what the lab finds."""
    return {structure: examined(made(structure)) for structure in STRUCTURES}


EXPECTED = {
    "redundant": ("not worth it", None),
    "unique_text": ("not worth it", None),
    "unique_image": ("not worth it", None),
    "and": ("worth it", "additive"),
    "xor": ("worth it", "interacting"),
}
"""Structure -> word and kind of the verdict."""


@pytest.mark.parametrize("structure", EXPECTED)
def test_the_verdict_is_the_one_that_the_structure_has(results, structure):
    verdict = results[structure]["verdict"]
    assert (verdict["word"], verdict["kind"]) == EXPECTED[structure], verdict["sentence"]
    assert verdict["sentence"].startswith(verdict["word"]) and verdict["reason"] in verdict["sentence"]


@pytest.mark.slow
@pytest.mark.parametrize("structure", EXPECTED)
def test_the_verdict_is_right_in_19_of_20_generator_seeds(structure):
    right = 0
    for seed in range(20):
        rows = made(structure, seed, sizes={"train": 1200, "val": 300, "test": 900})
        verdict = examined(rows, strategies=("concat", "hadamard", "mean", "stacking"))["verdict"]
        right += (verdict["word"], verdict["kind"]) == EXPECTED[structure]
    assert right >= 19


MIXES = [{"abuse_hate": "and", "offensive": "unique_text"}, {"abuse_hate": "xor", "offensive": "unique_image"}]


def test_each_label_of_a_mix_gets_the_verdict_of_its_own_structure():
    for label, rows in made_of(MIXES[0]).items():
        verdict = examined(rows)["verdict"]
        assert (verdict["word"], verdict["kind"]) == EXPECTED[MIXES[0][label]], (label, verdict["sentence"])


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_the_verdicts_of_a_mix_are_right_in_19_of_20_generator_seeds(mix):
    right = dict.fromkeys(mix, 0)
    for seed in range(20):
        for label, rows in made_of(mix, seed, sizes={"train": 1200, "val": 300, "test": 900}).items():
            verdict = examined(rows, strategies=("concat", "hadamard", "mean", "stacking"))["verdict"]
            right[label] += (verdict["word"], verdict["kind"]) == EXPECTED[mix[label]]
    assert min(right.values()) >= 19, right


def test_who_dominates_and_what_interacts_is_what_was_put_in(results):
    def shares(structure):
        return {name: found["value"] for name, found in results[structure]["dominance"]["accuracy"]["shapley"].items()}

    near = {"abs": 0.08}
    assert results["and"]["dominance"]["auroc"]["values"][0] == {"modalities": [], "value": 0.5}
    assert shares("unique_text") == pytest.approx({"text": 0.5, "image": 0}, **near)
    assert shares("unique_image") == pytest.approx({"text": 0, "image": 0.5}, **near)
    assert shares("redundant") == pytest.approx({"text": 0.25, "image": 0.25}, **near)
    assert shares("xor") == pytest.approx({"text": 0.25, "image": 0.25}, **near)
    assert results["xor"]["dominance"]["accuracy"]["cooperation"]["value"] == pytest.approx(0.5, abs=0.1)
    assert results["xor"]["pid"]["synergy"]["value"] > 0.8
    assert results["redundant"]["pid"]["redundancy"]["value"] > 0.8
    assert results["unique_text"]["pid"]["unique_1"]["value"] > 0.8  # the first is the text
    assert results["unique_text"]["perceptual"]["image"]["value"] == pytest.approx(0, abs=0.05)


def test_what_is_taken_away_costs_what_it_brought(results):
    def lost(structure):
        parts = results[structure]["ablation"]["modalities"]
        return {name: part["removed"]["absent"]["change"]["value"] for name, part in parts.items()}

    assert lost("unique_text")["text"] < -0.4 and abs(lost("unique_text")["image"]) < 0.02
    assert max(map(abs, lost("redundant").values())) < 0.05
    assert max(lost("xor").values()) < -0.4


def test_b_is_the_best_of_its_modality_and_f_the_best_fusion_on_val(results):
    found = results["unique_image"]
    assert {b["model"] for b in found["baselines"]} == {
        "text_expert", "text: MLP head", "vision_expert", "image: MLP head",
    }  # fmt: skip
    assert found["best_baseline"] == found["best_of_modality"]["image"]
    for chosen, table in (("best_baseline", "baselines"), ("best_fusion", "fusions")):
        on_val = {row["model"]: row["val"]["auroc"] for row in found[table]}
        assert on_val[found[chosen]] == pytest.approx(max(on_val.values()), abs=1e-6)
    assert results["xor"]["best_fusion"] == "concat"  # late fusions know nothing of it


def test_the_gain_is_the_least_of_those_over_each_modality(results):
    for found in results.values():
        gains, least = found["gains"], found["gain"]
        assert set(gains) == set(EXPERTS) and least["value"] == min(gain["value"] for gain in gains.values())
        assert least["over"] == min(gains, key=lambda name: gains[name]["value"])
        assert least["low"] == min(gain["low"] for gain in gains.values())
        assert min(gain["high"] for gain in gains.values()) <= least["high"]  # at 1 - 0.025 / 2
        rows = {row["model"]: row["test"]["auroc"]["value"] for row in (*found["baselines"], *found["fusions"])}
        for name, gain in gains.items():
            theirs = rows[found["best_of_modality"][name]]
            assert gain["value"] == pytest.approx(rows[found["best_fusion"]] - theirs)
        assert f"over {found['best_of_modality'][least['over']]} (" in found["verdict"]["sentence"]
    assert results["unique_text"]["gains"]["image"]["low"] > 0.4  # and worth nothing, for the text alone does as well


def test_what_is_made_of_other_fusions_is_not_f():
    single = [name for name in plugins.names("fusions") if reads_evidence(name)]
    assert {"concat", "alone", "linear"} <= set(single) and not {"auto", "ensemble"} & set(single)


def test_the_ensemble_stands_beside(results):
    for found in results.values():
        beside, fusions = found["ensemble"], {row["model"]: row for row in found["fusions"]}
        assert beside["model"] == "ensemble" not in fusions and beside["model"] != found["best_fusion"]
        assert beside["val"]["nll"] <= min(row["val"]["nll"] for row in fusions.values()) + 1e-3
        assert beside["parameters"]["own"] <= sum(row["parameters"]["own"] for row in fusions.values())
    only = results["xor"]["ensemble"]["parameters"]  # `mean` knows nothing of it
    assert only == next(row["parameters"] for row in results["xor"]["fusions"] if row["model"] == "concat")


def test_a_line_tells_figures_cost_and_spread(results):
    rows = {row["model"]: row for row in (*results["and"]["baselines"], *results["and"]["fusions"])}
    head = (2 * (5 + 1) * 16 + 16) + (16 * 2 + 2)  # of one seed
    assert rows["concat"]["parameters"]["own"] == head
    assert rows["concat"]["parameters"]["trained"] == 20 + 20 + head
    assert rows["concat"]["parameters"]["total"] > 1000 + 5000 + head > rows["text: MLP head"]["parameters"]["total"]
    assert rows["mean"]["parameters"]["own"] == 0 and rows["mean"]["seeds"] == {"n": 1}
    assert rows["concat"]["seeds"]["n"] == 2 and rows["concat"]["seeds"]["test"]["std"] >= 0
    assert rows["concat"]["seconds"] > 0 and rows["text_expert"]["seconds"] is None
    test = rows["concat"]["test"]["auroc"]
    assert test["low"] <= test["value"] <= test["high"]


def test_the_price_the_risk_and_the_tie(results):
    found = results["and"]
    assert found["price"]["parameters"] > 1000 and found["gain"]["detectable"] > 0
    assert found["risk"]["worst"] in EXPERTS and found["risk"]["drops"][found["risk"]["worst"]]["high"] < 0
    assert found["smallest_tie"] == "mean"  # it says AND as well as concat does, without a parameter of its own
    assert results["xor"]["smallest_tie"] == "concat"
    assert results["redundant"]["price"]["per_point"]["parameters"] is None  # there is no gain to pay for
    assert found["change"]["nll"]["high"] < 0
    assert results["redundant"]["risk"]["over_rest"]["text"]["low"] > -0.01  # the picture's own model does no better


def test_nothing_in_it_is_nan(results):
    json.dumps(results, allow_nan=False)


def test_rows_without_pairs_are_a_finding(results):
    assert results["and"]["confounders"] == {"text": None, "image": None}
    assert any(line.startswith("no confounder pairs by text") for line in results["and"]["findings"])


def timeless(found):
    found.pop("seconds_lab")
    for row in (*found["baselines"], *found["fusions"], found["control"], found["ensemble"]):
        row.pop("seconds")
    found["price"].pop("seconds"), found["price"].pop("per_point")
    return found


def test_the_same_seed_gives_the_same_tables():
    splits = made("and", sizes={"train": 120, "val": 80, "test": 80})
    assert timeless(examined(splits, epochs=2)) == timeless(examined(splits, epochs=2))


def test_another_number_of_threads_moves_the_last_digit_only():
    splits, threads = made("and", sizes={"train": 120, "val": 80, "test": 80}), torch.get_num_threads()
    tables = []
    for n in (1, 2):
        torch.set_num_threads(n)
        tables.append(dict(leaves(timeless(examined(splits, epochs=2)))))
    torch.set_num_threads(threads)
    one, two = tables
    assert one.keys() == two.keys()
    for where, value in one.items():
        assert value == (pytest.approx(two[where], abs=1e-4) if isinstance(value, float) else two[where]), where


def leaves(found, where=()):
    """Path -> number or word, of all that a table holds but for its sentences, which bear the numbers again."""
    if isinstance(found, dict | list):
        for key, value in found.items() if isinstance(found, dict) else enumerate(found):
            yield from leaves(value, (*where, key))
    elif not isinstance(found, str):
        yield where, found


# ---------------------------------------------------------------------------------------------- what cannot be judged


def test_a_class_with_few_test_rows_is_a_finding():
    splits = made("and", sizes=SIZES | {"test": 40})
    found = examined(splits, strategies=["mean"])["findings"]
    assert any("fewer than 30: its intervals say little" in line for line in found)


def test_a_part_that_never_changes_is_a_finding():
    splits = made("unique_text", sizes={"train": 200, "val": 100, "test": 320})
    for parts in splits.values():
        parts["image"].features[:], parts["image"].logits[:] = 1.0, 0.0
    found = examined(splits)
    assert "image is the same in every row of train: nothing can be learned of it" in found["findings"]
    assert found["verdict"]["word"] == "not worth it"
    json.dumps(found, allow_nan=False)


def test_a_split_of_one_class_is_refused_by_name():
    for split in SIZES:
        splits = made("and", sizes={"train": 60, "val": 60, "test": 60})
        for e in splits[split].values():
            e.labels[:] = 1
        with pytest.raises(DataError, match=f"rows of {split} bear only 1.*give more rows"):
            examined(splits)


def test_a_class_that_a_split_lacks_is_a_finding():
    splits = made("and", sizes={"train": 200, "val": 100, "test": 100})
    for split, parts in splits.items():
        for name, e in parts.items():
            wide = torch.cat([e.logits, torch.full((len(e), 1), -3.0)], dim=1)
            parts[name] = Evidence(e.ids, e.groups, e.features, wide, e.present, e.labels.clone(), e.seen)
            if split != "test":
                parts[name].labels[:10] = 2
    found = examined(splits, label=Label(("no", "yes", "rare")))
    assert found["metric"] == "macro_f1" and "test has no row of rare" in found["findings"]
    json.dumps(found, allow_nan=False)


# ---------------------------------------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def finished(small_run, small_config, tmp_path_factory):
    """The lab on a copy of the small run: its folder, and the root of the runs."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(small_run, root / "small")
    settings = {
        "margin": 0.02,
        "rows": 20,
        "probes": ["cue_text"],
        "about": {"title": "A small one", "contributes": {"text": "Words."}},
    }
    config = small_config | {"fusion": {"seeds": 2, "options": QUICK | {"epochs": 2}}, "lab": settings}
    return lab(parse_config(config), root=root), root


def test_the_lab_of_a_run_takes_what_is_finished(finished, small_run):
    folder, root = finished
    found = read_json(folder / "results.json")
    assert folder == root / "small" / "lab" and [p.name for p in folder.iterdir()] == ["results.json"]
    before, after = (read_json(r / "run.json")["steps"]["experts"] for r in (small_run, root / "small"))
    assert before == after
    assert found["run"] == "small" and found["rows"]["test"] == 40 and found["seconds"].keys() >= {"experts"}
    # The text has an encoder that needs no pretrained model; the picture has none.
    assert [b["model"] for b in found["baselines"]] == [
        "text_expert", "text: MLP head", "text: tfidf_text", "vision_expert", "image: MLP head",
    ]  # fmt: skip
    assert {f["model"] for f in found["fusions"]} >= {"concat", "mean", "stacking"}
    assert found["verdict"]["word"] in ("worth it", "gain shown", "not worth it", "undecided")
    assert found["margin"] == found["config"]["lab"]["margin"] == 0.02


def test_a_set_is_told_about_with_its_pipelines_and_probes(finished):
    found = read_json(finished[0] / "results.json")
    assert found["about"]["title"] == "A small one" and found["about"]["contributes"] == {"text": "Words."}
    text = found["experts"]["text"]
    assert text["expert"] == "text_expert" and text["columns"] > 0 and text["seconds"] > 0
    assert set(found["probes"]["cue_text"]) == {"text", "image"}
    assert found["settings"]["grid"] == {"learning_rates": [1e-2], "weight_decays": [0.01], "widths": [16]}
    assert found["settings"]["columns"] == 128  # the lab's own


def test_what_needs_encoders_is_run_on_a_sample(finished):
    found = read_json(finished[0] / "results.json")
    assert all(part["n"] <= 20 for part in found["corruption"].values()) and set(found["corruption"]) == {
        "text",
        "image",
    }
    assert set(found["imbalance"]) == {"starved", "corrupted", "truncated", "remedies"}
    assert found["joint"]["rows"]["train"] <= 20 and {t["kind"] for t in found["joint"]["trials"]} == {"joint"}
    assert len(found["joint"]["remedies"]["remedies"]) > 2


def test_the_fusion_learns_only_from_rows_unseen_by_the_experts(finished):
    folder, root = finished
    kept = read_json(root / "small" / "run.json")["fuse"]["n"]
    assert 0 < read_json(folder / "results.json")["rows"]["train"] <= kept


def test_the_command_prints_the_verdict(results, small_config, tmp_path, monkeypatch):
    """The lab itself is replaced by its result: what is tested is the command."""
    folder = tmp_path / "small" / "lab"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"run": "small", "label": "abuse_hate", **results["and"]}))
    monkeypatch.setattr("bifocal.lab.study.lab", lambda config, **_: folder)
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(small_config))
    shown = CliRunner().invoke(app, ["lab", str(file), "--runs", str(tmp_path), "-q"]).output
    for name in ("text", "image"):
        gain = results["and"]["gains"][name]
        assert f"over {results['and']['best_of_modality'][name]} (AUROC, test): {gain['value']:+.3f} [" in shown
    assert f"the least of its gains (AUROC, test): {results['and']['gain']['value']:+.3f} [" in shown
    assert "worth it, additive: " in shown and "smallest fusion that ties on val: mean" in shown
    assert "concat" in shown and "text: MLP head" in shown and "n/a" not in shown
    machine = CliRunner().invoke(app, ["lab", str(file), "--json"]).output
    assert json.loads(machine)["verdict"]["kind"] == "additive"


def test_results_are_kept_and_written_of(results, tmp_path, monkeypatch):
    """The lab itself is replaced by its result, as above."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "small" / "lab"
    write_json(folder / "results.json", {"run": "small", "label": "abuse_hate", "about": ABOUT, **results["and"]})
    monkeypatch.setattr("bifocal.lab.study.lab", lambda config, **_: folder)
    (tmp_path / "c.yaml").write_text("run: small\nsource: {kind: synthetic}\n")
    shown = CliRunner().invoke(app, ["lab", "c.yaml", "--write", "-q"])
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "lab" / "small" / "results.json").read_bytes() == (folder / "results.json").read_bytes()
    before = [(tmp_path / name).read_bytes() for name in ("experiments.md", "postmortem.md")]
    again = CliRunner().invoke(app, ["lab", "--write"])
    assert again.exit_code == 0 and "experiments.md" in again.output
    assert before == [(tmp_path / name).read_bytes() for name in ("experiments.md", "postmortem.md")]


def test_each_label_of_a_run_has_a_verdict_of_its_own(labels_run, tmp_path, monkeypatch, results, capsys):
    """The examination is replaced by a result: what is tested is which rows it is given, and where it goes."""
    root, rows = shutil.copytree(labels_run.parent, tmp_path / "runs"), {}

    def examine(data, probed, folder, reporter):
        name, evidence = data.config.label, usable({split: data.evidence_of(split) for split in SIZES})
        rows[name] = len(evidence["test"]["text"])
        config, about = data.config.model_dump(mode="json"), _about(data.config)
        return {"run": "labels", "label": name, "about": about, "config": config, **results["and"]}

    monkeypatch.setattr("bifocal.lab.study._examine", examine)
    folder = lab(labels_config(labels_run.parents[1]), root=root)
    assert list(rows) == ["urgent", "paid", "kind"] and rows["kind"] < rows["paid"] == rows["urgent"]
    names = ["results.json", "results.kind.json", "results.paid.json"]
    assert sorted(path.name for path in folder.glob("*.json")) == names
    assert findings(root / "labels", "paid")["verdict"] == results["and"]["verdict"]["sentence"]
    print_lab(folder, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["label"], list(told["labels"])) == ("urgent", ["paid", "kind"])
    print_lab(folder, as_json=False)
    assert capsys.readouterr().out.count("worth it, additive: ") == 3
    broken = shutil.copytree(folder, tmp_path / "broken" / "lab")
    (broken / "results.kind.json").write_text("{")  # the last one: nothing of the others is kept
    with pytest.raises(RunError, match=r"results\.kind\.json is not valid JSON"):
        keep(broken, tmp_path / "lab" / "labels")
    assert not [path for path in (tmp_path / "lab").rglob("*") if path.is_file()]
    keep(folder, tmp_path / "lab" / "labels")
    kept = {results.name: results.title for results in read_sets(tmp_path / "lab")}
    assert kept == {"labels": "labels, urgent", "labels.kind": "labels, kind", "labels.paid": "labels, paid"}


def test_the_command_without_anything_to_do_says_what_it_takes():
    asked = CliRunner().invoke(app, ["lab"])
    assert "takes a configuration, or --write" in str(asked.exception)


def test_one_modality_is_refused_before_anything_runs(tmp_path, small_config):
    config = {k: v for k, v in small_config.items() if k != "experts"} | {"modalities": ["text"]}
    with pytest.raises(ConfigError, match=r"modalities = \['text'\] has one; name two or more"):
        lab(parse_config(config), root=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_run_without_a_test_split_is_refused_before_its_experts_are_trained(tmp_path, small_config):
    config = small_config | {"splits": {"val": 0.3, "test": 0}, "source": {"kind": "synthetic", "size": 20}}
    with pytest.raises(DataError, match="there is train, val: set splits.test"):
        lab(parse_config(config), root=tmp_path)
    assert not (tmp_path / "small" / "models").exists()
