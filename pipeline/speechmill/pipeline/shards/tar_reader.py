"""Samples of a tar that is read once, from front to back, and never held as a whole.

A sample is a run of adjacent members with one key: the part of the file name before its first dot
(the WebDataset convention). The `webdataset` library takes a damaged header for the end of the
archive and silently loses the rest; this reader raises with the byte where the tar is cut.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from speechmill.pipeline.blob import Blob, spool
from speechmill.pipeline.errors import (
    DuplicateKey,
    OversizedAudio,
    RejectStage,
    SampleError,
    ShardChanged,
    ShardCut,
    ShardDamaged,
    UnsafeMember,
)
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage

_PART = 2**26  # bytes of one read
_NAME = re.compile(r"((?:.*/)?[^./][^.]*)\.([^/]*)", re.DOTALL)


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
    start: float | None = None  # s; None: the whole sample
    end: float | None = None


def read_samples(
    shard: Shard, storage: Storage, max_member_bytes: int
) -> Iterator[Sample | Reject]:
    """Yield the samples of a tar in order, and a `Reject` for each invalid one.

    Raises `ShardCut`, `ShardDamaged` or `ShardChanged` if the tar itself is at fault.
    """
    listed = storage.info(shard.url)
    if (listed.size, listed.etag) != (shard.size, shard.etag):
        raise ShardChanged(f"{shard.url} was replaced after it was listed; run again")
    with storage.open(shard.url) as stream:
        yield from _group(_members(stream, shard, max_member_bytes))


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    key: str | None
    suffix: str
    data: Blob
    size: int
    fault: SampleError | None = None


def _group(members: Iterator[_Member]) -> Iterator[Sample | Reject]:
    seen: set[str] = set()
    for index, run in enumerate(_runs(members)):
        first = run[0]
        faulty = next((member for member in run if member.fault), first)
        fault = faulty.fault or _name_fault(first, seen)
        if not fault:
            assert first.key is not None  # or its name would be a fault
            seen.add(first.key)
            yield Sample(first.key, index, {member.suffix: member.data for member in run})
        else:
            yield Reject(
                key=first.key or first.name,
                index=index,
                member=faulty.name,
                stage=RejectStage.READ,
                error=type(fault).__name__,
                message=str(fault),
                num_bytes=faulty.size,
            )


def _runs(members: Iterator[_Member]) -> Iterator[list[_Member]]:
    """Adjacent members with one key; a repeated suffix starts another run."""
    run: list[_Member] = []
    for member in members:
        same = run and member.key is not None and member.key == run[0].key
        if run and not (same and member.suffix not in {other.suffix for other in run}):
            yield run
            run = []
        run.append(member)
    if run:
        yield run


def _name_fault(member: _Member, seen: set[str]) -> SampleError | None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return UnsafeMember(f"{member.name!r} points out of the archive")
    if member.key is None:
        return UnsafeMember(f"{member.name!r} has no key; name members <key>.<suffix>")
    if member.key in seen:
        return DuplicateKey(
            f"key {member.key!r} came before; the members of a sample must be adjacent"
        )
    return None


def _split(name: str) -> tuple[str | None, str]:
    """Key and suffix of a member name; no key if the file name starts with a dot."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else (None, "")


def _members(stream: BinaryIO, shard: Shard, max_bytes: int) -> Iterator[_Member]:
    try:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictTarInfo) as tar:
            for info in tar:
                if not info.isdir():
                    yield _read_member(stream, info, shard, max_bytes)
                tar.members.clear()  # type: ignore[attr-defined]
            _refuse_trailing(stream, tar.offset, shard)
    except _HeaderCut as error:
        raise ShardCut(f"{shard.url} is cut at byte {error}: no end marker follows") from error
    except tarfile.ReadError as error:
        if "unexpected end" in str(error):
            raise ShardCut(f"{shard.url} is cut at byte {shard.size}") from error
        raise ShardDamaged(f"{shard.url}: {error}") from error
    except tarfile.TarError as error:
        raise ShardDamaged(f"{shard.url}: {error}") from error


def _refuse_trailing(stream: BinaryIO, end: int, shard: Shard) -> None:
    """Only zeros may follow the end marker: any other data would be lost."""
    stream.seek(end)
    while block := stream.read(2**20):
        if block.count(0) != len(block):
            raise ShardDamaged(
                f"{shard.url}: data follows the end marker at byte {end}; of concatenated tars "
                "only the first would be read: pack them again"
            )


def _read_member(stream: BinaryIO, info: tarfile.TarInfo, shard: Shard, max_bytes: int) -> _Member:
    if info.offset_data + info.size > shard.size:
        raise ShardCut(
            f"{shard.url} is cut at byte {shard.size}: member {info.name!r} goes on to byte "
            f"{info.offset_data + info.size}"
        )
    key, suffix = _split(info.name)
    if fault := _member_fault(info, max_bytes):
        return _Member(info.name, key, suffix, b"", info.size, fault)
    stream.seek(info.offset_data)
    data = spool(_parts(stream, info.size), info.size)
    if len(data) != info.size:
        raise ShardCut(f"{shard.url} is cut at byte {info.offset_data + len(data)}")
    return _Member(info.name, key, suffix, data, info.size)


def _parts(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size and (part := stream.read(min(size, _PART))):
        yield part
        size -= len(part)


def _member_fault(info: tarfile.TarInfo, max_bytes: int) -> SampleError | None:
    if not info.isreg() or info.issparse():
        return UnsafeMember(f"{info.name!r} is not a regular file")
    if info.size > max_bytes:
        return OversizedAudio(f"{info.size} bytes; limits.member_mb is {max_bytes / 1e6:g}")
    return None


class _HeaderCut(Exception):
    """Carries the byte at which a header is missing."""


class _StrictTarInfo(tarfile.TarInfo):
    """Raises for a missing or damaged header, which `tarfile` takes for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_StrictTarInfo":
        start = tar.fileobj.tell()
        try:
            return super().fromtarfile(tar)
        except (
            tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
            tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
        ) as error:
            raise _HeaderCut(start) from error
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"no tar header at byte {start}: {error}") from error
