"""What is read of a run is what lies in its folder, and reading it leaves the folder as it was."""

import shutil

import pytest
import torch

from bifocal.assess.run_data import RunData
from bifocal.config import recorded_config
from bifocal.errors import RunError
from bifocal.workspace import Workspace, file_sha256, read_json


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, file_sha256(p) if p.is_file() else None) for p in folder.rglob("*")}


def read_everything(data):
    for split in data.packed:
        assert len(data.predictions(split).ids) == len(data.texts(split)) == len(data.split(split))
    return (
        data.record, data.label, data.taxonomy, data.in_sample, data.tuned_on, data.tested_on, data.expert_names,
        data.models, data.encoders, data.fusion_rows, data.fused, data.parameters(), data.policy(),
    )  # fmt: skip


def test_reading_everything_writes_nothing(small_run):
    before = snapshot(small_run)
    read_everything(RunData.of(small_run))
    assert snapshot(small_run) == before


def test_a_missing_cache_is_computed_again_and_not_written(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "small")
    shutil.rmtree(tmp_path / "small" / "evidence")
    before = snapshot(tmp_path)
    data, known = RunData.of(tmp_path / "small"), RunData.of(small_run)
    read_everything(data)
    assert snapshot(tmp_path) == before
    for name, evidence in data.evidence_of("test").items():
        torch.testing.assert_close(evidence.features, known.evidence_of("test")[name].features)


def test_it_says_what_the_artifacts_say(small_run):
    data, space = RunData.of(small_run), Workspace.of(small_run)
    record, results = read_json(space.record), read_json(space.results)
    assert (data.in_sample, data.tuned_on, data.tested_on) == (False, results["tuned_on"], results["tested_on"])
    assert data.models == [name for name in results["models"] if name != "majority"]
    assert data.parameters() == {name: results["models"][name]["parameters"] for name in data.models}
    assert {split: len(rows) for split, rows in data.packed.items()} == record["steps"]["shards"]["rows"]
    assert {len(evidence) for evidence in data.fusion_rows.values()} == {record["fuse"]["n"]}
    assert data.policy().version == read_json(space.policy)["version"]


def test_an_unfinished_run_is_read_as_far_as_it_got(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "small")
    for left in ("models", "evidence", "shards"):
        shutil.rmtree(tmp_path / "small" / left)
    space = Workspace.of(tmp_path / "small")
    data = RunData.configured(recorded_config(read_json(space.record)["config"], where="run.json"), space)
    assert data.taxonomy["abuse_hate"] == data.label and not data.in_sample
    with pytest.raises(RunError, match="has no train shards: let the step `shards` run first"):
        data.packed  # noqa: B018
