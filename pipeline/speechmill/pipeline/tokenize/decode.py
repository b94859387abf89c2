"""The CPU half of tokenizing a shard: a tar in, batches of decoded audio out."""

import json
from collections.abc import Container, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import xxhash

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.audio.containers.recognize import AUDIO_SUFFIXES
from speechmill.pipeline.audio.filters import Filters
from speechmill.pipeline.audio.isolation import IsolatedRecordings, WatchedRecordings, memory_limit
from speechmill.pipeline.audio.recordings import Fault, Recordings, RecordingSettings, fault_of
from speechmill.pipeline.audio.segment import Clip, Span, read_spans
from speechmill.pipeline.errors import NoAudio, RejectStage, SampleError
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject, Sample, read_samples
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import (
    Batch,
    Batcher,
    BatchSettings,
    ShardEnd,
    concatenate_clips,
)


@dataclass
class DecodeSettings(RecordingSettings):
    """How a shard becomes batches; the same settings give the same batches."""

    batch: BatchSettings = field(default_factory=BatchSettings)


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
) -> Iterator[Batch | ShardEnd]:
    """Yield every batch of a shard, then for each codec a `ShardEnd` with the rejects.

    Every recording is decoded once, whatever the number of codecs; each batch names its codec by
    position. `only` selects samples by their position in the tar. Raises a `ShardError` or
    `StorageError` if the shard cannot be read to its end.
    """
    recordings = _RECORDINGS[isolation](settings, codecs)
    decoder = _Decoder(settings, recordings, len(codecs))
    samples = read_samples(shard, storage, int(settings.limits.member_mb * 1e6))
    batchers = [Batcher(settings.batch, codec.sample_rate) for codec in codecs]
    watched = isolation is Isolation.WATCHED
    with (
        closing(recordings),
        memory_limit(_memory_mb(settings, codecs)) if watched else nullcontext(),
    ):
        for clip in decoder.clips(s for s in samples if only is None or s.index in only):
            for clips in batchers[clip.codec].add(clip):
                yield concatenate_clips(clips, shard.url)
        for batcher in batchers:
            for clips in batcher.finish():
                yield concatenate_clips(clips, shard.url)
    for codec, rejects in enumerate(decoder.rejects):
        # With several codecs only the first end carries the time.
        cpu_seconds = 0.0 if codec else recordings.child_cpu_seconds
        yield ShardEnd(rejects, decoder.num_bad_json, decode_cpu_seconds=cpu_seconds, codec=codec)


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
        self.num_bad_json = 0

    def clips(self, samples: Iterator[Sample | Reject]) -> Iterator[Clip]:
        for sample in samples:
            if isinstance(sample, Reject):
                self._reject(sample)
                continue
            suffix = next(iter(sample.members))
            try:
                suffix = audio_suffix(sample, self.settings.audio.member)
                metadata, text, spans = self._describe(sample)
            except SampleError as error:
                self._reject(_rejected(sample, suffix, fault_of(error, stage=RejectStage.READ)))
                continue
            audio_xxh3 = xxhash.xxh3_64_intdigest(sample.members[suffix])
            for clip in self._decoded(sample, suffix, spans):
                clip.key, clip.index, clip.audio_xxh3 = sample.key, sample.index, audio_xxh3
                clip.metadata, clip.text = metadata, text if clip.text is None else clip.text
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
            whole = [fault for fault in own if fault.start is None][:1]
            rejects += [_rejected(sample, suffix, fault) for fault in whole or own]

    def _reject(self, reject: Reject) -> None:
        for rejects in self.rejects:
            rejects.append(reject)

    def _describe(self, sample: Sample) -> tuple[str | None, str | None, Sequence[Span]]:
        """The JSON of a sample, its text and its spans; raises the `SampleError` of a filter."""
        metadata, parsed = self._metadata(sample)
        self.filters.check_metadata(parsed)
        by = self.settings.segment.by
        text = transcript(sample, parsed) if by == "none" else None
        spans = read_spans(parsed, self.settings.segment) if by == "metadata" else ()
        return metadata, text, spans

    def _metadata(self, sample: Sample) -> tuple[str | None, Any]:
        """The sample's JSON, unchanged and parsed; damaged JSON is counted."""
        if "json" not in sample.members:
            return None, None
        try:
            metadata = sample.members["json"][:].decode()
            return metadata, json.loads(metadata)
        except (ValueError, RecursionError):
            self.num_bad_json += 1
            return None, None


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
    )


def transcript(sample: Sample, metadata: Any) -> str | None:
    """The `.txt` member of a sample, or else `text` of its JSON."""
    if "txt" in sample.members:
        return sample.members["txt"][:].decode(errors="replace")
    text = metadata.get("text") if isinstance(metadata, dict) else None
    return text if isinstance(text, str) else None


def audio_suffix(sample: Sample, wanted: str | None) -> str:
    """The member that holds the audio: the wanted one, or the only candidate.

    A suffix that is a format (`flac`) is preferred to one that ends in a format (`take.2.flac`).
    """
    if wanted:
        if wanted not in sample.members:
            raise NoAudio(f"no member .{wanted}; there are {_listed(list(sample.members))}")
        return wanted
    plain = [suffix for suffix in sample.members if suffix in AUDIO_SUFFIXES]
    dotted = [suffix for suffix in sample.members if suffix.split(".")[-1] in AUDIO_SUFFIXES]
    candidates = plain or dotted
    if not candidates:
        raise NoAudio(f"none of {_listed(list(sample.members))} is audio")
    if len(candidates) > 1:
        raise NoAudio(f"{_listed(candidates)} could all be the audio; set audio.member")
    return candidates[0]


def _listed(suffixes: list[str]) -> str:
    return ", ".join(f".{suffix}" for suffix in suffixes)
