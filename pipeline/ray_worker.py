"""A worker as a Ray actor: codecs on one GPU (or a share of one, or the CPU).

It owns the decode streams of the shards it was given: Ray tasks on the CPUs that yield batches into
the object store and stop when enough lie there.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from pipeline import ray_metrics
from pipeline.bottleneck import Turn, timed
from pipeline.decode import Isolation, decode_shard
from pipeline.errors import NodeLost
from pipeline.job import Target, TokenizeJob, WorkerSettings
from pipeline.shard import Shard
from pipeline.tokens import Batch, ShardEnd, split
from pipeline.writer import PartWriter, ShardReport, combined
from speech_codecs.api import Codec, CodecInfo

_LEAVING = "the worker was told to leave"


class Worker:
    """Codecs on one device, tokenizing a few shards at a time in threads of their own."""

    def __init__(
        self, job: TokenizeJob, settings: WorkerSettings, threads: int, stream_objects: int
    ):
        self.job = job
        ray_metrics.export()
        self.turn = Turn()
        self.threads = threads
        self.grace = settings.grace_seconds
        self.codecs: list[Codec] = []
        self.beats = 0  # batches taken so far
        self.running = 0
        self.leaving = False
        signal.signal(signal.SIGTERM, self._leave)
        self.decode = ray.remote(_decode).options(
            name="decode_shard",
            num_returns="streaming",
            num_cpus=settings.decode_cpus,
            max_retries=0,
            _generator_backpressure_num_objects=stream_objects,
        )

    def where(self) -> str:
        """The node that it runs on."""
        return str(ray.get_runtime_context().get_node_id())

    def load(self) -> None:
        """Load the codecs; apart from `__init__`, so that its errors arrive as they are."""
        if self.leaving:
            raise NodeLost(_LEAVING)
        if self.codecs:
            return
        import torch

        from pipeline.fitting import FittingCodec
        from pipeline.handover import Handover
        from speech_codecs import load_codec
        from speech_codecs.errors import CheckpointError

        torch.set_num_threads(self.threads)  # Ray sets it to 1 for an actor that claims no CPU
        self.handovers = [Handover(t.codec_options["device"]) for t in self.job.targets]
        codecs = [FittingCodec(load_codec(**target.codec_options)) for target in self.job.targets]
        for codec, target in zip(codecs, self.job.targets, strict=True):
            if codec.info != target.codec:
                raise CheckpointError(
                    f"{target.codec.name} is revision {codec.info.revision} on "
                    f"{ray.util.get_node_ip_address()}, but {target.codec.revision} at the driver; "
                    "give every node the same checkpoint and the same version of speechmill"
                )
        self.codecs = list(codecs)

    def beat(self) -> int:
        """A number that grows as long as the worker gets on."""
        return self.beats

    def tokenize(self, shard: Shard, isolation: Isolation, needed: Sequence[int]) -> ShardReport:
        """Tokenize a shard for the codecs in these positions, decoding it once."""
        from pipeline.fitting import broken_device

        if self.leaving:
            raise NodeLost(_LEAVING)
        self.running += 1
        try:
            with broken_device():
                return self._tokenize(shard, isolation, needed)
        finally:
            self.running -= 1

    def _tokenize(self, shard: Shard, isolation: Isolation, needed: Sequence[int]) -> ShardReport:
        from pipeline.tokenize import tokenize_shard

        job = self.job
        stream = self.decode.remote(
            shard, job, [job.targets[position].codec for position in needed], isolation
        )
        streams = zip(needed, split(self._values(stream), len(needed)), strict=True)
        with ThreadPoolExecutor(len(needed)) as threads:
            reports = [
                threads.submit(
                    tokenize_shard,
                    batches,
                    self.codecs[position],
                    self._writer(shard, job.targets[position]),
                    self.turn,
                    self.handovers[position],
                )
                for position, batches in streams
            ]
        return combined([report.result() for report in reports])

    def _writer(self, shard: Shard, target: Target) -> PartWriter:
        from pipeline.tokenize import device_kind

        options = target.codec_options
        device = device_kind(options["device"])
        provenance = {
            "device": device,
            "precision": options["precision"],
            "compile": options.get("compile", False),
        }
        return PartWriter(target.output, shard, self.job.storage, target.codec, provenance)

    def _values(self, stream: Any) -> Iterator[Batch | ShardEnd]:
        for reference in stream:
            yield ray.get(reference)
            self.beats += 1

    def _leave(self, *_: object) -> None:
        """Finish the shards at hand within the grace time and take no others, then end."""
        self.leaving = True
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        deadline = time.monotonic() + self.grace
        while self.running and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)  # the answers are on their way
        os._exit(0)


def _decode(
    shard: Shard, job: TokenizeJob, codecs: Sequence[CodecInfo], isolation: Isolation
) -> Iterator[Batch | ShardEnd]:
    ray_metrics.export()
    yield from timed(decode_shard(shard, job.storage, job.decode, codecs, isolation=isolation))
