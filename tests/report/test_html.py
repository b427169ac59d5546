"""The page is one self-contained, inert file, whatever posts and labels say."""

import re
from html.parser import HTMLParser

import pytest

from bifocal.report.drawings import draw_figures
from bifocal.report.findings import findings
from bifocal.report.html import to_html, write_report
from bifocal.workspace import Workspace, read_json, write_json

KINDS = {
    "binary": {},
    "multiclass": {"multiclass": True},
    "single": {"single": True},
    "in_sample": {"in_sample": True},
}
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and visible text, and checks that elements nest."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


PAGES = {}


@pytest.fixture
def page_of(fake_run):
    """The page of a kind of run; drawn once, since figures take their time."""

    def page(**kind):
        key = str(kind)
        if key not in PAGES:
            PAGES[key] = write_report(fake_run(**kind)).read_text(encoding="utf-8")
        return PAGES[key]

    return page


def test_a_page_is_inert_and_asks_nothing_of_any_server(page_of, kind):
    page = page_of(**kind)
    parsed = Page(page)
    assert not {"iframe", "object", "embed", "link", "form", "img"} & set(parsed.tags)
    data = 0 if kind.get("multiclass") else 1 if kind.get("in_sample") else 2  # of val, and of test
    assert parsed.tags.count("script") == 1 + data  # the page's own, and data for it
    assert all(value.startswith("#") for _, name, value in parsed.attributes if name in ("href", "src", "xlink:href"))
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    without_namespaces = re.sub(r'xmlns(:\w+)?="http://www\.w3\.org/[^"]*"', "", page)
    assert not re.findall(r"(?:https?:)?//[a-z]", without_namespaces.replace("http://evil.example", ""))
    assert "url(" not in re.sub(r"url\(#", "", page)
    assert "default-src 'none'" in page and "script-src 'sha256-" in page


def test_a_hostile_post_is_shown_as_text_behind_a_veil(page_of):
    page = page_of()
    assert "<script>alert" not in page
    assert "<bdi>&lt;script&gt;alert(&#39;post&#39;)&lt;/script&gt; &amp; | `code`" in page
    assert 'class="veiled" aria-pressed="false"' in page
    assert "&lt;de&gt;" in page and "&lt;women&gt;" in page
    assert "picture is &lt;broken&gt;" in page
    assert "What is &lt;meant&gt;" in page


def test_the_order_of_the_page(page_of, kind):
    text = Page(page_of(**kind)).text
    contents, asked, below = text.partition("What was asked")
    assert "What to do next" in contents and "2026-01-02 03:04 UTC · policy 0123456789abcdef" in contents
    text = f" {asked}{below}"
    parts = [
        "What was asked",
        "The answer",
        "What to do next",
        "Models",
        "Decisions",
        "Robustness",
        "Data",
        "most confident errors",
    ]
    parts.append("How it was made")
    places = [text.index(f" {part}") for part in parts]
    assert places == sorted(places)
    assert text.rindex("What this page cannot know") > places[-1]


def test_figures_and_tables_follow_the_kind_of_run(page_of):
    def drawn(**kind):
        page = Page(page_of(**kind))
        return {
            value.partition(" ")[0] for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")
        }, page.text

    figures, text = drawn()
    assert figures == {
        "AUROC",
        "AUROC:",
        "ROC",
        "Reliability",
        "Precision,",
        "Confusion",
        "Risk",
        "Share",
        "Loss",
        "Posts",
    }
    assert "true positives" in text and "Least gain, over text_expert −0.012" in text and "Posts that" not in text
    assert "model AUROC ↑ macro-F1 ↑ accuracy ↑ Brier ↓ NLL ↓ ECE, debiased ↓ text_expert 0.600 → 0.610" in text
    assert "In-sample" not in text and "compare by the gain" in text
    figures, text = drawn(multiclass=True)
    assert figures == {"macro-F1", "Reliability", "Confusion", "Risk", "Loss"}
    assert "true positives" not in text and "rightly" in text
    figures, text = drawn(single=True)
    assert figures == {"AUROC", "AUROC:", "ROC", "Reliability", "Precision,", "Confusion", "Risk", "Posts"}
    assert "gain." not in text.replace("there is no gain to report.", "") and "mm_fusion" not in text
    _, text = drawn(in_sample=True)
    assert text.index("In-sample: there is no val split") < text.index("What was asked")


def test_ids_are_unique(page_of):
    ids = [value for _, name, value in Page(page_of()).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 5


def test_every_file_is_written_and_can_be_redrawn(fake_run):
    folder = fake_run()
    path = write_report(folder)
    report = Workspace.of(folder).report
    assert path == report / "index.html"
    first = {p.name: p.read_bytes() for p in report.rglob("*") if p.is_file()}
    names = (
        "intervals",
        "scores",
        "ranking",
        "reliability",
        "curve",
        "confusion",
        "risk",
        "slices",
        "robustness",
        "training",
    )
    drawn = {f"{name}.{ending}" for name in names for ending in ("png", "csv")}
    assert set(first) == {"index.html", "report.json", "report.md"} | drawn
    assert all(first[name].startswith(b"\x89PNG" if name.endswith("png") else b"") for name in drawn)
    assert first["robustness.csv"].splitlines()[1:] == [
        b"text: word drop,5,0.1,0.05,0.2,,-0.1,-0.1,",
        b"text: homoglyphs,5,0.02,0.01,0.04,0.3,-0.1,-0.1,",
    ]
    assert b"precision_recall,mm_fusion,,0.3,0.6" in first["ranking.csv"]
    assert read_json(report / "report.json") == findings(folder)
    write_report(folder)
    assert {p.name: p.read_bytes() for p in report.rglob("*") if p.is_file()} == first


def test_a_run_without_errors_says_so(fake_run):
    facts = findings(fake_run())
    facts["errors"] = {**facts["errors"], "n": 0, "worst": []}
    assert "None on test." in Page(to_html(facts, {})).text


def test_a_threshold_that_was_set_by_hand_is_told_so(fake_run):
    facts = findings(fake_run())
    assert "chosen on val by the best F1; counts on test" in Page(to_html(facts, {})).text
    facts["marks"]["rule"] = None
    assert "chosen on val; that of mm_fusion set by hand; counts on test" in Page(to_html(facts, {})).text
    assert "mm_fusion on val (60 rows); its threshold was set by hand: the" in draw_figures(facts)["curve"].caption


def test_undefined_figures_do_not_break_the_page(fake_run):
    facts = findings(fake_run())
    nothing = {"value": None, "low": None, "high": None}
    facts["headline"] |= nothing
    facts["gain"] |= {**nothing, "detectable": None}
    for said in facts["models"].values():
        said["raw"] = said["calibrated"] = dict.fromkeys(said["raw"], nothing)
    facts["baseline"]["metrics"] = dict.fromkeys(facts["baseline"]["metrics"], nothing)
    facts["reliability"] = {"before": [], "after": []}
    facts["roc"], facts["explorer"], facts["slices"], facts["fairness"] = {}, None, None, None
    assert "n/a" in Page(to_html(facts, draw_figures(facts))).text


def test_pictures_of_errors_are_embedded(fake_run):
    folder = fake_run()
    pictures = Workspace.of(folder).report / "pictures"
    pictures.mkdir(parents=True)
    (pictures / "0.jpg").write_bytes(b"\xff\xd8not really")
    write_json(pictures / "index.json", {"p0": "0.jpg", "p2": "gone.jpg"})
    page = write_report(folder).read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 1


def test_the_labs_verdict_is_told_where_there_is_one(fake_run):
    folder = fake_run()
    assert "verdict" not in write_report(folder).read_text().partition("What this page cannot know")[0]
    write_json(Workspace.of(folder).lab_results, {"verdict": {"sentence": "not worth it: <b> the gain"}})
    page = write_report(folder).read_text()
    assert "The lab&#39;s verdict on this Evidence: not worth it: &lt;b&gt; the gain." in page
    assert "without a verdict" not in page
