import pytest

from bifocal.cli.run_tables import print_plan
from bifocal.config import parse_config
from bifocal.errors import ConfigError, DataError
from bifocal.pipeline.plan import plan
from bifocal.pipeline.train import run


def planned(small_config, tmp_path, **changes):
    return plan(parse_config({**small_config, **changes}), root=tmp_path)


def test_rows_are_counted_in_the_source_and_those_kept_aside_train_no_expert(small_config, tmp_path):
    found = planned(small_config, tmp_path)
    assert found["rows"] == {"n": 160, "n_train": 80, "from": "counted in the source"}
    more = planned(small_config, tmp_path, fusion={"holdout": 0.6})

    def flops(plan):  # hours depend on the speed of the moment, their product with it does not
        return plan["experts"]["text_expert"]["train_hours"] * plan["machine"]["gflops"]

    assert flops(more) / flops(found) == pytest.approx((1 - 0.6) / (1 - 0.2))
    assert not list(tmp_path.iterdir())


def test_rows_of_several_labels_are_counted_for_each(tmp_path, capsys):
    from tests.conftest import labels_config, write_notes

    write_notes(tmp_path, n=200)
    table = (tmp_path / "notes.csv").read_text().splitlines()
    rows = [line.split(",") for line in table[1:]]
    for row in rows[:50]:
        row[6] = ""  # `paid` is not known
    for row in rows[:10]:
        row[5] = row[7] = ""  # nor is anything else
    (tmp_path / "notes.csv").write_text("\n".join([table[0], *map(",".join, rows)]) + "\n")
    found = plan(labels_config(tmp_path), root=tmp_path / "runs")["rows"]
    urgent = sum(row[5] == "1" for row in rows)
    assert found["n"] == 190 and found["labels"] == {"urgent": 190, "paid": 150, "kind": urgent}
    print_plan(plan(labels_config(tmp_path), root=tmp_path / "runs"), as_json=False)
    assert f"of each label: urgent 190, paid 150, kind {urgent}" in capsys.readouterr().out


def test_a_frozen_expert_costs_one_pass_and_no_training(small_config, tmp_path):
    experts = {"text": {"model": "tiny", "tune": "head"}}
    found = planned(small_config, tmp_path, experts={**small_config["experts"], **experts})
    assert found["experts"]["text_expert"]["train_hours"] == 0
    assert found["experts"]["text_expert"]["evidence_hours"] > 0
    assert found["experts"]["text_expert"]["trained"] < found["experts"]["text_expert"]["parameters"]


def test_a_source_that_is_not_here_is_noted_and_costs_are_per_a_thousand_rows(small_config, tmp_path):
    source = {"kind": "hateful_memes", "root": str(tmp_path / "nowhere")}
    found = planned(small_config, tmp_path, source=source)
    assert found["rows"]["n"] == 1000 and found["rows"]["n_train"] == 500
    assert any("nowhere" in note for note in found["notes"])


@pytest.mark.parametrize(("modality", "low", "high"), [("text", 270e6, 290e6), ("image", 85e6, 100e6)])
def test_the_base_models_are_known_without_a_download(small_config, tmp_path, modality, low, high):
    found = planned(small_config, tmp_path, modalities=[modality], experts={modality: {"model": "base"}})
    (expert,) = found["experts"].values()
    assert low < expert["parameters"] < high and expert["gflop_per_example"] > 10


def table(tmp_path, **options):
    (tmp_path / "posts.csv").write_text("words,age,bad\n" + "".join(f"lamp {i},{i},{i % 2}\n" for i in range(40)))
    given = {"kind": "table", "root": str(tmp_path / "posts.csv"), "text": "words", "tabular": ["age"]}
    return given | {"labels": {"abuse_hate": "bad"}} | options


def test_a_wrong_column_is_an_error_and_no_assumption(small_config, tmp_path):
    with pytest.raises(DataError, match="has no column 'wrods'.*did you mean 'words'"):
        planned(small_config, tmp_path, source=table(tmp_path, text="wrods"))
    source = table(tmp_path, root=str(tmp_path / "nowhere" / "posts.csv"))
    assert planned(small_config, tmp_path, source=source)["rows"]["from"].startswith("assumed")
    one, other = table(tmp_path, name="one"), source | {"name": "other"}
    assert planned(small_config, tmp_path, source=[one, other])["rows"]["from"].startswith("assumed")
    with pytest.raises(DataError, match="has no column 'wrods'"):
        planned(small_config, tmp_path, source=[one, table(tmp_path, text="wrods", name="other")])


@pytest.mark.parametrize(
    ("modality", "expert", "message"),
    [
        (
            "tabular",
            {"encoder": "mlp_tabular", "epochs": 9},
            "experts.tabular.epochs .* experts.tabular.options.epochs",
        ),
        ("tabular", {"encoder": "boosted_trees", "warmup": 0.3}, "experts.tabular.warmup .* leave it out"),
        ("text", {"encoder": "tfidf_text", "epochs": 9}, "experts.text.epochs .* leave it out"),
    ],
)
def test_a_setting_without_effect_is_refused_before_the_first_step(small_config, tmp_path, modality, expert, message):
    changes = {"source": table(tmp_path), "modalities": [modality], "experts": {modality: expert}, "fusion": {}}
    with pytest.raises(ConfigError, match=message):
        planned(small_config, tmp_path, **changes)
    runs = tmp_path / "runs"
    with pytest.raises(ConfigError, match=message):
        run(parse_config({**small_config, **changes}), root=runs)
    assert not list(runs.glob("*/1_data/*")) and not list(runs.glob("*/*manifest*"))


def test_a_model_that_is_not_here_is_a_note(small_config, tmp_path):
    experts = {"text": {"model": "nobody/no-such-model"}}
    found = planned(small_config, tmp_path, experts={**small_config["experts"], **experts})
    assert len([note for note in found["notes"] if "nobody/no-such-model" in note]) == 1
    assert set(found["experts"]) == {"vision_expert"}
