"""A folder or a manifest of audio files to WebDataset tars, planned from a listing alone.

The same files and settings give the same tars, byte for byte. `pack.json` at the output says what
each tar holds; a tar appears whole or not at all, so one that is there is done.
"""

import csv
import io
import json
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import xxhash

from pipeline.errors import InputError
from pipeline.storage import FileInfo, Storage, join

PLAN = "pack.json"
MANIFESTS = (".jsonl", ".csv", ".tsv")
AUDIO = ("wav", "flac", "mp3", "ogg", "oga", "opus", "aiff", "aif", "au", "caf", "w64")
CONTAINERS = ("m4a", "aac", "mp4", "webm", "mka", "amr", "wma")
SIDECARS = ("json", "txt")
READERS = 16  # concurrent reads: small objects are all latency

Row = tuple[int, dict[str, Any]]  # line of the manifest, from 1, and its columns


@dataclass
class PackSettings:
    """What to pack, and into which tars."""

    source: str  # folder, or a .jsonl, .csv or .tsv manifest with a `path` column
    output: str
    shard_mb: float = 256.0  # MB (10**6 bytes) of a tar at most, unless one clip alone is larger
    pattern: str = "shard-%06d.tar"
    extensions: list[str] = field(default_factory=lambda: [*AUDIO, *CONTAINERS])

    def __post_init__(self) -> None:
        if self.shard_mb <= 0:
            raise InputError(f"shard_mb is {self.shard_mb}; give the size of a tar in MB, above 0")
        if not self.pattern.endswith(".tar") or not _numbers(self.pattern):
            raise InputError(f"pattern is {self.pattern!r}; use one like 'shard-%06d.tar'")


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


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A tar before any audio was read."""

    name: str
    clips: tuple[Clip, ...]

    @property
    def bytes(self) -> int:
        content = sum(member.tar_bytes() for clip in self.clips for member in clip.members)
        end = 2 * tarfile.BLOCKSIZE
        return -(-(content + end) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE

    @property
    def digest(self) -> str:
        identities = [member.identity for clip in self.clips for member in clip.members]
        return xxhash.xxh3_128_hexdigest(json.dumps(identities).encode())


@dataclass(frozen=True, slots=True)
class PackedShard:
    """A tar that is at the output."""

    url: str
    clips: int
    bytes: int
    skipped: bool  # it was there already


def pack(settings: PackSettings, storage: Storage) -> Iterator[PackedShard]:
    """Write the tars that are missing, one at a time and in order.

    Raises `InputError` for a source that cannot be packed and for an output of another plan.
    """
    yield from pack_shards(plan_shards(settings, storage), settings.output, storage)


def plan_shards(settings: PackSettings, storage: Storage) -> list[PlannedShard]:
    """Clips in the order of their keys, cut where the next one would not fit."""
    source = _clean(storage.absolute(settings.source))
    if source.lower().endswith(MANIFESTS):
        clips = _clips_of_manifest(source, storage)
    else:
        clips = _clips_of_folder(source, settings.extensions, storage)
    ordered = _distinct(sorted(clips, key=lambda clip: clip.key))
    groups = _cut(ordered, settings.shard_mb * 1e6)
    return [PlannedShard(settings.pattern % i, tuple(group)) for i, group in enumerate(groups)]


def pack_shards(
    plan: Iterable[PlannedShard], output: str, storage: Storage
) -> Iterator[PackedShard]:
    """Carry out a plan; a tar that is there in the planned size is skipped."""
    plan = list(plan)
    output = storage.absolute(output)
    present = _claim(output, plan, storage)
    # One pool for all tars: every new thread opens its own connections.
    with ThreadPoolExecutor(READERS) as pool:
        for shard in plan:
            url, size = join(output, shard.name), shard.bytes
            skipped = present.get(url) == size
            if not skipped:
                storage.put(url, _tar(shard, storage, pool))
            yield PackedShard(url, len(shard.clips), size, skipped)


def _numbers(pattern: str) -> bool:
    try:
        return pattern % 0 != pattern % 1
    except (TypeError, ValueError):
        return False


def _clean(url: str) -> str:
    """The URL without `..` and doubled slashes, as a listing would give it."""
    protocol, separator, path = url.rpartition("://")
    return protocol + separator + posixpath.normpath(path)


def _clips_of_folder(root: str, extensions: Sequence[str], storage: Storage) -> list[Clip]:
    """Every audio file below a folder with its sidecars; hidden files are left out."""
    files: dict[str, dict[str, FileInfo]] = {}
    for info in storage.list_files(root):
        if info.url == root:
            raise InputError(f"{root} is no folder; a manifest ends in {', '.join(MANIFESTS)}")
        stem, _ = _split(info.url[len(root) :].lstrip("/"))
        if not any(part.startswith(".") for part in stem.split("/")):
            files.setdefault(stem, {})[info.url] = info
    clips = [clip for stem in files for clip in _clips_of_stem(stem, files[stem], extensions)]
    if not clips:
        raise InputError(f"no audio (.{', .'.join(extensions)}) in {root}; is the folder right?")
    return clips


def _clips_of_stem(
    stem: str, files: dict[str, FileInfo], extensions: Sequence[str]
) -> Iterator[Clip]:
    key = stem.replace(".", "_")
    members = [Member(f"{key}.{_split(url)[1]}", info) for url, info in files.items()]
    sidecars = [member for member in members if _split(member.name)[1] in SIDECARS]
    for member, url in zip(members, files, strict=True):
        if _split(url)[1] in extensions:
            yield _clip(key, [member, *sidecars], url)


def _clip(key: str, members: Iterable[Member], origin: str) -> Clip:
    return Clip(key, tuple(sorted(members, key=lambda member: member.name)), origin)


def _split(path: str) -> tuple[str, str]:
    """Path without its extension, and the extension in lower case without its dot."""
    stem, suffix = posixpath.splitext(path)
    return stem, suffix[1:].lower()


def _distinct(clips: list[Clip]) -> list[Clip]:
    for one, other in pairwise(clips):
        if one.key == other.key:
            raise InputError(
                f"{one.origin} and {other.origin} both have the key {one.key!r}; rename one, or "
                "give a manifest with a `key` column (in keys, dots become underscores)"
            )
    return clips


def _cut(clips: Iterable[Clip], limit: float) -> Iterator[list[Clip]]:
    group: list[Clip] = []
    filled = 0
    for clip in clips:
        size = sum(member.tar_bytes() for member in clip.members)
        if group and filled + size > limit:
            yield group
            group, filled = [], 0
        group.append(clip)
        filled += size
    yield group


def _clips_of_manifest(url: str, storage: Storage) -> list[Clip]:
    root = posixpath.dirname(url)
    rows = [(f"{url}, line {line}", row) for line, row in _rows(url, storage)]
    if not rows:
        raise InputError(f"{url} has no rows; give one per audio file")
    urls = [_located(row, root, where, storage) for where, row in rows]
    files = _look_up(set(urls), root, storage)
    seen: dict[str, str] = {}
    for (where, _), file in zip(rows, urls, strict=True):
        if file not in files:
            raise InputError(f"{where}: {file} does not exist; a relative path starts at {root}")
        if file in seen:
            raise InputError(f"{seen[file]} and {where} both name {file}; drop one")
        seen[file] = where
    return [
        _clip_of_row(row, files[file], root, where)
        for (where, row), file in zip(rows, urls, strict=True)
    ]


def _rows(url: str, storage: Storage) -> Iterator[Row]:
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url} is not UTF-8 ({error}); save it as UTF-8") from error
    yield from _json_rows(text, url) if _split(url)[1] == "jsonl" else _table_rows(text, url)


def _json_rows(text: str, url: str) -> Iterator[Row]:
    # Not splitlines(): inside a JSON string it would cut at U+2028.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            raise InputError(f"{url}, line {line} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f'{url}, line {line} is no JSON object; write {{"path": …}}')
        yield line, row


def _table_rows(text: str, url: str) -> Iterator[Row]:
    """Rows without their empty cells."""
    file = io.StringIO(text, newline="")
    if _split(url)[1] == "tsv":
        # Tables of tabs do not quote: a sentence may begin with a quotation mark.
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


def _located(row: dict[str, Any], root: str, where: str, storage: Storage) -> str:
    """The URL of a row's audio file."""
    path = row.get("path")
    if not path or not isinstance(path, str):
        columns = ", ".join(row) or "nothing"
        raise InputError(f"{where} has no `path`, only {columns}; name the audio file in `path`")
    if _split(path)[1] in ("", *SIDECARS):
        raise InputError(f"{where}: {path!r} has no audio extension; name it like {path}.flac")
    if "://" in path:
        return _clean(storage.absolute(path))
    return _clean(path if path.startswith("/") else join(root, path))


def _look_up(urls: set[str], root: str, storage: Storage) -> dict[str, FileInfo]:
    """The files that exist, from one listing per folder and never a request per file."""
    folders = {root if url.startswith(root + "/") else posixpath.dirname(url) for url in urls}
    listed: list[str] = []
    for folder in sorted(folders):
        if not any(folder.startswith(outer + "/") for outer in listed):
            listed.append(folder)
    found = (info for folder in listed for info in storage.list_files(folder))
    return {info.url: info for info in found if info.url in urls}


def _clip_of_row(row: dict[str, Any], file: FileInfo, root: str, where: str) -> Clip:
    stem, suffix = _split(file.url)
    key = str(row.get("key", _inner(stem, root))).replace(".", "_")
    if not key or key != key.strip("/"):
        raise InputError(f"{where}: the key {key!r} is empty or has a slash at its end; change it")
    columns = {name: value for name, value in row.items() if name != "path"}
    members = [Member(f"{key}.{suffix}", file)]
    if columns:
        text = json.dumps(columns, ensure_ascii=False, sort_keys=True)
        members.append(Member(f"{key}.json", text.encode()))
    return _clip(key, members, f"{where} ({file.url})")


def _inner(url: str, root: str) -> str:
    """A path below the root; the whole path, without protocol, of what lies elsewhere."""
    return url.removeprefix(root + "/").rpartition("://")[2].lstrip("/")


def _claim(output: str, plan: list[PlannedShard], storage: Storage) -> dict[str, int]:
    """Write the plan, or find it written; gives the sizes of what is at the output."""
    present = {info.url: info.size for info in storage.list_files(output)}
    url = join(output, PLAN)
    text = _describe(plan)
    if url in present:
        if storage.read_bytes(url) != text:
            raise InputError(
                f"{url} is the plan of another pack (other files, shard_mb or pattern); give an "
                "empty output, or delete that file and its tars"
            )
        return present
    for shard in plan:
        if join(output, shard.name) in present:
            raise InputError(
                f"{output} holds {shard.name} but no {PLAN}; give an empty output, or another "
                "pattern"
            )
    storage.put(url, text)
    return present


def _describe(plan: list[PlannedShard]) -> bytes:
    shards = [
        {"name": s.name, "clips": len(s.clips), "bytes": s.bytes, "digest": s.digest} for s in plan
    ]
    return json.dumps({"version": 1, "shards": shards}, indent=1).encode()


def _tar(shard: PlannedShard, storage: Storage, pool: ThreadPoolExecutor) -> bytes:
    members = [member for clip in shard.clips for member in clip.members]
    contents = pool.map(lambda member: read_member(member, storage), members)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in zip(members, contents, strict=True):
            tar.addfile(member.header(), io.BytesIO(content))
    return buffer.getvalue()


def read_member(member: Member, storage: Storage) -> bytes:
    """The content of a planned file, which must be what was listed."""
    if isinstance(member.content, bytes):
        return member.content
    data = storage.read_bytes(member.content.url)
    if len(data) != member.size:
        raise InputError(
            f"{member.content.url} had {member.size} bytes when it was listed and has {len(data)} "
            "now; pack when nothing writes to the source"
        )
    return data
