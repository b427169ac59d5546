"""The preprocessing of records: what it infers, that it knows the training rows only, and what it refuses."""

import json

import numpy as np
import pytest
from scipy.stats import norm

from bifocal.config import ExpertConfig
from bifocal.errors import ConfigError, DataError, ModelError
from bifocal.models.tabular import (
    KNOWN,
    MISSING,
    RARE,
    UNSEEN,
    TabularOptions,
    TabularProcessor,
    as_category,
    parse_date,
    refuse_transformer_settings,
)


def rows(n=60):
    """``n`` records with a column of every sort."""
    return [
        {
            "area": 10.0 + i,
            "floor": str(i % 7),
            "opened": f"2019-{1 + i % 12:02d}-{1 + i % 28:02d}",
            "town": "Bree" if i % 3 else "Dale",
            "lift": bool(i % 2),
            "note": f"free text {i}",
            "country": "Eriador",
            "empty": None,
            "gaps": 1.5 * i if i % 4 else None,
        }
        for i in range(n)
    ]


def fit(values=None, **options):
    return TabularProcessor.fit(rows() if values is None else values, TabularOptions(**options))


def test_kinds_are_inferred_and_idle_columns_named():
    found = fit()
    assert found.kinds == {
        "area": "number",
        "floor": "number",
        "opened": "date",
        "town": "category",
        "lift": "category",
        "gaps": "number",
    }
    assert found.dropped == {
        "note": "no value stands in 5 training rows",
        "country": "the same in every training row",
        "empty": "no number in 60 training rows",
    }
    assert found.known == {"town": ["Bree", "Dale"], "lift": ["false", "true"]}
    assert found.number_names == ["area", "floor", "opened (day)", "opened (month)", "opened (weekday)", "gaps"]
    assert found.cardinalities == [KNOWN + 2, KNOWN + 2]


def test_options_say_what_a_column_holds():
    found = fit(categories=["floor"], numbers=["note"], dates=["area"])
    assert found.kinds["floor"] == "category"
    assert found.known["floor"][0] == "0"
    assert found.dropped["note"] == "no number in 60 training rows"
    assert found.dropped["area"] == "no date in 60 training rows"


def test_a_column_that_only_tells_missing_from_there_is_kept():
    values = [{"a": "x" if i % 2 else None, "b": 1 if i % 2 else None} for i in range(20)]
    assert fit(values).kinds == {"a": "category", "b": "number"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"numbers": ["aera"]}, r"options.numbers names 'aera', a column no row has; did you mean 'area'"),
        ({"dates": ["none"]}, "options.dates names 'none'"),
    ],
)
def test_options_on_unknown_columns_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        fit(**options)


def test_a_column_cannot_be_of_two_kinds():
    with pytest.raises(ValueError, match="'area' is named twice"):
        TabularOptions(numbers=["area"], categories=["area"])


@pytest.mark.parametrize("values", [[{}] * 9, [{"a": 1}] * 9, [{"a": str(i) + "x"} for i in range(9)]])
def test_records_that_tell_nothing_apart_are_refused(values):
    with pytest.raises(DataError, match="no tabular column tells the 9 training rows apart"):
        fit(values)


def test_categories_missing_unseen_rare_and_known_are_told_apart():
    values = [{"town": name} for name in ["Bree"] * 6 + ["Dale"] * 5 + ["Esgaroth"] * 4 + [None]]
    found = fit(values)
    asked = [{"town": name} for name in ("Bree", "Dale", "Esgaroth", "Minas Tirith", None)] + [{}]
    _, categories = found.transform(asked)
    assert categories[:, 0].tolist() == [KNOWN, KNOWN + 1, RARE, UNSEEN, MISSING, MISSING]
    assert categories.dtype == np.int64
    assert "Esgaroth" not in json.dumps(found.state())


def test_the_most_frequent_categories_are_kept():
    values = [{"c": f"v{i}"} for i in range(6) for _ in range(10 + i)]
    assert fit(values, max_categories=2).known == {"c": ["v5", "v4"]}


def test_one_category_in_several_spellings():
    assert {as_category(cell) for cell in (3, 3.0, "3")} == {"3"}
    assert {as_category(cell) for cell in (True, "True", "true", "TRUE")} == {"true"}
    assert as_category(2.5) == "2.5"
    assert as_category("Bree") == "Bree"


@pytest.mark.parametrize("cell", ["2019-05-21", "2019/5/21", "2019.05.21", "2019-05-21T10:00:00Z", "2019-05-21 10:00"])
def test_dates_are_read(cell):
    assert parse_date(cell).isoformat() == "2019-05-21"


@pytest.mark.parametrize("cell", ["2019-13-01", "21.05.2019", "2019-05", "20190521", "2019-05-21x", 2019, True, None])
def test_what_is_no_date(cell):
    assert parse_date(cell) is None


def test_numbers_are_standardised_by_the_training_rows():
    found = fit(scaling="standard")
    area = np.arange(60) + 10.0
    numbers, _ = found.transform([{"area": 10.0}, {"area": 39.5}, {"area": 1e12}, {"area": -1e12}])
    assert numbers.dtype == np.float32
    np.testing.assert_allclose(numbers[:, 0], [(10 - area.mean()) / area.std(), 0, 10, -10], atol=1e-6)


def test_quantiles_follow_a_normal_distribution_whatever_the_column():
    skewed = [{"a": float(np.exp(i / 40))} for i in range(400)]
    numbers, _ = fit(skewed).transform(skewed)
    expected = np.clip(norm.ppf(np.arange(400) / 399), -3, 3)
    np.testing.assert_allclose(numbers[:, 0], expected, atol=0.02)
    outside, _ = fit(skewed).transform([{"a": -1e300}, {"a": 1e300}])
    assert outside[:, 0].tolist() == [-3, 3]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scaling", ["quantile", "standard"])
def test_numbers_of_any_size_stay_finite(scaling):
    found = fit([{"a": 1.7e308 * (-1) ** i, "b": float(i)} for i in range(40)], scaling=scaling)
    numbers, _ = found.transform([{"a": 1e308, "b": 1e308}, {"a": -1e308, "b": -1e308}])
    assert (numbers[0] > 0).all()
    assert (numbers[1] < 0).all()


def test_dates_become_day_month_and_weekday():
    days = [{"d": f"2019-01-{day:02d}"} for day in range(1, 32)]
    found = fit(days, scaling="standard")
    numbers, _ = found.transform(days)
    assert (np.diff(numbers[:, 0]) > 0).all()
    assert numbers[:, 1].tolist() == [0] * 31  # all January
    assert numbers[0, 2] == numbers[7, 2] != numbers[1, 2]


@pytest.mark.parametrize("scaling", ["quantile", "standard"])
def test_what_cannot_be_read_counts_as_missing(scaling):
    numbers, categories = fit(scaling=scaling).transform([{"area": "wide", "opened": "soon", "gaps": True}, {}])
    assert np.isnan(numbers).all()
    assert (categories == MISSING).all()


def test_nothing_is_learned_from_other_rows():
    found = fit()
    before = json.dumps(found.state())
    found.transform([{"area": 1e9, "town": "Minas Tirith", "opened": "2030-01-01", "new": 1}])
    assert json.dumps(found.state()) == before
    assert "Minas Tirith" not in before


@pytest.mark.parametrize("scaling", ["quantile", "standard"])
def test_it_survives_saving_exactly(tmp_path, scaling):
    found = fit(scaling=scaling)
    found.save_pretrained(tmp_path)
    again = TabularProcessor.from_pretrained(tmp_path)
    assert again.state() == found.state()
    for ours, theirs in zip(found.transform(rows()), again.transform(rows()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_tables_of_one_sort_only():
    numbers, categories = fit([{"a": i} for i in range(9)]).transform([{"a": 1}])
    assert (numbers.shape, categories.shape) == ((1, 1), (1, 0))
    numbers, categories = fit([{"a": "x" if i % 2 else "y"} for i in range(12)]).transform([{"a": "x"}])
    assert (numbers.shape, categories.shape) == ((1, 0), (1, 1))


def test_no_rows_give_no_rows():
    numbers, categories = fit().transform([])
    assert (numbers.shape, categories.shape) == ((0, 6), (0, 2))


def test_a_row_alone_is_read_as_among_others():
    found = fit()
    together = found.transform(rows())
    for i, row in enumerate(rows()):
        for one, all_rows in zip(found.transform([row]), together, strict=True):
            np.testing.assert_array_equal(one[0], all_rows[i])


def test_a_served_record_may_lack_columns_and_hold_new_categories():
    found = fit()
    for value in ({}, {"area": None}, {"area": "12.5"}, {"town": "Minas Tirith"}, {"town": 3}, {"note": 7}):
        found.check(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"aera": 12}, "column 'aera' is none that the expert was trained on; did you mean 'area'"),
        ({"area": "wide"}, "'area' holds numbers, found 'wide': give a number, or null"),
        ({"area": True}, "'area' holds numbers, found 'True'"),
        ({"opened": "in May"}, "'opened' holds dates, found 'in May': give a date such as 2019-05-21"),
        ({"opened": 2019}, "'opened' holds dates, found '2019'"),
        ({"area": "x" * 5000}, "found 'x{50}':"),
    ],
)
def test_a_served_record_that_training_cannot_have_meant_is_refused(value, words):
    with pytest.raises(DataError, match=words) as error:
        fit().check(value)
    assert "\n" not in str(error.value)


def test_another_file_is_no_preprocessing(tmp_path):
    (tmp_path / "preprocessing.json").write_text('{"kinds": {}}', encoding="utf-8")
    with pytest.raises(ModelError, match="no preprocessing of Bifocal's"):
        TabularProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 3}, "experts.tabular.epochs .* set experts.tabular.options.epochs"),
        ({"warmup": 0.2}, "experts.tabular.warmup .* leave it out"),
        ({"pooling": "mean"}, "experts.tabular.pooling"),
        ({"model": "minilm"}, "model = 'minilm': a tabular encoder is made anew; leave it out"),
    ],
)
def test_settings_of_transformers_are_refused_instead_of_ignored(changes, words):
    with pytest.raises(ConfigError, match=words):
        refuse_transformer_settings(ExpertConfig(**changes), {"epochs"}, "tabular")


def test_the_default_settings_pass():
    refuse_transformer_settings(ExpertConfig(), (), "tabular")
    refuse_transformer_settings(ExpertConfig(model="tiny", tune="full", report_to=[]), (), "tabular")


def prices(n=200):
    """Euro as they are written, three of them unknown."""
    return [{"price": "unknown" if i in (3, 50, 90) else f"{i + 0.5:.2f} €".replace(".", ",")} for i in range(n)]


def test_a_few_odd_cells_do_not_cost_the_column():
    found = fit(prices())
    assert found.kinds == {"price": "number"} and found.dropped == {}
    numbers, _ = found.transform([*prices()[:5], {"price": 4.5}, {"price": "4,5"}])
    assert np.isnan(numbers[3, 0]) and np.isfinite(np.delete(numbers, 3)).all()
    assert numbers[4, 0] == numbers[5, 0] == numbers[6, 0]
    assert found.notes() == [
        "column price: numbers; 3 of 200 cells are none, taken as missing; written with a decimal comma; signs: € 197"
    ]


def test_what_was_inferred_is_saved_and_served_by(tmp_path):
    fit(prices()).save_pretrained(tmp_path)
    assert "unknown" not in (tmp_path / "preprocessing.json").read_text(encoding="utf-8")
    again = TabularProcessor.from_pretrained(tmp_path)
    again.check({"price": "unknown"})  # as in training, it is missing
    again.check({"price": "1.234,50 €"})
    with pytest.raises(DataError, match=r"'price' holds numbers, found '12.5': give a number such as 1234,5, or null"):
        again.check({"price": "12.5"})
    with pytest.raises(DataError, match="found 'ask'"):
        again.check({"price": "ask"})
    numbers, _ = again.transform([{"price": "unknown"}, {"price": "0,50 €"}])
    np.testing.assert_array_equal(numbers, fit(prices()).transform([{"price": None}, {"price": 0.5}])[0])


def test_yes_and_no_are_one_category_each_and_others_unseen():
    found = fit([{"paid": word} for word in ["yes", "No", "Y", "FALSE"] * 40 + ["maybe"]])
    assert sorted(found.known["paid"]) == ["false", "true"] and found.rare == {"paid": []}
    _, categories = found.transform([{"paid": cell} for cell in ("YES", True, "no", "maybe", "perhaps", None)])
    yes, no = KNOWN + found.known["paid"].index("true"), KNOWN + found.known["paid"].index("false")
    assert categories[:, 0].tolist() == [yes, yes, no, MISSING, UNSEEN, MISSING]


def test_a_column_that_reads_two_ways_is_refused_by_name():
    values = [{"price": f"{i},{i}"} for i in range(100, 150)]
    with pytest.raises(ConfigError, match=r"'price': '100,100' reads two ways.*options.decimal: \{price: "):
        fit(values)
    dot, comma = (fit(values, decimal={"price": mark}).transform(values)[0] for mark in (".", ","))
    np.testing.assert_array_equal(dot, comma)  # ranks, so they are the same; what is served then is not
    assert fit(values, categories=["price"], min_count=1).kinds == {"price": "category"}
    with pytest.raises(ConfigError, match="options.decimal names 'prise', a column no row has; did you mean 'price'"):
        fit(values, decimal={"prise": "."})
    with pytest.raises(ValueError, match="'a' has decimal, which is for numbers"):
        TabularOptions(decimal={"a": ","}, dates=["a"])


def test_a_model_saved_before_columns_were_read_reads_as_it_did(tmp_path):
    found = fit()
    old = {key: value for key, value in found.state().items() if key not in ("columns", "odd")}
    (tmp_path / "preprocessing.json").write_text(json.dumps(old), encoding="utf-8")
    again = TabularProcessor.from_pretrained(tmp_path)
    assert again.state() == old and again.notes() == []
    for ours, theirs in zip(found.transform(rows()), again.transform(rows()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(DataError, match="found '12,5'"):
        again.check({"area": "12,5"})
