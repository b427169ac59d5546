import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from bifocal.errors import RunError
from bifocal.serve.api import keys
from bifocal.serve.api.keys import EVERYBODY, KeyAuth, add_key, read_keys, revoke_key, rotate_key
from bifocal.serve.errors import Refused


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "keys.json"


def refusal(auth, key):
    with pytest.raises(Refused) as refused:
        auth.who(key)
    return refused.value.status, str(refused.value)


def test_a_key_is_told_once_and_only_its_hash_is_kept(file):
    key = add_key(file, "shop", ["decide"], 60)
    assert key.startswith("bf_") and key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (client,) = read_keys(file)
    assert (client.name, client.roles, client.per_minute) == ("shop", ("decide",), 60)
    assert KeyAuth([client]).who(key) == client


def test_wrong_missing_and_revoked_keys(file):
    shop, forum = add_key(file, "shop", ["decide"], None), add_key(file, "forum", ["review"], None)
    revoke_key(file, "shop")
    auth = KeyAuth(read_keys(file))
    assert auth.who(forum).name == "forum"
    assert refusal(auth, None) == (401, "an API key is needed: send `Authorization: Bearer KEY`")
    assert refusal(auth, "bf_wrong\ud800")[0] == 401
    assert "this API key of shop was revoked on 20" in refusal(auth, shop)[1]


def test_without_keys_anything_that_is_sent_is_ignored(file):
    assert KeyAuth(read_keys(file)).who("sk-whatever") is EVERYBODY
    assert all(EVERYBODY.may(role) for role in keys.ROLES)


def test_revoking_the_last_key_opens_nothing(file):
    key = add_key(file, "shop", ["decide"], None)
    revoke_key(file, "shop")
    assert refusal(KeyAuth(read_keys(file)), key)[0] == 401


def test_a_role_is_needed_and_an_admin_has_them_all(file):
    key, chief = add_key(file, "shop", ["decide"], None), add_key(file, "chief", ["admin"], None)
    auth = KeyAuth(read_keys(file))
    auth.allow(auth.who(key), "decide", 5)
    with pytest.raises(Refused, match="the key of shop is for decide, not for review") as refused:
        auth.allow(auth.who(key), "review")
    assert refused.value.status == 403
    for role in keys.ROLES:
        auth.allow(auth.who(chief), role)


def test_a_client_may_ask_so_often_and_the_bucket_refills(file, monkeypatch):
    moment = [0.0]
    monkeypatch.setattr(keys, "monotonic", lambda: moment[0])
    key = add_key(file, "shop", ["decide"], 60)
    auth = KeyAuth(read_keys(file))
    client = auth.who(key)
    auth.allow(client, "decide", 59)
    auth.allow(client, "decide", 1)
    with pytest.raises(Refused, match="60 posts a minute: try again in 2.0 s") as refused:
        auth.allow(client, "decide", 2)
    assert (refused.value.status, refused.value.retry_after) == (429, pytest.approx(2.0))
    with pytest.raises(Refused) as refused:
        auth.allow(client, "decide", 61)
    assert refused.value.status == 413  # coming again would not help
    moment[0] = 2.0
    auth.allow(client, "decide", 2)
    with pytest.raises(Refused, match="this batch has 61"):
        auth.allow(client, "decide", 61)
    auth.update(read_keys(file))  # the file was read again: nothing is forgiven
    with pytest.raises(Refused):
        auth.allow(client, "decide", 1)


def test_names_are_taken_once_and_what_is_no_key_file_is_named(file):
    add_key(file, "shop", ["decide"], None)
    with pytest.raises(RunError, match="has a client 'shop' already"):
        add_key(file, "shop", ["decide"], None)
    with pytest.raises(RunError, match="this client cannot be made"):
        add_key(file, "two words", ["decide"], None)
    with pytest.raises(RunError, match="no client 'shp' with a key; it has shop"):
        revoke_key(file, "shp")
    revoke_key(file, "shop")
    add_key(file, "shop", ["decide"], None)  # a new key under the old name
    assert [bool(c.revoked) for c in read_keys(file)] == [True, False]
    file.write_text(json.dumps({"clients": [{"name": "x"}]}))
    with pytest.raises(RunError, match="is no file of API keys"):
        read_keys(file)


def test_a_client_changes_its_key_without_a_gap(file):
    first = add_key(file, "shop", ["decide", "review"], 2)
    auth = KeyAuth(read_keys(file))
    second = rotate_key(file, "shop")
    auth.update(read_keys(file))
    one, other = auth.who(first), auth.who(second)
    assert (one.name, one.roles, one.per_minute) == (other.name, other.roles, other.per_minute)
    auth.allow(one, "decide", 1)
    auth.allow(other, "decide", 1)
    with pytest.raises(Refused, match="try again"):  # both keys are of one client, and share its rate
        auth.allow(other, "decide", 1)
    with pytest.raises(RunError, match="shop has 2 keys .* revoke the old one first"):
        rotate_key(file, "shop")
    assert revoke_key(file, "shop", old=True) == [one.key_id]
    auth.update(read_keys(file))
    assert auth.who(second).name == "shop" and refusal(auth, first)[0] == 401
    with pytest.raises(RunError, match=f"shop has no older key; it has {other.key_id}"):
        revoke_key(file, "shop", old=True)
    third = rotate_key(file, "shop")
    assert revoke_key(file, "shop", key_id=other.key_id) == [other.key_id]
    auth.update(read_keys(file))
    assert auth.who(third).name == "shop" and refusal(auth, second)[0] == 401
    with pytest.raises(RunError, match="no client 'shp' with a key; it has shop"):
        rotate_key(file, "shp")


def test_two_commands_at_once_lose_no_key(file):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: add_key(file, f"client{i}", ["decide"], None), range(16)))
    auth = KeyAuth(read_keys(file))
    assert {auth.who(key).name for key in made} == {f"client{i}" for i in range(16)}


def test_what_is_written_on_the_page_counts_against_the_key_too(file):
    add_key(file, "ada", ["review"], 2)
    auth = KeyAuth(read_keys(file))
    auth.spend("ada")
    auth.spend("ada")
    with pytest.raises(Refused, match="try again"):
        auth.spend("ada")
    auth.spend("nobody")
