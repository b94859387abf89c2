"""Samples of a tar that is read once, from front to back, and never held as a whole.

The `webdataset` library takes a damaged header for the end of the archive and silently loses the
rest; this reader raises with the byte where the tar is cut. `keys` says which members are one
sample.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from speechmill.pipeline.blob import Blob, spool
from speechmill.pipeline.errors import (
    DuplicateKey,
    ObjectReplaced,
    OversizedAudio,
    OversizedMetadata,
    RejectStage,
    SampleError,
    ShardChanged,
    ShardCut,
    UnsafeMember,
)
from speechmill.pipeline.shards.gunzip import Gunzip, is_gzip
from speechmill.pipeline.shards.keys import Group, Member, group_members
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_headers import Header, TarHeaders
from speechmill.pipeline.storage import Storage

_PART = 2**26  # bytes of one read
_TEXTS = ("json", "txt")
_LONGEST_NAME = 4096  # characters; no system has longer paths


@dataclass(slots=True)
class Sample:
    """Members of one key, by suffix: `{"flac": b"…", "json": b"…"}`; large ones are mapped."""

    key: str
    index: int  # position among the samples of the tar
    members: dict[str, Blob] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reject:
    """A sample, or a single member, that cannot be tokenized, and why."""

    key: str
    index: int
    member: str
    stage: RejectStage
    error: str  # class name
    message: str
    num_bytes: int
    start: float | None = None  # s; None: the whole sample, or the whole channel
    end: float | None = None
    channel: int | None = None  # of the audio; None: all of them


@dataclass(slots=True)
class TarCounts:
    """What reading a tar met and took; filled while it is read."""

    cleaned: int = 0  # members whose names have U+FFFD for bytes that are not UTF-8
    passed_over: int = 0  # what macOS adds to archives, which is not part of the corpus
    seconds: float = 0.0  # waiting for storage, unpacking gzip and finding members


def read_samples(
    shard: Shard,
    storage: Storage,
    max_member_bytes: int,
    *,
    max_metadata_bytes: int | None = None,
    audio_member: str | None = None,
    counts: TarCounts | None = None,
) -> Iterator[Sample | Reject]:
    """Yield the samples of a tar in order, and a `Reject` for each invalid one.

    `max_metadata_bytes` is the limit of a `.json` or `.txt`, by default that of any member.
    `audio_member` is the suffix that the settings name, and `counts` is filled while the tar is
    read. Raises `ShardCut`, `ShardDamaged` or `ShardChanged` if the tar itself is at fault.
    """
    counts = counts or TarCounts()
    started = time.perf_counter()
    try:
        with storage.stream(shard.url, shard.version) as stream:
            headers = _headers(stream, shard)
            reader = _MemberReader(headers, max_member_bytes, max_metadata_bytes)
            counts.seconds += time.perf_counter() - started
            members = _timed(reader.members(counts), counts)
            yield from _checked(group_members(members, max_member_bytes, audio_member))
    except ObjectReplaced as error:
        message = f"{shard.url} was replaced after it was listed; run again"
        raise ShardChanged(message) from error


def _timed(members: Iterator[Member], counts: TarCounts) -> Iterator[Member]:
    """Yield the same members, and count the seconds that reading them takes."""
    while True:
        started = time.perf_counter()
        member = next(members, None)
        counts.seconds += time.perf_counter() - started
        if member is None:
            return
        yield member


def _headers(stream: BinaryIO, shard: Shard) -> TarHeaders:
    """The headers of a tar from where the stream stands; it may be gzip, whatever its name is."""
    if is_gzip(stream):
        return TarHeaders(Gunzip(stream, shard.url), f"{shard.url}, unpacked,", None)
    return TarHeaders(stream, shard.url, shard.size, stream.tell())


def _checked(groups: Iterable[Group]) -> Iterator[Sample | Reject]:
    seen: set[str] = set()
    for index, group in enumerate(groups):
        members = group.members.values()
        first = next(iter(members))
        faulty = next((member for member in members if member.fault), first)
        if fault := faulty.fault or group.fault or _name_fault(first.name, group.key, seen):
            yield Reject(
                key=group.key or first.name,
                index=index,
                member=faulty.name,
                stage=RejectStage.READ,
                error=type(fault).__name__,
                message=str(fault),
                num_bytes=faulty.size,
            )
        else:
            assert group.key is not None  # or its name would be a fault
            seen.add(group.key)
            data = {suffix: member.data for suffix, member in group.members.items()}
            yield Sample(group.key, index, data)


def _name_fault(name: str, key: str | None, seen: set[str]) -> SampleError | None:
    if name.startswith("/") or ".." in name.split("/"):
        return UnsafeMember(f"{name!r} points out of the archive")
    if key is None:
        return UnsafeMember(f"{name!r} has no key; name members <key>.<suffix>")
    if key in seen:
        return DuplicateKey(f"key {key!r} came before; the members of a sample must be adjacent")
    return None


@dataclass(frozen=True, slots=True)
class _MemberReader:
    headers: TarHeaders
    max_bytes: int
    max_metadata_bytes: int | None

    def members(self, counts: TarCounts) -> Iterator[Member]:
        """Every member but folders and what macOS adds, with its data or its fault."""
        for header in self.headers:
            if _is_of_macos(header.name):
                counts.passed_over += 1
            elif not header.is_directory:
                counts.cleaned += header.name_cleaned
                yield self._read(header)

    def _read(self, header: Header) -> Member:
        if fault := self._fault(header):
            return Member(header.name[:_LONGEST_NAME], header.size, fault=fault)
        data = spool(self._parts(header.size), header.size)
        if len(data) != header.size:
            end = header.offset_data + len(data)
            raise ShardCut(f"{self.headers.url} is cut at byte {end}")
        return Member(header.name, header.size, data)

    def _parts(self, size: int) -> Iterator[bytes]:
        while size and (part := self.headers.stream.read(min(size, _PART))):
            yield part
            size -= len(part)

    def _fault(self, header: Header) -> SampleError | None:
        name, size = header.name, header.size
        if len(name) > _LONGEST_NAME:
            return UnsafeMember(f"a name of {len(name)} characters, {name[:100]!r}…")
        if not header.is_regular:
            return UnsafeMember(f"{name!r} is not a regular file")
        if size > self.max_bytes:
            return OversizedAudio(f"{size} bytes; limits.member_mb is {self.max_bytes / 1e6:g}")
        limit = self.max_metadata_bytes
        if limit is not None and size > limit and name.rpartition(".")[2].lower() in _TEXTS:
            return OversizedMetadata(f"{size} bytes; limits.metadata_mb is {limit / 1e6:g}")
        return None


def _is_of_macos(name: str) -> bool:
    """Whether macOS made a member: AppleDouble files hold what other systems cannot store."""
    folder, _, file = name.rpartition("/")
    return file.startswith("._") or "__MACOSX" in folder.split("/")
