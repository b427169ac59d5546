import pytest

from bifocal.errors import ConfigError
from bifocal.transcribe import _ocr_models as ocr_models
from bifocal.transcribe._ocr_models import recognisers


def test_one_model_reads_many_languages():
    for languages in (None, ["en"], ["de", "zh", "ja", "latin"], ["zh_TW"]):
        assert [model.name for model in recognisers(languages)] == ["PP-OCRv6_rec_small"]


@pytest.mark.parametrize(
    ("language", "model"),
    [
        ("ru", "eslav_PP-OCRv5_rec_mobile"),
        ("bg", "cyrillic_PP-OCRv5_rec_mobile"),
        ("cyrillic", "cyrillic_PP-OCRv5_rec_mobile"),
        ("ar", "arabic_PP-OCRv5_rec_mobile"),
        ("hi", "devanagari_PP-OCRv5_rec_mobile"),
        ("ko", "korean_PP-OCRv5_rec_mobile"),
        ("th", "th_PP-OCRv5_rec_mobile"),
        ("el", "el_PP-OCRv5_rec_mobile"),
    ],
)
def test_a_model_that_is_not_here_is_named_with_where_to_get_it(tmp_path, monkeypatch, language, model):
    monkeypatch.setattr(ocr_models, "folder", lambda: tmp_path)
    with pytest.raises(ConfigError) as error:
        recognisers([language])
    message = str(error.value)
    assert f"{language!r} is read by RapidOCR's {model}, which is not on this machine" in message
    assert f"curl -L -o '{tmp_path / model}.onnx' https://" in message
    assert f"{model}.onnx (SHA-256 " in message


@pytest.mark.parametrize("language", ["he", "klingon", ""])
def test_a_language_that_nothing_reads_is_refused_with_those_that_are(language):
    with pytest.raises(ConfigError, match=r"has no model that reads .*; it has them for .*arabic.*, zh"):
        recognisers([language])


def test_the_first_model_that_is_here_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(ocr_models, "folder", lambda: tmp_path)
    (tmp_path / "cyrillic_PP-OCRv3_rec_mobile.onnx").touch()
    assert [model.name for model in recognisers(["ru", "uk"])] == ["cyrillic_PP-OCRv3_rec_mobile"]
    (tmp_path / "eslav_PP-OCRv5_rec_mobile.onnx").touch()
    assert [model.name for model in recognisers(["ru", "bg"])] == [
        "eslav_PP-OCRv5_rec_mobile",
        "cyrillic_PP-OCRv3_rec_mobile",
    ]
