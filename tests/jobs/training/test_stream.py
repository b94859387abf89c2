"""Samples of shards: their order, their split among workers, storage that does not answer."""

import time
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from speechmill.jobs.training.stream import SampleStream, StreamState, WorkerSplit
from speechmill.pipeline.errors import StorageUnavailable
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage
from tests.corpus import tar_bytes

SAMPLES = 5  # of each shard


class UnreachableStore(MemoryFileSystem):
    """`unreachable://`: every connection is reset."""

    protocol = "unreachable"

    def _open(self, *args: Any, **kwargs: Any) -> Any:
        raise ConnectionResetError("connection reset by peer")


fsspec.register_implementation("unreachable", UnreachableStore, clobber=True)


@pytest.fixture
def shards(tmp_path, storage) -> list[Shard]:
    for shard in "abc":
        members = [(f"{shard}{number}.txt", b"") for number in range(SAMPLES)]
        (tmp_path / f"{shard}.tar").write_bytes(tar_bytes(members))
    return list_shards([str(tmp_path)], storage)


def epoch(stream: SampleStream, start: StreamState) -> list[tuple[str, StreamState]]:
    """Keys and states from a position to the end of its epoch."""
    found = []
    for drawn in stream.samples(start):
        if drawn.state.epoch > start.epoch:
            return found
        found.append((drawn.sample.key, drawn.state))
    raise AssertionError("the stream has no end")


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_every_sample_of_an_epoch_goes_to_one_worker(shards, storage, num_workers):
    streams = [
        SampleStream(shards, storage, 1, 4, WorkerSplit(rank, num_workers))
        for rank in range(num_workers)
    ]
    keys = [key for stream in streams for key, _ in epoch(stream, StreamState())]
    assert sorted(keys) == [f"{shard}{number}" for shard in "abc" for number in range(SAMPLES)]


def test_the_audio_member_says_where_the_keys_end(tmp_path, storage):
    names = ["a.left.flac", "a.left.json", "a.right.flac", "b.left.flac", "b.right.flac"]
    (tmp_path / "a.tar").write_bytes(tar_bytes([(name, b"{}") for name in names]))
    [shard] = list_shards([f"{tmp_path}/a.tar"], storage)
    stream = SampleStream([shard], storage, 1, 4, audio_member="left.flac")
    assert sorted(key for key, _ in epoch(stream, StreamState())) == ["a", "b"]


def test_a_stream_continues_from_every_state(shards, storage):
    stream = SampleStream(shards, storage, 1, 4)
    whole = epoch(stream, StreamState())
    for number, (_, state) in enumerate(whole[:-1], start=1):
        saved = StreamState.from_dict(state.as_dict())
        assert epoch(stream, saved) == whole[number:]


def test_storage_that_does_not_answer_is_retried_for_its_patience_and_no_longer():
    shard = Shard("unreachable://a/b.tar", 1024, "")
    stream = SampleStream([shard], Storage(patience=0.5), 1, 4)
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match="tried"):
        next(stream.samples(StreamState()))
    assert time.monotonic() - started < 60  # by default it would be minutes
