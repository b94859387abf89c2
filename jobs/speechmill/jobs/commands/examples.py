"""`speechmill examples`: the configurations and the sample speech that ship with Speechmill."""

import shutil
from pathlib import Path

import speechmill.jobs
from speechmill.pipeline.errors import InputError

FOLDERS = ("configs", "samples")


def examples_folder() -> Path:
    """Return the folder that holds `configs/` and `samples/`: of the wheel, or of the checkout."""
    package = Path(next(iter(speechmill.jobs.__path__)))
    installed = package / "examples"
    return installed if installed.is_dir() else package.parents[2]


def copy_examples(target: Path) -> list[Path]:
    """Copy the examples into a folder and return the copies.

    Raises `InputError` if one of them is there already, before anything is copied, and if the
    folder cannot be written.
    """
    copies = [target / name for name in FOLDERS]
    for copy in copies:
        if copy.exists():
            raise InputError(f"{copy} exists; name another folder, or move it away")
    for copy in copies:
        try:
            shutil.copytree(examples_folder() / copy.name, copy)
        except OSError as error:  # shutil.Error is one, with a line for each file
            reason = error.strerror or f"{len(error.args[0])} files were not written"
            raise InputError(f"cannot copy the examples to {copy}: {reason}") from error
    return copies
