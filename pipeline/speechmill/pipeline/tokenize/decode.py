"""The CPU half of tokenizing a shard: a tar in, batches of decoded audio out."""

import json
from collections.abc import Container, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import xxhash

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.audio.clips import Fault, Piece, Recordings, RecordingSettings
from speechmill.pipeline.audio.filters import Filters
from speechmill.pipeline.audio.integrity import AUDIO_SUFFIXES
from speechmill.pipeline.audio.isolation import IsolatedRecordings, WatchedRecordings, memory_limit
from speechmill.pipeline.audio.segment import Span, read_spans
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import NoAudio, SampleError, Unwanted
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject, Sample, read_samples
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import Batcher, BatchSettings
from speechmill.pipeline.tokenize.schema import Batch, Clip, ShardEnd, collate


@dataclass
class DecodeSettings(RecordingSettings):
    """What turns a shard into batches; the same settings give the same batches."""

    batch: BatchSettings = field(default_factory=BatchSettings)


class Isolation(Enum):
    """How a shard is kept from what one of its recordings may do to the process."""

    NONE = "none"
    WATCHED = "watched"  # limits end the process
    FULL = "full"  # recordings are decoded in another process, which is known to end by which


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
    """Yield every batch of a shard, then for each codec a `ShardEnd` with what was rejected.

    Every recording is decoded once, whatever the number of codecs; batches say for which they are,
    by position. `only` picks samples by their position in the tar; the others are read past. Raises
    a `ShardError` or `StorageError` where the shard cannot be read to its end.
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
        for codec, clip in decoder.clips(s for s in samples if only is None or s.index in only):
            for clips in batchers[codec].add(clip):
                yield collate(clips, shard.url, codec)
        for codec, batcher in enumerate(batchers):
            for clips in batcher.finish():
                yield collate(clips, shard.url, codec)
    for codec, rejects in enumerate(decoder.rejects):
        yield ShardEnd(rejects, decoder.num_bad_json, codec=codec)


def _memory_mb(settings: DecodeSettings, codecs: Sequence[CodecInfo]) -> float:
    """What a recording may take, beside a window of clips and a batch for each codec."""
    seconds = settings.batch.window_seconds + 2 * settings.batch.seconds
    return settings.limits.memory_mb + sum(seconds * c.sample_rate * 8 / 1e6 for c in codecs)


@dataclass(frozen=True, slots=True)
class _Described:
    """A sample with its members sorted out."""

    sample: Sample
    suffix: str  # of the audio
    metadata: str | None
    text: str | None
    spans: Sequence[Span] = ()

    @property
    def data(self) -> Blob:
        return self.sample.members[self.suffix]


class _Decoder:
    """Decodes samples and keeps account of those that it could not, for each codec."""

    def __init__(self, settings: DecodeSettings, recordings: Recordings, num_codecs: int):
        self.settings = settings
        self.filters = Filters(settings.filters)
        self.recordings = recordings
        self.rejects: list[list[Reject]] = [[] for _ in range(num_codecs)]
        self.num_bad_json = 0

    def clips(self, samples: Iterator[Sample | Reject]) -> Iterator[tuple[int, Clip]]:
        for sample in samples:
            if isinstance(sample, Reject):
                self._reject(sample)
                continue
            suffix = next(iter(sample.members))
            try:
                suffix = audio_suffix(sample, self.settings.audio.member)
                described = self._describe(sample, suffix)
            except SampleError as error:
                stage = "filter" if isinstance(error, Unwanted) else "read"
                self._reject(_rejected(sample, suffix, type(error).__name__, str(error), stage))
            else:
                yield from self._decoded(described)

    def _decoded(self, described: _Described) -> Iterator[tuple[int, Clip]]:
        audio_xxh3 = xxhash.xxh3_64_intdigest(described.data)
        faults: list[Fault] = []
        for piece in self.recordings.pieces(described.data, described.spans):
            if isinstance(piece, Fault):
                faults.append(piece)
            else:
                yield piece.codec, _clip(described, piece, audio_xxh3)
        for codec, rejects in enumerate(self.rejects):
            own = [fault for fault in faults if fault.codec in (None, codec)]
            whole = [fault for fault in own if fault.start is None][:1]
            rejects += [_from_fault(described, fault) for fault in whole or own]

    def _reject(self, reject: Reject) -> None:
        for rejects in self.rejects:
            rejects.append(reject)

    def _describe(self, sample: Sample, suffix: str) -> _Described:
        """Raises a `SampleError` where the metadata speak against the sample."""
        metadata, parsed = self._metadata(sample)
        text = parsed.get("text") if isinstance(parsed, dict) else None
        text = text if isinstance(text, str) else None
        if "txt" in sample.members:
            text = sample.members["txt"][:].decode(errors="replace")
        self.filters.check_metadata(parsed)
        by = self.settings.segment.by
        spans = read_spans(parsed, self.settings.segment) if by == "metadata" else ()
        return _Described(sample, suffix, metadata, text if by == "none" else None, spans)

    def _metadata(self, sample: Sample) -> tuple[str | None, Any]:
        """The sample's JSON, untouched, and what it says; damaged JSON is counted."""
        if "json" not in sample.members:
            return None, None
        try:
            metadata = sample.members["json"][:].decode()
            return metadata, json.loads(metadata)
        except (ValueError, RecursionError):
            self.num_bad_json += 1
            return None, None


def _clip(described: _Described, piece: Piece, audio_xxh3: int) -> Clip:
    return Clip(
        key=described.sample.key,
        index=described.sample.index,
        audio_T=piece.audio_T,
        start=piece.start,
        end=piece.end,
        first_frame=piece.first_frame,
        num_frames=piece.num_frames,
        sample_rate=piece.sample_rate,
        num_channels=piece.num_channels,
        audio_xxh3=audio_xxh3,
        text=described.text if piece.text is None else piece.text,
        metadata=described.metadata,
    )


def _from_fault(described: _Described, fault: Fault) -> Reject:
    sample, suffix = described.sample, described.suffix
    return _rejected(
        sample, suffix, fault.error, fault.message, fault.stage, fault.start, fault.end
    )


def _rejected(
    sample: Sample,
    suffix: str,
    error: str,
    message: str,
    stage: str,
    start: float | None = None,
    end: float | None = None,
) -> Reject:
    return Reject(
        key=sample.key,
        index=sample.index,
        member=f"{sample.key}.{suffix}",
        stage=stage,
        error=error,
        message=message,
        num_bytes=len(sample.members[suffix]),
        start=start,
        end=end,
    )


def audio_suffix(sample: Sample, wanted: str | None) -> str:
    """Which member is the audio: the wanted one, or the only one that can be.

    A suffix that is a format (`flac`) goes before one that ends in a format (`take.2.flac`).
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
