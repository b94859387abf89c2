"""One tar in, one tar out: every sample unchanged, with its enhanced audio added.

A sample `<key>` gains `<key>.enhanced.flac`: 16-bit, one channel at the enhancer's rate, as many
samples as decoding the original at that rate gives. `<key>.enhanced.json` says whether the enhancer
was applied. The same shard and settings give the same bytes.
"""

import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from speechmill.codecs.errors import CodecError
from speechmill.pipeline.audio.flac import encode_flac
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, to_float
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.enhance.api import Enhancer
from speechmill.pipeline.enhance.gate import GateSettings, check_gate
from speechmill.pipeline.errors import (
    InputError,
    RejectStage,
    SampleError,
    StreamBroken,
    UnsuitableAudio,
)
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject, Sample, TarCounts, read_samples
from speechmill.pipeline.shards.webdataset import SampleWriter
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.text import message_of
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.describe import audio_suffix
from speechmill.pipeline.tokenize.writer import ShardReport

AUDIO, FACTS = "enhanced.flac", "enhanced.json"  # suffixes of the new members


@dataclass
class PairSettings:
    """How a sample becomes a pair."""

    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    gate: GateSettings = field(default_factory=GateSettings)


@dataclass(frozen=True, slots=True)
class PairReport(ShardReport):
    """The counts and times of one shard; its rows are pairs."""

    left_alone: int = 0  # clips that the gate found clean


@dataclass(frozen=True, slots=True)
class PairedTar:
    """A whole shard, ready to be committed."""

    data: bytes
    rejects: list[Reject]
    report: PairReport


def read_shard(
    shard: Shard, storage: Storage, limits: Limits, audio_member: str | None = None
) -> Iterator[Sample | ShardEnd]:
    """Yield the samples of a tar, then one `ShardEnd` with the rejected members."""
    rejects = []
    names = TarCounts()
    for sample in read_samples(
        shard,
        storage,
        limits.member_bytes,
        max_metadata_bytes=limits.metadata_bytes,
        audio_member=audio_member,
        counts=names,
    ):
        if isinstance(sample, Reject):
            rejects.append(sample)
        else:  # a large member is a memory map, which cannot be sent to another process
            members: dict[str, Blob] = {name: data[:] for name, data in sample.members.items()}
            yield Sample(sample.key, sample.index, members)
    yield ShardEnd(rejects, num_cleaned=names.cleaned, num_passed_over=names.passed_over)


def pair_shard(
    samples: Iterable[Sample | ShardEnd], shard: Shard, enhancer: Enhancer, settings: PairSettings
) -> PairedTar:
    """Enhance every sample; one that fails becomes a reject.

    Raises `StreamBroken` if the samples end without a `ShardEnd`.
    """
    buffer = io.BytesIO()
    pairs: list[_Facts] = []
    rejects: list[Reject] = []
    with SampleWriter(buffer) as tar:
        for sample in samples:
            if isinstance(sample, ShardEnd):
                end = sample
                rejects += end.rejects
                break
            try:
                flac, facts = _pair(sample, enhancer, settings)
                tar.write(sample.key, {**sample.members, AUDIO: flac, FACTS: facts.to_json()})
            except (CodecError, InputError):
                raise  # not the fault of a sample
            # A damaged file may raise any error inside a decoder; it costs only itself.
            except Exception as error:
                rejects.append(_reject(sample, error))
            else:
                pairs.append(facts)
        else:
            raise StreamBroken(f"{shard.url}: the samples ended before the shard did")
    rejects.sort(key=lambda reject: reject.index)
    return PairedTar(buffer.getvalue(), rejects, _report(shard, pairs, rejects, end))


@dataclass(frozen=True, slots=True)
class _Facts:
    """Facts about one pair."""

    enhanced: bool
    enhancer: str
    revision: str
    measures: dict[str, float]  # of the gate
    seconds: float
    enhance_seconds: float

    def to_json(self) -> bytes:
        """The part that goes into the tar: every run finds the same."""
        facts = {"enhanced": self.enhanced, "enhancer": self.enhancer, "revision": self.revision}
        return json.dumps(facts | self.measures, sort_keys=True).encode()


def _report(shard: Shard, pairs: list[_Facts], rejects: list[Reject], end: ShardEnd) -> PairReport:
    return PairReport(
        shard=shard.name,
        rows=len(pairs),
        frames=0,
        audio_seconds=sum(pair.seconds for pair in pairs),
        rejects=dict(sorted(Counter(reject.error for reject in rejects).items())),
        num_cleaned=end.num_cleaned,
        num_passed_over=end.num_passed_over,
        encode_seconds=sum(pair.enhance_seconds for pair in pairs),
        left_alone=sum(not pair.enhanced for pair in pairs),
    )


def _pair(sample: Sample, enhancer: Enhancer, settings: PairSettings) -> tuple[bytes, _Facts]:
    if AUDIO in sample.members or FACTS in sample.members:
        raise UnsuitableAudio(f"there is a member .{AUDIO} already; give shards without pairs")
    data = sample.members[audio_suffix(sample, settings.audio.member)]
    decoded = decode_audio(data, enhancer.sample_rate, settings.audio, settings.limits)
    audio_T = to_float(decoded.audio_T)
    gate = check_gate(audio_T, enhancer.sample_rate, settings.gate)
    started = time.perf_counter()
    enhanced_T = audio_T if gate.clean else enhancer.enhance(audio_T)
    seconds = time.perf_counter() - started
    if len(enhanced_T) != len(audio_T) or not np.isfinite(enhanced_T).all():
        raise SampleError(
            f"{enhancer.name} gave {len(enhanced_T)} samples of {len(audio_T)}, "
            f"{np.count_nonzero(~np.isfinite(enhanced_T))} of them NaN or inf"
        )
    facts = _Facts(
        enhanced=not gate.clean,
        enhancer=enhancer.name,
        revision=enhancer.revision,
        measures=gate.measures,
        seconds=decoded.duration,
        enhance_seconds=seconds,
    )
    return encode_flac(enhanced_T, enhancer.sample_rate), facts


def _reject(sample: Sample, error: Exception) -> Reject:
    return Reject(
        key=sample.key,
        index=sample.index,
        member=f"{sample.key}.{next(iter(sample.members))}",
        stage=RejectStage.ENHANCE,
        error=type(error).__name__,
        message=message_of(error),
        num_bytes=sum(len(data) for data in sample.members.values()),
    )
