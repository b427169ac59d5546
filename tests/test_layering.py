"""Imports go down the layers of the house, in no circle, and the drawn picture of them is the true one."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
house = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(house)


@pytest.fixture(scope="module")
def graph():
    return house.import_graph()


def made(folder, **files):
    """The imports of a small package of these modules: ``system__bundle`` is ``system/bundle.py``."""
    package = folder / "bifocal"
    for name, text in {"__init__": "", **files}.items():
        path = package.joinpath(*name.split("__") if name != "__init__" else [name]).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return house.import_graph(package)


def test_every_room_has_a_layer(graph):
    assert {house.room_of(module) for module in graph} == {*house.FLOOR, *house.ENTRANCES}


def test_at_most_twelve_files_lie_at_the_top():
    assert len(list(house.PACKAGE.glob("*.py"))) <= 12


def test_no_import_goes_up_in_a_circle_or_to_a_private_module_of_another_package(graph):
    assert house.upward(graph) == [] and house.circles(graph) == [] and house.private(graph) == []


def test_the_picture_is_drawn_from_the_imports(graph):
    assert house.picture(graph) in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), (
        "the imports have changed: python docs/architecture.py draws them anew"
    )


def test_imports_for_types_and_inside_functions_count(tmp_path):
    graph = made(
        tmp_path,
        data__a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..system.b import B\n",
        system__b="def f():\n    from bifocal.data import a\n",
    )
    assert house.upward(graph) == [("data.a", "system.b")] and house.circles(graph) == [["data.a", "system.b"]]


def test_rooms_of_one_layer_do_not_import_one_another_and_private_modules_stay_at_home(tmp_path):
    graph = made(
        tmp_path,
        deploy__a="from ..pipeline import b\nfrom ..sources._c import d\n",
        pipeline__b="",
        sources___c="",
        sources__e="from . import _c\n",
    )
    assert house.upward(graph) == [("deploy.a", "pipeline.b")] and house.private(graph) == [("deploy.a", "sources._c")]


def test_the_light_rooms_do_not_import_torch():
    code = (
        "import sys, bifocal, bifocal.config, bifocal.workspace, bifocal.evaluate.metrics, bifocal.decide.policy, "
        "bifocal.modalities.text, bifocal.modalities.image, bifocal.modalities.tabular, "
        "bifocal.sources.hateful_memes, bifocal.sources.table, bifocal.pipeline.inspect, bifocal.data.compose, "
        "bifocal.data.manifest, bifocal.data.shards, bifocal.__main__\n"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
