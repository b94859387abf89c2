"""FocalCodec's recipe: a vocoder of frozen features, then a bottleneck that keeps the features."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechmill.codecs import CheckpointError, InvalidConfig, load_codec, load_recipe
from speechmill.codecs.focalcodec.config import WavLMConfig
from speechmill.codecs.focalcodec.model import WavLMFeatures
from speechmill.codecs.focalcodec.recipe import FocalCodecRecipe
from speechmill.codecs.nn.binary import BinarySphericalQuantizer
from speechmill.codecs.recipe import TrainingBatch
from tests.codecs.focalcodec.goldens import CHECKPOINTS, DATA
from tests.codecs.focalcodec.small import ENCODER, tiny
from tests.codecs.overfit import (
    below,
    clips,
    mel_distance,
    moved,
    overfit,
    snapshot,
    without_gradient,
)

PARTS = ("encoder", "compressor", "decompressor", "decoder")
SETTINGS: dict[str, Any] = {"mel_ffts": [512], "mel_bands": [40], "vocoder_frames": 10}


def recipe(causal: bool = False, factor: int = 1, **settings: Any) -> FocalCodecRecipe:
    torch.manual_seed(0)
    config = tiny(causal=causal, factor=factor)
    made = load_recipe(
        "focalcodec", config=config, checkpoint="untrained", settings=SETTINGS | settings
    )
    assert isinstance(made, FocalCodecRecipe)
    return made


@cache
def vocoder() -> dict[str, Tensor]:
    """The weights after the first phase."""
    trained = recipe()
    overfit(trained, "vocoder", clips(trained), 90, lr=4e-3)
    return trained.state_dict()


def test_the_vocoder_learns_its_clips_and_the_rest_does_not_change() -> None:
    trained = recipe()
    before, distance = snapshot(trained), mel_distance(trained, clips(trained))
    trained.load_state_dict(vocoder())
    assert mel_distance(trained, clips(trained)) < 0.5 * distance
    assert moved(trained, before) == set(filter(below("decoder"), before))


def test_the_vocoder_s_loss_falls() -> None:
    trained = recipe()
    losses = overfit(trained, "vocoder", clips(trained), 30, lr=4e-3)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_bottleneck_learns_to_keep_the_features_and_the_rest_does_not_change() -> None:
    trained = recipe()
    trained.load_state_dict(vocoder())
    trained.begin_phase("features")
    before, distance = snapshot(trained), mel_distance(trained, clips(trained))
    losses = overfit(trained, "features", clips(trained), 50, lr=3e-3)
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert mel_distance(trained, clips(trained)) < 0.8 * distance
    assert moved(trained, before) == set(filter(below("compressor", "decompressor"), before))


@pytest.mark.parametrize(("phase", "modules"), [("vocoder", PARTS[3:]), ("features", PARTS[1:3])])
@pytest.mark.parametrize(("causal", "factor"), [(False, 1), (False, 2), (True, 2)])
def test_gradients_reach_every_weight_of_the_phase(
    phase: str, modules: tuple[str, ...], causal: bool, factor: int
) -> None:
    trained = recipe(causal, factor)
    trained.begin_phase(phase)
    names = {name.removeprefix("network.") for name in trained.trainable_parameters()}
    assert names == set(filter(below(*modules), dict(trained.network.named_parameters())))
    assert not without_gradient(trained, clips(trained))


@pytest.mark.parametrize(("causal", "factor"), [(False, 2), (True, 1)])
def test_trained_weights_tokenize_as_the_recipe_does(
    causal: bool, factor: int, tmp_path: Path
) -> None:
    trained = recipe(causal, factor)
    overfit(trained, "features", clips(trained), 2)
    save_file(trained.weights_for_inference(), tmp_path / "x.safetensors")
    codec = load_codec(
        "focalcodec",
        config=tiny(causal=causal, factor=factor),
        checkpoint=tmp_path / "x.safetensors",
    )
    assert codec.info.output_sample_rate == trained.sample_rate
    audio_BT = clips(trained)
    resampled_BT = trained.resample(audio_BT)
    codes_BKF = codec.encode(resampled_BT, torch.full((len(resampled_BT),), resampled_BT.shape[1]))
    decoded_BT = codec.decode(codes_BKF, torch.full((len(codes_BKF),), codes_BKF.shape[2]))
    size = min(decoded_BT.shape[1], audio_BT.shape[1])
    torch.testing.assert_close(
        trained.reconstruct(audio_BT)[:, :size], decoded_BT[:, :size], atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("golden", CHECKPOINTS)
def test_training_starts_from_a_checkpoint_in_either_published_layout(golden: str) -> None:
    files = {"config": DATA / golden / "config.json", "checkpoint": CHECKPOINTS[golden]}
    begun = load_recipe("focalcodec", **files).weights_for_inference()
    published = load_codec("focalcodec", **files, precision="bf16").network.state_dict()
    assert begun.keys() == published.keys()
    for name, value in begun.items():
        torch.testing.assert_close(published[name].float(), value, atol=1e-2, rtol=1e-2)


def test_the_frozen_encoder_can_be_transformers_wavlm(tmp_path: Path) -> None:
    from transformers import WavLMConfig as TheirConfig
    from transformers import WavLMModel

    torch.manual_seed(0)
    theirs = WavLMModel(
        TheirConfig(
            hidden_size=ENCODER["dim"],
            num_hidden_layers=4,
            num_attention_heads=ENCODER["num_heads"],
            intermediate_size=ENCODER["ffn_dim"],
            conv_dim=ENCODER["hidden_dims"],
            num_conv_pos_embeddings=18,
            num_conv_pos_embedding_groups=4,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
    ).eval()
    save_file(theirs.state_dict(), tmp_path / "wavlm.safetensors")
    sizes = {key: tuple(v) if isinstance(v, list) else v for key, v in ENCODER.items()}
    ours = WavLMFeatures(WavLMConfig(**sizes, conv_pos=18, conv_pos_groups=4)).eval()
    ours.load_transformers(load_file(tmp_path / "wavlm.safetensors"))
    audio_BT = clips(recipe())
    with torch.no_grad():
        expected = theirs(audio_BT, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(ours(audio_BT)[0], expected, atol=1e-4, rtol=1e-4)
    made = recipe(wavlm=str(tmp_path / "wavlm.safetensors"))
    assert torch.equal(made.network.encoder.norm.weight, ours.norm.weight)
    with pytest.raises(InvalidConfig, match="leave wavlm out"):
        made.start_from(CHECKPOINTS["causal"])
    with pytest.raises(CheckpointError, match="does not fit"):
        WavLMFeatures(WavLMConfig(**sizes)).load_transformers(theirs.state_dict())


def test_the_vocoder_is_trained_on_sections_of_features_with_their_audio() -> None:
    trained = recipe()
    audio_BT = clips(trained)
    frames = trained.features(audio_BT).shape[1]
    index_BF1 = torch.arange(frames).float()[None, :, None].expand(len(audio_BT), -1, 1)
    ramp_BT = torch.arange(audio_BT.shape[1]).float().expand(len(audio_BT), -1)
    torch.manual_seed(4)
    part_BS1, target_BT = trained._parts(index_BF1, ramp_BT)
    assert part_BS1.shape[1] == 10
    assert torch.equal(target_BT[:, ::320], 320 * part_BS1[..., 0])
    assert len(part_BS1[:, 0].unique()) > 1


def test_each_code_has_a_low_entropy_and_all_together_a_high_one() -> None:
    quantizer = BinarySphericalQuantizer(4)
    torch.manual_seed(0)
    spread_BFD = torch.nn.functional.normalize(torch.randn(1, 400, 4), dim=-1)
    each, of_mean = quantizer.entropies(spread_BFD, 100.0)
    assert each < 0.3
    assert of_mean > 0.95 * 4 * torch.tensor(2.0).log()
    same_BFD = spread_BFD[:, :1].expand(-1, 400, -1)
    assert quantizer.entropies(same_BFD, 1000.0)[1] < 0.1
    soft_each, _ = quantizer.entropies(spread_BFD, 1.0)
    assert soft_each > each


def test_the_entropy_loss_alone_increases_the_number_of_codes_in_use() -> None:
    trained = recipe(weights={"rebuilt": 0, "entropy": 1})
    trained.begin_phase("features")
    before = trained(TrainingBatch(clips(trained))).metrics["code_entropy"]
    overfit(trained, "features", clips(trained), 30)
    assert trained(TrainingBatch(clips(trained))).metrics["code_entropy"] > 1.2 * before


def test_settings_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="vocoder_frames is -1"):
        recipe(vocoder_frames=-1)
    with pytest.raises(InvalidConfig, match=r"the weight mel is 'high', must be like 45\.0"):
        recipe(weights={"mel": "high"})
    with pytest.raises(InvalidConfig, match="no loss 'mse'; this recipe's are adversarial"):
        recipe(weights={"mse": 1})
