"""DualCodec's codes and audio do not depend on what shares the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speech_codecs import codec_info
from speech_codecs.dualcodec.codec import DualCodec
from tests.codecs.dualcodec.goldens import CLIPS, codec, golden, load_small
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import encode_alone

TIE = 1e-5  # cosine by which the best codeword beats the second
NEAR_AN_EDGE = [1, 599, 600, 1_078, 1_079, 1_080, 2_038, 2_039, 2_519, 2_520]
LENGTHS = st.one_of(st.sampled_from(NEAR_AN_EDGE), st.integers(1, 6_000), st.integers(1, 30_000))


def ties_against_alone(codec: DualCodec, clip_T: Tensor, codes_KN: Tensor) -> int:
    """Fail unless the codes are those of the clip alone; return how many frames differ by a tie.

    A frame is judged by its first differing codebook: the later ones code another residual.
    """
    alone_KN = encode_alone(codec, clip_T)
    frames = alone_KN.shape[1]
    assert frames == codec.info.num_frames(len(clip_T))
    assert not codes_KN[:, frames:].any()
    differs_KN = codes_KN[:, :frames] != alone_KN
    places_N = differs_KN.any(0).nonzero().flatten()
    if not len(places_N):
        return 0
    margins_N = margins(codec, clip_T, alone_KN)[differs_KN.int().argmax(0), torch.arange(frames)]
    assert (margins_N[places_N] < TIE).all(), f"margins {margins_N[places_N].tolist()}"
    return len(places_N)


@torch.inference_mode()
def margins(codec: DualCodec, clip_T: Tensor, codes_KN: Tensor) -> Tensor:
    """Return margin_KN, by how much each code was the best."""
    network, audio_BT = codec.network, clip_T[None]
    assert codec.semantic is not None
    semantic_BND = network.semantic_encoder(codec.semantic(audio_BT), None)
    steps = [(network.semantic_quantizer, semantic_BND)]
    residual_BND = network.acoustic_latent(audio_BT, codes_KN.shape[1])
    residual_BND = residual_BND - network.semantic_latent(codes_KN[None, 0])
    for stage, codes_N in zip(network.acoustic_quantizer.stages, codes_KN[1:], strict=True):
        steps.append((stage, residual_BND))
        residual_BND = residual_BND - stage.decode(codes_N[None])
    best = [stage.cosines(x_BND)[0].topk(2).values for stage, x_BND in steps]
    return torch.stack([best_N2[:, 0] - best_N2[:, 1] for best_N2 in best])


@pytest.mark.parametrize("masked", [False, True])
def test_no_token_of_the_goldens_is_a_tie(masked: bool) -> None:
    for clip in CLIPS:
        clip_T = golden()[f"{clip}.audio_24k"]
        smallest = margins(codec(masked=masked), clip_T, encode_alone(codec(), clip_T)).min()
        assert smallest > 100 * TIE


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=4),
    extra=st.integers(0, 3_000),
    garbage=st.sampled_from([0.0, 1.0, 30.0, float("nan")]),
)
@pytest.mark.parametrize("keep_partial", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_codes_of_any_batch_are_those_of_its_clips(
    masked: bool, keep_partial: bool, lengths: list[int], extra: int, garbage: float
) -> None:
    batched = codec(masked=masked, keep_partial=keep_partial)
    clips = [speech(length, seed=length) for length in lengths]
    codes_BKN = batched.encode(*padded(clips, extra, garbage))
    for clip_T, codes_KN in zip(clips, codes_BKN, strict=True):
        ties = ties_against_alone(batched, clip_T, codes_KN)
        assert masked or ties == 0


@pytest.mark.parametrize("masked", [False, True])
def test_codes_follow_their_clip_in_any_order(masked: bool) -> None:
    clips = [speech(length, seed=length) for length in (3_000, 9_999, 500, 24_001)]
    audio_BT, lengths_B = padded(clips, garbage=0.3)
    order = torch.tensor([2, 0, 3, 1])
    forth_BKN = codec(masked=masked).encode(audio_BT, lengths_B)
    assert torch.equal(
        codec(masked=masked).encode(audio_BT[order], lengths_B[order]), forth_BKN[order]
    )


@pytest.mark.parametrize("masked", [False, True])
def test_audio_of_any_batch_is_that_of_its_clips(masked: bool) -> None:
    frames_B = torch.tensor([1, 2, 9, 31])
    codes_BKN = torch.randint(0, 32, (4, 4, 33), generator=torch.Generator().manual_seed(0))
    codes_BKN[0, :, 1:] = -1
    audio_BT = codec(masked=masked).decode(codes_BKN, frames_B)
    for codes_KN, audio_T, frames in zip(codes_BKN, audio_BT, frames_B.tolist(), strict=True):
        alone_T = codec().decode(codes_KN[None, :, :frames], torch.tensor([frames]))[0]
        assert len(alone_T) == frames * 960 - 4
        # rounding alone, which these weights amplify, moves the authors' own audio as far
        torch.testing.assert_close(
            audio_T[: len(alone_T)], alone_T, atol=1e-4 if masked else 0, rtol=0
        )
        assert not audio_T[len(alone_T) :].any()


@settings(max_examples=15, deadline=None)
@given(length=LENGTHS)
@pytest.mark.parametrize("keep_partial", [False, True])
def test_num_frames_is_exact(keep_partial: bool, length: int) -> None:
    loaded = codec(keep_partial=keep_partial)
    assert encode_alone(loaded, speech(length)).shape[1] == loaded.info.num_frames(length)


@pytest.mark.parametrize(("name", "factor"), [("dualcodec-12hz", 4), ("dualcodec-25hz", 2)])
def test_num_frames_of_the_released_codecs_is_the_authors_for_every_length(
    name: str, factor: int
) -> None:
    info, partial = codec_info(name), codec_info(name, keep_partial=True)
    for samples in range(1, 30_000):
        windows = max(0, (-(-samples * 2 // 3) - 400) // 160 + 1)
        pairs = -(-windows // 2)
        assert info.num_frames(samples) == pairs // factor
        assert partial.num_frames(samples) == -(-pairs // factor)


def test_ten_seconds_lack_the_last_frame_unless_it_is_kept() -> None:
    assert codec_info("dualcodec-25hz").num_frames(240_000) == 249
    assert codec_info("dualcodec-12hz").num_frames(240_000) == 124
    assert codec_info("dualcodec-12hz", keep_partial=True).num_frames(240_000) == 125


def test_a_kept_partial_frame_changes_no_whole_frame() -> None:
    clip_T = speech(24_000)
    whole_KN = encode_alone(codec(), clip_T)
    kept_KN = encode_alone(codec(keep_partial=True), clip_T)
    assert kept_KN.shape[1] == whole_KN.shape[1] + 1
    assert torch.equal(kept_KN[0, :-1], whole_KN[0, :])
    assert codec(keep_partial=True).info.revision != codec().info.revision


def test_clips_too_short_for_a_frame_have_none_and_do_not_disturb_others() -> None:
    shortest = codec().encode(torch.zeros(2, 1), torch.tensor([1, 1]))
    assert shortest.shape == (2, 4, 0)
    clips = [speech(1), speech(5_000), speech(1_000)]
    for masked in (False, True):
        codes_BKN = codec(masked=masked).encode(*padded(clips))
        assert torch.equal(codes_BKN[1], encode_alone(codec(), clips[1]))
        assert not codes_BKN[[0, 2]].any()


def test_silence_and_full_scale_give_codes() -> None:
    for level in (0.0, 1.0, -1.0):
        codes_KN = encode_alone(codec(), torch.full((4_000,), level))
        assert codes_KN.shape == (4, 4)


def test_encode_changes_no_input_and_tracks_no_gradient() -> None:
    audio_BT, lengths_B = padded([speech(5_000), speech(900)], garbage=0.1)
    before_BT = audio_BT.clone()
    codes_BKN = codec(masked=True).encode(audio_BT.requires_grad_(), lengths_B)
    assert torch.equal(audio_BT, before_BT)
    assert not codec().decode(codes_BKN, torch.tensor([5, 1])).requires_grad


def test_bf16_on_a_cpu_gives_mostly_the_same_semantic_codes() -> None:
    clip_T = golden()["s4.audio_24k"]
    rough_KN = encode_alone(load_small(precision="bf16"), clip_T)
    assert (rough_KN[0] == encode_alone(codec(), clip_T)[0]).float().mean() > 0.5
