"""The tokens and the audio of a clip depend on the clip alone."""

from pathlib import Path

import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speech_codecs import codec_info
from speech_codecs.simwhisper.codec import SimWhisperCodec
from tests.codecs.simwhisper.golden import CHECKPOINT, CONFIG, golden_codec
from tests.codecs.speech import padded, speech

TIE = 1e-5  # how near to the middle between two levels a decision may be


@pytest.fixture(params=[False, True], ids=["one by one", "masked"])
def codec(request: pytest.FixtureRequest) -> SimWhisperCodec:
    return golden_codec(masked=request.param)


def encode_alone(clip_T: Tensor, codec: SimWhisperCodec | None = None) -> Tensor:
    codec = golden_codec() if codec is None else codec
    return codec.encode(clip_T[None], torch.tensor([len(clip_T)]))[0]


def assert_same_tokens(codec: SimWhisperCodec, clip_T: Tensor, actual_KF: Tensor) -> None:
    """Fail on any differing token that is no tie; print how many are."""
    expected_KF = encode_alone(clip_T)
    differs_KF = actual_KF[:, : expected_KF.shape[1]] != expected_KF
    assert not actual_KF[:, expected_KF.shape[1] :].any()
    if differs_KF.any():
        margins_N = decision_margins(codec, clip_T, expected_KF.shape[1])[differs_KF]
        print(f"{(margins_N < TIE).sum()} ties in {expected_KF.numel()} tokens")
        assert margins_N.max() < TIE


def decision_margins(codec: SimWhisperCodec, clip_T: Tensor, frames: int) -> Tensor:
    """Return margin_KF of a clip that fits in one window."""
    bound_KLF = codec.network.quantizer.bound(codec.network.latents(clip_T[None], frames, None))[0]
    return (0.5 - (bound_KLF - bound_KLF.round()).abs()).amin(1)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20_000), min_size=1, max_size=4),
    extra=st.integers(0, 3_000),
    garbage=st.sampled_from([0.0, 1.0, float("nan")]),
)
@pytest.mark.parametrize("masked", [False, True])
def test_tokens_of_any_batch_are_those_of_its_clips(
    masked: bool, lengths: list[int], extra: int, garbage: float
) -> None:
    codec, clips = golden_codec(masked=masked), [speech(n, seed=n) for n in lengths]
    codes_BKF = codec.encode(*padded(clips, extra, garbage))
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        assert_same_tokens(codec, clip_T, codes_KF)


def test_tokens_around_every_edge_of_a_frame_do_not_depend_on_the_batch(
    codec: SimWhisperCodec,
) -> None:
    clips = [speech(n, seed=n) for n in (160, 161, 1279, 1280, 1281, 1440, 1441, 2559, 2560, 9999)]
    for codes_KF, clip_T in zip(codec.encode(*padded(clips, 4_000, 1.0)), clips, strict=True):
        assert_same_tokens(codec, clip_T, codes_KF)


def test_tokens_of_real_speech_do_not_depend_on_the_batch(
    codec: SimWhisperCodec, real_speech: Path
) -> None:
    files = sorted(real_speech.rglob("*.flac"))[:3]
    clips = [torch.from_numpy(soundfile.read(f, dtype="float32")[0])[:50_000] for f in files]
    clips = [clip_T[: len(clip_T) - 11_003 * i] for i, clip_T in enumerate(clips)]
    codes_BKF = codec.encode(*padded(clips, extra=999, garbage=0.2))
    for codes_KF, clip_T in zip(codes_BKF, clips, strict=True):
        assert_same_tokens(codec, clip_T, codes_KF)


def test_clips_longer_than_a_window_are_exact_in_a_batch_with_short_ones() -> None:
    clips = [speech(n, seed=n) for n in (31 * 16_000 + 700, 20 * 16_000 + 1_281, 5_000)]
    one, masked = (golden_codec(masked=mask).encode(*padded(clips)) for mask in (False, True))
    assert torch.equal(one, masked)
    for clip_T, codes_KF in zip(clips, masked, strict=True):
        alone_KF = encode_alone(clip_T)
        assert torch.equal(codes_KF[:, : alone_KF.shape[1]], alone_KF)


def test_a_long_clip_is_the_first_twenty_seconds_of_each_window() -> None:
    clip_T = speech(31 * 16_000 + 700)
    first_KF = encode_alone(clip_T[: 30 * 16_000])[:, :250]
    codes_KF = encode_alone(clip_T)
    assert codes_KF.shape[1] == len(clip_T) // 1280
    assert torch.equal(codes_KF[:, :250], first_KF)
    assert torch.equal(codes_KF[:, 250:], encode_alone(clip_T[20 * 16_000 :]))
    assert not torch.equal(encode_alone(clip_T[: 20 * 16_000]), first_KF)


def test_long_codes_decode_in_windows_that_overlap_by_ten_seconds() -> None:
    codes_BKF = torch.randint(0, 2016, (1, 4, 380), generator=torch.Generator().manual_seed(0))
    audio_T = golden_codec().decode(codes_BKF, torch.tensor([380]))[0]
    first_T = golden_codec().decode(codes_BKF[..., :375], torch.tensor([375]))[0]
    last_T = golden_codec().decode(codes_BKF[..., 250:], torch.tensor([130]))[0]
    edge = 250 * 1280
    assert torch.equal(audio_T, torch.cat([first_T[:edge], last_T]))


def test_audio_does_not_depend_on_batch_or_padding(codec: SimWhisperCodec) -> None:
    frames_B = torch.tensor([1, 2, 7, 40, 253])
    generator = torch.Generator().manual_seed(0)
    codes_BKF = torch.randint(0, 2016, (5, 4, 260), generator=generator)
    audio_BT = codec.decode(codes_BKF, frames_B)
    codes_BKF[0, :, 1:] = -1
    assert torch.equal(codec.decode(codes_BKF, frames_B), audio_BT)
    for codes_KF, audio_T, frames in zip(codes_BKF, audio_BT, frames_B.tolist(), strict=True):
        alone_T = golden_codec().decode(codes_KF[None, :, :frames], torch.tensor([frames]))[0]
        assert len(alone_T) == frames * 1280
        torch.testing.assert_close(audio_T[: len(alone_T)], alone_T, atol=1e-5, rtol=0)
        assert not audio_T[len(alone_T) :].any()


def test_any_prefix_of_the_codebooks_decodes() -> None:
    codes_BKF = encode_alone(speech(6_400))[None]
    audio = [golden_codec().decode(codes_BKF[:, :k], torch.tensor([5])) for k in (1, 2, 4)]
    assert {tuple(audio_BT.shape) for audio_BT in audio} == {(1, 6_400)}
    assert not torch.equal(audio[0], audio[1])
    assert not torch.equal(audio[1], audio[2])


@pytest.mark.parametrize("keep_partial", [False, True])
def test_num_frames_is_what_the_network_gives_for_every_length(keep_partial: bool) -> None:
    info = codec_info("simwhisper", config=CONFIG, checkpoint=CHECKPOINT, keep_partial=keep_partial)
    for length in range(1, 8_001):
        encoder_frames = -(-length // 160) // 2
        computed = -(-encoder_frames // 4)
        expected = computed if keep_partial else min(computed, length // 1280)
        assert info.num_frames(length) == expected
    codec = golden_codec(keep_partial=keep_partial)
    for length in (1, 160, 161, 1279, 1280, 1281, 1440, 1441, 20 * 16_000 + 161):
        assert encode_alone(speech(length), codec).shape[1] == info.num_frames(length)


def test_a_clip_shorter_than_a_frame_has_no_codes_and_does_not_disturb_others(
    codec: SimWhisperCodec,
) -> None:
    assert codec.encode(*padded([speech(1), speech(1_279)])).shape == (2, 4, 0)
    codes_BKF = codec.encode(*padded([speech(1), speech(8_000)]))
    assert not codes_BKF[0].any()
    assert torch.equal(codes_BKF[1], encode_alone(speech(8_000)))
