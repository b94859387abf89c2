"""The clips of a test set, from shards or from a folder or manifest of audio files."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, Samples, to_float
from speechmill.pipeline.errors import InputError, SampleError, UnsuitableAudio
from speechmill.pipeline.links import HIDDEN
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.shards.listing import TARS, is_pattern, list_shards
from speechmill.pipeline.shards.manifests import MANIFESTS
from speechmill.pipeline.shards.packing import READERS, PackSettings, plan_pack, read_member
from speechmill.pipeline.shards.sources import SampleFiles
from speechmill.pipeline.shards.tar_reader import Reject, Sample, read_samples
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.text import message_of
from speechmill.pipeline.tokenize.describe import audio_suffix, describe

_MAX_DIFFERENCE = 0.02  # s by which the lengths of a clip and its reference may differ

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One clip of a test set."""

    key: str
    data: bytes  # the encoded file: each codec decodes it at its own rate
    input_T: Samples  # float32 at RATE
    reference_T: Samples  # the clean version of a noisy clip, or the clip itself
    sample_rate: int  # Hz, of the source
    text: str | None

    @property
    def paired(self) -> bool:
        return self.reference_T is not self.input_T

    @property
    def seconds(self) -> float:
        return len(self.input_T) / RATE


@dataclass
class TestSetSettings:
    """Where the clips are, and their clean references if they have any."""

    clips: list[str]  # shards as for `tokenize`, or folders or manifests of audio as for `pack`
    references: list[str] | None = None  # the same for clean references, matched by key
    reference_member: str | None = None  # suffix of the clean reference in the same sample
    max_clips: int | None = None  # evenly spaced over the sorted keys


def read_test_set(
    settings: TestSetSettings, audio: AudioSettings, limits: Limits, storage: Storage
) -> tuple[list[Utterance], dict[str, str]]:
    """All clips in the order of their keys, and by key the reason why others were left out.

    All of them are held in memory, encoded. Raises `InputError` if none is left or if two have one
    key.
    """
    rejects: dict[str, str] = {}
    samples = _by_key(_samples(settings.clips, limits, storage, rejects, audio.member), "clips")
    if settings.references:
        member = settings.reference_member
        found = _samples(settings.references, limits, storage, rejects, member)
        twins = _by_key(found, "references")
        rejects |= dict.fromkeys(samples.keys() - twins.keys(), "has no reference")
    else:
        twins = samples if settings.reference_member else {}
    utterances = []
    for key in evenly_spaced(sorted(samples.keys() - rejects.keys()), settings.max_clips):
        try:
            utterances.append(_Reader(settings, audio, limits).read(samples[key], twins.get(key)))
        except SampleError as error:
            rejects[key] = f"{type(error).__name__}: {message_of(error)}"
    if not utterances:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in list(rejects.items())[:3])
        raise InputError(f"no clip of {settings.clips} can be evaluated: {reasons or 'none found'}")
    return utterances, rejects


@dataclass(frozen=True, slots=True)
class _Reader:
    settings: TestSetSettings
    audio: AudioSettings
    limits: Limits

    def read(self, sample: Sample, twin: Sample | None) -> Utterance:
        suffix = audio_suffix(sample, self.audio.member)
        data = sample.members[suffix][:]
        decoded = decode_audio(data, RATE, self.audio, self.limits)
        input_T = to_float(decoded.audio_T)
        reference_T = self._reference(twin, len(input_T)) if twin else input_T
        return Utterance(
            key=sample.key,
            data=data,
            input_T=input_T[: len(reference_T)] if twin else input_T,
            reference_T=reference_T,
            sample_rate=decoded.sample_rate,
            text=describe(sample, suffix).text,
        )

    def _reference(self, twin: Sample, num_samples: int) -> Samples:
        separate = self.settings.references is not None
        wanted = self.settings.reference_member or (None if separate else self.audio.member)
        data = twin.members[audio_suffix(twin, wanted)]
        reference_T = decode_audio(data, RATE, self.audio, self.limits).audio_T
        if abs(len(reference_T) - num_samples) > _MAX_DIFFERENCE * RATE:
            raise UnsuitableAudio(
                f"{num_samples / RATE:.3f} s, but its reference has {len(reference_T) / RATE:.3f} s"
            )
        return to_float(reference_T[:num_samples])


def evenly_spaced(items: Sequence[Item], count: int | None) -> list[Item]:
    """At most `count` items, in order."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _by_key(samples: Iterable[Sample], setting: str) -> dict[str, Sample]:
    found: dict[str, Sample] = {}
    for sample in samples:
        if sample.key in found:
            raise InputError(
                f"two samples of {setting} have the key {sample.key!r}, by which references and "
                "scores are found; evaluate their shards or folders one by one"
            )
        found[sample.key] = sample
    return found


def _samples(
    sources: Sequence[str],
    limits: Limits,
    storage: Storage,
    rejects: dict[str, str],
    member: str | None,
) -> Iterator[Sample]:
    for source in sources:
        if _is_audio(source, storage):
            found: Iterator[Sample | Reject] = _samples_of_files(source, storage, rejects)
        else:
            found = _samples_of_shards(source, limits, storage, member)
        for sample in found:
            if isinstance(sample, Reject):
                rejects[sample.key] = sample.message
            else:
                yield sample


def _is_audio(source: str, storage: Storage) -> bool:
    """Whether a source is a manifest or folder of audio files; else it names shards."""
    if source.endswith(MANIFESTS):
        return True
    if source.endswith((*TARS, ".txt")) or "{" in source or is_pattern(source):
        return False
    listed, passed_over = storage.list_linked(source)
    urls = [info.url for info in listed] + [one.url for one in passed_over]
    return not any(url.endswith(TARS) for url in urls)


def _samples_of_shards(
    source: str, limits: Limits, storage: Storage, member: str | None
) -> Iterator[Sample | Reject]:
    for shard in list_shards([source], storage):
        yield from read_samples(
            shard,
            storage,
            limits.member_bytes,
            max_metadata_bytes=limits.metadata_bytes,
            audio_member=member,
        )


def _samples_of_files(source: str, storage: Storage, rejects: dict[str, str]) -> Iterator[Sample]:
    """Keys and members are those that `pack` would write."""
    plan = plan_pack(PackSettings(source, output="", shard_mb=float("inf")), storage)
    rejects |= {one.url: one.reason for one in plan.passed_over if one.reason != HIDDEN}
    [everything] = plan.shards

    def read(index: int, files: SampleFiles) -> Sample:
        names = [member.name.removeprefix(f"{files.key}.") for member in files.members]
        contents = [read_member(member, storage) for member in files.members]
        return Sample(files.key, index, dict(zip(names, contents, strict=True)))

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(read, range(len(everything.samples)), everything.samples)
