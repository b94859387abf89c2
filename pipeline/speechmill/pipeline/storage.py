"""Objects on local disk, s3://, memory:// or any other store that fsspec supports.

It turns errors of the backends into `StorageError` and retries temporary faults; no other module
does, and the retries of s3fs and botocore are off.
"""

import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from speechmill.pipeline import web_files
from speechmill.pipeline.atomic_write import replace_file
from speechmill.pipeline.errors import InputError, StorageError, StorageNotFound, StorageUnavailable
from speechmill.pipeline.filesystems import (
    FileInfo,
    FileSystem,
    FoundFile,
    Listing,
    answer_time,
    file_details,
    file_info,
    find_files,
    glob_files,
    is_local,
    is_local_disk,
    linked_files,
    open_filesystem,
    url_of,
    walk_files,
)
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.metrics import STORAGE_BYTES, STORAGE_REQUESTS, STORAGE_RETRIES, record
from speechmill.pipeline.redaction import public_text, public_url, remember_options
from speechmill.pipeline.retry import Backoff
from speechmill.pipeline.signed_urls import SignedUrls
from speechmill.pipeline.storage_errors import http_status, translated

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_AHEAD = 8 * 2**20  # bytes per ranged GET of a streamed object
_READ_SIZE = 2**20  # bytes of one read of the buffer: tars are read in many small parts
REQUEST_BYTES = _READ_SIZE + READ_AHEAD  # of a GET while an object is streamed
LEFTOVER_AGE = 24 * 3600.0  # s; no write to a local disk takes longer
_RETRY = Backoff(first=0.2, longest=20.0)

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass
class Storage:
    """Access to every store by URL; picklable, each process opens its own connections.

    Every method raises a `StorageError` that names the URL, such as `StorageNotFound`.
    `options` maps a protocol to the arguments of its fsspec filesystem, for instance
    `{"s3": {"endpoint_url": "http://127.0.0.1:9000"}}`.
    """

    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    patience: float = 300.0  # s for which one operation is retried after temporary faults
    _urls: SignedUrls = field(default_factory=SignedUrls, repr=False, compare=False)

    def __post_init__(self) -> None:
        remember_options(self.options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Know the secrets in each process that a worker's job is sent to."""
        vars(self).update(state)
        self.__post_init__()

    def list_files(self, url: str, prefix: str = "") -> list[FileInfo]:
        """Every object below a folder whose name starts with `prefix`, sorted by URL."""
        files = self._try("list", url, lambda fs, path: find_files(fs, path, prefix))
        return [self._listed(file) for file in files]

    def walk(
        self, url: str, roots: Sequence[str] | None
    ) -> tuple[list[FoundFile], list[PassedOver]]:
        """Every file below a folder, sorted by URL, and what was passed over.

        On a local disk, links are followed that lead below one of `roots`; if that is None, all.
        """
        if not is_local(url):
            return [FoundFile(info.url, info) for info in self.list_files(url)], []
        return self._try("list", url, lambda _, path: walk_files(path, roots))

    def list_linked(self, url: str) -> Listing:
        """Every file below a folder, sorted by URL, and what was passed over.

        On a local disk, links are followed that lead below the folder; no folder is read twice.
        """
        if not is_local(self.absolute(url)):
            return self.list_files(url), []
        return self._try("list", url, lambda _, path: linked_files(path))

    def glob(self, pattern: str) -> Listing:
        """Every object that matches a pattern of `*`, `**`, `?` and `[…]`, sorted by URL.

        Links to nothing are passed over.
        """
        files, passed_over = self._try("list", pattern, glob_files)
        return [self._listed(file) for file in files], passed_over

    def info(self, url: str) -> FileInfo:
        return self._listed(self._try("info", url, file_info))

    def exists(self, url: str) -> bool:
        try:
            self.info(url)
        except StorageNotFound:
            return False
        return True

    def clock(self, url: str) -> datetime | None:
        """The time at the S3 store of a URL, to the second; None for other stores."""
        return self._try("info", url, answer_time)

    def absolute(self, url: str) -> str:
        """The canonical spelling of a URL, used to compare and store it, without credentials."""
        with _named(public_url(url)):
            fs, path = self._resolve(url)
        return self._urls.public(url_of(fs, path))

    def open(self, url: str) -> BinaryIO:
        """A sequential reader that prefetches ranges and never holds the whole object."""
        return io.BufferedReader(_Reader(self, url), _READ_SIZE)

    def read_bytes(self, url: str) -> bytes:
        with self.open(url) as stream:
            return stream.read()

    def read_small(self, url: str, limit: int) -> bytes:
        """The content of a stranger's object; raises `InputError` for more than `limit` bytes."""
        size = self.info(url).size
        if size > limit:
            raise InputError(f"{url} has {size} bytes, and no such file has over {limit}")
        return self.read_bytes(url)

    def read_tail(self, url: str, size: int) -> bytes:
        """The last `size` bytes of an object, or all bytes of a smaller one."""

        def tail(fs: FileSystem, path: str) -> bytes:
            whole = file_details(fs, path)["size"]
            wanted = min(size, whole)
            data: bytes = fs.cat_file(path, start=whole - wanted, end=whole) if wanted else b""
            return _whole(data, wanted)[len(data) - wanted :]  # all comes without ranges

        data = self._try("read", url, tail)
        record(STORAGE_BYTES, len(data), direction="in")
        return data

    def put(self, url: str, data: bytes) -> None:
        """Write an object atomically."""

        def put(fs: FileSystem, path: str) -> None:
            if is_local_disk(fs):
                replace_file(Path(path), data)
            else:
                fs.pipe_file(path, data)

        self._try("write", url, put)
        record(STORAGE_BYTES, len(data), direction="out")

    def put_new(self, url: str, data: bytes) -> bool:
        """Write an object atomically if it does not exist; False if it does.

        A store without conditional writes replaces it.
        """

        def put(fs: FileSystem, path: str) -> bool:
            try:
                if is_local_disk(fs):
                    replace_file(Path(path), data, exclusive=True)
                else:
                    fs.pipe_file(path, data, mode="create")
            except OSError as error:
                if (
                    isinstance(error, FileExistsError)
                    or http_status(error) == HTTPStatus.PRECONDITION_FAILED
                ):
                    return False
                raise
            return True

        is_new = self._try("write", url, put)
        record(STORAGE_BYTES, len(data), direction="out")
        return is_new

    def delete(self, url: str) -> None:
        self._try("delete", url, lambda fs, path: fs.rm_file(path))

    def clear_leftovers(self, url: str, before: float | None = None) -> int:
        """Remove the temporary files of killed local writes; returns their number.

        `before`, in s since the epoch, is by default a day ago.
        """
        old = time.time() - LEFTOVER_AGE if before is None else before

        def clear(fs: FileSystem, path: str) -> int:
            count = 0
            for leftover in Path(path).glob(".*.tmp") if is_local_disk(fs) else ():
                with suppress(FileNotFoundError):  # another run removes them too
                    if leftover.stat().st_mtime < old:
                        leftover.unlink()
                        count += 1
            return count

        return self._try("delete", url, clear)

    def _try(self, kind: str, url: str, operation: Callable[[FileSystem, str], Result]) -> Result:
        """Run an operation; retry it after temporary faults until `patience` is over.

        Raises `InputError` for an option that the library of the store does not know.
        """
        started = time.monotonic()
        attempt = 0
        while True:
            record(STORAGE_REQUESTS, 1, operation=kind)
            try:
                with _named(public_url(url)):
                    return operation(*self._resolve(url))
            except StorageUnavailable as error:
                attempt += 1
                delay = _RETRY.delay(url, attempt)
                spent = time.monotonic() - started
                if spent + delay > self.patience:
                    raise StorageUnavailable(
                        f"{error} (tried {attempt} times in {spent:.0f} s)"
                    ) from error
                record(STORAGE_RETRIES, 1)
                logger.info("attempt %d in %.1f s: %s", attempt + 1, delay, error)
                time.sleep(delay)
            except TypeError as error:
                if "unexpected keyword argument" not in str(error) or not self.options:
                    raise
                section = f"storage.{url.partition('://')[0]}"
                raise InputError(f"{public_url(url)}: {section} is wrong: {error}") from error

    def _listed(self, file: FileInfo) -> FileInfo:
        url = self._urls.public(file.url)
        return file if url == file.url else replace(file, url=url)

    def _resolve(self, url: str) -> tuple[FileSystem, str]:
        self._urls.public(url)
        return open_filesystem(self._urls.whole(url), self.options)


class _Reader(io.RawIOBase):
    """A stream that raises `StorageError` with the name of the object.

    A read that fails, or returns too few bytes, is repeated on a new connection.
    """

    def __init__(self, storage: Storage, url: str):
        self._storage = storage
        self._url = url
        self._stream: BinaryIO | None = None
        self._version: tuple[int, str] | None = None  # size and ETag
        self._position = 0
        storage._try("open", url, self._open)

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._position))

        def read(fs: FileSystem, path: str) -> bytes:
            stream = self._stream or self._open(fs, path)
            self._stream = None
            stream.seek(self._position)
            data = _whole(stream.read(wanted), wanted)
            self._stream = stream
            return data

        if wanted:
            view[:wanted] = self._storage._try("read", self._url, read)
            record(STORAGE_BYTES, wanted, direction="in")
            self._position += wanted
        return wanted

    @property
    def _size(self) -> int:
        return self._version[0] if self._version else 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if self._stream:
            self._stream.close()
        super().close()

    def _open(self, fs: FileSystem, path: str) -> BinaryIO:
        # A web server that says the size to a range only would be asked in vain.
        known = {"size": file_details(fs, path)["size"]} if web_files.is_web(fs) else {}
        stream: Any = fs.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead", **known)
        details = getattr(stream, "details", None) or {}
        version = (stream.size, str(details.get("ETag", "")))
        if version != (self._version or version):
            raise StorageError(f"{public_url(self._url)} was replaced while it was read")
        self._version = version
        self._stream = stream
        return cast(BinaryIO, stream)


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn errors of a store's library into ours, with the URL.

    Raises `InputError` for a URL that the library does not take, or cannot do this with.
    """
    with translated(url):
        try:
            yield
        except (ValueError, NotImplementedError) as error:
            if "range requests" in str(error):
                error = ValueError("its web server sends no ranges; copy it to a disk or a store")
            said = public_text(str(error)) or "not possible there"
            raise InputError(f"{url}: {said}") from error


def _whole(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise StorageUnavailable(f"the body ended after {len(data)} of {size} bytes")
    return data


def join(url: str, *parts: str) -> str:
    """The URL of an object below a folder."""
    return "/".join((url.rstrip("/"), *parts))
