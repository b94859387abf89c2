"""Every local path of every command is absolute before any work begins."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from omegaconf import OmegaConf

from speechmill.jobs import cli
from speechmill.jobs.cli.datasets import absolute_or_bytes
from speechmill.jobs.config import for_each_codec, load_config
from speechmill.jobs.existing_dataset import StorageConfig
from speechmill.jobs.schemas import (
    EnhanceConfig,
    EvaluateConfig,
    PackConfig,
    TokenizeConfig,
)
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.kmeans import FitConfig
from speechmill.pipeline.paths import absolute_path
from speechmill.pipeline.storage import Storage
from tests.conftest import REPOSITORY

CODEC = {"name": "hasrd-2k"}
MINIMAL: dict[type, dict[str, Any]] = {
    TokenizeConfig: {"shards": ["a"], "output": "b", "codec": CODEC},
    TrainConfig: {
        "shards": ["a"],
        "output": "b",
        "codec": {"name": "focalcodec-50hz"},
        "phases": {"x": {"steps": 1}},
        "enhancement": "online",
        "enhancer": {"name": "spectral-gating"},
    },
    FitConfig: {"shards": ["a"], "output": "b", "codec": CODEC},
    EnhanceConfig: {"shards": ["a"], "output": "b", "enhancer": {"name": "spectral-gating"}},
    EvaluateConfig: {"clips": ["a"], "output": "b", "codecs": {"x": CODEC}},
    PackConfig: {"source": "a", "output": "b"},
    StorageConfig: {},
}
SECTION = "x"  # the name of a section that users name
CODEC_PATHS = {"checkpoint", "config", "options.semantic_checkpoint"}
PATHS = {
    TokenizeConfig: {"shards", "output", *(f"codec.{name}" for name in CODEC_PATHS)},
    TrainConfig: {
        "shards",
        "output",
        "codec.checkpoint",
        "codec.config",
        "recipe.wavlm",
        "enhancer.model",
        "augment.noise.shards",
        "augment.rooms.shards",
        "validation.shards",
    },
    FitConfig: {"shards", "output", *(f"codec.{name}" for name in CODEC_PATHS)},
    EnhanceConfig: {"shards", "output", "enhancer.model", "gate.dnsmos"},
    EvaluateConfig: {
        "clips",
        "output",
        "references",
        "metrics.dnsmos",
        *(f"codecs.{SECTION}.{name}" for name in CODEC_PATHS),
    },
    PackConfig: {"source", "output", "root"},
    StorageConfig: set(),
}
WITHOUT_PATHS = {  # last part of the name of each text, list of texts and dict
    "name", "sha256", "precision", "device",  # of a codec
    "channels", "gaps", "resampler", "member",  # audio
    "by", "list", "starts", "ends", "texts",  # segment
    "metadata", "quality",  # filters: an expression, an importable function
    "address", "env", "storage",
    "window", "spectrum", "enhanced", "states",  # enhancer
    "signal", "speaker", "recognizer", "reference_member",  # evaluate; models may be hub ids
    "recognizer_options", "normalizer",
    "pattern", "extensions", "format", "columns", "folder",  # pack
    "enhancement", "schedule", "on_collapse",
    "codecs",  # of tokenize: sections like codec, see below
}  # fmt: skip


def settings(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, type and metadata of every field that is not a section."""
    hints = get_type_hints(schema)
    for field in fields(schema):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        sections = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
        if sections:
            named = f".{SECTION}" if not is_dataclass(hint) and dict in kinds(hint) else ""
            yield from settings(sections[0], f"{name}{named}.")
        else:
            yield name, hint, field.metadata


def kinds(hint: Any) -> set[Any]:
    """The plain types that a hint is made of."""
    origin = getattr(hint, "__origin__", hint)
    return {origin}.union(*(kinds(each) for each in get_args(hint)))


def loaded(schema: type, folder: Path, *overrides: str) -> Any:
    path = folder / "config.yaml"
    path.write_text(OmegaConf.to_yaml(MINIMAL[schema]))
    return load_config(schema, path, list(overrides))


def value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


def test_these_are_the_schemas_of_all_commands() -> None:
    loaders = {"load_config", "from_overrides", "from_values"}
    found = set()
    for path in (REPOSITORY / "jobs").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in loaders:
                found.add(ast.unparse(call.args[0]))
    assert found == {schema.__name__ for schema in MINIMAL}


@pytest.mark.parametrize("schema", MINIMAL, ids=lambda schema: schema.__name__)
def test_every_field_of_text_is_declared_a_path_or_known_to_hold_none(schema: type) -> None:
    declared = {name.split(".options.")[0].split(".wavlm")[0] for name in PATHS[schema]}
    for name, hint, metadata in settings(schema):
        if not {str, dict} & kinds(hint):
            continue
        if "path" in metadata:
            assert name in declared, f"add {name} to PATHS"
        elif "path_entries" not in metadata:
            assert name.rpartition(".")[2] in WITHOUT_PATHS, f"is {name} a path?"


@pytest.mark.parametrize(
    ("schema", "name"), [(schema, name) for schema, names in PATHS.items() for name in names]
)
def test_a_relative_path_becomes_absolute(
    schema: type, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    several = any(list in kinds(hint) for known, hint, _ in settings(schema) if known == name)
    given = "['a/{00..03}.tar', b/, '../c/*.tar', s3://d/e]" if several else "a/b"
    found = value(loaded(schema, tmp_path, f"{name}={given}"), name)
    beside = [f"{tmp_path}/a/{{00..03}}.tar", f"{tmp_path}/b/", f"{tmp_path}/../c/*.tar"]
    assert found == ([*beside, "s3://d/e"] if several else f"{tmp_path}/a/b")


@pytest.mark.parametrize("path", ["a/x.tar", "./a/x.tar", ".", "./", "../a", "a/./b", "~/a", "/a"])
def test_a_path_is_spelled_as_in_the_datasets_of_earlier_versions(path: str) -> None:
    storage = Storage()
    assert storage.absolute(absolute_path(path)) == storage.absolute(path)


def test_entries_of_codecs_are_made_absolute_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entry = "{name: hasrd-2k, checkpoint: a, options: {semantic_checkpoint: b}}"
    [one] = for_each_codec(loaded(TokenizeConfig, tmp_path, f"codecs=[{entry}]"))
    assert one.codec.checkpoint == f"{tmp_path}/a"
    assert one.codec.options == {"semantic_checkpoint": f"{tmp_path}/b"}
    assert one.output == f"{tmp_path}/b/hasrd-2k"


@pytest.mark.parametrize("kept", ["untrained", "hf://a/b", "package://a/b", "s3://a/{0..1}.tar"])
def test_a_value_that_is_not_a_local_path_stays(kept: str, tmp_path: Path) -> None:
    config = loaded(TokenizeConfig, tmp_path, f"codec.checkpoint={kept}")
    assert config.codec.checkpoint == kept


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert absolute_path("~/shards/") == "/home/somebody/shards/"
    assert absolute_path("~nobody-of-this-name/x") == f"{Path.cwd()}/~nobody-of-this-name/x"


def test_paths_among_the_arguments_of_commands_are_made_absolute() -> None:
    others = {
        "kind",
        "pattern",
        "shifts",
        "run",
        "where",
        "by",
        "probe",
        "template",
        "without_text",
        "names",
    }
    # Of `pack` they become a PackConfig; `examples` has no path to make absolute by default; the
    # datasets of `duplicates` stand among settings of the store. A tokenizer may be `bytes`.
    elsewhere = {("pack", "source"), ("pack", "output"), ("examples", "folder")}
    elsewhere |= {("duplicates", "others"), ("export", "tokenizer")}
    assert absolute_or_bytes("t.json") == absolute_path("t.json")
    for command in cli.app.registered_commands:
        assert command.callback
        hints = get_type_hints(command.callback, include_extras=True)
        for name in inspect.signature(command.callback).parameters:
            if str not in kinds(get_args(hints[name])[0]) or name in others | {"overrides"}:
                continue
            [argument] = hints[name].__metadata__
            known = (command.name, name) in elsewhere
            of_each = getattr(argument, "parser", None)  # of an option that is given several times
            assert known or absolute_path in (argument.callback, of_each), name
