"""One object of a store as a file of one version; a read that fails is repeated."""

import io
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from speechmill.pipeline import s3_ranges, web_files
from speechmill.pipeline.errors import ObjectReplaced, StorageUnavailable
from speechmill.pipeline.filesystems import (
    FileInfo,
    FileSystem,
    file_details,
    info_of,
    is_local_disk,
    is_s3,
)
from speechmill.pipeline.metrics import STORAGE_BYTES, record
from speechmill.pipeline.read_ahead import RANGE_BYTES, Range, ReadAhead
from speechmill.pipeline.redaction import public_url
from speechmill.pipeline.storage_errors import http_status

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 2**20  # of one read: tars are read in many small parts

Result = TypeVar("Result")


class Operations(Protocol):
    """How a store runs operations on an object, and names it in their errors."""

    def resolve(self, url: str, /) -> tuple[FileSystem, str]:
        """The filesystem of a URL and the path there."""
        ...

    def once(self, kind: str, url: str, operation: Callable[[], Result], /) -> Result:
        """Run an operation once."""
        ...

    def retried(
        self,
        kind: str,
        url: str,
        operation: Callable[[], Result],
        failed: StorageUnavailable | None = None,
        /,
    ) -> Result:
        """Run an operation until it succeeds; `failed` is how a first attempt ended."""
        ...


class ObjectReader(io.RawIOBase):
    """Reads an object in ranges; raises a `StorageError` that names it.

    With `ahead`, threads fetch the ranges that follow meanwhile. A `version` is one that a listing
    showed; any other is refused with `ObjectReplaced`.
    """

    def __init__(
        self,
        operations: Operations,
        url: str,
        *,
        ahead: bool = False,
        version: FileInfo | None = None,
    ):
        self._operations = operations
        self._url = url
        self._position = 0
        self._block_start, self._block = 0, memoryview(b"")
        self._file: Any = None
        self._by_etag = False  # whether ranges are asked for by the ETag of the version
        self._lock = threading.Lock()
        self._version = version
        operations.retried("open", url, self._open_first)
        self._size = self.info.size
        remote = not is_local_disk(self._fs)
        self._more = RANGE_BYTES if remote else 0
        self._ahead = ReadAhead(self._fetch_once, self._size) if ahead and remote else None

    @property
    def info(self) -> FileInfo:
        """The version that is read: the URL, and size and ETag as a listing shows them."""
        assert self._version
        return self._version

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._position))
        if wanted and not 0 <= self._position - self._block_start < len(self._block):
            self._next_block(wanted)
        offset = self._position - self._block_start
        part = self._block[offset : offset + wanted] if wanted else b""
        view[: len(part)] = part
        self._position += len(part)
        return len(part)

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
        self._ahead = None
        if self._file:
            self._file.close()
        super().close()

    def _next_block(self, wanted: int) -> None:
        begun = self._ahead.take(self._position) if self._ahead else None
        start = begun.start if begun else self._position
        end = begun.end if begun else min(self._size, self._position + wanted + self._more)
        data, failed = _result(begun) if begun else (None, None)
        if data is None:
            data = self._operations.retried(
                "read", self._url, lambda: self._fetch(start, end), failed
            )
        self._block_start, self._block = start, memoryview(data)

    def _fetch_once(self, start: int, end: int) -> bytes:
        return self._operations.once("read", self._url, lambda: self._fetch(start, end))

    def _fetch(self, start: int, end: int) -> bytes:
        """The bytes of a range, by one request; called from several threads."""
        try:
            data = whole(self._read(start, end), end - start)
        except Exception as error:
            self._file = None  # the next attempt opens the object again, to compare its version
            if http_status(error) == HTTPStatus.PRECONDITION_FAILED:
                raise self._replaced() from error
            raise
        record(STORAGE_BYTES, len(data), direction="in")
        return data

    def _read(self, start: int, end: int) -> bytes:
        if self._by_etag:
            try:
                return s3_ranges.fetch(self._fs, self._path, self.info.etag, start, end)
            except Exception as error:
                if http_status(error) != HTTPStatus.PRECONDITION_FAILED:
                    raise
            # It was replaced, which s3fs finds too, or the store does not know its own ETag again.
            self._by_etag = False
        with self._lock:
            file = self._file or self._open()
        if hasattr(file, "cache"):  # of a store, whose files may be read by several threads
            return bytes(file.cache.fetcher(start, end))
        with self._lock:
            file.seek(start)
            return bytes(file.read(end - start))

    def _open_first(self) -> None:
        self._fs, self._path = self._operations.resolve(self._url)
        self._by_etag = is_s3(self._fs)
        if self._by_etag:
            s3_ranges.connect(self._fs)
        if not (self._by_etag and self._version):
            self._open()

    def _open(self) -> Any:
        known: dict[str, Any] = {}
        if web_files.is_web(self._fs):
            # A web server that says the size to a range only would be asked in vain.
            details = file_details(self._fs, self._path)
            known = {"size": details["size"]}
        file: Any = self._fs.open(self._path, "rb", cache_type="none", **known)
        if not known:
            details = getattr(file, "details", None) or file_details(self._fs, self._path)
        version = replace(info_of(self._fs, self._path, details), url=self._url)
        if version != (self._version or version):
            raise self._replaced()
        self._version, self._file = version, file
        return file

    def _replaced(self) -> ObjectReplaced:
        return ObjectReplaced(f"{public_url(self._url)} was replaced while it was read")


def _result(begun: Range) -> tuple[bytes | None, StorageUnavailable | None]:
    """The bytes that came, or the temporary fault of the attempt; raises any other."""
    try:
        return begun.data.result(), None
    except StorageUnavailable as error:
        return None, error


class ObjectStream(io.BufferedReader):
    """A buffered `ObjectReader` that says which version it reads."""

    def __init__(self, reader: ObjectReader):
        super().__init__(reader, BUFFER_BYTES)
        self.info = reader.info


def whole(data: bytes, size: int) -> bytes:
    """The data; raises `StorageUnavailable` if some are missing."""
    if len(data) < size:
        raise StorageUnavailable(f"the body ended after {len(data)} of {size} bytes")
    return data
