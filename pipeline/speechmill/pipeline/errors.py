"""Every error that the pipeline raises on purpose; foreign errors are translated where they occur.

Their class names are part of the interface: they appear in `rejects/`, `failed/` and the logs.
"""

from collections.abc import Iterable
from enum import StrEnum


class RejectStage(StrEnum):
    """Where a sample was rejected, as the column `stage` of `rejects/` names it."""

    READ = "read"
    DECODE = "decode"
    FILTER = "filter"
    ENHANCE = "enhance"
    DROP = "drop"


class SpeechmillError(Exception):
    """Base of every error of the pipeline."""


class InputError(SpeechmillError):
    """A configuration, listing or manifest asks for something impossible."""


class DatasetConflict(SpeechmillError):
    """The output holds tokens of another codec or of other input."""


class StorageError(SpeechmillError):
    """Storage refused, for a reason that no subclass names."""


class StorageNotFound(StorageError):
    """No such object or folder."""


class BucketNotFound(StorageNotFound):
    """No such bucket, or it is in another region."""


class ObjectReplaced(StorageError):
    """The object was replaced by another version."""


class StorageDenied(StorageError):
    """No permission, or no credentials."""


class StorageFull(StorageError):
    """The disk or quota is full."""


class StorageUnavailable(StorageError):
    """Throttled, reset or timed out: another attempt may succeed."""


class ShardError(SpeechmillError):
    """One tar cannot be tokenized as a whole."""


class ShardCut(ShardError):
    """The tar ends before its end marker."""


class ShardDamaged(ShardError):
    """The tar contains bytes that are not part of a tar."""


class ShardChanged(ShardError):
    """The tar is not the one that was listed."""


class WorkerLost(SpeechmillError):
    """The process that held a shard is gone."""


class NodeLost(WorkerLost):
    """The node of a worker is gone or draining; no shard is at fault."""


class NodeUnfit(SpeechmillError):
    """The packages of a node are not those of this run, or its torch cannot use the GPU."""


class DeviceFull(SpeechmillError):
    """A single clip does not fit into the memory of the device."""


class DeviceBroken(SpeechmillError):
    """The GPU no longer works in this process."""


class DeviceWrong(SpeechmillError):
    """The device or the libraries of a worker give wrong codes; the worker is dropped."""


class StreamBroken(SpeechmillError):
    """Decoding stopped before the end of the shard."""


class RunStopped(SpeechmillError):
    """A signal stopped the run before all shards were done."""


class TrainingDiverged(SpeechmillError):
    """Too many training steps in a row had no finite gradient."""


class TrainingCollapsed(SpeechmillError):
    """A codec stopped using its codebooks or its latent, and on_collapse is stop."""


class SampleError(SpeechmillError):
    """One sample cannot be tokenized: it becomes a row in rejects/."""


class UnsafeMember(SampleError):
    """Not a regular file, or a name that points outside of the archive."""


class DuplicateKey(SampleError):
    """Another sample of this shard has the same key."""


class NoAudio(SampleError):
    """No member, or more than one, can be the audio."""


class UndecodableAudio(SampleError):
    """The audio cannot be decoded."""


class TruncatedAudio(SampleError):
    """The header claims more than the body holds."""


class EmptyAudio(SampleError):
    """0 samples, or fewer than the codec needs for one frame."""


class OversizedAudio(SampleError):
    """More bytes or seconds than the limits allow."""


class OversizedMetadata(SampleError):
    """More bytes of JSON or text than the limits allow."""


class NonFiniteAudio(SampleError):
    """NaN or infinite samples."""


class UnsuitableAudio(SampleError):
    """A sample rate or channel count that the settings refuse."""


class DecodeCrashed(SampleError):
    """Decoding it crashed the process."""


class DecodeTimeout(SampleError):
    """Decoding it takes longer than the limits allow."""


class DecodeOutOfMemory(SampleError):
    """Decoding it takes more memory than the limits allow."""


class BadSegments(SampleError):
    """The segments that the metadata lists do not fit the audio, or one of them is empty."""


class Dropped(SampleError):
    """`speechmill drop` takes it out."""


class Unwanted(SampleError):
    """A filter rejects it."""


class TooShort(Unwanted):
    """Under filters.min_seconds."""


class TooLong(Unwanted):
    """Over filters.max_seconds."""


class SilentAudio(Unwanted):
    """Too much of it is silence."""


class ClippedAudio(Unwanted):
    """Too much of it is at full scale."""


class OverscaledAudio(Unwanted):
    """Its floats exceed full scale by more than filters.max_peak."""


class CancelledAudio(Unwanted):
    """Its channels cancel each other when they are mixed."""


class OtherMetadata(Unwanted):
    """The condition filters.metadata is false for it."""


class LowQuality(Unwanted):
    """filters.quality scores it too low."""


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise `InputError` unless the value of a setting is one of the choices."""
    known = list(choices)
    if value not in known:
        raise InputError(f"{name} is {value!r}; use one of {', '.join(known)}")
