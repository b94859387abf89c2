"""A folder or a manifest of audio files to WebDataset tars, planned from a listing alone.

The same files and settings give the same tars, byte for byte. `pack.json` at the output says what
each tar holds; a tar appears whole or not at all, so one that is there is done.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import xxhash

from speechmill.pipeline.audio.integrity import AUDIO_SUFFIXES
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.manifest import MANIFESTS, clips_of_manifest
from speechmill.pipeline.shards.members import (
    SIDECARS,
    Clip,
    Member,
    clean_url,
    make_clip,
    split_suffix,
)
from speechmill.pipeline.storage import FileInfo, Storage, join

PLAN = "pack.json"
READERS = 16  # concurrent reads: small objects are all latency


@dataclass
class PackSettings:
    """What to pack, and into which tars."""

    source: str  # folder, or a .jsonl, .csv or .tsv manifest with a `path` column
    output: str
    shard_mb: float = 256.0  # MB (10**6 bytes) of a tar at most, unless one clip alone is larger
    pattern: str = "shard-%06d.tar"
    extensions: list[str] = field(default_factory=lambda: [*AUDIO_SUFFIXES])

    def __post_init__(self) -> None:
        if self.shard_mb <= 0:
            raise InputError(f"shard_mb is {self.shard_mb}; give the size of a tar in MB, above 0")
        if not self.pattern.endswith(".tar") or not _numbers(self.pattern):
            raise InputError(f"pattern is {self.pattern!r}; use one like 'shard-%06d.tar'")


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
    source = clean_url(storage.absolute(settings.source))
    if source.lower().endswith(MANIFESTS):
        clips = clips_of_manifest(source, storage)
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


def _clips_of_folder(root: str, extensions: Sequence[str], storage: Storage) -> list[Clip]:
    """Every audio file below a folder with its sidecars; hidden files are left out."""
    files: dict[str, dict[str, FileInfo]] = {}
    for info in storage.list_files(root):
        if info.url == root:
            raise InputError(f"{root} is no folder; a manifest ends in {', '.join(MANIFESTS)}")
        stem, _ = split_suffix(info.url[len(root) :].lstrip("/"))
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
    members = [Member(f"{key}.{split_suffix(url)[1]}", info) for url, info in files.items()]
    sidecars = [member for member in members if split_suffix(member.name)[1] in SIDECARS]
    for member, url in zip(members, files, strict=True):
        if split_suffix(url)[1] in extensions:
            yield make_clip(key, [member, *sidecars], url)


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
