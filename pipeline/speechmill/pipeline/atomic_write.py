"""Files of a local disk, written whole or not at all."""

import errno
import os
import secrets
from pathlib import Path

_SHOWN = 50  # characters of a file's name in that of its temporary file


def replace_file(path: Path, data: bytes, exclusive: bool = False) -> None:
    """Write to a temporary file, then rename it: readers and crashes see the old file or the new.

    With `exclusive`, raises `FileExistsError` if the file exists. As of any new file, the umask and
    the folder decide who may read it.
    """
    try:
        _replace(path, data, exclusive)
    except FileNotFoundError:
        # A run whose clock is ahead takes a new temporary file for an old one, and removes it.
        _replace(path, data, exclusive)


def _replace(path: Path, data: bytes, exclusive: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Short, because the name of the file may be as long as the disk allows.
    temporary = path.with_name(f".{path.name[:_SHOWN]}.{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if exclusive and _link(temporary, path):
            temporary.unlink()
        else:
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _link(temporary: Path, path: Path) -> bool:
    """Hard-link a file to its name, which must be free; False if the disk has no hard links."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS) and not path.exists():
            return False
        raise
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
