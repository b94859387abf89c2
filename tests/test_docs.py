"""Every page of the repository is held to the code: links, shell examples, Python examples."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from speechmill.codecs import codec_info
from speechmill.jobs.cli import app
from speechmill.jobs.config import from_overrides, load_config
from speechmill.jobs.schemas import EnhanceConfig, EvaluateConfig, PackConfig, TokenizeConfig
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.kmeans import FitConfig
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.schema import token_schema
from tests.conftest import REPOSITORY
from tests.corpus import write_corpus
from tests.one_shard import tokenize_one

PAGES = sorted(
    page
    for folder in (".", "docs", "infra", "samples", "configs")
    for page in REPOSITORY.glob(f"{folder}/*.md" if folder == "." else f"{folder}/**/*.md")
)
SHELL = ("", "bash", "console")
OTHER = ("python", "yaml", "toml", "text")
BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORT = re.compile(r"^from (speechmill\.[\w.]+) import (\([^)]*\)|.*)$", re.MULTILINE)
FROM_YAML: dict[str, type] = {
    "tokenize": TokenizeConfig,
    "plan": TokenizeConfig,
    "enhance": EnhanceConfig,
    "evaluate": EvaluateConfig,
    "train": TrainConfig,
    "fit-kmeans": FitConfig,
}


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in BLOCKS.findall(page.read_text()) if language in languages]


def shell_lines(page: Path) -> list[str]:
    """The commands of a page: of a session with prompts, the lines that begin with one."""
    lines = []
    for block in blocks(page, *SHELL):
        typed = block.replace("\\\n", " ").splitlines()
        prompted = [line.removeprefix("$ ") for line in typed if line.startswith("$ ")]
        lines += prompted or [line for line in typed if line.strip()]
    return lines


def examples(*commands: str) -> list[tuple[str, str]]:
    """Page and line of every `speechmill` command in the shell examples."""
    return [
        (name(page), line)
        for page in PAGES
        for line in shell_lines(page)
        if line.startswith("speechmill ") and (not commands or line.split()[1] in commands)
    ]


def parsed(line: str) -> tuple[str, dict]:
    """The command of a line and its parameters; unknown flags and missing arguments raise."""
    _, command, *arguments = shlex.split(line, comments=True)
    commands = typer.main.get_command(app).commands
    return command, commands[command].make_context(command, arguments).params


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_examples_are_the_same_in_bash_and_zsh(page):
    for line in shell_lines(page):
        unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", line).split(" #")[0]
        assert not re.search(r"[][{}*?<>…]", unquoted), f"quote the brackets: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_example_says_what_language_it_is_in(page):
    languages = {language for language, _ in BLOCKS.findall(page.read_text())}
    assert languages <= {*SHELL, *OTHER}
    assert not re.findall(r"^ {4}(?:\$ )?(?:speechmill|python|pip|make|jq) .*$", page.read_text())


@pytest.mark.parametrize(("page", "line"), examples())
def test_every_command_exists_with_its_flags_and_its_settings(page, line, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    command, given = parsed(line)
    overrides = given.get("overrides") or []
    if command in FROM_YAML:
        load_config(FROM_YAML[command], given["config"], overrides)
    elif command == "pack":
        from_overrides(PackConfig, ["source=a", "output=b", *overrides])
    elif overrides:  # over the configuration that made a dataset
        load_config(TokenizeConfig, REPOSITORY / "configs/tokenize/demo.yaml", overrides)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_in_the_prose_exists(page):
    commands = set(typer.main.get_command(app).commands)
    assert set(re.findall(r"`speechmill ([a-z][a-z-]*)", page.read_text())) <= commands


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_examples_import_names_that_exist(page):
    for block in blocks(page, "python"):
        for module, names in re.findall(IMPORT, block):
            if ".plain" not in module:  # the codec that a page builds
                assert set(re.findall(r"\w+", names)) <= set(dir(importlib.import_module(module)))


def test_the_table_of_columns_is_the_schema():
    written = []
    page = (REPOSITORY / "docs/guide/read-the-tokens.md").read_text()
    table = page.split("| column | type | |\n")[1].split("\n\n")[0]
    for names, kind in re.findall(r"^\| ([\w, ]+) \| ([\w&;]+\??) \|", table, re.MULTILINE):
        written += [(name, kind) for name in names.split(", ")]
    schema = token_schema(codec_info("null").codebook_sizes)
    kinds = {"list<element: uint16 not null>": "list&lt;uint16&gt;"}
    expected = [
        (field.name, kinds.get(str(field.type), str(field.type)) + "?" * field.nullable)
        for field in schema
    ]
    assert sorted(written) == sorted(expected)


def test_the_page_on_tokens_reads_a_dataset(tmp_path, monkeypatch, null_codec):
    write_corpus(tmp_path / "in", num_shards=1, clips_per_shard=3)
    [shard] = list_shards([str(tmp_path / "in")], Storage())
    tokenize_one(shard, str(tmp_path / "demo" / "tokens"), Storage(), null_codec)
    monkeypatch.chdir(tmp_path)
    for snippet in blocks(REPOSITORY / "docs/guide/read-the-tokens.md", "python"):
        found: dict = {}
        exec(snippet, found)
        assert found["codes_FK"].shape[1] == 8
