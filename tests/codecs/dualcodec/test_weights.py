"""DualCodec's checkpoints, configurations and random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmill.codecs import CheckpointError, InvalidConfig, codec_info, load_codec
from speechmill.codecs.dualcodec.config import VARIANTS, W2VBertConfig
from speechmill.codecs.dualcodec.model import DualCodecNetwork
from speechmill.codecs.dualcodec.w2vbert import W2VBert
from speechmill.codecs.dualcodec.weights import renamed, renamed_w2vbert
from tests.codecs.dualcodec.goldens import DATA, SMALL, WEIGHTS, codec, golden, load_small
from tests.codecs.speech import speech
from tests.codecs.tokens import encode_alone

TINY = {
    "dualcodec": {
        "encoder_dim": 4,
        "latent_dim": 64,
        "decoder_dim": 32,
        "n_codebooks": 3,
        "codebook_size": 64,
        "semantic_codebook_size": 256,
        "convnext_dim": 32,
    },
    "patched": {
        "semantic_in_dim": 64,
        "semantic_out_dim": 64,
        "convnext_intermediate_dim": 64,
    },
    "w2vbert": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128},
}


@pytest.mark.parametrize("rate", ["12hz", "25hz"])
def test_the_full_size_network_has_every_key_and_shape_of_the_released_file(rate: str) -> None:
    config = VARIANTS[f"dualcodec-{rate}"]
    shapes = json.loads((DATA / "keys" / f"dualcodec-{rate}_v1.json").read_text())
    with torch.device("meta"):
        network = DualCodecNetwork(config)
        released = {key: torch.empty(shape) for key, shape in shapes.items()}
    network.load_state_dict(renamed(released, config), strict=True)
    assert renamed(released, config).keys() == network.state_dict().keys()


def test_the_full_size_semantic_model_is_as_large_as_the_used_part_of_w2v_bert() -> None:
    with torch.device("meta"):
        network = W2VBert(W2VBertConfig())
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 411.23


def test_layers_after_the_used_one_are_not_loaded() -> None:
    state = load_file(WEIGHTS["semantic_checkpoint"])
    assert any(key.startswith("encoder.layers.17.") for key in state)
    assert not any(key.startswith("layers.17.") for key in renamed_w2vbert(state, 17))


def test_the_number_of_codebooks_is_read_from_the_file(tmp_path: Path) -> None:
    state = load_file(WEIGHTS["checkpoint"])
    fewer = {k: v for k, v in state.items() if not k.startswith("dac.quantizer.quantizers.2.")}
    save_file(fewer, tmp_path / "fewer.safetensors")
    torch.save(fewer, tmp_path / "fewer.pt")
    clip_T = golden()["s1p1.audio_24k"]
    for name in ("fewer.safetensors", "fewer.pt"):
        loaded = load_small(checkpoint=tmp_path / name)
        assert loaded.info.codebook_sizes == (64, 32, 32)
        assert torch.equal(encode_alone(loaded, clip_T), encode_alone(codec(), clip_T)[:3])


def test_a_checkpoint_of_another_variant_lists_the_misfits() -> None:
    with pytest.raises(CheckpointError, match=r"missing \(\d+\): .*misshapen \(\d+\)"):
        load_codec("dualcodec-12hz", checkpoint=WEIGHTS["checkpoint"])


def test_a_file_of_another_model_lists_the_misfits() -> None:
    with pytest.raises(CheckpointError, match=r"missing \(\d+\): .*unexpected \(\d+\)"):
        load_small(checkpoint=WEIGHTS["semantic_checkpoint"])
    with pytest.raises(CheckpointError, match="not 'mean' and 'var'"):
        load_small(semantic_stats=WEIGHTS["checkpoint"])


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(WEIGHTS["checkpoint"].read_bytes()[:5_000])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
        codec_info("dualcodec-25hz", checkpoint=path)


def test_statistics_may_be_a_pickle_of_tensors(tmp_path: Path) -> None:
    torch.save(load_file(WEIGHTS["semantic_stats"]), tmp_path / "stats.pt")
    loaded, clip_T = load_small(semantic_stats=tmp_path / "stats.pt"), golden()["s1p1.audio_24k"]
    assert torch.equal(encode_alone(loaded, clip_T), encode_alone(codec(), clip_T))


def test_without_the_semantic_model_a_codec_decodes_and_encoding_names_the_missing_files() -> None:
    decoder = load_codec("dualcodec", config=WEIGHTS["config"], checkpoint=WEIGHTS["checkpoint"])
    codes_BKN, frames_B = torch.zeros(1, 4, 3, dtype=torch.int64), torch.tensor([3])
    assert torch.equal(decoder.decode(codes_BKN, frames_B), codec().decode(codes_BKN, frames_B))
    with pytest.raises(InvalidConfig, match="semantic_checkpoint='hf://facebook/w2v"):
        encode_alone(decoder, speech(4_000))


def test_the_semantic_model_and_its_statistics_belong_together() -> None:
    with pytest.raises(InvalidConfig, match="belong together"):
        load_small(semantic_stats=None)


def test_every_file_is_part_of_the_identity(tmp_path: Path) -> None:
    revision = codec().info.revision
    save_file({"mean": torch.ones(32), "var": torch.ones(32)}, tmp_path / "other.safetensors")
    other = codec_info("dualcodec", **{**WEIGHTS, "semantic_stats": tmp_path / "other.safetensors"})
    assert other.revision != revision


@pytest.mark.parametrize(
    ("name", "kbps", "books"),
    [
        ("dualcodec-12hz", 1.225, 8),
        ("dualcodec-25hz", 3.1, 12),
        ("dualcodec-12hz-noise-robust", 2.575, 17),
        ("dualcodec-25hz-noise-robust", 3.1, 12),
    ],
)
def test_the_released_codecs_have_the_published_rates(name: str, kbps: float, books: int) -> None:
    info = codec_info(name, checkpoint="untrained")
    assert info.kbps == pytest.approx(kbps)
    assert (info.num_codebooks, info.num_semantic_codebooks) == (books, 1)
    assert info.sample_rate == info.output_sample_rate == 24_000


def test_random_weights_follow_the_audio_and_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again = (load_codec("dualcodec", config=TINY) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.info.title == "dualcodec (untrained)"
    codes_KN = encode_alone(first, speech(72_000))
    assert torch.equal(encode_alone(again, speech(72_000)), codes_KN)
    assert all(len(codes_N.unique()) > 20 for codes_N in codes_KN)
    audio_BT = first.decode(codes_KN[None], torch.tensor([codes_KN.shape[1]]))
    assert 0.01 < audio_BT.std() < 0.8


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dualcodek": {}}, "did you mean 'dualcodec'"),
        ({"dualcodec": {"n_codebook": 3}}, "did you mean 'n_codebooks'"),
        ({"dualcodec": 3}, "dualcodec is 3, not a mapping"),
        ({"dualcodec": {"w2vbert": {}}}, "separate section"),
        ({"dualcodec": {"n_codebooks": 0}}, "n_codebooks is 0"),
        ({"dualcodec": {"encoder_rates": [4, 5, 6]}}, "120 samples per frame.*960"),
        ({"dualcodec": {"latent_dim": 512}}, "semantic_out_dim is 1024, must equal latent_dim"),
        ({"patched": {"semantic_in_dim": 8}}, "must equal w2vbert.hidden_size, which is 1024"),
        ({"w2vbert": {"hidden_act": "relu"}}, "hidden_act is 'relu'"),
        ({"w2vbert": {"num_hidden_layers": 12}}, "hidden_state_index is 17, w2vbert has 12"),
        ({"w2vbert": {"num_attention_heads": 3}}, "not a multiple of num_attention_heads 3"),
        ({"feature_extractor": {"num_mel_bins": 64}}, "num_mel_bins is 64"),
        ({"feature_extractor": {"stride": 1}}, "stride is 1, only 2"),
    ],
)
def test_a_bad_config_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        codec_info("dualcodec", config=config)


def test_the_whole_configuration_of_the_goldens_is_read() -> None:
    info = codec_info("dualcodec", config=SMALL / "config.json")
    assert info.codebook_sizes == (64, 32, 32, 32)
    assert info.hop_length == 960
