"""Every statement of the README that can be tested."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from speechmill.codecs import codec_info
from speechmill.jobs.cli import app
from speechmill.jobs.config import from_overrides, load_config
from speechmill.jobs.schemas import EvaluateConfig, PackConfig, TokenizeConfig
from speechmill.jobs.training.config import TrainConfig
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.schema import token_schema
from tests.corpus import write_corpus
from tests.one_shard import tokenize_one

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_of_columns_is_the_schema():
    written = []
    for names, kind in re.findall(r"^\| ([\w, ]+) \| ([\w&;]+\??) \|", README, re.MULTILINE):
        if names != "column":
            written += [(name, kind) for name in names.split(", ")]
    schema = token_schema(codec_info("null").codebook_sizes)
    kinds = {"list<element: uint16 not null>": "list&lt;uint16&gt;"}
    expected = [
        (field.name, kinds.get(str(field.type), str(field.type)) + "?" * field.nullable)
        for field in schema
    ]
    assert sorted(written) == sorted(expected)


def commands() -> list[str]:
    return re.findall(r"^speechmill .*?(?=\s+#|$)", README, re.MULTILINE)


@pytest.mark.parametrize("command", commands())
def test_every_command_exists(command):
    _, name, *arguments = shlex.split(command)
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0
    if name == "tokenize":
        assert load_config(TokenizeConfig, ROOT / arguments[0], arguments[1:]).shards
    if name in ("train", "evaluate"):
        schema = {"train": TrainConfig, "evaluate": EvaluateConfig}[name]
        load_config(schema, ROOT / arguments[0], arguments[1:])
    if name == "pack":
        assert from_overrides(PackConfig, ["source=a", "output=b", *arguments[2:]]).shard_mb


def test_the_snippet_reads_a_dataset(tmp_path, monkeypatch, null_codec):
    write_corpus(tmp_path / "in", num_shards=1, clips_per_shard=3)
    [shard] = list_shards([str(tmp_path / "in")], Storage())
    tokenize_one(shard, str(tmp_path / "demo" / "tokens"), Storage(), null_codec)
    monkeypatch.chdir(tmp_path)
    [snippet] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found: dict = {}
    exec(snippet, found)
    assert found["codes_FK"].shape[1] == 8


def test_every_link_has_a_target():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
