"""The installed wheel works, from a folder whose files are named like modules of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY

HOSTILE = ("json.py", "soundfile.py", "codecs.py", "speechmill.py")
HOSTILE_PACKAGES = ("pipeline", "jobs", "configs", "speechmill", "torch")


def run(*command: object, folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def speechmill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh environment with the wheel, and the libraries of this one."""
    root = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", root, folder=REPOSITORY)
    run(sys.executable, "-m", "venv", "--without-pip", root / "venv", folder=root)
    python = root / "venv" / "bin" / "python"
    [wheel] = root.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, folder=root)
    [site] = (root / "venv").glob("lib/python*/site-packages")
    libraries = [entry for entry in sys.path if entry.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    return root / "venv" / "bin" / "speechmill"


@pytest.fixture
def hostile(tmp_path: Path, speechmill: Path) -> Path:
    """The examples, in a folder where importing anything leaves a file `imported`."""
    run(speechmill, "examples", ".", folder=tmp_path)
    attack = f"open({str(tmp_path / 'imported')!r}, 'a').write(__file__)\nraise SystemExit(77)\n"
    for name in HOSTILE_PACKAGES:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "__init__.py").write_text(attack)
    for name in HOSTILE:
        (tmp_path / name).write_text(attack)
    return tmp_path


def test_the_demo_imports_nothing_from_the_working_directory(
    hostile: Path, speechmill: Path
) -> None:
    run(speechmill, "pack", "samples/manifest.jsonl", "demo/shards", "shard_mb=0.4", folder=hostile)
    run(speechmill, "tokenize", "configs/tokenize/demo.yaml", folder=hostile)
    assert "parts" in run(speechmill, "status", "demo/tokens", folder=hostile)
    run(speechmill, "decode", "demo/tokens", "demo/decoded", "--limit", "2", folder=hostile)
    run(speechmill, "evaluate", "configs/evaluate/demo.yaml", "max_clips=2", folder=hostile)
    assert len(pq.read_table(hostile / "demo" / "tokens" / "tokens")) == 30
    assert len(list((hostile / "demo" / "decoded").rglob("*.flac"))) == 2
    assert not (hostile / "imported").exists()


def test_the_wheel_installs_one_import_name(speechmill: Path) -> None:
    [site] = speechmill.parents[1].glob("lib/python*/site-packages")
    [record] = site.glob("speechmill-*.dist-info/RECORD")
    tops = {line.split("/")[0] for line in record.read_text().splitlines() if ".." not in line}
    assert {top for top in tops if not top.startswith("speechmill-")} == {"speechmill"}
    assert not (site / "speechmill" / "__init__.py").exists()


def test_the_examples_are_where_the_command_says(speechmill: Path, tmp_path: Path) -> None:
    configs, samples = run(speechmill, "examples", folder=tmp_path).splitlines()
    assert (Path(configs) / "tokenize" / "pure.yaml").is_file()
    assert (Path(samples) / "manifest.jsonl").is_file()
