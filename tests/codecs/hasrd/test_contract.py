"""HASRD's codes and audio do not depend on what shares the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from speech_codecs import codec_info
from speech_codecs.hasrd.codec import HasrdCodec
from speech_codecs.nn.factorized import FactorizedQuantizer
from speech_codecs.nn.quantize import ResidualQuantizer
from tests.codecs.hasrd.small import CONFIGS, codec
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import encode_alone

TIE = 1e-5  # by which the best codeword beats the second
LENGTHS = st.one_of(st.sampled_from([1, 2, 319, 320, 321, 640]), st.integers(1, 12_000))


def ties_against_alone(codec: HasrdCodec, clip_T: Tensor, codes_KF: Tensor) -> int:
    """Fail unless the codes are those of the clip alone; return how many frames differ by a tie.

    A frame is judged by its first differing codebook: the later ones code another residual.
    """
    alone_KF = encode_alone(codec, clip_T)
    frames = alone_KF.shape[1]
    assert frames == codec.info.num_frames(len(clip_T))
    assert not codes_KF[:, frames:].any()
    differs_KF = codes_KF[:, :frames] != alone_KF
    places_N = differs_KF.any(0).nonzero().flatten()
    if not len(places_N):
        return 0
    margins_N = margins(codec, clip_T, alone_KF)[differs_KF.int().argmax(0), torch.arange(frames)]
    assert (margins_N[places_N] < TIE).all(), f"margins {margins_N[places_N].tolist()}"
    return len(places_N)


@torch.inference_mode()
def margins(codec: HasrdCodec, clip_T: Tensor, codes_KF: Tensor) -> Tensor:
    """Return margin_KF, by how much each code was the best."""
    network, frames = codec.network, codes_KF.shape[1]
    assert codec.ssl is not None
    size = frames * codec.info.hop_length
    filled_BT = F.pad(codec.ssl.heard(clip_T[None]), (0, max(0, size - len(clip_T))))
    taps = network.taps(codec.ssl(filled_BT))
    framed_BT = F.pad(clip_T[None], (0, size - len(clip_T)))
    found = [network.centroids.distances(taps.semantic_BFH[0], 0)]
    residual_FD = network.residual(taps, framed_BT, codes_KF[None, 0])[0]
    for stage, codes_F in enumerate(codes_KF[1:]):
        if isinstance(network.quantizer, ResidualQuantizer):
            found.append(network.quantizer.distances(residual_FD, stage))
            residual_FD = residual_FD - network.quantizer.codebooks_KND[stage][codes_F]
        else:
            book = network.quantizer.stages[stage]
            assert isinstance(book, FactorizedQuantizer)
            found.append(-book.cosines(residual_FD[None])[0])
            residual_FD = residual_FD - book.decode(codes_F[None])[0]
    best_KF2 = torch.stack([scores.topk(2, largest=False).values for scores in found])
    return best_KF2[..., 1] - best_KF2[..., 0]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_judge_of_ties_decides_as_the_codec_does(kind: str) -> None:
    clip_T = speech(16_001)
    margins_KF = margins(codec(kind), clip_T, encode_alone(codec(kind), clip_T))
    assert (margins_KF >= 0).all()
    assert margins_KF.median() > 10 * TIE


@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=4),
    extra=st.integers(0, 3_000),
    garbage=st.sampled_from([0.0, 1.0, 30.0, float("nan")]),
)
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("masked", [False, True])
def test_codes_of_any_batch_are_those_of_its_clips(
    masked: bool, kind: str, lengths: list[int], extra: int, garbage: float
) -> None:
    batched = codec(kind, masked=masked)
    clips = [speech(length, seed=length) for length in lengths]
    codes_BKF = batched.encode(*padded(clips, extra, garbage))
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        ties = ties_against_alone(batched, clip_T, codes_KF)
        assert masked or ties == 0


@pytest.mark.parametrize("kind", CONFIGS)
def test_codes_follow_their_clip_in_any_order(kind: str) -> None:
    clips = [speech(length, seed=length) for length in (3_000, 9_999, 500, 24_001)]
    audio_BT, lengths_B = padded(clips, garbage=0.3)
    order = torch.tensor([2, 0, 3, 1])
    batched = codec(kind, masked=True)
    forth_BKF = batched.encode(audio_BT, lengths_B)
    assert torch.equal(batched.encode(audio_BT[order], lengths_B[order]), forth_BKF[order])


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("masked", [False, True])
def test_audio_of_any_batch_is_that_of_its_clips(masked: bool, kind: str) -> None:
    info = codec(kind).info
    frames_B = torch.tensor([1, 2, 9, 31])
    shape = (4, info.num_codebooks, 33)
    codes_BKF = torch.randint(0, 32, shape, generator=torch.Generator().manual_seed(0))
    codes_BKF[0, :, 1:] = -1
    audio_BT = codec(kind, masked=masked).decode(codes_BKF, frames_B)
    for codes_KF, audio_T, frames in zip(codes_BKF, audio_BT, frames_B.tolist(), strict=True):
        alone_T = codec(kind).decode(codes_KF[None, :, :frames], torch.tensor([frames]))[0]
        assert len(alone_T) == frames * info.hop_length
        torch.testing.assert_close(
            audio_T[: len(alone_T)], alone_T, atol=1e-5 if masked else 0, rtol=0
        )
        assert not audio_T[len(alone_T) :].any()


@settings(max_examples=12, deadline=None)
@given(length=LENGTHS)
@pytest.mark.parametrize("kind", ["default", "half-rate", "whole-frames"])
def test_num_frames_is_exact(kind: str, length: int) -> None:
    loaded = codec(kind)
    assert encode_alone(loaded, speech(length)).shape[1] == loaded.info.num_frames(length)


@pytest.mark.parametrize("masked", [False, True])
def test_clips_too_short_for_a_whole_frame_have_none_and_do_not_disturb_others(
    masked: bool,
) -> None:
    batched = codec("whole-frames", masked=masked)
    assert batched.encode(torch.zeros(2, 319), torch.tensor([1, 319])).shape == (2, 4, 0)
    clips = [speech(319), speech(5_000), speech(1)]
    codes_BKF = batched.encode(*padded(clips))
    assert torch.equal(codes_BKF[1], encode_alone(batched, clips[1]))
    assert not codes_BKF[[0, 2]].any()


@pytest.mark.parametrize("kind", CONFIGS)
def test_codes_of_each_codebook_are_diverse(kind: str) -> None:
    codes_KF = encode_alone(codec(kind), speech(64_000))
    assert all(len(codes_F.unique()) > 20 for codes_F in codes_KF)


def test_silence_and_full_scale_give_codes() -> None:
    for level in (0.0, 1.0, -1.0):
        codes_KF = encode_alone(codec(), torch.full((4_000,), level))
        assert codes_KF.shape == (4, 13)


def test_encode_changes_no_input_and_tracks_no_gradient() -> None:
    audio_BT, lengths_B = padded([speech(5_000), speech(900)], garbage=0.1)
    before_BT = audio_BT.clone()
    codes_BKF = codec(masked=True).encode(audio_BT.requires_grad_(), lengths_B)
    assert torch.equal(audio_BT, before_BT)
    assert not codec().decode(codes_BKF, torch.tensor([5, 1])).requires_grad


def test_variants_are_named_by_their_bit_rate() -> None:
    for name, kbps in {"hasrd-0.5k": 0.5, "hasrd-1k": 1, "hasrd-2k": 2}.items():
        info = codec_info(name)
        assert (info.kbps, info.frame_rate, info.num_semantic_codebooks) == (kbps, 50, 1)
    speech_tokenizer = 50 * 8 * 10 / 1000
    assert codec_info("hasrd-2k").kbps == speech_tokenizer / 2
    assert round(codec_info("hasrd-2k", config={"semantic_codebook_size": 2000}).kbps, 3) == 2.048
