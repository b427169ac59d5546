"""The moderator's page in a real browser, on a real service."""

import json
import re
import shutil
import time

import pytest
from PIL import Image, ImageDraw, ImageFont

SEEN = 750
"""Milliseconds after which a page takes a verdict by its key."""


@pytest.fixture(scope="module")
def moderated(serve, small_run, tmp_path_factory):
    """A service that reads the words on pictures, audits every allowed post and keeps originals."""
    folder = shutil.copytree(small_run, tmp_path_factory.mktemp("moderated") / "run")
    record = json.loads((folder / "run.json").read_text())
    record["config"]["ocr"]["when"] = "auto"
    (folder / "run.json").write_text(json.dumps(record))
    from bifocal.deploy.policies import set_threshold

    set_threshold(folder, None, 1.0, by="ann", why="everything is allowed, and audited")
    return serve(folder, "--set", "audit_share=1", "--set", "keep_originals=true")


@pytest.fixture
def enter(browser, moderated):
    """``enter(name)`` signs a moderator in, in a browser of their own."""
    contexts, wrong = [], []

    def signed_in(name, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(f"{moderated.url}/moderate")
        page.fill("#name", name)
        page.click("text=Go in")
        page.wait_for_url("**/moderate")
        return page

    yield signed_in
    for context in contexts:
        context.close()
    # An answer that says no is a line in the console too; a script or style that was stopped is another matter.
    assert [told for told in wrong if not told.startswith("Failed to load resource: the server responded")] == []


@pytest.fixture
def queued(moderated, picture):
    """Six posts that wait."""
    return [
        moderated.predict(f"post {i}", picture(c), external_id=f"p{i}").json()
        for i, c in enumerate(["red", "blue", "green", "navy", "teal", "pink"])
    ]


@pytest.fixture
def some(moderated):
    """Three posts of words alone that wait."""
    return [moderated.predict(f"words {i}", external_id=f"w{i}").json() for i in range(3)]


def test_a_post_is_tried_and_explained_and_not_kept(enter, moderated, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(size=(300, 200)))
    before = moderated.http.get("/metrics").text.count("bifocal_decisions_total{")
    page = enter("ann")
    page.fill("#text", "a quiet <b>morning</b>")
    page.set_input_files("#image", tmp_path / "a.png")
    assert "a.png, 1 KiB" in page.text_content("#chosen")
    page.click("button:has-text('Decide')")
    assert page.locator("h2 .badge").text_content() == "allow" and page.title().startswith("Allow · Try a post")
    assert page.evaluate("document.activeElement.id") == "answer" and "again" in page.text_content("#chosen")
    text = " ".join(page.text_content("main").split())
    assert re.search(r"Likely .+: \d+ of 100\. Blocked from 100 on\.", text)
    assert re.search(r"On its own: \d+ of 100\. In this decision it (pushed (towards|against) block|made no)", text)
    assert re.search(r"Strongest: .+ \((towards|against)\)", text)
    assert page.locator("article h3").all_text_contents() == ["Text", "Picture"]
    assert not page.locator("details").get_by_text("log-odds").first.is_visible()
    for mark in page.locator("article mark").all():
        line = "solid" if mark.get_attribute("class").startswith("up") else "dashed"
        assert mark.evaluate("e => getComputedStyle(e).textDecorationStyle") == line
    assert page.locator("mark").count() >= 3 and "<b>morning</b>" in page.locator(".words").text_content()
    shown = page.locator(".veiled img").first
    assert "blur" in shown.evaluate("e => getComputedStyle(e).filter")
    page.keyboard.press("p")
    assert shown.evaluate("e => getComputedStyle(e).filter") == "none" and page.locator(".veiled img").count() == 2
    assert moderated.http.get("/metrics").text.count("bifocal_decisions_total{") == before


def test_a_picture_can_be_dropped(enter):
    page = enter("ann")
    page.evaluate("""() => {
      const data = new DataTransfer();
      data.items.add(new File(["x".repeat(3000)], "dropped.png", {type: "image/png"}));
      document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    }""")
    assert page.text_content("#chosen") == "dropped.png, 3 KiB"
    page.click("button:has-text('Decide')")
    assert "no picture of an allowed format" in page.text_content("[role=alert]")


def test_what_cannot_be_tried_is_said_at_the_field(enter, moderated):
    page = enter("ann")
    page.click("button:has-text('Decide')")
    assert page.text_content("[role=alert]") == "Write a text or choose a picture" and page.title().startswith("Error")
    assert page.get_attribute("#text", "aria-describedby") == page.evaluate("document.activeElement.id") == "wrong"
    page.evaluate("""() => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(14e6)], "large.png", {type: "image/png"}));
      document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    }""")
    assert page.text_content("#chosen") == "large.png, 14 MB; at most 12 MB: make it smaller"
    assert not page.evaluate("document.getElementById('image').validity.valid")
    page.evaluate("document.querySelector('main form').dispatchEvent(new Event('submit', {cancelable: true}))")
    assert page.get_attribute("button:has-text('Deciding…')", "aria-busy") == "true"


def test_a_place_in_the_queue_that_is_none_is_its_start(enter, moderated):
    page = enter("ann")
    answer = page.goto(f"{moderated.url}/moderate/queue?sort=age&key=0001-01-01T00:00:00%2B14:00&id=x")
    assert answer.status == 200


def test_words_on_a_picture_that_are_a_script_stay_words(enter, tmp_path):
    drawn = Image.new("RGB", (600, 120), "white")
    ImageDraw.Draw(drawn).text((10, 40), "<script>alert(1)</script>", fill="black", font=ImageFont.load_default(36))
    drawn.save(tmp_path / "script.png")
    page = enter("ann")
    page.set_input_files("#image", tmp_path / "script.png")
    page.click("button:has-text('Decide')")
    assert "alert(1)" in page.text_content("main") and page.locator("main script").count() == 0


def test_the_queue_by_keyboard_alone(enter, moderated, queued):
    page = enter("keys")
    page.goto(f"{moderated.url}/moderate/queue?sort=age")
    page.keyboard.press("n")
    page.wait_for_url("**/next?*")
    first = page.text_content("h1")
    assert "blur" in page.locator(".veiled img").evaluate("e => getComputedStyle(e).filter")
    page.clock.install()
    page.clock.pause_at(time.time() + 60)  # what is "at once" below is so on a slow machine too
    page.keyboard.press("s")  # skip: another comes, and this one is free again
    page.wait_for_url("**skip=*")
    second = page.text_content("h1")
    assert second != first
    page.keyboard.press("b")  # at once: meant for the post before, maybe
    assert page.text_content("h1") == second
    page.clock.resume()
    page.wait_for_timeout(SEEN)
    page.keyboard.press("b")
    page.wait_for_url("**undo=*")
    assert page.text_content("h1") not in (first, second) and page.text_content("[role=status]") == f"Blocked: {second}"
    with page.expect_navigation():
        page.keyboard.press("s")  # the verdict can still be taken back after a skip, and after both the filter holds
    page.evaluate("for (let i = 0; i < 2; i++) document.querySelector('[data-key=u]').click()")  # twice is once
    page.wait_for_url("**/items/*")
    assert page.text_content("h1") == second and "sort=age" in page.url and "skip=" in page.url
    kinds = page.locator(".history b").all_text_contents()
    assert kinds[-1] == "decided" and kinds[:2] == ["undone", "verdict"]  # the newest first
    page.fill("#why", "b is for a typed letter")
    page.locator("#why").press("b")  # in a field a letter is a letter
    page.locator("#why").press("Enter")  # and Enter is a line break
    page.locator("#why").press_sequentially("a")
    page.click("button:has-text('Approve')")
    page.wait_for_url("**undo=*")
    assert "sort=age" in page.url
    page.goto(f"{moderated.url}/moderate/items/{page.url.split('undo=')[1].split('&')[0]}")
    assert re.search(r"b is for a typed letterb \u23ce a", page.text_content(".history"))
    assert " ".join(page.text_content("#decided").split()).startswith("allow by the machine, allow by keys")


def test_keys_can_be_switched_off_and_a_page_from_the_cache_is_fetched_anew(enter, moderated, queued):
    page = enter("off")
    page.goto(f"{moderated.url}/moderate/next?sort=age")
    page.uncheck("#keys")
    page.reload()
    assert not page.is_checked("#keys")
    page.keyboard.press("p")
    assert not page.is_checked("#show")
    page.check("#keys")
    page.keyboard.press("p")
    assert page.is_checked("#show")
    with page.expect_navigation():
        page.evaluate("window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")


def test_without_the_script_the_buttons_do_it(enter, moderated, queued):
    page = enter("plain", java_script_enabled=False)
    page.goto(f"{moderated.url}/moderate/next?sort=age")
    first = page.text_content("h1")
    assert not page.is_visible("#keys")  # they need the script
    page.click("button:has-text('Block')")
    assert page.text_content("[role=status]") == f"Blocked: {first}"
    page.click("button:has-text('Undo this verdict')")
    assert page.text_content("h1") == first and page.is_visible("#why")


def test_a_post_is_shown_as_it_was_written(enter, moderated):
    number = moderated.predict("words " * 4000, external_id="long").json()["id"]
    page = enter("reader", viewport={"width": 360, "height": 740})
    page.goto(f"{moderated.url}/moderate/items/{number}")
    assert page.text_content(".post").startswith("words words") and "CAP" not in page.text_content("main")
    assert "cut: the post was longer" in page.text_content("main")
    page.click("text=Take it")
    page.wait_for_selector("#why")
    assert page.locator("button.allow").bounding_box()["y"] < 700  # in sight, however long the post


def test_two_moderators_at_once_never_see_the_same_item(enter, moderated, queued):
    ann, bob = enter("ann2"), enter("bob2")
    seen = set()
    for _ in range(2):
        for page in (ann, bob):
            page.goto(f"{moderated.url}/moderate/next?sort=age")
            seen.add((page.text_content("dd code"), page))
        for page in (ann, bob):
            page.click("button:has-text('Block')")
            page.wait_for_url("**undo=*")
    assert len({number for number, _ in seen}) == len(seen) == 4
    bob.goto(f"{moderated.url}/moderate/items/{next(number for number, page in seen if page is ann)}")
    assert bob.locator("button:has-text('Undo')").count() == 0  # it is ann's
    held = ann.text_content("dd code")
    bob.goto(f"{moderated.url}/moderate/items/{held}")
    assert re.search(r"In the hands of ann2 until \d", bob.text_content("main"))
    assert bob.locator("button:has-text('Take it')").count() == 0
    ann.evaluate("document.querySelector('button.allow').formAction = '/moderate/items/none?reason=audit'")
    ann.click("button:has-text('Approve')")  # an error leads on, with the filter
    assert ann.title().startswith("Error") and ann.evaluate("document.activeElement.id") == "wrong"
    assert "sort=age" in ann.get_attribute("a:has-text('Take the next post')", "href")
    assert ann.locator("nav a").count() == 3


def test_the_last_day_adds_up(enter, moderated, queued):
    page = enter("ann")
    page.goto(f"{moderated.url}/moderate/day")
    text = " ".join(page.text_content("main").split())
    assert re.search(r"allow \d+", text) and "for audit" in text and "No shadow runs" in text
    assert page.locator("svg.hours rect.allow").count() >= 1 and re.search("As usual|Alarm|Worth|Too few", text)
    assert re.search(r"\d\d h: \d+ allowed", page.locator("svg.hours title").first.text_content())
    assert re.search(r"Hours in UTC; highest: [1-9]", text) and "dict" not in text
    page.click("summary:has-text('As a table') >> nth=0")
    assert page.locator("section:has(#actions) tbody tr").count() == 24


def test_drift_is_called_what_bifocal_drift_calls_it():
    from bifocal.config import DriftConfig
    from bifocal.serve.pages.routes import _drift
    from bifocal.serve.reference import UsualDecisions

    usual = UsualDecisions([i / 1000 for i in range(1000)], {"0": 500, "1": 500})
    days = {"steady": [50] * 20, "alarm": [0] * 19 + [200], "too few rows": [1, 1] + [0] * 18}
    assert {state: _drift(day, usual, DriftConfig())["state"] for state, day in days.items()} == {
        state: state for state in days
    }
    assert _drift([0] * 20, usual, DriftConfig()) is None and _drift([1] * 20, None, DriftConfig()) is None


def test_a_long_name_does_not_hide_the_queue(enter, moderated):
    moderated.predict("named at length", external_id="n" * 150)
    page = enter("ann")
    page.goto(f"{moderated.url}/moderate/queue?sort=age")
    while page.locator(f"a[title='{'n' * 150}']").count() == 0:
        page.click("text=More")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.eval_on_selector(".wide", "e => e.scrollWidth <= e.clientWidth + 1"), width
    page.goto(f"{moderated.url}/moderate/queue?client=nobody")
    page.click("text=Show all")
    assert page.locator("td").count() > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone_can_be_read_and_has_labels(enter, moderated, queued, scheme):
    page = enter("ann", viewport={"width": 360, "height": 740}, color_scheme=scheme)
    for path in ("", "/queue", "/next", "/day", f"/items/{queued[0]['id']}"):
        page.goto(f"{moderated.url}/moderate{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
        unlabelled = "e => [...e].filter(f => !f.labels?.length && !f.ariaLabel).map(f => f.outerHTML)"
        fields = "input:not([type=hidden]), select, textarea"
        assert page.eval_on_selector_all(fields, unlabelled) == [], path
        assert page.locator("img:not([alt]), html:not([lang])").count() == 0
        if not path:
            page.fill("#text", "words that are marked")
            page.click("button:has-text('Decide')")
            page.wait_for_selector("mark")
            page.evaluate(
                "[...document.querySelectorAll('mark')].slice(-2).forEach((m, i) => m.className = ['up4', 'down4'][i])"
            )
        assert page.evaluate(CONTRAST) == [], path
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


CONTRAST = """() => {
  const lum = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const under = (e) => { const c = e ? getComputedStyle(e).backgroundColor : "rgb(255, 255, 255)";
    if (!c.startsWith("rgba(")) return c;
    const [top, below] = [c, under(e.parentElement)].map(x => x.match(/[\\d.]+/g).map(Number));
    return `rgb(${[0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i])})`; };
  const poor = [];
  const read = "h1, h2, h3, p, a, td, th, button, label, .badge, dt, dd, li, mark, summary";
  for (const e of document.querySelectorAll(read)) {
    if (!e.textContent.trim() || !e.getClientRects().length) continue;
    const [a, b] = [lum(getComputedStyle(e).color), lum(under(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${e.outerHTML.slice(0, 80)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


def test_another_sites_page_decides_nothing(moderated, queued):
    import httpx

    with httpx.Client(base_url=moderated.url) as http:
        http.post("/moderate/login", data={"name": "ann"})
        path = f"/moderate/items/{queued[0]['id']}"
        said = http.post(path, data={"do": "claim"}, headers={"origin": "https://elsewhere.example"})
        assert said.status_code == 403 and "another site" in said.text
        for headers in ({"origin": "null"}, {"sec-fetch-site": "same-site"}, {"origin": "http://127.0.0.1:1"}):
            assert http.post(path, data={"do": "claim"}, headers=headers).status_code == 403
            assert http.post("/moderate/login", data={"name": "mallory"}, headers=headers).status_code == 403
        cookie = http.cookies.jar
        (ours,) = list(cookie)
        assert ours.has_nonstandard_attr("HttpOnly") and ours.get_nonstandard_attr("SameSite").lower() == "strict"
    for value in ("", "x", "YW5u.9999999999.forged"):
        said = httpx.get(moderated.url + "/moderate/queue", cookies={"moderator": value})
        assert said.status_code == 303 and said.headers["location"] == "/moderate/login?then=%2Fmoderate%2Fqueue"


def test_a_page_loads_nothing_from_elsewhere(moderated):
    import httpx

    said = httpx.get(moderated.url + "/moderate/login")
    policy = said.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
    assert not re.search(r"(src|href)=\"(https?:)?//", said.text)
    assert httpx.get(moderated.url + "/moderate/static/routes.py").status_code == 404


def test_what_is_kept_is_never_what_came(moderated, picture, enter):
    sent = picture(size=(90, 70)) + b"PK\x03\x04 an archive behind the picture"
    number = moderated.predict("polyglot", sent).json()["id"]
    page = enter("ann")
    kept = page.request.get(f"{moderated.url}/moderate/items/{number}/picture")
    assert kept.headers["content-type"] == "image/png" and kept.headers["x-content-type-options"] == "nosniff"
    assert b"archive" not in kept.body() and kept.body().startswith(b"\x89PNG")


FORGED = "look again\u201d\n\n29 Nov 2026, 18:01:12 UTC verdict by root: approve \u202e\u201cchecked\r\u2028with legal"


def test_foreign_words_stay_in_their_line_and_what_hides_is_shown(enter, moderated):
    name = "=cmd|'x'!A0 \u202egnp.exe\u200b"
    number = moderated.predict("words that wait", external_id=name).json()["id"]
    page = enter("ann")
    page.goto(f"{moderated.url}/moderate/items/{number}")
    page.click("text=Take it")
    page.wait_for_selector("#why")
    page.click("button:has-text('Block')")
    page.wait_for_url("**undo=*")
    moderated.post("/v1/appeals", json={"decision_id": number, "reason": FORGED})
    page.goto(f"{moderated.url}/moderate/items/{number}")
    assert page.text_content("h1") == "=cmd|'x'!A0 U+202Egnp.exeU+200B" and "[U+202E]gnp" in page.title()
    assert page.locator("h1 bdi .sign").first.get_attribute("title") == "right-to-left override"
    said = page.locator(".item > section").first  # why it is here stands above the post
    assert said.locator("h2").text_content() == "Here by an appeal"
    assert "asked just now to look again at allow by the machine, then block by ann" in " ".join(
        said.text_content().split()
    )
    words = page.locator("blockquote")
    assert words.count() == 2  # above, and in the history
    for quoted in words.all():
        assert quoted.text_content() == (
            "look again\u201d \u23ce 29 Nov 2026, 18:01:12 UTC verdict by root: "
            "approve U+202E\u201cchecked \u23ce with legal"
        )
        assert quoted.locator("bdi").count() == 1
    assert page.locator(".history b").all_text_contents() == ["appealed", "verdict", "claimed", "decided"]
    page.goto(f"{moderated.url}/moderate/queue?reason=appeal")
    assert page.locator("td a bdi").first.text_content().endswith("U+202Egnp.exeU+200B")


def test_words_of_every_kind_are_shown_or_told():
    from bifocal.serve.pages.untrusted_text import line, plain, shown

    for sign in (
        "\0",
        "\x1b",
        "\x7f",
        "\x9f",
        "\u200b",
        "\u2066",
        "\ufeff",
        "\u3164",
        "\U000e0041",
        "\ud800",
        "a\u200d",
    ):
        code = f"U+{ord(sign[-1]):04X}"
        assert code in shown(f"x{sign}") and code in line(f"x{sign}") and f"[{code}]" in plain(f"x{sign}"), code
    for kept in ("naïve 😀", "\u05d0\u05d1", "\u06cc\u200c\u0631", "👩\u200d🚀", "☀\ufe0f"):
        assert shown(kept) == kept and line(kept) == f"<bdi>{kept}</bdi>" and plain(kept) == kept
    for end in ("\n", "\r\n", "\r", "\v", "\f", "\x85", "\u2028", "\u2029", " \n\n "):
        assert plain(f"a{end}b").count("\u23ce") >= 1 and "\n" not in plain(f"a{end}b") and "b" in plain(f"a{end}b")
    assert shown("a\nb\tc") == "a\nb\tc" and shown("<b>&") == "&lt;b&gt;&amp;" and plain(f"a{chr(0xA0) * 90}b") == "a b"


def test_what_made_a_decision_is_marked_on_the_item(enter, moderated, picture):
    number = moderated.predict("a quiet <b>morning</b>", picture(size=(300, 200)), external_id="marked").json()["id"]
    for options in ({}, {"java_script_enabled": False}):
        page = enter("ann", **options)
        page.goto(f"{moderated.url}/moderate/items/{number}")
        if options:
            assert page.locator("mark").count() == 0  # not on the way of the page itself
            page.click("text=Mark what made the decision")
        page.wait_for_selector("#post mark")
        assert page.locator(".post mark").all_text_contents() == ["a", "quiet", "<b>morning</b>"]
        assert page.text_content(".post").strip() == "a quiet <b>morning</b>"
        assert page.locator("#post .veiled img").count() == 2
        assert "blur" in page.locator("#post .veiled img").last.evaluate("e => getComputedStyle(e).filter")
        assert "Strongest in the picture: row" in " ".join(page.text_content("#post").split())


def test_a_session_ends_on_the_server(moderated):
    import httpx

    with httpx.Client(base_url=moderated.url) as http:
        http.post("/moderate/login", data={"name": "leaver"})
        held = http.cookies["moderator"]
        copy = {"cookie": f"moderator={held}"}
        assert httpx.get(moderated.url + "/moderate/queue", headers=copy).status_code == 200
        http.post("/moderate/logout")
        said = httpx.get(moderated.url + "/moderate/queue", headers=copy)
        assert said.status_code == 303 and "/moderate/login" in said.headers["location"]
        for name in ("root\u202e", "\n", "a\x00b"):
            assert http.post("/moderate/login", data={"name": name}).status_code == 422
        for then, to in (
            ("/moderate/items/ab12", "/moderate/items/ab12"),
            ("//evil.example", "/moderate"),
            ("/moderate/../x", "/moderate"),
            ("https://evil.example/moderate", "/moderate"),
        ):
            assert http.post("/moderate/login", data={"name": "ann", "then": then}).headers["location"] == to
        large = http.post("/moderate/items/x", data={"do": "block", "why": "w" * 20_000})
        assert large.status_code == 413


def test_what_was_typed_comes_back_after_signing_in(enter, moderated, some):
    for options in ({}, {"java_script_enabled": False}):
        page = enter("typist", **options)
        page.goto(f"{moderated.url}/moderate/next?sort=age&seen=2")
        name = page.text_content("h1")
        page.fill("#why", "two lines\nof a “reason”")
        page.context.clear_cookies()
        page.click("button:has-text('Block')")
        assert "comes back as you typed it" in page.text_content("[role=alert]")
        page.fill("#name", "typist")
        page.click("text=Go in")
        page.wait_for_selector("#why")
        assert page.text_content("h1") == name and page.input_value("#why") == "two lines\nof a “reason”"
        assert page.text_content(".place").startswith("3 of ")
        page.click("button:has-text('Block')")
        page.wait_for_url("**undo=*")
        assert page.text_content("[role=status]") == f"Blocked: {name}" and "seen=3" in page.url
        page.goto(f"{moderated.url}/moderate/items/{page.url.split('undo=')[1].split('&')[0]}")
        assert "two lines \u23ce of a “reason”" in page.text_content(".history")


def database(moderated):
    import sqlite3
    from contextlib import closing

    return closing(sqlite3.connect(moderated.state / "decisions.sqlite", timeout=30, isolation_level=None))


def expire(moderated, number, **values):
    """As if a claim had run out long ago."""
    values = {"claimed_until": "2020-01-01 00:00:00.000000", **values}
    with database(moderated) as connection:
        sets = ", ".join(f"{name} = ?" for name in values)
        connection.execute(f"UPDATE items SET {sets} WHERE decision_id = ?", [*values.values(), number])


def test_a_verdict_after_the_claim_ran_out_counts_or_comes_back(enter, moderated, some):
    page = enter("slow")
    for taken in (False, True):
        page.goto(f"{moderated.url}/moderate/next?sort=age")
        number = page.text_content("dd code")
        page.fill("#why", "typed at leisure")
        expire(
            moderated,
            number,
            **({"claimed_by": "other", "claimed_until": "2999-01-01 00:00:00.000000"} if taken else {}),
        )
        page.click("button:has-text('Approve')")
        if not taken:
            page.wait_for_url("**undo=*")
            continue
        assert "claimed by other" in page.text_content("#wrong") and page.input_value("#why") == "typed at leisure"
        expire(moderated, number, claimed_by="slow")
        page.click("text=Approve: try again")
        page.wait_for_url("**undo=*")
        assert "sort=age" in page.url


def test_a_claim_is_kept_alive_by_typing_and_without_events(enter, moderated, some):
    page = enter("writer")
    page.clock.install()
    page.goto(f"{moderated.url}/moderate/next?sort=age")
    number = page.text_content("dd code")
    before = int(page.get_attribute("#left", "data-left"))
    assert 150 <= before <= 300
    with database(moderated) as connection:
        asked = "SELECT claimed_until FROM items WHERE decision_id = ?"
        (first,) = connection.execute(asked, [number]).fetchone()
        page.clock.run_for(100_000)  # nobody types: the claim runs on
        minutes, seconds = map(int, re.fullmatch(r", (\d+):(\d\d) left", page.text_content("#left")).groups())
        assert 0 < 60 * minutes + seconds <= before - 100  # less by what the page took to open
        assert connection.execute(asked, [number]).fetchone() == (first,)
        with page.expect_response("**/keep"):
            page.locator("#why").press_sequentially("w")
            page.clock.run_for(2_000)
        assert connection.execute(asked, [number]).fetchone()[0] > first
        kinds = connection.execute("SELECT kind FROM events WHERE decision_id = ? ORDER BY number", [number]).fetchall()
        assert [kind for (kind,) in kinds][-1] == "claimed" and "kept" not in str(kinds)
    page.context.clear_cookies()
    page.click("text=More time")
    page.locator("#kept", has_text="signed out").wait_for()


def test_more_time_without_the_script_keeps_what_was_typed(enter, moderated, some):
    page = enter("plain2", java_script_enabled=False)
    page.goto(f"{moderated.url}/moderate/next?sort=age")
    assert re.search(r"Yours until \d\d:\d\d UTC, [45]:\d\d left", page.text_content(".left"))
    page.fill("#why", "half a sen")
    page.click("text=More time")
    assert page.input_value("#why") == "half a sen"


def test_a_pass_through_the_queue_is_counted(enter, moderated, some):
    page = enter("counter")
    page.goto(f"{moderated.url}/moderate/next?sort=age")
    first, whole = page.text_content(".place").split(" of ")
    for seen, button in ((2, "Skip"), (3, "Block")):
        page.click(f"button:has-text('{button}')")
        page.wait_for_url(f"**seen={seen - 1}*")
        assert page.text_content(".place") == f"{seen} of {whole}"
    page.click("button:has-text('Undo this verdict')")
    page.wait_for_url("**/items/*")
    assert first == "1" and page.text_content(".place") == f"2 of {whole}"


def test_a_history_is_newest_first_paged_and_repeated_claims_are_one_line(enter, moderated):
    number = moderated.predict("claimed often", external_id="often").json()["id"]
    with database(moderated) as connection:
        for i in range(45):
            at = f"2020-01-01 00:{i:02d}:00.000000"
            who = "ann" if 10 <= i < 40 else f"m{i}"
            row = [number, at, "claimed" if i % 2 else "released", who, "{}"]
            connection.execute("INSERT INTO events (decision_id, at, kind, who, what) VALUES (?, ?, ?, ?, ?)", row)
    page = enter("reader2", timezone_id="Asia/Tokyo")
    page.goto(f"{moderated.url}/moderate/items/{number}")
    lines = [" ".join(text.split()) for text in page.locator(".history li").all_text_contents()]
    assert [text.split(" by ")[-1] for text in lines[:6]] == ["m44", "m43", "m42", "m41", "m40", "ann (8 times)"]
    when = page.locator(".history time").first
    assert when.text_content() == "Jan 1, 2020" and "9:44" in when.get_attribute("title")  # local time
    page.click("text=Older")
    assert page.locator(".history li").count() < 20 and page.locator("a:text-is('Newest')").count() == 1
    page.click("text=Older")
    assert page.locator(".history b").last.text_content() == "decided"
    assert page.locator(".history time").last.text_content() in ("just now", "1 min ago")
