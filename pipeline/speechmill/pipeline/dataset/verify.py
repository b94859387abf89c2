"""Verify a token dataset: read every part completely and compare it with its source."""

import posixpath
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from speechmill.pipeline.dataset.checks import (
    NamedFault,
    check_channels,
    check_code_values,
    check_counts,
    check_dropped,
    check_identity,
    check_keys,
    check_rows,
    check_times,
)
from speechmill.pipeline.dataset.drop import read_drops
from speechmill.pipeline.dataset.layout import (
    COMPACTED,
    DAMAGE,
    GENERATED,
    TokenDataset,
    codec_of,
    readable,
    shard_of,
)
from speechmill.pipeline.dataset.row_groups import COMPACTED_PART, INDEX, index_of, read_index
from speechmill.pipeline.dataset.section_rows import RowReader, open_parquet
from speechmill.pipeline.dataset.sections import PART_NAME, Section, sections_in
from speechmill.pipeline.errors import InputError, ShardError, StorageError
from speechmill.pipeline.foreign import Roots
from speechmill.pipeline.parquet import read_parquet
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import read_samples
from speechmill.pipeline.storage import join
from speechmill.pipeline.tokenize.drops import Drops
from speechmill.pipeline.tokenize.schema import ROW_SCHEMA, reject_schema, token_schema
from speechmill.pipeline.tokenize.writer import footer_of

_THREADS = 8  # each holds a row group in memory, and the rows of one shard


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault or note about one file of a dataset."""

    check: str  # unreadable | name | footer | codes | rows | keys | duplicate | rejects | …
    file: str  # below the root of the dataset
    message: str


@dataclass(slots=True)
class Verification:
    """The counts of what was read, the faults, and notes about what could not be checked."""

    root: str
    parts: int = 0  # shards; a file of a compacted dataset has many
    rows: int = 0
    frames: int = 0
    rejects: int = 0
    sources_read: int = 0
    redecoded: int = 0  # recordings that were decoded again
    redecoded_by_one: int = 0  # of them, those of which only one decoder knows the format
    faults: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class _Part:
    """The result for one shard of a file of `tokens/`; `source` is None if it cannot be read."""

    file: str
    name: str
    findings: list[Finding] = field(default_factory=list)
    source: Shard | None = None
    rows: int = 0
    frames: int = 0
    rejects: int = 0
    key_hashes_N: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    libraries: dict[str, str] = field(default_factory=dict)  # versions of the process that wrote it
    source_read: bool = False
    unread: StorageError | None = None  # why the source could not be compared

    def add(self, faults: Iterable[NamedFault]) -> None:
        self.findings += [Finding(check, self.file, message) for check, message in faults]


class _Unreadable(Exception):
    """A file exists and cannot be read."""

    def __init__(self, file: str, cause: Exception):
        super().__init__(file)
        self.finding = Finding("unreadable", file, f"{type(cause).__name__}: {cause}")


def verify_files(
    dataset: TokenDataset,
    *,
    sources: Sequence[str] = (),
    keys: bool | None = None,
    unique_keys: bool = False,
) -> Verification:
    """Read every file of a dataset and list its faults.

    The footers of a dataset are data: a source tar is read only below `sources`, folders or tars
    that the user names. `keys` compares rows and rejects with the member names of these tars: None
    compares if the tars can be read, True makes a tar that is not read a fault. A key that occurs
    in two shards is a fault only with `unique_keys`, since in many corpora each shard numbers its
    clips from 0. Raises `InputError` without a dataset.
    """
    identity = dataset.require_identity()
    files, strangers = _listed(dataset, is_compacted=COMPACTED in identity)
    rejects = dataset.parts("rejects")
    roots = Roots.of(sources, dataset.storage)
    check = _FileCheck(dataset, identity, rejects, keys, roots, read_drops(dataset))
    with ThreadPoolExecutor(_THREADS) as threads:
        parts = [part for file in threads.map(check, files) for part in file]
    found = Verification(
        root=dataset.root,
        parts=len(parts),
        rows=sum(part.rows for part in parts),
        frames=sum(part.frames for part in parts),
        rejects=sum(part.rejects for part in parts),
        sources_read=sum(part.source_read for part in parts),
        faults=[*strangers, *(finding for part in parts for finding in part.findings)],
    )
    found.faults += _same_source(parts)
    if COMPACTED in identity and not any(one.check == "unreadable" for one in found.faults):
        found.faults += _index_faults(dataset, identity, sorted(map(_stem, files)))
    found.faults += _failures(dataset, {part.name for part in parts})
    (found.faults if unique_keys else found.notes).extend(_keys_across(parts))
    if keys is not False and GENERATED not in identity:  # generated codes have no tar
        (found.faults if keys else found.notes).extend(_unread_sources(parts, roots))
    found.notes += _versions(parts, dataset.identity_file)
    found.notes += _uncommitted(rejects - {_stem(file) for file in files})
    return found


def _listed(dataset: TokenDataset, *, is_compacted: bool) -> tuple[list[str], list[Finding]]:
    """The files under `tokens/` with the name of a part, and a fault for each other file."""
    infos = dataset.storage.list_files(join(dataset.root, "tokens"))
    below = len(join(dataset.storage.absolute(dataset.root), "tokens")) + 1
    names = [info.url[below:] for info in infos]
    visible = [name for name in names if not name.startswith((".", "_"))]  # as pyarrow reads them
    pattern, shape = PART_NAME, "<tar>-<12 hex>"
    if is_compacted:
        pattern, shape = COMPACTED_PART, "part-<number>"
    parts = [name for name in visible if name.endswith(".parquet") and "/" not in name]
    parts = [f"tokens/{name}" for name in parts if pattern.fullmatch(_stem(name))]
    why = f"is not named {shape}.parquet, but readers of the folder see it; move it away"
    strangers = sorted({f"tokens/{name}" for name in visible} - set(parts))
    return parts, [Finding("name", file, why) for file in strangers]


def _index_faults(
    dataset: TokenDataset, identity: dict[str, Any], names: list[str]
) -> Iterator[Finding]:
    """Compare the index of a compacted dataset with its files."""
    try:
        with readable(join(dataset.root, dataset.identity_file)):
            num_codebooks = len(identity["codebook_sizes"])
        if not read_index(dataset).equals(index_of(dataset, names, num_codebooks)):
            message = (
                "does not name the row groups that there are: after a `speechmill drop` that was "
                "killed, run it again; or else delete the dataset and compact again"
            )
            yield Finding("index", INDEX, message)
    except InputError as error:
        yield Finding("index", INDEX, str(error))


@dataclass(frozen=True, slots=True)
class _FileCheck:
    """Checks the shards of one file, each with its rejects and its source."""

    dataset: TokenDataset
    identity: dict[str, Any]
    rejects: set[str]
    keys: bool | None
    roots: Roots
    drops: Drops | None

    def __call__(self, file: str) -> list[_Part]:
        parts: list[_Part] = []
        try:
            for section, table, rejected in self._read(file):
                parts.append(part := _Part(file, section.part))
                with _reading(file):
                    self._check(part, section, table, rejected)
                if part.source and self.keys is not False and self.roots.hold(part.source.url):
                    self._check_source(part, table, rejected)
        except _Unreadable as error:
            parts.append(_Part(file, _stem(file), [error.finding]))
        return parts

    def _read(self, file: str) -> Iterator[tuple[Section, pa.Table, pa.Table]]:
        """Each shard of a file with its rows and its rejects; the last one has all that is left."""
        with self.dataset.storage.open(join(self.dataset.root, file)) as stream:
            with _reading(file):
                parquet = open_parquet(stream)
                sections = sections_in(_stem(file), footer_of(parquet.metadata))
                reader, end = RowReader(parquet), parquet.metadata.num_rows
            rejects = self._rejected(file, sections[0].footer)
            for section in sections:
                is_last = section is sections[-1]
                with _reading(file):
                    stop = end if is_last else section.first + section.rows
                    table = reader.rows(section.first, stop)
                    table.validate(full=True)
                    count = len(rejects) if is_last else section.rejects
                yield section, table.combine_chunks(), rejects.slice(0, count)
                rejects = rejects.slice(count)

    def _rejected(self, file: str, footer: dict[str, Any]) -> pa.Table:
        schema = reject_schema(footer.get("schema_version", 1))
        if _stem(file) not in self.rejects:
            return schema.empty_table()
        rejects = f"rejects/{_stem(file)}.parquet"
        data = self.dataset.storage.read_bytes(join(self.dataset.root, rejects))
        with _reading(rejects):
            table = read_parquet(data)
            table.validate(full=True)
            return table.select(schema.names).cast(schema)

    def _check(self, part: _Part, section: Section, table: pa.Table, rejected: pa.Table) -> None:
        """Later checks rely on the results of earlier ones."""
        footer = section.footer
        source = shard_of(footer)
        codec = codec_of(footer)
        part.add(check_identity(footer, self.identity))
        if source.name != section.part:
            message = f"holds the tokens of {source.url}, whose part is {source.name}.parquet"
            part.add([("name", message)])
        wanted = token_schema(codec.codebook_sizes, footer["schema_version"])
        place = wanted.get_field_index("metadata")
        if not table.schema.equals(wanted.set(place, ROW_SCHEMA.field("metadata"))):
            part.add([("footer", "the columns are not those of a token dataset of this codec")])
            return
        part.source, part.rejects, part.rows = source, len(rejected), len(table)
        part.frames = sum(table["num_frames"].to_pylist())
        part.key_hashes_N = _hashes(table["key"])
        part.libraries = {str(k): str(v) for k, v in footer.get("libraries", {}).items()}
        part.add(check_counts(table, footer, rejected))
        part.add(check_code_values(table, codec))
        part.add(check_times(table, codec))
        part.add(check_channels(table))
        part.add(check_rows(table, rejected, source, self._segmented))
        if self.drops:
            part.add(check_dropped(table, rejected, source, self.drops))

    @property
    def _segmented(self) -> bool:
        return bool(self.identity.get("segment", "none") != "none")

    def _check_source(self, part: _Part, table: pa.Table, rejected: pa.Table) -> None:
        assert part.source
        try:
            member = self.identity.get("member")
            wanted = dict(enumerate(_source_keys(part.source, self.dataset, member)))
        except ShardError as error:
            part.add([("keys", str(error))])
        except StorageError as error:
            part.unread = error
        else:
            part.source_read = True
            found: dict[int, str] = {}
            for rows in (table, rejected):
                found |= zip(rows["index"].to_pylist(), rows["key"].to_pylist(), strict=True)
            part.add(("keys", message) for message in check_keys(found, wanted))


@contextmanager
def _reading(file: str) -> Iterator[None]:
    """Turn what a damaged file raises, in a reader or a check, into a finding about this file."""
    try:
        yield
    except DAMAGE as error:
        raise _Unreadable(file, error) from error


def _source_keys(source: Shard, dataset: TokenDataset, member: str | None) -> Iterator[str]:
    """The key of every sample of a tar, by position; a limit of -1 skips every member's data."""
    for entry in read_samples(source, dataset.storage, max_member_bytes=-1, audio_member=member):
        yield entry.key


def _same_source(parts: list[_Part]) -> Iterator[Finding]:
    """A fault for each second part of a tar: readers would see its utterances twice."""
    first: dict[str, _Part] = {}
    for part in parts:
        if part.source and (other := first.setdefault(part.source.url, part)) is not part:
            message = f"{part.source.url} has another part, {other.file}; delete one"
            yield Finding("duplicate", part.file, message)


def _keys_across(parts: list[_Part]) -> Iterator[Finding]:
    """A note if shards share keys, by 64-bit hashes; duplicates within a part do not count."""
    if not parts:
        return
    hashes_N = np.sort(np.concatenate([np.unique(part.key_hashes_N) for part in parts]))
    shared_N = np.unique(hashes_N[1:][hashes_N[1:] == hashes_N[:-1]])
    if len(shared_N):
        part = next(part for part in parts if np.isin(shared_N[0], part.key_hashes_N))
        message = f"{len(shared_N)} keys of the dataset occur in more than one shard"
        yield Finding("duplicate", part.file, message)


def _unread_sources(parts: list[_Part], roots: Roots) -> Iterator[Finding]:
    """What to do about the sources that were not compared."""
    if unread := [part for part in parts if part.unread]:
        message = f"{len(unread)} source tars cannot be read, first {unread[0].unread}"
        yield Finding("keys", unread[0].file, message)
    found = [(part.file, part.source.url) for part in parts if part.source]
    if outside := [(file, url) for file, url in found if not roots.hold(url)]:
        file, url = outside[0]
        message = (
            f"{len(outside)} parts are not compared with their tars, first {url!r}; name the "
            f"folder of the tars, if you trust it: --source {shlex.quote(posixpath.dirname(url))}"
        )
        yield Finding("keys", file, message)


def _versions(parts: list[_Part], file: str) -> Iterator[Finding]:
    """A note for each library of which parts were written with more than one version."""
    versions: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for part in parts:
        for name, version in part.libraries.items():
            versions[name][version] += 1
    for name, counts in versions.items():
        if len(counts) > 1:
            each = ", ".join(f"{version} in {counts[version]}" for version in sorted(counts))
            yield Finding("versions", file, f"{name} {each} of {len(parts)} parts")


def _failures(dataset: TokenDataset, done: set[str]) -> Iterator[Finding]:
    for name in sorted(dataset.parts("failed")):
        file = f"failed/{name}.json"
        if name in done:
            yield Finding("failed", file, "the shard has a part; delete this file")
            continue
        try:
            with _reading(file):
                record = dataset.failure(name)
                message = f"{record['shard']}: {record['error']}: {record['message']}"
            yield Finding("failed", file, message)
        except _Unreadable as error:
            yield error.finding


def _uncommitted(names: set[str]) -> Iterator[Finding]:
    for name in sorted(names):
        message = "has no part: a run stopped between the two files, or gave up; resume it"
        yield Finding("rejects", f"rejects/{name}.parquet", message)


def _hashes(keys: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    hashes = [xxhash.xxh3_64_intdigest(key.encode()) for key in keys.to_pylist()]
    return np.array(hashes, dtype=np.uint64)


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]
