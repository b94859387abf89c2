"""A token dataset on storage: whose it is, what is done, what is left to do."""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import DatasetConflict, StorageNotFound
from pipeline.filters import FilterSettings
from pipeline.pieces import RecordingSettings
from pipeline.shard import Shard
from pipeline.storage import Storage, join
from pipeline.tokens import LAYOUT, SCHEMA_VERSION
from pipeline.writer import read_footer
from speech_codecs.api import CodecInfo

FOOTER_BYTES = 64 * 1024  # one ranged read that holds the whole footer of nearly every part
_PARALLEL_READS = 32


def identity(
    codec: CodecInfo, precision: str, recording: RecordingSettings, *, compiled: bool = False
) -> dict[str, Any]:
    """What must be the same for two runs to write into one dataset."""
    audio, segment, filters = recording.audio, recording.segment, asdict(recording.filters)
    default = asdict(FilterSettings())
    return {
        "schema_version": SCHEMA_VERSION,
        "layout": LAYOUT,
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
        "segment": "none" if segment.by == "none" else asdict(segment),
        "filters": {name: value for name, value in filters.items() if value != default[name]},
    }


@dataclass
class TokenDataset:
    """The folder that the README describes; every method costs a fixed number of requests."""

    root: str
    storage: Storage

    def claim(self, wanted: dict[str, Any]) -> None:
        """Write `dataset.json`, or see that the one there is of the same identity.

        Removes what writes that were killed long ago left on a local disk. Raises
        `DatasetConflict` that names the first difference and the cure.
        """
        for folder in ("", "tokens", "rejects", "failed"):
            self.storage.clear_leftovers(join(self.root, folder))
        found = self.read_identity()
        if found is None:
            if self.parts():
                raise DatasetConflict(
                    f"{self.root}/tokens holds parts, but there is no dataset.json that says of "
                    "which codec; set another output"
                )
            data = json.dumps(wanted, indent=2) + "\n"
            self.storage.put(join(self.root, "dataset.json"), data.encode())
            return
        self.refuse_other(found, wanted)

    def refuse_other(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Raise `DatasetConflict` where two identities differ."""
        for key in wanted:
            if found.get(key) != wanted[key]:
                raise DatasetConflict(
                    f"{self.root} holds tokens of {key} = {found.get(key)!r}, this run has "
                    f"{wanted[key]!r}; set another output, or change {key} back"
                )

    def read_identity(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self.storage.read_bytes(join(self.root, "dataset.json"))))
        except StorageNotFound:
            return None

    def parts(self, folder: str = "tokens") -> set[str]:
        """Names of the shards that have a file in a folder of the dataset, from one listing."""
        infos = self.storage.list_files(join(self.root, folder))
        names = (info.url.rpartition("/")[2] for info in infos)
        return {name.rpartition(".")[0] for name in names if not name.startswith(".")}

    def todo(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards that have no part yet.

        Raises `DatasetConflict` where a tar was replaced after it had been tokenized.
        """
        done = self.parts()
        self._refuse_changed(shards, done - {shard.name for shard in shards})
        return [shard for shard in shards if shard.name not in done]

    def _refuse_changed(self, shards: Sequence[Shard], others: set[str]) -> None:
        """Only parts named like a shard of this run can be of an older version of it."""
        stems = {shard.stem for shard in shards}
        suspects = [name for name in sorted(others) if name[:-13] in stems]
        by_url = {shard.url: shard for shard in shards}
        for name, footer in zip(suspects, self.footers(suspects), strict=True):
            source = footer["source"]
            if source["url"] in by_url:
                raise DatasetConflict(
                    f"{source['url']} has changed since it was tokenized (etag {source['etag']}, "
                    f"now {by_url[source['url']].etag}); delete {self.part_url(name)} to tokenize "
                    "it again, or set another output"
                )

    def footers(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """The footer metadata of parts, in the order of their names."""
        with ThreadPoolExecutor(_PARALLEL_READS) as threads:
            return list(threads.map(self._footer, names))

    def _footer(self, name: str) -> dict[str, Any]:
        url = self.part_url(name)
        try:
            return read_footer(self.storage.read_tail(url, FOOTER_BYTES))
        except (pa.ArrowInvalid, OSError):  # a footer larger than the tail
            return read_footer(self.storage.read_bytes(url))

    def part_url(self, name: str) -> str:
        return join(self.root, "tokens", f"{name}.parquet")

    def failures(self) -> list[dict[str, Any]]:
        """The shards given up on, with the error and the attempts."""
        return [self.failure(name) for name in sorted(self.parts("failed"))]

    def failure(self, name: str) -> dict[str, Any]:
        url = join(self.root, "failed", f"{name}.json")
        return dict(json.loads(self.storage.read_bytes(url)))

    def failed_names(self) -> dict[str, list[str]]:
        """Names of the records of failure, by the URL of their shard."""
        names: dict[str, list[str]] = {}
        for name in sorted(self.parts("failed")):
            record = json.loads(self.storage.read_bytes(self._failed_url(name)))
            names.setdefault(record["shard"], []).append(name)
        return names

    def mark_failed(self, shard: Shard, record: dict[str, Any]) -> None:
        data = json.dumps(record, indent=2) + "\n"
        self.storage.put(self._failed_url(shard.name), data.encode())

    def clear_failed(self, name: str) -> None:
        self.storage.delete(self._failed_url(name))

    def _failed_url(self, name: str) -> str:
        return join(self.root, "failed", f"{name}.json")
