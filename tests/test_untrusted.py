"""A folder that is loaded is data: nothing that it names is imported, opened elsewhere or filled in, unless allowed."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import bifocal
from bifocal import plugins
from bifocal.assess.robustness import robustness
from bifocal.assess.run_data import RunData
from bifocal.cli.app import app
from bifocal.config import parse_config
from bifocal.decide.policy import Policy
from bifocal.deploy.export import export
from bifocal.deploy.policies import compare, set_threshold
from bifocal.errors import BifocalError, ConfigError, ModelError, PluginRefused, RunError
from bifocal.monitor.drift import measure_drift
from bifocal.pipeline.train import run
from bifocal.serve.retraining import labels_of
from bifocal.system.system import model_versions
from bifocal.workspace import RunRecord, Workspace

NAME = "code_from_elsewhere"


def change(path, key, value):
    content = json.loads(path.read_text())
    place = content
    *outer, last = key.split(".")
    for step in outer:
        place = place.setdefault(step, {})
    place[last] = value
    path.write_text(json.dumps(content))


def policy_fits(folder):
    """The policy is for the models that are there now."""
    space = Workspace.of(folder)
    policy = Policy.load(space.policy)
    versions = policy.versions | model_versions(space, ["text_expert", "vision_expert"])
    policy.model_copy(update={"versions": versions}).save(space.policy)


@pytest.fixture
def evil(small_run, tmp_path, monkeypatch):
    """A copy of a run, and a module that leaves a trace where it is imported; any interpreter would find it."""
    folder = shutil.copytree(small_run, tmp_path / "runs" / "evil")
    modules = tmp_path / "installed"
    modules.mkdir()
    trace = tmp_path / "it-ran"
    (modules / f"{NAME}.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from bifocal.models.fusions.concat import Concat\n"
        "from bifocal.modalities.text import Text\n"
        "class Mine(Concat): pass\n"
        "class Words(Text): pass\n"
    )
    monkeypatch.syspath_prepend(modules)
    yield folder
    sys.modules.pop(NAME, None)
    assert not trace.exists(), "code that a folder named was run"


def allowed_one(evil):
    """The copy with a fusion of an outside plug-in, and the policy that goes with it."""
    change(evil / "models" / "mm_fusion" / "config.json", "strategy", f"{NAME}:Mine")
    policy_fits(evil)
    return evil


PLACES = {
    "an expert's card": ("models/text_expert/bifocal.json", "encoder"),
    "the fusion's card": ("models/mm_fusion/config.json", "strategy"),
    "a modality": ("run.json", "config.modalities"),
}
LOADING = {
    "load": bifocal.load,
    "robustness": lambda folder: robustness(folder, rows=2, attacks=["jpeg"]),
    "export": lambda folder: export(folder, "torch"),
    "policy diff": lambda folder: compare(folder, folder),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", LOADING)
def test_what_a_folder_names_is_refused_whoever_loads_it(evil, place, command):
    file, key = PLACES[place]
    change(evil / file, key, ["text", "image", f"{NAME}:Words"] if key == "config.modalities" else f"{NAME}:Mine")
    policy_fits(evil)
    with pytest.raises(PluginRefused) as error:
        LOADING[command](evil)
    for told in (str(evil), file, NAME, "allow_plugins", "--allow-plugin"):
        assert told in str(error.value)


@pytest.mark.parametrize("key", ["source.kind", "fusion.strategy", "experts.text.encoder"])
def test_a_configuration_in_a_folder_names_no_code_either(evil, key):
    change(evil / "run.json", f"config.{key}", f"{NAME}:Mine")
    with pytest.raises(PluginRefused, match="run.json names"):
        RunData.of(evil)


def test_sources_of_sources_and_other_commands_too(evil):
    change(evil / "run.json", "config.source", {"kind": "several", "sources": [{"kind": f"{NAME}:Mine"}]})
    with pytest.raises(PluginRefused):
        RunData.of(evil)
    change(evil / "run.json", "config.modalities", ["text", "image", f"{NAME}:Words"])
    with pytest.raises(PluginRefused):
        set_threshold(evil, None, 0.5, by="a", why="b")
    (evil.parent / "new.csv").write_text("id,text\n1,words\n")
    with pytest.raises(BifocalError):
        measure_drift(evil, evil.parent / "new.csv")
    assert labels_of(evil)[0] == "small"  # asks for no model


@pytest.mark.parametrize(
    "name", ["os:system", "bifocal.system.preprocessing:pickle", 7, None, ["concat"], "../concat", "a b:c"]
)
def test_names_that_are_none_are_refused(evil, name):
    change(evil / "models" / "mm_fusion" / "config.json", "strategy", name)
    with pytest.raises(BifocalError, match=r"config.json names|is no name|there is no"):
        bifocal.load(evil)


@pytest.mark.parametrize("command", ["predict {} -t words", "explain {} -t words", "export {} --engine torch"])
def test_commands_refuse_in_one_line(evil, command):
    allowed_one(evil)
    found = CliRunner().invoke(app, command.format(evil).split())
    assert isinstance(found.exception, PluginRefused)


def test_a_service_and_its_processes_refuse(evil):
    change(evil / "models" / "mm_fusion" / "config.json", "strategy", f"{NAME}:Mine")
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "bifocal",
            "serve",
            str(evil),
            "--port",
            "0",
            "--set",
            "models=1",
            "--set",
            "decoders=1",
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 2 and f"--allow-plugin {NAME}" in found.stderr, found.stderr


def test_what_the_caller_allows_is_imported_and_nothing_more(evil, small_run, tmp_path):
    folder = allowed_one(evil)
    for others in ([], ["another"], [f"{NAME}:Other"], ["code_from"]):
        with pytest.raises(PluginRefused):
            bifocal.load(folder, allow_plugins=others)
    with pytest.raises(ConfigError, match="takes a list"):
        bifocal.load(folder, allow_plugins=NAME)
    assert not (tmp_path / "it-ran").exists()
    theirs = bifocal.load(small_run).predict(text="words").probability
    for names in ([NAME], (f"{NAME}:Mine",)):
        assert bifocal.load(folder, allow_plugins=names).predict(text="words").probability == theirs
    found = CliRunner().invoke(app, ["predict", str(folder), "-t", "words", "--json", "--allow-plugin", NAME])
    assert found.exit_code == 0, found.output
    with pytest.raises(PluginRefused):  # allowed once is not allowed for ever
        bifocal.load(folder)
    (tmp_path / "it-ran").unlink()


def test_a_run_that_is_taken_up_brings_no_code_but_what_its_configuration_names(evil, small_config):
    """The configuration is the user's; the folder that it goes on in may be anybody's."""
    card = evil / "models" / "text_expert" / "bifocal.json"
    change(card, "encoder", f"{NAME}:Mine")
    record = json.loads((evil / "run.json").read_text())  # which says that nothing has changed
    record["steps"]["experts"]["outputs"]["models/text_expert/bifocal.json"] = card.stat().st_size
    (evil / "run.json").write_text(json.dumps(record))
    root = evil.parent
    evil.rename(root / "small")
    with pytest.raises(PluginRefused):
        run(parse_config(small_config), root=root, start="fusion")


def test_the_current_folder_takes_no_modules_place(evil):
    """A notebook beside, or in, a run from elsewhere: Python itself looks for modules there first."""
    here = evil.parent
    for folder in (here, evil):
        for name in ("numpy", "pydantic", "torch", "difflib", "typer", "yaml"):
            (folder / f"{name}.py").write_text(f"raise SystemExit('{name} of the folder ran')\n")
    (here / "helper.py").write_text("")
    (evil / "helper_in_it.py").write_text("")
    change(evil / "run.json", "steps", {})  # told before torch is imported, which takes long
    code = "import sys; sys.path[0] = {!r}; import bifocal\n"
    code += "try: bifocal.load({!r})\nexcept bifocal.errors.RunError:\n    {}"
    own = "import helper\n    try: import helper_in_it; print('imported of the run')\n    except ImportError: pass"
    env = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(bifocal.__file__))}
    env.pop("PYTHONSAFEPATH", None)  # what a user has not set
    # What bifocal itself imports at once is looked for before it can say anything: difflib is taken away here.
    for folder in (here, evil):
        (folder / "difflib.py").rename(folder / "difflib_.py")
    for at, arguments in (
        (here, ["-c", code.format("", "evil", own)]),
        (evil, ["-c", code.format("", ".", "pass")]),
        (here, ["-c", code.format(str(evil), "evil", "pass")]),
    ):
        found = subprocess.run(
            [sys.executable, *arguments], cwd=at, env=env, capture_output=True, text=True, timeout=300
        )
        assert found.returncode == 0 and not found.stdout, found.stderr
    for folder in (here, evil):
        (folder / "difflib_.py").rename(folder / "difflib.py")
        found = subprocess.run(
            [sys.executable, "-m", "bifocal", "predict", str(evil), "-t", "words"],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert found.returncode == 2 and "is not finished" in found.stderr, found.stderr


def test_the_environment_stays_out_of_a_loaded_folder(evil, monkeypatch):
    monkeypatch.setenv("A_SECRET", "of-the-house")
    for value in ("${A_SECRET}", "${NOT_SET_AT_ALL}", "${A_SECRET:-x}"):
        change(evil / "run.json", "config.lab.about.title", value)
        assert bifocal.load(evil).config.lab.about.title == value
        assert RunData.of(evil).config.lab.about.title == value


@pytest.mark.parametrize("name", ["../small", "/etc/small", "a/b", "", ".x", 5, None, "small\n"])
def test_a_run_has_a_name_and_no_path(evil, name):
    change(evil / "run.json", "run", name)
    with pytest.raises(RunError, match="no name of a run"):
        bifocal.load(evil)


def test_a_record_deletes_nothing_outside_of_its_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("kept")
    for name in ("../mine", str(tmp_path / "mine"), "a/../../mine"):
        step = {"fingerprint": "x", "outputs": {name: 4}}
        (tmp_path / "run" / "run.json").write_text(json.dumps({"run": "run", "steps": {"manifest": step}}))
        record = RunRecord(tmp_path / "run" / "run.json")
        with pytest.raises(RunError, match="no file in it"):
            record.done("manifest", "x")
        with pytest.raises(RunError, match="no file in it"):
            record.forget(["manifest"], keep=())
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("adapter_config.json", {"base_model_name_or_path": "somebody/else", "peft_type": "LORA"}),
        ("config.json", {"attn_implementation": "somebody/kernel"}),
        ("config.json", {"text_config": {"_attn_implementation": {"": "somebody/kernel"}}}),
    ],
)
def test_an_expert_has_nothing_fetched(evil, file, content):
    """What transformers would take from the hub, sealed as its author may."""
    from bifocal.workspace import file_sha256

    folder = evil / "models" / "text_expert"
    path = folder / file
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | content))
    card = json.loads((folder / "bifocal.json").read_text())
    change(folder / "bifocal.json", "sha256", card["sha256"] | {file: file_sha256(path)})
    with pytest.raises(ModelError, match=f"{file} names"):
        bifocal.load(evil)


def test_settings_are_searched_for_outside_names_at_any_depth():
    settings = {
        "a": [{"b": "pkg.mod:Class"}],
        "x:Y": 1,
        "c": "C:\\path",
        "d": "10:30",
        "e": "https://x.y:80",
        "f": None,
    }
    assert plugins.outside_names(settings) == {"pkg.mod:Class", "x:Y"}
