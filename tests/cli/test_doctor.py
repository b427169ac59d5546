from bifocal.cli.doctor import examine


def test_cached_models_and_runs_are_listed(tmp_path, monkeypatch):
    (tmp_path / "cache" / "models--google--siglip-base-patch16-384").mkdir(parents=True)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "run.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    found = examine(tmp_path / "runs")
    assert found["models"] == ["google/siglip-base-patch16-384"]
    assert found["runs"] == ["demo"]
    assert found["versions"]["torch"] and found["accelerator"]


def test_a_missing_extra_comes_with_its_pip_command(tmp_path, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr("bifocal.cli.doctor.util.find_spec", lambda name: None if name == "rapidocr" else real(name))
    assert examine(tmp_path)["missing_extras"] == {"ocr": "pip install 'bifocal[ocr]'"}
