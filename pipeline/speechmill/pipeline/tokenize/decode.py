"""The CPU half of tokenizing a shard: a tar in, batches of decoded audio out."""

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from enum import Enum

import xxhash

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.audio.filters import Filters, quality_package
from speechmill.pipeline.audio.isolation import IsolatedRecordings, WatchedRecordings, memory_limit
from speechmill.pipeline.audio.recordings import Fault, Recordings, RecordingSettings, fault_of
from speechmill.pipeline.audio.segment import Clip, Span, read_spans
from speechmill.pipeline.errors import (
    DecodeOutOfMemory,
    NoAudio,
    RejectStage,
    StorageError,
    StreamBroken,
)
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject, Sample, TarCounts, read_samples
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import (
    Batch,
    Batcher,
    BatchSettings,
    ShardEnd,
    concatenate_clips,
)
from speechmill.pipeline.tokenize.describe import (
    Description,
    audio_candidates,
    audio_suffix,
    describe,
)

_LARGEST_STRING = 2**30  # bytes; a column of strings holds 2 GiB

SampleStage = Callable[[Iterator[Sample | Reject]], Iterator[Sample | Reject]]


@dataclass
class DecodeSettings(RecordingSettings):
    """How a shard becomes batches; the same settings give the same batches."""

    batch: BatchSettings = field(default_factory=BatchSettings)

    @property
    def packages(self) -> set[str]:
        """Distributions that compute a quality, find speech or resample, if they are used."""
        found = {package for package in [quality_package(self.filters.quality)] if package}
        if self.segment.by == "vad":
            found.add("onnxruntime")
        if self.audio.resampler == "torchaudio":
            found |= {"torch", "torchaudio"}
        return found


class Isolation(Enum):
    """How the process of a shard is protected from its recordings."""

    NONE = "none"
    WATCHED = "watched"  # a recording over the limits ends the process
    FULL = "full"  # recordings are decoded in another process, to find out which one ends it


_RECORDINGS: dict[Isolation, type[Recordings]] = {
    Isolation.NONE: Recordings,
    Isolation.WATCHED: WatchedRecordings,
    Isolation.FULL: IsolatedRecordings,
}


def decode_shard(
    shard: Shard,
    storage: Storage,
    settings: DecodeSettings,
    codecs: Sequence[CodecInfo],
    only: Container[int] | None = None,
    isolation: Isolation = Isolation.NONE,
    stage: SampleStage = iter,
) -> Iterator[Batch | ShardEnd]:
    """Yield every batch of a shard, then for each codec a `ShardEnd` with the rejects.

    Every recording is decoded once, whatever the number of codecs; each batch names its codec by
    position. `only` selects samples by their position in the tar; `stage` gets all samples first,
    and may end before the tar does. Raises a `ShardError` or `StorageError` if the shard cannot be
    read to its end.
    """
    recordings = _RECORDINGS[isolation](settings, codecs)
    decoder = _Decoder(settings, recordings, len(codecs))
    counts = TarCounts()
    samples = read_samples(
        shard,
        storage,
        settings.limits.member_bytes,
        max_metadata_bytes=min(settings.limits.metadata_bytes, _LARGEST_STRING),
        audio_member=settings.audio.member,
        counts=counts,
    )
    batchers = [Batcher(settings.batch, codec.sample_rate) for codec in codecs]
    watched = isolation is Isolation.WATCHED
    with (
        closing(recordings),
        memory_limit(_memory_mb(settings, codecs)) if watched else nullcontext(),
    ):
        chosen = (s for s in stage(samples) if only is None or s.index in only)
        for clip in decoder.clips(chosen):
            for clips in batchers[clip.codec].add(clip):
                yield concatenate_clips(clips, shard.url)
        for batcher in batchers:
            for clips in batcher.finish():
                yield concatenate_clips(clips, shard.url)
    for codec, rejects in enumerate(decoder.rejects):
        # With several codecs only the first end carries the times.
        cpu_seconds = 0.0 if codec else recordings.child_cpu_seconds
        yield ShardEnd(
            rejects,
            decoder.num_bad_json,
            decoder.num_cleaned + counts.cleaned,
            counts.passed_over,
            read_seconds=0.0 if codec else counts.seconds,
            decode_cpu_seconds=cpu_seconds,
            codec=codec,
        )


def _memory_mb(settings: DecodeSettings, codecs: Sequence[CodecInfo]) -> float:
    """The limit of a recording, plus a window of clips and a batch for each codec."""
    seconds = settings.batch.window_seconds + 2 * settings.batch.seconds
    return settings.limits.memory_mb + sum(seconds * c.sample_rate * 8 / 1e6 for c in codecs)


class _Decoder:
    """Decodes samples and collects the rejects of each codec."""

    def __init__(self, settings: DecodeSettings, recordings: Recordings, num_codecs: int):
        self.settings = settings
        self.filters = Filters(settings.filters)
        self.recordings = recordings
        self.rejects: list[list[Reject]] = [[] for _ in range(num_codecs)]
        self.num_bad_json = self.num_cleaned = 0

    def clips(self, samples: Iterator[Sample | Reject]) -> Iterator[Clip]:
        for sample in samples:
            if isinstance(sample, Reject):
                self._reject(sample)
                continue
            suffix = next(iter(sample.members))
            try:
                suffix = audio_suffix(sample, self.settings.audio.member)
                said, spans = self._describe(sample, suffix)
                audio_xxh3 = xxhash.xxh3_64_intdigest(sample.members[suffix])
            except (StorageError, StreamBroken):
                raise  # not the fault of a sample
            except NoAudio as error:
                several = [] if self.settings.audio.member else audio_candidates(sample)
                for member in several or [suffix]:
                    self._reject(_rejected(sample, member, fault_of(error, stage=RejectStage.READ)))
                continue
            except MemoryError:
                lack = DecodeOutOfMemory("its JSON or text does not fit into memory")
                self._reject(_rejected(sample, suffix, fault_of(lack, stage=RejectStage.READ)))
                continue
            # JSON of strangers may raise any error in a filter; it costs only its sample.
            except Exception as error:
                self._reject(_rejected(sample, suffix, fault_of(error, stage=RejectStage.READ)))
                continue
            for clip in self._decoded(sample, suffix, spans):
                clip.key, clip.index, clip.audio_xxh3 = sample.key, sample.index, audio_xxh3
                clip.metadata = said.metadata
                if clip.text is None and self.settings.segment.by == "none":
                    clip.text = said.text
                yield clip

    def _decoded(self, sample: Sample, suffix: str, spans: Sequence[Span]) -> Iterator[Clip]:
        faults: list[Fault] = []
        for clip in self.recordings.clips(sample.members[suffix], spans):
            if isinstance(clip, Fault):
                faults.append(clip)
            else:
                yield clip
        for codec, rejects in enumerate(self.rejects):
            own = [fault for fault in faults if fault.codec in (None, codec)]
            rejects += [_rejected(sample, suffix, fault) for fault in _that_count(own)]

    def _reject(self, reject: Reject) -> None:
        for rejects in self.rejects:
            rejects.append(reject)

    def _describe(self, sample: Sample, suffix: str) -> tuple[Description, Sequence[Span]]:
        """The texts of a sample and its spans; raises the `SampleError` of a filter."""
        said = describe(sample, suffix)
        self.num_bad_json += said.bad_json
        self.num_cleaned += said.num_cleaned
        self.filters.check_metadata(said.parsed)
        segment = self.settings.segment
        return said, read_spans(said.parsed, segment) if segment.by == "metadata" else ()


def _that_count(faults: Sequence[Fault]) -> list[Fault]:
    """If a recording or a channel is rejected as a whole, its other faults do not count."""
    whole: dict[int | None, Fault] = {}
    for fault in faults:
        if fault.start is None:
            whole.setdefault(fault.channel, fault)
    if None in whole:
        return [whole[None]]
    return [*whole.values(), *(f for f in faults if f.start is not None and f.channel not in whole)]


def _rejected(sample: Sample, suffix: str, fault: Fault) -> Reject:
    return Reject(
        key=sample.key,
        index=sample.index,
        member=f"{sample.key}.{suffix}",
        stage=fault.stage,
        error=fault.error,
        message=fault.message,
        num_bytes=len(sample.members[suffix]),
        start=fault.start,
        end=fault.end,
        channel=fault.channel,
    )
