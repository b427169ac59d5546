"""A service of a run of several labels: answers, log, queue, feedback, other shapes, figures and pages of each."""

import json
import shutil

import httpx
import openai
import pytest

import bifocal
from bifocal.deploy.policies import set_threshold
from bifocal.errors import DataError
from bifocal.serve.compat.moderations import _result
from bifocal.serve.log.decision_store import DecisionStore, read_secret
from bifocal.serve.posts import Answer, IncomingPost
from bifocal.serve.served_models import ServedModels
from bifocal.serve.settings import Moderations
from bifocal.system.decision import Decision, LabelDecision

URGENT, CALM = "quickly note 7 about fire here", "sometime note 7 about matters there"
CHEAP, DEAR = {"price": 12.0, "room": "hall"}, {"price": 95.0, "room": "hall"}


@pytest.fixture(scope="module")
def shadow(labels_run, tmp_path_factory):
    """The same run, which finds every post paid for."""
    folder = tmp_path_factory.mktemp("shadow") / "labels"
    shutil.copytree(labels_run, folder, ignore=shutil.ignore_patterns("evidence*", "shards", "report*"))
    set_threshold(folder, None, 0.0, label="paid", by="ann", why="a shadow that finds all paid for")
    return folder


@pytest.fixture(scope="module")
def server(serve, labels_run, shadow):
    return serve(labels_run, "--set", "keep_originals=true", "--shadow", shadow)


@pytest.fixture(scope="module")
def client(server):
    with bifocal.Client(server.url) as made:
        yield made


@pytest.fixture(scope="module")
def system(labels_run):
    return bifocal.load(labels_run)


@pytest.fixture
def store(server):
    made = DecisionStore(f"sqlite:///{server.state / 'decisions.sqlite'}", secret=read_secret(server.state))
    yield made
    made.close()


def test_the_service_answers_each_label_as_the_system_does(server, client, system):
    rows = [{"text": text, "tabular": record} for text in (URGENT, CALM) for record in (CHEAP, DEAR)]
    for row, answer in zip(rows, client.predict_batch(rows), strict=True):
        here = system.predict(**row)
        assert list(answer.labels) == ["urgent", "paid", "kind"]
        for name, of in here.labels.items():
            there = answer.labels[name]
            assert (of is None) == (there is None)
            if of is not None:
                assert there.probability == pytest.approx(of.probability, abs=1e-5)
                assert (there.label, there.action, set(there.models)) == (of.label, of.action, set(of.models))
        assert (answer.action, answer.label) == (here.action, here.label)
    body = server.post(json={"text": CALM, "tabular": CHEAP}).json()
    assert body["labels"]["urgent"]["label"] == 0 and body["labels"]["kind"] is None
    policy = client.policy()
    assert policy["labels"]["kind"]["requires"] == "urgent" and policy["labels"]["paid"]["act"] == "review"


def test_the_log_has_each_label_and_what_is_said_of_it(client, store):
    answer = client.predict(text=URGENT, tabular=DEAR)
    logged = store.decision(answer.id)
    assert logged.labels == answer.body["labels"] and "labels" not in logged.body
    told = client.feedback(answer.id, 1, labels={"paid": 0, "kind": "fire"})
    assert told["labels"] == {"paid": "0", "kind": "fire"}
    (row,) = (row for row in store.labelled() if row["id"] == answer.id)
    assert (row["label"], row["labels"]) == ("1", {"kind": "fire", "paid": "0"})
    for labels, wrong in (
        ({"rude": 1}, "no label 'rude'; its labels are urgent, paid, kind"),
        ({"kind": "ice"}, "'ice' is no class of the label kind; it has fire, "),
        ({"urgent": 0}, "label is 1, and labels.urgent 0"),
    ):
        with pytest.raises(DataError, match=wrong):
            client.feedback(answer.id, 1, labels=labels)


def test_openais_client_finds_a_category_for_each_label_of_two_classes(server, client):
    asked = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    here = {text: client.predict(text=text) for text in (URGENT, CALM)}
    for text, result in zip(here, asked.moderations.create(input=list(here)).results, strict=True):
        labels = here[text].labels
        assert result.category_scores.harassment == pytest.approx(labels["urgent"].probability, abs=1e-5)
        assert result.category_scores.paid == pytest.approx(labels["paid"].probability, abs=1e-5)
        assert result.categories.harassment == (labels["urgent"].action == "block")
        assert result.categories.paid == (labels["paid"].action == "review")
        assert result.flagged == (here[text].action in ("block", "review"))
        assert result.category_applied_input_types.harassment == ["text"]
        assert result.category_applied_input_types.paid == ["text"] and not hasattr(result.categories, "kind")
        assert not result.categories.hate and result.category_applied_input_types.hate == []


def test_perspectives_client_asks_for_several_attributes(server, client, store):
    from googleapiclient import discovery
    from googleapiclient.errors import HttpError

    url = f"{server.url}/$discovery/rest?version=v1alpha1"
    comments = discovery.build(
        "commentanalyzer", "v1alpha1", developerKey="k", discoveryServiceUrl=url, static_discovery=False
    ).comments()
    labels = client.predict(text=URGENT).labels
    body = {"comment": {"text": URGENT}, "languages": ["en"]}
    for names in (["TOXICITY", "PAID"], ["PAID"]):
        said = comments.analyze(body=body | {"requestedAttributes": {name: {} for name in names}}).execute()
        scores = {name: of["summaryScore"]["value"] for name, of in said["attributeScores"].items()}
        known = {"TOXICITY": labels["urgent"].probability, "PAID": labels["paid"].probability}
        assert scores == {name: pytest.approx(known[name], abs=1e-5) for name in names}
    with pytest.raises(HttpError, match="Unknown requested attribute: KIND"):
        comments.analyze(body=body | {"requestedAttributes": {"KIND": {}}}).execute()
    suggested = {"PAID": {"summaryScore": {"value": 0.9}}}
    said = comments.suggestscore(body=body | {"attributeScores": suggested}).execute()["bifocal"]
    assert (said["label"], said["labels"]) == ("", {"paid": "1"})
    (row,) = (row for row in store.labelled() if row["id"] == said["decision_id"])
    assert row["labels"] == {"paid": "1"}


def test_figures_of_each_label(server, client):
    client.predict(text=CALM, tabular=CHEAP)
    assert server.metric('bifocal_label_decisions_total{action="not asked",label="kind"}') >= 1
    assert server.metric('bifocal_label_decisions_total{action="allow",label="urgent"}') >= 1


def test_the_page_shows_each_category_filters_by_it_and_takes_what_is_said_of_it(server, client, store):
    under_review = client.predict(text=CALM, tabular=DEAR)
    assert (under_review.labels["paid"].action, under_review.labels["kind"]) == ("review", None)
    with httpx.Client(base_url=server.url, timeout=300, follow_redirects=True) as page:
        ours = {"Origin": server.url}
        page.post("/moderate/login", data={"name": "ann"}, headers=ours)
        tried = page.post("/moderate", data={"text": CALM}, headers=ours).text
        assert "Not asked: only of posts that are <bdi>urgent</bdi>." in tried and "To review from" in tried
        assert under_review.id in page.get("/moderate/queue?label=paid").text
        assert under_review.id not in page.get("/moderate/queue?label=urgent").text
        wrong = page.get("/moderate/queue?label=rude")
        assert wrong.status_code == 422 and "no label &#39;rude&#39;; its labels are urgent, paid, kind" in wrong.text
        store.claim("ann", under_review.id)
        item = page.get(f"/moderate/items/{under_review.id}").text
        assert "The machine asks for a person by <bdi>paid" in item and 'name="label.kind"' in item
        chosen = page.post(f"/moderate/items/{under_review.id}", data={"do": "claim", "label.paid": "1"}, headers=ours)
        assert chosen.status_code == 200 and '<option value="1" selected>yes</option>' in chosen.text
        said = {"do": "approve", "why": "", "label.urgent": "0", "label.paid": "1", "label.kind": ""}
        page.post(f"/moderate/items/{under_review.id}", data=said, headers=ours)
    (row,) = (row for row in store.labelled() if row["id"] == under_review.id)
    assert (row["action"], row["labels"]) == ("allow", {"urgent": "0", "paid": "1"})


def test_words_are_marked_by_a_label_that_is_chosen(server, client, system):
    paid, urgent = client.predict(text=CALM, tabular=DEAR), client.predict(text=URGENT, tabular=CHEAP)
    with httpx.Client(base_url=server.url, timeout=300, follow_redirects=True) as page:
        ours = {"Origin": server.url}
        page.post("/moderate/login", data={"name": "ann"}, headers=ours)
        item = page.get(f"/moderate/items/{paid.id}?label=paid").text
        assert f"/moderate/items/{paid.id}/marks?label=paid&amp;skip=&amp;seen=&amp;marks=1&amp;by=paid" in item
        marks = page.get(f"/moderate/items/{paid.id}/marks").text  # by the label that decided the action
        assert "Marked by <b><bdi>paid</bdi></b>" in marks and "by=urgent" in marks and "by=kind" not in marks
        assert ": towards <bdi>paid</bdi>" in marks and "By the models that serve now" not in marks
        marks = page.get(f"/moderate/items/{paid.id}/marks?by=urgent").text
        assert ": towards <bdi>block</bdi>" in marks and "By the models that serve now" not in marks
        whole = page.get(f"/moderate/items/{urgent.id}?marks=1&by=kind&label=paid").text
        assert "Marked by <b><bdi>kind</bdi></b>" in whole and "by=paid" in whole
        named = system.predict(text=URGENT, tabular=CHEAP).labels["kind"].label
        assert f": towards <bdi>{named}</bdi>" in whole
        for by, told in (("kind", "is not asked of this post, as"), ("rude", "this run has no label")):
            refused = page.get(f"/moderate/items/{paid.id}?marks=1&by={by}")
            assert refused.status_code == 422 and told in refused.text
        tried = page.post("/moderate", data={"text": URGENT, "by": "kind"}, headers=ours).text
        assert "By <bdi>kind</bdi>." in tried and "<option selected>kind</option>" in tried
        tried = page.post("/moderate", data={"text": CALM, "by": "kind"}, headers=ours)
        assert tried.status_code == 422 and "is not asked of this post" in tried.text


def test_the_last_day_and_the_shadow_by_each_label(server, client, store, labels_run, command):
    cheap = client.predict(text=CALM, tabular=CHEAP)
    assert (cheap.labels["paid"].label, cheap.labels["kind"]) == (0, None)
    kept = store.decision(cheap.id).shadow
    assert {name: one["disagrees"] for name, one in kept["labels"].items()} == {
        "urgent": False, "paid": True, "kind": False
    }  # fmt: skip
    assert kept["labels"]["paid"]["label"] == 1 and kept["labels"]["kind"]["label"] is None
    assert server.metric('bifocal_shadow_label_disagreements_total{label="paid"}') >= 1
    assert server.metric('bifocal_shadow_label_disagreements_total{label="urgent"}') == 0
    done = command("log", "counts", labels_run, "--state", server.state, "--json")
    told = json.loads(done.stdout)["labels"]
    assert list(told) == ["urgent", "paid", "kind"]
    for name, counts in told.items():
        sums = [sum(counts[of].values()) for of in ("shares", "reference")]
        assert sums == pytest.approx([1, 1], abs=1e-3), name
        assert counts["shadow"]["scored"] == sum(counts["decisions"].values()), name
    assert told["kind"]["decisions"]["not asked"] >= 1 and told["paid"]["shadow"]["disagree"] >= 1
    assert told["urgent"]["shadow"]["disagree"] == 0
    lines = command("log", "counts", labels_run, "--state", server.state).stdout
    assert "paid: decisions" in lines and "kind: reference" in lines
    with httpx.Client(base_url=server.url, timeout=300, follow_redirects=True) as page:
        page.post("/moderate/login", data={"name": "ann"}, headers={"Origin": server.url})
        whole, paid, kind = (page.get(f"/moderate/day{asked}").text for asked in ("", "?label=paid", "?label=kind"))
        assert "Answers by" not in whole and 'name="label"' in whole
        assert "Answers by <bdi>paid</bdi>" in paid and "comes to another action or class on" in paid
        assert cheap.id in paid and cheap.id not in kind
        assert "not asked" in kind and ">fire</bdi>" in kind and "not asked: " not in paid
        assert page.get("/moderate/day?label=rude").status_code == 422
        item = page.get(f"/moderate/items/{cheap.id}").text
        assert "; otherwise by <bdi>paid</bdi>: " in item and "otherwise by <bdi>urgent" not in item


def test_a_shadow_of_one_label_is_compared_by_that_one():
    ours = Decision(
        0.7, 1, 0.5, "block", "so", {}, {}, "", "en", {},
        labels={name: LabelDecision(0.7, 1, 0.5, "block", "so", {}) for name in ("toxic", "rude")},
    )  # fmt: skip
    theirs = Decision(0.2, 0, 0.5, "allow", "so", {}, {}, "", "en", {"policy": "v2"})
    answered = {
        first: ServedModels(None, None, None, shadow_label=first)._answer_of_shadow(theirs, ours)
        for first in ("rude", "spam")
    }
    assert answered["rude"]["labels"] == {
        "rude": {"action": "allow", "label": 0, "probability": 0.2, "disagrees": True}
    }
    assert answered["spam"]["labels"] == {} and answered["spam"]["action"] == "allow"
    alone = ServedModels(None, None, None, shadow_label="toxic")._answer_of_shadow(ours, theirs)
    assert "labels" not in alone and alone["label"] == 1


def test_a_name_outside_for_a_label_that_the_run_lacks_is_told_at_the_start(labels_run, tmp_path, command):
    done = command(
        "serve", labels_run, "--state", tmp_path, "--port", "0", "--set", "perspective.labels={rude: [INSULT]}"
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "perspective.labels names 'rude', and the run's further labels are paid, kind" in done.stderr


def moderated(action, names, **labels):
    """What is told in OpenAI's shape of these answers by label; of none, where a list decided."""
    found = {name: of and LabelDecision(of[0], of[1], 0.5, of[2], "so", {}) for name, of in labels.items()}
    decision = Decision(0.7, 1, 0.5, action, "so", {}, {}, "", "en", {}, labels=found) if found else None
    answer = Answer("1", decision, action, None, False, {}, "so")
    told = _result(answer, IncomingPost({"text": "words"}), names, Moderations())
    scores, types = told["category_scores"], told["category_applied_input_types"]
    flagged = [name for name, there in told["categories"].items() if there]
    return (
        told["flagged"],
        flagged,
        {name: s for name, s in scores.items() if s},
        [name for name in types if types[name]],
    )


def test_categories_follow_the_action_of_their_own_label():
    names = {"toxic": ("harassment",), "rude": ("harassment", "hate"), "spam": ("spam",)}
    told = moderated("review", names, toxic=(0.7, 1, "allow"), rude=(0.6, 1, "review"), spam=(0.9, 1, None))
    scores = {"harassment": 0.7, "hate": 0.6, "spam": 0.9}
    assert told == (True, ["harassment", "hate", "spam"], scores, ["harassment", "hate", "spam"])
    told = moderated("allow", names, toxic=(0.1, 0, "allow"), rude=None, spam=(0.2, 0, None))
    assert told == (False, [], {"harassment": 0.1, "spam": 0.2}, ["harassment", "spam"])
    told = moderated("review", names, toxic=(0.1, 0, "allow"), rude=(0.2, 0, "allow"))  # its words were not all read
    assert told[:2] == (True, ["harassment"])
    assert moderated("block", names) == (True, ["harassment"], {"harassment": 1.0}, ["harassment"])  # a list decided
