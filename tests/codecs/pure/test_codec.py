"""PURE Codec."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from speechmill.codecs import CheckpointError, InvalidConfig, codec_info, load_codec
from speechmill.codecs.checkpoint import fold_weight_norm
from speechmill.codecs.precision import autocast
from speechmill.codecs.pure.codec import PureCodec
from speechmill.codecs.pure.config import VARIANTS, PureConfig
from speechmill.codecs.pure.frames import FrameDecoder
from speechmill.codecs.pure.model import PureNetwork
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import assert_same_tokens, encode_alone

TINY = {"channels": [4, 8, 8, 16, 16], "dim": 16, "codebook_size": 32}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def network(name: str) -> PureNetwork:
    with torch.device("meta"):
        return PureNetwork(VARIANTS[name])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    codec = load_codec("pure", config=TINY)
    assert isinstance(codec, PureCodec)
    path = tmp_path / "tiny.safetensors"
    save_file(codec.network.state_dict(), path)
    return path


def test_the_full_size_is_that_of_the_authors_configuration() -> None:
    full = network("pure-4k")
    assert round(count(full.encoder) / 1e6, 2) == 9.85
    assert round(count(full.decoder) / 1e6, 2) == 9.85
    assert full.quantizer.codebooks_KND.shape == (8, 1024, 512)


def test_the_small_variant_fits_in_eight_megabytes_of_half_precision() -> None:
    small = network("pure-16k-small")
    fold_weight_norm(small)
    assert 2 * (count(small) + small.quantizer.codebooks_KND.numel()) <= 8_000_000


def test_variants_are_named_by_their_bit_rate() -> None:
    rates = {name: codec_info(name).kbps for name in VARIANTS}
    assert rates.pop("pure-16k-small") == 4
    assert all(name == f"pure-{rate:g}k" for name, rate in rates.items())


def test_the_full_network_is_exact_and_its_variants_are_prefixes() -> None:
    clips = [speech(8_000), speech(3_001)]
    codec = load_codec("pure-4k")
    codes_BKF = codec.encode(*padded(clips, extra=100, garbage=0.3))
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        assert_same_tokens(codec, clip_T, codes_KF[:, : codec.info.num_frames(len(clip_T))])
    one_KF = encode_alone(load_codec("pure-0.5k"), clips[0])
    assert torch.equal(one_KF, codes_BKF[0, :1])


def test_a_saved_codec_loads_with_the_same_tokens(checkpoint: Path) -> None:
    untrained = load_codec("pure", config=TINY)
    trained = load_codec("pure", config=TINY, checkpoint=checkpoint)
    assert torch.equal(encode_alone(trained, speech(9_000)), encode_alone(untrained, speech(9_000)))
    assert trained.info == codec_info("pure", config=TINY, checkpoint=checkpoint)
    assert (untrained.info.trained, trained.info.trained) == (False, True)
    assert untrained.info.title == "pure (untrained)"
    assert trained.info.revision != untrained.info.revision


def test_training_and_inference_checkpoints_give_the_same_tokens(tmp_path: Path) -> None:
    sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in TINY.items()}
    training = PureNetwork(PureConfig(**sizes))
    training.quantizer.codebooks_KND.normal_()
    save_file(training.state_dict(), tmp_path / "training.safetensors")
    fold_weight_norm(training)
    save_file(training.state_dict(), tmp_path / "inference.safetensors")
    codes = [
        encode_alone(load_codec("pure", config=TINY, checkpoint=path), speech(9_000))
        for path in sorted(tmp_path.iterdir())
    ]
    assert torch.equal(*codes)


def test_the_checkpoint_of_another_variant_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"misshapen \(\d+\)"):
        load_codec("pure-16k-small", checkpoint=checkpoint)


def test_a_masked_batch_trains_like_its_clips() -> None:
    sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in TINY.items()}
    training = PureNetwork(PureConfig(**sizes))
    audio_BT, lengths_B = padded([speech(2_000), speech(700)], garbage=0.5)
    mu_BDF, _ = training.posterior(audio_BT.requires_grad_(), lengths_B)
    mu_BDF[1, :, :3].sum().backward()
    assert audio_BT.grad is not None
    assert audio_BT.grad[1, :700].any()
    assert not audio_BT.grad[1, 700:].any()


def decoders() -> tuple[nn.Module, FrameDecoder]:
    """The decoder of frames, and that of subframes with the same weights."""
    sizes = PureConfig(backbone="frames", strides=(320,), width=32, inner_width=64, depth=2, dim=8)
    frames, subframes = FrameDecoder(sizes), FrameDecoder(replace(sizes, backbone="subframes"))
    subframes.load_state_dict(frames.state_dict(), strict=False)
    return frames, subframes


@torch.no_grad()
def test_the_gains_of_subframes_start_at_one() -> None:
    frames, subframes = decoders()
    z_BDF = torch.randn(2, 8, 12)
    torch.testing.assert_close(subframes(z_BDF, None), frames(z_BDF, None), atol=1e-5, rtol=0)


@pytest.mark.parametrize("quarter", range(4))
@torch.no_grad()
def test_a_gain_raises_its_quarter_of_each_frame_the_most(quarter: int) -> None:
    frames, subframes = decoders()
    z_BDF = torch.randn(1, 8, 50)
    assert subframes.gains is not None
    subframes.gains.head.bias.view(4, -1)[quarter] = 1.0
    before_FQS, after_FQS = (
        decoder(z_BDF, None).view(50, 4, 80) for decoder in (frames, subframes)
    )
    assert (after_FQS.norm(dim=(0, 2)) / before_FQS.norm(dim=(0, 2))).argmax() == quarter


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"backbone": "words"}, "use one of"),
        ({"backbone": "frames", "kernel": 2}, "an odd kernel"),
        ({"backbone": "subframes", "window": 600}, "at least two hops"),
        ({"backbone": "subframes", "strides": [322]}, "4, 8, … samples, not 322"),
    ],
)
def test_sizes_that_a_backbone_cannot_have_are_refused(
    sizes: dict[str, object], reason: str
) -> None:
    with pytest.raises(InvalidConfig, match=reason):
        codec_info("pure", config={"strides": [320], **sizes})


def test_fp32_stays_float32_if_the_process_allows_less() -> None:
    switch = torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with autocast("fp32", torch.device("cpu")):
            assert switch.fp32_precision == "ieee"
        assert switch.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_small_variant_is_the_same_network_whenever_it_is_loaded() -> None:
    one, other = (load_codec("pure-16k-small") for _ in range(2))
    assert_same_tokens(one, speech(8_000), encode_alone(other, speech(8_000)))
