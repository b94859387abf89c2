"""What every codec promises."""

from functools import cache
from pathlib import Path

import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speech_codecs import Codec, InvalidAudio, InvalidCodes, codec_info, load_codec
from speech_codecs.pure.codec import PureCodec
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import assert_same_tokens, encode_alone

SMALL = ["null", "pure-16k-small", "pure-16k-small masked"]
LENGTHS = [1, 2, 319, 320, 321, 641, 4_000, 7_777, 16_001]


@cache
def loaded(name: str) -> Codec:
    codec = load_codec(name.removesuffix(" masked"))
    if name.endswith(" masked"):
        assert isinstance(codec, PureCodec)
        return PureCodec(
            codec.network,
            codec.info,
            device=torch.device("cpu"),
            precision="fp32",
            row_by_row=False,
        )
    return codec


@pytest.fixture(params=SMALL, scope="module")
def codec(request: pytest.FixtureRequest) -> Codec:
    return loaded(request.param)


def entropy_bits(codes_N: Tensor) -> float:
    return torch.distributions.Categorical(codes_N.bincount().float()).entropy().item() / 0.6931


def test_tokens_do_not_depend_on_batch_padding_or_order(codec: Codec) -> None:
    clips = [speech(length, seed=length) for length in LENGTHS]
    for order, extra, garbage in ((1, 0, 0.0), (-1, 500, 0.3), (2, 3_000, 50.0)):
        chosen = clips[::order]
        codes_BKF = codec.encode(*padded(chosen, extra, garbage))
        for clip_T, codes_KF in zip(chosen, codes_BKF, strict=True):
            frames = codec.info.num_frames(len(clip_T))
            assert_same_tokens(codec, clip_T, codes_KF[:, :frames])
            assert not codes_KF[:, frames:].any()


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5_000), min_size=1, max_size=4),
    extra=st.integers(0, 700),
    garbage=st.sampled_from([0.0, 1.0, float("nan")]),
)
@pytest.mark.parametrize("name", SMALL)
def test_tokens_of_any_batch_are_those_of_its_clips(
    name: str, lengths: list[int], extra: int, garbage: float
) -> None:
    codec, clips = loaded(name), [speech(length, seed=length) for length in lengths]
    codes_BKF = codec.encode(*padded(clips, extra, garbage))
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        assert_same_tokens(codec, clip_T, codes_KF[:, : codec.info.num_frames(len(clip_T))])


@settings(max_examples=40, deadline=None)
@given(length=st.one_of(st.integers(1, 2_000), st.integers(1, 20_000)))
@pytest.mark.parametrize("name", ["null", "pure-16k-small"])
def test_num_frames_is_exact(name: str, length: int) -> None:
    codec = loaded(name)
    assert encode_alone(codec, speech(length)).shape[1] == codec.info.num_frames(length)


def test_loading_twice_gives_the_same_tokens_and_leaves_the_random_state(codec: Codec) -> None:
    state = torch.get_rng_state()
    again = load_codec(codec.info.name)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_tokens(again, speech(8_000), encode_alone(codec, speech(8_000)))


def test_the_info_of_a_loaded_codec_is_known_before_loading(codec: Codec) -> None:
    assert codec.info == codec_info(codec.info.name)


def test_codes_are_diverse_and_in_range(codec: Codec) -> None:
    codes_KF = encode_alone(codec, speech(64_000))
    assert codes_KF.dtype == torch.int64
    for codes_F, size in zip(codes_KF, codec.info.codebook_sizes, strict=True):
        assert 0 <= codes_F.min() <= codes_F.max() < size
        assert entropy_bits(codes_F) > 4


def test_codes_of_real_speech_are_diverse_and_exact(codec: Codec, real_speech: Path) -> None:
    files = sorted((real_speech / "librispeech_train_clean_100").glob("*.flac"))[:3]
    clips = [torch.from_numpy(soundfile.read(f, dtype="float32")[0])[:40_000] for f in files]
    clips = [clip_T[: len(clip_T) - 7_001 * i] for i, clip_T in enumerate(clips)]
    codes_BKF = codec.encode(*padded(clips, extra=999, garbage=0.2))
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        assert_same_tokens(codec, clip_T, codes_KF[:, : codec.info.num_frames(len(clip_T))])
    assert all(entropy_bits(codes_F) > 3 for codes_F in codes_BKF[0])


def test_audio_does_not_depend_on_batch_or_padding(codec: Codec) -> None:
    frames_B = torch.tensor([1, 2, 7, 40])
    codes_BKF = torch.randint(0, 1024, (4, codec.info.num_codebooks, 45))
    audio_BT = codec.decode(codes_BKF, frames_B)
    codes_BKF[0, :, 1:] = -1
    assert torch.equal(codec.decode(codes_BKF, frames_B), audio_BT)
    for codes_KF, audio_T, frames in zip(codes_BKF, audio_BT, frames_B.tolist(), strict=True):
        alone_T = codec.decode(codes_KF[None, :, :frames], torch.tensor([frames]))[0]
        assert len(alone_T) == frames * codec.info.hop_length
        torch.testing.assert_close(audio_T[: len(alone_T)], alone_T, atol=1e-5, rtol=0)
        assert not audio_T[len(alone_T) :].any()


def test_any_prefix_of_the_codebooks_decodes(codec: Codec) -> None:
    codes_BKF = encode_alone(codec, speech(6_400))[None]
    audio = [codec.decode(codes_BKF[:, :k], torch.tensor([20])) for k in (1, 2, 8)]
    assert {tuple(audio_BT.shape) for audio_BT in audio} == {(1, 6_400)}
    assert not torch.equal(audio[0], audio[1])
    assert not torch.equal(audio[1], audio[2])


def test_neither_encode_nor_decode_changes_its_input_or_tracks_gradients(codec: Codec) -> None:
    audio_BT, num_samples_B = padded([speech(5_000), speech(900)], garbage=0.1)
    before_BT = audio_BT.clone()
    codes_BKF = codec.encode(audio_BT.requires_grad_(), num_samples_B)
    assert torch.equal(audio_BT, before_BT)
    before_BKF = codes_BKF.clone()
    assert not codec.decode(codes_BKF, torch.tensor([16, 3])).requires_grad
    assert torch.equal(codes_BKF, before_BKF)


@pytest.mark.parametrize(
    ("audio_BT", "num_samples_B", "message"),
    [
        (torch.zeros(2, 400, dtype=torch.int16), torch.tensor([400, 400]), "int16.*32768"),
        (torch.zeros(2, 400, dtype=torch.float64), torch.tensor([400, 400]), "float64"),
        (torch.zeros(400), torch.tensor([400]), r"\(400,\)"),
        (torch.zeros(2, 1, 400), torch.tensor([400, 400]), r"\(2, 1, 400\)"),
        (torch.zeros(0, 400), torch.zeros(0, dtype=torch.int64), "empty"),
        (torch.zeros(2, 400), torch.tensor([400]), r"\(1,\)"),
        (torch.zeros(2, 400), torch.tensor([400.0, 1.0]), "float32"),
        (torch.zeros(2, 400), torch.tensor([400, 0]), "row 1 has 0 samples"),
        (torch.zeros(2, 400), torch.tensor([401, 1]), "row 0 has 401 samples"),
        (torch.zeros(1, 0), torch.tensor([0]), "row 0 has 0 samples"),
        (torch.full((1, 400), torch.nan), torch.tensor([9]), "sample 0 of row 0 is nan"),
        (torch.full((1, 400), torch.inf), torch.tensor([9]), "sample 0 of row 0 is inf"),
    ],
)
def test_bad_audio_is_refused(
    codec: Codec, audio_BT: Tensor, num_samples_B: Tensor, message: str
) -> None:
    with pytest.raises(InvalidAudio, match=message):
        codec.encode(audio_BT, num_samples_B)


@pytest.mark.parametrize(
    ("codes_BKF", "num_frames_B", "message"),
    [
        (torch.zeros(1, 8, 4), torch.tensor([4]), "float32"),
        (torch.zeros(8, 4, dtype=torch.int64), torch.tensor([4]), r"\(8, 4\)"),
        (torch.zeros(1, 9, 4, dtype=torch.int64), torch.tensor([4]), "9 codebooks"),
        (torch.zeros(1, 0, 4, dtype=torch.int64), torch.tensor([4]), "0 codebooks"),
        (torch.full((1, 8, 4), 1024), torch.tensor([4]), "code 1024 in codebook 0"),
        (torch.full((1, 8, 4), -1), torch.tensor([4]), "code -1 in codebook 0"),
        (torch.zeros(1, 8, 4, dtype=torch.int64), torch.tensor([5]), "row 0 has 5 frames"),
    ],
)
def test_bad_codes_are_refused(
    codec: Codec, codes_BKF: Tensor, num_frames_B: Tensor, message: str
) -> None:
    with pytest.raises(InvalidCodes, match=message):
        codec.decode(codes_BKF, num_frames_B)
