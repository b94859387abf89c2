"""The CPU half of tokenizing a shard: a tar in, batches of decoded audio out."""

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

import xxhash

from pipeline.audio import AudioSettings, decode_audio
from pipeline.batching import BatchSettings, make_batches
from pipeline.errors import EmptyAudio, NoAudio
from pipeline.reader import Reject, Sample, read_samples
from pipeline.shard import Shard
from pipeline.source import Limits
from pipeline.storage import Storage
from pipeline.tokens import Batch, Clip, ShardEnd, collate
from speech_codecs.api import CodecInfo

_PLAIN = {"wav", "flac", "mp3", "ogg", "oga", "opus", "aiff", "aif", "au", "caf", "w64"}
_CONTAINERS = {"m4a", "aac", "mp4", "webm", "mka", "wma", "amr"}  # through FFmpeg
AUDIO_SUFFIXES = frozenset(_PLAIN | _CONTAINERS)


@dataclass
class DecodeSettings:
    """What turns a shard into batches; the same settings give the same batches."""

    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    batch: BatchSettings = field(default_factory=BatchSettings)


def decode_shard(
    shard: Shard,
    storage: Storage,
    settings: DecodeSettings,
    codec: CodecInfo,
    only: Container[int] | None = None,
) -> Iterator[Batch | ShardEnd]:
    """Yield every batch of a shard, then one `ShardEnd` with what could not be decoded.

    `only` picks samples by their position in the tar; the others are read past.
    Raises a `ShardError` or `StorageError` where the shard cannot be read to its end.
    """
    decoder = _Decoder(settings, codec)
    samples = read_samples(shard, storage, int(settings.limits.member_mb * 1e6))
    clips = decoder.clips(s for s in samples if only is None or s.index in only)
    for clips_of_batch in make_batches(clips, settings.batch, codec.sample_rate):
        yield collate(clips_of_batch, shard.url)
    yield ShardEnd(decoder.rejects, decoder.num_bad_json)


class _Decoder:
    """Decodes samples and keeps account of those that it could not."""

    def __init__(self, settings: DecodeSettings, codec: CodecInfo):
        self.settings = settings
        self.codec = codec
        self.rejects: list[Reject] = []
        self.num_bad_json = 0

    def clips(self, samples: Iterator[Sample | Reject]) -> Iterator[Clip]:
        for sample in samples:
            if isinstance(sample, Reject):
                self.rejects.append(sample)
            elif clip := self._clip_or_reject(sample):
                yield clip

    def _clip_or_reject(self, sample: Sample) -> Clip | None:
        suffix = next(iter(sample.members))
        try:
            suffix = audio_suffix(sample, self.settings.audio.member)
            return self._clip(sample, sample.members[suffix])
        # A damaged file may raise anything from within a decoder; it costs only itself.
        except Exception as error:
            self.rejects.append(
                Reject(
                    key=sample.key,
                    index=sample.index,
                    member=f"{sample.key}.{suffix}",
                    stage="read" if isinstance(error, NoAudio) else "decode",
                    error=type(error).__name__,
                    message=str(error),
                    num_bytes=len(sample.members[suffix]),
                )
            )
            return None

    def _clip(self, sample: Sample, data: bytes) -> Clip:
        decoded = decode_audio(
            data, self.codec.sample_rate, self.settings.audio, self.settings.limits
        )
        if not self.codec.num_frames(len(decoded.audio_T)):
            raise EmptyAudio(f"{len(decoded.audio_T)} samples are less than one frame of the codec")
        metadata, text = self._metadata(sample)
        return Clip(
            key=sample.key,
            index=sample.index,
            audio_T=decoded.audio_T,
            sample_rate=decoded.sample_rate,
            num_channels=decoded.num_channels,
            duration=decoded.duration,
            audio_xxh3=xxhash.xxh3_64_intdigest(data),
            text=text,
            metadata=metadata,
        )

    def _metadata(self, sample: Sample) -> tuple[str | None, str | None]:
        """The sample's JSON, untouched, and its text: the `.txt` member or the JSON's `text`."""
        text = sample.members["txt"].decode(errors="replace") if "txt" in sample.members else None
        if "json" not in sample.members:
            return None, text
        try:
            metadata = sample.members["json"].decode()
            parsed = json.loads(metadata)
        except ValueError:
            self.num_bad_json += 1
            return None, text
        if text is None and isinstance(parsed, dict) and isinstance(parsed.get("text"), str):
            text = parsed["text"]
        return metadata, text


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
