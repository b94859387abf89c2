"""The members of a tar by their headers: ustar, GNU and PAX, read once and strictly.

`tarfile` takes a damaged header for the end of a tar, loses names after a bad PAX record, and reads
extension headers by recursion and with a regular expression of quadratic time. Here reading takes
linear time and little memory whatever the headers say: everything is data from strangers. Formats:
POSIX.1-2017 `pax`, and the GNU tar manual.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from speechmill.pipeline.errors import ShardCut, ShardDamaged
from speechmill.pipeline.mislabelled import describe_mislabelled
from speechmill.pipeline.shards.gunzip import ForwardStream
from speechmill.pipeline.text import decode_name, shown

BLOCK = 512  # bytes
_MAX_EXTENSION = 2**20  # bytes of one extension header; Go and libarchive allow as much
_NEAR = 2**13  # bytes; extension headers that are longer hold no names
_MAX_CHAIN = 16  # extension headers of one member; writers use at most four
_MAX_DIGITS = 20  # of a number in a PAX record
# Kinds of headers, by their byte.
_OF_V7 = 0  # a file, or a folder if its name ends in a slash
_REGULAR = {_OF_V7, *b"07"}
_WITHOUT_DATA = {*b"123456"}  # links, devices, folders and pipes, whatever their size says
_DIRECTORY, _SPARSE, _LONG_NAME, _LONG_LINK, _PAX_GLOBAL = b"5SLKg"
_EXTENSIONS = {_LONG_NAME, _LONG_LINK, _PAX_GLOBAL, *b"xX"}  # X: x of Solaris


@dataclass(frozen=True, slots=True)
class Header:
    """One member; the stream stands at its data while it is the latest one."""

    name: str
    name_cleaned: bool  # the name has bytes that are not UTF-8
    size: int  # bytes of its data
    offset_data: int
    is_regular: bool
    is_directory: bool


@dataclass(slots=True)
class _Extension:
    """What the extension headers before a member say about it."""

    name: bytes = b""
    size: int | None = None
    sparse: bool = False


@dataclass(slots=True)
class TarHeaders:
    """Iterates over the members of a tar; raises `ShardCut` or `ShardDamaged` with a byte."""

    stream: ForwardStream
    url: str
    size: int | None  # bytes of the tar; None: known at its end
    _position: int = 0  # of the next header

    def __iter__(self) -> Iterator[Header]:
        while header := self._member():
            yield header
            self.stream.seek(self._position)
        self._refuse_trailing()

    def _member(self) -> Header | None:
        """The next member; None at the end marker."""
        extension = _Extension()
        for count in range(_MAX_CHAIN + 1):
            offset, block = self._position, self._header_block()
            if not any(block):
                if count:
                    raise self._damaged(offset, "no member follows an extension header")
                return None
            size = self._size(block[124:136], offset)
            if block[156] not in _EXTENSIONS:
                return self._header(block, offset, size, extension)
            self._read_extension(block[156], size, offset, extension)
        raise self._damaged(offset, f"over {_MAX_CHAIN} extension headers for one member")

    def _header_block(self) -> bytes:
        offset, block = self._position, self.stream.read(BLOCK)
        if len(block) < BLOCK:
            self._refuse_foreign(block)
            raise ShardCut(f"{self.url} is cut at byte {offset}: no end marker follows")
        self._position += BLOCK
        if any(block) and not _has_checksum(block):
            self._refuse_foreign(block)
            raise self._damaged(offset, f"no tar header: its checksum is {block[148:156]!r}")
        return block

    def _refuse_foreign(self, block: bytes) -> None:
        if self._position <= BLOCK and (foreign := describe_mislabelled(block)):
            raise ShardDamaged(f"{self.url} is {foreign}")

    def _header(self, block: bytes, offset: int, size: int, extension: _Extension) -> Header:
        kind, name = block[156], extension.name or _ustar_name(block)
        if extension.size is not None:
            size = extension.size
        if kind == _SPARSE:
            self._skip_sparse_map(block)
        is_directory = kind == _DIRECTORY or (kind == _OF_V7 and name.endswith(b"/"))
        start, stored = self._position, 0 if is_directory or kind in _WITHOUT_DATA else size
        decoded, cleaned = decode_name(name)
        if self.size is not None and start + stored > self.size:
            raise ShardCut(
                f"{self.url} is cut at byte {self.size}: member '{shown(decoded[:200])}', whose "
                f"header is at byte {offset}, goes on to byte {start + stored}"
            )
        self._position = start + -(-stored // BLOCK) * BLOCK
        is_regular = kind in _REGULAR and not extension.sparse
        return Header(decoded, cleaned, size, start, is_regular, is_directory)

    def _read_extension(self, kind: int, size: int, offset: int, extension: _Extension) -> None:
        if size > _MAX_EXTENSION:
            why = f"an extension header of {size} bytes; at most {_MAX_EXTENSION} are read"
            raise self._damaged(offset, why)
        padded = -(-size // BLOCK) * BLOCK
        data = self.stream.read(padded)
        if len(data) < padded:
            end = self._position + len(data)
            raise ShardCut(f"{self.url} is cut at byte {end}, in the header at byte {offset}")
        self._position += padded
        if kind == _LONG_NAME:
            extension.name = data[:size].partition(b"\0")[0]
        elif kind != _LONG_LINK:
            for keyword, value in self._records(data[:size], offset):
                self._apply(keyword, value, kind == _PAX_GLOBAL, offset, extension)

    def _records(self, data: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
        """Keywords and values of PAX records, `<length> <keyword>=<value>` and a line feed."""
        position = 0
        while position < len(data) and data[position]:
            space = data.find(b" ", position, position + _MAX_DIGITS)
            digits = data[position : max(space, position)]
            end = position + int(digits) if digits.isdigit() else 0
            keyword, equals, value = data[space + 1 : max(end - 1, 0)].partition(b"=")
            if not (space < end <= len(data) and equals and keyword and data[end - 1] == ord("\n")):
                raise self._damaged(offset, f"a bad record at byte {position} of a PAX header")
            yield keyword, value
            position = end
        if any(data[position:]):
            raise self._damaged(offset, f"data after byte {position} of a PAX header")

    def _apply(
        self, keyword: bytes, value: bytes, is_global: bool, offset: int, extension: _Extension
    ) -> None:
        sparse = keyword.startswith(b"GNU.sparse.")
        if is_global and (sparse or keyword in (b"path", b"size")):
            raise self._damaged(offset, f"{keyword[:40]!r} in a PAX header for all members")
        extension.sparse |= sparse
        if keyword == b"GNU.sparse.name" or (keyword == b"path" and not extension.sparse):
            extension.name = value
        elif keyword == b"size":
            if len(value) > _MAX_DIGITS or not (value.isdigit() or not value):
                raise self._damaged(offset, f"size is {value[:40]!r} in a PAX header")
            extension.size = int(value) if value else None

    def _skip_sparse_map(self, block: bytes) -> None:
        """Skip the continuation of the map of an old GNU sparse file, at any length."""
        more = block[482]
        while more:
            offset, block = self._position, self.stream.read(BLOCK)
            if len(block) < BLOCK:
                raise ShardCut(f"{self.url} is cut at byte {offset}, in the map of a sparse file")
            self._position += BLOCK
            more = block[504]

    def _size(self, data: bytes, offset: int) -> int:
        """A size in octal digits, or in base 256 after a byte 0x80; never negative."""
        size = int.from_bytes(data[1:]) if data[0] == 0x80 else _octal(data)
        if size is None:
            raise self._damaged(offset, f"the size in its header is {data!r}")
        return size

    def _damaged(self, offset: int, why: str) -> ShardDamaged:
        return ShardDamaged(f"{self.url} is damaged at byte {offset}: {why}")

    def _refuse_trailing(self) -> None:
        """Only zeros may follow the end marker: any other data would be lost."""
        while block := self.stream.read(2**20):
            if block.count(0) != len(block):
                raise ShardDamaged(
                    f"{self.url} has data after the end marker at byte {self._position - BLOCK}; "
                    "of concatenated tars only the first would be read: pack them again"
                )


def find_header(stream: BinaryIO, offset: int, most: int) -> int | None:
    """Return where the first header after a byte of a tar begins; None if not in `most` bytes.

    Only headers with the mark of ustar, GNU or PAX are found, so that none is found in audio. One
    that is so near that its extension header may come before the byte is passed over.
    """
    start = -(-offset // BLOCK) * BLOCK
    stream.seek(start)
    for position in range(start, start + most, BLOCK):
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            return None
        is_whole = position - start >= _NEAR or block[156] in _EXTENSIONS
        if is_whole and block[257:262] == b"ustar" and _has_checksum(block):
            return position
    return None


def _octal(data: bytes) -> int | None:
    digits = data.partition(b"\0")[0].strip(b" ") or b"0"
    return int(digits, 8) if digits.isdigit() and not {*b"89"} & {*digits} else None


def _has_checksum(block: bytes) -> bool:
    """Compare the checksum of a header; some old writers took bytes for signed numbers."""
    summed = block[:148] + block[156:]
    stored, blanks = _octal(block[148:156]), 8 * ord(" ")
    unsigned = sum(summed.replace(b"\0", b"")) + blanks  # most bytes are 0
    return stored == unsigned or stored == unsigned - 256 * sum(byte > 127 for byte in summed)


def _ustar_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name
