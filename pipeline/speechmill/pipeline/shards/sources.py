"""Audio files to pack, from a manifest: which files become which sample.

A manifest has a row for each file, or for each segment of one. No audio is read here.
`audio_folder` does the same for a folder.
"""

import json
import posixpath
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import xxhash

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.filesystems import FileInfo, is_local
from speechmill.pipeline.foreign import Roots, check_foreign, without_file
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.paths import is_plain
from speechmill.pipeline.shards.manifests import (
    Layout,
    Row,
    metadata_of,
    path_in,
    read_rows,
)
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.text import clean, replace_escaped

SIDECARS = ("json", "txt")


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar: a listed file, or bytes made from a row of the manifest."""

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

    def tar_bytes(self) -> int:
        """Size in the tar with its header: one block, unless the name is long or not ASCII."""
        header = tarfile.BLOCKSIZE
        if not self.name.isascii() or len(self.name) > tarfile.LENGTH_NAME or self.size >= 8**11:
            info = tarfile.TarInfo(self.name)
            info.size = self.size
            header = len(info.tobuf(tarfile.PAX_FORMAT))
        return header + -(-self.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class SampleFiles:
    """The audio file of one key and its sidecars."""

    key: str
    members: tuple[Member, ...]
    origin: str  # file or line of the manifest, for errors

    @classmethod
    def of(cls, key: str, members: Iterable[Member], origin: str) -> "SampleFiles":
        """A sample with its members in the order of their names."""
        return cls(key, tuple(sorted(members, key=lambda member: member.name)), origin)


def split_suffix(path: str) -> tuple[str, str]:
    """Path without its extension, and the extension in lower case without dot and blanks."""
    stem, suffix = posixpath.splitext(path)
    return stem, suffix[1:].strip().lower()


def clean_url(url: str) -> str:
    """The URL without `..` and double slashes, as a listing gives it."""
    protocol, separator, path = url.rpartition("://")
    return protocol + separator + posixpath.normpath(path)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a source may lead: below these roots, or anywhere if `follow_links` is set."""

    roots: Roots
    follow_links: bool

    @property
    def links(self) -> tuple[str, ...] | None:
        """The folders that links may lead to; None: any."""
        return None if self.follow_links else self.roots.urls


@dataclass(slots=True)
class Gathered:
    """The samples of a source, and what was passed over."""

    samples: list[SampleFiles] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)


def files_of_manifest(
    url: str, extensions: Sequence[str], layout: Layout, reach: Reach, storage: Storage
) -> Gathered:
    """A sample for each recording, with the other columns of its rows as JSON.

    Raises `InputError`, with the line, for a row whose file is not named, does not exist, lies out
    of reach or was named before by a row that is no segment.
    """
    root = posixpath.dirname(url)
    by_file: dict[str, list[tuple[str, Row]]] = {}
    for where, row in read_rows(url, layout, storage):
        path = _located(row, layout, root, where, extensions)
        by_file.setdefault(_within_reach(path, where, reach, storage), []).append((where, row))
    files, passed_over = _look_up(set(by_file), root, reach, storage)
    for file, rows in by_file.items():
        if file not in files:
            raise InputError(f"{rows[0][0]}: {_why_missing(file, root, passed_over)}")
        if len(rows) > 1 and not layout.has_segments([row for _, row in rows]):
            raise InputError(
                f"{rows[0][0]} and {rows[1][0]} both name {file}; drop one, or give the segments "
                f"of a recording `{layout.name('start')}` and `{layout.name('duration')}`"
            )
    return Gathered(
        [_files_of_rows(rows, layout, file, files[file], root) for file, rows in by_file.items()]
    )


def _within_reach(url: str, where: str, reach: Reach, storage: Storage) -> str:
    """A URL as a listing spells it; raises `InputError` for one that a manifest may not name."""
    if not reach.roots.hold(url):
        check_foreign(url, where, storage)
        if not reach.follow_links:
            raise InputError(
                f"{where}: {url!r} is not below {reach.roots.urls[0]}; if it belongs to this "
                "corpus, pack it with root=<its folder>"
            )
    return clean_url(url if is_local(url) else storage.absolute(url))


def _why_missing(file: str, root: str, passed_over: Sequence[PassedOver]) -> str:
    for one in passed_over:
        if file == one.url or file.startswith(f"{one.url}/"):
            return (
                f"{file!r} is passed over: {one.url!r} is {one.reason}; if that belongs to this "
                "corpus, pack it with root=<the folder where it leads>"
            )
    return f"{file} does not exist; a relative path starts at {root}"


def _located(row: Row, layout: Layout, root: str, where: str, extensions: Sequence[str]) -> str:
    """The URL of a row's audio file."""
    path = path_in(row, layout, where)
    if layout.suffix and split_suffix(path)[1] not in extensions:
        path += layout.suffix
    suffix = split_suffix(path)[1]
    if suffix in ("", *SIDECARS):
        raise InputError(f"{where}: {path!r} has no audio extension; name it like {path}.flac")
    if suffix not in extensions:
        raise InputError(
            f"{where}: {path!r} is not named as audio; if it is, add extensions=[…,{suffix}]"
        )
    return clean_url(without_file(_below(_below(root, layout.folder), path)))


def _below(folder: str, path: str) -> str:
    """A path from a folder, or one that is whole itself."""
    return path if "://" in path or path.startswith("/") else join(folder, path) if path else folder


def _look_up(
    urls: set[str], root: str, reach: Reach, storage: Storage
) -> tuple[dict[str, FileInfo], list[PassedOver]]:
    """The files that exist, by one listing per folder, never a request per file."""
    folders = {root if url.startswith(root + "/") else posixpath.dirname(url) for url in urls}
    listed: list[str] = []
    for folder in sorted(folders):
        if not any(folder.startswith(outer + "/") for outer in listed):
            listed.append(folder)
    walks = [storage.walk(folder, reach.links) for folder in listed]
    files = {each.url: each.file for found, _ in walks for each in found if each.url in urls}
    return files, [one for _, passed_over in walks for one in passed_over]


def _files_of_rows(
    rows: Sequence[tuple[str, Row]], layout: Layout, url: str, file: FileInfo, root: str
) -> SampleFiles:
    stem, suffix = split_suffix(url)
    where = rows[0][0]
    name = layout.name("key")
    keys = {str(row[name]) for _, row in rows if name in row}
    key = keys.pop() if len(keys) == 1 else _inner(stem, root)  # segments may have their own
    key = replace_escaped(key).replace(".", "_")
    if not key or key != key.strip("/"):
        raise InputError(f"{where}: the key {key!r} is empty or has a slash at its end; change it")
    if not is_plain(key):
        raise InputError(f"{where}: the key {key!r} cannot be a name in a tar; change it")
    members = [Member(f"{key}.{suffix}", file)]
    if columns := metadata_of(rows, layout):
        text = json.dumps(columns, ensure_ascii=False, sort_keys=True)
        members.append(Member(f"{key}.json", clean(text).encode()))
    return SampleFiles.of(key, members, f"{where} ({url})")


def _inner(url: str, root: str) -> str:
    """A path relative to the root; elsewhere, the whole path without its protocol."""
    return url.removeprefix(root + "/").rpartition("://")[2].lstrip("/")
