import inspect

import pytest

from bifocal import errors


def test_every_error_is_a_bifocal_error_and_stands_in_the_drawing():
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
    assert len(classes) > 5
    for error in classes:
        assert issubclass(error, errors.BifocalError)
        assert error.__name__ in errors.__doc__


def test_nearest_names_the_closest_and_all_that_is_known():
    assert errors.nearest("stackin", ["stacking", "mean"]) == "did you mean 'stacking'? known: mean, stacking"
    assert errors.nearest("zzz", ["mean"]) == "known: mean"
    assert errors.nearest("zzz", []) == "known: none"


def test_of_many_names_the_closest_are_listed():
    many = [f"column {i}" for i in range(190)] + ["price"]
    said = errors.nearest("prise", many)
    assert said.startswith("did you mean 'price'? known: price, column ")
    assert said.endswith(", … and 181 more") and said.count(",") == 10 and len(said) < 200
    assert errors.nearest("Column 7", many).startswith("did you mean 'column 7'? known: column 7, ")
    assert "more" not in errors.nearest("prise", many[-10:])


def test_missing_extra_prints_the_pip_command():
    with pytest.raises(errors.MissingExtra, match=r"pip install 'bifocal\[ocr\]'"), errors.extras_named():
        raise ModuleNotFoundError("No module named 'rapidocr'", name="rapidocr")


def test_an_import_error_that_is_no_extra_passes_unchanged():
    with pytest.raises(ModuleNotFoundError, match="antigravity2"), errors.extras_named():
        raise ModuleNotFoundError("No module named 'antigravity2'", name="antigravity2")
