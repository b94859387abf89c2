import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.pipeline.enhance.stft import Stft
from speechmill.pipeline.errors import InputError

SHAPES = [(512, 256), (512, 128), (400, 50), (8, 4)]


def noise(num_samples):
    return np.random.default_rng(num_samples).standard_normal(num_samples).astype(np.float32)


def through(stft, blocks, process=lambda spectrum: spectrum):
    return np.concatenate(list(stft.through(blocks, process)))


@settings(max_examples=40)
@given(st.sampled_from(SHAPES), st.sampled_from(["hann", "sqrt_hann"]), st.integers(1, 3000))
def test_unchanged_frames_give_back_the_clip_sample_by_sample(shape, window, num_samples):
    audio = noise(num_samples)
    out = through(Stft(*shape, window), [audio])
    np.testing.assert_allclose(out, audio, atol=1e-5)


@settings(max_examples=40)
@given(st.sampled_from(SHAPES), st.lists(st.integers(0, 700), min_size=1, max_size=6))
def test_block_sizes_change_nothing(shape, sizes):
    audio = noise(sum(sizes) + 1)
    cuts = np.cumsum(sizes)
    stft = Stft(*shape)
    by_half = [
        through(stft, blocks, lambda s: s * 0.5) for blocks in ([audio], np.split(audio, cuts))
    ]
    np.testing.assert_array_equal(*by_half)


def test_audio_is_returned_as_soon_as_its_frames_are_complete():
    stft = Stft(512, 256)
    blocks = (np.ones(256, np.float32) for _ in range(10))
    assert [len(out) for out in stft.through(blocks, lambda s: s)] == [0] + [256] * 10


@pytest.mark.parametrize(("hop", "window"), [(200, "hann"), (512, "hann"), (256, "hamming")])
def test_windows_that_do_not_overlap_evenly_are_refused(hop, window):
    with pytest.raises(InputError, match=r"enhancer\.(hop|window) is"):
        Stft(512, hop, window)
