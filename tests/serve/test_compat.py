import base64
import json
import shutil

import openai
import pytest

from bifocal.decide.policy import Policy


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-ignored-on-loopback", max_retries=0)


def data(blob):
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(blob).decode()}"}}


def test_openais_own_client_is_answered(server, client, picture):
    here = server.predict("a quiet morning").json()
    said = client.moderations.create(model="omni-moderation-latest", input="a quiet morning")
    (result,) = said.results
    assert result.flagged == (here["action"] == "block") == result.categories.harassment
    assert result.category_scores.harassment == pytest.approx(here["probability"], abs=1e-6)
    assert result.category_scores.sexual == 0.0 and not result.categories.hate_threatening
    assert said.model.startswith("bifocal-small-") and said.id.startswith("modr-")


def test_several_texts_have_a_result_each_and_parts_one_together(server, client, picture):
    several = client.moderations.create(input=["a quiet morning", "another one", "a third"])
    assert len(several.results) == 3
    (both,) = client.moderations.create(input=[{"type": "text", "text": "a quiet morning"}, data(picture())]).results
    assert both.category_applied_input_types.harassment == ["text", "image"]
    here = server.predict("a quiet morning", picture()).json()
    assert both.category_scores.harassment == pytest.approx(here["probability"], abs=1e-6)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "http://localhost:1/x", "data:text/html,x"]
)
def test_no_address_is_fetched(client, url):
    with pytest.raises(openai.UnprocessableEntityError, match="nothing is fetched"):
        client.moderations.create(input=[{"type": "image_url", "image_url": {"url": url}}])


def test_what_cannot_be_used_is_told_as_that_client_reads_it(client, picture):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.moderations.create(input=[data(b"no picture")])
    assert refused.value.code == "unusable" and "no picture of an allowed format" in refused.value.message
    with pytest.raises(openai.UnprocessableEntityError, match="one picture here, found 2"):
        client.moderations.create(input=[data(picture()), data(picture("blue"))])
    with pytest.raises(openai.APIStatusError) as refused:
        client.moderations.create(input=["words"] * 65)
    assert refused.value.status_code == 413


ANALYZE = "/v1alpha1/comments:analyze"
JSON = {"content-type": "application/json"}  # httpx does not send a lone surrogate as JSON


def test_perspectives_users_find_their_shape(server):
    asked = {
        "comment": {"text": "a quiet morning"},
        "requestedAttributes": {"TOXICITY": {}},
        "languages": ["en"],
        "doNotStore": True,
        "clientToken": "token",
        "spanAnnotations": True,
    }
    said = server.post(ANALYZE, params={"key": "ignored"}, json=asked).json()
    score = said["attributeScores"]["TOXICITY"]["summaryScore"]
    assert score == {
        "value": pytest.approx(server.predict("a quiet morning").json()["probability"]),
        "type": "PROBABILITY",
    }
    assert said["attributeScores"]["TOXICITY"]["spanScores"] == [{"begin": 0, "end": 15, "score": score}]
    assert (said["languages"], said["clientToken"]) == (["en"], "token") and len(said["detectedLanguages"]) == 1
    odd = server.post(
        ANALYZE, content=json.dumps(asked | {"clientToken": "\ud800", "languages": ["en", "\ud800"]}), headers=JSON
    ).json()
    assert (odd["languages"], odd["clientToken"]) == (["en", "\ufffd"], "\ufffd")
    high = asked | {"requestedAttributes": {"TOXICITY": {"scoreThreshold": 1.0}}}
    assert server.post(ANALYZE, json=high).json()["attributeScores"] == {}


@pytest.mark.parametrize(
    ("changed", "status", "told"),
    [
        ({"requestedAttributes": {"FLIRTATION": {}}}, 400, "Unknown requested attribute: FLIRTATION"),
        ({"requestedAttributes": {"\ud800": {}}}, 400, "Unknown requested attribute"),
        ({"requestedAttributes": {}}, 400, "Missing requested_attributes"),
        ({"comment": {"text": "  "}}, 400, "Comment must be non-empty."),
    ],
)
def test_perspective_refuses_as_it_did(server, changed, status, told):
    asked = {"comment": {"text": "words"}, "requestedAttributes": {"TOXICITY": {}}} | changed
    response = server.post(ANALYZE, content=json.dumps(asked), headers=JSON)
    error = response.json()["error"]
    assert response.status_code == error["code"] == status and told in error["message"]
    assert error["status"] == "INVALID_ARGUMENT" and error["details"][0]["errorType"]


LONG = "word " * 1500 + "at the end"
"""More windows than the text expert reads, fewer characters than the service does."""


@pytest.mark.parametrize(
    ("changed", "kind", "told"),
    [
        ({"comment": {"text": ""}}, "COMMENT_EMPTY", "Comment must be non-empty."),
        ({"comment": {}}, "COMMENT_EMPTY", "Comment must be non-empty."),
        ({"comment": None}, "COMMENT_EMPTY", "Comment must be non-empty."),
        ({"comment": {"text": LONG}}, "COMMENT_TOO_LONG", "Comment text too long."),
        ({"comment": {"text": "a" * 20_481}}, "COMMENT_TOO_LONG", "Comment text too long."),
        ({"comment": {"text": "\u4e00" * 6_900}}, "COMMENT_TOO_LONG", "Comment text too long."),
        ({"comment": {"text": "a" * 3_000_000}}, "COMMENT_TOO_LONG", "bytes at most"),
        ({"requestedAttributes": None}, "NO_REQUESTED_ATTRIBUTES", "Missing requested_attributes"),
        ({"requestedAttributes": {"SPAM": {}}}, "INVALID_REQUEST", "Unknown requested attribute: SPAM"),
        ({"requestedAttributes": {"TOXICITY": {"scoreType": "STDDEV"}}}, "INVALID_REQUEST", "score type STDDEV is not"),
        ({"requestedAttributes": {"TOXICITY": {"scoreThreshold": 2}}}, "INVALID_REQUEST", "scoreThreshold"),
        ({"comment": {"text": "<b>words</b>", "type": "HTML"}}, "INVALID_REQUEST", "only 'PLAIN_TEXT' comments"),
        ({"comment": {"text": "words", "type": "RTF"}}, "INVALID_REQUEST", "Unknown text type"),
        ({"comment": {"text": "words", "more": 1}}, "INVALID_REQUEST", "more"),
        ({"comment": "words"}, "INVALID_REQUEST", "comment"),
        (
            {"languages": ["xx"]},
            "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
            "TOXICITY does not support request languages: xx",
        ),
        ({"languages": ["english", ""]}, "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE", "request languages: english, "),
        ({"comment": {"text": "12345 !?"}}, "LANGUAGE_DETECTION_FAILED", "Unable to detect language"),
        ({"context": {"entries": [{}], "articleAndParentComment": {"article": {}}}}, "INVALID_REQUEST", "both fields"),
    ],
)
def test_perspective_says_what_kind_of_error_it_is(server, changed, kind, told):
    asked = {"comment": {"text": "words"}, "requestedAttributes": {"TOXICITY": {}}, "clientToken": "t"} | changed
    response = server.post(ANALYZE, json=asked)
    error = response.json()["error"]
    assert response.status_code == error["code"] == 400 and error["status"] == "INVALID_ARGUMENT"
    assert told in error["message"]
    (detail,) = error["details"]
    assert detail["errorType"] == kind and detail["@type"].endswith("commentanalyzer.v1alpha1.Error")
    if kind == "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE":
        more = {"requestedLanguages": asked["languages"], "attribute": "TOXICITY"}
        assert detail["languageNotSupportedByAttributeError"] == more


def test_what_is_no_json_is_told_in_that_shape_too(server):
    response = server.post(ANALYZE, content="{", headers=JSON)
    assert response.status_code == 400 and response.json()["error"]["details"][0]["errorType"] == "INVALID_REQUEST"


def test_a_refused_comment_is_not_logged(server):
    import sqlite3

    def logged():
        with sqlite3.connect(server.state / "decisions.sqlite") as log:
            return log.execute("select count(*) from decisions").fetchone()[0]

    before = logged()
    for text in (LONG, "12345 !?"):
        asked = {"comment": {"text": text}, "requestedAttributes": {"TOXICITY": {}}}
        assert server.post(ANALYZE, json=asked).status_code == 400
    assert logged() == before


@pytest.mark.parametrize("languages", [["en"], ["EN-us"], ["zh_Hant", "xx"], ["de"], []])
def test_languages_are_named_as_there(server, languages):
    asked = {"comment": {"text": "12345"}, "requestedAttributes": {"TOXICITY": {}}, "languages": languages}
    if not languages:
        asked["comment"]["text"] = "a quiet morning"
    said = server.post(ANALYZE, json=asked)
    assert said.status_code == 200 and said.json()["languages"] == (languages or said.json()["detectedLanguages"])


def test_all_languages_that_are_told_apart_are_known():
    import py3langid

    from bifocal.serve.settings import LANGUAGES

    py3langid.classify("words")
    assert {*LANGUAGES, "zxx"} == set(py3langid.langid.IDENTIFIER.nb_classes)


@pytest.fixture(scope="module")
def google(server):
    """Google's client, built as Perspective's documentation has it, with the address changed."""
    from googleapiclient import discovery

    url = f"{server.url}/$discovery/rest?version=v1alpha1"
    return discovery.build(
        "commentanalyzer", "v1alpha1", developerKey="a-key", discoveryServiceUrl=url, static_discovery=False
    )


def test_googles_own_client_is_answered(server, google):
    body = {
        "comment": {"text": "a quiet morning", "type": "PLAIN_TEXT"},
        "requestedAttributes": {"TOXICITY": {"scoreType": "PROBABILITY", "scoreThreshold": 0}},
        "languages": ["en"],
    }
    said = google.comments().analyze(body=body).execute()
    here = server.predict("a quiet morning").json()["probability"]
    assert said["attributeScores"]["TOXICITY"]["summaryScore"]["value"] == pytest.approx(here)


def test_googles_own_client_reads_our_errors(google):
    from googleapiclient.errors import HttpError

    with pytest.raises(HttpError) as refused:
        google.comments().analyze(body={"comment": {"text": LONG}, "requestedAttributes": {"TOXICITY": {}}}).execute()
    assert refused.value.status_code == 400 and refused.value.reason == "Comment text too long."
    assert refused.value.error_details[0]["errorType"] == "COMMENT_TOO_LONG"


@pytest.mark.parametrize(("value", "label"), [(0.9, "1"), (0.1, "0"), (0.5, "1")])
def test_a_suggested_score_becomes_feedback(server, google, value, label):
    import sqlite3

    score = {"summaryScore": {"value": value, "type": "PROBABILITY"}, "spanScores": [{"begin": 0, "end": 3}]}
    body = {"comment": {"text": "a quiet morning"}, "attributeScores": {"TOXICITY": score}, "clientToken": "t"}
    said = google.comments().suggestscore(body=body | {"languages": ["en"]}).execute()
    assert (said["clientToken"], said["requestedLanguages"]) == ("t", ["en"]) and said["detectedLanguages"]
    assert said["bifocal"]["label"] == label
    with sqlite3.connect(server.state / "decisions.sqlite") as log:
        asked = "select label, reason from feedback where decision_id = ?"
        assert log.execute(asked, [said["bifocal"]["decision_id"]]).fetchall() == [
            (label, f"suggested TOXICITY = {value:g}")
        ]


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        ({}, "NO_REQUESTED_ATTRIBUTES"),
        ({"SPAM": {"summaryScore": {"value": 1}}}, "INVALID_REQUEST"),
        ({"TOXICITY": {}}, "INVALID_REQUEST"),
        ({"TOXICITY": {"summaryScore": {}}}, "INVALID_REQUEST"),
        ({"TOXICITY": {"summaryScore": {"value": 7}}}, "INVALID_REQUEST"),
        ({"TOXICITY": None}, "INVALID_REQUEST"),
    ],
)
def test_a_suggestion_that_says_nothing_is_refused(server, scores, kind):
    body = {"comment": {"text": "a quiet morning"}, "attributeScores": scores}
    response = server.post("/v1alpha1/comments:suggestscore", json=body)
    assert response.status_code == 400 and response.json()["error"]["details"][0]["errorType"] == kind


@pytest.mark.parametrize("name", ["author-17", "M\u00fcller \u6d4b", "a%20b"])
def test_an_author_in_a_header_can_be_forgotten(server, client, google, name):
    from urllib.parse import quote

    header = name.encode()
    escaped = name if name.isascii() else "UTF-8''" + quote(name)  # that client sends ASCII alone
    client.moderations.create(input=["a quiet morning", "another"], extra_headers={"X-Bifocal-Subject": escaped})
    one = {"comment": {"text": "a quiet morning"}, "requestedAttributes": {"TOXICITY": {}}}
    server.post(ANALYZE, json=one, headers={"X-Bifocal-Subject": header})
    two = {"comment": {"text": "a quiet morning"}, "attributeScores": {"TOXICITY": {"summaryScore": {"value": 1}}}}
    server.post("/v1alpha1/comments:suggestscore", json=two, headers={"X-Bifocal-Subject": header})
    receipt = server.http.delete(f"/v1/subjects/{quote(name)}").json()
    assert receipt["deleted"]["decisions"] == 4


def test_an_authors_name_has_an_end(server, client):
    with pytest.raises(openai.UnprocessableEntityError, match="X-Bifocal-Subject has 201 characters"):
        client.moderations.create(input="words", extra_headers={"X-Bifocal-Subject": "x" * 201})


def test_words_that_were_not_read_are_told_at_every_door(server, client):
    here = server.predict(LONG).json()
    assert here["truncated"] and "person decides" not in here["why"]
    batch = server.post("/v1/predict/batch", json={"items": [{"text": LONG}, {"text": "words"}]}).json()["results"]
    assert [result["truncated"] for result in batch] == [True, False]
    results = client.moderations.create(input=[LONG, "words"]).results
    assert [result.bifocal["truncated"] for result in results] == [True, False]


@pytest.fixture(scope="module")
def careful(serve, small_run, tmp_path_factory):
    """A service of a policy that has a person decide where words were not read; it reads few of them."""
    folder = shutil.copytree(small_run, tmp_path_factory.mktemp("runs") / "small")
    (path,) = folder.glob("policy_*.json")
    Policy.load(path).model_copy(update={"truncated": "review"}).save(path)
    return serve(folder, "--set", "max_text=400", "--set", "decoders=1")


def test_a_person_decides_where_not_all_words_were_read(careful):
    own = openai.OpenAI(base_url=f"{careful.url}/v1", api_key="x", max_retries=0)
    ahead = "fog " * 60
    assert careful.predict("a quiet morning").json()["action"] != "review"
    for text in ("a" * 401, "word " * 100, "a " * 100 + ahead):  # too many characters, or too many tokens
        said = careful.predict(text).json()
        assert said["truncated"] == (said["action"] == "review") == ("not all of the post's words" in said["why"])
        (result,) = own.moderations.create(input=text).results
        assert result.bifocal["action"] == said["action"] and result.flagged == (said["action"] != "allow")
    assert careful.predict("a" * 401).json()["truncated"]
