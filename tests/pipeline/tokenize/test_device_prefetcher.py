import threading

import numpy as np
import pytest
import torch

from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.decode import DecodeSettings, decode_shard
from speechmill.pipeline.tokenize.device import DevicePrefetcher, one_ahead, pad_clips
from tests.corpus import write_corpus

END = ShardEnd([], 0)


def test_the_next_item_is_made_while_the_previous_one_is_in_use():
    asked = threading.Semaphore(0)

    def items():
        for _ in range(4):
            asked.release()
            yield END

    taken = one_ahead(items())
    for _ in range(3):
        assert next(taken) is END
        assert asked.acquire(timeout=10)
    assert asked.acquire(timeout=10)
    assert list(taken) == [END]


def test_an_error_of_the_thread_is_raised_in_its_place():
    def items():
        yield END
        raise KeyError("broken")

    taken = one_ahead(items())
    assert next(taken) is END
    with pytest.raises(KeyError, match="broken"):
        next(taken)


def test_leaving_early_ends_the_thread():
    before = threading.active_count()
    taken = one_ahead(iter([END] * 5))
    next(taken)
    taken.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_clips_are_padded_without_changing_a_bit(kind):
    lengths = [3, 1, 5]
    samples_N = np.random.default_rng(0).integers(-(2**15), 2**15, 9).astype(kind)
    audio_BT = pad_clips(torch.from_numpy(samples_N), lengths).numpy()
    scale = 32768 if kind is np.int16 else 1
    for row_T, clip_T in zip(audio_BT, np.split(samples_N, [3, 4]), strict=True):
        np.testing.assert_array_equal(row_T[: len(clip_T)], clip_T.astype(np.float32) / scale)
        assert not row_T[len(clip_T) :].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gets_the_same_audio_as_the_cpu(tmp_path, storage, null_codec):
    write_corpus(tmp_path / "in", num_shards=1, clips_per_shard=12)
    [shard] = list_shards([str(tmp_path / "in")], storage)
    batches = list(decode_shard(shard, storage, DecodeSettings(), [null_codec.info]))
    to_cpu, to_gpu = DevicePrefetcher("cpu"), DevicePrefetcher("cuda")
    pairs = zip(to_cpu.prefetch(batches), to_gpu.prefetch(batches), strict=True)
    for here, there in pairs:
        if not isinstance(here, ShardEnd):
            assert torch.equal(here.audio(), there.audio().cpu())
