"""The outside of Bifocal, which moving code about leaves alone: names, signatures, options, paths, files and bytes.

Nothing is imported here but what stays where it is: `bifocal` itself, `bifocal.__main__` with its ``app``, and the
public functions that other programs build on.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
import subprocess
import sys
import tarfile

import pytest
from tests.compatibility.snapshots import (
    APART,
    Form,
    as_text,
    check,
    file_names,
    form_of,
    on_a_quiet_terminal,
    without_hashes,
)

import bifocal

FUNCTIONS = {
    "evaluate.metrics": ("accuracy", "macro_f1", "auroc", "auprc", "brier", "ece", "nll"),
    "decide.calibration": ("fit_temperature",),
    "decide.conformal": ("split_quantile", "risk_threshold"),
    "diagnose.dominance": ("shapley", "perceptual_score", "conditional_utilization"),
    "diagnose.interaction": ("emap", "pid", "confounder_accuracy"),
}


class Written(str):
    """An annotation that a signature shows as it was written, without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def signature(function) -> str:
    """Names, kinds, defaults and annotations as they are written, without the modules that these come from."""

    def named(annotation):
        if annotation is inspect.Signature.empty:
            return annotation
        return Written(annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation)))

    found = inspect.signature(function)
    parameters = [p.replace(annotation=named(p.annotation)) for p in found.parameters.values()]
    return str(found.replace(parameters=parameters, return_annotation=named(found.return_annotation)))


def methods(of, *more) -> dict[str, str]:
    """Public attributes of a class, and those named beside them -> signature, or what else it is."""
    found = {}
    for name, value in sorted(inspect.getmembers_static(of)):
        if name.startswith("_") and name not in more:
            continue
        if isinstance(value, classmethod):
            found[name] = "classmethod " + signature(value.__func__)
        elif isinstance(value, property):
            found[name] = "property" + signature(value.fget).partition(")")[2]
        elif callable(value):
            found[name] = ("async " if inspect.iscoroutinefunction(value) else "") + signature(value)
    return found


# Names and signatures -----------------------------------------------------------------------------


def test_names_of_the_package(snapshot):
    assert all(hasattr(bifocal, name) for name in bifocal.__all__)
    errors = {
        name: [base.__name__ for base in of.__bases__]
        for name, of in sorted(vars(bifocal.errors).items())
        if inspect.isclass(of) and issubclass(of, Exception)
    }
    found = {
        "bifocal": sorted(bifocal.__all__),
        "functions": {name: signature(getattr(bifocal, name)) for name in ("load", "run")},
        "System": methods(bifocal.System),  # not how it is made: that is what `load` is for
        "Client": methods(bifocal.Client, "__init__", "__enter__", "__exit__"),
        "AsyncClient": methods(bifocal.AsyncClient, "__init__", "__aenter__", "__aexit__"),
        "Decision": {
            field.name: field.type
            + ("" if field.default is dataclasses.MISSING else f" = {field.default!r}")
            + (" (made)" if field.default_factory is not dataclasses.MISSING else "")
            for field in dataclasses.fields(bifocal.Decision)
        },
        "Decision methods": methods(bifocal.Decision),
        "errors": errors,
    }
    snapshot("names.json", found)


def test_functions_that_others_build_on(snapshot):
    found = {
        f"bifocal.{module}.{name}": signature(getattr(importlib.import_module(f"bifocal.{module}"), name))
        for module, names in FUNCTIONS.items()
        for name in names
    }
    from bifocal.diagnose.interaction import pid

    found["fields of what pid gives"] = list(pid([[[0.25, 0.0], [0.0, 0.25]], [[0.0, 0.25], [0.25, 0.0]]])._fields)
    snapshot("functions.json", found)


def test_the_form_of_a_configuration(snapshot):
    schema = bifocal.RunConfig.model_json_schema()
    assert "bifocal." not in json.dumps({**schema, "description": ""}), "a schema names no modules"
    snapshot("configuration.json", _without_descriptions(schema))


def _without_descriptions(content):
    """Words are no contract."""
    if isinstance(content, list):
        return [_without_descriptions(inner) for inner in content]
    if isinstance(content, dict):
        return {
            key: _without_descriptions(inner)
            for key, inner in sorted(content.items())
            if key not in ("description", "summary") or not isinstance(inner, str)
        }
    return content


# The command line ---------------------------------------------------------------------------------


def test_commands_and_their_options(snapshot):
    import typer

    from bifocal.__main__ import app, main

    assert callable(main)
    found: dict[str, list[str]] = {}

    def walk(command, name):
        found[name] = [_parameter(parameter) for parameter in command.params]
        for inner, sub in sorted(getattr(command, "commands", {}).items()):
            walk(sub, f"{name} {inner}")

    walk(typer.main.get_command(app), "bifocal")
    snapshot("commands.json", found)


def _parameter(parameter) -> str:
    annotation = parameter.type_descriptor.annotation
    kind = (
        annotation.__name__ if isinstance(annotation, type) and not getattr(annotation, "__args__", ()) else annotation
    )
    facts = [
        "/".join([*parameter.opts, *parameter.secondary_opts]) if parameter.param_type_name == "option" else "",
        f"metavar {parameter.metavar}" if parameter.metavar else "",
        f"of {kind}".replace("pathlib.", ""),
        "" if parameter.min is None else f"from {parameter.min}",
        "" if parameter.max is None else f"to {parameter.max}",
        "flag" if getattr(parameter, "is_flag", False) else "",
        "repeatable" if parameter.multiple or parameter.nargs == -1 else "",
        "required" if parameter.required else f"default {parameter.default}",
        f"environment {parameter.envvar}" if parameter.envvar else "",
    ]
    return f"{parameter.param_type_name} {parameter.name}: " + ", ".join(filter(None, facts))


def test_statuses_of_the_command_line(tmp_path):
    told = on_a_quiet_terminal("predict", "nowhere", "--text", "x", cwd=tmp_path)
    assert (told.returncode, told.stdout) == (2, "") and told.stderr.startswith("error: ")
    assert len(told.stderr.splitlines()) == 1


# The service --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(old, tmp_path_factory):
    """The address of a service of the old bundle, which starts soonest."""
    folder = tmp_path_factory.mktemp("service")
    words = ["serve", str(old("memes-onnx")), "--state", str(folder), "--port", "0", "--set", "models=1"]
    with open(folder / "errors.txt", "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "bifocal", *words], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        line = process.stdout.readline()
        assert " at http" in line, f"the service did not start: {line}{(folder / 'errors.txt').read_text()[-2000:]}"
        yield line.split(" at ")[1].strip()
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def test_the_service(service, snapshot, expected):
    import httpx

    with httpx.Client(base_url=service, timeout=300) as http:
        document = http.get("/openapi.json").json()
        paths = {
            f"{method.upper()} {path}": {
                "answers": sorted(facts["responses"]),
                "takes": sorted(facts.get("requestBody", {}).get("content", {})),
                "parameters": sorted(f"{p['name']} in {p['in']}" for p in facts.get("parameters", [])),
            }
            for path, methods_ in sorted(document["paths"].items())
            for method, facts in sorted(methods_.items())
        }
        snapshot("service_paths.json", paths)
        snapshot("openapi.json", _without_descriptions(document))
        discovery = json.dumps(http.get("/$discovery/rest").json()).replace(service, "<address>")
        snapshot("discovery.json", _without_descriptions(json.loads(discovery)))

        policy = http.get("/v1/policy").json()
        assert policy["version"] == expected["memes-onnx"]["policy"]
        post = expected["memes-onnx"]["decisions"][2]
        decision = http.post("/v1/predict", json=post["post"]).json()
        said = post["decision"]
        assert decision["versions"] == said["versions"] and decision["action"] == said["action"]
        many = http.post("/v1/predict/batch", json={"items": [post["post"], {}]}).json()
        moderation = http.post("/v1/moderations", json={"input": "a quiet word"}).json()
        asked = {"comment": {"text": "a quiet word"}, "requestedAttributes": {"TOXICITY": {}}, "languages": ["en"]}
        asked |= {"clientToken": "token", "spanAnnotations": True}
        analysis = http.post("/v1alpha1/comments:analyze", json=asked).json()
        error = http.post("/v1/predict", json={}).json()
        answers = {
            "policy": policy, "predict": decision, "batch": many, "moderations": moderation, "analyze": analysis,
            "error": error, "live": http.get("/v2/health/live").json(), "ready": http.get("/v2/health/ready").json(),
        }  # fmt: skip
        snapshot(
            "answers.txt", "\n\n".join(f"== {name}\n{Form.of(answer, many=100)}" for name, answer in answers.items())
        )
        figures = [line.split()[2:] for line in http.get("/metrics").text.splitlines() if line.startswith("# TYPE")]
        snapshot("metrics.json", sorted(" ".join(figure) for figure in figures))
        pages = {path: http.get(path).status_code for path in ("/moderate", "/moderate/login", "/moderate/queue")}
        snapshot("pages.json", pages)


# A run's files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small_run", "records_run", "small_bundle", "pilot"])
def test_files_and_their_forms(name, request, snapshot):
    folder = request.getfixturevalue(name)
    if name == "pilot":
        folder = folder / "runs" / "pilot"
    told = ["Files:", "", file_names(folder)]
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_relative_to(folder / "checkpoints") and (form := form_of(path)) is not None:
            told += ["", f"== {path.relative_to(folder)}", form]
    snapshot(f"files_of_{name}.txt", "\n".join(told))


MADE_OF_DATA = [
    "data_manifest.jsonl", "quarantine.jsonl", "ocr.jsonl", "label_taxonomy.json", "splits.json", "groups.json",
    "shards/train/shard-000000.tar", "shards/train/shard-000001.tar",
]  # fmt: skip
MADE_OF_FIGURES = [
    "results_pilot.json", "calibration_pilot.json", "thresholds_pilot.json", "policy_pilot.json", "errors_pilot.csv",
    "thresholds_curve_text_expert_pilot.csv", "thresholds_curve_vision_expert_pilot.csv",
    "thresholds_curve_mm_fusion_pilot.csv",
]  # fmt: skip


def test_bytes_that_no_training_decides(pilot, snapshot):
    folder = pilot / "runs" / "pilot"
    snapshot("bytes.json", {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MADE_OF_DATA})


def test_shards_bear_no_times_and_no_names_of_users(pilot):
    for path in sorted((pilot / "runs" / "pilot" / "shards").rglob("*.tar")):
        with tarfile.open(path) as tar:
            facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar.getmembers()}
        assert len(facts) == 1 and next(iter(facts))[0] == 0, facts


@pytest.mark.parametrize("name", MADE_OF_FIGURES)
def test_figures_of_the_pilot(name, pilot, snapshot):
    snapshot(f"pilot/{name}", without_hashes((pilot / "runs" / "pilot" / name).read_text()), apart=APART)


def test_the_fusion_opens_without_bifocal(pilot, snapshot):
    import torch

    state = torch.load(pilot / "runs" / "pilot" / "models" / "mm_fusion" / "fusion_model.pt", weights_only=True)
    snapshot("fusion_model.json", {name: [str(t.dtype), list(t.shape)] for name, t in sorted(state.items())})


# The comparison itself ----------------------------------------------------------------------------


def test_a_change_is_shown_and_a_last_digit_is_none(tmp_path, monkeypatch):
    monkeypatch.delenv("BIFOCAL_WRITE_SNAPSHOTS", raising=False)
    (tmp_path / "a.txt").write_text("p 0.25000 of 3\n")
    check(tmp_path / "a.txt", "p 0.25001 of 3", apart=APART)
    for other in ("p 0.25001 of 3", "p 0.26000 of 3", "p 0.25000 of 4", "q 0.25000 of 3"):
        with pytest.raises(AssertionError, match=r"(?s)the outside changed; if that is meant, .*-p 0.25000 of 3\n\+"):
            check(tmp_path / "a.txt", other, apart=0 if other.startswith("p 0.25001") else APART)
    monkeypatch.setenv("BIFOCAL_WRITE_SNAPSHOTS", "1")
    check(tmp_path / "b.txt", as_text({"a": 1}))
    assert (tmp_path / "b.txt").read_text() == '{\n "a": 1\n}\n'
