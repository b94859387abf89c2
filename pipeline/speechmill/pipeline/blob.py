"""The bytes of one member of a tar: in memory, or mapped from a file if it is large."""

import errno
import mmap
import tempfile
from collections.abc import Iterable

from speechmill.pipeline.errors import StorageFull

Blob = bytes | mmap.mmap

_IN_MEMORY = 64 * 2**20  # bytes; larger members go to a file
_PART = 2**22  # bytes that are copied at a time


def spool(parts: Iterable[bytes], size: int) -> Blob:
    """Join the parts of a member of `size` bytes, in memory or in an unnamed file.

    The result is shorter than `size` if the parts are. Raises `StorageFull` if the file does not
    fit.
    """
    if size <= _IN_MEMORY:
        return b"".join(parts)
    try:
        with tempfile.TemporaryFile() as file:
            for part in parts:
                file.write(part)
            file.flush()
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        folder = tempfile.gettempdir()
        raise StorageFull(f"{folder} is full: set TMPDIR to where large members fit") from error


def section(data: Blob, start: int, stop: int) -> Blob:
    """The bytes from `start` to `stop`; the data itself, without a copy, if that is all of it."""
    if (start, stop) == (0, len(data)):
        return data
    parts = (data[at : min(at + _PART, stop)] for at in range(start, stop, _PART))
    return spool(parts, stop - start)
