"""Several labels from one pass against a run of each, on the same splits: figures, examples encoded, seconds of CPU.

A set is run with all of its labels, then with each alone, on the splits of the first run. Told of each label: by how
much any figure of any model on val and test differs (0 = equal to the digit; rows that bear other labels alone teach a
TF-IDF expert its terms and a record its scales, so that a label that is null on many rows differs there). Told of the
runs: how many examples went through encoders, and seconds of CPU, in all and of the steps before any head learns.

With --tiny the experts are tiny ones that are fine-tuned here: told is how much better each model is together than
alone on test, AUROC or macro-F1, paired. With --served N the runs of all labels and of the first alone are served, and
asked N posts in turns over HTTP.

    python benchmarks/several_labels.py memes [--rows 2000] [--out FOLDER] [--tiny] [--served 200]

The folder that holds data/ and models/ is read from BIFOCAL_DATA.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

from serving import Service, closed_loop, posts_of, request_of

from bifocal.assess.run_data import RunData
from bifocal.config import RunConfig, load_config, parse_config
from bifocal.contracts import Reporter
from bifocal.decide.calibration import softmax
from bifocal.evaluate.compare import paired_gain
from bifocal.evaluate.metrics import headline_metric
from bifocal.models.saved_encoder import SavedEncoder
from bifocal.pipeline.train import run
from bifocal.workspace import RunRecord, Workspace, read_json, write_json

CONFIGS = Path(__file__).parent.parent / "configs"
MINILM = "experts.text={model: '${BIFOCAL_DATA:-../shared}/models/minilm-l6', tune: head, pooling: mean}"
SETS: dict[str, tuple[str, list[str]]] = {
    "memes": (
        "lab-and",
        [
            "source={kind: synthetic, cue: background, structures: {abuse_hate: and, offensive: unique_text, "
            "target_type: unique_image}}",
            "labels=[abuse_hate, offensive, target_type]",
            "fusion.seeds=1",
        ],
    ),
    "fashion": (
        "fashion",
        [
            "source.labels={colour: {column: baseColour, min_rows: 200}, category: {column: masterCategory, "
            "min_rows: 200}, usage: {column: usage, min_rows: 200}}",
            "labels=[colour, category, usage]",
            "fusion.seeds=1",
        ],
    ),
    "edos": (
        "edos",
        [
            "source.labels={sexist: {column: label_sexist, map: {sexist: 1, not sexist: 0}}, category: label_category}",
            "source.missing=[none]",
            "labels=[sexist, {category: {requires: sexist}}]",
            MINILM,
        ],
    ),
    "womens-clothing": (
        "womens-clothing",
        [
            "source.tabular=[Age, Positive Feedback Count]",
            "source.labels={recommended: Recommended IND, department: Department Name}",
            "labels=[recommended, department]",
        ],
    ),
}
TINY = {
    "text": "experts.text={model: tiny, tune: full, pooling: mean, epochs: 8, learning_rate: 0.002}",
    "image": "experts.image={model: tiny, tune: full, epochs: 4, learning_rate: 0.001, options: {flip: false}}",
}
BEFORE_HEADS = ("manifest", "ocr", "splits", "shards")


class Seconds(Reporter):
    """Seconds of CPU by step."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._step, self._since = "", process_time()

    def step(self, name: str, skipped: bool) -> None:
        now = process_time()
        self.spent[self._step] = self.spent.get(self._step, 0.0) + now - self._since
        self._step, self._since = name, now


class Encoded:
    """Examples that went through any encoder."""

    def __init__(self) -> None:
        self.n, encode = 0, SavedEncoder.run_batches

        def counting(encoder: SavedEncoder, batches: Any, n: int, *more: Any) -> Any:
            self.n += n
            return encode(encoder, batches, n, *more)

        SavedEncoder.run_batches = counting  # type: ignore[method-assign, assignment]


def measured(
    config: RunConfig, root: Path, encoded: Encoded, until: str | None = None
) -> tuple[Workspace, Seconds, int]:
    """A run, what it took, and how many examples it encoded."""
    seconds, before = Seconds(), encoded.n
    folder = run(config, root=root, reporter=seconds, until=until)
    seconds.step("end", False)
    return Workspace.of(folder), seconds, encoded.n - before


def alone(
    config: RunConfig, name: str, like: Workspace, root: Path, encoded: Encoded
) -> tuple[Workspace, Seconds, int]:
    """A run of one label on the splits of another run."""
    own = config.for_label(name).model_copy(update={"run": f"{config.run}-{name}", "labels": {}})
    space, first, _ = measured(own, root, encoded, until="splits")
    known = read_json(space.splits)
    for path, given in ((space.splits, like.splits), (space.groups, like.groups)):
        write_json(path, {row: value for row, value in read_json(given).items() if row in known})
        RunRecord(space.record).rewritten("splits", path)
    space, seconds, n = measured(own, root, encoded)
    for step, spent in first.spent.items():
        seconds.spent[step] = seconds.spent.get(step, 0.0) + spent
    return space, seconds, n


def figures(results: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, float]]:
    """Every number of val and test by its dotted name."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from figures(value, f"{where}.{name}")
        elif isinstance(value, int | float):
            yield f"{where}.{name}", float(value)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    """Model -> the largest difference of any of its figures on val and test."""
    found = {}
    for model in theirs["models"]:
        one, two = (
            dict(figures({split: of["models"][model][split] for split in ("val", "test")})) for of in (ours, theirs)
        )
        found[model] = max((abs(one[name] - two[name]) for name in one.keys() & two.keys()), default=0.0)
        if one.keys() != two.keys():
            found[model] = float("nan")
    return found


def gains(together: Workspace, alone: Workspace, label: str) -> dict[str, str]:
    """Model -> how much better it is together than alone on test, AUROC or macro-F1, paired, groups resampled."""
    ours, theirs = RunData.of(together.folder).for_label(label), RunData.of(alone.folder)
    said, compared = ours.predictions("test"), theirs.predictions("test")
    place, found = {row: i for i, row in enumerate(said.ids)}, {}
    rows = [i for i, row in enumerate(compared.ids) if row in place and compared.labels[i] >= 0]
    same = [place[compared.ids[i]] for i in rows]
    for model in theirs.models:
        gain = paired_gain(
            compared.labels[rows],
            softmax(compared.logits[model][rows]),
            softmax(said.logits[model][same]),
            [compared.groups[i] for i in rows],
            metric=headline_metric(len(theirs.label.classes)),
        )
        found[model] = "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format_map(gain)
    return found


def served(folders: Sequence[Path], n: int) -> list[list[float]]:
    """Seconds of each of ``n`` posts over HTTP, by run: in turns of ten on one connection, after twenty to warm up."""
    with TemporaryDirectory() as scratch:
        place = Path(scratch)
        requests = [request_of(post) for post in posts_of(place, n + 20)]
        services = [Service(folder, None, place / str(i)) for i, folder in enumerate(folders)]
        seconds: list[list[float]] = [[] for _ in services]
        try:
            for start in range(0, n + 20, 10):
                for service, taken in zip(services, seconds, strict=True):
                    taken += asyncio.run(closed_loop(service, requests[start : start + 10], 1))[1]
        finally:
            for service in services:
                service.stop()
    return [taken[20:] for taken in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--rows", type=int, default=None, help="the first rows of the set alone")
    parser.add_argument("--out", type=Path, default=None, help="keep the runs here")
    parser.add_argument("--tiny", action="store_true", help="fine-tune tiny experts, and tell gains on test")
    parser.add_argument("--served", type=int, default=0, metavar="N", help="ask N generated memes over HTTP, too")
    parser.add_argument("--set", dest="more", action="append", default=[], metavar="A.B=C")
    arguments = parser.parse_args()
    name, overrides = SETS[arguments.set]
    rows = [f"limit={arguments.rows}"] if arguments.rows else []
    if arguments.set == "memes":
        rows = [f"source.size={arguments.rows or 2000}"]
    parts = load_config(CONFIGS / f"{name}.yaml", overrides).modalities
    tiny = [TINY[part] for part in parts if part in TINY] if arguments.tiny else []
    content = load_config(CONFIGS / f"{name}.yaml", [*overrides, *tiny, *rows, "bootstrap=100", *arguments.more])
    config = parse_config(content.model_dump(mode="json") | {"run": "together"})
    with TemporaryDirectory() as scratch:
        root = arguments.out or Path(scratch)
        shutil.rmtree(root, ignore_errors=True)
        encoded = Encoded()
        together, seconds, n = measured(config, root, encoded)
        told, folders = [("together", seconds, n)], [together.folder]
        for label in config.label_names:
            space, spent, count = alone(config, label, together, root, encoded)
            told.append((label, spent, count))
            folders.append(space.folder)
            if arguments.tiny:
                print(f"{label}, together over alone on test: {gains(together, space, label)}", flush=True)
                continue
            place = together.for_label("" if label == config.label else label)
            found = differences(place.read_section(together.results), read_json(space.results))
            print(f"{label}: largest difference of a figure: " + ", ".join(f"{m} {d:.2g}" for m, d in found.items()))
        if arguments.served:
            ours, theirs = served(folders[:2], arguments.served)
            middle, alone_s = statistics.median(ours), statistics.median(theirs)
            print(f"over HTTP, median of {len(ours)}: {middle:.4f} s against {alone_s:.4f} s, {middle / alone_s:.3f}x")
    one = told[1][1]
    for label, spent, count in told:
        whole, before = sum(spent.spent.values()), sum(spent.spent.get(step, 0.0) for step in BEFORE_HEADS)
        ratio = whole / sum(one.spent.values())
        steps = ", ".join(f"{step} {value:.1f}" for step, value in spent.spent.items() if value >= 0.1 and step)
        print(
            f"{label}: {whole:.1f} s of CPU ({ratio:.2f}x of {told[1][0]} alone), {before:.1f} s before heads, ", end=""
        )
        print(f"{count:,} examples encoded; {steps}")


if __name__ == "__main__":
    main()
