"""The self-supervised models, against transformers and in a batch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechmill.codecs.checkpoint import allocate
from speechmill.codecs.hasrd.config import SSLConfig, read_hasrd_config
from speechmill.codecs.hasrd.ssl import SSLModel, normalized
from tests.codecs.hasrd.small import BASE, HUBERT, LARGE, TINY, codec
from tests.codecs.speech import padded, speech

HUBERT_LARGE = LARGE | {"model_type": "hubert", "conv_bias": True}
MODELS = {"wavlm": LARGE, "wavlm-base": BASE, "hubert-base": HUBERT, "hubert": HUBERT_LARGE}
KINDS = ["default", "wavlm-base", "hubert-base"]


def reference(sizes: dict[str, Any]) -> nn.Module:
    """Return transformers' model with all layers, and noise added to every weight."""
    import transformers

    sizes = {key: value for key, value in sizes.items() if key != "do_normalize"}
    kind = "Hubert" if sizes.pop("model_type", "wavlm") == "hubert" else "WavLM"
    full = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": False} | sizes
    model: nn.Module = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**full)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def ours(sizes: dict[str, Any], state: dict[str, Tensor], layers: int) -> SSLModel:
    config = read_hasrd_config("hasrd", TINY | {"ssl": sizes, "semantic_layer": layers})
    model = allocate(lambda: SSLModel(config.ssl, config.semantic_layer))
    model.load_transformers(state)
    return model


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state as PyTorch named weight norm's factors before version 2."""
    names = {"parametrizations.weight.original0": "weight_g"}
    names |= {"parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("kind", MODELS)
@torch.inference_mode()
def test_the_tap_of_a_cut_model_is_that_of_transformers_whole_one(kind: str) -> None:
    model, sizes = reference(MODELS[kind]), MODELS[kind]
    normal_BT = normalized(speech(9_700)[None], None)
    padded_BT = torch.nn.functional.pad(normal_BT, (40, 40))
    expected = model(padded_BT, output_hidden_states=True).hidden_states
    for state in (model.state_dict(), old_names(model.state_dict())):
        states = list(ours(sizes, state, 4)(normal_BT))
        assert len(states) == 5
        for actual_BFD, expected_BFD in zip(states, expected, strict=False):
            assert actual_BFD.shape == expected_BFD.shape == (1, 30, 64)
            error = (actual_BFD - expected_BFD).abs().max() / expected_BFD.abs().max()
            assert error < 1e-5


def test_normalisation_is_that_of_transformers() -> None:
    import transformers

    extract = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    audio_T = speech(5_000) * 0.1 + 0.05
    expected = extract(audio_T.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    torch.testing.assert_close(normalized(audio_T[None], None), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_hidden_states_of_a_masked_batch_are_those_of_its_clips(kind: str) -> None:
    ssl = codec(kind).ssl
    assert ssl is not None
    clips = [speech(length, seed=length) for length in (16_000, 3_333, 320, 7_777)]
    audio_BT, lengths_B = padded(clips)
    states = list(ssl(ssl.prepare(audio_BT, lengths_B), lengths_B))
    for row, clip_T in enumerate(clips):
        for batched_BFD, alone_BFD in zip(states, ssl(ssl.prepare(clip_T[None])), strict=True):
            part_FD = batched_BFD[row, : len(clip_T) // 320]
            torch.testing.assert_close(part_FD, alone_BFD[0], atol=1e-5, rtol=0)


def test_there_is_one_frame_per_hop() -> None:
    ssl = codec().ssl
    assert ssl is not None
    assert SSLConfig().overlap == 80
    assert next(ssl(torch.zeros(1, 32_000))).shape[1] == 100
    assert next(ssl(torch.zeros(1, 32_319))).shape[1] == 100
