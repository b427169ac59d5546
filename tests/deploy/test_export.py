import json
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import bifocal
from bifocal.cli.app import app
from bifocal.config import parse_config
from bifocal.contracts import Reporter
from bifocal.deploy.export import export
from bifocal.deploy.policies import compare, set_threshold
from bifocal.errors import ModelError, RunError
from bifocal.models.exportable import FusionModule
from bifocal.pipeline.train import run
from bifocal.system.bundle import default_state_folder, is_bundle
from bifocal.system.parity_probe import ParityWarning
from bifocal.workspace import file_sha256

WORDS = "a quiet morning"


@pytest.fixture(scope="module")
def bundles(small_run, small_bundle, tmp_path_factory):
    """Engine -> its bundle, and the report that was made with it; what is quantised is the graph of the ONNX bundle,
    for tracing takes ten times as long as all the rest."""
    place = tmp_path_factory.mktemp("bundles")
    engines = ("onnx-int8", "torch", "torch-bf16")
    with pytest.MonkeyPatch.context() as patch:
        traced = "bifocal.deploy.export.write_graph"
        patch.setattr(traced, lambda *arguments: shutil.copy(small_bundle / arguments[-1].name, arguments[-1]))
        made = {engine: export(small_run, engine, output=place / engine, accept=True) for engine in engines}
    with open(small_bundle / "parity.json") as f:
        return {"onnx": {**json.load(f), "bundle": str(small_bundle)}, **made}


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def posts(picture):
    return [{"text": WORDS, "image_path": picture}, {"text": WORDS}, {"image_path": picture}, {"text": "x " * 300}]


@pytest.mark.parametrize(
    ("engine", "close"), [("onnx", 1e-4), ("torch", 1e-6), ("torch-bf16", 0.15), ("onnx-int8", 0.15)]
)
def test_a_bundle_decides_as_its_run(small_run, bundles, picture, engine, close):
    here, there = bifocal.load(small_run), bifocal.load(bundles[engine]["bundle"])
    assert there.engine.name == engine and there.main == here.main and there.reads == here.reads
    for ours, theirs in zip(here.predict_batch(posts(picture)), there.predict_batch(posts(picture)), strict=True):
        assert theirs.probability == pytest.approx(ours.probability, abs=close)
        assert theirs.models.keys() == ours.models.keys() and theirs.text_used == ours.text_used
        assert theirs.threshold == ours.threshold and theirs.versions["engine"] == engine
    assert there.policy.version != here.policy.version


def test_the_report_is_of_the_test_posts_and_lies_in_the_bundle(bundles):
    report = bundles["onnx"]
    assert (report["n"], report["split"], report["flips"]["count"]) == (40, "test", 0)
    assert report["flips"]["high"] == pytest.approx(1 - 0.025 ** (1 / 40), abs=1e-6)  # Clopper and Pearson, of none
    assert report["largest"] < 1e-4 and report["nll"]["run"] == pytest.approx(report["nll"]["engine"], abs=1e-4)
    assert sum(row["n"] for row in report["patterns"].values()) == 40
    with open(f"{bundles['torch']['bundle']}/parity.json") as f:
        assert json.load(f) == {k: v for k, v in bundles["torch"].items() if k != "bundle"}
    with open(f"{report['bundle']}/parity.md") as f:
        assert "| all | 40 | 0 = 0.00% [0.00%, 8.81%]" in f.read()
    assert bundles["onnx-int8"]["largest"] > report["largest"]


def test_calibration_is_fitted_to_the_engine_and_the_rest_is_carried(small_run, small_config, tmp_path, monkeypatch):
    monkeypatch.setattr("bifocal.decide.calibration_methods.LEAST_ROWS", 5)  # val has 19 rows of a class
    shutil.copytree(small_run, tmp_path / "small")
    folder = run(parse_config(small_config), root=tmp_path, start="calibrate")
    ours = bifocal.load(folder).policy
    theirs = bifocal.load(export(folder, "torch-bf16", accept=True)["bundle"]).policy
    one, other = ours.models["mm_fusion"], theirs.models["mm_fusion"]
    assert one.calibration.temperature != other.calibration.temperature
    assert one.calibration.temperature == pytest.approx(other.calibration.temperature, rel=0.2)
    assert one.threshold == other.threshold and ours.expected == theirs.expected


@pytest.fixture(scope="module")
def memes_of_labels(tmp_path_factory):
    """A run of three labels over texts of several windows and pictures, each under the heads of one encoder."""
    config = {
        "run": "several",
        "labels": ["abuse_hate", "offensive", {"target_type": {"requires": "offensive"}}],
        "source": {
            "kind": "synthetic", "size": 160,
            "structures": {"abuse_hate": "and", "offensive": "unique_text", "target_type": "unique_image"},
        },
        "ocr": "never",
        "splits": {"val": 0.25, "test": 0.25},
        "experts": {
            "text": {"model": "tiny", "tune": "head", "options": {"max_length": 32}},
            "image": {"model": "tiny", "tune": "head"},
        },
        "fusion": {"strategy": "concat", "seeds": 1, "options": {"epochs": 3}},
        "decide": {"on": "val"},
        "bootstrap": 100,
    }  # fmt: skip
    return run(parse_config(config), root=tmp_path_factory.mktemp("several"))


def same_labels(folder, bundle, posts, close):
    for ours, theirs in zip(
        bifocal.load(folder).predict_batch(posts), bifocal.load(bundle).predict_batch(posts), strict=True
    ):
        assert theirs.action == ours.action and list(theirs.labels) == list(ours.labels) and len(ours.labels) == 3
        for label, answer in ours.labels.items():
            if answer is None:
                assert theirs.labels[label] is None
                continue
            assert theirs.labels[label].probability == pytest.approx(answer.probability, abs=close), label
            for model, opinion in answer.models.items():
                assert theirs.labels[label].models[model].probability == pytest.approx(opinion.probability, abs=close)


def test_a_bundle_without_torch_decides_by_every_label_as_its_run(memes_of_labels, picture, tmp_path):
    report = export(memes_of_labels, "onnx", output=tmp_path / "onnx")
    same_labels(memes_of_labels, tmp_path / "onnx", posts(picture), 1e-4)
    names = {path.name for path in (tmp_path / "onnx").glob("*.onnx")}
    fusions = {"mm_fusion.onnx", "mm_fusion.offensive.onnx", "mm_fusion.target_type.onnx"}
    assert names == {"text_expert.onnx", "vision_expert.onnx"} | fusions, "heads lie in the file of their encoder"
    assert report["n"] == report["labels"]["offensive"]["n"] > report["labels"]["target_type"]["n"]


def test_a_bundle_of_several_labels_holds_what_each_has_of_its_own(labels_run, tmp_path):
    folder = tmp_path / "torch"
    report = export(labels_run, "torch", output=folder)
    posts = [{"text": "quickly note about fire here", "tabular": {"price": 120, "room": "hall"}}, {"text": "sometime"}]
    same_labels(labels_run, folder, posts, 1e-6)
    assert list(report["labels"]) == ["paid", "kind"] and report["labels"]["paid"]["flips"]["count"] == 0
    assert {"reference.json", "reference.paid.json", "reference.kind.json"} <= {p.name for p in folder.iterdir()}
    assert "| kind: all |" in (folder / "parity.md").read_text()
    path = folder / "probe" / "expected.json"
    expected = json.loads(path.read_text())
    expected["posts"][0]["labels"]["paid"]["mm_fusion"] = [2.0, -1.0]
    path.write_text(json.dumps(expected))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["probe/expected.json"] = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="decides otherwise here"):
        bifocal.load(folder, strict_parity=True)
    with pytest.raises(ModelError, match="the text expert .TfidfText. cannot be exported to ONNX"):
        export(labels_run, "onnx", output=tmp_path / "onnx")


def test_what_becomes_integers_saturates_on_no_processor(bundles):
    """AVX2 without VNNI adds two products of an unsigned and a signed byte in 16 bits: 2 x 255 x 64 is the most."""
    import onnx

    for name in ("text_expert", "vision_expert"):
        graph = onnx.load(Path(bundles["onnx-int8"]["bundle"]) / f"{name}.onnx").graph
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        products = [node for node in graph.node if node.op_type in ("MatMulInteger", "QLinearMatMul", "ConvInteger")]
        assert products or name == "vision_expert"
        for node in products:
            w = weights[node.input[1]]
            assert w.dtype == np.int8 and np.abs(w.astype(int)).max() <= 64, node.name


def test_heads_stay_as_they_were_trained(bundles):
    import onnx

    for name in ("text_expert", "vision_expert"):
        graph = onnx.load(Path(bundles["onnx-int8"]["bundle"]) / f"{name}.onnx").graph
        trained = onnx.load(Path(bundles["onnx"]["bundle"]) / f"{name}.onnx").graph
        made = {output: node for node in graph.node for output in node.output}
        node = made["logits"]
        while node.op_type not in ("MatMul", "Gemm"):
            assert node.op_type in ("Add", "Identity"), f"{name}: logits by {node.op_type}"
            node = next(made[source] for source in node.input if source in made)
        ours, theirs = ({t.name: onnx.numpy_helper.to_array(t) for t in one.initializer} for one in (graph, trained))
        weight = ours[node.input[1]]
        assert weight.dtype == np.float32
        assert any(np.array_equal(weight, one) or np.array_equal(weight.T, one) for one in theirs.values()), name


def test_a_bundle_keeps_posts_and_the_processor_and_says_the_same_of_them(small_run, bundles):
    for engine, report in bundles.items():
        folder = Path(report["bundle"])
        kept = json.loads((folder / "probe" / "expected.json").read_text())
        assert len(kept["posts"]) == report["probe"]["posts"] == 4 and kept["processor"]["machine"]
        assert "Exported on" in (folder / "parity.md").read_text()
        for post in kept["posts"]:
            assert post["parts"].keys() == {"text", "image"}
            assert set(post["probabilities"]) == {"text_expert", "vision_expert", "mm_fusion"}
            assert all((folder / "probe" / file).stat().st_size for file in post["parts"].values())
        spread = [post["probabilities"]["mm_fusion"][1] for post in kept["posts"]]
        assert spread[0] < spread[-1]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert bifocal.load(folder, strict_parity=True).engine.name == engine


@pytest.mark.parametrize("engine", ["onnx", "onnx-int8", "torch", "torch-bf16"])
def test_an_engine_that_says_something_else_here_is_told_of_or_refused(bundles, engine, monkeypatch, capsys):
    from bifocal.system.onnx_engine import OnnxEngine
    from bifocal.system.torch_engine import TorchEngine

    for kind in (OnnxEngine, TorchEngine):  # as if this processor computed something else
        logits = kind.logits
        monkeypatch.setattr(
            kind,
            "logits",
            lambda self, e, logits=logits: {m: x + np.float32([0, 3]) for m, x in logits(self, e).items()},
        )
    folder = bundles[engine]["bundle"]
    with pytest.warns(
        ParityWarning, match=r"of its 4 kept posts a probability of \w+ differs by 0\.\d+ .* Export it again"
    ):
        assert bifocal.load(folder)
    with pytest.raises(ModelError, match="decides otherwise here than where it was exported"):
        bifocal.load(folder, strict_parity=True)


def test_the_command_line_warns_in_a_line_and_refuses_where_it_is_told_to(bundle, command):
    path = bundle / "probe" / "expected.json"  # as if it had been exported where something else was computed
    expected = json.loads(path.read_text())
    expected["posts"][0]["probabilities"]["mm_fusion"] = [2.0, -1.0]
    path.write_text(json.dumps(expected))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["probe/expected.json"] = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    warned = command("predict", bundle, "--text", WORDS)
    assert warned.returncode == 0 and "mm_fusion" in warned.stdout
    assert warned.stderr.startswith("warning: ") and warned.stderr.count("\n") == 1
    refused = command("predict", bundle, "--text", WORDS, "--strict-parity")
    assert (
        refused.returncode == 2 and refused.stderr.startswith("error: ") and "decides otherwise here" in refused.stderr
    )
    refused = command("serve", bundle, "--port", 0, "--state", bundle.parent / "state", "--strict-parity")
    assert refused.returncode == 2 and "decides otherwise here" in refused.stderr


def test_a_base_rate_or_a_threshold_that_is_set_later_is_no_doing_of_the_processor(bundle):
    set_threshold(bundle, None, 0.9, by="Ada", why="complaints")
    assert bifocal.load(bundle, strict_parity=True)


def test_a_bundle_of_an_earlier_bifocal_is_loaded_and_only_strict_parity_refuses_it(bundle):
    shutil.rmtree(bundle / "probe")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {name: facts for name, facts in manifest["files"].items() if not name.startswith("probe/")}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert bifocal.load(bundle)
    with pytest.raises(ModelError, match="keeps no posts to ask its engine again"):
        bifocal.load(bundle, strict_parity=True)


def test_an_explanation_is_the_same_from_a_bundle(small_run, bundles, picture):
    here = bifocal.load(small_run).explain(WORDS, picture, grid=2)
    there = bifocal.load(bundles["onnx"]["bundle"]).explain(WORDS, picture, grid=2)
    assert there.score == pytest.approx(here.score, abs=1e-3)
    for name, share in here.contributions.items():
        assert there.contributions[name] == pytest.approx(share, abs=1e-3)


FORBIDDEN = (
    "torch",
    "transformers",
    "safetensors",
    "sklearn",
    "scipy",
    "pandas",
    "lightgbm",
    "pdqhash",
    "onnx",
    "jinja2",
)


def test_a_bundle_runs_on_the_base_install(bundles, picture):
    code = f"""
import sys
from pathlib import Path
class No:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, No())
import bifocal
system = bifocal.load({bundles["onnx"]["bundle"]!r})
print(system.predict({WORDS!r}, {str(picture)!r}).probability)
print(system.explain({WORDS!r}).decision.probability)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    both = bifocal.load(bundles["onnx"]["bundle"]).predict(WORDS, picture).probability
    assert float(done.stdout.split()[0]) == pytest.approx(both, abs=1e-6)


@pytest.fixture
def bundle(bundles, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(bundles["onnx"]["bundle"], tmp_path / "bundle")


def flip(path, at=100):
    blob = bytearray(path.read_bytes())
    blob[at] ^= 1
    path.write_bytes(blob)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda b: flip(b / "text_expert.onnx"), "text_expert.onnx is not the file that was exported"),
        (lambda b: (b / "mm_fusion.onnx").unlink(), "mm_fusion.onnx is missing"),
        (lambda b: (b / "mm_fusion.onnx").write_bytes(b"cut"), "mm_fusion.onnx is not the file"),
        (lambda b: (b / "more.py").write_text("print()"), "more.py is none of the bundle's files"),
        (lambda b: (b / "link").symlink_to("/etc"), "link is none of the bundle's files"),
        (lambda b: (b / "manifest.json").write_text("{}"), "is no manifest of a bundle"),
        (lambda b: (b / "policy.json").write_text("{}"), "policy.json is not the file"),
    ],
)
def test_a_bundle_that_was_touched_is_refused_before_it_is_opened(bundle, damage, told):
    damage(bundle)
    with pytest.raises(ModelError, match=told):
        bifocal.load(bundle)


def test_a_threshold_by_hand_is_sealed_into_a_bundle_with_its_record(bundle):
    old = bifocal.load(bundle).policy
    said = set_threshold(bundle, None, 0.999, by="Ada", why="complaints")
    policy = bifocal.load(bundle).policy  # checks the manifest
    assert (policy.version, policy.threshold(policy.changes[0].model, "pooled")) == (said["policy"], 0.999)
    assert policy.changes[-1].why == "complaints" and said["bundles"] == {}
    with pytest.raises(RunError, match="compare policies of its run"):
        compare(bundle, bundle)
    kept = {path.stem for path in (bundle / "policies").iterdir()}
    assert kept == {old.version, policy.version}
    (bundle / "policies" / "more.json").write_text("{}")
    with pytest.raises(ModelError, match=r"more.json is none of the bundle's files"):
        bifocal.load(bundle)


@pytest.mark.parametrize("killed_at", ["policies", "policy.json", "manifest.json"])
def test_who_is_killed_while_setting_a_threshold_does_it_again(bundle, monkeypatch, killed_at):
    from bifocal import workspace

    replace = workspace.os.replace

    def killed(source, target):
        if killed_at in (Path(target).name, Path(target).parent.name):
            monkeypatch.undo()
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(workspace.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        set_threshold(bundle, None, 0.9, by="Ada", why="complaints")
    (bundle / ".policy.json.1.part").write_text("what a killed writer leaves")
    set_threshold(bundle, None, 0.8, by="Ada", why="again")
    assert bifocal.load(bundle).policy.changes[-1].after == 0.8
    flip(bundle / "text_expert.onnx")  # what else is in it stays under its own seal
    set_threshold(bundle, None, 0.7, by="Ada", why="again")
    with pytest.raises(ModelError, match=r"text_expert.onnx is not the file"):
        bifocal.load(bundle)


def test_the_bundles_that_a_new_threshold_does_not_reach_are_named(small_run, bundles, tmp_path):
    run_folder = shutil.copytree(small_run, tmp_path / "run")
    folder = shutil.copytree(bundles["torch"]["bundle"], run_folder / "bundles" / "torch")

    def call(*arguments):
        done = CliRunner().invoke(app, [*map(str, arguments)])
        assert done.exit_code == 0, done.output
        return done.output

    said = ["--threshold", "0.999", "--by", "Ada", "--why", "too many complaints"]
    told = call("policy", "set", run_folder, *said)
    (line,) = [line for line in told.splitlines() if "still decides by its own policy" in line]
    own = bifocal.load(run_folder).policy.models["mm_fusion"].patterns
    for pattern, fit in own.items():
        assert f"unchanged: {fit.threshold:g} for posts with {pattern} only" in told
    call(*shlex.split(line.partition(": ")[2])[1:])  # the command that it names
    assert bifocal.load(folder).policy.threshold("mm_fusion", "pooled") == 0.999
    assert set_threshold(run_folder, None, 0.999, by="Ada", why="the same")["bundles"] == {}
    set_threshold(folder, "text_expert", 0.1, by="Bob", why="of the bundle alone")
    told = call("policy", "set", run_folder, *said[2:], "--threshold", "0.5")
    assert f"bifocal export {run_folder} --engine torch" in told
    notes: list[str] = []
    reporter = Reporter()
    reporter.note = notes.append
    export(run_folder, "torch", reporter=reporter)
    assert any("the threshold 0.1 of text_expert (pooled), set by Bob" in note for note in notes)
    assert len(list((folder / "policies").iterdir())) == 3 and bifocal.load(folder)


def test_the_engine_asked_for_is_the_one_that_runs(small_run, bundle, tmp_path):
    copy = shutil.copytree(small_run, tmp_path / "run")
    with pytest.raises(RunError, match="bifocal export .* --engine onnx"):
        bifocal.load(copy, "onnx")
    with pytest.raises(RunError, match="did you mean 'onnx'"):
        bifocal.load(copy, "onxx")
    shutil.copytree(bundle, copy / "bundles" / "onnx")
    assert bifocal.load(copy, "onnx").engine.name == "onnx" and bifocal.load(copy).engine.name == "torch"
    with pytest.raises(RunError, match="was exported for onnx, asked for is onnx-int8"):
        bifocal.load(bundle, "onnx-int8")


def test_an_engine_that_flips_decisions_is_not_taken_unless_accepted(small_run, tmp_path, monkeypatch):
    from bifocal.deploy import export as module
    from bifocal.system.torch_engine import TorchEngine

    logits = TorchEngine.logits
    monkeypatch.setattr(TorchEngine, "logits", lambda self, e: {m: -x for m, x in logits(self, e).items()})
    with pytest.raises(RunError, match=r"decides otherwise on \d+ of 40 test posts .* --accept"):
        module.export(small_run, "torch", output=tmp_path / "bad")
    assert not (tmp_path / "bad").exists() and not list(tmp_path.glob(".bad*"))
    assert module.export(small_run, "torch", output=tmp_path / "bad", accept=True)["flips"]["rate"] > 0.005


def test_the_log_of_a_bundle_in_service_survives_another_export(small_run, tmp_path, monkeypatch):
    export(small_run, "torch", output=tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    state = default_state_folder(Path("."))
    assert state == default_state_folder(tmp_path / "made") != default_state_folder(small_run)
    state.mkdir()
    (state / "decisions.sqlite").write_text("every decision")
    export(small_run, "torch", output=tmp_path / "made", accept=True)
    assert (state / "decisions.sqlite").exists() and bifocal.load(tmp_path / "made").predict("words").versions


def test_a_folder_that_is_no_bundle_is_not_replaced(small_run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="is no bundle, so it is not replaced"):
        export(small_run, "torch", output=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists() and not is_bundle(tmp_path / "mine")


def test_what_cannot_be_exported_says_so(records_run, tmp_path):
    with pytest.raises(ModelError, match=r"the \w+ expert \(\w+\) cannot be exported"):
        export(records_run, "onnx", output=tmp_path / "b")


SAMPLED, OTHERS = ["attention", "stacking"], ["bilinear", "concat", "gated", "hadamard", "mean", "weighted"]


@pytest.mark.parametrize("strategy", SAMPLED + [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS])
def test_every_fusion_of_tensors_is_traced_to_the_same_logits(strategy, tmp_path):
    from bifocal import plugins
    from bifocal.deploy.export import write_graph
    from bifocal.example import Evidence
    from bifocal.system.onnx_engine import open_session

    torch.manual_seed(0)
    n, labels = 240, torch.arange(240) % 2

    def evidence(rows, seed):
        generator = torch.Generator().manual_seed(seed)
        made = {}
        for name, width in (("text", 6), ("image", 5)):
            x = torch.randn(rows, width, generator=generator)
            there = torch.rand(rows, generator=generator) > 0.2
            logits = torch.stack([-x[:, 0], x[:, 0]], dim=1)
            zeros = torch.zeros(rows, dtype=torch.bool)
            ids = tuple(map(str, range(rows)))
            made[name] = Evidence(ids, ids, x, logits, there, torch.arange(rows) % 2, zeros)
        return made

    kind = plugins.load("fusions", strategy)
    options = {"epochs": 3} if "epochs" in kind.Options.model_fields else {}
    fusion = kind(**options).fit(evidence(n, 0), labels, seeds=range(2))
    module = FusionModule(fusion)
    inputs = {k if k == "present" else f"input_{k}": x for k, x in module.examples().items()}
    write_graph(module, inputs, dict.fromkeys(inputs, ("batch", None)), ["logits"], tmp_path / "f.onnx")
    session = open_session(tmp_path / "f.onnx")
    for rows in (1, 50):
        new = evidence(rows, 1)
        read = {f"input_{name}": getattr(new[name], what).numpy() for name, what in fusion.read.items()}
        there = np.stack([new[name].present.numpy() for name in fusion.read], axis=1)
        (said,) = session.run(None, {**read, "present": there})
        assert said == pytest.approx(fusion(new).numpy(), abs=1e-4)


def test_trees_say_that_they_are_not_traced(small_run, small_config, tmp_path):
    shutil.copytree(small_run, tmp_path / "small")  # its experts are those that the trees want
    trees = {"strategy": "boosted", "seeds": 1, "options": {"rounds": 5}}
    folder = run(parse_config(small_config | {"fusion": trees}), root=tmp_path)
    with pytest.raises(ModelError, match="fusion boosted cannot be exported"):
        export(folder, "onnx")
    assert export(folder, "torch", accept=True)["flips"]["count"] == 0


def test_the_command_tells_where_the_bundle_lies(small_run, tmp_path, capsys):
    from bifocal.cli import app as command

    arguments = ["export", str(small_run), "--engine", "torch", "-o", str(tmp_path / "b"), "-q"]
    command.app(arguments, standalone_mode=False)
    said = capsys.readouterr().out
    assert f"torch of small lies in {tmp_path / 'b'}" in said and "decisions that flip: 0 of 40 test posts" in said


def sealed_again(bundle):
    """What somebody does who made a bundle of his own: its manifest fits."""
    from bifocal.workspace import file_sha256

    paths = [p for p in bundle.rglob("*") if p.name != "manifest.json" and p.is_file()]
    facts = {str(p.relative_to(bundle)): {"sha256": file_sha256(p), "bytes": p.stat().st_size} for p in paths}
    (bundle / "manifest.json").write_text(json.dumps({"format": 1, "files": facts}))


def renamed(bundle, file):
    """The card names another file for the text expert's model, which lies beside the bundle."""
    (bundle / "text_expert.onnx").rename(bundle.parent / "outside.onnx")
    card = json.loads((bundle / "bundle.json").read_text())
    card["experts"]["text"]["file"] = file
    (bundle / "bundle.json").write_text(json.dumps(card))


def linked_folder(bundle):
    (bundle / "more").symlink_to(bundle.parent)
    renamed(bundle, "more/outside.onnx")


def linked(bundle):
    renamed(bundle, "text_expert.onnx")
    (bundle / "text_expert.onnx").symlink_to(bundle.parent / "outside.onnx")


def linked_card(bundle):
    (bundle / "bundle.json").rename(bundle.parent / "bundle.json")
    (bundle / "bundle.json").symlink_to(bundle.parent / "bundle.json")


@pytest.mark.parametrize(
    ("reach_out", "told"),
    [
        (lambda b: renamed(b, "../outside.onnx"), r"'../outside.onnx', which is none of the bundle's files"),
        (lambda b: renamed(b, str(b.parent / "outside.onnx")), "outside.onnx', which is none of the bundle's files"),
        (lambda b: renamed(b, "./bundle/../../outside.onnx"), "which is none of the bundle's files"),
        (lambda b: renamed(b, "manifest.json"), "which is none of the bundle's files"),
        (linked_folder, "more is none of the bundle's files"),
        (linked, "text_expert.onnx is a link"),
        (linked_card, "bundle.json is a link"),
    ],
)
def test_a_bundle_opens_nothing_but_what_its_manifest_holds(bundle, reach_out, told):
    reach_out(bundle)
    sealed_again(bundle)
    with pytest.raises(ModelError, match=told):
        bifocal.load(bundle)


def test_a_policy_is_set_in_no_folder_elsewhere(bundle, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (bundle / "policies").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="policies is a link"):
        set_threshold(bundle, None, 0.5, by="a", why="b")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("where", ["initializer", "constant", "inner graph"])
@pytest.mark.parametrize("location", ["../secret", "bundle.json", "/etc/hostname"])
def test_a_model_keeps_its_weights_in_itself(tmp_path, where, location):
    import onnx
    from onnx import TensorProto, helper

    from bifocal.system.onnx_weights import check_whole

    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    constant = helper.make_node("Constant", [], ["w"], value=weights)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    add = helper.make_node("Add", ["x", "w"], ["y"])
    if where == "initializer":
        graph = helper.make_graph([add], "g", [x], [y], [weights])
    else:
        graph = helper.make_graph([constant, add], "g", [x], [y])
    if where == "inner graph":
        branch = helper.make_graph([constant, add], "g", [], [y])
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=branch)], "g", [x], [y])
    onnx.save_model(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="keeps weights in other files"):
        check_whole(tmp_path / "m.onnx")


@pytest.mark.parametrize("blob", [b"", b"\x80" * 20, b"\x0f", b"\x0a", b"no model at all"])
def test_what_is_no_model_is_told(tmp_path, blob):
    from bifocal.system.onnx_engine import open_session

    (tmp_path / "m.onnx").write_bytes(blob)
    with pytest.raises(ModelError, match="is no model that ONNX Runtime reads"):
        open_session(tmp_path / "m.onnx")


def test_a_bundle_takes_nothing_from_the_environment(bundle, monkeypatch):
    monkeypatch.setenv("A_SECRET", "of-the-house")
    card = json.loads((bundle / "bundle.json").read_text())
    card["config"]["lab"] = {"about": {"title": "${A_SECRET} ${NOT_SET}"}}
    (bundle / "bundle.json").write_text(json.dumps(card))
    sealed_again(bundle)
    assert bifocal.load(bundle).config.lab.about.title == "${A_SECRET} ${NOT_SET}"
