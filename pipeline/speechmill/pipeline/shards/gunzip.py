"""A tar inside gzip as a stream of its bytes, read once and strictly."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from speechmill.pipeline.errors import ShardCut, ShardDamaged

_MAGIC = b"\x1f\x8b"


class ForwardStream(Protocol):
    """What reading a tar needs of a file."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...


def is_gzip(stream: BinaryIO) -> bool:
    """Whether the rest of a file begins as gzip does; the stream stands where it stood."""
    start = stream.tell()
    head = stream.read(len(_MAGIC))
    stream.seek(start)
    return head == _MAGIC


@dataclass(slots=True)
class Gunzip:
    """The unpacked bytes of one or several gzip members, one after the other.

    It goes forward only, in small steps: memory does not grow with what is read or passed. Its
    methods raise `ShardCut` if the file ends inside a gzip member, and `ShardDamaged` for a wrong
    checksum and for anything but zeros behind the last member. RFC 1952.
    """

    packed: BinaryIO
    url: str
    _file: gzip.GzipFile = field(init=False)

    def __post_init__(self) -> None:
        self._file = gzip.GzipFile(fileobj=self.packed, mode="rb")

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; fewer at the end only, after all checksums were compared."""
        with self._checked():
            return self._file.read(size)

    def seek(self, offset: int, /) -> int:
        """Pass bytes up to an offset, or to the end if that comes first."""
        with self._checked():
            return self._file.seek(offset)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except EOFError as error:
            raise ShardCut(f"{self.url} is cut: its gzip data has no end") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ShardDamaged(f"{self.url} is damaged gzip: {error}") from error
