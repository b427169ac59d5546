"""Columns are cut as their values ask for, and a run's slices are those of its tested rows."""

import csv
import json

import numpy as np
import pytest

from bifocal.assess.run_data import RunData
from bifocal.assess.slices import EvaluatedRows, check_slices, cut, measure_parts, read_columns
from bifocal.config import SlicesConfig, parse_config
from bifocal.errors import ConfigError
from bifocal.example import BINARY, Label
from bifocal.pipeline.train import run
from bifocal.workspace import Workspace, read_json, read_jsonl


def sizes(found):
    return {name: int(rows.sum()) for name, rows in found.items()}


def test_values_become_slices_the_commonest_first():
    assert sizes(cut(["b", "a", None, "a", True, 2.50], 30)) == {"a": 2, "2.5": 1, "True": 1, "b": 1, "not given": 1}
    assert cut([], 30) == {}


def test_a_list_puts_its_row_into_several():
    found = cut([["x", "y"], ["y", "y"], [], None], 30)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "not given": [False, False, True, True],
        "y": [True, True, False, False],
        "x": [True, False, False, False],
    }


def test_of_many_values_the_rare_share_a_slice():
    values = [f"host {i}" for i in range(30) for _ in range(30 - i)]
    found = sizes(cut(values, 30))
    assert len(found) == 21 and next(iter(found)) == "host 0" and found["others"] == sum(range(1, 11))


def test_numbers_are_cut_into_bins_of_as_many_rows():
    numbers = np.random.default_rng(0).permutation(400)
    found = cut([*numbers.tolist(), None, "no text"], 30)
    assert sizes(found) == {"0 to 99": 100, "100 to 199": 100, "200 to 299": 100, "300 to 399": 100} | {
        "no text": 1, "not given": 1,
    }  # fmt: skip
    assert (numbers[found["100 to 199"][:400]] // 100 == 1).all()
    assert len(cut(list(range(130)), 30)) == 2 and len(cut(list(range(190)), 30)) == 3
    assert sizes(cut([1, 2, 3] * 50, 30)) == {"1": 50, "2": 50, "3": 50}  # as few as these are names


def test_heavy_ties_leave_fewer_bins_and_no_row_out():
    found = cut([0.0] * 300 + [float(i) for i in range(1, 41)], 30)
    assert sum(sizes(found).values()) == 340 and len(found) < 4


def test_bins_that_look_alike_are_told_apart():
    found = cut([0.99991 + i * 1e-7 for i in range(400)] + [123456.0], 30)
    assert sum(sizes(found).values()) == 401 and len(found) == 4
    assert list(found)[-1].endswith(" to 123456")


@pytest.fixture
def words(tmp_path):
    def write(text):
        path = tmp_path / "terms.txt"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_what_cannot_be_asked_is_refused_at_once(words):
    binary, several = Label(BINARY), Label(("a", "b", "c"))
    check_slices(SlicesConfig(rates_of="b"), several, ["text"])
    check_slices(SlicesConfig(terms=str(words("women"))), binary, ["text"])
    for config, label, modalities, message in (
        (SlicesConfig(rates_of="d"), several, ["text"], "rates_of = 'd' is no class .* known: a, b, c"),
        (SlicesConfig(rates_of=1), binary, ["text"], "a binary label has its two rates anyway"),
        (SlicesConfig(terms=str(words("women"))), binary, ["image"], "looked for in the part 'text'"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_slices(config, label, modalities)
    source = {"kind": "synthetic", "size": 10}
    with pytest.raises(ConfigError, match="give one of them"):
        parse_config({"run": "r", "source": source, "slices": {"terms": "t.txt", "groups": "target_type"}})
    with pytest.raises(ConfigError, match=r"unknown key 'slices.min_row'; did you mean 'min_rows'"):
        parse_config({"run": "r", "source": source, "slices": {"min_row": 50}})


@pytest.fixture
def finished(small_config, small_run):
    return RunData.configured(parse_config(small_config), Workspace.of(small_run))


def test_columns_are_read_from_meta_and_labels(finished):
    config = SlicesConfig(columns=["vocabulary", "cue_text"])
    columns = read_columns(finished.packed["test"], finished.taxonomy, config)
    test = finished.packed["test"]
    assert set(columns) == {"language", "source", "vocabulary", "cue_text"}
    assert columns["vocabulary"] == [test.meta(i)["vocabulary"] for i in range(len(test))]
    assert columns["cue_text"] == [test.record(i).labels["cue_text"] for i in range(len(test))]


@pytest.mark.parametrize("where", ["columns", "groups"])
def test_a_column_that_no_row_bears_is_an_error_with_the_nearest(finished, where):
    config = SlicesConfig(**{where: ["vocabullary"] if where == "columns" else "vocabullary"})
    with pytest.raises(ConfigError, match=r"bears a column 'vocabullary'; did you mean 'vocabulary'\?"):
        read_columns(finished.packed["test"], finished.taxonomy, config)
    with pytest.raises(ConfigError, match="bears a column 'facts'"):
        read_columns(finished.packed["test"], finished.taxonomy, SlicesConfig(columns=["facts"]))


def test_an_unknown_column_is_refused_before_anything_is_trained(small_config, tmp_path):
    config = {**small_config, "source": {"kind": "synthetic", "size": 40}, "slices": {"columns": ["vocabullary"]}}
    with pytest.raises(ConfigError, match="did you mean 'vocabulary'"):
        run(parse_config(config), root=tmp_path)
    assert not (tmp_path / "small" / "models").exists()


def test_a_run_measures_its_slices_with_nothing_set(small_run):
    space = Workspace.of(small_run)
    results = read_json(space.results)
    found = results["slices"]
    tested = results["models"]["mm_fusion"]["test"]["n"]
    by_column: dict[str, int] = {}
    for row in found["slices"]:
        by_column[row["column"]] = by_column.get(row["column"], 0) + row["n"]
    assert set(by_column) >= {"text_length", "presence", "agreement"}
    assert set(by_column.values()) == {tested}  # each column's slices hold every row once
    assert found["headline"] == "auroc" and found["min_rows"] == 30 and results["fairness"] is None
    with open(space.slices, newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(r["column"], r["slice"], int(r["n"])) for r in rows] == [
        (r["column"], r["slice"], r["n"]) for r in found["slices"]
    ]
    assert "NaN" not in json.dumps(found)


def asked(finished, **settings):
    """What `measure_parts` gives for a finished run with other settings."""
    from bifocal.decide.policy import Policy

    split = finished.packed["test"]
    texts = finished.texts("test")
    policy = Policy.load(finished.space.policy)
    clusters = dict.fromkeys(finished.predictions("test").groups, 1)
    rows = EvaluatedRows(split, finished.predictions("test"), texts, finished.taxonomy, finished.space.ocr, clusters)
    config = SlicesConfig(min_rows=10, **settings)
    return measure_parts(rows, policy, finished.models, config, resamples=50, seed=0).to_dict()


def test_what_is_asked_for_comes_beside_the_rest(finished, words):
    usual = {row["column"] for row in asked(finished)["slices"]["slices"]}
    found = asked(finished, columns=["cue_text", "structure"], terms=str(words("inside: the\nnothing: qqqq\n")))
    rows = {(row["column"], row["slice"]): row for row in found["slices"]["slices"]}
    assert {column for column, _ in rows} == usual | {"cue_text", "structure"}
    split = finished.packed["test"]
    for bit in (0, 1):
        expected = sum(split.record(i).labels["cue_text"] == bit for i in range(len(split)))
        assert rows["cue_text", str(bit)]["n"] == expected
    alone = [row for (column, _), row in rows.items() if column == "structure"]
    assert [row["note"] for row in alone] == ["all rows: nothing to compare with"]
    fairness = found["fairness"]
    assert fairness["by"].endswith("terms.txt")
    spoken = {g["group"]: g["n"] for g in fairness["groups"]}
    manifest = {row["id"]: row["parts"].get("text", "") for row in read_jsonl(finished.space.manifest)}
    assert spoken["inside"] == sum("the" in manifest[i].lower().split() for i in split.ids) and spoken["nothing"] == 0
    assert fairness["reference"]["n"] == len(split) - spoken["inside"]


def test_groups_come_from_a_column(finished):
    found = asked(finished, groups="cue_pair")["fairness"]
    assert found["by"] == "cue_pair"
    split = finished.packed["test"]
    values = [split.record(i).labels["cue_pair"] for i in range(len(split))]
    assert {g["group"]: g["n"] for g in found["groups"]} == {
        str(v): values.count(v) for v in set(values) if v not in (None, "none")
    }
    assert found["reference"]["n"] == sum(v in (None, "none") for v in values)
