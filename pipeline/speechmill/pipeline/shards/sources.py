"""Audio files to pack, from a manifest: which files become which sample.

A manifest is JSONL, CSV or TSV with a `path` column, one row per file. No audio is read here.
`audio_folder` does the same for a folder.
"""

import csv
import io
import json
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.foreign import Roots, check_foreign, without_file
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.paths import is_plain
from speechmill.pipeline.storage import FileInfo, Storage, is_local, join
from speechmill.pipeline.text import clean_json, replace_escaped

MANIFESTS = (".jsonl", ".csv", ".tsv")
SIDECARS = ("json", "txt")

_SURROGATE = re.compile("[\ud800-\udfff]")

Row = tuple[int, dict[str, Any]]  # line of the manifest, from 1, and its columns


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
    url: str, extensions: Sequence[str], reach: Reach, storage: Storage
) -> Gathered:
    """A sample for each row, with the other columns as JSON.

    Raises `InputError`, with the line, for a row whose file is not named, does not exist, lies out
    of reach or was named before.
    """
    root = posixpath.dirname(url)
    rows = [(f"{url}, line {line}", row) for line, row in _rows(url, storage)]
    if not rows:
        raise InputError(f"{url} has no rows; give one per audio file")
    paths = [(where, _located(row, root, where, extensions)) for where, row in rows]
    urls = [_within_reach(path, where, reach, storage) for where, path in paths]
    files, passed_over = _look_up(set(urls), root, reach, storage)
    seen: dict[str, str] = {}
    for (where, _), file in zip(rows, urls, strict=True):
        if file not in files:
            raise InputError(f"{where}: {_why_missing(file, root, passed_over)}")
        if file in seen:
            raise InputError(f"{seen[file]} and {where} both name {file}; drop one")
        seen[file] = where
    samples = [
        _files_of_row(row, file, files[file], root, where)
        for (where, row), file in zip(rows, urls, strict=True)
    ]
    return Gathered(samples)


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


def _rows(url: str, storage: Storage) -> Iterator[Row]:
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url} is not UTF-8 ({error}); save it as UTF-8") from error
    yield from _json_rows(text, url) if split_suffix(url)[1] == "jsonl" else _table_rows(text, url)


def _json_rows(text: str, url: str) -> Iterator[Row]:
    # Not splitlines(): it would cut at a U+2028 inside a JSON string.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(clean_json(content)[0])
        except ValueError as error:
            raise InputError(f"{url}, line {line} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f'{url}, line {line} is not a JSON object; write {{"path": …}}')
        yield line, row


def _table_rows(text: str, url: str) -> Iterator[Row]:
    """Rows without their empty cells."""
    file = io.StringIO(text, newline="")
    if split_suffix(url)[1] == "tsv":
        # TSV has no quoting: a sentence may begin with a quotation mark.
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            if None in row:
                raise InputError(f"{url}, line {reader.line_num} has more cells than the header")
            yield reader.line_num, {name: cell for name, cell in row.items() if cell}
    except csv.Error as error:
        raise InputError(f"{url}, after line {reader.line_num}: {error}") from error


def _located(row: dict[str, Any], root: str, where: str, extensions: Sequence[str]) -> str:
    """The URL of a row's audio file."""
    path = row.get("path")
    if not path or not isinstance(path, str):
        columns = ", ".join(row) or "nothing"
        raise InputError(f"{where} has no `path`, only {columns}; name the audio file in `path`")
    suffix = split_suffix(path)[1]
    if suffix in ("", *SIDECARS):
        raise InputError(f"{where}: {path!r} has no audio extension; name it like {path}.flac")
    if suffix not in extensions:
        raise InputError(
            f"{where}: {path!r} is not named as audio; if it is, add extensions=[…,{suffix}]"
        )
    if "://" in path or path.startswith("/"):
        return clean_url(without_file(path))
    return clean_url(join(root, path))


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


def _files_of_row(
    row: dict[str, Any], url: str, file: FileInfo, root: str, where: str
) -> SampleFiles:
    stem, suffix = split_suffix(url)
    key = replace_escaped(str(row.get("key", _inner(stem, root)))).replace(".", "_")
    if not key or key != key.strip("/"):
        raise InputError(f"{where}: the key {key!r} is empty or has a slash at its end; change it")
    if not is_plain(key):
        raise InputError(f"{where}: the key {key!r} cannot be a name in a tar; change it")
    columns = {name: value for name, value in row.items() if name != "path"}
    members = [Member(f"{key}.{suffix}", file)]
    if columns:
        text = json.dumps(columns, ensure_ascii=False, sort_keys=True)
        members.append(Member(f"{key}.json", _SURROGATE.sub("\ufffd", text).encode()))
    return SampleFiles.of(key, members, f"{where} ({url})")


def _inner(url: str, root: str) -> str:
    """A path relative to the root; elsewhere, the whole path without its protocol."""
    return url.removeprefix(root + "/").rpartition("://")[2].lstrip("/")
