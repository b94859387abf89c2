"""Pack a folder or a manifest of audio files into WebDataset tars, planned from a listing alone.

The same files and settings give the same tars, byte for byte. `pack.json` at the output describes
each tar; a tar appears whole or not at all, so an existing one is done.
"""

import io
import json
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import xxhash

from speechmill.pipeline.audio.containers.recognize import AUDIO_SUFFIXES
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.filesystems import is_local
from speechmill.pipeline.foreign import Roots
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.shards.audio_folder import files_of_folder
from speechmill.pipeline.shards.listing import PLAN
from speechmill.pipeline.shards.manifests import MANIFESTS, Layout, layout_of
from speechmill.pipeline.shards.sources import (
    Member,
    Reach,
    SampleFiles,
    clean_url,
    files_of_manifest,
)
from speechmill.pipeline.shards.webdataset import SampleWriter
from speechmill.pipeline.storage import Storage, join

READERS = 16  # concurrent reads: latency dominates for small objects


@dataclass
class PackSettings:
    """What to pack, and into which tars."""

    source: str  # folder, or a .jsonl, .json, .csv or .tsv manifest
    output: str  # folder of the tars
    shard_mb: float = 256.0  # MB (10**6 bytes) of a tar at most, unless one clip alone is larger
    pattern: str = "shard-%06d.tar"  # names of the tars
    # Of audio files.
    extensions: list[str] = field(default_factory=lambda: [*AUDIO_SUFFIXES])
    # Folder that paths of a manifest and links may lead to, besides that of the source.
    root: str | None = None
    follow_links: bool = False  # to anywhere, as do the paths of a manifest
    format: str = "plain"  # of a manifest: plain | nemo | hf | common_voice | ljspeech
    # Columns of a manifest by what they mean: path, key, text, start, duration, end.
    columns: dict[str, str] = field(default_factory=dict)
    # Where the paths of a manifest start, from its own folder; default: there, or as `format` says.
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.shard_mb <= 0:
            raise InputError(f"shard_mb is {self.shard_mb}; give the size of a tar in MB, above 0")
        self.layout()
        if not self.pattern.endswith(".tar") or not _is_numbered(self.pattern):
            raise InputError(f"pattern is {self.pattern!r}; use one like 'shard-%06d.tar'")

    def layout(self) -> Layout:
        return layout_of(self.format, self.columns, self.folder)


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A tar before any audio was read."""

    name: str
    samples: tuple[SampleFiles, ...]

    @property
    def bytes(self) -> int:
        """Exact size of the tar."""
        content = sum(member.tar_bytes() for sample in self.samples for member in sample.members)
        end = 2 * tarfile.BLOCKSIZE
        return -(-(content + end) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE

    @property
    def digest(self) -> str:
        """Changes with the name and the content of every member."""
        identities = [member.identity for sample in self.samples for member in sample.members]
        return xxhash.xxh3_128_hexdigest(json.dumps(identities).encode())


@dataclass(frozen=True, slots=True)
class PackedShard:
    """A tar at the output."""

    url: str
    clips: int
    bytes: int
    skipped: bool  # it existed before


@dataclass(frozen=True, slots=True)
class PackPlan:
    """The tars to write, and the files and folders of the source that are in none of them."""

    shards: list[PlannedShard]
    passed_over: list[PassedOver]


def pack_files(settings: PackSettings, storage: Storage) -> Iterator[PackedShard]:
    """Write the missing tars, one at a time and in order.

    Raises `InputError` for a source that cannot be packed and for an output with another plan.
    """
    yield from pack_shards(plan_shards(settings, storage), settings.output, storage)


def plan_shards(settings: PackSettings, storage: Storage) -> list[PlannedShard]:
    """The tars of `plan_pack`."""
    return plan_pack(settings, storage).shards


def plan_pack(settings: PackSettings, storage: Storage) -> PackPlan:
    """Samples in the order of their keys; a new tar begins when the next one would not fit."""
    source = clean_url(storage.absolute(settings.source))
    is_manifest = source.lower().endswith(MANIFESTS)
    folder = posixpath.dirname(source) if is_manifest else source
    roots = Roots.of([folder, *([settings.root] if settings.root else [])], storage)
    reach = Reach(roots, settings.follow_links)
    layout = settings.layout()
    extensions = [extension.lower().removeprefix(".") for extension in settings.extensions]
    if is_manifest:
        gathered = files_of_manifest(source, extensions, layout, reach, storage)
    elif layout != Layout():
        raise InputError(
            f"format, columns and folder tell how a manifest is written, and {source} is none; "
            f"name the file, a {', '.join(MANIFESTS)}"
        )
    else:
        gathered = files_of_folder(source, extensions, reach, storage)
    ordered = _distinct(sorted(gathered.samples, key=lambda sample: sample.key))
    groups = _cut(ordered, settings.shard_mb * 1e6)
    shards = [PlannedShard(settings.pattern % i, tuple(group)) for i, group in enumerate(groups)]
    return PackPlan(shards, gathered.passed_over)


def pack_shards(
    plan: Iterable[PlannedShard], output: str, storage: Storage
) -> Iterator[PackedShard]:
    """Carry out a plan; a tar of the planned size that exists is skipped."""
    plan = list(plan)
    output = storage.absolute(output)
    present = _claim_output(output, plan, storage)
    # One pool for all tars: every new thread opens its own connections.
    with ThreadPoolExecutor(READERS) as pool:
        for shard in plan:
            url, size = join(output, shard.name), shard.bytes
            skipped = present.get(url) == size
            if not skipped:
                storage.put(url, _tar(shard, storage, pool))
            yield PackedShard(url, len(shard.samples), size, skipped)


def _is_numbered(pattern: str) -> bool:
    try:
        return pattern % 0 != pattern % 1
    except (TypeError, ValueError):
        return False


def _distinct(samples: list[SampleFiles]) -> list[SampleFiles]:
    for one, other in pairwise(samples):
        if one.key == other.key:
            raise InputError(
                f"{one.origin} and {other.origin} both have the key {one.key!r}; rename one, name "
                "the extensions to pack with extensions=[…], or give a manifest with a `key` "
                "column (in keys, dots become underscores)"
            )
    return samples


def _cut(samples: Iterable[SampleFiles], limit: float) -> Iterator[list[SampleFiles]]:
    group: list[SampleFiles] = []
    filled = 0
    for sample in samples:
        size = sum(member.tar_bytes() for member in sample.members)
        if group and filled + size > limit:
            yield group
            group, filled = [], 0
        group.append(sample)
        filled += size
    yield group


def _claim_output(output: str, plan: list[PlannedShard], storage: Storage) -> dict[str, int]:
    """Write the plan, or check the existing one; returns the sizes of the files at the output."""
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
        {"name": s.name, "clips": len(s.samples), "bytes": s.bytes, "digest": s.digest}
        for s in plan
    ]
    return json.dumps({"version": 1, "shards": shards}, indent=1).encode()


def _tar(shard: PlannedShard, storage: Storage, pool: ThreadPoolExecutor) -> bytes:
    members = [(sample.key, member) for sample in shard.samples for member in sample.members]
    contents = pool.map(lambda each: read_member(each[1], storage), members)
    buffer = io.BytesIO()
    with SampleWriter(buffer) as tar:
        for (key, member), content in zip(members, contents, strict=True):
            tar.write(key, {member.name.removeprefix(f"{key}."): content})
    return buffer.getvalue()


def read_member(member: Member, storage: Storage) -> bytes:
    """The content of a planned member; raises `InputError` if it has changed.

    A file that has become a link would be another one, maybe outside of the source.
    """
    if isinstance(member.content, bytes):
        return member.content
    url = member.content.url
    if is_local(url) and os.path.realpath(url) != url:
        raise InputError(f"{url} has become a link since it was listed; pack it again")
    data = storage.read_bytes(url)
    if len(data) != member.size:
        raise InputError(
            f"{member.content.url} had {member.size} bytes when it was listed and has {len(data)} "
            "now; pack when nothing writes to the source"
        )
    return data
