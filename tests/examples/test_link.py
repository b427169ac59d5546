"""The part `link` of the examples: one file outside of Bifocal, trained, predicted, scored, served and logged."""

import csv
import json
import os
import random
import sys
from pathlib import Path

import pytest
from tests.serve.conftest import PATIENT, Server
from typer.testing import CliRunner

import bifocal
from bifocal.cli.app import app
from bifocal.client import Remote
from bifocal.config import load_config
from bifocal.errors import DataError, PluginRefused
from bifocal.serve.log.decision_store import DecisionStore
from bifocal.system.score import score_file
from bifocal.workspace import read_jsonl

EXAMPLE = Path(__file__).parents[2] / "examples" / "link"
PLUGIN = "bifocal_link"
GOOD, BAD = "https://www.news3.example/morning/garden?who=1", "http://spam3.example/win/prize/now"
VOCABULARY = ["quiet", "morning", "garden", "music", "rain", "tea", "river", "bread", "lamp", "window", "paper"]
WORDS = "a quiet morning in the garden"


def write_posts(path, n=240):
    """Posts whose text says nothing, and whose link tells the label; in one of ten there is no link."""
    draw = random.Random(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "text", "link", "label"))
        for i in range(n):
            label = i % 2
            steps = draw.sample(["win", "prize", "now"] if label else ["morning", "garden", "music"], 2)
            link = f"https://{'spam' if label else 'news'}{draw.randrange(9)}.example/{'/'.join(steps)}?who={i}"
            text = " ".join(draw.choices(VOCABULARY, k=7))
            rows.writerow((f"p{i}", text, "" if i % 10 == 9 else link, label))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("link")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLE), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("LINKS", str(place / "posts.csv"))
        write_posts(place / "posts.csv")
        yield bifocal.run(load_config(EXAMPLE / "link.yaml"), root=place / "runs")
        sys.modules.pop(PLUGIN, None)


@pytest.fixture(scope="module")
def system(folder):
    return bifocal.load(folder, allow_plugins=[PLUGIN])


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    made = Server(folder, state, "--allow-plugin", PLUGIN, "--set", "keep_originals=true", *PATIENT)
    yield made
    made.stop()


def test_it_trains_and_the_link_decides(folder):
    results = json.loads((folder / "results_links.json").read_text())
    assert set(results["models"]) == {"text_expert", "link_expert", "mm_fusion", "majority"}
    assert results["models"]["link_expert"]["test"]["metrics"]["auroc"]["value"] > 0.9
    assert (folder / "models" / "link_expert" / "bifocal.json").is_file()


def test_a_folder_names_no_code_without_leave(folder):
    with pytest.raises(PluginRefused, match=PLUGIN):
        bifocal.load(folder)


def test_python_predicts_and_explains(system):
    good, bad = (system.predict(WORDS, parts={"link": link}) for link in (GOOD, BAD))
    assert good.present == bad.present == {"text": True, "link": True}
    assert good.probability < bad.probability - 0.2
    assert system.predict(parts={"link": BAD}).present == {"text": False, "link": True}
    rows = system.predict_batch([{"text": WORDS, "parts": {"link": BAD}}, {"parts": {"link": "no link"}}])
    assert rows[0].probability == pytest.approx(bad.probability, abs=1e-6) and isinstance(rows[1], DataError)
    pieces = system.explain(WORDS, parts={"link": BAD}).pieces["link"]
    assert {w.piece.name for w in pieces} == {"spam3.example", "win", "prize", "now"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"parts": {"link": 3}}, "link must be a string"),
        ({"parts": {"lnik": BAD}}, "leave lnik out"),
        ({"parts": "words"}, "parts takes a mapping"),
        ({"text": "a", "parts": {"text": "b"}}, "text is given twice"),
        ({}, "a post needs text or link"),
    ],
)
def test_what_cannot_be_used_is_told(system, given, told):
    with pytest.raises(DataError, match=told):
        system.predict(**given)


def test_the_command_line_predicts(folder, system, command):
    words = ["predict", str(folder), "-t", WORDS, "--part", f"link={BAD}", "--allow-plugin", PLUGIN, "--json"]
    told = command(*words)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["present"] == {"text": True, "link": True}
    assert found["prob_hate"] == pytest.approx(system.predict(WORDS, parts={"link": BAD}).probability, abs=1e-6)
    refused = CliRunner().invoke(app, [*words[:4], "--part", "link", "--allow-plugin", PLUGIN])
    assert "--part takes NAME=VALUE" in str(refused.exception or refused.output)


def test_a_table_is_scored_by_its_column(system, tmp_path):
    (tmp_path / "in.csv").write_text(
        f"id,text,link,other\na,{WORDS},{BAD},x\nb,{WORDS},,x\nc,,{GOOD},x\nd,{WORDS},no,x\n"
    )
    counts = score_file(system, tmp_path / "in.csv", tmp_path / "out.jsonl")
    rows = {row["id"]: row for row in read_jsonl(tmp_path / "out.jsonl")}
    assert [rows[i]["present"]["link"] for i in "abc"] == [True, False, True] and "no link" in rows["d"]["error"]
    assert rows["a"]["prob_hate"] == pytest.approx(system.predict(WORDS, parts={"link": BAD}).probability, abs=1e-4)
    assert counts["unread"] == ["other"] and counts["without"] == []


def test_http_predicts_by_json_form_and_client_and_logs_it(server, system, tmp_path):
    expected = system.predict(WORDS, parts={"link": BAD}).probability
    parts = {"link": f"{BAD}?who=7"}
    by_json = server.post(json={"text": WORDS, "parts": parts}).json()
    by_form = server.predict(text=WORDS, parts=json.dumps(parts)).json()
    with bifocal.Client(server.url) as client:
        by_client = client.predict(WORDS, parts=parts).to_dict()
        (in_batch,) = client.predict_batch([{"text": WORDS, "parts": parts}])
        remote = Remote(client)
        assert remote.forms["link"] == "words"
        (tmp_path / "in.csv").write_text(f"id,text,link\na,{WORDS},{BAD}\n")
        score_file(remote, tmp_path / "in.csv", tmp_path / "out.jsonl")
    (scored,) = read_jsonl(tmp_path / "out.jsonl")
    for answer in (by_json, by_form, by_client, in_batch.to_dict(), scored):
        assert answer["present"] == {"text": True, "link": True}
        assert answer["prob_hate"] == pytest.approx(expected, abs=1e-4)
    wrong = server.post(json={"parts": {"link": "no link"}})
    assert wrong.status_code == 422 and "is no link" in wrong.json()["error"]["message"]
    store = DecisionStore(f"sqlite:///{server.state / 'decisions.sqlite'}", secret=b"0" * 32)
    kept = store.original(by_json["id"])
    assert kept.parts == {"link": "spam3.example/win/prize/now"}, "what the expert read, and nothing of the query"
    store.close()


def test_the_page_tries_it(server):
    server.http.post("/moderate/login", data={"name": "ann"})
    page = server.http.get("/moderate").text
    assert '<textarea id="link" name="link"' in page
    tried = server.http.post("/moderate", files={"text": (None, WORDS), "link": (None, BAD)})
    assert tried.status_code == 200 and "<h3>Link</h3>" in tried.text
