import io
import json
import pickle
from pathlib import Path

import pytest
from PIL import Image

from bifocal import plugins
from bifocal.errors import ConfigError, DataError, MissingExtra
from bifocal.example import Example, Rejected
from bifocal.sources import hub as hub_file
from bifocal.sources.hub import Hub

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")

STRUCT = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
"""What an ``Image`` is stored as; ``save_to_disk`` itself would look for the files."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Nothing is written into the user's cache."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    datasets.disable_progress_bars()
    return cache


def png(colour: int) -> bytes:
    blob = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(blob, format="PNG")
    return blob.getvalue()


def rows_of(n: int = 4, first: int = 0, **columns) -> "datasets.Dataset":
    numbers = range(first, first + n)
    content = {
        "name": [f"post-{i}" for i in numbers],
        "words": [f"lamp {i}" if i % 3 else None for i in numbers],
        "shot": [{"bytes": png(i), "path": f"{i}.png"} if i % 2 else None for i in numbers],
        "bad": [i % 3 - 1 for i in numbers],
        "age": [i / 2 for i in numbers],
    }
    features = datasets.Features(
        name=datasets.Value("string"),
        words=datasets.Value("string"),
        shot=datasets.Image(),
        bad=datasets.ClassLabel(names=["fine", "hateful"]),
        age=datasets.Value("float32"),
    )
    for column, (values, feature) in columns.items():
        content[column], features[column] = values, feature
    return datasets.Dataset.from_dict(content, features=features)


COLUMNS = {"id": "name", "text": "words", "image": "shot", "tabular": "rest"} | {
    "labels": {"abuse_hate": {"column": "bad", "map": {"hateful": 1, "fine": 0}}}
}


def hub(folder: Path | str, **options) -> Hub:
    return plugins.options("source", "hub", {"dataset": str(folder)} | options, Hub)


def saved(folder: Path, kind: str) -> Path:
    """A dataset of two splits, as the library itself writes it."""
    splits = {"train": rows_of(4), "validation": rows_of(2, first=4)}
    if kind == "save_to_disk":
        datasets.DatasetDict(splits).save_to_disk(folder)
        return folder
    (folder / "data").mkdir(parents=True)
    for name, split in splits.items():
        split.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("kind", ["save_to_disk", "parquet"])
def test_a_row_becomes_an_example(tmp_path, kind):
    source = hub(saved(tmp_path / "posts", kind), **COLUMNS)
    rows = list(source)
    assert [(row.id, row.split) for row in rows] == [(f"post-{i}", "train" if i < 4 else "val") for i in range(6)]
    assert [row.labels["abuse_hate"] for row in rows] == [None, 0, 1, None, 0, 1]
    assert rows[0].parts == {"tabular": {"age": 0.0}}
    assert rows[1].parts == {"text": "lamp 1", "image": "train:1", "tabular": {"age": 0.5}}
    assert rows[5].parts == {"text": "lamp 5", "image": "validation:1", "tabular": {"age": 2.5}}
    assert [source.open(name) for name in ("validation:1", "train:3", "train:1")] == [png(5), png(3), png(1)]
    assert source.labels()["abuse_hate"].classes == (0, 1)


def test_nothing_is_decoded(tmp_path, monkeypatch):
    broken = [{"bytes": b"no picture at all", "path": None}] * 2
    rows_of(2).remove_columns("shot").add_column("shot", broken, feature=datasets.Image()).save_to_disk(tmp_path / "a")
    monkeypatch.setattr(datasets.Image, "decode_example", None)
    source = hub(tmp_path / "a", **COLUMNS)
    assert [source.open(row.parts["image"]) for row in source] == [b"no picture at all"] * 2


def test_a_dataset_of_one_split_is_numbered(tmp_path):
    rows_of(3).save_to_disk(tmp_path / "a")
    source = hub(tmp_path / "a", text="words", image="shot")
    assert [(row.id, row.split, row.parts.get("image")) for row in source] == [
        ("0", "train", None),
        ("1", "train", "train:1"),
        ("2", "train", None),
    ]
    assert source.open("train:1") == png(1)


def test_class_labels_come_by_their_names(tmp_path):
    rows_of(6).save_to_disk(tmp_path / "a")
    source = hub(tmp_path / "a", labels={"tone": "bad"}, text="words")
    assert source.labels()["tone"].classes == ("fine", "hateful")
    assert [row.labels["tone"] for row in source] == [None, "fine", "hateful"] * 2
    assert [row.meta for row in hub(tmp_path / "a", text="words", drop=["age", "shot"])][1] == {
        "name": "post-1",
        "bad": "fine",
    }


def test_splits_are_named_where_they_do_not_tell(tmp_path):
    splits = {"train": rows_of(1), "seen": rows_of(2), "unseen": rows_of(3)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "a")
    with pytest.raises(DataError, match="has the splits train, seen, unseen: say what 'seen' is, and which are to be"):
        iter(hub(tmp_path / "a"))
    source = hub(tmp_path / "a", text="words", splits={"seen": "val", "train": None})
    assert [(row.id, row.split) for row in source] == [("seen:0", "val"), ("seen:1", "val"), ("train:0", None)]
    with pytest.raises(DataError, match="has no split 'unsen'; did you mean 'unseen'"):
        iter(hub(tmp_path / "a", splits={"unsen": "test"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "wrods"}, r"train has no column 'wrods' \(text\); did you mean 'words'"),
        ({"labels": {"abuse_hate": "hate"}}, r"there is no column 'hate' \(labels.abuse_hate\)"),
    ],
)
def test_a_column_that_is_not_there_is_named(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        iter(hub(saved(tmp_path / "a", "save_to_disk"), **options))


def test_a_bad_row_is_rejected(tmp_path):
    lists = ([["a"], ["b"]], datasets.List(datasets.Value("string")))
    rows_of(2, tags=lists).save_to_disk(tmp_path / "a")
    found = list(hub(tmp_path / "a", text="tags", image="shot"))
    assert [type(row) for row in found] == [Rejected] * 2
    assert found[1].where == "train:1"
    json.dumps(found[1].to_json())


@pytest.mark.parametrize("reference", ["train:0", "train:4", "train:99999", "test:0", "train", "train:-1", "train:1.0"])
def test_a_picture_that_is_not_there_is_an_error(tmp_path, reference):
    source = hub(saved(tmp_path / "a", "save_to_disk"), **COLUMNS)
    with pytest.raises(DataError, match="there is no picture|is missing: column 'shot' is empty there"):
        source.open(reference)


def test_paths_of_pictures_are_confined_to_the_dataset(tmp_path, own_cache):
    root = tmp_path / "a"
    (tmp_path / "secret.png").write_bytes(b"secret")
    paths = [
        "shots/1.png",
        str(root / "shots" / "1.png"),
        str(tmp_path / "secret.png"),
        "../secret.png",
        "shots/out.png",
    ]
    paths += ["shots/9.png", "shots", "http://127.0.0.1:9/1.png"]
    shots = [{"bytes": None, "path": path} for path in paths]
    words = rows_of(len(paths)).remove_columns("shot")
    words.add_column("shot", shots, feature=STRUCT).add_column("plain", paths).save_to_disk(root)
    (root / "shots").mkdir()
    (root / "shots" / "1.png").write_bytes(b"fine")
    (root / "shots" / "out.png").symlink_to(tmp_path / "secret.png")
    for column in ("shot", "plain"):
        source = hub(root, image=column, id="name")
        references = [row.parts["image"] for row in source]
        assert [source.open(reference) for reference in references[:2]] == [b"fine"] * 2
        for reference in references[2:5]:
            with pytest.raises(DataError, match="leads out of .*; only files of the dataset are read"):
                source.open(reference)
        for reference in references[5:]:
            with pytest.raises(DataError, match="is missing or not a file"):
                source.open(reference)


def test_paths_of_pictures_of_a_hub_dataset_are_confined_to_the_cache(tmp_path, own_cache):
    (own_cache / "in.png").write_bytes(b"fine")
    (tmp_path / "secret.png").write_bytes(b"secret")
    paths = [str(own_cache / "in.png"), str(tmp_path / "secret.png")]
    rows_of(2).add_column("plain", paths).save_to_disk(tmp_path / "a")
    source = hub("owner/name", image="plain")
    source.__dict__["data"] = hub(tmp_path / "a").data  # as if it had been downloaded
    inside, outside = (row.parts["image"] for row in source)
    assert source.open(inside) == b"fine"
    with pytest.raises(DataError, match="leads out of owner/name; only files of the dataset are read"):
        source.open(outside)


def test_a_picture_over_the_cap_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_file, "MAX_MEMBER", 2**20)
    root = tmp_path / "a"
    blob = b"x" * (2**20 + 1)
    shots = [{"bytes": None, "path": "large.png"}, {"bytes": blob, "path": None}]
    rows_of(2).remove_columns("shot").add_column("shot", shots, feature=STRUCT).save_to_disk(root)
    (root / "large.png").write_bytes(blob)
    source = hub(root, image="shot")
    for row in source:
        with pytest.raises(DataError, match="has over 1 MiB"):
            source.open(row.parts["image"])


@pytest.mark.parametrize("name", ["nobody/no-such-dataset", "no-such-dataset", "/no/such/folder"])
def test_a_dataset_that_is_not_to_be_had_offline_is_named_in_one_line(name):
    with pytest.raises(
        DataError, match=rf"there is no folder '{name}', and no such dataset .*HF_HUB_OFFLINE=1 is set"
    ) as e:
        iter(hub(name))
    assert "\n" not in str(e.value)


def test_a_folder_that_is_no_dataset_is_named(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{broken")
    with pytest.raises(DataError, match=rf"the folder {tmp_path} cannot be loaded as a dataset: ") as e:
        iter(hub(tmp_path))
    assert "\n" not in str(e.value)


def test_code_in_a_dataset_is_not_run(tmp_path):
    root = saved(tmp_path / "posts", "parquet")
    (root / "posts.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    with pytest.raises(DataError, match="scripts are no longer supported, but found posts.py"):
        iter(hub(root, **COLUMNS))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ConfigError, match="unknown key 'trust_remote_code'"):
        hub(root, trust_remote_code=True)


def test_without_the_extra_the_pip_command_is_named(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *rest):
        if name == "datasets":
            raise ModuleNotFoundError("No module named 'datasets'", name="datasets")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pip install 'bifocal\[hub\]'"):
        iter(hub(tmp_path))


def test_a_copy_for_a_worker_opens_the_dataset_anew(tmp_path):
    source = hub(saved(tmp_path / "a", "save_to_disk"), **COLUMNS)
    rows = list(source)
    blob = pickle.dumps(source)
    assert len(blob) < 3000
    copy = pickle.loads(blob)
    assert list(copy) == rows
    assert copy.fingerprint() == source.fingerprint()


def test_the_fingerprint_follows_the_data(tmp_path):
    rows_of(3).save_to_disk(tmp_path / "a")
    before = hub(tmp_path / "a").fingerprint()
    assert hub(tmp_path / "a").fingerprint() == before
    assert hub(tmp_path / "a", text="words").fingerprint() != before
    rows_of(3, first=1).save_to_disk(tmp_path / "a")
    assert hub(tmp_path / "a").fingerprint() != before


def test_rows_stream(tmp_path):
    n = 50
    heavy = [{"bytes": bytes([i]) * 200_000, "path": None} for i in range(n)]
    rows_of(n).remove_columns("shot").add_column("shot", heavy, feature=datasets.Image()).save_to_disk(tmp_path / "a")
    source = hub(tmp_path / "a", **COLUMNS)
    import tracemalloc

    tracemalloc.start()
    assert all(isinstance(row, Example) for row in source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000  # no picture is taken out of the file to list the rows


def test_a_picture_that_is_missing_says_where_it_was_sought(tmp_path):
    rows_of(1).add_column("plain", ["shots/9.png"]).save_to_disk(tmp_path / "a")
    with pytest.raises(
        DataError, match=rf"'plain' of {tmp_path}/a holds the path 'shots/9.png', which is looked up in"
    ):
        hub(tmp_path / "a", image="plain").open("train:0")


def test_options_without_a_part_stop_at_once(tmp_path):
    with pytest.raises(
        DataError, match="names no text, image or tabular column, and one is needed; columns: age, bad,"
    ):
        iter(hub(saved(tmp_path / "a", "save_to_disk"), id="name"))


def test_the_bars_of_datasets_are_off_while_it_loads_and_then_as_before(tmp_path, capfd):
    source = hub(saved(tmp_path / "a", "parquet"), **COLUMNS)
    datasets.enable_progress_bars()
    try:
        assert len(list(source)) == 6
        assert not datasets.are_progress_bars_disabled()
        assert "examples/s" not in capfd.readouterr().err
        datasets.load_dataset(str(tmp_path / "a"), cache_dir=str(tmp_path / "other"))
        assert "examples/s" in capfd.readouterr().err  # what they print where nobody turns them off
    finally:
        datasets.disable_progress_bars()
    list(hub(tmp_path / "a", **COLUMNS))
    assert datasets.are_progress_bars_disabled()
