"""One Parquet part per shard, committed as a whole."""

import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from speechmill.codecs import codec_packages
from speechmill.codecs.api import CodecInfo
from speechmill.codecs.shapes import ShapeSettings
from speechmill.pipeline.arrow_arrays import of_values
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.canary import Reference
from speechmill.pipeline.tokenize.drops import Drops
from speechmill.pipeline.tokenize.schema import (
    LAYOUT,
    ROW_SCHEMA,
    channels_of,
    distinct_strings,
    reject_table,
    token_schema,
)
from speechmill.pipeline.versions import library_versions

FOOTER_KEY = "speechmill"
ROWS_PER_GROUP = 4096
GROUP_TEXT = 2**26  # characters of text and distinct metadata, after which a row group ends
CODES_PATH = "codes.list.element"  # of the column of codes in a Parquet file
# With shards of an hour and clips of 1 to 30 s, silence is then a tenth of all batches or less.
_WAITING_SHARDS = 6
# From this size on, codes split by byte are not larger than bit-packed dictionary indices.
_BIG_CODEBOOK = 2**15


@dataclass(frozen=True)
class CodecOutput:
    """A codec of a run, and the dataset for its tokens."""

    output: str
    codec: CodecInfo
    codec_options: dict[str, Any]  # the arguments of `load_codec`
    canary: Reference | None = None  # None: of an early version
    batch: ShapeSettings | None = None  # the shapes of its batches; None: as the clips come
    drops: Drops | None = None  # what its dataset must not hold

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions that can change its codes, beside those that can change any."""
        return codec_packages(self.codec_options["name"])

    @property
    def waiting_shards(self) -> int:
        """Shards that may have all their clips in batches that are not full yet."""
        return _WAITING_SHARDS if self.batch else 0


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The counts and times of one shard."""

    shard: str  # name of its part
    rows: int
    frames: int
    audio_seconds: float  # of the rows
    rejects: dict[str, int]  # by error class
    num_bad_json: int = 0
    num_cleaned: int = 0  # names and texts with U+FFFD for what is not UTF-8
    num_passed_over: int = 0  # members that macOS added
    encode_seconds: float = field(default=0.0, compare=False)
    starved_seconds: float = field(default=0.0, compare=False)  # in which its device had no batch
    read_seconds: float = field(default=0.0, compare=False)  # of the tar, part of the next
    decode_seconds: float = field(default=0.0, compare=False)  # reading and decoding
    decode_cpu_seconds: float = field(default=0.0, compare=False)
    write_seconds: float = field(default=0.0, compare=False)  # Parquet, and storage


def combined(reports: Sequence[ShardReport]) -> ShardReport:
    """One report for several codecs: the frames of all, but every utterance once."""
    first = max(reports, key=lambda report: report.rows)
    return replace(
        first,
        frames=sum(report.frames for report in reports),
        encode_seconds=sum(report.encode_seconds for report in reports),
        starved_seconds=max(report.starved_seconds for report in reports),
        read_seconds=sum(report.read_seconds for report in reports),
        decode_seconds=sum(report.decode_seconds for report in reports),
        decode_cpu_seconds=sum(report.decode_cpu_seconds for report in reports),
        write_seconds=sum(report.write_seconds for report in reports),
    )


class PartWriter:
    """Collects the rows of one shard and commits them at the end of a `with` block.

    After an exception, or without `close`, nothing is written. Rejects are written before the part,
    so an existing part always has its rejects. `provenance` are more facts for the footer: the kind
    of device, the precision, whether the codec was compiled, the versions of libraries, by default
    those that can change any token, and on a GPU the shapes of batches.
    `version` is that of the schema. `drops` are taken out of the part. An existing part is kept,
    unless `replace` is set.
    """

    def __init__(
        self,
        root: str,
        shard: Shard,
        storage: Storage,
        codec: CodecInfo,
        provenance: dict[str, Any],
        version: int = 1,
        drops: Drops | None = None,
        replace: bool = False,
    ):
        self.root = root
        self.shard = shard
        self.storage = storage
        self.codec = codec
        self.provenance = provenance
        self.version = version
        self.drops = drops
        self.replace = replace
        self.schema = token_schema(codec.codebook_sizes, version)
        self.report: ShardReport | None = None
        self._batches: list[pa.RecordBatch] = []
        self._metadata = _Distinct()
        self._end: ShardEnd | None = None

    def add(self, rows: pa.RecordBatch) -> None:
        """Take the rows of a batch, with codes; equal metadata is kept once."""
        place = rows.schema.get_field_index("metadata")
        positions = self._metadata.positions(rows.column(place))
        self._batches.append(rows.set_column(place, "metadata", positions))

    def close(self, end: ShardEnd) -> None:
        """Declare the shard complete; without this nothing is written."""
        self._end = end

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None and self._end:
            self._commit(self._end)

    def _commit(self, end: ShardEnd) -> None:
        started = time.perf_counter()
        place = self.schema.get_field_index("metadata")
        schema = self.schema.set(place, pa.field("metadata", pa.int32()))
        table = pa.Table.from_batches(self._batches, schema=schema)
        table, rejects = self._kept(table, end.rejects)
        report = ShardReport(
            shard=self.shard.name,
            rows=len(table),
            frames=sum(table["num_frames"].to_pylist()),
            audio_seconds=sum(table["duration"].to_pylist()),
            rejects=dict(sorted(Counter(reject.error for reject in rejects).items())),
            num_bad_json=end.num_bad_json,
            num_cleaned=end.num_cleaned,
            num_passed_over=end.num_passed_over,
        )
        if rejects:
            rejected = reject_table(rejects, self.shard.url, self.version)
            starts = range(0, len(rejected), ROWS_PER_GROUP)
            groups = (rejected.slice(start, ROWS_PER_GROUP) for start in starts)
            self._put("rejects", rejected.schema, groups, report)
        schema = self.schema.set(place, ROW_SCHEMA.field("metadata"))
        # If a shard ran twice, the first part wins.
        self._put("tokens", schema, self._row_groups(table), report)
        self.report = replace(report, write_seconds=time.perf_counter() - started)

    def _kept(self, table: pa.Table, rejects: list[Reject]) -> tuple[pa.Table, list[Reject]]:
        """The rows in order, without those that are rejected or dropped, and all rejects."""
        order = [name for name in ("index", "start", "channel") if name in table.column_names]
        table = _without(table, rejects).sort_by([(name, "ascending") for name in order])
        if self.drops is None:
            return table, rejects
        kept = self.drops.applied(table, rejects, self.shard.url)
        return kept.table, kept.rejects

    def _row_groups(self, table: pa.Table) -> Iterator[pa.Table]:
        """The rows in groups of bounded size, each with its distinct metadata."""
        place = table.schema.get_field_index("metadata")
        for start, stop in _group_bounds(table, self._metadata.values):
            rows = table.slice(start, stop - start)
            values = self._metadata.values
            positions = rows.column(place).to_pylist()
            metadata = distinct_strings([None if p is None else values[p] for p in positions])
            yield rows.set_column(place, "metadata", metadata)

    def _put(
        self, folder: str, schema: pa.Schema, groups: Iterable[pa.Table], report: ShardReport
    ) -> None:
        sink = io.BytesIO()
        with parquet_writer(sink, schema, self.codec.codebook_sizes) as file:
            for rows in groups:
                file.write_table(rows, row_group_size=len(rows))
            add_footer(file, self._footer(report))
        name = f"{self.shard.name}.parquet"
        new = folder == "tokens" and not self.replace
        put = self.storage.put_new if new else self.storage.put
        put(join(self.root, folder, name), sink.getvalue())

    def _footer(self, report: ShardReport) -> dict[str, Any]:
        rare = {"cleaned": report.num_cleaned, "passed_over": report.num_passed_over}
        return {
            "schema_version": self.version,
            "layout": LAYOUT,
            "codec": asdict(self.codec),
            "source": asdict(self.shard),
            "rows": report.rows,
            "frames": report.frames,
            "audio_seconds": report.audio_seconds,
            "rejects": report.rejects,
            "bad_json": report.num_bad_json,
            **{name: count for name, count in rare.items() if count},
            "libraries": library_versions(),
            **self.provenance,
        }


class _Distinct:
    """Strings that are kept once, by their position among all that came."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._positions: dict[str, int] = {}

    def positions(self, column: pa.DictionaryArray) -> pa.Array:
        """The position of the string of each row; null for a null."""
        own = of_values([*map(self._position, column.dictionary.to_pylist())], pa.int32())
        return own.take(column.indices)

    def _position(self, value: str) -> int:
        position = self._positions.setdefault(value, len(self.values))
        if position == len(self.values):
            self.values.append(value)
        return position


def _group_bounds(table: pa.Table, metadata: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First and last row of each row group, which a reader must hold in memory."""
    texts = pc.binary_length(table["text"]).to_pylist()
    start = size = 0
    held: set[int | None] = {None}
    for row, position in enumerate(table["metadata"].to_pylist()):
        if row - start == ROWS_PER_GROUP or size > GROUP_TEXT:
            yield start, row
            start, size, held = row, 0, {None}
        size += texts[row] or 0
        if position not in held:
            held.add(position)
            size += len(metadata[position])
    if start < len(table):
        yield start, len(table)


def _without(table: pa.Table, rejects: Sequence[Reject]) -> pa.Table:
    """Remove the clips of recordings and channels that were rejected as a whole afterwards."""
    rejected = {(reject.index, reject.channel) for reject in rejects if reject.start is None}
    indices = table["index"].to_pylist()
    if {index for index, _ in rejected}.isdisjoint(indices):
        return table
    rows = zip(indices, channels_of(table), strict=True)
    return table.filter(
        pa.array([rejected.isdisjoint({(index, None), (index, own)}) for index, own in rows])
    )


def parquet_writer(
    sink: IO[bytes], schema: pa.Schema, codebook_sizes: Sequence[int]
) -> pq.ParquetWriter:
    """A writer of a file of tokens or rejects, with the encoding that suits each column."""
    repetitive = ["shard", "sample_rate", "num_channels", "num_codebooks", "stage", "error"]
    repetitive.append("metadata")
    dictionary = [name for name in repetitive if name in schema.names]
    encoding: dict[str, str] = {}
    if "codes" in schema.names and max(codebook_sizes) >= _BIG_CODEBOOK:
        encoding[CODES_PATH] = "BYTE_STREAM_SPLIT"
    elif "codes" in schema.names:
        dictionary.append(CODES_PATH)
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=dictionary,
        column_encoding=encoding or None,
        write_page_checksum=True,  # zstd does not detect every flipped bit
        store_schema=False,  # or every reader would get metadata as a dictionary
        dictionary_pagesize_limit=2**30,  # the JSON of a group may be larger than 1 MiB
    )


def add_footer(file: pq.ParquetWriter, footer: dict[str, Any]) -> None:
    """Add the `speechmill` metadata to a file that is being written."""
    file.add_key_value_metadata({FOOTER_KEY: json.dumps(footer, sort_keys=True)})


def read_footer(data: bytes) -> dict[str, Any]:
    """The `speechmill` metadata of a part, from its last bytes or all of them."""
    return footer_of(pq.read_metadata(io.BytesIO(data)))


def footer_of(metadata: pq.FileMetaData) -> dict[str, Any]:
    """The `speechmill` metadata of a part, from its Parquet metadata."""
    return dict(json.loads((metadata.metadata or {})[FOOTER_KEY.encode()]))
