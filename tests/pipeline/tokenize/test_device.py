import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.codecs import load_codec
from speechmill.pipeline.errors import DeviceFull
from speechmill.pipeline.tokenize.device import (
    DeviceLock,
    SplittingCodec,
    pad_clips,
)


class Cramped:
    """A codec whose device has memory for `room` padded samples, and fails like a GPU for more."""

    def __init__(self, room: float, error: Exception | None = None, codec: str = "null"):
        self.codec = load_codec(codec)
        self.info = self.codec.info
        self.room = room
        self.error = error or torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        self.asked: list[tuple[int, ...]] = []

    def encode(self, audio_BT, num_samples_B):
        self.asked.append(tuple(audio_BT.shape))
        if audio_BT.numel() > self.room:
            raise self.error
        return self.codec.encode(audio_BT, num_samples_B)

    def decode(self, codes_BKF, num_frames_B):
        return self.codec.decode(codes_BKF, num_frames_B)


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(sum(lengths))
    audio_BT = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(audio_BT, lengths, strict=True):
        row[:length] = torch.from_numpy(random.uniform(-0.5, 0.5, length).astype(np.float32))
    return audio_BT, torch.tensor(lengths)


@settings(max_examples=15)
@given(st.lists(st.integers(400, 8000), min_size=1, max_size=9), st.integers(8000, 40_000))
def test_a_batch_that_does_not_fit_is_split_and_its_codes_are_the_same(lengths, room):
    lengths.sort()
    whole = Cramped(room=float("inf")).encode(*batch(lengths))
    codec = Cramped(room)
    codes_BKF = SplittingCodec(codec).encode(*batch(lengths))
    torch.testing.assert_close(codes_BKF, whole, rtol=0, atol=0)
    assert all(b * t <= room for b, t in codec.asked[-1:])


def test_the_codes_of_a_network_are_the_same_too():
    lengths = [3000, 5000, 6400]
    whole = load_codec("pure-16k-small").encode(*batch(lengths))
    fitting = SplittingCodec(Cramped(12_000, codec="pure-16k-small"))
    torch.testing.assert_close(fitting.encode(*batch(lengths)), whole, rtol=0, atol=0)


def test_after_one_failure_batches_of_that_size_are_split_first():
    codec = Cramped(room=20_000)
    fitting = SplittingCodec(codec)
    fitting.encode(*batch([8000] * 4))
    tries = len(codec.asked)
    fitting.encode(*batch([8000] * 4))
    assert [shape for shape in codec.asked[tries:] if shape[0] * shape[1] > codec.room] == []


def test_a_clip_that_does_not_fit_alone_is_named_with_the_cure():
    with pytest.raises(DeviceFull, match=r"clip of 1 s .* limits\.seconds"):
        SplittingCodec(Cramped(room=100)).encode(*batch([16_000]))


def test_a_batch_that_does_not_fit_into_cpu_memory_is_split_too():
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    codec = Cramped(20_000, error)
    assert len(SplittingCodec(codec).encode(*batch([8000] * 4))) == 4


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_device_starves_only_while_it_has_a_shard_and_none_computes():
    clock = Clock()
    lock = DeviceLock(clock)
    clock.now = 10  # before the first shard
    lock.idle.add_shard()
    clock.now = 13  # the first batch comes
    with lock:
        clock.now = 20
    lock.idle.add_shard()
    clock.now = 21
    with lock:
        clock.now = 30
    assert lock.idle.remove_shard() == 4
    clock.now = 35
    assert lock.idle.remove_shard() == 5
    clock.now = 99
    lock.idle.add_shard()
    assert lock.idle.remove_shard() == 0


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_clips_are_padded_without_changing_a_bit(kind):
    lengths = [3, 1, 5]
    samples_N = np.random.default_rng(0).integers(-(2**15), 2**15, 9).astype(kind)
    audio_BT = pad_clips(torch.from_numpy(samples_N), lengths).numpy()
    scale = 32768 if kind is np.int16 else 1
    for row_T, clip_T in zip(audio_BT, np.split(samples_N, [3, 4]), strict=True):
        np.testing.assert_array_equal(row_T[: len(clip_T)], clip_T.astype(np.float32) / scale)
        assert not row_T[len(clip_T) :].any()
