"""FocalCodec's configurations and checkpoints."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmill.codecs import CheckpointError, InvalidConfig, codec_info, load_codec
from speechmill.codecs.focalcodec.codec import FocalCodec
from speechmill.codecs.focalcodec.config import VARIANTS
from speechmill.codecs.focalcodec.model import FocalCodecNetwork
from speechmill.codecs.focalcodec.published import read_focalcodec_config
from speechmill.codecs.focalcodec.weights import read_focalcodec, to_current_names
from tests.codecs.focalcodec.goldens import CHECKPOINTS, DATA, codec, golden, keys

OFFLINE = ["focalcodec-50hz", "focalcodec-25hz", "focalcodec-12_5hz"]


def shapes(variant: str) -> dict[str, list[int]]:
    with torch.device("meta"):
        network = FocalCodecNetwork(VARIANTS[variant])
    return {key: list(value.shape) for key, value in network.state_dict().items()}


def published(variant: str) -> str:
    return variant.replace("hz-", "hz_").replace("-causal", "_causal")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_full_size_has_every_published_key_and_shape(variant: str) -> None:
    assert shapes(variant) == keys(published(variant))


@pytest.mark.parametrize("variant", OFFLINE)
def test_the_released_layout_of_the_offline_files_fits_too(variant: str) -> None:
    released = keys(f"{variant}.ckpt_v001")
    state = {key: torch.empty(shape, device="meta") for key, shape in released.items()}
    assert {key: list(value.shape) for key, value in to_current_names(state).items()} == shapes(
        variant
    )


def test_a_codec_that_was_saved_again_gives_the_same_codes(tmp_path: Path) -> None:
    path, config = tmp_path / "again.safetensors", DATA / "offline_50hz" / "config.json"
    network = read_focalcodec(codec("offline_50hz").sizes, CHECKPOINTS["offline_50hz"])
    save_file(network.state_dict(), path)
    again = load_codec("focalcodec", config=config, checkpoint=path)
    sig_BT = golden("offline_50hz")["s1p3.sig"][None]
    codes_BKF = again.encode(sig_BT, torch.tensor([sig_BT.shape[1]]))
    assert torch.equal(codes_BKF[0, 0], golden("offline_50hz")["s1p3.toks"])


def test_the_checkpoint_of_another_variant_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"missing \(\d+\).*unexpected \(\d+\).*misshapen"):
        load_codec(
            "focalcodec",
            config=DATA / "offline_50hz" / "config.json",
            checkpoint=CHECKPOINTS["causal"],
        )


def test_a_released_layout_without_a_projection_is_refused(tmp_path: Path) -> None:
    state = load_file(CHECKPOINTS["offline_50hz"])
    del state["encoder.encoder.layers.1.attention.k_proj.weight"]
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match=r"misshapen \(1\).*layers.1.attention.qkv_proj"):
        load_codec(
            "focalcodec",
            config=DATA / "offline_50hz" / "config.json",
            checkpoint=tmp_path / "broken.safetensors",
        )


def test_a_file_of_version_0_0_1_has_that_versions_defaults() -> None:
    old = read_focalcodec_config(
        "focalcodec", {"decoder_config": {"input_channels": 1024, "padding": 3}}
    )
    assert old == VARIANTS["focalcodec-50hz"]
    assert read_focalcodec_config("focalcodec", {}).decompressor.focal_window == 14


def test_a_config_replaces_only_the_values_that_it_names() -> None:
    sizes = read_focalcodec_config(
        "focalcodec-50hz", {"encoder_config": {"num_layers": 5, "dropout": 0.1}}
    )
    assert sizes.encoder.num_layers == 5
    assert sizes.decoder == VARIANTS["focalcodec-50hz"].decoder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder": {}}, "did you mean 'encoder_name'|did you mean 'encoder_config'"),
        ({"encoder_config": [3]}, r"encoder_config is \[3\], not a mapping"),
        ({"encoder_config": {"layers": 3}}, "did you mean 'num_layers'"),
        ({"decoder_name": "HiFiGAN"}, "'HiFiGAN'; known: WaveNeXt, Vocos"),
        ({"quantizer_config": {"codebook_size": 100}}, "codebook_size is 100"),
        ({"compressor_config": {"output_dim": 9}}, "output_dim is 9, but bits .* is 13"),
        ({"compressor_config": {"downscale_factors": [2, 1, 1]}}, "upscale_factors is 1"),
        ({"decoder_config": {"causal": True}}, "causal Vocos"),
    ],
)
def test_a_bad_config_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        codec_info("focalcodec-50hz", config=config)


def test_a_loaded_codec_has_its_sizes() -> None:
    loaded = codec("causal")
    assert isinstance(loaded, FocalCodec)
    assert loaded.sizes.codebook_size == loaded.info.codebook_sizes[0]
