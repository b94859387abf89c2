"""Objects on local disk, s3://, memory:// or any other store that fsspec supports.

It turns errors of the backends into `StorageError` and retries temporary faults; no other module
does, and the retries of s3fs and botocore are off.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from speechmill.pipeline.atomic_write import replace_file
from speechmill.pipeline.errors import InputError, StorageNotFound, StorageUnavailable
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
from speechmill.pipeline.object_reader import ObjectReader, ObjectStream, whole
from speechmill.pipeline.redaction import public_text, public_url, remember_options
from speechmill.pipeline.retry import Backoff
from speechmill.pipeline.signed_urls import SignedUrls
from speechmill.pipeline.storage_errors import http_status, translated

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
            fs, path = self.resolve(url)
        return self._urls.public(url_of(fs, path))

    def open(self, url: str) -> BinaryIO:
        """A reader for any place of an object, which never holds the whole object."""
        return ObjectStream(ObjectReader(self, url))

    def stream(self, url: str, version: FileInfo | None = None) -> ObjectStream:
        """A reader from front to back, for which threads fetch ahead from stores.

        Raises `ObjectReplaced`, also later, if the object is not the `version` of a listing. S3 is
        not asked for the version before the first bytes.
        """
        return ObjectStream(ObjectReader(self, url, ahead=True, version=version))

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
            end = file_details(fs, path)["size"]
            wanted = min(size, end)
            data: bytes = fs.cat_file(path, start=end - wanted, end=end) if wanted else b""
            return whole(data, wanted)[len(data) - wanted :]  # all comes without ranges

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
        return self.retried(kind, url, lambda: operation(*self.resolve(url)))

    def retried(
        self,
        kind: str,
        url: str,
        operation: Callable[[], Result],
        failed: StorageUnavailable | None = None,
    ) -> Result:
        """Run an operation; retry it after temporary faults until `patience` is over.

        `failed` is the fault of an attempt before. Raises `InputError` for an option that the
        library of the store does not know.
        """
        started = time.monotonic()
        attempt = 0
        while True:
            if failed is None:
                try:
                    return self.once(kind, url, operation)
                except StorageUnavailable as error:
                    failed = error
            attempt += 1
            delay = _RETRY.delay(url, attempt)
            spent = time.monotonic() - started
            if spent + delay > self.patience:
                raise StorageUnavailable(
                    f"{failed} (tried {attempt} times in {spent:.0f} s)"
                ) from failed
            record(STORAGE_RETRIES, 1)
            logger.info("attempt %d in %.1f s: %s", attempt + 1, delay, failed)
            time.sleep(delay)
            failed = None

    def once(self, kind: str, url: str, operation: Callable[[], Result]) -> Result:
        """Run an operation once; raises a `StorageError` with the URL."""
        record(STORAGE_REQUESTS, 1, operation=kind)
        try:
            with _named(public_url(url)):
                return operation()
        except TypeError as error:
            if "unexpected keyword argument" not in str(error) or not self.options:
                raise
            section = f"storage.{url.partition('://')[0]}"
            raise InputError(f"{public_url(url)}: {section} is wrong: {error}") from error

    def _listed(self, file: FileInfo) -> FileInfo:
        url = self._urls.public(file.url)
        return file if url == file.url else replace(file, url=url)

    def resolve(self, url: str) -> tuple[FileSystem, str]:
        self._urls.public(url)
        return open_filesystem(self._urls.whole(url), self.options)


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


def join(url: str, *parts: str) -> str:
    """The URL of an object below a folder."""
    return "/".join((url.rstrip("/"), *parts))
