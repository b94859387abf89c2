"""SimWhisper's recipe: everything learns but the Whisper encoder, then the decoder alone."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechmill.codecs import InvalidConfig, load_codec, load_recipe
from speechmill.codecs.checkpoint import load_strict
from speechmill.codecs.nn.fsq import GroupedFSQ
from speechmill.codecs.nn.usage import codebook_use
from speechmill.codecs.recipe import TrainingBatch
from speechmill.codecs.simwhisper.config import VARIANTS, read_published
from speechmill.codecs.simwhisper.model import AcousticEncoder
from speechmill.codecs.simwhisper.recipe import SimWhisperRecipe
from tests.codecs.overfit import (
    below,
    clips,
    mel_distance,
    moved,
    overfit,
    snapshot,
    without_gradient,
)
from tests.codecs.simwhisper.golden import CHECKPOINT, CONFIG, golden_codec
from tests.codecs.simwhisper.whisper_file import whisper_file

SETTINGS: dict[str, Any] = {"mel_ffts": [512], "mel_bands": [40]}
DECODER = ("upsample", "acoustic_decoder", "vocos")


def recipe(**settings: Any) -> SimWhisperRecipe:
    torch.manual_seed(0)
    made = load_recipe(
        "simwhisper", config=CONFIG, checkpoint="untrained", settings=SETTINGS | settings
    )
    assert isinstance(made, SimWhisperRecipe)
    return made


@cache
def first_phase() -> tuple[dict[str, Tensor], list[float]]:
    """The weights after the first phase, and its losses."""
    trained = recipe()
    losses = overfit(trained, "codec", clips(trained), 40, lr=3e-3)
    return trained.state_dict(), losses


def test_the_first_phase_learns_its_clips_and_the_encoder_does_not_change() -> None:
    trained = recipe()
    before, distance = snapshot(trained), mel_distance(trained, clips(trained))
    state, losses = first_phase()
    trained.load_state_dict(state)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert mel_distance(trained, clips(trained)) < 0.7 * distance
    assert moved(trained, before) == set(filter(below("downsample", *DECODER), before))


def test_the_second_phase_continues_to_learn_and_does_not_change_codes() -> None:
    trained = recipe()
    trained.load_state_dict(first_phase()[0])
    audio_BT = clips(trained)
    before, distance = snapshot(trained), mel_distance(trained, audio_BT)
    codes_BKF = trained.network.quantizer.encode(trained.latents(audio_BT))
    losses = overfit(trained, "decoder", audio_BT, 20, lr=3e-3)
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert mel_distance(trained, audio_BT) < distance
    assert moved(trained, before) == set(filter(below(*DECODER), before))
    assert torch.equal(trained.network.quantizer.encode(trained.latents(audio_BT)), codes_BKF)


@pytest.mark.parametrize("phase", SimWhisperRecipe.phases)
def test_gradients_reach_every_weight_of_the_phase(phase: str) -> None:
    trained = recipe(weights={"waveform": 1})
    trained.begin_phase(phase)
    assert not without_gradient(trained, clips(trained, 0.8))


def test_training_decodes_quantized_values_and_passes_gradients_through_them() -> None:
    quantizer = GroupedFSQ(2, (8, 5))
    x_BDF = torch.randn(3, 4, 50, requires_grad=True)
    y_BDF = quantizer.quantize(x_BDF)
    torch.testing.assert_close(y_BDF, quantizer.decode(quantizer.encode(x_BDF)))
    y_BDF.sum().backward()
    assert (x_BDF.grad > 0).all()


def test_trained_weights_tokenize_as_the_recipe_does(tmp_path: Path) -> None:
    trained = recipe()
    audio_BT = clips(trained)
    overfit(trained, "codec", audio_BT, 2)
    save_file(trained.weights_for_inference(), tmp_path / "x.safetensors")
    codec = load_codec("simwhisper", config=CONFIG, checkpoint=tmp_path / "x.safetensors")
    codes_BKF = codec.encode(audio_BT, torch.full((len(audio_BT),), audio_BT.shape[1]))
    decoded_BT = codec.decode(codes_BKF, torch.full((len(audio_BT),), codes_BKF.shape[2]))
    torch.testing.assert_close(trained.reconstruct(audio_BT), decoded_BT, atol=1e-4, rtol=1e-3)


def test_training_starts_from_the_authors_file() -> None:
    begun = load_recipe("simwhisper", config=CONFIG, checkpoint=CHECKPOINT).eval()
    audio_BT = clips(begun)
    codes_BKF = golden_codec().encode(audio_BT, torch.full((len(audio_BT),), audio_BT.shape[1]))
    assert torch.equal(begun.network.quantizer.encode(begun.latents(audio_BT)), codes_BKF)


def test_the_frozen_encoder_can_be_transformers_whisper(tmp_path: Path) -> None:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = json.loads(CONFIG.read_text())
    sizes = sizes.get("generator_params", sizes)["acoustic_encoder"]
    torch.manual_seed(3)
    theirs = WhisperForConditionalGeneration(
        WhisperConfig(
            num_mel_bins=sizes["num_mel_bins"],
            d_model=sizes["d_model"],
            encoder_layers=sizes["encoder_layers"],
            encoder_attention_heads=sizes["encoder_attention_heads"],
            encoder_ffn_dim=sizes["encoder_ffn_dim"],
            decoder_layers=1,
            decoder_attention_heads=1,
            decoder_ffn_dim=4,
            vocab_size=60_000,
        )
    )
    state = {k: v.contiguous() for k, v in theirs.state_dict().items() if k != "proj_out.weight"}
    save_file(state, tmp_path / "whisper.safetensors")
    made = recipe(whisper=str(tmp_path / "whisper.safetensors"))
    for name, value in made.network.acoustic_encoder.state_dict().items():
        assert torch.equal(value, state[f"model.encoder.{name}"])
    with pytest.raises(InvalidConfig, match="leave whisper out"):
        made.start_from(CHECKPOINT)


def test_a_real_encoder_changes_no_other_weight_and_no_random_number(tmp_path: Path) -> None:
    file = whisper_file(tmp_path, read_published(json.loads(CONFIG.read_text())))
    random, after = recipe(), torch.get_rng_state()
    real = recipe(whisper=str(file))
    assert torch.equal(torch.get_rng_state(), after)
    stored = load_file(file)
    expected = dict(random.network.state_dict())
    for name in random.network.acoustic_encoder.state_dict():
        expected[f"acoustic_encoder.{name}"] = stored[f"model.encoder.{name}"].float()
    found = real.network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_first_batch_gives_random_latents_mean_0_and_variance_1() -> None:
    begun = recipe()
    audio_BT = clips(begun, 4.0)
    begun.begin_phase("codec")
    assert begun.num_init_frames()
    narrow = codebook_use(begun.network.quantizer.encode(begun.latents(audio_BT))[0])
    begun.initialize_from(TrainingBatch(audio_BT))
    assert not begun.num_init_frames()
    std_D, mean_D = torch.std_mean(begun.latents(audio_BT), (0, 2))
    torch.testing.assert_close(std_D, torch.ones_like(std_D), atol=1e-3, rtol=0)
    torch.testing.assert_close(mean_D, torch.zeros_like(mean_D), atol=1e-3, rtol=0)
    wide = codebook_use(begun.network.quantizer.encode(begun.latents(audio_BT))[0])
    assert wide["perplexity"] > 2 * narrow["perplexity"]


def test_random_latents_are_normalised_in_training_and_the_last_layer_follows() -> None:
    """Without that this run ends with a perplexity of 13 and standard deviations from 0.1."""
    trained = recipe()
    audio_BT = clips(trained, 1.0)
    overfit(trained, "codec", audio_BT, 15, lr=3e-3)
    latent_BDF = trained.latents(audio_BT)
    std_D, mean_D = torch.std_mean(latent_BDF, (0, 2))
    assert mean_D.square().mean().sqrt() < 0.8
    assert ((std_D > 0.4) & (std_D < 2)).all()
    codes_BKF = trained.network.quantizer.encode(latent_BDF)
    assert codebook_use(codes_BKF.transpose(0, 1).flatten(1))["perplexity"] > 20


def test_latents_of_a_checkpoint_and_of_the_second_phase_are_not_normalised() -> None:
    tuned = load_recipe("simwhisper", config=CONFIG, checkpoint=CHECKPOINT)
    tuned.begin_phase("codec")
    begun = recipe()
    begun.begin_phase("decoder")
    for each in (tuned, begun):
        assert not each.num_init_frames()
        assert not each.normalizes


@pytest.mark.parametrize("name", ["simwhisper-16k-tiny", "simwhisper-16k-base"])
def test_the_encoder_of_a_variant_has_the_shapes_of_the_published_whisper(name: str) -> None:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    width, layers = {"simwhisper-16k-tiny": (384, 4), "simwhisper-16k-base": (512, 6)}[name]
    published = WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
    )
    with torch.device("meta"):
        theirs = WhisperEncoder(published).state_dict()
        ours = AcousticEncoder(VARIANTS[name])
    del theirs["embed_positions.weight"]
    load_strict(ours, theirs)
    assert VARIANTS[name].encoder_heads == published.encoder_attention_heads


def test_crops_longer_than_the_input_of_whisper_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="takes 30 s at most"):
        recipe().latents(torch.zeros(1, 31 * 16_000))
