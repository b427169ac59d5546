"""Behind a reverse proxy: a real nginx with TLS and a path prefix, and who may say what a request was."""

import asyncio
import shutil
import socket
import subprocess
import time

import httpx
import pytest
from pydantic import ValidationError

from bifocal.errors import RunError
from bifocal.serve.api.proxies import PublicUrlMiddleware, own_path
from bifocal.serve.service import Service
from bifocal.serve.settings import ServeConfig

ORIGIN = {"origin": "https://mod.example", "sec-fetch-site": "same-origin"}

NGINX = """
daemon off; pid {place}/pid; error_log {place}/error.log; worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/f;
  uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {place}/cert.pem; ssl_certificate_key {place}/key.pem;
    location /bifocal/ {{ proxy_pass http://127.0.0.1:{upstream}{slash}; }}
  }}
}}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module", params=["/", ""], ids=["prefix taken off", "prefix left"])
def proxied(request, service, guarded, tmp_path_factory):
    """A client of an nginx that stands, as Debian configures it, before the service."""
    nginx, openssl = service("nginx"), shutil.which("openssl") or pytest.fail("no openssl")
    place, port = tmp_path_factory.mktemp("nginx"), free_port()
    place.chmod(0o755)
    made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-subj", "/CN=mod.example", "-keyout", place / "key.pem", "-out", place / "cert.pem"]
    subprocess.run([openssl, "req", *made, *files], check=True, capture_output=True)
    (place / "conf").write_text(NGINX.format(place=place, port=port, upstream=guarded.port, slash=request.param))
    process = subprocess.Popen([nginx, "-c", place / "conf", "-e", place / "error.log"])
    client = httpx.Client(base_url=f"https://127.0.0.1:{port}/bifocal", verify=False, timeout=60)
    try:
        until = time.monotonic() + 30
        while True:
            try:
                client.get("/v2/health/live").raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < until and process.poll() is None, (place / "error.log").read_text()
                time.sleep(0.1)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(20)


def test_a_moderator_works_through_nginx(proxied, guarded):
    key = guarded.keys["review"]
    assert proxied.get("/moderate/queue").headers["location"].startswith("/bifocal/moderate/login?then=")
    other = {"origin": "https://evil.example", "sec-fetch-site": "same-site"}
    assert proxied.post("/moderate/login", data={"key": key}, headers=other).status_code == 403
    response = proxied.post("/moderate/login", data={"key": key}, headers=ORIGIN)
    assert response.status_code == 303 and response.headers["location"] == "/bifocal/moderate"
    cookie = response.headers["set-cookie"]
    assert "Secure" in cookie and "HttpOnly" in cookie and "Path=/bifocal/moderate;" in cookie
    page = proxied.get("/moderate/queue")
    assert page.status_code == 200
    assert '="/moderate' not in page.text and 'href="/bifocal/moderate/static/style.css"' in page.text
    assert proxied.get("/moderate/static/style.css").status_code == 200
    out = proxied.post("/moderate/logout", headers=ORIGIN)
    assert out.status_code == 303 and "Path=/bifocal/moderate;" in out.headers["set-cookie"]
    assert proxied.get("/moderate/queue").status_code == 303


def test_posts_are_decided_through_nginx(proxied, guarded):
    headers = {"authorization": f"Bearer {guarded.keys['decide']}"}
    assert proxied.post("/v1/predict", json={"text": "words"}, headers=headers).status_code == 200
    assert proxied.post("/v1/predict", json={"text": "words"}).status_code == 401
    assert proxied.get("/openapi.json").json()["servers"] == [{"url": "https://mod.example/bifocal"}]


def test_no_redirect_leads_where_a_host_header_says(guarded):
    for host in ("evil.example", "evil.example:80", "[::1]", "mod.example"):
        for path in ("/moderate/", "/moderate/queue/", "/v2/health/live/"):
            response = guarded.http.get(path, headers={"host": host})
            assert response.headers.get("location", "/bifocal/").startswith("/bifocal/"), (host, path)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/moderate/next?undo=1", "/moderate/next?undo=1"),
        ("http://evil.example/moderate", "/moderate"),
        ("//evil.example/moderate", "/evil.example/moderate"),
        ("/\\evil.example", "/evil.example"),
        ("http://[evil/moderate", "/moderate"),
    ],
)
def test_a_redirect_is_a_path_of_ours(location, path):
    assert own_path(location) == path


def as_sent(peer, headers, **settings):
    pairs = [(b"host", b"127.0.0.1:8080"), *((k.encode(), v.encode()) for k, v in headers.items())]
    scope = {"type": "http", "scheme": "http", "path": "/x", "raw_path": b"/x", "client": (peer, 1), "headers": pairs}
    found = PublicUrlMiddleware(None, ServeConfig(**settings))._as_sent(scope)
    return found["scheme"], dict(found["headers"])[b"host"].decode()


def test_a_proxy_is_believed_only_where_it_is_trusted():
    said = {"x-forwarded-proto": "https", "x-forwarded-host": "evil.example, mod.example"}
    trusted = {"trusted_proxies": ["10.0.0.0/8", "::1"]}
    for peer in ("10.1.2.3", "::1"):
        assert as_sent(peer, said, **trusted) == ("https", "mod.example")
    for peer in ("127.0.0.1", "11.0.0.1", "nonsense"):
        assert as_sent(peer, said, **trusted) == ("http", "127.0.0.1:8080")
    assert as_sent("10.1.2.3", said) == ("http", "127.0.0.1:8080")
    assert as_sent("10.1.2.3", {"x-forwarded-proto": "file"}, **trusted) == ("http", "127.0.0.1:8080")
    assert as_sent("10.1.2.3", said, **trusted, public_url="https://a.example:443/x") == ("https", "a.example")


@pytest.mark.parametrize(
    "given",
    [
        {"public_url": "mod.example"},
        {"public_url": "ftp://mod.example"},
        {"public_url": "https://"},
        {"public_url": "https://u:p@mod.example"},
        {"public_url": "https://mod.example/a?b"},
        {"public_url": 'https://mod.example/a";'},
        {"public_url": "https://mod.example/v1"},
        {"public_url": "https://mod.example:none"},
        {"trusted_proxies": ["proxy"]},
    ],
)
def test_what_is_no_address_is_refused(given):
    with pytest.raises(ValidationError):
        ServeConfig(**given)


def test_an_address():
    for url, origin, prefix in (
        ("https://mod.example", "https://mod.example", ""),
        ("https://Mod.Example:443/", "https://mod.example", ""),
        ("http://mod.example:8080/a/b/", "http://mod.example:8080", "/a/b"),
    ):
        settings = ServeConfig(public_url=url)
        assert (settings.origin, settings.prefix) == (origin, prefix)


@pytest.mark.parametrize("given", [{"public_url": "https://mod.example"}, {"trusted_proxies": ["127.0.0.1"]}])
def test_what_a_proxy_brings_others_to_needs_keys(small_run, tmp_path, given):
    async def start():
        async with Service.running(small_run, ServeConfig(state=tmp_path, **given)):
            pass

    with pytest.raises(RunError, match="holds no API key"):
        asyncio.run(start())
