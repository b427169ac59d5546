"""What a user asks of slices and groups is measured, row by row as counted, and what cannot be is told in one line."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from bifocal.assess.group_terms import mentions, read_terms
from bifocal.assess.predictions import Predictions
from bifocal.assess.slices import EvaluatedRows, check_slices, cut, measure_parts
from bifocal.config import SlicesConfig, parse_config
from bifocal.contracts import Reporter
from bifocal.decide.calibration_methods import Temperature
from bifocal.decide.policy import ModelPolicy, Policy
from bifocal.errors import ConfigError
from bifocal.example import LABELS, UNLABELLED, Label, Taxonomy
from bifocal.pipeline.train import STEPS, run
from bifocal.workspace import Workspace, read_json

TARGETS = LABELS["target_type"].classes


class Posts:
    """A split of posts made by hand: what `measure_parts` reads of one."""

    def __init__(self, labels, metas):
        self.ids = tuple(f"row{i}" for i in range(len(metas)))
        self.rows = [SimpleNamespace(labels=x, meta=meta) for x, meta in zip(labels, metas, strict=True)]

    def __len__(self):
        return len(self.rows)

    def record(self, row):
        return self.rows[row]


def measured(place, labels, flagged, *, metas=None, targets=None, texts=None, label="abuse_hate", experts=None,
             patterns=None, ocr=(), clusters=None, has=None, **settings):  # fmt: skip
    """`measure_parts` of a model that flags, or names, the classes given; ``experts`` name theirs."""
    n, kind = len(labels), LABELS[label]
    named = {**(experts or {}), "mm_fusion": flagged}
    logits = {model: np.log(np.eye(len(kind.classes))[np.asarray(c)] * 0.7 + 0.1) for model, c in named.items()}
    ids = tuple(f"row{i}" for i in range(n))
    here = {model: np.ones(n, bool) for model in named} | (has or {})
    said = Predictions(ids, ids, np.asarray(labels), logits, here, list(patterns or ["image+text"] * n))
    own = ModelPolicy(calibration=Temperature(temperature=1), threshold=0.5 if kind.binary else None)
    policy = Policy(
        run="r", label=label, classes=kind.classes, probability_key="prob", in_sample=False, approximate=True,
        versions={}, models=dict.fromkeys(named, own),
    )  # fmt: skip
    metas = [{"language": "en", **meta} for meta in (metas or [{}] * n)]
    split = Posts([{"target_type": target} for target in (targets or [None] * n)], metas)
    lines = [json.dumps({"id": f"row{i}", "confidence": confidence}) for i, confidence in ocr]
    (place / "ocr.jsonl").write_text("".join(f"{line}\n" for line in lines))
    texts, clusters = texts or [""] * n, clusters or dict.fromkeys(ids, 1)
    rows = EvaluatedRows(split, said, texts, Taxonomy(LABELS), place / "ocr.jsonl", clusters)
    config = SlicesConfig(**{"min_rows": 10, **settings})
    return measure_parts(rows, policy, list(named), config, resamples=20, seed=0).to_dict()


def sizes(found, column):
    return {row["slice"]: row["n"] for row in found["slices"]["slices"] if row["column"] == column}


HALF = [0, 1] * 40


def test_every_row_stands_in_the_slice_that_was_counted(tmp_path):
    texts = [f"[OCR] [/OCR] [CAP] {'x' * (i + 1)} [/CAP] <lang=en>" for i in range(79)] + [""]
    found = measured(
        tmp_path, HALF, HALF, texts=texts,
        metas=[{"language": ["en", "de"][i < 30], "source": ["a", "b"][i < 10]} for i in range(80)],
        experts={"text_expert": [0, 1] * 20 + [1, 0] * 20, "vision_expert": HALF},
        has={"text_expert": np.arange(80) < 60, "vision_expert": np.arange(80) < 70},
        patterns=["image+text"] * 60 + ["image"] * 19 + [""],
        ocr=[(i, None if i < 8 else i / 100) for i in range(70)],
        clusters={f"row{i}": 2 if i < 12 else 1 for i in range(80)},
    )  # fmt: skip
    assert sizes(found, "language") == {"de": 30, "en": 50} and sizes(found, "source") == {"a": 70, "b": 10}
    # Three bins of the 79 that have a text, its length without the tags.
    assert sizes(found, "text_length") == {"1 to 27": 27, "28 to 53": 26, "54 to 79": 26, "no text": 1}
    assert sizes(found, "ocr_confidence") == {
        "0.08 to 0.28": 21, "0.29 to 0.48": 20, "0.49 to 0.69": 21, "not read": 10, "no words found": 8,
    }  # fmt: skip
    assert sizes(found, "presence") == {"image+text": 60, "image": 19, "nothing": 1}
    # Rows 40 to 59: the text expert says otherwise; 60 to 69: two opinions, alike; 70 on: the fusion's alone.
    assert sizes(found, "agreement") == {"agree": 50, "differ": 20, "one opinion": 10}
    assert sizes(found, "near_duplicates") == {"alone": 68, "in a cluster": 12}
    assert found["fairness"] is None and not sizes(found, "target_type")


def test_target_types_are_groups_where_they_are_annotated(tmp_path):
    """Negative posts that attack a community are flagged, by 30 of 40; those that attack nobody, by 4 of 80."""
    labels = [0] * 40 + [1] * 20 + [0] * 80 + [1] * 20
    flagged = [1] * 30 + [0] * 10 + [1] * 20 + [1] * 4 + [0] * 76 + [1] * 20
    targets = ["community"] * 60 + ["none"] * 50 + [None] * 50
    found = measured(tmp_path, labels, flagged, targets=targets)
    assert sizes(found, "target_type") == {"community": 60, "none": 50, "not given": 50}
    fairness = found["fairness"]
    assert fairness["by"] == "target_type" and [g["group"] for g in fairness["groups"]] == ["community"]
    assert (fairness["reference"]["n"], fairness["reference"]["negatives"]) == (100, 80)
    largest = fairness["largest"]
    assert (largest["here"], largest["rest"], largest["significant"]) == (0.75, 0.05, True)


def test_a_column_of_lists_says_which_groups_a_post_speaks_of(tmp_path):
    metas = [{"about": [["women"], ["women", "migrants"], [], "None"][i % 4]} for i in range(80)]
    found = measured(tmp_path, HALF, HALF, metas=metas, groups="about")["fairness"]
    assert {g["group"]: g["n"] for g in found["groups"]} == {"women": 40, "migrants": 20}
    assert found["reference"]["n"] == 40
    nobody = measured(tmp_path, HALF, HALF, metas=[{"about": [None, "none"][i % 2]} for i in range(80)], groups="about")
    assert nobody["fairness"] is None


def test_a_word_that_raises_the_rate_of_false_positives_is_found(tmp_path):
    """40 harmless posts say "Quokka", 24 of them are flagged; of 120 others 6; "quokkas" is another word."""
    labels, flagged = [0] * 160 + [1] * 40, [1] * 24 + [0] * 16 + [1] * 6 + [0] * 114 + [1] * 40
    texts = [f"[OCR] {'a QUOKKA, here' if i < 40 else 'quokkas'} [/OCR] [CAP] [/CAP] <lang=en>" for i in range(200)]
    words = tmp_path / "words.txt"
    words.write_text("\ufeff# animals\nmarsupials: quokka, wombat\nquoll\n", encoding="utf-8")
    found = measured(tmp_path, labels, flagged, texts=texts, terms=str(words))["fairness"]
    assert found["by"] == str(words)
    assert {g["group"]: (g["n"], g["note"]) for g in found["groups"]} == {
        "marsupials": (40, "too few rows for auroc, fnr"),
        "quoll": (0, "no rows"),
    }
    largest = found["largest"]
    assert (largest["slice"], largest["here"], largest["rest"]) == ("marsupials", 0.6, 0.05)
    assert largest["significant"] and largest["low"] > 0.2


def test_of_several_classes_one_is_compared_where_it_is_named(tmp_path):
    labels = [TARGETS.index(name) for name in ("individual", "community")] * 40
    named = [TARGETS.index("individual")] * 40 + labels[40:]
    metas = [{"about": ["women", None][i >= 40]} for i in range(80)]
    asked = {"metas": metas, "label": "target_type", "groups": "about", "targets": [TARGETS[y] for y in labels]}
    found = measured(tmp_path, labels, named, rates_of="individual", columns=["about"], **asked)
    (women,) = found["fairness"]["groups"]
    assert women["negatives"] == 20 and women["differences"]["fpr"]["value"] == 1
    assert {"fpr", "fnr"} <= set(found["slices"]["slices"][0]["figures"])
    # The label itself says nothing of who is wronged by it, and is no slice.
    alone = measured(tmp_path, labels, named, rates_of="individual", **{**asked, "groups": None})
    assert alone["fairness"] is None and not sizes(alone, "target_type")


def test_rows_without_a_label_are_named_and_not_measured(tmp_path):
    labels = [0, 1] * 30 + [UNLABELLED] * 20
    metas = [{"source": "labelled" if i < 60 else "bare", "number": i} for i in range(80)]
    found = measured(tmp_path, labels, [0, 1] * 40, metas=metas, columns=["number"])
    rows = {(row["column"], row["slice"]): (row["n"], row["note"]) for row in found["slices"]["slices"]}
    assert rows["source", "labelled"] == (60, "all rows: nothing to compare with")
    assert rows["source", "bare"] == (0, "no rows")
    assert sum(sizes(found, "number").values()) == 60 and len(sizes(found, "number")) == 2
    json.dumps(found, allow_nan=False)
    nothing = measured(tmp_path, [UNLABELLED] * 80, HALF, metas=metas)
    assert nothing == {"slices": None, "fairness": None}


def test_slices_of_one_row_or_one_class_are_named_and_never_nan(tmp_path):
    metas = [{"who": "one" if i == 0 else "positive" if y else "negative"} for i, y in enumerate(HALF)]
    found = measured(tmp_path, HALF, HALF, metas=metas, columns=["who"])
    notes = {row["slice"]: row["note"] for row in found["slices"]["slices"]}
    assert notes["one"] == "too few rows"
    assert notes["positive"] == "too few rows for auroc, fpr" and notes["negative"] == "too few rows for auroc, fnr"
    json.dumps(found, allow_nan=False)


def test_the_rows_below_a_common_maximum_have_a_bin():
    found = cut([float(i) for i in range(40)] + [100.0] * 60, 30)
    assert {name: int(rows.sum()) for name, rows in found.items()} == {"0 to 39": 40, "100 to 100": 60}


def test_words_of_any_script_are_found_whole():
    texts = ["[OCR] ÉLAN vital [/OCR]", "[CAP] élans [/CAP]", "москвич", "москвичи", "a.b", "axb", "x  y", "xy"]
    terms = {"french": ["élan"], "russian": ["москвич"], "dots": ["a.b"], "two": ["x y"]}
    found = mentions([" ".join(text.split()) for text in texts], terms)
    assert {group: np.flatnonzero(rows).tolist() for group, rows in found.items()} == {
        "french": [0], "russian": [2], "dots": [4], "two": [6],
    }  # fmt: skip


def test_a_byte_order_mark_is_no_matter_and_a_group_may_go_on(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("women: she\r\n\r\n women : HER\r\nelders\r\n".encode("utf-8-sig"))
    assert read_terms(path) == {"women": ["she", "her"], "elders": ["elders"]}


@pytest.mark.parametrize("how", ["terms", "groups"])
def test_groups_of_several_classes_without_one_to_compare_are_refused(tmp_path, how):
    (tmp_path / "words.txt").write_text("women\n")
    config = SlicesConfig(**{how: str(tmp_path / "words.txt")})
    with pytest.raises(ConfigError, match=rf"slices.{how} compares error rates.* one of a, b, c in slices.rates_of"):
        check_slices(config, Label(("a", "b", "c")), ["text"])
    check_slices(SlicesConfig(**{how: str(tmp_path / "words.txt"), "rates_of": "b"}), Label(("a", "b", "c")), ["text"])


class Diary(Reporter):
    def __init__(self):
        self.performed = []

    def step(self, name, skipped):
        if not skipped:
            self.performed.append(name)


def test_a_run_measures_what_it_is_asked_and_again_where_the_words_change(small_config, small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "small")
    words = tmp_path / "words.txt"
    words.write_text("articles: the, a\nnobody: qqqq\n")
    content = {**small_config, "slices": {"columns": ["cue_text", "vocabulary"], "terms": str(words), "min_rows": 10}}

    def performed():
        diary = Diary()
        run(parse_config(content), root=tmp_path, reporter=diary)
        return diary.performed

    after = list(STEPS)[list(STEPS).index("evaluate") :]
    assert performed() == after and performed() == []
    space = Workspace.of(tmp_path / "small")
    found = read_json(space.results)
    with open(space.slices, newline="") as f:
        rows = list(csv.DictReader(f))
    assert {row["slice"] for row in rows if row["column"] == "cue_text"} == {"0", "1"}
    assert [row["slice"] for row in rows] == [row["slice"] for row in found["slices"]["slices"]]
    for row, measured_row in zip(rows, found["slices"]["slices"], strict=True):
        assert row["note"] == (measured_row["note"] or "")
        assert row["fpr"] == ("" if (figure := measured_row["figures"]["fpr"]) is None else repr(figure["value"]))
    assert [g["group"] for g in found["fairness"]["groups"]] == ["articles", "nobody"]
    report = (space.report / "report.md").read_text()
    assert (
        "## Slices" in report and "## Groups" in report and "| nobody | 0 |" in report and "nan" not in report.lower()
    )
    words.write_text("articles: the, a\nsomebody: qqqq\n")
    assert performed() == after
    assert [g["group"] for g in read_json(space.results)["fairness"]["groups"]] == ["articles", "somebody"]
    words.write_text("# none\n")
    with pytest.raises(ConfigError, match="holds no terms"):
        performed()
