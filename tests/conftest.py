"""Small finished runs and a bundle that many tests read, and the environment that all of them need."""

import fcntl
import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # forked processes import modules of tests by their names
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "tests.pipeline.test_recovery",
        "bifocal.cli.app",
        "bifocal.cli.decision_tables",
        "bifocal.cli.run_tables",
        "bifocal.system.system",
        "bifocal.models.encoders.hf_text",
        "bifocal.models.encoders.hf_image",
        "bifocal.models.fusions.concat",
        "bifocal.report.figures",
        "bifocal.sources.hateful_memes",
        "jinja2",
        "lightgbm",
        "pdqhash",
        "py3langid",
        "torch.utils.tensorboard",
        "transformers.models.deberta_v2.modeling_deberta_v2",
        "transformers.models.deberta_v2.tokenization_deberta_v2",
        "transformers.models.siglip.modeling_siglip",
        "transformers.models.siglip.image_processing_siglip",
        "webdataset",
        "tests.frozen",
    ]
)

SMALL = {
    "run": "small",
    "source": {"kind": "synthetic", "size": 160, "missing_text": 0.05, "missing_image": 0.05},
    "ocr": "never",
    "splits": {"val": 0.25, "test": 0.25},
    "experts": {
        "text": {"model": "tiny", "epochs": 1, "batch_size": 8, "learning_rate": 2e-3},
        "image": {"model": "tiny", "epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
    },
    "fusion": {"strategy": "concat", "seeds": 2, "options": {"epochs": 5}},
    "decide": {"on": "val"},
    "bootstrap": 100,
}


PILOT = {
    "run": "pilot",
    "limit": 50,
    "source": {"kind": "synthetic", "size": 50, "structure": "and", "cue": "colour"},
    "ocr": "never",
    "splits": {"val": 0, "test": 0},
    "shard_size": 30,
    "experts": {
        "text": {"encoder": "tfidf_text", "options": {"components": 8}},
        "image": {"model": "tiny", "tune": "head"},
    },
    "fusion": {
        "strategy": "concat", "read": {"text": "features", "image": "logits"}, "seeds": 1, "options": {"epochs": 5},
    },
    "bootstrap": 100,
}  # fmt: skip
"""As configs/pilot.yaml, but that no words are read off pictures (which takes longest), and that both experts are
fitted heads, which come out alike on every processor."""


PROGRAMS = {"chromium": ("chromium", "chromium-browser"), "nginx": ("nginx",), "postgresql": ("initdb",)}
"""Service that tests want -> the program that is looked for."""
MISSING = "`make services` installs"


def pytest_addoption(parser):
    parser.addoption("--part", metavar="K/N", help="the tests of every Nth file only, beginning with the Kth")


def pytest_collection_modifyitems(config, items):
    """With ``--part`` every Nth file alone; the longest file begins, so that nobody waits for it at the end."""
    if part := config.getoption("--part"):
        k, n = map(int, part.split("/"))
        if not 1 <= k <= n:
            raise pytest.UsageError(f"--part {part}: K from 1 to N")
        ours = set(sorted({item.path for item in items})[k - 1 :: n])
        config.hook.pytest_deselected(items=[item for item in items if item.path not in ours])
        items[:] = [item for item in items if item.path in ours]
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def pytest_terminal_summary(terminalreporter):
    """How many tests wanted a service that is not here, and what to do."""
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    if count := sum(MISSING in reason for reason in skipped):
        terminalreporter.write_line(
            f"{count} tests were skipped for want of PostgreSQL, Chromium or nginx: make services"
        )


@pytest.fixture
def read_by(monkeypatch):
    """``read_by(system, read, when)``: in this test ``read(blob)`` stands in for OCR."""

    def use(system, read, when="auto"):
        from bifocal.config import TranscriberConfig
        from bifocal.data.transcribers import ActiveTranscriber
        from bifocal.transcribe.ocr import Ocr

        ocr = Ocr()
        ocr.read = read
        used = ActiveTranscriber("ocr", ocr, TranscriberConfig(when=when))
        monkeypatch.setattr(system.preprocessor, "transcribers", [used])

    return use


@pytest.fixture(scope="session")
def service():
    """``service("chromium")``: the path of its program. Where there is none the test is skipped, or fails where
    ``BIFOCAL_REQUIRE_SERVICES=1`` says that nothing may be skipped."""

    def found(name) -> str:
        where = [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
        for program in PROGRAMS[name]:
            if path := shutil.which(program, path=os.pathsep.join(where)):
                return path
        reason = f"no {name}: {MISSING} it"
        if os.environ.get("BIFOCAL_REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    return found


@pytest.fixture(scope="module")
def browser(service):
    """Chromium, for the pages of one file: as long as it is open, no other event loop runs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=service("chromium"), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", autouse=True)
def _collected():
    """What lives when a file begins (modules, for the most part) is not looked through for garbage again: the Trainer
    collects at the end of each training, which takes two seconds where everything is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _undrawn(request):
    """Tests of every room make runs, and a run's figures take a fifth of its time: where pages are tested they are
    drawn, and by commands. The lab's documents show them as SVG alone."""
    if "report" in request.path.parts:
        yield
        return
    from bifocal.report import figures

    documents = {"lab", "test_replaced.py"} & set(request.path.parts)
    with pytest.MonkeyPatch.context() as patch:
        svg = figures.svg_of if documents else lambda figure, title: "<svg></svg>"
        patch.setattr(figures, "drawn_of", lambda figure, title: figures.Drawn(svg(figure, title), b"a picture"))
        yield


def _command(words, folder, output, errors):
    """The command line, in a forked process."""
    os.chdir(folder)
    for number, path in ((1, output), (2, errors)):
        with open(path, "w") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["bifocal", *words]
    from bifocal.cli.app import main

    main()


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """``command("predict", run, "--text", "words", cwd=folder)``: the command line in a process of its own, forked from
    one that has imported the heavy modules; `subprocess.CompletedProcess`, with the output as text."""
    place = tmp_path_factory.mktemp("command")

    def run(*words, cwd=None):
        words = [str(word) for word in words]
        output, errors = place / "output", place / "errors"
        process = FORKSERVER.Process(target=_command, args=(words, str(cwd or os.getcwd()), str(output), str(errors)))
        process.start()
        process.join()
        return subprocess.CompletedProcess(words, process.exitcode, output.read_text(), errors.read_text())

    return run


@pytest.fixture(scope="session")
def small_config():
    return SMALL


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """``made_once(name, make)``: a folder that the first test process fills by ``make(folder)`` and all others read."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def once(name, make) -> Path:
        folder = shared / f"shared-{name}"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / f"{name}.made").exists():
                folder.mkdir()
                make(folder)
                (shared / f"{name}.made").touch()
        return folder

    return once


@pytest.fixture(scope="session")
def small_run(made_once) -> Path:
    """The folder of a finished run on generated memes; read it, never write to it."""

    def make(folder):
        from bifocal.config import parse_config
        from bifocal.pipeline.train import run

        run(parse_config(SMALL), root=folder)

    return made_once("runs", make) / SMALL["run"]


@pytest.fixture(scope="session")
def pilot(made_once) -> Path:
    """A folder: ``runs/pilot``, made by the command line, and what that printed as ``output.txt``, ``errors.txt``."""

    def make(place):
        import yaml
        from tests.compatibility.snapshots import on_a_quiet_terminal

        (place / "pilot.yaml").write_text(yaml.safe_dump(PILOT, sort_keys=False))
        done = on_a_quiet_terminal("run", "pilot.yaml", cwd=place)
        assert done.returncode == 0, done.stderr

    return made_once("pilot", make)


@pytest.fixture(scope="session")
def small_bundle(made_once, small_run) -> Path:
    """The same run exported for ONNX Runtime, which starts in a moment; read it, never write to it."""

    def make(folder):
        from bifocal.deploy.export import export

        export(small_run, "onnx", output=folder / "onnx", accept=True)

    return made_once("bundle", make) / "onnx"


@pytest.fixture(scope="session")
def records_run(made_once) -> Path:
    """The folder of a finished run on a generated table of texts and records; read it, never write to it."""
    return made_once("records", _make_records) / "runs" / "records"


@pytest.fixture(scope="session")
def labels_run(made_once) -> Path:
    """The folder of a finished run of three labels on a generated table of notes; read it, never write to it.

    ``urgent`` is of text and record, ``paid`` of the record alone, ``kind`` of three classes and of urgent notes alone.
    """
    return made_once("labels", _make_labels) / "runs" / "labels"


LABELS = ["urgent", {"paid": {"act": "review"}}, {"kind": {"requires": "urgent", "act": "none"}}]


def labels_config(place, labels=LABELS, run="labels", **settings):
    """The configuration of `labels_run`, whose table `write_notes` left in the folder ``place``."""
    from bifocal.config import parse_config

    config = {
        "run": run,
        "labels": labels,
        "source": {
            "kind": "table", "root": str(place / "notes.csv"), "id": "id", "text": "words", "split": "part",
            "tabular": ["price", "room"], "labels": {name: name for name in ("urgent", "paid", "kind")},
        },
        "modalities": ["text", "tabular"],
        "experts": {
            "text": {"encoder": "tfidf_text", "options": {"components": 16}},
            "tabular": {"encoder": "linear_tabular"},
        },
        "fusion": {"strategy": "concat", "seeds": 1, "options": {"epochs": 20, "widths": [8]}},
        "decide": {"on": "val"},
        "bootstrap": 100,
        **settings,
    }  # fmt: skip
    return parse_config(config)


def write_notes(place, n=600):
    """``notes.csv``: a text, a record of two columns, three labels, and the split of each row."""
    import random

    rng = random.Random(0)
    lines = ["id,words,price,room,part,urgent,paid,kind"]
    for i in range(n):
        urgent, paid = rng.random() < 0.5, rng.random() < 0.4
        kind = rng.choice(["fire", "water", "noise"]) if urgent else ""
        cue = "quickly" if urgent ^ (rng.random() < 0.2) else "sometime"
        words = f"{cue} note {i} about {kind if rng.random() < 0.8 else 'matters'} {rng.choice(['here', 'there'])}"
        price = round(rng.gauss(40 + 25 * paid, 15), 1)
        room = rng.choice(["hall", "yard"]) if urgent ^ (rng.random() < 0.3) else "cellar"
        part = "test" if i % 5 == 0 else "val" if i % 5 == 1 else "train"
        lines.append(f"n{i},{words},{price},{room},{part},{int(urgent)},{int(paid)},{kind}")
    (place / "notes.csv").write_text("\n".join(lines) + "\n")


def _make_labels(place):
    from bifocal.pipeline.train import run

    write_notes(place)
    run(labels_config(place), root=place / "runs")


def _make_records(place):
    import random

    from bifocal.config import parse_config
    from bifocal.pipeline.train import run

    rng = random.Random(0)
    lines = ["id,words,price,room,opened,host,dear"]
    for i in range(400):
        dear = rng.random() < 0.5
        words = (
            f"{'marble' if dear ^ (rng.random() < 0.25) else 'plain'} house {i} near the {rng.choice(['bay', 'hill'])}"
        )
        price = "" if rng.random() < 0.1 else round(rng.gauss(40 + 30 * dear, 20), 1)
        room = rng.choice(["shared", "private", "whole"])
        lines.append(f"{i},{words},{price},{room},2019-0{rng.randrange(1, 10)}-11,h{i // 2},{rng.gauss(dear, 0.3):.3f}")
    (place / "houses.csv").write_text("\n".join(lines) + "\n")
    config = {
        "run": "records",
        "label": "dear",
        "source": {
            "kind": "table", "root": str(place / "houses.csv"), "id": "id", "text": "words", "tabular": "rest",
            "group": "host", "labels": {"dear": {"column": "dear", "above": "median"}},
        },
        "splits": {"val": 0.2, "test": 0.2},
        "modalities": ["text", "tabular"],
        "experts": {
            "text": {"encoder": "tfidf_text", "options": {"components": 16}},
            "tabular": {"encoder": "auto", "options": {"mlp_tabular": {"epochs": 3}}},
        },
        "fusion": {"strategy": "stacking"},
        "decide": {"on": "val"},
        "bootstrap": 100,
    }  # fmt: skip
    run(parse_config(config), root=place / "runs")
