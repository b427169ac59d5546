import subprocess
import sys

import pytest

import bifocal


def test_public_names_are_exactly_these():
    assert bifocal.__all__ == [
        "AsyncClient",
        "Client",
        "Decision",
        "RunConfig",
        "System",
        "__version__",
        "errors",
        "load",
        "run",
    ]
    for name in bifocal.__all__:
        assert getattr(bifocal, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = bifocal.nothing


def test_names_that_others_build_on():
    from bifocal.decide.calibration import fit_temperature
    from bifocal.errors import BifocalError
    from bifocal.evaluate.metrics import accuracy, auprc, auroc, brier, ece, macro_f1, nll

    assert issubclass(BifocalError, Exception)
    assert all(map(callable, (accuracy, macro_f1, auroc, auprc, brier, ece, nll, fit_temperature)))


def test_import_is_light():
    code = "import sys, bifocal; assert not {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
