"""The code of docs/guide/add-a-codec.md works; the contract suite checks its codec too."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from speechmill.codecs import codec_card, list_codecs
from tests.codecs.page import BLOCKS, FILES, added, write_modules
from tests.codecs.sizes import count_networks


def test_the_page_s_examples_run() -> None:
    examples = [text for kind, text in BLOCKS if kind == "python" and "load_codec(" in text]
    assert len(examples) == 1
    with added():
        exec(examples[0], {})
    assert "plain-80hz" not in list_codecs()


def test_the_page_s_files_are_formatted_as_the_repository_is(tmp_path: Path) -> None:
    write_modules(tmp_path / "plain", "speechmill.codecs.plain")
    root = Path(__file__).parents[2]
    for check in (["format", "--check"], ["check", "--ignore", "I001"]):
        command = [sys.executable, "-m", "ruff", *check, "--config", root / "pyproject.toml"]
        done = subprocess.run([*command, tmp_path / "plain"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_page_s_card_counts_its_parameters() -> None:
    with added():
        from speechmill.codecs.plain.config import VARIANTS
        from speechmill.codecs.plain.model import PlainNetwork

        expected = count_networks(lambda: [PlainNetwork(VARIANTS["plain-80hz"])])
        assert codec_card("plain-80hz").parameters == expected


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Install the page's package, as pip installs a wheel."""
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    write_modules(tmp_path / "plain_codec", "plain_codec")
    [(group, entries)] = project["entry-points"].items()
    lines = [f"{name} = {value}" for name, value in entries.items()]
    name, info = "plain_codec-1.0", "plain_codec-1.0.dist-info"
    wheel = tmp_path / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for module in (tmp_path / "plain_codec").iterdir():
            archive.write(module, f"plain_codec/{module.name}")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n"
        )
        tags = "Root-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\n{tags}")
        archive.writestr(f"{info}/entry_points.txt", "\n".join([f"[{group}]", *lines]))
        archive.writestr(f"{info}/RECORD", "")
    install = ["install", "--quiet", "--no-index", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", *install, str(wheel)], check=True)
    return tmp_path / "site"


def test_an_installed_package_is_found_by_its_entry_point(site: Path) -> None:
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    listed = json.loads(run("-m", "speechmill.jobs.cli", "codecs", "--json"))
    assert "plain-80hz" in [codec["name"] for codec in listed]
    program = (
        "import torch; from speechmill.codecs import load_codec;"
        "codec = load_codec('plain-80hz'); size = torch.tensor([999]);"
        "print(codec.encode(torch.randn(1, 999), size).shape[1:], type(codec).__module__)"
    )
    assert run("-c", program).strip() == "torch.Size([2, 5]) plain_codec.codec"
