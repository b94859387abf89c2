"""An output on storage, shard by shard: its identity, what is done, and what is left to do."""

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.errors import InvalidConfig
from speechmill.codecs.shapes import ShapeSettings
from speechmill.pipeline.audio import vad
from speechmill.pipeline.audio.decoders import AUDIO_VERSION
from speechmill.pipeline.audio.ffmpeg import Gaps
from speechmill.pipeline.audio.filters import FilterSettings
from speechmill.pipeline.audio.recordings import RecordingSettings
from speechmill.pipeline.audio.segment import SegmentSettings
from speechmill.pipeline.errors import DatasetConflict, InputError, StorageNotFound
from speechmill.pipeline.filesystems import FileInfo
from speechmill.pipeline.parquet import read_parquet
from speechmill.pipeline.shards.listing import Shard, stem_of_part
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.text import json_file
from speechmill.pipeline.tokenize import canary
from speechmill.pipeline.tokenize.schema import LAYOUT, SCHEMA_VERSIONS, schema_version
from speechmill.pipeline.tokenize.writer import footer_of

FOOTER_BYTES = 64 * 1024  # one ranged read, enough for the footer of nearly every part
SCHEMA = "schema_version"
AUDIO = "audio_version"  # of an identity; missing where it was 1
VAD = "vad"  # sha256 of the network, if speech is segmented by it
BATCH = "batch"  # of `dataset.json`, if the dataset was begun on GPUs
COMPACTED = "compacted"  # of `dataset.json`, if `compact` made the dataset
GENERATED = "generated"  # of `dataset.json`, if a language model made the codes
COMPACTION_PLAN = "plan.parquet"  # of a dataset that `compact` makes, its first file
# What damaged files of a dataset raise, in a Parquet reader or where their content is used.
DAMAGE = (
    pa.ArrowException,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,  # of Parquet metadata; those of a store are `StorageError`
    RecursionError,
    TypeError,
    ValueError,
)
_PARALLEL_READS = 32
_SUFFIXES = {"failed": ".json", "rejects": ".parquet"}  # of folders that hold no parts
_PARQUET_END = 8  # bytes: the length of the metadata before them, and a mark
# Settings of segments, with the values that early datasets have.
_ADDED_SINCE = {
    "list": None,
    "texts": "text",
    "threshold": 0.5,
    "min_speech": 0.25,
    "min_silence": 0.1,
    "pad": 0.03,
}

Result = TypeVar("Result")


def dataset_identity(
    codec: CodecInfo,
    precision: str,
    recording: RecordingSettings,
    *,
    compiled: bool = False,
    batch: ShapeSettings | None = None,
) -> dict[str, Any]:
    """The facts that must be equal for two runs to write into one dataset.

    `batch` is that of runs on GPUs.
    """
    audio, filters = recording.audio, asdict(recording.filters)
    default = asdict(FilterSettings())
    return {
        SCHEMA: schema_version(audio.channels),
        "layout": LAYOUT,
        AUDIO: AUDIO_VERSION,
        "codec": codec.name,
        "revision": codec.revision,
        "trained": codec.trained,
        "precision": precision,
        "compile": compiled,
        "codebook_sizes": list(codec.codebook_sizes),
        "frame_rate": codec.frame_rate,
        "channels": audio.channels,
        "resampler": audio.resampler,
        "member": audio.member,
        **({} if audio.gaps == Gaps.REJECT else {"gaps": audio.gaps}),
        "segment": _segment_identity(recording.segment),
        **({VAD: vad.SHA256} if recording.segment.by == "vad" else {}),
        "filters": {name: value for name, value in filters.items() if value != default[name]},
        **({BATCH: asdict(batch)} if batch else {}),
    }


def _segment_identity(segment: SegmentSettings) -> Any:
    """The settings of segments; early datasets do not have some, which count if they are set."""
    if segment.by == "none":
        return "none"
    unset = {name: value for name, value in _ADDED_SINCE.items() if getattr(segment, name) == value}
    return {name: value for name, value in asdict(segment).items() if name not in unset}


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn what a damaged file of a dataset raises into an `InputError` in one line."""
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{what} is damaged: {reason}; see `speechmill verify`") from error


def shard_of(footer: dict[str, Any]) -> Shard:
    """The source of a part by its footer; raises `ValueError` if it is not one."""
    source = Shard(**footer["source"])
    if not (isinstance(source.url, str) and isinstance(source.size, int)):
        raise ValueError(f"the source {source} is not a URL, a size and an ETag")
    return source


def codec_of(footer: dict[str, Any]) -> CodecInfo:
    """The codec of a part by its footer."""
    codec = footer["codec"]
    return CodecInfo(**codec | {"codebook_sizes": tuple(codec["codebook_sizes"])})


def recorded_batch(identity: dict[str, Any]) -> ShapeSettings | None:
    """The shapes of the batches of a dataset; None if it was begun on CPUs.

    Raises `InputError` if they are damaged.
    """
    found = identity.get(BATCH)
    try:
        return None if found is None else ShapeSettings(**found)
    except (TypeError, InvalidConfig) as error:
        raise InputError(f"{BATCH} of dataset.json is damaged: {error}") from error


@dataclass
class ShardOutput(ABC):
    """A folder with one file for each shard: the part, which is the commit.

    One listing finds all finished shards, however many there are.
    """

    root: str
    storage: Storage

    identity_file: ClassVar[str]
    folder: ClassVar[str]  # of the parts
    suffix: ClassVar[str]
    content: ClassVar[str]  # what the parts hold, for messages
    title: ClassVar[str]  # of the whole, for messages

    def claim(self, wanted: dict[str, Any]) -> None:
        """Write the identity, or check that the existing one is equal but for its canary.

        The first run on GPUs adds the shapes of its batches to a dataset that was begun on CPUs.

        Removes temporary files that killed writes left on a local disk. Raises `DatasetConflict`
        with the first difference and the cure.
        """
        for folder in ("", self.folder, "rejects", "failed"):
            self.storage.clear_leftovers(join(self.root, folder))
        found = self.read_identity()
        if found is None:
            if self.parts():
                raise DatasetConflict(
                    f"{self.root}/{self.folder} holds parts, but {self.identity_file}, which "
                    "names their model, is missing; set another output"
                )
            if self.storage.put_new(join(self.root, self.identity_file), json_file(wanted)):
                return
            found = self.require_identity()  # another run began at the same time
        self.refuse_other(found, wanted)
        if BATCH in wanted and BATCH not in found:
            self._write_identity({**found, BATCH: wanted[BATCH]})

    def _write_identity(self, identity: dict[str, Any]) -> None:
        self.storage.put(join(self.root, self.identity_file), json_file(identity))

    def refuse_other(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Raise `DatasetConflict` if two identities differ."""
        if (earlier := found.get(AUDIO, 1)) != wanted[AUDIO]:
            raise DatasetConflict(
                f"{self.root} was begun with {AUDIO} {earlier}, now it is {wanted[AUDIO]}: some "
                "files give other samples (docs/guide/tokenize.md says which). Set another "
                f"output; or, if none of them is among yours, set {AUDIO} in {self.identity_file}"
            )
        # The schema depends on another setting, and that one is the better name for a difference.
        for key in sorted(wanted, key=lambda key: key == SCHEMA):
            if key in (AUDIO, canary.KEY) or (key == BATCH and key not in found):
                continue
            if found.get(key) != wanted[key]:
                raise DatasetConflict(
                    f"{self.root} holds {self.content} of {key} = {found.get(key)!r}, this run has "
                    f"{wanted[key]!r}; set another output, or change {key} back"
                )

    def read_identity(self) -> dict[str, Any] | None:
        url = join(self.root, self.identity_file)
        try:
            with readable(url):
                return dict(json.loads(self.storage.read_bytes(url)))
        except StorageNotFound:
            return None

    def require_identity(self) -> dict[str, Any]:
        """The identity; raises `InputError` if there is none."""
        found = self.read_identity()
        if found is None:
            raise InputError(f"no {self.title} at {self.root}: {self.identity_file} is missing")
        return found

    def parts(self, folder: str | None = None) -> set[str]:
        """Names of the shards that have a file in a folder of the output, by one listing."""
        return set(self.listed(folder))

    def listed(self, folder: str | None = None) -> dict[str, FileInfo]:
        """The files of a folder of the output by the names of their shards, by one listing.

        Other files, such as a README, do not count; `verify` names them.
        """
        infos = self.storage.list_files(join(self.root, folder or self.folder))
        suffix = _SUFFIXES.get(folder or self.folder, self.suffix)
        files = {info.url.rpartition("/")[2]: info for info in infos}
        return {
            name.rpartition(".")[0]: info
            for name, info in files.items()
            if name.endswith(suffix) and not name.startswith(".")
        }

    def todo(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards without a part.

        Raises `DatasetConflict` if a tar was replaced after its part was written.
        """
        done = self.parts()
        names = [shard.name for shard in shards]  # once: a name is a digest
        if others := done.difference(names):
            self._refuse_changed(shards, others)
        return [shard for shard, name in zip(shards, names, strict=True) if name not in done]

    def _refuse_changed(self, shards: Sequence[Shard], others: set[str]) -> None:
        """Raise for a part of an older version of a shard; its name has the stem of the shard."""
        stems = {shard.stem for shard in shards}
        suspects = [name for name in sorted(others) if stem_of_part(name) in stems]
        by_url = {shard.url: shard for shard in shards}
        for name, source in zip(suspects, self.sources(suspects), strict=True):
            if source["url"] in by_url:
                raise DatasetConflict(
                    f"{source['url']} has changed since it was read (etag {source['etag']}, now "
                    f"{by_url[source['url']].etag}); delete {self.part_url(name)} to read it "
                    "again, or set another output"
                )

    @abstractmethod
    def sources(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Url, size and etag of the shard of each part, in the order of `names`."""

    def map_names(
        self, work: Callable[[str], Result], names: Iterable[str], threads: int = _PARALLEL_READS
    ) -> list[Result]:
        """Call `work` for every name, many at the same time; the results keep the order."""
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, names))

    def part_url(self, name: str) -> str:
        return join(self.root, self.folder, f"{name}{self.suffix}")

    def failures(self) -> list[dict[str, Any]]:
        """The shards given up on, with error and attempts."""
        return self.map_names(self.failure, sorted(self.parts("failed")))

    def failure(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.storage.read_bytes(self._failed_url(name))))

    def failed_names(self) -> dict[str, list[str]]:
        """Names of the failure records, by the URL of their shard."""
        names: dict[str, list[str]] = {}
        found = sorted(self.parts("failed"))
        for name, failure in zip(found, self.map_names(self.failure, found), strict=True):
            names.setdefault(failure["shard"], []).append(name)
        return names

    def mark_failed(self, shard: Shard, record: dict[str, Any]) -> None:
        self.storage.put(self._failed_url(shard.name), json_file(record))

    def clear_failed(self, name: str) -> None:
        self.storage.delete(self._failed_url(name))

    def _failed_url(self, name: str) -> str:
        return join(self.root, "failed", f"{name}.json")


class TokenDataset(ShardOutput):
    """A token dataset: the folder that the README describes."""

    identity_file, folder, suffix, content = "dataset.json", "tokens", ".parquet", "tokens"
    title = "token dataset"

    def require_identity(self) -> dict[str, Any]:
        """The identity; raises `InputError` if there is none, or one of a later version."""
        found = self.read_identity()
        if found is None and self.storage.exists(join(self.root, COMPACTION_PLAN)):
            raise InputError(
                f"{self.root} is not compacted yet; run `speechmill compact` again to resume"
            )
        found = found or super().require_identity()
        if (version := found.setdefault(SCHEMA, 1)) not in SCHEMA_VERSIONS:
            raise InputError(
                f"{self.root} has {SCHEMA} {version!r}; this version of speechmill reads 1 and 2; "
                "install a newer one"
            )
        return found

    def refuse_other(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Raise `DatasetConflict` if two identities differ, or if `found` is not of `tokenize`."""
        if GENERATED in found:
            raise DatasetConflict(
                f"{self.root} holds codes that a language model generated; set another output"
            )
        if COMPACTED in found:
            with readable(join(self.root, self.identity_file)):
                source = found[COMPACTED]["source"]
            raise DatasetConflict(
                f"{self.root} was compacted; tokenize into {source}, from which it was made, or "
                "into a new output, and compact that one again"
            )
        super().refuse_other(found, wanted)

    def refuse_inside(self, output: str) -> None:
        """Raise `InputError` for an output in the dataset, where its files would pass for parts."""
        if f"{output}/".startswith(f"{self.root.rstrip('/')}/"):
            raise InputError(f"{output} is in the dataset; set a folder outside of {self.root}")

    def sources(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """From the footers of the parts."""
        footers = zip(names, self.footers(names), strict=True)
        return [asdict(self._source(name, footer)) for name, footer in footers]

    def footers(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """The footer metadata of parts, in the order of `names`."""
        return self.map_names(self._footer, names)

    def read_columns(self, name: str, columns: Sequence[str]) -> pa.Table:
        """These columns of a part, but for those that it lacks, such as `channel`.

        Raises `InputError` if the part is damaged.
        """
        data = self.storage.read_bytes(self.part_url(name))
        with readable(self.part_url(name)):
            return read_parquet(data, columns)

    def rejects_url(self, name: str) -> str:
        return join(self.root, "rejects", f"{name}.parquet")

    def _source(self, name: str, footer: dict[str, Any]) -> Shard:
        """The source of a part; raises `InputError` if its footer does not state one."""
        with readable(self.part_url(name)):
            return shard_of(footer)

    def metadata(self, name: str) -> pq.FileMetaData:
        """The Parquet metadata of a part, by one read of its end, or two if they are large.

        Raises `InputError` if they are damaged.
        """
        url = self.part_url(name)
        data = self.storage.read_tail(url, FOOTER_BYTES)
        size = int.from_bytes(data[-_PARQUET_END:-4], "little") + _PARQUET_END
        if len(data) == FOOTER_BYTES < size:
            data = self.storage.read_tail(url, size)
        with readable(url):
            return pq.read_metadata(io.BytesIO(data))

    def _footer(self, name: str) -> dict[str, Any]:
        metadata = self.metadata(name)
        with readable(self.part_url(name)):
            return footer_of(metadata)
