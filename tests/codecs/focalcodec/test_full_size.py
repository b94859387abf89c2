"""The released variants at full size."""

import pytest
import torch

from speechmill.codecs import codec_info, load_codec
from speechmill.codecs.focalcodec.codec import FocalCodec
from speechmill.codecs.focalcodec.config import VARIANTS
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import assert_same_tokens


@pytest.mark.parametrize("variant", ["focalcodec-12_5hz", "focalcodec-50hz-2k-causal"])
def test_a_full_size_variant_is_exact_and_its_codes_follow_the_audio(variant: str) -> None:
    codec = load_codec(variant, checkpoint="untrained")
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
        assert_same_tokens(codec, clip_T, codes_KF)
    assert len(codes_BKF[0, 0].unique()) > 0.7 * codes_BKF.shape[-1]


def test_the_facts_of_the_variants_are_the_published_ones() -> None:
    facts = {
        name: (info.frame_rate, info.codebook_sizes[0], info.output_sample_rate)
        for name, info in ((name, codec_info(name, checkpoint="untrained")) for name in VARIANTS)
    }
    assert facts == {
        "focalcodec-50hz": (50, 8192, 16_000),
        "focalcodec-25hz": (25, 8192, 16_000),
        "focalcodec-12_5hz": (12.5, 8192, 16_000),
        "focalcodec-50hz-2k-causal": (50, 2048, 24_000),
        "focalcodec-50hz-4k-causal": (50, 4096, 24_000),
        "focalcodec-50hz-65k-causal": (50, 65536, 24_000),
    }
