"""Every error that the pipeline raises on purpose; foreign ones are translated at the border.

SpeechmillError
├── InputError             what was asked for cannot be: config, listing, manifest
├── DatasetConflict        the output holds tokens of another codec or of other input
├── StorageError           storage refused, for a reason that is none of the below
│   ├── StorageNotFound    no such object or folder
│   │   └── BucketNotFound no such bucket, or it is elsewhere
│   ├── StorageDenied      no permission, or no credentials
│   ├── StorageFull        the disk or quota is full
│   └── StorageUnavailable throttled, reset or timed out: worth another try
├── ShardError             one tar cannot be tokenized as a whole
│   ├── ShardCut           the tar ends before its end marker
│   ├── ShardDamaged       the tar holds bytes that are no tar
│   └── ShardChanged       the tar is not the one that was listed
├── WorkerLost             the process that held a shard is gone
│   └── NodeLost           it went with its whole node, or leaves it: no shard's fault
├── DeviceFull             a single clip does not fit into the memory of the device
├── DeviceBroken           the GPU computes nothing any more in this process
├── StreamBroken           decoding stopped before the end of the shard
├── RunStopped             the run was told to stop before all shards were done
├── TrainingDiverged       too many training steps in a row had no finite gradient
└── SampleError            one sample cannot be tokenized: it becomes a row in rejects/
    ├── UnsafeMember       no regular file, or a name that points out of the archive
    ├── DuplicateKey       the key came before in this shard
    ├── NoAudio            no member, or more than one, can be the audio
    ├── UndecodableAudio   the audio cannot be decoded
    ├── TruncatedAudio     the header claims more than the body holds
    ├── EmptyAudio         0 samples, or fewer than the codec needs for one frame
    ├── OversizedAudio     more bytes or seconds than the limits allow
    ├── NonFiniteAudio     NaN or infinite samples
    ├── UnsuitableAudio    a sample rate or channel count that the settings refuse
    ├── DecodeCrashed      the process that decoded it died of it
    ├── DecodeTimeout      decoding it takes longer than the limits allow
    ├── DecodeOutOfMemory  decoding it takes more memory than the limits allow
    ├── BadSegments        the metadata's lists of starts and ends do not fit the audio
    └── Unwanted           a filter holds it back
        ├── TooShort       under filters.min_seconds
        ├── TooLong        over filters.max_seconds
        ├── SilentAudio    too much of it is silence
        ├── ClippedAudio   too much of it is at full scale
        ├── OtherMetadata  filters.metadata is not true of it
        └── LowQuality     filters.quality scores it too low
"""


class SpeechmillError(Exception):
    """Base of every error of the pipeline."""


class InputError(SpeechmillError):
    """What was asked for cannot be: config, listing, manifest."""


class DatasetConflict(SpeechmillError):
    """The output holds tokens of another codec or of other input."""


class StorageError(SpeechmillError):
    """Storage refused, for a reason that no subclass names."""


class StorageNotFound(StorageError):
    """No such object or folder."""


class BucketNotFound(StorageNotFound):
    """No such bucket, or it is elsewhere."""


class StorageDenied(StorageError):
    """No permission, or no credentials."""


class StorageFull(StorageError):
    """The disk or quota is full."""


class StorageUnavailable(StorageError):
    """Throttled, reset or timed out: worth another try."""


class ShardError(SpeechmillError):
    """One tar cannot be tokenized as a whole."""


class ShardCut(ShardError):
    """The tar ends before its end marker."""


class ShardDamaged(ShardError):
    """The tar holds bytes that are no tar."""


class ShardChanged(ShardError):
    """The tar is not the one that was listed."""


class WorkerLost(SpeechmillError):
    """The process that held a shard is gone."""


class NodeLost(WorkerLost):
    """It went with its whole node, or leaves it: no shard's fault."""


class DeviceFull(SpeechmillError):
    """A single clip does not fit into the memory of the device."""


class DeviceBroken(SpeechmillError):
    """The GPU computes nothing any more in this process."""


class StreamBroken(SpeechmillError):
    """Decoding stopped before the end of the shard."""


class RunStopped(SpeechmillError):
    """The run was told to stop before all shards were done."""


class TrainingDiverged(SpeechmillError):
    """Too many training steps in a row had no finite gradient."""


class SampleError(SpeechmillError):
    """One sample cannot be tokenized: it becomes a row in rejects/."""


class UnsafeMember(SampleError):
    """No regular file, or a name that points out of the archive."""


class DuplicateKey(SampleError):
    """The key came before in this shard."""


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


class NonFiniteAudio(SampleError):
    """NaN or infinite samples."""


class UnsuitableAudio(SampleError):
    """A sample rate or channel count that the settings refuse."""


class DecodeCrashed(SampleError):
    """The process that decoded it died of it."""


class DecodeTimeout(SampleError):
    """Decoding it takes longer than the limits allow."""


class DecodeOutOfMemory(SampleError):
    """Decoding it takes more memory than the limits allow."""


class BadSegments(SampleError):
    """The metadata's lists of starts and ends do not fit the audio."""


class Unwanted(SampleError):
    """A filter holds it back."""


class TooShort(Unwanted):
    """Under filters.min_seconds."""


class TooLong(Unwanted):
    """Over filters.max_seconds."""


class SilentAudio(Unwanted):
    """Too much of it is silence."""


class ClippedAudio(Unwanted):
    """Too much of it is at full scale."""


class OtherMetadata(Unwanted):
    """filters.metadata is not true of it."""


class LowQuality(Unwanted):
    """filters.quality scores it too low."""
