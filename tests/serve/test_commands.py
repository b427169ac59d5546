"""What `bifocal serve` and its companions are told on the command line, and what they say."""

import re
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bifocal.cli.app import app
from bifocal.cli.serve import facts, read_service_settings
from bifocal.deploy.policies import set_threshold
from bifocal.deploy.promotion import promote, put_back
from bifocal.errors import ConfigError, RunError
from bifocal.serve.api.keys import add_key
from bifocal.serve.log.decision_store import DecisionStore
from bifocal.serve.settings import ServeConfig
from bifocal.system.bundle import ENGINES, is_bundle

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.mark.parametrize(
    "command",
    [
        "serve FOLDER --port 0",
        "keys add FOLDER shop",
        "keys list FOLDER --state STATE",
        "keys revoke FOLDER shop --keys STATE/keys.json",
        "log counts FOLDER --database sqlite:///STATE/x.sqlite",
        "log purge FOLDER --days 3",
        "log forget FOLDER bob --state STATE",
        "feedback export FOLDER -o OUT",
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_what_is_neither_run_nor_bundle_is_refused_before_anything_is_made(tmp_path, command, there):
    folder = tmp_path / "memes"
    if there:
        folder.mkdir()
        (folder / "a.txt").write_text("a meme")
    before = sorted(tmp_path.rglob("*"))
    said = command.replace("FOLDER", str(folder)).replace("STATE", str(tmp_path / "s")).replace("OUT", f"{folder}.out")
    error = CliRunner().invoke(app, said.split()).exception
    assert isinstance(error, RunError) and "memes is not a run folder (no run.json)" in str(error)
    assert "an exported bundle (with manifest.json) will do too" in str(error)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_shadow_that_is_neither_is_named(small_run, tmp_path):
    command = ["serve", str(small_run), "--state", str(tmp_path / "state"), "--shadow", str(tmp_path / "memes")]
    error = CliRunner().invoke(app, command).exception
    assert str(error).startswith("--shadow: ") and "an exported bundle" in str(error)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("lists=[{path: a.csv, actoin: block}]", "unknown key 'lists.0.actoin'; did you mean 'action'? known: action,"),
        ("lists=a.csv", "lists = 'a.csv': takes a list of {path, action, distance}"),
        ("lists=[a.csv]", "lists.0 = 'a.csv': takes a mapping {path, action, distance}"),
        ("moderations.categories=hate", "moderations.categories = 'hate': takes a list"),
        ("moderations.categories=[hatred]", "'hatred' is no category of OpenAI's; did you mean 'hate'? known: "),
        ("moderations.categry=[hate]", "did you mean 'categories'?"),
    ],
)
def test_a_wrong_setting_says_what_its_place_takes(override, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_service_settings(None, [override], {})


@pytest.mark.parametrize("url", ["mysql://x/y", "postgresql+psycopg2://x/y", "sqlite+aiosqlite:///x", "oracle://x"])
def test_another_database_is_refused_in_a_line(url):
    with pytest.raises(RunError, match=r"found \S+://: sqlite and postgresql are allowed"):
        DecisionStore(url, secret=b"s" * 32)


@pytest.fixture(scope="module")
def run_folder(small_run, small_bundle, tmp_path_factory):
    """A run of one's own, with a bundle."""
    folder = shutil.copytree(small_run, tmp_path_factory.mktemp("own") / "run")
    shutil.copytree(small_bundle, folder / "bundles" / "onnx")
    return folder


def test_who_starts_a_service_is_told_who_may_ask_where_it_writes_and_what_decides(run_folder, tmp_path):
    own = facts(run_folder, ServeConfig())
    assert "no key is needed" in own[0] and f"state: {run_folder / 'serve'}" in own[1] and "decides: torch" in own[2]
    add_key(tmp_path / "keys.json", "shop", ["decide"], None)
    settings = ServeConfig(engine="onnx", state=tmp_path, database="postgresql://ann:secret@host/log")
    who, where, what = facts(run_folder, settings)
    assert f"a key of {tmp_path / 'keys.json'} is needed" in who
    assert str(tmp_path) in where and "host/log" in where and "secret" not in where
    assert "decides: onnx" in what and str(run_folder / "bundles" / "onnx") in what


def test_the_help_names_the_four_engines_and_the_status_of_nothing_found():
    told = CliRunner().invoke(app, ["serve", "--help"]).output
    assert all(engine in told for engine in ENGINES)
    assert "status 1" in " ".join(CliRunner().invoke(app, ["log", "forget", "--help"]).output.split())


def test_a_service_of_a_bundle_takes_up_its_new_thresholds(serve, run_folder, wait_until):
    server = serve(run_folder, "--engine", "onnx", "--set", "reload_s=0.2")
    told = [server.process.stdout.readline() for _ in range(3)]
    assert "no key is needed" in told[0] and str(server.state) in told[1]
    assert server.predict("a quiet morning").json()["versions"]["policy"] in told[2]
    for threshold in (0.9, 0.8, 0.7):  # the later ones while the first is being taken up
        last = set_threshold(run_folder / "bundles" / "onnx", None, threshold, by="ann", why="a test")
        time.sleep(0.3)
    wait_until(
        lambda: server.predict("a quiet morning").json()["versions"]["policy"] == last["policy"],
        lambda: server.ready().text,
    )
    now = server.predict("a quiet morning").json()
    assert server.ready().json()["trouble"] is None and is_bundle(run_folder / "bundles" / "onnx")
    assert now["threshold"] == 0.7


def test_a_service_of_a_link_follows_it_to_another_run_and_back_without_a_restart(
    serve, small_run, tmp_path, wait_until
):
    for name in ("old", "new"):
        shutil.copytree(small_run, tmp_path / name)
    later = set_threshold(tmp_path / "new", None, 0.77, by="ann", why="a test")["policy"]
    link = tmp_path / "current"
    promote(tmp_path / "old", link)
    server = serve(link, "--set", "reload_s=0.2")
    before = server.predict("a quiet morning").json()["versions"]["policy"]
    assert before != later
    promote(tmp_path / "new", link)
    wait_until(lambda: server.predict("a quiet morning").json()["versions"]["policy"] == later, server.ready)
    assert server.predict("a quiet morning").json()["threshold"] == 0.77
    (tmp_path / "old" / "policy_small.json").rename(tmp_path / "kept")
    with pytest.raises(RunError, match="no policy"):
        promote(tmp_path / "old", link)
    (tmp_path / "kept").rename(tmp_path / "old" / "policy_small.json")
    put_back(link)
    wait_until(lambda: server.predict("a quiet morning").json()["versions"]["policy"] == before, server.ready)
    link.unlink()
    link.symlink_to("nowhere")
    wait_until(lambda: server.ready().json()["trouble"], server.ready)
    assert server.predict("a quiet morning").json()["versions"]["policy"] == before


def test_the_documents_have_every_setting_and_its_default():
    text = DOCS.read_text(encoding="utf-8").partition("## Settings")[2].partition("\n## ")[0]
    table = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \| .+ \|$", text, flags=re.MULTILINE))
    assert list(table) == list(ServeConfig.model_fields)
    for name, field in ServeConfig.model_fields.items():
        default = field.default
        if isinstance(default, int | float) and not isinstance(default, bool) and name != "decoders":
            assert table[name].split(" ")[0].replace(",", "") == f"{default:.15g}", name
