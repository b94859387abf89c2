"""Configurations: files, overrides, and the errors that name a mistake."""

from dataclasses import fields
from pathlib import Path

import pytest

from speechmill.codecs import codec_info
from speechmill.jobs.config import from_overrides, load_config, to_yaml
from speechmill.jobs.schemas import EnhanceConfig, EvaluateConfig, PackConfig, TokenizeConfig
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.kmeans import FitConfig
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.paths import absolute_path

ROOT = Path(__file__).parents[2]
MINIMAL = "shards: [a.tar]\noutput: out\ncodec: {name: pure-4k}\n"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "c.yaml").write_text(MINIMAL)
    return tmp_path / "c.yaml"


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs" / "tokenize").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_configuration_of_the_repository_is_valid(config):
    options = load_config(TokenizeConfig, config, []).codec_options()
    assert options["checkpoint"] in (None, "untrained")
    assert codec_info(options["name"], checkpoint="untrained")  # others are downloaded


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs" / "enhance").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_enhancement_of_the_repository_is_valid(config):
    assert load_config(EnhanceConfig, config, []).shards


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs" / "evaluate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_evaluation_of_the_repository_is_valid(config):
    loaded = load_config(EvaluateConfig, config, [])
    assert all(codec_info(codec.name) for codec in loaded.codecs.values())


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (TokenizeConfig, "tokenize/pure.yaml"),
        (EvaluateConfig, "evaluate/pure.yaml"),
        (EnhanceConfig, "enhance/ul-unas.yaml"),
    ],
)
def test_a_full_example_names_every_key_with_its_default(schema, name):
    path = ROOT / "configs" / name
    full = load_config(schema, path, [])
    for line in to_yaml(full).splitlines():
        assert f"{line.split(':')[0].strip('- ')}" in path.read_text()
    required = [getattr(full, field.name) for field in fields(schema)[:3]]
    assert full == schema(*required)


def test_a_named_section_has_the_keys_of_its_kind(tmp_path):
    (tmp_path / "e.yaml").write_text("clips: [a]\noutput: b\ncodecs: {x: {name: pure-4k}}\n")
    config = load_config(EvaluateConfig, tmp_path / "e.yaml", ["codecs.y.name=pure-1k"])
    assert sorted(config.codecs) == ["x", "y"]
    with pytest.raises(
        InputError, match=r"codecs\.x\.chekpoint; did you mean codecs\.x\.checkpoint"
    ):
        load_config(EvaluateConfig, tmp_path / "e.yaml", ["codecs.x.chekpoint=c"])


def test_overrides_replace_values_of_the_file(path):
    config = load_config(TokenizeConfig, path, ["workers.num_gpus=0.5", "output=/other"])
    assert (config.workers.num_gpus, config.output) == (0.5, "/other")


def test_a_resolved_configuration_can_be_run_again(path, tmp_path):
    config = load_config(TokenizeConfig, path, ["storage.s3.endpoint_url=http://x"])
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(TokenizeConfig, tmp_path / "again.yaml", []) == config


def test_a_saved_configuration_holds_no_secrets(path):
    secrets = {
        "storage.s3.key": "AKIA1",
        "storage.s3.secret": "hush",
        "storage.s3.client_kwargs.aws_session_token": "4711",
        "storage.abfs.connection_string": "AccountKey=hush",
        "ray.env.AWS_SECRET_ACCESS_KEY": "hush",
    }
    plain = {"storage.s3.endpoint_url": "http://127.0.0.1:9000", "ray.env.OMP_PROC_BIND": "close"}
    overrides = [f"{name}={value}" for name, value in (secrets | plain).items()]
    config = load_config(TokenizeConfig, path, overrides)
    kept = to_yaml(config)
    assert all(value in kept for value in plain.values())
    assert not any(value in kept for value in secrets.values())
    assert config.storage["s3"]["secret"] == "hush"  # the run itself still has it


def test_yaml_null_is_the_codec_null(path):
    config = load_config(TokenizeConfig, path, ["codec.name=null"])
    assert config.codec_options()["name"] == "null"


def test_the_codec_runs_where_the_workers_are(path):
    for gpus, device in ((0, "cpu"), (0.25, "cuda")):
        config = load_config(TokenizeConfig, path, [f"workers.num_gpus={gpus}"])
        assert config.codec_options()["device"] == device


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("worker.num_gpus=1", "unknown key worker; did you mean workers?"),
        ("workers.num_gpu=1", "unknown key workers.num_gpu; did you mean workers.num_gpus?"),
        ("workers=2", "workers is a section"),
        ("shards=a.tar", r"shards is a list; write shards=\["),
        ("workers.num_gpus=many", "workers.num_gpus: .*many"),
        ("audio.channels=left", "audio.channels is 'left'; use mean, first, error, each or"),
        ("audio.channels=-1", "audio.channels is -1; use"),
        ("audio.channels=true", "audio.channels is True; use"),
        ("audio.channels=[0]", r"audio.channels is \[0\]; use"),
        ("batch.seconds=0", "batch.seconds"),
        ("codec.precision=fp8", r"codec\.precision is 'fp8'; use one of fp32, tf32, bf16, fp16"),
        ("tokenize", "'tokenize' is not an override; write key=value"),
        ("output=2024_01", "output is text, but YAML reads 202401"),
        ("shards=[a, 01]", "shards is text, but YAML reads 1"),
        ("shards=[a", r"cannot read 'shards=\[a': .*expected ',' or '\]'"),
        ("shards=[{a,b}]", "shards is text, but YAML reads {'a': None, 'b': None}"),
        ("shards=[a{0..1}.tar, ${oc.env:b c d]", r"cannot read 'shards=\[a{0\.\.1}"),
        ("codec=[a]", "codec is a section"),
        ("output=${oc.env:NO_SUCH_VARIABLE}", "output: .*NO_SUCH_VARIABLE is not set; export it"),
        ('output="a\\0b"', r"'a\\x00b' holds a NUL byte"),
        (f"shards={'[' * 3000}", "cannot read .*nest"),
        ("output=${", r"cannot read 'output=\${'"),
    ],
)
def test_a_mistake_is_named_with_its_cure(path, override, message):
    with pytest.raises(InputError, match=message):
        load_config(TokenizeConfig, path, [override])


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (EvaluateConfig, "evaluate/pure.yaml"),
        (EnhanceConfig, "enhance/ul-unas.yaml"),
        (TrainConfig, "train/hasrd.yaml"),
        (FitConfig, "fit-kmeans/hasrd.yaml"),
    ],
)
def test_a_row_for_each_channel_is_only_for_tokens(schema, name):
    with pytest.raises(InputError, match="is 'each'; use mean, first, error or the number"):
        load_config(schema, ROOT / "configs" / name, ["audio.channels=each"])


@pytest.mark.parametrize(
    ("value", "shards"),
    [
        ("[in/s-{0..3}.tar]", ["in/s-{0..3}.tar"]),
        (
            "[ c{a,b}/ , corpus [v2]/,s3://b/{x,y{1..2}}/*.tar]",
            ["c{a,b}/", "corpus [v2]/", "s3://b/{x,y{1..2}}/*.tar"],
        ),
        ('["in/s-{0..3}.tar", b.tar]', ["in/s-{0..3}.tar", "b.tar"]),
    ],
)
def test_a_list_of_paths_may_hold_braces_and_brackets(path, value, shards):
    given = load_config(TokenizeConfig, path, [f"shards={value}"]).shards
    assert given == [absolute_path(each) for each in shards]


@pytest.mark.parametrize(
    ("first", "second", "key"),
    [
        ("shards=[s-0.tar]", "shards=[s-1.tar]", "shards"),
        ("output=a", "output=a", "output"),
        ("workers.count=1", "workers={count: 2, num_gpus: 0}", "workers.count"),
        ("shards[0]=a.tar", "shards=[b.tar]", "shards"),
        ("segment=null", "segment.by=none", "segment"),
    ],
)
def test_a_key_given_twice_is_refused_with_both_values_and_the_cure(path, first, second, key):
    with pytest.raises(InputError) as error:
        load_config(TokenizeConfig, path, [first, "limits.seconds=5", second])
    assert str(error.value).startswith(f"{key} is given twice, {first!r} and {second!r}; give")
    assert "single quotes" in str(error.value)


def test_a_secret_given_twice_is_not_shown(path):
    with pytest.raises(InputError) as error:
        load_config(TokenizeConfig, path, ["storage.s3.secret=abc", "storage.s3.secret=xyz"])
    assert str(error.value).startswith("storage.s3.secret is given twice; give it once")


@pytest.mark.parametrize("data", [b"- a list", b"a: [", b"\t", b"output: \xff\xfe"])
def test_a_file_that_is_not_a_configuration_is_refused(path, data):
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"c\.yaml"):
        load_config(TokenizeConfig, path, [])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("shards: [a\noutput: b: c\n", "line 2, column 7: did not find"),
        ("shards: [a]\n\toutput: b\n", "line 2, column 1: found character"),
        ("a: 1\na: 2\n", "line 2, column 1: found duplicate key a"),
    ],
)
def test_a_fault_of_a_yaml_file_is_one_line_with_its_place(path, text, place):
    path.write_text(text)
    with pytest.raises(InputError, match=rf"c\.yaml is not YAML: {place}") as found:
        load_config(TokenizeConfig, path, [])
    assert "\n" not in str(found.value)


def test_a_missing_file_and_a_missing_value_are_named(path, tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load_config(TokenizeConfig, tmp_path / "none.yaml", [])
    path.write_text("shards: [a.tar]\ncodec: {name: pure-4k}\n")
    with pytest.raises(InputError, match=r"output is not set; write it in .*c\.yaml or as output="):
        load_config(TokenizeConfig, path, [])
    with pytest.raises(InputError, match="source is not set"):
        from_overrides(PackConfig, ["output=x"])
