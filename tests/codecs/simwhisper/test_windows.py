"""Clips longer than the network's window, and how many frames a clip has."""

import pytest
import torch

from speechmill.codecs import codec_info
from tests.codecs.simwhisper.golden import golden_codec
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import encode_alone


def test_clips_longer_than_a_window_are_exact_in_a_batch_with_short_ones() -> None:
    clips = [speech(n, seed=n) for n in (31 * 16_000 + 700, 20 * 16_000 + 1_281, 5_000)]
    one, masked = (golden_codec(masked=mask).encode(*padded(clips)) for mask in (False, True))
    assert torch.equal(one, masked)
    for clip_T, codes_KF in zip(clips, masked, strict=True):
        alone_KF = encode_alone(golden_codec(), clip_T)
        assert torch.equal(codes_KF[:, : alone_KF.shape[1]], alone_KF)


def test_a_long_clip_is_the_first_twenty_seconds_of_each_window() -> None:
    clip_T = speech(31 * 16_000 + 700)
    first_KF = encode_alone(golden_codec(), clip_T[: 30 * 16_000])[:, :250]
    codes_KF = encode_alone(golden_codec(), clip_T)
    assert codes_KF.shape[1] == len(clip_T) // 1280
    assert torch.equal(codes_KF[:, :250], first_KF)
    assert torch.equal(codes_KF[:, 250:], encode_alone(golden_codec(), clip_T[20 * 16_000 :]))
    assert not torch.equal(encode_alone(golden_codec(), clip_T[: 20 * 16_000]), first_KF)


def test_long_codes_decode_in_windows_that_overlap_by_ten_seconds() -> None:
    codes_BKF = torch.randint(0, 2016, (1, 4, 380), generator=torch.Generator().manual_seed(0))
    audio_T = golden_codec().decode(codes_BKF, torch.tensor([380]))[0]
    first_T = golden_codec().decode(codes_BKF[..., :375], torch.tensor([375]))[0]
    last_T = golden_codec().decode(codes_BKF[..., 250:], torch.tensor([130]))[0]
    edge = 250 * 1280
    assert torch.equal(audio_T, torch.cat([first_T[:edge], last_T]))


def test_long_codes_decode_to_the_same_audio_next_to_short_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    codes_BKF = torch.randint(0, 2016, (2, 4, 380), generator=generator)
    audio_BT = golden_codec(masked=True).decode(codes_BKF, torch.tensor([380, 7]))
    for codes_KF, audio_T, frames in zip(codes_BKF, audio_BT, (380, 7), strict=True):
        alone_T = golden_codec().decode(codes_KF[None, :, :frames], torch.tensor([frames]))[0]
        torch.testing.assert_close(audio_T[: frames * 1280], alone_T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("keep_partial", [False, True])
def test_num_frames_equals_the_authors_for_every_length(keep_partial: bool) -> None:
    info = codec_info("simwhisper-16k", checkpoint="untrained", keep_partial=keep_partial)
    for length in range(1, 8_001):
        encoder_frames = -(-length // 160) // 2
        computed = -(-encoder_frames // 4)
        expected = computed if keep_partial else min(computed, length // 1280)
        assert info.num_frames(length) == expected
