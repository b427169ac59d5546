import base64
import json

import openai
import pytest


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
        ANALYZE, content=json.dumps(asked | {"clientToken": "\ud800", "languages": ["\ud800"]}), headers=JSON
    ).json()
    assert (odd["languages"], odd["clientToken"]) == (["\ufffd"], "\ufffd")
    high = asked | {"requestedAttributes": {"TOXICITY": {"scoreThreshold": 1.0}}}
    assert server.post(ANALYZE, json=high).json()["attributeScores"] == {}


@pytest.mark.parametrize(
    ("changed", "status", "told"),
    [
        ({"requestedAttributes": {"FLIRTATION": {}}}, 400, "Unknown requested attribute: FLIRTATION"),
        ({"requestedAttributes": {"\ud800": {}}}, 400, "Unknown requested attribute"),
        ({"requestedAttributes": {}}, 422, "requestedAttributes"),
        ({"comment": {"text": "  "}}, 400, "Comment must be non-empty."),
    ],
)
def test_perspective_refuses_as_it_did(server, changed, status, told):
    asked = {"comment": {"text": "words"}, "requestedAttributes": {"TOXICITY": {}}} | changed
    response = server.post(ANALYZE, content=json.dumps(asked), headers=JSON)
    error = response.json()["error"]
    assert response.status_code == error["code"] == status and told in error["message"]
    assert error["status"] == ("INVALID_ARGUMENT" if status == 400 else "FAILED_PRECONDITION")
