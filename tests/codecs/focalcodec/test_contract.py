"""FocalCodec's codes and audio do not depend on what shares the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from speech_codecs import codec_info, load_codec
from speech_codecs.focalcodec.codec import FocalCodec
from speech_codecs.focalcodec.config import VARIANTS
from speech_codecs.focalcodec.wavlm import FeatureExtractor
from tests.codecs.speech import padded, speech

TIE = 1e-5  # of a latent of length 1
FOCAL = {"hidden_dims": [48, 32], "focal_window": 4, "window_size": 16}
ENCODER = {"hidden_dims": [32] * 7, "dim": 64, "ffn_dim": 96, "num_heads": 4, "num_layers": 2}


def tiny(*, causal: bool = False, factor: int = 1, **focal: bool) -> dict[str, object]:
    """A configuration in the published vocabulary; `factor` is the frames per token."""
    common = {**FOCAL, **focal, "causal": causal}
    conv = {"conv_pos": 18, "conv_pos_groups": 4, "window_size": 20}
    down, up = {"downscale_factors": [factor, 1]}, {"upscale_factors": [1, factor]}
    return {
        "encoder_config": {**ENCODER, **conv, "causal": causal},
        "compressor_config": {**common, **down, "input_dim": 64, "output_dim": 10},
        "quantizer_config": {"codebook_size": 1024},
        "decompressor_config": {**common, **up, "input_dim": 10, "output_dim": 64},
        "decoder_name": "WaveNeXt" if causal else "Vocos",
        "decoder_config": {"input_dim": 64, "dim": 32, "ffn_dim": 48, "causal": causal},
    }


CONFIGS = {
    "50hz": tiny(),
    "25hz": tiny(factor=2),
    "17hz": tiny(factor=3),
    "all options": tiny(use_post_norm=True, use_layerscale=True, normalize_modulator=True),
    "causal": tiny(causal=True),
    "causal 25hz": tiny(causal=True, factor=2),
}


def loaded(name: str, *, row_by_row: bool) -> FocalCodec:
    codec = load_codec("focalcodec", config=CONFIGS[name])
    assert isinstance(codec, FocalCodec)
    device = torch.device("cpu")
    return FocalCodec(
        codec.network,
        codec.sizes,
        codec.info,
        device=device,
        precision="fp32",
        row_by_row=row_by_row,
    )


@pytest.fixture(params=CONFIGS, scope="module")
def masked(request: pytest.FixtureRequest) -> FocalCodec:
    return loaded(request.param, row_by_row=False)


MASKED = {name: loaded(name, row_by_row=False) for name in CONFIGS}


def ties_against_alone(codec: FocalCodec, clip_T: Tensor, codes_F: Tensor) -> int:
    """Fail unless the codes are those of the clip alone; return how many differ by a tie."""
    alone_F = codec.encode(clip_T[None], torch.tensor([len(clip_T)]))[0, 0]
    assert len(alone_F) == codec.info.num_frames(len(clip_T))
    differs_F = codes_F[: len(alone_F)] != alone_F
    with torch.inference_mode():
        latents_FD = F.normalize(codec.network.latents(clip_T[None]), dim=-1)[0]
    ties_F = latents_FD.abs().amin(-1) < TIE
    assert not (differs_F & ~ties_F).any(), f"{int(differs_F.sum())} of {len(alone_F)} differ"
    return int(differs_F.sum())


@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(
        st.one_of(st.integers(1, 1_000), st.integers(1, 8_000)), min_size=2, max_size=4
    ),
    extra=st.integers(0, 2_000),
    garbage=st.sampled_from([0.0, 1.0, 30.0, float("nan")]),
)
@pytest.mark.parametrize("name", CONFIGS)
def test_codes_of_a_masked_batch_are_those_of_its_clips(
    name: str, lengths: list[int], extra: int, garbage: float
) -> None:
    codec, clips = MASKED[name], [speech(length, seed=length) for length in lengths]
    codes_BKF = codec.encode(*padded(clips, extra, garbage))
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        ties_against_alone(codec, clip_T, codes_KF[0])
        assert not codes_KF[0, codec.info.num_frames(len(clip_T)) :].any()


def test_audio_of_a_masked_batch_is_that_of_its_rows(masked: FocalCodec) -> None:
    frames = [1, 2, 5, 23, 40]
    codes_BKF = torch.randint(1024, (5, 1, 44), generator=torch.Generator().manual_seed(0))
    audio_BT = masked.decode(codes_BKF, torch.tensor(frames))
    for codes_KF, audio_T, count in zip(codes_BKF, audio_BT, frames, strict=True):
        alone_T = masked.decode(codes_KF[None, :, :count], torch.tensor([count]))[0]
        seconds = count * masked.info.hop_length / masked.info.sample_rate
        assert len(alone_T) == seconds * masked.info.output_sample_rate
        torch.testing.assert_close(audio_T[: len(alone_T)], alone_T, atol=1e-5, rtol=0)
        assert not audio_T[len(alone_T) :].any()


@pytest.mark.parametrize("name", CONFIGS)
def test_num_frames_is_exact(name: str) -> None:
    sizes, info = MASKED[name].sizes, MASKED[name].info
    with torch.device("meta"):
        extractor = FeatureExtractor(sizes.encoder)
    edges = [1, 399, 400, 401, 639, 640, 641, 719, 720, 721, 1_279, 1_280, 1_281, 500_001]
    for length in [*edges, *range(2, 4_000, 97)]:
        frames = extractor(torch.empty(1, length, device="meta"), None, None)[0].shape[1]
        assert -(-frames // sizes.scale) == info.num_frames(length), length


@pytest.mark.parametrize("name", CONFIGS)
def test_row_by_row_gives_the_codes_of_a_masked_batch(name: str) -> None:
    clips = [speech(9_000), speech(300, seed=1), speech(16_000, seed=2)]
    audio_BT, num_samples_B = padded(clips, 100, 2.0)
    rows_BKF = loaded(name, row_by_row=True).encode(audio_BT, num_samples_B)
    assert torch.equal(MASKED[name].encode(audio_BT, num_samples_B), rows_BKF)


@pytest.mark.parametrize("variant", ["focalcodec-12_5hz", "focalcodec-50hz-2k-causal"])
def test_a_full_size_variant_is_exact_and_its_codes_follow_the_audio(variant: str) -> None:
    codec = load_codec(variant)
    assert isinstance(codec, FocalCodec)
    clips = [speech(20_000), speech(9_001, seed=1)]
    masked = FocalCodec(
        codec.network,
        codec.sizes,
        codec.info,
        device=torch.device("cpu"),
        precision="fp32",
        row_by_row=False,
    )
    codes_BKF = masked.encode(*padded(clips, 99, 1.0))
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        ties_against_alone(codec, clip_T, codes_KF[0])
    assert len(codes_BKF[0, 0].unique()) > 0.7 * codes_BKF.shape[-1]


def test_the_variants_facts_are_those_published() -> None:
    facts = {
        name: (info.frame_rate, info.codebook_sizes[0], info.output_sample_rate)
        for name, info in ((name, codec_info(name)) for name in VARIANTS)
    }
    assert facts == {
        "focalcodec-50hz": (50, 8192, 16_000),
        "focalcodec-25hz": (25, 8192, 16_000),
        "focalcodec-12_5hz": (12.5, 8192, 16_000),
        "focalcodec-50hz-2k-causal": (50, 2048, 24_000),
        "focalcodec-50hz-4k-causal": (50, 4096, 24_000),
        "focalcodec-50hz-65k-causal": (50, 65536, 24_000),
    }
