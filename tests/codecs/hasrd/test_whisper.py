"""Whisper's encoder as HASRD's model of features: against transformers, and in batches."""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs import CheckpointError, codec_info, load_codec, load_recipe
from speechmill.codecs.checkpoint import allocate
from speechmill.codecs.hasrd.config import SSLConfig, WhisperConfig, read_hasrd_config
from speechmill.codecs.hasrd.recipe import HasrdRecipe
from speechmill.codecs.hasrd.whisper import WhisperFeatures, sinusoids, windows
from tests.codecs.hasrd.small import TINY, WHISPER, codec
from tests.codecs.speech import padded, speech

SECOND = 16_000
CONFIG = read_hasrd_config("hasrd", TINY | {"ssl": WHISPER}).ssl


@cache
def transformers_model() -> nn.Module:
    """transformers' model, with noise added to every weight."""
    from transformers import WhisperConfig as TheirConfig
    from transformers import WhisperForConditionalGeneration

    decoder = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 4}
    sizes = {name: value for name, value in WHISPER.items() if name != "model_type"}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(TheirConfig(**sizes, **decoder, vocab_size=60_000))
    with torch.no_grad():
        for parameter in model.model.encoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def file_of(folder: Path) -> Path:
    """Write the model as transformers' `model.safetensors`."""
    state = transformers_model().state_dict()
    whole = {name: value.contiguous() for name, value in state.items() if name != "proj_out.weight"}
    save_file(whole, folder / "model.safetensors")
    return folder / "model.safetensors"


def features(num_layers: int) -> WhisperFeatures:
    assert isinstance(CONFIG, WhisperConfig)
    ours = allocate(lambda: WhisperFeatures(CONFIG, num_layers))
    ours.load_transformers(transformers_model().state_dict())
    return ours


def normed(x_BFD: Tensor) -> Tensor:
    return F.layer_norm(x_BFD, x_BFD.shape[-1:])


@pytest.mark.parametrize("num_layers", [3, 4])
@torch.inference_mode()
def test_hidden_states_are_those_of_transformers_where_it_pads_nothing(num_layers: int) -> None:
    from transformers import WhisperFeatureExtractor

    audio_T = speech(30 * SECOND)
    extracted = WhisperFeatureExtractor()(
        audio_T.numpy(), sampling_rate=SECOND, return_tensors="pt"
    )
    theirs = (
        transformers_model()
        .model.encoder(extracted.input_features, output_hidden_states=True)
        .hidden_states
    )
    states = list(features(num_layers)(audio_T[None]))
    assert len(states) == num_layers + 1
    for layer, state_BFD in enumerate(states):
        assert state_BFD.shape == (1, 1_500, 64)
        expected_BFD = theirs[layer] if layer == 4 else normed(theirs[layer])
        torch.testing.assert_close(
            state_BFD[:, :1_250], expected_BFD[:, :1_250], atol=2e-4, rtol=1e-4
        )


@torch.inference_mode()
def test_a_short_clip_has_the_states_of_transformers_layers_over_its_own_frames() -> None:
    from transformers import WhisperFeatureExtractor

    audio_T, encoder = speech(2 * SECOND), transformers_model().model.encoder
    mel_BMT = WhisperFeatureExtractor()(
        audio_T.numpy(), sampling_rate=SECOND, return_tensors="pt"
    ).input_features
    h_BDT = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel_BMT))))
    h_BFD = h_BDT.transpose(1, 2)[:, :100] + encoder.embed_positions.weight[:100]
    for layer in encoder.layers:
        h_BFD = layer(h_BFD, None)
    *_, last_BFD = features(4)(audio_T[None])
    torch.testing.assert_close(last_BFD, encoder.layer_norm(h_BFD), atol=2e-4, rtol=1e-4)


@torch.inference_mode()
def test_hidden_states_of_a_masked_batch_are_those_of_its_clips() -> None:
    ssl = codec("whisper").ssl
    assert ssl is not None
    lengths = (3_333, 25 * SECOND + 9, 27 * SECOND)
    clips = [speech(length, seed=length) for length in lengths]
    audio_BT, lengths_B = padded(clips)
    states = list(ssl(ssl.prepare(audio_BT, lengths_B), lengths_B))
    for row, clip_T in enumerate(clips):
        for batched_BFD, alone_BFD in zip(states, ssl(ssl.prepare(clip_T[None])), strict=True):
            part_FD = batched_BFD[row, : len(clip_T) // 320]
            torch.testing.assert_close(part_FD, alone_BFD[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("frames", [0, 1, 1_250, 1_251, 1_500, 2_250, 2_251, 9_999])
def test_windows_keep_every_frame_once_with_five_seconds_on_each_side(frames: int) -> None:
    chosen = windows(frames)
    kept = [w.start + frame for w in chosen for frame in range(w.first, w.last)]
    assert kept == list(range(frames))
    for w in chosen:
        assert w.last <= 1_500
        assert w.first >= 250 or w.start == 0
        assert w.last <= 1_250 or w is chosen[-1]


def test_a_long_clip_is_computed_in_windows() -> None:
    ssl, audio_BT = features(1), speech(46 * SECOND)[None]
    *_, whole_BFD = ssl(audio_BT)
    *_, first_BFD = ssl(audio_BT[:, : 30 * SECOND])
    *_, second_BFD = ssl(audio_BT[:, 20 * SECOND : 50 * SECOND])
    assert torch.equal(whole_BFD[:, :1_250], first_BFD[:, :1_250])
    torch.testing.assert_close(whole_BFD[:, 1_250:2_250], second_BFD[:, 250:1_250])


def test_positions_are_those_of_transformers() -> None:
    from transformers.models.whisper.modeling_whisper import sinusoids as theirs

    torch.testing.assert_close(sinusoids(1_500, 64), theirs(1_500, 64), atol=1e-4, rtol=0)


def test_a_codec_takes_transformers_file_and_refuses_one_of_another_size(tmp_path: Path) -> None:
    files = {"semantic_checkpoint": file_of(tmp_path)}
    made = load_recipe("hasrd", config=TINY | {"ssl": WHISPER}, checkpoint="untrained", **files)
    assert isinstance(made, HasrdRecipe)
    points_MH = made.points(speech(SECOND)[None])
    assert points_MH.shape == (50, 64)
    assert made.fitted_config()["ssl"]["model_type"] == "whisper"
    save_file(made.weights_for_inference(), tmp_path / "x.safetensors")
    fitted = load_codec(
        "hasrd", config=made.fitted_config(), checkpoint=tmp_path / "x.safetensors", **files
    )
    assert fitted.info.trained
    wider = TINY | {"ssl": WHISPER | {"d_model": 128}}
    with pytest.raises(CheckpointError, match=r"misshapen \(63\): .*conv1.weight \(64, 80, 3\)"):
        load_recipe("hasrd", config=wider, checkpoint="untrained", **files)


def test_the_kind_of_model_decides_the_defaults() -> None:
    base = read_hasrd_config("hasrd-1k", {"ssl": {"model_type": "whisper"}})
    assert (base.ssl, base.semantic_layer, base.num_codebooks) == (WhisperConfig(), 6, 2)
    large = read_hasrd_config("hasrd-2k-whisper-tiny", {"ssl": {"model_type": "wavlm"}})
    assert (large.ssl, large.semantic_layer, large.dim) == (SSLConfig(), 21, 256)
    info = codec_info("hasrd-2k-whisper-tiny", checkpoint="untrained")
    assert (info.kbps, info.frame_rate, info.num_semantic_codebooks) == (2, 50, 1)
