"""DualCodec's recipe: both streams learn on a frozen w2v-BERT."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechmill.codecs import InvalidConfig, load_codec, load_recipe
from speechmill.codecs.dualcodec.recipe import DualCodecRecipe
from speechmill.codecs.dualcodec.weights import published, renamed
from speechmill.codecs.recipe import TrainingBatch
from tests.codecs.dualcodec.goldens import SMALL, WEIGHTS
from tests.codecs.overfit import (
    begin,
    clips,
    mel_distance,
    moved,
    overfit,
    snapshot,
    without_gradient,
)

SETTINGS: dict[str, Any] = {"mel_ffts": [512], "mel_bands": [40], "low_share": 0.25}
SEMANTIC = {name: WEIGHTS[name] for name in ("semantic_checkpoint", "semantic_stats")}


@cache
def tiny() -> dict[str, Any]:
    """The goldens' network, narrower, with latents as wide as the features to match."""
    config = json.loads((SMALL / "config.json").read_text())
    config["dualcodec"] |= {"latent_dim": 32, "encoder_dim": 4, "decoder_dim": 32}
    config["patched"] |= {"semantic_out_dim": 32}
    return config


def recipe(**settings: Any) -> DualCodecRecipe:
    torch.manual_seed(0)
    made = load_recipe(
        "dualcodec",
        config=tiny(),
        checkpoint="untrained",
        settings=SETTINGS | settings,
        **SEMANTIC,
    )
    assert isinstance(made, DualCodecRecipe)
    return made


def test_it_learns_its_clips_and_w2v_bert_does_not_change() -> None:
    trained = recipe()
    audio_BT = clips(trained, 0.25, 2)
    before, distance = snapshot(trained), mel_distance(trained, audio_BT)
    frozen = {name: v.clone() for name, v in trained.semantic.network.state_dict().items()}
    losses = overfit(trained, "codec", audio_BT, 40, lr=5e-3)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert mel_distance(trained, audio_BT) < 0.7 * distance
    assert moved(trained, before) == before.keys()
    after = trained.semantic.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in frozen.items())


def test_gradients_reach_every_weight_except_those_of_w2v_bert() -> None:
    trained = recipe(semantic_only=0.0, dropout=0.0)
    audio_BT = clips(trained)
    begin(trained, "codec", audio_BT)
    assert not without_gradient(trained, audio_BT)
    assert all(p.grad is None for p in trained.semantic.network.parameters())
    assert not [name for name in trained.state_dict() if name.startswith("semantic.")]


def test_a_step_of_the_semantic_stream_alone_does_not_train_the_acoustic_one() -> None:
    trained = recipe(semantic_only=1.0)
    audio_BT = clips(trained)
    begin(trained, "codec", audio_BT)
    out = without_gradient(trained, audio_BT)
    assert {name.split(".")[1] for name in out} == {"acoustic_encoder", "acoustic_quantizer"}
    terms = trained(TrainingBatch(audio_BT)).terms
    assert "low_band" in terms
    assert terms["commitment"] == 0
    trained.eval()
    assert "low_band" not in trained(TrainingBatch(audio_BT)).terms


def test_the_low_bands_are_the_low_frequencies() -> None:
    trained = recipe()
    time_T = torch.arange(9_600) / 24_000
    low_BT, high_BT = (torch.sin(2 * torch.pi * f * time_T)[None] for f in (200, 8_000))
    silent_BT = torch.zeros_like(low_BT)
    assert trained.low_band(low_BT, silent_BT) > 4 * trained.low_band(high_BT, silent_BT)


def test_trained_weights_tokenize_as_the_recipe_does_under_the_published_names(
    tmp_path: Path,
) -> None:
    trained = recipe()
    audio_BT = clips(trained)
    overfit(trained, "codec", audio_BT, 2)
    save_file(trained.weights_for_inference(), tmp_path / "x.safetensors")
    files = {"config": tiny(), "checkpoint": tmp_path / "x.safetensors", **SEMANTIC}
    codec = load_codec("dualcodec", **files)
    codes_BKN = codec.encode(audio_BT, torch.full((len(audio_BT),), audio_BT.shape[1]))
    decoded_BT = codec.decode(codes_BKN, torch.full((len(audio_BT),), codes_BKN.shape[2]))
    ours_BT = trained.reconstruct(audio_BT)[:, : decoded_BT.shape[1]]
    torch.testing.assert_close(ours_BT, decoded_BT, atol=1e-4, rtol=1e-3)
    tuned = load_recipe("dualcodec", **files).eval()
    assert torch.equal(tuned.reconstruct(audio_BT), trained.reconstruct(audio_BT))


def test_training_starts_from_a_published_checkpoint() -> None:
    begun = load_recipe("dualcodec", **WEIGHTS, settings={"weights": {"semantic": 0}})
    theirs = load_file(WEIGHTS["checkpoint"])
    ours = begun.weights_for_inference()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_the_published_names_are_the_inverse_of_ours() -> None:
    trained = recipe()
    state: dict[str, Tensor] = trained.network.state_dict()
    assert renamed(published(state, trained.sizes), trained.sizes).keys() == state.keys()


def test_settings_that_cannot_be_trained_are_refused_with_the_cure() -> None:
    with pytest.raises(InvalidConfig, match="make them equal or the weight semantic 0"):
        load_recipe("dualcodec", **WEIGHTS)
    with pytest.raises(InvalidConfig, match="give semantic_checkpoint and semantic_stats"):
        load_recipe("dualcodec", config=tiny(), checkpoint=WEIGHTS["checkpoint"])
    with pytest.raises(InvalidConfig, match=r"semantic_only is 1\.5; give a share"):
        recipe(semantic_only=1.5)
    with pytest.raises(InvalidConfig, match="not trained with the option 'num_codebooks'"):
        load_recipe("dualcodec", config=tiny(), checkpoint="untrained", num_codebooks=2)
