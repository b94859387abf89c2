"""Paired shards on storage, and the job that writes them.

OUTPUT/enhance.json, OUTPUT/shards/<tar>-<12 hex>.tar (the commit), OUTPUT/reports/<same>.json and
OUTPUT/rejects/<same>.parquet (both written before it), OUTPUT/failed/, OUTPUT/runs/.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.parquet as pq

from speechmill.codecs.errors import CheckpointError
from speechmill.codecs.fetch import digest, fetch
from speechmill.pipeline.audio.decoders import AUDIO_VERSION
from speechmill.pipeline.dataset.layout import AUDIO, ShardOutput
from speechmill.pipeline.enhance.api import Enhancer, EnhancerSettings, load_enhancer
from speechmill.pipeline.enhance.pairs import (
    PairedTar,
    PairReport,
    PairSettings,
    pair_shard,
    read_shard,
)
from speechmill.pipeline.run.job import Stream, Work
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.tokenize.decode import Isolation
from speechmill.pipeline.tokenize.schema import reject_table
from speechmill.pipeline.versions import library_versions

SCHEMA_VERSION = 1


class PairedShards(ShardOutput):
    """The folder of shards that training reads pairs from."""

    identity_file, folder, suffix, content = "enhance.json", "shards", ".tar", "pairs"
    title = "set of paired shards"

    def sources(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """From the reports of the parts."""
        return [report["source"] for report in self.map_names(self.report, names)]

    def report(self, name: str) -> dict[str, Any]:
        """The report of one shard."""
        return dict(json.loads(self.storage.read_bytes(self._url("reports", name, ".json"))))

    def commit(self, shard: Shard, paired: PairedTar) -> None:
        """Write the rejects and the report, then the tar, which appears whole."""
        if paired.rejects:
            sink = io.BytesIO()
            pq.write_table(reject_table(paired.rejects, shard.url), sink, compression="zstd")
            self.storage.put(self._url("rejects", shard.name, ".parquet"), sink.getvalue())
        report = {n: value for n, value in asdict(paired.report).items() if n not in _UNKEPT}
        facts = {"source": asdict(shard), **report, "libraries": library_versions()}
        data = json.dumps(facts, indent=1, sort_keys=True) + "\n"
        self.storage.put(self._url("reports", shard.name, ".json"), data.encode())
        self.storage.put(self.part_url(shard.name), paired.data)

    def _url(self, folder: str, name: str, suffix: str) -> str:
        return join(self.root, folder, f"{name}{suffix}")


_UNKEPT = {"encode_seconds", "frames", "num_bad_json"}  # differ between runs, or are always 0


def pairs_identity(enhancer: Enhancer, settings: PairSettings) -> dict[str, Any]:
    """The facts that must be equal for two runs to write into one output."""
    gate: dict[str, Any] = asdict(settings.gate)
    if settings.gate.dnsmos:
        gate["dnsmos"] = digest(fetch(settings.gate.dnsmos))
    return {
        "schema_version": SCHEMA_VERSION,
        AUDIO: AUDIO_VERSION,
        "enhancer": enhancer.name,
        "revision": enhancer.revision,
        "sample_rate": enhancer.sample_rate,
        "gate": gate,
        "channels": settings.audio.channels,
        "resampler": settings.audio.resampler,
        "member": settings.audio.member,
        "gaps": settings.audio.gaps,
    }


@dataclass(frozen=True)
class EnhanceJob:
    """Shards to shards of pairs."""

    output: str
    storage: Storage
    enhancer: EnhancerSettings
    revision: str  # of the enhancer at the driver
    settings: PairSettings

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def packages(self) -> tuple[str, ...]:
        gating = self.enhancer.name == "spectral-gating"
        return ("noisereduce", "scipy") if gating else ("onnxruntime",)

    @property
    def waiting_shards(self) -> int:
        return 0

    @property
    def object_mb(self) -> float:
        """Approximate size of a sample with a long clip, as FLAC."""
        return 1.0

    def load(self) -> Work:
        """Load the enhancer; raises `CheckpointError` if it differs from that of the driver."""
        enhancer = load_enhancer(self.enhancer)
        if enhancer.revision != self.revision:
            raise CheckpointError(
                f"{enhancer.name} is revision {enhancer.revision} on a worker, but "
                f"{self.revision} at the driver; give every node the same weights"
            )
        return _Pairing(self, enhancer)


@dataclass(frozen=True)
class _Pairing:
    """The job with its enhancer loaded."""

    job: EnhanceJob
    enhancer: Enhancer

    def __call__(
        self, shard: Shard, stream: Stream, isolation: Isolation, needed: Sequence[int]
    ) -> PairReport:
        settings = self.job.settings
        member = settings.audio.member
        samples = stream(read_shard, shard, self.job.storage, settings.limits, member)
        paired = pair_shard(samples, shard, self.enhancer, settings)
        PairedShards(self.job.output, self.job.storage).commit(shard, paired)
        return paired.report

    def close(self) -> None:
        """Nothing computes beside the shards."""
