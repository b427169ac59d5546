"""The page in a real browser: no error, no request, a slider that counts, posts that show when asked to."""

import pytest

from bifocal.report.html import write_report
from bifocal.workspace import Workspace, write_json


class Opened:
    """A page, with all that it complained of and asked for."""

    def __init__(self, browser, path, **settings):
        self.page = browser.new_page(**settings)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def text(self, name: str) -> str:
        return self.page.locator(f"#explorer-{name}").inner_text()


@pytest.mark.parametrize("kind", [{}, {"multiclass": True}, {"single": True}, {"in_sample": True}], ids=str)
def test_nothing_goes_wrong_and_nothing_leaves_the_page(browser, fake_run, kind):
    path = write_report(fake_run(**kind))
    opened = Opened(browser, path)
    assert opened.complaints == [] and opened.requests == [path.as_uri()]


def test_the_slider_counts(browser, fake_run):
    opened = Opened(browser, write_report(fake_run()))
    assert opened.text("threshold") == "0.45"
    assert (opened.text("precision"), opened.text("recall")) == ("50.0%", "55.0%")
    opened.page.locator("#threshold").fill("90")
    assert opened.text("threshold") == "0.90"
    assert (opened.text("precision"), opened.text("recall")) == ("50.0%", "10.0%")
    assert opened.text("counts") == "10 true and 10 false positives, 90 false and 90 true negatives"
    tested = opened.page.locator("#tested-counts").inner_text()  # the tested posts under the same slider
    assert tested == "20 true and 10 false positives, 90 false and 90 true negatives"
    opened.page.locator("#threshold").press("ArrowRight")
    assert opened.text("threshold") == "0.91"


def test_posts_are_veiled_until_asked_for_and_hostile_ones_stay_text(browser, fake_run):
    folder = fake_run()
    pictures = Workspace.of(folder).report / "pictures"
    pictures.mkdir(parents=True)
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(pictures / "0.jpg")
    write_json(pictures / "index.json", {"p0": "0.jpg"})
    opened = Opened(browser, write_report(folder))
    button = opened.page.get_by_role("button", name="Show post p0")
    blur = "element => getComputedStyle(element).filter"
    shown = (button.locator("img"), button.locator("bdi"))
    assert all("blur" in part.evaluate(blur) for part in shown)
    assert "<script>alert" in shown[1].inner_text()
    button.click()
    for part in shown:
        opened.page.wait_for_function("part => getComputedStyle(part).filter === 'none'", arg=part.element_handle())
    button.press("Enter")
    opened.page.wait_for_function("part => getComputedStyle(part).filter !== 'none'", arg=shown[1].element_handle())
    assert opened.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone(browser, fake_run, scheme):
    size = {"width": 360, "height": 740}
    opened = Opened(browser, write_report(fake_run()), viewport=size, color_scheme=scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(254, 254, 253)", "dark": "rgb(21, 24, 27)"}[scheme]
