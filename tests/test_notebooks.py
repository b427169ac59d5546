"""The notebooks run, as `jupyter nbconvert --execute` runs them, and their files bear no output."""

import ast
import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbconvert.preprocessors import ExecutePreprocessor

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICKEST = "step8_inference"
LINES = 15
"""A longer cell holds logic, which belongs in the package."""
SECONDS = 600
"""For one cell; a whole notebook takes under two minutes on two cores."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Where the notebooks make their runs, each going on with what those before it have made."""
    return tmp_path_factory.mktemp("runs")


def executed(name, runs, monkeypatch, **named):
    """Every output of a notebook, by what it is: MIME type -> contents; ``named``: what its names stand for here."""
    monkeypatch.setenv("BIFOCAL_RUNS", str(runs))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    for one, value in named.items():
        (cell,) = (cell for cell in notebook.cells if re.search(rf"^{one} = ", cell.source, flags=re.MULTILINE))
        cell.source = re.sub(rf"^{one} = .*$", f"{one} = {value!r}", cell.source, flags=re.MULTILINE)
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    ExecutePreprocessor(timeout=SECONDS).preprocess(notebook, where)
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output["text"]  # a warning is nothing to teach
            for kind, content in output.get("data", {}).items():
                found.setdefault(kind, []).append(content)
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_it_takes_from_the_package_is_there(path):
    """Names are looked up in seconds; `test_the_others_run` takes minutes."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    tree, modules = ast.parse("\n".join(cells)), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "bifocal":
            module = importlib.import_module(node.module)
            for alias in node.names:
                found = getattr(module, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
                if isinstance(found, ModuleType):
                    modules[alias.asname or alias.name] = found
    used = [
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    ]
    assert [f"{name}.{attribute}" for name, attribute in used if not hasattr(modules[name], attribute)] == []


def test_there_is_one_for_each_step_that_is_worth_walking_through():
    steps = ["step4_unimodal_experts", "step5_fusion", "step7_analysis", "step8_inference"]
    assert [path.stem for path in NOTEBOOKS] == steps


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_file_is_valid_short_and_holds_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            assert 0 < len(cell.source.splitlines()) <= LINES
            assert not re.search(r"^(?:def |class |%|!)", cell.source, flags=re.MULTILINE), "logic, or another language"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}  # nothing of the machine it was written on


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_names_no_place_outside_the_project(path):
    source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    assert not re.search(r"(?<![\w.])(?:/\w|~/|[A-Z]:\\|\.\./)", source)
    assert "BIFOCAL_RUNS" in source and "pyproject.toml" in source


@pytest.mark.parametrize("made", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["finished", "nothing"])
def test_the_quickest_decides_by_a_finished_run_or_from_nothing(runs, made, pilot, monkeypatch):
    if made:
        runs = pilot / "runs"
    found = executed(QUICKEST, runs, monkeypatch)
    assert (runs / "pilot" / "report" / "index.html").is_file()
    decision = next(text for text in found["text/plain"] if "prob_hate" in text)
    assert "'label'" in decision and (made or "[OCR]" in decision)  # the finished one reads no words
    assert any("missing.png" in table for table in found["text/html"])  # the row that cannot be used says why
    assert any("srcdoc" in page and "What each part adds" in page for page in found["text/html"])
    assert found["image/png"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS if path.stem != QUICKEST])
def test_the_others_run(name, runs, monkeypatch):
    found = executed(name, runs, monkeypatch)
    assert found["image/png"] and found["text/html"]
    if name.startswith("step4"):
        steps = json.loads((runs / "step4" / "run.json").read_text())["steps"]
        assert all(len(epochs) > 1 for epochs in steps["experts"]["history"].values())
    if name.startswith("step5"):  # the fusion built here is the one that the run has saved
        assert any("'the one that was saved': True" in text for text in found["text/plain"])
    if name.startswith("step7"):
        assert (runs / "pilot" / "robustness_pilot.json").is_file()


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Where the pilot lies as a run of several labels."""
    import bifocal
    from bifocal.config import load_config

    structures = "{abuse_hate: and, offensive: unique_text, target_type: unique_image}"
    config = load_config(
        ROOT / "configs" / "pilot.yaml",
        [
            "run=several", "limit=null", "ocr=never", "splits={val: 0.2, test: 0.2}", "label=null",
            "decide={on: val}",
            "labels=[abuse_hate, {offensive: {act: review}}, {target_type: {requires: offensive, act: none}}]",
            f"source={{kind: synthetic, size: 400, structures: {structures}}}",
        ],
    )  # fmt: skip
    place = tmp_path_factory.mktemp("several")
    bifocal.run(config, root=place)
    return place


@pytest.mark.slow
def test_those_that_read_a_run_tell_of_each_label(several, monkeypatch):
    labels = ("abuse_hate", "offensive", "target_type")
    analysed = executed("step7_analysis", several, monkeypatch, RUN="several", LABEL="offensive")
    assert any(all(name in table for name in labels) for table in analysed["text/html"])
    assert (several / "several" / "robustness_several.offensive.json").is_file()
    fused = executed("step5_fusion", several, monkeypatch, RUN="several")
    assert any("'the one that was saved': True" in text for text in fused["text/plain"])
    decided = executed("step8_inference", several, monkeypatch, RUN="several")
    assert any(all(name in table for name in labels) and "threshold" in table for table in decided["text/html"])
