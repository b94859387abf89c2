"""The GPU half of tokenizing a shard: batches of audio in, one committed part out."""

import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from speechmill.codecs import load_codec
from speechmill.codecs.api import Codec, CodecInfo
from speechmill.codecs.errors import CheckpointError
from speechmill.codecs.precision import kernel_library
from speechmill.codecs.shapes import plan_shapes
from speechmill.pipeline.errors import DeviceWrong, NodeUnfit
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import Batch, ShardEnd, split
from speechmill.pipeline.tokenize.canary import Canary
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation, decode_shard
from speechmill.pipeline.tokenize.device import DeviceLock
from speechmill.pipeline.tokenize.encode_thread import EncodeThread
from speechmill.pipeline.tokenize.encoders import BatchByBatch, ShardEncoder, SharedBatches
from speechmill.pipeline.tokenize.fixed_batches import BatchEncoder
from speechmill.pipeline.tokenize.schema import schema_version, with_codes
from speechmill.pipeline.tokenize.writer import CodecOutput, PartWriter, ShardReport, combined
from speechmill.pipeline.versions import library_versions

# Arrays from Ray's object store are read-only, which torch does not support.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


class Tokenizer:
    """Codecs loaded on one device; several shards use them at the same time."""

    def __init__(self, outputs: Sequence[CodecOutput], storage: Storage, settings: DecodeSettings):
        self.outputs = outputs
        self.storage = storage
        self.settings = settings
        _require_gpu(outputs)
        # Once: the packages of a codec are looked up among all that are installed.
        self._libraries = [library_versions(*output.packages) for output in outputs]
        codecs = [_load(output) for output in outputs]
        for codec, output in zip(codecs, outputs, strict=True):
            if codec.info != output.codec:
                raise CheckpointError(
                    f"{output.codec.name} is revision {codec.info.revision} on "
                    f"{socket.gethostname()}, but {output.codec.revision} at the driver; "
                    "give every node the same checkpoint and the same version of speechmill"
                )
        self.encoders, self.close = shard_encoders(outputs, codecs)
        self._wrong: DeviceWrong | None = None
        try:
            self.canaries = [
                encoder.call(partial(_canary, encoder.codec, output))
                for encoder, output in zip(self.encoders, outputs, strict=True)
            ]
        except BaseException:  # another attempt to load must find the memory free
            self.close()
            raise

    def __call__(
        self,
        shard: Shard,
        stream: Callable[..., Iterator[Any]],
        isolation: Isolation,
        needed: Sequence[int],
    ) -> ShardReport:
        """Tokenize a shard for the codecs in these positions; it is decoded once."""
        return combined(self.reports(shard, stream, isolation, needed))

    def reports(
        self,
        shard: Shard,
        stream: Callable[..., Iterator[Any]],
        isolation: Isolation,
        needed: Sequence[int],
    ) -> list[ShardReport]:
        """Tokenize a shard like a call; return a report for each codec."""
        infos = [self.outputs[position].codec for position in needed]
        batches = stream(*self._decoding(shard, infos, isolation))
        interrupted = threading.Event()
        streams = split(takewhile(lambda _: not interrupted.is_set(), batches), len(needed))
        arguments = [
            (
                of_codec,
                self.encoders[position],
                self._writer(shard, position),
                partial(self._check_canary, position),
            )
            for position, of_codec in zip(needed, streams, strict=True)
        ]
        if len(arguments) == 1:  # in this thread, which Ctrl-C interrupts at once
            return [tokenize_shard(*arguments[0])]
        with ThreadPoolExecutor(len(arguments)) as threads:
            reports = [threads.submit(tokenize_shard, *each) for each in arguments]
            try:
                wait(reports)
            except BaseException:  # Ctrl-C: a thread that still computed at exit would abort Python
                interrupted.set()
                raise
        return [report.result() for report in reports]

    def _decoding(
        self, shard: Shard, infos: Sequence[CodecInfo], isolation: Isolation
    ) -> tuple[Any, ...]:
        """The generator function that decodes a shard, and its arguments."""
        return decode_shard, shard, self.storage, self.settings, infos, None, isolation

    def _check_canary(self, position: int) -> None:
        """Raise `DeviceWrong` if any codec of this worker was found to compute wrongly."""
        if self._wrong is None:
            try:
                self.encoders[position].call(self.canaries[position].check)
            except DeviceWrong as error:
                self._wrong = error
        if self._wrong:
            raise self._wrong

    def _writer(self, shard: Shard, position: int) -> PartWriter:
        output = self.outputs[position]
        options = output.codec_options
        provenance = {
            "device": device_kind(options["device"]),
            "precision": options["precision"],
            "compile": options.get("compile", False),
            "libraries": self._libraries[position],
        }
        if output.batch and isinstance(self.encoders[position], SharedBatches):
            provenance["batch"] = asdict(output.batch)
            provenance["kernels"] = kernel_library(options["precision"])
        version = schema_version(self.settings.audio.channels)
        return PartWriter(
            output.output,
            shard,
            self.storage,
            output.codec,
            provenance,
            version,
            output.drops,
        )


def _require_gpu(outputs: Sequence[CodecOutput]) -> None:
    """Raise `NodeUnfit` if a codec is for a GPU that torch cannot use here."""
    devices = [str(output.codec_options["device"]) for output in outputs]
    if torch.cuda.is_available() or not any(device.startswith("cuda") for device in devices):
        return
    cure = "look at nvidia-smi there, and whether its container has the GPU"
    if torch.version.cuda is None and torch.version.hip is None:
        cure = "install a build of torch with CUDA there"
    raise NodeUnfit(
        f"torch {torch.__version__} on {socket.gethostname()} cannot use a GPU; {cure}, or set "
        "workers.num_gpus=0 to run on CPUs"
    )


def _load(output: CodecOutput) -> Codec:
    """The canary compares with float32 too, without a second network on the device."""
    return load_codec(**output.codec_options, self_check=output.canary is None)


def _canary(codec: Codec, output: CodecOutput) -> Canary:
    options = output.codec_options
    return Canary(codec, options["device"], options["precision"], output.canary)


def shard_encoders(
    outputs: Sequence[CodecOutput], codecs: Sequence[Codec]
) -> tuple[list[ShardEncoder], Callable[[], None]]:
    """Return how to encode shards with each codec, and the function that ends it.

    Codecs with fixed shapes share one thread, the others a lock. A codec that cannot encode padded
    batches chooses its own shapes.
    """
    lock = DeviceLock()
    fixed = {
        position: BatchEncoder(
            codec,
            plan_shapes(codec.info, output.batch),
            torch.device(output.codec_options["device"]),
        )
        for position, (codec, output) in enumerate(zip(codecs, outputs, strict=True))
        if output.batch and hasattr(codec, "encode_padded")
    }
    if not fixed:
        return [BatchByBatch(codec, lock) for codec in codecs], lambda: None
    thread = EncodeThread(list(fixed.values()), max(output.waiting_shards for output in outputs))
    places = {position: place for place, position in enumerate(fixed)}
    encoders: list[ShardEncoder] = [
        SharedBatches(thread, places[position], fixed[position])
        if position in fixed
        else BatchByBatch(codec, lock)
        for position, codec in enumerate(codecs)
    ]
    return encoders, thread.close


def tokenize_shard(
    batches: Iterable[Batch | ShardEnd],
    encoder: ShardEncoder,
    writer: PartWriter,
    check: Callable[[], None] = lambda: None,
) -> ShardReport:
    """Encode the batches of one shard and commit its part.

    Raises `StreamBroken`, and writes nothing, if the batches end without a `ShardEnd`, and whatever
    `check` raises before the commit.
    """

    def add(batch: Batch, codes_BFK: npt.NDArray[np.int64]) -> None:
        frames = (batch.first_frame_B, batch.num_frames_B)
        writer.add(with_codes(batch.rows, codes_BFK, *frames, writer.schema))

    with writer:
        done = encoder.encode_shard(batches, add)
        check()
        if done.split_clips and writer.provenance["precision"] != "fp32":
            writer.provenance["split_clips"] = done.split_clips
        writer.close(done.end)
    assert writer.report
    return replace(
        writer.report,
        encode_seconds=done.seconds,
        starved_seconds=done.starved_seconds,
        read_seconds=done.end.read_seconds,
        decode_seconds=done.end.decode_seconds,
        decode_cpu_seconds=done.end.decode_cpu_seconds,
    )


def device_kind(device: str) -> str:
    """The kind of a device, for the footers: only one kind gives identical bytes."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
