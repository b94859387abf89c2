"""Every page of the repository is held to the code: links, shell examples, Python examples."""

import importlib.util
import re
import shlex
from itertools import takewhile
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import tokenizers
import typer
from typer.testing import CliRunner

from speechmill.jobs.cli import app
from speechmill.jobs.config import from_overrides, load_config
from tests.conftest import REPOSITORY
from tests.jobs.datasets import make_dataset
from tests.token_parts import make_token_dataset

PAGES = sorted(
    page
    for folder in (".", "docs", "infra", "samples", "configs")
    for page in REPOSITORY.glob(f"{folder}/*.md" if folder == "." else f"{folder}/**/*.md")
)
COMMANDS = typer.main.get_command(app).commands
SHELL = ("bash", "console")
OTHER = ("python", "yaml", "toml", "text")
BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`((?:docs|configs|samples|infra|tests|codecs|pipeline|jobs)/[\w./-]+)")
IMPORT = re.compile(r"^from (speechmill\.[\w.]+) import (\([^)]*\)|.*)$", re.MULTILINE)


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = module_of(REPOSITORY / "docs/reference/generate.py")
SCHEMAS = {**REFERENCE.COMMANDS, "plan": REFERENCE.COMMANDS["tokenize"]}


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


def speechmill_lines() -> list[tuple[str, str]]:
    """Page and line of every `speechmill` command in the shell examples."""
    lines = [(name(page), line) for page in PAGES for line in shell_lines(page)]
    return [(page, line) for page, line in lines if line.startswith("speechmill ")]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_examples_are_the_same_in_bash_and_zsh(page):
    for line in shell_lines(page):
        unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
        assert not re.search(r"[][{}*?<>…]", unquoted), f"quote the brackets: {line}"
        assert "#" not in unquoted, f"an interactive zsh passes comments as arguments: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_example_says_what_language_it_is_in(page):
    languages = {language for language, _ in BLOCKS.findall(page.read_text())}
    assert languages <= {*SHELL, *OTHER}
    assert not re.findall(r"^ {4}(?:speechmill|python|pip|make|jq) .*", page.read_text(), re.M)


@pytest.mark.parametrize(("page", "line"), speechmill_lines())
def test_every_command_exists_with_its_flags_and_its_settings(page, line, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = takewhile(lambda word: word != "|", shlex.split(line, comments=True))
    _, command, *arguments = words
    given = COMMANDS[command].make_context(command, arguments).params
    overrides = given.get("overrides") or []
    if command == "pack":
        from_overrides(SCHEMAS["pack"], ["source=a", "output=b", *overrides])
    elif command in SCHEMAS:
        load_config(SCHEMAS[command], given["config"], overrides)
    elif overrides:  # over the configuration that made a dataset
        load_config(SCHEMAS["tokenize"], Path("configs/tokenize/demo.yaml"), overrides)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_in_the_prose_exists(page):
    assert set(re.findall(r"`speechmill ([a-z][a-z-]*)", page.read_text())) <= COMMANDS.keys()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_in_the_prose_exists(page):
    for path in re.findall(FILE, page.read_text()):
        root, _, inner = path.partition("/")
        module = REPOSITORY / root / "speechmill" / root / inner
        plain = "/plain/" in path  # the codec that a page builds
        assert plain or (REPOSITORY / path).exists() or module.exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_examples_import_names_that_exist(page):
    for block in blocks(page, "python"):
        for module, names in re.findall(IMPORT, block):
            if ".plain" not in module:  # the codec that a page builds
                assert set(re.findall(r"\w+", names)) <= set(dir(importlib.import_module(module)))


def test_the_reference_is_what_the_code_says():
    for page, text in REFERENCE.pages().items():
        stored = (REPOSITORY / "docs/reference" / page).read_text()
        assert stored == text, f"{page} differs; run `python docs/reference/generate.py`"


@pytest.mark.parametrize("page", ["read-the-tokens.md", "export.md"])
def test_the_lines_for_each_consumer_of_tokens_run_in_the_order_of_the_page(
    page, tmp_path, monkeypatch
):
    dataset = make_dataset(tmp_path)
    (tmp_path / "demo").mkdir()
    Path(dataset.root).rename(tmp_path / "demo" / "tokens")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, "?")).save(
        f"{tmp_path}/tokenizer.json"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    codes = pq.read_table("demo/tokens/tokens")["codes"].to_pylist()
    stored = [np.array(each).reshape(-1, 8).tolist() for each in codes]
    for language, text in BLOCKS.findall((REPOSITORY / "docs/guide" / page).read_text()):
        if language == "bash":
            for line in text.splitlines():
                if line.startswith(
                    ("speechmill export", "speechmill compact", "speechmill decode")
                ):
                    done = CliRunner().invoke(app, shlex.split(line)[1:])
                    assert done.exit_code == 0, done.output
        elif language == "python":
            found: dict = {}
            exec(text, found)
            if "codes_FK" in found:
                assert np.asarray(found["codes_FK"]).tolist() in stored


def test_the_page_on_compaction_reads_an_index(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_token_dataset("demo/tokens", [[50, 100], [150]])
    page = REPOSITORY / "docs/guide/compact.md"
    first = next(line for line in shell_lines(page) if line.startswith("speechmill compact demo"))
    assert CliRunner().invoke(app, shlex.split(first)[1:]).exit_code == 0
    found: dict = {}
    for snippet in blocks(page, "python"):
        exec(snippet, found)
    assert (found["hours"] * 3600, found["frames"]) == (6.0, 300)
