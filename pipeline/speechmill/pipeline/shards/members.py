"""What goes into a tar: audio files with their keys, before a byte of them was read."""

import posixpath
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash

from speechmill.pipeline.storage import FileInfo

SIDECARS = ("json", "txt")


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a tar: one that was listed, or bytes that the plan made."""

    name: str
    content: FileInfo | bytes

    @property
    def size(self) -> int:
        return self.content.size if isinstance(self.content, FileInfo) else len(self.content)

    @property
    def identity(self) -> tuple[str, int, str]:
        """Changes with the name and the content."""
        if isinstance(self.content, FileInfo):
            return self.name, self.size, self.content.etag
        return self.name, self.size, xxhash.xxh3_128_hexdigest(self.content)

    def header(self) -> tarfile.TarInfo:
        """Says nothing of who packed it and when."""
        header = tarfile.TarInfo(self.name)
        header.size = self.size
        return header

    def tar_bytes(self) -> int:
        """With its header, which one block holds unless the name is long or not ASCII."""
        plain = self.name.isascii() and len(self.name) <= tarfile.LENGTH_NAME and self.size < 8**11
        header = tarfile.BLOCKSIZE if plain else len(self.header().tobuf(tarfile.PAX_FORMAT))
        return header + -(-self.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Clip:
    """The audio file of one key and what goes with it."""

    key: str
    members: tuple[Member, ...]
    origin: str  # where it comes from, for errors


def make_clip(key: str, members: Iterable[Member], origin: str) -> Clip:
    """A clip with its members in the order of their names."""
    return Clip(key, tuple(sorted(members, key=lambda member: member.name)), origin)


def split_suffix(path: str) -> tuple[str, str]:
    """Path without its extension, and the extension in lower case without its dot."""
    stem, suffix = posixpath.splitext(path)
    return stem, suffix[1:].lower()


def clean_url(url: str) -> str:
    """The URL without `..` and doubled slashes, as a listing would give it."""
    protocol, separator, path = url.rpartition("://")
    return protocol + separator + posixpath.normpath(path)
