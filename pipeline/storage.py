"""Objects on local disk, s3://, memory:// or anything else that fsspec knows.

The only module that imports fsspec. Errors of the backends leave it as `StorageError`.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs

from pipeline.errors import (
    StorageDenied,
    StorageError,
    StorageFull,
    StorageNotFound,
    StorageUnavailable,
)

READ_AHEAD = 8 * 2**20  # bytes per ranged GET of a streamed object

_BY_ERRNO: dict[int, type[StorageError]] = {
    errno.ENOENT: StorageNotFound,
    errno.EACCES: StorageDenied,
    errno.EPERM: StorageDenied,
    errno.EROFS: StorageDenied,
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: StorageFull,
    errno.EBUSY: StorageUnavailable,
}
# By name: the libraries of a backend that is not in use are never imported.
_BY_NAME: dict[str, type[StorageError]] = {
    "FileNotFoundError": StorageNotFound,
    "PermissionError": StorageDenied,
    "NoCredentialsError": StorageDenied,
    "PartialCredentialsError": StorageDenied,
    "TimeoutError": StorageUnavailable,
    "ConnectionError": StorageUnavailable,
    "HTTPClientError": StorageUnavailable,
    "EndpointConnectionError": StorageUnavailable,
    "ClientPayloadError": StorageUnavailable,
    "ClientConnectionError": StorageUnavailable,
}
_THROTTLED = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503", "500"}


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One object as a listing shows it."""

    url: str
    size: int  # bytes
    etag: str  # changes with the content: the store's ETag, or the time of the last change


@dataclass
class Storage:
    """Access to every store by URL; picklable, and opened anew in each process.

    `options` maps a protocol to the arguments of its fsspec filesystem, for instance
    `{"s3": {"endpoint_url": "http://127.0.0.1:9000"}}`.
    """

    options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def list_files(self, url: str, prefix: str = "") -> list[FileInfo]:
        """Every object below a folder whose name begins with `prefix`, sorted by URL."""
        with _translated(url):
            fs, path = self._resolve(url)
            narrowed = {"prefix": prefix} if prefix and "s3" in fs.protocol else {}
            found = fs.find(path, detail=True, **narrowed)
        return sorted(
            (_info(fs, name, details) for name, details in found.items()), key=lambda i: i.url
        )

    def glob(self, pattern: str) -> list[FileInfo]:
        """Every object that matches a pattern of `*`, `**`, `?` and `[…]`, sorted by URL."""
        with _translated(pattern):
            fs, path = self._resolve(pattern)
            found = fs.glob(path, detail=True)
        files = (_info(fs, name, d) for name, d in found.items() if d["type"] == "file")
        return sorted(files, key=lambda i: i.url)

    def info(self, url: str) -> FileInfo:
        with _translated(url):
            fs, path = self._resolve(url)
            return _info(fs, path, fs.info(path))

    def exists(self, url: str) -> bool:
        try:
            self.info(url)
        except StorageNotFound:
            return False
        return True

    def absolute(self, url: str) -> str:
        """The one spelling of a URL, by which it is compared and stored."""
        fs, path = self._resolve(url)
        return _unstripped(fs, path)

    def open(self, url: str) -> BinaryIO:
        """A sequential reader that fetches ranges ahead and never holds the whole object."""
        with _translated(url):
            fs, path = self._resolve(url)
            stream = fs.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead")
        return cast(BinaryIO, _Reader(stream, url))

    def read_bytes(self, url: str) -> bytes:
        with _translated(url):
            fs, path = self._resolve(url)
            return cast(bytes, fs.cat_file(path))

    def read_tail(self, url: str, size: int) -> bytes:
        """The last `size` bytes of an object, or all of a smaller one."""
        with _translated(url):
            fs, path = self._resolve(url)
            return cast(bytes, fs.tail(path, size))

    def put(self, url: str, data: bytes) -> None:
        """Write an object so that it appears whole or not at all."""
        with _translated(url):
            fs, path = self._resolve(url)
            if "file" in fs.protocol:
                _replace(Path(path), data)
            else:
                fs.pipe_file(path, data)

    def delete(self, url: str) -> None:
        with _translated(url):
            fs, path = self._resolve(url)
            fs.rm_file(path)

    def _resolve(self, url: str) -> tuple[fsspec.AbstractFileSystem, str]:
        protocol = url.partition("://")[0] if "://" in url else "file"
        # A listing kept from before a commit would hide it.
        options = {"use_listings_cache": False} | self.options.get(protocol, {})
        fs, path = url_to_fs(url, **options)
        return fs, str(path)


class _Reader:
    """A stream whose errors name the object and are ours."""

    def __init__(self, stream: BinaryIO, url: str):
        self._stream = stream
        self._url = url

    def read(self, size: int = -1) -> bytes:
        with _translated(self._url):
            return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def join(url: str, *parts: str) -> str:
    """A URL below another one."""
    return "/".join((url.rstrip("/"), *parts))


def _info(fs: fsspec.AbstractFileSystem, path: str, details: dict[str, Any]) -> FileInfo:
    stamps = ("ETag", "etag", "mtime", "LastModified", "created")
    stamp = next((details[name] for name in stamps if details.get(name)), "")
    if isinstance(stamp, datetime):
        stamp = stamp.timestamp()
    return FileInfo(_unstripped(fs, path), int(details["size"] or 0), str(stamp).strip('"'))


def _unstripped(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if "file" in fs.protocol else str(fs.unstrip_protocol(path))


def _replace(path: Path, data: bytes) -> None:
    """Write beside the target, then rename: a reader and a crash see the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        kind = _kind(error)
        if kind is None:
            raise
        raise kind(f"{url}: {type(error).__name__}: {error}") from error


def _kind(error: Exception) -> type[StorageError] | None:
    """Which of our errors a backend's error is; None for one that is no storage error."""
    for cause in (error, error.__cause__):
        response = getattr(cause, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code") in _THROTTLED:
            return StorageUnavailable
    for parent in type(error).__mro__:
        if parent.__name__ in _BY_NAME:
            return _BY_NAME[parent.__name__]
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, StorageError)
    return StorageError if type(error).__module__.startswith(("botocore", "aiohttp")) else None
