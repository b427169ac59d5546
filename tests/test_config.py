import pytest

from bifocal import plugins
from bifocal.config import RunConfig, expand, load_config, parse_config, read_mapping, recorded_config
from bifocal.errors import ConfigError
from bifocal.sources.table import Table

MINIMAL = {"run": "x", "source": {"kind": "synthetic", "size": 3}}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("run: x\nsource: {kind: synthetic, size: 3}\nocr: auto\nexperts: {text: {model: tiny}}\n")
    return path


def test_source_options_are_kept_for_the_source():
    assert parse_config(MINIMAL).source.options == {"size": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lable": "x"}, "did you mean 'label'"),
        ({"experts": {"text": {"modle": "tiny"}}}, "experts.text.modle.*did you mean 'model'"),
        ({"experts": {"txt": {}}}, "did you mean 'text'"),
        ({"fusion": {"read": {"sound": "logits"}}}, "fusion.read names 'sound'"),
        ({"seed": "many"}, "seed = 'many'"),
        ({"splits": {"val": 0.5, "test": 0.5}}, "leaves nothing to train on"),
        ({"run": "../elsewhere"}, "run = '../elsewhere'"),
        ({"modalities": ["text", "text"]}, "names one twice"),
        ({"decide": {"base_rate": 1.5}}, "decide.base_rate"),
        (
            {"decide": {"base_rate": 0.1, "threshold": {"by": "precision", "bound": 0.9, "confidence": 0.9}}},
            "leave one of the two out",
        ),
        ({"decide": {"review": {"alpha": 0.1, "fnr": 0.1}}}, "leave out one"),
        ({"decide": {"review": {}}}, "a review band needs fnr, fpr or both"),
        ({"decide": {"review": {"fnr": 1}}}, "decide.review.fnr"),
        ({"fusion": {"epochs": 3}}, "unknown key 'fusion.epochs'; known:"),
        ({"fusion": {"epochs": 3}}, "settings of what is chosen there stand under fusion.options"),
        ({"decide": {"review": {"fnrr": 0.1}}}, "unknown key 'decide.review.fnrr'; did you mean 'fnr'"),
        ({"decide": {"threshold": {"by": "precison"}}}, "decide.threshold.by"),
        ({"decide": {"threshold": {"by": "precision"}}}, "by: precision needs a bound between 0 and 1"),
        ({"decide": {"threshold": {"by": "recall", "bound": 1.2}}}, "decide.threshold.bound"),
        ({"decide": {"threshold": {"bound": 0.9}}}, "bound belongs to by: precision, recall, fpr or capacity"),
        ({"decide": {"threshold": {"beta": 2}}}, "beta belongs to by: f_beta, not to by: f1"),
        ({"decide": {"threshold": {"by": "cost", "beta": 2}}}, "beta belongs to by: f_beta, not to by: cost"),
    ],
)
def test_a_wrong_key_or_value_says_what_is_allowed(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(MINIMAL | change)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="'run' is required"):
        parse_config({"source": {"kind": "synthetic"}})


def test_set_reaches_every_leaf(config_file):
    config = load_config(
        config_file,
        [
            "experts.text.epochs=7",
            "experts.image.lora.r=4",
            "source.size=9",
            "ocr.workers=1",
            "fusion.options.width=32",
        ],
    )
    assert config.expert("text").epochs == 7 and config.expert("text").model == "tiny"
    assert config.expert("image").lora.r == 4
    assert config.source.options["size"] == 9
    assert config.ocr.workers == 1 and config.ocr.when == "auto"
    assert config.fusion.options == {"width": 32}


def test_set_replaces_a_whole_branch(config_file):
    config = load_config(config_file, ["source={kind: hateful_memes, root: /data}"])
    assert config.source.kind == "hateful_memes" and config.source.options == {"root": "/data"}


def test_null_gives_the_default_back(config_file):
    config = load_config(config_file, ["experts.text=null", "source.size=null", "limit=null", "modalities=[image]"])
    assert config.experts == {} and config.source.options == {} and config.limit is None


@pytest.mark.parametrize("override", ["no-equals", "=3", "run.deeper=1", "source=[1", "experts.text.epochz=3"])
def test_a_bad_override_is_refused(config_file, override):
    with pytest.raises(ConfigError):
        load_config(config_file, [override])


def test_environment_variables_and_defaults(monkeypatch):
    monkeypatch.setenv("PLACE", "here")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert expand({"a": ["${PLACE}/x", "${NOWHERE:-there}"]}) == {"a": ["here/x", "there"]}
    with pytest.raises(ConfigError, match=r"export NOWHERE"):
        expand("${NOWHERE}")


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "", "3: x\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(tmp_path / "bad.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no configuration file"):
        load_config(tmp_path / "nothing.yaml")


def test_the_resolved_configuration_round_trips():
    config = parse_config(MINIMAL | {"experts": {"text": {"tune": "lora"}}})
    assert parse_config(config.model_dump(mode="json")) == config


def test_every_configuration_in_the_repository_is_valid(monkeypatch):
    from pathlib import Path

    found = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
    assert {"pilot", "demo", "smear-memes", "full"} <= {p.stem for p in found}
    for path in found:
        assert isinstance(load_config(path), RunConfig)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("run: x\nseed: 1\nrun: y\n", r"twice\.yaml: key 'run' stands twice, lines 1 and 3: keep one"),
        ("run: x\nsource:\n  kind: table\n  text: a\n  text: b\n", "key 'text' stands twice, lines 4 and 5"),
        ("source: {map: {true: 1, no: 0, True: 0}}\n", "keys 'true' and 'True' mean the same in YAML, both in line 1"),
        ("a: [{b: 1, b: 2}]\n", "key 'b' stands twice, both in line 1"),
    ],
)
def test_a_key_that_stands_twice_is_refused_and_not_overwritten(tmp_path, content, message):
    (tmp_path / "twice.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "twice.yaml")


def test_a_merge_may_be_overwritten(tmp_path):
    path = tmp_path / "merge.yaml"
    path.write_text(
        "run: x\nsource: {kind: synthetic}\n"
        "experts:\n  text: &a\n    <<: &b {model: tiny, epochs: 1}\n    epochs: 3\n"
        "  image:\n    <<: *a\n    epochs: 4\n"
    )
    config = load_config(path)
    assert [(config.expert(m).model, config.expert(m).epochs) for m in ("text", "image")] == [("tiny", 3), ("tiny", 4)]


def test_twice_is_refused_on_the_command_line_too(config_file):
    with pytest.raises(ConfigError, match="--tabular: key 'age' stands twice, both in line 1"):
        read_mapping('{"age": 1, "age": 2}', "--tabular")
    with pytest.raises(ConfigError, match="--set source: key 'size' stands twice"):
        load_config(config_file, ["source={kind: synthetic, size: 1, size: 2}"])
    assert read_mapping("{age: 1, name: 2}", "--tabular") == {"age": 1, "name": 2}


WORDS = ["no", "Yes", "on", "off", "2024-01-31", "2001-99-99", "012", "1:30", "0x1F", "1_000", "1:30.5"]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_stays_a_word_where_a_text_is_expected(tmp_path, word):
    """As the name of a column, of a class and of a split's values; in a file, after --set and on the command line."""
    source = f"{{kind: table, root: p.csv, id: {word}, text: [{word}], labels: {{y: {{column: c, map: {{a: {word}}}}}}}"
    (tmp_path / "c.yaml").write_text(f"run: x\nsource: {source}, split_map: {{{word}: train}}}}\n")
    for config in (
        load_config(tmp_path / "c.yaml"),
        load_config(tmp_path / "c.yaml", [f"source.id={word}"]),
        parse_config({"run": "x", **read_mapping(f"{{source: {source}, split_map: {{{word}: train}}}}}}", "SOURCE")}),
    ):
        table = Table(**config.source.options)
        assert (table.id, table.text, table.split_map) == (word, [word], {word: "train"})
        assert table.label_maps["y"].map == {"a": word}
    assert load_config(tmp_path / "c.yaml", [f'label="{word}"', f"label={word}"]).label == word


def test_the_same_word_is_what_yaml_makes_of_it_where_a_switch_or_anything_is_expected(config_file):
    config = load_config(config_file, ["lab.joint=no", "strict=on", "fusion.options={a: no, b: [0x10, 2024-01-31]}"])
    assert (config.lab.joint, config.strict) == (False, True)
    assert config.fusion.options == {"a": False, "b": [16, "2024-01-31"]}
    assert load_config(config_file, ["source.flag=true"]).source.options["flag"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("text: [null]", r"text.*0 = null: takes a text; quote it \('null'\) if it is a name"),
        ("id: 7", r"id = 7: takes a text; quote it \('7'\)"),
        ("id: true", r"id = true: takes a text; quote it \('true'\)"),
        ("labels: {y: {column: c, map: {null: 0, a: 1}}}", r"the key null is nothing.*quote it \('null'\)"),
        ("labels: {y: {column: c, classes: [a, null]}}", "classes"),
    ],
)
def test_a_value_that_is_no_text_is_refused_by_name(tmp_path, options, message):
    (tmp_path / "c.yaml").write_text(f"run: x\nsource: {{kind: table, root: p.csv, {options}}}\n")
    config = load_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=message):
        plugins.options("source", "table", config.source.options, Table)


@pytest.mark.parametrize("value", ["Batch #3/posts.csv", "[a, b] #c", "#3", "a  # b", "{a: b #c}"])
def test_a_value_of_the_command_line_is_not_cut_at_a_hash(config_file, value):
    if value.startswith("["):
        assert load_config(config_file, [f"source.list={value}"]).source.options["list"] == ["a", "b"]
        return
    with pytest.raises(ConfigError, match=r"--set source.root: .* quote"):
        load_config(config_file, [f"source.root={value}"])
    quoted = load_config(config_file, [f'source.root="{value}"'])
    assert quoted.source.options["root"] == value


def test_a_name_with_a_hash_is_not_cut_in_a_file_and_a_comment_is_one(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run: x # as ever\nsource: {kind: table, root: p.csv}  #so\nseed: 3 ## three\n# all\n")
    assert load_config(path).seed == 3
    path.write_text("run: x\nsource:\n  kind: table\n  root: Batch #3/posts.csv\n")
    with pytest.raises(ConfigError, match=r"'root: Batch #3/posts.csv' is cut at the #.*quote the value"):
        load_config(path)
    with pytest.raises(ConfigError, match="SOURCE: .*is cut at the #"):
        read_mapping("{source: {kind: table, root: Batch #3/posts.csv}}", "SOURCE")


def test_a_home_folder_that_is_none_is_named(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where HOME is not set, and nobody is known
    with pytest.raises(ConfigError, match="`~` is no folder here, as HOME is not set: write the path in full"):
        Table(root="~/posts.csv")


def several(**settings):
    return parse_config({"run": "x", "source": {"kind": "synthetic"}, **settings})


def test_several_labels_are_a_list_or_a_mapping_and_the_first_is_the_runs_label():
    config = several(labels=["hate", {"target": {"requires": "hate", "act": "none"}}])
    assert config == several(label="hate", labels={"hate": None, "target": {"requires": "hate", "act": "none"}})
    assert (config.label, config.label_names) == ("hate", ["hate", "target"])
    assert config.label_actions == {"hate": None, "target": "none"}
    assert several(label="hate").label_names == ["hate"] and not several(label="hate").label_rules


def test_settings_that_have_labels_as_keys_are_those_of_each():
    config = several(
        labels=["hate", "spam", "target"],
        decide={"hate": {"threshold": {"by": "macro_f1"}}, "default": {"calibration": "auto"}, "target": {}},
        fusion={"spam": {"strategy": "auto"}},
    )
    of = {name: config.for_label(name) for name in config.label_names}
    assert {name: one.label for name, one in of.items()} == {name: name for name in of}
    assert [of[name].decide.calibration for name in of] == ["temperature", "auto", "temperature"]
    assert [of[name].decide.threshold.by for name in of] == ["macro_f1", "f1", "f1"]
    assert [of[name].fusion.strategy for name in of] == ["concat", "auto", "concat"]
    assert recorded_config(config.model_dump(mode="json"), "run.json") == config


def test_settings_without_labels_as_keys_are_those_of_all():
    config = several(labels=["hate", "spam"], decide={"calibration": "auto"})
    assert [config.for_label(name).decide.calibration for name in config.label_names] == ["auto", "auto"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["a", "a"]}, "names 'a' twice"),
        ({"labels": "a"}, "takes a list of names"),
        ({"labels": [3]}, "holds 3: takes names"),
        ({"labels": []}, "labels names none"),
        ({"labels": ["a"], "label": "b"}, "leave label out"),
        ({"labels": {"a": {"requires": "b"}, "b": {"requires": "a"}}}, "'b', which has to stand before a"),
        ({"labels": {"a": {"requires": "a"}}}, "'a', which has to stand before a"),
        ({"labels": ["a", 'b"c']}, "which is none that a label can have"),
        ({"labels": ["a", {"b": {"requires": "a"}}, {"c": {"requires": "b"}}]}, "'b', which requires 'a' itself"),
        ({"labels": ["a", {"b": {"decide": {}}}], "decide": {"b": {}}}, "labels.b.decide and decide.b say the same"),
        ({"labels": ["a", ""]}, "the name '', which is none"),
        ({"labels": ["a", "default"]}, "the name 'default', which is none"),
        ({"labels": {"a": {"requires": "aa"}}}, "labels.a.requires = 'aa'; .*known: a"),
        ({"labels": {"a": {"act": "blok"}}}, "labels.a.act = 'blok'"),
        ({"labels": ["a", "b"], "decide": {"a": {}, "bb": {}}}, "'bb' is none of them; did you mean 'b'"),
        ({"labels": ["a", "b"], "decide": {"b": {"treshold": {}}}}, "unknown key 'labels.b.decide.treshold'"),
        ({"labels": ["a", "b"], "fusion": {"b": {"read": {"txt": "logits"}}}}, "'txt', which is not among modalities"),
    ],
)
def test_what_several_labels_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        several(**settings)


def test_a_label_may_be_called_as_a_setting_is():
    config = several(labels=["a", "review"], decide={"review": {"calibration": "auto"}})
    assert [config.for_label(name).decide.calibration for name in config.label_names] == ["temperature", "auto"]
    assert recorded_config(config.model_dump(mode="json"), "run.json") == config


def test_what_stands_inside_a_label_is_its_own_whatever_others_have():
    config = several(labels=["a", {"b": {"fusion": {"strategy": "linear"}}}], fusion={"a": {"strategy": "mean"}})
    assert [config.for_label(name).fusion.strategy for name in config.label_names] == ["mean", "linear"]
