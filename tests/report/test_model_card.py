"""A card says what a model is, how good on what, and how to load it, and never names a folder of this machine."""

import pytest
import yaml

from bifocal.errors import RunError
from bifocal.report.model_card import write_model_card
from bifocal.workspace import Workspace, read_json, write_json


def card(folder, model):
    """The front matter and the text of a model's card."""
    path = write_model_card(folder, model)
    assert path == Workspace.of(folder).expert(model) / "README.md"
    _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_an_expert_is_described_for_the_hub(fake_run):
    front, body = card(fake_run(), "text_expert")
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "text-classification"
    assert front["base_model"] == "microsoft/mdeberta-v3-base"
    assert front["tags"] == ["bifocal", "abuse_hate"]
    [result] = front["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert {m["type"]: m["value"] for m in result["metrics"]}["roc_auc"] == 0.61
    assert "AutoModelForSequenceClassification, AutoTokenizer" in body
    assert "[OCR] words of the picture [/OCR] [CAP]" in body
    assert 'bifocal.load("runs/made-up")' in body
    assert "system.predict(text=…, image_path=…)" in body
    assert "1,234,567 parameters, 770 of them trained" in body


def test_figures_come_with_n_and_intervals(fake_run):
    _, body = card(fake_run(), "text_expert")
    assert "On 200 test posts (100 positive), with 95% intervals" in body
    assert r"| AUROC | 0.600 \[0.550, 0.650\] | 0.610 \[0.560, 0.660\] | 0.500 |" in body
    assert "softmax(logits / 1.250)" in body and "0.45 or more" in body and "chosen on val (60 rows)" in body
    assert "Rows: 700 train, 60 val, 200 test" in body
    assert "ECE is no target under 2,000 rows" in body


def test_mean_pooling_is_told_and_only_there(fake_run):
    folder = fake_run()
    assert "head.safetensors" in card(folder, "text_expert")[1]
    assert "head.safetensors" not in card(folder, "vision_expert")[1]


def test_a_local_starting_point_is_not_published(fake_run):
    front, body = card(fake_run(), "vision_expert")
    assert "base_model" not in front
    assert "somewhere" not in body and "mobilenet" in body
    assert front["pipeline_tag"] == "image-classification"
    assert 'backend="pil"' in body


def test_the_fusion_is_not_passed_off_as_a_transformers_model(fake_run):
    front, body = card(fake_run(), "mm_fusion")
    assert front["library_name"] == "bifocal"
    assert "pipeline_tag" not in front
    assert "concat (reads text: features, image: logits)" in body
    assert "what text_expert and vision_expert say of a post" in body
    assert "weights_only=True" in body
    assert "from_pretrained" not in body
    assert "Over 5 seeds the AUROC" in body
    assert "Posts that bring only text have values of their own" in body


def test_a_threshold_that_was_set_by_hand_is_not_said_to_be_chosen(fake_run):
    folder = fake_run()
    path = Workspace.of(folder).policy
    who = {"date": "2026-11-30", "by": "A", "why": "B", "version": "of before"}
    by_hand = {**who, "model": "mm_fusion", "pattern": "pooled", "before": 0.3, "after": 0.45}
    write_json(path, {**read_json(path), "changes": [by_hand]})
    told = "The threshold was set by hand, the calibration chosen on val (60 rows)."
    assert told in card(folder, "mm_fusion")[1]
    assert "Both were chosen on val (60 rows)." in card(folder, "text_expert")[1]


def test_in_sample_figures_stay_out_of_the_front_matter(fake_run):
    front, body = card(fake_run(in_sample=True), "text_expert")
    assert "model-index" not in front
    assert "> **In-sample:" in body


def test_multiclass_and_single_modality(fake_run):
    _, body = card(fake_run(multiclass=True), "mm_fusion")
    assert "the class that is likeliest is named. It was chosen on val" in body
    _, body = card(fake_run("alone", single=True), "text_expert")
    assert "system.predict(text=…)" in body
    assert "fusion of a Bifocal run" not in body


def test_an_expert_that_transformers_cannot_load_says_so_in_its_library(fake_run):
    folder = fake_run()
    path = Workspace.of(folder).expert("text_expert") / "bifocal.json"
    path.write_text(path.read_text().replace("AutoModelForSequenceClassification", "Trees"))
    front, body = card(folder, "text_expert")
    assert front["library_name"] == "bifocal"
    assert "from_pretrained" not in body


def test_an_unknown_model_is_answered_with_the_known_ones(fake_run):
    with pytest.raises(RunError, match="did you mean 'text_expert'"):
        write_model_card(fake_run(), "txt_expert")


def test_a_card_can_be_written_again(fake_run):
    folder = fake_run()
    assert card(folder, "mm_fusion") == card(folder, "mm_fusion")


def test_what_answers_a_further_label_has_its_card_in_its_own_folder(labels_run):
    for name in ("paid", "kind"):
        place = f"mm_fusion.{name}"
        _, front, body = (labels_run / "models" / place / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        assert f"# mm_fusion of labels: {name}\n" in body and f"label {name}" in body
        assert f'torch.load("models/{place}/fusion_model.pt"' in body
        front = yaml.safe_load(front)
        assert front["tags"] == ["bifocal", name] and front["model-index"][0]["name"] == f"labels/{place}"
    assert ", asked of posts that are positive by urgent. Strategy" in body


def test_the_card_of_an_expert_names_its_further_heads(labels_run, fake_run):
    body = (labels_run / "models" / "text_expert" / "README.md").read_text(encoding="utf-8")
    heads = read_json(labels_run / "models" / "text_expert" / "bifocal.json")["heads"]
    assert "It answers 3 labels from one pass." in body and "Auto class" not in body
    assert f"| paid | 0, 1 | {heads['paid']['learned_from']} | AUROC 0." in body
    assert f"| kind | fire, noise, water | {heads['kind']['learned_from']} | macro-F1 0." in body
    assert "Further labels" not in card(fake_run(), "text_expert")[1]
