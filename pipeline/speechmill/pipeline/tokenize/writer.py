"""One Parquet part per shard, committed as a whole."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import soundfile

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.shapes import ShapeSettings
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.tokenize.canary import Reference
from speechmill.pipeline.tokenize.schema import LAYOUT, SCHEMA_VERSION, reject_table, token_schema

FOOTER_KEY = "speechmill"
ROWS_PER_GROUP = 4096
_CODES = "codes.list.element"
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
    encode_seconds: float = field(default=0.0, compare=False)
    starved_seconds: float = field(default=0.0, compare=False)  # in which its device had no batch
    decode_seconds: float = field(default=0.0, compare=False)
    decode_cpu_seconds: float = field(default=0.0, compare=False)


def combined(reports: Sequence[ShardReport]) -> ShardReport:
    """One report for several codecs: the frames of all, but every utterance once."""
    first = max(reports, key=lambda report: report.rows)
    return replace(
        first,
        frames=sum(report.frames for report in reports),
        encode_seconds=sum(report.encode_seconds for report in reports),
        starved_seconds=max(report.starved_seconds for report in reports),
        decode_seconds=sum(report.decode_seconds for report in reports),
        decode_cpu_seconds=sum(report.decode_cpu_seconds for report in reports),
    )


class PartWriter:
    """Collects the rows of one shard and commits them at the end of a `with` block.

    After an exception, or without `close`, nothing is written. Rejects are written before the part,
    so an existing part always has its rejects. `provenance` are more facts for the footer: the kind
    of device, the precision, whether the codec was compiled, and on a GPU the shapes of batches.
    """

    def __init__(
        self,
        root: str,
        shard: Shard,
        storage: Storage,
        codec: CodecInfo,
        provenance: dict[str, Any],
    ):
        self.root = root
        self.shard = shard
        self.storage = storage
        self.codec = codec
        self.provenance = provenance
        self.schema = token_schema(codec.codebook_sizes)
        self.report: ShardReport | None = None
        self._batches: list[pa.RecordBatch] = []
        self._rejects: list[Reject] = []
        self._num_bad_json = 0
        self._closed = False

    def add(self, rows: pa.RecordBatch) -> None:
        self._batches.append(rows)

    def close(self, rejects: Sequence[Reject], num_bad_json: int) -> None:
        """Declare the shard complete; without this nothing is written."""
        self._rejects = list(rejects)
        self._num_bad_json = num_bad_json
        self._closed = True

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None and self._closed:
            self._commit()

    def _commit(self) -> None:
        table = pa.Table.from_batches(self._batches, schema=self.schema)
        table = _without(table, self._rejects).sort_by(
            [("index", "ascending"), ("start", "ascending")]
        )
        report = ShardReport(
            shard=self.shard.name,
            rows=len(table),
            frames=sum(table["num_frames"].to_pylist()),
            audio_seconds=sum(table["duration"].to_pylist()),
            rejects=dict(sorted(Counter(reject.error for reject in self._rejects).items())),
            num_bad_json=self._num_bad_json,
        )
        if self._rejects:
            self._put("rejects", reject_table(self._rejects, self.shard.url), report)
        self._put("tokens", table, report)  # if a shard ran twice, the first part wins
        self.report = report

    def _put(self, folder: str, table: pa.Table, report: ShardReport) -> None:
        footer = json.dumps(self._footer(report), sort_keys=True)
        table = table.replace_schema_metadata({FOOTER_KEY: footer})
        sink = io.BytesIO()
        pq.write_table(
            table,
            sink,
            row_group_size=ROWS_PER_GROUP,
            write_page_checksum=True,  # zstd does not detect every flipped bit
            **self._encoding(table.column_names),
        )
        name = f"{self.shard.name}.parquet"
        put = self.storage.put_new if folder == "tokens" else self.storage.put
        put(join(self.root, folder, name), sink.getvalue())

    def _encoding(self, columns: list[str]) -> dict[str, Any]:
        repetitive = ["shard", "sample_rate", "num_channels", "num_codebooks", "stage", "error"]
        dictionary = [name for name in repetitive if name in columns]
        encoding: dict[str, Any] = {"compression": "zstd", "use_dictionary": dictionary}
        if "codes" in columns and max(self.codec.codebook_sizes) >= _BIG_CODEBOOK:
            encoding["column_encoding"] = {_CODES: "BYTE_STREAM_SPLIT"}
        elif "codes" in columns:
            dictionary.append(_CODES)
        return encoding

    def _footer(self, report: ShardReport) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "layout": LAYOUT,
            "codec": asdict(self.codec),
            "source": asdict(self.shard),
            "rows": report.rows,
            "frames": report.frames,
            "audio_seconds": report.audio_seconds,
            "rejects": report.rejects,
            "bad_json": report.num_bad_json,
            "libraries": library_versions(),
            **self.provenance,
        }


def _without(table: pa.Table, rejects: Sequence[Reject]) -> pa.Table:
    """Remove the clips of recordings that were rejected as a whole afterwards."""
    rejected = {reject.index for reject in rejects if reject.start is None}
    if rejected.isdisjoint(table["index"].to_pylist()):
        return table
    return table.filter(pc.invert(pc.is_in(table["index"], pa.array(rejected, pa.int32()))))


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that can change a token or a byte of a part."""
    names = ("speechmill", "torch", "pyarrow", "soundfile", "soxr", "av")
    return {name: version(name) for name in names} | {
        "libsndfile": soundfile.__libsndfile_version__
    }


def read_footer(data: bytes) -> dict[str, Any]:
    """The `speechmill` metadata of a part, from its last bytes or all of them."""
    metadata = pq.read_metadata(io.BytesIO(data)).metadata or {}
    return dict(json.loads(metadata[FOOTER_KEY.encode()]))
