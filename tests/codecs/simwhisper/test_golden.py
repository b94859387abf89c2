"""SimWhisper gives what the authors' code gives."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.codecs.simwhisper.golden import CLIPS, golden, golden_codec
from tests.codecs.speech import padded
from tests.codecs.tokens import assert_near


@contextmanager
def watched(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Return a dict that collects the output of each module inside the block."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda *call, name=name: outputs.update({name: call[2]}))
        for name, module in modules.items()
    ]
    yield outputs
    for hook in hooks:
        hook.remove()


def tokens(clip: str, keep_partial: bool = False) -> Tensor:
    audio_T = golden()[f"{clip}.audio"]
    codec = golden_codec(keep_partial=keep_partial)
    return codec.encode(audio_T[None], torch.tensor([len(audio_T)]))[0]


@pytest.mark.parametrize("clip", CLIPS)
def test_codes_equal_the_authors(clip: str) -> None:
    assert torch.equal(tokens(clip), golden()[f"{clip}.codes"].long())


@pytest.mark.parametrize("clip", CLIPS)
def test_the_partial_frame_equals_what_the_authors_compute_and_drop(clip: str) -> None:
    assert torch.equal(tokens(clip, keep_partial=True), golden()[f"{clip}.tokenize_codes"].long())


@pytest.mark.parametrize("masked", [False, True])
def test_codes_of_all_clips_in_one_batch_equal_the_authors(masked: bool) -> None:
    clips = [golden()[f"{clip}.audio"] for clip in CLIPS]
    codes_BKF = golden_codec(masked=masked).encode(*padded(clips, extra=777, garbage=0.4))
    for clip, codes_KF in zip(CLIPS, codes_BKF, strict=True):
        expected_KF = golden()[f"{clip}.codes"].long()
        assert torch.equal(codes_KF[:, : expected_KF.shape[1]], expected_KF)


@pytest.mark.parametrize("clip", ["s4", "s1p1", "n1281"])
def test_audio_equals_the_authors_of_a_clip_alone(clip: str) -> None:
    codes_KF = golden()[f"{clip}.codes"]
    audio_BT = golden_codec().decode(codes_KF[None], torch.tensor([codes_KF.shape[1]]))
    assert_near(audio_BT[0], golden()[f"{clip}.rec"])


@pytest.mark.parametrize("clip", CLIPS)
def test_activations_of_encoding_equal_the_authors(clip: str) -> None:
    codec, reference = golden_codec(keep_partial=True), golden()
    encoder, down = codec.network.acoustic_encoder, codec.network.downsample
    modules = {"conv1": encoder.conv1, "conv2": encoder.conv2, "down_in_proj": down.in_proj}
    modules |= {f"enc_layer{i}": layer for i, layer in enumerate(encoder.layers)}
    modules |= {f"down_res{i}": unit for i, unit in enumerate(down.units)}
    with watched(modules) as outputs:
        tokens(clip, keep_partial=True)
    assert outputs.keys() == modules.keys()
    for name, actual in outputs.items():
        expected_TC = reference[f"{clip}.act.{name}"]
        actual_TC = actual[0] if name.startswith("enc_layer") else actual[0].T
        size = min(len(actual_TC), len(expected_TC))
        assert size >= len(expected_TC) - len(expected_TC) % 2
        assert_near(actual_TC[:size], expected_TC[:size], name=name)


@pytest.mark.parametrize("clip", CLIPS)
def test_features_and_latents_equal_the_authors(clip: str) -> None:
    network, reference = golden_codec().network, golden()
    audio_BT, latent_DF = reference[f"{clip}.audio"][None], reference[f"{clip}.lat"]
    mel_MT = network.log_mel(audio_BT)[0]
    expected_MT = reference[f"{clip}.mel"][:, : mel_MT.shape[1]]
    assert_near(mel_MT, expected_MT)
    actual_DF = network.latents(audio_BT, latent_DF.shape[1], None)[0]
    assert_near(actual_DF, latent_DF)
    quantized_BDF = network.quantizer.decode(network.quantizer.encode(actual_DF[None]))
    assert torch.equal(quantized_BDF[0], reference[f"{clip}.zq"])


@pytest.mark.parametrize("clip", ["s4", "s1p1", "n1281"])
def test_activations_of_decoding_equal_the_authors(clip: str) -> None:
    network, reference = golden_codec().network, golden()
    modules = {"upsample": network.upsample, "mel_dec": network.acoustic_decoder}
    with watched(modules) as outputs:
        network.decode(reference[f"{clip}.codes"].long()[None])
    assert outputs.keys() == modules.keys()
    for name, actual_BTC in outputs.items():
        assert_near(actual_BTC[0].T, reference[f"{clip}.{name}"], name=name)


@pytest.mark.parametrize("clip", CLIPS)
def test_tokens_are_those_of_the_authors_thirty_seconds_of_padding(clip: str) -> None:
    network, audio_T = golden_codec().network, golden()[f"{clip}.audio"]
    whole_BT = F.pad(audio_T[None], (0, 480_000 - len(audio_T)))
    frames = network.max_latents
    whole_BDF = network.latents(whole_BT, frames, torch.tensor([len(audio_T)]))
    kept = golden()[f"{clip}.lat"].shape[1]
    short_BDF = network.latents(audio_T[None], kept, None)
    assert_near(short_BDF, whole_BDF[..., :kept], tolerance=1e-5)
    quantize = network.quantizer.encode
    assert torch.equal(quantize(short_BDF), quantize(whole_BDF)[..., :kept])
