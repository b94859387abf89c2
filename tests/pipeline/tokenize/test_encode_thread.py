"""Shards that share batches of fixed shapes; on a CPU here, as on a GPU."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechmill.codecs import load_codec
from speechmill.codecs.shapes import BatchShapes, ShapeSettings, plan_shapes
from speechmill.pipeline.audio.segment import Clip
from speechmill.pipeline.errors import DeviceBroken, DeviceFull, StreamBroken
from speechmill.pipeline.tokenize.batching import Batch, ShardEnd, concatenate_clips
from speechmill.pipeline.tokenize.encode_thread import EncodeThread
from speechmill.pipeline.tokenize.encoders import BatchByBatch, EncodedShard, SharedBatches
from speechmill.pipeline.tokenize.fixed_batches import BatchEncoder

SHAPES = BatchShapes(widths=(8_000, 16_000), rows=(4, 2))
END = ShardEnd([], 0)


class Spy:
    """A codec that remembers its batches, and fails like a GPU for too large ones."""

    def __init__(self, room: int = 1 << 40, error: str = "CUDA out of memory", name: str = "null"):
        self.codec = load_codec(name)
        self.info = self.codec.info
        self.room, self.error = room, error
        self.shapes: list[tuple[int, ...]] = []
        self.rows: list[int] = []

    def encode(self, audio_BT, num_samples_B):
        if audio_BT.numel() > self.room:
            raise RuntimeError(self.error)
        self.shapes.append(tuple(audio_BT.shape))
        self.rows.append(int(audio_BT.any(1).sum()))
        return self.codec.encode(audio_BT, num_samples_B)


def decoded(*lengths: int, seed: int = 0, kind: type = np.int16) -> Batch:
    """A batch of the decoder with clips of noise."""
    random = np.random.default_rng(seed)
    clips = []
    for index, length in enumerate(lengths):
        audio_T = random.integers(-30_000, 30_000, length).astype(kind)
        if kind is np.float32:
            audio_T /= 32768
        clips.append(Clip(audio_T, 0.0, 1.0, length // 320 + 1, index=index, key=str(index)))
    return concatenate_clips(clips, "a.tar")


def started(codec, waiting: int = 0, shapes: BatchShapes = SHAPES) -> EncodeThread:
    return EncodeThread([BatchEncoder(codec, shapes, torch.device("cpu"))], waiting)


def shared(thread: EncodeThread) -> SharedBatches:
    return SharedBatches(thread, 0, load_codec("null"))


def encode(encoder, batches: Iterable[Batch | ShardEnd]) -> dict[bytes, np.ndarray]:
    """The codes of every batch, by its audio."""
    return encode_shard(encoder, batches)[0]


def encode_shard(encoder, batches) -> tuple[dict[bytes, np.ndarray], EncodedShard]:
    found: dict[bytes, np.ndarray] = {}
    done = encoder.encode_shard(
        batches, lambda batch, codes: found.update({batch.audio_N.tobytes(): codes})
    )
    return found, done


def assert_same(found: dict[bytes, np.ndarray], expected: dict[bytes, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, codes_BFK in expected.items():
        np.testing.assert_array_equal(found[key][:, : codes_BFK.shape[1]], codes_BFK)


@pytest.mark.parametrize("name", ["null", "pure-16k-small"])
def test_codes_are_those_of_the_shards_alone(name):
    shards = [
        [decoded(8_000, 5_000, 16_000, 12_345, seed=s), decoded(*[7_000] * 7, seed=s + 50), END]
        for s in range(3)
    ]
    shards[1][0] = decoded(9_000, 3_000, seed=9, kind=np.float32)
    codec = load_codec(name)
    expected = [encode(BatchByBatch(codec), batches) for batches in shards]
    with closing(started(codec)) as thread, ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda batches: encode(shared(thread), batches), shards)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)


def test_every_batch_has_one_of_the_fixed_shapes():
    codec = Spy()
    with closing(started(codec)) as thread:
        encode(shared(thread), [decoded(*range(1_000, 16_000, 700)), END])
    assert set(codec.shapes) == {(4, 8_000), (2, 16_000)}


def test_shards_fill_each_others_batches(monkeypatch):
    monkeypatch.setattr("speechmill.pipeline.tokenize.encode_thread._IDLE_SECONDS", 60)
    codec, both_began = Spy(), threading.Barrier(2)

    def stream(seed: int) -> Iterator[Batch | ShardEnd]:
        both_began.wait(timeout=30)
        yield decoded(8_000, 7_000, seed=seed)
        yield END

    with closing(started(codec, waiting=2)) as thread, ThreadPoolExecutor(2) as pool:
        encoder = shared(thread)
        list(pool.map(lambda seed: encode(encoder, stream(seed)), (1, 2)))
    assert codec.rows == [4]


def test_a_shard_does_not_wait_for_one_that_goes_on(monkeypatch):
    monkeypatch.setattr("speechmill.pipeline.tokenize.encode_thread._IDLE_SECONDS", 0.05)
    thread, goes_on = started(Spy(), waiting=9), threading.Event()

    def endless() -> Iterator[Batch | ShardEnd]:
        yield decoded(5_000, seed=3)
        goes_on.wait(timeout=30)
        yield END

    with closing(thread), ThreadPoolExecutor(1) as pool:
        slow = pool.submit(encode, shared(thread), endless())
        assert encode(shared(thread), [decoded(6_000), END])
        goes_on.set()
        assert slow.result()


def test_a_stream_that_breaks_costs_only_its_own_shard():
    codec = load_codec("null")
    with closing(started(codec, waiting=1)) as thread:
        with pytest.raises(StreamBroken):
            encode(shared(thread), [decoded(5_000, 6_000)])
        batch = decoded(7_000, seed=2)
        assert_same(
            encode(shared(thread), [batch, END]),
            encode(BatchByBatch(codec), [batch, END]),
        )


def test_a_batch_that_does_not_fit_is_split_into_fixed_shapes_and_the_shard_knows():
    codec, batch = Spy(room=2 * 8_000), decoded(8_000, 7_000, 6_000, 5_000)
    with closing(started(codec)) as thread:
        found, done = encode_shard(shared(thread), [batch, END])
    assert codec.shapes == [(2, 8_000)] * 2
    assert done.split_clips == 4
    assert_same(found, encode(BatchByBatch(load_codec("null")), [batch, END]))


def test_a_row_that_does_not_fit_ends_its_shard_alone():
    codec = Spy(room=8_001)
    with closing(started(codec)) as thread:
        with pytest.raises(DeviceFull, match=r"segment\.by=fixed"):
            encode(shared(thread), [decoded(16_000), END])
        assert encode(shared(thread), [decoded(8_000), END])


def test_a_broken_device_ends_every_shard():
    codec = Spy(room=0, error="CUDA error: an illegal memory access was encountered")
    with closing(started(codec)) as thread:
        for _ in range(2):
            with pytest.raises(DeviceBroken, match="illegal memory access"):
                encode(shared(thread), [decoded(8_000), END])


def test_whoever_still_waits_for_a_thread_that_is_closed_gets_an_error():
    thread = started(Spy(), waiting=9)

    def goes_on() -> Iterator[Batch | ShardEnd]:
        yield decoded(5_000)
        thread.close()
        yield END

    with pytest.raises(StreamBroken, match="stopped"):
        encode(shared(thread), goes_on())
    with pytest.raises(StreamBroken, match="stopped"):
        shared(thread).call(int)


def test_a_function_is_called_by_the_thread_that_encodes():
    with closing(started(Spy())) as thread:
        assert shared(thread).call(lambda: threading.current_thread().name) == "encode"
        with pytest.raises(KeyError):
            shared(thread).call(lambda: {}["missing"])


def test_padding_is_under_a_tenth_for_utterances_of_1_to_30_s_in_shards_of_an_hour():
    class Silent:
        """Gives zeros: here the shapes of batches matter, not the codes."""

        info = replace(load_codec("null").info, sample_rate=100, hop_length=2, frame_offset=1)
        clips = padded = 0

        def encode(self, audio_BT, num_samples_B):
            self.padded += audio_BT.numel()
            frames = self.info.num_frames(audio_BT.shape[1])
            return torch.zeros(len(audio_BT), self.info.num_codebooks, frames, dtype=torch.int64)

    def shard(seed: int) -> Iterator[Batch | ShardEnd]:
        random = np.random.default_rng(seed)
        lengths = random.integers(100, 3_000, 232)  # about an hour, at 100 Hz
        codec.clips += int(lengths.sum())
        for part in np.split(lengths, range(20, 232, 20)):
            yield decoded(*part.tolist(), seed=seed)
        yield END

    codec = Silent()
    shapes = plan_shapes(codec.info, ShapeSettings())
    with closing(started(codec, 6, shapes)) as thread, ThreadPoolExecutor(9) as pool:
        list(pool.map(lambda seed: encode(shared(thread), shard(seed)), range(40)))
    assert 1 - codec.clips / codec.padded < 0.1
