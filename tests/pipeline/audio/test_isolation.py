"""Recordings whose length makes a quality function end the process that decodes them."""

import resource
import signal
import subprocess
import sys

import psutil
import pytest

from speechmill.codecs import codec_info
from speechmill.pipeline.audio.filters import FilterSettings
from speechmill.pipeline.audio.isolation import IsolatedRecordings
from speechmill.pipeline.audio.recordings import RecordingSettings
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.audio.segment import Clip, SegmentSettings
from speechmill.pipeline.errors import StreamBroken
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation, decode_shard
from tests.corpus import clip, tar_bytes
from tests.quality_scores import HARMFUL_SECONDS

INFO = codec_info("null")


def settings(**others) -> DecodeSettings:
    limits = Limits(decode_seconds=2.5, memory_mb=500)
    return DecodeSettings(limits=limits, **others)


def harmful() -> DecodeSettings:
    return settings(filters=FilterSettings(quality="tests.quality_scores:harmful"))


@pytest.fixture
def decoded(tmp_path, storage):
    def run(members, settings, isolation=Isolation.FULL):
        storage.put(f"{tmp_path}/a.tar", tar_bytes(members))
        [shard] = list_shards([f"{tmp_path}/a.tar"], storage)
        *batches, end = decode_shard(shard, storage, settings, [INFO], isolation=isolation)
        assert isinstance(end, ShardEnd)
        return batches, end.rejects

    return run


def test_each_recording_that_ends_its_process_is_found_and_the_others_stay(decoded):
    members = []
    for number, seconds in enumerate(HARMFUL_SECONDS):
        members += [(f"good{number}.flac", clip(1.0, number)), (f"bad{number}.flac", clip(seconds))]
    batches, rejects = decoded(members, harmful())
    keys = sorted(key for batch in batches for key in batch.rows["key"].to_pylist())
    assert keys == [f"good{number}" for number in range(len(HARMFUL_SECONDS))]
    assert [(reject.key, reject.error) for reject in rejects] == [
        ("bad0", "DecodeCrashed"),
        ("bad1", "DecodeTimeout"),
        ("bad2", "DecodeTimeout"),
        ("bad3", "DecodeOutOfMemory"),
        ("bad4", "DecodeCrashed"),
        ("bad5", "DecodeCrashed"),
    ]
    assert "SIGSEGV" in rejects[0].message
    assert "exit status 3" in rejects[5].message


def test_a_signal_that_is_meant_for_the_run_does_not_end_the_decoding_process():
    recordings = IsolatedRecordings(RecordingSettings(), [INFO])
    before = psutil.Process().children()
    [first] = recordings.clips(clip(0.5))
    [child] = set(psutil.Process().children()) - set(before)
    for number in (signal.SIGINT, signal.SIGTERM):
        child.send_signal(number)
    [second] = recordings.clips(clip(0.5))
    recordings.close()
    assert isinstance(second, Clip)
    assert second.audio_T.tobytes() == first.audio_T.tobytes()


@pytest.mark.parametrize("segment", ["none", "fixed", "silence"])
def test_batches_are_the_same_in_every_isolation(decoded, segment):
    members = [(f"{n}.flac", clip(0.4 + n % 5, n)) for n in range(8)]
    members[3:3] = [("broken.flac", b"fLaC" + bytes(300)), ("empty.wav", b"")]
    cut = settings(segment=SegmentSettings(segment, seconds=1.0))
    expected, rejected = decoded(members, cut, Isolation.NONE)
    for isolation in (Isolation.WATCHED, Isolation.FULL):
        batches, rejects = decoded(members, cut, isolation)
        assert rejects == rejected
        for batch, other in zip(batches, expected, strict=True):
            assert batch.rows.equals(other.rows)
            assert batch.audio_N.tobytes() == other.audio_N.tobytes()


def test_the_cpu_time_of_another_process_is_reported(tmp_path, storage):
    storage.put(f"{tmp_path}/a.tar", tar_bytes([(f"{n}.flac", clip(4.0, n)) for n in range(4)]))
    [shard] = list_shards([f"{tmp_path}/a.tar"], storage)
    codecs, isolation = [INFO, INFO], Isolation.FULL
    *_, first, second = decode_shard(shard, storage, settings(), codecs, isolation=isolation)
    assert first.decode_cpu_seconds > 0
    assert second.decode_cpu_seconds == 0


def test_a_watched_process_ends_when_a_recording_takes_too_long(tmp_path):
    script = (
        "import sys; from speechmill.pipeline.audio.recordings import *\n"
        "from speechmill.pipeline.audio.isolation import *\n"
        "from speechmill.codecs import codec_info\n"
        "limits, filters = Limits(decode_seconds=2.5), FilterSettings(quality=sys.argv[1])\n"
        "watched = WatchedRecordings(RecordingSettings(limits=limits, filters=filters), "
        "[codec_info('null')])\n"
        "print(list(watched.clips(sys.stdin.buffer.read())))"
    )
    command = [sys.executable, "-c", script, "tests.quality_scores:harmful"]
    assert subprocess.run(command, input=clip(0.2)).returncode == -14  # SIGALRM
    done = subprocess.run(command, input=clip(1.0), capture_output=True)
    assert (done.returncode, b"Clip" in done.stdout) == (0, True)


def test_a_watched_process_that_runs_out_of_memory_breaks_the_stream(decoded):
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(StreamBroken, match="memory"):
        decoded([("a.flac", clip(0.4))], harmful(), Isolation.WATCHED)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_memory_limit_holds_and_is_lifted_again():
    script = (
        "import pytest; from speechmill.pipeline.audio.isolation import memory_limit\n"
        "with memory_limit(100):\n"
        "    with pytest.raises(MemoryError): bytearray(300_000_000)\n"
        "    bytearray(20_000_000)\n"
        "bytearray(300_000_000)"
    )  # in a new process: a used one may hold 300 MB of free memory already
    subprocess.run([sys.executable, "-c", script], check=True)
